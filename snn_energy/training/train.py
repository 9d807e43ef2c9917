"""The training loop: one recipe in, one checkpoint out, the same weights every time.

Loss = cross entropy (or TET) + lambda_m * (sum over the penalised DTSS layers l and the steps t of TM_l^t). The
weights of the last epoch are the result; the best ones on the selecting images (held out, or the test split; the
checkpoint says which) are saved next to them.

Everything random is drawn from generators that are seeded by the recipe and stored in ``<output>.partial``, so a
run that was interrupted anywhere and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_energy.checkpoints.checkpoint import save_checkpoint, sha256_of
from snn_energy.checkpoints.weights_file import read_tensors
from snn_energy.core.errors import CheckpointError, ModelError, RecipeError
from snn_energy.datasets.digits import BUNDLED
from snn_energy.datasets.images import Images, check_labels, held_out
from snn_energy.datasets.open import has_own_test_split, load_images
from snn_energy.models.create import create_model
from snn_energy.running.processes import Processes, join_batch_norms, processes
from snn_energy.training.evaluation import (
    TEST_BATCH,
    active_steps_by_layer,
    dead_layers,
    layers_held_by_floor,
    shared_accuracy,
)
from snn_energy.training.progress import Reporter
from snn_energy.training.recipe import Recipe
from snn_energy.training.run_files import (
    EPOCH_SUMS,
    EpochRecord,
    RunData,
    RunState,
    best_path,
    checked_output,
    log_path,
    partial_path,
    read_partial,
    write_epoch_log,
    write_partial,
)
from snn_energy.training.speed import enable_fused, forward_dtype, keep_freed_memory, work_clock
from snn_energy.training.step import batches_ahead, check_finite, learning_rate_share, make_optimiser, training_step

MEASURED_STEPS = 5  # by ``measure_steps``
CHECK_EVERY = 100  # batches between two checks of the loss, each of which waits for the device


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run. Accuracy in 0..1 on the test split, of the last epoch.

    active_steps: T_l by spiking layer (T_max for a plain LIF); t_avg: their unweighted mean, None for a
    network without spiking layers. dead_layers: T_l = 0. floor_layers: layers whose own score would give T_l
    = 0 and that ``min_steps`` keeps active. seconds: of the whole run, earlier calls included, by ``speed.work_clock``.
    best_epoch: that of the best checkpoint.
    """

    recipe_name: str
    path: Path
    best_path: Path
    best_epoch: int
    accuracy: float
    active_steps: dict[str, int]
    t_avg: float | None
    dead_layers: tuple[str, ...]
    floor_layers: tuple[str, ...]
    seconds: float
    epochs: tuple[EpochRecord, ...]


def train(
    recipe: Recipe,
    output_path: str | Path,
    *,
    seed: int | None = None,
    data: str | None = None,
    start_from: str | Path | None = None,
    device: str = "cpu",
    on_epoch: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    write_log: bool = False,
    progress: bool = False,
    save_every_s: float = 600.0,
    on_save: Callable[[float], None] | None = None,
) -> TrainingResult:
    """Train a recipe and write its checkpoint; deterministic on the CPU of one machine.

    seed, data, start_from: instead of the recipe's. device: cpu, cuda or auto. on_epoch: called after every epoch
    with its row of the log. resume: continue from ``<output>.partial``, which is written after every epoch and every
    ``save_every_s`` seconds; on_save is then called with the seconds spent so far. Written next to
    ``<stem>.safetensors``: ``<stem>.best.safetensors`` and ``<stem>.recipe.yaml``, the recipe with every default and
    change; with write_log ``<stem>.log.csv``. progress: show it on stderr. Under torchrun all processes share one
    run, and the first one writes.
    Raises RecipeError, DataError, CheckpointError (a partial file of another run) and OutputError.
    """
    recipe = _with_overrides(recipe, seed=seed, data=data, start_from=None if start_from is None else str(start_from))
    output = checked_output(output_path, recipe, resume=resume)
    with _prepared(recipe, device) as group, contextlib.ExitStack() as stack:
        loaded = _load_data(recipe)
        run = _initial_state(recipe, group)
        if resume:
            read_partial(run, recipe, loaded, output)
        group.wait()
        report = stack.enter_context(Reporter(recipe, len(loaded.train.labels), enabled=progress and group.is_first))
        report.resume(len(run.epochs), run.next_batch * recipe.batch_size)
        files = _RunFiles(run, recipe, loaded, output, group, save_every_s, on_save, write_log)
        images = len(loaded.train.labels)
        last = math.ceil(_total_steps(recipe, images) / _epoch_steps(recipe, images))
        for epoch in range(len(run.epochs) + 1, last + 1):
            record = _train_epoch(run, recipe, loaded.train, epoch, group, report, files.after_batch)
            evaluate = epoch == last or epoch % recipe.test_every == 0
            record["held_out_accuracy"] = shared_accuracy(run.model, loaded.held_out, group) if evaluate else None
            record["test_accuracy"] = shared_accuracy(run.model, loaded.test, group) if evaluate else None
            run.count_seconds()
            run.epochs.append(record)
            files.after_epoch(epoch)
            if group.is_first:
                report.epoch(record, dead_layers(run.model))
            if on_epoch is not None:
                on_epoch(record)
        files.finish()
        group.wait()
        return _result(run, recipe, output)


class _RunFiles:
    """The files written during a run: state, best and last checkpoint, log. The first process writes them."""

    def __init__(
        self,
        run: RunState,
        recipe: Recipe,
        data: RunData,
        output: Path,
        group: Processes,
        save_every_s: float,
        on_save: Callable[[float], None] | None,
        write_log: bool,
    ) -> None:
        self.run, self.recipe, self.data, self.output, self.group = run, recipe, data, output, group
        self.save_every_s, self.on_save, self.write_log = save_every_s, on_save, write_log
        self.saved_at = time.monotonic()

    def after_batch(self, generator_state: Tensor) -> None:
        """Count the time; save the state if the last save is too old."""
        self.run.count_seconds()
        if time.monotonic() - self.saved_at > self.save_every_s:
            self._save(generator_state)

    def after_epoch(self, epoch: int) -> None:
        """Write the best checkpoint if this epoch is the best, the state and the log."""
        if self.group.is_first and best_epoch(self.run.epochs) == epoch:
            metadata = _metadata(self.recipe, self.data, self.run, "best")
            save_checkpoint(best_path(self.output), self.run.model, metadata)
        self._save(self.run.generator.get_state())
        self._log()

    def finish(self) -> None:
        """Write the checkpoint of the last epoch and remove the state."""
        if self.group.is_first:
            save_checkpoint(self.output, self.run.model, _metadata(self.recipe, self.data, self.run, "last"))
            self._log()
            partial_path(self.output).unlink(missing_ok=True)

    def _save(self, generator_state: Tensor) -> None:
        write_partial(self.run, self.recipe, self.data, self.output, self.group, generator_state)
        self.saved_at = time.monotonic()
        if self.on_save is not None:
            self.on_save(self.run.seconds)

    def _log(self) -> None:
        if self.group.is_first and self.write_log:
            write_epoch_log(self.run.epochs, log_path(self.output))


def best_epoch(epochs: list[EpochRecord]) -> int:
    """The first epoch with the highest accuracy on the selecting images; 0 before the first evaluation."""
    scores = {int(record["epoch"] or 0): score for record in epochs if (score := _score(record)) is not None}
    return max(scores, key=lambda epoch: scores[epoch], default=0)


def _score(record: EpochRecord) -> float | None:
    held = record["held_out_accuracy"]
    return record["test_accuracy"] if held is None else held


@dataclass(frozen=True)
class StepTimes:
    """The cost of a run on this machine: seconds of one step and of one evaluation, steps of one epoch."""

    step_s: float
    evaluation_s: float
    epoch_steps: int


def data_fingerprint(recipe: Recipe) -> str:
    """SHA-256 of the images and labels of both splits, independent of paths. Raises RecipeError, DataError."""
    return _load_data(_with_overrides(recipe).with_changes(start_from=None)).fingerprint


def measure_steps(recipe: Recipe, device: str = "cpu", *, start_from: str | Path | None = None) -> StepTimes:
    """Time a few steps of a recipe on a temporary network, after two that warm up and compile.

    One evaluation reads all held-out and test images once. Raises as ``train`` does.
    """
    recipe = _with_overrides(recipe, start_from=None if start_from is None else str(start_from))
    with _prepared(recipe, device) as group:
        data = _load_data(recipe)
        run = _initial_state(recipe, group)
        chunks = torch.randperm(len(data.train.labels), generator=run.generator).split(recipe.batch_size)
        seconds: list[float] = []
        for batch in batches_ahead(run, recipe, data.train, chunks[: 2 + MEASURED_STEPS], group):
            started = run.clock()
            float(training_step(run, recipe, batch, group)[0])  # waits for the device
            seconds.append(run.clock() - started)
        evaluated = [images for images in (data.held_out, data.test) if images is not None]
        sample = evaluated[-1].first(min(TEST_BATCH, len(evaluated[-1].labels)))
        shared_accuracy(run.model, sample, group)
        started = run.clock()
        shared_accuracy(run.model, sample, group)
        per_image = (run.clock() - started) / len(sample.labels)
    evaluation_s = per_image * sum(len(images.labels) for images in evaluated)
    return StepTimes(statistics.median(seconds[2:] or seconds), evaluation_s, len(chunks))


def _with_overrides(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with all changes that are not None. Raises RecipeError if it specifies no data."""
    given = {key: value for key, value in changes.items() if value is not None}
    changed = recipe.with_changes(**given) if given else recipe
    if changed.data is None:
        raise RecipeError(f"{recipe.name}: specifies no data; give --data NAME:PATH")
    return changed


def _load_data(recipe: Recipe) -> RunData:
    model, spec = recipe.model, recipe.data or ""
    if not has_own_test_split(spec):
        raise RecipeError(
            f"{recipe.name}: {spec} has no array is_test, so accuracy would be measured on images "
            "that were trained on; add booleans (N,), True where an image is for testing"
        )
    train_set = load_images(spec, "train", model.image_size, model.in_channels)
    test_set = load_images(spec, "test", model.image_size, model.in_channels)
    for images in (train_set, test_set):
        check_labels(images, model.num_classes)
    fingerprint = hashlib.sha256(train_set.fingerprint() + test_set.fingerprint())
    rest, selecting = held_out(train_set, recipe.hold_out) if recipe.hold_out else (train_set, None)
    start = None if recipe.start_from is None else _checkpoint_identity(recipe.start_from)
    return RunData(rest, test_set, selecting, fingerprint.hexdigest(), start)


@contextlib.contextmanager
def _reproducible(threads: int, group: Processes) -> Iterator[None]:
    """Deterministic algorithms on the CPU, this many threads, a forked global generator; all restored afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(group.device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


@contextlib.contextmanager
def _prepared(recipe: Recipe, device: str) -> Iterator[Processes]:
    """The processes of this run, each reproducible and keeping its freed memory; all restored afterwards."""
    with processes(device) as group, _reproducible(recipe.threads, group), keep_freed_memory():
        yield group


def _initial_state(recipe: Recipe, group: Processes) -> RunState:
    """Epoch 0: a network with seeded weights, a fresh optimiser and a generator."""
    if group.size > 1 and recipe.model.neuron == "hoyer":
        raise RecipeError(f"{recipe.name}: neuron hoyer takes statistics of the whole batch; train it in one process")
    torch.manual_seed(recipe.seed)
    options = recipe.model.model_dump(exclude={"name"}, exclude_none=True)
    try:
        model = create_model(recipe.model.name, **options)
    except (ModelError, RuntimeError, MemoryError, TypeError) as error:  # raised by torch for sizes that are too large
        raise RecipeError(f"{recipe.name}: model: {error}") from error
    if recipe.start_from is not None:
        _copy_matching_weights(model, recipe.start_from)
    if group.size > 1:
        join_batch_norms(model)
    model.to(group.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    enable_fused(model, recipe, group.device, group.size)
    generator, sums = torch.Generator().manual_seed(recipe.seed), torch.zeros(len(EPOCH_SUMS)).double()
    dtype = forward_dtype(recipe, group.device)
    run_clock = work_clock(group.device, recipe.threads)
    return RunState(
        model.train(), make_optimiser(model, recipe), generator, [], None, 0, sums, dtype, run_clock,
        counted_until=run_clock(),
    )  # fmt: skip


def _copy_matching_weights(model: nn.Module, path: str) -> None:
    """Copy the tensors of a checkpoint that have the same name and shape. Raises CheckpointError."""
    found, own = read_tensors(Path(path).expanduser()), model.state_dict()
    matching = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not any(name.endswith("weight") for name in matching):
        raise CheckpointError(f"{path}: start_from: no weight has the name and shape of one of this network")
    model.load_state_dict(matching, strict=False)


def _epoch_steps(recipe: Recipe, images: int) -> int:
    """Batches of one pass over this many images."""
    return math.ceil(images / recipe.batch_size)


def _total_steps(recipe: Recipe, images: int) -> int:
    """Batches of the whole run, at least one."""
    return max(1, round(recipe.epochs * _epoch_steps(recipe, images)))


def _train_epoch(
    run: RunState,
    recipe: Recipe,
    images: Images,
    epoch: int,
    group: Processes,
    report: Reporter,
    after_batch: Callable[[Tensor], None],
) -> EpochRecord:
    """One pass, or the rest of one, over the training split; returns means over its images."""
    if run.order is None:
        run.order = torch.randperm(len(images.labels), generator=run.generator)
        run.next_batch, run.sums = 0, torch.zeros(len(EPOCH_SUMS)).double()
    steps_per_epoch, total = _epoch_steps(recipe, len(images.labels)), _total_steps(recipe, len(images.labels))
    first_step, warmup = (epoch - 1) * steps_per_epoch, round(recipe.optimiser.warmup_epochs * steps_per_epoch)
    chunks = run.order.split(recipe.batch_size)[: total - first_step]  # the last epoch may be part of a pass
    run.sums = run.sums.to(group.device)
    for batch in batches_ahead(run, recipe, images, chunks, group):
        share = learning_rate_share(first_step + run.next_batch, min(warmup, total - 1), total)
        for parameters in run.optimiser.param_groups:
            parameters["lr"] = parameters["peak_lr"] * share
        run.sums += group.add_up(training_step(run, recipe, batch, group))
        run.next_batch += 1
        report.batch(batch.count)
        if run.next_batch % CHECK_EVERY == 0:
            check_finite({}, float(run.sums[0]), recipe, epoch)
        after_batch(batch.generator_state)
    sums = dict(zip(EPOCH_SUMS, run.sums.tolist(), strict=True))
    check_finite(run.model.state_dict(), sums["loss"], recipe, epoch)
    count = sum(len(chunk) for chunk in chunks)
    record: EpochRecord = {"epoch": epoch, **{key: value / count for key, value in sums.items()}}
    steps = list(active_steps_by_layer(run.model).values())
    record["t_avg"] = sum(steps) / len(steps) if steps else None
    record["dead_layers"] = steps.count(0)
    run.order = None
    return record


def _result(run: RunState, recipe: Recipe, output: Path) -> TrainingResult:
    steps = active_steps_by_layer(run.model)
    return TrainingResult(
        recipe_name=recipe.name,
        path=output,
        best_path=best_path(output),
        best_epoch=best_epoch(run.epochs),
        accuracy=float(run.epochs[-1]["test_accuracy"] or 0.0),
        active_steps=steps,
        t_avg=sum(steps.values()) / len(steps) if steps else None,
        dead_layers=dead_layers(run.model),
        floor_layers=layers_held_by_floor(run.model),
        seconds=run.seconds,
        epochs=tuple(run.epochs),
    )


def without_paths(recipe: Recipe) -> Recipe:
    """The recipe as stored in a checkpoint: without paths of this machine."""
    return recipe.model_copy(update={"data": recipe.data if recipe.data == BUNDLED else None, "start_from": None})


def _metadata(recipe: Recipe, data: RunData, run: RunState, selection: str) -> dict[str, Any]:
    """The checkpoint's metadata. Identical for the same recipe, so without times and paths."""
    record, steps = run.epochs[-1], active_steps_by_layer(run.model)
    selection_text = (
        "the test split, so its accuracy there is optimistic" if data.held_out is None else "held-out images"
    )
    return {
        "data": data.train.name,
        "data_note": data.train.note,
        "data_sha256": data.fingerprint,
        "split": "train",
        "seed": recipe.seed,
        "mean": None,
        "std": None,
        "epoch": record["epoch"],
        "chosen": f"best of {recipe.epochs:g} epochs on {selection_text}" if selection == "best" else "last epoch",
        "held_out_accuracy": record["held_out_accuracy"],
        "test_accuracy": record["test_accuracy"],
        "active_steps": steps,
        "t_avg": sum(steps.values()) / len(steps) if steps else None,
        "precision": str(run.precision).removeprefix("torch."),
        "fused": bool(getattr(run.model, "fused", False)),
        "recipe_name": recipe.name,
        "recipe": without_paths(recipe).to_yaml(),
        "started_from": data.started_from,
        "command": f"snn-energy train {recipe.name} --seed {recipe.seed}",
    }


def _checkpoint_identity(path: str) -> dict[str, str]:
    """A checkpoint without its path: file name and SHA-256."""
    return {"checkpoint": Path(path).name, "sha256": sha256_of(Path(path).expanduser())}
