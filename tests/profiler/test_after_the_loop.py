"""What a loop over time adds up is read once per inference, as ``torch.stack(...).sum(0)`` is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import LIF

Combine = Callable[[list[Tensor]], Tensor]


def from_zero(ys: list[Tensor]) -> Tensor:
    total: Any = 0
    for y in ys:
        total = total + y
    return total  # type: ignore[no-any-return]


def in_place(ys: list[Tensor]) -> Tensor:
    total = torch.zeros_like(ys[0])
    for y in ys:
        total += y
    return total


def from_the_first(ys: list[Tensor]) -> Tensor:
    total = ys[0]
    for y in ys[1:]:
        total = y + total
    return total


def largest(ys: list[Tensor]) -> Tensor:
    best = ys[0]
    for y in ys[1:]:
        best = torch.maximum(best, y)
    return best


SUMS: dict[str, Combine] = {
    "from 0": from_zero,
    "in place, from zeros": in_place,
    "from the first": from_the_first,
    "built-in sum": sum,  # type: ignore[dict-item]
}


class Network(nn.Module):
    """Spikes of all steps, or of step after step; a layer in every step; ``combine``; one or two layers once."""

    def __init__(self, combine: Combine, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.width, self.time_steps = rng.choice((3, 6)), rng.choice((2, 3, 5))
        self.has_layer, self.has_second, self.has_relu = (rng.random() < 0.5 for _ in range(3))
        self.combine, self.scale = combine, rng.choice((1.0, 1 / self.time_steps))
        self.lif, self.layer = LIF(0.5, 0.4), nn.Linear(self.width, self.width)
        self.head, self.second = nn.Linear(self.width, 4), nn.Linear(4, 2, bias=rng.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        fired = self.lif(x)
        ys = []
        for t in range(self.time_steps):
            y = fired[t]
            ys.append(torch.relu(self.layer(y)) if self.has_layer else y)
        total = self.combine(ys)
        if self.scale != 1:
            total = total * self.scale
        out = self.head(torch.relu(total) if self.has_relu else total)
        return self.second(out) if self.has_second else out  # type: ignore[no-any-return]


def counted(model: Network, samples: int = 3) -> se.Counts:
    x = torch.randn(model.time_steps, samples, model.width, generator=torch.Generator().manual_seed(1)) + 0.4
    return se.profile(model.eval(), [x], time="axis0")


def operations(counts: se.Counts) -> pd.DataFrame:
    frame = counts.to_frame()
    kept = frame["op"].isin(("conv", "linear", "matmul", "neuron"))
    return frame[kept].drop(columns=["order"]).reset_index(drop=True)


@pytest.mark.parametrize("form", SUMS)
@pytest.mark.parametrize("seed", range(6))
def test_every_way_of_adding_up_the_steps_gives_the_same_rows_energy_and_latency(form: str, seed: int) -> None:
    expected = counted(Network(lambda ys: torch.stack(ys).sum(0), seed))
    found = counted(Network(SUMS[form], seed))
    rows = operations(found)
    pd.testing.assert_frame_equal(rows, operations(expected))
    assert rows.loc[rows["layer"].isin(("head", "second")), "time_step"].unique().tolist() == [-1]
    for profile in ("dts-paper-fpga", "horowitz-45nm-fp32"):
        prices = [se.estimate(counts, profile) for counts in (found, expected)]
        assert len({(p.compute_pj, p.memory_pj, p.total_pj) for p in prices}) == 1
        latencies = [se.estimate_latency(counts, "sata") for counts in (found, expected)]
        assert len({latency.cycles for latency in latencies}) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_over_the_steps_is_read_once(seed: int) -> None:
    expected = counted(Network(lambda ys: torch.stack(ys).amax(0), seed))
    pd.testing.assert_frame_equal(operations(counted(Network(largest, seed))), operations(expected))


# --- what belongs to the steps ---

T = 3


def steps_of(forward: Callable[[Any, Tensor], Any], layer: str = "head") -> list[int]:
    model = Does(forward, lif=LIF(0.5, 0.4), head=nn.Linear(6, 4), layer=nn.Linear(6, 6))
    x = torch.randn(T, 2, 6, generator=torch.Generator().manual_seed(1)) + 0.4
    frame = se.profile(model.eval(), [x], time_steps=T, time="axis0").to_frame()
    return frame.loc[frame["layer"] == layer, "time_step"].tolist()


def read_every_step(self: Any, x: Tensor) -> Tensor:
    total, outs = 0, []
    for y in self.lif(x):
        total = total + y
        outs.append(self.head(total))
    return torch.stack(outs).mean(0)


def read_in_between(self: Any, x: Tensor) -> Tensor:
    """The running sum decides what the next step adds."""
    total = torch.zeros(x.shape[1:])
    for y in self.lif(x):
        total = total + y * (self.layer(total) > 0)
    return self.head(total)  # type: ignore[no-any-return]


def the_last_step(self: Any, x: Tensor) -> Tensor:
    return self.head(self.lif(x)[-1])  # type: ignore[no-any-return]


def the_last_two_steps(self: Any, x: Tensor) -> Tensor:
    fired = self.lif(x)
    return self.head(fired[-1] + fired[-2])  # type: ignore[no-any-return]


def with_the_step_before(self: Any, x: Tensor) -> Tensor:
    fired = self.lif(x)
    return torch.stack([self.head(fired[t] + fired[max(0, t - 1)]) for t in range(T)]).mean(0)


def in_every_step_and_behind(self: Any, x: Tensor) -> Tensor:
    total, outs = 0, []
    for y in self.lif(x):
        total = total + y
        outs.append(self.head(y))
    return torch.stack(outs).mean(0) + self.head(total)


def test_work_within_the_steps_stays_there() -> None:
    assert steps_of(read_every_step) == [0, 1, 2]
    assert steps_of(with_the_step_before) == [0, 1, 2]
    assert steps_of(the_last_step) == [2]
    assert steps_of(the_last_two_steps) == [2]
    assert steps_of(read_in_between) == [2]


def test_a_layer_that_is_used_in_every_step_and_once_behind_has_rows_of_both() -> None:
    assert sorted(steps_of(in_every_step_and_behind)) == [-1, 0, 1, 2]
