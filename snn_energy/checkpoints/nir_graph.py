"""NIR graphs (.nir) as networks: the Neuromorphic Intermediate Representation, run and counted without its framework.

J. E. Pedersen et al., *Neuromorphic Intermediate Representation: a Unified Instruction Set for Interoperable
Brain-Inspired Computing*, Nature Communications 15:8122, 2024. A file holds nodes in continuous time and the edges
between them; ``load_nir`` makes them a torch module that does one time step a call. Edges into one node add up.

Discretisation, with the time step dt in the unit of the file's time constants (forward Euler; potentials and currents
start at 0):

    IF        v <- v + dt r x                                     I the same, without spikes
    LIF       v <- v + dt/tau (v_leak - v + r x)                  LI the same, without spikes
    CubaLIF   i <- i + dt/tau_syn (w_in x - i), then the LIF reads the new i (as Norse and snnTorch run it)
    spikes    1 where v > v_threshold, else 0
    reset     v <- v - v_threshold after a spike where the node has no v_reset (the equations of NIR up to 1.0.4),
              v <- v_reset where the file gives one (those of later versions)
    Delay     y(t) = x(t - delay), a whole number of dt; 0 before
    cycles    the edge that closes one brings the output of the step before, nothing at the first step (as nirtorch)

dt is 1 unless given, which suits graphs that were trained in time steps and have no time constants (IF alone, as
sinabs writes them). Files of snnTorch and Norse hold seconds, with dt of 1e-4 and 1e-3.
"""

from __future__ import annotations

import importlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_energy.checkpoints.checkpoint import sha256_of
from snn_energy.core.errors import CheckpointError, DataError, nearest

Array = npt.NDArray[Any]
Params = Mapping[str, Any]
Shape = tuple[int, ...]
Rule = Literal["nir", "sinabs"]
Reset = Literal["file", "subtract", "v_reset"]
RULES: Mapping[Rule, str] = {
    "nir": "one spike a step where v > v_threshold",
    "sinabs": "as sinabs runs IF nodes: floor(v / v_threshold) spikes a step, v never below -v_threshold",
}
RESETS: Mapping[Reset, str] = {
    "file": "to v_reset where the file gives one, else by subtraction",
    "subtract": "by subtraction of v_threshold",
    "v_reset": "to v_reset, 0 where the file gives none",
}
INSTALL = "pip install 'snn_energy[nir]'"
MAX_DEPTH = 16  # of graphs within graphs
MAX_EXPANSION = 1100  # of bytes in a file to bytes in memory; gzip does not get above 1032


# --- neurons ---------------------------------------------------------------------------------------------------------


class NIRIntegrator(nn.Module):
    """I, LI and CubaLI: the potential itself is the output. One time step a call, (B, ...) -> (B, ...).

    The state is ``v``, and ``i`` with a synapse; None before the first step.
    """

    spiking_neuron = True
    integrates_only = True
    amplitude: float | None = None
    reset = "none"
    gain: Tensor | None
    decay: Tensor | None
    leak: Tensor | None
    synapse_gain: Tensor | None
    synapse_decay: Tensor | None

    def __init__(self, kind: str, params: Params, dt: float) -> None:
        super().__init__()
        self.kind = kind
        self.v: Tensor | None = None
        self.i: Tensor | None = None
        tau = params.get("tau", params.get("tau_mem"))
        rate = np.asarray(dt if tau is None else dt / tau)
        self._hold("gain", rate * params["r"], 1)
        self._hold("decay", 1 - rate if tau is not None else None, 1)
        self._hold("leak", rate * params.get("v_leak", np.zeros(())), 0)
        synapse = dt / params["tau_syn"] if "tau_syn" in params else None
        self._hold("synapse_gain", None if synapse is None else synapse * params.get("w_in", np.ones(())), 1)
        self._hold("synapse_decay", None if synapse is None else 1 - synapse, None)

    def _hold(self, name: str, values: Array | None, neutral: float | None) -> None:
        """A constant as a buffer; None where it changes nothing. One number where all neurons have the same."""
        is_neutral = values is None or (neutral is not None and bool((values == neutral).all()))
        self.register_buffer(name, None if is_neutral else _tensor(values), persistent=False)

    def reset_state(self) -> None:
        """Forget the potential: the next step starts at rest."""
        self.v = self.i = None

    def charge(self, x: Tensor) -> Tensor:
        """The potential after one step's input, before any spike."""
        if self.synapse_decay is not None:
            x = x if self.synapse_gain is None else x * self.synapse_gain
            self.i = x = x if self.i is None else self.i * self.synapse_decay + x
        x = x if self.gain is None else x * self.gain
        x = x if self.leak is None else x + self.leak
        if self.v is None:
            return x
        return x + (self.v if self.decay is None else self.v * self.decay)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) current of one step -> the potential after it."""
        self.v = self.charge(x)
        return self.v

    def extra_repr(self) -> str:
        """The node's type in the file."""
        return self.kind


class NIRNeuron(NIRIntegrator):
    """IF, LIF and CubaLIF: spikes of amplitude 1 (several at once under rule "sinabs"). One time step a call."""

    integrates_only = False
    v_threshold: Tensor
    v_reset: Tensor | None

    def __init__(self, kind: str, params: Params, dt: float, rule: Rule, reset: Reset) -> None:
        super().__init__(kind, params, dt)
        given = params.get("v_reset", np.zeros(()) if reset == "v_reset" else None)
        self.counts_spikes = rule == "sinabs"
        self.amplitude = None if self.counts_spikes else 1.0
        self._hold("v_threshold", params["v_threshold"], None)
        self._hold("v_reset", None if reset == "subtract" else given, None)
        self.reset = "soft" if self.v_reset is None else "hard, to v_reset"

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) current of one step -> spikes of the same shape."""
        v = self.charge(x)
        if self.counts_spikes:
            spikes = torch.div(v, self.v_threshold, rounding_mode="trunc").clamp_min(0)
            self.v = torch.maximum(v - spikes * self.v_threshold, -self.v_threshold)
            return spikes
        fired = v > self.v_threshold
        spikes = fired.to(v.dtype)
        if self.v_reset is None:
            self.v = v - spikes * self.v_threshold
        else:
            self.v = torch.where(fired, self.v_reset.to(v.dtype), v)
        return spikes


class NIRThreshold(nn.Module):
    """1 where the input exceeds the threshold, else 0; no state."""

    spiking_neuron = True
    integrates_only = False
    amplitude: float | None = 1.0
    reset = "none"
    v_threshold: Tensor

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.register_buffer("v_threshold", _tensor(params["threshold"]), persistent=False)

    def reset_state(self) -> None:
        """There is none."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...) -> spikes of the same shape."""
        return (x > self.v_threshold).to(x.dtype)


# --- nodes without neurons -------------------------------------------------------------------------------------------


class SumPool2d(nn.Module):
    """Sums over windows of (B, C, H, W), so that sums of spikes stay whole multiples of one."""

    def __init__(self, kernel: Shape, stride: Shape, padding: Shape) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        padded = functional.pad(x, (pw, pw, ph, ph)) if ph or pw else x
        return padded.unfold(2, kh, sh).unfold(3, kw, sw).sum((-2, -1))


class Scale(nn.Module):
    """y = s x, element by element."""

    scale: Tensor

    def __init__(self, scale: Array) -> None:
        super().__init__()
        self.register_buffer("scale", _tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        return x * self.scale


class Delay(nn.Module):
    """y(t) = x(t - d): every element of an earlier step; nothing is computed, only moved."""

    spiking_neuron = False
    picks: Tensor

    def __init__(self, steps: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self.longest = int(steps.max(initial=0))
        self.uniform = bool((steps == steps.flat[0]).all()) if steps.size else True
        picks = (self.longest - steps.reshape(-1)) * steps.size + np.arange(steps.size)
        self.register_buffer("picks", torch.from_numpy(picks), persistent=False)
        self.past: tuple[Tensor, ...] = ()  # the last ``longest`` steps, the earliest first

    def reset_state(self) -> None:
        """Forget what is under way."""
        self.past = ()

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.longest:
            return x
        past = self.past or (_silence(x),) * self.longest
        self.past = (*past[1:], x)
        if self.uniform:
            return past[0]
        steps = torch.cat([step.flatten(1) for step in (*past, x)], 1)
        return steps.index_select(1, self.picks).reshape(x.shape)


def _silence(x: Tensor) -> Tensor:
    """Zeros of the shape of x that still stem from it: an empty part of it, filled up."""
    flat = x.flatten(1)
    return functional.pad(flat[:, :0], (0, flat.shape[1])).reshape(x.shape)


# --- the graph -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One node in the order of a time step: what it reads of this step, and of the one before."""

    name: str
    module: str | None  # None: it hands its input on
    reads: tuple[str, ...]
    reads_before: tuple[str, ...]


class NIRNetwork(nn.Module):
    """A NIR graph; ``forward`` does one time step, (B, ...) -> (B, ...), and keeps the state for the next.

    Nodes are submodules of their own names (letters that a name of a module may not have become "_").
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        steps: Sequence[Step],
        entry: str,
        exits: Sequence[str],
        input_shape: Shape,
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.steps, self.entry, self.exits, self.input_shape = tuple(steps), entry, tuple(exits), input_shape
        self.kept = frozenset(source for step in steps for source in step.reads_before)
        self.before: dict[str, Tensor] = {}  # outputs that the next step reads

    def reset_state(self) -> None:
        """Put every neuron and delay at rest."""
        self.before = {}
        for module in self.children():
            if isinstance(module, NIRIntegrator | NIRThreshold | Delay):
                module.reset_state()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """x: (B, ...) input of one time step. A tuple where the graph has several outputs. Raises DataError."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise DataError(f"the graph reads (B, {_text(self.input_shape)}) in every step, not {tuple(x.shape)}")
        values = {self.entry: x}
        for step in self.steps:
            read = [values[name] for name in step.reads]
            read += [self.before[name] for name in step.reads_before if name in self.before]
            total = read[0]
            for other in read[1:]:
                total = total + other
            values[step.name] = total if step.module is None else self._modules[step.module](total)  # type: ignore[misc]
        self.before = {name: values[name] for name in self.kept}
        outs = tuple(values[name] for name in self.exits)
        return outs[0] if len(outs) == 1 else outs


def load_nir(source: str | Path | Any, *, dt: float = 1.0, rule: Rule = "nir", reset: Reset = "file") -> NIRNetwork:
    """The network of a .nir file (or of a ``nir.NIRGraph``), on the CPU, in eval mode; one time step a call.

    dt: the time step, in the unit of the file's time constants. rule: how a neuron spikes, one of ``RULES``. reset:
    how it resets, one of ``RESETS``. The equations stand at the top of this module. Profile it with
    ``time="call-axis0"`` and a loader of (T, B, ...) frames; ``reset_state`` puts it at rest.
    Raises CheckpointError for a file that is missing, truncated or no NIR graph, for node types that are not
    supported, edges that lead nowhere, shapes that do not fit, values that are not finite, a dt that the time
    constants do not bear, and where h5py is not installed.
    """
    for name, value, known in (("rule", rule, RULES), ("reset", reset, RESETS)):
        if value not in known:
            raise CheckpointError(f"{name}={value!r} is unknown (known: {', '.join(known)})")
    if isinstance(dt, bool) or not isinstance(dt, int | float) or not (math.isfinite(dt) and dt > 0):
        raise CheckpointError(f"dt={dt!r} must be a number above 0, in the unit of the file's time constants")
    is_file = isinstance(source, str | Path)
    where = str(source) if is_file else "the NIR graph"
    graph = _read_file(Path(source)) if is_file else _read_graph(source)
    network = _Builder(where, float(dt), rule, reset).build(graph)
    if is_file:
        network.__dict__["snn_energy_checkpoint"] = {
            "checkpoint": Path(source).name,
            "checkpoint_sha256": sha256_of(source),
            "seed": None,
        }
    return network.eval()


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> dict[str, Any]:
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
    """One node: its fields, and its own nodes where it is a graph. Links to elsewhere are not followed."""
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


def _read_graph(graph: Any) -> dict[str, Any]:
    """A graph of the nir package in memory. Raises CheckpointError for anything else."""
    if not hasattr(graph, "nodes") or not callable(getattr(graph, "to_dict", None)):
        raise CheckpointError(f"load_nir wants the path of a .nir file or a nir.NIRGraph, not {type(graph).__name__}")
    found: dict[str, Any] = graph.to_dict()
    return found


# --- building --------------------------------------------------------------------------------------------------------

# type -> the fields that it must have
_FIELDS: Mapping[str, tuple[str, ...]] = {
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
_OPTIONAL = ("w_in", "v_reset")
_SPIKING = ("IF", "LIF", "CubaLIF")
_STATEFUL = (*_SPIKING, "I", "LI", "CubaLI", "Delay")
_PER_ELEMENT = ("r", "tau", "tau_mem", "tau_syn", "v_leak", "v_threshold", "v_reset", "w_in", "scale", "delay",
                "threshold")  # fmt: skip
_NUMBERS = ("weight", "bias", "r", "tau", "tau_mem", "tau_syn", "v_leak", "v_threshold", "v_reset", "w_in", "scale")


@dataclass
class _Builder:
    """Makes modules of nodes; ``where`` is what errors call the graph."""

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
        nodes, edges = self._flat(root, "", 0)
        self._require_known(nodes, edges)
        entry = self._one_input(nodes)
        exits = sorted(name for name, node in nodes.items() if node["type"] == "Output")
        if not exits:
            raise CheckpointError(f"{self.where}: no Output node; a graph needs one for its result")
        reads, order, closing = self._order(nodes, edges, entry)
        modules = {name: self._module(name, node) for name, node in nodes.items()}
        steps = [
            Step(
                name,
                None,
                tuple(sorted(source for source in reads[name] if (source, name) not in closing)),
                tuple(sorted(source for source in reads[name] if (source, name) in closing)),
            )
            for name in order
            if name != entry
        ]
        input_shape = _shape(nodes[entry]["shape"])
        self._require_fit(nodes, modules, steps, entry, input_shape)
        legal = _legal_names([name for name in order if modules[name] is not None])
        named = [Step(s.name, legal.get(s.name), s.reads, s.reads_before) for s in steps]
        kept = {legal[name]: module for name in legal if (module := modules[name]) is not None}
        network = NIRNetwork(kept, named, entry, exits, input_shape)
        network.reset_state()
        return network

    def _fail(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {text}")

    def _flat(self, graph: Params, prefix: str, depth: int) -> tuple[dict[str, Params], list[tuple[str, str]]]:
        """Nodes and edges, those of graphs within it under ``name.inner``."""
        what = f"graph '{prefix[:-1]}'" if prefix else "the graph"
        if depth > MAX_DEPTH or not isinstance(graph.get("nodes"), Mapping) or "edges" not in graph:
            raise self._fail(f"{what} lacks nodes or edges, or lies deeper than {MAX_DEPTH}; save it with nir.write")
        nodes: dict[str, Params] = {}
        edges: list[tuple[str, str]] = []
        into: dict[str, str] = {}
        out_of: dict[str, str] = {}
        for name, node in graph["nodes"].items():
            whole = prefix + name
            if node.get("type") != "NIRGraph":
                nodes[whole] = node
                continue
            inner, inner_edges = self._flat(node, f"{whole}.", depth + 1)
            ports = [[key for key, n in inner.items() if n.get("type") == kind] for kind in ("Input", "Output")]
            if any(len(found) != 1 for found in ports):
                raise self._fail(
                    f"graph '{whole}' has {len(ports[0])} Input and {len(ports[1])} Output nodes; "
                    "a graph within a graph must have one of each"
                )
            (into[whole],), (out_of[whole],) = ports
            nodes |= inner | {port: {**inner[port], "type": "Port"} for (port,) in ports}
            edges += inner_edges
        edges += [
            (out_of.get(prefix + a, prefix + a), into.get(prefix + b, prefix + b))
            for a, b in self._pairs(graph["edges"])
        ]
        return nodes, sorted(set(edges))

    def _pairs(self, edges: Any) -> list[tuple[str, str]]:
        found = [tuple(end.decode() if isinstance(end, bytes) else end for end in pair) for pair in edges]
        odd = next((pair for pair in found if len(pair) != 2 or not all(isinstance(end, str) for end in pair)), None)
        if odd is not None:
            raise self._fail(f"the edge {odd} is no pair of two nodes' names; save the graph with nir.write")
        return found  # type: ignore[return-value]

    def _require_known(self, nodes: Mapping[str, Params], edges: Iterable[tuple[str, str]]) -> None:
        for name, node in nodes.items():
            kind = node.get("type")
            if kind != "Port" and kind not in _FIELDS:
                known = [k for k in _FIELDS if k != "NIRGraph"]
                raise self._fail(
                    f"node '{name}' is of type {kind}{nearest(str(kind), known)}, which is not supported "
                    f"(supported: {', '.join(known)})"
                )
            for field in ("shape",) if kind == "Port" else _FIELDS[str(kind)]:
                if node.get(field) is None:
                    raise self._fail(f"node '{name}' ({kind}) has no {field}; save the graph with nir.write")
        for a, b in edges:
            for end in (a, b):
                if end not in nodes:
                    guess = nearest(end, nodes) or "; mend the graph"
                    raise self._fail(f"the edge from '{a}' to '{b}' names a node that is not there{guess}")

    def _one_input(self, nodes: Mapping[str, Params]) -> str:
        found = [name for name, node in nodes.items() if node["type"] == "Input"]
        if len(found) != 1:
            raise self._fail(f"{len(found)} Input nodes; the graph must have one, which reads the loader's frames")
        return found[0]

    def _order(
        self, nodes: Mapping[str, Params], edges: Iterable[tuple[str, str]], entry: str
    ) -> tuple[dict[str, list[str]], list[str], set[tuple[str, str]]]:
        """What every node reads, the order within a time step, and the edges that close cycles."""
        leads: dict[str, list[str]] = {name: [] for name in nodes}
        reads: dict[str, list[str]] = {name: [] for name in nodes}
        for a, b in edges:
            if b == entry:
                raise self._fail(f"an edge leads from '{a}' into the Input node '{b}', which reads the loader alone")
            leads[a].append(b)
            reads[b].append(a)
        depth = _depths(leads, entry)
        lone = next((name for name in sorted(nodes) if name not in depth), None)
        if lone is not None:
            raise self._fail(f"no edge leads from the Input to node '{lone}' ({nodes[lone]['type']}); mend the edges")
        for ahead in leads.values():
            ahead.sort(key=lambda name: (depth[name], name))
        order, closing = _depth_first(leads, entry)
        stateless = {name for name in nodes if nodes[name]["type"] not in _STATEFUL}
        loop = _loop_among(stateless, leads)
        if loop:
            raise self._fail(f"the cycle through {', '.join(loop)} holds no neuron and no delay; it has no result")
        return reads, order, closing

    def _module(self, name: str, node: Params) -> nn.Module | None:
        """The module of a node; None where it hands its input on. Raises CheckpointError."""
        kind = str(node["type"])
        fields = (*_FIELDS.get(kind, ()), *_OPTIONAL)
        params: dict[str, Any] = {k: node[k] for k in fields if node.get(k) is not None}
        for key in _NUMBERS:
            if key in params:
                params[key] = self._numbers(name, kind, key, params[key])
        if kind in ("Input", "Output", "Port"):
            return None
        if kind in _SPIKING or kind in ("I", "LI", "CubaLI"):
            return self._neuron(name, kind, params)
        if kind == "Threshold":
            return NIRThreshold({"threshold": self._numbers(name, kind, "threshold", params["threshold"])})
        if kind == "Delay":
            return Delay(self._delay_steps(name, params["delay"]))
        try:
            return _PLAIN[kind](params)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise self._fail(f"node '{name}' ({kind}): {error}; mend the node") from error

    def _numbers(self, name: str, kind: str, key: str, value: Any) -> npt.NDArray[np.float64]:
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise self._fail(f"node '{name}' ({kind}): {key} holds no numbers ({error}); mend the node") from error
        if not np.isfinite(found).all():
            raise self._fail(
                f"node '{name}' ({kind}): {key} holds NaN or infinite values; nothing can be counted with it"
            )
        return found

    def _neuron(self, name: str, kind: str, params: Params) -> nn.Module:
        for key in ("tau", "tau_mem", "tau_syn"):
            if key in params and params[key].size and params[key].min() < self.dt:
                raise self._fail(
                    f"node '{name}' ({kind}): {key} = {params[key].min():g} is shorter than the time step dt = "
                    f"{self.dt:g}; give dt in the unit of the file (snnTorch writes seconds with dt=1e-4)"
                )
        if kind not in _SPIKING:
            return NIRIntegrator(kind, params, self.dt)
        if self.rule == "sinabs" and (kind != "IF" or params["v_threshold"].min() <= 0):
            raise self._fail(
                f"node '{name}' ({kind}): rule 'sinabs' is for IF nodes with thresholds above 0; take 'nir'"
            )
        return NIRNeuron(kind, params, self.dt, self.rule, self.reset)

    def _delay_steps(self, name: str, value: Any) -> npt.NDArray[np.int64]:
        delay = self._numbers(name, "Delay", "delay", value)
        steps = np.rint(delay / self.dt)
        if (np.abs(delay / self.dt - steps) > 1e-3).any() or (steps < 0).any() or (steps > 1e6).any():
            raise self._fail(f"node '{name}' (Delay): its delays are no whole numbers of time steps dt = {self.dt:g}")
        return steps.astype(np.int64)

    def _require_fit(
        self,
        nodes: Mapping[str, Params],
        modules: Mapping[str, nn.Module | None],
        steps: Sequence[Step],
        entry: str,
        input_shape: Shape,
    ) -> None:
        """Send one sample of zeros through, node by node; raises CheckpointError where shapes do not fit."""
        shapes = {entry: input_shape}
        for step in steps:
            node, module = nodes[step.name], modules[step.name]
            read = {shapes[source] for source in step.reads}
            what = f"node '{step.name}' ({node['type'] if node['type'] != 'Port' else 'port of a graph'})"
            if len(read) > 1:
                raise self._fail(f"{what} adds up {' and '.join(map(_text, sorted(read)))}; mend the edges")
            (shape,) = read
            wanted = _reads(node, shape)
            if wanted is not None and wanted != shape:
                raise self._fail(f"{what} reads {_text(wanted)}, but '{step.reads[0]}' gives {_text(shape)}")
            try:
                with torch.no_grad():
                    shapes[step.name] = shape if module is None else tuple(module(torch.zeros(1, *shape)).shape[1:])
            except (RuntimeError, IndexError, ValueError) as error:
                raise self._fail(f"{what} does not take {_text(shape)}: {error}") from error
        for step in steps:
            for source in step.reads_before:
                reads = shapes[step.reads[0]]
                if shapes[source] != reads:
                    raise self._fail(
                        f"node '{step.name}' reads {_text(reads)}, but '{source}' gives {_text(shapes[source])}"
                    )


def _depths(leads: Mapping[str, Sequence[str]], entry: str) -> dict[str, int]:
    """How many edges lie between the input and every node that it reaches."""
    depth, waiting = {entry: 0}, deque([entry])
    while waiting:
        name = waiting.popleft()
        for ahead in leads[name]:
            if ahead not in depth:
                depth[ahead] = depth[name] + 1
                waiting.append(ahead)
    return depth


def _depth_first(leads: Mapping[str, Sequence[str]], entry: str) -> tuple[list[str], set[tuple[str, str]]]:
    """A topological order, and the edges that lead back to a node on the way: without them there is no cycle."""
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


def _loop_among(names: set[str], leads: Mapping[str, Sequence[str]]) -> list[str]:
    """Nodes of cycles within ``names`` (and between two of them); empty where there is none."""
    left = set(names)
    while True:
        led_to = {ahead for name in left for ahead in leads[name]}
        inner = {name for name in left & led_to if not left.isdisjoint(leads[name])}
        if inner == left:
            return sorted(left)
        left = inner


def _legal_names(names: Iterable[str]) -> dict[str, str]:
    """Names of nodes -> names of submodules, all different: no dots, and none that a module has already."""
    legal: dict[str, str] = {}
    taken = {"steps", "entry", "exits", "input_shape", "kept", "before"}
    for name in names:
        found = name.replace(".", "_") or "_"
        while found in taken or hasattr(NIRNetwork, found) or found in vars(nn.Module()):
            found += "_"
        taken.add(found)
        legal[name] = found
    return legal


def _reads(node: Params, shape: Shape) -> Shape | None:
    """The shape that a node says it reads, given what comes; None where it does not say."""
    kind = node["type"]
    if kind in ("Input", "Output", "Port"):
        return _shape(node["shape"])
    if kind in ("Affine", "Linear"):
        return (int(np.shape(node["weight"])[-1]),)
    if kind == "Flatten":
        return None if node.get("input_type") is None else _flatten_shape(node["input_type"])
    if kind in ("Conv1d", "Conv2d"):
        given = node.get("input_shape")
        return None if given is None or not shape else (shape[0], *_shape(given))
    own = {np.shape(node[key]) for key in _PER_ELEMENT if node.get(key) is not None}
    large = {found for found in own if math.prod(found) != 1}  # one number serves all elements
    return next(iter(sorted(large, key=lambda found: found == shape)), None)  # one that does not fit first


def _flatten_shape(value: Any) -> Shape | None:
    found = value.get("input") if isinstance(value, Mapping) else value
    return None if found is None else _shape(found)


def _shape(value: Any) -> Shape:
    return tuple(int(v) for v in np.asarray(value).reshape(-1))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _tensor(values: Array | None) -> Tensor:
    """float32; a single number where all are the same."""
    found = np.asarray(values, np.float64)
    if found.size and bool((found == found.flat[0]).all()):
        found = found.reshape(-1)[0]
    return torch.tensor(found, dtype=torch.float32)


# --- layers with weights, pools and flatten --------------------------------------------------------------------------


def _sizes(value: Any, axes: int) -> Shape:
    """One whole number, or one per axis."""
    found = _shape(value)
    found = found * axes if len(found) == 1 else found
    if len(found) != axes or min(found) < 0:
        raise ValueError(f"{found} must be {axes} whole numbers")
    return found


def _convolution(params: Params, axes: int) -> nn.Module:
    weight, bias = params["weight"], params["bias"]
    if weight.ndim != axes + 2:
        raise ValueError(f"its weight has {weight.ndim} axes, not {axes + 2}")
    groups, padding = int(params["groups"]), params["padding"]
    padding = padding.decode() if isinstance(padding, bytes) else padding
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"its {weight.shape[0]} output channels do not divide into {groups} groups")
    kind: Callable[..., nn.Module] = nn.Conv1d if axes == 1 else nn.Conv2d
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(params["stride"], axes),
        padding=padding if isinstance(padding, str) else _sizes(padding, axes),
        dilation=_sizes(params["dilation"], axes),
        groups=groups,
        bias=bool(bias.any()),
    )
    return _filled(layer, weight, bias)


def _linear(params: Params) -> nn.Module:
    weight, bias = params["weight"], params.get("bias", np.zeros(()))
    if weight.ndim != 2:
        raise ValueError(f"its weight has {weight.ndim} axes; a matrix is supported")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias.any()))
    return _filled(layer, weight, bias)


def _filled(layer: nn.Module, weight: Array, bias: Array) -> nn.Module:
    """A layer with these weights; a bias of zeros is none."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float32))  # type: ignore[operator]
        if layer.bias is not None:
            if bias.shape != (weight.shape[0],):
                raise ValueError(f"its bias is {_text(bias.shape)}, not {weight.shape[0]}")
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float32))  # type: ignore[operator]
    return layer


def _flatten(params: Params) -> nn.Module:
    start, end = int(params["start_dim"]), int(params["end_dim"])  # NIR counts axes without the samples
    return nn.Flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)


def _pool(params: Params) -> tuple[Shape, Shape, Shape]:
    kernel, stride, padding = (_sizes(params[key], 2) for key in ("kernel_size", "stride", "padding"))
    if min(*kernel, *stride) < 1:
        raise ValueError("its kernel and stride must be at least 1")
    return kernel, stride, padding


def _average_pool(params: Params) -> nn.Module:
    kernel, stride, padding = _pool(params)
    return nn.AvgPool2d((kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]))


_PLAIN: Mapping[str, Callable[[Params], nn.Module]] = {
    "Affine": _linear,
    "AvgPool2d": _average_pool,
    "Conv1d": lambda params: _convolution(params, 1),
    "Conv2d": lambda params: _convolution(params, 2),
    "Flatten": _flatten,
    "Linear": _linear,
    "Scale": lambda params: Scale(params["scale"]),
    "SumPool2d": lambda params: SumPool2d(*_pool(params)),
}
