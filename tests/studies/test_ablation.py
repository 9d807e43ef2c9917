"""A grid of runs becomes a table with the paper's columns, and goes on where it stopped."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import snn_energy.studies.ablation as ablation
from snn_energy.cli.commands import app
from snn_energy.core.errors import HardwareError, RecipeError
from snn_energy.datasets.open import load_images
from snn_energy.report.plots.training import accuracy_against_energy, kind_of_training
from snn_energy.studies.ablation import make_jobs, mean_over_seeds, run_grid
from snn_energy.studies.ablation_grid import list_grids, load_grid, slug

RECIPE = """\
name: tiny
model: {{name: dts-spikformer-1-16, image_size: 8, in_channels: 1, num_classes: 3, time_steps: 3, heads: 2}}
data: {data}
epochs: 2
batch_size: 8
optimiser: {{learning_rate: 0.01}}
"""
GRID = """\
name: tiny
base: {base}
paper: somebody's
seeds: [0, 1]
variants:
  - name: charged
    changes: {{model.initial_steps: 2, mask_loss: {{weight: 0.01, groups: [qkv]}}}}
    published: {{accuracy: 50.0, t_avg: 1.5, sa: 10.0, sops_m: 2.0}}
  - name: Fixed T 2
    changes: {{model.name: spikformer-1-16, model.time_steps: 2}}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two variants with two seeds each, on 24 images."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = rng.random((24, 8, 8), np.float32)
    np.savez(tmp_path / "bars.npz", images=images, labels=labels, is_test=np.arange(24) >= 16)
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(data=f"npz:{tmp_path / 'bars.npz'}"))
    (tmp_path / "grid.yaml").write_text(GRID.format(base=tmp_path / "tiny.yaml"))
    return tmp_path / "grid.yaml"


def edited(grid: Path, old: str, new: str) -> Path:
    text = grid.read_text()
    assert old in text
    grid.write_text(text.replace(old, new))
    return grid


def test_every_variant_is_run_with_every_seed_and_measured(grid: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found, runs = run_grid(grid, tmp_path / "out", on_run=lambda *calls: seen.append(calls))
    assert runs[["variant", "seed"]].values.tolist() == [
        ["charged", 0],
        ["charged", 1],
        ["Fixed T 2", 0],
        ["Fixed T 2", 1],
    ]
    assert [calls[1:] for calls in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first = runs.iloc[0]
    assert (first["mask_groups"], first["lambda_m"], first["t_init"], first["t_max"]) == ("qkv", 0.01, 2, 3)
    counts = ablation.profile_checkpoint(tmp_path / "out" / "charged-0.safetensors", jobs(grid, tmp_path)[0], None)
    assert first["accuracy"] == counts.header["accuracy"]
    assert first["sops_per_sample"] == counts.activity()["sops_per_sample"]
    assert first["total_pj"] == pytest.approx(first["compute_pj"] + first["memory_pj"])
    assert runs.iloc[2]["t_avg"] == 2
    table = mean_over_seeds(found, runs)
    assert table["variant"].tolist() == ["charged", "Fixed T 2"]
    assert table.iloc[0]["accuracy"] == pytest.approx(runs["accuracy"][:2].mean())
    assert table.iloc[0]["sa"] == pytest.approx(runs["sa"][:2].mean())
    assert (table.iloc[0]["paper_accuracy"], table.iloc[0]["paper_sops_per_sample"]) == (0.5, 2e6)
    assert pd.isna(table.iloc[1]["paper_accuracy"])
    assert pd.isna(table.iloc[1]["t_init"])


def jobs(grid: Path, tmp_path: Path) -> list[str]:
    found, recipes = load_grid(grid)
    return [job.recipe.data or "" for job in make_jobs(found, recipes, tmp_path, None)]


def test_what_is_done_is_not_trained_again_and_what_was_interrupted_goes_on(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_grid(grid, tmp_path / "whole")[1]
    train, begun = ablation.train, []

    def counted(recipe: Any, path: Path, **options: Any) -> Any:
        begun.append((path.stem, options["resume"]))

        def stop(record: Any) -> None:
            if len(begun) == 2:
                raise KeyboardInterrupt

        return train(recipe, path, on_epoch=stop, **options)

    monkeypatch.setattr(ablation, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, tmp_path / "parts")
    parts = run_grid(grid, tmp_path / "parts")[1]
    assert begun == [
        ("charged-0", False),
        ("charged-1", False),
        ("charged-1", True),
        ("fixed-t-2-0", False),
        ("fixed-t-2-1", False),
    ]
    pd.testing.assert_frame_equal(parts, whole)


def test_runs_beside_each_other_give_the_same_table(grid: Path, tmp_path: Path) -> None:
    alone = run_grid(grid, tmp_path / "alone")[1]
    pd.testing.assert_frame_equal(run_grid(grid, tmp_path / "beside", processes=2)[1], alone)


def test_an_older_run_of_another_recipe_is_refused(grid: Path, tmp_path: Path) -> None:
    run_grid(grid, tmp_path / "out")
    edited(grid, "weight: 0.01", "weight: 0.02")
    with pytest.raises(RecipeError, match=r"charged-0\.safetensors: belongs to another recipe"):
        run_grid(grid, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("variants:", "varaints:", r"grid\.yaml, line 5: unknown key 'varaints'; did you mean 'variants'\?"),
        ("published:", "publishd:", r"line 8: unknown key 'variants.0.publishd'; did you mean 'published'\?"),
        ("t_avg: 1.5", "tavg: 1.5", r"line 8: unknown key 'variants.0.published.tavg'; did you mean 't_avg'\?"),
        ("model.initial_steps", "model.inital_steps", "unknown key 'model.inital_steps'; did you mean 'initial_steps'"),
        ("model.initial_steps", "modle.initial_steps", "no section 'modle' for the key .*did you mean 'model'"),
        ("model.time_steps: 2", "model.time_steps: 0", "variant 'Fixed T 2': model.time_steps: input should be"),
        ("[qkv]", "[qvk]", "variant 'charged': mask_loss.groups.0: 'qvk' is not one of"),
        ("model.time_steps: 2", "seed: 2", "'seed' is set by the grid"),
        (
            "model.initial_steps: 2, mask_loss: {",
            "mask_loss.weight: 2, model: {",
            "'mask_loss' is null, so 'mask_loss.weight'",
        ),
        ("Fixed T 2", "charged", "variant charged appears twice"),
        ("Fixed T 2", "Charged!", "variant charged appears twice"),
        ("[0, 1]", "[0, 0]", "seed 0 appears twice"),
        ("[0, 1]", "[]", "line 4: seeds: list should have at least 1 item"),
        ("tiny.yaml", "tony.yaml", r"tony\.yaml: neither a file nor a bundled recipe"),
    ],
)
def test_a_malformed_grid_is_told(grid: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as raised:
        load_grid(edited(grid, old, new))
    assert "\n" not in str(raised.value)


def test_an_unknown_device_is_told_before_any_training(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="dts-fpga"):
        run_grid(grid, tmp_path / "out", hardware="dts-fpga")
    assert not (tmp_path / "out").exists()


def test_workers_end_with_the_process_that_started_them(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text((tmp_path / "tiny.yaml").read_text().replace("epochs: 2", "epochs: 2000"))
    process = forked.start("ablate", grid, "-o", "out", "--processes", "2", "--device", "cpu", cwd=tmp_path)
    partial = tmp_path / "out" / "runs" / "charged-1.safetensors.partial"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    time.sleep(1)
    written = partial.stat().st_mtime_ns
    time.sleep(1)
    assert partial.stat().st_mtime_ns == written


def test_one_place_spelt_in_two_ways_is_one_run(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_grid(grid, tmp_path / "out")[1]
    monkeypatch.chdir(tmp_path)
    pd.testing.assert_frame_equal(run_grid(grid, tmp_path / "out", data="npz:./bars.npz")[1], first)


def test_an_unknown_grid_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"digit: neither a file nor a bundled grid; did you mean 'digits'\?"):
        load_grid("digit")


def test_the_bundled_grid_holds_the_settings_of_tables_iii_and_iv() -> None:
    assert "digits" in list_grids()
    grid, recipes = load_grid("digits")
    third = [v for v in grid.variants if v.name.startswith("III")]
    fourth = [v for v in grid.variants if v.name.startswith("IV")]
    assert (len(third), len(fourth)) == (4, 7)
    assert all(v.published.accuracy for v in third + fourth)
    groups = [recipes[v.name].mask_loss.groups if recipes[v.name].mask_loss else [] for v in third]  # type: ignore[union-attr]
    assert groups == [["qkv", "attn", "mlp", "sps"], ["qkv", "attn", "mlp"], ["qkv", "mlp"], []]
    settings = [(recipes[v.name].model.initial_steps, recipes[v.name].model.time_steps) for v in fourth]
    assert settings == [(1, 4), (1, 4), (2, 4), (3, 4), (3, 4), (4, 4), (4, 6)]
    kinds = {recipe.model.neuron for recipe in recipes.values()}
    assert kinds == {"paper", "hoyer"}
    assert any(recipe.tet_loss for recipe in recipes.values())


def test_a_slug_is_a_file_name() -> None:
    assert slug("IV 4 of 6, λ: 1e-4") == "iv-4-of-6-λ-1e-4"


def test_the_picture_marks_every_variant_and_names_it(grid: Path, tmp_path: Path) -> None:
    found, runs = run_grid(grid, tmp_path / "out")
    table = mean_over_seeds(found, runs)
    figure = accuracy_against_energy(table, "dts-paper-fpga")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    assert [text.xy for text in ax.texts] == [
        (pytest.approx(row["total_pj"] * 1e-3), pytest.approx(100 * row["accuracy"])) for _, row in table.iterrows()
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  charged", "2  Fixed T 2"]
    assert ax.get_xlabel() == "energy per image (nJ), dts-paper-fpga"


def test_kinds_of_training_are_told_apart() -> None:
    row = {"model": "dts-spikformer-1-16", "neuron": "paper", "lambda_m": 0.0, "loss": "cross entropy"}
    assert kind_of_training(row) == "DTSS, no mask loss"
    assert kind_of_training(row | {"lambda_m": 0.1}) == "DTSS, mask loss"
    assert kind_of_training(row | {"model": "spikformer-1-16"}) == "fixed T"
    assert kind_of_training(row | {"model": "spikformer-1-16", "loss": "tet"}) == "fixed T, TET loss"
    assert kind_of_training(row | {"neuron": "hoyer"}) == "Hoyer activation"
    assert kind_of_training(row | {"model": "vit-1-16"}) == "non-spiking"


def test_the_command_writes_table_runs_and_picture(grid: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ablate", str(grid), "-o", str(tmp_path / "report"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    written = sorted(entry.name for entry in (tmp_path / "report").iterdir())
    assert written == [
        "ablation-runs.csv",
        "ablation.csv",
        "ablation.md",
        "accuracy-energy.png",
        "accuracy-energy.svg",
        "runs",
    ]
    table = pd.read_csv(tmp_path / "report" / "ablation.csv")
    assert {"accuracy", "t_avg", "sa", "sops_per_sample", "total_pj", "paper_accuracy"} <= set(table.columns)
    assert "charged" in done.output
    assert len(load_images(jobs(grid, tmp_path)[0], "test", 8, 1).labels) == 8
