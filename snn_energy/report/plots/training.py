"""Accuracy against energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from snn_energy.report.plots.style import STYLE
from snn_energy.report.tables import energy_unit

KINDS: Mapping[str, tuple[str, str]] = {  # kind of training -> colour, marker
    "DTSS, mask loss": ("#0072B2", "o"),
    "DTSS, no mask loss": ("#56B4E9", "s"),
    "fixed T": ("#000000", "D"),
    "fixed T, TET loss": ("#E69F00", "^"),
    "Hoyer activation": ("#D55E00", "v"),
    "non-spiking": ("#999999", "X"),
}


def kind_of_training(row: Mapping[Any, Any]) -> str:
    """Which of ``KINDS`` a row of an ablation is."""
    if str(row["model"]).startswith("vit"):
        return "non-spiking"
    if row["neuron"] == "hoyer":
        return "Hoyer activation"
    if str(row["model"]).startswith("dts"):
        return "DTSS, mask loss" if float(row["lambda_m"]) > 0 else "DTSS, no mask loss"
    return "fixed T, TET loss" if row["loss"] == "tet" else "fixed T"


def accuracy_against_energy(table: pd.DataFrame, hardware: str) -> Figure:
    """One numbered marker per variant of an ablation, with the range of its seeds; names are listed next to the axes.

    A variant with less than half of the best accuracy (a dead network) is only listed, to keep the axis narrow.
    """
    unit, factor = energy_unit(table)
    energy = table["total_pj"].astype(float) * factor
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, max(3.4, 0.15 * len(table) + 1.0)), layout="constrained")
        ax = figure.subplots()
        rows = [dict(row) for _, row in table.iterrows()]
        least = 0.5 * float(table["accuracy"].max())
        drawn = {i: row for i, row in enumerate(rows) if float(row["accuracy"]) >= least}
        for i, row in drawn.items():
            colour, marker = KINDS[kind_of_training(row)]
            x, y = float(energy.iloc[i]), 100 * float(row["accuracy"])
            low, high = 100 * float(row["lowest_accuracy"]), 100 * float(row["highest_accuracy"])
            ax.errorbar(x, y, [[y - low], [high - y]], color=colour, marker=marker, markersize=5, linewidth=0.8)
            ax.annotate(str(i + 1), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        used = {kind_of_training(row) for row in drawn.values()}
        marks = [
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=kind)
            for kind, (colour, marker) in KINDS.items()
            if kind in used
        ]
        texts = [
            f"{i + 1}  {row['variant']}" + ("" if i in drawn else f" (not drawn: {100 * float(row['accuracy']):.1f} %)")
            for i, row in enumerate(rows)
        ]
        names = [Line2D([], [], linestyle="", label=text) for text in texts]
        ax.legend(handles=marks, loc="lower right", frameon=False)
        figure.legend(handles=names, loc="outside right upper", frameon=False, handlelength=0, handletextpad=0)
        ax.set_xlabel(f"energy per image ({unit}), {hardware}")
        ax.set_ylabel("accuracy (%)")
        ax.grid(color="#DDDDDD", linewidth=0.5)
        ax.set_axisbelow(True)
    return figure
