"""Latency = cycles of the operations, per sample (design, section 7). No torch here.

c_l^t = max(ops / (lanes . utilisation), bytes / bandwidth), 0 where a row is not charged; for operation rows only,
neuron updates are hidden behind them. ops = dense MACs where zeros take a cycle (``none``, ``gate``), the charged
operations where zeros are skipped. bytes: what a store with a bandwidth moves for the row, reads and writes together;
the slowest store is the bound. Weights that are loaded once are load_l, not part of c. A_l: charged steps of layer l.

    layer-serial     sum_l (load_l + sum_t c_l^t)
    step-serial      sum_t sum_l c_l^t + T_max . sync
    layer-pipelined  sum_{l: A>0} max_t c_l^t + max(0, max_l (A_l - 1) . max_t c_l^t) + sync
    array            sum_l g ceil(N/gC) floor(K A M / R); both products of an attention: floor(their MACs / RC)

Functions broadcast over many designs: numbers of a profile may be arrays (designs, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import HardwareError, nearest
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.hardware.numbers import Number, Prices, numbers, static_keys
from snn_energy.hardware.schema import HardwareProfile, MemoryVariant, Schedule, ZeroHandling
from snn_energy.pricing.charged_work import ChargedWork, FloatArray, RowIndices
from snn_energy.pricing.memory import LOADED_ONCE, accesses


@dataclass(frozen=True)
class LayerRows:
    """The operation rows of a network, layer by layer: their row indices, and the offset where each layer starts.

    names: one per layer; both products of an attention are one layer if ``joined``. distinct_rows: groups of rows that
    move the same data, as (the first row of each group, the group of every row): traffic is computed once per group.
    """

    rows: RowIndices
    starts: RowIndices
    names: list[str]
    distinct_rows: tuple[RowIndices, RowIndices] | None = None


def layer_rows_of(counts: Counts, joined: bool = False) -> LayerRows:
    """Operation rows in the order of their layers."""
    layers = counts.rows["layer"].to_numpy(dtype=object)
    if joined:
        product = (counts.rows["op"] == "matmul").to_numpy()
        merged = [f"{n}".split("#", 1)[0] + "#products" if p else n for n, p in zip(layers, product, strict=True)]
        layers = np.array(merged, dtype=object)
    rows = np.flatnonzero(counts.rows["op"].isin(OPERATIONS).to_numpy())
    codes, names = pd.factorize(layers[rows])
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names)))
    return LayerRows(rows[order], starts, [str(name) for name in names])


def _per_layer(values: FloatArray, by_layer: LayerRows) -> FloatArray:
    """Sums over the rows of each layer: (..., rows) -> (..., layers)."""
    return np.add.reduceat(values[..., by_layer.rows], by_layer.starts, axis=-1)


def _max_by_layer(values: FloatArray, by_layer: LayerRows) -> FloatArray:
    """Maxima over the rows of each layer: (..., rows) -> (..., layers)."""
    return np.maximum.reduceat(values[..., by_layer.rows], by_layer.starts, axis=-1)


def row_cycles(work: ChargedWork, hardware: HardwareProfile, prices: Prices) -> FloatArray:
    """Cycles of the lanes for every row: ops . imbalance / (lanes . utilisation)."""
    model = hardware.latency
    assert model is not None
    ops = work.macs + work.acs if model.zeros == "skip" else work.dense_macs
    lanes = prices["latency.lanes"]
    return ops * lane_imbalance(work, model.lanes_over, lanes) / (lanes * prices["latency.utilisation"])


def lane_imbalance(work: ChargedWork, over: str, lanes: Number) -> FloatArray:
    """ceil(n / lanes) . lanes / n for n output channels or positions: the last round leaves lanes idle.

    A lower bound: counts do not record how unevenly spikes are distributed over positions.
    """
    if over == "any":
        return np.ones_like(work.steps)
    size = np.maximum(work.out_channels if over == "out_channels" else work.positions, 1.0)
    return np.ceil(size / lanes) * lanes / size


def store_cycles(
    work: ChargedWork,
    hardware: HardwareProfile,
    prices: Prices,
    variant: MemoryVariant,
    distinct_rows: tuple[RowIndices, RowIndices] | None = None,
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Cycles of every row by store with a bandwidth: for data that is moved, and for weights that are loaded once."""
    moving: dict[str, FloatArray] = {}
    loading: dict[str, FloatArray] = {}
    levels = {} if hardware.memory is None else hardware.memory.levels
    if all(level.bandwidth is None for level in levels.values()):
        return moving, loading
    moved = work if distinct_rows is None else work.select_rows(distinct_rows[0])
    for access in accesses(moved, hardware, prices, variant):
        level = levels.get(access.level)
        if level is None or level.bandwidth is None:
            continue
        per_bit = moved.is_operation * (prices["latency.clock"] / prices[f"memory.levels.{access.level}.bandwidth"])
        kind = loading if access.tensor == "weights" and variant in LOADED_ONCE else moving
        kind[access.level] = kind.get(access.level, 0.0) + access.bits * per_bit
    if distinct_rows is not None:
        moving, loading = ({k: c[..., distinct_rows[1]] for k, c in kind.items()} for kind in (moving, loading))
    return moving, loading


@dataclass(frozen=True)
class Cycles:
    """Cycles per sample: total, the interval between samples in a stream, and the contributions per layer."""

    total: FloatArray
    interval: FloatArray
    compute: FloatArray
    stores: dict[str, FloatArray]
    load: FloatArray
    layer: FloatArray


def cycles_of(
    work: ChargedWork,
    hardware: HardwareProfile,
    prices: Prices,
    variant: MemoryVariant,
    by_layer: LayerRows,
    time_steps: int,
) -> Cycles:
    """The formulas of this module for one design, layer by layer."""
    model = hardware.latency
    assert model is not None
    moving, loading = store_cycles(work, hardware, prices, variant, by_layer.distinct_rows)
    if model.timing == "array":
        compute, stores, layer = _array_cycles(work, prices, by_layer, moving, loading)
        return Cycles(layer.sum(-1), layer.sum(-1), compute, stores, np.zeros_like(compute), layer)
    lanes = row_cycles(work, hardware, prices)
    c, load = _slowest([lanes, *moving.values()]), _slowest([np.zeros_like(lanes), *loading.values()])
    total = _scheduled(c, load, work, hardware, prices, by_layer, time_steps)
    layer, layer_load = _per_layer(c, by_layer), _per_layer(load, by_layer)
    if model.schedule != "layer-serial":
        layer_load = np.zeros_like(layer_load)
    interval = layer.max(-1, initial=0.0) if model.schedule == "layer-pipelined" else total
    stores = {level: _per_layer(cycles + np.zeros_like(c), by_layer) for level, cycles in moving.items()}
    return Cycles(total, interval, _per_layer(lanes, by_layer), stores, layer_load, layer + layer_load)


def total_cycles(
    work: ChargedWork,
    hardware: HardwareProfile,
    prices: Prices,
    variant: MemoryVariant,
    by_layer: LayerRows,
    time_steps: Number,
    repeat: FloatArray | None = None,
) -> FloatArray:
    """Only ``cycles_of(...).total``, for many designs. repeat: how often each row is executed (designs, rows)."""
    moving, loading = store_cycles(work, hardware, prices, variant, by_layer.distinct_rows)
    if hardware.latency is not None and hardware.latency.timing == "array":
        return np.asarray(_array_cycles(work, prices, by_layer, moving, loading, repeat)[2].sum(-1))
    lanes = row_cycles(work, hardware, prices)
    c, load = _slowest([lanes, *moving.values()]), _slowest([np.zeros_like(work.steps), *loading.values()])
    return _scheduled(c, load, work, hardware, prices, by_layer, time_steps, repeat)


def _scheduled(
    c: FloatArray,
    load: FloatArray,
    work: ChargedWork,
    hardware: HardwareProfile,
    prices: Prices,
    by_layer: LayerRows,
    time_steps: Number,
    repeat: FloatArray | None = None,
) -> FloatArray:
    """The three schedules over the cycles c and load of every row (design, section 7)."""
    model = hardware.latency
    assert model is not None
    rows, sync = by_layer.rows, drop_design_axis(prices["latency.sync"])
    repeats: Number = 1.0 if repeat is None else repeat
    if model.schedule == "layer-serial":
        return (c * repeats)[..., rows].sum(-1) + load[..., rows].sum(-1)  # type: ignore[no-any-return]
    if model.schedule == "step-serial":
        return (c * repeats)[..., rows].sum(-1) + time_steps * sync  # type: ignore[no-any-return]
    steps, slowest = _per_layer(work.steps * repeats, by_layer), _max_by_layer(c, by_layer)
    return slowest.sum(-1) + ((steps - 1) * slowest).max(-1, initial=0.0) + sync  # type: ignore[no-any-return]


def drop_design_axis(value: Number) -> Number:
    """(designs, 1) -> (designs,); a plain number is returned as is."""
    return value[..., 0] if isinstance(value, np.ndarray) else value


def _slowest(cycles: list[FloatArray]) -> FloatArray:
    """The element-wise maximum of several arrays."""
    found = cycles[0]
    for other in cycles[1:]:
        found = np.maximum(found, other)
    return found


def _array_cycles(
    work: ChargedWork,
    prices: Prices,
    by_layer: LayerRows,
    moving: dict[str, FloatArray],
    loading: dict[str, FloatArray],
    repeat: FloatArray | None = None,
) -> tuple[FloatArray, dict[str, FloatArray], FloatArray]:
    """Weight-stationary array as Prosperity models it, one floor over all steps: compute, stores, slowest by layer."""
    rows, columns = prices["array.rows"], prices["array.columns"]
    groups = np.maximum(work.groups, 1.0)
    product = work.op == "matmul"
    fills = np.where(product, 0.0, groups * np.ceil(work.out_channels / groups / columns))
    repeats: Number = 1.0 if repeat is None else repeat
    streamed = np.where(product, 0.0, work.reduction * work.positions * work.steps) * repeats
    dense = np.where(product, work.dense_macs, 0.0) * repeats
    moving = {level: found * repeats for level, found in moving.items()}
    compute = _max_by_layer(fills, by_layer) * np.floor(_per_layer(streamed, by_layer) / rows)
    compute = compute + np.floor(_per_layer(dense, by_layer) / (rows * columns))
    stores: dict[str, FloatArray] = {}
    for cycles in (moving, loading):
        for level, found in cycles.items():
            stores[level] = stores.get(level, 0.0) + _per_layer(found, by_layer) + np.zeros_like(compute)
    return compute, stores, _slowest([compute, *stores.values()])


@dataclass(frozen=True)
class Latency:
    """The latency of one network on one device, per sample.

    ``layers`` has one row per operation layer: layer, group, op, active_steps, operations, compute_cycles, one
    ``<store>_cycles`` per store with a bandwidth, load_cycles, cycles, bound (what takes longest: compute, a store, or
    loading weights). interval_cycles: between two samples of a stream.
    """

    hardware: HardwareProfile
    schedule: str
    zeros: ZeroHandling
    cycles: float
    interval_cycles: float
    clock_hz: float
    layers: pd.DataFrame = field(repr=False)

    @property
    def seconds(self) -> float:
        """cycles / clock."""
        return self.cycles / self.clock_hz

    @property
    def samples_per_s(self) -> float:
        """Throughput of a stream of samples."""
        return self.clock_hz / self.interval_cycles if self.interval_cycles else float("inf")

    def to_frame(self) -> pd.DataFrame:
        """A copy of ``layers``."""
        return self.layers.copy()


def static_power_w(hardware: HardwareProfile) -> float:
    """Static power of the device and leakage of its stores in watt."""
    prices = numbers(hardware)
    return float(sum(prices.scalar(key) for key in static_keys(hardware)))


def missing_latency_error(hardware: HardwareProfile) -> HardwareError:
    """The error for a profile without a latency section."""
    return HardwareError(
        f"{hardware.where('latency')}: {hardware.name} has no section 'latency'; add it, or choose a profile that has "
        "one (see `snn-energy hardware show NAME`)"
    )


def latency_of(counts: Counts, hardware: HardwareProfile, work: ChargedWork, variant: MemoryVariant) -> Latency:
    """Latency of charged work on a device with a latency section; cycles that a source published are used unchanged.

    Raises HardwareError if the profile has no such section.
    """
    model, prices = hardware.latency, numbers(hardware)
    if model is None:
        raise missing_latency_error(hardware)
    if (published_cycles := counts.typed_header.cycles) is not None:
        return Latency(
            hardware,
            "given by the source",
            model.zeros,
            published_cycles,
            published_cycles,
            prices.scalar("latency.clock"),
            _NO_LAYERS.copy(),
        )
    by_layer = layer_rows_of(counts, joined=model.timing == "array")
    result = cycles_of(work, hardware, prices, variant, by_layer, counts.time_steps)
    levels = {} if hardware.memory is None else hardware.memory.levels
    idle = np.zeros_like(result.compute)
    stores = {name: result.stores.get(name, idle) for name, level in levels.items() if level.bandwidth is not None}
    first = counts.rows.iloc[by_layer.rows[by_layer.starts]]
    layers = pd.DataFrame(
        {
            "layer": by_layer.names,
            "group": first["group"].to_numpy(),
            "op": first["op"].to_numpy(),
            "active_steps": _active_steps_by_layer(work, counts, by_layer),
            "operations": _per_layer(work.macs + work.acs if model.zeros == "skip" else work.dense_macs, by_layer),
            "compute_cycles": result.compute,
            **{f"{level}_cycles": cycles for level, cycles in stores.items()},
            "load_cycles": result.load,
            "cycles": result.layer,
        }
    )
    bounds = {"compute": result.compute, **stores, "loading weights": result.load}
    names, table = list(bounds), np.stack(list(bounds.values()))
    layers["bound"] = np.where(table.max(0) > 0, np.array(names)[table.argmax(0)], "nothing to do")
    layers.loc[np.isnan(table).any(0), "bound"] = "not known"
    return Latency(
        hardware, model.schedule or "array", model.zeros, float(result.total), float(result.interval),
        prices.scalar("latency.clock"), layers,
    )  # fmt: skip


_NO_LAYERS = pd.DataFrame(
    columns=["layer", "group", "op", "active_steps", "operations", "compute_cycles", "load_cycles", "cycles", "bound"]
)


def _active_steps_by_layer(work: ChargedWork, counts: Counts, by_layer: LayerRows) -> npt.NDArray[np.int64]:
    """A_l of each layer; for joined products, that of the first product."""
    layer = counts.rows["layer"].to_numpy(dtype=object)
    per_name = pd.Series(work.steps).groupby(layer).sum()
    return np.asarray(per_name[layer[by_layer.rows[by_layer.starts]]].to_numpy(), dtype=np.int64)


def with_latency(
    hardware: HardwareProfile, schedule: Schedule | None = None, zeros: ZeroHandling | None = None
) -> HardwareProfile:
    """The same device with another schedule or treatment of zeros. Raises HardwareError for an impossible choice."""
    if schedule is None and zeros is None:
        return hardware
    for name, value, known in (("schedule", schedule, get_args(Schedule)), ("zeros", zeros, get_args(ZeroHandling))):
        if value is not None and value not in known:
            raise HardwareError(
                f"unknown {name} '{value}'{nearest(str(value), known)}; choose one of {', '.join(known)}"
            )
    if hardware.latency is None:
        raise missing_latency_error(hardware)
    if hardware.latency.timing == "array" and (schedule is not None or zeros == "skip"):
        raise HardwareError(
            f"{hardware.where('latency.timing')}: timing 'array' has no schedule and skips no zeros; give a "
            "profile with timing 'lanes'"
        )
    changes = {"schedule": schedule, "zeros": zeros}
    model = hardware.latency.model_copy(update={k: v for k, v in changes.items() if v is not None})
    changed = hardware.model_copy(update={"latency": model})
    changed._document = hardware._document
    return changed
