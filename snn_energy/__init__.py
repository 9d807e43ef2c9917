"""Energy of spiking neural networks, from a trained checkpoint to a table that can be checked by hand.

    checkpoint + data -> profile -> counts -> estimate (+ hardware profile) -> energy, latency -> tables, plots, reports

One package per stage: ``datasets``, ``models``, ``checkpoints``, ``profiler``, ``counts``, ``hardware``, ``pricing``,
``analysis``, ``report``. The names below are imported on first use; only those that run networks (``profile``,
``create_model``, ``load_checkpoint``) import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from snn_energy import _moved
from snn_energy._version import __version__

if TYPE_CHECKING:
    from snn_energy.analysis.break_even import BreakEven, break_even
    from snn_energy.analysis.comparison import Comparison, compare
    from snn_energy.analysis.design_sweep import sweep
    from snn_energy.analysis.spiking_audit import Audit, audit
    from snn_energy.analysis.uncertainty import energy_range, ratio_range, what_matters
    from snn_energy.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from snn_energy.core.errors import SnnEnergyError
    from snn_energy.counts.counts import Counts
    from snn_energy.counts.load import load_counts
    from snn_energy.hardware.files import list_hardware, load_hardware
    from snn_energy.hardware.schema import HardwareProfile
    from snn_energy.models.create import create_model
    from snn_energy.models.names import list_models
    from snn_energy.pricing.cycles import Latency
    from snn_energy.pricing.energy import Energy, estimate, estimate_latency
    from snn_energy.profiler.run import profile

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

_PLACES = {
    "analysis.break_even": ("BreakEven", "break_even"),
    "analysis.comparison": ("Comparison", "compare"),
    "analysis.design_sweep": ("sweep",),
    "analysis.spiking_audit": ("Audit", "audit"),
    "analysis.uncertainty": ("energy_range", "ratio_range", "what_matters"),
    "checkpoints.checkpoint": ("load_checkpoint", "save_checkpoint"),
    "core.errors": ("SnnEnergyError",),
    "counts.counts": ("Counts",),
    "counts.load": ("load_counts",),
    "hardware.files": ("list_hardware", "load_hardware"),
    "hardware.schema": ("HardwareProfile",),
    "models.create": ("create_model",),
    "models.names": ("list_models",),
    "pricing.cycles": ("Latency",),
    "pricing.energy": ("Energy", "estimate", "estimate_latency"),
    "profiler.run": ("profile",),
}
_PLACE_OF = {name: f"snn_energy.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'snn_energy' has no attribute '{name}'")
    found = getattr(import_module(_PLACE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_moved.install()
