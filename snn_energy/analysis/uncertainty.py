"""Which numbers of a profile a result depends on, and how far it moves if they are uncertain. No torch here.

The total is linear in each price and power, so the contribution of one is what doubling it adds: exact, without a
derivative. Widths are doubled likewise; where tensors are kept if they fit, or time is bound by bandwidth, the result
is the effect of doubling, not a derivative. The total increases with prices and powers, so their ranges give its range
by the two ends, and the ranges of ratios by the corners of the box.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from snn_energy.analysis.comparison import Comparison
from snn_energy.analysis.design_sweep import Field, Totals, is_linear, sweepable, totals
from snn_energy.core.errors import SnnEnergyError
from snn_energy.hardware.quantities import Ranged, quantities
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.charged_work import FloatArray
from snn_energy.pricing.energy import Energy

MAX_RANGES = 16


def what_matters(energy: Energy, most: int | None = None) -> pd.DataFrame:
    """How much every price, power and width of the profile moves the total, the largest first.

    Columns: number, value, unit, kind, source, moves_pj (what the total gains when the number doubles), elasticity
    (that over the total: +1 % of the number moves the total by that many %). Shares of prices and powers that are not
    multiples of the MAC add up to 1.
    """
    hardware = energy.hardware
    known = sweepable(hardware)
    keys = [k for k in known if is_linear(hardware, k) or k.startswith("widths.")]
    values = np.array([known[k].value for k in keys], dtype=np.float64)  # type: ignore[union-attr]
    table = np.tile(values, (len(keys) + 1, 1))  # the unchanged point, then one number doubled at a time
    table[np.arange(1, len(keys) + 1), np.arange(len(keys))] *= 2
    found = _totals(energy, {key: table[:, i] for i, key in enumerate(keys)}).total_pj
    deltas = found[1:] - found[0]
    frame = pd.DataFrame(
        {
            "number": keys,
            "value": values,
            "unit": [known[k].unit for k in keys],  # type: ignore[union-attr]
            "kind": [known[k].kind for k in keys],  # type: ignore[union-attr]
            "source": [known[k].source for k in keys],  # type: ignore[union-attr]
            "moves_pj": deltas,
            "elasticity": deltas / found[0] if found[0] else np.nan,
        }
    )
    frame = frame[(frame["moves_pj"] != 0) & frame["moves_pj"].notna()].sort_values(
        "moves_pj", ascending=False, kind="stable"
    )
    return frame.iloc[:most].reset_index(drop=True)


def numbers_with_range(hardware: HardwareProfile) -> dict[str, Ranged]:
    """Numbers of a profile that have a range, by their dotted keys."""
    return {
        ".".join(path): number
        for path, number in quantities(hardware)
        if isinstance(number, Ranged) and number.range is not None
    }


def energy_range(energy: Energy) -> pd.DataFrame:
    """The total with each ranged number at its two ends, and with all: number, low_pj, high_pj, width_pj.

    The row ``all`` is the range of the result. Empty for a profile without ranges.
    """
    numbers = numbers_with_range(energy.hardware)
    columns = ["number", "low_pj", "high_pj", "width_pj"]
    if not numbers:
        return pd.DataFrame(columns=columns)
    keys = list(numbers)
    now = np.array([numbers[k].value for k in keys])
    range_ends = np.array([numbers[k].range for k in keys], dtype=np.float64)  # (keys, 2)
    points = [range_ends[:, 0], range_ends[:, 1]]
    for i in range(len(keys)):
        points += [np.where(np.arange(len(keys)) == i, range_ends[:, end], now) for end in (0, 1)]
    table = np.stack(points)
    found = _totals(energy, {key: table[:, i] for i, key in enumerate(keys)}).total_pj.reshape(-1, 2)
    frame = pd.DataFrame({"number": ["all", *keys], "low_pj": found[:, 0], "high_pj": found[:, 1]})
    frame["width_pj"] = frame["high_pj"] - frame["low_pj"]
    return frame


def ratio_range(comparison: Comparison) -> pd.DataFrame:
    """CE, ME and TE of every network over all corners of the profile's ranges: model, ce, ce_low, ce_high, me, ... .

    A ratio of two linear functions is monotonic in each number, so the corners hold its extremes. Raises SnnEnergyError
    beyond ``MAX_RANGES`` ranged numbers. Empty for a profile without ranges.
    """
    numbers = numbers_with_range(comparison.hardware)
    if not numbers:
        return pd.DataFrame(columns=["model"])
    if len(numbers) > MAX_RANGES:
        raise SnnEnergyError(f"{len(numbers)} numbers with ranges have too many corners; at most {MAX_RANGES}")
    corners = [[n.value for n in numbers.values()], *itertools.product(*(n.range or () for n in numbers.values()))]
    table = np.array(corners, dtype=np.float64)
    points = {key: table[:, i] for i, key in enumerate(numbers)}
    found = {label: _totals(energy, points) for label, energy in comparison.energies.items()}
    base = found[comparison.baseline]
    rows = []
    for label, t in found.items():
        row: dict[str, object] = {"model": label}
        for name, kind in (("ce", "compute_pj"), ("me", "memory_pj"), ("te", "total_pj")):
            part, base_values = getattr(t, kind), getattr(base, kind)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = part / base_values
            row |= {name: ratio[0], f"{name}_low": ratio.min(), f"{name}_high": ratio.max()}
        rows.append(row)
    return pd.DataFrame(rows)


def _totals(energy: Energy, points: Mapping[str, FloatArray]) -> Totals:
    known = sweepable(energy.hardware)
    fields = [Field(key, known[key].unit, values) for key, values in points.items()]  # type: ignore[union-attr]
    return totals(energy.counts, energy.hardware, energy.policies, fields, energy.without)
