"""The full walk through a forward pass: every event is counted by its rule, and written down in a script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import input_roles
from snn_energy.profiler.call_counter import CallCounter
from snn_energy.profiler.neurons.count import count_foreign_neuron, count_own_neuron
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.plain_layers import is_over_time, is_weight_layer, plain_call
from snn_energy.profiler.rules.registry import PartCall, find, plain_name
from snn_energy.profiler.tracking.follower import Follower
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.script import Parameters
from snn_energy.profiler.values.bounds import NOTHING, ValueBound
from snn_energy.profiler.values.nested import tensors_in
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace
from snn_energy.running.outputs import tensors_of

ON_CONSTANT, OVER_TIME = "a layer on a constant", "a layer over time"  # names of calls in a script


class Walk:
    """Counts the events of one forward pass after another, in the order in which the hooks report them."""

    def __init__(self, scopes: ModuleScopes, scans: ScanCache, observer: SpikeObserver) -> None:
        self.scopes, self.observer = scopes, observer
        self.calls = CallCounter(scopes, scans)
        self.table, self.log, self.recorder = self.calls.table, self.calls.log, self.calls.recorder

    def begin_call(self, step: int | None) -> None:
        """A call of the model begins."""
        self.scopes.begin_call()
        self.recorder.begin_call(step)

    def input(self, x: Tensor, layout: str | None, constant: bool, bound: ValueBound) -> None:
        """A tensor of the loader is the network's input; ``layout``: where time is, None: it has no time."""
        batch = self.calls.context.shape
        timed, roles = layout is not None, input_roles(x.dim(), layout, batch)
        active = np.ones(batch.time_steps if timed else 1, dtype=np.bool_)
        before = self.table.get(x)  # the input of the previous step is the same tensor: its scans are valid
        scans = before.scans if before is not None and before.bound == bound else None
        facts = TensorFacts(roles, timed, self.calls.context.step, active, constant, frozenset(), bound)
        self.table.put(x, TensorTrace(facts, scans))
        self.recorder.input(x, layout, constant, bound)

    def enter(self, name: str, module: nn.Module) -> None:
        """The forward of a module begins."""
        self.scopes.enter(name, module)
        self.recorder.enter(name, (self.scopes.layer, self.scopes.current.invocation))

    def leave(self, name: str, module: nn.Module, out: Any) -> None:
        """The forward of a module ended."""
        is_idle = not self.scopes.current.counters and self.scopes.neuron_depth == 0
        if is_idle and is_weight_layer(module) and out is not None:
            self._count_untraced(name, module, out)
        self.scopes.leave()
        self.recorder.leave(name)

    def call(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """A function has returned."""
        state = self._state_at_rest(raw, args, kwargs) if isinstance(out, Tensor) else None
        if state is None:
            self.calls.record_call(raw, args, kwargs, out)
            return
        event = self.recorder.begin(raw, args, kwargs, out, decides=True, is_event=True)
        with self.recorder.paused():
            rows = state.view_as(state)
            self.table.put(rows, self._constant_trace(rows))
            before = len(self.log.records)
            of_rows, named = _replaced(list(args), state, rows), _replaced(dict(kwargs), state, rows)
            self.calls.record_call(raw, of_rows, named, out)
            for record in self.log.records[before:]:
                record.reads_constant = True
        self.recorder.end(event)

    def neuron(
        self, module: nn.Module, spec: NeuronSpec | None, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """A neuron has returned; ``spec``: of all classes but LIF."""
        if spec is not None:
            count_foreign_neuron(module, spec, args, kwargs, out, self.calls)
        elif isinstance(module, LIF):
            count_own_neuron(module, args, kwargs, out, self.calls, self.observer)

    def plain_layer(self, module: nn.Module, x: Tensor, out: Any) -> None:
        """A layer that is one function call has returned; on (T*B, ...) if it reads (T, B, ...)."""
        trace = self.table.get(x)
        if trace is None and isinstance(out, Tensor) and is_weight_layer(module):
            self._count_on_constant(module, x, out)
        elif trace is None or not is_over_time(module) or not isinstance(out, Tensor):
            self.calls.record_call(*plain_call(module, x), out)
        else:
            _, args, kwargs = plain_call(module, x)
            event = self.recorder.begin(OVER_TIME, args, kwargs, out)
            self.calls.count_parts(parts_over_time(module, x, out))
            self.recorder.end(event)

    def _count_on_constant(self, module: nn.Module, x: Tensor, out: Tensor) -> None:
        """Count a layer that reads zeros (a state at rest) or parameters (a learned query), for every sample."""
        _, args, kwargs = plain_call(module, x)
        is_known = is_at_rest(x, self.calls.context.parameters)
        event = self.recorder.begin(ON_CONSTANT, args, kwargs, out, facts=(is_known,), is_event=True)
        if is_known:
            with self.recorder.paused():
                self._count_constant_rows(module, x, out)
        self.recorder.end(event)

    def _count_constant_rows(self, module: nn.Module, x: Tensor, out: Tensor) -> None:
        weight = module._parameters["weight"]
        assert weight is not None
        batch = self.calls.context.shape
        samples, axes = batch.samples, 1 if isinstance(module, nn.Linear) else weight.dim() - 1
        rows, made = (x.view_as(x), out) if x.dim() > axes else (x.unsqueeze(0), out.unsqueeze(0))
        if rows.shape[0] != samples:
            if rows.shape[0] != 1:
                return  # its rows are no samples
            rows, made = (t.expand(samples, *t.shape[1:]) for t in (rows, made))
        self.table.put(rows, self._constant_trace(rows))
        self.calls.record_call(*plain_call(module, rows), made)
        self.log.records[-1].reads_constant = True
        after = self.table.get(made)
        if after is not None and made is not out:
            self.table.put(
                out, after.replace(roles=after.roles[-out.dim() :] if out.dim() < made.dim() else after.roles)
            )

    def _constant_trace(self, rows: Tensor) -> TensorTrace:
        """The trace of a tensor that stems from nothing, with samples in front."""
        roles = input_roles(rows.dim(), None, self.calls.context.shape)
        return TensorTrace(TensorFacts(roles, False, None, np.ones(1, np.bool_), False, frozenset(), NOTHING))

    def _state_at_rest(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The zeros, one row per sample, that a function multiplies with weights; None for any other call."""
        entry = find(plain_name(raw))
        if entry is None or not entry.is_layer or entry.parts is not None:
            return None
        tensors, parameters = list(tensors_in([args, kwargs])), self.calls.context.parameters
        others = [t for t in tensors if t.untyped_storage()._cdata not in parameters]
        if len(others) != 1 or len(tensors) < 2 or self.table.get(others[0]) is not None:
            return None
        (state,) = others
        is_of_samples = state.dim() > 1 and state.shape[0] == self.calls.context.shape.samples
        return state if is_of_samples and not bool(state.any()) else None

    def _count_untraced(self, name: str, module: nn.Module, out: Any) -> None:
        """Add an unsupported row for a layer with weights that ran without a recorded operation."""
        layer, context = name or type(module).__name__, self.calls.context
        size = next((t.numel() for t in tensors_of(out)), 0)
        record = OperationRecord(
            layer, name, self.scopes.current.invocation, 0, "", "unsupported", False, context.step,
            np.ones(1, np.bool_), False, frozenset(), size // max(1, context.shape.samples),
            note="reads nothing that is known to stem from the loader",
        )  # fmt: skip
        self.log.records.append(record)
        self.log.untraced_layers[layer] = (
            "its work was not seen (it reads a constant, or a tensor that left the profiler's sight through numpy, "
            "another thread or the like); it is listed as unsupported and its cost is unknown"
        )

    def resume(self, follower: Follower, modules: Mapping[str, nn.Module]) -> None:
        """Go on where a followed pass differs from its script, with all that its events have left."""
        records = follower.hand_over(self.scopes, self.table, modules)
        self.log.records = follower.script.records[:records]
        self.calls.context = replace(self.calls.context, records=self.log.records)
        self.recorder.begin_batch(follower.followed())


def is_at_rest(x: Tensor, parameters: Parameters) -> bool:
    """True for zeros, and for parameters; others may stem from the loader by a way that was not followed."""
    return x.untyped_storage()._cdata in parameters or not bool(x.any())


def parts_over_time(module: nn.Module, x: Tensor, out: Tensor) -> Iterator[PartCall]:
    """The calls of a layer of SpikingJelly that reads (T, B, ...) and runs on (T*B, ...)."""
    rows, made = x.flatten(0, 1), out.flatten(0, 1)
    yield PartCall("flatten", (x, 0, 1), rows)
    name, args, _ = plain_call(module, rows)
    yield PartCall(name, args, made)
    yield PartCall("unflatten", (made, 0, tuple(out.shape[:2])), out)


def _replaced(value: Any, tensor: Tensor, other: Tensor) -> Any:
    """Arguments with another tensor in place of one of them, in lists and tuples too."""
    if value is tensor:
        return other
    if isinstance(value, dict):
        return {key: _replaced(item, tensor, other) for key, item in value.items()}
    return type(value)(_replaced(item, tensor, other) for item in value) if type(value) in (list, tuple) else value
