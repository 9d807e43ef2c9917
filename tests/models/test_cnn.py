"""The CNNs: published sizes by hand, counts against a brute-force oracle, training to an energy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import snn_energy as se
from snn_energy.checkpoints.checkpoint import METADATA_KEY, load_checkpoint, read_metadata, save_checkpoint
from snn_energy.core.errors import CheckpointError, ModelError, RecipeError
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.counts import Counts
from snn_energy.jobs.profile_run import profile_checkpoint
from snn_energy.models.cnn import Cnn
from snn_energy.models.names import CNNS, list_models
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer import spiking_layers
from snn_energy.training.recipe import Recipe, parse_recipe
from snn_energy.training.train import train

SPIKING = ("vgg16", "vgg16-hoyer", "resnet19", "preact-resnet18")
OPERATIONS = (nn.Conv2d, nn.Linear)
RECIPE = """\
name: tiny
model:
  name: {name}
  image_size: 16
  in_channels: 1
  num_classes: 3
  width: 0.0625
data: {data}
epochs: 2
batch_size: 16
optimiser:
  learning_rate: 0.01
"""


def tiny(name: str, **options: Any) -> Cnn:
    """A narrow network for 16x16 images of one channel, whose BatchNorms know the statistics of ``images``."""
    torch.manual_seed(0)
    steps = {"vgg16": 3, "vgg16-hoyer": 1, "resnet19": 3, "preact-resnet18": 4}.get(name.removeprefix("dts-"))
    sizes: dict[str, Any] = {"image_size": 16, "in_channels": 1, "num_classes": 3, "width": 0.0625, "time_steps": steps}
    model = se.create_model(name, **(sizes | options))
    assert isinstance(model, Cnn)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.constant_(module.bias, 0.3)
    if name.removeprefix("dts-") == "resnet19":
        nn.init.uniform_(model.get_submodule("fc0").weight, -0.5, 0.6)  # rates are small numbers
    with torch.no_grad():
        for _ in range(3 if "hoyer" in name else 1):
            model.train()(images(16))
    return model.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def counted(model: nn.Module, x: Tensor) -> Counts:
    counts = se.profile(model, [x[:3], x[3:]])
    assert first_inconsistency(counts) is None
    return counts


def inputs_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every convolution and linear layer of one forward reads: (T*B, ...)."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].clone()))
        for name, module in model.named_modules()
        if isinstance(module, OPERATIONS)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


# --- published sizes ---------------------------------------------------------------------------------------------

CONVS_OF_VGG16 = 9 * (
    3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 5 * 512 * 512
)  # fmt: skip
NORMS_OF_VGG16 = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
LINEARS_OF_VGG16 = (2 * 2 * 512) * 4096 + 4096 * 4096 + 4096 * 10
CONVS_OF_RESNET19 = (
    9 * (3 * 64 + 64 * 128 + 5 * 128**2 + 128 * 256 + 5 * 256**2 + 256 * 512 + 3 * 512**2)
    + 64 * 128 + 128 * 256 + 256 * 512
)  # fmt: skip
NORMS_OF_RESNET19 = 2 * (64 + 7 * 128 + 7 * 256 + 5 * 512)  # two a block, one a projection, one of the stem
LINEARS_OF_RESNET19 = 512 * 256 + 256 + 256 * 10 + 10
CONVS_OF_PREACT = (
    9 * (3 * 64 + 4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2)
    + 64 * 128 + 128 * 256 + 256 * 512
    + 4 * 64 + 5 * 128 + 5 * 256 + 5 * 512
)  # fmt: skip
NORMS_OF_PREACT = 2 * (5 * 64 + 4 * 128 + 4 * 256 + 3 * 512 + 512 + 10)  # the block behind a stage norms its channels
PUBLISHED = {
    "vgg16": CONVS_OF_VGG16 + NORMS_OF_VGG16 + LINEARS_OF_VGG16 + 2 * 2 * 4096,  # norms of the hidden linear layers
    "vgg16-hoyer": CONVS_OF_VGG16 + NORMS_OF_VGG16 + LINEARS_OF_VGG16 + 15,  # thresholds
    "resnet19": CONVS_OF_RESNET19 + NORMS_OF_RESNET19 + LINEARS_OF_RESNET19,
    "preact-resnet18": CONVS_OF_PREACT + NORMS_OF_PREACT + 512 * 10 + 10,
}


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in se.create_model(name, **options).parameters())


@pytest.mark.parametrize("name", SPIKING)
def test_a_network_has_the_parameters_of_its_publication(name: str) -> None:
    assert parameters(name) == PUBLISHED[name]


def test_the_sums_are_those_that_publications_print() -> None:
    assert (CONVS_OF_VGG16, CONVS_OF_VGG16 + LINEARS_OF_VGG16) == (14_710_464, 39_917_248)
    assert parameters("vgg16", batch_norm=False) == 39_917_248  # Diet-SNN, without thresholds and leaks
    assert round(PUBLISHED["resnet19"] / 1e6, 2) == 12.63
    assert round(PUBLISHED["preact-resnet18"] / 1e6, 1) == 11.2


@pytest.mark.parametrize("name", ["vgg16", "resnet19", "preact-resnet18"])
def test_the_twin_without_spikes_has_the_same_weights(name: str) -> None:
    with torch.device("meta"):
        twin, network = se.create_model(f"{name}-ann"), se.create_model(name)
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert spiking_layers(twin) == {}


def test_the_time_steps_are_those_of_the_publications() -> None:
    with torch.device("meta"):
        steps = {name: se.create_model(name).time_steps for name in CNNS}
    assert {name: steps[name] for name in SPIKING} == {
        "vgg16": 5,
        "vgg16-hoyer": 1,
        "resnet19": 4,
        "preact-resnet18": 20,
    }
    assert {steps[name] for name in CNNS if name.endswith("-ann")} == {1}
    assert set(CNNS) <= set(list_models())


# --- dynamics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "threshold", "leak", "v_th"), [(0.5, 1.0, 0.5, 0.5), (0.25, 0.5, 0.25, 0.375)])
def test_the_neurons_of_resnet19_fire_as_tet_and_tdbn_write_them(
    decay: float, threshold: float, leak: float, v_th: float
) -> None:
    """u = decay * u + I; a spike where u > threshold; then u = 0: TET (0.5, 1) and tdBN (0.25, 0.5)."""
    currents = torch.randn(6, 200, generator=torch.Generator().manual_seed(0)) + 0.4
    expected = torch.zeros_like(currents)
    for n in range(200):
        u = 0.0
        for t in range(6):
            u = decay * u + float(currents[t, n])
            expected[t, n] = float(u > threshold)
            u = 0.0 if u > threshold else u
    with torch.no_grad():
        assert torch.equal(LIF(leak, v_th, "spikformer")(currents), expected)
    assert 0.1 < expected.mean() < 0.9


@pytest.mark.parametrize("name", SPIKING)
def test_the_logits_are_the_mean_over_the_time_steps(name: str) -> None:
    model, x = tiny(name), images(4, seed=1)
    with torch.no_grad():
        steps = model.forward_steps(x)
        assert steps.shape == (model.time_steps, 4, 3)
        torch.testing.assert_close(model(x), steps.mean(0))
    assert model.time_steps == 1 or (steps[0] != steps[-1]).any()


@pytest.mark.parametrize("name", ["vgg16", "resnet19", "preact-resnet18"])
def test_fewer_time_steps_are_the_first_ones(name: str) -> None:
    model, x = tiny(name), images(4, seed=1)
    shorter = se.create_model(name, image_size=16, in_channels=1, num_classes=3, width=0.0625, time_steps=2).eval()
    shorter.load_state_dict(model.state_dict())
    assert isinstance(shorter, Cnn)
    with torch.no_grad():
        torch.testing.assert_close(shorter.forward_steps(x), model.forward_steps(x)[:2])


def test_the_shortcut_of_a_block_of_resnet19_is_added_before_the_neurons() -> None:
    model = tiny("resnet19")
    block = model.get_submodule("stages.0.1")
    x = (images(6)[:, :, :8, :8].repeat(1, 8, 1, 1) > 0.5).float()
    with torch.no_grad():
        for parameter in block.conv2.parameters():
            nn.init.zeros_(parameter)
        block.bn2.running_mean.zero_()
        nn.init.zeros_(block.bn2.bias)
        silent = block(x, 3)  # two samples, three steps: x alone drives the neurons
        assert torch.equal(silent, block.lif2(x.unflatten(0, (3, 2))).flatten(0, 1))
    assert silent.any()


# --- counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPIKING)
def test_every_operation_is_counted_as_the_oracle_counts_it(name: str) -> None:
    """Convolutions, strided ones and projections of the shortcut included, and linear layers, per sample and step."""
    model, x = tiny(name), images(5, seed=1)
    counts, seen = counted(model, x), inputs_of(model, x)
    assert counts.per_sample is not None
    rows = counts.rows
    assert set(seen) == set(rows.loc[rows["op"].isin(["conv", "linear"]), "layer"])
    for layer, read in seen.items():
        module = model.get_submodule(layer)
        own = np.flatnonzero(rows["layer"] == layer)
        by_step = oracle.indicator(read).unflatten(0, (model.time_steps, len(x)))
        for at, marks in zip(own, by_step, strict=True):
            if isinstance(module, nn.Conv2d):
                expected = oracle.conv_meetings(marks, module)
            else:
                expected = (marks.sum(1) * module.out_features).to(torch.int64).numpy()
            assert counts.per_sample["sops"][at].tolist() == expected.tolist(), layer
            assert rows["sops"][at] == expected.sum()
    assert sum(rows.loc[rows["layer"] == layer, "sops"].sum() > 0 for layer in seen) > len(seen) * 2 / 3


def test_the_dense_operations_of_a_strided_block_are_those_by_hand() -> None:
    """Width 1/16: 8 -> 16 channels, 16x16 -> 8x8; 5 samples, each step."""
    rows = counted(tiny("resnet19"), images(5)).rows.set_index(["layer", "time_step"])
    assert rows.loc[("stages.1.0.conv1", 0), "dense_macs"] == 5 * 9 * 8 * 16 * 8 * 8
    assert rows.loc[("stages.1.0.conv2", 2), "dense_macs"] == 5 * 9 * 16 * 16 * 8 * 8
    assert rows.loc[("stages.1.0.shortcut_conv", 1), "dense_macs"] == 5 * 8 * 16 * 8 * 8
    assert rows.loc[("stages.1.0#add0", 1), "elementwise_ops"] == 5 * 16 * 8 * 8
    assert rows.loc[("stages.1.0.lif2", 1), "neurons"] == 16 * 8 * 8
    assert rows.loc[("fc0", 0), "dense_macs"] == 5 * 32 * 16


def kinds(model: nn.Module) -> dict[str, set[str]]:
    """Kind of input -> layers."""
    rows = counted(model, images(5)).rows
    ops = rows[rows["op"].isin(["conv", "linear"])]
    return {str(kind): set(group["layer"]) for kind, group in ops.groupby("input_kind")}


def test_only_the_image_and_averages_of_spikes_make_a_network_multiply() -> None:
    assert kinds(tiny("vgg16"))["real"] == {"conv0", "conv2", "conv4", "conv7", "conv10"}
    assert kinds(tiny("vgg16", pooling="max"))["real"] == {"conv0"}
    assert kinds(tiny("vgg16-hoyer"))["real"] == {"conv0"}
    assert kinds(tiny("resnet19"))["real"] == {"conv0", "fc0"}
    assert kinds(tiny("preact-resnet18"))["real"] == {"conv0"}


@pytest.mark.parametrize("name", SPIKING)
def test_sums_are_currents_and_every_other_layer_reads_binary_spikes(name: str) -> None:
    assert set(kinds(tiny(name))) == {"binary", "real"}


def test_a_norm_folds_behind_a_convolution_and_not_behind_a_pool_or_a_sum() -> None:
    def left(name: str) -> set[str]:
        rows = counted(tiny(name), images(4)).rows
        return set(rows.loc[(rows["op"] == "norm") & (rows["elementwise_ops"] > 0), "layer"])

    assert left("vgg16") == left("resnet19") == set()
    assert left("vgg16-hoyer") == {"bn1", "bn3", "bn6", "bn9"}
    blocks = {f"stages.{stage}.{i}.bn1" for stage in range(4) for i in range(2)} - {"stages.0.0.bn1"}
    assert left("preact-resnet18") == {*blocks, "bn"}  # the first one stands behind the stem


def test_the_image_is_repeated_and_the_head_works_at_every_step() -> None:
    rows = counted(tiny("resnet19"), images(4)).rows
    assert rows.loc[rows["layer"] == "conv0", "input_repeated"].tolist() == [False, True, True]
    assert rows.loc[rows["layer"] == "head", "time_step"].tolist() == [0, 1, 2]
    assert rows.loc[rows["layer"] == "head", "group"].unique().tolist() == ["head"]
    once = rows[rows["time_step"] == -1]
    assert once["op"].tolist() == ["mean"]
    assert once["elementwise_ops"].item() == 4 * 3 * 3  # 4 samples, 3 steps, 3 classes


def test_a_masked_layer_leaves_the_next_convolution_without_work() -> None:
    model = tiny("dts-resnet19", initial_steps=3)
    layer = model.get_submodule("stages.0.0.lif1")
    assert isinstance(layer, DTSS)
    with torch.no_grad():
        layer.tp.copy_(torch.tensor([1.5, 0.0, 0.0]))
    rows = counted(model, images(4)).rows
    for name in ("stages.0.0.lif1", "stages.0.0.conv2"):
        assert rows.loc[rows["layer"] == name, "active"].tolist() == [True, False, False], name
    assert rows.loc[rows["layer"] == "stages.0.0#add0", "active"].all()  # the shortcut still drives it


# --- training, checkpoints ---------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Three classes of noisy bars, 16x16, 48 images to train on and 16 to test on."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 3
    pixels = rng.random((64, 16, 16), np.float32) * 0.3
    for image, label in zip(pixels, labels, strict=True):
        image[label * 5 : label * 5 + 4] += 1
    np.savez(tmp_path / "bars.npz", images=pixels, labels=labels, is_test=np.arange(64) >= 48)
    return f"npz:{tmp_path / 'bars.npz'}"


def recipe(name: str, data: str, more: str = "") -> Recipe:
    return parse_recipe(RECIPE.format(name=name, data=data) + more, "tiny.yaml")


@pytest.mark.parametrize("name", [*SPIKING, "dts-vgg16", "dts-resnet19", "dts-preact-resnet18", "resnet19-ann"])
def test_a_network_is_trained_saved_loaded_profiled_and_priced(tmp_path: Path, data: str, name: str) -> None:
    more = "mask_loss: {weight: 0.01, groups: [other]}\n" if name.startswith("dts-") else ""
    more += "tet_loss: {}\n" if name == "resnet19" else ""
    more += "hoyer_loss: {weight: 1.0e-8}\n" if name == "vgg16-hoyer" else ""
    path = tmp_path / "mine.safetensors"
    result = train(recipe(name, data, more), path)
    assert read_metadata(path)["model"] == name
    counts = profile_checkpoint(path, data, None)
    assert counts.model == name
    assert counts.samples == 16
    assert counts.header["accuracy"] == result.accuracy == read_metadata(path)["test_accuracy"]
    energy = se.estimate(counts, "horowitz-45nm-fp32")
    assert 0 < energy.total_pj < float("inf")
    assert counts.activity()["spiking_layers"] == (0 if name.endswith("ann") else len(result.active_steps))


def test_a_network_learns(tmp_path: Path, data: str) -> None:
    longer = recipe("resnet19", data).with_changes(epochs=20)
    result = train(longer, tmp_path / "mine.safetensors")
    assert result.accuracy >= 0.9  # a third by chance


def test_a_network_starts_from_its_twin_without_spikes(tmp_path: Path, data: str) -> None:
    train(recipe("vgg16-ann", data), tmp_path / "ann.safetensors")
    train(
        recipe("vgg16", data).with_changes(epochs=1),
        tmp_path / "snn.safetensors",
        start_from=tmp_path / "ann.safetensors",
    )
    assert read_metadata(tmp_path / "snn.safetensors")["started_from"]["checkpoint"] == "ann.safetensors"


def test_the_digits_are_learned_from_the_command_line(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    text = RECIPE.format(name="preact-resnet18", data="digits").replace("num_classes: 3", "num_classes: 10")
    text = text.replace("batch_size: 16", "batch_size: 64").replace("image_size: 16", "image_size: 8\n  time_steps: 3")
    (tmp_path / "digits.yaml").write_text(text, encoding="utf-8")
    checkpoint = tmp_path / "mine.safetensors"
    code, out, err = cli("train", tmp_path / "digits.yaml", "-o", checkpoint, "--device", "cpu")
    assert code == 0, err
    counts = tmp_path / "mine.json"
    assert cli("profile", checkpoint, "--data", "digits", "--samples", "20", "-o", counts)[0] == 0
    code, out, _ = cli("estimate", counts, "--hardware", "dts-paper-fpga")
    assert code == 0
    assert "preact-resnet18 on dts-paper-fpga" in out


def test_a_recipe_says_neuron_and_pool_that_the_name_stands_for(data: str) -> None:
    found = recipe("vgg16-hoyer", data).model
    assert (found.neuron, found.pooling, found.v_th, found.leak, found.mlp_ratio) == ("hoyer", "max", 1.0, 1.0, None)
    resolved = recipe("resnet19", data).to_yaml()
    assert "neuron: spikformer" in resolved
    assert "v_th: 0.5" in resolved
    assert "mlp_ratio" not in resolved
    assert parse_recipe(resolved, "again.yaml") == recipe("resnet19", data)


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("resnet19", "heads: 2", "heads: only a transformer has it, and resnet19 is not one"),
        ("spikformer-1-16", "pooling: max", "width: only a CNN has it, and spikformer-1-16 is not one"),
        ("resnet19-ann", "time_steps: 2", "time_steps: a non-spiking resnet19-ann has one time step, not 2"),
        ("resnet19-ann", "neuron: hoyer", "neuron: resnet19-ann has no spiking neurons"),
        ("resnet19", "min_steps: 1", "min_steps: only a dts-spikformer has DTSS layers, resnet19 has none"),
        ("resnet91", "leak: 0.5", "unknown model 'resnet91'; did you mean 'resnet19'?"),
    ],
)
def test_a_recipe_that_does_not_fit_the_network_is_refused(data: str, name: str, line: str, complaint: str) -> None:
    text = RECIPE.format(name=name, data=data).replace("data:", f"  {line}\ndata:")
    with pytest.raises(RecipeError, match=r"^tiny\.yaml, line ") as raised:
        parse_recipe(text, "tiny.yaml")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_mask_loss_of_a_cnn_names_the_group_that_its_layers_are_in(data: str) -> None:
    with pytest.raises(RecipeError, match="groups: the layers of dts-vgg16 are all in the group other; name it"):
        recipe("dts-vgg16", data, "mask_loss: {weight: 0.1}\n")


def test_the_mask_loss_of_a_cnn_without_dtss_layers_is_refused(data: str) -> None:
    with pytest.raises(RecipeError, match="mask_loss: vgg16 has no DTSS layers"):
        recipe("vgg16", data, "mask_loss: {weight: 0.1, groups: [other]}\n")


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("vgg61", {}, "unknown model 'vgg61'; did you mean 'vgg16'?"),
        ("resnet19", {"heads": 4}, "unknown option 'heads' for model 'resnet19'"),
        ("resnet19", {"widht": 0.5}, "unknown option 'widht' for model 'resnet19'; did you mean 'width'?"),
        ("resnet19", {"width": 0}, "width must lie above 0"),
        ("resnet19", {"width": float("nan")}, "width must lie above 0"),
        ("resnet19", {"pooling": "max"}, "resnet19 has no such choice"),
        ("resnet19", {"initial_steps": 2}, "resnet19 has no DTSS layers"),
        ("resnet19", {"num_classes": 0}, "num_classes must be a whole number of at least 1, not 0"),
        ("vgg16", {"image_size": 24}, "image_size 24 must be a multiple of 16"),
        ("vgg16", {"pooling": "mean"}, "pooling must be avg or max, not 'mean'"),
        ("vgg16-ann", {"time_steps": 5}, "a non-spiking vgg16-ann has one time step, not 5"),
        ("dts-vgg16", {"initial_steps": 9}, "initial_steps must lie in 1..5"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(name: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelError) as raised:
        se.create_model(name, **options)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_is_the_network_that_was_saved(tmp_path: Path) -> None:
    model, x = tiny("vgg16-hoyer", width=0.125, leak=0.75), images(4)
    save_checkpoint(tmp_path / "a.safetensors", model, {"data": "none"})
    again: Any = load_checkpoint(tmp_path / "a.safetensors")
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_weights_of_another_cnn_are_told_by_its_name(tmp_path: Path) -> None:
    save_file(tiny("resnet19").state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of this vgg16: missing"):
        load_checkpoint(tmp_path / "bare.safetensors", "vgg16")


@pytest.mark.parametrize(("key", "value"), [("width", -1), ("width", 1e9), ("pooling", "max"), ("leak", 2)])
def test_a_configuration_that_cannot_be_built_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, tiny("resnet19"), {})
    document = read_metadata(path)
    document["config"][key] = value
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(document)})
    with pytest.raises(CheckpointError, match="invalid model configuration"):
        load_checkpoint(path)
