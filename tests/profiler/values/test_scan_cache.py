"""What is found again of earlier scans, against counts made by hand: no scan is done twice to compare."""

from __future__ import annotations

import pytest
import torch
from own_networks import Does
from torch import nn

import snn_energy as se
from snn_energy.models.neurons import LIF
from snn_energy.profiler.counting_mode import CROSS_CHECK


@pytest.fixture(autouse=True)
def _no_cross_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers themselves must tell."""
    monkeypatch.setenv(CROSS_CHECK, "0")


@pytest.mark.parametrize("order", [("even", "front"), ("front", "even")])
def test_two_views_of_one_size_that_begin_at_one_address_are_counted_apart(order: tuple[str, str]) -> None:
    views = {"even": slice(None, None, 2), "front": slice(None, 2)}
    model = Does(
        lambda self, x: sum(getattr(self, name)(x[:, views[name]]) for name in order),
        even=nn.Linear(2, 3, bias=False),
        front=nn.Linear(2, 3, bias=False),
    )
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0]])  # one spike among the even features, two among the first half
    frame = se.profile(model, [x], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["even", "sops"] == 1 * 3
    assert frame.loc["front", "sops"] == 2 * 3


def test_a_square_image_and_its_transpose_are_counted_apart() -> None:
    model = Does(
        lambda self, x: self.plain(x) + self.turned(x.mT),
        plain=nn.Conv1d(3, 1, 3, padding=1, bias=False),
        turned=nn.Conv1d(3, 1, 3, padding=1, bias=False),
    )
    x = torch.zeros(1, 3, 3)
    x[0, 0] = 1  # one channel fires everywhere; turned, every channel fires at the first position
    frame = se.profile(model, [x], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["plain", "sops"] == 2 + 3 + 2  # the outputs that each position feeds
    assert frame.loc["turned", "sops"] == 3 * 2


def test_spikes_added_to_themselves_stay_binary_in_later_batches() -> None:
    def forward(self: Does, x: torch.Tensor) -> torch.Tensor:
        fired = self.lif(x)
        return self.layer(fired + fired)  # 0 or 2

    model = Does(forward, lif=LIF(), layer=nn.Linear(2, 3, bias=False))
    x = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]]])  # at both steps the first neuron fires, the second does not
    rows = se.profile(model, [x, x, x], time_steps=2, time="axis0").to_frame().query("layer == 'layer'")
    assert rows["input_kind"].tolist() == ["binary"] * 2
    assert rows["sops"].tolist() == [3 * 3] * 2  # three batches, three outputs
    assert rows["sops_multi"].tolist() == [3 * 3] * 2
