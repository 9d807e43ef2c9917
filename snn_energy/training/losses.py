"""The training loss: cross entropy or TET, plus the mask loss, plus the Hoyer regulariser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_energy.core.groups import layer_group
from snn_energy.models.neurons import DTSS
from snn_energy.models.spikformer import spiking_layers


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, count: int) -> Tensor:
    """Cross entropy summed over the given images, divided by ``count``: a scalar.

    logits: (B, classes); targets: (B,) classes or (B, classes) shares; count: images of the whole batch, part of which
    other processes may hold.
    """
    if not len(logits):
        return logits.sum()  # a process without a share of the last, small batch
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing) * (len(logits) / count)


def tet_loss(logits: Tensor, targets: Tensor, smoothing: float, count: int, weight: float, target: float) -> Tensor:
    """Temporal efficient training: (1 - weight) * mean over t of CE_t + weight * MSE of the logits to ``target``.

    logits: (T, B, classes). Deng et al., ICLR 2022, Eq. 10 and 11.
    """
    steps, _, classes = logits.shape
    entropy = torch.stack([cross_entropy(step, targets, smoothing, count) for step in logits]).mean()
    spread = (logits - target).square().sum() / (steps * count * classes)
    return (1 - weight) * entropy + weight * spread


def mask_loss(model: nn.Module, groups: list[str]) -> Tensor:
    """Sum of TM_l^t over the DTSS layers of the groups and all time steps: a scalar, 0 if there are none."""
    masks = [
        layer.time_step_mask(layer.max_steps).sum()
        for name, layer in spiking_layers(model).items()
        if isinstance(layer, DTSS) and layer_group(name) in groups
    ]
    return torch.stack(masks).sum() if masks else torch.zeros(())


def hoyer_loss(model: nn.Module) -> Tensor:
    """Sum of the Hoyer regularisers of the last forward over all layers with rule ``hoyer``; 0 if there are none."""
    terms = [layer.hoyer_loss for layer in spiking_layers(model).values() if layer.hoyer_loss is not None]
    return torch.stack(terms).sum() if terms else torch.zeros(())
