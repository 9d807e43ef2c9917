"""Calls of one layer in several time steps are counted together, and each has the counts that it has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from own_networks import Does, set_active_steps
from torch import Tensor, nn

import snn_energy as se
from snn_energy.models.neurons import DTSS
from snn_energy.profiler.results import accumulate, families
from snn_energy.profiler.results.families import Family

pytestmark = pytest.mark.usefixtures("one_thread")


def looping(self: Any, x: Tensor) -> Tensor:
    """Layers on spikes, sums, real and masked values; products, convolutions of two sizes, a last call more."""
    x = self.skips(x)
    made = []
    for step, part in enumerate(x):
        fired = (part > 0.3).float()
        image = fired.unflatten(1, (2, 4))
        drawn = self.conv(image if step else image[..., :3])
        q = fired.unflatten(1, (2, 4))
        made.append(
            self.a(fired + (part > 0.8).float())
            + self.b(part)
            + (q @ q.mT).flatten(1)[:, :3]
            + drawn.sum((1, 2))[:, None]
        )
    return self.last(torch.stack(made)) + self.last(made[-1])


def network() -> Does:
    torch.manual_seed(0)
    skips = DTSS(max_steps=4)
    set_active_steps(skips, 3)
    layers = {name: nn.Linear(8, 3) for name in "ab"}
    return Does(looping, 4, skips=skips, conv=nn.Conv1d(2, 3, 3, padding=1), last=nn.Linear(3, 2), **layers)


def profiled(batches: list[Tensor]) -> pd.DataFrame:
    return se.profile(network(), batches, time="axis0", time_steps=4, max_k=8).to_frame()


def test_rows_are_those_of_operations_that_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    batches = [torch.randn(4, n, 8) * 2 for n in (2, 2, 3)]
    sizes: list[int] = []
    find = families.families_of

    def found(placed: Any) -> list[Family]:
        made = find(placed)
        sizes.extend(len(family.members) for family in made)
        return made

    monkeypatch.setattr(accumulate, "families_of", found)
    together = profiled(batches)
    assert max(sizes) == 4  # a: all four steps
    assert sizes.count(3) >= 1  # conv: the first step is of another size
    monkeypatch.setattr(families, "_what_is_equal", lambda item: item.key)
    sizes.clear()
    alone = profiled(batches)
    assert set(sizes) == {1}
    pd.testing.assert_frame_equal(together, alone)
    assert together["layer"].nunique() > 5


def test_counts_of_a_member_are_its_own() -> None:
    keys = (("a", (0,)), ("a", (1,)), ("a", (2,)))
    family = Family("a", keys, 1, np.ones(3, np.bool_), np.array([True, False, True]))
    family.gathered["sops"] += [np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7], [8], [9]])]
    found = family.by_member("sops")
    assert {key: found[key].tolist() for key in keys} == {
        keys[0]: [[1, 2, 7]],
        keys[1]: [[3, 4, 8]],
        keys[2]: [[5, 6, 9]],
    }
    assert family.by_member("spikes") == {}
    assert [family.worked_by_member()[key].tolist() for key in keys] == [[True], [False], [True]]
    family.start_part()
    assert family.by_member("sops") == {}
    assert not family.worked.any()


def test_a_row_works_where_both_operands_have_non_zeros() -> None:
    family = Family("a", (("a", (0,)), ("a", (1,))), 1, np.zeros(2, np.bool_), np.zeros(2, np.bool_))
    family.mark_working({"nonzeros_left": np.array([[1, 0], [0, 1]]), "nonzeros_right": np.array([[0, 1], [0, 1]])})
    assert family.worked.tolist() == [False, True]
    family.mark_working({"nonzeros_left": np.array([[0, 2], [0, 0]])})
    assert family.worked.tolist() == [True, True]
