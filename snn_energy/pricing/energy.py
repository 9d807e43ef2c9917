"""Energy = counts . costs, per sample (design, section 6). No torch here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args, overload

import numpy as np
import pandas as pd

from snn_energy.conventions.price import ConventionEnergy, price_by_convention
from snn_energy.core.errors import HardwareError, SnnEnergyError
from snn_energy.counts.counts import Counts
from snn_energy.counts.transforms import keep_needed_steps
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.numbers import Prices, numbers
from snn_energy.hardware.schema import HardwareProfile, MemoryVariant, Schedule, ZeroHandling
from snn_energy.hardware.tables import missing_prices
from snn_energy.pricing.actions import COMPUTE, MEMORY, TOTALS, ActionCount
from snn_energy.pricing.charged_work import BoolArray, ChargedWork, charged_work
from snn_energy.pricing.compute import compute_actions, has_arithmetic_prices, require_arithmetic_prices
from snn_energy.pricing.cycles import Latency, latency_of, static_power_w, with_latency
from snn_energy.pricing.memory import accesses, memory_actions, published_accesses, require_fit, variants_of
from snn_energy.pricing.policies import (
    EncoderPolicy,
    IntegerPolicy,
    Policies,
    PolicyOptions,
    ProductPolicy,
    make_policies,
)
from snn_energy.pricing.pricing import BY_KIND, price_actions, sum_rows, unpriced_actions

Aggregation = Literal["row", "layer", "group", "time_step"]
SAMPLE_BLOCK = 512


def all_actions(
    work: ChargedWork,
    hardware: HardwareProfile,
    policies: Policies,
    prices: Prices,
    placement_work: ChargedWork | None = None,
) -> list[ActionCount]:
    """Every action of a network on a device with these prices, and the price that it is charged at."""
    actions = compute_actions(work, hardware)
    if hardware.memory is not None:
        actions += memory_actions(accesses(work, hardware, prices, policies.memory, placement_work), prices)
    return actions


class EnergySummary(TypedDict):
    """``Energy.summary``: unknown values are None."""

    model: str
    hardware: str
    memory: MemoryVariant
    integer: IntegerPolicy
    products: ProductPolicy
    encoder: EncoderPolicy
    without: list[str]
    compute_pj: float | None
    memory_pj: float | None
    static_pj: float | None
    total_pj: float | None
    total_of_needed_steps_pj: float | None
    latency_s: float | None
    edp_js: float | None
    unpriced: list[dict[Hashable, object]]
    cannot_price: list[str]


@dataclass(frozen=True)
class Energy:
    """The energy of one network on one device, per sample.

    ``charges`` has one row per operation and time step: layer, order, group, op, time_step and the parts in pJ, of
    which compute_pj (mac, ac, zero check, neuron, spike, element-wise), memory_pj (weights, inputs, outputs, membrane,
    partial sums; accesses if a source published their counts) and total_pj are the sums. ``without``: layers left out.
    """

    counts: Counts
    hardware: HardwareProfile
    policies: Policies
    charges: pd.DataFrame = field(repr=False)
    without: tuple[str, ...] = ()

    @property
    def compute_pj(self) -> float:
        """Energy of arithmetic per sample; NaN if the device has no price for it."""
        return _sum(self.charges["compute_pj"])

    @property
    def memory_pj(self) -> float:
        """Energy of memory traffic per sample; NaN if the device has no price for it or the counts lack its sizes."""
        return _sum(self.charges["memory_pj"])

    @property
    def static_pj(self) -> float:
        """Static power times latency per sample; 0 if the profile has no static power, or no latency section.

        The latter case is listed by ``unpriced``.
        """
        watts, found = static_power_w(self.hardware), self.latency
        return 0.0 if watts == 0 or found is None else watts * found.seconds * 1e12

    @cached_property
    def latency(self) -> Latency | None:
        """Latency of an inference (snn_energy.pricing.cycles); None if the profile has no latency section."""
        if self.hardware.latency is None:
            return None
        return latency_of(self.counts, self.hardware, self.work, self.policies.memory)

    @cached_property
    def work(self) -> ChargedWork:
        """The charged work, as arrays."""
        return charged_work(self.counts, self.hardware, self.policies, self.without)

    @property
    def total_pj(self) -> float:
        """compute_pj + memory_pj + static_pj; memory or arithmetic that the device does not price is not included."""
        memory = 0.0 if self.hardware.memory is None else self.memory_pj
        compute = self.compute_pj if has_arithmetic_prices(self.hardware) else 0.0
        return compute + memory + self.static_pj

    @property
    def edp_js(self) -> float | None:
        """Energy-delay product per sample in joule seconds; None without a latency."""
        return None if self.latency is None else self.total_pj * 1e-12 * self.latency.seconds

    def to_frame(self, by: Aggregation | None = None) -> pd.DataFrame:
        """One row per operation and time step ("row" or None), or sums per layer, group or time step, in pJ per sample.

        A part that the profile does not price is NaN, not 0; compute_pj and total_pj are sums of the priced parts.
        Static energy has no row: it is in ``static_pj`` and in the property ``total_pj``.
        """
        if by in (None, "row"):
            return self.charges.copy()
        if by not in get_args(Aggregation):
            raise HardwareError(f"by must be one of {', '.join(get_args(Aggregation))}, not {by!r}")
        parts = [*COMPUTE, *MEMORY, *TOTALS]
        keys = {"layer": ["layer", "group", "op"], "group": ["group"], "time_step": ["time_step"]}[by]
        is_unknown = self.charges[parts].isna().join(self.charges[keys])
        unknown = is_unknown.groupby(keys, sort=by == "time_step", observed=True)[parts].any()
        table = self.charges.groupby(keys, sort=by == "time_step", observed=True)[parts].sum()
        some_priced = table.columns.isin(COMPUTE) & (table != 0)  # arithmetic parts priced at least in part
        return table.mask(unknown & ~some_priced).reset_index()

    def accesses(self) -> pd.DataFrame:
        """What every store moves per sample: tensor, level, action, bits, words, energy_pj.

        Empty if the profile has no memory section. Accesses whose counts a source published are returned as published.
        """
        if self.hardware.memory is None:
            return pd.DataFrame(columns=["tensor", "level", "action", "bits", "words", "energy_pj"])
        prices = numbers(self.hardware)
        rows: list[tuple[str, str, str, float, float, float]] = []
        if published := published_accesses(self.counts, self.hardware):
            for entry, (_, charge) in zip(self.counts.typed_header.accesses, published, strict=True):
                words = float(charge.amount[0])
                bits, energy_pj = (
                    words * prices.scalar(f"{charge.price}.width_bits"),
                    words * prices.scalar(str(charge.price)),
                )
                rows.append((entry["name"], entry["level"], entry["action"], bits, words, energy_pj))
            return pd.DataFrame(rows, columns=["tensor", "level", "action", "bits", "words", "energy_pj"])
        for a in accesses(self.work, self.hardware, prices, self.policies.memory):
            bits, action = float(a.bits.sum()), a.key.rsplit(".", 1)[1]
            words = bits / prices.scalar(f"{a.key}.width_bits")
            rows.append(
                (
                    a.tensor,
                    a.level,
                    "hop" if action == "inter_pe" else action,
                    bits,
                    words,
                    words * prices.scalar(a.key),
                )
            )
        table = pd.DataFrame(rows, columns=["tensor", "level", "action", "bits", "words", "energy_pj"])
        return table[table["bits"] != 0].reset_index(drop=True)

    def of_needed_steps(self) -> Energy:
        """The same without the work whose result no active consumer reads (design, section 4, output side).

        Not in the paper: its accelerator skips by the input side only, as do the totals of this class.
        """
        return self._with_counts(keep_needed_steps(self.counts))

    def _with_counts(self, counts: Counts) -> Energy:
        return price_counts(counts, self.hardware, self.policies, self.without)

    def per_sample(self) -> pd.DataFrame:
        """compute_pj, memory_pj and total_pj of every profiled sample, exact for any profile.

        Static energy is computed from the mean latency and is the same for all samples.
        Raises SnnEnergyError if the counts have no per-sample side file.
        """
        if self.counts.per_sample is None:
            raise SnnEnergyError(f"{self.counts.model}: no per-sample counts were kept: profile the network again")
        prices, samples = numbers(self.hardware), self.counts.samples
        sums = {"compute_pj": np.zeros(samples), "memory_pj": np.zeros(samples)}
        for start in range(0, samples, SAMPLE_BLOCK):
            block = slice(start, min(start + SAMPLE_BLOCK, samples))
            work = charged_work(self.counts, self.hardware, self.policies, self.without, block)
            actions = all_actions(work, self.hardware, self.policies, prices, self.work)
            for kind, found in price_actions(actions, prices, block.stop - start, BY_KIND, sum_rows).items():
                sums[kind][block] = found
        table = pd.DataFrame({"sample": np.arange(samples), "compute_pj": sums["compute_pj"]})
        if not has_arithmetic_prices(self.hardware):
            table["compute_pj"] = np.nan
        table["memory_pj"] = sums["memory_pj"] if self.hardware.memory is not None else np.nan
        table["total_pj"] = sums["compute_pj"] + sums["memory_pj"] + self.static_pj
        return table

    def spread(self) -> dict[str, float]:
        """Mean, standard deviation (over samples), smallest and largest total_pj."""
        totals = self.per_sample()["total_pj"]
        return {
            "mean_pj": float(totals.mean()),
            "std_pj": float(totals.std(ddof=0)),
            "min_pj": float(totals.min()),
            "max_pj": float(totals.max()),
        }

    def alternatives(self) -> pd.DataFrame:
        """Totals for every choice of one policy at a time: policy, choice, used, and the totals in pJ."""
        used = self.policies
        choices: list[tuple[str, str, Policies]] = [
            *(("memory", v, replace(used, memory=v)) for v in variants_of(self.hardware)),
            *(("integer", v, replace(used, integer=v)) for v in get_args(IntegerPolicy)),
            *(("products", v, replace(used, products=v)) for v in get_args(ProductPolicy)),
            *(("encoder", v, replace(used, encoder=v)) for v in get_args(EncoderPolicy)),
        ]
        found = []
        for name, choice, policies in choices:
            other = price_counts(self.counts, self.hardware, policies, self.without)
            found.append(
                {
                    "policy": name,
                    "choice": choice,
                    "used": policies == used,
                    "compute_pj": other.compute_pj,
                    "memory_pj": other.memory_pj,
                    "total_pj": other.total_pj,
                }
            )
        return pd.DataFrame(found)

    def unpriced(self) -> pd.DataFrame:
        """Work that the profile has no price for, per sample: op, what, amount (NA if unknown)."""
        rows, found = self.counts.rows, []
        for charge in compute_actions(self.work, self.hardware):
            amount = float(np.nansum(charge.amount))
            ops = dict.fromkeys(self.work.op[charge.amount > 0].tolist())
            if charge.price is None and amount > 0:
                found += [{"op": op, "what": charge.what, "amount": amount} for op in list(ops)[:1]]
            unknown = self.work.op[np.isnan(charge.amount) & (self.work.op != "unsupported")].tolist()
            what = charge.what or charge.part.removesuffix("_pj").replace("_", " ")
            found += [
                {"op": op, "what": f"{what} (the counts lack some amounts)", "amount": pd.NA} for op in unknown[:1]
            ]
        if layers := ", ".join(rows.loc[rows["op"] == "unsupported", "layer"].unique()[:3]):
            found.append({"op": "unsupported", "what": f"operations without a rule ({layers})", "amount": pd.NA})
        if static_power_w(self.hardware) and self.hardware.latency is None:
            found.append({"op": "static", "what": "static power (the profile has no latency)", "amount": pd.NA})
        if self.hardware.memory is None:
            what = f"memory traffic ({self.hardware.not_priced.memory})"
            found.append({"op": "memory", "what": what, "amount": pd.NA})
        elif np.isnan(self.memory_pj):
            layers = ", ".join(self.counts.layers_of_unknown_state()[:3])
            what = f"memory traffic (the counts lack {f'state variables of {layers}' if layers else 'some sizes'})"
            found.append({"op": "memory", "what": what, "amount": pd.NA})
        return pd.DataFrame(found, columns=["op", "what", "amount"])

    def summary(self) -> EnergySummary:
        """Totals, policies and what stays unpriced, as plain values."""
        unpriced = self.unpriced()
        found = self.latency
        return {
            "model": self.counts.model,
            "hardware": self.hardware.name,
            "memory": self.policies.memory,
            "integer": self.policies.integer,
            "products": self.policies.products,
            "encoder": self.policies.encoder,
            "without": list(self.without),
            "compute_pj": _none_if_nan(self.compute_pj),
            "memory_pj": _none_if_nan(self.memory_pj),
            "static_pj": _none_if_nan(self.static_pj),
            "total_pj": _none_if_nan(self.total_pj),
            "total_of_needed_steps_pj": _none_if_nan(self.of_needed_steps().total_pj),
            "latency_s": None if found is None else _none_if_nan(found.seconds),
            "edp_js": None if found is None else _none_if_nan(self.edp_js),
            "unpriced": unpriced.astype(object).where(unpriced.notna(), None).to_dict("records"),
            "cannot_price": missing_prices(self.hardware),
        }


def _sum(column: pd.Series) -> float:
    """A sum that is NaN if any term is NaN."""
    return float(column.to_numpy(dtype=np.float64).sum())


def _none_if_nan(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


@overload
def estimate(
    counts: Counts,
    hardware: str | Path | HardwareProfile,
    *,
    memory: MemoryVariant | None = None,
    integer: IntegerPolicy = "ac",
    products: ProductPolicy = "coincidence",
    encoder: EncoderPolicy = "per-step",
    without: Iterable[str] = (),
) -> Energy: ...


@overload
def estimate(counts: Counts, *, convention: str, as_published: bool = False) -> ConventionEnergy: ...


def estimate(
    counts: Counts,
    hardware: str | Path | HardwareProfile | None = None,
    *,
    convention: str | None = None,
    as_published: bool = False,
    memory: MemoryVariant | None = None,
    integer: IntegerPolicy = "ac",
    products: ProductPolicy = "coincidence",
    encoder: EncoderPolicy = "per-step",
    without: Iterable[str] = (),
) -> Energy | ConventionEnergy:
    """Price counts on a device, or by the convention of published work.

    hardware: a bundled name, a path to a YAML file, or a loaded profile. memory: how often each tensor is moved; by
    default the profile's own variant. without: layers that run elsewhere, named as in the counts (a block's name covers
    all its layers). convention: instead of hardware and policies, see ``snn-energy conventions list``; as_published:
    with the error that its published script has. Raises HardwareError for an unknown or malformed profile or one that
    lacks a price, SnnEnergyError for an unknown policy, layer or convention.
    """
    if convention is not None:
        if hardware is not None:
            raise SnnEnergyError("a convention has prices of its own: give hardware or convention, not both")
        return price_by_convention(counts, convention, as_published=as_published)
    if hardware is None:
        raise SnnEnergyError("give the hardware to price the counts on, or a convention")
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    policies = make_policies(profile, memory, integer, products, encoder)
    left_out_layers = (without,) if isinstance(without, str) else tuple(without)
    return price_counts(counts, profile, policies, left_out_layers)


def price_counts(
    counts: Counts, hardware: HardwareProfile, policies: Policies, without: tuple[str, ...] = ()
) -> Energy:
    """``estimate`` for a loaded profile and chosen policies."""
    work, prices = charged_work(counts, hardware, policies, without), numbers(hardware)
    require_arithmetic_prices(work, counts, hardware)
    table = counts.rows[["layer", "order", "group", "op", "time_step"]].copy()
    actions = all_actions(work, hardware, policies, prices)
    sums = price_actions(actions, prices, len(table))
    if any(np.isnan(sums[part]).any() for part in MEMORY):
        require_fit(work, hardware, list(counts.rows["layer"]), prices, policies.memory)
    published = published_accesses(counts, hardware)
    columns = {"compute_pj": np.sum([sums[p] for p in COMPUTE], axis=0)}
    if published:  # the source published the count of every access: nothing is derived
        sums |= {part: np.zeros(len(table)) for part in MEMORY}
    columns["memory_pj"] = np.sum([sums[p] for p in MEMORY], axis=0)
    unknown = np.full(len(table), np.nan)
    columns["total_pj"] = columns["compute_pj"] + (0.0 if hardware.memory is None else columns["memory_pj"])
    if hardware.memory is None:
        sums |= dict.fromkeys(MEMORY, unknown)
        columns["memory_pj"] = unknown
    if not has_arithmetic_prices(hardware):
        columns["compute_pj"] = unknown
    for part, rows in _unpriced_rows(actions, work, hardware).items():
        sums[part] = np.where(rows & (sums[part] == 0), np.nan, sums[part])
    table = table.assign(**sums, **columns)
    if published:
        table = pd.concat([table, _published_rows(published, prices, len(table))], ignore_index=True)
    energy = Energy(counts, hardware, policies, table, without)
    energy.__dict__["work"] = work  # fills the cached property
    return energy


def _unpriced_rows(
    actions: Iterable[ActionCount], work: ChargedWork, hardware: HardwareProfile
) -> dict[str, BoolArray]:
    """Part of compute -> rows whose work is unpriced on the device, or unknown."""
    found = {part: np.zeros(len(work.op), dtype=np.bool_) for part in COMPUTE}
    for charge in unpriced_actions(actions):
        found[charge.part] |= ~(charge.amount <= 0)  # also true for NaN, an unknown amount
    found["elementwise_pj"] |= work.op == "unsupported"
    if hardware.compute.neuron_prices is None:
        found["neuron_pj"] |= work.is_neuron
    return found


def _published_rows(published: list[tuple[str, ActionCount]], prices: Prices, order: int) -> pd.DataFrame:
    """Rows of the energy table for accesses whose counts the source published."""
    rows = []
    for label, charge in published:
        energy_pj = float(charge.amount[0]) * prices.scalar(str(charge.price))
        zeros = dict.fromkeys((*COMPUTE, *MEMORY, *TOTALS), 0.0)
        rows.append(
            {"layer": label, "order": order, "group": "other", "op": "access", "time_step": -1, **zeros}
            | dict.fromkeys(("accesses_pj", "memory_pj", "total_pj"), energy_pj)
        )
        order += 1
    return pd.DataFrame(rows)


def estimate_latency(
    counts: Counts,
    hardware: str | Path | HardwareProfile,
    *,
    schedule: Schedule | None = None,
    zeros: ZeroHandling | None = None,
    without: Iterable[str] = (),
    **policies: Unpack[PolicyOptions],
) -> Latency:
    """The latency of an inference on a device. schedule, zeros: by default the profile's own.

    policies: memory, integer, products, encoder, as for ``estimate``. Raises HardwareError for a profile without a
    latency section.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    profile = with_latency(profile, schedule, zeros)
    chosen = make_policies(profile, **policies)
    left_out_layers = (without,) if isinstance(without, str) else tuple(without)
    return latency_of(counts, profile, charged_work(counts, profile, chosen, left_out_layers), chosen.memory)
