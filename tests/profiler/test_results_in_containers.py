"""What a network or a module returns is followed, whatever container it lies in."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import LIF

STEPS, SAMPLES = 3, 4


@dataclass
class Output:
    """As many models return it."""

    logits: Tensor
    hidden: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    """Without a dictionary of attributes."""

    name: str
    logits: Tensor


class Named(NamedTuple):
    """With names and places."""

    hidden: Any
    logits: Tensor


class ModelOutput(OrderedDict[str, Any]):
    """A dict with attributes, as libraries of transformers have it."""

    def __post_init__(self) -> None:
        self.__dict__.update(self)


class Frames:
    """A container of a user's own."""

    def __init__(self, x: Tensor) -> None:
        self.frames, self.owner = x, self


CONTAINERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, None),
    "dict": lambda y: {"logits": y},
    "dict of a list": lambda y: {"extra": [None, 3], "logits": y},
    "dataclass": Output,
    "dataclass in a dataclass": lambda y: Output(y, Output(y, "nothing")),
    "frozen dataclass with slots": lambda y: Slotted("last", y),
    "named tuple": lambda y: Named(None, y),
    "ordered dict": lambda y: ModelOutput(loss=None, logits=y),
    "user's dict": lambda y: UserDict(logits=y),
    "user's object": Frames,
    "namespace": lambda y: SimpleNamespace(step=2, logits=y),
    "tuple of dataclasses": lambda y: (Output(y), Output(y)),
}


class LastStep(nn.Module):
    """A loop over time that returns the logits of the last step alone, in a container."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.lif, self.wrap = nn.Linear(6, 5), nn.Linear(5, 3), Leaky(), wrap

    def forward(self, x: Tensor) -> Any:
        self.lif.u = None
        return self.wrap([self.b(self.lif(self.a(x))) for _ in range(STEPS)][-1])


class Leaky(nn.Module):
    """A neuron written by hand."""

    u: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        u = current if self.u is None else self.u + current
        spike = (u > 0.3).float()
        self.u = u - 0.3 * spike
        return spike


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_output_is_known_in_every_container(name: str) -> None:
    x = torch.rand(SAMPLES, 6)
    with torch.no_grad():
        y = LastStep(CONTAINERS["tensor"])(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    counts = se.profile(LastStep(CONTAINERS[name]), [(x, y)], time_steps=STEPS)
    frame = counts.to_frame()
    needed = frame[frame["layer"] == "b"].set_index("time_step")["needed"]
    assert needed.to_dict() == {0: False, 1: False, 2: True}
    assert counts.header["accuracy"] == 3 / 4


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_network_called_once_per_step_is_scored_in_every_container(name: str) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.a, self.lif, self.b = nn.Linear(6, 5), Leaky(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Any:
            return CONTAINERS[name](self.b(self.lif(self.a(x))))

    x, y = torch.rand(SAMPLES, 6), torch.zeros(SAMPLES, dtype=torch.long)
    model = Step()
    with torch.no_grad():
        spikes = [model.lif(model.a(x)) for _ in range(STEPS)]
        right = int((sum(model.b(spike) for spike in spikes).argmax(1) == y).sum())
    model.lif.u = None
    counts = se.profile(model, [(x, y)], time_steps=STEPS, time="call")
    assert counts.header["accuracy"] == right / SAMPLES
    rows = counts.rows[counts.rows["layer"] == "b"]
    assert rows["sops"].tolist() == [3 * int(spike.sum()) for spike in spikes]


class Between(nn.Module):
    """Modules that hand containers to each other."""

    def __init__(self, wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encode, self.decode = Encoder(wrap), Decoder(unwrap)

    def forward(self, x: Tensor) -> Any:
        return self.decode(self.encode(x))


class Encoder(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.lif, self.wrap = nn.Linear(6, 5), LIF(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.lif(self.fc(x)))


class Decoder(nn.Module):
    def __init__(self, unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.fc, self.unwrap = nn.Linear(5, 3, bias=False), unwrap

    def forward(self, given: Any) -> Any:
        return self.fc(self.unwrap(given))


UNWRAPS: dict[str, Callable[[Any], Tensor]] = {
    "tensor": lambda given: given,
    "tuple": lambda given: given[0],
    "dict": lambda given: given["logits"],
    "dataclass": lambda given: given.logits,
    "frozen dataclass with slots": lambda given: given.logits,
    "named tuple": lambda given: given.logits,
    "user's dict": lambda given: given["logits"],
    "user's object": lambda given: given.frames,
    "namespace": lambda given: given.logits,
}


@pytest.mark.parametrize("name", UNWRAPS)
def test_a_container_between_modules_hides_nothing(name: str) -> None:
    model, x = Between(CONTAINERS[name], UNWRAPS[name]), 3 * torch.rand(STEPS, SAMPLES, 6)
    frame = se.profile(model, [x, x], time="axis0", time_steps=STEPS).to_frame()
    with torch.no_grad():
        spikes = model.encode.lif(model.encode.fc(x))
    rows = frame[frame["layer"] == "decode.fc"]
    assert rows["sops"].tolist() == [2 * 3 * int(step.count_nonzero()) for step in spikes]
    assert set(rows["input_kind"]) == {"binary"}


def test_a_neuron_that_returns_a_dataclass_is_found_by_its_spikes() -> None:
    class Told(Leaky):
        def forward(self, current: Tensor) -> Any:
            return Output(super().forward(current), self.u)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.a, self.lif, self.b = nn.Linear(6, 5), Told(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Any:
            self.lif.u = None
            return sum(self.b(self.lif(self.a(x)).logits) for _ in range(STEPS))

    frame = se.profile(Net(), [torch.rand(SAMPLES, 6)], time_steps=STEPS).to_frame()
    neurons = frame[frame["op"] == "neuron"]
    assert neurons["layer"].tolist() == ["lif"] * STEPS
    assert (frame[frame["layer"] == "b"]["sops"].to_numpy() == 3 * neurons["spikes"].to_numpy()).all()
