"""Images that lie in files: JPEG files packed into one .npz, and class folders as ImageNet has them. No torch.

An image that does not decode is named and counted, and is an error: never a thinner data set.
"""

from __future__ import annotations

import io
import itertools
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from snn_energy.datasets import ImageSet, Indices, Split, first_of, require_shape
from snn_energy.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
LITTER = {"thumbs.db", "desktop.ini"}  # and whatever starts with a dot
TEST_FOLDERS = ("val", "test")
RESIZE_RATIO = 256 / 224  # ImageNet's custom: the shorter side is resized to this many times the size that is cut out
_PACKED = "train_jpeg, train_offsets, train_labels and test_jpeg, test_offsets, test_labels"
_LAYOUT = "PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG (or PATH/test/CLASS/)"
_UNDECODABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def load_packed_jpeg(path: Path, split: Split, image_size: int, in_channels: int) -> ImageSet:
    """One split of a packed file: all its images decoded, uint8 (N, C, H, W). Raises DataError.

    The file holds ``<split>_jpeg`` (uint8, JPEG files one behind the other), ``<split>_offsets`` (n + 1 whole
    numbers, where each begins and the last one ends) and ``<split>_labels`` (n whole numbers).
    """
    packed, offsets, labels = _packed_arrays(path, split)
    count = len(labels)
    if count == 0:
        raise DataError(f"{path}: no image in the {split} split")
    if len(offsets) != count + 1:
        raise DataError(f"{path}: {split}_offsets has {len(offsets)} entries for {count} labels; it must have one more")
    if offsets[0] != 0 or offsets[-1] != len(packed) or (np.diff(offsets) <= 0).any():
        raise DataError(f"{path}: {split}_offsets must rise from 0 to {len(packed)}, the bytes of {split}_jpeg")
    pieces = [packed[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    names = [f"{split} image {i}" for i in range(count)]
    with ThreadPoolExecutor(_threads()) as pool:
        found = list(pool.map(lambda piece: _decoded(io.BytesIO(piece), in_channels), pieces))
    good = [image for image in found if isinstance(image, np.ndarray)]
    _refuse_broken(path, [(n, i) for n, i in zip(names, found, strict=True) if isinstance(i, str)], count)
    shapes = {image.shape for image in good}
    for shape in sorted(shapes, key=lambda shape: shape == (in_channels, image_size, image_size)):
        require_shape(path, shape, image_size, in_channels)
    note = f"{split} split, JPEG-coded (lossy), decoded with Pillow, pixel / 255"
    return ImageSet(f"packed-jpeg:{path.name}", split, np.stack(good), labels.astype(np.int64), note)


def _packed_arrays(path: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; it must be an .npz with {_PACKED}")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in (f"{split}_jpeg", f"{split}_offsets", f"{split}_labels") if key not in file]
            if missing:
                found = ", ".join(file) or "none"
                raise DataError(f"{path}: no array {', '.join(missing)} (found: {found}); it must hold {_PACKED}")
            packed, offsets, labels = (file[f"{split}_{kind}"] for kind in ("jpeg", "offsets", "labels"))
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"{path}: not a readable .npz ({error or type(error).__name__}); it must hold {_PACKED}"
        ) from error
    for kind, array, kinds in (("jpeg", packed, "u"), ("offsets", offsets, "ui"), ("labels", labels, "ui")):
        wrong = not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in kinds
        if wrong or (kind == "jpeg" and array.dtype != np.uint8):
            raise DataError(
                f"{path}: {split}_{kind} must be one row of {'bytes' if kind == 'jpeg' else 'whole numbers'}"
            )
    return packed, offsets.astype(np.int64), labels.astype(np.int64)


@dataclass(frozen=True)
class FolderImages:
    """Images of class folders, read when they are asked for, by several threads."""

    name: str
    split: str
    note: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    image_size: int
    in_channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W) float32, pixel / 255. Raises DataError naming and counting what is broken.

        Without crops the shorter side is resized to 256/224 of the size and the middle cut out; a crop
        (left, top, right, bottom as shares of the image) is cut out and resized.
        """
        boxes = [None] * len(chosen) if crops is None else list(crops)
        files = [self.paths[i] for i in chosen.tolist()]
        found = list(_pool().map(lambda file, box: _fitted(file, self.image_size, self.in_channels, box), files, boxes))
        broken = [(str(file), image) for file, image in zip(files, found, strict=True) if isinstance(image, str)]
        _refuse_broken(Path(self.name), broken, len(files))
        good = [image for image in found if isinstance(image, np.ndarray)]
        return np.stack(good).astype(np.float32) / np.float32(255)

    def first(self, samples: int) -> FolderImages:
        """The first so many images."""
        note = first_of(self, samples)
        return replace(self, paths=self.paths[:samples], labels=self.labels[:samples], note=note)


def load_folder(path: Path, split: Split, image_size: int, in_channels: int) -> FolderImages:
    """One split of class folders; classes are numbered in the order of their names. Raises DataError.

    Both splits are looked at, because a class that one of them lacks would shift the numbers of all behind it.
    Several splits' images are dealt out class by class, so that the first samples hold every class.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; it must be laid out as ImageNet is: {_LAYOUT}. ImageNet: fetch "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, and sort both into class folders"
        )
    train = path / "train"
    test = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), path / TEST_FOLDERS[0])
    for folder in (train, test):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; the layout must be {_LAYOUT}")
    classes = {folder: {entry.name for entry in _entries(folder) if entry.is_dir()} for folder in (train, test)}
    if not classes[train]:
        raise DataError(f"{train}: no class folders; the layout must be {_LAYOUT}")
    if classes[train] != classes[test]:
        here, there = sorted(classes[train] - classes[test]), sorted(classes[test] - classes[train])
        raise DataError(
            f"{path}: class folders differ: {_some(here)} only in {train.name}, {_some(there)} only in {test.name}; "
            "both must have the same, because classes are numbered by them"
        )
    folder, names = (train if split == "train" else test), sorted(classes[train])
    by_class = [_image_files(folder / name) for name in names]
    empty = [name for name, files in zip(names, by_class, strict=True) if not files]
    if empty:
        raise DataError(f"{folder}: no image in class {_some(empty)} (known: {', '.join(SUFFIXES)})")
    dealt = sorted((i, label) for label, files in enumerate(by_class) for i in range(len(files)))
    return FolderImages(
        name=f"folder:{path.resolve().name}",
        split=split,
        note=f"{folder.name} split, {len(names)} class folders, shorter side resized to {image_size}*256/224, "
        "middle cut out, pixel / 255",
        paths=tuple(by_class[label][i] for i, label in dealt),
        labels=np.array([label for _, label in dealt], np.int64),
        class_names=tuple(names),
        image_size=image_size,
        in_channels=in_channels,
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def _image_files(folder: Path) -> list[Path]:
    """Image files of a class in the order of their names. Raises DataError for files that are something else."""
    files = [e for e in _entries(folder) if not e.name.startswith(".") and e.name.lower() not in LITTER]
    odd = [entry.name for entry in files if not entry.name.lower().endswith(SUFFIXES)]
    if odd:
        raise DataError(f"{folder}: {len(odd)} entries are no images: {_some(odd)}; remove them")
    return [Path(entry.path) for entry in files]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="images")


def _threads() -> int:
    return min(16, os.cpu_count() or 1)


def _decoded(source: Path | io.BytesIO, in_channels: int) -> NDArray[np.uint8] | str:
    """One image as (C, H, W) uint8, or why it does not decode."""
    try:
        with Image.open(source) as image:
            return _planes(_in_colour(image, in_channels))
    except _UNDECODABLE as error:
        return _first_line(error)


def _fitted(path: Path, size: int, in_channels: int, box: NDArray[np.float64] | None) -> NDArray[np.uint8] | str:
    """One image as (C, size, size) uint8, or why it does not decode."""
    try:
        with Image.open(path) as opened:
            image = _in_colour(opened, in_channels)
            width, height = image.size
            if box is None:
                longer = round(size * RESIZE_RATIO)
                scale = longer / min(width, height)
                side = size / scale  # the middle that is cut out, in pixels of the file
                edges = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
            else:
                edges = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
            return _planes(image.resize((size, size), Image.Resampling.BICUBIC, box=edges, reducing_gap=3.0))
    except _UNDECODABLE as error:
        return _first_line(error)


def _in_colour(image: Image.Image, in_channels: int) -> Image.Image:
    if in_channels not in (1, 3):
        raise DataError(f"image files have 1 channel (grey) or 3 (RGB), the model wants {in_channels}")
    return image.convert("RGB" if in_channels == 3 else "L")


def _planes(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])


def _refuse_broken(where: Path, broken: list[tuple[str, str]], count: int) -> None:
    """Raise DataError naming the first images that do not decode and counting all."""
    if broken:
        named = "; ".join(f"{name}: {why}" for name, why in broken[:3])
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise DataError(f"{where}: {len(broken)} of {count} images do not decode ({named}{more}); mend or replace them")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" or "none"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
