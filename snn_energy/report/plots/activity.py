"""Layers x time steps: which are active, and how often they spike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from snn_energy.core.errors import SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.report.plots.style import MASKED, STYLE
from snn_energy.report.tables import format_number

ACTIVITY = LinearSegmentedColormap.from_list("activity", ["#E8F1F8", "#56B4E9", "#0072B2", "#00263D"])


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
                ax.add_patch(masked_cell(x, y))
            ax.set_xticks(range(rate.shape[1]), [str(t) for t in range(rate.shape[1])])
            ax.set_yticks(range(len(names)), names, fontsize=6)
            ax.set_xlabel("time step")
            active = np.isfinite(rate).sum(1)
            ax.set_title(f"{label}\n$T_{{avg}}$ {format_number(float(active.mean()))}", fontsize=8)
            ax.spines[:].set_visible(False)
        if image is not None:
            figure.colorbar(image, ax=list(axes), label="spikes per neuron and step", shrink=0.8)
        patch = Patch(facecolor=MASKED, edgecolor="#777777", hatch="////", label="masked: no work, no state")
        figure.legend(handles=[patch], loc="outside lower center", frameon=False)
    return figure


def masked_cell(x: int, y: int) -> Rectangle:
    """The hatched cell of a masked time step."""
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
