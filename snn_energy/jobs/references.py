"""Networks and data by reference: ``package.module:function`` or ``file.py:function``, the user's own code.

Referenced code is executed, as it is the user's own. (Code in a checkpoint never is.)
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_energy.core.errors import ModelError, SnnEnergyError, nearest


def is_reference(text: str) -> bool:
    """True for ``package.module:function`` and ``file.py:function``; registry names hold no colon."""
    return ":" in text


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """``["T=4", "sizes=[3, 5]", '{"depth": 2}']`` -> one mapping. Raises ModelError.

    Values are Python literals (numbers, strings, lists, True, None); anything else is a string. An item that begins
    with a brace is a JSON object.
    """
    found: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                given = json.loads(text)
            except json.JSONDecodeError as error:
                raise ModelError(
                    f"--model-args {text}: not JSON ({error.msg}); write name=value or a JSON object"
                ) from None
            if not isinstance(given, dict):
                raise ModelError(f'--model-args {text}: must be a JSON object, such as {{"T": 4}}')
        else:
            name, equals, value = text.partition("=")
            if not equals or not name.strip().isidentifier():
                raise ModelError(f"--model-args {text}: write name=value or a JSON object")
            given = {name.strip(): _literal(value)}
        duplicates = sorted(set(given) & set(found))
        if duplicates:
            raise ModelError(f"--model-args: '{duplicates[0]}' is given twice")
        found |= given
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def call_reference(
    reference: str, arguments: Mapping[str, Any] | None = None, error: type[SnnEnergyError] = ModelError
) -> Any:
    """The result of a referenced function for these keyword arguments; a module or a non-callable is returned as it is.

    Raises ``error``, one line with the file, the line and the fix, for code that cannot be imported, a name that does
    not exist, arguments that do not fit, and any exception that the function raises.
    """
    target = _resolve(reference, error)
    options = dict(arguments or {})
    if not callable(target) or _is_module(target):
        if options:
            raise error(f"{reference}: is not callable, so it takes no arguments ({', '.join(options)})")
        return target
    try:
        inspect.signature(target).bind(**options)
    except TypeError as mismatch:
        raise error(
            f"{reference}{_signature(target)}: {mismatch}; pass its arguments with --model-args name=value"
        ) from None
    except ValueError:  # some built-in functions have no signature
        pass
    from snn_energy.running.backends import any_backend, backend_hint

    try:
        with any_backend():
            return target(**options)
    except SnnEnergyError:
        raise
    except (Exception, SystemExit) as problem:
        what = f"{type(problem).__name__}{_error_location(problem)}: {problem}"
        raise error(f"{reference}: raised {what}{backend_hint(problem)}") from problem


def build_model(reference: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """The nn.Module that a reference returns. Raises ModelError if it returns something else."""
    from torch import nn

    result = call_reference(reference, arguments)
    if isinstance(result, (tuple, list)) and result and isinstance(result[0], nn.Module):
        raise ModelError(
            f"{reference}: returns {len(result)} objects, the first a module; "
            "write a function that returns only the module"
        )
    if not isinstance(result, nn.Module):
        what = f"the class {result.__name__}" if isinstance(result, type) else f"a {type(result).__name__}"
        raise ModelError(f"{reference}: returns {what}, not a torch.nn.Module; return the network itself")
    return result


def build_loader(reference: str) -> Iterable[Any]:
    """The batches, x or (x, y), that a reference returns. Raises DataError if the result is not an iterable of them."""
    from snn_energy.core.errors import DataError

    result = call_reference(reference, None, DataError)
    if type(result).__name__ == "Tensor":
        raise DataError(f"{reference}: returns one tensor; return a list of batches, such as [x]")
    if isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
        raise DataError(f"{reference}: returns a {type(result).__name__}; return an iterable of x or (x, y) batches")
    return result


def _is_module(target: Any) -> bool:
    from torch import nn

    return isinstance(target, nn.Module)


def _resolve(reference: str, error: type[SnnEnergyError]) -> Any:
    module_or_file, _, name = reference.rpartition(":")
    if not module_or_file or not name:
        raise error(f"{reference}: write package.module:function or file.py:function")
    module = (
        _import_file(Path(module_or_file), reference, error)
        if module_or_file.endswith(".py")
        else _import_module(module_or_file, reference, error)
    )
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            known = [word for word in dir(target) if not word.startswith("_")]
            raise error(f"{reference}: {module_or_file} has no '{part}'{nearest(part, known)}")
        target = getattr(target, part)
    return target


def _import_file(path: Path, reference: str, error: type[SnnEnergyError]) -> Any:
    if not path.is_file():
        raise error(f"{reference}: no such file as {path}; give a path relative to the current folder")
    name = f"_snn_energy_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{reference}: {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up here
    with _import_path_with(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as problem:
            del sys.modules[name]
            raise error(_import_error_text(reference, problem)) from problem
    return module


def _import_module(module_name: str, reference: str, error: type[SnnEnergyError]) -> Any:
    with _import_path_with(Path.cwd()):
        try:
            return importlib.import_module(module_name)
        except (Exception, SystemExit) as problem:
            raise error(_import_error_text(reference, problem)) from problem


class _import_path_with:  # noqa: N801 a context manager, named as a function
    """Put this folder first on the import path, as ``python file.py`` and ``python -m package`` do."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        sys.path.insert(0, self.folder)

    def __exit__(self, *error: object) -> None:
        if self.folder in sys.path:
            sys.path.remove(self.folder)


def _import_error_text(reference: str, problem: BaseException) -> str:
    from snn_energy.running.backends import backend_hint

    what = f"{type(problem).__name__}{_error_location(problem)}: {problem}"
    return f"{reference}: cannot be imported: {what}{backend_hint(problem)}"


def _error_location(problem: BaseException) -> str:
    """The text `` (file:line)`` of the line where the user's code failed."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f" ({Path(problem.filename).name}:{problem.lineno})"
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if "importlib" not in f.filename]
    own = [f for f in frames if f.filename != __file__]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def _signature(function: Any) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"
