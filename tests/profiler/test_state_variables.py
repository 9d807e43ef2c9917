"""State variables per neuron: told by the class of a framework, or seen in what a neuron keeps between time steps."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import CountsError, ProfilingError
from snn_energy.profiler.discovery.state_variables import FirstCall, observed_state_variables
from snn_energy.profiler.neurons.known import known_class
from snn_energy.profiler.neurons.spec import Layout
from snn_energy.running.module_state import State

T, SAMPLES, INPUTS, NEURONS = 4, 3, 6, 5


def framework(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="the extra 'frameworks' is not installed") and importlib.import_module(
            name
        )


def observed(neuron: nn.Module, x: Tensor, layout: Layout | None, *state: Any, steps: int = T) -> int | None:
    """What the flow of values shows, for a first call on x."""
    neuron.eval()
    return observed_state_variables(neuron, FirstCall((x, *state), {}, State(neuron)), layout, steps)


def a_step() -> Tensor:
    return torch.rand(2, 8, generator=torch.Generator().manual_seed(0))


def all_steps() -> Tensor:
    return torch.rand(T, 2, 8, generator=torch.Generator().manual_seed(0))


# ---- frameworks: what the class says, and what its runs show ------------------------------------------------------

SPIKINGJELLY = {
    "IFNode": 1, "LIFNode": 1, "ParametricLIFNode": 1, "KLIFNode": 1, "QIFNode": 1, "EIFNode": 1,
    "ComplementaryLIFNode": 2, "CUBALIFNode": 2, "RAFNode": 2,
}  # fmt: skip


@pytest.mark.parametrize(("name", "variables"), SPIKINGJELLY.items())
def test_spikingjelly_keeps_as_many_values_as_its_class_says(name: str, variables: int) -> None:
    neuron = getattr(framework("spikingjelly.activation_based.neuron"), name, None)
    if neuron is None:
        pytest.skip("this version has no such neuron")
    spec = known_class(neuron())
    assert spec is not None
    assert spec.state_variables == observed(neuron(), a_step(), "step") == variables
    whole = neuron()
    whole.step_mode = "m"
    assert observed(whole, all_steps(), "time-first") == variables


def test_spikingjelly_memories_that_a_run_alone_sets_are_no_state_at_rest() -> None:
    """A trace of training rests at None; Izhikevich has v and w."""
    neurons = framework("spikingjelly.activation_based.neuron")
    known = {name: known_class(getattr(neurons, name)()) for name in ("OTTTLIFNode", "IzhikevichNode")}
    assert {name: spec and spec.state_variables for name, spec in known.items()} == {
        "OTTTLIFNode": 1,
        "IzhikevichNode": 2,
    }


@pytest.mark.parametrize(
    ("name", "options", "variables"),
    [
        ("SlidingPSN", {"k": 3}, 2),
        ("SlidingPSN", {"k": 1}, 0),
        ("MaskedPSN", {"k": 2, "T": 4}, 1),
        ("PSN", {"T": 4}, 3),
    ],
)
def test_parallel_spiking_neurons_keep_the_inputs_of_the_other_steps_that_they_weigh(
    name: str, options: dict[str, int], variables: int
) -> None:
    spec = known_class(getattr(framework("spikingjelly.activation_based.neuron"), name)(**options))
    assert spec is not None
    assert spec.state_variables == variables


SNNTORCH = {
    "Leaky": ({"beta": 0.9}, 1),
    "Lapicque": ({"beta": 0.9}, 1),
    "Synaptic": ({"alpha": 0.8, "beta": 0.9}, 2),
    "Alpha": ({"alpha": 0.9, "beta": 0.8}, 3),
}


@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch_keeps_as_many_values_as_its_forward_takes_states(name: str) -> None:
    options, variables = SNNTORCH[name]
    neuron = getattr(framework("snntorch"), name)
    for hidden in (True, False):
        spec = known_class(neuron(init_hidden=hidden, **options))
        assert spec is not None
        assert spec.state_variables == variables
        assert observed(neuron(init_hidden=hidden, **options), a_step(), "step") == variables


NORSE = {"LIFCell": 2, "LICell": 2, "LIFBoxCell": 1, "IAFCell": 1, "LIFExCell": 2, "LIFAdExCell": 3, "LSNNCell": 3,
         "LIFRefracCell": 3, "LIFAdExRefracCell": 4}  # fmt: skip


@pytest.mark.parametrize(("name", "variables"), NORSE.items())
def test_norse_keeps_as_many_values_as_its_state_has_fields(name: str, variables: int) -> None:
    neuron = getattr(framework("norse.torch"), name)
    spec = known_class(neuron())
    assert spec is not None
    assert spec.state_variables == variables
    assert observed(neuron(), a_step(), "step", None) == variables


@pytest.mark.parametrize(
    ("name", "options", "variables"),
    [
        ("IAF", {}, 1),
        ("ExpLeak", {"tau_mem": 10.0}, 1),
        ("LIF", {"tau_mem": 10.0}, 1),
        ("LIF", {"tau_mem": 10.0, "tau_syn": 5.0}, 2),
        ("ALIF", {"tau_mem": 10.0, "tau_adapt": 10.0}, 2),
        ("ALIF", {"tau_mem": 10.0, "tau_adapt": 10.0, "tau_syn": 3.0}, 3),
    ],
)
def test_sinabs_keeps_its_buffers_but_not_the_threshold_that_follows_from_one(
    name: str, options: dict[str, float], variables: int
) -> None:
    spec = known_class(getattr(framework("sinabs.layers"), name)(**options))
    assert spec is not None
    assert spec.state_variables == variables


# ---- written by hand ----------------------------------------------------------------------------------------------


def fires(potential: Tensor) -> Tensor:
    return (potential > 1).to(potential.dtype)


class MemAndSpike(nn.Module):
    """Keeps its potential and, beside it, the spike that follows from the potential: one variable."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Any = 0.0
        self.spike: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.mem = 0.5 * self.mem * (1 - self.spike) + x
        self.spike = fires(self.mem)
        return self.spike


class Synapse(nn.Module):
    """A potential and a current, in attributes: two."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Any = None
        self.syn: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mem is None or self.mem.shape != x.shape:
            self.mem = self.syn = torch.zeros_like(x)
        self.syn = 0.5 * self.syn + x
        self.mem = 0.9 * self.mem + self.syn
        spike = fires(self.mem)
        self.mem = self.mem * (1 - spike)
        return spike


class Adaptive(nn.Module):
    """A threshold that rises with every spike: two, the second fed by spikes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("v", torch.zeros(1))
        self.register_buffer("threshold", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v * 0.9 + x
        spike = (self.v > 1 + self.threshold).to(x.dtype)
        self.v, self.threshold = self.v - spike, self.threshold * 0.9 + 0.3 * spike
        return spike


class PassedBack(nn.Module):
    """Two values that are an argument and a result."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        syn, mem = state if state is not None else (torch.zeros_like(x), torch.zeros_like(x))
        syn = 0.5 * syn + x
        mem = 0.9 * mem + syn
        spike = fires(mem)
        return spike, (syn, mem - spike)


class Stateless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return fires(2 * x)


class LoopInside(nn.Module):
    """All steps in one call, the potential in a local variable; ``synapse``: a current too."""

    def __init__(self, synapse: bool) -> None:
        super().__init__()
        self.synapse = synapse

    def forward(self, x: Tensor) -> Tensor:
        mem = syn = torch.zeros_like(x[0])
        spikes = []
        for current in x:
            syn = 0.5 * syn + current if self.synapse else current
            mem = 0.9 * mem + syn
            spikes.append(fires(mem))
            mem = mem * (1 - spikes[-1])
        return torch.stack(spikes)


class InPlace(nn.Module):
    """Written step by step into tensors over all steps, of which there must be T."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = T

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == self.steps
        mem, out = torch.zeros(self.steps + 1, *x.shape[1:]), torch.zeros_like(x)
        for step in range(self.steps):
            mem[step + 1] = mem[step] * 0.9 + x[step]
            out[step] = fires(mem[step + 1])
            mem[step + 1] -= out[step]
        return out


class Window(nn.Module):
    """The sum of the last three inputs: two of them are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = [*self.last, x][-3:]
        return fires(torch.stack(self.last).sum(0))


@pytest.mark.parametrize(
    ("neuron", "variables"),
    [(MemAndSpike, 1), (Synapse, 2), (Adaptive, 2), (PassedBack, 2), (Stateless, 0), (Window, 2)],
)
def test_what_a_hand_written_neuron_keeps_between_calls_is_counted(
    neuron: Callable[[], nn.Module], variables: int
) -> None:
    assert observed(neuron(), a_step(), "step") == variables


@pytest.mark.parametrize(
    ("neuron", "variables"), [(lambda: LoopInside(False), 1), (lambda: LoopInside(True), 2), (InPlace, 1)]
)
def test_what_a_loop_inside_a_neuron_keeps_is_counted(neuron: Callable[[], nn.Module], variables: int) -> None:
    assert observed(neuron(), all_steps(), "time-first") == variables
    if not isinstance(neuron(), InPlace):
        assert observed(neuron(), all_steps().movedim(0, 1)[:, :1].movedim(1, 0), "time-first", steps=1) == variables


@pytest.mark.parametrize("synapse", [False, True])
@pytest.mark.parametrize("layout", ["batch-first", "time-last", "flat", "flat-batch", None])
def test_what_is_kept_is_seen_wherever_time_is(layout: Layout | None, synapse: bool) -> None:
    class Elsewhere(LoopInside):
        def forward(self, x: Tensor) -> Tensor:
            if layout is None:
                return super().forward(x)
            if layout in ("flat", "flat-batch"):
                rows = x.unflatten(0, (self.steps, -1) if layout == "flat" else (-1, self.steps))
                out = super().forward(rows if layout == "flat" else rows.movedim(1, 0))
                return (out if layout == "flat" else out.movedim(0, 1)).flatten(0, 1)
            axis = 1 if layout == "batch-first" else -1
            return super().forward(x.movedim(axis, 0)).movedim(0, axis)

    neuron, x = Elsewhere(synapse), all_steps()
    neuron.steps = T
    given = {"batch-first": x.movedim(0, 1), "time-last": x.movedim(0, -1), "flat": x.flatten(0, 1),
             "flat-batch": x.movedim(0, 1).flatten(0, 1), None: x}  # fmt: skip
    assert observed(neuron, given[layout], layout) == 1 + synapse


def test_one_step_of_a_loop_whose_time_axis_is_not_known_is_no_neuron_without_state() -> None:
    assert observed(LoopInside(True), all_steps()[:1], None, steps=1) == 2
    assert observed(Stateless(), all_steps()[:1], None, steps=1) == 0
    assert observed(OfNumpy(), all_steps()[:1], None, steps=1) is None


class OfNumpy(nn.Module):
    """Its potential leaves torch."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.v = x.numpy() if self.v is None or self.v.shape != x.shape else self.v * 0.5 + x.numpy()
        return torch.from_numpy((self.v > 1).astype(np.float32))


class OfANumber(nn.Module):
    """Its potential is one Python number for all neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.v = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v * 0.5 + float(x.sum())
        return fires(x + self.v)


class Cumulative(nn.Module):
    """All steps in one operation that shows nothing of what is kept."""

    def forward(self, x: Tensor) -> Tensor:
        return fires(x.cumsum(0) / 3)


def test_what_cannot_be_seen_is_unknown_and_neither_none_nor_one() -> None:
    assert observed(OfNumpy(), a_step(), "step") is None
    assert observed(OfANumber(), a_step(), "step") is None
    assert observed(Cumulative(), all_steps(), "time-first") is None


def test_looking_leaves_the_neuron_and_the_random_numbers_as_they_were() -> None:
    neuron = Synapse()
    neuron(a_step())
    mem, syn, random = neuron.mem.clone(), neuron.syn.clone(), torch.random.get_rng_state()
    assert observed(neuron, a_step(), "step") == 2
    assert torch.equal(neuron.mem, mem)
    assert torch.equal(neuron.syn, syn)
    assert torch.equal(torch.random.get_rng_state(), random)


# ---- in the counts, and in energies -------------------------------------------------------------------------------


class Loop(nn.Module):
    """A linear layer and a neuron in a loop over (B, T, ...)."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(INPUTS, NEURONS), neuron
        nn.init.uniform_(self.fc.weight, 0.0, 0.4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lif(self.fc(x[:, t])) for t in range(T)]).mean(0)


def spike_trains(seed: int = 0) -> Tensor:
    return (torch.rand(SAMPLES, T, INPUTS, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


def profiled(neuron: nn.Module, *sizes: int) -> se.Counts:
    torch.manual_seed(0)
    batches = list(spike_trains().split(list(sizes or (SAMPLES,))))
    return se.profile(Loop(neuron), batches, time_steps=T, time="loop")


def membrane_pj(counts: se.Counts, **options: Any) -> float:
    return float(se.estimate(counts, "dts-paper-fpga", **options).to_frame()["membrane_pj"].sum())


def test_the_column_is_of_neurons_alone_and_the_same_for_every_split_of_the_samples() -> None:
    frames = [profiled(Synapse(), *sizes).to_frame() for sizes in ((3,), (1, 2), (1, 1, 1))]
    for frame in frames:
        is_neuron = frame["op"] == "neuron"
        assert frame.loc[is_neuron, "state_variables"].tolist() == [2] * T
        assert frame.loc[~is_neuron, "state_variables"].isna().all()
        assert frame.loc[is_neuron, "membrane_reads"].tolist() == [NEURONS * SAMPLES] * T
    own = se.profile(se.create_model("spikformer-2-64", image_size=32, num_classes=10, time_steps=2),
                     [torch.rand(1, 3, 32, 32)])  # fmt: skip
    assert set(own.rows.loc[own.rows["op"] == "neuron", "state_variables"]) == {1}


@pytest.mark.parametrize(("name", "times"), [("Synaptic", 2), ("Alpha", 3)])
@pytest.mark.parametrize("memory", ["ws_once", "ws_reload", "state_only"])
def test_synaptic_has_twice_and_alpha_three_times_the_membrane_traffic_of_leaky(
    name: str, times: int, memory: str
) -> None:
    snntorch = framework("snntorch")
    energies = [
        membrane_pj(profiled(getattr(snntorch, which)(init_hidden=True, **SNNTORCH[which][0])), memory=memory)
        for which in ("Leaky", name)
    ]
    assert energies[0] > 0
    assert energies[1] == pytest.approx(times * energies[0], rel=1e-12)


def test_a_neuron_whose_state_is_unknown_has_an_unknown_energy_until_it_declares_it() -> None:
    class Declared(Cumulative):
        state_variables = 1

    for neuron, number in ((Cumulative(), None), (Declared(), 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            counts = se.profile(neuron, [all_steps()], time_steps=T, time="axis0", neurons=[type(neuron)])
        rows = counts.rows[counts.rows["op"] == "neuron"]
        said = [str(warning.message) for warning in caught if "state_variables = 1" in str(warning.message)]
        assert bool(said) == (number is None)
        assert bool(rows["state_variables"].isna().all()) == (number is None)
        energy = se.estimate(counts, "dts-paper-fpga")
        assert bool(np.isnan(energy.memory_pj)) == (number is None)
        assert any("state variables" in what for what in energy.unpriced()["what"]) == (number is None)
    with pytest.raises(ProfilingError, match="state_variables = 1"):
        se.profile(Cumulative(), [all_steps()], time_steps=T, time="axis0", neurons=["Cumulative"], strict=True)


def test_an_older_file_without_the_column_is_priced_as_before(tmp_path: Path) -> None:
    import json

    from snn_energy.counts.columns import COLUMNS
    from snn_energy.counts.file_format import content_digest

    counts = profiled(MemAndSpike())
    path, *_ = counts.save(tmp_path / "counts.json")
    document = json.loads(path.read_text())
    assert all("state_variables" in row for row in document["rows"])
    before = [name for name in COLUMNS if name != "state_variables"]
    document["rows"] = [{name: row[name] for name in before} for row in document["rows"]]
    document["header"]["content_sha256"] = content_digest(document["header"], counts.rows, counts.per_sample, before)
    path.write_text(json.dumps(document))
    old = se.load_counts(path)
    assert old.rows.loc[old.rows["op"] == "neuron", "state_variables"].tolist() == [1] * T
    assert old.rows.loc[old.rows["op"] != "neuron", "state_variables"].isna().all()
    assert membrane_pj(old) == membrane_pj(counts) > 0
    document["rows"][0]["state_variables"] = None
    path.write_text(json.dumps(document))
    with pytest.raises(CountsError, match=r"row 1 has missing or unknown columns: state_variables"):
        se.load_counts(path)
