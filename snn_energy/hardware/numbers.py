"""All numbers of a profile by their dotted keys, in the units of the formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import HardwareError, nearest
from snn_energy.hardware.quantities import CYCLE_BANDWIDTH_UNITS, RELATIVE, quantities, to_formula_unit
from snn_energy.hardware.schema import HardwareProfile

Number = float | npt.NDArray[np.float64]  # an array if many designs are priced at once


class Prices:
    """The numbers of one device by their dotted keys, in the units of the formulas: pJ, bit, bit/s, W, Hz.

    A number is a float, or an array of designs. ``KEY.width_bits`` is the word width of the price ``KEY``.
    """

    def __init__(self, device: str, numbers: Mapping[str, Number]) -> None:
        self._device, self._numbers = device, dict(numbers)

    def __getitem__(self, key: str) -> Number:
        """The number of a key. Raises HardwareError, with the nearest key, for one that the device does not have."""
        try:
            return self._numbers[key]
        except KeyError:
            raise HardwareError(f"{self._device} has no number '{key}'{nearest(key, self._numbers)}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, key: str) -> Number | None:
        """The number of a key, None if the device does not have it."""
        return self._numbers.get(key)

    def scalar(self, key: str) -> float:
        """The number of a key for a single design. Raises HardwareError as ``[]`` does."""
        return float(self[key])


def numbers(profile: HardwareProfile, changes: Mapping[str, tuple[Number, str]] | None = None) -> Prices:
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
        found[key], units[key] = changes.get(key, (to_formula_unit(number, number.value, number.unit), number.unit))
        width = getattr(number, "width_bits", None)
        if width is not None:
            found[f"{key}.width_bits"] = changes.get(f"{key}.width_bits", (float(width), ""))[0]
    for key, unit in units.items():
        if unit == RELATIVE:
            found[key] = found[key] * found["compute.mac"]
        elif unit in CYCLE_BANDWIDTH_UNITS:
            found[key] = found[key] * found["latency.clock"]
    return Prices(profile.name, found)


def static_keys(hardware: HardwareProfile) -> list[str]:
    """Dotted keys of the powers that are drawn throughout an inference."""
    levels = {} if hardware.memory is None else hardware.memory.levels
    leaking = [f"memory.levels.{name}.leakage" for name, level in levels.items() if level.leakage is not None]
    return [*(["static_power"] if hardware.static_power is not None else []), *leaking]
