"""Other projects' counters, the networks that the tests and the benchmark give to them, and what is true of those.

Truth is counted apart from the profiler: what every convolution, linear layer and product of a plain forward reads is
taken down, and counted with the oracles of ``oracle.py``.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import oracle
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# --- networks ---------------------------------------------------------------------------------------------------


def firing(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in eval mode, its BatchNorms' statistics those of x and their bias random, so that every layer fires.

    x: what a forward takes.
    """
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.bias, 0.0, 0.5)
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@contextmanager
def without_torchvision() -> Iterator[None]:
    """SpikingJelly's model files import torchvision for one function that downloads weights, and for no other.

    A torchvision built for another device than torch is cannot be imported, so within this context there is another.
    """

    def load_state_dict_from_url(*_: Any, **__: Any) -> Any:
        raise OSError("nothing is downloaded here")

    names = ("torchvision", "torchvision.models", "torchvision.models.utils")
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].load_state_dict_from_url = load_state_dict_from_url  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def spikingjelly_vgg11(x: Tensor) -> nn.Module:
    """SpikingJelly's own VGG-11 with BatchNorm and IF neurons, multi-step, firing and at rest. x: (T, B, 3, H, W)."""
    with without_torchvision():
        from spikingjelly.activation_based import functional, neuron, surrogate
        from spikingjelly.activation_based.model import spiking_vgg
    torch.manual_seed(0)
    options = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(), "num_classes": 10}
    model = spiking_vgg.spiking_vgg11_bn(**options)
    functional.set_step_mode(model, "m")
    model = firing(model, x)
    functional.reset_net(model)
    return model


def spikingjelly_resnet18(x: Tensor, residual: str = "spiking") -> nn.Module:
    """SpikingJelly's own ResNet-18 with IF neurons, multi-step, firing and at rest. x: (T, B, 3, H, W).

    residual: "spiking" (sum, then a neuron: all spikes are 0 or 1) or "sew" (sums of spikes go on: whole numbers).
    """
    with without_torchvision():
        from spikingjelly.activation_based import functional, neuron, surrogate
        from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
    torch.manual_seed(0)
    options = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(), "num_classes": 10}
    if residual == "sew":
        model = sew_resnet.sew_resnet18(cnf="ADD", **options)
    else:
        model = spiking_resnet.spiking_resnet18(**options)
    functional.set_step_mode(model, "m")
    model = firing(model, x)
    functional.reset_net(model)
    return model


def snntorch_convnet(size: int = 28, steps_in: int = 1, output: bool = True) -> nn.Sequential:
    """snnTorch's example for MNIST: conv 5x5, pool, Leaky, conv 5x5, pool, Leaky, flatten, linear, Leaky.

    One time step a call, (B, 1, size, size); random weights of which the neurons fire. output: the last neuron gives
    its potential too.
    """
    import snntorch as snn

    torch.manual_seed(0)
    features = 64 * ((((size - 4) // 2) - 4) // 2) ** 2
    model = nn.Sequential(
        nn.Conv2d(steps_in, 12, 5),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.5, init_hidden=True),
        nn.Conv2d(12, 64, 5),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.5, init_hidden=True),
        nn.Flatten(),
        nn.Linear(features, 10),
        snn.Leaky(beta=0.5, init_hidden=True, output=output),
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.mul_(4)
    return model.eval()


# --- what is true of them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """What one weight layer or product of a plain forward did.

    layer: the module, None for a product. kind: of what it read, by ``oracle.kind_of`` ("real" where it read the
    image). meetings: non-zero inputs that met a weight, or pairs of a product both non-zero. dense: MACs, padding
    taps included. nonzeros, elements: of what it read.
    """

    layer: nn.Module | None
    kind: str
    meetings: int
    dense: int
    nonzeros: int
    elements: int


class _Products(TorchFunctionMode):
    """Takes down the operands of every product of matrices: layers of torch do not come this way."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        is_product = func in (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
        if is_product and min(args[0].dim(), args[1].dim()) > 1:  # not the mask of time steps, a vector
            self.pairs.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def pairs_of_products(run: Callable[[], object]) -> list[tuple[Tensor, Tensor]]:
    """The operands of every product of two activations in a run."""
    with torch.no_grad(), _Products() as products:
        run()
    return products.pairs


def what_is_read(model: nn.Module, run: Callable[[], object]) -> list[Read]:
    """Every convolution, linear layer and product of ``run``, which runs the model from rest."""
    found: list[Read] = []

    def hook(module: Any, args: Any, out: Tensor) -> None:
        x = args[0].detach()
        kind = oracle.kind_of(x).kind
        if isinstance(module, nn.Linear):
            meetings = int(torch.count_nonzero(x)) * module.out_features
            dense = x.numel() * module.out_features
        else:
            if getattr(module, "step_mode", "s") == "m":
                x, out = x.flatten(0, 1), out.flatten(0, 1)
            meetings = int(oracle.conv_meetings(oracle.indicator(x), module).sum())
            dense = len(x) * oracle.conv_dense_macs(x.shape[2:], out.shape[2:], module)
        found.append(Read(module, kind, meetings, dense, int(torch.count_nonzero(x)), x.numel()))

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        with torch.no_grad(), _Products() as products:
            run()
    finally:
        for handle in handles:
            handle.remove()
    for left, right in products.pairs:
        a, b = oracle.indicator(left), oracle.indicator(right)
        met = int((a.sum(-2) * b.sum(-1)).sum())  # sum over k of (non-zeros of column k) x (non-zeros of row k)
        kinds = [oracle.kind_of(x).kind for x in (left, right)]
        kind = min(kinds, key=oracle.KIND_ORDER.index)
        dense = left.numel() * right.shape[-1]
        found.append(Read(None, kind, met, dense, int(a.sum()), left.numel()))
    return found


# --- counters ---------------------------------------------------------------------------------------------------


def synops(run: Callable[[], object], *counters: Any, guard: Callable[[], Any] = torch.no_grad) -> Any:
    """SpikingJelly's SynOpCounter (and other counters) over a run; the first counter given, or the SynOpCounter."""
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    used = list(counters) or [SynOpCounter()]
    with guard(), DispatchCounterMode(used):
        run()
    return used[0]


def neurobench(model: nn.Module, x: Tensor, *metrics: Any, wrapper: str = "TorchModel") -> None:
    """Run NeuroBench's hooks over one forward and hand them to its metrics. x: (B, T, ...) for SNNTorchModel."""
    import neurobench.models

    wrapped = getattr(neurobench.models, wrapper)(model)
    wrapped.register_hooks()
    try:
        with torch.no_grad():
            predictions = wrapped(x)
            for metric in metrics:
                metric(wrapped, predictions, (x, None))
    finally:
        wrapped.cleanup_hooks()


@dataclass(frozen=True)
class Synaptic:
    """NeuroBench's SynapticOperations, summed over the samples: its AC, MAC and total_synops ("Dense")."""

    accumulates: int
    macs: int
    dense: int


def synaptic_operations(model: nn.Module, x: Tensor, wrapper: str = "TorchModel", batches: int = 1) -> Synaptic:
    """What NeuroBench counts in a network over x, cut into so many batches along its first axis."""
    from neurobench.metrics.workload import SynapticOperations

    metric = SynapticOperations()
    for batch in x.chunk(batches):
        neurobench(model, batch, metric, wrapper=wrapper)
    return Synaptic(metric.AC, metric.MAC, metric.total_synops)


def fvcore_macs(model: nn.Module, x: Tensor) -> dict[str, int]:
    """fvcore's operations by operator; what it has no rule for is left out."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return dict(analysis.by_operator())


def spikes(*shape: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    """Zeros and ones."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def image(*shape: int) -> Tensor:
    """Grey levels, some of them 0."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).sub(0.1).relu()
