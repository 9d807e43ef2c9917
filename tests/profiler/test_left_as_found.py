"""States left by an evaluation under inference mode, weights written with the values they have, neurons named twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.counts.counts import Counts
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.running.module_state import holds_inference_tensors

STEPS = 3


class Hand(nn.Module):
    """A neuron with its potential in an attribute; ``write``: what it does to its threshold in every forward."""

    def __init__(self, write: Callable[[Any], None] = lambda neuron: None) -> None:
        super().__init__()
        self.v_th, self.write = nn.Parameter(torch.tensor(0.3)), write
        self.u: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        with torch.no_grad():
            self.write(self)
        u = current if self.u is None else self.u * 0.5 + current
        spike = (u > self.v_th).float()
        self.u = u * (1 - spike)
        return spike

    def reset(self) -> None:
        self.u = None


class Buffered(nn.Module):
    """A neuron with its potential in a buffer, which it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", torch.zeros(1, 8))

    def forward(self, current: Tensor) -> Tensor:
        self.u = self.u + current
        spike = (self.u > 0.3).float()
        self.u.mul_(1 - spike)
        return spike

    def reset(self) -> None:
        self.u = torch.zeros(1, 8)


class Loop(nn.Module):
    """A loop over time; it resets its neuron before it if asked to."""

    def __init__(self, neuron: nn.Module, resets: bool = True, write: Callable[[Any], None] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.lif, self.b = nn.Linear(6, 8), neuron, nn.Linear(8, 3)
        self.resets, self.write = resets, write

    def forward(self, x: Tensor) -> Tensor:
        if self.write is not None:
            with torch.no_grad():
                self.write(self)
        if self.resets and hasattr(self.lif, "reset"):
            self.lif.reset()
        out: Any = 0
        for _ in range(STEPS):
            spike = self.lif(self.a(x))
            out = out + self.b(spike[0] if isinstance(spike, tuple) else spike)
        return out


def x_of(samples: int = 4) -> Tensor:
    return torch.rand(samples, 6, generator=torch.Generator().manual_seed(5))


def counted(model: nn.Module, **declared: Any) -> Counts:
    return se.profile(model, [x_of(), x_of()], time_steps=STEPS, **declared)


def totals(counts: Counts) -> dict[str, Any]:
    frame = counts.to_frame()
    columns = ["layer", "time_step", "op", "input_kind", "dense_macs", "sops", "spikes", "neurons", "weights"]
    return {"time": counts.header["time"], "rows": frame[columns].astype(object).to_dict("list").__repr__()}


# --- an evaluation under inference mode ---------------------------------------------------------------------------


def spikingjelly_lif() -> nn.Module:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    made: nn.Module = neuron.LIFNode(v_threshold=0.3)
    return made


def snntorch_leaky() -> nn.Module:
    snn = pytest.importorskip("snntorch")
    made: nn.Module = snn.Leaky(beta=0.5, threshold=0.3, init_hidden=True)
    return made


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "spikingjelly": spikingjelly_lif, "snntorch": snntorch_leaky, "attribute": Hand, "buffer": Buffered,
}  # fmt: skip
AROUND = {"nothing": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def states_of(model: Loop) -> list[tuple[int, Tensor]]:
    """Tensors of its neuron, whatever table of it they lie in, with their values."""
    tables = [vars(model.lif), *(table for table in vars(model.lif).values() if isinstance(table, dict))]
    found = {id(value): value for table in tables for value in table.values() if isinstance(value, Tensor)}
    return [(key, value.clone()) for key, value in found.items()]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", NEURONS)
def test_a_state_left_by_an_evaluation_under_inference_mode_does_not_matter(name: str, around: str) -> None:
    resets = name in ("attribute", "buffer")  # the frameworks' neurons are left as they are
    model = Loop(NEURONS[name](), resets)
    with torch.inference_mode():
        model(x_of())
    left = states_of(model)
    assert holds_inference_tensors(model)
    with AROUND[around]():
        found = totals(counted(model))
    assert found == totals(counted(Loop(NEURONS[name](), resets)))
    after = states_of(model)
    assert [i for i, _ in after] == [i for i, _ in left]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(after, left, strict=True))


def test_a_network_made_under_inference_mode_is_counted() -> None:
    with torch.inference_mode():
        model = Loop(Buffered())
    assert totals(counted(model)) == totals(counted(Loop(Buffered())))


# --- weights that are written ---------------------------------------------------------------------------------------


def replace_parameter(neuron: Any) -> None:
    neuron.v_th = nn.Parameter(neuron.v_th.data.clone())


def normalise(model: Any) -> None:
    model.a.weight.data = model.a.weight.data / 1.0


SAME_NEURON: dict[str, Callable[[Any], None]] = {
    "copied onto itself": lambda n: n.v_th.copy_(n.v_th),
    "data cloned": lambda n: setattr(n.v_th, "data", n.v_th.data.clone()),
    "another parameter": replace_parameter,
    "clamped to where it is": lambda n: n.v_th.data.clamp_(0, 1),
    "zero added": lambda n: n.v_th.add_(0.0),
}
SAME_MODEL: dict[str, Callable[[Any], None]] = {
    "normalised by 1": normalise,
    "copied onto itself": lambda m: m.a.weight.copy_(m.a.weight.clone()),
}
OTHER: dict[str, Callable[[Any], None]] = {
    "threshold raised": lambda m: m.lif.v_th.add_(0.01),
    "threshold halved in data": lambda m: m.lif.v_th.data.mul_(0.5),
    "threshold as another parameter": lambda m: setattr(m.lif, "v_th", nn.Parameter(m.lif.v_th.data * 0.9)),
    "weights decayed": lambda m: m.a.weight.mul_(0.99),
    "weights of other memory": lambda m: setattr(m.a.weight, "data", m.a.weight.data * 0.99),
}
DECLARED: dict[str, dict[str, Any]] = {
    "found": {}, "time declared": {"time": "loop"}, "all declared": {"time": "loop", "neurons": [Hand]},
}  # fmt: skip


def parameters_of(model: nn.Module) -> list[tuple[int, int, list[float]]]:
    return [(id(p), p.data_ptr(), p.flatten().tolist()) for p in model.parameters()]


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("write", [*SAME_NEURON, "normalised by 1", "weights copied onto themselves"])
def test_weights_written_with_the_values_that_they_have_are_no_change(write: str, declared: str) -> None:
    if write in SAME_NEURON:
        model = Loop(Hand(SAME_NEURON[write]))
    else:
        model = Loop(Hand(), write=SAME_MODEL.get(write, SAME_MODEL["copied onto itself"]))
    before = parameters_of(model)
    assert totals(counted(model, **DECLARED[declared])) == totals(counted(Loop(Hand()), **DECLARED[declared]))
    assert parameters_of(model) == before


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("write", OTHER)
def test_weights_written_with_other_values_are_refused_and_put_back(write: str, declared: str) -> None:
    model = Loop(Hand(), write=OTHER[write])
    before = parameters_of(model)
    with pytest.raises(ProfilingError, match="changes its own weights"):
        counted(model, **DECLARED[declared])
    assert parameters_of(model) == before


@pytest.mark.parametrize("write", ["weights decayed", "weights of other memory"])
def test_a_network_of_a_framework_that_changes_its_weights_while_it_is_counted_is_refused(write: str) -> None:
    model = Loop(LIF(), write=OTHER[write])
    with pytest.raises(ProfilingError, match="changes its own weights"):
        se.profile(model, [x_of()], time_steps=1, time="inside")


# --- neurons that are named though they are found -----------------------------------------------------------------


class Steps(nn.Module):
    """A neuron written by hand over all steps, on the first or the second axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, current: Tensor) -> Tensor:
        u: Any = 0
        spikes = []
        for step in current.unbind(self.axis):
            u = u * 0.5 + step
            spikes.append((u > 0.3).float())
            u = u * (1 - spikes[-1])
        return torch.stack(spikes, self.axis)


class Over(nn.Module):
    """A network over all steps at once."""

    def __init__(self, neuron: nn.Module, axis: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.lif, self.b, self.axis = nn.Linear(6, 8), neuron, nn.Linear(8, 3), axis

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.lif(self.a(torch.stack([x] * STEPS, self.axis)))).mean(self.axis)


def recurrent_leaky() -> nn.Module:
    snn = pytest.importorskip("snntorch")
    made: nn.Module = snn.RLeaky(beta=0.5, threshold=0.3, linear_features=8, init_hidden=True)
    return made


def doubled_spikingjelly() -> nn.Module:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

    class Doubled(neuron.LIFNode):  # type: ignore[misc,name-defined]
        def forward(self, x: Tensor) -> Any:
            return super().forward(2 * x)

    return Doubled(v_threshold=0.3)


FOUND: dict[str, Callable[[], nn.Module]] = {
    "by its state": lambda: Loop(Hand()),
    "by its state, in a block": lambda: Loop(nn.Sequential(Hand())),
    "over axis 0": lambda: Over(Steps(0)),
    "over axis 1": lambda: Over(Steps(1), 1),
    "ours": lambda: Over(DTSS(STEPS)),
    "spikingjelly": lambda: Loop(spikingjelly_lif()),
    "derived from spikingjelly": lambda: Loop(doubled_spikingjelly()),
    "snntorch": lambda: Loop(snntorch_leaky()),
    "snntorch with weights": lambda: Loop(recurrent_leaky()),
}


@pytest.mark.parametrize("name", FOUND)
def test_naming_a_neuron_that_is_found_changes_nothing(name: str) -> None:
    model = FOUND[name]()
    inner = list(model.lif.modules())[-1] if name == "by its state, in a block" else model.lif
    kind = type(inner)
    if name == "by its state, in a block":
        model.lif[0].write, model.resets = (lambda neuron: None), False  # type: ignore[index]
    layer = next(layer for layer, module in model.named_modules() if module is inner)
    plain = totals(counted(model))
    for named in (kind, kind.__name__, layer, f"{kind.__module__}.{kind.__qualname__}"):
        assert totals(counted(model, neurons=[named])) == plain, named
    assert totals(counted(model, neurons=[kind, layer])) == plain


def test_a_named_module_with_layers_that_no_framework_knows_is_still_refused() -> None:
    with pytest.raises(ProfilingError, match="holds layers"):
        counted(Loop(Hand()), neurons=[Loop])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted(Loop(Hand()), neurons=["lif"])
