"""Parts: the counts of some consecutive samples, kept as a run goes on and merged into what one pass counts.

A part says for itself what was counted: the operations, the values that every operand took, and the per-sample counts
in the units of those values. Merging joins the values of all parts, brings sums of \\|k\\| to the common unit, decides
the kinds, and only then makes rows. So it does not matter how samples were dealt out: to batches, to parts, to
processes, to a run that was killed and the one that went on.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import CountsError, OutputError, ProfilingError
from snn_energy.core.files import locked, make_folder, write_whole
from snn_energy.core.groups import layer_group
from snn_energy.core.kinds import KINDS, ZERO, Values, join, of_loader
from snn_energy.counts.columns import COLUMNS, INTEGRATES, PER_SAMPLE, make_rows, smallest
from snn_energy.counts.counts import Counts
from snn_energy.counts.sample_store import SampleRows
from snn_energy.profiler.timesteps import Node, Steps, needed_steps

if TYPE_CHECKING:
    from snn_energy.running.processes import Processes

FORMAT = 1
PART_BYTES = 8 * 2**20  # of counts in memory; then a part is closed
SAVE_EVERY_S = 20.0
_NAME = re.compile(r"\.?(\d{9,})-(\d{9,})\.npz")
Side = tuple[str, str]  # layer; left, right or emitted
Run = tuple[int, int]  # first sample, first sample behind the last
Work = npt.NDArray[np.integer[Any]]


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has kept what it had counted; ``str`` says how to go on, ``code`` how to exit."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Operation:
    """What all samples have in common for one operation: its place, its sizes, and what was counted of it.

    steps: time step of each of its rows. streamed, other: elements of its operands per sample and step, None without.
    counted: names of its per-sample counts. inputs: places of the operations that it reads.
    """

    layer: str
    steps: tuple[int, ...]
    timed: bool
    op: str
    inputs: tuple[int, ...]
    active: tuple[bool, ...]
    counted: tuple[str, ...]
    constant: bool
    note: str
    feeds_neuron: bool
    integrates_only: bool
    streamed: int | None
    other: int | None
    elementwise_ops: int
    dense_macs: int
    neurons: int
    output_elements: int
    weights: int
    biases: int
    reduction: int
    out_channels: int
    positions: int
    groups: int

    @property
    def must_agree(self) -> tuple[Any, ...]:
        """What may not differ between two passes of one network."""
        sizes = self.dense_macs, self.neurons, self.output_elements, self.weights
        return self.layer, self.steps, self.inputs, self.active, self.counted, sizes


@dataclass(frozen=True)
class Part:
    """Counts of the samples ``start`` to ``start + samples``.

    rules: time, time_steps, max_k, input_kind. header: entries of the counts' header. correct: rightly classified
    samples, None where not known. outputs: places of the operations that the network returns. values: of every
    operand, in this part alone; loader: the operands that are the loader's own tensor. worked: one flag per row (of
    the operations in order), whether some sample gave it something to work on. troubles: layer -> why its work is not
    known. arrays: name -> (rows, samples), the rows of the operations that count it.
    """

    start: int
    samples: int
    rules: Mapping[str, Any]
    header: Mapping[str, Any]
    correct: int | None
    operations: tuple[Operation, ...]
    outputs: frozenset[int]
    values: Mapping[Side, Values]
    loader: frozenset[Side]
    worked: tuple[bool, ...]
    troubles: Mapping[str, str]
    arrays: Mapping[str, Work]

    @property
    def stop(self) -> int:
        """The first sample behind it."""
        return self.start + self.samples


def parts_path(output: str | Path) -> Path:
    """The folder of the parts of a counts file: ``dtss.json.parts``."""
    path = Path(output)
    return path.with_name(path.name + ".parts")


def part_path(folder: Path, part: Part) -> Path:
    """Where a part lies: named by its samples, so that names sort as samples do."""
    return folder / f"{part.start:09d}-{part.stop:09d}.npz"


def write_part(folder: Path, part: Part, run: Mapping[str, Any]) -> Path:
    """Write a part whole or not at all; ``run`` says of what. Raises OutputError."""
    told = {
        "format": FORMAT,
        "run": dict(run),
        **{name: getattr(part, name) for name in ("start", "samples", "correct", "worked")},
        "rules": dict(part.rules),
        "header": dict(part.header),
        "troubles": dict(part.troubles),
        "outputs": sorted(part.outputs),
        "values": [[*key, v.unit, sorted(v.levels), v.reason, v.exact] for key, v in sorted(part.values.items())],
        "loader": sorted(part.loader),
    }
    texts = {"told": json.dumps(told), "operations": json.dumps([asdict(item) for item in part.operations])}
    members = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **members, **{name: smallest(a) for name, a in part.arrays.items()})  # type: ignore[arg-type]

    path = part_path(folder, part)
    write_whole(path, write)
    return path


def read_part(path: Path, run: Mapping[str, Any] | None = None) -> Part:
    """Read a part. Raises CountsError for a damaged one, and for one of another run where ``run`` is given."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
        told = json.loads(members.pop("told").tobytes())
        if run is not None and told["format"] == FORMAT:
            _require_same_run(path, told["run"], run)
        part = _as_part(told, json.loads(members.pop("operations").tobytes()), members)
        rows = {name: sum(len(o.steps) for o in part.operations if name in o.counted) for name in members}
        if any(a.shape != (rows[n], part.samples) or a.dtype.kind != "u" for n, a in members.items()):
            raise ValueError("counts of another shape")
        if part_path(path.parent, part) != path:
            raise ValueError("it was renamed")
    except CountsError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as bad:
        raise CountsError(
            f"{path}: a damaged part of a run ({bad}); delete it and run the same command again: only its samples are "
            "counted anew"
        ) from None
    return part


def _as_part(told: Mapping[str, Any], operations: Sequence[Mapping[str, Any]], arrays: Mapping[str, Work]) -> Part:
    if told["format"] != FORMAT:
        raise ValueError(f"format {told['format']!r}")
    lists = ("steps", "inputs", "active", "counted")
    return Part(
        start=told["start"],
        samples=told["samples"],
        rules=told["rules"],
        header=told["header"],
        correct=told["correct"],
        operations=tuple(Operation(**{**o, **{name: tuple(o[name]) for name in lists}}) for o in operations),
        outputs=frozenset(told["outputs"]),
        values={(a, b): Values(unit, frozenset(k), reason, exact) for a, b, unit, k, reason, exact in told["values"]},
        loader=frozenset((layer, side) for layer, side in told["loader"]),
        worked=tuple(told["worked"]),
        troubles=told["troubles"],
        arrays=arrays,
    )


def _require_same_run(path: Path, found: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    odd = [key for key in sorted({*found, *run}) if found.get(key) != run.get(key)]
    if odd:
        raise CountsError(
            f"{path.parent}: holds parts of another run (another {', '.join(odd)}); finish that run with its own "
            "command, or delete the folder"
        )


def remove_parts(folder: str | Path) -> None:
    """Delete the parts of a run that is done, and what a killed one left half-written; other files stay."""
    for path in _part_files(Path(folder), half_written=True):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def _part_files(folder: Path, *, half_written: bool = False) -> list[Path]:
    """The parts in a folder, in the order of their samples."""
    try:
        found = sorted(path for path in folder.iterdir() if _NAME.match(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read as the folder of a run's parts ({error.strerror})") from error
    return [path for path in found if half_written or (_NAME.fullmatch(path.name) and path.name[0] != ".")]


@dataclass
class Parts:
    """Where a run keeps its parts: the first and only one in memory, more of them in files.

    folder: None: a temporary one, made when it is needed. run: what is counted, so that no parts of two runs are ever
    merged. todo: (first, behind last) of the batches that this process is to count, in the loader's order; None: the
    loader tells. total: samples of the whole run. counted: samples that earlier runs have counted. group: the
    processes that share the run. signal: the one that asked to stop, 0 if none did.
    """

    folder: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    todo: Sequence[Run] | None = None
    total: int | None = None
    counted: int = 0
    group: Processes | None = None
    save_every_s: float = float("inf")
    signal: int = 0
    _kept: list[Part] = field(default_factory=list)
    _temporary: tempfile.TemporaryDirectory[str] | None = None

    def keep(self, part: Part, *, is_last: bool) -> None:
        """Put a part away. Raises OutputError."""
        if is_last and not self._is_shared and not self.files():
            self._kept.append(part)
            return
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="snn-energy-")
            self.folder = Path(self._temporary.name)
        write_part(make_folder(self.folder), part, self.run)

    @property
    def _is_shared(self) -> bool:
        return self.group is not None and self.group.size > 1

    def finish(self, merge: Callable[[], Counts]) -> Counts:
        """The counts of the run when all processes are done: the first one merges, the others are told the rows."""
        if self.group is None or self.group.size == 1:
            return merge()
        self.group.wait()
        whole = merge() if self.group.is_first else None
        header, rows = self.group.told(None if whole is None else (whole.header, whole.rows))
        return Counts(header, rows) if whole is None else whole

    def files(self) -> list[Path]:
        """The parts that are files."""
        return [] if self.folder is None else _part_files(self.folder)

    def __iter__(self) -> Iterator[Part]:
        """All parts in the order of their samples, one at a time in memory. Raises CountsError."""
        if self._kept:
            yield from self._kept
            return
        for path in self.files():
            yield read_part(path, self.run)

    def place_of(self, batches: int, samples: int) -> int:
        """The first sample behind so many batches of this process, which hold so many samples."""
        return samples if self.todo is None else self.todo[batches - 1][1]

    def ends_run(self, batches: int) -> bool:
        """Whether the next batch of this process begins elsewhere than where so many batches end."""
        if self.todo is None or batches >= len(self.todo):
            return False
        return self.todo[batches][0] != self.todo[batches - 1][1]

    def interrupted(self, number: int) -> Interrupted:
        """What to raise when signal ``number`` asked to stop and all that was counted is kept."""
        done = sum(stop - start for start, stop in covered(self.files()))
        of = "" if self.total is None else f" of {self.total}"
        message = f"{done}{of} samples are counted and kept in {self.folder}; the same command goes on from there"
        return Interrupted(message, 128 + number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the run behind the batch that is under way; a second Ctrl-C at once."""
        if self.todo is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: FrameType | None) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Delete a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()


@contextmanager
def open_parts(
    folder: str | Path,
    run: Mapping[str, Any],
    total: int,
    batch_size: int,
    group: Processes | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Iterator[Parts]:
    """The parts of one run in a folder: what earlier calls have counted, and the batches left for this process.

    The folder is made, and locked while it is in use. Raises OutputError, and CountsError for parts of another run
    and damaged ones.
    """
    place, is_first = Path(folder), group is None or group.is_first
    run = json.loads(json.dumps(dict(run)))
    with contextlib.ExitStack() as stack:
        found: list[Run] = []
        if is_first:
            stack.enter_context(locked(make_folder(place)))
            paths = _part_files(place)
            found = covered(paths)
            for path in paths:
                read_part(path, run)
        if group is not None:
            found = group.told(found)
        rank, size = (0, 1) if group is None else (group.rank, group.size)
        todo = share(missing(found, total, batch_size), rank, size)
        done = sum(stop - start for start, stop in found)
        try:
            yield Parts(place, run, todo, total, done, group, save_every_s)
        finally:
            if is_first:
                with contextlib.suppress(OSError):
                    place.rmdir()  # where nothing was kept


def covered(paths: Sequence[Path]) -> list[Run]:
    """The samples of part files, in order, by their names. Raises CountsError where two parts overlap."""
    runs = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is not None:
            runs.append((int(match[1]), int(match[2])))
    for path, (_, stop), (start, _) in zip(paths, runs, runs[1:], strict=False):
        if start < stop:
            raise CountsError(f"{path.parent}: two parts hold sample {start}; two runs wrote there: delete the folder")
    return runs


def missing(found: Sequence[Run], total: int, batch_size: int) -> list[Run]:
    """The batches of ``total`` samples that ``found`` leaves out: cut where batches from sample 0 on are cut."""
    batches, at = [], 0
    for start, stop in [*found, (total, total)]:
        while at < start:
            end = min(start, at - at % batch_size + batch_size)
            batches.append((at, end))
            at = end
        at = max(at, stop)
    return batches


def share(batches: Sequence[Run], rank: int, size: int) -> list[Run]:
    """One process's part of the batches: consecutive ones, as many as the others have, or one more or less."""
    return list(batches[len(batches) * rank // size : len(batches) * (rank + 1) // size])


@dataclass(frozen=True)
class Merged:
    """What all parts say together, but for the per-sample counts.

    first: the first part without counts: it fixes the rows. factors: per part, by how much its sums of \\|k\\| of an
    operand count. active: per operation, one flag per row.
    """

    first: Part
    samples: int
    correct: int | None
    values: Mapping[Side, Values]
    factors: Sequence[Mapping[Side, int]]
    active: Sequence[Steps]
    troubles: Mapping[str, str]


def joined(sets: Sequence[Values], max_k: int) -> tuple[Values, list[int]]:
    """The least upper bound of several sets of values, and by how many of its units a unit of each counts."""
    whole, factors = ZERO, [1] * 0
    for values in sets:
        whole, old, new = join(whole, values, max(max_k, whole.max_k or 0, values.max_k or 0))
        factors = [factor * old for factor in factors] + [new]
    return whole, factors


def merge(parts: Iterator[Part], total: int | None = None) -> Merged:
    """Join all parts, in the order of their samples; of ``total`` samples where that is known.

    Raises ProfilingError for no samples and for a network that changes between them, CountsError for missing parts.
    """
    told = [replace(part, arrays={}) for part in _one_structure(parts)]
    if not told:
        raise ProfilingError("the loader gave no samples; nothing was counted")
    first, samples = told[0], 0
    for start, stop in [*((part.start, part.stop) for part in told), *([] if total is None else [(total, total)])]:
        if start != samples:
            raise CountsError(f"samples {samples} to {start - 1} are not counted yet; run the same command again")
        samples = stop
    sides = dict.fromkeys(key for part in told for key in part.values)
    values, factors = {}, [dict[Side, int]() for _ in told]
    for key in sides:
        whole, scale = joined([part.values.get(key, ZERO) for part in told], first.rules["max_k"])
        if any(key in part.loader for part in told):
            whole = of_loader(whole, first.rules["input_kind"], key[0])
        values[key] = whole
        for mine, factor in zip(factors, scale, strict=True):
            mine[key] = factor
    worked = np.logical_or.reduce([np.array(part.worked, dtype=np.bool_) for part in told])
    active, at = [], 0
    for item in first.operations:
        flags = np.array(item.active, dtype=np.bool_)
        active.append(flags if item.op == "neuron" else flags | worked[at : at + len(flags)])
        at += len(flags)
    correct = [part.correct for part in told if part.correct is not None]
    troubles = {layer: why for part in reversed(told) for layer, why in part.troubles.items()}
    is_scored = len(correct) == len(told)
    return Merged(first, samples, sum(correct) if is_scored else None, values, factors, active, troubles)


def _one_structure(parts: Iterator[Part]) -> Iterator[Part]:
    """The parts, the operations of all being those of the first. Raises ProfilingError where the network changes."""
    first: Part | None = None
    for part in parts:
        first = part if first is None else first
        if part.operations != first.operations:
            pairs = list(zip(part.operations, first.operations, strict=False))
            changed = [a.layer for a, b in pairs if a.must_agree != b.must_agree]
            if changed or len(part.operations) != len(first.operations) or part.outputs != first.outputs:
                at = ", ".join(changed[:3]) or "its last operations"
                raise ProfilingError(f"the network changes between batches (at {at}); profile it in parts")
        odd = [key for key in first.rules if part.rules.get(key) != first.rules[key]]
        if odd:
            raise ProfilingError(f"{', '.join(odd)} cannot be told alike for all samples; declare it")
        yield replace(part, operations=first.operations)


def counts_of(parts: Parts, header: Mapping[str, Any]) -> tuple[Counts, Mapping[str, str]]:
    """The counts of all parts together, and layer -> why its work is not known. header: its last entries.

    The parts are gone through twice, one in memory at a time. Per-sample counts too large for memory go to a file
    that has no name and is gone with the counts. Raises ProfilingError, CountsError.
    """
    whole = merge(iter(parts), parts.total)
    operations = whole.first.operations
    order = {name: i for i, name in enumerate(dict.fromkeys(item.layer for item in operations))}
    places = sorted(range(len(operations)), key=lambda i: (order[operations[i].layer], operations[i].steps[0]))
    offsets = np.cumsum([0, *(len(operations[i].steps) for i in places)]).tolist()
    totals = {name: np.zeros(offsets[-1], dtype=np.int64) for name in PER_SAMPLE}
    facts = {i: _facts_of_operands(operations[i], whole.values) for i in places}
    with SampleRows(offsets[-1], whole.samples, parts.folder) as rows:
        for part, factors in zip(_one_structure(iter(parts)), whole.factors, strict=True):
            found = _by_operation(part)
            for i, at in zip(places, offsets, strict=False):
                work = _work(operations[i], found[i], facts[i], factors)
                for name, values in work.items():
                    kept = values * whole.active[i][:, None]
                    totals[name][at : at + len(kept)] += kept.sum(1)
                    rows.put(name, at, part.start, kept)
        per_sample = rows.arrays()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    needed = _needed(whole)
    for i, at in zip(places, offsets, strict=False):
        item = operations[i]
        sums = {name: values[at : at + len(item.steps)].tolist() for name, values in totals.items()}
        row = _row(item, facts[i], sums, whole, whole.active[i].tolist())
        row |= {"needed": needed[i].tolist(), "order": order[item.layer]}
        for name, column in columns.items():
            value = row[name]
            column.extend(value if isinstance(value, list) else [value] * len(item.steps))
    accuracy = None if whole.correct is None else whole.correct / whole.samples
    full = {"samples": whole.samples, "time_steps": whole.first.rules["time_steps"], "accuracy": accuracy}
    return Counts({**full, **whole.first.header, **header}, make_rows(columns), per_sample), whole.troubles


def _by_operation(part: Part) -> list[dict[str, Work]]:
    """Per operation, name -> (rows, samples)."""
    at = dict.fromkeys(part.arrays, 0)
    found = []
    for item in part.operations:
        found.append({name: part.arrays[name][at[name] : at[name] + len(item.steps)] for name in item.counted})
        for name in item.counted:
            at[name] += len(item.steps)
    return found


def _facts_of_operands(item: Operation, values: Mapping[Side, Values]) -> dict[str, Any]:
    """Which operand is streamed (the lower kind, the left one on a tie), and what follows from it."""
    facts: dict[str, Any] = dict.fromkeys(
        ("input_kind", "max_k", "input_elements", "other_kind", "other_max_k", "other_elements", "side")
    )
    if item.streamed is None:
        return facts
    sides = {"left": item.streamed} if item.other is None else {"left": item.streamed, "right": item.other}
    of = {side: values[item.layer, side] for side in sides}
    side, *rest = sorted(sides, key=lambda name: KINDS.index(of[name].kind))
    facts |= {"side": side, "input_kind": of[side].kind, "max_k": of[side].max_k, "input_elements": sides[side]}
    for other in rest:
        facts |= {"other_kind": of[other].kind, "other_max_k": of[other].max_k, "other_elements": sides[other]}
    return facts


def _work(
    item: Operation, found: Mapping[str, Work], facts: Mapping[str, Any], factors: Mapping[Side, int]
) -> dict[str, npt.NDArray[np.int64]]:
    """Per-sample work (rows, samples) of one operation in one part, steps that are not active included."""
    work = {name: values.astype(np.int64) for name, values in found.items()}
    made: dict[str, npt.NDArray[np.int64]] = {name: values for name, values in work.items() if name in PER_SAMPLE}
    side = facts["side"]
    if side is None:
        return made
    made |= {"input_nonzeros": work[f"nonzeros_{side}"], "sops_gated": work["sops"]}
    if facts["input_kind"] != "real":
        made["sops_multi"] = work[f"multi_{side}"] * factors.get((item.layer, side), 1)
    if item.other is not None:
        width = item.out_channels // max(1, item.groups) if side == "left" else item.positions
        made["sops_gated"] = work[f"nonzeros_{side}"] * width
        made["other_nonzeros"] = work[f"nonzeros_{'right' if side == 'left' else 'left'}"]
    return made


def _needed(whole: Merged) -> list[Steps]:
    """Which rows of every operation some active and needed consumer reads."""
    nodes = [
        Node(item.layer, item.op == "neuron", None if item.timed else item.steps[0], active, frozenset(item.inputs))
        for item, active in zip(whole.first.operations, whole.active, strict=True)
    ]
    return needed_steps(nodes, whole.first.outputs, whole.first.rules["time_steps"])


def _row(
    item: Operation, facts: Mapping[str, Any], total: Mapping[str, list[int]], whole: Merged, active: list[bool]
) -> dict[str, Any]:
    """The columns of one operation, a list where they differ by row."""
    note, is_real = item.note, facts["input_kind"] == "real"
    if is_real:
        reason = whole.values[item.layer, "left"].reason
        note = reason if reason and reason != "real" else note
    if item.integrates_only:
        note = INTEGRATES
    elif (item.layer, "emitted") in whole.values and item.op == "neuron":
        emitted = whole.values[item.layer, "emitted"]
        note = "" if emitted.kind == "binary" else emits(emitted)
    known = item.op != "unsupported"

    def work_of(per_sample: int) -> list[int]:
        return [per_sample * whole.samples * on for on in active]

    return {
        **{name: facts[name] for name in facts if name != "side"},
        "layer": item.layer, "group": layer_group(item.layer), "op": item.op, "time_step": list(item.steps),
        "active": active,
        "input_repeated": [item.constant and step >= 1 for step in item.steps],
        "input_nonzeros": None if item.streamed is None else total["input_nonzeros"],
        "other_nonzeros": None if item.other is None else total["other_nonzeros"],
        "dense_macs": work_of(item.dense_macs) if known else None,
        "sops": total["sops"] if known else None,
        "sops_gated": total["sops_gated"] if known else None,
        "sops_multi": total["sops_multi"] if known and not is_real else None,
        "elementwise_ops": work_of(item.elementwise_ops) if known else None,
        "output_elements": item.output_elements, "weights": item.weights, "biases": item.biases,
        "neurons": item.neurons, "spikes": total["spikes"],
        "membrane_reads": work_of(item.neurons), "membrane_writes": work_of(item.neurons),
        "reduction": item.reduction, "out_channels": item.out_channels, "positions": item.positions,
        "groups": item.groups, "feeds_neuron": item.feeds_neuron, "note": note,
    }  # fmt: skip


def emits(values: Values) -> str:
    """Note of a neuron that gives something else than 0 and one constant."""
    if values.kind == "integer":
        return f"emits up to {values.max_k} spikes per step; spikes counts the neurons that fired"
    also = " (or more spikes per step than max_k)" if values.kind == "real" else ""
    return f"emits {values.kind} values{also}; spikes counts those that are not zero"
