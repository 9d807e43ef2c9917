"""Steps and samples that are joined, moved, selected or named in one time step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError

pytestmark = pytest.mark.usefixtures("one_thread")

T, B = 4, 3


def spikes(*shape: int, seed: int = 1) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def steps_and_sops(model: nn.Module, x: Tensor, layer: str) -> dict[int, int]:
    """Time step -> accumulates of a layer, all its calls together; the file of the counts balances."""
    counts = se.profile(model, [x], time_steps=T, time="axis0")
    rows = counts.to_frame()
    rows = rows[rows["layer"].str.partition("#")[0] == layer]
    assert not rows.duplicated(["layer", "time_step"]).any()
    return rows.groupby("time_step")["sops"].sum().astype(int).to_dict()


# --- joined with stack, cat and their relatives -------------------------------------------------------------------

FEATURES = 5
JOINS: dict[str, tuple[Callable[[list[Tensor]], Tensor], int]] = {  # of T tensors (B, F); features of the result
    "stack": (torch.stack, FEATURES),
    "stack at 1": (lambda steps: torch.stack(steps, dim=1), FEATURES),
    "cat": (torch.cat, FEATURES),
    "vstack": (torch.vstack, FEATURES),
    "stack at the end": (lambda steps: torch.stack(steps, dim=-1), T),
    "cat of features": (lambda steps: torch.cat(steps, dim=1), T * FEATURES),
    "hstack": (torch.hstack, T * FEATURES),
    "dstack": (torch.dstack, T),
    "column_stack": (torch.column_stack, T * FEATURES),
}


@pytest.mark.parametrize("name", JOINS)
def test_t_steps_joined_along_any_axis_are_the_axis_of_time(name: str) -> None:
    join, features = JOINS[name]
    model = Does(lambda self, x: self.last(join([self.first(x[t]) for t in range(T)]).ne(0).float()),
                 first=nn.Identity(), last=nn.Linear(features, 3))  # fmt: skip
    x = spikes(T, B, FEATURES)
    found = steps_and_sops(model, x, "last")
    if features == FEATURES:
        assert found == {t: 3 * int(x[t].sum()) for t in range(T)}
    else:  # summed over the steps
        assert found == {-1: 3 * int(x.sum())}


TIMED: dict[str, tuple[Callable[[list[Tensor]], Tensor], int, bool]] = {  # of two (T, B, F): features; steps stay apart
    "cat of features": (lambda parts: torch.cat(parts, -1), 2 * FEATURES, True),
    "dstack": (torch.dstack, 2 * FEATURES, True),
    "cat of samples": (lambda parts: torch.cat(parts, 1), FEATURES, True),
    "hstack": (torch.hstack, FEATURES, True),
    "column_stack": (torch.column_stack, FEATURES, True),
    "cat of steps": (torch.cat, FEATURES, False),
    "vstack": (torch.vstack, FEATURES, False),
}


@pytest.mark.parametrize("name", TIMED)
def test_branches_joined_along_any_axis(name: str) -> None:
    join, features, is_apart = TIMED[name]
    model = Does(lambda self, x: self.last(join([x, x.flip(-1)])).sum((0, -1)), last=nn.Linear(features, 3))
    x = spikes(T, B, FEATURES)
    found = steps_and_sops(model, x, "last")
    assert found == ({t: 6 * int(x[t].sum()) for t in range(T)} if is_apart else {-1: 6 * int(x.sum())})


# --- moved along time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "source"), [("roll", [3, 0, 1, 2]), ("flip", [3, 2, 1, 0])])
def test_steps_that_are_rolled_or_reversed_count_where_they_are_read(name: str, source: list[int]) -> None:
    moved: dict[str, Callable[[Tensor], Tensor]] = {"roll": lambda x: x.roll(1, 0), "flip": lambda x: x.flip(0)}
    x = spikes(T, B, FEATURES)
    found = steps_and_sops(Does(lambda self, x: self.last(moved[name](x)), last=nn.Linear(FEATURES, 3)), x, "last")
    assert found == {t: 3 * int(x[s].sum()) for t, s in enumerate(source)}


ROWS: dict[str, Callable[[Tensor], list[Tensor]]] = {  # of (T, B, F): what a loop over steps reads
    "chunk": lambda x: list(x.flatten(0, 1).chunk(T)),
    "split": lambda x: list(x.flatten(0, 1).split(B)),
    "slices": lambda x: [x.flatten(0, 1)[t * B : (t + 1) * B] for t in range(T)],
    "every T-th row": lambda x: [x.transpose(0, 1).flatten(0, 1)[t::T] for t in range(T)],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_loop_over_the_rows_of_one_step_each(name: str) -> None:
    model = Does(lambda self, x: torch.stack([self.last(y) for y in ROWS[name](x)]), last=nn.Linear(FEATURES, 3))
    x = spikes(T, B, FEATURES)
    assert steps_and_sops(model, x, "last") == {t: 3 * int(x[t].sum()) for t in range(T)}


# --- some of the samples ------------------------------------------------------------------------------------------

SELECTED: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": lambda x: x.mean(0)[x.sum((0, 2)) > 5],
    "mask of all": lambda x: x.mean(0)[x.sum((0, 2)) > -1],
    "mask behind time": lambda x: x[:, x.sum((0, 2)) > 5],
    "indices": lambda x: x[:, torch.tensor([2, 0])],
}


@pytest.mark.parametrize("name", SELECTED)
def test_work_on_some_samples_is_refused_in_one_line_that_says_what_to_do(name: str) -> None:
    model = Does(lambda self, x: self.last(SELECTED[name](x)), last=nn.Linear(FEATURES, 3))
    with pytest.raises(ProfilingError) as caught:
        se.profile(model, [spikes(T, B, FEATURES)], time_steps=T, time="axis0")
    message = str(caught.value)
    assert message.startswith("last: reads only the samples that a mask or an index selects")
    assert "torch.where" in message
    assert "\n" not in message


# --- names in one time step ---------------------------------------------------------------------------------------


def _all_and_each(self: Any, x: Tensor) -> Tensor:
    return self.last(x) + torch.stack([self.last(x[t]) for t in range(T)])


def _each_and_all(self: Any, x: Tensor) -> Tensor:
    return torch.stack([self.last(x[t]) for t in range(T)]) + self.last(x)


def _first_all_others(self: Any, x: Tensor) -> Tensor:
    first = self.last(x[0])
    return self.last(x) + first + torch.stack([self.last(x[t]) for t in range(1, T)]).sum(0)


def _twice_each(self: Any, x: Tensor) -> Tensor:
    return torch.stack([self.last(x[t]) + self.last(x[t].flip(-1)) for t in range(T)])


@pytest.mark.parametrize("forward", [_all_and_each, _each_and_all, _first_all_others, _twice_each])
def test_two_calls_of_one_layer_in_a_step_have_names_of_their_own(
    forward: Callable[..., Tensor], tmp_path: Path
) -> None:
    model, x = Does(forward, last=nn.Linear(FEATURES, 3)), spikes(T, B, FEATURES)
    assert steps_and_sops(model, x, "last") == {t: 6 * int(x[t].sum()) for t in range(T)}
    counts = se.profile(model, [x], time_steps=T, time="axis0")
    counts.save(tmp_path / "counts.json")
    loaded = se.load_counts(tmp_path / "counts.json")  # a file with two rows of one name would not balance
    assert loaded.to_frame()["sops"].sum() == 6 * int(x.sum())


def test_recurrent_calls_in_one_step_are_told_apart() -> None:
    """A recurrent layer that settles in two rounds per step."""

    def forward(self: Any, x: Tensor) -> Tensor:
        state, out = torch.zeros(x.shape[1], FEATURES), []
        for t in range(T):
            for _ in range(2):
                state = (self.inward(x[t]) + self.round(state) > 0).float()
            out.append(state)
        return torch.stack(out)

    torch.manual_seed(0)
    model = Does(forward, inward=nn.Linear(FEATURES, FEATURES), round=nn.Linear(FEATURES, FEATURES, bias=False))
    x = spikes(T, B, FEATURES)
    assert steps_and_sops(model, x, "inward") == {t: 2 * FEATURES * int(x[t].sum()) for t in range(T)}
    frame = se.profile(model, [x], time_steps=T, time="axis0").to_frame()
    calls = frame[frame["layer"].str.startswith("round")]
    assert sorted(zip(calls["time_step"], calls["layer"], strict=True)) == sorted(
        (t, name) for t in range(T) for name in ("round", "round#call1")
    )
