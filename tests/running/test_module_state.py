"""What a network keeps between calls is put back, whatever holds it; what its user sets stays."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.running.module_state import State


class Cell:
    """An object of the user's own that can be called, as a surrogate function can."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


# name -> (what an attribute holds, a call that advances it, what one reads from it: the number of calls)
HOLDERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], float]]] = {
    "list of one number": (lambda: [0], lambda v: v.__setitem__(0, v[0] + 1), lambda v: v[0]),
    "list that grows": (lambda: [7], lambda v: v.append(7), lambda v: len(v) - 1),
    "empty list that grows": (list, lambda v: v.append(7), len),
    "list in a list": (lambda: [[3, 0]], lambda v: v[0].__setitem__(1, v[0][1] + 1), lambda v: v[0][1]),
    "list in a tuple": (lambda: ([0],), lambda v: v[0].__setitem__(0, v[0][0] + 1), lambda v: v[0][0]),
    "list of tensors": (lambda: [torch.zeros(1)], lambda v: v[0].add_(1), lambda v: float(v[0])),
    "dictionary": (lambda: {"n": 0}, lambda v: v.update(n=v["n"] + 1), lambda v: v["n"]),
    "empty dictionary": (dict, lambda v: v.update(n=v.get("n", 0) + 1), lambda v: v.get("n", 0)),
    "dictionary of lists": (lambda: {"n": [0]}, lambda v: v["n"].__setitem__(0, v["n"][0] + 1), lambda v: v["n"][0]),
    "dictionary that shrinks": (
        lambda: OrderedDict((i, None) for i in range(99)), lambda v: v.popitem(last=False), lambda v: 99 - len(v)
    ),
    "dictionary of tensors": (lambda: {"u": torch.zeros(1)}, lambda v: v.update(u=v["u"] + 1), lambda v: float(v["u"])),
    "set": (set, lambda v: v.add(len(v)), len),
    "deque": (lambda: deque([0] * 99, maxlen=99), lambda v: v.append(1), sum),
    "deque of tensors": (
        lambda: deque([torch.zeros(1)] * 99, maxlen=99), lambda v: v.append(torch.ones(1)), lambda v: float(sum(v))
    ),
    "array": (lambda: np.zeros(2), lambda v: v.__iadd__(1), lambda v: float(v[1])),
    "array of objects": (
        lambda: np.array([[0], None], dtype=object), lambda v: v[0].append(0), lambda v: len(v[0]) - 1
    ),
    "array in an object": (
        lambda: SimpleNamespace(a=np.zeros(2)), lambda v: v.a.__iadd__(1), lambda v: float(v.a[1])
    ),
    "object": (lambda: SimpleNamespace(n=0), lambda v: setattr(v, "n", v.n + 1), lambda v: v.n),
    "object that is called": (Cell, lambda v: v(), lambda v: v.calls),
    "module in a list": (
        lambda: [nn.BatchNorm1d(1)], lambda v: v[0].num_batches_tracked.add_(1),
        lambda v: int(v[0].num_batches_tracked),
    ),
}  # fmt: skip


class Primed(nn.Module):
    """A neuron whose first call primes its potential by one half; what says which call it is lies in a holder."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        make, self.advance, self.read = HOLDERS[kind]
        self.holder = make()
        self.potential: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.read(self.holder) == 0:
            self.potential = torch.full_like(x, 0.5)
        self.advance(self.holder)
        self.potential = self.potential + x
        spikes = (self.potential >= 1).float()
        self.potential = self.potential - spikes
        return spikes


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_count_of_calls_is_put_back_before_every_batch_and_at_the_end(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), Primed(kind), nn.Linear(32, 10))
    x, neuron = torch.rand(5, 16), Primed("object")
    with torch.no_grad():
        expected = sum(10 * int(neuron(model[0](x)).sum()) for _ in range(4))
    held = model[1]
    assert isinstance(held, Primed)
    holder = held.holder
    for _ in range(2):  # the second profile counts what the first one did
        for batches in ([x], [x[:2], x[2:]]):
            frame = se.profile(model, batches, time="call", time_steps=4).to_frame()
            assert frame[frame["layer"] == "2"]["sops"].sum() == expected
            assert held.holder is holder
            assert (held.read(holder), held.potential) == (0, None)


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_count_of_calls_is_put_back_after_an_exception(kind: str) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron, self.fc = Primed(kind), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.neuron(x))
            if len(x) == 2:
                raise KeyError("gone")
            return out

    model = Fails()
    for batches in ([torch.rand(2, 4)], [torch.rand(3, 4), torch.rand(2, 4)]):
        with pytest.raises(Exception, match="gone"):
            se.profile(model, batches, time="call", time_steps=2)
        assert model.neuron.read(model.neuron.holder) == 0


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_refusal_leaves_nothing_behind_and_comes_again(kind: str) -> None:
    class Unclear(nn.Module):
        """Called three times where four steps are declared."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.neuron = nn.Linear(4, 4), Primed(kind)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.neuron(self.fc(x))
            return x

    model, said = Unclear(), []
    for _ in range(2):
        with pytest.raises(ProfilingError) as caught:
            se.profile(model, [torch.rand(3, 4)], time_steps=4)
        said.append(str(caught.value))
        assert model.neuron.read(model.neuron.holder) == 0
    assert said[0] == said[1]


@pytest.mark.parametrize("first", [None, "text", 1.5, (1, 2)])
def test_an_attribute_that_becomes_another_object_is_put_back(first: Any) -> None:
    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.mode = nn.Linear(4, 2), first

        def forward(self, x: Tensor) -> Tensor:
            if self.mode == first:
                self.mode = object() if first is None else (first, "later")
                self.new_one = 3
                return self.fc(x)  # type: ignore[no-any-return]
            return self.fc(torch.zeros_like(x))  # type: ignore[no-any-return]

    model = Turns()
    x = torch.rand(6, 4) + 0.1
    frame = se.profile(model, [x[:2], x[2:4], x[4:]], time_steps=1).to_frame()
    assert frame["input_nonzeros"].sum() == 6 * 4  # every batch is a first one
    assert model.mode is first
    assert not hasattr(model, "new_one")


def test_what_a_user_sets_between_batches_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    model.settings, model.levels, model.names = {"a": 1}, [1], {"x"}  # type: ignore[assignment]

    def batches() -> Any:
        yield torch.rand(3, 4)
        model.settings["a"] = 2  # type: ignore[index, operator]
        model.levels.append(2)  # type: ignore[union-attr, operator]
        model.names.add("y")  # type: ignore[union-attr, operator]
        yield torch.rand(3, 4)
        yield torch.rand(3, 4)

    se.profile(model, batches(), time_steps=1)
    assert (model.settings, model.levels, model.names) == ({"a": 2}, [1, 2], {"x", "y"})


def test_the_order_of_a_dictionary_is_put_back() -> None:
    model = nn.Module()
    model.queue = OrderedDict(a=torch.zeros(1), b=torch.ones(1))  # type: ignore[assignment]
    state = State(model)
    first = model.queue.pop("a")  # type: ignore[union-attr, operator]
    model.queue["a"] = first  # type: ignore[index, operator]
    model.queue["b"] = 3  # type: ignore[index, operator]
    state.restore()
    assert list(model.queue) == ["a", "b"]  # type: ignore[arg-type]
    assert [float(v) for v in model.queue.values()] == [0, 1]  # type: ignore[union-attr, operator]


def test_functions_and_what_they_replace_are_settings_until_a_forward_changes_them() -> None:
    model = nn.Module()
    state = State(model)
    model.observer = print
    state.restore()
    assert model.observer is print
