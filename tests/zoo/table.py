"""The table of the zoo: what is found, whether it is equal, what it costs, beside SpikingJelly's SynOpCounter.

``make zoo`` runs it and writes docs/zoo.md. Every network runs in a process of its own, at a size where a forward is
more than calls of Python; correctness is asked of the small one that the tests use.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import zoo
from members import Member, Size
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from test_zoo import differences
from torch import nn
from truth import truth

import snn_energy as se
from snn_energy.core.errors import SnnEnergyError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
LARGE, SAMPLES, BATCHES = Size(pixels=32, width=32, classes=10), 8, 8
COLUMNS = ("network", "repository", "found", "equal", "first call", "steady state", "SynOpCounter")
HEAD = """# The zoo: networks as public repositories build them

Small networks of our own that repeat the structure of public ones: where time lies, how neurons keep their state, what
is normalised, added and averaged where. Each is profiled as it stands and held, layer by layer and time step by time
step, to SOPs, dense MACs and spikes that a brute-force oracle counts from plain forward hooks (`tests/zoo`, two batches
of 3 and of 1 sample). The page is written by `make zoo`.

- **found**: without any declaration, or with the number of time steps alone, where nothing in the network says it.
- **equal**: every layer, product and neuron, in every time step, is what the oracle counts.
- **first call**: `profile` over two batches of {samples}, inspection included, in plain forwards of those batches.
  **steady state**: a later batch in plain forwards. Networks of {pixels}x{pixels} and {width} channels, a process each,
  one thread, `inference_mode`, medians of one run. Forwards of a few milliseconds are mostly calls of Python, and so is
  counting them.
- **SynOpCounter**: SpikingJelly's, on the same batches: its synaptic operations divided by those that read spikes,
  products included, and what a counted forward takes in plain ones.

"""


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def correctness(member: Member) -> dict[str, str]:
    """Whether the small network is found without declaration, and counted as the oracle counts it."""
    size = Size()
    model = member.at_rest(size)
    told = " and ".join(f"`{key}={value}`" for key, value in member.told.items())
    try:
        counts = se.profile(model, member.batches(size), **member.told)
    except SnnEnergyError as error:
        return {"found": "refused", "says": str(error)}
    rows = counts.to_frame().query("op in ('conv', 'linear', 'matmul') and input_kind != 'real'")
    wrong = differences(member, counts, truth(member, model, size))
    return {
        "found": f"yes, {told}" if told else "yes",
        "equal": "no" if wrong else "yes",
        "says": "; ".join(wrong)[:200],
        "SynOpCounter": counter_of_spikingjelly(member, model, size, int(rows["sops"].sum())),
    }


def counter_of_spikingjelly(member: Member, model: nn.Module, size: Size, sops: int) -> str:
    """What SpikingJelly's counter finds of the SOPs in the same batches."""
    counter = SynOpCounter()
    try:
        for x, _ in member.batches(size):
            twin = member.like(model, size)
            with torch.no_grad(), DispatchCounterMode([counter]):
                member.run(twin, x)
    except Exception as error:  # noqa: BLE001 whatever it raises, it does not run
        return f"raises {type(error).__name__}"
    total = int(counter.get_total())
    return "equal" if total == sops else f"{total / sops:.2f}"


def cost(member: Member) -> dict[str, str]:
    """Ratios to plain forwards in one run: a first profile of two batches, later batches, SpikingJelly's counter."""
    model = member.at_rest(LARGE)
    twin = member.like(model, LARGE)
    ((x, labels),) = member.batches(LARGE, (SAMPLES,))

    def plain() -> float:
        given = x.clone()
        with torch.inference_mode():
            return seconds(lambda: member.run(twin, given))

    def fresh() -> Iterator[tuple[Any, Any]]:
        for _ in range(2):
            yield x.clone(), labels

    plain()
    around = [plain() for _ in range(5)]
    first = seconds(lambda: se.profile(model, fresh(), **member.told))
    around += [plain() for _ in range(5)]
    plains: list[float] = []
    profiled: list[float] = []

    def loader() -> Iterator[tuple[Any, Any]]:
        for _ in range(BATCHES):
            plains.append(plain())
            given = x.clone(), labels
            start = time.perf_counter()
            yield given
            profiled.append(time.perf_counter() - start)

    se.profile(model, loader(), **member.told)
    found = {
        "first call": f"{first / (2 * statistics.median(around)):.1f}",
        "steady state": f"{statistics.median(profiled[2:]) / statistics.median(plains[2:]):.2f}",
    }
    with contextlib.suppress(Exception):
        counted = [seconds(lambda: _counted(member, twin, x.clone())) for _ in range(4)]
        found["SynOpCounter time"] = f"{statistics.median(counted[1:]) / statistics.median(plains):.1f}"
    return found


def _counted(member: Member, model: nn.Module, x: Any) -> None:
    with torch.no_grad(), DispatchCounterMode([SynOpCounter()]):
        member.run(model, x)


def row_of(name: str) -> dict[str, str]:
    """A row of the table, as one process measures it. The first call comes first: this network is new to it."""
    (member,) = (member for member in zoo.members() if member.name == name)
    times: dict[str, str] = {}
    with contextlib.suppress(SnnEnergyError):
        times = cost(member)
    return {"network": member.name, "repository": member.repository} | times | correctness(member)


def row_of_tests(member: Member, measured: dict[str, str]) -> dict[str, str]:
    """A row whose answers are those that the tests hold the network to, with what was measured before."""
    told = " and ".join(f"`{key}={value}`" for key, value in member.told.items())
    row = {"network": member.name, "repository": member.repository, **measured}
    if member.name in zoo.REFUSED:
        return row | {"found": "refused", "says": zoo.REFUSED[member.name]}
    equal = "no" if member.name in zoo.WRONG else "yes"
    return row | {"found": f"yes, {told}" if told else "yes", "equal": equal, "says": zoo.WRONG.get(member.name, "")}


def measured_on(page: Path) -> dict[str, dict[str, str]]:
    """The measured columns of every network on a page that was written before."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: dict(zip(COLUMNS[4:], row[4:], strict=True)) for row in rows[2:]}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The page: the table, what each network shows, what is refused and with which message."""
    lines = [HEAD.format(samples=SAMPLES, pixels=LARGE.pixels, width=LARGE.width)]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| --- | --- | --- | --- | ---: | ---: | --- |"]
    for row in rows:
        cells = {key: row.get(key, "") for key in COLUMNS}
        if row.get("SynOpCounter time") and cells["SynOpCounter"]:
            cells["SynOpCounter"] += f" ({row['SynOpCounter time']} x)"
        lines.append("| " + " | ".join(cells.values()) + " |")
    for column in ("first call", "steady state"):
        ratios = [float(row[column]) for row in rows if row.get(column)]
        if ratios:
            lines += ["", f"Median {column}: {statistics.median(ratios):.2f} plain forwards, {len(ratios)} networks."]
    lines += ["", "## What each network shows", ""]
    lines += [f"- **{member.name}** ({member.repository}): {member.pattern}" for member in zoo.members()]
    refused = [row for row in rows if row["found"] == "refused" or row.get("equal") == "no"]
    if refused:
        lines += ["", "## What is refused, or wrong, and what is said", ""]
        lines += [f"- **{row['network']}**: {row['says']}" for row in refused]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("members", nargs="*", help="networks to measure; all by default")
    parser.add_argument(
        "--keep-times", action="store_true", help="measure nothing: answers of the tests, times of the page"
    )
    parser.add_argument("-o", "--output", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    names = [member.name for member in zoo.members() if not given.members or member.name in given.members]
    se.profile(nn.Linear(2, 2), [torch.ones(1, 2)], time_steps=1)  # what is imported late is no part of a first call
    if given.keep_times:
        kept = measured_on(given.output)
        rows = [row_of_tests(member, kept.get(member.name, {})) for member in zoo.members()]
        given.output.write_text(markdown(rows), encoding="utf-8")
        return
    rows = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as processes:
        for row in processes.imap(row_of, names):
            print(" | ".join(row.get(key, "") for key in (*COLUMNS, "SynOpCounter time")), file=sys.stderr)
            rows.append(row)
    given.output.write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
