"""Break-even figure: where the spiking network stops winning."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from snn_energy.analysis.break_even import BreakEven
from snn_energy.report.plots.style import STYLE
from snn_energy.report.tables import energy_unit, format_number


def break_even_figure(found: BreakEven) -> Figure:
    """One panel per knob: both totals over it, its present value and the value at which they are equal."""
    knobs = list(found.table["knob"])
    unit, factor = energy_unit(found.curves)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6 * math.ceil(len(knobs) / 2)), layout="constrained")
        axes = figure.subplots(math.ceil(len(knobs) / 2), 2, squeeze=False).ravel()
        for ax, (_, row) in zip(axes, found.table.iterrows(), strict=False):
            curve = found.curves[found.curves["knob"] == row["knob"]]
            ax.plot(curve["value"], curve["snn_pj"] * factor, color="#0072B2", label=found.snn)
            ax.plot(curve["value"], curve["ann_pj"] * factor, color="#D55E00", linestyle="--", label=found.ann)
            ax.axvline(float(row["now"]), color="#999999", linewidth=0.8, label="now")
            if np.isfinite(row["break_even"]) and float(row["break_even"]) <= float(curve["value"].max()):
                ax.axvline(float(row["break_even"]), color="black", linewidth=0.8, linestyle=":", label="break-even")
                ax.set_title(f"{row['knob']}: break-even at {format_number(float(row['break_even']))}", fontsize=8)
            else:
                ax.set_title(f"{row['knob']}: no break-even in this range", fontsize=8)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
                axis.set_minor_formatter(NullFormatter())
            ax.set_xlabel(f"{row['knob']} ({row['unit']})")
            ax.set_ylabel(f"total per sample ({unit})")
        for ax in axes[len(knobs) :]:
            ax.set_axis_off()
        handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    return figure
