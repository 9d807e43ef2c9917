"""One pass through a network: module hooks give the scope, a torch function mode is given every call.

Every call of a torch function on a tensor that stems from the loader is counted by the rule of its name and leaves an
``OperationRecord``: its counts (small tensors, one entry per row = time step and sample), its geometry, and which
earlier operations it reads. The mode holds the parts and decides nothing itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape, fed_roles
from snn_energy.profiler.neurons import foreign, own
from snn_energy.profiler.neurons.own import NeuronCall
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
from snn_energy.profiler.rules.registry import BatchContext, Call, RuleEntry, find, is_in_place, plain_name
from snn_energy.profiler.rules.unknown import UNKNOWN
from snn_energy.profiler.tracking.call_cache import CallCache, MadeCall, ReplayError, split_arguments
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationLog, OperationRecord, Outcome
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

CROSS_CHECK = "SNN_ENERGY_CROSS_CHECK"  # environment variable: "1" does all work that a cache saves, and compares


class DecompositionMode(TorchDispatchMode):
    """Records one level below a function without a rule: the aten operations it is made of."""

    def __init__(self, counting: CountingMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counting = counting
        self.alive: list[Any] = []  # keeps intermediate tensors the same objects while the function runs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
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
        self.counting.record_call(raw, args, kwargs, out)
        return out


class CountingMode(TorchFunctionMode):
    """Counts one forward pass after another of one model; use ``tracing`` around each pass.

    neurons: layer -> what is known of it, of neurons other than our own. decomposed_layers: counted as the operations
    that they are made of, though they are neurons.
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
        self.table, self.log, self.observer = TensorTable(), OperationLog(), SpikeObserver()
        self.scopes = ModuleScopes(model, self._is_leaf)
        self.scans = ScanCache(max_k, input_kind, cross_check=cross_check)
        self.cache = CallCache(cross_check=cross_check)
        self.context = BatchContext(BatchShape(1, 1))
        self._entries: dict[Any, tuple[str, RuleEntry]] = {}  # of functions already called

    # ---- one forward pass -------------------------------------------------------------------------------------

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Hooks on every module and the function mode, both gone afterwards whatever happens."""
        handles, observers = [], []
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
        self.context = replace(self.context, shape=batch)
        self.log.begin_batch()
        self.scans.begin_batch()
        self.cache.begin_batch(batch)
        self.table.clear()

    def end(self) -> None:
        """Finish the counts. Raises ProfilingError if a neuron's potential or a real input was NaN or infinite."""
        self.log.finish()
        self.scans.require_finite()

    def begin_call(self, step: int | None) -> None:
        """A new call of the model within one pass (time outside the model): ``step`` or None."""
        self.context = replace(self.context, step=step)
        self.scopes.begin_call()

    def mark_input(self, x: Tensor, layout: str | None, constant: bool) -> None:
        """Declare a tensor of the loader as the network's input; ``layout`` says where time is, None: nowhere yet."""
        batch = self.context.shape
        timed, roles = layout is not None, fed_roles(x.dim(), layout, batch)
        bound = ValueBound(reason="declared real" if self.scans.input_kind == "real" else None, loader=True)
        active = np.ones(batch.time_steps if timed else 1, dtype=np.bool_)
        before = self.table.get(x)  # the same tensor, fed at the step before: what its scans found holds
        scans = before.scans if before is not None and before.bound == bound else None
        facts = TensorFacts(roles, timed, self.context.step, active, constant, frozenset(), bound)
        self.table.put(x, TensorTrace(self.cache.reuse_facts(facts), scans))

    def outputs(self, out: Any) -> frozenset[int]:
        """Operations whose results the model returns."""
        return self.log.results([self.table.get(tensor) for tensor in tensors_in([out])])

    # ---- modules ----------------------------------------------------------------------------------------------

    def _is_own(self, module: nn.Module) -> TypeGuard[LIF]:
        return isinstance(module, LIF) and id(module) not in self._decomposed

    def _is_leaf(self, module: nn.Module) -> bool:
        """True where the first operation of a module bears the module's own name."""
        if self._is_own(module) or id(module) in self._foreign:
            return True
        return is_layer_class(type(module)) and next(module.children(), None) is None

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.scopes.enter(name, module)
            if self._is_own(module) or id(module) in self._foreign:
                self.scopes.neuron_depth += 1
                if self.scopes.neuron_depth == 1:  # its own arithmetic is the neuron update: need not be recorded
                    self.scopes.suspend()
                if isinstance(module, LIF):
                    requests = self.scans.requests_of((self.scopes.layer, self.scopes.current.invocation))
                    layouts = (request.layout for request in requests.values())
                    self.observer.begin(module.amplitude, self.context.shape, layouts)
            elif not self.scopes.is_suspended and is_plain_layer(module, args, kwargs):
                self.scopes.suspend()  # what it does is known from its type: one call is accounted for when it is done

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            scopes = self.scopes
            if self._is_own(module) or id(module) in self._foreign:
                self.observer.end()
                scopes.neuron_depth -= 1
                if scopes.neuron_depth == 0:
                    self._count_neuron(module, args, kwargs, out)
                    scopes.resume()
            elif scopes.is_suspended and scopes.neuron_depth == 0:
                self._count_plain_layer(module, args[0], out)
                scopes.resume()
            if not scopes.current.counters and scopes.neuron_depth == 0 and is_weight_layer(module):
                self._count_untraced(name, module, out)
            scopes.leave()

        return hook

    def _count_plain_layer(self, module: nn.Module, x: Tensor, out: Any) -> None:
        """Count a layer that is one call of a function, on (T*B, ...) where it reads (T, B, ...)."""
        trace = self.table.get(x)
        if trace is None or not is_over_time(module) or not isinstance(out, Tensor):
            self.record_call(*plain_call(module, x), out)
            return
        rows, made = x.flatten(0, 1), out.flatten(0, 1)
        self.table.put(rows, reshaped(x, trace, rows, self.context.shape))
        self.record_call(*plain_call(module, rows), made)
        after = self.table.get(made)
        if after is not None:
            self.table.put(out, reshaped(made, after, out, self.context.shape))

    def _count_untraced(self, name: str, module: nn.Module, out: Any) -> None:
        """A layer with weights ran, and none of its work was recorded: a row that says so."""
        layer = name or type(module).__name__
        size = next((t.numel() for t in tensors_in([out])), 0)
        record = OperationRecord(
            layer, name, self.scopes.current.invocation, 0, "", "unsupported", False, self.context.step,
            np.ones(1, np.bool_), False, frozenset(), size // max(1, self.context.shape.samples),
            note="reads nothing that is known to stem from the loader",
        )  # fmt: skip
        self.log.records.append(record)
        self.log.untraced_layers[layer] = (
            "its work was not seen (it reads a constant, or a tensor that left the profiler's sight through numpy, "
            "another thread or the like); it is listed as unsupported and its cost is unknown"
        )

    # ---- neurons ----------------------------------------------------------------------------------------------

    def _count_neuron(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """A neuron's call is one operation; its spikes are counted whatever is known of the call."""
        layer, context, spec = self.scopes.layer, self.context, self._foreign.get(id(module))
        if isinstance(module, LIF) and spec is None:
            current, spike = args[0] if args else next(iter(kwargs.values())), out
        else:
            current, spike = next(tensors_in([args, kwargs]), None), next(tensors_in([out]), None)
            assert spec is not None
            foreign.require_one_output(layer, spec, current, spike)
        trace = self.table.get(current)
        if trace is None:
            raise ProfilingError(f"{layer}: the neuron reads a tensor that does not stem from the loader")
        call = NeuronCall(layer, self.scopes.site(), current, trace, spike)
        if spec is None:
            assert isinstance(module, LIF)
            own.require_steps(call, out, context.shape)
            steps = tuple(self.observer.steps)
            facts = (steps, module.amplitude, own.gives_its_own_spikes(module))
            work = functools.partial(own.own_neuron, module, call, steps, context)
            outcome = self._neuron_outcome(call, facts, work) if steps and facts[-1] else self._next(work())
            count = functools.partial(own.count_spikes, module, call, observer=self.observer)
        else:
            foreign.require_layout(module, spec, call, args, kwargs, context)
            if spec.integrates_only:
                self._keep(self._next(foreign.integrator(spec, call, out, context, self.scans)))
                return
            work = functools.partial(foreign.foreign_neuron, module, spec, call, context)
            outcome = self._neuron_outcome(call, (own.is_unhooked(module),), work)
            count = functools.partial(foreign.count_spikes, call)
        assert outcome.record is not None
        count(record=outcome.record, result=outcome.traces[0][1], batch=context.shape, scans=self.scans)
        self._keep(outcome)

    def _neuron_outcome(self, call: NeuronCall, facts: tuple[Any, ...], work: Callable[[], Outcome]) -> Outcome:
        """The outcome of a neuron's call, which follows from ``facts`` and what is known of its tensors."""
        scope = self.scopes.current
        made = MadeCall(
            "neuron", (scope.name, scope.invocation), [call.current], [call.trace], facts, {}, call.spike,
            len(self.log.records),
        )  # fmt: skip
        outcome = self.cache.outcome(made, scope.counters, lambda: self._next(work()), self.scans)
        assert outcome is not None
        return outcome

    # ---- every function call ----------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function as it is; count what it read and made."""
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
            before = len(self.log.records)
            with DecompositionMode(self):
                out = func(*args, **kwargs)
            if len(self.log.records) == before and any(self.table.get(t) is None for t in tensors_in([out])):
                self.record_call(raw, args, kwargs, out)
            return out
        out = func(*args, **kwargs)
        self.record_call(raw, args, kwargs, out)
        return out

    def record_call(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Count one function call that has just been made. Raises ProfilingError where it cannot."""
        try:
            self._count_call(raw, args, kwargs, out)
        except (ProfilingError, MemoryError, ReplayError):
            raise
        except Exception as error:
            raise ProfilingError(
                f"{self.scopes.current.name or 'the model'}: the profiler cannot follow '{raw}' here "
                f"({type(error).__name__}: {error}); write this step in another way, and please report it"
            ) from error

    def _count_call(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        entry = find(plain_name(raw)) or UNKNOWN
        if entry.is_question:
            return
        work = functools.partial(self._outcome, entry, raw, args, kwargs, out)
        if not entry.cacheable or not isinstance(out, Tensor) or is_in_place(raw):
            outcome = work()
        else:
            scope = self.scopes.current
            tensors, rest, options = split_arguments(args, kwargs)
            traces = [self.table.get(t) for t in tensors]
            made = MadeCall(
                raw, (scope.name, scope.invocation), tensors, traces, rest, options, out, len(self.log.records),
                entry.constants_matter, entry.scans_operands,
            )  # fmt: skip
            outcome = self.cache.outcome(made, scope.counters, work, self.scans)
        if outcome is not None:
            self._apply(outcome)

    def _outcome(
        self, entry: RuleEntry, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> Outcome | None:
        """What a call did, by its rule; None where it reads nothing that stems from the loader."""
        name, inputs = plain_name(raw), self._inputs(args, kwargs)
        if not inputs:
            for target in tensors_in([kwargs.get("out")]):
                self.table.forget_values(target)
            _require_no_transform(name, args)
            return None
        if entry.forgets_inputs:
            for tensor, _ in inputs:
                self.table.forget_values(tensor)
            inputs = self._inputs(args, kwargs)
        made = [out] if isinstance(out, Tensor) else list(tensors_in([out]))
        if not made and not entry.writes:
            return None
        call = Call(name, args, kwargs, inputs, made, self.scopes.site(), is_in_place(raw))
        if entry.parts is not None:
            for part in entry.parts(call):
                self._count_part(part.name, part.args, part.out)
            return None
        assert entry.count is not None
        return self._next(entry.count(call, self.context, self.scans))

    def _count_part(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        """Count one of the calls that a function is made of."""
        entry, inputs = find(name), self._inputs(args, {})
        if inputs and entry is not None and entry.count is not None:
            call = Call(name, args, {}, inputs, [out], self.scopes.site())
            self._apply(self._next(entry.count(call, self.context, self.scans)))

    def _inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Tensor, TensorTrace]]:
        """Tensors among arguments that stem from the loader, in order, with what is known of them."""
        read: Iterable[Any] = args
        if kwargs or any(isinstance(a, (list, tuple, dict)) for a in args):
            read = tensors_in([args, {k: v for k, v in kwargs.items() if k != "out"}])
        return [(t, trace) for t in read if isinstance(t, Tensor) and (trace := self.table.get(t)) is not None]

    # ---- what is kept of an outcome ---------------------------------------------------------------------------

    def _next(self, outcome: Outcome) -> Outcome:
        return outcome.stemming_from(len(self.log.records))

    def _apply(self, outcome: Outcome) -> None:
        """Keep an outcome; the result of an operation is scanned at once as the batch before read it."""
        self._keep(outcome)
        record = outcome.record
        if record is not None and record.op == "unsupported":
            self.log.unsupported.setdefault(record.layer, record.note)
        elif record is not None:
            out, trace = outcome.traces[0]
            trace.scans.writer = record.layer, record.invocation
            self.scans.scan_ahead(out, trace)

    def _keep(self, outcome: Outcome) -> None:
        for tensor, trace in outcome.written:
            self.table.mark_written(tensor, trace)
        if outcome.record is not None:
            self.log.records.append(outcome.record)
            self.scopes.count(outcome.record.label)
        for tensor, trace in outcome.traces:
            self.table.put(tensor, trace)


def _require_no_transform(name: str, args: Sequence[Any]) -> None:
    """Raises ProfilingError inside torch.vmap and its like, where tensors are wrappers of others."""
    if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors_in([args])):
        raise ProfilingError(
            f"'{name}' runs inside torch.vmap or another torch.func transform, which cannot be looked into; "
            "write it with batched operations"
        )
