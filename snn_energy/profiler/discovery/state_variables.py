"""How many state variables a neuron keeps that no framework's class defines: observed in runs on a few steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from snn_energy.profiler.discovery.data_flow import (
    OperationValues,
    ValueRecorder,
    flow_of,
    is_complete,
    kept_elements,
    value_of,
)
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.discovery.weights_guard import unchanged_weights
from snn_energy.profiler.neurons.known import is_subclass, reset_states
from snn_energy.profiler.neurons.spec import Layout, NeuronSpec, declared_state_variables
from snn_energy.running.evaluated import evaluation_mode
from snn_energy.running.module_state import State
from snn_energy.running.outputs import tensors_of
from snn_energy.running.time_mode import SAMPLES

STEPS, LATER = 8, 3  # of a trial: more than a neuron has variables; those from the one at which it is looked at
SCALES = (0.5, 2.0, 8.0)  # of the inputs: below, around and above a threshold
MOST_POSITIONS = 4  # of a feature map, per axis


@dataclass(frozen=True)
class FirstCall:
    """The first call of a neuron: what it was given, and its state before."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    state: State

    @property
    def key(self) -> str | None:
        """The name under which the input is given; None for the first argument."""
        return None if self.args else next(iter(self.kwargs), None)

    @property
    def current(self) -> Any:
        """The input."""
        return self.args[0] if self.key is None else self.kwargs[self.key]


class _AllCalled(BaseException):
    """Ends a run in which all neurons were called; no model catches it."""


@torch.no_grad()
def with_state_variables(model: nn.Module, x: Any, found: Interpretation) -> Interpretation:
    """The interpretation, with the state variables of neurons whose class does not define them; None if unknown.

    They are declared by the attribute ``state_variables`` of a module, else observed. x: a batch of the loader.
    """
    spiking = dict(found.spiking)
    for name, spec in found.spiking.items():
        declared = declared_state_variables(model.get_submodule(name))
        if declared is not None and spec.framework in ("hand-written", "nir"):
            spiking[name] = replace(spec, state_variables=declared)
    unknown = [n for n, spec in spiking.items() if _is_unknown(model.get_submodule(n), spec)]
    for samples in (SAMPLES[0], None):  # a state left over has the size of a whole batch
        calls = first_calls(model, unknown, x, found, samples) if unknown else {}
        of_alike: dict[Any, int | None] = {}
        for name, call in calls.items():
            module, spec = model.get_submodule(name), spiking[name]
            kind = _configuration(module), spec.layout
            if kind not in of_alike:
                with unchanged_weights(module):
                    of_alike[kind] = observed_state_variables(module, call, spec.layout, found.time_steps)
            if of_alike[kind] is not None:
                spiking[name] = replace(spec, state_variables=of_alike[kind])
                unknown.remove(name)
    return replace(found, spiking=spiking)


def _is_unknown(module: nn.Module, spec: NeuronSpec) -> bool:
    """True for a neuron whose class does not define its state, or a subclass that may have more."""
    if spec.framework in ("hand-written", "nir"):
        return spec.state_variables is None
    return spec.state_variables is None or is_subclass(module, spec)


def _configuration(module: nn.Module) -> Any:
    """What decides how a module keeps its state: its class, its plain attributes, the names of its tensors."""
    plain = [(name, value) for name, value in vars(module).items() if isinstance(value, (int, float, str, type(None)))]
    return type(module), repr(sorted(plain)), tuple(name for name, _ in module.named_parameters())


def first_calls(
    model: nn.Module, names: Sequence[str], x: Any, found: Interpretation, samples: int | None
) -> dict[str, FirstCall]:
    """The first call of each module, in a run from rest that ends when all were called.

    samples: of the batch x, None for all; the modules that were called before the network raises are there too.
    """
    calls: dict[str, FirstCall] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if name not in calls:
                kept = _copied((args, kwargs))
                calls[name] = FirstCall(kept[0], kept[1], State(module))
                if len(calls) == len(names):
                    raise _AllCalled

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(hook_of(name), with_kwargs=True) for name in names]
    before = State(model)
    try:
        reset_states(model)
        with evaluation_mode(model), unchanged_weights(model), torch.random.fork_rng(devices=[]):
            some = x if samples is None else found.mode.first_samples(x, samples, found.time_steps)
            with suppress(_AllCalled, Exception):  # an error recurs in the run that counts
                found.mode.run(model, some, found.time_steps)
    finally:
        for handle in handles:
            handle.remove()
        before.restore()
    return calls


def _copied(given: Any) -> Any:
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, given)


@torch.no_grad()
def observed_state_variables(module: nn.Module, call: FirstCall, layout: Layout | None, time_steps: int) -> int | None:
    """State variables per neuron, by the flow of values between time steps; None if it cannot be seen whole.

    Of a neuron whose time axis is not known: the most that one of those that are as long as T shows.
    """
    if layout is not None:
        return _observed(module, call, layout, time_steps)
    shape = call.current.shape if isinstance(call.current, Tensor) else ()
    axes: dict[Layout, int] = {"time-first": 0, "batch-first": 1}
    others = [_observed(module, call, other, time_steps) for other, axis in axes.items()
              if len(shape) > 1 and shape[axis] == time_steps]  # fmt: skip
    return max((most for most in others if most), default=0) or _observed(module, call, "step", time_steps)


def _observed(module: nn.Module, call: FirstCall, layout: Layout, time_steps: int) -> int | None:
    if not isinstance(call.current, Tensor) or not call.current.is_floating_point() or not call.current.numel():
        return None
    lengths = (STEPS,) if layout == "step" else tuple(dict.fromkeys((STEPS, time_steps)))
    after = State(module)
    try:
        for step in _inputs_of_a_step(call.current, layout, time_steps):
            for steps in lengths:
                try:
                    counted = _Trial(module, call, layout, step, steps, time_steps).count()
                except Exception:  # noqa: BLE001 it rejects this shape
                    continue
                if counted is not None:
                    return counted
    finally:
        after.restore()
    return None


@contextmanager
def _with_steps(module: nn.Module, time_steps: int, steps: int) -> Iterator[None]:
    """In a module that holds T in attributes, they hold the number of steps of a trial."""
    of_steps = [name for name, value in vars(module).items() if type(value) is int and value == time_steps > 1]
    vars(module).update(dict.fromkeys(of_steps, steps))
    try:
        yield
    finally:
        vars(module).update(dict.fromkeys(of_steps, time_steps))


AXES: Mapping[Layout, int] = {"time-first": 0, "flat": 0, "batch-first": 1, "flat-batch": 1, "time-last": -1}


def _with_time_axis(rows: Tensor, layout: Layout, steps: int) -> Tensor:
    """Rows of a flat batch on two axes, that of time where AXES says; other tensors as they are."""
    if layout not in ("flat", "flat-batch"):
        return rows
    unflat: Tensor = rows.unflatten(0, (steps, -1) if layout == "flat" else (-1, steps))
    return unflat


def _inputs_of_a_step(current: Tensor, layout: Layout, time_steps: int) -> Iterator[Tensor]:
    """What a neuron may read in one time step: few positions of one sample, one sample, all of it."""
    rows = current
    if layout != "step":
        rows = _with_time_axis(current, layout, time_steps).select(AXES[layout], 0)
    first = rows[:1]
    yield first[(slice(None), slice(None), *[slice(MOST_POSITIONS)] * (first.dim() - 2))] if first.dim() > 2 else first
    yield first
    yield rows


@dataclass(frozen=True)
class _Trial:
    """Runs of a neuron on ``steps`` time steps of inputs like ``step``; in the network there are ``time_steps``."""

    module: nn.Module
    call: FirstCall
    layout: Layout
    step: Tensor
    steps: int
    time_steps: int

    @property
    def at(self) -> int:
        """The time step before which the state is looked at; of a few, the last one."""
        return self.steps - (LATER if self.steps >= STEPS else 1)

    def count(self) -> int | None:
        """State variables per neuron, the most that inputs of several sizes show; None if that cannot be observed."""
        most, remembers, reads = 0, False, False
        for scale in SCALES:
            drawn = self._inputs(scale)
            runs = [self._run(inputs) for inputs in drawn]
            flow = flow_of([operations for operations, _, _ in runs], self.step.numel())
            if flow is None:
                continue  # what it does depends on the values
            given = set(zip(*(inputs for _, inputs, _ in runs), strict=True))
            if not is_complete(flow, given, self.step.numel()):
                return None
            most = max(most, round(kept_elements(flow, self.step.numel()) / self.step.numel()))
            first, earlier, later = (out for _, _, out in runs)
            remembers, reads = remembers or not torch.equal(first, earlier), reads or not torch.equal(first, later)
        if most >= self.at or (most == 0 and (remembers or not reads)):
            return None  # as many as there were inputs before; kept in another way; a step that was not run
        return most

    def _inputs(self, scale: float) -> list[Tensor]:
        """(steps, ...) three times: drawn, with other steps before ``at``, with other steps from it on."""
        generator = torch.Generator().manual_seed(0)
        largest = scale * float(self.step.abs().amax()) or scale

        def drawn() -> Tensor:
            uniform = torch.rand(self.steps, *self.step.shape, generator=generator)
            return ((uniform * 1.5 - 0.5) * largest).to(self.step)

        first, other = drawn(), drawn()
        earlier, later = other.clone(), first.clone()
        earlier[self.at :], later[self.at :] = first[self.at :], other[self.at :]
        return [first, earlier, later]

    def _run(self, inputs: Tensor) -> tuple[list[OperationValues], list[int], Tensor]:
        """The operations of a run, the hashes of its inputs, and the output at the step ``at``."""
        self.call.state.restore()
        with _with_steps(self.module, self.time_steps, self.steps), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.layout == "step":
                given = list(inputs.clone().unbind(0))
                digests = [value_of(x).digest for x in given]
                with ValueRecorder() as recorder:
                    outs = self._step_by_step(given)
                return recorder.operations, digests, outs[self.at].clone()
            axis = AXES[self.layout]
            whole = inputs.movedim(0, axis).clone()
            whole = whole.flatten(0, 1) if self.layout in ("flat", "flat-batch") else whole
            digests = [value_of(whole).digest]
            with ValueRecorder() as recorder:
                out = next(tensors_of(self._called(whole, (), {})))
        if out.shape == whole.shape:
            out = _with_time_axis(out, self.layout, self.steps)
        is_over_time = out.dim() > axis and out.shape[axis] == self.steps
        return recorder.operations, digests, (out.select(axis, self.at) if is_over_time else out).clone()

    def _step_by_step(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The spikes of every step; a state that is returned is passed back."""
        key, shape = self.call.key, self.call.current.shape
        rest = [self._cut(value, shape) for value in self.call.args[1:]]
        named = {n: self._cut(value, shape) for n, value in self.call.kwargs.items() if n != key}
        spikes = []
        for x in given:
            out = self._called(x, rest, named)
            spikes.append(next(tensors_of(out)))
            state = list(out[1:]) if isinstance(out, tuple) else []
            if state and named and len(state) == len(named):
                named = dict(zip(named, state, strict=True))
            elif state and not named and self._takes(x, state):
                rest = state
        return spikes

    def _called(self, x: Tensor, rest: Sequence[Any], named: Mapping[str, Any]) -> Any:
        if self.call.key is None:
            return self.module(x, *rest, **named)
        return self.module(*rest, **{self.call.key: x, **named})

    def _takes(self, x: Tensor, state: Sequence[Any]) -> bool:
        """True if a call with a state behind the input is one that the module's forward accepts."""
        if self.call.key is not None:
            return False
        try:
            inspect.signature(self.module.forward).bind(x, *state)
        except TypeError:
            return False
        return True

    def _cut(self, value: Any, shape: Sequence[int]) -> Any:
        """A state of the shape of the first call's input, cut as the input of a step is."""

        def cut(tensor: Any) -> Any:
            if isinstance(tensor, Tensor) and tensor.shape == shape:
                return tensor[tuple(slice(size) for size in self.step.shape)]
            return tensor

        return tree_map(cut, value)
