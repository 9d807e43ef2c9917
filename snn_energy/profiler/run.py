"""``profile``: run a network over a loader and return its counts."""

from __future__ import annotations

import gc
import itertools
import json
import platform
import time as clock
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn_energy._version import __version__
from snn_energy.core.errors import ProfilingError, nearest
from snn_energy.core.kinds import KINDS, ZERO, Kind, Values, join, of_loader
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.counts.columns import CONVENTION_VERSION, OPERATIONS, smallest
from snn_energy.counts.counts import Counts
from snn_energy.profiler.frameworks import is_subclass, reset_states, spiking_modules
from snn_energy.profiler.inspection import Settled, candidates, repeated, require_one_argument, settle, step_by_step
from snn_energy.profiler.notes import notes_of
from snn_energy.profiler.parts import PART_BYTES, Operation, Part, Parts, counts_of
from snn_energy.profiler.timesteps import Span, Steps
from snn_energy.profiler.trace import Event, Operand
from snn_energy.profiler.walker import ONCE, Walker
from snn_energy.running.accuracy import right_answers
from snn_energy.running.module_state import State

DEFAULT_BLOCKS = 4  # residual blocks assumed for max_k where a model has no ``blocks``


class UnsupportedOperationWarning(UserWarning):
    """An operation without a counting rule: it is a row without counts."""


def profile(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    time_steps: int | None = None,
    time: str | None = None,
    input_kind: Kind | None = None,
    max_k: int | None = None,
    strict: bool = False,
    neurons: Iterable[str | type[nn.Module]] = (),
    header: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
    parts: Parts | None = None,
    settled: Settled | None = None,
) -> Counts:
    """Count what a network does, per operation, time step and sample.

    model: any nn.Module; it is run in eval mode without gradients, and its mode, hooks, parameters, buffers and state
    (tensors that it keeps in attributes) are as before afterwards, also when the forward raises. Every batch starts
    from the state that the model is handed in with, the neurons of a framework at rest. loader: any iterable of x or
    (x, y) batches, samples in front (or behind the time axis, see ``time``). time_steps: T_max; the model's own
    ``time_steps`` unless given. time: where time is, one of ``TIME_MODES``; needed where T > 1, the model does not
    say, and a run on a few samples cannot tell. input_kind: declares the kind of the loader's tensor (design, rule 4).
    max_k: largest whole multiple that counts as integer, 2 * blocks + 2 unless given. strict: an operation without a
    rule is an error instead of a row and a warning. neurons: modules that spike though nobody knows them: classes,
    their dotted names, or names of layers; those that a run on a few samples gives away (a state, and two values out)
    need no naming. header: extra entries for the counts' header. on_batch: called with the number of samples done so
    far. parts: where the counts are kept as they come (snn_energy.profiler.parts), in memory and temporary files
    unless given; memory does not grow with the number of samples. settled: time, T_max and neurons as
    ``settle_first`` found them on other samples, instead of ``time``, ``time_steps`` and ``neurons``.

    Raises ProfilingError for a time axis that cannot be told, another T_max than the model's, no samples, NaN or
    infinite values, a network that changes between batches.
    """
    _require_arguments(model, loader, time_steps, max_k, header)
    if input_kind is not None and input_kind not in KINDS:
        raise ProfilingError(f"input_kind must be one of {', '.join(KINDS)}, not '{input_kind}'")
    limit = 2 * _blocks(model) + 2 if max_k is None else max_k
    require_countable(model)
    kept = Parts() if parts is None else parts
    try:
        if kept.todo is None or len(kept.todo):

            def settle(first: Sequence[Any]) -> Settled:
                return settled or settle_first(model, first, time, time_steps, neurons)

            _count(model, loader, kept, settle, input_kind, limit, header or {}, on_batch)
        return kept.finish(lambda: _merged(kept, header or {}, strict))
    finally:
        kept.close()


def _count(
    model: nn.Module,
    loader: Iterable[Any],
    kept: Parts,
    settle: Callable[[Sequence[Any]], Settled],
    input_kind: Kind | None,
    max_k: int,
    header: Mapping[str, Any],
    on_batch: Callable[[int], None] | None,
) -> None:
    """Run the network on every batch and keep the parts. Raises ProfilingError; Interrupted where a signal stops it."""
    batches = iter(loader)
    first = list(itertools.islice(batches, 1))
    settled = settle(first)
    mode, steps = settled.time, settled.time_steps
    walker = Walker(model, max_k, input_kind, settled.spiking, settled.opened)
    tally = Tally(steps, max_k, kept, _header(model, max_k, settled, input_kind, header))
    with kept.listening(), _as_evaluated(model), _state_kept(model) as state, walker.watching():
        for batch in itertools.chain(first, batches):
            x, y = _unpack(batch)
            with torch._C.DisableTorchFunction():
                x = x.to(_device_of(model, x)) if isinstance(x, Tensor) else x
                span = Span(steps, samples_of(x, mode, steps))
            if span.samples == 0:
                continue
            with torch._C.DisableTorchFunction():
                state.restore()
            walker.begin(span)
            with _no_garbage_collection():
                out = _forward(model, walker, x, mode, steps)
            with torch._C.DisableTorchFunction():
                walker.end()
                tally.add(walker, out, y, mode)
                tally.keep_if_due(walker, mode)
            if on_batch is not None:
                on_batch(kept.counted + tally.samples)
    tally.keep(walker, mode, is_last=True)


def _merged(kept: Parts, header: Mapping[str, Any], strict: bool) -> Counts:
    """The counts of all parts, with a warning for every layer whose work is not known. ProfilingError if strict."""
    counts, troubles = counts_of(kept, header)
    for layer, why in troubles.items():
        text = f"{layer}: {why}"
        if strict:
            raise ProfilingError(f"{text} (--strict)")
        warnings.warn(text, UnsupportedOperationWarning, stacklevel=4)
    return counts


def _require_arguments(model: Any, loader: Any, time_steps: Any, max_k: Any, header: Any) -> None:
    """Raise ProfilingError for arguments of the wrong sort."""
    if not isinstance(model, nn.Module):
        raise ProfilingError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(loader, (Tensor, str)) or not isinstance(loader, Iterable):
        what = (
            "one tensor; give a list of batches, such as [x]" if isinstance(loader, Tensor) else type(loader).__name__
        )
        raise ProfilingError(f"loader must be an iterable of x or (x, y) batches, not {what}")
    for name, value in (("time_steps", time_steps), ("max_k", max_k)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ProfilingError(f"{name} must be a whole number of at least 1, not {value!r}")
    taken = sorted({"samples", "time_steps", "accuracy", "per_sample", "content_sha256", "file"} & set(header or {}))
    if taken:
        raise ProfilingError(f"header: {', '.join(taken)} is the profiler's own entry; choose another key")
    try:
        json.dumps(dict(header or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProfilingError(f"header: {error}; give plain values that JSON holds") from None


def settle_first(
    model: nn.Module,
    batches: Sequence[Any],
    time: str | None,
    time_steps: int | None,
    named: Iterable[str | type[nn.Module]],
    has_time: bool = False,
) -> Settled:
    """Where time is and what spikes: as the model says, as declared, or as a run on a few samples shows.

    batches: the first one, or none. has_time: the loader gives (T, B, ...), so time is to be found on that.
    """
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
        return Settled(time or "inside", own, "the model says so", spiking)
    if time is None and steps is None and not is_foreign:
        raise ProfilingError("time_steps= is needed: the model does not say how many time steps it runs")
    if not is_foreign and (time is not None or steps == 1):
        return Settled(time or "inside", steps or 1, "declared", spiking)
    x = _unpack(batches[0])[0] if batches else None
    with torch._C.DisableTorchFunction():
        x = x.to(_device_of(model, x)) if isinstance(x, Tensor) else x
    with _as_evaluated(model):
        try:
            settled = settle(model, x, time=time, time_steps=steps, named=named, has_time=has_time)
        except ProfilingError:
            if any(b.known_by == "its name" for b in spiking.values()):
                raise
            if time is None and own is not None:
                return Settled("inside", own, "the model says so", spiking)
            if time is None and steps == 1 and all(b.layout in ("step", None) for b in spiking.values()):
                return Settled("inside", 1, "declared", spiking)
            raise
    if time is None and not has_time:
        _require_samples_in_front(x, _unpack(batches[0])[1])
    return settled


def _require_samples_in_front(x: Any, y: Any) -> None:
    """Raise ProfilingError where the labels of a batch are not as many as its first axis is long."""
    labels = np.shape(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else ()
    if len(labels) == 1 and labels[0] != len(x):
        raise ProfilingError(
            f"the loader gives {labels[0]} labels for {tuple(x.shape)}, which has not as many samples in front; "
            f"declare where time is with time= (--time), one of {', '.join(TIME_MODES)}"
        )


def _blocks(model: nn.Module) -> int:
    blocks = getattr(model, "blocks", None)
    return len(blocks) if isinstance(blocks, (nn.ModuleList, nn.Sequential)) else DEFAULT_BLOCKS


def require_countable(model: nn.Module) -> None:
    """Raises ProfilingError for what cannot be looked into, has no weights yet, or holds NaN."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            what = f"{name}: a scripted or compiled module" if name else "a scripted or compiled model"
            raise ProfilingError(f"{what} cannot be looked into; give the plain nn.Module")
        if any(isinstance(value, nn.UninitializedParameter) for value in module._parameters.values()):
            raise ProfilingError(f"{name or 'the model'}: a lazy module has no weights yet; run it once before")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ProfilingError(f"{name}: lies on the meta device and has no values; load the weights first")
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise ProfilingError(f"{name}: a parameter holds NaN or infinite values; nothing can be counted with it")


def _is_finite(tensor: Tensor) -> bool:
    """True where no value is NaN or infinite; the sum tells, unless it overflows itself."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


@contextmanager
def _as_evaluated(model: nn.Module) -> Any:
    """Eval mode without gradients; every module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode() if torch.is_inference_mode_enabled() else torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[State]:
    """The state that every batch starts from: neurons of a framework at rest, all else as the model was handed in.

    The model is left with the state that it was handed in with.
    """
    with torch._C.DisableTorchFunction():
        handed_in = State(model)
        reset_states(model)
    try:
        with torch._C.DisableTorchFunction():
            at_rest = State(model)
        yield at_rest
    finally:
        with torch._C.DisableTorchFunction():
            handed_in.restore()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Many small objects live until a forward ends: looking for cycles among them again and again takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unpack(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (list, tuple)):
        if not batch:
            raise ProfilingError("the loader gave an empty batch tuple; give x or (x, y)")
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def _device_of(model: nn.Module, x: Tensor) -> torch.device:
    return next((p.device for p in model.parameters()), x.device)


def samples_of(x: Any, mode: str, steps: int) -> int:
    """Samples of a batch; raises ProfilingError where its shape does not fit the declared time."""
    if isinstance(x, Tensor) and (x.is_complex() or x.layout != torch.strided):
        raise ProfilingError(f"the loader gave a {x.dtype} tensor of layout {x.layout}; give dense real numbers")
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise ProfilingError(f"the loader must give tensors with samples in front, not {type(x).__name__}")
    if (x.dim() > 1 and 0 in x.shape[1:]) or (x.dim() == 1 and mode in ("axis0", "axis1", "call-axis0")):
        raise ProfilingError(f"the loader gave {tuple(x.shape)}; every axis behind the samples must hold something")
    if mode in ("axis0", "call-axis0", "axis1"):
        time, samples = (1, 0) if mode == "axis1" else (0, 1)
        if x.dim() < 2 or x.shape[time] != steps:
            wanted = f"(B, T={steps}, ...)" if mode == "axis1" else f"(T={steps}, B, ...)"
            raise ProfilingError(f"time='{mode}' wants {wanted}, the loader gave {tuple(x.shape)}")
        return int(x.shape[samples])
    if mode in ("flat", "flat-batch"):
        if x.shape[0] % steps:
            order = "T*B" if mode == "flat" else "B*T"
            raise ProfilingError(f"time='{mode}' wants ({order}, ...) with T={steps}, the loader gave {tuple(x.shape)}")
        return int(x.shape[0]) // steps
    return int(x.shape[0])


def _forward(model: nn.Module, walker: Walker, x: Tensor, mode: str, steps: int) -> Any:
    """One pass over one batch: one call of the model, or T of them."""
    if mode not in ("call", "call-axis0"):
        walker.begin_call(None)
        layout = mode.removeprefix("repeat-")
        with torch._C.DisableTorchFunction():
            given = repeated(x, layout, steps) if mode.startswith("repeat-") else x
        walker.feed(given, None if layout in ("inside", "loop") else layout, constant=mode.startswith("repeat-"))
        return _as_asked(lambda: model(given), model, given)
    with torch._C.DisableTorchFunction():
        xs = [x] * steps if mode == "call" else list(x)

    def before(step: int) -> None:
        walker.begin_call(step)
        walker.feed(xs[step], None, constant=mode == "call")

    return _as_asked(lambda: step_by_step(model, xs, before), model, xs[0])


def _as_asked(call: Callable[[], Any], model: nn.Module, x: Tensor) -> Any:
    """What a call of the model gives.

    Raises ProfilingError where its forward wants other arguments than one tensor, or another number format or device.
    """
    try:
        return call()
    except TypeError:
        require_one_argument(model, x)
        raise
    except RuntimeError as error:
        misfit = _misfit(model, x)
        if misfit is None:
            raise
        raise ProfilingError(misfit) from error


def _misfit(model: nn.Module, x: Tensor) -> str | None:
    """Why a batch and a model do not fit, in number format or device; None where they do."""
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) > 1:
        return f"the model's parameters lie on several devices ({', '.join(devices)}); move them to one with model.to()"
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if not formats or x.dtype in formats:
        return None
    wanted = ", ".join(sorted(map(str, formats)))
    return f"the loader gives {x.dtype} and the model computes in {wanted}; convert the batches or the model"


@dataclass
class Placed:
    """One event with its final layer name and the time steps of its rows."""

    event: Event
    layer: str
    steps: list[int]

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What tells it apart from every other operation of the pass."""
        return self.layer, tuple(self.steps)

    @property
    def when(self) -> int | None:
        """As timesteps.Node has it: None where all steps are covered at once."""
        return None if self.event.timed else self.steps[0]


@dataclass
class Layer:
    """What all batches have in common for one operation, and the per-sample counts of the part under way.

    active: one flag per row, True where a source works. worked: one flag per row, True where some sample of the part
    gave it something to work on. gathered: name -> one (rows, samples of the batch) array per batch.
    """

    placed: Placed
    active: Steps
    constant: bool
    note: str
    elementwise_ops: int
    feeds_neuron: bool
    worked: Steps
    gathered: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))


class Tally:
    """What the batches did, kept part by part.

    samples: of all batches so far. layers, values, loader, correct: of the part under way.
    """

    def __init__(self, time_steps: int, max_k: int, kept: Parts, header: Mapping[str, Any]) -> None:
        self.time_steps, self.max_k, self.samples = time_steps, max_k, 0
        self.kept, self.header = kept, header
        self.layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
        self.values: dict[tuple[str, str], Values] = {}
        self.loader: set[tuple[str, str]] = set()
        self.correct: int | None = 0
        self._calls: list[tuple[Any, ...]] = []
        self._placed: list[Placed] = []
        self._outputs: frozenset[int] = frozenset()
        self._batches, self._before, self._entries, self._since = 0, 0, 0, clock.monotonic()

    def add(self, walker: Walker, out: Any, y: Any, mode: str) -> None:
        """Take in one forward pass."""
        calls = [event.call for event in walker.events]
        if calls != self._calls:  # else everything is where it was
            self._calls, self._placed = calls, place(walker.events, self.time_steps, mode)
        placed = [Placed(e, p.layer, p.steps) for p, e in zip(self._placed, walker.events, strict=True)]
        structure = {item.key for item in placed}
        if len(structure) != len(placed):
            twice = next(p.layer for i, p in enumerate(placed) if p.key in {q.key for q in placed[:i]})
            raise ProfilingError(f"{twice}: two operations of one name in one time step; say where time is with time=")
        if not placed:
            raise ProfilingError("the network did nothing to the loader's tensor that can be counted")
        if self.time_steps > 1 and all(item.steps == [ONCE] for item in placed):
            raise ProfilingError(
                f"no time axis of {self.time_steps} steps was found in the network; say where time is with time= "
                f"(one of {', '.join(TIME_MODES)}), or profile it with time_steps=1"
            )
        if not self.layers:
            self._open(placed, walker.outputs(out), mode)
        elif structure != set(self.layers) or any(
            p.event.inputs != self.layers[p.key].placed.event.inputs for p in placed
        ):
            odd = sorted(
                {layer for layer, _ in structure ^ set(self.layers)}
                or {p.layer for p in placed if p.event.inputs != self.layers[p.key].placed.event.inputs}
            )
            raise ProfilingError(f"the network changes between batches (at {', '.join(odd[:3])}); profile it in parts")
        for item in placed:
            self._gather(item, walker)
        self.samples += walker.span.samples
        self._batches += 1
        self._score(out, y, walker.span.samples, mode)

    def _open(self, placed: Sequence[Placed], outputs: frozenset[int], mode: str) -> None:
        """The first pass fixes the rows: what is active, needed, repeated, folded."""
        self._outputs = outputs
        readers = readers_of(placed)
        notes = notes_of([item.event for item in placed], [item.layer for item in placed], readers, outputs)
        for index, item in enumerate(placed):
            event = item.event
            target = folds_into(index, placed, readers, outputs)
            self.layers[item.key] = Layer(
                placed=item,
                active=event.active,
                # A state outside the network's sight may change from call to call: only the input is constant.
                constant=event.constant and (mode in ("inside", "axis0", "flat") or not event.inputs),
                note=target or notes[index],
                elementwise_ops=0 if target else event.elementwise_ops,
                feeds_neuron=event.op in OPERATIONS and feeds_neuron(index, placed, readers, outputs),
                worked=np.zeros_like(event.active),
            )

    def _gather(self, item: Placed, walker: Walker) -> None:
        """Per-sample counts of one event, (rows, samples)."""
        event, layer = item.event, self.layers[item.key]
        if _sizes(event) != _sizes(layer.placed.event):
            raise ProfilingError(f"{item.layer}: its size changes between batches; profile one image size at a time")
        arrays: dict[str, npt.NDArray[np.int64]] = {}
        for name, tensor in (
            ("sops", event.sops),
            ("spikes", event.spikes),
            ("nonzeros_left", event.streamed.nonzeros if event.streamed else None),
            ("nonzeros_right", event.other.nonzeros if event.other else None),
        ):
            if tensor is not None:
                arrays[name] = tensor.reshape(len(item.steps), -1).cpu().numpy()
        if event.streamed is not None:
            arrays["multi_left"] = self._join(item, "left", event.streamed, event.multi_left, arrays, walker)
        if event.other is not None:
            arrays["multi_right"] = self._join(item, "right", event.other, event.multi_right, arrays, walker)
        if event.emitted is not None:
            given = event.emitted.settle(int(arrays["spikes"].sum()))
            before = self.values.get((item.layer, "emitted"), ZERO)
            self.values[item.layer, "emitted"] = join(before, given, max(self.max_k, given.max_k or 0))[0]
        if not layer.active.all():
            self._see_work(layer, arrays)
        for name, values in arrays.items():
            layer.gathered[name].append(values)
            self._entries += values.size

    def _see_work(self, layer: Layer, arrays: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """A step whose sources are all masked works nevertheless where its input holds something (x + 1, x == 0)."""
        if layer.placed.event.op == "neuron":
            return
        sides = [arrays[name] > 0 for name in ("nonzeros_left", "nonzeros_right") if name in arrays]
        if sides:
            layer.worked = layer.worked | np.logical_and.reduce(sides).any(1)

    def _join(
        self,
        item: Placed,
        side: str,
        operand: Operand,
        multi: Tensor | None,
        arrays: Mapping[str, npt.NDArray[np.int64]],
        walker: Walker,
    ) -> npt.NDArray[np.int64]:
        """Join the operand's values with those of the part; sums of |k| in the common unit, earlier ones rescaled."""
        key = (item.layer, side)
        values = operand.scan.settle(int(arrays[f"nonzeros_{side}"].sum()))
        before = self.values.get(key, ZERO)
        joined, old, new = join(before, values, max(self.max_k, before.max_k or 0, values.max_k or 0))
        if operand.scan.claim.loader and operand.scan.claim.reason is None:
            self.loader.add(key)
            of_loader(joined, walker.input_kind, item.layer)  # or an error
        self.values[key] = joined
        if self.values[key].reason is not None:
            walker.known_real.add((item.event.layer, item.event.invocation, side))
        if old != 1:
            for (name, _), layer in self.layers.items():
                if name == item.layer:
                    layer.gathered[f"multi_{side}"] = [sums * old for sums in layer.gathered[f"multi_{side}"]]
        sums = arrays["sops"] if multi is None else multi.reshape(len(item.steps), -1).cpu().numpy()
        return sums if new == 1 else sums * new

    def _score(self, out: Any, y: Any, samples: int, mode: str) -> None:
        """Accuracy, where the loader gives labels and the model logits; outputs of several steps are averaged."""
        right = None if self.correct is None else right_answers(out, y, mode, self.time_steps, samples)
        self.correct = None if right is None or self.correct is None else self.correct + right

    def keep_if_due(self, walker: Walker, mode: str) -> None:
        """Close the part where it is large or old, where its run of samples ends, or a signal asks to stop.

        Raises OutputError, and Interrupted behind the part where a signal asked.
        """
        asked = self.kept.signal
        full = self._entries * 8 >= PART_BYTES
        old = clock.monotonic() - self._since >= self.kept.save_every_s
        if full or old or asked or self.kept.ends_run(self._batches):
            self.keep(walker, mode, is_last=False)
        if asked:
            raise self.kept.interrupted(asked)

    def keep(self, walker: Walker, mode: str, *, is_last: bool) -> None:
        """Put away what was counted since the last part, and begin a new one. Raises OutputError."""
        count = self.samples - self._before
        if count == 0:
            return
        rule = "no counting rule for '{}'; it is listed as unsupported and its cost is unknown"
        names = sorted({name for layer in self.layers.values() for name in layer.gathered})
        whole = {
            name: [
                np.concatenate(layer.gathered[name], axis=1) for layer in self.layers.values() if layer.gathered[name]
            ]
            for name in names
        }
        part = Part(
            start=self.kept.place_of(self._batches, self.samples) - count,
            samples=count,
            rules={"time": mode, "time_steps": self.time_steps, "max_k": self.max_k, "input_kind": walker.input_kind},
            header=self.header,
            correct=self.correct,
            operations=tuple(_operation(layer) for layer in self.layers.values()),
            outputs=self._outputs,
            values=self.values,
            loader=frozenset(self.loader),
            worked=tuple(flag for layer in self.layers.values() for flag in layer.worked.tolist()),
            troubles={**{k: rule.format(name) for k, name in walker.unsupported.items()}, **walker.lost},
            arrays={name: smallest(np.concatenate(arrays)) for name, arrays in whole.items()},
        )
        for layer in self.layers.values():
            layer.gathered, layer.worked = defaultdict(list), np.zeros_like(layer.worked)
        self.values, self.loader = {}, set()
        self.correct = 0
        self._before, self._entries, self._since = self.samples, 0, clock.monotonic()
        self.kept.keep(part, is_last=is_last)


def _operation(layer: Layer) -> Operation:
    """What the parts say of one operation."""
    event = layer.placed.event
    return Operation(
        layer=layer.placed.layer,
        steps=tuple(layer.placed.steps),
        timed=event.timed,
        op=event.op,
        inputs=tuple(sorted(event.inputs)),
        active=tuple(layer.active.tolist()),
        counted=tuple(sorted(name for name, arrays in layer.gathered.items() if arrays)),
        constant=layer.constant,
        note=layer.note,
        feeds_neuron=layer.feeds_neuron,
        integrates_only=event.integrates_only,
        streamed=None if event.streamed is None else event.streamed.elements,
        other=None if event.other is None else event.other.elements,
        elementwise_ops=layer.elementwise_ops,
        dense_macs=event.dense_macs,
        neurons=event.neurons,
        output_elements=event.output_elements,
        weights=event.weights,
        biases=event.biases,
        reduction=event.reduction,
        out_channels=event.out_channels,
        positions=event.positions,
        groups=event.groups,
    )


def _sizes(event: Event) -> tuple[int, ...]:
    return (event.dense_macs, event.neurons, event.output_elements, event.weights, event.elementwise_ops)


def readers_of(placed: Sequence[Placed]) -> dict[int, set[int]]:
    """Event -> events that read its output."""
    readers: dict[int, set[int]] = defaultdict(set)
    for index, item in enumerate(placed):
        for source in item.event.inputs:
            readers[source].add(index)
    return readers


def folds_into(
    index: int, placed: Sequence[Placed], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> str | None:
    """Note of a BatchNorm or constant scale that folds away (design, rules 3 and 6), else None.

    BatchNorm folds into a conv or linear layer that is its only producer, through reshapes alone, and has no other
    reader. A constant scale folds where all its readers are products, weight layers or neurons.
    """
    event = placed[index].event
    if not event.foldable:
        return None
    if event.op == "norm":
        (source,) = event.inputs if len(event.inputs) == 1 else (None,)
        if source is None or placed[source].event.op not in ("conv", "linear"):
            return None
        if readers[source] != {index} or source in outputs:
            return None
        return f"folds into {placed[source].layer}"
    found = readers.get(index, set())
    if not found or index in outputs:
        return None
    for reader in found:
        is_sink = placed[reader].event.op in (*OPERATIONS, "neuron")
        if not is_sink and (placed[reader].event.op != "scale" or folds_into(reader, placed, readers, outputs) is None):
            return None
    return "folds into its readers"


def feeds_neuron(
    index: int, placed: Sequence[Placed], readers: Mapping[int, set[int]], outputs: frozenset[int]
) -> bool:
    """True where everything that reads the output, element-wise steps aside, is a neuron."""
    found = readers.get(index, set())
    if not found or index in outputs:
        return False
    return all(
        placed[r].event.op == "neuron"
        or (placed[r].event.op not in OPERATIONS and feeds_neuron(r, placed, readers, outputs))
        for r in found
    )


def place(events: Sequence[Event], time_steps: int, mode: str) -> list[Placed]:
    """Give every event its time steps and its name: ``#matmul0`` in call order, ``#call1`` for further calls.

    Timed events cover all steps. In mode "loop" the calls of a module (or, at the top level, the operations of one
    kind) are dealt out over the steps in order; a number of calls that T does not divide is refused.
    """
    when = [_when(event, time_steps) for event in events]
    if mode == "loop" and time_steps > 1:
        when = _loop_steps(events, when, time_steps)
    calls: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    indices: dict[tuple[str, int | None, int, str], list[int]] = defaultdict(list)
    own = [step if step is not None and step >= 0 and time_steps > 1 else None for step in when]  # one step apart
    for event, step in zip(events, own, strict=True):
        if event.invocation not in calls[event.scope, step]:
            calls[event.scope, step].append(event.invocation)
        indices[event.scope, step, event.invocation, event.suffix].append(event.index)
    placed = []
    for event, step, apart in zip(events, when, own, strict=True):
        layer = event.layer
        if event.suffix:
            rank = indices[event.scope, apart, event.invocation, event.suffix].index(event.index)
            layer = f"{event.scope}{event.suffix}{rank}"
        call = calls[event.scope, apart].index(event.invocation)
        steps = list(range(time_steps)) if step is None else [step]
        placed.append(Placed(event, f"{layer}#call{call}" if call else layer, steps))
    return placed


def _when(event: Event, time_steps: int) -> int | None:
    if event.timed:
        return None
    if event.step is not None:
        return event.step
    return 0 if time_steps == 1 else ONCE


def _loop_steps(events: Sequence[Event], when: Sequence[int | None], time_steps: int) -> list[int | None]:
    """Deal the calls of each scope out over the time steps.

    Layers are dealt in order, equally many calls per step; a number of calls that T does not divide is refused.
    Element-wise work at the top level of a loop need not be the same in every step (0.9 * u is none at first): where
    dealing it in order would contradict what it reads, it goes with the last layer before it.
    """
    dealt = list(when)
    free = [i for i, event in enumerate(events) if event.step is None and not event.timed]
    invocations: dict[str, set[int]] = defaultdict(set)
    operations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in free:
        invocations[events[i].scope].add(events[i].invocation)
        operations[events[i].scope, events[i].suffix].append(i)
    loose: list[list[int]] = []
    several: list[list[int]] = []
    cyclic: dict[int, int] = {}
    for (scope, _), members in operations.items():
        calls = sorted(invocations[scope])
        count = len(calls) if len(calls) > 1 else len(members)
        is_layer = len(calls) > 1 or events[members[0]].op in (*OPERATIONS, "neuron")
        if count > 1 and count % time_steps and is_layer:
            raise ProfilingError(
                f"{events[members[0]].layer}: called {count} times in a loop of {time_steps} time steps; which call "
                "belongs to which step cannot be told: call it equally often in every step"
            )
        for nth, i in enumerate(members):
            at = calls.index(events[i].invocation) if len(calls) > 1 else nth
            dealt[i] = ONCE if count == 1 else at * time_steps // count
            cyclic[i] = ONCE if count == 1 else at % time_steps
        if not is_layer and count > 1:
            loose.append(members)
        elif count > time_steps:
            several.append(members)
    unsure = {i for members in loose for i in members}
    for members in loose:
        if len(members) % time_steps or not _in_order(members, events, dealt):
            for i in members:
                dealt[i] = _last_layer_before(i, dealt, unsure)
    for members in several:
        if not _reads_its_own_step(members, events, dealt):  # layer by layer, all steps in each
            after = [cyclic[i] if i in members else step for i, step in enumerate(dealt)]
            if not _reads_its_own_step(members, events, after):
                raise ProfilingError(
                    f"{events[members[0]].layer}: called {len(members)} times in {time_steps} time steps, in an order "
                    "from which the steps cannot be told; call it step by step"
                )
            dealt = after
    return dealt


def _reads_its_own_step(members: Sequence[int], events: Sequence[Event], dealt: Sequence[int | None]) -> bool:
    """True where what every event reads is of its own step, or older beside something of its own step."""
    for i in members:
        steps = [dealt[source] for source in events[i].inputs]
        known = [step for step in steps if step is not None and step >= 0]
        if known and max(known) != dealt[i]:
            return False
    return True


def _in_order(members: Sequence[int], events: Sequence[Event], dealt: Sequence[int | None]) -> bool:
    """True where no event is dealt to an earlier step than something it reads."""
    return all((dealt[source] or 0) <= (dealt[i] or 0) for i in members for source in events[i].inputs)


def _last_layer_before(index: int, dealt: Sequence[int | None], unsure: set[int]) -> int | None:
    """The step of the last event before this one that was dealt for sure; the first step where there is none."""
    return next((dealt[i] for i in range(index - 1, -1, -1) if i not in unsure and dealt[i] != ONCE), 0)


def _header(
    model: nn.Module, max_k: int, settled: Settled, input_kind: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Who counted what, with which rules."""
    config = getattr(model, "config", None)
    name = getattr(config, "name", None) or type(model).__name__
    return {
        "model": name,
        "convention": CONVENTION_VERSION,
        "time": settled.time,
        **({} if settled.found in ("declared", "the model says so") else {"time_found": settled.found}),
        "input_kind": input_kind,
        "max_k": max_k,
        "snn_energy": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **(getattr(model, "snn_energy_checkpoint", {})),
        **given,
    }
