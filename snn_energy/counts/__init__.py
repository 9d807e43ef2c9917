"""Counts: hardware-independent work of a network, measured once and priced on any number of devices."""

from __future__ import annotations

from snn_energy.counts.balance import balance_error
from snn_energy.counts.columns import (
    COLUMNS,
    CONVENTION_VERSION,
    FLAGS,
    INTEGRATES,
    KINDS,
    NULLABLE,
    OPERATIONS,
    OPS,
    PER_SAMPLE,
    SCHEMA_VERSION,
    SIZES,
    TEXT,
    UNKNOWN_IF_UNSUPPORTED,
    WORK,
    make_rows,
    smallest,
)
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.counts.sample_store import BLOCK_BYTES, IN_MEMORY_BYTES, SampleRows, blocks, samples_path

imbalance = balance_error  # its name in version 0.1

__all__ = [
    "BLOCK_BYTES",
    "COLUMNS",
    "CONVENTION_VERSION",
    "FLAGS",
    "INTEGRATES",
    "IN_MEMORY_BYTES",
    "KINDS",
    "NULLABLE",
    "OPERATIONS",
    "OPS",
    "PER_SAMPLE",
    "SCHEMA_VERSION",
    "SIZES",
    "TEXT",
    "UNKNOWN_IF_UNSUPPORTED",
    "WORK",
    "Counts",
    "SampleRows",
    "balance_error",
    "blocks",
    "imbalance",
    "load_counts",
    "make_rows",
    "samples_path",
    "smallest",
]
