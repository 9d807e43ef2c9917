"""Citations: where a number comes from."""

from __future__ import annotations

from snn_energy.core.yaml_file import StrictModel, Text


class Source(StrictModel):
    """A citation with the location in the source (page, table); the note says how its numbers were read."""

    citation: Text
    note: Text | None = None
