"""What is committed under checkpoints/ and reports/ says what it is, and agrees with itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import snn_energy as se
from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata, sha256_of
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers
from snn_energy.studies.ablation import mean_over_seeds
from snn_energy.studies.ablation_grid import load_grid

ROOT = Path(__file__).resolve().parents[2]
CIFAR = ("vit-2-128", "spikformer-2-128", "dts-spikformer-2-128")


@pytest.mark.parametrize("name", CIFAR)
def test_a_cifar_checkpoint_is_what_was_counted(name: str) -> None:
    path, counts = ROOT / "checkpoints" / "cifar10" / f"{name}.safetensors", ROOT / "reports" / "cifar10"
    said, header = read_metadata(path), se.load_counts(counts / f"{name}.json").header
    assert path.stat().st_size < 20e6
    assert said["model"] == header["model"] == name
    assert header["checkpoint_sha256"] == sha256_of(path)
    assert header["samples"] == 10_000
    assert header["accuracy"] == said["test_accuracy"] >= 0.75
    assert abs(said["test_accuracy"] - said["test_accuracy_32_bit"]) < 0.005
    assert said["weights"] == "16-bit floats"
    assert "JPEG" in header["data_note"]
    assert "/" not in said["command"] + said["recipe"]


def test_the_cifar_table_is_that_of_its_counts() -> None:
    counts = {name: se.load_counts(ROOT / "reports" / "cifar10" / f"{name}.json") for name in CIFAR}
    fresh = se.compare(counts, "dts-paper-fpga", baseline="dts-spikformer-2-128").to_frame().set_index("model")
    recorded = pd.read_csv(ROOT / "reports" / "cifar10" / "table.csv").set_index("model")
    for name in CIFAR:
        for column in ("accuracy", "sops_per_sample", "total_pj", "ce", "me", "te"):
            assert recorded.loc[name, column] == pytest.approx(float(fresh.loc[name, column]), rel=1e-9)


def test_no_layer_of_the_cifar_dtss_network_is_dead_and_its_steps_are_few() -> None:
    model = load_checkpoint(ROOT / "checkpoints" / "cifar10" / "dts-spikformer-2-128.safetensors")
    steps = [layer.active_steps() for layer in spiking_layers(model).values() if isinstance(layer, DTSS)]
    assert min(steps) >= 1
    assert sum(steps) / len(steps) <= 2.7


def test_the_ablation_holds_every_variant_of_its_grid_and_its_means() -> None:
    folder, (grid, recipes) = ROOT / "reports" / "ablation-digits", load_grid("digits")
    runs, table = pd.read_csv(folder / "ablation-runs.csv"), pd.read_csv(folder / "ablation.csv")
    assert table["variant"].tolist() == list(recipes)
    assert len(runs) == len(recipes) * len(grid.seeds)
    means = mean_over_seeds(grid, runs)
    for column in ("accuracy", "t_avg", "sa", "sops_per_sample", "total_pj"):
        assert table[column].tolist() == pytest.approx(means[column].tolist(), rel=1e-9)
    alive = table["dead_layers"] == 0
    assert (table.loc[alive, "accuracy"] > 0.9).all()
    assert table.loc[~alive, "variant"].tolist() == ["all groups 1e-2 no floor"], "without a floor a high price kills"
