"""A quantity over one or two numbers of a profile."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from snn_energy.report.plots.style import STYLE
from snn_energy.report.tables import energy_unit

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MOST_LINES = len(LINES)


def sweep_figure(table: pd.DataFrame, fields: list[str], value: str = "total_pj") -> Figure:
    """``value`` over the first field, one panel per network, one line per value of the second, a band over the rest.

    fields: the columns that were swept. Of more than eight values of the second field, eight evenly spread are drawn.
    """
    models = list(dict.fromkeys(table["model"].astype(str)))
    unit, factor = energy_unit(table[[value]]) if value.endswith("_pj") else (value.rsplit("_", 1)[-1], 1.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(models) + 1.2, 3.2), layout="constrained")
        axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for ax, model in zip(axes, models, strict=True):
            part = table[table["model"].astype(str) == model]
            seconds = sorted(set(part[fields[1]])) if len(fields) > 1 else [None]
            drawn = [seconds[i] for i in np.unique(np.linspace(0, len(seconds) - 1, MOST_LINES).round().astype(int))]
            for second, colour in zip(drawn, LINES, strict=False):
                line = part if second is None else part[part[fields[1]] == second]
                over = line.groupby(fields[0])[value].agg(["min", "median", "max"]) * factor
                label = None if second is None else f"{second:.4g}"
                marker = "o" if len(over) < 20 else ""
                ax.plot(
                    over.index, over["median"], color=colour, marker=marker, markersize=3, linewidth=1.1, label=label
                )
                if len(fields) > 2:
                    ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)
            if _is_geometric(part[fields[0]].unique()):
                ax.set_xscale("log")
            ax.set_xlabel(fields[0])
            ax.set_title(model, fontsize=8)
            ax.grid(color="#DDDDDD", linewidth=0.5)
        axes[0].set_ylabel(f"{value.rsplit('_', 1)[0].replace('_', ' ')} per sample ({unit})")
        axes[0].set_ylim(bottom=0)
        if len(fields) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            title = fields[1] + ("" if len(fields) < 3 else "\n(band: the other fields)")
            figure.legend(
                handles, labels, title=title, loc="outside right upper", frameon=False, fontsize=7, title_fontsize=7
            )
    return figure


def _is_geometric(values: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """True for three or more positive values that spread over a decade in equal ratios."""
    found = np.sort(np.asarray(values, dtype=np.float64))
    if len(found) < 3 or found[0] <= 0 or found[-1] / found[0] < 10:
        return False
    ratios = found[1:] / found[:-1]
    return bool(ratios.max() / ratios.min() < 1.01)
