"""Per-sample counts: (rows, samples) in memory or in a file that is read block by block, and their ``.samples.npz``."""

from __future__ import annotations

import mmap
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import CountsError, OutputError
from snn_energy.counts.columns import PER_SAMPLE


def samples_path(path: Path) -> Path:
    """The side file of a counts file: ``dtss.json`` -> ``dtss.samples.npz``."""
    return path.with_name(path.name.removesuffix(".json") + ".samples.npz")


def load_samples(path: Path, samples_file: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Per-sample counts of ``path`` from its side file: column -> (rows, samples). Raises CountsError."""
    try:
        with samples_file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array instead of an archive")
            large = None if archive.zip is None else _read_large(archive.zip)
            if large is not None:
                return large
            arrays = {name: archive[name] for name in PER_SAMPLE}
            not_integer = next(
                (n for n, a in arrays.items() if not isinstance(a, np.ndarray) or a.dtype.kind not in "ui"), None
            )
            if not_integer is not None:
                raise ValueError(f"{not_integer} does not hold whole numbers")
            return {name: values.astype(np.int64) for name, values in arrays.items()}
    except FileNotFoundError:
        raise CountsError(
            f"{samples_file}: the per-sample counts of {path.name} are missing; keep both files together or "
            "profile the network again"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CountsError(
            f"{samples_file}: not the per-sample counts of {path.name} ({error}): profile the network again"
        ) from None


BLOCK_BYTES = 4 * 2**20
IN_MEMORY_BYTES = 32 * 2**20  # limit for the per-sample counts of a network; larger ones are kept in a file


def blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Consecutive blocks of (rows, samples), a few megabytes each; only one block of a mapped file is in memory."""
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
        _release_pages(values)


def _release_pages(values: npt.NDArray[Any]) -> None:
    """Release the memory pages of a mapped file; they are read again on the next access."""
    base: Any = values
    if not isinstance(values, np.memmap) or values.mode != "r":
        return
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


class PerSampleArrays:
    """Per-sample counts under construction, (rows, samples) int64 per column of ``PER_SAMPLE``, initially zero.

    In memory up to ``IN_MEMORY_BYTES``, else in an unnamed file in ``folder`` that is deleted with the arrays.
    """

    def __init__(self, rows: int, samples: int, folder: Path | None) -> None:
        self.shape, self._folder = (rows, samples), folder or tempfile.gettempdir()
        self._size = rows * samples * 8
        is_large = self._size * len(PER_SAMPLE) > IN_MEMORY_BYTES
        self._arrays = {} if is_large else {name: np.zeros(self.shape, np.int64) for name in PER_SAMPLE}
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".samples-") if is_large else None  # noqa: SIM115

    def __enter__(self) -> PerSampleArrays:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, column: str, row: int, sample: int, values: npt.NDArray[np.int64]) -> None:
        """Write (n, m) values, starting at this row and sample. Raises OutputError if the disk is full."""
        if self._file is None:
            self._arrays[column][row : row + len(values), sample : sample + values.shape[1]] = values
            return
        for at, line in enumerate(values, start=row):
            if line.any():  # the file is sparse: bytes never written are zero and take no space
                self._file.seek(PER_SAMPLE.index(column) * self._size + (at * self.shape[1] + sample) * 8)
                self._write_bytes(line.tobytes())

    def arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """The finished arrays; mapped ones are read-only."""
        if self._file is None:
            return self._arrays
        self._write_bytes(b"")
        self._file.truncate(len(PER_SAMPLE) * self._size)
        return {
            name: np.memmap(self._file, np.int64, "r", index * self._size, self.shape)
            for index, name in enumerate(PER_SAMPLE)
        }

    def _write_bytes(self, content: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(content)
            if not content:
                self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self._folder}: the per-sample counts cannot be written ({error.strerror}); free disk space, or "
                "set TMPDIR to a folder with more"
            ) from error


def write_samples(path: Path, arrays: Mapping[str, npt.NDArray[np.int64]]) -> None:
    """Write what ``numpy.savez_compressed`` would of the arrays in their smallest dtypes, block by block."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            largest = max((int(block.max(initial=0)) for block in blocks(values)), default=0)
            dtype = np.min_scalar_type(largest)
            headers = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": values.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, headers)
                for block in blocks(values):
                    member.write(block.astype(dtype).tobytes())


def _read_large(archive: zipfile.ZipFile) -> dict[str, npt.NDArray[np.int64]] | None:
    """The arrays of a side file too large for memory, read row by row; None for smaller or unexpected ones."""
    members = {name: f"{name}.npy" for name in PER_SAMPLE}
    headers = {}
    for name, member in members.items():
        with archive.open(member) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                return None
            headers[name] = np.lib.format.read_array_header_1_0(stream)
    shapes = {shape for shape, _, _ in headers.values()}
    shape = next(iter(shapes))
    is_plain = len(shapes) == 1 and len(shape) == 2 and all(not f and t.kind in "ui" for _, f, t in headers.values())
    if not is_plain or shape[0] * shape[1] * 8 * len(PER_SAMPLE) <= IN_MEMORY_BYTES:
        return None
    with PerSampleArrays(shape[0], shape[1], None) as rows:
        for name, member in members.items():
            dtype = headers[name][2]
            with archive.open(member) as stream:
                np.lib.format.read_magic(stream)
                np.lib.format.read_array_header_1_0(stream)
                for row in range(shape[0]):
                    content = stream.read(shape[1] * dtype.itemsize)
                    if len(content) != shape[1] * dtype.itemsize:
                        raise ValueError(f"{name} ends too early")
                    rows.write(name, row, 0, np.frombuffer(content, dtype).astype(np.int64)[None])
                if stream.read(1):
                    raise ValueError(f"{name} is too long")
        return rows.arrays()
