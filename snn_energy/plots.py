"""Three pictures: where the energy goes, when layers are active, and the normalised comparison.

Colours are Okabe and Ito's, told apart by hatching as well, so that they hold in grey print and for the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from snn_energy.compare import Comparison
from snn_energy.counts import Counts
from snn_energy.energy import COMPUTE, MEMORY, Energy
from snn_energy.errors import SnnEnergyError
from snn_energy.files import make_folder, write_whole
from snn_energy.groups import GROUPS
from snn_energy.tables import energy_unit, number

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
            ax.set_title(f"{label}\n{energies[label].total_pj * factor:,.3g} {unit} per image", fontsize=8)
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
