"""Colours, fonts and how a figure is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from snn_energy.core.errors import OutputError
from snn_energy.core.files import write_atomically

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

        write_atomically(path, write)
        written.append(path)
    return written


def figure_format(path: Path) -> str:
    """svg or png, by the suffix of a path. Raises OutputError for any other."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise OutputError(f"{path}: a picture is written as .svg or .png; give one of these suffixes")
    return kind
