"""Observes modules in a run on a few samples: calls, shapes, and what indicates a neuron."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snn_energy.core.kinds import value_set_of
from snn_energy.profiler.neurons.known import known_class, reset_states
from snn_energy.profiler.neurons.spec import Layout, NeuronSpec
from snn_energy.profiler.rules.registry import layer_names, plain_name
from snn_energy.running.module_state import State
from snn_energy.running.outputs import tensors_of
from snn_energy.running.time_mode import TimeMode


@dataclass
class ModuleObservation:
    """Observations of one module in a run: the shape that each call read, and what indicates a neuron."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    is_known: bool = False  # a neuron of a framework: only its shapes are recorded
    values: set[float] = field(default_factory=set)
    read: set[float] = field(default_factory=set)  # values of its input, the first few
    is_same_shape: bool = True
    is_identity: bool = True
    has_state: bool = False  # its output depends on earlier calls, or on a state that is passed back to it
    time_axis: int | None = None  # axis along which later outputs depend on earlier inputs
    reached: frozenset[int] = frozenset()  # positions on that axis whose output depends on the input of the first one
    is_named: bool = False  # the user says that it is a neuron, whatever values it gives
    was_tried: bool = False  # it was called on other values, beside its calls in the network
    multiplies: bool = False  # an operation with weights, a product or a pooling runs within it


@torch.no_grad()
def observe_run(
    model: nn.Module,
    names: Sequence[str],
    x: Any,
    mode: TimeMode,
    steps: int,
    named: Iterable[str] = (),
    outs: list[Tensor] | None = None,
) -> dict[str, ModuleObservation]:
    """Run the model on a few samples after a reset; returns the observations of the modules ``names``.

    named: those that the user says are neurons. outs: gets copies of the tensors that the model returns; the run has
    then a seed of its own.
    """
    observations = {
        name: ModuleObservation(is_known=known_class(model.get_submodule(name)) is not None, is_named=name in named)
        for name in names
    }
    state = State(model)
    try:
        reset_states(model)
        with _observing(model, observations), seeded() if outs is not None else contextlib.nullcontext():
            out = mode.run(model, x, steps)
        if outs is not None:
            outs += [tensor.detach().clone() for tensor in tensors_of(out)]
    finally:
        state.restore()
    return observations


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers that are the same in every run, and do not change those outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class _Reached(BaseException):
    """Stops a run that has reached the module of interest."""


@torch.no_grad()
def first_input(model: nn.Module, name: str, x: Any, mode: TimeMode, steps: int) -> Tensor | None:
    """What a module reads in its first call, in a run from rest; None if it is not called with a tensor."""
    return first_reached(model, [name], x, mode, steps)[1]


@torch.no_grad()
def first_reached(
    model: nn.Module, names: Sequence[str], x: Any, mode: TimeMode, steps: int
) -> tuple[str, Tensor | None]:
    """The first of some modules that is called in a run from rest, and the tensor that it reads."""
    reached: list[tuple[str, Tensor | None]] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            reached.append((name, args[0].clone() if args and isinstance(args[0], Tensor) else None))
            raise _Reached

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    state = State(model)
    try:
        reset_states(model)
        with contextlib.suppress(_Reached):
            mode.run(model, x, steps)
    finally:
        for handle in handles:
            handle.remove()
        state.restore()
    return reached[0] if reached else (names[0], None)


@contextmanager
def _observing(model: nn.Module, observations: Mapping[str, ModuleObservation]) -> Iterator[None]:
    handles: list[Any] = []
    before: dict[str, State] = {}
    running: list[str] = []  # observed modules whose forward is running
    in_trial = [False]

    def entering(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not in_trial[0]:
                running.append(name)
                if not observations[name].is_known:
                    before[name] = State(module)

        return hook

    def leaving(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if in_trial[0]:
                return
            running.remove(name)
            key = None if args else next(iter(kwargs), None)
            read = args if key is None else (kwargs[key],)

            def call(x: Tensor, *rest: Any) -> Any:
                return module(x, *rest, **kwargs) if key is None else module(*rest, **{**kwargs, key: x})

            if read and isinstance(read[0], Tensor) and _record_call(observations[name], read[0], _spike(out)):
                after, in_trial[0] = State(module), True
                try:
                    _run_trials(observations[name], call, read, out, before[name])
                finally:
                    after.restore()
                    in_trial[0] = False

        return hook

    try:
        for name in observations:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(entering(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leaving(name), with_kwargs=True))
        with _MultiplicationDetector(observations, running):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _MultiplicationDetector(TorchFunctionMode):
    """Records which running modules multiply with weights, pool or attend: work that a neuron row would hide."""

    def __init__(self, observations: Mapping[str, ModuleObservation], running: Sequence[str]) -> None:
        super().__init__()
        self.observations, self.running = observations, running

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.running and plain_name(getattr(func, "__name__", "")) in _LAYER_FUNCTIONS:
            for name in self.running:
                self.observations[name].multiplies = True
        return func(*args, **(kwargs or {}))


_LAYER_FUNCTIONS = layer_names()


def _spike(out: Any) -> Any:
    """The first tensor of what a neuron returns: its spikes."""
    return next(tensors_of(out), out)


def _record_call(observation: ModuleObservation, x: Tensor, spike: Any) -> bool:
    """Record one call; True if the module may be a neuron and further trials are needed."""
    observation.shapes.append(tuple(x.shape))
    if not isinstance(spike, Tensor) or spike.shape != x.shape or not x.is_floating_point():
        observation.is_same_shape = False
        return False
    if observation.is_known:
        return False
    if observation.is_named:
        return observation.time_axis is None and not observation.has_state
    observation.is_identity &= torch.equal(spike.to(x.dtype), x)
    if observation.is_identity:  # so far, the output equals the input
        return False
    if _may_be_spikes(observation.values):
        observation.values |= _values(spike)
    if _may_be_spikes(observation.read):
        observation.read |= _values(x)
    is_known = (observation.has_state or observation.time_axis is not None) and observation.values != {0.0}
    return not observation.is_known and not is_known and _may_be_spikes(observation.values)


def _run_trials(
    observation: ModuleObservation, module: Callable[..., Any], args: Sequence[Any], out: Any, before: State
) -> None:
    """Determine whether a module keeps a state, and which input axis is time, by its outputs for modified inputs.

    Every trial starts from ``before``, the state at the start of the call.
    """
    observation.was_tried = True

    def give(x: Tensor, *rest: Any) -> Tensor:
        made: Tensor = _spike(module(x, *rest))
        return made

    def output_from_rest(x: Tensor) -> Tensor:
        before.restore()
        return give(x, *args[1:])

    if observation.time_axis is None and not observation.has_state:
        observation.time_axis, observation.reached = _axis_of_memory(output_from_rest, args[0])
    if observation.time_axis is None and not observation.has_state:
        observation.has_state = _depends_on_earlier_input(output_from_rest, lambda x: give(x, *args[1:]), args[0])
        if not observation.has_state:
            before.restore()
            observation.has_state = _depends_on_returned_state(lambda *rest: give(args[0], *rest), args[0], out)
    if observation.values == {0.0} and (
        observation.has_state or observation.time_axis is not None
    ):  # no spike so far: raise the input
        observation.values |= next(
            (v for offset in _INPUT_OFFSETS if (v := _values(output_from_rest(_raised(args[0], offset)))) != {0.0}),
            {0.0},
        )


MOST_AT_ONCE = 8  # spikes that a neuron is found to give in one step
_INPUT_OFFSETS = (1, 10, 100, 1000)


def _raised(x: Tensor, offset: float) -> Tensor:
    return x + offset * (x.abs().amax() + 1)


def _values(spike: Tensor) -> set[float]:
    """The distinct values; of very many, more of them than spikes may have."""
    return set(spike.unique()[: 2 * MOST_AT_ONCE + 2].tolist())


def _may_be_spikes(values: set[float]) -> bool:
    """True for zeros and one constant, or whole multiples of one: several spikes at once, or negative ones."""
    return value_set_of(np.array(sorted(values)), MOST_AT_ONCE).kind != "real"


def _axis_of_memory(output_from_rest: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int | None, frozenset[int]]:
    """The axis, 0, 1 or the last, along which later outputs depend on the first input, and which of them do.

    Time is causal: an axis along which earlier outputs depend on the last input is not time. None if there is none.
    """
    for axis in sorted({0, 1, x.dim() - 1} & set(range(x.dim()))):
        size = x.shape[axis]
        if size < 2:
            continue
        spike, reached = output_from_rest(x), frozenset[int]()
        for offset in (1, -1):
            first, last = x.clone(), x.clone()
            first.select(axis, 0).copy_(_raised(x, offset).select(axis, 0))
            last.select(axis, size - 1).copy_(_raised(x, offset).select(axis, size - 1))
            if not torch.equal(output_from_rest(last).narrow(axis, 0, size - 1), spike.narrow(axis, 0, size - 1)):
                reached = frozenset()
                break
            is_other = (output_from_rest(first) != spike).movedim(axis, 0).flatten(1).any(1)
            reached |= frozenset(i for i in is_other.nonzero().flatten().tolist() if i)
        if reached:
            return axis, reached
    return None, frozenset()


def _depends_on_earlier_input(
    output_from_rest: Callable[[Tensor], Tensor], again: Callable[[Tensor], Tensor], x: Tensor
) -> bool:
    """True if the output of a module in a second call depends on its input in the first call."""
    for offset in (0, *_INPUT_OFFSETS):
        second, seen = _raised(x, offset), None
        for first in (x, 0.5 * second, _raised(x, -1), _raised(x, 1)):
            output_from_rest(first)
            spike = again(second).clone()
            if seen is not None and not torch.equal(seen, spike):
                return True
            seen = spike
    return False


def _depends_on_returned_state(give: Callable[..., Tensor], x: Tensor, out: Any) -> bool:
    """True if a module returns a state next to its spikes, and its spikes depend on the state that it gets back."""
    rest = list(out[1:]) if isinstance(out, (tuple, list)) else []
    if not any(isinstance(v, Tensor) for item in rest for v in (item if isinstance(item, (tuple, list)) else [item])):
        return False
    try:
        pushed = [
            give(*(_shifted(item, offset) for item in rest)) for offset in (x.abs().amax() + 1, -x.abs().amax() - 1)
        ]
    except (TypeError, AttributeError, ValueError, RuntimeError):  # it does not accept a state
        return False
    return not torch.equal(*pushed)


def _shifted(state: Any, offset: Tensor) -> Any:
    if isinstance(state, (tuple, list)):
        moved = [_shifted(item, offset) for item in state]
        return type(state)(*moved) if hasattr(state, "_fields") else type(state)(moved)
    return state + offset if isinstance(state, Tensor) and state.is_floating_point() else state


def observed_neurons(run: Mapping[str, ModuleObservation], names: Iterable[str]) -> dict[str, NeuronSpec]:
    """Unknown modules that keep a state and return 0 and multiples of one value; only the innermost of nested ones."""
    found = {
        name
        for name in names
        if (observation := run[name]).shapes
        and observation.is_same_shape
        and not observation.is_identity
        and not observation.multiplies
        and (observation.has_state or observation.time_axis is not None)
        and {0.0} < observation.values
        and _may_be_spikes(observation.values)
        and not observation.read <= observation.values  # a delay returns the values that it reads
    }
    inner = {n for n in found if not any(m != n and (m.startswith(f"{n}.") or n == "") for m in found)}
    return {name: NeuronSpec("hand-written", "its output", _observed_layout(run[name])) for name in inner}


def _observed_layout(observation: ModuleObservation) -> Layout | None:
    if observation.time_axis is None:
        return "step" if observation.has_state else None
    is_last = observation.time_axis == len(observation.shapes[0]) - 1 > 1
    return "time-last" if is_last else "time-first" if observation.time_axis == 0 else "batch-first"


def named_layout(observations: Iterable[ModuleObservation]) -> Layout | None:
    """The layout of a module that the user says is a neuron, as far as runs show it."""
    found = (_observed_layout(observation) for observation in observations if observation.shapes)
    return next((layout for layout in found if layout is not None), None)
