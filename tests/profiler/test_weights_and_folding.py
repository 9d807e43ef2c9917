"""Weights are counted once, however they are read; a BatchNorm folds only into weights that it alone follows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_networks import Does
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import LIF

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "plain": (lambda m, x: m.bn(m.c(x)), "folds into c"),
    "reshaped": (lambda m, x: m.bn(m.c(x).unflatten(0, (2, -1)).flatten(0, 1)), "folds into c"),
    "behind padding": (lambda m, x: m.bn(nn.functional.pad(m.c(x), [1, 1, 1, 1])), "batch_norm: behind padding"),
    "behind zeros that are joined": (
        lambda m, x: m.bn(torch.cat([m.c(x), torch.zeros(x.shape[0], 3, 1, 4)], 2)), "batch_norm: behind padding"),
    "behind a sum": (lambda m, x: m.bn(m.c(x) + m.c(x.flip(-1))), "batch_norm: behind #add0 (add)"),
    "with another reader": (lambda m, x: (y := m.c(x)) + m.bn(y), "batch_norm: c has other readers"),
    "one of two for one layer": (
        lambda m, x: m.bn(m.c(x)) + m.bn2(m.c(x.flip(-1))), "batch_norm: c has other normalisations"),
    "beside a call without": (
        lambda m, x: m.bn(m.c(x)) + m.c(x.flip(-1)), "batch_norm: c has other normalisations"),
    "the same for both calls": (lambda m, x: m.bn(m.c(x)) + m.bn(m.c(x.flip(-1))), "folds into c"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_norm_folds_only_into_weights_that_it_alone_follows(name: str) -> None:
    use, note = NETWORKS[name]

    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.fire(use(self, x.flatten(0, 1)).unflatten(0, (len(x), -1))).flatten(0, 1))
        return out

    torch.manual_seed(0)
    model = Does(forward, c=nn.Conv2d(2, 3, 3, padding=1), bn=nn.BatchNorm2d(3), bn2=nn.BatchNorm2d(3),
                 fire=LIF(0.5, 0.5), last=nn.Conv2d(3, 3, 1))  # fmt: skip
    frame = se.profile(model, [torch.randn(2, 1, 2, 4, 4)], time_steps=2, time="axis0").to_frame()
    row = frame[frame["layer"] == "bn"].iloc[0]
    assert row["note"] == note
    assert (row["elementwise_ops"] == 0) == note.startswith("folds")


def test_one_batch_norm_per_time_step_does_not_fold_in_either_step_mode() -> None:
    def net(mode: str) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(layer.Conv2d(2, 6, 3, padding=1, bias=False), layer.BatchNormThroughTime2d(4, 6),
                              neuron.LIFNode(), layer.Conv2d(6, 4, 3, stride=2))  # fmt: skip
        functional.set_step_mode(model, mode)
        return model

    x = (torch.rand(4, 3, 2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    for mode, time in (("m", "axis0"), ("s", "call-axis0")):
        frame = se.profile(net(mode), [x], time_steps=4, time=time).to_frame()
        norms = frame[frame["op"] == "norm"]
        assert norms["time_step"].tolist() == [0, 1, 2, 3]
        assert norms["elementwise_ops"].tolist() == [2 * 6 * 64 * 3] * 4


# --- weights that are expanded, frozen ---


class Expanded(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.w, self.b = how, nn.Parameter(torch.ones(16, 8)), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.w.expand(x.shape[0], 16, 8), self.b.expand(x.shape[0], 1, 8)
        if self.how == "bmm":
            return torch.bmm(x, weight)
        return torch.baddbmm(bias, x, weight) if self.how == "baddbmm" else torch.einsum("bik,bkj->bij", x, weight)


@pytest.mark.parametrize(("how", "biases"), [("bmm", 0), ("baddbmm", 8), ("einsum", 0)])
def test_an_expanded_weight_is_counted_once_whatever_the_batch(how: str, biases: int) -> None:
    x = (torch.rand(5, 5, 16, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    for batches in ([x[:1]], [x], [x[:4], x[4:]]):
        frame = se.profile(Expanded(how), batches, time_steps=1).to_frame()
        assert (frame["weights"].sum(), frame["biases"].sum()) == (128, biases)
        assert frame["sops"].sum() == 8 * int(sum(batch.sum() for batch in batches))


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


@pytest.mark.parametrize("make", [Attention, encoder])
def test_attention_of_torch_is_the_same_frozen_or_not_and_in_any_batch(make: Callable[[], nn.Module]) -> None:
    x, frames = torch.rand(4, 7, 16), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for frozen in (False, True):
            for batches in ([x], [x[:3], x[3:]]):
                model = make().requires_grad_(not frozen)
                frames.append(se.profile(model, batches, time_steps=1).to_frame())
    for frame in frames:
        assert frame["weights"].sum() == sum(p.numel() for n, p in make().named_parameters() if p.dim() > 1)
        for column in ("layer", "dense_macs", "weights", "biases", "elementwise_ops"):
            assert frame[column].tolist() == frames[0][column].tolist(), column


def test_the_fast_path_of_attention_is_as_the_user_left_it() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    se.profile(Attention(), [torch.rand(2, 7, 16)], time_steps=1)
    assert torch.backends.mha.get_fastpath_enabled() == before
