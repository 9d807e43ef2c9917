"""Train the three shipped demo networks: ``python -m snn_energy.studies.train_demo [DIR]``.

Two processes of one thread each; the result does not depend on how many run in parallel.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from snn_energy.core import bundled
from snn_energy.core.errors import OutputError, SnnEnergyError
from snn_energy.training.recipe import load_recipe
from snn_energy.training.run_files import recipe_path
from snn_energy.training.train import TrainingResult, train

DEMO_RECIPES = ("digits-dts", "digits-spikformer", "digits-vit")  # the slowest first
SHIPPED = bundled.demo_checkpoints()


def demo_file(recipe_name: str) -> str:
    """File name of a demo network: ``digits-vit`` -> ``vit-2-64-digits.safetensors``."""
    recipe = load_recipe(recipe_name)
    return f"{recipe.model.name}-{recipe.data}.safetensors"


def train_demo(out_dir: str | Path = SHIPPED, processes: int = 2) -> list[TrainingResult]:
    """Train the trio into a folder, each with its log; progress on stderr. Raises SnnEnergyError."""
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be created ({error.strerror})") from error
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(_train_one, DEMO_RECIPES, [folder] * len(DEMO_RECIPES)))


def summary(results: list[TrainingResult]) -> str:
    """A small table: accuracy, T_avg, seconds; then T_l by layer of the networks with different T_l."""
    lines = [f"{'recipe':<20}{'accuracy':>9}{'T_avg':>8}{'seconds':>9}"]
    for result in results:
        t_avg = "-" if result.t_avg is None else f"{result.t_avg:.3f}"
        lines.append(f"{result.recipe_name:<20}{result.accuracy:>9.2%}{t_avg:>8}{result.seconds:>9.0f}")
    for result in results:
        if len(set(result.active_steps.values())) > 1:
            steps = ", ".join(f"{name} {active}" for name, active in result.active_steps.items())
            floor = ", ".join(result.floor_layers) or "none"
            lines += ["", f"T_l of {result.recipe_name}: {steps}", f"kept alive by min_steps alone: {floor}"]
    return "\n".join(lines)


def _train_one(recipe_name: str, folder: Path) -> TrainingResult:
    result = train(load_recipe(recipe_name), folder / demo_file(recipe_name), write_log=True, progress=True)
    result.best_path.unlink()  # the last epoch is shipped: no selection is involved
    recipe_path(result.path).unlink()  # the checkpoint holds it
    return result


def main(arguments: list[str]) -> int:
    """Train into the folder named by the first argument, or over the shipped files; print the table."""
    try:
        results = train_demo(arguments[0] if arguments else SHIPPED)
    except SnnEnergyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
