"""States wherever a network keeps them, and networks that cannot be counted as they are: put back, or refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.jobs.profile_run import ProfileRequest, profile_run
from snn_energy.models.neurons import LIF
from snn_energy.profiler.run import RandomNetworkWarning

Cli = Callable[..., tuple[int, str, str]]
STEPS = 3


class Potential(NamedTuple):
    v: Tensor


def fire(v: Tensor | None, current: Tensor) -> tuple[Tensor, Tensor]:
    v = current if v is None else 0.8 * v + current
    spike = (v > 0.4).float()
    return v - 0.4 * spike, spike


class Kept(nn.Module):
    """Two layers of neurons whose potentials lie in one container; the forward makes the steps in a loop."""

    def __init__(self, make: Callable[[], Any], get: Callable[[Any], Any], put: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.held, self.get, self.put = make(), get, put

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 4)
        for _ in range(STEPS):
            v, spike = fire(self.get(self.held), self.first(x))
            self.put(self.held, v)
            out = out + self.second(spike)
        return out


def keep_in(where: str) -> Kept:
    def first(held: Any) -> Any:
        return None if held[0] is None else held[0][0]

    def second(held: Any, v: Tensor) -> None:
        held[0] = Potential(v)

    def inner(held: Any, v: Tensor) -> None:
        held["a"]["v"] = v

    def attribute(held: Any, v: Tensor) -> None:
        held.v = v

    places: dict[str, tuple[Any, Any, Any]] = {
        "a list of named tuples": (lambda: [None, None], first, second),
        "a dict of dicts": (lambda: {"a": {"v": None}}, lambda held: held["a"]["v"], inner),
        "an object's attribute": (lambda: SimpleNamespace(v=None), lambda held: held.v, attribute),
    }
    return Kept(*places[where])


@pytest.mark.parametrize("where", ["a list of named tuples", "a dict of dicts", "an object's attribute"])
def test_a_state_is_put_back_before_every_batch_wherever_it_is_kept(where: str) -> None:
    x = torch.rand(8, 6)

    def sops(*batches: Tensor) -> list[int]:
        frame = se.profile(keep_in(where), batches, time_steps=STEPS, time="loop").to_frame()
        found: list[int] = frame.loc[frame["layer"] == "second", "sops"].tolist()
        return found

    with torch.no_grad():
        model, spikes = keep_in(where), []
        v = None
        for _ in range(STEPS):
            v, spike = fire(v, model.first(x))
            spikes.append(int(spike.sum()))
    assert sops(x) == sops(x[:4], x[4:]) == sops(*x.split(2)) == [4 * n for n in spikes]


class Hebb(nn.Module):
    """Its weights grow as it runs."""

    def __init__(self, learn: Callable[[nn.Linear], None]) -> None:
        super().__init__()
        self.fc, self.lif, self.learn = nn.Linear(6, 4), Step(), learn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lif(self.fc(x))
        self.learn(self.fc)
        return out


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        self.v, spike = fire(self.v, current)
        return spike


def in_place(layer: nn.Linear) -> None:
    layer.weight.mul_(1.3)


def behind_autograd(layer: nn.Linear) -> None:
    layer.weight.data.mul_(1.3)


def anew(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight * 1.3)


@pytest.mark.parametrize("learn", [in_place, behind_autograd, anew])
def test_a_network_that_learns_as_it_runs_is_refused_and_has_its_weights_back(learn: Any) -> None:
    model = Hebb(learn)
    before = model.fc.weight.detach().clone()
    with pytest.raises(ProfilingError, match="changes its own weights"):
        se.profile(model, [torch.rand(5, 6)], time_steps=STEPS)
    assert torch.equal(model.fc.weight, before)


def test_a_state_that_nobody_can_put_back_is_refused() -> None:
    calls = itertools.count(1)

    class Drifts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 4), Step()

        def forward(self, x: Tensor) -> Tensor:
            gain = 1.3 ** next(calls)
            out: Tensor = self.lif(self.fc(x) * gain)
            return out + gain

    with pytest.raises(ProfilingError, match="something else in a second run"):
        se.profile(Drifts(), [torch.rand(5, 6)], time_steps=STEPS)


def test_a_random_encoder_is_no_state() -> None:
    class Poisson(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 4), Step()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lif(self.fc((torch.rand_like(x) < x).float()))
            return out

    with pytest.warns(RandomNetworkWarning, match="draws random numbers"):
        counts = se.profile(Poisson(), [torch.rand(5, 6)], time_steps=STEPS)
    assert counts.header["time"] == "call"


class Depthwise(LIF):
    """A neuron of ours with a convolution in it that its parameters' shapes do not give away."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(4, 1, 3, 3))

    def forward(self, current: Tensor) -> Tensor:
        flat = nn.functional.conv2d(current.flatten(0, 1), self.kernel, padding=1, groups=4)
        return super().forward(flat.unflatten(0, current.shape[:2]))


class Lateral(LIF):
    """And one whose weights are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mixing", torch.rand(6, 6))

    def forward(self, current: Tensor) -> Tensor:
        return super().forward(nn.functional.linear(current, self.get_buffer("mixing")))


@pytest.mark.parametrize("declared", [{}, {"time": "inside"}])
@pytest.mark.parametrize(
    ("neuron", "shape", "macs"), [(Depthwise, (2, 4, 6, 6), 4 * 36 * 9), (Lateral, (2, 5, 6), 5 * 36)]
)
def test_work_within_a_subclass_of_a_neuron_is_counted(
    neuron: type[nn.Module], shape: tuple[int, ...], macs: int, declared: dict[str, Any]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = neuron()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.neuron(x.unsqueeze(0).repeat(STEPS, *[1] * x.dim()))
            return out.mean(0)

    frame = se.profile(Net(), [torch.rand(shape)], time_steps=STEPS, **declared).to_frame()
    assert frame.loc[frame["op"].isin(["conv", "linear"]), "dense_macs"].sum() == STEPS * shape[0] * macs


class Loops(nn.Module):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.fc, self.a, self.b, self.times = nn.Linear(6, 6), Step(), Step(), (first, second)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for _ in range(self.times[0]):
            out = self.a(self.fc(x))
        for _ in range(self.times[1]):
            out = self.b(self.fc(x))
        return out


@pytest.mark.parametrize(("times", "given"), [((4, 4), 2), ((4, 2), None), ((4, 2), 3)])
def test_a_number_of_time_steps_that_does_not_fit_the_calls_is_refused(
    times: tuple[int, int], given: int | None
) -> None:
    with pytest.raises(ProfilingError, match="times, which does not fit"):
        se.profile(Loops(*times), [torch.rand(5, 6)], time_steps=given)


def test_a_delay_is_no_neuron() -> None:
    class Delay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            out = 0 * x if self.last is None else self.last
            self.last = x
            return out

    model = nn.Sequential(nn.Linear(6, 6), Step(), Delay(), nn.Linear(6, 2))
    rows = se.profile(model, [torch.rand(5, 6)], time_steps=STEPS).rows
    assert rows.loc[rows["op"] == "neuron", "layer"].unique().tolist() == ["1"]


def test_silent_layers_of_a_class_that_was_found_are_neurons_too() -> None:
    class Threshold(nn.Module):
        def __init__(self, level: float) -> None:
            super().__init__()
            self.v: Tensor | None = None
            self.level = level

        def forward(self, current: Tensor) -> Tensor:
            self.v = current if self.v is None else self.v + current
            spike = (self.v > self.level).float()
            self.v = self.v * (1 - spike)
            return spike

    model = nn.Sequential(nn.Linear(6, 6), Threshold(0.3), nn.Linear(6, 2), Threshold(1e9))
    rows = se.profile(model, [torch.rand(5, 6)], time_steps=STEPS).rows
    assert rows.loc[rows["op"] == "neuron", "layer"].unique().tolist() == ["1", "3"]


def test_cells_of_several_layers_are_listed_not_counted_under_changing_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for _ in range(STEPS):
                state = self.cell(x, state)
            return state[0]  # type: ignore[index]

    with pytest.warns(UserWarning, match="no counting rule for 'lstm_cell'"):
        rows = se.profile(Net(), [torch.rand(5, 6)], time_steps=STEPS, time="loop").rows
    assert set(rows["op"]) == {"unsupported"}


@pytest.mark.parametrize("way", ["repeat", "expand", "repeat_interleave"])
def test_samples_in_front_of_time_are_followed_inside_a_network(way: str) -> None:
    class SecondAxis(nn.Module):
        def forward(self, current: Tensor) -> Tensor:
            v, out = torch.zeros_like(current[:, 0]), []
            for t in range(STEPS):
                v, spike = fire(v, current[:, t])
                out.append(spike)
            return torch.stack(out, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.neuron, self.fc = nn.Conv2d(1, 2, 3), SecondAxis(), nn.Linear(32, 3)
            nn.init.uniform_(self.conv.weight, -0.1, 0.2)

        def forward(self, x: Tensor) -> Tensor:
            if way == "repeat_interleave":
                flat = x.repeat_interleave(STEPS, 0)
            else:
                wide = x.unsqueeze(1)
                flat = wide.repeat(1, STEPS, 1, 1, 1) if way == "repeat" else wide.expand(-1, STEPS, -1, -1, -1)
                flat = flat.flatten(0, 1)
            spikes = self.neuron(self.conv(flat).unflatten(0, (len(x), STEPS)))
            out: Tensor = self.fc(spikes.flatten(2)).mean(1)
            self.seen = spikes
            return out

    model, x = Net(), 3 * torch.rand(5, 1, 6, 6)
    frame = se.profile(model, [x], time_steps=STEPS).to_frame()
    with torch.no_grad():
        model(x)
    spikes = [int(model.seen[:, t].sum()) for t in range(STEPS)]
    assert frame.loc[frame["layer"] == "fc", "sops"].tolist() == [3 * n for n in spikes]
    assert frame.loc[frame["op"] == "neuron", "spikes"].tolist() == spikes
    assert min(spikes) > 0


def test_more_or_fewer_labels_than_samples_are_refused() -> None:
    with pytest.raises(ProfilingError, match="3 labels for 5 samples"):
        se.profile(nn.Linear(6, 2), [(torch.rand(5, 6), torch.zeros(3, dtype=torch.int64))], time_steps=1)


NET = """
import sys
import torch
from torch import nn

class Neuron(nn.Module):
    def __init__(self, level):
        super().__init__()
        self.v, self.level = None, level

    def forward(self, current):
        self.v = current if self.v is None else 0.9 * self.v + current
        spike = (self.v > self.level).float()
        self.v = self.v - self.level * spike
        return spike

def net(level=0.3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Neuron(level), nn.Linear(8, 10))

def leaves():
    sys.exit(0)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(NET)
    return tmp_path


def command(level: float = 0.3, out: str = "c.json", model: str = "mine.py:net") -> list[str]:
    arguments = ["--model-args", f"level={level}", "--data", "digits", "--samples", "40", "--batch-size", "10"]
    return ["profile", "--model", model, *arguments, "--time-steps", "3", "-o", out]


def test_a_network_that_leaves_the_program_is_told_in_one_line(net: Path, cli: Cli) -> None:
    code, _, err = cli("profile", "--model", "mine.py:leaves", "--data", "digits", "--time-steps", "3", "-o", "c.json")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "mine.py:leaves: raised SystemExit" in err


def half_done(net: Path) -> None:
    """Parts of a run with level 0.3 that was stopped half-way."""

    def stop(done: int) -> None:
        if done == 20:
            raise ProfilingError("enough")

    request = ProfileRequest(None, "digits", 40, model="mine.py:net", arguments={"level": 0.3}, time_steps=3)
    with pytest.raises(ProfilingError, match="enough"):
        profile_run(request, parts="c.json.parts", batch_size=10, save_every_s=0.0, on_batch=stop)
    assert list((net / "c.json.parts").glob("*.npz"))


def test_parts_of_a_network_with_another_threshold_are_refused(net: Path, cli: Cli) -> None:
    half_done(net)
    code, _, err = cli(*command(level=0.2))
    assert code == 1
    assert "another run" in err


def test_parts_of_another_code_are_refused(net: Path, cli: Cli) -> None:
    half_done(net)
    (net / "mine.py").write_text(NET.replace("0.9", "0.5"))
    code, _, err = cli(*command())
    assert code == 1
    assert "another run (another code" in err


def test_the_same_command_goes_on_where_it_stopped(net: Path, cli: Cli) -> None:
    half_done(net)
    assert cli(*command())[0] == 0
    (net / "whole").mkdir()
    assert cli(*command(out="whole/c.json"))[0] == 0
    one, other = (json.loads((net / name).read_text())["rows"] for name in ("c.json", "whole/c.json"))
    assert one == other


@pytest.mark.parametrize("out", ["mine.py", "weights.pt"])
def test_what_builds_the_network_is_not_overwritten(net: Path, cli: Cli, out: str) -> None:
    (net / "weights.pt").write_bytes(b"precious")
    before = (net / out).read_bytes()
    code, _, err = cli(*command(out=out), "--model-args", "path=weights.pt")
    assert code == 1
    assert "would be overwritten" in err
    assert (net / out).read_bytes() == before


def test_a_file_of_the_data_s_folder_is_not_overwritten(net: Path, cli: Cli) -> None:
    (net / "events").mkdir()
    recording = net / "events" / "nmnist_0.bin"
    recording.write_bytes(bytes([1, 1, 0, 0, 1]))
    code, _, err = cli("profile", "--model", "mine.py:net", "--data", "nmnist:events", "--time-steps", "1",
                       "-o", "events/nmnist_0.bin")  # fmt: skip
    assert code == 1
    assert "is part of the input" in err
    assert recording.read_bytes() == bytes([1, 1, 0, 0, 1])


# --- states kept as numbers ---


class Primed(nn.Module):
    """An IF neuron whose first call primes its potential (QCFS): a Python number says which call it is."""

    def __init__(self, holder: str) -> None:
        super().__init__()
        self.calls, self.potential = 0, 0.0
        self.holder, self.box, self.table = holder, SimpleNamespace(calls=0), {"calls": 0}

    def _next_call(self) -> int:
        if self.holder == "attribute":
            self.calls += 1
            return self.calls
        if self.holder == "object":
            self.box.calls += 1
            return int(self.box.calls)
        self.table["calls"] += 1
        return self.table["calls"]

    def forward(self, x: Tensor) -> Tensor:
        if self._next_call() == 1:
            self.potential = torch.full_like(x, 0.5)  # type: ignore[assignment]
        self.potential = self.potential + x  # type: ignore[assignment]
        spikes = (self.potential >= 1).float()  # type: ignore[operator, attr-defined]
        self.potential = self.potential - spikes  # type: ignore[assignment]
        return spikes


@pytest.mark.parametrize("holder", ["attribute", "object", "dict"])
def test_a_number_that_counts_calls_is_a_state(holder: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), Primed(holder), nn.Linear(32, 10))
    x = torch.rand(5, 16)
    neuron = Primed("attribute")
    with torch.no_grad():
        expected = sum(10 * int(neuron(model[0](x)).sum()) for _ in range(8))
    for _ in range(2):  # the second profile counts what the first one did
        for batches in ([x], [x[:2], x[2:]]):
            frame = se.profile(model, batches, time="call", time_steps=8).to_frame()
            assert frame[frame["layer"] == "2"]["sops"].sum() == expected
            held = model[1]
            assert (held.calls, held.box.calls, held.table["calls"]) == (0, 0, 0)  # type: ignore[union-attr, index]


def test_a_number_that_the_user_sets_between_batches_stays() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    model.setting = 1.0  # type: ignore[assignment]

    def batches() -> Any:
        yield torch.rand(3, 6)
        model.setting = 2.0  # type: ignore[assignment]
        yield torch.rand(3, 6)
        assert model.setting == 2.0

    se.profile(model, batches(), time_steps=1)


def test_a_number_that_a_failing_forward_changed_is_put_back() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = nn.Linear(6, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 2:  # the second batch
                self.calls += 1
                raise RuntimeError("no more")
            out: Tensor = self.fc(x)
            return out

    model = Fails()
    with pytest.raises(RuntimeError, match="no more"):
        se.profile(model, [torch.rand(3, 6), torch.rand(2, 6)], time_steps=1)
    assert model.calls == 0
