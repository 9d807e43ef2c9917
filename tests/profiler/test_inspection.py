"""What is believed of a network nobody has described: its neurons, its time, and a clear no where it cannot be told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from framework_networks import B, T, assert_rows, everything, truth, work
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF
from snn_energy.profiler.inspection_report import inspect_model
from snn_energy.profiler.run import UnsupportedOperationWarning


def fire(u: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    spike = (u > threshold).to(u.dtype)
    return u - threshold * spike, spike


class Attribute(nn.Module):
    """One time step a call; the potential in an attribute, None at first."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.u: Tensor | None = None
        self.threshold = threshold

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(x if self.u is None else 0.9 * self.u + x, self.threshold)
        return spike


class Buffer(nn.Module):
    """One time step a call; the potential in a buffer that takes the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(0.9 * self.u + x)
        return spike


class HardReset(nn.Module):
    """Public Spikformer code in one step: (x - v) / tau, hard reset."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        v = self.v + (x - self.v) / 2
        spike = (v >= 0.3).float()
        self.v = v * (1 - spike)
        return spike


class BothGiven(nn.Module):
    """Keeps its potential, and gives it beside the spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(0.9 * self.u + x)
        return spike, self.u


class First(nn.Module):
    """Takes the spikes out of what a neuron gives."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Any:
        return self.neuron(x)[0]


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class OverTime(nn.Module):
    """All time steps in one call, (T, B, ...); the potential is a local of the forward."""

    def forward(self, x: Tensor) -> Any:
        u, spikes = torch.zeros_like(x[0]), []
        for current in x:
            u, spike = fire(0.9 * u + current)
            spikes.append(spike)
        return torch.stack(spikes)


class OverTimeKept(nn.Module):
    """As OverTime, and the potential goes on in the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        spikes = []
        for current in x:
            self.u, spike = fire(0.9 * self.u + current)
            spikes.append(spike)
        return torch.stack(spikes)


class SecondAxis(nn.Module):
    """All time steps in one call, (B, T, ...)."""

    def forward(self, x: Tensor) -> Any:
        return OverTime()(x.transpose(0, 1)).transpose(0, 1)


def net(neuron: Callable[[], nn.Module], factor: float = 2.0) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 8), neuron(), nn.Linear(8, 8), neuron(), nn.Linear(8, 4))
    with torch.no_grad():
        for linear in (made[0], made[2]):
            linear.weight.mul_(factor)
    return made


def images(samples: int = B) -> Tensor:
    return torch.rand(samples, 6, generator=torch.Generator().manual_seed(1))


def call(model: nn.Module, x: Tensor) -> Any:
    return [model(x) for _ in range(T)]


SINGLE = {
    "attribute": (Attribute, ("1", "3")),
    "buffer": (Buffer, ("1", "3")),
    "hard reset": (HardReset, ("1", "3")),
    "wrapped": (lambda: Wrapped(Wrapped(Attribute())), ("1.inner.inner", "3.inner.inner")),
    "gives its potential too": (lambda: First(BothGiven()), ("1.neuron", "3.neuron")),
}


@pytest.mark.parametrize("declared", [{}, {"time": "call"}])
@pytest.mark.parametrize("name", SINGLE)
def test_a_neuron_nobody_knows_is_found_by_its_output(name: str, declared: dict[str, str]) -> None:
    neuron, layers = SINGLE[name]
    found = truth(net(neuron), images(), call, layers)
    counts = se.profile(net(neuron), [images()], time_steps=T, **declared)
    assert_rows(counts, found, read=["0"])
    assert counts.header["time"] == "call"
    assert all(sum(spikes) for spikes in found.spikes.values())
    assert work(se.profile(net(neuron), [images()[:2], images()[2:]], time_steps=T, **declared)) == work(counts)


@pytest.mark.parametrize("neuron", [OverTime, OverTimeKept])
def test_a_neuron_that_runs_over_all_steps_is_found(neuron: Callable[[], nn.Module]) -> None:
    found = truth(net(neuron), images(), lambda m, x: m(torch.stack([x] * T)), ("1", "3"))
    counts = se.profile(net(neuron), [images()], time_steps=T)
    assert_rows(counts, found, read=["0"])
    assert counts.header["time"] == "repeat-axis0"
    x = torch.rand(T, B, 6, generator=torch.Generator().manual_seed(2))
    declared = se.profile(net(neuron), [x], time_steps=T, time="axis0")
    assert_rows(declared, truth(net(neuron), x, lambda m, x: m(x), ("1", "3")), read=["0"])


def test_a_neuron_that_runs_over_the_second_axis_is_found() -> None:
    found = truth(net(SecondAxis), images(), lambda m, x: m(torch.stack([x] * T, 1)), ("1", "3"), "samples")
    counts = se.profile(net(SecondAxis), [images()], time_steps=T)
    assert_rows(counts, found, read=["0"])
    assert counts.header["time"] == "repeat-axis1"


class WithState(nn.Module):
    """A cell whose potential is an argument and a result, in a loop."""

    class Cell(nn.Module):
        def forward(self, x: Tensor, u: Any = None) -> Any:
            u, spike = fire(x if u is None else 0.9 * u + x)
            return spike, u

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.cell, self.fc2 = nn.Linear(6, 8), self.Cell(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        u, outs = None, []
        for _ in range(T):
            spike, u = self.cell(2 * self.fc1(x), u)
            outs.append(self.fc2(spike))
        return torch.stack(outs).mean(0)


def test_a_cell_that_is_handed_its_potential_is_found() -> None:
    found = truth(WithState(), images(), lambda m, x: m(x), ("cell",))
    counts = se.profile(WithState(), [images()])
    assert_rows(counts, found, read=["fc1"])
    assert (counts.header["time"], counts.header["time_steps"]) == ("loop", T)
    assert sum(found.spikes["cell"]) > 0


def test_a_neuron_that_is_silent_in_the_first_batch_is_found() -> None:
    """The first batch leaves it silent, the second does not: it is a neuron in both."""
    quiet, loud = images() * 1e-3, images() * 3
    model = net(Attribute, 1)
    with torch.no_grad():
        for linear in (model[0], model[2]):  # type: ignore[index]
            linear.bias.zero_()
    counts = se.profile(model, [quiet, loud], time_steps=T)
    frame = counts.to_frame().set_index("layer")
    assert frame.loc["1", "op"].tolist() == ["neuron"] * T
    assert frame.loc["1", "spikes"].sum() > 0
    silent = se.profile(model, [quiet], time_steps=T).to_frame().set_index("layer")
    assert silent.loc["1", "op"].tolist() == ["neuron"] * T
    assert silent.loc["1", "spikes"].sum() == 0


class SignedSpikes(nn.Module):
    """Spikes of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        u = 0.9 * self.u + x
        spike = (u > 0.5).float() - (u < -0.5).float()
        self.u = u - 0.5 * spike
        return spike


class SeveralAtOnce(nn.Module):
    """As many spikes as fit into the potential, four at most, a quarter each."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        u = 0.9 * self.u + x
        spike = torch.round(torch.clamp(u, 0, 4)) / 4
        self.u = u - 4 * spike
        return spike


@pytest.mark.parametrize(("kind", "read"), [(SignedSpikes, "ternary"), (SeveralAtOnce, "integer")])
def test_a_neuron_that_gives_multiples_of_one_value_is_found(kind: type[nn.Module], read: str) -> None:
    x = 3 * images() - 1
    found = truth(net(kind), x, call, ("1", "3"))
    counts = se.profile(net(kind), [x], time_steps=T)
    assert counts.header["time"] == "call"
    assert_rows(counts, found, read=["0"])
    assert set(counts.to_frame()[lambda f: f["layer"] == "2"]["input_kind"]) == {read}


# --- what is no neuron --------------------------------------------------------------------------------------------


class Binarise(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return (x > 0.3).float()


class Watched(nn.Module):
    """Binarises, and notes its rate for a log: a tensor that changes, and is no state."""

    def forward(self, x: Tensor) -> Any:
        out = (x > 0.3).float()
        self.rate = out.mean()
        return out


class Explained(nn.Module):
    """Gives its margin beside its values, and takes nothing back."""

    def forward(self, x: Tensor) -> Any:
        return (x > 0.3).float(), x - 0.3


class AboveMean(nn.Module):
    """Compares channels with each other: what comes out follows from other entries, in both directions."""

    def forward(self, x: Tensor) -> Any:
        return (x > x.mean(1, keepdim=True)).float()


class Filtered(nn.Module):
    """Convolves with a kernel that is neither parameter nor layer, and fires: not a neuron alone."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.eye(8) * 2
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(0.9 * self.u + nn.functional.linear(x, self.kernel))
        return spike


class Normed(nn.Module):
    """Batch norm and neuron in one class: the norm must not be hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.u = nn.BatchNorm1d(8), 0.0

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(0.9 * self.u + self.bn(x))  # type: ignore[assignment, operator]
        return spike


NO_NEURON = {
    "binarise": Binarise,
    "watched": Watched,
    "explained": lambda: First(Explained()),
    "above the mean": AboveMean,
    "filtered": Filtered,
    "normed": Normed,
}


@pytest.mark.parametrize("name", NO_NEURON)
def test_what_is_more_or_less_than_a_neuron_is_counted_as_its_operations(name: str) -> None:
    model = net(NO_NEURON[name])
    found = truth(net(NO_NEURON[name]), images(), call, ())
    frame = se.profile(model, [images()], time_steps=T, time="call").to_frame()
    assert "neuron" not in set(frame["op"])
    assert frame[frame["layer"] == "4"]["sops"].tolist() == found.sops["4"]
    assert frame[frame["layer"].str.startswith("1")]["elementwise_ops"].sum() > 0


def test_weights_that_no_layer_holds_are_counted() -> None:
    frame = se.profile(net(Filtered), [images()], time_steps=T, time="call").to_frame()
    rows = frame[frame["layer"].str.startswith("1") & (frame["op"] == "linear")]
    assert rows["dense_macs"].tolist() == [64 * B] * T


# --- named by the user --------------------------------------------------------------------------------------------


class Graded(nn.Module):
    """Gives spikes as high as the potential is, so that it is not found by its output."""

    def __init__(self) -> None:
        super().__init__()
        self.u: Any = 0.0

    def forward(self, x: Tensor) -> Any:
        u = 0.9 * self.u + x
        spike = (u > 0.5).float() * u
        self.u = u - spike
        return spike


@pytest.mark.parametrize("named", [Graded, "Graded", f"{__name__}.Graded", "1"])
def test_a_neuron_is_named_by_class_dotted_name_or_layer(named: Any) -> None:
    layers = ("1",) if named == "1" else ("1", "3")
    found = truth(net(Graded), images() - 0.5, call, layers)
    counts = se.profile(net(Graded), [images() - 0.5], time_steps=T, time="call", neurons=[named])
    assert_rows(counts, found, read=["0"])
    assert set(counts.to_frame()[lambda f: f["layer"] == "2"]["input_kind"]) == {"real"}


def test_a_named_neuron_settles_time() -> None:
    assert se.profile(net(Graded), [images()], time_steps=T, neurons=["Graded"]).header["time"] == "call"
    assert "neuron" not in set(se.profile(net(Graded), [images()], time_steps=T, time="call").to_frame()["op"])


def test_a_wrong_name_says_the_nearest() -> None:
    with pytest.raises(ProfilingError, match=r"^neuron 'Gradet': .* no module of that class or name.*Graded"):
        se.profile(net(Graded), [images()], time_steps=T, neurons=["Gradet"])


@pytest.mark.parametrize("declared", [{"time_steps": T, "time": "call"}, {"time_steps": T}, {"time_steps": 1}])
@pytest.mark.parametrize("named", ["Normed", "Filtered"])
def test_a_named_neuron_that_holds_work_is_refused(named: str, declared: dict[str, Any]) -> None:
    with pytest.raises(ProfilingError, match=r"^neuron '1': it holds layers, products or weights"):
        se.profile(net(NO_NEURON[named.lower()]), [images()], **declared, neurons=[named])


# --- time ---------------------------------------------------------------------------------------------------------


def test_as_many_samples_as_steps_or_channels_is_no_riddle() -> None:
    """T = B = 3, and 3 channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), OverTime(), nn.Linear(3, 3))
    x = torch.rand(3, 3) * 3
    u, expected = torch.zeros(3, 3), []
    with torch.no_grad():
        for _ in range(3):
            u, spike = fire(0.9 * u + model[0](x))
            expected.append(3 * int(spike.sum()))
    counts = se.profile(model, [x], time_steps=3)
    assert counts.header["time"] == "repeat-axis0"
    assert counts.to_frame()[lambda f: f["layer"] == "2"]["sops"].tolist() == expected
    assert counts.samples == 3


@pytest.mark.parametrize("samples", [1, 2, T, B])
def test_any_number_of_samples_will_do_to_tell_time(samples: int) -> None:
    assert se.profile(net(Attribute), [images(samples)], time_steps=T).header["time"] == "call"
    assert se.profile(net(OverTime), [images(samples)], time_steps=T).header["time"] == "repeat-axis0"


@pytest.mark.parametrize("neuron", [Attribute, Buffer])
def test_one_time_step(neuron: Callable[[], nn.Module]) -> None:
    """T = 1: what is above the threshold spikes."""
    model = net(neuron)
    with torch.no_grad():
        fired = int((model[0](images()) > 0.5).sum())  # type: ignore[index, operator]
    frame = se.profile(model, [images()], time_steps=1).to_frame().set_index("layer")
    assert frame.loc["1", "spikes"] == fired
    assert frame.loc["2", "sops"] == 8 * fired


def test_time_that_cannot_be_told_says_how_to_declare_it() -> None:
    with pytest.raises(ProfilingError, match=r"^time_steps= is needed") as caught:
        se.profile(net(Attribute), [images()])
    message = str(caught.value)
    assert "\n" not in message
    assert "--time" in message
    assert "--time-steps" in message


def test_the_number_of_labels_says_which_axis_holds_samples() -> None:
    """(T, B, 6) looks like T samples; the labels of B samples say otherwise."""
    x, y = torch.rand(T, B, 6), torch.zeros(B, dtype=torch.long)
    found = se.profile(net(OverTime), [(x, y)], time_steps=T)
    assert (found.samples, found.header["time"]) == (B, "axis0")
    assert work(found) == work(se.profile(net(OverTime), [(x, y)], time_steps=T, time="axis0"))


def test_labels_that_fit_no_axis_are_refused() -> None:
    x, y = torch.rand(T, B, 6), torch.zeros(B + 2, dtype=torch.long)
    with pytest.raises(ProfilingError, match=r"declare it \(--time\)|declare where time is"):
        se.profile(net(OverTime), [(x, y)], time_steps=T)


def test_neurons_that_speak_for_different_times_are_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.single, self.over, self.fc = Attribute(), OverTime(), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Any:
            return self.over(torch.stack([self.fc(self.single(x))] * 4))

    with pytest.raises(ProfilingError, match=r"must say where time is"):
        se.profile(Mixed(), [images()], time_steps=T)


@pytest.mark.parametrize(("shape", "time"), [((4, B, 6), "axis0"), ((B, 4, 6), "axis1"), ((4, B, 6), "call-axis0")])
def test_the_loader_s_axis_must_be_as_long_as_declared(shape: tuple[int, ...], time: str) -> None:
    with pytest.raises(ProfilingError, match=rf"^time='{time}' wants .*T=3"):
        se.profile(net(Attribute), [torch.rand(shape)], time_steps=T, time=time)


@pytest.mark.parametrize("time", ["flat", "flat-batch"])
def test_rows_that_t_does_not_divide_are_refused(time: str) -> None:
    with pytest.raises(ProfilingError, match=rf"^time='{time}' wants .*with T=3, the loader gave \(14, 6\)"):
        se.profile(net(Attribute), [torch.rand(14, 6)], time_steps=T, time=time)


def test_a_declared_axis_says_how_many_steps_there_are() -> None:
    x = torch.rand(T, B, 6)
    counts = se.profile(net(Attribute), [x], time="call-axis0")
    assert counts.header["time_steps"] == T
    assert work(counts) == work(se.profile(net(Attribute), [x], time="call-axis0", time_steps=T))


def test_a_declared_order_does_not_say_how_many_steps_there_are() -> None:
    with pytest.raises(ProfilingError, match=r"^time='flat' needs time_steps="):
        se.profile(net(Attribute), [torch.rand(T * B, 6)], time="flat")


def test_a_declared_loop_tells_its_own_steps() -> None:
    assert se.profile(WithState(), [images()], time="loop").header["time_steps"] == T
    with pytest.raises(ProfilingError, match=r"that is time='loop'"):
        se.profile(WithState(), [images()], time="inside")


def test_a_loop_of_another_length_than_declared_is_refused() -> None:
    with pytest.raises(ProfilingError, match=r"called 3 times in a loop of 2 time steps"):
        se.profile(WithState(), [images()], time="loop", time_steps=2)


def test_a_flag_is_not_taken_for_a_state() -> None:
    """forward(x, give_potential=False) -> (spikes, potential): the second call must not get the potential as flag."""

    flags: list[Any] = []

    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(Attribute)

        def forward(self, x: Tensor, give_potential: bool = False) -> Any:
            flags.append(give_potential)
            out = self.net(x)
            return out, out

    se.profile(Flagged(), [images()], time_steps=T)
    assert set(map(str, flags)) == {"False"}


# --- bad input ----------------------------------------------------------------------------------------------------


def test_a_forward_that_needs_more_than_the_batch_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(Attribute)

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.net(x * mask)

    for declared in ({"time": "call"}, {}):
        with pytest.raises(ProfilingError, match=r"mask") as caught:
            se.profile(Two(), [images()], time_steps=T, **declared)
        assert "\n" not in str(caught.value)


class Fixed(nn.Module):
    """A state for batches of 4 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", torch.zeros(4, 8))

    def forward(self, x: Tensor) -> Any:
        self.u, spike = fire(0.9 * self.u + x)
        return spike


def test_a_state_of_another_batch_size_is_refused_with_a_hint() -> None:
    model = net(Attribute)
    model(images(4))
    with pytest.raises(ProfilingError, match=r"is a state left over from other batches \(reset it before\)"):
        se.profile(model, [images()], time_steps=T)


def test_a_state_of_a_fixed_size_is_profiled_where_time_is_declared() -> None:
    found = truth(net(Fixed), images(4), call, ("1", "3"), samples=4)
    assert_rows(se.profile(net(Fixed), [images(4)], time_steps=T, time="call"), found, samples=4, read=["0"])


def test_a_model_that_changes_between_batches_is_refused() -> None:
    calls = itertools.count(1)

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.more = net(Attribute), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            out = self.net(x)
            return self.more(out) if next(calls) > 12 else out

    with pytest.raises(ProfilingError, match=r"changes between (batches|calls)"):
        se.profile(Growing(), [images()] * 4, time_steps=T, time="call")


def test_a_module_in_two_places_is_two_rows() -> None:
    """The same neuron and the same linear layer twice: each call a row, each with its own work; one state."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.lif, self.head = nn.Linear(6, 6), Attribute(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.lif(self.fc(self.lif(self.fc(3 * x)))))

    model, x = Twice(), images()
    read: list[int] = []
    handle = model.fc.register_forward_pre_hook(lambda m, args: read.append(6 * int((args[0] != 0).sum())))
    with torch.no_grad():
        for _ in range(T):
            model(x)
    handle.remove()
    frame = se.profile(Twice(), [x], time_steps=T, time="call").to_frame()
    assert frame[frame["layer"] == "fc"]["sops"].tolist() == read[0::2]
    assert frame[frame["layer"] == "fc#call1"]["sops"].tolist() == read[1::2]
    assert frame[frame["op"] == "neuron"]["layer"].value_counts().to_dict() == {"lif": T, "lif#call1": T}


def test_a_network_without_weights() -> None:
    frame = se.profile(nn.Sequential(Attribute()), [images() * 2], time_steps=T).to_frame()
    assert set(frame["op"]) == {"neuron"}
    assert frame["spikes"].sum() > 0


@pytest.mark.parametrize("batch", [torch.tensor(1.0), torch.zeros(B, 0)])
def test_a_batch_with_nothing_in_it_is_refused(batch: Tensor) -> None:
    for declared in ({"time": "call"}, {}):
        with pytest.raises(ProfilingError) as caught:
            se.profile(net(Attribute), [batch], time_steps=T, **declared)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 6)]])
def test_no_samples_at_all_is_refused(batches: list[Tensor]) -> None:
    for declared in ({"time": "call"}, {}):
        with pytest.raises(ProfilingError, match=r"sample") as caught:
            se.profile(net(Attribute), batches, time_steps=T, **declared)
        assert "\n" not in str(caught.value)


def test_an_empty_batch_among_others_changes_nothing() -> None:
    expected = work(se.profile(net(Attribute), [images()], time_steps=T))
    assert work(se.profile(net(Attribute), [images(), torch.zeros(0, 6)], time_steps=T)) == expected


@pytest.mark.parametrize("declared", [{"time": "call"}, {}])
@pytest.mark.parametrize("change", ["float64 input", "half model", "meta model", "integer input"])
def test_another_number_format_or_device_is_one_line(change: str, declared: dict[str, str]) -> None:
    model, x = net(Attribute), images()
    if change == "half model":
        model = model.half()
    elif change == "meta model":
        model = model.to("meta")
    else:
        x = x.double() if change == "float64 input" else (x * 9).long()
    with pytest.raises(ProfilingError) as caught:
        se.profile(model, [x], time_steps=T, **declared)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_and_a_batch_of_one_format_count_alike(dtype: torch.dtype) -> None:
    found = truth(net(Attribute).to(dtype), images().to(dtype), call, ("1", "3"))
    counts = se.profile(net(Attribute).to(dtype), [images().to(dtype)], time_steps=T)
    assert_rows(counts, found, read=["0"])


def test_an_unknown_operation_is_listed_and_strict_refuses_it() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return torch.fft.fft(x).real

    model = nn.Sequential(nn.Linear(6, 8), Attribute(), Odd())
    with pytest.warns(UnsupportedOperationWarning, match=r"fft"):
        frame = se.profile(model, [images()], time_steps=T).to_frame()
    rows = frame[frame["op"] == "unsupported"]
    assert set(rows["layer"].str.partition("#")[0]) == {"2"}
    assert rows["sops"].isna().all()
    with pytest.raises(ProfilingError, match=r"--strict"):
        se.profile(model, [images()], time_steps=T, strict=True)


# --- the belief ---------------------------------------------------------------------------------------------------


def test_a_belief_says_what_spikes_where_time_is_and_what_is_not_covered() -> None:
    model = net(Attribute)
    report = inspect_model(model, [images()], time_steps=T)
    assert report.model == "Sequential"
    assert report.parameters == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    assert (report.interpretation.time, report.interpretation.time_steps) == ("call", T)
    assert report.spiking["layer"].tolist() == ["1", "3"]
    assert set(report.spiking["class"]) == {"Attribute"}
    assert set(report.spiking["known_by"]) == {"its output"}
    assert set(report.spiking["framework"]) == {"hand-written"}
    found = truth(net(Attribute), images(), call, ("1", "3"))
    assert report.spiking["neurons"].tolist() == [8, 8]
    assert report.spiking["rate"].tolist() == [sum(found.spikes[n]) / (8 * T * B) for n in ("1", "3")]
    assert report.operations["layer"].tolist() == ["0", "2", "4"]
    assert report.operations["input_kind"].tolist() == ["real", "binary", "binary"]
    assert report.not_covered == []
    text = report.lines()
    assert any("one call of the model is one time step" in line for line in text)
    assert any(line.startswith("not covered: nothing") for line in text)
    assert all("\n" not in line for line in text)


def test_a_belief_leaves_the_model_as_it_was() -> None:
    model = net(Attribute)
    model.train()
    before = everything(model)
    inspect_model(model, [images()], time_steps=T)
    assert everything(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_belief_lists_what_has_no_rule() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return torch.fft.fft(x).real

    report = inspect_model(nn.Sequential(nn.Linear(6, 8), Attribute(), Odd()), [images()], time_steps=T)
    assert [layer.partition("#")[0] for layer, _ in report.not_covered] == ["2"]


def test_a_belief_looks_at_a_few_samples_along_the_declared_axis() -> None:
    x = torch.rand(T, 20, 6)
    report = inspect_model(net(OverTime), [x], time_steps=T, time="axis0", samples=4)
    assert report.counts.samples == 4
    found = inspect_model(net(OverTime), [x], has_time=True, samples=4)
    assert (found.interpretation.time, found.interpretation.time_steps) == ("axis0", T)
    assert work(found.counts) == work(report.counts)


def test_a_belief_takes_numpy_labels_and_needs_none() -> None:
    report = inspect_model(net(Attribute), [(images(), np.zeros(B, dtype=np.int64))], time_steps=T)
    assert report.counts.samples == B


# --- inspect looks at the first samples, wherever they lie ---


class InLayout(nn.Module):
    """LIF and a read-out on (T, B, F) laid out as the loader has it."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.time_steps = layout, T
        self.lif, self.fc = LIF(leak=0.0), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "axis1":
            return self.fc(self.lif(x.transpose(0, 1))).transpose(0, 1)  # type: ignore[no-any-return]
        if self.layout == "flat":
            return self.fc(self.lif(x.unflatten(0, (T, -1)))).flatten(0, 1)  # type: ignore[no-any-return]
        if self.layout == "flat-batch":
            spikes = self.lif(x.unflatten(0, (-1, T)).transpose(0, 1))
            return self.fc(spikes).transpose(0, 1).flatten(0, 1)  # type: ignore[no-any-return]
        return self.fc(self.lif(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("layout", ["axis0", "axis1", "flat", "flat-batch"])
def test_a_belief_is_of_all_steps_of_the_first_samples(layout: str) -> None:
    current = torch.zeros(T, 4, 2)
    current[0] = 2.0  # every sample fires in the first step,
    current[:, 2:] = 2.0  # the last two in all steps
    laid_out = {
        "axis0": current,
        "axis1": current.transpose(0, 1),
        "flat": current.flatten(0, 1),
        "flat-batch": current.transpose(0, 1).flatten(0, 1),
    }[layout]
    rates = [
        inspect_model(InLayout(layout), [laid_out], time=layout, samples=samples).spiking["rate"].item()
        for samples in (1, 2, 3, 4, 9)
    ]
    assert rates == pytest.approx([1 / T, 1 / T, (2 / T + 1) / 3, (1 / T + 1) / 2, (1 / T + 1) / 2])


def test_what_strict_refuses_of_a_random_network_is_said_by_its_inspection() -> None:
    model = Does(lambda self, x: self.b(torch.bernoulli(x.sigmoid())), b=nn.Linear(6, 2))
    report = inspect_model(model, [torch.rand(4, 6)], time_steps=1)
    assert len(report.refused_by_strict()) == 1
    assert "draws random numbers" in report.refused_by_strict()[0]
    plain = inspect_model(Does(lambda self, x: self.b(x), b=nn.Linear(6, 2)), [torch.rand(4, 6)], time_steps=1)
    assert plain.refused_by_strict() == []
