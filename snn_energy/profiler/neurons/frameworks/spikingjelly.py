"""Neurons of SpikingJelly, by the names of their classes."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from snn_energy.profiler.neurons.spec import NeuronSpec, as_text, is_of_package


def neuron_spec(module: Any, kind: type) -> NeuronSpec | None:
    """activation_based and clock_driven neurons: modules of their ``neuron`` packages."""
    if not re.match(r"spikingjelly\.(activation_based|clock_driven)\.neuron(\.|$)", kind.__module__):
        return None
    is_multi = "MultiStep" in kind.__name__ or getattr(module, "step_mode", "s") == "m"
    if "clock_driven" not in kind.__module__ and not hasattr(module, "step_mode"):
        is_multi = True  # NoisyBaseNode, PSN, ... are multi-step only
    surrogate = getattr(module, "surrogate_function", None)
    plain = {"IFNode", "LIFNode", "ParametricLIFNode", "MultiStepIFNode", "MultiStepLIFNode", "SimpleIFNode",
             "SimpleLIFNode", "MultiStepParametricLIFNode", "QIFNode", "EIFNode", "KLIFNode"}  # fmt: skip
    is_plain = type(module) is kind and kind.__name__ in plain and is_of_package(surrogate, "spikingjelly.")
    v_reset = getattr(module, "v_reset", None)
    return NeuronSpec(
        "spikingjelly",
        "its class",
        "time-first" if is_multi else "step",
        1.0 if is_plain and getattr(surrogate, "spiking", False) is True else None,
        integrates_only="NonSpiking" in kind.__name__,
        threshold=as_text(getattr(module, "v_threshold", None)),
        reset="soft" if v_reset is None else f"hard, to {as_text(v_reset)}",
        state_variables=_state_variables(module, kind.__name__),
    )


def _state_variables(module: Any, kind: str) -> int | None:
    """The memories that rest at a number or tensor: v, and u, w, m or c of neurons with a second variable.

    Those that rest at None are set by a run alone (a trace of training). A parallel spiking neuron weighs the inputs of
    k steps (SlidingPSN, MaskedPSN) or of all T (PSN) and keeps those of the other steps.
    """
    if kind in ("PSN", "MaskedPSN", "SlidingPSN"):
        order = module.T if kind == "PSN" else module.k
        return int(order) - 1
    memories = getattr(module, "_memories_rv", {}).items()
    kept = sum(isinstance(value, (int, float, Tensor)) for name, value in memories if name != "time_step")
    return kept or (1 if kind.startswith("NonSpiking") else None)  # whose potential rests at None
