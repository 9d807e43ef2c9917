"""What is known of values - spikes, averages, grey levels - holds after every way of combining and writing tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import LIF

T, B = 2, 3


def head_of(combine: Callable[[Tensor], Tensor], seed: int = 1) -> pd.Series:
    """The row of a linear layer behind ``combine`` of spikes (T, B, 4, 6) of amplitude 0.5."""
    x = torch.randn(T, B, 4, 6, generator=torch.Generator().manual_seed(seed)) * 1.2
    model = Does(lambda self, x: self.head(combine(self.lif(x))), lif=LIF(0.5, 1.0), head=nn.Linear(6, 3))
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame()
    return frame[frame["layer"] == "head"].iloc[0]


def written(spikes: Tensor) -> Tensor:
    """Averages, written over some of the spikes."""
    first = spikes[:, :, 0].clone()
    first[:, :, :3] = spikes.mean(2)[:, :, :3]
    return first


def through_views(spikes: Tensor) -> Tensor:
    """Averages, added in place to the parts of a tensor of spikes."""
    first = spikes[:, :, 0].clone()
    for step, part in enumerate(first.unbind(0)):
        part += spikes.mean(2)[step]
    return first


def through_an_index(spikes: Tensor) -> Tensor:
    first = spikes[:, :, 0].clone()
    first[:, 1:] += spikes.mean(2)[:, 1:]
    return first


AVERAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda s: s.mean(2),
    "mean of a mean": lambda s: s.mean(2).mean(0),
    "sum of means": lambda s: s.mean(2).sum(0),
    "mean + mean": lambda s: s.mean(2)[0] + s.mean(2)[1],
    "builtin sum": lambda s: sum(s.mean(2)),  # type: ignore[arg-type, return-value]
    "stack and sum": lambda s: torch.stack([s.mean(2)[0], s.mean(2)[1]]).sum(0),
    "maximum": lambda s: torch.maximum(s.mean(2)[0], s.mean(2)[1]),
    "max over time": lambda s: s.mean(2).max(0)[0],
    "amax over tokens": lambda s: s.unflatten(2, (2, 2)).mean(3).amax(2),
    "cumsum": lambda s: s.mean(2).cumsum(-1),
    "sorted": lambda s: s.mean(2).sort(-1)[0],
    "where": lambda s: torch.where(s.mean(2) > 0.2, s.mean(2), torch.zeros(())),
    "masked_fill": lambda s: s.mean(2).masked_fill(s.mean(2) > 0.4, 0),
    "cat": lambda s: torch.cat([s.mean(2)[..., :3], s[:, :, 0, :3]], -1),
    "subtraction": lambda s: s.mean(2) - s[:, :, 0],
    "in-place sum": lambda s: s.mean(2).add_(s[:, :, 0]),
    "written into a buffer": written,
    "added through unbind": through_views,
    "added through an index": through_an_index,
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_spikes_stay_real_whatever_is_made_of_them(name: str) -> None:
    row = head_of(AVERAGES[name])
    assert row["input_kind"] == "real"
    assert row["note"].startswith("average of spikes")


SPIKES: dict[str, tuple[Callable[[Tensor], Tensor], str, int]] = {
    "sum of tokens": (lambda s: s.sum(2) + s[:, :, :2].sum(2), "integer", 6),
    "maximum": (lambda s: torch.maximum(s[0, :, 0], s[1, :, 0]), "binary", 1),
    "a buffer that is emptied and filled": (
        lambda s: s.mean(2).zero_().add_(s[:, :, 0]), "binary", 1),
    "an average that is compared": (lambda s: (s.mean(2) > 0.2).float(), "binary", 1),
    "the index of the largest": (lambda s: s.mean(2).argmax(-1, keepdim=True).clamp(max=1).float().repeat(1, 1, 6),
                                 "binary", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SPIKES)
def test_spikes_that_are_no_averages_are_not_called_real(name: str) -> None:
    combine, kind, max_k = SPIKES[name]
    row = head_of(combine)
    assert row["input_kind"] == kind
    assert 1 <= row["max_k"] <= max_k


# --- the loader's own tensor ---


def mixed(batches: list[Tensor], **options: Any) -> pd.Series:
    """The row of a layer that reads the loader's tensor plus spikes of amplitude 1."""
    torch.manual_seed(0)
    model = Does(lambda self, x: self.head(x + self.lif(3 * self.first(x))), first=nn.Linear(6, 6), lif=LIF(0.5, 1.0),
                 head=nn.Linear(6, 2))  # fmt: skip
    frame = se.profile(model, [x.unsqueeze(0) for x in batches], time_steps=1, time="axis0", **options).to_frame()
    assert frame.set_index("layer").loc["lif", "spikes"] > 0
    return frame[frame["layer"] == "head"].iloc[0]


def binary(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(4)) < 0.6).float()


def events(levels: list[int]) -> Tensor:
    chosen = torch.randint(0, len(levels), (4, 6), generator=torch.Generator().manual_seed(4))
    return torch.tensor(levels)[chosen].float()


def test_spikes_of_the_loader_plus_spikes_are_whole_numbers() -> None:
    row = mixed([binary(4, 6)])
    assert (row["input_kind"], row["max_k"]) == ("integer", 2)


def test_so_they_are_where_the_loader_s_spikes_are_declared() -> None:
    assert mixed([binary(4, 6)], input_kind="binary")["input_kind"] == "integer"


def test_ternary_events_of_the_loader_plus_spikes_are_whole_numbers() -> None:
    assert mixed([events([-1, 0, 1])])["input_kind"] == "integer"


def test_grey_levels_of_the_loader_plus_spikes_are_real() -> None:
    assert mixed([events([0, 1, 2, 3])])["input_kind"] == "real"


def test_it_does_not_matter_in_which_batch_the_grey_levels_come() -> None:
    for batches in ([binary(4, 6), events([0, 1, 2, 3])], [events([0, 1, 2, 3]), binary(4, 6)]):
        assert mixed(batches)["input_kind"] == "real"


# --- products with alpha and beta ---


@pytest.mark.parametrize("beta", [0, 1, 2])
@pytest.mark.parametrize("alpha", [1, 0.5, 0.125, 1.5])
def test_a_scaled_product_is_counted_by_its_own_values(alpha: float, beta: float) -> None:
    x = torch.zeros(2, 2, 3, 4)
    x[:, :, 0, 1] = x[:, :, 1, 1] = x[:, :, 2, 3] = 2
    seen = {}

    def forward(self: Any, x: Tensor) -> Tensor:
        q = self.lif(x).flatten(0, 1)
        scores = torch.baddbmm(torch.full((1, 3, 3), 0.25), q, q.transpose(1, 2), beta=beta, alpha=alpha)
        seen["scores"], seen["q"] = scores.clone(), q.clone()
        return torch.bmm(scores, q)

    frame = se.profile(Does(forward, lif=LIF(0.5, 1.0)), [x], time_steps=2, time="axis0").to_frame()
    rows = frame[frame["layer"] == "#matmul1"]
    scores, q = ((seen[name] != 0).double() for name in ("scores", "q"))
    assert rows["sops"].sum() == (scores @ q).sum()
    read = {int(rows["input_nonzeros"].sum()), int(rows["other_nonzeros"].sum())}
    assert read == {int(scores.sum()), int(q.sum())}
    assert frame["op"].tolist().count("add") == (2 if beta else 0)


@pytest.mark.parametrize("function", [torch.addmm, torch.baddbmm])
def test_a_residual_that_a_product_adds_is_an_addition(function: Callable[..., Tensor]) -> None:
    """addmm(y, x, W) with y from the network: a layer without bias, and a sum."""
    batched = function is torch.baddbmm
    weight = torch.ones(3, 6, 6) if batched else torch.ones(6, 6)

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        return function(y, x, weight)

    x = binary(3, 2, 6) if batched else binary(3, 6)
    y_elements = x.numel()
    frame = se.profile(Does(forward, first=nn.Linear(6, 6)), [x], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["#linear0", "sops"] == x.sum() * 6
    assert frame.loc["#linear0", "biases"] == 0
    assert frame.loc["#add0", "elementwise_ops"] == y_elements
