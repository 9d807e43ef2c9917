"""The schema of published counts: the keys of a YAML file, and the values that are derived from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, StrictBool, model_validator

from snn_energy.core.errors import CountsError, nearest
from snn_energy.core.groups import Group
from snn_energy.core.kinds import KINDS
from snn_energy.core.sources import Source
from snn_energy.core.vocabulary import Kind
from snn_energy.core.yaml_file import FileType, StrictModel, Text, schema_error
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.published_amounts import (
    LARGEST,
    NonNegativeInt,
    NonNegativeNumber,
    PerInference,
    PositiveInt,
    Share,
)

BUNDLED = "published:"  # published:FILE[:NETWORK] is a bundled file
SCHEMA_VERSION = 1
FILE_TYPE = FileType(
    "a file of published counts",
    SCHEMA_VERSION,
    CountsError,
    f"check the path, or name a file that comes with snn_energy as {BUNDLED}FILE",
)
MOST_ROWS = 10**6  # layers times time steps
Op = Literal[
    "conv", "linear", "matmul", "neuron", "norm", "add", "mul", "scale", "activation", "softmax", "pool", "mean",
    "reduce",
]  # fmt: skip


class Totals(StrictModel):
    """A whole network, per inference: ``macs`` of real inputs, ``sops`` (accumulates) of spikes.

    ``neurons`` of all spiking layers, ``spikes`` over all time steps, ``weights`` of all layers.
    """

    macs: NonNegativeNumber
    sops: NonNegativeNumber
    neurons: NonNegativeInt | None = None
    spikes: NonNegativeNumber | None = None
    weights: NonNegativeInt | None = None


class Layer(StrictModel):
    """One layer, per sample and active time step: an operation (conv, linear, matmul), neurons, or element-wise work.

    Operations: M = ``positions``, K = ``reduction`` (inputs per output), N = ``out_channels`` (over all ``groups``).
    ``macs`` = M*K*N. ``weights`` = K*N of conv and linear layers; ``biases`` 0 or N. ``input_elements`` = M*K of a
    linear layer; a matmul streams the operand of the lower kind, ``streamed``: left (M*K*groups elements) or right
    (K*N). ``rate``, ``other_rate``: non-zeros / elements of the (streamed) input, and of a matmul's other operand.
    ``mean_level``: mean of |k| of an integer input, which may exceed 1. ``sops``: accumulates; if only a rate is given,
    rate * macs. For a matmul these are the gated SOPs, as a rate does not determine its coincidences. ``feeds_neuron``:
    all readers of the output are neurons; default: the next operation or neuron in the file is a neuron.

    Neurons: ``neurons``, ``state_variables`` of each (1), and ``spikes`` or ``firing_rate`` (spikes / neurons).

    Element-wise: ``elementwise_ops``, 0 for a norm that folds into the layer before it; ``weights`` and ``biases``:
    parameters of norms and embeddings, default unknown for norms and 0 for others.

    ``active_steps``: number of first steps that run, default all, 0 for none. ``once``: runs once per inference.
    ``input_repeated``: the input is the same at every step (direct encoding).
    """

    op: Op | None = None
    group: Group | None = None
    note: Text | None = None
    active_steps: NonNegativeInt | None = None
    once: StrictBool = False
    positions: PositiveInt | None = None
    reduction: PositiveInt | None = None
    out_channels: PositiveInt | None = None
    groups: PositiveInt = 1
    macs: NonNegativeInt | None = None
    weights: NonNegativeInt | None = None
    biases: NonNegativeInt | None = None
    input_elements: NonNegativeInt | None = None
    input_kind: Kind | None = None
    max_k: PositiveInt | None = None
    input_repeated: StrictBool = False
    other_kind: Kind | None = None
    other_max_k: PositiveInt | None = None
    streamed: Literal["left", "right"] = "left"
    rate: Share | None = None
    other_rate: Share | None = None
    mean_level: NonNegativeNumber | None = None
    sops: NonNegativeNumber | None = None
    feeds_neuron: StrictBool | None = None
    neurons: NonNegativeInt | None = None
    state_variables: NonNegativeInt = 1
    spikes: NonNegativeNumber | None = None
    firing_rate: Share | None = None
    elementwise_ops: NonNegativeInt | None = None
    output_elements: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Layer:
        if self.op is not None:
            _check_keys(self)
            _check_operation(self) if self.op in OPERATIONS else _check_neurons(self)
        elif not isinstance(self, LayerOrBlock):
            raise schema_error("is missing; add the key 'op'", "op")
        return self


COMMON_KEYS = frozenset(("op", "group", "note", "active_steps", "once", "repeat"))
OPERATION_KEYS = frozenset(
    ("positions", "reduction", "out_channels", "groups", "macs", "input_elements", "input_kind", "max_k",
     "input_repeated", "rate", "mean_level", "sops", "feeds_neuron", "output_elements")
)  # fmt: skip
WEIGHT_KEYS = frozenset(("weights", "biases"))
PRODUCT_KEYS = frozenset(("other_kind", "other_max_k", "other_rate", "streamed"))
NEURON_KEYS = frozenset(("neurons", "state_variables", "spikes", "firing_rate"))
ELEMENTWISE_KEYS = frozenset(("elementwise_ops", "output_elements"))


def _keys_of(op: str) -> frozenset[str]:
    """The keys that are valid for a layer of this op."""
    if op == "neuron":
        return COMMON_KEYS | NEURON_KEYS
    if op not in OPERATIONS:
        return COMMON_KEYS | WEIGHT_KEYS | ELEMENTWISE_KEYS
    return COMMON_KEYS | OPERATION_KEYS | (PRODUCT_KEYS if op == "matmul" else WEIGHT_KEYS)


def _check_keys(layer: Layer) -> None:
    known = _keys_of(str(layer.op))
    for key in sorted(layer.model_fields_set):
        if key not in known:
            raise schema_error(f"is not valid for op '{layer.op}'; remove it", key)
    if layer.once and "active_steps" in layer.model_fields_set:
        raise schema_error("and 'once' exclude each other; keep one", "active_steps")


def _check_operation(layer: Layer) -> None:
    product = layer.op == "matmul"
    for kind, largest in (("input_kind", "max_k"), ("other_kind", "other_max_k")):
        found = getattr(layer, kind)
        if found is None and (product or kind == "input_kind"):
            raise schema_error(f"is missing; add the key '{kind}': {', '.join(KINDS)}", kind)
        if found == "integer" and getattr(layer, largest) is None:
            raise schema_error(f"is missing; an integer input needs its largest value '{largest}'", largest)
        if found != "integer" and getattr(layer, largest) is not None:
            raise schema_error(f"is only valid for integers; remove it, or make {kind} integer", largest)
    if product and KINDS.index(layer.input_kind) > KINDS.index(layer.other_kind):
        raise schema_error(
            "must be the lower of the two kinds, the streamed one; swap it with other_kind", "input_kind"
        )
    if layer.mean_level is not None:
        if layer.input_kind != "integer":
            raise schema_error("is only valid for integers; remove it, or make input_kind integer", "mean_level")
        if layer.max_k is not None and layer.mean_level > layer.max_k:
            raise schema_error(f"is larger than max_k {layer.max_k}; correct one of them", "mean_level")
        if layer.rate is not None and layer.mean_level < layer.rate:
            raise schema_error(f"is smaller than the rate {layer.rate}; correct one of them", "mean_level")
    if layer.out_channels is not None and layer.out_channels % layer.groups:
        raise schema_error(f"does not divide out_channels {layer.out_channels}; correct one of them", "groups")
    derived = derive(layer)
    for key, value in vars(derived).items():
        given = getattr(layer, key, None)
        if given is not None and given != value:
            raise schema_error(f"does not add up: {FORMULAS[key, product]} is {value}, not {given}; correct one", key)
    if layer.biases and layer.out_channels is not None and layer.biases != layer.out_channels:
        raise schema_error(
            f"does not add up: there are {layer.out_channels} out_channels or none; correct it", "biases"
        )
    if derived.macs is not None and derived.macs > LARGEST:
        raise schema_error(
            f"times reduction times out_channels is larger than the largest supported value ({LARGEST})", "positions"
        )
    if layer.sops is not None and derived.macs is not None and layer.sops > derived.macs:
        raise schema_error(f"does not add up: more than the {derived.macs} dense MACs; sops are per time step", "sops")
    gated = product_or_none(layer.rate, derived.macs)
    if product and layer.sops is not None and gated is not None and layer.sops > gated:
        raise schema_error(f"does not add up: more than rate times dense MACs, {gated}; sops are coincidences", "sops")


def _check_neurons(layer: Layer) -> None:
    if layer.spikes is None or layer.neurons is None:
        return
    if layer.spikes > layer.neurons:
        raise schema_error(
            f"does not add up: more than the {layer.neurons} neurons; spikes are per time step", "spikes"
        )
    if layer.firing_rate is not None and not math.isclose(layer.firing_rate * layer.neurons, layer.spikes):
        raise schema_error(
            f"does not add up: {layer.spikes} spikes of {layer.neurons} neurons; keep one", "firing_rate"
        )


@dataclass(frozen=True)
class Derived:
    """Sizes of an operation: derived from its geometry, else as given in the file, else None."""

    macs: int | None
    weights: int | None
    input_elements: int | None
    other_elements: int | None
    output_elements: int | None


FORMULAS: Mapping[tuple[str, bool], str] = {
    **{("macs", product): "positions * reduction * out_channels" for product in (False, True)},
    **{("output_elements", product): "positions * out_channels" for product in (False, True)},
    ("weights", False): "reduction * out_channels",
    ("input_elements", False): "positions * reduction",
    ("input_elements", True): "the streamed operand, positions * reduction * groups or reduction * out_channels,",
}


def derive(layer: Layer) -> Derived:
    """M*K*N, and the sizes that follow from it."""
    m, k, n, g = layer.positions, layer.reduction, layer.out_channels, layer.groups
    product = layer.op == "matmul"
    left, right = product_or_none(m, k, g), product_or_none(k, n)
    streamed, other = (left, right) if layer.streamed == "left" else (right, left)
    inputs = streamed if product else product_or_none(m, k) if layer.op == "linear" else None
    return Derived(
        macs=_first_known(product_or_none(m, k, n), layer.macs),
        weights=0 if product else _first_known(product_or_none(k, n), layer.weights),
        input_elements=_first_known(inputs, layer.input_elements),
        other_elements=other if product else None,
        output_elements=_first_known(product_or_none(m, n), layer.output_elements),
    )


def product_or_none(*factors: int | float | None) -> Any:
    """The product of numbers; None if one of them is unknown."""
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def _first_known(first: Any, second: Any) -> Any:
    return second if first is None else first


class LayerOrBlock(Layer):
    """A layer, or a block of layers. ``repeat``: number of copies; ``{i}`` in the name is the index of each, from 0.

    A layer of a block is named BLOCK.LAYER, or BLOCK#LAYER if its own name begins with "#".
    """

    repeat: PositiveInt | None = None
    layers: dict[str, Layer] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _layer_or_block(self) -> LayerOrBlock:
        if self.layers is None and self.op is None:
            raise schema_error("is missing; add the key 'op', or 'layers' for a block of them", "op")
        if self.layers is not None and (own := self.model_fields_set - {"layers", "repeat", "note"}):
            key = min(own)
            raise schema_error(
                "belongs to a layer, and this is a block of them; remove it or write it in 'layers'", key
            )
        return self


class Accesses(StrictModel):
    """Reads and writes of a memory level for one tensor, per inference; ``accesses``: if only their sum is known."""

    reads: PerInference | None = None
    writes: PerInference | None = None
    accesses: PerInference | None = None

    @model_validator(mode="after")
    def _counted_once(self) -> Accesses:
        if not self.model_fields_set:
            raise schema_error("is empty; give reads, writes, or accesses")
        if self.accesses is not None and len(self.model_fields_set) > 1:
            raise schema_error("are the sum of reads and writes; give either accesses, or reads and writes", "accesses")
        return self


COUNT_FORMS = ("totals", "layers", "accesses")


class Network(StrictModel):
    """One network of a file: its source, T_max, and the counts in one of three forms."""

    source: Text
    note: Text | None = None
    time_steps: PositiveInt
    totals: Totals | None = None
    layers: dict[str, LayerOrBlock] | None = Field(default=None, min_length=1)
    accesses: dict[str, dict[str, Accesses]] | None = Field(default=None, min_length=1)
    cycles: PerInference | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Network:
        given = [name for name in COUNT_FORMS if getattr(self, name) is not None]
        if not given:
            raise schema_error(f"has no counts; add one of {', '.join(COUNT_FORMS)}")
        if len(given) > 1:
            raise schema_error(f"and '{given[0]}' exclude each other; keep one, or make two networks", given[1])
        if self.cycles is not None and self.accesses is None:
            raise schema_error(
                "are only valid together with 'accesses', of the same device; remove them, or add 'accesses'", "cycles"
            )
        return self

    @model_validator(mode="after")
    def _totals_add_up(self) -> Network:
        totals = self.totals
        if self.time_steps > MOST_ROWS:
            raise schema_error(f"are more than {MOST_ROWS}", "time_steps")
        if totals is not None and totals.spikes is not None and totals.neurons is not None:
            most = totals.neurons * self.time_steps
            if totals.spikes > most:
                raise schema_error(
                    f"does not add up: {totals.neurons} neurons spike {most} times in {self.time_steps} time steps at "
                    "most",
                    "totals",
                    "spikes",
                )
        return self

    @model_validator(mode="after")
    def _layers_add_up(self) -> Network:
        seen: set[str] = set()
        for name, layer, keys in expand_layers(self.layers or {}):
            if name in seen:
                raise schema_error(f"occurs twice ('{name}'); rename one", *keys)
            seen.add(name)
            if len(seen) * self.time_steps > MOST_ROWS:
                raise schema_error(
                    f"at least {len(seen)} layers in {self.time_steps} time steps are more than {MOST_ROWS} rows; "
                    "correct repeat or time_steps",
                    *keys[:2],
                    "repeat",
                )
            if layer.active_steps is not None and layer.active_steps > self.time_steps:
                raise schema_error(
                    f"does not add up: there are {self.time_steps} time steps; correct one", *keys, "active_steps"
                )
        return self


def expand_layers(entries: Mapping[str, LayerOrBlock]) -> Iterator[tuple[str, Layer, tuple[str, ...]]]:
    """Name, layer and YAML keys of every layer in execution order, with blocks and repetitions expanded."""
    for name, entry in entries.items():
        if ("{i}" in name) != (entry.repeat is not None):
            hint = "add it to the name, as in 'blocks.{i}'" if entry.repeat is not None else "add 'repeat'"
            raise schema_error(f"a layer that is repeated has {{i}} in its name; {hint}", "layers", name)
        for i in range(1 if entry.repeat is None else entry.repeat):
            expanded_name = name.replace("{i}", str(i))
            if entry.layers is None:
                yield expanded_name, entry, ("layers", name)
            for inner, layer in (entry.layers or {}).items():
                full = f"{expanded_name}{inner}" if inner.startswith("#") else f"{expanded_name}.{inner}"
                yield full, layer, ("layers", name, "layers", inner)


class Published(StrictModel):
    """A file of published counts."""

    schema_version: Literal[1] = Field(alias="schema")
    sources: dict[str, Source] = Field(min_length=1)
    networks: dict[str, Network] = Field(min_length=1)

    @model_validator(mode="after")
    def _networks_cite_sources(self) -> Published:
        for name, network in self.networks.items():
            if network.source not in self.sources:
                hint = nearest(network.source, self.sources) or f"; there are {', '.join(self.sources)}"
                raise schema_error(f"'{network.source}' is not in sources{hint}", "networks", name, "source")
        return self
