"""Accuracy, and what a network's DTSS layers have learned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from snn_energy.core.files import require_distinct_paths
from snn_energy.datasets.images import Images, check_labels
from snn_energy.datasets.names import parse_data
from snn_energy.datasets.open import load_images
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers
from snn_energy.running.processes import Processes
from snn_energy.training.run_files import Network, checkpoint_output

TEST_BATCH = 120


def accuracy(model: nn.Module, images: Images, batch_size: int = TEST_BATCH) -> float:
    """Share of images (0..1) whose largest logit is their label; the model's mode is restored."""
    single_process = Processes(0, 1, next(model.parameters(), torch.zeros(())).device)
    return shared_accuracy(model, images, single_process, batch_size) or 0.0


def shared_accuracy(model: nn.Module, images: Images | None, group: Processes, size: int = TEST_BATCH) -> float | None:
    """``accuracy`` in float32, the batches divided among the processes; None without images."""
    if images is None:
        return None
    was_training = model.training
    model.eval()
    hits, count = torch.zeros(1, device=group.device), len(images.labels)
    with torch.inference_mode():
        for start in list(range(0, count, size))[group.rank :: group.size]:
            indices = np.arange(start, min(start + size, count))
            logits = model(torch.from_numpy(images.batch(indices)).to(group.device))
            hits += (logits.argmax(1).cpu() == torch.from_numpy(images.labels[indices])).sum().to(group.device)
    model.train(was_training)
    return int(group.add_up(hits)) / count


def to_float16(checkpoint: str | Path, data: str, output: str | Path) -> tuple[float, float]:
    """Write a checkpoint with 16-bit weights; returns its accuracy (0..1) on the test split before and after.

    The metadata hold the one after as ``test_accuracy``, the one before as ``test_accuracy_32_bit``. SnnEnergyError.
    """
    output, data_path = checkpoint_output(output), parse_data(data)[1]
    require_distinct_paths([output], [Path(found) for found in (checkpoint, data_path) if found is not None])
    network: Any = load_checkpoint(checkpoint)
    metadata = read_metadata(checkpoint)
    config = network.config
    images = load_images(data, "test", config.image_size, config.in_channels)
    check_labels(images, config.num_classes)
    before = accuracy(network, images)
    with tempfile.TemporaryDirectory() as folder:
        temporary_file = Path(folder) / "trial.safetensors"
        save_checkpoint(temporary_file, network, {}, half=True)
        after = accuracy(load_checkpoint(temporary_file), images)
    test_metadata = {"test_accuracy": after, "test_accuracy_32_bit": before, "weights": "16-bit floats"}
    save_checkpoint(output, network, metadata | test_metadata, half=True)
    return before, after


def active_steps_by_layer(model: Network) -> dict[str, int]:
    """T_l of every spiking layer; T_max for a plain LIF; empty for a network that does not spike."""
    return {name: int(layer.time_step_mask(model.time_steps).sum()) for name, layer in spiking_layers(model).items()}


def dead_layers(model: Network) -> tuple[str, ...]:
    """Spiking layers without an active time step (T_l = 0)."""
    return tuple(name for name, steps in active_steps_by_layer(model).items() if steps == 0)


def layers_held_by_floor(model: nn.Module) -> tuple[str, ...]:
    """DTSS layers whose first score is below 1, so that only ``min_steps`` keeps them active."""
    return tuple(
        name
        for name, layer in spiking_layers(model).items()
        if isinstance(layer, DTSS) and layer.min_steps > 0 and float(layer.scores()[0].detach()) < 1
    )
