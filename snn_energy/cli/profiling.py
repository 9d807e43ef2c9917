"""From a network and data to counts: profile, inspect, and the names that they accept: time-modes, models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn_energy.cli.option_groups import LeaveOut, with_option_groups
from snn_energy.cli.options import (
    AnyDataOption,
    DeviceOption,
    NetworkOptions,
    NormalisationOptions,
    SamplesOption,
)
from snn_energy.cli.output import is_first_process, note, progress, say, show, warn

if TYPE_CHECKING:
    from snn_energy.counts.counts import Counts
    from snn_energy.jobs.profile_run import ProfileRequest

CheckpointArgument = Annotated[
    Path | None,
    typer.Argument(help="Weights (.safetensors, .pt, .pth, ...) or a .nir graph; none: those that --model gives."),
]


@with_option_groups
def profile(
    data: AnyDataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the counts go (JSON).")],
    checkpoint: CheckpointArgument = None,
    samples: SamplesOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Counts do not depend on it.")] = 60,
    *,
    network: NetworkOptions,
    normalisation: NormalisationOptions,
    strict: Annotated[bool, typer.Option("--strict", help="An operation without a counting rule is an error.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Count what a trained network does on real data, per operation, time step and sample.

    A run that was stopped or killed goes on from OUTPUT.parts when it is started again. On several devices, or
    several CPU processes: torchrun --nproc-per-node N -m snn_energy profile ...
    """
    from snn_energy.core.files import require_distinct_paths, require_writable
    from snn_energy.counts.inactive import inactive_layers
    from snn_energy.counts.sample_store import samples_path
    from snn_energy.profiler.results.part_files import parts_path, remove_parts
    from snn_energy.report.sentences import activity_sentence, assumptions

    require_writable(output)
    require_distinct_paths([output, samples_path(output)], _files_read(checkpoint, data, network))
    request = _profile_request(checkpoint, data, network, normalisation, samples)
    counts = _profile_with_progress(request, parts_path(output), batch_size=batch_size, strict=strict, device=device)
    if not is_first_process():
        return
    counts.save(output)
    remove_parts(parts_path(output))
    for line in assumptions(counts):
        note(line)
    say(activity_sentence(counts))
    for line in inactive_layers(counts):
        warn(line)
    say(f"counts written to {output}, per-sample counts next to it")


@with_option_groups
def inspect(
    data: AnyDataOption,
    checkpoint: CheckpointArgument = None,
    *,
    network: Annotated[NetworkOptions, LeaveOut("max_k")],
    normalisation: NormalisationOptions,
    strict: Annotated[bool, typer.Option("--strict", help="Something not covered is an error.")] = False,
) -> None:
    """What would be believed of a network, from a few samples: what spikes, where time is, what is not covered."""
    from snn_energy.core.errors import ProfilingError
    from snn_energy.jobs.profile_run import inspect_run
    from snn_energy.report.sentences import assumptions

    found = inspect_run(_profile_request(checkpoint, data, network, normalisation))
    for line in assumptions(found.counts):
        note(line)
    for line in found.lines():
        say(line)
    if len(found.spiking):
        show(found.spiking, "spiking layers")
    show(found.operations, "operations: what they read on these samples")
    if strict and (refused := found.refused_by_strict()):
        raise ProfilingError(f"{refused[0]} (--strict)")


def time_modes() -> None:
    """What --time can say of where time is."""
    from snn_energy.core.vocabulary import TIME_MODES

    for name, text in TIME_MODES.items():
        say(f"{name}: {text}")


def models() -> None:
    """The model families, the listed sizes and the CNNs."""
    from snn_energy.models.names import CNNS, FAMILIES, list_models

    for family, text in FAMILIES.items():
        say(f"{family}-N-D: {text}")
    for name, defaults in CNNS.items():
        say(f"{name}: {defaults.description}, T = {defaults.time_steps}")
    say("any depth N and width D; listed:")
    for name in list_models():
        say(f"  {name}")


def _profile_request(
    checkpoint: Path | None,
    data: str,
    network: NetworkOptions,
    normalisation: NormalisationOptions,
    samples: int | None = None,
) -> ProfileRequest:
    """The network and the data that options name. Raises SnnEnergyError; typer.BadParameter for conflicting options."""
    from snn_energy.jobs.inputs import EventOptions
    from snn_energy.jobs.profile_run import ProfileRequest
    from snn_energy.jobs.references import is_reference, parse_arguments

    model = network.model
    sizes = {
        "image_size": network.image_size,
        "in_channels": network.in_channels,
        "num_classes": network.num_classes,
    }
    given = {key: value for key, value in sizes.items() if value is not None}
    if given and model is None:
        raise typer.BadParameter(f"{', '.join('--' + k.replace('_', '-') for k in given)}: only with --model")
    if checkpoint is None and model is None:
        raise typer.BadParameter("give a checkpoint, or --model file.py:function")
    is_registry_name = model is not None and not is_reference(model)
    if is_registry_name and network.time_steps is not None:
        given["time_steps"] = network.time_steps
    if not is_registry_name and "num_classes" in given:
        raise typer.BadParameter("--num-classes: only with --model and a registry name; say it in --model-args")
    return ProfileRequest(
        checkpoint,
        data,
        samples,
        model=model,
        arguments=parse_arguments(network.model_args or []),
        options=given if is_registry_name else {},
        ema=network.ema,
        time=network.time,
        time_steps=network.time_steps,
        neurons=tuple(network.neuron or ()),
        input_kind=network.input_kind,
        max_k=network.max_k,
        image_size=None if is_registry_name else given.get("image_size"),
        in_channels=None if is_registry_name else given.get("in_channels"),
        divisor=network.divide_by,
        normalisation=normalisation.normalisation(),
        events=EventOptions(step_us=network.step_us, values=network.frames, cut=network.cut),
    )


def _files_read(checkpoint: Path | None, data: str, network: NetworkOptions) -> list[Path]:
    """Every file or folder that a profile reads, if any. Raises DataError."""
    from snn_energy.datasets.names import parse_data
    from snn_energy.jobs.inputs import is_data_reference

    path = Path(data.rpartition(":")[0]) if is_data_reference(data) else parse_data(data)[1]
    referenced_files = [
        (network.model or "").rpartition(":")[0],
        *(a.partition("=")[2] for a in network.model_args or []),
    ]
    return [each for each in (checkpoint, path) if each is not None] + [Path(name) for name in referenced_files if name]


def _profile_with_progress(
    request: ProfileRequest, parts: Path, *, batch_size: int, strict: bool, device: str
) -> Counts:
    """Counts with a progress bar. Raises SnnEnergyError; typer.Exit if a signal stopped it."""
    from snn_energy.jobs.profile_run import profile_run
    from snn_energy.profiler.results.resume import Interrupted

    with progress() as bar:
        name = Path(request.checkpoint).name if request.checkpoint is not None else str(request.model)
        task = bar.add_task(name, total=request.samples)

        def on_start(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done and is_first_process():
                note(f"{done} of {total} samples are counted already, in {parts}")

        try:
            return profile_run(
                request,
                on_batch=lambda done: bar.update(task, completed=done),
                batch_size=batch_size,
                strict=strict,
                header={"command": "snn-energy " + " ".join(sys.argv[1:])},
                device=device,
                parts=parts,
                on_start=on_start,
            )
        except Interrupted as stop:
            if is_first_process():
                note(str(stop))
            raise typer.Exit(stop.code) from None
