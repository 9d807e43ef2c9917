"""The training loop: one recipe in, one checkpoint out, the same weights every time.

Loss = cross entropy + lambda_m * (sum over the charged DTSS layers l and the steps t of TM_l^t). The weights
of the last epoch are the result; the test split is looked at for the log and never chooses anything.

Everything random is drawn from generators that are seeded by the recipe and stored after every epoch in
``<output>.partial``, so a run that was interrupted and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from snn_energy.checkpoints import load_tensors_only, save_checkpoint
from snn_energy.datasets import ImageSet, has_own_test_split, load_images
from snn_energy.errors import CheckpointError, ModelError, OutputError, RecipeError
from snn_energy.files import write_text, write_whole
from snn_energy.groups import layer_group
from snn_energy.models.neurons import DTSS
from snn_energy.models.registry import create_model
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.models.vit import VisionTransformer
from snn_energy.training.recipe import Recipe

log = logging.getLogger("snn_energy")
Network = Spikformer | VisionTransformer
LOG_COLUMNS = (
    "epoch",
    "loss",
    "cross_entropy",
    "mask_loss",
    "train_accuracy",
    "test_accuracy",
    "t_avg",
    "dead_layers",
)
EpochRecord = dict[str, float | int | None]


@dataclass(frozen=True)
class TrainingResult:
    """What a run ended with. Accuracy in 0..1 on the test split.

    active_steps: T_l by spiking layer (T_max for a plain LIF); t_avg: their unweighted mean, None for a
    network without spiking layers. dead_layers: T_l = 0. floor_layers: layers whose own score would give T_l
    = 0 and that ``min_steps`` keeps alive. seconds: wall time of this call.
    """

    recipe_name: str
    path: Path
    accuracy: float
    active_steps: dict[str, int]
    t_avg: float | None
    dead_layers: tuple[str, ...]
    floor_layers: tuple[str, ...]
    seconds: float
    epochs: tuple[EpochRecord, ...]


@dataclass
class _Run:
    """All that changes while training; what a partial file holds."""

    model: Network
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    epochs: list[EpochRecord]


def train(
    recipe: Recipe,
    output_path: str | Path,
    *,
    seed: int | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    write_log: bool = False,
    progress: bool = False,
) -> TrainingResult:
    """Train a recipe and write its checkpoint; deterministic on one thread of one machine.

    seed: instead of the recipe's. on_epoch: called after every epoch with its row of the log. resume: go on
    from ``<output>.partial``. write_log: write ``<stem>.log.csv`` beside the checkpoint. progress: show it on
    stderr. Raises RecipeError, DataError, CheckpointError (a partial file of another recipe) and OutputError.
    """
    started = time.perf_counter()
    if seed is not None and seed < 0:
        raise RecipeError(f"{recipe.name}: seed must be at least 0, not {seed}")
    output, recipe = Path(output_path), recipe if seed is None else recipe.model_copy(update={"seed": seed})
    if output.is_dir() or not output.parent.is_dir():
        raise OutputError(f"{output}: cannot be written there; give a file in a folder that exists")
    train_set, test_set = _load_data(recipe)
    with _reproducible(recipe.threads), _Reporter(recipe, enabled=progress) as report:
        run = _start(recipe)
        if resume:
            _read_partial(run, recipe, output)
        for epoch in range(len(run.epochs) + 1, recipe.epochs + 1):
            record = _train_epoch(run, recipe, train_set, epoch)
            look = epoch == recipe.epochs or epoch % recipe.test_every == 0
            record["test_accuracy"] = accuracy(run.model, test_set) if look else None
            run.epochs.append(record)
            _write_partial(run, recipe, output)
            report.epoch(record, dead_layers(run.model))
            if on_epoch is not None:
                on_epoch(record)
        result = _result(run, recipe, output, time.perf_counter() - started)
        save_checkpoint(output, run.model, _metadata(recipe, train_set, result))
    if write_log:
        _write_log(run.epochs, output.with_name(f"{output.stem}.log.csv"))
    partial_path(output).unlink(missing_ok=True)
    return result


def partial_path(output: Path) -> Path:
    """Where the state after the last whole epoch lies while a run is under way."""
    return output.with_name(f"{output.name}.partial")


def mask_loss(model: nn.Module, groups: list[str]) -> Tensor:
    """Sum of TM_l^t over the DTSS layers of the groups and all time steps: a scalar, 0 without any."""
    masks = [
        layer.time_step_mask(layer.max_steps).sum()
        for name, layer in spiking_layers(model).items()
        if isinstance(layer, DTSS) and layer_group(name) in groups
    ]
    return torch.stack(masks).sum() if masks else torch.zeros(())


def accuracy(model: nn.Module, images: ImageSet, batch_size: int = 120) -> float:
    """Share of images (0..1) whose largest logit is their label; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(batch).argmax(1) == labels).sum())
            for batch, labels in zip(
                torch.from_numpy(images.images).split(batch_size),
                torch.from_numpy(images.labels).split(batch_size),
                strict=True,
            )
        )
    model.train(was_training)
    return hits / len(images)


def active_steps_by_layer(model: Network) -> dict[str, int]:
    """T_l of every spiking layer; T_max for a plain LIF; empty for a network that does not spike."""
    return {name: int(layer.time_step_mask(model.time_steps).sum()) for name, layer in spiking_layers(model).items()}


def dead_layers(model: Network) -> tuple[str, ...]:
    """Spiking layers without an active time step (T_l = 0)."""
    return tuple(name for name, steps in active_steps_by_layer(model).items() if steps == 0)


def layers_held_by_floor(model: nn.Module) -> tuple[str, ...]:
    """DTSS layers whose first score is below 1, so that only ``min_steps`` keeps them alive."""
    return tuple(
        name
        for name, layer in spiking_layers(model).items()
        if isinstance(layer, DTSS) and layer.min_steps > 0 and float(layer.scores()[0].detach()) < 1
    )


def _load_data(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    model = recipe.model
    if not has_own_test_split(recipe.data):
        raise RecipeError(
            f"{recipe.name}: {recipe.data} has no array is_test, so accuracy would be measured on images "
            "that were trained on; add booleans (N,), True where an image is for testing"
        )
    train_set = load_images(recipe.data, "train", model.image_size, model.in_channels)
    test_set = load_images(recipe.data, "test", model.image_size, model.in_channels)
    for images in (train_set, test_set):
        images.check_labels(model.num_classes)
    return train_set, test_set


@contextlib.contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Deterministic algorithms, this many threads, a seeded global generator; all put back afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _start(recipe: Recipe) -> _Run:
    """Epoch 0: a network with seeded weights, a fresh optimiser and a generator."""
    torch.manual_seed(recipe.seed)
    options = recipe.model.model_dump(exclude={"name"}, exclude_none=True)
    try:
        model = create_model(recipe.model.name, **options)
    except ModelError as error:
        raise RecipeError(f"{recipe.name}: model: {error}") from error
    return _Run(model.train(), _optimiser(model, recipe), torch.Generator().manual_seed(recipe.seed), [])


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Three groups: weights (decayed), norms and biases (not), TP (its own learning rate, not decayed)."""
    named, plan = list(model.named_parameters()), recipe.optimiser
    scores = [p for name, p in named if name.endswith(".tp")]
    weights = [p for _, p in named if p.dim() > 1]
    others = [p for name, p in named if p.dim() <= 1 and not name.endswith(".tp")]
    groups: list[dict[str, Any]] = [
        {"params": weights, "peak_lr": plan.learning_rate, "weight_decay": plan.weight_decay},
        {"params": others, "peak_lr": plan.learning_rate, "weight_decay": 0.0},
    ]
    if scores:
        groups.append({"params": scores, "peak_lr": plan.tp_learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=plan.learning_rate)


def _schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): a linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def _train_epoch(run: _Run, recipe: Recipe, train_set: ImageSet, epoch: int) -> EpochRecord:
    """One pass over the training split in a fresh order; returns means over its images."""
    images, labels = torch.from_numpy(train_set.images), torch.from_numpy(train_set.labels)
    order = torch.randperm(len(labels), generator=run.generator)
    batches = order.split(recipe.batch_size)
    warmup, total = recipe.optimiser.warmup_epochs * len(batches), recipe.epochs * len(batches)
    sums = {"loss": 0.0, "cross_entropy": 0.0, "mask_loss": 0.0, "train_accuracy": 0.0}
    for i, chosen in enumerate(batches):
        share = _schedule((epoch - 1) * len(batches) + i, warmup, total)
        for group in run.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * share
        batch = _shifted(images[chosen], recipe.shift_pixels, run.generator)
        logits = run.model(batch)
        entropy = functional.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
        charged = torch.zeros(())
        if recipe.mask_loss is not None:
            charged = mask_loss(run.model, list(recipe.mask_loss.groups)) * recipe.mask_loss.weight
        loss = entropy + charged
        run.optimiser.zero_grad()
        loss.backward()
        run.optimiser.step()
        _project(run.model)
        for key, value in (("loss", loss), ("cross_entropy", entropy), ("mask_loss", charged)):
            sums[key] += value.item() * len(chosen)
        sums["train_accuracy"] += int((logits.argmax(1) == labels[chosen]).sum())
    _check_finite(run.model, sums["loss"], recipe, epoch)
    record: EpochRecord = {"epoch": epoch, **{key: value / len(labels) for key, value in sums.items()}}
    steps = list(active_steps_by_layer(run.model).values())
    record["t_avg"] = sum(steps) / len(steps) if steps else None
    record["dead_layers"] = steps.count(0)
    return record


def _check_finite(model: nn.Module, loss: float, recipe: Recipe, epoch: int) -> None:
    """Raise RecipeError where training has diverged; NaN weights alone would show as a network without spikes."""
    finite = all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    if not (finite and math.isfinite(loss)):
        raise RecipeError(
            f"{recipe.name}: training diverged in epoch {epoch} (loss or weights are not finite); "
            "lower optimiser.learning_rate or scale the images to about 0..1"
        )


def _project(model: nn.Module) -> None:
    """TP back to 0 where the optimiser's step went below."""
    with torch.no_grad():
        for layer in spiking_layers(model).values():
            if isinstance(layer, DTSS):
                layer.tp.clamp_min_(0)


def _shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Each image (B, C, H, W) moved by up to ``largest`` pixels along both axes, zeros moving in."""
    if largest == 0:
        return images
    height, width = images.shape[2:]
    padded = functional.pad(images, (largest,) * 4)
    top, left = torch.randint(2 * largest + 1, (2, len(images), 1), generator=generator)
    rows = (top + torch.arange(height))[:, None, :, None]  # (B, 1, H, 1)
    columns = (left + torch.arange(width))[:, None, None, :]  # (B, 1, 1, W)
    batch = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[batch, channel, rows, columns]


def _result(run: _Run, recipe: Recipe, output: Path, seconds: float) -> TrainingResult:
    steps = active_steps_by_layer(run.model)
    return TrainingResult(
        recipe_name=recipe.name,
        path=output,
        accuracy=float(run.epochs[-1]["test_accuracy"] or 0.0),
        active_steps=steps,
        t_avg=sum(steps.values()) / len(steps) if steps else None,
        dead_layers=dead_layers(run.model),
        floor_layers=layers_held_by_floor(run.model),
        seconds=seconds,
        epochs=tuple(run.epochs),
    )


def _metadata(recipe: Recipe, train_set: ImageSet, result: TrainingResult) -> dict[str, Any]:
    """What the checkpoint says of its weights. The same for the same recipe, so no times and no paths."""
    return {
        "data": train_set.name,
        "data_note": train_set.note,
        "split": "train",
        "seed": recipe.seed,
        "mean": None,
        "std": None,
        "test_accuracy": result.accuracy,
        "active_steps": result.active_steps,
        "t_avg": result.t_avg,
        "recipe_name": recipe.name,
        "recipe": recipe.to_yaml(),
        "command": f"snn-energy train {recipe.name} --seed {recipe.seed}",
    }


def _write_log(epochs: list[EpochRecord], path: Path) -> None:
    """One line an epoch; test accuracy is empty where it was not measured. Raises OutputError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in epochs:
        row = {key: record[key] for key in LOG_COLUMNS}
        writer.writerow({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _fingerprint(recipe: Recipe) -> str:
    """Names a recipe with its seed."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


def _write_partial(run: _Run, recipe: Recipe, output: Path) -> None:
    state = {
        "recipe": _fingerprint(recipe),
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "generator": run.generator.get_state(),
        "epochs": run.epochs,
    }
    write_whole(partial_path(output), lambda temporary: torch.save(state, temporary))


def _read_partial(run: _Run, recipe: Recipe, output: Path) -> None:
    """Put a run where an interrupted one stopped. Raises CheckpointError."""
    path = partial_path(output)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, so there is nothing to resume; start afresh without resume")
    state = load_tensors_only(path)
    if not isinstance(state, dict) or set(state) != {"recipe", "model", "optimiser", "generator", "epochs"}:
        raise CheckpointError(f"{path}: not the state of a training run; start afresh without resume")
    if state["recipe"] != _fingerprint(recipe):
        raise CheckpointError(
            f"{path}: belongs to another recipe or seed than {recipe.name} with seed {recipe.seed}; "
            "resume with the recipe it was started with, or start afresh without resume"
        )
    run.model.load_state_dict(state["model"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.generator.set_state(state["generator"])
    run.epochs.extend(state["epochs"])


class _Reporter:
    """Progress on stderr: a bar with rate and time left on a terminal, a line every few epochs elsewhere."""

    def __init__(self, recipe: Recipe, *, enabled: bool, console: Console | None = None) -> None:
        self.recipe, self.enabled = recipe, enabled
        self.console = console or Console(stderr=True)
        self.dead: set[str] = set()
        self.started, self.done = time.perf_counter(), 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs {task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
        )
        self.task = self.bar.add_task(recipe.name, total=recipe.epochs, text="")

    def __enter__(self) -> _Reporter:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def epoch(self, record: EpochRecord, dead: tuple[str, ...]) -> None:
        """Show one finished epoch; warn, shown or not, of layers that have just lost their last time step."""
        self.done += 1
        epoch, total = int(record["epoch"] or 0), self.recipe.epochs
        pace = (time.perf_counter() - self.started) / self.done
        parts = [f"loss {record['loss']:.3f}", f"{pace:.1f} s/epoch"]
        if record["t_avg"] is not None:
            parts.insert(1, f"T_avg {record['t_avg']:.2f}")
        if record["test_accuracy"] is not None:
            parts.insert(1, f"test accuracy {record['test_accuracy']:.1%}")
        self.bar.update(self.task, completed=epoch, text=", ".join(parts))
        plain = self.enabled and not self.console.is_terminal
        if plain and (record["test_accuracy"] is not None or self.done == 1):
            left = f"{pace * (total - epoch):.0f} s left"
            line = f"{self.recipe.name}: epoch {epoch}/{total}, {', '.join(parts)}, {left}"
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)
        fresh = [name for name in dead if name not in self.dead]
        if fresh:
            message = "%s: epoch %d: no active time step left (T_l = 0) in %s"
            log.warning(message, self.recipe.name, epoch, ", ".join(fresh))
        self.dead = set(dead)
