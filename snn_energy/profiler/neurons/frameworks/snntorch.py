"""Neurons of snnTorch, by the names of their classes."""

from __future__ import annotations

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
    )
