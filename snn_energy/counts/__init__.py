"""Counts: hardware-independent work of a network, measured once and priced on any number of devices."""

from __future__ import annotations

from snn_energy.counts.balance import first_inconsistency
from snn_energy.counts.columns import (
    COLUMNS,
    CONVENTION_VERSION,
    FLAGS,
    INTEGRATES_ONLY_NOTE,
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
    to_smallest_dtype,
)
from snn_energy.counts.counts import Counts
from snn_energy.counts.load import load_counts
from snn_energy.counts.sample_store import BLOCK_BYTES, IN_MEMORY_BYTES, PerSampleArrays, blocks, samples_path

INTEGRATES, imbalance, smallest = INTEGRATES_ONLY_NOTE, first_inconsistency, to_smallest_dtype  # names of version 0.1
SampleRows = PerSampleArrays  # its name in version 0.1

__all__ = [
    "BLOCK_BYTES",
    "COLUMNS",
    "CONVENTION_VERSION",
    "FLAGS",
    "INTEGRATES",
    "INTEGRATES_ONLY_NOTE",
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
    "PerSampleArrays",
    "SampleRows",
    "blocks",
    "first_inconsistency",
    "imbalance",
    "load_counts",
    "make_rows",
    "samples_path",
    "smallest",
    "to_smallest_dtype",
]
