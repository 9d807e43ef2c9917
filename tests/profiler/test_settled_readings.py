"""Where the contract is silent or says two things: what the profiler does, as docs/what-is-counted.md states it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import DTSS, LIF

pytestmark = pytest.mark.usefixtures("one_thread")
T, B = 3, 2


def rows_of(model: nn.Module, batches: list[Tensor], layer: str = "last") -> pd.DataFrame:
    frame = se.profile(model, batches, time_steps=T, time="axis0").to_frame()
    return frame[frame["layer"] == layer].reset_index(drop=True)


# --- offsets behind a masked layer --------------------------------------------------------------------------------


def behind_a_mask(use: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> pd.DataFrame:
    """The rows of a last linear layer from 4 to 3; a DTSS layer in front works at the first step alone."""
    model = Does(lambda self, x: self.last(use(self, self.gate(x))), gate=DTSS(T, 1), last=nn.Linear(4, 3), **layers)
    return rows_of(model, [torch.rand(T, B, 5, 4) * 2])


OFFSETS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module]]] = {
    "LayerNorm": (lambda m, x: m.norm(x), {"norm": nn.LayerNorm(4)}),
    "softmax": (lambda m, x: x.softmax(-1), {}),
    "class token": (lambda m, x: torch.cat([m.norm.weight.expand(T, B, 1, 4), x], 2), {"norm": nn.LayerNorm(4)}),
    "constant": (lambda m, x: x + 0.5, {}),
    "bias": (lambda m, x: m.before(x), {"before": nn.Linear(4, 4)}),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_what_an_offset_drives_behind_a_masked_layer_works(name: str) -> None:
    """Zeros come out of the masked layer, but not out of the offset: without the work the result would be another."""
    use, layers = OFFSETS[name]
    if "norm" in layers:
        torch.nn.init.constant_(layers["norm"].bias, 0.25)  # type: ignore[arg-type]
    rows = behind_a_mask(use, **layers)
    assert rows["active"].tolist() == [True] * T
    assert (rows["sops"] > 0).all()


def test_the_layer_with_the_bias_does_nothing_itself_in_a_masked_step() -> None:
    model = Does(lambda self, x: self.last(self.gate(x)), gate=DTSS(T, 1), last=nn.Linear(4, 3))
    rows = rows_of(model, [torch.rand(T, B, 5, 4) * 2])
    assert rows["active"].tolist() == [True, False, False]
    assert rows["dense_macs"].tolist() == [B * 5 * 4 * 3, 0, 0]


@pytest.mark.parametrize("use", [lambda m, x: x.relu(), lambda m, x: x * 2, lambda m, x: m.before(x)])
def test_what_gives_zeros_for_zeros_leaves_the_step_masked(use: Callable[[Any, Tensor], Tensor]) -> None:
    assert behind_a_mask(use, before=nn.Linear(4, 4, bias=False))["active"].tolist() == [True, False, False]


# --- zeros alone --------------------------------------------------------------------------------------------------


def silent(combine: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """``combine`` works on the spikes of a layer whose threshold is 4; the second one's is 2."""
    return Does(lambda self, x: self.last(combine(self, self.fire(x))), fire=LIF(0.5, 4.0), other=LIF(0.5, 2.0),
                last=nn.Linear(4, 3))  # fmt: skip


COMBINED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "average": lambda m, x: x.mean(2),
    "average over time": lambda m, x: x.mean(0),
    "average pool": lambda m, x: nn.functional.avg_pool1d(x.flatten(0, 1).mT, 5).mT.unflatten(0, (T, -1)),
    "sum of unequal spikes": lambda m, x: x + m.other(x),
}


@pytest.mark.parametrize("name", COMBINED)
def test_averages_that_are_all_zero_are_binary(name: str) -> None:
    rows = rows_of(silent(COMBINED[name]), [torch.ones(T, B, 5, 4)])
    assert set(rows["input_kind"]) == {"binary"}
    assert rows["sops"].sum() == 0


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("name", COMBINED)
def test_one_spike_in_any_batch_makes_them_real(name: str, loud_first: bool) -> None:
    zeros, loud = torch.ones(T, B, 5, 4), torch.ones(T, B, 5, 4)
    loud[0, 0, 0, 0] = 5
    batches = [loud, zeros, zeros] if loud_first else [zeros, zeros, loud]
    rows = rows_of(silent(COMBINED[name]), batches)
    assert set(rows["input_kind"]) == {"real"}
    assert rows["sops_multi"].isna().all()


def test_zeros_that_the_loader_gives_are_what_they_are_declared_to_be() -> None:
    found = {}
    for declared in (None, "real"):
        counts = se.profile(nn.Linear(4, 3), [torch.zeros(2, 4)], time_steps=1, input_kind=declared)  # type: ignore[arg-type]
        found[declared] = set(counts.rows["input_kind"])
    assert found == {None: {"binary"}, "real": {"real"}}


# --- biases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bias", [(True, False), (False, True)])
def test_layers_of_one_shape_keep_their_own_biases(has_bias: tuple[bool, bool]) -> None:
    first, second = (nn.Conv1d(4, 4, 3, padding=1, bias=bias) for bias in has_bias)
    frame = se.profile(nn.Sequential(first, nn.ReLU(), second), [torch.rand(2, 4, 6)], time_steps=1).to_frame()
    rows = frame[frame["op"] == "conv"]
    assert rows["biases"].tolist() == [4 * bias for bias in has_bias]


# --- repeated input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["repeat-axis0", "repeat-axis1"])
def test_layers_behind_what_repeats_an_image_read_it_repeatedly_too(time: str) -> None:
    """The steps run in one go: a sigmoid of a repeated image is one too, as in a network that repeats it."""
    model = nn.Sequential(nn.Sigmoid(), nn.Linear(4, 4), nn.Linear(4, 3))
    frame = se.profile(model, [torch.rand(B, 4)], time_steps=T, time=time).to_frame()
    repeated = frame[frame["op"] == "linear"]["input_repeated"].tolist()
    assert repeated == [False, True, True] * 2
