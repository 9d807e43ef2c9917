"""The published record: nothing is missing, exact figures are exact, made networks have the averages they should."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import snn_energy as se
from snn_energy.core import bundled
from snn_energy.core.errors import ModelError, SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.counts.published import list_published
from snn_energy.hardware.numbers import numbers
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers
from snn_energy.paper import reproduce
from snn_energy.paper.calibrated_networks import (
    Setting,
    active_rate,
    calibrated_counts,
    calibrated_network,
    random_images,
    set_active_steps,
    steps_with_mean,
)
from snn_energy.paper.ledger import architecture_sizes, make_ledger, share_between, share_of_compute, t_avg_why
from snn_energy.paper.record import COLUMNS, Figure, PublishedRecord, ledger_row, load_record
from snn_energy.paper.reproduce import (
    HARDWARE_WITH_ARRAY,
    VARIANTS,
    energy_ranges,
    read_ablation,
    settings_of,
    shipped_counts,
)
from snn_energy.paper.step_distributions import MemoryCosts, Sources, extreme_steps, memory_costs, spikformer_sources

ROOT = Path(__file__).resolve().parents[2]
SMALL = Setting("small", "dts-spikformer-2-64", 10, 4, t_avg=1.5, sa=0.06)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def record() -> PublishedRecord:
    return load_record()


@pytest.fixture(scope="session")
def small() -> Counts:
    return calibrated_counts(SMALL, 2)


@pytest.fixture(scope="session")
def networks(record: PublishedRecord) -> dict[str, Counts]:
    """The networks of Table V on one image; for all settings of Tables III and IV but one the same one stands in."""
    settings = {s.name: s for s in settings_of(record)}
    names = ["III all groups", "IV 4 of 6 1e-4", *(name for name in settings if name.startswith("cifar"))]
    made = {name: calibrated_counts(settings[name], 1) for name in names}
    found = {name: made.get(name, made["III all groups"]) for name in settings}
    return found | {"cifar100 dts": made["IV 4 of 6 1e-4"]}


@pytest.fixture(scope="session")
def shipped() -> dict[str, Counts]:
    return shipped_counts(bundled.reports())


@pytest.fixture(scope="session")
def pure(record: PublishedRecord, shipped: dict[str, Counts]) -> pd.DataFrame:
    """The ledger without the networks that torch makes."""
    return make_ledger(record, {}, shipped, read_ablation(bundled.reports()), energy_ranges({}))


@pytest.fixture(scope="session")
def committed() -> pd.DataFrame:
    return pd.read_csv(ROOT / "reports" / "paper" / "ledger.csv")


# --- Steps and rates that are set -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "highest", "total"), [(1.15, 4, 38), (3.81, 6, 126), (4.0, 4, 132), (1.96, 4, 65)])
def test_steps_have_the_nearest_mean_and_are_as_alike_as_can_be(mean: float, highest: int, total: int):
    steps = steps_with_mean(mean, 33, highest)
    assert sum(steps) == total
    assert max(steps) - min(steps) <= 1
    assert abs(total / 33 - mean) <= 0.5 / 33 + 1e-9
    assert steps == steps_with_mean(mean, 33, highest)


def test_a_mean_that_no_whole_steps_have_is_told_apart():
    assert t_avg_why("1.15").startswith("set: the 33 T_l sum to 38")
    assert "none has the printed mean" in t_avg_why("3.81")


def test_set_steps_are_those_of_the_masks():
    model = se.create_model("dts-spikformer-2-64", time_steps=4)
    wanted = {name: i % 5 for i, name in enumerate(spiking_layers(model))}
    set_active_steps(model, wanted)
    assert {n: lif.active_steps() for n, lif in spiking_layers(model).items() if isinstance(lif, DTSS)} == wanted


def test_steps_beyond_t_max_are_refused():
    model = se.create_model("dts-spikformer-2-64", time_steps=4)
    with pytest.raises(ModelError, match=r"T_l must lie in 0..4, not 5"):
        set_active_steps(model, dict.fromkeys(spiking_layers(model), 5))


def test_steps_of_a_plain_lif_cannot_be_set():
    model = se.create_model("spikformer-2-64", time_steps=4)
    with pytest.raises(ModelError, match="no DTSS layer"):
        set_active_steps(model, dict.fromkeys(spiking_layers(model), 1))


def test_a_setting_without_activity_is_refused():
    with pytest.raises(ModelError, match="give a spiking activity or a rate"):
        calibrated_network(Setting("x", "dts-spikformer-2-64", 10, 4, t_avg=2), random_images(1))


def test_a_made_network_has_the_mean_steps_and_the_spiking_activity(small: Counts):
    activity = small.activity()
    assert activity["t_avg"] == sum(steps_with_mean(1.5, 19, 4)) / 19
    assert activity["sa"] == pytest.approx(0.06, rel=1e-3)


def test_every_layer_of_a_made_network_fires_at_one_rate_per_active_step(small: Counts):
    layers = small.spiking_layers()
    rate = active_rate(0.06, 4, layers["neurons"].tolist(), layers["t_l"].tolist())
    behind_products = layers["layer"].str.endswith("attn.lif")
    made_up_for = layers["layer"].str.endswith("proj_lif")  # the layer that follows pays back what is missing
    free = ~behind_products & ~made_up_for
    assert layers.loc[free, "rate_active"].tolist() == pytest.approx([rate] * int(free.sum()), rel=0.02)
    assert layers["rate_active"].tolist() == pytest.approx([rate] * len(layers), rel=0.3)


def test_a_rate_may_be_given_instead_and_a_plain_network_made():
    counts = calibrated_counts(Setting("x", "spikformer-2-64", 10, 2, rate=0.2), 1)
    assert counts.activity()["t_avg"] == 2
    assert counts.activity()["rate_active"] == pytest.approx(0.2, rel=1e-3)


def test_a_network_is_made_twice_alike_and_leaves_the_seed_of_the_caller_alone(small: Counts):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    pd.testing.assert_frame_equal(calibrated_counts(SMALL, 2).rows, small.rows)
    assert torch.equal(state, torch.get_rng_state())


# --- What feeds what ------------------------------------------------------------------------------------------


def profiled(steps: dict[str, int] | None, time_steps: int = 4, name: str = "dts-spikformer-2-64") -> Counts:
    """Counts of a network of random weights, which hardly fires, so that every input is binary."""
    torch.manual_seed(0)
    model = se.create_model(name, time_steps=time_steps)
    if steps is not None:
        set_active_steps(model, steps)
    with torch.inference_mode():
        return se.profile(model, [torch.rand(1, 3, 32, 32)])


def random_steps(lowest: int, seed: int) -> dict[str, int]:
    layers = spiking_layers(se.create_model("dts-spikformer-2-64", time_steps=4))
    drawn = np.random.default_rng(seed).integers(lowest, 5, len(layers))
    return dict(zip(layers, drawn.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_active_steps_from_the_map_are_those_of_the_profiler(seed: int):
    steps = random_steps(0, seed)
    rows, sources = profiled(steps).rows, spikformer_sources(2)
    active = rows["active"].groupby(rows["layer"]).sum()
    costs = MemoryCosts(
        tuple(steps), np.zeros(len(steps)), tuple(sources.values()), np.zeros(len(sources)), np.zeros(len(sources)), 0.0
    )
    found = costs.active_steps(np.array(list(steps.values())))
    assert found.tolist() == active[list(sources)].tolist()


def test_the_map_knows_every_operation_but_the_encoder_and_the_head():
    rows = profiled(None).rows
    operations = set(rows.loc[rows["op"].isin(["conv", "linear", "matmul"]), "layer"])
    assert set(spikformer_sources(2)) == operations - {"sps.conv0", "head"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_as_a_function_of_the_steps_is_the_estimate_of_such_a_network(variant: Any):
    costs = memory_costs(profiled(None), HARDWARE_WITH_ARRAY, variant, spikformer_sources(2))
    for seed in range(2):
        steps = random_steps(0, seed)
        wanted = se.estimate(profiled(steps), HARDWARE_WITH_ARRAY, memory=variant).memory_pj
        assert costs.energy_pj(np.array([steps[name] for name in costs.lifs])) == pytest.approx(wanted, rel=1e-9)


def test_layers_that_never_work_have_no_known_price():
    with pytest.raises(SnnEnergyError, match="layers that are never active"):
        memory_costs(profiled(random_steps(0, 0)), HARDWARE_WITH_ARRAY, "ws_once", spikformer_sources(2))


def test_the_map_of_another_network_is_refused():
    with pytest.raises(SnnEnergyError, match=r"no layer blocks\.2"):
        memory_costs(profiled(None), HARDWARE_WITH_ARRAY, "ws_once", spikformer_sources(3))


# --- Extremes -------------------------------------------------------------------------------------------------


def tiny(seed: int) -> MemoryCosts:
    """Five layers: two on a stream, three that a product reads two and three of; random prices."""
    draw = np.random.default_rng(seed)
    sources = (
        Sources(("a",)), Sources(("a", "b")), Sources(("c", "d"), product=True), Sources(("c", "d", "e"), product=True),
        Sources(("a", "b")),
    )  # fmt: skip
    return MemoryCosts(
        tuple("abcde"), draw.integers(1, 20, 5) * 1.0, sources, draw.integers(1, 40, 5) * 1.0,
        draw.integers(0, 60, 5) * 1.0, 7.0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("lowest", [0, 1])
def test_extremes_are_those_of_brute_force(seed: int, lowest: int):
    costs = tiny(seed)
    every = np.array(list(product(range(lowest, 4), repeat=5)))
    energies = costs.energy_pj(every)
    for total in range(5 * lowest, 16):
        of_sum = energies[every.sum(1) == total]
        for largest, wanted in ((False, of_sum.min()), (True, of_sum.max())):
            steps = extreme_steps(costs, total, lowest, 3, largest)
            assert steps.sum() == total
            assert steps.min() >= lowest
            assert steps.max() <= 3
            assert costs.energy_pj(steps) == pytest.approx(wanted)


def solved(costs: MemoryCosts, total: int, lowest: int, highest: int, largest: bool) -> float:
    """The same by mixed-integer programming: x[l, t] is 1 where T_l > t, z[o, t] where operation o works at t."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers, operations = len(costs.lifs), len(costs.sources)
    at = {name: i for i, name in enumerate(costs.lifs)}
    rows: list[tuple[dict[int, float], float, float]] = []

    def x(layer: int, t: int) -> int:
        return layer * highest + t

    def z(operation: int, t: int) -> int:
        return layers * highest + operation * highest + t

    price = np.zeros((layers + operations) * highest)
    for layer, t in product(range(layers), range(highest)):
        price[x(layer, t)] = costs.lif_step_cost[layer]
        if t:
            rows.append(({x(layer, t - 1): 1, x(layer, t): -1}, 0, 1))
    for o, t in product(range(operations), range(highest)):
        price[z(o, t)] = costs.step_cost[o] + (costs.first_step_cost[o] if t == 0 else 0)
        fed = [x(at[name], t) for name in costs.sources[o].lifs]
        if costs.sources[o].product:
            rows += [({z(o, t): 1, i: -1}, -1, 0) for i in fed]
            rows.append(({z(o, t): 1, **dict.fromkeys(fed, -1)}, 1 - len(fed), np.inf))
        else:
            rows += [({z(o, t): 1, i: -1}, 0, 1) for i in fed]
            rows.append(({z(o, t): 1, **dict.fromkeys(fed, -1)}, -np.inf, 0))
    rows.append((dict.fromkeys(range(layers * highest), 1.0), total, total))
    matrix = np.zeros((len(rows), len(price)))
    for i, (factors, _, _) in enumerate(rows):
        matrix[i, list(factors)] = list(factors.values())
    least = np.zeros(len(price))
    least[: layers * highest].reshape(layers, highest)[:, :lowest] = 1
    whole = np.arange(len(price)) < layers * highest
    sign, scale = -1.0 if largest else 1.0, float(price.max())
    found = milp(
        sign * price / scale,
        constraints=LinearConstraint(matrix, [r[1] for r in rows], [r[2] for r in rows]),
        bounds=Bounds(least, np.ones(len(price))),
        integrality=whole.astype(int),
        options={"mip_rel_gap": 0},
    )
    assert found.status == 0
    return sign * float(found.fun) * scale + costs.constant


@pytest.fixture(scope="session")
def paper_size() -> Counts:
    return profiled(None, 6, "dts-spikformer-4-384")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lowest", [0, 1])
def test_extremes_of_the_paper_s_network_are_those_of_mixed_integer_programming(
    variant: Any, lowest: int, paper_size: Counts
):
    costs = memory_costs(paper_size, HARDWARE_WITH_ARRAY, variant, spikformer_sources(4))
    for largest in (False, True):
        found = float(costs.energy_pj(extreme_steps(costs, 126, lowest, 6, largest)))
        assert found == pytest.approx(solved(costs, 126, lowest, 6, largest), rel=1e-6)


def test_a_sum_that_no_steps_have_is_refused():
    with pytest.raises(SnnEnergyError, match="no 5 T_l of 1 to 3 have the sum 16"):
        extreme_steps(tiny(0), 16, 1, 3)


def test_two_residual_streams_are_refused():
    zeros = np.zeros(2)
    two = (Sources(("a", "b")), Sources(("c", "d")))
    with pytest.raises(SnnEnergyError, match="more than one residual stream"):
        extreme_steps(MemoryCosts(tuple("abcd"), np.zeros(4), two, zeros, zeros, 0.0), 4, 1, 2)


# --- The ledger -----------------------------------------------------------------------------------------------


def test_every_published_figure_is_in_the_ledger_and_in_the_committed_one(
    record: PublishedRecord, pure: pd.DataFrame, committed: pd.DataFrame
):
    for ledger in (pure, committed):
        rows = {(section, row.split(", ")[0]) for section, row in zip(ledger["section"], ledger["row"], strict=True)}
        assert {(f.section, f.row) for f in record.figures} <= rows
        assert not ledger.duplicated(["section", "row"]).any()


def test_every_exact_figure_comes_out_to_the_printed_digits(record: PublishedRecord, pure: pd.DataFrame):
    exact = pure[pure["kind"] == "exact"]
    assert len(exact) == sum(f.kind == "exact" for f in record.figures) > 30
    assert (exact["residual"] == 0).all()


def test_every_row_says_why_in_one_line(pure: pd.DataFrame, committed: pd.DataFrame):
    for why in [*pure["why"], *committed["why"]]:
        assert why.strip()
        assert "\n" not in why


def test_where_the_committed_ledger_has_no_figure_of_ours_it_says_why(committed: pd.DataFrame):
    missing = committed[committed["ours"].isna()]
    assert missing["why"].str.contains("no network of ours|Table IV gives|so none is fitted").all()


def test_what_is_not_comparable_has_no_residual(committed: pd.DataFrame):
    apart = committed[committed["why"].str.startswith("not comparable")]
    assert len(apart) >= 15
    assert apart["ours"].notna().all()
    assert apart[["residual", "residual_percent"]].isna().all(axis=None)


def test_the_committed_ledger_is_what_the_counts_give(pure: pd.DataFrame, committed: pd.DataFrame):
    assert committed.columns.tolist() == list(COLUMNS)
    assert committed[["section", "row"]].equals(pure[["section", "row"]])
    known = pure["ours"].notna().to_numpy()
    assert known.sum() > 80
    pd.testing.assert_frame_equal(
        committed[known].drop(columns="why"), pure[known].drop(columns="why"), check_dtype=False, rtol=1e-9
    )


def test_the_committed_ranges_hold_each_other():
    ranges = pd.read_csv(ROOT / "reports" / "paper" / "memory-ranges.csv")
    assert_ranges_hold(ranges)
    assert len(ranges) == 2 * 2 * 4 * 3


def assert_ranges_hold(ranges: pd.DataFrame) -> None:
    """Networks as made lie within T_l of 1..T_max, these within 0..T_max."""
    table = ranges.set_index(["data", "network", "memory", "t_l"])
    for what in ("me", "te"):
        low, high = table[f"{what}_low"].unstack(), table[f"{what}_high"].unstack()
        order = ["0..T_max", "1..T_max", "as made"]
        assert (low[order].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
        assert (high[order].diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)


def test_without_a_checkout_every_row_is_there_and_says_that_it_cannot_be_made(
    record: PublishedRecord, pure: pd.DataFrame
):
    bare = make_ledger(record, {}, {}, None, energy_ranges({}))
    rows = {(s, r.split(", ")[0]) for s, r in zip(bare["section"], bare["row"], strict=True)}
    assert {(f.section, f.row) for f in record.figures} <= rows
    lost = bare[bare["ours"].isna()]
    assert lost["why"].str.contains("not available").sum() > 20


def test_shipped_counts_are_found_in_a_checkout(shipped: dict[str, Counts]):
    assert set(shipped) == {
        f"{folder}/{family}-{size}"
        for folder, size in (("demo", "2-64"), ("cifar10", "2-128"))
        for family in ("vit", "spikformer", "dts-spikformer")
    }


def test_the_figures_of_table_v_need_four_shares_of_compute(record: PublishedRecord):
    table = {row: f.value for row, f in record.figures_of("table_v").items()}

    def three(name: str) -> list[float]:
        return [table[f"{name} {what}"] for what in ("ce", "me", "te")]

    names = ("cifar10 ns_vit", "cifar10 spikformer", "cifar100 ns_vit", "cifar100 spikformer")
    assert [round(share_of_compute(*three(name)), 3) for name in names] == [0.703, 0.787, 0.656, 0.694]
    for data in ("cifar10", "cifar100"):
        (_, highest), (lowest, _) = (share_between(*three(f"{data} {name}")) for name in ("ns_vit", "spikformer"))
        assert highest < lowest, "rounding does not explain it"
    assert round(table["cifar10 spikformer me"] / table["cifar10 ns_vit me"], 2) == 4.38
    assert round(table["cifar100 spikformer me"] / table["cifar100 ns_vit me"], 2) == 2.64


def test_the_share_of_compute_solves_the_equation():
    assert share_of_compute(10.0, 2.0, 0.25 * 10 + 0.75 * 2) == pytest.approx(0.25)


def test_digits_are_compared_as_printed():
    assert ledger_row(Figure("s", "r", "2.50", "exact"), 2.504, "")["residual"] == 0
    assert ledger_row(Figure("s", "r", "2.50", "exact"), 2.506, "")["residual"] == pytest.approx(0.01)
    assert ledger_row(Figure("s", "r", "2.50", "ledger"), 2.504, "")["residual"] == pytest.approx(0.004)
    assert ledger_row(Figure("s", "r", "3759.793", "exact", significant=6), 3759.791, "")["residual"] == 0
    assert ledger_row(Figure("s", "r", "1200", "exact"), 1201, "")["residual"] == 1


def test_the_published_results_are_no_counts_and_no_prices(record: PublishedRecord):
    assert "record" not in list_published()
    sources = [p for p in (ROOT / "snn_energy").rglob("*.py") if "record.yaml" in p.read_text(encoding="utf-8")]
    assert [p.name for p in sources] == ["record.py"]
    assert all(citation for citation in record.citations.values())


def test_a_missing_record_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path)
    monkeypatch.setattr(bundled, "CHECKOUT", tmp_path)
    with pytest.raises(SnnEnergyError, match="published results are missing"):
        load_record()


def test_the_array_profile_differs_from_the_paper_s_by_its_array_alone():
    plain, with_array = numbers(se.load_hardware("dts-paper-fpga")), numbers(se.load_hardware(HARDWARE_WITH_ARRAY))
    assert {key: with_array[key] for key in plain} == {key: plain[key] for key in plain}
    assert set(with_array) - set(plain) == {"array.rows", "array.columns"}


def test_the_twin_has_the_macs_of_the_architecture(networks: dict[str, Counts]):
    sizes = architecture_sizes("dts-spikformer-4-384")
    assert networks["cifar10 ns_vit"].activity()["real_macs_per_sample"] == sizes["macs"] + sizes["macs_once"]
    assert networks["cifar10 dts"].sizes()["neurons"] == sizes["neurons"]


def test_made_networks_have_the_averages_of_the_tables(networks: dict[str, Counts]):
    assert networks["cifar10 dts"].activity()["t_avg"] == 38 / 33
    assert networks["cifar100 dts"].activity()["t_avg"] == 126 / 33
    assert networks["cifar100 dts"].activity()["sa"] == pytest.approx(0.0654, rel=1e-3)
    assert networks["III all groups"].activity()["sa"] == pytest.approx(0.029, rel=1e-3)
    assert networks["cifar10 spikformer"].activity()["sa"] == pytest.approx(0.0985, rel=1e-3)


def test_ranges_hold_what_was_made(networks: dict[str, Counts]):
    assert_ranges_hold(energy_ranges(networks))


def test_the_command_writes_the_same_bytes_twice_and_prints_the_ledger(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch,
    networks: dict[str, Counts], record: PublishedRecord,
):  # fmt: skip
    monkeypatch.setattr(reproduce, "make_networks", lambda record, on_network: networks)
    runs = []
    for name in ("a", "b"):
        code, out, err = cli("reproduce", "-o", tmp_path / name)
        assert (code, err) == (0, "")
        runs.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert runs[0] == runs[1]
    assert set(runs[0]) == {
        "ledger.csv", "ledger.md", "memory-ranges.csv", "memory-ranges.md", "networks.csv", "table-v.png",
        "table-v.svg", "sops.png", "sops.svg",
    }  # fmt: skip
    assert f"{len(runs[0])} files written" in out
    text = runs[0]["ledger.md"].decode()
    assert all(title in text and title in out for title in record.titles.values())
    ledger = pd.read_csv(tmp_path / "a" / "ledger.csv")
    made = ledger[ledger["row"].str.endswith("4-384 made to its averages")]
    assert made["ours"].notna().all()
    assert made.loc[made["row"].str.contains(" me,| te,") & ~made["row"].str.contains(" dts "), "low"].notna().all()


def test_the_ledger_is_made_without_torch():
    import subprocess
    import sys

    code = (
        "import sys, snn_energy.paper.reproduce; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
