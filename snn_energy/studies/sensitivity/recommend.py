"""Which groups of layers should enter the mask loss, and why, in sentences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.core.groups import GROUPS, MASK_GROUPS, layer_group
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer import Spikformer
from snn_energy.studies.sensitivity.statistics import RANGE, StepStatistics

THRESHOLD = 0.9  # mean cosine, the rule without labels
POINTS = 1.0  # percentage points of accuracy, the rule with labels
BUNDLED_WEIGHT = "1.0e-4"  # lambda_m of the bundled recipe digits-dts


def cut_rows(hits: Mapping[str, Sequence[int]], samples: int) -> pd.DataFrame:
    """One row per group and number of steps that its spikes were kept for, without retraining.

    hits: group -> (T,) correct answers of ``samples``. ``steps_kept`` from 1 to T, T being the whole network; ``hits``
    ``samples`` ``accuracy``; ``points_lost``: percentage points against the whole network, negative for a gain.
    """
    rows = [
        (group, kept, correct, samples, correct / samples, 100 * (hits_of_group[-1] - correct) / samples)
        for group, hits_of_group in hits.items()
        for kept, correct in enumerate(hits_of_group, start=1)
    ]
    return pd.DataFrame(rows, columns=["group", "steps_kept", "hits", "samples", "accuracy", "points_lost"])


def firing_level(layer: LIF, name: str = "layer") -> float:
    """V_th; for a layer with rule ``hoyer``, its trained threshold times its extremum. Raises ProfilingError."""
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

    rows: of ``Sensitivity.to_frame``. ``layers``: their number; ``cosine`` with ``_min``, ``_max`` and the name of the
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
    """Group -> mean cosine over its layers and later steps, NaN if none is defined; in the network's order.

    A layer's value is the mean over its later steps; all layers weigh the same. rows: of ``Sensitivity.to_frame``.
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
    ``threshold``. Groups that are not in ``MASK_GROUPS`` (head, other) are never included. Raises ProfilingError for a
    threshold outside -1..1 and points outside 0..100.
    """
    if not -1 <= threshold <= 1:
        raise ProfilingError(f"threshold must be a cosine from -1 to 1, not {threshold}")
    if not 0 <= points <= 100:
        raise ProfilingError(f"points must be percentage points from 0 to 100, not {points}")
    if cuts is None or cuts.empty:
        selected = {group for group, cosine in later_cosines(rows).items() if cosine >= threshold}
    else:
        selected = {group for group, loss in half_losses(cuts).items() if loss <= points}
    return [group for group in MASK_GROUPS if group in selected]


def recommend(
    rows: pd.DataFrame,
    cuts: pd.DataFrame | None = None,
    *,
    points: float = POINTS,
    threshold: float = THRESHOLD,
    title: str = "",
    notes: Iterable[str] = (),
) -> str:
    """Lines of text: every group with its figures, in or out, the rule, caveats, and last the line for a recipe.

    The rule is that of ``recommended_groups``, and it is absolute: a relative one (at or above the mean over the
    groups) would select some group for any network. If no group is selected, the last line is a YAML comment that
    says so. Raises ProfilingError as ``recommended_groups``.
    """
    selected = recommended_groups(rows, cuts, points=points, threshold=threshold)
    cosines = later_cosines(rows)
    if cuts is None or cuts.empty:
        losses, (head, rule, none_selected_text) = dict[str, float](), _cosine_rule_text(cosines, threshold)
    else:
        losses = half_losses(cuts)
        head, rule, none_selected_text = _accuracy_rule_text(cuts, losses, points)
    width = max(map(len, cosines))
    lines = [*([title] if title else []), *textwrap.wrap(head, 110)]
    for group, cosine in cosines.items():
        details = [f"{abs(losses[group]):.2f} points {'lost' if losses[group] >= 0 else 'gained'}"] if losses else []
        details.append("no cosine (inputs of zeros)" if math.isnan(cosine) else f"cosine {cosine:.3f}")
        if group not in MASK_GROUPS:
            details.append("not among the groups of a recipe")
        lines.append(f"  {group:<{width}}  {'in ' if group in selected else 'out'}  {', '.join(details)}")
    lines += textwrap.wrap(rule, 110)
    lines += [textwrap.fill(note, 110, subsequent_indent="  ") for note in notes]
    if selected:
        lines += [
            f"For the recipe ({BUNDLED_WEIGHT} is the weight of the bundled digits-dts, not found here):",
            f"mask_loss: {{weight: {BUNDLED_WEIGHT}, groups: [{', '.join(selected)}]}}",
        ]
    else:
        lines.append(f"# {none_selected_text}: no mask_loss line is recommended")
    return "\n".join(lines) + "\n"


def _accuracy_rule_text(cuts: pd.DataFrame, losses: Mapping[str, float], points: float) -> tuple[str, str, str]:
    """The rule on accuracy in words: the text above the groups, below them, and if none is selected."""
    steps, whole, image = int(cuts["steps_kept"].max()), cuts.iloc[-1], 100 / cuts["samples"].iloc[-1]
    limit = f"{points:g} point{'' if points == 1 else 's'}"
    coarse = " That is above the limit: measure more images." if image > points > 0 else ""
    known = [loss for group, loss in losses.items() if group in MASK_GROUPS]
    return (
        f"The whole network is correct for {whole['accuracy']:.2%} ({whole['hits']} of {whole['samples']}). Points of "
        f"that lost where one group spikes in the first {(steps + 1) // 2} of {steps} steps only, and mean cosine of "
        "its inputs at later steps to those at the first:",
        f"Rule: in where the loss is at most {limit}; the cosine does not decide. One image = {image:.2g} "
        f"points.{coarse} A heuristic: no retraining, which may win losses back, and one group at a time; several "
        "together may lose more than the sum. Train with and without a group and compare.",
        f"no group loses {limit} or less" + (f" (the least is {min(known):.2f})" if known else ""),
    )


def _cosine_rule_text(cosines: Mapping[str, float], threshold: float) -> tuple[str, str, str]:
    """The rule on cosines in words, as ``_accuracy_rule_text``."""
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


def statistics_rows(
    layers: dict[str, LIF], found: dict[str, list[StepStatistics]], levels: dict[str, float]
) -> pd.DataFrame:
    """The frame of ``Sensitivity.to_frame``."""
    rows: list[dict[str, Any]] = []
    for name, layer in layers.items():
        steps = found[name]
        flags = layer.active_flags() if isinstance(layer, DTSS) else [True] * len(steps)
        histogram_cosine = histogram_cosines(np.stack([step.histogram for step in steps]))
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
                    "histogram_cosine": float(histogram_cosine[t]),
                    "same_as_first": step.equals_first_step,
                }
            )
    return pd.DataFrame(rows)


def caveats(rows: pd.DataFrame, never: list[str], cut: bool, labelled: bool) -> Iterator[str]:
    """Lines on what limits the validity of the figures."""
    if (rows["neuron"] == "DTSS").any():
        masked = int((~rows["active"]).sum())
        yield (
            f"Note: a DTSS network, masked steps included: {masked} of {len(rows)} inputs (layer and step) meet a "
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


def model_title(model: nn.Module) -> str:
    """The registry name of a ``Spikformer``, else the name of the class."""
    return model.config.name if isinstance(model, Spikformer) else type(model).__name__


def describe_value(value: Any) -> str:
    """Type and shape of a tensor, or the type of another object, for an error."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
