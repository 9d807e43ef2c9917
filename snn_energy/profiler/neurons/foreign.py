"""One call of a neuron of another framework, or a discovered or named one: its spikes are counted in its output.

Its arithmetic is the neuron update and has no rows of its own. Its other results (potentials) are its state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.roles import BatchShape, has_atom, split_axis
from snn_energy.profiler.neurons.own import NeuronCall, wide_enough
from snn_energy.profiler.neurons.spec import LAYOUTS, NeuronSpec
from snn_energy.profiler.rules.records import record_at, tensors_in
from snn_energy.profiler.rules.registry import BatchContext
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.bounds import COMPUTED, SEVERAL_SPIKES, spikes
from snn_energy.profiler.values.scan_cache import Reader, ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


def require_layout(
    module: nn.Module, spec: NeuronSpec, call: NeuronCall, args: Sequence[object], kwargs: Mapping[str, object],
    context: BatchContext,
) -> None:  # fmt: skip
    """Raise ProfilingError if time is not on the axis that a neuron expects, or its state is lost between steps."""
    odd = _layout_mismatch(module, spec, call.current.shape, call.trace, context.shape)
    if odd is not None:
        raise ProfilingError(f"{call.layer}: {odd}; declare where time is with time= and time_steps=")
    if spec.framework == "norse" and spec.layout == "step" and context.step:
        arguments = list(args)[1:2] or list(kwargs.values())
        if not any(argument is not None for argument in arguments):
            raise ProfilingError(
                f"{call.layer}: a new time step starts without the state of the last one; return it from the forward "
                "and take it as second argument, or loop over the time steps inside"
            )


def _layout_mismatch(
    module: nn.Module, spec: NeuronSpec, shape: Sequence[int], trace: TensorTrace, batch: BatchShape
) -> str | None:
    """Why time is not on the axis that a neuron expects, in a tensor of this shape; None if it is."""
    steps, samples = batch.time_steps, batch.samples
    if spec.layout is None:
        return None
    if spec.layout == "step":
        is_many = trace.timed and steps > 1
        return "the neuron runs one time step a call and is given all of them at once" if is_many else None
    if steps > 1 and not trace.timed:
        return "the neuron wants all time steps at once but no time axis reaches it"
    wanted = f"the neuron reads {LAYOUTS[spec.layout]}, T={steps}, B={samples}, and is given {tuple(shape)}"
    if spec.layout in ("flat", "flat-batch"):
        dealt = getattr(module, "batch_size", -1), getattr(module, "num_timesteps", -1)
        if dealt[0] not in (-1, None, samples) or dealt[1] not in (-1, None, steps):
            return f"{wanted}, but it is made for batch_size={dealt[0]}, num_timesteps={dealt[1]} (-1: any)"
        _, parts = split_axis(shape[0], trace.roles[0], batch)
        order = [part for part in parts if part in ("T", "B", "R")]
        is_there = order[:1] in (["T"], ["R"]) if spec.layout == "flat" or samples == 1 else order == ["B", "T"]
        return None if is_there or steps == 1 else f"{wanted}, in another order"
    time = {"time-first": 0, "batch-first": 1, "time-last": len(shape) - 1}[spec.layout]
    is_there = len(shape) > time and shape[time] == steps and (steps == 1 or trace.roles[time] == "T")
    if spec.layout == "time-first" and not is_there and has_atom("B", trace.roles[0], batch):
        return f"{wanted}: {SAMPLE_TO_SAMPLE}"
    return None if is_there else f"{wanted}, with time elsewhere"


SAMPLE_TO_SAMPLE = (
    "the samples lie on the axis that it takes for time, so its potentials run on from sample to sample and its spikes "
    "depend on the batch; give it (T, B, ...), as with x.unflatten(0, (T, B)) and .flatten(0, 1) behind it, or profile "
    "the network as it is with one sample per batch (--batch-size 1)"
)


def foreign_neuron(spec: NeuronSpec, call: NeuronCall, context: BatchContext) -> Outcome:
    """The outcome of one call of a neuron that spikes, without the counts."""
    record = _record(spec, call, context)
    bound = spikes(spec.amplitude) if call.is_known and spec.amplitude is not None else SEVERAL_SPIKES
    bound = COMPUTED if spec.integrates_only else bound
    facts = _facts(record, call.trace)._replace(bound=bound)
    return Outcome(record, [(call.spike, TensorTrace(facts))])


def count_spikes(
    call: NeuronCall, record: OperationRecord, result: TensorTrace, batch: BatchShape, scans: ScanCache
) -> None:
    """Set the spikes of a record, and register what must be finite."""
    current, spike = call.current, call.spike
    if current.numel() and current.is_floating_point():
        register_range(call.layer, current, scans)
    result.scans.writer = writer = call.layer, record.invocation
    read_later = scans.requests_of(writer) if result.bound.proven and spike.is_contiguous() else {}
    for key, request in read_later.items():  # as earlier batches read it, while it is in the processor cache
        if request.operand != "spikes" and math.prod(request.layout[0]) == spike.numel():
            result.scans[key] = scans.scan_uncached(spike, result, request)
    found = next(iter(result.scans.values()), None)
    if found is None:
        found, _ = scans.scan_operand(spike, result, batch, Reader(call.layer, record.invocation, "spikes"))
    record.fired = found


def register_range(layer: str, current: Tensor, scans: ScanCache) -> None:
    """Register what a neuron reads as finite; NaN and infinity propagate to the sum."""
    scans.add_range(layer, current.sum(dtype=wide_enough(current)))


def integrator(spec: NeuronSpec, call: NeuronCall, out: object, context: BatchContext, scans: ScanCache) -> Outcome:
    """The outcome of a neuron that integrates and never spikes: it returns the potential of every step, or one for all.

    SpikingJelly's read-outs return (B, ...), the last, mean or largest potential, or a list of T potentials.
    """
    current, record = call.current, _record(spec, call, context)
    register_range(call.layer, current, scans)
    whole = TensorTrace(_facts(record, call.trace))
    of_a_step = whole.replace(roles=call.trace.roles[1:], timed=False, step=None, active=record.active[:1])
    made = list(tensors_in([out]))
    if made[0].shape == current.shape:
        return Outcome(record, [(made[0], whole)])
    if isinstance(out, Tensor) and record.timed and out.shape == current.shape[1:]:
        return Outcome(record, [(out, of_a_step)])
    if len(made) == context.shape.time_steps and all(t.shape == current.shape[1:] for t in made):
        return Outcome(record, [(potential, of_a_step.replace(step=step)) for step, potential in enumerate(made)])
    raise ProfilingError(
        f"{call.layer}: what it gives has neither the shape of what it reads nor that of one time step"
    )


def _record(spec: NeuronSpec, call: NeuronCall, context: BatchContext) -> OperationRecord:
    record = record_at(call.site, context, "neuron", "neuron", [call.trace], call.spike)
    record.active = np.ones(context.shape.time_steps if record.timed else 1, dtype=np.bool_)
    record.constant, record.integrates_only = False, spec.integrates_only
    record.state_variables = spec.state_variables
    record.neurons = record.output_elements = call.current.numel() // max(1, context.shape.rows(record.timed))
    return record


def _facts(record: OperationRecord, trace: TensorTrace) -> TensorFacts:
    step = None if record.timed else record.step
    return TensorFacts(trace.roles, record.timed, step, record.active, False, frozenset(), COMPUTED)
