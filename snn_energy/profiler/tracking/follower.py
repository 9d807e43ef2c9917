"""Follows the script of an earlier batch: the events are compared one by one, and only the values are scanned."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.tracking.script import (
    BeginCall,
    CallStep,
    Enter,
    Group,
    InputStep,
    Leave,
    OperandScan,
    OtherTensor,
    Parameters,
    Result,
    Script,
    Slot,
    Slots,
    Step,
)
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.nested import tensors_in
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorTrace
from snn_energy.running.outputs import tensors_of


class ReplayError(AssertionError):
    """A followed batch differs from the same batch counted call by call: the script compares too little."""


class Follower:
    """One forward pass that is compared with a script. ``position``: number of events that are the same so far.

    Every method returns False if its event is not the next one of the script; the pass has then to be counted call by
    call from here on (``hand_over``).
    """

    def __init__(
        self,
        script: Script,
        slots: Slots,
        table: TensorTable,
        scans: ScanCache,
        parameters: Parameters,
        position: int = 0,
    ) -> None:
        self.script, self.slots, self.table, self.scans, self.parameters = script, slots, table, scans, parameters
        self.position = position
        self._steps: list[Step | None] = [*script.steps, None]
        script.begin_batch()

    def extend(self, steps: Sequence[Step], records: Sequence[OperationRecord]) -> None:
        """Follow further events behind those of the script."""
        self.script.steps += steps
        self.script.records += records
        self._steps[-1:] = [*steps, None]

    @property
    def is_complete(self) -> bool:
        """True if every event of the script has occurred."""
        return self._steps[self.position] is None

    @property
    def operations(self) -> int:
        """Number of operations so far."""
        steps = reversed(self.script.steps[: self.position])
        return next((step.records for step in steps if isinstance(step, (CallStep, Leave))), 0)

    def expects(self, name: str) -> bool:
        """True if the next event is a call of this name."""
        step = self._steps[self.position]
        return type(step) is CallStep and step.name == name

    # ---- events -----------------------------------------------------------------------------------------------

    def enter(self, name: str) -> bool:
        """The forward of a module begins."""
        step = self._steps[self.position]
        if type(step) is Enter and step.name == name:
            self.position += 1
            return True
        return False

    @property
    def writer(self) -> tuple[str, int]:
        """Layer and invocation of the module that was entered last."""
        step = self._steps[self.position - 1]
        assert isinstance(step, Enter)
        return step.writer

    def leave(self, name: str) -> bool:
        """The forward of a module ended."""
        step = self._steps[self.position]
        if type(step) is Leave and step.name == name:
            self.position += 1
            return True
        return False

    def begin_call(self, step_index: int | None) -> bool:
        """A call of the model begins."""
        step = self._steps[self.position]
        if type(step) is BeginCall and step.step == step_index:
            self.position += 1
            return True
        return False

    def input(self, x: Tensor, layout: str | None, constant: bool, bound: ValueBound) -> bool:
        """A tensor of the loader is the network's input."""
        step = self._steps[self.position]
        given = (layout, constant, bound, x.shape, x.stride(), x.dtype)
        if type(step) is not InputStep or step[:6] != given:
            return False
        self.position += 1
        self.slots.mark_traced(x, self.slots.add(x))
        return True

    def call(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, facts: tuple[Any, ...] = ()
    ) -> CallStep | bool:
        """A call has returned: its step in the script, or True for a call that reads nothing of the loader."""
        step = self.matching(name, args, kwargs, out, facts)
        if step is None:
            return not any(self.is_traced(tensor) for tensor in tensors_in([args, kwargs]))
        for scan in step.scans:
            if scan.group is not None:
                self.defer(scan)
                continue
            tensor = self._tensor(scan.slot)
            sums = self.scans.scan_as(tensor, scan.arrange, scan.layout, scan.trace, scan.reader, scan.needs_levels)
            setattr(self.script.records[scan.record], scan.side, sums)
        if step.writes:
            for slot, written in step.writes:
                self.table.mark_written(self._tensor(slot), written)
        if step.prescanned is not None:
            self.scans.prescan(self._tensor(step.prescanned.slot), step.prescanned.trace)
        return step

    def defer(self, scan: OperandScan) -> None:
        """Copy a small tensor, to be scanned with those of other time steps."""
        assert scan.group is not None
        tensor = self._tensor(scan.slot)
        arranged = tensor if scan.is_arranged else scan.arrange(tensor)
        scan.group.add(arranged, scan.targets, self.script.records, self.scans)

    def finish(self) -> None:
        """Scan what waits to be scanned."""
        for group in self.script.groups:
            group.flush(self.script.records, self.scans)

    def matching(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, facts: tuple[Any, ...] = ()
    ) -> CallStep | None:
        """The next event if it is this call, with its tensors numbered; else None."""
        step = self._steps[self.position]
        if type(step) is not CallStep or step.name != name or step.facts != facts:
            return None
        before = len(self.slots.refs)
        is_same = self._has_parts(step.arguments.parts, args)
        if is_same and (kwargs or step.keywords.parts):
            is_same = self._has_parts(step.keywords.parts, _parts_of(kwargs))
        if not is_same or not self._has_results(step.results, out):
            self.slots.drop_from(before)
            return None
        self.position += 1
        for put in step.puts:
            self.slots.mark_traced(self._tensor(put.slot), put.slot)
        return step

    def traced_inputs(self, step: CallStep) -> list[tuple[Tensor, TensorTrace]]:
        """The traced arguments of a call that is made of parts."""
        return [(self._tensor(slot), trace) for slot, trace in step.inputs]

    # ---- comparison -------------------------------------------------------------------------------------------

    def _tensor(self, slot: int) -> Tensor:
        tensor = self.slots.refs[slot]()
        assert tensor is not None  # an argument or a result of the call that is followed
        return tensor

    def is_traced(self, tensor: Tensor) -> bool:
        """True if a tensor stems from the loader."""
        return self.slots.of(tensor) is not None or self.table.get(tensor) is not None

    def _has_parts(self, expected: Sequence[Any], actual: Sequence[Any]) -> bool:
        """True if arguments, or the parts of one, are as in the script; tensors without a number get one."""
        if len(expected) != len(actual):
            return False
        refs = self.slots.refs
        for one, other in zip(expected, actual, strict=True):
            kind = type(one)
            if kind is Slot:
                if other is None or refs[one]() is not other:
                    return False
            elif kind is OtherTensor:
                if not self._is_other(one, other):
                    return False
                refs.append(one.ref if one.ref() is other else weakref.ref(other))
            elif kind is Group:
                if type(other) is not one.kind or not self._has_parts(one.parts, _parts_of(other)):
                    return False
            elif one is not other and (type(other) is not kind or other != one):
                return False
        return True

    def _is_other(self, expected: OtherTensor, actual: Any) -> bool:
        """True if a tensor without a number leads to the same outcome as that of the script."""
        if actual is None:
            return False
        if expected.facts is None and expected.value is None and expected.ref() is actual:
            return True  # the same weights: no event has written to them since, or it would have been in the script
        return self.slots.of(actual) is None and expected.matches(actual, self.table, self.parameters)

    def _has_results(self, expected: Sequence[Result], out: Any) -> bool:
        made = (out,) if isinstance(out, Tensor) else tuple(tensors_of(out))
        if len(made) != len(expected):
            return False
        for (shape, stride, dtype), tensor in zip(expected, made, strict=True):
            if tensor.shape != shape or tensor.stride() != stride or tensor.dtype != dtype:
                return False
            self.slots.refs.append(weakref.ref(tensor))
        return True

    # ---- departure --------------------------------------------------------------------------------------------

    def followed(self) -> list[Step]:
        """The events that were the same; scans of their tensors are of no use to operations that come later."""
        steps, count = self.script.steps[: self.position], self.operations
        for step in steps:
            if isinstance(step, CallStep):
                step.scans = [
                    scan._replace(targets=tuple(target for target in scan.targets if target[0] < count))
                    for scan in step.scans
                ]
        return steps

    def hand_over(self, scopes: ModuleScopes, table: TensorTable, modules: Mapping[str, nn.Module]) -> int:
        """Enter all that the followed events have left into scopes and table; returns the number of operations."""
        self.finish()
        records = 0
        for step in self.script.steps[: self.position]:
            if isinstance(step, Enter):
                scopes.enter(step.name, modules[step.name])
            elif isinstance(step, Leave):
                scopes.leave()
                records = step.records
            elif isinstance(step, BeginCall):
                scopes.begin_call()
            elif isinstance(step, (CallStep, InputStep)):
                puts = step.puts if isinstance(step, CallStep) else [step.put]
                for put in puts:
                    tensor = self.slots.refs[put.slot]()
                    if tensor is not None:
                        table.put_again(tensor, put.trace, put.generation, put.layout)
                if isinstance(step, CallStep):
                    records = step.records
                    for label in step.labels:
                        scopes.count(label)
        return records


def _parts_of(value: Any) -> Sequence[Any]:
    """The parts of a list, tuple, dict or slice, as in ``Group``."""
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, slice):
        return (value.start, value.stop, value.step)
    parts: Sequence[Any] = value
    return parts
