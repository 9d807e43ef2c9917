"""Two pictures of the ledger: Table V and the SOPs, published figures next to ours."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from snn_energy.paper.record import CALIBRATED_VARIANT
from snn_energy.report.plots.style import STYLE

PUBLISHED, OURS, OTHER = "#000000", "#56B4E9", "#E69F00"
WHAT = (("ce", "compute\nCE"), ("me", "memory\nME"), ("te", "total\nTE"))
NETWORKS = (("ns_vit", "non-spiking / DTS"), ("spikformer", "Spikformer / DTS"))
TITLES = {"cifar10": "CIFAR-10 (DTS: T_avg 1.15 of 4)", "cifar100": "CIFAR-100 (DTS: T_avg 3.81 of 6)"}


def _value(ledger: pd.DataFrame, row: str, column: str) -> float:
    """A number of the ledger; NaN if there is none."""
    found = ledger.loc[ledger["row"] == row, column]
    return float("nan") if found.empty or found.isna().all() else float(found.iloc[0])


def table_v_figure(ledger: pd.DataFrame) -> Figure:
    """CE, ME and TE on a logarithmic axis; whiskers: memory variants and all T_l in 1..T_max of the same mean."""
    ledger = ledger[ledger["section"] == "table_v"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (data, title) in zip(axes, TITLES.items(), strict=True):
            _panel(ax, ledger, data)
            ax.set_title(title, fontsize=9)
        axes[0].set_ylabel("energy over that of the DTS network")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle("Table V: published and ours", fontsize=10)
    return figure


def _panel(ax: Any, ledger: pd.DataFrame, data: str) -> None:
    rows = [f"{data} {network} {what}" for network, _ in NETWORKS for what, _ in WHAT]
    places = np.array([0.0, 1.0, 2.0, 3.6, 4.6, 5.6])
    series = (
        (
            "published",
            [_value(ledger, f"{row}, {CALIBRATED_VARIANT}", "published") for row in rows],
            PUBLISHED,
            "",
            -0.27,
        ),
        (
            "ours: 4-384 made to its averages",
            [_value(ledger, f"{row}, {CALIBRATED_VARIANT}", "ours") for row in rows],
            OURS,
            "",
            0.0,
        ),
        (
            "ours: CCT-7/3x1 as the ViT",
            [_value(ledger, f"{row}, CCT-7/3x1", "ours") for row in rows],
            OTHER,
            "//",
            0.27,
        ),
    )
    for label, values, colour, hatch, shift in series:
        heights = np.array(values)
        known = np.isfinite(heights)
        bars = ax.bar(
            places[known] + shift, heights[known], 0.26, color=colour, hatch=hatch, edgecolor="black", linewidth=0.3,
            label=label,
        )  # fmt: skip
        if label == "published":
            ax.bar_label(bars, [f"{v:g}" for v in heights[known]], fontsize=6, padding=1)
    low = np.array([_value(ledger, f"{row}, {CALIBRATED_VARIANT}", "low") for row in rows])
    high = np.array([_value(ledger, f"{row}, {CALIBRATED_VARIANT}", "high") for row in rows])
    own = np.array(series[1][1])
    shown = np.isfinite(low)
    floor = 0.02  # a ratio of 0 (state_only: a ViT has no membrane) is not on a log axis: the whisker ends at its edge
    ax.errorbar(
        places[shown], own[shown], [own[shown] - np.maximum(low[shown], floor), high[shown] - own[shown]],
        fmt="none", ecolor="#D55E00", elinewidth=1.2, capsize=3, label="range: memory variants, T_l of the same mean",
    )  # fmt: skip
    ax.axhline(1, color="#777777", linewidth=0.6, linestyle=":", zorder=0)
    ax.set_yscale("log")
    ax.set_ylim(floor, 100)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(places, [text for _ in NETWORKS for _, text in WHAT])
    for middle, (_, text) in zip((1.0, 4.6), NETWORKS, strict=True):
        ax.annotate(text, (middle, -0.2), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8)


def sops_figure(ledger: pd.DataFrame) -> Figure:
    """SOPs of every setting of Tables III and IV against T_avg and against spikes per neuron (SA x T_max)."""
    ledger = ledger[ledger["section"] == "table_iii_iv"]
    names = [row.removesuffix(" t_avg") for row in ledger["row"] if row.endswith(" t_avg")]
    steps = np.array([_value(ledger, f"{name} t_avg", "published") for name in names])
    last = [6.0 if "of 6" in name else 4.0 for name in names]
    spikes = np.array([_value(ledger, f"{name} sa", "published") for name in names]) * np.array(last) / 100
    series = (
        ("published", "published", "exact", PUBLISHED, "o"),
        ("ours, SA × T_max × dense MACs", "ours", "by mean rate", OTHER, "x"),
        ("ours, exact", "ours", "exact", OURS, "s"),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, x in zip(axes, (steps, spikes), strict=True):
            values = {
                label: np.array([_value(ledger, f"{name} sops_m, {variant}", column) for name in names])
                for label, column, variant, _, _ in series
            }
            ax.vlines(x, values["published"], values["ours, exact"], color="#BBBBBB", linewidth=0.8, zorder=1)
            for label, _, _, colour, marker in series:
                ax.scatter(x, values[label], s=26, marker=marker, color=colour, label=label, zorder=2)
            ax.set_yscale("log")
            ax.set_ylim(50, 3000)
            ax.yaxis.set_major_formatter("{x:g}")
            ax.grid(color="#DDDDDD", linewidth=0.5)
            ax.set_axisbelow(True)
        axes[0].set_xlabel("published T_avg")
        axes[1].set_xlabel("published spikes per neuron and inference, SA × T_max")
        axes[0].set_ylabel("SOPs (millions)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle("Tables III and IV: SOPs at the same T_avg and SA", fontsize=10)
    return figure
