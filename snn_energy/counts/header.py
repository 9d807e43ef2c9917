"""A typed view of the header of counts, for the keys that code reads; a missing key has its default.

``load`` and ``file_format`` check the contents of a file on the plain mapping, before this view is created.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class PublishedAccess(TypedDict):
    """Accesses to one memory level per inference, as counted by a published source; ``name``: of the tensor."""

    level: str
    name: str
    action: Literal["reads", "writes", "accesses"]
    count: float


@dataclass(frozen=True)
class Header:
    """The keys of ``entries`` that code reads. All others are kept in ``entries`` and compared unchanged."""

    entries: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.entries["model"])

    @property
    def samples(self) -> int:
        """Number of profiled samples."""
        return int(self.entries["samples"])

    @property
    def time_steps(self) -> int:
        """T_max."""
        return int(self.entries["time_steps"])

    @property
    def accuracy(self) -> float | None:
        """Share of correctly classified samples, 0 to 1; None without labels."""
        found: float | None = self.entries.get("accuracy")
        return found

    @property
    def file(self) -> str | None:
        """Stem of the file that the counts were read from."""
        return None if "file" not in self.entries else str(self.entries["file"])

    @property
    def published(self) -> bool:
        """True for counts of a publication; they have no individual samples."""
        return bool(self.entries.get("published"))

    @property
    def by_layer(self) -> bool:
        """False for published totals of a whole network."""
        return bool(self.entries.get("by_layer", True))

    @property
    def weights(self) -> int | None:
        """Number of weights of the network, from published totals."""
        found: int | None = self.entries.get("weights")
        return found

    @property
    def accesses(self) -> Sequence[PublishedAccess]:
        """Memory accesses as counted by a published source."""
        found: Sequence[PublishedAccess] = self.entries.get("accesses", ())
        return found

    @property
    def cycles(self) -> float | None:
        """Cycles per inference as counted by a published source."""
        return float(self.entries["cycles"]) if "cycles" in self.entries else None
