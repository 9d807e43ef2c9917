"""Images as a network was trained on them: values divided by one number, then normalised channel by channel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_energy.core.errors import DataError
from snn_energy.datasets.images import Images, Indices

_RGB = "0.485,0.456,0.406"


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std, one number per channel. source: where the numbers come from."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = "given"

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"(x - mean) / std, mean {mean}, std {std} ({self.source})"

    def header(self) -> dict[str, Any]:
        """The entry in the header of counts."""
        return {"mean": list(self.mean), "std": list(self.std), "source": self.source}


# For pixels of 0..1. Those of CIFAR and MNIST are mean and standard deviation of all pixels of the training images.
PUBLISHED_NORMALISATIONS = {
    "cifar10": Normalisation(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "CIFAR-10's training images; as Spikformer's cifar10.yml"
    ),
    "cifar100": Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "CIFAR-100's training images"),
    "imagenet": Normalisation(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet, as torchvision's and timm's pretrained weights"
    ),
    "mnist": Normalisation((0.1307,), (0.3081,), "MNIST's training images; as PyTorch's example of MNIST"),
}


def make_normalisation(mean: str | None, std: str | None, name: str | None = None) -> Normalisation | None:
    """The normalisation of ``--mean`` and ``--std``, or of a name; None if nothing is given. Raises DataError."""
    if name is not None:
        return PUBLISHED_NORMALISATIONS[name]
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, other = ("--std", "--mean") if mean is None else ("--mean", "--std")
        raise DataError(f"{given} without {other}; give both, or a name with --normalize")
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    if len(means) != len(stds):
        raise DataError(f"--mean has {len(means)} numbers and --std {len(stds)}; give one per channel to both")
    if min(stds) <= 0:
        raise DataError(f"--std {std}: {min(stds):g} is not above 0; give the standard deviation of every channel")
    return Normalisation(means, stds)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """``"0.5,0.25"`` -> (0.5, 0.25). Raises DataError."""
    found = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{option} {text}: '{word}' is not a number; write one per channel, such as {_RGB}")
        found.append(value)
    return tuple(found)


@dataclass(frozen=True)
class RescaledImages:
    """Images with every value divided by one number, such as 255 for a file of bytes, and then normalised."""

    images: Images
    divisor: float | None = None
    normalisation: Normalisation | None = None

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name

    @property
    def split(self) -> str:
        """The split of the images."""
        return self.images.split

    @property
    def note(self) -> str:
        """The note of the images, with what is done to their values."""
        divided = "" if self.divisor is None else f"; values / {self.divisor:g}"
        return self.images.note + divided + ("" if self.normalisation is None else f"; {self.normalisation}")

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the images."""
        return self.images.labels

    def batch(self, indices: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W)."""
        values = self.images.batch(indices, crops)
        if self.divisor is not None:
            values = values / np.float32(self.divisor)
        if self.normalisation is not None:
            mean, std = (
                np.array(v, np.float32)[:, None, None] for v in (self.normalisation.mean, self.normalisation.std)
            )
            values = (values - mean) / std
        return values

    def first(self, samples: int) -> RescaledImages:
        """The first ``samples`` images."""
        return replace(self, images=self.images.first(samples))

    def fingerprint(self) -> bytes:
        """The fingerprint of the images, with what is done to their values."""
        return self.images.fingerprint() + repr((self.divisor, self.normalisation)).encode()


def rescaled(
    images: Images, channels: int, divisor: float | None = None, normalisation: Normalisation | None = None
) -> Images:
    """The images, divided and normalised. Raises DataError for other channels, or a divisor of 0 or less."""
    if divisor is not None and not (divisor > 0 and np.isfinite(divisor)):
        raise DataError(f"{images.name}: the divisor must be a finite number above 0, not {divisor:g}")
    if normalisation is not None and len(normalisation.mean) != channels:
        names = [name for name, known in PUBLISHED_NORMALISATIONS.items() if len(known.mean) == channels]
        also = f", or --normalize {' or '.join(names)}" if names else ""
        one = ",".join(["M"] * channels), ",".join(["S"] * channels)
        raise DataError(
            f"{images.name}: the images have {channels} channel{'s' * (channels != 1)}, the normalisation has "
            f"{len(normalisation.mean)}; give as many: --mean {one[0]} --std {one[1]}{also}"
        )
    return images if divisor is None and normalisation is None else RescaledImages(images, divisor, normalisation)
