"""The charged work of a network as arrays: the columns of a counts frame that cost something, per sample.

Every formula of energy, memory and latency reads a ``ChargedWork`` and broadcasts: the last axis is that of the rows,
(rows,) for means over samples, (samples, rows) for individual samples. There are two kinds of columns: *work* is summed
when rows are merged (``deduplicated``); *geometry* is equal in all merged rows. Unknown values are NaN, never zero.
No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, assert_never, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.left_out import left_out
from snn_energy.pricing.policies import EncoderPolicy, Policies

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
RowIndices = npt.NDArray[np.intp]

WorkColumn = Literal[
    "steps", "first_charged", "external_inputs", "first_reads", "last_writes", "macs", "sparse_macs", "acs",
    "zero_checked", "dense_macs", "input_events", "other_events", "spikes", "updates", "membrane_reads",
    "membrane_writes", "elementwise",
]  # fmt: skip
GeometryColumn = Literal[
    "real_input", "input_bits_each", "other_bits_each", "input_address_bits", "other_address_bits", "input_elements",
    "other_elements", "output_elements", "weights", "neurons", "state_elements", "reduction", "out_channels",
    "positions", "groups", "feeds_neuron", "layer_steps",
]  # fmt: skip
LayerColumn = Literal["layer_input_events", "layer_other_events", "layer_spikes"]
Column = WorkColumn | GeometryColumn | LayerColumn

ADDITIVE: tuple[WorkColumn, ...] = get_args(WorkColumn)
GEOMETRY: tuple[GeometryColumn, ...] = get_args(GeometryColumn)  # in addition to op
LAYER_EVENTS: tuple[LayerColumn, ...] = get_args(LayerColumn)  # geometry where spikes are coded as addresses
COLUMNS: tuple[Column, ...] = (*ADDITIVE, *GEOMETRY, *LAYER_EVENTS)


@dataclass(frozen=True)
class Operand:
    """One operand of every row: its elements, and its non-zeros in the row and in all steps of the row's layer.

    bits_each: bits per element, NaN for real values (which have the device's activation width). address_bits: bits of
    the address of one element.
    """

    elements: FloatArray
    events: FloatArray
    layer_events: FloatArray
    bits_each: FloatArray
    address_bits: FloatArray


@dataclass(frozen=True)
class ChargedWork:
    """Rows of a counts frame as arrays. The module docstring defines the two kinds of columns.

    steps: 1 where the row is charged (active, and not left out), else 0. first_charged: 1 at the first charged row of
    a layer. external_inputs: 1 where the first operation of the network reads new input, which comes from outside.
    membrane_reads, membrane_writes: of every state variable; first_reads, last_writes: those of a neuron's first (last)
    active step. state_elements: values that neurons keep, neurons * state variables; NaN if unknown. macs, acs:
    operations that the policies charge as MACs, as accumulates; sparse_macs: the part of macs that excludes zeros;
    dense_macs: all operations, zeros included; zero_checked: those checked for a zero input (none for real inputs).
    input_events, other_events: non-zeros of the operands. updates: updated neurons.
    input_*, other_*: see ``Operand``. layer_steps: charged steps of the row's layer with new input;
    layer_input_events, layer_other_events, layer_spikes: mean non-zeros of the layer's operands, and its spikes, in
    those steps: what must be stored between layers that run one after another.
    """

    op: npt.NDArray[np.str_]
    steps: FloatArray
    first_charged: FloatArray
    external_inputs: FloatArray
    first_reads: FloatArray
    last_writes: FloatArray
    macs: FloatArray
    sparse_macs: FloatArray
    acs: FloatArray
    zero_checked: FloatArray
    dense_macs: FloatArray
    input_events: FloatArray
    other_events: FloatArray
    spikes: FloatArray
    updates: FloatArray
    membrane_reads: FloatArray
    membrane_writes: FloatArray
    elementwise: FloatArray
    real_input: FloatArray
    input_bits_each: FloatArray
    other_bits_each: FloatArray
    input_address_bits: FloatArray
    other_address_bits: FloatArray
    input_elements: FloatArray
    other_elements: FloatArray
    output_elements: FloatArray
    weights: FloatArray
    neurons: FloatArray
    state_elements: FloatArray
    reduction: FloatArray
    out_channels: FloatArray
    positions: FloatArray
    groups: FloatArray
    feeds_neuron: FloatArray
    layer_steps: FloatArray
    layer_input_events: FloatArray
    layer_other_events: FloatArray
    layer_spikes: FloatArray
    network_weights: float
    network_state_elements: float

    def column(self, name: Column) -> FloatArray:
        """One column by its name."""
        found: FloatArray = getattr(self, name)
        return found

    def with_columns(self, changed: Iterable[tuple[Column, FloatArray]]) -> ChargedWork:
        """The same work with other values in these columns."""
        return dataclasses.replace(self, **dict(changed))  # type: ignore[arg-type]  # every Column is a FloatArray

    @property
    def is_operation(self) -> BoolArray:
        """Rows that read weights or multiply two operands."""
        return np.isin(self.op, OPERATIONS)

    @property
    def is_neuron(self) -> BoolArray:
        """Rows of spiking neurons."""
        return np.asarray(self.op == "neuron")

    @property
    def input_operand(self) -> Operand:
        """The streamed operand: the input of a layer, or the operand of the lower kind of a product."""
        return Operand(
            self.input_elements,
            self.input_events,
            self.layer_input_events,
            self.input_bits_each,
            self.input_address_bits,
        )

    @property
    def other_operand(self) -> Operand:
        """The other operand of a product; zero elements in other rows."""
        return Operand(
            self.other_elements,
            self.other_events,
            self.layer_other_events,
            self.other_bits_each,
            self.other_address_bits,
        )

    def select_rows(self, rows: RowIndices) -> ChargedWork:
        """Only these rows."""
        taken = self.with_columns((name, self.column(name)[..., rows]) for name in COLUMNS)
        return dataclasses.replace(taken, op=self.op[rows])

    def group_equal_rows(self, more: Iterable[Column] = ()) -> tuple[RowIndices, RowIndices]:
        """Rows of equal geometry (and equal columns ``more``): the first of each group, and the group of every row.

        LAYER_EVENTS are compared only if ``more`` contains them.
        """
        table = pd.DataFrame({name: self.column(name) for name in (*GEOMETRY, *more)}).assign(op=self.op)
        codes, _ = pd.factorize(pd.util.hash_pandas_object(table, index=False))
        first = np.unique(codes, return_index=True)[1]
        assert table.iloc[first[codes]].reset_index(drop=True).equals(table), "two geometries share a hash"
        return first, codes

    def deduplicated(self) -> ChargedWork:
        """The same work with rows of equal geometry merged: rows of equal unit costs are priced once."""
        first, codes = self.group_equal_rows()
        sums: Iterator[tuple[WorkColumn, FloatArray]] = (
            (name, np.bincount(codes, self.column(name), len(first)).astype(np.float64)) for name in ADDITIVE
        )
        return self.select_rows(first).with_columns(sums)


@dataclass(frozen=True)
class _Rows:
    """Rows of counts, and the flags that decide whether they are charged; arrays (rows,).

    included: not left out. active: included, and active in its time step. charged: active, and not a repeated input
    that the encoder policy charges once.
    """

    counts: Counts
    per_sample: slice | None
    op: npt.NDArray[np.str_]
    layer: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    other_kind: npt.NDArray[np.object_]
    operation: BoolArray
    neuron: BoolArray
    repeated: BoolArray
    included: BoolArray
    active: BoolArray
    charged: BoolArray

    @property
    def real(self) -> BoolArray:
        """Rows of real inputs."""
        return np.asarray(self.kind == "real")

    @property
    def has_other(self) -> BoolArray:
        """Rows with a second operand."""
        return np.asarray(self.other_kind != None)  # noqa: E711

    @property
    def active_neurons(self) -> BoolArray:
        """Rows of active neurons."""
        return self.neuron & self.active

    @property
    def reads_new_input(self) -> BoolArray:
        """Charged operations and neurons that read new input, not a repetition of the step before."""
        first = _first_rows_by_layer(self.layer, self.charged)
        return self.charged & (self.operation | self.neuron) & (first | ~(self.operation & self.repeated))

    def network_total(self, sizes: FloatArray) -> float:
        """The sum of a size over the included layers, each counted once."""
        once = ~pd.Series(self.layer).duplicated().to_numpy() & self.included
        return float((sizes * once).sum())

    def size(self, name: str) -> FloatArray:
        """A geometry column (rows,)."""
        return column(self.counts.rows, name)

    def work(self, name: str, where: BoolArray) -> FloatArray:
        """A work column per sample, 0 outside ``where``: means (rows,), or (samples, rows) of the chosen samples."""
        each = self.counts.per_sample
        if self.per_sample is not None and each is not None and name in each:
            values = each[name][:, self.per_sample].T.astype(np.float64)
        else:
            values = self.mean(name)
        return np.where(where, values, 0.0)

    def mean(self, name: str) -> FloatArray:
        """The mean of a work column over the samples (rows,)."""
        return column(self.counts.rows, name) / self.counts.samples


def _rows_of(counts: Counts, encoder: EncoderPolicy, without: Iterable[str], per_sample: slice | None) -> _Rows:
    rows = counts.rows
    op = rows["op"].to_numpy(dtype=str)
    included = ~left_out(rows["layer"], without)
    active = rows["active"].to_numpy(dtype=np.bool_) & included
    repeated = rows["input_repeated"].to_numpy(dtype=np.bool_)
    return _Rows(
        counts,
        per_sample,
        op,
        layer=rows["layer"].to_numpy(dtype=object),
        kind=rows["input_kind"].to_numpy(dtype=object),
        other_kind=rows["other_kind"].to_numpy(dtype=object),
        operation=np.isin(op, OPERATIONS),
        neuron=op == "neuron",
        repeated=repeated,
        included=included,
        active=active,
        charged=active & ~repeated if encoder == "once" else active,
    )


def charged_work(
    counts: Counts,
    hardware: HardwareProfile,
    policies: Policies,
    without: Iterable[str] = (),
    per_sample: slice | None = None,
) -> ChargedWork:
    """The work of a network that a device charges under the policies, per sample.

    Zeros are charged too on a device whose latency section has ``zeros: none``. without: layers that run elsewhere
    (SnnEnergyError for an unknown one). per_sample: compute these samples individually instead of the mean.
    """
    rows = _rows_of(counts, policies.encoder, without, per_sample)
    charged, operation = rows.charged, rows.operation & rows.charged
    dense, neurons = rows.work("dense_macs", operation), np.where(rows.neuron, rows.size("neurons"), 0.0)
    macs, sparse_macs, acs = _operations(rows, dense, policies, hardware)
    (reads, writes, state_elements), (sizes, operation_sizes) = _of_state(rows, neurons), _row_sizes(rows)
    layer_steps, layer_input_events, layer_other_events, layer_spikes = _per_layer(rows)
    return ChargedWork(
        op=rows.op,
        steps=(charged & (rows.operation | rows.neuron)).astype(np.float64),
        first_charged=_first_rows_by_layer(rows.layer, charged).astype(np.float64),
        external_inputs=_external_inputs(rows),
        first_reads=np.where(_first_rows_by_layer(rows.layer, rows.active_neurons), reads, 0.0),
        last_writes=np.where(_first_rows_by_layer(rows.layer[::-1], rows.active_neurons[::-1])[::-1], writes, 0.0),
        macs=macs,
        sparse_macs=sparse_macs,
        acs=acs,
        zero_checked=np.where(rows.real, 0.0, dense),
        dense_macs=dense,
        input_events=rows.work("input_nonzeros", operation),
        other_events=rows.work("other_nonzeros", operation & rows.has_other),
        spikes=rows.work("spikes", rows.active_neurons),
        updates=np.where(rows.active_neurons, neurons, 0.0),
        membrane_reads=reads,
        membrane_writes=writes,
        elementwise=rows.work("elementwise_ops", charged),
        real_input=rows.real.astype(np.float64),
        input_bits_each=_bits_each(rows.kind, rows.size("max_k")),
        other_bits_each=_bits_each(rows.other_kind, rows.size("other_max_k")),
        input_address_bits=_address_bits(sizes["input_elements"]),
        other_address_bits=_address_bits(sizes["other_elements"]),
        input_elements=operation_sizes["input_elements"],
        other_elements=np.where(rows.has_other, operation_sizes["other_elements"], 0.0),
        output_elements=sizes["output_elements"],
        weights=operation_sizes["weights"],
        neurons=neurons,
        state_elements=state_elements,
        reduction=operation_sizes["reduction"],
        out_channels=operation_sizes["out_channels"],
        positions=operation_sizes["positions"],
        groups=operation_sizes["groups"],
        feeds_neuron=counts.rows["feeds_neuron"].to_numpy(dtype=np.float64),
        layer_steps=layer_steps,
        layer_input_events=layer_input_events,
        layer_other_events=layer_other_events,
        layer_spikes=layer_spikes,
        network_weights=rows.network_total(operation_sizes["weights"]),
        network_state_elements=rows.network_total(state_elements),
    )


_SIZES = (
    "input_elements", "other_elements", "output_elements", "weights", "reduction", "out_channels", "positions",
    "groups",
)  # fmt: skip


def _row_sizes(rows: _Rows) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """The sizes of every row, and the same sizes with 0 in rows that are not operations."""
    sizes = {name: rows.size(name) for name in _SIZES}
    return sizes, {name: np.where(rows.operation, values, 0.0) for name, values in sizes.items()}


def _of_state(rows: _Rows, neurons: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Reads, writes and elements of all state variables of every row; NaN where their number is unknown."""
    variables = np.where(rows.neuron, rows.size("state_variables"), 0.0)
    reads, writes = (rows.work(f"membrane_{name}", rows.included) for name in ("reads", "writes"))
    return reads * variables, writes * variables, neurons * variables


def _operations(
    rows: _Rows, dense: FloatArray, policies: Policies, hardware: HardwareProfile
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """MACs, the part of them that excludes zeros, and accumulates of every row (design, section 6)."""
    operation, zeros = rows.operation & rows.charged, "gate" if hardware.latency is None else hardware.latency.zeros
    real, integers = rows.real, rows.kind == "integer"
    exact = "sops_gated" if policies.products == "gated" else "sops"
    sops = dense if zeros == "none" else rows.work(exact, operation)
    macs = np.where(real, dense, 0.0)
    sparse = np.zeros_like(macs)
    acs = np.where(~real & ~integers, sops, 0.0)
    if policies.integer == "mac-dense":
        macs = macs + np.where(integers, dense, 0.0)
    elif policies.integer == "mac":
        sparse = np.where(integers, sops, 0.0)
        macs = macs + sparse
    elif policies.integer == "ac" or policies.integer == "multi-ac":
        is_single = policies.integer == "ac" or zeros == "none"
        many = sops if is_single else rows.work("sops_multi", integers & operation)
        acs = acs + np.where(integers, many, 0.0)
    else:
        assert_never(policies.integer)
    return macs, sparse, acs


def _per_layer(rows: _Rows) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sums over the rows of each row's layer that read new input: steps, non-zeros of both operands, spikes."""
    codes, reads_new_input = pd.factorize(rows.layer)[0], rows.reads_new_input

    def summed(values: FloatArray) -> FloatArray:
        return np.bincount(codes, np.where(reads_new_input, values, 0.0)).astype(np.float64)[codes]

    return (
        summed(np.ones(len(codes))),
        summed(np.where(rows.operation, rows.mean("input_nonzeros"), 0.0)),
        summed(np.where(rows.has_other, rows.mean("other_nonzeros"), 0.0)),
        summed(np.where(rows.neuron, rows.mean("spikes"), 0.0)),
    )


def column(rows: pd.DataFrame, name: str) -> FloatArray:
    """A column of integers as floats, NaN where unknown."""
    return np.asarray(rows[name].to_numpy(dtype=np.float64, na_value=np.nan))


def _first_rows_by_layer(layers: npt.NDArray[np.object_], where: BoolArray) -> BoolArray:
    """True at the first row of each layer for which ``where`` is true."""
    indices = np.flatnonzero(where)
    first = ~pd.Series(layers[indices]).duplicated().to_numpy(dtype=np.bool_)
    found = np.zeros(len(where), dtype=np.bool_)
    found[indices[first]] = True
    return found


def _external_inputs(rows: _Rows) -> FloatArray:
    """1 at rows of the network's first operation that read new input, not a repetition of the step before."""
    if not rows.operation.any():
        return np.zeros(len(rows.op))
    orders = np.where(rows.operation, rows.size("order"), np.inf)
    first = rows.operation & (rows.layer == rows.layer[int(np.argmin(orders))])
    return np.asarray(first & rows.reads_new_input, dtype=np.float64)


def _bits_each(kinds: npt.NDArray[np.object_], max_k: FloatArray) -> FloatArray:
    """Bits per element of a kind: binary 1, ternary 2, integer ceil(log2(max_k + 1)); NaN for real, 0 for none."""
    bits = np.zeros(len(kinds))
    bits[kinds == "binary"], bits[kinds == "ternary"], bits[kinds == "real"] = 1.0, 2.0, np.nan
    integer = kinds == "integer"
    bits[integer] = np.ceil(np.log2(max_k[integer] + 1))
    return bits


def _address_bits(elements: FloatArray) -> FloatArray:
    """Bits to address one of ``elements`` elements, at least one."""
    return np.ceil(np.log2(np.maximum(np.nan_to_num(elements, nan=2.0), 2.0)))
