"""A later batch is followed where, and only where, all that its counts depend on is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from changing import MODES, Changing, followed_as_fresh
from own_networks import spikes
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")

ALL, SAME_WAY, NONE = 3, 1, 0  # of four batches that go ways 0, 1, 1, 0, those that are followed


@dataclass
class Case:
    """A network that goes one of two ways. keep: tensors that it holds and that are no parameters."""

    forward: Callable[[Any, Tensor], Any]
    followed: int = SAME_WAY
    modules: Callable[[], Mapping[str, nn.Module]] = dict
    keep: Callable[[], Mapping[str, Any]] = dict
    options: Mapping[str, Any] = field(default_factory=lambda: {"time_steps": 1, "max_k": 8})
    shape: tuple[int, ...] = (3, 4)

    def make(self) -> Changing:
        torch.manual_seed(0)
        model = Changing(self.forward, last=nn.Linear(4, 3), **self.modules())
        for name, value in self.keep().items():
            setattr(model, name, value)
        return model


def other(first: Callable[..., Any], second: Callable[..., Any], **more: Any) -> Case:
    """A layer reads one of two functions of the input."""
    return Case(lambda self, x: self.last((second if self.way else first)(x)), **more)


def two_layers() -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)}


def one_weight() -> dict[str, nn.Module]:
    made = two_layers()
    made["b"].weight = made["a"].weight
    return made


def in_order(self: Any, x: Tensor) -> Tensor:
    one, two = (self.b, self.a) if self.way else (self.a, self.b)
    return self.last(one(x) + two(x))


def with_a_constant(
    apply: Callable[[Tensor, Tensor], Tensor], first: Any, second: Any, followed: int = SAME_WAY
) -> Case:
    """A function of the input and a tensor that does not stem from it."""
    return Case(
        lambda self, x: self.last(apply(x, self.constants[self.way])),
        followed,
        keep=lambda: {"constants": (torch.as_tensor(first), torch.as_tensor(second))},
    )


def as_weight(first: Callable[[], Tensor], second: Callable[[], Tensor], followed: int = SAME_WAY) -> Case:
    """Two tensors as weights of a function, whose values do not matter."""
    return Case(
        lambda self, x: self.last(functional.linear(x, self.weights[self.way])),
        followed,
        keep=lambda: {"weights": (first(), second())},
    )


def written(self: Any, x: Tensor, way: Callable[[Any, Tensor, Tensor], Any]) -> Tensor:
    y = x * 1.0
    way(self, y, x)
    return self.last(y)


def stopped(self: Any, x: Tensor) -> Tensor:
    if self.way:
        with contextlib.suppress(RuntimeError):
            self.a(x[:, :3])
    return self.last(x)


def _zero_a_half(self: Any, y: Tensor, x: Tensor) -> None:
    y[:, :2] = 0


def _zero_nothing(self: Any, y: Tensor, x: Tensor) -> None:
    y[:, :0] = 0


def _zero_through_a_view(self: Any, y: Tensor, x: Tensor) -> None:
    y.view(-1)[:5].zero_()


def _many(x: Tensor) -> Tensor:
    total = x
    for _ in range(20):
        total = (total + x.relu()).relu()
    return total


def _with_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return self.last(self.last(x).relu()[:, :1] + x)


def _with_a_hidden_change(self: Any, x: Tensor) -> Tensor:
    self.factor.data.fill_(3.0 if self.way else 1.0)
    return self.last(x * self.factor)


def _on_rest(self: Any, x: Tensor) -> Tensor:
    return self.last(self.a(x) + self.b(torch.zeros(3, 4) if self.way else x))


def _product_and_sum(x: Tensor, addend: Tensor) -> Tensor:
    q = x.reshape(3, 2, 2)
    return torch.baddbmm(addend, q, q.mT).flatten(1)


CASES: dict[str, Case] = {
    "nothing": other(torch.relu, torch.relu, followed=ALL),
    "function": other(torch.relu, torch.abs),
    "in place or not": other(lambda x: (x + 0).relu(), lambda x: (x + 0).relu_()),
    "module of the same weight": Case(in_order, modules=one_weight),
    "order of two layers": Case(in_order, modules=two_layers),
    "keyword": other(lambda x: torch.clamp(x, min=0.0), lambda x: torch.clamp(x, max=1.0)),
    "number": other(lambda x: x * 1.0, lambda x: x * 3.0),
    "type of a number": other(lambda x: x * 1, lambda x: x * 1.0),
    "position or keyword": other(lambda x: x.flatten(1), lambda x: x.flatten(start_dim=1)),
    "keyword or none": other(lambda x: x.softmax(1), lambda x: x.softmax(1, dtype=torch.float32)),
    "list or tuple": other(lambda x: x.reshape([3, 4]), lambda x: x.reshape((3, 4))),
    "tuple": other(lambda x: x.reshape((3, 2, 2)).flatten(1), lambda x: x.reshape((3, 1, 4)).flatten(1)),
    "slice": other(lambda x: x[:, 0:2].repeat(1, 2), lambda x: x[:, 1:3].repeat(1, 2)),
    "step of a slice": other(lambda x: x[:, 0:3:2].repeat(1, 2), lambda x: x[:, 0:2].repeat(1, 2)),
    "None": other(lambda x: x[:, None].flatten(1), lambda x: x[:, :].flatten(1)),
    "ellipsis": other(lambda x: x[..., :4], lambda x: x[:, :4]),
    "dtype that is asked for": other(lambda x: x.to(torch.float64).float(), lambda x: x.to(torch.float16).float()),
    "string": other(
        lambda x: torch.div(x, 1.0, rounding_mode="floor"), lambda x: torch.div(x, 1.0, rounding_mode="trunc")
    ),
    "number of tensors": other(lambda x: torch.cat([x, x], 1)[:, :4], lambda x: torch.cat([x, x, x], 1)[:, :4]),
    "which tensor": Case(lambda self, x: self.last((x.clone(), x.flip(1))[self.way])),
    "stride": other(lambda x: x.clone(), lambda x: x.clone(memory_format=torch.contiguous_format).T.clone().T),
    "argument of no known class": Case(lambda self, x: self.last(x.flatten(np.int64(1))), NONE),
    "generator": Case(
        lambda self, x: self.last(x.bernoulli(generator=self.generator)),
        NONE,
        keep=lambda: {"generator": torch.Generator().manual_seed(0)},
    ),
    "values of a factor": with_a_constant(torch.mul, 1.0, 3.0),
    "values of a divisor": with_a_constant(torch.div, 1.0, 0.5),
    "values of an index": with_a_constant(lambda x, at: x[:, at, None].repeat(1, 4), 0, 1),
    "equal values": with_a_constant(torch.mul, 3.0, 3.0, followed=ALL),
    "shape of a constant": with_a_constant(torch.mul, [1.0], 1.0),
    "dtype of a constant": with_a_constant(torch.mul, 1, 1.0),
    "another weight of the same shape": as_weight(lambda: torch.ones(4, 4), lambda: torch.zeros(4, 4), ALL),
    "stride of a weight": as_weight(lambda: torch.ones(4, 4), lambda: torch.ones(4, 4).T),
    "a weight of the model or not": Case(
        lambda self, x: functional.linear(x, self.last.weight if self.way else self.last.weight * 1.0)
    ),
    "which part of a parameter": Case(
        lambda self, x: self.last(functional.linear(x, self.both[4:] if self.way else self.both[:4])),
        keep=lambda: {"both": nn.Parameter(torch.ones(8, 4))},
    ),
    "bias or none": Case(
        lambda self, x: functional.linear(x, self.last.weight, None if self.way else torch.ones(3))
    ),
    "traced or not": Case(
        lambda self, x: self.last(x.relu() + (x if self.way else torch.ones(3, 4))), modules=dict
    ),
    "out=": Case(
        lambda self, x: self.last(torch.relu(x) if self.way else torch.abs(x, out=torch.empty(3, 4))),
    ),
    "write to a part": Case(
        lambda self, x: written(self, x, (_zero_a_half if self.way else _zero_nothing)),
    ),
    "write through a view": Case(
        lambda self, x: written(self, x, (_zero_through_a_view if self.way else _zero_nothing)),
    ),
    "value that is written": Case(
        lambda self, x: written(self, x, lambda self, y, x: y.fill_(float(self.way))),
    ),
    "exception in a layer": Case(stopped, modules=two_layers),
    "more events at the end": Case(
        lambda self, x: (self.last(x), x.flatten(1))[0] if self.way else self.last(x),
    ),
    "dead tensors": Case(lambda self, x: self.last(_many(x)), ALL),
    "gradients": Case(_with_gradients, ALL),
    "value that no counter tells of": Case(
        _with_a_hidden_change, keep=lambda: {"factor": torch.tensor(1.0)}
    ),
    "step by the value of an index": Case(
        lambda self, x: self.last(torch.add(*(self.a(x[at]) for at in self.steps[self.way]))),
        modules=two_layers,
        keep=lambda: {"steps": torch.tensor([[0, 1], [1, 0]])},
        options={"time_steps": 2, "time": "axis0", "max_k": 8},
        shape=(2, 3, 4),
    ),
    "zeros or not": Case(_on_rest, modules=two_layers),
    "addend of a product": with_a_constant(_product_and_sum, torch.zeros(3, 2, 2), torch.ones(3, 2, 2), ALL),
    "addend of a product, one element": with_a_constant(_product_and_sum, [[[0.0]]], [[[1.0]]]),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=MODES.values())
@pytest.mark.parametrize("what", CASES)
def test_a_batch_that_goes_another_way_counts_as_a_fresh_one(
    what: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[what]
    torch.manual_seed(1)
    batches = [(way, spikes(*case.shape, rate=0.5)) for way in (0, 1, 1, 0)]
    found = followed_as_fresh(monkeypatch, case.make, batches, mode, **case.options)
    assert found == case.followed
