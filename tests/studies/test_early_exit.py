"""Early exit: the split of one run's counts against runs of the groups alone, its energy, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.analysis.exit_energy import confidences, early_exit, exit_accuracy, exit_energy, exit_table, stop_steps
from snn_energy.core.errors import CheckpointError, CountsError, ModelError, SnnEnergyError
from snn_energy.counts.columns import PER_SAMPLE
from snn_energy.counts.counts import Counts
from snn_energy.models.neurons import DTSS
from snn_energy.studies.demo import checkpoint_path
from snn_energy.studies.early_exit_run import exit_steps, profile_steps, step_logits

NETWORKS = ("resnet19", "vgg16", "preact-resnet18", "spikformer-1-16")
DECIDED_BY_ALL = ["input_kind", "max_k", "other_kind", "other_max_k", "sops_multi", "input_levels"]  # samples of a run
SAMPLES = 12


def make(name: str, steps: int) -> nn.Module:
    sizes: dict[str, Any] = {"image_size": 16, "in_channels": 1, "num_classes": 3, "time_steps": steps}
    return se.create_model(name, **sizes, **({} if name.startswith("spikformer") else {"width": 0.0625}))


def images(count: int = SAMPLES) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def lively(name: str, steps: int = 4) -> nn.Module:
    """A network whose layers fire, and whose logits differ over the steps."""
    torch.manual_seed(0)
    model = make(name, steps)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.constant_(module.bias, 0.4)
    if name.endswith("resnet19"):
        nn.init.uniform_(model.get_submodule("fc0").weight, -0.5, 0.6)
    with torch.no_grad():
        model.train()(images(16))
    return model.eval()


def shortened(model: nn.Module, name: str, steps: int) -> nn.Module:
    """The same weights, run for fewer time steps."""
    found = make(name, steps)
    found.load_state_dict(model.state_dict())
    return found.eval()


STEPS = np.array([1, 4, 2, 2, 4, 1, 3, 4, 2, 1, 3, 2])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_split_is_what_runs_of_the_groups_alone_give(name: str) -> None:
    """The oracle: the samples that stop at t, and they alone, through the same weights for t steps."""
    model, x = lively(name), images()
    parts = early_exit(profile_steps(model, [x[:7], x[7:]]), STEPS)
    assert set(parts) == {1, 2, 3, 4}
    for t, part in parts.items():
        own = profile_steps(shortened(model, name, t), [x[np.flatnonzero(t == STEPS)]])
        decided = DECIDED_BY_ALL if name.startswith("spikformer") else []
        pd.testing.assert_frame_equal(part.rows.drop(columns=decided), own.rows.drop(columns=decided))
        assert part.per_sample is not None
        assert own.per_sample is not None
        for column in PER_SAMPLE:
            if column not in decided:
                assert np.array_equal(part.per_sample[column], own.per_sample[column]), (t, column)
        assert (part.samples, part.time_steps) == (own.samples, own.time_steps)
        assert part.rows["sops"].sum() > 0
        assert part.rows["spikes"].sum() > 0


def test_masked_time_steps_are_split_too() -> None:
    """TS^t sums TP from t on: the masks of the first t steps are kept where the last TP takes in all later ones."""
    model, x = lively("dts-resnet19"), images()
    with torch.no_grad():
        for i, layer in enumerate(layer for layer in model.modules() if isinstance(layer, DTSS)):
            layer.tp.copy_(torch.tensor([0.0, 0.0, 0.0, 1.2]) if i % 3 else torch.tensor([0.3, 1.2, 0.1, 0.3]))
    for t, part in early_exit(profile_steps(model, [x]), STEPS).items():
        short = make("dts-resnet19", t)
        state = {
            name: torch.cat([value[: t - 1], value[t - 1 :].sum()[None]]) if name.endswith(".tp") else value
            for name, value in model.state_dict().items()
        }
        short.load_state_dict(state)
        own = profile_steps(short.eval(), [x[np.flatnonzero(t == STEPS)]])
        pd.testing.assert_frame_equal(part.rows.drop(columns="needed"), own.rows.drop(columns="needed"))
        assert (part.rows["needed"] >= own.rows["needed"]).all()
        assert t < 3 or not part.rows["active"].all()


def test_kinds_are_those_of_the_whole_run() -> None:
    model, x = lively("spikformer-1-16"), images()
    parts = early_exit(profile_steps(model, [x]), STEPS)
    order = {"binary": 0, "ternary": 1, "integer": 2, "real": 3}
    for t, part in parts.items():
        own = profile_steps(shortened(model, "spikformer-1-16", t), [x[np.flatnonzero(t == STEPS)]])
        for mine, theirs in zip(part.rows["input_kind"], own.rows["input_kind"], strict=True):
            assert mine is None or order[mine] >= order[theirs]


def test_a_head_that_works_once_is_taken_over_whole_and_meets_no_fewer_non_zeros() -> None:
    model, x = lively("spikformer-1-16"), images()
    once = early_exit(se.profile(model, [x]), STEPS)
    for t in (2, 3):
        own = se.profile(shortened(model, "spikformer-1-16", t), [x[np.flatnonzero(t == STEPS)]])
        inside = once[t].rows["time_step"] >= 0
        sizes = ["layer", "time_step", "dense_macs", "sops", "spikes", "membrane_reads"]
        pd.testing.assert_frame_equal(once[t].rows.loc[inside, sizes], own.rows.loc[own.rows["time_step"] >= 0, sizes])
        heads = [found.rows[found.rows["layer"] == "head"] for found in (once[t], own)]
        assert [head["time_step"].tolist() for head in heads] == [[-1], [-1]]
        assert heads[0]["input_nonzeros"].item() >= heads[1]["input_nonzeros"].item()
        assert heads[0]["dense_macs"].item() == heads[1]["dense_macs"].item()


def test_the_head_of_profile_steps_works_at_every_step() -> None:
    rows = profile_steps(lively("spikformer-1-16"), [images()]).rows
    assert (rows["time_step"] >= 0).all()
    assert rows.loc[rows["layer"] == "head", "time_step"].tolist() == [0, 1, 2, 3]


def test_profiling_leaves_the_forward_of_the_network_as_it_was() -> None:
    model, x = lively("resnet19"), images(3)
    profile_steps(model, [x])
    assert "forward" not in model.__dict__
    assert model(x).shape == (3, 3)


def test_nobody_stopping_early_is_the_run_itself() -> None:
    counts = profile_steps(lively("resnet19"), [images()])
    (part,) = early_exit(counts, np.full(SAMPLES, 4)).values()
    pd.testing.assert_frame_equal(part.rows, counts.rows)


# --- when a sample stops -----------------------------------------------------------------------------------------


def stop_by_loops(logits: list[list[list[float]]], threshold: float) -> list[int]:
    """(T, samples, classes) -> the first step whose largest softmax of the mean is above the threshold, else T."""
    found = []
    for n in range(len(logits[0])):
        classes = range(len(logits[0][0]))
        for t in range(1, len(logits) + 1):
            means = [sum(logits[s][n][c] for s in range(t)) / t for c in classes]
            shares = [math.exp(m) / sum(math.exp(other) for other in means) for m in means]
            if max(shares) > threshold or t == len(logits):
                found.append(t)
                break
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_sample_stops_at_the_first_step_that_is_sure_enough(threshold: float) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 40, 4)) * 3
    assert stop_steps(logits, threshold).tolist() == stop_by_loops(logits.tolist(), threshold)
    assert len(set(stop_steps(logits, 0.9))) > 2


def test_confidence_by_hand() -> None:
    """Step 1: softmax (ln 3, 0) = 3/4. Step 2: the mean of (ln 3, 0) and (0, ln 3) is even: 1/2."""
    logits = [[[math.log(3), 0.0]], [[0.0, math.log(3)]]]
    assert confidences(logits).ravel().tolist() == pytest.approx([0.75, 0.5])
    assert stop_steps(logits, 0.7).tolist() == [1]
    assert stop_steps(logits, 0.8).tolist() == [2]


def test_a_threshold_of_one_stops_nothing_early_however_sure() -> None:
    assert stop_steps([[[1000.0, 0.0]], [[1000.0, 0.0]]], 1.0).tolist() == [2]


def test_a_network_and_its_logits_say_the_same() -> None:
    model, x = lively("resnet19"), images()
    loader = [(x[:5], torch.zeros(5)), (x[5:], torch.zeros(7))]
    logits = step_logits(model.train(), loader)
    assert model.training
    with torch.no_grad():
        direct = model.eval().forward_steps(x)  # type: ignore[operator]
    np.testing.assert_allclose(logits, direct.numpy(), rtol=1e-5, atol=1e-6)
    assert exit_steps(model, loader, 0.4).tolist() == stop_steps(logits, 0.4).tolist()


def test_accuracy_is_that_of_the_answers_at_the_last_steps() -> None:
    logits = [[[2.0, 0.0], [0.0, 1.0]], [[0.0, 5.0], [0.0, 1.0]]]  # the first changes its mind at step 2
    assert exit_accuracy(logits, [0, 1], [1, 1]) == 1.0
    assert exit_accuracy(logits, [0, 1], [2, 1]) == 0.5


# --- energy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", ["dts-paper-fpga", "eyeriss-relative"])
def test_energy_is_the_mean_of_the_parts_weighted_by_their_samples(hardware: str) -> None:
    counts = profile_steps(lively("resnet19"), [images()])
    found = exit_energy(counts, STEPS, hardware)
    parts = early_exit(counts, STEPS)
    totals = {t: se.estimate(part, hardware).total_pj for t, part in parts.items()}
    assert found.total_pj == pytest.approx((3 * totals[1] + 4 * totals[2] + 2 * totals[3] + 3 * totals[4]) / 12)
    assert found.total_pj == pytest.approx(found.compute_pj + found.memory_pj)
    assert found.by_exit()["samples"].tolist() == [3, 4, 2, 3]
    assert found.mean_steps == STEPS.mean()
    assert found.ratio == pytest.approx(found.total_pj / se.estimate(counts, hardware).total_pj)
    assert found.ratio < 1


def test_every_sample_costs_what_it_costs_alone() -> None:
    model, x = lively("resnet19"), images()
    found = exit_energy(profile_steps(model, [x]), STEPS, "dts-paper-fpga")
    table = found.per_sample()
    assert table["time_steps"].tolist() == STEPS.tolist()
    assert table["total_pj"].mean() == pytest.approx(found.total_pj)
    for n in (0, 1, 6):
        alone = profile_steps(shortened(model, "resnet19", int(STEPS[n])), [x[n : n + 1]])
        assert table["total_pj"][n] == pytest.approx(se.estimate(alone, "dts-paper-fpga").total_pj)
    assert found.spread()["min_pj"] == table["total_pj"].min() < found.spread()["max_pj"]


def test_policies_and_left_out_layers_are_passed_on() -> None:
    counts = profile_steps(lively("resnet19"), [images()])
    whole = exit_energy(counts, STEPS, "dts-paper-fpga")
    part = exit_energy(counts, STEPS, "dts-paper-fpga", without=["conv0"], encoder="once")
    assert part.total_pj < whole.total_pj
    assert part.full.without == ("conv0",)


def test_parts_are_counts_that_can_be_saved_and_read(tmp_path: Path) -> None:
    part = early_exit(profile_steps(lively("vgg16"), [images()]), STEPS)[2]
    part.save(tmp_path / "two.json")
    again = se.load_counts(tmp_path / "two.json")
    pd.testing.assert_frame_equal(again.rows, part.rows)
    assert again.header["exit_of_time_steps"] == 4
    assert again.header["accuracy"] is None


# --- the command -------------------------------------------------------------------------------------------------

SPIKFORMER = checkpoint_path("spikformer-2-64")


def test_the_command_prints_what_every_threshold_costs(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["--samples", "30", "--hardware", "dts-paper-fpga", "--csv", tmp_path / "exits.csv"]
    for threshold in ("0.4", "0.8", "1"):
        arguments += ["--threshold", threshold]
    code, out, err = cli("early-exit", SPIKFORMER, "--data", "digits", *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:2] == ["threshold", "accuracy"]
    with (tmp_path / "exits.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["mean_steps"]) for row in rows]
    energy = [float(row["total_pj"]) for row in rows]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1] == 4
    assert energy == sorted(energy)
    assert float(rows[-1]["ratio"]) == 1
    assert float(rows[0]["ratio"]) == pytest.approx(energy[0] / energy[-1])
    assert all(0.5 < float(row["accuracy"]) <= 1 for row in rows)


def test_a_dtss_network_exits_early_too(cli: Callable[..., tuple[int, str, str]]) -> None:
    path = checkpoint_path("dts-spikformer-2-64")
    code, out, _ = cli(
        "early-exit", path, "--data", "digits", "--samples", "10", "--hardware", "dts-paper-fpga", "--threshold", "0.5"
    )
    assert code == 0
    assert len(out.splitlines()) == 3


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts() -> Counts:
    return profile_steps(lively("resnet19"), [images()])


def test_counts_without_samples_are_refused(counts: Counts) -> None:
    bare = dataclasses.replace(counts, per_sample=None)
    with pytest.raises(CountsError, match="resnet19: early exit needs per-sample counts, and none were kept"):
        early_exit(bare, STEPS)


def test_published_counts_are_refused() -> None:
    published = se.load_counts("published:energy-arithmetic:spikformer-8-512")
    with pytest.raises(CountsError, match="early exit needs per-sample counts"):
        early_exit(published, [1])


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        (STEPS[:5], "exit steps must be 12 whole numbers, one for every sample, not int64 of shape (5,)"),
        (STEPS[None], "not int64 of shape (1, 12)"),
        (STEPS / 1.0, "not float64 of shape (12,)"),
        (STEPS - 1, "exit steps must lie in 1..4 (T), not 0..3"),
        (STEPS + 1, "exit steps must lie in 1..4 (T), not 2..5"),
    ],
)
def test_exit_steps_that_are_not_those_of_the_samples_are_refused(counts: Counts, steps: Any, complaint: str) -> None:
    with pytest.raises(CountsError) as raised:
        early_exit(counts, steps)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, math.nan, math.inf])
def test_a_threshold_that_is_no_confidence_is_refused(threshold: float) -> None:
    with pytest.raises(SnnEnergyError, match=r"threshold must lie above 0 and be at most 1 \(a confidence\), not"):
        stop_steps(np.zeros((2, 3, 4)), threshold)


def test_a_threshold_is_checked_before_anything_runs(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli(
        "early-exit", "no.safetensors", "--data", "digits", "--hardware", "dts-paper-fpga", "--threshold", "90"
    )
    assert code == 1
    assert err == "error: threshold must lie above 0 and be at most 1 (a confidence), not 90.0\n"


def test_a_network_without_logits_per_step_is_refused() -> None:
    with pytest.raises(ModelError, match="a Linear gives no logits per time step, which early exit needs"):
        exit_steps(nn.Linear(2, 2), [torch.zeros(1, 2)], 0.5)


def test_the_vision_transformer_is_refused(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("early-exit", checkpoint_path("vit-2-64"), "--data", "digits", "--hardware", "dts-paper-fpga")
    assert code == 1
    assert err.startswith("error: a VisionTransformer gives no logits per time step")
    assert err.count("\n") == 1


class Wrong(nn.Module):
    """Says that it gives logits per step, and gives those of one."""

    time_steps = 4

    def forward_steps(self, x: Tensor) -> Tensor:
        return x


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Wrong.forward_steps must give \(4, 2, classes\), not \(2, 3\)"):
        step_logits(Wrong(), [torch.zeros(2, 3)])


def test_a_loader_without_samples_is_refused() -> None:
    with pytest.raises(ModelError, match="the loader gave no samples"):
        step_logits(lively("resnet19"), [])


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SnnEnergyError, match="logits must be finite numbers"):
        stop_steps(np.full((2, 3, 4), np.nan), 0.5)


def test_logits_of_other_samples_are_refused(counts: Counts) -> None:
    with pytest.raises(SnnEnergyError, match="logits of 4 steps and 5 samples do not match counts of 4 and 12"):
        exit_table(counts, np.zeros((4, 5, 3)), None, [0.5], "dts-paper-fpga")


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(SnnEnergyError, match=r"labels \(2,\) and steps \(3,\) must be \(3,\)"):
        exit_accuracy(np.zeros((2, 3, 4)), [0, 1], [1, 1, 1])


def test_a_missing_checkpoint_is_named(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("early-exit", "no.safetensors", "--data", "digits", "--hardware", "dts-paper-fpga")
    assert code == 1
    assert err.startswith("error: no.safetensors: no such file")
    assert issubclass(CheckpointError, SnnEnergyError)
