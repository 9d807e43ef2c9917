"""Sweeps, break-even, what matters and ranges: many designs at once say what one estimate at a time says."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierarchy_oracle as oracle
import numpy as np
import pandas as pd
import pytest

import snn_energy as se
from snn_energy.analysis.break_even import (
    _knobs,
    break_even,
    crossing,
    row_repeats,
    scaled_rate,
    scaled_steps,
    spikes_per_synapse,
    total_of,
)
from snn_energy.analysis.comparison import compare
from snn_energy.analysis.design_sweep import parse_field, sweep, sweepable
from snn_energy.analysis.uncertainty import energy_range, ratio_range, what_matters
from snn_energy.core.errors import SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.charged_work import charged_work
from snn_energy.pricing.energy import estimate
from snn_energy.pricing.policies import make_policies

Cli = Callable[..., tuple[int, str, str]]
MakeCounts = Callable[..., Counts]

ARRAY = """\
schema: 1
name: array
description: a device with every section
technology: none
sources:
  t: {citation: made up}
widths:
  weights: {value: 16, unit: bit, source: t, kind: assumed}
  activations: {value: 12, unit: bit, source: t, kind: assumed}
  membrane: {value: 20, unit: bit, source: t, kind: assumed}
  partial_sums: {value: 24, unit: bit, source: t, kind: assumed}
compute:
  mac: {value: 1.5, unit: pJ, width_bits: 16, source: t, kind: assumed, range: [1, 2]}
  ac: {value: 0.4, unit: pJ, width_bits: 16, source: t, kind: assumed, range: [0.4, 0.5]}
  neuron_update: {value: 2, unit: pJ, source: t, kind: assumed}
array:
  rows: {value: 14, unit: row, source: t, kind: assumed}
  columns: {value: 12, unit: column, source: t, kind: assumed}
  registers:
    read: {value: 1, unit: MAC, width_bits: 16, source: t, kind: assumed}
    write: {value: 1, unit: MAC, width_bits: 16, source: t, kind: assumed}
  inter_pe: {value: 2, unit: MAC, width_bits: 16, source: t, kind: assumed}
memory:
  levels:
    dram:
      read: {value: 200, unit: MAC, width_bits: 16, source: t, kind: assumed}
      write: {value: 200, unit: MAC, width_bits: 16, source: t, kind: assumed}
      bandwidth: {value: 8, unit: B/cycle, source: t, kind: assumed}
    buffer:
      size: {value: 16, unit: KiB, source: t, kind: assumed}
      read: {value: 6, unit: pJ, width_bits: 16, source: t, kind: assumed, range: [5, 9]}
      write: {value: 6, unit: pJ, width_bits: 16, source: t, kind: assumed}
      bandwidth: {value: 64, unit: B/cycle, source: t, kind: assumed}
      leakage: {value: 3, unit: mW, source: t, kind: assumed}
  keep: [inputs, partial_sums, membrane, weights, outputs]
  variant: VARIANT
  spike_coding: CODING
latency:
  timing: lanes
  clock: {value: 200, unit: MHz, source: t, kind: assumed}
  lanes: {value: 168, unit: lane, source: t, kind: assumed}
  utilisation: {value: 90, unit: "%", source: t, kind: assumed}
  sync: {value: 100, unit: cycle, source: t, kind: assumed}
  schedule: SCHEDULE
  zeros: skip
  lanes_over: out_channels
static_power: {value: 10, unit: mW, source: t, kind: assumed}
"""


def array_text(variant: str = "psum_spill", coding: str = "bitmap", schedule: str = "layer-serial") -> str:
    return ARRAY.replace("VARIANT", variant).replace("CODING", coding).replace("SCHEDULE", schedule)


@pytest.fixture
def array(tmp_path: Path) -> HardwareProfile:
    path = tmp_path / "array.yaml"
    path.write_text(array_text(), encoding="utf-8")
    return load_hardware(path)


@pytest.fixture
def dts(counted: Path) -> Counts:
    return se.load_counts(counted / "dts.json")


@pytest.fixture
def vit(counted: Path) -> Counts:
    return se.load_counts(counted / "vit.json")


# --- Sweeps say what estimate says -----------------------------------------------------------------------------

SWEPT = {  # field -> how its number is found in the text of the file, smallest and largest value, whole
    "compute.mac": (r"(mac: \{value: )[\d.]+(,)", 1.0, 2.0, False),
    "array.rows": (r"(rows: \{value: )\d+(,)", 1, 600, True),
    "latency.lanes": (r"(lanes: \{value: )\d+(,)", 1, 5000, True),
    "memory.levels.buffer.size": (r"(size: \{value: )\d+(,)", 0.5, 300.0, False),
    "widths.weights": (r"(weights: \{value: )\d+(,)", 1, 32, True),
    "memory.levels.dram.bandwidth": (r"(dram:(?:\n.*){2}\n\s+bandwidth: \{value: )\d+(,)", 0.1, 40.0, False),
    "memory.levels.buffer.read.width_bits": (r"(read: \{value: 6, unit: pJ, width_bits: )\d+(,)", 1, 256, True),
    "static_power": (r"(static_power: \{value: )\d+(,)", 0.0, 50.0, False),
}


def with_value(text: str, pattern: str, value: float) -> str:
    changed, times = re.subn(pattern, lambda m: f"{m[1]}{value!r}{m[2]}", text, count=1)
    assert times == 1, pattern
    return changed


@pytest.mark.parametrize("coding", ["bitmap", "address-event"])
@pytest.mark.parametrize("schedule", ["layer-serial", "step-serial", "layer-pipelined"])
@pytest.mark.parametrize(
    "variant", ["ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse"]
)
def test_every_point_of_a_sweep_is_an_estimate_with_the_file_edited(
    variant: str, schedule: str, coding: str, dts: Counts, vit: Counts, tmp_path: Path
) -> None:
    text = array_text(variant, coding, schedule)
    path = tmp_path / "device.yaml"
    path.write_text(text, encoding="utf-8")
    rng = np.random.default_rng(len(variant) + len(schedule) + len(coding))
    points = 3
    values: dict[str, Any] = {
        key: rng.integers(low, high, points) if whole else rng.uniform(low, high, points)
        for key, (_, low, high, whole) in SWEPT.items()
    }
    table = sweep({"dts": dts, "vit": vit}, path, values, combine=False)
    for number in range(points):
        edited = text
        for key, (pattern, *_) in SWEPT.items():
            edited = with_value(edited, pattern, values[key][number].item())
        edited = re.sub(r", range: \[[^\]]*\]", "", edited)
        path.write_text(edited, encoding="utf-8")
        for offset, counts in ((0, dts), (points, vit)):
            row, energy = table.iloc[offset + number], estimate(counts, path)
            assert energy.latency is not None
            assert row["compute_pj"] == pytest.approx(energy.compute_pj, rel=1e-12)
            assert row["memory_pj"] == pytest.approx(energy.memory_pj, rel=1e-12)
            assert row["static_pj"] == pytest.approx(energy.static_pj, rel=1e-12)
            assert row["total_pj"] == pytest.approx(energy.total_pj, rel=1e-12)
            assert row["latency_s"] == pytest.approx(energy.latency.seconds, rel=1e-12)
            assert row["edp_js"] == pytest.approx(energy.edp_js, rel=1e-12)


def test_a_hundred_points_of_a_large_grid_equal_estimates(dts: Counts, tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(array_text(), encoding="utf-8")
    rows, buffer_kib = np.arange(1, 101), np.linspace(1, 64, 64)
    table = sweep(dts, path, {"array.rows": rows, "memory.levels.buffer.size": buffer_kib, "compute.ac": [0.1, 0.4]})
    assert len(table) == 100 * 64 * 2
    drawn = np.random.default_rng(0).choice(len(table), 100, replace=False)
    for _, row in table.iloc[drawn].iterrows():
        text = re.sub(r", range: \[[^\]]*\]", "", array_text())
        text = with_value(text, SWEPT["array.rows"][0], int(row["array.rows (row)"]))
        text = with_value(text, SWEPT["memory.levels.buffer.size"][0], float(row["memory.levels.buffer.size (KiB)"]))
        path.write_text(with_value(text, r"(  ac: \{value: )[\d.]+(,)", float(row["compute.ac (pJ)"])))
        assert row["total_pj"] == pytest.approx(estimate(dts, path).total_pj, rel=1e-12)


def test_a_sweep_over_a_profile_with_placement_and_no_clock_has_energies_alone(dts: Counts) -> None:
    table = sweep(dts, "dts-paper-fpga", ["compute.mac=4.6,13.32"])
    assert list(table.columns) == ["model", "compute.mac (pJ)", "compute_pj", "memory_pj", "static_pj", "total_pj"]
    assert table["total_pj"].iloc[1] == pytest.approx(estimate(dts, "dts-paper-fpga").total_pj, rel=1e-12)


def test_every_combination_is_a_point_and_the_last_field_changes_fastest(dts: Counts, array: HardwareProfile) -> None:
    table = sweep(dts, array, ["compute.ac=1,2", "array.rows=4..8:3"])
    assert table["compute.ac (pJ)"].tolist() == [1, 1, 1, 2, 2, 2]
    assert table["array.rows (row)"].tolist() == [4, 6, 8, 4, 6, 8]


def test_policies_and_layers_left_out_reach_every_point(dts: Counts, array: HardwareProfile) -> None:
    options: dict[str, Any] = {"memory": "ws_once", "integer": "multi-ac", "without": ["head"]}
    row = sweep(dts, array, ["compute.ac=0.4"], **options).iloc[0]
    assert row["total_pj"] == pytest.approx(estimate(dts, array, **options).total_pj, rel=1e-12)


def test_a_point_at_which_a_tensor_fits_nowhere_is_not_a_number(dts: Counts, tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(
        array_text().replace("    dram:\n", "    dram:\n      size: {value: 1, unit: MiB, source: t, kind: assumed}\n")
    )
    table = sweep(dts, path, ["memory.levels.dram.size=1B,1MiB", "memory.levels.buffer.size=1B"])
    assert table["total_pj"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "values", "key"),
    [
        ("compute.ac=0.5,0.9", [0.5, 0.9], "compute.ac"),
        ("compute.ac=500fJ", [0.5], "compute.ac"),
        ("compute.ac=1pJ..3pJ:3", [1, 2, 3], "compute.ac"),
        ("array.rows=1..100:3:log", [1, 10, 100], "array.rows"),
        ("memory.levels.buffer.size=1MiB", [1024], "memory.levels.buffer.size"),
        ("latency.clock=0.1GHz", [100], "latency.clock"),
        ("compute.ac=1e-1", [0.1], "compute.ac"),
        ("static_power=1W", [1000], "static_power"),
    ],
)
def test_values_are_read_in_the_unit_of_the_file(
    text: str, values: list[float], key: str, array: HardwareProfile
) -> None:
    field = parse_field(text, array)
    assert field.key == key
    assert field.values.tolist() == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("compute.acc=1", "has no number 'compute.acc'; did you mean 'compute.ac'?"),
        ("memory.levels.dram.reed=1", "did you mean 'memory.levels.dram.read'?"),
        ("compute.ac=2..1:3", "reversed; write 1..2"),
        ("compute.ac=1..2", "LOW..HIGH:COUNT"),
        ("compute.ac=1..2:1", "COUNT >= 2"),
        ("compute.ac=0..2:4:log", "starts above 0"),
        ("compute.ac=1..2:4:cubic", "LOW..HIGH:COUNT:log"),
        ("compute.ac=1Hz", "'Hz' does not convert to pJ"),
        ("compute.ac=1PJ", "did you mean 'pJ'?"),
        ("compute.ac=1MAC", "'MAC' does not convert to pJ"),
        ("memory.levels.dram.bandwidth=1GB/s", "'GB/s' does not convert to B/cycle"),
        ("memory.levels.dram.read=1pJ", "'pJ' does not convert to MAC"),
        ("compute.ac=one", "cannot read 'one' as a number"),
        ("compute.ac", "cannot read '' as a number"),
        ("compute.ac=-1", "must be 0 or more, not -1"),
        ("compute.ac=inf", "finite"),
        ("compute.ac=nan", "finite"),
        ("array.rows=1.5", "whole numbers, at least 1, not 1.5"),
        ("array.rows=0", "whole numbers, at least 1, not 0"),
        ("latency.lanes=0", "whole numbers, at least 1"),
        ("widths.weights=0", "whole numbers, at least 1"),
        ("memory.levels.buffer.bandwidth=0", "more than 0"),
        ("latency.clock=0", "more than 0"),
        ("latency.utilisation=101", "at most 1"),
    ],
)
def test_a_bad_field_is_one_line_and_exit_code_1(
    text: str, words: str, array: HardwareProfile, counted: Path, tmp_path: Path, cli: Cli
) -> None:
    output = tmp_path / "points.csv"
    code, out, err = cli(
        "sweep", counted / "dts.json", "--hardware", tmp_path / "array.yaml", "--set", text, "-o", output
    )
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not output.exists()


def test_a_field_swept_twice_is_refused(dts: Counts, array: HardwareProfile) -> None:
    with pytest.raises(SnnEnergyError, match=r"compute\.ac: is swept twice"):
        sweep(dts, array, ["compute.ac=1", "compute.ac=2"])


def test_fields_of_unequal_length_do_not_go_together(dts: Counts, array: HardwareProfile) -> None:
    with pytest.raises(SnnEnergyError, match="same number of values"):
        sweep(dts, array, {"compute.ac": [1, 2], "compute.mac": [1, 2, 3]}, combine=False)


def test_too_many_points_are_refused_before_memory_is_taken(dts: Counts, array: HardwareProfile) -> None:
    with pytest.raises(SnnEnergyError, match="points are more than"):
        sweep(dts, array, ["compute.ac=1..2:100000", "compute.mac=1..2:100000"])


def test_the_command_writes_csv_and_parquet_that_say_the_same(
    counted: Path, array: HardwareProfile, tmp_path: Path, cli: Cli
) -> None:
    pytest.importorskip("pyarrow")
    arguments = ["sweep", counted / "dts.json", counted / "vit.json", "--hardware", tmp_path / "array.yaml",
                 "--set", "array.rows=4,16", "--set", "compute.ac=0.1..1:4:log"]  # fmt: skip
    for name in ("p.csv", "p.parquet"):
        code, out, err = cli(*arguments, "-o", tmp_path / name, "--plot", tmp_path / "p.png")
        assert (code, err) == (0, "")
        assert "16 points" in out
    csv, parquet = pd.read_csv(tmp_path / "p.csv"), pd.read_parquet(tmp_path / "p.parquet")
    assert csv["total_pj"].tolist() == parquet["total_pj"].tolist()
    assert csv["model"].tolist() == parquet["model"].astype(str).tolist()
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize(("option", "name"), [("-o", "points.txt"), ("--plot", "points.pdf")])
def test_an_unknown_suffix_is_refused_before_anything_is_written(
    option: str, name: str, counted: Path, array: HardwareProfile, tmp_path: Path, cli: Cli
) -> None:
    given = {"-o": tmp_path / "points.csv", "--plot": tmp_path / "points.png"} | {option: tmp_path / name}
    arguments = [x for pair in given.items() for x in pair]
    code, _, err = cli(
        "sweep", counted / "dts.json", "--hardware", tmp_path / "array.yaml", "--set", "compute.ac=1", *arguments
    )
    assert code == 1
    assert name in err
    assert not any((tmp_path / n).exists() for n in ("points.csv", "points.png", name))


def test_every_number_of_a_profile_can_be_swept(dts: Counts, array: HardwareProfile) -> None:
    known = sweepable(array)
    assert "memory.levels.buffer.read.width_bits" in known
    for key, number in known.items():
        value = 16 if number is None else number.value
        row = sweep(dts, array, {key: [value]}).iloc[0]
        assert row["total_pj"] == pytest.approx(estimate(dts, array).total_pj, rel=1e-12), key


# --- Break-even -------------------------------------------------------------------------------------------------


def pair(make_counts: MakeCounts) -> tuple[Counts, Counts]:
    """A spiking network of one layer (80 operations a step, 12 accumulates, 2 steps) and its ordinary twin."""
    layer = {"op": "linear", "dense_macs": 80, "sops": 12, "sops_gated": 12, "sops_multi": 12, "input_elements": 8,
             "reduction": 8, "out_channels": 10, "positions": 1, "groups": 1, "weights": 80}  # fmt: skip
    lif = {"layer": "lif", "op": "neuron", "input_kind": None, "max_k": None, "neurons": 10, "spikes": 2,
           "membrane_reads": 10, "membrane_writes": 10, "output_elements": 10}  # fmt: skip
    rows = [r | {"time_step": t} for t in range(2) for r in (layer, lif)]
    snn = make_counts(rows, time_steps=2, model="snn")
    ann = make_counts([layer | {"input_kind": "real", "max_k": None, "sops_multi": None}], time_steps=1, model="ann")
    return snn, ann


def test_break_even_by_hand(make_counts: MakeCounts, device: Callable[..., HardwareProfile]) -> None:
    free = {"zero": None, "spiking": None, "silent": None, "weights": 0, "inputs": 0, "outputs": 0,
            "membrane_read": 0, "membrane_write": 0}  # fmt: skip
    hardware = device(mac=10, ac=3, **free)
    found = break_even(*pair(make_counts), hardware).table.set_index("knob")
    assert found.loc["MAC over AC", "break_even"] == pytest.approx(3 * 12 * 2 / 80 / 3)  # mac = 0.9
    assert found.loc["MAC over AC", "snn_wins"] == "above"
    assert found.loc["time steps", "break_even"] == pytest.approx(800 / 36)
    assert found.loc["time steps", "snn_wins"] == "below"
    assert found.loc["spike rate", "snn_wins"] == "always"  # a spike of every neuron in every step costs 360 pJ
    assert found.loc["spike rate", "now"] == pytest.approx(0.2)


def test_the_spike_rate_at_which_a_network_stops_winning(
    make_counts: MakeCounts, device: Callable[..., HardwareProfile]
) -> None:
    free = {"zero": None, "spiking": None, "silent": None, "weights": 0, "inputs": 0, "outputs": 0,
            "membrane_read": 1, "membrane_write": 1}  # fmt: skip
    found = break_even(*pair(make_counts), device(mac=10, ac=3, **free)).table.set_index("knob")
    membrane = 16 * 10 * 2 * 2
    rate = (800 - membrane) / (3 * 12 * 2) * 0.2
    assert found.loc["spike rate", "break_even"] == pytest.approx(rate)
    assert "stops winning against ann above" in found.loc["spike rate", "sentence"]
    assert found.loc["memory price", "break_even"] == pytest.approx((800 - 72) / membrane)


def test_at_break_even_both_networks_cost_the_same(dts: Counts, vit: Counts, array: HardwareProfile) -> None:
    for knob in _knobs(dts, vit, array, make_policies(array), [(), ()]):
        factor = crossing(knob)
        if factor is not None:
            at = np.array([factor])
            assert knob.snn_pj(at)[0] == pytest.approx(knob.ann_pj(at)[0], rel=1e-9)


def test_turning_no_knob_changes_nothing(dts: Counts, vit: Counts, array: HardwareProfile) -> None:
    for knob in _knobs(dts, vit, array, make_policies(array), [(), ()]):
        assert knob.snn_pj(np.ones(1))[0] == pytest.approx(estimate(dts, array).total_pj, rel=1e-12)
        assert knob.ann_pj(np.ones(1))[0] == pytest.approx(estimate(vit, array).total_pj, rel=1e-12)


def test_twice_the_spikes_are_twice_the_accumulates_but_never_more_than_there_are_operations(
    make_counts: MakeCounts, device: Callable[..., HardwareProfile]
) -> None:
    snn, _ = pair(make_counts)
    hardware = device()
    policies = make_policies(hardware)
    work = charged_work(snn, hardware, policies)
    more = scaled_rate(work, snn, hardware, policies, np.array([2.0, 100.0]))
    assert more.acs.sum(-1).tolist() == [2 * 24, 2 * 80]
    assert more.spikes.sum(-1).tolist() == [2 * 4, 2 * 10]
    assert more.macs.sum() == work.macs.sum() == 0


def test_a_device_that_treats_zeros_like_any_number_has_no_break_even_in_the_spike_rate(
    dts: Counts, vit: Counts
) -> None:
    found = break_even(dts, vit, "npu-7nm-bf16").table.set_index("knob")
    assert found.loc["spike rate", "snn_wins"] == "never"
    assert np.isnan(found.loc["spike rate", "break_even"])


@pytest.mark.parametrize("seed", range(60))
def test_twice_the_steps_cost_what_a_network_with_every_step_twice_costs(seed: int, make_counts: MakeCounts) -> None:
    rng = random.Random(seed)
    rows, samples, steps = oracle.random_network(rng)
    device = oracle.random_device(rng, timed=seed % 3 > 0)
    policy = oracle.random_policy(rng, device, rows)
    shown_once = {row["layer"] for row in rows if row.get("input_repeated")}
    later = [
        row | {"time_step": row["time_step"] + steps, "input_repeated": row["layer"] in shown_once}
        for row in rows
        if row["time_step"] >= 0
    ]
    if policy.encoder == "once":  # what is encoded once is not encoded again
        later = [row | {"active": row["active"] and row["layer"] not in shown_once} for row in later]
        idle = ("dense_macs", "sops", "sops_gated", "sops_multi", "input_nonzeros", "other_nonzeros")
        for row in later:
            row |= {} if row["active"] else {k: 0 for k in idle if row.get(k) is not None}
            row |= {} if row["active"] else {k: 0 for k in ("spikes", "membrane_reads", "membrane_writes") if k in row}
    counts = make_counts(rows, samples=samples, time_steps=steps)
    twice = make_counts(rows + later, samples=samples, time_steps=2 * steps)
    hardware, options = device.profile(), policy.options()
    without = options.pop("without")
    policies = make_policies(hardware, **options)
    work = charged_work(counts, hardware, policies, without)
    again = row_repeats(counts, policies, np.array([2.0]))
    timed = (work, again, np.array([2.0 * steps]))
    found = total_of(scaled_steps(work, counts, again), counts, hardware, policies, timed)
    assert found[0] == pytest.approx(estimate(twice, hardware, without=without, **options).total_pj, rel=1e-9)


def test_spikes_per_synapse_by_hand(make_counts: MakeCounts) -> None:
    assert spikes_per_synapse(pair(make_counts)[0]) == pytest.approx(2 * 12 / 80)


def test_a_network_without_spikes_has_no_break_even(vit: Counts, dts: Counts) -> None:
    with pytest.raises(SnnEnergyError, match="has no spiking layers; give the spiking network first"):
        break_even(vit, dts, "dts-paper-fpga")


def test_the_command_says_a_sentence_per_knob_and_writes_the_figure(counted: Path, tmp_path: Path, cli: Cli) -> None:
    code, out, err = cli("break-even", counted / "dts.json", counted / "vit.json", "--hardware", "dts-paper-fpga",
                         "-o", tmp_path / "found")  # fmt: skip
    assert (code, err) == (0, "")
    for knob in ("spike rate", "time steps", "MAC over AC", "memory price", "spikes per synapse"):
        assert knob in out
    assert {p.name for p in (tmp_path / "found").iterdir()} == {
        "break-even.csv", "break-even.md", "break-even-curves.csv", "break-even.svg", "break-even.png",
    }  # fmt: skip


# --- What matters, ranges ----------------------------------------------------------------------------------------


def test_what_a_number_moves_is_what_the_total_loses_without_it(
    make_counts: MakeCounts, device: Callable[..., HardwareProfile]
) -> None:
    snn, _ = pair(make_counts)
    hardware = device()
    found = what_matters(estimate(snn, hardware)).set_index("number")["moves_pj"]
    assert found["compute.ac"] == pytest.approx(3 * 12 * 2)
    assert found["compute.zero_check"] == pytest.approx(0.5 * 80 * 2)
    assert found["widths.membrane"] == pytest.approx(16 * 10 * 2 * (100 + 200))
    assert found["memory.levels.of_weights.read"] == pytest.approx(80 * 8)
    assert "compute.mac" not in found.index


def test_prices_share_out_the_whole_total(dts: Counts) -> None:
    energy = estimate(dts, "dts-paper-fpga")
    found = what_matters(energy)
    prices = found[~found["number"].str.startswith("widths.")]
    assert prices["moves_pj"].sum() == pytest.approx(energy.total_pj, rel=1e-12)
    assert prices["elasticity"].sum() == pytest.approx(1, rel=1e-12)
    assert found["moves_pj"].is_monotonic_decreasing


def test_five_numbers_are_told_with_the_estimate(counted: Path, cli: Cli) -> None:
    _, out, _ = cli("estimate", counted / "dts.json", "--hardware", "dts-paper-fpga")
    assert "the five prices, powers and widths that move the total most" in out
    assert "memory.levels.sram_1mb.read" in out


def test_ranges_of_numbers_are_ranges_of_the_total(dts: Counts, tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(array_text(), encoding="utf-8")
    found = energy_range(estimate(dts, path)).set_index("number")
    assert list(found.index) == ["all", "compute.mac", "compute.ac", "memory.levels.buffer.read"]
    ends = {}
    for side in (0, 1):
        text = re.sub(r"value: [\d.]+(,[^{}]*?), range: \[(.*?), (.*?)\]", rf"value: \{side + 2}\1", array_text())
        path.write_text(text, encoding="utf-8")
        ends[side] = estimate(dts, path).total_pj
    assert found.loc["all", "low_pj"] == pytest.approx(ends[0], rel=1e-12)
    assert found.loc["all", "high_pj"] == pytest.approx(ends[1], rel=1e-12)
    assert (found["low_pj"] <= found["high_pj"]).all()


def test_a_profile_without_ranges_gives_none(dts: Counts, device: Callable[..., HardwareProfile]) -> None:
    assert energy_range(estimate(dts, device())).empty


def test_ranges_of_ratios_hold_every_ratio_within_the_ranges(dts: Counts, vit: Counts, tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(array_text(), encoding="utf-8")
    found = ratio_range(compare({"dts": dts, "vit": vit}, path, baseline="dts")).set_index("model")
    rng = np.random.default_rng(1)
    points = {
        "compute.mac": rng.uniform(1, 2, 50), "compute.ac": rng.uniform(0.4, 0.5, 50),
        "memory.levels.buffer.read": rng.uniform(5, 9, 50),
    }  # fmt: skip
    table = sweep({"dts": dts, "vit": vit}, path, points, combine=False)
    ratio = table["total_pj"].to_numpy()[50:] / table["total_pj"].to_numpy()[:50]
    assert (found.loc["vit", "te_low"] <= ratio + 1e-12).all()
    assert (ratio <= found.loc["vit", "te_high"] + 1e-12).all()
    assert found.loc["dts", "te_low"] == found.loc["dts", "te_high"] == 1


# --- Two profiles -------------------------------------------------------------------------------------------------


def test_two_profiles_are_compared_by_what_differs(counted: Path, cli: Cli) -> None:
    code, out, _ = cli(
        "estimate", counted / "dts.json", "--hardware", "dts-paper-fpga", "--against", "horowitz-45nm-fp32"
    )
    assert code == 0
    assert "times that on dts-paper-fpga" in out
    assert re.search(r"compute\s+mac\s+13\.32 pJ / 32 bit\s+4\.6 pJ / 32 bit\s+value, kind, citation", out)


def test_a_profile_does_not_differ_from_itself(cli: Cli) -> None:
    code, out, _ = cli("hardware", "diff", "dts-paper-fpga", "dts-paper-fpga")
    assert (code, out) == (0, "dts-paper-fpga and dts-paper-fpga do not differ\n")


# --- What is not known, and what must not be lost ------------------------------------------------------------------


def test_a_total_that_is_not_known_has_no_break_even(dts: Counts, counted: Path, cli: Cli) -> None:
    other = "published:energy-arithmetic:transformer-8-512"
    code, out, err = cli("break-even", counted / "dts.json", other, "--hardware", "horowitz-45nm-fp32")
    assert (code, out) == (1, "")
    assert "its total is unknown" in err
    with pytest.raises(SnnEnergyError, match="lack the neurons' spikes"):
        break_even(se.load_counts("published:spikformer-4-384-cifar"), dts, "horowitz-45nm-fp32")
    assert spikes_per_synapse(se.load_counts("published:spikformer-4-384-cifar")) is None


@pytest.mark.parametrize(("option", "value"), [("schedule", "layer_serial"), ("zeros", "skipp")])
def test_an_unknown_schedule_or_treatment_of_zeros_is_refused(option: str, value: str, dts: Counts) -> None:
    with pytest.raises(SnnEnergyError, match=rf"unknown {option} '{value}'; did you mean"):
        se.estimate_latency(dts, "eyeriss-relative", **{option: value})  # type: ignore[arg-type]


def test_no_output_overwrites_what_is_read(array: HardwareProfile, counted: Path, tmp_path: Path, cli: Cli) -> None:
    profile = tmp_path / "array.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("schema: 1\nsources: {a: {citation: b}}\n"
                   "networks: {n: {source: a, time_steps: 1, totals: {macs: 5, sops: 7}}}\n")  # fmt: skip
    side = counted / "dts.samples.npz"
    before = {path: path.read_bytes() for path in (profile, own, side)}
    for arguments in (
        ("estimate", counted / "dts.json", "--hardware", profile, "--csv", profile),
        ("estimate", counted / "dts.json", "--hardware", profile, "--csv", side),
        ("estimate", f"{own}:n", "--hardware", "horowitz-45nm-fp32", "--csv", own),
        ("compare", counted / "dts.json", "--hardware", profile, "--baseline", "dts", "--csv", profile),
        ("sweep", counted / "dts.json", "--hardware", profile, "--set", "compute.ac=1", "-o", side),
    ):  # fmt: skip
        code, _, err = cli(*arguments)
        assert code == 1, arguments
        assert err.startswith("error: ")
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_to_do_takes_no_time(counted: Path, cli: Cli) -> None:
    without = [x for name in ("sps", "blocks", "head") for x in ("--without", name)]
    for command in ("estimate", "latency"):
        code, out, err = cli(command, counted / "dts.json", "--hardware", "eyeriss-relative", *without)
        assert (code, err) == (0, "")
        assert "latency 0 ms" in out


def test_a_picture_that_cannot_be_written_leaves_no_points(counted: Path, tmp_path: Path, cli: Cli) -> None:
    points = tmp_path / "points.csv"
    code, _, err = cli("sweep", counted / "dts.json", "--hardware", "dts-paper-fpga", "--set", "compute.ac=1,2",
                       "-o", points, "--plot", tmp_path / "nowhere" / "p.png")  # fmt: skip
    assert code == 1
    assert "nowhere" in err
    assert not points.exists()


@pytest.mark.parametrize("fields", [["compute.ac=1..2:99999999999"], {"compute.ac": "much"}])
def test_impossible_values_are_refused_before_memory_is_taken(fields: Any, dts: Counts) -> None:
    with pytest.raises(SnnEnergyError, match=r"points|must be numbers"):
        sweep(dts, "dts-paper-fpga", fields)


def test_masked_steps_that_run_do_their_element_wise_work_too(dts: Counts) -> None:
    from snn_energy.counts.transforms import run_masked_steps

    rows = run_masked_steps(dts).rows
    per_layer = rows[rows["elementwise_ops"] > 0].groupby("layer")["elementwise_ops"].nunique()
    assert (per_layer == 1).all()
    assert rows.loc[rows["time_step"] >= 0, "active"].all()
