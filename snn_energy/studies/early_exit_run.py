"""Early exit of a network: logits of every step, counts with a head at every step, the table of a checkpoint.

``analysis.exit_energy`` has the method and its source, and prices the counts without running a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from snn_energy.analysis.exit_energy import FloatArray, IntArray, check_threshold, exit_table, stop_steps
from snn_energy.core.errors import ModelError
from snn_energy.counts.counts import Counts
from snn_energy.datasets.rescaled import Normalisation
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile

if TYPE_CHECKING:
    from torch import nn


def step_logits(model: nn.Module, loader: Iterable[Any], on_batch: Callable[[int], None] | None = None) -> FloatArray:
    """Logits of every time step (T, samples, classes), in eval mode; the model's own mode is restored.

    model: one with ``forward_steps(x) -> (T, B, classes)``, as the spiking networks of the registry have it.
    loader: x or (x, y) batches. Raises ModelError for a network without logits per step, or without samples.
    """
    import torch

    forward_steps, found, done = _forward_steps(model), [], 0
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                x = batch[0] if isinstance(batch, (list, tuple)) else batch
                if not len(x):
                    continue
                found.append(np.asarray(_checked_logits(forward_steps(x), model, len(x)).double().cpu().numpy()))
                done += len(x)
                if on_batch is not None:
                    on_batch(done)
    finally:
        model.train(training)
    if not found:
        raise ModelError("early exit: the loader gave no samples")
    return np.concatenate(found, axis=1)


def profile_steps(model: nn.Module, loader: Iterable[Any], **options: Any) -> Counts:
    """``snn_energy.profile`` of the network as early exit runs it: the head runs at every step, not once at the end.

    options: those of ``profile``. Raises ModelError for a network without logits per step, and what ``profile`` raises.
    """
    from snn_energy.profiler.run import profile

    with _head_at_every_step(model):
        return profile(model, loader, **options)


def exit_steps(model: nn.Module, loader: Iterable[Any], threshold: float) -> IntArray:
    """(samples,) the number of time steps, 1 to T, that each sample of the loader runs. See ``stop_steps``."""
    return stop_steps(step_logits(model, loader), threshold)


def early_exit_of_checkpoint(
    path: str | Path,
    data: str,
    samples: int | None,
    *,
    thresholds: Sequence[float],
    hardware: str | Path | HardwareProfile,
    batch_size: int = 60,
    on_batch: Callable[[int], None] | None = None,
    normalisation: Normalisation | None = None,
    **policies: Any,
) -> pd.DataFrame:
    """``exit_table`` of an snn_energy checkpoint over the test split of a data set. Raises SnnEnergyError."""
    import torch

    from snn_energy.checkpoints.checkpoint import load_checkpoint
    from snn_energy.datasets.images import batches, check_labels
    from snn_energy.datasets.open import load_images
    from snn_energy.datasets.rescaled import rescaled

    for threshold in thresholds:
        check_threshold(threshold)
    device = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    network: Any = load_checkpoint(path)
    _forward_steps(network)
    config = network.config
    images = load_images(data, "test", config.image_size, config.in_channels, samples)
    images = rescaled(images, config.in_channels, normalisation=normalisation)
    check_labels(images, config.num_classes)

    def loader() -> Iterator[tuple[Any, Any]]:
        return ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches(images, batch_size))

    logits = step_logits(network, loader())
    with torch.inference_mode():
        counts = profile_steps(network, loader(), on_batch=on_batch)
    return exit_table(counts, logits, images.labels, thresholds, device, **policies)


def _forward_steps(model: nn.Module) -> Callable[[Any], Any]:
    found = getattr(model, "forward_steps", None)
    if not callable(found):
        raise ModelError(
            f"a {type(model).__name__} gives no logits per time step, which early exit needs; give it a method "
            "forward_steps(x) -> (T, B, classes)"
        )
    return found  # type: ignore[no-any-return]


def _checked_logits(out: Any, model: nn.Module, samples: int) -> Any:
    """Logits of one batch. Raises ModelError if they are not (T, B, classes)."""
    steps = getattr(model, "time_steps", None)
    shape = tuple(getattr(out, "shape", ()))
    if len(shape) != 3 or shape[1] != samples or (isinstance(steps, int) and shape[0] != steps):
        wanted = f"({steps if isinstance(steps, int) else 'T'}, {samples}, classes)"
        raise ModelError(f"{type(model).__name__}.forward_steps must give {wanted}, not {shape or type(out).__name__}")
    return out


@contextmanager
def _head_at_every_step(model: nn.Module) -> Iterator[None]:
    """Within this context, calling the model returns the logits of every step."""
    forward_steps, own = _forward_steps(model), model.__dict__.get("forward")
    model.__dict__["forward"] = forward_steps
    try:
        yield
    finally:
        del model.__dict__["forward"]
        if own is not None:
            model.__dict__["forward"] = own
