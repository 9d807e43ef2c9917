"""Time-step sensitivity: which groups of layers can do without their later time steps and enter the mask loss.

``measure`` asks that in two ways, in one pass over the data, and keeps sums alone; ``Sensitivity`` holds the figures,
a picture and a plain recommendation.

- Where the loader gives labels, directly: the accuracy with the spikes of one group zeroed from step k on, without
  retraining (``cuts``). The recommendation rests on it.
- By how much the inputs of every LIF change over the time steps (the paper's Fig. 2). That predicts the cost badly:
  in the shipped Spikformer sps changes least and costs most. It decides where there are no labels.

There are two cosines, both against the first step and neither ever 0 for want of a figure:

- ``cosine``: per sample, between the inputs of all neurons of a layer at step t and at step 0; the mean over samples.
  It asks whether the step sees something new *for this image*. A sample with no input but zeros in either step has
  no cosine: it is left out of the mean and counted (``cosine_undefined``).
- ``histogram_cosine``: between the two histograms over all samples and neurons. It asks whether the *distribution*
  moves, which is what Fig. 2 shows. It stays near 1 where every neuron gets another input of the same spread.

Neither is centred: what a BatchNorm adds in every step counts as likeness. Equal inputs do not make equal spikes
either, because the potential of a neuron carries over. The figures tell most on a network trained with all its time
steps (a plain Spikformer). In a DTSS network masked steps take part, and where all sources of an input are masked the
input is the BatchNorm's bias or nothing; to cut a masked step costs nothing.

Histograms have fixed edges, since one pass cannot look for better ones: equal bins over -8..8 V_th and one open bin on
either side, which are reported (``below_range``, ``above_range``) and drawn, never cut off in silence.
"""

from __future__ import annotations

import math
import textwrap
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
from snn_energy.core.groups import GROUPS, MASK_GROUPS, layer_group
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.report.tables import csv
from snn_energy.running.module_state import State

RANGE = 8.0  # V_th; inputs beyond it fall into the open bins
MOST_BINS = 10_000
LARGEST = 1e150  # squares of anything larger leave float64
THRESHOLD = 0.9  # mean cosine, the rule without labels
POINTS = 1.0  # percentage points of accuracy, the rule with labels
BUNDLED_WEIGHT = "1.0e-4"  # lambda_m of the bundled recipe digits-dts
FILES = ("sensitivity-layers.csv", "sensitivity-groups.csv", "sensitivity-histograms.csv", "recommendation.txt")
CUTS_FILE = "sensitivity-cuts.csv"  # where there are cut figures
FIGURE = "sensitivity"


@dataclass(frozen=True)
class StepFigures:
    """Sums over the inputs of one layer at one time step, of one batch or of several (``merged``).

    count: inputs (neurons x samples); squares: sum of squared deviations from the mean; above: inputs > V_th;
    histogram: (bins + 2,) counts, the open bins outermost; cosine_sum: over the ``cosine_samples`` samples that have
    one; same: whether every input was that of the first step, to the last bit. Inputs are in the network's own unit.
    """

    count: int
    mean: float
    squares: float
    low: float
    high: float
    above: int
    histogram: NDArray[np.int64]
    cosine_sum: float
    cosine_samples: int
    cosine_undefined: int
    same: bool


def step_figures(x: Tensor, first: Tensor, level: float, bins: int) -> StepFigures:
    """The figures of one batch. x, first: (B, ...) inputs at a step and at step 0, none of them empty; level: V_th.

    Raises ProfilingError for NaN, infinite and unmanageably large values.
    """
    own, start = x.reshape(len(x), -1), first.reshape(len(first), -1)
    wide, wide_start = own.double(), start.double()
    low, high = (float(value) for value in wide.aminmax())
    if not (abs(low) <= LARGEST and abs(high) <= LARGEST):  # also false for NaN
        raise ProfilingError(f"inputs from {low} to {high}; mend the weights or the data, they must be finite")
    mean = wide.mean()
    cosines = sample_cosines(wide, wide_start)
    defined = cosines[~cosines.isnan()]
    return StepFigures(
        count=wide.numel(),
        mean=float(mean),
        squares=float((wide - mean).square().sum()),
        low=low,
        high=high,
        above=int((own > level).sum()),
        histogram=histogram(wide / level, bins),
        cosine_sum=float(defined.sum()),
        cosine_samples=len(defined),
        cosine_undefined=len(cosines) - len(defined),
        same=bool(torch.equal(own, start)),
    )


def histogram(units: Tensor, bins: int) -> NDArray[np.int64]:
    """(bins + 2,) counts of inputs in units of V_th: < -8, ``bins`` equal bins of low <= x < high over -8..8, >= 8.

    units: float64, finite, any shape. Bin k + bins/2 of the inner ones holds k <= x * bins/16 < k + 1: the product
    of a single-precision number and bins/16 is exact in float64, so no input is put beside its bin by rounding.
    """
    scaled = units.flatten() * (bins / (2 * RANGE))
    if bins % 2:
        scaled += 0.5
    inner = scaled.floor_().add_(bins // 2).clamp_(-1, bins)
    counts: NDArray[np.int64] = torch.bincount(inner.int().add_(1), minlength=bins + 2).cpu().numpy()
    return counts


def sample_cosines(a: Tensor, b: Tensor) -> Tensor:
    """(B, N) and (B, N) -> (B,) cosines of the rows, in -1..1; NaN where either row is all zeros."""
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosines: Tensor = (torch.linalg.vecdot(a, b, dim=1) / norms).clamp(-1, 1)  # 0/0 is NaN, which clamp keeps
    return cosines


def merged(a: StepFigures, b: StepFigures) -> StepFigures:
    """The figures of both batches together; mean and squares by Chan, Golub and LeVeque's update."""
    count, delta = a.count + b.count, b.mean - a.mean
    return StepFigures(
        count=count,
        mean=a.mean + delta * b.count / count,
        squares=a.squares + b.squares + delta * delta * a.count * b.count / count,
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        above=a.above + b.above,
        histogram=a.histogram + b.histogram,
        cosine_sum=a.cosine_sum + b.cosine_sum,
        cosine_samples=a.cosine_samples + b.cosine_samples,
        cosine_undefined=a.cosine_undefined + b.cosine_undefined,
        same=a.same and b.same,
    )


@dataclass(frozen=True)
class Sensitivity:
    """What ``measure`` found.

    rows: one row per layer and time step (``to_frame``); counts: (rows, bins + 2) histograms of those rows, the open
    bins outermost; edges: (bins + 1,) in V_th; samples: how many were looked at; title: what was looked at; notes:
    lines that whoever reads the figures has to know; hits: group -> (T,) right answers with its spikes in the first
    1..T steps alone, the last one those of the whole network; empty where that was not measured.
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
        fire; ``active``: its mask at this step. ``count`` of inputs, ``mean`` ``std`` (of the whole, not of a
        sample) ``min`` ``max`` in the network's unit; ``v_th``: the level at which the layer fires, in the same
        unit; ``above_threshold``: inputs > V_th, and as a share, without what the potential held before;
        ``below_range`` ``above_range``: inputs < -8 V_th and >= 8 V_th. ``cosine`` ``cosine_samples``
        ``cosine_undefined`` ``histogram_cosine``: see the module; ``same_as_first``: the input of step 0 to the bit.
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
        """One row per group and number of steps kept; see ``cut_rows``. Empty where it was not measured."""
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
        from snn_energy.report.plots import save_figure, sensitivity_figure

        text = self.recommendation(points=points, threshold=threshold)
        texts = [csv(self.to_frame()), csv(self.groups()), csv(self.histograms()), text]
        figure = sensitivity_figure(self.rows, self.histograms(), self.groups(), self.title, self.cuts())
        place = make_folder(folder)
        named = {place / name: text for name, text in zip(FILES, texts, strict=True)}
        if self.hits:
            named[place / CUTS_FILE] = csv(self.cuts())
        write_texts(named)
        return [*named, *save_figure(figure, place / FIGURE)]


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    bins: int = 64,
    cut: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> Sensitivity:
    """How the inputs of a network's LIF and DTSS layers change over the time steps, and what later steps are worth.

    model: runs all its time steps in one call, every LIF gets (T, B, ...), one T >= 2 for all; it is run in eval mode
    without gradients and all its steps are computed. Every forward starts from the state the model is handed in with;
    that, its mode and its hooks are as before afterwards, also when it raises. A layer called several times in one
    forward is looked at every time. loader: any iterable of x or (x, y). bins: of equal width over -8..8 V_th. cut:
    where there are labels y (B,), also count right answers of the logits (B, classes), of the whole network and with
    the spikes of one group zeroed from step k on, for every group and k in 1..T-1, so 1 + groups x (T-1) forwards a
    batch; False: y is ignored. on_batch: called with the number of samples done so far. One pass; figures do not
    depend on how the samples are cut into batches (integers exactly, as far as the network itself does not).

    Raises ProfilingError for a network without spiking layers or with one time step, for NaN and infinite inputs (it
    names the layer), for a loader without samples, for labels that do not fit or come with some batches alone, and
    for bins out of 1..10000.
    """
    _require_arguments(model, loader, bins)
    names = {layer: name or type(layer).__name__ for name, layer in spiking_layers(model).items()}
    if not names:
        raise ProfilingError(
            f"{type(model).__name__} has no LIF or DTSS layer, so there are no LIF inputs to compare; "
            "give a spiking network, such as a spikformer"
        )
    levels = {name: firing_level(layer, name) for layer, name in names.items()}
    found: dict[str, list[StepFigures]] = {}
    shapes: list[tuple[int, int]] = []  # (T, B) of every layer called in the batch at hand; the first one counts

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, LIF)
        name = names[module]
        current = args[0] if args else kwargs.get("current")
        _require_time_axis(name, current, next(iter(found.items()), None))
        assert isinstance(current, Tensor)
        shapes.append((current.shape[0], current.shape[1]))
        if not current.numel():
            return
        try:
            steps = [step_figures(step, current[0], levels[name], bins) for step in current]
        except ProfilingError as error:
            raise ProfilingError(f"{name}: {error}") from error
        found[name] = [merged(a, b) for a, b in zip(found[name], steps, strict=True)] if name in found else steps

    members: dict[str, list[LIF]] = {}
    for layer, name in names.items():
        members.setdefault(layer_group(name), []).append(layer)
    samples, labelled, hits = 0, False, dict[str, NDArray[np.int64]]()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _as_evaluated(model) as run:
        for batch in loader:
            x, y = _images_of(batch).to(device), _labels_of(batch) if cut else None
            shapes.clear()
            out = run(x, (layer.register_forward_pre_hook(look, with_kwargs=True) for layer in names))
            time_steps, size = shapes[0] if shapes else (0, 0)
            if size:
                if samples and labelled != (y is not None):
                    raise ProfilingError("some batches have labels and others none; give labels with all or with none")
                samples, labelled = samples + size, y is not None
            if size and labelled:
                labels = checked_labels(y, out, size)
                for group, layers in members.items():
                    right = [right_answers(run(x, ending(layers, k)), labels) for k in range(1, time_steps)]
                    hits[group] = hits.get(group, 0) + np.array([*right, right_answers(out, labels)])
            if on_batch is not None:
                on_batch(samples)
    if not found:
        raise ProfilingError("no LIF or DTSS layer got any input; the loader gave no samples, or none reach a layer")
    looked = {name: layer for layer, name in names.items() if name in found}
    rows = _rows(looked, found, levels)
    return Sensitivity(
        rows,
        counts=np.stack([step.histogram for name in looked for step in found[name]]),
        edges=np.linspace(-RANGE, RANGE, bins + 1),
        samples=samples,
        time_steps=len(next(iter(found.values()))),
        title=_name_of(model),
        notes=tuple(_notes(rows, [name for name in names.values() if name not in found], cut, labelled)),
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
) -> Sensitivity:
    """``measure`` a checkpoint over (the first ``samples`` images of) the test split of a data set.

    data: ``digits`` or ``NAME:PATH``, as ``datasets.load_images`` has it; model, options: as ``load_checkpoint``, for
    a file that does not say what it is. Raises ModelError for a network that does not spike, ProfilingError as
    ``measure``, both with the file's name; CheckpointError, DataError.
    """
    from snn_energy.checkpoints.checkpoint import load_checkpoint
    from snn_energy.datasets.images import batches, check_labels
    from snn_energy.datasets.open import load_images

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
    check_labels(images, config.num_classes)
    loader = ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches(images, batch_size))
    try:
        found = measure(network, loader, bins=bins, cut=cut, on_batch=on_batch)
    except ProfilingError as error:
        raise ProfilingError(f"{path}: {error}") from error
    return replace(found, title=f"{Path(path).stem} on {images.name}, {images.split} split")


def ending(layers: Iterable[LIF], kept: int) -> Iterator[RemovableHandle]:
    """Hooks, set one by one, that zero the spikes (T, B, ...) of ``layers`` from step ``kept`` on, in a copy."""

    def end(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> Tensor:
        spikes = spikes.clone()
        spikes[kept:] = 0
        return spikes

    return (layer.register_forward_hook(end) for layer in layers)


def right_answers(logits: Tensor, labels: Tensor) -> int:
    """How many of the logits (B, classes) have their maximum at the label (B,)."""
    return int((logits.argmax(1).cpu() == labels).sum())


def checked_labels(y: Any, logits: Any, samples: int) -> Tensor:
    """(B,) int64 labels on the CPU. Raises ProfilingError where they or the network's output do not fit a batch."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples or not logits.isfinite().all():
        raise ProfilingError(
            f"to count right answers the network must give finite logits ({samples}, classes), not {_form(logits)}; "
            "mend it or measure with cut=False"
        )
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProfilingError(f"labels must be whole numbers of shape ({samples},), not {_form(y)}") from error
    if labels.shape != (samples,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ProfilingError(f"labels must be whole numbers of shape ({samples},), not {_form(labels)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ProfilingError(
            f"labels run from {low} to {high}, but the network gives {logits.shape[1]} classes, from 0"
        )
    return labels.long().cpu()


def cut_rows(hits: Mapping[str, Sequence[int]], samples: int) -> pd.DataFrame:
    """One row per group and number of steps that its spikes were kept for, without retraining.

    hits: group -> (T,) right answers of ``samples``. ``steps_kept`` from 1 to T, T being the whole network; ``hits``
    ``samples`` ``accuracy``; ``points_lost``: percentage points against the whole network, below 0 where it gains.
    """
    rows = [
        (group, kept, right, samples, right / samples, 100 * (of_group[-1] - right) / samples)
        for group, of_group in hits.items()
        for kept, right in enumerate(of_group, start=1)
    ]
    return pd.DataFrame(rows, columns=["group", "steps_kept", "hits", "samples", "accuracy", "points_lost"])


def firing_level(layer: LIF, name: str = "layer") -> float:
    """V_th; of a layer with rule ``hoyer`` its trained threshold times its extremum. Raises ProfilingError."""
    level = layer.v_th
    if layer.rule == "hoyer":
        level = float(layer.threshold.detach()) * float(layer.get_buffer("extremum"))
    if not 0 < level < math.inf:
        raise ProfilingError(f"{name}: fires at {level}; the unit of the histograms must be a positive threshold")
    return level


def histogram_cosines(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(T, bins) histograms, none of them empty -> (T,) cosines with the first, in 0..1."""
    wide = counts.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    cosines: NDArray[np.float64] = np.clip(wide @ wide[0] / (norms * norms[0]), 0, 1)
    return cosines


def group_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group and time step: unweighted means over the layers of a group, lowest and highest layer.

    rows: of ``Sensitivity.to_frame``. ``layers``: how many; ``cosine`` with ``_min``, ``_max`` and the name of the
    lowest layer, over the layers that have one; ``layers_undefined``: those that have none;
    ``histogram_cosine`` and ``above_threshold_share`` likewise.
    """
    found = []
    for (group, step), part in _by_group(rows).groupby(["group", "time_step"], sort=True, observed=True):
        cosines = part.set_index("layer")["cosine"].dropna()
        row: dict[str, Any] = {"group": str(group), "time_step": step, "layers": len(part)}
        for name in ("cosine", "histogram_cosine", "above_threshold_share"):
            row |= {name: part[name].mean(), f"{name}_min": part[name].min(), f"{name}_max": part[name].max()}
        row["cosine_lowest_layer"] = cosines.idxmin() if len(cosines) else None
        row["layers_undefined"] = len(part) - len(cosines)
        found.append(row)
    return pd.DataFrame(found)


def later_cosines(rows: pd.DataFrame) -> dict[str, float]:
    """Group -> mean cosine over its layers and later steps, as far as there is one (else NaN); in the network's order.

    A layer's figure is the mean over its later steps; every layer weighs the same. rows: of ``Sensitivity.to_frame``.
    """
    later = _by_group(rows[rows["time_step"] > 0]).groupby(["group", "layer"], observed=True)["cosine"].mean()
    return {str(group): float(part.mean()) for group, part in later.groupby("group", observed=True)}


def half_losses(cuts: pd.DataFrame) -> dict[str, float]:
    """Group -> percentage points lost with half of its steps, ceil(T/2). cuts: of ``Sensitivity.cuts``, not empty."""
    half = cuts[cuts["steps_kept"] == (cuts["steps_kept"].max() + 1) // 2]
    return dict(zip(half["group"], half["points_lost"], strict=True))


def recommended_groups(
    rows: pd.DataFrame, cuts: pd.DataFrame | None = None, *, points: float = POINTS, threshold: float = THRESHOLD
) -> list[str]:
    """The groups that should enter the mask loss, in the order of a recipe.

    With ``cuts`` (of ``Sensitivity.cuts``, not empty): those that lose at most ``points`` percentage points of
    accuracy with half of their steps. Without: those whose mean cosine over layers and later steps is at least
    ``threshold``. Groups that a recipe does not know (head, other) are never among them. Raises ProfilingError for a
    threshold out of -1..1 and points out of 0..100.
    """
    if not -1 <= threshold <= 1:
        raise ProfilingError(f"threshold must be a cosine from -1 to 1, not {threshold}")
    if not 0 <= points <= 100:
        raise ProfilingError(f"points must be percentage points from 0 to 100, not {points}")
    if cuts is None or cuts.empty:
        inside = {group for group, cosine in later_cosines(rows).items() if cosine >= threshold}
    else:
        inside = {group for group, lost in half_losses(cuts).items() if lost <= points}
    return [group for group in MASK_GROUPS if group in inside]


def recommend(
    rows: pd.DataFrame,
    cuts: pd.DataFrame | None = None,
    *,
    points: float = POINTS,
    threshold: float = THRESHOLD,
    title: str = "",
    notes: Iterable[str] = (),
) -> str:
    """Plain lines: every group with its figures, in or out, the rule, what to beware of, and last the recipe's line.

    The rule is that of ``recommended_groups``, and it is absolute: a relative one (at or above the mean over the
    groups) would put some group in whatever the network does. Without a group that is in, the last line is a YAML
    comment that says so. Raises ProfilingError as ``recommended_groups``.
    """
    inside = recommended_groups(rows, cuts, points=points, threshold=threshold)
    cosines = later_cosines(rows)
    if cuts is None or cuts.empty:
        losses, (head, rule, nothing) = dict[str, float](), _by_cosine(cosines, threshold)
    else:
        losses = half_losses(cuts)
        head, rule, nothing = _by_cut(cuts, losses, points)
    width = max(map(len, cosines))
    lines = [*([title] if title else []), *textwrap.wrap(head, 110)]
    for group, cosine in cosines.items():
        said = [f"{abs(losses[group]):.2f} points {'lost' if losses[group] >= 0 else 'gained'}"] if losses else []
        said.append("no cosine (inputs of zeros)" if math.isnan(cosine) else f"cosine {cosine:.3f}")
        if group not in MASK_GROUPS:
            said.append("not among the groups of a recipe")
        lines.append(f"  {group:<{width}}  {'in ' if group in inside else 'out'}  {', '.join(said)}")
    lines += textwrap.wrap(rule, 110)
    lines += [textwrap.fill(note, 110, subsequent_indent="  ") for note in notes]
    if inside:
        lines += [
            f"For the recipe ({BUNDLED_WEIGHT} is the weight of the bundled digits-dts, not found here):",
            f"mask_loss: {{weight: {BUNDLED_WEIGHT}, groups: [{', '.join(inside)}]}}",
        ]
    else:
        lines.append(f"# {nothing}: no mask_loss line is recommended")
    return "\n".join(lines) + "\n"


def _by_cut(cuts: pd.DataFrame, losses: Mapping[str, float], points: float) -> tuple[str, str, str]:
    """The rule on accuracy in words: above the groups, below them, and where none is in."""
    steps, whole, image = int(cuts["steps_kept"].max()), cuts.iloc[-1], 100 / cuts["samples"].iloc[-1]
    limit = f"{points:g} point{'' if points == 1 else 's'}"
    coarse = " That is above the limit: measure more images." if image > points > 0 else ""
    known = [lost for group, lost in losses.items() if group in MASK_GROUPS]
    return (
        f"The whole network has {whole['accuracy']:.2%} right ({whole['hits']} of {whole['samples']}). Points of that "
        f"lost where one group spikes in the first {(steps + 1) // 2} of {steps} steps only, and mean cosine of its "
        "inputs at later steps to those at the first:",
        f"Rule: in where the loss is at most {limit}; the cosine does not decide. One image = {image:.2g} "
        f"points.{coarse} A heuristic: no retraining, which may win losses back, and one group at a time; several "
        "together may lose more than the sum. Train with and without a group and compare.",
        f"no group loses {limit} or less" + (f" (the least is {min(known):.2f})" if known else ""),
    )


def _by_cosine(cosines: Mapping[str, float], threshold: float) -> tuple[str, str, str]:
    """The rule on cosines in words, as ``_by_cut``."""
    known = [cosine for group, cosine in cosines.items() if group in MASK_GROUPS and not math.isnan(cosine)]
    return (
        "Mean cosine of the inputs of the layers of a group at later steps to those at the first:",
        f"Rule: in where the cosine is at least {threshold:g}. A heuristic after the paper's Fig. 2: it tells how much "
        "inputs change, not what accuracy a cut step costs. Equal inputs do not make equal spikes, and early layers "
        "feed all others. Train with and without a group and compare.",
        f"no group reaches {threshold:g}" + (f" (the highest is {max(known):.3f})" if known else ""),
    )


def _by_group(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with groups in the order of the network's parts."""
    order = pd.CategoricalDtype([group for group in GROUPS if group in set(rows["group"])], ordered=True)
    return rows.assign(group=rows["group"].astype(order))


def _rows(layers: dict[str, LIF], found: dict[str, list[StepFigures]], levels: dict[str, float]) -> pd.DataFrame:
    """The frame of ``Sensitivity.to_frame``."""
    rows: list[dict[str, Any]] = []
    for name, layer in layers.items():
        steps = found[name]
        flags = layer.active_flags() if isinstance(layer, DTSS) else [True] * len(steps)
        alike = histogram_cosines(np.stack([step.histogram for step in steps]))
        for t, step in enumerate(steps):
            rows.append(
                {
                    "layer": name,
                    "group": layer_group(name),
                    "neuron": "DTSS" if isinstance(layer, DTSS) else "LIF",
                    "time_step": t,
                    "t_l": sum(flags),
                    "active": flags[t],
                    "count": step.count,
                    "mean": step.mean,
                    "std": math.sqrt(step.squares / step.count),
                    "min": step.low,
                    "max": step.high,
                    "v_th": levels[name],
                    "above_threshold": step.above,
                    "above_threshold_share": step.above / step.count,
                    "below_range": int(step.histogram[0]),
                    "above_range": int(step.histogram[-1]),
                    "cosine": step.cosine_sum / step.cosine_samples if step.cosine_samples else math.nan,
                    "cosine_samples": step.cosine_samples,
                    "cosine_undefined": step.cosine_undefined,
                    "histogram_cosine": float(alike[t]),
                    "same_as_first": step.same,
                }
            )
    return pd.DataFrame(rows)


def _notes(rows: pd.DataFrame, never: list[str], cut: bool, labelled: bool) -> Iterator[str]:
    """Lines on what makes the figures say less than they seem to."""
    if (rows["neuron"] == "DTSS").any():
        masked = int((~rows["active"]).sum())
        yield (
            f"Note: a DTSS network, and masked steps take part: {masked} of {len(rows)} inputs (layer and step) meet a "
            f"masked neuron{', which costs nothing to cut' if labelled else ''}. Measure a network with all its steps."
        )
    if rows["cosine_undefined"].any():
        undefined = rows[rows["cosine_undefined"] > 0]
        yield (
            f"Note: inputs of zeros have no cosine and are left out: {undefined['cosine_undefined'].sum():,} of "
            f"{(rows['cosine_undefined'] + rows['cosine_samples']).sum():,}, in {_some(undefined['layer'])}."
        )
    outside = rows["below_range"] + rows["above_range"]
    if outside.any():
        share = (outside / rows["count"]).groupby(rows["layer"], sort=False).max()
        yield (
            f"Note: {outside.sum() / rows['count'].sum():.3%} of the inputs lie outside -{RANGE:g}..{RANGE:g} V_th and "
            f"share two open bins; most in {share.idxmax()} ({share.max():.2%} at one step)."
        )
    repeated = rows[["same_as_first"]].assign(known=rows["cosine"].notna()).groupby(rows["layer"], sort=False).all()
    if same := [str(name) for name in repeated.index[repeated.all(axis=1)]]:
        yield f"Note: the same input at every step, so a cosine of 1, in {_some(same)}."
    if never:
        yield f"Note: layers that got no input are left out: {_some(never)}."
    if cut and not labelled:
        yield "Note: the loader gave no labels, so what a cut costs in accuracy was not measured."


def _some(names: Iterable[str]) -> str:
    """``"a, b, c and 4 more"``."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")


def _name_of(model: nn.Module) -> str:
    return model.config.name if isinstance(model, Spikformer) else type(model).__name__


def _require_arguments(model: Any, loader: Any, bins: Any) -> None:
    """Raise ProfilingError for arguments of the wrong sort."""
    if not isinstance(model, nn.Module):
        raise ProfilingError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(loader, (Tensor, str)) or not isinstance(loader, Iterable):
        what = (
            "one tensor; give a list of batches, such as [x]" if isinstance(loader, Tensor) else type(loader).__name__
        )
        raise ProfilingError(f"loader must be an iterable of x or (x, y) batches, not {what}")
    if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= MOST_BINS:
        raise ProfilingError(f"bins must be a whole number from 1 to {MOST_BINS}, not {bins!r}")


def _require_time_axis(name: str, current: Any, known: tuple[str, list[StepFigures]] | None) -> None:
    """Raise ProfilingError where an input is not (T, B, ...) with the T >= 2 of the layers before."""
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
    """y of a batch (x, y); None of x, (x,) and (x, None)."""
    return batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None


def _form(value: Any) -> str:
    """What a tensor or another thing is, for an error."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


Run = Callable[[Tensor, Iterable[RemovableHandle]], Any]


@contextmanager
def _as_evaluated(model: nn.Module) -> Iterator[Run]:
    """run(x, hooks): a forward of a copy of x under hooks, in eval mode without gradients, from the state at hand now.

    State and every module's own mode are as before afterwards. Hooks keep a DTSS network from skipping steps.
    """
    state = State(model)

    def run(x: Tensor, hooks: Iterable[RemovableHandle]) -> Any:
        state.restore()
        with _hooked(hooks):
            return model(x.clone())

    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            yield run
    finally:
        state.restore()
        for module, training in modes:
            module.training = training


@contextmanager
def _hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are set one by one here (an iterator) and removed whatever happens."""
    handles = []
    try:
        for handle in hooks:
            handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()
