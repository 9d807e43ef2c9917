"""Time-step sensitivity: how much the inputs of every LIF change over the time steps (the paper's Fig. 2).

A group of layers whose inputs hardly change after the first step may do without the later ones; such groups enter the
mask loss. ``measure`` looks at the inputs of all LIF and DTSS layers in one pass over the data and keeps sums alone;
``Sensitivity`` holds the figures, a picture and a plain recommendation.

Two cosines, both against the first step and neither ever 0 for want of a figure:

- ``cosine``: per sample, between the inputs of all neurons of a layer at step t and at step 0; the mean over samples.
  It asks whether the step sees something new *for this image*. A sample with no input but zeros in either step has
  no cosine: it is left out of the mean and counted (``cosine_undefined``).
- ``histogram_cosine``: between the two histograms over all samples and neurons. It asks whether the *distribution*
  moves, which is what Fig. 2 shows. It stays near 1 where every neuron gets another input of the same spread.

Neither is centred: what a BatchNorm adds in every step counts as likeness. Equal inputs do not make equal spikes
either, because the potential of a neuron carries over. The figures tell most on a network trained with all its time
steps (a plain Spikformer). In a DTSS network masked steps take part, and where all sources of an input are masked the
input is the BatchNorm's bias or nothing (``source_active`` False).

Histograms have fixed edges, since one pass cannot look for better ones: equal bins over -8..8 V_th and one open bin on
either side, which are reported (``below_range``, ``above_range``) and drawn, never cut off in silence.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snn_energy.errors import ModelError, ProfilingError
from snn_energy.files import make_folder, write_texts
from snn_energy.groups import GROUPS, layer_group
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer import Spikformer, spiking_layers
from snn_energy.tables import csv
from snn_energy.training.recipe import MASK_GROUPS

RANGE = 8.0  # V_th; inputs beyond it fall into the open bins
MOST_BINS = 10_000
LARGEST = 1e150  # squares of anything larger leave float64
THRESHOLD = 0.9
BUNDLED_WEIGHT = "1.0e-3"  # lambda_m of the bundled recipe digits-dts
FILES = ("sensitivity-layers.csv", "sensitivity-groups.csv", "sensitivity-histograms.csv", "recommendation.txt")
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
    lines that whoever reads the figures has to know.
    """

    rows: pd.DataFrame
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    samples: int
    time_steps: int
    title: str
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and time step.

        ``layer`` ``group`` ``neuron`` (LIF, DTSS) ``time_step`` from 0; ``t_l``: time steps in which the layer may
        fire; ``active``: its mask at this step; ``source_active``: whether a source of its input is active (None
        where the network is no Spikformer of ours). ``count`` of inputs, ``mean`` ``std`` (of the whole, not of a
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

    def recommendation(self, threshold: float = THRESHOLD) -> str:
        """Which groups should enter the mask loss, and why; see ``recommend``. Raises ProfilingError."""
        head = f"{self.title}: inputs of {self.rows['layer'].nunique()} spiking layers, {self.time_steps} time steps, "
        return recommend(self.rows, threshold, title=f"{head}{self.samples} samples", notes=self.notes)

    def save(self, folder: str | Path, threshold: float = THRESHOLD) -> list[Path]:
        """Write the three tables, the recommendation and the picture into a folder; returns what was written.

        Tables and text are written all or none, each picture whole or not at all. Raises OutputError.
        """
        from snn_energy.plots import save_figure, sensitivity_figure

        texts = [csv(self.to_frame()), csv(self.groups()), csv(self.histograms()), self.recommendation(threshold)]
        figure = sensitivity_figure(self.rows, self.histograms(), self.groups(), self.title)
        place = make_folder(folder)
        named = {place / name: text for name, text in zip(FILES, texts, strict=True)}
        write_texts(named)
        return [*named, *save_figure(figure, place / FIGURE)]


def measure(
    model: nn.Module, loader: Iterable[Any], *, bins: int = 64, on_batch: Callable[[int], None] | None = None
) -> Sensitivity:
    """Run a network of LIF or DTSS layers over a loader and compare the inputs of its layers over the time steps.

    model: runs all its time steps in one call, every LIF gets (T, B, ...), one T >= 2 for all; it is run in eval mode
    without gradients and all its steps are computed. Its mode and hooks are as before afterwards, also when it raises.
    A layer called several times in one forward is looked at every time. loader: any iterable of x or (x, y). bins:
    of equal width over -8..8 V_th. on_batch: called with the number of samples done so far. One pass; figures do not
    depend on how the samples are cut into batches (integers exactly, as far as the network itself does not).

    Raises ProfilingError for a network without spiking layers or with one time step, for NaN and infinite inputs (it
    names the layer), for a loader without samples, and for bins out of 1..10000.
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
    batch_samples: list[int] = []  # of every layer called in the batch at hand; the first one counts

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, LIF)
        name = names[module]
        current = args[0] if args else kwargs.get("current")
        _require_time_axis(name, current, next(iter(found.items()), None))
        assert isinstance(current, Tensor)
        batch_samples.append(current.shape[1])
        if not current.numel():
            return
        try:
            steps = [step_figures(step, current[0], levels[name], bins) for step in current]
        except ProfilingError as error:
            raise ProfilingError(f"{name}: {error}") from error
        found[name] = [merged(a, b) for a, b in zip(found[name], steps, strict=True)] if name in found else steps

    samples = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _as_evaluated(model), _hooked(names, look):
        for batch in loader:
            batch_samples.clear()
            model(_images_of(batch).to(device))
            samples += batch_samples[0] if batch_samples else 0
            if on_batch is not None:
                on_batch(samples)
    if not found:
        raise ProfilingError("no LIF or DTSS layer got any input; the loader gave no samples, or none reach a layer")
    layers = {name: layer for layer, name in names.items() if name in found}
    rows = _rows(layers, found, levels, source_flags(model))
    counts = np.stack([step.histogram for name in layers for step in found[name]])
    never = [name for name in names.values() if name not in found]
    steps = len(next(iter(found.values())))
    edges = np.linspace(-RANGE, RANGE, bins + 1)
    return Sensitivity(rows, counts, edges, samples, steps, _name_of(model), tuple(_notes(rows, never)))


def sensitivity_of_checkpoint(
    path: str | Path,
    data: str,
    samples: int | None = None,
    *,
    batch_size: int = 60,
    bins: int = 64,
    on_batch: Callable[[int], None] | None = None,
    model: str | None = None,
    options: dict[str, Any] | None = None,
) -> Sensitivity:
    """``measure`` a checkpoint over (the first ``samples`` images of) the test split of a data set.

    data: ``digits`` or ``NAME:PATH``, as ``datasets.load_images`` has it; model, options: as ``load_checkpoint``, for
    a file that does not say what it is. Raises ModelError for a network that does not spike, ProfilingError as
    ``measure``, both with the file's name; CheckpointError, DataError.
    """
    from snn_energy.checkpoints import load_checkpoint
    from snn_energy.datasets import batches, check_labels, load_images

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
    loader = (torch.from_numpy(x) for x, _ in batches(images, batch_size))
    try:
        found = measure(network, loader, bins=bins, on_batch=on_batch)
    except ProfilingError as error:
        raise ProfilingError(f"{path}: {error}") from error
    return replace(found, title=f"{Path(path).stem} on {images.name}, {images.split} split")


def firing_level(layer: LIF, name: str = "layer") -> float:
    """V_th; of a layer with rule ``hoyer`` its trained threshold times its extremum. Raises ProfilingError."""
    level = layer.v_th
    if layer.rule == "hoyer":
        level = float(layer.threshold.detach()) * float(layer.get_buffer("extremum"))
    if not 0 < level < math.inf:
        raise ProfilingError(f"{name}: fires at {level}; the unit of the histograms must be a positive threshold")
    return level


def source_flags(model: nn.Module) -> dict[str, list[bool]] | None:
    """Layer -> whether some source of its input is active, per time step; None for a network of unknown wiring.

    Residual sum: either; product of q, k and v: all of them; the images at sps.lif0: always.
    """
    if not isinstance(model, Spikformer):
        return None
    steps = model.time_steps
    own = {
        name: np.array(layer.active_flags() if isinstance(layer, DTSS) else [True] * steps)
        for name, layer in spiking_layers(model).items()
    }
    flags = {"sps.lif0": np.ones(steps, dtype=bool)}
    for i in range(3):
        flags[f"sps.lif{i + 1}"] = own[f"sps.lif{i}"]
    flags["sps.rpe_lif"] = own["sps.lif3"]
    stream = own["sps.lif3"] | own["sps.rpe_lif"]
    for block in (f"blocks.{i}" for i in range(len(model.blocks))):
        qkv = [f"{block}.attn.{which}_lif" for which in "qkv"]
        flags.update(dict.fromkeys(qkv, stream))
        flags[f"{block}.attn.lif"] = own[qkv[0]] & own[qkv[1]] & own[qkv[2]]
        flags[f"{block}.attn.proj_lif"] = own[f"{block}.attn.lif"]
        stream = stream | own[f"{block}.attn.proj_lif"]
        flags[f"{block}.mlp.fc1_lif"] = stream
        flags[f"{block}.mlp.fc2_lif"] = own[f"{block}.mlp.fc1_lif"]
        stream = stream | own[f"{block}.mlp.fc2_lif"]
    return {name: [bool(flag) for flag in values] for name, values in flags.items()}


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


@dataclass(frozen=True)
class GroupFigures:
    """What ``recommend`` decides on for one group, and what it shows beside. NaN (None) where there is no cosine.

    A layer's figure is the mean of its cosines over the later steps that have one. ``later``: the unweighted mean of
    that over the layers; ``last``: the mean over the layers at the last step; ``lowest``, ``lowest_layer``: the layer
    with the least figure; ``histogram``: as ``later``, of the histogram cosines; ``repeated``: layers whose input was
    the same at every step (and not all zeros); ``later_others``: ``later`` without them.
    """

    group: str
    layers: int
    later: float
    last: float
    lowest: float
    lowest_layer: str | None
    histogram: float
    repeated: tuple[str, ...]
    later_others: float


def group_figures(rows: pd.DataFrame) -> list[GroupFigures]:
    """The figures of every group, in the order of ``GROUPS``. rows: of ``Sensitivity.to_frame``."""
    found = []
    for group in [group for group in GROUPS if group in set(rows["group"])]:
        part = rows[rows["group"] == group]
        layers = part[part["time_step"] > 0].groupby("layer", sort=False)
        cosines, same = layers["cosine"].mean(), layers["same_as_first"].all()
        same &= cosines.notna()
        last = part[part["time_step"] == part["time_step"].max()]
        found.append(
            GroupFigures(
                group=group,
                layers=len(cosines),
                later=float(cosines.mean()),
                last=float(last["cosine"].mean()),
                lowest=float(cosines.min()),
                lowest_layer=str(cosines.dropna().idxmin()) if cosines.notna().any() else None,
                histogram=float(layers["histogram_cosine"].mean().mean()),
                repeated=tuple(str(name) for name in same.index[same]),
                later_others=float(cosines[~same].mean()),
            )
        )
    return found


def recommended_groups(rows: pd.DataFrame, threshold: float = THRESHOLD) -> list[str]:
    """Groups whose mean cosine over layers and later steps is at least ``threshold``, in the order of a recipe.

    Groups that a recipe does not know (head, other) are never among them. Raises ProfilingError for a threshold out
    of -1..1.
    """
    if not -1 <= threshold <= 1:
        raise ProfilingError(f"threshold must be a cosine from -1 to 1, not {threshold}")
    inside = {figures.group for figures in group_figures(rows) if figures.later >= threshold}
    return [group for group in MASK_GROUPS if group in inside]


def recommend(rows: pd.DataFrame, threshold: float = THRESHOLD, *, title: str = "", notes: Iterable[str] = ()) -> str:
    """Plain lines: every group with its figures, in or out, the rule, what to beware of, and last the recipe's line.

    The rule is absolute: a group is in where its mean cosine over layers and later steps is at least ``threshold``.
    A relative one (at or above the mean over the groups) would put some group in whatever the network does. Without
    a group that is in, the last line is a YAML comment that says so. Raises ProfilingError for a threshold out of
    -1..1.
    """
    inside, groups = recommended_groups(rows, threshold), group_figures(rows)
    width = max(len(figures.group) for figures in groups)
    lines = [title] if title else []
    lines.append("Cosine similarity of the LIF inputs to those at the first time step, mean over samples and layers:")
    for figures in groups:
        verdict = "in " if figures.group in inside else "out"
        lines.append(f"  {figures.group:<{width}}  {verdict}  {_of_group(figures)}")
        lines += [f"  {'':<{width}}       {line}" for line in _beware(figures)]
    lines += [
        f"Rule: in where the mean over layers and later steps is at least {threshold:g}. A heuristic after the paper's",
        "Fig. 2: it tells how much inputs change, not what accuracy a cut step costs. Equal inputs do not make equal",
        "spikes, and early layers feed all others. Train with and without a group and compare.",
        *(textwrap.fill(note, 110, subsequent_indent="  ") for note in notes),
    ]
    if inside:
        lines += [
            f"For the recipe ({BUNDLED_WEIGHT} is the weight of the bundled digits-dts, not found here):",
            f"mask_loss: {{weight: {BUNDLED_WEIGHT}, groups: [{', '.join(inside)}]}}",
        ]
    else:
        known = [figures.later for figures in groups if not math.isnan(figures.later)]
        highest = f" (the highest mean is {max(known):.3f})" if known else ""
        lines.append(f"# no group reaches {threshold:g}{highest}: no mask_loss line is recommended")
    return "\n".join(lines) + "\n"


def _of_group(figures: GroupFigures) -> str:
    """The figures of one group on one line."""
    layers = f"{figures.layers} layer" + ("" if figures.layers == 1 else "s")
    if math.isnan(figures.later):
        return f"no cosine: inputs are all zero at the first step or at every later one; {layers}"
    last = "none" if math.isnan(figures.last) else f"{figures.last:.3f}"
    return (
        f"later {figures.later:.3f}, last step {last}, lowest layer {figures.lowest:.3f} "
        f"({figures.lowest_layer}), histograms {figures.histogram:.3f}, {layers}"
    )


def _beware(figures: GroupFigures) -> Iterator[str]:
    """What one has to know of the figures of one group."""
    if figures.group not in MASK_GROUPS:
        yield f"the mask loss of a recipe knows {', '.join(MASK_GROUPS)} alone, so it stays out"
    if figures.repeated:
        others = (
            "" if math.isnan(figures.later_others) else f"; without, {figures.group} has {figures.later_others:.3f}"
        )
        yield f"the same input at every step by construction or by chance: {_some(figures.repeated)}{others}"


def _by_group(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with groups in the order of the network's parts."""
    order = pd.CategoricalDtype([group for group in GROUPS if group in set(rows["group"])], ordered=True)
    return rows.assign(group=rows["group"].astype(order))


def _rows(
    layers: dict[str, LIF],
    found: dict[str, list[StepFigures]],
    levels: dict[str, float],
    sources: dict[str, list[bool]] | None,
) -> pd.DataFrame:
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
                    "source_active": None if sources is None else sources[name][t],
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
    frame = pd.DataFrame(rows)
    frame["source_active"] = frame["source_active"].astype("boolean")
    return frame


def _notes(rows: pd.DataFrame, never: list[str]) -> Iterator[str]:
    """Lines on what makes the figures say less than they seem to."""
    if (rows["neuron"] == "DTSS").any():
        masked, idle = int((~rows["active"]).sum()), int((~rows["source_active"].fillna(True)).sum())
        yield (
            f"Note: a DTSS network, and masked steps take part: {masked} of {len(rows)} inputs (layer and step) meet a "
            f"masked neuron, {idle} have no active source (a bias or zeros). Measure a network with all its steps."
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
    if never:
        yield f"Note: layers that got no input are left out: {_some(never)}."


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


@contextmanager
def _as_evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _hooked(
    layers: Iterable[LIF], look: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Forward pre-hooks on the layers, removed whatever happens. They also keep a DTSS network from skipping steps."""
    handles = []
    try:
        for layer in layers:
            handles.append(layer.register_forward_pre_hook(look, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
