"""Training as the paper has it: the mask's gradient (Eq. 6), Eq. 10-11 by hand, gamma; and the fast way to the same."""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from snn_energy.core.errors import ModelError, RecipeError
from snn_energy.models import spikformer_fused as fused
from snn_energy.models.create import create_model
from snn_energy.models.neurons import DTSS, LIF, MaskStep
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.training import speed
from snn_energy.training.losses import mask_loss
from snn_energy.training.recipe import Recipe, parse_recipe
from snn_energy.training.speed import forward_dtype, has_bfloat16, keep_freed_memory
from snn_energy.training.train import train

TINY = """\
name: tiny
model: {{name: dts-spikformer-1-16, image_size: 8, in_channels: 1, num_classes: 3, time_steps: 3, heads: 2}}
data: {data}
epochs: {epochs}
batch_size: 8
shift_pixels: 1
optimiser: {{learning_rate: 0.01}}
mask_loss: {{weight: 0.01}}
test_every: 1
"""


@pytest.fixture
def data(make_bars: Callable[[int], str]) -> str:
    """Three classes of noisy bars, 8x8, 35 images to train on and 13 to test on."""
    return make_bars(35)


def tiny(data: str, epochs: float = 3, **changes: Any) -> Recipe:
    return parse_recipe(TINY.format(data=data, epochs=epochs), "tiny.yaml").with_changes(**changes)


# --- the mask's gradient ---


@pytest.mark.parametrize(
    ("score", "mask", "gradient"),
    [(-0.1, 0, 0), (0, 0, 0), (0.5, 0, 1), (1, 1, 1), (1.9, 1, 1), (2, 1, 0), (2.5, 1, 0)],
)
def test_the_mask_is_1_from_a_score_of_1_on_and_passes_gradients_between_0_and_2(
    score: float, mask: int, gradient: int
) -> None:
    ts = torch.tensor([float(score)], requires_grad=True)
    tm = MaskStep.apply(ts)  # type: ignore[no-untyped-call]
    (7 * tm).sum().backward()
    assert tm.item() == mask
    assert ts.grad is not None
    assert ts.grad.item() == 7 * gradient


def tp_gradient_by_hand(layer: DTSS, current: Tensor, weight: Tensor, charge: float) -> Tensor:
    """Eq. 10-11 for L = sum(weight * O) + charge * sum(TM): (T,).

    dL/dTP^i = sum over t <= i of [0 < TS^t < 2] * (sum of Y^t * dL/dO^t + charge), since TS^t = sum of TP^i, i >= t.
    """
    tp = layer.tp.detach()
    steps = len(tp)
    u, spikes = torch.zeros_like(current[0]), []
    for t in range(steps):
        h = layer.leak * u + current[t]
        spike = torch.where(h > layer.v_th, layer.v_th, 0.0)
        u = h - spike
        spikes.append(spike)
    gradient = torch.zeros(steps)
    for i in range(steps):
        for t in range(i + 1):
            score = float(tp[t:].sum())
            if 0 < score < 2 and t >= layer.min_steps:
                gradient[i] += float((spikes[t] * weight[t]).sum()) + charge
    return gradient


@pytest.mark.parametrize(
    "tp",
    [
        [0.5, 0.5, 0.3, 0.7],  # scores 2.0, 1.5, 1.0, 0.7
        [1.0, 1.0, 1.0, 1.0],  # 4, 3, 2, 1
        [0.2, 0.1, 0.0, 0.0],  # 0.3, 0.1, 0, 0
        [0.0, 0.0, 0.0, 1.5],  # all 1.5
        [0.0, 0.0, 0.0, 0.0],
    ],
)
@pytest.mark.parametrize("min_steps", [0, 1])
@pytest.mark.parametrize("v_th", [1.0, 0.5])
def test_the_gradient_of_tp_is_that_of_equations_10_and_11(tp: list[float], min_steps: int, v_th: float) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = DTSS(4, min_steps=min_steps, v_th=v_th)
    layer.tp.data.copy_(torch.tensor(tp))
    current = torch.randn(4, 2, 5, generator=generator) + v_th
    weight = torch.randn(4, 2, 5, generator=generator)
    loss = (layer(current) * weight).sum() + 0.01 * layer.time_step_mask(4).sum()
    loss.backward()
    assert layer.tp.grad is not None
    torch.testing.assert_close(layer.tp.grad, tp_gradient_by_hand(layer, current, weight, 0.01))


def test_a_score_of_2_or_more_no_longer_pays_the_mask_loss() -> None:
    layer = DTSS(2)
    layer.tp.data.copy_(torch.tensor([0.5, 1.5]))  # scores 2.0 and 1.5
    layer.time_step_mask(2).sum().backward()
    assert layer.tp.grad is not None
    assert layer.tp.grad.tolist() == [0.0, 1.0]  # of the second step alone


def test_a_step_with_a_score_of_0_can_come_back_through_an_earlier_step() -> None:
    layer = DTSS(2)
    layer.tp.data.copy_(torch.tensor([1.5, 0.0]))  # scores 1.5 and 0
    (-layer.time_step_mask(2)[0]).backward()  # the first step is wanted
    assert layer.tp.grad is not None
    layer.tp.data -= 1.5 * layer.tp.grad
    assert layer.active_steps() == 2


def test_a_layer_whose_tp_are_all_0_has_no_gradient_left() -> None:
    layer = DTSS(3)
    layer.tp.data.zero_()
    (layer(torch.full((3, 2, 4), 5.0, requires_grad=True)).sum() - layer.time_step_mask(3).sum()).backward()
    assert layer.tp.grad is not None
    assert not layer.tp.grad.any()


@pytest.mark.parametrize("tp", [[0.0, 0.001, 0.9985], [0.0, 1.0, 0.9995]])
def test_autocast_does_not_round_a_score_over_a_threshold(tp: list[float]) -> None:
    layer = DTSS(3)
    layer.tp.data.copy_(torch.tensor(tp))
    wanted, scores = layer.time_step_mask(3), layer.scores()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.scores(), scores)
        assert torch.equal(layer.time_step_mask(3), wanted)


# --- gamma ---


@pytest.mark.parametrize("rule", ["paper", "spikformer"])
@pytest.mark.parametrize(("v_th", "gamma"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.3), (2.0, 1.7)])
def test_the_surrogate_gradient_at_the_threshold_is_gamma_over_v_th(rule: Any, v_th: float, gamma: float) -> None:
    charged = v_th if rule == "paper" else 2 * v_th  # spikformer: v = (I - 0) / 2
    current = torch.full((1, 1), charged, requires_grad=True)
    LIF(0.5, v_th, rule, gamma)(current).sum().backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(gamma / v_th * (1 if rule == "paper" else 0.5))


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_a_gamma_that_is_not_positive_is_refused(gamma: float) -> None:
    with pytest.raises(ModelError, match="gamma must be positive"):
        LIF(gamma=gamma)


@pytest.mark.parametrize("name", ["dts-spikformer-1-16", "spikformer-1-16", "public-spikformer-1-16", "resnet19"])
def test_every_spiking_layer_of_a_network_has_the_gamma_of_its_options(name: str) -> None:
    options = {"width": 0.125} if name == "resnet19" else {}
    network = create_model(name, time_steps=2, surrogate_gamma=0.7, **options)  # type: ignore[arg-type]
    assert {layer.gamma for layer in spiking_layers(network).values()} == {0.7}


# --- BatchNorm and neurons as one operation ---


def pair_of(name: str, steps: int, **options: Any) -> tuple[Spikformer, Spikformer]:
    """The same network twice, the second of them fused; weights of BatchNorms at random, so that layers fire."""
    torch.manual_seed(0)
    plain: Any = create_model(name, image_size=16, num_classes=4, time_steps=steps, **options)
    for key, parameter in plain.named_parameters():
        if "bn" in key:
            torch.nn.init.uniform_(parameter, 0.3, 1.2)
    twin = copy.deepcopy(plain)
    twin.fused = True
    return plain.train(), twin.train()


def step(network: Spikformer, images: Tensor, labels: Tensor) -> float:
    """Loss of one step, TET-like (every time step has its own weight), and its gradients."""
    logits = network.forward_steps(images)
    weights = torch.arange(1, len(logits) + 1)[:, None, None] / len(logits)
    loss = functional.cross_entropy((logits * weights).mean(0), labels)
    if network.config.family == "dts-spikformer":
        loss = loss + 0.01 * mask_loss(network, ["qkv", "mlp"])
    loss.backward()
    return float(loss.detach())


def assert_same_training(plain: Spikformer, twin: Spikformer, batches: int = 2) -> None:
    """Losses, gradients and running statistics agree to float64's rounding.

    In float32 some potential lies within rounding of its threshold, and fires in one and not in the other.
    """
    plain.double(), twin.double()
    generator = torch.Generator().manual_seed(1)
    for _ in range(batches):
        images = torch.rand(6, plain.config.in_channels, 16, 16, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (6,), generator=generator)
        assert step(plain, images, labels) == pytest.approx(step(twin, images, labels), rel=1e-10)
    for (name, wanted), found in zip(plain.named_parameters(), twin.parameters(), strict=True):
        assert (wanted.grad is None) == (found.grad is None), name
        if wanted.grad is not None and found.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-8, atol=1e-11, msg=name)
    for (name, wanted), found in zip(plain.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12, msg=name)


@pytest.fixture
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations of ``models/spikformer_fused.py`` as plain torch: the same formulas, not compiled."""
    monkeypatch.setattr(fused, "_compiled", lambda kernel: kernel)


@pytest.mark.usefixtures("eager_kernels")
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_fused_training_has_the_losses_gradients_and_statistics_of_the_plain_one(steps: int, gamma: float) -> None:
    assert_same_training(*pair_of("spikformer-1-32", steps, surrogate_gamma=gamma))


@pytest.mark.usefixtures("eager_kernels")
@pytest.mark.parametrize("scores", [[1.5, 0.5, 0.5, 0.0], [2.5, 2.0, 1.0, 0.9], [1.5, 1.5, 1.5, 1.5]])
@pytest.mark.parametrize("leak", [0.5, 0.0, 1.0])
def test_fused_training_of_dtss_layers_has_the_gradients_of_the_plain_one(scores: list[float], leak: float) -> None:
    plain, twin = pair_of("dts-spikformer-1-32", 4, leak=leak, min_steps=0)
    for network in (plain, twin):
        for index, layer in enumerate(spiking_layers(network).values()):
            assert isinstance(layer, DTSS)
            ts = torch.tensor([*scores, 0.0]) if index % 2 else torch.tensor([1.5, 1.5, 0.7, 0.7, 0.0])
            layer.tp.data.copy_(ts[:-1] - ts[1:])
    assert_same_training(plain, twin)


@pytest.mark.usefixtures("eager_kernels")
def test_fused_training_in_bfloat16_is_near_that_in_float32() -> None:
    plain, twin = pair_of("dts-spikformer-1-32", 2)
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 4
    wanted = step(plain, images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        logits = twin(images)
    assert logits.dtype == torch.bfloat16
    loss = functional.cross_entropy(logits.float(), labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, rel=0.3)
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_the_compiled_operations_give_what_the_plain_ones_give() -> None:
    reason = fused.compile_error("cpu")
    if reason is not None:
        pytest.skip(f"no compiler on this machine: {reason}")
    assert_same_training(*pair_of("dts-spikformer-1-32", 2))


@pytest.mark.usefixtures("eager_kernels")
def test_evaluation_of_a_fused_network_goes_the_plain_way() -> None:
    plain, twin = pair_of("dts-spikformer-1-32", 2)
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), twin.eval()(images))


@pytest.mark.usefixtures("eager_kernels")
def test_a_batch_of_a_single_value_is_refused_as_batch_norm_refuses_it() -> None:
    norm = torch.nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        fused.norm_and_fire(torch.rand(1, 1, 4), norm, LIF(), 1)


def test_without_a_compiler_a_fused_recipe_trains_by_plain_operations_and_says_so(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speed.fused, "compile_error", lambda device: "no C++ compiler")
    with caplog.at_level(logging.WARNING, "snn_energy"):
        train(tiny(data, fused=True), tmp_path / "a.safetensors")
    assert "tiny: BatchNorm and neurons are not fused (no C++ compiler); training is slower" in caplog.text
    train(tiny(data), tmp_path / "b.safetensors")
    a, b = ((tmp_path / f"{name}.log.csv") for name in "ab")
    assert not a.exists()
    assert not b.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "vit-1-16", "image_size": 8, "in_channels": 1, "num_classes": 3}, "mask_loss": None},
        {"model": {"name": "resnet19", "image_size": 8, "in_channels": 1, "num_classes": 3}, "mask_loss": None},
    ],
)
def test_networks_that_cannot_be_fused_are_refused(data: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="fused: only a spikformer or dts-spikformer with neuron paper has it"):
        tiny(data, fused=True, **changes)


# --- what the machine can do ---


def test_bfloat16_without_instructions_for_it_becomes_float32_and_is_said(
    data: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speed, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.WARNING, "snn_energy"):
        assert forward_dtype(tiny(data, precision="bfloat16"), torch.device("cpu")) == torch.float32
    assert "tiny: this CPU has no bfloat16 instructions, so it trains in float32" in caplog.text


def test_bfloat16_is_used_where_the_device_has_it(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "has_bfloat16", lambda device: True)
    assert forward_dtype(tiny(data, precision="bfloat16"), torch.device("cpu")) == torch.bfloat16
    assert forward_dtype(tiny(data), torch.device("cpu")) == torch.float32


def test_cuda_devices_have_bfloat16() -> None:
    assert has_bfloat16(torch.device("cuda"))


def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    def faults(rounds: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(rounds):
            torch.ones(2**24)  # 64 MiB, 16,384 pages of 4 KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with keep_freed_memory():
        faults(3)
        kept = faults(20)
    assert kept < 20 * 16384 / 2  # the kernel may take some back on its own
    assert faults(4) >= 16384  # afterwards as before: given back and faulted in again


# --- parts of an epoch ---


@pytest.mark.parametrize(("epochs", "rows"), [(0.2, 1), (1, 1), (1.4, 2), (2.0, 2)])
def test_a_run_of_so_many_epochs_takes_so_many_steps(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, epochs: float, rows: int
) -> None:
    taken = []
    original = torch.optim.AdamW.step

    def counted(self: Any, *arguments: Any) -> Any:
        taken.append(self.param_groups[0]["lr"])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    result = train(tiny(data, epochs=epochs, optimiser={"learning_rate": 0.01}), tmp_path / "a.safetensors")
    assert len(taken) == round(epochs * math.ceil(35 / 8))
    assert len(result.epochs) == rows
    if len(taken) > 1:
        assert taken[-1] == pytest.approx(
            0.005 * (1 + math.cos(math.pi * (1 - 1 / len(taken))))
        )  # near the cosine's end


def test_a_part_of_an_epoch_resumes_to_the_same_bits(tmp_path: Path, data: str) -> None:
    recipe = tiny(data, epochs=2.4)
    whole = train(recipe, tmp_path / "whole.safetensors", write_log=True)

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut.safetensors", on_epoch=stop)
    cut = train(recipe, tmp_path / "cut.safetensors", resume=True, write_log=True)
    assert whole.path.read_bytes() == cut.path.read_bytes()
    logs = [list(csv.DictReader(io.StringIO((tmp_path / f"{name}.log.csv").read_text()))) for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3


@pytest.mark.usefixtures("eager_kernels")
def test_hooks_on_layers_of_a_fused_network_see_every_layer() -> None:
    _, twin = pair_of("spikformer-1-32", 2)
    seen = []
    for layer in spiking_layers(twin).values():
        layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[:2])))
    twin(torch.rand(3, 3, 16, 16)).sum().backward()
    assert seen == [(2, 3)] * len(spiking_layers(twin))


@pytest.mark.parametrize("case", ["frozen norm", "other neuron", "no images"])
def test_what_the_fused_way_cannot_do_goes_the_plain_way(case: str) -> None:
    plain, twin = pair_of("spikformer-1-32", 2, neuron="spikformer" if case == "other neuron" else "paper")
    for network in (plain, twin):
        if case == "frozen norm":
            network.sps.bn0.eval()  # type: ignore[operator]
    images = torch.rand(0 if case == "no images" else 3, 3, 16, 16)
    assert not fused.can_fuse(twin, images)
    if case != "no images":
        assert torch.equal(plain(images), twin(images))


@pytest.mark.usefixtures("eager_kernels")
def test_a_batch_norm_that_averages_all_batches_does_so_when_fused() -> None:
    plain, twin = pair_of("spikformer-1-32", 2)
    for network in (plain, twin):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = None
    assert_same_training(plain, twin, batches=3)
