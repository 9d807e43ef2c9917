"""A network that is called once per time step does the same in every call: the events of the next call are foretold.

If everything that is known of the tensors and operations of one call is that of the call before, one time step later,
then it is so for all further calls: rules depend on nothing else. The next call is followed as if it were in a script.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from snn_energy.profiler.tracking.follower import Follower
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.script import (
    BeginCall,
    CallStep,
    Group,
    InputStep,
    Leave,
    OperandScan,
    OtherTensor,
    Put,
    Slot,
    Step,
    scans_of,
)
from snn_energy.profiler.values.geometry import Geometry
from snn_energy.profiler.values.traces import ScanResults, TensorFacts, TensorTrace

_OWN_FIELDS = ("step", "inputs", "active", "geometry", "left", "right", "fired")  # compared apart, or not at all


class CallEvents(NamedTuple):
    """The events of one call of the model, and its operations. slot, record: the first numbers that are its own."""

    step: int
    slot: int
    record: int
    events: Sequence[Step]
    records: Sequence[OperationRecord]


def last_calls(steps: Sequence[Step], records: Sequence[OperationRecord], count: int) -> list[CallEvents]:
    """The last calls of the model in a script, in their order; fewer if there are not so many."""
    end_step, end_record, found = len(steps), len(records), []
    for at in range(len(steps) - 1, -1, -1):
        begin = steps[at]
        if isinstance(begin, BeginCall):
            found.append(
                CallEvents(
                    begin.step or 0, begin.slot, begin.records, steps[at:end_step], records[begin.records : end_record]
                )
            )
            end_step, end_record = at, begin.records
            if len(found) == count:
                break
    return found[::-1]


# ---- is a call the one before, a step later? -------------------------------------------------------------------


def are_alike(one: CallEvents, other: CallEvents) -> bool:
    """True if two calls differ in nothing but the time step and the numbers that follow from it."""
    if len(one.events) != len(other.events) or len(one.records) != len(other.records):
        return False
    forms = (_Form(one), _Form(other))
    return all(
        (a := forms[0].of_event(x)) is not None and a == forms[1].of_event(y)
        for x, y in zip(one.events, other.events, strict=True)
    ) and all(forms[0].of_record(x) == forms[1].of_record(y) for x, y in zip(one.records, other.records, strict=True))


class _Form:
    """What is compared of a call: numbers and steps relative to its own."""

    def __init__(self, call: CallEvents) -> None:
        self.call = call

    def of_event(self, event: Step) -> Hashable:
        """Everything about an event; None if it cannot be foretold."""
        call = self.call
        if isinstance(event, BeginCall):
            return ("call", None if event.step is None else event.step - call.step)
        if isinstance(event, Leave):
            return ("leave", event.name, event.records - call.record)
        if isinstance(event, InputStep):
            return ("input", *event[:-1], self._put(event.put))
        if not isinstance(event, CallStep):
            return ("enter", *event)
        if event.writes:
            return None
        scans = tuple(
            (s.slot - call.slot, s.layout, self._facts(s.trace.facts), s.reader, s.needs_levels, s.record - call.record,
             s.side, s.form)
            for s in event.scans
        )  # fmt: skip
        return (
            event.name, self._argument(event.arguments), self._argument(event.keywords), event.results,
            event.facts, scans,
            event.prescanned and event.prescanned.slot - call.slot, tuple(self._put(put) for put in event.puts),
            tuple((slot - call.slot, self._facts(trace.facts)) for slot, trace in event.inputs), tuple(event.labels),
            event.records - call.record,
        )  # fmt: skip

    def of_record(self, record: OperationRecord) -> Hashable:
        """Everything about an operation but its sums."""
        fields = {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        return (
            tuple(fields.items()), None if record.step is None else record.step - self.call.step,
            frozenset(source - self.call.record for source in record.inputs), record.active.tobytes(),
            _sizes(record.geometry),
        )  # fmt: skip

    def _put(self, put: Put) -> Hashable:
        return put.slot - self.call.slot, self._facts(put.trace.facts), put.generation, put.layout

    def _facts(self, facts: TensorFacts) -> Hashable:
        roles, timed, step, active, constant, sources, bound, is_padded = facts
        relative = None if step is None else step - self.call.step
        own = frozenset(source - self.call.record for source in sources)
        return roles, timed, relative, active.tobytes(), constant, own, bound, is_padded

    def _argument(self, value: Any) -> Hashable:
        if isinstance(value, Slot):
            return ("slot", value - self.call.slot)
        if isinstance(value, Group):
            return (value.kind, *(self._argument(part) for part in value.parts))
        if isinstance(value, OtherTensor):
            held = value.ref()
            known = None if value.facts is None else self._facts(value.facts)
            one = None if value.value is None else value.value.item()
            of_it = value.shape, value.stride, value.dtype, value.device, value.place, one
            return (id(held) if held is not None else None, known, *of_it)
        return (type(value), value)


def _sizes(geometry: Geometry | None) -> Hashable:
    if geometry is None:
        return None
    return (geometry.positions, geometry.reduction, geometry.out_channels, geometry.groups, geometry.weights,
            geometry.biases, geometry.fan_out.tobytes())  # fmt: skip


class RepeatedCalls:
    """Extends a follower by one call after another, each as the one before. Where ``follower`` departs, it is useless.

    kept: scans of a tensor that several calls read, such as the input of all time steps.
    """

    def __init__(self, follower: Follower, calls: Sequence[CallEvents]) -> None:
        self.follower, self._last = follower, calls[-1]
        before, last = (scans_of(call.events) for call in calls)
        shared = {id(results) for results in before} & {id(results) for results in last}
        self._kept = {id(results): results for results in last if id(results) in shared}

    def foretell(self) -> None:
        """Extend the follower by the next call."""
        self._last = _Next(self._last, self._kept).call()
        self.follower.extend(self._last.events, self._last.records)


# ---- the next call ---------------------------------------------------------------------------------------------


class _Next:
    """Moves events and operations one call on. kept: scans that both calls share."""

    def __init__(self, call: CallEvents, kept: Mapping[int, ScanResults]) -> None:
        self.last, self.now = call, dict(kept)
        own = [event for event in call.events if isinstance(event, (CallStep, InputStep))]
        self.slots = sum(self._numbers(event) for event in own)
        self.records = len(call.records)

    def _numbers(self, event: CallStep | InputStep) -> int:
        if isinstance(event, InputStep):
            return 1
        return len(event.results) + _other_tensors(event.arguments) + _other_tensors(event.keywords)

    def call(self) -> CallEvents:
        """The next call."""
        last = self.last
        return CallEvents(
            last.step + 1, last.slot + self.slots, last.record + self.records,
            [self._event(event) for event in last.events], [self._record(record) for record in last.records],
        )  # fmt: skip

    def _event(self, event: Step) -> Step:
        if isinstance(event, BeginCall):
            return BeginCall(self.last.step + 1, event.slot + self.slots, event.records + self.records)
        if isinstance(event, Leave):
            return Leave(event.name, event.records + self.records)
        if isinstance(event, InputStep):
            return event._replace(put=self._put(event.put))
        if not isinstance(event, CallStep):
            return event
        prescanned = next((i for i, put in enumerate(event.puts) if put is event.prescanned), None)
        puts = [self._put(put) for put in event.puts]
        return CallStep(
            event.name, self._group(event.arguments), self._group(event.keywords), event.results,
            event.facts, [self._scan(scan) for scan in event.scans],
            None if prescanned is None else puts[prescanned], puts, [],
            [(slot + self.slots, self._trace(trace)) for slot, trace in event.inputs], event.labels,
            event.records + self.records,
        )  # fmt: skip

    def _record(self, record: OperationRecord) -> OperationRecord:
        moved = record.copy()
        moved.step = None if record.step is None or record.step < 0 else record.step + 1
        moved.inputs = frozenset(source + self.records for source in record.inputs)
        return moved

    def _scan(self, scan: OperandScan) -> OperandScan:
        return scan._replace(
            slot=scan.slot + self.slots, trace=self._trace(scan.trace), record=scan.record + self.records,
            targets=tuple((record + self.records, side) for record, side in scan.targets),
        )  # fmt: skip

    def _put(self, put: Put) -> Put:
        return Put(put.slot + self.slots, self._trace(put.trace), put.generation, put.layout)

    def _trace(self, trace: TensorTrace) -> TensorTrace:
        facts = trace.facts
        step = facts.step + 1 if facts.step is not None and facts.step >= 0 else facts.step
        moved = facts._replace(step=step, sources=frozenset(source + self.records for source in facts.sources))
        scans = self.now.get(id(trace.scans))
        if scans is None:
            scans = self.now[id(trace.scans)] = ScanResults()
            scans.writer = trace.scans.writer
        return TensorTrace(moved, scans)

    def _group(self, group: Group) -> Group:
        return Group(group.kind, tuple(self._argument(part) for part in group.parts))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Slot):
            return Slot(value + self.slots)
        return self._group(value) if isinstance(value, Group) else value


def _other_tensors(group: Group) -> int:
    """How many arguments get a number of their own."""
    return sum(
        _other_tensors(part) if isinstance(part, Group) else isinstance(part, OtherTensor) for part in group.parts
    )
