"""``profile``: run a network over a loader and return its counts."""

from __future__ import annotations

import gc
import itertools
import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy._version import __version__
from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import KINDS, Kind
from snn_energy.counts.columns import CONVENTION_VERSION
from snn_energy.counts.counts import Counts
from snn_energy.profiler.axes.roles import BatchShape
from snn_energy.profiler.counting_mode import CountingMode
from snn_energy.profiler.discovery.first_batch import Declared, interpret_batch, taken_by
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.discovery.non_spiking import ONCE_PER_SAMPLE
from snn_energy.profiler.discovery.repeatable import depends_on_seed
from snn_energy.profiler.discovery.state_variables import with_state_variables
from snn_energy.profiler.discovery.weights_guard import SameParameters, unchanged_weights
from snn_energy.profiler.neurons.known import reset_states
from snn_energy.profiler.results.accumulate import BatchAccumulator
from snn_energy.profiler.results.merge import counts_of
from snn_energy.profiler.results.resume import Parts
from snn_energy.running.backends import replaced_backends
from snn_energy.running.evaluated import evaluation_mode, require_model_and_loader
from snn_energy.running.inputs import Inputs, call
from snn_energy.running.module_state import State
from snn_energy.running.random_numbers import RandomNumbers
from snn_energy.running.time_mode import TimeMode, call_per_step, require_one_argument
from snn_energy.running.unchanged import Structure, one_at_a_time

MOST_COPIED_WEIGHTS = 250_000  # in the first forward, to see whether it changes them


RANDOM = (
    "its forward draws random numbers, so the counts are those of this draw; seed them (torch.manual_seed), and give "
    "enough samples for an average"
)
UNKNOWN_STATE = (
    "how many state variables its neurons keep from step to step could not be seen, so that its membrane traffic is "
    "unknown; set state_variables = 1 (or how many it has) on the module or its class"
)


class DependsOnBatchWarning(UserWarning):
    """Counts of a sample that depend on the other samples of its batch."""


class RandomNetworkWarning(UserWarning):
    """Counts that depend on random numbers that the network draws."""


class UnsupportedOperationWarning(UserWarning):
    """An operation without a counting rule; its row has no counts."""


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
    interpretation: Interpretation | None = None,
) -> Counts:
    """Count what a network does, per operation, time step and sample.

    model: any nn.Module; it runs in eval mode without gradients, and its mode, hooks, parameters, buffers and state
    (tensors in attributes) are restored afterwards, also if the forward raises. Every batch starts from the state
    of the given model, with neurons of frameworks reset. loader: any iterable of x or (x, y) batches, samples in
    front (or after the time axis, see ``time``); several inputs are ((x1, x2), y), ({"name": x}, y) or a dict
    (``running.inputs``). time_steps: T_max; default: the model's ``time_steps``. time: where time is, one of
    ``TIME_MODES``; needed if T > 1, the model does not define it, and a run on a few samples cannot
    determine it. input_kind: declares the kind of the loader's tensor (design, rule 4). max_k: largest multiple that
    counts as integer, default what the network adds up (10 at least). strict: an operation without a rule is an error,
    no row and warning. neurons: unknown modules that spike: classes, their dotted names, or layer names; those that a
    run on a few samples identifies (a state, multiples of one value) need not be named. header: extra entries of it.
    on_batch: called with the number of samples counted so far. parts: where the counts are stored during the run
    (``results.resume``), by default in memory and temporary files; memory does not grow with the number of samples.
    interpretation: time, T_max and neurons as ``interpret_first`` determined them on other samples; it replaces
    ``time``, ``time_steps`` and ``neurons``.

    Raises ProfilingError for a time axis that cannot be determined, a T_max other than the model's, no samples, NaN or
    infinite values, a network that changes between batches.
    """
    _require_arguments(model, loader, time_steps, max_k, header)
    if input_kind is not None and input_kind not in KINDS:
        raise ProfilingError(f"input_kind must be one of {', '.join(KINDS)}, not '{input_kind}'")
    require_countable(model)
    parts_store, is_random = Parts() if parts is None else parts, False
    try:
        if parts_store.todo is None or len(parts_store.todo):

            def interpret(first: Sequence[Any]) -> Interpretation:
                return interpretation or interpret_first(model, first, time, time_steps, neurons)

            with one_at_a_time(model):
                is_random = _count(model, loader, parts_store, interpret, input_kind, max_k, header or {}, on_batch)
        found = {"draws_random_numbers": True} if is_random else {}
        return parts_store.finish(lambda: _merged(parts_store, {**(header or {}), **found}, strict))
    finally:
        parts_store.close()


def _count(
    model: nn.Module,
    loader: Iterable[Any],
    parts_store: Parts,
    interpret: Callable[[Sequence[Any]], Interpretation],
    input_kind: Kind | None,
    max_k: int | None,
    header: Mapping[str, Any],
    on_batch: Callable[[int], None] | None,
) -> bool:
    """Run the network on every batch and store the parts; True if what it gives depends on a random seed.

    Raises ProfilingError; Interrupted if a signal stops it.
    """
    batches = iter(loader)
    first = list(itertools.islice(batches, 1))
    interpretation = _with_state_variables(model, first, interpret(first))
    mode, steps = interpretation.mode, interpretation.time_steps
    counting = CountingMode(model, max_k, input_kind, interpretation.spiking, interpretation.decomposed_layers)
    accumulator = BatchAccumulator(steps, max_k, parts_store, _header(model, max_k, interpretation, input_kind, header))
    with parts_store.listening(), evaluation_mode(model), _restored_state(model) as state, counting.tracing():
        try:
            all_batches = itertools.chain(first, batches)
            drew = _count_batches(model, all_batches, counting, accumulator, state, mode, on_batch)
        except Exception as error:
            with torch._C.DisableTorchFunction():
                accumulator.keep_after(error, counting, mode)
            raise
    accumulator.keep(counting, mode, is_last=True)
    return drew and depends_on_seed(model, taken_by(model, first[0])[0], mode, steps)


def _count_batches(
    model: nn.Module,
    batches: Iterable[Any],
    counting: CountingMode,
    accumulator: BatchAccumulator,
    state: State,
    mode: TimeMode,
    on_batch: Callable[[int], None] | None,
) -> bool:
    """Count batch after batch, each from the same state. True if the first one drew random numbers."""
    steps, structure, parameters = accumulator.time_steps, Structure(model), SameParameters(model)
    drew = False
    with structure.observed():
        for batch in batches:
            with torch._C.DisableTorchFunction():
                x, y = taken_by(model, batch)
                span = BatchShape(steps, mode.samples_of(x, steps))
                structure.require()
            if span.samples == 0:
                continue
            with torch._C.DisableTorchFunction():
                state.restore()
            counting.begin(span)
            first_pass = not accumulator.samples
            weights = unchanged_weights(model, MOST_COPIED_WEIGHTS) if first_pass else parameters.kept()
            numbers = RandomNumbers(x.device) if first_pass else None
            with _no_garbage_collection(), weights, state.watched():
                out = _forward(model, counting, x, mode, steps)
            with torch._C.DisableTorchFunction():
                drew = drew or (numbers is not None and numbers.were_drawn())
                structure.require()
                counting.end()
                with _no_garbage_collection():
                    accumulator.add(counting, out, y, mode)
                accumulator.store_if_due(counting, mode)
            if on_batch is not None:
                on_batch(accumulator.kept.counted + accumulator.samples)
    return drew


def _with_state_variables(model: nn.Module, first: Sequence[Any], found: Interpretation) -> Interpretation:
    """The interpretation, with the state variables of neurons that no framework's class defines."""
    with torch._C.DisableTorchFunction():
        x = taken_by(model, first[0])[0] if first else None
    if not isinstance(x, (Tensor, Inputs)):
        return found
    return with_state_variables(model, x, found)


def _merged(parts_store: Parts, header: Mapping[str, Any], strict: bool) -> Counts:
    """The counts of all parts, with a warning for every layer whose work is unknown; ProfilingError if strict."""
    with _no_garbage_collection():
        counts, not_counted = counts_of(parts_store, header)
    for layer, why in {**dict.fromkeys(counts.layers_of_unknown_state(), UNKNOWN_STATE), **not_counted}.items():
        text = f"{layer}: {why}"
        if strict:
            raise ProfilingError(f"{text} (--strict)")
        warnings.warn(text, UnsupportedOperationWarning, stacklevel=4)
    whole: list[tuple[str, type[UserWarning]]] = []
    if layers := counts.header.get("depends_on_batch"):
        whole.append((of_batch_message(layers), DependsOnBatchWarning))
    if counts.header.get("draws_random_numbers") and not any("random" in why for why in not_counted.values()):
        whole.append((f"{counts.header['model']}: {RANDOM}", RandomNetworkWarning))
    for text, kind in whole:
        if strict:
            raise ProfilingError(f"{text} (--strict)")
        warnings.warn(text, kind, stacklevel=4)
    return counts


def of_batch_message(layers: Sequence[str]) -> str:
    """That counts depend on how samples are put into batches, and what to do."""
    several = "" if len(layers) < 4 else f" and {len(layers) - 3} more"
    return (
        f"{', '.join(layers[:3])}{several}: what a sample gives depends on the other samples of its batch, and so do "
        "the counts; a BatchNorm needs running statistics (track_running_stats=True), else profile with the batches "
        "that the hardware runs (--batch-size)"
    )


def _require_arguments(model: Any, loader: Any, time_steps: Any, max_k: Any, header: Any) -> None:
    """Raise ProfilingError for arguments of the wrong type or value."""
    require_model_and_loader(model, loader)
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


def interpret_first(
    model: nn.Module,
    batches: Sequence[Any],
    time: str | None,
    time_steps: int | None,
    named: Iterable[str | type[nn.Module]],
    has_time: bool = False,
) -> Interpretation:
    """Time mode and spiking modules: defined by the model, declared, or determined by a run on a few samples.

    batches: the first one, or none. has_time: the loader gives (T, B, ...), so the time mode must fit that.
    """

    def count(some: Any) -> Counts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnsupportedOperationWarning)
            return profile(model, [some], interpretation=ONCE_PER_SAMPLE)

    return interpret_batch(model, batches, Declared(time, time_steps, list(named), has_time), count)


def require_countable(model: nn.Module) -> None:
    """Raise ProfilingError for scripted or compiled modules, missing weights, and NaN or infinite values."""
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
    """True if no value is NaN or infinite; a finite sum proves it, but a finite tensor's sum may overflow."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


@contextmanager
def _restored_state(model: nn.Module) -> Iterator[State]:
    """Yield the state that every batch starts from: neurons of frameworks reset, all else as in the given model.

    On exit, the state of the given model is restored.
    """
    with torch._C.DisableTorchFunction():
        initial_state, reset_state = State(model), None
    try:
        with torch._C.DisableTorchFunction():
            with initial_state.watched():
                reset_states(model)
            reset_state = State(model)
        yield reset_state
    finally:
        with torch._C.DisableTorchFunction():
            if reset_state is not None:
                initial_state.take_changes_of(reset_state)
            initial_state.restore()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: a forward creates many small objects, and repeated collections take time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _forward(model: nn.Module, counting: CountingMode, x: Any, mode: TimeMode, steps: int) -> Any:
    """One pass over one batch: one call of the model, or T calls."""
    with torch._C.DisableTorchFunction():
        given = mode.feed(x, steps)
        bound = counting.scans.bound_of_input(x) if isinstance(x, Tensor) else None

    def before(step: int | None) -> None:
        counting.begin_call(step)
        counting.mark_inputs(x, given[step or 0], mode, bound)

    if mode.calls_per_step:
        return _call_model(lambda: call_per_step(model, given, before), model, given[0])
    before(None)
    return _call_model(lambda: call(model, given[0]), model, given[0])


def _call_model(run: Callable[[], Any], model: nn.Module, x: Any) -> Any:
    """The result of a call of the model.

    Raises ProfilingError if its forward needs other arguments than one tensor, or another dtype or device.
    """
    try:
        return run()
    except TypeError:
        require_one_argument(model, x)
        raise
    except RuntimeError as error:
        misfit = _mismatch(model, x)
        if misfit is None:
            raise
        raise ProfilingError(misfit) from error


def _mismatch(model: nn.Module, x: Tensor | Inputs) -> str | None:
    """Why dtype or device of a batch and a model do not match; None if they do."""
    devices = sorted({str(p.device) for p in model.parameters()})
    if len(devices) > 1:
        return f"the model's parameters lie on several devices ({', '.join(devices)}); move them to one with model.to()"
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if not formats or x.dtype in formats:
        return None
    wanted = ", ".join(sorted(map(str, formats)))
    return f"the loader gives {x.dtype} and the model computes in {wanted}; convert the batches or the model"


def _header(
    model: nn.Module,
    max_k: int | None,
    interpretation: Interpretation,
    input_kind: str | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Header entries: model, interpretation, rules and versions."""
    config = getattr(model, "config", None)
    name = getattr(config, "name", None) or type(model).__name__
    backends = replaced_backends(model)
    return {
        "model": name,
        "convention": CONVENTION_VERSION,
        "time": interpretation.time,
        **({} if interpretation.found in ("declared", "the model says so") else {"time_found": interpretation.found}),
        **({"backends": f"torch instead of {', '.join(sorted(set(backends.values())))}"} if backends else {}),
        "input_kind": input_kind,
        "max_k": max_k,
        "snn_energy": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **(getattr(model, "snn_energy_checkpoint", {})),
        **given,
    }
