"""How the profiler interprets a network, to be checked before its counts are trusted."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from snn_energy.core.kinds import Kind
from snn_energy.core.vocabulary import TIME_MODES
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.counts.inactive import inactive_layers
from snn_energy.profiler.discovery.interpretation import Interpretation
from snn_energy.profiler.neurons.known import neurons_with_weights, spiking_modules
from snn_energy.profiler.neurons.spec import LAYOUTS
from snn_energy.profiler.run import (
    RANDOM,
    DependsOnBatchWarning,
    RandomNetworkWarning,
    UnsupportedOperationWarning,
    interpret_first,
    of_batch_message,
    profile,
)
from snn_energy.running.inputs import unpack
from snn_energy.running.unchanged import one_at_a_time


@dataclass(frozen=True)
class InspectionReport:
    """model: its class. parameters: their number. interpretation: time, T, neurons. counts: of the inspected samples.

    spiking: one row per spiking layer: layer, class, framework, known_by, reads, threshold, reset, neurons,
    rate (spikes per neuron and step on the inspected samples), emits. operations: one row per layer with weights or
    matrix product: layer, op, input_kind, other_kind, why. not_covered: (layer, why) of what is not counted.
    """

    model: str
    parameters: int
    interpretation: Interpretation
    counts: Counts
    spiking: pd.DataFrame
    operations: pd.DataFrame
    not_covered: list[tuple[str, str]]

    def lines(self) -> list[str]:
        """The report as lines of text: model, time, layers and operations, what does not fire, what is not covered."""
        kinds = self.operations["input_kind"].value_counts()
        reads = ", ".join(f"{count} read {kind} values" for kind, count in kinds.items())
        frameworks = ", ".join(sorted(set(self.spiking["framework"]))) or "none"
        time = self.interpretation
        found = [
            f"model: {self.model}, {self.parameters} parameters, neurons of: {frameworks}",
            f"time: {time.time_steps} time steps, time={time.time} ({time.found}): {TIME_MODES[time.time]}",
            f"spiking layers: {len(self.spiking)}",
            f"operations: {len(self.operations)}; {reads or 'none'}",
            *inactive_layers(self.counts),
        ]
        found += [f"{title}: {text}" for title, text in self._conditions().items()]
        if not self.not_covered:
            found.append("not covered: nothing; every operation of these samples has a counting rule")
        return found + [f"not covered: {layer}: {why}" for layer, why in self.not_covered]

    def _conditions(self) -> dict[str, str]:
        """What the counts depend on besides the network and its samples."""
        found, header = dict[str, str](), self.counts.header
        if of_batch := header.get("depends_on_batch"):
            found["depends on the batch"] = of_batch_message(of_batch)
        if header.get("draws_random_numbers"):
            found["random"] = RANDOM
        return found

    def refused_by_strict(self) -> list[str]:
        """Why ``profile`` with ``strict`` would refuse the network, as lines; empty if it would not."""
        of_model = [f"{self.model}: {text}" for text in self._conditions().values()]
        return [f"{layer}: {why}" for layer, why in self.not_covered] + of_model


def inspect_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    time_steps: int | None = None,
    time: str | None = None,
    input_kind: Kind | None = None,
    neurons: Iterable[str | type[nn.Module]] = (),
    has_time: bool = False,
    samples: int = 8,
) -> InspectionReport:
    """How ``profile`` would interpret a network, from a run on the first few samples of a loader.

    Arguments: see ``profile``; the model is not changed. Raises ProfilingError as ``profile`` does.
    """
    named = list(neurons)
    batches = list(itertools.islice(iter(loader), 1))
    with one_at_a_time(model):
        interpretation = interpret_first(model, batches, time, time_steps, named, has_time)
    first = [_cut(batch, interpretation, samples) for batch in batches]
    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always", UnsupportedOperationWarning)
        warnings.simplefilter("always", DependsOnBatchWarning)
        warnings.simplefilter("always", RandomNetworkWarning)
        counts = profile(model, first, input_kind=input_kind, interpretation=interpretation)
    said = [str(w.message).partition(": ") for w in caught if issubclass(w.category, UnsupportedOperationWarning)]
    weighted = [
        (name, "has weights of its own: counted as the operations it is made of")
        for name in neurons_with_weights(model)
    ]
    not_covered = [(layer, why) for layer, _, why in said] + weighted
    spiking = _spiking_table(model, counts, interpretation, named)
    return InspectionReport(
        type(model).__name__,
        sum(p.numel() for p in model.parameters()),
        interpretation,
        counts,
        spiking,
        _operations_table(counts),
        not_covered,
    )


def _cut(batch: Any, interpretation: Interpretation, samples: int) -> Any:
    """The first samples of a batch; the labels are not needed."""
    x = unpack(batch)[0]
    there = interpretation.mode.samples_of(x, interpretation.time_steps)
    return interpretation.mode.first_samples(x, min(samples, there), interpretation.time_steps) if there else x


def _spiking_table(model: nn.Module, counts: Counts, interpretation: Interpretation, named: list[Any]) -> pd.DataFrame:
    specs = {**spiking_modules(model, named), **interpretation.spiking}
    rows = counts.rows[counts.rows["op"] == "neuron"]
    by_layer = rows.groupby("layer", sort=False)
    found: list[dict[str, Any]] = []
    for layer, first in by_layer.first().iterrows():
        name = str(layer).partition("#")[0]
        spec = specs.get(name) or specs.get("")
        if spec is None:
            continue
        own = by_layer.get_group(layer)
        updates = int(own["neurons"].sum()) * counts.samples
        found.append(
            {
                "layer": layer,
                "class": type(model.get_submodule(name if name in specs else "")).__name__,
                "framework": spec.framework,
                "known_by": spec.known_by,
                "reads": LAYOUTS[spec.layout] if spec.layout else "as time= says",
                "threshold": spec.threshold,
                "reset": spec.reset,
                "neurons": int(first["neurons"]),
                "rate": int(own["spikes"].sum()) / updates if updates else None,
                "emits": first["note"] or "0 or one value",
            }
        )
    columns = ["layer", "class", "framework", "known_by", "reads", "threshold", "reset", "neurons", "rate", "emits"]
    return pd.DataFrame(found, columns=columns)


def _operations_table(counts: Counts) -> pd.DataFrame:
    rows = counts.rows[counts.rows["op"].isin(OPERATIONS)].drop_duplicates("layer")
    table = rows[["layer", "op", "input_kind", "other_kind", "note"]].rename(columns={"note": "why"})
    return table.reset_index(drop=True)
