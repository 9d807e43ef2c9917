"""Results as sentences: one line of text each, numbers formatted as in the display tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from snn_energy.report.tables import format_number

if TYPE_CHECKING:
    import pandas as pd

    from snn_energy.analysis.comparison import Comparison
    from snn_energy.analysis.design_sweep import Field
    from snn_energy.counts.counts import Counts
    from snn_energy.pricing.energy import Energy
    from snn_energy.pricing.policies import Policies


def activity_sentence(counts: Counts) -> str:
    """Samples, time steps, accuracy, T_avg, SA (%), SOPs and real MACs per sample."""
    activity = counts.activity()
    accuracy = counts.header.get("accuracy")
    parts = [f"{counts.model}: {counts.samples} samples, T_max {counts.time_steps}"]
    if accuracy is not None:
        parts.append(f"accuracy {100 * accuracy:.2f} %")
    if activity["t_avg"] is not None:
        parts.append(f"T_avg {activity['t_avg']:.3f}, SA {100 * activity['sa']:.2f} %")
    parts.append(
        f"SOPs {format_number(activity['sops_per_sample'])}, "
        f"real MACs {format_number(activity['real_macs_per_sample'])}"
    )
    return ", ".join(parts)


def assumptions(counts: Counts) -> Iterator[str]:
    """The time axis that was detected, unless it was declared; backends replaced; how the weights were converted."""
    header = counts.header
    if "time_found" in header:
        yield f"time: {header['time']}, {header['time_found']} (see snn-energy inspect)"
    if "backends" in header:
        yield f"neurons: {header['backends']}, which cannot run here; the counts are the same"
    for note in header.get("checkpoint_notes", ()):
        yield f"{header.get('checkpoint')}: {note}"


def policies_used(policies: Policies) -> str:
    """``memory ws_once, integer ac, ...``."""
    return ", ".join(f"{name} {choice}" for name, choice in asdict(policies).items())


def total_sentences(energy: Energy) -> Iterator[str]:
    """The total and its parts (µJ per sample), latency, spread over the samples, and the cost of unread steps."""
    static = f" + static {format_number(energy.static_pj * 1e-6)} µJ" if energy.static_pj else ""
    yield (
        f"total {format_number(energy.total_pj * 1e-6)} µJ per sample "
        f"= compute {format_number(energy.compute_pj * 1e-6)} µJ "
        f"+ memory {format_number(energy.memory_pj * 1e-6)} µJ{static} ({policies_used(energy.policies)})"
    )
    if energy.without:
        yield f"without {', '.join(energy.without)}"
    if energy.latency is not None:
        yield latency_sentence(energy)
    if energy.counts.per_sample is not None and energy.counts.samples > 1:
        spread = energy.spread()
        yield (
            f"over {energy.counts.samples} samples: {format_number(spread['min_pj'] * 1e-6)} to "
            f"{format_number(spread['max_pj'] * 1e-6)} µJ, "
            f"standard deviation {format_number(spread['std_pj'] * 1e-6)} µJ"
        )
    needed = energy.of_needed_steps().total_pj
    if needed < energy.total_pj:
        saved = energy.total_pj - needed
        yield (
            f"of which {format_number(saved * 1e-6)} µJ ({100 * saved / energy.total_pj:.1f} %) are for active steps "
            "whose result is not read: a device that skips those too would save it"
        )


def latency_sentence(energy: Energy) -> str:
    """Latency (ms), cycles, samples per second and energy-delay product of an energy with a latency."""
    found = energy.latency
    assert found is not None
    edp = "" if energy.edp_js is None else f", energy-delay product {format_number(energy.edp_js * 1e12)} µJ·µs"
    return (
        f"latency {format_number(found.seconds * 1e3)} ms = {format_number(found.cycles)} cycles "
        f"at {found.clock_hz / 1e6:g} MHz ({found.schedule}, zeros {found.zeros}), "
        f"{format_number(found.samples_per_s)} samples per second{edp}"
    )


def schedule_conflict(energy: Energy) -> str | None:
    """Why a memory variant contradicts a step-serial schedule; None if it does not."""
    memory = energy.policies.memory
    if energy.latency is None or energy.latency.schedule != "step-serial" or memory in ("ws_reload", "state_only"):
        return None
    text = "step by step, weights stay between steps or are loaded again: --memory ws_reload instead of "
    return f"{text}{memory} charges that"


def range_sentence(energy: Energy) -> str | None:
    """The total (µJ) over the ranges of the profile; None if none of them changes it."""
    from snn_energy.analysis.uncertainty import energy_range

    found = energy_range(energy)
    if not (len(found) and found["width_pj"].iloc[0] > 0):
        return None
    low, high = float(found["low_pj"].iloc[0]) * 1e-6, float(found["high_pj"].iloc[0]) * 1e-6
    effective_ranges = ", ".join(found.loc[(found["width_pj"] > 0) & (found["number"] != "all"), "number"])
    return f"with the profile's ranges ({effective_ranges}): {format_number(low)} to {format_number(high)} µJ"


def second_device_sentence(energy: Energy, other: Energy) -> str:
    """The total (µJ) on a second device, and its ratio to that on the first."""
    return (
        f"on {other.hardware.name}: total {format_number(other.total_pj * 1e-6)} µJ per sample, "
        f"{format_number(other.total_pj / energy.total_pj)} times that on {energy.hardware.name}"
    )


def comparison_title(comparison: Comparison) -> str:
    """The title of the normalised table: device, baseline, policies."""
    return (
        f"energy per sample on {comparison.hardware.name}; CE, ME, TE over those of {comparison.baseline} "
        f"({policies_used(comparison.policies)})"
    )


def sweep_sentences(points: pd.DataFrame, swept: Sequence[Field]) -> Iterator[str]:
    """For every model of a sweep: the range of its total (µJ), and where it is smallest."""
    for model, part in points.groupby("model", observed=True, sort=False):
        total = part["total_pj"]
        if total.notna().any():
            best = part.iloc[int(total.argmin())]
            best_point = ", ".join(f"{f.key} {format_number(float(best[f.column]))} {f.unit}" for f in swept)
            low, high = format_number(total.min() * 1e-6), format_number(total.max() * 1e-6)
            yield f"{model}: {low} to {high} µJ, least at {best_point}"
