"""Neurons of Norse, by the names of their classes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

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
        state_variables=_state_variables(module),
    )


def _state_variables(module: Any) -> int | None:
    """The tensors of the state that the class starts from: (v, i) of LIFCell, ((v, i), rho) of LIFRefracCell."""
    make_state = getattr(module, "initial_state", None)
    if not callable(make_state):
        return None
    with torch.no_grad():
        leaves = tree_leaves(make_state(torch.zeros(1, 1)))
    return sum(isinstance(leaf, torch.Tensor) for leaf in leaves) or None
