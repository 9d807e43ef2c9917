"""From counts to energy, latency and pictures: estimate, audit, latency, compare, plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from snn_energy.cli.option_groups import LeaveOut, with_option_groups
from snn_energy.cli.options import (
    CountsArgument,
    CountsFilesArgument,
    HardwareOption,
    PolicyOptions,
    TableOptions,
)
from snn_energy.cli.output import files_read, say, show, show_comparison, show_energy, warn
from snn_energy.core.vocabulary import Schedule, TableLevel, ZeroHandling


@with_option_groups
def estimate(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    by: Annotated[TableLevel, typer.Option("--by", help="What a row of the table is.")] = "group",
    *,
    policies: PolicyOptions,
    against: Annotated[
        str | None, typer.Option("--against", help="A second profile: its total, and what differs between the two.")
    ] = None,
    tables: TableOptions,
) -> None:
    """Price a counts file on a device: energy per sample, by group, layer, time step or row."""
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.counts.load import load_counts
    from snn_energy.hardware.tables import differences
    from snn_energy.pricing.energy import estimate as price
    from snn_energy.report.sentences import second_device_sentence
    from snn_energy.report.tables import display_frame

    require_distinct_paths(tables.paths(), files_read([counts_file], hardware, against))
    energy = price(load_counts(counts_file), hardware, **policies.arguments())
    other = None if against is None else price(energy.counts, against, **policies.arguments())
    frame = energy.to_frame(None if by == "row" else by)
    tables.write(frame, energy.summary())
    show(display_frame(frame), f"{energy.counts.model} on {energy.hardware.name}, energy per sample")
    show_energy(energy)
    if other is not None:
        say(second_device_sentence(energy, other))
        title = f"what differs between {energy.hardware.name} (a) and {other.hardware.name} (b)"
        show(differences(energy.hardware, other.hardware), title)


@with_option_groups
def audit(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    *,
    policies: Annotated[PolicyOptions, LeaveOut("memory", "integer")],
    tables: TableOptions,
) -> None:
    """Where a network that calls itself spiking is not, layer by layer, and what each costs under every policy."""
    from snn_energy.analysis.spiking_audit import audit as run
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.counts.load import load_counts
    from snn_energy.report.tables import display_frame, write_table

    require_distinct_paths(tables.paths(), files_read([counts_file], hardware))
    counts, products, encoder = load_counts(counts_file), policies.products, policies.encoder
    found = run(counts, hardware, products=products, encoder=encoder, without=policies.without or ())
    write_table(found.to_frame(), csv_path=tables.csv, json_path=tables.json, head=found.summary())
    write_table(found.for_reading(), markdown_path=tables.markdown, latex_path=tables.latex)
    used = f"compute per sample (products {products}, encoder {encoder})"
    if len(found.findings):
        show(display_frame(found.for_reading()), f"{found.counts.model} on {found.hardware.name}, {used}")
        show(display_frame(found.categories_for_reading()), "the same by category")
    for line in filter(None, (found.verdict(), found.verdict_elementwise())):
        say(line)


@with_option_groups
def latency(
    counts_file: CountsArgument,
    hardware: HardwareOption,
    schedule: Annotated[Schedule | None, typer.Option("--schedule", help="Instead of the profile's.")] = None,
    zeros: Annotated[ZeroHandling | None, typer.Option("--zeros", help="Instead of the profile's.")] = None,
    *,
    policies: PolicyOptions,
    tables: TableOptions,
) -> None:
    """Cycles and seconds of a counts file on a device, layer by layer, and what bounds each."""
    from snn_energy.analysis.skipping import skipping_savings
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.counts.load import load_counts
    from snn_energy.hardware.files import load_hardware
    from snn_energy.pricing.cycles import missing_latency_error, with_latency
    from snn_energy.pricing.energy import estimate as price
    from snn_energy.report.sentences import latency_sentence, schedule_conflict
    from snn_energy.report.tables import display_frame

    require_distinct_paths(tables.paths(), files_read([counts_file], hardware))
    counts = load_counts(counts_file)
    device = with_latency(load_hardware(hardware), schedule, zeros)
    energy = price(counts, device, **policies.arguments())
    found = energy.latency
    if found is None:
        raise missing_latency_error(device)
    frame = found.to_frame()
    head = {
        "model": counts.model,
        "hardware": device.name,
        "schedule": found.schedule,
        "zeros": found.zeros,
        "cycles": found.cycles,
        "seconds": found.seconds,
        "without": policies.without or [],
        **asdict(energy.policies),
    }
    tables.write(frame, head)
    show(display_frame(frame), f"{counts.model} on {device.name}, cycles per sample")
    say(latency_sentence(energy))
    conflict = schedule_conflict(energy)
    if conflict is not None:
        warn(conflict)
    show(skipping_savings(energy), "savings of skipping masked steps")


@with_option_groups
def compare(
    counts_files: CountsFilesArgument,
    hardware: HardwareOption,
    baseline: Annotated[str, typer.Option("--baseline", help="The one that the others are divided by: file or model.")],
    *,
    policies: PolicyOptions,
    tables: TableOptions,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Write every table (by layer, by memory variant) and picture there.")
    ] = None,
) -> None:
    """Normalised compute, memory and total energy of several networks on one device."""
    from snn_energy.analysis.comparison import compare as price_all
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.counts.load import load_counts
    from snn_energy.studies.demo import write_folder

    require_distinct_paths(tables.paths(), files_read(counts_files, hardware))
    comparison = price_all(
        [load_counts(path) for path in counts_files], hardware, baseline=baseline, **policies.arguments()
    )
    for line in comparison.differences():
        warn(line)
    head = {
        "hardware": comparison.hardware.name,
        "baseline": comparison.baseline,
        **asdict(comparison.policies),
    }
    tables.write(comparison.to_frame(), head)
    if folder is not None:
        write_folder(comparison, folder)
    show_comparison(comparison)


@with_option_groups
def plot(
    counts_files: CountsFilesArgument,
    hardware: HardwareOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures (SVG and PNG).")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="For the normalised bars; the last file unless given.")
    ] = None,
    *,
    policies: Annotated[PolicyOptions, LeaveOut("without")],
) -> None:
    """Three pictures: energy by group and kind, layers x time steps, normalised bars."""
    from snn_energy.analysis.comparison import compare as price_all
    from snn_energy.counts.load import load_counts
    from snn_energy.report.plots.folder import save_all

    counts = [load_counts(path) for path in counts_files]
    comparison = price_all(counts, hardware, baseline=baseline or counts_files[-1].stem, **policies.arguments())
    for path in save_all(comparison, output):
        say(str(path))
