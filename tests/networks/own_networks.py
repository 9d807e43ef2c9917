"""Small networks of our neurons that the tests share, and how they are set up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.models.neurons import DTSS


class Does(nn.Module):
    """A network written as one function of itself and its input."""

    def __init__(self, forward: Callable[..., Any], time_steps: int | None = None, **modules: nn.Module) -> None:
        super().__init__()
        self.does = forward
        if time_steps is not None:
            self.time_steps = time_steps
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def spikes(*shape: int, rate: float = 0.4) -> Tensor:
    return (torch.rand(*shape) < rate).float()


def set_active_steps(layer: DTSS, steps: int) -> None:
    """T_l = steps: TS^t is 1.5 up to there and 0 behind."""
    with torch.no_grad():
        layer.tp.zero_()
        if steps:
            layer.tp[steps - 1] = 1.5
    assert layer.active_steps() == steps


def randomise_norms(model: nn.Module, seed: int = 1) -> None:
    """Batch statistics and biases under which layers fire."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) * 1.2 - 0.1)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
