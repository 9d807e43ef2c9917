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


def depths_of(leads: Mapping[str, Sequence[str]], entry: str) -> dict[str, int]:
    """The number of edges between the input and every node that is reachable from it."""
    depth, waiting = {entry: 0}, deque([entry])
    while waiting:
        name = waiting.popleft()
        for ahead in leads[name]:
            if ahead not in depth:
                depth[ahead] = depth[name] + 1
                waiting.append(ahead)
    return depth


def depth_first(leads: Mapping[str, Sequence[str]], entry: str) -> tuple[list[str], set[tuple[str, str]]]:
    """A topological order, and the edges that close cycles: without them the graph is acyclic."""
    finished: list[str] = []
    closing: set[tuple[str, str]] = set()
    seen, on_way = {entry}, {entry}
    stack = [(entry, iter(leads[entry]))]
    while stack:
        name, rest = stack[-1]
        ahead = next(rest, None)
        if ahead is None:
            stack.pop()
            on_way.discard(name)
            finished.append(name)
        elif ahead in on_way:
            closing.add((name, ahead))
        elif ahead not in seen:
            seen.add(ahead)
            on_way.add(ahead)
            stack.append((ahead, iter(leads[ahead])))
    return finished[::-1], closing


def loop_among(names: set[str], leads: Mapping[str, Sequence[str]]) -> list[str]:
    """Nodes of cycles within ``names``, and nodes between two cycles; empty if there are none."""
    left = set(names)
    while True:
        led_to = {ahead for name in left for ahead in leads[name]}
        inner = {name for name in left & led_to if not left.isdisjoint(leads[name])}
        if inner == left:
            return sorted(left)
        left = inner


def legal_names(names: Iterable[str]) -> dict[str, str]:
    """Names of nodes -> unique names of submodules: without dots, and not an existing attribute of a module."""
    legal: dict[str, str] = {}
    taken = {"steps", "entry", "exits", "input_shape", "kept", "before"}
    for name in names:
        found = name.replace(".", "_") or "_"
        while found in taken or hasattr(NIRNetwork, found) or found in vars(nn.Module()):
            found += "_"
        taken.add(found)
        legal[name] = found
    return legal


def reads_of(node: Params, shape: Shape) -> Shape | None:
    """The input shape that a node declares, given the incoming ``shape``; None if it declares none."""
    kind = node["type"]
    if kind in ("Input", "Output", "Port"):
        return shape_tuple(node["shape"])
    if kind in ("Affine", "Linear"):
        return (int(np.shape(node["weight"])[-1]),)
    if kind == "Flatten":
        return None if node.get("input_type") is None else flatten_shape(node["input_type"])
    if kind in ("Conv1d", "Conv2d"):
        given = node.get("input_shape")
        return None if given is None or not shape else (shape[0], *shape_tuple(given))
    own = {np.shape(node[key]) for key in PER_ELEMENT if node.get(key) is not None}
    large = {found for found in own if math.prod(found) != 1}  # a single number applies to all elements
    return next(iter(sorted(large, key=lambda found: found == shape)), None)  # a mismatch first
