"""What a member of the zoo really does, by forward hooks and by brute force; nothing of the code under test is used.

Hooks take down what every layer with weights reads and gives and what every neuron gives; a function mode takes down
the operands of products outside of layers. The batches have 3 samples or 1 and the members 4 time steps, so that the
sizes of the first batch tell where time is.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import oracle
import torch
from members import NEURONS, Member, Size
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Conv = nn.modules.conv._ConvNd
WEIGHTED = (Conv, nn.Linear)
PRODUCTS = {
    torch.matmul: "matmul", Tensor.matmul: "matmul", Tensor.__matmul__: "matmul", torch.bmm: "matmul",
    Tensor.bmm: "matmul", torch.einsum: "einsum", functional.linear: "linear",
}  # fmt: skip
ONCE = -1  # time step of what is done once per inference


@dataclass(frozen=True)
class Call:
    """One use of a layer, product or neuron: tensors that are split along time together, and what counts them."""

    tensors: tuple[Tensor, ...]
    count: Callable[..., tuple[int, int]]  # of the tensors of one time step: SOPs and dense MACs, or spikes, neurons


@dataclass
class Truth:
    """Per layer (products: the module that they are in; neurons) and time step, over all samples.

    work: SOPs and dense MACs. fired: spikes. neurons: per sample.
    """

    work: dict[str, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    fired: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    neurons: dict[str, int] = field(default_factory=dict)


def layer_work(layer: nn.Module, x: Tensor, out: Tensor) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return int((x != 0).sum()) * out.shape[-1], out.numel() * x.shape[-1]
    sops = int(oracle.conv_meetings(oracle.indicator(x), layer).sum())
    return sops, len(x) * oracle.conv_dense_macs(tuple(x.shape[2:]), tuple(out.shape[2:]), layer)


def product_work(operation: Callable[..., Tensor], left: Tensor, right: Tensor) -> tuple[int, int]:
    """Pairs that meet and are both non-zero; all pairs."""
    met = operation(oracle.indicator(left), oracle.indicator(right)).sum()
    all_pairs = operation(torch.ones_like(left, dtype=torch.float64), torch.ones_like(right, dtype=torch.float64))
    return int(met), int(all_pairs.sum())


def weight_product_work(operation: Callable[..., Tensor], weight: Tensor, x: Tensor) -> tuple[int, int]:
    """A product with a parameter: a non-zero input meets every weight, also one that is zero."""
    if isinstance(operation, functools.partial):  # einsum: an axis that was split off is put back, one long
        subscripts = operation.args[0].partition(",")[0]
        x = x.reshape(*[1] * (len(subscripts) - x.dim()), *x.shape)
    met = operation(oracle.indicator(x), torch.ones_like(weight, dtype=torch.float64)).sum()
    everything = operation(torch.ones_like(x, dtype=torch.float64), torch.ones_like(weight, dtype=torch.float64))
    return int(met), int(everything.sum())


def is_neuron(module: nn.Module) -> bool:
    return isinstance(module, tuple(NEURONS))


class Recorder(TorchFunctionMode):
    """Takes down the calls of one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.work: dict[str, list[Call]] = defaultdict(list)
        self.fired: dict[str, list[Call]] = defaultdict(list)
        self.inside: list[str] = [""]
        self.closed = 0  # depth of layers and neurons that are taken down as a whole
        self.handles: list[Any] = []
        for name, module in model.named_modules():
            self._watch(name, module)

    def _watch(self, name: str, module: nn.Module) -> None:
        whole = isinstance(module, WEIGHTED) or is_neuron(module)

        def enter(*_: Any) -> None:
            self.inside.append(name)
            self.closed += whole

        def leave(_: nn.Module, args: Any, out: Any) -> None:
            self.inside.pop()
            self.closed -= whole
            if isinstance(module, WEIGHTED):
                given = (args[0].detach().clone(), out.detach().clone())
                self.work[name].append(Call(given, functools.partial(layer_work, module)))
            elif whole:
                spikes = (out[0] if isinstance(out, (tuple, list)) else out).detach().clone()
                self.fired[name].append(Call((spikes,), lambda step: (int((step != 0).sum()), step.numel())))

        self.handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = PRODUCTS.get(func)
        if kind and not self.closed:
            self._product(kind, args)
        return func(*args, **(kwargs or {}))

    def _product(self, kind: str, args: Any) -> None:
        if kind == "einsum":
            equation, (left, right) = args[0], args[1] if isinstance(args[1], (tuple, list)) else args[1:]
            operation: Callable[..., Tensor] = functools.partial(torch.einsum, equation)
        else:
            left, right = args[:2]
            operation = torch.matmul if kind == "matmul" else functional.linear
        operands = left.detach().clone(), right.detach().clone()
        if isinstance(right, nn.Parameter) or kind == "linear":
            counted = functools.partial(weight_product_work, operation, operands[1])
            call = Call(operands[:1], counted)
        else:
            call = Call(operands, functools.partial(product_work, operation))
        self.work[self.inside[-1]].append(call)


@contextmanager
def recorded(model: nn.Module) -> Iterator[Recorder]:
    with torch.no_grad(), Recorder(model) as recorder:
        yield recorder
    for handle in recorder.handles:
        handle.remove()


Split = Callable[[Sequence[Call], int], dict[int, list[tuple[tuple[Tensor, ...], Call]]]]


def split_of(member: Member, calls: Sequence[Call], samples: int) -> Split:
    """How a layer's calls are dealt over the time steps, told by the sizes of its first tensors."""
    steps, shape = member.steps, calls[0].tensors[0].shape
    first = shape[0]
    if member.order == "last" and shape[-1] == steps and len(calls) == 1:
        return lambda calls, _: {
            t: [(tuple(x[..., t : t + 1] for x in c.tensors), c) for c in calls] for t in range(steps)
        }
    if shape[:2] == (samples, steps) and len(shape) > 2 and len(calls) % steps:
        return lambda calls, _: {t: [(tuple(x[:, t] for x in c.tensors), c) for c in calls] for t in range(steps)}
    if first == steps and shape[1] % samples == 0 and len(shape) > 2:
        return lambda calls, _: {t: [(tuple(x[t] for x in c.tensors), c) for c in calls] for t in range(steps)}
    if steps > 1 and first % (steps * samples) == 0:
        return functools.partial(flat, member.order, steps)
    if steps > 1 and len(calls) % steps == 0:
        return lambda calls, _: {
            t: [(c.tensors, c) for c in calls[t * len(calls) // steps : (t + 1) * len(calls) // steps]]
            for t in range(steps)
        }
    return lambda calls, _: {0 if steps == 1 else ONCE: [(c.tensors, c) for c in calls]}


def flat(
    order: str, steps: int, calls: Sequence[Call], samples: int
) -> dict[int, list[tuple[tuple[Tensor, ...], Call]]]:
    """Time and samples in one axis."""

    def at(x: Tensor, t: int) -> Tensor:
        rest = len(x) // (steps * samples)
        if order == "samples":
            return x.unflatten(0, (samples, steps, rest))[:, t].flatten(0, 1)
        return x.unflatten(0, (steps, -1))[t]

    return {t: [(tuple(at(x, t) for x in call.tensors), call) for call in calls] for t in range(steps)}


def truth(member: Member, model: nn.Module, size: Size, samples: Sequence[int] = (3, 1)) -> Truth:
    """What a model at rest does with each of the member's batches."""
    found, splits = Truth(), dict[tuple[str, str], Split]()
    for count, batch in zip(samples, member.batches(size, tuple(samples)), strict=True):
        with recorded(member.like(model, size)) as recorder:
            member.run(recorder.model, batch[0])
        for what, taken in (("work", recorder.work), ("fired", recorder.fired)):
            for name, calls in taken.items():
                split = splits.setdefault((what, name), split_of(member, calls, count))
                if what == "work" and name in member.mixes_time:
                    split = splits[what, name] = lambda calls, _: {ONCE: [(c.tensors, c) for c in calls]}
                for step, parts in split(calls, count).items():
                    first, second = map(sum, zip(*(call.count(*tensors) for tensors, call in parts), strict=True))
                    if what == "fired":
                        found.fired[name][step] = found.fired[name].get(step, 0) + first
                        found.neurons[name] = second // count
                    else:
                        sops, dense = found.work[name].get(step, (0, 0))
                        found.work[name][step] = (sops + first, dense + second)
    return found
