"""A network of which no module spikes is counted once per sample, unless something in it hints at time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_networks import Does
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.inspection_report import inspect_model
from snn_energy.report.sentences import assumptions

DEPTH, WIDTH, HEADS, PATCHES = 2, 16, 2, 4


class DropPath(nn.Module):
    """As timm's: an own class without weights, nothing in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x if not self.training else x * 0


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention written as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.ls1, self.ls2, self.drop_path = LayerScale(), LayerScale(), DropPath()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        a = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, WIDTH)
        x = x + self.drop_path(self.ls1(self.proj(a)))
        return x + self.drop_path(self.ls2(self.fc2(functional.gelu(self.fc1(self.norm2(x))))))


class Timm(nn.Module):
    """A class token, positions, blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patch = nn.Conv2d(1, WIDTH, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.rand(1, 1, WIDTH)), nn.Parameter(torch.rand(1, PATCHES + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(x), -1, -1), h], 1) + self.pos
        return self.head(self.norm(self.blocks(h))[:, 0])


class EncoderBlock(nn.Module):
    """As torchvision writes it: attention of torch, a sequential MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        wide = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.1)
        self.mlp = nn.Sequential(*wide)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.self_attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Torchvision(Timm):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(EncoderBlock() for _ in range(DEPTH)))

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] == 8, f"wrong height {x.shape[2]}")
        return super().forward(x)


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    parts = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    return nn.Sequential(*parts)


def transformer_macs() -> int:
    tokens = PATCHES + 1
    block = tokens * WIDTH * (3 * WIDTH + WIDTH + 2 * WIDTH + 2 * WIDTH) + 2 * tokens * tokens * WIDTH
    return PATCHES * 16 * WIDTH + DEPTH * block + WIDTH * 3


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "as timm has it": (Timm, transformer_macs()),
    "as torchvision has it": (Torchvision, transformer_macs()),
    "convolutional": (convolutional, 4 * 36 * 9 + 36 * 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_neurons_is_counted_once_and_said_so(name: str) -> None:
    build, macs = NETWORKS[name]
    x, y = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long)
    counts = se.profile(build(), [(x[:3], y[:3]), (x[3:], y[3:])])
    assert counts.rows.equals(se.profile(build(), [x], time_steps=1).rows)
    assert (counts.time_steps, counts.samples) == (1, 5)
    assert counts.rows["dense_macs"].sum() == 5 * macs
    assert "neuron" not in set(counts.rows["op"])
    said = "no module of it spikes: counted once per sample, T = 1"
    assert any(said in line for line in assumptions(counts))
    assert any(said in line for line in inspect_model(build(), [x]).lines())


class Remembers(nn.Module):
    """Adds half of what it read before."""

    before: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.before = x + 0.5 * self.before
        return self.before


class Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)


def fed(does: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return Does(does, a=nn.Linear(6, 8), b=nn.Linear(8, 3), **modules)


class WithSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.T, self.fc = 4, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


HINTS: dict[str, Callable[[], nn.Module]] = {
    "a module with a state": lambda: fed(lambda s, x: s.b(s.memory(s.a(x))), memory=Remembers()),
    "spikes written inline": lambda: fed(lambda s, x: s.b((s.a(x) > 0.1).float())),
    "spikes with a surrogate gradient": lambda: fed(lambda s, x: s.b(Surrogate.apply(s.a(x)))),
    "quantised activations": lambda: fed(lambda s, x: s.b((4 * s.a(x)).clamp(0, 4).floor() / 4)),
    "a loop over steps": lambda: fed(lambda s, x: sum(s.b(s.a(x).relu()) for _ in range(4))),  # type: ignore[arg-type, return-value]
    "a number of steps": WithSteps,
}


@pytest.mark.parametrize("name", HINTS)
def test_what_hints_at_time_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ProfilingError, match="time_steps=") as caught:
        se.profile(HINTS[name](), [torch.rand(4, 6)])
    assert "\n" not in str(caught.value)
    counts = se.profile(HINTS[name](), [torch.rand(4, 6)], time_steps=1, time="inside")
    assert counts.time_steps == 1


def test_a_state_keeps_nothing_of_the_look_at_it() -> None:
    model = HINTS["a module with a state"]()
    with pytest.raises(ProfilingError):
        se.profile(model, [torch.rand(4, 6)])
    assert model.memory.before == 0.0  # type: ignore[union-attr]
