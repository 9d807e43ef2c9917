"""The bundled hardware profiles one by one: their figures against published ones, and one layer priced by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snn_energy import Counts, HardwareProfile, estimate, list_hardware, load_counts, load_hardware
from snn_energy.core.errors import HardwareError
from snn_energy.hardware.numbers import numbers
from snn_energy.hardware.quantities import quantities
from snn_energy.hardware.tables import describe, missing_prices, profile_notes

DEMO = Path(__file__).parents[2] / "reports" / "demo" / "dts-spikformer-2-64.json"
REAL_INPUTS = ("sps.conv0", "head")  # layers of the demo network that take MACs


@pytest.fixture(scope="module")
def demo() -> Counts:
    return load_counts(DEMO)


@pytest.fixture(scope="module")
def layer(make_counts: Callable[..., Counts]) -> Callable[..., Counts]:
    """One layer with its neurons, one sample and step: 16 positions, 18 inputs to a sum, 20 channels, 30 spikes."""

    def make(op: str = "conv", kind: str = "binary") -> Counts:
        row: dict[str, Any] = {
            "layer": "conv", "op": op, "positions": 16, "reduction": 18, "out_channels": 20, "groups": 1,
            "input_kind": kind, "input_elements": 32, "input_nonzeros": 10, "weights": 360, "output_elements": 320,
            "dense_macs": 5760, "sops": 1000, "sops_gated": 1000,
        }  # fmt: skip
        neuron = {
            "layer": "lif", "op": "neuron", "neurons": 320, "spikes": 30, "output_elements": 320,
            "membrane_reads": 320, "membrane_writes": 320,
        }  # fmt: skip
        return make_counts([row, neuron], time_steps=1)

    return make


# --- All of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_hardware())
def test_every_number_of_a_bundled_profile_cites_a_source_and_a_derived_one_says_how(name):
    profile = load_hardware(name)
    assert describe(profile)["citation"].str.len().gt(10).all()
    for path, number in quantities(profile):
        assert number.kind != "derived" or number.note, ".".join(path)


@pytest.mark.parametrize("name", list_hardware())
def test_what_a_bundled_profile_does_not_price_is_told_with_the_reason(name):
    profile = load_hardware(name)
    sentences = missing_prices(profile)
    for reason in (profile.not_priced.mac, profile.not_priced.ac, profile.not_priced.memory):
        assert reason is None or any(reason in sentence for sentence in sentences)


def mac_free(profile: HardwareProfile) -> tuple[str, ...]:
    return REAL_INPUTS if profile.compute.mac is None else ()


@pytest.mark.parametrize("name", list_hardware())
def test_a_bundled_profile_prices_the_demo_network(name, demo):
    profile = load_hardware(name)
    if profile.compute.ac is None and profile.compute.ac_conv is None:
        with pytest.raises(HardwareError, match="has no price for accumulates"):
            estimate(demo, profile, without=REAL_INPUTS)
        return
    energy = estimate(demo, profile, without=mac_free(profile))
    assert energy.total_pj > 0
    assert (profile.memory is None) == (energy.summary()["memory_pj"] is None)
    assert (profile.latency is None) == (energy.latency is None)


@pytest.mark.parametrize("name", list_hardware())
def test_a_device_without_macs_refuses_layers_with_real_inputs(name, demo):
    profile = load_hardware(name)
    if profile.compute.mac is None and profile.compute.ac is not None:
        with pytest.raises(HardwareError, match=r"no price for multiply-accumulates .*sps\.conv0"):
            estimate(demo, profile)


# --- Horowitz, 16 bits --------------------------------------------------------------------------------------


def test_the_fp16_mac_is_multiply_and_add_of_horowitz():
    n = numbers(load_hardware("horowitz-45nm-fp16"))
    assert n["compute.mac"] == 1.1 + 0.4
    assert n["compute.ac"] == 0.4


def test_the_int16_prices_lie_between_those_scaled_from_8_and_from_32_bits():
    compute = load_hardware("horowitz-45nm-int16").compute
    add_8, multiply_8, add_32, multiply_32 = 0.03, 0.2, 0.1, 3.1
    adds = (add_32 / 2, add_8 * 2)
    macs = (multiply_32 / 4 + adds[0], multiply_8 * 4 + adds[1])
    assert compute.ac.range == pytest.approx(adds)
    assert compute.mac.range == pytest.approx(macs)
    assert compute.ac.energy_pj == pytest.approx(sum(adds) / 2)
    assert compute.mac.energy_pj == pytest.approx(sum(macs) / 2)
    assert {compute.ac.kind, compute.mac.kind} == {"derived"}


def test_a_layer_in_fp16_by_hand(layer):
    energy = estimate(layer(), "horowitz-45nm-fp16")
    bits = 360 * 16 + 32 + 320 + 2 * 320 * 16  # weights, spikes in and out, membrane read and written
    assert energy.compute_pj == pytest.approx(1000 * 0.4)
    assert energy.memory_pj == pytest.approx(bits * 100 / 64)
    assert estimate(layer(kind="real"), "horowitz-45nm-fp16").compute_pj == pytest.approx(5760 * 1.5)


def test_a_layer_in_int16_by_hand(layer):
    energy = estimate(layer(), "horowitz-45nm-int16")
    bits = 360 * 16 + 32 + 320 + 2 * 320 * 32
    assert energy.compute_pj == pytest.approx(1000 * 0.055)
    assert energy.memory_pj == pytest.approx(bits * 100 / 64)
    assert estimate(layer(kind="real"), "horowitz-45nm-int16").compute_pj == pytest.approx(5760 * 0.8425)


# --- Loihi --------------------------------------------------------------------------------------------------


def test_loihi_before_silicon_has_the_prices_of_davies_2018():
    profile = load_hardware("loihi-presilicon")
    n = numbers(profile)
    prices = ("compute.ac", "compute.neuron_spiking", "compute.neuron_silent", "compute.spike")
    assert [n[key] for key in prices] == [23.6, 81, 52, 1.7]
    table = describe(profile)
    assert set(table[table["component"] == "compute"]["kind"]) == {"simulated"}
    assert profile.widths.weights.value == 9
    assert profile.widths.membrane.value == 24


def test_loihi_calibrated_has_the_prices_of_sana_fe():
    n = numbers(load_hardware("loihi-calibrated"))
    assert [n[f"compute.{key}"] for key in ("ac_linear", "ac", "ac_conv", "spike")] == [35.5, 33.6, 24.0, 69.3]
    assert n["compute.neuron_spiking"] == n["compute.neuron_silent"] == pytest.approx(51.2 + 21.6)


def test_a_silent_neuron_may_take_its_access_alone_in_sana_fe():
    compute = load_hardware("loihi-calibrated").compute
    assert compute.neuron_silent.range == (51.2, 72.8)
    assert compute.neuron_spiking.range is None


@pytest.mark.parametrize("name", ["loihi-presilicon", "loihi-calibrated"])
def test_loihi_prices_no_macs_and_no_memory_of_its_own_and_hops_are_a_matter_of_mapping(name):
    profile = load_hardware(name)
    assert profile.compute.mac is None
    assert profile.memory is None
    assert profile.latency is None  # asynchronous
    said = " ".join(missing_prices(profile))
    assert "MACs have no price: " in said
    assert "Memory accesses have no price: " in said
    [spike] = [note for note in profile_notes(profile) if note.startswith("compute.spike: ")]
    assert "mapping" in spike


def test_a_layer_on_loihi_before_silicon_by_hand(layer):
    energy = estimate(layer(), "loihi-presilicon")
    assert energy.compute_pj == pytest.approx(1000 * 23.6 + 30 * 81 + (320 - 30) * 52 + 30 * 1.7)
    assert energy.total_pj == energy.compute_pj


@pytest.mark.parametrize(("op", "synapse_pj"), [("conv", 24.0), ("linear", 35.5), ("matmul", 33.6)])
def test_a_layer_on_loihi_calibrated_by_hand(layer, op, synapse_pj):
    energy = estimate(layer(op), "loihi-calibrated")
    assert energy.compute_pj == pytest.approx(1000 * synapse_pj + 320 * 72.8 + 30 * 69.3)


# --- Eyeriss ------------------------------------------------------------------------------------------------


def test_eyeriss_has_the_relative_prices_of_sze_2017():
    profile = load_hardware("eyeriss-relative")
    n = numbers(profile)
    prices = ("array.registers.read", "array.inter_pe", "memory.levels.global_buffer.read", "memory.levels.dram.read")
    assert [n[key] / n["compute.mac"] for key in prices] == pytest.approx([1, 2, 6, 200])
    assert {n[f"{key}.width_bits"] for key in prices} == {16}
    assert (n["array.rows"], n["array.columns"], n["latency.lanes"]) == (12, 14, 168)
    assert n["memory.levels.global_buffer.size"] == 108 * 1024 * 8


def test_the_mac_of_eyeriss_is_an_assumed_anchor_from_the_int16_profile():
    eyeriss, int16 = load_hardware("eyeriss-relative").compute, load_hardware("horowitz-45nm-int16").compute
    assert eyeriss.mac.kind == eyeriss.ac.kind == "assumed"
    assert (eyeriss.mac.energy_pj, eyeriss.ac.energy_pj) == (int16.mac.energy_pj, int16.ac.energy_pj)
    assert (eyeriss.mac.range, eyeriss.ac.range) == (int16.mac.range, int16.ac.range)


def test_a_layer_on_eyeriss_by_hand(layer):
    energy = estimate(layer(), "eyeriss-relative")
    macs = {
        "weights_pj": 360 * (200 + 6 + 6) + 1000 + 360,  # DRAM, into the buffer, out of it; registers read and written
        # From DRAM into the buffer; 20 channels take 14 columns twice; one hop an operation, zeros too.
        "inputs_pj": 32 / 16 * (200 + 6) + 2 * 32 / 16 * 6 + 5760 / 16 * 2,
        "partial_sums_pj": 2 * 320 * 6 + 5760 * 2,  # 18 terms take 12 rows twice: spilt once; one hop an operation
        "membrane_pj": 2 * 320 * 6,
        "outputs_pj": 320 / 16 * 6,
    }
    for part, expected in macs.items():
        assert energy.charges[part].sum() == pytest.approx(expected * 0.8425), part
    assert energy.compute_pj == pytest.approx(1000 * 0.055)
    assert energy.total_pj == pytest.approx(sum(macs.values()) * 0.8425 + 1000 * 0.055)


def test_eyeriss_spends_cycles_on_zeros_but_no_energy(layer):
    latency = estimate(layer(), "eyeriss-relative").latency
    assert latency is not None
    assert latency.seconds == pytest.approx(5760 / 168 / 200e6)


# --- A dense accelerator ------------------------------------------------------------------------------------


def test_the_npu_has_the_prices_of_jouppi_2021():
    profile = load_hardware("npu-7nm-bf16")
    n = numbers(profile)
    assert n["compute.mac"] == pytest.approx(0.21 + 0.38)  # bf16 multiply, fp32 add
    assert [n[f"memory.levels.{level}.read"] for level in ("vmem", "cmem", "hbm")] == [8.5, 14, 350]
    assert profile.memory.levels["hbm"].read.range == (250, 450)
    assert n["memory.levels.hbm.bandwidth"] == 614e9 * 8


def test_the_npu_reaches_the_peak_of_the_paper():
    n = numbers(load_hardware("npu-7nm-bf16"))
    assert 2 * n["latency.lanes"] * n["latency.clock"] / 1e12 == pytest.approx(138, rel=0.005)


def test_a_spike_saves_the_npu_nothing(layer):
    profile = load_hardware("npu-7nm-bf16")
    assert profile.compute.ac.energy_pj == profile.compute.mac.energy_pj
    assert profile.latency.zeros == "none"
    spiking, real = (estimate(layer(kind=kind), profile) for kind in ("binary", "real"))
    assert spiking.compute_pj == real.compute_pj == pytest.approx(5760 * 0.59)
    assert "saves nothing" in profile.description


def test_a_layer_on_the_npu_by_hand(layer):
    energy = estimate(layer(), "npu-7nm-bf16")
    words = 360 * 16 / 64
    memory_pj = {
        "weights_pj": words * (350 + 2 * 14 + 2 * 8.5),  # HBM, into and out of CMEM and VMEM
        "inputs_pj": 32 * 16 / 64 * (350 + 2 * 14 + 2 * 8.5),  # the same way; a spike is a bf16 like any number
        "partial_sums_pj": 0,  # 18 terms fit 128 rows
        "membrane_pj": 2 * 320 * 32 / 64 * 8.5,
        "outputs_pj": 320 * 16 / 64 * 8.5,
    }
    for part, expected in memory_pj.items():
        assert energy.charges[part].sum() == pytest.approx(expected), part
    assert energy.total_pj == pytest.approx(sum(memory_pj.values()) + 5760 * 0.59)


def test_the_npu_waits_for_its_weights(layer):
    latency = estimate(layer(), "npu-7nm-bf16").latency
    assert latency is not None
    weights_s, inputs_s, compute_s = 360 * 16 / (614e9 * 8), 32 * 16 / (614e9 * 8), 5760 / 65536 / 1.05e9
    assert latency.seconds == pytest.approx(weights_s + max(inputs_s, compute_s))
    assert latency.to_frame()["bound"].tolist() == ["loading weights"]
