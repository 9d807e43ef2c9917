"""Recipes that are checked before the first step, a loop that gives the same bits, and the shipped networks."""

from __future__ import annotations

import csv
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata
from snn_energy.core.errors import CheckpointError, DataError, OutputError, RecipeError
from snn_energy.core.groups import layer_group
from snn_energy.datasets.open import load_images
from snn_energy.models.create import create_model
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers, time_steps_by_layer
from snn_energy.studies.train_demo import DEMO_RECIPES, SHIPPED, demo_file, main, summary
from snn_energy.training.augment import shifted
from snn_energy.training.evaluation import accuracy, active_steps_by_layer, layers_held_by_floor
from snn_energy.training.losses import mask_loss
from snn_energy.training.progress import Reporter
from snn_energy.training.recipe import Recipe, list_recipes, load_recipe, parse_recipe
from snn_energy.training.run_files import partial_path
from snn_energy.training.step import learning_rate_share, make_optimiser
from snn_energy.training.train import train

TINY = """\
name: tiny
model:
  name: dts-spikformer-1-16
  image_size: 8
  in_channels: 1
  num_classes: 3
  time_steps: 3
  heads: 2
data: {data}
epochs: 3
batch_size: 8
shift_pixels: 1
optimiser:
  learning_rate: 0.01
  warmup_epochs: 1
mask_loss:
  weight: 0.01
test_every: 2
"""


@pytest.fixture
def data(make_bars: Callable[[int], str]) -> str:
    """Three classes of noisy bars, 8x8, 32 images to train on and 16 to test on."""
    return make_bars(32)


@pytest.fixture
def tiny(data: str) -> Recipe:
    return parse_recipe(TINY.format(data=data), "tiny.yaml")


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with dotted keys replaced, checked anew."""
    tree = recipe.model_dump()
    for key, value in changes.items():
        *path, last = key.split("__")
        section = tree
        for part in path:
            section = section[part]
        section[last] = value
    return Recipe.model_validate(tree)


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


def edited(old: str, new: str) -> str:
    assert old in TINY
    return TINY.replace(old, new).replace("{data}", "digits")


# --- recipes ---


def test_the_bundled_recipes_are_called_as_their_files_are_and_those_on_digits_are_the_demo() -> None:
    assert {name for name in list_recipes() if name.startswith("digits")} == set(DEMO_RECIPES)
    for name in list_recipes():
        assert load_recipe(name).name == name


@pytest.mark.parametrize("name", DEMO_RECIPES)
def test_a_recipe_written_as_yaml_reads_back_the_same(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(recipe.to_yaml(), "again.yaml") == recipe


def test_a_recipe_is_found_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TINY.format(data="digits"))
    assert load_recipe(tmp_path / "mine.yaml").optimiser.learning_rate == 0.01


def test_reading_a_recipe_does_not_load_torch() -> None:
    code = "import sys, snn_energy.training.recipe as r; r.load_recipe('digits-dts'); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydantic" in found.stdout.split()
    assert "torch" not in found.stdout.split()


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint"),
    [
        ("epochs: 3", "epoch: 3", 10, "unknown key 'epoch'; did you mean 'epochs'?"),
        ("  heads: 2", "  hedas: 2", 8, "unknown key 'model.hedas'; did you mean 'heads'?"),
        ("  weight: 0.01", "  wieght: 0.01", 17, "'mask_loss.wieght'; did you mean 'weight'? (and 1 more)"),
        ("batch_size: 8\n", "", 1, "the key 'batch_size' is missing"),
        ("  image_size: 8\n", "", 2, "the key 'model.image_size' is missing"),
        ("epochs: 3", "epochs: 0", 10, "epochs: input should be greater than 0, not 0"),
        ("epochs: 3", "epochs: three", 10, "epochs: input should be a valid number, not 'three'"),
        ("epochs: 3", "epochs: true", 10, "epochs: input should be a valid number, not True"),
        ("epochs: 3", "epochs: 1", 15, "optimiser.warmup_epochs: 1 must be below epochs 1"),
        ("rate: 0.01", "rate: .nan", 14, "optimiser.learning_rate: input should be a finite number, not nan"),
        ("rate: 0.01", "rate: -1.0", 14, "optimiser.learning_rate: input should be greater than 0"),
        ("  weight: 0.01", "  weight: 0", 17, "mask_loss.weight: input should be greater than 0"),
        ("  weight: 0.01", "  weight: 1\n  groups: [qvk]", 18, "'qvk' is not one of sps, qkv, attn, mlp, other; did"),
        ("  weight: 0.01", "  weight: 1\n  groups: [sps, sps]", 18, "mask_loss.groups: a group is named twice"),
        ("  weight: 0.01", "  weight: 1\n  groups: []", 18, "mask_loss.groups: list should have at least 1"),
        ("dts-spikformer-1-16", "spikformer-1-16", 16, "mask_loss: spikformer-1-16 has no DTSS layers"),
        ("dts-spikformer-1-16", "dts-spikfomer-1-16", 3, "model.name: unknown model 'dts-spikfomer-1-16'; did"),
        ("dts-spikformer-1-16", "vit-1-16", 7, "model.time_steps: a non-spiking vit-1-16 has one time step"),
        ("  heads: 2", "  initial_steps: 4", 8, "model.initial_steps: 4 is more than time_steps 3"),
        ("  heads: 2", "  min_steps: 4", 8, "model.min_steps: 4 is more than time_steps 3"),
        ("shift_pixels: 1", "shift_pixels: 8", 12, "shift_pixels: 8 must be less than model.image_size 8"),
        ("data: {data}", "data: digit", 9, "data: unknown dataset 'digit'; did you mean 'digits'?"),
        ("data: {data}", "data: cifar10", 9, "data: cifar10: needs a path, cifar10:PATH"),
        ("data: {data}", "data: digits:here", 9, "data: digits:here: the digits are bundled and have no path"),
        (
            "shift_pixels: 1",
            "crop_scale: [0.5, 1.0]",
            12,
            "crop_scale: needs images in files (folder:PATH), not digits",
        ),
        ("shift_pixels: 1", "crop_scale: [0.9, 0.5]", 12, "crop_scale: must be two shares"),
        ("shift_pixels: 1", "crop_scale: [0.9]", 12, "crop_scale: list should have at least 2 items"),
        ("shift_pixels: 1", "cutout_pixels: 8", 12, "cutout_pixels: 8 must be less than model.image_size 8"),
        ("shift_pixels: 1", "tet_loss: {wieght: 1.0}", 12, "unknown key 'tet_loss.wieght'; did you mean 'weight'?"),
        ("shift_pixels: 1", "hoyer_loss: {weight: 1.0}", 12, "hoyer_loss: needs model.neuron: hoyer, not paper"),
        ("shift_pixels: 1", "precision: fp8", 12, "precision: 'fp8' is not one of float32, bfloat16"),
        ("epochs: 3", "epochs: 3\nepochs: 4", 11, "not valid YAML: found duplicate key"),
        ("epochs: 3", "epochs: [3", 11, "not valid YAML"),
    ],
)
def test_a_malformed_recipe_is_told_by_file_line_and_key(old: str, new: str, line: int, complaint: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(edited(old, new), "mine.yaml")
    message = str(raised.value)
    assert message.startswith(f"mine.yaml, line {line}: "), message
    assert complaint in message, message
    assert "\n" not in message


def test_steps_of_dtss_layers_are_refused_where_there_are_none() -> None:
    text = edited("dts-spikformer-1-16", "spikformer-1-16\n  initial_steps: 2")
    with pytest.raises(RecipeError, match="initial_steps: only a dts-spikformer has DTSS layers"):
        parse_recipe(text, "mine.yaml")


def test_further_complaints_are_counted() -> None:
    with pytest.raises(RecipeError, match=r"\(and 2 more\)"):
        parse_recipe(edited("epochs: 3", "epochs: 0\na: 1\nb: 2"), "mine.yaml")


@pytest.mark.parametrize("text", ["", "- a", "just words", "3"])
def test_a_recipe_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml: a recipe is a mapping of keys"):
        parse_recipe(text, "mine.yaml")


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"digit-dts: neither a file nor .* did you mean 'digits-dts'"):
        load_recipe("digit-dts")


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"mine\.yaml: not a readable text file"):
        load_recipe(tmp_path / "mine.yaml")


def test_control_characters_are_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"name: a\x00b")
    with pytest.raises(RecipeError, match=r"mine\.yaml: not valid YAML"):
        load_recipe(tmp_path / "mine.yaml")


# --- the parts of the loop ---


def test_the_mask_loss_counts_the_active_steps_of_the_chosen_groups_alone() -> None:
    model = create_model("dts-spikformer-1-16", image_size=8, heads=2, time_steps=4, initial_steps=3)
    by_group = {"sps": 5, "qkv": 3, "attn": 2, "mlp": 2}
    for group, layers in by_group.items():
        assert mask_loss(model, [group]).item() == 3 * layers
    assert mask_loss(model, ["qkv", "mlp"]).item() == 3 * 5
    mask_loss(model, ["qkv"]).backward()
    pulled = {layer_group(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert pulled == {"qkv"}


def test_a_network_without_dtss_layers_has_no_mask_loss() -> None:
    assert mask_loss(create_model("spikformer-1-16", image_size=8), ["sps"]).item() == 0


def test_tp_has_its_own_learning_rate_and_no_weight_decay(tiny: Recipe) -> None:
    model = create_model("dts-spikformer-1-16", image_size=8)
    recipe = changed(tiny, optimiser__weight_decay=0.1, optimiser__tp_learning_rate=0.5)
    groups = make_optimiser(model, recipe).param_groups
    scores = {id(layer.tp) for layer in spiking_layers(model).values() if isinstance(layer, DTSS)}
    assert {id(p) for p in groups[2]["params"]} == scores
    assert [(group["peak_lr"], group["weight_decay"]) for group in groups] == [
        (0.01, 0.1),
        (0.01, 0.0),
        (0.5, 0.0),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(p.dim() == 1 for p in groups[1]["params"])


def test_the_learning_rate_climbs_in_a_line_and_falls_in_a_cosine() -> None:
    shares = [learning_rate_share(step, 4, 12) for step in range(12)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1
    assert shares[8] == pytest.approx(0.5)
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert shares[-1] < 0.05


def test_a_shift_moves_whole_images_by_at_most_its_pixels_and_lets_zeros_in() -> None:
    images = torch.rand(40, 2, 6, 5) + 1
    moved = shifted(images, torch.randint(5, (2, 40, 1), generator=torch.Generator().manual_seed(0)), 2)
    seen = set()
    for before, after in zip(images, moved, strict=True):
        fits = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                expected = torch.zeros_like(before)
                for y in range(6):
                    for x in range(5):
                        if 0 <= y - down < 6 and 0 <= x - right < 5:
                            expected[:, y, x] = before[:, y - down, x - right]
                if torch.equal(expected, after):
                    fits.append((down, right))
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 10


def test_accuracy_is_the_share_of_right_answers_and_leaves_the_mode_alone() -> None:
    class FirstPixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return nn.functional.one_hot((x[:, 0, 0, 0] * 16).long(), 17).float()

    images, model = load_images("digits", "test", 8, 1), FirstPixel().train()
    expected = float((images.images[:, 0, 0, 0] * 16 == images.labels).mean())
    assert accuracy(model, images, batch_size=7) == pytest.approx(expected)
    assert expected > 0
    assert model.training


def test_layers_that_only_the_floor_keeps_alive_are_named() -> None:
    model = create_model("dts-spikformer-1-16", image_size=8, min_steps=1)
    assert layers_held_by_floor(model) == ()
    nn.init.zeros_(model.get_parameter("sps.lif1.tp"))
    assert layers_held_by_floor(model) == ("sps.lif1",)
    assert active_steps_by_layer(model)["sps.lif1"] == 1


def test_every_layer_of_a_plain_spikformer_is_active_in_all_steps() -> None:
    model = create_model("spikformer-1-16", image_size=8, time_steps=3)
    assert set(active_steps_by_layer(model).values()) == {3}
    assert active_steps_by_layer(create_model("vit-1-16", image_size=8)) == {}


# --- the loop ---


def test_a_network_learns_and_its_checkpoint_measures_what_the_result_says(tmp_path: Path, tiny: Recipe) -> None:
    result = train(changed(tiny, epochs=10), tmp_path / "a.safetensors")
    model = load_checkpoint(result.path)
    test = load_images(tiny.data or "", "test", 8, 1)
    assert result.accuracy == accuracy(model, test) > 0.9
    assert result.active_steps == time_steps_by_layer(model)
    assert result.t_avg == sum(result.active_steps.values()) / 12
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]  # type: ignore[operator]
    assert result.seconds > 0
    said = read_metadata(result.path)
    assert (said["test_accuracy"], said["seed"], said["split"]) == (result.accuracy, 0, "train")
    assert parse_recipe(said["recipe"], "said.yaml") == changed(tiny, epochs=10, data=None)
    assert parse_recipe((tmp_path / "a.recipe.yaml").read_text(), "said.yaml") == changed(tiny, epochs=10)
    written = ["a.best.safetensors", "a.recipe.yaml", "a.safetensors", "bars.npz"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == written


def test_the_best_checkpoint_is_that_of_the_first_epoch_with_the_highest_accuracy(tmp_path: Path, tiny: Recipe) -> None:
    result = train(changed(tiny, epochs=8, test_every=1), tmp_path / "a.safetensors")
    scores = [record["test_accuracy"] for record in result.epochs]
    assert result.best_epoch == 1 + scores.index(max(scores))  # type: ignore[type-var]
    said = read_metadata(result.best_path)
    assert said["epoch"] == result.best_epoch
    assert "the test split, so its accuracy there is optimistic" in said["chosen"]
    measured = accuracy(load_checkpoint(result.best_path), load_images(tiny.data or "", "test", 8, 1))
    assert measured == said["test_accuracy"] == max(scores)  # type: ignore[type-var]
    assert read_metadata(result.path)["chosen"] == "last epoch"


def test_held_out_images_are_not_trained_on_and_choose_the_best(tmp_path: Path, tiny: Recipe) -> None:
    result = train(changed(tiny, hold_out=8, test_every=1), tmp_path / "a.safetensors")
    held = [record["held_out_accuracy"] for record in result.epochs]
    assert result.best_epoch == 1 + held.index(max(held))  # type: ignore[type-var]
    said = read_metadata(result.best_path)
    assert said["chosen"] == "best of 3 epochs on held-out images"
    assert said["data_note"].startswith("24 of 32; ")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, tiny: Recipe) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    torch.rand(7)  # the global generator has no say
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        train(tiny, path, seed=seed)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()
    assert read_metadata(paths[2])["seed"] == 6


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path: Path, tiny: Recipe, epoch: int) -> None:
    whole = train(tiny, tmp_path / "whole.safetensors", write_log=True)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "parts.safetensors", on_epoch=stop_after(epoch))
    assert partial_path(tmp_path / "parts.safetensors").exists()
    assert not (tmp_path / "parts.safetensors").exists()
    parts = train(tiny, tmp_path / "parts.safetensors", resume=True, write_log=True)
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "parts.log.csv").read_bytes() == (tmp_path / "whole.log.csv").read_bytes()
    assert parts.epochs == whole.epochs
    assert not partial_path(tmp_path / "parts.safetensors").exists()


def test_a_partial_file_of_another_recipe_or_seed_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    output = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, on_epoch=stop_after(1))
    for recipe, seed in ((changed(tiny, batch_size=16), None), (tiny, 1)):
        with pytest.raises(CheckpointError, match=r"a\.safetensors\.partial: belongs to another recipe, seed or data"):
            train(recipe, output, seed=seed, resume=True)


def test_a_partial_file_that_is_missing_or_foreign_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    output = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="so there is nothing to resume"):
        train(tiny, output, resume=True)
    torch.save({"weight": torch.zeros(1)}, partial_path(output))
    with pytest.raises(CheckpointError, match="not the state of a training run"):
        train(tiny, output, resume=True)


def test_the_log_has_a_line_an_epoch_and_test_accuracy_where_it_was_measured(tmp_path: Path, tiny: Recipe) -> None:
    result = train(tiny, tmp_path / "a.safetensors", write_log=True)
    with (tmp_path / "a.log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["test_accuracy"]) for row in rows] == [False, True, True]
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(result.accuracy, abs=1e-6)
    assert float(rows[-1]["t_avg"]) == pytest.approx(result.t_avg, abs=1e-6)
    for row in rows:
        total = float(row["cross_entropy"]) + float(row["mask_loss"])
        assert float(row["loss"]) == pytest.approx(total, abs=1e-5)
        assert float(row["mask_loss"]) > 0


def test_training_keeps_tp_at_zero_or_above_and_names_the_layers_it_killed(
    tmp_path: Path, tiny: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    heavy = changed(tiny, mask_loss={"weight": 50.0, "groups": ["qkv"]}, optimiser__tp_learning_rate=0.5)
    with caplog.at_level(logging.WARNING, "snn_energy"):
        result = train(heavy, tmp_path / "a.safetensors")
    killed = tuple(f"blocks.0.attn.{name}_lif" for name in "qkv")
    assert set(killed) <= set(result.dead_layers)
    assert "no active time step left (T_l = 0) in " in caplog.text
    assert all(name in caplog.text for name in killed)
    scores = {name: p for name, p in load_checkpoint(result.path).named_parameters() if name.endswith(".tp")}
    assert len(scores) == 12
    assert all((tp >= 0).all() for tp in scores.values())
    assert not scores["blocks.0.attn.q_lif.tp"].any()


def test_a_floor_of_one_step_lets_no_layer_die(tmp_path: Path, tiny: Recipe) -> None:
    heavy = changed(tiny, mask_loss__weight=50.0, optimiser__tp_learning_rate=0.5, model__min_steps=1)
    result = train(heavy, tmp_path / "a.safetensors")
    assert result.dead_layers == ()
    assert set(result.active_steps.values()) == {1}
    assert len(result.floor_layers) == 12


def test_threads_generator_and_determinism_are_left_as_they_were(tmp_path: Path, tiny: Recipe) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(changed(tiny, threads=2), tmp_path / "a.safetensors", on_epoch=stop_after(1))
    assert torch.get_num_threads() == before[0]
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_data_without_a_test_split_of_its_own_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    np.savez(tmp_path / "b.npz", images=np.zeros((4, 8, 8)), labels=np.zeros(4, int))
    with pytest.raises(RecipeError, match=r"b\.npz has no array is_test"):
        train(changed(tiny, data=f"npz:{tmp_path / 'b.npz'}"), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"data": "digits"}, DataError, "labels run from 0 to 9, but the model has 3 classes"),
        ({"model__in_channels": 3}, DataError, "the model expects 3x8x8"),
        ({"model__heads": 3}, RecipeError, "tiny: model: dim 16 must be a multiple of heads 3"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(
    tmp_path: Path, tiny: Recipe, changes: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        train(changed(tiny, **changes), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("name", ["vit-1-16", "spikformer-1-16"])
def test_training_that_diverges_is_stopped(tmp_path: Path, tiny: Recipe, name: str) -> None:
    images = np.full((16, 8, 8), 3e38, np.float32)
    np.savez(tmp_path / "huge.npz", images=images, labels=np.arange(16) % 3, is_test=np.arange(16) >= 8)
    changes = {"model__name": name, "model__time_steps": None, "mask_loss": None}
    with pytest.raises(RecipeError, match="tiny: training diverged in epoch 1"):
        train(changed(tiny, data=f"npz:{tmp_path / 'huge.npz'}", **changes), tmp_path / "a.safetensors")


def test_a_negative_seed_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="tiny: seed: input should be greater than or equal to 0, not -1"):
        train(tiny, tmp_path / "a.safetensors", seed=-1)


@pytest.mark.parametrize("place", ["nowhere/a.safetensors", ""])
def test_a_place_that_cannot_be_written_is_named_before_the_first_epoch(
    tmp_path: Path, tiny: Recipe, place: str
) -> None:
    with pytest.raises(OutputError, match="cannot be written there"):
        train(tiny, tmp_path / place, on_epoch=stop_after(1))


def test_progress_is_plain_lines_on_stderr_where_there_is_no_terminal(
    tmp_path: Path, tiny: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, tmp_path / "a.safetensors", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"tiny: epoch 3/3, loss \d\.\d+, test accuracy .*images/s, 0 s left", shown.err)
    assert "\x1b" not in shown.err


def test_progress_is_a_bar_on_a_terminal(tiny: Recipe) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    record = {"epoch": 2, "loss": 0.5, "test_accuracy": 0.9, "t_avg": 1.5, "dead_layers": 0}
    with Reporter(tiny, 32, enabled=True, console=console) as report:
        report.resume(1, 0)
        for _ in range(4):
            report.batch(8)
        report.epoch(record, ())
    assert "64/96" in text.getvalue()
    assert "images/s" in text.getvalue()
    assert "test accuracy 90.0%" in text.getvalue()


def test_without_progress_nothing_is_shown(tmp_path: Path, tiny: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    train(changed(tiny, mask_loss=None), tmp_path / "a.safetensors")
    assert capsys.readouterr() == ("", "")


# --- the shipped networks ---


def shipped(recipe_name: str) -> Path:
    return SHIPPED / demo_file(recipe_name)


@pytest.mark.parametrize("name", DEMO_RECIPES)
def test_a_shipped_network_is_small_and_as_accurate_as_it_says(name: str) -> None:
    path, recipe = shipped(name), load_recipe(name)
    assert path.stat().st_size < 1_000_000
    said = read_metadata(path)
    measured = accuracy(load_checkpoint(path), load_images("digits", "test", 16, 1))
    assert measured >= 0.97
    assert abs(measured - said["test_accuracy"]) <= 1 / 360  # another processor may round one image differently
    assert parse_recipe(said["recipe"], "said.yaml") == recipe
    assert (said["model"], said["data"], said["split"]) == (recipe.model.name, "digits", "train")
    assert "/" not in said["command"]


def test_the_shipped_networks_are_within_a_percentage_point_of_each_other() -> None:
    accuracies = [read_metadata(shipped(name))["test_accuracy"] for name in DEMO_RECIPES]
    assert max(accuracies) - min(accuracies) <= 0.01


@pytest.mark.parametrize("name", DEMO_RECIPES)
def test_the_shipped_log_ends_with_the_accuracy_of_the_checkpoint(name: str) -> None:
    with shipped(name).with_name(f"{shipped(name).stem}.log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == load_recipe(name).epochs
    said = read_metadata(shipped(name))
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(said["test_accuracy"], abs=1e-6)


def test_the_shipped_dtss_network_learned_different_steps_and_no_more_than_two_on_average() -> None:
    model = load_checkpoint(shipped("digits-dts"))
    steps = time_steps_by_layer(model)
    assert len(steps) == 19
    assert sum(steps.values()) / 19 <= 2
    assert len(set(steps.values())) >= 3
    assert layers_held_by_floor(model) == ()
    assert read_metadata(shipped("digits-dts"))["active_steps"] == steps


@pytest.mark.parametrize("name", ["digits-dts", "digits-spikformer"])
def test_every_layer_of_a_shipped_spiking_network_fires_in_its_active_steps_and_in_no_other(
    name: str,
) -> None:
    model = load_checkpoint(shipped(name))
    spikes: dict[str, list[int]] = {}
    for layer_name, layer in spiking_layers(model).items():
        layer.register_forward_hook(
            lambda module, inputs, output, layer_name=layer_name: spikes.update(
                {layer_name: output.flatten(1).count_nonzero(1).tolist()}
            )
        )
    with torch.inference_mode():
        model(torch.from_numpy(load_images("digits", "test", 16, 1, samples=60).images))
    steps = active_steps_by_layer(model)  # type: ignore[arg-type]
    for layer_name, per_step in spikes.items():
        assert [count > 0 for count in per_step] == [t < steps[layer_name] for t in range(4)], layer_name


def test_the_summary_shows_accuracy_steps_and_seconds(tmp_path: Path, tiny: Recipe) -> None:
    result = train(changed(tiny, mask_loss__weight=1e-4), tmp_path / "a.safetensors")
    table = summary([result])
    assert f"{result.accuracy:.2%}" in table
    assert f"{result.t_avg:.3f}" in table


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file" / "folder")]) == 1
    assert re.fullmatch(r"error: .*the folder cannot be created.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("name: !foo x", "the tag !foo"),
        ("epochs: !!set {a, b}", "a commentedset"),
        ("seed: 2001-01-01", "a date"),
        ("seed: !!binary aGVsbG8=", "a bytes"),
    ],
)
def test_what_is_no_plain_yaml_value_is_refused_in_one_line(line: str, what: str) -> None:
    with pytest.raises(RecipeError, match=f"^r.yaml: {what} is not supported; use only numbers, texts") as caught:
        parse_recipe(f"{line}\n", "r.yaml")
    assert "\n" not in str(caught.value)
