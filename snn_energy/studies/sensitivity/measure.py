"""How much the later time steps of each group of layers contribute, measured in one pass over some samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snn_energy.core.errors import ModelError, ProfilingError
from snn_energy.core.files import make_folder, write_texts
from snn_energy.core.groups import GROUPS, layer_group
from snn_energy.datasets.rescaled import Normalisation
from snn_energy.models.neurons import LIF
from snn_energy.models.spikformer import spiking_layers
from snn_energy.report.tables import csv
from snn_energy.running.accuracy import count_hits
from snn_energy.running.evaluated import evaluation_mode, require_model_and_loader
from snn_energy.running.module_state import State
from snn_energy.studies.sensitivity.recommend import (
    POINTS,
    THRESHOLD,
    caveats,
    cut_rows,
    describe_value,
    firing_level,
    group_rows,
    model_title,
    recommend,
    statistics_rows,
)
from snn_energy.studies.sensitivity.statistics import MOST_BINS, RANGE, StepStatistics, merge, step_statistics

FILES = ("sensitivity-layers.csv", "sensitivity-groups.csv", "sensitivity-histograms.csv", "recommendation.txt")
CUTS_FILE = "sensitivity-cuts.csv"  # only if cuts were measured
FIGURE = "sensitivity"


@dataclass(frozen=True)
class Sensitivity:
    """The result of ``measure``.

    rows: one row per layer and time step (``to_frame``); counts: (rows, bins + 2) histograms of those rows, the open
    bins outermost; edges: (bins + 1,) in V_th; samples: number of samples; title: network and data; notes: caveats for
    readers of the figures; hits: group -> (T,) correct answers with its spikes only in the first 1..T steps, the last
    one being those of the whole network; empty if that was not measured.
    """

    rows: pd.DataFrame
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    samples: int
    time_steps: int
    title: str
    notes: tuple[str, ...] = ()
    hits: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and time step.

        ``layer`` ``group`` ``neuron`` (LIF, DTSS) ``time_step`` from 0; ``t_l``: time steps in which the layer may
        fire; ``active``: its mask at this step. ``count`` of inputs, ``mean`` ``std`` (over all inputs, not
        per sample) ``min`` ``max`` in the network's unit; ``v_th``: the level at which the layer fires, in the same
        unit; ``above_threshold``: inputs > V_th, and as a share, regardless of the potential before the step;
        ``below_range`` ``above_range``: inputs < -8 V_th and >= 8 V_th. ``cosine`` ``cosine_samples``
        ``cosine_undefined`` ``histogram_cosine``: similarity to step 0; ``same_as_first``: equal to step 0 bit for bit.
        """
        return self.rows.copy()

    def histograms(self) -> pd.DataFrame:
        """One row per layer, time step and bin: ``low`` <= input < ``high`` in V_th, ``count``; outermost -inf, inf."""
        bounds = np.concatenate([[-np.inf], self.edges, [np.inf]])
        bins = len(bounds) - 1
        frame = self.rows[["layer", "group", "time_step"]].loc[self.rows.index.repeat(bins)].reset_index(drop=True)
        frame["low"] = np.tile(bounds[:-1], len(self.rows))
        frame["high"] = np.tile(bounds[1:], len(self.rows))
        frame["count"] = self.counts.ravel()
        return frame

    def groups(self) -> pd.DataFrame:
        """One row per group and time step; see ``group_rows``."""
        return group_rows(self.rows)

    def cuts(self) -> pd.DataFrame:
        """One row per group and number of steps kept; see ``cut_rows``. Empty if it was not measured."""
        return cut_rows(self.hits, self.samples)

    def recommendation(self, *, points: float = POINTS, threshold: float = THRESHOLD) -> str:
        """Which groups should enter the mask loss, and why; see ``recommend``. Raises ProfilingError."""
        head = f"{self.title}: inputs of {self.rows['layer'].nunique()} spiking layers, {self.time_steps} time steps, "
        title = f"{head}{self.samples} samples"
        return recommend(self.rows, self.cuts(), points=points, threshold=threshold, title=title, notes=self.notes)

    def save(self, folder: str | Path, *, points: float = POINTS, threshold: float = THRESHOLD) -> list[Path]:
        """Write the tables, the recommendation and the picture into a folder; returns what was written.

        Tables and text are written all or none, each picture whole or not at all. Raises OutputError.
        """
        from snn_energy.report.plots.style import save_figure
        from snn_energy.report.plots.time_steps import sensitivity_figure

        text = self.recommendation(points=points, threshold=threshold)
        texts = [csv(self.to_frame()), csv(self.groups()), csv(self.histograms()), text]
        figure = sensitivity_figure(self.rows, self.histograms(), self.groups(), self.title, self.cuts())
        place = make_folder(folder)
        named = {place / name: text for name, text in zip(FILES, texts, strict=True)}
        if self.hits:
            named[place / CUTS_FILE] = csv(self.cuts())
        write_texts(named)
        return [*named, *save_figure(figure, place / FIGURE)]


class _LayerInputs:
    """Statistics of the inputs of a network's spiking layers, step by step, merged over batches.

    names: layer -> its name. levels: name -> firing threshold. shapes: (T, B) of every layer called in the current
    batch.
    """

    def __init__(self, model: nn.Module, bins: int) -> None:
        self.bins = bins
        self.names = {layer: name or type(layer).__name__ for name, layer in spiking_layers(model).items()}
        if not self.names:
            raise ProfilingError(
                f"{type(model).__name__} has no LIF or DTSS layer, so there are no LIF inputs to compare; "
                "give a spiking network, such as a spikformer"
            )
        self.levels = {name: firing_level(layer, name) for layer, name in self.names.items()}
        self.statistics: dict[str, list[StepStatistics]] = {}
        self.shapes: list[tuple[int, int]] = []

    def by_group(self) -> dict[str, list[LIF]]:
        """Group -> its layers, in the order of the network."""
        found: dict[str, list[LIF]] = {}
        for layer, name in self.names.items():
            found.setdefault(layer_group(name), []).append(layer)
        return found

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of a spiking layer."""
        assert isinstance(module, LIF)
        name = self.names[module]
        current = args[0] if args else kwargs.get("current")
        _require_time_axis(name, current, next(iter(self.statistics.items()), None))
        assert isinstance(current, Tensor)
        self.shapes.append((current.shape[0], current.shape[1]))
        if not current.numel():
            return
        try:
            steps = [step_statistics(step, current[0], self.levels[name], self.bins) for step in current]
        except ProfilingError as error:
            raise ProfilingError(f"{name}: {error}") from error
        before = self.statistics.get(name)
        self.statistics[name] = steps if before is None else [merge(a, b) for a, b in zip(before, steps, strict=True)]


def _correct_after_cuts(
    run: Run, x: Tensor, labels: Tensor, out: Any, layers_by_group: Mapping[str, list[LIF]], time_steps: int
) -> dict[str, NDArray[np.int64]]:
    """Group -> (T,) correct answers with the group's spikes zeroed from step 1, 2, ... on; the last one: none."""
    uncut = count_hits(out, labels)
    return {
        group: np.array(
            [*(count_hits(run(x, truncating_hooks(layers, k)), labels) for k in range(1, time_steps)), uncut]
        )
        for group, layers in layers_by_group.items()
    }


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    bins: int = 64,
    cut: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> Sensitivity:
    """How the inputs of a network's LIF and DTSS layers change over the time steps, and what later steps contribute.

    model: runs all its time steps in one call, every LIF gets (T, B, ...), one T >= 2 for all; it is run in eval mode
    without gradients and all its steps are computed. Every forward starts from the model's initial state; that state,
    its mode and its hooks are restored afterwards, also after an error. A layer called several times in one forward is
    measured every time. loader: any iterable of x or (x, y). bins: of equal width over -8..8 V_th. cut: if there are
    labels y (B,), also count correct answers of the logits (B, classes), of the whole network and with the spikes of
    one group zeroed from step k on, for every group and k in 1..T-1, so 1 + groups x (T-1) forwards per batch; False:
    y is ignored. on_batch: called with the number of samples done so far. One pass; the results do not depend on how
    the samples are divided into batches (integers exactly, if the network itself does not depend on it).

    Raises ProfilingError for a network without spiking layers or with one time step, for NaN and infinite inputs (it
    names the layer), for a loader without samples, for labels that do not match or are missing in some batches, and
    for bins outside 1..10000.
    """
    _require_arguments(model, loader, bins)
    inputs = _LayerInputs(model, bins)
    names, layers_by_group = inputs.names, inputs.by_group()
    samples, labelled, hits = 0, False, dict[str, NDArray[np.int64]]()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _forwards(model) as run:
        for batch in loader:
            x, y = _images_of(batch).to(device), _labels_of(batch) if cut else None
            inputs.shapes.clear()
            out = run(x, (layer.register_forward_pre_hook(inputs.add, with_kwargs=True) for layer in names))
            time_steps, batch_samples = inputs.shapes[0] if inputs.shapes else (0, 0)
            if batch_samples:
                if samples and labelled != (y is not None):
                    raise ProfilingError("some batches have labels and others none; give labels with all or with none")
                samples, labelled = samples + batch_samples, y is not None
            if batch_samples and labelled:
                for group, correct in _correct_after_cuts(
                    run, x, checked_labels(y, out, batch_samples), out, layers_by_group, time_steps
                ).items():
                    hits[group] = hits.get(group, 0) + correct
            if on_batch is not None:
                on_batch(samples)
    found = inputs.statistics
    if not found:
        raise ProfilingError("no LIF or DTSS layer got any input; the loader gave no samples, or none reach a layer")
    measured = {name: layer for layer, name in names.items() if name in found}
    rows = statistics_rows(measured, found, inputs.levels)
    return Sensitivity(
        rows,
        counts=np.stack([step.histogram for name in measured for step in found[name]]),
        edges=np.linspace(-RANGE, RANGE, bins + 1),
        samples=samples,
        time_steps=len(next(iter(found.values()))),
        title=model_title(model),
        notes=tuple(caveats(rows, [name for name in names.values() if name not in found], cut, labelled)),
        hits={group: tuple(hits[group].tolist()) for group in GROUPS if labelled and group in set(rows["group"])},
    )


def sensitivity_of_checkpoint(
    path: str | Path,
    data: str,
    samples: int | None = None,
    *,
    batch_size: int = 60,
    bins: int = 64,
    cut: bool = True,
    on_batch: Callable[[int], None] | None = None,
    model: str | None = None,
    options: dict[str, Any] | None = None,
    normalisation: Normalisation | None = None,
) -> Sensitivity:
    """``measure`` a checkpoint over (the first ``samples`` images of) the test split of a data set.

    data: ``digits`` or ``NAME:PATH``, as for ``datasets.load_images``; model, options: as for ``load_checkpoint``, for
    a file without metadata. Raises ModelError for a network that does not spike, ProfilingError as
    ``measure``, both with the file's name; CheckpointError, DataError.
    """
    from snn_energy.checkpoints.checkpoint import load_checkpoint
    from snn_energy.datasets.images import batches, check_labels
    from snn_energy.datasets.open import load_images
    from snn_energy.datasets.rescaled import rescaled

    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ProfilingError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    network: Any = load_checkpoint(path, model, **(options or {}))
    config = network.config
    if not spiking_layers(network):
        raise ModelError(
            f"{path}: a {config.name} is no spiking network: it has no LIF or DTSS layer, whose inputs could be "
            "compared over time steps; give a spikformer or dts-spikformer checkpoint"
        )
    images = load_images(data, "test", config.image_size, config.in_channels, samples)
    images = rescaled(images, config.in_channels, normalisation=normalisation)
    check_labels(images, config.num_classes)
    loader = ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches(images, batch_size))
    try:
        found = measure(network, loader, bins=bins, cut=cut, on_batch=on_batch)
    except ProfilingError as error:
        raise ProfilingError(f"{path}: {error}") from error
    return replace(found, title=f"{Path(path).stem} on {images.name}, {images.split} split")


def truncating_hooks(layers: Iterable[LIF], kept: int) -> Iterator[RemovableHandle]:
    """Hooks, set one by one, that zero the spikes (T, B, ...) of ``layers`` from step ``kept`` on, in a copy."""

    def end(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> Tensor:
        spikes = spikes.clone()
        spikes[kept:] = 0
        return spikes

    return (layer.register_forward_hook(end) for layer in layers)


def checked_labels(y: Any, logits: Any, samples: int) -> Tensor:
    """(B,) int64 labels on the CPU. Raises ProfilingError if they or the network's output do not match a batch."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples or not logits.isfinite().all():
        raise ProfilingError(
            f"to count right answers the network must give finite logits ({samples}, classes), "
            f"not {describe_value(logits)}; fix it or measure with cut=False"
        )
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProfilingError(f"labels must be whole numbers of shape ({samples},), not {describe_value(y)}") from error
    if labels.shape != (samples,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ProfilingError(f"labels must be whole numbers of shape ({samples},), not {describe_value(labels)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ProfilingError(
            f"labels run from {low} to {high}, but the network gives {logits.shape[1]} classes, from 0"
        )
    return labels.long().cpu()


def _require_arguments(model: Any, loader: Any, bins: Any) -> None:
    """Raise ProfilingError for arguments of the wrong type."""
    require_model_and_loader(model, loader)
    if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
        raise ProfilingError(f"bins must be a whole number from 1 to {MOST_BINS}, not {bins!r}")


def _require_time_axis(name: str, current: Any, known: tuple[str, list[StepStatistics]] | None) -> None:
    """Raise ProfilingError if an input is not (T, B, ...) with the T >= 2 of the layers before."""
    if not isinstance(current, Tensor) or current.dim() < 2:
        what = f"shape {tuple(current.shape)}" if isinstance(current, Tensor) else type(current).__name__
        raise ProfilingError(f"{name}: the input of a LIF must be a tensor (T, B, ...), not {what}")
    if len(current) < 2:
        raise ProfilingError(
            f"{name}: runs one time step, so there is no later one to compare with the first; "
            "give a network trained with several time steps"
        )
    if known is not None and len(current) != len(known[1]):
        raise ProfilingError(
            f"{name}: runs {len(current)} time steps and {known[0]} runs {len(known[1])}; "
            "all spiking layers must run the same number, so measure the parts one by one"
        )


def _images_of(batch: Any) -> Tensor:
    """x of a batch x or (x, y). Raises ProfilingError."""
    x = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if not isinstance(x, Tensor):
        raise ProfilingError(f"the loader must give tensors or (x, y) with a tensor x, not {type(x).__name__}")
    return x


def _labels_of(batch: Any) -> Any:
    """y of a batch (x, y); None for x, (x,) and (x, None)."""
    return batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None


Run = Callable[[Tensor, Iterable[RemovableHandle]], Any]


@contextmanager
def _forwards(model: nn.Module) -> Iterator[Run]:
    """run(x, hooks): a forward of a copy of x under hooks, in eval mode without gradients, from the current state.

    State and every module's own mode are restored afterwards. Hooks keep a DTSS network from skipping steps.
    """
    state = State(model)

    def run(x: Tensor, hooks: Iterable[RemovableHandle]) -> Any:
        state.restore()
        with _hooked(hooks):
            return model(x.clone())

    try:
        with torch.inference_mode(), evaluation_mode(model):
            yield run
    finally:
        state.restore()


@contextmanager
def _hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Set hooks one by one (from an iterator), and remove them on any exit."""
    handles = []
    try:
        for handle in hooks:
            handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()
