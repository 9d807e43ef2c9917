"""What the rows of element-wise operations say of the values that they work on: spikes, sums of spikes, real values.

Pure functions of events; what is not known is left out, never guessed. The texts are those of snn_energy.counts.notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.notes import ElementwiseNote, Nature, averaging_name, unfolded_norm
from snn_energy.profiler.operands import AVERAGE_OF_SPIKES, Claim
from snn_energy.profiler.trace import Event

_NAMED = ("unsupported", "activation", "norm", "softmax")
_TOLD = ("pool", "mean", "add", "mul", "reduce", "compare")  # of these the note says what they read
_TWO_VALUED = frozenset(("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal", "heaviside"))
_KIND: Mapping[str, Nature] = {
    "binary": "spikes", "ternary": "spikes", "integer": "sums of spikes", "real": "real values",
}  # fmt: skip


def notes_of(
    events: Sequence[Event], layers: Sequence[str], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> list[str]:
    """The note of every event, as if nothing folded. layers: their final names; readers: see ``profile.readers_of``."""
    read, weighted = values_read(events), feeds_weights(events, readers)
    found = []
    for index, event in enumerate(events):
        if event.op in _TOLD:
            averages = is_average(event)
            name = averaging_name(event.note) if averages else event.note
            found.append(ElementwiseNote(name, read[index], averages and weighted[index]).text)
        elif event.op == "norm" and "batch_norm" in event.note:
            found.append(unfolded_norm(event.note, why_unfolded(index, events, layers, readers, outputs)))
        else:
            found.append(event.note if event.op in _NAMED else "")
    return found


def is_average(event: Event) -> bool:
    """True for a pooling or a mean that mixes values instead of choosing one of them."""
    mixes = event.leaves is not None and (event.leaves.reason or "").startswith("average of")
    return event.op == "mean" or (event.op == "pool" and mixes)


def values_read(events: Sequence[Event]) -> list[Nature | None]:
    """What every event reads; None where that is not known. Inputs of an event are earlier ones."""
    read: list[Nature | None] = []
    left: list[Nature | None] = []
    for event in events:
        read.append(_read(event, [left[source] for source in sorted(event.inputs)]))
        left.append(_left(event, read[-1]))
    return read


def _read(event: Event, producers: Sequence[Nature | None]) -> Nature | None:
    """By what is proven of the operands' values, else by what made them."""
    claims = event.reads
    if claims and all(claim.unit is not None for claim in claims):
        return "spikes" if all(claim.proven and claim.max_k == 1 for claim in claims) else "sums of spikes"
    if any(_averages_spikes(claim) for claim in claims):
        return "averages of spikes"
    if "real values" in producers or "averages of spikes" in producers or any(claim.reason for claim in claims):
        return "real values"
    if any(claim.loader for claim in claims):
        return None if event.inputs else "the network's input"
    if not producers or len(claims) > len(producers):
        return None
    if all(nature == "spikes" for nature in producers):
        return "spikes"
    return "sums of spikes" if all(nature in ("spikes", "sums of spikes") for nature in producers) else None


def _averages_spikes(claim: Claim) -> bool:
    return claim.reason is not None and claim.reason.startswith(AVERAGE_OF_SPIKES)


def _left(event: Event, read: Nature | None) -> Nature | None:
    """What an event leaves to its readers."""
    if event.op == "neuron":
        values = None if event.emitted is None else event.emitted.values
        return "real values" if event.integrates_only else "spikes" if values is None else _KIND[values.kind]
    if event.op in ("conv", "linear", "norm", "softmax") or (event.op == "activation" and event.note != "relu"):
        return "real values"
    if is_average(event):
        return "averages of spikes" if read in ("spikes", "sums of spikes", "averages of spikes") else "real values"
    if event.op == "pool" and event.note.startswith(("lp_pool", "avg_pool")):
        return "sums of spikes" if read in ("spikes", "sums of spikes") else "real values"
    if event.op in ("pool", "scale", "activation"):
        return read
    if event.op == "compare":
        return "spikes" if event.note in _TWO_VALUED else None
    if event.op in ("add", "mul") and read in ("spikes", "sums of spikes"):
        if len(event.reads) < 2:  # with a constant
            return None
        return "sums of spikes" if event.op == "add" else read
    return "real values" if read == "real values" and event.op != "unsupported" else None


def feeds_weights(events: Sequence[Event], readers: Mapping[int, set[int]]) -> list[bool]:
    """For every event whether a weight layer or product reads its result, element-wise steps between aside."""
    found = [False] * len(events)
    for index in range(len(events) - 1, -1, -1):
        found[index] = any(
            events[r].op in OPERATIONS or (events[r].op != "neuron" and found[r]) for r in readers.get(index, ())
        )
    return found


def why_unfolded(
    index: int,
    events: Sequence[Event],
    layers: Sequence[str],
    readers: Mapping[int, set[int]],
    outputs: frozenset[int],
) -> str:
    """Why a BatchNorm does not fold into the layer before it (design, rule 6)."""
    event = events[index]
    if not event.foldable:
        return "statistics of the batch itself"
    if not event.inputs:
        return "of the network's input"
    if len(event.inputs) > 1:
        return f"behind {len(event.inputs)} layers at once"
    (source,) = event.inputs
    before = events[source]
    if before.op not in ("conv", "linear"):
        return f"behind {layers[source]} ({before.note or before.op})"
    if source in outputs or readers.get(source, set()) != {index}:
        return f"{layers[source]} has other readers"
    return "foldable"
