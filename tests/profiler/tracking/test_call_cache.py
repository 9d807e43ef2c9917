"""The cache of calls: what is replayed, why not, and a cross-check that finds a key that leaves something out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.counting_mode import CountingMode
from snn_energy.profiler.tracking.call_cache import CallCache, MadeCall, Miss, NotCached, ReplayError
from snn_energy.profiler.tracking.operation_log import OperationRecord, Outcome
from snn_energy.profiler.values.bounds import NOTHING, spikes
from snn_energy.profiler.values.scan_cache import Reader, ScanCache, StaleScanError
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

BATCH = BatchShape(2, 3)
READER = Reader("layer", 0, "left")


def facts(**changes: object) -> TensorFacts:
    known = TensorFacts(("T", "B", None), True, None, np.ones(2, np.bool_), False, frozenset(), NOTHING)
    return known._replace(**changes)  # type: ignore[arg-type]


def outcome(x: Tensor, operations: int, at: int = 0) -> Outcome:
    record = OperationRecord(
        "layer", "layer", 0, 0, "", "add", True, None, np.ones(2, np.bool_), False, frozenset(), 4,
        elementwise_ops=operations, label="add",
    )  # fmt: skip
    return Outcome(record, [(x, TensorTrace(facts()))]).stemming_from(at)


def call(x: Tensor, trace: TensorTrace | None = None, **changes: object) -> MadeCall:
    made = MadeCall("add", ("layer", 0), [x], [trace or TensorTrace(facts())], ("<tensor>", 1.0), {}, x, 0)
    return made._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def scans() -> ScanCache:
    return ScanCache(4, None)


def test_a_call_on_tensors_of_which_the_same_is_known_is_replayed(scans: ScanCache) -> None:
    cache, x = CallCache(), torch.zeros(2, 3, 4)
    for _ in range(3):
        cache.begin_batch(BATCH)
        done = cache.outcome(call(x), {}, lambda: outcome(x, 4), scans)
        assert done is not None
        assert done.record is not None
        assert done.record.elementwise_ops == 4
    assert cache.hits == 2
    assert cache.misses == {Miss.NEW: 1}
    cache.begin_batch(BatchShape(2, 4))  # another batch: everything is forgotten
    cache.outcome(call(x), {}, lambda: outcome(x, 4), scans)
    assert cache.misses == {Miss.NEW: 2}


@pytest.mark.parametrize(
    ("changed", "miss"),
    [
        ({"name": "sub"}, Miss.OTHER_CALL),
        ({"scope": ("layer", 1)}, Miss.OTHER_CALL),
        ({"record_at": 1}, Miss.OTHER_CALL),
        ({"rest": (1.0, "<tensor>")}, Miss.OTHER_ARGUMENTS),
        ({"options": {"alpha": 2}}, Miss.OTHER_ARGUMENTS),
        ({"traces": [None]}, Miss.OTHER_TENSORS),
        ({"traces": [TensorTrace(facts(bound=spikes(1.0)))]}, Miss.OTHER_TENSORS),
        ({"traces": [TensorTrace(facts(active=np.array([True, False])))]}, Miss.OTHER_TENSORS),
        ({"tensors": [torch.zeros(4, 3, 2).mT]}, Miss.OTHER_TENSORS),
        ({"tensors": [torch.zeros(2, 3, 4, dtype=torch.float64)]}, Miss.OTHER_TENSORS),
        ({"tensors": [torch.zeros(2, 3, 4, device="meta")]}, Miss.OTHER_TENSORS),
        ({"out": torch.zeros(2, 3, 5)}, Miss.OTHER_TENSORS),
    ],
)
def test_whatever_the_outcome_follows_from_is_compared(
    changed: dict[str, object], miss: Miss, scans: ScanCache
) -> None:
    cache, x = CallCache(cross_check=True), torch.zeros(2, 3, 4)
    cache.begin_batch(BATCH)
    cache.outcome(call(x), {}, lambda: outcome(x, 4), scans)
    cache.begin_batch(BATCH)
    cache.outcome(call(x, **changed), {}, lambda: outcome(x, 5), scans)
    assert cache.hits == 0
    assert cache.misses == {Miss.NEW: 1, miss: 1}


def test_another_operation_of_that_kind_before_it_is_another_call(scans: ScanCache) -> None:
    cache, x = CallCache(), torch.zeros(2, 3, 4)
    for counters in ({}, {"add": 1}):
        cache.begin_batch(BATCH)
        cache.outcome(call(x), counters, lambda: outcome(x, 4), scans)
    assert cache.misses == {Miss.NEW: 1, Miss.OTHER_CALL: 1}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rest": (object(),)}, NotCached.INCOMPARABLE_ARGUMENTS),
        ({"constants_matter": True, "traces": [None]}, NotCached.CONSTANT_OPERAND),
        ({"options": {"out": "<tensor>"}}, NotCached.WRITES),
        ({"scans_operands": True}, NotCached.TEMPORARY_SCAN),
    ],
)
def test_what_is_not_kept_has_a_reason(changed: dict[str, object], reason: NotCached, scans: ScanCache) -> None:
    cache, x = CallCache(), torch.zeros(2, 3, 4)
    one = outcome(x, 4)
    assert one.record is not None
    if reason == NotCached.TEMPORARY_SCAN:
        one.record.left = scans.scan_as(x, x, ((6, 4, 1), 1), TensorTrace(facts()), READER)
    for _ in range(2):
        cache.begin_batch(BATCH)
        cache.outcome(call(x, **changed), {}, lambda: one, scans)
    assert cache.hits == 0
    assert cache.not_cached == {reason: 2}


def test_the_cross_check_finds_a_replay_that_is_wrong(scans: ScanCache) -> None:
    cache, x = CallCache(cross_check=True), torch.zeros(2, 3, 4)
    cache.begin_batch(BATCH)
    cache.outcome(call(x), {}, lambda: outcome(x, 4), scans)
    cache.begin_batch(BATCH)
    with pytest.raises(ReplayError, match="layer: 'add' is replayed wrongly: another elementwise_ops"):
        cache.outcome(call(x), {}, lambda: outcome(x, 5), scans)
    cache.begin_batch(BATCH)
    with pytest.raises(ReplayError, match="an operation in one batch and none in the other"):
        cache.outcome(call(x), {}, lambda: None, scans)
    cache.begin_batch(BATCH)
    with pytest.raises(ReplayError, match="is not"):
        cache.outcome(call(x), {}, lambda: outcome(x, 4, at=1), scans)


def test_the_cross_check_finds_a_scan_of_values_that_changed() -> None:
    scans, x, trace = ScanCache(4, None, cross_check=True), torch.zeros(2, 3, 4), TensorTrace(facts())
    scans.scan_operand(x, trace, BATCH, READER)
    scans.scan_operand(x, trace, BATCH, READER)
    x[0, 0, 0] = 1
    with pytest.raises(StaleScanError, match="layer: the left operand changed"):
        scans.scan_operand(x, trace, BATCH, READER)


def test_functions_and_neurons_of_a_network_are_replayed_from_the_second_batch_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), LIF(), nn.Linear(5, 2), nn.Flatten(0, 1)).eval()
    counting = CountingMode(model, 4, None)
    with torch.no_grad(), counting.tracing():
        for _ in range(3):
            counting.begin(BATCH)
            counting.begin_call(None)
            x = torch.rand(2, 3, 4)
            counting.mark_input(x, "axis0", constant=False)
            model(x)
            counting.end()
            assert [record.op for record in counting.log.records] == ["linear", "neuron", "linear"]
    assert counting.cache.cross_check  # as in every test
    assert counting.cache.hits == 2 * 3  # neuron, second linear layer, flatten
    assert counting.cache.misses[Miss.NO_SCAN] == 2  # the first layer reads the loader's values, which are scanned anew
    assert set(counting.cache.not_cached) <= {NotCached.UNTRACED_RESULT}


def test_two_networks_share_nothing() -> None:
    modes = [CountingMode(nn.Sequential(nn.Linear(4, 5)), 4, None) for _ in range(2)]
    for name in ("scopes", "observer", "scans", "cache", "calls", "table", "log"):
        assert getattr(modes[0], name) is not getattr(modes[1], name)
    assert modes[0].calls.context.geometries is not modes[1].calls.context.geometries
