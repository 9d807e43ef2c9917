"""One pass through a network: module hooks track the scope, a torch function mode receives every call.

Every call of a torch function on a tensor that stems from the loader is counted by the rule for its name and creates an
``OperationRecord``: its counts (small tensors, one entry per row = time step and sample), its geometry, and which
earlier operations it reads. The mode only connects the other components.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape, input_roles
from snn_energy.profiler.call_counter import CallCounter
from snn_energy.profiler.neurons.count import count_foreign_neuron, count_own_neuron
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.moves import reshaped
from snn_energy.profiler.rules.plain_layers import (
    is_layer_class,
    is_over_time,
    is_plain_layer,
    is_weight_layer,
    plain_call,
)
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import RuleEntry, find, plain_name
from snn_energy.profiler.rules.unknown import UNKNOWN
from snn_energy.profiler.tracking.call_cache import CallCache
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.bounds import NOTHING
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

CROSS_CHECK = "SNN_ENERGY_CROSS_CHECK"  # environment variable: "1" also computes what is cached, and compares


@functools.lru_cache(maxsize=256)
def python_body(func: Any) -> Callable[..., Any] | None:
    """A function of torch.nn.functional that is written in Python, as a sequence of calls; None for all others.

    The copy does not ask for overrides, so that the calls within it reach the function mode one by one.
    """
    if not isinstance(func, types.FunctionType) or func.__module__ != "torch.nn.functional":
        return None
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    globals_ = {**func.__globals__, **dict.fromkeys(names, lambda *args: False)}
    return types.FunctionType(func.__code__, globals_, func.__name__, func.__defaults__, func.__closure__)


def _parameter_names(model: nn.Module) -> dict[int, dict[int, str]]:
    """Names of parameters and buffers by storage and offset in it."""
    found: dict[int, dict[int, str]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_meta:
            found.setdefault(tensor.untyped_storage()._cdata, {}).setdefault(int(tensor.storage_offset()), name)
    return found


class DecompositionMode(TorchDispatchMode):
    """Records the aten operations that a function without a rule is made of."""

    def __init__(self, calls: CallCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = calls
        self.alive: list[Any] = []  # keeps intermediate tensors alive, so that their ids stay unique

    def __torch_dispatch__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        raw = func.overloadpacket.__name__
        if (find(plain_name(raw)) or UNKNOWN).forgets_inputs:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.alive.append(out)
        self.calls.record_call(raw, args, kwargs, out)
        return out


class CountingMode(TorchFunctionMode):
    """Counts one forward pass after another of one model; use ``tracing`` around each pass.

    neurons: layer -> its NeuronSpec, used for all classes but LIF. decomposed_layers: neurons that are counted as the
    operations that they are made of.
    """

    def __init__(
        self,
        model: nn.Module,
        max_k: int,
        input_kind: str | None,
        neurons: Mapping[str, NeuronSpec] | None = None,
        decomposed_layers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        modules = {model.get_submodule(name): spec for name, spec in (neurons or {}).items()}
        self._foreign = {id(module): spec for module, spec in modules.items() if not isinstance(module, LIF)}
        self._decomposed = {id(model.get_submodule(name)) for name in decomposed_layers}
        cross_check = os.environ.get(CROSS_CHECK) == "1"
        self.scopes, self.observer = ModuleScopes(model, self._is_leaf), SpikeObserver()
        self.scans = ScanCache(max_k, input_kind, cross_check=cross_check)
        self.cache = CallCache(cross_check=cross_check)
        self.calls = CallCounter(self.scopes, self.scans, self.cache)
        self.table, self.log = self.calls.table, self.calls.log
        self._entries: dict[Any, tuple[str, RuleEntry]] = {}  # of functions already called

    @property
    def batch(self) -> BatchShape:
        """Time steps and samples of the current batch."""
        return self.calls.context.shape

    # ---- one forward pass -------------------------------------------------------------------------------------

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Install hooks on every module and the function mode; both are always removed on exit."""
        handles, observers = [], []
        self.calls.context = replace(self.calls.context, parameters=_parameter_names(self.model))
        has_fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one call that hides the layers of attention
        try:
            for name, module in self.model.named_modules(remove_duplicate=True):
                handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leaving(name), with_kwargs=True))
                if self._is_own(module):
                    before = module.__dict__.get("observer")
                    observers.append((module, before))
                    module.observer = self.observer.observe if before is None else self.observer.beside(before)
            with self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(has_fast_path)
            for handle in handles:
                handle.remove()
            for neuron, before in observers:
                if before is None:
                    neuron.__dict__.pop("observer", None)
                else:
                    neuron.observer = before
            self.scopes.clear()

    def begin(self, batch: BatchShape) -> None:
        """Forget the last forward pass; counts of a new one start."""
        self.log.begin_batch()
        self.calls.context = replace(self.calls.context, shape=batch, records=self.log.records)
        self.scans.begin_batch()
        self.cache.begin_batch(batch)
        self.table.clear()

    def end(self) -> None:
        """Finish the counts. Raises ProfilingError if a neuron's potential or a real input was NaN or infinite."""
        self.log.finish()
        self.scans.require_finite()

    def begin_call(self, step: int | None) -> None:
        """Start a call of the model within one pass; step: its time step, None if time is inside the model."""
        self.calls.context = replace(self.calls.context, step=step)
        self.scopes.begin_call()

    def mark_input(self, x: Tensor, layout: str | None, constant: bool) -> None:
        """Declare a tensor of the loader as the network's input; ``layout``: where time is, None: it has no time."""
        batch = self.batch
        timed, roles = layout is not None, input_roles(x.dim(), layout, batch)
        bound = self.scans.bound_of_input(x)
        active = np.ones(batch.time_steps if timed else 1, dtype=np.bool_)
        before = self.table.get(x)  # the input of the previous step is the same tensor: its scans are valid
        scans = before.scans if before is not None and before.bound == bound else None
        facts = TensorFacts(roles, timed, self.calls.context.step, active, constant, frozenset(), bound)
        self.table.put(x, TensorTrace(self.cache.reuse_facts(facts), scans))

    def outputs(self, out: Any) -> frozenset[int]:
        """Operations whose results the model returns."""
        return self.log.results([self.table.get(tensor) for tensor in tensors_in([out])])

    # ---- modules ----------------------------------------------------------------------------------------------

    def _is_own(self, module: nn.Module) -> TypeGuard[LIF]:
        return isinstance(module, LIF) and id(module) not in self._decomposed

    def _is_leaf(self, module: nn.Module) -> bool:
        """True if the first operation of a module is named after the module."""
        if self._is_own(module) or id(module) in self._foreign:
            return True
        return is_layer_class(type(module)) and next(module.children(), None) is None

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.scopes.enter(name, module)
            if self._is_own(module) or id(module) in self._foreign:
                self.scopes.neuron_depth += 1
                if self.scopes.neuron_depth == 1:  # its arithmetic is the neuron update: not recorded
                    self.scopes.suspend()
                if isinstance(module, LIF):
                    requests = self.scans.requests_of((self.scopes.layer, self.scopes.current.invocation))
                    layouts = (request.layout for request in requests.values())
                    self.observer.begin(module.amplitude, self.batch, layouts)
            elif not self.scopes.is_suspended and is_plain_layer(module, args, kwargs):
                self.scopes.suspend()  # its work is known from its type: counted as one call on exit

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            scopes = self.scopes
            if self._is_own(module) or id(module) in self._foreign:
                self.observer.end()
                scopes.neuron_depth -= 1
                if scopes.neuron_depth == 0:
                    spec = self._foreign.get(id(module))
                    if spec is not None:
                        count_foreign_neuron(module, spec, args, kwargs, out, self.calls)
                    elif isinstance(module, LIF):
                        count_own_neuron(module, args, kwargs, out, self.calls, self.observer)
                    scopes.resume()
            elif scopes.is_suspended and scopes.neuron_depth == 0:
                self._count_plain_layer(module, args[0], out)
                scopes.resume()
            if not scopes.current.counters and scopes.neuron_depth == 0 and is_weight_layer(module):
                self._count_untraced(name, module, out)
            scopes.leave()

        return hook

    def _count_plain_layer(self, module: nn.Module, x: Tensor, out: Any) -> None:
        """Count a layer that is one function call; on (T*B, ...) if it reads (T, B, ...)."""
        trace = self.table.get(x)
        if trace is None and isinstance(out, Tensor) and is_weight_layer(module):
            self._count_on_constant(module, x, out)
            return
        if trace is None or not is_over_time(module) or not isinstance(out, Tensor):
            self.calls.record_call(*plain_call(module, x), out)
            return
        rows, made = x.flatten(0, 1), out.flatten(0, 1)
        self.table.put(rows, reshaped(x, trace, rows, self.batch))
        self.calls.record_call(*plain_call(module, rows), made)
        after = self.table.get(made)
        if after is not None:
            self.table.put(out, reshaped(made, after, out, self.batch))

    def _count_on_constant(self, module: nn.Module, x: Tensor, out: Tensor) -> None:
        """Count a layer that reads zeros (a state at rest) or parameters (a learned query), for every sample."""
        is_parameter = x.untyped_storage()._cdata in self.calls.context.parameters
        if not is_parameter and bool(x.any()):
            return  # values that may stem from the loader by a way that was not followed
        weight = module._parameters["weight"]
        assert weight is not None
        samples, axes = self.batch.samples, 1 if isinstance(module, nn.Linear) else weight.dim() - 1
        rows, made = (x.view_as(x), out) if x.dim() > axes else (x.unsqueeze(0), out.unsqueeze(0))
        if rows.shape[0] != samples:
            if rows.shape[0] != 1:
                return  # its rows are no samples
            rows, made = (t.expand(samples, *t.shape[1:]) for t in (rows, made))
        facts = TensorFacts(
            input_roles(rows.dim(), None, self.batch), False, None, np.ones(1, np.bool_), False, frozenset(), NOTHING
        )
        self.table.put(rows, TensorTrace(facts))
        self.calls.record_call(*plain_call(module, rows), made)
        self.log.records[-1].reads_constant = True
        after = self.table.get(made)
        if after is not None and made is not out:
            self.table.put(
                out, after.replace(roles=after.roles[-out.dim() :] if out.dim() < made.dim() else after.roles)
            )

    def _count_untraced(self, name: str, module: nn.Module, out: Any) -> None:
        """Add an unsupported row for a layer with weights that ran without a recorded operation."""
        layer = name or type(module).__name__
        size = next((t.numel() for t in tensors_in([out])), 0)
        record = OperationRecord(
            layer, name, self.scopes.current.invocation, 0, "", "unsupported", False, self.calls.context.step,
            np.ones(1, np.bool_), False, frozenset(), size // max(1, self.batch.samples),
            note="reads nothing that is known to stem from the loader",
        )  # fmt: skip
        self.log.records.append(record)
        self.log.untraced_layers[layer] = (
            "its work was not seen (it reads a constant, or a tensor that left the profiler's sight through numpy, "
            "another thread or the like); it is listed as unsupported and its cost is unknown"
        )

    # ---- every function call ----------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function unchanged, and count the call."""
        kwargs = kwargs or {}
        if self.scopes.neuron_depth:
            return func(*args, **kwargs)
        known = self._entries.get(func)
        if known is None:
            raw = getattr(func, "__name__", type(func).__name__)
            if raw == "__get__":
                raw = func.__self__.__name__
            elif raw == "__set__":
                raw = "set_"
            known = self._entries[func] = (raw, find(plain_name(raw)) or UNKNOWN)
        raw, entry = known
        if entry.is_question:
            return func(*args, **kwargs)
        if entry is UNKNOWN and any(self.table.get(t) for t in tensors_in([args, kwargs])):
            body = python_body(func)
            if body is not None:
                with self:
                    return body(*args, **kwargs)
            before = len(self.log.records)
            with DecompositionMode(self.calls):
                out = func(*args, **kwargs)
            if len(self.log.records) == before and any(self.table.get(t) is None for t in tensors_in([out])):
                self.calls.record_call(raw, args, kwargs, out)
            return out
        out = func(*args, **kwargs)
        self.calls.record_call(raw, args, kwargs, out)
        return out
