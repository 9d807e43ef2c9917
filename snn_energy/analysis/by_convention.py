"""The same counts under every published convention: how far the convention alone moves an energy and a saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from snn_energy.analysis.comparison import find_baseline, labels_of
from snn_energy.conventions.price import convention_of, list_conventions, price_by_convention
from snn_energy.core.errors import CountsError
from snn_energy.counts.counts import Counts
from snn_energy.pricing.energy import estimate

OURS = "exact counts"
PRICES = "horowitz-45nm-fp32"  # the prices of the conventions


@dataclass(frozen=True)
class ConventionTable:
    """Compute energy of networks under every convention that states an energy.

    energies: one row per convention, one column per network, in pJ per sample; NaN where the counts lack what it
    charges. reasons: convention -> why it is NaN. baseline: the network that the others are divided by.
    """

    energies: pd.DataFrame
    reasons: Mapping[str, str]
    baseline: str

    def to_frame(self) -> pd.DataFrame:
        """One row per convention: ``NAME pj`` and ``NAME ce`` (over the baseline's) per network, ``differs``."""
        table = pd.DataFrame({"convention": self.energies.index})
        for name in self.energies:
            table[f"{name} pj"] = self.energies[name].to_numpy()
        for name in self.energies:
            if name != self.baseline:
                table[f"{name} ce"] = (self.energies[name] / self.energies[self.baseline]).to_numpy()
        table["differs"] = [self._differs(name) for name in self.energies.index]
        return table

    def _differs(self, name: str) -> str:
        if name == OURS:
            return "non-zero inputs that meet a weight; the first layer in every step"
        return self.reasons.get(name) or convention_of(name).differs

    def ce_range(self, name: str) -> tuple[float, float]:
        """Smallest and largest energy of a network over that of the baseline, of all conventions."""
        ratios = (self.energies[name] / self.energies[self.baseline]).dropna()
        return float(ratios.min()), float(ratios.max())

    def sentence(self) -> str:
        """By convention: the range of every network's ratio to the baseline."""
        ranges = [
            f"{name} {low:.2f}x to {high:.2f}x"
            for name in map(str, self.energies)
            if name != self.baseline
            for low, high in [self.ce_range(name)]
        ]
        return f"compute energy over {self.baseline}, by convention: {', '.join(ranges)}"


def by_convention(counts: Sequence[Counts] | Mapping[str, Counts], baseline: str | None = None) -> ConventionTable:
    """Compute energy of networks by their exact counts and under every convention, at the same 45 nm prices.

    counts, baseline: as for ``compare``; the first network unless given. Raises SnnEnergyError as ``compare`` does.
    """
    named = dict(counts) if isinstance(counts, Mapping) else dict(zip(labels_of(counts), counts, strict=True))
    label = find_baseline(baseline, named) if baseline is not None else next(iter(named))
    rows: dict[str, dict[str, float]] = {OURS: {name: estimate(c, PRICES).compute_pj for name, c in named.items()}}
    reasons: dict[str, str] = {}
    for convention in list_conventions():
        if convention_of(convention).counts_only:
            continue
        rows[convention] = {}
        for name, one in named.items():
            try:
                found = price_by_convention(one, convention).compute_pj
            except CountsError as error:
                reasons[convention], found = str(error), None
            rows[convention][name] = float("nan") if found is None else found
    return ConventionTable(pd.DataFrame.from_dict(rows, orient="index", columns=list(named)), reasons, label)
