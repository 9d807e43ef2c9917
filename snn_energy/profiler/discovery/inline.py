"""Networks whose neurons are written inline: time is where every layer with weights is called once per time step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.profiler.neurons.known import reset_states
from snn_energy.profiler.rules.plain_layers import plain_base
from snn_energy.running.inputs import call
from snn_energy.running.module_state import State
from snn_energy.running.time_mode import MODES, SAMPLES

Shape = tuple[int, ...]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # one of them may belong to one time step


@torch.no_grad()
def read_shapes(model: nn.Module, x: Any) -> dict[str, list[Shape]]:
    """What every convolution and linear layer reads, call by call, in a forward from rest; nothing if it raises."""
    shapes: dict[str, list[Shape]] = {}
    handles: list[Any] = []
    state = State(model)
    for name, module in model.named_modules():
        if plain_base(type(module)) not in (None, *NORMS):
            read: list[Shape] = shapes.setdefault(name, [])
            handles.append(module.register_forward_pre_hook(_noting(read)))
    try:
        reset_states(model)
        call(model, x)
    except Exception:  # noqa: BLE001 the error recurs in the run that counts
        return {}
    finally:
        state.restore()
        for handle in handles:
            handle.remove()
    return {name: read for name, read in shapes.items() if read}


def _noting(read: list[Shape]) -> Any:
    def hook(module: nn.Module, args: Any) -> None:
        read.extend(tuple(arg.shape) for arg in args[:1] if isinstance(arg, Tensor))

    return hook


def calls_per_forward(model: nn.Module, x: Any) -> int | None:
    """How often a forward calls each of its layers with weights, samples in front; None if they are not called alike.

    A layer may be called once instead, in front of a loop or behind it.
    """
    given = MODES["inside"].first_samples(x, SAMPLES[0], 1)
    reads = read_shapes(model, given)
    counts = {len(shapes) for shapes in reads.values()} - {1}
    if len(counts) != 1 or any(len(set(shapes)) > 1 or shapes[0][0] != SAMPLES[0] for shapes in reads.values()):
        return None
    return counts.pop()


def inline_time(model: nn.Module, x: Any, steps: int) -> str | None:
    """The mode loop if a forward calls its layers with weights once per step; None if the batch may hold T steps."""
    if steps < 2 or calls_per_forward(model, x) != steps:
        return None
    axes = set(axes_with(x, steps)) - ({"axis0"} if runs_its_own_steps(model, x, steps) else set())
    return None if axes else "loop"


def runs_its_own_steps(model: nn.Module, x: Any, steps: int) -> bool:
    """True if a forward calls its layers T times also on two samples of T: the first axis holds samples, not steps."""
    return steps not in (1, SAMPLES[0]) and calls_per_forward(model, x) == steps


def axes_with(x: Any, steps: int) -> list[str]:
    """The time modes in which an axis of the batch holds T steps."""
    return [f"axis{axis}" for axis in range(min(2, x.dim())) if x.shape[axis] == steps > 1]
