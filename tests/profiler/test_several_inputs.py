"""A network of several inputs is given them in order or by name; every tensor with samples in front is an input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.counts.counts import Counts
from snn_energy.models.neurons import LIF
from snn_energy.profiler.inspection_report import inspect_model

STEPS, SAMPLES = 3, 4


class Neuron(nn.Module):
    """Integrate and fire, by hand, one step a call."""

    u: Any = None

    def forward(self, current: Tensor) -> Tensor:
        u = current if self.u is None else self.u + current
        spike = (u > 0.5).float()
        self.u = u - 0.5 * spike
        return spike


class Two(nn.Module):
    """Two streams through a loop of T steps; ``mask`` has a value per sample and feature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.lif, self.head = nn.Linear(6, 8), nn.Linear(5, 8), Neuron(), nn.Linear(8, 3)

    def run(self, frames: Tensor, events: Tensor) -> Any:
        self.lif.u = None
        return sum(self.head(self.lif(self.a(frames) + self.b(events))) for _ in range(STEPS))


class InOrder(Two):
    def forward(self, frames: Tensor, events: Tensor) -> Any:
        return self.run(frames, events)


class ByName(Two):
    def forward(self, *, events: Tensor, frames: Tensor) -> Any:
        return self.run(frames, events)


class AnyName(Two):
    def forward(self, **inputs: Tensor) -> Any:
        return OrderedDict(loss=None, logits=self.run(inputs["frames"], inputs["events"]))


class OneDict(Two):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.run(batch["frames"], batch["events"])


class OneTuple(Two):
    def forward(self, streams: tuple[Tensor, Tensor]) -> Any:
        return self.run(*streams)


class Optional(Two):
    def forward(self, frames: Tensor, events: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> Any:
        assert labels is None
        return self.run(frames, scale * events if scale != 1 else events)


def streams() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(SAMPLES, 6, generator=generator)
    events = (torch.rand(SAMPLES, 5, generator=generator) < 0.4).float()
    return frames, events, torch.tensor([0, 1, 2, 0])


FRAMES, EVENTS, LABELS = streams()
NAMED = {"frames": FRAMES, "events": EVENTS}

GIVEN: dict[str, tuple[type[Two], Any, bool]] = {
    "((x1, x2), y)": (InOrder, ((FRAMES, EVENTS), LABELS), True),
    "([x1, x2], y)": (InOrder, [[FRAMES, EVENTS], LABELS], True),
    "((x1, x2),)": (InOrder, ((FRAMES, EVENTS),), False),
    "(dict, y), in order": (InOrder, (NAMED, LABELS), True),
    "(dict, y), by name": (ByName, (NAMED, LABELS), True),
    "(dict, y), any name": (AnyName, (NAMED, LABELS), True),
    "(dict, y), one dict": (OneDict, (NAMED, LABELS), True),
    "((x1, x2), y), one tuple": (OneTuple, ((FRAMES, EVENTS), LABELS), True),
    "dict": (ByName, NAMED, False),
    "dict with labels": (ByName, {**NAMED, "labels": LABELS}, True),
    "ordered dict with y": (Optional, OrderedDict(y=LABELS, **NAMED), True),
    "dict with labels, which the forward would take": (Optional, {**NAMED, "labels": LABELS}, True),
    "a number among them": (Optional, ({**NAMED, "scale": 1.0}, LABELS), True),
}


def brute_force() -> tuple[int, int, float]:
    """SOPs of the second stream and of the head, and the accuracy."""
    model = InOrder()
    with torch.no_grad():
        current, u, spikes, out = model.a(FRAMES) + model.b(EVENTS), torch.zeros(SAMPLES, 8), 0, torch.zeros(SAMPLES, 3)
        for _ in range(STEPS):
            u = u + current
            spike = (u > 0.5).float()
            u, spikes, out = u - 0.5 * spike, spikes + int(spike.sum()), out + model.head(spike)
    right = float((out.argmax(1) == LABELS).float().mean())
    return STEPS * 8 * int(EVENTS.sum()), 3 * spikes, right


def assert_counted(counts: Counts, has_labels: bool) -> None:
    rows = counts.rows
    of_events, of_head, accuracy = brute_force()
    sops = rows.groupby("layer")["sops"].sum()
    assert (sops["b"], sops["head"]) == (of_events, of_head)
    assert sops["a"] == STEPS * SAMPLES * 6 * 8
    kinds = rows[rows["dense_macs"] > 0].groupby("layer")["input_kind"].agg(set)
    assert kinds.to_dict() == {"a": {"real"}, "b": {"binary"}, "head": {"binary"}}
    assert counts.samples == SAMPLES
    assert counts.header["accuracy"] == (accuracy if has_labels else None)


@pytest.mark.parametrize("name", GIVEN)
def test_several_inputs_are_handed_over_as_the_forward_takes_them(name: str) -> None:
    kind, batch, has_labels = GIVEN[name]
    assert_counted(se.profile(kind(), [batch], time_steps=STEPS), has_labels)
    report = inspect_model(kind(), [batch], time_steps=STEPS)
    assert report.spiking["layer"].tolist() == ["lif"]


def test_several_inputs_are_counted_alike_however_samples_are_dealt() -> None:
    whole = se.profile(InOrder(), [((FRAMES, EVENTS), LABELS)], time_steps=STEPS).rows
    dealt = [((FRAMES[i:j], EVENTS[i:j]), LABELS[i:j]) for i, j in ((0, 2), (2, 3), (3, 4))]
    assert se.profile(InOrder(), dealt, time_steps=STEPS).rows.equals(whole)


class OverTime(nn.Module):
    """(T, B, 6) frames, one vector of context per sample, and a table that belongs to no sample."""

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.c, self.lif, self.head, self.axis = (
            nn.Linear(6, 8),
            nn.Linear(5, 8),
            Neuron(),
            nn.Linear(8, 3),
            axis,
        )

    def forward(self, frames: Tensor, context: Tensor, table: Tensor) -> Any:
        self.lif.u = None
        extra = self.c(context) @ table
        return sum(self.head(self.lif(self.a(step) + extra)) for step in frames.unbind(self.axis))


@pytest.mark.parametrize(("time", "axis"), [("axis0", 0), ("axis1", 1)])
def test_an_input_per_sample_beside_one_over_time(time: str, axis: int) -> None:
    frames, context, table = torch.rand(STEPS, SAMPLES, 6), EVENTS, torch.eye(8)
    x = frames if axis == 0 else frames.transpose(0, 1).contiguous()
    counts = se.profile(OverTime(axis), [((x, context, table), LABELS)], time_steps=STEPS, time=time)
    rows = counts.rows
    assert counts.samples == SAMPLES
    assert rows[rows["layer"] == "a"]["sops"].tolist() == [SAMPLES * 6 * 8] * STEPS
    assert rows[rows["layer"] == "c"]["sops"].sum() == 8 * int(EVENTS.sum())  # once, whatever the number of steps
    assert len(rows[rows["layer"] == "c"]) == 1


class Step(nn.Module):
    """One step a call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.c, self.lif, self.head = nn.Linear(6, 8), nn.Linear(5, 8), Neuron(), nn.Linear(8, 3)

    def forward(self, frames: Tensor, context: Tensor) -> Tensor:
        return self.head(self.lif(self.a(frames) + self.c(context)))


@pytest.mark.parametrize("time", ["call", "call-axis0"])
def test_a_network_called_once_per_step_gets_all_its_inputs_at_every_step(time: str) -> None:
    frames = FRAMES if time == "call" else torch.stack([FRAMES] * STEPS)
    counts = se.profile(Step(), [((frames, EVENTS), LABELS)], time_steps=STEPS, time=time)
    rows = counts.rows
    assert rows[rows["layer"] == "c"]["sops"].tolist() == [8 * int(EVENTS.sum())] * STEPS
    assert rows[rows["layer"] == "a"]["sops"].tolist() == [SAMPLES * 6 * 8] * STEPS


def test_every_input_is_repeated_where_the_loader_gives_samples_alone() -> None:
    class Multi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.a, self.b, self.lif = nn.Linear(6, 8), nn.Linear(5, 8), LIF()

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.lif(self.a(one) + self.b(other))

    counts = se.profile(Multi(), [((FRAMES, EVENTS), LABELS)], time_steps=STEPS, time="repeat-axis0")
    rows = counts.rows
    assert rows[rows["layer"] == "b"]["sops"].tolist() == [8 * int(EVENTS.sum())] * STEPS
    assert rows[rows["layer"] == "b"]["input_repeated"].tolist() == [False, True, True]


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "one of two": (InOrder, (FRAMES, EVENTS), r"give several inputs as \(\(x1, x2\), y\)"),
    "one too many": (InOrder, ((FRAMES, EVENTS, EVENTS), LABELS), r"does not take the loader's inputs \(3 in a tuple"),
    "a name too many": (ByName, ({**NAMED, "index": LABELS}, LABELS), "unexpected keyword argument 'index'"),
    "a name that is missing": (ByName, ({"frames": FRAMES}, LABELS), "missing a required .*'events'"),
    "nothing but labels": (ByName, {"labels": LABELS}, "cannot be called"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_inputs_that_do_not_fit_are_refused_in_one_line(name: str) -> None:
    build, batch, said = REFUSED[name]
    for declared in ({}, {"time": "loop"}):
        with pytest.raises(ProfilingError, match=said) as caught:
            se.profile(build(), [batch], time_steps=STEPS, **declared)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


LOADER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(5, 8)

    def forward(self, frames, events):
        return self.a(frames) + self.b(events)

def batches():
    x = torch.ones(2, 6), torch.ones(2, 5)
    return [(x, torch.zeros(2, dtype=torch.long)) for _ in range(3)]

def dicts():
    return [{"frames": torch.ones(2, 6), "events": torch.ones(2, 5), "y": torch.zeros(2, dtype=torch.long)}] * 3
"""


@pytest.mark.parametrize("name", ["batches", "dicts"])
def test_the_command_line_takes_a_loader_of_several_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any, name: str
) -> None:
    (tmp_path / "twostreams.py").write_text(LOADER)
    monkeypatch.chdir(tmp_path)
    named = ["--model", "twostreams.py:Net", "--data", f"twostreams.py:{name}"]
    code, _, said = cli("profile", *named, "--samples", 4, "-o", "counts.json")
    assert code == 0, said
    counts = se.load_counts("counts.json")
    assert counts.samples == 4
    assert counts.rows.groupby("layer")["sops"].sum().loc[["a", "b"]].tolist() == [4 * 6 * 8, 4 * 5 * 8]
    assert cli("inspect", *named)[0] == 0
