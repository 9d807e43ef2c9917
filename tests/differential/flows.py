"""Networks whose control flow depends on the data and changes between batches: counted right, or refused.

A layer is skipped, called again, or swapped with another; the order changes; steps are left out; silent input is not
worked on. What every layer read, in which step and for the how-manyeth time in it, is recorded in a plain run.
"""

from __future__ import annotations

import functools
import random
import traceback
import warnings
from collections import Counter
from typing import Any

import layers
import numpy as np
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError

Description = dict[str, Any]
STYLES = ("plain", "plain", "axis0", "axis0", "loop", "loop-axis0", "call", "call-axis0")
KINDS = ("skip", "order", "again", "either", "neuron", "activation", "quiet", "add", "plain")
WIDTH = 6


def describe(seed: int) -> Description:
    """A network of segments, from a seed."""
    rng = random.Random(f"flow {seed}")
    segments: list[dict[str, Any]] = []
    for _ in range(rng.randint(2, 5)):
        kind = rng.choice(KINDS)
        by = rng.choice(("first", "first", "sum", "size", "large"))
        segments.append({"kind": kind, "by": by, "here": rng.random() < 0.3, "seed": rng.randrange(10**6)})
    if not any(one["kind"] in ("skip", "order", "again", "either", "quiet") for one in segments):
        segments.append({"kind": "skip", "by": "first", "here": False, "seed": rng.randrange(10**6)})
    style = rng.choice(STYLES)
    return {
        "seed": seed, "style": style, "segments": segments,
        "time_steps": 1 if style == "plain" else rng.choice((2, 3, 4)),
        "fewer_steps": style.startswith("loop") and rng.random() < 0.25,
        "batches": rng.choice(([2, 2, 2, 2], [3, 3, 3], [2, 2, 1], [1, 1, 1, 1, 1], [4, 4])),
        "same_data": rng.random() < 0.2, "input": rng.choice(("binary", "real")), "rounds": rng.choice((1, 1, 2)),
    }  # fmt: skip


class Record:
    """What was called: (step, layer, how-manyeth call in that step, what it read or fired); None while profiling."""

    __slots__ = ("calls", "choices", "counts", "step")

    def __init__(self) -> None:
        self.calls: list[tuple[int | None, str, int, Tensor]] | None = None
        self.choices: list[int] = []
        self.counts: Counter[str] = Counter()
        self.step: int | None = None

    def begin(self, step: int | None) -> None:
        self.step = step
        self.counts.clear()

    def add(self, name: str, x: Tensor) -> None:
        if self.calls is not None:
            self.calls.append((self.step, name, self.counts[name], x.clone()))
            self.counts[name] += 1


class Plan:
    """What a network is built from, and what is recorded of it: no state of it."""

    __slots__ = ("made", "record")

    def __init__(self, made: Description) -> None:
        self.made, self.record = made, Record()


class Flowing(nn.Module):
    """Runs the segments of a description; which layers are called depends on the data."""

    def __init__(self, made: Description) -> None:
        super().__init__()
        self.plan = Plan(made)
        for i, segment in enumerate(made["segments"]):
            for part in ("a", "b"):
                node = {
                    "op": "linear",
                    "out": [WIDTH],
                    "bias": segment["seed"] % 2 == 0,
                    "seed": segment["seed"] + ord(part),
                }
                self.add_module(f"{part}{i}", layers.layer(node, [WIDTH], "few bits"))
            if segment["kind"] == "neuron":
                self.add_module(f"n{i}", self._neuron(segment))

    def _neuron(self, segment: dict[str, Any]) -> nn.Module:
        node = {"leak": 0.5, "v_th": 1.0, "reset": "soft", "rule": "paper", "decay_input": False}
        style = self.plan.made["style"]
        return layers.neuron(node, "own" if style in ("plain", "axis0") else "sj-s", self.plan.made["time_steps"])

    def forward(self, x: Tensor) -> Any:
        made = self.plan.made
        if not made["style"].startswith("loop"):
            return self._run(x, None)
        for module in self.modules():
            if module is not self and callable(getattr(module, "reset", None)):
                module.reset()
        outs, steps = [], made["time_steps"]
        if made["fewer_steps"] and choice("first", x, 2):
            steps -= 1
        for t in range(steps):
            outs.append(self._run(x if made["style"] == "loop" else x[t], t))
        return torch.stack(outs).mean(0)

    def _run(self, x: Tensor, step: int | None) -> Tensor:
        if step is not None:
            self.plan.record.begin(step)
        h = x
        for _ in range(self.plan.made["rounds"]):
            for i, segment in enumerate(self.plan.made["segments"]):
                h = self._segment(i, segment, x, h)
        return h

    def _layer(self, name: str, h: Tensor) -> Tensor:
        self.plan.record.add(name, h)
        out: Tensor = getattr(self, name)(h)
        return out

    def _decide(self, by: str, x: Tensor, most: int) -> int:
        taken = choice(by, x, most)
        self.plan.record.choices.append(taken)
        return taken

    def _segment(self, i: int, segment: dict[str, Any], x: Tensor, h: Tensor) -> Tensor:
        a, b = f"a{i}", f"b{i}"
        decide = functools.partial(self._decide, segment["by"], h if segment["here"] else x)
        kind = segment["kind"]
        if kind == "plain":
            return self._layer(a, h)
        if kind == "skip":
            return self._layer(a, h) if decide(2) else h
        if kind == "order":
            first, second = (a, b) if decide(2) else (b, a)
            return self._layer(second, self._layer(first, h))
        if kind == "again":
            for _ in range(1 + decide(3)):
                h = self._layer(a, h)
            return h
        if kind == "either":
            return self._layer(a if decide(2) else b, h)
        if kind == "quiet":
            return self._layer(a, h) if bool((h > 1).any()) else h
        if kind == "activation":
            return h.relu() if decide(2) else h.sigmoid()
        if kind == "add":
            return h + x if decide(2) else h
        spikes: Tensor = getattr(self, f"n{i}")(h if self.plan.made["style"] != "plain" else h.unsqueeze(0))
        spikes = spikes if self.plan.made["style"] != "plain" else spikes.squeeze(0)
        self.plan.record.add(f"n{i}", spikes)
        return spikes


def choice(by: str, x: Tensor, most: int) -> int:
    """One of ``most`` ways, decided by the data."""
    x = x.detach()
    if by == "first":
        return int(x.flatten()[0].abs() * 4) % most
    if by == "sum":
        return int(x.abs().sum() * 4) % most
    if by == "size":
        return x.numel() // WIDTH % most
    return min(most - 1, int(x.max() > 1))


# --- data, record, comparison -------------------------------------------------------------------------------------


def batches_of(made: Description) -> list[Tensor]:
    """The loader's batches."""
    rng, found = random.Random(f"flow data {made['seed']}"), []
    for size in made["batches"]:
        shape = [made["time_steps"], size, WIDTH] if made["style"].endswith("axis0") else [size, WIDTH]
        count = int(torch.Size(shape).numel())
        real = [rng.randint(-8, 16) / 8 for _ in range(count)]
        binary = [float(rng.random() < 0.4) for _ in range(count)]
        x = torch.tensor(binary if made["input"] == "binary" else real).reshape(shape)
        if made["input"] == "real" or rng.random() < 0.5:
            x.view(-1)[0] = rng.randint(0, 3) / 4 if made["input"] == "real" else float(rng.random() < 0.5)
        found.append(x)
    return [found[0]] * len(found) if made["same_data"] and len(set(made["batches"])) == 1 else found


Key = tuple[str, str, int]


def recorded(made: Description, batches: list[Tensor]) -> tuple[dict[Key, dict[str, int]], list[list[Any]]]:
    """Totals per row from plain runs, and what was called in every batch."""
    model, totals, called = Flowing(made), {}, []
    model.eval()
    steps = made["time_steps"]
    for x in batches:
        record = model.plan.record
        record.calls, record.choices = [], []
        record.begin(0)
        for module in model.modules():
            if module is not model and callable(getattr(module, "reset", None)):
                module.reset()  # type: ignore[operator]
        with torch.no_grad():
            if made["style"].startswith("call"):
                for t in range(steps):
                    record.begin(t)
                    model(x if made["style"] == "call" else x[t])
            else:
                model(x)
        called.append([*record.choices, *((step, name, number) for step, name, number, _ in record.calls)])
        for step, name, number, value in record.calls:
            parts = enumerate(value) if made["style"] == "axis0" else [(step or 0, value)]
            for t, part in parts:
                label = f"{name}#call{number}" if number else name
                add(totals, label, name, t, part)
    return totals, called


def add(totals: dict[Key, dict[str, int]], label: str, name: str, step: int, value: Tensor) -> None:
    """One layer's work, or one neuron's spikes, of one step."""
    nonzeros = int(np.count_nonzero(value.numpy()))
    if name.startswith("n"):
        row = totals.setdefault((label, "neuron", step), {"spikes": 0})
        row["spikes"] += nonzeros
        return
    row = totals.setdefault((label, "linear", step), {"sops": 0, "dense_macs": 0, "input_nonzeros": 0})
    row["sops"] += nonzeros * WIDTH
    row["dense_macs"] += value.numel() * WIDTH
    row["input_nonzeros"] += nonzeros


def faults(seed: int, made: Description | None = None) -> tuple[str, list[str]]:
    """How it went (counted, refused; and whether the flow did change), and what is wrong."""
    made = made or describe(seed)
    batches = batches_of(made)
    totals, called = recorded(made, batches)
    flow = "changing" if any(one != called[0] for one in called) else "constant"
    time = None if made["style"] == "plain" else made["style"].replace("loop-axis0", "axis0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts = se.profile(Flowing(made), batches, time_steps=made["time_steps"], time=time, max_k=12)
    except ProfilingError as error:
        wrong = [] if "\n" not in str(error) and str(error) else [f"refusal in several lines: {error}"]
        return f"{flow}, refused", wrong
    except Exception as error:  # noqa: BLE001 - whatever it raises is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{flow}, raised", [f"{type(error).__name__} in {place.name}: {error}"]
    return f"{flow}, counted", differences(counts, totals)


def differences(counts: se.Counts, totals: dict[Key, dict[str, int]]) -> list[str]:
    """One line per figure that is not as it must be."""
    found = []
    rows = counts.rows[counts.rows["op"].isin(("linear", "neuron"))]
    seen = {}
    for _, row in rows.iterrows():
        key = (row["layer"], row["op"], int(row["time_step"]))
        if key in seen:
            found.append(f"row that occurs twice: {key}")
        seen[key] = row
        names = ("sops", "dense_macs", "input_nonzeros") if row["op"] == "linear" else ("spikes",)
        for name in names:
            must_be = totals.get(key, {}).get(name, 0)
            if row[name] != must_be:
                found.append(f"{key} {name}: {row[name]}, must be {must_be}")
    found += [f"missing row {key}" for key, row in totals.items() if key not in seen and any(row.values())]
    return found


def report(seed: int, found: list[str]) -> str:
    """A failure: the smallest network that has it, and how to run it again."""
    made = describe(seed)
    while True:
        for smaller in candidates(made):
            if faults(seed, smaller)[1]:
                made = smaller
                break
        else:
            break
    lines = [f"flow seed {seed}: {len(found)} faults", *[f"  {fault}" for fault in found[:5]], f"  shrunk to: {made}"]
    lines += [f"    {fault}" for fault in faults(seed, made)[1][:4]]
    return "\n".join([*lines, f"  again: python tests/differential/fuzz.py --flows 1 --seed {seed}"])


def candidates(made: Description) -> list[Description]:
    """Descriptions with one thing less."""
    segments, found = made["segments"], []
    for i in range(len(segments)):
        if len(segments) > 1:
            found.append({**made, "segments": [*segments[:i], *segments[i + 1 :]]})
    if len(made["batches"]) > 1:
        found += [{**made, "batches": made["batches"][:-1]}]
    if made["rounds"] > 1:
        found.append({**made, "rounds": 1})
    if made["fewer_steps"]:
        found.append({**made, "fewer_steps": False})
    return found
