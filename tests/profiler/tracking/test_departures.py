"""A batch that departs from the script of the last one is counted as a fresh one, and so are those that follow it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from changing import MODES, Changing, followed_as_fresh
from torch import Tensor, nn
from torch.nn import functional

from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF

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


@pytest.mark.parametrize("mode", MODES, ids=MODES.values())
def test_every_size_of_batch_has_its_script(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    batches = [(0, torch.randn(size, 4)) for size in (2, 3, 2, 3, 3, 1, 2)]
    make = lambda: Changing(lambda self, x: self.last(x.relu()), last=nn.Linear(4, 3))  # noqa: E731
    assert followed_as_fresh(monkeypatch, make, batches, mode, time_steps=1) == 4


# ---- random networks; tests/differential has others, against an oracle ----------------------------------------

STEPS, SAMPLES, WIDTH, NETWORKS, PER_TEST = 4, 2, 4, 60, 15


class Nested(nn.Module):
    """A layer in a module of its own, with a function before it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Identity())

    def forward(self, x: Tensor, *, way: int) -> Tensor:
        made: Tensor = self.inner(x.abs() if way else x.relu())
        return made


class Fires(nn.Module):
    """A neuron of ours, of one step, whose threshold depends on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.lif = LIF(v_th=0.5)

    def forward(self, x: Tensor, *, way: int) -> Tensor:
        made: Tensor = self.lif(x)
        return made * (0.5 if way else 1.0)


def factor(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    return x * (2.0 if way else 1.0)


def constant(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    return x * torch.tensor(2.0 if way else 1.0)


def in_place(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    made = x.clone()
    return made.relu_() if way else made.relu()


def written(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    """Some values are set to zero, through a view that is read afterwards."""
    made = x.clone()
    part = made[..., :2]
    made[..., : 1 + way] = 0
    return made + torch.cat([part, part], -1)


def selected(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    part = x[..., 1:3] if way else x[..., :2]
    return torch.cat([part, part], -1)


def laid_out(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if way else x.clone()


def several(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    """Two layers read one tensor and a third another, in an order that depends on the way."""
    other = (x > 0).float()
    readers = [("a", x), ("b", x), ("c", other)]
    made = {name: layers[name](read) for name, read in ([readers[i] for i in (0, 2, 1)] if way else readers)}
    return torch.stack([made["a"], made["b"], made["c"]], -1).sum(-1)


def product(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    q = x.unflatten(-1, (2, 2))
    return (q @ (q.mT if way else q)).flatten(-2)


def product_and_sum(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    q = x.reshape(-1, 2, 2)
    made = torch.baddbmm(torch.ones(1) * way, q, q.mT)
    return made.reshape(x.shape)


def attention(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    q = x.unflatten(-1, (2, 2))
    return functional.scaled_dot_product_attention(q, q, q, scale=0.5 if way else 0.25).flatten(-2)


def bias_only(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    return functional.linear(x, layers["layer"].weight, None if way else torch.ones(WIDTH))


def nested(layers: nn.ModuleDict, x: Tensor, way: int) -> Tensor:
    made: Tensor = layers["nested"](x, way=way)
    return made


KINDS = (
    factor, constant, in_place, written, selected, laid_out, several, product, product_and_sum, attention,
    bias_only, nested,
)  # fmt: skip


class Block(nn.Module):
    """One kind of work. is_changing: it depends on the way, in these time steps."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.kind = rng.choice(KINDS)
        self.steps = rng.choice((range(STEPS), range(1, STEPS), range(STEPS - 1, STEPS)))
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("layer", "a", "b", "c")})
        self.layers["nested"] = Nested()

    def forward(self, x: Tensor, *, way: int, step: int) -> Tensor:
        return self.kind(self.layers, x, way if step in self.steps else 0)


def random_network(seed: int) -> Changing:
    """Some blocks in a loop over time, or on all time steps at once, with neurons of ours in between."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    blocks = nn.ModuleList(Block(rng) for _ in range(rng.randint(1, 3)))
    in_a_loop, fires = rng.random() < 0.6, rng.random() < 0.5

    def forward(self: Any, x: Tensor) -> Tensor:
        way = self.way
        if fires:
            x = self.fires(x, way=way if in_a_loop else 0)
        parts = [(0, x)] if not in_a_loop else list(enumerate(x))
        made = []
        for step, part in parts:
            for block in self.blocks:
                part = block(part, way=way, step=step if in_a_loop else STEPS - 1)
            made.append(self.last(part))
        return torch.stack(made) if in_a_loop else made[0]

    return Changing(forward, blocks=blocks, fires=Fires(), last=nn.Linear(WIDTH, 3))


@pytest.mark.parametrize("first", range(0, NETWORKS, PER_TEST))
def test_random_networks_that_depart_count_as_fresh_ones(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + PER_TEST):
        torch.manual_seed(seed)
        batches = [(way, torch.randn(STEPS, SAMPLES, WIDTH)) for way in (0, 0, 1, 1)]
        batches = [*batches, batches[0]]
        try:
            found = followed_as_fresh(
                monkeypatch, lambda seed=seed: random_network(seed), batches, "0", time_steps=STEPS, time="axis0"
            )
        except ProfilingError:  # at rows that come and go, or at axes that cannot be told apart
            outcomes["refused"] += 1
            continue
        except AssertionError as error:
            raise AssertionError(f"network {seed}") from error
        outcomes["departed" if found == 2 else "odd"] += 1
    assert outcomes["departed"] >= 0.8 * PER_TEST, outcomes
    assert not outcomes["odd"], outcomes
