"""Exact counts as small pure functions of tensors: non-zeros, how many outputs each input feeds, SOPs.

Rows R are the (time step, sample) pairs of an operation, time major. All results are whole numbers. Nothing here
synchronises with the device, and nothing as large as an activation outlives the call.
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
    where the layout does not allow it, torch's own sum is taken. Both are exact.
    """
    data = bytes_.view(torch.uint8) if bytes_.dtype == torch.bool else bytes_
    dim = dim % data.dim()
    outer, length, inner = math.prod(data.shape[:dim]), data.shape[dim], math.prod(data.shape[dim + 1 :])
    shape = data.shape[:dim] + data.shape[dim + 1 :]
    run = BYTE_MAX // largest
    # CPU only: a device sums bytes fast enough, and its allocator promises no eight-byte alignment to views.
    if run == 0 or not data.is_contiguous() or data.device.type != "cpu" or data.numel() == 0:
        return data.sum(dim, dtype=torch.int32)
    if inner == 1:
        return _byte_sum_last(data.reshape(outer, length), run).reshape(shape)
    if inner % 8 or data.storage_offset() % 8:
        return data.sum(dim, dtype=torch.int32)
    words = data.view(outer, length, inner).view(torch.int64)
    if length <= run:
        return words.sum(1).view(torch.uint8).to(torch.int32).reshape(shape)
    total = torch.zeros(outer, inner, dtype=torch.int32)
    for start in range(0, length, run):
        total += words[:, start : start + run].sum(1).view(torch.uint8)
    return total.reshape(shape)


class PackedSum:
    """``byte_sum`` over the channels of one (B, C, P) slice after another, with as few calls per slice as possible.

    Built once for T slices of one shape; ``add`` per slice; ``positions`` unpacks all T at the end.
    """

    def __init__(self, steps: int, shape: tuple[int, int, int], scratch: Tensor) -> None:
        batch, channels, positions = shape
        self.shape, self.flags = shape, scratch[: batch * channels * positions].view(shape)
        self.is_packed = positions % 8 == 0 and scratch.device.type == "cpu" and scratch.storage_offset() == 0
        if self.is_packed:
            words = self.flags.view(torch.int64)
            self.runs = [words[:, at : at + BYTE_MAX] for at in range(0, channels, BYTE_MAX)]
            self.sums = torch.zeros(steps, len(self.runs), batch, positions // 8, dtype=torch.int64)
        else:
            self.sums = torch.zeros(steps, batch, positions, dtype=torch.int32, device=scratch.device)

    def add(self, step: int, values: Tensor) -> None:
        """Take in one slice of B*C*P values; non-zero is 1."""
        self.flags.copy_(values.view(self.shape))
        if self.is_packed:
            for run, words in enumerate(self.runs):
                torch.sum(words, 1, out=self.sums[step, run])
        else:
            self.sums[step] = byte_sum(self.flags, 1)

    def positions(self) -> Tensor:
        """(T*B, P) int32 non-zeros per position; steps never added are zero."""
        if not self.is_packed:
            return self.sums.flatten(0, 1)
        runs = self.sums.view(torch.uint8).to(torch.int32)
        return (runs[:, 0] if runs.shape[1] == 1 else runs.sum(1, dtype=torch.int32)).flatten(0, 1)


def _byte_sum_last(data: Tensor, run: int) -> Tensor:
    """(outer, length) bytes -> (outer,) int32, through runs of int64 words where length is a multiple of 8."""
    outer, length = data.shape
    if length % 8 or data.storage_offset() % 8 or length < 64:
        return data.sum(1, dtype=torch.int32)
    words = data.view(torch.int64)
    count = words.shape[1]
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
def fed_outputs(
    size: int,
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    transposed: bool,
    output: int,
) -> npt.NDArray[np.int64]:
    """(size,) how many outputs along one axis the input at each position really feeds.

    Convolution: pairs (o, k) with o*stride - padding + k*dilation = i, 0 <= o < output. Transposed: taps k with
    0 <= i*stride - padding + k*dilation < output. Cached: the array is not to be written to.
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


def weighted_rows(position_sums: Tensor, fan_out: npt.NDArray[np.int64]) -> Tensor:
    """(R, P) sums at each input position, (P,) fan-out -> (R,) int64 SOPs. Exact: doubles hold integers to 2^53."""
    if len(fan_out) == 0:
        return torch.zeros(position_sums.shape[0], dtype=torch.int64, device=position_sums.device)
    first = int(fan_out[0])
    if (fan_out == first).all():
        return position_sums.sum(1, dtype=torch.int64) * first
    weights = torch.from_numpy(fan_out).to(device=position_sums.device, dtype=torch.float64)
    return (position_sums.to(torch.float64) @ weights).to(torch.int64)


def coincidences(left: Tensor, right: Tensor) -> Tensor:
    """(R, G, K) column sums of the left operand and row sums of the right one -> (R,) products of non-zeros.

    sum over m, k, n of [a_mk != 0][b_kn != 0] = sum over k of (non-zeros in column k of a)(non-zeros in row k of b).
    """
    return (left.to(torch.float64) * right.to(torch.float64)).flatten(1).sum(1).to(torch.int64)
