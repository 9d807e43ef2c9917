"""Statistics of the inputs of one spiking layer, step by step: mean, histogram, cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_energy.core.errors import ProfilingError

RANGE = 8.0  # V_th; inputs beyond it fall into the open bins
MOST_BINS = 10_000
LARGEST = 1e150  # squares of larger values overflow float64


@dataclass(frozen=True)
class StepStatistics:
    """Sums over the inputs of one layer at one time step, of one batch or of several (``merge``).

    count: inputs (neurons x samples); squares: sum of squared deviations from the mean; above: inputs > V_th;
    histogram: (bins + 2,) counts, the open bins outermost; cosine_sum: over the ``cosine_samples`` samples that have
    one; equals_first_step: whether every input equals the first step's bit for bit. Inputs are in the network's own
    unit.
    """

    count: int
    mean: float
    squares: float
    low: float
    high: float
    above: int
    histogram: NDArray[np.int64]
    cosine_sum: float
    cosine_samples: int
    cosine_undefined: int
    equals_first_step: bool


def step_statistics(x: Tensor, first: Tensor, level: float, bins: int) -> StepStatistics:
    """The statistics of one batch. x, first: (B, ...) inputs at a step and at step 0, not empty; level: V_th.

    Raises ProfilingError for NaN, infinite and too large values.
    """
    own, start = x.reshape(len(x), -1), first.reshape(len(first), -1)
    wide, wide_start = own.double(), start.double()
    low, high = (float(value) for value in wide.aminmax())
    if not (abs(low) <= LARGEST and abs(high) <= LARGEST):  # also false for NaN
        raise ProfilingError(f"inputs from {low} to {high}; fix the weights or the data, they must be finite")
    mean = wide.mean()
    cosines = sample_cosines(wide, wide_start)
    defined = cosines[~cosines.isnan()]
    return StepStatistics(
        count=wide.numel(),
        mean=float(mean),
        squares=float((wide - mean).square().sum()),
        low=low,
        high=high,
        above=int((own > level).sum()),
        histogram=histogram(wide / level, bins),
        cosine_sum=float(defined.sum()),
        cosine_samples=len(defined),
        cosine_undefined=len(cosines) - len(defined),
        equals_first_step=bool(torch.equal(own, start)),
    )


def histogram(inputs_in_v_th: Tensor, bins: int) -> NDArray[np.int64]:
    """(bins + 2,) counts of inputs in units of V_th: < -8, ``bins`` equal bins of low <= x < high over -8..8, >= 8.

    inputs_in_v_th: float64, finite, any shape. Bin k + bins/2 of the inner ones holds k <= x * bins/16 < k + 1: the
    product of a single-precision number and bins/16 is exact in float64, so rounding puts no input into a wrong bin.
    """
    scaled = inputs_in_v_th.flatten() * (bins / (2 * RANGE))
    if bins % 2:
        scaled += 0.5
    inner = scaled.floor_().add_(bins // 2).clamp_(-1, bins)
    counts: NDArray[np.int64] = torch.bincount(inner.int().add_(1), minlength=bins + 2).cpu().numpy()
    return counts


def sample_cosines(a: Tensor, b: Tensor) -> Tensor:
    """(B, N) and (B, N) -> (B,) cosines of the rows, in -1..1; NaN where either row is all zeros."""
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosines: Tensor = (torch.linalg.vecdot(a, b, dim=1) / norms).clamp(-1, 1)  # 0/0 is NaN, which clamp keeps
    return cosines


def merge(a: StepStatistics, b: StepStatistics) -> StepStatistics:
    """The statistics of both batches together; mean and squares by Chan, Golub and LeVeque's update."""
    count, delta = a.count + b.count, b.mean - a.mean
    return StepStatistics(
        count=count,
        mean=a.mean + delta * b.count / count,
        squares=a.squares + b.squares + delta * delta * a.count * b.count / count,
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        above=a.above + b.above,
        histogram=a.histogram + b.histogram,
        cosine_sum=a.cosine_sum + b.cosine_sum,
        cosine_samples=a.cosine_samples + b.cosine_samples,
        cosine_undefined=a.cosine_undefined + b.cosine_undefined,
        equals_first_step=a.equals_first_step and b.equals_first_step,
    )
