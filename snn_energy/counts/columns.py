"""The columns of a counts frame: names, kinds, dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

SCHEMA_VERSION = 1
CONVENTION_VERSION = 1  # of the counting rules; incremented when a rule changes
INTEGRATES_ONLY_NOTE = "integrates only: no spikes"  # note of a neuron row with a potential but no spikes
OPERATIONS = ("conv", "linear", "matmul")
OPS = (
    *OPERATIONS, "neuron", "add", "mul", "scale", "activation", "softmax", "norm", "pool", "mean", "reduce", "compare",
    "unsupported",
)  # fmt: skip
KINDS = ("binary", "ternary", "integer", "real")
TEXT = ("layer", "group", "op", "input_kind", "other_kind", "note")
FLAGS = ("active", "needed", "input_repeated", "feeds_neuron")
WORK = (
    "input_nonzeros", "input_levels", "other_nonzeros", "dense_macs", "sops", "sops_gated", "sops_multi",
    "elementwise_ops", "spikes", "membrane_reads", "membrane_writes",
)  # fmt: skip
SIZES = (
    "input_elements", "other_elements", "output_elements", "weights", "biases", "neurons", "state_variables",
    "reduction", "out_channels", "positions", "groups",
)  # fmt: skip
COLUMNS = (
    "layer", "order", "group", "op", "time_step", "active", "needed", "input_repeated",
    "input_kind", "max_k", "input_elements", "input_nonzeros", "input_levels",
    "other_kind", "other_max_k", "other_elements", "other_nonzeros",
    "dense_macs", "sops", "sops_gated", "sops_multi", "elementwise_ops",
    "output_elements", "weights", "biases", "neurons", "state_variables", "spikes", "membrane_reads", "membrane_writes",
    "reduction", "out_channels", "positions", "groups", "feeds_neuron", "note",
)  # fmt: skip
PER_SAMPLE = ("input_nonzeros", "other_nonzeros", "sops", "sops_gated", "sops_multi", "spikes")
NULLABLE = frozenset(
    ("input_kind", "max_k", "input_elements", "input_nonzeros", "input_levels", "other_kind", "other_max_k",
     "other_elements", "other_nonzeros", "sops_multi", "state_variables")
)  # fmt: skip
# The work of an operation without a rule is unknown: null, never zero.
UNKNOWN_IF_UNSUPPORTED = frozenset(("dense_macs", "sops", "sops_gated", "elementwise_ops"))


def make_rows(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """Rows with the dtypes of a counts frame: nullable numbers (integers unless one is a float), flags, text."""
    made: dict[str, Any] = {}
    for name in COLUMNS:
        values = columns[name]
        if name in FLAGS:
            made[name] = np.array(values, dtype=np.bool_)
        elif name in TEXT:
            made[name] = pd.Series(values, dtype=object)
        else:
            unknown = np.array([value is None for value in values], dtype=np.bool_)
            known = [0 if value is None else value for value in values]
            if any(isinstance(value, float) for value in known):
                made[name] = pd.arrays.FloatingArray(np.array(known, dtype=np.float64), unknown)
            else:
                made[name] = pd.arrays.IntegerArray(np.array(known, dtype=np.int64), unknown)
    return pd.DataFrame(made)


def to_smallest_dtype(values: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    """The same non-negative integers in the smallest unsigned dtype."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
