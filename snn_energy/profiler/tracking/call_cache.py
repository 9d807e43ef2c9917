"""What a call did in the batch before: done again where it is called on tensors of which the same is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.tracking.operation_log import OperationRecord
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import grouped
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


class NotCached(StrEnum):
    """Why the outcome of a call is not kept."""

    UNTRACED_RESULT = "its result is not traced"
    SEVERAL_RECORDS = "it is several operations"
    INCOMPARABLE_ARGUMENTS = "an argument cannot be compared"
    CONSTANT_OPERAND = "the values of a constant operand decide the outcome"
    WRITES = "it writes into a tensor that it is given"
    UNSUPPORTED = "it has no rule"
    TEMPORARY_SCAN = "its operands are scanned in tensors that do not outlive it"


class Miss(StrEnum):
    """Why the outcome of the batch before is not taken."""

    NEW = "nothing is kept of this call"
    OTHER_CALL = "another function or module is called"
    OTHER_ARGUMENTS = "other arguments"
    OTHER_TENSORS = "tensors of which something else is known"
    NO_SCAN = "an operand is not scanned yet"


class TensorKey(NamedTuple):
    """All of a tensor that the outcome of a call follows from, but for its values."""

    facts: TensorFacts | None
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def matches(self, tensor: Tensor, trace: TensorTrace | None) -> bool:
        """True where this is the key of a tensor."""
        if trace is None or self.facts is None:
            if trace is not None or self.facts is not None:
                return False
        elif trace.facts is not self.facts and not trace.facts.equals(self.facts):
            return False
        return (
            tensor.shape == self.shape
            and tensor.stride() == self.stride
            and tensor.dtype == self.dtype
            and tensor.device == self.device
        )


def key_of(tensor: Tensor, trace: TensorTrace | None) -> TensorKey:
    """What a later batch's tensor is compared with."""
    facts = None if trace is None else trace.facts
    return TensorKey(facts, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


class MadeCall(NamedTuple):
    """A call that has just been made: its function or module, and what it was given and gave.

    scope: (name, invocation) of the running module. rest: arguments, with a mark where a tensor is. record_at: how many
    operations there were before it.
    """

    name: str
    scope: tuple[str, int]
    tensors: Sequence[Tensor]
    traces: Sequence[TensorTrace | None]
    rest: tuple[Any, ...]
    options: Mapping[str, Any]
    out: Tensor
    record_at: int


class CachedCall(NamedTuple):
    """One call in the batch before, with all that its outcome followed from, and the outcome.

    ``record`` is None where the call is not an operation. ``label``, ``nth``: the record's name in its scope.
    ``shares`` is the index of the operand whose memory the result shares. ``scan_keys``: how the record's operands
    were scanned, in the scans of the first tensors.
    """

    name: str
    scope: tuple[str, int]
    label: str | None
    nth: int
    rest: tuple[Any, ...]
    options: Mapping[str, Any]
    operands: tuple[TensorKey, ...]
    out: TensorKey
    record_at: int
    record: OperationRecord | None
    facts: TensorFacts
    shares: int | None
    scan_keys: tuple[Hashable, ...]


class Replay(NamedTuple):
    """The outcome of a call, made of that of the batch before."""

    record: OperationRecord | None
    trace: TensorTrace


class CallCache:
    """Outcomes of the calls of the batch before, by position among the calls; lives for the whole run.

    hits: calls replayed. misses, not_cached: how often, by reason.
    """

    def __init__(self) -> None:
        self.entries: dict[int, CachedCall] = {}
        self.hits = 0
        self.misses: Counter[Miss] = Counter()
        self.not_cached: Counter[NotCached] = Counter()
        self._position = 0
        self._facts: list[TensorFacts] = []
        self._facts_position = 0
        self._batch = BatchShape(1, 1)

    def begin_batch(self, batch: BatchShape) -> None:
        """Calls of a new batch start; those of a batch of another shape are forgotten."""
        if batch != self._batch:
            self.entries.clear()
        self._batch = batch
        self._position, self._facts_position = 0, 0

    def next_position(self) -> int:
        """The position of the call that has just been made."""
        position, self._position = self._position, self._position + 1
        return position

    def reuse_facts(self, facts: TensorFacts) -> TensorFacts:
        """The last batch's facts where they are the same: later calls then find at once that nothing is new."""
        at, self._facts_position = self._facts_position, self._facts_position + 1
        if at < len(self._facts) and self._facts[at].equals(facts):
            return self._facts[at]
        self._facts[at : at + 1] = [facts]
        return facts

    def replay(self, position: int, call: MadeCall, counters: dict[str, int]) -> Replay | None:
        """What this call did in the batch before; None where something differs.

        counters: of the running module's operations; the record's label is counted where the call is replayed.
        """
        cached = self.entries.get(position)
        miss = Miss.NEW if cached is None else self._miss(cached, call, counters)
        if cached is None or miss is not None:
            self.misses[miss or Miss.NEW] += 1
            return None
        found = [trace.scans[key] for trace, key in zip(call.traces, cached.scan_keys, strict=False) if trace]
        self.hits += 1
        if cached.label is not None:
            counters[cached.label] = cached.nth + 1
        shared = None if cached.shares is None else call.traces[cached.shares]
        trace = TensorTrace(cached.facts, None if shared is None else shared.scans)
        if cached.record is None:
            return Replay(None, trace)
        record = cached.record.copy()
        if found:
            record.left, record.right = as_rows(found, cached.record)
        return Replay(record, trace)

    def _miss(self, cached: CachedCall, call: MadeCall, counters: Mapping[str, int]) -> Miss | None:
        """Why a call is not the one of the batch before; None where it is."""
        if cached.name != call.name or cached.scope != call.scope or cached.record_at != call.record_at:
            return Miss.OTHER_CALL
        if cached.label is not None and counters.get(cached.label, 0) != cached.nth:
            return Miss.OTHER_CALL
        if len(call.tensors) != len(cached.operands):
            return Miss.OTHER_ARGUMENTS
        if not plain_values(call.rest) or not plain_values(call.options.values()):
            return Miss.OTHER_ARGUMENTS
        if call.rest != cached.rest or call.options != cached.options:
            return Miss.OTHER_ARGUMENTS
        if not cached.out.matches(call.out, None):
            return Miss.OTHER_TENSORS
        if not all(map(TensorKey.matches, cached.operands, call.tensors, call.traces)):
            return Miss.OTHER_TENSORS
        for trace, key in zip(call.traces, cached.scan_keys, strict=False):
            if trace is None or key not in trace.scans:
                return Miss.NO_SCAN
        return None

    def keep(self, position: int, made: CachedCall | NotCached) -> None:
        """Keep what a call did for the next batch, or count why not."""
        if isinstance(made, NotCached):
            self.not_cached[made] += 1
            self.entries.pop(position, None)
        else:
            self.entries[position] = made


def cached_call(
    call: MadeCall,
    records: Sequence[OperationRecord],
    after: TensorTrace | None,
    label: tuple[str, int] | None,
    scan_keys: Sequence[Hashable] | None,
    constants_matter: bool,
) -> CachedCall | NotCached:
    """What a call did, if that follows from what is compared before it is replayed.

    records: the operations that it made. after: what is known of its result. label: the record's, and its number
    among those of its scope. scan_keys: how its operands were scanned, None where it scans none. constants_matter: the
    values of an untraced operand decide the outcome.
    """
    if after is None:
        return NotCached.UNTRACED_RESULT
    if len(records) > 1:
        return NotCached.SEVERAL_RECORDS
    if not plain_values(call.rest) or not plain_values(call.options.values()):
        return NotCached.INCOMPARABLE_ARGUMENTS
    if constants_matter and any(trace is None for trace in call.traces):
        return NotCached.CONSTANT_OPERAND
    if "out" in call.options:
        return NotCached.WRITES
    if any(record.op == "unsupported" for record in records):
        return NotCached.UNSUPPORTED
    if scan_keys is not None and not keeps_scans(records, scan_keys, call.traces):
        return NotCached.TEMPORARY_SCAN
    shares = next((i for i, trace in enumerate(call.traces) if trace is not None and trace.scans is after.scans), None)
    operands = tuple(key_of(t, trace) for t, trace in zip(call.tensors, call.traces, strict=True))
    name, nth = label or (None, 0)
    return CachedCall(
        call.name, call.scope, name, nth, call.rest, call.options, operands, key_of(call.out, None), call.record_at,
        records[0].copy() if records else None, after.facts, shares, tuple(scan_keys or ()),
    )  # fmt: skip


TENSOR = "<tensor>"


def split_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]:
    """The tensors of a call in order, and its arguments and keywords with a mark where a tensor is."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    rest = tuple(TENSOR if isinstance(a, Tensor) else a for a in args)
    options = {}
    for name, value in kwargs.items():
        options[name] = TENSOR if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            tensors.append(value)
    return tensors, rest, options


def plain_values(values: Iterable[Any]) -> bool:
    """True where values can be compared with ``==`` and are no tensors: numbers, texts, tuples of them."""
    return all(
        value is None
        or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
        or (isinstance(value, (tuple, list)) and all(isinstance(v, (bool, int, float, str)) for v in value))
        for value in values
    )


def keeps_scans(
    events: Sequence[OperationRecord], keys: Sequence[Hashable], before: Sequence[TensorTrace | None]
) -> bool:
    """True where an operation's scans are found again under these keys in the scans of its first tensors."""
    if len(events) != 1:
        return False
    scans = [scan for scan in (events[0].left, events[0].right) if scan is not None]
    if not len(scans) == len(keys) <= len(before):
        return False
    for mine, key, trace in zip(scans, keys, before, strict=False):
        found = None if trace is None else trace.scans.get(key)
        if found is None or found.nonzeros.data_ptr() != mine.nonzeros.data_ptr():
            return False
    return True


def as_rows(
    found: Sequence[NonzeroSums | None], event: OperationRecord
) -> tuple[NonzeroSums | None, NonzeroSums | None]:
    """The scans of an event's operands in the shape in which it counts them."""
    if len(found) == 1:
        return found[0], None
    left, right = (scan and grouped(scan, event.groups, event.reduction) for scan in found)
    return left, right
