"""Inputs of spiking layers by time step, and the accuracy lost if later steps are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from snn_energy.report.plots.activity import masked_cell
from snn_energy.report.plots.style import STYLE

TIME_LINES = ("-", (0, (5, 1)), (0, (2, 1)), (0, (4, 1, 1, 1)))  # distinguished by dashes as well as by colour
MEAN_ROW = "mean of "
GROUP_LINES: Mapping[str, tuple[str, str]] = {  # group -> colour, marker
    "sps": ("#D55E00", "o"),
    "qkv": ("#0072B2", "s"),
    "attn": ("#009E73", "^"),
    "mlp": ("#000000", "D"),
    "head": ("#E69F00", "v"),
    "other": ("#CC79A7", "X"),
}


def sensitivity_figure(
    rows: pd.DataFrame, histograms: pd.DataFrame, groups: pd.DataFrame, title: str, cuts: pd.DataFrame | None = None
) -> Figure:
    """How LIF inputs change over the time steps: histograms of every group, cosine similarity of every layer.

    rows, histograms, groups, cuts: of ``sensitivity.Sensitivity``, ``rows`` of ``to_frame()``. Left,
    one panel per group: shares of inputs per bin, pooled over its layers (large layers weigh more), one line per time
    step, in units of V_th; the share outside the axis is stated. Right: layers x time steps, the mean of every group
    below its layers (every layer weighs the same); hatched where all inputs are zero, in brackets where the neuron is
    masked. Left, last, where there are cuts: accuracy with a group's spikes in its first steps only, a line per group.
    """
    groups_shown = list(dict.fromkeys(groups["group"]))
    names, values, masked = _cosines(rows, groups, groups_shown)
    shares = {group: _shares(histograms[histograms["group"] == group]) for group in groups_shown}
    axis_limit = max(_axis_limit(share) for share in shares.values())
    with mpl.rc_context(STYLE):
        panel = cuts is not None and not cuts.empty
        height = max(0.165 * len(names) + 1.1, 1.2 * len(groups_shown) + 1.5 * panel + 0.9)
        figure = Figure(figsize=(7.4 + 0.4 * max(0, values.shape[1] - 5), height), layout="constrained")
        grid = figure.add_gridspec(1 + panel, 2, height_ratios=[1.2 * len(groups_shown), 1.5][: 1 + panel])
        panel_grid = grid[0, 0].subgridspec(len(groups_shown), 1)
        panels = [figure.add_subplot(panel_grid[i, 0]) for i in range(len(groups_shown))]
        for ax, (group, share) in zip(panels, shares.items(), strict=True):
            _histogram_panel(ax, share, group, axis_limit)
            ax.tick_params(labelbottom=ax is panels[-1])
        panels[-1].set_xlabel("LIF input in units of $V_{th}$")
        panels[0].legend(frameon=False, fontsize=6, loc="upper left", handlelength=2.6, ncols=-(-values.shape[1] // 5))
        _cosine_map(figure.add_subplot(grid[:, 1]), names, values, masked)
        if cuts is not None and panel:
            _cut_panel(figure.add_subplot(grid[1, 0]), cuts)
        figure.suptitle(f"Inputs of the LIF layers over the time steps\n{title}", fontsize=9)
    return figure


def _cosines(
    rows: pd.DataFrame, groups: pd.DataFrame, groups_shown: list[str]
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Row names, (rows, T) cosines and whether the neuron is masked: the layers of a group, then its mean."""
    names: list[str] = []
    values, masked = [], []
    for group in groups_shown:
        part = rows[rows["group"] == group]
        for layer in dict.fromkeys(part["layer"]):
            layer_rows = part[part["layer"] == layer].sort_values("time_step")
            names.append(str(layer))
            values.append(layer_rows["cosine"].to_numpy(dtype=np.float64))
            masked.append(~layer_rows["active"].to_numpy(dtype=np.bool_))
        mean = groups[groups["group"] == group].sort_values("time_step")["cosine"].to_numpy(dtype=np.float64)
        names.append(f"{MEAN_ROW}{group}")
        values.append(mean)
        masked.append(np.zeros(len(mean), dtype=np.bool_))
    return names, np.stack(values), np.stack(masked)


def _shares(part: pd.DataFrame) -> pd.DataFrame:
    """Lower edges x time steps: the share of the inputs of a group in every bin, pooled over its layers."""
    pooled = part.pivot_table(index="low", columns="time_step", values="count", aggfunc="sum")
    return pooled / pooled.sum()


def _axis_limit(share: pd.DataFrame) -> float:
    """The input (V_th) up to which a bin holds at least 0.5 % of the inputs at some step, on either side; >= 1.5."""
    low = share.index.to_numpy(dtype=np.float64)
    full = (share.to_numpy(dtype=np.float64) >= 0.005).any(axis=1)
    inner = full & np.isfinite(low) & (low < low[-1])
    edges = np.concatenate([low[inner], np.append(low[1:], np.inf)[inner]])
    return float(np.abs(edges).max(initial=1.5))


def _histogram_panel(ax: Any, share: pd.DataFrame, group: str, axis_limit: float) -> None:
    """Shares of inputs per bin, a line per time step, from -reach to reach; the rest is stated as text, not drawn."""
    low = share.index.to_numpy(dtype=np.float64)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, share.shape[1]))
    for i, step in enumerate(share.columns):
        style: Any = TIME_LINES[i % len(TIME_LINES)]
        heights = 100 * share[step].to_numpy(dtype=np.float64)[1:-1]
        ax.stairs(
            heights, low[1:], baseline=None, color=colours[i], linestyle=style, linewidth=1.1, label=f"t = {step}"
        )
    ax.axvline(1, color="#D55E00", linewidth=0.8, zorder=0)
    ax.set_xlim(-axis_limit, axis_limit)
    ax.set_ylim(bottom=0)
    ax.annotate(
        "$V_{th}$", (1, 1), (2, -1), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        color="#D55E00", fontsize=7,
    )  # fmt: skip
    share_outside = float(share[(low < -axis_limit) | (low >= axis_limit)].sum().max())
    if share_outside > 0:
        text = f"not shown: {100 * share_outside:.1f} %" if share_outside >= 0.0005 else "not shown: < 0.1 %"
        ax.text(0.99, 0.78, f"{text}\nat most", transform=ax.transAxes, ha="right", va="top", fontsize=6)
    ax.text(0.99, 0.97, group, transform=ax.transAxes, ha="right", va="top", fontsize=8, fontweight="bold")
    ax.set_ylabel("inputs (%)")


def _cut_panel(ax: Any, cuts: pd.DataFrame) -> None:
    """Accuracy against the steps that one group keeps; the axis spans >= 10 points; markers side by side."""
    groups, steps = list(dict.fromkeys(cuts["group"])), sorted(set(cuts["steps_kept"]))
    offset = min(0.02 * len(steps), 0.2)
    for i, group in enumerate(groups):
        part, (colour, marker) = cuts[cuts["group"] == group], GROUP_LINES[group]
        positions = part["steps_kept"].to_numpy(dtype=np.float64) + offset * (i - (len(groups) - 1) / 2)
        accuracy = 100 * part["accuracy"].to_numpy(dtype=np.float64)
        ax.plot(positions, accuracy, color=colour, marker=marker, markersize=3.5, linewidth=0.9, label=group)
    low, high = 100 * float(cuts["accuracy"].min()), 100 * float(cuts["accuracy"].max())
    span = max(high - low, 10.0)
    ax.set_ylim(high - 1.08 * span, high + 0.08 * span)
    ax.set_xticks(steps, [str(k) for k in steps[:-1]] + [f"{steps[-1]} (all)"])
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel("steps in which one group spikes, no retraining")
    ax.set_ylabel("accuracy (%)")
    ax.legend(
        frameon=False, fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=len(groups),
        handlelength=1.8, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _cosine_map(
    ax: Any,
    names: list[str],
    values: np.ndarray[Any, np.dtype[np.float64]],
    masked: np.ndarray[Any, np.dtype[np.bool_]],
) -> None:
    """Cosines as colours and numbers; a white line under every group's mean."""
    lowest = min(0.0, float(np.nanmin(values, initial=0.0)))
    ax.imshow(values, cmap="cividis", vmin=lowest, vmax=1, aspect="auto", interpolation="nearest")
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            ax.add_patch(masked_cell(x, y))
            continue
        text = f"({value:.2f})" if masked[y, x] else f"{value:.2f}"
        colour = "white" if (value - lowest) / (1 - lowest) < 0.5 else "black"
        weight = "bold" if names[y].startswith(MEAN_ROW) else "normal"
        ax.text(x, y, text, ha="center", va="center", fontsize=6, fontweight=weight, color=colour)
    ax.set_yticks(range(len(names)), names, fontsize=6)
    for y, (name, label) in enumerate(zip(names, ax.get_yticklabels(), strict=True)):
        if name.startswith(MEAN_ROW):
            label.set_fontweight("bold")
            ax.axhline(y + 0.5, color="white", linewidth=3)
    ax.set_xticks(range(values.shape[1]), [str(t) for t in range(values.shape[1])])
    remarks = ["in brackets: the neuron is masked"] * bool(masked.any())
    remarks += ["hatched: an input of zeros has no cosine"] * bool(np.isnan(values).any())
    ax.set_xlabel("\n".join(["time step", *remarks]))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("cosine similarity to the input at t = 0", fontsize=8)
