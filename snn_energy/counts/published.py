"""Published counts: a small YAML file instead of a checkpoint, priced by the same formulas. No torch here.

A file holds one or more networks and cites the source of each. It holds counts and geometry, never energies.

Published
├── sources     id -> Source, cited by the networks
└── networks    name -> Network: source, time_steps, note, and one of
    ├── totals      Totals: macs, sops, neurons, spikes, weights of one inference
    ├── layers      name -> LayerOrBlock: a Layer, or a block of layers that occurs ``repeat`` times
    └── accesses    store -> tensor -> Accesses (reads and writes, or accesses), and ``cycles``

    networks:
      spikformer-8-384:
        source: spikformer
        time_steps: 4
        totals: {macs: 347 M, sops: 6.82 G}

Numbers are plain, or text with a unit: k, M, G, T (powers of ten). A value that a file lacks is unknown (NA), never 0:
an energy that depends on it is NaN. What follows from the geometry is derived (``Layer``); values that are given in
addition must agree. Every error is a one-line CountsError that names file:line, the key and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snn_energy.core import bundled
from snn_energy.core.errors import CountsError, nearest
from snn_energy.core.groups import layer_group
from snn_energy.core.yaml_file import Document, read_yaml
from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import COLUMNS, CONVENTION_VERSION, OPERATIONS, WORK, make_rows
from snn_energy.counts.counts import Counts
from snn_energy.counts.published_schema import (
    BUNDLED,
    FILE_TYPE,
    Layer,
    Network,
    Published,
    Totals,
    derive,
    expand_layers,
    product_or_none,
)

_NAMED = re.compile(r"(?P<file>.+\.ya?ml)(?::(?P<network>.+))?")


def is_published(path: str | Path) -> bool:
    """True if a path names published counts: FILE.yaml, FILE.yaml:NETWORK, published:FILE, published:FILE:NETWORK."""
    return str(path).startswith(BUNDLED) or _NAMED.fullmatch(str(path)) is not None


def load_published(path: str | Path, name: str | None = None) -> Counts:
    """The counts of one network of a file of published counts, for all formulas of this package.

    path: a YAML file or FILE.yaml:NETWORK, or ``published:FILE`` or ``published:FILE:NETWORK`` for a bundled file.
    name: the network, optional if the file holds only one. The counts have one sample, the mean over the samples of
    the source. Raises CountsError, one line with file:line, the key and the fix.
    """
    file, named = _file_and_network(path)
    published, document = read_yaml(file, FILE_TYPE, Published)
    wanted = _chosen_network(published, document, name or named)
    network = published.networks[wanted]
    label = file.stem if len(published.networks) == 1 else f"{file.stem}:{wanted}"
    header = {
        "model": wanted, "samples": 1, "time_steps": network.time_steps, "accuracy": None, "published": True,
        "source": published.sources[network.source].citation, "note": network.note, "file": label,
        "convention": CONVENTION_VERSION, "by_layer": network.layers is not None,
    }  # fmt: skip
    counts = Counts(header | _header_entries(network), make_rows(_columns(network)))
    problem = first_inconsistency(counts)
    if problem is not None:
        raise document.error(f"networks.{wanted}: {problem}; correct it", ("networks", wanted))
    return counts


def published_names(path: str | Path) -> list[str]:
    """Names of the networks of a file, in file order. Raises CountsError."""
    return list(read_yaml(_file_and_network(path)[0], FILE_TYPE, Published)[0].networks)


def list_published() -> list[str]:
    """Names of the bundled files, sorted; each is read as ``published:NAME``."""
    return sorted(file.stem for file in _bundled_directory().glob("*.yaml"))


def _bundled_directory() -> Path:
    """Folder of the bundled files: in the package (a wheel) or next to it (a checkout). Raises CountsError."""
    folder = bundled.published_counts()
    if folder is None:
        raise CountsError(f"{bundled.PACKAGE}: the published counts are missing; reinstall snn_energy")
    return folder


def _file_and_network(path: str | Path) -> tuple[Path, str | None]:
    text = str(path)
    if text.startswith(BUNDLED):
        file, _, network = text.removeprefix(BUNDLED).partition(":")
        known = list_published()
        if file not in known:
            raise CountsError(
                f"{text}: no file of that name comes with snn_energy{nearest(file, known)}; there are "
                f"{', '.join(known)}"
            )
        return _bundled_directory() / f"{file}.yaml", network or None
    found = _NAMED.fullmatch(text)
    return (Path(text), None) if found is None else (Path(found["file"]), found["network"])


def _chosen_network(published: Published, document: Document, name: str | None) -> str:
    known = list(published.networks)
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        raise document.error(
            f"networks: the file holds several; choose one as {document.path.name}:NETWORK: {', '.join(known)}",
            ("networks",),
        )
    if name not in known:
        hint = nearest(name, known) or f"; there are {', '.join(known)}"
        raise document.error(f"networks: no network '{name}'{hint}", ("networks",))
    return name


def _header_entries(network: Network) -> dict[str, Any]:
    """Header entries of a network that is not given by layer: weights, accesses, cycles."""
    found: dict[str, Any] = {}
    if network.totals is not None:
        found["weights"] = network.totals.weights
    if network.accesses is not None:
        found["accesses"] = [
            {"level": level, "name": tensor, "action": action, "count": count.total(network.time_steps)}
            for level, tensors in network.accesses.items()
            for tensor, counted in tensors.items()
            for action in ("reads", "writes", "accesses")
            if (count := getattr(counted, action)) is not None
        ]
    if network.cycles is not None:
        found["cycles"] = network.cycles.total(network.time_steps)
    return found


def _columns(network: Network) -> dict[str, list[Any]]:
    """The columns of a counts frame, None for unknown values."""
    if network.layers is not None:
        rows = list(_layer_rows(network))
    else:
        rows = list(_total_rows(network.totals, network.time_steps))
    return {name: [row[name] for row in rows] for name in COLUMNS}


# Defaults of a row: no work and no sizes; operands that do not exist are None.
EMPTY_ROW: Mapping[str, Any] = dict.fromkeys(COLUMNS, 0) | {
    "needed": True, "active": True, "input_repeated": False, "feeds_neuron": False, "note": "", "time_step": -1,
    "group": "other", "input_kind": None, "max_k": None, "input_elements": None, "input_nonzeros": None,
    "input_levels": None, "other_kind": None, "other_max_k": None, "other_elements": None, "other_nonzeros": None,
    "state_variables": None,
}  # fmt: skip
UNKNOWN_OPERATION: Mapping[str, Any] = dict.fromkeys(
    ("input_elements", "input_nonzeros", "input_levels", "dense_macs", "sops", "sops_gated", "sops_multi",
     "output_elements", "weights", "biases", "reduction", "out_channels", "positions", "groups")
)  # fmt: skip


def _total_rows(totals: Totals | None, time_steps: int) -> Iterator[dict[str, Any]]:
    """A network as three layers: its MACs, its accumulates, its neurons; all unknown if only accesses are given."""
    note = "total of the network"
    unknown = {**EMPTY_ROW, **UNKNOWN_OPERATION, "op": "linear", "feeds_neuron": True, "note": note}
    given = totals if totals is not None else Totals.model_construct(macs=None, sops=None)
    yield unknown | {"layer": "macs", "order": 0, "input_kind": "real", "dense_macs": given.macs}
    sops = dict.fromkeys(("sops", "sops_gated", "sops_multi"), given.sops)
    yield unknown | {"layer": "sops", "order": 1, "input_kind": "binary", "max_k": 1} | sops
    for step in range(time_steps if given.neurons != 0 else 0):
        sizes = dict.fromkeys(("neurons", "membrane_reads", "membrane_writes"), given.neurons)
        spikes = None if given.spikes is None else given.spikes / time_steps
        yield {
            **EMPTY_ROW, **sizes, "layer": "neurons", "order": 2, "op": "neuron", "time_step": step,
            "state_variables": 1, "spikes": spikes, "note": note,
        }  # fmt: skip


def _layer_rows(network: Network) -> Iterator[dict[str, Any]]:
    layers = [(name, layer) for name, layer, _ in expand_layers(network.layers or {})]
    for order, (name, layer) in enumerate(layers):
        columns = _layer_columns(layer) | {
            "layer": name,
            "order": order,
            "group": layer.group or layer_group(name),
            "op": layer.op,
            "feeds_neuron": layer.op in OPERATIONS
            and _feeds_neuron(layer, (later for _, later in layers[order + 1 :])),
            "note": layer.note or "",
        }
        active = network.time_steps if layer.active_steps is None else layer.active_steps
        for step in [-1] if layer.once else range(network.time_steps):
            is_active = step < active
            row = columns | {"time_step": step, "active": is_active}
            row["input_repeated"] = layer.input_repeated and step >= 1
            yield row if is_active else row | _inactive_columns(row)


def _inactive_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Work columns of an inactive step: 0, or None for an operand that does not exist."""
    none: dict[str, Any] = dict.fromkeys(WORK, 0)
    for operand in ("input", "other"):
        if row[f"{operand}_kind"] is None:
            none[f"{operand}_nonzeros"] = None
    if row["input_kind"] in (None, "real"):
        none["input_levels"] = None
    return none | ({"sops_multi": None} if row["input_kind"] == "real" else {})


def _feeds_neuron(layer: Layer, later: Iterable[Layer]) -> bool:
    """The value in the file; if it has none, whether the next operation or neuron is a neuron."""
    if layer.feeds_neuron is not None:
        return layer.feeds_neuron
    return next((other.op == "neuron" for other in later if other.op in (*OPERATIONS, "neuron")), False)


def _layer_columns(layer: Layer) -> dict[str, Any]:
    """Sizes of a layer, and its work in an active step."""
    if layer.op == "neuron":
        spikes = layer.spikes if layer.spikes is not None else product_or_none(layer.firing_rate, layer.neurons)
        sizes = dict.fromkeys(("neurons", "membrane_reads", "membrane_writes"), layer.neurons)
        sizes |= {"output_elements": layer.neurons, "state_variables": layer.state_variables}
        return {**EMPTY_ROW, **sizes, "spikes": spikes}
    if layer.op not in OPERATIONS:
        keys = ("elementwise_ops", "output_elements", "weights", "biases")
        columns = {key: getattr(layer, key) for key in keys}
        if layer.op != "norm":
            columns |= {key: columns[key] or 0 for key in ("weights", "biases")}
        return {**EMPTY_ROW, **columns}
    derived, product = derive(layer), layer.op == "matmul"
    gated = product_or_none(layer.rate, derived.macs)
    sops = layer.sops if layer.sops is not None or product else gated
    gated = gated if product else sops
    return {
        **EMPTY_ROW,
        "input_kind": layer.input_kind,
        "max_k": _max_k(layer.input_kind, layer.max_k),
        "input_elements": derived.input_elements,
        "input_nonzeros": product_or_none(layer.rate, derived.input_elements),
        "input_levels": product_or_none(_mean_level(layer), derived.input_elements),
        "other_kind": layer.other_kind,
        "other_max_k": _max_k(layer.other_kind, layer.other_max_k),
        "other_elements": derived.other_elements,
        "other_nonzeros": product_or_none(layer.other_rate, derived.other_elements),
        "dense_macs": derived.macs,
        "sops": sops,
        "sops_gated": gated,
        "sops_multi": sops if layer.input_kind in ("binary", "ternary") else None,
        "output_elements": derived.output_elements,
        "weights": derived.weights,
        "biases": 0 if product else layer.biases,
        "reduction": layer.reduction,
        "out_channels": layer.out_channels,
        "positions": layer.positions,
        "groups": layer.groups,
    }


def _mean_level(layer: Layer) -> int | float | None:
    """Mean of |k| of the input: the rate where every |k| is 1."""
    return layer.rate if layer.input_kind in ("binary", "ternary") else layer.mean_level


def _max_k(kind: str | None, max_k: int | None) -> int | None:
    return 1 if kind in ("binary", "ternary") else max_k
