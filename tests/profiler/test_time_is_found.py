"""Where time is: never guessed against a better reading, followed through shifts, joins, loops and states at rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF

pytestmark = pytest.mark.usefixtures("one_thread")


def random_spikes(*shape: int, seed: int = 1) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def multi_step_mlp() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(layer.Linear(6, 5), neuron.IFNode(), layer.Linear(5, 2))
    functional.set_step_mode(model, "m")
    return model


def sops_by_hand(model: nn.Module, x: Tensor) -> int:
    functional.reset_net(model)
    with torch.no_grad():
        middle = model[:2](x)  # type: ignore[index, operator]
    functional.reset_net(model)
    return int(x.sum()) * 5 + int(middle.sum()) * 2


# --- readings of a batch ---


@pytest.mark.parametrize("seed", range(5))
def test_t_steps_on_the_first_axis_are_time_and_not_samples_shown_t_times(seed: int) -> None:
    x = random_spikes(4, 3, 6, seed=seed)
    counts = se.profile(multi_step_mlp(), [x], time_steps=4)
    assert (counts.samples, counts.header["time"]) == (3, "axis0")
    assert counts.to_frame()["sops"].sum() == sops_by_hand(multi_step_mlp(), x)


def test_samples_of_another_number_are_shown_t_times() -> None:
    counts = se.profile(multi_step_mlp(), [random_spikes(7, 6)], time_steps=4)
    assert (counts.samples, counts.header["time"]) == (7, "repeat-axis0")


class FlatFrames(nn.Module):
    """Reads (T*B, ...) frames, time major, as most event-camera code does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fire, self.head = nn.Conv2d(2, 4, 3, padding=1), LIF(0.5, 0.5), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.head(self.fire(y.view(4, -1, *y.shape[1:])).flatten(2)).mean(0)
        return out


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_frames_that_may_be_samples_are_refused_with_both_readings(batch: int) -> None:
    frames = random_spikes(4 * batch, 2, 6, 6)
    with pytest.raises(ProfilingError) as caught:
        se.profile(FlatFrames(), [frames], time_steps=4)
    message = str(caught.value)
    assert f"time='flat' ({batch} sample{'s' if batch > 1 else ''}, of 4 time steps)" in message
    assert f"time='repeat-flat' ({4 * batch} samples, each shown 4 times)" in message
    assert "--time repeat-flat or --time flat" in message
    assert "\n" not in message
    for time, samples in (("flat", batch), ("repeat-flat", 4 * batch)):  # what the message names works
        assert se.profile(FlatFrames(), [frames], time_steps=4, time=time).samples == samples


@pytest.mark.parametrize(("labels", "time"), [(2, "flat"), (8, "repeat-flat")])
def test_labels_decide_between_frames_and_samples(labels: int, time: str) -> None:
    batch = (random_spikes(8, 2, 6, 6), torch.zeros(labels, dtype=torch.long))
    counts = se.profile(FlatFrames(), [batch], time_steps=4)
    assert (counts.samples, counts.header["time"]) == (labels, time)


# --- shifts along time ---


class Shift(nn.Module):
    """A synaptic delay of D steps."""

    def __init__(self, how: str, steps: int) -> None:
        super().__init__()
        self.how, self.steps = how, steps

    def forward(self, z: Tensor) -> Tensor:
        if self.how == "cat":
            return torch.cat([torch.zeros_like(z[: self.steps]), z[: -self.steps]])
        return torch.nn.functional.pad(z, (0, 0, 0, 0, self.steps, 0))[: -self.steps]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("how", ["cat", "pad", "layer.Delay"])
def test_a_delay_moves_spikes_to_later_steps_and_costs_nothing(how: str, steps: int) -> None:
    torch.manual_seed(0)
    shift = layer.Delay(steps) if how == "layer.Delay" else Shift(how, steps)
    model = nn.Sequential(layer.Linear(12, 10), neuron.IFNode(), shift, layer.Linear(10, 4))
    functional.set_step_mode(model, "m")
    x = random_spikes(4, 3, 12)
    functional.reset_net(model)
    with torch.no_grad():
        fired = model[1](model[0](x))  # type: ignore[operator]
    functional.reset_net(model)
    frame = se.profile(model, [x], time_steps=4, time="axis0").to_frame()
    expected = [0] * steps + [4 * int(step.sum()) for step in fired[:-steps]]
    assert frame[frame["layer"] == "3"]["sops"].tolist() == expected
    assert set(frame["layer"]) == {"0", "1", "3"}


# --- what is joined ---


def branches(join: Callable[[Tensor, Tensor], Tensor], steps: int) -> pd.DataFrame:
    """A loop over time whose steps join two branches of spikes."""
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor:
        functional.reset_net(self)
        out = [self.head(self.n3(self.f(join(self.n1(self.a(x)), self.n2(self.b(x)))))) for _ in range(steps)]
        return torch.stack(out).mean(0)

    modules = {"a": nn.Linear(6, 8), "b": nn.Linear(6, 8), "f": nn.Linear(8, 8), "head": nn.Linear(8, 4)}
    model = Does(forward, **modules, **{name: neuron.IFNode(0.3) for name in ("n1", "n2", "n3")})
    return se.profile(model, [random_spikes(3, 6)], time_steps=steps, time="loop").to_frame()


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("how", ["sum", "mean", "amax"])
def test_branches_that_are_stacked_in_a_step_are_no_time_steps(how: str, steps: int) -> None:
    stacked = branches(lambda a, b: getattr(torch.stack([a, b]), how)(0), steps)
    plain = branches(lambda a, b: a + b, steps)
    for name in ("f", "n3", "head"):
        rows, expected = (frame[frame["layer"] == name] for frame in (stacked, plain))
        assert rows["time_step"].tolist() == expected["time_step"].tolist()
        assert rows["dense_macs"].tolist() == expected["dense_macs"].tolist()
    assert not stacked["layer"].str.contains("#call").any()


@pytest.mark.parametrize("how", ["repeat", "expand", "stack"])
def test_an_encoder_s_output_repeated_on_the_second_axis_is_time(how: str) -> None:
    """The encoder runs once, its output is repeated to (B, T, ...)."""
    torch.manual_seed(0)

    class OverTime(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            v, out = 0 * x[:, 0], []
            for t in range(x.shape[1]):
                v = v * 0.5 + x[:, t]
                out.append((v > 1).float())
                v = v * (1 - out[-1])
            return torch.stack(out, 1)

    fired: list[Tensor] = []

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.encode(x)
        again = {"stack": lambda: torch.stack([x] * 4, 1), "repeat": lambda: x.unsqueeze(1).repeat(1, 4, 1),
                 "expand": lambda: x.unsqueeze(1).expand(-1, 4, -1)}[how]()  # fmt: skip
        fired.append(self.fire(again))
        out: Tensor = self.head(fired[-1].flatten(0, 1)).view(x.shape[0], 4, -1).mean(1)
        return out

    model = Does(forward, encode=nn.Linear(6, 8), fire=OverTime(), head=nn.Linear(8, 3))
    x = torch.rand(3, 6) * 3
    frame = se.profile(model, [x]).to_frame()
    fired.clear()
    model(x)
    assert frame[frame["layer"] == "head"]["sops"].tolist() == [3 * int(fired[0][:, t].sum()) for t in range(4)]
    assert frame[frame["layer"] == "encode"]["time_step"].tolist() == [-1]


def test_an_axis_that_is_inserted_in_place_is_followed() -> None:
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor, in_place: bool) -> Tensor:
        x = x.clone()
        x = x.unsqueeze_(0) if in_place else x.unsqueeze(0)
        y = self.fire(self.first(x.repeat(3, 1, 1)))
        return self.head(y.transpose_(0, 1) if in_place else y.transpose(0, 1)).mean(1)

    frames = []
    for in_place in (False, True):
        torch.manual_seed(0)
        model = Does(lambda self, x, at=in_place: forward(self, x, at), 3, first=nn.Linear(6, 8), fire=LIF(0.5, 0.4),
                     head=nn.Linear(8, 2))  # fmt: skip
        frames.append(se.profile(model, [random_spikes(4, 6)]).to_frame())
    pd.testing.assert_frame_equal(*frames)


# --- layers within loops, states at rest ---


class LoopedConv(nn.Conv2d):
    """A convolution that loops over time within its forward (MS-ResNet)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([nn.functional.conv2d(x[t], self.weight, self.bias) for t in range(x.shape[0])])


class FlatConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.flatten(0, 1))
        return y.view(*x.shape[:2], *y.shape[1:])


def test_one_layer_that_loops_over_time_is_one_layer() -> None:
    frames = []
    for conv in (FlatConv, LoopedConv):
        torch.manual_seed(0)
        model = Does(lambda self, x: self.b(self.fire(self.a(x))).mean(0), a=conv(3, 8, 3), fire=LIF(0.5, 0.3),
                     b=conv(8, 4, 3))  # fmt: skip
        x = torch.rand(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        frames.append(se.profile(model, [x], time_steps=4, time="axis0").to_frame())
    flat, looped = (frame[frame["op"] == "conv"] for frame in frames)
    for column in ("layer", "time_step", "sops", "dense_macs", "weights"):
        assert looped[column].tolist() == flat[column].tolist(), column


RECURRENT_FORMS: dict[str, Callable[[nn.Linear, Tensor], Tensor]] = {
    "layer": lambda r, s: r(s),
    "einsum": lambda r, s: torch.einsum("ab,cb->ac", s, r.weight),
    "einsum of a tuple": lambda r, s: torch.einsum("ab,cb->ac", (s, r.weight)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("form", RECURRENT_FORMS)
@pytest.mark.parametrize("first", ["input", "state"])
def test_a_recurrent_layer_works_in_the_step_that_reads_its_result(first: str, form: str) -> None:
    """r reads the spikes of the step before; at step 0 a state of zeros: all dense MACs, no SOPs."""
    torch.manual_seed(0)
    steps, seen = 5, []

    def forward(self: Any, x: Tensor) -> Tensor:
        seen.clear()
        state, spikes, out = torch.zeros(3, 10), torch.zeros(3, 10), 0
        for t in range(steps):
            seen.append(10 * int(spikes.count_nonzero()))
            terms = [lambda t=t: self.f(x[t]), lambda s=spikes: RECURRENT_FORMS[form](self.r, s)]
            current = sum(term() for term in (terms if first == "input" else terms[::-1]))
            state = 0.9 * state + current
            spikes = (state > 0.5).float()
            state = state * (1 - spikes)
            out = out + self.o(spikes)
        return out  # type: ignore[return-value]

    model = Does(forward, f=nn.Linear(20, 10), r=nn.Linear(10, 10, bias=False), o=nn.Linear(10, 3))
    nn.init.normal_(model.f.weight, std=0.7)  # type: ignore[union-attr, arg-type]
    frame = se.profile(model, [random_spikes(steps, 3, 20)], time_steps=steps, time="axis0").to_frame()
    rows = frame[(frame["op"] == "linear") & (frame["layer"] == ("r" if form == "layer" else "#linear0"))]
    expected = list(seen)
    assert rows["time_step"].tolist() == list(range(steps))
    assert rows["sops"].tolist() == expected
    assert rows["dense_macs"].tolist() == [3 * 100] * steps
    assert any(expected)


def test_a_layer_on_learned_queries_is_counted_for_every_sample() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.project, self.embed = nn.Parameter(torch.rand(1, 4, 6)), nn.Linear(6, 8), nn.Linear(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.project(self.queries) @ self.embed(x).transpose(1, 2)

    for samples in (1, 3):
        frame = se.profile(Queries(), [torch.rand(samples, 7, 5)], time_steps=1).to_frame().set_index("layer")
        assert frame.loc["project", "dense_macs"] == samples * 4 * 6 * 8
        assert frame.loc["project", "weights"] == 48


def test_spikes_before_the_first_update_are_a_zero_step_of_the_time_axis() -> None:
    """SpyTorch: the spikes of a step come from the potential before its update, so the first ones are constants."""
    torch.manual_seed(0)
    first, second, x = torch.randn(20, 12), torch.randn(12, 4), random_spikes(3, 5, 20)
    record = []

    def forward(self: Any, x: Tensor) -> Tensor:
        h, potential, fired = torch.einsum("abc,cd->abd", x, first), torch.zeros(3, 12), []
        for t in range(5):
            out = (potential > 1).float()
            potential = (0.9 * potential + h[:, t]) * (1 - out)
            fired.append(out)
        record.append(torch.stack(fired, 1))
        return torch.einsum("abc,cd->abd", record[-1], second).max(1)[0]

    frame = se.profile(Does(forward), [x], time_steps=5, time="axis1").to_frame()
    with torch.no_grad():
        forward(None, x)
    assert frame["sops"].sum() == int(x.sum()) * 12 + int(record[-1].sum()) * 4


# --- one time step ---


def over_the_first_axis() -> nn.Module:
    torch.manual_seed(0)
    model = Does(lambda self, x: self.out(self.lif(self.fc(x))), fc=nn.Linear(6, 5), lif=LIF(), out=nn.Linear(5, 2))
    nn.init.uniform_(model.fc.weight, 0.0, 0.5)  # type: ignore[union-attr, arg-type]
    return model


def in_a_loop() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.lif.reset()
        return torch.stack([self.out(self.lif(self.fc(x[t]))) for t in range(self.steps)]).mean(0)

    torch.manual_seed(0)
    model = Does(forward, fc=nn.Linear(6, 5), lif=neuron.LIFNode(), out=nn.Linear(5, 2))
    model.steps = 1  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("make", [over_the_first_axis, in_a_loop])
@pytest.mark.parametrize("samples", [2, 5])
def test_one_step_of_several_samples_is_no_sample(make: Callable[[], nn.Module], samples: int) -> None:
    x = 4 * random_spikes(1, samples, 6)
    counts = se.profile(make(), [x], time_steps=1)
    assert counts.samples == samples
    assert counts.per_sample is not None
    rows = counts.rows.set_index("layer")
    assert rows.loc["fc", "input_elements"] == 6
    assert rows.loc["fc", "input_nonzeros"] == int((x != 0).sum())


def test_one_sample_of_an_image_or_of_tokens_is_no_step_of_several_samples() -> None:
    torch.manual_seed(0)
    image = Does(
        lambda self, x: self.out(self.lif(self.conv(x).unsqueeze(0)).squeeze(0).flatten(1)),
        conv=nn.Conv2d(3, 4, 3), lif=LIF(), out=nn.Linear(64, 2),
    )  # fmt: skip
    tokens = Does(
        lambda self, x: self.out(self.lif(self.fc(x).unsqueeze(0)).squeeze(0).mean(1)),
        fc=nn.Linear(6, 5), lif=LIF(), out=nn.Linear(5, 2),
    )  # fmt: skip
    for model, x in ((image, torch.rand(1, 3, 6, 6)), (tokens, torch.rand(1, 7, 6))):
        counts = se.profile(model, [x, x.repeat(2, *[1] * (x.dim() - 1))], time_steps=1)
        assert counts.samples == 3


def test_a_layer_that_runs_in_the_last_step_alone_repeats_nothing() -> None:
    """Its input is that of every step, but it runs once: an encoder that is charged once must keep it."""
    torch.manual_seed(0)
    model = Does(lambda self, x: self.head(self.fc(x)[-1]), fc=nn.Linear(6, 5), head=nn.Linear(5, 2))
    rows = se.profile(model, [random_spikes(3, 6)], time_steps=4, time="repeat-axis0").rows
    assert rows.loc[rows["layer"] == "fc", "input_repeated"].tolist() == [False, True, True, True]
    assert rows.loc[rows["layer"] == "head", ["time_step", "input_repeated"]].to_numpy().tolist() == [[3, False]]


@pytest.mark.parametrize("samples", [1, 3])
def test_copies_joined_along_the_features_are_no_time_steps(samples: int) -> None:
    """As many copies as there are steps, in a loop of which nothing says where time is."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.lif.reset()
        outs = []
        for t in range(2):
            hidden = self.fc(x[:, t])
            outs.append(self.lif(self.wide(torch.cat([hidden, hidden], -1))))
        return torch.stack(outs).mean(0)

    torch.manual_seed(0)
    model = Does(forward, fc=nn.Linear(6, 5), wide=nn.Linear(10, 4), lif=neuron.LIFNode())
    rows = se.profile(model, [random_spikes(samples, 2, 6)], time_steps=2).rows
    assert rows.loc[rows["layer"] == "wide", "time_step"].tolist() == [0, 1]


FRAME_OF_A_STEP: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "indexed": lambda x: [x[:, t] for t in range(4)],
    "selected": lambda x: [x.select(1, t) for t in range(4)],
    "taken apart": lambda x: list(x.unbind(1)),
    "moved to the front": lambda x: list(x.transpose(0, 1)),
    "moved and copied": lambda x: list(x.transpose(0, 1).contiguous()),
    "cut": lambda x: [part.squeeze(1) for part in x.chunk(4, 1)],
    "doubled": lambda x: [2 * x[:, t] for t in range(4)],
}


@pytest.mark.parametrize("how", FRAME_OF_A_STEP)
def test_frames_that_a_loop_reads_one_by_one_are_no_repeated_input(how: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.lif.reset()
        return torch.stack([self.out(self.lif(self.fc(frame))) for frame in FRAME_OF_A_STEP[how](x)]).mean(0)

    torch.manual_seed(0)
    model = Does(forward, fc=nn.Linear(6, 5), lif=neuron.LIFNode(), out=nn.Linear(5, 2))
    x = random_spikes(3, 4, 6)
    for options in ({}, {"time": "loop"}, {"time": "axis1"}):
        rows = se.profile(model, [(x, torch.arange(3))], time_steps=4, **options).rows
        assert rows.loc[rows["layer"] == "fc", "input_repeated"].tolist() == [False] * 4


def test_samples_that_a_loop_reads_in_every_round_are_repeated() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.lif.reset()
        return torch.stack([self.out(self.lif(self.fc(x.flatten(1)))) for _ in range(4)]).mean(0)

    torch.manual_seed(0)
    model = Does(forward, fc=nn.Linear(6, 5), lif=neuron.LIFNode(), out=nn.Linear(5, 2))
    rows = se.profile(model, [random_spikes(5, 3, 2)], time_steps=4).rows
    assert rows.loc[rows["layer"] == "fc", "input_repeated"].tolist() == [False, True, True, True]


class Phases(nn.Module):
    """Neurons inline in a loop over its own steps: the same image in each."""

    def __init__(self, layer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.a, self.o = layer, head

    def forward(self, x: Tensor) -> Tensor:
        v, y = torch.zeros(()), torch.zeros(())
        for _ in range(4):
            v = v + self.a(x)
            spike = (v >= 0.5).float()
            v, y = v - spike, y + self.o(spike)
        return y


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("sizes", [[4], [3, 1], [1, 3], [4, 4]])
def test_a_batch_of_as_many_samples_as_steps_is_no_axis_of_time(kind: str, sizes: list[int]) -> None:
    layers = {"linear": (nn.Linear(10, 3), nn.Linear(3, 2)), "conv": (nn.Conv1d(2, 3, 3), nn.Conv1d(3, 2, 3))}
    model, shape = Phases(*layers[kind]), {"linear": (10,), "conv": (2, 9)}[kind]
    x = torch.rand(sum(sizes), *shape)
    counts = se.profile(model, x.split(sizes), time_steps=4)
    alone = se.profile(model, x.split(3), time_steps=4, time="loop")
    assert (counts.header["time"], counts.samples) == ("loop", sum(sizes))
    pd.testing.assert_frame_equal(counts.rows, alone.rows)
    with pytest.raises(ProfilingError, match="declare time='loop'"):
        se.profile(model, x[:4].split(4), time_steps=4, time="axis0")


def test_a_loop_over_the_axis_in_front_is_still_declared_as_such() -> None:
    class Steps(Phases):
        def forward(self, x: Tensor) -> Tensor:
            v, y = torch.zeros(()), torch.zeros(())
            for step in x:
                v = v + self.a(step)
                spike = (v >= 0.5).float()
                v, y = v - spike, y + self.o(spike)
            return y

    counts = se.profile(Steps(nn.Linear(10, 3), nn.Linear(3, 2)), [torch.rand(4, 5, 10)], time_steps=4, time="axis0")
    assert (counts.samples, counts.header["time"]) == (5, "axis0")
