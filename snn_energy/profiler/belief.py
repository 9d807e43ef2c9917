"""What is believed of a network, for a reader to check before any number is trusted."""

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
from snn_energy.profiler.discovery.interpret import Settled
from snn_energy.profiler.neurons.known import spiking_modules, with_weights
from snn_energy.profiler.neurons.spec import LAYOUTS
from snn_energy.profiler.run import UnsupportedOperationWarning, profile, settle_first


@dataclass(frozen=True)
class Belief:
    """model: its class. parameters: how many. settled: time, T and what spikes. counts: of the samples looked at.

    spiking: one row per layer that spikes: layer, class, framework, known_by, reads, threshold, reset, neurons,
    rate (spikes per neuron and step on the samples looked at), emits. operations: one row per operation that reads
    weights or multiplies: layer, op, input_kind, why. not_covered: (layer, why) of what is not counted.
    """

    model: str
    parameters: int
    settled: Settled
    counts: Counts
    spiking: pd.DataFrame
    operations: pd.DataFrame
    not_covered: list[tuple[str, str]]

    def lines(self) -> list[str]:
        """The belief in sentences: model, time, input, how many layers of which kind."""
        kinds = self.operations["input_kind"].value_counts()
        reads = ", ".join(f"{count} read {kind} values" for kind, count in kinds.items())
        frameworks = ", ".join(sorted(set(self.spiking["framework"]))) or "none"
        found = [
            f"model: {self.model}, {self.parameters} parameters, neurons of: {frameworks}",
            f"time: {self.settled.time_steps} time steps, time={self.settled.time} ({self.settled.found}): "
            f"{TIME_MODES[self.settled.time]}",
            f"spiking layers: {len(self.spiking)}",
            f"operations: {len(self.operations)}; {reads or 'none'}",
        ]
        if not self.not_covered:
            found.append("not covered: nothing; every operation of these samples has a counting rule")
        return found + [f"not covered: {layer}: {why}" for layer, why in self.not_covered]


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
) -> Belief:
    """What ``profile`` would believe of a network, from a run on the first few samples of a loader.

    Arguments as of ``profile``; the model is left as it was. Raises ProfilingError as ``profile`` does.
    """
    named = list(neurons)
    batches = list(itertools.islice(iter(loader), 1))
    settled = settle_first(model, batches, time, time_steps, named, has_time)
    first = [_cut(batch, settled, samples) for batch in batches]
    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always", UnsupportedOperationWarning)
        counts = profile(
            model, first, time_steps=settled.time_steps, time=settled.time, input_kind=input_kind, neurons=named
        )
    said = [str(w.message).partition(": ") for w in caught if issubclass(w.category, UnsupportedOperationWarning)]
    weighted = [
        (name, "has weights of its own: counted as the operations it is made of") for name in with_weights(model)
    ]
    not_covered = [(layer, why) for layer, _, why in said] + weighted
    spiking = _spiking_table(model, counts, settled, named)
    return Belief(
        type(model).__name__,
        sum(p.numel() for p in model.parameters()),
        settled,
        counts,
        spiking,
        _operations_table(counts),
        not_covered,
    )


def _cut(batch: Any, settled: Settled, samples: int) -> Any:
    """The first samples of a batch; the labels are not needed."""
    x = batch[0] if isinstance(batch, (list, tuple)) else batch
    there = settled.mode.samples_of(x, settled.time_steps)
    return settled.mode.first_samples(x, min(samples, there), settled.time_steps) if there else x


def _spiking_table(model: nn.Module, counts: Counts, settled: Settled, named: list[Any]) -> pd.DataFrame:
    beliefs = {**spiking_modules(model, named), **settled.spiking}
    rows = counts.rows[counts.rows["op"] == "neuron"]
    by_layer = rows.groupby("layer", sort=False)
    found: list[dict[str, Any]] = []
    for layer, first in by_layer.first().iterrows():
        name = str(layer).partition("#")[0]
        belief = beliefs.get(name) or beliefs.get("")
        if belief is None:
            continue
        own = by_layer.get_group(layer)
        updates = int(own["neurons"].sum()) * counts.samples
        found.append(
            {
                "layer": layer,
                "class": type(model.get_submodule(name if name in beliefs else "")).__name__,
                "framework": belief.framework,
                "known_by": belief.known_by,
                "reads": LAYOUTS[belief.layout] if belief.layout else "as time= says",
                "threshold": belief.threshold,
                "reset": belief.reset,
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
