"""Which modules spike, in whose framework: known by their class, named by the user, or found by their output.

No framework is imported here: a module says by the names of its classes where it comes from. Per framework only what
differs: where time is in what a neuron reads, how its state is reset, what one spike is worth, how it resets.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError, nearest
from snn_energy.models.neurons import LIF

Layout = Literal["step", "time-first", "batch-first", "flat-batch"]
LAYOUTS: Mapping[Layout, str] = {
    "step": "one time step a call, (B, ...)",
    "time-first": "all time steps in one call, (T, B, ...)",
    "batch-first": "all time steps in one call, (B, T, ...)",
    "flat-batch": "all time steps in one call, (B*T, ...), sample major",
}


@dataclass(frozen=True)
class Spiking:
    """What is believed of a module that spikes.

    framework: "snn_energy", "nir", "spikingjelly", "snntorch", "sinabs", "norse" or "hand-written". known_by: "its
    class", "its name" (the user gave it) or "its output". layout: where time is in what it reads; None where only a run
    can tell. amplitude: the value of every spike where the framework's own forward proves it, else None: the values are
    looked at. integrates_only: it keeps a potential and never spikes. threshold, reset: as texts, for a reader.
    """

    framework: str
    known_by: str
    layout: Layout | None
    amplitude: float | None = None
    integrates_only: bool = False
    threshold: str = "?"
    reset: str = "?"


def spiking_modules(model: nn.Module, named: Iterable[str | type[nn.Module]] = ()) -> dict[str, Spiking]:
    """Layer name -> what is believed of it, for every module that a framework's class or the user says to spike.

    named: classes, their (dotted) names, or names of layers; ProfilingError where one matches nothing. A module within
    a spiking one is part of it. A neuron with weights of its own (recurrent ones) is left out: its weights are
    counted, so it must be seen as the operations that it is made of (``with_weights`` lists them).
    """
    wanted = list(named)
    found: dict[str, Spiking] = {}
    matched: set[Any] = set()
    for name, module in model.named_modules():
        hits = [item for item in wanted if _is_named(name, module, item)]
        matched.update(hits)
        if any(name.startswith(f"{outer}.") or outer == "" for outer in found):
            continue
        belief = known_class(module)
        if hits and (_holds_layers(module) or (belief is not None and holds_weights(module))):
            raise ProfilingError(hides_work(name))
        if belief is None and hits:
            belief = Spiking("hand-written", "its name", None)
        if belief is not None and (belief.known_by == "its name" or not holds_weights(module)):
            found[name] = belief
    for item in wanted:
        if item not in matched:
            text = item if isinstance(item, str) else item.__name__
            classes = {type(m).__name__ for m in model.modules()} | {name for name, _ in model.named_modules() if name}
            raise ProfilingError(
                f"neuron '{text}': the model has no module of that class or name{nearest(text, classes)}"
            )
    return found


def with_weights(model: nn.Module) -> list[str]:
    """Neurons of a framework with weights of their own; they are counted as the operations they are made of."""
    return [n for n, m in model.named_modules() if known_class(m) is not None and holds_weights(m)]


def _is_named(name: str, module: nn.Module, item: str | type[nn.Module]) -> bool:
    if not isinstance(item, str):
        return isinstance(module, item)
    kind = type(module)
    return item in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}") or (item == name and bool(name))


def holds_weights(module: nn.Module) -> bool:
    """True where a module, or one within it, holds a matrix or a layer of torch that computes."""
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


def is_subclass(module: nn.Module, belief: Spiking) -> bool:
    """True for a class of the user's own that is derived from a framework's neuron: it may do more than update it."""
    root = type(module).__module__.partition(".")[0]
    return belief.framework not in ("hand-written", "nir", root)


def hides_work(name: str) -> str:
    """The error for a module that was named as a neuron and does more."""
    return (
        f"neuron '{name or 'the model'}': it holds layers, products or weights that would not be counted; name the "
        "neuron within it, or none: then it is counted as the operations that it is made of"
    )


def known_class(module: nn.Module) -> Spiking | None:
    """What a framework's class says of a module; None where it is no neuron."""
    if isinstance(module, LIF):
        reset = "soft" if module.rule != "spikformer" else "hard, to 0"
        return Spiking(
            "snn_energy", "its class", "time-first", module.amplitude, threshold=f"{module.v_th:g}", reset=reset
        )
    if getattr(module, "spiking_neuron", False) is True:
        return _nir(module)
    for kind in type(module).__mro__:
        root = kind.__module__.partition(".")[0]
        reader = _READERS.get(root)
        if reader is not None:
            belief = reader(module, kind)
            if belief is not None:
                return belief
    return None


def _nir(module: Any) -> Spiking:
    """A neuron of a NIR graph (snn_energy.checkpoints.nir_graph); it says itself what it is."""
    return Spiking(
        "nir",
        "its class",
        "step",
        getattr(module, "amplitude", None),
        getattr(module, "integrates_only", False),
        _text(getattr(module, "v_threshold", None)),
        str(getattr(module, "reset", "?")),
    )


def _spikingjelly(module: Any, kind: type) -> Spiking | None:
    """activation_based and clock_driven neurons: modules of their ``neuron`` packages."""
    if not re.match(r"spikingjelly\.(activation_based|clock_driven)\.neuron(\.|$)", kind.__module__):
        return None
    is_multi = "MultiStep" in kind.__name__ or getattr(module, "step_mode", "s") == "m"
    if "clock_driven" not in kind.__module__ and not hasattr(module, "step_mode"):
        is_multi = True  # NoisyBaseNode, PSN, ... are multi-step alone
    surrogate = getattr(module, "surrogate_function", None)
    plain = {"IFNode", "LIFNode", "ParametricLIFNode", "MultiStepIFNode", "MultiStepLIFNode", "SimpleIFNode",
             "SimpleLIFNode", "MultiStepParametricLIFNode", "QIFNode", "EIFNode", "KLIFNode"}  # fmt: skip
    is_plain = type(module) is kind and kind.__name__ in plain and _is_own(surrogate, "spikingjelly.")
    v_reset = getattr(module, "v_reset", None)
    return Spiking(
        "spikingjelly",
        "its class",
        "time-first" if is_multi else "step",
        1.0 if is_plain and getattr(surrogate, "spiking", False) is True else None,
        integrates_only="NonSpiking" in kind.__name__,
        threshold=_text(getattr(module, "v_threshold", None)),
        reset="soft" if v_reset is None else f"hard, to {_text(v_reset)}",
    )


def _snntorch(module: Any, kind: type) -> Spiking | None:
    """Leaky, Synaptic, Alpha, Lapicque, ... step by step; LeakyParallel, StateLeaky, ... over all steps."""
    if not kind.__module__.startswith("snntorch._neurons") or "Recurrent" in kind.__name__:
        return None
    factor, surrogate = getattr(module, "graded_spikes_factor", None), getattr(module, "spike_grad", None)
    is_plain = type(module) is kind and kind.__name__ in ("Leaky", "Synaptic", "Alpha", "Lapicque")
    is_plain = is_plain and isinstance(factor, Tensor) and factor.numel() == 1 and float(factor.detach()) == 1
    is_plain = is_plain and _is_own(surrogate, "snntorch.") and not getattr(module, "inhibition", True)
    return Spiking(
        "snntorch",
        "its class",
        "time-first" if any(word in kind.__name__ for word in ("Parallel", "Kernel", "State", "Assoc")) else "step",
        1.0 if is_plain else None,
        threshold=_text(getattr(module, "threshold", None)),
        reset=str(getattr(module, "_reset_mechanism", "?")),
    )


def _sinabs(module: Any, kind: type) -> Spiking | None:
    """IAF, LIF, ALIF and ExpLeak; the squeezed ones read (B*T, ...). Their default emits several spikes a step."""
    if not re.match(r"sinabs\.layers\.(iaf|lif|alif|exp_leak)$", kind.__module__):
        return None
    is_squeezed = "Squeeze" in type(module).__name__ or hasattr(module, "squeeze_forward")
    threshold = getattr(module, "spike_threshold", None)
    return Spiking(
        "sinabs",
        "its class",
        "flat-batch" if is_squeezed else "batch-first",
        integrates_only=threshold is None,
        threshold=_text(threshold),
        reset=type(getattr(module, "reset_fn", None)).__name__,
    )


def _norse(module: Any, kind: type) -> Spiking | None:
    """Cells step by step; the classes without "Cell" over all steps. The state is an argument and a result."""
    if not kind.__module__.startswith("norse.torch.module.snn"):
        return None
    parameters = getattr(module, "p", None)
    return Spiking(
        "norse",
        "its class",
        "step" if kind.__name__.endswith("Cell") else "time-first",
        integrates_only=type(module).__name__.startswith("LI") and not type(module).__name__.startswith("LIF"),
        threshold=_text(getattr(parameters, "v_th", None)),
        reset=f"hard, to {_text(getattr(parameters, 'v_reset', None))}",
    )


_READERS: Mapping[str, Callable[[Any, type], Spiking | None]] = {
    "spikingjelly": _spikingjelly,
    "snntorch": _snntorch,
    "sinabs": _sinabs,
    "norse": _norse,
}


def _is_own(function: Any, package: str) -> bool:
    """True for a surrogate of the framework itself: its forward is a step from 0 to 1."""
    return type(function).__module__.startswith(package) or str(getattr(function, "__module__", "")).startswith(package)


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.numel() == 1:
            return f"{float(value):g}"
        return f"{float(value.min()):g} to {float(value.max()):g}" if value.numel() else "?"
    return f"{value:g}" if isinstance(value, (int, float)) else "?"


def reset_states(model: nn.Module) -> None:
    """Put every module of a framework at rest, by its framework's own word; others are left as they are."""
    for module in model.modules():
        if not any(kind.__module__.partition(".")[0] in _READERS for kind in type(module).__mro__):
            continue
        for word in ("reset", "reset_states", "reset_mem", "reset_state"):
            method = getattr(module, word, None)
            if callable(method):
                with contextlib.suppress(TypeError):  # one that wants arguments is no reset
                    method()
                break
