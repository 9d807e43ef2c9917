"""Networks trained by recipe: train, half, trio, ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn_energy.cli.options import (
    DATA_HELP,
    DataOption,
    DeviceOption,
    HardwareOption,
    RecipeDataOption,
    SeedOption,
)
from snn_energy.cli.output import is_first_process, note, progress, say, show


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe that ships (see --list), or the path of a YAML file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The checkpoint to write (.safetensors).")
    ] = None,
    data: RecipeDataOption = None,
    start_from: Annotated[
        Path | None, typer.Option("--start-from", help="A checkpoint to take weights of the same name and shape from.")
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUTPUT.partial.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the recipes that ship.")] = False,
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the recipe as YAML, every default written out; train nothing.")
    ] = False,
) -> None:
    """Train a network by a recipe: cross entropy plus the mask loss on chosen groups.

    On several devices: torchrun --nproc-per-node N -m snn_energy train ...
    """
    from snn_energy.core.files import require_distinct_paths
    from snn_energy.training.recipe import load_recipe

    if list_only:
        _list_recipes()
        return
    if recipe is None:
        raise typer.BadParameter("missing: RECIPE (snn-energy train --list shows those that ship)")
    if print_recipe:
        given = {"seed": seed, "data": data, "start_from": None if start_from is None else str(start_from)}
        changes = {key: value for key, value in given.items() if value is not None}
        say(load_recipe(recipe).with_changes(**changes).to_yaml().rstrip())
        return
    if output is None:
        raise typer.BadParameter("missing: -o, the checkpoint to write")
    from snn_energy.studies.train_demo import summary
    from snn_energy.training.run_files import best_path, recipe_path
    from snn_energy.training.train import train as run

    has_no_overrides = (seed, data, start_from) == (None, None, None)
    is_own_recipe = has_no_overrides and Path(recipe).resolve() == recipe_path(output).resolve()
    require_distinct_paths([output, best_path(output), *([] if is_own_recipe else [recipe_path(output)])], [recipe])
    result = run(
        load_recipe(recipe), output, seed=seed, data=data, start_from=start_from, device=device, resume=resume,
        write_log=True, progress=True,
    )  # fmt: skip
    if is_first_process():
        say(summary([result]))
        say(f"checkpoint written to {output}; the best, of epoch {result.best_epoch}, to {result.best_path}")


def _list_recipes() -> None:
    """Print the bundled recipes, each with its purpose on the next line."""
    from snn_energy.training.recipe import recipe_summaries

    rows = recipe_summaries()
    columns = ("recipe", "network", "T", "epochs", "mask loss")
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in columns}
    say("  ".join(key.ljust(widths[key]) for key in columns).rstrip())
    for row in rows:
        say("  ".join(row[key].ljust(widths[key]) for key in columns).rstrip())
        say(f"    {row['for']}")


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
    data: RecipeDataOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    list_only: Annotated[bool, typer.Option("--list", help="List the bundled trios.")] = False,
) -> None:
    """Train a Spikformer, a DTS Spikformer and their non-spiking twin for one comparison, within a time budget.

    The network of one time step first; the spiking ones start from its weights. The budget is shared out by measured
    speed. Kill it at any moment: the same command goes on where it was.
    """
    from snn_energy.training.recipe import bundled

    if list_only:
        for each in bundled("trio"):
            say(each)
        return
    missing = [key for key, value in (("TRIO", name), ("--seconds", seconds), ("-o", output)) if value is None]
    if name is None or seconds is None or output is None:
        raise typer.BadParameter(f"missing: {', '.join(missing)} (see snn-energy trio --help)")
    from snn_energy.studies.trio import train_trio

    result = train_trio(
        name, output, data=data, seconds=seconds, seed=seed, device=device, progress=True, on_message=note
    )  # fmt: skip
    show(result.to_frame(), f"{name}: {result.spent_s:.0f} of {seconds:g} s")
    say(f"written to {output}")


def ablate(
    grid: Annotated[str, typer.Argument(help="A bundled grid (digits), or the path of a YAML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for table and picture; runs go to its runs/.")],
    hardware: HardwareOption = "dts-paper-fpga",
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME[:PATH]", help=f"Instead of the recipes'. {DATA_HELP}")
    ] = None,
    device: DeviceOption = "auto",
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
