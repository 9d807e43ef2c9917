"""Neurons of Norse, by the names of their classes."""

from __future__ import annotations

from typing import Any

from snn_energy.profiler.neurons.spec import NeuronSpec, as_text


def neuron_spec(module: Any, kind: type) -> NeuronSpec | None:
    """Classes named "...Cell" run one step per call, others all steps. The state is an argument and a result."""
    if not kind.__module__.startswith("norse.torch.module.snn"):
        return None
    parameters = getattr(module, "p", None)
    return NeuronSpec(
        "norse",
        "its class",
        "step" if kind.__name__.endswith("Cell") else "time-first",
        integrates_only=type(module).__name__.startswith("LI") and not type(module).__name__.startswith("LIF"),
        threshold=as_text(getattr(parameters, "v_th", None)),
        reset=f"hard, to {as_text(getattr(parameters, 'v_reset', None))}",
    )
