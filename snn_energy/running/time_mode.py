"""Where time lies in what a network is given, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError

SHAPES = {"axis0": "(T, B, ...)", "axis1": "(B, T, ...)", "flat": "(T*B, ...)", "flat-batch": "(B*T, ...)"}


def repeated(x: Tensor, layout: str, steps: int) -> Tensor:
    """(B, ...) given T times over: (T, B, ...), (B, T, ...), (T*B, ...) or (B*T, ...)."""
    axis = 0 if layout in ("axis0", "flat") else 1
    stacked = x.unsqueeze(axis).repeat([steps if i == axis else 1 for i in range(x.dim() + 1)])
    return stacked if layout.startswith("axis") else stacked.flatten(0, 1)


def step_by_step(model: nn.Module, xs: Sequence[Tensor], before: Callable[[int], None] | None = None) -> list[Any]:
    """What the model gives, called once per time step. A state that it returns is handed back to it.

    It does so where its forward has a second argument that is None by default, and it returns two things.
    ``before`` is told the step before each call.
    """
    outs: list[Any] = []
    takes_state = takes_a_state(model)
    for step, x in enumerate(xs):
        if before is not None:
            before(step)
        gives_state = takes_state and outs and isinstance(outs[-1], tuple) and len(outs[-1]) == 2
        outs.append(model(x, outs[-1][1]) if gives_state else model(x))
    return outs


def require_one_argument(model: nn.Module, x: Any) -> None:
    """Raises ProfilingError where a forward cannot be called with the batch alone."""
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError as misfit:
        raise ProfilingError(
            f"{type(model).__name__}: its forward cannot be called with one tensor ({misfit}); wrap it in a module "
            "whose forward takes the batch alone"
        ) from misfit
    except ValueError:  # it has no signature
        return


def takes_a_state(model: nn.Module) -> bool:
    """True where a forward has exactly one further argument, which is None where it is left out."""
    try:
        further = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    is_positional = len(further) == 1 and further[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return is_positional and further[0].default is None


def _run(model: nn.Module, x: Tensor, mode: str, steps: int) -> Any:
    """What the model gives, called as a time mode says."""
    if mode in ("call", "call-axis0"):
        return step_by_step(model, [x] * steps if mode == "call" else list(x))
    return model(repeated(x, mode.removeprefix("repeat-"), steps) if mode.startswith("repeat-") else x)


def few(x: Any, samples: int, mode: str, steps: int | None) -> Tensor:
    """So many samples of a batch; where it has fewer, some of them again. Raises ProfilingError for no samples."""
    if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
        raise ProfilingError("the loader must give tensors with at least one sample in front to look at the model with")
    axis = 1 if mode in ("axis0", "call-axis0", "flat") else 0
    if mode in ("flat", "flat-batch"):
        if x.shape[0] % (steps or 1):
            raise ProfilingError(f"time='{mode}' wants T={steps} rows a sample, the loader gave {tuple(x.shape)}")
        x = x.unflatten(0, (steps or 1, -1) if mode == "flat" else (-1, steps or 1))
    chosen: Tensor = x.index_select(axis, torch.arange(samples, device=x.device) % x.shape[axis])
    return chosen.flatten(0, 1) if mode in ("flat", "flat-batch") else chosen
