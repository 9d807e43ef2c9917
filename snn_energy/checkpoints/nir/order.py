"""The order in which nodes run: depth first, with cycles detected."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import nn

from snn_energy.checkpoints.nir.layers import flatten_shape, shape_tuple
from snn_energy.checkpoints.nir.network import NIRNetwork
from snn_energy.checkpoints.nir.read import PER_ELEMENT, Params, Shape


def node_depths(successors: Mapping[str, Sequence[str]], entry: str) -> dict[str, int]:
    """The number of edges between the input and every node that is reachable from it."""
    depth, waiting = {entry: 0}, deque([entry])
    while waiting:
        name = waiting.popleft()
        for successor in successors[name]:
            if successor not in depth:
                depth[successor] = depth[name] + 1
                waiting.append(successor)
    return depth


def depth_first(successors: Mapping[str, Sequence[str]], entry: str) -> tuple[list[str], set[tuple[str, str]]]:
    """A topological order, and the edges that close cycles: without them the graph is acyclic."""
    finished: list[str] = []
    back_edges: set[tuple[str, str]] = set()
    seen, on_path = {entry}, {entry}
    stack = [(entry, iter(successors[entry]))]
    while stack:
        name, rest = stack[-1]
        successor = next(rest, None)
        if successor is None:
            stack.pop()
            on_path.discard(name)
            finished.append(name)
        elif successor in on_path:
            back_edges.add((name, successor))
        elif successor not in seen:
            seen.add(successor)
            on_path.add(successor)
            stack.append((successor, iter(successors[successor])))
    return finished[::-1], back_edges


def cycle_nodes(names: set[str], successors: Mapping[str, Sequence[str]]) -> list[str]:
    """Nodes of cycles within ``names``, and nodes between two cycles; empty if there are none."""
    left = set(names)
    while True:
        led_to = {successor for name in left for successor in successors[name]}
        inner = {name for name in left & led_to if not left.isdisjoint(successors[name])}
        if inner == left:
            return sorted(left)
        left = inner


def submodule_names(names: Iterable[str]) -> dict[str, str]:
    """Names of nodes -> unique names of submodules: without dots, and not an existing attribute of a module."""
    module_names: dict[str, str] = {}
    used_names = {"steps", "entry", "exits", "input_shape", "delayed_sources", "previous_outputs"}
    for name in names:
        found = name.replace(".", "_") or "_"
        while found in used_names or hasattr(NIRNetwork, found) or found in vars(nn.Module()):
            found += "_"
        used_names.add(found)
        module_names[name] = found
    return module_names


def declared_input_shape(node: Params, shape: Shape) -> Shape | None:
    """The input shape that a node declares, given the incoming ``shape``; None if it declares none."""
    kind = node["type"]
    if kind in ("Input", "Output", "Port"):
        return shape_tuple(node["shape"])
    if kind in ("Affine", "Linear"):
        return (int(np.shape(node["weight"])[-1]),)
    if kind == "Flatten":
        return None if node.get("input_type") is None else flatten_shape(node["input_type"])
    if kind in ("Conv1d", "Conv2d"):
        declared = node.get("input_shape")
        return None if declared is None or not shape else (shape[0], *shape_tuple(declared))
    element_shapes = {np.shape(node[key]) for key in PER_ELEMENT if node.get(key) is not None}
    non_scalar = {found for found in element_shapes if math.prod(found) != 1}  # a single number applies to all elements
    return next(iter(sorted(non_scalar, key=lambda found: found == shape)), None)  # a mismatch first
