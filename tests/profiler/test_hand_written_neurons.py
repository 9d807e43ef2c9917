"""Neurons written by hand, in a loop or with a state of their own, count as what they do, in every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snn_energy as se

STEPS = 3


def torch_where(u: Tensor) -> Tensor:
    return torch.where(u > 0.3, 0.0, u)


def leaky(u: Any, current: Tensor) -> tuple[Any, Tensor]:
    u = 0.9 * u + current
    spike = (u > 0.3).float()
    return u - spike * 0.3, spike


def hard_reset(u: Any, current: Tensor) -> tuple[Any, Tensor]:
    u = 0.9 * u + current
    return torch_where(u), (u > 0.3).float()


def public_code(u: Any, current: Tensor) -> tuple[Any, Tensor]:
    u = current if u is None else u + (current - u) / 2
    spike = (u >= 0.3).float()
    return u * (1 - spike), spike


class Looped(nn.Module):
    """conv, a neuron written inline, linear; ``start`` makes the first potential."""

    def __init__(self, neuron: Callable[[Any, Tensor], tuple[Any, Tensor]], start: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)
        self.neuron, self.start = neuron, start

    def forward(self, x: Tensor) -> Tensor:
        u, out = self.start(x), 0
        self.seen: list[int] = []
        for _ in range(STEPS):
            u, spike = self.neuron(u, self.conv(x))
            self.seen.append(int(spike.sum()))
            out = out + self.linear(spike.flatten(1))
        return out  # type: ignore[return-value]


STARTS = {
    "zeros": lambda x: torch.zeros(len(x), 4, 6, 6),
    "new_zeros": lambda x: x.new_zeros(len(x), 4, 6, 6),
    "0": lambda x: 0,
    "0.0": lambda x: 0.0,
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("neuron", [leaky, hard_reset])
def test_an_inline_neuron_in_a_loop_counts_its_spikes_step_by_step(neuron: Any, start: str) -> None:
    model, x = Looped(neuron, STARTS[start]), torch.rand(4, 1, 8, 8)
    frame = se.profile(model, [x], time_steps=STEPS, time="loop").to_frame()
    with torch.no_grad():
        model(x)
    assert frame[frame["layer"] == "linear"]["sops"].tolist() == [10 * n for n in model.seen]
    assert 0 < model.seen[0] < 576


def test_an_inline_neuron_that_starts_with_nothing_counts_its_spikes() -> None:
    model, x = Looped(public_code, lambda x: None), torch.rand(4, 1, 8, 8)
    frame = se.profile(model, [x], time_steps=STEPS, time="loop").to_frame()
    with torch.no_grad():
        model(x)
    assert frame[frame["layer"] == "linear"]["sops"].tolist() == [10 * n for n in model.seen]


def test_no_element_wise_work_of_a_loop_is_lost() -> None:
    """zeros first: 3 steps of c*0.3, 2 of 0.9*u, each on 4 x 6 x 6 neurons, counted per sample."""
    frame = se.profile(
        Looped(leaky, STARTS["zeros"]), [torch.rand(4, 1, 8, 8)], time_steps=STEPS, time="loop"
    ).to_frame()
    scales = frame[frame["op"] == "scale"]
    assert scales["elementwise_ops"].sum() == 5 * 144 * 4
    assert set(scales["time_step"]) <= {0, 1, 2}


class Buffered(nn.Module):
    """Keeps its potential in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", torch.zeros(4, 4, 6, 6))

    def forward(self, current: Tensor) -> Tensor:
        self.u = 0.9 * self.u + current
        spike = (self.u > 0.3).float()
        self.u = self.u - spike * 0.3
        return spike


class Attributed(nn.Module):
    """Keeps its potential in an attribute, None at first."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        self.u = current if self.u is None else 0.9 * self.u + current
        spike = (self.u > 0.3).float()
        self.u = self.u - spike * 0.3
        return spike


class InPlace(nn.Module):
    """Changes its potential in place."""

    def __init__(self) -> None:
        super().__init__()
        self.u = torch.zeros(4, 4, 6, 6)

    def forward(self, current: Tensor) -> Tensor:
        self.u.mul_(0.9).add_(current)
        spike = (self.u > 0.3).float()
        self.u.sub_(spike * 0.3)
        return spike


class Listed(nn.Module):
    """Keeps its potential in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.states = [torch.zeros(4, 4, 6, 6)]

    def forward(self, current: Tensor) -> Tensor:
        u = 0.9 * self.states[-1] + current
        spike = (u > 0.3).float()
        self.states.append(u - spike * 0.3)
        return spike


NEURONS = [Buffered, Attributed, InPlace, Listed]


def stateful(neuron: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), neuron(), nn.Flatten(), nn.Linear(144, 10))


def sops_of(model: nn.Module, batches: list[Tensor]) -> list[int]:
    frame = se.profile(model, batches, time_steps=STEPS, time="call").to_frame()
    found: list[int] = frame[frame["layer"] == "3"]["sops"].tolist()
    return found


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_batch_does_not_start_with_the_potential_of_the_last_one(neuron: type[nn.Module], mode: str) -> None:
    x, y = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    with torch.inference_mode() if mode == "inference_mode" else torch.no_grad():
        one, other = sops_of(stateful(neuron), [x]), sops_of(stateful(neuron), [y])
        assert sops_of(stateful(neuron), [x, y, x]) == [2 * a + b for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("neuron", NEURONS)
def test_a_profile_leaves_the_state_as_it_was(neuron: type[nn.Module]) -> None:
    model, x = stateful(neuron), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        model(x)
        expected = [model(x) for _ in range(2)]
    again = stateful(neuron)
    with torch.no_grad():
        again(x)
    first = sops_of(again, [x])
    assert sops_of(again, [x]) == first
    with torch.no_grad():
        for out in expected:
            torch.testing.assert_close(again(x), out, rtol=0, atol=0)


def test_the_state_is_put_back_when_the_forward_raises() -> None:
    model = stateful(Buffered)
    with pytest.raises(RuntimeError):
        se.profile(model, [torch.rand(4, 1, 8, 8), torch.rand(4, 1, 5, 5)], time_steps=STEPS, time="call")
    assert not model[1].u.any()  # type: ignore[index, union-attr, operator]
