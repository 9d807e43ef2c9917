"""Element-wise functions: operations per element, and the bound of the values of the result."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_energy.profiler.axes.roles import ONCE, BatchShape, Role, Roles, has_atom
from snn_energy.profiler.axes.rows import active_in_result, cached_broadcast_roles
from snn_energy.profiler.rules.records import all_active, reads_one_value_of_all_samples, record_of
from snn_energy.profiler.rules.registry import BatchContext, Call, rule
from snn_energy.profiler.rules.weighted import merged_over_time, weight_name
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import (
    COMPUTED,
    FLOOR_MAX_K,
    NOTHING,
    ValueBound,
    bound_of_new_values,
    bound_of_product,
    bound_of_scale,
    bound_of_sum,
    reason_of_average,
)
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


class Work(NamedTuple):
    """The work of an element-wise function: operation of its row, operations over the whole tensor, and its result.

    roles, timed: of the result. bound: of its values. has_offset: an all-zero input gives a non-zero result.
    foldable: it may fold into a weight layer.
    """

    op: str
    operations: int
    roles: Roles
    timed: bool
    bound: ValueBound
    has_offset: bool = False
    foldable: bool = False


def elementwise(call: Call, context: BatchContext, work: Work) -> Outcome:
    """The outcome of one element-wise call."""
    traces = call.traces if work.timed else [merged_over_time(trace) for trace in call.traces]
    record = record_of(call, context, work.op, traces)
    record.elementwise_ops = work.operations // max(1, context.shape.rows(record.timed))
    record.foldable, record.note = work.foldable, call.name
    record.of_batch = reads_one_value_of_all_samples(call, context.shape)
    if work.op == "mul" and len(call.inputs) > 1:
        record.active = all_active([t.active for t in traces])
    active = np.ones_like(record.active) if work.has_offset else record.active
    active = active_in_result(active, call.out, work.roles, work.timed, context.shape)
    facts = TensorFacts(work.roles, work.timed, record.step, active, record.constant, frozenset(), work.bound)
    record.reads, record.leaves = tuple(t.bound for t in call.traces), facts.bound
    return _results(call, Outcome(record), TensorTrace(facts))


def _results(call: Call, outcome: Outcome, result: TensorTrace) -> Outcome:
    """The outcome with traces of all results; the values of all but the first (indices of a maximum) are unknown."""
    bound = COMPUTED if call.name in ("var_mean", "std_mean") else NOTHING
    others = [(out, result.replace(bound=bound, scans=type(result.scans)())) for out in call.outputs[1:]]
    is_written = any(call.out is x for x, _ in call.inputs) or "out" in call.kwargs
    written = [(call.out, result)] if is_written else []
    return Outcome(outcome.record, [(call.out, result), *others], written)


def broadcast(call: Call) -> tuple[Roles, bool]:
    """Roles of the result of an element-wise function, and whether it holds all time steps."""
    roles = cached_broadcast_roles(tuple((x.shape, trace.roles) for x, trace in call.inputs), call.out.shape)
    return roles, any(trace.timed for trace in call.traces)


def kept_axes(call: Call, span: BatchShape) -> tuple[Roles, bool]:
    """Roles of the first input, without those of axes that change in size; and whether the result is timed.

    It is not where an axis of time changes in size, as in a pool over time: that is work of one inference.
    """
    x, trace = call.inputs[0]
    roles = tuple(r if call.out.shape[i] == x.shape[i] else None for i, r in enumerate(trace.roles))
    is_over_time = any(has_atom("T", r, span) for r, kept in zip(trace.roles, roles, strict=True) if kept is None)
    return roles, any(t.timed for t in call.traces) and not is_over_time


def computed(call: Call, max_k: int = 0) -> ValueBound:
    """Bound of computed values without a known unit; ``reason``: of the first operand that has one.

    max_k: spikes that they add up at most, 0 if they are no such sums.
    """
    bounds = [t.bound for t in call.traces]
    found = bound_of_new_values(bounds, max_k)
    return replace(found, loader=found.loader or all(b.loader for b in bounds))


@rule("add sub rsub subtract add_relu", constants_matter=True)
def addition(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One addition per element of the result."""
    bounds = [t.bound for t in call.traces]
    alpha = call.kwargs.get("alpha", call.args[2] if len(call.args) > 2 else 1)
    is_plain = call.name == "add" and alpha == 1
    if len(bounds) == 1:  # a constant is added
        bound = bounds[0] if is_plain and _adds_zero(call) else computed(call, bounds[0].max_k and bounds[0].max_k + 1)
    elif is_plain:
        bound = bound_of_sum(*bounds)
    else:
        bound = bound_of_new_values(bounds, terms_of_sum(bounds[0], bounds[1], alpha))
    has_offset = len(bounds) == 1 and not _adds_zero(call)
    return elementwise(call, context, Work("add", call.out.numel(), *broadcast(call), bound, has_offset))


def _adds_zero(call: Call) -> bool:
    """True for x + 0 and 0 + x with the number 0, as ``sum`` begins."""
    return any(isinstance(a, (int, float)) and a == 0 for a in call.args[:2])


def terms_of_sum(a: ValueBound, b: ValueBound, alpha: float) -> int:
    """Spikes that a + alpha * b and a - alpha * b add up at most; 0 if one of the two is no sum of spikes."""
    is_whole = isinstance(alpha, int) or (isinstance(alpha, float) and alpha.is_integer())
    return a.max_k + abs(int(alpha)) * b.max_k if is_whole and a.max_k and b.max_k else 0


@rule("mul multiply div divide true_divide rdiv rtruediv truediv", constants_matter=True)
def multiplication(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One multiplication per element of the result; a scale if the factor is one known number."""
    return _multiplied(call, context, 1)


@rule("addcmul addcdiv lerp", constants_matter=True)
def multiply_add(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Two multiplications per element of the result."""
    return _multiplied(call, context, 2)


def _multiplied(call: Call, context: BatchContext, each: int) -> Outcome:
    bounds = [t.bound for t in call.traces]
    factor = constant_factor(call, call.inputs[0][0]) if len(bounds) == 1 else None
    bound = computed(call)
    if call.kwargs.get("rounding_mode") is not None:
        bound = ValueBound(max_k=FLOOR_MAX_K)  # whole numbers, whatever is divided
    elif factor is not None:
        bound = bound_of_scale(bounds[0], factor)
    elif call.name in ("mul", "multiply") and len(bounds) == 2:
        bound = bound_of_product(bounds[0], bounds[1], 1)
    op, operations = "mul" if factor is None else "scale", each * call.out.numel()
    return elementwise(call, context, Work(op, operations, *broadcast(call), bound, foldable=factor is not None))


def constant_factor(call: Call, x: Tensor) -> float | None:
    """The number that a tensor is multiplied by; None if it is not a single number known on the host."""
    others = [a for a in (*call.args, *call.kwargs.values()) if a is not x and not isinstance(a, str)]
    if len(others) != 1:
        return None
    other = others[0]
    if isinstance(other, Tensor):
        if other.numel() != 1 or other.device.type != "cpu":
            return None
        other = other.item()
    if isinstance(other, bool) or not isinstance(other, (int, float)) or other == 0:
        return None
    if call.name.startswith(("rdiv", "rtruediv")):
        return None
    return 1 / other if "div" in call.name else float(other)


@rule(
    """relu relu6 gelu silu tanh hardtanh hardswish leaky_relu elu celu selu mish prelu rrelu
    threshold expm1 log1p sqrt pow square abs neg negative erf sin clamp clamp_min clamp_max clip hardshrink softshrink
    tanhshrink softsign glu remainder fmod floor_divide bernoulli""",
    constants_matter=True,
)
def activation(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element of the result; f(0) = 0."""
    return _activated(call, context, has_offset=False)


@rule(
    "sigmoid hardsigmoid softplus logsigmoid log_sigmoid_forward exp log log2 log10 rsqrt reciprocal erfc cos",
    constants_matter=True,
)
def activation_with_offset(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element of the result; f(0) is not 0."""
    return _activated(call, context, has_offset=True)


_WHOLE = frozenset(("floor_divide", "bernoulli"))
_SMOOTH = frozenset(  # of real values they give real values
    ("gelu", "silu", "tanh", "hardswish", "elu", "celu", "selu", "mish", "expm1", "log1p", "sqrt", "erf", "sin",
     "softshrink", "tanhshrink", "softsign", "glu")
)  # fmt: skip


def _activated(call: Call, context: BatchContext, has_offset: bool) -> Outcome:
    first = call.traces[0].bound
    is_kept = call.name in ("relu", "abs") and first.unit is not None
    keeps_terms = call.name in ("relu", "abs", "neg", "negative")
    bound = first if is_kept else computed(call, first.max_k if keeps_terms else 0)
    if call.name in _WHOLE:
        bound = ValueBound(max_k=FLOOR_MAX_K)
    elif (has_offset or call.name in _SMOOTH) and not first.max_k:
        bound = replace(bound, is_computed=True)  # of spikes it gives two values again
    return elementwise(call, context, Work("activation", call.out.numel(), *broadcast(call), bound, has_offset))


@rule("softmax log_softmax softmin", constants_matter=True)
def softmax(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Maximum, subtraction, exponential, sum, division: five operations per element."""
    return elementwise(
        call, context, Work("softmax", 5 * call.out.numel(), *broadcast(call), COMPUTED, has_offset=True)
    )


@rule("batch_norm native_batch_norm cudnn_batch_norm")
def batch_norm(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Scale and shift with running statistics: two operations per element."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    if call.name != "batch_norm":
        names = ("input", "weight", "bias", "running_mean", "running_var", "training")
    given = call.bound(*names)
    is_foldable = not given.get("training", False)  # else with the statistics of this batch
    outcome = _normed(call, context, 2, has_offset=True, foldable=is_foldable)
    statistics = given.get("running_mean")
    assert outcome.record is not None
    outcome.record.reads_padding = any(t.is_padded for t in call.traces)
    outcome.record.of_batch = not is_foldable
    if statistics is not None:
        outcome.record.weight_name = weight_name(statistics, context)
    return outcome


@rule("layer_norm native_layer_norm group_norm native_group_norm instance_norm")
def norm(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Mean, variance (2), normalise, scale and shift in one multiply-add each: five operations per element."""
    return _normed(call, context, 5, has_offset=True)


@rule("rms_norm normalize", constants_matter=True)
def norm_without_shift(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """As ``norm``, but zeros give zeros."""
    return _normed(call, context, 5, has_offset=False)


def _normed(call: Call, context: BatchContext, each: int, has_offset: bool, foldable: bool = False) -> Outcome:
    has_same_axes = call.out.dim() == call.inputs[0][0].dim()
    roles, timed = kept_axes(call, context.shape) if has_same_axes else broadcast(call)
    bound = replace(computed(call), is_computed=True)
    work = Work("norm", each * call.out.numel(), roles, timed, bound, has_offset, foldable)
    return elementwise(call, context, work)


@rule(
    """gt lt ne greater less not_equal sign round floor ceil trunc logical_and logical_or logical_xor bitwise_and
    bitwise_or bitwise_xor and or xor isnan isinf heaviside sgn""",
    constants_matter=True,
)
def comparison(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element of the result, whose values are new; of zeros it gives zeros."""
    return elementwise(call, context, Work("compare", call.out.numel(), *broadcast(call), _compared(call)))


@rule("where masked_fill maximum minimum fmax fmin nan_to_num", constants_matter=True)
def selection(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element of the result, which is one of the operands' values; of zeros it gives zeros."""
    return elementwise(call, context, Work("compare", call.out.numel(), *broadcast(call), _chosen(call)))


@rule("ge le eq greater_equal less_equal isclose isfinite logical_not bitwise_not invert", constants_matter=True)
def comparison_with_offset(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element of the result; zeros give ones."""
    return elementwise(
        call, context, Work("compare", call.out.numel(), *broadcast(call), _compared(call), has_offset=True)
    )


def _compared(call: Call) -> ValueBound:
    """The bound of a comparison, which gives one value and zero, or of values rounded to whole numbers."""
    is_two_valued = call.out.dtype == torch.bool or call.name in ("sign", "sgn", "heaviside")
    return ValueBound(max_k=1 if is_two_valued else FLOOR_MAX_K)


def _chosen(call: Call) -> ValueBound:
    """The bound of values that are each one of the operands' own."""
    return computed(call, max(t.bound.max_k for t in call.traces))


@rule(
    "std var var_mean std_mean norm linalg_vector_norm logsumexp argmax argmin all any count_nonzero",
    constants_matter=True,
)
def reduction(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element that is read; the values of the result are new: indices, numbers, or computed ones."""
    is_whole = call.name in ("argmax", "argmin", "all", "any", "count_nonzero")
    return _reduced(call, context, "reduce", NOTHING if is_whole else COMPUTED)


@rule("sum nansum prod cumsum cumprod amax amin max min topk sort median aminmax", constants_matter=True)
def sum_or_choice(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per element that is read; sums, products and choices of real values are real."""
    first, read = call.traces[0].bound, call.inputs[0][0]
    if "sum" in call.name:
        added = _added_up(call, read) if call.name == "cumsum" else read.numel() // max(1, call.out.numel())
        bound = bound_of_new_values([t.bound for t in call.traces], first.max_k * added)
    else:
        bound = bound_of_new_values([first]) if "prod" in call.name else _chosen(call)
    return _reduced(call, context, "reduce", bound)


def _added_up(call: Call, x: Tensor) -> int:
    """The largest number of elements that a running sum adds up: the size of its axis."""
    dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    return int(x.shape[dim]) if isinstance(dim, int) and x.dim() else x.numel()


@rule("mean nanmean", constants_matter=True)
def mean(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """One operation per input element; the mean of a single value (T = 1) is that value and keeps its bound."""
    x, trace = call.inputs[0]
    is_of_one = call.out.numel() == x.numel()
    bound = trace.bound if is_of_one else ValueBound(reason=reason_of_average(trace.bound, call.name))
    return _reduced(call, context, "mean", bound)


def _reduced(call: Call, context: BatchContext, op: str, bound: ValueBound) -> Outcome:
    """The outcome of a reduction over some axes; one over time is done once per inference."""
    x, first = call.inputs[0]
    roles, timed, step = _axes_left(call, x, first, context.shape)
    record = record_of(call, context, op, call.traces)
    is_over_time = first.timed and not timed
    rows = context.shape.rows(first.timed and not is_over_time)
    if is_over_time:
        record.timed, record.step = False, step
        record.active = np.array([bool(record.active.any())])
        record.output_elements = call.out.numel() // max(1, context.shape.rows(False))
    record.elementwise_ops, record.note = x.numel() // max(1, rows), call.name
    active = record.active
    if _runs_over_time(call, first):  # each step holds something of all earlier ones
        active = np.logical_or.accumulate(active)
    elif not is_over_time:
        active = active_in_result(active, call.out, roles, timed, context.shape)
    facts = TensorFacts(roles, timed, record.step, active, record.constant, frozenset(), bound)
    record.reads, record.leaves = tuple(t.bound for t in call.traces), bound
    return _results(call, Outcome(record), TensorTrace(facts))


def _runs_over_time(call: Call, trace: TensorTrace) -> bool:
    """True for a running sum or product along the axis of time."""
    given = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    return call.name.startswith("cum") and isinstance(given, int) and trace.roles[given] in ("T", "R")


def _axes_left(call: Call, x: Tensor, trace: TensorTrace, span: BatchShape) -> tuple[Roles, bool, int | None]:
    """Roles, timed and step after a reduction over some axes."""
    out, args = call.out, call.args
    given = call.kwargs.get("dim", call.kwargs.get("axis", args[1] if len(args) > 1 else None))
    if out.shape == x.shape:  # a running sum keeps every axis
        return trace.roles, trace.timed, trace.step
    if isinstance(given, bool) or not isinstance(given, (int, tuple, list)):
        dims = set(range(x.dim()))
    else:
        dims = {d % max(1, x.dim()) for d in ([given] if isinstance(given, int) else given)}
    roles: tuple[Role | None, ...] = tuple(r for i, r in enumerate(trace.roles) if i not in dims)
    if out.dim() == x.dim():
        roles = tuple(None if i in dims else r for i, r in enumerate(trace.roles))
    roles = roles if len(roles) == out.dim() else (None,) * out.dim()
    over_time = any(has_atom("T", trace.roles[i], span) for i in dims)
    return roles, trace.timed and not over_time, ONCE if over_time and trace.timed else trace.step
