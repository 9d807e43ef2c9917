"""``profile``: run a network over a loader and return its counts."""

from __future__ import annotations

import gc
import json
import platform
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
from snn_energy.counts import COLUMNS, CONVENTION_VERSION, OPERATIONS, PER_SAMPLE, Counts, make_rows
from snn_energy.errors import ProfilingError, nearest
from snn_energy.groups import layer_group
from snn_energy.profiler.kinds import KINDS, ZERO, Kind, Values, join
from snn_energy.profiler.state import State
from snn_energy.profiler.timesteps import TIME_MODES, Node, Span, Steps, needed_steps
from snn_energy.profiler.trace import Event, Operand
from snn_energy.profiler.walker import ONCE, Walker, loader_values

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
    header: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Counts:
    """Count what a network does, per operation, time step and sample.

    model: any nn.Module; it is run in eval mode without gradients, and its mode, hooks, parameters, buffers and state
    (tensors that it keeps in attributes) are as before afterwards, also when the forward raises. Every batch starts
    from the state that the model is handed in with: reset stateful neurons before. loader: any iterable of x or (x, y)
    batches, samples in front (or behind the time axis, see ``time``). time_steps: T_max; the model's own
    ``time_steps`` unless given. time: where time is, one of ``TIME_MODES`` ("inside", "loop", "axis0", "flat",
    "call", "call-axis0"); needed where T > 1 and the model does not say. input_kind: declares the kind of the
    loader's tensor (design, rule 4). max_k: largest whole multiple that counts as integer, 2 * blocks + 2 unless
    given. strict: an operation without a rule is an error instead of a row and a warning. header: extra entries for
    the counts' header. on_batch: called with the number of samples done so far.

    Raises ProfilingError for a time axis that cannot be told, another T_max than the model's, no samples, NaN or
    infinite values, a network that changes between batches.
    """
    _require_arguments(model, loader, time_steps, max_k, header)
    steps = _time_steps(model, time_steps)
    mode = _time_mode(model, time, steps)
    if input_kind is not None and input_kind not in KINDS:
        raise ProfilingError(f"input_kind must be one of {', '.join(KINDS)}, not '{input_kind}'")
    limit = 2 * _blocks(model) + 2 if max_k is None else max_k
    _require_countable(model)
    walker = Walker(model, limit, input_kind)
    tally = Tally(steps, limit)
    with _as_evaluated(model), _state_kept(model) as state, walker.watching():
        for batch in loader:
            x, y = _unpack(batch)
            with torch._C.DisableTorchFunction():
                x = x.to(_device_of(model, x)) if isinstance(x, Tensor) else x
                span = Span(steps, _samples_of(x, mode, steps))
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
            if on_batch is not None:
                on_batch(tally.samples)
    if tally.samples == 0:
        raise ProfilingError("the loader gave no samples; nothing was counted")
    rule = "no counting rule for '{}'; it is listed as unsupported and its cost is unknown"
    for layer, why in {**{k: rule.format(name) for k, name in walker.unsupported.items()}, **walker.lost}.items():
        text = f"{layer}: {why}"
        if strict:
            raise ProfilingError(f"{text} (--strict)")
        warnings.warn(text, UnsupportedOperationWarning, stacklevel=2)
    return tally.counts(_header(model, limit, mode, input_kind, header or {}))


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


def _time_steps(model: nn.Module, given: int | None) -> int:
    own = getattr(model, "time_steps", None)
    own = own if isinstance(own, int) and not isinstance(own, bool) else None
    if given is None and own is None:
        raise ProfilingError("time_steps= is needed: the model does not say how many time steps it runs")
    steps = own if given is None else given
    if own is not None and own != steps:
        raise ProfilingError(f"time_steps={steps} was asked for but the model runs T_max={own}; leave time_steps out")
    if steps is None or steps < 1:
        raise ProfilingError(f"time_steps must be at least 1, not {steps}")
    return steps


def _time_mode(model: nn.Module, time: str | None, steps: int) -> str:
    if time is None:
        if steps == 1 or hasattr(model, "time_steps"):
            return "inside"
        known = "; ".join(f"'{mode}': {text}" for mode, text in TIME_MODES.items())
        raise ProfilingError(f"with {steps} time steps, time= must say where time is ({known})")
    if time not in TIME_MODES:
        raise ProfilingError(f"unknown time='{time}'{nearest(time, TIME_MODES)} (one of {', '.join(TIME_MODES)})")
    return time


def _blocks(model: nn.Module) -> int:
    blocks = getattr(model, "blocks", None)
    return len(blocks) if isinstance(blocks, (nn.ModuleList, nn.Sequential)) else DEFAULT_BLOCKS


def _require_countable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            what = f"{name}: a scripted or compiled module" if name else "a scripted or compiled model"
            raise ProfilingError(f"{what} cannot be looked into; give the plain nn.Module")
        if any(isinstance(value, nn.UninitializedParameter) for value in module._parameters.values()):
            raise ProfilingError(f"{name or 'the model'}: a lazy module has no weights yet; run it once before")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
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
    """The state that the model was handed in with: every batch starts from it, and it is left in it."""
    with torch._C.DisableTorchFunction():
        state = State(model)
    try:
        yield state
    finally:
        with torch._C.DisableTorchFunction():
            state.restore()


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


def _samples_of(x: Any, mode: str, steps: int) -> int:
    """Samples of a batch; raises ProfilingError where its shape does not fit the declared time."""
    if isinstance(x, Tensor) and (x.is_complex() or x.layout != torch.strided):
        raise ProfilingError(f"the loader gave a {x.dtype} tensor of layout {x.layout}; give dense real numbers")
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise ProfilingError(f"the loader must give tensors with samples in front, not {type(x).__name__}")
    if mode in ("axis0", "call-axis0"):
        if x.dim() < 2 or x.shape[0] != steps:
            raise ProfilingError(f"time='{mode}' wants (T={steps}, B, ...), the loader gave {tuple(x.shape)}")
        return int(x.shape[1])
    if mode == "flat":
        if x.shape[0] % steps:
            raise ProfilingError(f"time='flat' wants (T*B, ...) with T={steps}, the loader gave {tuple(x.shape)}")
        return int(x.shape[0]) // steps
    return int(x.shape[0])


def _forward(model: nn.Module, walker: Walker, x: Tensor, mode: str, steps: int) -> Any:
    """One pass over one batch: one call of the model, or T of them."""
    if mode not in ("call", "call-axis0"):
        walker.begin_call(None)
        walker.feed(x, timed=mode in ("axis0", "flat"), constant=False)
        return model(x)
    outs = []
    for step in range(steps):
        walker.begin_call(step)
        with torch._C.DisableTorchFunction():
            x_t = x if mode == "call" else x[step]
        walker.feed(x_t, timed=False, constant=mode == "call")
        outs.append(model(x_t))
    return outs


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
    """What all batches have in common for one operation, and the per-sample counts gathered so far.

    active: one flag per row. gathered: name -> one (rows, samples of the batch) array per batch.
    """

    placed: Placed
    active: Steps
    constant: bool
    note: str
    elementwise_ops: int
    feeds_neuron: bool
    gathered: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))


class Tally:
    """Rows over all batches."""

    def __init__(self, time_steps: int, max_k: int) -> None:
        self.time_steps, self.max_k, self.samples = time_steps, max_k, 0
        self.layers: dict[tuple[str, tuple[int, ...]], Layer] = {}
        self.values: dict[tuple[str, str], Values] = {}
        self.correct: int | None = 0
        self._calls: list[tuple[Any, ...]] = []
        self._placed: list[Placed] = []
        self._outputs: frozenset[int] = frozenset()

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
        self._score(out, y, walker.span.samples)

    def _open(self, placed: Sequence[Placed], outputs: frozenset[int], mode: str) -> None:
        """The first pass fixes the rows: what is active, needed, repeated, folded."""
        self._outputs = outputs
        readers = readers_of(placed)
        for index, item in enumerate(placed):
            event = item.event
            target = folds_into(index, placed, readers, outputs)
            named = event.op in ("unsupported", "activation", "compare", "reduce", "pool", "norm", "softmax")
            self.layers[item.key] = Layer(
                placed=item,
                active=event.active,
                # A state outside the network's sight may change from call to call: only the input is constant.
                constant=event.constant and (mode in ("inside", "axis0", "flat") or not event.inputs),
                note=target or (event.note if named else ""),
                elementwise_ops=0 if target else event.elementwise_ops,
                feeds_neuron=event.op in OPERATIONS and feeds_neuron(index, placed, readers, outputs),
            )

    def _gather(self, item: Placed, walker: Walker) -> None:
        """Per-sample counts of one event, (rows, samples); zero where inactive."""
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
        if not layer.active.all():
            self._see_work(layer, arrays)
        for name, values in arrays.items():
            layer.gathered[name].append(values if layer.active.all() else values * layer.active[:, None])

    def _see_work(self, layer: Layer, arrays: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """A step whose sources are all masked works nevertheless where its input holds something (x + 1, x == 0)."""
        if layer.placed.event.op == "neuron":
            return
        sides = [arrays[name].any(1) for name in ("nonzeros_left", "nonzeros_right") if name in arrays]
        if sides:
            layer.active = layer.active | np.logical_and.reduce(sides)

    def _needed(self) -> dict[tuple[str, tuple[int, ...]], Steps]:
        """Which rows of every operation some active and needed consumer reads."""
        nodes = [
            Node(layer.placed.layer, event.op == "neuron", layer.placed.when, layer.active, event.inputs)
            for layer in self.layers.values()
            for event in [layer.placed.event]
        ]
        return dict(zip(self.layers, needed_steps(nodes, self._outputs, self.time_steps), strict=True))

    def _join(
        self,
        item: Placed,
        side: str,
        operand: Operand,
        multi: Tensor | None,
        arrays: Mapping[str, npt.NDArray[np.int64]],
        walker: Walker,
    ) -> npt.NDArray[np.int64]:
        """Join the operand's values with all earlier ones; sums of |k| in the common unit, earlier ones rescaled."""
        key = (item.layer, side)
        values = operand.scan.settle(int(arrays[f"nonzeros_{side}"].sum()))
        limit = max(self.max_k, values.max_k or 0)
        joined, old, new = join(self.values.get(key, ZERO), values, limit)
        if operand.scan.claim.loader and operand.scan.claim.reason is None:
            joined = loader_values(joined, walker.input_kind, item.layer)
        self.values[key] = joined
        if self.values[key].reason is not None:
            walker.known_real.add((item.event.layer, item.event.invocation, side))
        if old != 1:
            for (name, _), layer in self.layers.items():
                if name == item.layer:
                    layer.gathered[f"multi_{side}"] = [sums * old for sums in layer.gathered[f"multi_{side}"]]
        sums = arrays["sops"] if multi is None else multi.reshape(len(item.steps), -1).cpu().numpy()
        return sums if new == 1 else sums * new

    def _score(self, out: Any, y: Any, samples: int) -> None:
        """Accuracy, where the loader gives labels and the model logits; outputs of several steps are averaged."""
        if y is None or self.correct is None:
            self.correct = None
            return
        logits = out
        if isinstance(out, list) and out and all(isinstance(part, Tensor) for part in out):
            logits = torch.stack(out).mean(0)
        labels = torch.as_tensor(y) if isinstance(y, (Tensor, np.ndarray, list, tuple)) else None
        if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == (self.time_steps, samples):
            logits = logits.mean(0)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples:
            self.correct = None
            return
        if labels is None or labels.shape != (samples,) or labels.is_floating_point():
            self.correct = None
            return
        self.correct += int((logits.argmax(1).cpu() == labels.cpu()).sum())

    def counts(self, header: Mapping[str, Any]) -> Counts:
        """The finished record."""
        order = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in self.layers))}
        parts = sorted(self.layers.values(), key=lambda layer: (order[layer.placed.layer], layer.placed.steps[0]))
        rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        stacked: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in PER_SAMPLE}
        needed = self._needed()
        for layer in parts:
            facts, samples = self._facts(layer)
            facts["needed"] = needed[layer.placed.key].tolist()
            for name in PER_SAMPLE:
                stacked[name].append(samples[name])
            facts["order"] = order[layer.placed.layer]
            for name, column in rows.items():
                value = facts[name]
                column.extend(value if isinstance(value, list) else [value] * len(layer.placed.steps))
        accuracy = None if self.correct is None else self.correct / self.samples
        full = {"samples": self.samples, "time_steps": self.time_steps, "accuracy": accuracy, **header}
        per_sample = {name: np.concatenate(arrays) for name, arrays in stacked.items()}
        return Counts(full, make_rows(rows), per_sample)

    def _facts(self, layer: Layer) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.int64]]]:
        """Columns of one operation, a list where they differ by row, and its per-sample work (rows, samples)."""
        event, steps = layer.placed.event, layer.placed.steps
        work = {name: np.concatenate(parts, axis=1) for name, parts in layer.gathered.items()}
        zeros = np.zeros((len(steps), self.samples), dtype=np.int64)
        samples = {name: zeros for name in PER_SAMPLE}
        samples |= {"sops": work.get("sops", zeros), "spikes": work.get("spikes", zeros)}
        facts: dict[str, Any] = dict.fromkeys(COLUMNS)
        note = layer.note
        if event.streamed is not None:
            samples |= self._operands(layer, work, facts)
            reason = self.values[layer.placed.layer, "left"].reason
            note = reason if facts["input_kind"] == "real" and reason and reason != "real" else note
        total = {name: values.sum(1).tolist() for name, values in samples.items()}
        if event.streamed is not None:
            facts["input_nonzeros"] = total["input_nonzeros"]
        if event.other is not None:
            facts["other_nonzeros"] = total["other_nonzeros"]
        known, active = event.op != "unsupported", layer.active.tolist()
        is_real = facts["input_kind"] == "real"

        def work_of(per_sample: int) -> list[int]:
            return [per_sample * self.samples * on for on in active]

        facts |= {
            "layer": layer.placed.layer, "group": layer_group(layer.placed.layer), "op": event.op, "time_step": steps,
            "active": active,
            "input_repeated": [layer.constant and step >= 1 for step in steps],
            "dense_macs": work_of(event.dense_macs) if known else None,
            "sops": total["sops"] if known else None,
            "sops_gated": total["sops_gated"] if known else None,
            "sops_multi": total["sops_multi"] if known and not is_real else None,
            "elementwise_ops": work_of(layer.elementwise_ops) if known else None,
            "output_elements": event.output_elements, "weights": event.weights, "biases": event.biases,
            "neurons": event.neurons, "spikes": total["spikes"],
            "membrane_reads": work_of(event.neurons), "membrane_writes": work_of(event.neurons),
            "reduction": event.reduction, "out_channels": event.out_channels, "positions": event.positions,
            "groups": event.groups, "feeds_neuron": layer.feeds_neuron, "note": note,
        }  # fmt: skip
        return facts, samples

    def _operands(
        self, layer: Layer, work: Mapping[str, npt.NDArray[np.int64]], facts: dict[str, Any]
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Which operand is streamed (the lower kind, the left one on a tie), and what follows from it."""
        event, name = layer.placed.event, layer.placed.layer
        left, right = event.streamed, event.other
        assert left is not None
        values, side, width = self.values[name, "left"], "left", event.out_channels // max(1, event.groups)
        streamed = left
        if right is not None and KINDS.index(self.values[name, "right"].kind) < KINDS.index(values.kind):
            values, side, width, streamed = self.values[name, "right"], "right", event.positions, right
        facts |= {"input_kind": values.kind, "max_k": values.max_k, "input_elements": streamed.elements}
        samples = {
            "input_nonzeros": work[f"nonzeros_{side}"],
            "sops_gated": work["sops"],
            "sops_multi": np.zeros_like(work["sops"]) if values.kind == "real" else work[f"multi_{side}"],
        }
        if right is not None:
            other, other_side = (left, "left") if side == "right" else (right, "right")
            others = self.values[name, other_side]
            facts |= {"other_kind": others.kind, "other_max_k": others.max_k, "other_elements": other.elements}
            samples["sops_gated"] = work[f"nonzeros_{side}"] * width
            samples["other_nonzeros"] = work[f"nonzeros_{other_side}"]
        return samples


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
    model: nn.Module, max_k: int, mode: str, input_kind: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Who counted what, with which rules."""
    config = getattr(model, "config", None)
    name = getattr(config, "name", None) or type(model).__name__
    return {
        "model": name,
        "convention": CONVENTION_VERSION,
        "time": mode,
        "input_kind": input_kind,
        "max_k": max_k,
        "snn_energy": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **(getattr(model, "snn_energy_checkpoint", {})),
        **given,
    }
