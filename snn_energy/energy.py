"""Energy = counts . costs, per sample (design, section 6). No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.counts import WORK, Counts
from snn_energy.errors import SnnEnergyError, nearest
from snn_energy.hardware import HardwareProfile, cannot_price, load_hardware
from snn_energy.memory import MEMORY_VARIANTS, MemoryVariant, is_operation, memory_charges

IntegerPolicy = Literal["ac", "multi-ac", "mac", "mac-dense"]
ProductPolicy = Literal["coincidence", "gated"]
EncoderPolicy = Literal["per-step", "once"]
Level = Literal["layer", "group", "time_step"]

COMPUTE = ("mac_pj", "ac_pj", "zero_check_pj", "neuron_pj", "elementwise_pj")
MEMORY = ("weights_pj", "inputs_pj", "outputs_pj", "membrane_pj")
TOTALS = ("compute_pj", "memory_pj", "total_pj")


@dataclass(frozen=True)
class Policies:
    """The choices on which published figures of one network differ; every result says which it used.

    integer: how sums of spikes are charged (e_ac*sops, e_ac*sops_multi, e_mac*sops, e_mac*dense_macs). products:
    coincidences of both operands, or gated by the streamed one. encoder: a repeated real input is charged per step
    or once. memory: see snn_energy.memory.
    """

    memory: MemoryVariant = "ws_once"
    integer: IntegerPolicy = "ac"
    products: ProductPolicy = "coincidence"
    encoder: EncoderPolicy = "per-step"

    def __post_init__(self) -> None:
        choices: Mapping[str, tuple[str, ...]] = {
            "memory": MEMORY_VARIANTS,
            "integer": get_args(IntegerPolicy),
            "products": get_args(ProductPolicy),
            "encoder": get_args(EncoderPolicy),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value == "psum_spill" and name == "memory":
                raise SnnEnergyError(
                    f"memory variant 'psum_spill' needs the array's rows, which profiles do not give yet; "
                    f"choose one of {', '.join(allowed)}"
                )
            if value not in allowed:
                raise SnnEnergyError(
                    f"unknown {name} policy '{value}'{nearest(str(value), allowed)}; choose one of {', '.join(allowed)}"
                )


def charged_rows(rows: pd.DataFrame, policies: Policies) -> pd.Series:
    """Active rows; with ``encoder: once`` those of a repeated input are left out (rule 5)."""
    if policies.encoder == "once":
        return rows["active"] & ~rows["input_repeated"]
    return rows["active"].copy()


def macs_charged(rows: pd.DataFrame, policies: Policies) -> pd.Series:
    """Multiply-accumulates, totals over samples: dense_macs of real rows; integer rows under mac, mac-dense."""
    macs = rows["dense_macs"].where(rows["input_kind"] == "real", 0)
    if policies.integer in ("mac", "mac-dense"):
        column = "sops" if policies.integer == "mac" else "dense_macs"
        macs = macs.where(rows["input_kind"] != "integer", _sops(rows, policies, column))
    return macs.where(is_operation(rows), 0).astype(float)


def acs_charged(rows: pd.DataFrame, policies: Policies) -> pd.Series:
    """Accumulates, totals over samples: SOPs of binary and ternary rows; integer rows under ac, multi-ac."""
    acs = _sops(rows, policies, "sops").where(rows["input_kind"].isin(("binary", "ternary")), 0)
    if policies.integer in ("ac", "multi-ac"):
        column = "sops" if policies.integer == "ac" else "sops_multi"
        acs = acs.where(rows["input_kind"] != "integer", _sops(rows, policies, column))
    return acs.where(is_operation(rows), 0).astype(float)


def _sops(rows: pd.DataFrame, policies: Policies, column: str) -> pd.Series:
    """A column of operations; for products under ``gated``, sops_gated stands for sops."""
    if column == "sops" and policies.products == "gated":
        return rows["sops_gated"]
    return rows[column]


def compute_charges(counts: Counts, hardware: HardwareProfile, policies: Policies, charged: pd.Series) -> pd.DataFrame:
    """Energy of arithmetic in pJ per sample and row; NaN for work that the profile has no price for."""
    rows, samples, compute = counts.rows, counts.samples, hardware.compute
    zero_check_pj = pd.Series(0.0, index=rows.index)
    neuron_pj = zero_check_pj.mask(rows["op"] == "neuron")
    if compute.zero_check is not None:
        per_sample = (
            rows["dense_macs"].fillna(0).astype(float) / samples
            if compute.zero_check.per == "operation"
            else rows["input_elements"].fillna(0).astype(float)
        )
        checked = charged & is_operation(rows) & (rows["input_kind"] != "real")
        zero_check_pj = compute.zero_check.energy_pj * per_sample * checked
    if compute.neuron_prices is not None:
        spiking, silent = compute.neuron_prices
        updates = (rows["neurons"] * rows["active"]).astype(float)
        fired = rows["spikes"].astype(float) / samples
        neuron_pj = fired * spiking.energy_pj + (updates - fired) * silent.energy_pj
    elementwise = rows["elementwise_ops"].fillna(0).astype(float) / samples * charged
    prices = rows["op"].map(lambda op: _elementwise_price(hardware, op)).astype(float)
    elementwise_pj = (elementwise * prices).where(elementwise > 0, 0.0).mask(rows["op"] == "unsupported")
    return pd.DataFrame(
        {
            "mac_pj": macs_charged(rows, policies) / samples * compute.mac.energy_pj * charged,
            "ac_pj": acs_charged(rows, policies) / samples * compute.ac.energy_pj * charged,
            "zero_check_pj": zero_check_pj,
            "neuron_pj": neuron_pj,
            "elementwise_pj": elementwise_pj,
        }
    )


def _elementwise_price(hardware: HardwareProfile, op: str) -> float | None:
    """pJ per element-wise operation of a kind, None where the profile has none."""
    if hardware.compute.elementwise is None:
        return None
    price = hardware.compute.elementwise.price(op)
    return None if price is None else price.energy_pj


@dataclass(frozen=True)
class Energy:
    """What one network costs on one device, per sample.

    ``charges`` has one row per operation and time step: layer, order, group, op, time_step and the parts in pJ, of
    which compute_pj (mac, ac, zero check, neuron, element-wise), memory_pj (weights, inputs, outputs, membrane) and
    total_pj are the sums.
    """

    counts: Counts
    hardware: HardwareProfile
    policies: Policies
    charges: pd.DataFrame = field(repr=False)

    @property
    def compute_pj(self) -> float:
        """Energy of arithmetic per sample."""
        return float(self.charges["compute_pj"].sum())

    @property
    def memory_pj(self) -> float:
        """Energy of memory traffic per sample."""
        return float(self.charges["memory_pj"].sum())

    @property
    def total_pj(self) -> float:
        """compute_pj + memory_pj."""
        return self.compute_pj + self.memory_pj

    def to_frame(self, by: Level | None = None) -> pd.DataFrame:
        """One row per operation and time step, or the sums per layer, group or time step, in pJ per sample.

        A part that the profile does not price is NaN, not 0; compute_pj and total_pj are the sums of what is priced.
        """
        if by is None:
            return self.charges.copy()
        parts = [*COMPUTE, *MEMORY, *TOTALS]
        keys = {"layer": ["layer", "group", "op"], "group": ["group"], "time_step": ["time_step"]}[by]
        sort = by == "time_step"
        unknown = (
            self.charges[parts].isna().join(self.charges[keys]).groupby(keys, sort=sort, observed=True)[parts].any()
        )
        table = self.charges.groupby(keys, sort=sort, observed=True)[parts].sum()
        return table.mask(unknown & (table == 0)).reset_index()  # nothing of it is priced: not known, not 0

    def of_needed_steps(self) -> Energy:
        """The same without the work whose result no active consumer reads (design, section 4, output side).

        Beyond the paper: its accelerator skips by the input side alone, and the totals of this class do the same.
        """
        needed = self.counts.rows["needed"].astype(bool)
        rows = self.counts.rows.copy()
        rows["active"] = rows["active"].astype(bool) & needed
        for column in WORK:
            rows[column] = rows[column].mask(~needed & rows[column].notna(), 0)
        counts = dataclasses.replace(self.counts, rows=rows, per_sample=None)
        return estimate(counts, self.hardware, **asdict(self.policies))

    def per_sample(self) -> pd.DataFrame:
        """compute_pj, memory_pj and total_pj of every single profiled sample, exact for any profile.

        Memory traffic, zero checks and dense MACs do not depend on the sample; SOPs and spikes do. Raises
        SnnEnergyError where the counts came without their per-sample side file.
        """
        per_sample = self.counts.per_sample
        if per_sample is None:
            raise SnnEnergyError(f"{self.counts.model}: no per-sample counts were kept: profile again")
        rows, compute = self.counts.rows, self.hardware.compute
        charged = charged_rows(rows, self.policies).to_numpy(dtype=float)
        cost = np.zeros((len(per_sample["sops"][0]),))
        for column, price in self._varying(rows, charged):
            cost = cost + price @ per_sample[column]
        if compute.neuron_prices is not None:
            spiking, silent = compute.neuron_prices
            cost = cost + (spiking.energy_pj - silent.energy_pj) * per_sample["spikes"].sum(0)
        constant = self.compute_pj - float(cost.mean())
        table = pd.DataFrame({"sample": np.arange(len(cost)), "compute_pj": cost + constant})
        table["memory_pj"] = self.memory_pj
        table["total_pj"] = table["compute_pj"] + table["memory_pj"]
        return table

    def _varying(
        self, rows: pd.DataFrame, charged: npt.NDArray[np.float64]
    ) -> list[tuple[str, npt.NDArray[np.float64]]]:
        """Per-sample column and its price per row, of the charges that depend on the sample."""
        sops = "sops_gated" if self.policies.products == "gated" else "sops"
        kinds = rows["input_kind"]
        spikes = (kinds.isin(("binary", "ternary")) & is_operation(rows)).to_numpy(dtype=float)
        integer = ((kinds == "integer") & is_operation(rows)).to_numpy(dtype=float)
        e_ac, e_mac = self.hardware.compute.ac.energy_pj, self.hardware.compute.mac.energy_pj
        found = [(sops, spikes * charged * e_ac)]
        if self.policies.integer in ("ac", "mac"):
            found.append((sops, integer * charged * (e_ac if self.policies.integer == "ac" else e_mac)))
        elif self.policies.integer == "multi-ac":
            found.append(("sops_multi", integer * charged * e_ac))
        return found

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
        """What every other choice of one policy at a time would give: policy, choice, used, the totals in pJ."""
        found = []
        used = asdict(self.policies)
        for name, choices in (
            ("memory", MEMORY_VARIANTS),
            ("integer", get_args(IntegerPolicy)),
            ("products", get_args(ProductPolicy)),
            ("encoder", get_args(EncoderPolicy)),
        ):
            for choice in choices:
                other = estimate(self.counts, self.hardware, **(used | {name: choice}))
                found.append(
                    {
                        "policy": name,
                        "choice": choice,
                        "used": choice == used[name],
                        "compute_pj": other.compute_pj,
                        "memory_pj": other.memory_pj,
                        "total_pj": other.total_pj,
                    }
                )
        return pd.DataFrame(found)

    def unpriced(self) -> pd.DataFrame:
        """Work that the profile has no price for, per sample: op, what, amount (NA where not even that is known)."""
        rows, compute, samples = self.counts.rows, self.hardware.compute, self.counts.samples
        found: list[dict[str, Any]] = []
        neurons = rows[rows["op"] == "neuron"]
        if compute.neuron_prices is None and len(neurons):
            amount = float((neurons["neurons"] * neurons["active"]).sum())
            found.append({"op": "neuron", "what": "neuron updates", "amount": amount})
        for op, part in rows[~is_operation(rows) & (rows["op"] != "neuron")].groupby("op", sort=False):
            if op == "unsupported":
                layers = ", ".join(part["layer"].unique()[:3])
                found.append({"op": op, "what": f"operations without a rule ({layers})", "amount": pd.NA})
            elif float(part["elementwise_ops"].sum()) and _elementwise_price(self.hardware, str(op)) is None:
                amount = float(part["elementwise_ops"].sum()) / samples
                found.append({"op": op, "what": "element-wise operations", "amount": amount})
        return pd.DataFrame(found, columns=["op", "what", "amount"])

    def summary(self) -> dict[str, Any]:
        """Totals, policies and what stays unpriced, as plain values."""
        return {
            "model": self.counts.model,
            "hardware": self.hardware.name,
            **asdict(self.policies),
            "compute_pj": self.compute_pj,
            "memory_pj": self.memory_pj,
            "total_pj": self.total_pj,
            "total_of_needed_steps_pj": self.of_needed_steps().total_pj,
            "unpriced": self.unpriced().astype(object).where(self.unpriced().notna(), None).to_dict("records"),
            "cannot_price": cannot_price(self.hardware),
        }


def estimate(
    counts: Counts,
    hardware: str | Path | HardwareProfile,
    *,
    memory: MemoryVariant = "ws_once",
    integer: IntegerPolicy = "ac",
    products: ProductPolicy = "coincidence",
    encoder: EncoderPolicy = "per-step",
) -> Energy:
    """Price counts on a device. ``hardware``: a bundled name, a path to a YAML file, or a loaded profile.

    Raises HardwareError for an unknown or malformed profile, SnnEnergyError for an unknown policy.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    policies = Policies(memory, integer, products, encoder)
    charged = charged_rows(counts.rows, policies)
    charges = pd.concat(
        [
            counts.rows[["layer", "order", "group", "op", "time_step"]],
            compute_charges(counts, profile, policies, charged),
            memory_charges(counts, profile, policies.memory, charged)[list(MEMORY)],
        ],
        axis=1,
    )
    charges["compute_pj"] = charges[list(COMPUTE)].sum(axis=1)
    charges["memory_pj"] = charges[list(MEMORY)].sum(axis=1)
    charges["total_pj"] = charges["compute_pj"] + charges["memory_pj"]
    return Energy(counts, profile, policies, charges)
