"""Files of a training run: their paths, the state of an interrupted run, its log."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snn_energy.checkpoints.inert_pickle import load_tensors_only
from snn_energy.core.errors import CheckpointError, OutputError
from snn_energy.core.files import require_distinct_paths, write_atomically, write_text
from snn_energy.datasets.digits import BUNDLED
from snn_energy.datasets.images import Images
from snn_energy.datasets.names import parse_data
from snn_energy.models.cnn import Cnn
from snn_energy.models.public_spikformer import PublicSpikformer
from snn_energy.models.spikformer import Spikformer
from snn_energy.models.vit import VisionTransformer
from snn_energy.running.processes import Processes
from snn_energy.training.recipe import Recipe

Network = Spikformer | PublicSpikformer | VisionTransformer | Cnn
EPOCH_SUMS = ("loss", "cross_entropy", "mask_loss", "train_accuracy")  # means over the images of an epoch
LOG_COLUMNS = ("epoch", *EPOCH_SUMS, "held_out_accuracy", "test_accuracy", "t_avg", "dead_layers")
PARTIAL_KEYS = {"recipe", "model", "optimiser", "generator", "epochs", "order", "next_batch", "sums", "seconds"}
LONGEST_STEP_S = 300.0  # a batch or an evaluation that takes longer was paused, and its time is not counted
EpochRecord = dict[str, float | int | None]


@dataclass
class RunData:
    """The images of a run, and what identifies them and the weights that it starts from."""

    train: Images
    test: Images
    held_out: Images | None
    fingerprint: str
    started_from: dict[str, str] | None  # name and SHA-256 of the checkpoint the weights came from


@dataclass
class RunState:
    """All that changes during training, as stored in a partial file. order: of the current epoch."""

    model: Network
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    epochs: list[EpochRecord]
    order: Tensor | None
    next_batch: int
    sums: Tensor  # (4,) float64, see EPOCH_SUMS
    precision: torch.dtype  # of the forward pass; depends on the machine, so it is not stored
    clock: Callable[[], float]
    seconds: float = 0.0  # spent so far, in all calls
    counted_until: float = 0.0  # clock reading up to which they are counted

    def count_seconds(self) -> None:
        """Add the time since the last call, unless it was a pause (SIGSTOP, a sleeping laptop)."""
        now = self.clock()
        self.seconds += now - self.counted_until if now - self.counted_until < LONGEST_STEP_S else 0.0
        self.counted_until = now


def partial_path(output: Path) -> Path:
    """The file with the state of an unfinished run."""
    return output.with_name(f"{output.name}.partial")


def best_path(output: Path) -> Path:
    """The file with the best weights of a run."""
    return output.with_name(f"{output.stem}.best{output.suffix}")


def recipe_path(output: Path) -> Path:
    """The file with the recipe of a run, every default written out."""
    return output.with_name(f"{output.stem}.recipe.yaml")


def log_path(output: Path) -> Path:
    """The log of a run: one line per epoch."""
    return output.with_name(f"{output.stem}.log.csv")


def checked_output(path: str | Path, recipe: Recipe, *, resume: bool) -> Path:
    """The path of the checkpoint. Raises OutputError if it cannot be written, or would overwrite an input."""
    output = checkpoint_output(path)
    data = parse_data(recipe.data or BUNDLED)[1]
    read = [Path(found) for found in (data, recipe.start_from) if found is not None]
    written = [output, best_path(output), recipe_path(output), log_path(output), partial_path(output)]
    require_distinct_paths(written, read)
    if partial_path(output).exists() and not resume:
        raise OutputError(
            f"{partial_path(output)}: is the state of an interrupted run; continue it (--resume) or remove it"
        )
    return output


def checkpoint_output(path: str | Path) -> Path:
    """The path of a checkpoint to write. Raises OutputError."""
    output = Path(path)
    if not str(path) or output.is_dir() or not output.parent.is_dir():
        raise OutputError(f"{path}: cannot be written there; give a file in a folder that exists")
    if output.suffix != ".safetensors":
        raise OutputError(f"{path}: a checkpoint is a .safetensors file; call it {output.stem}.safetensors")
    return output


def write_epoch_log(epochs: list[EpochRecord], path: Path) -> None:
    """One line per epoch; test accuracy is empty if it was not measured. Raises OutputError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in epochs:
        row = {key: record[key] for key in LOG_COLUMNS}
        writer.writerow({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _fingerprint(recipe: Recipe, data: RunData) -> str:
    """SHA-256 of a recipe with its seed, its initial weights and its data, independent of their paths."""
    text = recipe.model_copy(update={"data": None, "start_from": None}).model_dump_json() + data.fingerprint
    start = "" if data.started_from is None else data.started_from["sha256"]
    return hashlib.sha256((text + start).encode()).hexdigest()


def write_partial(
    run: RunState, recipe: Recipe, data: RunData, output: Path, group: Processes, generator_state: Tensor
) -> None:
    """Write the state of a run, whole or not at all, and its recipe; only in the first process. Raises OutputError."""
    if not group.is_first:
        return
    state = {
        "recipe": _fingerprint(recipe, data),
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "generator": generator_state,
        "epochs": run.epochs,
        "order": run.order,
        "next_batch": run.next_batch,
        "sums": run.sums.cpu(),
        "seconds": run.seconds,
    }

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # raised by torch if the disk is full
            raise OutputError(
                f"{partial_path(output)}: cannot be written; is the disk full? make room and resume"
            ) from error

    write_atomically(partial_path(output), write)
    resolved, text = recipe_path(output), recipe.to_yaml()
    if not resolved.exists() or resolved.read_text(encoding="utf-8") != text:
        write_text(resolved, text)


def read_partial(run: RunState, recipe: Recipe, data: RunData, output: Path) -> None:
    """Restore the state of an interrupted run. Raises CheckpointError."""
    path = partial_path(output)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, so there is nothing to resume; start again without --resume")
    state = load_tensors_only(path)
    if not isinstance(state, dict) or set(state) != PARTIAL_KEYS:
        raise CheckpointError(f"{path}: not the state of a training run; start again without --resume")
    if state["recipe"] != _fingerprint(recipe, data):
        raise CheckpointError(
            f"{path}: belongs to another recipe, seed or data than {recipe.name} with seed {recipe.seed}; "
            "resume with what it was started with, or start again without --resume"
        )
    try:
        run.model.load_state_dict(state["model"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.generator.set_state(state["generator"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); start again without --resume") from error
    run.epochs.extend(state["epochs"])
    run.order, run.next_batch, run.sums = state["order"], state["next_batch"], state["sums"]
    run.seconds, run.counted_until = state["seconds"], run.clock()
