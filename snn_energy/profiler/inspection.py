"""What is believed of a network before it is counted: which modules spike, how many time steps, where time is.

A network that does not say so itself is run on two and on three samples: an axis that grows with them is that of the
samples, a neuron that is called T times runs in a loop. What fits no reading is refused, with how to declare it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snn_energy.core.errors import ProfilingError
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.profiler import rules
from snn_energy.profiler.frameworks import (
    LAYOUTS,
    Layout,
    Spiking,
    hides_work,
    holds_weights,
    is_subclass,
    known_class,
    reset_states,
    spiking_modules,
    with_weights,
)
from snn_energy.running.module_state import State, version_of

STATIC_MODES = ("inside", "repeat-axis0", "repeat-axis1", "repeat-flat-batch")  # tried in this order on (B, ...)
TIMED_MODES = ("axis0", "call-axis0", "axis1", "flat-batch")  # and on (T, B, ...)
SHAPES = {"axis0": "(T, B, ...)", "axis1": "(B, T, ...)", "flat": "(T*B, ...)", "flat-batch": "(B*T, ...)"}
SAMPLES = (2, 3)
MOST_COPIED = 50_000_000  # weights


@dataclass(frozen=True)
class Settled:
    """time, time_steps: as ``profile`` takes them. found: how they are known. spiking: layer -> what is believed.

    opened: neurons of ours that a user's subclass does more in, counted as the operations that they are made of.
    """

    time: str
    time_steps: int
    found: str
    spiking: Mapping[str, Spiking]
    opened: frozenset[str] = frozenset()


@dataclass
class Heard:
    """What one module did in a run: calls, the shapes it read, and what speaks for a neuron."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    is_known: bool = False  # a framework's: its shapes alone are of interest
    values: set[float] = field(default_factory=set)
    read: set[float] = field(default_factory=set)  # values of its input, the first few
    is_same_shape: bool = True
    is_passed_on: bool = True
    remembers: bool = False  # what it gives follows from earlier calls, or from a state that it is given back
    steps_axis: int | None = None  # along which later outputs follow from earlier inputs
    multiplies: bool = False  # an operation with weights, a product or a pooling runs within it


def repeated(x: Tensor, layout: str, steps: int) -> Tensor:
    """(B, ...) given T times over: (T, B, ...), (B, T, ...), (T*B, ...) or (B*T, ...)."""
    axis = 0 if layout in ("axis0", "flat") else 1
    stacked = x.unsqueeze(axis).repeat([steps if i == axis else 1 for i in range(x.dim() + 1)])
    return stacked if layout.startswith("axis") else stacked.flatten(0, 1)


def step_by_step(model: nn.Module, xs: Sequence[Tensor], before: Callable[[int], None] | None = None) -> list[Any]:
    """What the model gives, called once per time step. A state that it returns is handed back to it.

    It does so where its forward has a second argument that is None by default, and it returns two things.
    ``before`` is told the step before each call.
    """
    outs: list[Any] = []
    takes_state = takes_a_state(model)
    for step, x in enumerate(xs):
        if before is not None:
            before(step)
        gives_state = takes_state and outs and isinstance(outs[-1], tuple) and len(outs[-1]) == 2
        outs.append(model(x, outs[-1][1]) if gives_state else model(x))
    return outs


def require_one_argument(model: nn.Module, x: Any) -> None:
    """Raises ProfilingError where a forward cannot be called with the batch alone."""
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError as misfit:
        raise ProfilingError(
            f"{type(model).__name__}: its forward cannot be called with one tensor ({misfit}); wrap it in a module "
            "whose forward takes the batch alone"
        ) from misfit
    except ValueError:  # it has no signature
        return


def takes_a_state(model: nn.Module) -> bool:
    """True where a forward has exactly one further argument, which is None where it is left out."""
    try:
        further = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    is_positional = len(further) == 1 and further[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return is_positional and further[0].default is None


def candidates(model: nn.Module, known: Iterable[str]) -> list[str]:
    """Modules that may be neurons nobody knows: not torch's, without weights, nothing of a neuron in or around them."""
    names = set(known)
    found = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.") or rules.is_layer_class(type(module)) or holds_weights(module):
            continue
        if getattr(module, "spiking_neuron", None) is False:  # it says that it is none
            continue
        if any(name == n or name.startswith(f"{n}.") or n.startswith(f"{name}.") or n == "" for n in names):
            continue
        if any(known_class(inner) is not None for inner in module.modules()):
            continue
        found.append(name)
    return found


def settle(
    model: nn.Module,
    x: Any,
    *,
    time: str | None = None,
    time_steps: int | None = None,
    named: Iterable[str | type[nn.Module]] = (),
    has_time: bool = False,
) -> Settled:
    """Time mode, T_max and spiking modules of a network, by what it does to a few samples of a batch.

    x: a batch of the loader, samples in front, or (T, B, ...) where ``has_time``. time, time_steps: as declared, None
    where not. The model's state is as before afterwards. Raises ProfilingError where no reading of time fits, or where
    several neurons speak for different ones; the message says how to declare it.
    """
    require_one_argument(model, x)
    with _weights_kept(model):
        settled = _settle(model, x, time, time_steps, named, has_time)
        _require_repeatable(model, x, settled)
    return settled


@contextmanager
def _weights_kept(model: nn.Module) -> Iterator[None]:
    """Raises ProfilingError where a forward has changed weights: nobody could count it then. Puts them back.

    Of networks with more than ``MOST_COPIED`` weights no copy is made: a change is seen by torch's own count of
    changes, and their weights stay changed.
    """
    held = [(module, name, p, version_of(p)) for module in model.modules() for name, p in _own_weights(module)]
    is_small = sum(p.numel() for _, _, p, _ in held) <= MOST_COPIED
    copies = [p.detach().clone() if is_small else p for _, _, p, _ in held]
    problem: Exception | None = None
    try:
        yield
    except ProfilingError as error:
        problem = error
    changed = [
        (module, name, p, values)
        for (module, name, p, version), values in zip(held, copies, strict=True)
        if module._parameters.get(name) is not p
        or version_of(p) != version
        or not (values is p or torch.equal(p, values))
    ]
    with torch.no_grad():
        for module, name, p, values in changed:
            module._parameters[name] = p
            p.copy_(values)
    if problem is not None and not changed:
        raise problem
    if changed:
        raise ProfilingError(
            f"{type(model).__name__}: it changes its own weights when it is run, so every sample is another network's; "
            "switch the learning off"
        )


def _own_weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in module._parameters.items() if p is not None and not p.is_meta]


@torch.no_grad()
def _require_repeatable(model: nn.Module, x: Any, settled: Settled) -> None:
    """Raises ProfilingError where the same samples, from rest and with the same random numbers, give something else."""
    outs: list[list[Tensor]] = []
    try:
        given = few(x, SAMPLES[0], settled.time, settled.time_steps)
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                torch.manual_seed(0)
                state = State(model)
                try:
                    reset_states(model)
                    outs.append(list(_tensors(_run(model, given, settled.time, settled.time_steps))))
                finally:
                    state.restore()
    except Exception:  # noqa: BLE001 what is wrong shows again in the run that counts
        return
    one, other = outs
    is_same = len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
    if not is_same:
        raise ProfilingError(
            f"{type(model).__name__}: the same samples give something else in a second run: a state is kept where it "
            "cannot be put back (outside its modules, or as a number); keep it in tensors of the modules, or reset it "
            "in the forward"
        )


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out.detach().clone()
    elif isinstance(out, (list, tuple)):
        for item in out:
            yield from _tensors(item)
    elif isinstance(out, dict):
        yield from _tensors(list(out.values()))


def _run(model: nn.Module, x: Tensor, mode: str, steps: int) -> Any:
    """What the model gives, called as a time mode says."""
    if mode in ("call", "call-axis0"):
        return step_by_step(model, [x] * steps if mode == "call" else list(x))
    return model(repeated(x, mode.removeprefix("repeat-"), steps) if mode.startswith("repeat-") else x)


def _settle(
    model: nn.Module,
    x: Any,
    time: str | None,
    time_steps: int | None,
    named: Iterable[str | type[nn.Module]],
    has_time: bool,
) -> Settled:
    if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
        raise ProfilingError("the loader must give tensors with at least one sample in front to look at the model with")
    spiking = spiking_modules(model, named)
    unknown = candidates(model, spiking)
    if time is not None and (time_steps is not None or time not in ("inside", "loop")):
        return _settle_as_declared(model, x, time, _steps_in(x, time, time_steps), spiking, unknown)
    weighted = {name: belief for name in with_weights(model) if (belief := known_class(model.get_submodule(name)))}
    if not spiking and not unknown and not weighted:
        raise ProfilingError(_not_told(time_steps, "it has no module that is known to spike"))
    why, raised = [], []
    for mode in ("inside",) if time is not None else TIMED_MODES if has_time else STATIC_MODES:
        steps = int(x.shape[0]) if has_time else time_steps
        if mode != "inside" and steps is None:
            continue
        try:
            names = [*spiking, *unknown, *weighted]
            runs = [_listen(model, names, few(x, n, mode, steps), mode, steps or 1) for n in SAMPLES]
        except Exception as error:  # noqa: BLE001 a shape that the model cannot take: this reading does not fit
            raised.append(error)
            why.append(f"{mode}: {type(error).__name__}: {_first_line(error)}")
            continue
        _require_bare(runs[0], spiking)
        busy = _busy_subclasses(model, runs[0], spiking)
        weighted |= {name: spiking[name] for name in busy}
        found = {**neurons_heard(runs[0], unknown), **neurons_heard(runs[1], unknown)}
        found |= _of_the_same_classes(model, found, runs[0], unknown)
        all_spiking = {**spiking, **found, **weighted}
        if not all_spiking:
            why.append("no module spikes")
            continue
        reading = _read(mode, steps, {name: [run[name] for run in runs] for name in all_spiking}, all_spiking)
        if isinstance(reading, Settled) and time not in (None, reading.time):
            reading = f"that is time='{reading.time}'"
        if isinstance(reading, Settled):
            told = {name: belief for name, belief in reading.spiking.items() if name not in weighted}
            return replace(reading, spiking=told, opened=frozenset(weighted))
        why.append(f"{mode}: {reading}")
    if raised and len(raised) == len(why):
        raise ProfilingError(
            f"{type(model).__name__}: it raised {type(raised[0]).__name__} on a few samples of a batch of shape "
            f"{tuple(x.shape)}: {_first_line(raised[0])}; do they have the shape and type that it wants? is a state "
            "left over from other batches (reset it before)? if it wants them with time, declare it: time= (--time)"
        ) from raised[0]
    raise ProfilingError(_not_told(time_steps, "; ".join(why)))


def _settle_as_declared(
    model: nn.Module, x: Any, time: str, steps: int, spiking: Mapping[str, Spiking], unknown: Sequence[str]
) -> Settled:
    """Time and T as declared; neurons that nobody knows are listened for all the same."""
    named = [
        n
        for n, belief in spiking.items()
        if belief.known_by == "its name" or is_subclass(model.get_submodule(n), belief)
    ]
    if not unknown and not named:
        return Settled(time, steps, "declared", spiking, frozenset(with_weights(model)))
    for samples in (max(SAMPLES), None):  # a state of a fixed size needs the whole batch
        try:
            run = _listen(
                model, [*unknown, *named], x if samples is None else few(x, samples, time, steps), time, steps
            )
        except Exception:  # noqa: BLE001 what is wrong shows again in the run that counts
            continue
        _require_bare(run, spiking)
        found = neurons_heard(run, unknown)
        found |= _of_the_same_classes(model, found, run, unknown)
        busy = _busy_subclasses(model, run, spiking)
        told = {name: belief for name, belief in {**spiking, **found}.items() if name not in busy}
        return Settled(time, steps, "declared", told, frozenset([*busy, *with_weights(model)]))
    return Settled(time, steps, "declared", spiking)


def _steps_in(x: Any, time: str, steps: int | None) -> int:
    """T as declared, or as long as the axis that is declared to be time. Raises ProfilingError where neither says."""
    axis = {"axis0": 0, "call-axis0": 0, "axis1": 1}.get(time)
    if steps is None and axis is not None and isinstance(x, Tensor) and x.dim() > axis:
        return int(x.shape[axis])
    if steps is None:
        raise ProfilingError(
            f"time='{time}' needs time_steps= (--time-steps): the shapes do not say how many there are"
        )
    return steps


def _require_bare(run: Mapping[str, Heard], spiking: Mapping[str, Spiking]) -> None:
    """Raises ProfilingError where a module that the user named as a neuron does more than update neurons."""
    for name, note in run.items():
        if name in spiking and spiking[name].known_by == "its name" and note.multiplies:
            raise ProfilingError(hides_work(name))


def _busy_subclasses(model: nn.Module, run: Mapping[str, Heard], spiking: Mapping[str, Spiking]) -> list[str]:
    """Users' own subclasses of a framework's neuron that multiply or pool: counted as what they are made of."""
    return [
        name
        for name, belief in spiking.items()
        if name in run and run[name].multiplies and is_subclass(model.get_submodule(name), belief)
    ]


def _of_the_same_classes(
    model: nn.Module, found: Mapping[str, Spiking], run: Mapping[str, Heard], names: Iterable[str]
) -> dict[str, Spiking]:
    """Where one module of a class was found to be a neuron, the others of that class are: they were silent."""
    beliefs = {type(model.get_submodule(name)): belief for name, belief in found.items()}
    return {
        name: beliefs[kind]
        for name in names
        if name not in found
        and (kind := type(model.get_submodule(name))) in beliefs
        and run[name].shapes
        and run[name].is_same_shape
        and not run[name].multiplies
    }


def _not_told(steps: int | None, why: str) -> str:
    declare = f"declare it (--time), one of {', '.join(TIME_MODES)}"
    needed = "" if steps else ", and time_steps= (--time-steps) where the model does not make its steps itself"
    name = "; name neurons that are not known with neurons= (--neuron)" if "spike" in why else ""
    return f"time= must say where time is: it cannot be told from the model ({why}); {declare}{needed}{name}"


def few(x: Any, samples: int, mode: str, steps: int | None) -> Tensor:
    """So many samples of a batch; where it has fewer, some of them again. Raises ProfilingError for no samples."""
    if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
        raise ProfilingError("the loader must give tensors with at least one sample in front to look at the model with")
    axis = 1 if mode in ("axis0", "call-axis0", "flat") else 0
    if mode in ("flat", "flat-batch"):
        if x.shape[0] % (steps or 1):
            raise ProfilingError(f"time='{mode}' wants T={steps} rows a sample, the loader gave {tuple(x.shape)}")
        x = x.unflatten(0, (steps or 1, -1) if mode == "flat" else (-1, steps or 1))
    chosen: Tensor = x.index_select(axis, torch.arange(samples, device=x.device) % x.shape[axis])
    return chosen.flatten(0, 1) if mode in ("flat", "flat-batch") else chosen


@torch.no_grad()
def _listen(model: nn.Module, names: Sequence[str], x: Tensor, mode: str, steps: int) -> dict[str, Heard]:
    """Run the model on a few samples, from rest; what the named modules did."""
    heard = {name: Heard(is_known=known_class(model.get_submodule(name)) is not None) for name in names}
    state = State(model)
    try:
        reset_states(model)
        with _listening(model, heard):
            _run(model, x, mode, steps)
    finally:
        state.restore()
    return heard


@contextmanager
def _listening(model: nn.Module, heard: Mapping[str, Heard]) -> Iterator[None]:
    handles: list[Any] = []
    before: dict[str, State] = {}
    running: list[str] = []  # the modules listened to that are at work
    trying = [False]

    def entering(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not trying[0]:
                running.append(name)
                if not heard[name].is_known:
                    before[name] = State(module)

        return hook

    def leaving(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if trying[0]:
                return
            running.remove(name)
            key = None if args else next(iter(kwargs), None)
            read = args if key is None else (kwargs[key],)

            def call(x: Tensor, *rest: Any) -> Any:
                return module(x, *rest, **kwargs) if key is None else module(*rest, **{**kwargs, key: x})

            if read and isinstance(read[0], Tensor) and _heard(heard[name], read[0], _spike(out)):
                after, trying[0] = State(module), True
                try:
                    _try_out(heard[name], call, read, out, before[name])
                finally:
                    after.restore()
                    trying[0] = False

        return hook

    try:
        for name in heard:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(entering(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leaving(name), with_kwargs=True))
        with _Multiplications(heard, running):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Multiplications(TorchFunctionMode):
    """Notes which of the running modules multiply with weights, pool or attend: work that a neuron would hide."""

    def __init__(self, heard: Mapping[str, Heard], running: Sequence[str]) -> None:
        super().__init__()
        self.heard, self.running = heard, running

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.running and rules.plain_name(getattr(func, "__name__", "")) in _WORK:
            for name in self.running:
                self.heard[name].multiplies = True
        return func(*args, **(kwargs or {}))


_WORK = frozenset({*rules.CONVOLUTIONS, *rules.LINEARS, *rules.PRODUCTS, *rules.ATTENTIONS, *rules.POOLS})


def _spike(out: Any) -> Any:
    return out[0] if isinstance(out, (tuple, list)) and out else out


def _heard(note: Heard, x: Tensor, spike: Any) -> bool:
    """Note one call; True where the module may be a neuron and is not known well enough yet."""
    note.shapes.append(tuple(x.shape))
    if not isinstance(spike, Tensor) or spike.shape != x.shape or not x.is_floating_point():
        note.is_same_shape = False
        return False
    if note.is_known:
        return False
    note.is_passed_on &= torch.equal(spike.to(x.dtype), x)
    if note.is_passed_on:  # as far as was seen: the values are those of its input
        return False
    if len(note.values) < 3:
        note.values |= _values(spike)
    if len(note.read) < 3:
        note.read |= _values(x)
    is_known = (note.remembers or note.steps_axis is not None) and note.values != {0.0}
    return not note.is_known and not is_known and len(note.values) < 3


def _try_out(note: Heard, module: Callable[..., Any], args: Sequence[Any], out: Any, before: State) -> None:
    """Find out whether a module remembers, and where time is in what it reads: by what it gives to other inputs.

    What is tried starts from ``before``, the state that the call started from.
    """

    def give(x: Tensor, *rest: Any) -> Tensor:
        made: Tensor = _spike(module(x, *rest))
        return made

    def fresh(x: Tensor) -> Tensor:
        before.restore()
        return give(x, *args[1:])

    if note.steps_axis is None and not note.remembers:
        note.steps_axis = _axis_of_memory(fresh, args[0])
    if note.steps_axis is None and not note.remembers:
        note.remembers = _remembers(fresh, lambda x: give(x, *args[1:]), args[0])
        if not note.remembers:
            before.restore()
            note.remembers = _takes_back(lambda *rest: give(args[0], *rest), args[0], out)
    if note.values == {0.0} and (note.remembers or note.steps_axis is not None):  # silent: push it
        note.values |= next((v for push in _PUSHES if (v := _values(fresh(_pushed(args[0], push)))) != {0.0}), {0.0})


_PUSHES = (1, 10, 100, 1000)


def _pushed(x: Tensor, push: float) -> Tensor:
    return x + push * (x.abs().amax() + 1)


def _values(spike: Tensor) -> set[float]:
    return set(spike.unique()[:4].tolist())


def _axis_of_memory(fresh: Callable[[Tensor], Tensor], x: Tensor) -> int | None:
    """The axis, 0 or 1, along which what comes out later follows from what went in at first; None where none does.

    Memory has a direction: where what comes out at first follows from what goes in last, the axis is not time.
    """
    for axis in range(min(2, x.dim())):
        size = x.shape[axis]
        if size < 2:
            continue
        spike = fresh(x)
        for push in (1, -1):
            first, last = x.clone(), x.clone()
            first.select(axis, 0).copy_(_pushed(x, push).select(axis, 0))
            last.select(axis, size - 1).copy_(_pushed(x, push).select(axis, size - 1))
            if not torch.equal(fresh(last).narrow(axis, 0, size - 1), spike.narrow(axis, 0, size - 1)):
                break
            if not torch.equal(fresh(first).narrow(axis, 1, size - 1), spike.narrow(axis, 1, size - 1)):
                return axis
    return None


def _remembers(fresh: Callable[[Tensor], Tensor], again: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """True where what a module gives in a second call depends on what it was given in the first one."""
    for push in (0, *_PUSHES):
        second, seen = _pushed(x, push), None
        for first in (x, 0.5 * second, _pushed(x, -1), _pushed(x, 1)):
            fresh(first)
            spike = again(second).clone()
            if seen is not None and not torch.equal(seen, spike):
                return True
            seen = spike
    return False


def _takes_back(give: Callable[..., Tensor], x: Tensor, out: Any) -> bool:
    """True where a module returns a potential beside its spikes, and gives other spikes where it gets another back."""
    rest = list(out[1:]) if isinstance(out, (tuple, list)) else []
    if not any(isinstance(v, Tensor) for item in rest for v in (item if isinstance(item, (tuple, list)) else [item])):
        return False
    try:
        pushed = [give(*(_shifted(item, push) for item in rest)) for push in (x.abs().amax() + 1, -x.abs().amax() - 1)]
    except (TypeError, AttributeError, ValueError, RuntimeError):  # it takes nothing back
        return False
    return not torch.equal(*pushed)


def _shifted(state: Any, push: Tensor) -> Any:
    if isinstance(state, (tuple, list)):
        moved = [_shifted(item, push) for item in state]
        return type(state)(*moved) if hasattr(state, "_fields") else type(state)(moved)
    return state + push if isinstance(state, Tensor) and state.is_floating_point() else state


def neurons_heard(run: Mapping[str, Heard], names: Iterable[str]) -> dict[str, Spiking]:
    """Of modules nobody knows those that keep a state and give two values, 0 and another; the innermost of a nest."""
    found = {
        name
        for name in names
        if (note := run[name]).shapes
        and note.is_same_shape
        and not note.is_passed_on
        and not note.multiplies
        and (note.remembers or note.steps_axis is not None)
        and len(note.values) == 2
        and 0.0 in note.values
        and not note.read <= note.values  # a delay gives on what it reads
    }
    inner = {n for n in found if not any(m != n and (m.startswith(f"{n}.") or n == "") for m in found)}
    return {name: Spiking("hand-written", "its output", _layout_heard(run[name])) for name in inner}


def _layout_heard(note: Heard) -> Layout | None:
    if note.steps_axis is None:
        return "step" if note.remembers else None
    return "time-first" if note.steps_axis == 0 else "batch-first"


def _read(
    mode: str, steps: int | None, heard: Mapping[str, Sequence[Heard]], spiking: Mapping[str, Spiking]
) -> Settled | str:
    """The time mode and T that all neurons agree on, or why there is none."""
    seen: dict[str, tuple[Layout, int, int]] = {}  # layer -> layout, time steps in a call, calls
    for name, (two, three) in heard.items():
        if not two.shapes:
            continue
        if len(two.shapes) != len(three.shapes):
            return f"{name} is called {len(two.shapes)} times for two samples and {len(three.shapes)} for three"
        found = _layout_of(two.shapes[0], three.shapes[0], spiking[name].layout)
        if isinstance(found, str):
            return f"{name} {found}"
        seen[name] = (*found, len(two.shapes))
    if not seen:
        return "no neuron was reached"
    told = {name: replace(spiking[name], layout=layout) for name, (layout, _, _) in seen.items()}
    timed = {count for layout, count, _ in seen.values() if layout != "step"}
    calls = {n for layout, _, n in seen.values() if layout == "step"}
    if len(timed) > 1:
        return f"the neurons read {', '.join(map(str, sorted(timed)))} time steps"
    (count,) = timed or {0}
    if timed and steps is not None and count != steps:
        return f"the neurons read {count} time steps, not {steps}"
    if mode == "inside" and timed:
        return Settled("inside", count, "found by a run: its neurons read all time steps at once", told)
    if mode == "inside" and calls == {1}:
        if steps is None:
            return "its neurons run one time step a call, and how many calls there are is not said"
        return Settled("call", steps, "found by a run: one call of the model is one time step", told)
    if mode == "inside":
        whole, counts = steps or min(calls), " and ".join(map(str, sorted(calls)))
        if whole not in calls or any(n % whole for n in calls) or (steps is None and len(calls) > 1):
            steps_said = f"{steps} time steps" if steps else "one number of time steps"
            return f"its neurons are called {counts} times, which does not fit {steps_said}"
        return Settled("loop", whole, f"found by a run: its neurons are called {counts} times", told)
    if mode == "call-axis0":
        if timed or any(n % (steps or 1) for n in calls):
            return "its neurons do not run one time step a call"
        return Settled(mode, steps or 1, "found by a run: one call of the model is one time step", told)
    if calls and (steps not in calls or any(n % (steps or 1) for n in calls)):
        return f"single-step neurons are called {', '.join(map(str, sorted(calls)))} times in {steps} time steps"
    return Settled(mode, steps or 1, f"found by a run: the model takes {SHAPES[mode.removeprefix('repeat-')]}", told)


def _layout_of(two: tuple[int, ...], three: tuple[int, ...], known: Layout | None) -> tuple[Layout, int] | str:
    """(layout, time steps in a call) of a neuron that read these shapes on two and on three samples, or what is odd."""
    few_, more = SAMPLES
    grows = [axis for axis, (a, b) in enumerate(zip(two, three, strict=False)) if a * more == b * few_]
    if len(two) != len(three) or not grows:
        return f"reads {two} for two samples and {three} for three: no axis of samples"
    axis, size = grows[0], two[grows[0]] // few_
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
