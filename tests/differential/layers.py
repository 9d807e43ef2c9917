"""The modules of a described network: neurons of every family, layers, and operations as modules."""

from __future__ import annotations

import functools
import importlib
import random
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.models.neurons import DTSS, LIF

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
MAX_POOLS = {2: nn.MaxPool1d, 3: nn.MaxPool2d, 4: nn.MaxPool3d}
AVERAGE_POOLS = {2: nn.AvgPool1d, 3: nn.AvgPool2d, 4: nn.AvgPool3d}


def framework(name: str) -> Any:
    """A module of a framework; what its import warns of is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


# --- neurons ------------------------------------------------------------------------------------------------------


class ByAttribute(nn.Module):
    """A neuron that keeps its potential in an attribute."""

    def __init__(self, node: dict[str, Any]) -> None:
        super().__init__()
        self.leak, self.v_th, self.is_soft, self.strict = (
            node["leak"],
            node["v_th"],
            node["reset"] == "soft",
            node["strict"],
        )
        self.u: Tensor | None = None

    def reset(self) -> None:
        self.u = None

    def step(self, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        v = x if u is None else self.leak * u + x
        spike = ((v > self.v_th) if self.strict else (v >= self.v_th)).to(x.dtype)
        return spike, v - spike * self.v_th if self.is_soft else v * (1 - spike)

    def forward(self, x: Tensor) -> Tensor:
        spike, self.u = self.step(x, self.u)
        return spike


class ByArgument(ByAttribute):
    """A neuron that is given its potential and returns the next."""

    def forward(self, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.step(x, u)


class OverAllSteps(ByAttribute):
    """A neuron that is given (T, B, ...) and runs over all steps."""

    def forward(self, x: Tensor) -> Tensor:
        u, spikes = None, []
        for current in x:
            spike, u = self.step(current, u)
            spikes.append(spike)
        return torch.stack(spikes)


HAND = {"hand-attribute": ByAttribute, "hand-argument": ByArgument, "hand-all": OverAllSteps}


def own_neuron(node: dict[str, Any], steps: int) -> nn.Module:
    given = {"leak": node["leak"], "v_th": node["v_th"], "rule": node["rule"]}
    if "mask" not in node:
        return LIF(**given)
    made = DTSS(steps, **given)
    scores = torch.tensor([1.5 if t < node["mask"] else 0.25 for t in range(steps)] + [0.0])
    with torch.no_grad():
        made.tp.copy_(scores[:-1] - scores[1:])
    return made


def jelly_neuron(node: dict[str, Any], mode: str) -> nn.Module:
    neurons = framework("spikingjelly.activation_based.neuron")
    given = {"v_threshold": node["v_th"], "v_reset": 0.0 if node["reset"] == "hard" else None, "step_mode": mode}
    made: nn.Module
    if node["leak"] == 1:
        made = neurons.IFNode(**given)
    else:
        made = neurons.LIFNode(tau=1 / (1 - node["leak"]), decay_input=node["decay_input"], **given)
    return made


def leaky(node: dict[str, Any], hidden: bool) -> nn.Module:
    made: nn.Module = framework("snntorch").Leaky(
        beta=node["leak"], threshold=node["v_th"], init_hidden=hidden,
        reset_mechanism="subtract" if node["reset"] == "soft" else "zero",
    )  # fmt: skip
    return made


def neuron(node: dict[str, Any], family: str, steps: int) -> nn.Module:
    if family == "own":
        return own_neuron(node, steps)
    if family.startswith("sj"):
        return jelly_neuron(node, family[-1])
    if family.startswith("snn"):
        return leaky(node, family.endswith("hidden"))
    return HAND[family](node)


# --- layers and operations ----------------------------------------------------------------------------------------


def split(x: Tensor, heads: int) -> Tensor:
    """(..., N, C) -> (..., h, N, C / h)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def joined(x: Tensor) -> Tensor:
    """(..., h, N, d) -> (..., N, h * d)."""
    return x.transpose(-2, -3).flatten(-2)


def product(left: Tensor, right: Tensor, via: str) -> Tensor:
    if via == "einsum":
        axes = "abcdefg"[: left.dim() - 2]
        return torch.einsum(f"{axes}mk,{axes}kn->{axes}mn", left, right)
    if via == "bmm":
        front = left.shape[:-2]
        out = torch.bmm(left.flatten(0, -3), right.flatten(0, -3))
        return out.unflatten(0, front)
    return left @ right


class Operation(nn.Module):
    """An operation without weights."""

    def __init__(self, node: dict[str, Any]) -> None:
        super().__init__()
        self.run = functools.partial(operate, node)  # no state of the module's

    def forward(self, *x: Tensor) -> Tensor:
        return self.run(x)


def operate(node: dict[str, Any], x: tuple[Tensor, ...]) -> Tensor:
    """The result of an operation without weights on (..., *shape)."""
    op = node["op"]
    rank = len(node["out"])
    if op == "add":
        return x[0] + x[1]
    if op == "cat":
        return torch.cat(x, node["axis"] - rank)
    if op == "relu":
        return x[0].relu()
    if op == "scale":
        return x[0] * node["factor"]
    if op == "softmax":
        return x[0].softmax(-1)
    if op == "sigmoid":
        return x[0].sigmoid()
    if op == "sdpa":
        q, k, v = (split(one, node["heads"]) for one in x)
        return joined(nn.functional.scaled_dot_product_attention(q, k, v))
    if op == "token_mean":
        return x[0].mean(-2)
    if op == "qk":
        return product(split(x[0], node["heads"]), split(x[1], node["heads"]).transpose(-1, -2), node["via"])
    if op == "av":
        return joined(product(x[0], split(x[1], node["heads"]), node["via"]))
    if op == "kv":
        return product(split(x[0], node["heads"]).transpose(-1, -2), split(x[1], node["heads"]), node["via"])
    assert op == "qs", op
    return joined(product(split(x[0], node["heads"]), x[1], node["via"]))


class Token(nn.Module):
    """Puts a learned token in front of the others."""

    def __init__(self, node: dict[str, Any], kind: str) -> None:
        super().__init__()
        self.token = nn.Parameter(draw([1, node["out"][-1]], node["seed"], kind))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(*x.shape[:-2], 1, x.shape[-1]), x], -2)


def draw(shape: Any, seed: int, kind: str) -> Tensor:
    """Weights: multiples of 1/4 or 1/64 in [-1, 1], leaning to the positive side so that neurons fire."""
    rng, parts = random.Random(seed), 4 if kind == "few bits" else 64
    count = int(torch.Size(shape).numel())
    values = [rng.randint(-parts * 3 // 4, parts) / parts for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


SIMPLE: dict[str, Any] = {
    "flatten": lambda node, kind: nn.Flatten(),
    "dropout": lambda node, kind: nn.Dropout(0.5),
    "token": Token,
}


def layer(node: dict[str, Any], shape: list[int], kind: str) -> nn.Module:
    """shape: of the first input of the node."""
    op, rank, made = node["op"], len(node["out"]), None
    if op == "linear":
        made = nn.Linear(shape[-1], node["out"][-1], bias=node["bias"])
    elif op == "conv":
        padding = node["padding"] if isinstance(node["padding"], str) else tuple(node["padding"])
        made = CONVS[rank - 1](
            shape[0], node["out"][0], tuple(node["kernel"]), node["stride"], padding, node["dilation"],
            node["groups"], bias=node["bias"],
        )  # fmt: skip
    elif op == "convt":
        made = TRANSPOSED[rank - 1](
            shape[0], node["out"][0], tuple(node["kernel"]), node["stride"], tuple(node["padding"]), node["extra"],
            groups=node["groups"], bias=node["bias"],
        )  # fmt: skip
    elif op == "bn":
        made = batch_norm(node, shape[0])
    elif op == "ln":
        made = nn.LayerNorm(node["out"][-1], bias=node["bias"])
    elif op == "gn":
        made = nn.GroupNorm(2, node["out"][0])
    elif op in ("maxpool", "avgpool"):
        return (MAX_POOLS if op == "maxpool" else AVERAGE_POOLS)[rank](node["kernel"])
    elif op in SIMPLE:
        return SIMPLE[op](node, kind)
    else:
        return Operation(node)
    with torch.no_grad():
        if op != "bn":
            made.weight.copy_(draw(made.weight.shape, node["seed"], kind))
            if op in ("ln", "gn"):
                made.weight.add_(1.25)
            if made.bias is not None:
                made.bias.copy_(draw(made.bias.shape, node["seed"] + 1, kind))
    return made


def batch_norm(node: dict[str, Any], channels: int) -> nn.Module:
    """Needs no rounding: the variance is 4 with eps, the other numbers have few bits."""
    made = NORMS[len(node["out"])](channels, eps=0.5)
    with torch.no_grad():
        made.weight.copy_(draw([channels], node["seed"], "few bits") + 1.25)
        made.bias.copy_(draw([channels], node["seed"] + 1, "few bits"))
        made.running_mean.copy_(draw([channels], node["seed"] + 2, "few bits"))
        made.running_var.fill_(3.5)
    return made


def of_spikingjelly(made: nn.Module) -> nn.Module:
    """The same layer as SpikingJelly's class, over all steps at once."""
    kind = getattr(framework("spikingjelly.activation_based.layer"), type(made).__name__, None)
    if kind is None:
        return made
    made.__class__ = kind
    made.step_mode = "m"  # type: ignore[assignment]
    return made
