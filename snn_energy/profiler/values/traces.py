"""What is known of a live tensor: facts, and scans of its memory."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import Roles
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan import NonzeroSums


class ScanResults(dict[Hashable, NonzeroSums]):
    """Scans of one piece of memory by the layout in which it was read; ``writer`` names the call that wrote it."""

    writer: tuple[str, int] | None = None


class TensorFacts(NamedTuple):
    """What is known of a tensor before its values are read.

    roles: which axes hold time and samples. timed: it holds all T steps; else ``step`` is None (no time yet), a
    step, or ONCE. active: (T,) where timed, else (1,): steps in which some source works. constant: same values at
    every step. sources: operations whose outputs it holds. is_padded: it holds constants beside them.
    """

    roles: Roles
    timed: bool
    step: int | None
    active: StepMask
    constant: bool
    sources: frozenset[int]
    bound: ValueBound
    is_padded: bool = False

    def equals(self, other: TensorFacts) -> bool:
        """True if all facts are equal by value."""
        return self is other or (
            self.roles == other.roles
            and self.timed == other.timed
            and self.step == other.step
            and np.array_equal(self.active, other.active)
            and self.constant == other.constant
            and self.sources == other.sources
            and self.bound == other.bound
            and self.is_padded == other.is_padded
        )


class FactChanges(TypedDict, total=False):
    """Some facts of a tensor, by name."""

    roles: Roles
    timed: bool
    step: int | None
    active: StepMask
    constant: bool
    sources: frozenset[int]
    bound: ValueBound
    is_padded: bool


class TensorTrace:
    """What is known of one live tensor: facts, and scans that all views of the same memory share."""

    __slots__ = ("active", "bound", "constant", "facts", "is_padded", "roles", "scans", "sources", "step", "timed")

    def __init__(self, facts: TensorFacts, scans: ScanResults | None = None) -> None:
        self.facts = facts
        self.scans = ScanResults() if scans is None else scans
        self.roles, self.timed, self.step, self.active, self.constant, self.sources, self.bound, self.is_padded = facts

    def replace(self, *, scans: ScanResults | None = None, **changes: Unpack[FactChanges]) -> TensorTrace:
        """A copy with some facts changed; it shares the scans unless others are given."""
        return TensorTrace(self.facts._replace(**changes), self.scans if scans is None else scans)
