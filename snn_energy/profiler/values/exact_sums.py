"""Exact counts as small pure functions of tensors: non-zeros, outputs fed by each input, SOPs.

Rows R are the (time step, sample) pairs of an operation, time major. All results are integers. No function
synchronises with the device or keeps a tensor of the size of an activation.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BYTE_MAX = 255


def byte_sum(bytes_: Tensor, dim: int, largest: int = 1) -> Tensor:
    """Sum of a uint8 or bool tensor along one dimension, as int32, for entries of at most ``largest``.

    Eight bytes are added at a time as one int64, in runs short enough (255 // largest) that no byte carries over;
    if the layout does not allow it, torch's own sum is used. Both are exact.
    """
    data = bytes_.view(torch.uint8) if bytes_.dtype == torch.bool else bytes_
    dim = dim % data.dim()
    outer, length, inner = math.prod(data.shape[:dim]), data.shape[dim], math.prod(data.shape[dim + 1 :])
    shape = data.shape[:dim] + data.shape[dim + 1 :]
    run = BYTE_MAX // largest
    # CPU only: a device sums bytes fast enough, and its allocator guarantees no eight-byte alignment of views.
    if run == 0 or not data.is_contiguous() or data.device.type != "cpu" or data.numel() == 0:
        return data.sum(dim, dtype=torch.int32)
    if inner == 1:
        return _byte_sum_last(data.reshape(outer, length), run).reshape(shape)
    if inner % 8 or data.storage_offset() % 8:
        return data.sum(dim, dtype=torch.int32)
    words = data.view(outer, length, inner).view(torch.int64)
    if length <= run:
        return words.sum(1).view(torch.uint8).to(torch.int32).reshape(shape)
    whole = next(n for n in range(run, 0, -1) if length % n == 0)
    if whole >= 8:  # equal runs, summed in one call
        runs = words.view(outer, length // whole, whole, inner // 8).sum(2).view(torch.uint8)
        return runs.sum(1, dtype=torch.int32).reshape(shape)
    total = torch.zeros(outer, inner, dtype=torch.int32)
    for start in range(0, length, run):
        total += words[:, start : start + run].sum(1).view(torch.uint8)
    return total.reshape(shape)


def _byte_sum_last(data: Tensor, run: int) -> Tensor:
    """(outer, length) bytes -> (outer,) int32, through runs of int64 words if length is a multiple of 8."""
    outer, length = data.shape
    if length % 8 or data.storage_offset() % 8 or length < 64:
        return data.sum(1, dtype=torch.int32)
    words = data.view(torch.int64)
    count = words.shape[1]
    part = next(n for n in range(min(run, count), 0, -1) if count % n == 0)
    if part >= 8:  # equal runs, summed in one call
        return words.view(outer, part, count // part).sum(1).view(torch.uint8).sum(1, dtype=torch.int32)
    whole = count - count % run
    total = torch.zeros(outer, dtype=torch.int32)
    if whole:
        lanes = words[:, :whole].unflatten(1, (-1, run)).sum(2)
        total += lanes.view(torch.uint8).sum(1, dtype=torch.int32)
    if whole < count:
        lanes = words[:, whole:].sum(1, keepdim=True)
        total += lanes.view(torch.uint8).sum(1, dtype=torch.int32)
    return total


@functools.lru_cache(maxsize=4096)
def outputs_per_input(
    size: int,
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    transposed: bool,
    output: int,
) -> npt.NDArray[np.int64]:
    """(size,) number of outputs along one axis that the input at each position feeds.

    Convolution: pairs (o, k) with o*stride - padding + k*dilation = i, 0 <= o < output. Transposed: taps k with
    0 <= i*stride - padding + k*dilation < output. Cached: the array must not be modified.
    """
    taps = np.arange(kernel, dtype=np.int64) * dilation
    positions = np.arange(size, dtype=np.int64)[:, None]
    if transposed:
        reached = positions * stride - padding[0] + taps
        hit: npt.NDArray[np.int64] = np.count_nonzero((reached >= 0) & (reached < output), axis=1)
        return hit
    shifted = positions + padding[0] - taps
    starts, rest = np.divmod(shifted, stride)
    met: npt.NDArray[np.int64] = np.count_nonzero((rest == 0) & (starts >= 0) & (starts < output), axis=1)
    return met


def fan_out_map(fed: list[npt.NDArray[np.int64]], outputs_per_position: int) -> npt.NDArray[np.int64]:
    """Flat map over input positions: product of the axes' fed outputs, times C_out/groups."""
    fan = np.array(outputs_per_position, dtype=np.int64)
    for axis in fed:
        fan = np.multiply.outer(fan, axis)
    flat: npt.NDArray[np.int64] = fan.reshape(-1)
    return flat


def sums_exactly(unit: float, most: int) -> bool:
    """True if float32 holds every sum of up to ``most`` units exactly: unit a power of two, most < 2^24."""
    return math.frexp(unit)[0] == 0.5 and most < 2**24


def whole_sums(sums: Tensor, unit: float) -> Tensor:
    """Exact float32 sums of multiples of ``unit`` as int32 numbers of units."""
    return (sums if unit == 1 else sums / unit).to(torch.int32)


def unit_sum(multiples: Tensor, dim: int, unit: float) -> Tensor:
    """Sum along one dimension of integer multiples of ``unit``, in units, as int32; exact under ``sums_exactly``."""
    return whole_sums(multiples.sum(dim, dtype=torch.float32), unit)


def sops_of_rows(position_sums: Tensor, fan_out: Tensor) -> Tensor:
    """(R, P) sums at each input position, (P,) float64 fan-out -> (R,) int64 SOPs. Exact: doubles hold up to 2^53."""
    return (position_sums.to(torch.float64) @ fan_out).to(torch.int64)


def coincidences(left: Tensor, right: Tensor, most: int) -> Tensor:
    """(R, G, K) column sums of the left operand and row sums of the right one -> (R,) products of non-zeros.

    sum over m, k, n of [a_mk != 0][b_kn != 0] = sum over k of (non-zeros in column k of a)(non-zeros in row k of b).
    ``most``: upper bound of a product of two sums.
    """
    if left.dtype == torch.int32 and most < 2**31:  # products fit
        return (left * right).flatten(1).sum(1, dtype=torch.int64)
    return (left.to(torch.int64) * right.to(torch.int64)).flatten(1).sum(1)
