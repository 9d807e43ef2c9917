"""The three pictures of a comparison."""

from __future__ import annotations

from pathlib import Path

from snn_energy.analysis.comparison import Comparison
from snn_energy.core.files import make_folder
from snn_energy.report.plots.activity import activity_map
from snn_energy.report.plots.energy import energy_by_group, normalised_bars
from snn_energy.report.plots.style import save_figure


def save_all(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Every picture that the networks allow, into a folder, as SVG and PNG. Raises OutputError."""
    folder = make_folder(folder)
    counts = {label: energy.counts for label, energy in comparison.energies.items()}
    figures = {"energy-by-group": energy_by_group(comparison.energies), "normalised": normalised_bars(comparison)}
    if any((c.rows["op"] == "neuron").any() for c in counts.values()):
        figures["activity"] = activity_map(counts)
    return [path for name, figure in figures.items() for path in save_figure(figure, folder / name)]
