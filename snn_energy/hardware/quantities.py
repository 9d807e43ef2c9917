"""Numbers with units and sources: as written in a profile's YAML, and in SI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, field_validator, model_validator

from snn_energy.core.errors import HardwareError, nearest
from snn_energy.core.yaml_file import Keys, StrictModel, Text, format_value, schema_error

Provenance = Literal["measured", "simulated", "derived", "assumed", "reported"]
# Unit -> power of ten of the SI unit (J, W, Hz); sizes and bandwidths are not decimal: unit -> bits.
ENERGY_UNITS: Mapping[str, int] = {"fJ": -15, "pJ": -12, "nJ": -9, "uJ": -6, "mJ": -3, "J": 0}
RELATIVE = "MAC"  # a multiple of the profile's own MAC
POWER_UNITS: Mapping[str, int] = {"nW": -9, "uW": -6, "mW": -3, "W": 0}
CLOCK_UNITS: Mapping[str, int] = {"Hz": 0, "kHz": 3, "MHz": 6, "GHz": 9}
SIZE_UNITS: Mapping[str, int] = {"bit": 1, "B": 8, "KiB": 8 * 2**10, "MiB": 8 * 2**20, "GiB": 8 * 2**30}
BANDWIDTH_UNITS: Mapping[str, int] = {
    "bit/s": 1, "B/s": 8, "kB/s": 8 * 10**3, "MB/s": 8 * 10**6, "GB/s": 8 * 10**9, "TB/s": 8 * 10**12,
}  # fmt: skip
CYCLE_BANDWIDTH_UNITS: Mapping[str, int] = {"bit/cycle": 1, "B/cycle": 8}  # of the latency section's clock


def _amount(value: object) -> float:
    """A finite number >= 0; bools and texts are rejected."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise schema_error(f"must be a number, not {format_value(value)}; the unit goes under 'unit'")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise schema_error(f"must be finite, not {amount}; remove the entry if the price is unknown")
    if amount < 0:
        raise schema_error(f"must not be negative, but is {amount:g}")
    return amount


def _whole_bits(value: object) -> int:
    """A whole number of bits, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise schema_error(f"must be a whole number of bits, at least 1, not {format_value(value)[:40]}")
    return value


def _scaled(value: float, exponent: int) -> float:
    """``value`` · 10^``exponent``, rounded once: 0.9 pJ and 0.0009 nJ are the same float."""
    return float(Decimal(repr(float(value))).scaleb(exponent))


def _positive(value: object) -> float:
    """A finite number > 0."""
    amount = _amount(value)
    if amount == 0:
        raise schema_error("must be more than 0")
    return amount


def _whole_count(value: object) -> int:
    """A whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise schema_error(f"must be a whole number, at least 1 and less than 2^63, not {format_value(value)[:40]}")
    return value


NonNegative = Annotated[float, BeforeValidator(_amount)]
Positive = Annotated[float, BeforeValidator(_positive)]
Bits = Annotated[int, BeforeValidator(_whole_bits)]
WholeCount = Annotated[int, BeforeValidator(_whole_count)]


class Quantity(StrictModel):
    """One number of a profile with its unit and source.

    ``range`` (see ``Ranged``): lowest and highest value in the same unit, propagated to ranges of the results.
    """

    UNITS: ClassVar[Mapping[str, int]]
    DECIMAL: ClassVar[bool] = True  # the factor of a unit is a power of ten, not a number of bits

    value: NonNegative
    unit: Text
    source: Text
    kind: Provenance
    note: Text | None = None

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        if unit not in cls.UNITS:
            hint = nearest_unit(unit, cls.UNITS)
            raise schema_error(f"unit '{unit}' is not one of {', '.join(cls.UNITS)}{hint}")
        return unit

    @property
    def si_value(self) -> float:
        """The number in SI (J, W, Hz; bits for sizes and widths, bit/s for bandwidths)."""
        return self.to_si(self.value, self.unit)

    @classmethod
    def to_si(cls, value: float, unit: str) -> float:
        """``value`` of a unit of ``UNITS`` in SI, rounded once."""
        return _scaled(value, cls.UNITS[unit]) if cls.DECIMAL else value * cls.UNITS[unit]


class Ranged(Quantity):
    """A number that may have a range. Results increase with it, so its two ends give the range of a result."""

    range: tuple[NonNegative, NonNegative] | None = None

    @model_validator(mode="after")
    def _range_holds_value(self) -> Ranged:
        if self.range is not None and not self.range[0] <= self.value <= self.range[1]:
            low, high = self.range
            problem = f"is reversed; write [{high:g}, {low:g}]" if low > high else f"does not contain {self.value:g}"
            raise schema_error(f"[{low:g}, {high:g}] {problem}", "range")
        return self


def nearest_unit(unit: str, known: Iterable[str]) -> str:
    """The suggestion of ``nearest``, ignoring case (pj means pJ) and reading µ as u."""
    by_lower = {name.lower(): name for name in known}
    normalised = unit.replace("µ", "u").replace("μ", "u").lower()  # the micro sign and the Greek letter
    if normalised in by_lower:
        return f"; did you mean '{by_lower[normalised]}'?"
    return nearest(unit, by_lower.values())


class Width(Quantity):
    """Bits of one element of a tensor: whole, at least 1."""

    UNITS: ClassVar[Mapping[str, int]] = {"bit": 0}

    value: Bits


class Size(Quantity):
    """Capacity of a memory level."""

    UNITS: ClassVar[Mapping[str, int]] = SIZE_UNITS
    DECIMAL: ClassVar[bool] = False


class Bandwidth(Quantity):
    """Data that a memory level moves per second, or per cycle of the profile's clock; reads and writes together."""

    UNITS: ClassVar[Mapping[str, int]] = {**BANDWIDTH_UNITS, **CYCLE_BANDWIDTH_UNITS}
    DECIMAL: ClassVar[bool] = False

    value: Positive


class Power(Ranged):
    """Power drawn whether or not anything is computed."""

    UNITS: ClassVar[Mapping[str, int]] = POWER_UNITS


class Clock(Quantity):
    """Cycles per second."""

    UNITS: ClassVar[Mapping[str, int]] = CLOCK_UNITS

    value: Positive


class Rows(Quantity):
    """Rows of an array of processing elements; the terms of one sum (K) are mapped to them."""

    UNITS: ClassVar[Mapping[str, int]] = {"row": 0}

    value: WholeCount


class Columns(Quantity):
    """Columns of an array of processing elements; output channels (N) are mapped to them."""

    UNITS: ClassVar[Mapping[str, int]] = {"column": 0}

    value: WholeCount


class Lanes(Quantity):
    """Operations that a device starts in one cycle."""

    UNITS: ClassVar[Mapping[str, int]] = {"lane": 0}

    value: WholeCount


class Utilisation(Quantity):
    """Share of the lanes that are busy in a cycle, 0 < u <= 1."""

    UNITS: ClassVar[Mapping[str, int]] = {"1": 0, "%": -2}

    value: Positive

    @model_validator(mode="after")
    def _at_most_all(self) -> Utilisation:
        if self.si_value > 1:
            raise schema_error(f"is a share of the lanes, at most 1 (100 %), not {self.value:g} {self.unit}", "value")
        return self


class Cycles(Quantity):
    """A number of clock cycles, not necessarily whole."""

    UNITS: ClassVar[Mapping[str, int]] = {"cycle": 0}


class Price(Ranged):
    """Energy of one operation. ``width_bits`` is the width of its operands, if the source gives one.

    Its unit is one of energy, or ``MAC``: a multiple of the profile's own ``compute.mac``.
    """

    UNITS: ClassVar[Mapping[str, int]] = {**ENERGY_UNITS, RELATIVE: 0}

    width_bits: Bits | None = None

    @property
    def is_relative(self) -> bool:
        """True if the unit is MAC."""
        return self.unit == RELATIVE

    @property
    def energy_j(self) -> float:
        """The energy in joule. HardwareError for a price relative to the MAC, which ``numbers`` resolves."""
        if self.is_relative:
            raise HardwareError(
                "a price in MACs has no energy of its own; use snn_energy.hardware.numbers.numbers(profile)"
            )
        return self.si_value

    @property
    def energy_pj(self) -> float:
        """The energy in picojoule. HardwareError for a price relative to the MAC."""
        self.energy_j  # noqa: B018
        return _scaled(self.value, self.UNITS[self.unit] + 12)


class WidePrice(Price):
    """A price that is meaningless without a width: a MAC, an accumulate, a word read or written."""

    width_bits: Bits


class ZeroCheckPrice(Price):
    """Energy of checking whether an input is zero, once per operation it feeds or once per input element."""

    per: Literal["operation", "element"] = "operation"


def quantities(part: object, path: Keys = ()) -> Iterator[tuple[Keys, Quantity]]:
    """Every number below ``part`` with its keys, in the order of the schema."""
    if isinstance(part, Quantity):
        yield path, part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from quantities(getattr(part, name), (*path, name))
    elif isinstance(part, dict):
        for name, child in part.items():
            yield from quantities(child, (*path, name))


def to_formula_unit(number: Quantity, value: float, unit: str) -> float:
    """``value`` in the unit of the formulas: pJ, W, Hz, bit, bit/s, or a plain number; multiples stay multiples."""
    if isinstance(number, Price):
        return value if unit == RELATIVE else _scaled(value, number.UNITS[unit] + 12)
    return number.to_si(value, unit)
