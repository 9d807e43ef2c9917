"""What a described network computes, from the equations alone: float64, step by step, no module of it used."""

from __future__ import annotations

import math
from typing import Any

import layers
import torch
from describe import Description, Node
from torch import Tensor
from torch.nn import functional

CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


ROUNDED = (
    "ln",
    "gn",
    "softmax",
    "sigmoid",
    "sdpa",
    "token_mean",
)  # the other operations are exact on numbers of few bits


def evaluate(made: Description, x: Tensor) -> tuple[list[Tensor], float]:
    """(T, B, ...) of all nodes, the input in front, and how close any potential came to its threshold.

    x: (T, B, ...), or (B, ...) that is shown T times.
    """
    steps = made["time_steps"]
    if x.dim() == 1 + len(made["shape"]):
        x = torch.stack([x] * steps)
    values, margin = {-1: x}, math.inf
    is_exact = not any(node["op"] in ROUNDED for node in made["nodes"])
    for i, node in enumerate(made["nodes"]):
        given = [values[j] for j in node["in"]]
        if node["op"] == "lif":
            values[i], nearest = fire(made["family"], node, given[0], is_exact)
            margin = min(margin, nearest)
        else:
            values[i] = torch.stack([one_step(made, node, [value[t] for value in given]) for t in range(steps)])
    return [values[i] for i in range(-1, len(made["nodes"]))], margin


def fire(family: str, node: Node, current: Tensor, is_exact: bool) -> tuple[Tensor, float]:
    """Spikes (T, B, ...) and the smallest distance of a potential to the threshold, zero too where not exact."""
    leak, v_th, u = node["leak"], node["v_th"], torch.zeros_like(current[0])
    soft, spikes, margin = node["reset"] == "soft", [], math.inf
    for t, x in enumerate(current):
        amplitude, inclusive = 1.0, False
        if family == "own" and t >= node.get("mask", len(current)):
            spikes.append(torch.zeros_like(x))
            continue
        if family == "own" and node["rule"] == "paper":
            u, amplitude, soft = leak * u + x, v_th, True
        elif family == "own":
            u, inclusive, soft = u + (x - u) * (1 - leak), True, False
        elif family.startswith("sj"):
            decays = node["decay_input"] and leak != 1
            u, inclusive = (leak * u + (1 - leak) * x if decays else leak * u + x), True
        elif family.startswith("snn"):
            fired = (u > v_th).double()
            u = leak * u + x - fired * v_th if soft else leak * (u * (1 - fired)) + x
        else:
            u, inclusive = leak * u + x, not node["strict"]
        distance = (u - v_th).abs()
        distance = distance[distance > 0] if is_exact else distance.flatten()
        if distance.numel():
            margin = min(margin, float(distance.min()))
        spike = (u >= v_th) if inclusive else (u > v_th)
        spikes.append(spike.double() * amplitude)
        if not family.startswith("snn"):  # there the reset comes with the next step
            u = u - spike.double() * v_th if soft else torch.where(spike, 0.0, u)
    return torch.stack(spikes), margin


def one_step(made: Description, node: Node, x: list[Tensor]) -> Tensor:
    """(B, ...) of one operation at one step."""
    if node["op"] == "again":
        node = made["nodes"][node["of"]]
    op, out, first = node["op"], node["out"], x[0]
    if op in ("linear", "conv", "convt"):
        return weighted(made, node, first)
    if op == "bn":
        gain, bias, mean = (layers.draw(first.shape[1:2], node["seed"] + i, "few bits") for i in range(3))
        shape = (1, -1, *[1] * (first.dim() - 2))
        return (first - mean.view(shape)) / 2 * (gain + 1.25).view(shape) + bias.view(shape)
    if op == "ln":
        centred = first - first.mean(-1, keepdim=True)
        gain = layers.draw(out[-1:], node["seed"], made["weights"]) + 1.25
        bias = layers.draw(out[-1:], node["seed"] + 1, made["weights"]) if node["bias"] else 0.0
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + bias
    if op == "gn":
        parts = first.unflatten(1, (2, -1)).flatten(2)
        scaled = (parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        gain, bias = (layers.draw(out[:1], node["seed"] + i, made["weights"]) for i in range(2))
        shape = (1, -1, *[1] * (first.dim() - 2))
        return scaled.reshape(first.shape) * (gain + 1.25).view(shape) + bias.view(shape)
    if op == "token":
        token = layers.draw([1, 1, out[-1]], node["seed"], made["weights"])
        return torch.cat([token.expand(len(first), 1, -1), first], 1)
    if op == "sdpa":
        q, k, v = (heads_of(one, node["heads"]) for one in x)
        scores = softmax(torch.einsum("bhmd,bhnd->bhmn", q, k) / q.shape[-1] ** 0.5)
        joined = torch.einsum("bhmn,bhnd->bmhd", scores, v)
        return joined.reshape(first.shape)
    if op in ("maxpool", "avgpool"):
        return pooled(first, node["kernel"], op == "maxpool")
    if op in PLAIN:
        return PLAIN[op](node, x)
    return products(node, x)


def softmax(x: Tensor) -> Tensor:
    """Along the last axis."""
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


PLAIN: dict[str, Any] = {
    "add": lambda node, x: x[0] + x[1],
    "cat": lambda node, x: torch.cat(x, 1 + node["axis"]),
    "relu": lambda node, x: torch.where(x[0] > 0, x[0], 0.0),
    "scale": lambda node, x: x[0] * node["factor"],
    "softmax": lambda node, x: softmax(x[0]),
    "token_mean": lambda node, x: x[0].sum(1) / x[0].shape[1],
    "sigmoid": lambda node, x: 1 / (1 + (-x[0]).exp()),
    "dropout": lambda node, x: x[0],
    "flatten": lambda node, x: x[0].reshape(len(x[0]), -1),
}  # fmt: skip


def weights_of(made: Description, node: Node, width: int) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of a layer that reads ``width`` channels."""
    out, kind = node["out"][0 if node["op"] != "linear" else -1], made["weights"]
    if node["op"] == "linear":
        shape = [out, width]
    elif node["op"] == "conv":
        shape = [out, width // node["groups"], *node["kernel"]]
    else:
        shape = [width, out // node["groups"], *node["kernel"]]
    bias = layers.draw([out], node["seed"] + 1, kind) if node["bias"] else None
    return layers.draw(shape, node["seed"], kind), bias


def weighted(made: Description, node: Node, x: Tensor) -> Tensor:
    """The layer's output."""
    if node["op"] == "linear":
        weight, bias = weights_of(made, node, x.shape[-1])
        out = x @ weight.T
        return out if bias is None else out + bias
    weight, bias = weights_of(made, node, x.shape[1])
    return convolved(node, x, weight, bias)


def convolved(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution as the description has it, transposed or not; zeros are padded by hand."""
    rank = len(node["kernel"])
    if node["op"] == "convt":
        return TRANSPOSED[rank](
            x, weight, bias, node["stride"], node["padding"], node["extra"], node["groups"], node["dilation"]
        )
    if node["padding"] == "same":
        totals = [node["dilation"] * (k - 1) for k in node["kernel"]]
        pads = [(total // 2, total - total // 2) for total in totals]
    else:
        pads = [(p, p) for p in node["padding"]]
    padded = functional.pad(x, [p for pair in reversed(pads) for p in pair])
    return CONVS[rank](padded, weight, bias, node["stride"], 0, node["dilation"], node["groups"])


def pooled(x: Tensor, kernel: int, is_max: bool) -> Tensor:
    """(B, C, *space) in windows of ``kernel`` along every axis; what is left over at the end is dropped."""
    for axis in range(2, x.dim()):
        windows = x.narrow(axis, 0, x.shape[axis] // kernel * kernel).unflatten(axis, (-1, kernel))
        x = windows.amax(axis + 1) if is_max else windows.sum(axis + 1) / kernel
    return x


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, h, N, C / h)."""
    return x.reshape(*x.shape[:-1], heads, -1).permute(0, 2, 1, 3)


def operands(node: Node, x: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Left (B, h, m, k) and right (B, h, k, n) of a product."""
    op, heads = node["op"], node["heads"]
    left = x[0] if op == "av" else heads_of(x[0], heads)
    right = x[1] if op == "qs" else heads_of(x[1], heads)
    if op == "qk":
        right = right.permute(0, 1, 3, 2)
    if op == "kv":
        left = left.permute(0, 1, 3, 2)
    return left, right


def products(node: Node, x: list[Tensor]) -> Tensor:
    """(B, h, m, n), or (B, m, h * n) where the heads are joined again."""
    left, right = operands(node, x)
    out = torch.einsum("bhmk,bhkn->bhmn", left, right)
    return out if node["op"] in ("qk", "kv") else out.permute(0, 2, 1, 3).reshape(len(out), out.shape[2], -1)
