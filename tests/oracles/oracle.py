"""Brute-force oracles of the counting rules, written from the contract and not from the implementation.

Two kinds: literal nested Python loops (``*_by_loops``), which no one can doubt, and a trick that is fast and just as
plain: the same operation in float64 with ones for weights, run on the 0/1 indicator of non-zeros, adds up to the
number of (non-zero input, weight) meetings. The tests hold the two against each other on small cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Counts = npt.NDArray[np.int64]
CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def indicator(x: Tensor) -> Tensor:
    """1.0 (float64) where x is not zero, else 0.0."""
    return torch.from_numpy((x.detach().to(torch.float64).numpy() != 0).astype(np.float64))


# --- convolutions -----------------------------------------------------------------------------------------------


def padding_of(conv: nn.Module) -> list[tuple[int, int]]:
    """(before, after) zeros per spatial axis."""
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in conv.padding]


def conv_meetings_by_loops(weight_of_input: npt.NDArray[Any], conv: nn.Module) -> list[int]:
    """Per sample: sum over outputs, channels and taps of weight_of_input (B, C, *space) where the tap is inside."""
    batch, _, *space = weight_of_input.shape
    pads = padding_of(conv)
    out_per_group, in_per_group = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    out_space = [
        (size + lo + hi - d * (k - 1) - 1) // s + 1
        for size, (lo, hi), d, k, s in zip(space, pads, conv.dilation, conv.kernel_size, conv.stride, strict=True)
    ]
    totals = []
    for b in range(batch):
        total = 0
        for out_channel in range(conv.out_channels):
            group = out_channel // out_per_group
            for out_at in itertools.product(*map(range, out_space)):
                for tap in itertools.product(*map(range, conv.kernel_size)):
                    at = [
                        o * s - lo + t * d
                        for o, s, (lo, _), t, d in zip(out_at, conv.stride, pads, tap, conv.dilation, strict=True)
                    ]
                    if all(0 <= i < size for i, size in zip(at, space, strict=True)):
                        for channel in range(group * in_per_group, (group + 1) * in_per_group):
                            total += int(weight_of_input[(b, channel, *at)])
        totals.append(total)
    return totals


def transposed_meetings_by_loops(weight_of_input: npt.NDArray[Any], conv: nn.Module) -> list[int]:
    """Per sample: every input element sends to every tap that lands inside the output."""
    batch, channels, *space = weight_of_input.shape
    out_space = [
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, s, p, d, k, extra in zip(
            space, conv.stride, conv.padding, conv.dilation, conv.kernel_size, conv.output_padding, strict=True
        )
    ]
    totals = []
    for b in range(batch):
        total = 0
        for channel in range(channels):
            for at in itertools.product(*map(range, space)):
                for tap in itertools.product(*map(range, conv.kernel_size)):
                    out_at = [
                        i * s - p + t * d
                        for i, s, p, t, d in zip(at, conv.stride, conv.padding, tap, conv.dilation, strict=True)
                    ]
                    if all(0 <= o < size for o, size in zip(out_at, out_space, strict=True)):
                        total += int(weight_of_input[(b, channel, *at)]) * (conv.out_channels // conv.groups)
        totals.append(total)
    return totals


def conv_meetings(weight_of_input: Tensor, conv: nn.Module) -> Counts:
    """(B,) the same by a convolution with ones in float64; weight_of_input is the indicator, or |k|."""
    ones, x = torch.ones(conv.weight.shape, dtype=torch.float64), weight_of_input.to(torch.float64)
    dims = len(conv.kernel_size)
    if conv.transposed:
        out = TRANSPOSED[dims](
            x, ones, None, conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation
        )
    else:
        pads = [p for pair in reversed(padding_of(conv)) for p in pair]
        out = CONVS[dims](functional.pad(x, pads), ones, None, conv.stride, 0, conv.dilation, conv.groups)
    sums = out.flatten(1).sum(1)
    assert sums.max().item() < 2**53 if sums.numel() else True
    return sums.to(torch.int64).numpy()


def conv_dense_macs(in_space: Sequence[int], out_space: Sequence[int], conv: nn.Module) -> int:
    """Per sample, padding taps included: weights times output positions (input positions where transposed)."""
    return conv.weight.numel() * math.prod(in_space if conv.transposed else out_space)


# --- products ---------------------------------------------------------------------------------------------------


def coincidences_by_loops(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> int:
    """Pairs (m, k), (k, n) where both are non-zero, of two matrices."""
    rows, inner = left.shape
    total = 0
    for m in range(rows):
        for n in range(right.shape[1]):
            for k in range(inner):
                total += int(left[m, k] != 0 and right[k, n] != 0)
    return total


@dataclass(frozen=True)
class Product:
    """What an einsum over two operands with a sample index ``b`` amounts to, per sample.

    coincidences: both non-zero. left_multi, right_multi: given |k| instead of an indicator on that side.
    """

    dense: int
    coincidences: Counts
    gated_left: Counts
    gated_right: Counts
    nonzeros_left: Counts
    nonzeros_right: Counts


def product(equation: str, left: Tensor, right: Tensor) -> Product:
    """Counts of ``einsum(equation, left, right)``; every index of the output that is not ``b`` is M, N or a group."""
    terms, _ = equation.split("->")
    a, b = terms.split(",")
    sizes = dict(zip(a, left.shape, strict=True)) | dict(zip(b, right.shape, strict=True))
    samples = sizes.pop("b")
    mine, other = indicator(left).numpy(), indicator(right).numpy()
    met = np.einsum(f"{a},{b}->b", mine, other).astype(np.int64)
    left_nz = np.einsum(f"{a}->b", mine).astype(np.int64)
    right_nz = np.einsum(f"{b}->b", other).astype(np.int64)
    beside_left = math.prod(size for index, size in sizes.items() if index not in a)
    beside_right = math.prod(size for index, size in sizes.items() if index not in b)
    assert met.shape == (samples,)
    return Product(math.prod(sizes.values()), met, left_nz * beside_left, right_nz * beside_right, left_nz, right_nz)


def weighted_coincidences(equation: str, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> Counts:
    """Per sample, sum of left * right over all pairs that meet: |k| of one side, an indicator of the other."""
    terms, _ = equation.split("->")
    return np.einsum(f"{terms}->b", left.astype(np.float64), right.astype(np.float64)).astype(np.int64)


# --- kinds (rule 4) ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KindOf:
    """Kind of a tensor, its constant c (1 for all-zero, None for real) and the largest |k|."""

    kind: str
    unit: float | None
    max_k: int | None


def kind_of(x: Tensor, max_k: int = 10) -> KindOf:
    """Rule 4 by trying every constant c that could be; x of any dtype, all steps and samples together."""
    info = torch.finfo(x.dtype) if x.is_floating_point() else None
    values = np.unique(x.detach().to(torch.float64).numpy())
    values = values[values != 0]
    if len(values) == 0:
        return KindOf("binary", 1.0, None)
    if len(values) == 1:
        return KindOf("binary", float(abs(values[0])), None)
    if len(values) == 2 and values[0] == -values[1]:
        return KindOf("ternary", float(values[1]), None)
    smallest = float(np.abs(values).min())
    for j in range(1, max_k + 1):
        unit = smallest / j
        ks = np.rint(values / unit)
        ulp = np.zeros_like(values) if info is None else np.exp2(np.floor(np.log2(np.abs(values)))) * info.eps
        if np.abs(ks).max() <= max_k and (np.abs(values - ks * unit) <= 4 * ulp).all():
            return KindOf("integer", unit, int(np.abs(ks).max()))
    return KindOf("real", None, None)


def computed_kind_of(x: Tensor) -> KindOf:
    """Kind of (T, B, ...) made by a softmax: real unless ones, or a sample holds equal numbers beside a zero."""
    found = kind_of(x)
    numbers = (x != 0).flatten(2).sum(2)
    shows = bool(((numbers >= 2) & (numbers < x[0, 0].numel())).any()) or found.unit == 1
    return found if shows or not x.any() else KindOf("real", None, None)


def loader_kind_of(x: Tensor, declared: str | None = None) -> KindOf:
    """Kind of a tensor that the loader gives: real unless binary or ternary or declared."""
    found = kind_of(x, 255 if declared == "integer" else 1)
    return found if found.kind in ("binary", "ternary") or declared == "integer" else KindOf("real", None, None)


def multiples(x: Tensor, unit: float) -> Tensor:
    """|k| of x = k * unit, float64."""
    return (x.detach().to(torch.float64) / unit).round().abs()


KIND_ORDER = ("binary", "ternary", "integer", "real")
