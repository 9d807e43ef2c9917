"""Files of weights as other people save them: what is taken from them, what is said, and that nothing of them runs."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import snn_energy as se
from snn_energy.checkpoints.checkpoint import load_checkpoint
from snn_energy.checkpoints.inert_pickle import load_tensors_only
from snn_energy.checkpoints.weights_file import read_weights
from snn_energy.core.errors import CheckpointError

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def weights(shift: float = 0.0) -> dict[str, Tensor]:
    """Distinct numbers for every tensor of ``network``, exact in 16 bits; num_batches_tracked stays 0."""
    return {
        name: value.clone()
        if not value.is_floating_point()
        else torch.arange(1, value.numel() + 1).view(value.shape) / 8 + i + shift
        for i, (name, value) in enumerate(network().state_dict().items())
    }


def saved(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def loaded(path: Path, **options: Any) -> tuple[dict[str, Tensor], str]:
    """The state dict of ``network`` filled from a file, and what was told of it."""
    filled = load_checkpoint(path, network(), **options)
    notes = filled.__dict__["snn_energy_checkpoint"].get("checkpoint_notes", [])
    assert all("\n" not in note for note in notes)
    return dict(filled.state_dict()), "; ".join(notes)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def refusal(path: Path, model: nn.Module | None = None, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, network() if model is None else model, **options)
    message = str(raised.value)
    assert path.name in message
    assert "\n" not in message
    return message


# Where the weights lie, and which.


@pytest.mark.parametrize(
    "place",
    [
        ("state_dict",),
        ("model_state_dict",),
        ("model",),
        ("net",),
        ("model", "state_dict"),
        ("state_dict", "model"),
        ("net", "module"),
    ],
    ids=".".join,
)
@FORMATS
def test_weights_are_found_under_the_customary_keys(tmp_path: Path, place: tuple[str, ...], zipped: bool) -> None:
    content: dict[str, Any] = weights()
    for key in reversed(place):
        content = {"epoch": 3, "optimizer": {"state": {0: torch.ones(3)}, "param_groups": [{"lr": 0.1}]}, key: content}
    found, notes = loaded(saved(tmp_path / "a.pt", content, zipped))
    assert same(found, weights())
    assert notes == f"plain weights, not EMA, under '{'.'.join(place)}'"


def test_of_bare_weights_it_is_said_that_nobody_knows_whether_they_are_ema(tmp_path: Path) -> None:
    found, notes = loaded(saved(tmp_path / "a.pt", weights()))
    assert same(found, weights())
    assert notes == "bare weights: the file does not say whether they are EMA"


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema"])
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_plain_weights_are_used_unless_ema_is_asked_for(tmp_path: Path, key: str, place: str) -> None:
    both = {key: weights(0.5), "model": weights()}
    path = saved(tmp_path / "a.pt", both if place == "beside" else {"model": {"net": weights(), key: weights(0.5)}})
    found, notes = loaded(path)
    assert same(found, weights())
    assert "plain weights, not EMA" in notes
    assert f"{key}'; --ema selects them" in notes
    found, notes = loaded(path, ema=True)
    assert same(found, weights(0.5))
    assert notes.startswith("EMA weights, under '")
    assert key in notes


def test_weights_that_are_ema_alone_are_used_and_it_is_said(tmp_path: Path) -> None:
    found, notes = loaded(saved(tmp_path / "a.pt", {"ema": {"module": weights(), "updates": 100}}))
    assert same(found, weights())
    assert notes == "EMA weights, under 'ema.module'"


def test_an_averaged_model_of_torch_is_one(tmp_path: Path) -> None:
    model = torch.optim.swa_utils.AveragedModel(network())
    model.module.load_state_dict(weights())
    found, notes = loaded(saved(tmp_path / "a.pt", model.state_dict()), ema=True)
    assert same(found, weights())
    assert notes == "EMA weights; counters of tools are dropped (n_averaged); 'module.' is removed from the names"


@pytest.mark.parametrize("content", [{"model": weights()}, weights()], ids=["wrapped", "bare"])
def test_ema_weights_that_are_not_there_are_refused(tmp_path: Path, content: object) -> None:
    assert "holds no EMA weights" in refusal(saved(tmp_path / "a.pt", content), ema=True)


def test_a_wrapper_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content
    assert "'epoch' is not a tensor" in refusal(saved(tmp_path / "a.pt", content))


def test_what_was_chosen_lands_in_the_header_of_counts(tmp_path: Path) -> None:
    model = load_checkpoint(saved(tmp_path / "a.pt", {"net": weights()}), network())
    header = se.profile(model, [torch.rand(1, 1, 4, 4)], time_steps=1).header
    assert header["checkpoint_notes"] == ["plain weights, not EMA, under 'net'"]
    assert header["checkpoint"] == "a.pt"


# Names.


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str, suffix: str) -> None:
    named = {prefix + name: value for name, value in weights().items()}
    if suffix == "pt":
        saved(tmp_path / "a.pt", named)
    else:
        save_file(named, tmp_path / "a.safetensors")
    found, notes = loaded(tmp_path / f"a.{suffix}")
    assert same(found, weights())
    assert f"'{prefix}' is removed from the names" in notes


def test_parts_that_were_compiled_lose_their_prefix(tmp_path: Path) -> None:
    named = {name.replace("3.", "3._orig_mod."): value for name, value in weights().items()}
    found, notes = loaded(saved(tmp_path / "a.pt", named))
    assert same(found, weights())
    assert "'_orig_mod.' is removed from" in notes


def test_a_prefix_that_the_network_has_itself_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(2, 1)})
    path = saved(tmp_path / "a.pt", {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1)})
    notes = load_checkpoint(path, model).__dict__["snn_energy_checkpoint"]["checkpoint_notes"]
    assert not any("removed from" in note for note in notes)
    assert model["model"].weight.tolist() == [[1, 1]]


@pytest.mark.parametrize("odd", ["criterion.weight", "module.criterion.weight"])
def test_no_prefix_goes_unless_every_name_then_fits(tmp_path: Path, odd: str) -> None:
    named = {f"module.{name}": value for name, value in weights().items()} | {odd: torch.ones(3)}
    message = refusal(saved(tmp_path / "a.pt", named))
    assert "missing: 0.weight, 0.bias, 1.weight and" in message
    assert "unexpected: module.0.weight, module.0.bias" in message


def test_the_counters_of_thop_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    counters = {"total_ops": torch.zeros(1).double(), "0.total_params": torch.zeros(1).double()}
    found, notes = loaded(saved(tmp_path / "a.pt", weights() | counters))
    assert same(found, weights())
    assert "counters of tools are dropped (total_ops, total_params)" in notes


def test_any_other_name_too_many_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", weights() | {"0.scale": torch.ones(1)})
    assert "not the weights of this Sequential: unexpected: 0.scale" in refusal(path)


def test_a_counter_that_old_files_lack_is_the_networks_own(tmp_path: Path) -> None:
    content = weights()
    del content["1.num_batches_tracked"]
    found, notes = loaded(saved(tmp_path / "a.pt", content))
    assert same(found, weights())
    assert "the network's own value is used for 1.num_batches_tracked" in notes


def test_a_whole_batch_norm_that_is_missing_is_missing(tmp_path: Path) -> None:
    content = {name: value for name, value in weights().items() if not name.startswith("1.")}
    assert "missing: 1.weight, 1.bias, 1.running_mean and 2 more" in refusal(saved(tmp_path / "a.pt", content))


class Neurons(nn.Module):
    """As in sinabs and snnTorch: a potential in a buffer, of the last batch's shape."""

    def __init__(self, batch: int, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("v_mem", torch.full((batch, 2), float(batch)), persistent)
        self.register_buffer("threshold", torch.tensor(1.0))


def test_a_potential_of_another_batch_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", nn.Sequential(Neurons(5)).state_dict())
    model = load_checkpoint(path, nn.Sequential(Neurons(3)))
    assert model.state_dict()["0.v_mem"].tolist() == [[3, 3]] * 3
    notes = model.__dict__["snn_energy_checkpoint"]["checkpoint_notes"]
    assert "state of neurons is the network's own, not the file's (0.v_mem)" in notes


@pytest.mark.parametrize("persistent", [True, False])
def test_a_potential_that_only_one_side_keeps_is_left_out(tmp_path: Path, persistent: bool) -> None:
    path = saved(tmp_path / "a.pt", nn.Sequential(Neurons(5, persistent)).state_dict())
    model = load_checkpoint(path, nn.Sequential(Neurons(3, not persistent)))
    assert "0.v_mem" in model.__dict__["snn_energy_checkpoint"]["checkpoint_notes"][-1]


def test_a_threshold_is_no_state(tmp_path: Path) -> None:
    content = nn.Sequential(Neurons(5)).state_dict()
    content["0.threshold"] = torch.ones(2)
    path = saved(tmp_path / "a.pt", content)
    assert "of another shape: 0.threshold [2] instead of []" in refusal(path, nn.Sequential(Neurons(3)))


# Types.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_other_widths_of_real_numbers_are_converted_and_it_is_said(
    tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    content = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights().items()}
    if suffix == "pt":
        saved(tmp_path / "a.pt", content)
    else:
        save_file(content, tmp_path / "a.safetensors")
    found, notes = loaded(tmp_path / f"a.{suffix}")
    assert same(found, {name: value.to(network().state_dict()[name].dtype) for name, value in content.items()})
    assert found["0.weight"].dtype == torch.float32
    assert f"{str(dtype).removeprefix('torch.')} weights (8 tensors) are used as float32" in notes


def test_the_networks_type_counts_not_single_precision(tmp_path: Path) -> None:
    model = load_checkpoint(saved(tmp_path / "a.pt", weights()), network().double())
    assert model.state_dict()["0.weight"].dtype == torch.float64
    assert (
        "float32 weights (8 tensors) are used as float64" in model.__dict__["snn_energy_checkpoint"]["checkpoint_notes"]
    )


def test_int8_weights_are_whole_numbers_without_a_scale(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", weights() | {"3.weight": torch.arange(-12, 12, dtype=torch.int8).view(3, 8)})
    found, notes = loaded(path)
    assert found["3.weight"].flatten().tolist() == list(range(-12, 12))
    assert found["3.weight"].dtype == torch.float32
    assert "int8 weights (1 tensor) are used unscaled as float32" in notes


def test_whole_numbers_that_single_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", weights() | {"3.bias": torch.tensor([1, 2, 2**24 + 1])})
    assert "whole numbers too large for the network's type, in: 3.bias" in refusal(path)


def test_quantised_tensors_come_with_their_scale(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop them
        quantised = torch.quantize_per_tensor(torch.arange(24.0).view(3, 8) / 4, 0.25, 3, torch.qint8)
        path = saved(tmp_path / "a.pt", weights() | {"3.weight": quantised})
    found, notes = loaded(path)
    assert found["3.weight"].flatten().tolist() == [i / 4 for i in range(24)]
    assert "quantised weights (1 tensor) are dequantised with their own scales" in notes


def test_a_counter_that_overflowed_in_16_bits_is_the_networks_own(tmp_path: Path) -> None:
    content = {name: value.half() for name, value in weights().items()}
    content["1.num_batches_tracked"] = torch.tensor(float("inf")).half()
    found, notes = loaded(saved(tmp_path / "a.pt", content))
    assert found["1.num_batches_tracked"].item() == 0
    assert "the network's own value is used for 1.num_batches_tracked" in notes


def test_a_fraction_is_no_counter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", weights() | {"1.num_batches_tracked": torch.tensor(0.5)})
    assert "1.num_batches_tracked torch.float32 instead of torch.int64" in refusal(path)


@pytest.mark.parametrize(
    ("odd", "complaint"),
    [
        (torch.ones(3).to_sparse(), "'3.bias' is sparse"),
        (torch.ones(3, device="meta"), "'3.bias' is on the meta device"),
        (torch.ones(3, dtype=torch.complex64), "3.bias torch.complex64 instead of torch.float32"),
        (torch.ones(3, dtype=torch.bool), "3.bias torch.bool instead of torch.float32"),
    ],
    ids=["sparse", "meta", "complex", "bool"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, odd: Tensor, complaint: str) -> None:
    assert complaint in refusal(saved(tmp_path / "a.pt", weights() | {"3.bias": odd}))


def test_tensors_of_a_cuda_device_load_without_one(tmp_path: Path) -> None:
    source = saved(tmp_path / "cpu.pt", weights())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name, content)
    found, _ = loaded(tmp_path / "a.pt")
    assert same(found, weights())
    assert {value.device.type for value in found.values()} == {"cpu"}


def test_safetensors_of_another_name_are_recognised(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "weights.bin")
    assert "rename it to .safetensors" in refusal(tmp_path / "weights.bin")


# What is beside the weights.


@pytest.fixture
def other_library() -> Iterator[types.ModuleType]:
    """Classes of a library that is there when the file is written and gone when it is read."""
    library = types.ModuleType("lightning_like")
    source = """
import collections, enum
class AttributeDict(dict):
    pass
class EasyDict(dict):
    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)
class Config:
    def __init__(self):
        self.lr = 0.1
class Callback:
    pass
class History(list):
    pass
class Stage(enum.Enum):
    FIT = "fit"
"""
    exec(compile(source, "lightning_like", "exec"), library.__dict__)
    sys.modules["lightning_like"] = library
    yield library
    sys.modules.pop("lightning_like", None)


@FORMATS
def test_a_file_of_timm_loads(tmp_path: Path, zipped: bool) -> None:
    content = {
        "epoch": 309,
        "arch": "spikformer",
        "state_dict": {f"module.{name}": value for name, value in weights().items()},
        "state_dict_ema": weights(0.5),
        "optimizer": torch.optim.AdamW(network().parameters()).state_dict(),
        "args": argparse.Namespace(lr=5e-4, output=Path("/runs"), opt=argparse.Namespace(name="adamw")),
        "amp_scaler": {"scale": 65536.0},
        "metric": np.float64(95.2),
        "version": 2,
    }
    path = saved(tmp_path / "model_best.pth.tar", content, zipped)
    found, notes = loaded(path)
    assert same(found, weights())
    assert notes == (
        "plain weights, not EMA, under 'state_dict'; not used: 'state_dict_ema'; --ema selects them; "
        "'module.' is removed from the names"
    )
    assert same(loaded(path, ema=True)[0], weights(0.5))


@FORMATS
def test_a_file_of_lightning_loads_where_lightning_is_not(
    tmp_path: Path, zipped: bool, other_library: types.ModuleType
) -> None:
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": collections.OrderedDict((f"model.{name}", value) for name, value in weights().items()),
        "callbacks": {other_library.Callback: {"best": Path("last.ckpt"), "state": other_library.Callback()}},
        "hyper_parameters": other_library.AttributeDict(lr=0.1, sizes=collections.deque([1, 2], 4)),
        "loops": collections.defaultdict(list, fit=[other_library.History([1, 2]), other_library.Stage.FIT]),
        "config": other_library.EasyDict(lr=0.1, inner=other_library.Config()),
        "scores": [np.arange(3.0), np.float32(0.5), np.dtype("int8"), frozenset([1]), slice(0, 3), b"", b"ab", 1j],
    }
    path = saved(tmp_path / "epoch=3.ckpt", content, zipped)
    del sys.modules["lightning_like"]
    found, notes = loaded(path)
    assert same(found, weights())
    assert notes == "plain weights, not EMA, under 'state_dict'; 'model.' is removed from the names"
    assert "lightning_like" not in sys.modules


def test_weights_in_a_kind_of_dict_are_weights(tmp_path: Path, other_library: types.ModuleType) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": other_library.AttributeDict(weights())})
    assert same(loaded(path)[0], weights())


def test_what_stands_for_a_foreign_object_holds_nothing_of_it(tmp_path: Path) -> None:
    content = load_tensors_only(saved(tmp_path / "a.pt", {"args": argparse.Namespace(secret=1)}))
    assert type(content["args"]).__name__ == "argparse.Namespace"
    assert not isinstance(content["args"], argparse.Namespace)
    assert vars(content["args"]) == {}


def test_what_torch_was_told_to_trust_is_the_same_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_tensors_only(saved(tmp_path / "a.pt", {"args": argparse.Namespace(lr=1)}))
    assert set(torch.serialization.get_safe_globals()) == before


class Spiking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = network()


@pytest.mark.parametrize("make", [network, Spiking], ids=["torch's", "a user's"])
@pytest.mark.parametrize("key", [None, "model", "net", "ema"])
@FORMATS
def test_a_whole_module_is_refused_with_the_mend(
    tmp_path: Path, make: Callable[[], nn.Module], key: str | None, zipped: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of source code that cannot be kept
        path = saved(tmp_path / "a.pt", make() if key is None else {key: make(), "epoch": 1}, zipped)
    message = refusal(path)
    assert "a whole pickled" in message
    assert "save its state_dict()" in message
    assert "--model file.py:function" in message


def test_a_state_dict_beside_a_whole_module_is_used(tmp_path: Path) -> None:
    found, _ = loaded(saved(tmp_path / "a.pt", {"model": Spiking(), "state_dict": weights()}))
    assert same(found, weights())


def test_an_object_in_a_tensors_place_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", weights() | {"args": argparse.Namespace()})
    assert "'args' is not a tensor, but a pickled argparse.Namespace" in refusal(path)


def test_a_torchscript_archive_is_refused_as_such(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 1)), tmp_path / "a.pt")
    assert "a TorchScript archive" in refusal(tmp_path / "a.pt")


# Nothing runs. Each of these would make the canary, and does where pickles are trusted.


def make_canary(path: str) -> str:
    Path(path).touch()
    return path


class Reduces:
    """Pickles into a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class SetsState:
    """Makes the canary when its state comes back."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __setstate__(self, state: dict[str, str]) -> None:
        make_canary(state["canary"])


class Makes:
    """Makes the canary when it is made anew."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __new__(cls, canary: Path) -> Makes:
        make_canary(str(canary))
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str]:
        return (self.canary,)


BLOCKED: dict[str, Callable[[Path], object]] = {
    "os.system": lambda canary: Reduces(os.system, f"touch {canary}"),
    "eval": lambda canary: Reduces(eval, f"open({str(canary)!r}, 'w').close()"),
    "exec": lambda canary: Reduces(exec, f"open({str(canary)!r}, 'w').close()"),
    "subprocess": lambda canary: Reduces(subprocess.check_output, ["touch", str(canary)]),
}
INERT: dict[str, Callable[[Path], object]] = {
    "open": lambda canary: Reduces(open, str(canary), "w"),
    "a function": lambda canary: Reduces(make_canary, str(canary)),
    "__setstate__": SetsState,
    "__new__": Makes,
    "numpy": lambda canary: Reduces(np.save, str(canary), 1),
    "torch": lambda canary: Reduces(torch.save, 1, str(canary)),
}


def placed(place: str, danger: object) -> object:
    """A file's content with something dangerous at one of its places."""
    return {
        "root": danger,
        "tensor": weights() | {"3.bias": danger},
        "nested": {"state_dict": weights(), "optimizer": {"state": [(1, {"deep": [danger]})]}},
        "namespace": {"state_dict": weights(), "args": argparse.Namespace(lr=danger)},
        "instead of the namespace": {"state_dict": weights(), "args": danger},
        "key": {"state_dict": weights(), "callbacks": {(1, danger): 2}},
    }[place]


PLACES = ("root", "tensor", "nested", "namespace", "instead of the namespace", "key")


@pytest.mark.parametrize("danger", BLOCKED)
@pytest.mark.parametrize("place", PLACES)
@FORMATS
def test_a_file_that_names_what_runs_code_is_refused_and_nothing_runs(
    tmp_path: Path, danger: str, place: str, zipped: bool
) -> None:
    canary = tmp_path / "canary"
    path = saved(tmp_path / "a.pt", placed(place, BLOCKED[danger](canary)), zipped)
    message = refusal(path)
    assert not canary.exists()
    assert "a pickle that names" in message
    assert "loading it could run code, so it was not loaded; if you trust the file, convert it" in message


@pytest.mark.parametrize("danger", INERT)
@pytest.mark.parametrize("place", PLACES)
@FORMATS
def test_beside_the_weights_code_is_inert(tmp_path: Path, danger: str, place: str, zipped: bool) -> None:
    canary = tmp_path / "canary"
    made = INERT[danger](canary)
    canary.unlink(missing_ok=True)
    path = saved(tmp_path / "a.pt", placed(place, made), zipped)
    if place in ("root", "tensor"):
        assert "save" in refusal(path)
    else:
        assert same(loaded(path)[0], weights())
    assert not list(tmp_path.glob("canary*"))


@pytest.mark.parametrize("danger", BLOCKED | INERT)
def test_the_dangers_of_these_tests_are_real(tmp_path: Path, danger: str) -> None:
    canary = tmp_path / "canary"
    made = (BLOCKED | INERT)[danger](canary)
    canary.unlink(missing_ok=True)
    returned = pickle.loads(pickle.dumps(made, protocol=2))
    if isinstance(returned, io.IOBase):
        returned.close()
    assert list(tmp_path.glob("canary*"))


class Colour(enum.Flag):
    RED = 1


def test_a_call_of_what_a_call_gave_is_refused(tmp_path: Path) -> None:
    """Functions that were looked up (getattr) could be any function."""
    path = saved(tmp_path / "a.pt", {"state_dict": weights(), "x": Reduces(getattr, Colour, "RED")})
    assert "names builtins.getattr" in refusal(path)


# Real files that nobody here wrote.


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/checkpoints is not beside the checkout")
def test_weights_of_sinabs_saved_on_cuda_load_on_a_cpu() -> None:
    path = SHARED / "sinabs_mnist_ann.pt"
    layers: list[nn.Module] = [nn.Identity() for _ in range(13)]
    for name, (outputs, inputs, *kernel) in ((name, value.shape) for name, value in read_weights(path).tensors.items()):
        kind = nn.Conv2d(inputs, outputs, kernel[0], bias=False) if kernel else nn.Linear(inputs, outputs, bias=False)
        layers[int(name.partition(".")[0])] = kind
    content = path.read_bytes()  # a zip that stores without compressing
    assert b"cuda" in content
    model = load_checkpoint(path, nn.Sequential(*layers))
    assert all(parameter.device.type == "cpu" and bool(parameter.any()) for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == 500 + 16_000 + 36_864 + 64_000 + 5_000


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/checkpoints is not beside the checkout")
def test_the_convnet_of_snntorch_loads_with_its_neurons() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snntorch = pytest.importorskip("snntorch", reason="snntorch is not installed")

    def leaky(beta: float) -> nn.Module:
        module: nn.Module = snntorch.Leaky(beta=beta, init_hidden=True)
        return module

    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky(0.9)),
        *(nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky(0.9)),
        *(nn.Flatten(), nn.Linear(1024, 10), leaky(0.9)),
    )
    load_checkpoint(SHARED / "snntorch_mnist_convnet.pth", model)
    assert [float(model.state_dict()[f"{i}.beta"]) for i in (2, 5, 8)] == [0.5, 0.5, 0.5]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
