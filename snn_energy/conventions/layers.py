"""What conventions read of a counts frame: one row per convolution, linear layer and product, per sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import CountsError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts

Floats = npt.NDArray[np.float64]
SUMMED = ("dense_macs", "sops", "sops_gated", "sops_multi", "rate_sops", "mean_value_sops", "bias_ops", "dense_once")
FIRST = (
    "group", "op", "input_kind", "other_kind", "reduction", "out_channels", "positions", "groups", "feeds_neuron",
    "weights", "biases",
)  # fmt: skip


def operation_layers(counts: Counts) -> pd.DataFrame:
    """One row per layer: its work per sample, summed over time steps, and what kind of layer it is.

    rate_sops: rate x dense MACs of every step, where the rate is the share of non-zeros. mean_value_sops: mean of
    \\|k\\| x dense MACs, NaN where the counts lack the sums of \\|k\\|. dense_once: dense MACs without the steps that
    repeat their input. bias_ops: one per output, step and bias. rate, other_rate: over all steps. is_first: reads the
    loader's grey levels. is_head: the classifier. Raises CountsError for published totals of a whole network.
    """
    if not counts.typed_header.by_layer:
        raise CountsError(f"{counts.model}: a convention needs the layers of a network, and these are its totals")
    rows = counts.rows[counts.rows["op"].isin(OPERATIONS)]
    if rows.empty:
        raise CountsError(f"{counts.model}: no convolution, linear layer or product to charge")
    samples = counts.samples
    work = pd.DataFrame({name: _numbers(rows[name]) / samples for name in ("dense_macs", "sops", "sops_gated")})
    nonzeros, elements = _numbers(rows["input_nonzeros"]) / samples, _numbers(rows["input_elements"])
    other, other_elements = _numbers(rows["other_nonzeros"]) / samples, _numbers(rows["other_elements"])
    is_real = (rows["input_kind"] == "real").to_numpy()
    work["sops_multi"] = np.where(is_real, work["sops"], _numbers(rows["sops_multi"]) / samples)
    has_rate = ~np.isnan(nonzeros) & (elements > 0)
    share = np.divide(nonzeros, elements, out=np.full(len(rows), np.nan), where=has_rate)
    # Published counts that state a rate alone have SOPs = rate x dense MACs.
    work["rate_sops"] = np.where(has_rate, share * work["dense_macs"], work["sops_gated"])
    levels = _numbers(rows["input_levels"]) / samples
    mean = np.divide(levels, elements, out=np.full(len(rows), np.nan), where=~np.isnan(levels) & (elements > 0))
    is_single = rows["input_kind"].isin(["binary", "ternary"]).to_numpy() | is_real
    work["mean_value_sops"] = np.where(is_single, work["rate_sops"], mean * work["dense_macs"])
    biases, positions = _numbers(rows["biases"]), _numbers(rows["positions"])
    runs = (rows["active"].to_numpy(dtype=bool)).astype(np.float64)
    work["bias_ops"] = np.where(biases == 0, 0.0, biases * positions * runs)
    work["dense_once"] = np.where(rows["input_repeated"].to_numpy(dtype=bool), 0.0, work["dense_macs"])
    work["nonzeros"], work["elements"] = nonzeros, elements
    work["other_nonzeros"], work["other_elements"] = other, other_elements
    keys = rows["layer"].to_numpy()
    grouped = work.groupby(keys, sort=False)
    table = grouped[[*SUMMED]].sum(min_count=1)
    unknown = work[[*SUMMED]].isna().groupby(keys, sort=False).any()
    table = table.mask(unknown)
    sums = grouped[["nonzeros", "elements", "other_nonzeros", "other_elements"]].sum()
    table["rate"] = _ratio(sums["nonzeros"], sums["elements"])
    table["other_rate"] = _ratio(sums["other_nonzeros"], sums["other_elements"])
    table["steps"] = grouped.size()
    firsts = rows.groupby("layer", sort=False)[list(FIRST)].first()
    table = table.join(firsts).rename_axis("layer").reset_index()
    table["is_first"] = (table.index == 0) & (table["input_kind"] == "real")
    table["is_head"] = (table["group"] == "head") | _is_last_linear(table)
    return table


def _is_last_linear(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """True for the last operation, if it is a linear layer that feeds no neuron."""
    last = np.arange(len(table)) == len(table) - 1
    found: npt.NDArray[np.bool_] = last & (table["op"] == "linear").to_numpy() & ~table["feeds_neuron"].to_numpy(bool)
    return found if len(table) > 1 else np.zeros(1, dtype=np.bool_)


def _numbers(column: pd.Series) -> Floats:
    """A column as floats, NaN where it is unknown."""
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _ratio(part: pd.Series, whole: pd.Series) -> Floats:
    parts, wholes = part.to_numpy(), whole.to_numpy()
    found: Floats = np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
    return found
