"""A described network as a module, the data it is run on, and what its layers were seen to read."""

from __future__ import annotations

import random
from typing import Any

import layers
import torch
from describe import REPEATING, WHOLE, Description
from torch import Tensor, nn

PER_SAMPLE_OPS = ("conv", "convt", "bn", "gn", "maxpool", "avgpool", "flatten")


class Plan:
    """What a network is built from: no state of it, and so not for the profiler to look into.

    seen: if a list, every run of the nodes appends the values of all nodes, as they were.
    """

    __slots__ = ("made", "seen")

    def __init__(self, made: Description) -> None:
        self.made = made
        self.seen: list[dict[int, Tensor]] | None = None


class Network(nn.Module):
    """Runs the nodes of a description in one of the styles of its family."""

    def __init__(self, made: Description) -> None:
        super().__init__()
        self.plan = Plan(made)
        self.style, self.family, self.steps = made["style"], made["family"], made["time_steps"]
        for i, node in enumerate(made["nodes"]):
            if node["op"] != "again":
                self.add_module(f"n{i}", self._module(node))
        if "head" in made:
            width = (made["nodes"][-1]["out"] if made["nodes"] else made["shape"])[-1]
            head = {"op": "linear", **made["head"], "out": [made["head"]["out"]]}
            self.head = layers.layer(head, [width], made["weights"])
        self.to(getattr(torch, made["dtype"]))
        if made["channels_last"] and len(made["shape"]) == 3:
            self.to(memory_format=torch.channels_last)

    def _module(self, node: dict[str, Any]) -> nn.Module:
        if node["op"] == "lif":
            return layers.neuron(node, self.family, self.steps)
        source = node["in"][0]
        shape = self.plan.made["shape"] if source < 0 else self.plan.made["nodes"][source]["out"]
        made = layers.layer(node, shape, self.plan.made["weights"])
        if self.family == "sj-m" and node["op"] in PER_SAMPLE_OPS and node["seed"] % 2 and node["op"] != "convt":
            return layers.of_spikingjelly(made)
        return made

    def forward(self, x: Tensor) -> Any:
        if self.style in WHOLE:
            return self._whole(x)
        if self.style.startswith("loop"):
            return self._looped(x)
        return self._nodes(x)[len(self.plan.made["nodes"]) - 1]

    # --- all steps in one go

    def _whole(self, x: Tensor) -> Tensor:
        style = self.style
        if style == "inside":
            x = x.unsqueeze(0).repeat(self.steps, *[1] * x.dim())
        if style == "axis1":
            x = x.transpose(0, 1)
        if style.startswith("flat") or style == "repeat-flat":
            x = self._unflat(x)
        values = self._nodes(x)
        return self._read_out(values[len(self.plan.made["nodes"]) - 1])

    def _unflat(self, x: Tensor) -> Tensor:
        if self.style == "flat-batch":
            return x.unflatten(0, (-1, self.steps)).transpose(0, 1)
        return x.unflatten(0, (self.steps, -1))

    def _read_out(self, out: Any) -> Tensor:
        if self.plan.made["readout"] == "mean":
            out = out.mean(0)
        if self.plan.made["readout"] == "sum":
            out = out.sum(0)
        if self.plan.made["readout"] == "last":
            out = out[-1]
        return self.head(out) if "head" in self.plan.made else out

    # --- step by step

    def _looped(self, x: Tensor) -> Any:
        self.reset()
        states: dict[int, Any] = {}
        outs = []
        for t in range(self.steps):
            now = x if self.style == "loop" else x[t] if self.style == "loop-axis0" else x[:, t]
            outs.append(self._nodes(now, states)[len(self.plan.made["nodes"]) - 1])
        return self._read_out(outs if self.plan.made["readout"] == "last" else torch.stack(outs))

    def reset(self) -> None:
        """Neurons at rest."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_mem"):
                module.reset_mem()
            elif module is not self and callable(getattr(module, "reset", None)):
                module.reset()  # type: ignore[operator]

    # --- the nodes

    def _nodes(self, x: Tensor, states: dict[int, Any] | None = None) -> dict[int, Tensor]:
        values = {-1: x}
        for i, node in enumerate(self.plan.made["nodes"]):
            module, inputs = getattr(self, f"n{node.get('of', i)}"), [values[j] for j in node["in"]]
            op = self.plan.made["nodes"][node.get("of", i)]["op"]
            if self.style in WHOLE and op in PER_SAMPLE_OPS and not is_multi_step(module):
                front = x.shape[:2]
                values[i] = module(inputs[0].flatten(0, 1)).unflatten(0, front)
            elif op == "lif" and self.family in ("snn-explicit", "hand-argument"):
                values[i] = self._explicit(i, module, inputs[0], {} if states is None else states)
            else:
                values[i] = module(*inputs)
        if self.plan.seen is not None:
            self.plan.seen.append({i: value.detach().clone() for i, value in values.items()})
        return values

    def _explicit(self, i: int, module: nn.Module, x: Tensor, states: dict[int, Any]) -> Tensor:
        if i not in states:
            states[i] = None if self.family == "hand-argument" else module.reset_mem()  # type: ignore[operator]
        out, states[i] = module(x, states[i])
        return out


def is_multi_step(module: nn.Module) -> bool:
    """True for SpikingJelly's own layers, which take (T, B, ...)."""
    return getattr(module, "step_mode", "s") == "m"


# --- data ---------------------------------------------------------------------------------------------------------


def data(made: Description) -> list[Tensor]:
    """One tensor per batch in canonical form: (T, B, ...), or (B, ...) where the samples are shown T times; float64."""
    rng, found = random.Random(f"data {made['seed']}"), []
    draw = {
        "real": lambda: rng.randint(-16, 48) / 16,
        "sparse": lambda: rng.choice((0, 0, rng.randint(1, 32) / 16)),
        "grey": lambda: float(rng.choice((0, rng.randint(0, 16)))),
        "binary": lambda: float(rng.random() < 0.4),
        "ternary": lambda: float(rng.choice((-1, 0, 0, 1, 1))),
    }[made["input"]]
    for batch in made["batches"]:
        shape = [batch, *made["shape"]] if shows_again(made) else [made["time_steps"], batch, *made["shape"]]
        values = [draw() for _ in range(torch.Size(shape).numel())]
        found.append(torch.tensor(values, dtype=torch.float64).reshape(shape))
    return found


def shows_again(made: Description) -> bool:
    """True if the loader gives samples without time."""
    return made["style"] in REPEATING or made["style"] == "plain"


def as_given(made: Description, x: Tensor) -> Tensor:
    """A batch as the loader of the style gives it."""
    style, x = made["style"], x.to(getattr(torch, made["dtype"]))
    if style in ("axis1", "loop-axis1"):
        x = x.transpose(0, 1).contiguous()
    if style == "flat":
        x = x.flatten(0, 1)
    if style == "flat-batch":
        x = x.transpose(0, 1).flatten(0, 1)
    if made["channels_last"] and x.dim() == 4 and len(made["shape"]) == 3:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


def time_mode(made: Description) -> str | None:
    """What ``profile`` is told about time."""
    style = made["style"]
    if style == "plain":
        return None
    if style.startswith("loop-"):
        return style.removeprefix("loop-")
    return style


def observe(made: Description, network: Network, x: Tensor) -> list[Tensor]:
    """The values of all nodes, the input in front, as (T, B, ...) in the network's dtype, by a plain run."""
    network.eval()
    network.reset()
    network.plan.seen = []
    given, steps, style = as_given(made, x), made["time_steps"], made["style"]
    with torch.no_grad():
        if style == "call":
            outs = [network(given) for _ in range(steps)]
        elif style == "call-axis0":
            outs = [network(step) for step in given]
        elif style == "repeat-axis0":
            outs = [network(given.unsqueeze(0).repeat(steps, *[1] * given.dim()))]
        elif style == "repeat-flat":
            outs = [network(given.repeat(steps, *[1] * (given.dim() - 1)))]
        else:
            outs = [network(given)]
    seen, network.plan.seen = network.plan.seen, None
    network.reset()
    assert all(out is not None for out in outs)
    numbers = range(-1, len(made["nodes"]))
    if style in WHOLE:
        return [seen[0][i] for i in numbers]
    return [torch.stack([values[i] for values in seen]) for i in numbers]
