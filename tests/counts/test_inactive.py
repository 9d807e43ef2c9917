"""A network of which nearly all layers hardly fire is said to be so, by ``inspect`` and by ``profile``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snn_energy.counts.counts import Counts
from snn_energy.counts.inactive import inactive_layers, near_silence
from snn_energy.profiler.inspection_report import inspect_model

NETWORK = """
from snn_energy.models.neurons import LIF
from torch import nn
import torch

class Net(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.a, self.n1, self.b, self.n2, self.c = nn.Linear(4, 8), LIF(), nn.Linear(8, 8), LIF(), nn.Linear(8, 3)
        with torch.no_grad():
            for layer in (self.a, self.b):
                layer.weight.fill_(gain)
                layer.bias.zero_()

    def forward(self, x):
        x = x.flatten(1).repeat(2, 1, 1)
        return self.c(self.n2(self.b(self.n1(self.a(x))))).mean(0)

def make(gain=1.0):
    return Net(gain)
"""


def neurons(spikes: list[int]) -> list[dict[str, Any]]:
    return [
        {"layer": f"n{i}", "op": "neuron", "neurons": 500, "spikes": count, "time_step": step, "input_kind": None}
        for i, count in enumerate(spikes)
        for step in range(2)
    ]


@pytest.mark.parametrize(
    ("spikes", "hardly"),
    [([0, 0, 0, 0, 900], 4), ([0, 1, 1, 1, 900], 4), ([0, 0, 0, 2, 900], None), ([1000] * 5, None), ([0], 1)],
)
def test_layers_that_fire_less_than_once_in_a_thousand_updates_hardly_fire(
    make_counts: Callable[..., Counts], spikes: list[int], hardly: int | None
) -> None:
    """500 neurons, two steps, four samples: 2 spikes a step are one in 1,000 updates."""
    said = near_silence(make_counts(neurons(spikes), samples=4, time_steps=2))
    if hardly is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(f"nearly silent: {hardly} of {len(spikes)} spiking layers")


def test_layers_that_are_masked_throughout_do_not_count(make_counts: Callable[..., Counts]) -> None:
    rows = [{**row, "active": row["layer"] != "n0"} for row in neurons([0, 900])]
    counts = make_counts(rows, samples=4, time_steps=2)
    assert near_silence(counts) is None
    assert list(inactive_layers(counts)) == ["dead (T_l = 0): n0"]


@pytest.mark.parametrize(("gain", "is_silent"), [(0.01, True), (1.0, False)])
def test_inspect_and_profile_say_that_a_network_hardly_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any, gain: float, is_silent: bool
) -> None:
    (tmp_path / "quiet.py").write_text(NETWORK)
    np.savez(tmp_path / "data.npz", images=np.ones((3, 1, 2, 2), np.float32), labels=np.zeros(3, np.int64))
    monkeypatch.chdir(tmp_path)
    named = ["--model", "quiet.py:make", "--model-args", f"gain={gain}", "--time-steps", 2, "--data", "npz:data.npz"]
    code, printed, _ = cli("inspect", *named)
    assert code == 0
    assert ("nearly silent: 2 of 2 spiking layers" in printed) == is_silent
    assert ("silent (active but never fired): n1, n2" in printed) == is_silent
    code, _, warned = cli("profile", *named, "-o", "counts.json")
    assert code == 0
    assert ("nearly silent: 2 of 2 spiking layers" in warned) == is_silent


def test_the_report_of_inspection_says_it_in_python_too() -> None:
    space: dict[str, Any] = {}
    exec(NETWORK, space)
    lines = inspect_model(space["make"](0.01), [torch.ones(2, 1, 2, 2)], time_steps=2).lines()
    assert any(line.startswith("nearly silent: 2 of 2") for line in lines)
