"""One walk through a network: module hooks give the scope, a torch function mode sees every operation.

Every call of a torch function on a tensor that stems from the loader is looked up in the table of rules and leaves
an ``OperationRecord``: its counts (small tensors, one per row = time step and sample), its geometry, and which earlier
events it reads. Tensors are followed by object, not by address; in-place changes void what was known of the storage.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.profiler import rules
from snn_energy.profiler.axes.needed_steps import Steps
from snn_energy.profiler.axes.roles import (
    BatchShape,
    Role,
    Roles,
    broadcast_roles,
    fed_roles,
    merge,
    reshape_roles,
    role_positions,
    stacked_role,
    view_roles,
)
from snn_energy.profiler.axes.rows import batch_in_front, require_complete
from snn_energy.profiler.neurons.spec import LAYOUTS, NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.tracking.call_cache import CallCache, MadeCall, cached_call, split_arguments
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationLog, OperationRecord
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import (
    NOTHING,
    ValueBound,
    bound_of_product,
    bound_of_scale,
    bound_of_sum,
    reason_of_average,
    spikes,
)
from snn_energy.profiler.values.exact_sums import whole_sums
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import Reader, ScanCache, grouped
from snn_energy.profiler.values.traces import ScanResults, TensorFacts, TensorTrace

# Networks do the same thing to the same shapes again and again.
_reshape_roles = functools.lru_cache(maxsize=4096)(reshape_roles)
_view_roles = functools.lru_cache(maxsize=4096)(view_roles)
_broadcast_roles = functools.lru_cache(maxsize=4096)(broadcast_roles)

ONCE = -1  # time_step of work done once per inference


_CATEGORY: dict[str, str] = {
    **dict.fromkeys(rules.QUERIES, "query"),
    **dict.fromkeys(rules.ESCAPES, "escape"),
    **dict.fromkeys(rules.RESHAPES, "reshape"),
    **dict.fromkeys(rules.CASTS, "cast"),
    **dict.fromkeys(rules.MOVES, "move"),
    **dict.fromkeys(rules.ELEMENTWISE, "elementwise"),
    **dict.fromkeys(rules.POOLS, "pool"),
    **dict.fromkeys(rules.CONVOLUTIONS, "convolution"),
    **dict.fromkeys(rules.LINEARS, "linear"),
    **dict.fromkeys(rules.PRODUCTS, "product"),
    **dict.fromkeys(rules.ATTENTIONS, "attention"),
}


@functools.cache
def _category(raw: str) -> tuple[str, str]:
    """(plain name, category of rule) of a function's name."""
    plain = rules.plain_name(raw)
    return plain, _CATEGORY.get(plain, "unknown")


def _is_active_dropout(plain: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if not plain.endswith("dropout"):
        return False
    return bool(rules.bind(("input", "p", "training"), args, kwargs).get("training", False))


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among arguments, in lists and tuples too, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


class DecompositionMode(TorchDispatchMode):
    """Looks one level below a function without a rule: the aten operations it is made of."""

    def __init__(self, walker: CountingMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.walker = walker
        self.alive: list[Any] = []  # keeps intermediate tensors the same objects while the function runs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        raw = func.overloadpacket.__name__
        if rules.plain_name(raw) not in _CATEGORY:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.alive.append(out)
        self.walker.saw(raw, args, kwargs, out)
        return out


class CountingMode(TorchFunctionMode):
    """Counts one forward pass after another of one model; use ``watching`` around each pass."""

    def __init__(
        self,
        model: nn.Module,
        max_k: int,
        input_kind: str | None,
        spiking: Mapping[str, NeuronSpec] | None = None,
        opened: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.spiking = {  # neurons that are not our own LIF
            id(model.get_submodule(name)): belief
            for name, belief in (spiking or {}).items()
            if not isinstance(model.get_submodule(name), LIF)
        }
        self.opened = {id(model.get_submodule(name)) for name in opened}  # looked into, though they are neurons
        self.table, self.log = TensorTable(), OperationLog()
        self.scopes = ModuleScopes(model, self._is_leaf)
        self.scans, self.cache, self.observer = ScanCache(max_k, input_kind), CallCache(), SpikeObserver()
        self._names: dict[Any, tuple[str, str]] = {}
        self._geometries: dict[Any, Geometry] = {}
        self.batch = BatchShape(1, 1)
        self.step: int | None = None

    # ---- one forward pass -------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every module and the function mode, both gone afterwards whatever happens."""
        handles, observers = [], []
        try:
            for name, module in self.model.named_modules(remove_duplicate=True):
                handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leaving(name), with_kwargs=True))
                if self._is_lif(module):
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
        self.batch = batch
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
        self.step = step
        self.scopes.begin_call()

    def feed(self, x: Tensor, layout: str | None, constant: bool) -> None:
        """Declare a tensor of the loader as the network's input; ``layout`` says where time is, None: nowhere yet."""
        timed, roles = layout is not None, fed_roles(x.dim(), layout, self.batch)
        bound = ValueBound(reason="declared real" if self.scans.input_kind == "real" else None, loader=True)
        active = np.ones(self.batch.time_steps if timed else 1, dtype=np.bool_)
        before = self.table.get(x)  # the same tensor, fed at the step before: what was seen of its values holds
        scans = before.scans if before is not None and before.bound == bound else None
        facts = self.cache.reuse_facts(TensorFacts(roles, timed, self.step, active, constant, frozenset(), bound))
        self.table.put(x, TensorTrace(facts, scans))

    def outputs(self, out: Any) -> frozenset[int]:
        """Events whose results the model returns."""
        return self.log.results([self.table.get(tensor) for tensor in tensors_in([out])])

    # ---- scope ------------------------------------------------------------------------------------------------

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.scopes.enter(name, module)
            if self._is_lif(module) or id(module) in self.spiking:
                self.scopes.neuron_depth += 1
                if self.scopes.neuron_depth == 1:  # its own arithmetic is the neuron update: need not be recorded
                    self.scopes.suspend()
                self._begin_neuron(module)
            elif not self.scopes.is_suspended and rules.is_plain_layer(module, args, kwargs):
                self.scopes.suspend()  # what it does is known from its type: one call is accounted for when it is done

        return hook

    def _is_lif(self, module: nn.Module) -> TypeGuard[LIF]:
        return isinstance(module, LIF) and id(module) not in self.opened

    def _is_leaf(self, module: nn.Module) -> bool:
        """True where the first operation of a module bears the module's own name."""
        is_leaf = self._is_lif(module) or id(module) in self.spiking
        return is_leaf or (rules.is_layer_class(type(module)) and next(module.children(), None) is None)

    def _begin_neuron(self, module: nn.Module) -> None:
        """Make room for the sums of the spikes of a neuron of our own."""
        name = self.scopes.layer, self.scopes.current.invocation
        if isinstance(module, LIF):
            layouts = [request.layout for request in self.scans.requests_of(name).values()]
            self.observer.begin(module.amplitude, self.batch, layouts)

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if self._is_lif(module):
                self.scopes.neuron_depth -= 1
                if self.scopes.neuron_depth == 0:
                    self._neuron(module, args[0] if args else next(iter(kwargs.values())), out)
                    self.scopes.resume()
            elif id(module) in self.spiking:
                self.scopes.neuron_depth -= 1
                if self.scopes.neuron_depth == 0:
                    self._foreign_neuron(module, self.spiking[id(module)], [args, kwargs], out)
                    self.scopes.resume()
            elif self.scopes.is_suspended and self.scopes.neuron_depth == 0:
                self._plain_layer(module, args[0], out)
                self.scopes.resume()
            counters = self.scopes.current.counters
            if not counters and self.scopes.neuron_depth == 0 and rules.is_weight_layer(module):
                self._lost(name, module, out)
            self.scopes.leave()

        return hook

    def _plain_layer(self, module: nn.Module, x: Tensor, out: Any) -> None:
        """Account for a layer that is one call of a function, on (T*B, ...) where it reads (T, B, ...)."""
        trace = self.table.get(x)
        if trace is None or not rules.is_over_time(module) or not isinstance(out, Tensor):
            self.saw(*rules.plain_call(module, x), out)
            return
        rows, made = x.flatten(0, 1), out.flatten(0, 1)
        self._reshape(x, trace, rows)
        self.saw(*rules.plain_call(module, rows), made)
        after = self.table.get(made)
        if after is not None:
            self._reshape(made, after, out)

    def _lost(self, name: str, module: nn.Module, out: Any) -> None:
        """A layer with weights ran, and none of its work was seen: a row that says so."""
        layer = name or type(module).__name__
        size = next((t.numel() for t in tensors_in([out])), 0)
        event = OperationRecord(
            layer, name, self.scopes.current.invocation, 0, "", "unsupported", False, self.step, np.ones(1, np.bool_),
            False,
            frozenset(), size // max(1, self.batch.samples), note="reads nothing that is known to stem from the loader",
        )  # fmt: skip
        self.log.records.append(event)
        self.log.untraced_layers[layer] = (
            "its work was not seen (it reads a constant, or a tensor that left the profiler's sight through numpy, "
            "another thread or the like); it is listed as unsupported and its cost is unknown"
        )

    # ---- every function call ----------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function as it is; look at what it read and made."""
        kwargs = kwargs or {}
        if self.scopes.neuron_depth:
            return func(*args, **kwargs)
        name = self._names.get(func)
        if name is None:
            raw = getattr(func, "__name__", type(func).__name__)
            if raw == "__get__":
                raw = func.__self__.__name__
            elif raw == "__set__":
                raw = "set_"
            name = self._names[func] = (raw, _category(raw)[1])
        raw, category = name
        if category == "query":
            return func(*args, **kwargs)
        is_opened = category == "unknown" and raw not in rules.CELLS
        if is_opened and any(self.table.get(t) for t in tensors_in([args, kwargs])):
            before = len(self.log.records)
            with DecompositionMode(self):
                out = func(*args, **kwargs)
            if len(self.log.records) == before and any(self.table.get(t) is None for t in tensors_in([out])):
                self.saw(raw, args, kwargs, out)
            return out
        out = func(*args, **kwargs)
        self.saw(raw, args, kwargs, out)
        return out

    def saw(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Account for one function call that has just been made. Raises ProfilingError where it cannot."""
        try:
            self._saw(raw, args, kwargs, out)
        except (ProfilingError, MemoryError):
            raise
        except Exception as error:
            where = self.scopes.current.name
            raise ProfilingError(
                f"{where or 'the model'}: the profiler cannot follow '{raw}' here ({type(error).__name__}: {error}); "
                "write this step in another way, and please report it"
            ) from error

    def _saw(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        position = self.cache.next_position()
        plain, category = _category(raw)
        if category == "query":
            return
        if category not in _REPEATABLE or not isinstance(out, Tensor) or rules.is_in_place(raw):
            self._account_for(raw, plain, category, args, kwargs, out)
            return
        scope, _, invocation, counters = self.scopes.current
        records, calls = len(self.log.records), dict(counters)
        tensors, rest, options = split_arguments(args, kwargs)
        traces = [self.table.get(t) for t in tensors]
        call = MadeCall(raw, (scope, invocation), tensors, traces, rest, options, out, records)
        replay = self.cache.replay(position, call, counters)
        if replay is not None:
            if replay.record is None:
                self.table.put(out, replay.trace)
            else:
                self._record(replay.record, out, replay.trace)
            return
        self.scans.used_keys = []
        self._account_for(raw, plain, category, args, kwargs, out)
        labels = [(label, calls.get(label, 0)) for label, count in counters.items() if calls.get(label, 0) != count]
        scanned = category in ("convolution", "linear", "product")
        made = cached_call(
            call,
            self.log.records[records:],
            self.table.get(out),
            labels[0] if labels else None,
            self.scans.used_keys if scanned else None,
            category in ("elementwise", "pool") and plain not in _NORMS,
        )
        self.cache.keep(position, made)

    def _account_for(
        self, raw: str, plain: str, category: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        read: Iterable[Any] = args
        if kwargs or any(isinstance(a, (list, tuple, dict)) for a in args):
            read = tensors_in([args, {k: v for k, v in kwargs.items() if k != "out"}])
        traced = [(t, trace) for t in read if isinstance(t, Tensor) and (trace := self.table.get(t)) is not None]
        if not traced:
            for target in tensors_in([kwargs.get("out")]):
                self.table.forget_values(target)
            if category != "query" and any(_is_transformed(t) for t in tensors_in([args])):
                raise ProfilingError(
                    f"'{plain}' runs inside torch.vmap or another torch.func transform, which cannot be looked into; "
                    "write it with batched operations"
                )
            return
        if category == "escape":
            for tensor, _ in traced:
                self.table.mark_written(tensor, None)
            return
        if plain in ("setitem", "copy", "fill", "zero", "set") and rules.is_in_place(raw):
            self._write(plain, args, traced)
            return
        made = [out] if isinstance(out, Tensor) else list(tensors_in([out]))
        if category == "unknown":  # it may have written to what it read
            for tensor, _ in traced:
                self.table.forget_values(tensor)
            traced = [(t, trace) for t, _ in traced if (trace := self.table.get(t)) is not None]
        if made:
            self._account(category, plain, args, kwargs, traced, made)

    def _account(
        self,
        category: str,
        plain: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        traced: list[tuple[Tensor, TensorTrace]],
        made: list[Tensor],
    ) -> None:
        if category in ("reshape", "cast") and not _is_active_dropout(plain, args, kwargs):
            self._reshape(*traced[0], made[0])
        elif category == "move":
            self._move(plain, args, kwargs, traced, made)
        elif category == "convolution" and self._weights_are_constant(args[1:], kwargs):
            self._convolution(plain, args, kwargs, made[0])
        elif category == "linear" and plain != "addmm" and self._weights_are_constant(args[1:], kwargs):
            self._linear(args, kwargs, made[0])
        elif category == "product" or plain == "addmm":
            self._product(plain, args, kwargs, traced, made[0])
        elif category == "attention":
            self._attention(plain, args, kwargs, made[0])
        elif category in ("elementwise", "pool"):
            self._elementwise(category, plain, args, kwargs, traced, made)
        else:
            self._unsupported(plain, traced, made)

    def _weights_are_constant(self, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        return not any(self.table.get(t) for t in tensors_in([*rest, kwargs.get("weight"), kwargs.get("bias")]))

    # ---- tensors that move ------------------------------------------------------------------------------------

    def _reshape(self, x: Tensor, trace: TensorTrace, out: Tensor) -> None:
        """Row-major order is kept; a change of number format keeps what stays provable."""
        roles = trace.roles
        if out.shape != x.shape:
            roles = _reshape_roles(x.shape, trace.roles, out.shape, self.batch)
        bound, scans = trace.bound, trace.scans
        if out.data_ptr() != x.data_ptr() and not (x.is_contiguous() and out.is_contiguous()):
            scans = ScanResults()
        if out.dtype != x.dtype:
            scans = ScanResults()
            if out.dtype == torch.bool:
                bound = ValueBound(1.0, 1, True)
            elif not (bound.unit == 1 and out.dtype.is_floating_point):
                bound = replace(bound, unit=None, max_k=0, proven=False)
        self.table.put(out, trace.replace(roles=roles, bound=bound, scans=scans))

    def _move(
        self,
        plain: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        traced: list[tuple[Tensor, TensorTrace]],
        made: list[Tensor],
    ) -> None:
        if plain in ("stack", "cat", "concat", "concatenate", "hstack", "vstack", "dstack"):
            self.table.put(made[0], self._joined(plain, args, kwargs, made[0]))
            return
        x, trace = traced[0]
        if plain in ("repeat", "tile", "expand", "expand_as", "broadcast_to", "repeat_interleave"):
            self.table.put(made[0], self._repeated(plain, x, trace, made[0]))
            return
        storage = x.untyped_storage()._cdata
        padded_with = rules.bind(("input", "pad", "mode", "value"), args, kwargs).get("value")
        bound = NOTHING if plain in ("pad", "constant_pad_nd") and padded_with else trace.bound
        for out in made:
            if out.untyped_storage()._cdata == storage:
                scans = trace.scans if out.data_ptr() == x.data_ptr() else ScanResults()
                self.table.put(out, self._viewed(x, trace, out).replace(bound=bound, scans=scans))
            else:
                roles = self._copied_roles(plain, x, trace, args, kwargs, out)
                self.table.put(out, trace.replace(roles=roles, bound=bound, scans=ScanResults()))

    def _viewed(self, x: Tensor, trace: TensorTrace, out: Tensor) -> TensorTrace:
        """A view of the same memory; where it holds a single time step, which one."""
        roles = _view_roles(x.shape, x.stride(), trace.roles, out.shape, out.stride(), self.batch)
        axis = role_positions(trace.roles).get("T")
        if axis is None or {"T", "R"} & set(roles) or not trace.timed:
            return trace.replace(roles=roles)
        if out.dim() == x.dim() and out.shape[axis] != 1:
            return trace.replace(roles=roles)  # part of the steps: incomplete, refused where it is counted
        stride = x.stride(axis)
        if stride == 0:  # the same values at every step
            return trace.replace(roles=roles, timed=False, step=None, active=trace.active[:1])
        step = (out.storage_offset() - x.storage_offset()) // stride % self.batch.time_steps
        return trace.replace(roles=roles, timed=False, step=step, active=trace.active[step : step + 1])

    def _copied_roles(
        self, plain: str, x: Tensor, trace: TensorTrace, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> Roles:
        """Roles of a copy that leaves the leading axes alone; lost where it touches them."""
        last = max(role_positions(trace.roles).values(), default=-1)
        dims: set[int] = set()
        if plain in ("flip", "roll", "index_select", "gather", "take_along_dim", "rot90"):
            position = 2 if plain in ("roll", "take_along_dim", "rot90") else 1
            given = kwargs.get("dim", kwargs.get("dims", args[position] if len(args) > position else None))
            values = [given] if isinstance(given, int) else list(given or range(x.dim()))
            dims = {d % x.dim() for d in values}
        elif plain == "getitem":
            index = _spelled_out(args[1] if isinstance(args[1], tuple) else (args[1],), x.dim())
            whole = [i for i, item in enumerate(index) if isinstance(item, slice) and item == slice(None)]
            dims = set(range(last + 1)) - set(whole)
        elif plain in ("take", "masked_select", "meshgrid"):
            dims = set(range(x.dim()))
        kept = [
            role if i < out.dim() and out.shape[i] == x.shape[i] and i not in dims else None
            for i, role in enumerate(trace.roles)
        ]
        return tuple((kept + [None] * out.dim())[: out.dim()])

    def _joined(self, plain: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> TensorTrace:
        """stack and cat; T tensors of one step each, stacked in front, become the time axis."""
        parts = list(args[0] if args else kwargs.get("tensors", ()))
        given = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        dim = given % out.dim() if isinstance(given, int) else 0
        traces = [(p, t) for p in parts if (t := self.table.get(p)) is not None]
        sources = frozenset().union(*(t.sources for _, t in traces))
        batch = self.batch
        steps = [t for _, t in traces]
        if dim == 0 and len(parts) == len(steps) == batch.time_steps > 1 and not any(t.timed for t in steps):
            stacked = plain == "stack"
            first, roles = parts[0], steps[0].roles
            roles = ("T", *roles) if stacked else (stacked_role(first.shape[0], roles[0], batch), *roles[1:])
            active = np.concatenate([t.active for t in steps])
            same = all(p is parts[0] for p in parts)
            return TensorTrace(TensorFacts(roles, True, None, active, same, sources, _bound_of_union(parts, steps)))
        in_order = [t.step for t in steps] == list(range(batch.time_steps)) and len(parts) == len(steps)
        if plain == "stack" and batch.time_steps > 1 and in_order and not any(t.timed for t in steps):
            roles = (*steps[0].roles[:dim], "T", *steps[0].roles[dim:])
            active = np.concatenate([t.active for t in steps])
            return TensorTrace(TensorFacts(roles, True, None, active, False, sources, _bound_of_union(parts, steps)))
        first, trace = traces[0]
        timed = any(t.timed for t in steps)
        if plain == "stack" and len(parts) == batch.time_steps > 1 and not timed:
            trace = trace.replace(roles=(None,) * first.dim())  # T copies, but not in front
        roles = tuple(r if out.shape[i] == first.shape[i] else None for i, r in enumerate(trace.roles))
        if plain == "stack":
            roles = (*trace.roles[:dim], None, *trace.roles[dim:])
        active = _any_active([t.active for t in steps])
        if len(steps) < len(parts):
            active = np.ones_like(active)
        known = max((t.step for t in steps if t.step is not None), default=None)
        constant = all(t.constant for t in steps)
        return TensorTrace(TensorFacts(roles, timed, known, active, constant, sources, _bound_of_union(parts, steps)))

    def _repeated(self, plain: str, x: Tensor, trace: TensorTrace, out: Tensor) -> TensorTrace:
        """repeat and expand; T copies of a tensor without time are its time axis (direct encoding)."""
        batch = self.batch
        aligned = [None] * (out.dim() - x.dim()) + list(trace.roles)
        shape = [1] * (out.dim() - x.dim()) + list(x.shape)
        roles: list[Role | None] = [r if out.shape[i] == shape[i] else None for i, r in enumerate(aligned)]
        has_no_time = not trace.timed and trace.step is None
        if has_no_time and batch.time_steps > 1 and out.numel() == batch.time_steps * x.numel():
            if out.shape[0] == batch.time_steps and shape[0] == 1:
                roles[0] = "T"
            elif out.dim() > 1 and out.shape[1] == batch.time_steps and shape[1] == 1 and plain != "repeat_interleave":
                roles[1] = "T"
            elif plain == "repeat_interleave" and out.shape[0] == batch.rows(True) and shape[0] == batch.samples:
                roles[0] = fed_roles(1, "flat-batch", batch)[0]
            elif plain in ("repeat", "tile") and out.shape[0] == batch.rows(True) and shape[0] == batch.samples:
                roles[0] = merge(True, True, batch)
            else:  # T copies, but not in front: a time axis that is not followed
                return trace.replace(roles=(None,) * out.dim(), scans=ScanResults())
            active = np.repeat(trace.active, batch.time_steps)
            return trace.replace(roles=tuple(roles), timed=True, active=active, constant=True, scans=ScanResults())
        return trace.replace(roles=tuple(roles), scans=ScanResults())

    def _write(self, plain: str, args: Sequence[Any], traced: list[tuple[Tensor, TensorTrace]]) -> None:
        """x[...] = y, x.copy_(y), x.fill_(c): the target's values change; a buffer may gain its time axis here."""
        target = args[0]
        before = self.table.get(target)
        sources = [t for x, t in traced if x is not target]
        joined = before or sources[0].replace(bound=NOTHING, scans=ScanResults(), roles=(None,) * target.dim())
        joined = joined.replace(bound=ValueBound(loader=joined.bound.loader), scans=ScanResults())
        if sources:
            joined = joined.replace(sources=joined.sources | sources[0].sources, bound=NOTHING)
        elif plain != "zero":  # a constant that may not be zero
            joined = joined.replace(active=np.ones_like(joined.active))
        if plain == "setitem" and sources and isinstance(args[1], int):
            joined = self._written_step(target, args[1], joined, sources[0], before)
        elif plain == "copy" and sources and target.shape == args[1].shape:
            joined = sources[0].replace(scans=ScanResults())
        self.table.mark_written(target, joined if len(joined.roles) == target.dim() else None)
        self.table.put(target, joined)

    def _written_step(
        self, target: Tensor, at: int, joined: TensorTrace, source: TensorTrace, before: TensorTrace | None
    ) -> TensorTrace:
        """buffer[t] = y for a buffer of T steps."""
        batch = self.batch
        if batch.time_steps == 1 or target.shape[0] != batch.time_steps or source.timed:
            return joined
        active = before.active.copy() if before is not None and before.timed else np.zeros(batch.time_steps, np.bool_)
        active[at] = bool(source.active.any())
        roles: Roles = ("T", *source.roles) if len(source.roles) == target.dim() - 1 else joined.roles
        return joined.replace(roles=roles, timed=True, step=None, active=active, constant=False)

    # ---- events -----------------------------------------------------------------------------------------------

    def _record(self, event: OperationRecord, out: Tensor, trace: TensorTrace) -> None:
        """Keep the event; its output stems from it alone."""
        self.log.records.append(event)
        own = frozenset({len(self.log.records) - 1})
        if trace.sources != own:
            trace = TensorTrace(trace.facts._replace(sources=own))
        self.table.put(out, trace)
        trace.scans.writer = event.layer, event.invocation
        self.scans.scan_ahead(out, trace)

    def _event(self, op: str, label: str, traces: Sequence[TensorTrace], out: Tensor) -> OperationRecord:
        """A new event of operation ``op``, named by ``label`` in the current scope, reading ``traces``."""
        layer, scope, invocation, index, suffix = self.scopes.locate(label)
        if len(traces) == 1:
            one = traces[0]
            timed, step, active, inputs = one.timed, None if one.timed else one.step, one.active, one.sources
            constant = one.constant or (not one.timed and one.step is None)
        else:
            timed = any(t.timed for t in traces)
            known = [t.step for t in traces if t.step is not None]
            step = None if timed or not known else max(known) if max(known) >= 0 else ONCE
            active, inputs = _any_active([t.active for t in traces]), frozenset().union(*(t.sources for t in traces))
            constant = all(t.constant or (not t.timed and t.step is None) for t in traces)
        if not timed and self.step is not None:  # the model is called once per step: it works in that step
            step = self.step
        return OperationRecord(
            layer=layer,
            scope=scope,
            invocation=invocation,
            index=index,
            suffix=suffix,
            op=op,
            timed=timed,
            step=step,
            active=active,
            constant=constant,
            inputs=inputs,
            output_elements=out.numel() // max(1, self.batch.rows(timed)),
        )

    def _elementwise(
        self,
        category: str,
        plain: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        traced: list[tuple[Tensor, TensorTrace]],
        made: list[Tensor],
    ) -> None:
        out, (x, first) = made[0], traced[0]
        traces = [t for _, t in traced]
        if category == "pool":
            rule, ops = rules.Elementwise("pool"), rules.pool_ops(plain, x, out, args, kwargs)
        else:
            rule = rules.ELEMENTWISE[plain]
            ops = rule.ops * (x.numel() if rule.of == "input" else out.numel())
        op, factor = rule.op, None
        if op == "mul" and len(traced) == 1:
            factor = _constant_factor(plain, args, kwargs, x)
            op = "scale" if factor is not None else "mul"
        elif op == "reduce" and plain in ("mean", "nanmean"):
            op = "mean"
        roles = _broadcast_roles(tuple((t.shape, trace.roles) for t, trace in traced), out.shape)
        timed, step = any(t.timed for t in traces), None
        if op in ("mean", "reduce"):
            roles, timed, step = self._reduced(x, first, args, kwargs, out)
        elif category == "pool" or (op == "norm" and out.dim() == x.dim()):
            roles = tuple(r if out.shape[i] == x.shape[i] else None for i, r in enumerate(first.roles))
        event = self._event(op, op, traces, out)
        if op in ("mean", "reduce") and first.timed and not timed:
            event.timed, event.step = False, step
            event.active = np.array([bool(event.active.any())])
            event.output_elements = out.numel() // max(1, self.batch.rows(False))
        rows = self.batch.rows(first.timed if op in ("mean", "reduce") else event.timed)
        event.elementwise_ops = ops // max(1, rows)
        if op in ("mean", "reduce") and first.timed and not timed:
            event.elementwise_ops = ops // max(1, self.batch.samples)
        event.foldable = op == "scale" or (plain.endswith("batch_norm") and not _batch_statistics(plain, args, kwargs))
        event.note = plain
        active = event.active if op != "mul" or len(traces) < 2 else _all_active([t.active for t in traces])
        event.active = active
        # An average over one value is that value: over one time step, over the one position that is left.
        is_of_one = (op == "mean" or plain.startswith("adaptive_avg")) and out.numel() == x.numel()
        has_offset = plain in rules.NONZERO_AT_ZERO or (op == "add" and len(traced) == 1)
        facts = TensorFacts(
            roles,
            timed,
            step if op in ("mean", "reduce") and first.timed and not timed else event.step,
            np.ones_like(active) if has_offset else active,
            event.constant,
            frozenset(),
            first.bound if is_of_one else _bound_of_elementwise(plain, op, factor, traced, args, kwargs),
        )
        event.reads, event.leaves = tuple(t.bound for t in traces), facts.bound
        result = TensorTrace(facts)
        in_place = any(made[0] is t for t, _ in traced) or "out" in kwargs
        if in_place:
            self.table.mark_written(out, result.replace(sources=frozenset({len(self.log.records)})))
        self._record(event, out, result)
        for extra in made[1:]:
            self.table.put(extra, result.replace(sources=frozenset({len(self.log.records) - 1}), bound=NOTHING))

    def _reduced(
        self, x: Tensor, trace: TensorTrace, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
    ) -> tuple[Roles, bool, int | None]:
        """Roles, timed and step after a reduction over some axes."""
        given = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
        if out.shape == x.shape:  # a running sum keeps every axis
            return trace.roles, trace.timed, trace.step
        if isinstance(given, bool) or not isinstance(given, (int, tuple, list)):
            dims = set(range(x.dim()))
        else:
            dims = {d % max(1, x.dim()) for d in ([given] if isinstance(given, int) else given)}
        if out.dim() == x.dim():
            roles = tuple(None if i in dims else r for i, r in enumerate(trace.roles))
        else:
            roles = tuple(r for i, r in enumerate(trace.roles) if i not in dims)
        roles = roles if len(roles) == out.dim() else (None,) * out.dim()
        over_time = "T" in {trace.roles[i] for i in dims}
        return roles, trace.timed and not over_time, ONCE if over_time else trace.step

    def _unsupported(self, plain: str, traced: list[tuple[Tensor, TensorTrace]], made: list[Tensor]) -> None:
        """A row without counts, named; everything downstream counts as active."""
        x, trace = traced[0]
        event = self._event("unsupported", plain, [t for _, t in traced], made[0])
        event.note = plain
        self.log.unsupported.setdefault(event.layer, plain)
        self.log.records.append(event)
        source = frozenset({len(self.log.records) - 1})
        for out in made:
            same = out.shape == x.shape
            roles = trace.roles if same else (None,) * out.dim()
            if not same:
                roles = tuple(
                    r if i < out.dim() and out.shape[i] == x.shape[i] else None for i, r in enumerate(trace.roles)
                )[: out.dim()]
                roles = (*roles, *[None] * (out.dim() - len(roles)))
            active = np.ones_like(trace.active)
            self.table.put(
                out, TensorTrace(TensorFacts(roles, trace.timed, trace.step, active, trace.constant, source, NOTHING))
            )

    def _convolution(self, plain: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        operands = rules.convolution_operands(plain, args, kwargs)
        x = operands["input"]
        trace = self._traced(x)
        event = self._event("conv", "conv", [trace], out)
        axes = operands["weight"].dim() - 2
        if x.dim() != axes + 2 or x.shape[0] != self.batch.rows(trace.timed):
            raise ProfilingError(
                f"{event.layer}: the convolution reads {tuple(x.shape)}, not {self.batch.rows(trace.timed)} rows "
                f"(time x samples) of (channels, {'x'.join('S' * axes)}); give a batched input"
            )
        key = (
            plain,
            x.shape,
            operands["weight"].shape,
            tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in operands.items() if k not in _TENSORS),
        )
        geometry = self._geometries.get(key)
        if geometry is None:
            geometry = self._geometries[key] = rules.convolution_geometry(operands, out.shape)
        channels, positions = x.shape[1], len(geometry.fan_out)
        if geometry.same_fan_out is not None:  # where in a row a non-zero lies does not matter
            channels, positions = channels * positions, 1
        self._weighted(event, x, trace, geometry, out, (x.shape[0], channels, positions))

    def _linear(self, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        operands = rules.bind(("input", "weight", "bias"), args, kwargs)
        x, weight, bias = operands["input"], operands["weight"], operands.get("bias")
        trace = self._traced(x)
        event = self._event("linear", "linear", [trace], out)
        self._require_features(event.layer, trace.roles[-1])
        reduction = int(x.shape[-1])
        outputs = weight.shape[0] if weight.dim() > 1 else 1
        geometry = Geometry(
            positions=x.numel() // max(1, reduction * self.batch.rows(trace.timed)),
            reduction=reduction,
            out_channels=outputs,
            groups=1,
            weights=weight.numel(),
            biases=0 if bias is None else bias.numel(),
            fan_out=np.array([outputs], dtype=np.int64),
        )
        self._weighted(event, x, trace, geometry, out, None)

    def _require_features(self, layer: str, role: Role | None) -> None:
        """Refuse a layer that sums over time steps or samples: its work is no step's and no sample's."""
        if role is not None:
            raise ProfilingError(
                f"{layer}: sums over the axis of time steps or samples, so that its work cannot be told apart by step "
                "and sample; give batches with samples in front, and features behind"
            )

    def _traced(self, x: Tensor) -> TensorTrace:
        trace = self.table.get(x)
        if trace is None:
            where = self.scopes.current.name
            raise ProfilingError(
                f"{where or 'the model'}: an operation reads a tensor that does not stem from the loader"
            )
        return trace

    def _weighted(
        self,
        event: OperationRecord,
        x: Tensor,
        trace: TensorTrace,
        geometry: Geometry,
        out: Tensor,
        shape: tuple[int, int, int] | None,
    ) -> None:
        """Count a layer that reads weights: SOPs = sum over positions of non-zeros there x outputs they feed."""
        if shape is None:
            found, elements = self.scans.scan_operand(
                x, trace, self.batch, Reader(event.layer, event.invocation, "left")
            )
        else:
            reader = Reader(event.layer, event.invocation, "left")
            found = self.scans.scan_image_rows(x, shape, trace, self.batch, reader)
            elements = shape[1] * shape[2]
        event.left, event.left_elements, event.geometry = found, elements, geometry
        event.dense_macs, event.weights, event.biases = geometry.dense_macs, geometry.weights, geometry.biases
        event.reduction, event.out_channels = geometry.reduction, geometry.out_channels
        event.positions, event.groups = geometry.positions, geometry.groups
        if event.op == "conv":
            roles: Roles = (trace.roles[0], *[None] * (out.dim() - 1))
        else:
            roles = (*trace.roles[:-1], None) if out.dim() == x.dim() else trace.roles[: out.dim()]
        active = np.ones_like(event.active) if geometry.biases else event.active
        self._record(
            event,
            out,
            TensorTrace(TensorFacts(roles, trace.timed, trace.step, active, event.constant, frozenset(), NOTHING)),
        )

    # ---- products ---------------------------------------------------------------------------------------------

    def _product(
        self,
        plain: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        traced: list[tuple[Tensor, TensorTrace]],
        out: Tensor,
    ) -> None:
        if plain == "einsum":
            self._einsum(args, traced, out)
            return
        if plain in ("baddbmm", "addmm"):
            operands = rules.bind(("input", "left", "right"), args, kwargs)
            left, right = (
                operands.get("left", kwargs.get("mat1", kwargs.get("batch1"))),
                operands.get("right", kwargs.get("mat2", kwargs.get("batch2"))),
            )
        else:
            left, right = list(tensors_in([args, kwargs.get("input"), *[kwargs[k] for k in _RIGHT if k in kwargs]]))[:2]
            if plain == "rmatmul":
                left, right = right, left
        has_left, has_right = self.table.get(left) is not None, self.table.get(right) is not None
        if has_left and has_right:
            if left.dim() < 2 or right.dim() < 2:
                self._unsupported(plain, traced, [out])
                return
            batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            self._pair(left, right, batch, out)
        elif has_left or has_right:
            bias = args[0] if plain in ("addmm", "baddbmm") else None
            self._constant_product(left, right, has_left, bias, out)
        else:
            self._unsupported(plain, traced, [out])

    def _constant_product(self, left: Tensor, right: Tensor, from_left: bool, bias: Tensor | None, out: Tensor) -> None:
        """x @ W or W @ x with constant W is a linear layer: every element of x meets the same number of weights."""
        x, weight = (left, right) if from_left else (right, left)
        trace = self._traced(x)
        event = self._event("linear", "linear", [trace], out)
        self._require_features(event.layer, trace.roles[-1 if from_left or x.dim() < 2 else -2])
        reduction = int(left.shape[-1])
        fan_out = out.numel() * reduction // max(1, x.numel())
        rows = self.batch.rows(trace.timed)
        geometry = Geometry(
            positions=out.numel() // max(1, rows * fan_out),
            reduction=reduction,
            out_channels=fan_out,
            groups=1,
            weights=weight.numel(),
            biases=0 if bias is None else bias.numel(),
            fan_out=np.array([fan_out], dtype=np.int64),
        )
        roles: list[Role | None] = list(broadcast_roles([(x.shape[:-2], trace.roles[:-2])], out.shape[:-2]))
        if x.dim() >= 2 and out.dim() >= 2:
            roles += [trace.roles[-2], None] if from_left else [None, trace.roles[-1]]
        else:
            roles = list(trace.roles[:1]) if out.dim() == 1 and x.dim() == 2 else [None] * out.dim()
        self._weighted(event, x, trace, geometry, out, None)
        self.table.put(out, self._traced(out).replace(roles=tuple(roles)))

    def _pair(self, left: Tensor, right: Tensor, batch: Sequence[int], out: Tensor) -> None:
        """(..., M, K) @ (..., K, N), both from the network."""
        a, b = self._traced(left), self._traced(right)
        batch_roles = _broadcast_roles(
            ((left.shape[:-2], a.roles[:-2]), (right.shape[:-2], b.roles[:-2])), tuple(batch)
        )
        self._count_pair(left, right, tuple(batch), batch_roles, a, b, out, (*batch_roles, None, None))

    def _count_pair(
        self,
        left: Tensor,
        right: Tensor,
        batch: tuple[int, ...],
        batch_roles: Roles,
        a: TensorTrace,
        b: TensorTrace,
        out: Tensor,
        roles: Roles,
    ) -> None:
        """Coincidences of a batched product. ``batch_roles``: roles of the batch axes; ``roles``: of the result."""
        event = self._event("matmul", "matmul", [a, b], out)
        require_complete(batch_roles, event.timed, self.batch, event.layer)
        event.active = _all_active([a.active, b.active])
        rows = self.batch.rows(event.timed)
        m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
        groups = int(np.prod(batch, dtype=np.int64)) // max(1, rows)
        # Sums of |k| are charged for the operand of lower kind alone: never beside one that is surely binary.
        a_may_be_integer, b_may_be_integer = (not (t.bound.proven and t.bound.max_k == 1) for t in (a, b))
        columns = self._sums_over(
            left, batch_roles, batch, (rows, groups, m, k), a, Reader(event.layer, event.invocation, "left"),
            b_may_be_integer,
        )  # fmt: skip
        lines = self._sums_over(
            right, batch_roles, batch, (rows, groups, k, n), b, Reader(event.layer, event.invocation, "right"),
            a_may_be_integer,
        )  # fmt: skip
        event.left, event.left_elements = columns, groups * m * k
        event.right, event.right_elements = lines, groups * k * n
        event.positions, event.reduction, event.out_channels, event.groups = m, k, groups * n, groups
        event.dense_macs = m * k * groups * n
        bound = bound_of_product(a.bound, b.bound, k)
        self._record(
            event,
            out,
            TensorTrace(TensorFacts(roles, event.timed, event.step, event.active, event.constant, frozenset(), bound)),
        )

    def _sums_over(
        self,
        x: Tensor,
        batch_roles: Roles,
        batch: tuple[int, ...],
        shape: tuple[int, int, int, int],
        trace: TensorTrace,
        reader: Reader,
        with_levels: bool,
    ) -> NonzeroSums:
        """(R, G, K) sums over M of a left, over N of a right operand, rows in front."""
        rows, groups, p, q = shape
        full = x if x.shape[:-2] == batch else x.expand(*batch, *x.shape[-2:])
        full = batch_in_front(full, batch_roles, self.batch)
        over_last = reader.operand == "right"
        if not full.is_contiguous() and full.mT.is_contiguous():  # read memory in its own order
            full, p, q, over_last = full.mT, q, p, not over_last
        layout = (rows * groups, p, q), 2 if over_last else 1
        found = self.scans.scan_as(x, full, layout, trace, reader, with_levels)
        kept = p if over_last else q
        return grouped(found, groups, kept)

    def _einsum(self, args: Sequence[Any], traced: list[tuple[Tensor, TensorTrace]], out: Tensor) -> None:
        """Two-operand einsum as a batched product; anything else is unsupported."""
        operands = list(tensors_in(args[1:]))
        letters = _einsum_letters(args[0], operands)
        if letters is None:
            self._unsupported("einsum", traced, [out])
            return
        left_letters, right_letters, result = letters
        left, right = operands
        shared = [c for c in left_letters if c in right_letters]
        batch = [c for c in result if c in shared]
        summed = [c for c in shared if c not in result]
        m = [c for c in left_letters if c not in shared]
        n = [c for c in right_letters if c not in shared]
        sizes = dict(zip(left_letters + right_letters, [*left.shape, *right.shape], strict=True))
        a, b = self.table.get(left), self.table.get(right)
        matrix_left = left.permute([left_letters.index(c) for c in batch + m + summed])
        matrix_right = right.permute([right_letters.index(c) for c in batch + summed + n])
        batch_shape = tuple(sizes[c] for c in batch)

        def size(group: list[str]) -> int:
            return int(np.prod([sizes[c] for c in group], dtype=np.int64))

        matrix_left = matrix_left.reshape(*batch_shape, size(m), size(summed))
        matrix_right = matrix_right.reshape(*batch_shape, size(summed), size(n))
        role_of = {
            c: r
            for t, ls in ((a, left_letters), (b, right_letters))
            if t
            for c, r in zip(ls, t.roles, strict=True)
            if r
        }
        roles = tuple(role_of.get(c) for c in result)
        if a is not None and b is not None:
            batch_roles = tuple(role_of.get(c) for c in batch)
            self._count_pair(matrix_left, matrix_right, batch_shape, batch_roles, a, b, out, roles)
        else:
            x, trace, fan = (left, a, size(n)) if a is not None else (right, self._traced(right), size(m))
            weight = right if a is not None else left
            event = self._event("linear", "linear", [trace], out)
            for letter in summed:
                self._require_features(event.layer, role_of.get(letter))
            rows = self.batch.rows(trace.timed)
            geometry = Geometry(
                positions=x.numel() // max(1, rows * size(summed)),
                reduction=size(summed),
                out_channels=fan,
                groups=1,
                weights=weight.numel(),
                biases=0,
                fan_out=np.array([fan], dtype=np.int64),
            )
            self._weighted(event, x, trace, geometry, out, None)
            self.table.put(out, self._traced(out).replace(roles=roles))

    def _attention(self, plain: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> None:
        """scaled_dot_product_attention: two products, a scale and a softmax, recomputed as its reference does."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        if plain.endswith(("_for_cpu", "flash_attention")):
            names = ("query", "key", "value", "dropout_p", "is_causal", "")
        elif "efficient" in plain or "cudnn" in plain:
            names = ("query", "key", "value", "attn_mask", "", "is_causal")
        given = {**rules.bind(names, args, kwargs), **kwargs}
        q, k, v = given["query"], given["key"], given["value"]
        if kwargs.get("enable_gqa"):
            repeat = q.shape[-3] // k.shape[-3]
            k, v = self._widened(k, repeat), self._widened(v, repeat)
        scale = given.get("scale") or q.shape[-1] ** -0.5
        batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        keys = k.transpose(-2, -1)
        if (trace := self.table.get(k)) is not None:
            self.table.put(keys, self._viewed(k, trace, keys))
        scores = q @ keys
        self._matmul(q, keys, batch, scores)
        scaled = scores * scale
        if (trace := self.table.get(scores)) is not None:
            self._elementwise("elementwise", "mul", (scores, scale), {}, [(scores, trace)], [scaled])
        weights = scaled
        mask = given.get("attn_mask")
        if given.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        mask_trace = None if mask is None else self.table.get(mask)
        if mask is not None:
            weights = scaled.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scaled + mask
        if mask is not None and mask_trace is not None:
            read = [(scaled, trace)] if (trace := self.table.get(scaled)) is not None else []
            read.append((mask, mask_trace))
            self._elementwise("elementwise", "add", (scaled, mask), {}, read, [weights])
            scaled = weights
        weights = weights.softmax(-1)
        if (trace := self.table.get(scaled)) is not None:
            self._elementwise("elementwise", "softmax", (scaled, -1), {}, [(scaled, trace)], [weights])
        self._matmul(weights, v, np.broadcast_shapes(weights.shape[:-2], v.shape[:-2]), out)

    def _matmul(self, left: Tensor, right: Tensor, batch: Sequence[int], out: Tensor) -> None:
        """A product of which one operand may be a constant."""
        has_left, has_right = self.table.get(left) is not None, self.table.get(right) is not None
        if has_left and has_right:
            self._pair(left, right, batch, out)
        elif has_left or has_right:
            self._constant_product(left, right, has_left, None, out)

    def _widened(self, x: Tensor, repeat: int) -> Tensor:
        """Grouped-query attention: every key and value head serves ``repeat`` query heads."""
        trace = self.table.get(x)
        wide = x.repeat_interleave(repeat, dim=-3)
        if trace is not None:
            self.table.put(wide, trace.replace(scans=ScanResults()))
        return wide

    # ---- neurons ----------------------------------------------------------------------------------------------

    def _neuron(self, module: LIF, current: Tensor, out: Tensor) -> None:
        """A LIF or DTSS layer: spikes, and its mask. Its own arithmetic is the neuron update, not rows."""
        trace = self.table.get(current)
        layer = self.scopes.layer
        if trace is None:
            raise ProfilingError(f"{layer}: the neuron reads a tensor that does not stem from the loader")
        position = self.cache.next_position()
        call = MadeCall(
            "neuron", (self.scopes.current.name, self.scopes.current.invocation), [current], [trace],
            tuple(self.observer.steps), {}, out, len(self.log.records),
        )  # fmt: skip
        is_known = self._gives_its_own_spikes(module)
        if is_known and self.observer.sums and isinstance(out, Tensor):
            replay = self.cache.replay(position, call, self.scopes.current.counters)
            if replay is not None and replay.record is not None:
                self._fired(module, replay.record, current, out, replay.trace)
                return
        if not trace.timed and self.batch.time_steps > 1:
            raise ProfilingError(f"{layer}: the neuron wants (T, B, ...) but no time axis reaches it; declare time=")
        if current.shape[0] != self.batch.time_steps:
            raise ProfilingError(
                f"{layer}: the neuron reads {current.shape[0]} time steps but time_steps={self.batch.time_steps}"
            )
        if not isinstance(out, Tensor) or out.shape != current.shape:
            raise ProfilingError(f"{layer}: a neuron must give one tensor of the shape that it reads")
        was_seen = bool(self.observer.steps) and is_known
        if was_seen:
            active = np.zeros(self.batch.time_steps, dtype=np.bool_)
            active[self.observer.steps] = True
        else:
            active = module.time_step_mask(self.batch.time_steps).detach().cpu().numpy() > 0
        event = self._event("neuron", "neuron", [trace], out)
        event.active, event.constant, event.timed, event.step = active, False, True, None
        event.neurons = event.output_elements = out.numel() // max(1, self.batch.rows(True))
        source = frozenset({len(self.log.records)})
        bound = spikes(module.amplitude) if is_known else NOTHING
        result = TensorTrace(TensorFacts(trace.roles, True, None, active, False, source, bound))
        is_summed = was_seen and bool(self.observer.sums) and trace.roles[:2] == self._time_then_samples()
        if is_summed and out.is_contiguous():
            self.cache.keep(position, cached_call(call, [event], result, ("neuron", 0), None, False))
        else:
            self.observer.sums = []
        self._fired(module, event, current, out, result)

    def _gives_its_own_spikes(self, module: nn.Module) -> bool:
        """True for a LIF or DTSS as it is; a subclass, or somebody's hook, may give something else."""
        return type(module) in (LIF, DTSS) and _is_unhooked(module)

    def _foreign_neuron(self, module: nn.Module, belief: NeuronSpec, read: Sequence[Any], out: Any) -> None:
        """A neuron of another framework, or one found or named: a row with its spikes, which are read off its output.

        Its state update is the neuron update, not rows. What else it returns (potentials) is its state.
        """
        layer = self.scopes.layer
        current, spike = next(tensors_in(read), None), next(tensors_in([out]), None)
        if current is None or spike is None or (spike.shape != current.shape and not belief.integrates_only):
            raise ProfilingError(f"{layer}: a neuron must read a tensor and give one of the same shape")
        trace = self.table.get(current)
        if trace is None:
            raise ProfilingError(f"{layer}: the neuron reads a tensor that does not stem from the loader")
        odd = _misread(module, belief, current.shape, trace, self.batch)
        if odd is not None:
            raise ProfilingError(f"{layer}: {odd}; declare where time is with time= and time_steps=")
        if belief.framework == "norse" and belief.layout == "step" and self.step:
            arguments = list(read[0])[1:2] or list(read[1].values())
            if not any(argument is not None for argument in arguments):
                raise ProfilingError(
                    f"{layer}: a new time step starts without the state of the last one; return it from the forward "
                    "and take it as second argument, or loop over the time steps inside"
                )
        event = self._event("neuron", "neuron", [trace], spike)
        rows = self.batch.rows(event.timed)
        event.active = np.ones(self.batch.time_steps if event.timed else 1, dtype=np.bool_)
        event.constant, event.integrates_only = False, belief.integrates_only
        event.neurons = event.output_elements = current.numel() // max(1, rows)
        if belief.integrates_only:
            self._integrated(event, layer, current, trace, out)
            return
        is_known = belief.amplitude is not None and _is_unhooked(module)
        bound = spikes(belief.amplitude) if is_known and belief.amplitude is not None else NOTHING
        source = frozenset({len(self.log.records)})
        step = None if event.timed else event.step
        facts = TensorFacts(trace.roles, event.timed, step, event.active, False, source, bound)
        result = TensorTrace(
            self.cache.reuse_facts(facts)
        )  # the same object: later calls then see at once that nothing is new
        self.log.records.append(event)
        if current.numel() and current.is_floating_point():  # NaN and infinity stay in a sum
            wide = torch.float64 if current.dtype == torch.float64 else torch.float32
            self.scans.add_range(layer, current.sum(dtype=wide))
        result.scans.writer = writer = layer, event.invocation
        read_later = self.scans.requests_of(writer) if bound.proven and spike.is_contiguous() else {}
        for key, request in read_later.items():  # as in the batch before, while it is in cache
            if request.operand != "spikes" and math.prod(request.layout[0]) == spike.numel():
                result.scans[key] = self.scans.scan_anew(spike, result, request)
        found = (
            next(iter(result.scans.values()), None)
            or self.scans.scan_operand(spike, result, self.batch, Reader(layer, event.invocation, "spikes"))[0]
        )
        event.spikes = found.nonzeros.reshape(rows, -1).sum(1, dtype=torch.int64)
        event.emitted = found
        self.table.put(spike, result)

    def _integrated(self, event: OperationRecord, layer: str, current: Tensor, trace: TensorTrace, out: Any) -> None:
        """A neuron that keeps a potential and never spikes: it gives that of every step, or one for all of them.

        SpikingJelly's read-outs give (B, ...), the last, mean or largest potential, or a list of T potentials.
        """
        source = frozenset({len(self.log.records)})
        self.log.records.append(event)
        event.spikes = torch.zeros(self.batch.rows(event.timed), dtype=torch.int64)
        wide = torch.float64 if current.dtype == torch.float64 else torch.float32
        self.scans.add_range(layer, current.sum(dtype=wide))
        step = None if event.timed else event.step
        whole = TensorTrace(TensorFacts(trace.roles, event.timed, step, event.active, False, source, NOTHING))
        of_a_step = whole.replace(roles=trace.roles[1:], timed=False, step=None, active=event.active[:1])
        made = list(tensors_in([out]))
        if made[0].shape == current.shape:
            self.table.put(made[0], whole)
        elif isinstance(out, Tensor) and event.timed and out.shape == current.shape[1:]:
            self.table.put(out, of_a_step)
        elif len(made) == self.batch.time_steps and all(t.shape == current.shape[1:] for t in made):
            for step, potential in enumerate(made):
                self.table.put(potential, of_a_step.replace(step=step))
        else:
            raise ProfilingError(
                f"{layer}: what it gives has neither the shape of what it reads nor that of one time step"
            )

    def _fired(self, module: LIF, event: OperationRecord, current: Tensor, out: Tensor, result: TensorTrace) -> None:
        """Record a neuron's event, with the sums of its spikes."""
        self.log.records.append(event)
        # NaN and infinity stay in a potential with soft reset, so the last one tells; a hard reset loses them.
        potential = self.observer.last_potential
        if module.rule == "paper" and potential is not None and self._gives_its_own_spikes(module):
            wide = torch.float64 if potential.dtype == torch.float64 else torch.float32
            self.scans.add_range(event.layer, potential.sum(dtype=wide))
        elif current.numel():
            self.scans.add_range(event.layer, torch.stack(torch.aminmax(current)))
        if self.observer.sums:
            result.scans.writer = event.layer, event.invocation
            for sums in self.observer.sums:
                found = NonzeroSums(whole_sums(sums.of_steps.flatten(0, 1), module.amplitude), None, None, result.bound)
                result.scans[sums.layout, True] = result.scans[sums.layout, False] = found
        else:
            reader = Reader(event.layer, event.invocation, "spikes")
            found, _ = self.scans.scan_operand(out, result, self.batch, reader)
            event.emitted = None if result.bound.proven else found  # a subclass may emit anything
        event.spikes = found.nonzeros.reshape(self.batch.rows(True), -1).sum(1, dtype=torch.int64)
        self.table.put(out, result)

    def _time_then_samples(self) -> Roles:
        return ("T" if self.batch.time_steps > 1 else None, "B" if self.batch.samples > 1 else None)


def _misread(
    module: nn.Module, belief: NeuronSpec, shape: Sequence[int], trace: TensorTrace, batch: BatchShape
) -> str | None:
    """Why time is not where a neuron takes it to be, in a tensor of this shape; None where it is."""
    steps, samples = batch.time_steps, batch.samples
    if belief.layout is None:
        return None
    if belief.layout == "step":
        is_many = trace.timed and steps > 1
        return "the neuron runs one time step a call and is given all of them at once" if is_many else None
    if steps > 1 and not trace.timed:
        return "the neuron wants all time steps at once but no time axis reaches it"
    wanted = f"the neuron reads {LAYOUTS[belief.layout]}, T={steps}, B={samples}, and is given {tuple(shape)}"
    if belief.layout == "flat-batch":
        kept: Roles = fed_roles(1, "flat-batch", batch)
        dealt = getattr(module, "batch_size", -1), getattr(module, "num_timesteps", -1)
        if dealt[0] not in (-1, None, samples) or dealt[1] not in (-1, None, steps):
            return f"{wanted}, but it is made for batch_size={dealt[0]}, num_timesteps={dealt[1]} (-1: any)"
        return None if shape[0] == samples * steps and trace.roles[:1] == kept else f"{wanted}, in another order"
    time = 0 if belief.layout == "time-first" else 1
    is_there = len(shape) > time and shape[time] == steps and (steps == 1 or trace.roles[time] == "T")
    return None if is_there else f"{wanted}, with time elsewhere"


def _is_unhooked(module: nn.Module) -> bool:
    """True where nobody but the walker looks at, or changes, what a module gives."""
    own_hooks = 1  # the walker's
    return "forward" not in vars(module) and len(module._forward_hooks) == own_hooks and not _global_forward_hooks


_RIGHT = ("other", "mat2", "vec2", "tensor")
_TENSORS = ("input", "weight", "bias")
_REPEATABLE = ("reshape", "cast", "move", "elementwise", "pool", "convolution", "linear", "product")
_NORMS = ("batch_norm", "layer_norm", "group_norm")  # their constant operands do not change what is known


def _any_active(flags: Sequence[Steps]) -> Steps:
    found = flags[0]
    for other in flags[1:]:
        found = found | other
    return found


def _all_active(flags: Sequence[Steps]) -> Steps:
    found = flags[0]
    for other in flags[1:]:
        found = found & other
    return found


def _bound_of_union(parts: Sequence[Tensor], traces: Sequence[TensorTrace]) -> ValueBound:
    bounds = [t.bound for t in traces]
    reason = next((c.reason for c in bounds if c.reason), None)
    if reason:
        return ValueBound(reason=reason)
    loader = any(c.loader for c in bounds)
    if len(bounds) < len(parts) or len({c.unit for c in bounds}) != 1 or bounds[0].unit is None:
        return ValueBound(loader=loader)
    return ValueBound(bounds[0].unit, max(c.max_k for c in bounds), all(c.proven for c in bounds), None, loader)


def _constant_factor(plain: str, args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor) -> float | None:
    """The one number a tensor is multiplied with, or None where it is not one number known on the host."""
    others = [a for a in (*args, *kwargs.values()) if a is not x and not isinstance(a, str)]
    if len(others) != 1:
        return None
    other = others[0]
    if isinstance(other, Tensor):
        if other.numel() != 1 or other.device.type != "cpu":
            return None
        other = other.item()
    if isinstance(other, bool) or not isinstance(other, (int, float)) or other == 0:
        return None
    if plain.startswith("rdiv") or plain.startswith("rtruediv"):
        return None
    return 1 / other if "div" in plain else float(other)


def _batch_statistics(plain: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True where a batch norm uses the statistics of this batch instead of its running ones."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    if plain != "batch_norm":
        names = ("input", "weight", "bias", "running_mean", "running_var", "training")
    return bool(rules.bind(names, args, kwargs).get("training", False))


def _bound_of_elementwise(
    plain: str,
    op: str,
    factor: float | None,
    traced: Sequence[tuple[Tensor, TensorTrace]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> ValueBound:
    """What an element-wise operation leaves of the claims of its operands."""
    bounds = [t.bound for _, t in traced]
    loader = any(c.loader for c in bounds)
    reason = next((c.reason for c in bounds if c.reason), None)
    rest = ValueBound(reason=reason, loader=loader)
    if op == "add" and plain == "add" and len(bounds) == 2 and kwargs.get("alpha", 1) == 1 and len(args) < 3:
        return bound_of_sum(*bounds)
    if op == "scale" and factor is not None:
        return bound_of_scale(bounds[0], factor)
    if op == "mul" and plain in ("mul", "multiply") and len(bounds) == 2:
        return bound_of_product(bounds[0], bounds[1], 1)
    if op == "pool" and rules.is_sum(plain, args, kwargs):
        return rest
    if op == "pool" and not rules.is_average(plain, args, kwargs):
        return bounds[0]
    if op in ("pool", "mean"):
        return ValueBound(reason=reason_of_average(bounds[0], plain))
    if plain in ("relu", "relu6", "abs") and (plain != "relu6" or bounds[0].max_k <= 1):
        return bounds[0] if bounds[0].unit is not None and plain != "relu6" else rest
    if op == "compare" and all(c.unit is None and not c.reason for c in bounds):
        return NOTHING
    if op in ("pool", "mean", "activation", "norm", "add", "mul", "scale"):
        return rest
    return NOTHING


def _spelled_out(index: Sequence[Any], dims: int) -> list[Any]:
    """An index with its ellipsis written as whole slices."""
    at = next((i for i, item in enumerate(index) if item is Ellipsis), None)
    if at is None:
        return list(index)
    used = sum(1 for item in index if item is not Ellipsis and item is not None)
    return [*index[:at], *[slice(None)] * (dims - used), *index[at + 1 :]]


def _is_transformed(tensor: Tensor) -> bool:
    """True inside torch.vmap and its like, where tensors are wrappers of others."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _without_ellipsis(text: str, operands: Sequence[Tensor]) -> str | None:
    """An einsum equation with its ellipsis written as letters; None where the two sides' do not agree."""
    if "..." not in text:
        return None if "." in text else text
    inputs, arrow, result = text.partition("->")
    sides = inputs.split(",")
    if len(sides) != len(operands) or not arrow:
        return None
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in text]
    shapes = [
        tuple(x.shape[(at := side.index("...")) : at + x.dim() - len(side) + 3])
        for side, x in zip(sides, operands, strict=True)
        if "..." in side
    ]
    longest = max(shapes, key=len, default=())
    if any(shape != longest[len(longest) - len(shape) :] for shape in shapes) or len(longest) > len(free):
        return None
    letters = "".join(free[: len(longest)])
    written = []
    for side, x in zip(sides, operands, strict=True):
        count = x.dim() - len(side) + 3 if "..." in side else 0
        written.append(side.replace("...", letters[len(letters) - count :]))
    return ",".join(written) + "->" + result.replace("...", letters)


def _einsum_letters(equation: Any, operands: Sequence[Tensor]) -> tuple[list[str], list[str], list[str]] | None:
    """Letters of a plain two-operand einsum, or None: no ellipsis, no diagonals, no letter summed on one side."""
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    text = _without_ellipsis(equation.replace(" ", ""), operands)
    if text is None:
        return None
    inputs, _, result = text.partition("->")
    sides = inputs.split(",")
    if len(sides) != 2:
        return None
    left, right = list(sides[0]), list(sides[1])
    if "->" not in text:
        result = "".join(sorted(c for c in set(inputs) - {","} if inputs.count(c) == 1))
    if any(len(set(side)) != len(side) for side in (left, right, list(result))):
        return None
    if any(c not in result and not (c in left and c in right) for c in left + right):
        return None
    return left, right, list(result)
