"""Memory traffic: the formulas of all access counts (design, section 6).

Symbols: w, a, u, p are the widths of weights, activations, membrane, partial sums; s the bits per element of a row's
kind; M, K, N, g positions, reduction, output channels and groups; R, C the rows and columns of the array; A the charged
steps. The membrane is all state variables of the neurons, each of width u, each read and written. The table lists how
often a tensor crosses the border between the array and the memory that serves it:

    variant            weights                      inputs               partial sums       source
    ws_once            once per inference           one, or ceil(N/gC)   -                  design.md, section 6
    ws_reload          once per active step         as above             -                  design.md, section 6
    psum_spill         once per inference           as above             2 (ceil(K/R) - 1)  design.md, section 6
    state_only         -                            -                    -                  design.md, section 6
    output_stationary  ceil(M/R) per active step    ceil(N/gC)           -                  SCALE-Sim (2018)
    no_local_reuse     every operation              ceil(N/gC), K each   2 (ceil(K/R) - 1)  Eyeriss (2016), V

A product's other operand is read like weights, but again in every active step.

SCALE-Sim: Samajdar et al., arXiv:1811.02883. Eyeriss: Chen, Emer, Sze, ISCA 2016, section V.

If a profile places tensors (``placement``), the border is at the named level, and weight-stationary inputs cross it
once per step as in design.md. If tensors are kept where they fit (``keep``), the size of the array matters: inputs are
streamed ceil(N/gC) times, once per C output channels; a tensor is stored at its *home*, the innermost level where it
fits next to the tensors before it in the order of ``keep``; traffic between home and array is written to and read from
every level in between; weights and the input of the network's first operation come from the outermost level once.
Layers run one after another, each for all its steps, so inputs and outputs occupy the space of all steps; under
``ws_reload`` the network runs step by step: they occupy the space of one step, and the weights and membranes of the
whole network must fit together to be kept.

Inside the array, the stationary operand of a dataflow is read from a register (partial sums are also written) for every
operation performed, and the two other operands of every operation are passed on to the next element, including those of
zeros unless zeros are skipped (Sze et al. 2017, section V).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from snn_energy.core.errors import HardwareError, nearest
from snn_energy.counts.counts import Counts
from snn_energy.hardware.numbers import Number, Prices
from snn_energy.hardware.schema import (
    ARRAY_VARIANTS,
    MEMORY_VARIANTS,
    TENSORS,
    HardwareProfile,
    MemoryModel,
    MemoryVariant,
    TensorRole,
)
from snn_energy.pricing.actions import ActionCount
from snn_energy.pricing.charged_work import BoolArray, ChargedWork, FloatArray, Operand

LOADED_ONCE = ("ws_once", "psum_spill")  # weights are loaded once before the first active step, not in every step


@dataclass(frozen=True)
class TensorTraffic:
    """Bits per row of one tensor: ``reads`` towards the array, ``writes`` from it, ``footprint`` while it is needed.

    fill: bits that are moved once from the outermost level to the tensor's home (weights, the network's input).
    """

    tensor: TensorRole
    reads: FloatArray
    writes: FloatArray
    footprint: FloatArray
    fill: FloatArray


@dataclass(frozen=True)
class Access:
    """Bits per row that one store moves: ``key`` is the dotted key of its price, ``level`` its name."""

    tensor: TensorRole
    level: str
    key: str
    bits: FloatArray


def variants_of(hardware: HardwareProfile) -> tuple[MemoryVariant, ...]:
    """The memory variants that a profile has the numbers for: all with an array, else those outside ARRAY_VARIANTS."""
    if hardware.memory is None:
        return ()
    return tuple(v for v in MEMORY_VARIANTS if hardware.array is not None or v not in ARRAY_VARIANTS)


def spike_bits(
    work: ChargedWork, operand: Operand, prices: Prices, memory: MemoryModel, whole_layer: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Bits of an operand in its charged steps, and bits of one element; real elements have the activation width.

    whole_layer: in all steps of the layer instead of the row's own.

    Bitmap: elements * s. Address-event: non-zeros * (address + value); a binary spike has no value bits.
    Dense: elements * a, whatever their values.
    """
    each = operand.bits_each
    real = np.isnan(each)
    wide = real | ((memory.spike_coding == "dense") & (each > 0))
    each = np.where(wide, prices["widths.activations"], np.nan_to_num(each))
    bits = operand.elements * each * (work.layer_steps if whole_layer else work.steps)
    if memory.spike_coding == "address-event":
        value = np.where(each > 1, each, 0.0)
        events = operand.layer_events if whole_layer else operand.events
        events = events * (operand.address_bits + value)
        bits = np.where(real, bits, events)
    return np.where(work.is_operation, bits, 0.0), each


def output_bits(work: ChargedWork, prices: Prices, memory: MemoryModel, whole_layer: bool = False) -> FloatArray:
    """Output bits: spikes of neurons (1 bit each, addresses, or a bits each); outputs * a if no neuron follows."""
    steps = work.layer_steps if whole_layer else work.steps
    spikes = work.neurons * steps * (prices["widths.activations"] if memory.spike_coding == "dense" else 1.0)
    if memory.spike_coding == "address-event":
        spikes = (work.layer_spikes if whole_layer else work.spikes) * np.ceil(np.log2(np.maximum(work.neurons, 2.0)))
    real = work.output_elements * prices["widths.activations"] * steps
    return np.where(work.is_neuron, spikes, 0.0) + np.where(work.is_operation & (work.feeds_neuron == 0), real, 0.0)


def membrane_bits(work: ChargedWork, prices: Prices, memory: MemoryModel) -> tuple[FloatArray, FloatArray]:
    """u * reads and u * writes of all state variables; without the first and the last if the profile sets it."""
    first, last = (work.first_reads, work.last_writes) if memory.drop_first_last else (0.0, 0.0)
    reads, writes = np.maximum(work.membrane_reads - first, 0.0), np.maximum(work.membrane_writes - last, 0.0)
    return reads * prices["widths.membrane"], writes * prices["widths.membrane"]


def folds(size: FloatArray, lanes: Number) -> FloatArray:
    """ceil(size / lanes), at least 1: how often the array is filled to cover a dimension."""
    return np.maximum(np.ceil(size / lanes), 1.0)


def tensor_traffic(
    work: ChargedWork, hardware: HardwareProfile, prices: Prices, variant: MemoryVariant
) -> list[TensorTraffic]:
    """The traffic of each tensor across the border between memory and array."""
    memory = _memory(hardware)
    reads, writes = membrane_bits(work, prices, memory)
    none = np.zeros_like(work.steps)
    by_step = variant == "ws_reload"
    holds_state = work.is_operation | work.is_neuron if by_step else work.is_neuron
    state = (work.network_state_elements if by_step else work.state_elements) * prices["widths.membrane"] * holds_state
    membrane = TensorTraffic("membrane", reads, writes, state + none, none)
    if variant == "state_only":
        return [membrane]
    w, p = prices["widths.weights"], prices["widths.partial_sums"]
    stationary = variant not in ("output_stationary", "no_local_reuse")
    columns = none + 1.0
    if hardware.array is not None and not (stationary and memory.keep is None):
        columns = folds(work.out_channels / np.maximum(work.groups, 1.0), prices["array.columns"])
    inputs, _ = spike_bits(work, work.input_operand, prices, memory)
    other, other_each = spike_bits(work, work.other_operand, prices, memory)
    streamed = inputs * columns
    resident = np.where(work.is_operation, work.weights, 0.0) * w
    times = work.first_charged if variant in LOADED_ONCE else work.steps
    if variant == "output_stationary":
        rows = folds(work.positions, prices["array.rows"])
        loaded, other_loaded = resident * rows * times, other * rows
    elif variant == "no_local_reuse":
        product = work.op == "matmul"
        performed = performed_operations(work)
        loaded = np.where(product, 0.0, performed * w)
        other_loaded = np.where(product, performed * other_each, 0.0)
        streamed = streamed * _reads_per_input_element(work)
    else:
        loaded, other_loaded = resident * times, other
    spilled = none
    if variant in ("psum_spill", "no_local_reuse"):
        spills = folds(work.reduction, prices["array.rows"]) - 1
        spilled = np.where(work.is_operation, spills * work.out_channels * work.positions * p * work.steps, 0.0)
    per_step = np.maximum(work.steps, 1.0)
    network_input = np.minimum(inputs, streamed) / per_step * work.external_inputs  # a stride may skip elements
    held = work.network_weights * w * holds_state if by_step else resident
    outputs = output_bits(work, prices, memory)
    read, written = (inputs + other) / per_step, outputs / per_step
    if not by_step:  # tensors between two layers are stored for all steps
        read = (
            spike_bits(work, work.input_operand, prices, memory, True)[0]
            + spike_bits(work, work.other_operand, prices, memory, True)[0]
        )
        written = output_bits(work, prices, memory, True)
    return [
        membrane,
        TensorTraffic("weights", loaded, none, held + none, resident * work.first_charged),
        TensorTraffic("inputs", streamed + other_loaded, none, read, network_input),
        TensorTraffic("partial_sums", spilled, spilled, work.out_channels * work.positions * p * (spilled > 0), none),
        TensorTraffic("outputs", none, outputs, written, none),
    ]


def _reads_per_input_element(work: ChargedWork) -> FloatArray:
    """How many positions read an element of the input: M K g / elements, all taps of a convolution counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        taps = work.positions * work.reduction * work.groups / work.input_elements
    return np.where(work.is_operation & (work.input_elements > 0), taps, 1.0)


def performed_operations(work: ChargedWork) -> FloatArray:
    """Operations that the array performs: the charged MACs and accumulates, those of zeros only if charged."""
    return work.macs + work.acs


def assign_levels(
    traffic: list[TensorTraffic], hardware: HardwareProfile, prices: Prices
) -> dict[TensorRole, FloatArray]:
    """Index of the level that stores each row's tensors, 0 the outermost; NaN if a tensor does not fit there either."""
    memory = _memory(hardware)
    keep, names = memory.keep, list(memory.levels)
    assert keep is not None
    ordered = sorted(traffic, key=lambda f: keep.index(f.tensor))
    home_levels: dict[TensorRole, FloatArray] = {f.tensor: np.zeros_like(f.footprint) for f in traffic}
    is_placed: dict[TensorRole, BoolArray] = {f.tensor: np.zeros_like(f.footprint, dtype=np.bool_) for f in traffic}
    for index in range(len(names) - 1, 0, -1):
        holds = memory.levels[names[index]].holds
        remaining_bits: Number = prices[f"memory.levels.{names[index]}.size"]
        for f in ordered:
            if holds is not None and f.tensor not in holds:
                continue
            fits = (f.footprint <= remaining_bits) & (f.footprint > 0) & ~is_placed[f.tensor]
            remaining_bits = remaining_bits - np.where(fits, f.footprint, 0.0)
            home_levels[f.tensor] = np.where(fits, float(index), home_levels[f.tensor])
            is_placed[f.tensor] = is_placed[f.tensor] | fits
    if memory.levels[names[0]].size is not None:
        remaining_bits = prices[f"memory.levels.{names[0]}.size"]
        for f in ordered:
            outermost = (home_levels[f.tensor] == 0) & (f.footprint > 0)
            home_levels[f.tensor] = np.where(outermost & (f.footprint > remaining_bits), np.nan, home_levels[f.tensor])
            remaining_bits = remaining_bits - np.where(outermost & (f.footprint <= remaining_bits), f.footprint, 0.0)
    return home_levels


def accesses(
    work: ChargedWork,
    hardware: HardwareProfile,
    prices: Prices,
    variant: MemoryVariant,
    placement_work: ChargedWork | None = None,
) -> list[Access]:
    """Bits that every store moves, per row and sample. ``placement_work``: the work (means) that determines the homes.

    Raises HardwareError if the variant needs numbers that the profile does not have.
    """
    if variant in ARRAY_VARIANTS and hardware.array is None:
        raise HardwareError(
            f"memory variant '{variant}' needs the array's rows and columns; add the section 'array' to "
            f"{hardware.name}, or choose one of {', '.join(variants_of(hardware))}"
        )
    traffic = tensor_traffic(work, hardware, prices, variant)
    placement_traffic = traffic if placement_work is None else tensor_traffic(placement_work, hardware, prices, variant)
    store_accesses = list(_traffic_at_stores(traffic, placement_traffic, hardware, prices))
    if hardware.array is not None and variant != "state_only":
        store_accesses += _inside_array(work, hardware, prices, variant)
    return store_accesses


def _traffic_at_stores(
    traffic: list[TensorTraffic], placement_traffic: list[TensorTraffic], hardware: HardwareProfile, prices: Prices
) -> Iterator[Access]:
    """The same traffic, assigned to the stores that serve it."""
    memory = _memory(hardware)
    if memory.placement is not None:
        for f in traffic:
            level = memory.placement.level_of(f.tensor)
            yield Access(f.tensor, level, f"memory.levels.{level}.read", f.reads)
            yield Access(f.tensor, level, f"memory.levels.{level}.write", f.writes)
        return
    home_levels = assign_levels(placement_traffic, hardware, prices)
    names = list(memory.levels)
    last = len(names) - 1
    for f in traffic:
        home_level = home_levels[f.tensor]
        is_read, is_written, is_filled = (bool(np.any(bits)) for bits in (f.reads, f.writes, f.fill))
        for index, level in enumerate(names):
            if f.tensor not in (memory.levels[level].holds or TENSORS):
                continue
            reads: list[FloatArray] = []
            writes: list[FloatArray] = []
            if is_read:  # served here, or staged here on the way in from a level further out
                reads.append(f.reads * (home_level <= index) if index < last else f.reads)
                writes += [f.reads * (home_level < index)] * (index > 0)
            if is_written:  # the opposite direction
                writes.append(f.writes * (home_level <= index) if index < last else f.writes)
                reads += [f.writes * (home_level < index)] * (index > 0)
            if is_filled:  # fetched once from the outermost level to its home
                reads += [f.fill * (home_level > index)] * (index < last)
                writes += [f.fill * (home_level >= index)] * (index > 0)
            if index == 0 and memory.levels[level].size is not None:
                reads.append(np.where(np.isnan(home_level) & (f.reads + f.writes + f.fill > 0), np.nan, 0.0))
            for action, parts in (("read", reads), ("write", writes)):
                if parts:
                    yield Access(f.tensor, level, f"memory.levels.{level}.{action}", reduce(np.add, parts))


def _inside_array(
    work: ChargedWork, hardware: HardwareProfile, prices: Prices, variant: MemoryVariant
) -> Iterator[Access]:
    """Registers and hops between elements, for the prices that the profile has."""
    memory, array = _memory(hardware), hardware.array
    assert array is not None
    performed = performed_operations(work)
    w, p = prices["widths.weights"], prices["widths.partial_sums"]
    _, each = spike_bits(work, work.input_operand, prices, memory)
    stationary = np.where(work.op == "matmul", spike_bits(work, work.other_operand, prices, memory)[1], w)
    if array.registers is not None and variant == "output_stationary":
        yield Access("partial_sums", "registers", "array.registers.read", performed * p)
        yield Access("partial_sums", "registers", "array.registers.write", performed * p)
    elif array.registers is not None and variant != "no_local_reuse":
        times = work.first_charged if variant in LOADED_ONCE else work.steps
        loaded = work.weights * w * times + spike_bits(work, work.other_operand, prices, memory)[0]
        yield from _of_operands(work, "registers", "array.registers.read", performed * stationary)
        yield from _of_operands(work, "registers", "array.registers.write", loaded)
    if array.inter_pe is not None:
        skips = hardware.latency is not None and hardware.latency.zeros == "skip"
        passed = performed if skips else work.dense_macs  # a gated element still passes its operands on
        yield Access("inputs", "inter_pe", "array.inter_pe", passed * each)
        if variant == "output_stationary":
            yield from _of_operands(work, "inter_pe", "array.inter_pe", passed * stationary)
        else:
            yield Access("partial_sums", "inter_pe", "array.inter_pe", passed * p)


def _of_operands(work: ChargedWork, level: str, key: str, bits: FloatArray) -> Iterator[Access]:
    """Accesses of weights, or of a product's other operand, which counts as inputs."""
    product = work.op == "matmul"
    yield Access("weights", level, key, np.where(product, 0.0, bits))
    yield Access("inputs", level, key, np.where(product, bits, 0.0))


def memory_actions(store_accesses: list[Access], prices: Prices) -> list[ActionCount]:
    """Accesses in words of the store that moves them, each at its price."""
    return [ActionCount(f"{a.tensor}_pj", a.key, a.bits / prices[f"{a.key}.width_bits"]) for a in store_accesses]


def require_fit(
    work: ChargedWork, hardware: HardwareProfile, layers: Sequence[str], prices: Prices, variant: MemoryVariant
) -> None:
    """Raise HardwareError, with file and line, for a tensor that fits on no level."""
    if _memory(hardware).keep is None:
        return
    outermost = next(iter(_memory(hardware).levels))
    key = f"memory.levels.{outermost}.size"
    traffic = tensor_traffic(work, hardware, prices, variant)
    home_levels = assign_levels(traffic, hardware, prices)
    for f in traffic:
        unplaced = np.isnan(home_levels[f.tensor]) & ((f.reads + f.writes) > 0)
        if unplaced.any():
            row = int(np.flatnonzero(unplaced)[0])
            raise HardwareError(
                f"{hardware.where(key)}: the {f.tensor.replace('_', ' ')} of "
                f"{layers[row]} take {float(f.footprint[row]):,.0f} bits, which fit on no level next to the "
                f"tensors kept before them ({outermost} holds {float(prices[key]):,.0f}); increase its "
                "size or remove the size"
            )


def _memory(hardware: HardwareProfile) -> MemoryModel:
    if hardware.memory is None:
        raise HardwareError(f"{hardware.name} has no memory section, so no memory traffic can be priced")
    return hardware.memory


def published_accesses(counts: Counts, hardware: HardwareProfile) -> list[tuple[str, ActionCount]]:
    """Accesses that a published source counts itself: (label, charge of one row). Raises HardwareError."""
    found = []
    for entry in counts.typed_header.accesses:
        level, action = entry["level"], entry["action"]
        known = hardware.memory.levels if hardware.memory is not None else {}
        if level not in known:
            hint = nearest(level, known) or (f"; it has {', '.join(known)}" if known else "")
            raise HardwareError(f"{hardware.where('memory.levels')}: no price for accesses of '{level}'{hint}")
        if action == "accesses" and known[level].read.si_value != known[level].write.si_value:
            raise HardwareError(
                f"{hardware.where(f'memory.levels.{level}')}: {entry['name']} does not distinguish reads from writes, "
                "whose prices differ; count them separately"
            )
        key = f"memory.levels.{level}.{'write' if action == 'writes' else 'read'}"
        found.append((f"{level}: {entry['name']}", ActionCount("accesses_pj", key, np.array([float(entry["count"])]))))
    return found
