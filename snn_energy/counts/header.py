"""A typed view of the header of counts, for the keys that code reads; a key that is not there has its default.

What a file holds is checked by ``load`` and ``file_format``, on the plain mapping, before this view is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class PublishedAccess(TypedDict):
    """Accesses of one store, per inference, that a published source counted itself; ``name``: of what."""

    level: str
    name: str
    action: Literal["reads", "writes", "accesses"]
    count: float


@dataclass(frozen=True)
class Header:
    """The keys of ``entries`` that code reads. All others are carried along, and compared as they are (``entries``)."""

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
        """Share of right answers over the samples, 0 to 1; None without labels."""
        found: float | None = self.entries.get("accuracy")
        return found

    @property
    def file(self) -> str | None:
        """Stem of the file that the counts were read from."""
        return None if "file" not in self.entries else str(self.entries["file"])

    @property
    def published(self) -> bool:
        """True for figures of a publication; they know no samples."""
        return bool(self.entries.get("published"))

    @property
    def by_layer(self) -> bool:
        """False for published totals of a whole network."""
        return bool(self.entries.get("by_layer", True))

    @property
    def weights(self) -> int | None:
        """Weights of the network, of published totals."""
        found: int | None = self.entries.get("weights")
        return found

    @property
    def accesses(self) -> Sequence[PublishedAccess]:
        """Accesses that a published source counted itself."""
        found: Sequence[PublishedAccess] = self.entries.get("accesses", ())
        return found

    @property
    def cycles(self) -> float | None:
        """Cycles per inference that a published source counted itself."""
        return float(self.entries["cycles"]) if "cycles" in self.entries else None
