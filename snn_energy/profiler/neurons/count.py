"""A neuron's call is one operation: its outcome may be cached, its spikes are counted in every batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF
from snn_energy.profiler.call_counter import CallCounter
from snn_energy.profiler.neurons import foreign, own
from snn_energy.profiler.neurons.own import NeuronCall
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.neurons.spike_observer import SpikeObserver
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.tracking.call_cache import CompletedCall
from snn_energy.profiler.tracking.operation_log import Outcome


def count_own_neuron(
    module: LIF,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
    calls: CallCounter,
    observer: SpikeObserver,
) -> None:
    """Count a call of a LIF or DTSS. Raises ProfilingError if it does not map (T, B, ...) to the same shape."""
    context = calls.context
    call = _call(calls, args[0] if args else next(iter(kwargs.values())), out, own.is_unmodified_lif(module))
    own.require_steps(call, out, context.shape)
    steps = tuple(observer.steps)
    work = functools.partial(own.own_neuron, module, call, steps, context)
    facts = (steps, module.amplitude)
    outcome = _outcome(calls, call, facts, work) if steps and call.is_known else calls.next(work())
    assert outcome.record is not None
    own.count_spikes(module, call, outcome.record, outcome.traces[0][1], observer, context.shape, calls.scans)
    calls.keep(outcome)


def count_foreign_neuron(
    module: nn.Module, spec: NeuronSpec, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, calls: CallCounter
) -> None:
    """Count a call of any other neuron. Raises ProfilingError if time is not on the axis that the neuron expects."""
    context = calls.context
    current, spike = next(tensors_in([args, kwargs]), None), next(tensors_in([out]), None)
    if current is None or spike is None or (spike.shape != current.shape and not spec.integrates_only):
        raise ProfilingError(f"{calls.scopes.layer}: a neuron must read a tensor and give one of the same shape")
    call = _call(calls, current, spike, own.is_unhooked(module))
    foreign.require_layout(module, spec, call, args, kwargs, context)
    if spec.integrates_only:
        calls.keep(calls.next(foreign.integrator(spec, call, out, context, calls.scans)))
        return
    work = functools.partial(foreign.foreign_neuron, spec, call, context)
    outcome = _outcome(calls, call, (call.is_known,), work)
    assert outcome.record is not None
    foreign.count_spikes(call, outcome.record, outcome.traces[0][1], context.shape, calls.scans)
    calls.keep(outcome)


def _call(calls: CallCounter, current: Tensor, spike: Tensor, is_known: bool) -> NeuronCall:
    trace = calls.table.get(current)
    if trace is None:
        raise ProfilingError(f"{calls.scopes.layer}: the neuron reads a tensor that does not stem from the loader")
    return NeuronCall(calls.scopes.layer, calls.scopes.site(), current, trace, spike, is_known)


def _outcome(calls: CallCounter, call: NeuronCall, facts: tuple[Any, ...], work: Callable[[], Outcome]) -> Outcome:
    """The outcome of a neuron's call, which depends on ``facts`` and on the trace of its input."""
    scope = calls.scopes.current
    made = CompletedCall(
        "neuron", (scope.name, scope.invocation), [call.current], [call.trace], facts, {}, call.spike,
        len(calls.log.records),
    )  # fmt: skip
    outcome = calls.cache.outcome(made, scope.counters, lambda: calls.next(work()), calls.scans)
    assert outcome is not None
    return outcome
