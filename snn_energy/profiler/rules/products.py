"""Linear layers, matrix products and einsum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from snn_energy.profiler.axes.roles import Role, broadcast_roles
from snn_energy.profiler.rules.coincidences import Factor, coincidences
from snn_energy.profiler.rules.einsum import Letters, letters_of
from snn_energy.profiler.rules.records import record_of, tensors_in
from snn_energy.profiler.rules.registry import BatchContext, Call, PartCall, decomposition, rule
from snn_energy.profiler.rules.unknown import unsupported
from snn_energy.profiler.rules.weighted import (
    has_constant_weights,
    known_trace,
    linear_geometry,
    linear_outcome,
    summed,
    weight_elements,
    weight_name,
)
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.scan_cache import ScanCache

_RIGHT = ("other", "mat2", "vec2", "tensor")  # keywords of a right operand


@rule("linear mkldnn_linear", is_layer=True)
def linear(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """x @ W.T + b over the last axis."""
    if not has_constant_weights(call):
        return unsupported(call, context)
    operands = call.bound("input", "weight", "bias")
    x, weight, bias, out = operands["input"], operands["weight"], operands.get("bias"), call.out
    trace = known_trace(call, x)
    traces = summed(x, trace, [x.dim() - 1], context.shape, call.site.place("linear").layer)
    record = record_of(call, context, "linear", [traces.counted])
    record.weight_name = weight_name(weight, context)
    reduction = int(x.shape[-1])
    outputs = weight.shape[0] if weight.dim() > 1 else 1
    positions = x.numel() // max(1, reduction * context.shape.rows(record.timed))
    geometry = linear_geometry(positions, reduction, outputs, weight.numel(), 0 if bias is None else bias.numel())
    roles = (*trace.roles[:-1], None) if out.dim() == x.dim() else trace.roles[: out.dim()]
    return linear_outcome(record, geometry, x, traces, out, roles, context, scans)


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
        return coincidences(call, context, scans, Factor(left, a, a.roles, -2), Factor(right, b, b.roles, -1))
    if a is not None or b is not None:
        return _constant_product(call, context, scans, left, right, bias)
    return unsupported(call, context)


def _constant_product(
    call: Call, context: BatchContext, scans: ScanCache, left: Tensor, right: Tensor, bias: Tensor | None
) -> Outcome:
    """x @ W or W @ x with constant W is a linear layer: every element of x meets the same number of weights."""
    out, from_left = call.out, call.trace_of(left) is not None
    x, weight = (left, right) if from_left else (right, left)
    axis = x.dim() - (1 if from_left or x.dim() < 2 else 2)
    trace = known_trace(call, x)
    traces = summed(x, trace, [axis], context.shape, call.site.place("linear").layer)
    record = record_of(call, context, "linear", [traces.counted])
    record.weight_name = weight_name(weight, context)
    reduction = int(left.shape[-1])
    fan_out = out.numel() * reduction // max(1, x.numel())
    positions = out.numel() // max(1, context.shape.rows(record.timed) * fan_out)
    biases = 0 if bias is None else weight_elements(bias)
    geometry = linear_geometry(positions, reduction, fan_out, weight_elements(weight), biases)
    roles: list[Role | None] = list(broadcast_roles([(x.shape[:-2], trace.roles[:-2])], out.shape[:-2]))
    if x.dim() >= 2 and out.dim() >= 2:
        roles += [trace.roles[-2], None] if from_left else [None, trace.roles[-1]]
    else:
        roles = list(trace.roles[:1]) if out.dim() == 1 and x.dim() == 2 else [None] * out.dim()
    return linear_outcome(record, geometry, x, traces, out, tuple(roles), context, scans)


@rule("einsum", is_layer=True)
def einsum(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Two-operand einsum as a batched product; anything else is unsupported."""
    operands = list(tensors_in(call.args[1:]))
    letters = letters_of(call.args[0], operands)
    if letters is None:
        return unsupported(call, context)
    left, right = operands
    a, b = call.trace_of(left), call.trace_of(right)
    if a is None or b is None:
        return _einsum_with_constant(call, context, scans, left if b is None else right, letters)
    matrices = letters.as_matrices(left, right)
    roles = letters.roles_as_matrices((left, right), (a.roles, b.roles), context.shape)
    outcome = coincidences(
        call, context, scans, Factor(matrices[0], a, roles[0], -2), Factor(matrices[1], b, roles[1], -1)
    )
    ((out, trace),) = outcome.traces
    return outcome._replace(
        traces=[(out, trace.replace(roles=letters.result_roles((left, right), trace.roles, context.shape)))]
    )


def _einsum_with_constant(call: Call, context: BatchContext, scans: ScanCache, x: Tensor, letters: Letters) -> Outcome:
    """The outcome of an einsum of ``x`` and a constant: a linear layer."""
    left, right = tensors_in(call.args[1:])
    is_left = x is left
    sizes, weight, own = (
        letters.sizes(left, right),
        right if is_left else left,
        letters.left if is_left else letters.right,
    )
    free = letters.n if is_left else letters.m
    axes = [own.index(letter) for letter in letters.summed]
    trace = known_trace(call, x)
    traces = summed(x, trace, axes, context.shape, call.site.place("linear").layer)
    record = record_of(call, context, "linear", [traces.counted])
    record.weight_name = weight_name(weight, context)
    reduction, fan_out = (math.prod(sizes[c] for c in group) for group in (letters.summed, free))
    positions = x.numel() // max(1, context.shape.rows(record.timed) * reduction)
    geometry = linear_geometry(positions, reduction, fan_out, weight_elements(weight), 0)
    roles = tuple(trace.roles[own.index(c)] if c in own else None for c in letters.result)
    return linear_outcome(record, geometry, x, traces, call.out, roles, context, scans)
