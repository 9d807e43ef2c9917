"""The purity audit: which operations are not those of a spiking network, and what each costs under every policy."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.analysis.spiking_audit import CATEGORIES, POLICIES, Audit, energy_column
from snn_energy.core.errors import CountsError, HardwareError, SnnEnergyError
from snn_energy.counts.columns import INTEGRATES_ONLY_NOTE
from snn_energy.counts.published import list_published, published_names
from snn_energy.models.neurons import LIF
from snn_energy.models.spikformer import Spikformer
from snn_energy.pricing.policies import IntegerPolicy

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "reports" / "demo"
CIFAR = ROOT / "reports" / "cifar10"
UNKNOWN = "these counts do not say"
COUNTED = [
    *(str(DEMO / f"{name}-2-64.json") for name in ("vit", "spikformer", "dts-spikformer")),
    *(str(ROOT / "reports" / "cifar10" / f"{name}-2-128.json") for name in ("vit", "spikformer", "dts-spikformer")),
]


pytestmark = pytest.mark.usefixtures("one_thread")


# --- By hand: MAC 10 pJ, AC 3 pJ, zero check 0.5 pJ per dense operation that is not real, addition 5 pJ -----------
#
# Two samples; per sample 100 dense MACs, 20 SOPs (50 gated), 30 summed multiples, 32 element-wise operations.

WORK: dict[str, Any] = {"dense_macs": 200, "sops": 40, "sops_gated": 40, "sops_multi": 60}
PRODUCT: dict[str, Any] = {**WORK, "op": "matmul", "sops_gated": 100}
REAL: dict[str, Any] = {**WORK, "input_kind": "real", "max_k": None, "sops_multi": None}
AC, MULTI, MAC, DENSE = 3 * 20 + 50, 3 * 30 + 50, 10 * 20 + 50, 10 * 100 + 50
ALL_REAL = [10 * 100] * 4
UNPRICED = [math.nan] * 4

OPERATIONS: dict[str, tuple[dict[str, Any], str, list[float], float]] = {
    "binary": (WORK, "", [AC] * 4, AC),
    "integer": ({**WORK, "input_kind": "integer", "max_k": 3}, "non-binary input", [AC, MULTI, MAC, DENSE], AC),
    "ternary": ({**WORK, "input_kind": "ternary"}, "ternary input", [AC] * 4, AC),
    "real": ({**REAL, "note": "declared real"}, "real-valued input", ALL_REAL, AC),
    "average of spikes": (
        {**REAL, "note": "average of spikes (avg_pool2d)"}, "average pooling before weights", ALL_REAL, AC,
    ),
    "average of what": ({**REAL, "note": "average (mean)"}, "average pooling before weights", ALL_REAL, AC),
    "average of other values": (
        {**REAL, "note": "average of values not known to be spikes (mean)"}, "real-valued input", ALL_REAL, AC,
    ),
    "binary product": ({**PRODUCT, "other_kind": "binary"}, "", [AC] * 4, AC),
    "real product": (
        {**PRODUCT, **REAL, "op": "matmul", "other_kind": "real"}, "real-valued product", ALL_REAL, AC,
    ),
    "binary x real": ({**PRODUCT, "other_kind": "real"}, "product with a non-binary operand", [AC] * 4, AC),
    "binary x integer": (
        {**PRODUCT, "other_kind": "integer", "other_max_k": 4}, "product with a non-binary operand", [AC] * 4, AC,
    ),
    "integer product": (
        {**PRODUCT, "input_kind": "integer", "max_k": 2, "other_kind": "real"},
        "non-binary input", [AC, MULTI, MAC, DENSE], AC,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_weight_layer_or_product_is_judged_by_what_it_reads_and_priced_under_every_policy(
    name: str, make_counts: Any, device: Any
) -> None:
    row, category, energies, if_binary = OPERATIONS[name]
    found = se.audit(make_counts([row], samples=2), device())
    [operation] = found.operations.to_dict("records")
    assert operation["category"] == category
    assert [operation[energy_column(p)] for p in POLICIES] == energies
    assert [found.compute_pj[p] for p in POLICIES] == energies
    assert operation["energy_pj_if_binary"] == if_binary
    assert (operation["sops_per_sample"], operation["dense_macs_per_sample"]) == (20, 100)
    assert (operation["share_of_sops"], operation["share_of_dense_macs"]) == (1, 1)
    assert operation["not_priced"] == ""
    assert len(found.findings) == (category != "")


def test_a_gated_product_costs_what_the_streamed_operand_meets(make_counts: Any, device: Any) -> None:
    real = {**PRODUCT, **REAL, "op": "matmul", "other_kind": "real", "sops_gated": 100}
    found = se.audit(make_counts([real], samples=2), device(), products="gated").to_frame().iloc[0]
    assert (found["energy_pj_ac"], found["energy_pj_if_binary"]) == (1000, 3 * 50 + 50)


def test_direct_encoding_is_the_same_real_input_at_every_step(make_counts: Any, device: Any) -> None:
    rows = [
        {**REAL, "layer": "stem", "order": 0, "time_step": t, "input_repeated": t > 0, "note": "grey levels"}
        for t in range(4)
    ]
    counts = make_counts(rows, samples=2)
    [row] = se.audit(counts, device()).findings.to_dict("records")
    assert (row["category"], row["active_steps"]) == ("direct encoding", 4)
    assert row["why"] == "the same real values at each of 4 time steps: grey levels"
    assert (row["energy_pj_ac"], row["energy_pj_if_binary"]) == (4 * 1000, 4 * AC)
    [once] = se.audit(counts, device(), encoder="once").findings.to_dict("records")
    assert (once["energy_pj_ac"], once["energy_pj_if_binary"]) == (1000, AC)


ELEMENTWISE: dict[str, tuple[str, str, str]] = {
    "folded norm": ("norm", "folds into conv", ""),
    "norm": ("norm", "batch_norm: behind pool (max_pool2d)", "unfolded batch norm"),
    "norm of older counts": ("norm", "batch_norm", "unfolded batch norm"),
    "layer norm": ("norm", "layer_norm", "real-valued arithmetic"),
    "or": ("pool", "max_pool2d of spikes", ""),
    "max of sums": ("pool", "max_pool2d of sums of spikes", "max over sums of spikes"),
    "max of floats": ("pool", "max_pool2d of real values", "max over real values"),
    "max of averages": ("pool", "max_pool2d of averages of spikes", "max over real values"),
    "max of the input": ("pool", "max_pool2d of the network's input", "max over unknown values"),
    "max of older counts": ("pool", "max_pool2d", "max over unknown values"),
    "max over an axis": ("reduce", "amax of real values", "max over real values"),
    "maximum of two": ("compare", "maximum of real values", "max over real values"),
    "or of two": ("compare", "maximum of spikes", ""),
    "average before weights": ("pool", "avg_pool2d of spikes before weights", "average pooling before weights"),
    "mean before weights": ("mean", "mean of sums of spikes before weights", "average pooling before weights"),
    "average before a neuron": ("pool", "avg_pool2d of spikes", "average pooling"),
    "average of floats before weights": ("pool", "avg_pool2d of real values before weights", "average pooling"),
    "average of older counts": ("pool", "adaptive_avg_pool2d", "average pooling"),
    "mean of older counts": ("mean", "", "average pooling"),
    "nearest": ("pool", "interpolate of spikes", ""),
    "bilinear": ("pool", "interpolate (average) of spikes before weights", "average pooling before weights"),
    "resizing of older counts": ("pool", "interpolate", "average pooling"),
    "residual": ("add", "add of spikes", "sum of activations"),
    "residual of older counts": ("add", "", "sum of activations"),
    "sum over an axis": ("reduce", "sum of spikes", "sum of activations"),
    "and": ("mul", "mul of spikes", ""),
    "gate": ("mul", "mul of real values", "real-valued arithmetic"),
    "softmax": ("softmax", "softmax", "real-valued arithmetic"),
    "gelu": ("activation", "gelu", "real-valued arithmetic"),
    "scale": ("scale", "", "real-valued arithmetic"),
    "threshold": ("compare", "gt of real values", "real-valued arithmetic"),
    "spikes": ("neuron", "", ""),
    "read-out": ("neuron", INTEGRATES_ONLY_NOTE, "neuron that does more than spike"),
    "several spikes": ("neuron", "emits up to 3 spikes per step", "neuron that does more than spike"),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_is_no_weight_layer_is_judged_by_its_note_and_unknown_where_that_does_not_tell(
    name: str, make_counts: Any, device: Any
) -> None:
    op, note, category = ELEMENTWISE[name]
    work = {"elementwise_ops": 0 if note.startswith("folds") or op == "neuron" else 64, "input_kind": None}
    found = se.audit(make_counts([{"op": op, "note": note, **work}], samples=2), device())
    [row] = found.operations.to_dict("records")
    assert row["category"] == category
    assert category in ("", *CATEGORIES)
    says_unknown = " of " not in note and ("of older" in name or "pool" in category or category == "sum of activations")
    assert (UNKNOWN in row["why"]) == says_unknown
    energies = [row[energy_column(p)] for p in POLICIES]
    if op == "add":
        assert energies == [5 * 32] * 4
        assert row["not_priced"] == ""
    elif work["elementwise_ops"]:
        assert all(math.isnan(value) for value in energies)
        assert row["not_priced"] == "not priced by test: element-wise operations"
    else:
        assert energies == [0] * 4
    assert math.isnan(row["energy_pj_if_binary"])


def test_a_price_for_an_element_wise_operation_is_used_and_the_others_stay_unknown(
    make_counts: Any, tmp_path: Path, device_text: Any
) -> None:
    (tmp_path / "own.yaml").write_text(device_text(add=4).replace("    add:", "    norm:"), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"layer": "bn", "op": "norm", "note": "batch_norm", "elementwise_ops": 50, "input_kind": None},
        {"layer": "sum", "op": "add", "elementwise_ops": 50, "input_kind": None},
    ]
    found = se.audit(make_counts(rows), tmp_path / "own.yaml").findings.set_index("layer")
    assert found.loc["bn", "energy_pj_mac"] == 4 * 50
    assert math.isnan(found.loc["sum", "energy_pj_mac"])


def test_an_operation_without_a_rule_is_a_finding_of_unknown_cost(make_counts: Any, device: Any) -> None:
    unknown = dict.fromkeys(("dense_macs", "sops", "sops_gated", "elementwise_ops"))
    row = {**unknown, "op": "unsupported", "note": "fft_fft", "input_kind": None, "max_k": None}
    found = se.audit(make_counts([row, WORK]), device())
    [finding] = found.findings.to_dict("records")
    assert (finding["category"], finding["why"]) == ("operation without a rule", "fft_fft")
    assert all(math.isnan(finding[c]) for c in ("energy_pj_ac", "energy_pj_mac", "elementwise_ops_per_sample"))
    assert finding["not_priced"] != ""


def test_a_layer_is_one_finding_over_its_steps_and_a_masked_step_costs_nothing(make_counts: Any, device: Any) -> None:
    step = {**WORK, "layer": "fc", "order": 0, "input_kind": "integer", "max_k": 2}
    idle = step | dict.fromkeys(("dense_macs", "sops", "sops_gated", "sops_multi"), 0) | {"active": False}
    rows = [{**step, "time_step": 0}, {**step, "time_step": 1}, {**idle, "time_step": 2}]
    [found] = se.audit(make_counts(rows, samples=2), device()).findings.to_dict("records")
    assert (found["active_steps"], found["max_k"], found["energy_pj_multi_ac"]) == (2, 2, 2 * MULTI)


def test_shares_and_verdict_of_three_layers(make_counts: Any, device: Any) -> None:
    rows = [
        {**WORK, "layer": "binary"},
        {**WORK, "layer": "sum", "input_kind": "integer", "max_k": 2},
        {**REAL, "layer": "real"},
        {"layer": "lif", "op": "neuron", "neurons": 10, "spikes": 8, "input_kind": None, "max_k": None},
        {"layer": "bn", "op": "norm", "note": "batch_norm", "elementwise_ops": 9, "input_kind": None},
    ]
    found = se.audit(make_counts(rows, samples=2), device())
    neurons = 4 * 7 + (10 - 4) * 2  # a mean of 4 spikes of 10 neurons: 7 pJ with, 2 pJ without
    ac, mac = AC + AC + 1000 + neurons, AC + MAC + 1000 + neurons
    assert (found.compute_pj["ac"], found.compute_pj["mac"]) == (ac, mac)
    assert found.pure_share["ac"] == pytest.approx(AC / ac, rel=1e-12)
    assert found.pure_share["mac"] == pytest.approx(AC / mac, rel=1e-12)
    verdict = found.verdict()
    assert verdict.startswith("1 of 3 weight layers and products read binary spikes; 2 do not and carry ")
    assert f"{100 * (AC + 1000) / ac:.3g} % of compute under ac" in verdict
    assert f"{100 * (MAC + 1000) / mac:.3g} % under mac," in verdict
    assert found.verdict_elementwise() == "1 further finding lies outside them; test has no price for 1 of these"
    by_category = found.by_category().set_index("category")
    assert by_category.index.tolist() == ["real-valued input", "non-binary input", "unfolded batch norm"]
    assert by_category.loc["non-binary input", "share_mac"] == pytest.approx(MAC / mac, rel=1e-12)
    assert math.isnan(by_category.loc["unfolded batch norm", "energy_pj_ac"])


def test_a_network_of_binary_spikes_alone_has_no_findings(make_counts: Any, device: Any) -> None:
    rows: list[dict[str, Any]] = [
        {**WORK, "layer": "fc"},
        {"layer": "lif", "op": "neuron", "neurons": 3, "spikes": 2, "input_kind": None, "max_k": None},
    ]
    found = se.audit(make_counts(rows, samples=2), device())
    assert len(found.to_frame()) == 0
    assert len(found.by_category()) == 0
    assert found.verdict() == "1 of 1 weight layers and products read only binary spikes"
    assert found.verdict_elementwise() == ""


def test_a_device_without_a_mac_leaves_unknown_what_needs_one_and_prices_the_rest(
    make_counts: Any, tmp_path: Path, device_text: Any
) -> None:
    lines = device_text(mac=987).splitlines(keepends=True)
    text = "".join(line for line in lines if "987" not in line) + "not_priced: {mac: it has no multiplier}\n"
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    rows = [{**WORK, "layer": "sum", "input_kind": "integer", "max_k": 2}, {**REAL, "layer": "real"}]
    found = se.audit(make_counts(rows, samples=2), tmp_path / "own.yaml")
    table = found.findings.set_index("layer")
    assert table.loc["sum", "energy_pj_ac"] == AC
    assert math.isnan(table.loc["sum", "energy_pj_mac"])
    assert table.loc["sum", "not_priced"] == "under mac, mac-dense: not priced by test: multiply-accumulates"
    assert table.loc["real", list(map(energy_column, POLICIES))].isna().all()
    assert table.loc["real", "energy_pj_if_binary"] == AC
    assert all(math.isnan(value) for value in found.compute_pj.values())
    assert "carry an unknown share of compute under every policy" in found.verdict()


# --- Energies are those of estimate ------------------------------------------------------------------------------


counts_of = functools.cache(se.load_counts)


@pytest.mark.parametrize("hardware", ["dts-paper-fpga", "horowitz-45nm-int8", "eyeriss-relative", "loihi-calibrated"])
@pytest.mark.parametrize("path", COUNTED)
def test_findings_and_pure_operations_add_up_to_the_estimate(path: str, hardware: str) -> None:
    counts = counts_of(path)
    for products, encoder in (("coincidence", "per-step"), ("gated", "once")):
        found = se.audit(counts, hardware, products=products, encoder=encoder)  # type: ignore[arg-type]
        for policy in POLICIES:
            same_as_estimate(found, policy, hardware)


def same_as_estimate(found: Audit, policy: IntegerPolicy, hardware: str) -> None:
    energies = found.operations[energy_column(policy)]
    try:
        energy = se.estimate(
            found.counts, hardware, integer=policy, products=found.products, encoder=found.encoder,
            without=found.without,
        )  # fmt: skip
    except HardwareError:  # a price that is needed is missing
        assert math.isnan(found.compute_pj[policy])
        assert found.operations["not_priced"].str.contains(f"not priced by {hardware}").any()
        return
    assert found.compute_pj[policy] == pytest.approx(energy.compute_pj, rel=1e-12, nan_ok=True)
    if not math.isnan(energy.compute_pj):
        assert energies.sum() == pytest.approx(energy.compute_pj, rel=1e-12)
        layers = energy.to_frame("layer").set_index("layer")["compute_pj"]
        table = found.operations.dropna(subset=[energy_column(policy)]).groupby("layer")[energy_column(policy)].sum()
        assert table.tolist() == pytest.approx(layers[table.index].tolist(), rel=1e-9)


def test_layers_left_out_are_not_audited_and_the_sums_are_still_those_of_estimate() -> None:
    counts = se.load_counts(COUNTED[1])
    found = se.audit(counts, "loihi-calibrated", without=("sps.conv0", "head"))
    assert not {"sps.conv0", "head"} & set(found.operations["layer"])
    for policy in POLICIES:
        same_as_estimate(found, policy, "loihi-calibrated")
    assert found.compute_pj["ac"] > 0


def test_published_counts_are_audited_where_they_have_layers_and_else_refused_in_one_line() -> None:
    layered, refused = 0, 0
    for file in list_published():
        for network in published_names(f"published:{file}"):
            counts = se.load_counts(f"published:{file}:{network}")
            if not counts.header["by_layer"]:
                with pytest.raises(CountsError, match="totals of a whole network") as caught:
                    se.audit(counts, "horowitz-45nm-fp32")
                assert "\n" not in str(caught.value)
                refused += 1
                continue
            found = se.audit(counts, "horowitz-45nm-fp32")
            for policy in POLICIES:
                same_as_estimate(found, policy, "horowitz-45nm-fp32")
            unknown = found.weighted["energy_pj_ac"].isna()
            assert (found.weighted.loc[unknown, "not_priced"] != "").all()
            layered += 1
    assert layered >= 4
    assert refused >= 5


# --- The shipped networks ----------------------------------------------------------------------------------------

SPIKFORMER: dict[str, str] = {
    "sps.conv0": "direct encoding",
    "sps.pool2": "max over unknown values", "sps.pool3": "max over unknown values",
    **{f"blocks.{i}.{name}": "non-binary input" for i in (0, 1)
       for name in ("attn.q_conv", "attn.k_conv", "attn.v_conv", "mlp.fc1_conv")},
    **{f"blocks.{i}.attn#matmul1": "product with a non-binary operand" for i in (0, 1)},
    **dict.fromkeys(("sps#add0", "blocks.0#add0", "blocks.0#add1", "blocks.1#add0", "blocks.1#add1"),
                    "sum of activations"),
    "#mean0": "average pooling", "#mean1": "average pooling", "head": "average pooling before weights",
}  # fmt: skip


NEWLY_KNOWN = {"#mean0": "average pooling before weights", "#mean1": "average pooling before weights"}


@pytest.mark.parametrize("name", ["spikformer-2-128", "dts-spikformer-2-128"])
def test_counts_whose_notes_do_not_say_what_was_read_are_audited_as_far_as_they_go(name: str) -> None:
    """Counts made by version 0.1."""
    found = se.audit(se.load_counts(CIFAR / f"{name}.json"), "dts-paper-fpga")
    assert dict(zip(found.findings["layer"], found.findings["category"], strict=True)) == SPIKFORMER
    table = found.findings.set_index("layer")
    for layer in ("sps.pool2", "sps#add0", "#mean0", "head"):
        assert UNKNOWN in table.loc[layer, "why"]


@pytest.mark.parametrize("name", ["spikformer-2-64", "dts-spikformer-2-64"])
def test_the_demo_spikformers_are_spiking_but_for_the_residual_stream_the_stem_and_the_head(name: str) -> None:
    found = se.audit(se.load_counts(DEMO / f"{name}.json"), "dts-paper-fpga")
    known = {layer: kind for layer, kind in SPIKFORMER.items() if "pool" not in layer} | NEWLY_KNOWN
    assert dict(zip(found.findings["layer"], found.findings["category"], strict=True)) == known
    assert found.is_spiking
    assert found.verdict().startswith("10 of 22 weight layers and products read binary spikes; 12 do not and carry ")
    # By hand: accumulates of binary inputs at 1.8 pJ, zero checks at 0.05 pJ.
    rows = pd.DataFrame(json.loads((DEMO / f"{name}.json").read_text(encoding="utf-8"))["rows"])
    binary = rows[(rows["input_kind"] == "binary") & rows["other_kind"].isin([None, "binary"])]
    pure_pj = float((1.8 * binary["sops"] + 0.05 * binary["dense_macs"]).sum()) / 360
    whole = se.estimate(found.counts, "dts-paper-fpga").compute_pj
    assert found.pure_share["ac"] == pytest.approx(pure_pj / whole, rel=1e-9)


def test_the_demo_vit_is_real_throughout_and_the_audit_says_so() -> None:
    found = se.audit(se.load_counts(DEMO / "vit-2-64.json"), "dts-paper-fpga")
    assert not found.is_spiking
    assert (found.weighted["category"] != "").all()
    assert len(found.weighted) == 22
    assert found.pure_share == dict.fromkeys(POLICIES, 0)
    assert found.verdict() == (
        "the counts of vit-2-64 contain no spiking neurons; 0 of 22 weight layers and products read binary values; "
        "22 do not and carry 100 % of compute under every policy"
    )


def test_a_spikformer_profiled_now_tells_what_its_maxima_and_sums_are_of() -> None:
    from snn_energy.studies.demo import checkpoint_path

    model = se.load_checkpoint(checkpoint_path("spikformer-2-64"))
    assert isinstance(model, Spikformer)
    generator = torch.Generator().manual_seed(0)
    counts = se.profile(model, [torch.rand(2, 1, 16, 16, generator=generator)])
    found = se.audit(counts, "dts-paper-fpga")
    known = {k: v for k, v in SPIKFORMER.items() if "pool" not in k} | NEWLY_KNOWN
    assert dict(zip(found.findings["layer"], found.findings["category"], strict=True)) == known
    assert not found.findings["why"].str.contains(UNKNOWN).any()
    table = found.operations.set_index("layer")["why"]
    assert table["sps.pool2"] == "max_pool2d of spikes"
    assert table["sps#add0"] == "add of spikes"
    assert table["blocks.0#add1"] == "add of sums of spikes"
    assert table["head"] == "average of spikes (mean)"


# --- A network of one's own --------------------------------------------------------------------------------------


class Does(nn.Module):
    """A network written as one function of itself and its input."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def conv(channels: int = 4) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, padding=1, bias=False)


def norm() -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(4)
    nn.init.constant_(made.bias, 0.4)
    return made


def audited(model: nn.Module, *batches: Tensor, **options: Any) -> pd.DataFrame:
    """All operations of a network of one's own, by layer."""
    counts = se.profile(model, list(batches), **{"time_steps": 1, "time": "axis0", **options})
    return se.audit(counts, "dts-paper-fpga").operations.set_index("layer")


def test_every_category_of_a_public_style_network_is_found_where_it_is_and_nowhere_else() -> None:
    steps = 2

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        def fired(neuron: nn.Module, current: Tensor) -> Tensor:
            out: Tensor = neuron(current.unflatten(0, (steps, -1))).flatten(0, 1)
            return out

        a = fired(self.lif0, self.bn0(self.conv0(x.repeat(steps, 1, 1, 1))))
        b = fired(self.lif1, self.bn1(self.conv1(a)))
        c = fired(self.lif2, self.bn2(self.pool2(self.conv2(a + b))))  # residual sum; BN behind a max over floats
        c = self.pool3(c)  # of spikes
        q, k = fired(self.lif_q, self.conv_q(c)).flatten(2), fired(self.lif_k, self.conv_k(c)).flatten(2)
        scores = q.transpose(1, 2) @ k  # of spikes
        weights = scores.softmax(-1)
        mixed = weights @ (scores * 0.3 + weights)  # of real values
        d = fired(self.lif4, functional.gelu(self.ln(mixed)))
        return self.fc(d).mean(1), self.conv5(self.avg(c))

    torch.manual_seed(1)
    model = Does(
        forward, conv0=conv(2), bn0=norm(), lif0=LIF(v_th=0.5), conv1=conv(), bn1=norm(), lif1=LIF(v_th=0.5),
        conv2=conv(), pool2=nn.MaxPool2d(2), bn2=norm(), lif2=LIF(v_th=0.5), pool3=nn.MaxPool2d(2),
        conv_q=conv(), lif_q=LIF(v_th=0.05), conv_k=conv(), lif_k=LIF(v_th=0.05), ln=nn.LayerNorm(16),
        lif4=LIF(v_th=0.2), fc=nn.Linear(16, 4), avg=nn.AvgPool2d(2), conv5=conv(),
    )  # fmt: skip
    nn.init.uniform_(model.get_submodule("ln").bias, -1, 1)  # type: ignore[arg-type]
    x = torch.rand(2, 2, 16, 16)
    layers = se.profile(model, [x], time_steps=steps, time="inside").spiking_layers()
    assert layers["rate"].between(0.02, 0.98).all(), layers
    found = audited(model, x, time_steps=steps, time="inside")
    expected = {
        "conv0": "direct encoding", "#add0": "sum of activations", "conv2": "non-binary input",
        "pool2": "max over real values", "bn2": "unfolded batch norm", "#matmul1": "real-valued product",
        "#softmax0": "real-valued arithmetic", "#scale0": "real-valued arithmetic", "#add1": "sum of activations",
        "ln": "real-valued arithmetic", "#activation0": "real-valued arithmetic",
        "avg": "average pooling before weights", "conv5": "average pooling before weights",
        "#mean0": "average pooling",
    }  # fmt: skip
    assert found.loc[found["category"] != "", "category"].to_dict() == expected
    why = found["why"]
    assert why["conv2"] == "whole multiples of one constant up to 2, as sums of spikes are"
    assert why["pool2"] == "max_pool2d of real values"
    assert why["pool3"] == "max_pool2d of spikes"
    assert why["bn2"] == "batch_norm: behind pool2 (max_pool2d)"
    assert why["avg"] == "avg_pool2d of spikes before weights"
    assert why["conv5"] == "average of spikes (avg_pool2d)"
    assert why["#add0"] == "add of spikes"
    assert why["#add1"] == "add of real values"
    assert why["#mean0"] == "mean of real values"
    pure = found[found["category"] == ""]
    assert set(pure.index) == {
        "bn0", "lif0", "conv1", "bn1", "lif1", "lif2", "pool3", "conv_q", "lif_q", "conv_k", "lif_k", "#matmul0",
        "lif4", "fc",
    }  # fmt: skip
    assert found.loc["conv0", "energy_pj_ac"] == pytest.approx(13.32 * 2 * 16 * 16 * 9 * 2 * 4, rel=1e-12)


POOLED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, str]] = {
    "of a pool of spikes": (lambda self, x: functional.max_pool1d(self.lif(x)[0], 2), "", "spikes"),
    "of spikes of unequal size": (
        lambda self, x: torch.cat([self.lif(x)[0], self.lif(x * 2)[0]], 1), "", "spikes",
    ),
    "of scaled spikes": (lambda self, x: self.lif(x)[0] * 0.3, "", "spikes"),
    "of hand-written spikes": (lambda self, x: (self.fc(x)[0] > 0.1).float(), "", "spikes"),
    "of hand-written spikes, scaled": (lambda self, x: (self.fc(x)[0] > 0.1).float() * 0.3, "", "spikes"),
    "of padded spikes": (lambda self, x: functional.pad(self.lif(x)[0], [1, 1]), "", "spikes"),
    "of sums": (lambda self, x: self.lif(x)[0] + self.lif(x * 2)[0], "max over sums of spikes", "sums of spikes"),
    "of hand-written sums": (
        lambda self, x: (x[0] > 0.2).float() + (x[0] > 0.6).float(), "max over sums of spikes", "sums of spikes",
    ),
    "of sums of unequal spikes": (
        lambda self, x: self.lif(x)[0] + 0.3 * self.lif(x * 2)[0], "max over real values", "real values",
    ),
    "of a weight layer": (lambda self, x: self.fc(x)[0], "max over real values", "real values"),
    "of spikes and currents": (
        lambda self, x: self.lif(x)[0] + self.fc(x)[0], "max over real values", "real values",
    ),
    "of currents through a view": (
        lambda self, x: self.fc(x)[0].transpose(0, 1).contiguous().transpose(0, 1), "max over real values",
        "real values",
    ),
    "of averages": (
        lambda self, x: functional.avg_pool1d(self.lif(x)[0], 2), "max over real values", "averages of spikes",
    ),
    "of potentials": (lambda self, x: self.graded(x)[0], "max over real values", "real values"),
    "of the input": (lambda self, x: x[0], "max over unknown values", "the network's input"),
    "of spikes beside the input": (
        lambda self, x: torch.cat([self.lif(x)[0], x[0]], 1), "max over unknown values", UNKNOWN,
    ),
    "of spikes plus one": (lambda self, x: (x[0] > 0.2).float() + 1, "max over unknown values", UNKNOWN),
}  # fmt: skip


class Graded(LIF):
    """A neuron that gives its potential where it fires."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x


@pytest.mark.parametrize("name", POOLED)
def test_a_max_pool_says_whether_it_chooses_among_spikes_or_among_real_values(name: str) -> None:
    before, category, nature = POOLED[name]
    model = Does(
        lambda self, x: self.out(self.pool(before(self, x))),
        lif=LIF(v_th=0.4), graded=Graded(v_th=0.4), fc=nn.Linear(8, 8), pool=nn.MaxPool1d(2),
        out=nn.LazyLinear(3),
    )  # fmt: skip
    x = torch.rand(1, 4, 5, 8)
    model(x)
    found = audited(model, x).loc["pool"]
    assert found["category"] == category
    assert nature in found["why"]


NORMS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "behind a neuron": (lambda self, x: self.bn(self.lif(self.conv(x)[None])[0]), "batch_norm: behind lif (neuron)"),
    "behind an add": (lambda self, x: self.bn(self.conv(x) + self.conv1(x)), "batch_norm: behind #add0 (add)"),
    "other readers": (lambda self, x: (y := self.conv(x)) + self.bn(y), "batch_norm: conv has other readers"),
    "an output": (lambda self, x: (y := self.conv(x), self.bn(y)), "batch_norm: conv has other readers"),
    "the input": (lambda self, x: self.conv(self.bn(x)), "batch_norm: of the network's input"),
    "two layers": (
        lambda self, x: self.bn(torch.cat([self.conv(x), self.conv1(x)], 2)), "batch_norm: behind 2 layers at once",
    ),
    "of the batch": (
        lambda self, x: functional.batch_norm(self.conv(x), None, None, training=True),
        "batch_norm: statistics of the batch itself; depends on the other samples of its batch",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::snn_energy.profiler.run.DependsOnBatchWarning")
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_does_not_fold_says_why(name: str) -> None:
    forward, why = NORMS[name]
    found = audited(Does(forward, conv=conv(), conv1=conv(), bn=norm(), lif=LIF()), torch.rand(2, 4, 6, 6), time=None)
    norms = found[found["op"] == "norm"]
    assert norms[["category", "why"]].to_numpy().tolist() == [["unfolded batch norm", why]]


def test_an_average_in_front_of_a_neuron_is_not_before_weights() -> None:
    model = Does(
        lambda self, x: self.fc(self.second(functional.avg_pool1d(self.first(x)[0], 2)[None])[0]),
        first=LIF(v_th=0.4), second=LIF(v_th=0.2), fc=nn.Linear(4, 3),
    )  # fmt: skip
    found = audited(model, torch.rand(1, 4, 5, 8))
    assert found.loc[found["category"] != "", "category"].to_dict() == {"#pool0": "average pooling"}
    assert found.loc["#pool0", "why"] == "avg_pool1d of spikes"


def test_binary_input_of_event_data_is_no_finding() -> None:
    model = Does(lambda self, x: self.lif(self.conv(x.flatten(0, 1)).unflatten(0, (2, -1))), conv=conv(), lif=LIF())
    found = audited(model, (torch.rand(2, 3, 4, 6, 6) < 0.3).float(), time_steps=2)
    assert (found["category"] == "").all()


def test_an_audit_does_not_depend_on_the_batches_nor_on_saving(tmp_path: Path) -> None:
    model = Does(
        lambda self, x: self.fc(functional.max_pool1d(self.lif(x)[0], 2)), lif=LIF(v_th=0.4), fc=nn.Linear(4, 3)
    )
    x = torch.rand(1, 6, 5, 8)
    together = se.profile(model, [x], time_steps=1, time="axis0")
    apart = se.profile(model, [x[:, :2], x[:, 2:4], x[:, 4:]], time_steps=1, time="axis0")
    apart.save(tmp_path / "counts.json")
    a, b = (
        se.audit(counts, "dts-paper-fpga").operations for counts in (together, se.load_counts(tmp_path / "counts.json"))
    )
    pd.testing.assert_frame_equal(a, b)


# --- The command -------------------------------------------------------------------------------------------------


def test_the_command_prints_the_findings_and_writes_them_with_every_digit(tmp_path: Path, cli: Cli) -> None:
    faces = {kind: tmp_path / f"audit.{kind}" for kind in ("csv", "json", "markdown", "latex")}
    options = [text for kind, path in faces.items() for text in (f"--{kind}", path)]
    code, out, err = cli("audit", COUNTED[1], "--hardware", "dts-paper-fpga", *options)
    assert (code, err) == (0, "")
    found = se.audit(se.load_counts(COUNTED[1]), "dts-paper-fpga")
    assert found.verdict() in out
    assert "non-binary input" in out
    table = pd.read_csv(faces["csv"])
    assert table.columns.tolist() == found.findings.columns.tolist()
    assert table["energy_pj_mac_dense"].sum() == found.findings["energy_pj_mac_dense"].sum()
    assert table["layer"].tolist() == list(SPIKFORMER_ORDER(found))
    document = json.loads(faces["json"].read_text(encoding="utf-8"))
    assert document["verdict"] == found.verdict()
    assert document["rows"][1]["energy_pj_ac"] is None
    assert document["rows"][1]["not_priced"] == "not priced by dts-paper-fpga: element-wise operations"
    assert faces["markdown"].read_text(encoding="utf-8").count("\n") == len(table) + 2
    assert "non-binary input" in faces["latex"].read_text(encoding="utf-8")


def SPIKFORMER_ORDER(found: Audit) -> Iterator[str]:  # findings stand in the order of the network
    order = found.counts.rows.drop_duplicates("layer")["layer"].tolist()
    return iter(sorted(found.findings["layer"], key=order.index))


def test_the_policies_and_layers_left_out_reach_the_audit(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "audit.csv"
    options = ("--products", "gated", "--encoder", "once", "--without", "head", "--csv", path)
    code, _, err = cli("audit", COUNTED[1], "--hardware", "dts-paper-fpga", *options)
    assert (code, err) == (0, "")
    table = pd.read_csv(path).set_index("layer")
    assert "head" not in table.index
    assert table.loc["sps.conv0", "energy_pj_ac"] == pytest.approx(982_056.96 / 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.json", "--hardware", "dts-paper-fpga"), "nowhere.json: no such counts file"),
        ((COUNTED[1], "--hardware", "dts-paper-fgpa"), "did you mean 'dts-paper-fpga'?"),
        ((COUNTED[1], "--hardware", "dts-paper-fpga", "--without", "heat"), "no layer 'heat'"),
        (("published:energy-arithmetic:spikformer-8-512", "--hardware", "dts-paper-fpga"), "totals of a whole network"),
        ((COUNTED[1], "--hardware", "dts-paper-fpga", "--csv", COUNTED[1]), "would be overwritten"),
        ((COUNTED[1], "--hardware", "dts-paper-fpga", "--csv", "a", "--json", "a"), "is given for two outputs"),
        ((COUNTED[1], "--hardware", "dts-paper-fpga", "--csv", "nowhere/a.csv"), "nowhere/a.csv: cannot be written"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: tuple[str, ...], said: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("audit", *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: ")
    assert said in err


def test_an_unknown_policy_is_refused(make_counts: Any, device: Any) -> None:
    with pytest.raises(SnnEnergyError, match="unknown products policy 'gate'; did you mean 'gated'"):
        se.audit(make_counts([WORK]), device(), products="gate")  # type: ignore[arg-type]
