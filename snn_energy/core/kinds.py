"""What kind of numbers an operation reads: binary < ternary < integer < real (design rule 4).

Only the values decide. A set of values is described by its unit c and the integers k that occur (values = k*c);
the sets of several steps, samples and batches are joined with ``least_upper_bound``. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import ProfilingError
from snn_energy.core.vocabulary import Kind as Kind

KINDS: tuple[Kind, ...] = ("binary", "ternary", "integer", "real")
ULPS = 4  # a value counts as k*c if it differs by at most this many units in the last place (ulp) of its format
FLOAT32_BITS = 24  # significant bits; float64 is held to the ulp of float32
COARSE_BITS = 8  # bfloat16, of which 4 ulp are 3 %: a value counts as k*c within 1 ulp


@dataclass(frozen=True)
class ValueSet:
    """The non-zero values of an operand: {k * unit for k in levels}, or real values (``reason`` says why real).

    Empty levels mean zeros only. The unit is the largest that fits, so the levels have no common factor.
    ``exact`` is False if values within 4 ulp of k*c, but not equal to it, were accepted: such a set is never binary
    or ternary. ``bits``: significant bits of the values' format, on which the ulp depends. ``beyond``: the largest
    multiple, if the values are real only because it is above the limit (max_k).
    """

    unit: float | None = None
    levels: frozenset[int] = frozenset()
    reason: str | None = None
    exact: bool = True
    bits: int = FLOAT32_BITS
    beyond: int | None = None

    @property
    def kind(self) -> Kind:
        """The lowest kind that covers all recorded values; zeros only are binary."""
        if self.reason is not None:
            return "real"
        if not self.exact:
            return "integer"
        if len(self.levels) <= 1:
            return "binary"
        return "ternary" if self.levels == {-1, 1} else "integer"

    @property
    def max_k(self) -> int | None:
        """Largest \\|k\\|, 1 for binary and ternary, None for real."""
        if self.reason is not None:
            return None
        return max((abs(k) for k in self.levels), default=1)


ZERO = ValueSet()


def real_values(reason: str) -> ValueSet:
    """A set of kind real, with the reason why."""
    return ValueSet(reason=reason)


def within(values: ValueSet, limit: int) -> ValueSet:
    """The same set, or a real one with the reason why if it holds multiples beyond the limit."""
    largest = values.max_k or 1
    if values.reason is not None or largest <= limit:
        return values
    text = (
        f"whole multiples of one constant up to {largest}, beyond max_k {limit}: --max-k {largest} makes them integer"
    )
    return ValueSet(reason=text, beyond=largest)


def without_proof(values: ValueSet) -> ValueSet:
    """The set of an operand that real arithmetic made, where no sample shows several equal numbers beside a zero.

    A gate of one number is real whatever the data at hand are; what is a multiple of exactly 1 stays what it is.
    """
    if values.unit is None or values.unit == 1 or values.reason is not None:
        return values
    return real_values("computed by real arithmetic: few values in this data do not make it binary")


def real_not_multiples(max_k: int) -> ValueSet:
    """A real set: the values of one or more batches are not multiples k*c of one constant with \\|k\\| <= max_k."""
    return real_values(f"not multiples k*c of one constant with |k| <= {max_k}")


def normalised_set(unit: float, levels: Iterable[int], exact: bool = True, bits: int = FLOAT32_BITS) -> ValueSet:
    """Largest unit for the given levels: {2c, 4c} becomes {1, 2} times 2c; a single level becomes 1 or -1."""
    kept = frozenset(k for k in levels if k)
    if not kept:
        return ZERO
    common = math.gcd(*kept)
    return ValueSet(unit * common, frozenset(k // common for k in kept), exact=exact, bits=bits)


def value_set_of(values: npt.NDArray[np.floating], max_k: int, bits: int = FLOAT32_BITS) -> ValueSet:
    """Describe distinct values (any order, zeros allowed): the largest c with every value within 4 ulp of k*c.

    ``bits``: significant bits of the format of the values. Candidates for c are the smallest magnitude / j for
    j = 1, 2, ... max_k. A set that needs \\|k\\| > max_k is real.
    """
    magnitudes = np.unique(np.abs(values[values != 0]).astype(np.float64))
    if not len(magnitudes):
        return ZERO
    if magnitudes[-1] > magnitudes[0] * max_k * (1 + 1e-6) * max_k or len(magnitudes) > (2 * ULPS + 1) * max_k:
        return real_not_multiples(max_k)
    signed = values[values != 0].astype(np.float64)
    for j in range(1, max_k + 1):
        unit = float(magnitudes[0]) / j
        if np.rint(magnitudes[-1] / unit) > max_k:
            break
        found = multiples_of(signed, unit, bits)
        if found is not None:
            return found
    return real_not_multiples(max_k)


def multiples_of(values: npt.NDArray[np.float64], unit: float, bits: int, added: int = 1) -> ValueSet | None:
    """Non-zero distinct values as multiples of one constant, within the precision of their format; None if not.

    added: numbers of which each value is the sum, all of them rounded.
    """
    k = np.rint(values / unit)
    if not (k.all() and (np.abs(values - k * unit) <= _slack(k * unit, unit, bits, added)).all()):
        return None
    found = normalised_set(unit, {int(i) for i in k}, bits=bits)
    return replace(found, exact=len(np.unique(np.abs(values))) == len({abs(level) for level in found.levels}))


def _slack(multiples: npt.NDArray[np.float64], unit: float, bits: int, added: int) -> npt.NDArray[np.float64]:
    """By how much values may differ from multiples of ``unit``; less than an eighth of it, so that k is one number."""
    ulps = max(1 if bits <= COARSE_BITS else ULPS, added)
    ulp = np.spacing(np.abs(multiples).astype(np.float32)).astype(np.float64) * 2.0 ** (FLOAT32_BITS - bits)
    slack: npt.NDArray[np.float64] = np.minimum(ulps * ulp, unit / 8)
    return slack


def least_upper_bound(a: ValueSet, b: ValueSet, max_k: int) -> tuple[ValueSet, int, int]:
    """Least upper bound of two sets, and the factors a.unit / unit and b.unit / unit to the unit of the result.

    The factors convert sums of \\|k\\| from the old units to the new one. They are 1 if the result is real.
    """
    if a.reason is not None:
        return a, 1, 1
    if b.reason is not None:
        return b, 1, 1
    if a.unit is None:
        return b, 1, 1
    if b.unit is None:
        return a, 1, 1
    bits = min(a.bits, b.bits)
    if a.unit == b.unit:
        return replace(a, levels=a.levels | b.levels, exact=a.exact and b.exact, bits=bits), 1, 1
    common = value_set_of(np.array([a.unit, b.unit]), max_k, bits)
    if common.unit is None or common.reason is not None:
        return real_not_multiples(max_k), 1, 1
    factor_a, factor_b = round(a.unit / common.unit), round(b.unit / common.unit)
    levels = frozenset(k * factor_a for k in a.levels) | frozenset(k * factor_b for k in b.levels)
    if max(abs(k) for k in levels) > max_k:
        return real_not_multiples(max_k), 1, 1
    exact = a.exact and b.exact and (common.exact or not levels <= {-1, 1})
    return normalised_set(common.unit, levels, exact, bits), factor_a, factor_b


def check_declared_kind(values: ValueSet, declared: str | None, where: str) -> ValueSet:
    """The set of the loader's tensor: integers are real unless declared otherwise (rule 4). Raises ProfilingError."""
    if declared is None:
        return real_values("grey levels of the input are not spikes") if values.kind == "integer" else values
    if declared != "real" and KINDS.index(values.kind) > KINDS.index(declared):
        raise ProfilingError(
            f"{where}: input_kind='{declared}' was declared but the values are {values.kind}"
            f"{f' ({values.reason})' if values.reason else ''}; declare their actual kind or leave input_kind out"
        )
    return values


def bits_per_element(kind: Kind, max_k: int | None, real_bits: int) -> int:
    """Bits to store one element: binary 1, ternary 2, integer ceil(log2(max_k + 1)), real ``real_bits``."""
    if kind == "binary":
        return 1
    if kind == "ternary":
        return 2
    if kind == "integer":
        if max_k is None:
            raise ValueError("an integer operand has a largest |k|")
        return math.ceil(math.log2(max_k + 1))
    return real_bits
