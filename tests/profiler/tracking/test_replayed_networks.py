"""Scans that went stale, and networks whose calls are replayed from the second batch on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from snn_energy.models.neurons import LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.counting_mode import CountingMode
from snn_energy.profiler.tracking.call_cache import Miss, NotCached
from snn_energy.profiler.values.bounds import NOTHING
from snn_energy.profiler.values.scan_cache import Reader, ScanCache, StaleScanError
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

BATCH = BatchShape(2, 3)
READER = Reader("layer", 0, "left")


def facts(**changes: object) -> TensorFacts:
    known = TensorFacts(("T", "B", None), True, None, np.ones(2, np.bool_), False, frozenset(), NOTHING)
    return known._replace(**changes)  # type: ignore[arg-type]


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
