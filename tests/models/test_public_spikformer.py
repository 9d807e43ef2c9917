"""The published Spikformer: its state dict, its figures, and its function beside a forward written from its description
with SpikingJelly's neurons (the authors' framework) and torch's functions on the tensors of the state dict alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from snn_energy.core.errors import CheckpointError, ModelError
from snn_energy.core.groups import layer_group
from snn_energy.models.public_spikformer import PublicSpikformer
from snn_energy.models.spikformer import spiking_layers

CIFAR: dict[str, Any] = {"image_size": 32, "num_classes": 10}
IMAGENET: dict[str, Any] = {"image_size": 224, "num_classes": 1000}
SMALL_CIFAR = ("public-spikformer-2-64", {"image_size": 16, "patch_size": 4, "num_classes": 7, "heads": 4})
SMALL_IMAGENET = ("public-spikformer-2-64", {"image_size": 64, "patch_size": 16, "num_classes": 7, "heads": 4})
FULL_CIFAR = ("public-spikformer-4-384", CIFAR)
OLD_SPIKINGJELLY = Path(sys.prefix) / "spikingjelly-0.0.0.0.14"
MakeNeuron = Callable[[float], nn.Module]


def shapes(name: str, **options: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in se.create_model(name, **options).state_dict().items()}


def lively(name: str, options: dict[str, Any], images: Tensor) -> PublicSpikformer:
    """A network whose BatchNorms hold statistics of their own, so that every layer fires now and then.

    Weights are multiples of 1/1024 (and images of 1/256), so that no sum of products depends on its order.
    """
    torch.manual_seed(1)
    model = se.create_model(name, **options)
    assert isinstance(model, PublicSpikformer)
    for parameter in model.parameters():
        if parameter.dim() == 1 and not parameter.any():  # biases of linear layers
            nn.init.uniform_(parameter, -0.2, 0.2)
        parameter.data.mul_(1024).round_().div_(1024)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 1.5, 2.5)
        nn.init.uniform_(norm.bias, -0.5, 1.0)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)  # the statistics of this batch
    return model.eval()


class Reference:
    """The published forward from a state dict. Every spiking layer's output is kept, every tensor read is noted."""

    def __init__(self, weights: dict[str, Tensor], heads: int, time_steps: int, make_neuron: MakeNeuron) -> None:
        self.weights, self.heads, self.time_steps, self.make_neuron = weights, heads, time_steps, make_neuron
        self.spikes: dict[str, Tensor] = {}
        self.read: set[str] = set()

    def tensor(self, name: str) -> Tensor | None:
        if name in self.weights:
            self.read.add(name)
        return self.weights.get(name)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.tensor(f"{name}.{k}") for k in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, training=False)

    def fire(self, name: str, x: Tensor, v_th: float = 1.0) -> Tensor:
        """x: (T*B, ...) -> spikes (T*B, ...)."""
        timed = x.reshape(self.time_steps, -1, *x.shape[1:])
        self.spikes[name] = self.make_neuron(v_th)(timed)
        return self.spikes[name].reshape(x.shape)

    def layer(self, name: str, x: Tensor, kind: str) -> Tensor:
        """Weights, BatchNorm, neurons; x: (T*B, C, ...) for convolutions, (T*B, N, C) for linear layers."""
        weight, bias = self.tensor(f"{name}_{kind}.weight"), self.tensor(f"{name}_{kind}.bias")
        assert weight is not None
        if kind == "linear":
            currents = self.norm(f"{name}_bn", functional.linear(x, weight, bias).transpose(1, 2)).transpose(1, 2)
        else:
            convolve = functional.conv1d if weight.dim() == 3 else functional.conv2d
            currents = self.norm(f"{name}_bn", convolve(x, weight, bias))
        return self.fire(f"{name}_lif", currents)

    def embed(self, x: Tensor, pools: tuple[bool, ...]) -> Tensor:
        for suffix, pool in zip(("", "1", "2", "3"), pools, strict=True):
            weight = self.tensor(f"patch_embed.proj_conv{suffix}.weight")
            assert weight is not None
            currents = self.norm(f"patch_embed.proj_bn{suffix}", functional.conv2d(x, weight, padding=1))
            x = self.fire(f"patch_embed.proj_lif{suffix}", currents)
            x = functional.max_pool2d(x, 3, 2, 1) if pool else x
        weight = self.tensor("patch_embed.rpe_conv.weight")
        assert weight is not None
        position = self.norm("patch_embed.rpe_bn", functional.conv2d(x, weight, padding=1))
        return self.fire("patch_embed.rpe_lif", position) + x

    def split(self, x: Tensor, channels_last: bool) -> Tensor:
        """(T*B, N, D) or (T*B, D, N) -> (T*B, h, N, d)."""
        if channels_last:
            return x.reshape(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2]).permute(0, 1, 3, 2)

    def cifar_block(self, i: int, x: Tensor) -> Tensor:
        at = f"block.{i}.attn"
        q, k, v = (self.split(self.layer(f"{at}.{name}", x, "linear"), True) for name in "qkv")
        mixed = torch.einsum("xhnd,xhmd,xhme->xhne", q, k, v) * 0.125
        spikes = self.fire(f"{at}.attn_lif", mixed.permute(0, 2, 1, 3).reshape(x.shape), 0.5)
        x = x + self.layer(f"{at}.proj", spikes, "linear")
        return x + self.layer(f"block.{i}.mlp.fc2", self.layer(f"block.{i}.mlp.fc1", x, "linear"), "linear")

    def imagenet_block(self, i: int, x: Tensor) -> Tensor:
        at, tokens = f"block.{i}.attn", x.flatten(2)
        q, k, v = (self.split(self.layer(f"{at}.{name}", tokens, "conv"), False) for name in "qkv")
        mixed = torch.einsum("xhnd,xhmd,xhme->xhne", q, k, v) * 0.125
        spikes = self.fire(f"{at}.attn_lif", mixed.permute(0, 1, 3, 2).reshape(tokens.shape), 0.5)
        x = x + self.layer(f"{at}.proj", spikes, "conv").reshape(x.shape)
        return x + self.layer(f"block.{i}.mlp.fc2", self.layer(f"block.{i}.mlp.fc1", x, "conv"), "conv")

    def logits(self, images: Tensor, depth: int, layout: str) -> Tensor:
        repeated = images.repeat(self.time_steps, 1, 1, 1)  # (T*B, C, H, W), time major
        if layout == "CIFAR":
            x = self.embed(repeated, (False, False, True, True)).flatten(2).transpose(1, 2)
            for i in range(depth):
                x = self.cifar_block(i, x)
            features = x.mean(1)
        else:
            x = self.embed(repeated, (True, True, True, True))
            for i in range(depth):
                x = self.imagenet_block(i, x)
            features = x.flatten(2).mean(2)
        weight, bias = self.tensor("head.weight"), self.tensor("head.bias")
        assert weight is not None
        return functional.linear(features.reshape(self.time_steps, len(images), -1).mean(0), weight, bias)


def differences(name: str, options: dict[str, Any], make_neuron: MakeNeuron, batch: int) -> dict[str, Any]:
    """Both forwards of one random network: rates, how many spikes differ per layer, how far logits are apart."""
    torch.manual_seed(0)
    size = options["image_size"]
    images = torch.randint(0, 256, (batch, 3, size, size)) / 256
    model = lively(name, options, images)
    ours: dict[str, Tensor] = {}
    for layer, lif in spiking_layers(model).items():
        lif.register_forward_hook(lambda module, inputs, out, layer=layer: ours.update({layer: out}))
    config = model.config
    reference = Reference(dict(model.state_dict()), config.heads, config.time_steps, make_neuron)
    with torch.no_grad():
        logits = model(images)
        expected = reference.logits(images, config.depth, model.layout)
    return {
        "rates": {layer: float(spikes.mean()) for layer, spikes in reference.spikes.items()},
        "different": {
            layer: int((ours[layer].flatten(2) != spikes.reshape(ours[layer].shape).flatten(2)).sum())
            for layer, spikes in reference.spikes.items()
        },
        "layers": sorted(ours),
        "logits": float((logits - expected).abs().max()),
        "spread": float(expected.std()),
        "unread": sorted({key.split(".")[-2] for key in set(reference.weights) - reference.read if "num_b" not in key}),
    }


def new_neuron() -> MakeNeuron:
    """SpikingJelly's multi-step LIF of this environment, in torch. Skips where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason="spikingjelly is not installed")
    return lambda v_th: neuron.LIFNode(tau=2.0, v_threshold=v_th, detach_reset=True, step_mode="m").eval()


def check_same(found: dict[str, Any], lifs: int) -> None:
    assert len(found["rates"]) == lifs
    assert sorted(found["rates"]) == found["layers"]
    assert all(0.005 < rate < 0.95 for rate in found["rates"].values()), found["rates"]
    assert set(found["different"].values()) == {0}, found["different"]
    assert found["logits"] <= 1e-6  # the mean of the same spikes, summed in another order
    assert found["spread"] > 1e-3
    assert found["unread"] == ["norm1", "norm2"]


@pytest.mark.parametrize(
    ("network", "lifs", "batch"),
    [(SMALL_CIFAR, 19, 4), (SMALL_IMAGENET, 19, 4), (FULL_CIFAR, 33, 2)],
    ids=["cifar", "imagenet", "cifar-4-384"],
)
def test_the_same_spikes_and_logits_as_spikingjelly_gives(
    network: tuple[str, dict[str, Any]], lifs: int, batch: int
) -> None:
    check_same(differences(*network, new_neuron(), batch), lifs)


@pytest.mark.skipif(not OLD_SPIKINGJELLY.is_dir(), reason="spikingjelly 0.0.0.0.14 is not beside the environment")
@pytest.mark.parametrize("network", [SMALL_CIFAR, SMALL_IMAGENET], ids=["cifar", "imagenet"])
def test_the_same_spikes_as_the_clock_driven_neurons_of_the_authors(network: tuple[str, dict[str, Any]]) -> None:
    """spikingjelly.clock_driven is what the published code imports; another process, as the two versions clash."""
    script = (
        "import json, sys, warnings\nwarnings.simplefilter('ignore')\n"
        "from spikingjelly.clock_driven.neuron import MultiStepLIFNode as Lif\n"
        "import test_public_spikformer as test\nname, options = json.loads(sys.argv[1])\n"
        "make = lambda v_th: Lif(tau=2.0, v_threshold=v_th, detach_reset=True, backend='torch').eval()\n"
        "print(json.dumps(test.differences(name, options, make, 4)))"
    )
    tests = Path(__file__).parents[1]
    places = (OLD_SPIKINGJELLY, tests / "models", tests / "oracles", tests / "networks", Path(se.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(network)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_same(json.loads(done.stdout.splitlines()[-1]), 19)


def test_the_cifar_layout_has_the_published_216_tensors() -> None:
    found = shapes("public-spikformer-4-384", **CIFAR)
    assert len(found) == 216
    assert found["patch_embed.proj_conv.weight"] == (48, 3, 3, 3)
    assert found["patch_embed.proj_conv3.weight"] == (384, 192, 3, 3)
    assert found["patch_embed.proj_bn3.running_var"] == (384,)
    assert found["patch_embed.rpe_conv.weight"] == (384, 384, 3, 3)
    assert found["block.3.norm2.weight"] == (384,)
    assert found["block.0.attn.q_linear.bias"] == (384,)
    assert found["block.0.attn.proj_bn.num_batches_tracked"] == ()
    assert found["block.0.mlp.fc1_linear.weight"] == (1536, 384)
    assert found["head.weight"] == (10, 384)
    assert not any("conv" in name and name.endswith("bias") for name in found)


def test_the_imagenet_layout_has_biases_where_the_published_one_has() -> None:
    found = shapes("public-spikformer-8-512", **IMAGENET)
    assert found["block.0.attn.q_conv.weight"] == (512, 512, 1)
    assert found["block.7.mlp.fc1_conv.weight"] == (2048, 512, 1, 1)
    biases = {name for name in found if "_conv" in name and name.endswith("bias") and ".0." in name}
    assert biases == {f"block.0.{name}_conv.bias" for name in ("attn.proj", "mlp.fc1", "mlp.fc2")}


@pytest.mark.parametrize(
    ("name", "options", "total", "without_norms"),
    [
        ("public-spikformer-4-384", CIFAR, 9_330_874, 9_324_730),
        ("public-spikformer-8-512", IMAGENET, 29_705_768, 29_705_768 - 8 * 2 * 2 * 512),
    ],
)
def test_parameters_are_as_many_as_published(
    name: str, options: dict[str, Any], total: int, without_norms: int
) -> None:
    """Zhou et al. 2023 give 9.32 M (without the norms, which are never called) and 29.68 M."""
    with torch.device("meta"):
        sizes = {key: value.numel() for key, value in se.create_model(name, **options).named_parameters()}
    assert sum(sizes.values()) == total
    assert sum(size for key, size in sizes.items() if ".norm" not in key) == without_norms


def one_step(name: str, options: dict[str, Any]) -> Any:
    """Counts of one image and one time step, as a frame."""
    torch.manual_seed(0)
    model = se.create_model(name, **options, time_steps=1)
    size = options["image_size"]
    return se.profile(model, [torch.rand(1, 3, size, size)], time_steps=1).to_frame()


def test_work_of_the_cifar_network_is_as_published_per_layer() -> None:
    """Figures of Spikformer-4-384 on 32x32 pixels, per image and time step."""
    rows = one_step("public-spikformer-4-384", CIFAR)
    macs = rows[rows.op.isin(["conv", "linear", "matmul"])].set_index("layer").dense_macs
    assert macs["patch_embed.proj_conv"] == 1_327_104
    assert macs["patch_embed.proj_conv1"] == 42_467_328
    assert macs["patch_embed.proj_conv2"] == macs["patch_embed.proj_conv3"] == 169_869_312
    assert macs["patch_embed.rpe_conv"] == 84_934_656
    assert macs["block.2.attn#matmul0"] + macs["block.2.attn#matmul1"] == 3_145_728
    assert macs["head"] == 3_840
    assert macs.drop("head").sum() == 934_035_456
    neurons = rows[rows.op == "neuron"]
    assert len(neurons) == 33
    assert neurons.groupby("group").neurons.sum().to_dict() == {
        "sps": 466_944,
        "qkv": 294_912,
        "attn": 196_608,
        "mlp": 491_520,
    }
    assert set(rows[rows.op == "norm"].note.str.split(" into ").str[0]) == {"folds"}


def test_work_of_the_imagenet_network_is_as_published() -> None:
    """Figures of Spikformer-8-512 on 224x224 pixels, per image and time step: k^T v needs N*D*d MACs, not N*N*D."""
    rows = one_step("public-spikformer-8-512", IMAGENET)
    macs = rows[rows.op.isin(["conv", "linear", "matmul"])].set_index("layer").dense_macs
    assert macs["patch_embed.proj_conv"] == 86_704_128
    assert macs["head"] == 512_000
    assert macs["block.0.attn#matmul0"] == macs["block.0.attn#matmul1"] == 196 * 512 * 64
    assert macs.drop("head").sum() == pytest.approx(8358.920e6, abs=500)  # printed to 1e3
    assert (rows.op == "neuron").sum() == 61


@pytest.mark.parametrize(
    ("layer", "group"),
    [
        ("patch_embed.rpe_lif", "sps"),
        ("block.0.attn.q_linear", "qkv"),
        ("block.0.attn.v_conv", "qkv"),
        ("block.0.attn.attn_lif", "attn"),
        ("block.0.attn.proj_linear", "attn"),
        ("block.7.mlp.fc2_conv", "mlp"),
        ("head", "head"),
    ],
)
def test_layers_fall_into_the_groups_of_the_paper(layer: str, group: str) -> None:
    assert layer_group(layer) == group


@pytest.mark.parametrize("network", [SMALL_CIFAR, SMALL_IMAGENET], ids=["cifar", "imagenet"])
def test_a_published_file_loads_strictly_by_name_and_can_be_saved_as_ours(
    tmp_path: Path, network: tuple[str, dict[str, Any]]
) -> None:
    name, options = network
    images = torch.rand(2, 3, options["image_size"], options["image_size"])
    model = lively(name, options, images)
    torch.save({"state_dict": model.state_dict(), "epoch": 309}, tmp_path / "checkpoint-309.pth.tar")
    loaded = load_checkpoint(tmp_path / "checkpoint-309.pth.tar", name, **options)
    save_checkpoint(tmp_path / "ours.safetensors", loaded, {})
    again = load_checkpoint(tmp_path / "ours.safetensors")
    assert isinstance(again, PublicSpikformer)
    assert again.config == model.config
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
        assert torch.equal(loaded(images), model(images))


def test_weights_of_the_other_layout_are_refused(tmp_path: Path) -> None:
    name, options = SMALL_CIFAR
    torch.save(se.create_model(name, **options).state_dict(), tmp_path / "cifar.pth")
    with pytest.raises(
        CheckpointError, match=r"missing: block\.0\.attn\.q_conv\.weight.*unexpected: block\.0\.attn\.q"
    ):
        load_checkpoint(tmp_path / "cifar.pth", name, **{**options, "image_size": 64, "patch_size": 16})


def test_the_logits_of_the_steps_have_the_logits_as_their_mean() -> None:
    name, options = SMALL_CIFAR
    images = torch.rand(2, 3, 16, 16)
    model = lively(name, options, images)
    with torch.inference_mode():
        assert torch.allclose(model.forward_steps(images).mean(0), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"patch_size": 8}, r"patch_size must be one of 4 \(CIFAR\), 16 \(ImageNet\), not 8"),
        ({"neuron": "paper"}, "its neuron is 'spikformer', not 'paper'"),
    ],
)
def test_what_was_never_published_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        se.create_model("public-spikformer-1-16", **options)
