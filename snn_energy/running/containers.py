"""Containers in which modules keep state: their contents found, copied, compared and put back."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

DEPTH = 6  # levels of nested containers that are searched
WHOLE: Hashable = ("whole",)  # in place of a key: a container that changes as a whole
MISSING = object()  # in place of a value: the key does not exist


@dataclass
class Contents:
    """What is found in the attributes of a module, at any depth: tensors, arrays, containers, unregistered modules.

    tables: dictionaries, and the attributes of plain objects. sequences: lists, deques and sets.
    """

    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    tables: list[dict[Any, Any]] = field(default_factory=list)
    sequences: list[Any] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def add(self, value: Any, depth: int = DEPTH) -> None:
        """Add a value and what it holds."""
        if value is None or id(value) in self._seen or depth == 0:
            return
        self._seen.add(id(value))
        inner: Any = ()
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, np.memmap):
            return  # a file, such as a whole data set
        elif isinstance(value, np.ndarray):
            self.arrays.append(value)
            inner = value.flat if value.dtype == object else ()
        elif isinstance(value, (list, tuple, deque, set)):
            if not isinstance(value, tuple):
                self.sequences.append(value)
            inner = value
        elif isinstance(value, nn.Module):
            self.modules.append(value)
        elif (table := table_of(value)) is not None:
            self.tables.append(table)
            inner = list(table.values())
        for item in inner:
            self.add(item, depth - 1)


def table_of(value: Any) -> dict[Any, Any] | None:
    """A dictionary itself, or the attributes of an instance of a user-defined class; None for any other value."""
    if isinstance(value, dict):
        return value
    if isinstance(value, (type, nn.Module)) or type(value).__module__.partition(".")[0] in _NOT_PLAIN:
        return None
    return getattr(value, "__dict__", None)


_NOT_PLAIN = ("builtins", "torch", "typing", "numpy")


def copy_of(container: Any) -> Any:
    """A shallow copy of a table or sequence, to compare with and to put back."""
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def changed_keys(container: Any, content: Any) -> set[Hashable]:
    """Keys of a table whose values are other objects than in the copy, or exist in one alone; WHOLE for a sequence."""
    if isinstance(container, set):
        return set() if container == content else {WHOLE}
    is_same = len(container) == len(content) and all(map(operator.is_, container, content))
    if not isinstance(container, dict):
        return set() if is_same else {WHOLE}
    if is_same and all(map(operator.is_, container.values(), content.values())):
        return set()
    return {key for key in (*content, *container) if container.get(key, MISSING) is not content.get(key, MISSING)}


def put_back(container: Any, content: Any) -> None:
    """Give a sequence the contents of its copy."""
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(content)


def put_back_keys(table: dict[Any, Any], content: dict[Any, Any], keys: set[Hashable]) -> None:
    """Give these keys of a table the values of its copy, and its keys their order if they are the same."""
    for key in keys:
        if key in content:
            table[key] = content[key]
        else:
            table.pop(key, None)
    if len(table) == len(content) and table.keys() == content.keys() and list(table) != list(content):
        for key in content:
            table[key] = table.pop(key)


def put_back_array(array: NDArray[Any], content: NDArray[Any]) -> None:
    """Give an array the values of its copy; one that cannot be written is not changed."""
    if array.flags.writeable and array.shape == content.shape:
        array[...] = content


def is_state(value: Any, depth: int = DEPTH) -> bool:
    """True for a non-parameter tensor, an array, or a container that holds one (an empty list may hold one later)."""
    if depth == 0:
        return False
    if isinstance(value, (list, tuple, deque)):
        items = (item for item in value if item is not None and not (isinstance(item, list) and not item))
        return not value or any(is_state(item, depth - 1) for item in items)
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    if isinstance(value, np.ndarray):
        return True
    table = table_of(value)
    return table is not None and any(is_state(item, depth - 1) for item in list(table.values()))
