"""The schema of conventions.yaml: how a paper or a counter turns operations into energy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from snn_energy.core.errors import SnnEnergyError
from snn_energy.core.sources import Source
from snn_energy.core.yaml_file import FileType, StrictModel, Text, schema_error

SCHEMA_VERSION = 1
FILE_TYPE = FileType("a file of conventions", SCHEMA_VERSION, SnnEnergyError, "reinstall snn_energy")

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Work = Literal["rate", "mean_value", "exact", "exact_levels"]
FirstLayer = Literal["mac", "nonzero_macs", "mac_and_ac", "mac_times_ac", "accumulates", "none"]
NotSpikes = Literal["accumulates", "dense_macs", "nonzero_macs"]
Products = Literal["streamed", "spiking_side", "ssa", "none"]
BasedOn = Literal["code", "issue", "excerpt", "recomputed"]


class Rules(StrictModel):
    """What is charged, and as what.

    work: accumulates of a layer that reads spikes: rate x dense MACs (``rate``), mean value x dense MACs
    (``mean_value``), exact SOPs, or exact SOPs weighted with \\|k\\| (``exact_levels``). first_layer: of a layer that
    reads grey levels: MACs of all taps or of non-zeros, (MAC + AC) an operation, accumulates, or nothing.
    first_layer_steps: charged in each time step, or once. integers, real: of inputs that are sums of spikes, or neither
    spikes nor their sums. products: of attention: the streamed operand's rate (``streamed``), coincidences where both
    operands are spikes and the spiking one's non-zeros else (``spiking_side``), or the closed form of SSA. biases: one
    operation per output and step.
    linear, head: whether linear layers, and the classifier, are charged. layers: parts of names, of which a layer must
    have one. accumulates_per_neuron: in each time step. memory: none, or a read of every weight and bias used and a
    read and a write of every neuron's state in each step.
    """

    work: Work = "rate"
    first_layer: FirstLayer = "mac"
    first_layer_steps: Literal["each", "once"] = "each"
    integers: NotSpikes = "accumulates"
    real: NotSpikes = "accumulates"
    products: Products = "streamed"
    biases: StrictBool = False
    linear: StrictBool = True
    head: StrictBool = True
    layers: tuple[Text, ...] = ()
    accumulates_per_neuron: Price = 0.0
    memory: Literal["none", "parameters_and_states"] = "none"


class Slip(StrictModel):
    """An error of a published script or sheet. ``rules``: those that reproduce it; none: it cannot be reproduced.

    needs: what the counts lack to reproduce it.
    """

    what: Text
    rules: Rules | None = None
    needs: Text | None = None

    @model_validator(mode="after")
    def _reproduced_or_not(self) -> Slip:
        if (self.rules is None) == (self.needs is None):
            raise schema_error("give rules that reproduce it, or what it needs, not both", "rules")
        return self


class Convention(StrictModel):
    """One convention. mac_pj, ac_pj: energy of an operation. counts_only: it states no energy.

    differs: from exact counts under this package's own policies, in a few words. open: what its source leaves open.
    """

    title: Text
    also: tuple[Text, ...] = ()
    rules: Rules
    mac_pj: Price = 4.6
    ac_pj: Price = 0.9
    memory_pj_per_byte: Price = 0.0
    counts_only: StrictBool = False
    differs: Text
    source: Text
    based_on: BasedOn
    slip: Slip | None = None
    open: Text | None = None


class Conventions(StrictModel):
    """The file: sources, and the conventions by name."""

    schema_version: Literal[1] = Field(alias="schema")
    sources: dict[str, Source] = Field(min_length=1)
    conventions: dict[str, Convention] = Field(min_length=1)

    @model_validator(mode="after")
    def _cite_sources(self) -> Conventions:
        for name, convention in self.conventions.items():
            if convention.source not in self.sources:
                raise schema_error(f"'{convention.source}' is not in sources", "conventions", name, "source")
        return self
