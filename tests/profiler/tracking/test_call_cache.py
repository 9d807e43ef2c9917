"""The call cache replays a call where, and only where, all that its outcome follows from is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.tracking.call_cache import (
    CachedCall,
    CallCache,
    CompletedCall,
    Miss,
    NotCached,
    ReplayError,
    are_comparable,
    cached_call,
    key_of,
    split_arguments,
)
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.bounds import NOTHING, spikes
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

BATCH = BatchShape(2, 3)
FACTS = TensorFacts(("T", "B", None), True, None, np.ones(2, np.bool_), False, frozenset({0}), spikes(1.0))


def record(**changes: Any) -> OperationRecord:
    made = OperationRecord(
        "layer", "layer", 0, 0, "#relu0", "activation", True, None, np.ones(2, np.bool_), False, frozenset({0}), 4,
        elementwise_ops=4, label="relu",
    )  # fmt: skip
    return replace(made, **changes)


@dataclass
class Situation:
    """One call in one batch; each field is something that its outcome follows from."""

    name: str = "relu"
    scope: tuple[str, int] = ("layer", 0)
    facts: TensorFacts | None = FACTS
    shape: tuple[int, ...] = (2, 3, 4)
    transposed: bool = False
    dtype: torch.dtype = torch.float32
    out_dtype: torch.dtype = torch.float32
    tensors: int = 1
    rest: tuple[Any, ...] = ("<tensor>", 1)
    options: tuple[tuple[str, Any], ...] = (("alpha", 1),)
    record_at: int = 5
    counted_before: int = 0
    batch: BatchShape = BATCH

    def call(self) -> CompletedCall:
        x = torch.ones(self.shape, dtype=self.dtype)
        if self.transposed:
            x = torch.ones(self.shape[::-1], dtype=self.dtype).permute(*reversed(range(len(self.shape))))
        trace = None if self.facts is None else TensorTrace(self.facts)
        out = torch.ones(self.shape, dtype=self.out_dtype)
        return CompletedCall(
            self.name, self.scope, [x] * self.tensors, [trace] * self.tensors, self.rest, dict(self.options), out,
            self.record_at,
        )  # fmt: skip


def work_of(call: CompletedCall, **changes: Any) -> Callable[[], Outcome]:
    facts = FACTS._replace(sources=frozenset())
    return lambda: Outcome(record(**changes), [(call.out, TensorTrace(facts))])


def run(cache: CallCache, situation: Situation) -> None:
    call = situation.call()
    cache.begin_batch(situation.batch)
    counters = {"relu": situation.counted_before}
    cache.outcome(call, counters, work_of(call), ScanCache(4, None))


def test_the_same_call_in_the_next_batch_is_replayed() -> None:
    cache = CallCache(cross_check=True)
    for hits in range(3):
        run(cache, Situation())
        assert cache.hits == hits
    assert cache.misses == {Miss.NEW: 1}


OTHERS: dict[str, tuple[Situation, Miss]] = {
    "function": (Situation(name="abs"), Miss.OTHER_CALL),
    "module": (Situation(scope=("other", 0)), Miss.OTHER_CALL),
    "invocation": (Situation(scope=("layer", 1)), Miss.OTHER_CALL),
    "operations before it": (Situation(record_at=6), Miss.OTHER_CALL),
    "operations of its name before it": (Situation(counted_before=1), Miss.OTHER_CALL),
    "argument": (Situation(rest=("<tensor>", 2)), Miss.OTHER_ARGUMENTS),
    "keyword": (Situation(options=(("alpha", 2),)), Miss.OTHER_ARGUMENTS),
    "another keyword": (Situation(options=(("beta", 1),)), Miss.OTHER_ARGUMENTS),
    "number of tensors": (Situation(tensors=2), Miss.OTHER_ARGUMENTS),
    "argument that cannot be compared": (Situation(rest=("<tensor>", object())), Miss.OTHER_ARGUMENTS),
    "shape": (Situation(shape=(2, 4, 3)), Miss.OTHER_TENSORS),
    "shape of the same strides": (Situation(shape=(3, 3, 4)), Miss.OTHER_TENSORS),
    "stride": (Situation(transposed=True), Miss.OTHER_TENSORS),
    "dtype": (Situation(dtype=torch.float64), Miss.OTHER_TENSORS),
    "dtype of the result": (Situation(out_dtype=torch.float64), Miss.OTHER_TENSORS),
    "traced or not": (Situation(facts=None), Miss.OTHER_TENSORS),
    "roles": (Situation(facts=FACTS._replace(roles=("B", "T", None))), Miss.OTHER_TENSORS),
    "timed": (Situation(facts=FACTS._replace(timed=False)), Miss.OTHER_TENSORS),
    "step": (Situation(facts=FACTS._replace(step=1)), Miss.OTHER_TENSORS),
    "active steps": (Situation(facts=FACTS._replace(active=np.array([True, False]))), Miss.OTHER_TENSORS),
    "constant": (Situation(facts=FACTS._replace(constant=True)), Miss.OTHER_TENSORS),
    "sources": (Situation(facts=FACTS._replace(sources=frozenset({1}))), Miss.OTHER_TENSORS),
    "bound": (Situation(facts=FACTS._replace(bound=NOTHING)), Miss.OTHER_TENSORS),
    "amplitude": (Situation(facts=FACTS._replace(bound=spikes(0.5))), Miss.OTHER_TENSORS),
    "samples": (Situation(batch=BatchShape(2, 4)), Miss.NEW),
    "time steps": (Situation(batch=BatchShape(3, 3)), Miss.NEW),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_call_of_which_anything_differs_is_done_anew(what: str) -> None:
    other, miss = OTHERS[what]
    cache = CallCache()
    run(cache, Situation())
    run(cache, other)
    assert cache.hits == 0
    assert cache.misses[miss] == (2 if miss is Miss.NEW else 1)


def test_another_device_is_another_key() -> None:
    x = torch.ones(2)
    assert key_of(x, None).matches(x, None)
    assert not key_of(x, None).matches(x.to("meta"), None)


def test_equal_facts_of_another_batch_are_the_same_object() -> None:
    cache = CallCache()
    kept = cache.reuse_facts(FACTS)
    cache.begin_batch(BATCH)
    again = TensorFacts(*FACTS[:3], np.ones(2, np.bool_), *FACTS[4:])
    assert again is not kept
    assert cache.reuse_facts(again) is kept
    cache.begin_batch(BATCH)
    assert cache.reuse_facts(FACTS._replace(constant=True)).constant


# --- what is not kept ---


def why_not(call: CompletedCall, outcome: Outcome | None) -> NotCached | None:
    made = cached_call(call, outcome, [])
    return None if isinstance(made, CachedCall) else made


def kept_outcome(call: CompletedCall, **changes: Any) -> Outcome:
    return work_of(call, **changes)()


def test_an_outcome_that_follows_from_what_is_compared_is_kept() -> None:
    call = Situation().call()
    assert why_not(call, kept_outcome(call)) is None
    assert why_not(call, kept_outcome(call)._replace(record=None)) is None


def test_an_outcome_that_follows_from_more_is_not_kept() -> None:
    call = Situation().call()
    outcome = kept_outcome(call)
    untraced = call._replace(tensors=[*call.tensors, torch.ones(2)], traces=[*call.traces, None])
    assert why_not(call, None) is NotCached.UNTRACED_RESULT
    assert why_not(call, outcome._replace(traces=[])) is NotCached.UNTRACED_RESULT
    assert why_not(call._replace(rest=(object(),)), outcome) is NotCached.INCOMPARABLE_ARGUMENTS
    assert why_not(call._replace(options={"x": object()}), outcome) is NotCached.INCOMPARABLE_ARGUMENTS
    assert why_not(untraced._replace(constants_matter=True), outcome) is NotCached.CONSTANT_OPERAND
    assert why_not(untraced, outcome) is None
    assert why_not(call, outcome._replace(written=[(call.out, None)])) is NotCached.WRITES
    assert why_not(call._replace(options={"out": "<tensor>"}), outcome) is NotCached.WRITES
    assert why_not(call, kept_outcome(call, op="unsupported")) is NotCached.UNSUPPORTED
    assert why_not(call._replace(scans_operands=True), outcome._replace(record=None)) is NotCached.TEMPORARY_SCAN


def test_reasons_are_counted_and_the_entry_is_forgotten() -> None:
    cache = CallCache()
    run(cache, Situation())
    call = Situation(name="abs").call()
    cache.begin_batch(BATCH)
    cache.outcome(call, {}, lambda: None, ScanCache(4, None))
    assert cache.not_cached == {NotCached.UNTRACED_RESULT: 1}
    run(cache, Situation())
    assert cache.hits == 0


# --- the cross-check ---


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"elementwise_ops": 5}, "elementwise_ops"),
        ({"active": np.array([True, False])}, "active"),
        ({"op": "add"}, "op"),
    ],
)
def test_the_cross_check_names_what_a_replay_has_wrong(changes: dict[str, Any], what: str) -> None:
    cache = CallCache(cross_check=True)
    run(cache, Situation())
    call = Situation().call()
    cache.begin_batch(BATCH)
    with pytest.raises(ReplayError, match=f"layer: 'relu' is replayed wrongly: another {what}"):
        cache.outcome(call, {"relu": 0}, work_of(call, **changes), ScanCache(4, None))


def test_the_cross_check_compares_the_facts_of_the_result() -> None:
    cache = CallCache(cross_check=True)
    run(cache, Situation())
    call = Situation().call()
    cache.begin_batch(BATCH)
    facts = FACTS._replace(sources=frozenset(), constant=True)
    with pytest.raises(ReplayError, match="constant=True"):
        cache.outcome(call, {}, lambda: Outcome(record(), [(call.out, TensorTrace(facts))]), ScanCache(4, None))


def test_without_the_cross_check_the_work_is_not_done_again() -> None:
    cache = CallCache()
    run(cache, Situation())
    call = Situation().call()
    cache.begin_batch(BATCH)

    def never() -> Outcome:
        raise AssertionError

    found = cache.outcome(call, {"relu": 0}, never, ScanCache(4, None))
    assert found is not None
    assert found.record is not None
    assert found.record.difference(record()) is None


# --- what is compared ---


def test_arguments_are_split_into_tensors_and_the_rest() -> None:
    x, y = torch.ones(1), torch.ones(2)
    tensors, rest, options = split_arguments((x, 2, (3, 4)), {"other": y, "alpha": 0.5})
    assert [t is u for t, u in zip(tensors, (x, y), strict=True)] == [True, True]
    assert rest == ("<tensor>", 2, (3, 4))
    assert options == {"other": "<tensor>", "alpha": 0.5}


@pytest.mark.parametrize(
    ("value", "plain"),
    [(None, True), (1, True), (0.5, True), ("same", True), (torch.float32, True), ((1, "a"), True), ([2], True),
     (torch.ones(1), False), ((1, torch.ones(1)), False), ({}, False), (((1,),), False), (slice(1), False)],
)  # fmt: skip
def test_plain_values_can_be_compared(value: Any, plain: bool) -> None:
    assert are_comparable([value]) is plain


def test_a_replayed_trace_shares_the_scans_of_the_operand_whose_memory_it_shares() -> None:
    cache = CallCache(cross_check=True)

    def reshaped(call: CompletedCall) -> Callable[[], Outcome]:
        operand = call.traces[0]
        assert operand is not None
        return lambda: Outcome(None, [(call.out, TensorTrace(FACTS, operand.scans))])

    found: list[tuple[CompletedCall, Outcome | None]] = []
    for _ in range(2):
        call = Situation(name="reshape").call()
        cache.begin_batch(BATCH)
        found.append((call, cache.outcome(call, {}, reshaped(call), ScanCache(4, None))))
    assert cache.hits == 1
    call, outcome = found[-1]
    assert outcome is not None
    assert outcome.traces[0][1].scans is call.traces[0].scans  # type: ignore[union-attr]


def test_tensors_of_a_call_are_those_of_this_batch() -> None:
    cache = CallCache()
    run(cache, Situation())
    call = Situation().call()
    cache.begin_batch(BATCH)
    outcome = cache.outcome(call, {"relu": 0}, work_of(call), ScanCache(4, None))
    assert outcome is not None
    out: Tensor = outcome.traces[0][0]
    assert out is call.out
