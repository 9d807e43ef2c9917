"""CIFAR-10 and CIFAR-100 as officially distributed: python pickles, read without running anything that they name.

A pickle can name any function of any module. Here the unpickler knows three names (how NumPy pickles an array) and
gives inert stand-ins for them; any other name is refused. The array is then built from its bytes.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_energy.datasets import ImageSet, Split, require_shape
from snn_energy.errors import DataError

SIDE, CHANNELS = 32, 3


@dataclass(frozen=True)
class Distribution:
    """What the official archive holds: file -> (images in it, MD5)."""

    title: str
    folder: str
    archive: str
    labels: str
    classes: int
    files: dict[str, dict[str, tuple[int, str]]]


DISTRIBUTIONS = {
    "cifar10": Distribution(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        labels="labels",
        classes=10,
        files={
            "train": {
                "data_batch_1": (10000, "c99cafc152244af753f735de768cd75f"),
                "data_batch_2": (10000, "d4bba439e000b95fd0a9bffe97cbabec"),
                "data_batch_3": (10000, "54ebc095f3ab1f0389bbae665268c751"),
                "data_batch_4": (10000, "634d18415352ddfa80567beed471001a"),
                "data_batch_5": (10000, "482c414d41f54cd18b22e5b47cb7c3cb"),
            },
            "test": {"test_batch": (10000, "40351d587109b95175f43aff81a1287e")},
        },
    ),
    "cifar100": Distribution(
        title="CIFAR-100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        labels="fine_labels",
        classes=100,
        files={
            "train": {"train": (50000, "16019d7e3df5f24257cddd939b257f8d")},
            "test": {"test": (10000, "f0ef6b0ae62326f3e7ffdfab6717acfc")},
        },
    ),
}


def load_cifar(name: str, path: Path, split: Split, image_size: int, in_channels: int) -> ImageSet:
    """One split, uint8 (N, 3, 32, 32). path: the folder, the folder around it, or the archive. Raises DataError.

    A file whose MD5 is not the official one is used if all is well with it, after a warning.
    """
    known = DISTRIBUTIONS[name]
    require_shape(name, (CHANNELS, SIDE, SIDE), image_size, in_channels)
    images, labels, altered = [], [], []
    for file, (count, md5) in known.files[split].items():
        where, content = _read(known, path, file)
        pixels, classes = parse_batch(content, str(where), known.labels, known.classes, count)
        images.append(pixels)
        labels.append(classes)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            altered.append(file)
    if altered:
        warnings.warn(
            f"{path}: {', '.join(altered)} is not the officially distributed {known.title} (its MD5 differs)",
            stacklevel=2,
        )
    origin = "files that differ from the official ones" if altered else "as officially distributed"
    note = f"{split} split, {origin}, pixel / 255"
    return ImageSet(name, split, np.concatenate(images), np.concatenate(labels), note)


def _read(known: Distribution, path: Path, file: str) -> tuple[Path, bytes]:
    """A file of the distribution: where it lies and its bytes. Raises DataError."""
    try:
        if path.is_file():
            with tarfile.open(path) as archive:
                member = archive.extractfile(f"{known.folder}/{file}")
                if member is not None:
                    return path / known.folder / file, member.read()
        for folder in (path, path / known.folder):
            if (folder / file).is_file():
                return folder / file, (folder / file).read_bytes()
    except KeyError as error:
        raise DataError(f"{path}: no {known.folder}/{file} in this archive; give {known.archive}") from error
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: not a readable archive ({error}); fetch {known.archive} again") from error
    raise DataError(
        f"{path}: no {file} in it; fetch {known.archive} ({known.title} python version) from "
        f"www.cs.toronto.edu/~kriz/cifar.html and give its path, or unpack it and give the folder {known.folder}"
    )


def parse_batch(
    content: bytes, where: str, label_key: str, classes: int, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of one batch -> images (N, 3, 32, 32) uint8 and labels (N,). Raises DataError naming the file."""
    try:
        batch = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
        pixels = _entry(batch, "data").array()
        labels = np.array(_entry(batch, label_key))
    except _ForeignNameError as error:
        raise DataError(f"{where}: names {error}, which no batch does; it was not run; fetch the file again") from error
    except Exception as error:
        why = str(error) or type(error).__name__
        raise DataError(f"{where}: truncated, damaged or no batch ({why}); fetch the file again") from error
    if pixels.dtype != np.uint8 or pixels.shape != (count, CHANNELS * SIDE * SIDE):
        raise DataError(f"{where}: data are {pixels.dtype} of shape {pixels.shape}, not {count} images of 3072 bytes")
    if labels.dtype.kind != "i" or labels.shape != (count,):
        raise DataError(f"{where}: {label_key} must be {count} whole numbers, not {labels.shape} of {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} labels out of 0..{classes - 1}, the first {labels[wrong[0]]} at image {wrong[0]}"
        )
    return pixels.reshape(count, CHANNELS, SIDE, SIDE), labels.astype(np.int64)


def _entry(batch: Any, key: str) -> Any:
    if not isinstance(batch, dict) or key not in batch:
        raise KeyError(f"no entry '{key}'")
    return batch[key]


class _ForeignNameError(Exception):
    """A pickle names something that is not part of an array."""


class _Dtype:
    """Stand-in for numpy.dtype: what it was called with."""

    def __init__(self, name: str, *rest: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and fields; bytes have neither."""


class _Array:
    """Stand-in for an array under construction: keeps the shape and the bytes."""

    def __init__(self, *arguments: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """The array, if it is one of bytes. Raises ValueError."""
        _, shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", "|u1", "uint8") or fortran:
            raise ValueError("data are no array of bytes in C order")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        return np.frombuffer(raw, np.uint8).reshape(shape)


def _reconstruct(*arguments: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes coded as {encoding}")
    return text.encode("latin1")


_INERT: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only how arrays are pickled; stand-ins that do nothing."""
        if (module, name) not in _INERT:
            raise _ForeignNameError(f"{module}.{name}")
        return _INERT[module, name]
