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
                raise ModelError(f'--model-args {text}: a JSON object is wanted, such as {{"T": 4}}')
        else:
            name, equals, value = text.partition("=")
            if not equals or not name.strip().isidentifier():
                raise ModelError(f"--model-args {text}: write name=value or a JSON object")
            given = {name.strip(): _literal(value)}
        twice = sorted(set(given) & set(found))
        if twice:
            raise ModelError(f"--model-args: '{twice[0]}' is given twice")
        found |= given
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def build(reference: str, arguments: Mapping[str, Any] | None = None, error: type[SnnEnergyError] = ModelError) -> Any:
    """The result of a referenced function for these keyword arguments; a module or a non-callable is returned as it is.

    Raises ``error``, one line with the file, the line and the fix, for code that cannot be imported, a name that does
    not exist, arguments that do not fit, and any exception that the function raises.
    """
    found = _named(reference, error)
    given = dict(arguments or {})
    if not callable(found) or _is_module(found):
        if given:
            raise error(f"{reference}: is no function, so it takes no arguments ({', '.join(given)})")
        return found
    try:
        inspect.signature(found).bind(**given)
    except TypeError as misfit:
        raise error(
            f"{reference}{_signature(found)}: {misfit}; give what it wants with --model-args name=value"
        ) from None
    except ValueError:  # some built-in functions have no signature
        pass
    try:
        return found(**given)
    except SnnEnergyError:
        raise
    except (Exception, SystemExit) as problem:
        raise error(f"{reference}: raised {type(problem).__name__}{_place(problem)}: {problem}") from problem


def build_model(reference: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """The nn.Module that a reference returns. Raises ModelError if it returns something else."""
    from torch import nn

    made = build(reference, arguments)
    if isinstance(made, (tuple, list)) and made and isinstance(made[0], nn.Module):
        raise ModelError(
            f"{reference}: gives {len(made)} things, the first a module; write a function that gives it alone"
        )
    if not isinstance(made, nn.Module):
        what = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
        raise ModelError(f"{reference}: gives {what}, not a torch.nn.Module; return the network itself")
    return made


def build_loader(reference: str) -> Iterable[Any]:
    """The batches, x or (x, y), that a reference returns. Raises DataError if the result is not an iterable of them."""
    from snn_energy.core.errors import DataError

    made = build(reference, None, DataError)
    if type(made).__name__ == "Tensor":
        raise DataError(f"{reference}: gives one tensor; return a list of batches, such as [x]")
    if isinstance(made, (str, bytes, Mapping)) or not isinstance(made, Iterable):
        raise DataError(f"{reference}: gives a {type(made).__name__}; return an iterable of x or (x, y) batches")
    return made


def _is_module(thing: Any) -> bool:
    from torch import nn

    return isinstance(thing, nn.Module)


def _named(reference: str, error: type[SnnEnergyError]) -> Any:
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise error(f"{reference}: write package.module:function or file.py:function")
    module = _of_file(Path(place), reference, error) if place.endswith(".py") else _of_package(place, reference, error)
    thing: Any = module
    for part in name.split("."):
        if not hasattr(thing, part):
            known = [word for word in dir(thing) if not word.startswith("_")]
            raise error(f"{reference}: {place} has no '{part}'{nearest(part, known)}")
        thing = getattr(thing, part)
    return thing


def _of_file(path: Path, reference: str, error: type[SnnEnergyError]) -> Any:
    if not path.is_file():
        raise error(f"{reference}: no such file as {path}; give a path from the folder you are in")
    name = f"_snn_energy_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{reference}: {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up here
    with _importing(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as problem:
            del sys.modules[name]
            raise error(_not_imported(reference, problem)) from problem
    return module


def _of_package(place: str, reference: str, error: type[SnnEnergyError]) -> Any:
    with _importing(Path.cwd()):
        try:
            return importlib.import_module(place)
        except (Exception, SystemExit) as problem:
            raise error(_not_imported(reference, problem)) from problem


class _importing:  # noqa: N801 a context manager, named as a function
    """Put this folder first on the import path, as ``python file.py`` and ``python -m package`` do."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        sys.path.insert(0, self.folder)

    def __exit__(self, *error: object) -> None:
        if self.folder in sys.path:
            sys.path.remove(self.folder)


def _not_imported(reference: str, problem: BaseException) -> str:
    return f"{reference}: cannot be imported: {type(problem).__name__}{_place(problem)}: {problem}"


def _place(problem: BaseException) -> str:
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
