"""Merges parts into counts: the values of all parts are joined, then kinds are determined and rows built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import CountsError, ProfilingError
from snn_energy.core.groups import layer_group
from snn_energy.core.kinds import KINDS, ZERO, ValueSet, check_declared_kind, least_upper_bound, within, without_proof
from snn_energy.counts.columns import COLUMNS, INTEGRATES_ONLY_NOTE, PER_SAMPLE, make_rows
from snn_energy.counts.counts import Counts
from snn_energy.counts.notes import depends_on_batch, emission_note, operand_note
from snn_energy.counts.sample_store import PerSampleArrays
from snn_energy.profiler.axes.needed_steps import Node, StepMask, needed_steps
from snn_energy.profiler.results.part import CountArray, Operation, PartialCounts, Side
from snn_energy.profiler.results.resume import Parts
from snn_energy.profiler.values.bounds import searched_for

TOTALS_ALONE = ("input_levels",)  # counts that are kept for all samples together, not for each


@dataclass(frozen=True)
class MergedCounts:
    """All parts merged, without the per-sample counts.

    first: the first part without arrays; it defines the rows. factors: per part, operand -> factor that converts its
    sums of \\|k\\| to the common unit. active: per operation, one flag per row.
    """

    first: PartialCounts
    samples: int
    correct: int | None
    values: Mapping[Side, ValueSet]
    factors: Sequence[Mapping[Side, int]]
    active: Sequence[StepMask]
    not_counted: Mapping[str, str]


def joined(sets: Sequence[ValueSet], most: int) -> tuple[ValueSet, list[int]]:
    """The least upper bound of several sets of values, and the factor from the unit of each to the common unit.

    most: largest multiple that is searched for.
    """
    whole, factors = ZERO, [1] * 0
    for values in sets:
        whole, old, new = least_upper_bound(whole, values, max(most, whole.max_k or 0, values.max_k or 0))
        factors = [factor * old for factor in factors] + [new]
    return whole, factors


def merge(parts: Iterator[PartialCounts], total: int | None = None) -> MergedCounts:
    """Join all parts, in the order of their samples; total: samples of the whole run, if known.

    Raises ProfilingError for no samples and for a network that changes between them, CountsError for missing parts.
    """
    summaries = [replace(part, arrays={}) for part in _one_structure(parts)]
    if not summaries:
        raise ProfilingError("the loader gave no samples; nothing was counted")
    first, samples = summaries[0], 0
    for start, stop in [*((part.start, part.stop) for part in summaries), *([] if total is None else [(total, total)])]:
        if start != samples:
            raise CountsError(f"samples {samples} to {start - 1} are not counted yet; run the same command again")
        samples = stop
    sides = dict.fromkeys(key for part in summaries for key in part.values)
    values, factors = {}, [dict[Side, int]() for _ in summaries]
    for key in sides:
        limit = max(part.limits.get(key, 1) for part in summaries)
        is_loader = any(key in part.loader for part in summaries)
        whole, scale = joined([part.values.get(key, ZERO) for part in summaries], searched_for(limit, is_loader))
        if is_loader:
            whole = check_declared_kind(whole, first.rules["input_kind"], key[0])
        if (shown := [part.computed[key] for part in summaries if key in part.computed]) and not any(shown):
            whole = without_proof(whole)
        values[key] = within(whole, limit)
        for mine, factor in zip(factors, scale, strict=True):
            mine[key] = factor
    worked = np.logical_or.reduce([np.array(part.worked, dtype=np.bool_) for part in summaries])
    active, at = [], 0
    for item in first.operations:
        flags = np.array(item.active, dtype=np.bool_)
        active.append(flags if item.op == "neuron" else flags | worked[at : at + len(flags)])
        at += len(flags)
    correct = [part.correct for part in summaries if part.correct is not None]
    not_counted = {layer: why for part in reversed(summaries) for layer, why in part.not_counted.items()}
    is_scored = len(correct) == len(summaries)
    return MergedCounts(first, samples, sum(correct) if is_scored else None, values, factors, active, not_counted)


def _one_structure(parts: Iterator[PartialCounts]) -> Iterator[PartialCounts]:
    """The parts, all with the operations of the first one. Raises ProfilingError if the network changes."""
    first: PartialCounts | None = None
    for part in parts:
        first = part if first is None else first
        if part.operations != first.operations:
            pairs = list(zip(part.operations, first.operations, strict=False))
            changed = [a.layer for a, b in pairs if a.structure_keys != b.structure_keys]
            if changed or len(part.operations) != len(first.operations) or part.outputs != first.outputs:
                at = ", ".join(changed[:3]) or "its last operations"
                raise ProfilingError(f"the network changes between batches (at {at}); profile it in parts")
        odd = [key for key in first.rules if part.rules.get(key) != first.rules[key]]
        if odd:
            raise ProfilingError(f"{', '.join(odd)} cannot be told alike for all samples; declare it")
        yield replace(part, operations=first.operations)


def counts_of(parts: Parts, header: Mapping[str, Any]) -> tuple[Counts, Mapping[str, str]]:
    """The counts of all parts together, and layer -> why its work is unknown. header: entries that are added last.

    The parts are read twice, one in memory at a time. Per-sample counts too large for memory go to an unnamed file
    that is deleted with the counts. Raises ProfilingError, CountsError.
    """
    whole = merge(iter(parts), parts.total)
    operations = whole.first.operations
    order = {name: i for i, name in enumerate(dict.fromkeys(item.layer for item in operations))}
    places = sorted(range(len(operations)), key=lambda i: (order[operations[i].layer], operations[i].steps[0]))
    offsets = np.cumsum([0, *(len(operations[i].steps) for i in places)]).tolist()
    totals = {name: np.zeros(offsets[-1], dtype=np.int64) for name in (*PER_SAMPLE, *TOTALS_ALONE)}
    facts = {i: _facts_of_operands(operations[i], whole.values) for i in places}
    with PerSampleArrays(offsets[-1], whole.samples, parts.folder) as rows:
        for part, factors in zip(_one_structure(iter(parts)), whole.factors, strict=True):
            found = _by_operation(part)
            for i, at in zip(places, offsets, strict=False):
                work = _work(operations[i], found[i], facts[i], factors)
                for name, values in work.items():
                    kept = values * whole.active[i][:, None]
                    totals[name][at : at + len(kept)] += kept.sum(1)
                    if name in PER_SAMPLE:
                        rows.write(name, at, part.start, kept)
        per_sample = rows.arrays()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    needed, first_step = _needed(whole), {operations[i].layer: operations[i].steps[0] for i in reversed(places)}
    for i, at in zip(places, offsets, strict=False):
        item = operations[i]
        sums = {name: values[at : at + len(item.steps)].tolist() for name, values in totals.items()}
        row = _row(item, facts[i], sums, whole, whole.active[i].tolist())
        row |= {"needed": needed[i].tolist(), "order": order[item.layer]}
        row["input_repeated"] = [item.constant and step > first_step[item.layer] for step in item.steps]
        for name, column in columns.items():
            value = row[name]
            column.extend(value if isinstance(value, list) else [value] * len(item.steps))
    accuracy = None if whole.correct is None else whole.correct / whole.samples
    of_batch = list(dict.fromkeys(item.layer for item in operations if depends_on_batch(item.note)))
    full = {"samples": whole.samples, "time_steps": whole.first.rules["time_steps"], "accuracy": accuracy}
    full |= {"depends_on_batch": of_batch} if of_batch else {}
    return Counts({**full, **whole.first.header, **header}, make_rows(columns), per_sample), whole.not_counted


def _by_operation(part: PartialCounts) -> list[dict[str, CountArray]]:
    """Per operation, name -> (rows, samples)."""
    at = dict.fromkeys(part.arrays, 0)
    found = []
    for item in part.operations:
        found.append({name: part.arrays[name][at[name] : at[name] + len(item.steps)] for name in item.counted})
        for name in item.counted:
            at[name] += len(item.steps)
    return found


def _facts_of_operands(item: Operation, values: Mapping[Side, ValueSet]) -> dict[str, Any]:
    """Which operand is streamed (the lower kind, the left one on a tie), and the columns that follow from it."""
    facts: dict[str, Any] = dict.fromkeys(
        ("input_kind", "max_k", "input_elements", "other_kind", "other_max_k", "other_elements", "side")
    )
    if item.streamed is None:
        return facts
    sides = {"left": item.streamed} if item.other is None else {"left": item.streamed, "right": item.other}
    of = {side: values[item.layer, side] for side in sides}
    side, *rest = sorted(sides, key=lambda name: KINDS.index(of[name].kind))
    facts |= {"side": side, "input_kind": of[side].kind, "max_k": of[side].max_k, "input_elements": sides[side]}
    for other in rest:
        facts |= {"other_kind": of[other].kind, "other_max_k": of[other].max_k, "other_elements": sides[other]}
    return facts


def _work(
    item: Operation, found: Mapping[str, CountArray], facts: Mapping[str, Any], factors: Mapping[Side, int]
) -> dict[str, npt.NDArray[np.int64]]:
    """Per-sample work (rows, samples) of one operation in one part, including inactive steps."""
    work = {name: values.astype(np.int64) for name, values in found.items()}
    made: dict[str, npt.NDArray[np.int64]] = {name: values for name, values in work.items() if name in PER_SAMPLE}
    side = facts["side"]
    if side is None:
        return made
    made |= {"input_nonzeros": work[f"nonzeros_{side}"], "sops_gated": work["sops"]}
    if facts["input_kind"] != "real":
        factor = factors.get((item.layer, side), 1)
        made["sops_multi"] = work[f"multi_{side}"] * factor
        made["input_levels"] = work[f"levels_{side}"] * factor
    if item.other is not None:
        width = item.out_channels // max(1, item.groups) if side == "left" else item.positions
        made["sops_gated"] = work[f"nonzeros_{side}"] * width
        made["other_nonzeros"] = work[f"nonzeros_{'right' if side == 'left' else 'left'}"]
    return made


def _needed(whole: MergedCounts) -> list[StepMask]:
    """For every operation, one flag per row: True if an active and needed reader reads it."""
    nodes = [
        Node(item.layer, item.op == "neuron", None if item.timed else item.steps[0], active, frozenset(item.inputs))
        for item, active in zip(whole.first.operations, whole.active, strict=True)
    ]
    return needed_steps(nodes, whole.first.outputs, whole.first.rules["time_steps"])


def _row(
    item: Operation, facts: Mapping[str, Any], total: Mapping[str, list[int]], whole: MergedCounts, active: list[bool]
) -> dict[str, Any]:
    """The columns of one operation; a list if the values differ by row."""
    note, is_real = item.note, facts["input_kind"] == "real"
    if facts["side"] is not None:
        other = {"left": "right", "right": "left"}[facts["side"]]
        note = operand_note(whole.values[item.layer, facts["side"]], whole.values.get((item.layer, other))) or note
    if item.integrates_only:
        note = INTEGRATES_ONLY_NOTE
    elif (item.layer, "emitted") in whole.values and item.op == "neuron":
        note = emission_note(whole.values[item.layer, "emitted"])
    known = item.op != "unsupported"

    def work_of(per_sample: int) -> list[int]:
        return [per_sample * whole.samples * on for on in active]

    return {
        **{name: facts[name] for name in facts if name != "side"},
        "layer": item.layer, "group": layer_group(item.layer), "op": item.op, "time_step": list(item.steps),
        "active": active,
        "input_nonzeros": None if item.streamed is None else total["input_nonzeros"],
        "input_levels": None if item.streamed is None or is_real else total["input_levels"],
        "other_nonzeros": None if item.other is None else total["other_nonzeros"],
        "dense_macs": work_of(item.dense_macs) if known else None,
        "sops": total["sops"] if known else None,
        "sops_gated": total["sops_gated"] if known else None,
        "sops_multi": total["sops_multi"] if known and not is_real else None,
        "elementwise_ops": work_of(item.elementwise_ops) if known else None,
        "output_elements": item.output_elements, "weights": item.weights, "biases": item.biases,
        "neurons": item.neurons, "state_variables": item.state_variables, "spikes": total["spikes"],
        "membrane_reads": work_of(item.neurons), "membrane_writes": work_of(item.neurons),
        "reduction": item.reduction, "out_channels": item.out_channels, "positions": item.positions,
        "groups": item.groups, "feeds_neuron": item.feeds_neuron, "note": note,
    }  # fmt: skip
