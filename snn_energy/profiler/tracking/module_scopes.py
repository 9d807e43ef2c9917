"""Which module runs, for how many times in this call of the model, and how many operations of a kind it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class ModuleScope(NamedTuple):
    """A running module: its dotted name, how many times it ran before, operations so far by label."""

    name: str
    module: nn.Module
    invocation: int
    counters: dict[str, int]


class OperationSite(NamedTuple):
    """Where an operation belongs: the name of its row and what that name follows from."""

    layer: str
    scope: str
    invocation: int
    nth: int
    suffix: str


class CallSite(NamedTuple):
    """Where a call is made: in which module, and what that module did so far.

    class_name: of the module, its name in a row where it has no other. is_leaf: its first operation bears its name.
    counters: operations so far by label.
    """

    scope: str
    class_name: str
    invocation: int
    is_leaf: bool
    counters: Mapping[str, int]

    def place(self, label: str) -> OperationSite:
        """The site of the next operation with this label."""
        nth = self.counters.get(label, 0)
        others = any(count for name, count in self.counters.items() if name != label)
        if self.is_leaf and not others and nth == 0:
            return OperationSite(self.scope or self.class_name, self.scope, self.invocation, nth, "")
        return OperationSite(f"{self.scope}#{label}{nth}", self.scope, self.invocation, nth, f"#{label}")


class ModuleScopes:
    """The stack of running modules, from their hooks; lives for one call of the model.

    is_leaf: True for modules whose first operation bears their own name. neuron_depth: how many of the running modules
    are neurons.
    """

    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> None:
        self._model, self._is_leaf = model, is_leaf
        self._stack: list[ModuleScope] = []
        self._invocations: dict[str, int] = {}
        self._suspended: Any = None
        self.neuron_depth = 0

    def begin_call(self) -> None:
        """A new call of the model: every module counts its invocations anew."""
        self._invocations.clear()

    def clear(self) -> None:
        """Leave all modules, after a forward pass or what it raised."""
        self.resume()
        self._stack.clear()
        self.neuron_depth = 0

    def enter(self, name: str, module: nn.Module) -> None:
        """A module's forward begins."""
        invocation = self._invocations.get(name, 0)
        self._invocations[name] = invocation + 1
        self._stack.append(ModuleScope(name, module, invocation, {}))

    def leave(self) -> None:
        """The forward of the innermost module ended."""
        self._stack.pop()

    @property
    def current(self) -> ModuleScope:
        """The innermost running module; the model itself outside its forward."""
        return self._stack[-1] if self._stack else ModuleScope("", self._model, 0, {})

    @property
    def layer(self) -> str:
        """The name of the innermost running module, its class where it has none."""
        return self.current.name or type(self.current.module).__name__

    @property
    def is_suspended(self) -> bool:
        """True between ``suspend`` and ``resume``."""
        return self._suspended is not None

    def suspend(self) -> None:
        """Until ``resume`` no call is recorded: that is faster than to record and to ignore."""
        self._suspended = torch._C.DisableTorchFunction()
        self._suspended.__enter__()

    def resume(self) -> None:
        """Record calls again."""
        if self._suspended is not None:
            self._suspended.__exit__(None, None, None)
            self._suspended = None

    def site(self) -> CallSite:
        """Where a call that is made now belongs."""
        scope, module, invocation, counters = self.current
        return CallSite(scope, type(module).__name__, invocation, self._is_leaf(module), counters)

    def count(self, label: str) -> None:
        """The running module did another operation with this label."""
        counters = self.current.counters
        counters[label] = counters.get(label, 0) + 1
