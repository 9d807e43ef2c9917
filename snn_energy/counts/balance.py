"""Consistency checks of counts: between the columns of a row, and between rows and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from snn_energy.counts.columns import KINDS, OPERATIONS, PER_SAMPLE, WORK
from snn_energy.counts.counts import Counts
from snn_energy.counts.sample_store import blocks


def first_inconsistency(counts: Counts) -> str | None:
    """The first inconsistency in a counts frame (design, section 5), or None."""
    rows, samples = counts.rows, counts.samples

    def first(bad: Any, text: str) -> str | None:
        flags = pd.Series(bad).fillna(False).to_numpy(dtype=bool)
        if not flags.any():
            return None
        row = rows.iloc[int(np.flatnonzero(flags)[0])]
        return f"row {int(np.flatnonzero(flags)[0])} ({row['layer']}, time step {row['time_step']}): {text}"

    product, neuron = rows["op"] == "matmul", rows["op"] == "neuron"
    work = rows[list(WORK)].fillna(0).sum(axis=1)
    steps = rows["time_step"]
    dense = rows["positions"] * rows["reduction"] * rows["out_channels"] * samples
    operation = rows["op"].isin(OPERATIONS)
    multi_known = _is_sops_multi_known(rows, counts.typed_header.published)
    checks = [
        (rows["sops"] > rows["dense_macs"], "sops exceed dense_macs"),
        (product & (rows["sops"] > rows["sops_gated"]), "sops exceed sops_gated"),
        (product & (rows["sops_gated"] > rows["dense_macs"]), "sops_gated exceed dense_macs"),
        (operation & ~product & (rows["sops_gated"] != rows["sops"]), "sops_gated differ from sops"),
        (operation & rows["active"] & (rows["dense_macs"] != dense), "dense_macs are not M*K*N times samples"),
        (rows["input_nonzeros"] > rows["input_elements"] * samples, "more non-zeros than input elements"),
        (rows["input_levels"] < rows["input_nonzeros"], "input_levels are less than the non-zeros"),
        (rows["input_levels"] > rows["input_nonzeros"] * rows["max_k"], "input_levels exceed max_k per non-zero"),
        (rows["other_nonzeros"] > rows["other_elements"] * samples, "more non-zeros than other elements"),
        (rows["spikes"] > rows["neurons"] * samples, "more spikes than neurons"),
        (~rows["active"] & (work > 0), "work in a time step that is not active"),
        (neuron & (rows["membrane_writes"] != rows["neurons"] * samples * rows["active"]), "membrane_writes"),
        (neuron & (rows["membrane_reads"] != rows["neurons"] * samples * rows["active"]), "membrane_reads"),
        (~neuron & rows["state_variables"].notna(), "state_variables of what is no neuron"),
        ((steps < -1) | (steps >= counts.time_steps), "time_step outside the time steps of the header"),
        (operation & ~rows["input_kind"].isin(KINDS), "input_kind is unknown"),
        (multi_known & rows["sops_multi"].isna(), "sops_multi is missing"),
        ((rows["input_kind"] == "integer") & rows["max_k"].isna(), "an integer input without max_k"),
        ((rows["other_kind"] == "integer") & rows["other_max_k"].isna(), "an integer operand without max_k"),
        (rows.duplicated(["layer", "time_step"]), "appears twice"),
    ]  # fmt: skip
    for bad, text in checks:
        problem = first(bad, text)
        if problem is not None:
            return problem
    return _per_sample_inconsistency(counts, first)


def _is_sops_multi_known(rows: pd.DataFrame, published: bool) -> pd.Series:
    """Operations whose sum of |k| * fan-out is known; published counts have none for integers."""
    kinds = ("binary", "ternary") if published else ("binary", "ternary", "integer")
    return rows["op"].isin(OPERATIONS) & rows["input_kind"].isin(kinds) & rows["sops"].notna()


def _per_sample_inconsistency(counts: Counts, first: Any) -> str | None:
    if counts.per_sample is None:
        return None
    for name in PER_SAMPLE:
        values = counts.per_sample[name]
        if values.shape != (len(counts.rows), counts.samples):
            return f"per-sample {name} has shape {values.shape}, not (rows, samples)"
        sums = [block.sum(1) for block in blocks(values)]
        totals = pd.Series(np.concatenate(sums) if sums else [], index=counts.rows.index)
        problem: str | None = first(totals != counts.rows[name].fillna(0), f"per-sample {name} do not add up to it")
        if problem is not None:
            return problem
    return None
