"""The command line: parse, call, print. Data on stdout, progress and warnings on stderr; no maths here.

Exit 0 done, 1 the input is at fault (one line), 2 usage, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from snn_energy._version import __version__
from snn_energy.core.errors import SnnEnergyError

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress

    from snn_energy.counts.counts import Counts
    from snn_energy.pricing.energy import Energy

app = typer.Typer(
    help="Energy of spiking neural networks, from a trained checkpoint to a table one can check by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
hardware_app = typer.Typer(help="Hardware profiles: what a device charges, and by whose word.", no_args_is_help=True)
app.add_typer(hardware_app, name="hardware")

HardwareOption = Annotated[
    str, typer.Option("--hardware", help="A bundled profile's name, or the path of a YAML file.")
]
DATA_HELP = "digits, or NAME:PATH with cifar10, cifar100, folder (ImageNet's layout), packed-jpeg or npz."
DataOption = Annotated[str, typer.Option("--data", metavar="NAME[:PATH]", help=DATA_HELP)]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write the table as CSV, every digit.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the table as JSON, with the policies used.")]
MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="Write the table as Markdown.")]
LatexOption = Annotated[Path | None, typer.Option("--latex", help="Write the table as LaTeX (booktabs).")]
MemoryChoice = Literal["ws_once", "ws_reload", "psum_spill", "state_only", "output_stationary", "no_local_reuse"]
IntegerChoice = Literal["ac", "multi-ac", "mac", "mac-dense"]
ProductsChoice = Literal["coincidence", "gated"]
EncoderChoice = Literal["per-step", "once"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
COUNTS_HELP = "A counts file, or published counts: published:FILE:NETWORK, FILE.yaml:NETWORK."
CountsArgument = Annotated[Path, typer.Argument(metavar="COUNTS.json", help=COUNTS_HELP)]
MODEL_HELP = "Architecture of weights that do not say it: a registry name, file.py:function or package.module:function."
ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]
ModelArgsOption = Annotated[
    list[str] | None,
    typer.Option("--model-args", metavar="NAME=VALUE", help="For the function of --model; or a JSON object; repeat."),
]
EmaOption = Annotated[bool, typer.Option("--ema", help="The moving average of the weights, of a file with both.")]
TimeOption = Annotated[
    str | None, typer.Option("--time", help="Where time is, if the model does not tell; see: snn-energy time-modes.")
]
NeuronOption = Annotated[
    list[str] | None, typer.Option("--neuron", help="A class (my.module.LIF) or layer that spikes; repeat.")
]
InputKindChoice = Literal["binary", "ternary", "integer", "real"]
InputKindOption = Annotated[
    InputKindChoice | None, typer.Option("--input-kind", help="Declare what the data's values are.")
]
ImageSizeOption = Annotated[int | None, typer.Option("--image-size", help="With --model.")]
InChannelsOption = Annotated[int | None, typer.Option("--in-channels", help="With --model.")]
NumClassesOption = Annotated[int | None, typer.Option("--num-classes", help="With --model and a registry name.")]
DivideOption = Annotated[
    float | None, typer.Option("--divide-by", help="Divide every value of the images, as by 255 where bytes are kept.")
]
StepUsOption = Annotated[
    int | None, typer.Option("--step-us", help="Of recordings: microseconds per step, from the first event on.")
]
FramesChoice = Literal["count", "binary"]
FramesOption = Annotated[
    FramesChoice, typer.Option("--frames", help="Of recordings: events per pixel and step, or 1 where there was any.")
]
CutOption = Annotated[bool, typer.Option("--cut", help="Of recordings: leave out what comes after the last step.")]
ScheduleChoice = Literal["layer-serial", "step-serial", "layer-pipelined"]
ZerosChoice = Literal["none", "gate", "skip"]
Level = Literal["group", "layer", "time_step", "row"]
MemoryOption = Annotated[
    MemoryChoice | None,
    typer.Option("--memory", help="What is moved how often; the profile's own variant unless given."),
]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", metavar="LAYER", help="Leave out a layer that runs elsewhere; repeat.")
]
IntegerOption = Annotated[IntegerChoice, typer.Option("--integer", help="How sums of spikes are charged.")]
ProductsOption = Annotated[ProductsChoice, typer.Option("--products", help="How products are charged.")]
EncoderOption = Annotated[EncoderChoice, typer.Option("--encoder", help="How often a repeated real input counts.")]


def main() -> None:
    """Entry point: one line and exit code 1 for a fault of the input, unless --debug asks for the traceback."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    warnings.showwarning = _one_line_warning
    if not _is_first_process():
        logging.getLogger("snn_energy").setLevel(logging.ERROR)  # the first process warns for all
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without µ still gets its table
    try:
        app(args=arguments, prog_name="snn-energy")
        sys.stdout.flush()
    except SnnEnergyError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:
            print("interrupted", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on: nothing is left to flush
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _one_line_warning(message: Warning | str, category: type[Warning], *rest: Any, **kwargs: Any) -> None:
    if _is_first_process():
        print(f"warning: {message}", file=sys.stderr)


def _is_first_process() -> bool:
    """True but for the further processes of torchrun, which have nothing to say."""
    return os.environ.get("RANK", "0") == "0"


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Profile once, price on any hardware, compare."""


def show(frame: pd.DataFrame, title: str | None = None) -> None:
    """A table on stdout: rich on a terminal, plain and stable when piped."""
    from snn_energy.report.tables import plain

    if not sys.stdout.isatty():
        if title:
            print(title)
        print(plain(frame))
        return
    from rich.console import Console

    from snn_energy.report.tables import rich_table

    width = Console().width
    table, needed = rich_table(frame, title, width)
    Console(width=max(width, needed)).print(table, crop=False)


def say(text: str) -> None:
    """A line on stdout."""
    print(text)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr; silent where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    silent = not (console.is_terminal and _is_first_process())
    with Progress(*columns, console=console, transient=True, disable=silent) as bar:
        yield bar


CheckpointArgument = Annotated[
    Path | None,
    typer.Argument(help="Weights (.safetensors, .pt, .pth, ...) or a .nir graph; none: those that --model gives."),
]
ANY_DATA_HELP = f"{DATA_HELP[:-1]}; nmnist:PATH; or your loader, file.py:function."
AnyDataOption = Annotated[str, typer.Option("--data", metavar="NAME[:PATH]", help=ANY_DATA_HELP)]
SamplesOption = Annotated[int | None, typer.Option("--samples", help="How many test samples; all unless given.")]
TimeStepsOption = Annotated[
    int | None, typer.Option("--time-steps", help="T_max, of a network that does not say it; else it is checked.")
]
MaxKOption = Annotated[int | None, typer.Option("--max-k", min=1, help="The largest whole multiple that is integer.")]


def _asked(
    checkpoint: Path | None,
    data: str,
    model: str | None,
    model_args: list[str] | None,
    sizes: dict[str, int | None],
    time_steps: int | None,
    events: dict[str, Any],
    **rest: Any,
) -> Any:
    """The network and the data that options name. Raises SnnEnergyError; typer.BadParameter for options at odds."""
    from snn_energy.jobs.inputs import EventOptions
    from snn_energy.jobs.profile_run import Asked
    from snn_energy.jobs.references import is_reference, parse_arguments

    given = {key: value for key, value in sizes.items() if value is not None}
    if given and model is None:
        raise typer.BadParameter(f"{', '.join('--' + k.replace('_', '-') for k in given)}: only with --model")
    if checkpoint is None and model is None:
        raise typer.BadParameter("give a checkpoint, or --model file.py:function")
    by_name = model is not None and not is_reference(model)
    if by_name and time_steps is not None:
        given["time_steps"] = time_steps
    if not by_name and "num_classes" in given:
        raise typer.BadParameter("--num-classes: only with --model and a registry name; say it in --model-args")
    return Asked(
        checkpoint,
        data,
        model=model,
        arguments=parse_arguments(model_args or []),
        options=given if by_name else {},
        image_size=None if by_name else given.get("image_size"),
        in_channels=None if by_name else given.get("in_channels"),
        time_steps=time_steps,
        events=EventOptions(**events),
        **rest,
    )


def _data_path(data: str) -> list[Path]:
    """The file or folder that --data names, if any. Raises DataError."""
    from snn_energy.datasets.names import parse_data
    from snn_energy.jobs.inputs import is_data_reference

    if is_data_reference(data):
        return [Path(data.rpartition(":")[0])]
    path = parse_data(data)[1]
    return [] if path is None else [path]


@app.command()
def profile(
    data: AnyDataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the counts go (JSON).")],
    checkpoint: CheckpointArgument = None,
    samples: SamplesOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Counts do not depend on it.")] = 60,
    model: ModelOption = None,
    model_args: ModelArgsOption = None,
    ema: EmaOption = False,
    image_size: ImageSizeOption = None,
    in_channels: InChannelsOption = None,
    num_classes: NumClassesOption = None,
    time_steps: TimeStepsOption = None,
    time: TimeOption = None,
    neuron: NeuronOption = None,
    input_kind: InputKindOption = None,
    max_k: MaxKOption = None,
    divide_by: DivideOption = None,
    step_us: StepUsOption = None,
    frames: FramesOption = "count",
    cut: CutOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="An operation without a counting rule is an error.")] = False,
    device: Annotated[DeviceChoice, typer.Option("--device", help="auto: a CUDA device where there is one.")] = "auto",
) -> None:
    """Count what a trained network does on real data, per operation, time step and sample.

    A run that was stopped or killed goes on from OUTPUT.parts when it is started again. On several devices, or
    several CPU processes: torchrun --nproc-per-node N -m snn_energy profile ...
    """
    from snn_energy.core.files import require_apart, require_writable
    from snn_energy.counts.sample_store import samples_path
    from snn_energy.jobs.profile_run import profile_run
    from snn_energy.profiler.results.part_files import parts_path, remove_parts
    from snn_energy.profiler.results.resume import Interrupted

    require_writable(output)
    named = [(model or "").rpartition(":")[0], *(item.partition("=")[2] for item in model_args or [])]
    read = [*([] if checkpoint is None else [checkpoint]), *_data_path(data), *(Path(n) for n in named if n)]
    require_apart([output, samples_path(output)], read)
    asked = _asked(
        checkpoint, data, model, model_args,
        {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}, time_steps,
        {"step_us": step_us, "values": frames, "cut": cut},
        samples=samples, ema=ema, time=time, neurons=tuple(neuron or ()), input_kind=input_kind, max_k=max_k,
        divisor=divide_by,
    )  # fmt: skip
    with progress() as bar:
        task = bar.add_task(checkpoint.name if checkpoint is not None else str(model), total=samples)

        def on_start(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done and _is_first_process():
                print(f"{done} of {total} samples are counted already, in {parts_path(output)}", file=sys.stderr)

        try:
            counts = profile_run(
                asked,
                on_batch=lambda done: bar.update(task, completed=done),
                batch_size=batch_size,
                strict=strict,
                header={"command": "snn-energy " + " ".join(sys.argv[1:])},
                device=device,
                parts=parts_path(output),
                on_start=on_start,
            )
        except Interrupted as stop:
            if _is_first_process():
                print(stop, file=sys.stderr)
            raise typer.Exit(stop.code) from None
    if not _is_first_process():
        return
    counts.save(output)
    remove_parts(parts_path(output))
    _say_beliefs(counts)
    _say_activity(counts)
    say(f"counts written to {output}, per sample beside it")


def _say_beliefs(counts: Counts) -> None:
    """What was found rather than told, and what was done to the weights, on stderr."""
    header = counts.header
    if "time_found" in header:
        print(f"time: {header['time']}, {header['time_found']} (snn-energy inspect tells more)", file=sys.stderr)
    for note in header.get("checkpoint_notes", ()):
        print(f"{header.get('checkpoint')}: {note}", file=sys.stderr)


@app.command()
def inspect(
    data: AnyDataOption,
    checkpoint: CheckpointArgument = None,
    model: ModelOption = None,
    model_args: ModelArgsOption = None,
    ema: EmaOption = False,
    image_size: ImageSizeOption = None,
    in_channels: InChannelsOption = None,
    num_classes: NumClassesOption = None,
    time_steps: TimeStepsOption = None,
    time: TimeOption = None,
    neuron: NeuronOption = None,
    input_kind: InputKindOption = None,
    divide_by: DivideOption = None,
    step_us: StepUsOption = None,
    frames: FramesOption = "count",
    cut: CutOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Something not covered is an error.")] = False,
) -> None:
    """What would be believed of a network, from a few samples: what spikes, where time is, what is not covered."""
    from snn_energy.core.errors import ProfilingError
    from snn_energy.jobs.profile_run import inspect_run

    asked = _asked(
        checkpoint, data, model, model_args,
        {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}, time_steps,
        {"step_us": step_us, "values": frames, "cut": cut},
        ema=ema, time=time, neurons=tuple(neuron or ()), input_kind=input_kind, divisor=divide_by,
    )  # fmt: skip
    found = inspect_run(asked)
    _say_beliefs(found.counts)
    for line in found.lines():
        say(line)
    if len(found.spiking):
        show(found.spiking, "spiking layers")
    show(found.operations, "operations: what they read on these samples")
    if strict and found.not_covered:
        raise ProfilingError(f"{found.not_covered[0][0]}: {found.not_covered[0][1]} (--strict)")


def _say_activity(counts: Counts) -> None:
    from snn_energy.report.tables import number

    activity = counts.activity()
    accuracy = counts.header.get("accuracy")
    parts = [f"{counts.model}: {counts.samples} samples, T_max {counts.time_steps}"]
    if accuracy is not None:
        parts.append(f"accuracy {100 * accuracy:.2f} %")
    if activity["t_avg"] is not None:
        parts.append(f"T_avg {activity['t_avg']:.3f}, SA {100 * activity['sa']:.2f} %")
    parts.append(f"SOPs {number(activity['sops_per_sample'])}, real MACs {number(activity['real_macs_per_sample'])}")
    say(", ".join(parts))
    for key, text in (("dead_layers", "dead (T_l = 0)"), ("silent_layers", "silent (active but never fired)")):
        if activity[key]:
            print(f"warning: {text}: {', '.join(activity[key])}", file=sys.stderr)


def _read(counts_files: list[Path], hardware: str | None = None, *more: str | None) -> list[Path]:
    """Every file that a command reads: counts, their side files, files of published counts, profiles."""
    from snn_energy.counts.sample_store import samples_path

    found = []
    for path in counts_files:
        found += [path, samples_path(path), *[Path(str(path).rpartition(":")[0])] * (":" in str(path))]
    return found + [Path(name) for name in (hardware, *more) if name is not None and Path(name).is_file()]


def _policies(memory: str | None, integer: str, products: str, encoder: str) -> dict[str, Any]:
    return {"memory": memory, "integer": integer, "products": products, "encoder": encoder}


@app.command()
def estimate(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    by: Annotated[Level, typer.Option("--by", help="What a row of the table is.")] = "group",
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A second profile: its total, and what differs between the two.")
    ] = None,
    csv: CsvOption = None,
    json: JsonOption = None,
    markdown: MarkdownOption = None,
    latex: LatexOption = None,
) -> None:
    """Price a counts file on a device: energy per sample, by group, layer, time step or row."""
    from snn_energy.core.files import require_apart
    from snn_energy.counts.load import load_counts
    from snn_energy.pricing.energy import estimate as price
    from snn_energy.report.tables import for_reading, write_table

    require_apart((csv, json, markdown, latex), _read([counts_file], hardware, against))
    policies = _policies(memory, integer, products, encoder)
    energy = price(load_counts(counts_file), hardware, without=without or (), **policies)
    other = None if against is None else price(energy.counts, against, without=without or (), **policies)
    frame = energy.to_frame(None if by == "row" else by)
    write_table(frame, csv_path=csv, json_path=json, markdown_path=markdown, latex_path=latex, head=energy.summary())
    show(for_reading(frame), f"{energy.counts.model} on {energy.hardware.name}, energy per sample")
    _say_total(energy)
    if other is not None:
        _say_against(energy, other)


def _say_against(energy: Energy, other: Energy) -> None:
    from snn_energy.hardware.tables import differences
    from snn_energy.report.tables import number

    say(
        f"on {other.hardware.name}: total {number(other.total_pj * 1e-6)} µJ per sample, "
        f"{number(other.total_pj / energy.total_pj)} times that on {energy.hardware.name}"
    )
    title = f"what differs between {energy.hardware.name} (a) and {other.hardware.name} (b)"
    show(differences(energy.hardware, other.hardware), title)


def _say_total(energy: Energy) -> None:
    from snn_energy.report.tables import number

    used = ", ".join(f"{name} {choice}" for name, choice in asdict(energy.policies).items())
    static = f" + static {number(energy.static_pj * 1e-6)} µJ" if energy.static_pj else ""
    say(f"total {number(energy.total_pj * 1e-6)} µJ per sample = compute {number(energy.compute_pj * 1e-6)} µJ "
        f"+ memory {number(energy.memory_pj * 1e-6)} µJ{static} ({used})")  # fmt: skip
    if energy.without:
        say(f"without {', '.join(energy.without)}")
    if energy.latency is not None:
        _say_latency(energy)
    if energy.counts.per_sample is not None and energy.counts.samples > 1:
        spread = energy.spread()
        say(
            f"over {energy.counts.samples} samples: {number(spread['min_pj'] * 1e-6)} to "
            f"{number(spread['max_pj'] * 1e-6)} µJ, standard deviation {number(spread['std_pj'] * 1e-6)} µJ"
        )
    needed = energy.of_needed_steps().total_pj
    if needed < energy.total_pj:
        saved = energy.total_pj - needed
        say(
            f"of which {number(saved * 1e-6)} µJ ({100 * saved / energy.total_pj:.1f} %) are for active steps whose "
            "result nobody reads: a device that skips those too would save it"
        )
    others = energy.alternatives()
    show(others[~others["used"]].drop(columns="used"), "the same counts under other policies, one changed at a time")
    _say_what_matters(energy)
    unpriced = energy.unpriced()
    if len(unpriced):
        show(unpriced.rename(columns={"amount": "per sample"}), f"not priced by {energy.hardware.name}")


def _say_latency(energy: Energy) -> None:
    from snn_energy.report.tables import number

    found = energy.latency
    assert found is not None
    edp = "" if energy.edp_js is None else f", energy-delay product {number(energy.edp_js * 1e12)} µJ·µs"
    say(
        f"latency {number(found.seconds * 1e3)} ms = {number(found.cycles)} cycles at {found.clock_hz / 1e6:g} MHz "
        f"({found.schedule}, zeros {found.zeros}), {number(found.samples_per_s)} samples per second{edp}"
    )


def _say_what_matters(energy: Energy) -> None:
    from snn_energy.analysis.uncertainty import energy_range, what_matters
    from snn_energy.report.tables import number

    if energy.total_pj != energy.total_pj:  # not known, so nothing can be said of what moves it
        return
    most = what_matters(energy, 5)
    if len(most):
        title = "the five prices, powers and widths that move the total most (elasticity: % of the total per % of each)"
        show(most.drop(columns="moves_pj"), title)
    found = energy_range(energy)
    if len(found) and found["width_pj"].iloc[0] > 0:
        low, high = float(found["low_pj"].iloc[0]) * 1e-6, float(found["high_pj"].iloc[0]) * 1e-6
        moving = ", ".join(found.loc[(found["width_pj"] > 0) & (found["number"] != "all"), "number"])
        say(f"with the ranges that the profile gives ({moving}): {number(low)} to {number(high)} µJ")


@app.command()
def audit(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
    csv: CsvOption = None,
    json: JsonOption = None,
    markdown: MarkdownOption = None,
    latex: LatexOption = None,
) -> None:
    """Where a network that calls itself spiking is not, layer by layer, and what each costs under every policy."""
    from snn_energy.analysis.spiking_audit import audit as run
    from snn_energy.core.files import require_apart
    from snn_energy.counts.load import load_counts
    from snn_energy.report.tables import for_reading, write_table

    require_apart((csv, json, markdown, latex), _read([counts_file], hardware))
    found = run(load_counts(counts_file), hardware, products=products, encoder=encoder, without=without or ())
    write_table(found.to_frame(), csv_path=csv, json_path=json, head=found.summary())
    write_table(found.for_reading(), markdown_path=markdown, latex_path=latex)
    used = f"compute per sample (products {products}, encoder {encoder})"
    if len(found.findings):
        show(for_reading(found.for_reading()), f"{found.counts.model} on {found.hardware.name}, {used}")
        show(for_reading(found.categories_for_reading()), "the same by category")
    for line in filter(None, (found.verdict(), found.verdict_elementwise())):
        say(line)


@app.command()
def latency(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    schedule: Annotated[ScheduleChoice | None, typer.Option("--schedule", help="Instead of the profile's.")] = None,
    zeros: Annotated[ZerosChoice | None, typer.Option("--zeros", help="Instead of the profile's.")] = None,
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
    csv: CsvOption = None,
    json: JsonOption = None,
    markdown: MarkdownOption = None,
    latex: LatexOption = None,
) -> None:
    """Cycles and seconds of a counts file on a device, layer by layer, and what bounds each."""
    from snn_energy.analysis.skipping import skipping
    from snn_energy.core.files import require_apart
    from snn_energy.counts.load import load_counts
    from snn_energy.hardware.files import load_hardware
    from snn_energy.pricing.cycles import no_latency, with_latency
    from snn_energy.pricing.energy import estimate as price
    from snn_energy.report.tables import for_reading, write_table

    require_apart((csv, json, markdown, latex), _read([counts_file], hardware))
    counts, left = load_counts(counts_file), without or []
    device = with_latency(load_hardware(hardware), schedule, zeros)
    energy = price(counts, device, without=left, **_policies(memory, integer, products, encoder))
    found = energy.latency
    if found is None:
        raise no_latency(device)
    frame = found.to_frame()
    head = {"model": counts.model, "hardware": device.name, "schedule": found.schedule, "zeros": found.zeros,
            "cycles": found.cycles, "seconds": found.seconds, "without": left, **asdict(energy.policies)}  # fmt: skip
    write_table(frame, csv_path=csv, json_path=json, markdown_path=markdown, latex_path=latex, head=head)
    show(for_reading(frame), f"{counts.model} on {device.name}, cycles per sample")
    _say_latency(energy)
    if found.schedule == "step-serial" and energy.policies.memory not in ("ws_reload", "state_only"):
        text = "step by step, weights stay between steps or are loaded again: --memory ws_reload instead of "
        print(f"warning: {text}{energy.policies.memory} charges that", file=sys.stderr)
    show(skipping(energy), "what skipping masked steps is worth")


@app.command()
def sweep(
    counts_files: Annotated[list[Path], typer.Argument(metavar="A.json B.json …", help="Counts files.")],
    hardware: HardwareOption,
    fields: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUES", help="compute.ac=0.5,0.9 or array.rows=8..64:8 or ...:50:log."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The points: .csv or .parquet.")],
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture (.svg or .png).")] = None,
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
) -> None:
    """Price networks at every combination of numbers of a profile: millions of what-ifs in seconds."""
    from snn_energy.analysis.design_sweep import parse_field, write_points
    from snn_energy.analysis.design_sweep import sweep as run
    from snn_energy.core.files import require_apart, require_writable
    from snn_energy.hardware.files import load_hardware
    from snn_energy.report.plots.design_sweep import sweep_figure
    from snn_energy.report.plots.style import figure_format, save_figure
    from snn_energy.report.tables import number

    require_apart((output, plot), _read(counts_files, hardware))
    kind = None if plot is None else figure_format(plot)
    for path in (output, *([] if plot is None else [plot])):
        require_writable(path)
    device = load_hardware(hardware)
    asked = [parse_field(text, device) for text in fields]
    table = run(
        _load_all(counts_files), device, asked, without=without or (), **_policies(memory, integer, products, encoder)
    )
    write_points(table, output)
    lost = int(table["total_pj"].isna().sum())
    if lost:
        print(f"warning: at {lost:,} of {len(table):,} points a tensor fits nowhere or is not known", file=sys.stderr)
    if plot is not None and kind is not None:
        save_figure(sweep_figure(table, [f.column for f in asked]), plot.with_suffix(""), (kind,))
    columns = [c for c in table.columns if c.endswith("_pj") or c in ("latency_s", "edp_js")]
    for model, part in table.groupby("model", observed=True, sort=False):
        total = part["total_pj"]
        if total.notna().any():
            best = part.iloc[int(total.argmin())]
            at = ", ".join(f"{f.key} {number(float(best[f.column]))} {f.unit}" for f in asked)
            say(f"{model}: {number(total.min() * 1e-6)} to {number(total.max() * 1e-6)} µJ, least at {at}")
    say(f"{len(table):,} points of {len(columns)} results written to {output}")


@app.command("break-even")
def break_even(
    snn: Annotated[Path, typer.Argument(metavar="SNN.json", help="Counts of the spiking network.")],
    ann: Annotated[Path, typer.Argument(metavar="ANN.json", help="Counts of the other one.")],
    hardware: HardwareOption,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for table, curves and picture.")] = None,
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
) -> None:
    """At which spike rate, time steps, MAC over AC and memory price the spiking network stops winning."""
    from snn_energy.analysis.break_even import break_even as find
    from snn_energy.analysis.break_even import spikes_per_synapse_sentence
    from snn_energy.core.files import make_folder
    from snn_energy.report.plots.break_even import break_even_figure
    from snn_energy.report.plots.style import save_figure
    from snn_energy.report.tables import write_table

    first, second = _load_all([snn, ann])
    found = find(first, second, hardware, without=without or (), **_policies(memory, integer, products, encoder))
    show(found.table.drop(columns="sentence"), f"{found.snn} against {found.ann} on {found.hardware.name}")
    for sentence in found.sentences():
        say(sentence)
    say(spikes_per_synapse_sentence(first))
    if output is not None:
        folder = make_folder(output)
        write_table(found.table, csv_path=folder / "break-even.csv", markdown_path=folder / "break-even.md")
        write_table(found.curves, csv_path=folder / "break-even-curves.csv")
        save_figure(break_even_figure(found), folder / "break-even")
        say(f"written to {folder}")


@app.command()
def compare(
    counts_files: Annotated[list[Path], typer.Argument(metavar="A.json B.json …", help="Counts files.")],
    hardware: HardwareOption,
    baseline: Annotated[str, typer.Option("--baseline", help="The one that the others are divided by: file or model.")],
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
    csv: CsvOption = None,
    json: JsonOption = None,
    markdown: MarkdownOption = None,
    latex: LatexOption = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Write every table (by layer, by memory variant) and picture there.")
    ] = None,
) -> None:
    """Normalised compute, memory and total energy of several networks on one device."""
    from snn_energy.analysis.comparison import compare as price_all
    from snn_energy.core.files import require_apart
    from snn_energy.report.tables import write_table
    from snn_energy.studies.demo import write_folder

    policies = _policies(memory, integer, products, encoder)
    require_apart((csv, json, markdown, latex), _read(counts_files, hardware))
    comparison = price_all(_load_all(counts_files), hardware, baseline=baseline, without=without or (), **policies)
    policies = asdict(comparison.policies)
    for line in comparison.differences():
        print(f"warning: {line}", file=sys.stderr)
    frame = comparison.to_frame()
    head = {"hardware": comparison.hardware.name, "baseline": comparison.baseline, **policies}
    write_table(frame, csv_path=csv, json_path=json, markdown_path=markdown, latex_path=latex, head=head)
    if folder is not None:
        write_folder(comparison, folder)
    show_comparison(comparison)


def show_comparison(comparison: Any) -> None:
    """The normalised table and what the memory variants make of it."""
    from snn_energy.analysis.uncertainty import ratio_range

    used = ", ".join(f"{name} {choice}" for name, choice in asdict(comparison.policies).items())
    title = f"energy per sample on {comparison.hardware.name}; CE, ME, TE over those of {comparison.baseline} ({used})"
    show(comparison.to_frame().drop(columns="is_baseline"), title)
    print()
    variants = comparison.memory_range()
    if len(variants):
        show(variants, "the same under every memory variant")
    ranges = ratio_range(comparison)
    if len(ranges) and (ranges["te_high"] > ranges["te_low"]).any():
        print()
        show(ranges, "CE, ME, TE over the ranges that the profile gives")


def _load_all(paths: list[Path]) -> list[Counts]:
    from snn_energy.counts.load import load_counts

    return [load_counts(path) for path in paths]


@app.command()
def plot(
    counts_files: Annotated[list[Path], typer.Argument(metavar="A.json B.json …", help="Counts files.")],
    hardware: HardwareOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures (SVG and PNG).")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="For the normalised bars; the last file unless given.")
    ] = None,
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
) -> None:
    """Three pictures: energy by group and kind, layers x time steps, normalised bars."""
    from snn_energy.analysis.comparison import compare as price_all
    from snn_energy.report.plots.folder import save_all

    counts = _load_all(counts_files)
    policies = _policies(memory, integer, products, encoder)
    comparison = price_all(counts, hardware, baseline=baseline or counts_files[-1].stem, **policies)
    for path in save_all(comparison, output):
        say(str(path))


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe that ships (see --list), or the path of a YAML file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The checkpoint to write (.safetensors).")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME[:PATH]", help=f"Instead of the recipe's. {DATA_HELP}")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option("--start-from", help="A checkpoint to take weights of the same name and shape from.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    device: Annotated[DeviceChoice, typer.Option("--device", help="auto: a CUDA device where there is one.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUTPUT.partial.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes that ship.")] = False,
    printed: Annotated[
        bool, typer.Option("--print", help="Print the recipe as YAML, every default written out; train nothing.")
    ] = False,
) -> None:
    """Train a network by a recipe: cross entropy plus the mask loss on chosen groups.

    On several devices: torchrun --nproc-per-node N -m snn_energy train ...
    """
    from snn_energy.core.files import require_apart
    from snn_energy.training.recipe import load_recipe

    if listed:
        list_the_recipes()
        return
    if recipe is None:
        raise typer.BadParameter("missing: RECIPE (snn-energy train --list shows those that ship)")
    if printed:
        given = {"seed": seed, "data": data, "start_from": None if start_from is None else str(start_from)}
        changes = {key: value for key, value in given.items() if value is not None}
        say(load_recipe(recipe).with_changes(**changes).to_yaml().rstrip())
        return
    if output is None:
        raise typer.BadParameter("missing: -o, the checkpoint to write")
    from snn_energy.studies.train_demo import summary
    from snn_energy.training.run_files import best_path, recipe_path
    from snn_energy.training.train import train as run

    as_it_is = (seed, data, start_from) == (None, None, None)
    is_own = as_it_is and Path(recipe).resolve() == recipe_path(output).resolve()
    require_apart([output, best_path(output), *([] if is_own else [recipe_path(output)])], [recipe])
    result = run(
        load_recipe(recipe),
        output,
        seed=seed,
        data=data,
        start_from=start_from,
        device=device,
        resume=resume,
        write_log=True,
        progress=True,
    )
    if os.environ.get("RANK", "0") == "0":
        say(summary([result]))
        say(f"checkpoint written to {output}; the best, of epoch {result.best_epoch}, to {result.best_path}")


def list_the_recipes() -> None:
    """Recipes that ship, with what each is for beneath its figures."""
    from snn_energy.training.recipe import recipe_summaries

    rows = recipe_summaries()
    columns = ("recipe", "network", "T", "epochs", "mask loss")
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in columns}
    say("  ".join(key.ljust(widths[key]) for key in columns).rstrip())
    for row in rows:
        say("  ".join(row[key].ljust(widths[key]) for key in columns).rstrip())
        say(f"    {row['for']}")


@app.command()
def half(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors checkpoint of ours.")],
    data: DataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint to write (.safetensors).")],
) -> None:
    """Store the weights in 16 bits; the accuracy is measured before and after, and the checkpoint says both."""
    from snn_energy.core.files import require_writable
    from snn_energy.training.evaluation import to_float16

    require_writable(output)
    before, after = to_float16(checkpoint, data, output)
    say(f"accuracy on the test split: {before:.2%} with 32-bit weights, {after:.2%} with 16-bit weights")
    say(f"checkpoint written to {output}, {output.stat().st_size:,} bytes")


@app.command()
def trio(
    name: Annotated[
        str | None, typer.Argument(metavar="TRIO", help="A bundled trio (see --list), or a YAML file.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="N", help="For all networks together: wall time on a GPU, processor time on a CPU."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for checkpoints, logs, trio.json.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME[:PATH]", help=f"Instead of the recipe's. {DATA_HELP}")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    device: Annotated[DeviceChoice, typer.Option("--device", help="auto: a CUDA device where there is one.")] = "auto",
    listed: Annotated[bool, typer.Option("--list", help="List the bundled trios.")] = False,
) -> None:
    """Train a Spikformer, a DTS Spikformer and their non-spiking twin for one comparison, within a time budget.

    The network of one time step first; the spiking ones start from its weights. The budget is shared out by measured
    speed. Kill it at any moment: the same command goes on where it was.
    """
    from snn_energy.training.recipe import bundled

    if listed:
        for each in bundled("trio"):
            say(each)
        return
    missing = [key for key, value in (("TRIO", name), ("--seconds", seconds), ("-o", output)) if value is None]
    if name is None or seconds is None or output is None:
        raise typer.BadParameter(f"missing: {', '.join(missing)} (see snn-energy trio --help)")
    import pandas as pd

    from snn_energy.studies.trio import train_trio

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    result = train_trio(
        name, output, data=data, seconds=seconds, seed=seed, device=device, progress=True, say=tell
    )  # fmt: skip
    rows = [
        {
            "stage": stage,
            "model": entry["model"],
            "T_avg": entry["t_avg"],
            "epochs": entry["epochs"],
            "seconds": entry["spent_s"],
            "accuracy (%)": 100 * entry["accuracy"],
            "in 16 bits (%)": 100 * entry["accuracy_16_bit"] if "accuracy_16_bit" in entry else None,
            "checkpoint": entry.get("checkpoint"),
        }
        for stage, entry in result.stages.items()
    ]
    show(pd.DataFrame(rows), f"{name}: {result.spent_s:.0f} of {seconds:g} s")
    say(f"written to {output}")


@app.command()
def ablate(
    grid: Annotated[str, typer.Argument(help="A bundled grid (digits), or the path of a YAML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for table and picture; runs go to its runs/.")],
    hardware: HardwareOption = "dts-paper-fpga",
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME[:PATH]", help=f"Instead of the recipes'. {DATA_HELP}")
    ] = None,
    device: Annotated[DeviceChoice, typer.Option("--device", help="auto: a CUDA device where there is one.")] = "auto",
    processes: Annotated[int, typer.Option("--processes", min=1, help="Runs beside each other.")] = 1,
) -> None:
    """Train, profile and price every variant of a grid: accuracy, T_avg, SA, SOPs, energy. Goes on where it stopped."""
    from snn_energy.core.files import make_folder
    from snn_energy.report.plots.style import save_figure
    from snn_energy.report.plots.training import accuracy_against_energy
    from snn_energy.report.tables import write_table
    from snn_energy.studies.ablation import mean_over_seeds, run_grid

    folder = make_folder(output)
    with progress() as bar:
        task = bar.add_task("runs", total=None)
        found, runs = run_grid(
            grid,
            folder / "runs",
            data=data,
            device=device,
            processes=processes,
            hardware=hardware,
            on_run=lambda variant, done, total: bar.update(task, description=variant, completed=done, total=total),
        )
    table = mean_over_seeds(found, runs)
    written = write_table(table, csv_path=folder / "ablation.csv", markdown_path=folder / "ablation.md")
    written += write_table(runs, csv_path=folder / "ablation-runs.csv")
    written += save_figure(accuracy_against_energy(table, hardware), folder / "accuracy-energy")
    show(table, f"{found.name}: means over {len(found.seeds)} seeds, energy per image on {hardware}")
    say(f"\n{len(written)} files written to {folder}, checkpoints in {folder / 'runs'}")


@app.command("early-exit")
def early_exit(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors checkpoint of a spiking network.")],
    data: DataOption,
    hardware: HardwareOption,
    threshold: Annotated[
        list[float] | None, typer.Option("--threshold", help="Confidence in (0, 1] above which a sample stops; repeat.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="How many test samples; all unless given.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="The result does not depend on it.")] = 60,
    memory: MemoryOption = None,
    integer: IntegerOption = "ac",
    products: ProductsOption = "coincidence",
    encoder: EncoderOption = "per-step",
    without: WithoutOption = None,
    csv: CsvOption = None,
) -> None:
    """Stop every sample as soon as its confidence allows (SEENN-I): accuracy, mean time steps and energy."""
    from snn_energy.core.files import require_apart
    from snn_energy.datasets.names import parse_data
    from snn_energy.report.tables import write_table
    from snn_energy.studies.early_exit_run import exits_of_checkpoint

    path = parse_data(data)[1]
    require_apart((csv,), [checkpoint, *([] if path is None else [path]), *_read([], hardware)])
    policies = _policies(memory, integer, products, encoder)
    with progress() as bar:
        task = bar.add_task(checkpoint.name, total=samples)
        table = exits_of_checkpoint(
            checkpoint,
            data,
            samples,
            thresholds=threshold or [0.9],
            hardware=hardware,
            batch_size=batch_size,
            on_batch=lambda done: bar.update(task, completed=done),
            without=without or (),
            **policies,
        )
    write_table(table, csv_path=csv)
    show(table, f"{checkpoint.name}, early exit, energy per sample on {hardware}; ratio: to all time steps")


@app.command()
def sensitivity(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors checkpoint of a spiking network.")],
    data: DataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for figure, tables and recommendation.")],
    samples: Annotated[int | None, typer.Option("--samples", help="How many test samples; all unless given.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="The result does not depend on it.")] = 60,
    cut: Annotated[
        bool, typer.Option("--cut/--no-cut", help="Measure the accuracy that cutting a group's later steps costs.")
    ] = True,
    points: Annotated[
        float, typer.Option("--points", min=0, max=100, help="Points of accuracy that half a group's steps may cost.")
    ] = 1.0,
) -> None:
    """What the later time steps of each group of layers are worth, and which groups should enter the mask loss."""
    from snn_energy.studies.sensitivity.measure import sensitivity_of_checkpoint

    with progress() as bar:
        task = bar.add_task(checkpoint.name, total=samples)
        found = sensitivity_of_checkpoint(
            checkpoint,
            data,
            samples,
            batch_size=batch_size,
            cut=cut,
            on_batch=lambda done: bar.update(task, completed=done),
        )
    written = found.save(output, points=points)
    show(found.groups(), "cosine similarity of the inputs of LIF layers to the first time step, by group")
    say("\n" + found.recommendation(points=points))
    say(f"\n{len(written)} files written to {output}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for tables, counts and pictures.")] = Path(
        "reports/demo"
    ),
) -> None:
    """The main job on shipped data: a ViT, a Spikformer and a DTSS Spikformer on 360 real digits."""
    from snn_energy.studies.demo import run_demo

    with progress() as bar:
        tasks: dict[str, Any] = {}

        def on_step(network: str, done: int) -> None:
            if network not in tasks:
                tasks[network] = bar.add_task(network, total=360)
            bar.update(tasks[network], completed=done)

        found = run_demo(output, on_step)
    show_comparison(found.comparison)
    say(f"\n{len(found.written)} files written to {output}: counts, per-layer tables, pictures")


@app.command()
def reproduce(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for ledger, ranges and pictures.")] = Path(
        "reports/paper"
    ),
) -> None:
    """The published record: every published figure, ours beside it, and why the two part."""
    from snn_energy.core.files import make_folder
    from snn_energy.paper.reproduce import reproduce as run
    from snn_energy.paper.reproduce import sections, write

    make_folder(output)
    with progress() as bar:
        task = bar.add_task("networks", total=None)
        found = run(lambda name, done, total: bar.update(task, description=name, completed=done, total=total))
    for title, _, rows in sections(found):
        show(rows, title)
        print()
    show(found.ranges, "ME and TE of Table V by memory variant, between the extremes over all T_l of the same mean")
    say(f"\n{len(write(found, output))} files written to {output}: ledger, ranges, networks, pictures")


@app.command("time-modes")
def time_modes() -> None:
    """What --time can say of where time is."""
    from snn_energy.core.vocabulary import TIME_MODES

    for name, text in TIME_MODES.items():
        say(f"{name}: {text}")


@app.command()
def models() -> None:
    """The model families, the listed sizes and the CNNs."""
    from snn_energy.models.names import CNNS, FAMILIES, list_models

    for family, text in FAMILIES.items():
        say(f"{family}-N-D: {text}")
    for name, defaults in CNNS.items():
        say(f"{name}: {defaults.text}, T = {defaults.time_steps}")
    say("any depth N and width D; listed:")
    for name in list_models():
        say(f"  {name}")


@hardware_app.command("list")
def hardware_list() -> None:
    """The bundled profiles."""
    import pandas as pd

    from snn_energy.hardware.files import list_hardware, load_hardware
    from snn_energy.hardware.numbers import numbers

    profiles = [load_hardware(name) for name in list_hardware()]
    show(
        pd.DataFrame(
            {
                "name": [p.name for p in profiles],
                "mac (pJ)": [None if p.compute.mac is None else p.compute.mac.energy_pj for p in profiles],
                "ac (pJ)": [numbers(p).get("compute.ac") for p in profiles],
                "description": [p.description for p in profiles],
            }
        )
    )


@hardware_app.command("show")
def hardware_show(name: Annotated[str, typer.Argument(help="A bundled name or a path.")]) -> None:
    """Every number of a profile with its source, and what it cannot price."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import cannot_price, describe, notes

    found = load_hardware(name)
    say(f"{found.name}: {found.description}\ntechnology: {found.technology}\n")
    frame = describe(found)
    empty = [column for column in ("low", "high") if frame[column].isna().all()]
    show(frame.drop(columns=["citation", *empty]))
    say("\nsources:")
    for key, source in found.sources.items():
        say(f"  {key}: {source.citation}{f' ({source.note})' if source.note else ''}")
    remarks = [line for line in notes(found) if not line.startswith("sources.")]  # those stand beside their sources
    for heading, lines in (("notes", remarks), ("cannot price", cannot_price(found))):
        if lines:
            say(f"{heading}:")
            for line in lines:
                say(f"  {line}")


@hardware_app.command("diff")
def hardware_diff(
    a: Annotated[str, typer.Argument(help="A bundled name or a path.")],
    b: Annotated[str, typer.Argument(help="Another.")],
) -> None:
    """The numbers and settings in which two profiles differ."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import differences

    first, second = load_hardware(a), load_hardware(b)
    table = differences(first, second)
    if len(table):
        show(table, f"{first.name} (a) and {second.name} (b)")
    else:
        say(f"{first.name} and {second.name} do not differ")


@hardware_app.command("validate")
def hardware_validate(path: Annotated[Path, typer.Argument(help="A YAML file.")]) -> None:
    """Check a profile of your own: schema, prices, sources, units."""
    from snn_energy.hardware.files import load_hardware
    from snn_energy.hardware.tables import cannot_price

    found = load_hardware(path)
    say(f"{path}: valid, schema {found.schema_version}, {found.name}")
    for line in cannot_price(found):
        say(f"  cannot price: {line}")


if __name__ == "__main__":
    main()
