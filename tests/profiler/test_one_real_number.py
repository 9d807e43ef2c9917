"""A real operand that takes one value in the data at hand is real; spikes that fire once are binary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT = 0.37


def row_behind(combine: Callable[[Any, Tensor], Tensor], batches: list[Tensor], width: int, steps: int) -> pd.Series:
    """The row of a linear layer that reads ``combine`` of (T, B, 6) inputs, one of its rows per step and sample."""
    torch.manual_seed(0)
    model = Does(lambda self, x: self.read(combine(self, x)), gate=nn.Linear(6, 1), wide=nn.Linear(6, 4),
                 norm=nn.LayerNorm(1), read=nn.Linear(width, 3))  # fmt: skip
    nn.init.constant_(model.norm.bias, HEIGHT)  # type: ignore[union-attr, arg-type]
    counts = se.profile(model, batches, time_steps=steps, **({"time": "axis0"} if steps > 1 else {}))
    frame = counts.to_frame()
    return frame[frame["layer"] == "read"].iloc[0]


def inputs(steps: int, samples: int, seed: int = 0) -> list[Tensor]:
    """One batch per sample, with time in front where there are several steps."""
    made = torch.rand(steps, samples, 6, generator=torch.Generator().manual_seed(seed))
    return list(made.split(1, dim=1)) if steps > 1 else list(made[0].split(1))


REAL: dict[str, tuple[int, Callable[[Any, Tensor], Tensor]]] = {
    "a gate": (1, lambda m, x: m.gate(x)),
    "a sigmoid": (1, lambda m, x: torch.sigmoid(m.gate(x))),
    "a sigmoid of the input": (1, lambda m, x: torch.sigmoid(x[..., :1])),
    "a norm of one number": (1, lambda m, x: m.norm(m.gate(x))),
    "a gate that is cut off": (1, lambda m, x: torch.relu(m.gate(x).abs() - 0.01)),
    "a gate, moved": (1, lambda m, x: m.gate(x).unsqueeze(-1).flatten(-2)),
    "a gate, scaled and shifted": (1, lambda m, x: 2 * m.gate(x) + 1),
    "a sum of gates": (1, lambda m, x: m.gate(x) + m.gate(x)),
    "a product of gates": (1, lambda m, x: m.gate(x) * torch.tanh(m.gate(x))),
    "a gate for all channels": (4, lambda m, x: torch.sigmoid(m.gate(x)).expand(*x.shape[:-1], 4)),
    "a gate beside zeros": (4, lambda m, x: nn.functional.pad(torch.sigmoid(m.gate(x)), (1, 2))),
    "the largest feature": (1, lambda m, x: m.wide(x).amax(-1, keepdim=True)),
    "a standard deviation": (1, lambda m, x: x.std(-1, keepdim=True)),
    "the same gate in all samples": (1, lambda m, x: torch.sigmoid(m.gate(0 * x))),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (1, 3), (2, 1), (4, 2)])
def test_a_real_number_is_real_however_few_values_occur(name: str, steps: int, samples: int) -> None:
    width, combine = REAL[name]
    row = row_behind(combine, inputs(steps, samples), width, steps)
    assert row["input_kind"] == "real"
    assert pd.isna(row["sops_multi"])
    assert row["dense_macs"] == samples * width * 3


FIRED: dict[str, tuple[int, Callable[[Any, Tensor], Tensor]]] = {
    "a comparison times a height": (1, lambda m, x: (m.gate(x) > -9).float() * HEIGHT),
    "a height where a comparison holds": (1, lambda m, x: torch.where(m.gate(x) > -9, HEIGHT, 0.0)),
    "a step function": (1, lambda m, x: HEIGHT * torch.heaviside(m.gate(x).abs(), torch.zeros(()))),
    "the sign of a rectified potential": (1, lambda m, x: HEIGHT * torch.relu(m.gate(x).abs()).sign()),
    "a rounded potential": (1, lambda m, x: HEIGHT * (m.gate(x).abs() + 5).clamp(0, 1).floor()),
    "whole quotients": (1, lambda m, x: HEIGHT * torch.div(m.gate(x).abs() + 9, 9, rounding_mode="floor")),
    "a potential turned into a spike of one": (1, lambda m, x: (m.gate(x) + 9).clamp(0, 1)),
    "the one winner": (4, lambda m, x: HEIGHT * (m.wide(x) == m.wide(x).amax(-1, keepdim=True)).float()),
    "saturated spikes of a population": (
        4, lambda m, x: HEIGHT * (9e9 * (m.wide(x) - m.wide(x).sort(-1)[0][..., 1:2])).clamp(0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRED)
@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (1, 3), (2, 1), (4, 2)])
def test_spikes_written_by_hand_are_binary_even_if_they_fire_once(name: str, steps: int, samples: int) -> None:
    width, combine = FIRED[name]
    row = row_behind(combine, inputs(steps, samples), width, steps)
    assert row["input_kind"] == "binary"
    assert row["input_nonzeros"] > 0


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_with_scalar_gates(seed: int) -> None:
    """A gate (B, 1) of random depth is read by one layer, spikes of a neuron written by hand by another."""
    generator = torch.Generator().manual_seed(seed)
    draw: Callable[[int], int] = lambda n: int(torch.randint(n, (), generator=generator))  # noqa: E731
    functions = (torch.sigmoid, torch.tanh, torch.exp, nn.functional.softplus, torch.abs, lambda g: 0.3 * g + 1.5)
    chosen = [functions[draw(len(functions))] for _ in range(1 + draw(3))]
    steps, samples, height = 1 + draw(4), 1 + draw(4), 0.2 + draw(9) / 7

    def forward(self: Any, x: Tensor) -> Tensor:
        gate = self.gate(x)
        for function in chosen:
            gate = function(gate)
        fired = (self.drive(x) > 0).float() * height
        return self.of_gate(gate) + self.of_spikes(fired)  # type: ignore[no-any-return]

    torch.manual_seed(seed)
    model = Does(forward, gate=nn.Linear(6, 1), drive=nn.Linear(6, 1 + draw(3)), of_gate=nn.Linear(1, 3))
    model.of_spikes = nn.Linear(model.drive.out_features, 3)  # type: ignore[union-attr, arg-type]
    batches = inputs(steps, samples, seed)
    told = {"time": "axis0"} if steps > 1 else {}
    frame = se.profile(model, batches, time_steps=steps, **told).to_frame()
    assert set(frame.loc[frame["layer"] == "of_gate", "input_kind"]) == {"real"}
    assert set(frame.loc[frame["layer"] == "of_spikes", "input_kind"]) == {"binary"}


def test_the_note_says_why_it_is_real() -> None:
    row = row_behind(REAL["a sigmoid"][1], inputs(1, 1), 1, 1)
    assert row["note"] == "computed by real arithmetic: few values in this data do not make it binary"


def test_one_sample_with_several_spikes_is_enough_and_may_come_last() -> None:
    """Real arithmetic makes 0 or 0.37: the first sample holds one number, the last one shows two beside a zero."""
    first = torch.tensor([[0.9, 0.1, 0.1, 0.1]])
    last = torch.tensor([[0.9, 0.1, 0.9, 0.1]])
    model = Does(lambda self, x: self.read(HEIGHT * (9e9 * (self.copy(x) - 0.5)).clamp(0, 1)),
                 copy=nn.Linear(4, 4, bias=False), read=nn.Linear(4, 3))  # fmt: skip
    with torch.no_grad():
        model.copy.weight.copy_(torch.eye(4))  # type: ignore[union-attr, operator]
    kinds = {}
    for name, batches in (("one", [first]), ("both", [first, last]), ("joined", [torch.cat([first, last])])):
        frame = se.profile(model, batches, time_steps=1).to_frame().set_index("layer")
        kinds[name] = frame.loc["read", "input_kind"]
    assert kinds == {"one": "real", "both": "binary", "joined": "binary"}


def test_halves_rounded_down_are_no_halves() -> None:
    """Sums of two spikes, 0, 1 and 2, halved and rounded down: 1 where both fire."""
    x = (torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    added = x + x.flip(-1)
    model = Does(lambda self, x: self.read(torch.div(x + x.flip(-1), 2, rounding_mode="floor")), read=nn.Linear(8, 3))
    row = se.profile(model, [x], time_steps=1).to_frame().set_index("layer").loc["read"]
    assert (row["input_kind"], row["input_nonzeros"]) == ("binary", int((added == 2).sum()))
    assert 0 < row["input_nonzeros"] < int((added > 0).sum())


def test_zeros_alone_stay_binary() -> None:
    row = row_behind(lambda m, x: torch.relu(m.gate(x) - 99), inputs(1, 2), 1, 1)
    assert (row["input_kind"], row["sops"]) == ("binary", 0)
