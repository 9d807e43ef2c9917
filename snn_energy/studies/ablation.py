"""One command from a grid to a table: train every variant, profile it, price it, and draw accuracy against energy.

The columns are those of Tables III and IV of the paper (accuracy, T_avg, SA, SOPs), and the energy.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from snn_energy.checkpoints.checkpoint import read_metadata
from snn_energy.core.errors import RecipeError
from snn_energy.core.files import make_folder
from snn_energy.datasets.digits import BUNDLED
from snn_energy.datasets.names import parse_data
from snn_energy.hardware.files import load_hardware
from snn_energy.jobs.profile_run import profile_checkpoint
from snn_energy.models.names import has_dtss_layers
from snn_energy.pricing.energy import estimate
from snn_energy.studies.ablation_grid import Grid, load_grid, slug
from snn_energy.training.recipe import Recipe, load_recipe, parse_recipe
from snn_energy.training.run_files import partial_path, recipe_path
from snn_energy.training.train import train


@dataclass(frozen=True)
class Job:
    """One run: a variant with a seed, and the path of its checkpoint."""

    variant: str
    seed: int
    recipe: Recipe
    path: Path


def make_jobs(grid: Grid, recipes: dict[str, Recipe], folder: Path, data: str | None) -> list[Job]:
    """Every variant with every seed, in the order of the grid."""
    changes: dict[str, Any] = {} if data is None else {"data": data}
    return [
        Job(name, seed, recipes[name].with_changes(seed=seed, **changes), folder / f"{slug(name)}-{seed}.safetensors")
        for name in recipes
        for seed in grid.seeds
    ]


def run_grid(
    source: str | Path,
    folder: str | Path,
    *,
    data: str | None = None,
    device: str = "cpu",
    processes: int = 1,
    hardware: str = "dts-paper-fpga",
    on_run: Callable[[str, int, int], None] | None = None,
) -> tuple[Grid, pd.DataFrame]:
    """Train, profile and price every run of a grid; one row per run, see ``measured``.

    Finished runs (their checkpoint is in ``folder``, with the same recipe) are not trained again, and interrupted runs
    are resumed. on_run: called with the variant, the number of finished runs and the number of all runs. Raises
    SnnEnergyError, RecipeError for a checkpoint of another recipe.
    """
    grid, recipes = load_grid(source)
    load_hardware(hardware)  # a missing profile must fail before hours of training
    folder = make_folder(folder)
    jobs = make_jobs(grid, recipes, folder, data)
    for job in jobs:
        _check_existing_checkpoint(job)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for job, row in _completed_jobs(jobs, device, processes, hardware):
        rows[job.variant, job.seed] = row
        if on_run is not None:
            on_run(job.variant, len(rows), len(jobs))
    return grid, pd.DataFrame([rows[job.variant, job.seed] for job in jobs])


def _completed_jobs(
    jobs: list[Job], device: str, processes: int, hardware: str
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every job with its row, in order of completion. After the first error no further job is started."""
    if processes == 1:
        for job in jobs:
            yield job, run_job(job, device, hardware)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=spawn, initializer=_exit_with_parent, initargs=(os.getpid(),)
    ) as pool:
        running: dict[Future[dict[str, Any]], Job] = {pool.submit(run_job, job, device, hardware): job for job in jobs}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _exit_with_parent(parent: int) -> None:
    """End this worker when the process that started it has ended for any reason."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_job(job: Job, device: str, hardware: str) -> dict[str, Any]:
    """Train one variant unless it is finished, and measure it: a row of the table."""
    if not job.path.exists():
        train(job.recipe, job.path, device=device, resume=partial_path(job.path).exists(), write_log=True)
    return measured(job, hardware)


def measured(job: Job, hardware: str) -> dict[str, Any]:
    """A row: the setting, then accuracy, T_avg, SA, SOPs per image, energy per image (pJ) over the whole test split."""
    recipe = job.recipe
    counts = profile_checkpoint(job.path, recipe.data or "", None)
    energy, activity, mask_loss = estimate(counts, hardware), counts.activity(), recipe.mask_loss
    return {
        "variant": job.variant,
        "seed": job.seed,
        "model": recipe.model.name,
        "neuron": recipe.model.neuron,
        "loss": "tet" if recipe.tet_loss else "cross entropy",
        "mask_groups": " ".join(mask_loss.groups) if mask_loss else "",
        "lambda_m": mask_loss.weight if mask_loss else 0.0,
        "t_init": recipe.model.initial_steps if has_dtss_layers(recipe.model.name) else None,
        "t_max": counts.time_steps,
        "accuracy": counts.header["accuracy"],
        "t_avg": activity["t_avg"],
        "sa": activity["sa"],
        "sops_per_sample": activity["sops_per_sample"],
        "real_macs_per_sample": activity["real_macs_per_sample"],
        "dead_layers": len(activity["dead_layers"]),
        "compute_pj": energy.compute_pj,
        "memory_pj": energy.memory_pj,
        "total_pj": energy.total_pj,
    }


def mean_over_seeds(grid: Grid, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: means over the seeds, the range of accuracy, and the published figures."""
    rows = []
    for variant in grid.variants:
        group = runs[runs["variant"] == variant.name]
        first = group.iloc[0]
        settings = ["variant", "model", "neuron", "loss", "mask_groups", "lambda_m", "t_init", "t_max"]
        figures = ["t_avg", "sa", "sops_per_sample", "real_macs_per_sample", "compute_pj", "memory_pj", "total_pj"]
        published = variant.published
        rows.append(
            {key: first[key] for key in settings}
            | {"seeds": len(group), "accuracy": float(group["accuracy"].mean())}
            | {"lowest_accuracy": float(group["accuracy"].min()), "highest_accuracy": float(group["accuracy"].max())}
            | {key: float(group[key].astype(float).mean()) for key in figures}
            | {"dead_layers": int(group["dead_layers"].max())}
            | {
                "paper_accuracy": None if published.accuracy is None else published.accuracy / 100,
                "paper_t_avg": published.t_avg,
                "paper_sa": None if published.sa is None else published.sa / 100,
                "paper_sops_per_sample": None if published.sops_m is None else published.sops_m * 1e6,
            }
        )
    return pd.DataFrame(rows)


def _check_existing_checkpoint(job: Job) -> None:
    """Raise RecipeError if the path of a run holds a checkpoint of another recipe."""
    if not job.path.exists():
        return
    metadata = read_metadata(job.path)
    existing_recipe, resolved = parse_recipe(str(metadata.get("recipe")), str(job.path)), recipe_path(job.path)
    wanted = job.recipe.model_copy(update={"data": existing_recipe.data, "start_from": None})
    same = existing_recipe == wanted
    if resolved.exists():
        same &= _with_absolute_paths(load_recipe(resolved)) == _with_absolute_paths(job.recipe)
    if not same:
        raise RecipeError(
            f"{job.path}: belongs to another recipe than variant '{job.variant}' of this grid; "
            "remove it or choose another folder"
        )


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that two spellings of one path compare equal."""
    name, path = parse_data(recipe.data or BUNDLED)
    start = None if recipe.start_from is None else str(Path(recipe.start_from).expanduser().resolve())
    data = recipe.data if path is None else f"{name}:{path.resolve()}"
    return recipe.model_copy(update={"data": data, "start_from": start})
