"""A network of which no module spikes, and in which nothing hints at time, is counted once per sample: T = 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snn_energy.core.errors import ProfilingError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.running.inputs import call
from snn_energy.running.module_state import State
from snn_energy.running.outputs import are_same, tensors_of
from snn_energy.running.time_mode import MODES

ONCE_PER_SAMPLE = Interpretation("inside", 1, "no module of it spikes: counted once per sample, T = 1", {})
_NAMES_OF_TIME = (
    "t", "step", "time_step", "time_steps", "timestep", "timesteps", "num_steps", "nb_steps", "n_steps",
    "num_timesteps", "time_window",
)  # fmt: skip
_MAKES_SPIKES = ("gt", "ge", "lt", "le", "greater", "less", "heaviside", "sign", "sgn", "round", "floor", "ceil")


@torch.no_grad()
def hint_of_time(model: nn.Module, x: Any, count: Callable[[Any], Counts]) -> str | None:
    """Why a network without neurons may run in time steps all the same; None if nothing hints at it.

    x: a batch, samples in front. count: counts a batch at T = 1.
    """
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key.lower() in _NAMES_OF_TIME and isinstance(value, int) and value > 1:
                return f"{f'{name}.' if name else ''}{key} is {value}"
    some = MODES["inside"].first_samples(x, 2, 1)
    if _keeps_state(model, some):
        return "it gives something else in a second call: it keeps a state"
    try:
        rows = count(some).rows
    except ProfilingError:  # recurs where it is counted
        return None
    except Exception as error:  # noqa: BLE001 it wants something else than samples alone
        return f"it raises {type(error).__name__} on two samples"
    again = rows.loc[rows["op"].isin(OPERATIONS) & rows["layer"].str.contains("#call"), "layer"]
    if len(again):
        return f"{again.iloc[0].partition('#')[0]} is called several times"
    makes = rows.loc[(rows["op"] == "compare") & rows["note"].str.split().str[0].isin(_MAKES_SPIKES), "layer"]
    if len(makes):
        return f"{makes.iloc[0].partition('#')[0] or 'the model'} compares or rounds, which may make spikes"
    return None


def _keeps_state(model: nn.Module, x: Any) -> bool:
    """True if the output of a second call differs from that of the first."""
    state = State(model)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            one = [out.clone() for out in tensors_of(call(model, x))]
            torch.manual_seed(0)
            other = [out.clone() for out in tensors_of(call(model, x))]
    except Exception:  # noqa: BLE001 the error recurs in the run that counts
        return False
    finally:
        state.restore()
    return not are_same(one, other)


def needs_steps(hint: str, calls: int | None) -> ProfilingError:
    """The error for a network that may run in time steps and does not say how many. calls: of its layers, if equal."""
    often = f"; it calls its layers {calls} times: if those are time steps, --time-steps {calls}" if calls else ""
    return ProfilingError(
        f"time_steps= is needed (--time-steps): no module of it is known to spike, but {hint}{often}; with no time in "
        "it, give time_steps=1"
    )
