"""Tensors from a pickled file without running code from it."""

from __future__ import annotations

import _compat_pickle
import builtins
import io
import pickle
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from snn_energy.core.errors import CheckpointError

CONVERT_HINT = (
    "if you trust the file, convert it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)
SAVE_STATE_HINT = (
    "if you trust the file, save its state_dict(), torch.save(model.state_dict(), 'weights.pt'), "
    "and give the code with --model file.py:function"
)
# What torch.load raises on files that are not state dicts; all of them mean the same to the user.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    OSError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)

ZIP_MAGIC = b"PK\x03\x04"  # first bytes of a PyTorch file since 1.6; earlier ones are pickles
_RUNS_CODE = (
    *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "ctypes", "importlib", "runpy"),
    *("code", "marshal", "pickle", "_pickle", "webbrowser"),
)


class Inert:
    """Stand-in for a class or function named in a file: accepts any arguments and state, keeps none, does nothing."""

    stands_for = "object"

    def __new__(cls, *_: Any) -> Any:
        """A new object, whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class InertMapping(Inert):
    """The same for dict-like classes: the unpickler must be able to insert items."""

    def __new__(cls, *_: Any) -> Any:
        """An empty dict."""
        return OrderedDict()


class InertList(Inert):
    """The same for list-like classes."""

    def __new__(cls, *_: Any) -> Any:
        """An empty list."""
        return []


def load_tensors_only(path: str | Path) -> Any:
    """Content of a PyTorch file, on the CPU, by the restricted unpickler, which runs no code of it.

    Objects of classes that torch does not know are ``Inert``. Raises CheckpointError.
    """
    file = existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(9)
    if not start.startswith((ZIP_MAGIC, b"\x80")):
        hint = "; it looks like the former: rename it to .safetensors" if start[8:] == b"{" else ""
        raise CheckpointError(f"{path}: neither a safetensors file nor a PyTorch state dict{hint}")
    names: set[str] = set()
    try:
        names = _referenced_names(file, start.startswith(ZIP_MAGIC))
        unsafe = ", ".join(sorted(filter(_could_run_code, names)))
        if unsafe:
            raise CheckpointError(
                f"{path}: a pickle that names {unsafe}; loading it could run code, so it was not loaded; {CONVERT_HINT}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats; the caller checks the result
            return _load_inertly(file, names)
    except _UNREADABLE as error:
        if any(name.startswith("torch.nn.") and "Parameter" not in name for name in names):
            raise CheckpointError(
                f"{path}: holds a whole pickled module, not a state dict; {SAVE_STATE_HINT}"
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path}: a pickle that holds more than weights, or is damaged; loading it could run code, so it "
                f"was not loaded; {CONVERT_HINT}"
            ) from error
        raise CheckpointError(
            f"{path}: truncated, damaged or not a PyTorch state dict ({type(error).__name__}); save it "
            f"again or {CONVERT_HINT}"
        ) from error


def _load_inertly(path: Path, names: set[str]) -> Any:
    """torch.load with an inert class for every name. torch's own names come first, so that tensors stay tensors.

    The unpickler fills only true dicts and lists, so a class that turns out to be one is retried as such.
    """
    stub_bases: dict[str, type[Inert]] = dict.fromkeys(names, Inert)
    while True:
        stubs: list[Any] = [(type(name, (kind,), {"stands_for": name}), name) for name, kind in stub_bases.items()]
        try:
            with torch.serialization.safe_globals(stubs):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            container_base = InertMapping if "SETITEM" in str(error) else InertList
            found = [name for name in names if f"'{__name__}.{name}'" in str(error) and stub_bases[name] is Inert]
            if len(found) != 1:
                raise
            stub_bases[found[0]] = container_base


def _referenced_names(path: Path, zipped: bool) -> set[str]:
    """Every class and function that the pickles of a PyTorch file name. Raises CheckpointError for TorchScript."""
    names: set[str] = set()
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            if "constants.pkl" in members:
                raise CheckpointError(
                    f"{path}: a TorchScript archive, which is code and weights in one; {SAVE_STATE_HINT}"
                )
            if "data.pkl" in members:
                _collect_names(io.BytesIO(archive.read(members["data.pkl"])), 1, names)
    else:
        with path.open("rb") as stream:
            _collect_names(stream, 4, names)  # of the old format: magic number, version, system, content
    return names


def _collect_names(stream: Any, pickles: int, names: set[str]) -> None:
    """Add the names in a stream's pickles, in the spellings of Python 2 and 3. Reads opcodes, runs nothing."""
    try:
        for _ in range(pickles):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    names.add(f"{module}.{name}")
                    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
                    names.add(".".join(renamed or (_compat_pickle.IMPORT_MAPPING.get(module, module), name)))
    except (ValueError, IndexError, KeyError):
        pass  # a damaged pickle: torch.load reports it


def _could_run_code(name: str) -> bool:
    """True for names that only a file meant to run code contains. They would be inert too, but it holds no weights."""
    module, _, rest = name.partition(".")
    if module == "builtins":
        return not isinstance(getattr(builtins, rest, None), type)
    return module in _RUNS_CODE


def existing_file(path: str | Path) -> Path:
    """The path of an existing, non-empty file. Raises CheckpointError."""
    file = Path(path)
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}; give a .safetensors checkpoint")
    if file.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty (0 bytes); copy or save it again")
    return file
