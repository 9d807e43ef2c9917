"""What a description says without being run: active and needed steps, what folds, where a value comes from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from describe import Description, Node
from network import shows_again

WEIGHTED = ("linear", "conv", "convt")
PRODUCTS = ("qk", "av", "kv", "qs")
OFFSETS = ("bn", "ln", "gn", "softmax", "sigmoid", "token")
MOVES = ("cat", "token", "dropout", "flatten")
OUTPUT = 10**6  # the reader of the last node


def readers(made: Description) -> dict[int, list[int]]:
    """Numbers of the nodes that read each node."""
    found: dict[int, list[int]] = {i: [] for i in range(-1, len(made["nodes"]))}
    for i, node in enumerate(made["nodes"]):
        for source in dict.fromkeys(node["in"]):
            found[source].append(i)
    found[len(made["nodes"]) - 1].append(OUTPUT)
    return found


@dataclass
class Steps:
    """Per node and step: whether its operation works, whether its result can differ from zero, whether it is needed."""

    works: dict[int, list[bool]] = field(default_factory=dict)
    driven: dict[int, list[bool]] = field(default_factory=dict)
    needed: dict[int, list[bool]] = field(default_factory=dict)


def has_offset(made: Description, node: Node) -> bool:
    """True if zeros do not give zeros: a bias, a norm, a softmax."""
    node = made["nodes"][node["of"]] if node["op"] == "again" else node
    return node["op"] in OFFSETS or (node["op"] in WEIGHTED and node["bias"])


def steps_of(made: Description) -> Steps:
    """Section 4: active (input side) and needed (output side)."""
    found, T = Steps(), made["time_steps"]
    found.driven[-1] = [True] * T
    for i, node in enumerate(made["nodes"]):
        sources = [found.driven[j] for j in node["in"]]
        combine = all if node["op"] in PRODUCTS else any
        if node["op"] == "lif":
            works = [t < node.get("mask", T) for t in range(T)]
        elif node["op"] == "sdpa":  # its last product: softmax gives values other than zero for any q and k
            works = list(sources[2])
        else:
            works = [combine(source[t] for source in sources) for t in range(T)]
        found.works[i] = works
        found.driven[i] = [True] * T if has_offset(made, node) else works
    read = readers(made)
    for i in reversed(range(len(made["nodes"]))):
        wanted = [any(_reads(made, found, i, reader, t) for reader in read[i]) for t in range(T)]
        if made["nodes"][i]["op"] == "lif":
            wanted = [any(wanted[t:]) for t in range(T)]
        found.needed[i] = wanted
    return found


def _reads(made: Description, steps: Steps, source: int, reader: int, t: int) -> bool:
    """True if an active and needed operation reads step t of a node; copies and joins are no operations."""
    if reader == OUTPUT:
        works = steps.driven[len(made["nodes"]) - 1]
        if made["readout"] in ("mean", "sum"):
            return any(works)
        return made["readout"] != "last" or (t + 1 == made["time_steps"] and (works[t] or "head" not in made))
    if not steps.needed[reader][t]:
        return False
    node = made["nodes"][reader]
    if node["op"] == "sdpa":
        parts = attention_parts(steps, node, t)
        return parts["second"] and (source == node["in"][2] or (source in node["in"][:2] and parts["first"]))
    return node["op"] in MOVES or steps.works[reader][t]


def attention_parts(steps: Steps, node: Node, t: int) -> dict[str, bool]:
    """Which products of an attention work: q k^T if q and k may differ from zero, the second if v may."""
    q, k, v = (steps.driven[j][t] for j in node["in"])
    return {"first": q and k, "second": v}


def repeated(made: Description) -> dict[int, bool | None]:
    """Per node: the same at every step, because the same samples are shown again; None: it may be said or not.

    Where the network is called, or loops, step by step, only what reads the samples themselves must be marked.
    """
    found: dict[int, bool | None] = {-1: shows_again(made) and made["time_steps"] > 1}
    for i, node in enumerate(made["nodes"]):
        found[i] = node["op"] != "lif" and all(found[j] is not False for j in node["in"])
        if found[i] and made["style"] in ("call", "loop"):
            found[i] = None
    return found


def folds(made: Description, i: int) -> bool:
    """A BatchNorm into the layer that nothing else reads; a scale into all that read it (rules 3 and 6)."""
    node, read = made["nodes"][i], readers(made)
    if node["op"] == "bn":
        source = node["in"][0]
        if any(other.get("of") == source for other in made["nodes"]):
            return False
        return source >= 0 and made["nodes"][source]["op"] in WEIGHTED and read[source] == [i]
    assert node["op"] == "scale"
    return all(_folds_into(made, i, reader, read) for reader in read[i])


def _folds_into(made: Description, source: int, reader: int, read: dict[int, list[int]]) -> bool:
    if reader == OUTPUT:
        return made["readout"] == "last" and "head" in made
    op = made["nodes"][reader]["op"]
    if op in ("flatten", "cat", "dropout", "token"):
        return all(_folds_into(made, reader, further, read) for further in read[reader])
    return op in (*WEIGHTED, *PRODUCTS, "lif", "again")


# --- where a value comes from (rule 4) ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """amplitudes: of the spikes that were added up, None where it is none. real: the rule that makes it real.

    open: the contract does not say whether its values or its origin decide. computed: weights, a norm or an exponential
    made it; None: a sigmoid of spikes, which the contract leaves open. unit_open: products of spikes, or samples with a
    constant that is not 1: the contract leaves open whether they and spikes are spikes of unequal amplitude.
    """

    amplitudes: frozenset[float] | None = None
    real: str = ""
    open: bool = False
    computed: bool | None = False
    unit_open: bool = False


def origins(made: Description, loader_is_real: bool, loader_unit: float | None) -> dict[int, Origin]:
    """Per node, the input in front."""
    given = (
        Origin(None, "grey levels")
        if loader_is_real
        else Origin(frozenset([loader_unit or 1.0]), unit_open=loader_unit not in (None, 1))
    )
    found = {-1: given}
    for i, node in enumerate(made["nodes"]):
        sources = [found[j] for j in node["in"]]
        found[i] = replace(origin(made, node, sources), computed=is_computed(node["op"], sources))
    return found


def is_computed(op: str, given: list[Origin]) -> bool | None:
    """Of the result of a node: a neuron ends it, moves, sums, scales, choices and products keep it."""
    if op == "lif":
        return False
    if op in (*WEIGHTED, "again", "bn", "ln", "gn", "softmax", "sdpa"):
        return True
    kept = [one.computed for one in given]
    if op == "sigmoid":
        kept.append(None)
    return True if True in kept else None if None in kept else False


def origin(made: Description, node: Node, given: list[Origin]) -> Origin:
    """Of the result of a node."""
    op, first = node["op"], given[0]
    if op == "lif":
        own = made["family"] == "own" and node["rule"] == "paper"
        return Origin(frozenset([node["v_th"] if own else 1.0]))
    if op in (*WEIGHTED, "again"):
        return Origin()
    if op == "token":
        return Origin(None, first.real, first.open)
    if op in ("bn", "ln", "gn", "softmax", "sigmoid", "sdpa", *PRODUCTS):
        return Origin(open=any(one.real or one.open for one in given), unit_open=op in PRODUCTS)
    if op in ("avgpool", "token_mean"):
        return averaged(first)
    if op == "scale":
        units = None if first.amplitudes is None else frozenset(a * node["factor"] for a in first.amplitudes)
        return Origin(units, first.real, first.open, unit_open=first.unit_open)
    if op == "relu" and first.amplitudes is not None:
        return Origin(first.amplitudes, first.real, first.open)
    if op in ("add", "cat"):
        found = combined(given, op == "add")
        is_by_values = found.real == "unequal amplitudes" and made["family"].startswith("hand")  # no class says them
        return replace(found, open=found.open or is_by_values)
    return first


def averaged(first: Origin) -> Origin:
    """Averages of spikes are real; of anything else that is not real by origin, the contract is silent."""
    is_open = first.open or (first.amplitudes is None and not first.real)
    return Origin(None, first.real or "average", is_open, first.computed)


def combined(given: list[Origin], is_sum: bool) -> Origin:
    """A sum or a concatenation: real stays real; spikes of unequal amplitude add up to real values."""
    real = next((one.real for one in given if one.real), "")
    is_open = any(one.open or one.unit_open for one in given)
    if any(one.amplitudes is None for one in given):
        return Origin(None, real, is_open)
    amplitudes = frozenset().union(*(one.amplitudes for one in given if one.amplitudes is not None))
    if len(amplitudes) > 1 and not real:
        if is_sum and all(len(one.amplitudes or ()) == 1 for one in given):
            return Origin(amplitudes, "unequal amplitudes", is_open)
        is_open = True
    return Origin(amplitudes, real, is_open)


def attention_steps(made: Description, i: int, step: int) -> dict[str, dict[str, bool]]:
    """Active and needed of the two products of an attention in one function; the softmax works where the first does."""
    steps = steps_of(made)
    parts, needed = attention_parts(steps, made["nodes"][i], step), steps.needed[i][step]
    return {
        "first": {"active": parts["first"], "needed": parts["first"] and parts["second"] and needed},
        "second": {"active": parts["second"], "needed": needed},
    }
