"""Networks that do something else in some batches, profiled in one go and batch by batch with fresh networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.counts.counts import Counts
from snn_energy.profiler import run
from snn_energy.profiler.counting_mode import CROSS_CHECK, CountingMode

WORK = [
    "dense_macs", "sops", "sops_gated", "spikes", "input_nonzeros", "other_nonzeros", "elementwise_ops",
    "membrane_reads", "membrane_writes",
]  # fmt: skip
MODES = {"0": "trusting the script", "1": "with the cross-check"}


class Changing(Does):
    """A network whose forward is told which way to go: ``way`` is the name of the current one."""

    def __init__(self, forward: Callable[..., Any], time_steps: int | None = None, **modules: nn.Module) -> None:
        super().__init__(forward, time_steps, **modules)
        self.ways = [0]

    @property
    def way(self) -> int:
        return self.ways[0]


def profiled(
    monkeypatch: pytest.MonkeyPatch, model: Any, batches: Sequence[tuple[int, Tensor]], **options: Any
) -> tuple[Counts, int]:
    """The counts, and the number of batches that were the same as a script throughout."""
    made: list[CountingMode] = []

    class Remembered(CountingMode):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    def given() -> Iterator[Tensor]:
        for way, x in batches:
            model.ways[0] = way
            yield x

    with monkeypatch.context() as patch:
        patch.setattr(run, "CountingMode", Remembered)
        counts = se.profile(model, given(), **options)
    return counts, made[-1].events.followed_batches


def followed_as_fresh(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Any],
    batches: Sequence[tuple[int, Tensor]],
    mode: str,
    **options: Any,
) -> int:
    """Require the counts of all batches to be those of profiles of one batch each; returns how many were followed."""
    monkeypatch.setenv(CROSS_CHECK, mode)
    together, followed = profiled(monkeypatch, make(), batches, **options)
    monkeypatch.setenv(CROSS_CHECK, "0")
    known: dict[tuple[int, int], Any] = {}
    for way, x in batches:
        if (way, id(x)) not in known:
            known[way, id(x)] = profiled(monkeypatch, make(), [(way, x)], **options)[0].to_frame()
    alone = [known[way, id(x)] for way, x in batches]
    frame, *frames = [
        counts.set_index(["layer", "time_step", "op"]).sort_index() for counts in (together.to_frame(), *alone)
    ]
    for one in frames:
        assert frame.index.tolist() == one.index.tolist()
    for column in WORK:
        expected = sum(one[column].to_numpy(float, na_value=0) for one in frames)
        np.testing.assert_array_equal(frame[column].to_numpy(float, na_value=0), expected, err_msg=column)
    return followed
