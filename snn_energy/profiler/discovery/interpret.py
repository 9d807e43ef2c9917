"""Determines time mode, number of steps and spiking modules of a network from runs on a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.discovery.inline import axes_with, inline_time
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.discovery.layouts import declared_layout
from snn_energy.profiler.discovery.messages import (
    several_readings_message,
    undeclared_calls_message,
    undeclared_steps_message,
    undetermined_message,
)
from snn_energy.profiler.discovery.observe import observe_run, observed_neurons
from snn_energy.profiler.discovery.repeatable import FirstRun, require_repeatable, require_same_again
from snn_energy.profiler.discovery.trial import (
    Trial,
    first_line,
    multiplying_subclasses,
    require_only_neuron_update,
    silent_neurons,
    with_observed_layouts,
)
from snn_energy.profiler.discovery.weights_guard import unchanged_weights
from snn_energy.profiler.neurons.known import (
    holds_weights,
    is_subclass,
    known_class,
    neurons_with_weights,
    spiking_modules,
)
from snn_energy.profiler.neurons.spec import NeuronSpec
from snn_energy.profiler.rules.plain_layers import is_layer_class
from snn_energy.running.inputs import Inputs
from snn_energy.running.time_mode import MODES, SAMPLES, require_one_argument

STATIC_MODES = (
    "inside",
    "repeat-axis0",
    "repeat-axis1",
    "repeat-flat-batch",
    "repeat-flat",
)  # tried in this order on (B, ...)
REPEATING_MODES = STATIC_MODES[1:]
FIRST_REPEATED, FLAT_MODES = "repeat-axis0", ("flat", "flat-batch")
TIMED_MODES = ("axis0", "call-axis0", "axis1", "flat-batch")  # tried in this order on (T, B, ...)


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
        first: dict[str, FirstRun] = {}
        interpretation = _interpret(model, x, time, time_steps, named, has_time, samples, first)
        if interpretation.time in first:
            require_same_again(model, first[interpretation.time])
        else:
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
    first: dict[str, FirstRun],
) -> Interpretation:
    """``first`` gets runs that may be repeated, by the time mode that they led to."""
    if not isinstance(x, (Tensor, Inputs)) or x.dim() == 0 or x.numel() == 0:
        raise ProfilingError("the loader must give tensors with at least one sample in front to look at the model with")
    spiking = spiking_modules(model, named)
    unknown = candidates(model, spiking)
    if time is not None and (time_steps is not None or time not in ("inside", "loop")):
        return _interpret_as_declared(model, x, time, steps_in(x, time, time_steps), spiking, unknown)
    weighted = {name: spec for name in neurons_with_weights(model) if (spec := known_class(model.get_submodule(name)))}
    if not spiking and not unknown and not weighted:
        return _without_neurons(model, x, time_steps, "it has no module that is known to spike")
    trial = Trial(model, x, time, spiking, unknown, weighted, first)
    static = ("inside",) if time is not None else TIMED_MODES if has_time else STATIC_MODES
    for mode in static:
        steps = int(x.shape[0]) if has_time else time_steps
        if mode == FIRST_REPEATED and not has_time:  # T steps on an axis of that size win over copies of samples
            axes = [trial.of(other, steps) for other in _timed_modes(x, steps) if other not in FLAT_MODES]
            on_axis = [o for o in axes if o is not None and _has_samples(o, x, samples)]
            if on_axis:
                return _of_several(model, x, None, on_axis)
        found = None if mode != "inside" and steps is None else trial.of(mode, steps)
        if found is not None and not has_time and _has_samples(found, x, samples) and found.mode.repeats_input:
            others = [trial.of(other, steps) for other in _timed_modes(x, steps)]
            return _of_several(model, x, found, [o for o in others if o is not None and _has_samples(o, x, samples)])
        if found is not None and (has_time or _has_samples(found, x, samples)):
            return found
    if not has_time and time is None:
        further = trial if time_steps is not None else replace(trial, why=[], raised=[])
        others = [further.of(other, steps) for other, steps in _timed_readings(x, time_steps)]
        fitting = _each_once(o for o in others if o is not None and _has_samples(o, x, samples))
        if fitting and (samples is not None or time_steps is not None):  # T or the labels tell them apart
            return _of_several(model, x, None, fitting)
        if len(fitting) == 1 and all(further.of(mode, 2) is None for mode in REPEATING_MODES):
            return fitting[0]
        if fitting:
            raise ProfilingError(undeclared_steps_message(type(model).__name__, x, fitting))
    if trial.raised and len(trial.raised) == len(trial.why):
        raise ProfilingError(
            f"{type(model).__name__}: it raised {type(trial.raised[0]).__name__} on a few samples of a batch of shape "
            f"{tuple(x.shape)}: {first_line(trial.raised[0])}; do they have the shape and type that it wants? is a "
            "state left over from other batches (reset it before)? if it wants them with time, declare it: time= "
            "(--time)"
        ) from trial.raised[0]
    if time is None and set(trial.why) <= {"no module spikes"}:
        return _without_neurons(model, x, time_steps, "no module spikes")
    classes = dict.fromkeys(type(model.get_submodule(name)).__name__ for name in unknown if name)
    if trial.calls is not None and (time_steps is None if trial.calls == 1 else trial.calls % (time_steps or 1)):
        raise ProfilingError(undeclared_calls_message(type(model).__name__, trial.calls, time_steps, classes))
    raise ProfilingError(undetermined_message(time_steps, "; ".join(dict.fromkeys(trial.why)), classes))


def _without_neurons(model: nn.Module, x: Any, steps: int | None, why: str) -> Interpretation:
    """Time of a network whose neurons are no modules of their own, by the calls of its layers with weights."""
    if steps is None or inline_time(model, x, steps) is None:
        axes = [] if steps is None else axes_with(x, steps)
        raise ProfilingError(undetermined_message(steps, why, axes=axes))
    return Interpretation("loop", steps, f"found by a run: its layers with weights are called {steps} times", {})


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
            mode, few = MODES[time], MODES[time].first_steps(steps)
            some = mode.of_first_steps(x if samples is None else mode.first_samples(x, samples, steps), few)
            run = observe_run(model, [*unknown, *named], some, mode, few)
        except Exception:  # noqa: BLE001 the error recurs in the run that counts
            continue
        require_only_neuron_update(run, spiking)
        found = observed_neurons(run, unknown)
        found |= {n: spec for n in found if (spec := declared_layout(run[n], found[n], steps)) is not None}
        found |= silent_neurons(model, found, run, unknown)
        multiplying = multiplying_subclasses(model, run, spiking)
        all_spiking = {**with_observed_layouts(spiking, run, steps), **found}
        neurons = {name: spec for name, spec in all_spiking.items() if name not in multiplying}
        return Interpretation(time, steps, "declared", neurons, frozenset([*multiplying, *neurons_with_weights(model)]))
    return Interpretation(time, steps, "declared", spiking)


def steps_in(x: Any, time: str, steps: int | None) -> int:
    """T as declared, else the size of the declared time axis. Raises ProfilingError if neither is known."""
    given = MODES[time].given
    axis = {"axis0": 0, "axis1": 1, "axis-last": -1}.get(given or "")
    if steps is None and axis is not None and isinstance(x, (Tensor, Inputs)) and x.dim() > max(axis, 0):
        return int(x.shape[axis])
    if steps is None:
        raise ProfilingError(
            f"time='{time}' needs time_steps= (--time-steps): the shapes do not say how many there are"
        )
    return steps


def _timed_modes(x: Any, steps: int | None) -> list[str]:
    """Time modes in which a batch of this shape would hold all T time steps itself."""
    if steps is None or steps < 2:
        return []
    on_axis = [*(("axis0", "call-axis0") if x.shape[0] == steps and x.dim() > 1 else ())]
    on_axis += ["axis1"] if x.dim() > 1 and x.shape[1] == steps else []
    on_axis += ["axis-last"] if x.dim() > 2 and x.shape[-1] == steps else []
    return on_axis + (["flat", "flat-batch"] if x.shape[0] % steps == 0 else [])


def _has_samples(found: Interpretation, x: Any, samples: int | None) -> bool:
    """False if the loader's labels say that the batch holds another number of samples than this interpretation."""
    return samples is None or found.mode.samples_of(x, found.time_steps) == samples


def _timed_readings(x: Any, steps: int | None) -> list[tuple[str, int]]:
    """(time mode, T) in which a batch of this shape would hold all time steps itself; T may not be known."""
    if steps is not None:
        return [(mode, steps) for mode in _timed_modes(x, steps)]
    on_axis = [(mode, int(x.shape[0])) for mode in ("axis0", "call-axis0") if x.dim() > 1 and x.shape[0] > 1]
    rows = int(x.shape[0])
    flat = [(mode, n) for n in range(2, min(rows, MOST_STEPS) + 1) if rows % n == 0 for mode in ("flat", "flat-batch")]
    return on_axis + flat


MOST_STEPS = 64  # time steps that are searched for in a flat batch


def _each_once(found: Iterable[Interpretation]) -> list[Interpretation]:
    """Interpretations without those that read a batch as another one does."""
    kept: list[Interpretation] = []
    for reading in found:
        if (reading.mode.given, reading.time_steps) not in {(o.mode.given, o.time_steps) for o in kept}:
            kept.append(reading)
    return kept


def _of_several(
    model: nn.Module, x: Any, repeated: Interpretation | None, timed: Sequence[Interpretation]
) -> Interpretation:
    """The interpretation of a batch whose shape fits several time modes.

    repeated: the one that shows every sample T times; one that finds T steps on an axis of that size wins over it.
    Raises ProfilingError, with the modes and what each would count, if several remain.
    """
    on_axis = [o for o in timed if o.mode.layout in ("axis0", "axis1", "axis-last")]
    alive = on_axis or [*([repeated] if repeated is not None else []), *timed]
    if len(alive) == 1:
        return alive[0]
    named = [n for n, spec in alive[0].spiking.items() if spec.known_by == "its name"]
    raise ProfilingError(several_readings_message(type(model).__name__, x, alive, named))
