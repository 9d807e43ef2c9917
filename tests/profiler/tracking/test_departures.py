"""A batch that departs from the script of the last one is counted as a fresh one, and so are those that follow it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from changing import MODES, Changing, followed_as_fresh
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("mode", MODES, ids=MODES.values())
@pytest.mark.parametrize("from_step", range(5))
def test_what_waits_to_be_scanned_belongs_to_its_readers_alone(
    from_step: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers read one tensor in four steps, and a third another one; the order of the last two changes."""

    def forward(self: Any, x: Tensor) -> Tensor:
        made = []
        for step in range(4):
            few, many = (x[step] > 1).float(), (x[step] > -1).float()
            a = self.a(few)
            if self.way and step >= from_step:
                c, b = self.c(many), self.b(few)
            else:
                b, c = self.b(few), self.c(many)
            made.append(torch.stack([a, b, c], 1).sum(1))
        return torch.stack(made)

    def make() -> Changing:
        torch.manual_seed(0)
        return Changing(forward, **{name: nn.Linear(4, 3) for name in "abc"})

    torch.manual_seed(1)
    batches = [(way, torch.randn(4, 2, 4)) for way in (0, 0, 1, 1, 1, 0, 0)]
    found = followed_as_fresh(monkeypatch, make, batches, mode, time_steps=4, time="axis0")
    assert found == (6 if from_step == 4 else 4)
