"""Memory traffic: hundreds of random networks and hierarchies against scalar sums, then one statement a test."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierarchy_oracle as oracle
import pytest
from hierarchy_oracle import TENSORS, VARIANTS, Device, Policy, Row, Store, Timing, everything_on, neuron, operation
from ruamel.yaml import YAML

from snn_energy.core.errors import HardwareError, SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.hardware.numbers import numbers
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.energy import Energy, estimate

MakeCounts = Callable[..., Counts]
Cli = Callable[..., tuple[int, str, str]]
BLOCKS, CASES = 8, 60  # random cases: blocks times cases
ENDLESS = 10**9  # rows and columns of an array on which everything fits


# --- Against the scalar oracle ------------------------------------------------------------------------------------


def moved_by(energy: Energy) -> dict[oracle.Key, float]:
    """Bits by tensor, store and action."""
    found: dict[oracle.Key, float] = defaultdict(float)
    for row in energy.accesses().itertuples():
        found[(row.tensor, row.level, row.action)] += row.bits
    return dict(found)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_store_moves_what_a_scalar_loop_says(block: int, make_counts: MakeCounts) -> None:
    for seed in range(block * CASES, (block + 1) * CASES):
        rng = random.Random(seed)
        rows, samples, time_steps = oracle.random_network(rng)
        device = oracle.random_device(rng)
        policy = oracle.random_policy(rng, device, rows)
        counts = make_counts(rows, samples=samples, time_steps=time_steps)
        energy = estimate(counts, device.profile(), **policy.options())
        expected = oracle.moved(oracle.charge(rows, samples, policy), device, policy.memory)
        frame = energy.to_frame()
        for i, row in enumerate(expected):
            for tensor in TENSORS:
                pj = sum(bits * oracle.price(key, device) for key, bits in row.items() if key[0] == tensor)
                assert frame[f"{tensor}_pj"][i] == pytest.approx(pj, rel=1e-9), (seed, i, tensor)
        total: dict[oracle.Key, float] = defaultdict(float)
        for key, bits in itertools.chain.from_iterable(row.items() for row in expected):
            total[key] += bits
        found = moved_by(energy)
        assert {key for key, bits in total.items() if bits} == set(found), seed
        assert found == pytest.approx({key: total[key] for key in found}, rel=1e-9), seed
        pj = sum(bits * oracle.price(key, device) for key, bits in total.items())
        assert energy.memory_pj == pytest.approx(pj, rel=1e-9), seed
        assert energy.accesses()["energy_pj"].sum() == pytest.approx(pj, rel=1e-9), seed


def test_the_random_cases_reach_every_variant_and_both_ways_to_place() -> None:
    seen = set()
    for seed in range(BLOCKS * CASES):
        rng = random.Random(seed)
        rows, _, _ = oracle.random_network(rng)
        device = oracle.random_device(rng)
        policy = oracle.random_policy(rng, device, rows)
        seen |= {(device.keep is None, policy.memory), len(device.levels), device.coding}
        seen |= {(row["op"], row["active"]) for row in rows} | {row["time_step"] for row in rows}
    assert seen >= set(itertools.product([True, False], VARIANTS)) | {1, 2, 3, 4, "bitmap", "address-event", -1}
    assert seen >= set(itertools.product(["conv", "linear", "matmul", "neuron", "add"], [True, False]))


def test_the_mean_over_samples_is_the_estimate_wherever_tensors_are_kept(make_counts: MakeCounts) -> None:
    """Homes are chosen once, for the mean: a sample with more spikes does not move its inputs further out."""
    samples, events = 3, [[1, 9, 2], [0, 0, 5]]
    layer: Row = {"input_elements": 10, "reduction": 10, "weights": 30}
    rows = [operation(step=t, samples=samples, input_nonzeros=sum(events[t]), **layer) for t in range(2)]
    for row, each in zip(rows, events, strict=True):
        row |= dict.fromkeys(("sops", "sops_gated", "sops_multi"), 3 * sum(each))
    sops = [[3 * n for n in each] for each in events]
    side = {"input_nonzeros": events, "sops": sops, "sops_gated": sops, "sops_multi": sops}
    counts = make_counts(rows, samples=samples, time_steps=2, per_sample=side)
    device = Device(
        (Store("dram", read=100), Store("buffer", 20)), keep=TENSORS, rows=2, columns=1, coding="address-event"
    )
    energy = estimate(counts, device.profile())
    table = energy.per_sample()
    assert table["memory_pj"].mean() == pytest.approx(energy.memory_pj)
    assert table["memory_pj"].nunique() == samples


# --- Small cases by hand ------------------------------------------------------------------------------------------

# One layer: 12 weights of 8 bits = 96 bits; 4 inputs of 1 bit; N = 3, K = 4, M = 1.
WEIGHTS = 96
STEPS = 4


def layers(*names: str, steps: int = STEPS, **changes: Any) -> list[Row]:
    return [operation(name, t, **changes) for name in names for t in range(steps)]


def on(make_counts: MakeCounts, rows: list[Row], device: Device, memory: str | None = None, **options: Any) -> Energy:
    """Rows from the midst of a network: what it is given was read by a layer before, masked here."""
    samples = options.pop("samples", 1)
    if not options.pop("first", False):
        rows = [*rows, operation("before", active=False, weights=0) | {"order": -1}]
    steps = max(row["time_step"] for row in rows) + 1
    counts = make_counts(rows, samples=samples, time_steps=max(steps, 1))
    return estimate(counts, device.profile(), memory=memory, **options)  # type: ignore[arg-type]


def kept(size: int | None = None, columns: int = ENDLESS, rows: int = ENDLESS, **changes: Any) -> Device:
    """DRAM at 100 pJ a bit and, where a size is given, a buffer at 1 pJ a bit, which keeps what fits."""
    levels = [Store("dram", read=100, write=100)]
    if size is not None:
        levels.append(Store("buffer", size))
    return Device(tuple(levels), keep=TENSORS, rows=rows, columns=columns, **changes)


def placed(**changes: Any) -> Device:
    return Device((Store("dram"),), placement=everything_on("dram"), **changes)


def dram_pj(energy: Energy) -> float:
    table = energy.accesses()
    return float(table.loc[table["level"] == "dram", "energy_pj"].sum())


def test_weights_that_fit_are_fetched_from_dram_once(make_counts: MakeCounts) -> None:
    found = moved_by(on(make_counts, layers("a"), kept(WEIGHTS), "ws_reload"))
    assert found["weights", "dram", "read"] == WEIGHTS
    assert found["weights", "buffer", "write"] == WEIGHTS
    assert found["weights", "buffer", "read"] == STEPS * WEIGHTS


def test_weights_that_do_not_fit_are_fetched_again_in_every_step(make_counts: MakeCounts) -> None:
    found = moved_by(on(make_counts, layers("a"), kept(WEIGHTS - 1), "ws_reload"))
    assert found["weights", "dram", "read"] == STEPS * WEIGHTS
    assert found["weights", "buffer", "write"] == found["weights", "buffer", "read"] == STEPS * WEIGHTS


@pytest.mark.parametrize("size", [1, WEIGHTS - 1, WEIGHTS, 10**6])
def test_layer_by_layer_every_weight_is_fetched_once_whether_it_fits_or_not(size: int, make_counts: MakeCounts) -> None:
    found = moved_by(on(make_counts, layers("a", "b"), kept(size), "ws_once"))
    assert found["weights", "dram", "read"] == 2 * WEIGHTS


@pytest.mark.parametrize(("size", "fetched"), [(2 * WEIGHTS, 2 * WEIGHTS), (2 * WEIGHTS - 1, 2 * STEPS * WEIGHTS)])
def test_step_by_step_the_weights_of_the_whole_network_must_fit(
    size: int, fetched: int, make_counts: MakeCounts
) -> None:
    found = moved_by(on(make_counts, layers("a", "b"), kept(size), "ws_reload"))
    assert found["weights", "dram", "read"] == fetched


@pytest.mark.parametrize(("size", "home"), [(WEIGHTS + 3 * 16, "buffer"), (WEIGHTS + 3 * 16 - 1, "dram")])
def test_step_by_step_membranes_must_fit_beside_the_weights(size: int, home: str, make_counts: MakeCounts) -> None:
    """Both live through the whole inference: neither may count the other's space."""
    device = kept(size, a=1)
    rows = layers("a", feeds_neuron=True) + [neuron("lif", t, neurons=3) for t in range(STEPS)]
    found = moved_by(on(make_counts, rows, device, "ws_reload"))
    assert found["weights", "dram", "read"] == WEIGHTS
    assert found["membrane", home, "read"] == STEPS * 3 * 16
    assert (("membrane", "dram", "read") in found) == (home == "dram")


def test_layer_by_layer_a_membrane_has_the_buffer_to_itself_and_its_spikes(make_counts: MakeCounts) -> None:
    rows = layers("a") + [neuron("lif", t, neurons=3) for t in range(STEPS)]
    found = moved_by(on(make_counts, rows, kept(WEIGHTS), "ws_once"))
    assert ("membrane", "dram", "read") not in found
    assert found["membrane", "buffer", "write"] == STEPS * 3 * 16


def test_weights_of_layers_left_out_take_no_room(make_counts: MakeCounts) -> None:
    energy = on(make_counts, layers("a", "b"), kept(WEIGHTS), "ws_reload", without=["b"])
    assert moved_by(energy)["weights", "dram", "read"] == WEIGHTS


@pytest.mark.parametrize("size", [1, 10**6])
def test_weights_of_a_layer_that_never_runs_are_not_fetched(size: int, make_counts: MakeCounts) -> None:
    rows = layers("a", active=False) + [neuron("lif", t, active=False) for t in range(STEPS)]
    for memory in VARIANTS:
        energy = on(make_counts, rows, kept(size), memory)
        assert len(energy.accesses()) == 0
        assert energy.memory_pj == 0


@pytest.mark.parametrize("device", [placed(), kept(10**6)])
def test_weights_arrive_in_the_first_step_that_runs(device: Device, make_counts: MakeCounts) -> None:
    rows = [operation(step=t, active=t in (1, 3)) for t in range(STEPS)]
    frame = on(make_counts, rows, device, "ws_once").to_frame().iloc[:STEPS]
    assert [pj > 0 for pj in frame["weights_pj"]] == [False, True, False, False]
    assert [pj > 0 for pj in frame["inputs_pj"]] == [False, True, False, True]


@pytest.mark.parametrize("device", [placed(rows=2, columns=1), kept(5, rows=2, columns=1)])
def test_work_done_once_per_inference_moves_what_one_step_moves(device: Device, make_counts: MakeCounts) -> None:
    for memory in VARIANTS:
        once = on(make_counts, [operation(step=-1)], device, memory)
        assert moved_by(once) == moved_by(on(make_counts, [operation(step=0)], device, memory))


@pytest.mark.parametrize(("rows", "spills"), [(1, 3), (2, 1), (3, 1), (4, 0), (5, 0), (ENDLESS, 0)])
@pytest.mark.parametrize("keep", [True, False])
def test_sums_longer_than_the_array_are_written_and_read_again(
    rows: int, spills: int, keep: bool, make_counts: MakeCounts
) -> None:
    """2 (ceil(K/R) - 1) N M A p with K = 4, N = 3, M = 5, A = 4, p = 32."""
    device = kept(rows=rows) if keep else placed(rows=rows, columns=1)
    network = layers("a", positions=5)
    more, less = (on(make_counts, network, device, memory) for memory in ("psum_spill", "ws_once"))
    assert more.accesses()["bits"].sum() - less.accesses()["bits"].sum() == 2 * spills * 3 * 5 * STEPS * 32
    assert (more.to_frame("layer").set_index("layer").loc["a", "partial_sums_pj"] > 0) == (spills > 0)


@pytest.mark.parametrize("memory", ["ws_once", "ws_reload", "psum_spill", "output_stationary", "no_local_reuse"])
def test_a_bigger_buffer_never_costs_more_dram_energy_for_what_is_kept_first(
    memory: str, make_counts: MakeCounts
) -> None:
    for seed, tensor in itertools.product(range(4), TENSORS):
        rows, samples, steps = oracle.random_network(random.Random(seed))
        counts = make_counts(rows, samples=samples, time_steps=steps)
        order = (tensor, *(t for t in TENSORS if t != tensor))
        costs = []
        for size in (1, 30, 300, 3000, 10**7):
            device = dataclasses.replace(kept(size, columns=2, rows=2), keep=order)
            table = estimate(counts, device.profile(), memory=memory).accesses()  # type: ignore[arg-type]
            of_tensor = (table["level"] == "dram") & (table["tensor"] == tensor)
            costs.append(table.loc[of_tensor, "energy_pj"].sum())
        assert costs == sorted(costs, reverse=True), (seed, tensor)
        assert tensor in ("weights", "inputs") or costs[-1] == 0  # what comes from outside comes once


def test_a_buffer_that_keeps_everything_leaves_dram_only_the_weights_once(make_counts: MakeCounts) -> None:
    for seed in range(30):
        rows, samples, steps = oracle.random_network(random.Random(seed))
        rows.insert(0, operation("before", active=False, weights=0))
        counts = make_counts(rows, samples=samples, time_steps=steps)
        for memory in ("ws_once", "ws_reload", "psum_spill", "output_stationary", "no_local_reuse"):
            energy = estimate(counts, kept(10**9, columns=2, rows=2).profile(), memory=memory)
            alive = {row["layer"]: row["weights"] for row in rows if row["active"] and row["op"] in ("conv", "linear")}
            assert dram_pj(energy) == 100 * 8 * sum(alive.values()), (seed, memory)


def test_a_buffer_that_lets_in_weights_may_push_out_inputs_that_cost_more(make_counts: MakeCounts) -> None:
    """The order of ``keep`` is the designer's: nothing is optimised, so one bit of buffer can cost DRAM energy."""
    rows = layers("a")
    small, large = (on(make_counts, rows, kept(size), "ws_once") for size in (WEIGHTS - 1, WEIGHTS))
    assert dram_pj(small) == 100 * WEIGHTS
    assert dram_pj(large) == 100 * (WEIGHTS + STEPS * 4)


def test_what_stands_first_in_keep_is_kept_first(make_counts: MakeCounts) -> None:
    rows, size = layers("a"), WEIGHTS + 3
    for first, second in (("weights", "inputs"), ("inputs", "weights")):
        order = (first, second, "membrane", "outputs", "partial_sums")
        found = moved_by(on(make_counts, rows, dataclasses.replace(kept(size), keep=order), "ws_reload"))
        repeated = {"weights": STEPS * WEIGHTS, "inputs": STEPS * 4}
        assert found.get((second, "dram", "read"), 0) == repeated[second]
        assert found.get((first, "dram", "read"), 0) == (WEIGHTS if first == "weights" else 0)


def test_tensors_fit_to_the_last_bit(make_counts: MakeCounts) -> None:
    """Layer by layer the inputs of all steps are stored, step by step those of one."""
    for variant, room in (("ws_once", STEPS * 4), ("ws_reload", 4)):
        for size, outside in ((WEIGHTS + room, 0), (WEIGHTS + room - 1, STEPS * 4)):
            found = moved_by(on(make_counts, layers("a"), kept(size), variant))
            assert found.get(("inputs", "dram", "read"), 0) == outside


def test_an_input_that_is_read_again_in_every_step_is_stored_once(make_counts: MakeCounts) -> None:
    rows = [row | {"input_repeated": row["time_step"] > 0} for row in layers("a")]
    found = moved_by(on(make_counts, rows, kept(WEIGHTS + 4), "ws_once"))
    assert ("inputs", "dram", "read") not in found
    assert found["inputs", "buffer", "read"] == STEPS * 4


def test_spikes_of_all_steps_are_stored_until_the_next_layer_runs(make_counts: MakeCounts) -> None:
    rows = [neuron(step=t, active=t < 3) for t in range(STEPS)]
    state, train = 3 * 16, 3 * 3  # bits of the membrane, and of the spikes of three active steps
    for size, outside in ((state + train, 0), (state + train - 1, train)):
        assert moved_by(on(make_counts, rows, kept(size))).get(("outputs", "dram", "write"), 0) == outside


def test_traffic_is_staged_in_every_level_between_home_and_array(make_counts: MakeCounts) -> None:
    levels = (Store("dram"), Store("outer", 10**6), Store("inner", 3))
    device = Device(levels, keep=TENSORS, rows=9, columns=9)
    found = moved_by(on(make_counts, layers("a"), device, "ws_reload"))
    assert found["weights", "dram", "read"] == found["weights", "outer", "write"] == WEIGHTS
    assert found["weights", "outer", "read"] == STEPS * WEIGHTS
    assert found["weights", "inner", "write"] == found["weights", "inner", "read"] == STEPS * WEIGHTS
    assert found["inputs", "outer", "read"] == found["inputs", "inner", "write"] == STEPS * 4
    assert ("inputs", "outer", "write") not in found


def test_what_leaves_the_array_is_staged_the_other_way(make_counts: MakeCounts) -> None:
    levels = (Store("dram"), Store("outer", 10**6), Store("inner", 2))
    device = Device(levels, keep=TENSORS, rows=9, columns=9)
    found = moved_by(on(make_counts, [neuron(step=t) for t in range(STEPS)], device))
    assert found["outputs", "inner", "write"] == found["outputs", "inner", "read"] == STEPS * 3
    assert found["outputs", "outer", "write"] == STEPS * 3
    assert ("outputs", "outer", "read") not in found
    assert not any(level == "dram" for _, level, _ in found)


def test_a_level_that_may_not_hold_a_tensor_is_passed_by(make_counts: MakeCounts) -> None:
    levels = (Store("dram"), Store("for_inputs", 10**6, holds=("inputs",)), Store("for_weights", 2, holds=("weights",)))
    device = Device(levels, keep=TENSORS, rows=9, columns=9)
    found = moved_by(on(make_counts, layers("a", feeds_neuron=False), device))
    assert {(tensor, level) for tensor, level, _ in found} == {
        ("weights", "dram"), ("weights", "for_weights"), ("inputs", "for_inputs"), ("outputs", "dram"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "columns", "passes"), [(1, 6, 1), (1, 5, 2), (1, 1, 6), (2, 3, 1), (3, 2, 1), (3, 1, 2)]
)
def test_inputs_are_streamed_again_for_every_columns_worth_of_channels(
    groups: int, columns: int, passes: int, make_counts: MakeCounts
) -> None:
    rows = layers("a", out_channels=6, groups=groups, weights=24)
    for memory in ("ws_once", "ws_reload", "psum_spill", "output_stationary"):
        found = moved_by(on(make_counts, rows, kept(columns=columns), memory))
        assert found["inputs", "dram", "read"] == passes * STEPS * 4
    flat = moved_by(on(make_counts, rows, placed(rows=1, columns=columns), "ws_once"))
    assert flat["inputs", "dram", "read"] == STEPS * 4


@pytest.mark.parametrize(("positions", "rows", "passes"), [(1, 1, 1), (6, 6, 1), (7, 6, 2), (7, 1, 7)])
def test_output_stationary_weights_cross_once_for_every_rows_worth_of_positions(
    positions: int, rows: int, passes: int, make_counts: MakeCounts
) -> None:
    device = kept(rows=rows)
    found = moved_by(on(make_counts, layers("a", positions=positions), device, "output_stationary"))
    assert found["weights", "dram", "read"] == STEPS * passes * WEIGHTS


def test_without_local_reuse_every_operation_reads_its_weight(make_counts: MakeCounts) -> None:
    rows = layers("a", positions=5, input_elements=10)  # every input meets M K / 10 = 2 taps
    found = moved_by(on(make_counts, rows, kept(), "no_local_reuse"))
    sops = sum(row["sops"] for row in rows)
    assert found["weights", "dram", "read"] == sops * 8
    assert found["inputs", "dram", "read"] == STEPS * 10 * 2
    real = layers("a", positions=5, input_elements=10, input_kind="real")
    assert moved_by(on(make_counts, real, kept(), "no_local_reuse"))["weights", "dram", "read"] == STEPS * 60 * 8


PRODUCT: Row = {
    "op": "matmul", "weights": 0, "other_kind": "integer", "other_max_k": 5, "other_elements": 12,
    "other_nonzeros": 6, "positions": 5, "input_elements": 20, "input_nonzeros": 10,
}  # fmt: skip


@pytest.mark.parametrize("memory", VARIANTS)
def test_a_product_moves_both_operands_as_inputs_and_no_weights(memory: str, make_counts: MakeCounts) -> None:
    rows = layers("qk", **PRODUCT)
    ports = Store("port")
    device = kept(rows=2, columns=3, registers=ports, inter_pe=ports)
    energy = on(make_counts, rows, device, memory)
    assert (energy.to_frame()["weights_pj"] == 0).all()
    assert "weights" not in set(energy.accesses()["tensor"])
    bits = {
        "ws_once": 20 + 36, "ws_reload": 20 + 36, "psum_spill": 20 + 36, "state_only": 0,
        "output_stationary": 20 + 3 * 36, "no_local_reuse": 20 + 30 * 3,
    }  # fmt: skip
    assert moved_by(energy).get(("inputs", "dram", "read"), 0) == STEPS * bits[memory]


@pytest.mark.parametrize("memory", ["ws_once", "ws_reload", "psum_spill"])
def test_a_weight_that_stays_in_its_register_is_read_there_for_every_operation(
    memory: str, make_counts: MakeCounts
) -> None:
    found = moved_by(on(make_counts, layers("a"), kept(rows=2, registers=Store("port")), memory))
    crossings = STEPS if memory == "ws_reload" else 1
    assert found["weights", "registers", "read"] == STEPS * 6 * 8
    assert found["weights", "registers", "write"] == crossings * WEIGHTS


def test_a_sum_that_stays_in_its_register_is_read_and_written_for_every_operation(make_counts: MakeCounts) -> None:
    found = moved_by(on(make_counts, layers("a"), kept(registers=Store("port")), "output_stationary"))
    assert found["partial_sums", "registers", "read"] == found["partial_sums", "registers", "write"] == STEPS * 6 * 32
    assert ("weights", "registers", "read") not in found


@pytest.mark.parametrize("memory", ["state_only", "no_local_reuse"])
def test_where_nothing_stays_no_register_is_touched(memory: str, make_counts: MakeCounts) -> None:
    table = on(make_counts, layers("a"), kept(registers=Store("port")), memory).accesses()
    assert "registers" not in set(table["level"])


@pytest.mark.parametrize("memory", [v for v in VARIANTS if v != "state_only"])
def test_two_operands_of_every_operation_hop_to_the_next_element(memory: str, make_counts: MakeCounts) -> None:
    """A zero is handed on too, unless it is skipped: 12 operations a step, 6 of them with a spike."""
    for zeros, operations in (("gate", 12), ("skip", 6)):
        device = kept(inter_pe=Store("port"), timing=oracle.Timing(zeros=zeros))
        found = moved_by(on(make_counts, layers("a"), device, memory))
        hops = {key[0]: bits for key, bits in found.items() if key[1:] == ("inter_pe", "hop")}
        bits = STEPS * operations
        second = {"weights": bits * 8} if memory == "output_stationary" else {"partial_sums": bits * 32}
        assert hops == {"inputs": bits} | second


def test_an_array_without_prices_inside_charges_nothing_inside(make_counts: MakeCounts) -> None:
    for memory in VARIANTS:
        levels = set(on(make_counts, layers("a"), kept(rows=1, columns=1), memory).accesses()["level"])
        assert levels <= {"dram"}


# --- Endless arrays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("array", "flat"), [("psum_spill", "ws_once"), ("output_stationary", "ws_reload")])
@pytest.mark.parametrize("size", [None, 0, 10**6])
def test_on_an_array_without_end_every_dataflow_is_a_flat_one(
    array: str, flat: str, size: int | None, make_counts: MakeCounts
) -> None:
    """Where everything or nothing is kept; between, ws_reload alone needs room for the weights of all layers."""
    for seed in range(20):
        rows, samples, steps = oracle.random_network(random.Random(seed))
        counts = make_counts(rows, samples=samples, time_steps=steps)
        device = kept(size) if size is not None else placed(rows=ENDLESS, columns=ENDLESS)
        one, other = (estimate(counts, device.profile(), memory=m) for m in (array, flat))  # type: ignore[arg-type]
        assert moved_by(one) == pytest.approx(moved_by(other)), seed


def test_on_an_array_without_end_a_kept_hierarchy_of_one_level_is_a_placement(make_counts: MakeCounts) -> None:
    for seed, memory in itertools.product(range(15), VARIANTS):
        rows, samples, steps = oracle.random_network(random.Random(seed))
        counts = make_counts(rows, samples=samples, time_steps=steps)
        flat = Device((Store("dram", read=100, write=100),), everything_on("dram"), rows=ENDLESS, columns=ENDLESS)
        one, other = (estimate(counts, device.profile(), memory=memory) for device in (kept(), flat))  # type: ignore[arg-type]
        assert moved_by(one) == pytest.approx(moved_by(other))
        assert one.memory_pj == pytest.approx(other.memory_pj)


def test_no_sum_is_spilt_by_an_array_without_end(make_counts: MakeCounts) -> None:
    for memory in VARIANTS:
        energy = on(make_counts, layers("a", positions=7, reduction=50), kept(), memory)
        assert (energy.to_frame()["partial_sums_pj"] == 0).all()


# --- Bits of spikes -----------------------------------------------------------------------------------------------


def test_a_spike_is_one_bit_in_a_bitmap_whether_it_is_there_or_not(make_counts: MakeCounts) -> None:
    for spikes in (0, 1, 3):
        rows = [operation(input_nonzeros=spikes), neuron(neurons=3, spikes=spikes)]
        found = moved_by(on(make_counts, rows, placed()))
        assert found["inputs", "dram", "read"] == 4
        assert found["outputs", "dram", "write"] == 3


@pytest.mark.parametrize("elements", [1, 2, 3, 16, 17, 100])
def test_addresses_beat_the_bitmap_exactly_where_their_bits_are_fewer_than_the_elements(
    elements: int, make_counts: MakeCounts
) -> None:
    width = max(1, math.ceil(math.log2(elements)))
    for spikes in range(elements + 1):
        rows = [operation(input_elements=elements, input_nonzeros=spikes)]
        bitmap, events = (
            on(make_counts, rows, placed(coding=coding)).to_frame()["inputs_pj"].sum()
            for coding in ("bitmap", "address-event")
        )
        assert bitmap == elements
        assert events == spikes * width
        assert (events < bitmap) == (spikes * width < elements)


@pytest.mark.parametrize(
    ("kind", "max_k", "value"),
    [("binary", 1, 0), ("integer", 1, 0), ("ternary", 1, 2), ("integer", 3, 2), ("integer", 4, 3)],
)
def test_an_address_carries_the_value_where_it_is_not_always_the_same(
    kind: str, max_k: int, value: int, make_counts: MakeCounts
) -> None:
    rows = [operation(input_kind=kind, max_k=max_k, input_elements=16, input_nonzeros=5)]
    found = moved_by(on(make_counts, rows, placed(coding="address-event")))
    assert found["inputs", "dram", "read"] == 5 * (4 + value)


def test_real_inputs_have_no_addresses(make_counts: MakeCounts) -> None:
    rows = [operation(input_kind="real", input_nonzeros=1)]
    for coding in ("bitmap", "address-event"):
        assert moved_by(on(make_counts, rows, placed(coding=coding)))["inputs", "dram", "read"] == 4 * 6


def test_spikes_written_as_addresses_cost_their_number(make_counts: MakeCounts) -> None:
    rows = [neuron(step=t, samples=2, neurons=100, spikes=s) for t, s in enumerate((0, 3, 8))]
    found = moved_by(on(make_counts, rows, placed(coding="address-event"), samples=2))
    assert found["outputs", "dram", "write"] == (3 + 8) / 2 * 7


def test_fewer_spikes_fit_into_less_room(make_counts: MakeCounts) -> None:
    """Address-event inputs take the room of their spikes: step by step a quiet one is kept where a busy one is not."""
    rows = [operation(step=t, input_elements=16, input_nonzeros=n) for t, n in enumerate((1, 10))]
    device = dataclasses.replace(
        kept(20, coding="address-event"), keep=("inputs", *(t for t in TENSORS if t != "inputs"))
    )
    found = moved_by(on(make_counts, rows, device, "ws_once"))  # both trains at once: 11 addresses of 4 bits
    assert found["inputs", "dram", "read"] == 11 * 4
    found = moved_by(on(make_counts, rows, device, "ws_reload"))
    assert found["inputs", "dram", "read"] == found["inputs", "buffer", "write"] == 10 * 4
    assert found["inputs", "buffer", "read"] == 11 * 4


# --- Prices -------------------------------------------------------------------------------------------------------


def repriced(profile: HardwareProfile, key: str, factor: float) -> HardwareProfile:
    """The profile with one price multiplied."""
    document = profile.model_dump(by_alias=True, exclude_none=True)
    entry: Any = document
    for part in key.split("."):
        entry = entry[part]
    entry["value"] *= factor
    return HardwareProfile.model_validate(document)


@pytest.mark.parametrize("seed", range(6))
def test_energy_is_linear_in_every_price_and_their_parts_are_the_whole(seed: int, make_counts: MakeCounts) -> None:
    rng = random.Random(seed)
    rows, samples, steps = oracle.random_network(rng)
    device = oracle.random_device(rng)
    counts, profile = make_counts(rows, samples=samples, time_steps=steps), device.profile()
    prices = [key for key in numbers(profile) if key.endswith((".read", ".write", ".inter_pe"))]
    prices += ["compute.mac", "compute.ac"]
    total, parts = estimate(counts, profile).total_pj, 0.0
    for key in prices:
        twice, thrice = (estimate(counts, repriced(profile, key, k)).total_pj for k in (2, 3))
        assert thrice - twice == pytest.approx(twice - total, rel=1e-9, abs=1e-6)
        parts += twice - total
    assert parts == pytest.approx(total, rel=1e-9)


def test_a_word_is_paid_by_its_share(make_counts: MakeCounts) -> None:
    """96 bits are 1.5 words of 64 bits: rows that share words are not rounded up."""
    levels = (Store("dram", read=10, read_word=64),)
    energy = on(make_counts, [operation()], Device(levels, everything_on("dram")))
    table = energy.accesses().set_index("tensor")
    assert table.loc["weights", "words"] == 1.5
    assert table.loc["weights", "energy_pj"] == energy.to_frame()["weights_pj"].sum() == 15


def test_reads_and_writes_have_their_own_prices(make_counts: MakeCounts) -> None:
    levels = (Store("dram", read=3, write=5, read_word=2, write_word=4),)
    energy = on(make_counts, [neuron(neurons=8)], Device(levels, everything_on("dram"), u=16))
    assert energy.to_frame()["membrane_pj"].sum() == 8 * 16 * (3 / 2 + 5 / 4)
    assert energy.to_frame()["outputs_pj"].sum() == 8 * 5 / 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_the_profiles_own_where_none_is_asked_for(variant: str, make_counts: MakeCounts) -> None:
    device = kept(100, rows=2, columns=1, variant=variant)
    energy = on(make_counts, layers("a"), device)
    assert energy.policies.memory == variant
    assert moved_by(energy) == moved_by(on(make_counts, layers("a"), device, variant))


def test_state_only_is_membranes_and_nothing_else(make_counts: MakeCounts) -> None:
    ports = Store("port")
    device = kept(10**6, rows=1, columns=1, registers=ports, inter_pe=ports)
    energy = on(make_counts, [*layers("a", feeds_neuron=False), neuron()], device, "state_only")
    assert set(energy.accesses()["tensor"]) == {"membrane"}


def test_the_last_write_and_first_read_are_saved_wherever_a_membrane_is_kept(make_counts: MakeCounts) -> None:
    rows = [neuron(step=t, active=t != 1) for t in range(STEPS)]
    for device in (placed(drop=True), kept(10**6, drop=True), kept(1, drop=True)):
        found = moved_by(on(make_counts, rows, device))
        home = "dram" if ("membrane", "dram", "read") in found else "buffer"
        assert found["membrane", home, "read"] == found["membrane", home, "write"] == 2 * 3 * 16


def test_a_repeated_image_is_moved_once_where_it_is_encoded_once(make_counts: MakeCounts) -> None:
    rows = [operation(step=t, input_kind="real", input_repeated=t > 0) for t in range(STEPS)]
    for device, store in ((placed(), "dram"), (kept(10**6), "buffer")):
        steps, once = (moved_by(on(make_counts, rows, device, encoder=e)) for e in ("per-step", "once"))
        assert steps["inputs", store, "read"] == STEPS * once["inputs", store, "read"]


def test_what_the_network_is_given_comes_from_outside_and_what_it_makes_itself_does_not(
    make_counts: MakeCounts,
) -> None:
    rows = [operation(layer, t) for layer in ("first", "second") for t in range(2)]
    found = moved_by(on(make_counts, rows, kept(10**6), first=True))
    assert found["inputs", "dram", "read"] == 2 * 4
    again = [row | {"input_repeated": row["time_step"] > 0} for row in rows]
    assert moved_by(on(make_counts, again, kept(10**6), first=True))["inputs", "dram", "read"] == 4


def test_dense_spikes_are_as_wide_as_any_activation(make_counts: MakeCounts) -> None:
    rows = [operation(), neuron(spikes=1)]
    thin, wide = (moved_by(on(make_counts, rows, placed(coding=coding))) for coding in ("bitmap", "dense"))
    for tensor, action in (("inputs", "read"), ("outputs", "write")):
        assert wide[tensor, "dram", action] == placed().a * thin[tensor, "dram", action]


# --- Bad input: one test each -------------------------------------------------------------------------------------


def test_a_tensor_that_fits_on_no_level_is_refused(make_counts: MakeCounts, tmp_path: Path, cli: Cli) -> None:
    device = Device((Store("chip", 5 * WEIGHTS - 1),), keep=TENSORS, rows=4, columns=3)
    counts = make_counts(layers("block.conv", out_channels=15, weights=60), convention=1)
    path = tmp_path / "device.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(device.document(), stream)
    with pytest.raises(
        HardwareError, match=r"device\.yaml:\d+: .*the weights of block\.conv take 480 bits.* remove the size"
    ):
        estimate(counts, path)
    counts.save(tmp_path / "counts.json")
    code, _, err = cli("estimate", tmp_path / "counts.json", "--hardware", path)
    assert code == 1
    assert err.startswith(f"error: {path}:")


def test_what_fits_alone_but_not_beside_the_rest_fits_nowhere(make_counts: MakeCounts) -> None:
    device = Device((Store("chip", WEIGHTS + 16),), keep=TENSORS, rows=4, columns=3)
    assert on(make_counts, layers("a"), device).memory_pj > 0
    device = Device((Store("chip", WEIGHTS + 15),), keep=TENSORS, rows=4, columns=3)
    with pytest.raises(HardwareError, match="the inputs of a take 16 bits, which fit on no level next to the tensors"):
        on(make_counts, layers("a"), device)


def test_what_never_moves_need_not_fit(make_counts: MakeCounts) -> None:
    device = Device((Store("chip", WEIGHTS + 16),), keep=TENSORS, rows=4, columns=3)
    rows = layers("a") + layers("never", active=False, weights=10**6)
    assert on(make_counts, rows, device).memory_pj == on(make_counts, layers("a"), device).memory_pj > 0


def test_results_that_fit_on_no_level_are_refused(make_counts: MakeCounts) -> None:
    device = Device((Store("chip", WEIGHTS + 16 + 71),), keep=TENSORS, rows=4, columns=3)
    with pytest.raises(HardwareError, match="the outputs of a take 72 bits"):
        on(make_counts, layers("a", feeds_neuron=False), device)


def test_partial_sums_that_fit_on_no_level_are_refused(make_counts: MakeCounts) -> None:
    device = Device((Store("chip", 200),), keep=TENSORS, rows=1, columns=3)
    with pytest.raises(HardwareError, match="the partial sums of a"):
        on(make_counts, layers("a", positions=9), device, "psum_spill")


def test_a_dataflow_of_an_array_needs_one(make_counts: MakeCounts) -> None:
    for memory in ("psum_spill", "output_stationary", "no_local_reuse"):
        with pytest.raises(HardwareError, match=f"'{memory}' needs the array's rows .* ws_once, ws_reload, state_only"):
            on(make_counts, layers("a"), placed(), memory)


def test_a_profile_whose_own_variant_needs_an_array_must_have_one(refused: Callable[..., str]) -> None:
    assert "psum_spill needs the section 'array'" in refused(placed(), "memory.variant", "psum_spill")


def test_keeping_tensors_takes_an_array(refused: Callable[..., str]) -> None:
    assert "needs the section 'array'" in refused(kept(5), "array", at="keep")


def test_keep_names_every_tensor(refused: Callable[..., str]) -> None:
    message = refused(kept(5), "memory.keep", ["weights", "inputs", "membrane", "outputs"])
    assert "must name each of weights, inputs, membrane, outputs, partial_sums once" in message


def test_keep_names_no_tensor_twice(refused: Callable[..., str]) -> None:
    assert "once" in refused(kept(5), "memory.keep", [*TENSORS, "weights"])


def test_placement_and_keep_exclude_each_other(refused: Callable[..., str]) -> None:
    message = refused(kept(5), "memory.placement", everything_on("dram"))
    assert "'keep' exclude each other; keep one" in message


def test_one_of_placement_and_keep_is_needed(refused: Callable[..., str]) -> None:
    message = refused(placed(), "memory.placement", at="memory")
    assert "is missing; add it, or 'keep'" in message


def test_a_level_that_keeps_what_fits_has_a_size(refused: Callable[..., str]) -> None:
    assert "needs a size" in refused(kept(5), "memory.levels.buffer.size", at="buffer")


def test_the_outermost_level_holds_everything(refused: Callable[..., str]) -> None:
    assert "outermost level holds" in refused(kept(5), "memory.levels.dram.holds", ["weights"])


def test_a_level_without_a_price_for_writing_is_refused(refused: Callable[..., str]) -> None:
    assert "write" in refused(placed(), "memory.levels.dram.write", at="dram")


def test_an_array_has_at_least_one_row(refused: Callable[..., str]) -> None:
    message = refused(placed(rows=4, columns=4), "array.rows.value", 0)
    assert "must be a whole number, at least 1" in message


def test_a_bandwidth_of_zero_would_move_nothing(refused: Callable[..., str]) -> None:
    device = Device((Store("dram", bandwidth=8),), everything_on("dram"), timing=Timing())
    assert "must be more than 0" in refused(device, "memory.levels.dram.bandwidth.value", 0)


def test_a_bandwidth_is_no_energy(refused: Callable[..., str]) -> None:
    device = Device((Store("dram", bandwidth=8),), everything_on("dram"), timing=Timing())
    message = refused(device, "memory.levels.dram.bandwidth.unit", "pJ")
    assert "unit 'pJ' is not one of bit/s" in message


def test_a_bandwidth_per_cycle_takes_a_clock(refused: Callable[..., str]) -> None:
    device = Device((Store("dram", bandwidth=8),), everything_on("dram"), timing=Timing())
    assert "bit/cycle needs latency.clock" in refused(device, "latency", at="unit")


def test_leakage_takes_a_latency(refused: Callable[..., str]) -> None:
    leak = {"value": 1, "unit": "W", "source": "test", "kind": "assumed"}
    assert "add the section 'latency'" in refused(placed(), "memory.levels.dram.leakage", leak)


def test_a_range_upside_down_is_refused_the_right_way_up(refused: Callable[..., str]) -> None:
    assert "is reversed; write [1, 5]" in refused(placed(), "compute.ac.range", [5, 1])


def test_a_range_holds_its_value(refused: Callable[..., str]) -> None:
    assert "does not contain 3" in refused(placed(), "compute.ac.range", [4, 5])


def test_a_mac_is_no_multiple_of_itself(refused: Callable[..., str]) -> None:
    assert "the MAC itself needs an energy" in refused(placed(), "compute.mac.unit", "MAC", at="mac")


def test_multiples_of_a_mac_take_a_mac(refused: Callable[..., str]) -> None:
    device = placed()
    document = device.document()
    del document["compute"]["mac"]
    document["not_priced"] = {"mac": "it has none"}
    document["memory"]["levels"]["dram"]["read"]["unit"] = "MAC"

    class Changed(Device):
        def document(self) -> dict[str, Any]:
            return document

    message = refused(Changed(placement=everything_on("dram")), "name", "other", at="unit")
    assert "multiples of compute.mac, which is missing" in message


def test_a_price_is_there_or_it_is_said_to_be_missing(refused: Callable[..., str]) -> None:
    assert "is missing; add the key 'mac'" in refused(placed(), "compute.mac", at="compute")
    assert "contradicts compute.mac, which has a price" in refused(placed(), "not_priced", {"mac": "unknown"}, at="mac")


def test_multiplies_without_a_price_are_refused_with_the_layers_to_leave_out(make_counts: MakeCounts) -> None:
    document = placed().document()
    del document["compute"]["mac"]
    document["not_priced"] = {"mac": "a machine of spikes"}
    profile = HardwareProfile.model_validate(document)
    rows = [operation("stem", input_kind="real"), operation("body")]
    with pytest.raises(HardwareError, match=r"no price for multiply-accumulates .*stem need.*--without stem"):
        estimate(make_counts(rows), profile)
    assert estimate(make_counts(rows), profile, without=["stem"]).compute_pj == 3 * 6


def test_a_layer_that_is_not_there_cannot_be_left_out(make_counts: MakeCounts) -> None:
    with pytest.raises(SnnEnergyError, match="no layer 'bodi' to leave out; did you mean 'body'"):
        on(make_counts, layers("body"), placed(), without=["bodi"])


def test_a_prefix_leaves_out_what_lies_below_it(make_counts: MakeCounts) -> None:
    rows = layers("sps.conv", "sps.lif", "spsx")
    frame = on(make_counts, rows, placed(), without=["sps"], first=True).to_frame("layer").set_index("layer")
    assert (frame["total_pj"] > 0).to_dict() == {"sps.conv": False, "sps.lif": False, "spsx": True}


def test_policies_are_named_like_the_keywords_of_an_estimate() -> None:
    assert set(Policy().options()) == {"memory", "integer", "products", "encoder", "without"}
