"""Hardware profiles: what an operation and a memory access cost on a device, every number with its source.

A profile is a YAML file, bundled (``hardware_profiles/``) or the user's own. It knows no network. Units are
written in the file and SI inside. The schema is the tree of classes below, top down:

HardwareProfile
├── sources       id -> Source, what the numbers cite
├── widths        Widths, bits of one tensor element (Width)
├── compute       Compute: mac, ac, zero_check, neuron updates, elementwise (Price)
├── memory        MemoryModel: levels (Level: size, read, write), placement of the tensors on them
└── static_power  Power, kept for the latency model

Every fault of a file is a HardwareError of one line that names file:line, the key and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from snn_energy.errors import HardwareError, nearest

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
SUFFIXES = (".yaml", ".yml")

Kind = Literal["measured", "simulated", "derived", "assumed", "reported"]
Tensor = Literal["weights", "inputs", "membrane", "outputs", "partial_sums"]
TENSORS: tuple[Tensor, ...] = get_args(Tensor)

# Unit -> power of ten of the SI unit (J, W); sizes are not decimal: unit -> bits.
ENERGY_UNITS: Mapping[str, int] = {"fJ": -15, "pJ": -12, "nJ": -9, "uJ": -6, "mJ": -3, "J": 0}
POWER_UNITS: Mapping[str, int] = {"nW": -9, "uW": -6, "mW": -3, "W": 0}
SIZE_UNITS: Mapping[str, int] = {"bit": 1, "B": 8, "KiB": 8 * 2**10, "MiB": 8 * 2**20, "GiB": 8 * 2**30}

DESCRIBE_COLUMNS = ["component", "action", "value", "unit", "width_bits", "kind", "source", "citation"]
DIFFERENCE_COLUMNS = ["component", "action", "a", "b", "differs"]

Keys = tuple[str, ...]


# --- What a number is ---------------------------------------------------------------------------------------


def _fault(message: str, *at: str) -> PydanticCustomError:
    """A validation error in our own words, ``at`` being the keys below the place where it is raised."""
    return PydanticCustomError("profile", "{message}", {"message": message, "at": at})


def _show(value: object) -> str:
    """A value as its writer would know it again."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the text {value!r}" if isinstance(value, str) else str(value)


def _amount(value: object) -> float:
    """A finite number >= 0; a bool or text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fault(f"must be a number, not {_show(value)}; the unit goes under 'unit'")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise _fault(f"must be finite, not {amount}; remove the entry if the price is unknown")
    if amount < 0:
        raise _fault(f"must not be negative, but is {amount:g}")
    return amount


def _whole_bits(value: object) -> int:
    """A whole number of bits, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _fault(f"must be a whole number of bits, at least 1, not {_show(value)}")
    return value


def _scaled(value: float, exponent: int) -> float:
    """``value`` · 10^``exponent``, rounded once: 0.9 pJ and 0.0009 nJ are the same float."""
    return float(Decimal(repr(float(value))).scaleb(exponent))


Amount = Annotated[float, BeforeValidator(_amount)]
Bits = Annotated[int, BeforeValidator(_whole_bits)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Line = Annotated[str, Field(strict=True, min_length=1, pattern=r"^[^\n]*$")]


class _Record(BaseModel):
    """Frozen; unknown keys are errors that suggest the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, dict) else ():
            if key not in known:
                hint = nearest(str(key), known) or f"; known here: {', '.join(known)}"
                raise _fault(f"unknown key{hint}", str(key))
        return data


class Quantity(_Record):
    """One number of a profile with its unit and where it comes from."""

    UNITS: ClassVar[Mapping[str, int]]

    value: Amount
    unit: Text
    source: Text
    kind: Kind
    note: Text | None = None

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        if unit not in cls.UNITS:
            hint = _nearest_unit(unit, cls.UNITS)
            raise _fault(f"unit '{unit}' is not one of {', '.join(cls.UNITS)}{hint}")
        return unit

    @property
    def si_value(self) -> float:
        """The number in SI (J, W; bits for sizes and widths)."""
        return _scaled(self.value, self.UNITS[self.unit])


def _nearest_unit(unit: str, known: Iterable[str]) -> str:
    """The suggestion of ``nearest``, which here knows that pj means pJ and µ means u."""
    folded = {name.lower(): name for name in known}
    plain = unit.replace("µ", "u").replace("μ", "u").lower()  # the micro sign and the Greek letter
    return f"; did you mean '{folded[plain]}'?" if plain in folded else nearest(unit, folded.values())


class Width(Quantity):
    """Bits of one element of a tensor: whole, at least 1."""

    UNITS = {"bit": 0}

    value: Bits


class Size(Quantity):
    """Capacity of a memory level."""

    UNITS = SIZE_UNITS

    @property
    def si_value(self) -> float:
        """The size in bits."""
        return self.value * self.UNITS[self.unit]

    @property
    def size_bits(self) -> float:
        """The size in bits."""
        return self.si_value


class Power(Quantity):
    """Power drawn whether or not anything is computed."""

    UNITS = POWER_UNITS

    @property
    def power_w(self) -> float:
        """The power in watt."""
        return self.si_value


class Price(Quantity):
    """Energy of one operation. ``width_bits`` is the width of its operands, where the source names one."""

    UNITS = ENERGY_UNITS

    width_bits: Bits | None = None

    @property
    def energy_j(self) -> float:
        """The energy in joule."""
        return self.si_value

    @property
    def energy_pj(self) -> float:
        """The energy in picojoule."""
        return _scaled(self.value, self.UNITS[self.unit] + 12)


class WidePrice(Price):
    """A price that means nothing without a width: a MAC, an accumulate, a word read or written."""

    width_bits: Bits

    @property
    def energy_j_per_bit(self) -> float:
        """The energy in joule per bit of the operation's width."""
        return self.energy_j / self.width_bits


class ZeroCheckPrice(Price):
    """Energy of asking whether an input is zero, once per operation it feeds or once per input element."""

    per: Literal["operation", "element"] = "operation"


# --- What a profile is --------------------------------------------------------------------------------------


class Source(_Record):
    """A citation with the place in it; the note says how its numbers were read."""

    citation: Text
    note: Text | None = None


class Widths(_Record):
    """How many bits one element of each kind of tensor has."""

    weights: Width
    activations: Width
    membrane: Width
    partial_sums: Width

    @property
    def weights_bits(self) -> int:
        """Bits of a weight."""
        return self.weights.value

    @property
    def activations_bits(self) -> int:
        """Bits of a real activation (spikes take fewer)."""
        return self.activations.value

    @property
    def membrane_bits(self) -> int:
        """Bits of a membrane potential."""
        return self.membrane.value

    @property
    def partial_sums_bits(self) -> int:
        """Bits of a partial sum."""
        return self.partial_sums.value


class Elementwise(_Record):
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


class Compute(_Record):
    """Prices of the arithmetic, one operation each."""

    mac: WidePrice
    ac: WidePrice
    zero_check: ZeroCheckPrice | None = None
    neuron_update: Price | None = None
    neuron_spiking: Price | None = None
    neuron_silent: Price | None = None
    elementwise: Elementwise = Elementwise()

    @model_validator(mode="after")
    def _one_neuron_price_or_a_pair(self) -> Compute:
        pair = {"neuron_spiking": self.neuron_spiking, "neuron_silent": self.neuron_silent}
        given = [name for name, price in pair.items() if price is not None]
        if given and self.neuron_update is not None:
            raise _fault(f"neuron updates are priced twice; keep neuron_update or {given[0]}", given[0])
        if len(given) == 1:
            other = next(name for name in pair if name not in given)
            raise _fault(f"needs '{other}' beside it; add it, or price all updates as neuron_update", given[0])
        return self

    @property
    def neuron_prices(self) -> tuple[Price, Price] | None:
        """Prices of an update of a (spiking, silent) neuron, the same one twice where the profile has one."""
        if self.neuron_update is not None:
            return self.neuron_update, self.neuron_update
        if self.neuron_spiking is None or self.neuron_silent is None:
            return None
        return self.neuron_spiking, self.neuron_silent


class Level(_Record):
    """A store with its prices per access of ``width_bits``. No size where the source names none."""

    size: Size | None = None
    read: WidePrice
    write: WidePrice


class Placement(_Record):
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


class MemoryModel(_Record):
    """Named stores, what lies where, and whether the first read and last write of a membrane are saved."""

    levels: dict[str, Level] = Field(min_length=1)
    placement: Placement
    drop_first_last: StrictBool = False

    @model_validator(mode="after")
    def _placed_on_levels(self) -> MemoryModel:
        for tensor in TENSORS:
            level = self.placement.level_of(tensor)
            if level not in self.levels:
                hint = nearest(level, self.levels) or f"; there are {', '.join(self.levels)}"
                raise _fault(f"no memory level '{level}'{hint}", "placement", tensor)
        return self

    def read_j_per_bit(self, tensor: str) -> float:
        """Energy in joule of reading one bit of ``tensor`` from where it lies."""
        return self.levels[self.placement.level_of(tensor)].read.energy_j_per_bit

    def write_j_per_bit(self, tensor: str) -> float:
        """Energy in joule of writing one bit of ``tensor`` to where it lies."""
        return self.levels[self.placement.level_of(tensor)].write.energy_j_per_bit


class HardwareProfile(_Record):
    """One device: prices with their sources. Made by :func:`load_hardware`."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Line
    description: Line
    technology: Text
    sources: dict[str, Source] = Field(min_length=1)
    widths: Widths
    compute: Compute
    memory: MemoryModel
    static_power: Power | None = None

    @model_validator(mode="after")
    def _numbers_cite_sources(self) -> HardwareProfile:
        for path, number in _quantities(self):
            if number.source not in self.sources:
                hint = nearest(number.source, self.sources) or f"; there are {', '.join(self.sources)}"
                raise _fault(f"'{number.source}' is no entry of sources{hint}", *path, "source")
        return self


# --- From a file to a profile -------------------------------------------------------------------------------


class _Document:
    """The plain values of a YAML file, and the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Keys, int] = {(): 1}
        self._containers: set[int] = set()
        node = self._compose(self._text())
        if node is None:
            raise self.error("the file is empty; a hardware profile starts with 'schema: 1'")
        if not isinstance(node, MappingNode):
            raise self.error("a hardware profile is a mapping of keys; it starts with 'schema: 1'")
        self.tree: dict[str, object] = self._mapping(node, ())

    def error(self, message: str, loc: Keys = (), line: int | None = None) -> HardwareError:
        """An error at a line, by default that of the innermost key of ``loc`` that the file has."""
        return HardwareError(f"{self.path}:{line or self.line_of(loc)}: {message}")

    def line_of(self, loc: Keys) -> int:
        """Line of the innermost key of ``loc`` that the file has."""
        while loc not in self.lines:
            loc = loc[:-1]
        return self.lines[loc]

    def _text(self) -> str:
        try:
            raw = self.path.read_bytes()
            return raw.decode("utf-8-sig")
        except FileNotFoundError:
            mend = "check the path, or choose a bundled one from `snn-energy hardware list`"
            raise HardwareError(f"{self.path}: no such file; {mend}") from None
        except OSError as error:
            raise HardwareError(f"{self.path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise self.error("not text in UTF-8; save the profile as UTF-8", line=line) from error

    def _compose(self, text: str) -> Node | None:
        try:
            node: Node | None = YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            raise self.error(f"not YAML: {error.problem or error.context}", line=line) from error
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self.error(f"not YAML: {error.reason}", line=line) from error
        except YAMLError as error:
            raise self.error(f"not YAML: {error}") from error
        except RecursionError:
            raise self.error("not a hardware profile: nested too deeply") from None
        return node

    def _mapping(self, node: MappingNode, path: Keys) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise self.error("keys are plain text; put the key in quotes", line=line)
            key = key_node.value
            here = (*path, key)
            if key in values:
                raise self.error(
                    f"{'.'.join(here)}: duplicate key, first on line {self.lines[here]}; remove one",
                    line=line,
                )
            self.lines[here] = line
            values[key] = self._value(value_node, here)
        return values

    def _value(self, node: Node, path: Keys) -> object:
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._containers:
            raise self.error(f"{'.'.join(path)}: aliases are not read; write the entry out", path)
        self._containers.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        assert isinstance(node, SequenceNode)
        return [self._value(item, path) for item in node.value]

    def _scalar(self, node: ScalarNode, path: Keys) -> object:
        text, tag = str(node.value), str(node.tag).removeprefix("tag:yaml.org,2002:")
        try:
            if tag in _SCALARS:
                return _SCALARS[tag](text)
        except ValueError:
            raise self.error(f"{'.'.join(path)}: cannot read '{text}' as a number", path) from None
        if tag == "null":
            raise self.error(f"{'.'.join(path)}: is empty; write a value or remove the key", path)
        raise self.error(f"{'.'.join(path)}: the tag {node.tag} is not read; remove it", path)


def _yaml_float(text: str) -> float:
    return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


def _yaml_int(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)


_SCALARS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "timestamp": str,
    "bool": lambda text: text.lower() in ("true", "yes", "on", "y"),
    "int": _yaml_int,
    "float": _yaml_float,
}


def _bundled_directory() -> Path:
    """Where the bundled profiles lie: in the package (a wheel) or beside it (a checkout)."""
    package = Path(__file__).resolve().parent
    for place in (package / "hardware_profiles", package.parent / "hardware_profiles"):
        if place.is_dir():
            return place
    raise HardwareError(f"{package}: the bundled hardware profiles are gone; install snn_energy again")


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
    document = _Document(_resolve(name_or_path))
    _check_schema(document)
    try:
        profile = HardwareProfile.model_validate(document.tree)
    except ValidationError as error:
        raise _first_fault(document, error) from error
    _check_bundled_name(document, profile)
    return profile


def _resolve(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(SUFFIXES)
    return Path(name_or_path) if is_path else hardware_path(text)


def _check_schema(document: _Document) -> None:
    """Another version has other keys, so this fault comes before all others."""
    if "schema" not in document.tree:
        raise document.error(f"the key 'schema' is missing; add 'schema: {SCHEMA_VERSION}'")
    version = document.tree["schema"]
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        known = f"this version of snn_energy reads 'schema: {SCHEMA_VERSION}'"
        raise document.error(f"schema: {_show(version)} is not understood; {known}", ("schema",))


def _check_bundled_name(document: _Document, profile: HardwareProfile) -> None:
    path = document.path.resolve()
    if path.parent == _bundled_directory() and profile.name != path.stem:
        raise document.error(f"name: a bundled profile is named like its file, '{path.stem}'", ("name",))


def _first_fault(document: _Document, error: ValidationError) -> HardwareError:
    """The fault nearest to the top of the file, and how many there are besides."""
    faults = [_fault_at(details) for details in error.errors(include_url=False)]
    loc, words = min(faults, key=lambda fault: document.line_of(fault[0]))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return document.error(f"{'.'.join(loc)}: {words}{more}", loc)


def _fault_at(details: ErrorDetails) -> tuple[Keys, str]:
    """The key a fault of pydantic's is about, and what is wrong in our words."""
    context = details.get("ctx", {})
    loc = (*map(str, details["loc"]), *context.get("at", ()))
    if details["type"] == "missing":
        return loc, f"is missing; add the key '{loc[-1]}' to {'.'.join(loc[:-1]) or 'the profile'}"
    return loc, _words(details["type"], details["input"], context, details["msg"])


def _words(fault: str, value: object, context: Mapping[str, Any], default: str) -> str:
    if fault == "profile":
        return str(context["message"])
    if fault == "literal_error":
        hint = nearest(value, _quoted(context["expected"])) if isinstance(value, str) else ""
        return f"must be {context['expected']}, not {_show(value)}{hint}"
    known = {
        "string_type": f"must be text, not {_show(value)}; put it in quotes",
        "string_too_short": "must not be empty",
        "string_pattern_mismatch": "must be one line",
        "bool_type": f"must be true or false, not {_show(value)}",
        "model_type": f"must be a mapping of keys, not {_show(value)}",
        "dict_type": f"must be a mapping of keys, not {_show(value)}",
        "too_short": "must have at least one entry",
    }
    return known.get(fault, default)


def _quoted(expected: str) -> list[str]:
    """The names in pydantic's "'a', 'b' or 'c'"."""
    return expected.split("'")[1::2]


# --- Reading a profile --------------------------------------------------------------------------------------


def _quantities(part: object, path: Keys = ()) -> Iterator[tuple[Keys, Quantity]]:
    """Every number below ``part`` with its keys, in the order of the schema."""
    if isinstance(part, Quantity):
        yield path, part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _quantities(getattr(part, name), (*path, name))
    elif isinstance(part, dict):
        for name, child in part.items():
            yield from _quantities(child, (*path, name))


def _component(path: Keys) -> tuple[str, str]:
    return ".".join(path[:-1]) or "profile", path[-1]


def describe(profile: HardwareProfile) -> pd.DataFrame:
    """One row per number of the profile, in the units of its file (columns: ``DESCRIBE_COLUMNS``).

    ``component`` and ``action`` are the keys in the file; ``width_bits`` is missing where a number has none.
    """
    import pandas as pd

    rows = [
        (
            *_component(path),
            float(number.value),
            number.unit,
            getattr(number, "width_bits", None),
            number.kind,
            number.source,
            profile.sources[number.source].citation,
        )
        for path, number in _quantities(profile)
    ]
    return pd.DataFrame(rows, columns=DESCRIBE_COLUMNS).astype({"width_bits": "Int64"})


def notes(profile: HardwareProfile) -> list[str]:
    """What the file remarks on its sources, numbers and placement: "key: remark", one each."""
    remarks: list[tuple[str, str | None]] = [
        *((f"sources.{name}", source.note) for name, source in profile.sources.items()),
        *((".".join(path), number.note) for path, number in _quantities(profile)),
        ("memory.placement", profile.memory.placement.note),
    ]
    return [f"{key}: {' '.join(note.split())}" for key, note in remarks if note is not None]


def cannot_price(profile: HardwareProfile) -> list[str]:
    """What the profile has no price for, a sentence each. Such work is listed as unpriced, never as zero."""
    compute, static = profile.compute, profile.static_power
    sentences = []
    if compute.neuron_prices is None:
        keys = "compute.neuron_update, or compute.neuron_spiking and compute.neuron_silent"
        sentences.append(f"Neuron updates have no price ({keys}).")
    if compute.zero_check is None:
        sentences.append("Zero checks have no price (compute.zero_check).")
    for op in Elementwise.model_fields:
        if compute.elementwise.price(op) is None:
            sentences.append(f"Elementwise operations of kind '{op}' have no price (compute.elementwise.{op}).")
    if static is None:
        sentences.append("Static power has no value (static_power).")
    else:
        power = f"{static.value:g} {static.unit}"
        sentences.append(f"Static power ({power}) is not priced yet: that takes the latency model.")
    return sentences


def differences(a: HardwareProfile, b: HardwareProfile) -> pd.DataFrame:
    """The numbers and settings in which two profiles differ (columns: ``DIFFERENCE_COLUMNS``).

    ``a`` and ``b`` hold each profile's own text, "-" where it has none; ``differs`` names what differs: value
    (compared in SI, so 0.9 pJ equals 0.0009 nJ), width_bits, kind, citation. Two equal profiles give no row.
    """
    import pandas as pd

    facts_a, facts_b = _facts(a), _facts(b)
    rows = []
    for path in dict.fromkeys([*facts_a, *facts_b]):
        differs = _what_differs(facts_a.get(path), facts_b.get(path))
        if differs:
            texts = (facts[path]["text"] if path in facts else "-" for facts in (facts_a, facts_b))
            rows.append((*_component(path), *texts, differs))
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def _facts(profile: HardwareProfile) -> dict[Keys, dict[str, object]]:
    """Each number and setting by its keys: how it reads ("text") and what is compared (the rest)."""
    facts: dict[Keys, dict[str, object]] = {}
    for path, number in _quantities(profile):
        width = getattr(number, "width_bits", None)
        facts[path] = {
            "text": f"{number.value:.12g} {number.unit}" + (f" / {width} bit" if width else ""),
            "value": number.si_value,
            "width_bits": width,
            "kind": number.kind,
            "citation": profile.sources[number.source].citation,
        }
    return facts | {path: {"text": text, "value": text} for path, text in _settings(profile).items()}


def _settings(profile: HardwareProfile) -> dict[Keys, str]:
    """What a profile decides besides numbers."""
    settings: dict[Keys, str] = {
        ("memory", "placement", tensor): profile.memory.placement.level_of(tensor) for tensor in TENSORS
    }
    settings["memory", "drop_first_last"] = str(profile.memory.drop_first_last).lower()
    if profile.compute.zero_check is not None:
        settings["compute", "zero_check", "per"] = profile.compute.zero_check.per
    return settings


def _what_differs(a: Mapping[str, object] | None, b: Mapping[str, object] | None) -> str:
    if a is None or b is None:
        return "only in a" if b is None else "only in b"
    return ", ".join(key for key in a if key != "text" and a[key] != b[key])
