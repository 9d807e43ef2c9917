"""The scan of a tensor: exact sums per row, and the set of its values.

Without a proven bound the values themselves decide. A scan is reduced immediately to sums per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import (
    FLOAT32_BITS,
    ZERO,
    ValueSet,
    multiples_of,
    normalised_set,
    real_not_multiples,
    real_values,
    value_set_of,
)
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.exact_sums import BYTE_MAX, byte_sum, sums_exactly, unit_sum

INT8_MAX = 127
SAMPLE = 2048  # values sampled before the whole tensor is read; they can prove "real" or "factor 1", never "binary"
SAMPLE_RUN = 32  # of multiples: adjacent values at about SAMPLE / SAMPLE_RUN places


@dataclass
class NonzeroSums:
    """Sums over the channels of one tensor read as (R, C, P): rows, channels, positions.

    nonzeros (R, P) int32; levels (R, P) int32 sums of |k| in units of ``values``, None if all k are 1 or the
    values are real. ``values`` is None if the bound determines them: {0, amplitude}.
    """

    nonzeros: Tensor
    levels: Tensor | None
    values: ValueSet | None
    bound: ValueBound

    @property
    def most_levels(self) -> int:
        """Upper bound of \\|k\\|."""
        return 1 if self.values is None else self.values.max_k or 1

    def resolve_values(self, totals: int) -> ValueSet:
        """The values of this tensor, once the number of its non-zeros is known on the host.

        Zeros alone are binary, averages too (design, rule 4); the loader's tensor is what it was declared to be.
        """
        is_declared = self.bound.loader and self.bound.reason is not None
        if totals == 0 and not is_declared:
            return ZERO
        if self.values is not None:
            return self.values
        return ValueSet(self.bound.unit, frozenset({1}))


def scan(
    x: Tensor,
    shape: tuple[int, int, int],
    bound: ValueBound,
    max_k: int,
    where: str,
    is_known_real: bool,
    dim: int = 1,
    needs_levels: bool = True,
    known: frozenset[int] = frozenset(),
    guess: ValueSet = ZERO,
) -> tuple[NonzeroSums, Tensor | None]:
    """Scan a tensor with its rows in front. x: any shape with prod = R*C*P; raises ProfilingError on NaN or inf.

    ``is_known_real``: the operand is already known to be real; then only zeros and NaN are searched for. ``dim`` is the
    axis of (R, C, P) that is summed over. ``needs_levels`` False: sums of |k| are not needed. ``max_k``: largest
    multiple that is searched for. ``known``: those of the operand in earlier batches. ``guess``: values that are
    likely, tried first. For real values the smallest and largest value are returned too, to be tested for NaN once the
    device has finished.
    """
    flat = x.reshape(shape)
    if bound.proven and bound.max_k == 1 and bound.unit is not None:
        if flat.dtype == torch.float32 and sums_exactly(bound.unit, shape[dim]):
            return NonzeroSums(unit_sum(flat, dim, bound.unit), None, None, bound), None
        return NonzeroSums(byte_sum(_nonzero(flat), dim), None, None, bound), None
    if bound.proven and bound.unit is not None:
        found = _scan_of_multiples(flat, bound, max_k, dim, needs_levels, is_known_real, known)
        if found is not None:
            return found, None
    nonzeros = byte_sum(_nonzero(flat), dim)
    if bound.reason is not None or is_known_real:
        return NonzeroSums(nonzeros, None, real_values(bound.reason or "real"), bound), _min_max(x)
    found = _scan_of_guess(flat, bound, max_k, dim, nonzeros, guess)
    if found is not None:
        return found, None
    low, high = finite_range(x, where)
    values = derived_values(flat, bound) or observed_values(flat, low, high, max_k)
    levels = None
    if values.kind == "integer" and values.unit is not None:
        levels = (flat / values.unit).round().abs().to(torch.int32).sum(dim, dtype=torch.int32)
    return NonzeroSums(nonzeros, levels, values, bound), None


def _scan_of_guess(
    flat: Tensor, bound: ValueBound, max_k: int, dim: int, nonzeros: Tensor, guess: ValueSet
) -> NonzeroSums | None:
    """Scan of values that are exact multiples of a guessed unit; None if they are not. It finds what a search finds."""
    unit = guess.unit
    if unit is None or guess.reason is not None or not guess.exact or flat.dtype != torch.float32 or not flat.numel():
        return None
    if guess.levels == {1}:
        hits = byte_sum(flat == unit, dim)
        return NonzeroSums(nonzeros, None, guess, bound) if torch.equal(hits, nonzeros) and bool(hits.any()) else None
    multiples = (flat / unit).round_()
    if not torch.equal(multiples * unit, flat):
        return None
    low, high = (float(k) for k in torch.aminmax(multiples))
    if not -max_k <= low <= high <= max_k:
        return None
    occurrences = torch.bincount((multiples - low).to(torch.int64).reshape(-1)).cpu().numpy()
    values = normalised_set(unit, {int(low) + int(k) for k in np.flatnonzero(occurrences)})
    least = min((abs(k) for k in values.levels), default=0)
    if values.unit is not None and float(np.float32(least * values.unit)) / least != values.unit:
        return None  # the search gives the unit that follows from the smallest value
    levels = None
    if values.kind == "integer" and values.unit is not None:
        sums = multiples.abs_().to(torch.int32).sum(dim, dtype=torch.int32)
        levels = sums // round(values.unit / unit)
    return NonzeroSums(nonzeros, levels, values, bound)


def _scan_of_multiples(
    flat: Tensor,
    bound: ValueBound,
    max_k: int,
    dim: int,
    needs_levels: bool,
    is_known_real: bool,
    known: frozenset[int],
) -> NonzeroSums | None:
    """Scan of proven integer multiples of ``bound.unit``: float32 sums if they are exact, else byte sums.

    None if there are more multiples than bytes hold.
    """
    unit = bound.unit or 1.0
    some = set() if is_known_real else set(known) or _sampled_levels(flat, unit)
    is_unit = math.gcd(*some) == 1  # no larger unit fits
    if is_known_real or (is_unit and max(some) > max_k):
        return NonzeroSums(byte_sum(_nonzero(flat), dim), None, real_not_multiples(max_k), bound)
    if is_unit and flat.dtype == torch.float32 and sums_exactly(unit, flat.shape[dim] * bound.max_k):
        values = _values_of_levels(unit, some | {round(float(flat.amax()) / unit)}, max_k)
        has_levels = needs_levels and values.kind == "integer"
        levels = unit_sum(flat, dim, unit) if has_levels else None
        return NonzeroSums(byte_sum(_nonzero(flat), dim), levels, values, bound)
    if bound.max_k > BYTE_MAX:
        return None
    form = torch.int8 if bound.max_k <= INT8_MAX else torch.uint8  # int8 is the faster conversion
    levels_uint8 = (
        (flat if unit == 1 else flat / unit).to(form, memory_format=torch.contiguous_format).view(torch.uint8)
    )
    values = _values_of_levels(unit, _all_levels(levels_uint8), max_k)
    levels = None
    if values.kind == "integer" and values.unit is not None:
        levels = byte_sum(levels_uint8, dim, bound.max_k) // round(values.unit / unit)
    return NonzeroSums(byte_sum(levels_uint8.to(torch.bool), dim), levels, values, bound)


def _sampled_levels(flat: Tensor, unit: float) -> set[int]:
    """Some k > 0 that occur in a (R, C, P) tensor of integer multiples k*unit, sampled from short runs."""
    rows, channels = (max(1, size // 8) for size in flat.shape[:2])
    sample = flat[::rows, ::channels, :SAMPLE_RUN].to(torch.float64).cpu().numpy()
    return {int(k) for k in np.unique(np.rint(sample / unit)) if k}


def _all_levels(levels_uint8: Tensor) -> set[int]:
    """Every k > 0 that occurs in a uint8 tensor."""
    return {int(k) for k in np.flatnonzero(np.bincount(levels_uint8.reshape(-1).cpu().numpy(), minlength=2)[1:]) + 1}


def _values_of_levels(unit: float, levels: set[int], max_k: int) -> ValueSet:
    values = normalised_set(unit, levels)
    if values.levels and max(values.levels) > max_k:
        return real_not_multiples(max_k)
    return values


def _min_max(x: Tensor) -> Tensor | None:
    return torch.stack(torch.aminmax(x)) if x.numel() and x.is_floating_point() else None


def _nonzero(x: Tensor) -> Tensor:
    return x.to(torch.bool, memory_format=torch.contiguous_format)


def finite_range(x: Tensor, where: str) -> tuple[float, float]:
    """Smallest and largest value; raises ProfilingError if a value is NaN or infinite."""
    if x.numel() == 0:
        return 0.0, 0.0
    if x.dtype == torch.bool:
        return 0.0, 1.0
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise not_finite(where)
    return low, high


def has_spikes_alone(x: Tensor) -> bool:
    """True where all values are 0 or one of c and -c."""
    if x.numel() == 0 or x.dtype == torch.bool:
        return True
    if x.is_complex():
        return False
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    return observed_values(x, low, high, 1).kind in ("binary", "ternary")


def not_finite(where: str) -> ProfilingError:
    """The error for NaN or infinity."""
    return ProfilingError(f"{where}: reads NaN or infinite values; nothing can be counted on them")


def derived_values(x: Tensor, bound: ValueBound) -> ValueSet | None:
    """The ValueSet of a tensor of sums of spikes of known amplitude; None if the values do not fit their bound.

    Adding up n spikes rounds n - 1 times, so that their sum may be as many ulp away from the multiple that it is.
    """
    if bound.unit is None or bound.unit <= 0:
        return None
    values = torch.unique(x.reshape(-1)).to(torch.float64).cpu().numpy()
    values = values[values != 0]
    found = multiples_of(values, bound.unit, significant_bits(x.dtype), bound.max_k) if len(values) else ZERO
    return None if found is None or max(found.levels, default=0) > bound.max_k else found


def observed_values(x: Tensor, low: float, high: float, max_k: int) -> ValueSet:
    """The ValueSet of a tensor, determined from its values: exact for binary and ternary, 4 ulp for integers."""
    if low == 0 and high == 0:
        return ZERO
    if x.dtype == torch.bool:
        return ValueSet(1.0, frozenset({1}))
    flat = x.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLE)].to(torch.float64).cpu().numpy()
    bits = significant_bits(x.dtype)
    guess = value_set_of(np.unique(np.append(sample, [low, high])), max_k, bits)
    if guess.reason is not None:
        return guess
    if guess.levels <= {-1, 1} and guess.exact:
        unit = max(abs(low), abs(high))
        hits = (x == unit) | (x == -unit) | (x == 0)
        if bool(hits.all()):
            return guess
    return value_set_of(torch.unique(flat).to(torch.float64).cpu().numpy(), max_k, bits)


def shows_few_values(scans: Sequence[NonzeroSums], nonzeros: NDArray[np.int64], elements: int) -> bool:
    """True where the calls of an operand show that it has few values, not that one real number is all there was.

    A computed operand shows it by several equal numbers beside a zero, in one sample and step; any other one by being
    no zero. nonzeros: (rows of all calls, samples). elements: of one sample and step.
    """
    for scan, found in zip(scans, nonzeros.reshape(len(scans), -1), strict=True):
        counts = (found >= 2) & (found < elements) if scan.bound.is_computed else found
        if counts.any():
            return True
    return False


def significant_bits(dtype: torch.dtype) -> int:
    """Significant bits of a format: 24 of float32 and of all that are finer, 11 of float16, 8 of bfloat16."""
    return min(FLOAT32_BITS, 1 - round(math.log2(torch.finfo(dtype).eps))) if dtype.is_floating_point else FLOAT32_BITS
