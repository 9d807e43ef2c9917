"""What a profile of a described network must say: brute force on what the layers were seen to read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structure
import torch
import values
from describe import WHOLE, Description, Node
from structure import PRODUCTS, WEIGHTED, Origin
from torch import Tensor

KINDS = ("binary", "ternary", "integer", "real")
Counts = np.ndarray


@dataclass(frozen=True)
class Kind:
    """Kind of a tensor, the constant of its multiples, the largest |k|; is_open: the contract leaves it open."""

    name: str
    unit: float | None = None
    max_k: int | None = None
    is_open: bool = False


@dataclass
class Row:
    """Columns of one row that must be so, per-sample columns of it; a column that is missing is left open."""

    columns: dict[str, Any]
    per_sample: dict[str, Counts] = field(default_factory=dict)


@dataclass
class Expected:
    """Rows by (layer, op, time step), and element-wise work by (op, time step)."""

    rows: dict[tuple[str, str, int], Row] = field(default_factory=dict)
    elementwise: dict[tuple[str, int], int] = field(default_factory=dict)

    def add_work(self, op: str, step: int, work: int) -> None:
        if work:
            self.elementwise[op, step] = self.elementwise.get((op, step), 0) + work


def expect(made: Description, seen: list[Tensor]) -> Expected:
    """seen: (T, N, ...) of all nodes over all samples, the input in front."""
    found, steps = Expected(), structure.steps_of(made)
    loader = kind_of(seen[0], 1)
    of = structure.origins(made, loader.name not in ("binary", "ternary"), loader.unit)
    again = structure.repeated(made)
    for i, node in enumerate(made["nodes"]):
        name = f"n{i}"
        if node["op"] == "again":
            of_layer = made["nodes"][node["of"]]
            name, node = f"n{node['of']}#call1", {**of_layer, "in": node["in"]}
        given = [seen[j + 1] for j in node["in"]]
        kinds = [kind(x, of[j], made["max_k"]) for x, j in zip(given, node["in"], strict=True)]
        for t in range(made["time_steps"]):
            state = {"active": steps.works[i][t]}
            if not is_step_taken_out(made):
                state["needed"] = steps.needed[i][t]
            x = [one[t] for one in given]
            if node["op"] in WEIGHTED:
                repeats = again[node["in"][0]]
                is_settled = made["tells_time"] or made["style"].startswith("loop-axis")
                if is_settled and (repeats is not None or t == 0):
                    state["input_repeated"] = bool(repeats) and t > 0
                found.rows[name, "linear" if node["op"] == "linear" else "conv", t] = layer_row(
                    node, x[0], seen[i + 1][t], kinds[0], state
                )
            elif node["op"] == "sdpa":
                expect_attention(made, found, i, x, t, state, kinds, of)
            elif node["op"] in PRODUCTS:
                found.rows[f"n{i}#matmul0", "matmul", t] = product_row(node, x, kinds, state)
            elif node["op"] == "lif":
                found.rows[f"n{i}", "neuron", t] = neuron_row(seen[i + 1][t], state)
            elif state["active"]:
                op, work = elementwise(made, i, x, seen[i + 1][t])
                found.add_work(op, t, work)
    expect_read_out(made, found, seen, of, steps)
    return found


def is_step_taken_out(made: Description) -> bool:
    """The last step of all is the network's output: no operation reads it, and the others may count as needed."""
    return made["readout"] == "last" and "head" not in made and made["style"] in WHOLE


def expect_read_out(
    made: Description, found: Expected, seen: list[Tensor], of: dict[int, Origin], steps: structure.Steps
) -> None:
    """The mean or sum over time and the head behind it: once per inference, at step -1 (0 where there is one step)."""
    last, number, step = seen[-1], len(made["nodes"]) - 1, -1 if made["time_steps"] > 1 else 0
    if made["readout"] == "steps":
        return
    active = any(steps.driven[number])
    if made["readout"] == "last":
        active, step = steps.driven[number][-1], made["time_steps"] - 1
    elif active:
        found.add_work("mean" if made["readout"] == "mean" else "reduce", step, last.numel())
    if "head" not in made:
        return
    total = {"mean": last.mean(0), "sum": last.sum(0), "last": last[-1]}[made["readout"]]
    is_average = made["readout"] == "mean" and made["time_steps"] > 1
    origin = structure.averaged(of[number]) if is_average else of[number]
    head: Node = {"op": "linear", **made["head"], "in": [number], "out": [*last.shape[2:-1], made["head"]["out"]]}
    out = torch.zeros(len(total), *head["out"])
    state = {"active": active, "needed": True, "input_repeated": False}
    found.rows["head", "linear", step] = layer_row(head, total, out, kind(total, origin, made["max_k"], 1), state)


def expect_attention(
    made: Description, found: Expected, i: int, x: list[Tensor], step: int, state: dict[str, bool], kinds: list[Kind],
    of: dict[int, Origin],
) -> None:  # fmt: skip
    """Rows of q k^T, scaled, softmax, times v, by one function of torch's."""
    node = made["nodes"][i]
    q, k, v = x
    first = {**node, "op": "qk"}
    works, heads, (samples, tokens, _) = structure.attention_steps(made, i, step), node["heads"], q.shape
    found.rows[f"n{i}#matmul0", "matmul", step] = product_row(first, [q, k], kinds[:2], state | works["first"])
    scores = torch.zeros(samples, heads, tokens, tokens)
    if works["first"]["active"]:
        found.add_work("scale", step, scores.numel())
        found.add_work("softmax", step, 5 * scores.numel())
    scaled = values.operands(first, [q, k])
    scores = (scaled[0] @ scaled[1] / scaled[0].shape[-1] ** 0.5).softmax(-1)
    second = product_row(
        {**node, "op": "av"}, [scores, v], [Kind("real", is_open=True), kinds[2]], state | works["second"]
    )
    found.rows[f"n{i}#matmul1", "matmul", step] = second


# --- kinds --------------------------------------------------------------------------------------------------------


def kind(x: Tensor, origin: Origin, max_k: int, axes: int = 2) -> Kind:
    """Rule 4, on all steps and samples together, which are the first ``axes`` axes."""
    if not x.any():
        return Kind("binary", None, 1, origin.open)
    if origin.real:
        return Kind("real", is_open=origin.open)
    tolerant, strict = kind_of(x, max_k), kind_of(x, max_k, 0)
    if origin.computed is not False and tolerant.unit != 1 and not shows_few_values(x, axes):
        return Kind("real", is_open=origin.open or origin.computed is None)
    return Kind(tolerant.name, tolerant.unit, tolerant.max_k, origin.open or tolerant != strict)


def shows_few_values(x: Tensor, axes: int) -> bool:
    """True if a sample holds several numbers beside a zero in one step."""
    numbers = (x != 0).reshape(math.prod(x.shape[:axes]), -1)
    found = numbers.sum(1)
    return bool(((found >= 2) & (found < numbers.shape[1])).any())


def kind_of(x: Tensor, max_k: int, ulps: int = 4) -> Kind:
    """The least kind that holds all values, by trying every constant that could be one."""
    eps = torch.finfo(x.dtype).eps
    found = np.unique(x.to(torch.float64).numpy())
    found = found[found != 0]
    sizes = np.unique(np.abs(found))
    if len(sizes) == 0:
        return Kind("binary", None, 1)
    if len(sizes) == 1:
        is_ternary = len(found) == 2 or found[0] < 0
        return Kind("ternary" if len(found) == 2 else "binary", float(sizes[0]), 1, is_ternary and len(found) == 1)
    for part in range(1, max_k + 1):
        unit = sizes[0] / part
        k = np.rint(sizes / unit)
        allowed = ulps * eps * np.exp2(np.floor(np.log2(sizes)))
        if k.max() <= max_k and (np.abs(sizes - k * unit) <= allowed).all():
            return Kind("integer", float(unit), int(k.max()))
    return Kind("real")


# --- rows ---------------------------------------------------------------------------------------------------------


def nonzeros(x: Tensor) -> Counts:
    """Per sample."""
    return np.array([np.count_nonzero(one.to(torch.float64).numpy()) for one in x], dtype=np.int64)


def multiples(x: Tensor, of: Kind) -> Tensor:
    """|k| of every value."""
    return (x.to(torch.float64) / of.unit).round().abs() if of.unit else x.to(torch.float64)


def meetings(node: Node, weight_of_input: Tensor) -> Counts:
    """Per sample: the sum of ``weight_of_input`` over all (input, weight) pairs that meet, by a run with ones."""
    x = weight_of_input.to(torch.float64)
    if node["op"] == "linear":
        return (x.flatten(1).sum(1) * node["out"][-1]).to(torch.int64).numpy()
    channels, out = x.shape[1], node["out"][0]
    front = (out, channels // node["groups"]) if node["op"] == "conv" else (channels, out // node["groups"])
    ones = torch.ones(*front, *node["kernel"], dtype=torch.float64)
    return values.convolved(node, x, ones, None).flatten(1).sum(1).to(torch.int64).numpy()


def geometry(node: Node, x: Tensor) -> dict[str, int]:
    """M, K, N of a layer: a transposed convolution's positions are those of its input."""
    groups, inputs = node.get("groups", 1), x.shape[-1] if node["op"] == "linear" else x.shape[1]
    if node["op"] == "linear":
        positions, taps, out = math.prod(x.shape[1:-1]), 1, node["out"][-1]
    else:
        out, taps = node["out"][0], math.prod(node["kernel"])
        positions = math.prod(x.shape[2:]) if node["op"] == "convt" else math.prod(node["out"][1:])
    return {"reduction": inputs // groups * taps, "out_channels": out, "positions": positions, "groups": groups}


def layer_row(node: Node, x: Tensor, out: Tensor, of: Kind, state: dict[str, bool]) -> Row:
    """x: (N, ...) of one step."""
    sizes, samples = geometry(node, x), len(x)
    works = int(state["active"])
    sops = meetings(node, (x != 0).to(torch.float64)) * works
    columns: dict[str, Any] = {**state, **sizes, "elementwise_ops": 0, "input_elements": x[0].numel()}
    columns["weights"] = sizes["reduction"] * sizes["out_channels"]
    columns["biases"] = sizes["out_channels"] * int(node["bias"])
    columns["output_elements"] = out[0].numel()
    columns["dense_macs"] = (
        math.prod(sizes[name] for name in ("reduction", "out_channels", "positions")) * samples * works
    )
    per_sample = {"input_nonzeros": nonzeros(x) * works, "sops": sops, "sops_gated": sops}
    columns |= {name: int(counts.sum()) for name, counts in per_sample.items()}
    if not of.is_open:
        columns["input_kind"], columns["max_k"] = of.name, of.max_k
        add_multi(columns, per_sample, of, sops, lambda: meetings(node, multiples(x, of)) * works)
        columns["input_levels"] = None if of.name == "real" else int(multiples(x, of).sum()) * works
    return Row(columns, per_sample)


def add_multi(columns: dict[str, Any], per_sample: dict[str, Counts], of: Kind, sops: Counts, by_k: Any) -> None:
    """sops_multi: null for real inputs, sum of |k| for integers, else the SOPs."""
    if of.name == "real":
        columns["sops_multi"] = None
        return
    per_sample["sops_multi"] = by_k() if of.name == "integer" else sops
    columns["sops_multi"] = int(per_sample["sops_multi"].sum())


def product_row(node: Node, x: list[Tensor], kinds: list[Kind], state: dict[str, bool]) -> Row:
    """Rule 3: coincidences; the streamed operand is the one of lower kind, the left one on a tie."""
    left, right = values.operands(node, x)
    samples, heads, m, k = left.shape
    n = right.shape[-1]
    works = int(state["active"])
    mine, other = (left != 0).to(torch.float64), (right != 0).to(torch.float64)
    sops = torch.einsum("bhmk,bhkn->b", mine, other).to(torch.int64).numpy() * works
    columns: dict[str, Any] = {**state, "reduction": k, "out_channels": heads * n, "positions": m, "groups": heads}
    columns |= {"dense_macs": samples * heads * m * k * n * works, "weights": 0, "biases": 0, "elementwise_ops": 0}
    columns |= {"sops": int(sops.sum()), "output_elements": heads * m * n}
    per_sample = {"sops": sops}
    if any(of.is_open for of in kinds):
        return Row(columns, per_sample)
    is_left = KINDS.index(kinds[0].name) <= KINDS.index(kinds[1].name)
    streamed, beside, width = (left, right, n) if is_left else (right, left, m)
    of, of_other = kinds if is_left else reversed(kinds)
    per_sample |= {"input_nonzeros": nonzeros(streamed) * works, "other_nonzeros": nonzeros(beside) * works}
    per_sample["sops_gated"] = per_sample["input_nonzeros"] * width
    columns |= {name: int(counts.sum()) for name, counts in per_sample.items()}
    columns |= {"input_kind": of.name, "max_k": of.max_k, "input_elements": streamed[0].numel()}
    columns |= {"other_kind": of_other.name, "other_max_k": of_other.max_k, "other_elements": beside[0].numel()}

    def by_k() -> Counts:
        a, b = (multiples(left, of), other) if is_left else (mine, multiples(right, of))
        return torch.einsum("bhmk,bhkn->b", a, b).to(torch.int64).numpy() * works

    add_multi(columns, per_sample, of, sops, by_k)
    columns["input_levels"] = None if of.name == "real" else int(multiples(streamed, of).sum()) * works
    return Row(columns, per_sample)


def neuron_row(spikes: Tensor, state: dict[str, bool]) -> Row:
    """spikes: (N, ...) of one step."""
    neurons, works = spikes[0].numel(), int(state["active"])
    fired = nonzeros(spikes) * works
    traffic = neurons * len(spikes) * works
    return Row(
        {
            **state,
            "neurons": neurons,
            "spikes": int(fired.sum()),
            "membrane_reads": traffic,
            "membrane_writes": traffic,
        },
        {"spikes": fired},
    )


def elementwise(made: Description, i: int, x: list[Tensor], out: Tensor) -> tuple[str, int]:
    """The name of an element-wise operation and its work: as many per element as the tool's conventions say."""
    node = made["nodes"][i]
    op, size = node["op"], out.numel()
    if op in ("bn", "scale") and structure.folds(made, i):
        return "norm" if op == "bn" else "scale", 0
    if op in ("maxpool", "avgpool"):
        return "pool", size * node["kernel"] ** (len(node["out"]) - 1)
    per_element = {
        "add": ("add", 1), "relu": ("activation", 1), "sigmoid": ("activation", 1), "scale": ("scale", 1),
        "softmax": ("softmax", 5), "ln": ("norm", 5), "gn": ("norm", 5), "bn": ("norm", 2),
    }  # fmt: skip
    if op in structure.MOVES:
        return op, 0
    if op == "token_mean":
        return "mean", x[0].numel()
    name, times = per_element[op]
    return name, times * size
