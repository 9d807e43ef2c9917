"""Products of two tensors of the network: coincidences of non-zeros, step by step or over all steps together."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import (
    BatchShape,
    Role,
    Roles,
    broadcast_roles,
    digits_of,
    holds,
    split_axis,
    split_merged,
    without_atom,
)
from snn_energy.profiler.axes.rows import in_front, require_complete
from snn_energy.profiler.rules.records import all_active, record_of
from snn_energy.profiler.rules.registry import BatchContext, Call
from snn_energy.profiler.rules.weighted import merged_over_time
from snn_energy.profiler.tracking.operation_log import Outcome, Spread
from snn_energy.profiler.values.bounds import bound_of_product
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import Arrange, Reader, ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


class Factor(NamedTuple):
    """One operand of a product: (*batch, M, K) left, (*batch, K, N) right. kept: its axis M or N, -2 or -1."""

    x: Tensor
    trace: TensorTrace
    roles: Roles
    kept: int


class Placement(NamedTuple):
    """Where the rows of a product (*batch, M, K) @ (*batch, K, N) are.

    timed: the result holds all time steps. kept: the matrix axis that holds the steps, or digits of them, -2 (M) or
    -1 (N); None if the batch axes hold them all. digits: (step, size) of time in the rows, the coarsest first.
    """

    batch: tuple[int, ...]
    roles: Roles  # of the batch axes
    timed: bool
    kept: int | None
    digits: tuple[tuple[int, int], ...]
    m: Role | None
    n: Role | None


@functools.lru_cache(maxsize=4096)
def placement(
    left: tuple[int, ...], left_roles: Roles, right: tuple[int, ...], right_roles: Roles, timed: bool, span: BatchShape
) -> Placement:
    """Rows belong to the step of the batch axes, else of the left operand's rows, else of the right one's columns.

    A result that holds no whole index of time any more, because steps are summed over, is made once per inference.
    """
    batch = _broadcast_shape(left[:-2], right[:-2])
    roles = broadcast_roles([(left[:-2], left_roles[:-2]), (right[:-2], right_roles[:-2])], batch)
    m, n = left_roles[-2], right_roles[-1]
    still_m, still_n = without_atom("T", left[-2], m, span), without_atom("T", right[-1], n, span)
    ways: list[tuple[int | None, int, Role | None, Role | None, Role | None]] = [
        (None, 1, None, still_m, still_n), (-2, left[-2], m, m, still_n), (-1, right[-1], n, still_m, n)
    ]  # fmt: skip
    for kept, size, role, of_m, of_n in ways:
        if timed and holds("T", (*batch, size), (*roles, role), span):
            digits = [
                d for s, r in zip((*batch, size), (*roles, role), strict=True) for d in digits_of("T", s, r, span)
            ]
            return Placement(batch, roles, True, kept, tuple(sorted(digits, reverse=True)), of_m, of_n)
    return Placement(batch, roles, False, None, (), m, still_n)


def _broadcast_shape(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    longest = max(len(left), len(right))
    filled = [(1,) * (longest - len(shape)) + tuple(shape) for shape in (left, right)]
    return tuple(b if a == 1 else a for a, b in zip(*filled, strict=True))


def coincidences(call: Call, context: BatchContext, scans: ScanCache, left: Factor, right: Factor) -> Outcome:
    """The outcome of a batched product; the roles of its result are those of (*batch, M, N)."""
    span, factors = context.shape, (left, right)
    timed = left.trace.timed or right.trace.timed
    at = placement(tuple(left.x.shape), left.roles, tuple(right.x.shape), right.roles, timed, span)
    is_over_time = timed and not at.timed
    record = record_of(call, context, "matmul", [_counted(f.trace, is_over_time) for f in factors])
    require_complete(at.batch, at.roles, False, span, record.layer)
    for factor in factors:  # one that is the same for all samples has no axis of them
        if factor.trace.timed and not holds("T", factor.x.shape, factor.roles, span):
            require_complete(factor.x.shape, factor.roles, True, span, record.layer)
    record.active = all_active([_active(factor, at, span) for factor in factors])
    m, n = (
        factor.x.shape[factor.kept] // _steps_on(factor, span)
        if at.kept == factor.kept
        else factor.x.shape[factor.kept]
        for factor in factors
    )
    k, groups = left.x.shape[-1], math.prod(at.batch) // max(1, _batch_rows(at, span))
    # Sums of |k| count only for the operand of lower kind: never if the other operand is proven binary.
    a_may_be_integer, b_may_be_integer = (not (f.trace.bound.proven and f.trace.bound.max_k == 1) for f in factors)
    reader = Reader(record.layer, record.invocation, "left")
    record.left, record.left_spread = _sums_over(left, at, reader, b_may_be_integer, span, scans)
    reader = reader._replace(operand="right")
    record.right, record.right_spread = _sums_over(right, at, reader, a_may_be_integer, span, scans)
    record.left_elements, record.right_elements = groups * m * k, groups * k * n
    record.positions, record.reduction, record.out_channels, record.groups = m, k, groups * n, groups
    record.dense_macs = m * k * groups * n
    bound = bound_of_product(left.trace.bound, right.trace.bound, k)
    roles = (*at.roles, at.m, at.n)
    facts = TensorFacts(roles, record.timed, record.step, record.active, record.constant, frozenset(), bound)
    return Outcome(record, [(call.out, TensorTrace(facts))])


def _counted(trace: TensorTrace, is_over_time: bool) -> TensorTrace:
    return merged_over_time(trace) if is_over_time else trace


def _active(factor: Factor, at: Placement, span: BatchShape) -> StepMask:
    """(T,) steps in which an operand works, where each row of the product reads that of its own step; else (1,)."""
    axes = [*range(factor.x.dim() - 2), *([factor.kept] if at.kept == factor.kept else [])]
    own = holds("T", [factor.x.shape[i] for i in axes], tuple(factor.roles[i] for i in axes), span)
    mask = factor.trace.active
    return mask if (at.timed and own) or not factor.trace.timed else np.array([bool(mask.any())])


def _steps_on(factor: Factor, span: BatchShape) -> int:
    """Number of time steps, or parts of them, on the axis of an operand that the result keeps."""
    role = factor.roles[factor.kept]
    return math.prod(size for _, size in digits_of("T", factor.x.shape[factor.kept], role, span))


def _batch_rows(at: Placement, span: BatchShape) -> int:
    """Number of rows that the batch axes hold."""
    digits = [d for size, role in zip(at.batch, at.roles, strict=True) for d in digits_of("T", size, role, span)]
    return span.samples * (math.prod(size for _, size in digits) if at.timed else 1)


def _sums_over(
    factor: Factor, at: Placement, reader: Reader, with_levels: bool, span: BatchShape, scans: ScanCache
) -> tuple[NonzeroSums, Spread | None]:
    """(rows * G, K) sums over M of a left, over N of a right operand, rows in front, and how the product reads them."""
    x, trace = factor.x, _counted(factor.trace, not at.timed)
    sizes, roles = split_merged(at.batch, at.roles, span)
    for axis in (-2, -1):
        role = factor.roles[axis] if axis == factor.kept == at.kept else None
        part_sizes, part_roles = split_axis(x.shape[axis], role, span)
        sizes, roles = (*sizes, *part_sizes), (*roles, *part_roles)
    own = _digits(roles, sizes, span) if at.timed else ()
    groups = math.prod(at.batch) // max(1, _batch_rows(at, span))
    steps = _steps_on(factor, span) if at.kept == factor.kept else 1
    p, q = (x.shape[a] // (steps if a == factor.kept else 1) for a in (-2, -1))
    rows = span.samples * math.prod(size for _, size in own)
    arrange: Arrange = functools.partial(
        _matrices_of_rows, batch=at.batch, sizes=sizes, roles=roles, timed=at.timed, span=span, matrix=(groups, p, q)
    )
    full, over_last = arrange(x), factor.kept == -1
    if not full.is_contiguous() and full.mT.is_contiguous():  # read in memory order
        arrange, p, q, over_last = functools.partial(_transposed, arrange=arrange), q, p, not over_last
    found = scans.scan_as(x, arrange, ((rows * groups, p, q), 2 if over_last else 1), trace, reader, with_levels)
    if own == at.digits:
        return found, None
    own_sizes = tuple(size if (step, size) in own else 1 for step, size in at.digits)
    return found, Spread(own_sizes, tuple(size for _, size in at.digits), span.samples)


def _matrices_of_rows(
    x: Tensor, *, batch: tuple[int, ...], sizes: tuple[int, ...], roles: Roles, timed: bool, span: BatchShape,
    matrix: tuple[int, int, int],
) -> Tensor:  # fmt: skip
    """(rows, G, P, Q) of an operand expanded to the batch axes of its product. sizes, roles: of all axes, split."""
    full = x if tuple(x.shape[:-2]) == batch else x.expand(*batch, *x.shape[-2:])
    moved, count = in_front(full.reshape(sizes), roles, timed, span)
    return moved.reshape(math.prod(moved.shape[:count]), *matrix)


def _transposed(x: Tensor, *, arrange: Arrange) -> Tensor:
    return arrange(x).mT


def _digits(roles: Roles, sizes: tuple[int, ...], span: BatchShape) -> tuple[tuple[int, int], ...]:
    """(step, size) of the digits of time on these axes, the coarsest first."""
    found = [d for size, role in zip(sizes, roles, strict=True) for d in digits_of("T", size, role, span)]
    return tuple(sorted(found, reverse=True))
