"""Convolutions whose kernel may run along time: which rows they have, and which steps feed which."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from snn_energy.profiler.axes.roles import (
    PART_OF_TIME,
    BatchShape,
    Role,
    Roles,
    digits_of,
    has_atom,
    has_part_of_time,
    holds,
    is_composite,
    split_axis,
)
from snn_energy.profiler.values.exact_sums import outputs_per_input

Meetings = npt.NDArray[np.int64]  # (positions of the input, positions of the output): taps that connect them


class ConvolvedAxis(NamedTuple):
    """One axis that a kernel runs along: sizes of input and output, kernel, stride, padding, dilation."""

    size: int
    output: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    transposed: bool

    def fed(self) -> Meetings:
        """(size,) number of outputs along the axis that the input at each position feeds."""
        return outputs_per_input(
            self.size, self.kernel, self.stride, self.padding, self.dilation, self.transposed, self.output
        )

    @property
    def is_pointwise(self) -> bool:
        """True if every output reads the input of its own position alone."""
        return (self.kernel, self.stride, self.padding, self.output) == (1, 1, (0, 0), self.size)

    def meetings(self) -> Meetings:
        """Which input position meets which output position, counted tap by tap."""
        source, target = np.arange(self.size)[:, None, None], np.arange(self.output)[None, :, None]
        tap = np.arange(self.kernel)[None, None, :] * self.dilation
        if self.transposed:
            met = source * self.stride - self.padding[0] + tap == target
        else:
            met = target * self.stride - self.padding[0] + tap == source
        found: Meetings = met.sum(2, dtype=np.int64)
        return found


@dataclass(frozen=True)
class ConvolutionRows:
    """The rows of a convolution.

    timed: a row is one step of one sample, else one sample. result_timed: the result holds time steps. roles: of the
    result. sizes, split: of the input with its merged axes split. timed_axes: convolved axes that hold steps, with the
    (step, size) of their digit of time, and how a kernel runs along it (None: it does not).
    """

    timed: bool
    result_timed: bool
    roles: Roles
    sizes: tuple[int, ...]
    split: Roles
    time_steps: int
    digits: tuple[tuple[int, tuple[int, int], ConvolvedAxis | None], ...] = ()

    @property
    def timed_axes(self) -> frozenset[int]:
        """Convolved axes that hold steps of the rows."""
        return frozenset(axis for axis, _, _ in self.digits)

    def steps_on(self, axis: int) -> int:
        """Number of steps, or digits of them, on a convolved axis."""
        return math.prod(size for own, (_, size), _ in self.digits if own == axis)

    def steps_fed(self) -> Meetings | None:
        """(T, T) outputs of step t' fed by one position of step t; None if every step feeds its own once."""
        steps = np.arange(self.time_steps)
        found = np.ones((self.time_steps, self.time_steps), np.int64)
        others = steps.copy()
        for _, (step, size), axis in self.digits:
            digit = steps // step % size
            others -= digit * step
            met = np.eye(size, dtype=np.int64) if axis is None else axis.meetings()
            found *= met[digit[:, None], digit[None, :]]
        found *= others[:, None] == others[None, :]
        return None if np.array_equal(found, np.eye(self.time_steps, dtype=np.int64)) else found


@functools.lru_cache(maxsize=1024)
def rows_of_convolution(
    shape: tuple[int, ...], roles: Roles, timed: bool, span: BatchShape, axes: tuple[ConvolvedAxis, ...]
) -> ConvolutionRows:
    """Rows of a convolution of (N, C, *S): per step where the result still holds every step, else once per inference.

    An axis that holds nothing but steps may be convolved to as many; a kernel that runs over steps and other data in
    one axis, to more or to fewer steps, or over channels that hold steps, does work that belongs to no single step.
    """
    kept = [_role_after(role, axis, span) for role, axis in zip(roles[2:], axes, strict=True)]
    result: Roles = (roles[0], None, *kept)
    out_shape = (shape[0], 1, *(axis.output for axis in axes))
    is_part = any(has_part_of_time(role, span) for role in result)
    is_followed = not is_part and holds("T", out_shape, result, span)
    apart = all(not has_atom("T", r, span) or _is_apart(r, axis) for r, axis in zip(roles[2:], axes, strict=True))
    by_step = timed and is_followed and apart and not any(has_part_of_time(role, span) for role in roles)
    digits: list[tuple[int, tuple[int, int], ConvolvedAxis | None]] = []
    sizes, split = split_axis(shape[0], roles[0], span)
    sizes, split = (*sizes, shape[1]), (*split, None)
    for i, (role, axis) in enumerate(zip(roles[2:], axes, strict=True)):
        parts = digits_of("T", axis.size, role, span) if by_step else []
        if parts:
            part_sizes, part_roles = split_axis(axis.size, role, span)
            sizes, split = (*sizes, *part_sizes), (*split, *part_roles)
            digits += [(i, digit, None if axis.is_pointwise else axis) for digit in parts]
        else:
            sizes, split = (*sizes, axis.size), (*split, None)
    result_timed = timed and (is_followed or is_part)
    return ConvolutionRows(by_step, result_timed, result, sizes, split, span.time_steps, tuple(digits))


def _is_apart(role: Role | None, axis: ConvolvedAxis) -> bool:
    """True if a kernel does not mix steps with other data of the axis."""
    return axis.is_pointwise or not is_composite(role)


def _role_after(role: Role | None, axis: ConvolvedAxis, span: BatchShape) -> Role | None:
    """The role of a convolved axis of the result; one padded to more steps holds the T steps and others."""
    if role is None or axis.size == axis.output:
        return role
    if role == PART_OF_TIME and axis.stride == 1 and axis.output == span.time_steps:  # padded in front before
        return "T"
    is_longer = axis.output > axis.size and axis.stride == 1 and not axis.transposed
    if role == "T" and is_longer:
        return PART_OF_TIME
    return None
