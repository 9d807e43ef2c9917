"""The training loop: one recipe in, one checkpoint out, the same weights every time.

Loss = cross entropy (or TET) + lambda_m * (sum over the charged DTSS layers l and the steps t of TM_l^t). The
weights of the last epoch are the result; the best ones on the images that choose (held out, or the test split, and
the checkpoint says which) lie beside them.

Everything random is drawn from generators that are seeded by the recipe and stored in ``<output>.partial``, so a
run that was interrupted anywhere and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata, save_checkpoint, sha256_of
from snn_energy.checkpoints.weights_file import load_tensors_only, read_tensors
from snn_energy.core.errors import CheckpointError, ModelError, OutputError, RecipeError
from snn_energy.core.files import require_apart, write_text, write_whole
from snn_energy.datasets.digits import BUNDLED
from snn_energy.datasets.images import Images, check_labels, held_out
from snn_energy.datasets.names import parse_data
from snn_energy.datasets.open import has_own_test_split, load_images
from snn_energy.models.cnn import Cnn
from snn_energy.models.create import create_model
from snn_energy.models.neurons import DTSS
from snn_energy.models.public_spikformer import PublicSpikformer
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.models.vit import VisionTransformer
from snn_energy.running.processes import Processes, join_batch_norms, processes
from snn_energy.training.augment import Draws, augmented, draw, mixed
from snn_energy.training.losses import cross_entropy, hoyer_loss, mask_loss, tet_loss
from snn_energy.training.progress import Reporter
from snn_energy.training.recipe import Recipe
from snn_energy.training.speed import clock, freed_memory_is_kept, fuse, precision

Network = Spikformer | PublicSpikformer | VisionTransformer | Cnn
SUMS = ("loss", "cross_entropy", "mask_loss", "train_accuracy")  # means over the images of an epoch
LOG_COLUMNS = ("epoch", *SUMS, "held_out_accuracy", "test_accuracy", "t_avg", "dead_layers")
PARTIAL_KEYS = {"recipe", "model", "optimiser", "generator", "epochs", "order", "next_batch", "sums", "seconds"}
PAUSE_S = 300.0  # a batch or a look at accuracy that takes longer was paused, and its time is not counted
TEST_BATCH = 120
MEASURED_STEPS = 5  # by ``measure_steps``
LEAST_THRESHOLD = 0.01  # of a Hoyer neuron, whose potentials are divided by it
CHECK_EVERY = 100  # batches between two looks at the loss, each of which waits for the device
EpochRecord = dict[str, float | int | None]


@dataclass(frozen=True)
class TrainingResult:
    """What a run ended with. Accuracy in 0..1 on the test split, of the last epoch.

    active_steps: T_l by spiking layer (T_max for a plain LIF); t_avg: their unweighted mean, None for a
    network without spiking layers. dead_layers: T_l = 0. floor_layers: layers whose own score would give T_l
    = 0 and that ``min_steps`` keeps alive. seconds: spent on the whole run, earlier calls included, by ``speed.clock``.
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


@dataclass
class _Data:
    train: Images
    test: Images
    held_out: Images | None
    fingerprint: str
    started_from: dict[str, str] | None  # name and SHA-256 of the checkpoint the weights came from


@dataclass
class _Run:
    """All that changes while training; what a partial file holds. order: of the epoch that is under way."""

    model: Network
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    epochs: list[EpochRecord]
    order: Tensor | None
    next_batch: int
    sums: Tensor  # (4,) float64, see SUMS
    precision: torch.dtype  # of the forward pass; what the machine can, so no part of the state
    clock: Callable[[], float]
    seconds: float = 0.0  # spent so far, in all calls
    at: float = 0.0  # up to when they are counted

    def count_seconds(self) -> None:
        """Add the time since the last call, unless it was a pause (SIGSTOP, a sleeping laptop)."""
        now = self.clock()
        self.seconds += now - self.at if now - self.at < PAUSE_S else 0.0
        self.at = now


@dataclass(frozen=True)
class _Batch:
    """One batch on its way to the device: this process's part of ``count`` images."""

    count: int
    places: Tensor
    draws: Draws
    pixels: Tensor
    labels: Tensor
    generator_state: Tensor  # after this batch's draws


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
    with its row of the log. resume: go on from ``<output>.partial``, which is written after every epoch and every
    ``save_every_s`` seconds; on_save is then called with the seconds spent so far. Written beside
    ``<stem>.safetensors``: ``<stem>.best.safetensors`` and ``<stem>.recipe.yaml``, the recipe with every default and
    change; with write_log ``<stem>.log.csv``. progress: show it on stderr. Under torchrun all processes work on one
    run, and the first one writes.
    Raises RecipeError, DataError, CheckpointError (a partial file of another run) and OutputError.
    """
    output, recipe = (
        Path(output_path),
        _changed(recipe, seed=seed, data=data, start_from=None if start_from is None else str(start_from)),
    )
    output = _checked_output(output_path, recipe, resume=resume)
    with _prepared(recipe, device) as group, contextlib.ExitStack() as stack:
        loaded = _load_data(recipe)
        run = _start(recipe, group)
        if resume:
            _read_partial(run, recipe, loaded, output)
        group.wait()
        report = stack.enter_context(Reporter(recipe, len(loaded.train.labels), enabled=progress and group.is_first))
        report.resume(len(run.epochs), run.next_batch * recipe.batch_size)
        saved = [time.monotonic()]

        def save(state: Tensor) -> None:
            _write_partial(run, recipe, loaded, output, group, state)
            saved[0] = time.monotonic()
            if on_save is not None:
                on_save(run.seconds)

        def after_batch(state: Tensor) -> None:
            run.count_seconds()
            if time.monotonic() - saved[0] > save_every_s:
                save(state)

        last = math.ceil(
            _total_steps(recipe, len(loaded.train.labels)) / _epoch_steps(recipe, len(loaded.train.labels))
        )
        for epoch in range(len(run.epochs) + 1, last + 1):
            record = _train_epoch(run, recipe, loaded.train, epoch, group, report, after_batch)
            evaluate = epoch == last or epoch % recipe.test_every == 0
            record["held_out_accuracy"] = _accuracy(run.model, loaded.held_out, group) if evaluate else None
            record["test_accuracy"] = _accuracy(run.model, loaded.test, group) if evaluate else None
            run.count_seconds()
            run.epochs.append(record)
            if group.is_first and best_epoch(run.epochs) == epoch:
                save_checkpoint(best_path(output), run.model, _metadata(recipe, loaded, run, "best"))
            save(run.generator.get_state())
            if group.is_first and write_log:
                _write_log(run.epochs, log_path(output))
            if group.is_first:
                report.epoch(record, dead_layers(run.model))
            if on_epoch is not None:
                on_epoch(record)
        if group.is_first:
            save_checkpoint(output, run.model, _metadata(recipe, loaded, run, "last"))
            if write_log:
                _write_log(run.epochs, log_path(output))
            partial_path(output).unlink(missing_ok=True)
        group.wait()
        return _result(run, recipe, output)


def partial_path(output: Path) -> Path:
    """Where the state of a run lies while it is under way."""
    return output.with_name(f"{output.name}.partial")


def best_path(output: Path) -> Path:
    """Where the best weights of a run lie."""
    return output.with_name(f"{output.stem}.best{output.suffix}")


def recipe_path(output: Path) -> Path:
    """Where the recipe of a run lies, every default written out."""
    return output.with_name(f"{output.stem}.recipe.yaml")


def log_path(output: Path) -> Path:
    """Where the log of a run lies: one line an epoch."""
    return output.with_name(f"{output.stem}.log.csv")


def _checked_output(path: str | Path, recipe: Recipe, *, resume: bool) -> Path:
    """Where the checkpoint goes. Raises OutputError where it cannot go there, or would overwrite what is read."""
    output = _checkpoint_place(path)
    data = parse_data(recipe.data or BUNDLED)[1]
    read = [Path(found) for found in (data, recipe.start_from) if found is not None]
    written = [output, best_path(output), recipe_path(output), log_path(output), partial_path(output)]
    require_apart(written, read)
    if partial_path(output).exists() and not resume:
        raise OutputError(
            f"{partial_path(output)}: is there, of a run that was interrupted; go on with it (--resume) or remove it"
        )
    return output


def _checkpoint_place(path: str | Path) -> Path:
    """The path of a checkpoint to write. Raises OutputError."""
    output = Path(path)
    if not str(path) or output.is_dir() or not output.parent.is_dir():
        raise OutputError(f"{path}: cannot be written there; give a file in a folder that exists")
    if output.suffix != ".safetensors":
        raise OutputError(f"{path}: a checkpoint is a .safetensors file; call it {output.stem}.safetensors")
    return output


def best_epoch(epochs: list[EpochRecord]) -> int:
    """The first epoch with the highest accuracy on the images that choose; 0 before the first evaluation."""
    scores = {int(record["epoch"] or 0): score for record in epochs if (score := _score(record)) is not None}
    return max(scores, key=lambda epoch: scores[epoch], default=0)


def _score(record: EpochRecord) -> float | None:
    held = record["held_out_accuracy"]
    return record["test_accuracy"] if held is None else held


@dataclass(frozen=True)
class StepTimes:
    """What a run costs on this machine: seconds of one step and of one evaluation, steps of one epoch."""

    step_s: float
    evaluation_s: float
    epoch_steps: int


def data_fingerprint(recipe: Recipe) -> str:
    """SHA-256 of the images and labels of both splits, wherever they lie. Raises RecipeError, DataError."""
    return _load_data(_changed(recipe).with_changes(start_from=None)).fingerprint


def measure_steps(recipe: Recipe, device: str = "cpu", *, start_from: str | Path | None = None) -> StepTimes:
    """Time a few steps of a recipe on a network that is thrown away, after two that warm up and compile.

    An evaluation: all held-out and test images once. Raises as ``train`` does.
    """
    recipe = _changed(recipe, start_from=None if start_from is None else str(start_from))
    with _prepared(recipe, device) as group:
        data = _load_data(recipe)
        run = _start(recipe, group)
        chunks = torch.randperm(len(data.train.labels), generator=run.generator).split(recipe.batch_size)
        seconds: list[float] = []
        for batch in _batches(run, recipe, data.train, chunks[: 2 + MEASURED_STEPS], group):
            started = run.clock()
            float(_step(run, recipe, batch, group)[0])  # waits for the device
            seconds.append(run.clock() - started)
        evaluated = [images for images in (data.held_out, data.test) if images is not None]
        sample = evaluated[-1].first(min(TEST_BATCH, len(evaluated[-1].labels)))
        _accuracy(run.model, sample, group)
        started = run.clock()
        _accuracy(run.model, sample, group)
        per_image = (run.clock() - started) / len(sample.labels)
    evaluation_s = per_image * sum(len(images.labels) for images in evaluated)
    return StepTimes(statistics.median(seconds[2:] or seconds), evaluation_s, len(chunks))


def accuracy(model: nn.Module, images: Images, batch_size: int = TEST_BATCH) -> float:
    """Share of images (0..1) whose largest logit is their label; the model is left in the mode it was in."""
    return (
        _accuracy(model, images, Processes(0, 1, next(model.parameters(), torch.zeros(())).device), batch_size) or 0.0
    )


def _accuracy(model: nn.Module, images: Images | None, group: Processes, size: int = TEST_BATCH) -> float | None:
    """``accuracy`` in float32, every process taking its share of the batches."""
    if images is None:
        return None
    was_training = model.training
    model.eval()
    hits, count = torch.zeros(1, device=group.device), len(images.labels)
    with torch.inference_mode():
        for start in list(range(0, count, size))[group.rank :: group.size]:
            chosen = np.arange(start, min(start + size, count))
            logits = model(torch.from_numpy(images.batch(chosen)).to(group.device))
            hits += (logits.argmax(1).cpu() == torch.from_numpy(images.labels[chosen])).sum().to(group.device)
    model.train(was_training)
    return int(group.add_up(hits)) / count


def to_float16(checkpoint: str | Path, data: str, output: str | Path) -> tuple[float, float]:
    """Write a checkpoint with 16-bit weights; returns its accuracy (0..1) on the test split before and after.

    The metadata's ``test_accuracy`` is the one after; the one before stands beside it. Raises SnnEnergyError.
    """
    output, data_path = _checkpoint_place(output), parse_data(data)[1]
    require_apart([output], [Path(found) for found in (checkpoint, data_path) if found is not None])
    network: Any = load_checkpoint(checkpoint)
    said = read_metadata(checkpoint)
    config = network.config
    images = load_images(data, "test", config.image_size, config.in_channels)
    check_labels(images, config.num_classes)
    before = accuracy(network, images)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.safetensors"
        save_checkpoint(trial, network, {}, half=True)
        after = accuracy(load_checkpoint(trial), images)
    known = {"test_accuracy": after, "test_accuracy_32_bit": before, "weights": "16-bit floats"}
    save_checkpoint(output, network, said | known, half=True)
    return before, after


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


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with what is not None put in. Raises RecipeError."""
    given = {key: value for key, value in changes.items() if value is not None}
    changed = recipe.with_changes(**given) if given else recipe
    if changed.data is None:
        raise RecipeError(f"{recipe.name}: names no data; give --data NAME:PATH")
    return changed


def _load_data(recipe: Recipe) -> _Data:
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
    rest, chosen = held_out(train_set, recipe.hold_out) if recipe.hold_out else (train_set, None)
    start = None if recipe.start_from is None else _origin(recipe.start_from)
    return _Data(rest, test_set, chosen, fingerprint.hexdigest(), start)


@contextlib.contextmanager
def _reproducible(threads: int, group: Processes) -> Iterator[None]:
    """Deterministic algorithms on the CPU, this many threads, a seeded global generator; all put back afterwards."""
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
    """The processes of this run, each reproducible and keeping its freed memory; all put back afterwards."""
    with processes(device) as group, _reproducible(recipe.threads, group), freed_memory_is_kept():
        yield group


def _start(recipe: Recipe, group: Processes) -> _Run:
    """Epoch 0: a network with seeded weights, a fresh optimiser and a generator."""
    if group.size > 1 and recipe.model.neuron == "hoyer":
        raise RecipeError(f"{recipe.name}: neuron hoyer takes statistics of the whole batch; train it in one process")
    torch.manual_seed(recipe.seed)
    options = recipe.model.model_dump(exclude={"name"}, exclude_none=True)
    try:
        model = create_model(recipe.model.name, **options)
    except (ModelError, RuntimeError, MemoryError, TypeError) as error:  # torch cannot make what is too large
        raise RecipeError(f"{recipe.name}: model: {error}") from error
    if recipe.start_from is not None:
        _fill_from(model, recipe.start_from)
    if group.size > 1:
        join_batch_norms(model)
    model.to(group.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fuse(model, recipe, group.device, group.size)
    generator, sums = torch.Generator().manual_seed(recipe.seed), torch.zeros(len(SUMS)).double()
    dtype = precision(recipe, group.device)
    watch = clock(group.device, recipe.threads)
    return _Run(
        model.train(), _optimiser(model, recipe), generator, [], None, 0, sums, dtype, watch, at=watch()
    )  # fmt: skip


def _fill_from(model: nn.Module, path: str) -> None:
    """Take over the tensors of a checkpoint that have the same name and shape. Raises CheckpointError."""
    found, own = read_tensors(Path(path).expanduser()), model.state_dict()
    taken = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not any(name.endswith("weight") for name in taken):
        raise CheckpointError(f"{path}: start_from: no weight has the name and shape of one of this network")
    model.load_state_dict(taken, strict=False)


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
    return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)


def _schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): a linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def _epoch_steps(recipe: Recipe, images: int) -> int:
    """Batches of one pass over so many images."""
    return math.ceil(images / recipe.batch_size)


def _total_steps(recipe: Recipe, images: int) -> int:
    """Batches of the whole run, at least one."""
    return max(1, round(recipe.epochs * _epoch_steps(recipe, images)))


def _train_epoch(
    run: _Run,
    recipe: Recipe,
    images: Images,
    epoch: int,
    group: Processes,
    report: Reporter,
    after_batch: Callable[[Tensor], None],
) -> EpochRecord:
    """One pass, or what is left of one, over the training split; returns means over its images."""
    if run.order is None:
        run.order = torch.randperm(len(images.labels), generator=run.generator)
        run.next_batch, run.sums = 0, torch.zeros(len(SUMS)).double()
    every, total = _epoch_steps(recipe, len(images.labels)), _total_steps(recipe, len(images.labels))
    before, warmup = (epoch - 1) * every, round(recipe.optimiser.warmup_epochs * every)
    chunks = run.order.split(recipe.batch_size)[: total - before]  # a part of a pass at the end
    run.sums = run.sums.to(group.device)
    for batch in _batches(run, recipe, images, chunks, group):
        share = _schedule(before + run.next_batch, min(warmup, total - 1), total)
        for parameters in run.optimiser.param_groups:
            parameters["lr"] = parameters["peak_lr"] * share
        run.sums += group.add_up(_step(run, recipe, batch, group))
        run.next_batch += 1
        report.batch(batch.count)
        if run.next_batch % CHECK_EVERY == 0:
            _check_finite({}, float(run.sums[0]), recipe, epoch)
        after_batch(batch.generator_state)
    sums = dict(zip(SUMS, run.sums.tolist(), strict=True))
    _check_finite(run.model.state_dict(), sums["loss"], recipe, epoch)
    count = sum(len(chunk) for chunk in chunks)
    record: EpochRecord = {"epoch": epoch, **{key: value / count for key, value in sums.items()}}
    steps = list(active_steps_by_layer(run.model).values())
    record["t_avg"] = sum(steps) / len(steps) if steps else None
    record["dead_layers"] = steps.count(0)
    run.order = None
    return record


def _batches(
    run: _Run, recipe: Recipe, images: Images, chunks: tuple[Tensor, ...], group: Processes
) -> Iterator[_Batch]:
    """The batches that are left, each read by a thread while the one before is worked on."""

    def prepare(chosen: Tensor) -> Callable[[], _Batch]:
        draws = draw(recipe, len(chosen), run.generator)
        places, state = group.part(len(chosen)), run.generator.get_state()
        mine = chosen[places].numpy()
        crops = None if draws.crops is None else draws.crops[places.numpy()]

        def read() -> _Batch:
            pixels, labels = torch.from_numpy(images.batch(mine, crops)), torch.from_numpy(images.labels[mine])
            if group.device.type == "cuda":  # so that their copies to the device wait for nobody
                pixels, labels = pixels.pin_memory(), labels.pin_memory()
            return _Batch(len(chosen), places, draws, pixels, labels, state)

        return read

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for chosen in chunks[run.next_batch :]:
            ready, coming = coming, reader.submit(prepare(chosen))
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _step(run: _Run, recipe: Recipe, batch: _Batch, group: Processes) -> Tensor:
    """One step of the optimiser; returns this process's share of SUMS over the batch's images, (4,) float64."""
    labels = batch.labels.to(group.device, non_blocking=True)
    images = batch.pixels.to(group.device, non_blocking=True)
    images, targets = augmented(images, batch.draws, batch.places, recipe), labels
    if batch.draws.mixed is not None:
        images, targets = mixed(images, labels, batch.draws.mixed, recipe.model.num_classes)
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    tet, smoothing, model = recipe.tet_loss, recipe.label_smoothing, run.model
    try:
        with torch.autocast(group.device.type, torch.bfloat16, enabled=run.precision == torch.bfloat16):
            steps = model.forward_steps(images).float() if tet and not isinstance(model, VisionTransformer) else None
            logits = model(images).float() if steps is None else steps.mean(0)
    except ValueError as error:  # how BatchNorm tells of a single value
        raise RecipeError(
            f"{recipe.name}: a batch of {batch.count} is too small for BatchNorm ({error}); "
            "choose a batch_size that leaves more images in the last batch"
        ) from error
    entropy = cross_entropy(logits, targets, smoothing, batch.count)
    answer = entropy
    if tet is not None and steps is not None:
        answer = tet_loss(steps, targets, smoothing, batch.count, tet.weight, tet.target)
    charged, regular = torch.zeros((), device=group.device), torch.zeros((), device=group.device)
    if group.is_first and recipe.mask_loss is not None:  # once, whoever adds up
        charged = mask_loss(model, list(recipe.mask_loss.groups)) * recipe.mask_loss.weight
    if recipe.hoyer_loss is not None:
        regular = hoyer_loss(model) * recipe.hoyer_loss.weight
    loss = answer + charged + regular
    run.optimiser.zero_grad()
    loss.backward()
    group.add_up_gradients(model)
    if recipe.optimiser.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimiser.clip_norm)
    run.optimiser.step()
    _project(model)
    means = torch.stack([value.detach().double() for value in (loss, entropy, charged)]) * batch.count
    wanted = labels if targets is labels else targets.argmax(1)  # of a mix: the larger share
    hits = (logits.detach().argmax(1) == wanted).sum().double()
    return torch.cat([means, hits[None]])


def _check_finite(weights: dict[str, Tensor], loss: float, recipe: Recipe, epoch: int) -> None:
    """Raise RecipeError where training has diverged; NaN weights alone would show as a network without spikes."""
    finite = all(bool(torch.isfinite(value).all()) for value in weights.values())
    if not (finite and math.isfinite(loss)):
        raise RecipeError(
            f"{recipe.name}: training diverged in epoch {epoch} (loss or weights are not finite); "
            "lower optimiser.learning_rate or scale the images to about 0..1"
        )


def _project(model: nn.Module) -> None:
    """TP back to 0, and a trained threshold to above 0, where the optimiser's step went below."""
    with torch.no_grad():
        for layer in spiking_layers(model).values():
            if isinstance(layer, DTSS):
                layer.tp.clamp_min_(0)
            if layer.rule == "hoyer":
                layer.threshold.clamp_min_(LEAST_THRESHOLD)


def _result(run: _Run, recipe: Recipe, output: Path) -> TrainingResult:
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
    """The recipe as a checkpoint keeps it: without the places of this machine."""
    return recipe.model_copy(update={"data": recipe.data if recipe.data == BUNDLED else None, "start_from": None})


def _metadata(recipe: Recipe, data: _Data, run: _Run, which: str) -> dict[str, Any]:
    """What the checkpoint says of its weights. The same for the same recipe, so no times and no paths."""
    record, steps = run.epochs[-1], active_steps_by_layer(run.model)
    chooser = "the test split, so its accuracy there is optimistic" if data.held_out is None else "held-out images"
    return {
        "data": data.train.name,
        "data_note": data.train.note,
        "data_sha256": data.fingerprint,
        "split": "train",
        "seed": recipe.seed,
        "mean": None,
        "std": None,
        "epoch": record["epoch"],
        "chosen": f"best of {recipe.epochs:g} epochs on {chooser}" if which == "best" else "last epoch",
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


def _origin(path: str) -> dict[str, str]:
    """A checkpoint without its path: name and content."""
    return {"checkpoint": Path(path).name, "sha256": sha256_of(Path(path).expanduser())}


def _write_log(epochs: list[EpochRecord], path: Path) -> None:
    """One line an epoch; test accuracy is empty where it was not measured. Raises OutputError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in epochs:
        row = {key: record[key] for key in LOG_COLUMNS}
        writer.writerow({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _fingerprint(recipe: Recipe, data: _Data) -> str:
    """Names a recipe with its seed, the weights it starts from and the data it sees, wherever they lie."""
    text = recipe.model_copy(update={"data": None, "start_from": None}).model_dump_json() + data.fingerprint
    start = "" if data.started_from is None else data.started_from["sha256"]
    return hashlib.sha256((text + start).encode()).hexdigest()


def _write_partial(
    run: _Run, recipe: Recipe, data: _Data, output: Path, group: Processes, generator_state: Tensor
) -> None:
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
        except RuntimeError as error:  # how torch tells of a full disk
            raise OutputError(
                f"{partial_path(output)}: cannot be written; is the disk full? make room and resume"
            ) from error

    write_whole(partial_path(output), write)
    resolved, text = recipe_path(output), recipe.to_yaml()
    if not resolved.exists() or resolved.read_text(encoding="utf-8") != text:
        write_text(resolved, text)


def _read_partial(run: _Run, recipe: Recipe, data: _Data, output: Path) -> None:
    """Put a run where an interrupted one stopped. Raises CheckpointError."""
    path = partial_path(output)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, so there is nothing to resume; start afresh without resume")
    state = load_tensors_only(path)
    if not isinstance(state, dict) or set(state) != PARTIAL_KEYS:
        raise CheckpointError(f"{path}: not the state of a training run; start afresh without resume")
    if state["recipe"] != _fingerprint(recipe, data):
        raise CheckpointError(
            f"{path}: belongs to another recipe, seed or data than {recipe.name} with seed {recipe.seed}; "
            "resume with what it was started with, or start afresh without resume"
        )
    try:
        run.model.load_state_dict(state["model"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.generator.set_state(state["generator"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); start afresh without resume") from error
    run.epochs.extend(state["epochs"])
    run.order, run.next_batch, run.sums = state["order"], state["next_batch"], state["sums"]
    run.seconds, run.at = state["seconds"], run.clock()
