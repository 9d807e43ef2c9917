"""Hardware profiles: what an operation and a memory access cost on a device, every number with its source.

A profile is a YAML file, bundled (``hardware_profiles/``) or the user's own. It knows no network. Units are
written in the file and SI inside. The schema is the tree of classes below, top down:

HardwareProfile
├── sources       id -> Source, what the numbers cite
├── not_priced    what the device has no price for, and why: mac, ac, memory
├── widths        Widths, bits of one tensor element (Width)
├── compute       Compute: mac, ac, zero_check, neuron updates, spike, elementwise (Price)
├── array         Array: rows, columns, registers and inter-PE prices
├── memory        MemoryModel: levels (Level: size, read, write, bandwidth, leakage), where tensors lie
├── latency       LatencyModel: clock, lanes or array, schedule, what zeros cost, sync
└── static_power  Power, drawn for as long as an inference lasts

Every fault of a file is a HardwareError of one line that names file:line, the key and the mend. ``numbers`` gives all
quantities of a profile by their dotted keys, in the units that the formulas use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, StrictBool, field_validator, model_validator

from snn_energy.core import bundled
from snn_energy.core.errors import HardwareError, nearest
from snn_energy.core.sources import Source
from snn_energy.core.yaml_file import Document, Form, Keys, Line, Record, Text, fault, read_yaml, show_value

SCHEMA_VERSION = 1
FORM = Form(
    "a hardware profile",
    SCHEMA_VERSION,
    HardwareError,
    "check the path, or choose a bundled one from `snn-energy hardware list`",
)
SUFFIXES = (".yaml", ".yml")
Kind = Literal["measured", "simulated", "derived", "assumed", "reported"]
Tensor = Literal["weights", "inputs", "membrane", "outputs", "partial_sums"]
TENSORS: tuple[Tensor, ...] = get_args(Tensor)
MemoryVariant = Literal["ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse"]
Schedule = Literal["layer-serial", "step-serial", "layer-pipelined"]
Zeros = Literal["none", "gate", "skip"]
MEMORY_VARIANTS: tuple[MemoryVariant, ...] = get_args(MemoryVariant)
ARRAY_VARIANTS = ("psum_spill", "output_stationary", "no_local_reuse")  # follow from an array's rows and columns
# Unit -> power of ten of the unit of the formulas: pJ, W, Hz; sizes and bandwidths are not decimal: unit -> bits.
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
    """A finite number >= 0; a bool or text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"must be a number, not {show_value(value)}; the unit goes under 'unit'")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise fault(f"must be finite, not {amount}; remove the entry if the price is unknown")
    if amount < 0:
        raise fault(f"must not be negative, but is {amount:g}")
    return amount


def _whole_bits(value: object) -> int:
    """A whole number of bits, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise fault(f"must be a whole number of bits, at least 1, not {show_value(value)[:40]}")
    return value


def _scaled(value: float, exponent: int) -> float:
    """``value`` · 10^``exponent``, rounded once: 0.9 pJ and 0.0009 nJ are the same float."""
    return float(Decimal(repr(float(value))).scaleb(exponent))


def _positive(value: object) -> float:
    """A finite number > 0."""
    amount = _amount(value)
    if amount == 0:
        raise fault("must be more than 0; with 0 nothing would ever be done")
    return amount


def _whole_count(value: object) -> int:
    """A whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise fault(f"must be a whole number, at least 1 and less than 2^63, not {show_value(value)[:40]}")
    return value


Amount = Annotated[float, BeforeValidator(_amount)]
Positive = Annotated[float, BeforeValidator(_positive)]
Bits = Annotated[int, BeforeValidator(_whole_bits)]
WholeCount = Annotated[int, BeforeValidator(_whole_count)]


class Quantity(Record):
    """One number of a profile with its unit and where it comes from.

    ``range``: lowest and highest value in the same unit, carried to ranges on the results.
    """

    UNITS: ClassVar[Mapping[str, int]]
    DECIMAL: ClassVar[bool] = True  # the factor of a unit is a power of ten, not a number of bits

    value: Amount
    unit: Text
    source: Text
    kind: Kind
    note: Text | None = None

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        if unit not in cls.UNITS:
            hint = nearest_unit(unit, cls.UNITS)
            raise fault(f"unit '{unit}' is not one of {', '.join(cls.UNITS)}{hint}")
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
    """A number whose uncertainty can be given: the results grow with it, so a range stays a range."""

    range: tuple[Amount, Amount] | None = None

    @model_validator(mode="after")
    def _range_holds_value(self) -> Ranged:
        if self.range is not None and not self.range[0] <= self.value <= self.range[1]:
            low, high = self.range
            upside = f"is upside down; write [{high:g}, {low:g}]" if low > high else f"does not hold {self.value:g}"
            raise fault(f"[{low:g}, {high:g}] {upside}", "range")
        return self


def nearest_unit(unit: str, known: Iterable[str]) -> str:
    """The suggestion of ``nearest``, which here knows that pj means pJ and µ means u."""
    folded = {name.lower(): name for name in known}
    plain = unit.replace("µ", "u").replace("μ", "u").lower()  # the micro sign and the Greek letter
    return f"; did you mean '{folded[plain]}'?" if plain in folded else nearest(unit, folded.values())


class Width(Quantity):
    """Bits of one element of a tensor: whole, at least 1."""

    UNITS: ClassVar[Mapping[str, int]] = {"bit": 0}

    value: Bits


class Size(Quantity):
    """Capacity of a memory level."""

    UNITS: ClassVar[Mapping[str, int]] = SIZE_UNITS
    DECIMAL: ClassVar[bool] = False


class Bandwidth(Quantity):
    """What a memory level moves per second, or per cycle of the profile's clock; reads and writes together."""

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
    """Rows of an array of processing elements; along them lie the terms of one sum (K)."""

    UNITS: ClassVar[Mapping[str, int]] = {"row": 0}

    value: WholeCount


class Columns(Quantity):
    """Columns of an array of processing elements; along them lie output channels (N)."""

    UNITS: ClassVar[Mapping[str, int]] = {"column": 0}

    value: WholeCount


class Lanes(Quantity):
    """Operations that a device starts in one cycle."""

    UNITS: ClassVar[Mapping[str, int]] = {"lane": 0}

    value: WholeCount


class Utilisation(Quantity):
    """Share of the lanes that work in a cycle, 0 < u <= 1."""

    UNITS: ClassVar[Mapping[str, int]] = {"1": 0, "%": -2}

    value: Positive

    @model_validator(mode="after")
    def _at_most_all(self) -> Utilisation:
        if self.si_value > 1:
            raise fault(f"is a share of the lanes, at most 1 (100 %), not {self.value:g} {self.unit}", "value")
        return self


class Cycles(Quantity):
    """Whole or broken clock cycles."""

    UNITS: ClassVar[Mapping[str, int]] = {"cycle": 0}


class Price(Ranged):
    """Energy of one operation. ``width_bits`` is the width of its operands, where the source names one.

    Its unit is one of energy, or ``MAC``: a multiple of the profile's own ``compute.mac``.
    """

    UNITS: ClassVar[Mapping[str, int]] = {**ENERGY_UNITS, RELATIVE: 0}

    width_bits: Bits | None = None

    @property
    def is_relative(self) -> bool:
        """True where the unit is MAC."""
        return self.unit == RELATIVE

    @property
    def energy_j(self) -> float:
        """The energy in joule. HardwareError for a price relative to the MAC, which ``numbers`` resolves."""
        if self.is_relative:
            raise HardwareError(
                "a price in MACs has no energy of its own; ask snn_energy.hardware.schema.numbers(profile)"
            )
        return self.si_value

    @property
    def energy_pj(self) -> float:
        """The energy in picojoule. HardwareError for a price relative to the MAC."""
        self.energy_j  # noqa: B018
        return _scaled(self.value, self.UNITS[self.unit] + 12)


class WidePrice(Price):
    """A price that means nothing without a width: a MAC, an accumulate, a word read or written."""

    width_bits: Bits


class ZeroCheckPrice(Price):
    """Energy of asking whether an input is zero, once per operation it feeds or once per input element."""

    per: Literal["operation", "element"] = "operation"


class NotPriced(Record):
    """What a device has no price for, and why, in one line each: said, so that it is not forgotten."""

    mac: Line | None = None
    ac: Line | None = None
    memory: Line | None = None


class Widths(Record):
    """How many bits one element of each kind of tensor has."""

    weights: Width
    activations: Width
    membrane: Width
    partial_sums: Width


class Elementwise(Record):
    """Prices of the elementwise operations, per operation; one without a price is listed as unpriced."""

    add: Price | None = None
    pool: Price | None = None
    norm: Price | None = None
    softmax: Price | None = None
    activation: Price | None = None
    scale: Price | None = None
    mean: Price | None = None

    def price(self, op: str) -> Price | None:
        """Price of one ``op`` (the counts' name of it), None where the profile has none."""
        return getattr(self, op) if op in type(self).model_fields else None


class Compute(Record):
    """Prices of the arithmetic, one operation each.

    ``ac`` is an accumulate; ``ac_conv``, ``ac_linear``, ``ac_matmul`` stand for it where a device charges synapses of
    different connectivity apart. ``spike``: sending one spike of a neuron on its way.
    """

    mac: WidePrice | None = None
    ac: WidePrice | None = None
    ac_conv: WidePrice | None = None
    ac_linear: WidePrice | None = None
    ac_matmul: WidePrice | None = None
    zero_check: ZeroCheckPrice | None = None
    neuron_update: Price | None = None
    neuron_spiking: Price | None = None
    neuron_silent: Price | None = None
    spike: Price | None = None
    elementwise: Elementwise = Elementwise()

    @model_validator(mode="after")
    def _one_neuron_price_or_a_pair(self) -> Compute:
        pair = {"neuron_spiking": self.neuron_spiking, "neuron_silent": self.neuron_silent}
        given = [name for name, price in pair.items() if price is not None]
        if given and self.neuron_update is not None:
            raise fault(f"neuron updates are priced twice; keep neuron_update or {given[0]}", given[0])
        if len(given) == 1:
            other = next(name for name in pair if name not in given)
            raise fault(f"needs '{other}' beside it; add it, or price all updates as neuron_update", given[0])
        return self

    @model_validator(mode="after")
    def _relative_to_a_mac(self) -> Compute:
        if self.mac is not None and self.mac.is_relative:
            raise fault("the MAC itself needs an energy, such as pJ; only other prices are multiples of it", "mac")
        return self

    @property
    def neuron_prices(self) -> tuple[Price, Price] | None:
        """Prices of an update of a (spiking, silent) neuron, the same one twice where the profile has one."""
        if self.neuron_update is not None:
            return self.neuron_update, self.neuron_update
        if self.neuron_spiking is None or self.neuron_silent is None:
            return None
        return self.neuron_spiking, self.neuron_silent


class Registers(Record):
    """The store inside a processing element: what a dataflow holds still lies there."""

    read: WidePrice
    write: WidePrice


class Array(Record):
    """Processing elements in rows (terms of one sum) and columns (output channels).

    ``registers``: prices of the store in an element; ``inter_pe``: of passing a word on to the next element. Where a
    profile has neither, what happens inside the array is part of ``compute``'s prices.
    """

    rows: Rows
    columns: Columns
    registers: Registers | None = None
    inter_pe: WidePrice | None = None


class Level(Record):
    """A store with its prices per access of ``width_bits``. No size where the source names none.

    ``holds``: the tensors that may lie there, all unless given. ``leakage``: power drawn for as long as an inference
    lasts.
    """

    size: Size | None = None
    read: WidePrice
    write: WidePrice
    bandwidth: Bandwidth | None = None
    leakage: Power | None = None
    holds: list[Tensor] | None = Field(default=None, min_length=1)


class Placement(Record):
    """The level on which each tensor lies."""

    weights: Text
    inputs: Text
    membrane: Text
    outputs: Text
    partial_sums: Text
    note: Text | None = None

    def level_of(self, tensor: str) -> str:
        """Name of the level of a tensor of ``TENSORS``; any other is a HardwareError."""
        if tensor not in TENSORS:
            hint = nearest(tensor, TENSORS)
            raise HardwareError(f"no tensor '{tensor}' is placed; there are {', '.join(TENSORS)}{hint}")
        return str(getattr(self, tensor))


class MemoryModel(Record):
    """Named stores and what lies where.

    Either ``placement``: every tensor on the level that is named, whether it fits or not. Or ``keep``: levels are
    listed from the outermost to the one beside the array, and every operation keeps its tensors, in the order of
    ``keep``, on the innermost level where they fit (snn_energy.pricing.memory). ``spike_coding``: spikes as a bitmap,
    as the addresses of those that are not zero, or dense, each as wide as any activation. ``variant``: what is moved
    how often, where ``estimate`` names none. ``drop_first_last``: the first read and last write of a membrane are saved.
    """

    levels: dict[str, Level] = Field(min_length=1)
    placement: Placement | None = None
    keep: list[Tensor] | None = None
    spike_coding: Literal["bitmap", "address-event", "dense"] = "bitmap"
    variant: MemoryVariant = "ws_once"
    drop_first_last: StrictBool = False
    note: Text | None = None

    @model_validator(mode="after")
    def _placed_on_levels(self) -> MemoryModel:
        if (self.placement is None) == (self.keep is None):
            wrong = "is missing; add it, or 'keep'" if self.keep is None else "and 'keep' exclude each other; keep one"
            raise fault(wrong, "placement")
        for tensor in TENSORS if self.placement is not None else ():
            level = self.placement.level_of(tensor)  # type: ignore[union-attr]
            if level not in self.levels:
                hint = nearest(level, self.levels) or f"; there are {', '.join(self.levels)}"
                raise fault(f"no memory level '{level}'{hint}", "placement", tensor)
        if self.keep is not None:
            if sorted(self.keep) != sorted(TENSORS):
                raise fault(f"must name each of {', '.join(TENSORS)} once", "keep")
            outermost, *inner = self.levels
            for name in inner:
                if self.levels[name].size is None:
                    raise fault("needs a size: what fits is kept here", "levels", name)
            if self.levels[outermost].holds is not None:
                raise fault("the outermost level holds whatever fits nowhere else", "levels", outermost, "holds")
        return self


class LatencyModel(Record):
    """How long a device takes (snn_energy.pricing.cycles).

    ``timing``: lanes, bound by operations or by bandwidth; or the timing of a weight-stationary array. ``zeros``: what
    a zero input costs: none = like any other (in energy too), gate = a cycle but no energy, skip = neither.
    ``lanes_over``: what lanes share out, whose remainder leaves lanes idle; ``any`` = they are always busy.
    """

    timing: Literal["lanes", "array"]
    clock: Clock
    zeros: Zeros
    schedule: Schedule | None = None
    lanes: Lanes | None = None
    utilisation: Utilisation | None = None
    lanes_over: Literal["any", "out_channels", "positions"] = "any"
    sync: Cycles | None = None

    @model_validator(mode="after")
    def _complete(self) -> LatencyModel:
        needed = ("schedule", "lanes", "utilisation", "sync")
        for key in needed:
            if self.timing == "lanes" and getattr(self, key) is None:
                raise fault(f"is missing; timing 'lanes' needs {', '.join(needed)}", key)
            if self.timing == "array" and getattr(self, key) is not None:
                raise fault("is not used by timing 'array'; remove it", key)
        if self.timing == "array" and self.zeros == "skip":
            raise fault("timing 'array' is of a dense array, which skips nothing; choose none or gate", "zeros")
        return self


class HardwareProfile(Record):
    """One device: prices with their sources. Made by :func:`load_hardware`."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Line
    description: Line
    technology: Text
    sources: dict[str, Source] = Field(min_length=1)
    not_priced: NotPriced = NotPriced()
    widths: Widths
    compute: Compute
    array: Array | None = None
    memory: MemoryModel | None = None
    latency: LatencyModel | None = None
    static_power: Power | None = None

    _document: Document | None = PrivateAttr(default=None)

    def where(self, key: str) -> str:
        """``file:line: key``, for an error about a number of the profile; its name where it is from no file."""
        if self._document is None:
            return f"{self.name}: {key}"
        return f"{self._document.path}:{self._document.line_of(tuple(key.split('.')))}: {key}"

    @model_validator(mode="after")
    def _numbers_cite_sources(self) -> HardwareProfile:
        for path, number in quantities(self):
            if number.source not in self.sources:
                hint = nearest(number.source, self.sources) or f"; there are {', '.join(self.sources)}"
                raise fault(f"'{number.source}' is no entry of sources{hint}", *path, "source")
        return self

    @model_validator(mode="after")
    def _missing_prices_are_said(self) -> HardwareProfile:
        found: tuple[tuple[str, str, object], ...] = (
            ("mac", "compute.mac", self.compute.mac),
            ("ac", "compute.ac", self.compute.ac),
            ("memory", "memory", self.memory),
        )
        for name, key, entry in found:
            reason = getattr(self.not_priced, name)
            if entry is None and reason is None:
                *above, last = key.split(".")
                raise fault(f"is missing; add the key '{last}' to {'.'.join(above) or 'the file'}, or say why "
                            f"there is none: 'not_priced: {{{name}: ...}}'", *key.split("."))  # fmt: skip
            if entry is not None and reason is not None:
                raise fault(f"but {key} is there; remove one of them", "not_priced", name)
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> HardwareProfile:
        levels = self.memory.levels if self.memory is not None else {}
        for path, number in quantities(self):
            if isinstance(number, Bandwidth) and number.unit in CYCLE_BANDWIDTH_UNITS and self.latency is None:
                raise fault(f"{number.unit} needs latency.clock", *path, "unit")
            if isinstance(number, Price) and number.is_relative and self.compute.mac is None:
                raise fault(f"{RELATIVE} means multiples of compute.mac, which is missing", *path, "unit")
        if self.latency is not None and self.latency.timing == "array" and self.array is None:
            raise fault("timing 'array' needs the section 'array' with rows and columns", "latency", "timing")
        if self.memory is not None and self.array is None:
            if self.memory.keep is not None:
                raise fault(
                    "needs the section 'array': what is moved follows from its rows and columns", "memory", "keep"
                )
            if self.memory.variant in ARRAY_VARIANTS:
                raise fault(f"{self.memory.variant} needs the section 'array' with rows", "memory", "variant")
        for name, level in levels.items():
            if level.leakage is not None and self.latency is None and self.static_power is None:
                raise fault("leakage takes a latency; add the section 'latency'", "memory", "levels", name, "leakage")
        return self


def _bundled_directory() -> Path:
    """Where the bundled profiles lie: in the package (a wheel) or beside it (a checkout)."""
    place = bundled.hardware_profiles()
    if place is None:
        raise HardwareError(f"{bundled.PACKAGE}: the bundled hardware profiles are gone; install snn_energy again")
    return place


def list_hardware() -> list[str]:
    """Names of the bundled profiles, sorted."""
    return sorted(path.stem for path in _bundled_directory().glob("*.yaml"))


def hardware_path(name: str) -> Path:
    """File of the bundled profile ``name``; HardwareError with the nearest name if there is none."""
    known = list_hardware()
    if name not in known:
        own = f" (the file is given as './{name}')" if Path(name).is_file() else ""
        raise HardwareError(
            f"unknown hardware profile '{name}'{nearest(name, known)}; see `snn-energy hardware list`{own}"
        )
    return _bundled_directory() / f"{name}.yaml"


def load_hardware(name_or_path: str | Path) -> HardwareProfile:
    """A hardware profile by bundled name, or from a YAML file.

    Text with a path separator or a YAML suffix, and any ``Path``, is a file; other text is a bundled name.
    Raises HardwareError, one line with file:line, the key and the mend, for the first fault of the file.
    """
    profile, document = read_yaml(_resolve(name_or_path), FORM, HardwareProfile)
    _check_bundled_name(document, profile)
    profile._document = document
    return profile


def _resolve(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(SUFFIXES)
    return Path(name_or_path) if is_path else hardware_path(text)


def _check_bundled_name(document: Document, profile: HardwareProfile) -> None:
    path = document.path.resolve()
    if path.parent == _bundled_directory() and profile.name != path.stem:
        raise document.error(f"name: a bundled profile is named like its file, '{path.stem}'", ("name",))


Number = Any  # a float, or an array of them where many designs are priced at once


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


def base_value(number: Quantity, value: float, unit: str) -> float:
    """``value`` in the unit of the formulas: pJ, W, Hz, bit, bit/s, or a plain number; multiples stay multiples."""
    if isinstance(number, Price):
        return value if unit == RELATIVE else _scaled(value, number.UNITS[unit] + 12)
    return number.to_si(value, unit)


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
