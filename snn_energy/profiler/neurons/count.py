"""A neuron's call is one operation, whose spikes are counted in every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.call_counter import CallCounter
from snn_energy.profiler.neurons import foreign, own
from snn_energy.profiler.neurons.own import NeuronCall
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.tracking.follower import Follower
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.script import CallStep
from snn_energy.profiler.values.traces import TensorTrace
from snn_energy.running.outputs import tensors_of

NEURON = "neuron"  # the name of its call
NOWHERE = CallSite("", "", 0, False, {})


def count_own_neuron(
    module: LIF,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    calls: CallCounter,
    observer: SpikeObserver,
) -> None:
    """Count a call of a LIF or DTSS. Raises ProfilingError if it does not map (T, B, ...) to the same shape."""
    current = _own_current(args, kwargs)
    call = _call(calls, current, out, own.is_unmodified_lif(module))
    own.require_steps(call, out, calls.context.shape)
    facts = _own_facts(module, current, observer)
    event = calls.recorder.begin(NEURON, (current,), {}, out, facts=facts)
    outcome = calls.next(own.own_neuron(module, call, tuple(observer.steps), calls.context))
    assert outcome.record is not None
    own.count_spikes(module, call, outcome.record, outcome.traces[0][1], observer, calls.context.shape, calls.scans)
    calls.keep(outcome)
    calls.recorder.end(event)


def count_foreign_neuron(
    module: nn.Module, spec: NeuronSpec, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, calls: CallCounter
) -> None:
    """Count a call of any other neuron. Raises ProfilingError if time is not on the axis that the neuron expects."""
    context = calls.context
    current, spike = next(tensors_of([args, kwargs]), None), next(tensors_of(out), None)
    if current is None or spike is None or (spike.shape != current.shape and not spec.integrates_only):
        raise ProfilingError(f"{calls.scopes.layer}: a neuron must read a tensor and give one of the same shape")
    call = _call(calls, current, spike, own.is_unhooked(module))
    foreign.require_layout(module, spec, call, args, kwargs, context)
    event = calls.recorder.begin(NEURON, (current,), {}, out, facts=(call.is_known,))
    if spec.integrates_only:
        calls.keep(calls.next(foreign.integrator(spec, call, out, context, calls.scans)))
    else:
        outcome = calls.next(foreign.foreign_neuron(spec, call, context))
        assert outcome.record is not None
        foreign.count_spikes(call, outcome.record, outcome.traces[0][1], context.shape, calls.scans)
        calls.keep(outcome)
    calls.recorder.end(event)


def follow_own_neuron(
    module: LIF,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    follower: Follower,
    observer: SpikeObserver,
    batch: BatchShape,
) -> bool:
    """Count the spikes of a LIF or DTSS if its call is the next event of a script."""
    current = _own_current(args, kwargs)
    facts = _own_facts(module, current, observer)
    step = follower.matching(NEURON, (current,), {}, out, facts)
    if step is None:
        return False
    record, result = _followed(step, follower)
    call = NeuronCall(record.layer, NOWHERE, current, result, out, bool(facts[0]))
    own.count_spikes(module, call, record, result, observer, batch, follower.scans)
    return True


def follow_foreign_neuron(
    module: nn.Module,
    spec: NeuronSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    follower: Follower,
    batch: BatchShape,
) -> bool:
    """Count the spikes of any other neuron if its call is the next event of a script."""
    current, is_known = next(tensors_of([args, kwargs]), None), own.is_unhooked(module)
    step = follower.matching(NEURON, (current,), {}, out, (is_known,))
    if step is None or current is None:
        return False
    record, result = _followed(step, follower)
    if spec.integrates_only:
        foreign.register_range(record.layer, current, follower.scans)
        return True
    if step.scans and step.scans[0].group is not None:
        if current.numel() and current.is_floating_point():
            foreign.register_range(record.layer, current, follower.scans)
        follower.defer(step.scans[0])
        return True
    call = NeuronCall(record.layer, NOWHERE, current, result, next(tensors_of(out)), is_known)
    foreign.count_spikes(call, record, result, batch, follower.scans)
    return True


def _followed(step: CallStep, follower: Follower) -> tuple[OperationRecord, TensorTrace]:
    """The record of a neuron's call, and the trace of its spikes."""
    return follower.script.records[step.records - 1], step.puts[0].trace


def _own_current(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


def _own_facts(module: LIF, current: Tensor, observer: SpikeObserver) -> tuple[Any, ...]:
    """What else the outcome of a call depends on: a hook may change its spikes, a mask its steps."""
    is_known, steps = own.is_unmodified_lif(module), tuple(observer.steps)
    if not (steps and is_known):
        steps = tuple((module.time_step_mask(len(current)) > 0).tolist())
    return is_known, steps, module.amplitude


def _call(calls: CallCounter, current: Tensor, spike: Tensor, is_known: bool) -> NeuronCall:
    trace = calls.table.get(current)
    if trace is None:
        raise ProfilingError(f"{calls.scopes.layer}: the neuron reads a tensor that does not stem from the loader")
    return NeuronCall(calls.scopes.layer, calls.scopes.site(), current, trace, spike, is_known)
