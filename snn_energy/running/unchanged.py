"""What must not change under a network while it is profiled: its modules and their hooks; one profile at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.modules.module as torch_modules
from torch import nn

from snn_energy.core.errors import ProfilingError
from snn_energy.running.containers import changed_keys

HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Structure:
    """The modules of a model and their hooks as they are now; ``require`` refuses others.

    A module that is put in the place of another has no hooks of the profiler, and a hook that is added works behind
    its back: what they do would be booked wrongly, or not at all.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.name = model, type(model).__name__
        named = list(model.named_modules())
        self._names = {id(module): name for name, module in named}
        tables = [
            (name, part, table)
            for name, module in named
            for part, table in [("_modules", module._modules), *((part, vars(module)[part]) for part in HOOKS)]
        ]
        tables += [("", part, table) for part, table in _hooks_of_all_modules()]
        self._tables = [(name, part, table, dict(table)) for name, part, table in tables]
        self._replaced: str | None = None

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Within this context, a module that takes the place of another is noticed, even if it is taken out again."""

        def on_registration(parent: nn.Module, name: str, module: Any) -> None:
            if id(parent) in self._names and parent._modules.get(name) is not module:
                self._replaced = _joined(self._names[id(parent)], name)

        handle = torch_modules.register_module_module_registration_hook(on_registration)
        _RUNNING.counted.append(self.model)
        try:
            yield
        finally:
            _RUNNING.counted[:] = [other for other in _RUNNING.counted if other is not self.model]
            handle.remove()

    def require(self) -> None:
        """Raise ProfilingError if a module was replaced, added or removed, or if hooks were added or removed."""
        if self._replaced is not None:
            self._refuse_module(self._replaced)
        for name, part, table, content in self._tables:
            if not changed_keys(table, content):
                continue
            if part == "_modules":
                self._refuse_module(_joined(name, min(map(str, changed_keys(table, content)))))
            raise ProfilingError(
                f"{name or self.name}: hooks were added or removed while it was profiled; set them before, or profile "
                "in parts"
            )

    def _refuse_module(self, name: str) -> None:
        raise ProfilingError(
            f"{self.name}: the module '{name}' was replaced, added or removed while it was profiled (by its forward or "
            "the loader); build the network before, or profile each network by itself"
        )


def _joined(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _hooks_of_all_modules() -> list[tuple[str, dict[Any, Any]]]:
    """Hooks that torch runs in every module."""
    return [(part, getattr(torch_modules, part)) for part in ("_global_forward_pre_hooks", "_global_forward_hooks")]


class _Running:
    """The models that are being profiled in this process, and the lock of the thread whose turn it is.

    models: (model, thread) of every profile that has begun. counted: the models whose batches are being counted.
    """

    def __init__(self) -> None:
        self.turn, self.guard = threading.RLock(), threading.Lock()
        self.models: list[tuple[nn.Module, int]] = []
        self.counted: list[nn.Module] = []


_RUNNING = _Running()


@contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Within this context no other thread profiles; one that tries waits. Raises ProfilingError for the same model.

    A profile hooks modules, draws random numbers and changes settings of the whole process for a while. To look at a
    model before its batches are counted, the same thread may profile a few samples of it.
    """
    entry = model, threading.get_ident()
    with _RUNNING.guard:
        is_elsewhere = any(other is model and thread != entry[1] for other, thread in _RUNNING.models)
        if is_elsewhere or any(other is model for other in _RUNNING.counted):
            raise ProfilingError(
                f"{type(model).__name__}: is being profiled already (in another thread, or it is its own loader that "
                "asks); wait for that, or profile a copy: copy.deepcopy(model)"
            )
        _RUNNING.models.append(entry)
    try:
        with _RUNNING.turn:
            yield
    finally:
        with _RUNNING.guard:
            _RUNNING.models.remove(entry)
