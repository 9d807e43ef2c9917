"""Which operations of each layer a convention charges, and as what: small pure functions of a table of layers.

Symbols: F dense MACs of a time step, T time steps, r rate of non-zeros in a layer's input, M and A the energies of a
MAC and of an accumulate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.conventions.schema import NotSpikes, Rules
from snn_energy.core.errors import CountsError
from snn_energy.counts.counts import Counts

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_WORK = {"rate": "rate_sops", "mean_value": "mean_value_sops", "exact": "sops", "exact_levels": "sops_multi"}
NOT_BINARY = ("ternary", "integer")


def charged_operations(table: pd.DataFrame, rules: Rules, counts: Counts) -> pd.DataFrame:
    """The layers of ``operation_layers`` with ``macs`` and ``acs`` that the rules charge, per sample.

    ``macs_and_acs``: operations charged M + A each; ``macs_times_acs``: M * A each, an error of a published sheet.
    ``is_charged``: False for a layer that the convention leaves out. Raises CountsError for a column that is missing.
    """
    found = table[["layer", "group", "op", "input_kind", "rate"]].copy()
    zeros = np.zeros(len(table))
    macs, acs, both, times = zeros.copy(), zeros.copy(), zeros.copy(), zeros.copy()
    charged, first = is_charged(table, rules), table["is_first"].to_numpy(bool)
    dense = dense_operations(table, rules)
    of_first = table["dense_once"].to_numpy() if rules.first_layer_steps == "once" else table["dense_macs"].to_numpy()
    of_first = of_first + (table["bias_ops"].to_numpy() if rules.biases else zeros)
    is_dense, is_nonzero = is_charged_as(table, rules, "dense_macs"), is_charged_as(table, rules, "nonzero_macs")
    accumulates = accumulated_operations(table, rules)
    nonzero: Floats = table["sops"].to_numpy(np.float64)
    macs = np.where(charged & ~first & is_dense, dense, np.where(charged & ~first & is_nonzero, nonzero, macs))
    acs = np.where(charged & ~first & ~is_dense & ~is_nonzero, accumulates, acs)
    if rules.first_layer in ("mac", "nonzero_macs"):
        macs = np.where(charged & first, of_first if rules.first_layer == "mac" else nonzero, macs)
    elif rules.first_layer == "mac_and_ac":
        both = np.where(charged & first, of_first, both)
    elif rules.first_layer == "mac_times_ac":
        times = np.where(charged & first, of_first, times)
    elif rules.first_layer == "accumulates":
        acs = np.where(charged & first, accumulates, acs)
    else:
        charged = charged & ~first
    found = found.assign(macs=macs, acs=acs, macs_and_acs=both, macs_times_acs=times, is_charged=charged)
    unknown = found[found[["macs", "acs", "macs_and_acs", "macs_times_acs"]].isna().any(axis=1)]
    if len(unknown):
        raise CountsError(_missing(counts, unknown["layer"].iloc[0], rules))
    return found


def is_charged(table: pd.DataFrame, rules: Rules) -> Flags:
    """False for layers that the convention leaves out: by kind, or because no part of their name is listed."""
    kept = np.ones(len(table), dtype=np.bool_)
    if not rules.head:
        kept &= ~table["is_head"].to_numpy(bool)
    if not rules.linear:
        kept &= (table["op"] != "linear").to_numpy()
    is_product = (table["op"] == "matmul").to_numpy()
    if rules.products == "none":
        kept &= ~is_product
    if rules.layers:
        named = table["layer"].map(lambda name: any(part in name for part in rules.layers)).to_numpy(dtype=np.bool_)
        kept &= named | is_product
    return kept


def is_charged_as(table: pd.DataFrame, rules: Rules, macs: NotSpikes) -> Flags:
    """True for layers whose inputs make them MACs, of every tap or of non-zeros: sums of spikes, or real values."""
    kind, is_product = table["input_kind"], (table["op"] == "matmul").to_numpy()
    found = np.zeros(len(table), dtype=np.bool_)
    if rules.integers == macs:
        found |= kind.isin(NOT_BINARY).to_numpy()
    if rules.real == macs:
        found |= (kind == "real").to_numpy()
    return found & ~is_product


def dense_operations(table: pd.DataFrame, rules: Rules) -> Floats:
    """F * T, and with ``biases`` one more operation per output and step."""
    dense: Floats = table["dense_macs"].to_numpy(np.float64)
    return dense + (table["bias_ops"].to_numpy(np.float64) if rules.biases else 0.0)


def accumulated_operations(table: pd.DataFrame, rules: Rules) -> Floats:
    """r * F * T or its exact forms; products by their own rule."""
    found: Floats = table[_WORK[rules.work]].to_numpy(np.float64).copy()
    if rules.biases:
        found += table["rate"].fillna(0.0).to_numpy() * table["bias_ops"].to_numpy()
    is_product = (table["op"] == "matmul").to_numpy()
    if rules.products == "spiking_side":
        both_spike = table["other_kind"].isin(["binary", "ternary"]).to_numpy()
        found = np.where(is_product, np.where(both_spike, table["sops_multi"], table["sops_gated"]), found)
    elif rules.products == "ssa":
        found = np.where(is_product, ssa_accumulates(table), found)
    return found


def ssa_accumulates(table: pd.DataFrame) -> Floats:
    """T*H*N*d^2 * (min(r_k, r_v) + r_q) of every attention, at its first product, 0 at its second.

    K^T V first, whatever order the network computes in (Spikingformer, flops_counter.py). N tokens, H heads of d
    features, rates of q, k and v. A product of another form keeps the rate of its streamed operand.
    """
    found: Floats = table["rate_sops"].to_numpy(np.float64).copy()
    products = table.index[table["op"] == "matmul"].tolist()
    for one, two in zip(products[::2], products[1::2], strict=False):
        closed = _closed_form(table.loc[one], table.loc[two])
        if closed is not None:
            found[one], found[two] = closed, 0.0
    return found


def _closed_form(one: pd.Series, two: pd.Series) -> float | None:
    """The accumulates of an attention of two products; None if they are not those of self-attention."""
    if one["layer"].rpartition("#")[0] != two["layer"].rpartition("#")[0]:
        return None
    heads = int(two["groups"])
    tokens, inner, features = int(two["positions"]), int(two["reduction"]), int(two["out_channels"]) // heads
    if inner == tokens:  # (q k^T) v
        rate_q, rate_k, rate_v = one["rate"], one["other_rate"], two["rate"]
    elif inner == features:  # q (k^T v)
        rate_q, rate_k, rate_v = two["rate"], one["rate"], one["other_rate"]
    else:
        return None
    steps = int(one["steps"])
    return float(steps * heads * tokens * features**2 * (min(rate_k, rate_v) + rate_q))


def _missing(counts: Counts, layer: str, rules: Rules) -> str:
    what = {
        "rate": "the rate of its input", "mean_value": "the sums of its inputs' values (column input_levels)",
        "exact": "its SOPs", "exact_levels": "its SOPs weighted with |k| (column sops_multi)",
    }[rules.work]  # fmt: skip
    fix = "profile the network again: snn-energy profile CHECKPOINT --data DATA -o COUNTS.json"
    if counts.typed_header.published:
        fix = "its source does not state it"
    return f"{counts.model}: the counts of {layer} lack {what}, which this convention charges; {fix}"
