"""What a network does, as arrays: the columns of a counts frame that cost something, per sample.

Every formula of energy, memory and latency takes a ``Work`` and broadcasts: arrays end in the axis of rows, (rows,)
for the means over samples, (samples, rows) for every sample on its own. Columns are of two sorts. *Work* adds up when
rows are put together (``compressed``); *geometry* is the same for all of them. Unknown figures are NaN, never zero.
No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import SnnEnergyError, nearest
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ADDITIVE = (
    "steps", "firsts", "arrivals", "first_reads", "last_writes", "macs", "sparse_macs", "acs", "dense",
    "dense_macs", "input_events", "other_events", "spikes", "updates", "membrane_reads", "membrane_writes",
    "elementwise",
)  # fmt: skip
GEOMETRY = (
    "op", "real_input", "input_bits_each", "other_bits_each", "input_width", "other_width", "input_elements",
    "other_elements", "output_elements", "weights", "neurons", "reduction", "out_channels", "positions", "groups",
    "feeds_neuron", "layer_steps",
)  # fmt: skip
LAYER_EVENTS = ("layer_input_events", "layer_other_events", "layer_spikes")  # geometry where spikes are addresses


@dataclass(frozen=True)
class Work:
    """Rows of a counts frame as arrays. See the module for the two sorts of columns.

    steps: 1 where the row is charged (active, and not left out), else 0. firsts: 1 at the first charged row of a
    layer. arrivals: 1 where the first operation of the network reads something new, which comes from outside.
    first_reads, last_writes: membrane reads (writes) of a neuron's first (last) active step. macs, acs: what the
    policies make of the row; sparse_macs: those of macs that zeros are left out of; dense_macs: all its operations;
    dense: those asked whether an input is zero (none for real inputs). input_events, other_events: non-zeros of the
    operands. updates: neurons that are updated.
    input_bits_each, other_bits_each: bits per element, NaN for real ones (the device's activation width).
    input_width, other_width: bits that tell one element of the operand from another (its address). layer_steps: charged
    steps of the row's layer that differ from the one before; layer_input_events, layer_other_events, layer_spikes: mean
    non-zeros of its operands and its spikes in them: what must be stored between layers that run one after another.
    """

    op: npt.NDArray[np.str_]
    columns: Mapping[str, Array]
    network_weights: float
    network_neurons: float

    def __getattr__(self, name: str) -> Array:
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def is_operation(self) -> Flags:
        """Rows that read weights or multiply two operands."""
        return np.isin(self.op, OPERATIONS)

    @property
    def is_neuron(self) -> Flags:
        """Rows of spiking neurons."""
        return np.asarray(self.op == "neuron")

    def take(self, rows: npt.NDArray[np.intp]) -> Work:
        """These rows alone."""
        columns = {name: values[..., rows] for name, values in self.columns.items()}
        return dataclasses.replace(self, op=self.op[rows], columns=columns)

    def alike(self, more: Iterable[str] = ()) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows of equal geometry (and equal columns ``more``): the first of each sort, and the sort of every row."""
        names = [name for name in GEOMETRY if name != "op"]  # LAYER_EVENTS: asked for where they matter
        table = pd.DataFrame({name: self.columns[name] for name in (*names, *more)}).assign(op=self.op)
        codes, _ = pd.factorize(pd.util.hash_pandas_object(table, index=False))
        first = np.unique(codes, return_index=True)[1]
        assert table.iloc[first[codes]].reset_index(drop=True).equals(table), "two geometries share a hash"
        return first, codes

    def compressed(self) -> Work:
        """The same work with rows of equal geometry put together: what costs the same per unit is priced once."""
        first, codes = self.alike()
        together = self.take(first)
        sums = {n: np.bincount(codes, self.columns[n], len(first)).astype(np.float64) for n in ADDITIVE}
        return dataclasses.replace(together, columns={**together.columns, **sums})


def left_out(layers: pd.Series, without: Iterable[str]) -> Flags:
    """Rows of the layers that are not priced: named exactly, or by a prefix that ends at a dot.

    Raises SnnEnergyError for a name that no layer has.
    """
    found = np.zeros(len(layers), dtype=np.bool_)
    for name in without:
        rows = _named(layers, name)
        if not rows.any():
            known = list(dict.fromkeys(layers))
            raise SnnEnergyError(f"no layer '{name}' to leave out{nearest(name, known)}")
        found |= rows
    return found


def has_layer(layers: pd.Series, name: str) -> bool:
    """True where ``left_out`` knows the name."""
    return bool(_named(layers, name).any())


def layers_left_out(networks: Sequence[Counts], without: Iterable[str]) -> list[tuple[str, ...]]:
    """Of the layers to leave out, those that each network has. Raises SnnEnergyError for one that none has."""
    names = (without,) if isinstance(without, str) else tuple(without)
    for name in names:
        if not any(has_layer(c.rows["layer"], name) for c in networks):
            known = [layer for c in networks for layer in c.rows["layer"].unique()]
            raise SnnEnergyError(f"no layer '{name}' to leave out{nearest(name, known)}")
    return [tuple(name for name in names if has_layer(c.rows["layer"], name)) for c in networks]


def _named(layers: pd.Series, name: str) -> Flags:
    if not name:
        return np.zeros(len(layers), dtype=np.bool_)
    found = (layers == name) | layers.str.startswith(f"{name}.") | layers.str.startswith(f"{name}#")
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def work_of(
    counts: Counts,
    *,
    integer: str = "ac",
    products: str = "coincidence",
    encoder: str = "per-step",
    zeros: str = "gate",
    without: Iterable[str] = (),
    per_sample: slice | None = None,
) -> Work:
    """The charged work of a network, per sample.

    integer, products, encoder: see ``energy.Policies``; zeros: ``none`` charges the accumulates of zeros too. without:
    layers that run elsewhere. per_sample: these samples one by one instead of their mean.
    """
    rows, samples = counts.rows, counts.samples
    size = {name: column(rows, name) for name in (*_SIZES, "order")}
    op = rows["op"].to_numpy(dtype=str)
    operation, neuron = np.isin(op, OPERATIONS), op == "neuron"
    kept = ~left_out(rows["layer"], without)
    active = rows["active"].to_numpy(dtype=np.bool_) & kept
    charged = active & ~rows["input_repeated"].to_numpy(dtype=np.bool_) if encoder == "once" else active
    kind, other_kind = rows["input_kind"].to_numpy(dtype=object), rows["other_kind"].to_numpy(dtype=object)
    real, integers = kind == "real", kind == "integer"
    layer = rows["layer"].to_numpy(dtype=object)

    def work(name: str, where: Flags) -> Array:
        if per_sample is not None and counts.per_sample is not None and name in counts.per_sample:
            values = counts.per_sample[name][:, per_sample].T.astype(np.float64)
        else:
            values = column(rows, name) / samples
        return np.where(where, values, 0.0)

    dense = work("dense_macs", operation & charged)
    sops = work("sops_gated" if products == "gated" else "sops", operation & charged)
    if zeros == "none":
        sops = dense
    macs = np.where(real, dense, 0.0)
    sparse = np.zeros_like(macs)
    acs = np.where(~real & ~integers, sops, 0.0)
    if integer == "mac-dense":
        macs = macs + np.where(integers, dense, 0.0)
    elif integer == "mac":
        sparse = np.where(integers, sops, 0.0)
        macs = macs + sparse
    else:
        many = sops if integer == "ac" or zeros == "none" else work("sops_multi", integers & operation & charged)
        acs = acs + np.where(integers, many, 0.0)
    firing = neuron & active
    reads, writes = work("membrane_reads", kept), work("membrane_writes", kept)
    columns = {
        "steps": (charged & (operation | neuron)).astype(np.float64),
        "firsts": _edge(layer, charged).astype(np.float64),
        "first_reads": np.where(_edge(layer, firing), reads, 0.0),
        "last_writes": np.where(_edge(layer[::-1], firing[::-1])[::-1], writes, 0.0),
        "macs": macs,
        "sparse_macs": sparse,
        "acs": acs,
        "dense": np.where(real, 0.0, dense),
        "dense_macs": dense,
        "input_events": work("input_nonzeros", operation & charged),
        "other_events": work("other_nonzeros", operation & charged & (other_kind != None)),  # noqa: E711
        "spikes": work("spikes", firing),
        "updates": np.where(firing, size["neurons"], 0.0),
        "membrane_reads": reads,
        "membrane_writes": writes,
        "elementwise": work("elementwise_ops", charged),
        "real_input": real.astype(np.float64),
        "input_bits_each": _bits_each(kind, column(rows, "max_k")),
        "other_bits_each": _bits_each(other_kind, column(rows, "other_max_k")),
        "input_width": _address_bits(size["input_elements"]),
        "other_width": _address_bits(size["other_elements"]),
        "feeds_neuron": rows["feeds_neuron"].to_numpy(dtype=np.float64),
        **{name: np.where(operation, size[name], 0.0) for name in _SIZES},
        "output_elements": size["output_elements"],
        "neurons": np.where(neuron, size["neurons"], 0.0),
    }
    repeated = operation & rows["input_repeated"].to_numpy(dtype=np.bool_)
    anew = charged & (operation | neuron) & (_edge(layer, charged) | ~repeated)
    columns["arrivals"] = _arrivals(rows, operation, anew)
    codes = pd.factorize(layer)[0]
    for name, values in (
        ("layer_steps", np.ones(len(rows))),
        ("layer_input_events", np.where(operation, column(rows, "input_nonzeros") / samples, 0.0)),
        ("layer_other_events", np.where(other_kind != None, column(rows, "other_nonzeros") / samples, 0.0)),  # noqa: E711
        ("layer_spikes", np.where(neuron, column(rows, "spikes") / samples, 0.0)),
    ):
        columns[name] = np.bincount(codes, np.where(anew, values, 0.0))[codes]
    columns["other_elements"] = np.where(other_kind == None, 0.0, columns["other_elements"])  # noqa: E711
    once = ~pd.Series(layer).duplicated().to_numpy() & kept
    return Work(
        op,
        columns,
        float((columns["weights"] * once).sum()),
        float((columns["neurons"] * once).sum()),
    )


_SIZES = (
    "input_elements", "other_elements", "output_elements", "weights", "neurons", "reduction", "out_channels",
    "positions", "groups",
)  # fmt: skip


def column(rows: pd.DataFrame, name: str) -> Array:
    """A column of whole numbers as floats, NaN where it is not known."""
    return np.asarray(rows[name].to_numpy(dtype=np.float64, na_value=np.nan))


def _edge(layers: Any, where: Flags) -> Flags:
    """True at the first row of each layer of which ``where`` is true."""
    places = np.flatnonzero(where)
    first = ~pd.Series(layers[places]).duplicated().to_numpy(dtype=np.bool_)
    found = np.zeros(len(where), dtype=np.bool_)
    found[places[first]] = True
    return found


def _arrivals(rows: pd.DataFrame, operation: Flags, anew: Flags) -> Array:
    """1 at rows of the network's first operation that do not read again what they read a step before."""
    if not operation.any():
        return np.zeros(len(rows))
    layer = rows["layer"].to_numpy(dtype=object)
    orders = np.where(operation, column(rows, "order"), np.inf)
    first = operation & (layer == layer[int(np.argmin(orders))])
    return np.asarray(first & anew, dtype=np.float64)


def _bits_each(kinds: Any, max_k: Array) -> Array:
    """Bits per element of a kind: binary 1, ternary 2, integer ceil(log2(max_k + 1)); NaN for real, 0 for none."""
    bits = np.zeros(len(kinds))
    bits[kinds == "binary"], bits[kinds == "ternary"], bits[kinds == "real"] = 1.0, 2.0, np.nan
    integer = kinds == "integer"
    bits[integer] = np.ceil(np.log2(max_k[integer] + 1))
    return bits


def _address_bits(elements: Array) -> Array:
    """Bits that name one of so many elements, at least one."""
    return np.ceil(np.log2(np.maximum(np.nan_to_num(elements, nan=2.0), 2.0)))
