"""What is known of the tensor an operation reads: a claim that came with it, and the scan that decides.

A claim is a proof by origin (spikes of a known neuron are {0, amplitude}; two such summed are {0, c, 2c}), never a
guess; without one the values themselves are looked at. Scans reduce at once to sums per row and keep no activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import ZERO, Values, from_values, normalised, not_multiples, real
from snn_energy.profiler.counting import BYTE_MAX, byte_sum, sums_exactly, unit_sum

INT8_MAX = 127
SAMPLE = 2048  # values looked at before a whole tensor is; they can prove "real" or "factor 1", never "binary"
SAMPLE_RUN = 32  # of multiples: neighbours at some SAMPLE / SAMPLE_RUN places


@dataclass(frozen=True)
class Claim:
    """unit, max_k: every value is k*unit with 0 <= k <= max_k (exactly so where ``proven``). None: nothing known.

    ``reason`` forces real (an average of spikes, a sum of unequal V_th). ``loader``: the values are the loader's.
    """

    unit: float | None = None
    max_k: int = 0
    proven: bool = False
    reason: str | None = None
    loader: bool = False


NOTHING = Claim()
AVERAGE_OF_SPIKES = "average of spikes"


def spikes(amplitude: float) -> Claim:
    """The claim of a known neuron's output: 0 or the float32 amplitude."""
    return Claim(float(np.float32(amplitude)), 1, True)


def is_exact(unit: float, max_k: int) -> bool:
    """True where every k*unit, k <= max_k, is a float32 and so are all their sums: unit a power of two."""
    return max_k <= 1 or (math.frexp(unit)[0] == 0.5 and max_k < 2**24)


def claim_of_sum(a: Claim, b: Claim) -> Claim:
    """Claim of a + b."""
    if a.reason or b.reason:
        return Claim(reason=a.reason or b.reason)
    if a.unit is None or b.unit is None:
        return Claim(loader=a.loader or b.loader)
    if a.unit != b.unit:
        return Claim(reason=f"residual sum of unequal spike amplitudes {a.unit:g} and {b.unit:g}")
    max_k = a.max_k + b.max_k
    return Claim(a.unit, max_k, a.proven and b.proven and is_exact(a.unit, max_k))


def claim_of_scale(a: Claim, factor: float) -> Claim:
    """Claim of a * factor, a float32 multiplication."""
    if a.unit is None or not math.isfinite(factor) or factor <= 0:
        return replace(a, unit=None, max_k=0, proven=False)
    unit = float(np.float32(a.unit) * np.float32(factor))
    return replace(a, unit=unit, proven=a.proven and unit > 0 and is_exact(unit, a.max_k))


def reason_of_average(a: Claim, name: str) -> str:
    """Why the average of values with claim ``a``, taken by the function ``name``, is real: of spikes, or of others."""
    if a.reason is not None and a.reason.startswith(AVERAGE_OF_SPIKES):
        return a.reason
    return f"{AVERAGE_OF_SPIKES if a.unit is not None else 'average of values not known to be spikes'} ({name})"


def claim_of_product(a: Claim, b: Claim, reduction: int) -> Claim:
    """Claim of a sum of ``reduction`` products a*b."""
    if a.unit is None or b.unit is None:
        return NOTHING
    unit, max_k = float(np.float32(a.unit) * np.float32(b.unit)), a.max_k * b.max_k * reduction
    return Claim(unit, max_k, a.proven and b.proven and is_exact(unit, max_k))


@dataclass
class Scan:
    """Sums over the channels of one tensor seen as (R, C, P): rows, channels, positions.

    nonzeros (R, P) int32; levels (R, P) int32 sums of |k| in units of ``values``, None where all k are 1 or the
    values are real. ``values`` is None where the claim says all: {0, amplitude}.
    """

    nonzeros: Tensor
    levels: Tensor | None
    values: Values | None
    claim: Claim

    def settle(self, totals: int) -> Values:
        """The values of this tensor, once the number of its non-zeros is known on the host."""
        if self.values is not None:
            return self.values
        if totals == 0:
            return ZERO
        return Values(self.claim.unit, frozenset({1}))


def scan(
    x: Tensor,
    shape: tuple[int, int, int],
    claim: Claim,
    max_k: int,
    where: str,
    stays_real: bool,
    dim: int = 1,
    with_levels: bool = True,
    known: frozenset[int] = frozenset(),
) -> tuple[Scan, Tensor | None]:
    """Scan a tensor whose rows lie in front. x: any shape with prod = R*C*P; raises ProfilingError on NaN or inf.

    ``stays_real`` tells that the operand is known to be real already: then only zeros and NaN are looked for.
    ``dim`` is the axis of (R, C, P) that is summed over. ``with_levels`` False: sums of |k| are not asked for.
    ``known`` are multiples that the same operand had in earlier batches.
    Where only zeros are looked for, the smallest and largest value come back as well, to be tested for NaN when the
    device is done.
    """
    flat = x.reshape(shape)
    if claim.proven and claim.max_k == 1 and claim.unit is not None:
        if flat.dtype == torch.float32 and sums_exactly(claim.unit, shape[dim]):
            return Scan(unit_sum(flat, dim, claim.unit), None, None, claim), None
        return Scan(byte_sum(_nonzero(flat), dim), None, None, claim), None
    if claim.proven and claim.unit is not None and claim.max_k <= BYTE_MAX:
        return _scan_of_multiples(flat, claim, max_k, dim, with_levels, stays_real, known), None
    nonzeros = byte_sum(_nonzero(flat), dim)
    if claim.reason is not None or stays_real:
        return Scan(nonzeros, None, real(claim.reason or "real"), claim), _extremes(x)
    values = observed_values(flat, *finite_range(x, where), max_k)
    levels = None
    if values.kind == "integer" and values.unit is not None:
        levels = (flat / values.unit).round().abs().to(torch.int32).sum(dim, dtype=torch.int32)
    return Scan(nonzeros, levels, values, claim), None


def _scan_of_multiples(
    flat: Tensor, claim: Claim, max_k: int, dim: int, with_levels: bool, stays_real: bool, known: frozenset[int]
) -> Scan:
    """Scan of proven whole multiples of ``claim.unit``: sums in float32 where exact, else of bytes."""
    unit = claim.unit or 1.0
    some = set() if stays_real else set(known) or _sampled_levels(flat, unit)
    is_unit = math.gcd(*some) == 1  # no larger unit can do
    if stays_real or (is_unit and max(some) > max_k):
        return Scan(byte_sum(_nonzero(flat), dim), None, not_multiples(max_k), claim)
    if is_unit and flat.dtype == torch.float32 and sums_exactly(unit, flat.shape[dim] * claim.max_k):
        values = _values_of_levels(unit, some | {round(float(flat.amax()) / unit)}, max_k)
        has_levels = with_levels and values.kind == "integer"
        levels = unit_sum(flat, dim, unit) if has_levels else None
        return Scan(byte_sum(_nonzero(flat), dim), levels, values, claim)
    form = torch.int8 if claim.max_k <= INT8_MAX else torch.uint8  # int8 is the faster conversion
    k8 = (flat if unit == 1 else flat / unit).to(form, memory_format=torch.contiguous_format).view(torch.uint8)
    values = _values_of_levels(unit, _all_levels(k8), max_k)
    levels = None
    if values.kind == "integer" and values.unit is not None:
        levels = byte_sum(k8, dim, claim.max_k) // round(values.unit / unit)
    return Scan(byte_sum(k8.to(torch.bool), dim), levels, values, claim)


def _sampled_levels(flat: Tensor, unit: float) -> set[int]:
    """Some k > 0 that occur in a (R, C, P) tensor of whole multiples k*unit: those of short runs here and there."""
    rows, channels = (max(1, size // 8) for size in flat.shape[:2])
    sample = flat[::rows, ::channels, :SAMPLE_RUN].cpu().numpy().astype(np.float64)
    return {int(k) for k in np.unique(np.rint(sample / unit)) if k}


def _all_levels(k8: Tensor) -> set[int]:
    """Every k > 0 that occurs in a uint8 tensor."""
    return {int(k) for k in np.flatnonzero(np.bincount(k8.reshape(-1).cpu().numpy(), minlength=2)[1:]) + 1}


def _values_of_levels(unit: float, levels: set[int], max_k: int) -> Values:
    values = normalised(unit, levels)
    if values.levels and max(values.levels) > max_k:
        return not_multiples(max_k)
    return values


def _extremes(x: Tensor) -> Tensor | None:
    return torch.stack(torch.aminmax(x)) if x.numel() and x.is_floating_point() else None


def _nonzero(x: Tensor) -> Tensor:
    return x.to(torch.bool, memory_format=torch.contiguous_format)


def finite_range(x: Tensor, where: str) -> tuple[float, float]:
    """Smallest and largest value; raises ProfilingError where a value is NaN or infinite."""
    if x.numel() == 0:
        return 0.0, 0.0
    if x.dtype == torch.bool:
        return 0.0, 1.0
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise not_finite(where)
    return low, high


def not_finite(where: str) -> ProfilingError:
    """The error for NaN or infinity."""
    return ProfilingError(f"{where}: reads NaN or infinite values; nothing can be counted on them")


def observed_values(x: Tensor, low: float, high: float, max_k: int) -> Values:
    """Decide the values of a tensor by looking at them: exact for binary and ternary, 4 ulp for integers."""
    if low == 0 and high == 0:
        return ZERO
    if x.dtype == torch.bool:
        return Values(1.0, frozenset({1}))
    flat = x.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLE)].to(torch.float64).cpu().numpy()
    guess = from_values(np.unique(np.append(sample, [low, high])), max_k)
    if guess.reason is not None:
        return guess
    if guess.levels <= {-1, 1} and guess.exact:
        unit = max(abs(low), abs(high))
        hits = (x == unit) | (x == -unit) | (x == 0)
        if bool(hits.all()):
            return guess
    return from_values(torch.unique(flat).to(torch.float64).cpu().numpy(), max_k)
