"""Transforms of counts: the same network with masked steps run, or with unneeded steps skipped."""

from __future__ import annotations

import dataclasses

from snn_energy.counts.columns import OPERATIONS, WORK
from snn_energy.counts.counts import Counts


def run_masked_steps(counts: Counts) -> Counts:
    """Counts of a device without time step masks: masked steps run too, on all-zero inputs."""
    rows = counts.rows.copy()
    masked = ~rows["active"].astype(bool) & (rows["time_step"] >= 0)
    operation, neuron = masked & rows["op"].isin(OPERATIONS), masked & (rows["op"] == "neuron")
    dense = rows["positions"] * rows["reduction"] * rows["out_channels"] * counts.samples
    rows["dense_macs"] = rows["dense_macs"].mask(operation, dense)
    for column in ("membrane_reads", "membrane_writes"):
        rows[column] = rows[column].mask(neuron, rows["neurons"] * counts.samples)
    ops_per_step = rows.groupby("layer")["elementwise_ops"].transform("max")  # equal in all steps that run
    rows["elementwise_ops"] = rows["elementwise_ops"].mask(masked, ops_per_step)
    rows["active"] = rows["active"] | masked
    return dataclasses.replace(counts, rows=rows, per_sample=None)


def keep_needed_steps(counts: Counts) -> Counts:
    """Counts in which only rows that are both active and needed are active."""
    needed = counts.rows["needed"].astype(bool)
    rows = counts.rows.copy()
    rows["active"] = rows["active"].astype(bool) & needed
    for column in WORK:
        rows[column] = rows[column].mask(~needed & rows[column].notna(), 0)
    return dataclasses.replace(counts, rows=rows, per_sample=None)
