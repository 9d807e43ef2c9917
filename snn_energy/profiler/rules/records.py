"""Records of operations, with the fields that all rules share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import ONCE, BatchShape, has_atom
from snn_energy.profiler.rules.registry import BatchContext, Call
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.nested import tensors_in as tensors_in
from snn_energy.profiler.values.traces import TensorTrace


def record_of(
    call: Call, context: BatchContext, op: str, traces: Sequence[TensorTrace], label: str | None = None
) -> OperationRecord:
    """The record of a call: operation ``op`` on operands with these traces; ``label`` (else ``op``) names it."""
    return record_at(call.site, context, op, label or op, traces, call.out)


def record_at(
    site: CallSite, context: BatchContext, op: str, label: str, traces: Sequence[TensorTrace], out: Tensor
) -> OperationRecord:
    """A new record of operation ``op``, named by ``label`` at a site, reading ``traces``."""
    layer, scope, invocation, nth, suffix = site.place(label)
    if len(traces) == 1:
        one = traces[0]
        timed, step, active, inputs = one.timed, None if one.timed else one.step, one.active, one.sources
        constant = one.constant or (not one.timed and one.step is None)
    else:
        timed = any(t.timed for t in traces)
        known = [t.step for t in traces if t.step is not None]
        step = None if timed or not known else max(known) if max(known) >= 0 else ONCE
        active, inputs = any_active([t.active for t in traces]), frozenset().union(*(t.sources for t in traces))
        constant = all(t.constant or (not t.timed and t.step is None) for t in traces)
    if not timed and context.step is not None:  # the model is called once per step: it works in that step
        step = context.step
    return OperationRecord(
        layer=layer,
        scope=scope,
        invocation=invocation,
        index=nth,
        suffix=suffix,
        op=op,
        timed=timed,
        step=step,
        active=active,
        constant=constant,
        inputs=inputs,
        output_elements=out.numel() // max(1, context.shape.rows(timed)),
        label=label,
    )


def reads_one_value_of_all_samples(call: Call, batch: BatchShape) -> bool:
    """True if a call combines values of every sample with one that is made from samples and the same for all.

    Such as x - x.mean(0), or the largest value of a batch that all are divided by.
    """
    if batch.samples == 1 or len(call.inputs) < 2:
        return False
    sample_axes = {
        axis - x.dim()
        for x, trace in call.inputs
        for axis, role in enumerate(trace.roles)
        if has_atom("B", role, batch)
    }  # fmt: skip
    return bool(sample_axes) and any(
        all(-axis > x.dim() or x.shape[axis] == 1 for axis in sample_axes) for x, _ in call.inputs
    )


def any_active(flags: Sequence[StepMask]) -> StepMask:
    """Steps in which at least one of several sources works."""
    return functools.reduce(lambda a, b: a | b, flags)


def all_active(flags: Sequence[StepMask]) -> StepMask:
    """Steps in which all of several sources work."""
    return functools.reduce(lambda a, b: a & b, flags)
