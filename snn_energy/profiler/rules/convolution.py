"""Convolutions, plain and transposed: counted tap by tap."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import BatchShape, has_atom, has_part_of_time
from snn_energy.profiler.axes.rows import in_front, require_complete
from snn_energy.profiler.rules.convolved_axes import ConvolutionRows, ConvolvedAxis, rows_of_convolution
from snn_energy.profiler.rules.records import record_of
from snn_energy.profiler.rules.registry import BatchContext, Call, rule
from snn_energy.profiler.rules.unknown import unsupported
from snn_energy.profiler.rules.weighted import (
    has_constant_weights,
    known_trace,
    merged_over_time,
    weight_name,
    weighted,
)
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.exact_sums import fan_out_map
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan_cache import Reader, ScanCache
from snn_energy.profiler.values.traces import TensorTrace

_TENSORS = ("input", "weight", "bias")


@rule("conv1d conv2d conv3d", is_layer=True)
def convolution(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """conv1d, conv2d, conv3d."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    return _convolved(call, context, scans, {"transposed": False, **call.bound(*names)})


@rule("conv_transpose1d conv_transpose2d conv_transpose3d", is_layer=True)
def transposed_convolution(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """conv_transpose1d, conv_transpose2d, conv_transpose3d."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    return _convolved(call, context, scans, {"transposed": True, **call.bound(*names)})


@rule("convolution convolution_overrideable mkldnn_convolution cudnn_convolution", is_layer=True)
def any_convolution(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """The aten operations, whose argument ``transposed`` selects the kind of convolution."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
    return _convolved(call, context, scans, call.bound(*names))


def _convolved(call: Call, context: BatchContext, scans: ScanCache, operands: Mapping[str, Any]) -> Outcome:
    """The outcome of one convolution with its arguments by name, ``transposed`` among them."""
    if not has_constant_weights(call):
        return unsupported(call, context)
    x, span, layer = operands["input"], context.shape, call.site.place("conv").layer
    given = known_trace(call, x)
    _require_batched(x, given, operands["weight"].dim() - 2, span, layer)
    is_part = any(has_part_of_time(role, span) for role in given.roles)
    require_complete(x.shape, given.roles, given.timed and not is_part, span, layer)
    at = rows_of_convolution(tuple(x.shape), given.roles, given.timed, span, _axes_of(operands, call.out.shape))
    trace = given if at.timed else merged_over_time(given)
    record = record_of(call, context, "conv", [trace])
    record.weight_name = weight_name(operands["weight"], context)
    geometry = _known_geometry(call, context, operands, at, trace.timed)
    arrange = functools.partial(_rows_first, at=at, timed=trace.timed, span=span)
    rows, inner = span.rows(trace.timed), x.numel() // max(1, span.rows(trace.timed))
    positions = len(geometry.fan_out)
    channels = inner // positions if positions else 0
    if geometry.uniform_fan_out is not None:  # the position of a non-zero within a row does not matter
        channels, positions = inner, 1
    reader = Reader(record.layer, record.invocation, "left")
    found = scans.scan_as(x, arrange, ((rows, channels, positions), 1), trace, reader)
    if geometry.steps_fed is not None:
        record.active = np.asarray((geometry.steps_fed[record.active] > 0).any(0))
    after = _after(given, trace, record.active, at)
    return weighted(record, geometry, found, inner, after, call.out, at.roles)


def _require_batched(x: Tensor, trace: TensorTrace, axes: int, span: BatchShape, layer: str) -> None:
    """Raise ProfilingError if the first axis does not hold the samples."""
    if x.dim() != axes + 2 or (span.samples > 1 and any(has_atom("B", r, span) for r in trace.roles[1:])):
        raise ProfilingError(
            f"{layer}: the convolution reads {tuple(x.shape)}, not {span.rows(trace.timed)} rows "
            f"(time x samples) of (channels, {'x'.join('S' * axes)}); give a batched input, or correct time= (--time)"
        )


def _axes_of(operands: Mapping[str, Any], output_shape: Sequence[int]) -> tuple[ConvolvedAxis, ...]:
    """Every axis that a kernel runs along."""
    kernel = [int(k) for k in operands["weight"].shape[2:]]
    count = len(kernel)
    stride, dilation = (per_axis(operands.get(name, 1), count) for name in ("stride", "dilation"))
    padding = _padding(operands.get("padding", 0), kernel, dilation)
    transposed = bool(operands.get("transposed"))
    sizes = zip(operands["input"].shape[2:], output_shape[2:], strict=True)
    return tuple(
        ConvolvedAxis(int(size), int(out), kernel[i], stride[i], padding[i], dilation[i], transposed)
        for i, (size, out) in enumerate(sizes)
    )


def _rows_first(x: Tensor, *, at: ConvolutionRows, timed: bool, span: BatchShape) -> Tensor:
    """(rows, ...) with all that a row reads behind, channels before positions."""
    moved, count = in_front(x.reshape(at.sizes), at.split, timed, span)
    return moved.reshape(math.prod(moved.shape[:count]), *moved.shape[count:])


def _after(given: TensorTrace, trace: TensorTrace, active: StepMask, at: ConvolutionRows) -> TensorTrace:
    """The trace of the result: it may hold steps though the work is counted once per inference."""
    if at.timed or not given.timed or not at.result_timed:
        return trace.replace(active=active)
    return given.replace(active=np.full_like(given.active, active.any()))


def _known_geometry(
    call: Call, context: BatchContext, operands: Mapping[str, Any], at: ConvolutionRows, timed: bool
) -> Geometry:
    """The geometry of a convolution, computed once per run."""
    rest = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in operands.items() if k not in _TENSORS)
    has_bias = operands.get("bias") is not None
    shapes = operands["input"].shape, operands["weight"].shape
    key: Hashable = (call.name, shapes, has_bias, rest, at, context.shape)
    geometry = context.geometries.get(key)
    if geometry is None:
        whole = convolution_geometry(operands, call.out.shape)
        geometry = context.geometries[key] = _of_one_row(whole, operands, at, call.out.shape, context.shape, timed)
    return geometry


def _of_one_row(
    whole: Geometry, operands: Mapping[str, Any], at: ConvolutionRows, output_shape: Sequence[int], span: BatchShape,
    timed: bool,
) -> Geometry:  # fmt: skip
    """The geometry of one row: of all images that it holds, and of the positions of its own step."""
    x = operands["input"]
    images = int(x.shape[0]) * whole.positions
    positions = images // max(1, span.rows(timed))
    if not at.timed_axes:
        return replace(whole, positions=positions)
    fed = [
        np.ones(axis.size // at.steps_on(i), np.int64) if i in at.timed_axes else axis.fed()
        for i, axis in enumerate(_axes_of(operands, output_shape))
    ]
    channels = int(output_shape[1]) // whole.groups
    return replace(whole, positions=positions, fan_out=fan_out_map(fed, channels), steps_fed=at.steps_fed())


def convolution_geometry(operands: Mapping[str, Any], output_shape: Sequence[int]) -> Geometry:
    """Geometry of one convolution call. Input (N, C_in, *S), weight (C_out, C_in/g, *k) or (C_in, C_out/g, *k)."""
    x, weight, bias = operands["input"], operands["weight"], operands.get("bias")
    transposed, groups = bool(operands.get("transposed")), int(operands.get("groups", 1))
    kernel = [int(k) for k in weight.shape[2:]]
    spatial = x.shape[2:] if transposed else output_shape[2:]
    c_in, c_out = int(x.shape[1]), int(output_shape[1])
    return Geometry(
        positions=math.prod(int(s) for s in spatial),
        reduction=c_in // groups * math.prod(kernel),
        out_channels=c_out,
        groups=groups,
        weights=weight.numel(),
        biases=0 if bias is None else bias.numel(),
        fan_out=fan_out_map([axis.fed() for axis in _axes_of(operands, output_shape)], c_out // groups),
    )


def per_axis(value: int | Sequence[int], axes: int) -> list[int]:
    """One number per axis, from one number for all axes or one for each."""
    values = [value] if isinstance(value, int) else [int(v) for v in value]
    return values * axes if len(values) == 1 else values


def _padding(value: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each axis; "same" pads an odd total more at the end, as torch does."""
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(w // 2, w - w // 2) for w in whole]
    assert not isinstance(value, str)
    return [(p, p) for p in per_axis(value, len(kernel))]
