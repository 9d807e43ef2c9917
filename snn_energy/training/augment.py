"""Augmentation in a few tensor lines. Shapes: images (B, C, H, W).

Every random number is drawn for the whole batch, regardless of how processes divide it, so that the result depends
only on the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snn_energy.training.recipe import Recipe

ASPECTS = (3 / 4, 4 / 3)  # of random crops, width over height, as usual for ImageNet


@dataclass(frozen=True)
class AugmentationDraws:
    """The random choices for one batch of B images; None: not requested.

    crops (B, 4), shares of the image; shifts (2, B, 1), pixels down and right from the padded corner; flips (B,);
    cutout_corners (2, B, 1), of the square that is cut out; mixup_share: the share of an image's partner in the mix.
    """

    crops: NDArray[np.float64] | None
    shifts: Tensor | None
    flips: Tensor | None
    cutout_corners: Tensor | None
    mixup_share: float | None


def draw_augmentation(recipe: Recipe, count: int, generator: torch.Generator) -> AugmentationDraws:
    """Choices for ``count`` images, drawn in a fixed order."""
    largest, side = recipe.shift_pixels, recipe.cutout_pixels
    return AugmentationDraws(
        crops=None if recipe.crop_scale is None else _crops(count, recipe.crop_scale, generator),
        shifts=torch.randint(2 * largest + 1, (2, count, 1), generator=generator) if largest else None,
        flips=torch.rand(count, generator=generator) < 0.5 if recipe.flip else None,
        cutout_corners=torch.randint(1 - side, recipe.model.image_size, (2, count, 1), generator=generator)
        if side
        else None,
        mixup_share=_beta(recipe.mixup, generator) if recipe.mixup else None,
    )


def augment(images: Tensor, draws: AugmentationDraws, positions: Tensor, recipe: Recipe) -> Tensor:
    """Shift, flip and cut out. images: those at the ``positions`` (B',) of the batch, some or all."""
    device = images.device
    if draws.shifts is not None:
        images = shifted(images, draws.shifts[:, positions].to(device), recipe.shift_pixels)
    if draws.flips is not None:
        images = torch.where(draws.flips[positions].to(device)[:, None, None, None], images.flip(3), images)
    if draws.cutout_corners is not None:
        images = cut_out(images, draws.cutout_corners[:, positions].to(device), recipe.cutout_pixels)
    return images


def shifted(images: Tensor, corners: Tensor, largest: int) -> Tensor:
    """Each image moved by up to ``largest`` pixels, filled with zeros. corners: (2, B, 1) in 0..2*largest."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (largest,) * 4)
    rows = (corners[0] + torch.arange(height, device=images.device))[:, None, :, None]  # (B, 1, H, 1)
    columns = (corners[1] + torch.arange(width, device=images.device))[:, None, None, :]  # (B, 1, 1, W)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[batch, channel, rows, columns]


def cut_out(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """A square of ``side`` pixels set to 0, possibly partly outside. corners: (2, B, 1), from 1 - side."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = (rows >= corners[0]) & (rows < corners[0] + side)  # (B, H)
    in_columns = (columns >= corners[1]) & (columns < corners[1] + side)  # (B, W)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def mixup(images: Tensor, labels: Tensor, share: float, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup: each image and label with its partner, the one at the mirrored position in the batch.

    labels: (B,) -> (B, classes) shares. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.
    """
    targets = functional.one_hot(labels, classes).to(images.dtype)
    return images.lerp(images.flip(0), share), targets.lerp(targets.flip(0), share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), by a NumPy generator that the given one seeds."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _crops(count: int, scale: list[float], generator: torch.Generator) -> NDArray[np.float64]:
    """(count, 4) left, top, right, bottom as shares of a square image: area and aspect at random, place at random."""
    u = torch.rand(4, count, generator=generator, dtype=torch.float64)
    area = scale[0] + (scale[1] - scale[0]) * u[0]
    low, high = (math.log(aspect) for aspect in ASPECTS)
    root = (low + (high - low) * u[1]).exp().sqrt()
    width, height = (area.sqrt() * root).clamp_max(1), (area.sqrt() / root).clamp_max(1)
    left, top = (1 - width) * u[2], (1 - height) * u[3]
    return torch.stack([left, top, left + width, top + height], dim=1).numpy()
