"""Neurons of snnTorch, by the names of their classes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from snn_energy.profiler.neurons.spec import NeuronSpec, as_text, is_of_package


def neuron_spec(module: Any, kind: type) -> NeuronSpec | None:
    """Leaky, Synaptic, Alpha, Lapicque, ... run one step per call; LeakyParallel, StateLeaky, ... all steps."""
    if not kind.__module__.startswith("snntorch._neurons") or "Recurrent" in kind.__name__:
        return None
    factor, surrogate = getattr(module, "graded_spikes_factor", None), getattr(module, "spike_grad", None)
    is_plain = type(module) is kind and kind.__name__ in ("Leaky", "Synaptic", "Alpha", "Lapicque")
    is_plain = is_plain and isinstance(factor, Tensor) and factor.numel() == 1 and float(factor.detach()) == 1
    is_plain = is_plain and is_of_package(surrogate, "snntorch.") and not getattr(module, "inhibition", True)
    return NeuronSpec(
        "snntorch",
        "its class",
        "time-first" if any(word in kind.__name__ for word in ("Parallel", "Kernel", "State", "Assoc")) else "step",
        1.0 if is_plain else None,
        threshold=as_text(getattr(module, "threshold", None)),
        reset=str(getattr(module, "_reset_mechanism", "?")),
        state_variables=_state_variables(kind),
    )


# All steps in one call: forms of the recurrence of Leaky, which keeps its potential.
LEAKY_IN_PARALLEL = frozenset(("LeakyParallel", "LeakyKernel", "StateLeaky", "LinearLeaky"))


def _state_variables(kind: type) -> int | None:
    """The states that a class takes beside its input: mem, and syn of Synaptic, or syn_exc and syn_inh of Alpha."""
    if kind.__name__ in LEAKY_IN_PARALLEL:
        return 1
    states = list(inspect.signature(kind.forward).parameters.values())[2:]  # type: ignore[attr-defined]
    return sum(state.default is None for state in states) or None
