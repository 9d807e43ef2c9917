"""Notes of element-wise operations, with the nature of their operands: spikes, sums of spikes, real values.

Pure functions of operation records; what is unknown is left out, never guessed. The texts are those of
snn_energy.counts.notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.notes import ElementwiseNote, Nature, averaging_name, of_batch_note, unfolded_norm_note
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.bounds import AVERAGE_OF_SPIKES, ValueBound

_NAMED = ("unsupported", "activation", "norm", "softmax")
_WITH_INPUTS = ("pool", "mean", "add", "mul", "reduce", "compare")  # their notes name the nature of their operands
_TWO_VALUED = frozenset(("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal", "heaviside"))
_KIND: Mapping[str, Nature] = {
    "binary": "spikes", "ternary": "spikes", "integer": "sums of spikes", "real": "real values",
}  # fmt: skip


def notes_of(
    records: Sequence[OperationRecord], layers: Sequence[str], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> list[str]:
    """The note of every record, as if nothing folded. layers: final names; readers: see ``placement.readers_of``."""
    found = _own_notes(records, layers, readers, outputs)
    return [of_batch_note(note) if record.of_batch else note for record, note in zip(records, found, strict=True)]


def _own_notes(
    records: Sequence[OperationRecord], layers: Sequence[str], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> list[str]:
    read, weighted = operand_natures(records), feeds_weights(records, readers)
    found = []
    for index, record in enumerate(records):
        if record.op in _WITH_INPUTS:
            averages = is_average(record)
            name = averaging_name(record.note) if averages else record.note
            found.append(ElementwiseNote(name, read[index], averages and weighted[index]).text)
        elif record.op == "norm" and "batch_norm" in record.note:
            found.append(unfolded_norm_note(record.note, why_unfolded(index, records, layers, readers, outputs)))
        else:
            found.append(record.note if record.op in _NAMED else "")
    return found


def is_average(record: OperationRecord) -> bool:
    """True for a pooling or a mean that combines values instead of selecting one."""
    mixes = record.leaves is not None and (record.leaves.reason or "").startswith("average of")
    return record.op == "mean" or (record.op == "pool" and mixes)


def operand_natures(records: Sequence[OperationRecord]) -> list[Nature | None]:
    """The nature of the operands of every record; None if unknown. Inputs of a record are earlier records."""
    read: list[Nature | None] = []
    left: list[Nature | None] = []
    for record in records:
        read.append(_read(record, [left[source] for source in sorted(record.inputs)]))
        left.append(_left(record, read[-1]))
    return read


def _read(record: OperationRecord, producers: Sequence[Nature | None]) -> Nature | None:
    """The nature of the operands, from their proven bounds, else from the operations that produced them."""
    claims = record.reads
    if claims and all(bound.unit is not None for bound in claims):
        return "spikes" if all(bound.proven and bound.max_k == 1 for bound in claims) else "sums of spikes"
    if any(_averages_spikes(bound) for bound in claims):
        return "averages of spikes"
    if "real values" in producers or "averages of spikes" in producers or any(bound.reason for bound in claims):
        return "real values"
    if any(bound.loader for bound in claims):
        return None if record.inputs else "the network's input"
    if not producers or len(claims) > len(producers):
        return None
    if all(nature == "spikes" for nature in producers):
        return "spikes"
    return "sums of spikes" if all(nature in ("spikes", "sums of spikes") for nature in producers) else None


def _averages_spikes(bound: ValueBound) -> bool:
    return bound.reason is not None and bound.reason.startswith(AVERAGE_OF_SPIKES)


def _left(record: OperationRecord, read: Nature | None) -> Nature | None:
    """The nature of the result of a record."""
    if record.op == "neuron":
        values = None if record.emitted is None else record.emitted.values
        return "real values" if record.integrates_only else "spikes" if values is None else _KIND[values.kind]
    if record.op in ("conv", "linear", "norm", "softmax") or (record.op == "activation" and record.note != "relu"):
        return "real values"
    if is_average(record):
        return "averages of spikes" if read in ("spikes", "sums of spikes", "averages of spikes") else "real values"
    if record.op == "pool" and record.note.startswith(("lp_pool", "avg_pool")):
        return "sums of spikes" if read in ("spikes", "sums of spikes") else "real values"
    if record.op in ("pool", "scale", "activation"):
        return read
    if record.op == "compare":
        return "spikes" if record.note in _TWO_VALUED else None
    if record.op in ("add", "mul") and read in ("spikes", "sums of spikes"):
        if len(record.reads) < 2:  # with a constant
            return None
        return "sums of spikes" if record.op == "add" else read
    return "real values" if read == "real values" and record.op != "unsupported" else None


def feeds_weights(records: Sequence[OperationRecord], readers: Mapping[int, set[int]]) -> list[bool]:
    """For every record, whether a weight layer or product reads its result, if only through element-wise operations."""
    found = [False] * len(records)
    for index in range(len(records) - 1, -1, -1):
        found[index] = any(
            records[r].op in OPERATIONS or (records[r].op != "neuron" and found[r]) for r in readers.get(index, ())
        )
    return found


def why_unfolded(
    index: int,
    records: Sequence[OperationRecord],
    layers: Sequence[str],
    readers: Mapping[int, set[int]],
    outputs: frozenset[int],
) -> str:
    """Why a BatchNorm does not fold into the layer before it (design, rule 6)."""
    record = records[index]
    if not record.foldable:
        return "statistics of the batch itself"
    if not record.inputs:
        return "of the network's input"
    if len(record.inputs) > 1:
        return f"behind {len(record.inputs)} layers at once"
    if record.reads_padding:
        return "behind padding"
    (source,) = record.inputs
    before = records[source]
    if before.op not in ("conv", "linear"):
        return f"behind {layers[source]} ({before.note or before.op})"
    if source in outputs or readers.get(source, set()) != {index}:
        return f"{layers[source]} has other readers"
    return f"{layers[source]} has other normalisations"
