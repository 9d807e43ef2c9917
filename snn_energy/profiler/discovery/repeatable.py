"""Refuses a network that gives something else in a second run on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.discovery.observe import observe_run
from snn_energy.profiler.discovery.weights_guard import unchanged_weights
from snn_energy.profiler.neurons.known import reset_states
from snn_energy.running.evaluated import evaluation_mode
from snn_energy.running.module_state import State
from snn_energy.running.outputs import are_same, tensors_of
from snn_energy.running.random_numbers import seeded
from snn_energy.running.time_mode import SAMPLES, TimeMode

SEEDS = 8


class FirstRun(NamedTuple):
    """A run on a few samples: the samples, the time mode, T, and the tensors that it returned."""

    given: Any
    mode: TimeMode
    steps: int
    outs: Sequence[Tensor]


@torch.no_grad()
def require_repeatable(model: nn.Module, x: Any, samples: int, mode: TimeMode, steps: int) -> None:
    """Raise ProfilingError if two runs on the first ``samples`` of a batch, reset and with the same seed, differ."""
    few = mode.first_steps(steps)
    try:
        given = mode.of_first_steps(mode.first_samples(x, samples, steps), few)
        outs: list[Tensor] = []
        observe_run(model, [], given, mode, few, outs=outs)
    except Exception:  # noqa: BLE001 the error recurs in the run that counts
        return
    require_same_again(model, FirstRun(given, mode, few, outs))


@torch.no_grad()
def require_same_again(model: nn.Module, first: FirstRun) -> None:
    """Raise ProfilingError if a run is not the same when it is done again."""
    outs: list[Tensor] = []
    try:
        observe_run(model, [], first.given, first.mode, first.steps, outs=outs)
    except Exception:  # noqa: BLE001 the error recurs in the run that counts
        return
    if not are_same(first.outs, outs):
        raise ProfilingError(
            f"{type(model).__name__}: the same samples give something else in a second run: a state is kept where it "
            "cannot be put back (outside its modules, in a generator or an object of C); keep it in an attribute of a "
            "module, or reset it in the forward"
        )


@torch.no_grad()
def depends_on_seed(model: nn.Module, x: Any, mode: TimeMode, steps: int) -> bool:
    """True if runs on the first samples of a batch, reset and with other seeds, differ; False if a run raises.

    Spikes can agree by chance under two seeds, so several are tried until one differs.
    """
    given, first = mode.first_samples(x, SAMPLES[0], steps), list[Tensor]()
    before = State(model)
    with evaluation_mode(model), unchanged_weights(model), torch.random.fork_rng(devices=[]):
        for seed in range(SEEDS):
            try:
                reset_states(model)
                with seeded(seed):
                    outs = [out.clone() for out in tensors_of(mode.run(model, given, steps))]
            except Exception:  # noqa: BLE001 it was counted before
                return False
            finally:
                before.restore()
            first = first if seed else outs
            if not are_same(first, outs):
                return True
    return False
