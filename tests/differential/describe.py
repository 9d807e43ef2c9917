"""Descriptions of random networks: plain data, from a seed, valid by construction.

A description is a dictionary that JSON can hold. ``nodes`` is a list of operations in the order in which they run; each
reads earlier ones by number, -1 being the input. Shapes are those of one sample at one step. A node has a seed of
its own, from which its weights are drawn, so that a smaller description keeps the weights of what is left.
"""

from __future__ import annotations

import math
import random
from typing import Any

Description = dict[str, Any]
Node = dict[str, Any]

FAMILIES = ("own", "sj-m", "sj-s", "snn-hidden", "snn-explicit", "hand-attribute", "hand-argument", "hand-all", "plain")
# How each family may be run: in front of a dash how the network is called, behind it what it is given.
STYLES = {
    "own": ("axis0", "axis1", "flat", "flat-batch", "inside", "repeat-axis0", "repeat-flat"),
    "sj-m": ("axis0", "inside", "repeat-axis0", "axis1"),
    "sj-s": ("call", "call-axis0", "loop", "loop-axis0", "loop-axis1"),
    "snn-hidden": ("call", "call-axis0", "loop", "loop-axis0"),
    "snn-explicit": ("loop", "loop-axis0", "loop-axis1"),
    "hand-attribute": ("call", "call-axis0", "loop", "loop-axis0"),
    "hand-argument": ("loop", "loop-axis0"),
    "hand-all": ("axis0", "inside", "flat"),
    "plain": ("plain",),
}
REPEATING = ("inside", "repeat-axis0", "repeat-flat", "call", "loop")
WHOLE = ("axis0", "axis1", "flat", "flat-batch", "inside", "repeat-axis0", "repeat-flat")
INPUTS = ("real", "real", "real", "grey", "binary", "ternary", "sparse")


def describe(seed: int) -> Description:
    """The description of a network."""
    rng = random.Random(f"network {seed}")
    family = FAMILIES[seed % len(FAMILIES)]
    style = rng.choice(STYLES[family])
    made = {
        "seed": seed,
        "family": family,
        "style": style,
        "time_steps": 1 if family == "plain" else rng.choice((1, 2, 3, 3, 4)),
        "batches": rng.choice(([3, 3, 1], [2], [1, 1], [4, 2], [5], [3, 2])),
        "dtype": rng.choice(("float32", "float32", "float32", "float64", "bfloat16")),
        "channels_last": rng.random() < 0.3,
        "weights": rng.choice(("few bits", "few bits", "many bits")),
        "input": rng.choice(INPUTS),
        "max_k": rng.choice((4, 12, 12)),
        "no_grad": rng.choice(("no_grad", "inference_mode", "none")),
        "name_neurons": family.startswith("hand") and rng.random() < 0.7,
        "tells_time": rng.random() < 0.8,
        "nodes": [],
    }
    if style in ("axis0", "flat", "axis1", "flat-batch") or style.endswith(("axis0", "axis1")):
        made["input"] = rng.choice((*INPUTS, "binary", "binary"))
    if style == "call-axis0" and made["time_steps"] == 1:
        made["tells_time"] = True  # else it is called with the time axis, and raises what it raises
    if style.startswith("repeat") and made["time_steps"] == 1:
        made["tells_time"] = True  # else it is called without the time axis that it wants
    if family.startswith("snn"):
        made["dtype"] = "float32"  # its spikes are float32, whatever its input is
    _Growing(made, rng).grow()
    if made["time_steps"] == 1 and not any(node["op"] == "lif" for node in made["nodes"]):
        made["tells_time"] = True  # without a state, nothing tells a step of several samples from a sample
    return made


class _Growing:
    """Adds nodes to a description."""

    def __init__(self, made: Description, rng: random.Random) -> None:
        self.made, self.rng, self.nodes = made, rng, made["nodes"]
        self.spiking = made["family"] != "plain"
        domain = rng.choice(("vector", "vector", "tokens", "signal", "image", "image", "image", "volume"))
        if made["dtype"] == "bfloat16" and domain == "volume":
            domain = "image"  # no average pool of bfloat16 volumes on CPUs
        r = rng.randint
        self.shape: list[int] = {
            "vector": [r(2, 7)],
            "tokens": [r(2, 4), r(1, 3) * 2],
            "signal": [r(1, 2) * 2, r(5, 8)],
            "image": [r(1, 2) * 2, r(4, 7), r(4, 7)],
            "volume": [2, r(3, 4), r(3, 4), r(3, 5)],
        }[domain]
        self.domain = made["domain"] = domain
        made["shape"] = list(self.shape)
        self.shapes: list[list[int]] = []
        self.last = -1

    def add(self, op: str, inputs: list[int], shape: list[int], **more: Any) -> int:
        self.nodes.append({"op": op, "in": inputs, "seed": self.rng.randrange(10**6), "out": list(shape), **more})
        self.shapes.append(list(shape))
        self.shape = list(shape)
        self.last = len(self.nodes) - 1
        return self.last

    def grow(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((1, 2, 2, 3))):
            self.block()
        if self.domain != "vector" and rng.random() < 0.7:
            if self.domain == "tokens" and rng.random() < 0.5:
                self.add("token_mean", [self.last], self.shape[1:])
            else:
                self.add("flatten", [self.last], [math.prod(self.shape)])
            self.domain = "vector"
        has_head = self.domain in ("vector", "tokens")
        if has_head and rng.random() < 0.6:
            self.linear(rng.randint(2, 4))
        self.made["readout"] = "steps"
        if self.made["style"].startswith("call") or not self.spiking:
            return
        self.made["readout"] = rng.choice(("steps", "mean", "mean", "sum", "last"))
        if self.made["readout"] != "steps" and has_head and rng.random() < 0.5:
            self.made["head"] = {"out": rng.randint(2, 4), "bias": rng.random() < 0.5, "seed": rng.randrange(10**6)}

    # --- blocks

    def block(self) -> None:
        rng = self.rng
        before = self.last
        if self.domain == "tokens" and rng.random() < 0.5:
            self.attention()
        elif rng.random() < 0.12:
            self.add("ln", [self.last], self.shape, bias=rng.random() < 0.7)
        else:
            self.weights()
            if rng.random() < 0.15 and self.domain in ("vector", "tokens"):
                self.linear(self.shape[-1])
            if rng.random() < 0.15:
                self.again()
        if rng.random() < 0.1:
            self.add("scale", [self.last], self.shape, factor=rng.choice((0.125, 0.5, 2.0)))
        self.nonlinearity()
        self.pool()
        self.join(before)

    def nonlinearity(self) -> None:
        rng = self.rng
        if self.spiking and rng.random() < 0.85:
            self.neuron()
        elif rng.random() < 0.7:
            self.add(rng.choice(("relu", "relu", "sigmoid", "dropout")), [self.last], self.shape)

    def neuron(self, source: int | None = None) -> int:
        rng, family, steps = self.rng, self.made["family"], self.made["time_steps"]
        more: dict[str, Any] = {"leak": rng.choice((0.5, 0.5, 1.0, 0.75)), "v_th": rng.choice((1.0, 1.0, 1.0, 0.5))}
        more["reset"] = rng.choice(("soft", "hard"))
        if family == "own":
            more["rule"] = rng.choice(("paper", "paper", "spikformer"))
            if rng.random() < 0.5:
                more["mask"] = rng.choice((rng.randint(0, steps), rng.randint(1, steps)))
        if family.startswith("sj"):
            more["decay_input"] = rng.random() < 0.5
            more["leak"] = rng.choice((0.5, 0.5, 0.75, 1.0))
        if family.startswith("hand"):
            more["strict"] = rng.random() < 0.5
        source = self.last if source is None else source
        shape = self.shapes[source] if source >= 0 else self.made["shape"]
        return self.add("lif", [source], shape, **more)

    def weights(self) -> None:
        rng = self.rng
        if self.domain in ("vector", "tokens"):
            self.linear(rng.randint(1, 3) * 2)
        elif rng.random() < 0.15:
            self.transposed()
        else:
            self.convolution()
        if rng.random() < 0.35 and self.domain != "tokens":
            if rng.random() < 0.15:
                self.add("maxpool", [self.last], self.pooled(2), kernel=2) if self.can_pool() else None
            self.add("bn", [self.last], self.shape)

    def again(self) -> None:
        """One of the layers is called a second time, on something of the same shape."""
        shapes = [self.made["shape"], *self.shapes]
        fits = [
            (i, source - 1)
            for i, node in enumerate(self.nodes)
            if node["op"] in ("linear", "conv")
            for source, shape in enumerate(shapes)
            if shape == shapes[node["in"][0] + 1] and source - 1 != node["in"][0]
        ]
        if fits and not any(node["op"] == "again" for node in self.nodes):
            layer, source = self.rng.choice(fits)
            self.add("again", [source], self.shapes[layer], of=layer)
            self.domain_of_shape()

    def domain_of_shape(self) -> None:
        kinds = {1: "vector", 2: "tokens" if self.made["domain"] == "tokens" else "signal", 3: "image", 4: "volume"}
        self.domain = kinds[len(self.shape)]

    def linear(self, width: int, source: int | None = None) -> int:
        source = self.last if source is None else source
        shape = self.shapes[source] if source >= 0 else self.made["shape"]
        return self.add("linear", [source], [*shape[:-1], width], bias=self.rng.random() < 0.5)

    def convolution(self) -> None:
        rng, (channels, *space) = self.rng, self.shape
        out = rng.randint(1, 3) * 2
        groups = rng.choice([g for g in (1, 1, 1, 2, channels) if channels % g == 0 and out % g == 0])
        stride = rng.choice((1, 1, 1, 2))
        dilation = rng.choice((1, 1, 1, 2))
        kernel = [rng.choice((1, 2, 3)) for _ in space] if rng.random() < 0.4 else [rng.choice((1, 3, 3))] * len(space)
        padding: Any = "same" if stride == 1 and rng.random() < 0.1 else [rng.choice((0, 1, 1, 2)) for _ in space]
        if padding == "same":
            sizes = list(space)
        else:
            sizes = [
                (n + 2 * p - dilation * (k - 1) - 1) // stride + 1
                for n, p, k in zip(space, padding, kernel, strict=True)
            ]
        if min(sizes) < 1:
            return self.convolution()
        self.add(
            "conv", [self.last], [out, *sizes], kernel=kernel, stride=stride, padding=padding, dilation=dilation,
            groups=groups, bias=rng.random() < 0.4,
        )  # fmt: skip
        return None

    def transposed(self) -> None:
        rng, (channels, *space) = self.rng, self.shape
        groups = rng.choice([g for g in (1, 1, 2) if channels % g == 0])
        stride, kernel, padding = rng.choice((1, 2)), rng.choice((2, 3)), rng.choice((0, 0, 1))
        extra = rng.choice((0, 0, 1)) if stride == 2 else 0
        sizes = [(n - 1) * stride - 2 * padding + kernel - 1 + extra + 1 for n in space]
        if min(sizes) < 1 or max(sizes) > 12:
            return self.convolution()
        self.add(
            "convt", [self.last], [2, *sizes], kernel=[kernel] * len(space), stride=stride, dilation=1,
            padding=[padding] * len(space), extra=extra, groups=groups, bias=rng.random() < 0.4,
        )  # fmt: skip
        return None

    def can_pool(self) -> bool:
        return self.domain in ("signal", "image", "volume") and min(self.shape[1:]) >= 2

    def pooled(self, kernel: int) -> list[int]:
        return [self.shape[0], *[n // kernel for n in self.shape[1:]]]

    def pool(self) -> None:
        if self.can_pool() and self.rng.random() < 0.3:
            self.add(self.rng.choice(("maxpool", "avgpool")), [self.last], self.pooled(2), kernel=2)
        elif self.can_pool() and self.rng.random() < 0.08:
            self.add("gn", [self.last], self.shape, bias=True)
        elif self.domain == "tokens" and self.rng.random() < 0.15:
            self.add("token", [self.last], [self.shape[0] + 1, self.shape[1]])

    def join(self, before: int) -> None:
        """A residual sum or a concatenation with something earlier of the same shape."""
        rng = self.rng
        same = [i for i, shape in enumerate(self.shapes[:-1]) if shape == self.shape]
        if self.made["shape"] == self.shape and rng.random() < 0.3:
            same.append(-1)
        if same and rng.random() < 0.6:
            other = rng.choice(same)
            if rng.random() < 0.75:
                self.add("add", rng.choice(([other, self.last], [self.last, other])), self.shape)
            else:
                axis = rng.randrange(len(self.shape)) if self.domain != "vector" else 0
                shape = list(self.shape)
                shape[axis] *= 2
                self.add("cat", [other, self.last], shape, axis=axis)

    def attention(self) -> None:
        rng = self.rng
        source, (tokens, width) = self.last, self.shape
        heads = rng.choice((1, 2)) if width % 2 == 0 else 1
        parts = []
        for _ in range(3):
            self.linear(width, source)
            if self.spiking and rng.random() < 0.9:
                self.neuron()
            parts.append(self.last)
        q, k, v = parts
        via = rng.choice(("matmul", "matmul", "einsum", "bmm"))
        if rng.random() < 0.15:
            self.add("sdpa", [q, k, v], [tokens, width], heads=heads)
            return
        scale, wide = 2.0 ** -rng.randint(1, 3), [heads, width // heads, width // heads]
        order = rng.choice(("softmax", "scores", "scores", "state"))
        if not self.spiking and sum(node["op"] == "qk" for node in self.nodes):
            order = "softmax"  # products of products of products would overflow
        if order == "state":
            inner = self.add("kv", [k, v], wide, heads=heads, via=via)
            if rng.random() < 0.4:
                inner = self.add("scale", [inner], wide, factor=scale)
            self.add("qs", [q, inner], [tokens, width], heads=heads, via=via)
            return
        square = [heads, tokens, tokens]
        inner = self.add("qk", [q, k], square, heads=heads, via=via)
        if rng.random() < 0.7:
            inner = self.add("scale", [inner], square, factor=scale)
        if order == "softmax":
            inner = self.add("softmax", [inner], square)
        self.add("av", [inner, v], [tokens, width], heads=heads, via=via)
