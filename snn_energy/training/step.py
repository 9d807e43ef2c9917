"""One step of the optimiser: images, losses, gradients, projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import RecipeError
from snn_energy.datasets.images import Images
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers
from snn_energy.models.vit import VisionTransformer
from snn_energy.running.processes import Processes
from snn_energy.training.augment import AugmentationDraws, augment, draw_augmentation, mixup
from snn_energy.training.losses import cross_entropy, hoyer_loss, mask_loss, tet_loss
from snn_energy.training.recipe import Recipe
from snn_energy.training.run_files import RunState

LEAST_THRESHOLD = 0.01  # of a Hoyer neuron, whose potentials are divided by it


@dataclass(frozen=True)
class _Batch:
    """One batch on its way to the device: this process's part of ``count`` images."""

    count: int
    positions: Tensor
    draws: AugmentationDraws
    pixels: Tensor
    labels: Tensor
    generator_state: Tensor  # after this batch's draws


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Three groups: weights (decayed), norms and biases (not), TP (its own learning rate, not decayed)."""
    named, optimiser_options = list(model.named_parameters()), recipe.optimiser
    scores = [p for name, p in named if name.endswith(".tp")]
    weights = [p for _, p in named if p.dim() > 1]
    others = [p for name, p in named if p.dim() <= 1 and not name.endswith(".tp")]
    groups: list[dict[str, Any]] = [
        {"params": weights, "peak_lr": optimiser_options.learning_rate, "weight_decay": optimiser_options.weight_decay},
        {"params": others, "peak_lr": optimiser_options.learning_rate, "weight_decay": 0.0},
    ]
    if scores:
        groups.append({"params": scores, "peak_lr": optimiser_options.tp_learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=optimiser_options.learning_rate, fused=True)


def learning_rate_share(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): a linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def batches_ahead(
    run: RunState, recipe: Recipe, images: Images, chunks: tuple[Tensor, ...], group: Processes
) -> Iterator[_Batch]:
    """The remaining batches, each read by a thread while the one before is processed."""

    def prepare(batch_indices: Tensor) -> Callable[[], _Batch]:
        draws = draw_augmentation(recipe, len(batch_indices), run.generator)
        positions, state = group.part(len(batch_indices)), run.generator.get_state()
        own_indices = batch_indices[positions].numpy()
        crops = None if draws.crops is None else draws.crops[positions.numpy()]

        def read() -> _Batch:
            pixels, labels = (
                torch.from_numpy(images.batch(own_indices, crops)),
                torch.from_numpy(images.labels[own_indices]),
            )
            if group.device.type == "cuda":  # so that their copies to the device are asynchronous
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            return _Batch(len(batch_indices), positions, draws, pixels, labels, state)

        return read

    with ThreadPoolExecutor(1) as reader:
        upcoming = None
        for batch_indices in chunks[run.next_batch :]:
            current, upcoming = upcoming, reader.submit(prepare(batch_indices))
            if current is not None:
                yield current.result()
        if upcoming is not None:
            yield upcoming.result()


def training_step(run: RunState, recipe: Recipe, batch: _Batch, group: Processes) -> Tensor:
    """One step of the optimiser; returns this process's share of EPOCH_SUMS over the batch's images, (4,) float64."""
    labels = batch.labels.to(group.device, non_blocking=True)
    images = batch.pixels.to(group.device, non_blocking=True)
    images, targets = augment(images, batch.draws, batch.positions, recipe), labels
    if batch.draws.mixup_share is not None:
        images, targets = mixup(images, labels, batch.draws.mixup_share, recipe.model.num_classes)
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    tet, smoothing, model = recipe.tet_loss, recipe.label_smoothing, run.model
    try:
        with torch.autocast(group.device.type, torch.bfloat16, enabled=run.precision == torch.bfloat16):
            steps = model.forward_steps(images).float() if tet and not isinstance(model, VisionTransformer) else None
            logits = model(images).float() if steps is None else steps.mean(0)
    except ValueError as error:  # raised by BatchNorm for a single value
        raise RecipeError(
            f"{recipe.name}: a batch of {batch.count} is too small for BatchNorm ({error}); "
            "choose a batch_size that leaves more images in the last batch"
        ) from error
    entropy = cross_entropy(logits, targets, smoothing, batch.count)
    classification_loss = entropy
    if tet is not None and steps is not None:
        classification_loss = tet_loss(steps, targets, smoothing, batch.count, tet.weight, tet.target)
    mask_term, hoyer_term = torch.zeros((), device=group.device), torch.zeros((), device=group.device)
    if group.is_first and recipe.mask_loss is not None:  # only once, because processes are summed
        mask_term = mask_loss(model, list(recipe.mask_loss.groups)) * recipe.mask_loss.weight
    if recipe.hoyer_loss is not None:
        hoyer_term = hoyer_loss(model) * recipe.hoyer_loss.weight
    loss = classification_loss + mask_term + hoyer_term
    run.optimiser.zero_grad()
    loss.backward()
    group.add_up_gradients(model)
    if recipe.optimiser.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimiser.clip_norm)
    run.optimiser.step()
    _clamp_parameters(model)
    means = torch.stack([value.detach().double() for value in (loss, entropy, mask_term)]) * batch.count
    target_classes = labels if targets is labels else targets.argmax(1)  # of a mix: the larger share
    hits = (logits.detach().argmax(1) == target_classes).sum().double()
    return torch.cat([means, hits[None]])


def check_finite(weights: dict[str, Tensor], loss: float, recipe: Recipe, epoch: int) -> None:
    """Raise RecipeError if training has diverged; otherwise NaN weights would look like a network without spikes."""
    finite = all(bool(torch.isfinite(value).all()) for value in weights.values())
    if not (finite and math.isfinite(loss)):
        raise RecipeError(
            f"{recipe.name}: training diverged in epoch {epoch} (loss or weights are not finite); "
            "lower optimiser.learning_rate or scale the images to about 0..1"
        )


def _clamp_parameters(model: nn.Module) -> None:
    """Clamp TP to at least 0, and trained thresholds to at least ``LEAST_THRESHOLD``, after the optimiser's step."""
    with torch.no_grad():
        for layer in spiking_layers(model).values():
            if isinstance(layer, DTSS):
                layer.tp.clamp_min_(0)
            if layer.rule == "hoyer":
                layer.threshold.clamp_min_(LEAST_THRESHOLD)
