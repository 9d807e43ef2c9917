"""The assumed properties of a spiking module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Layout = Literal["step", "time-first", "batch-first", "time-last", "flat", "flat-batch"]
LAYOUTS: Mapping[Layout, str] = {
    "step": "one time step a call, (B, ...)",
    "time-first": "all time steps in one call, (T, B, ...)",
    "batch-first": "all time steps in one call, (B, T, ...)",
    "time-last": "all time steps in one call, (B, ..., T)",
    "flat": "all time steps in one call, (T*B, ...), time major",
    "flat-batch": "all time steps in one call, (B*T, ...), sample major",
}


@dataclass(frozen=True)
class NeuronSpec:
    """Properties of a spiking module.

    framework: "snn_energy", "nir", "spikingjelly", "snntorch", "sinabs", "norse" or "hand-written". known_by: "its
    class", "its name" (the user gave it) or "its output". layout: where time is in its input; None if only a run can
    determine it. amplitude: the value of every spike if the framework's forward guarantees it; None: the values are
    scanned. integrates_only: it keeps a potential and never spikes. threshold, reset: as text, for reports.
    state_variables: values that a neuron keeps from one time step to the next, None if unknown.
    """

    framework: str
    known_by: str
    layout: Layout | None
    amplitude: float | None = None
    integrates_only: bool = False
    threshold: str = "?"
    reset: str = "?"
    state_variables: int | None = None


def declared_state_variables(module: Any) -> int | None:
    """The number that a module's attribute ``state_variables`` declares; None if it declares none."""
    declared = getattr(module, "state_variables", None)
    is_number = isinstance(declared, int) and not isinstance(declared, bool) and declared >= 0
    return declared if is_number else None


def is_of_package(function: Any, package: str) -> bool:
    """True for a surrogate function of the framework itself, whose forward is a step from 0 to 1."""
    return type(function).__module__.startswith(package) or str(getattr(function, "__module__", "")).startswith(package)


def as_text(value: Any) -> str:
    """A number, or the range of a tensor, as text for reports; "?" for anything else."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.numel() == 1:
            return f"{float(value):g}"
        return f"{float(value.min()):g} to {float(value.max()):g}" if value.numel() else "?"
    return f"{value:g}" if isinstance(value, (int, float)) else "?"
