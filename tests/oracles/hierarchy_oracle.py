"""Devices and networks made at random, and what they move and how long they take: one number at a time, no arrays.

Written from the contract (design, sections 6 and 7) and not from the implementation. A ``Device`` is a plain record
that becomes a hardware profile by ``profile()``; a network is a list of rows as the fixture ``make_counts`` takes them.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from snn_energy.hardware.schema import HardwareProfile

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
            array = {"rows": number(self.rows, "row"), "columns": number(self.columns, "column")}
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
    without: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """The keywords of ``estimate``."""
        return dict(vars(self))


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
    layer: str = "lif",
    step: int = 0,
    active: bool = True,
    samples: int = 1,
    neurons: int = 3,
    spikes: int = 0,
    variables: int = 1,
) -> Row:
    """A spiking layer in one time step, of neurons with so many state variables."""
    state = neurons * samples * active
    return {
        "layer": layer, "op": "neuron", "time_step": step, "active": active, "needed": True,
        "input_kind": None, "max_k": None, "input_elements": None, "input_nonzeros": None, "sops_multi": None,
        "neurons": neurons, "state_variables": variables, "output_elements": neurons, "spikes": spikes * active,
        "membrane_reads": state, "membrane_writes": state,
    }  # fmt: skip


# --- What is charged ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Charged:
    """One row as it is charged, per sample.

    on: it works in this step. first: nothing of its layer worked before. kept: it runs on this device. anew: what it
    reads is not what it read the step before. given: of the operation that reads what the network is given.
    """

    row: Row
    kept: bool
    on: bool
    first: bool
    anew: bool
    given: bool
    macs: float
    acs: float
    dense: float
    input_events: float
    other_events: float
    spikes: float
    state: float
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
    given = next(
        (row["layer"] for row in rows if row["op"] in OPERATIONS), None
    )  # the network's own input is read here
    begun: set[str] = set()
    updated: set[str] = set()
    last = {row["layer"]: i for i, row in enumerate(rows) if row["active"]}
    for i, row in enumerate(rows):
        layer, kept = row["layer"], row["layer"] not in policy.without
        alive = row["active"] and kept
        on = alive and not (policy.encoder == "once" and row.get("input_repeated", False))
        macs = acs = dense = 0.0
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
        found.append(
            Charged(
                row=row, kept=kept, on=on, first=on and layer not in begun,
                anew=on and (layer not in begun or not row.get("input_repeated", False)), given=layer == given,
                macs=macs / samples, acs=acs / samples, dense=dense / samples,
                input_events=(row.get("input_nonzeros") or 0) / samples,
                other_events=(row.get("other_nonzeros") or 0) / samples,
                spikes=row.get("spikes", 0) / samples,
                state=row.get("membrane_reads", 0) * (row.get("state_variables") or 0) / samples if alive else 0.0,
                first_update=alive and layer not in updated, last_update=alive and last[layer] == i,
            )
        )  # fmt: skip
        if on:
            begun.add(layer)
        if alive:
            updated.add(layer)
    return found


# --- What crosses the border between memory and array -------------------------------------------------------------


Network = dict[str, list[Charged]]  # the rows of each layer


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
        return math.ceil(math.log2(max_k + 1))
    return {"binary": 1, "ternary": 2, "real": a}[kind]


def stored_bits(kind: str, max_k: int | None, device: Device) -> int:
    """Bits of one element where it is stored."""
    return device.a if device.coding == "dense" else element_bits(kind, max_k, device.a)


def address_bits(elements: int) -> int:
    """Bits that tell so many elements apart, at least one."""
    bits = 1
    while 2**bits < elements:
        bits += 1
    return bits


def operand_bits(kind: str, max_k: int | None, elements: int, events: float, device: Device) -> float:
    """Bits of all elements of an operand, as a bitmap or as the addresses (and values) of those not zero."""
    each = stored_bits(kind, max_k, device)
    if device.coding != "address-event" or kind == "real":
        return elements * each
    return events * (address_bits(elements) + (each if each > 1 else 0))


def flows(c: Charged, network: Network, device: Device, variant: str) -> list[Flow]:
    """The tensors that a row moves, and those that it must leave where they are."""
    by_step = variant == "ws_reload"  # the whole network in every step: all weights and all membranes stay
    if c["op"] == "neuron":
        reads = 0.0 if device.drop and c.first_update else c.state
        writes = 0.0 if device.drop and c.last_update else c.state
        state = all_state(network) if by_step else state_of(c)
        found = [Flow("membrane", reads * device.u, writes * device.u, state * device.u)]
        if by_step:
            found.append(Flow("weights", footprint=whole_network(network, "weights") * device.w))
        if variant != "state_only" and c.on:
            bits = spike_train_bits(c, device)
            room = bits if by_step else sum(spike_train_bits(r, device) for r in steps_of(c, network))
            found.append(Flow("outputs", 0.0, bits, room))
        return found
    if not c.is_operation or variant == "state_only" or not c.on:
        return []
    m, k, n, g = c["positions"], c["reduction"], c["out_channels"], c["groups"]
    inputs = own_bits(c, device)
    other = other_bits(c, device)
    weights = c["weights"] * device.w
    across = 1 if device.columns is None else ceil_div(n, g * device.columns)
    down = 1 if device.rows is None else ceil_div(k, device.rows)
    weight_reads = weights if by_step or c.first else 0.0
    input_reads, other_reads = inputs * (across if device.keep is not None else 1), other
    if variant == "output_stationary":
        passes = ceil_div(m, device.rows)
        weight_reads, input_reads, other_reads = passes * weights, across * inputs, passes * other
    elif variant == "no_local_reuse":
        taps = m * k * g / c["input_elements"] if c["input_elements"] else 1.0
        weight_reads = 0.0 if c["op"] == "matmul" else c.ops * device.w
        input_reads, other_reads = across * taps * inputs, c.ops * other_each(c, device)
    held = whole_network(network, "weights") * device.w if by_step else weights
    alike = [c] if by_step else steps_of(c, network)
    room = sum(own_bits(r, device) + other_bits(r, device) for r in alike)
    found = [
        Flow("weights", weight_reads, 0.0, held, weights if c.first else 0.0),
        Flow("inputs", input_reads + other_reads, 0.0, room, min(inputs, input_reads) if c.given and c.anew else 0.0),
    ]
    if by_step:
        found.append(Flow("membrane", footprint=all_state(network) * device.u))
    if variant in ("psum_spill", "no_local_reuse") and down > 1:
        spilt = (down - 1) * n * m * device.p
        found.append(Flow("partial_sums", spilt, spilt, n * m * device.p))
    if not c["feeds_neuron"]:
        bits = c["output_elements"] * device.a
        found.append(Flow("outputs", 0.0, bits, bits * len(alike)))
    return found


def own_bits(c: Charged, device: Device) -> float:
    """Bits of the streamed operand."""
    return operand_bits(c["input_kind"], c["max_k"], c["input_elements"], c.input_events, device)


def spike_train_bits(c: Charged, device: Device) -> float:
    """Bits of the spikes of a layer in one step."""
    if device.coding == "address-event":
        return c.spikes * address_bits(c["neurons"])
    return float(c["neurons"] * stored_bits("binary", 1, device))


def steps_of(c: Charged, network: Network) -> list[Charged]:
    """The steps of a row's layer that must be stored between layers: those at work, a repeated input once."""
    return [r for r in network[c["layer"]] if r.on and (r.anew or not r.is_operation)]


def other_each(c: Charged, device: Device) -> int:
    """Bits of one element of a product's other operand."""
    return 0 if c["other_kind"] is None else stored_bits(c["other_kind"], c["other_max_k"], device)


def other_bits(c: Charged, device: Device) -> float:
    """Bits of a product's other operand."""
    if c["other_kind"] is None:
        return 0.0
    return operand_bits(c["other_kind"], c["other_max_k"], c["other_elements"], c.other_events, device)


def whole_network(network: Network, name: str) -> int:
    """A size summed over the layers that run here."""
    return sum(steps[0][name] or 0 for steps in network.values() if steps[0].kept)


def state_of(c: Charged) -> int:
    """Values that the neurons of a row keep from step to step: one for each of their state variables."""
    return int(c["neurons"] * c["state_variables"])


def all_state(network: Network) -> int:
    """Values that all neurons that run here keep."""
    return sum(state_of(steps[0]) for steps in network.values() if steps[0].kept and steps[0]["op"] == "neuron")


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
    return [i for i in inner if device.levels[i].holds is None or tensor in device.levels[i].holds]


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


def inside(c: Charged, found: list[Flow], device: Device, variant: str) -> Iterator[tuple[Key, float]]:
    """Registers and hops of one row."""
    if not c.is_operation or not c.on or variant == "state_only":
        return
    product = c["other_kind"] is not None
    second, second_each = ("inputs", other_each(c, device)) if product else ("weights", device.w)
    if device.registers is not None and variant == "output_stationary":
        yield ("partial_sums", "registers", "read"), c.ops * device.p
        yield ("partial_sums", "registers", "write"), c.ops * device.p
    elif device.registers is not None and variant != "no_local_reuse":
        arriving = other_bits(c, device) if product else sum(f.reads for f in found if f.tensor == "weights")
        yield (second, "registers", "read"), c.ops * second_each
        yield (second, "registers", "write"), arriving
    if device.inter_pe is not None:
        passed = c.ops if device.timing is not None and device.timing.zeros == "skip" else c.dense
        yield ("inputs", "inter_pe", "hop"), passed * stored_bits(c["input_kind"], c["max_k"], device)
        if variant == "output_stationary":
            yield (second, "inter_pe", "hop"), passed * second_each
        else:
            yield ("partial_sums", "inter_pe", "hop"), passed * device.p


def moved(rows: list[Charged], device: Device, variant: str) -> list[dict[Key, float]]:
    """Bits by (tensor, store, action), one dictionary a row."""
    network: Network = {}
    for c in rows:
        network.setdefault(c["layer"], []).append(c)
    table = []
    for c in rows:
        sums: dict[Key, float] = defaultdict(float)
        found = flows(c, network, device, variant)
        for key, bits in (*moved_by(found, device), *inside(c, found, device, variant)):
            sums[key] += bits
        table.append(dict(sums))
    return table


def price(key: Key, device: Device) -> float:
    """pJ per bit."""
    _, store, action = key
    if store == "inter_pe":
        return device.inter_pe.read / device.inter_pe.read_word
    found = device.registers if store == "registers" else next(s for s in device.levels if s.name == store)
    assert found is not None
    return found.read / found.read_word if action == "read" else found.write / found.write_word


def memory_pj(rows: list[Charged], device: Device, variant: str) -> float:
    """All traffic at its prices."""
    return sum(bits * price(key, device) for row in moved(rows, device, variant) for key, bits in row.items())


# --- How long it takes --------------------------------------------------------------------------------------------


@dataclass
class LayerTime:
    """One layer: cycles of its charged steps, what makes them up, and what its weights take to load."""

    steps: list[float] = field(default_factory=list)
    lanes: list[float] = field(default_factory=list)
    stores: dict[str, list[float]] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)
    operations: float = 0.0
    whole: float = 0.0  # cycles under the timing of an array
    waits: bool = False  # for its weights, before it starts

    @property
    def load_cycles(self) -> float:
        return max(self.load.values(), default=0.0)

    @property
    def bound(self) -> str:
        sums = {"compute": sum(self.lanes)} | {store: sum(cycles) for store, cycles in self.stores.items()}
        sums["loading weights"] = self.load_cycles if self.waits else 0.0
        slowest = max(sums, key=lambda name: sums[name])
        return slowest if sums[slowest] > 0 else "nothing to do"


@dataclass
class Time:
    """An inference: cycles, those between two samples of a stream, and the layers."""

    cycles: float
    interval: float
    layers: dict[str, LayerTime]


def lane_cycles(c: Charged, timing: Timing) -> float:
    """Cycles of the lanes in one step; the last round of channels or positions may leave lanes idle."""
    ops = c.ops if timing.zeros == "skip" else c.dense
    shared = {"any": 0, "out_channels": c["out_channels"], "positions": c["positions"]}[timing.lanes_over]
    if not shared:
        return ops / timing.lanes / timing.utilisation
    return ops / shared * ceil_div(shared, timing.lanes) / timing.utilisation


def layer_times(rows: list[Charged], device: Device, variant: str) -> dict[str, LayerTime]:
    """The layers of operations in their order; the products of one module are one layer to an array."""
    timing = device.timing
    assert timing is not None
    bandwidth = {store.name: store.bandwidth for store in device.levels if store.bandwidth is not None}
    found: dict[str, LayerTime] = {}
    for c, bits in zip(rows, moved(rows, device, variant), strict=True):
        if not c.is_operation:
            continue
        name = c["layer"]
        if timing.timing == "array" and c["op"] == "matmul":
            name = name.partition("#")[0] + "#products"
        layer = found.setdefault(name, LayerTime(stores={store: [] for store in bandwidth}))
        if not c.on:
            continue
        streamed = dict.fromkeys(bandwidth, 0.0)
        for (tensor, store, _), amount in bits.items():
            if store in bandwidth and tensor == "weights" and variant in ("ws_once", "psum_spill"):
                layer.load[store] = layer.load.get(store, 0.0) + amount / bandwidth[store]
            elif store in bandwidth:
                streamed[store] += amount / bandwidth[store]
        lanes = lane_cycles(c, timing)
        layer.operations += c.ops if timing.zeros == "skip" else c.dense
        layer.lanes.append(lanes)
        layer.steps.append(max([lanes, *streamed.values()]))
        for store, cycles in streamed.items():
            layer.stores[store].append(cycles)
    return found


def array_times(rows: list[Charged], device: Device, variant: str) -> dict[str, LayerTime]:
    """The layers under the timing of a weight-stationary array: one floor over all steps of a layer."""
    found = layer_times(rows, device, variant)
    for name, layer in found.items():
        of_layer = [c for c in rows if c.is_operation and c.on and c["layer"] == name]
        if name.endswith("#products"):
            module = name.removesuffix("#products")
            macs = sum(c.dense for c in rows if c["op"] == "matmul" and c["layer"].partition("#")[0] == module)
            cycles = math.floor(macs / (device.rows * device.columns))
        elif of_layer:
            c = of_layer[0]
            k, m, n, g = c["reduction"], c["positions"], c["out_channels"], c["groups"]
            cycles = g * ceil_div(n, g * device.columns) * math.floor(k * len(of_layer) * m / device.rows)
        else:
            cycles = 0
        layer.lanes = [float(cycles)]
        for store, loaded in layer.load.items():
            layer.stores[store].append(loaded)
        layer.load = {}
        layer.whole = max([float(cycles), *(sum(c) for c in layer.stores.values())])
    return found


def time_of(rows: list[Charged], device: Device, variant: str, time_steps: int) -> Time:
    """Design, section 7."""
    timing = device.timing
    assert timing is not None
    if timing.timing == "array":
        layers = array_times(rows, device, variant)
        cycles = sum(layer.whole for layer in layers.values())
        return Time(cycles, cycles, layers)
    layers = layer_times(rows, device, variant)
    run_masked_steps = sum(cycles for layer in layers.values() for cycles in layer.steps)
    if timing.schedule == "layer-serial":
        for layer in layers.values():
            layer.waits = True
        cycles = run_masked_steps + sum(layer.load_cycles for layer in layers.values())
        return Time(cycles, cycles, layers)
    if timing.schedule == "step-serial":
        cycles = run_masked_steps + time_steps * timing.sync
        return Time(cycles, cycles, layers)
    alive = [layer for layer in layers.values() if layer.steps]
    filling = sum(max(layer.steps) for layer in alive)
    slowest = max(((len(layer.steps) - 1) * max(layer.steps) for layer in alive), default=0.0)
    busiest = max((sum(layer.steps) for layer in alive), default=0.0)
    return Time(filling + max(0.0, slowest) + timing.sync, busiest, layers)


def watts(device: Device) -> float:
    """Power that is drawn all the time."""
    return (device.static_w or 0.0) + sum(store.leakage_w or 0.0 for store in device.levels)


def total_pj(rows: list[Row], samples: int, time_steps: int, device: Device, policy: Policy) -> float:
    """Arithmetic, memory and static energy of an inference."""
    charged = charge(rows, samples, policy, "gate" if device.timing is None else device.timing.zeros)
    compute = sum(c.macs * device.mac + c.acs * device.ac for c in charged)
    static = 0.0
    if watts(device):
        assert device.timing is not None
        seconds = time_of(charged, device, policy.memory, time_steps).cycles / device.timing.clock_hz
        static = watts(device) * seconds * 1e12
    return compute + memory_pj(charged, device, policy.memory) + static


# --- Which steps run ----------------------------------------------------------------------------------------------


def without_masks(rows: list[Row], samples: int) -> list[Row]:
    """The network on a device that runs every step: masked steps work on zeros."""
    found = []
    for row in rows:
        if not row["active"] and row["time_step"] >= 0:
            row = row | {"active": True}
            if row["op"] in OPERATIONS:
                row["dense_macs"] = row["reduction"] * row["out_channels"] * row["positions"] * samples
            if row["op"] == "neuron":
                row["membrane_reads"] = row["membrane_writes"] = row["neurons"] * samples
        found.append(row)
    return found


def only_needed(rows: list[Row]) -> list[Row]:
    """The network on a device that leaves out what nobody reads."""
    work = (
        "input_nonzeros", "other_nonzeros", "dense_macs", "sops", "sops_gated", "sops_multi", "spikes",
        "membrane_reads", "membrane_writes",
    )  # fmt: skip
    idle = {"active": False} | dict.fromkeys(work, 0)
    return [row if row["needed"] else row | {k: v for k, v in idle.items() if row.get(k) is not None} for row in rows]


# --- At random ----------------------------------------------------------------------------------------------------


def random_network(rng: random.Random) -> tuple[list[Row], int, int]:
    """(rows, samples, time steps): up to five layers of every sort, masked at random, now and then in every step."""
    time_steps, samples = rng.randint(1, 4), rng.choice([1, 1, 2, 3])
    layers: list[list[Row]] = []
    for index in range(rng.randint(1, 5)):
        op = rng.choice(["conv", "linear", "matmul", "matmul", "neuron", "neuron", "add"])
        steps = list(range(time_steps))
        mask = [rng.random() < 0.7 for _ in steps] if rng.random() < 0.85 else [False] * time_steps
        if op != "neuron" and rng.random() < 0.15:
            steps, mask = [-1], [True]
        name = f"layer{index}"
        if op == "matmul" and rng.random() < 0.5:  # two products of one module
            pair = f"attn{index}"
            layers += [random_operation(rng, op, f"{pair}#matmul{i}", steps, mask, samples) for i in range(2)]
        elif op == "neuron":
            n, variables = rng.choice([1, 2, rng.randint(1, 60)]), rng.choice([0, 1, 1, 1, 2, 3])
            layers.append(
                [
                    neuron(name, t, a, samples, n, rng.randint(0, n * samples), variables)
                    for t, a in zip(steps, mask, strict=True)
                ]
            )
        elif op == "add":
            work = {"op": op, "elementwise_ops": 5, "input_kind": None, "max_k": None, "output_elements": 5}
            idle = {"elementwise_ops": 0}
            layers.append(
                [{"layer": name, "time_step": t, "active": a} | work | (idle if not a else {})
                 for t, a in zip(steps, mask, strict=True)]
            )  # fmt: skip
        else:
            layers.append(random_operation(rng, op, name, steps, mask, samples))
    rows = [row for layer in layers for row in layer]
    for row in rows:
        row["needed"] = rng.random() < 0.8
    if rng.random() < 0.5:
        rows.sort(key=lambda row: (row["time_step"] == -1, row["time_step"]))
    return rows, samples, time_steps


def random_operation(
    rng: random.Random, op: str, name: str, steps: list[int], mask: list[bool], samples: int
) -> list[Row]:
    """The rows of one operation."""
    g = rng.choice([1, 1, 2, 3])
    n, k, m, elements = g * rng.randint(1, 5), rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 80)
    kind, max_k = random_kind(rng)
    fixed: Row = {
        "op": op, "input_kind": kind, "max_k": max_k, "input_elements": elements, "reduction": k, "out_channels": n,
        "positions": m, "groups": g, "weights": 0 if op == "matmul" else k * n, "output_elements": m * n,
        "feeds_neuron": rng.random() < 0.7,
    }  # fmt: skip
    others = rng.randint(1, 80)
    if op == "matmul":
        fixed["other_kind"], fixed["other_max_k"] = random_kind(rng)
        fixed["other_elements"] = others
    rows = []
    for t, active in zip(steps, mask, strict=True):
        gated = rng.randint(0, m * k * n * samples)
        sops = rng.randint(0, gated) if op == "matmul" else gated
        work = {"sops": sops, "sops_gated": gated, "sops_multi": sops * rng.randint(1, 3)}
        work["input_nonzeros"] = rng.randint(0, elements * samples)
        if op == "matmul":
            work["other_nonzeros"] = rng.randint(0, others * samples)
        work["input_repeated"] = t > 0 and kind == "real" and rng.random() < 0.5
        rows.append(operation(name, t, active, samples, **fixed, **work))
    return rows


def random_kind(rng: random.Random) -> tuple[str, int | None]:
    """A kind of operand and its largest multiple."""
    kind = rng.choice(["binary", "ternary", "integer", "real"])
    return kind, {"integer": rng.randint(1, 9), "real": None}.get(kind, 1)


def random_device(rng: random.Random, timed: bool = False) -> Device:
    """One to four levels, placed or kept, with and without an array."""
    names = ["dram", "global", "buffer", "scratch"][: rng.randint(1, 4)]
    keep = rng.random() < 0.65
    array = keep or rng.random() < 0.5
    timing = random_timing(rng, array) if timed else None

    def word() -> int:
        return rng.choice([1, 8, 16, 64])

    def inner(name: str) -> Store:
        sized = name != "dram"
        return Store(
            name,
            size=rng.choice([1, rng.randint(1, 300), rng.randint(100, 5000), 100_000]) if sized else None,
            read=rng.randint(0, 20) / 2, write=rng.randint(0, 20) / 2, read_word=word(), write_word=word(),
            holds=tuple(rng.sample(TENSORS, rng.randint(1, 5))) if sized and rng.random() < 0.35 else None,
            bandwidth=rng.randint(1, 64) if timed and rng.random() < 0.6 else None,
            leakage_w=rng.randint(0, 9) / 10 if timed and rng.random() < 0.4 else None,
        )  # fmt: skip

    def port() -> Store | None:
        made = Store("port", read=rng.randint(0, 9), write=rng.randint(0, 9), read_word=word(), write_word=word())
        return made if array and rng.random() < 0.6 else None

    return Device(
        levels=tuple(inner(name) for name in names),
        placement=None if keep else {tensor: rng.choice(names) for tensor in TENSORS},
        keep=tuple(rng.sample(TENSORS, 5)) if keep else None,
        rows=rng.randint(1, 9) if array else None, columns=rng.randint(1, 5) if array else None,
        registers=port(), inter_pe=port(),
        coding=rng.choice(["bitmap", "address-event", "dense"]), drop=rng.random() < 0.4,
        variant=rng.choice(VARIANTS if array else WITHOUT_ARRAY),
        w=rng.randint(1, 16), a=rng.randint(1, 16), u=rng.randint(1, 16), p=rng.randint(1, 32),
        timing=timing, static_w=rng.choice([None, 0.25]) if timed else None,
    )  # fmt: skip


def random_timing(rng: random.Random, array: bool) -> Timing:
    """A latency section."""
    if array and rng.random() < 0.25:
        return Timing("array", zeros=rng.choice(["none", "gate"]), clock_hz=rng.choice([1, 1000]))
    return Timing(
        schedule=rng.choice(SCHEDULES), zeros=rng.choice(["none", "gate", "skip"]), clock_hz=rng.choice([1, 1000]),
        lanes=rng.randint(1, 20), utilisation=rng.choice([1.0, 0.5, 0.3]),
        lanes_over=rng.choice(["any", "out_channels", "positions"]), sync=rng.choice([0, 3, 2.5]),
    )  # fmt: skip


def random_policy(rng: random.Random, device: Device, rows: list[Row]) -> Policy:
    """How to ask; now and then a layer is left out."""
    layers = sorted({row["layer"] for row in rows})
    memory = rng.choice(VARIANTS if device.rows is not None else WITHOUT_ARRAY)
    return Policy(
        memory,
        rng.choice(["ac", "multi-ac", "mac", "mac-dense"]),
        rng.choice(["coincidence", "gated"]),
        rng.choice(["per-step", "once"]),
        (rng.choice(layers),) if rng.random() < 0.15 and memory != "ws_reload" else (),
    )
