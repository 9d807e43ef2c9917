"""The largest multiple that counts as integer is what the network adds up, whatever its modules are called."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import snn_energy as se
from snn_energy.models.neurons import LIF

T = 2


class StepNeuron(nn.Module):
    """A neuron written by hand, one step a call: spikes of a given height."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height, self.v = height, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.v = 0.5 * self.v + x
        spike = (self.v > 0.5).to(x.dtype)
        self.v = self.v - 0.5 * spike
        return spike * self.height


class Stack(nn.Module):
    """``depth`` branches of one neuron each, whose spikes are added up in front of a linear layer."""

    def __init__(self, depth: int, name: str, height: float, own: bool) -> None:
        super().__init__()
        self.name, self.own = name, own
        neurons = [LIF(0.5, height) if own else StepNeuron(height) for i in range(depth)]
        self.add_module(name, nn.ModuleList(neurons))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for step in [x] if self.own else x:
            stream = None
            for i, neuron in enumerate(getattr(self, self.name)):
                fired = neuron(step * (0.2 + 0.05 * i))
                stream = fired if stream is None else stream + fired
            assert stream is not None
            outs.append(self.head(stream))
        return outs[0] if self.own else torch.stack(outs)


class Wrapped(nn.Module):
    """As trainers, parallel runners and moving averages hold a network: under a name of their own."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x: Tensor) -> Any:
        return getattr(self, self.name)(x)


def frame_of(model: nn.Module, batches: list[Tensor], **options: Any) -> pd.DataFrame:
    return se.profile(model.eval(), batches, time_steps=T, time="axis0", **options).to_frame()


def head_of(model: nn.Module, batches: list[Tensor], **options: Any) -> pd.Series:
    frame = frame_of(model, batches, **options)
    return frame[frame["layer"].str.endswith("head")].iloc[0]


def images(samples: int, seed: int = 0) -> Tensor:
    """(T, samples, 6), of which one feature makes every neuron fire at every step."""
    x = torch.randn(T, samples, 6, generator=torch.Generator().manual_seed(seed))
    x[..., 0] = 5
    return x


@pytest.mark.parametrize("own", [True, False], ids=["LIF", "by hand"])
@pytest.mark.parametrize("height", [1.0, 0.7])
@pytest.mark.parametrize("depth", [3, 11, 24])
def test_sums_of_as_many_spikes_as_the_network_has_branches_are_whole(depth: int, height: float, own: bool) -> None:
    row = head_of(Stack(depth, "layers", height, own), [images(3)])
    assert (row["input_kind"], row["max_k"]) == ("integer", depth)


@pytest.mark.parametrize("own", [True, False], ids=["LIF", "by hand"])
def test_neither_names_nor_wrappers_nor_batches_decide(own: bool) -> None:
    def columns(model: nn.Module, batches: list[Tensor]) -> pd.DataFrame:
        frame = frame_of(model, batches)
        return frame[~frame["layer"].str.contains("#")].drop(columns=["layer", "group", "order"]).reset_index(drop=True)

    x = images(5)
    made = Stack(14, "blocks", 1.0, own)
    expected = columns(made, [x])
    assert expected["max_k"].max() == 14
    for name in ("block", "layers", "stages"):
        pd.testing.assert_frame_equal(columns(Stack(14, name, 1.0, own), [x]), expected)
    for name in ("module", "model", "ema"):
        pd.testing.assert_frame_equal(columns(Wrapped(name, made), [x]), expected)
        pd.testing.assert_frame_equal(columns(Wrapped("module", Wrapped(name, made)), [x]), expected)
    for sizes in ((1, 4), (2, 2, 1), (1,) * 5):
        pd.testing.assert_frame_equal(columns(made, list(x.split(sizes, 1))), expected)


def test_a_given_limit_wins() -> None:
    for own in (True, False):
        made = Stack(14, "layers", 1.0, own)
        row = head_of(made, [images(3)], max_k=13)
        assert row["input_kind"] == "real"
        assert row["note"] == "whole multiples of one constant up to 14, beyond max_k 13: --max-k 14 makes them integer"
        assert head_of(made, [images(3)], max_k=14)["input_kind"] == "integer"


# --- every way of adding up ---

Combine = Callable[[list[Tensor]], Tensor]


def in_place(parts: list[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


WAYS: dict[str, Combine] = {
    "+": lambda parts: parts[0] + torch.stack(parts[1:]).sum(0),
    "built-in sum": sum,  # type: ignore[dict-item]
    "+=": in_place,
    "stack and sum": lambda parts: torch.stack(parts).sum(0),
    "the last of a running sum": lambda parts: torch.stack(parts).cumsum(0)[-1],
    "a scaled sum": lambda parts: 0.5 * torch.stack(parts).sum(0),
    "of halves": lambda parts: in_place([0.5 * part for part in parts]),
    "the larger of two sums": lambda parts: torch.maximum(in_place(parts), in_place(parts[1:])),
    "alpha": lambda parts: torch.add(in_place(parts[2:]), parts[0], alpha=2),
    "behind a ReLU": lambda parts: in_place(parts).relu(),
    "of a product with spikes": lambda parts: in_place(parts) * parts[-1],
}  # fmt: skip


@pytest.mark.parametrize("own", [True, False], ids=["LIF", "by hand"])
@pytest.mark.parametrize("way", WAYS)
def test_however_spikes_are_added_up_their_sums_are_whole(way: str, own: bool) -> None:
    depth = 17
    neurons = [LIF(0.5, 1.0) if own else StepNeuron(1.0) for i in range(depth)]
    seen: list[Tensor] = []

    def forward(self: Any, x: Tensor) -> Tensor:
        outs = []
        for step in [x] if own else x:
            parts = [getattr(self, f"n{i}")(step * (0.2 + 0.05 * i)) for i in range(depth)]
            seen.append(WAYS[way](parts))
            outs.append(self.head(seen[-1]))
        return outs[0] if own else torch.stack(outs)

    model = Does(forward, head=nn.Linear(6, 3), **{f"n{i}": n for i, n in enumerate(neurons)})
    row = head_of(model, [images(3)])
    halves = torch.cat([2 * s.flatten() for s in seen[-1 if own else -T :]]).int().tolist()  # of the run that counts
    assert max(halves) / math.gcd(*halves) > 10
    assert row["input_kind"] == "integer"
    assert row["max_k"] == max(halves) // math.gcd(*halves)


def test_windows_of_spikes_are_whole_up_to_their_taps() -> None:
    model = Does(
        lambda self, x: self.head(avg_pool2d((self.lif(x) > 0.1).float().flatten(0, 1), 4, divisor_override=1)),
        lif=LIF(0.5, 1.0),
        head=nn.Conv2d(1, 2, 1),
    )
    x = 2 * torch.ones(T, 1, 1, 4, 8)
    x[..., 0, 4:] = 0
    row = head_of(model, [x])
    assert (row["input_kind"], row["max_k"], row["sops_multi"]) == ("integer", 4, (16 // 4 + 12 // 4) * 2)


def random_sums(seed: int) -> Iterator[tuple[int, Combine]]:
    """Random trees of sums over n spike tensors, some of them used several times."""
    rng = random.Random(seed)
    for _ in range(12):
        depth = rng.randrange(2, 20)
        plan = [(rng.random(), rng.random()) for _ in range(rng.randrange(depth, 3 * depth))]

        def combine(parts: list[Tensor], plan: list[tuple[float, float]] = plan) -> Tensor:
            made = list(parts)
            for first, second in plan:
                made.append(made[int(first * len(made))] + made[int(second * len(made))])
            return made[-1]

        yield depth, combine


@pytest.mark.parametrize("own", [True, False], ids=["LIF", "by hand"])
@pytest.mark.parametrize("seed", range(3))
def test_random_sums_are_whole_up_to_what_was_added(seed: int, own: bool) -> None:
    for depth, combine in random_sums(seed):
        ones = [torch.ones(()) for _ in range(depth)]
        terms = int(combine(ones))  # every neuron fires for the first feature
        neurons = {f"n{i}": LIF(0.5, 1.0) if own else StepNeuron(1.0) for i in range(depth)}

        def forward(self: Any, x: Tensor, depth: int = depth, combine: Combine = combine) -> Tensor:
            outs = [
                self.head(combine([getattr(self, f"n{i}")(s * (0.2 + 0.05 * i)) for i in range(depth)]))
                for s in ([x] if own else x)
            ]
            return outs[0] if own else torch.stack(outs)

        row = head_of(Does(forward, head=nn.Linear(6, 3), **neurons), [images(2, seed)])
        if terms <= 255:
            assert row["input_kind"] in ("integer", "binary"), (depth, terms)
            assert row["max_k"] <= terms


# --- values of unknown origin ---


def up_to(k: int) -> nn.Module:
    """Multiples of 0.7 whose origin says nothing, up to k where the input is 1."""
    return Does(lambda self, x: self.head((x * k).round() * 0.7), head=nn.Linear(6, 3))


def ramp(*levels: float) -> Tensor:
    return torch.tensor(levels).expand(T, 1, -1)


def test_one_element_beyond_the_limit_is_named_with_the_way_out() -> None:
    x = ramp(0, 1 / 12, 2 / 12, 3 / 12, 5 / 12, 1)
    row = head_of(up_to(12), [x])
    assert row["input_kind"] == "real"
    assert row["note"] == "whole multiples of one constant up to 12, beyond max_k 10: --max-k 12 makes them integer"
    assert pd.isna(row["sops_multi"])
    mended = head_of(up_to(12), [x], max_k=12)
    assert (mended["input_kind"], mended["max_k"], mended["sops_multi"]) == ("integer", 12, (1 + 2 + 3 + 5 + 12) * 3)


def test_it_does_not_matter_in_which_batch_the_largest_multiple_comes() -> None:
    small, large, fraction = ramp(0, 0, 0, 0, 3 / 12, 4 / 12), ramp(0, 0, 0, 0, 4 / 12, 1), ramp(0, 0, 0, 0, 0, 1 / 12)
    notes = set()
    for batches in ([small, large, fraction], [large, fraction, small], [fraction, small, large],
                    [torch.cat([small, fraction, large], 1)], [torch.cat([large, small], 1), fraction]):  # fmt: skip
        row = head_of(up_to(12), batches)
        assert row["input_kind"] == "real"
        notes.add(row["note"])
    assert notes == {"whole multiples of one constant up to 12, beyond max_k 10: --max-k 12 makes them integer"}


def test_what_is_real_in_any_batch_is_not_blamed_on_the_limit() -> None:
    model = Does(lambda self, x: self.head(x * 1.0 + self.other(x).sign() * 0), head=nn.Linear(6, 3),
                 other=nn.Linear(6, 6))  # fmt: skip
    whole, real = (12 * ramp(0, 1 / 12, 2 / 12, 3 / 12, 5 / 12, 1), torch.rand(T, 1, 6))
    for batches in ([whole, real], [real, whole]):
        row = head_of(model, batches)
        assert row["input_kind"] == "real"
        assert "max_k" not in row["note"]


def test_the_other_operand_of_a_product_says_so_too() -> None:
    model = Does(lambda self, x: (x * 12).round() * 0.7 @ self.lif(5 * x).mT, lif=LIF(0.5, 1.0))
    x = ramp(0, 1 / 12, 2 / 12, 3 / 12, 5 / 12, 1).unsqueeze(2)
    row = frame_of(model, [x]).query("op == 'matmul'").iloc[0]
    assert (row["input_kind"], row["other_kind"]) == ("binary", "real")
    assert row["note"].startswith("other operand: whole multiples of one constant up to 12, beyond max_k 10")


def test_the_audit_shows_it() -> None:
    counts = se.profile(up_to(12), [ramp(0, 1 / 12, 2 / 12, 3 / 12, 5 / 12, 1)], time_steps=T, time="axis0")
    table = se.audit(counts, "horowitz-45nm-fp32").to_frame()
    (why,) = table.loc[table["layer"] == "head", "why"]
    assert why == "whole multiples of one constant up to 12, beyond max_k 10: --max-k 12 makes them integer"
