"""How the first batch of a loader is read: where time is, how many time steps, and which modules spike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError, nearest
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.counts.counts import Counts
from snn_energy.profiler.discovery.inline import calls_per_forward, runs_its_own_steps
from snn_energy.profiler.discovery.interpret import candidates, interpret, steps_in
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.discovery.non_spiking import ONCE_PER_SAMPLE, hint_of_time, needs_steps
from snn_energy.profiler.discovery.one_step import has_time_in_front
from snn_energy.profiler.neurons.known import is_subclass, neurons_with_weights, spiking_modules
from snn_energy.running.evaluated import evaluation_mode
from snn_energy.running.inputs import Inputs, as_taken, unpack

Count = Callable[[Any], Counts]  # counts a batch of samples at T = 1


class Declared(NamedTuple):
    """What the user says of a network: time mode, T and neurons; has_time: the loader gives (T, B, ...)."""

    time: str | None
    time_steps: int | None
    neurons: Sequence[str | type[nn.Module]]
    has_time: bool


def interpret_batch(model: nn.Module, batches: Sequence[Any], declared: Declared, count: Count) -> Interpretation:
    """Time mode and spiking modules of a network, by its first batch; ``profiler.run.interpret_first`` has the details.

    One step (1, B, ...) of several samples is distinguished from one sample by a run.
    """
    found = _interpretation_of(model, batches, declared, count)
    is_open = declared.time is None and not declared.has_time and bool(batches)
    if not is_open or found.time_steps != 1 or found.mode.given is not None:
        return found
    with evaluation_mode(model):
        is_one_step = has_time_in_front(model, taken_by(model, batches[0])[0])
    one_step = declared._replace(time="axis0", time_steps=1)
    return _interpretation_of(model, batches, one_step, count) if is_one_step else found


def _interpretation_of(model: nn.Module, batches: Sequence[Any], declared: Declared, count: Count) -> Interpretation:
    """As the model or the user says, else as runs show. Raises ProfilingError if neither does."""
    time, time_steps, named, has_time = declared
    if time is not None and time not in TIME_MODES:
        raise ProfilingError(f"unknown time='{time}'{nearest(time, TIME_MODES)} (one of {', '.join(TIME_MODES)})")
    own = getattr(model, "time_steps", None)
    own = own if isinstance(own, int) and not isinstance(own, bool) and own > 0 else None
    if own is not None and time_steps not in (None, own):
        raise ProfilingError(f"time_steps={time_steps} was asked for but the model runs T_max={own}; leave it out")
    steps = own if time_steps is None else time_steps
    spiking = spiking_modules(model, named)
    is_foreign = bool(candidates(model, spiking)) or any(
        b.framework != "snn_energy" or is_subclass(model.get_submodule(n), b) for n, b in spiking.items()
    )
    if own is not None and not is_foreign:
        of_model = Interpretation(time or "inside", own, "the model says so", spiking)
        if time is not None and batches:
            _require_as_many_samples(of_model, taken_by(model, batches[0])[0], _labels_in(batches))
        return of_model
    with torch._C.DisableTorchFunction():
        x = taken_by(model, batches[0])[0] if batches else None
    is_undeclared = time is None and steps is None
    has_neurons = bool(spiking) or bool(neurons_with_weights(model))
    may_be_static = is_undeclared and not has_neurons and not has_time and bool(batches)
    if is_undeclared and not is_foreign and not may_be_static:
        with evaluation_mode(model):
            raise ProfilingError(_steps_needed_message(model, x))
    if not is_foreign and (time is not None or steps == 1):
        on_axis = 1 if time in (None, "inside") else steps_in(x, time, steps)
        if time == "axis0" and not has_neurons and isinstance(x, Tensor):
            _require_steps_in_front(model, x, steps or on_axis)
        return Interpretation(time or "inside", steps or on_axis, "declared", spiking)
    with evaluation_mode(model):
        if is_undeclared and not is_foreign:
            return _once_per_sample(model, x, batches, None, count)
        try:
            interpretation = interpret(
                model, x, time=time, time_steps=steps, named=named, has_time=has_time, samples=_labels_in(batches)
            )
        except ProfilingError as error:
            if may_be_static:
                return _once_per_sample(model, x, batches, error, count)
            if any(b.known_by == "its name" for b in spiking.values()):
                raise
            if time is None and own is not None:
                return Interpretation("inside", own, "the model says so", spiking)
            if time is None and steps == 1 and all(b.layout in ("step", None) for b in spiking.values()):
                return Interpretation("inside", 1, "declared", spiking)
            raise
    if time is None and not has_time:
        _require_as_many_samples(interpretation, x, _labels_in(batches))
    return interpretation


def _require_steps_in_front(model: nn.Module, x: Tensor, steps: int) -> None:
    """Raise ProfilingError for a network that runs T steps by itself, whatever the length of the axis in front."""
    with evaluation_mode(model):
        if runs_its_own_steps(model, x, steps):
            raise ProfilingError(
                f"{type(model).__name__} calls its layers {steps} times on two of {tuple(x.shape)} in front, too: that "
                f"axis holds samples, and time is a loop of the network; declare time='loop' (--time loop "
                f"--time-steps {steps})"
            )


def _steps_needed_message(model: nn.Module, x: Any) -> str:
    """That T is not known, and how often the layers are called, which may be T."""
    calls = calls_per_forward(model, x) if isinstance(x, (Tensor, Inputs)) and x.numel() else None
    said = f"; it calls its layers {calls} times: if those are time steps, --time-steps {calls}" if calls else ""
    return f"time_steps= is needed: the model does not say how many time steps it runs{said}"


def _once_per_sample(
    model: nn.Module, x: Any, batches: Sequence[Any], refusal: ProfilingError | None, count: Count
) -> Interpretation:
    """T = 1 for a network of which no module spikes. Raises ``refusal``, or why, if something hints at time."""
    failed: list[ProfilingError] = []

    def counted(some: Tensor) -> Counts:
        try:
            return count(some)
        except ProfilingError as error:
            failed.append(error)
            raise

    hint = hint_of_time(model, x, counted)
    if hint is not None or (failed and refusal is not None):
        raise refusal or needs_steps(str(hint), calls_per_forward(model, x))
    _require_as_many_samples(ONCE_PER_SAMPLE, x, _labels_in(batches))
    return ONCE_PER_SAMPLE


def _labels_in(batches: Sequence[Any]) -> int | None:
    """The number of labels in the first batch; None if it has none, one per sample."""
    y = unpack(batches[0])[1] if batches else None
    shape = np.shape(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else ()
    return shape[0] if len(shape) == 1 else None


def _require_as_many_samples(interpretation: Interpretation, x: Any, labels: int | None) -> None:
    """Raise ProfilingError if a batch has another number of labels than of samples."""
    if labels is not None and labels != interpretation.mode.samples_of(x, interpretation.time_steps):
        raise ProfilingError(
            f"the loader gives {labels} labels for {tuple(x.shape)}, which has not as many samples in front; "
            f"declare where time is with time= (--time), one of {', '.join(TIME_MODES)}"
        )


def taken_by(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """(inputs, labels) of a batch: inputs as the model takes them and on its device."""
    x, y = unpack(batch)
    x = as_taken(model, x)
    return (x.to(_device_of(model, x)) if isinstance(x, (Tensor, Inputs)) else x), y


def _device_of(model: nn.Module, x: Tensor | Inputs) -> torch.device:
    return next((p.device for p in model.parameters()), x.device)
