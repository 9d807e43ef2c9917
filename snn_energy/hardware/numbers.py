"""All numbers of a profile by their dotted keys, in the units of the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn_energy.hardware.quantities import CYCLE_BANDWIDTH_UNITS, RELATIVE, base_value, quantities
from snn_energy.hardware.schema import HardwareProfile

Number = Any  # a float, or an array of them where many designs are priced at once


def numbers(profile: HardwareProfile, changes: Mapping[str, tuple[Number, str]] | None = None) -> dict[str, Number]:
    """All numbers of a profile by their dotted keys: energies in pJ, sizes in bit, bandwidths in bit/s, W, Hz.

    A price's word width is ``KEY.width_bits``. Prices in MACs are multiplied by ``compute.mac``, bandwidths per cycle
    by ``latency.clock``. ``changes``: key -> (value in the unit of the formulas or a multiple, unit), for designs that
    differ from the file; values may be arrays.
    """
    changes = changes or {}
    found: dict[str, Number] = {}
    units: dict[str, str] = {}
    for path, number in quantities(profile):
        key = ".".join(path)
        found[key], units[key] = changes.get(key, (base_value(number, number.value, number.unit), number.unit))
        width = getattr(number, "width_bits", None)
        if width is not None:
            found[f"{key}.width_bits"] = changes.get(f"{key}.width_bits", (float(width), ""))[0]
    for key, unit in units.items():
        if unit == RELATIVE:
            found[key] = found[key] * found["compute.mac"]
        elif unit in CYCLE_BANDWIDTH_UNITS:
            found[key] = found[key] * found["latency.clock"]
    return found


def static_keys(hardware: HardwareProfile) -> list[str]:
    """Dotted keys of the powers that are drawn for as long as an inference lasts."""
    levels = {} if hardware.memory is None else hardware.memory.levels
    leaking = [f"memory.levels.{name}.leakage" for name, level in levels.items() if level.leakage is not None]
    return [*(["static_power"] if hardware.static_power is not None else []), *leaking]
