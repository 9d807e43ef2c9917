"""Latency: random networks, schedules and stores against scalar sums, then one statement a test."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import hierarchy_oracle as oracle
import pytest
from hierarchy_oracle import SCHEDULES, TENSORS, Device, Row, Store, Timing, everything_on, neuron, operation

from snn_energy.analysis.skipping import skipping_savings
from snn_energy.core.errors import HardwareError
from snn_energy.counts.counts import Counts
from snn_energy.hardware.numbers import numbers
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.charged_work import charged_work
from snn_energy.pricing.cycles import Latency, layer_rows_of, total_cycles
from snn_energy.pricing.energy import Energy, estimate, estimate_latency
from snn_energy.pricing.policies import make_policies

MakeCounts = Callable[..., Counts]
Cli = Callable[..., tuple[int, str, str]]
BLOCKS, CASES = 6, 60  # random cases: blocks times cases


# --- Against the scalar oracle ------------------------------------------------------------------------------------


def timed_case(seed: int) -> tuple[list[Row], int, int, Device, oracle.Policy, oracle.Timing]:
    """Rows, samples, time steps, a device with a clock, policies, and the clock's section."""
    rng = random.Random(seed)
    rows, samples, time_steps = oracle.random_network(rng)
    device = oracle.random_device(rng, timed=True)
    assert device.timing is not None
    return rows, samples, time_steps, device, oracle.random_policy(rng, device, rows), device.timing


@pytest.mark.parametrize("block", range(BLOCKS))
def test_an_inference_takes_what_a_scalar_loop_says(block: int, make_counts: MakeCounts) -> None:
    for seed in range(block * CASES, (block + 1) * CASES):
        rows, samples, time_steps, device, policy, timing = timed_case(seed)
        counts, profile = make_counts(rows, samples=samples, time_steps=time_steps), device.profile()
        charged = oracle.charge(rows, samples, policy, timing.zeros)
        expected = oracle.time_of(charged, device, policy.memory, time_steps)

        found = estimate_latency(counts, profile, **policy.options())
        assert found.cycles == pytest.approx(expected.cycles, rel=1e-9), seed
        assert found.seconds == pytest.approx(expected.cycles / timing.clock_hz, rel=1e-9), seed
        assert found.interval_cycles == pytest.approx(expected.interval, rel=1e-9), seed
        if expected.interval:
            assert found.samples_per_s == pytest.approx(timing.clock_hz / expected.interval, rel=1e-9), seed
        assert found.zeros == timing.zeros
        assert found.schedule == (timing.schedule if timing.timing == "lanes" else "array")
        check_layers(found, expected, timing)
        options = policy.options()
        left_out = options.pop("without")
        work = charged_work(counts, profile, make_policies(profile, **options), left_out)
        if work.is_operation.any():  # what a sweep asks for
            places = layer_rows_of(counts, joined=timing.timing == "array")
            total = total_cycles(work, profile, numbers(profile), policy.memory, places, time_steps)  # type: ignore[arg-type]
            assert float(total) == pytest.approx(expected.cycles, rel=1e-9), seed

        energy = estimate(counts, profile, **policy.options())
        static = oracle.watts(device) * expected.cycles / timing.clock_hz * 1e12
        total = oracle.total_pj(rows, samples, time_steps, device, policy)
        assert energy.static_pj == pytest.approx(static, rel=1e-9), seed
        assert energy.total_pj == pytest.approx(total, rel=1e-9), seed
        delay = total * 1e-12 * expected.cycles / timing.clock_hz
        assert energy.edp_js == pytest.approx(delay, rel=1e-9, abs=1e-30), seed


def check_layers(found: Latency, expected: oracle.Time, timing: Timing) -> None:
    """The table of layers, figure by figure."""
    frame = found.to_frame().set_index("layer")
    assert list(frame.index) == list(expected.layers)
    for name, layer in expected.layers.items():
        row = frame.loc[name]
        serial = timing.timing == "lanes" and timing.schedule == "layer-serial"
        load = layer.load_cycles if serial else 0.0
        cycles = layer.whole if timing.timing == "array" else sum(layer.steps) + load
        assert row["operations"] == pytest.approx(layer.operations, rel=1e-9)
        assert row["compute_cycles"] == pytest.approx(sum(layer.lanes), rel=1e-9)
        assert row["load_cycles"] == pytest.approx(load, rel=1e-9)
        assert row["cycles"] == pytest.approx(cycles, rel=1e-9)
        assert row["bound"] == layer.bound
        if not name.endswith("#products"):
            assert row["active_steps"] == len(layer.steps)
        for store, moving in layer.stores.items():
            assert row[f"{store}_cycles"] == pytest.approx(sum(moving), rel=1e-9)


@pytest.mark.parametrize("block", range(2))
def test_skipping_is_worth_what_a_scalar_loop_says(block: int, make_counts: MakeCounts) -> None:
    """Every step on a device without masks; steps with an active source; of these, those that somebody reads."""
    for seed in range(block * 40, (block + 1) * 40):
        rng = random.Random(seed)
        rows, samples, time_steps = oracle.random_network(rng)
        device = oracle.random_device(rng, timed=seed % 4 > 0)
        policy = oracle.random_policy(rng, device, rows)
        counts = make_counts(rows, samples=samples, time_steps=time_steps)
        table = skipping_savings(estimate(counts, device.profile(), **policy.options()))
        assert table["steps"].tolist() == ["all T_max", "input side", "input and output side"]
        networks = [oracle.without_masks(rows, samples), rows, oracle.only_needed(rows)]
        totals = [oracle.total_pj(r, samples, time_steps, device, policy) for r in networks]
        assert table["total_pj"].tolist() == pytest.approx(totals, rel=1e-9), seed
        if totals[0]:
            assert table["energy_ratio"].tolist() == pytest.approx([t / totals[0] for t in totals], rel=1e-9), seed
        if device.timing is None:
            assert table[["cycles", "latency_s", "time_ratio"]].isna().all(axis=None)
            continue
        charged = [oracle.charge(r, samples, policy, device.timing.zeros) for r in networks]
        cycles = [oracle.time_of(c, device, policy.memory, time_steps).cycles for c in charged]
        assert table["cycles"].tolist() == pytest.approx(cycles, rel=1e-9), seed
        assert table["latency_s"].tolist() == pytest.approx([c / device.timing.clock_hz for c in cycles], rel=1e-9)
        if cycles[0]:
            assert table["time_ratio"].tolist() == pytest.approx([c / cycles[0] for c in cycles], rel=1e-9), seed


def test_the_random_cases_reach_every_schedule_and_bound() -> None:
    seen: set[Any] = set()
    for seed in range(BLOCKS * CASES):
        rows, samples, time_steps, device, policy, timing = timed_case(seed)
        expected = oracle.time_of(oracle.charge(rows, samples, policy, timing.zeros), device, policy.memory, time_steps)
        seen |= {layer.bound for layer in expected.layers.values()}
        seen |= {(timing.timing, timing.schedule, timing.zeros), timing.lanes_over}
        seen |= {sum(store.bandwidth is not None for store in device.levels)}
    assert seen >= set(itertools.product(["lanes"], SCHEDULES, ["none", "gate", "skip"]))
    assert seen >= {"compute", "dram", "global", "buffer", "scratch", "nothing to do", 0, 1, 2, 3}
    assert seen >= {"any", "out_channels", "positions", ("array", "layer-serial", "none")}


# --- Small cases by hand ------------------------------------------------------------------------------------------

# One layer: 12 operations a step, of which 6 meet a spike; 96 bits of weights, 4 of inputs.
DENSE, SOPS, WEIGHTS, INPUTS = 12, 6, 96, 4
STEPS = 4


def layers(*names: str, steps: int = STEPS, **changes: Any) -> list[Row]:
    return [operation(name, t, **changes) for name in names for t in range(steps)]


def lanes(levels: tuple[Store, ...] = (Store("dram"),), keep: bool = False, **timing: Any) -> Device:
    """All tensors on the first level, or kept where they fit; one lane unless said otherwise."""
    if keep:
        return Device(levels, keep=TENSORS, rows=10**6, columns=10**6, timing=Timing(**timing))
    return Device(levels, everything_on(levels[0].name), timing=Timing(**timing))


def array(rows: int, columns: int, levels: tuple[Store, ...] = (Store("dram"),), **timing: Any) -> Device:
    return Device(levels, everything_on("dram"), rows=rows, columns=columns, timing=Timing("array", **timing))


def counted(make_counts: MakeCounts, rows: list[Row], samples: int = 1) -> Counts:
    return make_counts(rows, samples=samples, time_steps=max(1, *(row["time_step"] + 1 for row in rows)))


def takes(make_counts: MakeCounts, rows: list[Row], device: Device, samples: int = 1, **options: Any) -> Latency:
    return estimate_latency(counted(make_counts, rows, samples), device.profile(), **options)


def costs(make_counts: MakeCounts, rows: list[Row], device: Device, **options: Any) -> Energy:
    return estimate(counted(make_counts, rows), device.profile(), **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gating_saves_energy_and_no_cycles(schedule: str, make_counts: MakeCounts) -> None:
    none, gate = (costs(make_counts, layers("a"), lanes(schedule=schedule, zeros=z)) for z in ("none", "gate"))
    assert (none.compute_pj, gate.compute_pj) == (3 * STEPS * DENSE, 3 * STEPS * SOPS)
    assert none.latency is not None
    assert gate.latency is not None
    assert none.latency.cycles == gate.latency.cycles == STEPS * DENSE


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_skipping_saves_both(schedule: str, make_counts: MakeCounts) -> None:
    gate, skip = (costs(make_counts, layers("a"), lanes(schedule=schedule, zeros=z)) for z in ("gate", "skip"))
    assert skip.compute_pj == gate.compute_pj
    assert gate.latency is not None
    assert skip.latency is not None
    assert skip.latency.cycles == gate.latency.cycles / 2 == STEPS * SOPS


def test_a_device_that_cannot_tell_zeros_pays_for_them_under_every_policy(make_counts: MakeCounts) -> None:
    rows = layers("a", input_kind="integer", max_k=3, sops_multi=11)
    for integer, pj in (("ac", 3), ("multi-ac", 3), ("mac", 10), ("mac-dense", 10)):
        energy = costs(make_counts, rows, lanes(zeros="none"), integer=integer)
        assert energy.compute_pj == pj * STEPS * DENSE


def test_real_inputs_are_never_skipped(make_counts: MakeCounts) -> None:
    rows = layers("a", input_kind="real")
    for zeros in ("none", "gate", "skip"):
        energy = costs(make_counts, rows, lanes(zeros=zeros))
        assert energy.latency is not None
        assert energy.latency.cycles == STEPS * DENSE
        assert energy.compute_pj == 10 * STEPS * DENSE


def test_cycles_of_skipped_zeros_follow_the_policies(make_counts: MakeCounts) -> None:
    rows = layers("a", input_kind="integer", max_k=3, sops_multi=11)
    for integer, ops in (("ac", SOPS), ("multi-ac", 11), ("mac", SOPS), ("mac-dense", DENSE)):
        assert takes(make_counts, rows, lanes(zeros="skip"), integer=integer).cycles == STEPS * ops


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_twice_the_lanes_take_half_the_cycles_of_what_they_bound(schedule: str, make_counts: MakeCounts) -> None:
    for zeros in ("none", "gate", "skip"):
        few, many = (
            takes(make_counts, layers("a", "b"), lanes(lanes=k, schedule=schedule, zeros=zeros)) for k in (2, 4)
        )
        assert many.cycles == few.cycles / 2 > 0


def test_more_lanes_do_not_help_where_a_store_is_the_bound(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=1),)
    few, many = (
        takes(make_counts, layers("a", feeds_neuron=False), lanes(slow, lanes=k), memory="ws_reload") for k in (2, 4)
    )
    assert few.cycles == many.cycles == STEPS * (WEIGHTS + INPUTS + 3 * 6)
    assert set(few.to_frame()["bound"]) == {"dram"}


def test_a_third_of_the_lanes_takes_three_times_as_long(make_counts: MakeCounts) -> None:
    full, third = (takes(make_counts, layers("a"), lanes(utilisation=u)) for u in (1.0, 1 / 3))
    assert third.cycles == pytest.approx(3 * full.cycles)


@pytest.mark.parametrize(("over", "size"), [("out_channels", 3), ("positions", 5)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_lanes_are_idle_in_the_last_round(over: str, size: int, count: int, make_counts: MakeCounts) -> None:
    """K = 4 operations for each of 3 channels and 5 positions."""
    found = takes(make_counts, layers("a", positions=5), lanes(lanes=count, lanes_over=over))
    rounds = -(-size // count)
    assert found.cycles == pytest.approx(STEPS * 4 * 3 * 5 / size * rounds)


def test_lanes_that_share_nothing_out_are_always_busy(make_counts: MakeCounts) -> None:
    assert takes(make_counts, layers("a"), lanes(lanes=7)).cycles == pytest.approx(STEPS * DENSE / 7)


def test_the_slowest_of_lanes_and_stores_binds_in_every_step(make_counts: MakeCounts) -> None:
    """Steps are bound one by one: the first by its weights, the others by the lanes."""
    rows = [operation(step=t, active=t < 3) for t in range(STEPS)]
    levels = (Store("dram", bandwidth=4), Store("buffer", 10**6, bandwidth=2))
    found = takes(make_counts, rows, lanes(levels, keep=True), memory="ws_reload")
    first = max(DENSE, (WEIGHTS + INPUTS) / 4, (2 * WEIGHTS + 2 * INPUTS) / 2)  # both come in and go on to the array
    assert found.cycles == first + 2 * max(DENSE, INPUTS / 4, (WEIGHTS + 2 * INPUTS) / 2)
    row = found.to_frame().iloc[0]
    assert row["bound"] == "buffer"
    assert row["dram_cycles"] == (WEIGHTS + 3 * INPUTS) / 4
    assert row["buffer_cycles"] == (4 * WEIGHTS + 6 * INPUTS) / 2


def test_reads_and_writes_share_the_bandwidth(make_counts: MakeCounts) -> None:
    levels = (Store("dram", bandwidth=1),)
    device = dataclasses.replace(lanes(levels, lanes=10**9), rows=2, columns=1)
    spilling, once = (takes(make_counts, layers("a"), device, memory=m) for m in ("psum_spill", "ws_once"))
    assert spilling.cycles - once.cycles == pytest.approx(STEPS * 2 * 3 * 32, abs=1e-3)


def test_a_store_without_a_bandwidth_never_binds(make_counts: MakeCounts) -> None:
    row = takes(make_counts, layers("a"), lanes(lanes=10**6), memory="ws_reload").to_frame().iloc[0]
    assert row["bound"] == "compute"
    assert "dram_cycles" not in row


def test_every_store_with_a_bandwidth_has_a_column_even_where_it_rests(make_counts: MakeCounts) -> None:
    levels = (Store("dram", bandwidth=1), Store("buffer", 10**6, bandwidth=1, holds=("partial_sums",)))
    row = takes(make_counts, layers("a", "b"), lanes(levels, keep=True), memory="state_only").to_frame().iloc[0]
    assert (row["dram_cycles"], row["buffer_cycles"]) == (0, 0)


def test_weights_loaded_once_come_before_the_steps_of_a_layer(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=2),)
    found = takes(make_counts, layers("a"), lanes(slow), memory="ws_once")
    assert found.cycles == WEIGHTS / 2 + STEPS * DENSE
    assert found.to_frame()["load_cycles"].tolist() == [WEIGHTS / 2]
    reloaded = takes(make_counts, layers("a"), lanes(slow), memory="ws_reload")
    assert reloaded.cycles == STEPS * (WEIGHTS + INPUTS) / 2
    assert reloaded.to_frame()["load_cycles"].tolist() == [0]


def test_a_layer_that_never_runs_loads_nothing_and_takes_no_time(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=1),)
    rows = layers("dead", active=False) + layers("a")
    for schedule in SCHEDULES:
        with_it, alone = (takes(make_counts, r, lanes(slow, schedule=schedule, sync=1)) for r in (rows, layers("a")))
        assert with_it.cycles == alone.cycles
        dead = with_it.to_frame().set_index("layer").loc["dead"]
        assert (dead["active_steps"], dead["load_cycles"], dead["cycles"]) == (0, 0, 0)
        assert dead["bound"] == "nothing to do"


def test_neurons_are_updated_in_the_shadow_of_operations(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=1),)
    rows = layers("a")
    state = [neuron("lif", t, neurons=500) for t in range(STEPS)]
    for schedule in SCHEDULES:
        assert takes(make_counts, rows + state, lanes(slow, schedule=schedule)).cycles == takes(
            make_counts, rows, lanes(slow, schedule=schedule)
        ).cycles  # fmt: skip


def test_layer_after_layer_takes_the_sum(make_counts: MakeCounts) -> None:
    rows = layers("a", steps=4) + layers("b", steps=2, positions=5)
    assert takes(make_counts, rows, lanes()).cycles == 4 * DENSE + 2 * 5 * DENSE


def test_step_after_step_waits_in_every_step_also_a_masked_one(make_counts: MakeCounts) -> None:
    rows = [operation(step=t, active=t == 0) for t in range(STEPS)]
    assert takes(make_counts, rows, lanes(schedule="step-serial", sync=7)).cycles == DENSE + STEPS * 7


def test_a_pipeline_fills_and_then_waits_for_its_slowest_layer(make_counts: MakeCounts) -> None:
    """12 + 60 + 24 to fill; a runs 3 more steps of 12, b one more of 60, c none: b is the slowest."""
    rows = layers("a", steps=4) + layers("b", steps=2, positions=5) + layers("c", steps=1, positions=2)
    found = takes(make_counts, rows, lanes(schedule="layer-pipelined", sync=9))
    assert found.cycles == (12 + 60 + 24) + 60 + 9


def test_a_pipeline_of_one_layer_gains_nothing(make_counts: MakeCounts) -> None:
    one = layers("a")
    serial, pipelined = (takes(make_counts, one, lanes(schedule=s)) for s in ("layer-serial", "layer-pipelined"))
    assert pipelined.cycles == serial.cycles == STEPS * DENSE


@pytest.mark.parametrize("count", [2, 3, 10])
def test_layers_alike_in_a_pipeline_take_their_number_and_the_steps_less_one(
    count: int, make_counts: MakeCounts
) -> None:
    rows = layers(*(f"l{i}" for i in range(count)))
    serial, pipelined = (takes(make_counts, rows, lanes(schedule=s)) for s in ("layer-serial", "layer-pipelined"))
    assert serial.cycles == count * STEPS * DENSE
    assert pipelined.cycles == (count + STEPS - 1) * DENSE


def test_a_pipeline_finishes_a_sample_whenever_its_busiest_layer_is_done(make_counts: MakeCounts) -> None:
    rows = layers("a") + layers("b", positions=2, steps=3)
    found = takes(make_counts, rows, lanes(schedule="layer-pipelined", clock_hz=1000))
    assert found.interval_cycles == 3 * 24
    assert found.samples_per_s == 1000 / 72 > 1 / found.seconds
    serial = takes(make_counts, rows, lanes(clock_hz=1000))
    assert serial.samples_per_s == pytest.approx(1 / serial.seconds)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_network_without_operations_takes_no_more_than_its_waiting(schedule: str, make_counts: MakeCounts) -> None:
    rows = [neuron(step=t) for t in range(STEPS)]
    found = takes(make_counts, rows, lanes(schedule=schedule))
    assert (found.cycles, found.interval_cycles, found.samples_per_s) == (0, 0, float("inf"))
    assert len(found.to_frame()) == 0
    assert skipping_savings(costs(make_counts, rows, lanes(schedule=schedule)))["time_ratio"].isna().all()


def test_cycles_are_per_sample(make_counts: MakeCounts) -> None:
    for zeros, ops in (("gate", DENSE), ("skip", SOPS)):
        rows = [operation(step=t, samples=5, input_nonzeros=10) for t in range(STEPS)]
        assert takes(make_counts, rows, lanes(zeros=zeros), samples=5).cycles == STEPS * ops


def test_a_faster_clock_takes_fewer_seconds_and_as_many_cycles(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=1),)
    one, ten = (takes(make_counts, layers("a"), lanes(slow, clock_hz=c)) for c in (100, 1000))
    assert one.cycles == ten.cycles
    assert one.seconds == pytest.approx(10 * ten.seconds)


def test_bandwidth_in_seconds_does_not_follow_the_clock(make_counts: MakeCounts) -> None:
    """96 bits of weights at 2 bytes a second: six seconds at any clock."""
    for clock in (100, 1000):
        document = lanes((Store("dram", bandwidth=1),), clock_hz=clock).document()
        document["memory"]["levels"]["dram"]["bandwidth"] |= {"value": 2, "unit": "B/s"}
        found = estimate_latency(make_counts([operation(step=0)]), HardwareProfile.model_validate(document))
        assert found.to_frame()["load_cycles"].tolist() == [6 * clock]


def test_another_schedule_or_treatment_of_zeros_can_be_asked_for(make_counts: MakeCounts) -> None:
    counts, profile = make_counts(layers("a", "b")), lanes(sync=5).profile()
    for schedule, zeros in itertools.product(SCHEDULES, ("none", "gate", "skip")):
        options = estimate_latency(counts, profile, schedule=schedule, zeros=zeros)  # type: ignore[arg-type]
        own = estimate_latency(counts, lanes(schedule=schedule, zeros=zeros, sync=5).profile())
        assert (options.cycles, options.schedule, options.zeros) == (own.cycles, schedule, zeros)


def test_layers_left_out_take_no_time(make_counts: MakeCounts) -> None:
    assert takes(make_counts, layers("a", "b"), lanes(), without=["b"]).cycles == STEPS * DENSE


def test_a_repeated_image_takes_its_time_once_where_it_is_encoded_once(make_counts: MakeCounts) -> None:
    rows = [operation(step=t, input_kind="real", input_repeated=t > 0) for t in range(STEPS)]
    assert takes(make_counts, rows, lanes()).cycles == STEPS * DENSE
    assert takes(make_counts, rows, lanes(), encoder="once").cycles == DENSE


# --- The timing of an array ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "cycles"),
    [(1, 1, 3 * 80), (1, 2, 2 * 80), (1, 3, 80), (3, 3, 26), (80, 3, 1), (81, 3, 0), (7, 2, 2 * 11)],
)
def test_an_array_takes_channels_by_columns_and_sums_by_rows(
    rows: int, columns: int, cycles: int, make_counts: MakeCounts
) -> None:
    """ceil(N/c) floor(K A M / r) with N = 3, K = 4, A = 4, M = 5: one floor over all steps of a layer."""
    assert takes(make_counts, layers("a", positions=5), array(rows, columns)).cycles == cycles


def test_only_steps_that_run_are_streamed_through_an_array(make_counts: MakeCounts) -> None:
    rows = [operation(step=t, active=t in (0, 3), positions=5) for t in range(STEPS)]
    assert takes(make_counts, rows, array(1, 3)).cycles == 4 * 2 * 5


def test_groups_take_an_array_one_after_another(make_counts: MakeCounts) -> None:
    rows = layers("a", out_channels=6, groups=3, weights=24)
    assert takes(make_counts, rows, array(1, 4)).cycles == 3 * 1 * 4 * STEPS
    assert takes(make_counts, rows, array(1, 1)).cycles == 3 * 2 * 4 * STEPS


def test_both_products_of_an_attention_share_one_floor(make_counts: MakeCounts) -> None:
    product = {"op": "matmul", "weights": 0, "other_kind": "binary", "other_max_k": 1, "other_elements": 4}
    rows = [operation(f"attn#matmul{i}", t, other_nonzeros=1, **product) for i in range(2) for t in range(STEPS)]
    found = takes(make_counts, rows, array(7, 1))
    assert found.cycles == 2 * STEPS * DENSE // 7 == 13
    assert STEPS * DENSE // 7 == 6
    assert found.to_frame()["layer"].tolist() == ["attn#products"]


def test_an_array_waits_for_a_store_that_is_slower(make_counts: MakeCounts) -> None:
    slow = (Store("dram", bandwidth=1),)
    found = takes(make_counts, layers("a"), array(4, 3, slow), memory="ws_once")
    assert found.cycles == WEIGHTS + STEPS * INPUTS
    assert found.to_frame()["bound"].tolist() == ["dram"]


def test_an_array_takes_a_cycle_for_a_zero(make_counts: MakeCounts) -> None:
    busy, quiet = (layers("a", input_nonzeros=n) for n in (4, 0))
    assert takes(make_counts, busy, array(1, 1)).cycles == takes(make_counts, quiet, array(1, 1)).cycles > 0


# --- Static energy ------------------------------------------------------------------------------------------------


def test_static_energy_is_power_times_time(make_counts: MakeCounts) -> None:
    device = dataclasses.replace(lanes((Store("dram", leakage_w=0.5),), clock_hz=1000), static_w=0.25)
    energy = costs(make_counts, layers("a"), device)
    assert energy.static_pj == pytest.approx(0.75 * STEPS * DENSE / 1000 * 1e12)
    assert energy.total_pj == pytest.approx(energy.compute_pj + energy.memory_pj + energy.static_pj)
    assert energy.edp_js == pytest.approx(energy.total_pj * 1e-12 * STEPS * DENSE / 1000)


def test_a_device_that_draws_nothing_idle_has_no_static_energy(make_counts: MakeCounts) -> None:
    energy = costs(make_counts, layers("a"), dataclasses.replace(lanes(), timing=None))
    assert (energy.static_pj, energy.edp_js, energy.latency) == (0, None, None)


def test_static_power_without_a_clock_is_listed_as_not_priced(make_counts: MakeCounts) -> None:
    energy = costs(make_counts, layers("a"), dataclasses.replace(lanes(), timing=None, static_w=0.5))
    assert energy.static_pj == 0
    assert energy.total_pj == energy.compute_pj + energy.memory_pj
    assert "static power (the profile has no latency)" in set(energy.unpriced()["what"])


def test_a_faster_device_draws_less_static_energy(make_counts: MakeCounts) -> None:
    few, many = (costs(make_counts, layers("a"), dataclasses.replace(lanes(lanes=k), static_w=1.0)) for k in (1, 4))
    assert many.static_pj == pytest.approx(few.static_pj / 4)
    assert many.compute_pj == few.compute_pj


# --- What skipping masked steps is worth --------------------------------------------------------------------------


def masked_pair() -> list[Row]:
    """a runs in steps 0 and 1 of 4, the second of which nobody reads; its neuron likewise."""
    rows = [operation("a", t, active=t < 2) | {"needed": t < 1} for t in range(STEPS)]
    return rows + [neuron("lif", t, t < 2, spikes=1) | {"needed": t < 1} for t in range(STEPS)]


def test_input_side_and_output_side_are_told_apart(make_counts: MakeCounts) -> None:
    table = skipping_savings(costs(make_counts, masked_pair(), lanes())).set_index("steps")
    assert table["cycles"].tolist() == [STEPS * DENSE, 2 * DENSE, DENSE]
    assert table["time_ratio"].tolist() == [1, 0.5, 0.25]
    state = 3 * (2 * 16 + 1)  # membranes read and written, spikes written
    energies = [
        3 * 2 * SOPS + WEIGHTS + STEPS * (INPUTS + state),
        3 * 2 * SOPS + WEIGHTS + 2 * (INPUTS + state),
        3 * SOPS + WEIGHTS + INPUTS + state,
    ]
    assert table["total_pj"].tolist() == energies
    assert table["energy_ratio"].tolist() == pytest.approx([e / energies[0] for e in energies])


def test_a_device_without_masks_works_on_zeros(make_counts: MakeCounts) -> None:
    """Masked steps cost no accumulate where zeros are gated, a cycle each where they are not skipped."""
    for zeros, cycles in (("none", STEPS * DENSE), ("gate", STEPS * DENSE), ("skip", 2 * SOPS)):
        energy = costs(make_counts, masked_pair(), lanes(zeros=zeros), memory="state_only")
        table = skipping_savings(energy)
        assert table["cycles"][0] == cycles
        arithmetic = table["total_pj"][0] - STEPS * 3 * 2 * 16
        assert arithmetic == 3 * (STEPS * DENSE if zeros == "none" else 2 * SOPS)


def test_a_network_without_masks_gains_nothing(make_counts: MakeCounts) -> None:
    rows = layers("a") + [neuron("lif", t) for t in range(STEPS)]
    table = skipping_savings(costs(make_counts, rows, lanes()))
    assert table["time_ratio"].tolist() == table["energy_ratio"].tolist() == [1, 1, 1]


def test_a_network_that_is_all_masked_runs_on_a_device_without_masks(make_counts: MakeCounts) -> None:
    rows = layers("a", active=False)
    table = skipping_savings(costs(make_counts, rows, lanes()))
    assert table["cycles"].tolist() == [STEPS * DENSE, 0, 0]
    assert table["total_pj"].tolist() == [WEIGHTS + STEPS * INPUTS, 0, 0]


def test_ratios_to_nothing_are_not_known(make_counts: MakeCounts) -> None:
    rows = layers("a", input_nonzeros=0)
    table = skipping_savings(costs(make_counts, rows, lanes(zeros="skip"), memory="state_only"))
    assert table[["time_ratio", "energy_ratio"]].isna().all(axis=None)


def test_without_a_latency_skipping_still_tells_energies(make_counts: MakeCounts) -> None:
    device = dataclasses.replace(lanes(), timing=None)
    table = skipping_savings(costs(make_counts, masked_pair(), device))
    assert table[["cycles", "latency_s", "time_ratio"]].isna().all(axis=None)
    assert table["energy_ratio"].is_monotonic_decreasing


# --- Bad input: one test each -------------------------------------------------------------------------------------


def test_a_device_has_at_least_one_lane(refused: Callable[..., str]) -> None:
    assert "must be a whole number, at least 1" in refused(lanes(), "latency.lanes.value", 0)


def test_a_clock_that_stands_still_is_refused(refused: Callable[..., str]) -> None:
    assert "must be more than 0" in refused(lanes(), "latency.clock.value", 0)


def test_lanes_are_used_at_most_in_full(refused: Callable[..., str]) -> None:
    assert "at most 1 (100 %), not 1.5 1" in refused(lanes(), "latency.utilisation.value", 1.5)


def test_a_clock_is_no_time(refused: Callable[..., str]) -> None:
    assert "unit 'ns' is not one of Hz" in refused(lanes(), "latency.clock.unit", "ns")


@pytest.mark.parametrize("key", ["schedule", "lanes", "utilisation", "sync"])
def test_lanes_take_a_schedule_and_the_rest(key: str, refused: Callable[..., str]) -> None:
    message = refused(lanes(), f"latency.{key}", at="latency")
    assert "is missing; timing 'lanes' needs schedule, lanes, utilisation, sync" in message


def test_an_unknown_schedule_is_refused_with_the_known_ones(refused: Callable[..., str]) -> None:
    message = refused(lanes(), "latency.schedule", "layer-parallel")
    assert all(schedule in message for schedule in SCHEDULES)


def test_an_array_has_a_schedule_of_its_own(refused: Callable[..., str]) -> None:
    assert "not used by timing 'array'; remove it" in refused(array(2, 2), "latency.schedule", "layer-serial")


def test_a_dense_array_skips_nothing(refused: Callable[..., str]) -> None:
    assert "skips nothing; choose none or gate" in refused(array(2, 2), "latency.zeros", "skip")


def test_the_timing_of_an_array_takes_an_array(refused: Callable[..., str]) -> None:
    device = dataclasses.replace(lanes(), timing=Timing("array"))
    assert "needs the section 'array' with rows and columns" in refused(device, "latency.zeros", "none", at="timing")


def test_a_device_without_a_clock_has_no_latency(make_counts: MakeCounts) -> None:
    device = dataclasses.replace(lanes(), timing=None)
    with pytest.raises(HardwareError, match="no section 'latency'"):
        takes(make_counts, layers("a"), device)
    with pytest.raises(HardwareError, match="no section 'latency'; add it"):
        takes(make_counts, layers("a"), device, schedule="step-serial")


@pytest.mark.parametrize("change", [{"schedule": "step-serial"}, {"zeros": "skip"}])
def test_an_array_is_not_asked_for_another_schedule(change: dict[str, Any], make_counts: MakeCounts) -> None:
    with pytest.raises(HardwareError, match="give a profile with timing 'lanes'"):
        takes(make_counts, layers("a"), array(2, 2), **change)
