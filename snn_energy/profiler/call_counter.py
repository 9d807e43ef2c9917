"""Counts function calls by the rules for their names: from arguments to entries in the table and the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import BatchContext, Call, PartCall, RuleEntry, find, is_in_place, plain_name
from snn_energy.profiler.rules.unknown import UNKNOWN
from snn_energy.profiler.tracking.module_scopes import ModuleScopes
from snn_energy.profiler.tracking.operation_log import OperationLog, Outcome
from snn_energy.profiler.tracking.recorder import Recorder
from snn_energy.profiler.tracking.script import Slots
from snn_energy.profiler.tracking.tensor_table import TensorTable
from snn_energy.profiler.values.scan_cache import ScanCache, StaleScanError
from snn_energy.profiler.values.traces import TensorTrace

RESHAPES_IN_PLACE = frozenset(("unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims"))


class CallCounter:
    """Holds the tensor table and the operation log, and enters the outcome of every call in them.

    context: of the current call of the model. recorder: writes down every call for later batches.
    """

    def __init__(self, scopes: ModuleScopes, scans: ScanCache) -> None:
        self.scopes, self.scans = scopes, scans
        self.table, self.log, self.slots = TensorTable(), OperationLog(), Slots()
        self.recorder = Recorder(self.slots, self.table, self.log, scans)
        self.context = BatchContext(BatchShape(1, 1))

    def record_call(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Count one function call that has just returned. Raises ProfilingError if it cannot be counted."""
        try:
            self._count_call(raw, args, kwargs, out)
        except (ProfilingError, MemoryError, StaleScanError):
            raise
        except Exception as error:
            raise ProfilingError(
                f"{self.scopes.current.name or 'the model'}: the profiler cannot follow '{raw}' here "
                f"({type(error).__name__}: {error}); write this step in another way, and please report it"
            ) from error

    def _count_call(self, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        entry = find(plain_name(raw)) or UNKNOWN
        if entry.is_question:
            return
        decides = entry.constants_matter or entry.parts is not None
        event = self.recorder.begin(raw, args, kwargs, out, decides=decides)
        call = self._call_of(entry, raw, args, kwargs, out)
        if call is not None and entry.parts is not None:
            self.recorder.inputs(event, call.inputs)
            self.count_parts(entry.parts(call))
        elif call is not None:
            assert entry.count is not None
            outcome = self.next(entry.count(call, self.context, self.scans))
            self.keep(outcome)
            self.recorder.end(event)
            self._prescan(outcome, event)
            return
        self.recorder.end(event)

    def _call_of(
        self, entry: RuleEntry, raw: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> Call | None:
        """A call with the traces of its tensors; None if there is no tensor to track."""
        name, inputs = plain_name(raw), self._inputs(args, kwargs)
        if not inputs:
            for target in tensors_in([kwargs.get("out")]):
                self.table.forget_values(target)
            _require_no_transform(name, args)
            return None
        if entry.forgets_inputs:
            for tensor, _ in inputs:
                self.table.forget_values(tensor)
            inputs = self._inputs(args, kwargs)
        if name in RESHAPES_IN_PLACE and is_in_place(raw):
            inputs = [(self.table.as_put(tensor), trace) for tensor, trace in inputs]
        made = [out] if isinstance(out, Tensor) else list(tensors_in([out]))
        if not made and not entry.writes:
            return None
        return Call(name, args, kwargs, inputs, made, self.scopes.site(), is_in_place(raw))

    def count_parts(self, parts: Iterable[PartCall]) -> None:
        """Count the calls that a function is made of."""
        for name, args, out in parts:
            entry, inputs = find(name), self._inputs(args, {})
            if inputs and entry is not None and entry.count is not None:
                event = self.recorder.begin(name, args, {}, out, decides=entry.constants_matter)
                call = Call(name, args, {}, inputs, [out], self.scopes.site())
                outcome = self.next(entry.count(call, self.context, self.scans))
                self.keep(outcome)
                self.recorder.end(event)
                self._prescan(outcome, event)

    def _inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Tensor, TensorTrace]]:
        """Tensors among arguments that stem from the loader, in order, with their traces."""
        read: Iterable[Any] = args
        if kwargs or any(isinstance(a, (list, tuple, dict)) for a in args):
            read = tensors_in([args, {k: v for k, v in kwargs.items() if k != "out"}])
        return [(t, trace) for t in read if isinstance(t, Tensor) and (trace := self.table.get(t)) is not None]

    def next(self, outcome: Outcome) -> Outcome:
        """The outcome, attributed to the next operation in the log."""
        return outcome.with_source(len(self.log.records))

    def _prescan(self, outcome: Outcome, event: Any) -> None:
        """Scan an operation's result immediately in the layouts that the previous batches read."""
        record = outcome.record
        if record is not None and record.op == "unsupported":
            self.log.unsupported.setdefault(record.layer, record.note)
        elif record is not None:
            out, trace = outcome.traces[0]
            trace.scans.writer = record.layer, record.invocation
            self.recorder.prescanned(event, out)
            self.scans.prescan(out, trace)

    def keep(self, outcome: Outcome) -> None:
        """Enter an outcome into the table and the log."""
        for tensor, trace in outcome.written:
            self.table.mark_written(tensor, trace)
        if outcome.record is not None:
            self.log.records.append(outcome.record)
            self.scopes.count(outcome.record.label)
        for tensor, trace in outcome.traces:
            self.table.put(tensor, trace)


def _require_no_transform(name: str, args: Sequence[Any]) -> None:
    """Raise ProfilingError inside torch.vmap and similar transforms, whose tensors wrap others."""
    if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors_in([args])):
        raise ProfilingError(
            f"'{name}' runs inside torch.vmap or another torch.func transform, which cannot be looked into; "
            "write it with batched operations"
        )
