"""Several networks on one device, normalised to one of them as the paper's Table V does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import pandas as pd

from snn_energy.core.errors import SnnEnergyError, nearest
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.energy import Energy, estimate, price_counts
from snn_energy.pricing.left_out import layers_left_out
from snn_energy.pricing.memory import variants_of
from snn_energy.pricing.policies import Policies, PolicyOptions


@dataclass(frozen=True)
class Comparison:
    """Energies by label, in the order given, and the label of the baseline."""

    energies: Mapping[str, Energy]
    baseline: str

    @property
    def hardware(self) -> HardwareProfile:
        """The device that all share."""
        return self.energies[self.baseline].hardware

    @property
    def policies(self) -> Policies:
        """The policies that all share."""
        return self.energies[self.baseline].policies

    def to_frame(self) -> pd.DataFrame:
        """One row per network: values per sample, and ce, me, te = compute, memory, total over those of the baseline.

        A ratio over a baseline that is 0 is NA.
        """
        base = self.energies[self.baseline]
        rows = []
        for label, energy in self.energies.items():
            activity = energy.counts.activity()
            rows.append(
                {
                    "model": label,
                    "time_steps": energy.counts.time_steps,
                    "t_avg": activity["t_avg"],
                    "sa": activity["sa"],
                    "accuracy": energy.counts.typed_header.accuracy,
                    "sops_per_sample": activity["sops_per_sample"],
                    "real_macs_per_sample": activity["real_macs_per_sample"],
                    "compute_pj": energy.compute_pj,
                    "memory_pj": energy.memory_pj,
                    "total_pj": energy.total_pj,
                    "ce": _ratio(energy.compute_pj, base.compute_pj),
                    "me": _ratio(energy.memory_pj, base.memory_pj),
                    "te": _ratio(energy.total_pj, base.total_pj),
                    "is_baseline": label == self.baseline,
                }
            )
        return pd.DataFrame(rows)

    def differences(self) -> list[str]:
        """How the networks were counted differently: one line each for data set, split, samples and input kind."""
        found = []
        for key in ("dataset", "split", "data_note", "samples", "input_kind"):
            values = {label: energy.counts.header.get(key) for label, energy in self.energies.items()}
            if len({str(value) for value in values.values()}) > 1:
                text = ", ".join(f"{label} {value}" for label, value in values.items())
                found.append(f"the networks were counted on different {key.replace('_', ' ')}: {text}")
        return found

    def memory_range(self) -> pd.DataFrame:
        """me and te under every memory variant: model, memory, memory_pj, total_pj, me, te."""
        rows = []
        for variant in variants_of(self.hardware):
            energies = {
                label: price_counts(e.counts, e.hardware, replace(e.policies, memory=variant), e.without)
                for label, e in self.energies.items()
            }
            base = energies[self.baseline]
            rows += [
                {
                    "model": label,
                    "memory": variant,
                    "memory_pj": energy.memory_pj,
                    "total_pj": energy.total_pj,
                    "me": _ratio(energy.memory_pj, base.memory_pj),
                    "te": _ratio(energy.total_pj, base.total_pj),
                }
                for label, energy in energies.items()
            ]
        return pd.DataFrame(rows)


def _ratio(value: float, base: float) -> float | None:
    return value / base if base else None


def labels_of(counts: Sequence[Counts]) -> list[str]:
    """The name of each network in a table: its model name, or its file's stem if model names are not unique."""
    models = [c.model for c in counts]
    stems = [c.typed_header.file or c.model for c in counts]
    names = models if len(set(models)) == len(models) else stems
    if len(set(names)) < len(names):
        raise SnnEnergyError(
            f"two of the networks are called '{_first_duplicate(names)}'; give compare a mapping name -> counts"
        )
    return names


def _first_duplicate(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def find_baseline(wanted: str, counts: Mapping[str, Counts]) -> str:
    """The label that ``wanted`` names: a label, a file name, its stem, or a model name."""
    if wanted in counts:
        return wanted
    stems = {label: c.typed_header.file or label for label, c in counts.items()}
    found = [label for label, stem in stems.items() if wanted == stem or Path(wanted).name == f"{stem}.json"]
    found = found or [label for label, c in counts.items() if wanted == c.model]
    if len(found) > 1:
        raise SnnEnergyError(f"baseline '{wanted}' is ambiguous: {' and '.join(found)}; name one of them by its file")
    if found:
        return found[0]
    known = [c.typed_header.file or label for label, c in counts.items()] + list(counts)
    listed = ", ".join(dict.fromkeys(known))
    raise SnnEnergyError(f"baseline '{wanted}' is not among the networks compared ({listed}){nearest(wanted, known)}")


def compare(
    counts: Sequence[Counts] | Mapping[str, Counts],
    hardware: str | Path | HardwareProfile,
    *,
    baseline: str,
    without: Iterable[str] = (),
    **policies: Unpack[PolicyOptions],
) -> Comparison:
    """Price several networks on one device; ``baseline`` names the one that the others are normalised to.

    counts: a mapping name -> counts, or a sequence (named by model, or by file if models share a name). without: layers
    to leave out of every network that has them. policies: as for ``estimate``. Raises SnnEnergyError if the baseline is
    not among them or names collide.
    """
    named = dict(counts) if isinstance(counts, Mapping) else dict(zip(labels_of(counts), counts, strict=True))
    if not named:
        raise SnnEnergyError("nothing to compare: give at least one counts file")
    label = find_baseline(baseline, named)
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    left_out_layers = layers_left_out(list(named.values()), without)
    energies = {
        name: estimate(c, profile, without=names, **policies)
        for (name, c), names in zip(named.items(), left_out_layers, strict=True)
    }
    return Comparison(energies, label)
