"""Labelled images in memory or on disk: the protocol, an in-memory set, subsets, batches, checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from snn_energy.core.errors import DataError

Split = Literal["train", "test"]
Indices = NDArray[np.int64]


class Images(Protocol):
    """One split of a data set, in memory or on disk."""

    @property
    def name(self) -> str:
        """The name in counts and checkpoints, without a path."""

    @property
    def split(self) -> str:
        """train or test."""

    @property
    def note(self) -> str:
        """Origin and scale of the values."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes, counted from 0."""

    def batch(self, indices: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W). crops: (B, 4) left, top, right, bottom as shares of the image. DataError."""

    def first(self, samples: int) -> Images:
        """The first ``samples`` images."""

    def fingerprint(self) -> bytes:
        """A digest of labels and images (of files: names and sizes); it differs for other data."""


@dataclass(frozen=True)
class ImageSet:
    """Images in memory: (N, C, H, W) float32, or uint8 that ``batch`` divides by 255; labels (N,) int64."""

    name: str
    split: str
    images: NDArray[np.float32] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    note: str

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W) float32. Raises DataError for crops, which need images in files."""
        if crops is not None:
            raise DataError(f"{self.name}: crop_scale needs images in files (folder:PATH); use shift_pixels")
        found = self.images[indices]
        return found.astype(np.float32) / np.float32(255) if found.dtype == np.uint8 else found.astype(np.float32)

    def fingerprint(self) -> bytes:
        """SHA-256 of labels and pixels."""
        return hashlib.sha256(self.labels.tobytes() + np.ascontiguousarray(self.images).tobytes()).digest()

    def first(self, samples: int) -> ImageSet:
        """The first ``samples`` images."""
        return replace(
            self, images=self.images[:samples], labels=self.labels[:samples], note=first_samples_note(self, samples)
        )


@dataclass(frozen=True)
class Subset:
    """Some images of a split, in a given order."""

    parent: Images
    indices: Indices

    @property
    def name(self) -> str:
        """The name of the parent split."""
        return self.parent.name

    @property
    def split(self) -> str:
        """The split of the parent: train or test."""
        return self.parent.split

    @property
    def note(self) -> str:
        """The note of the parent split, and the number of images."""
        return f"{len(self.indices)} of {len(self.parent.labels)}; {self.parent.note}"

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""
        return self.parent.labels[self.indices]

    def batch(self, indices: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices into the subset -> (B, C, H, W)."""
        return self.parent.batch(self.indices[indices], crops)

    def fingerprint(self) -> bytes:
        """SHA-256 of the parent split's fingerprint and the indices."""
        return hashlib.sha256(self.parent.fingerprint() + self.indices.tobytes()).digest()

    def first(self, samples: int) -> Subset:
        """The first ``samples`` images."""
        return replace(self, indices=self.indices[:samples])


def held_out(images: Images, count: int) -> tuple[Images, Images]:
    """(the others, ``count`` images: each class in proportion, spread over the split). DataError for too many."""
    total = len(images.labels)
    if not 0 < count < total:
        raise DataError(f"{images.name}: {count} of {total} {images.split} images cannot be held out; hold out fewer")
    by_class = np.argsort(images.labels, kind="stable")  # every n-th image could miss classes that take turns
    indices = np.sort(by_class[np.arange(count) * total // count])
    return Subset(images, np.setdiff1d(np.arange(total), indices)), Subset(images, indices)


def check_labels(images: Images, n_classes: int) -> None:
    """Raise DataError if a label is outside 0..n_classes-1."""
    labels = images.labels
    wrong = int(((labels < 0) | (labels >= n_classes)).sum())
    if wrong:
        raise DataError(
            f"{images.name}: labels run from {labels.min()} to {labels.max()}, but the model has {n_classes} classes "
            f"(0..{n_classes - 1}); {wrong} of {len(labels)} lie outside; choose a model with enough classes"
        )


class LabelledSamples(Protocol):
    """Labelled samples that come in batches: images, or recordings of events."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        """(B,) indices -> samples, as the network reads them."""


def batches(samples: LabelledSamples, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """All samples in order, ``size`` at a time, and their labels (B,). Raises DataError."""
    order = np.arange(len(samples.labels))
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        yield samples.batch(indices), samples.labels[indices]


def require_shape(name: str | Path, found: tuple[int, ...], image_size: int, in_channels: int) -> None:
    """Raise DataError if images are not (in_channels, image_size, image_size)."""
    expected_shape = (in_channels, image_size, image_size)
    if found != expected_shape:
        raise DataError(
            f"{name}: the images are {shape_text(found)} (channels x height x width), "
            f"the model expects {shape_text(expected_shape)}"
        )


def first_samples_note(images: Images, samples: int) -> str:
    """The note for the first ``samples`` images."""
    return f"first {samples} of {len(images.labels)}; {images.note}"


def error_summary(error: Exception) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shape_text(shape: tuple[int, ...]) -> str:
    """``(3, 32, 32)`` -> ``3x32x32``."""
    return "x".join(map(str, shape)) or "a single number"
