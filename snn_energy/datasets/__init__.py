"""Images, digits and event recordings as NumPy arrays. No torch here."""

from __future__ import annotations

from snn_energy.datasets.digits import BUNDLED, DIGITS_MAX, DIGITS_PIXELS
from snn_energy.datasets.images import (
    Images,
    ImageSet,
    Indices,
    Labelled,
    Split,
    Subset,
    batches,
    check_labels,
    first_line,
    first_of,
    held_out,
    require_shape,
)
from snn_energy.datasets.names import DATASETS, EVENT_DATASETS, parse_data
from snn_energy.datasets.npz import npz_shape, read_arrays
from snn_energy.datasets.open import has_own_test_split, load_images

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
    "Split",
    "Subset",
    "batches",
    "check_labels",
    "first_line",
    "first_of",
    "has_own_test_split",
    "held_out",
    "load_images",
    "npz_shape",
    "parse_data",
    "read_arrays",
    "require_shape",
]
