"""What every command prints: data on stdout, progress and warnings on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress, TaskID

    from snn_energy.analysis.comparison import Comparison
    from snn_energy.pricing.energy import Energy


def is_first_process() -> bool:
    """False for the further processes of torchrun, which print nothing."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line on stdout."""
    print(text)


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A warning on stderr."""
    note(f"warning: {text}")


def show(frame: pd.DataFrame, title: str | None = None) -> None:
    """A table on stdout: rich on a terminal, plain and stable when piped."""
    from snn_energy.report.tables import plain_text

    if not sys.stdout.isatty():
        if title:
            print(title)
        print(plain_text(frame))
        return
    from rich.console import Console

    from snn_energy.report.tables import rich_table

    width = Console().width
    table, needed = rich_table(frame, title, width)
    Console(width=max(width, needed)).print(table, crop=False)


def files_read(counts_files: list[Path], *names: str | None) -> list[Path]:
    """Every file that a command reads: counts, their side files, files of published counts, profiles."""
    from snn_energy.counts.sample_store import samples_path

    found = []
    for path in counts_files:
        found += [path, samples_path(path), *[Path(str(path).rpartition(":")[0])] * (":" in str(path))]
    return found + [Path(name) for name in names if name is not None and Path(name).is_file()]


class _NoBar:
    """In place of a progress bar: shows nothing."""

    def add_task(self, description: str, **details: Any) -> TaskID:
        """The number of a task."""
        return cast("TaskID", 0)

    def update(self, task: TaskID, **details: Any) -> None:
        """Nothing to show."""


@contextmanager
def progress() -> Iterator[Progress | _NoBar]:
    """A progress bar on stderr; silent if stderr is not a terminal."""
    if not (sys.stderr.isatty() and is_first_process()):
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


def show_energy(energy: Energy) -> None:
    """Print the total of an estimate, that under other policies, the numbers that move it most, and unpriced work."""
    from snn_energy.analysis.uncertainty import what_matters
    from snn_energy.report.sentences import range_sentence, total_sentences

    for line in total_sentences(energy):
        say(line)
    alternatives = energy.alternatives()
    show(
        alternatives[~alternatives["used"]].drop(columns="used"),
        "the same counts under other policies, one changed at a time",
    )
    if energy.total_pj == energy.total_pj:  # nothing moves an unknown (NaN) total
        top_sensitivities = what_matters(energy, 5)
        if len(top_sensitivities):
            title = (
                "the five prices, powers and widths that move the total most (elasticity: % of the total per % of each)"
            )
            show(top_sensitivities.drop(columns="moves_pj"), title)
        range_text = range_sentence(energy)
        if range_text is not None:
            say(range_text)
    unpriced = energy.unpriced()
    if len(unpriced):
        show(unpriced.rename(columns={"amount": "per sample"}), f"not priced by {energy.hardware.name}")


def show_comparison(comparison: Comparison) -> None:
    """Print the normalised table, and its values under every memory variant."""
    from snn_energy.analysis.uncertainty import ratio_range
    from snn_energy.report.sentences import comparison_title

    show(comparison.to_frame().drop(columns="is_baseline"), comparison_title(comparison))
    print()
    variants = comparison.memory_range()
    if len(variants):
        show(variants, "the same under every memory variant")
    ranges = ratio_range(comparison)
    if len(ranges) and (ranges["te_high"] > ranges["te_low"]).any():
        print()
        show(ranges, "CE, ME, TE over the profile's ranges")
