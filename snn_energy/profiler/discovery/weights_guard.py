"""Detects and undoes changes of weights in a run that inspects a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.running.module_state import version_of

MOST_COPIED = 50_000_000  # weights, in a run that inspects a network


@dataclass(frozen=True)
class _Held:
    """A parameter of one module. copied: its values; None for a large one. data: its memory, at this version."""

    module: nn.Module
    name: str
    parameter: nn.Parameter
    copied: Tensor | None
    data: Tensor
    version: int | None

    def has_changed(self) -> bool:
        """True if other values are there now, or if a large parameter was written to in its own memory."""
        now = self.module._parameters.get(self.name)
        before = self.copied
        if before is None and now is self.parameter and version_of(now) == self.version and _shares(now, self.data):
            return False
        if before is None and version_of(self.parameter) == self.version:
            before = self.data
        return now is None or before is None or not is_equal(now, before)

    def restore(self, has_changed: bool) -> None:
        """Put the parameter back, in its own memory, with its values where they are known."""
        self.module._parameters[self.name] = self.parameter
        if self.parameter.data_ptr() != self.data.data_ptr():
            self.parameter.data = self.data
        if has_changed and self.copied is not None:
            with torch.no_grad():
                self.parameter.copy_(self.copied)


def _shares(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr()


def is_equal(a: Tensor, b: Tensor) -> bool:
    """True if two tensors hold the same values, or the same bits (NaN)."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    if torch.equal(a, b):
        return True
    return torch.equal(*(x.detach().contiguous().view(-1).view(torch.uint8) for x in (a, b)))


@contextmanager
def unchanged_weights(model: nn.Module, most_copied: int = MOST_COPIED) -> Iterator[None]:
    """Raise ProfilingError if a forward has changed weights, as it could not be counted; the weights are restored.

    Weights that are written with the values that they have are unchanged. The smallest ones are copied, ``most_copied``
    values in all; the others are not, and a write in their own memory, seen by torch's version counters, is a change.
    """
    with torch._C.DisableTorchFunction():
        held = _held_weights(model, most_copied)
    problem: Exception | None = None
    try:
        yield
    except ProfilingError as error:
        problem = error
    finally:
        with torch._C.DisableTorchFunction():
            changed = [each.has_changed() for each in held]
            for each, has_changed in zip(held, changed, strict=True):
                each.restore(has_changed)
    if any(changed):
        raise ProfilingError(
            f"{type(model).__name__}: it changes its own weights when it is run, so every sample is another network's; "
            "switch the learning off"
        )
    if problem is not None:
        raise problem


class SameParameters:
    """Puts back, after a forward that has replaced them, the parameters of a model themselves and their memory."""

    def __init__(self, model: nn.Module) -> None:
        with torch._C.DisableTorchFunction():
            self._held = [(each, each.data.data_ptr()) for each in _held_weights(model, 0)]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around one forward pass."""
        try:
            yield
        finally:
            with torch._C.DisableTorchFunction():
                for each, address in self._held:
                    now = each.module._parameters.get(each.name)
                    if now is not each.parameter or now.data_ptr() != address:
                        each.restore(has_changed=False)


def _held_weights(model: nn.Module, most_copied: int) -> list[_Held]:
    own = [(m, n, p) for m in model.modules() for n, p in m._parameters.items() if p is not None and not p.is_meta]
    total, copies = 0, {}
    for p in sorted({id(p): p for _, _, p in own}.values(), key=Tensor.numel) if most_copied else ():
        total += p.numel()
        if total > most_copied:
            break
        copies[id(p)] = p.detach().clone()
    return [_Held(m, n, p, copies.get(id(p)), p.data, version_of(p)) for m, n, p in own]
