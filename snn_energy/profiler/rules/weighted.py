"""Shared by all layers with weights: SOPs = sum over positions of non-zeros x number of outputs fed."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.roles import ONCE, BatchShape, Roles, has_atom, has_part_of_time
from snn_energy.profiler.axes.rows import require_complete
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import BatchContext, Call
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.bounds import COMPUTED
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import Reader, ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


def weighted(
    record: OperationRecord, geometry: Geometry, found: NonzeroSums, elements: int, trace: TensorTrace, out: Tensor,
    roles: Roles,
) -> Outcome:  # fmt: skip
    """The outcome of a layer that reads weights. found, elements: of its input; trace, roles: of its result."""
    record.left, record.left_elements, record.geometry = found, elements, geometry
    record.dense_macs, record.weights, record.biases = geometry.dense_macs, geometry.weights, geometry.biases
    record.reduction, record.out_channels = geometry.reduction, geometry.out_channels
    record.positions, record.groups = geometry.positions, geometry.groups
    active = np.ones_like(trace.active) if geometry.biases else trace.active
    facts = TensorFacts(roles, trace.timed, trace.step, active, record.constant, frozenset(), COMPUTED)
    return Outcome(record, [(out, TensorTrace(facts))])


def linear_outcome(
    record: OperationRecord,
    geometry: Geometry,
    x: Tensor,
    traces: Summed,
    out: Tensor,
    roles: Roles,
    context: BatchContext,
    scans: ScanCache,
) -> Outcome:
    """The outcome of a layer whose every input element meets the same number of weights."""
    reader = Reader(record.layer, record.invocation, "left")
    found, elements = scans.scan_operand(x, traces.counted, context.shape, reader)
    return weighted(record, geometry, found, elements, traces.result, out, roles)


def linear_geometry(positions: int, reduction: int, outputs: int, weights: int, biases: int) -> Geometry:
    """Geometry of a linear layer: every input element meets ``outputs`` weights."""
    return Geometry(
        positions=positions,
        reduction=reduction,
        out_channels=outputs,
        groups=1,
        weights=weights,
        biases=biases,
        fan_out=np.array([outputs], dtype=np.int64),
    )


def has_constant_weights(call: Call) -> bool:
    """True if nothing but the first argument stems from the loader."""
    rest = [*call.args[1:], call.kwargs.get("weight"), call.kwargs.get("bias")]
    return all(call.trace_of(tensor) is None for tensor in tensors_in(rest))


def weight_elements(weight: Tensor) -> int:
    """Elements of a weight tensor in memory: an expanded axis repeats them."""
    return math.prod(size for size, stride in zip(weight.shape, weight.stride(), strict=True) if stride or size < 2)


def weight_name(weight: Tensor, context: BatchContext) -> str | None:
    """The name of the model's parameter or buffer that a weight is, or a view of; None where it is computed."""
    return context.parameters.get(weight.untyped_storage()._cdata, {}).get(int(weight.storage_offset()))


def known_trace(call: Call, x: Tensor) -> TensorTrace:
    """The trace of an operand; raises ProfilingError if it does not stem from the loader."""
    trace = call.trace_of(x)
    if trace is None:
        raise ProfilingError(
            f"{call.site.scope or 'the model'}: an operation reads a tensor that does not stem from the loader"
        )
    return trace


class Summed(NamedTuple):
    """How a layer that sums over some axes is counted: the trace that it reads, and that of its result, but for roles.

    Where it sums over time, or over a part of it, its work belongs to no step: it is done once per inference.
    """

    counted: TensorTrace
    result: TensorTrace


def summed(x: Tensor, trace: TensorTrace, axes: Collection[int], batch: BatchShape, layer: str) -> Summed:
    """How a layer is counted that reads ``x`` and sums over these axes.

    Raises ProfilingError for a layer that sums over samples: its work belongs to no single one.
    """
    chosen = [trace.roles[axis] for axis in axes]
    if batch.samples > 1 and any(has_atom("B", role, batch) for role in chosen):
        raise ProfilingError(
            f"{layer}: sums over the axis of samples, so that its work cannot be told apart by sample; give batches "
            "with samples in front, and features behind"
        )
    is_part = any(has_part_of_time(role, batch) for role in trace.roles)
    is_over_time = any(has_atom("T", role, batch) for role in chosen)
    if not trace.timed or not (is_part or is_over_time):
        return Summed(trace, trace)
    if not is_part:
        require_complete(x.shape, trace.roles, trace.timed, batch, layer)
    merged = merged_over_time(trace)
    return Summed(merged, merged if is_over_time else trace)


def merged_over_time(trace: TensorTrace) -> TensorTrace:
    """The trace of all time steps taken together, once per inference; its scans are shared."""
    if not trace.timed:
        return trace
    return trace.replace(timed=False, step=ONCE, active=np.array([bool(trace.active.any())]))
