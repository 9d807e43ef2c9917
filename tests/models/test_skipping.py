"""The forward pass that skips dead time steps gives the logits of the one that masks them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import resources

import pandas as pd
import pytest
import torch
from own_networks import randomise_norms, set_active_steps
from torch import Tensor, nn

import snn_energy as se
from snn_energy.datasets.open import load_images
from snn_energy.models.neurons import DTSS, NeuronRule
from snn_energy.models.spikformer import Spikformer
from snn_energy.models.spikformer_skipping import forward_skipping


def network(seed: int, rule: NeuronRule = "paper", patch_size: int = 2) -> Spikformer:
    """Random weights, BatchNorms with biases, random T_l with 0 among them."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = se.create_model(
        "dts-spikformer-2-16",
        image_size=8,
        in_channels=2,
        num_classes=3,
        heads=2,
        patch_size=patch_size,
        neuron=rule,
    )
    assert isinstance(model, Spikformer)
    randomise_norms(model, seed)
    lowest = rng.choice([0, 1, 1, 2])
    for layer in model.modules():
        if isinstance(layer, DTSS):
            set_active_steps(layer, rng.randint(lowest, 4))
    return model.eval()


def both(model: Spikformer, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        model.skips_time_steps = True
        skipping = model(images)
        model.skips_time_steps = False
        full = model(images)
        model.skips_time_steps = True
    return skipping, full


def test_biases_of_the_norms_are_not_zero_and_layers_fire() -> None:
    model = network(0)
    assert all(bool((m.bias != 0).all()) for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    assert se.profile(model, [torch.rand(2, 2, 8, 8)]).to_frame()["spikes"].sum() > 0


@pytest.mark.parametrize("rule", ["paper", "spikformer"])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_logits_are_those_of_the_masked_network_for_random_masks(rule: NeuronRule, patch_size: int) -> None:
    seen_logits = set()
    for seed in range(40):  # 240 random sets of masks over all cases
        model = network(seed, rule, patch_size)
        skipping, full = both(model, torch.rand(3, 2, 8, 8))
        torch.testing.assert_close(skipping, full, atol=1e-5, rtol=0)
        seen_logits.add(round(float(full.sum()), 4))
    assert len(seen_logits) > 30


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_logits_agree_where_all_layers_have_the_same_steps(steps: int) -> None:
    model = network(1)
    for layer in model.modules():
        if isinstance(layer, DTSS):
            set_active_steps(layer, steps)
    skipping, full = both(model, torch.rand(3, 2, 8, 8))
    torch.testing.assert_close(skipping, full, atol=1e-5, rtol=0)


def test_the_shipped_network_classifies_every_test_image_alike() -> None:
    path = resources.files("snn_energy").joinpath("demo_checkpoints", "dts-spikformer-2-64-digits.safetensors")
    model = se.load_checkpoint(str(path))
    assert isinstance(model, Spikformer)
    images = torch.from_numpy(load_images("digits", "test", 16, 1).images)
    skipping, full = both(model, images)
    torch.testing.assert_close(skipping, full, atol=1e-5, rtol=0)
    assert torch.equal(skipping.argmax(1), full.argmax(1))


def test_the_profiler_counts_the_same_on_both() -> None:
    model, images = network(5), torch.rand(2, 2, 8, 8)
    skipping = se.profile(model, [images]).to_frame()
    model.skips_time_steps = False
    pd.testing.assert_frame_equal(skipping, se.profile(model, [images]).to_frame())


def test_a_hook_sees_every_time_step() -> None:
    model = network(3)
    shapes = []
    handle = model.sps.lif0.register_forward_hook(lambda module, args, out: shapes.append(out.shape[0]))
    with torch.no_grad():
        model(torch.rand(2, 2, 8, 8))
    handle.remove()
    assert shapes == [4]


@pytest.fixture
def convolved_images() -> Iterator[list[int]]:
    """Images that go through convolutions, summed over time steps, while the fixture is alive."""
    counted = [0]
    conv1d, conv2d = nn.Conv1d._conv_forward, nn.Conv2d._conv_forward

    def counting_1d(self: nn.Conv1d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        counted[0] += len(x)
        return conv1d(self, x, weight, bias)

    def counting_2d(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        counted[0] += len(x)
        return conv2d(self, x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv1d, "_conv_forward", counting_1d)
        patch.setattr(nn.Conv2d, "_conv_forward", counting_2d)
        yield counted


def test_only_active_and_needed_steps_are_convolved(convolved_images: list[int]) -> None:
    """As many as the profiler says, save that the image, the same at every step, is convolved once."""
    for seed in range(10):
        model = network(seed)
        rows = se.profile(model, [torch.rand(3, 2, 8, 8)]).to_frame()
        works = rows[(rows["op"] == "conv") & rows["active"] & rows["needed"]]
        first = works["layer"] == "sps.conv0"
        convolved_images[0] = 0
        with torch.no_grad():
            forward_skipping(model, torch.rand(3, 2, 8, 8), 0.125)
        assert convolved_images[0] == 3 * (int((~first).sum()) + 1)
