"""Whole reports: the demo on shipped data, and the reproduction of published figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn_energy.cli.output import progress, say, show, show_comparison

if TYPE_CHECKING:
    from rich.progress import TaskID


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for tables, counts and pictures.")] = Path(
        "reports/demo"
    ),
) -> None:
    """The main job on shipped data: a ViT, a Spikformer and a DTSS Spikformer on 360 real digits."""
    from snn_energy.studies.demo import run_demo

    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def on_step(network: str, done: int) -> None:
            if network not in tasks:
                tasks[network] = bar.add_task(network, total=360)
            bar.update(tasks[network], completed=done)

        found = run_demo(output, on_step)
    show_comparison(found.comparison)
    say(f"\n{len(found.written)} files written to {output}: counts, per-layer tables, pictures")


def reproduce(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for ledger, ranges and pictures.")] = Path(
        "reports/paper"
    ),
) -> None:
    """The published record: every published figure, ours beside it, and why the two part."""
    from snn_energy.core.files import make_folder
    from snn_energy.paper.reproduce import reproduce as run
    from snn_energy.paper.reproduce import sections, write_report

    make_folder(output)
    with progress() as bar:
        task = bar.add_task("networks", total=None)
        found = run(lambda name, done, total: bar.update(task, description=name, completed=done, total=total))
    for title, _, rows in sections(found):
        show(rows, title)
        print()
    show(found.ranges, "ME and TE of Table V by memory variant, between the extremes over all T_l of the same mean")
    say(f"\n{len(write_report(found, output))} files written to {output}: ledger, ranges, networks, pictures")
