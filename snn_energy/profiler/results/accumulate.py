"""Accumulates the operations of all batches, layer by layer and step by step."""

from __future__ import annotations

import itertools
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import ZERO, ValueSet, check_declared_kind, least_upper_bound
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.counts.columns import OPERATIONS, to_smallest_dtype
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import ONCE
from snn_energy.profiler.counting_mode import CountingMode
from snn_energy.profiler.notes import notes_of
from snn_energy.profiler.results.families import Counts, Family, Key, families_of, have_same_sizes
from snn_energy.profiler.results.part import Operation, PartialCounts, Side
from snn_energy.profiler.results.placement import (
    PlacedOperation,
    assign_steps,
    feeds_neuron,
    folded_operations,
    readers_of,
)
from snn_energy.profiler.results.resume import PART_BYTES, Parts
from snn_energy.profiler.tracking.operation_counts import counts_of, has_counts
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.bounds import searched_for
from snn_energy.profiler.values.scan import NonzeroSums, shows_few_values
from snn_energy.running.accuracy import correct_samples
from snn_energy.running.time_mode import TimeMode


@dataclass
class RowFacts:
    """What all batches share for one operation. active: one flag per row, True if a source works."""

    placed: PlacedOperation
    active: StepMask
    constant: bool
    note: str
    elementwise_ops: int
    feeds_neuron: bool


class BatchAccumulator:
    """Accumulates the counts of batches and stores them part by part.

    samples: their number in all batches so far. layers, families: of the first batch. values, limits, loader, computed,
    correct: of the current part.
    """

    def __init__(self, time_steps: int, max_k: int | None, kept: Parts, header: Mapping[str, Any]) -> None:
        self.time_steps, self.max_k, self.samples = time_steps, max_k, 0
        self.kept, self.header = kept, header
        self.layers: dict[Key, RowFacts] = {}
        self.families: list[Family] = []
        self.values: dict[Side, ValueSet] = {}
        self.limits: dict[Side, int] = {}
        self.loader: set[Side] = set()
        self.computed: dict[Side, bool] = {}
        self.correct: int | None = 0
        self._calls: list[tuple[Any, ...]] = []
        self._placed: list[PlacedOperation] = []
        self._last: list[OperationRecord] = []
        self._by_family: list[tuple[Family, list[OperationRecord]]] = []
        self._outputs: frozenset[int] = frozenset()
        self._batches, self._before, self._entries, self._since = 0, 0, 0, clock.monotonic()
        self._is_whole = True  # False while a batch is half gathered

    def add(self, counting: CountingMode, out: Any, y: Any, mode: TimeMode) -> None:
        """Add one forward pass. Raises ProfilingError if it differs from earlier ones or has nothing to count."""
        if counting.log.records is not self._last:  # else it was compared with an earlier one, event by event
            self._place(counting, out, mode)
        self._is_whole = False
        for family, records in self._by_family:
            self._gather(family, records, counting)
        self._count_correct(out, y, counting.batch.samples, mode)
        self.samples += counting.batch.samples
        self._batches += 1
        self._is_whole = True

    def _place(self, counting: CountingMode, out: Any, mode: TimeMode) -> None:
        """Assign rows to the operations of a pass that was walked through. Raises ProfilingError."""
        records = counting.log.records
        calls = [event.call for event in records]
        if calls != self._calls:  # else the placement is unchanged
            self._calls, self._placed = calls, assign_steps(records, self.time_steps, mode.name)
        placed = [PlacedOperation(e, p.layer, p.steps) for p, e in zip(self._placed, records, strict=True)]
        self._require_rows(placed, mode)
        if not self.layers:
            self._define_rows(placed, counting, out, mode)
        else:
            self._require_same_rows(placed)
        by_key = {item.key: item.event for item in placed}
        by_family = [(family, family.records(by_key)) for family in self.families]
        self._by_family = [(family, events) for family, events in by_family if has_counts(events[0])]
        self._last = records
        position = {id(record): index for index, record in enumerate(records)}
        counting.events.defer_scans([[position[id(event)] for event in events] for _, events in self._by_family])

    def _require_rows(self, placed: Sequence[PlacedOperation], mode: TimeMode) -> None:
        """Raise ProfilingError if a pass has no operations, two of one name in one step, or no time axis."""
        if len({item.key for item in placed}) != len(placed):
            twice = next(p.layer for i, p in enumerate(placed) if p.key in {q.key for q in placed[:i]})
            raise ProfilingError(f"{twice}: two operations of one name in one time step; say where time is with time=")
        if not placed:
            raise ProfilingError("the network did nothing to the loader's tensor that can be counted")
        if self.time_steps > 1 and mode.read is None and all(item.steps == [ONCE] for item in placed):
            raise ProfilingError(
                f"no time axis of {self.time_steps} steps was found in the network; say where time is with time= "
                f"(one of {', '.join(TIME_MODES)}), or profile it with time_steps=1"
            )

    def _require_same_rows(self, placed: Sequence[PlacedOperation]) -> None:
        """Raise ProfilingError if a pass has other operations, sizes or active steps than the first one."""
        structure = {item.key for item in placed}
        other = [p.layer for p in placed if p.key in self.layers and p.event.inputs != self._event_of(p).inputs]
        if structure != set(self.layers) or other:
            odd = sorted({layer for layer, _ in structure ^ set(self.layers)} or set(other))
            raise ProfilingError(f"the network changes between batches (at {', '.join(odd[:3])}); profile it in parts")
        changed = [p.layer for p in placed if not np.array_equal(p.event.active, self.layers[p.key].active)]
        if changed:
            raise ProfilingError(
                f"other time steps are active in this batch than in the first one (at {', '.join(changed[:3])}); "
                "do not change masks while profiling, or profile in parts"
            )
        sized = next((p.layer for p in placed if not have_same_sizes(p.event, self._event_of(p))), None)
        if sized is not None:
            raise ProfilingError(f"{sized}: its size changes between batches; profile one image size at a time")

    def _event_of(self, item: PlacedOperation) -> OperationRecord:
        """The same operation of the first pass."""
        return self.layers[item.key].placed.event

    def _define_rows(self, placed: Sequence[PlacedOperation], counting: CountingMode, out: Any, mode: TimeMode) -> None:
        """Define the rows from the first pass: what is active, constant or folded, and what feeds neurons."""
        self._outputs = outputs = counting.outputs(out)
        readers = readers_of([item.event for item in placed])
        notes = notes_of([item.event for item in placed], [item.layer for item in placed], readers, outputs)
        folded = folded_operations(placed, readers, outputs)
        for index, item in enumerate(placed):
            event = item.event
            target = folded.get(index)
            self.layers[item.key] = RowFacts(
                placed=item,
                active=event.active,
                constant=event.constant and (mode.has_one_input or _reads_whole_input(event, counting, mode)),
                note=target or notes[index],
                elementwise_ops=0 if target else event.elementwise_ops,
                feeds_neuron=event.op in OPERATIONS and feeds_neuron(index, placed, readers, outputs),
            )
        self.families = families_of(placed)

    def _gather(self, family: Family, records: Sequence[OperationRecord], counting: CountingMode) -> None:
        """Gather the per-sample counts of the operations of a family, (members * rows, samples)."""
        counts = counts_of(records, counting.batch.rows(records[0].timed))
        arrays: dict[str, Counts] = {}
        for name, tensor in zip(counts._fields, counts, strict=True):
            if tensor is not None:
                arrays[name] = tensor.reshape(len(family.active), -1).cpu().numpy()
        for side in ("left", "right"):
            if f"nonzeros_{side}" in arrays:
                self._join(family, side, records, arrays, counting)
        if "spikes" in arrays and records[0].emitted is not None:
            key = (family.layer, "emitted")
            emitted = [record.emitted for record in records if record.emitted is not None]
            self._set_limit(key, emitted, counting)
            for given in values_of(emitted, arrays["spikes"]):
                self._join_values(key, given)
        if not family.active.all() and records[0].op != "neuron":
            family.mark_working(arrays)
        for name, values in arrays.items():
            family.gathered[name].append(values)
            self._entries += values.size

    def _join(
        self,
        family: Family,
        side: str,
        records: Sequence[OperationRecord],
        arrays: dict[str, Counts],
        counting: CountingMode,
    ) -> None:
        """Join the values of an operand with those of the part; sums of |k| are brought to their common unit."""
        key, weighted = (family.layer, side), (f"multi_{side}", f"levels_{side}")
        operands = [scan for record in records if (scan := getattr(record, side)) is not None]
        found = values_of(operands, arrays[f"nonzeros_{side}"])
        is_loader = any(scan.bound.loader and scan.bound.reason is None for scan in operands)
        self.loader |= {key} if is_loader else set()
        if any(scan.bound.is_computed for scan in operands) and not self.computed.get(key):
            elements: int = getattr(records[0], f"{side}_elements")
            self.computed[key] = shows_few_values(operands, arrays[f"nonzeros_{side}"], elements)
        self._set_limit(key, operands, counting)
        for index, values in enumerate(found):
            if self.values.setdefault(key, ZERO) == values:
                continue
            old, new = self._join_values(key, values)
            if old != 1:
                calls = [other for other in self.families if other.layer == family.layer]
                for other, name in itertools.product(calls, weighted):
                    other.gathered[name] = [sums * old for sums in other.gathered[name]]
            first = index * family.rows
            last = first + family.rows if len(found) > 1 else len(arrays[weighted[0]])
            for name in weighted:
                arrays[name] = _scaled(_scaled(arrays[name], 0, first, old), first, last, new)
        if is_loader:
            check_declared_kind(self.values[key], counting.scans.input_kind, family.layer)  # raises if not as declared
        if self.values[key].reason is not None:
            for record in records:
                counting.scans.known_real.add((record.layer, record.invocation, side))

    def _set_limit(self, key: Side, scans: Sequence[NonzeroSums], counting: CountingMode) -> None:
        """Keep the largest multiple that counts as integer in an operand, the same for every batch."""
        limits = [counting.scans.limit_of(bound) for bound in {scan.bound for scan in scans}]
        self.limits[key] = max(self.limits.get(key, 1), *limits)

    def _join_values(self, key: Side, values: ValueSet) -> tuple[int, int]:
        """Join the values of an operand with those of the part. Returns the factors of the old and the new ones."""
        before = self.values.get(key, ZERO)
        most = max(searched_for(self.limits[key], key in self.loader), before.max_k or 0, values.max_k or 0)
        self.values[key], old, new = least_upper_bound(before, values, most)
        return old, new

    def _count_correct(self, out: Any, y: Any, samples: int, mode: TimeMode) -> None:
        """Count correctly classified samples, if there are labels and logits; outputs of several steps are averaged."""
        right = None if self.correct is None else correct_samples(out, y, mode, self.time_steps, samples)
        self.correct = None if right is None or self.correct is None else self.correct + right

    def store_if_due(self, counting: CountingMode, mode: TimeMode) -> None:
        """Close the part if it is large or old, if its run of samples ends, or if a signal requests to stop.

        Raises OutputError, and Interrupted after storing the part if a signal requested it.
        """
        stop_signal = self.kept.signal
        old = clock.monotonic() - self._since >= self.kept.save_every_s
        if self._entries * 8 >= PART_BYTES or old or stop_signal or self.kept.ends_run(self._batches):
            self.keep(counting, mode, is_last=False)
        if stop_signal:
            raise self.kept.interrupted(stop_signal)

    def keep_after(self, error: Exception, counting: CountingMode, mode: TimeMode) -> None:
        """After an error: store the batches before it if the run can go on from there; note on it which one it was."""
        if self._batches and self._is_whole and self.kept.todo is not None:
            self.keep(counting, mode, is_last=False)
        self.kept.note_on(error, self._batches, self.samples)

    def keep(self, counting: CountingMode, mode: TimeMode, *, is_last: bool) -> None:
        """Store what was counted since the last part, and start a new one. Raises OutputError."""
        count = self.samples - self._before
        if count == 0:
            return
        rule = "no counting rule for '{}'; it is listed as unsupported and its cost is unknown"
        whole: dict[str, dict[Key, Counts]] = {}
        for name in sorted({name for family in self.families for name, arrays in family.gathered.items() if arrays}):
            gathered: dict[Key, Counts] = {}
            for family in self.families:
                gathered |= family.by_member(name)
            whole[name] = {key: gathered[key] for key in self.layers if key in gathered}
        worked: dict[Key, StepMask] = {}
        for family in self.families:
            worked |= family.worked_by_member()
        part = PartialCounts(
            start=self.kept.place_of(self._batches, self.samples) - count,
            samples=count,
            rules={
                "time": mode.name,
                "time_steps": self.time_steps,
                "max_k": self.max_k,
                "input_kind": counting.scans.input_kind,
            },
            header=self.header,
            correct=self.correct,
            operations=tuple(
                _operation(row, tuple(sorted(name for name in whole if key in whole[name])))
                for key, row in self.layers.items()
            ),
            outputs=self._outputs,
            values=self.values,
            limits=self.limits,
            loader=frozenset(self.loader),
            computed=self.computed,
            worked=tuple(flag for key in self.layers for flag in worked[key].tolist()),
            not_counted={
                **{k: rule.format(name) for k, name in counting.log.unsupported.items()},
                **counting.log.untraced_layers,
            },
            arrays={name: to_smallest_dtype(np.concatenate(list(arrays.values()))) for name, arrays in whole.items()},
        )
        for family in self.families:
            family.start_part()
        self.values, self.limits, self.loader, self.computed = {}, {}, set(), {}
        self.correct = 0
        self._before, self._entries, self._since = self.samples, 0, clock.monotonic()
        self.kept.keep(part, is_last=is_last)


def _reads_whole_input(event: OperationRecord, counting: CountingMode, mode: TimeMode) -> bool:
    """True for an operation on the network's input itself, the same in every call and in every round of a loop.

    An untracked state may change from call to call. A loop that reads a part of its input may read another one in every
    round: x[:, t].
    """
    elements = event.left_elements or event.output_elements
    return not event.inputs and (mode.name != "loop" or elements in counting.input_elements)


def _operation(row: RowFacts, counted: tuple[str, ...]) -> Operation:
    """One operation as it is stored in the parts. counted: names of its counts."""
    event = row.placed.event
    return Operation(
        layer=row.placed.layer,
        steps=tuple(row.placed.steps),
        timed=event.timed,
        op=event.op,
        inputs=tuple(sorted(event.inputs)),
        active=tuple(row.active.tolist()),
        counted=counted,
        constant=row.constant,
        note=row.note,
        feeds_neuron=row.feeds_neuron,
        integrates_only=event.integrates_only,
        streamed=None if event.left is None else event.left_elements,
        other=None if event.right is None else event.right_elements,
        elementwise_ops=row.elementwise_ops,
        dense_macs=event.dense_macs,
        neurons=event.neurons,
        state_variables=event.state_variables,
        output_elements=event.output_elements,
        weights=event.weights,
        biases=event.biases,
        reduction=event.reduction,
        out_channels=event.out_channels,
        positions=event.positions,
        groups=event.groups,
    )


def values_of(scans: Sequence[NonzeroSums], totals: Counts) -> list[ValueSet]:
    """The values of an operand in every call, one for all where a bound determines them. totals: its non-zeros."""
    if all(scan.values is None and scan.bound.unit == scans[0].bound.unit for scan in scans):
        return [scans[0].resolve_values(int(totals.sum()))]
    each = totals.reshape(len(scans), -1).sum(1)
    return [scan.resolve_values(int(total)) for scan, total in zip(scans, each, strict=True)]


def _scaled(sums: Counts, first: int, last: int, factor: int) -> Counts:
    """The sums with some rows in a smaller unit."""
    if factor == 1:
        return sums
    return np.concatenate([sums[:first], sums[first:last] * factor, sums[last:]])
