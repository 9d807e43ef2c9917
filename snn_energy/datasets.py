"""Images and labels: the bundled digits and the user's own .npz files. NumPy only.

The bundled set is the 1,797 optical digits of the UCI repository (the copy that scikit-learn ships): 8x8
pixels, grey levels 0..16, with a fixed stratified test split of 360 images drawn by
``numpy.random.default_rng(0)``. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998, CC BY 4.0.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snn_energy.errors import DataError, nearest

Split = Literal["train", "test"]
DATASETS = {"digits": "1,797 optical digits of the UCI repository, 8x8, bundled (360 of them are the test split)"}
DIGITS_PIXELS = 8
DIGITS_MAX = 16
_NPZ_HOLDS = "arrays images (N,H,W) or (N,C,H,W) and labels (N,), optionally is_test (N,) of booleans"


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) float32 and labels (N,) int64, with a note on their origin and scale."""

    name: str
    split: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    note: str

    def __len__(self) -> int:
        return len(self.labels)

    def check_labels(self, n_classes: int) -> None:
        """Raise DataError where a label does not lie in 0..n_classes-1."""
        if self.labels.min() < 0 or self.labels.max() >= n_classes:
            raise DataError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()}, but the model has "
                f"{n_classes} classes (0..{n_classes - 1}); choose a model with enough classes"
            )


def load_images(spec: str, split: Split, image_size: int, in_channels: int, samples: int | None = None) -> ImageSet:
    """The first ``samples`` images of one split (None: all), in the shape that a model wants.

    spec: ``digits`` (repeated to image_size, any multiple of 8; grey level / 16, so 0..1), or ``npz:PATH``: a
    file with images and labels, taken as they are, and an optional boolean ``is_test``; without it both
    splits hold every image, and the note says so. Raises DataError.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', not '{split}'")
    if spec == "digits":
        loaded = _load_digits(split, image_size, in_channels)
    elif spec.startswith("npz:"):
        loaded = _load_npz(Path(spec.removeprefix("npz:")), split, image_size, in_channels)
    else:
        raise _unknown(spec)
    return _first(loaded, samples)


def has_own_test_split(spec: str) -> bool:
    """Whether train and test images of a dataset are known to be disjoint. Raises DataError."""
    if spec.startswith("npz:"):
        return "is_test" in _read_npz(Path(spec.removeprefix("npz:")))
    if spec not in DATASETS:
        raise _unknown(spec)
    return True


def _unknown(spec: str) -> DataError:
    known = ", ".join(DATASETS)
    return DataError(f"unknown dataset '{spec}'{nearest(spec, DATASETS)} (known: {known}, npz:PATH)")


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
    wanted = (in_channels, image_size, image_size)
    if images.shape[1:] != wanted:
        raise DataError(
            f"{path}: the images are {_shape(images.shape[1:])} (channels x height x width), "
            f"the model wants {_shape(wanted)}"
        )
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


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a file, pickles refused. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; it must be an .npz with {_NPZ_HOLDS}")
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: one bare array; it must be an .npz with {_NPZ_HOLDS}")
            arrays = {key: file[key] for key in ("images", "labels", "is_test") if key in file}
            found = ", ".join(file) or "none"
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz ({error or type(error).__name__}); it must hold {_NPZ_HOLDS}"
        ) from error
    odd = next((key for key, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:
        raise DataError(f"{path}: '{odd}' is no array; it must hold {_NPZ_HOLDS}")
    for key in ("images", "labels"):
        if key not in arrays:
            raise DataError(f"{path}: no array '{key}' (found: {found}); it must hold {_NPZ_HOLDS}")
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


def _first(images: ImageSet, samples: int | None) -> ImageSet:
    if samples is None:
        return images
    if samples < 1:
        raise DataError(f"samples must be at least 1, not {samples}")
    if samples > len(images):
        raise DataError(f"{images.name}: {samples} samples asked for, the {images.split} split has {len(images)}")
    note = f"first {samples} of {len(images)}; {images.note}"
    return ImageSet(images.name, images.split, images.images[:samples], images.labels[:samples], note)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
