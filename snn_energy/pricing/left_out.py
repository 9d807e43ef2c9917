"""Layers that the user leaves out of an estimate (``without``), by name or by the name of a block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import SnnEnergyError, nearest
from snn_energy.counts.counts import Counts

BoolArray = npt.NDArray[np.bool_]


def left_out(layers: pd.Series, without: Iterable[str]) -> BoolArray:
    """Rows of the layers that are not priced: named exactly, or by a prefix that ends at a dot.

    Raises SnnEnergyError for a name that no layer has.
    """
    found = np.zeros(len(layers), dtype=np.bool_)
    for name in without:
        rows = _matching_rows(layers, name)
        if not rows.any():
            known = list(dict.fromkeys(layers))
            raise SnnEnergyError(f"no layer '{name}' to leave out{nearest(name, known)}")
        found |= rows
    return found


def has_layer(layers: pd.Series, name: str) -> bool:
    """True if ``left_out`` finds a layer for the name."""
    return bool(_matching_rows(layers, name).any())


def layers_left_out(networks: Sequence[Counts], without: Iterable[str]) -> list[tuple[str, ...]]:
    """For each network, the layers to leave out that it has. Raises SnnEnergyError for one that no network has."""
    names = (without,) if isinstance(without, str) else tuple(without)
    for name in names:
        if not any(has_layer(c.rows["layer"], name) for c in networks):
            known = [layer for c in networks for layer in c.rows["layer"].unique()]
            raise SnnEnergyError(f"no layer '{name}' to leave out{nearest(name, known)}")
    return [tuple(name for name in names if has_layer(c.rows["layer"], name)) for c in networks]


def _matching_rows(layers: pd.Series, name: str) -> BoolArray:
    if not name:
        return np.zeros(len(layers), dtype=np.bool_)
    found = (layers == name) | layers.str.startswith(f"{name}.") | layers.str.startswith(f"{name}#")
    return np.asarray(found.to_numpy(), dtype=np.bool_)
