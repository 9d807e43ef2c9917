"""300 networks whose control flow depends on the data and changes between batches: right in every batch, or refused."""

from __future__ import annotations

import collections

import flows
import pytest

import snn_energy as se

NETWORKS, PER_TEST = 300, 30
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("first", range(0, NETWORKS, PER_TEST))
def test_a_flow_that_changes_is_counted_right_or_refused(first: int) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    for seed in range(first, first + PER_TEST):
        outcome, found = flows.faults(seed)
        outcomes[outcome] += 1
        if found:
            wrong.append(flows.report(seed, found))
    assert not wrong, "\n".join(wrong)
    changing = sum(count for outcome, count in outcomes.items() if outcome.startswith("changing"))
    assert changing >= PER_TEST // 4, outcomes  # or nothing would be shown
    assert outcomes["constant, counted"] >= 0.6 * (PER_TEST - changing), outcomes


def test_a_count_that_misses_a_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler that lets a layer that is left out in a later batch keep its work is caught."""
    profile = se.profile
    monkeypatch.setattr(
        se, "profile", lambda model, batches, **options: profile(model, [batches[0]] * len(batches), **options)
    )
    caught = sum(bool(flows.faults(seed)[1]) for seed in range(30))
    assert caught >= 15
