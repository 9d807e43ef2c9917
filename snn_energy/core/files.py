"""Atomic writes: a result is written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snn_energy.core.errors import OutputError

Writer = Callable[[Path], object]


def write_atomically(path: str | Path, write: Writer) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then rename it to ``path`` atomically.

    If writing fails, an existing file at ``path`` is unchanged and no partial file remains.
    Raises OutputError if the folder does not exist or cannot be written.
    """
    write_all_atomically({Path(path): write})


def write_all_atomically(writers: Mapping[Path, Writer]) -> None:
    """Write files that belong together: all are filled before the first is moved into place. Raises OutputError."""
    temporary_of: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            target = _resolved_output(path)
            temporary_of[target] = _temporary(target)
            write(temporary_of[target])
            temporary_of[target].chmod(0o666 & ~_umask())
        for target, temporary in temporary_of.items():
            temporary.replace(target)
    except OSError as error:
        raise OutputError(
            f"{', '.join(str(p) for p in writers)}: cannot be written ({error.strerror}); give another path"
        ) from error
    finally:
        for temporary in temporary_of.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _resolved_output(path: Path) -> Path:
    """The path that will be written, links resolved. Raises OutputError if it is a folder or a device."""
    try:
        target = path.resolve()
        if target.is_dir():
            raise OutputError(f"{path}: is a folder; give a file path")
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: is a device or a pipe; give a file path")
    except (OSError, RuntimeError) as error:  # name too long, or links that form a cycle
        raise OutputError(f"{path}: cannot be written ({error}); give another path") from error
    return target


def require_distinct_paths(outputs: Iterable[str | Path | None], inputs: Iterable[str | Path] = ()) -> None:
    """Raise OutputError if two outputs are the same file, or an output would overwrite an input."""
    read = {Path(path).resolve() for path in inputs}
    targets: set[Path] = set()
    for path in outputs:
        if path is None:
            continue
        target = _resolved_output(Path(path))
        if target.exists() and any(folder.is_dir() and folder in target.parents for folder in read):
            raise OutputError(f"{path}: is part of the input and would be overwritten; give another path")
        if target in read:
            raise OutputError(f"{path}: is the input itself and would be overwritten; give another path")
        if target in targets:
            raise OutputError(f"{path}: is given for two outputs; give two different paths")
        targets.add(target)


def _temporary(path: Path) -> Path:
    """Create an empty temporary file next to ``path``. Raises OutputError if that fails."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another path") from error
    os.close(handle)
    return Path(name)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises OutputError."""
    write_texts({Path(path): text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several UTF-8 texts with ``write_all_atomically``. Raises OutputError."""

    def writer(text: str) -> Writer:
        return lambda temporary: temporary.write_bytes(text.encode())

    write_all_atomically({path: writer(text) for path, text in texts.items()})


def make_folder(path: str | Path) -> Path:
    """Create a folder if it is missing, and return it. Raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be created ({error.strerror}); give another path") from error
    return folder


def require_writable(path: str | Path) -> None:
    """Raise OutputError before a long computation if its result could not be written to ``path``."""
    if not str(path):
        raise OutputError("the output path is empty; give a file path")
    folder = _resolved_output(Path(path)).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or give another path")
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: cannot be written; give the path of a file in a folder you may write to")


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, on this machine only. Raises OutputError if another process holds it."""
    try:
        import fcntl
    except ImportError:  # the platform has no fcntl
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OutputError(f"{folder}: another run is writing there; wait for it or stop it") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)
