"""Figures of LIF inputs against numpy over all stored inputs; the rule on data where the answer is evident."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray
from ruamel.yaml import YAML
from torch import Tensor, nn

from snn_energy.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from snn_energy.core.errors import CheckpointError, ModelError, OutputError, ProfilingError, SnnEnergyError
from snn_energy.core.groups import layer_group
from snn_energy.datasets.open import load_images
from snn_energy.models.create import create_model
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.report.plots.time_steps import sensitivity_figure
from snn_energy.studies.demo import checkpoint_path
from snn_energy.studies.sensitivity.measure import (
    CUTS_FILE,
    FILES,
    Sensitivity,
    measure,
    sensitivity_of_checkpoint,
    truncating_hooks,
)
from snn_energy.studies.sensitivity.recommend import (
    BUNDLED_WEIGHT,
    THRESHOLD,
    cut_rows,
    half_losses,
    later_cosines,
    recommend,
    recommended_groups,
)
from snn_energy.studies.sensitivity.statistics import RANGE, histogram
from snn_energy.training.recipe import load_recipe

DTS, SPIKFORMER, VIT = (checkpoint_path(f"{family}-2-64") for family in ("dts-spikformer", "spikformer", "vit"))
EXACT = ["count", "above_threshold", "below_range", "above_range", "cosine_samples", "cosine_undefined", "time_step"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digits(samples: int) -> Tensor:
    return torch.from_numpy(load_images("digits", "test", 16, 1, samples).batch(np.arange(samples)))


def labels(samples: int) -> Tensor:
    return torch.from_numpy(load_images("digits", "test", 16, 1, samples).labels)


@pytest.fixture(scope="module")
def spikformer() -> Sensitivity:
    return measure(load_checkpoint(SPIKFORMER), [(digits(24), labels(24))])


@pytest.fixture(scope="module")
def dts() -> Sensitivity:
    return measure(load_checkpoint(DTS), [(digits(24), labels(24))])


def stored_inputs(model: nn.Module, x: Tensor) -> dict[str, NDArray[np.float32]]:
    """Every input of every spiking layer, (T, B, N)."""
    found: dict[str, NDArray[np.float32]] = {}
    handles = []
    for name, layer in spiking_layers(model).items():

        def keep(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            found[name] = args[0].flatten(2).numpy().copy()

        handles.append(layer.register_forward_pre_hook(keep))
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def rows_of(cosines: dict[str, list[float]]) -> pd.DataFrame:
    """Rows as ``to_frame`` has them, for layers of which only the cosines over the steps matter."""
    return pd.DataFrame(
        {
            "layer": layer,
            "group": layer_group(layer),
            "time_step": t,
            "cosine": value,
            "histogram_cosine": 1.0,
            "above_threshold_share": 0.25,
            "same_as_first": False,
        }
        for layer, values in cosines.items()
        for t, value in enumerate(values)
    )


# one layer, by hand


def test_figures_of_one_layer_by_hand() -> None:
    # two steps, two samples, two neurons; V_th 2
    x = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[4.0, 3.0], [0.0, 2.0]]])
    found = measure(LIF(v_th=2.0), [x], bins=4)
    first, second = found.to_frame().to_dict("records")
    assert (first["layer"], first["group"], first["neuron"], first["t_l"]) == ("LIF", "other", "LIF", 2)
    assert (first["count"], first["mean"], first["min"], first["max"], first["v_th"]) == (4, 2.0, 0.0, 4.0, 2.0)
    assert first["std"] == pytest.approx(math.sqrt((1 + 4 + 1 + 4) / 4), abs=1e-15)
    assert (first["above_threshold"], first["above_threshold_share"]) == (2, 0.5)  # 2.0 itself is not above
    assert (second["above_threshold"], second["above_threshold_share"]) == (2, 0.5)
    assert (first["cosine"], first["cosine_samples"], first["cosine_undefined"]) == (1.0, 2, 0)
    assert second["cosine"] == pytest.approx((24 / 25 + 0) / 2, abs=1e-15)  # 24/25 of one sample, 0 of the other
    # bins of 4 V_th = 8 units: -inf, -16, -8, 0, 8, 16, inf
    histograms = found.histograms()
    assert histograms["low"].tolist()[:6] == [-math.inf, -8, -4, 0, 4, 8]
    assert histograms["high"].tolist()[:6] == [-8, -4, 0, 4, 8, math.inf]
    assert histograms["count"].tolist() == [0, 0, 0, 4, 0, 0] * 2
    assert (second["histogram_cosine"], second["same_as_first"], first["same_as_first"]) == (1.0, False, True)
    assert (found.samples, found.time_steps) == (2, 2)


def test_histogram_cosine_and_sample_cosine_ask_different_things() -> None:
    x = torch.tensor([[[1.0, 0.0, 5.0]], [[0.0, 5.0, 1.0]]])  # the same values on other neurons
    last = measure(LIF(), [x]).to_frame().iloc[1]
    assert last["histogram_cosine"] == pytest.approx(1, abs=1e-15)
    assert last["cosine"] == pytest.approx(5 / 26, abs=1e-15)
    moved = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])  # the same direction, other values
    last = measure(LIF(), [moved]).to_frame().iloc[1]
    assert last["histogram_cosine"] == 0
    assert last["cosine"] == pytest.approx(1, abs=1e-15)


def test_constant_input_gives_1_and_the_opposite_gives_minus_1() -> None:
    x = torch.randn(1, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    frame = measure(LIF(), [torch.cat([x, x, -x, 3 * x])]).to_frame()
    assert np.abs(frame["cosine"].to_numpy() - [1, 1, -1, 1]).max() < 1e-12
    assert frame["same_as_first"].tolist() == [True, True, False, False]


def test_a_step_of_zeros_has_no_cosine_and_is_counted() -> None:
    x = torch.ones(3, 4, 6)
    x[1] = 0  # every sample
    x[2, 0] = 0  # one sample
    found = measure(LIF(), [x])
    frame = found.to_frame()
    assert math.isnan(frame["cosine"][1])
    assert frame["cosine_undefined"].tolist() == [0, 4, 1]
    assert frame["cosine_samples"].tolist() == [4, 0, 3]
    assert frame["cosine"][2] == pytest.approx(1, abs=1e-12)  # over the three samples that have one, not 3/4
    assert "inputs of zeros have no cosine and are left out: 5 of 12, in LIF" in found.recommendation()
    groups = found.groups()
    assert math.isnan(groups["cosine"][1])
    assert groups["layers_undefined"].tolist() == [0, 1, 0]
    assert groups["cosine_lowest_layer"].isna().tolist() == [False, True, False]


def test_a_first_step_of_zeros_leaves_no_cosine_at_all() -> None:
    x = torch.ones(2, 4, 6)
    x[0] = 0
    found = measure(LIF(), [x])
    assert found.to_frame()["cosine"].isna().all()
    text = found.recommendation()
    assert "other  out  no cosine (inputs of zeros), not among the groups of a recipe" in text
    assert text.splitlines()[-1] == "# no group reaches 0.9: no mask_loss line is recommended"


@pytest.mark.parametrize("bins", [1, 2, 7, 20, 64, 101])
def test_histogram_is_numpys_with_open_bins_outside(bins: int) -> None:
    rng = np.random.default_rng(bins)
    edges = np.linspace(-RANGE, RANGE, bins + 1)
    beside = np.concatenate([np.nextafter(np.float32(edges), s) for s in (np.float32(-20), np.float32(20))])
    corners = np.array([-8, 8, 0, -0.0, 1e-30, -1e-30, np.nextafter(np.float32(8), np.float32(0)), 1e30, -1e30])
    values = np.float32(np.concatenate([rng.normal(0, 4, 5000), beside, corners])).astype(np.float64)
    expected, _ = np.histogram(values, np.concatenate([[-np.inf], edges, [np.inf]]))
    found = histogram(torch.from_numpy(values).view(-1, 1), bins)
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist()
    assert found.sum() == len(values)


def test_an_edge_belongs_to_the_bin_above_it() -> None:
    assert histogram(torch.tensor([-8.0, -8.0001, 0.0, -1e-30, 8.0, 7.9999], dtype=torch.float64), 2).tolist() == [
        1, 2, 2, 1,
    ]  # fmt: skip


def test_inputs_beyond_the_range_are_reported_never_cut_off() -> None:
    x = torch.tensor([[[-5.0, -4.0, 0.0, 3.9, 4.0]], [[0.0, 0.0, 0.0, 0.0, 1e9]]])
    found = measure(LIF(v_th=0.5), [x])
    frame = found.to_frame()
    assert frame["below_range"].tolist() == [1, 0]
    assert frame["above_range"].tolist() == [1, 1]
    assert found.counts.sum(1).tolist() == [5, 5]
    assert "30.000% of the inputs lie outside -8..8 V_th" in found.recommendation()


def test_a_hoyer_layer_is_measured_in_units_of_what_it_fires_at() -> None:
    layer = LIF(rule="hoyer")
    with torch.no_grad():
        layer.threshold.fill_(0.5)
        layer.get_buffer("extremum").fill_(0.5)
    frame = measure(layer, [torch.full((2, 1, 1), 0.3)]).to_frame()
    assert frame["v_th"].tolist() == [0.25, 0.25]
    assert frame["above_threshold"].tolist() == [1, 1]
    with torch.no_grad():
        layer.threshold.fill_(-0.5)
    with pytest.raises(ProfilingError, match=r"LIF: fires at -0\.25; .* must be a positive threshold"):
        measure(layer, [torch.ones(2, 1, 1)])


def test_inputs_of_any_precision_are_measured() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        frame = measure(LIF(), [torch.tensor([[[2.0, 1.0]], [[1.0, 2.0]]], dtype=dtype)]).to_frame()
        assert frame["cosine"].tolist() == pytest.approx([1, 0.8], abs=1e-12)


def test_a_layer_called_by_keyword_and_twice_is_looked_at_every_time() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif = LIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(current=self.lif(x) + 1)  # type: ignore[no-any-return]

    found = measure(Twice(), [torch.rand(3, 2, 5)])
    assert found.to_frame()["count"].tolist() == [20, 20, 20]
    assert found.samples == 2


# against numpy


@pytest.mark.parametrize("network", ["spikformer", "dts"])
def test_all_figures_equal_numpys_over_stored_inputs(network: str, request: pytest.FixtureRequest) -> None:
    found: Sensitivity = request.getfixturevalue(network)
    model = load_checkpoint(SPIKFORMER if network == "spikformer" else DTS)
    layers, inputs = spiking_layers(model), stored_inputs(model, digits(24))
    frame, histograms = found.to_frame(), found.histograms()
    assert list(dict.fromkeys(frame["layer"])) == list(layers)
    assert len(frame) == 4 * len(layers) == 76
    edges = np.concatenate([[-np.inf], np.linspace(-8, 8, 65), [np.inf]])
    for row in frame.to_dict("records"):
        single, v_th = inputs[row["layer"]], layers[row["layer"]].v_th
        x, first = single[row["time_step"]].astype(np.float64), single[0].astype(np.float64)
        assert (row["count"], row["v_th"], row["group"]) == (x.size, v_th, layer_group(row["layer"]))
        for name, value in (("mean", x.mean()), ("std", x.std()), ("min", x.min()), ("max", x.max())):
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert row["above_threshold"] == (x > v_th).sum()
        assert row["above_threshold_share"] == (x > v_th).sum() / x.size
        expected = np.histogram(x / v_th, edges)[0]
        chosen = (histograms["layer"] == row["layer"]) & (histograms["time_step"] == row["time_step"])
        assert histograms["count"][chosen].tolist() == expected.tolist()
        assert (row["below_range"], row["above_range"]) == (expected[0], expected[-1])
        start = np.histogram(first / v_th, edges)[0]
        alike = expected @ start / math.sqrt(int(expected @ expected) * int(start @ start))
        assert row["histogram_cosine"] == pytest.approx(alike, abs=1e-12)
        norms = np.sqrt((x**2).sum(1) * (first**2).sum(1))
        assert row["cosine_undefined"] == (norms == 0).sum()
        assert row["cosine_samples"] == (norms > 0).sum()
        if (norms > 0).any():
            cosines = (x * first).sum(1)[norms > 0] / norms[norms > 0]
            assert row["cosine"] == pytest.approx(cosines.mean(), abs=1e-12)
        else:
            assert math.isnan(row["cosine"])
        assert row["same_as_first"] == np.array_equal(x, first)


def test_histogram_totals_are_the_inputs_exactly(spikformer: Sensitivity) -> None:
    totals = spikformer.histograms().groupby(["layer", "time_step"], sort=False)["count"].sum()
    assert totals.tolist() == spikformer.to_frame()["count"].tolist()
    assert spikformer.to_frame()["count"].min() == 24 * 64 * 16
    bounds = spikformer.histograms().iloc[:66]
    assert bounds["high"].tolist()[:-1] == bounds["low"].tolist()[1:]


@pytest.mark.parametrize("cuts", [[24], [1] * 24, [5, 5, 5, 5, 4], [23, 1]])
def test_figures_do_not_depend_on_the_batches(cuts: list[int], spikformer: Sensitivity) -> None:
    batches = zip(digits(24).split(cuts), labels(24).split(cuts), strict=True)
    found = measure(load_checkpoint(SPIKFORMER), list(batches))
    assert found.samples == 24
    assert found.hits == spikformer.hits
    assert np.array_equal(found.counts, spikformer.counts)
    a, b = found.to_frame(), spikformer.to_frame()
    pd.testing.assert_frame_equal(a[EXACT], b[EXACT])
    pd.testing.assert_frame_equal(a, b, rtol=1e-9, atol=1e-9)


def test_std_of_a_large_constant_is_zero_over_batches() -> None:
    frame = measure(LIF(), list(torch.full((2, 6, 100), 1e6).split([1, 2, 3], dim=1))).to_frame()
    assert frame["std"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert frame["mean"].tolist() == [1e6, 1e6]


# DTSS


def test_a_dts_network_says_where_masks_are_and_that_they_take_part(dts: Sensitivity) -> None:
    model = load_checkpoint(DTS)
    flags = {name: layer.active_flags() for name, layer in spiking_layers(model).items() if isinstance(layer, DTSS)}
    frame = dts.to_frame()
    assert set(frame["neuron"]) == {"DTSS"}
    for name, part in frame.groupby("layer"):
        assert part["active"].tolist() == flags[str(name)]
        assert set(part["t_l"]) == {sum(flags[str(name)])}
    masked = int((~frame["active"]).sum())
    assert masked > 0
    text = " ".join(dts.recommendation().split())
    assert f"a DTSS network, masked steps included: {masked} of 76 inputs" in text
    assert "meet a masked neuron, which costs nothing to cut. Measure a network with all its steps." in text


def test_a_plain_spikformer_has_every_step_active(spikformer: Sensitivity) -> None:
    frame = spikformer.to_frame()
    assert frame["active"].all()
    assert set(frame["t_l"]) == {4}
    assert "DTSS" not in spikformer.recommendation()


# what is left behind


class Breaks(nn.Module):
    """A LIF, and an error behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lif, self.drop = LIF(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        self.lif(x)
        raise RuntimeError("behind the LIF")


def test_hooks_and_modes_are_as_before_also_after_an_error() -> None:
    model = load_checkpoint(DTS)
    model.train()
    model.get_submodule("sps").eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, [(digits(2), labels(2))])
    assert hooks_of(model) == 0
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    broken = Breaks().train()
    broken.lif.eval()
    kept = broken.lif.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(RuntimeError, match="behind the LIF"):
        measure(broken, [torch.ones(2, 1, 1)])
    assert (broken.training, broken.lif.training, broken.drop.training) == (True, False, True)
    assert hooks_of(broken) == 1  # the one that was there
    kept.remove()

    def stops() -> Iterator[Tensor]:
        yield torch.ones(2, 1, 1)
        raise KeyboardInterrupt

    lif = LIF().train()
    with pytest.raises(KeyboardInterrupt):
        measure(lif, stops())
    assert hooks_of(lif) == 0
    assert lif.training


@pytest.mark.parametrize("path", [SPIKFORMER, DTS])
def test_the_network_gives_what_it_gave(path: Path) -> None:
    model, x = load_checkpoint(path), digits(6)

    read: list[Tensor] = []

    class Listener(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            read.append(self.inner(x))
            return read[-1]

    with torch.no_grad():
        before = model(x)
    measure(Listener(), [(x, labels(6))])
    assert torch.equal(read[0], before)
    with torch.no_grad():
        assert torch.equal(model(x), before)


def test_progress_tells_the_samples_done() -> None:
    done: list[int] = []
    found = measure(LIF(), list(torch.rand(2, 7, 3).split([3, 3, 1], dim=1)), on_batch=done.append)
    assert done == [3, 6, 7]
    assert found.samples == 7


# errors


@pytest.mark.parametrize("bins", [0, -1, 2.0, True, "64", 10_001])
def test_bins_out_of_range_are_refused(bins: Any) -> None:
    with pytest.raises(ProfilingError, match=r"^bins must be a whole number from 1 to 10000, not "):
        measure(LIF(), [torch.ones(2, 1, 1)], bins=bins)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 1])
def test_values_that_are_not_finite_name_the_layer(value: float, step: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(LIF(), LIF())

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.mlp[0](x)
            spikes[step, 0] = value
            return self.mlp[1](spikes)  # type: ignore[no-any-return]

    net = Net()
    with pytest.raises(ProfilingError, match=r"^mlp\.1: inputs from .* must be finite$"):
        measure(net, [torch.ones(2, 3, 4)])
    assert hooks_of(net) == 0


def test_values_whose_squares_leave_float64_are_refused() -> None:
    with pytest.raises(ProfilingError, match="must be finite"):
        measure(LIF(), [torch.full((2, 1, 1), 1e200, dtype=torch.float64)])


def test_one_time_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match=r"^LIF: runs one time step, so there is no later one to compare"):
        measure(LIF(), [torch.ones(1, 3, 4)])
    path = tmp_path / "one.safetensors"
    save_checkpoint(path, create_model("spikformer-1-8", image_size=8, num_classes=10, in_channels=1, time_steps=1), {})
    with pytest.raises(ProfilingError, match=r"^.*one\.safetensors: sps\.lif0: runs one time step"):
        sensitivity_of_checkpoint(path, "digits", 2)


def test_networks_that_do_not_spike_are_refused() -> None:
    with pytest.raises(ProfilingError, match=r"^Sequential has no LIF or DTSS layer"):
        measure(nn.Sequential(nn.Linear(2, 2)), [torch.ones(2, 2)])
    with pytest.raises(
        ModelError, match=r"^.*vit-2-64-digits\.safetensors: a vit-2-64 is no spiking network: "
    ) as error:
        sensitivity_of_checkpoint(VIT, "digits", 2)
    assert "\n" not in str(error.value)


def test_arguments_of_the_wrong_sort_are_refused() -> None:
    cases: list[tuple[Any, Any, str]] = [
        ("net", [], "model must be a torch.nn.Module, not str"),
        (LIF(), torch.ones(2, 1, 1), r"loader must be an iterable .* not one tensor; give a list"),
        (LIF(), 3, "loader must be an iterable .* not int"),
        (LIF(), [], "no LIF or DTSS layer got any input"),
        (LIF(), [torch.ones(2, 0, 3)], "no LIF or DTSS layer got any input"),
        (LIF(), ["x"], "the loader must give tensors .* not str"),
        (LIF(), [()], "the loader must give tensors .* not tuple"),
        (LIF(), [torch.ones(2)], r"LIF: the input of a LIF must be a tensor \(T, B, ...\), not shape \(2,\)"),
        (LIF(), [torch.ones(2, 1), torch.ones(3, 1)], "LIF: runs 3 time steps and LIF runs 2"),
    ]
    for model, loader, message in cases:
        with pytest.raises(ProfilingError, match=message):
            measure(model, loader)


def test_checkpoint_errors_are_one_line(tmp_path: Path) -> None:
    for path, data, samples, size, error in (
        (tmp_path / "none.safetensors", "digits", 2, 60, CheckpointError),
        (SPIKFORMER, "digit", 2, 60, SnnEnergyError),
        (SPIKFORMER, "digits", 0, 60, SnnEnergyError),
        (SPIKFORMER, "digits", 2, 0, ProfilingError),
    ):
        with pytest.raises(error) as caught:
            sensitivity_of_checkpoint(path, data, samples, batch_size=size)
        assert "\n" not in str(caught.value)


def test_layers_that_get_no_input_are_left_out_and_named() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.spare = LIF(), LIF()

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp(x)  # type: ignore[no-any-return]

    found = measure(Unused(), [torch.ones(2, 1, 1)])
    assert set(found.to_frame()["layer"]) == {"mlp"}
    assert "layers that got no input are left out: spare." in found.recommendation()


# accuracy with the spikes of a group cut


def answers_by_hand(model: Spikformer, x: Tensor, y: Tensor, group: str, kept: int) -> int:
    """The network's equations written out once more, every spike of the group multiplied by 1 or 0."""
    steps = model.time_steps
    flags = torch.tensor([float(t < kept) for t in range(steps)])

    def fire(name: str, current: Tensor) -> Tensor:
        spikes: Tensor = model.get_submodule(name)(current)
        return spikes * (flags if layer_group(name) == group else torch.ones(steps)).view(-1, *[1] * (spikes.dim() - 1))

    def conv(name: str, bn: str, x: Tensor) -> Tensor:
        out: Tensor = model.get_submodule(bn)(model.get_submodule(name)(x.flatten(0, 1)))
        return out.unflatten(0, x.shape[:2])

    x = torch.stack([x] * steps)
    for i, pool in enumerate(model.sps.pools):
        x = fire(f"sps.lif{i}", conv(f"sps.conv{i}", f"sps.bn{i}", x))
        x = model.get_submodule(f"sps.pool{i}")(x.flatten(0, 1)).unflatten(0, x.shape[:2]) if pool else x
    x = (x + fire("sps.rpe_lif", conv("sps.rpe_conv", "sps.rpe_bn", x))).flatten(3)
    for i in range(len(model.blocks)):
        at, heads = f"blocks.{i}.attn", model.config.heads
        q, k, v = (
            fire(f"{at}.{w}_lif", conv(f"{at}.{w}_conv", f"{at}.{w}_bn", x)).unflatten(2, (heads, -1)) for w in "qkv"
        )
        mixed = torch.einsum("tbhdn,tbhdm,tbhem->tbhen", q, k, v).flatten(2, 3) * 0.125
        x = x + fire(f"{at}.proj_lif", conv(f"{at}.proj_conv", f"{at}.proj_bn", fire(f"{at}.lif", mixed)))
        at = f"blocks.{i}.mlp"
        hidden = fire(f"{at}.fc1_lif", conv(f"{at}.fc1_conv", f"{at}.fc1_bn", x))
        x = x + fire(f"{at}.fc2_lif", conv(f"{at}.fc2_conv", f"{at}.fc2_bn", hidden))
    return int((model.head(x.mean((0, 3))).argmax(1) == y).sum())


@pytest.mark.parametrize("path", [SPIKFORMER, DTS])
def test_cuts_are_the_networks_with_spikes_zeroed_by_hand(path: Path) -> None:
    x, y, model = digits(90), labels(90), load_checkpoint(path)
    assert isinstance(model, Spikformer)
    found = measure(model, [(x[:50], y[:50].tolist()), (x[50:], y[50:].numpy().astype(np.uint8))])
    cuts = found.cuts()
    assert list(cuts.columns) == ["group", "steps_kept", "hits", "samples", "accuracy", "points_lost"]
    with torch.no_grad():
        whole = int((model.eval()(x).argmax(1) == y).sum())  # the forward that skips, where there are masks
        for row in cuts.to_dict("records"):
            assert row["hits"] == answers_by_hand(model, x, y, row["group"], row["steps_kept"])
            assert (row["samples"], row["accuracy"]) == (90, row["hits"] / 90)
            assert row["points_lost"] == pytest.approx(100 * (whole - row["hits"]) / 90, abs=1e-12)
    assert cuts["group"].tolist() == [group for group in ("sps", "qkv", "attn", "mlp") for _ in range(4)]
    assert cuts["steps_kept"].tolist() == [1, 2, 3, 4] * 4
    assert set(cuts[cuts["steps_kept"] == 4]["hits"]) == {whole}


def test_a_step_that_is_masked_in_a_whole_group_costs_nothing(dts: Sensitivity) -> None:
    frame, cuts = dts.to_frame(), dts.cuts()
    idle = 0
    for group, part in frame.groupby("group"):
        rows = cuts[(cuts["group"] == group) & (cuts["steps_kept"] >= part["t_l"].max())]
        assert (rows["points_lost"] == 0).all()
        idle += len(rows) - 1
    assert idle > 0


CALLED: dict[int, int] = {}  # how often a network was called


class Late(nn.Module):
    """Answers with what ``late`` fires at the last step and ``early`` at the first, of T = 4."""

    def __init__(self, late: str, early: str) -> None:
        super().__init__()
        self.late, self.early = late, early
        CALLED[id(self)] = 0  # kept apart: what a forward changes in its module is put back
        self.sps, self.mlp = LIF(), LIF()

    @property
    def calls(self) -> int:
        return CALLED[id(self)]

    def forward(self, x: Tensor) -> Tensor:
        CALLED[id(self)] += 1
        steps = torch.stack([2 * x] * 4)  # one hot and above V_th: fires at every step
        return self.get_submodule(self.late)(steps)[3] * self.get_submodule(self.early)(steps)[0]  # type: ignore[no-any-return]


def one_hot(samples: int) -> tuple[Tensor, Tensor]:
    """Answers are evident, and without spikes every one is class 0: a tenth is right."""
    y = torch.arange(samples) % 10
    return torch.nn.functional.one_hot(y, 10).float(), y


@pytest.mark.parametrize(("late", "early"), [("sps", "mlp"), ("mlp", "sps")])
def test_the_group_that_is_not_needed_late_is_recommended(late: str, early: str) -> None:
    net = Late(late, early)
    found = measure(net, iter([one_hot(20), one_hot(30)]))  # a generator is run over once
    assert net.calls == 2 * (1 + 2 * 3)
    assert found.hits == {late: (5, 5, 5, 50), early: (50, 50, 50, 50)}
    assert list(found.hits) == ["sps", "mlp"]  # in the network's order, as elsewhere
    assert half_losses(found.cuts()) == {late: 90.0, early: 0.0}
    assert later_cosines(found.to_frame()) == pytest.approx({"sps": 1, "mlp": 1})  # which tells neither from the other
    text = found.recommendation()
    assert f"  {late}  out  90.00 points lost, cosine 1.000\n" in text
    assert f"  {early}  in   0.00 points lost, cosine 1.000\n" in text
    assert "is correct for 100.00% (50 of 50)" in text
    assert "in the first 2 of 4" in " ".join(text.split())
    assert "One image = 2 points. That is above the limit: measure more images." in " ".join(text.split())
    assert text.splitlines()[-1] == f"mask_loss: {{weight: 1.0e-4, groups: [{early}]}}"
    assert found.recommendation(points=90).splitlines()[-1].endswith("groups: [sps, mlp]}")
    assert found.recommendation(threshold=1).splitlines()[-1].endswith(f"groups: [{early}]}}")  # does not decide


def test_the_rule_on_accuracy_at_its_limit_and_without_a_group() -> None:
    rows = rows_of({"sps.lif0": [1, 1, 1], "a.mlp.x": [1, 0, 0], "net.lif": [1, 1, 1]})
    cuts = cut_rows({"sps": (0, 190, 200), "mlp": (0, 201, 200), "other": (200, 200, 200)}, 300)
    assert half_losses(cuts)["mlp"] == pytest.approx(-1 / 3)  # of 3 steps 2 are kept
    assert recommended_groups(rows, cuts, points=100 * 10 / 300) == ["sps", "mlp"]
    assert recommended_groups(rows, cuts) == ["mlp"]
    assert recommended_groups(rows, cuts[:0]) == ["sps"]  # none measured: by cosine
    text = recommend(rows, cuts)
    assert "  sps    out  3.33 points lost, cosine 1.000\n" in text
    assert "  mlp    in   0.33 points gained, cosine 0.000\n" in text
    assert "  other  out  0.00 points lost, cosine 1.000, not among the groups of a recipe\n" in text
    assert "One image = 0.33 points. A heuristic" in " ".join(text.split())
    none = cut_rows({"sps": (0, 190, 200), "mlp": (0, 150, 200), "other": (200, 200, 200)}, 300)
    last = "# no group loses 1 point or less (the least is 3.33): no mask_loss line is recommended"
    assert recommend(rows, none).splitlines()[-1] == last
    assert "loses 2.5 points or less" in recommend(rows, none, points=2.5)


def test_without_labels_there_are_no_cuts_and_the_cosine_decides(tmp_path: Path) -> None:
    x, _ = one_hot(20)
    for loader in ([x], [(x,)], [(x, None), x]):
        net = Late("sps", "mlp")
        found = measure(net, loader)
        assert net.calls == len(loader)
        assert found.hits == {}
        assert found.cuts().empty
        text = found.recommendation()
        assert "Note: the loader gave no labels, so what a cut costs in accuracy was not measured.\n" in text
        assert "points" not in text
        assert text.splitlines()[-1].endswith("groups: [sps, mlp]}")
    assert CUTS_FILE not in [path.name for path in found.save(tmp_path)]


def test_cut_false_looks_at_no_label() -> None:
    x, y = one_hot(20)
    net = Late("sps", "mlp")
    found = measure(net, [(x, y), x, (x, "cats")], cut=False)
    assert (net.calls, found.samples, found.hits) == (3, 60, {})
    assert "Note" not in found.recommendation().replace("Note: the same input", "")
    assert found.recommendation().splitlines()[-1].endswith("groups: [sps, mlp]}")


def test_labels_with_some_batches_alone_are_refused() -> None:
    x, y = one_hot(20)
    for loader in ([(x, y), x], [x, (x, y)], [(x, y), (x[:0], y[:0]), (x, None)]):
        net = Late("sps", "mlp")
        with pytest.raises(ProfilingError, match=r"^some batches have labels and others none; give labels with all or"):
            measure(net, loader)
        assert hooks_of(net) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(20), r"^labels must be whole numbers of shape \(20,\), not torch.float32 of shape \(20,\)$"),
        (torch.zeros(20, dtype=torch.bool), r"not torch.bool of shape \(20,\)$"),
        (torch.zeros(19, dtype=torch.long), r"not torch.int64 of shape \(19,\)$"),
        (torch.zeros(20, 10, dtype=torch.long), r"not torch.int64 of shape \(20, 10\)$"),
        (3, r"not torch.int64 of shape \(\)$"),
        (["cat"] * 20, r"not list$"),
        ({"label": 3}, r"not dict$"),
        (torch.full((20,), 10), r"^labels run from 10 to 10, but the network gives 10 classes, from 0$"),
        (torch.arange(-1, 19) % 10 - 1, r"^labels run from -1 to 8, but "),
    ],
)
def test_labels_that_do_not_fit_are_refused(wrong: Any, message: str) -> None:
    net = Late("sps", "mlp")
    with pytest.raises(ProfilingError, match=message) as error:
        measure(net, [(one_hot(20)[0], wrong)])
    assert "\n" not in str(error.value)
    assert hooks_of(net) == 0


def test_outputs_that_are_no_logits_are_refused() -> None:
    class Bad(Late):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return {"nan": logits / 0, "steps": logits[None], "dict": {}, "few": logits[1:]}[self.kind]

    net = Bad("sps", "mlp")
    for net.kind, message in (
        ("nan", r"not torch.float32 of shape \(20, 10\); fix it or measure with cut=False$"),
        ("steps", r"finite logits \(20, classes\), not torch.float32 of shape \(1, 20, 10\)"),
        ("dict", "not dict"),
        ("few", r"of shape \(19, 10\)"),
    ):
        with pytest.raises(ProfilingError, match=message):
            measure(net, [one_hot(20)])
        assert measure(net, [one_hot(20)], cut=False).samples == 20


def test_hooks_are_removed_where_a_cut_network_breaks() -> None:
    class Breaks(Late):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            if not out.any():  # nothing fires at the last step
                raise RuntimeError("silence")
            return out

    net = Breaks("sps", "mlp").train()
    with pytest.raises(RuntimeError, match="silence"):
        measure(net, [one_hot(20)])
    assert net.calls == 2
    assert hooks_of(net) == 0
    assert net.training


def test_spikes_are_zeroed_in_a_copy() -> None:
    layer, given = LIF(), []
    layer.register_forward_hook(lambda module, args, out: given.append(out))
    handles = list(truncating_hooks([layer], 1))
    cut = layer(torch.full((3, 2, 2), 5.0))
    for handle in handles:
        handle.remove()
    assert cut.flatten(1).sum(1).tolist() == [4, 0, 0]
    assert given[0].flatten(1).sum(1).tolist() == [4, 4, 4]
    assert len(layer._forward_hooks) == 1


def test_every_forward_starts_from_the_images_and_the_state_that_were_given() -> None:
    class Stateful(Late):
        """Shifts its answers with every call, and the images in place."""

        def __init__(self) -> None:
            super().__init__("sps", "mlp")
            self.register_buffer("seen", torch.zeros(1, dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x).roll(int(self.get_buffer("seen")), 1)
            self.get_buffer("seen").add_(1)
            x.copy_(x.roll(1, 1))
            return out

    net, (x, y) = Stateful(), one_hot(20)
    before = x.clone()
    found = measure(net, [(x, y), (x, y)])
    assert found.hits == {"sps": (4, 4, 4, 40), "mlp": (40, 40, 40, 40)}
    assert torch.equal(x, before)
    assert net.get_buffer("seen").item() == 0


def test_a_shipped_network_shows_what_the_cosine_does_not() -> None:
    found = sensitivity_of_checkpoint(SPIKFORMER, "digits")
    hits = (
        found.cuts().pivot_table(index="group", columns="steps_kept", values="hits").loc[["sps", "qkv", "attn", "mlp"]]
    )
    # by a side experiment: hooks of a few lines that set the later steps of a group's outputs to 0
    known = [[0.486, 0.986, 0.989], [0.964, 0.992, 0.992], [0.983, 0.989, 0.989], [0.989, 0.989, 0.989]]
    assert hits.to_numpy()[:, :3] / 360 == pytest.approx(np.array(known), abs=0.0035)  # one image for another processor
    cosines = later_cosines(found.to_frame())
    assert max(cosines, key=lambda group: cosines[group]) == "sps"
    assert found.recommendation().splitlines()[-1].endswith("groups: [sps, qkv, attn, mlp]}")


# groups and the recommendation


def test_groups_are_unweighted_means_over_layers() -> None:
    rows = rows_of({"sps.lif0": [1, 0.5], "sps.lif1": [1, 0.75], "sps.lif2": [1, math.nan], "x.mlp.lif": [1, -0.5]})
    groups = rows_to_groups(rows)
    assert groups[["group", "time_step", "layers"]].to_numpy().tolist() == [
        ["sps", 0, 3], ["sps", 1, 3], ["mlp", 0, 1], ["mlp", 1, 1],
    ]  # fmt: skip
    assert groups["cosine"].tolist() == [1, 0.625, 1, -0.5]
    assert groups["cosine_min"].tolist() == [1, 0.5, 1, -0.5]
    assert groups["cosine_max"].tolist() == [1, 0.75, 1, -0.5]
    assert groups["cosine_lowest_layer"].tolist()[1] == "sps.lif0"
    assert groups["layers_undefined"].tolist() == [0, 1, 0, 0]
    assert set(groups["above_threshold_share"]) == {0.25}


def rows_to_groups(rows: pd.DataFrame) -> pd.DataFrame:
    return Sensitivity(rows, np.zeros((len(rows), 3), dtype=np.int64), np.array([-8.0, 8.0]), 1, 2, "").groups()


CLEAR = {
    "sps.lif0": [1, 0.4, 0.2],
    "blocks.0.attn.q_lif": [1, 0.99, 0.97],
    "blocks.0.attn.k_lif": [1, 0.95, 0.93],
    "blocks.0.attn.lif": [1, 0.1, -0.1],
    "blocks.0.mlp.fc1_lif": [1, 0.9, 0.9],
}


def test_groups_that_hardly_change_are_in_and_the_others_out() -> None:
    rows = rows_of(CLEAR)
    assert recommended_groups(rows, threshold=0.9) == ["qkv", "mlp"]  # at the threshold is in
    assert recommended_groups(rows, threshold=0.91) == ["qkv"]
    assert recommended_groups(rows, threshold=-1) == ["sps", "qkv", "attn", "mlp"]
    assert recommended_groups(rows, threshold=1) == []
    cosines = later_cosines(rows)
    assert list(cosines) == ["sps", "qkv", "attn", "mlp"]
    assert cosines["qkv"] == pytest.approx(0.96)
    assert later_cosines(rows_of({"sps.a": [1, 0.5, math.nan], "sps.b": [1, math.nan, math.nan]})) == {"sps": 0.5}


def test_the_text_names_groups_figures_and_ends_with_the_line_of_a_recipe() -> None:
    text = recommend(rows_of(CLEAR), title="net on data", notes=["Note: beware."])
    lines = text.splitlines()
    assert text.endswith("\n")
    assert lines[0] == "net on data"
    assert lines[2:6] == [
        "  sps   out  cosine 0.300",
        "  qkv   in   cosine 0.960",
        "  attn  out  cosine 0.000",
        "  mlp   in   cosine 0.900",
    ]
    assert "heuristic" in text
    assert "at least 0.9" in text
    assert lines[-3] == "Note: beware."
    assert "is the weight of the bundled digits-dts, not found here" in lines[-2]
    assert YAML(typ="safe").load(lines[-1]) == {"mask_loss": {"weight": 1e-4, "groups": ["qkv", "mlp"]}}


def test_no_group_gives_no_recipe_line_but_a_reason() -> None:
    last = recommend(rows_of({"sps.lif0": [1, 0.25], "a.mlp.x": [1, 0.5]})).splitlines()[-1]
    assert last == "# no group reaches 0.9 (the highest is 0.500): no mask_loss line is recommended"
    assert YAML(typ="safe").load(last) is None


def test_the_weight_named_is_the_bundled_recipes() -> None:
    section = load_recipe("digits-dts").mask_loss
    assert section is not None
    assert float(BUNDLED_WEIGHT) == section.weight


def test_a_group_that_recipes_do_not_know_stays_out() -> None:
    rows = rows_of({"net.lif": [1, 1], "head.lif": [1, 1], "a.mlp.x": [1, 1]})
    assert recommended_groups(rows) == ["mlp"]
    text = recommend(rows)
    assert "  other  out  cosine 1.000, not among the groups of a recipe\n" in text
    assert recommend(rows_of({"net.lif": [1, 1]})).splitlines()[-1].startswith("# no group reaches 0.9: no ")


@pytest.mark.parametrize("threshold", [1.01, -2, math.nan])
def test_thresholds_that_are_no_cosine_are_refused(threshold: float) -> None:
    with pytest.raises(ProfilingError, match="threshold must be a cosine from -1 to 1, not "):
        recommend(rows_of(CLEAR), threshold=threshold)


@pytest.mark.parametrize("points", [-0.1, 100.5, math.nan])
def test_points_that_are_none_are_refused(points: float) -> None:
    with pytest.raises(ProfilingError, match="points must be percentage points from 0 to 100, not "):
        recommend(rows_of(CLEAR), points=points)


def test_an_input_that_is_repeated_is_named(spikformer: Sensitivity) -> None:
    assert "Note: the same input at every step, so a cosine of 1, in sps.lif0.\n" in spikformer.recommendation()
    zeros = measure(LIF(), [torch.zeros(2, 3, 4)])  # the same as well, but without a cosine
    assert "the same input" not in zeros.recommendation()


def test_measured_data_where_the_answer_is_evident_both_ways() -> None:
    class Net(nn.Module):
        """One LIF gets the same at every step, the other something new."""

        def __init__(self, constant: str) -> None:
            super().__init__()
            self.mlp, self.sps, self.constant = LIF(), LIF(), constant

        def forward(self, x: Tensor) -> Tensor:
            same, new = x[:1].expand_as(x), x
            mlp = self.mlp(same if self.constant == "mlp" else new)
            return mlp + self.sps(same if self.constant == "sps" else new)  # type: ignore[no-any-return]

    x = torch.randn(4, 8, 100, generator=torch.Generator().manual_seed(1))
    for group in ("mlp", "sps"):
        found = measure(Net(group), [x])
        assert recommended_groups(found.to_frame()) == [group]
        assert found.recommendation().splitlines()[-1] == f"mask_loss: {{weight: 1.0e-4, groups: [{group}]}}"
        assert found.recommendation(threshold=-1).splitlines()[-1].endswith("groups: [sps, mlp]}")


# files and the figure


def test_everything_is_written(tmp_path: Path, dts: Sensitivity) -> None:
    folder = tmp_path / "new" / "folder"
    written = dts.save(folder)
    assert sorted(path.name for path in written) == sorted([*FILES, CUTS_FILE, "sensitivity.svg", "sensitivity.png"])
    assert sorted(folder.iterdir()) == sorted(written)
    layers = pd.read_csv(folder / "sensitivity-layers.csv")
    assert len(layers) == 76
    assert layers["cosine"].tolist()[1] == dts.to_frame()["cosine"].tolist()[1]  # every digit
    assert layers["cosine"].isna().sum() == dts.to_frame()["cosine"].isna().sum() > 0  # empty, not 0
    assert len(pd.read_csv(folder / "sensitivity-groups.csv")) == 16
    histograms = pd.read_csv(folder / "sensitivity-histograms.csv")
    assert list(histograms.columns) == ["layer", "group", "time_step", "low", "high", "count"]
    assert histograms["low"].min() == -math.inf
    assert histograms["high"].max() == math.inf
    assert histograms["count"].sum() == layers["count"].sum()
    cuts = pd.read_csv(folder / CUTS_FILE)
    pd.testing.assert_frame_equal(cuts, dts.cuts(), check_dtype=False, check_exact=True)
    assert (folder / "recommendation.txt").read_text(encoding="utf-8") == dts.recommendation()
    again = dts.save(tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path, dts: Sensitivity) -> None:
    place = tmp_path / "file"
    place.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        dts.save(place)
    assert place.read_text(encoding="utf-8") == "mine"
    blocked = tmp_path / "blocked"
    (blocked / "recommendation.txt").mkdir(parents=True)
    with pytest.raises(OutputError):
        dts.save(blocked)
    assert [path.name for path in blocked.iterdir()] == ["recommendation.txt"]
    with pytest.raises(ProfilingError):
        dts.save(tmp_path / "threshold", threshold=2)
    assert not (tmp_path / "threshold").exists()


def test_the_figure_shows_every_layer_and_step(dts: Sensitivity, spikformer: Sensitivity) -> None:
    figure = sensitivity_figure(
        dts.to_frame(), dts.histograms(), dts.groups(), "a title", spikformer.cuts()
    )  # whose accuracies differ
    *panels, heat, accuracy = figure.axes
    groups = ["sps", "qkv", "attn", "mlp"]
    assert [next(t.get_text() for t in ax.texts if t.get_text() in groups) for ax in panels] == groups
    legend = panels[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["t = 0", "t = 1", "t = 2", "t = 3"]
    assert panels[-1].get_xlabel() == "LIF input in units of $V_{th}$"
    assert all(ax.get_xlim() == panels[0].get_xlim() for ax in panels)
    rows = [label.get_text() for label in heat.get_yticklabels()]
    assert len(rows) == 19 + 4
    assert [row for row in rows if not row.startswith("mean of ")] == sorted(
        dict.fromkeys(dts.to_frame()["layer"]), key=lambda name: (groups.index(layer_group(name)), rows.index(name))
    )
    assert [row for row in rows if row.startswith("mean of ")] == [f"mean of {group}" for group in groups]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["0", "1", "2", "3"]
    undefined = int(dts.to_frame()["cosine"].isna().sum())
    assert len(heat.patches) == undefined > 0
    assert len(heat.texts) == 4 * len(rows) - undefined
    masked = dts.to_frame().query("not active and cosine == cosine")
    assert sum(text.get_text().startswith("(") for text in heat.texts) == len(masked) > 0
    assert "in brackets: the neuron is masked" in heat.get_xlabel()
    assert "hatched: an input of zeros has no cosine" in heat.get_xlabel()
    assert "a title" in figure.get_suptitle()
    assert [line.get_label() for line in accuracy.lines] == groups
    for line, (_, part) in zip(accuracy.lines, spikformer.cuts().groupby("group", sort=False), strict=True):
        assert np.asarray(line.get_ydata()).tolist() == (100 * part["accuracy"]).tolist()
        assert np.rint(np.asarray(line.get_xdata())).tolist() == part["steps_kept"].tolist()
    assert len({line.get_marker() for line in accuracy.lines}) == 4
    low, high = accuracy.get_ylim()
    assert low < 100 * spikformer.cuts()["accuracy"].min() < 100 * spikformer.cuts()["accuracy"].max() < high
    assert high - low >= 10  # one image more or less is no cliff
    without = sensitivity_figure(dts.to_frame(), dts.histograms(), dts.groups(), "", dts.cuts()[:0])
    assert len(without.axes) == len(figure.axes) - 1


def test_nothing_in_the_figure_overlaps(spikformer: Sensitivity) -> None:
    found = spikformer
    figure = sensitivity_figure(found.to_frame(), found.histograms(), found.groups(), "a title", found.cuts())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [ax.get_tightbbox(canvas.get_renderer()) for ax in figure.axes]  # with labels, titles and legends
    assert all(box is not None for box in boxes)
    for a, b in itertools.combinations(boxes, 2):
        assert a is not None
        assert b is not None
        assert not a.padded(-1).overlaps(b.padded(-1))


def test_histogram_lines_are_shares_of_all_inputs_of_a_group() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.ModuleList([LIF(), LIF(v_th=2.0)])

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp[0](x) + self.mlp[1](x[:, :, :2]).sum()  # type: ignore[no-any-return]

    # four inputs of 0.5 and two of 0.25 V_th; at step 1 one of 100 V_th and one of 50 V_th
    x = torch.full((2, 1, 4), 0.5)
    x[1, 0, 0] = 100.0
    found = measure(Net(), [x])
    figure = sensitivity_figure(found.to_frame(), found.histograms(), found.groups(), "")
    panel = figure.axes[0]
    heights = [patch.get_data() for patch in panel.patches]
    assert len(heights) == 2
    at = [int(np.searchsorted(heights[0].edges, v, side="right")) - 1 for v in (0.25, 0.5)]
    assert [heights[0].values[i] for i in at] == pytest.approx([200 / 6, 400 / 6])
    assert [heights[1].values[i] for i in at] == pytest.approx([100 / 6, 300 / 6])
    assert heights[0].values.sum() == pytest.approx(100)
    assert any(text.get_text().startswith("not shown: 33.3 %") for text in panel.texts)


def test_the_plot_needs_no_torch() -> None:
    code = "import sys, snn_energy.report.plots; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# a checkpoint


def test_a_checkpoint_over_the_test_split(spikformer: Sensitivity) -> None:
    done: list[int] = []
    found = sensitivity_of_checkpoint(SPIKFORMER, "digits", 24, batch_size=10, on_batch=done.append)
    assert done == [10, 20, 24]
    assert np.array_equal(found.counts, spikformer.counts)
    text = found.recommendation()
    assert text.startswith(
        "spikformer-2-64-digits on digits, test split: inputs of 19 spiking layers, 4 time steps, 24 samples\n"
    )
    assert THRESHOLD == 0.9
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_command_takes_cut_and_points(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ["sensitivity", SPIKFORMER, "--data", "digits", "--samples", "20", "-o"]
    code, out, err = cli(*arguments, tmp_path / "cut", "--points", "100")
    assert (code, err) == (0, "")
    text = (tmp_path / "cut" / "recommendation.txt").read_text(encoding="utf-8")
    assert text in out
    assert "Rule: in where the loss is at most 100 points;" in text
    assert text.splitlines()[-1].endswith("groups: [sps, qkv, attn, mlp]}")
    assert len(pd.read_csv(tmp_path / "cut" / CUTS_FILE)) == 16
    code, out, err = cli(*arguments, tmp_path / "no", "--no-cut")
    assert (code, err) == (0, "")
    assert "Rule: in where the cosine is at least 0.9." in out
    assert not (tmp_path / "no" / CUTS_FILE).exists()
    code, _, err = cli(*arguments, tmp_path / "bad", "--points", "101")
    assert code == 2
    assert "points" in err
