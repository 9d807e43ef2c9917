"""Tensors in what a network returns: alone, in sequences, dicts, dataclasses and other containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

LOGITS = ("logits", "out", "output", "outputs", "prediction", "predictions", "pred", "x")  # names of a result


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value, in order, each once."""
    yield from _tensors_of(value, set())


def _tensors_of(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen:
        return
    if isinstance(value, Tensor):
        seen.add(id(value))
        yield value
        return
    parts = parts_of(value)
    if parts is not None:
        seen.add(id(value))
        for _, part in parts:
            yield from _tensors_of(part, seen)


def parts_of(value: Any) -> list[tuple[str | None, Any]] | None:
    """The parts of a container, with their names where they have any; None for what is no container."""
    if isinstance(value, Mapping):
        return [(name if isinstance(name, str) else None, part) for name, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (str, bytes, type, Tensor, nn.Module)) or value is None:
        return None
    if isinstance(value, (Sequence, Set)):
        return [(None, part) for part in value]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if type(value).__module__.partition(".")[0] in ("builtins", "torch", "typing", "numpy") or callable(value):
        return None
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    named = {**{name: getattr(value, name) for name in slots if hasattr(value, name)}, **getattr(value, "__dict__", {})}
    return list(named.items()) or None


def result_of(value: Any) -> Any:
    """The tensor that holds the logits of a network's output, or what else it returns in the first place.

    In a container with names: the first of ``LOGITS`` that it has, else the first tensor; in a sequence the first item.
    """
    parts = parts_of(value)
    if parts is None or isinstance(value, list):
        return value
    named = {name: part for name, part in parts if name is not None}
    chosen = next((named[name] for name in LOGITS if isinstance(named.get(name), Tensor)), None)
    if chosen is None and named:
        chosen = next((part for part in named.values() if isinstance(part, Tensor)), None)
    return chosen if chosen is not None else result_of(parts[0][1]) if parts else value


def are_same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """True for as many tensors of the same shapes and values, NaN included."""
    return len(some) == len(others) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(some, others, strict=True)
    )
