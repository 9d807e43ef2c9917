"""Energy by group and kind, and the normalised bars."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from snn_energy.analysis.comparison import Comparison
from snn_energy.core.groups import GROUPS
from snn_energy.pricing.actions import COMPUTE, MEMORY
from snn_energy.pricing.energy import Energy
from snn_energy.report.plots.style import PARTS, STYLE
from snn_energy.report.tables import energy_unit


def energy_by_group(energies: Mapping[str, Energy]) -> Figure:
    """One panel per network, one bar per group, stacked by kind; panels share the axis, so heights compare."""
    frames = {label: e.to_frame("group").set_index("group") for label, e in energies.items()}
    groups = [g for g in GROUPS if any(float(f["total_pj"].get(g, 0.0)) > 0 for f in frames.values())]
    parts = [p for p in (*COMPUTE, *MEMORY) if any(float(f[p].sum()) > 0 for f in frames.values())]
    first = next(iter(energies.values()))
    unit, factor = energy_unit(pd.concat(list(frames.values())))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(frames) + 1.4, 3.2), layout="constrained")
        axes = figure.subplots(1, len(frames), sharey=True, squeeze=False)[0]
        for ax, (label, frame) in zip(axes, frames.items(), strict=True):
            bottom = np.zeros(len(groups))
            for part in parts:
                _, colour, hatch = PARTS[part]
                values = np.array([float(frame[part].get(g, 0.0)) for g in groups]) * factor
                edge = "white" if colour == "#000000" else "black"
                ax.bar(groups, values, bottom=bottom, color=colour, hatch=hatch, edgecolor=edge, linewidth=0.3)
                bottom += values
            total = energies[label].total_pj * factor
            ax.set_title(f"{label}\n{total:,.{'0f' if total >= 1000 else '3g'}} {unit} per image", fontsize=8)
            ax.tick_params(axis="x", rotation=45)
        axes[0].set_ylabel(f"energy per image ({unit})")
        axes[0].set_ylim(0, 1.06 * max(float(f["total_pj"].max()) for f in frames.values()) * factor or 1.0)
        handles = [
            Patch(facecolor=PARTS[p][1], hatch=PARTS[p][2], edgecolor="black", linewidth=0.3, label=PARTS[p][0])
            for p in reversed(parts)
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
        figure.suptitle(f"Energy by group and kind, {first.hardware.name}, {first.policies.memory}", fontsize=9)
    return figure


def normalised_bars(comparison: Comparison) -> Figure:
    """CE, ME and TE of every network over the baseline's, with the figures written on the bars."""
    frame = comparison.to_frame()
    kinds = (
        ("ce", "compute (CE)", "#E69F00", "//"),
        ("me", "memory (ME)", "#0072B2", ""),
        ("te", "total (TE)", "#000000", ""),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(frame) + 1.2, 3.0), layout="constrained")
        ax = figure.subplots()
        for i, (column, label, colour, hatch) in enumerate(kinds):
            heights = frame[column].astype(float).fillna(0.0).to_numpy()
            positions = np.arange(len(frame)) + (i - 1) * 0.27
            bars = ax.bar(
                positions, heights, 0.25, color=colour, hatch=hatch, edgecolor="black", linewidth=0.3, label=label
            )
            texts = ["n/a" if v is None or v != v else f"{v:.2f}" for v in frame[column].tolist()]
            ax.bar_label(
                bars, texts, fontsize=7, padding=1, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            )
        ax.axhline(1, color="#777777", linewidth=0.6, linestyle=":", zorder=0)
        ax.set_xticks(range(len(frame)), frame["model"].tolist())
        ax.set_ylabel(f"energy over that of {comparison.baseline}")
        ax.legend(frameon=False, loc="best")
        first = comparison.energies[comparison.baseline]
        ax.set_title(f"Normalised energy per image, {first.hardware.name}, {first.policies.memory}", fontsize=9)
    return figure
