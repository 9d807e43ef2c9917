"""What would change a result: sweep and break-even from counts, early-exit and sensitivity from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn_energy.cli.option_groups import with_option_groups
from snn_energy.cli.options import (
    BatchSizeOption,
    CountsFilesArgument,
    CsvOption,
    DataOption,
    HardwareOption,
    NormalisationOptions,
    PolicyOptions,
    SamplesOption,
    SpikingArgument,
)
from snn_energy.cli.output import files_read, progress, say, show, warn


@with_option_groups
def sweep(
    counts_files: CountsFilesArgument,
    hardware: HardwareOption,
    fields: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUES", help="compute.ac=0.5,0.9 or array.rows=8..64:8 or ...:50:log."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The points: .csv or .parquet.")],
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture (.svg or .png).")] = None,
    *,
    policies: PolicyOptions,
) -> None:
    """Price networks at every combination of numbers of a profile: millions of what-ifs in seconds."""
    from snn_energy.analysis.design_sweep import parse_field, write_points
    from snn_energy.analysis.design_sweep import sweep as run
    from snn_energy.core.files import require_distinct_paths, require_writable
    from snn_energy.counts.load import load_counts
    from snn_energy.hardware.files import load_hardware
    from snn_energy.report.plots.design_sweep import sweep_figure
    from snn_energy.report.plots.style import figure_format, save_figure
    from snn_energy.report.sentences import sweep_sentences

    require_distinct_paths((output, plot), files_read(counts_files, hardware))
    picture_format = None if plot is None else figure_format(plot)
    for path in (output, *([] if plot is None else [plot])):
        require_writable(path)
    device = load_hardware(hardware)
    swept = [parse_field(text, device) for text in fields]
    points = run([load_counts(path) for path in counts_files], device, swept, **policies.arguments())
    write_points(points, output)
    unpriced = int(points["total_pj"].isna().sum())
    if unpriced:
        warn(f"at {unpriced:,} of {len(points):,} points a tensor fits on no level or the total is unknown")
    if plot is not None and picture_format is not None:
        save_figure(sweep_figure(points, [field.column for field in swept]), plot.with_suffix(""), (picture_format,))
    for line in sweep_sentences(points, swept):
        say(line)
    results = [c for c in points.columns if c.endswith("_pj") or c in ("latency_s", "edp_js")]
    say(f"{len(points):,} points of {len(results)} results written to {output}")


@with_option_groups
def break_even(
    snn: Annotated[Path, typer.Argument(metavar="SNN.json", help="Counts of the spiking network.")],
    ann: Annotated[Path, typer.Argument(metavar="ANN.json", help="Counts of the other one.")],
    hardware: HardwareOption,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for table, curves and picture.")] = None,
    *,
    policies: PolicyOptions,
) -> None:
    """At which spike rate, time steps, MAC over AC and memory price the spiking network stops winning."""
    from snn_energy.analysis.break_even import break_even as find
    from snn_energy.analysis.break_even import spikes_per_synapse_sentence
    from snn_energy.core.files import make_folder
    from snn_energy.counts.load import load_counts
    from snn_energy.report.plots.break_even import break_even_figure
    from snn_energy.report.plots.style import save_figure
    from snn_energy.report.tables import write_table

    first, second = load_counts(snn), load_counts(ann)
    found = find(first, second, hardware, **policies.arguments())
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


@with_option_groups
def early_exit(
    checkpoint: SpikingArgument,
    data: DataOption,
    hardware: HardwareOption,
    threshold: Annotated[
        list[float] | None, typer.Option("--threshold", help="Confidence in (0, 1] above which a sample stops; repeat.")
    ] = None,
    samples: SamplesOption = None,
    batch_size: BatchSizeOption = 60,
    *,
    normalisation: NormalisationOptions,
    policies: PolicyOptions,
    csv: CsvOption = None,
) -> None:
    """Stop every sample as soon as its confidence allows (SEENN-I): accuracy, mean time steps and energy."""
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.datasets.names import parse_data
    from snn_energy.report.tables import write_table
    from snn_energy.studies.early_exit_run import early_exit_of_checkpoint

    path, normalised = parse_data(data)[1], normalisation.normalisation()
    require_distinct_paths((csv,), [checkpoint, *([] if path is None else [path]), *files_read([], hardware)])
    with progress() as bar:
        task = bar.add_task(checkpoint.name, total=samples)
        table = early_exit_of_checkpoint(
            checkpoint,
            data,
            samples,
            thresholds=threshold or [0.9],
            hardware=hardware,
            batch_size=batch_size,
            on_batch=lambda done: bar.update(task, completed=done),
            normalisation=normalised,
            **policies.arguments(),
        )
    write_table(table, csv_path=csv)
    show(table, f"{checkpoint.name}, early exit, energy per sample on {hardware}; ratio: to all time steps")


@with_option_groups
def sensitivity(
    checkpoint: SpikingArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for figure, tables and recommendation.")],
    samples: SamplesOption = None,
    batch_size: BatchSizeOption = 60,
    cut: Annotated[
        bool, typer.Option("--cut/--no-cut", help="Measure the accuracy that cutting a group's later steps costs.")
    ] = True,
    points: Annotated[
        float, typer.Option("--points", min=0, max=100, help="Points of accuracy that half a group's steps may cost.")
    ] = 1.0,
    *,
    normalisation: NormalisationOptions,
) -> None:
    """What the later time steps of each group of layers are worth, and which groups should enter the mask loss."""
    from snn_energy.studies.sensitivity.measure import sensitivity_of_checkpoint

    normalised = normalisation.normalisation()
    with progress() as bar:
        task = bar.add_task(checkpoint.name, total=samples)
        found = sensitivity_of_checkpoint(
            checkpoint,
            data,
            samples,
            batch_size=batch_size,
            cut=cut,
            on_batch=lambda done: bar.update(task, completed=done),
            normalisation=normalised,
        )
    written = found.save(output, points=points)
    show(found.groups(), "cosine similarity of the inputs of LIF layers to the first time step, by group")
    say("\n" + found.recommendation(points=points))
    say(f"\n{len(written)} files written to {output}")
