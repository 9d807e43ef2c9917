"""CIFAR-10 and CIFAR-100 as officially distributed: python pickles, read without running any code that they name.

A pickle can name any function of any module. The unpickler here accepts only the names by which NumPy pickles an array
and returns inert stand-ins for them; any other name is an error. The array is then built from its bytes.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from snn_energy.core.errors import DataError
from snn_energy.datasets.images import ImageSet, Split, error_summary, require_shape

SIDE, CHANNELS = 32, 3
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Distribution:
    """The content of the official archive. files: split -> file -> (number of images, MD5)."""

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

    A valid file whose MD5 is not the official one is used, with a warning.
    """
    known = DISTRIBUTIONS[name]
    require_shape(name, (CHANNELS, SIDE, SIDE), image_size, in_channels)
    images, labels, modified_files = [], [], []
    for file, (location, content) in _read(known, path, split).items():
        count, md5 = known.files[split][file]
        pixels, classes = parse_batch(content, location, known.labels, known.classes, count)
        images.append(pixels)
        labels.append(classes)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            modified_files.append(file)
    if modified_files:
        warnings.warn(
            f"{path}: {', '.join(modified_files)}: not as officially distributed for {known.title} (the MD5 differs)",
            stacklevel=2,
        )
    origin = "files that differ from the official ones" if modified_files else "as officially distributed"
    note = f"{split} split, {origin}, pixel / 255"
    return ImageSet(name, split, np.concatenate(images), np.concatenate(labels), note)


def _read(known: Distribution, path: Path, split: Split) -> dict[str, tuple[str, bytes]]:
    """The files of a split: the location and the bytes of each. Raises DataError."""
    files = known.files[split]
    try:
        exists = path.exists()
        found = _from_archive(known, path, files) if path.is_file() else _from_folders(known, path, files)
    except Exception as error:  # damaged bytes make tarfile and gzip raise nearly anything
        raise DataError(
            f"{path}: cannot be read ({error_summary(error)}); it must be {known.archive} or the folder "
            f"{known.folder}; fetch the archive again if it is damaged"
        ) from error
    missing = [file for file in files if file not in found]
    if missing:
        what = f"no {known.folder}/{', '.join(missing)} in it" if exists else "no such file or folder"
        raise DataError(
            f"{path}: {what}; fetch {known.archive} ({known.title} python version) from "
            f"www.cs.toronto.edu/~kriz/cifar.html and give its path, or unpack it and give the folder {known.folder}"
        )
    return {file: found[file] for file in files}


def _from_archive(known: Distribution, path: Path, files: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Those of the files that the archive contains, in one pass to its end, so that gzip verifies the checksum."""
    wanted = {f"{known.folder}/{file}": file for file in files}
    found: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = wanted.get(member.name.removeprefix("./"))
            stream = archive.extractfile(member) if file is not None and member.isreg() else None
            if file is not None and stream is not None:
                found[file] = f"{path}: {member.name}", stream.read()
        while archive.fileobj is not None and archive.fileobj.read(_CHUNK):
            pass
    return found


def _from_folders(known: Distribution, path: Path, files: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Those of the files that are in the folder, or in the official folder inside it."""
    folder = path / known.folder if (path / known.folder).is_dir() else path
    return {file: (str(folder / file), (folder / file).read_bytes()) for file in files if (folder / file).is_file()}


def parse_batch(
    content: bytes, location: str, label_key: str, classes: int, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of one batch -> images (N, 3, 32, 32) uint8 and labels (N,). Raises DataError naming the file."""
    try:
        if not content.endswith(pickle.STOP):  # if truncated within a name, it would seem to hold a foreign name
            raise EOFError
        batch = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _DisallowedNameError as error:
        raise DataError(
            f"{location}: contains {error}, which is not allowed in a batch; it was not executed; fetch the file again"
        ) from error
    except Exception as error:  # damaged bytes make an unpickler raise nearly anything
        why = type(error).__name__
        raise DataError(f"{location}: truncated, damaged or no pickle ({why}); fetch the file again") from error
    missing = [key for key in ("data", label_key) if not isinstance(batch, dict) or key not in batch]
    if missing:
        raise DataError(f"{location}: no entry '{missing[0]}', so it is no batch; fetch the file again")
    pixels = _pixels(batch["data"], location, count)
    return pixels, _labels(batch[label_key], f"{location}: {label_key}", classes, count)


def _pixels(data: object, location: str, count: int) -> NDArray[np.uint8]:
    try:
        if not isinstance(data, _Array):
            raise ValueError(f"data are not an array, but {_describe(data)}")
        pixels = data.array()
    except Exception as error:  # the state of an array can be any object
        raise DataError(f"{location}: {error_summary(error)}; fetch the file again") from error
    if pixels.shape != (count, CHANNELS * SIDE * SIDE):
        raise DataError(f"{location}: data are of shape {pixels.shape}, not {count} images of 3072 bytes")
    return pixels.reshape(count, CHANNELS, SIDE, SIDE)


def _labels(labels: object, location: str, classes: int, count: int) -> NDArray[np.int64]:
    if not isinstance(labels, list) or len(labels) != count:
        what = f"a list of {len(labels)}" if isinstance(labels, list) else _describe(labels)
        raise DataError(f"{location} must be a list of {count} whole numbers, not {what}")
    not_integers = [label for label in labels if type(label) is not int or label.bit_length() > 63]
    if not_integers:
        first = _describe(not_integers[0])
        raise DataError(
            f"{location} must be whole numbers; {len(not_integers)} of {count} are not, the first is {first}"
        )
    wrong = [(label, i) for i, label in enumerate(labels) if not 0 <= label < classes]
    if wrong:
        (label, i), limits = wrong[0], f"0..{classes - 1}"
        raise DataError(f"{location}: {len(wrong)} of {count} are out of {limits}, the first is {label} at image {i}")
    return np.array(labels, np.int64)


def _describe(entry: object) -> str:
    return "an array" if isinstance(entry, _Array) else f"of type {type(entry).__name__}"


class _DisallowedNameError(Exception):
    """A pickle names something that is not part of an array."""


class _Dtype:
    """Stand-in for numpy.dtype: keeps the name of the type."""

    def __init__(self, name: str, *rest: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields; bytes have neither."""


class _Array:
    """Stand-in for an array under construction: keeps the shape and the bytes."""

    def __init__(self, *arguments: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        """The array of bytes. Raises ValueError for another type or order, any exception for a malformed state."""
        _, shape, dtype, fortran, content = self.state
        name = dtype.name if isinstance(dtype, _Dtype) else "?"
        if name not in ("u1", "|u1", "uint8"):
            raise ValueError(f"data are of type {name!r:.20}, not bytes (u1)")
        if fortran or not isinstance(content, (str, bytes)):
            raise ValueError("data are not an array in C order")
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, np.uint8).reshape(shape)


def _reconstruct(*arguments: object) -> _Array:
    return _Array()


def _frombuffer(content: object, dtype: object, shape: object, order: object, *rest: object) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order != "C", content)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes coded as {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,  # protocol 5
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Entries(dict[str, Any]):
    """A dictionary with text keys only: hashing a deeply nested key crashes Python."""

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError("a key that is no text")
        super().__setitem__(key, value)


_REJECTED_OPCODES = {  # no batch needs them: sets, filled dictionaries, persistent and extension codes, old instances
    *(pickle.DICT + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET + pickle.PERSID + pickle.BINPERSID),
    *(pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.INST + pickle.OBJ),
}


class _InertUnpickler(pickle._Unpickler):
    """The pure-Python unpickler: the one in C allocates gigabytes if a damaged byte makes a huge memo index."""

    append: Callable[[object], None]
    read: Callable[[int], bytes]

    def find_class(self, module: str, name: str) -> Any:
        """An inert stand-in for a name by which arrays are pickled; any other name is an error."""
        if (module, name) not in _STAND_INS:
            raise _DisallowedNameError(repr(f"{module}.{name}"[:80]))
        return _STAND_INS[module, name]

    def _load_dict(self) -> None:
        self.append(_Entries())

    def _load_bytes(self) -> None:
        """Read the bytes; Python's own method allocates the stated length before reading."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _REJECTED_OPCODES},
        pickle.EMPTY_DICT[0]: _load_dict,
        pickle.BYTEARRAY8[0]: _load_bytes,
    }
