"""Neurons of a NIR graph (snn_energy.checkpoints.nir)."""

from __future__ import annotations

from typing import Any

from snn_energy.profiler.neurons.spec import NeuronSpec, as_text, declared_state_variables


def neuron_spec(module: Any) -> NeuronSpec:
    """The spec of a neuron of a NIR graph, from the attributes of the module."""
    return NeuronSpec(
        "nir",
        "its class",
        "step",
        getattr(module, "amplitude", None),
        getattr(module, "integrates_only", False),
        as_text(getattr(module, "v_threshold", None)),
        str(getattr(module, "reset", "?")),
        declared_state_variables(module),
    )
