"""NIR graphs: build a network from a file, node by node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snn_energy.checkpoints.checkpoint import sha256_of
from snn_energy.checkpoints.nir.layers import PLAIN_NODES, shape_tuple
from snn_energy.checkpoints.nir.network import NIRNetwork, Step
from snn_energy.checkpoints.nir.nodes import RESETS, RULES, Delay, NIRIntegrator, NIRNeuron, NIRThreshold, Reset, Rule
from snn_energy.checkpoints.nir.order import (
    cycle_nodes,
    declared_input_shape,
    depth_first,
    node_depths,
    submodule_names,
)
from snn_energy.checkpoints.nir.read import (
    MAX_DEPTH,
    NODE_FIELDS,
    NUMERIC,
    OPTIONAL_FIELDS,
    SPIKING_NODES,
    STATEFUL_NODES,
    Params,
    Shape,
    read_file,
    read_graph,
    shape_text,
)
from snn_energy.core.errors import CheckpointError, nearest


def load_nir(source: str | Path | Any, *, dt: float = 1.0, rule: Rule = "nir", reset: Reset = "file") -> NIRNetwork:
    """The network of a .nir file (or of a ``nir.NIRGraph``), on the CPU, in eval mode; one time step per call.

    dt: the time step, in the unit of the file's time constants. rule: how a neuron spikes, one of ``RULES``. reset:
    how it resets, one of ``RESETS``. The neuron equations are in ``nir/nodes.py``. Profile it with
    ``time="call-axis0"`` and a loader of (T, B, ...) frames; ``reset_state`` returns it to rest.
    Raises CheckpointError for a file that is missing, truncated or not a NIR graph, for unsupported node types, edges
    to missing nodes, shapes that do not match, values that are not finite, a dt longer than a time constant, and if
    h5py is not installed.
    """
    for name, value, known in (("rule", rule, RULES), ("reset", reset, RESETS)):
        if value not in known:
            raise CheckpointError(f"{name}={value!r} is unknown (known: {', '.join(known)})")
    if isinstance(dt, bool) or not isinstance(dt, int | float) or not (math.isfinite(dt) and dt > 0):
        raise CheckpointError(f"dt={dt!r} must be a number above 0, in the unit of the file's time constants")
    is_file = isinstance(source, str | Path)
    where = str(source) if is_file else "the NIR graph"
    graph = read_file(Path(source)) if is_file else read_graph(source)
    network = _Builder(where, float(dt), rule, reset).build(graph)
    if is_file:
        network.__dict__["snn_energy_checkpoint"] = {
            "checkpoint": Path(source).name,
            "checkpoint_sha256": sha256_of(source),
            "seed": None,
        }
    return network.eval()


@dataclass
class _Builder:
    """Builds modules from nodes; ``where`` is the graph's name in errors."""

    where: str
    dt: float
    rule: Rule
    reset: Reset

    def build(self, root: Params) -> NIRNetwork:
        """The network of a root node. Raises CheckpointError."""
        if root.get("type") != "NIRGraph":
            raise CheckpointError(
                f"{self.where}: holds a {root.get('type')} node, not a NIRGraph; save the whole graph"
            )
        nodes, edges = self._flattened(root, "", 0)
        self._require_known(nodes, edges)
        entry = self._one_input(nodes)
        exits = sorted(name for name, node in nodes.items() if node["type"] == "Output")
        if not exits:
            raise CheckpointError(f"{self.where}: no Output node; a graph needs one for its result")
        sources, order, back_edges = self._order(nodes, edges, entry)
        modules = {name: self._module(name, node) for name, node in nodes.items()}
        steps = [
            Step(
                name,
                None,
                tuple(sorted(source for source in sources[name] if (source, name) not in back_edges)),
                tuple(sorted(source for source in sources[name] if (source, name) in back_edges)),
            )
            for name in order
            if name != entry
        ]
        input_shape = shape_tuple(nodes[entry]["shape"])
        self._require_matching_shapes(nodes, modules, steps, entry, input_shape)
        module_names = submodule_names([name for name in order if modules[name] is not None])
        named = [Step(s.name, module_names.get(s.name), s.reads, s.reads_previous) for s in steps]
        named_modules = {module_names[name]: module for name in module_names if (module := modules[name]) is not None}
        network = NIRNetwork(named_modules, named, entry, exits, input_shape)
        network.reset_state()
        return network

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {text}")

    def _flattened(self, graph: Params, prefix: str, depth: int) -> tuple[dict[str, Params], list[tuple[str, str]]]:
        """Nodes and edges; those of nested graphs are named ``name.inner``."""
        description = f"graph '{prefix[:-1]}'" if prefix else "the graph"
        if depth > MAX_DEPTH or not isinstance(graph.get("nodes"), Mapping) or "edges" not in graph:
            raise self._error(
                f"{description} lacks nodes or edges, or lies deeper than {MAX_DEPTH}; save it with nir.write"
            )
        nodes: dict[str, Params] = {}
        edges: list[tuple[str, str]] = []
        input_port: dict[str, str] = {}
        output_port: dict[str, str] = {}
        for name, node in graph["nodes"].items():
            full_name = prefix + name
            if node.get("type") != "NIRGraph":
                nodes[full_name] = node
                continue
            inner, inner_edges = self._flattened(node, f"{full_name}.", depth + 1)
            ports = [[key for key, n in inner.items() if n.get("type") == kind] for kind in ("Input", "Output")]
            if any(len(found) != 1 for found in ports):
                raise self._error(
                    f"graph '{full_name}' has {len(ports[0])} Input and {len(ports[1])} Output nodes; "
                    "a graph within a graph must have one of each"
                )
            (input_port[full_name],), (output_port[full_name],) = ports
            nodes |= inner | {port: {**inner[port], "type": "Port"} for (port,) in ports}
            edges += inner_edges
        edges += [
            (output_port.get(prefix + a, prefix + a), input_port.get(prefix + b, prefix + b))
            for a, b in self._pairs(graph["edges"])
        ]
        return nodes, sorted(set(edges))

    def _pairs(self, edges: Any) -> list[tuple[str, str]]:
        found = [tuple(end.decode() if isinstance(end, bytes) else end for end in pair) for pair in edges]
        invalid = next(
            (pair for pair in found if len(pair) != 2 or not all(isinstance(end, str) for end in pair)), None
        )
        if invalid is not None:
            raise self._error(f"the edge {invalid} is not a pair of node names; save the graph with nir.write")
        return found  # type: ignore[return-value]

    def _require_known(self, nodes: Mapping[str, Params], edges: Iterable[tuple[str, str]]) -> None:
        for name, node in nodes.items():
            kind = node.get("type")
            if kind != "Port" and kind not in NODE_FIELDS:
                known = [k for k in NODE_FIELDS if k != "NIRGraph"]
                raise self._error(
                    f"node '{name}' is of type {kind}{nearest(str(kind), known)}, which is not supported "
                    f"(supported: {', '.join(known)})"
                )
            for field in ("shape",) if kind == "Port" else NODE_FIELDS[str(kind)]:
                if node.get(field) is None:
                    raise self._error(f"node '{name}' ({kind}) has no {field}; save the graph with nir.write")
        for a, b in edges:
            for end in (a, b):
                if end not in nodes:
                    guess = nearest(end, nodes) or "; fix the graph"
                    raise self._error(f"the edge from '{a}' to '{b}' names a node that does not exist{guess}")

    def _one_input(self, nodes: Mapping[str, Params]) -> str:
        found = [name for name, node in nodes.items() if node["type"] == "Input"]
        if len(found) != 1:
            raise self._error(f"{len(found)} Input nodes; the graph must have one, which reads the loader's frames")
        return found[0]

    def _order(
        self, nodes: Mapping[str, Params], edges: Iterable[tuple[str, str]], entry: str
    ) -> tuple[dict[str, list[str]], list[str], set[tuple[str, str]]]:
        """The sources of every node, the order within a time step, and the edges that close cycles."""
        successors: dict[str, list[str]] = {name: [] for name in nodes}
        sources: dict[str, list[str]] = {name: [] for name in nodes}
        for a, b in edges:
            if b == entry:
                raise self._error(f"an edge leads from '{a}' into the Input node '{b}', which reads only the loader")
            successors[a].append(b)
            sources[b].append(a)
        depth = node_depths(successors, entry)
        unreachable = next((name for name in sorted(nodes) if name not in depth), None)
        if unreachable is not None:
            raise self._error(
                f"no edge leads from the Input to node '{unreachable}' ({nodes[unreachable]['type']}); fix the edges"
            )
        for next_nodes in successors.values():
            next_nodes.sort(key=lambda name: (depth[name], name))
        order, back_edges = depth_first(successors, entry)
        stateless = {name for name in nodes if nodes[name]["type"] not in STATEFUL_NODES}
        loop = cycle_nodes(stateless, successors)
        if loop:
            raise self._error(
                f"the cycle through {', '.join(loop)} holds no neuron and no delay, so its output is undefined"
            )
        return sources, order, back_edges

    def _module(self, name: str, node: Params) -> nn.Module | None:
        """The module of a node; None if it passes its input on. Raises CheckpointError."""
        kind = str(node["type"])
        fields = (*NODE_FIELDS.get(kind, ()), *OPTIONAL_FIELDS)
        params: dict[str, Any] = {k: node[k] for k in fields if node.get(k) is not None}
        for key in NUMERIC:
            if key in params:
                params[key] = self._numbers(name, kind, key, params[key])
        if kind in ("Input", "Output", "Port"):
            return None
        if kind in SPIKING_NODES or kind in ("I", "LI", "CubaLI"):
            return self._neuron(name, kind, params)
        if kind == "Threshold":
            return NIRThreshold({"threshold": self._numbers(name, kind, "threshold", params["threshold"])})
        if kind == "Delay":
            return Delay(self._delay_steps(name, params["delay"]))
        try:
            return PLAIN_NODES[kind](params)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise self._error(f"node '{name}' ({kind}): {error}; fix the node") from error

    def _numbers(self, name: str, kind: str, key: str, value: Any) -> npt.NDArray[np.float64]:
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise self._error(f"node '{name}' ({kind}): {key} holds no numbers ({error}); fix the node") from error
        if not np.isfinite(found).all():
            raise self._error(
                f"node '{name}' ({kind}): {key} holds NaN or infinite values; nothing can be counted with it"
            )
        return found

    def _neuron(self, name: str, kind: str, params: Params) -> nn.Module:
        for key in ("tau", "tau_mem", "tau_syn"):
            if key in params and params[key].size and params[key].min() < self.dt:
                raise self._error(
                    f"node '{name}' ({kind}): {key} = {params[key].min():g} is shorter than the time step dt = "
                    f"{self.dt:g}; give dt in the unit of the file (snnTorch writes seconds with dt=1e-4)"
                )
        if kind not in SPIKING_NODES:
            return NIRIntegrator(kind, params, self.dt)
        if self.rule == "sinabs" and (kind != "IF" or params["v_threshold"].min() <= 0):
            raise self._error(
                f"node '{name}' ({kind}): rule 'sinabs' is for IF nodes with thresholds above 0; take 'nir'"
            )
        return NIRNeuron(kind, params, self.dt, self.rule, self.reset)

    def _delay_steps(self, name: str, value: Any) -> npt.NDArray[np.int64]:
        delay = self._numbers(name, "Delay", "delay", value)
        steps = np.rint(delay / self.dt)
        if (np.abs(delay / self.dt - steps) > 1e-3).any() or (steps < 0).any() or (steps > 1e6).any():
            raise self._error(f"node '{name}' (Delay): its delays are no whole numbers of time steps dt = {self.dt:g}")
        return steps.astype(np.int64)

    def _require_matching_shapes(
        self,
        nodes: Mapping[str, Params],
        modules: Mapping[str, nn.Module | None],
        steps: Sequence[Step],
        entry: str,
        input_shape: Shape,
    ) -> None:
        """Run one sample of zeros through the graph, node by node; raises CheckpointError if shapes do not match."""
        shapes = {entry: input_shape}
        for step in steps:
            node, module = nodes[step.name], modules[step.name]
            input_shapes = {shapes[source] for source in step.reads}
            description = f"node '{step.name}' ({node['type'] if node['type'] != 'Port' else 'port of a graph'})"
            if len(input_shapes) > 1:
                different = " and ".join(map(shape_text, sorted(input_shapes)))
                raise self._error(f"{description} sums inputs of different shapes: {different}; fix the edges")
            (shape,) = input_shapes
            declared = declared_input_shape(node, shape)
            if declared is not None and declared != shape:
                raise self._error(
                    f"{description} reads {shape_text(declared)}, but '{step.reads[0]}' gives {shape_text(shape)}"
                )
            try:
                with torch.no_grad():
                    shapes[step.name] = shape if module is None else tuple(module(torch.zeros(1, *shape)).shape[1:])
            except (RuntimeError, IndexError, ValueError) as error:
                raise self._error(f"{description} does not accept {shape_text(shape)}: {error}") from error
        for step in steps:
            for source in step.reads_previous:
                expected = shapes[step.reads[0]]
                if shapes[source] != expected:
                    raise self._error(
                        f"node '{step.name}' reads {shape_text(expected)}, "
                        f"but '{source}' gives {shape_text(shapes[source])}"
                    )
