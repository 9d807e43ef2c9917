"""Checkpoints that say what they are, and foreign files that are loaded without running them, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from snn_energy.checkpoints.checkpoint import (
    METADATA_KEY,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
    sha256_of,
)
from snn_energy.core.errors import CheckpointError, OutputError
from snn_energy.models.create import create_model
from snn_energy.models.spikformer import Spikformer

OPTIONS: dict[str, Any] = {"image_size": 8, "num_classes": 3, "in_channels": 1, "heads": 2}
NAMES = ("vit-1-16", "spikformer-1-16", "dts-spikformer-1-16")


def network(name: str = "dts-spikformer-1-16", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, **(OPTIONS | options))
    for parameter in model.parameters():
        parameter.data.uniform_(0.0, 1.0)
    return model


def weights(**changes: Tensor) -> dict[str, Tensor]:
    return dict(network().state_dict()) | changes


def saved(path: Path, model: nn.Module | None = None, **metadata: Any) -> Path:
    save_checkpoint(path, model or network(), metadata)
    return path


def with_document(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A checkpoint of ours whose metadata was changed afterwards."""
    document = read_metadata(saved(path))
    change(document)
    save_file(weights(), path, {METADATA_KEY: json.dumps(document)})
    return path


def refusal(path: Path, *arguments: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, *arguments, **options)
    message = str(raised.value)
    assert path.name in message
    assert "\n" not in message
    return message


class Trap:
    """Pickles into a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", [*NAMES, "public-spikformer-1-16"])
def test_a_saved_network_comes_back_in_eval_mode_with_the_same_answers(tmp_path: Path, name: str) -> None:
    model = network(name)
    model(torch.rand(4, 1, 8, 8))  # moves the batch statistics
    loaded = load_checkpoint(saved(tmp_path / "a.safetensors", model))
    assert not any(module.training for module in loaded.modules())
    with torch.inference_mode():
        images = torch.rand(2, 1, 8, 8)
        assert torch.equal(loaded(images), model.eval()(images))


def test_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    said = read_metadata(saved(tmp_path / "a.safetensors", data="digits", seed=3, test_accuracy=0.5, mean=None))
    assert said["model"] == "dts-spikformer-1-16"
    assert said["config"]["time_steps"] == 4
    assert (said["data"], said["seed"], said["test_accuracy"], said["mean"]) == ("digits", 3, 0.5, None)
    assert said["torch_version"] == torch.__version__
    assert said["snn_energy_version"]


def test_every_field_of_the_configuration_survives(tmp_path: Path) -> None:
    model = network(mlp_ratio=2, leak=0.25, neuron="spikformer", initial_steps=3, min_steps=1, time_steps=6)
    loaded = load_checkpoint(saved(tmp_path / "a.safetensors", model))
    assert isinstance(loaded, Spikformer)
    assert loaded.config == model.config


def test_the_same_network_makes_the_same_bytes(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.safetensors", data="digits", seed=1)
    second = saved(tmp_path / "b.safetensors", seed=1, data="digits")
    assert first.read_bytes() == second.read_bytes()
    assert sha256_of(first) == hashlib.sha256(first.read_bytes()).hexdigest() == sha256_of(second)


def test_saving_leaves_no_other_file_behind(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = saved(tmp_path / "a.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr("snn_energy.checkpoints.checkpoint.save_file", fail)
    with pytest.raises(OutputError, match=r"a\.safetensors: cannot be written \(No space left on device\)"):
        saved(path, network("vit-1-16"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("place", "why"), [("nowhere/a.safetensors", "cannot be written"), ("folder", "is a folder")])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=f"{place}: {why}"):
        save_checkpoint(tmp_path / place, network(), {})


def test_a_network_of_another_kind_cannot_be_saved_as_ours(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a Linear has no configuration to store"):
        save_checkpoint(tmp_path / "a.safetensors", nn.Linear(1, 1), {})


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict", "model"])
def test_a_bare_state_dict_loads_into_the_network_that_is_named(tmp_path: Path, wrap: str | None) -> None:
    torch.save({wrap: weights(), "epoch": 3} if wrap else weights(), tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt", "dts-spikformer-1-16", **OPTIONS)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in weights().items())


def test_bare_safetensors_load_into_a_module_that_is_given(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, tmp_path / "a.safetensors")
    module = nn.Linear(2, 1)
    assert load_checkpoint(tmp_path / "a.safetensors", module) is module
    assert module.weight.tolist() == [[1, 1]]
    assert not module.training


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_bare_weights_without_a_model_ask_for_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save(weights(), path)
    else:
        save_file(weights(), path)
        with pytest.raises(CheckpointError, match="no snn_energy metadata; specify the architecture with model="):
            read_metadata(path)
    assert "specify their architecture with model=" in refusal(path)


def test_options_without_a_name_are_refused(tmp_path: Path) -> None:
    assert "(heads) need model= as a registry name" in refusal(saved(tmp_path / "a.safetensors"), heads=2)


@pytest.mark.parametrize("read", [load_checkpoint, read_metadata, sha256_of])
def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors: no such file"):
        read(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_an_empty_file_is_called_empty(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.touch()
    assert "empty (0 bytes)" in refusal(path)


@pytest.mark.parametrize("keep", [4, 9, 300, -1])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    assert "safetensors file" in refusal(path)


@pytest.mark.parametrize("keep", [5, 300, -1])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_state_dict_is_refused(tmp_path: Path, keep: int, new_format: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(weights(), path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello, world: text", bytes(64)])
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "png"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert "not a safetensors file" in refusal(path) or "neither a safetensors file" in refusal(path)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_pickle_that_would_run_code_does_not_run_it(tmp_path: Path, how: str, suffix: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"a.{suffix}"
    content = {"weight": Trap(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    message = refusal(path, nn.Linear(1, 1))
    assert not marker.exists()
    assert ("if you trust the file, convert it: safetensors.torch.save_file" if suffix == "pt" else "rename") in message


def test_the_trap_of_these_tests_does_run_where_pickles_are_trusted(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 1.0}}, torch.ones(2)])
def test_a_pytorch_file_that_holds_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "no state dict" in refusal(tmp_path / "a.pt").replace("not a state dict", "no state dict")


def test_weights_of_another_network_name_what_is_missing_unexpected_and_of_another_shape(
    tmp_path: Path,
) -> None:
    torch.save({"head.weight": torch.zeros(3, 8), "other": torch.zeros(1)}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt", "vit-1-16", **OPTIONS)
    total = len(network("vit-1-16").state_dict())
    assert "not the weights of this vit-1-16" in message
    assert f"missing: sps.conv0.weight, sps.bn0.weight, sps.bn0.bias and {total - 4} more" in message
    assert "unexpected: other;" in message
    assert "of another shape: head.weight [3, 8] instead of [3, 16]" in message


def test_a_refused_file_leaves_the_given_module_unchanged(tmp_path: Path) -> None:
    module = nn.Linear(2, 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.save({"weight": torch.ones(1, 2)}, tmp_path / "a.pt")
    assert "not the weights of this Linear: missing: bias" in refusal(tmp_path / "a.pt", module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training


def test_truth_values_are_not_taken_for_real_ones(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 2, dtype=torch.bool), "bias": torch.ones(1)}, tmp_path / "a.pt")
    assert "weight torch.bool instead of torch.float32" in refusal(tmp_path / "a.pt", nn.Linear(2, 1))


def test_of_a_file_of_ours_there_is_nothing_to_tell(tmp_path: Path) -> None:
    notes = load_checkpoint(saved(tmp_path / "a.safetensors", seed=3)).__dict__["snn_energy_checkpoint"]
    assert notes == {
        "checkpoint": "a.safetensors",
        "checkpoint_sha256": sha256_of(tmp_path / "a.safetensors"),
        "seed": 3,
    }


def test_of_a_file_of_ours_in_16_bits_it_is_said(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", network(), {}, half=True)
    notes = load_checkpoint(tmp_path / "a.safetensors").__dict__["snn_energy_checkpoint"]["checkpoint_notes"]
    matrices = sum(tensor.dim() > 1 for tensor in weights().values())
    assert notes == [f"float16 weights ({matrices} tensors) are used as float32"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = network()
    model.get_parameter("head.bias").data[1] = value
    assert "NaN or infinite weights, in: head.bias" in refusal(saved(tmp_path / "a.safetensors", model))


def test_weights_beyond_single_precision_are_refused_and_half_precision_is_welcome(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((1, 2), 1e300, dtype=torch.float64), "bias": torch.ones(1)}, tmp_path / "a.pt")
    assert "NaN or infinite weights, in: weight" in refusal(tmp_path / "a.pt", nn.Linear(2, 1))
    torch.save({"weight": torch.full((1, 2), 0.5).half(), "bias": torch.ones(1).bfloat16()}, tmp_path / "b.pt")
    loaded = load_checkpoint(tmp_path / "b.pt", nn.Linear(2, 1))
    assert loaded(torch.ones(1, 2)).item() == 2


def test_negative_tp_is_refused(tmp_path: Path) -> None:
    model = network()
    model.get_parameter("sps.lif0.tp").data[0] = -0.25
    assert "negative TP, in: sps.lif0.tp" in refusal(saved(tmp_path / "a.safetensors", model))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(schema_version=99), "schema version 99, this snn_energy reads 1"),
        (lambda d: d.pop("config"), "hold no model configuration"),
        (lambda d: d["config"].update(dephth=3), "unknown key 'dephth' .* did you mean 'depth'"),
        (lambda d: d["config"].pop("heads"), "lacks heads"),
        (lambda d: d["config"].update(family="spikfomer"), "did you mean 'spikformer'"),
        (lambda d: d["config"].update(depth=-1), "depth must be a whole number"),
        (lambda d: d["config"].update(leak="much"), "invalid model configuration"),
        (lambda d: d["config"].update(initial_steps=7), "initial_steps must lie in 1..4"),
        (lambda d: d["config"].update(neuron="none"), "neuron rule must be one of"),
        (
            lambda d: d["config"].update(depth=2),
            "not the weights of this dts-spikformer-2-16: missing: blocks.1",
        ),
    ],
)
def test_metadata_that_describe_no_network_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    message = refusal(with_document(tmp_path / "a.safetensors", change))
    assert re.search(complaint, message), message


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_metadata_that_are_no_json_object_are_refused(tmp_path: Path, text: str) -> None:
    save_file(weights(), tmp_path / "a.safetensors", {METADATA_KEY: text})
    assert "metadata" in refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dim": 10**7}, "dim up to"),
        ({"depth": 10**9}, "depth up to"),
        ({"dim": 32768}, "of another shape"),
        ({"depth": 90}, "missing"),
        ({"image_size": "a"}, "image_size must be a whole number"),
    ],
)
def test_metadata_that_lie_about_sizes_fill_no_memory(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    source = (
        Path(__file__).resolve().parents[2]
        / "snn_energy"
        / "demo_checkpoints"
        / "dts-spikformer-2-64-digits.safetensors"
    )
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        document = json.loads(file.metadata()[METADATA_KEY])
    document["config"] |= change
    save_file(tensors, tmp_path / "lie.safetensors", {METADATA_KEY: json.dumps(document)})
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path / "lie.safetensors")
