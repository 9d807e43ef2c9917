"""What is taken to be true of a module that spikes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Layout = Literal["step", "time-first", "batch-first", "flat-batch"]
LAYOUTS: Mapping[Layout, str] = {
    "step": "one time step a call, (B, ...)",
    "time-first": "all time steps in one call, (T, B, ...)",
    "batch-first": "all time steps in one call, (B, T, ...)",
    "flat-batch": "all time steps in one call, (B*T, ...), sample major",
}


@dataclass(frozen=True)
class NeuronSpec:
    """What is believed of a module that spikes.

    framework: "snn_energy", "nir", "spikingjelly", "snntorch", "sinabs", "norse" or "hand-written". known_by: "its
    class", "its name" (the user gave it) or "its output". layout: where time is in what it reads; None where only a run
    can tell. amplitude: the value of every spike where the framework's own forward proves it, else None: the values are
    read. integrates_only: it keeps a potential and never spikes. threshold, reset: as texts, for a reader.
    """

    framework: str
    known_by: str
    layout: Layout | None
    amplitude: float | None = None
    integrates_only: bool = False
    threshold: str = "?"
    reset: str = "?"


def is_of_package(function: Any, package: str) -> bool:
    """True for a surrogate of the framework itself: its forward is a step from 0 to 1."""
    return type(function).__module__.startswith(package) or str(getattr(function, "__module__", "")).startswith(package)


def as_text(value: Any) -> str:
    """A number, or the range of a tensor, for a reader; "?" for anything else."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.numel() == 1:
            return f"{float(value):g}"
        return f"{float(value.min()):g} to {float(value.max()):g}" if value.numel() else "?"
    return f"{value:g}" if isinstance(value, (int, float)) else "?"
