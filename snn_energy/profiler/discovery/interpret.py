"""Determines time mode, number of steps and spiking modules of a network from runs on a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.discovery.inline import inline_time, undetermined_message
from snn_energy.profiler.discovery.observe import ModuleObservation, first_input, observe_run, observed_neurons
from snn_energy.profiler.discovery.repeatable import require_repeatable
from snn_energy.profiler.discovery.weights_guard import unchanged_weights
from snn_energy.profiler.neurons.known import (
    hidden_work_message,
    holds_weights,
    is_subclass,
    known_class,
    neurons_with_weights,
    spiking_modules,
)
from snn_energy.profiler.neurons.spec import LAYOUTS, Layout, NeuronSpec
from snn_energy.profiler.rules.plain_layers import is_layer_class
from snn_energy.running.inputs import Inputs, main_of
from snn_energy.running.time_mode import MODES, SAMPLES, SHAPES, TimeMode, require_one_argument

STATIC_MODES = (
    "inside",
    "repeat-axis0",
    "repeat-axis1",
    "repeat-flat-batch",
    "repeat-flat",
)  # tried in this order on (B, ...)
TIMED_MODES = ("axis0", "call-axis0", "axis1", "flat-batch")  # tried in this order on (T, B, ...)


@dataclass(frozen=True)
class Interpretation:
    """time, time_steps: as arguments of ``profile``. found: how they were determined. spiking: layer -> its NeuronSpec.

    decomposed_layers: neurons with weights, or subclasses that do more; counted as the operations they are made of.
    """

    time: str
    time_steps: int
    found: str
    spiking: Mapping[str, NeuronSpec]
    decomposed_layers: frozenset[str] = frozenset()

    @property
    def mode(self) -> TimeMode:
        """How the network gets its input and is called."""
        return MODES[self.time]


def candidates(model: nn.Module, known: Iterable[str]) -> list[str]:
    """Modules that may be unknown neurons: not from torch, without weights, neither in nor around a known neuron."""
    names = set(known)
    found = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.") or is_layer_class(type(module)) or holds_weights(module):
            continue
        if getattr(module, "spiking_neuron", None) is False:  # declared not to be a neuron
            continue
        if any(name == n or name.startswith(f"{n}.") or n.startswith(f"{name}.") or n == "" for n in names):
            continue
        if any(known_class(inner) is not None for inner in module.modules()):
            continue
        found.append(name)
    return found


def interpret(
    model: nn.Module,
    x: Any,
    *,
    time: str | None = None,
    time_steps: int | None = None,
    named: Iterable[str | type[nn.Module]] = (),
    has_time: bool = False,
    samples: int | None = None,
) -> Interpretation:
    """Time mode, T_max and spiking modules of a network, from runs on a few samples of a batch.

    x: a batch of the loader, samples in front, or (T, B, ...) if ``has_time``. time, time_steps: as declared, None if
    not. samples: how many the batch holds by its labels, None if it has none. The
    model's state is restored afterwards. Raises ProfilingError if no time mode fits, or if neurons indicate
    different ones; the message says how to declare it.
    """
    require_one_argument(model, x)
    with unchanged_weights(model):
        interpretation = _interpret(model, x, time, time_steps, named, has_time, samples)
        require_repeatable(model, x, SAMPLES[0], interpretation.mode, interpretation.time_steps)
    return interpretation


def _interpret(
    model: nn.Module,
    x: Any,
    time: str | None,
    time_steps: int | None,
    named: Iterable[str | type[nn.Module]],
    has_time: bool,
    samples: int | None,
) -> Interpretation:
    if not isinstance(x, (Tensor, Inputs)) or x.dim() == 0 or x.numel() == 0:
        raise ProfilingError("the loader must give tensors with at least one sample in front to look at the model with")
    spiking = spiking_modules(model, named)
    unknown = candidates(model, spiking)
    if time is not None and (time_steps is not None or time not in ("inside", "loop")):
        return _interpret_as_declared(model, x, time, steps_in(x, time, time_steps), spiking, unknown)
    weighted = {name: spec for name in neurons_with_weights(model) if (spec := known_class(model.get_submodule(name)))}
    if not spiking and not unknown and not weighted:
        return _without_neurons(model, x, time_steps, "it has no module that is known to spike")
    trial = _Trial(model, x, time, spiking, unknown, weighted)
    static = ("inside",) if time is not None else TIMED_MODES if has_time else STATIC_MODES
    for mode in static:
        steps = int(x.shape[0]) if has_time else time_steps
        found = None if mode != "inside" and steps is None else trial.of(mode, steps)
        if found is not None and not has_time and _has_samples(found, x, samples) and found.mode.repeats_input:
            others = [trial.of(other, steps) for other in _timed_modes(x, steps)]
            return _of_several(model, x, found, [o for o in others if o is not None and _has_samples(o, x, samples)])
        if found is not None and (has_time or _has_samples(found, x, samples)):
            return found
    if not has_time and time is None and samples is not None:
        others = [trial.of(other, time_steps) for other in _timed_modes(x, time_steps)]
        fitting = [o for o in others if o is not None and _has_samples(o, x, samples)]
        if fitting:
            return _of_several(model, x, None, fitting)
    if trial.raised and len(trial.raised) == len(trial.why):
        raise ProfilingError(
            f"{type(model).__name__}: it raised {type(trial.raised[0]).__name__} on a few samples of a batch of shape "
            f"{tuple(x.shape)}: {_first_line(trial.raised[0])}; do they have the shape and type that it wants? is a "
            "state left over from other batches (reset it before)? if it wants them with time, declare it: time= "
            "(--time)"
        ) from trial.raised[0]
    if time is None and set(trial.why) <= {"no module spikes"}:
        return _without_neurons(model, x, time_steps, "no module spikes")
    raise ProfilingError(undetermined_message(time_steps, "; ".join(trial.why)))


def _without_neurons(model: nn.Module, x: Any, steps: int | None, why: str) -> Interpretation:
    """Time of a network whose neurons are no modules of their own, by the calls of its layers with weights."""
    if steps is None or inline_time(model, x, steps) is None:
        raise ProfilingError(undetermined_message(steps, why, x))
    return Interpretation("loop", steps, f"found by a run: its layers with weights are called {steps} times", {})


@dataclass
class _Trial:
    """Runs of a network on a few samples, one per time mode. why: for each mode that does not fit, the reason."""

    model: nn.Module
    x: Any
    declared: str | None
    spiking: Mapping[str, NeuronSpec]
    unknown: Sequence[str]
    weighted: dict[str, NeuronSpec]
    why: list[str] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)

    def of(self, mode: str, steps: int | None) -> Interpretation | None:
        """The interpretation in one time mode; None if it does not fit. steps: T, None if the network defines it."""
        try:
            names = [*self.spiking, *self.unknown, *self.weighted]
            runs = [
                observe_run(
                    self.model, names, MODES[mode].first_samples(self.x, n, steps or 1), MODES[mode], steps or 1
                )
                for n in SAMPLES
            ]
        except Exception as error:  # noqa: BLE001 the model rejects this shape: the time mode does not fit
            self.raised.append(error)
            self.why.append(f"{mode}: {type(error).__name__}: {_first_line(error)}")
            return None
        _require_only_neuron_update(runs[0], self.spiking)
        self.weighted |= {
            name: self.spiking[name] for name in _multiplying_subclasses(self.model, runs[0], self.spiking)
        }
        found = {**observed_neurons(runs[0], self.unknown), **observed_neurons(runs[1], self.unknown)}
        found |= _silent_neurons(self.model, found, runs[0], self.unknown)
        named = _with_observed_layouts(self.spiking, runs[0])
        all_spiking = {**named, **found, **self.weighted}
        if not all_spiking:
            self.why.append("no module spikes")
            return None
        reading = _read(mode, steps, {name: [run[name] for run in runs] for name in all_spiking}, all_spiking)
        if isinstance(reading, Interpretation) and self.declared not in (None, reading.time):
            reading = f"that is time='{reading.time}'"
        if isinstance(reading, Interpretation) and self._mixes_samples(reading):
            reading = "its neurons would mix samples"
        if isinstance(reading, Interpretation):
            neurons = {name: spec for name, spec in reading.spiking.items() if name not in self.weighted}
            return replace(reading, spiking=neurons, decomposed_layers=frozenset(self.weighted))
        self.why.append(f"{mode}: {reading}")
        return None

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
        return not torch.equal(_of_first_sample(first, spec.layout), _of_first_sample(other, spec.layout))


def _rows_of(found: Interpretation) -> tuple[int, int]:
    """Sizes of the rows of a flat batch of two samples, in its order."""
    return (found.time_steps, 2) if found.mode.given == "flat" else (2, found.time_steps)


def _of_first_sample(x: Tensor, layout: Layout | None) -> Tensor:
    """The part of a neuron's input, of two samples, that belongs to the first one."""
    if layout == "time-first":
        return x.select(1, 0)
    return x[: len(x) // 2]  # sample major, or samples alone


def _timed_modes(x: Any, steps: int | None) -> list[str]:
    """Time modes in which a batch of this shape would hold all T time steps itself."""
    if steps is None or steps < 2:
        return []
    on_axis = [*(("axis0", "call-axis0") if x.shape[0] == steps and x.dim() > 1 else ())]
    on_axis += ["axis1"] if x.dim() > 1 and x.shape[1] == steps else []
    return on_axis + (["flat", "flat-batch"] if x.shape[0] % steps == 0 else [])


def _has_samples(found: Interpretation, x: Any, samples: int | None) -> bool:
    """False if the loader's labels say that the batch holds another number of samples than this interpretation."""
    return samples is None or found.mode.samples_of(x, found.time_steps) == samples


def _of_several(
    model: nn.Module, x: Any, repeated: Interpretation | None, timed: Sequence[Interpretation]
) -> Interpretation:
    """The interpretation of a batch whose shape fits several time modes.

    repeated: the one that shows every sample T times; one that finds T steps on an axis of that size wins over it.
    Raises ProfilingError, with the modes and what each would count, if several remain.
    """
    on_axis = [o for o in timed if o.mode.layout in ("axis0", "axis1")]
    alive = on_axis or [*([repeated] if repeated is not None else []), *timed]
    if len(alive) == 1:
        return alive[0]
    steps = alive[0].time_steps
    shows = [
        f"time='{o.time}' ({o.mode.samples_of(x, steps)} samples, "
        f"{'each shown' if o.mode.repeats_input else 'of'} {steps} {'times' if o.mode.repeats_input else 'time steps'})"
        for o in alive
    ]
    raise ProfilingError(
        f"{type(model).__name__}: a batch of shape {tuple(x.shape)} can be read in {len(alive)} ways: "
        f"{' or '.join(shows)}; choose one: {' or '.join(f'--time {o.time}' for o in alive)} (time= in Python)"
    )


def _interpret_as_declared(
    model: nn.Module, x: Any, time: str, steps: int, spiking: Mapping[str, NeuronSpec], unknown: Sequence[str]
) -> Interpretation:
    """Time and T as declared; unknown neurons are still searched for in a run."""
    named = [
        n for n, spec in spiking.items() if spec.known_by == "its name" or is_subclass(model.get_submodule(n), spec)
    ]
    if not unknown and not named:
        return Interpretation(time, steps, "declared", spiking, frozenset(neurons_with_weights(model)))
    for samples in (max(SAMPLES), None):  # a state of a fixed size needs the whole batch
        try:
            some = x if samples is None else MODES[time].first_samples(x, samples, steps)
            run = observe_run(model, [*unknown, *named], some, MODES[time], steps)
        except Exception:  # noqa: BLE001 the error recurs in the run that counts
            continue
        _require_only_neuron_update(run, spiking)
        found = observed_neurons(run, unknown)
        found |= _silent_neurons(model, found, run, unknown)
        multiplying = _multiplying_subclasses(model, run, spiking)
        all_spiking = {**_with_observed_layouts(spiking, run), **found}
        neurons = {name: spec for name, spec in all_spiking.items() if name not in multiplying}
        return Interpretation(time, steps, "declared", neurons, frozenset([*multiplying, *neurons_with_weights(model)]))
    return Interpretation(time, steps, "declared", spiking)


def steps_in(x: Any, time: str, steps: int | None) -> int:
    """T as declared, else the size of the declared time axis. Raises ProfilingError if neither is known."""
    given = MODES[time].given
    axis = 0 if given == "axis0" else 1
    if steps is None and given in ("axis0", "axis1") and isinstance(x, (Tensor, Inputs)) and x.dim() > axis:
        return int(x.shape[axis])
    if steps is None:
        raise ProfilingError(
            f"time='{time}' needs time_steps= (--time-steps): the shapes do not say how many there are"
        )
    return steps


def _require_only_neuron_update(run: Mapping[str, ModuleObservation], spiking: Mapping[str, NeuronSpec]) -> None:
    """Raise ProfilingError if a module that the user named as a neuron does more than update neurons."""
    for name, observation in run.items():
        if name in spiking and spiking[name].known_by == "its name" and observation.multiplies:
            raise ProfilingError(hidden_work_message(name))


def _with_observed_layouts(
    spiking: Mapping[str, NeuronSpec], run: Mapping[str, ModuleObservation]
) -> dict[str, NeuronSpec]:
    """Neurons that the user named read time where a run shows it, as those do that a run has found."""
    named = [name for name, spec in spiking.items() if spec.known_by == "its name" and name in run]
    observed = observed_neurons(run, named)
    return {n: replace(spec, layout=observed[n].layout) if n in observed else spec for n, spec in spiking.items()}


def _multiplying_subclasses(
    model: nn.Module, run: Mapping[str, ModuleObservation], spiking: Mapping[str, NeuronSpec]
) -> list[str]:
    """User subclasses of known neurons that multiply or pool: counted as the operations that they are made of."""
    return [
        name
        for name, spec in spiking.items()
        if name in run and run[name].multiplies and is_subclass(model.get_submodule(name), spec)
    ]


def _silent_neurons(
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
) -> Interpretation | str:
    """The time mode and T that all neurons agree on, or why there are none."""
    layouts: dict[str, tuple[Layout, int, int]] = {}  # layer -> layout, time steps per call, number of calls
    for name, (two, three) in observations.items():
        if not two.shapes:
            continue
        if len(two.shapes) != len(three.shapes):
            return f"{name} is called {len(two.shapes)} times for two samples and {len(three.shapes)} for three"
        found = _layout_of(two.shapes[0], three.shapes[0], spiking[name].layout)
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


def _layout_of(two: tuple[int, ...], three: tuple[int, ...], known: Layout | None) -> tuple[Layout, int] | str:
    """(layout, time steps per call) of a neuron that read these shapes for two and three samples, or why none fits."""
    fewer, more = SAMPLES
    grows = [axis for axis, (a, b) in enumerate(zip(two, three, strict=False)) if a * more == b * fewer]
    if len(two) != len(three) or not grows:
        return f"reads {two} for two samples and {three} for three: no axis of samples"
    axis, size = grows[0], two[grows[0]] // fewer
    if axis == 0 and size == 1 and known in ("step", None):
        return "step", 1
    if axis == 0 and size == 1 and known == "batch-first" and len(two) > 1:
        return "batch-first", two[1]
    if axis == 0 and known in ("flat-batch", None):
        return "flat-batch", size
    if axis == 1 and size == 1 and known in ("time-first", None):
        return "time-first", two[0]
    return f"wants {LAYOUTS[known or 'step']} and reads {two} for two samples"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:120]
