"""Devices and networks made at random, and what they move and how long they take: one number at a time, no arrays.

Written from the contract (design, sections 6 and 7) and not from the implementation. A ``Device`` is a plain record
that becomes a hardware profile by ``profile()``; a network is a list of rows as the fixture ``make_counts`` takes them.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from snn_energy.hardware import HardwareProfile

Row = dict[str, Any]
Key = tuple[str, str, str]  # tensor, store, action

TENSORS = ("weights", "inputs", "membrane", "outputs", "partial_sums")
VARIANTS = ("ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse")
WITHOUT_ARRAY = ("ws_once", "ws_reload", "state_only")
SCHEDULES = ("layer-serial", "step-serial", "layer-pipelined")
OPERATIONS = ("conv", "linear", "matmul")


# --- Devices ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A memory: prices in pJ a word, its size in bits, its bandwidth in bits a cycle."""

    name: str
    size: int | None = None
    read: float = 1.0
    write: float = 1.0
    read_word: int = 1
    write_word: int = 1
    holds: tuple[str, ...] | None = None
    bandwidth: int | None = None
    leakage_w: float | None = None


@dataclass(frozen=True)
class Timing:
    """The latency section: either ``lanes`` and a schedule, or the timing of an array."""

    timing: str = "lanes"
    schedule: str = "layer-serial"
    zeros: str = "gate"
    clock_hz: int = 1000
    lanes: int = 1
    utilisation: float = 1.0
    lanes_over: str = "any"
    sync: float = 0.0


@dataclass(frozen=True)
class Device:
    """Widths in bits, prices in pJ. ``levels``: from the outermost inwards. placement or keep, as in a profile."""

    levels: tuple[Store, ...] = (Store("dram"),)
    placement: dict[str, str] | None = None
    keep: tuple[str, ...] | None = None
    rows: int | None = None
    columns: int | None = None
    registers: Store | None = None
    inter_pe: Store | None = None
    coding: str = "bitmap"
    variant: str = "ws_once"
    drop: bool = False
    w: int = 8
    a: int = 6
    u: int = 16
    p: int = 32
    mac: float = 10.0
    ac: float = 3.0
    timing: Timing | None = None
    static_w: float | None = None

    def document(self) -> dict[str, Any]:
        """The profile as its YAML file would hold it."""

        def number(value: float, unit: str, **more: Any) -> dict[str, Any]:
            return {"value": value, "unit": unit, "source": "test", "kind": "assumed", **more}

        def ports(store: Store) -> dict[str, Any]:
            return {
                "read": number(store.read, "pJ", width_bits=store.read_word),
                "write": number(store.write, "pJ", width_bits=store.write_word),
            }

        def level(store: Store) -> dict[str, Any]:
            found = ports(store)
            if store.size is not None:
                found["size"] = number(store.size, "bit")
            if store.bandwidth is not None:
                found["bandwidth"] = number(store.bandwidth, "bit/cycle")
            if store.leakage_w is not None:
                found["leakage"] = number(store.leakage_w, "W")
            if store.holds is not None:
                found["holds"] = list(store.holds)
            return found

        memory: dict[str, Any] = {
            "levels": {store.name: level(store) for store in self.levels},
            "spike_coding": self.coding,
            "variant": self.variant,
            "drop_first_last": self.drop,
        }
        if self.placement is not None:
            memory["placement"] = self.placement
        if self.keep is not None:
            memory["keep"] = list(self.keep)
        found: dict[str, Any] = {
            "schema": 1,
            "name": "made up",
            "description": "round numbers",
            "technology": "none",
            "sources": {"test": {"citation": "made up"}},
            "widths": {
                "weights": number(self.w, "bit"),
                "activations": number(self.a, "bit"),
                "membrane": number(self.u, "bit"),
                "partial_sums": number(self.p, "bit"),
            },
            "compute": {"mac": number(self.mac, "pJ", width_bits=1), "ac": number(self.ac, "pJ", width_bits=1)},
            "memory": memory,
        }
        if self.rows is not None:
            array = {"rows": number(self.rows, "row"), "columns": number(self.columns, "column")}  # type: ignore[arg-type]
            if self.registers is not None:
                array["registers"] = ports(self.registers)
            if self.inter_pe is not None:
                array["inter_pe"] = number(self.inter_pe.read, "pJ", width_bits=self.inter_pe.read_word)
            found["array"] = array
        if self.timing is not None:
            t = self.timing
            latency = {"timing": t.timing, "clock": number(t.clock_hz, "Hz"), "zeros": t.zeros}
            if t.timing == "lanes":
                latency |= {
                    "schedule": t.schedule,
                    "lanes": number(t.lanes, "lane"),
                    "utilisation": number(t.utilisation, "1"),
                    "lanes_over": t.lanes_over,
                    "sync": number(t.sync, "cycle"),
                }
            found["latency"] = latency
        if self.static_w is not None:
            found["static_power"] = number(self.static_w, "W")
        return found

    def profile(self) -> HardwareProfile:
        """The profile."""
        return HardwareProfile.model_validate(self.document())


def everything_on(level: str) -> dict[str, str]:
    """A placement of all tensors on one level."""
    return dict.fromkeys(TENSORS, level)


@dataclass(frozen=True)
class Policy:
    """How an estimate is asked for."""

    memory: str = "ws_once"
    integer: str = "ac"
    products: str = "coincidence"
    encoder: str = "per-step"


# --- Networks -----------------------------------------------------------------------------------------------------


def operation(layer: str = "conv", step: int = 0, active: bool = True, samples: int = 1, **changes: Any) -> Row:
    """A linear layer of 4 inputs and 3 outputs with 2 spikes, or what ``changes`` make of it; work follows geometry."""
    row: Row = {
        "layer": layer, "op": "conv", "time_step": step, "active": active, "needed": True, "input_repeated": False,
        "input_kind": "binary", "max_k": 1, "input_elements": 4, "input_nonzeros": 2,
        "reduction": 4, "out_channels": 3, "positions": 1, "groups": 1, "weights": 12, "output_elements": 3,
        "feeds_neuron": True,
    } | changes  # fmt: skip
    dense = row["reduction"] * row["out_channels"] * row["positions"] * samples
    row.setdefault("dense_macs", dense)
    share = row["input_nonzeros"] / max(1, row["input_elements"] * samples)
    row.setdefault("sops", int(share * dense))
    row.setdefault("sops_gated", row["sops"])
    if row["input_kind"] == "real":
        row |= {"max_k": None, "sops_multi": None}
    row.setdefault("sops_multi", row["sops"])
    if not active:
        idle = dict.fromkeys(("dense_macs", "sops", "sops_gated", "input_nonzeros"), 0)
        row |= idle | {"sops_multi": None if row["sops_multi"] is None else 0}
        if row.get("other_nonzeros") is not None:
            row["other_nonzeros"] = 0
    return row


def neuron(
    layer: str = "lif", step: int = 0, active: bool = True, samples: int = 1, neurons: int = 3, spikes: int = 0
) -> Row:
    """A spiking layer in one time step."""
    state = neurons * samples * active
    return {
        "layer": layer, "op": "neuron", "time_step": step, "active": active, "needed": True,
        "input_kind": None, "max_k": None, "input_elements": None, "input_nonzeros": None, "sops_multi": None,
        "neurons": neurons, "output_elements": neurons, "spikes": spikes * active,
        "membrane_reads": state, "membrane_writes": state,
    }  # fmt: skip


# --- What is charged ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Charged:
    """One row as it is charged, per sample: multiplies, accumulates, and whether it is the layer's first."""

    row: Row
    on: bool
    first: bool
    macs: float
    acs: float
    first_update: bool
    last_update: bool

    @property
    def ops(self) -> float:
        return self.macs + self.acs

    @property
    def is_operation(self) -> bool:
        return bool(self.row["op"] in OPERATIONS)

    def __getitem__(self, name: str) -> Any:
        return self.row.get(name)


def charge(rows: list[Row], samples: int, policy: Policy, zeros: str = "gate") -> list[Charged]:
    """Every row with what the policies make of it."""
    found: list[Charged] = []
    begun: set[str] = set()
    updated: set[str] = set()
    last = {row["layer"]: i for i, row in enumerate(rows) if row["active"]}
    for i, row in enumerate(rows):
        on = row["active"] and not (policy.encoder == "once" and row.get("input_repeated", False))
        macs = acs = 0.0
        if on and row["op"] in OPERATIONS:
            dense = row["dense_macs"]
            sops = row["sops_gated"] if policy.products == "gated" else row["sops"]
            sops = dense if zeros == "none" else sops
            if row["input_kind"] == "real" or (row["input_kind"] == "integer" and policy.integer == "mac-dense"):
                macs = dense
            elif row["input_kind"] == "integer" and policy.integer == "mac":
                macs = sops
            elif row["input_kind"] == "integer" and policy.integer == "multi-ac" and zeros != "none":
                acs = row["sops_multi"]
            else:
                acs = sops
        layer = row["layer"]
        found.append(
            Charged(
                row, on, on and layer not in begun, macs / samples, acs / samples,
                row["active"] and layer not in updated, row["active"] and last[layer] == i,
            )
        )  # fmt: skip
        if on:
            begun.add(layer)
        if row["active"]:
            updated.add(layer)
    return found


# --- What crosses the border between memory and array -------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """Bits of one tensor: to the array, from it, what must fit to be kept, what is fetched from outside at first."""

    tensor: str
    reads: float = 0.0
    writes: float = 0.0
    footprint: float = 0.0
    fetched: float = 0.0


def ceil_div(size: int, lanes: float) -> int:
    """How often so many lanes must be filled, at least once."""
    return max(1, math.ceil(size / lanes))


def element_bits(kind: str, max_k: int | None, a: int) -> int:
    """Bits of one element of a kind."""
    if kind == "integer":
        return math.ceil(math.log2(max_k + 1))  # type: ignore[operator]
    return {"binary": 1, "ternary": 2, "real": a}[kind]


def address_bits(elements: int) -> int:
    """Bits that tell so many elements apart, at least one."""
    bits = 1
    while 2**bits < elements:
        bits += 1
    return bits


def operand_bits(kind: str, max_k: int | None, elements: int, events: float, device: Device) -> float:
    """Bits of all elements of an operand, as a bitmap or as the addresses (and values) of those not zero."""
    each = element_bits(kind, max_k, device.a)
    if device.coding == "bitmap" or kind == "real":
        return elements * each
    return events * (address_bits(elements) + (each if each > 1 else 0))


def flows(c: Charged, rows: list[Charged], device: Device, policy: Policy, samples: int) -> list[Flow]:
    """The tensors that a row moves."""
    variant, once_each = policy.memory, device.keep is None
    if c["op"] == "neuron":
        reads = 0.0 if device.drop and c.first_update else c["membrane_reads"] / samples
        writes = 0.0 if device.drop and c.last_update else c["membrane_writes"] / samples
        held = c["neurons"] if variant != "ws_reload" else whole_network(rows, "neurons")
        found = [Flow("membrane", reads * device.u, writes * device.u, held * device.u)]
        if variant != "state_only":
            bits = c["neurons"] if device.coding == "bitmap" else c["spikes"] / samples * address_bits(c["neurons"])
            found.append(Flow("outputs", 0.0, bits * c.on, bits * c.on))
        return found
    if not c.is_operation or variant == "state_only" or not c.on:
        return []
    m, k, n, g = c["positions"], c["reduction"], c["out_channels"], c["groups"]
    inputs = operand_bits(
        c["input_kind"], c["max_k"], c["input_elements"], c["input_nonzeros"] / samples, device
    )  # fmt: skip
    other = other_each = 0.0
    if c["other_kind"] is not None:
        other = operand_bits(
            c["other_kind"], c["other_max_k"], c["other_elements"], c["other_nonzeros"] / samples, device
        )
        other_each = element_bits(c["other_kind"], c["other_max_k"], device.a)
    weights = c["weights"] * device.w
    across = 1 if device.columns is None else ceil_div(n, g * device.columns)
    down = 1 if device.rows is None else ceil_div(k, device.rows)
    spilt = (down - 1) * n * m * device.p

    if variant == "output_stationary":
        passes_over_weights = ceil_div(m, device.rows)  # type: ignore[arg-type]
        weight_reads, other_reads, input_reads = passes_over_weights * weights, passes_over_weights * other, across * inputs
    elif variant == "no_local_reuse":
        taps = m * k * g / c["input_elements"] if c["input_elements"] else 0.0
        weight_reads = c.ops * device.w if weights else 0.0
        other_reads, input_reads = c.ops * other_each, across * taps * inputs
    else:
        weight_reads = weights if variant == "ws_reload" or c.first else 0.0
        other_reads, input_reads = other, inputs * (1 if once_each else across)
    found = [
        Flow(
            "weights", weight_reads, 0.0,
            weights if variant != "ws_reload" else whole_network(rows, "weights") * device.w,
            weights if c.first else 0.0,
        ),
        Flow("inputs", input_reads + other_reads, 0.0, inputs + other),
    ]  # fmt: skip
    if variant in ("psum_spill", "no_local_reuse"):
        found.append(Flow("partial_sums", spilt, spilt, n * m * device.p if down > 1 else 0.0))
    if not c["feeds_neuron"]:
        found.append(Flow("outputs", 0.0, c["output_elements"] * device.a, c["output_elements"] * device.a))
    return found


def whole_network(rows: list[Charged], name: str) -> int:
    """A size summed over layers."""
    sizes = {c["layer"]: c[name] or 0 for c in rows if c.is_operation or c["op"] == "neuron"}
    return sum(sizes.values())


# --- Where it is stored -------------------------------------------------------------------------------------------


def homes(found: list[Flow], device: Device) -> dict[str, int]:
    """The level of each tensor: named by the placement, or the innermost where it fits beside those before it."""
    names = [store.name for store in device.levels]
    if device.placement is not None:
        return {tensor: names.index(device.placement[tensor]) for tensor in TENSORS}
    free = [math.inf if store.size is None else store.size for store in device.levels]
    chosen: dict[str, int] = {}
    for tensor in device.keep or ():
        need = sum(flow.footprint for flow in found if flow.tensor == tensor)
        for index in reversed(range(len(free))):
            allowed = device.levels[index].holds
            if (allowed is None or tensor in allowed) and need <= free[index]:
                free[index] -= need
                chosen[tensor] = index
                break
    return chosen


def way(tensor: str, home: int, device: Device) -> list[int]:
    """The levels between a home and the array; those that may not hold the tensor are passed by."""
    inner = range(home + 1, len(device.levels)) if device.keep is not None else range(0)
    return [i for i in inner if device.levels[i].holds is None or tensor in device.levels[i].holds]  # type: ignore[operator]


def moved_by(found: list[Flow], device: Device) -> Iterator[tuple[Key, float]]:
    """(tensor, store, action), bits of every store that the flows of a row pass."""
    where = homes(found, device)
    for flow in found:
        tensor = flow.tensor
        if not (flow.reads or flow.writes or flow.fetched):
            continue
        home = where[tensor]
        names = [store.name for store in device.levels]
        yield (tensor, names[home], "read"), flow.reads
        yield (tensor, names[home], "write"), flow.writes
        for index in way(tensor, home, device):
            for action in ("read", "write"):
                yield (tensor, names[index], action), flow.reads + flow.writes
        if device.keep is not None and home > 0 and flow.fetched:
            yield (tensor, names[0], "read"), flow.fetched
            yield (tensor, names[home], "write"), flow.fetched
            for index in way(tensor, 0, device):
                if index < home:
                    yield (tensor, names[index], "read"), flow.fetched
                    yield (tensor, names[index], "write"), flow.fetched


def inside(c: Charged, found: list[Flow], device: Device, policy: Policy, samples: int) -> Iterator[tuple[Key, float]]:
    """Registers and hops of one row."""
    if not c.is_operation or not c.on or policy.memory == "state_only":
        return
    input_each = element_bits(c["input_kind"], c["max_k"], device.a)
    if c["other_kind"] is None:
        second, second_each = "weights", device.w
    else:
        second, second_each = "weights", element_bits(c["other_kind"], c["other_max_k"], device.a)
    if device.registers is not None:
        if policy.memory == "output_stationary":
            yield ("partial_sums", "registers", "read"), c.ops * device.p
            yield ("partial_sums", "registers", "write"), c.ops * device.p
        elif policy.memory != "no_local_reuse":
            yield (second, "registers", "read"), c.ops * second_each
            if c["other_kind"] is None:
                yield ("weights", "registers", "write"), next(f.reads for f in found if f.tensor == "weights")
            else:
                events = c["other_nonzeros"] / samples
                bits = operand_bits(c["other_kind"], c["other_max_k"], c["other_elements"], events, device)
                yield (second, "registers", "write"), bits
    if device.inter_pe is not None:
        yield ("inputs", "inter_pe", "hop"), c.ops * input_each
        if policy.memory == "output_stationary":
            yield (second, "inter_pe", "hop"), c.ops * second_each
        else:
            yield ("partial_sums", "inter_pe", "hop"), c.ops * device.p


def moved(rows: list[Charged], device: Device, policy: Policy, samples: int) -> list[dict[Key, float]]:
    """Bits by (tensor, store, action), one dictionary a row."""
    table = []
    for c in rows:
        sums: dict[Key, float] = defaultdict(float)
        found = flows(c, rows, device, policy, samples)
        for key, bits in (*moved_by(found, device), *inside(c, found, device, policy, samples)):
            sums[key] += bits
        table.append(dict(sums))
    return table


def price(key: Key, device: Device) -> float:
    """pJ per bit."""
    _, store, action = key
    if store == "inter_pe":
        return device.inter_pe.read / device.inter_pe.read_word  # type: ignore[union-attr]
    found = device.registers if store == "registers" else next(s for s in device.levels if s.name == store)
    assert found is not None
    return found.read / found.read_word if action == "read" else found.write / found.write_word


# --- How long it takes --------------------------------------------------------------------------------------------


@dataclass
class LayerTime:
    """Cycles of one layer: of each active step, and of what is loaded before it."""

    steps: list[float] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    stores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    load: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def load_cycles(self) -> float:
        return max(self.load.values(), default=0.0)

    @property
    def slowest_step(self) -> float:
        return max(self.steps, default=0.0)


def lane_cycles(c: Charged, timing: Timing) -> float:
    """Cycles of the lanes in one step; the last round of channels or positions may leave lanes idle."""
    ops = c.ops if timing.zeros == "skip" else c.row["dense_macs"] * c.on / c.row["_samples"]
    shared = {"any": None, "out_channels": c["out_channels"], "positions": c["positions"]}[timing.lanes_over]
    if not shared:
        return ops / (timing.lanes * timing.utilisation)
    rounds = -(-shared // timing.lanes)
    return ops / shared * rounds / timing.utilisation


def layer_times(rows: list[Charged], device: Device, policy: Policy, samples: int) -> dict[str, LayerTime]:
    """The layers of operations in their order."""
    timing = device.timing
    assert timing is not None
    bandwidth = {store.name: store.bandwidth for store in device.levels if store.bandwidth is not None}
    found: dict[str, LayerTime] = {}
    for c, bits in zip(rows, moved(rows, device, policy, samples), strict=True):
        if not c.is_operation:
            continue
        layer = found.setdefault(c["layer"], LayerTime())
        streamed: dict[str, float] = dict.fromkeys(bandwidth, 0.0)
        for (tensor, store, _), amount in bits.items():
            if store not in bandwidth:
                continue
            if tensor == "weights" and policy.memory in ("ws_once", "psum_spill"):
                layer.load[store] += amount / bandwidth[store]
            else:
                streamed[store] += amount / bandwidth[store]
        if not c.on:
            continue
        compute = lane_cycles(c, timing) if timing.timing == "lanes" else 0.0
        layer.compute.append(compute)
        for store, cycles in streamed.items():
            layer.stores[store].append(cycles)
        layer.steps.append(max(compute, *streamed.values()) if streamed else compute)
    return found
