"""Linear layers, matrix products and einsum."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape, Role, Roles, broadcast_roles
from snn_energy.profiler.axes.rows import batch_in_front, cached_broadcast_roles, require_complete
from snn_energy.profiler.rules.einsum import Letters, letters_of
from snn_energy.profiler.rules.records import all_active, record_of, tensors_in
from snn_energy.profiler.rules.registry import BatchContext, Call, PartCall, decomposition, rule
from snn_energy.profiler.rules.unknown import unsupported
from snn_energy.profiler.rules.weighted import (
    has_constant_weights,
    known_trace,
    linear_geometry,
    linear_outcome,
    require_features,
    weight_elements,
    weight_name,
)
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import bound_of_product
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import Arrange, Reader, ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

_RIGHT = ("other", "mat2", "vec2", "tensor")  # keywords of a right operand


@rule("linear mkldnn_linear", is_layer=True)
def linear(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """x @ W.T + b over the last axis."""
    if not has_constant_weights(call):
        return unsupported(call, context)
    operands = call.bound("input", "weight", "bias")
    x, weight, bias, out = operands["input"], operands["weight"], operands.get("bias"), call.out
    trace = known_trace(call, x)
    record = record_of(call, context, "linear", [trace])
    record.weight_name = weight_name(weight, context)
    require_features(record.layer, trace.roles[-1])
    reduction = int(x.shape[-1])
    outputs = weight.shape[0] if weight.dim() > 1 else 1
    positions = x.numel() // max(1, reduction * context.shape.rows(trace.timed))
    geometry = linear_geometry(positions, reduction, outputs, weight.numel(), 0 if bias is None else bias.numel())
    roles = (*trace.roles[:-1], None) if out.dim() == x.dim() else trace.roles[: out.dim()]
    return linear_outcome(record, geometry, x, trace, out, roles, context, scans)


@rule("matmul rmatmul mm bmm mv dot", is_layer=True)
def product(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """A product of two tensors, of which one may be a constant."""
    named = [call.kwargs[key] for key in _RIGHT if key in call.kwargs]
    left, right = list(tensors_in([call.args, call.kwargs.get("input"), *named]))[:2]
    if call.name == "rmatmul":
        left, right = right, left
    return _product_of(call, context, scans, left, right, None)


@rule("product_with_bias", is_layer=True)
def product_with_bias(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """bias + left @ right, one of the two a constant: a linear layer."""
    bias, left, right = call.args
    return _product_of(call, context, scans, left, right, bias)


@decomposition("addmm baddbmm")
def product_and_sum(call: Call) -> Iterator[PartCall]:
    """beta * addend + alpha * (left @ right): a layer with a bias, or a product, a scale and an addition."""
    given = {**call.bound("input", "left", "right"), **call.kwargs}
    addend, left, right = given["input"], *_matrices(given)
    alpha, beta = given.get("alpha", 1), given.get("beta", 1)
    is_layer = call.trace_of(left) is None or call.trace_of(right) is None
    if is_layer and call.trace_of(addend) is None:  # alpha and beta are part of the weights and biases
        name = "product_with_bias" if beta else "matmul"
        yield PartCall(name, (addend, left, right) if beta else (left, right), call.out)
        return
    made = left @ right if beta or alpha != 1 else call.out
    yield PartCall("matmul", (left, right), made)
    if alpha != 1:
        scaled = alpha * made if beta else call.out
        yield PartCall("mul", (made, alpha), scaled)
        made = scaled
    if beta:
        added = addend
        if beta != 1:
            added = beta * addend
            yield PartCall("mul", (addend, beta), added)
        yield PartCall("add", (added, made), call.out)


def _matrices(given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The two matrices of addmm and baddbmm, whatever they are called."""
    left = given.get("left", given.get("mat1", given.get("batch1")))
    right = given.get("right", given.get("mat2", given.get("batch2")))
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    return left, right


def _product_of(
    call: Call, context: BatchContext, scans: ScanCache, left: Tensor, right: Tensor, bias: Tensor | None
) -> Outcome:
    a, b = call.trace_of(left), call.trace_of(right)
    if a is not None and b is not None:
        if left.dim() < 2 or right.dim() < 2:
            return unsupported(call, context)
        batch = tuple(np.broadcast_shapes(left.shape[:-2], right.shape[:-2]))
        operands = ((left.shape[:-2], a.roles[:-2]), (right.shape[:-2], b.roles[:-2]))
        roles = cached_broadcast_roles(operands, batch)
        return _coincidences(call, context, scans, Pair(left, right, a, b, batch, roles), (*roles, None, None))
    if a is not None or b is not None:
        return _constant_product(call, context, scans, left, right, bias)
    return unsupported(call, context)


def _constant_product(
    call: Call, context: BatchContext, scans: ScanCache, left: Tensor, right: Tensor, bias: Tensor | None
) -> Outcome:
    """x @ W or W @ x with constant W is a linear layer: every element of x meets the same number of weights."""
    out, from_left = call.out, call.trace_of(left) is not None
    x, weight = (left, right) if from_left else (right, left)
    trace = known_trace(call, x)
    record = record_of(call, context, "linear", [trace])
    record.weight_name = weight_name(weight, context)
    require_features(record.layer, trace.roles[-1 if from_left or x.dim() < 2 else -2])
    reduction = int(left.shape[-1])
    fan_out = out.numel() * reduction // max(1, x.numel())
    positions = out.numel() // max(1, context.shape.rows(trace.timed) * fan_out)
    biases = 0 if bias is None else weight_elements(bias)
    geometry = linear_geometry(positions, reduction, fan_out, weight_elements(weight), biases)
    roles: list[Role | None] = list(broadcast_roles([(x.shape[:-2], trace.roles[:-2])], out.shape[:-2]))
    if x.dim() >= 2 and out.dim() >= 2:
        roles += [trace.roles[-2], None] if from_left else [None, trace.roles[-1]]
    else:
        roles = list(trace.roles[:1]) if out.dim() == 1 and x.dim() == 2 else [None] * out.dim()
    return linear_outcome(record, geometry, x, trace, out, tuple(roles), context, scans)


class Pair(NamedTuple):
    """(*batch, M, K) @ (*batch, K, N), both from the network. ``roles``: of the batch axes."""

    left: Tensor
    right: Tensor
    a: TensorTrace
    b: TensorTrace
    batch: tuple[int, ...]
    roles: Roles


def _coincidences(call: Call, context: BatchContext, scans: ScanCache, pair: Pair, roles: Roles) -> Outcome:
    """Coincidences of non-zeros in a batched product. ``roles``: of the result."""
    left, right, a, b, batch, batch_roles = pair
    record = record_of(call, context, "matmul", [a, b])
    require_complete(batch_roles, record.timed, context.shape, record.layer)
    record.active = all_active([a.active, b.active])
    rows = context.shape.rows(record.timed)
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    groups = math.prod(batch) // max(1, rows)
    # Sums of |k| count only for the operand of lower kind: never if the other operand is proven binary.
    a_may_be_integer, b_may_be_integer = (not (t.bound.proven and t.bound.max_k == 1) for t in (a, b))
    reader = Reader(record.layer, record.invocation, "left")
    shape = rows, groups, m, k
    record.left = _sums_over(left, pair, shape, a, reader, b_may_be_integer, context, scans)
    reader, shape = reader._replace(operand="right"), (rows, groups, k, n)
    record.right = _sums_over(right, pair, shape, b, reader, a_may_be_integer, context, scans)
    record.left_elements, record.right_elements = groups * m * k, groups * k * n
    record.positions, record.reduction, record.out_channels, record.groups = m, k, groups * n, groups
    record.dense_macs = m * k * groups * n
    bound = bound_of_product(a.bound, b.bound, k)
    facts = TensorFacts(roles, record.timed, record.step, record.active, record.constant, frozenset(), bound)
    return Outcome(record, [(call.out, TensorTrace(facts))])


def _sums_over(
    x: Tensor,
    pair: Pair,
    shape: tuple[int, int, int, int],
    trace: TensorTrace,
    reader: Reader,
    with_levels: bool,
    context: BatchContext,
    scans: ScanCache,
) -> NonzeroSums:
    """(R * G, K) sums over M of a left, over N of a right operand, rows first. shape: (R, G, M, K), (R, G, K, N)."""
    rows, groups, p, q = shape
    over_last = reader.operand == "right"
    arrange = functools.partial(_matrices_of_rows, batch=pair.batch, roles=pair.roles, span=context.shape)
    full = arrange(x)
    if not full.is_contiguous() and full.mT.is_contiguous():  # read in memory order
        arrange, p, q, over_last = functools.partial(_transposed, arrange=arrange), q, p, not over_last
    return scans.scan_as(x, arrange, ((rows * groups, p, q), 2 if over_last else 1), trace, reader, with_levels)


def _matrices_of_rows(x: Tensor, *, batch: tuple[int, ...], roles: Roles, span: BatchShape) -> Tensor:
    """An operand expanded to the batch axes of its product, rows in front."""
    full = x if x.shape[:-2] == batch else x.expand(*batch, *x.shape[-2:])
    return batch_in_front(full, roles, span)


def _transposed(x: Tensor, *, arrange: Arrange) -> Tensor:
    return arrange(x).mT


@rule("einsum", is_layer=True)
def einsum(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Two-operand einsum as a batched product; anything else is unsupported."""
    operands = list(tensors_in(call.args[1:]))
    letters = letters_of(call.args[0], operands)
    if letters is None:
        return unsupported(call, context)
    left, right = operands
    a, b = call.trace_of(left), call.trace_of(right)
    sides = [(t, names) for t, names in ((a, letters.left), (b, letters.right)) if t is not None]
    role_of = {c: r for t, names in sides for c, r in zip(names, t.roles, strict=True) if r}
    roles = tuple(role_of.get(c) for c in letters.result)
    if a is None or b is None:
        return _einsum_with_constant(call, context, scans, left if b is None else right, letters, role_of)
    batch = tuple(letters.sizes(left, right)[c] for c in letters.batch)
    batch_roles = tuple(role_of.get(c) for c in letters.batch)
    pair = Pair(*letters.as_matrices(left, right), a, b, batch, batch_roles)
    return _coincidences(call, context, scans, pair, roles)


def _einsum_with_constant(
    call: Call, context: BatchContext, scans: ScanCache, x: Tensor, letters: Letters, role_of: dict[str, Role]
) -> Outcome:
    """The outcome of an einsum of ``x`` and a constant: a linear layer."""
    left, right = tensors_in(call.args[1:])
    sizes, weight, free = (
        letters.sizes(left, right),
        right if x is left else left,
        letters.n if x is left else letters.m,
    )
    trace = known_trace(call, x)
    record = record_of(call, context, "linear", [trace])
    record.weight_name = weight_name(weight, context)
    for letter in letters.summed:
        require_features(record.layer, role_of.get(letter))
    reduction, fan_out = (math.prod(sizes[c] for c in group) for group in (letters.summed, free))
    positions = x.numel() // max(1, context.shape.rows(trace.timed) * reduction)
    geometry = linear_geometry(positions, reduction, fan_out, weight_elements(weight), 0)
    roles = tuple(role_of.get(c) for c in letters.result)
    return linear_outcome(record, geometry, x, trace, call.out, roles, context, scans)
