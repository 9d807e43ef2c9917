"""Neurons of sinabs, by the names of their classes."""

from __future__ import annotations

import re
from typing import Any

from snn_energy.profiler.neurons.spec import NeuronSpec, as_text


def neuron_spec(module: Any, kind: type) -> NeuronSpec | None:
    """IAF, LIF, ALIF and ExpLeak; the squeezed ones read (B*T, ...). They may emit several spikes per step."""
    if not re.match(r"sinabs\.layers\.(iaf|lif|alif|exp_leak)$", kind.__module__):
        return None
    is_squeezed = "Squeeze" in type(module).__name__ or hasattr(module, "squeeze_forward")
    threshold = getattr(module, "spike_threshold", None)
    return NeuronSpec(
        "sinabs",
        "its class",
        "flat-batch" if is_squeezed else "batch-first",
        integrates_only=threshold is None,
        threshold=as_text(threshold),
        reset=type(getattr(module, "reset_fn", None)).__name__,
        state_variables=sum(name not in DERIVED for name, _ in module.named_buffers(recurse=False)) or None,
    )


DERIVED = frozenset(("spike_threshold",))  # of ALIF, computed from b in every step
