"""What a loader gives: inputs of a network, one tensor or several, and labels.

A batch is ``x``, ``(x, y)`` or a dict. ``x`` is one tensor, a tuple or list of inputs in the order of the forward, or a
dict of inputs by the names of its arguments. The second item of a tuple is the labels, further ones are not read. In a
dict that is the whole batch, the labels are the entry named as in ``LABELS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError

LABELS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Inputs:
    """Several inputs of a network: positional ones, and those by name. ``is_one``: handed over as one argument.

    Shape and format are those of ``main``, the first tensor.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    is_one: bool = False

    @property
    def main(self) -> Tensor:
        """The first tensor."""
        return next(self.tensors())

    @property
    def shape(self) -> torch.Size:
        """The shape of the first tensor."""
        return self.main.shape

    @property
    def dtype(self) -> torch.dtype:
        """The format of the first tensor."""
        return self.main.dtype

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return self.main.device

    def dim(self) -> int:
        """Number of axes of the first tensor."""
        return self.main.dim()

    def numel(self) -> int:
        """Number of elements of the first tensor."""
        return self.main.numel()

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, in order."""
        yield from _tensors_in([*self.args, *(self.kwargs or {}).values()])

    def map(self, change: Callable[[Tensor], Any]) -> Inputs:
        """The same inputs with every tensor changed."""
        kwargs = None if self.kwargs is None else {key: _mapped(value, change) for key, value in self.kwargs.items()}
        return Inputs(tuple(_mapped(value, change) for value in self.args), kwargs, self.is_one)

    def to(self, device: torch.device) -> Inputs:
        """The same inputs on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def call(self, model: nn.Module) -> Any:
        """The result of the network for these inputs."""
        if not self.is_one:
            return model(*self.args, **(self.kwargs or {}))
        return model(dict(self.kwargs) if self.kwargs is not None else self.args)


def call(model: nn.Module, x: Tensor | Inputs) -> Any:
    """The result of a network for one tensor, or for several inputs."""
    return x.call(model) if isinstance(x, Inputs) else model(x)


def main_of(x: Any) -> Any:
    """The first tensor of several inputs; anything else as it is."""
    return x.main if isinstance(x, Inputs) else x


def unpack(batch: Any) -> tuple[Any, Any]:
    """(inputs, labels) of a batch; labels are None if it has none. Raises ProfilingError for an empty one."""
    if isinstance(batch, Inputs):
        return batch, None
    if isinstance(batch, Mapping):
        label = next((name for name in LABELS if name in batch), None)
        inputs = {name: value for name, value in batch.items() if name != label}
        return _inputs_of(inputs), None if label is None else batch[label]
    if not isinstance(batch, (list, tuple)):
        return batch, None
    if not batch:
        raise ProfilingError("the loader gave an empty batch tuple; give x or (x, y)")
    return _inputs_of(batch[0]), batch[1] if len(batch) > 1 else None


def _inputs_of(x: Any) -> Any:
    if isinstance(x, Mapping) and any(True for _ in _tensors_in([x])):
        return Inputs(kwargs=dict(x))
    if isinstance(x, (list, tuple)) and any(True for _ in _tensors_in(x)):
        return Inputs(tuple(x))
    return x


def as_taken(model: nn.Module, x: Any) -> Any:
    """Inputs as the forward of a model takes them: apart, or as one tuple or dict. Raises ProfilingError if neither."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # forward has no signature
        return x
    if not isinstance(x, Inputs):
        return x
    try:
        signature.bind(*x.args, **(x.kwargs or {}))
    except TypeError as misfit:
        try:
            signature.bind(x.args)
        except TypeError:
            given = ", ".join(x.kwargs) if x.kwargs is not None else f"{len(x.args)} in a tuple"
            raise ProfilingError(
                f"{type(model).__name__}: its forward{signature} does not take the loader's inputs ({given}: "
                f"{misfit}); give them in its order as ((x1, x2), y), or by its names as ({{'name': x}}, y)"
            ) from None
        return Inputs(x.args, x.kwargs, is_one=True)
    return x


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_mapped(item, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
