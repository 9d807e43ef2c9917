"""Refuses a network that gives something else in a second run on the same samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.neurons.known import reset_states
from snn_energy.running.module_state import State
from snn_energy.running.outputs import tensors_of
from snn_energy.running.time_mode import TimeMode


@torch.no_grad()
def require_repeatable(model: nn.Module, x: Any, samples: int, mode: TimeMode, steps: int) -> None:
    """Raise ProfilingError if two runs on the first ``samples`` of a batch, reset and with the same seed, differ."""
    outs: list[list[Tensor]] = []
    try:
        given = mode.first_samples(x, samples, steps)
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                torch.manual_seed(0)
                state = State(model)
                try:
                    reset_states(model)
                    outs.append([out.detach().clone() for out in tensors_of(mode.run(model, given, steps))])
                finally:
                    state.restore()
    except Exception:  # noqa: BLE001 the error recurs in the run that counts
        return
    one, other = outs
    is_same = len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
    if not is_same:
        raise ProfilingError(
            f"{type(model).__name__}: the same samples give something else in a second run: a state is kept where it "
            "cannot be put back (outside its modules, in a generator or an object of C); keep it in an attribute of a "
            "module, or reset it in the forward"
        )
