"""The JSON of a counts file: records, digest, checks of header and rows. Only plain dicts and frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from snn_energy.core.errors import CountsError
from snn_energy.core.groups import GROUPS
from snn_energy.counts.columns import (
    COLUMNS,
    CONVENTION_VERSION,
    FLAGS,
    KINDS,
    NULLABLE,
    OPS,
    PER_SAMPLE,
    TEXT,
    UNKNOWN_IF_UNSUPPORTED,
)
from snn_energy.counts.sample_store import blocks


def content_digest(
    header: Mapping[str, Any],
    rows: pd.DataFrame,
    per_sample: Mapping[str, Any] | None,
    columns: Sequence[str] = COLUMNS,
) -> str:
    """SHA-256 over header, rows (those columns that a file has) and per-sample counts, as hexadecimal."""
    hashed = {key: value for key, value in header.items() if key not in ("content_sha256", "file")}
    digest = hashlib.sha256(json.dumps([hashed, row_records(rows, columns)], sort_keys=True, allow_nan=False).encode())
    for name in PER_SAMPLE if per_sample is not None else ():
        values = per_sample[name]  # type: ignore[index]
        digest.update(f"{name}{values.shape}".encode())
        for block in blocks(values):
            digest.update(np.ascontiguousarray(block, dtype="<i8").data)
    return digest.hexdigest()


def object_without_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs. Raises ValueError for a key that is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return found


def check_header(path: Path, header: Any) -> None:
    """Raise CountsError if the header of a counts file is incomplete or invalid."""
    if not isinstance(header, dict):
        raise CountsError(f"{path}: header must be a mapping")
    for key in ("model", "samples", "time_steps"):
        if key not in header:
            raise CountsError(f"{path}: header lacks '{key}': profile the network again")
    if header.get("convention") != CONVENTION_VERSION:
        raise CountsError(
            f"{path}: counted by convention {header.get('convention')!r}, this version prices {CONVENTION_VERSION}: "
            "profile the network again"
        )
    if not isinstance(header["model"], str):
        raise CountsError(f"{path}: header 'model' must be text, not {header['model']!r}")
    accuracy = header.get("accuracy")
    if accuracy is not None and not (isinstance(accuracy, (int, float)) and 0 <= accuracy <= 1):
        raise CountsError(f"{path}: header 'accuracy' must be null or lie in 0..1, not {accuracy!r}")
    for key in ("samples", "time_steps"):
        if not isinstance(header[key], int) or isinstance(header[key], bool) or header[key] < 1:
            raise CountsError(f"{path}: header '{key}' must be a whole number of at least 1, not {header[key]!r}")


def columns_of(records: Any) -> tuple[str, ...]:
    """The columns that the rows of a counts file must have: all; those of an older file, as its first row says."""
    first = records[0] if isinstance(records, list) and records else {}
    return tuple(name for name in COLUMNS if name in first or name not in ADDED_LATER)


def with_added_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """All columns of the rows of a file; what an older file lacks has the value by which it was priced."""
    return {name: [row[name] if name in row else _WHEN_ADDED[name](row) for row in records] for name in COLUMNS}


# Columns that older files lack, with their value for a row: neurons were priced as if they had one state variable, and
# the sum of |k| is the number of non-zeros where every |k| is 1, else unknown.
_WHEN_ADDED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "state_variables": lambda row: 1 if row["op"] == "neuron" else None,
    "input_levels": lambda row: row["input_nonzeros"] if row["input_kind"] in ("binary", "ternary") else None,
}
ADDED_LATER = frozenset(_WHEN_ADDED)


def check_records(path: Path, records: Any) -> None:
    """Raise CountsError, with the row and the column, if the rows of a counts file are incomplete or invalid."""
    if not isinstance(records, list) or not records:
        raise CountsError(f"{path}: rows must be a list of at least one row: profile the network again")
    columns = columns_of(records)
    for number, row in enumerate(records):
        if not isinstance(row, dict) or set(row) != set(columns):
            differing = sorted(set(columns) ^ set(row)) if isinstance(row, dict) else ["not a mapping"]
            raise CountsError(f"{path}: row {number} has missing or unknown columns: {', '.join(differing[:4])}")
        where = f"{path}: row {number} ({row['layer']}, time step {row['time_step']})"
        for column in columns:
            _check_cell(where, column, row[column], row["op"] == "unsupported")


def _check_cell(where: str, column: str, value: Any, unsupported: bool) -> None:
    if value is None and (column in NULLABLE or (unsupported and column in UNKNOWN_IF_UNSUPPORTED)):
        return
    if column in FLAGS:
        valid = isinstance(value, bool)
    elif column in TEXT:
        valid = isinstance(value, str)
    else:
        lowest = -1 if column == "time_step" else 0
        valid = isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**63
    if not valid:
        wanted = "true or false" if column in FLAGS else "text" if column in TEXT else "a whole number >= 0"
        raise CountsError(f"{where}: {column} must be {wanted}, not {value!r}: profile the network again")
    allowed = _ALLOWED.get(column)
    if allowed is not None and value not in allowed:
        raise CountsError(
            f"{where}: {column} must be one of {', '.join(allowed)}, not {value!r}: profile the network again"
        )


_ALLOWED = {"group": GROUPS, "op": OPS, "input_kind": KINDS, "other_kind": KINDS}


def row_records(rows: pd.DataFrame, names: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
    """Rows as plain JSON values."""
    columns: dict[str, list[Any]] = {}
    for name in names:
        values = rows[name].tolist()
        if name in FLAGS:
            columns[name] = [bool(v) for v in values]
        else:
            columns[name] = [None if v is None or v is pd.NA else v for v in values]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
