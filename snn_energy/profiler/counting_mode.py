"""One pass through a network: module hooks report the layers, a torch function mode receives every call.

The first batch is walked through in full: every call on a tensor that stems from the loader is counted by the rule for
its name and creates an ``OperationRecord``. The walk leaves a script, with which the events of later batches are only
compared; where one differs, the full walk goes on from there. The mode only connects the other components.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.events import Events
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.plain_layers import is_layer_class, is_plain_layer, plain_base
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import RuleEntry, find, plain_name
from snn_energy.profiler.rules.unknown import UNKNOWN
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.running.inputs import Inputs
from snn_energy.running.outputs import tensors_of
from snn_energy.running.time_mode import TimeMode

OnCall = Callable[[str, Any, Any, Any], None]
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


def _is_own(module: nn.Module, decomposed: Collection[int]) -> TypeGuard[LIF]:
    return isinstance(module, LIF) and id(module) not in decomposed


def _is_leaf(module: nn.Module, foreign: Collection[int], decomposed: Collection[int]) -> bool:
    """True if the first operation of a module is named after the module. foreign, decomposed: ids of neurons."""
    if _is_own(module, decomposed) or id(module) in foreign:
        return True
    return is_layer_class(type(module)) and next(module.children(), None) is None


class DecompositionMode(TorchDispatchMode):
    """Reports the aten operations that a function without a rule is made of."""

    def __init__(self, on_call: OnCall) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_call = on_call
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
        self.on_call(raw, args, kwargs, out)
        return out


class CountingMode(TorchFunctionMode):
    """Counts one forward pass after another of one model; use ``tracing`` around each pass.

    neurons: layer -> its NeuronSpec, used for all classes but LIF. decomposed_layers: neurons that are counted as the
    operations that they are made of. input_elements: of one sample, of the tensors that the network was given.
    """

    def __init__(
        self,
        model: nn.Module,
        max_k: int | None,
        input_kind: str | None,
        neurons: Mapping[str, NeuronSpec] | None = None,
        decomposed_layers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.input_elements = model, set[int]()
        modules = {model.get_submodule(name): spec for name, spec in (neurons or {}).items()}
        self._foreign = {id(module): spec for module, spec in modules.items() if not isinstance(module, LIF)}
        self._decomposed = {id(model.get_submodule(name)) for name in decomposed_layers}
        cross_check = os.environ.get(CROSS_CHECK) == "1"
        is_leaf = functools.partial(_is_leaf, foreign=frozenset(self._foreign), decomposed=frozenset(self._decomposed))
        self.scopes, self.observer = ModuleScopes(model, is_leaf), SpikeObserver()
        self.scans = ScanCache(max_k, input_kind, cross_check=cross_check)
        self.events = Events(self.scopes, self.scans, self.observer, cross_check=cross_check)
        self.calls, self.table, self.log = self.events.calls, self.events.table, self.events.log
        self._entered: list[str] = []  # modules whose forward runs
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
        self._entered.clear()
        modules = dict(self.model.named_modules(remove_duplicate=True))
        weights = [*self.model.parameters(), *self.model.buffers()]
        held = [tensor.untyped_storage() for tensor in weights if not tensor.is_meta]  # no other gets their addresses
        self.events.begin_run(modules, _parameter_names(self.model))
        has_fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one call that hides the layers of attention
        try:
            for name, module in modules.items():
                handles.append(module.register_forward_pre_hook(self._entering(name, module), with_kwargs=True))
                handles.append(
                    module.register_forward_hook(self._leaving(name, module), with_kwargs=True, always_call=True)
                )
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
            held.clear()

    def begin(self, batch: BatchShape) -> None:
        """Forget the last forward pass; counts of a new one start."""
        self.events.begin_batch(batch)

    def end(self) -> None:
        """Finish the counts. Raises ProfilingError if a neuron's potential or a real input was NaN or infinite."""
        self.events.end_batch()
        self.scans.require_finite()

    def begin_call(self, step: int | None) -> None:
        """Start a call of the model within one pass; step: its time step, None if time is inside the model."""
        self.events.begin_call(step)

    def mark_inputs(self, batch: Any, given: Any, mode: TimeMode, bound: ValueBound | None) -> None:
        """Declare what one call of the model is given of a batch, one tensor or several, as the network's input."""
        if not isinstance(given, Inputs):
            self.mark_input(given, mode.read, constant=mode.repeats_input, bound=bound)
            return
        for part, fed in zip(batch.tensors(), given.tensors(), strict=True):
            layout = mode.layout_of(part, batch, self.batch.samples)
            if layout != "constant":
                is_whole = layout == "batch"
                constant = mode.repeats_input or not is_whole
                self.mark_input(fed, mode.read if is_whole else None, constant, self.scans.bound_of_input(part))

    def mark_input(self, x: Tensor, layout: str | None, constant: bool, bound: ValueBound | None = None) -> None:
        """Declare a tensor of the loader as the network's input; ``layout``: where time is, None: it has no time.

        bound: of the values of the whole batch, None to find that of this tensor.
        """
        self.input_elements.add(x.numel() // max(1, self.batch.samples))
        self.events.input(x, layout, constant, self.scans.bound_of_input(x) if bound is None else bound)

    def outputs(self, out: Any) -> frozenset[int]:
        """Operations whose results the model returns."""
        return self.log.results([self.table.get(tensor) for tensor in tensors_of(out)])

    # ---- modules ----------------------------------------------------------------------------------------------

    def _is_own(self, module: nn.Module) -> TypeGuard[LIF]:
        return _is_own(module, self._decomposed)

    def _entering(self, name: str, own: nn.Module) -> Callable[..., None]:
        is_neuron = self._is_own(own) or id(own) in self._foreign
        may_be_plain = plain_base(type(own)) is not None

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if module is not own:
                return  # a copy of it, which has its hooks
            self._entered.append(name)
            self.events.enter(name, module)
            if is_neuron:
                self._begin_neuron(module)
            elif may_be_plain and not self.scopes.is_suspended and is_plain_layer(module, args, kwargs):
                self.scopes.suspend()  # its work is known from its type: counted as one call on exit

        return hook

    def _begin_neuron(self, module: nn.Module) -> None:
        self.scopes.neuron_depth += 1
        if self.scopes.neuron_depth == 1:  # its arithmetic is the neuron update: not recorded
            self.scopes.suspend()
        if isinstance(module, LIF):
            requests = self.scans.requests_of(self.events.writer)
            self.observer.begin(module.amplitude, self.batch, (request.layout for request in requests.values()))

    def _leaving(self, name: str, own: nn.Module) -> Callable[..., None]:
        is_neuron = self._is_own(own) or id(own) in self._foreign

        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if module is not own:
                return
            raised = None if out is not None else sys.exc_info()[1]
            scopes = self.scopes
            if raised is not None and (not self._entered or self._entered[-1] != name):
                return  # what has raised is a hook in front of ours
            self._entered.pop()
            if is_neuron:
                self.observer.end()
                scopes.neuron_depth -= 1
                if scopes.neuron_depth == 0 and raised is not None:
                    scopes.resume()
                elif scopes.neuron_depth == 0:
                    self.events.neuron(module, self._foreign.get(id(module)), args, kwargs, out)
                    scopes.resume()
            elif scopes.is_suspended and scopes.neuron_depth == 0:
                if raised is None:
                    self.events.plain_layer(module, args[0], out)
                scopes.resume()
            if not isinstance(raised, (ProfilingError, AssertionError)):  # else the pass ends here
                self.events.leave(name, module, out)

        return hook

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
        if entry is UNKNOWN:
            return self._run_unknown(func, raw, args, kwargs)
        out = func(*args, **kwargs)
        self.events.call(raw, args, kwargs, out)
        return out

    def _run_unknown(self, func: Any, raw: str, args: Any, kwargs: Any) -> Any:
        """Run a function without a rule: by its Python body, or with the operations of torch within it."""
        if not any(self.events.is_traced(tensor) for tensor in tensors_in([args, kwargs])):
            out = func(*args, **kwargs)
            self.events.call(raw, args, kwargs, out)
            return out
        body = python_body(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        before = self.events.operations
        with DecompositionMode(self.events.call):
            out = func(*args, **kwargs)
        if self.events.operations == before and not all(self.events.is_traced(tensor) for tensor in tensors_in([out])):
            self.events.call(raw, args, kwargs, out)
        return out
