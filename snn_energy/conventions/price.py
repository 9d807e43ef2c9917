"""The energy that a published convention gives for a network, and what makes it differ from this package's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from snn_energy.conventions.charge import charged_operations
from snn_energy.conventions.layers import operation_layers
from snn_energy.conventions.schema import FILE_TYPE, Convention, Conventions
from snn_energy.core.errors import SnnEnergyError, nearest
from snn_energy.core.yaml_file import read_yaml
from snn_energy.counts.counts import Counts


@lru_cache(maxsize=1)
def _file() -> Conventions:
    return read_yaml(Path(__file__).with_name("conventions.yaml"), FILE_TYPE, Conventions)[0]


def list_conventions() -> list[str]:
    """Names of the conventions, in the order of the file."""
    return list(_file().conventions)


def convention_of(name: str) -> Convention:
    """A convention by its name. Raises SnnEnergyError, with the nearest name."""
    known = _file().conventions
    if name not in known:
        hint = nearest(name, known) or f"; there are {', '.join(known)}"
        raise SnnEnergyError(f"no convention '{name}'{hint}: snn-energy conventions list")
    return known[name]


def citation_of(convention: Convention) -> str:
    """Where a convention was read."""
    return _file().sources[convention.source].citation


@dataclass(frozen=True)
class ConventionEnergy:
    """What a convention charges a network with, per sample.

    layers: one row per layer with macs, acs, energy_pj. macs, acs: of the whole network. compute_pj: None where the
    convention states counts alone. as_published: True where an error of the published script is reproduced.
    """

    name: str
    convention: Convention
    model: str
    layers: pd.DataFrame = field(repr=False)
    as_published: bool = False

    @property
    def macs(self) -> float:
        """Multiply-accumulates, per sample."""
        return float(self.layers[["macs", "macs_and_acs", "macs_times_acs"]].to_numpy().sum())

    @property
    def acs(self) -> float:
        """Accumulates, per sample."""
        return float(self.layers[["acs", "macs_and_acs"]].to_numpy().sum())

    @property
    def compute_pj(self) -> float | None:
        """Energy of arithmetic, per sample in pJ."""
        return None if self.convention.counts_only else float(self.layers["energy_pj"].sum())

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: layer, group, op, input_kind, rate, macs, acs, energy_pj, is_charged."""
        table = self.layers
        return table.assign(
            macs=table["macs"] + table["macs_and_acs"] + table["macs_times_acs"],
            acs=table["acs"] + table["macs_and_acs"],
        )[["layer", "group", "op", "input_kind", "rate", "macs", "acs", "energy_pj", "is_charged"]]


def price_by_convention(counts: Counts, name: str, *, as_published: bool = False) -> ConventionEnergy:
    """The operations and the energy that a convention gives for counts, per sample.

    as_published: with the error that its published script or sheet has, where one is known. Raises SnnEnergyError for
    an unknown convention and for an error that counts cannot reproduce, CountsError for counts that lack what the
    convention charges.
    """
    convention = convention_of(name)
    rules, slip = convention.rules, convention.slip
    if as_published and slip is not None:
        if slip.rules is None:
            raise SnnEnergyError(f"{name}: {slip.what}; counts cannot reproduce it, which needs {slip.needs}")
        rules = slip.rules
    table = charged_operations(operation_layers(counts), rules, counts)
    if rules.accumulates_per_neuron:
        table = pd.concat([table, _neurons(counts, rules.accumulates_per_neuron)], ignore_index=True)
    mac, ac = convention.mac_pj, convention.ac_pj
    energy = table["macs"] * mac + table["acs"] * ac + table["macs_and_acs"] * (mac + ac)
    table = table.assign(energy_pj=energy + table["macs_times_acs"] * mac * ac)
    return ConventionEnergy(name, convention, counts.model, table, as_published and slip is not None)


def _neurons(counts: Counts, each: float) -> pd.DataFrame:
    """One row per layer of neurons, with accumulates for every update."""
    rows = counts.rows[(counts.rows["op"] == "neuron") & counts.rows["active"]]
    updates = rows.groupby("layer", sort=False)["neurons"].sum().astype(float) * each
    group = rows.groupby("layer", sort=False)["group"].first()
    zeros = dict.fromkeys(("macs", "macs_and_acs", "macs_times_acs"), 0.0)
    return pd.DataFrame(
        {"layer": updates.index, "group": group.to_numpy(), "op": "neuron", "input_kind": None, "rate": float("nan"),
         "acs": updates.to_numpy(), **zeros, "is_charged": True}
    )  # fmt: skip
