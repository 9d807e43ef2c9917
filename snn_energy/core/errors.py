"""Every error a user can cause. The message is one line that names the file, the line or key, and the fix.

SnnEnergyError
├── CheckpointError   a weights file that is missing, unrecognised, unsafe, or of another architecture
├── DataError         images or labels that are missing, of the wrong shape, or not finite
├── ModelError        a model that does not exist or cannot be built as requested
├── ProfilingError    a network that cannot be counted as requested: time axis, values, unknown operations
├── CountsError       a counts file that is truncated, of another schema, or out of balance
├── HardwareError     a hardware profile that is unknown, malformed, or lacks a price
├── RecipeError       a training recipe that is malformed or contradicts itself
└── OutputError       a result that cannot be written
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SnnEnergyError(Exception):
    """Base class of errors caused by the input; ``str(error)`` is one line for the user. The CLI exits with code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class CheckpointError(SnnEnergyError):
    """A weights file is missing, truncated, unrecognised, unsafe, or of another architecture."""


class DataError(SnnEnergyError):
    """Images or labels are missing, of the wrong shape, or not finite."""


class ModelError(SnnEnergyError):
    """A model does not exist or cannot be built as requested."""


class ProfilingError(SnnEnergyError):
    """A network cannot be counted as requested."""


class CountsError(SnnEnergyError):
    """A counts file is truncated, of another schema version, or out of balance."""


class HardwareError(SnnEnergyError):
    """A hardware profile is unknown, malformed, or lacks a price that is needed."""


class RecipeError(SnnEnergyError):
    """A training recipe is malformed or contradicts itself."""


class OutputError(SnnEnergyError):
    """A result cannot be written to the requested path."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
