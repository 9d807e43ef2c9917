"""Networks of SpikingJelly, snnTorch, sinabs and Norse as they are: counted as plain hooks count them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from framework_networks import B, Run, T, assert_rows, everything, truth, work
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.inspection_report import inspect_model
from snn_energy.profiler.run import UnsupportedOperationWarning


def framework(name: str) -> Any:
    """A module of a framework; what its import warns of is its own affair. Skips where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = name.partition(".")[0]
        pytest.importorskip(root, reason=f"{root} is not installed (the extra 'frameworks')")
        return importlib.import_module(name)


def give(model: nn.Module, x: Tensor) -> Any:
    return model(x)


def call(model: nn.Module, x: Tensor) -> list[Any]:
    return [model(x) for _ in range(T)]


def call_steps(model: nn.Module, x: Tensor) -> list[Any]:
    return [model(step) for step in x]


def hand_on(model: nn.Module, x: Tensor) -> list[Any]:
    outs, state = [], None
    for _ in range(T):
        out, state = model(x, state)
        outs.append(out)
    return outs


def repeat(axis: int, *, flat: bool = False) -> Run:
    def run(model: nn.Module, x: Tensor) -> Any:
        given = torch.stack([x] * T, axis)
        return model(given.flatten(0, 1) if flat else given)

    return run


@dataclass(frozen=True)
class Case:
    """A network, what it is run on and how, what ``profile`` is told. axis: of the samples in x."""

    build: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    run: Run
    neurons: Sequence[str]
    declared: dict[str, Any]
    time: str  # that must be found, or is told
    order: str = "time"
    axis: int = 0
    first: Sequence[str] = ("0",)  # layers that read the loader's tensor
    integrating: Sequence[str] = ()
    kinds: dict[str, str] = field(default_factory=dict)  # of the layers that the case is about
    recurrent: bool = False


def image() -> Tensor:
    return torch.rand(B, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2


def vector() -> Tensor:
    return torch.rand(B, 6, generator=torch.Generator().manual_seed(2)) * 2


def over_time(front: Sequence[int], x: Callable[[], Tensor], scale: float = 1.0) -> Callable[[], Tensor]:
    shape = (*front, *x().shape[1:])
    return lambda: torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 * scale


def louder(module: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(factor)
    return module


def mlp(node: Callable[[], nn.Module], linear: Any = nn.Linear, factor: float = 3.0) -> nn.Module:
    torch.manual_seed(0)
    return louder(nn.Sequential(linear(6, 8), node(), linear(8, 8), node(), linear(8, 4)), factor)


def conv(node: Callable[[], nn.Module], layers: Any = nn, factor: float = 3.0) -> nn.Module:
    torch.manual_seed(0)
    parts = [layers.Conv2d(1, 4, 3, padding=1), layers.BatchNorm2d(4), node(), layers.MaxPool2d(2), layers.Flatten()]
    return louder(nn.Sequential(*parts, layers.Linear(64, 8), node(), layers.Linear(8, 4)), factor)


# --- SpikingJelly 2.x ---------------------------------------------------------------------------------------------

SJ = "spikingjelly.activation_based"


def sj(part: str) -> Any:
    return framework(f"{SJ}.{part}")


def jelly(kind: str, mode: str, **given: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = getattr(sj("neuron"), kind)(**given)
        made.step_mode = mode  # type: ignore[assignment]
        return made

    return make


def sj_net(make: Any, kind: str, mode: str, **given: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net: nn.Module = make(jelly(kind, mode, **given), sj("layer") if make is conv else sj("layer").Linear)
        sj("functional").set_step_mode(net, mode)
        return net

    return build


class Looping(nn.Module):
    """Single-step layers in a loop over T, reset in front of it; rates as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sj_net(conv, "LIFNode", "s", v_threshold=0.5)()

    def forward(self, x: Tensor) -> Any:
        sj("functional").reset_net(self)
        return sum(self.net(x) for _ in range(T)) / T


class Inside(nn.Module):
    """Multi-step layers; the forward gives its images T times over."""

    def __init__(self) -> None:
        super().__init__()
        self.net = sj_net(conv, "LIFNode", "m", v_threshold=0.5)()

    def forward(self, x: Tensor) -> Any:
        return self.net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def sj_containers() -> nn.Module:
    """Torch's layers in a SeqToANNContainer, a single-step block in a MultiStepContainer, multi-step nodes between."""
    torch.manual_seed(0)
    layer, node = sj("layer"), jelly("IFNode", "m", v_threshold=0.7)
    return louder(
        nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)),
            node(),
            layer.SeqToANNContainer(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 8)),
            layer.MultiStepContainer(jelly("LIFNode", "s", v_reset=None)()),
            layer.SeqToANNContainer(nn.Linear(8, 4)),
        ),
        3,
    )


DECLARED = {"time_steps": T, "time": "call"}
CONV, MLP = ("2", "6"), ("1", "3")
CASES: dict[str, Case] = {}
for _name, _kind, _given in (
    ("if", "IFNode", {"v_threshold": 0.7}),
    ("lif", "LIFNode", {"v_threshold": 0.3, "tau": 1.5}),
    ("lif soft reset", "LIFNode", {"v_threshold": 0.5, "v_reset": None, "decay_input": False}),
    ("plif", "ParametricLIFNode", {"v_threshold": 0.5}),
):
    CASES[f"sj {_name} conv, call"] = Case(
        sj_net(conv, _kind, "s", **_given), image, call, CONV, {"time_steps": T}, "call", kinds={"5": "binary"}
    )
    CASES[f"sj {_name} mlp, call"] = Case(sj_net(mlp, _kind, "s", **_given), vector, call, MLP, DECLARED, "call")
    CASES[f"sj {_name} conv, multi-step"] = Case(
        sj_net(conv, _kind, "m", **_given), image, repeat(0), CONV, {"time_steps": T}, "repeat-axis0",
        kinds={"5": "binary"},
    )  # fmt: skip
    CASES[f"sj {_name} mlp, multi-step"] = Case(
        sj_net(mlp, _kind, "m", **_given), over_time((T, B), vector), give, MLP,
        {"time_steps": T, "time": "axis0"}, "axis0", axis=1,
    )  # fmt: skip
CASES |= {
    "sj call-axis0": Case(
        sj_net(conv, "LIFNode", "s", v_threshold=0.3), over_time((T, B), image), call_steps, CONV,
        {"time_steps": T, "time": "call-axis0"}, "call-axis0", axis=1,
    ),
    "sj store_v_seq": Case(
        sj_net(mlp, "LIFNode", "m", v_threshold=0.3, store_v_seq=True), vector, repeat(0), MLP, {"time_steps": T},
        "repeat-axis0",
    ),
    "sj surrogate": Case(
        lambda: mlp(jelly("IFNode", "s", surrogate_function=sj("surrogate").Sigmoid(spiking=False))), vector, call, MLP,
        {"time_steps": T}, "call", kinds={"2": "real", "4": "real"},
    ),
    "sj ternary": Case(
        lambda: mlp(jelly("TernaryLIFNode", "s"), factor=5), vector, call, MLP, {"time_steps": T}, "call",
        kinds={"2": "ternary"},
    ),
    "sj integer": Case(
        lambda: mlp(jelly("ILIFNode", "s"), factor=5), vector, call, MLP, {"time_steps": T}, "call",
        kinds={"2": "integer"},
    ),
    "sj sliding psn": Case(
        lambda: mlp(jelly("SlidingPSN", "m", k=2), sj("layer").Linear), vector, repeat(0), MLP,
        {"time_steps": T}, "repeat-axis0",
    ),
    "sj loop": Case(
        Looping, image, give, ("net.2", "net.6"), {}, "loop", first=("net.0",), kinds={"net.5": "binary"}
    ),
    "sj inside": Case(
        Inside, image, give, ("net.2", "net.6"), {}, "inside", first=("net.0",), kinds={"net.5": "binary"}
    ),
    "sj containers": Case(
        sj_containers, image, repeat(0), ("1", "3.0"), {"time_steps": T}, "repeat-axis0", first=("0.0",),
        kinds={"2.2": "binary"},
    ),
}  # fmt: skip


# --- snnTorch -----------------------------------------------------------------------------------------------------


def torch_neuron(kind: str, *decays: float, **given: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inhibition is "unstable"
            made: nn.Module = getattr(framework("snntorch"), kind)(*decays, **given)
        return made

    return make


def hidden(kind: str, *decays: float, **given: Any) -> Callable[[], nn.Module]:
    return torch_neuron(kind, *decays, init_hidden=True, **given)


class Recording(nn.Module):
    """The net of snnTorch's tutorials: potentials from reset_mem, a loop, stacked spikes and potentials."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.lif1 = louder(nn.Linear(6, 8), 3), make()
        self.fc2, self.lif2 = louder(nn.Linear(8, 4), 3), make()

    def forward(self, x: Tensor) -> Any:
        first, second = self.lif1.reset_mem(), self.lif2.reset_mem()  # type: ignore[operator]
        first = first if isinstance(first, tuple) else (first,)
        second = second if isinstance(second, tuple) else (second,)
        spikes, potentials = [], []
        for _ in range(T):
            spike, *first = self.lif1(self.fc1(x), *first)
            spike, *second = self.lif2(self.fc2(spike), *second)
            spikes.append(spike)
            potentials.append(second[-1])
        return torch.stack(spikes), torch.stack(potentials)


for _name, _make in {
    "leaky": hidden("Leaky", 0.9),
    "leaky to zero": hidden("Leaky", 0.9, reset_mechanism="zero"),
    "leaky without reset": hidden("Leaky", 0.5, reset_mechanism="none"),
    "leaky learnt": hidden("Leaky", 0.9, threshold=0.5, learn_beta=True, learn_threshold=True),
    "leaky, reset at once": hidden("Leaky", 0.9, reset_delay=False),
    "fast sigmoid": hidden("Leaky", 0.9, surrogate_disable=True),
    "graded by one factor": hidden("Leaky", 0.9, graded_spikes_factor=0.3),
    "inhibition": hidden("Leaky", 0.9, inhibition=True),
    "synaptic": hidden("Synaptic", 0.9, 0.8),
    "alpha": hidden("Alpha", 0.9, 0.8, threshold=0.2),
    "lapicque": hidden("Lapicque", 0.9, threshold=0.02),
    "rleaky, one to one": hidden("RLeaky", 0.9, V=0.5, all_to_all=False),
}.items():
    CASES[f"snntorch {_name}"] = Case(
        lambda make=_make: mlp(make),
        vector,
        call,
        MLP,
        {"time_steps": T},
        "call",
        kinds={"2": "binary"},  # type: ignore[misc]
    )
for _name, _make in {
    "leaky": torch_neuron("Leaky", 0.9),
    "synaptic": torch_neuron("Synaptic", 0.9, 0.8),
    "alpha": torch_neuron("Alpha", 0.9, 0.8, threshold=0.1),
    "lapicque": torch_neuron("Lapicque", 0.9, threshold=0.02),
}.items():
    CASES[f"snntorch {_name} in a loop"] = Case(
        lambda make=_make: Recording(make),
        vector,
        give,
        ("lif1", "lif2"),
        {},
        "loop",
        first=("fc1",),  # type: ignore[misc]
    )
CASES |= {
    "snntorch conv": Case(
        lambda: conv(hidden("Leaky", 0.9)), image, call, CONV, {"time_steps": T}, "call", kinds={"5": "binary"}
    ),
    "snntorch output": Case(
        lambda: nn.Sequential(*mlp(hidden("Leaky", 0.9)), hidden("Leaky", 0.9, output=True)()), vector, call,
        (*MLP, "5"), {"time_steps": T}, "call",
    ),
    "snntorch graded": Case(
        lambda: mlp(hidden("Leaky", 0.9, graded_spikes_factor=torch.linspace(0.3, 1.1, 8))), vector, call, MLP,
        {"time_steps": T}, "call", kinds={"2": "real"},
    ),
    "snntorch sigmoid for a spike": Case(
        lambda: mlp(hidden("Leaky", 0.9, spike_grad=torch.sigmoid)), vector, call, MLP, {"time_steps": T}, "call",
        kinds={"2": "real"},
    ),
}  # fmt: skip


# --- sinabs -------------------------------------------------------------------------------------------------------


def sinabs_layer(kind: str, **given: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = getattr(framework("sinabs.layers"), kind)(**given)
        return made

    return make


def single_spike() -> Any:
    return framework("sinabs.activation").SingleSpike


def converted() -> nn.Module:
    """A network of ReLUs, converted as sinabs converts it."""
    torch.manual_seed(0)
    relu = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(),
        nn.Linear(8, 4),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = framework("sinabs.from_torch").from_model(louder(relu, 3), num_timesteps=T).spiking_model
    return made


for _name, _make, _kind in (
    ("iaf", sinabs_layer("IAF"), "integer"),
    ("iaf, one spike", sinabs_layer("IAF", spike_fn=single_spike()), "binary"),
    ("iaf, bounded below", sinabs_layer("IAF", min_v_mem=-0.2), "integer"),
    ("iaf, threshold", sinabs_layer("IAF", spike_threshold=torch.tensor(0.6)), "integer"),
    ("lif", sinabs_layer("LIF", tau_mem=5.0, norm_input=False), "integer"),
    ("lif with synapses", sinabs_layer("LIF", tau_mem=5.0, tau_syn=4.0, norm_input=False), "integer"),
    ("alif", sinabs_layer("ALIF", tau_mem=5.0, tau_adapt=5.0, norm_input=False), "binary"),
):
    CASES[f"sinabs {_name}"] = Case(
        lambda make=_make: mlp(make), over_time((B, T), vector), give, MLP,  # type: ignore[misc]
        {"time_steps": T, "time": "axis1"}, "axis1", "samples", kinds={"2": _kind},
    )  # fmt: skip
CASES |= {
    "sinabs repeated": Case(
        lambda: mlp(sinabs_layer("IAF")), vector, repeat(1), MLP, {"time_steps": T}, "repeat-axis1", "samples"
    ),
    "sinabs squeezed": Case(
        lambda: conv(sinabs_layer("IAFSqueeze", num_timesteps=T), factor=2), image, repeat(1, flat=True), CONV,
        {"time_steps": T}, "repeat-flat-batch", "samples", kinds={"5": "integer"},
    ),
    "sinabs squeezed, given": Case(
        lambda: conv(sinabs_layer("LIFSqueeze", tau_mem=5.0, norm_input=False, num_timesteps=T), factor=2),
        lambda: over_time((B, T), image)().flatten(0, 1), give, CONV, {"time_steps": T, "time": "flat-batch"},
        "flat-batch", "samples",
    ),
    "sinabs converted": Case(
        converted, image, repeat(1, flat=True), ("1", "5"), {"time_steps": T}, "repeat-flat-batch", "samples",
        first=("0", "4"),  # 4 reads averages, which are real by rule, whatever values they take
    ),
    "sinabs leak": Case(
        lambda: mlp(sinabs_layer("ExpLeak", tau_mem=5.0)), over_time((B, T), vector), give, MLP,
        {"time_steps": T, "time": "axis1"}, "axis1", "samples", integrating=MLP, kinds={"2": "real"},
    ),
}  # fmt: skip


# --- Norse --------------------------------------------------------------------------------------------------------


def norse_neuron(kind: str, threshold: float = 0.1) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        norse = framework("norse.torch")
        made: nn.Module = getattr(norse, kind)(p=norse.LIFParameters(v_th=torch.tensor(threshold)))
        return made

    return make


def norse_cells(node: str) -> nn.Module:
    torch.manual_seed(0)
    norse, make = framework("norse.torch"), norse_neuron(node)
    return louder(
        norse.SequentialState(
            nn.Conv2d(1, 4, 3, padding=1), make(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 8), make(),
            nn.Linear(8, 4), norse.LICell(),
        ), 30,
    )  # fmt: skip


def norse_lifted() -> nn.Module:
    torch.manual_seed(0)
    norse, make, lift = framework("norse.torch"), norse_neuron("LIF"), framework("norse.torch").Lift
    return louder(
        norse.SequentialState(
            lift(nn.Conv2d(1, 4, 3, padding=1)), make(), lift(nn.MaxPool2d(2)), nn.Flatten(2), nn.Linear(64, 8), make(),
            nn.Linear(8, 4), norse.LI(),
        ), 30,
    )  # fmt: skip


class NorseLoop(nn.Module):
    """A module that loops over its steps itself, and lifts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = norse_cells("LIFCell")

    def forward(self, x: Tensor) -> Any:
        return torch.stack(hand_on(self.cells, x)).mean(0)


CASES |= {
    "norse cells": Case(
        lambda: norse_cells("LIFCell"), image, hand_on, ("1", "5", "7"), {"time_steps": T}, "call",
        integrating=("7",), kinds={"4": "binary"},
    ),
    "norse cells, declared": Case(
        lambda: norse_cells("LIFCell"), image, hand_on, ("1", "5", "7"), DECLARED, "call", integrating=("7",)
    ),
    "norse over time": Case(
        norse_lifted, over_time((T, B), image), give, ("1", "5", "7"), {"time_steps": T, "time": "axis0"}, "axis0",
        axis=1, first=("0.lifted_module",), integrating=("7",), kinds={"4": "binary"},
    ),
    "norse lifted whole": Case(
        lambda: framework("norse.torch").Lift(norse_cells("LIFCell")), over_time((T, B), image), give,
        tuple(f"lifted_module.{i}" for i in (1, 5, 7)), {"time_steps": T, "time": "axis0"}, "axis0", axis=1,
        first=("lifted_module.0",), integrating=("lifted_module.7",),
    ),
    "norse loop": Case(
        NorseLoop, image, give, ("cells.1", "cells.5", "cells.7"), {}, "loop", first=("cells.0",),
        integrating=("cells.7",),
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def logits(out: Any, order: str) -> Tensor:
    """(B, 4), averaged over the steps."""
    parts = [part[0] if isinstance(part, tuple) else part for part in out] if isinstance(out, list) else None
    out = torch.stack(parts) if parts is not None else out[0] if isinstance(out, tuple) else out
    if out.dim() == 2 and len(out) == T * B:
        out = out.unflatten(0, (B, T))
    return out if out.dim() == 2 else out.mean(0 if order == "time" else 1)


def test_its_counts_are_those_of_plain_hooks(case: Case) -> None:
    x = case.x()
    found = truth(case.build(), x, case.run, case.neurons, case.order)
    right = logits(found.out, case.order).argmax(1)
    labels = torch.cat([(right[:2] + 1) % 4, right[2:]])
    counts = se.profile(case.build(), [(x, labels)], **case.declared)
    assert_rows(counts, found, integrating=case.integrating, read=case.first)
    assert counts.header["time"] == case.time
    assert counts.header["time_steps"] == T
    assert counts.header["accuracy"] == (B - 2) / B
    for name, kind in case.kinds.items():
        assert oracle.kind_of(torch.cat(found.inputs[name])).kind == kind, "the case is not what it says"
    assert all(sum(found.spikes[name]) for name in case.neurons), "a silent neuron shows nothing"


def test_it_does_not_depend_on_how_samples_are_dealt_into_batches(case: Case) -> None:
    x, per = case.x(), T if case.time == "flat-batch" else 1
    parts = [2 * per, 3 * per] if case.axis == 0 else [2, 3]
    whole = se.profile(case.build(), [x], **case.declared)
    dealt = se.profile(case.build(), list(x.split(parts, case.axis)), **case.declared)
    first = [] if case.time == "flat-batch" else [torch.zeros(3)]  # T samples look like one of T steps but for labels
    batches = [(part, *first) for part in x.split(parts[::-1], case.axis)]
    turned = se.profile(case.build(), batches, **case.declared)
    assert work(whole) == work(dealt) == work(turned)
    twice = se.profile(case.build(), [torch.cat([x, x], case.axis)], **case.declared)
    assert work(twice) == work(se.profile(case.build(), [x, x], **case.declared))


@pytest.mark.parametrize("samples", [2, B])
def test_a_state_left_over_does_not_leak_and_is_left(case: Case, samples: int) -> None:
    x = case.x()
    expected = work(se.profile(case.build(), [x], **case.declared))
    model = case.build()
    for module in model.modules():
        module.training = not module.training if isinstance(module, nn.Flatten) else module.training
    with torch.no_grad():
        case.run(model.eval(), x.narrow(case.axis, 0, samples * (T if case.time == "flat-batch" else 1)))
    model.train()
    before, hooks = everything(model), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert work(se.profile(model, [x], **case.declared)) == expected
    assert everything(model) == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


# --- beyond a chain of layers -------------------------------------------------------------------------------------


def neurons_of(model: nn.Module, package: str) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__module__.startswith(package)]


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """SpikingJelly's networks import torchvision for a download alone."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        module = types.ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined]
        module.load_state_dict_from_url = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)


def published(folder: str, name: str, mode: str | None, **given: Any) -> nn.Module:
    """A network of spikingjelly.activation_based.model with batch norms that let something through."""
    torch.manual_seed(0)
    model: nn.Module = getattr(sj(f"model.{folder}"), name)(num_classes=10, **given)
    if mode is not None:
        sj("functional").set_step_mode(model, mode)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.mul_(4)
                module.bias.normal_(0.2, 0.7)
            elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
                module.weight.mul_(3)
    return model


@pytest.mark.usefixtures("no_torchvision")
@pytest.mark.parametrize(
    ("folder", "name", "mode", "given", "run", "time", "first"),
    [
        ("spiking_resnet", "spiking_resnet18", "m", {"spiking_neuron": "LIFNode"}, repeat(0), "repeat-axis0", "conv1"),
        ("sew_resnet", "sew_resnet18", "m", {"spiking_neuron": "IFNode", "cnf": "ADD"}, repeat(0), "repeat-axis0",
         "conv1"),
        ("spiking_vgg", "spiking_vgg11_bn", "m", {"spiking_neuron": "LIFNode"}, repeat(0), "repeat-axis0",
         "features.0"),
        ("spiking_vgg", "spiking_vgg11_bn", "s", {"spiking_neuron": "LIFNode"}, call, "call", "features.0"),
        ("spikformer", "Spikformer", None, {"T": T, "img_size_h": 32, "img_size_w": 32, "patch_size": 4,
         "embed_dims": 64, "num_heads": 4, "depths": 1}, give, "inside", ""),
        ("spike_driven_transformer", "SpikeDrivenTransformer", None,
         {"T": T, "embed_dims": 64, "num_heads": 4, "depths": 1, "pooling_stat": "0011"}, give, "inside", ""),
    ],
)  # fmt: skip
def test_networks_that_spikingjelly_ships(
    folder: str, name: str, mode: str | None, given: dict[str, Any], run: Run, time: str, first: str
) -> None:
    if "spiking_neuron" in given:
        given = {**given, "spiking_neuron": getattr(sj("neuron"), given["spiking_neuron"])}
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = published(folder, name, mode, **given)
    # The heads read averages of spikes, but for ResNets, of whose 32 x 32 positions one is left: the spikes themselves.
    heads = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "resnet" not in folder]
    found = truth(model, x, run, neurons_of(model, f"{SJ}.neuron"), samples=2)
    counts = se.profile(
        published(folder, name, mode, **given), [x], **({"time_steps": T} if time not in ("inside", "loop") else {})
    )
    assert counts.header["time"] == time
    assert_rows(counts, found, samples=2, read=[first, *heads])
    frame = counts.to_frame()
    head = {"spiking_resnet": {"binary"}, "sew_resnet": {"integer"}}.get(folder, set())
    assert set(frame[frame["layer"] == "fc"]["input_kind"]) == head
    assert not (frame["op"] == "unsupported").any()
    assert sum(map(sum, found.spikes.values())) > 0


@pytest.mark.usefixtures("no_torchvision")
def test_the_products_of_a_spikformer_of_spikingjelly_are_coincidences() -> None:
    given = {"T": T, "img_size_h": 32, "img_size_w": 32, "patch_size": 4, "embed_dims": 64, "num_heads": 4, "depths": 1}
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = truth(published("spikformer", "Spikformer", None, **given), x, give, ["blocks.0.attn.qkv_lif"], samples=2)
    spikes = found.emitted["blocks.0.attn.qkv_lif"].reshape(T, 2, 3, 4, 16, 64)  # T, B, qkv, heads, channels, tokens
    q, k, v = (spikes != 0).double().unbind(2)
    met = torch.einsum("tbhcl,tbhdl->t", v, k).tolist()
    frame = se.profile(published("spikformer", "Spikformer", None, **given), [x]).to_frame()
    products = frame[frame["op"] == "matmul"]
    first, second = (products[products["layer"] == layer] for layer in products["layer"].unique())
    assert first["sops"].tolist() == met
    assert min(met) > 0
    assert set(first["input_kind"]) == set(first["other_kind"]) == set(second["input_kind"]) == {"binary"}
    assert second["sops"].tolist() == torch.einsum("tbhcd,tbhdl->t", (v @ k.mT != 0).double(), q).tolist()


@pytest.mark.parametrize("decode", ["last_mem", "mean-mem", "max-mem", "max-abs-mem"])
@pytest.mark.parametrize("kind", ["NonSpikingIFNode", "NonSpikingLIFNode"])
def test_a_read_out_of_spikingjelly_integrates_and_its_reader_works_once(kind: str, decode: str) -> None:
    torch.manual_seed(0)
    layer, neuron = sj("layer"), sj("neuron")
    model = nn.Sequential(layer.Linear(6, 8, step_mode="m"), getattr(neuron, kind)(decode=decode), nn.Linear(8, 2))
    x = vector()
    with torch.no_grad():
        right = model(torch.stack([x] * T)).argmax(1)
    counts = se.profile(model, [(x, right)], time_steps=T)
    frame = counts.to_frame().set_index("layer")
    assert frame.loc["1", "spikes"].tolist() == [0] * T
    assert frame.loc["1", "neurons"].tolist() == [8] * T
    assert frame.loc["1", "membrane_writes"].tolist() == [8 * B] * T
    assert (frame.loc["2", "time_step"], frame.loc["2", "sops"], frame.loc["2", "input_kind"]) == (
        -1,
        B * 8 * 2,
        "real",
    )
    assert counts.header["accuracy"] == 1


def test_a_read_out_that_gives_a_potential_per_step() -> None:
    class ReadOut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.node, self.head = nn.Linear(6, 8), sj("neuron").NonSpikingLIFNode(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            return torch.stack([self.head(v) for v in self.node(self.fc(x))])

    frame = se.profile(ReadOut(), [vector()], time_steps=T).to_frame().set_index("layer")
    assert frame.loc["head", "time_step"].tolist() == [0, 1, 2]
    assert frame.loc["head", "sops"].tolist() == [B * 8 * 2] * T


def test_a_node_that_mixes_time_steps_by_weights_works_once_per_inference() -> None:
    """A PSN multiplies with a T x T matrix: its work, and what reads its steps together, belongs to no single step."""
    torch.manual_seed(0)
    layer = sj("layer")
    model = nn.Sequential(layer.Linear(6, 8, step_mode="m"), sj("neuron").PSN(T), layer.Linear(8, 2, step_mode="m"))
    frame = se.profile(model, [vector()], time_steps=T).to_frame().set_index("layer")
    assert frame.loc["1#linear0", ["time_step", "dense_macs"]].tolist() == [-1, B * T * T * 8]
    assert frame.loc["2", ["time_step", "dense_macs"]].tolist() == [-1, B * T * 8 * 2]
    assert frame.loc["0", "dense_macs"].tolist() == [B * 6 * 8] * T


def recurrent(name: str) -> tuple[nn.Module, str, Callable[[nn.Module, Tensor], Any], Tensor, dict[str, Any]]:
    """A net whose second module has recurrent weights, 8 to 8; the layer they are in; how it is run, on what."""
    torch.manual_seed(0)
    declared = {"time_steps": T, "time": "call"}
    if name.startswith("R"):
        decays = (0.9, 0.8) if name == "RSynaptic" else (0.9,)
        node = torch_neuron(name, *decays, linear_features=8, init_hidden=True)()
        return louder(nn.Sequential(nn.Linear(6, 8), node, nn.Linear(8, 4)), 3), "1.recurrent", call, vector(), declared
    if name == "LIFRecurrent":
        made = sinabs_layer("LIFRecurrent", tau_mem=5.0, norm_input=False, rec_connect=nn.Linear(8, 8, bias=False))()
        net = louder(nn.Sequential(nn.Linear(6, 8), made, nn.Linear(8, 4)), 3)
        return net, "1.rec_connect", give, over_time((B, T), vector)(), {"time_steps": T, "time": "axis1"}
    norse = framework("norse.torch")
    cell = norse.LIFRecurrentCell(8, 8, p=norse.LIFParameters(v_th=torch.tensor(0.1)))
    return louder(norse.SequentialState(nn.Linear(6, 8), cell, nn.Linear(8, 4)), 9), "1", hand_on, vector(), declared


@pytest.mark.filterwarnings("ignore::snn_energy.profiler.run.UnsupportedOperationWarning")
@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic", "LIFRecurrent"])
def test_recurrent_weights_within_a_neuron_are_counted(name: str) -> None:
    """Every spike of the neuron feeds 8 recurrent weights, and 4 of the layer behind it.

    snnTorch multiplies at the start of the next step, sinabs at the end of the same one.
    """
    model, layer, run, x, declared = recurrent(name)
    spikes: list[Tensor] = []
    handle = model.get_submodule("2").register_forward_pre_hook(lambda m, args: spikes.append(args[0].clone()))
    with torch.no_grad():
        run(model, x)
    handle.remove()
    fired = [int((step != 0).sum()) for step in (spikes if len(spikes) == T else spikes[0].transpose(0, 1))]
    assert min(fired) > 0
    frame = se.profile(model, [x], **declared).to_frame()  # from rest, whatever is left over
    assert frame[frame["layer"] == "2"]["sops"].tolist() == [4 * n for n in fired]
    counted = frame[(frame["layer"] == layer) & (frame["op"] == "linear")].set_index("time_step")["sops"]
    assert [counted[step] for step in range(1, T)] == [8 * n for n in (fired[1:] if name[0] == "L" else fired[:-1])]
    assert "1" not in set(frame[frame["op"] == "neuron"]["layer"])


@pytest.mark.parametrize("plain", [False, True])
def test_the_recurrent_weights_of_norse_are_counted(plain: bool) -> None:
    """Weights may be given as plain tensors, which are no parameters; they are weights all the same."""
    model, _, run, x, declared = recurrent("LIFRecurrentCell")
    if plain:
        cell: Any = model.get_submodule("1")
        for key in ("input_weights", "recurrent_weights"):
            weights = getattr(cell, key).detach().clone()
            del cell._parameters[key]
            setattr(cell, key, weights)
    spikes: list[Tensor] = []
    handle = model.get_submodule("2").register_forward_pre_hook(lambda m, args: spikes.append(args[0].clone()))
    with torch.no_grad():
        run(model, x)
    handle.remove()
    fired = [int((step != 0).sum()) for step in spikes]
    assert min(fired) > 0
    frame = se.profile(model, [x], **declared).to_frame()
    rows = frame[(frame["op"] == "linear") & frame["layer"].str.startswith("1#")]
    by_step = [sorted(rows[rows["time_step"] == t]["sops"].tolist()) for t in range(1, T)]
    assert by_step == [sorted([8 * 8 * B, 8 * n]) for n in fired[:-1]]  # real input, and spikes of the step before


@pytest.mark.filterwarnings("ignore::snn_energy.profiler.run.UnsupportedOperationWarning")
@pytest.mark.parametrize("name", ["RLeaky", "LIFRecurrent", "LIFRecurrentCell"])
def test_a_belief_lists_the_weights_within_a_neuron_as_not_covered(name: str) -> None:
    model, _, _, x, declared = recurrent(name)
    report = inspect_model(model, [x], **declared)
    assert ("1", "has weights of its own: counted as the operations it is made of") in report.not_covered
    assert "1" not in set(report.spiking["layer"])


@pytest.mark.parametrize("name", ["RLeaky", "LIFRecurrentCell"])
def test_a_neuron_with_weights_that_is_named_is_counted_as_the_operations_it_is_made_of(name: str) -> None:
    model, _, _, x, declared = recurrent(name)
    found = se.profile(model, [x], **declared)
    assert found.rows.equals(se.profile(model, [x], **declared, neurons=[name]).rows)
    assert "1" not in set(found.rows[found.rows["op"] == "neuron"]["layer"])


@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic", "LIFRecurrentCell"])
def test_a_neuron_with_weights_tells_time_all_the_same(name: str) -> None:
    model, _, _, x, _ = recurrent(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedOperationWarning)
        assert se.profile(model, [x], time_steps=T).header["time"] == "call"


BELIEVED = {
    "sj if conv, call": ("spikingjelly", "one time step a call", "0.7", "hard, to 0"),
    "sj lif soft reset conv, multi-step": ("spikingjelly", "(T, B, ...)", "0.5", "soft"),
    "snntorch leaky learnt": ("snntorch", "one time step a call", "0.5", "subtract"),
    "snntorch leaky to zero": ("snntorch", "one time step a call", "1", "zero"),
    "sinabs iaf, threshold": ("sinabs", "(B, T, ...)", "0.6", "MembraneSubtract"),
    "sinabs squeezed": ("sinabs", "sample major", "1", "MembraneSubtract"),
    "norse over time": ("norse", "(T, B, ...)", "0.1", "hard, to 0"),
}


@pytest.mark.parametrize("name", BELIEVED)
def test_a_belief_names_framework_layout_threshold_and_reset(name: str) -> None:
    case = CASES[name]
    report = inspect_model(case.build(), [case.x()], **case.declared)
    first = report.spiking.iloc[0]
    framework_of, reads, threshold, reset = BELIEVED[name]
    assert (first["framework"], first["threshold"], first["reset"]) == (framework_of, threshold, reset)
    assert first["known_by"] == "its class"
    assert reads in first["reads"]
    assert report.spiking["layer"].tolist() == list(case.neurons)


def test_a_user_s_own_node_is_believed_by_its_values() -> None:
    """A subclass may emit what it likes, and so may somebody's hook: the values decide, not the class."""

    def leaky() -> Any:
        base = sj("neuron").LIFNode

        class Loud(base):  # type: ignore[misc, valid-type]
            def forward(self, x: Tensor) -> Any:
                return super().forward(x) * (1 + x.detach().abs())

        return Loud(v_threshold=0.3)

    found = truth(mlp(leaky), vector(), call, MLP)
    counts = se.profile(mlp(leaky), [vector()], time_steps=T)
    assert_rows(counts, found, read=["0"])
    assert set(counts.to_frame()[lambda f: f["layer"] == "2"]["input_kind"]) == {"real"}
    hooked = sj_net(mlp, "LIFNode", "s", v_threshold=0.3)()
    hooked.get_submodule("1").register_forward_hook(lambda m, args, out: out * (1 + args[0].abs()))
    rows = se.profile(hooked, [vector()], time_steps=T).to_frame()
    assert set(rows[rows["layer"] == "2"]["input_kind"]) == {"real"}


def test_frameworks_count_alike_in_inference_mode() -> None:
    for name in ("sj loop", "sj lif conv, multi-step", "snntorch leaky", "sinabs squeezed", "norse over time"):
        expected = work(se.profile(CASES[name].build(), [CASES[name].x()], **CASES[name].declared))
        with torch.inference_mode():
            assert work(se.profile(CASES[name].build(), [CASES[name].x()], **CASES[name].declared)) == expected, name


def test_a_norse_network_that_forgets_its_state_is_refused() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 8), norse_neuron("LIFCell")()

        def forward(self, x: Tensor) -> Any:
            spikes, _ = self.lif(self.fc(x))
            return spikes

    with pytest.raises(ProfilingError, match=r"^lif: a new time step starts without the state of the last one"):
        se.profile(Forgetful(), [vector()], time_steps=T)


@pytest.mark.parametrize("samples", [B, T])
@pytest.mark.parametrize("name", ["sinabs squeezed", "sinabs squeezed, given", "sinabs repeated"])
def test_accuracy_where_samples_come_first(name: str, samples: int) -> None:
    """As many samples as time steps: the average is still over the steps."""
    found = CASES[name]
    x = found.x()[: samples * (T if name.endswith("given") else 1)]
    with torch.no_grad():
        out = found.run(found.build().eval(), x)
    right = (out if out.dim() == 3 else out.unflatten(0, (samples, T))).mean(1).argmax(1)
    assert se.profile(found.build(), [(x, right)], **found.declared).header["accuracy"] == 1


@pytest.mark.parametrize(
    "made_for", [{"num_timesteps": 5}, {"num_timesteps": 15}, {"batch_size": 1}, {"batch_size": 3}]
)
def test_a_squeezed_layer_made_for_another_time_is_refused(made_for: dict[str, int]) -> None:
    """15 rows are 5 samples of 3 steps; a layer that takes them for 3 samples of 5 steps mixes samples up."""
    model = mlp(sinabs_layer("IAFSqueeze", **made_for))
    with pytest.raises(ProfilingError, match=r"^1: .*but it is made for"):
        se.profile(model, [torch.rand(15, 6)], time_steps=T, time="flat-batch")


def norse_mlp() -> nn.Module:
    made: nn.Module = framework("norse.torch").SequentialState(nn.Linear(6, 8), norse_neuron("LIFCell")())
    return made


WRONG = {
    "single-step nodes, all steps at once": (sj_net(mlp, "LIFNode", "s"), (T, B, 6), "axis0"),
    "single-step nodes, T*B": (sj_net(mlp, "LIFNode", "s"), (T * B, 6), "flat"),
    "multi-step nodes, step by step": (sj_net(mlp, "LIFNode", "m"), (B, 6), "call"),
    "multi-step nodes, steps in the second axis": (sj_net(mlp, "LIFNode", "m"), (B, T, 6), "axis1"),
    "multi-step nodes, T*B": (sj_net(mlp, "LIFNode", "m"), (T * B, 6), "flat"),
    "multi-step nodes, no time at all": (sj_net(mlp, "LIFNode", "m"), (B, 6), "inside"),
    "sinabs, steps in front": (lambda: mlp(sinabs_layer("IAF")), (T, B, 6), "axis0"),
    "sinabs, squeezed, steps first": (lambda: mlp(sinabs_layer("IAFSqueeze", num_timesteps=T)), (T * B, 6), "flat"),
    "norse, steps in the second axis": (lambda: framework("norse.torch").SequentialState(
        nn.Linear(6, 8), norse_neuron("LIF")()), (B, T, 6), "axis1"),
    "norse cells, all steps at once": (norse_mlp, (T, B, 6), "axis0"),
    "snntorch, all steps at once": (lambda: mlp(hidden("Leaky", 0.9)), (T, B, 6), "axis0"),
}  # fmt: skip


@pytest.mark.parametrize("samples", [B, T])
@pytest.mark.parametrize("wrong", WRONG)
def test_time_declared_where_it_is_not_is_refused(wrong: str, samples: int) -> None:
    build, shape, time = WRONG[wrong]
    sizes = [{B: samples, T * B: T * samples}.get(size, size) for size in shape]
    with pytest.raises(ProfilingError, match=r"^\d: .*declare") as caught:
        se.profile(build(), [torch.rand(*sizes)], time_steps=T, time=time)
    assert "\n" not in str(caught.value)


def test_one_time_step_of_a_multi_step_network_is_not_taken_for_the_batch() -> None:
    """(B, ...) declared as one step: a multi-step node would run through the samples as if they were steps."""
    with pytest.raises(ProfilingError, match=r"^1: the neuron reads all time steps in one call"):
        se.profile(sj_net(mlp, "LIFNode", "m")(), [vector()], time_steps=1, time="inside")
    counts = se.profile(sj_net(mlp, "LIFNode", "m")(), [vector()], time_steps=1)
    assert counts.header["time"] == "repeat-axis0"
    assert counts.to_frame()[lambda f: f["layer"] == "2"]["sops"].notna().all()


# --- SpikingJelly 0.0.0.0.14 --------------------------------------------------------------------------------------

OLD = Path(__file__).parents[2] / ".venv" / "spikingjelly-0.0.0.0.14"

OLD_NETWORKS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
import spikingjelly
import snn_energy as se
from framework_networks import B, T, assert_rows, everything, truth, work
from spikingjelly import activation_based, clock_driven
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.clock_driven import functional as old_functional, layer as old_layer, neuron as old
assert "0.0.0.0.14" in spikingjelly.__file__
torch.set_num_threads(1)

def chain(make, layers, wrap=lambda *parts: parts):
    torch.manual_seed(0)
    parts = [*wrap(layers.Conv2d(1, 4, 3, padding=1), layers.BatchNorm2d(4)), make(), *wrap(layers.MaxPool2d(2),
             layers.Flatten(), layers.Linear(64, 8)), make(), *wrap(layers.Linear(8, 4))]
    net = nn.Sequential(*parts)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("weight") and p.dim() > 1:
                p.mul_(3)
    return net

def in_mode(mode, make):
    def build():
        net = chain(make, layer)
        functional.set_step_mode(net, mode)
        return net
    return build

def seq(*parts):
    return [old_layer.SeqToANNContainer(*parts)]

class Tutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = chain(lambda: old.LIFNode(v_threshold=0.5), nn)
    def forward(self, x):
        old_functional.reset_net(self)
        return sum(self.net(x) for _ in range(T)) / T

call = lambda m, x: [m(x) for _ in range(T)]
give = lambda m, x: m(x)
repeat = lambda m, x: m(torch.stack([x] * T))
steps = {"time_steps": T}
CASES = {
    "clock_driven LIFNode": (lambda: chain(lambda: old.LIFNode(v_threshold=0.5), nn), call, ("2", "6"), "0", steps,
        "call"),
    "clock_driven IFNode, soft": (lambda: chain(lambda: old.IFNode(v_reset=None), nn), call, ("2", "6"), "0", steps,
        "call"),
    "clock_driven in a loop": (Tutorial, give, ("net.2", "net.6"), "net.0", {}, "loop"),
    "clock_driven MultiStepLIFNode": (lambda: chain(lambda: old.MultiStepLIFNode(v_threshold=0.5), nn, seq), repeat,
        ("1", "3"), "0.0", steps, "repeat-axis0"),
    "clock_driven MultiStepParametricLIFNode": (lambda: chain(lambda: old.MultiStepParametricLIFNode(v_threshold=0.5),
        nn, seq), repeat, ("1", "3"), "0.0", steps, "repeat-axis0"),
    "activation_based LIFNode": (in_mode("s", lambda: neuron.LIFNode(v_threshold=0.5)), call, ("2", "6"), "0", steps,
        "call"),
    "activation_based LIFNode, multi-step": (in_mode("m", lambda: neuron.LIFNode(v_threshold=0.5)), repeat, ("2", "6"),
        "0", steps, "repeat-axis0"),
    "activation_based ParametricLIFNode, multi-step": (in_mode("m", lambda: neuron.ParametricLIFNode(v_threshold=0.5)),
        repeat, ("2", "6"), "0", steps, "repeat-axis0"),
}
x = torch.rand(B, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2
for name, (build, run, neurons, first, told, time) in CASES.items():
    found = truth(build(), x, run, neurons)
    assert all(sum(found.spikes[n]) for n in neurons), name
    model = build()
    with torch.no_grad():
        run(model.eval(), x)
    before = everything(model)
    counts = se.profile(model, [x], **told)
    assert_rows(counts, found, read=[first])
    assert counts.header["time"] == time, name
    assert work(se.profile(model, [x[:2], x[2:]], **told)) == work(counts), name
    assert everything(model) == before, name
    print("ok", name)
"""


def test_spikingjelly_0_0_0_0_14() -> None:
    if not OLD.is_dir():
        pytest.skip(f"SpikingJelly 0.0.0.0.14 is not in {OLD.name} beside the environment (make test installs it)")
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (OLD, tests / "networks", tests / "oracles", tests.parent))),
    }
    done = subprocess.run(
        [sys.executable, "-c", OLD_NETWORKS], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ok ") == 8
