"""Convolutions, plain and transposed: counted tap by tap."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.rules.records import record_of
from snn_energy.profiler.rules.registry import BatchContext, Call, rule
from snn_energy.profiler.rules.unknown import unsupported
from snn_energy.profiler.rules.weighted import has_constant_weights, known_trace, weight_name, weighted
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.exact_sums import fan_out_map, outputs_per_input
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.scan_cache import Reader, ScanCache

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
    x: Tensor = operands["input"]
    trace = known_trace(call, x)
    record = record_of(call, context, "conv", [trace])
    record.weight_name = weight_name(operands["weight"], context)
    rows, axes = context.shape.rows(trace.timed), operands["weight"].dim() - 2
    if x.dim() != axes + 2 or x.shape[0] != rows:
        raise ProfilingError(
            f"{record.layer}: the convolution reads {tuple(x.shape)}, not {rows} rows "
            f"(time x samples) of (channels, {'x'.join('S' * axes)}); give a batched input, or correct time= (--time)"
        )
    geometry = _known_geometry(call, context, operands)
    channels, positions = x.shape[1], len(geometry.fan_out)
    if geometry.uniform_fan_out is not None:  # the position of a non-zero within a row does not matter
        channels, positions = channels * positions, 1
    reader = Reader(record.layer, record.invocation, "left")
    found = scans.scan_image_rows(x, (x.shape[0], channels, positions), trace, context.shape, reader)
    roles = (trace.roles[0], *[None] * (call.out.dim() - 1))
    return weighted(record, geometry, found, channels * positions, trace, call.out, roles)


def _known_geometry(call: Call, context: BatchContext, operands: Mapping[str, Any]) -> Geometry:
    """The geometry of a convolution, computed once per run."""
    rest = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in operands.items() if k not in _TENSORS)
    has_bias = operands.get("bias") is not None
    key: Hashable = (call.name, operands["input"].shape, operands["weight"].shape, has_bias, rest)
    geometry = context.geometries.get(key)
    if geometry is None:
        geometry = context.geometries[key] = convolution_geometry(operands, call.out.shape)
    return geometry


def convolution_geometry(operands: Mapping[str, Any], output_shape: Sequence[int]) -> Geometry:
    """Geometry of one convolution call. Input (N, C_in, *S), weight (C_out, C_in/g, *k) or (C_in, C_out/g, *k)."""
    x, weight, bias = operands["input"], operands["weight"], operands.get("bias")
    transposed, groups = bool(operands.get("transposed")), int(operands.get("groups", 1))
    kernel = [int(k) for k in weight.shape[2:]]
    axes = len(kernel)
    stride, dilation = (
        per_axis(operands.get("stride", 1), axes),
        per_axis(operands.get("dilation", 1), axes),
    )
    padding = _padding(operands.get("padding", 0), kernel, dilation)
    spatial_in, spatial_out = [int(s) for s in x.shape[2:]], [int(s) for s in output_shape[2:]]
    c_in, c_out = int(x.shape[1]), int(output_shape[1])
    fed = [
        outputs_per_input(spatial_in[i], kernel[i], stride[i], padding[i], dilation[i], transposed, spatial_out[i])
        for i in range(axes)
    ]
    return Geometry(
        positions=math.prod(spatial_in if transposed else spatial_out),
        reduction=c_in // groups * math.prod(kernel),
        out_channels=c_out,
        groups=groups,
        weights=weight.numel(),
        biases=0 if bias is None else bias.numel(),
        fan_out=fan_out_map(fed, c_out // groups),
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
