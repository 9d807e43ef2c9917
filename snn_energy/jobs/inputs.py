"""The inputs of a profile: a network, and data in the shape that it expects.

A network comes from a checkpoint with metadata, from a checkpoint and a registry name or a reference, from a reference
only, or from a NIR graph. Data come from NAME:PATH, or from a reference that returns batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_energy.core.errors import CheckpointError, DataError
from snn_energy.datasets.digits import BUNDLED, DIGITS_PIXELS
from snn_energy.datasets.events import EventSet, load_events
from snn_energy.datasets.images import Images, check_labels
from snn_energy.datasets.names import EVENT_DATASETS, parse_data
from snn_energy.datasets.npz import npz_shape
from snn_energy.datasets.open import load_images
from snn_energy.datasets.rescaled import Normalisation, rescaled
from snn_energy.jobs.references import build_loader, build_model, is_reference

if TYPE_CHECKING:
    from torch import nn

CIFAR_PIXELS = 32


def open_network(
    checkpoint: str | Path | None,
    model: str | None = None,
    *,
    arguments: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    ema: bool = False,
) -> nn.Module:
    """The network to profile, on the CPU, in eval mode.

    checkpoint: weights, or a .nir graph; None: the weights of the referenced network. model: a registry name (with
    ``options`` of ``create_model``) or a reference (with ``arguments`` of its function); None if the checkpoint's
    metadata name it. ema: see ``load_checkpoint``. Raises CheckpointError, ModelError.
    """
    from snn_energy.checkpoints.checkpoint import load_checkpoint

    if checkpoint is not None and Path(checkpoint).suffix == ".nir":
        if model is not None or ema:
            raise CheckpointError(
                f"{checkpoint}: a NIR graph defines its own network; leave model= (--model) and ema out"
            )
        from snn_energy.checkpoints.nir.graph import load_nir

        return load_nir(checkpoint, **(arguments or {}))
    if model is None or not is_reference(model):
        if arguments and model is None:
            raise CheckpointError(f"--model-args ({', '.join(arguments)}): only with --model")
        if checkpoint is None:
            raise CheckpointError(f"{model or 'no network'}: weights are needed; give a checkpoint, or a reference")
        given = {**(options or {}), **(arguments or {})}
        return _with_assumption_note(load_checkpoint(checkpoint, model, ema=ema, **given), model, given)
    network: nn.Module = build_model(model, arguments)
    if checkpoint is not None:
        return load_checkpoint(checkpoint, network, ema=ema)
    if ema:
        raise CheckpointError(f"{model}: ema= (--ema) chooses among the weights of a checkpoint; give one")
    network.__dict__.setdefault(
        "snn_energy_checkpoint", {"checkpoint": None, "weights": f"as {Path(model).name} gives them"}
    )
    return network.eval()


def _with_assumption_note(network: nn.Module, model: str | None, given: dict[str, Any]) -> nn.Module:
    """Add a checkpoint note if the number of heads, which the weights do not determine, was assumed."""
    heads = getattr(getattr(network, "config", None), "heads", None)
    known = network.__dict__.get("snn_energy_checkpoint")
    if model is not None and heads is not None and "heads" not in given and known is not None:
        note = f"heads: {heads} assumed, the weights do not tell (--model-args heads=N)"
        known["checkpoint_notes"] = [*known.get("checkpoint_notes", []), note]
    return network


@dataclass(frozen=True)
class EventOptions:
    """How recordings are converted to frames; see ``events.to_frames``."""

    by: Any = "time"
    step_us: int | None = None
    values: Any = "count"
    cut: bool = False


def open_data(
    spec: str,
    network: Any,
    *,
    samples: int | None = None,
    time_steps: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    divisor: float | None = None,
    normalisation: Normalisation | None = None,
    events: EventOptions | None = None,
) -> Images | EventSet:
    """The test split of ``NAME:PATH`` in the shape that a network expects.

    image_size, in_channels: for a network whose ``config`` lacks them; default: those of the data. divisor: every
    value of an image is divided by it, before ``normalisation``. time_steps: frames per event recording. Raises
    DataError.
    """
    name, path = parse_data(spec)
    if name in EVENT_DATASETS:
        if time_steps is None:
            raise DataError(
                f"{spec}: recordings are cut into frames; give their number with time_steps= (--time-steps)"
            )
        if divisor is not None:
            raise DataError(f"{spec}: events are counted, not divided; leave --divide-by out")
        if normalisation is not None:
            raise DataError(
                f"{spec}: events are counted, not normalised; leave --mean, --std and --normalize out, or give frames "
                "of your own: --data FILE.py:LOADER"
            )
        options = events or EventOptions()
        return load_events(
            spec, "test", time_steps, by=options.by, step_us=options.step_us, values=options.values, cut=options.cut,
            samples=samples,
        )  # fmt: skip
    if events is not None and events != EventOptions():
        raise DataError(f"{spec}: is a set of images, not recordings; leave the event options out")
    config = getattr(network, "config", None)
    shape = (getattr(config, "image_size", None), getattr(config, "in_channels", None))
    if not all(isinstance(value, int) for value in shape):
        shape = _data_shape(name, path)
    size, channels = image_size or shape[0], in_channels or shape[1]
    if size is None or channels is None:
        raise DataError(
            f"{spec}: the image size is unknown, as the network does not define it; give --image-size and --in-channels"
        )
    images = load_images(spec, "test", size, channels, samples)
    classes = getattr(config, "num_classes", None)
    if isinstance(classes, int):
        check_labels(images, classes)
    return rescaled(images, channels, divisor, normalisation)


def _data_shape(name: str, path: Path | None) -> tuple[int | None, int | None]:
    """(image size, channels) of a data set; None if they can differ between its files."""
    if name == BUNDLED:
        return DIGITS_PIXELS, 1
    if name == "npz" and path is not None:
        return npz_shape(path)
    return (None, 3) if name == "folder" else (CIFAR_PIXELS, 3)


def is_data_reference(spec: str) -> bool:
    """True if ``--data`` names the user's own code: file.py:function or package.module:function."""
    module_or_file = spec.rpartition(":")[0]
    return module_or_file.endswith(".py") or "." in module_or_file.partition(":")[0]


def open_batches(spec: str) -> Iterable[Any]:
    """The batches that a reference returns, unchanged. Raises DataError."""
    return build_loader(spec)
