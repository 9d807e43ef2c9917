"""Images, digits and event recordings as NumPy arrays. No torch here."""

from __future__ import annotations

from snn_energy.datasets.digits import BUNDLED, DIGITS_MAX, DIGITS_PIXELS
from snn_energy.datasets.images import (
    Images,
    ImageSet,
    Indices,
    LabelledSamples,
    Split,
    Subset,
    batches,
    check_labels,
    error_summary,
    first_samples_note,
    held_out,
    require_shape,
)
from snn_energy.datasets.names import DATASETS, EVENT_DATASETS, parse_data
from snn_energy.datasets.npz import npz_shape, read_arrays
from snn_energy.datasets.open import has_own_test_split, load_images

Labelled = LabelledSamples  # its name in version 0.1
first_line = error_summary  # its name in version 0.1
first_of = first_samples_note  # its name in version 0.1

__all__ = [
    "BUNDLED",
    "DATASETS",
    "DIGITS_MAX",
    "DIGITS_PIXELS",
    "EVENT_DATASETS",
    "ImageSet",
    "Images",
    "Indices",
    "Labelled",
    "LabelledSamples",
    "Split",
    "Subset",
    "batches",
    "check_labels",
    "error_summary",
    "first_line",
    "first_of",
    "first_samples_note",
    "has_own_test_split",
    "held_out",
    "load_images",
    "npz_shape",
    "parse_data",
    "read_arrays",
    "require_shape",
]
