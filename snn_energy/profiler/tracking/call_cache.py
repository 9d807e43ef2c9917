"""Outcomes of the calls of the previous batch, replayed for equal calls on tensors with equal facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.scan import NonzeroSums
from snn_energy.profiler.values.scan_cache import ScanCache, grouped
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace


class NotCached(StrEnum):
    """Why the outcome of a call is not cached."""

    UNTRACED_RESULT = "its result is not traced"
    INCOMPARABLE_ARGUMENTS = "an argument cannot be compared"
    CONSTANT_OPERAND = "the values of a constant operand decide the outcome"
    WRITES = "it writes into a tensor that it is given"
    UNSUPPORTED = "it has no rule"
    TEMPORARY_SCAN = "its operands are scanned in tensors that do not outlive it"


class Miss(StrEnum):
    """Why the cached outcome of the previous batch is not used."""

    NEW = "nothing is kept of this call"
    OTHER_CALL = "another function or module is called"
    OTHER_ARGUMENTS = "other arguments"
    OTHER_TENSORS = "tensors of which something else is known"
    NO_SCAN = "an operand is not scanned yet"


class ReplayError(AssertionError):
    """A replayed outcome differs from the computed one: the key of the call is incomplete."""


class TensorKey(NamedTuple):
    """Everything about a tensor that the outcome of a call depends on, except its values."""

    facts: TensorFacts | None
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def matches(self, tensor: Tensor, trace: TensorTrace | None) -> bool:
        """True if this is the key of a tensor with this trace."""
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
    """The key that the tensors of later batches are compared with."""
    facts = None if trace is None else trace.facts
    return TensorKey(facts, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


class CompletedCall(NamedTuple):
    """A call that has just returned: its function or module, its arguments and its result.

    scope: (name, invocation) of the running module. rest: arguments, with a marker for every tensor. record_at: number
    of earlier operations. constants_matter: its outcome also depends on the values of untraced operands.
    scans_operands: its outcome holds scans of its first tensors.
    """

    name: str
    scope: tuple[str, int]
    tensors: Sequence[Tensor]
    traces: Sequence[TensorTrace | None]
    rest: tuple[Any, ...]
    options: Mapping[str, Any]
    out: Tensor
    record_at: int
    constants_matter: bool = False
    scans_operands: bool = False


class CachedCall(NamedTuple):
    """One call of the previous batch: everything that its outcome depends on, and the outcome.

    ``record`` is None if the call is not an operation. ``shares`` is the index of the operand whose memory the
    result shares. ``scan_keys``: keys of the record's operands in the scans of the first tensors.
    """

    name: str
    scope: tuple[str, int]
    rest: tuple[Any, ...]
    options: Mapping[str, Any]
    operands: tuple[TensorKey, ...]
    out: TensorKey
    record_at: int
    record: OperationRecord | None
    facts: TensorFacts
    shares: int | None
    scan_keys: tuple[Hashable, ...]

    def replay(self, call: CompletedCall) -> Outcome:
        """The outcome of the same call in this batch."""
        shared = None if self.shares is None else call.traces[self.shares]
        trace = TensorTrace(self.facts, None if shared is None else shared.scans)
        if self.record is None:
            return Outcome(None, [(call.out, trace)])
        record = self.record.copy()
        if self.scan_keys:
            traces = zip(call.traces, self.scan_keys, strict=False)
            record.left, record.right = as_rows([trace.scans[key] for trace, key in traces if trace], record)
        return Outcome(record, [(call.out, trace)])


class CallCache:
    """Outcomes of the calls of the previous batch, by position among the calls; lives for the whole run.

    hits: number of replayed calls. misses, not_cached: numbers of calls by reason. cross_check: replayed calls are
    computed as well, and a difference is an error.
    """

    def __init__(self, *, cross_check: bool = False) -> None:
        self.cross_check = cross_check
        self.hits = 0
        self.misses: Counter[Miss] = Counter()
        self.not_cached: Counter[NotCached] = Counter()
        self._entries: dict[int, CachedCall] = {}
        self._position = 0
        self._facts: list[TensorFacts] = []
        self._facts_position = 0
        self._batch = BatchShape(1, 1)

    def begin_batch(self, batch: BatchShape) -> None:
        """Start a new batch; if its shape differs from the last one's, the cached calls are discarded."""
        if batch != self._batch:
            self._entries.clear()
        self._batch = batch
        self._position, self._facts_position = 0, 0

    def reuse_facts(self, facts: TensorFacts) -> TensorFacts:
        """The previous batch's facts object if it is equal, so that later calls compare equal by identity."""
        at, self._facts_position = self._facts_position, self._facts_position + 1
        if at < len(self._facts) and self._facts[at].equals(facts):
            return self._facts[at]
        self._facts[at : at + 1] = [facts]
        return facts

    def outcome(
        self, call: CompletedCall, counters: Mapping[str, int], work: Callable[[], Outcome | None], scans: ScanCache
    ) -> Outcome | None:
        """The outcome of a call: replayed from the previous batch, else computed by ``work`` and cached.

        counters: operations of the running module so far, by label. Raises ReplayError if the cross-check fails.
        """
        position, self._position = self._position, self._position + 1
        cached = self._entries.get(position)
        miss = Miss.NEW if cached is None else _miss(cached, call, counters)
        if cached is not None and miss is None:
            self.hits += 1
            replayed = cached.replay(call)
            if self.cross_check:
                require_equal(call, replayed, work())
            return replayed
        self.misses[miss or Miss.NEW] += 1
        scans.used_keys = []
        outcome = work()
        made = cached_call(call, outcome, scans.used_keys)
        if isinstance(made, NotCached):
            self.not_cached[made] += 1
            self._entries.pop(position, None)
        else:
            self._entries[position] = made
        return outcome


def _miss(cached: CachedCall, call: CompletedCall, counters: Mapping[str, int]) -> Miss | None:
    """Why a call differs from the cached one; None if it does not."""
    if cached.name != call.name or cached.scope != call.scope or cached.record_at != call.record_at:
        return Miss.OTHER_CALL
    if cached.record is not None and counters.get(cached.record.label, 0) != cached.record.index:
        return Miss.OTHER_CALL
    if len(call.tensors) != len(cached.operands):
        return Miss.OTHER_ARGUMENTS
    if not are_comparable(call.rest) or call.rest != cached.rest:
        return Miss.OTHER_ARGUMENTS
    if (call.options or cached.options) and (
        not are_comparable(call.options.values()) or call.options != cached.options
    ):
        return Miss.OTHER_ARGUMENTS
    if not cached.out.matches(call.out, None):
        return Miss.OTHER_TENSORS
    for operand, tensor, known in zip(cached.operands, call.tensors, call.traces, strict=True):
        if not operand.matches(tensor, known):
            return Miss.OTHER_TENSORS
    for trace, key in zip(call.traces, cached.scan_keys, strict=False):
        if trace is None or key not in trace.scans:
            return Miss.NO_SCAN
    return None


def cached_call(call: CompletedCall, outcome: Outcome | None, scan_keys: Sequence[Hashable]) -> CachedCall | NotCached:
    """The cache entry of a call, or why it has none: its outcome must depend only on what is compared before a replay.

    scan_keys: keys of the scans of its operands.
    """
    if outcome is None or not outcome.traces:
        return NotCached.UNTRACED_RESULT
    if not are_comparable(call.rest) or not are_comparable(call.options.values()):
        return NotCached.INCOMPARABLE_ARGUMENTS
    if call.constants_matter and any(trace is None for trace in call.traces):
        return NotCached.CONSTANT_OPERAND
    if outcome.written or "out" in call.options:
        return NotCached.WRITES
    if outcome.record is not None and outcome.record.op == "unsupported":
        return NotCached.UNSUPPORTED
    record, after = outcome.record, outcome.traces[0][1]
    if call.scans_operands and (record is None or not are_scans_stored(record, scan_keys, call.traces)):
        return NotCached.TEMPORARY_SCAN
    shares = next((i for i, trace in enumerate(call.traces) if trace is not None and trace.scans is after.scans), None)
    operands = tuple(key_of(t, trace) for t, trace in zip(call.tensors, call.traces, strict=True))
    return CachedCall(
        call.name, call.scope, call.rest, call.options, operands, key_of(call.out, None), call.record_at,
        record and record.copy(), after.facts, shares, tuple(scan_keys) if call.scans_operands else (),
    )  # fmt: skip


def require_equal(call: CompletedCall, replayed: Outcome, done: Outcome | None) -> None:
    """Raise ReplayError if a replayed outcome differs from the computed one."""
    where = f"{call.scope[0] or 'the model'}: '{call.name}' is replayed wrongly"
    if done is None or not done.traces or (done.record is None) != (replayed.record is None):
        raise ReplayError(f"{where}: it is an operation in one batch and none in the other")
    (_, before), (_, after) = replayed.traces[0], done.traces[0]
    if not before.facts.equals(after.facts):
        raise ReplayError(f"{where}: {before.facts} is not {after.facts}")
    if replayed.record is not None and done.record is not None:
        name = replayed.record.difference(done.record)
        if name is not None:
            raise ReplayError(f"{where}: another {name}")
    elif before.scans is not after.scans and (before.scans or after.scans):
        raise ReplayError(f"{where}: it shares other scans")


TENSOR = "<tensor>"


def split_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]:
    """The tensors of a call in order, and its arguments and keywords with a marker for every tensor."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    rest = tuple(TENSOR if isinstance(a, Tensor) else a for a in args)
    options = {}
    for name, value in kwargs.items():
        options[name] = TENSOR if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            tensors.append(value)
    return tensors, rest, options


_PLAIN = frozenset((type(None), bool, int, float, str, torch.dtype, torch.device))


def are_comparable(values: Iterable[object]) -> bool:
    """True if values can be compared with ``==`` and are no tensors: numbers, strings, tuples of them."""
    for value in values:
        if type(value) in _PLAIN or isinstance(value, (int, float, str)):
            continue
        if not isinstance(value, (tuple, list)) or not all(isinstance(v, (bool, int, float, str)) for v in value):
            return False
    return True


def are_scans_stored(record: OperationRecord, keys: Sequence[Hashable], before: Sequence[TensorTrace | None]) -> bool:
    """True if an operation's scans are stored under these keys in the scans of its first tensors."""
    scans = [scan for scan in (record.left, record.right) if scan is not None]
    if not len(scans) == len(keys) <= len(before):
        return False
    for mine, key, trace in zip(scans, keys, before, strict=False):
        found = None if trace is None else trace.scans.get(key)
        if found is None or found.nonzeros.data_ptr() != mine.nonzeros.data_ptr():
            return False
    return True


def as_rows(found: Sequence[NonzeroSums], record: OperationRecord) -> tuple[NonzeroSums, NonzeroSums | None]:
    """The scans of a record's operands in the shape in which it counts them."""
    if len(found) == 1:
        return found[0], None
    left, right = (grouped(scan, record.groups, record.reduction) for scan in found)
    return left, right
