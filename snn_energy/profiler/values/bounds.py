"""Bounds of values before they are read: derived from their origin, and propagated through sums, scales and products.

A bound is derived (spikes of a known neuron are {0, amplitude}; the sum of two is {0, c, 2c}), never guessed. Where the
unit is unknown (a neuron written by hand), the number of spikes that were added up is still known from the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ValueBound:
    """unit, max_k: every value is k*unit with 0 <= k <= max_k (exactly, if ``proven``). None: unknown.

    Without a unit, ``max_k`` is the number of spikes that the graph adds up at most; 0 if it adds up something else.
    ``reason`` forces real (an average of spikes, a sum of unequal V_th). ``loader``: the values are the loader's.
    ``is_grey``: they hold grey levels of the loader, more than two or three values; so do sums with them.
    ``is_computed``: real arithmetic made them (weights, a norm, an exponential), so that a single value in the data at
    hand does not show that there are only two; a comparison or a neuron ends it.
    """

    unit: float | None = None
    max_k: int = 0
    proven: bool = False
    reason: str | None = None
    loader: bool = False
    is_grey: bool = False
    is_computed: bool = False


NOTHING = ValueBound()
COMPUTED = ValueBound(is_computed=True)
AVERAGE_OF_SPIKES = "average of spikes"


FLOOR_MAX_K = 10  # 2 * blocks + 2 for 4 blocks (design, rule 4): multiples that are integer whatever adds them up


SEVERAL_SPIKES = ValueBound(max_k=FLOOR_MAX_K)  # of a neuron whose values must be read
MOST_MULTIPLES = 255  # largest multiple that a declared integer input may hold, and that is searched for


def limit_of(bound: ValueBound, max_k: int | None) -> int:
    """The largest multiple that counts as integer: ``max_k`` if it is given, else what the graph adds up."""
    return max(FLOOR_MAX_K, bound.max_k) if max_k is None else max_k


def searched_for(limit: int, is_loader: bool) -> int:
    """The largest multiple that is searched for: beyond the limit too, to tell why values are real."""
    return limit if is_loader else max(limit, MOST_MULTIPLES)


def spikes(amplitude: float) -> ValueBound:
    """Bound of a known neuron's output: 0 or the float32 amplitude."""
    return ValueBound(float(np.float32(amplitude)), 1, True)


def is_exact(unit: float, max_k: int) -> bool:
    """True if float32 holds every k*unit with k <= max_k exactly: unit a power of two, max_k < 2^24; or max_k <= 1."""
    return max_k <= 1 or (math.frexp(unit)[0] == 0.5 and max_k < 2**24)


def bound_of_sum(a: ValueBound, b: ValueBound) -> ValueBound:
    """Bound of a + b."""
    if a.reason or b.reason:
        return ValueBound(reason=a.reason or b.reason)
    if a.unit is None or b.unit is None:
        return bound_of_new_values([a, b], a.max_k + b.max_k if a.max_k and b.max_k else 0)
    if a.unit != b.unit:
        return ValueBound(reason=f"residual sum of unequal spike amplitudes {a.unit:g} and {b.unit:g}")
    max_k = a.max_k + b.max_k
    return ValueBound(a.unit, max_k, a.proven and b.proven and is_exact(a.unit, max_k))


def bound_of_scale(a: ValueBound, factor: float) -> ValueBound:
    """Bound of a * factor, a float32 multiplication."""
    if a.unit is None or not math.isfinite(factor) or factor <= 0:
        return replace(a, unit=None, proven=False)
    unit = float(np.float32(a.unit) * np.float32(factor))
    return replace(a, unit=unit, proven=a.proven and unit > 0 and is_exact(unit, a.max_k))


def reason_of_average(a: ValueBound, name: str) -> str:
    """Why the average of values with bound ``a``, by the function ``name``, is real: of spikes, or of other values."""
    if a.reason is not None and a.reason.startswith(AVERAGE_OF_SPIKES):
        return a.reason
    return f"{AVERAGE_OF_SPIKES if a.unit is not None else 'average of values not known to be spikes'} ({name})"


def bound_of_product(a: ValueBound, b: ValueBound, reduction: int) -> ValueBound:
    """Bound of a sum of ``reduction`` products a*b."""
    max_k = a.max_k * b.max_k * reduction
    if a.unit is None or b.unit is None:
        return ValueBound(max_k=max_k, is_computed=a.is_computed or b.is_computed)
    unit = float(np.float32(a.unit) * np.float32(b.unit))
    return ValueBound(unit, max_k, a.proven and b.proven and is_exact(unit, max_k))


def bound_of_union(bounds: Sequence[ValueBound], parts: int) -> ValueBound:
    """Bound of values joined from so many tensors, of which those with a bound stem from the loader."""
    new = bound_of_new_values(bounds, max((b.max_k for b in bounds), default=0))
    if new.reason:
        return new
    loader = new.loader or (bool(bounds) and all(b.loader for b in bounds))
    if len(bounds) < parts or len({b.unit for b in bounds}) != 1 or bounds[0].unit is None:
        return replace(new, loader=loader)
    proven = all(b.proven for b in bounds)
    return ValueBound(bounds[0].unit, max(b.max_k for b in bounds), proven, None, loader, new.is_grey)


def bound_of_new_values(bounds: Sequence[ValueBound], max_k: int = 0) -> ValueBound:
    """Bound of values computed from others in any way: real for the first reason, grey where one of them is.

    max_k: spikes that they add up at most, 0 if they are no such sums.
    """
    is_grey, is_computed = any(b.is_grey for b in bounds), any(b.is_computed for b in bounds)
    reason = next((b.reason for b in bounds if b.reason), None)
    return ValueBound(None, max_k, False, reason, loader=is_grey, is_grey=is_grey, is_computed=is_computed)


def bound_of_choice(bounds: Sequence[ValueBound]) -> ValueBound:
    """Bound of values that are each one of these: a maximum, parts written over others."""
    return bound_of_new_values(bounds, max((b.max_k for b in bounds), default=0))
