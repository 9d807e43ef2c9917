"""Hardware profiles: what an operation and a memory access cost on a device, every number with its source.

A profile is a YAML file, bundled (``hardware_profiles/``) or the user's own. It is independent of any network. Units
are those of the file, converted to SI internally. The schema is the tree of classes below, top down:

HardwareProfile
├── sources       id -> Source, what the numbers cite
├── not_priced    what the device has no price for, and why: mac, ac, memory
├── widths        Widths, bits of one tensor element (Width)
├── compute       Compute: mac, ac, zero_check, neuron updates, spike, elementwise (Price)
├── array         ProcessingArray: rows, columns, registers and inter-PE prices
├── memory        MemoryModel: levels (Level: size, read, write, bandwidth, leakage), where tensors are stored
├── latency       LatencyModel: clock, lanes or array, schedule, what zeros cost, sync
└── static_power  Power, drawn throughout an inference

Every error in a file is a one-line HardwareError that names file:line, the key and the fix. ``numbers`` returns all
quantities of a profile by their dotted keys, in the units that the formulas use.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, PrivateAttr, StrictBool, model_validator

from snn_energy.core.errors import HardwareError, nearest
from snn_energy.core.sources import Source
from snn_energy.core.vocabulary import MemoryVariant as MemoryVariant
from snn_energy.core.vocabulary import Schedule as Schedule
from snn_energy.core.vocabulary import ZeroHandling as ZeroHandling
from snn_energy.core.yaml_file import Document, Line, StrictModel, Text, schema_error
from snn_energy.hardware.quantities import (
    CYCLE_BANDWIDTH_UNITS,
    RELATIVE,
    Bandwidth,
    Clock,
    Columns,
    Cycles,
    Lanes,
    Power,
    Price,
    Rows,
    Size,
    Utilisation,
    WidePrice,
    Width,
    ZeroCheckPrice,
    quantities,
)

TensorRole = Literal["weights", "inputs", "membrane", "outputs", "partial_sums"]
TENSORS: tuple[TensorRole, ...] = get_args(TensorRole)
MEMORY_VARIANTS: tuple[MemoryVariant, ...] = get_args(MemoryVariant)
ARRAY_VARIANTS = ("psum_spill", "output_stationary", "no_local_reuse")  # need an array's rows and columns


class NotPriced(StrictModel):
    """What a device has no price for, and why, in one line each; a missing price must be declared here."""

    mac: Line | None = None
    ac: Line | None = None
    memory: Line | None = None


class Widths(StrictModel):
    """Bits of one element of each kind of tensor."""

    weights: Width
    activations: Width
    membrane: Width
    partial_sums: Width


class Elementwise(StrictModel):
    """Prices of the elementwise operations, per operation; one without a price is listed as unpriced."""

    add: Price | None = None
    pool: Price | None = None
    norm: Price | None = None
    softmax: Price | None = None
    activation: Price | None = None
    scale: Price | None = None
    mean: Price | None = None

    def price(self, op: str) -> Price | None:
        """Price of one ``op`` (named as in the counts), None if the profile has none."""
        return getattr(self, op) if op in type(self).model_fields else None


class Compute(StrictModel):
    """Prices of the arithmetic, one operation each.

    ``ac`` is an accumulate; ``ac_conv``, ``ac_linear``, ``ac_matmul`` replace it if a device prices synapses of
    different connectivity separately. ``spike``: sending one spike of a neuron.
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
            raise schema_error(f"neuron updates are priced twice; keep neuron_update or {given[0]}", given[0])
        if len(given) == 1:
            other = next(name for name in pair if name not in given)
            raise schema_error(f"also needs '{other}'; add it, or price all updates as neuron_update", given[0])
        return self

    @model_validator(mode="after")
    def _mac_is_absolute(self) -> Compute:
        if self.mac is not None and self.mac.is_relative:
            raise schema_error(
                "the MAC itself needs an energy, such as pJ; only other prices are multiples of it", "mac"
            )
        return self

    @property
    def neuron_prices(self) -> tuple[Price, Price] | None:
        """Prices of an update of a (spiking, silent) neuron, the same one twice if the profile has a single one."""
        if self.neuron_update is not None:
            return self.neuron_update, self.neuron_update
        if self.neuron_spiking is None or self.neuron_silent is None:
            return None
        return self.neuron_spiking, self.neuron_silent


class Registers(StrictModel):
    """The store inside a processing element, which holds the stationary operand of the dataflow."""

    read: WidePrice
    write: WidePrice


class ProcessingArray(StrictModel):
    """Processing elements in rows (terms of one sum) and columns (output channels).

    ``registers``: prices of the store in an element; ``inter_pe``: of passing a word on to the next element. If a
    profile has neither, the traffic inside the array is part of ``compute``'s prices.
    """

    rows: Rows
    columns: Columns
    registers: Registers | None = None
    inter_pe: WidePrice | None = None


class Level(StrictModel):
    """A store with its prices per access of ``width_bits``. No size if the source gives none.

    ``holds``: the tensors that may be stored there, by default all. ``leakage``: power drawn throughout an inference.
    """

    size: Size | None = None
    read: WidePrice
    write: WidePrice
    bandwidth: Bandwidth | None = None
    leakage: Power | None = None
    holds: list[TensorRole] | None = Field(default=None, min_length=1)


class Placement(StrictModel):
    """The level that stores each tensor."""

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
            raise HardwareError(f"unknown tensor '{tensor}'; there are {', '.join(TENSORS)}{hint}")
        return str(getattr(self, tensor))


class MemoryModel(StrictModel):
    """Named stores, and which tensors they hold.

    Either ``placement``: every tensor on the named level, whether it fits or not. Or ``keep``: levels are listed from
    the outermost to the one next to the array, and every operation keeps its tensors, in the order of ``keep``, on
    the innermost level where they fit (snn_energy.pricing.memory). ``spike_coding``: spikes as a bitmap, as addresses
    of the non-zeros, or dense, each as wide as an activation. ``variant``: how often each tensor is moved, unless
    ``estimate`` is given another. ``drop_first_last``: a membrane's first read and last write are not charged.
    """

    levels: dict[str, Level] = Field(min_length=1)
    placement: Placement | None = None
    keep: list[TensorRole] | None = None
    spike_coding: Literal["bitmap", "address-event", "dense"] = "bitmap"
    variant: MemoryVariant = "ws_once"
    drop_first_last: StrictBool = False
    note: Text | None = None

    @model_validator(mode="after")
    def _placed_on_levels(self) -> MemoryModel:
        if (self.placement is None) == (self.keep is None):
            exclusive = "and 'keep' exclude each other; keep one"
            raise schema_error("is missing; add it, or 'keep'" if self.keep is None else exclusive, "placement")
        for tensor in TENSORS if self.placement is not None else ():
            level = self.placement.level_of(tensor)  # type: ignore[union-attr]
            if level not in self.levels:
                hint = nearest(level, self.levels) or f"; there are {', '.join(self.levels)}"
                raise schema_error(f"no memory level '{level}'{hint}", "placement", tensor)
        if self.keep is not None:
            if sorted(self.keep) != sorted(TENSORS):
                raise schema_error(f"must name each of {', '.join(TENSORS)} once", "keep")
            outermost, *inner = self.levels
            for name in inner:
                if self.levels[name].size is None:
                    raise schema_error("needs a size: what fits is kept here", "levels", name)
            if self.levels[outermost].holds is not None:
                raise schema_error("the outermost level holds whatever fits nowhere else", "levels", outermost, "holds")
        return self


class LatencyModel(StrictModel):
    """The timing of a device (snn_energy.pricing.cycles).

    ``timing``: lanes, bound by operations or by bandwidth; or the timing of a weight-stationary array. ``zeros``: what
    a zero input costs: none = like any other (in energy too), gate = a cycle but no energy, skip = neither.
    ``lanes_over``: the dimension divided among the lanes, whose remainder leaves lanes idle; ``any`` = always busy.
    """

    timing: Literal["lanes", "array"]
    clock: Clock
    zeros: ZeroHandling
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
                raise schema_error(f"is missing; timing 'lanes' needs {', '.join(needed)}", key)
            if self.timing == "array" and getattr(self, key) is not None:
                raise schema_error("is not used by timing 'array'; remove it", key)
        if self.timing == "array" and self.zeros == "skip":
            raise schema_error("timing 'array' models a dense array, which skips nothing; choose none or gate", "zeros")
        return self


class HardwareProfile(StrictModel):
    """One device: prices with their sources. Made by :func:`load_hardware`."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Line
    description: Line
    technology: Text
    sources: dict[str, Source] = Field(min_length=1)
    not_priced: NotPriced = NotPriced()
    widths: Widths
    compute: Compute
    array: ProcessingArray | None = None
    memory: MemoryModel | None = None
    latency: LatencyModel | None = None
    static_power: Power | None = None

    _document: Document | None = PrivateAttr(default=None)

    def where(self, key: str) -> str:
        """``file:line: key``, for an error about a number of the profile; only the profile's name if it has no file."""
        if self._document is None:
            return f"{self.name}: {key}"
        return f"{self._document.path}:{self._document.line_of(tuple(key.split('.')))}: {key}"

    @model_validator(mode="after")
    def _numbers_cite_sources(self) -> HardwareProfile:
        for path, number in quantities(self):
            if number.source not in self.sources:
                hint = nearest(number.source, self.sources) or f"; there are {', '.join(self.sources)}"
                raise schema_error(f"'{number.source}' is not in sources{hint}", *path, "source")
        return self

    @model_validator(mode="after")
    def _missing_prices_are_declared(self) -> HardwareProfile:
        found: tuple[tuple[str, str, object], ...] = (
            ("mac", "compute.mac", self.compute.mac),
            ("ac", "compute.ac", self.compute.ac),
            ("memory", "memory", self.memory),
        )
        for name, key, entry in found:
            reason = getattr(self.not_priced, name)
            if entry is None and reason is None:
                *parents, last = key.split(".")
                raise schema_error(f"is missing; add the key '{last}' to {'.'.join(parents) or 'the file'}, or state "
                            f"why there is none: 'not_priced: {{{name}: ...}}'", *key.split("."))  # fmt: skip
            if entry is not None and reason is not None:
                raise schema_error(f"contradicts {key}, which has a price; remove one of them", "not_priced", name)
        return self

    @model_validator(mode="after")
    def _required_sections_exist(self) -> HardwareProfile:
        levels = self.memory.levels if self.memory is not None else {}
        for path, number in quantities(self):
            if isinstance(number, Bandwidth) and number.unit in CYCLE_BANDWIDTH_UNITS and self.latency is None:
                raise schema_error(f"{number.unit} needs latency.clock", *path, "unit")
            if isinstance(number, Price) and number.is_relative and self.compute.mac is None:
                raise schema_error(f"{RELATIVE} means multiples of compute.mac, which is missing", *path, "unit")
        if self.latency is not None and self.latency.timing == "array" and self.array is None:
            raise schema_error("timing 'array' needs the section 'array' with rows and columns", "latency", "timing")
        if self.memory is not None and self.array is None:
            if self.memory.keep is not None:
                raise schema_error(
                    "needs the section 'array': what is moved follows from its rows and columns", "memory", "keep"
                )
            if self.memory.variant in ARRAY_VARIANTS:
                raise schema_error(f"{self.memory.variant} needs the section 'array' with rows", "memory", "variant")
        for name, level in levels.items():
            if level.leakage is not None and self.latency is None and self.static_power is None:
                raise schema_error(
                    "leakage requires a latency; add the section 'latency'", "memory", "levels", name, "leakage"
                )
        return self
