"""Energy of spiking neural networks, from a trained checkpoint to a table one can check by hand.

    checkpoint + data -> profile -> counts -> estimate (+ hardware profile) -> energy, latency -> tables, plots, reports

What runs networks (``profile``, ``create_model``, ``load_checkpoint``) imports torch when first used; the rest does
not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snn_energy._version import __version__
from snn_energy.audit import Audit, audit
from snn_energy.breakeven import BreakEven, break_even
from snn_energy.compare import Comparison, compare
from snn_energy.counts import Counts, load_counts
from snn_energy.energy import Energy, estimate
from snn_energy.errors import SnnEnergyError
from snn_energy.hardware import HardwareProfile, list_hardware, load_hardware
from snn_energy.latency import Latency, estimate_latency
from snn_energy.models.registry import create_model, list_models
from snn_energy.sweep import sweep
from snn_energy.uncertainty import energy_range, ratio_range, what_matters

if TYPE_CHECKING:
    from snn_energy.checkpoints import load_checkpoint, save_checkpoint
    from snn_energy.profiler.profile import profile

__all__ = [
    "Audit",
    "BreakEven",
    "Comparison",
    "Counts",
    "Energy",
    "HardwareProfile",
    "Latency",
    "SnnEnergyError",
    "__version__",
    "audit",
    "break_even",
    "compare",
    "create_model",
    "energy_range",
    "estimate",
    "estimate_latency",
    "list_hardware",
    "list_models",
    "load_checkpoint",
    "load_counts",
    "load_hardware",
    "profile",
    "ratio_range",
    "save_checkpoint",
    "sweep",
    "what_matters",
]

_NEEDS_TORCH = {
    "profile": "snn_energy.profiler.profile",
    "load_checkpoint": "snn_energy.checkpoints",
    "save_checkpoint": "snn_energy.checkpoints",
}


def __getattr__(name: str) -> Any:
    """Import the torch-dependent part of the API on first use."""
    if name in _NEEDS_TORCH:
        import importlib

        return getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
    raise AttributeError(f"module 'snn_energy' has no attribute '{name}'")
