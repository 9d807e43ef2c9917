"""The HDF5 file of a NIR graph: nodes with their arrays, checked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snn_energy.core.errors import CheckpointError

Array = npt.NDArray[Any]
Params = Mapping[str, Any]
Shape = tuple[int, ...]
INSTALL = "pip install 'snn_energy[nir]'"
MAX_DEPTH = 16  # of graphs within graphs
MAX_EXPANSION = 1100  # largest ratio of bytes in memory to bytes in the file; gzip reaches at most 1032


def read_file(path: Path) -> dict[str, Any]:
    """The root node of a .nir file as nested dicts, whatever version of nir wrote it. Raises CheckpointError."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}; give a .nir file")
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise CheckpointError(f"{path}: NIR files need h5py, which is not installed; {INSTALL}") from error
    if not h5py.is_hdf5(path):
        raise CheckpointError(f"{path}: not an HDF5 file, which a .nir file is; save the graph with nir.write")
    try:
        with h5py.File(path, "r") as file:
            if "node" not in file:
                raise CheckpointError(f"{path}: an HDF5 file without a NIR graph; save the graph with nir.write")
            return _read_node(h5py, file["node"], path, 0)
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes make HDF5 raise nearly anything
        raise CheckpointError(f"{path}: truncated or damaged ({error}); copy or save it again") from error


def _read_node(h5py: Any, group: Any, path: Path, depth: int) -> dict[str, Any]:
    """One node: its fields, and its own nodes if it is a graph. Links (soft or external) are an error."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{path}: graphs within graphs deeper than {MAX_DEPTH}; flatten the graph")
    found: dict[str, Any] = {}
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{path}: {group.name}/{key} links elsewhere; save the graph with nir.write")
        item = group[key]
        if isinstance(item, h5py.Dataset):
            if item.size and item.size * item.dtype.itemsize > path.stat().st_size * MAX_EXPANSION:
                raise CheckpointError(f"{path}: {item.name} says {item.shape}, more than the file can hold: damaged")
            value = item[()]
            found[key] = value.decode() if isinstance(value, bytes) else value
        elif key == "nodes":
            found[key] = {name: _read_node(h5py, item[name], path, depth + 1) for name in item}
    return found


def read_graph(graph: Any) -> dict[str, Any]:
    """A graph of the nir package in memory. Raises CheckpointError for anything else."""
    if not hasattr(graph, "nodes") or not callable(getattr(graph, "to_dict", None)):
        raise CheckpointError(f"load_nir expects the path of a .nir file or a nir.NIRGraph, not {type(graph).__name__}")
    found: dict[str, Any] = graph.to_dict()
    return found


# type -> the fields that it must have
NODE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Affine": ("weight", "bias"),
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "Conv1d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "Conv2d": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"),
    "Delay": ("delay",),
    "Flatten": ("start_dim", "end_dim"),
    "I": ("r",),
    "IF": ("r", "v_threshold"),
    "Input": ("shape",),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "Linear": ("weight",),
    "NIRGraph": ("nodes", "edges"),
    "Output": ("shape",),
    "Scale": ("scale",),
    "SumPool2d": ("kernel_size", "stride", "padding"),
    "Threshold": ("threshold",),
}
OPTIONAL_FIELDS = ("w_in", "v_reset")
SPIKING_NODES = ("IF", "LIF", "CubaLIF")
STATEFUL_NODES = (*SPIKING_NODES, "I", "LI", "CubaLI", "Delay")
PER_ELEMENT = ("r", "tau", "tau_mem", "tau_syn", "v_leak", "v_threshold", "v_reset", "w_in", "scale", "delay",
                "threshold")  # fmt: skip
NUMERIC = (
    "weight",
    "bias",
    "r",
    "tau",
    "tau_mem",
    "tau_syn",
    "v_leak",
    "v_threshold",
    "v_reset",
    "w_in",
    "scale",
)


def shape_text(shape: Shape) -> str:
    """``(2, 8, 8)`` -> ``2x8x8``."""
    return "x".join(map(str, shape)) or "a single number"


def as_tensor(values: Array | None) -> Tensor:
    """float32; a single number if all values are the same."""
    found = np.asarray(values, np.float64)
    if found.size and bool((found == found.flat[0]).all()):
        found = found.reshape(-1)[0]
    return torch.tensor(found, dtype=torch.float32)
