"""Scans that went stale, and networks whose later batches follow the script of the first one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from own_networks import Does, set_active_steps
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.counting_mode import CROSS_CHECK, CountingMode
from snn_energy.profiler.tracking.operation_counts import counts_of
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


def test_a_network_is_followed_from_the_second_batch_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), LIF(), nn.Linear(5, 2), nn.Flatten(0, 1)).eval()
    counting = CountingMode(model, 4, None)
    with torch.no_grad(), counting.tracing():
        for followed in range(3):
            counting.begin(BATCH)
            counting.begin_call(None)
            x = torch.rand(2, 3, 4)
            counting.mark_input(x, "axis0", constant=False)
            model(x)
            counting.end()
            assert [record.op for record in counting.log.records] == ["linear", "neuron", "linear"]
            assert counting.events.followed_batches == followed


def test_two_networks_share_nothing() -> None:
    modes = [CountingMode(nn.Sequential(nn.Linear(4, 5)), 4, None) for _ in range(2)]
    for name in ("scopes", "observer", "scans", "events", "calls", "table", "log"):
        assert getattr(modes[0], name) is not getattr(modes[1], name)
    assert modes[0].calls.context.geometries is not modes[1].calls.context.geometries


@pytest.fixture(params=["0", "1"], ids=["trusting the script", "with the cross-check"])
def _both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as a user runs it, once with all work done again."""
    monkeypatch.setenv(CROSS_CHECK, request.param)


@pytest.mark.usefixtures("_both")
def test_a_neuron_that_works_in_other_steps_in_a_later_batch_has_the_mask_of_that_batch() -> None:
    layer = DTSS(max_steps=2)
    counting = CountingMode(nn.Sequential(layer).eval(), 4, None)
    found = []
    with torch.no_grad(), counting.tracing():
        for steps in (2, 2, 1, 2):
            set_active_steps(layer, steps)
            counting.begin(BatchShape(2, 1))
            counting.begin_call(None)
            x = torch.full((2, 1, 1), 2.0)
            counting.mark_input(x, "axis0", constant=False)
            counting.model(x)
            counting.end()
            (record,) = counting.log.records
            spikes = counts_of([record], 2).spikes
            assert spikes is not None
            found.append((record.active.tolist(), spikes.tolist()))
    both, first = ([True, True], [1, 1]), ([True, False], [1, 0])
    assert found == [both, both, first, both]


@pytest.mark.usefixtures("_both")
def test_a_threshold_that_changes_between_batches_changes_the_values_of_the_spikes() -> None:
    model = Does(lambda self, x: self.layer(self.lif(x)), lif=LIF(v_th=1.0), layer=nn.Linear(2, 3, bias=False))
    x = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]]])  # the first neuron fires at both steps

    def batches() -> Iterator[Tensor]:
        yield x
        model.lif.v_th = 0.5
        yield x

    rows = se.profile(model, batches(), time_steps=2, time="axis0").to_frame().query("layer == 'layer'")
    assert rows["input_kind"].tolist() == ["integer"] * 2  # spikes of 1 and of 0.5: twice, and once, 0.5
    assert rows["max_k"].tolist() == [2, 2]
    assert rows["sops"].tolist() == [2 * 3] * 2
    assert rows["sops_multi"].tolist() == [(2 + 1) * 3] * 2


@pytest.mark.usefixtures("_both")
def test_spikes_times_a_tensor_that_follows_from_the_batch_are_not_taken_for_whole_multiples() -> None:
    def forward(self: Does, x: Tensor) -> Tensor:
        factor = torch.tensor(0.3 if x.max().item() > 2 else 1.0)
        return self.layer(self.first(x) * factor + self.second(x))

    model = Does(forward, first=LIF(), second=LIF(), layer=nn.Linear(2, 3, bias=False))
    x = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]]])  # the first neuron of both layers fires at both steps
    rows = se.profile(model, [x, 2 * x], time_steps=2, time="axis0").to_frame().query("layer == 'layer'")
    assert rows["input_kind"].tolist() == ["real"] * 2  # 1 + 1 in the first batch, 0.3 + 1 in the second
    assert rows["sops"].tolist() == [2 * 3] * 2
