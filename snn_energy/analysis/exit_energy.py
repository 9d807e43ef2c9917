"""Early exit per sample: an inference stops at the first time step at which the network is confident of its answer.

SEENN-I (Li, Geller, Kim, Panda, *SEENN: Towards Temporal Spiking Early-Exit Neural Networks*, NeurIPS 2023): the
confidence after step t is the largest softmax of the mean of the logits of steps 1 to t; the first step at which it is
above the threshold is a sample's last one. (The authors' test script sums the logits instead of averaging them: the
same threshold then stops earlier.)

Spiking neurons are causal: up to its last step, a sample behaves as in a run of all steps. So one set of per-sample
counts is split into counts of the samples that stop at the same step (``early_exit``), and every threshold is priced
without running the network again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import CountsError, SnnEnergyError
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import PER_SAMPLE
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.energy import Energy, estimate
from snn_energy.pricing.policies import EstimateOptions

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
EQUAL_PER_SAMPLE = ("dense_macs", "elementwise_ops", "membrane_reads", "membrane_writes")  # the same for every sample
WHOLE_RUN_KEYS = ("accuracy", "per_sample", "content_sha256", "file")  # header entries that do not hold for a part


def confidences(logits: npt.ArrayLike) -> FloatArray:
    """(T, samples): the largest softmax of the mean of the logits up to each step. logits: (T, samples, classes)."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise SnnEnergyError(f"logits must have the shape (T, samples, classes), not {values.shape}")
    if not np.isfinite(values).all():
        raise SnnEnergyError("logits must be finite numbers; NaN has no confidence")
    means = running_means(values)
    shares = np.exp(means - means.max(axis=2, keepdims=True))
    return np.asarray(1.0 / shares.sum(axis=2))  # the largest share is exp(0) = 1


def running_means(logits: npt.ArrayLike) -> FloatArray:
    """(T, samples, classes): the mean of the logits up to and including each step."""
    values = np.asarray(logits, dtype=np.float64)
    return np.asarray(values.cumsum(axis=0) / np.arange(1, len(values) + 1)[:, None, None])


def stop_steps(logits: npt.ArrayLike, threshold: float) -> IntArray:
    """(samples,) the number of time steps, 1 to T, that each sample runs. logits: (T, samples, classes).

    The first step whose confidence is above the threshold, else T; a threshold of 1 stops nothing early.
    Raises SnnEnergyError for a threshold outside (0, 1].
    """
    check_threshold(threshold)
    is_confident = confidences(logits) > threshold
    is_confident[-1] = True
    return np.asarray(is_confident.argmax(axis=0) + 1, dtype=np.int64)


def early_exit(counts: Counts, steps: npt.ArrayLike) -> dict[int, Counts]:
    """Split counts by exit time t: the samples that stop there, and their rows of steps 1 to t.

    steps: (samples,) integers from 1 to T (``stop_steps``). The result equals the counts of a run of t steps over those
    samples, to the integer, with three exceptions that depend on the run of all samples: the kinds of inputs and max_k
    are those of all steps and samples (a least upper bound), ``sops_multi`` of integers is in their unit,
    ``input_levels`` of integers are unknown, as they are not kept for each sample, and
    ``needed`` states what all T steps need. Rows of work that is done once per inference (time step -1) are kept
    unchanged: a head that reads the mean over T steps reads no fewer non-zeros than one over t steps, and must run at
    every step for its confidence to be known. ``profile_steps`` counts that head per step, and leaves no such rows.

    Raises CountsError for counts without per-sample counts, or steps that do not match them.
    """
    exit_steps = _checked_steps(counts, steps)
    found = {int(t): _counts_of_exit(counts, np.flatnonzero(exit_steps == t), int(t)) for t in np.unique(exit_steps)}
    for t, part in found.items():
        problem = first_inconsistency(part)
        if problem is not None:
            raise CountsError(f"{counts.model}: samples that stop at step {t}: {problem}: profile the network again")
    return found


@dataclass(frozen=True)
class ExitEnergy:
    """The energy of early exit on one device, per sample.

    steps: (samples,) time steps that each sample runs. parts: exit time -> energy of the samples that stop there.
    full: energy of the same samples over all T steps.
    """

    steps: IntArray
    parts: Mapping[int, Energy] = field(repr=False)
    full: Energy = field(repr=False)

    def _mean(self, part: Callable[[Energy], float]) -> float:
        return sum(e.counts.samples * part(e) for e in self.parts.values()) / len(self.steps)

    @property
    def compute_pj(self) -> float:
        """Mean energy of arithmetic per sample."""
        return self._mean(lambda energy: energy.compute_pj)

    @property
    def memory_pj(self) -> float:
        """Mean energy of memory traffic per sample."""
        return self._mean(lambda energy: energy.memory_pj)

    @property
    def total_pj(self) -> float:
        """Mean energy per sample: the parts' totals, weighted by their samples."""
        return self._mean(lambda energy: energy.total_pj)

    @property
    def ratio(self) -> float:
        """total_pj over that of a run of all T steps."""
        return self.total_pj / self.full.total_pj if self.full.total_pj else float("nan")

    @property
    def mean_steps(self) -> float:
        """Mean time steps per sample."""
        return float(self.steps.mean())

    def per_sample(self) -> pd.DataFrame:
        """sample, time_steps, compute_pj, memory_pj, total_pj of every sample, in the order of the counts."""
        tables = [
            energy.per_sample().assign(sample=np.flatnonzero(self.steps == t), time_steps=t)
            for t, energy in self.parts.items()
        ]
        table = pd.concat(tables, ignore_index=True).sort_values("sample", ignore_index=True)
        return table[["sample", "time_steps", "compute_pj", "memory_pj", "total_pj"]]

    def by_exit(self) -> pd.DataFrame:
        """One row per exit time: time_steps, samples, and compute_pj, memory_pj, total_pj per sample of that exit."""
        rows = [
            (t, energy.counts.samples, energy.compute_pj, energy.memory_pj, energy.total_pj)
            for t, energy in self.parts.items()
        ]
        return pd.DataFrame(rows, columns=["time_steps", "samples", "compute_pj", "memory_pj", "total_pj"])

    def spread(self) -> dict[str, float]:
        """Mean, standard deviation (over samples), smallest and largest total_pj."""
        totals = self.per_sample()["total_pj"].to_numpy(dtype=np.float64)
        return {
            "mean_pj": float(totals.mean()),
            "std_pj": float(totals.std()),
            "min_pj": float(totals.min()),
            "max_pj": float(totals.max()),
        }


def exit_energy(
    counts: Counts, steps: npt.ArrayLike, hardware: str | Path | HardwareProfile, **policies: Unpack[EstimateOptions]
) -> ExitEnergy:
    """Price an inference whose samples stop at ``steps``. policies: the options of ``estimate``.

    Raises CountsError (see ``early_exit``) and what ``estimate`` raises.
    """
    device = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    parts = {t: estimate(part, device, **policies) for t, part in early_exit(counts, steps).items()}
    return ExitEnergy(_checked_steps(counts, steps), parts, estimate(counts, device, **policies))


def exit_accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike, steps: npt.ArrayLike) -> float:
    """Accuracy (0..1) at each sample's last step. The answer is the class with the largest mean logit.

    logits: (T, samples, classes); labels, steps: (samples,). Raises SnnEnergyError if their sizes differ.
    """
    means, wanted, last = running_means(logits), np.asarray(labels), np.asarray(steps)
    if wanted.shape != (means.shape[1],) or last.shape != wanted.shape:
        raise SnnEnergyError(f"labels {wanted.shape} and steps {last.shape} must be ({means.shape[1]},) as the logits")
    answers = means[last - 1, np.arange(len(wanted))].argmax(axis=1)
    return float((answers == wanted).mean())


def exit_table(
    counts: Counts,
    logits: npt.ArrayLike,
    labels: npt.ArrayLike | None,
    thresholds: Sequence[float],
    hardware: str | Path | HardwareProfile,
    **policies: Unpack[EstimateOptions],
) -> pd.DataFrame:
    """One row per threshold: accuracy, mean_steps, energies in pJ per sample, ratio over all T steps, the spread.

    counts: of ``profile_steps``; logits: of ``step_logits`` over the same samples, (T, samples, classes).
    Raises SnnEnergyError.
    """
    values = np.asarray(logits)
    if values.ndim == 3 and values.shape[:2] != (counts.time_steps, counts.samples):
        raise SnnEnergyError(
            f"logits of {values.shape[0]} steps and {values.shape[1]} samples do not match counts of "
            f"{counts.time_steps} and {counts.samples}: run both over the same samples"
        )
    rows = []
    for threshold in thresholds:
        steps = stop_steps(values, threshold)
        found = exit_energy(counts, steps, hardware, **policies)
        spread = found.spread()
        rows.append(
            {
                "threshold": threshold,
                "accuracy": None if labels is None else exit_accuracy(values, labels, steps),
                "mean_steps": found.mean_steps,
                "compute_pj": found.compute_pj,
                "memory_pj": found.memory_pj,
                "total_pj": found.total_pj,
                "ratio": found.ratio,
                **{f"{name}_pj": spread[f"{name}_pj"] for name in ("std", "min", "max")},
            }
        )
    return pd.DataFrame(rows)


def check_threshold(threshold: float) -> None:
    """Raise SnnEnergyError for a threshold outside (0, 1]."""
    if isinstance(threshold, bool) or not 0 < threshold <= 1:
        raise SnnEnergyError(f"threshold must lie above 0 and be at most 1 (a confidence), not {threshold}")


def _counts_of_exit(counts: Counts, samples: npt.NDArray[np.intp], t: int) -> Counts:
    """Counts of some samples over their first t steps."""
    assert counts.per_sample is not None
    is_kept_row = (counts.rows["time_step"] < t).to_numpy(dtype=np.bool_)
    rows = counts.rows[is_kept_row].reset_index(drop=True)
    per_sample = {name: counts.per_sample[name][is_kept_row][:, samples] for name in PER_SAMPLE}
    for name in PER_SAMPLE:
        rows[name] = pd.Series(pd.array(per_sample[name].sum(axis=1), dtype="Int64")).mask(rows[name].isna())
    is_single = rows["input_kind"].isin(["binary", "ternary"])
    rows["input_levels"] = rows["input_nonzeros"].where(is_single)  # sums of |k| are not kept for each sample
    for name in EQUAL_PER_SAMPLE:
        uneven = (rows[name] % counts.samples).fillna(0) != 0
        if uneven.any():
            layer = rows.loc[uneven, "layer"].iloc[0]
            raise CountsError(
                f"{counts.model}: {name} of {layer} are not the same for every sample: profile the network again"
            )
        rows[name] = rows[name] // counts.samples * len(samples)
    header = {key: value for key, value in counts.header.items() if key not in WHOLE_RUN_KEYS}
    header |= {"samples": len(samples), "time_steps": t, "accuracy": None, "exit_of_time_steps": counts.time_steps}
    return dataclasses.replace(counts, header=header, rows=rows, per_sample=per_sample)


def _checked_steps(counts: Counts, steps: npt.ArrayLike) -> IntArray:
    """Steps as (samples,) integers. Raises CountsError if they do not match the counts."""
    if counts.per_sample is None:
        raise CountsError(
            f"{counts.model}: early exit needs per-sample counts, and none were kept: profile the network"
        )
    found = np.asarray(steps)
    if found.shape != (counts.samples,) or found.dtype.kind not in "iu":
        raise CountsError(
            f"{counts.model}: exit steps must be {counts.samples} whole numbers, one for every sample, not "
            f"{found.dtype} of shape {found.shape}"
        )
    if found.min() < 1 or found.max() > counts.time_steps:
        raise CountsError(
            f"{counts.model}: exit steps must lie in 1..{counts.time_steps} (T), not {found.min()}..{found.max()}"
        )
    return found.astype(np.int64)
