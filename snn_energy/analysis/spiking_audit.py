"""Which operations of a spiking network are not spiking, and what they cost on a device. No torch here.

A spiking network is one whose weight layers and products accumulate on binary spikes. Every other operation is a
finding: inputs that are sums of spikes or real, products of real values, norms that do not fold, averages between
spikes and weights, maxima over real values, and element-wise arithmetic outside the neurons. All of it is derived from
the counts; what they do not record is reported as unknown. Energies are those of ``estimate``, row by row: compute
only, because the policies for sums of spikes affect nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from snn_energy.core.errors import CountsError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.counts.notes import (
    Nature,
    averaged_input,
    is_folded,
    is_not_plain_spiking,
    is_unfolded_norm,
    of_other_operand,
    parse_elementwise,
)
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.numbers import numbers
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.charged_work import BoolArray, FloatArray, charged_work, column
from snn_energy.pricing.compute import compute_actions, has_arithmetic_prices
from snn_energy.pricing.left_out import left_out
from snn_energy.pricing.policies import EncoderPolicy, IntegerPolicy, Policies, ProductPolicy, make_policies
from snn_energy.pricing.pricing import TOTAL, price_actions

POLICIES: tuple[IntegerPolicy, ...] = get_args(IntegerPolicy)

SUMS_OF_SPIKES = "non-binary input"
SIGNED = "ternary input"
REAL_INPUT = "real-valued input"
DIRECT_ENCODING = "direct encoding"
AVERAGE_BEFORE_WEIGHTS = "average pooling before weights"
REAL_PRODUCT = "real-valued product"
MIXED_PRODUCT = "product with a non-binary operand"
UNFOLDED_NORM = "unfolded batch norm"
REAL_MAX = "max over real values"
MAX_OF_SUMS = "max over sums of spikes"
UNKNOWN_MAX = "max over unknown values"
AVERAGE = "average pooling"
SUM = "sum of activations"
REAL_ARITHMETIC = "real-valued arithmetic"
NEURON = "neuron that does more than spike"
UNSUPPORTED = "operation without a rule"
# In the order in which tables list them: first categories of weight layers and products (the third also covers the
# averaging in front of them), then those of element-wise operations.
CATEGORIES = (
    DIRECT_ENCODING, REAL_INPUT, AVERAGE_BEFORE_WEIGHTS, SUMS_OF_SPIKES, SIGNED, REAL_PRODUCT, MIXED_PRODUCT,
    UNFOLDED_NORM, REAL_MAX, MAX_OF_SUMS, UNKNOWN_MAX, AVERAGE, SUM, REAL_ARITHMETIC, NEURON, UNSUPPORTED,
)  # fmt: skip
SPIKING = ""  # category of operations that a spiking network may have

NOT_RECORDED = "these counts do not say"
_MAXIMA = frozenset(("max", "amax", "maximum", "fmax"))
_MAX_OVER: Mapping[Nature | None, str] = {
    "real values": REAL_MAX, "averages of spikes": REAL_MAX, "sums of spikes": MAX_OF_SUMS,
}  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """Every operation of a network on a device, classified as spiking or not.

    ``operations`` has one row per layer (and category): layer, group, op, category (``SPIKING`` if a spiking network
    may have it), why, input_kind, max_k, other_kind, active_steps, then per sample sops, dense_macs,
    elementwise_ops, their shares of all SOPs and dense MACs of weight layers and products, the energy of compute
    under every policy for sums of spikes (energy_pj_ac, ...), energy_pj_if_binary (the same operation on binary
    inputs with as many non-zeros), and not_priced: which energies are unknown and why, else empty. Unknown is NaN,
    never zero.
    ``compute_pj``: the sums under every policy, equal to those of ``estimate``; NaN if unknown.
    """

    counts: Counts
    hardware: HardwareProfile
    products: ProductPolicy
    encoder: EncoderPolicy
    without: tuple[str, ...]
    operations: pd.DataFrame = field(repr=False)
    compute_pj: Mapping[str, float] = field(repr=False)

    @cached_property
    def findings(self) -> pd.DataFrame:
        """The operations that are not spiking, in the order of the network."""
        return self.operations[self.operations["category"] != SPIKING].reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """A copy of the findings: one row each."""
        return self.findings.copy()

    @property
    def is_spiking(self) -> bool:
        """True if the network has spiking neurons."""
        return len(self.counts.spiking_layers()) > 0

    @property
    def weighted(self) -> pd.DataFrame:
        """The weight layers and products among the operations."""
        return self.operations[self.operations["op"].isin(OPERATIONS)]

    def shares(self, operations: pd.DataFrame) -> dict[str, float | None]:
        """The share of some operations in the energy of compute, by policy; None if unknown, or if the total is 0."""
        return {p: _share(operations[energy_column(p)], self.compute_pj[p]) for p in POLICIES}

    @property
    def pure_share(self) -> dict[str, float | None]:
        """By policy: the share of the energy of compute that goes into accumulates of binary spikes."""
        weighted = self.weighted
        return self.shares(weighted[weighted["category"] == SPIKING])

    def by_category(self) -> pd.DataFrame:
        """One row per category that occurs: operations, sops, dense MACs, element-wise operations and energies per
        sample, energy_pj_if_binary, and the share of the energy of compute under ``ac`` and ``mac``.

        If the energy of one operation is unknown, that of its category is unknown too.
        """
        rows = []
        for category in CATEGORIES:
            members = self.findings[self.findings["category"] == category]
            if len(members):
                shares = self.shares(members)
                sums = {c: _sum(members[c]) for c in (*_WORK, *ENERGIES)}
                rows.append({"category": category, "operations": len(members), **sums,
                             "share_ac": shares["ac"], "share_mac": shares["mac"]})  # fmt: skip
        columns = ["category", "operations", *_WORK, *ENERGIES, "share_ac", "share_mac"]
        table = pd.DataFrame(rows, columns=columns)
        return table.astype(dict.fromkeys(columns[2:], np.float64))

    def verdict(self) -> str:
        """One sentence: how many weight layers and products read binary spikes, and the energy share of the others."""
        weighted = self.weighted
        not_spiking = weighted[weighted["category"] != SPIKING]
        binary = len(weighted) - len(not_spiking)
        read = "binary spikes" if self.is_spiking else "binary values"
        only = "" if len(not_spiking) else "only "
        text = f"{binary} of {len(weighted)} weight layers and products read {only}{read}"
        if not self.is_spiking:
            text = f"the counts of {self.counts.model} contain no spiking neurons; {text}"
        if not len(not_spiking):
            return text
        does = "does" if len(not_spiking) == 1 else "do"
        carries = f"{_carry_verb(len(not_spiking))} {self._shares_text(not_spiking)}"
        return f"{text}; {len(not_spiking)} {does} not and {carries}"

    def verdict_elementwise(self) -> str:
        """The same for operations that are neither weight layers nor products; empty if there is no finding."""
        outside = self.findings[~self.findings["op"].isin(OPERATIONS)]
        if not len(outside):
            return ""
        priced = outside[outside["energy_pj_ac"].notna()]
        unpriced = len(outside) - len(priced)
        text = f"{len(outside)} further {'finding lies' if len(outside) == 1 else 'findings lie'} outside them"
        carried = (
            f"; {len(priced)} of these {_carry_verb(len(priced))} {self._shares_text(priced)}" if len(priced) else ""
        )
        return f"{text}{carried}" + (f"; {self.hardware.name} has no price for {unpriced} of these" * bool(unpriced))

    def _shares_text(self, operations: pd.DataFrame) -> str:
        shares = self.shares(operations)
        texts = {p: "an unknown share" if s is None else f"{100 * s:.3g} %" for p, s in shares.items()}
        if len(set(texts.values())) == 1:
            return f"{texts['ac']} of compute under every policy"
        return ", ".join(f"{text}{' of compute' * (p == 'ac')} under {p}" for p, text in texts.items())

    def summary(self) -> dict[str, Any]:
        """Totals, policies, shares and the verdict, as plain values."""
        weighted = self.weighted
        return {
            "model": self.counts.model,
            "hardware": self.hardware.name,
            "products": self.products,
            "encoder": self.encoder,
            "without": list(self.without),
            "is_spiking": self.is_spiking,
            "weight_layers_and_products": len(weighted),
            "of_binary_spikes": int((weighted["category"] == SPIKING).sum()),
            "findings": len(self.findings),
            "compute_pj": {p: None if np.isnan(v) else v for p, v in self.compute_pj.items()},
            "pure_share": self.pure_share,
            "verdict": self.verdict(),
            "verdict_elementwise": self.verdict_elementwise(),
        }

    def for_reading(self) -> pd.DataFrame:
        """The findings as a table for display: one energy column per policy, in one unit."""
        table = self.findings.drop(columns=["group", "op", "other_kind", "active_steps", *_WORK])
        for name in ("share_of_sops", "share_of_dense_macs"):
            table[name] = 100 * table[name]
        return table.rename(columns=_DISPLAY_HEADINGS)

    def categories_for_reading(self) -> pd.DataFrame:
        """``by_category`` as a table for display; shares in percent."""
        table = self.by_category().rename(columns=_DISPLAY_HEADINGS)
        for name, heading in (("share_ac", "of compute, ac (%)"), ("share_mac", "of compute, mac (%)")):
            table[heading] = 100 * table.pop(name)
        return table


def energy_column(policy: str) -> str:
    """The column of the energy under a policy: ``multi-ac`` -> ``energy_pj_multi_ac``."""
    return f"energy_pj_{policy.replace('-', '_')}"


ENERGIES = (*(energy_column(policy) for policy in POLICIES), "energy_pj_if_binary")
_WORK = ("sops_per_sample", "dense_macs_per_sample", "elementwise_ops_per_sample")
_DISPLAY_HEADINGS = {c: f"{c.removeprefix('energy_pj_')}_pj" for c in ENERGIES} | {
    "dense_macs_per_sample": "dense MACs", "elementwise_ops_per_sample": "element-wise", "input_kind": "reads",
    "share_of_sops": "of SOPs (%)", "share_of_dense_macs": "of MACs (%)",
}  # fmt: skip


def audit(
    counts: Counts,
    hardware: str | Path | HardwareProfile,
    *,
    products: ProductPolicy = "coincidence",
    encoder: EncoderPolicy = "per-step",
    without: Iterable[str] = (),
) -> Audit:
    """Find what is not spiking in a network, and price it on a device under every policy for sums of spikes.

    hardware, products, encoder, without: as for ``estimate``. A missing price is no error here: the energies that need
    it are unknown and reported as such. Raises CountsError for published totals, which have no layers,
    HardwareError for an unknown or malformed profile, SnnEnergyError for an unknown policy or layer.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    if not counts.typed_header.by_layer:
        raise CountsError(
            f"{counts.typed_header.file or counts.model}: its figures are totals of a whole network, so which layers "
            "are not spiking cannot be determined; give counts by layer (a profile, or a published file with layers)"
        )
    left_out_layers = (without,) if isinstance(without, str) else tuple(without)
    per_policy = {p: make_policies(profile, None, p, products, encoder) for p in POLICIES}
    rows = counts.rows
    is_included = ~left_out(rows["layer"], left_out_layers)
    table = _classify_rows(counts)
    missing: dict[str, list[str]] = {}
    sums: dict[str, float] = {}
    for policy, policies in per_policy.items():
        found = _priced(counts, profile, policies, left_out_layers)
        table[energy_column(policy)], missing[policy] = found.energy_pj, found.missing
        sums[policy] = found.total_pj
    binary = _priced(as_binary(counts), profile, per_policy["ac"], left_out_layers)
    is_operation = rows["op"].isin(OPERATIONS).to_numpy()
    table["energy_pj_if_binary"] = np.where(is_operation, binary.energy_pj, np.nan)
    table["not_priced"] = [_missing_text(texts) for texts in zip(*missing.values(), strict=True)]
    return Audit(counts, profile, products, encoder, left_out_layers, _by_operation(table[is_included]), sums)


def as_binary(counts: Counts) -> Counts:
    """The same counts with the input of every weight layer and product made binary, with as many non-zeros."""
    rows = counts.rows.copy()
    operation = rows["op"].isin(OPERATIONS)
    rows["input_kind"] = rows["input_kind"].mask(operation, "binary")
    rows["max_k"] = rows["max_k"].mask(operation, 1)
    rows["sops_multi"] = rows["sops_multi"].mask(operation, rows["sops"])
    return dataclasses.replace(counts, rows=rows, per_sample=None)


# --- Which rows are which -----------------------------------------------------------------------------------


def _classify_rows(counts: Counts) -> pd.DataFrame:
    """One row per row of the counts: its category, and its work per sample."""
    rows = counts.rows
    repeated = set(rows.loc[rows["input_repeated"].astype(bool), "layer"])
    work_columns = {name: column(rows, name) for name in ("sops", "dense_macs", "elementwise_ops")}
    has_operations = pd.Series(work_columns["elementwise_ops"] != 0).groupby(rows["layer"].to_numpy()).any().to_dict()
    records: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in rows[["layer", "op", "note", "input_kind", "max_k", "other_kind"]].astype(object).to_dict("records")
    ]
    classified = [
        _category(row, row["layer"] in repeated, has_operations[row["layer"]], counts.time_steps) for row in records
    ]
    table = rows[["layer", "order", "group", "op"]].copy()
    table["category"] = [category for category, _ in classified]
    table["why"] = [why for _, why in classified]
    for name in ("input_kind", "max_k", "other_kind"):
        table[name] = rows[name]
    table["active_steps"] = rows["active"].astype(np.int64)
    for name, values in work_columns.items():
        table[f"{name}_per_sample"] = values / counts.samples
    return table


def _category(row: Mapping[str, Any], is_repeated: bool, has_operations: bool, time_steps: int) -> tuple[str, str]:
    """The category of a row of the counts, and the reason."""
    op, note = row["op"], str(row["note"])
    if op == "unsupported":
        return UNSUPPORTED, note or NOT_RECORDED
    if op in OPERATIONS:
        return _operation_category(row, note, is_repeated, time_steps)
    if op == "neuron":
        return (NEURON, note) if is_not_plain_spiking(note) else (SPIKING, "")
    if is_folded(note) or (not has_operations and op in ("norm", "scale")):
        return SPIKING, note
    return _elementwise_category(op, note)


def _operation_category(row: Mapping[str, Any], note: str, is_repeated: bool, time_steps: int) -> tuple[str, str]:
    kind, other, is_product = row["input_kind"], row["other_kind"], row["op"] == "matmul"
    if kind == "integer":
        sum_text = f"whole multiples of one constant up to {row['max_k']}, as sums of spikes are"
        return SUMS_OF_SPIKES, f"{sum_text}; the other operand is {other}" if is_product else sum_text
    if kind == "ternary":
        return SIGNED, "spikes of both signs"
    if kind == "real" and is_product:
        return REAL_PRODUCT, f"both operands are real{f': {note}' if note else ''}"
    if kind == "real" and is_repeated:
        return DIRECT_ENCODING, f"the same real values at each of {time_steps} time steps{f': {note}' if note else ''}"
    if kind == "real" and averaged_input(note) == "spikes":
        return AVERAGE_BEFORE_WEIGHTS, note
    if kind == "real" and averaged_input(note) == "unknown values":
        return AVERAGE_BEFORE_WEIGHTS, f"{note}, of what {NOT_RECORDED}"
    if kind == "real":
        return REAL_INPUT, note or f"real, why {NOT_RECORDED}"
    if is_product and other != "binary":
        why = of_other_operand(note)
        return MIXED_PRODUCT, f"one operand is binary, the other {other or 'unknown'}{f' ({why})' if why else ''}"
    return SPIKING, ""


def _elementwise_category(op: str, note: str) -> tuple[str, str]:
    if op == "norm" and "batch_norm" in note:
        return UNFOLDED_NORM, note if is_unfolded_norm(note) else f"{note}, why {NOT_RECORDED}"
    parsed = parse_elementwise(note)
    name, nature = parsed.name, parsed.nature
    text = note or op
    unknown_text = text if nature else f"{text}, of what {NOT_RECORDED}"
    is_max = (op == "pool" and "max" in name) or name in _MAXIMA
    if is_max and nature == "spikes":
        return SPIKING, text
    if is_max:
        return _MAX_OVER.get(nature, UNKNOWN_MAX), unknown_text
    if op == "pool" and not parsed.is_averaging and (nature or "nearest" in name):
        return SPIKING, f"{text}: copies to the nearest neighbours"
    if op in ("pool", "mean"):
        if parsed.before_weights and nature in ("spikes", "sums of spikes", "averages of spikes"):
            return AVERAGE_BEFORE_WEIGHTS, text
        return AVERAGE, unknown_text
    if op == "mul" and nature == "spikes":
        return SPIKING, text  # both fired
    if op == "add" or name in ("sum", "nansum", "cumsum"):
        return SUM, unknown_text
    return REAL_ARITHMETIC, text


# --- What they cost -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Priced:
    """energy_pj: (rows,) per sample, NaN if unknown. missing: why unknown, per row. total_pj: as in ``estimate``."""

    energy_pj: FloatArray
    missing: list[str]
    total_pj: float


def _priced(counts: Counts, hardware: HardwareProfile, policies: Policies, without: Iterable[str]) -> _Priced:
    """Energy of compute of every row; missing prices are recorded instead of raised as errors."""
    work, prices = charged_work(counts, hardware, policies, without), numbers(hardware)
    actions = compute_actions(work, hardware)
    energy = price_actions(actions, prices, len(counts.rows), TOTAL)["total_pj"]
    unpriced, missing = np.zeros(len(energy), dtype=np.bool_), [""] * len(energy)
    for action in actions:
        unknown = np.isnan(action.amount) & (work.op != "unsupported")
        if action.price is not None:
            _note_missing(missing, unknown, "not in the counts")
        else:
            here = (action.amount > 0) | unknown
            _note_missing(missing, here, f"not priced by {hardware.name}: {action.what}")
            unpriced |= here
    _note_missing(missing, work.op == "unsupported", "its operations are unknown")
    is_known = has_arithmetic_prices(hardware) and not (unpriced & work.is_operation).any()
    is_unpriced = (unpriced & (work.is_operation | (energy == 0))) | (work.op == "unsupported")
    return _Priced(np.where(is_unpriced, np.nan, energy), missing, float(energy.sum()) if is_known else np.nan)


def _note_missing(missing: list[str], where: BoolArray, text: str) -> None:
    """Record a text for the rows that have none yet."""
    for row in np.flatnonzero(where):
        missing[row] = missing[row] or text


def _missing_text(texts: tuple[str, ...]) -> str:
    """What is unknown under the policies, in one phrase; empty if nothing is."""
    if len(set(texts)) == 1:
        return texts[0]
    named = dict.fromkeys(text for text in texts if text)
    return "; ".join(
        f"under {', '.join(p for p, t in zip(POLICIES, texts, strict=True) if t == text)}: {text}" for text in named
    )


def _by_operation(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the same layer and category merged, in the order of the network, and their shares."""
    keys = ["order", "layer", "group", "op", "category", "why"]
    groups = table.groupby(keys, sort=False, dropna=False)
    first = groups[["input_kind", "max_k", "other_kind"]].first()
    sums = {name: groups[name].agg(_sum) for name in ("active_steps", *_WORK, *ENERGIES)}
    found = first.assign(**sums, not_priced=groups["not_priced"].agg(_first_text)).reset_index()
    found = found.sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)
    found["active_steps"] = found["active_steps"].astype(np.int64)
    weighted = found["op"].isin(OPERATIONS)
    for name in ("sops", "dense_macs"):
        work = found[f"{name}_per_sample"].where(weighted)
        whole = _sum(work[weighted])
        found[f"share_of_{name}"] = work / whole if whole > 0 else np.nan
    head = [*keys[1:], "input_kind", "max_k", "other_kind", "active_steps", *_WORK]
    return found[[*head, "share_of_sops", "share_of_dense_macs", *ENERGIES, "not_priced"]]


def _first_text(texts: pd.Series) -> str:
    return next((str(text) for text in texts if text), "")


def _sum(values: pd.Series) -> float:
    """A sum that is NaN if any value is unknown."""
    return float(values.to_numpy(dtype=np.float64, na_value=np.nan).sum())


def _share(energies: pd.Series, whole: float) -> float | None:
    part = _sum(energies)
    return None if np.isnan(part) or np.isnan(whole) or whole <= 0 else part / whole


def _carry_verb(count: int) -> str:
    return "carries" if count == 1 else "carry"
