"""Bounds of values before they are read: derived from their origin, and propagated through sums, scales and products.

A bound is derived (spikes of a known neuron are {0, amplitude}; the sum of two is {0, c, 2c}), never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ValueBound:
    """unit, max_k: every value is k*unit with 0 <= k <= max_k (exactly, if ``proven``). None: unknown.

    ``reason`` forces real (an average of spikes, a sum of unequal V_th). ``loader``: the values are the loader's.
    ``is_grey``: they hold grey levels of the loader, more than two or three values; so do sums with them.
    """

    unit: float | None = None
    max_k: int = 0
    proven: bool = False
    reason: str | None = None
    loader: bool = False
    is_grey: bool = False


NOTHING = ValueBound()
AVERAGE_OF_SPIKES = "average of spikes"


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
        return bound_of_new_values([a, b])
    if a.unit != b.unit:
        return ValueBound(reason=f"residual sum of unequal spike amplitudes {a.unit:g} and {b.unit:g}")
    max_k = a.max_k + b.max_k
    return ValueBound(a.unit, max_k, a.proven and b.proven and is_exact(a.unit, max_k))


def bound_of_scale(a: ValueBound, factor: float) -> ValueBound:
    """Bound of a * factor, a float32 multiplication."""
    if a.unit is None or not math.isfinite(factor) or factor <= 0:
        return replace(a, unit=None, max_k=0, proven=False)
    unit = float(np.float32(a.unit) * np.float32(factor))
    return replace(a, unit=unit, proven=a.proven and unit > 0 and is_exact(unit, a.max_k))


def reason_of_average(a: ValueBound, name: str) -> str:
    """Why the average of values with bound ``a``, by the function ``name``, is real: of spikes, or of other values."""
    if a.reason is not None and a.reason.startswith(AVERAGE_OF_SPIKES):
        return a.reason
    return f"{AVERAGE_OF_SPIKES if a.unit is not None else 'average of values not known to be spikes'} ({name})"


def bound_of_product(a: ValueBound, b: ValueBound, reduction: int) -> ValueBound:
    """Bound of a sum of ``reduction`` products a*b."""
    if a.unit is None or b.unit is None:
        return NOTHING
    unit, max_k = float(np.float32(a.unit) * np.float32(b.unit)), a.max_k * b.max_k * reduction
    return ValueBound(unit, max_k, a.proven and b.proven and is_exact(unit, max_k))


def bound_of_union(bounds: Sequence[ValueBound], parts: int) -> ValueBound:
    """Bound of values joined from so many tensors, of which those with a bound stem from the loader."""
    new = bound_of_new_values(bounds)
    if new.reason:
        return new
    loader = new.loader or (bool(bounds) and all(b.loader for b in bounds))
    if len(bounds) < parts or len({b.unit for b in bounds}) != 1 or bounds[0].unit is None:
        return replace(new, loader=loader)
    proven = all(b.proven for b in bounds)
    return ValueBound(bounds[0].unit, max(b.max_k for b in bounds), proven, None, loader, new.is_grey)


def bound_of_new_values(bounds: Sequence[ValueBound]) -> ValueBound:
    """Bound of values computed from others in any way: real for the first reason, grey where one of them is."""
    is_grey = any(b.is_grey for b in bounds)
    return ValueBound(reason=next((b.reason for b in bounds if b.reason), None), loader=is_grey, is_grey=is_grey)
