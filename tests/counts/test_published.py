"""Published counts: what they cost comes out as published, to the printed digits; one bad input a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import snn_energy as se
from snn_energy.core import bundled
from snn_energy.core.errors import CountsError, HardwareError
from snn_energy.core.yaml_file import Document
from snn_energy.counts import published
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.counts.published import is_published, list_published, load_published, published_names
from snn_energy.pricing.energy import estimate, estimate_latency

FOLDER = Path(__file__).resolve().parents[2] / "published"
WITH_RATES = ("spikeyolo-23m", "spikingformer-8-512-imagenet", "spikingformer-8-768-imagenet")
GEOMETRY = [name for name in list_published() if name not in ("energy-arithmetic", "sata", *WITH_RATES)]

SMALL = """\
schema: 1
sources:
  book: {citation: "A book, page 1"}
networks:
  all:
    source: book
    time_steps: 2
    totals: {macs: 3, sops: 5}
  apart:
    source: book
    time_steps: 3
    layers:
      conv:
        {op: conv, positions: 16, reduction: 18, out_channels: 4, groups: 2, input_elements: 100, input_kind: real,
         biases: 0}
      lif: {op: neuron, neurons: 64, spikes: 20}
      blocks.{i}:
        repeat: 2
        layers:
          fc:
            {op: linear, positions: 4, reduction: 8, out_channels: 10, biases: 10, input_kind: integer, max_k: 4,
             rate: 0.25}
          bn: {op: norm, weights: 10, biases: 10, elementwise_ops: 0}
          lif: {op: neuron, neurons: 40, firing_rate: 0.1}
          "#matmul0":
            {op: matmul, positions: 4, reduction: 5, out_channels: 8, groups: 2,
             input_kind: binary, other_kind: binary, rate: 0.5}
      head: {op: linear, once: true, positions: 1, reduction: 10, out_channels: 3, biases: 3, input_kind: real}
  stores:
    source: book
    time_steps: 4
    accesses:
      dram:
        weights: {reads: 100, writes: {once: 1, per_step: 2.5}}
    cycles: {once: 10, per_step: 1.5}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A file that holds ``SMALL``, pieces of it exchanged: write((old, new), ...)."""

    def write_text(*changes: tuple[str, str]) -> Path:
        text = SMALL
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} is not one place of the file"
            text = text.replace(old, new)
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def small(write: Callable[..., Path]) -> Callable[..., Counts]:
    """One network of ``SMALL``."""
    return lambda name, *changes: load_published(write(*changes), name)


@pytest.fixture
def fault(write: Callable[..., Path]) -> Callable[..., str]:
    """The message of the fault that an exchange makes, having checked that it is one line at the place of the fault."""

    def message_of(old: str, new: str, at: str | None = None, name: str = "all") -> str:
        path = write((old, new))
        with pytest.raises(CountsError) as caught:
            load_published(path, name)
        message, text = str(caught.value), path.read_text(encoding="utf-8")
        piece = new if at is None else at
        assert text.count(piece) == 1, piece
        assert "\n" not in message
        assert f"small.yaml:{text[: text.index(piece)].count(chr(10)) + 1}: " in message
        return message

    return message_of


@pytest.fixture(scope="session")
def profiled() -> Counts:
    """Spikformer-4-384 with random weights over one random image; sizes and dense MACs depend on neither."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = se.create_model("spikformer-4-384", image_size=32, num_classes=10, time_steps=4)
    return se.profile(model, [torch.rand(1, 3, 32, 32)], time_steps=4)


# --- Published energies: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate ----------------------------------


@pytest.mark.parametrize(
    ("network", "printed"),
    [
        ("spikformer-8-384", "7.734"),
        ("spikformer-6-512", "9.417"),
        ("spikformer-8-512", "11.577"),
        ("spikformer-10-512", "13.899"),
        ("spikformer-8-768", "21.477"),
    ],
)
def test_spikformers_on_image_net_cost_the_published_millijoules(network: str, printed: str) -> None:
    energy = estimate(load_counts(f"published:energy-arithmetic:{network}"), "horowitz-45nm-fp32")
    assert f"{energy.compute_pj / 1e9:.3f}" == printed


def test_spikingformer_costs_the_published_millijoules_to_sixteen_digits() -> None:
    energy = estimate(load_counts("published:energy-arithmetic:spikingformer-8-512"), "horowitz-45nm-fp32")
    assert repr(energy.compute_pj / 1e9) == "7.463502601886196"


def test_the_transformer_of_the_same_table_is_six_parts_in_ten_thousand_cheaper_than_printed() -> None:
    """Printed: 38.340 mJ; 4.6 pJ times its 8.33 G operations is 38.318."""
    counts = load_counts("published:energy-arithmetic:transformer-8-512")
    assert estimate(counts, "horowitz-45nm-fp32").compute_pj / 1e9 == pytest.approx(38.318)


@pytest.mark.parametrize(("time_steps", "microjoule"), [(2, 2316.905), (4, 2797.868), (8, 3759.793)])
def test_the_memory_of_sata_and_its_leakage_cost_what_is_published_to_six_digits(
    time_steps: int, microjoule: float
) -> None:
    energy = estimate(load_counts(f"published:sata:sata-t{time_steps}"), "sata")
    assert (energy.memory_pj + energy.static_pj) / 1e6 == pytest.approx(microjoule, rel=5e-7)
    assert energy.total_pj == energy.memory_pj + energy.static_pj


def test_the_latency_of_sata_is_its_own_count_of_cycles() -> None:
    latency = estimate_latency(load_counts("published:sata:sata-t4"), "sata")
    assert latency.cycles == 863023 * 4 + 1466003
    assert latency.seconds == latency.cycles / 400e6


def test_given_accesses_are_listed_as_the_source_counted_them() -> None:
    accesses = estimate(load_counts("published:sata:sata-t2"), "sata").accesses().set_index(["level", "tensor"])
    assert accesses.loc[("dram", "outputs and inputs"), "words"] == 2739531 * 2 / 8
    assert accesses.loc[("spike_buffer", "spikes"), "words"] == 7745376 * 2 / 8
    assert accesses.loc[("state_buffer", "state"), "energy_pj"] == pytest.approx(184448 * 2 * 12.772)


def test_accesses_of_stores_that_a_device_does_not_have_are_refused() -> None:
    with pytest.raises(HardwareError, match=r"no price for accesses of 'spike_buffer'"):
        estimate(load_counts("published:sata:sata-t2"), "horowitz-45nm-fp32")


# --- Published architectures ----------------------------------------------------------------------------------


def sizes(file: str) -> dict[str, Any]:
    return load_counts(f"published:{file}").sizes()


def test_dts_spikformer_4_384_has_the_published_sizes() -> None:
    found = sizes("dts-spikformer-4-384")
    assert found["parameters"] == 9_310_906
    assert (found["spiking_layers"], found["neurons"]) == (33, 1_449_984)
    assert (found["macs_per_step"], found["macs_once"]) == (934_035_456, 3_840)


def test_spikformer_4_384_has_the_published_sizes() -> None:
    found = sizes("spikformer-4-384-cifar")
    assert found["parameters"] == 9_330_874
    assert found["parameters"] - found["parameters_unused"] == 9_324_730
    assert (found["spiking_layers"], found["neurons"]) == (33, 1_449_984)
    assert found["neurons_by_group"] == {"sps": 466_944, "qkv": 294_912, "attn": 196_608, "mlp": 491_520}
    assert (found["macs_per_step"], found["macs_once"]) == (934_035_456, 3_840)


def test_every_layer_of_spikformer_4_384_has_the_published_macs() -> None:
    frame = load_counts("published:spikformer-4-384-cifar").to_frame()
    macs = frame[frame["time_step"] <= 0].set_index("layer")["dense_macs"]
    assert [macs[f"sps.{name}"] for name in ("conv0", "conv1", "conv2", "conv3", "rpe_conv")] == [
        1_327_104,
        42_467_328,
        169_869_312,
        169_869_312,
        84_934_656,
    ]
    for block in range(4):
        assert macs[f"blocks.{block}.attn#matmul0"] + macs[f"blocks.{block}.attn#matmul1"] == 3_145_728
    assert macs["head"] == 3_840


def test_spikformer_8_512_has_the_published_sizes() -> None:
    found = sizes("spikformer-8-512-imagenet")
    assert found["parameters"] == 29_705_768
    assert found["spiking_layers"] == 61
    assert f"{found['macs_per_step'] / 1e6:.3f}" == "8358.920"
    assert found["macs_once"] == 512_000
    frame = load_counts("published:spikformer-8-512-imagenet").to_frame()
    assert frame.loc[frame["layer"] == "sps.conv0", "dense_macs"].iloc[0] == 86_704_128


def test_one_reading_of_spikingformer_and_of_cct_gives_their_published_sizes() -> None:
    spikingformer, cct = sizes("spikingformer-4-384-cifar"), sizes("cct-7-3x1")
    assert (spikingformer["parameters"], f"{spikingformer['macs_per_step'] / 1e6:.3f}") == (9_326_266, "934.035")
    assert (cct["parameters"], f"{cct['macs_per_step'] / 1e6:.1f}") == (3_760_139, "1181.6")
    assert (cct["spiking_layers"], cct["neurons"]) == (0, 0)


def test_the_file_of_our_own_network_says_what_profiling_it_finds(profiled: Counts) -> None:
    """But for what hangs on values: kinds of input, and so which operand of a product is streamed."""
    found, recorded = profiled.to_frame(), load_counts("published:dts-spikformer-4-384").to_frame()
    columns = [
        "layer", "order", "group", "op", "time_step", "active", "needed", "dense_macs", "neurons",
        "elementwise_ops", "membrane_reads", "membrane_writes", "reduction", "out_channels", "positions", "groups",
        "feeds_neuron",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(recorded[columns], found[columns], check_dtype=False)
    layers = ["weights", "biases", "input_elements", "output_elements", "input_repeated"]
    read = found["op"].isin(("conv", "linear"))
    pd.testing.assert_frame_equal(recorded.loc[read, layers], found.loc[read, layers], check_dtype=False)
    product = found["op"] == "matmul"
    elements = recorded.loc[product, "input_elements"] + recorded.loc[product, "other_elements"]
    assert (elements == found.loc[product, "input_elements"] + found.loc[product, "other_elements"]).all()


def test_sizes_of_a_profile_are_those_of_the_file_but_for_the_parameters_that_a_profile_does_not_hold(
    profiled: Counts,
) -> None:
    of_file, of_profile = sizes("dts-spikformer-4-384"), profiled.sizes()
    assert of_profile == of_file | {"parameters": None, "parameters_unused": None}


# --- Published latency: weight-stationary 14 x 12 array at 500 MHz --------------------------------------------


@pytest.fixture(params=["profiled", "spikformer-4-384-cifar", "dts-spikformer-4-384"])
def four_steps(request: pytest.FixtureRequest, profiled: Counts) -> Counts:
    return profiled if request.param == "profiled" else load_counts(f"published:{request.param}")


def test_layers_of_spikformer_on_cifar_10_take_the_published_cycles(four_steps: Counts) -> None:
    products = list(dict.fromkeys(four_steps.rows.loc[four_steps.rows["op"] == "matmul", "layer"]))
    latency = estimate_latency(four_steps, "eyeriss-prosperity", without=["sps.conv0", "head", *products])
    assert latency.cycles == 21_906_848
    assert f"{latency.seconds:.6g}" == "0.0438137"


def test_with_attention_they_take_the_published_cycles_and_time(four_steps: Counts) -> None:
    energy = estimate(four_steps, "eyeriss-prosperity", without=["sps.conv0", "head"])
    assert energy.latency is not None
    layers = energy.latency.to_frame()
    assert layers.loc[layers["op"] == "matmul", "cycles"].sum() == 299_592
    assert energy.latency.cycles == 21_906_848 + 299_592
    assert f"{energy.latency.seconds:.6g}" == "0.0444129"


# --- What is not given is not known ---------------------------------------------------------------------------


def test_totals_price_compute_exactly_and_leave_memory_open() -> None:
    energy = estimate(load_counts("published:energy-arithmetic:spikformer-8-384"), "horowitz-45nm-fp32")
    assert energy.compute_pj == pytest.approx(4.6 * 0.347e9 + 0.9 * 6.82e9, rel=1e-15)
    assert np.isnan(energy.memory_pj)
    assert np.isnan(energy.total_pj)
    assert energy.unpriced()["op"].tolist() == ["neuron", "memory"]
    assert energy.unpriced()["amount"].isna().all()
    assert energy.summary()["memory_pj"] is None


@pytest.mark.parametrize("variant", ["ws_once", "ws_reload", "state_only"])
def test_no_memory_variant_makes_what_is_not_known_free(variant: Any) -> None:
    counts = load_counts("published:energy-arithmetic:spikformer-8-384")
    assert np.isnan(estimate(counts, "horowitz-45nm-fp32", memory=variant).memory_pj)


def test_a_price_for_what_is_not_known_leaves_compute_open() -> None:
    """Zero checks are asked of dense MACs, which published SOPs do not tell."""
    energy = estimate(load_counts("published:energy-arithmetic:spikformer-8-384"), "dts-paper-fpga")
    assert np.isnan(energy.compute_pj)
    assert energy.summary()["compute_pj"] is None
    assert any("zero check" in what for what in energy.unpriced()["what"])


def test_work_that_is_neither_known_nor_priced_is_listed() -> None:
    energy = estimate(load_counts("published:sata:sata-t2"), "sata")
    assert np.isnan(energy.compute_pj)
    assert energy.total_pj == energy.memory_pj + energy.static_pj
    assert energy.to_frame().loc[:3, ["mac_pj", "ac_pj", "neuron_pj"]].isna().any().all()
    listed = " ".join(energy.unpriced()["what"])
    assert all(what in listed for what in ("multiply-accumulates", "accumulates", "neuron updates"))


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_alone_prices_the_memory_of_bitmaps_but_no_accumulates(name: str) -> None:
    counts = load_counts(f"published:{name}")
    energy = estimate(counts, "horowitz-45nm-fp32")
    assert energy.memory_pj > 0
    assert np.isnan(energy.compute_pj) == (counts.sizes()["spiking_layers"] > 0)
    assert counts.activity()["sa"] is None


def test_what_a_network_of_totals_consists_of_is_not_known(small: Callable[..., Counts]) -> None:
    counts = small("all")
    assert set(counts.sizes().values()) == {None}
    activity = counts.activity()
    assert (activity["sops_per_sample"], activity["real_macs_per_sample"]) == (5, 3)
    assert {activity[key] for key in ("spiking_layers", "t_avg", "sa", "rate_active", "mean_layer_rate")} == {None}
    assert (activity["dead_layers"], activity["silent_layers"]) == ([], [])


def test_totals_may_tell_neurons_spikes_and_weights(small: Callable[..., Counts]) -> None:
    counts = small("all", ("sops: 5}", "sops: 5, neurons: 10, spikes: 7, weights: 6}"))
    assert counts.sizes() == dict.fromkeys(counts.sizes()) | {"neurons": 10, "weights": 6}
    assert counts.activity()["sa"] == pytest.approx(7 / (10 * 2))
    assert counts.rows["membrane_reads"].sum() == 20


def test_a_network_without_neurons_has_none(small: Callable[..., Counts]) -> None:
    counts = small("all", ("sops: 5}", "sops: 5, neurons: 0}"))
    assert counts.sizes()["spiking_layers"] == 0
    assert "neuron" not in set(counts.rows["op"])


def test_parameters_of_a_layer_whose_biases_are_not_told_are_not_known(small: Callable[..., Counts]) -> None:
    assert small("apart").sizes()["parameters"] == 4 * 18 + 2 * (80 + 10 + 20) + 33
    assert small("apart", ("input_kind: real,\n         biases: 0}", "input_kind: real}")).sizes()["parameters"] is None


def test_published_counts_are_not_written_as_a_profile(small: Callable[..., Counts], tmp_path: Path) -> None:
    with pytest.raises(CountsError, match="use their YAML file"):
        small("all").save(tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()


# --- Layers -----------------------------------------------------------------------------------------------------


def row_of(counts: Counts, layer: str, step: int = 0) -> dict[str, Any]:
    rows = counts.to_frame()
    return rows[(rows["layer"] == layer) & (rows["time_step"] == step)].iloc[0].to_dict()


def test_a_block_is_written_out_as_often_as_it_is_repeated_in_the_order_in_which_it_runs(
    small: Callable[..., Counts],
) -> None:
    names = list(dict.fromkeys(small("apart").rows["layer"]))
    block = ["blocks.{}.fc", "blocks.{}.bn", "blocks.{}.lif", "blocks.{}#matmul0"]
    assert names == ["conv", "lif", *(n.format(0) for n in block), *(n.format(1) for n in block), "head"]


def test_a_layer_may_be_repeated_alone(small: Callable[..., Counts]) -> None:
    counts = small("apart", ("lif: {op: neuron, neurons: 64,", "lif.{i}: {op: neuron, repeat: 3, neurons: 64,"))
    assert [f"lif.{i}" in set(counts.rows["layer"]) for i in range(4)] == [True, True, True, False]


def test_sizes_follow_from_the_geometry(small: Callable[..., Counts]) -> None:
    counts = small("apart")
    conv, linear, product = (row_of(counts, name) for name in ("conv", "blocks.1.fc", "blocks.0#matmul0"))
    assert (conv["weights"], conv["dense_macs"], conv["output_elements"]) == (72, 1152, 64)
    assert (linear["weights"], linear["input_elements"], linear["output_elements"]) == (80, 32, 40)
    assert (product["weights"], product["biases"]) == (0, 0)
    assert (product["input_elements"], product["other_elements"]) == (40, 40)  # 4 x 5 in two groups, 5 x 8


def test_a_product_that_streams_its_right_operand_has_that_one_as_input(small: Callable[..., Counts]) -> None:
    counts = small("apart", ("positions: 4, reduction: 5,", "positions: 7, reduction: 5, streamed: right,"))
    product = row_of(counts, "blocks.0#matmul0")
    assert (product["input_elements"], product["other_elements"]) == (40, 70)


def test_rates_give_non_zeros_and_accumulates(small: Callable[..., Counts]) -> None:
    linear = row_of(small("apart"), "blocks.0.fc")
    assert (linear["input_nonzeros"], linear["sops"], linear["sops_gated"]) == (8, 80, 80)
    lif = row_of(small("apart"), "blocks.0.lif")
    assert (lif["spikes"], lif["membrane_reads"], lif["membrane_writes"]) == (4, 40, 40)


def test_the_rate_of_one_operand_tells_gated_accumulates_of_a_product_but_no_coincidences(
    small: Callable[..., Counts],
) -> None:
    counts = small("apart")
    product = row_of(counts, "blocks.0#matmul0")
    assert product["sops_gated"] == 80
    assert pd.isna(product["sops"])
    assert np.isnan(estimate(counts, "horowitz-45nm-fp32").compute_pj)
    gated = estimate(counts, "horowitz-45nm-fp32", products="gated")
    assert gated.compute_pj == pytest.approx(3 * (4.6 * 1152 + 2 * 0.9 * (80 + 80)) + 4.6 * 30)


def test_what_is_counted_goes_before_what_a_rate_gives(small: Callable[..., Counts]) -> None:
    linear = row_of(small("apart", ("rate: 0.25", "rate: 0.25, sops: 70.5")), "blocks.0.fc")
    assert (linear["input_nonzeros"], linear["sops"]) == (8, 70.5)


def test_an_idle_step_has_its_row_and_no_work(small: Callable[..., Counts]) -> None:
    counts = small("apart", ("spikes: 20", "spikes: 20, active_steps: 2"))
    assert [row_of(counts, "lif", t)["active"] for t in range(3)] == [True, True, False]
    assert [row_of(counts, "lif", t)["spikes"] for t in range(3)] == [20, 20, 0]
    assert row_of(counts, "lif", 2)["membrane_reads"] == 0
    assert counts.activity()["t_avg"] == pytest.approx((2 + 3 + 3) / 3)


def test_what_is_done_once_has_one_row(small: Callable[..., Counts]) -> None:
    counts = small("apart")
    assert counts.rows.loc[counts.rows["layer"] == "head", "time_step"].tolist() == [-1]
    assert (counts.sizes()["macs_once"], counts.sizes()["macs_per_step"]) == (30, 1152 + 2 * (320 + 160))


def test_the_next_layer_that_computes_tells_whether_an_output_goes_to_neurons(small: Callable[..., Counts]) -> None:
    counts = small("apart")
    layers = ("conv", "blocks.0.fc", "blocks.0#matmul0", "head")
    assert [row_of(counts, name, -1 if name == "head" else 0)["feeds_neuron"] for name in layers] == [
        True,
        True,
        False,
        False,
    ]
    recorded = small("apart", ("max_k: 4,", "max_k: 4, feeds_neuron: false,"))
    assert not row_of(recorded, "blocks.0.fc")["feeds_neuron"]


def test_groups_follow_from_names_unless_given(small: Callable[..., Counts]) -> None:
    counts = small("apart", ("neurons: 64,", "neurons: 64, group: mlp,"))
    assert (row_of(counts, "head", -1)["group"], row_of(counts, "lif")["group"]) == ("head", "mlp")


def test_accesses_and_cycles_grow_with_the_time_steps(small: Callable[..., Counts]) -> None:
    header = small("stores").header
    assert header["accesses"] == [
        {"level": "dram", "name": "weights", "action": "reads", "count": 100},
        {"level": "dram", "name": "weights", "action": "writes", "count": 11},
    ]
    assert header["cycles"] == 16


# --- Numbers and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6.51754094076244 G", 6517540940.76244),
        ("6.82G", 6820000000),
        ("182 M", 182000000),
        ("1.5 k", 1500),
        ("2 T", 2 * 10**12),
        ("0.1", 0.1),
        ("1e9", 10**9),
        ("9007199254740993", 2**53 + 1),
        ("'7'", 7),
    ],
)
def test_numbers_are_read_to_the_last_digit(text: str, number: float, small: Callable[..., Counts]) -> None:
    counts = small("all", ("macs: 3", f"macs: {text}"))
    found = counts.rows.loc[counts.rows["layer"] == "macs", "dense_macs"].iloc[0]
    assert found == number
    assert isinstance(found, float) == isinstance(number, float)


def test_a_network_is_named_after_the_file(write: Callable[..., Path]) -> None:
    path = write()
    assert published_names(path) == ["all", "apart", "stores"]
    counts = load_counts(f"{path}:apart")
    assert (counts.model, counts.samples, counts.time_steps) == ("apart", 1, 3)
    assert (counts.header["source"], counts.header["file"]) == ("A book, page 1", "small:apart")
    assert counts.header["published"] is True
    assert counts.per_sample is None


def test_the_only_network_of_a_file_need_not_be_named() -> None:
    assert load_counts(FOLDER / "cct-7-3x1.yaml").model == "cct-7-3x1"
    assert load_counts("published:cct-7-3x1").header["file"] == "cct-7-3x1"


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("a.yaml", True),
        ("a.yml", True),
        ("b/a.yaml:x", True),
        ("published:a", True),
        ("a.json", False),
        ("a.yaml.json", False),
        ("published.json", False),
    ],
)
def test_counts_are_published_ones_by_their_name(path: str, is_one: bool) -> None:
    assert is_published(path) == is_one
    assert is_published(Path(path)) == is_one


@pytest.mark.parametrize("file", list_published())
def test_every_network_that_comes_along_balances_and_every_source_is_cited(file: str) -> None:
    document = Document(FOLDER / f"{file}.yaml", published.FILE_TYPE)
    networks: Any = document.content["networks"]
    assert {network["source"] for network in networks.values()} == set(document.content["sources"])  # type: ignore[call-overload]
    for name in published_names(f"published:{file}"):
        counts = load_counts(f"published:{file}:{name}")
        assert first_inconsistency(counts) is None
        assert len(str(counts.header["source"])) > 20
        assert counts.rows["op"].isin(OPERATIONS).any()


def test_an_installed_package_reads_the_files_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "snn_energy"
    shutil.copytree(FOLDER, package / "published_counts")
    monkeypatch.setattr(bundled, "PACKAGE", package)
    monkeypatch.setattr(bundled, "CHECKOUT", tmp_path)
    assert list_published() == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    shutil.rmtree(package / "published_counts")
    with pytest.raises(CountsError, match="reinstall snn_energy"):
        list_published()


# --- One bad input a test ---------------------------------------------------------------------------------------


def test_a_network_that_is_not_in_the_file(write: Callable[..., Path]) -> None:
    path = write()
    with pytest.raises(CountsError, match=r"small\.yaml:4: networks: no network 'apert'; did you mean 'apart'\?"):
        load_counts(f"{path}:apert")


def test_several_networks_and_no_name(write: Callable[..., Path]) -> None:
    with pytest.raises(CountsError, match=r"small\.yaml:4: .*several.*small\.yaml:NETWORK: all, apart, stores"):
        load_counts(write())


def test_a_file_that_does_not_come_along() -> None:
    with pytest.raises(CountsError, match=r"published:satta: no file .* did you mean 'sata'"):
        load_counts("published:satta")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CountsError, match=r"no such file; .* published:FILE"):
        load_counts(tmp_path / "none.yaml")


def test_an_unknown_key(fault: Callable[..., str]) -> None:
    assert "totals.soops: unknown key; did you mean 'sops'?" in fault("sops: 5", "soops: 5")


def test_an_unknown_key_of_a_layer_of_a_block(fault: Callable[..., str]) -> None:
    assert "did you mean 'positions'?" in fault("{op: linear, positions: 4", "{op: linear, position: 4")


def test_an_unknown_unit(fault: Callable[..., str]) -> None:
    message = fault("macs: 3", "macs: 3 GMAC")
    assert "unit 'GMAC' is not one of k, M, G, T; did you mean 'G'?" in message


def test_a_unit_in_the_wrong_case(fault: Callable[..., str]) -> None:
    assert "did you mean 'M'?" in fault("macs: 3", "macs: 3 m")


def test_text_that_is_no_number(fault: Callable[..., str]) -> None:
    assert 'such as "6.82 G", not the text' in fault("macs: 3", "macs: many")
    assert 'such as "6.82 G", not the text' in fault("macs: 3", "macs: 1.2.3 G")
    assert 'such as "6.82 G", not the text' in fault("macs: 3", "macs: '6,82 G'")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("-3", "must not be negative"),
        ("-3 G", "must not be negative"),
        (".nan", "must be finite"),
        (".inf", "must be finite"),
        ("true", "must be a number, not true"),
        ("1e30", "larger than the largest supported value"),
        ("[1]", "must be a number, not a list"),
    ],
)
def test_a_count_that_is_no_finite_number_from_zero_on(value: str, complaint: str, fault: Callable[..., str]) -> None:
    assert complaint in fault("macs: 3", f"macs: {value}")


def test_a_missing_total(fault: Callable[..., str]) -> None:
    assert "totals.sops: is missing; add the key 'sops'" in fault("totals: {macs: 3, sops: 5}", "totals: {macs: 3}")


def test_a_size_that_is_not_whole(fault: Callable[..., str]) -> None:
    assert "must be a whole number" in fault("neurons: 64,", "neurons: 64.5,")


def test_no_time_steps(fault: Callable[..., str]) -> None:
    assert "time_steps: must be at least 1" in fault("time_steps: 2", "time_steps: 0")


def test_a_source_that_is_not_listed(fault: Callable[..., str]) -> None:
    message = fault("source: book\n    time_steps: 2", "source: bok\n    time_steps: 2")
    assert "'bok' is not in sources; did you mean 'book'?" in message


def test_a_network_without_counts(fault: Callable[..., str]) -> None:
    message = fault("    totals: {macs: 3, sops: 5}\n", "", at="  all:")
    assert "networks.all: has no counts; add one of totals, layers, accesses" in message


def test_a_network_in_two_forms(fault: Callable[..., str]) -> None:
    message = fault("    accesses:", "    totals: {macs: 1, sops: 1}\n    accesses:", at="    accesses:")
    assert "accesses: and 'totals' exclude each other" in message


def test_cycles_without_accesses(fault: Callable[..., str]) -> None:
    message = fault("totals: {macs: 3, sops: 5}", "totals: {macs: 3, sops: 5}\n    cycles: 7", at="cycles: 7")
    assert "cycles: are only valid together with 'accesses', of the same device" in message


def test_more_spikes_than_neurons_over_all_steps(fault: Callable[..., str]) -> None:
    message = fault("sops: 5}", "sops: 5, neurons: 3, spikes: 7}")
    assert "does not add up: 3 neurons spike 6 times in 2 time steps at most" in message


def test_more_spikes_than_neurons(fault: Callable[..., str]) -> None:
    assert "does not add up: more than the 64 neurons" in fault("spikes: 20", "spikes: 65")


def test_spikes_that_are_not_the_firing_rate(fault: Callable[..., str]) -> None:
    assert "firing_rate: does not add up" in fault("spikes: 20", "spikes: 20, firing_rate: 0.5")


def test_a_rate_above_one(fault: Callable[..., str]) -> None:
    assert "rate: is a share, at most 1, not 1.25" in fault("rate: 0.25", "rate: 1.25")


def test_a_firing_rate_above_one(fault: Callable[..., str]) -> None:
    assert "firing_rate: is a share, at most 1" in fault("firing_rate: 0.1", "firing_rate: 1.1")


def test_more_accumulates_than_dense_macs(fault: Callable[..., str]) -> None:
    assert "sops: does not add up: more than the 320 dense MACs" in fault("rate: 0.25", "sops: 321")


def test_more_coincidences_than_gated_accumulates(fault: Callable[..., str]) -> None:
    assert "sops: does not add up: more than rate times dense MACs" in fault("rate: 0.5", "rate: 0.5, sops: 81")


def test_macs_that_the_geometry_does_not_give(fault: Callable[..., str]) -> None:
    message = fault("rate: 0.25", "macs: 321")
    assert "macs: does not add up: positions * reduction * out_channels is 320, not 321; correct one" in message


@pytest.mark.parametrize("key", ["weights", "input_elements", "output_elements"])
def test_sizes_that_contradict_the_geometry(key: str, fault: Callable[..., str]) -> None:
    assert f"{key}: does not add up: " in fault("rate: 0.25", f"{key}: 81")


def test_operands_that_contradict_the_geometry(fault: Callable[..., str]) -> None:
    assert "the streamed operand" in fault("rate: 0.5", "input_elements: 41")


def test_biases_that_are_not_one_a_channel(fault: Callable[..., str]) -> None:
    message = fault("out_channels: 10, biases: 10", "out_channels: 10, biases: 9")
    assert "biases: does not add up: there are 10 out_channels or none" in message


def test_groups_that_do_not_divide_the_channels(fault: Callable[..., str]) -> None:
    assert "groups: does not divide out_channels 4" in fault("out_channels: 4, groups: 2", "out_channels: 4, groups: 3")


def test_more_active_steps_than_there_are(fault: Callable[..., str]) -> None:
    assert "active_steps: does not add up: there are 3 time steps" in fault("spikes: 20", "spikes: 20, active_steps: 4")


def test_steps_of_what_is_done_once(fault: Callable[..., str]) -> None:
    assert "active_steps: and 'once' exclude each other" in fault("once: true,", "once: true, active_steps: 1,")


def test_an_operation_that_does_not_say_what_it_reads(fault: Callable[..., str]) -> None:
    message = fault("input_kind: integer, max_k: 4,", "", at="          fc:")
    assert "input_kind: is missing; add the key 'input_kind'" in message


def test_a_product_that_does_not_say_what_its_other_operand_is(fault: Callable[..., str]) -> None:
    assert "other_kind: is missing" in fault(
        "input_kind: binary, other_kind: binary", "input_kind: binary", at='          "#matmul0"'
    )


def test_a_product_that_streams_the_higher_kind(fault: Callable[..., str]) -> None:
    message = fault("input_kind: binary, other_kind: binary", "input_kind: real, other_kind: binary")
    assert "must be the lower of the two kinds" in message


def test_integers_without_a_largest_one(fault: Callable[..., str]) -> None:
    assert "max_k: is missing" in fault("input_kind: integer, max_k: 4", "input_kind: integer", at="          fc:")


def test_a_largest_integer_of_what_is_none(fault: Callable[..., str]) -> None:
    assert "max_k: is only valid for integers" in fault("input_kind: integer, max_k: 4", "input_kind: binary, max_k: 4")


def test_an_unknown_kind(fault: Callable[..., str]) -> None:
    assert "did you mean 'integer'?" in fault("input_kind: integer, max_k: 4", "input_kind: integers, max_k: 4")


def test_an_unknown_operation(fault: Callable[..., str]) -> None:
    assert "did you mean 'linear'?" in fault("{op: linear, positions: 4", "{op: linea, positions: 4")


def test_a_layer_without_an_operation(fault: Callable[..., str]) -> None:
    assert "fc.op: is missing; add the key 'op'" in fault(
        "{op: linear, positions: 4", "{positions: 4", at="          fc:"
    )


def test_an_entry_that_is_neither_a_layer_nor_a_block(fault: Callable[..., str]) -> None:
    message = fault("lif: {op: neuron, neurons: 64, spikes: 20}", "lif: {}")
    assert "or 'layers' for a block of them" in message


def test_a_key_that_means_nothing_for_the_operation(fault: Callable[..., str]) -> None:
    assert "positions: is not valid for op 'neuron'; remove it" in fault("spikes: 20", "positions: 20")


def test_a_key_of_a_layer_in_a_block(fault: Callable[..., str]) -> None:
    message = fault("        repeat: 2\n", "        repeat: 2\n        positions: 3\n", at="        positions: 3")
    assert "positions: belongs to a layer, and this is a block of them" in message


def test_a_repetition_without_a_place_for_its_number(fault: Callable[..., str]) -> None:
    assert "has {i} in its name; add it to the name" in fault("blocks.{i}:", "blocks:")


def test_a_place_for_a_number_without_a_repetition(fault: Callable[..., str]) -> None:
    assert "has {i} in its name; add 'repeat'" in fault("        repeat: 2\n", "", at="      blocks.{i}:")


def test_two_layers_of_one_name(fault: Callable[..., str]) -> None:
    message = fault("      head: {", "      blocks.1.fc: {", at="      blocks.1.fc: {")
    assert "occurs twice ('blocks.1.fc'); rename one" in message


def test_more_rows_than_a_frame_should_have(fault: Callable[..., str]) -> None:
    assert "more than 1000000 rows" in fault("repeat: 2\n", "repeat: 2 G\n")


def test_more_operations_than_can_be_counted(fault: Callable[..., str]) -> None:
    message = fault("positions: 16, reduction: 18", "positions: 4 T, reduction: 4 T")
    assert "positions: times reduction times out_channels is larger than the largest supported value" in message


def test_accesses_that_are_empty(fault: Callable[..., str]) -> None:
    assert "weights: is empty; give reads, writes, or accesses" in fault(
        "weights: {reads: 100, writes: {once: 1, per_step: 2.5}}", "weights: {}"
    )


def test_accesses_beside_reads(fault: Callable[..., str]) -> None:
    assert "accesses: are the sum of reads and writes" in fault("weights: {reads: 100,", "weights: {accesses: 100,")


def test_a_count_of_no_steps(fault: Callable[..., str]) -> None:
    assert "cycles: is empty; write a number" in fault("cycles: {once: 10, per_step: 1.5}", "cycles: {}")


def test_a_hardware_profile_given_as_counts() -> None:
    with pytest.raises(CountsError, match=r"unknown key"):
        load_counts(FOLDER.parent / "hardware_profiles" / "sata.yaml")
