"""One profiler run from the command line: network and data by name, parts on disk, several processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snn_energy._version import __version__
from snn_energy.core.errors import DataError, ProfilingError, SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.datasets.events import EventSet
from snn_energy.datasets.images import Images
from snn_energy.datasets.rescaled import Normalisation
from snn_energy.jobs.inputs import EventOptions, is_data_reference, open_batches, open_data, open_network
from snn_energy.jobs.references import is_reference

if TYPE_CHECKING:
    from snn_energy.profiler.discovery.interpretation import Interpretation
    from snn_energy.profiler.inspection_report import InspectionReport

DEFAULT_BATCH_SIZE = 60
INSPECTED_SAMPLES = 8  # samples from which neurons and the time axis are determined


@dataclass(frozen=True)
class ProfileRequest:
    """What is profiled: the network, the data, and what the user declares about them.

    checkpoint, model, arguments, options, ema: see ``inputs.open_network``. data: NAME:PATH, or a reference to
    the user's loader. samples ... events: see ``inputs.open_data``. time, time_steps, neurons, input_kind, max_k: see
    ``profile``.
    """

    checkpoint: str | Path | None
    data: str
    samples: int | None = None
    model: str | None = None
    arguments: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None
    ema: bool = False
    time: str | None = None
    time_steps: int | None = None
    neurons: tuple[str, ...] = ()
    input_kind: Any = None
    max_k: int | None = None
    image_size: int | None = None
    in_channels: int | None = None
    divisor: float | None = None
    normalisation: Normalisation | None = None
    events: EventOptions | None = None


def profile_checkpoint(
    path: str | Path,
    data: str,
    samples: int | None,
    *,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    time_steps: int | None = None,
    **run_options: Any,
) -> Counts:
    """Counts of a checkpoint over a test split; ``run_options``: see ``profile_run``. Raises SnnEnergyError."""
    request = ProfileRequest(path, data, samples, model=model, options=options, time_steps=time_steps)
    return profile_run(request, **run_options)


def profile_run(
    request: ProfileRequest,
    *,
    on_batch: Callable[[int], None] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    header: dict[str, Any] | None = None,
    strict: bool = False,
    device: str = "cpu",
    parts: str | Path | None = None,
    save_every_s: float = 20.0,
    on_start: Callable[[int, int], None] | None = None,
) -> Counts:
    """Counts of a network over data. Raises SnnEnergyError. device: cpu, cuda or auto.

    parts: a folder in which counts are saved every ``save_every_s`` seconds: a killed run resumes from them, and
    torchrun processes share the samples; all return the same rows, only the first also the per-sample counts. The
    caller removes it once the counts are saved. on_start: called with the samples already counted, and their total.
    """
    import torch

    from snn_energy.profiler.results.resume import missing, open_parts
    from snn_energy.profiler.run import profile, require_countable
    from snn_energy.running.processes import processes

    network = _network(request)
    require_countable(network)
    if is_data_reference(request.data):
        _require_loader_alone(request)
        return _profile_reference(request, network, header or {}, strict, device, on_batch)
    data = _data(request, network)
    full_header = {**_data_header(request, data), **(header or {})}
    total = len(data.labels)
    with processes(device, backend="gloo", timeout=timedelta(days=30)) as group, ExitStack() as stack:
        if group.device.type != "cpu":
            full_header["device"] = torch.cuda.get_device_name(group.device)
        if parts is None and group.size > 1:
            raise ProfilingError("several processes need a shared folder for their counts; give parts=")
        stored_parts = None
        if parts is not None:
            run = _run_fingerprint(network, _resume_identity(request, data, full_header))
            stored_parts = stack.enter_context(open_parts(parts, run, total, batch_size, group, save_every_s))
        todo = missing([], total, batch_size) if stored_parts is None else list(stored_parts.todo or ())
        counted_before = 0 if stored_parts is None else stored_parts.counted
        if on_start is not None:
            on_start(counted_before, total)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        stack.enter_context(_one_line_errors(request))
        network = network.to(group.device)
        return profile(
            network,
            (_batch(data, range(start, stop)) for start, stop in todo),
            interpretation=_interpretation(request, network, data),
            header=full_header,
            on_batch=_estimate_over_processes(on_batch, counted_before, total, group.size),
            strict=strict,
            parts=stored_parts,
            **_declared_arguments(request, data),
        )


def _data_header(request: ProfileRequest, data: Images | EventSet) -> dict[str, Any]:
    """Header entries about the data."""
    normalisation = request.normalisation
    return {
        "dataset": data.name,
        "split": data.split,
        "data_note": data.note,
        **({} if normalisation is None else {"normalisation": normalisation.header()}),
    }


def _interpretation(request: ProfileRequest, network: Any, data: Images | EventSet) -> Interpretation:
    """Time mode and neurons from the first samples of the whole data set, the same in every process."""
    from snn_energy.profiler.run import interpret_first

    first = [_batch(data, range(min(INSPECTED_SAMPLES, len(data.labels))))]
    has_time = isinstance(data, EventSet)
    return interpret_first(network, first, request.time, request.time_steps, request.neurons, has_time)


def _estimate_over_processes(
    on_batch: Callable[[int], None] | None, counted_before: int, total: int, processes: int
) -> Callable[[int], None]:
    """A callback on this process's count that calls ``on_batch`` with an estimate of the count of all processes."""

    def done(count: int) -> None:
        if on_batch is not None:
            on_batch(min(total, counted_before + (count - counted_before) * processes))

    return done


def _resume_identity(request: ProfileRequest, data: Images | EventSet, header: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to resume from another's parts: data, options, code, header without command."""
    options = {**_declared_arguments(request, data), "time": request.time, **_user_code(request)}
    rest = {key: value for key, value in header.items() if key != "command"}
    return {"data": data.fingerprint().hex(), "samples": len(data.labels), **options, **rest}


def inspect_run(request: ProfileRequest) -> InspectionReport:
    """How the profiler interprets a network, from the first few samples of the data. Raises SnnEnergyError."""
    from snn_energy.profiler.inspection_report import inspect_model

    network = _network(request)
    loader: Iterable[Any]
    declared: dict[str, Any] = {
        "time_steps": request.time_steps,
        "neurons": request.neurons,
        "input_kind": request.input_kind,
    }
    if is_data_reference(request.data):
        _require_loader_alone(request)
        loader, has_time = open_batches(request.data), False
    else:
        data = _data(request, network)
        loader, has_time = [_batch(data, range(min(INSPECTED_SAMPLES, len(data.labels))))], isinstance(data, EventSet)
        declared |= _declared_arguments(request, data)
    declared.pop("max_k", None)
    with _one_line_errors(request):
        return inspect_model(
            network, loader, time=request.time, has_time=has_time, samples=INSPECTED_SAMPLES, **declared
        )


def _network(request: ProfileRequest) -> Any:
    return open_network(
        request.checkpoint,
        request.model,
        arguments=dict(request.arguments or {}),
        options=dict(request.options or {}),
        ema=request.ema,
    )


def _data(request: ProfileRequest, network: Any) -> Images | EventSet:
    return open_data(
        request.data,
        network,
        samples=request.samples,
        time_steps=request.time_steps,
        image_size=request.image_size,
        in_channels=request.in_channels,
        divisor=request.divisor,
        normalisation=request.normalisation,
        events=request.events,
    )


def _declared_arguments(request: ProfileRequest, data: Images | EventSet) -> dict[str, Any]:
    """Declared arguments of ``profile``; event frames define their own input kind."""
    kind_of_frames = data.input_kind if isinstance(data, EventSet) else None
    return {
        "time_steps": request.time_steps,
        "neurons": request.neurons,
        "input_kind": request.input_kind or kind_of_frames,
        "max_k": request.max_k,
    }


def _batch(data: Images | EventSet, positions: Sequence[int]) -> tuple[Any, Any]:
    """Inputs, (B, C, H, W) of images or (T, B, 2, H, W) of recordings, and labels (B,)."""
    import torch

    indices = np.asarray(positions, dtype=np.int64)
    return torch.from_numpy(data.batch(indices)), torch.from_numpy(data.labels[indices])


def _profile_reference(
    request: ProfileRequest,
    network: Any,
    header: dict[str, Any],
    strict: bool,
    device: str,
    on_batch: Callable[[int], None] | None,
) -> Counts:
    """As ``profile_run``, over the user's own loader."""
    import torch

    from snn_energy.profiler.run import profile
    from snn_energy.running.processes import processes

    with processes(device, backend="gloo") as group, torch.inference_mode(), _one_line_errors(request):
        if group.size > 1:
            raise ProfilingError(
                f"{request.data}: a loader by reference cannot be shared by processes; give NAME:PATH, or run one "
                "process"
            )
        return profile(
            network.to(group.device),
            _first_samples(open_batches(request.data), request.samples),
            time=request.time,
            time_steps=request.time_steps,
            neurons=request.neurons,
            input_kind=request.input_kind,
            max_k=request.max_k,
            header={"dataset": Path(request.data).name, **header},
            on_batch=on_batch,
            strict=strict,
        )


def _require_loader_alone(request: ProfileRequest) -> None:
    """Raise DataError if options change what the user's own loader gives."""
    options = {
        "--divide-by": request.divisor,
        "--mean, --std or --normalize": request.normalisation,
        "--image-size": request.image_size,
        "--in-channels": request.in_channels,
        "--step-us, --frames or --cut": None if request.events == EventOptions() else request.events,
    }
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None:
        raise DataError(
            f"{request.data}: your own loader gives the batches as the network reads them; leave {given} out and do "
            "it there"
        )


def _first_samples(batches: Iterable[Any], samples: int | None) -> Iterator[Any]:
    """Whole batches until ``samples`` samples are reached. Raises ProfilingError if a batch exceeds them."""
    from snn_energy.running.inputs import unpack

    remaining = samples
    for batch in batches:
        x, y = unpack(batch) if not isinstance(batch, (list, tuple)) or batch else (batch, None)
        if not hasattr(x, "shape") or len(x.shape) == 0:
            yield batch  # rejected by the profiler, with its own message
            return
        size = len(y) if y is not None else int(x.shape[0])
        if remaining is not None and size > remaining:
            raise ProfilingError(
                f"--samples {samples}: the loader's batches hold {size} samples each; give a number that they divide"
            )
        yield batch
        if remaining is not None:
            remaining -= size
            if remaining == 0:
                return


class _one_line_errors:  # noqa: N801 a context manager, named as a function
    """Report exceptions of the user's network, or of a declared time mode that does not fit, in one line.

    SnnEnergyError and KeyboardInterrupt pass unchanged.
    """

    def __init__(self, request: ProfileRequest) -> None:
        self.name = request.model if request.model is not None and is_reference(request.model) else None
        self.time = request.time
        self.network = str(request.model or request.checkpoint)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        ours = (SnnEnergyError, OSError, Warning)
        if self.name is not None and isinstance(error, (Exception, SystemExit)) and not isinstance(error, ours):
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            raise _noted_as(
                error,
                ProfilingError(
                    f"{self.name}: the network raised {type(error).__name__} on this data: {first} "
                    "(--debug shows where; check the shape and dtype of the data, and whether a state is left over "
                    "from earlier calls)"
                ),
            ) from error
        if self.time is not None and isinstance(error, (RuntimeError, ValueError, IndexError)):
            first = str(error).partition("\n")[0]
            raise _noted_as(
                error,
                ProfilingError(
                    f"{self.network}: time='{self.time}' does not fit it ({type(error).__name__}: {first}); "
                    "leave out --time, or see `snn-energy time-modes`"
                ),
            ) from error


def _noted_as(error: BaseException, other: ProfilingError) -> ProfilingError:
    """The other error with the notes of the first one, such as which batch it was."""
    for note in getattr(error, "__notes__", ()):
        other.add_note(note)
    return other


def _user_code(request: ProfileRequest) -> dict[str, Any]:
    """The user's own code and its arguments: with other code, the same weights are another network."""
    identity = {"model": request.model, "arguments": str(sorted((request.arguments or {}).items())), "ema": request.ema}
    path = (request.model or "").rpartition(":")[0]
    if path.endswith(".py") and Path(path).is_file():
        identity["code"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return identity


def _run_fingerprint(network: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes one run from another: the network with its weights, the versions, and ``metadata``."""
    import torch

    weights = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    settings = [
        (name, key, value)  # such as a threshold or a leak stored as a plain number
        for name, module in network.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str))
    ]
    return {
        "network": hashlib.sha256(f"{network}{settings}".encode()).hexdigest(),
        "weights": weights.hexdigest(),
        **getattr(network, "snn_energy_checkpoint", {}),
        "snn_energy": __version__,
        "torch": str(torch.__version__),
        **metadata,
    }
