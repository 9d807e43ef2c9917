"""Arguments that change what a rule may say: alpha, the value of a padding, the axis that is moved along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rule_calls import BATCH, Made
from torch import Tensor

from snn_energy.profiler.rules.registry import BatchContext, Call, find
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.values.bounds import NOTHING
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import TensorTrace


def after(made: Made, name: str, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> TensorTrace:
    """What is known of the result of a call."""
    entry = find(name)
    assert entry is not None
    assert entry.count is not None
    inputs = [(x, made.traces[id(x)]) for x in args if isinstance(x, Tensor) and id(x) in made.traces]
    call = Call(name, args, kwargs, inputs, [function(*args, **kwargs)], CallSite("layer", "Module", 0, True, {}))
    return entry.count(call, BatchContext(BATCH), ScanCache(4, None)).traces[0][1]


def test_a_sum_with_alpha_is_no_plain_sum() -> None:
    made = Made()
    assert after(made, "add", torch.add, made.x, made.y).bound.max_k == 2
    assert after(made, "add", torch.add, made.x, made.y, alpha=2).bound.unit is None


def test_a_padding_with_another_value_than_zero_is_no_spike() -> None:
    made = Made()
    assert after(made, "pad", F.pad, made.x, (1, 1), "constant", 0.0).bound == made.traces[id(made.x)].bound
    assert after(made, "pad", F.pad, made.x, (1, 1), "constant", 0.5).bound == NOTHING


INDEX = torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("name", "function", "along"),
    [
        ("roll", lambda x, dim: torch.roll(x, 1, dim), (0, 1)),
        ("flip", lambda x, dim: torch.flip(x, (dim,)), (0, 1)),
        ("index_select", lambda x, dim: torch.index_select(x, dim, INDEX), (0, 1)),
        ("gather", lambda x, dim: torch.gather(x, dim, torch.zeros_like(x, dtype=torch.int64)), (0, 1)),
    ],
)
def test_time_and_samples_are_lost_where_they_are_moved_along(
    name: str, function: Callable[..., Tensor], along: tuple[int, ...]
) -> None:
    for dim in along:
        made = Made()
        entry = find(name)
        assert entry is not None
        assert entry.count is not None
        args = {
            "roll": (made.x, 1, dim),
            "flip": (made.x, (dim,)),
            "index_select": (made.x, dim, INDEX),
            "gather": (made.x, dim, torch.zeros_like(made.x, dtype=torch.int64)),
        }[name]
        call = Call(
            name, args, {}, [(made.x, made.traces[id(made.x)])], [function(made.x, dim)],
            CallSite("layer", "Module", 0, True, {}),
        )  # fmt: skip
        roles = entry.count(call, BatchContext(BATCH), ScanCache(4, None)).traces[0][1].roles
        keeps_steps = name in ("roll", "flip") and dim == 0  # a step is a position on the axis of time
        assert (("T", "B")[dim] in roles) == keeps_steps


def test_a_cast_has_scans_of_its_own() -> None:
    made = Made()
    trace = made.traces[id(made.x)]
    assert after(made, "to", torch.Tensor.to, made.x, torch.float64).scans is not trace.scans
    assert after(made, "reshape", torch.reshape, made.x, (6, 4)).scans is trace.scans
