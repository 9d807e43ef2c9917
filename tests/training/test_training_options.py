"""Losses, neurons, augmentation, several processes, interruption at any moment: what a recipe can ask for."""

from __future__ import annotations

import copy
import csv
import hashlib
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
import snn_energy.training.train as loop
from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from snn_energy.core.errors import CheckpointError, DataError, OutputError, RecipeError
from snn_energy.models.create import create_model
from snn_energy.models.neurons import DTSS, LIF, HoyerSpike, TriangularSpike, hoyer_extremum, hoyer_regulariser
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.running.processes import Processes, join_batch_norms
from snn_energy.training.augment import augment, cut_out, draw_augmentation, mixup
from snn_energy.training.evaluation import to_float16
from snn_energy.training.losses import cross_entropy, hoyer_loss, tet_loss
from snn_energy.training.recipe import Recipe, list_recipes, load_recipe, parse_recipe
from snn_energy.training.run_files import partial_path
from snn_energy.training.train import train

TINY = """\
name: tiny
model: {{name: dts-spikformer-1-16, image_size: 8, in_channels: 1, num_classes: 3, time_steps: 3, heads: 2}}
data: {data}
epochs: 3
batch_size: 8
shift_pixels: 1
optimiser: {{learning_rate: 0.01, warmup_epochs: 1}}
test_every: 2
"""


@pytest.fixture
def data(make_bars: Callable[[int], str]) -> str:
    """Three classes of noisy bars, 8x8, 35 images to train on and 13 to test on."""
    return make_bars(35)


@pytest.fixture
def tiny(data: str) -> Recipe:
    return parse_recipe(TINY.format(data=data), "tiny.yaml")


def of_model(recipe: Recipe, **changes: Any) -> dict[str, Any]:
    return recipe.model.model_dump() | changes


# --- neurons ---


def paper_by_autograd(current: Tensor, leak: float, v_th: float, gamma: float) -> Tensor:
    """Eq. 1-2 written as two lines for autograd to differentiate, with dO/dH = gamma / V_th * max(0, 1 - |H/V_th - 1|).

    The step is scaled to V_th afterwards, so its own slope is a V_th-th of that.
    """
    u, spikes = torch.zeros_like(current[0]), []
    for current_t in current:
        h = torch.add(current_t, u, alpha=leak)
        spike = TriangularSpike.apply(h - v_th, v_th, gamma / v_th) * v_th  # type: ignore[no-untyped-call]
        u = h - spike
        spikes.append(spike)
    return torch.stack(spikes)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    leak=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    v_th=st.sampled_from([0.5, 1.0, 2.0]),
    gamma=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_gradient_written_by_hand_is_that_of_the_equations_to_the_last_bit(
    steps: int, seed: int, leak: float, v_th: float, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    current = (torch.randn(steps, 2, 3, 4, generator=generator) * 1.5 * v_th).requires_grad_()
    weight = torch.randn(steps, 2, 3, 4, generator=generator)
    expected, found = paper_by_autograd(current, leak, v_th, gamma), LIF(leak, v_th, gamma=gamma)(current)
    assert torch.equal(expected, found)
    (wanted,), (got,) = torch.autograd.grad(expected, current, weight), torch.autograd.grad(found, current, weight)
    assert torch.equal(wanted, got)


def test_the_hoyer_extremum_and_regulariser_of_four_potentials() -> None:
    z = torch.tensor([-1.0, 0.5, 0.25, 3.0])  # clipped: 0, 0.5, 0.25, 1
    assert hoyer_extremum(z).item() == (0.25 + 0.0625 + 1) / 1.75
    assert hoyer_regulariser(z).item() == pytest.approx(1.75**2 / 1.3125)
    assert hoyer_extremum(torch.tensor([-1.0, 0.0])).item() == 1
    assert hoyer_regulariser(torch.zeros(3)).item() == 0


def test_a_hoyer_neuron_fires_from_its_batch_s_extremum_on_and_trains_its_threshold() -> None:
    layer = LIF(0.5, 2.0, "hoyer").train()
    current = torch.tensor([[[0.5, 1.0, 3.0]], [[0.2, 2.0, 0.0]]], requires_grad=True)  # (T, B, 3)
    spikes = layer(current)
    u, expected, extrema = np.zeros(3), [], []
    for step in current.detach().numpy()[:, 0]:
        h = 0.5 * u + step
        clipped = np.clip(h / 2, 0, 1)
        extremum = (clipped**2).sum() / clipped.sum()
        fired = (h / 2 >= extremum).astype(float)
        u = h - fired * 2 * extremum
        expected.append(fired)
        extrema.append(extremum)
    assert spikes[:, 0].tolist() == np.array(expected).tolist()
    assert layer.get_buffer("extremum").item() == pytest.approx(0.9 * 1 + 0.1 * np.mean(extrema))
    spikes.sum().backward()
    assert layer.threshold.grad is not None
    assert layer.threshold.grad.item() != 0


def test_a_hoyer_neuron_gives_the_same_spikes_with_and_without_gradients_in_eval_mode() -> None:
    torch.manual_seed(0)
    for layer in (LIF(0.5, 1.0, "hoyer"), DTSS(4, 2, 0, 0.5, 1.0, "hoyer")):
        layer.get_buffer("extremum").fill_(0.7)
        layer.threshold.data.fill_(1.3)
        current = torch.randn(4, 50, 6) * 2
        with torch.no_grad():
            plain = layer.eval()(current)
        differentiable = layer(current.requires_grad_()).detach()
        assert torch.equal(plain, differentiable)
        assert set(plain.unique().tolist()) == {0.0, 1.0}


def test_the_hoyer_surrogate_is_one_between_zero_and_two() -> None:
    z = torch.tensor([-0.1, 0.0, 1.0, 2.0, 2.1], requires_grad=True)
    HoyerSpike.apply(z, torch.tensor(0.5)).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert z.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_hoyer_loss_adds_the_terms_of_all_layers() -> None:
    torch.manual_seed(0)
    model = create_model("spikformer-1-16", image_size=8, time_steps=2, neuron="hoyer", heads=2).train()
    model(torch.rand(4, 3, 8, 8))
    terms = [layer.hoyer_loss for layer in spiking_layers(model).values()]
    assert len(terms) == 12
    assert hoyer_loss(model).item() == pytest.approx(sum(float(t.detach()) for t in terms if t is not None), rel=1e-6)
    assert hoyer_loss(create_model("spikformer-1-16", image_size=8, heads=2)).item() == 0


# --- losses ---


def test_the_logits_of_the_steps_average_to_those_of_the_network() -> None:
    torch.manual_seed(0)
    model = create_model("spikformer-1-16", image_size=8, time_steps=3, heads=2).eval()
    assert isinstance(model, Spikformer)
    images = torch.rand(5, 3, 8, 8)
    steps = model.forward_steps(images)
    assert steps.shape == (3, 5, 10)
    assert torch.allclose(steps.mean(0), model(images), atol=1e-6)


def test_the_tet_loss_is_the_mean_over_steps_of_cross_entropies_and_a_share_of_a_square_error() -> None:
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # (T=2, B=1, 2 classes)
    label = torch.tensor([0])
    by_step = [np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(1.0))]
    squares = np.mean([(2 - 1) ** 2, 1, 1, 0])
    expected = 0.9 * np.mean(by_step) + 0.1 * squares
    assert tet_loss(logits, label, 0.0, 1, 0.1, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 7, 5), torch.randint(5, (7,))
    for smoothing in (0.0, 0.1):
        whole = cross_entropy(logits[0], labels, smoothing, 7)
        parts = [cross_entropy(logits[0, a:b], labels[a:b], smoothing, 7) for a, b in ((0, 3), (3, 3), (3, 7))]
        assert torch.isclose(torch.stack(parts).sum(), whole, rtol=1e-6)
        whole = tet_loss(logits, labels, smoothing, 7, 0.2, 1.0)
        parts = [tet_loss(logits[:, a:b], labels[a:b], smoothing, 7, 0.2, 1.0) for a, b in ((0, 3), (3, 7))]
        assert torch.isclose(torch.stack(parts).sum(), whole, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"tet_loss": {"weight": 0.05, "target": 1.0}},
        {"mixup": 0.4, "cutout_pixels": 3, "flip": True},
        {"precision": "bfloat16", "channels_last": True},
        {"optimiser": {"learning_rate": 0.01, "clip_norm": 0.1}},
    ],
)
def test_a_network_learns_with_every_option(tmp_path: Path, tiny: Recipe, changes: dict[str, Any]) -> None:
    result = train(tiny.with_changes(epochs=15, **changes), tmp_path / "a.safetensors")
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]  # type: ignore[operator]
    if "mixup" not in changes:
        assert result.accuracy > 0.6


def test_a_hoyer_network_learns_and_its_checkpoint_gives_the_same_accuracy(tmp_path: Path, tiny: Recipe) -> None:
    model = of_model(tiny, name="spikformer-1-16", neuron="hoyer", time_steps=1)
    recipe = tiny.with_changes(model=model, hoyer_loss={"weight": 1e-6}, epochs=15)
    result = train(recipe, tmp_path / "a.safetensors")
    assert result.accuracy > 0.6
    loaded = load_checkpoint(result.path)
    thresholds = [layer.threshold.item() for layer in spiking_layers(loaded).values()]
    assert all(value not in (0.5, 1.0) for value in thresholds), "thresholds are trained"


def test_a_gradient_is_clipped_to_its_norm(tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def spy(parameters: Any, norm: float) -> Tensor:
        parameters = list(parameters)
        clip(parameters, norm)
        seen.append(float(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()))
        return torch.zeros(())

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    train(tiny.with_changes(optimiser={"learning_rate": 0.01, "clip_norm": 1e-3}), tmp_path / "a.safetensors")
    assert len(seen) == 3 * 5
    assert max(seen) <= 1.001e-3


# --- augmentation ---


def test_half_of_the_images_are_mirrored_and_the_others_untouched(tiny: Recipe) -> None:
    recipe = tiny.with_changes(shift_pixels=0, flip=True)
    images = torch.rand(200, 1, 8, 8)
    draws = draw_augmentation(recipe, 200, torch.Generator().manual_seed(0))
    found = augment(images, draws, torch.arange(200), recipe)
    same = [torch.equal(a, b) for a, b in zip(images, found, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, found, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 70 < sum(same) < 130


def test_a_square_is_cut_out_wherever_it_lies() -> None:
    images = torch.ones(2, 3, 6, 5)
    found = cut_out(images, torch.tensor([[[-1], [4]], [[1], [3]]]), 3)  # (rows; columns) of the two corners
    expected = torch.ones(2, 3, 6, 5)
    expected[0, :, 0:2, 1:4] = 0
    expected[1, :, 4:6, 3:5] = 0
    assert torch.equal(found, expected)


def test_mixup_mixes_an_image_with_its_mirror_place_and_labels_alike() -> None:
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 2])
    found, targets = mixup(images, labels, 0.25, 3)
    assert torch.allclose(found[0], 0.75 * images[0] + 0.25 * images[3])
    assert targets.tolist() == [[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.75]]


@given(count=st.integers(1, 200), size=st.integers(1, 9))
def test_processes_share_a_batch_without_gap_or_overlap_and_keep_mirror_places_together(count: int, size: int) -> None:
    parts = [Processes(rank, size, torch.device("cpu")).part(count).tolist() for rank in range(size)]
    assert sorted(place for part in parts for place in part) == list(range(count))
    for part in parts:
        assert part == sorted(part)
        assert {count - 1 - place for place in part} == set(part)
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_a_part_of_a_batch_is_augmented_as_in_the_whole(tiny: Recipe) -> None:
    recipe = tiny.with_changes(flip=True, cutout_pixels=3)
    images = torch.rand(11, 1, 8, 8)
    draws = draw_augmentation(recipe, 11, torch.Generator().manual_seed(3))
    whole, places = augment(images, draws, torch.arange(11), recipe), torch.tensor([0, 4, 10])
    assert torch.equal(augment(images[places], draws, places, recipe), whole[places])


def test_crops_lie_inside_the_image_and_have_the_area_that_is_asked_for(tiny: Recipe) -> None:
    recipe = tiny.with_changes(data=None, crop_scale=[0.25, 0.5])
    crops = draw_augmentation(recipe, 500, torch.Generator().manual_seed(0)).crops
    assert crops is not None
    left, top, right, bottom = crops.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 1).all()
    assert (bottom <= 1).all()
    area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
    assert area.min() >= 0.25 - 1e-9
    assert area.max() <= 0.5 + 1e-9
    assert aspect.min() >= 0.75 - 1e-9
    assert aspect.max() <= 4 / 3 + 1e-9
    assert area.std() > 0.05


# --- a start from other weights ---


def test_training_starts_from_the_non_spiking_twin(tmp_path: Path, tiny: Recipe) -> None:
    twin = create_model("vit-1-16", image_size=8, in_channels=1, num_classes=3, heads=2)
    path = tmp_path / "twin.safetensors"
    save_checkpoint(path, twin, {})
    recipe = tiny.with_changes(start_from=str(path))
    model = loop._initial_state(recipe, Processes(0, 1, torch.device("cpu"))).model
    shared = set(twin.state_dict()) & set(model.state_dict())
    assert len(shared) == len(twin.state_dict()) > 20
    for name in shared:
        assert torch.equal(twin.state_dict()[name], model.state_dict()[name])
    result = train(recipe, tmp_path / "a.safetensors")
    said = read_metadata(result.path)
    assert said["started_from"]["checkpoint"] == "twin.safetensors"
    assert str(tmp_path) not in str(said)


def test_a_start_that_shares_no_weight_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    path = tmp_path / "wide.safetensors"
    save_checkpoint(path, create_model("vit-1-32", image_size=8, in_channels=1, num_classes=4, heads=2), {})
    with pytest.raises(CheckpointError, match=r"wide\.safetensors: start_from: no weight has the name and shape"):
        train(tiny.with_changes(start_from=str(path)), tmp_path / "a.safetensors")


def test_a_start_that_does_not_exist_is_named(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: no such file"):
        train(tiny.with_changes(start_from=str(tmp_path / "nowhere.safetensors")), tmp_path / "a.safetensors")


# --- interruption ---

MIXED = {"mixup": 0.4, "flip": True, "cutout_pixels": 3}


@pytest.mark.parametrize("step", [1, 4, 5, 7, 15])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    recipe, calls = tiny.with_changes(**MIXED), [0]
    whole = train(recipe, tmp_path / "whole.safetensors", write_log=True)
    original = loop.training_step

    def interrupted(*arguments: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == step + 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "training_step", interrupted)
    output = tmp_path / "parts.safetensors"
    if step < 15:
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output, save_every_s=0)
        state = torch.load(partial_path(output), weights_only=True)
        assert len(state["epochs"]) * 5 + state["next_batch"] % 5 == step
    monkeypatch.setattr(loop, "training_step", original)
    parts = train(recipe, output, write_log=True, resume=step < 15)
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert parts.best_path.read_bytes() == whole.best_path.read_bytes()
    assert (tmp_path / "parts.log.csv").read_bytes() == (tmp_path / "whole.log.csv").read_bytes()


def test_a_run_killed_again_and_again_ends_with_the_same_weights(tmp_path: Path, tiny: Recipe) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny.with_changes(epochs=24, **MIXED).to_yaml())
    program = (
        "import sys; from snn_energy.training.recipe import load_recipe; from snn_energy.training.train import train; "
        "train(load_recipe(sys.argv[1]), sys.argv[2], resume=len(sys.argv) > 3, save_every_s=0)"
    )
    output, kills = tmp_path / "killed.safetensors", 0
    train(tiny.with_changes(epochs=24, **MIXED), tmp_path / "whole.safetensors")
    while not output.exists():
        resume = ["resume"] if partial_path(output).exists() else []
        process = forked.start(recipe, output, *resume, program=program)
        before = partial_path(output).stat().st_mtime_ns if resume else 0
        while process.poll() is None and kills < 3:
            time.sleep(0.002)
            if partial_path(output).exists() and partial_path(output).stat().st_mtime_ns != before:
                time.sleep(0.05 * kills)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        process.wait()
    assert kills == 3
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_the_same_data_elsewhere_is_the_same_run_and_other_data_are_not(tmp_path: Path, tiny: Recipe) -> None:
    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    output, path = tmp_path / "a.safetensors", Path((tiny.data or "").removeprefix("npz:"))
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, on_epoch=stop)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, data=f"npz:{moved}", resume=True, on_epoch=stop)
    with np.load(moved) as file:
        arrays = dict(file)
    arrays["labels"][:3] = arrays["labels"][:3][::-1]
    np.savez(moved, **arrays)
    with pytest.raises(CheckpointError, match="belongs to another recipe, seed or data"):
        train(tiny, output, data=f"npz:{moved}", resume=True)


def test_a_full_disk_leaves_the_older_checkpoint_and_says_so_in_one_line(tmp_path: Path, tiny: Recipe) -> None:
    train(tiny, tmp_path / "a.safetensors")
    older = {name: (tmp_path / name).read_bytes() for name in ("a.safetensors", "a.best.safetensors")}

    (tmp_path / "tiny.yaml").write_text(tiny.with_changes(seed=1).to_yaml())
    small_disk = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    done = forked.run("train", tmp_path / "tiny.yaml", "-o", "a.safetensors", cwd=tmp_path, code=small_disk)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in older} == older
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_an_output_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            save_checkpoint(tmp_path / "a.safetensors", create_model("vit-1-16", image_size=8), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


# --- several processes ---


def train_together(count: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run_together(count, "train", *arguments, "--device", "cpu", cwd=folder)


def log_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path, tiny: Recipe) -> None:
    """The last batch has 3 images, so that one process holds two thirds of it."""
    mask = {"weight": 0.01, "groups": ["qkv"]}
    recipe = tiny.with_changes(**MIXED, mask_loss=mask, optimiser={"learning_rate": 1e-3}, hold_out=4, test_every=1)
    (tmp_path / "tiny.yaml").write_text(recipe.to_yaml())
    one = train(recipe, tmp_path / "one.safetensors", write_log=True)
    done = train_together(2, tmp_path, "tiny.yaml", "-o", "two.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint written to") == 1
    for a, b in zip(log_of(tmp_path / "one.log.csv"), log_of(tmp_path / "two.log.csv"), strict=True):
        for key in ("loss", "cross_entropy", "mask_loss"):
            assert float(b[key]) == pytest.approx(float(a[key]), rel=2e-4), key
        assert b["t_avg"] == a["t_avg"]
    alone, together = load_checkpoint(one.path).state_dict(), load_checkpoint(tmp_path / "two.safetensors").state_dict()
    assert list(alone) == list(together)
    for name, tensor in alone.items():
        assert torch.allclose(tensor.float(), together[name].float(), atol=5e-3), name


def test_several_processes_are_not_one_batch_for_a_hoyer_neuron(tmp_path: Path, tiny: Recipe) -> None:
    recipe = tiny.with_changes(model=of_model(tiny, name="spikformer-1-16", neuron="hoyer"))
    with pytest.raises(RecipeError, match="neuron hoyer takes statistics of the whole batch"):
        loop._initial_state(recipe, Processes(0, 2, torch.device("cpu")))


def test_a_joined_batch_norm_of_one_process_is_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: None)
    for norm, shape in ((nn.BatchNorm1d(5), (7, 5, 3)), (nn.BatchNorm2d(5), (7, 5, 3, 2))):
        nn.init.uniform_(norm.weight)
        joined = nn.Sequential(type(norm)(5))
        joined[0].load_state_dict(norm.state_dict())
        join_batch_norms(joined)
        x = torch.randn(shape) * 3 + 1
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        weight = torch.randn(shape)
        expected, found = norm(a), joined(b)
        assert torch.allclose(expected, found, atol=1e-5)
        (expected * weight).sum().backward()
        (found * weight).sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5)
        assert torch.allclose(norm.running_var, joined[0].running_var, atol=1e-5)
        assert torch.allclose(norm.running_mean, joined[0].running_mean, atol=1e-6)
        assert torch.equal(norm.eval()(x), joined.eval()(x)) or torch.allclose(norm(x), joined(x), atol=1e-5)


def test_cuda_is_refused_where_there_is_none(tmp_path: Path, tiny: Recipe) -> None:
    if torch.cuda.is_available():
        result = train(tiny, tmp_path / "a.safetensors", device="cuda")
        assert result.accuracy > 0.3
        return
    with pytest.raises(RecipeError, match="device cuda: this torch finds no CUDA device"):
        train(tiny, tmp_path / "a.safetensors", device="cuda")


def test_cross_entropy_of_shares_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, shares = torch.randn(6, 4), torch.rand(6, 4).softmax(1)
    expected = functional.cross_entropy(logits, shares, label_smoothing=0.1)
    assert torch.isclose(cross_entropy(logits, shares, 0.1, 6), expected)


# --- 16-bit weights ---


def test_a_checkpoint_in_16_bits_keeps_its_masks_and_says_both_accuracies(tmp_path: Path, tiny: Recipe) -> None:
    result = train(tiny.with_changes(epochs=10), tmp_path / "a.safetensors")
    before, after = to_float16(result.path, tiny.data or "", tmp_path / "b.safetensors")
    said = read_metadata(tmp_path / "b.safetensors")
    assert before == result.accuracy
    assert (said["test_accuracy"], said["test_accuracy_32_bit"]) == (after, before)
    assert said["recipe_name"] == "tiny"
    whole, small = load_checkpoint(result.path), load_checkpoint(tmp_path / "b.safetensors")
    for (name, a), b in zip(whole.state_dict().items(), small.state_dict().values(), strict=True):
        assert torch.equal(a.half().float() if a.dim() > 1 else a, b), name
    assert abs(after - before) < 0.2
    assert (tmp_path / "b.safetensors").stat().st_size < 0.75 * result.path.stat().st_size


def test_a_weight_beyond_16_bits_is_refused(tmp_path: Path) -> None:
    model = create_model("vit-1-16", image_size=8)
    nn.init.constant_(model.head.weight, 1e5)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: too large for 16-bit floats, in: head.weight"):
        save_checkpoint(tmp_path / "b.safetensors", model, {}, half=True)
    assert not list(tmp_path.iterdir())


# --- images in files ---


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """ImageNet's layout: three classes of coloured JPEG files of odd sizes, eight to train on and three to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (20 + i, 30, 3)).astype(np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i}.JPEG")
    return tmp_path / "images"


def test_a_network_is_trained_and_profiled_on_class_folders(tmp_path: Path, tiny: Recipe, folders: Path) -> None:
    model = of_model(tiny, in_channels=3)
    changes = {"model": model, "data": None, "crop_scale": [0.3, 1.0], "flip": True, "epochs": 20}
    (tmp_path / "mine.yaml").write_text(tiny.with_changes(**changes).to_yaml())
    data = ["--data", f"folder:{folders}"]
    for arguments in (
        ["train", "mine.yaml", *data, "-o", "a.safetensors", "--device", "cpu"],
        ["profile", "a.safetensors", *data, "-o", "a.json"],
    ):
        done = forked.run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    said, header = read_metadata(tmp_path / "a.safetensors"), se.load_counts(tmp_path / "a.json").header
    assert said["data"] == header["dataset"] == "folder:images"
    assert header["accuracy"] == said["test_accuracy"] >= 5 / 9
    assert header["samples"] == 9
    assert parse_recipe((tmp_path / "a.recipe.yaml").read_text(), "a").data == f"folder:{folders}"
    assert str(tmp_path) not in str(said)


def test_an_image_that_breaks_in_the_middle_of_training_is_named(tmp_path: Path, tiny: Recipe, folders: Path) -> None:
    broken = folders / "train" / "bee" / "4.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    recipe = tiny.with_changes(model=of_model(tiny, in_channels=3), data=f"folder:{folders}")
    with pytest.raises(DataError, match=r"1 of \d images do not decode .*bee/4\.JPEG"):
        train(recipe, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_crops_of_images_in_memory_are_refused_before_training(tmp_path: Path, tiny: Recipe) -> None:
    recipe = tiny.with_changes(data=None, crop_scale=[0.3, 1.0])
    with pytest.raises(RecipeError, match=r"tiny: crop_scale: needs images in files \(folder:PATH\), not npz"):
        train(recipe, tmp_path / "a.safetensors", data=tiny.data)


def test_a_run_without_data_asks_for_them(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="tiny: specifies no data; give --data NAME:PATH"):
        train(tiny.with_changes(data=None), tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", [name for name in list_recipes() if not name.startswith("digits")])
def test_a_bundled_recipe_for_other_data_names_none(name: str) -> None:
    assert load_recipe(name).data is None


# --- what a first user broke ---


def stop_at_once(record: Any) -> None:
    raise KeyboardInterrupt


def test_neither_training_nor_halving_overwrites_what_it_reads(tmp_path: Path, tiny: Recipe) -> None:
    spec = tiny.data or ""
    result = train(tiny, tmp_path / "a.safetensors")
    shutil.copy(spec.removeprefix("npz:"), tmp_path / "d.safetensors")
    for wrong in (
        lambda: train(tiny, tmp_path / "d.safetensors", data=f"npz:{tmp_path / 'd.safetensors'}"),
        lambda: train(tiny, tmp_path / "a.safetensors", start_from=tmp_path / "a.safetensors"),
        lambda: train(tiny, tmp_path / "a.safetensors", start_from=tmp_path / "a.best.safetensors"),
        lambda: to_float16(result.path, f"npz:{tmp_path / 'd.safetensors'}", tmp_path / "d.safetensors"),
        lambda: to_float16(result.path, spec, result.path),
    ):
        with pytest.raises(OutputError, match="is the input itself and would be overwritten"):
            wrong()


@pytest.mark.parametrize("name", ["a.pt", "a", "a.npz"])
def test_a_checkpoint_is_called_safetensors(tmp_path: Path, tiny: Recipe, name: str) -> None:
    with pytest.raises(OutputError, match=r"a checkpoint is a \.safetensors file; call it a\.safetensors"):
        train(tiny, tmp_path / name)


def test_the_same_names_and_labels_with_other_pixels_are_other_data(tmp_path: Path, tiny: Recipe) -> None:
    output, path = tmp_path / "a.safetensors", Path((tiny.data or "").removeprefix("npz:"))
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, on_epoch=stop_at_once)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["images"][40, 0, 0] += 0.5
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match="belongs to another recipe, seed or data"):
        train(tiny, output, resume=True)


def test_an_interrupted_run_is_not_started_afresh_by_mistake(tmp_path: Path, tiny: Recipe) -> None:
    output = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, on_epoch=stop_at_once)
    with pytest.raises(OutputError, match=r"a\.safetensors\.partial: is the state of an interrupted run"):
        train(tiny, output)


def test_the_log_and_the_recipe_lie_there_while_a_run_is_under_way(tmp_path: Path, tiny: Recipe) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "a.safetensors", on_epoch=stop_at_once, write_log=True)
    assert len(log_of(tmp_path / "a.log.csv")) == 1
    assert parse_recipe((tmp_path / "a.recipe.yaml").read_text(), "a") == tiny


def test_the_start_may_vanish_once_it_was_read(tmp_path: Path, tiny: Recipe) -> None:
    start = train(tiny, tmp_path / "start.safetensors").path
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    result = train(
        tiny, tmp_path / "a.safetensors", start_from=start, on_epoch=lambda record: start.unlink(missing_ok=True)
    )
    assert read_metadata(result.path)["started_from"] == {"checkpoint": "start.safetensors", "sha256": digest}


def test_a_partial_file_with_a_missing_tensor_is_damaged(tmp_path: Path, tiny: Recipe) -> None:
    output = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(tiny, output, on_epoch=stop_at_once)
    state = torch.load(partial_path(output), weights_only=True)
    del state["model"]["head.weight"]
    torch.save(state, partial_path(output))
    with pytest.raises(CheckpointError, match=r"a\.safetensors\.partial: damaged"):
        train(tiny, output, resume=True)


def test_a_last_batch_too_small_for_batch_norm_says_so(tmp_path: Path, tiny: Recipe) -> None:
    model = of_model(tiny, name="vit-1-16", time_steps=None, patch_size=8)
    with pytest.raises(RecipeError, match="tiny: a batch of 1 is too small for BatchNorm"):
        train(tiny.with_changes(model=model, batch_size=17), tmp_path / "a.safetensors")


@pytest.mark.parametrize("changes", [{"seed": 2**64}, {"threads": 10**11}, {"batch_size": 10**21}])
def test_numbers_that_no_machine_holds_are_refused(tiny: Recipe, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"tiny: .*input should be less than"):
        tiny.with_changes(**changes)


def test_yaml_without_a_bottom_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"mine: nested too deep for a recipe|mine.*not valid YAML"):
        parse_recipe("[" * 1000, "mine")


def test_a_hoyer_network_can_be_copied_after_a_forward(tiny: Recipe) -> None:
    model = create_model("spikformer-1-16", image_size=8, time_steps=2, neuron="hoyer", heads=2).train()
    model(torch.rand(4, 3, 8, 8))
    twin = copy.deepcopy(model)
    assert all(layer.hoyer_loss is None for layer in spiking_layers(twin).values())
    assert all(layer.hoyer_loss is not None for layer in spiking_layers(model).values())


def test_of_a_mix_the_larger_share_is_the_right_answer(tmp_path: Path, tiny: Recipe) -> None:
    recipe = tiny.with_changes(mixup=0.2, shift_pixels=0, epochs=40)
    result = train(recipe, tmp_path / "a.safetensors")
    assert float(result.epochs[-1]["train_accuracy"] or 0) > 0.7


def test_the_recipe_that_a_run_wrote_resumes_it(tmp_path: Path, tiny: Recipe) -> None:
    whole = train(tiny, tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "a.safetensors", on_epoch=stop_at_once)
    command = ("train", "a.recipe.yaml", "-o", "a.safetensors", "--resume", "--device", "cpu")
    done = forked.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.safetensors").read_bytes() == whole.path.read_bytes()


def test_several_processes_resume_a_run_that_only_lacks_its_end(tmp_path: Path, tiny: Recipe) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny.to_yaml())

    def stop(record: Any) -> None:
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "a.safetensors", on_epoch=stop)
    done = train_together(2, tmp_path, "tiny.yaml", "-o", "a.safetensors", "--resume")
    assert done.returncode == 0, done.stderr
    whole = train(tiny, tmp_path / "whole.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == whole.path.read_bytes()
