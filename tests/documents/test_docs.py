"""The page "How a number comes about" says what the formulas, written out here once more, give."""

from __future__ import annotations

import math

import pages
import pytest

import snn_energy as se
from snn_energy.hardware.numbers import numbers
from snn_energy.pricing.energy import Energy, estimate, estimate_latency
from snn_energy.pricing.memory import accesses

ROOT = pages.ROOT
PAGE = pages.page("how-a-number-comes-about.md")
ROW = 12
ACTIVE = 3  # active steps of the page's layer, sps.conv1


def numbers_of(section: int) -> dict[str, list[str]]:
    """The rows of a section's tables: what -> cells."""
    text = PAGE.split(f"\n## {section}. ", 1)[1].split("\n## ", 1)[0]
    rows = [[c.strip().strip("*") for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in rows if cells[0] not in ("what", "---", "tensor")}


@pytest.fixture(scope="module")
def counts() -> se.Counts:
    return se.load_counts(ROOT / "reports" / "demo" / "dts-spikformer-2-64.json")


def test_the_counts_of_the_page_are_those_of_the_file(counts: se.Counts) -> None:
    row, page = counts.rows.iloc[ROW], numbers_of(1)
    assert (row["layer"], row["time_step"]) == ("sps.conv1", 0)
    assert page["samples"][0] == f"{counts.samples}"
    assert page["input elements"][0] == f"{row['input_elements']:,}"
    assert page["non-zero inputs"][0] == f"{row['input_nonzeros']:,}"
    assert page["M, K, N"][0] == f"{row['positions']}, {row['reduction']}, {row['out_channels']}"
    assert page["dense MACs"][0] == f"{row['positions'] * row['reduction'] * row['out_channels'] * 360:,}"
    assert page["SOPs"][0] == f"{row['sops']:,}"
    active = counts.rows[counts.rows["layer"] == "sps.conv1"]["active"]
    assert active.sum() == ACTIVE
    assert f"A = {ACTIVE} of {len(active)} steps" in PAGE


def test_the_flat_energy_of_the_page_follows_from_counts_and_profile(counts: se.Counts) -> None:
    row, page, n = counts.rows.iloc[ROW], numbers_of(2), numbers(se.load_hardware("dts-paper-fpga"))
    per_bit = n["memory.levels.sram_1mb.read"] / n["memory.levels.sram_1mb.read.width_bits"]
    parts = {
        "AC energy": n["compute.ac"] * row["sops"] / 360,
        "zero check": n["compute.zero_check"] * row["dense_macs"] / 360,
        "weights": row["weights"] * n["widths.weights"] * per_bit,
        "inputs": row["input_elements"] * per_bit,
        "outputs": 0.0,
    }
    for name, value in parts.items():
        assert page[name][0] == f"{value:,.1f} pJ"
    assert page["total"][0] == f"{sum(parts.values()):,.1f} pJ"
    energy = estimate(counts, "dts-paper-fpga").to_frame().iloc[ROW]
    assert energy["total_pj"] == pytest.approx(sum(parts.values()), rel=1e-12)


@pytest.fixture(scope="module")
def energy(counts: se.Counts) -> Energy:
    return estimate(counts, "eyeriss-relative")


def test_the_hierarchy_of_the_page_follows_from_counts_and_profile(counts: se.Counts, energy: Energy) -> None:
    row, page, n = counts.rows.iloc[ROW], numbers_of(3), numbers(energy.hardware)
    outputs, sops = row["positions"] * row["out_channels"], row["sops"] / 360
    for name, bits in (
        ("inputs", ACTIVE * row["input_elements"]),
        ("partial sums", outputs * 16),
        ("weights", row["weights"] * 16),
    ):
        assert page[name][0] == f"{bits:,}"
    assert f"{n['memory.levels.global_buffer.size']:,.0f} bits" in PAGE
    operations = row["reduction"] * outputs
    spills = (math.ceil(row["reduction"] / n["array.rows"]) - 1) * outputs
    fills = math.ceil(row["out_channels"] / n["array.columns"])
    expected = {
        "weights, DRAM read": ("memory.levels.dram.read", row["weights"]),
        "weights, buffer written": ("memory.levels.global_buffer.write", row["weights"]),
        "weights, buffer read": ("memory.levels.global_buffer.read", row["weights"]),
        "weights, register written": ("array.registers.write", row["weights"]),
        "weights, register read": ("array.registers.read", sops),
        "inputs, buffer read": ("memory.levels.global_buffer.read", row["input_elements"] * fills / 16),
        "inputs, to the next element": ("array.inter_pe", operations / 16),
        "partial sums, buffer written": ("memory.levels.global_buffer.write", spills),
        "partial sums, buffer read": ("memory.levels.global_buffer.read", spills),
        "partial sums, to the next element": ("array.inter_pe", operations),
    }
    total = 0.0
    for name, (key, words) in expected.items():
        assert page[name][0] == f"{words:,.1f}", name
        assert float(page[name][2]) == pytest.approx(n[key], rel=1e-12)
        assert page[name][3] == f"{words * n[key]:,.1f}", name
        total += words * n[key]
    compute = n["compute.ac"] * sops
    assert (page["memory"][3], page["compute"][3], page["total"][3]) == tuple(
        f"{value:,.1f}" for value in (total, compute, total + compute)
    )
    assert f"the accumulates are {100 * compute / (total + compute):.1f} % of the bill" in PAGE
    charged = energy.to_frame().iloc[ROW]
    assert charged["memory_pj"] == pytest.approx(total, rel=1e-12)
    assert charged["total_pj"] == pytest.approx(total + compute, rel=1e-12)
    moved = {(a.tensor, a.key): a.bits[ROW] for a in accesses(energy.work, energy.hardware, n, "psum_spill")}
    assert sum(1 for bits in moved.values() if bits) == len(expected)


def test_the_cycles_of_the_page_follow_from_counts_and_profile(counts: se.Counts, energy: Energy) -> None:
    row, page = counts.rows.iloc[ROW], numbers_of(4)
    operations, lanes = row["positions"] * row["reduction"] * row["out_channels"], 168
    assert page["operations"][0] == f"{operations:,}"
    assert page["cycles of the step"][0] == f"{operations / lanes:,.1f}"
    assert page["cycles of the layer"][0] == f"{ACTIVE * operations / lanes:,.1f}"
    assert page["time"][0] == f"{ACTIVE * operations / lanes / 200e6 * 1e6:.2f} µs"
    assert f"{row['sops'] / 360 / lanes:.1f} cycles" in PAGE
    assert energy.latency is not None
    layers = energy.latency.to_frame().set_index("layer")
    assert layers.loc["sps.conv1", "cycles"] == pytest.approx(ACTIVE * operations / lanes)
    skipped = estimate_latency(counts, "eyeriss-relative", zeros="skip").to_frame().set_index("layer")
    both = counts.rows[counts.rows["layer"] == "sps.conv1"]["sops"].sum() / 360 / lanes
    assert skipped.loc["sps.conv1", "cycles"] == pytest.approx(both)
