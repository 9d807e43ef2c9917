"""Runs of a network on a few samples, one per time mode, and what its neurons read in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.discovery.layouts import declared_layout, layout_of, steps_first
from snn_energy.profiler.discovery.observe import (
    ModuleObservation,
    first_input,
    first_reached,
    named_layout,
    observe_run,
    observed_neurons,
)
from snn_energy.profiler.discovery.repeatable import FirstRun
from snn_energy.profiler.neurons.known import hidden_work_message, is_subclass
from snn_energy.profiler.neurons.spec import LAYOUTS, Layout, NeuronSpec
from snn_energy.running.inputs import Inputs, main_of
from snn_energy.running.time_mode import MODES, SAMPLES, SHAPES


@dataclass
class Trial:
    """Runs of a network on a few samples, one per time mode.

    first: runs that may be repeated, by the time mode that they led to. why: for each mode that does not fit, the
    reason. calls: of every neuron, all single-step, in one call of the model; None if unknown or unequal.
    """

    model: nn.Module
    x: Any
    declared: str | None
    spiking: Mapping[str, NeuronSpec]
    unknown: Sequence[str]
    weighted: dict[str, NeuronSpec]
    first: dict[str, FirstRun] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)
    calls: int | None = None

    def of(self, mode: str, steps: int | None) -> Interpretation | None:
        """The interpretation in one time mode; None if it does not fit. steps: T, None if the network defines it."""
        named = [name for name, spec in self.spiking.items() if spec.known_by == "its name"]
        try:
            names, outs = [*self.spiking, *self.unknown, *self.weighted], list[Tensor]()
            given = [MODES[mode].first_samples(self.x, n, steps or 1) for n in SAMPLES]
            odd = self._misfit(given[0], mode, steps)
            if odd is not None:
                self.why.append(f"{mode}: {odd}")
                return None
            runs = [observe_run(self.model, names, given[0], MODES[mode], steps or 1, named, outs)]
            may_spike = named or self.weighted or observed_neurons(runs[0], self.unknown)
            larger = None if may_spike else _with_more_samples(runs[0], self.spiking)
            runs.append(larger or observe_run(self.model, names, given[1], MODES[mode], steps or 1, named))
        except Exception as error:  # noqa: BLE001 the model rejects this shape: the time mode does not fit
            self.raised.append(error)
            self.why.append(f"{mode}: {type(error).__name__}: {first_line(error)}")
            return None
        require_only_neuron_update(runs[0], self.spiking)
        self.weighted |= {
            name: self.spiking[name] for name in multiplying_subclasses(self.model, runs[0], self.spiking)
        }
        found = {**observed_neurons(runs[0], self.unknown), **observed_neurons(runs[1], self.unknown)}
        found |= silent_neurons(self.model, found, runs[0], self.unknown)
        seen = {name: replace(self.spiking[name], layout=named_layout(run[name] for run in runs)) for name in named}
        all_spiking = {**self.spiking, **seen, **found, **self.weighted}
        if not all_spiking:
            self.why.append("no module spikes")
            return None
        is_single = self._is_single(mode, steps)
        observed = {name: [run[name] for run in runs] for name in all_spiking}
        reading = _read(mode, steps, observed, all_spiking, is_single)
        calls = {len(two.shapes) for two, _ in observed.values()} - {0}
        if mode == "inside" and len(calls) == 1 and all(spec.layout == "step" for spec in all_spiking.values()):
            self.calls = calls.pop()
        if isinstance(reading, Interpretation) and mode == "inside":
            reading = self._with_time_of_loader(reading)
        if isinstance(reading, Interpretation) and self.declared not in (None, reading.time):
            reading = f"that is time='{reading.time}'"
        if isinstance(reading, Interpretation) and self._mixes_samples(reading):
            reading = "its neurons would mix samples"
        if isinstance(reading, Interpretation):
            neurons = {name: spec for name, spec in reading.spiking.items() if name not in self.weighted}
            if not any(observation.was_tried for observation in runs[0].values()):
                self.first[reading.time] = FirstRun(given[0], MODES[mode], steps or 1, outs)
            return replace(reading, spiking=neurons, decomposed_layers=frozenset(self.weighted))
        self.why.append(f"{mode}: {reading}")
        return None

    def _misfit(self, x: Any, mode: str, steps: int | None) -> str | None:
        """Why a time mode cannot fit, by what the first neuron reads; None if only a whole run can tell."""
        known = {name: spec for name, spec in self.spiking.items() if spec.known_by == "its class"}
        if steps is None or not known or MODES[mode].calls_per_step:
            return None
        name, read = first_reached(self.model, list(known), x, MODES[mode], steps)
        if read is None or known[name].layout != "time-first" or steps == SAMPLES[0] or read.shape[0] != SAMPLES[0]:
            return None
        return f"{name} wants {LAYOUTS['time-first']} and reads {tuple(read.shape)} for two samples"

    def _is_single(self, mode: str, steps: int | None) -> bool:
        """True if the batch holds one sample."""
        try:
            return MODES[mode].samples_of(self.x, steps or 1) == 1
        except ProfilingError:
            return False

    def _with_time_of_loader(self, found: Interpretation) -> Interpretation:
        """The interpretation with time in the loader's batch, where each of T steps of an axis drives its own step.

        What a neuron reads of the first step does not depend on the last step of the batch, and that of the last does.
        """
        name, spec = next(iter(found.spiking.items()))
        if not isinstance(self.x, Tensor):
            return found
        x, steps = found.mode.first_samples(self.x, SAMPLES[0], found.time_steps), found.time_steps
        for axis in sorted({1, x.dim() - 1} - {0}) if steps > 1 else ():
            if x.shape[axis] != steps or not x.is_floating_point():
                continue
            other = x.clone()
            other.select(axis, steps - 1).add_(1)
            read = [first_input(self.model, name, given, found.mode, steps) for given in (x, other)]
            one, two = (None if tensor is None else steps_first(tensor, spec.layout, steps) for tensor in read)
            if one is None or two is None or not torch.equal(one[:-1], two[:-1]) or torch.equal(one[-1], two[-1]):
                continue
            time = "axis1" if axis == 1 else "axis-last"
            said = f"found by a run: the model takes {SHAPES[MODES[time].layout or 'axis1']}"
            return replace(found, time=time, found=said)
        return found

    def _mixes_samples(self, found: Interpretation) -> bool:
        """True if, in a flat batch, what a neuron reads of the first sample depends on the second one."""
        if found.mode.layout not in ("flat", "flat-batch"):
            return False
        name, spec = next(iter(found.spiking.items()))
        x = found.mode.first_samples(self.x, 2, found.time_steps)
        x = x.map(Tensor.clone) if isinstance(x, Inputs) else x.clone()
        first = first_input(self.model, name, x, found.mode, found.time_steps)
        rows = main_of(x) if found.mode.given is None else main_of(x).unflatten(0, _rows_of(found))
        rows.select(1 if found.mode.given == "flat" else 0, 1).add_(1)  # another second sample
        other = first_input(self.model, name, x, found.mode, found.time_steps)
        if first is None or other is None:
            return False
        mine, others = (_of_first_sample(read, spec.layout, found.time_steps) for read in (first, other))
        return not torch.equal(mine, others)


def _with_more_samples(
    run: Mapping[str, ModuleObservation], spiking: Mapping[str, NeuronSpec]
) -> dict[str, ModuleObservation] | None:
    """What a run with more samples would show, where every neuron's class says on which axis they are; else None.

    None too where another axis has as many elements as there are samples.
    """
    fewer, more = SAMPLES
    found = {}
    for name, observation in run.items():
        if name not in spiking:
            found[name] = observation
            continue
        axis = _AXIS_OF_SAMPLES.get(spiking[name].layout or "")
        if axis is None or any(shape[axis : axis + 1] != (fewer,) for shape in observation.shapes):
            return None
        if any(shape[1 - axis : 2 - axis] == (fewer,) for shape in observation.shapes):
            return None
        shapes = [(*shape[:axis], more, *shape[axis + 1 :]) for shape in observation.shapes]
        found[name] = replace(observation, shapes=shapes)
    return found


_AXIS_OF_SAMPLES = {"step": 0, "batch-first": 0, "time-first": 1}


def _rows_of(found: Interpretation) -> tuple[int, int]:
    """Sizes of the rows of a flat batch of two samples, in its order."""
    return (found.time_steps, 2) if found.mode.given == "flat" else (2, found.time_steps)


def _of_first_sample(x: Tensor, layout: Layout | None, steps: int) -> Tensor:
    """The part of a neuron's input, of two samples, that belongs to the first one."""
    if layout == "flat":
        return x.reshape(steps, SAMPLES[0], -1)[:, 0]
    if layout == "time-first":
        return x.select(1, 0)
    return x[: len(x) // 2]  # sample major, or samples alone


def require_only_neuron_update(run: Mapping[str, ModuleObservation], spiking: Mapping[str, NeuronSpec]) -> None:
    """Raise ProfilingError if a module that the user named as a neuron does more than update neurons."""
    for name, observation in run.items():
        if name in spiking and spiking[name].known_by == "its name" and observation.multiplies:
            raise ProfilingError(hidden_work_message(name))


def with_observed_layouts(
    spiking: Mapping[str, NeuronSpec], run: Mapping[str, ModuleObservation], steps: int
) -> dict[str, NeuronSpec]:
    """Neurons that the user named read time where a run shows it, as those do that a run has found."""
    seen = dict(spiking)
    for name, spec in spiking.items():
        if spec.known_by == "its name" and name in run and (layout := named_layout([run[name]])) is not None:
            at = replace(spec, layout=layout)
            seen[name] = declared_layout(run[name], at, steps) or at
    return seen


def multiplying_subclasses(
    model: nn.Module, run: Mapping[str, ModuleObservation], spiking: Mapping[str, NeuronSpec]
) -> list[str]:
    """User subclasses of known neurons that multiply or pool: counted as the operations that they are made of."""
    return [
        name
        for name, spec in spiking.items()
        if name in run and run[name].multiplies and is_subclass(model.get_submodule(name), spec)
    ]


def silent_neurons(
    model: nn.Module, found: Mapping[str, NeuronSpec], run: Mapping[str, ModuleObservation], names: Iterable[str]
) -> dict[str, NeuronSpec]:
    """The other modules of a class of which one was found to be a neuron: they did not spike in the run."""
    specs = {type(model.get_submodule(name)): spec for name, spec in found.items()}
    return {
        name: specs[kind]
        for name in names
        if name not in found
        and (kind := type(model.get_submodule(name))) in specs
        and run[name].shapes
        and run[name].is_same_shape
        and not run[name].multiplies
    }


def _read(
    mode: str,
    steps: int | None,
    observations: Mapping[str, Sequence[ModuleObservation]],
    spiking: Mapping[str, NeuronSpec],
    is_single: bool,
) -> Interpretation | str:
    """The time mode and T that all neurons agree on, or why there are none."""
    layouts: dict[str, tuple[Layout, int, int]] = {}  # layer -> layout, time steps per call, number of calls
    for name, (two, three) in observations.items():
        if not two.shapes:
            continue
        if len(two.shapes) != len(three.shapes):
            return f"{name} is called {len(two.shapes)} times for two samples and {len(three.shapes)} for three"
        found = layout_of(two, three, spiking[name], steps, is_single)
        if isinstance(found, str):
            return f"{name} {found}"
        layouts[name] = (*found, len(two.shapes))
    if not layouts:
        return "no neuron was reached"
    neurons = {name: replace(spiking[name], layout=layout) for name, (layout, _, _) in layouts.items()}
    timed = {count for layout, count, _ in layouts.values() if layout != "step"}
    calls = {n for layout, _, n in layouts.values() if layout == "step"}
    if len(timed) > 1:
        return f"the neurons read {', '.join(map(str, sorted(timed)))} time steps"
    (count,) = timed or {0}
    if timed and steps is not None and count != steps:
        return f"the neurons read {count} time steps, not {steps}"
    if mode == "inside" and timed:
        return Interpretation("inside", count, "found by a run: its neurons read all time steps at once", neurons)
    if mode == "inside" and calls == {1}:
        if steps is None:
            return "its neurons run one time step a call, and how many calls there are is not said"
        return Interpretation("call", steps, "found by a run: one call of the model is one time step", neurons)
    if mode == "inside":
        whole, counts = steps or min(calls), " and ".join(map(str, sorted(calls)))
        if whole not in calls or any(n % whole for n in calls) or (steps is None and len(calls) > 1):
            steps_said = f"{steps} time steps" if steps else "one number of time steps"
            return f"its neurons are called {counts} times, which does not fit {steps_said}"
        return Interpretation("loop", whole, f"found by a run: its neurons are called {counts} times", neurons)
    if mode == "call-axis0":
        if timed or any(n % (steps or 1) for n in calls):
            return "its neurons do not run one time step a call"
        return Interpretation(mode, steps or 1, "found by a run: one call of the model is one time step", neurons)
    if calls and (steps not in calls or any(n % (steps or 1) for n in calls)):
        return f"single-step neurons are called {', '.join(map(str, sorted(calls)))} times in {steps} time steps"
    layout = MODES[mode].layout
    assert layout is not None
    return Interpretation(mode, steps or 1, f"found by a run: the model takes {SHAPES[layout]}", neurons)


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:120]
