"""What is said where time cannot be told: the readings, what each would count, and the options that choose them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.profiler.discovery.interpretation import Interpretation

COMMAND = "snn-energy profile CHECKPOINT --data DATA"


def undetermined_message(steps: int | None, why: str, neurons: Iterable[str] = (), axes: Sequence[str] = ()) -> str:
    """Why time is unknown, and the command that says where it is.

    neurons: classes that may be unknown neurons. axes: time modes in which an axis of the batch holds T steps.
    """
    hint = f"; an axis of its batches has {steps} steps: {' or '.join(f'--time {a}' for a in axes)}" if axes else ""
    declare = f"declare it (--time), one of {', '.join(TIME_MODES)}"
    needed = "" if steps else ", and time_steps= (--time-steps) where the model does not make its steps itself"
    name = "; name neurons that are not known with neurons= (--neuron)" if "spike" in why else ""
    command = command_of(axes[0] if axes else "inside", steps, neurons)
    return (
        f"time= must say where time is: it cannot be told from the model ({why}); {declare}{needed}{name}; such as: "
        f"{command}{hint}"
    )


def undeclared_calls_message(model: str, calls: int, steps: int | None, neurons: Iterable[str] = ()) -> str:
    """A network whose single-step neurons are called so often in one call of it, which does not fit T as declared."""
    if calls == 1:
        return (
            f"time_steps= is needed (--time-steps): {model} runs its neurons for one time step a call, and how often "
            f"it is called is not said; such as: {command_of('call', None, neurons)}; with one step: --time-steps 1"
        )
    return (
        f"{model} calls its neurons {calls} times a call, which does not fit {steps} time steps; declare those that it "
        f"runs with time_steps= (--time-steps), such as: {COMMAND} --time-steps {calls}{_named(neurons)}"
    )


def command_of(time: str, steps: int | None, neurons: Iterable[str] = ()) -> str:
    """A command that declares a time mode, T and neurons."""
    return f"{COMMAND} --time {time} --time-steps {steps or 'T'}{_named(neurons)}"


def _named(neurons: Iterable[str]) -> str:
    return "".join(f" --neuron {name}" for name in neurons)


def several_readings_message(
    model: str, x: Any, readings: Sequence[Interpretation], neurons: Iterable[str] = ()
) -> str:
    """The readings of a batch whose shape fits several time modes, with what each would count."""
    steps = {o.time_steps for o in readings}
    shows = [f"time='{o.time}' ({_figures(o, x)})" for o in readings]
    commands = [command_of(o.time, o.time_steps, neurons) for o in readings]
    choose = " or ".join(f"--time {o.time}" for o in readings)
    same = f" --time-steps {steps.pop()}" if len(steps) == 1 else ""
    return (
        f"{model}: a batch of shape {tuple(x.shape)} can be read in {len(readings)} ways: {' or '.join(shows)}; "
        f"choose one: {choose} (time= in Python), each with{same or ' its --time-steps'}; such as: {commands[0]}"
    )


def _figures(reading: Interpretation, x: Any) -> str:
    """How many samples and steps an interpretation counts."""
    samples, steps = reading.mode.samples_of(x, reading.time_steps), reading.time_steps
    counted = f"{samples} sample{'' if samples == 1 else 's'}"
    return f"{counted}, each shown {steps} times" if reading.mode.repeats_input else f"{counted}, of {steps} time steps"


def undeclared_steps_message(model: str, x: Any, readings: Sequence[Interpretation]) -> str:
    """A batch that may hold T steps, or samples alone that are to be shown T times: T says which."""
    shows = " or ".join(f"{_figures(o, x)} ({command_of(o.time, o.time_steps)})" for o in readings)
    return (
        f"{model}: a batch of shape {tuple(x.shape)} may hold {shows}, or {x.shape[0]} samples, each shown T "
        f"times ({command_of('repeat-axis0', None)}); choose one with time= and time_steps= (--time, --time-steps)"
    )
