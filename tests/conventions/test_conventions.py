"""Published conventions: what each charges a network with, by hand and against the published tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import snn_energy as se
from snn_energy.analysis.by_convention import OURS, by_convention
from snn_energy.conventions.price import convention_of, list_conventions, price_by_convention
from snn_energy.core.errors import CountsError, SnnEnergyError
from snn_energy.counts.counts import Counts

M, A = 4.6, 0.9


@pytest.mark.parametrize(
    ("counts", "convention", "macs_g", "acs_g", "mj"),
    [
        ("spikingformer-8-512-imagenet", "spikingformer", 0.347329512, 6.51754094076244, 7.463502601886196),
        ("spikingformer-8-768-imagenet", "spikingformer", 0.520993768, 12.513659576717108, 13.658864951845398),
    ],
)
def test_the_printed_energy_of_a_network_comes_out_to_nine_digits(
    counts: str, convention: str, macs_g: float, acs_g: float, mj: float
) -> None:
    found = price_by_convention(se.load_counts(f"published:{counts}"), convention)
    assert found.macs * 1e-9 == pytest.approx(macs_g, rel=1e-9)
    assert found.acs * 1e-9 == pytest.approx(acs_g, rel=1e-9)
    assert found.compute_pj is not None
    assert found.compute_pj * 1e-9 == pytest.approx(mj, rel=1e-9)


def test_the_sheet_of_spikeyolo_as_published_and_corrected() -> None:
    counts = se.load_counts("published:spikeyolo-23m")
    corrected = price_by_convention(counts, "spikeyolo")
    published = price_by_convention(counts, "spikeyolo", as_published=True)
    assert len(corrected.layers) == 89
    assert corrected.layers["is_charged"].all()
    assert corrected.compute_pj == pytest.approx(34.6001590272e9, rel=1e-12)
    assert published.compute_pj == pytest.approx(34.4893704192e9, rel=1e-12)
    assert published.as_published
    assert not corrected.as_published


def small_network(make_counts: Callable[..., Counts]) -> Counts:
    """Two steps, two samples: an image convolution, a layer that reads spikes, one that reads their sums, a head.

    Dense MACs of a step 100, 200, 300, 10; half of the spikes and a quarter of the sums are there, |k| 1.5 on average.
    """

    def layer(name: str, step: int, macs: int, **more: Any) -> dict[str, Any]:
        return {
            "layer": name, "order": ["a", "b", "c", "head"].index(name), "time_step": step, "dense_macs": 2 * macs,
            "reduction": macs, "out_channels": 1, "positions": 1, "groups": 1, "group": "other", **more,
        }  # fmt: skip

    rows = []
    for step in (0, 1):
        rows += [
            layer("a", step, 100, input_kind="real", max_k=None, input_elements=50, input_nonzeros=80, sops=150,
                  sops_gated=150, sops_multi=None, input_levels=None, input_repeated=step > 0, biases=1),
            layer("b", step, 200, input_elements=40, input_nonzeros=40, input_levels=40, sops=180, sops_gated=180,
                  sops_multi=180, biases=1),
            layer("c", step, 300, input_kind="integer", max_k=3, input_elements=80, input_nonzeros=40, input_levels=60,
                  sops=140, sops_gated=140, sops_multi=210),
        ]  # fmt: skip
    rows.append(
        layer("head", -1, 10, op="linear", input_kind="real", max_k=None, input_elements=10, input_nonzeros=10, sops=10,
              sops_gated=10, sops_multi=None, input_levels=None, feeds_neuron=False)
    )  # fmt: skip
    rows.append(
        {"layer": "n", "order": 4, "op": "neuron", "time_step": 0, "neurons": 7, "spikes": 3, "input_kind": None,
         "max_k": None, "input_elements": None, "input_nonzeros": None, "sops_multi": None, "membrane_reads": 14,
         "membrane_writes": 14, "input_levels": None}
    )  # fmt: skip
    return make_counts(rows, samples=2, time_steps=2)


# Per sample, T = 2: a 200 dense MACs, b 400 at rate 1/2, c 600 at rate 1/4 (mean value 3/8), head 10 at rate 1/2.
BY_HAND = {
    "spikformer": M * 200 + A * (200 + 150),
    "spikingformer": M * (0 + 10),  # names without "conv": the head alone
    "syops": M * (202 + 600 + 10) + A * (200 + 0.5 * 2 + 7),
    "sdt-v1": M * 200 + A * (200 + 150 + 5),
    "spikeyolo": M * 100 + A * (200 + 225 + 5),
    "spiketrack": A * (160 + 200 + 225 + 5),
    "spikingresformer": A * (180 + 210),
    "seenn": (M + A) * 200 + A * (200 + 150),
    "ems-yolo": M * (200 + 600 + 10) + A * 200,
    "time-series": A * (160 + 200 + 150 + 5),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_convention_charges_a_small_network_as_by_hand(name: str, make_counts: Callable[..., Counts]) -> None:
    found = price_by_convention(small_network(make_counts), name)
    assert found.compute_pj == pytest.approx(BY_HAND[name], rel=1e-12)
    assert found.to_frame()["energy_pj"].sum() == pytest.approx(BY_HAND[name], rel=1e-12)


def test_neurobench_states_counts_and_no_energy(make_counts: Callable[..., Counts]) -> None:
    found = price_by_convention(small_network(make_counts), "neurobench")
    assert found.compute_pj is None
    assert (found.macs, found.acs) == (150 + 140 + 5, 180)


@pytest.mark.parametrize("name", list_conventions())
def test_every_convention_states_its_source_and_what_differs(name: str) -> None:
    found = convention_of(name)
    assert found.differs
    assert found.source


def test_an_unknown_convention_names_the_nearest_one(make_counts: Callable[..., Counts]) -> None:
    with pytest.raises(SnnEnergyError, match="no convention 'spikfomer'; did you mean 'spikformer'"):
        price_by_convention(small_network(make_counts), "spikfomer")


def test_counts_without_the_sums_of_values_are_refused_where_these_are_charged(
    make_counts: Callable[..., Counts],
) -> None:
    counts = small_network(make_counts)
    counts.rows["input_levels"] = counts.rows["input_levels"].astype("Int64")
    counts.rows.loc[counts.rows["layer"] == "c", "input_levels"] = None
    with pytest.raises(CountsError, match=r"the counts of c lack .*input_levels.*snn-energy profile"):
        price_by_convention(counts, "spikeyolo")
    assert price_by_convention(counts, "spikformer").compute_pj == pytest.approx(BY_HAND["spikformer"])


def test_totals_of_a_network_have_no_layers_to_charge() -> None:
    with pytest.raises(CountsError, match="needs the layers of a network"):
        price_by_convention(se.load_counts("published:energy-arithmetic:spikingformer-8-512"), "spikformer")


def test_published_counts_without_rates_are_not_sent_to_the_profiler() -> None:
    with pytest.raises(CountsError, match=r"lack the rate of its input.*its source does not state it"):
        price_by_convention(se.load_counts("published:spikingformer-4-384-cifar"), "spikformer")


def test_an_error_that_counts_cannot_reproduce_says_what_it_needs(make_counts: Callable[..., Counts]) -> None:
    with pytest.raises(SnnEnergyError, match="cannot reproduce it, which needs where the spikes are"):
        price_by_convention(small_network(make_counts), "seenn", as_published=True)


def test_the_table_of_all_conventions_divides_by_the_baseline(make_counts: Callable[..., Counts]) -> None:
    one = small_network(make_counts)
    table = by_convention({"one": one, "two": one}, baseline="two")
    assert set(table.energies.index) == {OURS, *list_conventions()} - {"neurobench"}
    assert table.ce_range("one") == (1.0, 1.0)
    assert table.energies.loc["ems-yolo", "one"] == pytest.approx(BY_HAND["ems-yolo"])
    assert table.energies.loc[OURS, "one"] == pytest.approx(se.estimate(one, "horowitz-45nm-fp32").compute_pj)
