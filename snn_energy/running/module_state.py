"""The state that a network keeps between calls: saved once, restored before every batch and at the end.

A stateful neuron keeps its membrane potential in a buffer or an attribute. A batch that started with the potential of
the previous one would give other spike counts, and a profile that left its potential behind would change the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))  # _parameters, _modules, hooks, training, ...


@dataclass
class _Kept:
    """Buffers and attributes of one module: the objects themselves, and copies of tensor values."""

    module: nn.Module
    buffers: dict[str, Tensor | None]
    attributes: dict[str, Any]
    values: list[tuple[Tensor, Tensor, int | None]]
    lists: list[tuple[list[Any], list[Any]]]
    dicts: list[tuple[dict[Any, Any], dict[Any, Any]]]


class State:
    """Snapshot of the state of a model; ``restore`` puts back the same objects and the values of their tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [_keep(module) for module in model.modules()]
        self._changed: set[tuple[int, Any]] | None = None  # numbers changed by a forward pass; None: any may be

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a forward pass: from now on, only numbers that changed within one are state, others are settings."""
        before = dict(self._numbers())
        try:
            yield
        finally:  # of one that raised, too: what it changed is put back
            changed = {key for key, value in self._numbers() if key in before and before[key] is not value}
            self._changed = changed | (self._changed or set())

    def take_numbers_of(self, other: State) -> None:
        """Restore the numbers that ``other`` knows as state, if it watched a forward pass."""
        self._changed = other._changed

    def _numbers(self) -> Iterator[tuple[tuple[int, Any], Any]]:
        for kept in self.kept:
            tables = [vars(kept.module), *(table for table, _ in kept.dicts)]
            for table in tables:
                yield from (((id(table), key), value) for key, value in table.items() if _is_number(value))

    def _is_state_number(self, table: dict[Any, Any], key: Any, values: Iterable[Any]) -> bool:
        is_changed = self._changed is None or (id(table), key) in self._changed
        return is_changed and any(_is_number(value) for value in values)

    def restore(self) -> None:
        """Restore buffers and state attributes, numbers too; registered parameters and others are not touched."""
        for kept in self.kept:
            buffers = kept.module._buffers
            for name in [name for name in buffers if name not in kept.buffers]:
                del buffers[name]
            for name, buffer in kept.buffers.items():
                if buffers.get(name) is not buffer or name not in buffers:
                    buffers[name] = buffer
            own = vars(kept.module)
            for name in [n for n in own if n not in kept.attributes and n not in _OF_MODULES and _is_state(own[n])]:
                del own[name]
            for name, value in kept.attributes.items():
                now = own.get(name, value)
                is_state = _is_state(now) or _is_state(value) or self._is_state_number(own, name, (now, value))
                if (name not in own or now is not value) and is_state:
                    own[name] = value
            for known, copy in kept.lists:
                if _is_state(known) or _is_state(copy):
                    known[:] = copy
            for table, entries in kept.dicts:
                if _is_state(table) or _is_state(entries):
                    table.clear()
                    table.update(entries)
                for key, value in entries.items():
                    if self._is_state_number(table, key, (value,)):
                        table[key] = value
            for tensor, copied, version in kept.values:
                if version is None or tensor._version != version:
                    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                        tensor.copy_(copied)


def holds_inference_tensors(model: nn.Module) -> bool:
    """True if a tensor of the model was made under inference mode, such as a state that an evaluation left behind."""
    tensors: list[Tensor] = list(model.parameters())
    for module in model.modules():
        own = [value for name, value in vars(module).items() if name not in _OF_MODULES]
        for value in [*own, *module._buffers.values()]:
            _gather(value, tensors, [], [], set(), DEPTH)
    return any(tensor.is_inference() for tensor in tensors)


DEPTH = 6  # levels of nested containers that are searched


def _keep(module: nn.Module) -> _Kept:
    attributes = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
    buffers = dict(module._buffers)
    tensors: list[Tensor] = []
    lists: list[list[Any]] = []
    dicts: list[dict[Any, Any]] = []
    seen: set[int] = set()
    for value in [*attributes.values(), *buffers.values()]:
        _gather(value, tensors, lists, dicts, seen, DEPTH)
    return _Kept(
        module,
        buffers,
        attributes,
        [(tensor, tensor.detach().clone(), version_of(tensor)) for tensor in tensors],
        [(value, list(value)) for value in lists],
        [(table, dict(table)) for table in dicts],
    )


def _gather(
    value: Any,
    tensors: list[Tensor],
    lists: list[list[Any]],
    dicts: list[dict[Any, Any]],
    seen: set[int],
    depth: int,
) -> None:
    """Collect every tensor and mutable container in a value: in lists, tuples, dicts and plain objects."""
    if value is None or id(value) in seen or depth == 0:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, (list, tuple)):
        if isinstance(value, list):
            lists.append(value)
        for item in value:
            _gather(item, tensors, lists, dicts, seen, depth - 1)
    elif isinstance(value, dict):
        dicts.append(value)
        for item in value.values():
            _gather(item, tensors, lists, dicts, seen, depth - 1)
    elif _is_plain_object(value):
        dicts.append(vars(value))
        for item in list(vars(value).values()):
            _gather(item, tensors, lists, dicts, seen, depth - 1)


def _is_plain_object(value: Any) -> bool:
    """True for an instance of a user-defined class that has attributes and is no module, function or class."""
    if isinstance(value, (type, nn.Module)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.partition(".")[0] not in ("builtins", "torch", "typing")


def version_of(tensor: Tensor) -> int | None:
    """The tensor's counter of in-place changes; None for inference tensors, which have no counter."""
    return None if tensor.is_inference() else tensor._version


def _is_number(value: Any) -> bool:
    """True for a number, such as a count of calls that decides what a neuron does next."""
    return isinstance(value, (int, float))


def _is_state(value: Any, depth: int = DEPTH) -> bool:
    """True for a non-parameter tensor or a container that holds one (an empty list may hold one later)."""
    if depth == 0:
        return False
    if isinstance(value, (list, tuple)):
        return not value or any(_is_state(item, depth - 1) for item in value if item != [] and item is not None)
    if isinstance(value, dict):
        return any(_is_state(item, depth - 1) for item in value.values())
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    return _is_plain_object(value) and any(_is_state(item, depth - 1) for item in vars(value).values())
