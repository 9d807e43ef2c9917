"""Checkpoints: safetensors files with metadata, and safe loading of files from other sources.

Loading never runs code from a file; ``weights_file`` reads it and converts weights to the network's names and types.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snn_energy._version import __version__
from snn_energy.checkpoints.inert_pickle import existing_file
from snn_energy.checkpoints.weights_file import WeightsFile, fit_to_network, read_weights, why_not_safetensors
from snn_energy.core.errors import CheckpointError, ModelError, OutputError, nearest
from snn_energy.core.files import write_atomically
from snn_energy.models.cnn import Cnn, CnnConfig, make_cnn
from snn_energy.models.create import create_model
from snn_energy.models.names import CNNS
from snn_energy.models.neurons import DTSS
from snn_energy.models.public_spikformer import PublicSpikformer
from snn_energy.models.spikformer import Spikformer
from snn_energy.models.transformer_config import TransformerConfig
from snn_energy.models.vit import VisionTransformer

METADATA_KEY = "snn_energy"  # one key, one JSON text: the bytes of a file then depend only on its content
SCHEMA_VERSION = 1


def save_checkpoint(path: str | Path, model: nn.Module, metadata: dict[str, Any], *, half: bool = False) -> None:
    """Write a registry network as safetensors, whole or not at all.

    half: matrices and kernels as 16-bit floats, half the size; vectors (BatchNorm, biases, thresholds, and TP, whose
    masks depend on a comparison) are not converted. Raises CheckpointError for a weight too large for 16 bits.

    metadata: JSON values that describe the weights: data, split, seed, test_accuracy, recipe, mean, std,
    command. The architecture, its configuration and the versions are added. Raises CheckpointError for
    another kind of network, OutputError if the file cannot be written.
    """
    if not isinstance(model, Spikformer | PublicSpikformer | VisionTransformer | Cnn):
        raise CheckpointError(
            f"{path}: a {type(model).__name__} has no configuration to store; "
            "save its state_dict() with safetensors.torch.save_file and load it with model= (--model)"
        )
    document = {
        **metadata,
        "schema_version": SCHEMA_VERSION,
        "model": model.config.name,
        "config": asdict(model.config),
        "snn_energy_version": __version__,
        "torch_version": torch.__version__,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        large = [name for name, tensor in tensors.items() if tensor.dim() > 1 and tensor.abs().max() > 65504]
        if large:
            raise CheckpointError(f"{path}: too large for 16-bit floats, {_first_names('in', large)}; keep 32 bits")
        tensors = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps(document, sort_keys=True)}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # raised by safetensors if the disk is full
            raise OutputError(f"{path}: cannot be written ({error}); make room or choose another place") from error

    write_atomically(path, write)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a checkpoint written by ``save_checkpoint``. Raises CheckpointError."""
    document = _metadata_or_none(existing_file(path))
    if document is None:
        raise CheckpointError(f"{path}: holds no snn_energy metadata; specify the architecture with model= (--model)")
    return document


def load_checkpoint(
    path: str | Path, model: str | nn.Module | None = None, *, ema: bool = False, **options: Any
) -> nn.Module:
    """The network of a checkpoint, on the CPU, in eval mode. No code of the file is run.

    model: not needed for a file of ``save_checkpoint``. Else a registry name, with ``options`` of ``create_model``
    (image_size, num_classes, ...; heads and image_size cannot be checked against the weights), or a module, which is
    filled and returned. ema: the moving average of the weights if a file holds both. The network's attribute
    ``snn_energy_checkpoint`` holds name, sha256 and seed of training and, if there are any, ``checkpoint_notes``:
    what was chosen in the file, removed from the names, converted; they are passed on to counts. Raises
    CheckpointError; a given module is then unchanged.
    """
    file = existing_file(path)
    if options and not isinstance(model, str):
        raise CheckpointError(f"{path}: options ({', '.join(options)}) need model= as a registry name")
    document = _metadata_or_none(file) if file.suffix == ".safetensors" else None
    weights = read_weights(file, ema=ema, has_metadata=document is not None)
    if model is None and document is None:
        raise CheckpointError(
            f"{path}: bare weights without snn_energy metadata; specify their architecture with model= (--model) "
            "(a registry name and its options, or a module)"
        )

    def make_network() -> nn.Module:
        if document is not None and model is None:
            return _network_of(document, file)
        return create_model(str(model), **options)

    if isinstance(model, nn.Module):
        network = model
    else:
        with torch.device("meta"):  # shapes only: a wrong size in the file allocates no memory
            _check_match(weights, make_network(), file)
        network = make_network()
    fitted_weights = _check_match(weights, network, file)
    if document is not None and isinstance(model, str) and document.get("model") != model:
        raise CheckpointError(
            f"{path}: its metadata name a {document.get('model')}, not a {model}; leave model= (--model) out"
        )
    _check_values(fitted_weights.tensors, network, file)
    try:
        network.load_state_dict(fitted_weights.tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {type(network).__name__} cannot load these weights ({error})") from error
    # For the header of counts. A plain attribute: the origin of the weights at the time of loading.
    network.__dict__["snn_energy_checkpoint"] = {
        "checkpoint": file.name,
        "checkpoint_sha256": sha256_of(file),
        "seed": None if document is None else document.get("seed"),
        **({"checkpoint_notes": list(fitted_weights.notes)} if fitted_weights.notes else {}),
    }
    return network.eval()


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Raises CheckpointError if it is missing."""
    with existing_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata_or_none(path: Path) -> dict[str, Any] | None:
    """The snn_energy metadata of a safetensors file; None if it has none. Raises CheckpointError if damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {why_not_safetensors(path)} ({error})") from error
    if text is None:
        return None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its snn_energy metadata is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        found = document.get("schema_version") if isinstance(document, dict) else document
        raise CheckpointError(
            f"{path}: metadata of schema version {found!r}, this snn_energy reads {SCHEMA_VERSION}; "
            "load the weights with model= (--model)"
        )
    return document


def _network_of(document: dict[str, Any], path: Path) -> nn.Module:
    """Build the network that the metadata describe. Raises CheckpointError for an invalid field."""
    config = document.get("config")
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: its metadata hold no model configuration; specify the architecture with model= (--model)"
        )
    schema = CnnConfig if isinstance(config.get("family"), str) and config["family"] in CNNS else TransformerConfig
    known = {field.name for field in fields(schema)}
    required = {field.name for field in fields(schema) if field.default is MISSING}
    for key in config:
        if key not in known:
            raise CheckpointError(f"{path}: unknown key '{key}' in its model configuration{nearest(key, known)}")
    if required - set(config):
        missing = ", ".join(sorted(required - set(config)))
        raise CheckpointError(f"{path}: its model configuration lacks {missing}")
    try:
        parsed = schema(**config)
        if isinstance(parsed, CnnConfig):
            return make_cnn(parsed)
        parsed.validate()
        if parsed.family == "public-spikformer":
            return PublicSpikformer(parsed)
        return VisionTransformer(parsed) if parsed.family == "vit" else Spikformer(parsed)
    except (ModelError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: invalid model configuration: {error}") from error


def _check_match(weights: WeightsFile, network: nn.Module, path: Path) -> WeightsFile:
    """The weights fitted to the network. Raises CheckpointError if names, shapes or kinds of numbers differ."""
    fitted_weights = fit_to_network(weights, network, path)
    tensors = fitted_weights.tensors
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    mismatches = [
        _first_names("missing", [name for name in expected if name not in tensors]),
        _first_names("unexpected", [name for name in tensors if name not in expected]),
        _first_names(
            "of another shape",
            [
                f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
                for name in expected
                if name in tensors and not is_lazy(expected[name]) and tensors[name].shape != expected[name].shape
            ],
        ),
        _first_names(
            "of another type",
            [
                f"{name} {tensors[name].dtype} instead of {expected[name].dtype}"
                for name in expected
                if name in tensors and tensors[name].is_floating_point() != expected[name].is_floating_point()
            ],
        ),
    ]
    found = "; ".join(filter(None, mismatches))
    if found:
        config = getattr(network, "config", None)
        name = config.name if isinstance(config, TransformerConfig | CnnConfig) else type(network).__name__
        raise CheckpointError(f"{path}: not the weights of this {name}: {found}")
    return fitted_weights


def _first_names(what: str, names: list[str]) -> str:
    """``"missing: a, b, c and 4 more"``, or an empty text."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


def _as_float32(tensor: Tensor) -> Tensor:
    """Weights in single precision, as the network holds them."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_values(tensors: dict[str, Tensor], network: nn.Module, path: Path) -> None:
    """Raise CheckpointError for weights that are not finite and for negative TP."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(_as_float32(tensor)).all()]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinite weights, {_first_names('in', bad)}; train or save it again")
    scores = [f"{name}.tp" for name, module in network.named_modules() if isinstance(module, DTSS)]
    negative = [name for name in scores if (tensors[name] < 0).any()]
    if negative:
        raise CheckpointError(
            f"{path}: negative TP, {_first_names('in', negative)}; TP is kept at 0 or above (clamp it before saving)"
        )
