"""Running modules, their invocations in this call of the model, and their operations by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class ModuleScope(NamedTuple):
    """A running module: its dotted name, number of earlier invocations, operations so far by label."""

    name: str
    module: nn.Module
    invocation: int
    counters: dict[str, int]


class OperationSite(NamedTuple):
    """The location of an operation: the name of its row, and the parts from which that name is built."""

    layer: str
    scope: str
    invocation: int
    nth: int
    suffix: str


class CallSite(NamedTuple):
    """The location of a call: the running module and its operations so far.

    class_name: of the module; names its row if it has no other name. is_leaf: its first operation is named after it.
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
    """The stack of running modules, maintained by hooks; invocations are counted per call of the model.

    stack: running modules, the innermost last. is_leaf: True for modules whose first operation is named after them.
    neuron_depth: number of running modules that are neurons.
    """

    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> None:
        self.model, self.is_leaf = model, is_leaf
        self.stack: list[ModuleScope] = []
        self._invocations: dict[str, int] = {}
        self._suspended: Any = None
        self.neuron_depth = 0

    def begin_call(self) -> None:
        """Start a call of the model: the invocations of every module restart at 0."""
        self._invocations.clear()

    def clear(self) -> None:
        """Leave all modules, after a forward pass or an exception in it."""
        self.resume()
        self.stack.clear()
        self.neuron_depth = 0

    def enter(self, name: str, module: nn.Module) -> None:
        """A module's forward begins."""
        invocation = self._invocations.get(name, 0)
        self._invocations[name] = invocation + 1
        self.stack.append(ModuleScope(name, module, invocation, {}))

    def leave(self) -> None:
        """The forward of the innermost module ended."""
        self.stack.pop()

    @property
    def current(self) -> ModuleScope:
        """The innermost running module; the model itself outside its forward."""
        return self.stack[-1] if self.stack else ModuleScope("", self.model, 0, {})

    @property
    def layer(self) -> str:
        """The name of the innermost running module, or its class if it has none."""
        return self.current.name or type(self.current.module).__name__

    @property
    def is_suspended(self) -> bool:
        """True between ``suspend`` and ``resume``."""
        return self._suspended is not None

    def suspend(self) -> None:
        """Record no calls until ``resume``; this is faster than recording and ignoring them."""
        self._suspended = torch._C.DisableTorchFunction()
        self._suspended.__enter__()

    def resume(self) -> None:
        """Record calls again."""
        if self._suspended is not None:
            self._suspended.__exit__(None, None, None)
            self._suspended = None

    def site(self) -> CallSite:
        """The location of a call that is made now."""
        scope, module, invocation, counters = self.current
        return CallSite(scope, type(module).__name__, invocation, self.is_leaf(module), counters)

    def count(self, label: str) -> None:
        """Count another operation with this label in the running module."""
        counters = self.current.counters
        counters[label] = counters.get(label, 0) + 1
