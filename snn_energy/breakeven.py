"""Where a spiking network stops winning against an ordinary one on a device. No torch here.

Four knobs, each turned alone: the spike rate, the time steps, the price of a MAC over that of an accumulate, and the
price of memory. The totals are those of ``estimate`` for scaled work or changed prices, at many factors at once; where
they meet is found on ever finer grids, so it holds for every profile, whether or not a knob enters linearly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from snn_energy.counts import OPERATIONS, Counts
from snn_energy.energy import Policies, all_charges, charged_work, make_policies
from snn_energy.errors import SnnEnergyError
from snn_energy.hardware import HardwareProfile, Price, load_hardware, numbers, static_keys
from snn_energy.latency import places_of, static_power_w, total_cycles
from snn_energy.sweep import Field, sweepable, totals
from snn_energy.work import LAYER_EVENTS, Array, Work

REACH = 1000.0  # a knob is turned from 1/1000 to 1000 times its present value
GRID = 241  # factors tried at once
ROUNDS = 7  # each round's grid is 240 times finer: beyond the digits of a float
DAMPFHOFFER = (0.15, 1.38)  # spikes per synapse and inference below which an SNN can win, by hardware; 2023
DAVIDSON_FURBER = 1.72  # the same, 2021


@dataclass(frozen=True)
class Knob:
    """One thing that is turned: its name, unit and present value; total_pj of both networks at factors (n,) of it.

    largest: the factor beyond which it makes no sense (a neuron cannot spike more than once a step).
    """

    name: str
    unit: str
    now: float
    snn_pj: Callable[[Array], Array]
    ann_pj: Callable[[Array], Array]
    largest: float = REACH


@dataclass(frozen=True)
class BreakEven:
    """What ``break_even`` found: one row per knob, and the curves behind it.

    table: knob, unit, now, break_even (NaN: none within reach), snn_wins (below, above, always, never), sentence.
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
    **policies: Any,
) -> BreakEven:
    """At which spike rate, number of steps, MAC over AC and memory price ``snn`` stops winning against ``ann``.

    policies: as for ``estimate``. Raises SnnEnergyError where the first network has no spiking layers.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    chosen = make_policies(profile, **policies)
    if not snn.activity()["spiking_layers"]:
        raise SnnEnergyError(f"{snn.model} has no spiking layers; give the spiking network first, then the other")
    rows, curves = [], []
    for knob in _knobs(snn, ann, profile, chosen, tuple(without)):
        rows.append(_row(knob, snn.model, ann.model))
        factors = np.geomspace(0.05, min(20.0, knob.largest), 61)
        totals_pj = {"snn_pj": knob.snn_pj(factors), "ann_pj": knob.ann_pj(factors)}
        curves.append(pd.DataFrame({"knob": knob.name, "factor": factors, "value": factors * knob.now, **totals_pj}))
    return BreakEven(snn.model, ann.model, profile, chosen, pd.DataFrame(rows), pd.concat(curves, ignore_index=True))


def spikes_per_synapse(counts: Counts) -> float:
    """SOPs per synapse and inference, of layers that read spikes: SOPs over the dense operations of a single step."""
    rows = counts.rows[counts.rows["op"].isin(OPERATIONS) & (counts.rows["input_kind"] != "real")]
    once = rows.drop_duplicates("layer")
    synapses = (once["positions"] * once["reduction"] * once["out_channels"]).astype(float).sum()
    return float(rows["sops"].astype(float).sum()) / counts.samples / float(synapses)


def spikes_per_synapse_sentence(counts: Counts) -> str:
    """Where the network stands against the published bounds on spikes per synapse."""
    found, (low, high) = spikes_per_synapse(counts), DAMPFHOFFER
    place = "below both" if found < low else "between" if found <= high else "above both"
    side = "below" if found < DAVIDSON_FURBER else "above"
    return (
        f"{counts.model} makes {found:.3g} spikes per synapse and inference: {place} the bounds {low} and {high} "
        f"under which, by hardware, an SNN can win (Dampfhoffer et al. 2023); {side} {DAVIDSON_FURBER} (Davidson and "
        "Furber 2021)"
    )


def _knobs(
    snn: Counts, ann: Counts, hardware: HardwareProfile, policies: Policies, without: tuple[str, ...]
) -> list[Knob]:
    work = charged_work(snn, hardware, policies, without)
    now_pj = float(totals(ann, hardware, policies, [], without).total_pj[0])
    activity = snn.activity()
    rate_limit = 1.0 / activity["sa"] if activity["sa"] else REACH

    def ann_pj(factors: Array) -> Array:
        return np.full(len(factors), now_pj)

    def of_rate(factors: Array) -> Array:
        return total_of(scaled_rate(work, factors), snn, hardware, policies)

    def of_steps(factors: Array) -> Array:
        return total_of(scaled_steps(work, snn, factors), snn, hardware, policies)

    found = [
        Knob("spike rate", "spikes per neuron and step", activity["sa"], of_rate, ann_pj, rate_limit),
        Knob("time steps", "T", float(snn.time_steps), of_steps, ann_pj),
    ]
    known = sweepable(hardware)

    n = numbers(hardware)

    def priced(counts: Counts, keys: Sequence[str]) -> Callable[[Array], Array]:
        """Totals with these prices times the factors; what is a multiple of the MAC stays at its price of today."""
        relative = [k for k, number in known.items() if isinstance(number, Price) and number.is_relative]

        def at(factors: Array) -> Array:
            turned = {k: n[k] * (factors if k in keys else np.ones(len(factors))) for k in (*keys, *relative)}
            return totals(counts, hardware, policies, [Field(k, "pJ", v) for k, v in turned.items()], without).total_pj

        return at

    mac, ac = n.get("compute.mac"), n.get("compute.ac")
    if mac and ac:
        key = ["compute.mac"]
        found.append(Knob("MAC over AC", "x", mac / ac, priced(snn, key), priced(ann, key)))
    prices = [k for k in known if k.startswith("memory.levels.") and k.endswith((".read", ".write"))]
    if prices:
        found.append(Knob("memory price", "x today's", 1.0, priced(snn, prices), priced(ann, prices)))
    return found


def total_of(work: Work, counts: Counts, hardware: HardwareProfile, policies: Policies) -> Array:
    """total_pj of work whose columns are (points, rows)."""
    n = numbers(hardware)
    found = np.zeros(work.steps.shape[0])
    for charge in all_charges(work, hardware, policies, n):
        if charge.price is not None:
            found = found + charge.amount.sum(axis=-1) * n[charge.price]
    if static_keys(hardware) and hardware.latency is not None:
        places = places_of(counts, hardware.latency.timing == "array")
        cycles = total_cycles(work, hardware, n, policies.memory, places, counts.time_steps)
        found = found + static_power_w(hardware) * cycles / n["latency.clock"] * 1e12
    return found


RATE = ("acs", "input_events", "other_events", "spikes", *LAYER_EVENTS)
PER_STEP = (
    "steps", "macs", "acs", "dense", "dense_macs", "input_events", "other_events", "spikes", "updates",
    "membrane_reads", "membrane_writes", "elementwise", "layer_steps", *LAYER_EVENTS,
)  # fmt: skip


def scaled_rate(work: Work, factors: Array) -> Work:
    """The same network with ``factors`` (n,) times as many spikes everywhere: accumulates, events and spikes scale."""
    scaled = {name: work.columns[name] * factors[:, None] for name in RATE}
    steps = work.steps + 0 * factors[:, None]
    return dataclasses.replace(work, columns={**work.columns, **scaled, "steps": steps})


def scaled_steps(work: Work, counts: Counts, factors: Array) -> Work:
    """The same network with ``factors`` (n,) times as many steps, each like the present mean, but what is done once."""
    once = (counts.rows["time_step"] < 0).to_numpy()
    scaled = {name: np.where(once, work.columns[name], work.columns[name] * factors[:, None]) for name in PER_STEP}
    return dataclasses.replace(work, columns={**work.columns, **scaled})


def crossing(knob: Knob) -> float | None:
    """The factor nearest to 1 at which both networks cost the same, None if there is none within reach."""
    factors = np.unique(np.append(np.geomspace(1 / REACH, min(REACH, knob.largest), GRID), 1.0))
    for _ in range(ROUNDS):
        leads = knob.ann_pj(factors) - knob.snn_pj(factors)
        changes = np.flatnonzero(np.diff(np.sign(leads)) != 0)
        if len(changes) == 0:
            return None
        at = min(changes, key=lambda i: abs(np.log(factors[i] * factors[i + 1])))
        low, high = float(factors[at]), float(factors[at + 1])
        factors = np.unique(np.linspace(low, high, GRID))
        if len(factors) <= 2:
            break
    return low if abs(leads[at]) <= abs(leads[at + 1]) else high


def _row(knob: Knob, snn: str, ann: str) -> dict[str, Any]:
    """A knob's row of the table."""
    one = np.ones(1)
    wins = bool(knob.snn_pj(one)[0] < knob.ann_pj(one)[0])
    factor = crossing(knob)
    value = float("nan") if factor is None else factor * knob.now
    if factor is None:
        side = "always" if wins else "never"
        limit = f" up to {knob.largest * knob.now:.4g} (a spike in every step)" if knob.largest < REACH else ""
        text = f"{knob.name}: {snn} {'wins' if wins else 'loses'} against {ann} at any value within reach{limit}"
    else:
        side = "below" if (factor > 1) == wins else "above"
        verb = "stops winning" if wins else "would start to win"
        text = (
            f"{knob.name}: {snn} {verb} against {ann} {'above' if (side == 'below') == wins else 'below'} {value:.4g} "
            f"{knob.unit} (now {knob.now:.4g}, {factor:.3g} times)"
        )
    return {
        "knob": knob.name,
        "unit": knob.unit,
        "now": knob.now,
        "break_even": value,
        "snn_wins": side,
        "sentence": text,
    }
