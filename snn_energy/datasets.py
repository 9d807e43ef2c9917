"""Images and labels under one name: ``NAME:PATH`` for training and profiling alike. No torch, no downloads.

Here: the bundled digits and the user's own .npz files. ``image_files.py`` reads packed JPEG files and class folders,
``cifar.py`` the official batches of CIFAR-10 and CIFAR-100.

The bundled set is the 1,797 optical digits of the UCI repository (the copy that scikit-learn ships): 8x8
pixels, grey levels 0..16, with a fixed stratified test split of 360 images drawn by
``numpy.random.default_rng(0)``. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998, CC BY 4.0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from snn_energy.errors import DataError, nearest

Split = Literal["train", "test"]
Indices = NDArray[np.int64]
DATASETS = {  # name -> what it is; all but the digits stand on the user's disk and are named with a path
    "digits": "1,797 optical digits of the UCI repository, 8x8, bundled (360 of them are the test split)",
    "cifar10": "CIFAR-10 as distributed: the folder cifar-10-batches-py or cifar-10-python.tar.gz",
    "cifar100": "CIFAR-100 as distributed: the folder cifar-100-python or cifar-100-python.tar.gz",
    "folder": "ImageNet's layout: PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG (or test)",
    "packed-jpeg": "an .npz with train_jpeg, train_offsets, train_labels and the same of test",
    "npz": "an .npz with images, labels and is_test",
}
EVENT_DATASETS = {  # recordings of event sensors, which have time: snn_energy.events reads them
    "nmnist": "N-MNIST as distributed: PATH/Test/DIGIT/*.bin, PATH/Train/DIGIT/*.bin; or files PATH/nmnist_DIGIT.bin",
}
BUNDLED = "digits"
DIGITS_PIXELS = 8
DIGITS_MAX = 16
_NPZ_HOLDS = "arrays images (N,H,W) or (N,C,H,W) and labels (N,), optionally is_test (N,) of booleans"


class Images(Protocol):
    """One split of a data set, in memory or on disk."""

    @property
    def name(self) -> str:
        """What counts and checkpoints call it; no path."""

    @property
    def split(self) -> str:
        """train or test."""

    @property
    def note(self) -> str:
        """Origin and scale of the values."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes, counted from 0."""

    def batch(self, chosen: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W). crops: (B, 4) left, top, right, bottom as shares of the image. DataError."""

    def first(self, samples: int) -> Images:
        """The first so many images."""

    def fingerprint(self) -> bytes:
        """A digest of labels and images (of files: names and sizes): other data, another digest."""


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

    def batch(self, chosen: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W) float32. Raises DataError for crops, which need images in files."""
        if crops is not None:
            raise DataError(f"{self.name}: crop_scale needs images in files (folder:PATH); use shift_pixels")
        found = self.images[chosen]
        return found.astype(np.float32) / np.float32(255) if found.dtype == np.uint8 else found.astype(np.float32)

    def fingerprint(self) -> bytes:
        """SHA-256 of labels and pixels."""
        return hashlib.sha256(self.labels.tobytes() + np.ascontiguousarray(self.images).tobytes()).digest()

    def first(self, samples: int) -> ImageSet:
        """The first so many images."""
        return replace(self, images=self.images[:samples], labels=self.labels[:samples], note=first_of(self, samples))


@dataclass(frozen=True)
class Subset:
    """Some images of a split, in a given order."""

    whole: Images
    chosen: Indices

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    @property
    def split(self) -> str:
        """That of the whole."""
        return self.whole.split

    @property
    def note(self) -> str:
        """That of the whole, and how many."""
        return f"{len(self.chosen)} of {len(self.whole.labels)}; {self.whole.note}"

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""
        return self.whole.labels[self.chosen]

    def batch(self, chosen: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices into the subset -> (B, C, H, W)."""
        return self.whole.batch(self.chosen[chosen], crops)

    def fingerprint(self) -> bytes:
        """That of the whole, and which were chosen."""
        return hashlib.sha256(self.whole.fingerprint() + self.chosen.tobytes()).digest()

    def first(self, samples: int) -> Subset:
        """The first so many images."""
        return replace(self, chosen=self.chosen[:samples])


def held_out(images: Images, count: int) -> tuple[Images, Images]:
    """(the others, ``count`` images: of every class its share, spread over the split). DataError for too many."""
    total = len(images.labels)
    if not 0 < count < total:
        raise DataError(f"{images.name}: {count} of {total} {images.split} images cannot be held out; hold out fewer")
    by_class = np.argsort(images.labels, kind="stable")  # every n-th image alone could miss classes that take turns
    chosen = np.sort(by_class[np.arange(count) * total // count])
    return Subset(images, np.setdiff1d(np.arange(total), chosen)), Subset(images, chosen)


def check_labels(images: Images, n_classes: int) -> None:
    """Raise DataError where a label does not lie in 0..n_classes-1."""
    labels = images.labels
    wrong = int(((labels < 0) | (labels >= n_classes)).sum())
    if wrong:
        raise DataError(
            f"{images.name}: labels run from {labels.min()} to {labels.max()}, but the model has {n_classes} classes "
            f"(0..{n_classes - 1}); {wrong} of {len(labels)} lie outside; choose a model with enough classes"
        )


def load_images(spec: str, split: Split, image_size: int, in_channels: int, samples: int | None = None) -> Images:
    """The first ``samples`` images of one split (None: all), in the shape that a model wants.

    spec: ``digits`` (repeated to image_size, any multiple of 8; grey level / 16, so 0..1), or ``NAME:PATH`` with a
    name of ``DATASETS``. Images of cifar10, cifar100, packed-jpeg and folder are pixel / 255, so 0..1. Those of npz
    are taken as they are; without ``is_test`` both of its splits hold every image, and the note says so.
    Raises DataError.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', not '{split}'")
    name, path = parse_data(spec)
    if name in EVENT_DATASETS:
        raise DataError(f"{spec}: event recordings, not images; name images here ({', '.join(DATASETS)})")
    loaded: Images
    if path is None:
        loaded = _load_digits(split, image_size, in_channels)
    elif name == "npz":
        loaded = _load_npz(path, split, image_size, in_channels)
    elif name in ("cifar10", "cifar100"):
        from snn_energy.cifar import load_cifar

        loaded = load_cifar(name, path, split, image_size, in_channels)
    elif name == "packed-jpeg":
        from snn_energy.image_files import load_packed_jpeg

        loaded = load_packed_jpeg(path, split, image_size, in_channels)
    else:
        from snn_energy.image_files import load_folder

        loaded = load_folder(path, split, image_size, in_channels)
    if samples is None:
        return loaded
    if samples < 1:
        raise DataError(f"samples must be at least 1, not {samples}")
    if samples > len(loaded.labels):
        raise DataError(f"{loaded.name}: {samples} samples asked for, the {split} split has {len(loaded.labels)}")
    return loaded.first(samples)


def parse_data(spec: str) -> tuple[str, Path | None]:
    """``"cifar10:data"`` -> ``("cifar10", Path("data"))``, ``"digits"`` -> ``("digits", None)``. Raises DataError.

    ``~`` is the home folder: shells do not replace it behind a colon.
    """
    name, colon, path = spec.partition(":")
    datasets = DATASETS | EVENT_DATASETS
    if name not in datasets:
        known = ", ".join(name if name == BUNDLED else f"{name}:PATH" for name in datasets)
        raise DataError(f"unknown dataset '{spec}'{nearest(name, datasets)} (known: {known})")
    if name == BUNDLED:
        if colon:
            raise DataError(f"{spec}: the digits are bundled and have no path; write {BUNDLED}")
        return name, None
    if not path:
        raise DataError(f"{name}: needs a path, {name}:PATH ({datasets[name]})")
    return name, Path(os.path.expanduser(path))


def has_own_test_split(spec: str) -> bool:
    """Whether train and test images of a dataset are known to be disjoint. Raises DataError."""
    name, path = parse_data(spec)
    return name != "npz" or path is None or "is_test" in _read_npz(path)


class Labelled(Protocol):
    """Labelled samples that come in batches: images, or recordings of events."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""

    def batch(self, chosen: Indices) -> NDArray[np.float32]:
        """(B,) indices -> samples, as the network is given them."""


def batches(samples: Labelled, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """All samples in order, ``size`` at a time, and their labels (B,). Raises DataError."""
    order = np.arange(len(samples.labels))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield samples.batch(chosen), samples.labels[chosen]


def require_shape(name: str | Path, found: tuple[int, ...], image_size: int, in_channels: int) -> None:
    """Raise DataError where images are not (in_channels, image_size, image_size)."""
    wanted = (in_channels, image_size, image_size)
    if found != wanted:
        raise DataError(
            f"{name}: the images are {_shape(found)} (channels x height x width), the model wants {_shape(wanted)}"
        )


def _load_digits(split: Split, image_size: int, in_channels: int) -> ImageSet:
    if in_channels != 1:
        raise DataError(f"digits: the images have 1 channel, the model wants {in_channels}")
    if image_size < DIGITS_PIXELS or image_size % DIGITS_PIXELS:
        raise DataError(
            f"digits: the images are 8x8 and can be repeated to any multiple of 8 pixels, "
            f"the model wants {image_size}x{image_size}"
        )
    factor = image_size // DIGITS_PIXELS
    source = resources.files("snn_energy").joinpath("data", "digits.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        chosen = arrays["is_test"] == (split == "test")
        pixels, labels = arrays["images"][chosen], arrays["labels"][chosen]
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)[:, None]
    note = f"{split} split, 8x8 pixels repeated {factor}x{factor}, grey level / {DIGITS_MAX}"
    images = pixels.astype(np.float32) / np.float32(DIGITS_MAX)
    return ImageSet("digits", split, images, labels.astype(np.int64), note)


def _load_npz(path: Path, split: Split, image_size: int, in_channels: int) -> ImageSet:
    arrays = _read_npz(path)
    images, labels, note = _as_images(path, arrays["images"]), _as_labels(path, arrays["labels"]), ""
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images but {len(labels)} labels; there must be one label an image")
    require_shape(path, images.shape[1:], image_size, in_channels)
    if "is_test" in arrays:
        is_test = arrays["is_test"]
        if is_test.dtype != np.bool_ or is_test.shape != labels.shape:
            raise DataError(f"{path}: is_test must hold {len(labels)} booleans, one an image")
        chosen = is_test == (split == "test")
        images, labels, note = images[chosen], labels[chosen], f"{split} split by is_test, values as stored"
    else:
        note = "no is_test in the file, so both splits hold every image; values as stored"
    if not len(images):
        raise DataError(f"{path}: no image in the {split} split")
    if not np.isfinite(images).all():
        bad = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
        raise DataError(f"{path}: {bad} of {len(images)} images hold NaN or infinite values; remove or mend them")
    return ImageSet(f"npz:{path.name}", split, images, labels, note)


def npz_shape(path: Path) -> tuple[int, int]:
    """(image size, channels) of the images of an .npz. Raises DataError where they are not square."""
    shape = _as_images(path, _read_npz(path)["images"]).shape
    if shape[2] != shape[3]:
        raise DataError(f"{path}: the images are {shape[2]}x{shape[3]}; only square ones fit here")
    return shape[2], shape[1]


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    return read_arrays(path, ("images", "labels"), ("is_test",), _NPZ_HOLDS)


def read_arrays(
    path: Path, keys: tuple[str, ...], optional: tuple[str, ...], holds: str
) -> dict[str, NDArray[np.generic]]:
    """The named arrays of an .npz, pickles refused. holds: what it must hold, for the user. Raises DataError."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; it must be an .npz with {holds}")
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: one bare array; it must be an .npz with {holds}")
            arrays = {key: file[key] for key in (*keys, *optional) if key in file}
            found = ", ".join(file) or "none"
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib and NumPy raise nearly anything
        raise DataError(f"{path}: not a readable .npz ({first_line(error)}); it must hold {holds}") from error
    for key in keys:
        if key not in arrays:
            raise DataError(f"{path}: no array '{key}' (found: {found}); it must hold {holds}")
    odd = next((key for key, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:
        raise DataError(f"{path}: '{odd}' is no array; it must hold {holds}")
    return arrays


def _as_images(path: Path, images: NDArray[np.generic]) -> NDArray[np.float32]:
    """(N, H, W) or (N, C, H, W) of numbers -> (N, C, H, W) float32."""
    if images.dtype.kind not in "buif":
        raise DataError(f"{path}: images must be numbers, not {images.dtype}")
    if images.ndim not in (3, 4):
        raise DataError(f"{path}: images must be (N,H,W) or (N,C,H,W), not of shape {_shape(images.shape)}")
    with np.errstate(over="ignore"):  # a value too large for float32 becomes infinite and is refused
        as_float = images.astype(np.float32)
    return as_float[:, None] if images.ndim == 3 else as_float


def _as_labels(path: Path, labels: NDArray[np.generic]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "ui" or labels.ndim != 1:
        raise DataError(
            f"{path}: labels must be whole numbers of shape (N,), not {labels.dtype} of shape ({_shape(labels.shape)})"
        )
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{path}: label {labels.min()} is negative; classes are counted from 0")
    return labels.astype(np.int64)


def first_of(images: Images, samples: int) -> str:
    """The note of the first so many images."""
    return f"first {samples} of {len(images.labels)}; {images.note}"


def first_line(error: Exception) -> str:
    """What an error says in one line, or its type if it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
