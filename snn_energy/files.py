"""Writing results whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from snn_energy.errors import OutputError

Writer = Callable[[Path], None]


def write_whole(path: str | Path, write: Writer) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    Whatever stops it, an older file at ``path`` stays as it was and nothing half-written is left behind.
    Raises OutputError where the folder does not exist or cannot be written.
    """
    write_all_whole({Path(path): write})


def write_all_whole(writers: Mapping[Path, Writer]) -> None:
    """Several files that belong together: all are filled before the first is moved to its place. OutputError."""
    filled: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            filled[path] = _temporary(path)
            write(filled[path])
            filled[path].chmod(0o666 & ~_umask())
        for path, temporary in filled.items():
            temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{', '.join(str(p) for p in writers)}: cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        for temporary in filled.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """An empty file beside ``path``. Raises OutputError where there can be none."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the path of a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    os.close(handle)
    return Path(name)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all. Raises OutputError."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_whole(path, write)


def make_folder(path: str | Path) -> Path:
    """The folder, made where it is missing. Raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made ({error.strerror}); choose another place") from error
    return folder


def require_writable(path: str | Path) -> None:
    """Raise OutputError at once where a result that takes long to make could not be written."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; make it or choose another place")
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: cannot be written; give the path of a file in a folder you may write to")
