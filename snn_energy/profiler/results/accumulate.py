"""Accumulates the operations of all batches, layer by layer and step by step."""

from __future__ import annotations

import time as clock
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import ZERO, ValueSet, check_declared_kind, least_upper_bound
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.counts.columns import OPERATIONS, to_smallest_dtype
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import ONCE
from snn_energy.profiler.counting_mode import CountingMode
from snn_energy.profiler.notes import notes_of
from snn_energy.profiler.results.part import Operation, PartialCounts
from snn_energy.profiler.results.placement import (
    PlacedOperation,
    assign_steps,
    feeds_neuron,
    folded_operations,
    readers_of,
)
from snn_energy.profiler.results.resume import PART_BYTES, Parts
from snn_energy.profiler.tracking.operation_counts import counts_of
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.running.accuracy import correct_samples
from snn_energy.running.time_mode import TimeMode


@dataclass
class OperationTotals:
    """What all batches share for one operation, and the per-sample counts of the current part.

    active: one flag per row, True if a source works. worked: one flag per row, True if a sample of the part gave it
    non-zero input. gathered: name -> one (rows, samples of the batch) array per batch.
    """

    placed: PlacedOperation
    active: StepMask
    constant: bool
    note: str
    elementwise_ops: int
    feeds_neuron: bool
    worked: StepMask
    gathered: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))


class BatchAccumulator:
    """Accumulates the counts of batches and stores them part by part.

    samples: their number in all batches so far. layers, values, loader, correct: of the current part.
    """

    def __init__(self, time_steps: int, max_k: int, kept: Parts, header: Mapping[str, Any]) -> None:
        self.time_steps, self.max_k, self.samples = time_steps, max_k, 0
        self.kept, self.header = kept, header
        self.layers: dict[tuple[str, tuple[int, ...]], OperationTotals] = {}
        self.values: dict[tuple[str, str], ValueSet] = {}
        self.loader: set[tuple[str, str]] = set()
        self.correct: int | None = 0
        self._calls: list[tuple[Any, ...]] = []
        self._placed: list[PlacedOperation] = []
        self._outputs: frozenset[int] = frozenset()
        self._batches, self._before, self._entries, self._since = 0, 0, 0, clock.monotonic()

    def add(self, counting: CountingMode, out: Any, y: Any, mode: TimeMode) -> None:
        """Add one forward pass. Raises ProfilingError if it differs from earlier ones or has nothing to count."""
        calls = [event.call for event in counting.log.records]
        if calls != self._calls:  # else the placement is unchanged
            self._calls, self._placed = calls, assign_steps(counting.log.records, self.time_steps, mode.name)
        placed = [PlacedOperation(e, p.layer, p.steps) for p, e in zip(self._placed, counting.log.records, strict=True)]
        structure = {item.key for item in placed}
        if len(structure) != len(placed):
            twice = next(p.layer for i, p in enumerate(placed) if p.key in {q.key for q in placed[:i]})
            raise ProfilingError(f"{twice}: two operations of one name in one time step; say where time is with time=")
        if not placed:
            raise ProfilingError("the network did nothing to the loader's tensor that can be counted")
        if self.time_steps > 1 and all(item.steps == [ONCE] for item in placed):
            raise ProfilingError(
                f"no time axis of {self.time_steps} steps was found in the network; say where time is with time= "
                f"(one of {', '.join(TIME_MODES)}), or profile it with time_steps=1"
            )
        if not self.layers:
            self._define_rows(placed, counting.outputs(out), mode)
        elif structure != set(self.layers) or any(
            p.event.inputs != self.layers[p.key].placed.event.inputs for p in placed
        ):
            odd = sorted(
                {layer for layer, _ in structure ^ set(self.layers)}
                or {p.layer for p in placed if p.event.inputs != self.layers[p.key].placed.event.inputs}
            )
            raise ProfilingError(f"the network changes between batches (at {', '.join(odd[:3])}); profile it in parts")
        changed = [p.layer for p in placed if not np.array_equal(p.event.active, self.layers[p.key].active)]
        if changed:
            raise ProfilingError(
                f"other time steps are active in this batch than in the first one (at {', '.join(changed[:3])}); "
                "do not change masks while profiling, or profile in parts"
            )
        for item in placed:
            self._gather(item, counting)
        self.samples += counting.batch.samples
        self._batches += 1
        self._count_correct(out, y, counting.batch.samples, mode)

    def _define_rows(self, placed: Sequence[PlacedOperation], outputs: frozenset[int], mode: TimeMode) -> None:
        """Define the rows from the first pass: what is active, constant or folded, and what feeds neurons."""
        self._outputs = outputs
        readers = readers_of([item.event for item in placed])
        notes = notes_of([item.event for item in placed], [item.layer for item in placed], readers, outputs)
        folded = folded_operations(placed, readers, outputs)
        for index, item in enumerate(placed):
            event = item.event
            target = folded.get(index)
            self.layers[item.key] = OperationTotals(
                placed=item,
                active=event.active,
                # An untracked state may change from call to call: then only the network's input is constant.
                constant=event.constant and (mode.has_one_input or not event.inputs),
                note=target or notes[index],
                elementwise_ops=0 if target else event.elementwise_ops,
                feeds_neuron=event.op in OPERATIONS and feeds_neuron(index, placed, readers, outputs),
                worked=np.zeros_like(event.active),
            )

    def _gather(self, item: PlacedOperation, counting: CountingMode) -> None:
        """Gather the per-sample counts of one operation, (rows, samples). Raises ProfilingError if its size changed."""
        event, layer = item.event, self.layers[item.key]
        if _sizes(event) != _sizes(layer.placed.event):
            raise ProfilingError(f"{item.layer}: its size changes between batches; profile one image size at a time")
        arrays: dict[str, npt.NDArray[np.int64]] = {}
        counts = counts_of([event], counting.batch.rows(event.timed))
        for name, tensor in counts._asdict().items():
            if tensor is not None:
                arrays[name] = tensor.reshape(len(item.steps), -1).cpu().numpy()
        if event.left is not None:
            arrays["multi_left"] = self._join(item, "left", event.left, arrays, counting)
        if event.right is not None:
            arrays["multi_right"] = self._join(item, "right", event.right, arrays, counting)
        if event.emitted is not None:
            given = event.emitted.resolve_values(int(arrays["spikes"].sum()))
            before = self.values.get((item.layer, "emitted"), ZERO)
            self.values[item.layer, "emitted"] = least_upper_bound(before, given, max(self.max_k, given.max_k or 0))[0]
        if not layer.active.all():
            self._mark_working_steps(layer, arrays)
        for name, values in arrays.items():
            layer.gathered[name].append(values)
            self._entries += values.size

    def _mark_working_steps(self, layer: OperationTotals, arrays: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Mark the steps whose input has non-zeros, even if all their sources are masked (after x + 1 or x == 0)."""
        if layer.placed.event.op == "neuron":
            return
        sides = [arrays[name] > 0 for name in ("nonzeros_left", "nonzeros_right") if name in arrays]
        if sides:
            layer.worked = layer.worked | np.logical_and.reduce(sides).any(1)

    def _join(
        self,
        item: PlacedOperation,
        side: str,
        operand: NonzeroSums,
        arrays: Mapping[str, npt.NDArray[np.int64]],
        counting: CountingMode,
    ) -> npt.NDArray[np.int64]:
        """Join the operand's values with those of the part. Returns its sums of |k| in their common unit."""
        key = (item.layer, side)
        values = operand.resolve_values(int(arrays[f"nonzeros_{side}"].sum()))
        before = self.values.get(key, ZERO)
        joined, old, new = least_upper_bound(before, values, max(self.max_k, before.max_k or 0, values.max_k or 0))
        if operand.bound.loader and operand.bound.reason is None:
            self.loader.add(key)
            check_declared_kind(joined, counting.scans.input_kind, item.layer)  # raises if not as declared
        self.values[key] = joined
        if self.values[key].reason is not None:
            counting.scans.known_real.add((item.event.layer, item.event.invocation, side))
        if old != 1:
            for (name, _), layer in self.layers.items():
                if name == item.layer:
                    layer.gathered[f"multi_{side}"] = [sums * old for sums in layer.gathered[f"multi_{side}"]]
        sums = arrays[f"multi_{side}"]
        return sums if new == 1 else sums * new

    def _count_correct(self, out: Any, y: Any, samples: int, mode: TimeMode) -> None:
        """Count correctly classified samples, if there are labels and logits; outputs of several steps are averaged."""
        right = None if self.correct is None else correct_samples(out, y, mode, self.time_steps, samples)
        self.correct = None if right is None or self.correct is None else self.correct + right

    def store_if_due(self, counting: CountingMode, mode: TimeMode) -> None:
        """Close the part if it is large or old, if its run of samples ends, or if a signal requests to stop.

        Raises OutputError, and Interrupted after storing the part if a signal requested it.
        """
        stop_signal = self.kept.signal
        full = self._entries * 8 >= PART_BYTES
        old = clock.monotonic() - self._since >= self.kept.save_every_s
        if full or old or stop_signal or self.kept.ends_run(self._batches):
            self.keep(counting, mode, is_last=False)
        if stop_signal:
            raise self.kept.interrupted(stop_signal)

    def keep(self, counting: CountingMode, mode: TimeMode, *, is_last: bool) -> None:
        """Store what was counted since the last part, and start a new one. Raises OutputError."""
        count = self.samples - self._before
        if count == 0:
            return
        rule = "no counting rule for '{}'; it is listed as unsupported and its cost is unknown"
        names = sorted({name for layer in self.layers.values() for name in layer.gathered})
        whole = {
            name: [
                np.concatenate(layer.gathered[name], axis=1) for layer in self.layers.values() if layer.gathered[name]
            ]
            for name in names
        }
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
            operations=tuple(_operation(layer) for layer in self.layers.values()),
            outputs=self._outputs,
            values=self.values,
            loader=frozenset(self.loader),
            worked=tuple(flag for layer in self.layers.values() for flag in layer.worked.tolist()),
            not_counted={
                **{k: rule.format(name) for k, name in counting.log.unsupported.items()},
                **counting.log.untraced_layers,
            },
            arrays={name: to_smallest_dtype(np.concatenate(arrays)) for name, arrays in whole.items()},
        )
        for layer in self.layers.values():
            layer.gathered, layer.worked = defaultdict(list), np.zeros_like(layer.worked)
        self.values, self.loader = {}, set()
        self.correct = 0
        self._before, self._entries, self._since = self.samples, 0, clock.monotonic()
        self.kept.keep(part, is_last=is_last)


def _operation(layer: OperationTotals) -> Operation:
    """One operation as it is stored in the parts."""
    event = layer.placed.event
    return Operation(
        layer=layer.placed.layer,
        steps=tuple(layer.placed.steps),
        timed=event.timed,
        op=event.op,
        inputs=tuple(sorted(event.inputs)),
        active=tuple(layer.active.tolist()),
        counted=tuple(sorted(name for name, arrays in layer.gathered.items() if arrays)),
        constant=layer.constant,
        note=layer.note,
        feeds_neuron=layer.feeds_neuron,
        integrates_only=event.integrates_only,
        streamed=None if event.left is None else event.left_elements,
        other=None if event.right is None else event.right_elements,
        elementwise_ops=layer.elementwise_ops,
        dense_macs=event.dense_macs,
        neurons=event.neurons,
        output_elements=event.output_elements,
        weights=event.weights,
        biases=event.biases,
        reduction=event.reduction,
        out_channels=event.out_channels,
        positions=event.positions,
        groups=event.groups,
    )


def _sizes(event: OperationRecord) -> tuple[int, ...]:
    return (event.dense_macs, event.neurons, event.output_elements, event.weights, event.elementwise_ops)
