"""Pooling and interpolation: one operation per tap of the window and output."""

from __future__ import annotations

import math

from snn_energy.profiler.rules.convolution import per_axis
from snn_energy.profiler.rules.elementwise import Work, computed, elementwise, kept_axes
from snn_energy.profiler.rules.registry import BatchContext, Call, rule
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import ValueBound, reason_of_average
from snn_energy.profiler.values.scan_cache import ScanCache


@rule(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    mkldnn_max_pool2d""",
    constants_matter=True,
    is_layer=True,
)
def max_pool(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """The maximum of a window, which keeps the bound of the input."""
    kernel = call.bound("input", "kernel_size").get("kernel_size", 1)
    return _pooled(call, context, _taps(call, kernel), call.traces[0].bound)


@rule("avg_pool1d avg_pool2d avg_pool3d", constants_matter=True, is_layer=True)
def avg_pool(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """The average of a window; with divisor 1 the sum, which may be integer (the sum-pools of sinabs)."""
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = call.bound(*names)
    kernel = given.get("kernel_size", 1)
    bound = _sum_of_window(call, kernel) if given.get("divisor_override") == 1 else average(call)
    return _pooled(call, context, _taps(call, kernel), bound)


@rule("lp_pool1d lp_pool2d", constants_matter=True, is_layer=True)
def lp_pool(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """The p-norm of a window; for p = 1 the sum."""
    given = call.bound("input", "norm_type", "kernel_size")
    kernel = given.get("kernel_size", 1)
    bound = _sum_of_window(call, kernel) if given.get("norm_type") == 1 else average(call)
    return _pooled(call, context, _taps(call, kernel), bound)


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", constants_matter=True, is_layer=True)
def adaptive_avg_pool(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """The average of windows that cover the input; the average of one value keeps its bound."""
    is_of_one = call.out.numel() == call.inputs[0][0].numel()
    return _pooled(call, context, _larger(call), call.traces[0].bound if is_of_one else average(call))


@rule(
    """adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices upsample_nearest2d""",
    constants_matter=True,
    is_layer=True,
)
def adaptive_choice(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Values selected from windows that cover the input."""
    return _pooled(call, context, _larger(call), call.traces[0].bound)


@rule("interpolate upsample upsample_bilinear2d", constants_matter=True, is_layer=True)
def interpolation(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Mode nearest selects values, all other modes average them."""
    mode = call.bound("input", "size", "scale_factor", "mode").get("mode", "nearest")
    is_choice = call.name != "upsample_bilinear2d" and str(mode).startswith("nearest")
    return _pooled(call, context, _larger(call), call.traces[0].bound if is_choice else average(call))


def _sum_of_window(call: Call, kernel: int | list[int]) -> ValueBound:
    """The bound of sums over a window."""
    return computed(call, call.traces[0].bound.max_k * _taps(call, kernel) // max(1, call.out.numel()))


def average(call: Call) -> ValueBound:
    """The bound of averages: real, with the reason."""
    return ValueBound(reason=reason_of_average(call.traces[0].bound, call.name))


def _pooled(call: Call, context: BatchContext, operations: int, bound: ValueBound) -> Outcome:
    return elementwise(call, context, Work("pool", operations, *kept_axes(call, context.shape), bound))


def _taps(call: Call, kernel: int | list[int]) -> int:
    """Outputs times the taps of the window."""
    base = call.name.split("_with")[0]
    axes = 1 if base.endswith("1d") else 3 if base.endswith("3d") else 2
    return call.out.numel() * math.prod(per_axis(kernel, axes))


def _larger(call: Call) -> int:
    """Number of elements of the input or of the result, whichever is larger."""
    return max(call.inputs[0][0].numel(), call.out.numel())
