"""Nodes that torch has modules for: convolution, linear, pooling, flatten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_energy.checkpoints.nir.nodes import Scale, SumPool2d
from snn_energy.checkpoints.nir.read import Array, Params, Shape, shape_text


def flatten_shape(value: Any) -> Shape | None:
    """The input shape that a Flatten node declares; None if it declares none."""
    found = value.get("input") if isinstance(value, Mapping) else value
    return None if found is None else shape_tuple(found)


def shape_tuple(value: Any) -> Shape:
    """A shape as a file holds it, as a tuple."""
    return tuple(int(v) for v in np.asarray(value).reshape(-1))


def _sizes(value: Any, axes: int) -> Shape:
    """One whole number, or one per axis."""
    found = shape_tuple(value)
    found = found * axes if len(found) == 1 else found
    if len(found) != axes or min(found) < 0:
        raise ValueError(f"{found} must be {axes} whole numbers")
    return found


def _convolution(params: Params, axes: int) -> nn.Module:
    weight, bias = params["weight"], params["bias"]
    if weight.ndim != axes + 2:
        raise ValueError(f"its weight has {weight.ndim} axes, not {axes + 2}")
    groups, padding = int(params["groups"]), params["padding"]
    padding = padding.decode() if isinstance(padding, bytes) else padding
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"its {weight.shape[0]} output channels do not divide into {groups} groups")
    kind: Callable[..., nn.Module] = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(params["stride"], axes),
        padding=padding if isinstance(padding, str) else _sizes(padding, axes),
        dilation=_sizes(params["dilation"], axes),
        groups=groups,
        bias=bool(bias.any()),
    )
    return _filled(layer, weight, bias)


def _linear(params: Params) -> nn.Module:
    weight, bias = params["weight"], params.get("bias", np.zeros(()))
    if weight.ndim != 2:
        raise ValueError(f"its weight has {weight.ndim} axes; a matrix is supported")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias.any()))
    return _filled(layer, weight, bias)


def _filled(layer: nn.Module, weight: Array, bias: Array) -> nn.Module:
    """The layer filled with these weights; a bias of zeros is omitted."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float32))  # type: ignore[operator]
        if layer.bias is not None:
            if bias.shape != (weight.shape[0],):
                raise ValueError(f"its bias is {shape_text(bias.shape)}, not {weight.shape[0]}")
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))  # type: ignore[operator]
    return layer


def _flatten(params: Params) -> nn.Module:
    start, end = int(params["start_dim"]), int(params["end_dim"])  # NIR counts axes without the batch axis
    return nn.Flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)


def _pool(params: Params) -> tuple[Shape, Shape, Shape]:
    kernel, stride, padding = (_sizes(params[key], 2) for key in ("kernel_size", "stride", "padding"))
    if min(*kernel, *stride) < 1:
        raise ValueError("its kernel and stride must be at least 1")
    return kernel, stride, padding


def _average_pool(params: Params) -> nn.Module:
    kernel, stride, padding = _pool(params)
    return nn.AvgPool2d((kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]))


PLAIN_NODES: Mapping[str, Callable[[Params], nn.Module]] = {
    "Affine": _linear,
    "AvgPool2d": _average_pool,
    "Conv1d": lambda params: _convolution(params, 1),
    "Conv2d": lambda params: _convolution(params, 2),
    "Flatten": _flatten,
    "Linear": _linear,
    "Scale": lambda params: Scale(params["scale"]),
    "SumPool2d": lambda params: SumPool2d(*_pool(params)),
}
