"""Which modules spike, and of which framework: known by their class, named by the user, or found by their output.

No framework is imported here: the names of a module's classes identify its framework. ``frameworks`` holds what differs
between them: time axis of the input, spike amplitude, threshold and reset.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError, nearest
from snn_energy.models.neurons import LIF
from snn_energy.profiler.neurons.frameworks import nir, norse, sinabs, snntorch, spikingjelly
from snn_energy.profiler.neurons.own import LIF_STATE_VARIABLES
from snn_energy.profiler.neurons.spec import NeuronSpec


def spiking_modules(model: nn.Module, named: Iterable[str | type[nn.Module]] = ()) -> dict[str, NeuronSpec]:
    """Layer name -> NeuronSpec of every module that spikes according to its class or the user.

    named: classes, their (dotted) names, or layer names. Raises ProfilingError if one matches nothing. A module within
    a spiking one is part of it. A neuron with weights of its own (a recurrent one) is left out: it is decomposed into
    the operations that it is made of, so that its weights are counted (``neurons_with_weights`` lists them).
    """
    wanted = list(named)
    found: dict[str, NeuronSpec] = {}
    matched: set[Any] = set()
    for name, module in model.named_modules():
        hits = [item for item in wanted if _is_named(name, module, item)]
        matched.update(hits)
        if any(name.startswith(f"{outer}.") or outer == "" for outer in found):
            continue
        spec = known_class(module)
        if hits and spec is None and _holds_layers(module):
            raise ProfilingError(hidden_work_message(name))
        if spec is None and hits:
            spec = NeuronSpec("hand-written", "its name", None)
        if spec is not None and (spec.known_by == "its name" or not holds_weights(module)):
            found[name] = spec
    for item in wanted:
        if item not in matched:
            text = item if isinstance(item, str) else item.__name__
            classes = {type(m).__name__ for m in model.modules()} | {name for name, _ in model.named_modules() if name}
            raise ProfilingError(
                f"neuron '{text}': the model has no module of that class or name{nearest(text, classes)}"
            )
    return found


def neurons_with_weights(model: nn.Module) -> list[str]:
    """Neurons of a framework with weights of their own; they are counted as the operations they are made of."""
    return [n for n, m in model.named_modules() if known_class(m) is not None and holds_weights(m)]


def _is_named(name: str, module: nn.Module, item: str | type[nn.Module]) -> bool:
    if not isinstance(item, str):
        return isinstance(module, item)
    kind = type(module)
    return item in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}") or (item == name and bool(name))


def holds_weights(module: nn.Module) -> bool:
    """True if a module, or one within it, holds a weight matrix or a torch layer that has weights or pools."""
    if isinstance(getattr(module, "recurrent_weights", None), Tensor):  # Norse: a parameter or a plain tensor
        return True
    if any(p.dim() >= 2 and min(p.shape[:2]) > 1 for p in module.parameters()):
        return True
    return _holds_layers(module)


def _holds_layers(module: nn.Module) -> bool:
    return any(
        type(m).__module__.startswith("torch.nn.modules") and (m._parameters or "pool" in type(m).__module__)
        for m in module.modules()
    )


def is_subclass(module: nn.Module, spec: NeuronSpec) -> bool:
    """True for a user class derived from a framework's neuron: it may do more than the neuron update."""
    root = type(module).__module__.partition(".")[0]
    return spec.framework not in ("hand-written", "nir", root)


def hidden_work_message(name: str) -> str:
    """The error text for a module that was named as a neuron and does more than the neuron update."""
    return (
        f"neuron '{name or 'the model'}': it holds layers, products or weights that would not be counted; name the "
        "neuron within it, or none: then it is counted as the operations that it is made of"
    )


def known_class(module: nn.Module) -> NeuronSpec | None:
    """The NeuronSpec of a module, from its class; None if it is not a known neuron."""
    if isinstance(module, LIF):
        reset = "soft" if module.rule != "spikformer" else "hard, to 0"
        return NeuronSpec(
            "snn_energy",
            "its class",
            "time-first",
            module.amplitude,
            threshold=f"{module.v_th:g}",
            reset=reset,
            state_variables=LIF_STATE_VARIABLES,
        )
    if getattr(module, "spiking_neuron", False) is True:
        return nir.neuron_spec(module)
    for kind in type(module).__mro__:
        root = kind.__module__.partition(".")[0]
        reader = _READERS.get(root)
        if reader is not None:
            spec = reader(module, kind)
            if spec is not None:
                return spec
    return None


_READERS: Mapping[str, Callable[[Any, type], NeuronSpec | None]] = {
    "spikingjelly": spikingjelly.neuron_spec,
    "snntorch": snntorch.neuron_spec,
    "sinabs": sinabs.neuron_spec,
    "norse": norse.neuron_spec,
}


def reset_states(model: nn.Module) -> None:
    """Reset every module of a framework with the framework's own method; others are not changed."""
    for module in model.modules():
        if not any(kind.__module__.partition(".")[0] in _READERS for kind in type(module).__mro__):
            continue
        for word in ("reset", "reset_states", "reset_mem", "reset_state"):
            method = getattr(module, word, None)
            if callable(method):
                with contextlib.suppress(TypeError):  # a method that needs arguments is no reset
                    method()
                break
