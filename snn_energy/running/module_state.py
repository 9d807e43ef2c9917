"""The state that a network keeps between calls: saved once, restored before every batch and at the end.

A stateful neuron keeps its membrane potential in a buffer or an attribute. A batch that started with the potential of
the previous one would give other spike counts, and a profile that left its potential behind would change the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snn_energy.running.containers import (
    MISSING,
    WHOLE,
    Contents,
    changed_keys,
    copy_of,
    is_state,
    put_back,
    put_back_array,
    put_back_keys,
)

_OF_MODULES = frozenset(vars(nn.Module()))  # _parameters, _modules, hooks, training, ...


@dataclass
class _Kept:
    """Buffers and attributes of one module: the objects themselves, and copies of the contents of those that change.

    tables: the attributes, dictionaries, the attributes of plain objects. sequences: lists, deques, sets.
    """

    module: nn.Module
    buffers: dict[str, Tensor | None]
    tensors: list[tuple[Tensor, Tensor, int | None]]
    arrays: list[tuple[NDArray[Any], NDArray[Any]]]
    tables: list[tuple[dict[Any, Any], dict[Any, Any]]]
    sequences: list[tuple[Any, Any]]


class State:
    """Snapshot of the state of a model; ``restore`` puts back the same objects and their contents.

    Tensors and arrays are state. Whatever else an attribute or a container holds (numbers, texts, ...) is state if it
    changed in a watched forward pass; while none was watched, all of it but functions and modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self.kept: list[_Kept] = []
        modules = list(model.modules())
        seen = set(map(id, modules))
        for module in modules:  # those in lists and dictionaries, which no network registers, join at the end
            kept, found = _keep(module)
            self.kept.append(kept)
            for other in (inner for each in found for inner in each.modules()):
                if id(other) not in seen:
                    seen.add(id(other))
                    modules.append(other)
        self._changed: set[tuple[int, Hashable]] | None = None  # changed in a forward pass; None: anything may be

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a forward pass: from now on, only what changed within one is state, what else changes are settings."""
        before = [(container, copy_of(container)) for container, _ in self._containers()]
        try:
            yield
        finally:  # of one that raised, too: what it changed is put back
            changed = {(id(container), key) for container, copy in before for key in changed_keys(container, copy)}
            self._changed = changed | (self._changed or set())

    def take_changes_of(self, other: State) -> None:
        """Restore what ``other`` knows as state as well, if it watched a forward pass."""
        if other._changed is not None:
            self._changed = other._changed | (self._changed or set())

    def _containers(self) -> Iterator[tuple[Any, Any]]:
        for kept in self.kept:
            yield from kept.tables
            yield from kept.sequences

    def _is_changed(self, container: Any, key: Hashable) -> bool:
        return self._changed is not None and (id(container), key) in self._changed

    def _is_state(self, table: dict[Any, Any], key: Hashable, values: tuple[Any, Any]) -> bool:
        if key in _OF_MODULES and "_parameters" in table:
            return False
        if values[1] is MISSING and isinstance(values[0], nn.Module):
            return False  # a module that a first forward makes stays
        if self._is_changed(table, key) or any(is_state(value) for value in values):
            return True
        if self._changed is not None:
            return False
        return not any(callable(value) for value in values) or all(isinstance(value, nn.Module) for value in values)

    def _is_state_as_a_whole(self, sequence: Any, content: Any) -> bool:
        if self._changed is None or self._is_changed(sequence, WHOLE):
            return True
        return is_state(sequence) or is_state(content)

    def restore(self) -> None:
        """Restore buffers, attributes and what they hold; registered parameters and settings are not touched."""
        for kept in self.kept:
            buffers = kept.module._buffers
            put_back_keys(buffers, kept.buffers, changed_keys(buffers, kept.buffers))
            for table, content in kept.tables:
                changed = changed_keys(table, content)
                if changed:
                    pairs = {key: (table.get(key, MISSING), content.get(key, MISSING)) for key in changed}
                    put_back_keys(table, content, {key for key in changed if self._is_state(table, key, pairs[key])})
            for sequence, content in kept.sequences:
                if changed_keys(sequence, content) and self._is_state_as_a_whole(sequence, content):
                    put_back(sequence, content)
            for array, copied in kept.arrays:
                put_back_array(array, copied)
            for tensor, values, version in kept.tensors:
                if version is None or tensor._version != version:
                    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                        tensor.copy_(values)


def holds_inference_tensors(model: nn.Module) -> bool:
    """True if a tensor of the model was made under inference mode, such as a state that an evaluation left behind."""
    tensors = [*model.parameters(), *(tensor for module in model.modules() for tensor in _contents(module).tensors)]
    return any(tensor.is_inference() for tensor in tensors)


def _contents(module: nn.Module) -> Contents:
    """What the attributes and buffers of a module hold."""
    contents = Contents()
    for value in [*(v for name, v in vars(module).items() if name not in _OF_MODULES), *module._buffers.values()]:
        contents.add(value)
    return contents


def _keep(module: nn.Module) -> tuple[_Kept, list[nn.Module]]:
    """What a module holds, and the modules among it that are not registered."""
    own, buffers, contents = vars(module), dict(module._buffers), _contents(module)
    kept = _Kept(
        module,
        buffers,
        [(tensor, tensor.detach().clone(), version_of(tensor)) for tensor in contents.tensors],
        [(array, array.copy()) for array in contents.arrays],
        [(table, dict(table)) for table in (own, module._modules, *contents.tables)],
        [(sequence, copy_of(sequence)) for sequence in contents.sequences],
    )
    return kept, contents.modules


def version_of(tensor: Tensor) -> int | None:
    """The tensor's counter of in-place changes; None for inference tensors, which have no counter."""
    return None if tensor.is_inference() else tensor._version
