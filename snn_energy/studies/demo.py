"""The main workflow on shipped data: three trained networks, real digits, one energy table, its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snn_energy.analysis.comparison import Comparison, compare
from snn_energy.core import bundled
from snn_energy.core.files import make_folder
from snn_energy.jobs.profile_run import profile_checkpoint
from snn_energy.report.tables import write_table

NETWORKS = ("vit-2-64", "spikformer-2-64", "dts-spikformer-2-64")
BASELINE = "dts-spikformer-2-64"
HARDWARE = "dts-paper-fpga"
DATA = "digits"


@dataclass(frozen=True)
class Demo:
    """The result of a demo run, and the files that it wrote."""

    comparison: Comparison
    written: list[Path]


def checkpoint_path(network: str) -> Path:
    """The shipped checkpoint of one of ``NETWORKS``."""
    return bundled.demo_checkpoints() / f"{network}-{DATA}.safetensors"


def run_demo(out: str | Path, on_step: Callable[[str, int], None] | None = None) -> Demo:
    """Profile the three shipped networks on the 360 shipped test digits and write everything into ``out``."""
    folder = make_folder(out)
    counts, written = {}, []
    for network in NETWORKS:

        def on_batch(done: int, network: str = network) -> None:
            if on_step is not None:
                on_step(network, done)

        header = {"command": "snn-energy demo"}
        found = profile_checkpoint(checkpoint_path(network), DATA, None, on_batch=on_batch, header=header)
        written += found.save(folder / f"{network}.json")
        counts[network] = found
    comparison = compare(counts, HARDWARE, baseline=BASELINE)
    return Demo(comparison, written + write_folder(comparison, folder))


def write_folder(comparison: Comparison, out: str | Path) -> list[Path]:
    """Every table and picture of a comparison: normalised, by memory variant, by layer. Raises OutputError."""
    from snn_energy.report.plots.folder import save_all

    folder = make_folder(out)
    table = comparison.to_frame().drop(columns="is_baseline")
    written = write_table(table, csv_path=folder / "table.csv", markdown_path=folder / "table.md")
    variants = comparison.memory_range()
    written += write_table(
        variants, csv_path=folder / "memory-variants.csv", markdown_path=folder / "memory-variants.md"
    )
    for network, energy in comparison.energies.items():
        written += write_table(energy.to_frame("layer"), csv_path=folder / f"{network}-layers.csv")
    return written + save_all(comparison, folder)
