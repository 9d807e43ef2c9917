"""What skipping masked time steps saves, against a device that runs every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from snn_energy.counts.transforms import run_masked_steps

if TYPE_CHECKING:
    from snn_energy.pricing.energy import Energy


def skipping_savings(energy: Energy) -> pd.DataFrame:
    """Savings of skipping masked steps: all steps run, only those with an active source, only those also needed.

    Columns: steps, cycles, latency_s, total_pj, and both over those of a device that runs every step.
    """
    found = []
    variants = (
        ("all T_max", energy._with_counts(run_masked_steps(energy.counts))),
        ("input side", energy),
        ("input and output side", energy.of_needed_steps()),
    )
    base = variants[0][1]
    for name, e in variants:
        latency, first = e.latency, base.latency
        found.append(
            {
                "steps": name,
                "cycles": None if latency is None else latency.cycles,
                "latency_s": None if latency is None else latency.seconds,
                "total_pj": e.total_pj,
                "time_ratio": None if latency is None or first is None else _ratio(latency.cycles, first.cycles),
                "energy_ratio": _ratio(e.total_pj, base.total_pj),
            }
        )
    return pd.DataFrame(found)


def _ratio(part: float, whole: float) -> float:
    """part / whole; NaN if the whole is 0."""
    return part / whole if whole else float("nan")
