"""Images in files: JPEG files packed into one .npz, and class folders as for ImageNet. No torch.

Images that do not decode are an error that names and counts them; they are never skipped.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from snn_energy.core.errors import DataError
from snn_energy.datasets.images import ImageSet, Indices, Split, error_summary, first_samples_note
from snn_energy.datasets.npz import read_arrays

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")  # regardless of the suffix; others run programs (EPS) or are rare
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}  # and names that start with a dot
TEST_FOLDERS = ("val", "test")
RESIZE_RATIO = 256 / 224  # customary for ImageNet: the shorter side is resized to this multiple of the crop's side
_PACKED = "train_jpeg, train_offsets, train_labels and test_jpeg, test_offsets, test_labels"
_LAYOUT = "PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG (or PATH/test/CLASS/)"


def load_packed_jpeg(path: Path, split: Split, image_size: int, in_channels: int) -> ImageSet:
    """One split of a packed file: all its images decoded, uint8 (N, C, H, W). Raises DataError.

    The file holds ``<split>_jpeg`` (uint8, concatenated JPEG files), ``<split>_offsets`` (n + 1 integers: the start
    of each, and the end of the last one) and ``<split>_labels`` (n integers).
    """
    _require_channels(path, in_channels)
    packed, offsets, labels = _packed_arrays(path, split)
    count = len(labels)
    if count == 0:
        raise DataError(f"{path}: no image in the {split} split")
    if len(offsets) != count + 1:
        raise DataError(f"{path}: {split}_offsets has {len(offsets)} entries for {count} labels; it must have one more")
    if offsets[0] != 0 or offsets[-1] != len(packed) or (np.diff(offsets) <= 0).any():
        raise DataError(f"{path}: {split}_offsets must rise from 0 to {len(packed)}, the bytes of {split}_jpeg")
    encoded_images = [packed[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    names = [f"{split} image {i}" for i in range(count)]
    with ThreadPoolExecutor(_threads()) as pool:
        found = list(pool.map(lambda piece: _decode_or_reason(io.BytesIO(piece), in_channels), encoded_images))
    good = [image for image in found if isinstance(image, np.ndarray)]
    _raise_for_broken(str(path), [(n, i) for n, i in zip(names, found, strict=True) if isinstance(i, str)], count)
    sizes = [image.shape[1:] for image in good]
    invalid = [f"{n} {h}x{w}" for n, (h, w) in zip(names, sizes, strict=True) if (h, w) != (image_size, image_size)]
    if invalid:
        raise DataError(
            f"{path}: {len(invalid)} of {count} images are not {image_size}x{image_size} ({_first_names(invalid)}), "
            "which the model expects; pack them in that size"
        )
    note = f"{split} split, JPEG-coded (lossy), decoded with Pillow, pixel / 255"
    return ImageSet(f"packed-jpeg:{path.name}", split, np.stack(good), labels, note)


def _packed_arrays(path: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    keys = (f"{split}_jpeg", f"{split}_offsets", f"{split}_labels")
    arrays = read_arrays(path, keys, (), _PACKED)
    packed, offsets, labels = (arrays[key] for key in keys)
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise DataError(f"{path}: {split}_jpeg must be one row of bytes, not {packed.ndim} axes of {packed.dtype}")
    for key, array in zip(keys[1:], (offsets, labels), strict=True):
        if array.dtype.kind not in "ui" or array.ndim != 1:
            raise DataError(f"{path}: {key} must be one row of whole numbers, not {array.ndim} axes of {array.dtype}")
    return packed.astype(np.uint8, copy=False), offsets.astype(np.int64), labels.astype(np.int64)


@dataclass(frozen=True)
class FolderImages:
    """Images of class folders, read on request, by several threads."""

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

    def batch(self, indices: Indices, crops: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """(B,) indices -> (B, C, H, W) float32, pixel / 255. Raises DataError that names and counts broken images.

        Without crops the shorter side is resized to 256/224 of the size and the middle cut out; a crop
        (left, top, right, bottom as shares of the image) is cut out and resized.
        """
        boxes = [None] * len(indices) if crops is None else list(crops)
        files = [self.paths[i] for i in indices.tolist()]
        found = list(
            _pool().map(lambda file, box: _decode_or_reason(file, self.in_channels, self.image_size, box), files, boxes)
        )
        broken = [(str(file), image) for file, image in zip(files, found, strict=True) if isinstance(image, str)]
        _raise_for_broken(self.name, broken, len(files))
        good = [image for image in found if isinstance(image, np.ndarray)]
        return np.stack(good).astype(np.float32) / np.float32(255)

    def fingerprint(self) -> bytes:
        """SHA-256 of labels, class and file names, and sizes in bytes. Raises DataError for a missing file."""
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.paths:
            try:
                line = f"{path.parent.name}/{path.name} {path.stat().st_size}\n"
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            digest.update(line.encode(errors="surrogateescape"))
        return digest.digest()

    def first(self, samples: int) -> FolderImages:
        """The first ``samples`` images."""
        note = first_samples_note(self, samples)
        return replace(self, paths=self.paths[:samples], labels=self.labels[:samples], note=note)


def load_folder(path: Path, split: Split, image_size: int, in_channels: int) -> FolderImages:
    """One split of class folders; classes are numbered in the order of their names. Raises DataError.

    Both splits are inspected, because a class that one of them lacks would shift the numbers of all later classes.
    Images take turns by class, so that the first samples contain every class.
    """
    _require_channels(path, in_channels)
    if not _is_folder(path):
        raise DataError(
            f"{path}: no such folder; it must be laid out as ImageNet is: {_LAYOUT}. ImageNet: fetch "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, and sort both into class folders"
        )
    train = path / "train"
    test = next((path / name for name in TEST_FOLDERS if _is_folder(path / name)), path / TEST_FOLDERS[0])
    for folder in (train, test):
        if not _is_folder(folder):
            raise DataError(f"{folder}: no such folder; the layout must be {_LAYOUT}")
    classes = {folder: _class_folders(folder) for folder in (train, test)}
    if not classes[train]:
        raise DataError(f"{train}: no class folders; the layout must be {_LAYOUT}")
    if classes[train] != classes[test]:
        only_train, only_test = sorted(classes[train] - classes[test]), sorted(classes[test] - classes[train])
        raise DataError(
            f"{path}: class folders differ: {_first_names(only_train)} only in {train.name}, "
            f"{_first_names(only_test)} only in {test.name}; both must have the same, "
            "because classes are numbered by them"
        )
    folder, names = (train if split == "train" else test), sorted(classes[train])
    by_class = [_image_files(folder / name) for name in names]
    empty = [name for name, files in zip(names, by_class, strict=True) if not files]
    if empty:
        raise DataError(f"{folder}: no image in class {_first_names(empty)} (known: {', '.join(SUFFIXES)})")
    interleaved = sorted((i, label) for label, files in enumerate(by_class) for i in range(len(files)))
    return FolderImages(
        name=f"folder:{path.resolve().name}",
        split=split,
        note=f"{folder.name} split, {len(names)} class folders, shorter side resized to {image_size}*256/224, "
        "middle cut out, pixel / 255",
        paths=tuple(by_class[label][i] for i, label in interleaved),
        labels=np.array([label for _, label in interleaved], np.int64),
        class_names=tuple(names),
        image_size=image_size,
        in_channels=in_channels,
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without the files that operating systems leave there."""
    try:
        with os.scandir(folder) as found:
            kept = [e for e in found if not e.name.startswith(".") and e.name.lower() not in SYSTEM_FILES]
            return sorted(kept, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def _class_folders(folder: Path) -> set[str]:
    """Names of the class folders. Raises DataError for files next to them, which belong to no class."""
    entries = _entries(folder)
    unexpected = [entry.name for entry in entries if not os.path.isdir(entry.path)]
    if unexpected:
        raise DataError(
            f"{folder}: {len(unexpected)} entries next to the class folders: {_first_names(unexpected)}; "
            "sort images into class folders and remove the rest"
        )
    return {entry.name for entry in entries}


def _image_files(folder: Path) -> list[Path]:
    """Image files of a class in the order of their names. Raises DataError for any other entry."""
    files = _entries(folder)
    invalid = [entry.name for entry in files if not (entry.name.lower().endswith(SUFFIXES) and _is_file(entry))]
    if invalid:
        raise DataError(f"{folder}: {len(invalid)} entries are not images: {_first_names(invalid)}; remove them")
    return [Path(entry.path) for entry in files]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """True for a file or a link to one, False for a broken or circular link."""
    return entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)


def _require_channels(path: Path, in_channels: int) -> None:
    if in_channels not in (1, 3):
        raise DataError(f"{path}: image files have 1 channel (grey) or 3 (RGB), the model expects {in_channels}")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="images")


def _threads() -> int:
    return min(16, os.cpu_count() or 1)


def _decode_or_reason(
    source: Path | io.BytesIO, in_channels: int, size: int | None = None, box: NDArray[np.float64] | None = None
) -> NDArray[np.uint8] | str:
    """One image as (C, H, W) uint8, (C, size, size) where a size is given; or why it does not decode."""
    try:
        with Image.open(source, formats=FORMATS) as opened:
            image = _convert_colour(opened, in_channels)
            return _channels_first(image if size is None else _crop_and_resize(image, size, box))
    except UnidentifiedImageError:
        return f"none of {', '.join(FORMATS)}"
    except Exception as error:  # noqa: BLE001 (damaged bytes make decoders raise nearly anything)
        return error_summary(error)


def _crop_and_resize(image: Image.Image, size: int, box: NDArray[np.float64] | None) -> Image.Image:
    """(size, size) pixels of the box (shares of the image), or of the centre if there is no box."""
    width, height = image.size
    if box is None:
        scale = round(size * RESIZE_RATIO) / min(width, height)
        side = size / scale  # of the centre crop, in pixels of the file
        edges = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    else:
        edges = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=edges, reducing_gap=3.0)


def _convert_colour(image: Image.Image, in_channels: int) -> Image.Image:
    """RGB or grey, 8 bits. Transparency is dropped, and EXIF's orientation ignored. Raises ValueError."""
    if image.mode.startswith("I;16"):  # Pillow itself would make everything above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; save it with 8 bits a channel")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB" if in_channels == 3 else "L")


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])


def _raise_for_broken(location: str, broken: list[tuple[str, str]], count: int) -> None:
    """Raise DataError that names the first images that do not decode, and counts all of them."""
    if broken:
        named = "; ".join(f"{name}: {why}" for name, why in broken[:3])
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise DataError(
            f"{location}: {len(broken)} of {count} images do not decode ({named}{more}); fix or replace them"
        )


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" or "none"
