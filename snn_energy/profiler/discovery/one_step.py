"""Whether a batch (1, ...) that is counted at T = 1 holds one sample, or one time step of several samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.profiler.neurons.known import reset_states
from snn_energy.running.inputs import call
from snn_energy.running.module_state import State
from snn_energy.running.outputs import tensors_of


@torch.no_grad()
def has_time_in_front(model: nn.Module, x: Any) -> bool:
    """True if the first axis of a batch (1, B, ...) is that of time and the second that of samples.

    By runs: of samples in front, three would give three results, the last as it is alone. A network that loops over
    one step gives one, one that holds T = 1 rejects them, and neurons that run along the axis go on from one to the
    next. Of samples behind time, the first gives what it gives beside the others. False where results do not show it.
    """
    if not isinstance(x, Tensor) or x.dim() < 3 or x.shape[0] != 1 or not x.is_floating_point():
        return False
    before = State(model)
    try:
        one, three = (_first_result(model, given) for given in (x, torch.cat([x, 4 * x, x])))
        if one is None or one.dim() == 0 or (three is not None and _are_samples(one, three)):
            return False
        return _is_sample(_first_result(model, x[:, :1]), one, x.shape[1])
    finally:
        before.restore()


def _are_samples(one: Tensor, three: Tensor) -> bool:
    """True if the last of three results is as one alone, or if they are neither one nor three."""
    if three.dim() != one.dim() or len(one) != 1 or len(three) != 3:
        return one.shape != three.shape
    return _is_close(three[-1], one[0])


def _is_sample(first: Tensor | None, all_of_them: Tensor, samples: int) -> bool:
    """True if a result of one sample is the first of those of all samples, on the first or the second axis."""
    if first is None or first.dim() != all_of_them.dim():
        return False
    axis = next((i for i in (0, 1) if i < first.dim() and (first.shape[i], all_of_them.shape[i]) == (1, samples)), None)
    return axis is not None and _is_close(first, all_of_them.narrow(axis, 0, 1))


def _is_close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-5, equal_nan=True)


def _first_result(model: nn.Module, x: Tensor) -> Tensor | None:
    """The first tensor of what the network returns, from rest; None if it rejects this shape."""
    reset_states(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return next((out.clone() for out in tensors_of(call(model, x.clone()))), None)
        except Exception:  # noqa: BLE001 whatever a model raises
            return None
