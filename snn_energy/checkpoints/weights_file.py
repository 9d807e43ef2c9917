"""Weight files in the usual formats, read without running code from them.

A ``.safetensors`` file is read by safetensors; any other by torch's restricted unpickler (``weights_only=True``).
Such a file often holds more than weights: timm's argparse.Namespace, Lightning's callbacks, numpy scalars.
Every class or function that it names and torch does not know is replaced by an ``Inert`` one, which accepts anything,
keeps nothing and does nothing. A name that only a file meant to run code would contain is rejected before loading.

``notes`` lists what was chosen, removed or converted to match the network's own names and types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snn_energy.checkpoints.inert_pickle import (
    CONVERT_HINT,
    SAVE_STATE_HINT,
    ZIP_MAGIC,
    Inert,
    existing_file,
    load_tensors_only,
)
from snn_energy.core.errors import CheckpointError

PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, Lightning
TOOL_COUNTERS = ("total_ops", "total_params", AVERAGED)  # counters of tools such as thop: not weights
# Buffers that hold a neuron's state.
NEURON_STATE_BUFFERS = ("mem", "syn", "syn_exc", "syn_inh", "spk", "v_mem", "i_syn", "v")
OPTIONAL_BUFFERS = ("num_batches_tracked", "graded_spikes_factor", "reset_mechanism_val")  # newer than many files
MAX_WRAPPERS = 4  # levels of wrappers around a state dict; a dict may contain itself


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by name, on the CPU, and notes on what was chosen or changed, one short sentence each."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: str | Path, *, ema: bool = False, has_metadata: bool = False) -> WeightsFile:
    """The state dict of a safetensors or PyTorch file, unwrapped and dequantised. No code of it is run.

    ema: the exponential moving average of the weights, which the file must hold; without it, the plain weights if
    there are any. has_metadata: a file of ``save_checkpoint``, which needs no notes. Raises CheckpointError.
    """
    file = existing_file(path)
    content = _read_safetensors(file) if file.suffix == ".safetensors" else load_tensors_only(file)
    found, notes = _select_state_dict(content, file, ema)
    tensors, quantised = {}, []
    for name, tensor in found.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_nested:
            what = "on the meta device: it holds no numbers" if tensor.is_meta else "sparse or nested; save it dense"
            raise CheckpointError(f"{path}: '{name}' is {what}")
        quantised += [name] * tensor.is_quantized
        tensors[name] = tensor.dequantize() if tensor.is_quantized else tensor
    if quantised:
        notes = [*notes, f"quantised weights ({_tensors(len(quantised))}) are dequantised with their own scales"]
    return WeightsFile(tensors, () if has_metadata else tuple(notes))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a state dict, by name. No code of it is run. Raises CheckpointError."""
    return read_weights(path).tensors


def why_not_safetensors(path: Path) -> str:
    """What a file named .safetensors seems to be instead."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith((ZIP_MAGIC, b"\x80")):
        return "named .safetensors but looks like a PyTorch pickle; rename it to .pt to have it tried as such"
    if start[8:9] == b"{":
        return "a truncated or damaged safetensors file; copy or save it again"
    return "not a safetensors file"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {why_not_safetensors(path)} ({error})") from error


KeyPath = tuple[str, ...]


def _state_dicts(content: Any, key_path: KeyPath = ()) -> Iterator[tuple[KeyPath, dict[str, Tensor]]]:
    """Every state dict of a file, with the path of the usual keys that lead to it."""
    if not isinstance(content, dict) or len(key_path) > MAX_WRAPPERS:
        return
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield key_path, content
        return
    for key in (*PLAIN_KEYS, *EMA_KEYS):
        if key in content:
            yield from _state_dicts(content[key], (*key_path, key))


def _is_ema(key_path: KeyPath, tensors: Mapping[str, Tensor]) -> bool:
    return AVERAGED in tensors or any(key in EMA_KEYS for key in key_path)


def _select_state_dict(content: Any, path: Path, ema: bool) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a file to use, and notes on the choice."""
    found = list(_state_dicts(content))
    if not found:
        raise CheckpointError(f"{path}: {_why_no_state_dict(content)}")
    averaged = [entry for entry in found if _is_ema(*entry)]
    plain = [entry for entry in found if not _is_ema(*entry)]
    if ema and not averaged:
        raise CheckpointError(f"{path}: holds no EMA weights ({', '.join(EMA_KEYS)}); leave ema (--ema) out")
    key_path, tensors = (averaged if ema or not plain else plain)[0]
    if not key_path and AVERAGED not in tensors:
        return tensors, ["bare weights: the file does not say whether they are EMA"]
    kind = "EMA weights" if _is_ema(key_path, tensors) else "plain weights, not EMA"
    notes = [f"{kind}, under {_dotted(key_path)}" if key_path else kind]
    others = [_dotted(other) for other, _ in found if other != key_path]
    if others:
        more = "; --ema selects them" if averaged and not ema and plain else ""
        notes.append(f"not used: {', '.join(others)}{more}")
    return tensors, notes


def _dotted(key_path: KeyPath) -> str:
    return f"'{'.'.join(key_path)}'"


def _why_no_state_dict(content: Any) -> str:
    """Why nothing in a file is a state dict, and the fix."""
    for _ in range(MAX_WRAPPERS):
        inner = [content[key] for key in (*PLAIN_KEYS, *EMA_KEYS) if isinstance(content, dict) and key in content]
        inner = [value for value in inner if isinstance(value, dict | Inert)]
        if not inner:
            break
        content = inner[0]
    if isinstance(content, Inert):
        return f"holds a whole pickled {content.stands_for}, not a state dict; {SAVE_STATE_HINT}"
    if not isinstance(content, dict) or not content:
        return f"holds a {type(content).__name__}, not a state dict; {CONVERT_HINT}"
    key, value = next(
        (key, value) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    )
    what = f", but a pickled {value.stands_for}" if isinstance(value, Inert) else ""
    return f"'{key}' is not a tensor{what}, so this is not a state dict; {CONVERT_HINT}"


def fit_to_network(weights: WeightsFile, network: nn.Module, path: Path) -> WeightsFile:
    """The same weights with the names and types of a network, as far as they can be converted.

    Names: counters of tools are dropped, prefixes are removed if all names then match, and the state of neurons (a
    potential is not a weight, and has the batch's shape) stays the network's own if it does not match. Types: floats
    of another width, and integers where the network has floats, are converted exactly except for rounding of wider
    floats. The caller must check what still differs. Raises CheckpointError for integers that would not stay exact.
    """
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    buffers = dict(network.named_buffers())
    tensors, notes = _drop_counters(weights.tensors, expected)
    tensors, more = _drop_prefixes(tensors, expected.keys() | buffers.keys())
    notes += more
    tensors, more = _keep_own_state(tensors, expected, buffers)
    notes += more
    tensors, more = _convert_types(tensors, expected, path)
    return WeightsFile(tensors, (*weights.notes, *notes, *more))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _drop_counters(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    own = {_last(name) for name in expected}
    dropped = [name for name in tensors if _last(name) in TOOL_COUNTERS and _last(name) not in own]
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    kinds = ", ".join(sorted({_last(name) for name in dropped}))
    return kept, [f"counters of tools are dropped ({kinds})"] * bool(dropped)


def _drop_prefixes(tensors: dict[str, Tensor], known: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Without the prefixes of wrappers, if every name is then one of the network's; else unchanged."""
    names = {name: name for name in tensors}
    removed_prefixes: list[str] = []
    while not set(names.values()) <= known:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names.values())), None)
        if prefix is not None:
            names = {old: name.removeprefix(prefix) for old, name in names.items()}
        elif any("._orig_mod." in name for name in names.values()):  # of compiled submodules
            prefix, names = "_orig_mod.", {old: name.replace("._orig_mod.", ".") for old, name in names.items()}
        else:
            return tensors, []
        removed_prefixes.append(prefix)
    renamed = {name: tensors[old] for old, name in names.items()}
    return renamed, [f"'{''.join(removed_prefixes)}' is removed from the names"] * bool(removed_prefixes)


def _keep_own_state(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """With the network's own values for neuron state that does not match and for buffers newer than the file."""
    state = [name for name in buffers if _last(name) in NEURON_STATE_BUFFERS]
    kept = dict(tensors)
    mismatched_state = [
        name
        for name in state
        if (name in kept) != (name in expected)
        or (name in kept and not is_lazy(expected[name]) and kept[name].shape != expected[name].shape)
    ]
    owners = {name.rpartition(".")[0] for name in kept}
    absent = [
        name
        for name in buffers
        if name in expected
        and name not in kept
        and _last(name) in OPTIONAL_BUFFERS
        and name.rpartition(".")[0] in owners
    ]
    overflown = [
        name
        for name, tensor in kept.items()
        if name in expected and _last(name) == "num_batches_tracked" and _overflown(tensor)
    ]
    for name in (*mismatched_state, *absent, *overflown):
        kept.pop(name, None)
        if name in expected:
            kept[name] = expected[name]
    notes = []
    if mismatched_state:
        notes.append(f"state of neurons is the network's own, not the file's ({_first_names(mismatched_state)})")
    if absent or overflown:
        notes.append(f"the network's own value is used for {_first_names([*absent, *overflown])}")
    return kept, notes


def _overflown(tensor: Tensor) -> bool:
    """True for a counter that overflowed when saved in 16 bits; it is not used at inference."""
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _convert_types(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """In the types of the network, if the kind of number is the same or integers stay exact."""
    converted, changed, inexact = dict(tensors), dict[tuple[torch.dtype, torch.dtype], int](), list[str]()
    for name, tensor in tensors.items():
        if name in expected and expected[name].shape != tensor.shape:  # reported by the caller; it may be of any size
            continue
        to = expected[name].dtype if name in expected else tensor.dtype
        if to == tensor.dtype or torch.bool in (to, tensor.dtype) or to.is_complex or tensor.is_complex():
            continue
        is_integer = not tensor.is_floating_point()
        new = tensor.to(to)
        if (is_integer or not to.is_floating_point) and not torch.equal(new.to(tensor.dtype), tensor):
            if is_integer:
                inexact.append(name)
            continue
        converted[name] = new
        changed[tensor.dtype, to] = changed.get((tensor.dtype, to), 0) + 1
    if inexact:
        raise CheckpointError(f"{path}: whole numbers too large for the network's type, in: {_first_names(inexact)}")
    return converted, [_conversion_note(before, after, count) for (before, after), count in changed.items()]


def _conversion_note(before: torch.dtype, after: torch.dtype, count: int) -> str:
    old, new = (str(dtype).removeprefix("torch.") for dtype in (before, after))
    if not before.is_floating_point:
        return f"{old} weights ({_tensors(count)}) are used unscaled as {new}"
    return f"{old} weights ({_tensors(count)}) are used as {new}"


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' * (count != 1)}"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
