"""What a member of the zoo is, and the list of all of them.

A member is a small network built as a public repository builds its networks: where time lies, how neurons keep their
state, what is normalised, added and averaged where. The code is our own; the repository is named for the pattern.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

T = 4  # time steps of every member, unless it says otherwise
ZOO: list[Member] = []
NEURONS: list[type[nn.Module]] = []  # classes of neurons; nothing on a hand-written class itself tells


@dataclass(frozen=True)
class Size:
    """How large a member is built: pixels and channels. The tests take the smallest, the table larger ones."""

    pixels: int = 8
    width: int = 8
    classes: int = 3


@dataclass(frozen=True)
class Member:
    """One network. order: what is in front of T*B ("time" or "samples"), or "last" where time is the last axis."""

    name: str
    repository: str
    build: Callable[[Size], nn.Module]
    data: Callable[[Size, int], Any]
    run: Callable[[nn.Module, Any], Any]
    order: str = "time"
    steps: int = T
    told: dict[str, Any] = field(default_factory=dict)  # time_steps, only where nothing in the network says T
    mixes_time: tuple[str, ...] = ()  # layers that read several time steps at once: compared in total
    neurons: bool = True  # False: written inline, counted as the operations that they consist of

    @property
    def pattern(self) -> str:
        """What the docstring of its function says."""
        return " ".join((inspect.getdoc(self.build) or "").split())

    def batches(self, size: Size, samples: tuple[int, ...] = (3, 1)) -> list[Any]:
        """Batches as a loader gives them, with labels, the last one of a single sample."""
        return [(self.data(size, count), torch.zeros(count, dtype=torch.long)) for count in samples]

    def at_rest(self, size: Size) -> nn.Module:
        """The network as a user has it after training: BatchNorms have seen data, no state is left over."""
        teacher = self._weights(size)
        for module in teacher.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                if module.affine:
                    nn.init.uniform_(module.weight, 1.0, 2.0)
                    nn.init.uniform_(module.bias, 0.5, 1.5)
        with torch.no_grad():
            for _ in range(2):
                self.run(teacher.train(), self.data(size, 3))
        model = self._weights(size)
        norms = dict(teacher.named_modules())
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.load_state_dict(norms[name].state_dict())
        return model.eval()

    def like(self, model: nn.Module, size: Size) -> nn.Module:
        """Another network with the same weights, at rest; not every framework's network can be copied."""
        twin = self._weights(size).eval()
        twin.load_state_dict(model.state_dict())
        return twin

    def _weights(self, size: Size) -> nn.Module:
        torch.manual_seed(0)
        return self.build(size)


def forward(model: nn.Module, x: Any) -> Any:
    """One call: all time is inside, or in the batch."""
    return model(x)


def images(size: Size, count: int) -> Tensor:
    """(B, 3, H, W) of grey levels."""
    return torch.rand(count, 3, size.pixels, size.pixels, generator=torch.Generator().manual_seed(count))


def network(
    repository: str,
    data: Callable[[Size, int], Any] = images,
    run: Callable[[nn.Module, Any], Any] = forward,
    **about: Any,
) -> Callable[[Callable[[Size], nn.Module]], Callable[[Size], nn.Module]]:
    """Put the network that a function builds into the zoo; the function is named after it."""

    def enter(build: Callable[[Size], nn.Module]) -> Callable[[Size], nn.Module]:
        ZOO.append(Member(build.__name__, repository, build, data, run, **about))
        return build

    return enter


def neuron(kind: type[nn.Module]) -> type[nn.Module]:
    """Note a class of neurons, for the oracle alone."""
    NEURONS.append(kind)
    return kind


def events(*front: str) -> Callable[[Size, int], Tensor]:
    """Spikes of an event camera, two polarities: axes "T" and "B" in the order given, then (2, H, W)."""

    def data(size: Size, count: int) -> Tensor:
        sizes = [T if axis == "T" else count for axis in front]
        made = torch.rand(*sizes, 2, size.pixels, size.pixels, generator=torch.Generator().manual_seed(count))
        return (made < 0.3).float()

    return data
