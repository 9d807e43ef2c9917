"""Three pictures: where the energy goes, when layers are active, and the normalised comparison.

Colours are Okabe and Ito's, told apart by hatching as well, so that they hold in grey print and for the colour-blind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from snn_energy.analysis.break_even import BreakEven
from snn_energy.analysis.comparison import Comparison
from snn_energy.core.errors import OutputError, SnnEnergyError
from snn_energy.core.files import make_folder, write_whole
from snn_energy.core.groups import GROUPS
from snn_energy.counts.counts import Counts
from snn_energy.pricing.actions import COMPUTE, MEMORY
from snn_energy.pricing.energy import Energy
from snn_energy.report.tables import energy_unit, number

PARTS: Mapping[str, tuple[str, str, str]] = {  # part -> label, colour, hatch
    "mac_pj": ("MAC", "#D55E00", ""),
    "ac_pj": ("AC", "#E69F00", "//"),
    "zero_check_pj": ("zero check", "#F0E442", ".."),
    "neuron_pj": ("neuron update", "#CC79A7", "xx"),
    "elementwise_pj": ("element-wise", "#999999", "++"),
    "weights_pj": ("weights", "#0072B2", "--"),
    "inputs_pj": ("inputs", "#56B4E9", "\\\\"),
    "outputs_pj": ("outputs", "#009E73", "oo"),
    "membrane_pj": ("membrane", "#000000", ""),
    "spike_pj": ("spikes sent", "#882255", ".."),
    "partial_sums_pj": ("partial sums", "#DDCC77", "xx"),
    "accesses_pj": ("accesses", "#44AA99", "//"),
}
MASKED = "#FFFFFF"
ACTIVITY = LinearSegmentedColormap.from_list("activity", ["#E8F1F8", "#56B4E9", "#0072B2", "#00263D"])
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "snn_energy",
    "hatch.linewidth": 0.5,
}


def save_figure(figure: Figure, stem: str | Path, formats: tuple[str, ...] = ("svg", "png")) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png`` (200 dpi), each whole or not at all, without a date in them. OutputError."""
    written = []
    for kind in formats:
        path = Path(f"{stem}.{kind}")
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}

        def write(temporary: Path, kind: str = kind, metadata: dict[str, Any] = metadata) -> None:
            with mpl.rc_context(STYLE):
                figure.savefig(temporary, format=kind, dpi=200, bbox_inches="tight", metadata=metadata)

        write_whole(path, write)
        written.append(path)
    return written


def figure_format(path: Path) -> str:
    """svg or png, by the suffix of a path. Raises OutputError for any other."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise OutputError(f"{path}: a picture is written as .svg or .png; give one of these suffixes")
    return kind


def save_all(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Every picture that the networks allow, into a folder, as SVG and PNG. Raises OutputError."""
    folder = make_folder(folder)
    counts = {label: energy.counts for label, energy in comparison.energies.items()}
    figures = {"energy-by-group": energy_by_group(comparison.energies), "normalised": normalised_bars(comparison)}
    if any((c.rows["op"] == "neuron").any() for c in counts.values()):
        figures["activity"] = activity_map(counts)
    return [path for name, figure in figures.items() for path in save_figure(figure, folder / name)]


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


def activity_map(networks: Mapping[str, Counts]) -> Figure:
    """Layers x time steps: spikes per neuron where the step is active, hatched white where it is masked."""
    spiking = {label: c for label, c in networks.items() if (c.rows["op"] == "neuron").any()}
    if not spiking:
        raise SnnEnergyError("none of the networks has spiking layers; there is no activity to draw")
    rates = {label: _rates(c) for label, c in spiking.items()}
    top = max((float(np.nanmax(r)) for _, r in rates.values() if np.isfinite(r).any()), default=1.0) or 1.0
    rows = max(len(names) for names, _ in rates.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(rates) + 1.2, 0.17 * rows + 1.3), layout="constrained")
        axes = figure.subplots(1, len(rates), squeeze=False)[0]
        image = None
        for ax, (label, (names, rate)) in zip(axes, rates.items(), strict=True):
            image = ax.imshow(rate, cmap=ACTIVITY, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
            for y, x in np.argwhere(np.isnan(rate)):
                ax.add_patch(_masked_cell(x, y))
            ax.set_xticks(range(rate.shape[1]), [str(t) for t in range(rate.shape[1])])
            ax.set_yticks(range(len(names)), names, fontsize=6)
            ax.set_xlabel("time step")
            active = np.isfinite(rate).sum(1)
            ax.set_title(f"{label}\n$T_{{avg}}$ {number(float(active.mean()))}", fontsize=8)
            ax.spines[:].set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=list(axes), label="spikes per neuron and step", shrink=0.8)
        patch = Patch(facecolor=MASKED, edgecolor="#777777", hatch="////", label="masked: no work, no state")
        figure.legend(handles=[patch], loc="outside lower center", frameon=False)
    return figure


def _masked_cell(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=MASKED, edgecolor="#777777", hatch="////", linewidth=0)


def _rates(counts: Counts) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float64]]]:
    """Layer names and (layers, T) spikes per neuron and sample, NaN where masked."""
    neurons = counts.rows[counts.rows["op"] == "neuron"]
    names = list(dict.fromkeys(neurons["layer"]))
    rate = np.full((len(names), counts.time_steps), np.nan)
    at = {name: i for i, name in enumerate(names)}
    per_neuron = neurons["spikes"].astype(float) / (neurons["neurons"].astype(float) * counts.samples)
    for layer, step, value, active in zip(
        neurons["layer"], neurons["time_step"].astype(int), per_neuron, neurons["active"], strict=True
    ):
        if active and step >= 0:
            rate[at[layer], step] = value
    return names, rate


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
    """One numbered mark per variant of an ablation, with the range of its seeds; the names stand beside the axes.

    A variant with less than half of the best accuracy (a dead network) would squeeze the others: named, not drawn.
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
            places = np.arange(len(frame)) + (i - 1) * 0.27
            bars = ax.bar(
                places, heights, 0.25, color=colour, hatch=hatch, edgecolor="black", linewidth=0.3, label=label
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


TIME_LINES = ("-", (0, (5, 1)), (0, (2, 1)), (0, (4, 1, 1, 1)))  # told apart by dashes as well as by colour
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
    step, in units of V_th; what lies outside the axis is written. Right: layers x time steps, the mean of every group
    below its layers (every layer weighs the same); hatched where all inputs are zero, in brackets where the neuron is
    masked. Left, last, where there are cuts: accuracy with a group's spikes in its first steps alone, a line per group.
    """
    shown = list(dict.fromkeys(groups["group"]))
    names, values, masked = _cosines(rows, groups, shown)
    shares = {group: _shares(histograms[histograms["group"] == group]) for group in shown}
    reach = max(_reach(share) for share in shares.values())
    with mpl.rc_context(STYLE):
        panel = cuts is not None and not cuts.empty
        height = max(0.165 * len(names) + 1.1, 1.2 * len(shown) + 1.5 * panel + 0.9)
        figure = Figure(figsize=(7.4 + 0.4 * max(0, values.shape[1] - 5), height), layout="constrained")
        grid = figure.add_gridspec(1 + panel, 2, height_ratios=[1.2 * len(shown), 1.5][: 1 + panel])
        places = grid[0, 0].subgridspec(len(shown), 1)
        panels = [figure.add_subplot(places[i, 0]) for i in range(len(shown))]
        for ax, (group, share) in zip(panels, shares.items(), strict=True):
            _histogram_panel(ax, share, group, reach)
            ax.tick_params(labelbottom=ax is panels[-1])
        panels[-1].set_xlabel("LIF input in units of $V_{th}$")
        panels[0].legend(frameon=False, fontsize=6, loc="upper left", handlelength=2.6, ncols=-(-values.shape[1] // 5))
        _cosine_map(figure.add_subplot(grid[:, 1]), names, values, masked)
        if cuts is not None and panel:
            _cut_panel(figure.add_subplot(grid[1, 0]), cuts)
        figure.suptitle(f"Inputs of the LIF layers over the time steps\n{title}", fontsize=9)
    return figure


def _cosines(
    rows: pd.DataFrame, groups: pd.DataFrame, shown: list[str]
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Row names, (rows, T) cosines and whether the neuron is masked: the layers of a group, then its mean."""
    names: list[str] = []
    values, masked = [], []
    for group in shown:
        part = rows[rows["group"] == group]
        for layer in dict.fromkeys(part["layer"]):
            own = part[part["layer"] == layer].sort_values("time_step")
            names.append(str(layer))
            values.append(own["cosine"].to_numpy(dtype=np.float64))
            masked.append(~own["active"].to_numpy(dtype=np.bool_))
        mean = groups[groups["group"] == group].sort_values("time_step")["cosine"].to_numpy(dtype=np.float64)
        names.append(f"{MEAN_ROW}{group}")
        values.append(mean)
        masked.append(np.zeros(len(mean), dtype=np.bool_))
    return names, np.stack(values), np.stack(masked)


def _shares(part: pd.DataFrame) -> pd.DataFrame:
    """Lower edges x time steps: the share of the inputs of a group in every bin, pooled over its layers."""
    pooled = part.pivot_table(index="low", columns="time_step", values="count", aggfunc="sum")
    return pooled / pooled.sum()


def _reach(share: pd.DataFrame) -> float:
    """The V_th up to which a bin holds at least 0.5 % of the inputs at some time step, on either side; 1.5 or more."""
    low = share.index.to_numpy(dtype=np.float64)
    full = (share.to_numpy(dtype=np.float64) >= 0.005).any(axis=1)
    inner = full & np.isfinite(low) & (low < low[-1])
    edges = np.concatenate([low[inner], np.append(low[1:], np.inf)[inner]])
    return float(np.abs(edges).max(initial=1.5))


def _histogram_panel(ax: Any, share: pd.DataFrame, group: str, reach: float) -> None:
    """Shares of inputs per bin, a line per time step, from -reach to reach; the rest is written, not drawn."""
    low = share.index.to_numpy(dtype=np.float64)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, share.shape[1]))
    for i, step in enumerate(share.columns):
        style: Any = TIME_LINES[i % len(TIME_LINES)]
        heights = 100 * share[step].to_numpy(dtype=np.float64)[1:-1]
        ax.stairs(
            heights, low[1:], baseline=None, color=colours[i], linestyle=style, linewidth=1.1, label=f"t = {step}"
        )
    ax.axvline(1, color="#D55E00", linewidth=0.8, zorder=0)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(bottom=0)
    ax.annotate(
        "$V_{th}$", (1, 1), (2, -1), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        color="#D55E00", fontsize=7,
    )  # fmt: skip
    beyond = float(share[(low < -reach) | (low >= reach)].sum().max())
    if beyond > 0:
        text = f"not shown: {100 * beyond:.1f} %" if beyond >= 0.0005 else "not shown: < 0.1 %"
        ax.text(0.99, 0.78, f"{text}\nat most", transform=ax.transAxes, ha="right", va="top", fontsize=6)
    ax.text(0.99, 0.97, group, transform=ax.transAxes, ha="right", va="top", fontsize=8, fontweight="bold")
    ax.set_ylabel("inputs (%)")


def _cut_panel(ax: Any, cuts: pd.DataFrame) -> None:
    """Accuracy against the steps that one group keeps, over 10 points or more; marks side by side, names above."""
    groups, steps = list(dict.fromkeys(cuts["group"])), sorted(set(cuts["steps_kept"]))
    apart = min(0.02 * len(steps), 0.2)
    for i, group in enumerate(groups):
        part, (colour, marker) = cuts[cuts["group"] == group], GROUP_LINES[group]
        places = part["steps_kept"].to_numpy(dtype=np.float64) + apart * (i - (len(groups) - 1) / 2)
        accuracy = 100 * part["accuracy"].to_numpy(dtype=np.float64)
        ax.plot(places, accuracy, color=colour, marker=marker, markersize=3.5, linewidth=0.9, label=group)
    low, high = 100 * float(cuts["accuracy"].min()), 100 * float(cuts["accuracy"].max())
    reach = max(high - low, 10.0)
    ax.set_ylim(high - 1.08 * reach, high + 0.08 * reach)
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
    """Cosines as colours and figures; a white line under every group's mean."""
    lowest = min(0.0, float(np.nanmin(values, initial=0.0)))
    ax.imshow(values, cmap="cividis", vmin=lowest, vmax=1, aspect="auto", interpolation="nearest")
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            ax.add_patch(_masked_cell(x, y))
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


def break_even_figure(found: BreakEven) -> Figure:
    """One panel per knob: both totals over it, the value of today and the value at which they meet."""
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
                ax.set_title(f"{row['knob']}: break-even at {number(float(row['break_even']))}", fontsize=8)
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
