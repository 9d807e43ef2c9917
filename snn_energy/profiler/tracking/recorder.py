"""Writes the script of a forward pass while it is counted call by call."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from snn_energy.profiler.tracking.operation_log import OperationLog
from snn_energy.profiler.tracking.script import (
    PLAIN,
    BeginCall,
    CallStep,
    Enter,
    Group,
    IncomparableError,
    InputStep,
    Leave,
    OperandScan,
    OtherTensor,
    Parameters,
    Put,
    Result,
    Script,
    Slot,
    Slots,
    Step,
    place_of,
    scans_of,
)
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.nested import tensors_in
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.scan_group import Form
from snn_energy.profiler.values.traces import TensorTrace
from snn_energy.running.outputs import tensors_of

SIDES = {"spikes": "fired"}  # operands of readers whose field in a record has another name


class OpenEvent(NamedTuple):
    """A call that is being counted: its step, and the numbers of its tensors by object."""

    step: CallStep
    numbers: dict[int, int]


class Recorder:
    """Records the events of one forward pass; ``broken`` says why it has no script, None if it has one.

    A call that reads nothing of the loader is no event: its results are constants, which are compared where they are
    read.
    """

    def __init__(self, slots: Slots, table: TensorTable, log: OperationLog, scans: ScanCache) -> None:
        self.slots, self.table, self.log, self.scans = slots, table, log, scans
        self.parameters: Parameters = {}
        self.steps: list[Step] = []
        self.broken: str | None = None
        self._claimed = 0  # operations that belong to recorded events
        self._is_paused = False

    def begin_batch(self, steps: Sequence[Step] = ()) -> None:
        """Start a script, or continue one after these events."""
        self.steps, self.broken, self._claimed = list(steps), None, len(self.log.records)
        self.table.is_recorded = self.scans.is_recorded = True
        self.table.puts.clear()
        self.table.written.clear()
        self.scans.scanned.clear()

    def stop(self) -> None:
        """Record nothing until a batch begins."""
        self.table.is_recorded = self.scans.is_recorded = False
        self.steps = []

    def script(self) -> Script | None:
        """The script of the whole forward pass; None if a later one cannot be compared with it."""
        if self.broken:
            return None
        scans = [scan for step in self.steps if isinstance(step, CallStep) for scan in step.scans]
        groups = {id(scan.group): scan.group for scan in scans if scan.group is not None}
        return Script(self.steps, self.log.records, scans_of(self.steps), list(groups.values()))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, calls belong to the event that has begun."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    # ---- events -----------------------------------------------------------------------------------------------

    def enter(self, name: str, writer: tuple[str, int]) -> None:
        """The forward of a module begins."""
        self.steps.append(Enter(name, writer))

    def leave(self, name: str) -> None:
        """The forward of a module ended; it may have got a row for work that was not seen."""
        self._claimed = len(self.log.records)
        self.steps.append(Leave(name, self._claimed))

    def begin_call(self, step: int | None) -> None:
        """A call of the model begins."""
        self.steps.append(BeginCall(step, len(self.slots.refs), len(self.log.records)))

    def input(self, x: Tensor, layout: str | None, constant: bool, bound: ValueBound) -> None:
        """A tensor became the network's input, and its trace was put into the table."""
        slot = self.slots.add(x)
        put = self._puts({id(x): slot})[-1]
        self.steps.append(InputStep(layout, constant, bound, x.shape, x.stride(), x.dtype, put))

    def begin(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, *, decides: bool = False,
        is_event: bool = False, facts: tuple[Any, ...] = (),
    ) -> OpenEvent | None:  # fmt: skip
        """A call has returned and is counted next; None if it reads nothing of the loader (unless ``is_event``).

        decides: the value of a constant of one element decides its outcome.
        """
        if self._is_paused:
            return None
        if not is_event and all(self.table.get(t) is None for t in tensors_in([args, kwargs])):
            return None
        numbers: dict[int, int] = {}
        try:
            arguments = self._template(tuple(args), decides, numbers)
            keywords = self._template(dict(kwargs), decides, numbers)
        except IncomparableError as error:
            self.broken = f"{name}: {error}"
            arguments = keywords = Group(tuple, ())
        results = []
        for tensor in tensors_of(out):
            numbers[id(tensor)] = self.slots.add(tensor)
            results.append(Result(tensor.shape, tensor.stride(), tensor.dtype))
        step = CallStep(name, arguments, keywords, tuple(results), facts)
        self.steps.append(step)
        return OpenEvent(step, numbers)

    def end(self, event: OpenEvent | None) -> None:
        """The call that began last is counted."""
        if event is None:
            if not self._is_paused and (self.table.puts or self.table.written):
                self.broken = "a call that reads nothing of the loader changes what is known of a tensor"
            return
        step, numbers = event
        step.scans = self._operand_scans(step, numbers)
        for tensor, trace in self.table.written:
            slot = self._number(tensor, numbers)
            if slot is None:
                self.broken = f"{step.name}: it writes to a tensor that is not among its arguments"
            else:
                step.writes.append((slot, trace))
        self.table.written.clear()
        step.puts = self._puts(numbers)
        step.labels = [record.label for record in self.log.records[self._claimed :]]
        self._claimed = step.records = len(self.log.records)

    def prescanned(self, event: OpenEvent | None, tensor: Tensor) -> None:
        """The result of the call is scanned for its later readers."""
        if event is not None:
            step, numbers = event
            step.prescanned = next((put for put in step.puts if put.slot == numbers.get(id(tensor))), None)

    def inputs(self, event: OpenEvent | None, inputs: Sequence[tuple[Tensor, TensorTrace]]) -> None:
        """The traced arguments of a call that is made of parts."""
        if event is not None:
            step, numbers = event
            found = [(self._number(tensor, numbers), trace) for tensor, trace in inputs]
            step.inputs = [(slot, trace) for slot, trace in found if slot is not None]

    # ---- parts of an event ------------------------------------------------------------------------------------

    def _template(self, value: Any, decides: bool, numbers: dict[int, int]) -> Any:
        """What later arguments are compared with. Raises IncomparableError."""
        if isinstance(value, Tensor):
            slot = self.slots.of(value)
            if slot is not None:
                return Slot(slot)
            numbers[id(value)] = self.slots.add(value)
            trace, place = self.table.get(value), place_of(value, self.parameters)
            one = value.detach().clone() if decides and value.numel() == 1 else None
            facts = None if trace is None else trace.facts
            return OtherTensor(
                weakref.ref(value), facts, value.shape, value.stride(), value.dtype, value.device, place, one
            )
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, (list, tuple)):
            return Group(kind, tuple(self._template(item, decides, numbers) for item in value))
        if isinstance(value, dict):
            items = [part for item in value.items() for part in item]
            return Group(kind, tuple(self._template(item, decides, numbers) for item in items))
        if isinstance(value, slice):
            bounds = (value.start, value.stop, value.step)
            return Group(kind, tuple(self._template(bound, decides, numbers) for bound in bounds))
        raise IncomparableError(f"an argument of class {kind.__name__} cannot be compared")

    def _number(self, tensor: Tensor, numbers: Mapping[int, int]) -> int | None:
        """The number of a tensor of this event, else of an earlier one."""
        found = numbers.get(id(tensor))
        return found if found is not None else self.slots.of(tensor)

    def _puts(self, numbers: Mapping[int, int]) -> list[Put]:
        """The traces that were put into the table since the last event, of tensors that live on."""
        found = []
        for tensor, trace, generation in self.table.puts:
            slot = self._number(tensor, numbers)
            if slot is not None:
                self.slots.mark_traced(tensor, slot)
                found.append(Put(slot, trace, generation, (tensor.shape, tensor.stride())))
        self.table.puts.clear()
        return found

    def _operand_scans(self, step: CallStep, numbers: Mapping[int, int]) -> list[OperandScan]:
        """The scans of operands since the last event; constants do not change."""
        found = []
        for tensor, arrange, layout, trace, reader, needs_levels, sums in self.scans.scanned:
            at, slot = len(self.log.records) - 1, self._number(tensor, numbers)
            if at >= 0 and self.log.records[at].reads_constant:
                continue
            record = self.log.records[at] if at >= 0 else None
            side = SIDES.get(reader.operand, reader.operand)
            if slot is None or getattr(record, side, None) is not sums:
                self.broken = f"{step.name}: it scans a tensor that is not among its arguments"
                continue
            x = arrange(tensor)
            is_arranged = x is tensor or (x.data_ptr(), x.shape, x.stride()) == (
                tensor.data_ptr(), tensor.shape, tensor.stride(),
            )  # fmt: skip
            form = Form(x.shape, x.dtype, x.device)
            found.append(OperandScan(slot, arrange, layout, trace, reader, needs_levels, at, side, is_arranged, form))
        self.scans.scanned.clear()
        return found
