"""Energy by hand: what every count costs, what the policies and memory variants change, and that sums are sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snn_energy as se
from snn_energy.core.errors import SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.pricing.energy import COMPUTE, MEMORY, TOTALS, Energy, estimate

MakeCounts = Callable[..., Counts]
Device = Callable[..., HardwareProfile]
PER_BIT = 100 / 64  # pJ, the 1 MB SRAM of the bundled profiles


def charges(counts: Counts, device: Any, **policies: Any) -> dict[str, float]:
    frame = estimate(counts, device, **policies).to_frame()
    return {name: float(frame[name].sum()) for name in (*COMPUTE, *MEMORY, *TOTALS)}


# --- Real profiles of one layer, by hand ---------------------------------------------------------------------


def test_a_binary_image_costs_an_accumulate_for_every_tap_that_meets_a_weight() -> None:
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1  # a corner feeds 2x2 positions, an inner pixel 3x3; two channels each
    energy = estimate(se.profile(conv, [x], time_steps=1), "horowitz-45nm-fp32")
    assert energy.compute_pj == pytest.approx(0.9 * 2 * (4 + 9))
    weights, inputs, outputs = 18 * 32, 16 * 1, 32 * 32
    assert energy.memory_pj == pytest.approx(PER_BIT * (weights + inputs + outputs))


def test_a_real_image_costs_every_multiply_accumulate_zeros_and_padding_too() -> None:
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, :3] = torch.tensor([0.3, 0.7123, 1.9])
    found = charges(se.profile(conv, [x], time_steps=1), "horowitz-45nm-fp32")
    assert found["mac_pj"] == pytest.approx(4.6 * 16 * 9 * 2)
    assert found["ac_pj"] == 0
    assert found["inputs_pj"] == pytest.approx(PER_BIT * 16 * 32)


def test_spikes_into_a_linear_layer_cost_what_the_dts_paper_charges() -> None:
    layer = nn.Linear(4, 5, bias=False)
    found = charges(se.profile(layer, [torch.tensor([[1.0, 0, 1, 1]])], time_steps=1), "dts-paper-fpga")
    assert found["ac_pj"] == pytest.approx(1.8 * 3 * 5)
    assert found["zero_check_pj"] == pytest.approx(0.05 * 20)
    assert found["mac_pj"] == 0


def test_energy_is_per_sample() -> None:
    layer = nn.Linear(4, 5, bias=False)
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 1]])
    energy = estimate(se.profile(layer, [x], time_steps=1), "horowitz-45nm-fp32")
    assert energy.compute_pj == pytest.approx(0.9 * 5 * (3 + 1) / 2)
    assert energy.per_sample()["compute_pj"].tolist() == pytest.approx([0.9 * 15, 0.9 * 5])
    assert energy.memory_pj == pytest.approx(PER_BIT * (20 * 32 + 4 * 1 + 5 * 32))


# --- Hand-made rows -----------------------------------------------------------------------------------------

OPERATION = {"op": "linear", "dense_macs": 80, "sops": 12, "sops_gated": 12, "sops_multi": 12, "input_elements": 8}


@pytest.mark.parametrize("kind", ["binary", "ternary"])
@pytest.mark.parametrize("integer", ["ac", "multi-ac", "mac", "mac-dense"])
def test_spikes_are_accumulates_under_every_integer_policy(
    kind: str, integer: str, make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts([OPERATION | {"input_kind": kind, "sops_multi": 99}], samples=2)
    found = charges(counts, device(), integer=integer)
    assert (found["ac_pj"], found["mac_pj"]) == (3 * 12 / 2, 0)
    assert found["zero_check_pj"] == 0.5 * 80 / 2


@pytest.mark.parametrize(
    ("integer", "ac_pj", "mac_pj"),
    [("ac", 3 * 12, 0), ("multi-ac", 3 * 30, 0), ("mac", 0, 10 * 12), ("mac-dense", 0, 10 * 80)],
)
def test_sums_of_spikes_cost_what_the_policy_says(
    integer: str, ac_pj: float, mac_pj: float, make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts([OPERATION | {"input_kind": "integer", "max_k": 4, "sops_multi": 30}])
    found = charges(counts, device(), integer=integer)
    assert (found["ac_pj"], found["mac_pj"]) == (ac_pj, mac_pj)


def test_real_inputs_pay_no_zero_check_and_no_policy_moves_them(make_counts: MakeCounts, device: Device) -> None:
    counts = make_counts([OPERATION | {"input_kind": "real", "max_k": None, "sops_multi": None}])
    for policy in ("ac", "multi-ac", "mac", "mac-dense"):
        found = charges(counts, device(), integer=policy)
        assert (found["mac_pj"], found["ac_pj"], found["zero_check_pj"]) == (800, 0, 0)


def test_products_are_charged_by_coincidence_or_by_the_streamed_operand(
    make_counts: MakeCounts, device: Device
) -> None:
    product = OPERATION | {"op": "matmul", "sops": 12, "sops_gated": 40, "other_kind": "real", "other_elements": 8}
    assert charges(make_counts([product]), device())["ac_pj"] == 3 * 12
    assert charges(make_counts([product]), device(), products="gated")["ac_pj"] == 3 * 40
    found = charges(
        make_counts([product | {"input_kind": "integer", "max_k": 3}]), device(), products="gated", integer="mac"
    )
    assert (found["ac_pj"], found["mac_pj"]) == (0, 10 * 40)


def test_a_zero_check_is_paid_per_operation_or_per_element(make_counts: MakeCounts, device: Device) -> None:
    counts = make_counts([OPERATION], samples=4)
    assert charges(counts, device())["zero_check_pj"] == 0.5 * 80 / 4
    assert charges(counts, device(per="element"))["zero_check_pj"] == 0.5 * 8
    assert charges(counts, device(zero=None))["zero_check_pj"] == 0


def test_a_repeated_image_is_encoded_once_where_the_policy_says(make_counts: MakeCounts, device: Device) -> None:
    first = OPERATION | {"input_kind": "real", "max_k": None, "weights": 10}
    counts = make_counts([first, first | {"time_step": 1, "input_repeated": True}])
    steps, once = (
        charges(counts, device(), memory="ws_reload"),
        charges(counts, device(), memory="ws_reload", encoder="once"),
    )
    for part in ("mac_pj", "weights_pj", "inputs_pj"):
        assert steps[part] == 2 * once[part] > 0


def neuron(time_step: int, active: bool = True, spikes: int = 0, samples: int = 1, neurons: int = 10) -> dict[str, Any]:
    state = neurons * samples * active
    return {
        "layer": "lif", "op": "neuron", "time_step": time_step, "active": active, "input_kind": None, "max_k": None,
        "input_elements": None, "input_nonzeros": None, "sops_multi": None, "neurons": neurons,
        "output_elements": neurons, "spikes": spikes, "membrane_reads": state, "membrane_writes": state,
    }  # fmt: skip


def test_spiking_and_silent_neurons_have_prices_apart(make_counts: MakeCounts, device: Device) -> None:
    counts = make_counts([neuron(0, spikes=6, samples=2), neuron(1, active=False, samples=2)], samples=2, time_steps=2)
    assert charges(counts, device())["neuron_pj"] == 3 * 7 + 7 * 2
    assert charges(counts, device(spiking=None, silent=None))["neuron_pj"] == 0


@pytest.mark.parametrize(("active_steps", "kept"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3)])
def test_the_first_read_and_the_last_write_of_a_membrane_can_be_saved(
    active_steps: int, kept: int, make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts([neuron(t, active=t < active_steps) for t in range(4)])
    bits = 10 * 16
    assert charges(counts, device())["membrane_pj"] == pytest.approx(active_steps * bits * (100 + 200))
    assert charges(counts, device(drop="true"))["membrane_pj"] == pytest.approx(kept * bits * (100 + 200))


def test_the_saved_read_and_write_belong_to_the_first_and_last_active_step(
    make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts([neuron(t, active=t in (1, 2)) for t in range(4)])
    frame = estimate(counts, device(drop="true")).to_frame("time_step").set_index("time_step")
    assert frame["membrane_pj"].tolist() == pytest.approx([0, 160 * 200, 160 * 100, 0])


def test_a_spiking_layer_writes_one_bit_per_neuron_in_every_active_step(
    make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts([neuron(t, active=t < 3, samples=5) for t in range(4)], samples=5)
    assert charges(counts, device())["outputs_pj"] == pytest.approx(3 * 10 * 1000)


def test_outputs_that_no_spiking_layer_takes_up_are_written_in_full(make_counts: MakeCounts, device: Device) -> None:
    layer = OPERATION | {"output_elements": 7}
    assert charges(make_counts([layer | {"feeds_neuron": True}]), device())["outputs_pj"] == 0
    assert charges(make_counts([layer | {"feeds_neuron": False}]), device())["outputs_pj"] == pytest.approx(
        7 * 6 * 1000
    )


def test_weights_are_read_once_or_in_every_active_step(make_counts: MakeCounts, device: Device) -> None:
    steps = [
        OPERATION
        | {"weights": 100, "time_step": t, "active": a}
        | ({} if a else dict.fromkeys(("dense_macs", "sops"), 0))
        for t, a in enumerate((False, True, True, True))
    ]
    counts = make_counts(steps)
    assert charges(counts, device(), memory="ws_once")["weights_pj"] == pytest.approx(800)
    assert charges(counts, device(), memory="ws_reload")["weights_pj"] == pytest.approx(2400)
    frame = estimate(counts, device()).to_frame()
    assert frame["weights_pj"].tolist() == pytest.approx([0, 800, 0, 0])


@pytest.mark.parametrize(
    ("kind", "max_k", "bits"),
    [("binary", 1, 1), ("ternary", 1, 2), ("integer", 2, 2), ("integer", 3, 2), ("integer", 4, 3), ("integer", 7, 3),
     ("integer", 8, 4), ("real", None, 6)],
)  # fmt: skip
def test_inputs_take_the_bits_of_their_kind(
    kind: str, max_k: int | None, bits: int, make_counts: MakeCounts, device: Device
) -> None:
    counts = make_counts(
        [OPERATION | {"input_kind": kind, "max_k": max_k, "time_step": t} for t in range(2)], samples=3
    )
    assert charges(counts, device())["inputs_pj"] == pytest.approx(2 * 8 * bits * 10)


def test_a_product_reads_both_operands_and_no_weights(make_counts: MakeCounts, device: Device) -> None:
    other = {"other_kind": "integer", "other_max_k": 5, "other_elements": 4}
    found = charges(make_counts([OPERATION | {"op": "matmul"} | other]), device())
    assert found["inputs_pj"] == pytest.approx(10 * (8 * 1 + 4 * 3))
    assert found["weights_pj"] == 0


def test_state_only_is_the_membrane_alone(make_counts: MakeCounts, device: Device) -> None:
    counts = make_counts([OPERATION | {"weights": 5, "feeds_neuron": False, "output_elements": 3}, neuron(0)])
    full, state = charges(counts, device()), charges(counts, device(), memory="state_only")
    assert state["membrane_pj"] == full["membrane_pj"] == state["memory_pj"] > 0
    assert full["memory_pj"] > state["memory_pj"]
    assert full["compute_pj"] == state["compute_pj"]


def test_elementwise_work_is_charged_where_it_has_a_price_and_listed_where_it_has_none(
    make_counts: MakeCounts, device: Device
) -> None:
    add = neuron(0) | {"layer": "add", "op": "add", "neurons": 0, "elementwise_ops": 30}
    add |= {"membrane_reads": 0, "membrane_writes": 0}
    counts = make_counts([add, add | {"layer": "pool", "op": "pool", "elementwise_ops": 12}], samples=2)
    energy = estimate(counts, device())
    assert energy.compute_pj == energy.charges["elementwise_pj"].sum() == 5 * 15
    assert energy.unpriced()[["op", "amount"]].to_dict("records") == [{"op": "pool", "amount": 6.0}]
    assert set(estimate(counts, device(add=None)).unpriced()["op"]) == {"add", "pool"}


def test_neuron_updates_without_a_price_are_listed(make_counts: MakeCounts, device: Device) -> None:
    counts = make_counts([neuron(0, samples=2), neuron(1, samples=2, active=False)], samples=2)
    unpriced = estimate(counts, device(spiking=None, silent=None)).unpriced()
    assert unpriced[["op", "amount"]].to_dict("records") == [{"op": "neuron", "amount": 10.0}]
    assert len(estimate(counts, device()).unpriced()) == 0


# --- Properties ---------------------------------------------------------------------------------------------


@pytest.fixture
def network(counted: Path) -> Counts:
    return se.load_counts(counted / "dts.json")


def test_parts_add_up_to_totals(network: Counts, device: Device) -> None:
    energy = estimate(network, device())
    frame = energy.to_frame()
    assert np.allclose(frame[list(COMPUTE)].sum(axis=1), frame["compute_pj"], rtol=1e-12)
    assert np.allclose(frame[list(MEMORY)].sum(axis=1), frame["memory_pj"], rtol=1e-12)
    assert energy.total_pj == pytest.approx(energy.compute_pj + energy.memory_pj, rel=1e-12)
    assert energy.total_pj == pytest.approx(frame["total_pj"].sum(), rel=1e-12)
    assert (frame[[*COMPUTE, *MEMORY]].fillna(0).to_numpy() >= 0).all()
    assert not frame.drop(columns="elementwise_pj").isna().to_numpy().any()


@pytest.mark.parametrize("level", ["layer", "group", "time_step"])
def test_every_level_sums_to_the_same_total(level: Any, network: Counts, device: Device) -> None:
    energy = estimate(network, device())
    table = energy.to_frame(level)
    for part in (*COMPUTE, *MEMORY, *TOTALS):
        assert table[part].sum() == pytest.approx(energy.charges[part].sum(), rel=1e-12)
    assert table[level].is_unique


@pytest.mark.parametrize(
    ("price", "part", "cost"),
    [("mac", "mac_pj", 10), ("ac", "ac_pj", 3), ("zero", "zero_check_pj", 0.5), ("add", "elementwise_pj", 5),
     ("weights", "weights_pj", 1), ("inputs", "inputs_pj", 10), ("outputs", "outputs_pj", 1000)],
)  # fmt: skip
def test_doubling_a_price_doubles_its_part_and_no_other(
    price: str, part: str, cost: float, network: Counts, device: Device
) -> None:
    once, twice = charges(network, device()), charges(network, device(**{price: 2 * cost}))
    for name in (*COMPUTE, *MEMORY):
        assert twice[name] == pytest.approx(once[name] * (2 if name == part else 1), rel=1e-12)
    assert once[part] > 0


def test_neuron_and_membrane_prices_add_linearly(network: Counts, device: Device) -> None:
    neurons = network.rows[network.rows["op"] == "neuron"]
    spikes = float(neurons["spikes"].sum()) / network.samples
    updates = float((neurons["neurons"] * neurons["active"]).sum())
    base = charges(network, device())
    assert charges(network, device(spiking=8))["neuron_pj"] - base["neuron_pj"] == pytest.approx(spikes)
    assert charges(network, device(silent=3))["neuron_pj"] - base["neuron_pj"] == pytest.approx(updates - spikes)
    for price in ("membrane_read", "membrane_write"):
        more = charges(network, device(**{price: (100 if price == "membrane_read" else 200) + 1}))
        assert more["membrane_pj"] - base["membrane_pj"] == pytest.approx(16 * updates, rel=1e-6)


def test_masked_steps_cost_nothing(network: Counts, device: Device) -> None:
    for policies in ({}, {"memory": "ws_reload"}, {"integer": "mac-dense", "products": "gated"}):
        frame = estimate(network, device(), **policies).to_frame()
        masked = frame[~network.rows["active"].to_numpy()]
        assert len(masked) > 10
        assert (masked[list(TOTALS)].to_numpy() == 0).all()


def spiking_net(t_l: int, time_steps: int = 4) -> nn.Module:
    lif = DTSS(time_steps, v_th=0.5)
    with torch.no_grad():
        lif.tp.zero_()
        if t_l:
            lif.tp[t_l - 1] = 1.5
    assert lif.active_steps() == t_l
    first, last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        first.weight.fill_(1.0)
        last.weight.fill_(1.0)
    return nn.Sequential(first, lif, last)


def test_a_layer_without_an_active_step_costs_nothing_and_neither_does_what_hangs_on_it(device: Device) -> None:
    x = (torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    counts = se.profile(spiking_net(0), [x], time_steps=4, time="axis0")
    layers = estimate(counts, device(), memory="ws_reload").to_frame("layer").set_index("layer")["total_pj"]
    assert layers["1"] == 0
    assert layers["2"] == 0
    alive = estimate(se.profile(spiking_net(1), [x], time_steps=4, time="axis0"), device())
    assert (alive.to_frame("layer").set_index("layer")["total_pj"] > 0).all()


@pytest.mark.parametrize("sizes", [(1,) * 6, (5, 1), (2, 4)])
def test_energy_does_not_depend_on_how_samples_are_batched(sizes: tuple[int, ...], device: Device) -> None:
    x = (torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    net = spiking_net(2)
    whole = estimate(se.profile(net, [x], time_steps=4, time="axis0"), device())
    parts = estimate(se.profile(net, list(x.split(sizes, dim=1)), time_steps=4, time="axis0"), device())
    pd.testing.assert_frame_equal(whole.to_frame(), parts.to_frame())
    pd.testing.assert_frame_equal(whole.per_sample(), parts.per_sample())


@pytest.mark.parametrize("policies", [{}, {"integer": "multi-ac", "products": "gated"}, {"integer": "mac"}])
def test_the_mean_over_samples_is_the_estimate(policies: dict[str, Any], network: Counts, device: Device) -> None:
    energy = estimate(network, device(), **policies)
    table = energy.per_sample()
    for name in TOTALS:
        assert table[name].mean() == pytest.approx(getattr(energy, name), rel=1e-12)
    spread = energy.spread()
    assert spread["min_pj"] < spread["mean_pj"] < spread["max_pj"]
    assert spread["std_pj"] == pytest.approx(np.std(table["total_pj"]))


def test_each_sample_costs_what_it_costs_alone(device: Device) -> None:
    x = (torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    net, hardware = spiking_net(3), device()
    together = estimate(se.profile(net, [x], time_steps=4, time="axis0"), hardware).per_sample()["total_pj"]
    alone = [estimate(se.profile(net, [x[:, i : i + 1]], time_steps=4, time="axis0"), hardware) for i in range(5)]
    assert len({e.total_pj for e in alone}) > 1
    assert together.tolist() == pytest.approx([e.total_pj for e in alone], rel=1e-12)


def test_per_sample_energy_needs_per_sample_counts(network: Counts, device: Device) -> None:
    without = Counts(network.header, network.rows, None)
    with pytest.raises(SnnEnergyError, match="profile the network again"):
        estimate(without, device()).per_sample()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_energy_of_any_rows_is_counts_times_costs(data: st.DataObject, make_counts: MakeCounts) -> None:
    samples = data.draw(st.integers(1, 4))
    rows, mac, ac = [], 0, 0
    for i in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["binary", "ternary", "integer", "real"]))
        active = data.draw(st.booleans())
        dense = data.draw(st.integers(0, 10**12)) * active
        sops = data.draw(st.integers(0, dense))
        mac += dense if kind == "real" else 0
        ac += sops if kind != "real" else 0
        max_k = None if kind == "real" else 1
        work = {"dense_macs": dense, "sops": sops, "sops_gated": sops, "sops_multi": None if kind == "real" else sops}
        rows.append({"layer": f"l{i}", "op": "conv", "active": active, "input_kind": kind, "max_k": max_k} | work)
    energy = estimate(make_counts(rows, samples=samples), HOROWITZ)
    assert energy.compute_pj == pytest.approx((4.6 * mac + 0.9 * ac) / samples, rel=1e-12)


HOROWITZ = load_hardware("horowitz-45nm-fp32")


# --- Policies and comparison --------------------------------------------------------------------------------


def test_a_result_says_which_policies_it_used_and_what_the_others_would_give(network: Counts, device: Device) -> None:
    hardware = device()
    energy = estimate(network, hardware, integer="mac", memory="ws_reload")
    table = energy.alternatives()
    used = table[table["used"]]
    assert used.set_index("policy")["choice"].to_dict() == {
        "memory": "ws_reload", "integer": "mac", "products": "coincidence", "encoder": "per-step",
    }  # fmt: skip
    assert (used["total_pj"] == energy.total_pj).all()
    other = table[(table["policy"] == "integer") & (table["choice"] == "mac-dense")].iloc[0]
    assert other["total_pj"] == estimate(network, hardware, integer="mac-dense", memory="ws_reload").total_pj
    assert energy.summary()["integer"] == "mac"


@pytest.mark.parametrize(
    ("policy", "choice", "said"),
    [("integer", "multiac", "multi-ac"), ("products", "gate", "gated"), ("encoder", "twice", "once"),
     ("memory", "ws_onc", "ws_once"), ("memory", "psum_spill", "array")],
)  # fmt: skip
def test_an_unknown_policy_is_refused_with_the_known_ones(policy: str, choice: str, said: str, network: Counts) -> None:
    with pytest.raises(SnnEnergyError, match=said):
        estimate(network, HOROWITZ, **{policy: choice})


def test_a_comparison_divides_by_the_baseline_each_on_its_own(make_counts: MakeCounts, device: Device) -> None:
    small = make_counts([OPERATION | {"weights": 10}])
    large = make_counts([OPERATION | {"weights": 30, "sops": 24, "sops_gated": 24}])
    hardware = device(zero=None)
    frame = se.compare({"small": small, "large": large}, hardware, baseline="small").to_frame().set_index("model")
    assert frame.loc["small", ["ce", "me", "te"]].tolist() == [1, 1, 1]
    # compute 36 and 72; weights 80 and 240 pJ, inputs 8 bits of 10 pJ each
    assert frame.loc["large", ["ce", "me", "te"]].tolist() == pytest.approx([2, 320 / 160, 392 / 196])
    frame = se.compare({"small": small, "large": large}, device(), baseline="large").to_frame().set_index("model")
    assert frame.loc["small", "te"] == pytest.approx((36 + 40 + 160) / (72 + 40 + 320))
    assert frame["is_baseline"].tolist() == [False, True]


def test_a_ratio_over_a_baseline_of_nothing_is_not_known(make_counts: MakeCounts, device: Device) -> None:
    idle = make_counts([OPERATION | dict.fromkeys(("dense_macs", "sops", "sops_gated", "sops_multi"), 0)])
    busy = make_counts([OPERATION])
    frame = se.compare({"idle": idle, "busy": busy}, device(), baseline="idle").to_frame()
    assert frame["ce"].isna().all()
    assert frame["me"].tolist() == [1, 1]


def test_the_memory_range_of_a_comparison_is_the_estimate_under_every_variant(counted: Path) -> None:
    named = {stem: se.load_counts(counted / f"{stem}.json") for stem in ("vit", "dts")}
    comparison = se.compare(named, HOROWITZ, baseline="dts", integer="mac")
    table = comparison.memory_range()
    assert len(table) == 2 * 3
    for row in table.itertuples():
        expected: Energy = estimate(named[row.model], HOROWITZ, memory=row.memory, integer="mac")
        base = estimate(named["dts"], HOROWITZ, memory=row.memory, integer="mac")
        assert row.memory_pj == expected.memory_pj
        assert row.te == pytest.approx(expected.total_pj / base.total_pj)


def test_networks_that_share_a_name_are_told_apart_by_their_files(make_counts: MakeCounts, device: Device) -> None:
    a, b = make_counts([OPERATION], file="a"), make_counts([OPERATION], file="b")
    comparison = se.compare([a, b], device(), baseline="b.json")
    assert list(comparison.energies) == ["a", "b"]
    assert comparison.baseline == "b"
    with pytest.raises(SnnEnergyError, match="called 'hand'"):
        se.compare([make_counts([OPERATION]), make_counts([OPERATION])], device(), baseline="hand")


def test_a_baseline_that_names_two_networks_is_refused(make_counts: MakeCounts, device: Device) -> None:
    a, b = make_counts([OPERATION], file="a"), make_counts([OPERATION], file="b")
    with pytest.raises(SnnEnergyError, match="hand"):
        se.compare([a, b], device(), baseline="hand")


def test_a_label_goes_before_the_model_name_of_another(make_counts: MakeCounts, device: Device) -> None:
    named = {"first": make_counts([OPERATION], model="second"), "second": make_counts([OPERATION], model="other")}
    assert se.compare(named, device(), baseline="second").baseline == "second"


def test_a_plain_lif_pays_for_every_step(device: Device) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), LIF())
    counts = se.profile(net, [torch.ones(4, 2, 3)], time_steps=4, time="axis0")
    frame = estimate(counts, device()).to_frame("layer").set_index("layer")
    assert frame.loc["1", "membrane_pj"] == pytest.approx(4 * 4 * 16 * (100 + 200))
    assert frame.loc["1", "outputs_pj"] == pytest.approx(4 * 4 * 1000)


def test_work_without_a_price_is_unknown_not_zero(network: Counts, device: Device) -> None:
    energy = estimate(network, device(spiking=None, silent=None, add=None))
    table = energy.to_frame("group").set_index("group")
    assert table.loc["sps", "neuron_pj"] != table.loc["sps", "neuron_pj"]
    assert table.loc["sps", "elementwise_pj"] != table.loc["sps", "elementwise_pj"]
    assert table.loc["head", "neuron_pj"] == 0
    assert energy.total_pj == pytest.approx(table["total_pj"].sum(), rel=1e-12)


def test_the_saving_of_steps_that_nobody_reads_is_what_their_rows_cost(network: Counts, device: Device) -> None:
    energy = estimate(network, device(), memory="state_only")
    rows, charges = network.rows, energy.charges
    unread = rows["active"] & ~rows["needed"]
    assert unread.any()
    saved = energy.total_pj - energy.of_needed_steps().total_pj
    neurons = rows["op"] == "neuron"
    assert saved >= charges.loc[unread & ~neurons, "compute_pj"].sum() * (1 - 1e-12)
    assert saved == pytest.approx(charges.loc[unread, "compute_pj"].sum() + charges.loc[unread, "membrane_pj"].sum())
    read = rows["needed"] | ~rows["active"]
    assert energy.of_needed_steps().charges.loc[read, "compute_pj"].equals(charges.loc[read, "compute_pj"])
