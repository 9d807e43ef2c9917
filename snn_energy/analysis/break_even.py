"""Where a spiking network stops winning against a non-spiking one on a device. No torch here.

Four parameters (knobs), each varied separately: the spike rate, the time steps, the price of a MAC over that of an
accumulate, and the price of memory. The totals are those of ``estimate`` for scaled work or changed prices, at many
factors at once; their crossing is found on successively finer grids, which also works if a knob enters nonlinearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from snn_energy.analysis.design_sweep import Field, sweepable, totals
from snn_energy.core.errors import SnnEnergyError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.numbers import numbers, static_keys
from snn_energy.hardware.quantities import Price
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.charged_work import (
    LAYER_EVENTS,
    ChargedWork,
    Column,
    FloatArray,
    charged_work,
    column,
)
from snn_energy.pricing.cycles import layer_rows_of, static_power_w, total_cycles
from snn_energy.pricing.energy import all_actions
from snn_energy.pricing.left_out import layers_left_out
from snn_energy.pricing.policies import Policies, PolicyOptions, make_policies
from snn_energy.pricing.pricing import TOTAL, price_actions, sum_rows

MAX_FACTOR = 1000.0  # a knob is varied from 1/1000 to 1000 times its present value
GRID_POINTS = 241  # factors evaluated at once
REFINEMENTS = 7  # each round's grid is 240 times finer: in the end, finer than float precision
DAMPFHOFFER = (0.15, 1.38)  # spikes per synapse and inference below which an SNN can win, by hardware; 2023
DAVIDSON_FURBER = 1.72  # the same, 2021


@dataclass(frozen=True)
class Knob:
    """One varied parameter: its name, unit and present value; total_pj of both networks at factors (n,) of it.

    smallest, largest: the range of valid factors (a neuron spikes at most once per step; there is at least one step).
    """

    name: str
    unit: str
    present_value: float
    snn_pj: Callable[[FloatArray], FloatArray]
    ann_pj: Callable[[FloatArray], FloatArray]
    largest: float = MAX_FACTOR
    smallest: float = 1 / MAX_FACTOR


@dataclass(frozen=True)
class BreakEven:
    """The result of ``break_even``: one row per knob, and the underlying curves.

    table: knob, unit, now, break_even (NaN: none in range), snn_wins (below, above, always, never), sentence.
    curves: knob, factor, value, snn_pj, ann_pj.
    """

    snn: str
    ann: str
    hardware: HardwareProfile
    policies: Policies
    table: pd.DataFrame
    curves: pd.DataFrame

    def sentences(self) -> list[str]:
        """One sentence per knob."""
        return [str(s) for s in self.table["sentence"]]


def break_even(
    snn: Counts,
    ann: Counts,
    hardware: str | Path | HardwareProfile,
    *,
    without: Sequence[str] = (),
    **policies: Unpack[PolicyOptions],
) -> BreakEven:
    """At which spike rate, number of steps, MAC over AC and memory price ``snn`` stops winning against ``ann``.

    policies: as for ``estimate``; without: layers that either network has. Raises SnnEnergyError if the first has no
    spiking layers, or if its spikes or a total are unknown.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    chosen = make_policies(profile, **policies)
    activity = snn.activity()
    if not activity["spiking_layers"]:
        raise SnnEnergyError(f"{snn.model} has no spiking layers; give the spiking network first, then the other")
    if activity["sa"] is None:
        raise SnnEnergyError(f"{snn.model}: its counts lack the neurons' spikes, so the rate cannot be varied")
    left_out_layers = layers_left_out([snn, ann], without)
    for counts, names in zip((snn, ann), left_out_layers, strict=True):
        if not np.isfinite(totals(counts, profile, chosen, [], names).total_pj[0]):
            raise SnnEnergyError(f"{counts.model} on {profile.name}: its total is unknown (see `snn-energy estimate`)")
    rows, curves = [], []
    for knob in _knobs(snn, ann, profile, chosen, left_out_layers):
        rows.append(_table_row(knob, snn.model, ann.model))
        factors = np.geomspace(max(0.05, knob.smallest), min(20.0, knob.largest), 61)
        totals_pj = {"snn_pj": knob.snn_pj(factors), "ann_pj": knob.ann_pj(factors)}
        curves.append(
            pd.DataFrame({"knob": knob.name, "factor": factors, "value": factors * knob.present_value, **totals_pj})
        )
    return BreakEven(snn.model, ann.model, profile, chosen, pd.DataFrame(rows), pd.concat(curves, ignore_index=True))


def spikes_per_synapse(counts: Counts) -> float | None:
    """SOPs per synapse and inference, of layers that read spikes: SOPs over the dense operations of a single step.

    None if the counts do not contain them.
    """
    rows = counts.rows[counts.rows["op"].isin(OPERATIONS) & (counts.rows["input_kind"] != "real")]
    once = rows.drop_duplicates("layer")
    sizes = [column(once, name) for name in ("positions", "reduction", "out_channels")]
    synapses, sops = float(np.prod(sizes, axis=0).sum()), float(column(rows, "sops").sum())
    return sops / counts.samples / synapses if np.isfinite(synapses + sops) and synapses > 0 else None


def spikes_per_synapse_sentence(counts: Counts) -> str:
    """Compare the network with the published bounds on spikes per synapse, in one sentence."""
    found, (low, high) = spikes_per_synapse(counts), DAMPFHOFFER
    if found is None:
        return f"{counts.model}: its counts do not contain the spikes per synapse"
    relation = "below both" if found < low else "between" if found <= high else "above both"
    side = "below" if found < DAVIDSON_FURBER else "above"
    return (
        f"{counts.model} makes {found:.3g} spikes per synapse and inference: {relation} the bounds {low} and {high} "
        f"under which, by hardware, an SNN can win (Dampfhoffer et al. 2023); {side} {DAVIDSON_FURBER} (Davidson and "
        "Furber 2021)"
    )


def _knobs(
    snn: Counts, ann: Counts, hardware: HardwareProfile, policies: Policies, left_out_layers: Sequence[tuple[str, ...]]
) -> list[Knob]:
    without = dict(zip((snn.model, ann.model), left_out_layers, strict=True))
    work = charged_work(snn, hardware, policies, left_out_layers[0])
    ann_total_pj = float(totals(ann, hardware, policies, [], left_out_layers[1]).total_pj[0])
    activity = snn.activity()
    rate_limit = 1.0 / activity["sa"] if activity["sa"] else MAX_FACTOR

    def ann_pj(factors: FloatArray) -> FloatArray:
        return np.full(len(factors), ann_total_pj)

    def of_rate(factors: FloatArray) -> FloatArray:
        return total_of(scaled_rate(work, snn, hardware, policies, factors), snn, hardware, policies)

    def of_steps(factors: FloatArray) -> FloatArray:
        repeats = row_repeats(snn, policies, factors)
        longer = scaled_steps(work, snn, repeats)
        return total_of(longer, snn, hardware, policies, (work, repeats, snn.time_steps * factors))

    found = [
        Knob("spike rate", "spikes per neuron and step", activity["sa"], of_rate, ann_pj, rate_limit),
        Knob("time steps", "T", float(snn.time_steps), of_steps, ann_pj, smallest=1 / snn.time_steps),
    ]
    known = sweepable(hardware)

    prices = numbers(hardware)

    def priced(counts: Counts, keys: Sequence[str]) -> Callable[[FloatArray], FloatArray]:
        """Totals with these prices times the factors; prices relative to the MAC keep their present value."""
        relative = [k for k, number in known.items() if isinstance(number, Price) and number.is_relative]

        def totals_at(factors: FloatArray) -> FloatArray:
            scaled_prices = {
                k: prices[k] * (factors if k in keys else np.ones(len(factors))) for k in (*keys, *relative)
            }
            fields = [Field(k, "pJ", v) for k, v in scaled_prices.items()]
            return totals(counts, hardware, policies, fields, without[counts.model]).total_pj

        return totals_at

    key = ["compute.mac"]
    mac, ac = (prices.scalar(k) if k in prices else 0.0 for k in (*key, "compute.ac"))
    if mac and ac:
        found.append(Knob("MAC over AC", "x", mac / ac, priced(snn, key), priced(ann, key)))
    access_keys = [k for k in known if k.endswith((".read", ".write", ".inter_pe"))]  # stores, registers, hops
    if access_keys:
        found.append(Knob("memory price", "x today's", 1.0, priced(snn, access_keys), priced(ann, access_keys)))
    return found


def total_of(
    work: ChargedWork,
    counts: Counts,
    hardware: HardwareProfile,
    policies: Policies,
    step_timing: tuple[ChargedWork, FloatArray, FloatArray] | None = None,
) -> FloatArray:
    """total_pj of work whose columns are (points, rows).

    step_timing: work of single steps, repetitions of each row, and time steps, if they differ from ``work``.
    """
    prices = numbers(hardware)
    actions = all_actions(work, hardware, policies, prices)
    found = price_actions(actions, prices, work.steps.shape[0], TOTAL, sum_rows)["total_pj"]
    if static_keys(hardware) and hardware.latency is not None:
        by_layer = layer_rows_of(counts, hardware.latency.timing == "array")
        step, repeat, time_steps = step_timing or (work, None, counts.time_steps)
        cycles = total_cycles(step, hardware, prices, policies.memory, by_layer, time_steps, repeat)
        found = found + static_power_w(hardware) * cycles / prices.scalar("latency.clock") * 1e12
    return found


PER_STEP: tuple[Column, ...] = (
    "steps", "macs", "acs", "zero_checked", "dense_macs", "input_events", "other_events", "spikes", "updates",
    "membrane_reads", "membrane_writes", "elementwise", "layer_steps", *LAYER_EVENTS,
)  # fmt: skip


def scaled_rate(
    work: ChargedWork, counts: Counts, hardware: HardwareProfile, policies: Policies, factors: FloatArray
) -> ChargedWork:
    """The same network with ``factors`` (n,) times as many spikes everywhere; columns become (n, rows).

    Accumulates, events and spikes scale linearly, coincidences of two sparse operands with the square; none exceeds the
    number of operations, elements and neurons. On a device that treats zeros like any number, operations do not change.
    """
    f = factors[:, None]
    rows = counts.rows
    kind, other = (rows[name].to_numpy(dtype=object) for name in ("input_kind", "other_kind"))
    two_sparse = (work.op == "matmul") & np.isin(other, ("binary", "ternary", "integer"))
    power = np.where(two_sparse & (policies.products == "coincidence"), 2.0, 1.0)
    sops = column(rows, "sops_gated" if policies.products == "gated" else "sops")
    with np.errstate(divide="ignore", invalid="ignore"):
        max_growth = np.where(sops > 0, column(rows, "dense_macs") / sops, np.inf)
    more = np.minimum(f**power, np.maximum(max_growth, 1.0))
    if hardware.latency is not None and hardware.latency.zeros == "none":
        more = np.ones_like(more)
    spiking = kind != "real"
    scaled: dict[Column, FloatArray] = {
        "acs": work.acs * more,
        "macs": work.macs + work.sparse_macs * (more - 1),
        "spikes": np.minimum(work.spikes * f, work.updates),
        "input_events": np.where(spiking, np.minimum(work.input_events * f, work.input_elements), work.input_events),
        "other_events": np.where(
            other != "real", np.minimum(work.other_events * f, work.other_elements), work.other_events
        ),
        **{name: work.column(name) * f for name in LAYER_EVENTS},
        "steps": work.steps + 0 * f,
    }  # fmt: skip
    return work.with_columns(scaled.items())


def row_repeats(counts: Counts, policies: Policies, factors: FloatArray) -> FloatArray:
    """(n, rows): repetitions of each row for ``factors`` times as many steps; work done once is not repeated."""
    once = (counts.rows["time_step"] < 0).to_numpy()
    if policies.encoder == "once":
        has_repeated_input = counts.rows["input_repeated"].groupby(counts.rows["layer"]).transform("any")
        once = once | has_repeated_input.to_numpy(dtype=np.bool_)
    return np.where(once, 1.0, factors[:, None])


def scaled_steps(work: ChargedWork, counts: Counts, repeats: FloatArray) -> ChargedWork:
    """The same network with its steps repeated ``repeats`` (n, rows) times, each equal to the present mean."""
    scaled: dict[Column, FloatArray] = {name: work.column(name) * repeats for name in PER_STEP}
    has_repeated_input = (
        counts.rows["input_repeated"].groupby(counts.rows["layer"]).transform("any").to_numpy(dtype=np.bool_)
    )
    scaled["external_inputs"] = np.where(has_repeated_input, work.external_inputs, work.external_inputs * repeats)
    return work.with_columns(scaled.items())


def crossing(knob: Knob) -> float | None:
    """The factor nearest to 1 at which both networks cost the same, None if there is none in range."""
    factors = np.unique(np.append(np.geomspace(knob.smallest, min(MAX_FACTOR, knob.largest), GRID_POINTS), 1.0))
    for _ in range(REFINEMENTS):
        snn_advantage = knob.ann_pj(factors) - knob.snn_pj(factors)
        changes = np.flatnonzero(np.diff(np.sign(snn_advantage)) != 0)
        if len(changes) == 0:
            return None
        index = min(changes, key=lambda i: abs(np.log(factors[i] * factors[i + 1])))
        low, high = float(factors[index]), float(factors[index + 1])
        factors = np.unique(np.linspace(low, high, GRID_POINTS))
        if len(factors) <= 2:
            break
    return low if abs(snn_advantage[index]) <= abs(snn_advantage[index + 1]) else high


def _table_row(knob: Knob, snn: str, ann: str) -> dict[str, Any]:
    """A knob's row of the table."""
    present = np.ones(1)
    snn_wins = bool(knob.snn_pj(present)[0] < knob.ann_pj(present)[0])
    factor = crossing(knob)
    value = float("nan") if factor is None else factor * knob.present_value
    if factor is None:
        side = "always" if snn_wins else "never"
        end = knob.largest * knob.present_value
        limit = f" up to {end:.4g} (a spike in every step)" if knob.largest < MAX_FACTOR else ""
        text = f"{knob.name}: {snn} {'wins' if snn_wins else 'loses'} against {ann} at any value within reach{limit}"
    else:
        side = "below" if (factor > 1) == snn_wins else "above"
        verb = "stops winning" if snn_wins else "would start to win"
        text = (
            f"{knob.name}: {snn} {verb} against {ann} "
            f"{'above' if (side == 'below') == snn_wins else 'below'} {value:.4g} "
            f"{knob.unit} (now {knob.present_value:.4g}, {factor:.3g} times)"
        )
    return {
        "knob": knob.name,
        "unit": knob.unit,
        "now": knob.present_value,
        "break_even": value,
        "snn_wins": side,
        "sentence": text,
    }
