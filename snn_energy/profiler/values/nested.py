"""Tensors in nested arguments and results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """Tensors among arguments, in lists and tuples too, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())
