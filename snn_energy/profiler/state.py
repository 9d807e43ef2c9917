"""The state that a network keeps between calls: found, put back before every batch and at the end.

A stateful neuron keeps its potential in a buffer or an attribute. A batch that starts with the last one's potential
counts other samples' spikes, and a profile that leaves its own potential behind changes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module()))  # _parameters, _modules, hooks, training, ...


@dataclass
class _Kept:
    """One module's buffers and attributes: the objects themselves, and copies of the values of tensors."""

    module: nn.Module
    buffers: dict[str, Tensor | None]
    attributes: dict[str, Any]
    values: list[tuple[Tensor, Tensor, int | None]]
    lists: list[tuple[list[Any], list[Any]]]
    dicts: list[tuple[dict[Any, Any], dict[Any, Any]]]


class State:
    """The state of a model at one moment; ``restore`` puts it back, in place where a tensor is still the same."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [_keep(module) for module in model.modules()]

    def restore(self) -> None:
        """Put buffers and state attributes back; other attributes, and parameters, are none of its business."""
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
                if (name not in own or now is not value) and (_is_state(now) or _is_state(value)):
                    own[name] = value
            for known, copy in kept.lists:
                if _is_state(known) or _is_state(copy):
                    known[:] = copy
            for table, entries in kept.dicts:
                if _is_state(table) or _is_state(entries):
                    table.clear()
                    table.update(entries)
            for tensor, copied, version in kept.values:
                if version is None or tensor._version != version:
                    with torch.no_grad():
                        tensor.copy_(copied)


def _keep(module: nn.Module) -> _Kept:
    attributes = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
    buffers = dict(module._buffers)
    held = [value for value in [*attributes.values(), *buffers.values()] if value is not None]
    lists = [value for value in held if isinstance(value, list)]
    dicts = [value for value in held if isinstance(value, dict)]
    tensors = [value for value in held if isinstance(value, Tensor)]
    for group in (*lists, *(table.values() for table in dicts), *(v for v in held if isinstance(v, tuple))):
        tensors += [value for value in group if isinstance(value, Tensor)]
    values = [(tensor, tensor.detach().clone(), _version(tensor)) for tensor in tensors]
    return _Kept(
        module,
        buffers,
        attributes,
        values,
        [(value, list(value)) for value in lists],
        [(table, dict(table)) for table in dicts],
    )


def _version(tensor: Tensor) -> int | None:
    """Counts changes in place; tensors of inference mode have none."""
    return None if tensor.is_inference() else tensor._version


def _is_state(value: Any) -> bool:
    """A tensor, or a list, tuple or dict that holds one (an empty list may come to hold one)."""
    if isinstance(value, (list, tuple)):
        return not value or any(isinstance(item, Tensor) for item in value)
    if isinstance(value, dict):
        return any(isinstance(item, Tensor) for item in value.values())
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
