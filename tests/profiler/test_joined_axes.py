"""Samples joined with windows, heads or rows, steps joined with samples: before layers, products, norms and neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
from own_networks import Does
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF

pytestmark = pytest.mark.usefixtures("one_thread")

T, B = 4, 3


def fire(v: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    v = v * 0.5 + x
    spike = (v > 0.3).float()
    return v * (1 - spike), spike


class OverTime(nn.Module):
    """Runs over all T steps of what it reads; time is on ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros(()), []
        for step in x.unbind(self.axis):
            v, spike = fire(v, step)
            out.append(spike)
        return torch.stack(out, self.axis)


class Flat(nn.Module):
    """Reads (T*B, ...) or (B*T, ...): TET, SNN-RAT, DSR, BrainCog's layer by layer."""

    def __init__(self, time_major: bool) -> None:
        super().__init__()
        self.time_major = time_major

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(0, (T, -1)) if self.time_major else x.unflatten(0, (-1, T)).transpose(0, 1)
        v, out = torch.zeros(()), []
        for step in y:
            v, spike = fire(v, step)
            out.append(spike)
        return torch.stack(out, 0 if self.time_major else 1).flatten(0, 1)


def seen_by(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """What a layer reads in a run."""
    read: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return read[0]


# --- windows ------------------------------------------------------------------------------------------------------


def windows_of(x: Tensor) -> Tensor:
    """(T, B, C, H, W) -> (T, B*4, C, H/2, W/2)."""
    t, b, c, h, w = x.shape
    return x.reshape(t, b, c, 2, h // 2, 2, w // 2).permute(0, 1, 3, 5, 2, 4, 6).reshape(t, b * 4, c, h // 2, w // 2)


def image_of(x: Tensor) -> Tensor:
    t, n, c, h, w = x.shape
    whole = x.reshape(t, n // 4, 2, 2, c, h, w).permute(0, 1, 4, 2, 5, 3, 6)
    return whole.reshape(t, n // 4, c, 2 * h, 2 * w)


class Windowed(nn.Module):
    """SGLFormer's local attention: convolution, neuron and product within windows of an image."""

    def __init__(self, make: Callable[[], nn.Module], kernel: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fire = nn.Conv2d(2, 4, 3, padding=1), make()
        self.inner, self.norm = nn.Conv2d(4, 4, kernel, padding=kernel // 2), nn.BatchNorm2d(4)
        self.inner_fire, self.last = make(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.repeat(T, 1, 1, 1)).unflatten(0, (T, -1))
        y = windows_of(self.fire(y))
        y = self.inner_fire(self.norm(self.inner(y.flatten(0, 1))).unflatten(0, (T, -1)))
        q = y.flatten(3).mT  # (T, B*4, tokens, C)
        y = ((q @ q.mT) @ q).mT.unflatten(3, y.shape[3:])
        return self.last(image_of(y).flatten(0, 1)).unflatten(0, (T, -1)).mean((0, 3, 4))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("make", [lambda: neuron.LIFNode(step_mode="m"), lambda: OverTime(0)], ids=["known", "found"])
def test_windows_joined_to_samples_are_found_and_counted(make: Callable[[], nn.Module], kernel: int) -> None:
    model, x = Windowed(make, kernel), torch.rand(B, 2, 4, 4) * 4
    counts = se.profile(model, [x])
    assert (counts.header["time"], counts.time_steps, counts.samples) == ("inside", T, B)
    frame = counts.to_frame()
    for layer in ("inner", "last"):
        read = seen_by(Windowed(make, kernel), layer, x)
        met = oracle.conv_meetings(oracle.indicator(read), model.get_submodule(layer)).reshape(T, -1).sum(1)
        rows = frame[frame["layer"] == layer]
        assert rows["sops"].tolist() == met.tolist()
        dense = oracle.conv_dense_macs(read.shape[2:], read.shape[2:], model.get_submodule(layer))
        assert rows["dense_macs"].tolist() == [dense * len(read) // T] * T
    assert frame[frame["layer"] == "inner_fire"]["neurons"].tolist() == [4 * 4 * 4] * T
    q = seen_by(Windowed(make, kernel), "last", x)
    assert q.shape == (T * B, 4, 4, 4)
    products = frame[frame["layer"] == "#matmul0"]
    assert set(products["groups"]) == {4}
    assert set(products["dense_macs"]) == {B * 4 * 4 * 4 * 4}


JOINED: dict[str, Callable[[Tensor], Tensor]] = {  # of (T, B, 2, 4, C)
    "windows behind samples": lambda x: x.flatten(1, 2),
    "windows in front of samples": lambda x: x.transpose(1, 2).flatten(1, 2),
    "steps, samples, windows": lambda x: x.flatten(0, 2),
    "samples, steps, windows": lambda x: x.transpose(0, 1).flatten(0, 2),
    "samples, windows, steps": lambda x: x.permute(1, 2, 0, 3, 4).flatten(0, 2),
    "windows, steps, samples": lambda x: x.permute(2, 0, 1, 3, 4).flatten(0, 2),
    "samples, windows, tokens": lambda x: x.flatten(1, 3),
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("kind", ["linear", "conv", "matmul"])
def test_joined_samples_are_told_apart_by_every_operation(kind: str, name: str) -> None:
    x = (torch.rand(T, B, 2, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.4).float()

    def forward(self: Any, x: Tensor) -> Tensor:
        y = JOINED[name](x)
        if kind == "matmul":
            y = y if y.shape[-2] == 4 else y.unsqueeze(-1)
            return y @ y.mT
        if kind == "linear":
            return self.linear(y)
        y = y.flatten(0, -3) if y.dim() > 3 else y
        return self.conv(y.mT if y.dim() == 3 else y)

    if name == "samples, windows, tokens" and kind == "conv":
        pytest.skip("(T, B*N, C) has no axis that a kernel could run along")
    model = Does(forward, linear=nn.Linear(5, 3), conv=nn.Conv1d(5, 3, 3, padding=1))
    counts = se.profile(model, [x], time_steps=T, time="axis0")
    frame, samples = counts.to_frame(), counts.per_sample
    assert samples is not None
    rows = frame.index[frame["op"] == kind].tolist()
    assert frame.loc[rows, "time_step"].tolist() == list(range(T))
    windows = x.flatten(0, 2)  # (T*B*2, tokens, C)
    if kind == "linear":
        met = 3 * x.sum((2, 3, 4)).int()
    elif kind == "conv":
        met = torch.from_numpy(oracle.conv_meetings(oracle.indicator(windows.mT), model.conv)).view(T, B, 2).sum(2)
    elif name == "samples, windows, tokens":  # every token with itself: (..., C, 1) @ (..., 1, C)
        met = (x.sum(-1) ** 2).sum((2, 3)).int()
    else:
        met = (windows.sum(1) ** 2).sum(1).view(T, B, 2).sum(2).int()
    assert [samples["sops"][row].tolist() for row in rows] == met.tolist()


# --- time folded into the batch -----------------------------------------------------------------------------------


class Folded(nn.Module):
    """The encoder repeats its input T times; neurons read steps and samples in one axis, or apart."""

    def __init__(self, neuron_: Callable[[], nn.Module], order: str, encode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.fire = nn.Conv2d(2, 4, 3), neuron_()
        self.b, self.fire2, self.head = nn.Conv2d(4, 3, 3), neuron_(), nn.Linear(12, 5)
        self.order, self.encode = order, encode

    def repeated(self, x: Tensor) -> Tensor:
        if self.order == "time major":
            ways: dict[str, Callable[[], Tensor]] = {
                "repeat": lambda: x.unsqueeze(0).repeat(T, 1, 1, 1, 1).flatten(0, 1),
                "cat": lambda: torch.cat([x for _ in range(T)], 0),
                "in place": lambda: x.clone().unsqueeze_(0).repeat(T, 1, 1, 1, 1).flatten(0, 1),
                "stack": lambda: torch.stack([x] * T).flatten(0, 1),
            }
        else:
            ways = {
                "repeat": lambda: x.unsqueeze(1).repeat(1, T, 1, 1, 1).flatten(0, 1),
                "cat": lambda: x.repeat_interleave(T, 0),
                "in place": lambda: x.clone().unsqueeze_(1).repeat(1, T, 1, 1, 1).flatten(0, 1),
                "stack": lambda: torch.stack([x] * T, 1).flatten(0, 1),
            }
        return ways[self.encode]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.fire2(self.b(self.fire(self.a(self.repeated(x))))).flatten(1)
        y = self.head(y)
        return y.unflatten(0, (T, -1)).mean(0) if self.order == "time major" else y.unflatten(0, (-1, T)).mean(1)


@pytest.mark.parametrize("encode", ["repeat", "cat", "in place", "stack"])
@pytest.mark.parametrize("order", ["time major", "sample major"])
def test_neurons_that_read_steps_and_samples_in_one_axis_are_found(order: str, encode: str) -> None:
    def make() -> nn.Module:
        return Flat(order == "time major")

    x = torch.rand(B, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * 2
    model = Folded(make, order, encode)
    read = {layer: seen_by(Folded(make, order, encode), layer, x) for layer in ("b", "head")}
    shape = (T, B) if order == "time major" else (B, T)
    steps = {layer: y.unflatten(0, shape).movedim(shape.index(T), 0) for layer, y in read.items()}
    expected = {
        "b": [int(oracle.conv_meetings(oracle.indicator(y), model.b).sum()) for y in steps["b"]],
        "head": [5 * int(y.count_nonzero()) for y in steps["head"]],
    }
    arguments: list[dict[str, Any]] = [
        {},
        {"time_steps": T},
        {"neurons": ["Flat"]},
        {"time": "inside", "time_steps": T},
    ]
    for given in arguments:
        counts = se.profile(model, [x], **given)
        frame = counts.to_frame()
        assert (counts.time_steps, counts.samples) == (T, B)
        assert set(frame.loc[frame["op"] == "neuron", "layer"]) == {"fire", "fire2"}
        for layer, sops in expected.items():
            assert frame[frame["layer"] == layer]["sops"].tolist() == sops, (given, layer)
    assert all(sum(sops) for sops in expected.values())


# --- where the loader's batch holds time --------------------------------------------------------------------------


def two_layers(fire_: nn.Module, first: nn.Module, last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in (first, last):
        layer.reset_parameters()  # type: ignore[operator]
    return nn.Sequential(first, fire_, last)


def test_time_on_the_last_axis_is_found_as_lava_dl_has_it() -> None:
    """(N, C, H, W, T), kernels of one step: slayer's layers."""

    def make() -> nn.Module:
        return two_layers(OverTime(-1), nn.Conv3d(2, 4, (3, 3, 1)), nn.Conv3d(4, 3, (2, 2, 1)))

    x = (torch.rand(B, 2, 5, 5, T, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    read = seen_by(make(), "2", x)
    expected = [int(oracle.conv_meetings(oracle.indicator(read[..., t : t + 1]), make()[2]).sum()) for t in range(T)]
    arguments: list[dict[str, Any]] = [{}, {"time_steps": T}, {"time": "axis-last"}]
    for given in arguments:
        counts = se.profile(make(), [x], **given)
        frame = counts.to_frame()
        assert (counts.header["time"], counts.time_steps, counts.samples) == ("axis-last", T, B)
        assert frame[frame["layer"] == "2"]["sops"].tolist() == expected
    assert sum(expected)


@pytest.mark.parametrize("given", [{}, {"time_steps": T}])
def test_time_on_the_second_axis_of_the_batch_is_found(given: dict[str, Any]) -> None:
    model = two_layers(OverTime(1), nn.Linear(6, 8), nn.Linear(8, 3))
    x = torch.rand(B, T, 6, generator=torch.Generator().manual_seed(1)) * 2
    counts = se.profile(model, [x], **given)
    assert (counts.header["time"], counts.time_steps, counts.samples) == ("axis1", T, B)
    read = seen_by(model, "2", x)
    frame = counts.to_frame()
    assert frame[frame["layer"] == "2"]["sops"].tolist() == [3 * int(read[:, t].sum()) for t in range(T)]


def test_steps_made_inside_from_as_many_channels_are_no_steps_of_the_loader() -> None:
    """(B, 4, F) with T = 4: every step reads all channels."""
    model = Does(
        lambda self, x: self.last(self.fire(self.first(x.flatten(1)).unsqueeze(1).repeat(1, T, 1))).mean(1),
        first=nn.Linear(4 * 6, 8), fire=OverTime(1), last=nn.Linear(8, 3),
    )  # fmt: skip
    counts = se.profile(model, [torch.rand(B, 4, 6)])
    assert (counts.header["time"], counts.samples) == ("inside", B)


@pytest.mark.parametrize("time_major", [True, False])
def test_a_flat_batch_of_hand_written_neurons_is_read_by_its_labels_or_refused_with_both_readings(
    time_major: bool,
) -> None:
    def make() -> nn.Module:
        return two_layers(Flat(time_major), nn.Linear(6, 8), nn.Linear(8, 3))

    x, time = torch.rand(T * B, 6, generator=torch.Generator().manual_seed(1)), "flat" if time_major else "flat-batch"
    counts = se.profile(make(), [(x, torch.zeros(B, dtype=torch.long))])
    assert (counts.header["time"], counts.time_steps, counts.samples) == (time, T, B)
    with pytest.raises(ProfilingError) as caught:
        se.profile(make(), [x], time_steps=T)
    message = str(caught.value)
    assert f"time='{time}' ({B} samples, of {T} time steps)" in message
    assert f"({T * B} samples, each shown {T} times)" in message
    assert f"--time {time}" in message
    assert f"snn-energy profile CHECKPOINT --data DATA --time repeat-axis0 --time-steps {T}" in message
    with pytest.raises(ProfilingError, match=rf"{B} samples, of {T} time steps \(snn-energy profile .* --time {time} "):
        se.profile(make(), [x])


def test_steps_in_front_are_read_by_the_labels_or_refused_with_both_readings() -> None:
    model, x = two_layers(OverTime(0), nn.Linear(6, 8), nn.Linear(8, 3)), torch.rand(T, B, 6)
    counts = se.profile(model, [(x, torch.zeros(B, dtype=torch.long))])
    assert (counts.header["time"], counts.time_steps, counts.samples) == ("axis0", T, B)
    with pytest.raises(ProfilingError, match=r"3 samples, of 4 time steps .* or 4 samples, each shown T times"):
        se.profile(model, [x])


def test_potentials_that_run_from_sample_to_sample_are_refused_and_a_batch_of_one_is_counted() -> None:
    """QKFormer's public code gives (T*B, C, N) to a multi-step neuron."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.fire(self.first(x.repeat(T, 1, 1)))
        return self.last(y).unflatten(0, (T, -1)).mean(0)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Does(forward, first=nn.Conv1d(2, 4, 1), fire=neuron.LIFNode(step_mode="m"), last=nn.Conv1d(4, 3, 1))

    x = torch.rand(B, 2, 5, generator=torch.Generator().manual_seed(1)) * 6
    with pytest.raises(ProfilingError) as caught:
        se.profile(make(), [x], time_steps=T)
    assert "fire reads (8, 4, 5) for two samples: the samples lie on the axis that it takes for time" in str(
        caught.value
    )
    assert "x.unflatten(0, (T, B))" in str(caught.value)
    assert "--batch-size 1" in str(caught.value)
    counts = se.profile(make(), list(x.split(1)), time_steps=T)
    frame = counts.to_frame()
    expected = torch.stack([seen_by(make(), "last", sample).sum((1, 2)) for sample in x.split(1)]).sum(0) * 3
    assert frame[frame["layer"] == "last"]["sops"].tolist() == expected.int().tolist()
    assert expected.sum()


# --- one step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_spikes_written_step_by_step_into_a_buffer(steps: int, axis: int) -> None:
    """A neuron written inline over the axis of time, of one step too."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        out, v = torch.zeros_like(y), torch.zeros(())
        for t in range(x.shape[axis]):
            v, spike = fire(v, y.select(axis, t))
            if axis == 0:
                out[t] = spike
            else:
                out[:, t] = spike
        self.fired = out
        return self.last(out)

    model = Does(forward, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    x = torch.rand(*((steps, B) if axis == 0 else (B, steps)), 6)
    frame = se.profile(model, [x], time_steps=steps, time=f"axis{axis}").to_frame()
    with torch.no_grad():
        model(x)
    fired = model.fired.movedim(axis, 0)  # type: ignore[union-attr, operator]
    rows = frame[frame["layer"] == "last"]
    assert rows["time_step"].tolist() == list(range(steps))
    assert rows["sops"].tolist() == [3 * int(step.sum()) for step in fired]


def test_a_class_token_and_a_row_of_each_step_are_no_two_time_steps() -> None:
    torch.manual_seed(0)
    lif, token = LIF(), nn.Parameter(torch.rand(1, 1, 4))

    def forward(model: Does, x: Tensor) -> Tensor:
        spikes = model.lif(x)
        steps = [model.fc(torch.cat([model.token.expand(1, 1, 4), spikes[t]], 1).mean(1)) for t in range(2)]
        return torch.stack(steps).mean(0)

    model = Does(forward, time_steps=2, lif=lif, fc=nn.Linear(4, 3))
    model.token = token
    frame = se.profile(model, [torch.rand(2, 1, 3, 4) * 3], time="axis0").to_frame()
    assert frame.loc[frame["layer"] == "fc", "time_step"].tolist() == [0, 1]
