"""Counts: hardware-independent work of a network, measured once and reused for any number of hardware profiles.

A counts file is JSON (header and one row per operation and time step) with the per-sample counts next to it in a
compressed ``.samples.npz``; counts from a paper are a small YAML file (snn_energy.counts.published). No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.core.errors import CountsError
from snn_energy.core.files import Writer, write_all_atomically
from snn_energy.counts.columns import CONVENTION_VERSION, OPERATIONS, SCHEMA_VERSION
from snn_energy.counts.file_format import content_digest, row_records
from snn_energy.counts.header import Header
from snn_energy.counts.notes import integrates_only
from snn_energy.counts.sample_store import samples_path, write_samples

_FURTHER_CALL = re.compile(r"#call\d+$")


@dataclass(frozen=True)
class Counts:
    """Header, rows (one per operation and time step, the columns of ``COLUMNS``) and per-sample work.

    Work columns are totals over the profiled samples, 0 where inactive; sizes are per sample and step.
    ``per_sample[column]`` is (rows, samples); ``per_sample`` is None if only totals are known.
    """

    header: Mapping[str, Any]
    rows: pd.DataFrame
    per_sample: Mapping[str, npt.NDArray[np.int64]] | None = field(default=None, repr=False)

    @property
    def typed_header(self) -> Header:
        """The header, typed."""
        return Header(self.header)

    @property
    def samples(self) -> int:
        """Number of profiled samples."""
        return self.typed_header.samples

    @property
    def time_steps(self) -> int:
        """T_max."""
        return self.typed_header.time_steps

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.typed_header.model

    def to_frame(self) -> pd.DataFrame:
        """A copy of the rows, with the rate-based SOPs (rule 2) next to the exact ones.

        ``sops_rate_based`` = input non-zeros / input elements * dense MACs, the formula of the paper.
        """
        frame = self.rows.copy()
        elements = frame["input_elements"].astype("Float64") * self.samples
        rate = frame["input_nonzeros"].astype("Float64") / elements.where(elements > 0)
        frame["sops_rate_based"] = rate * frame["dense_macs"].astype("Float64")
        return frame

    def layers_of_unknown_state(self) -> list[str]:
        """Layers of neurons of which it is not known how many state variables they keep."""
        unknown = (self.rows["op"] == "neuron") & self.rows["state_variables"].isna()
        return list(dict.fromkeys(self.rows.loc[unknown, "layer"]))

    def spiking_layers(self) -> pd.DataFrame:
        """One row per spiking layer: layer, group, neurons, T_l (active steps), spikes per sample, rate, S_l.

        rate = spikes / (neurons * T_max), rate_active = spikes / (neurons * T_l), spikes_per_neuron = S_l. Layers that
        integrate and never spike (a read-out) are left out.
        """
        neurons = self.rows[(self.rows["op"] == "neuron") & ~self.rows["note"].map(integrates_only).astype(bool)]
        table = neurons.groupby("layer", sort=False).agg(
            group=("group", "first"), neurons=("neurons", "first"), t_l=("active", "sum"), spikes=("spikes", "sum")
        )
        unknown = neurons["spikes"].isna().groupby(neurons["layer"], sort=False).any()
        table["spikes"] = table["spikes"].mask(unknown)
        per_sample = table["spikes"].astype(float) / self.samples
        table["spikes_per_sample"] = per_sample
        table["spikes_per_neuron"] = per_sample / table["neurons"].astype(float)
        table["rate"] = table["spikes_per_neuron"] / self.time_steps
        table["rate_active"] = table["spikes_per_neuron"] / table["t_l"].where(table["t_l"] > 0).astype(float)
        return table.reset_index()

    def activity(self) -> dict[str, Any]:
        """T_avg, SA and related figures (design, section 2); those of spikes are None without spiking layers.

        sa is a ratio of sums: spikes / (neurons * T_max * samples). sops_per_sample: exact SOPs of operations with
        inputs that are not real; real_macs_per_sample: dense MACs of those with real inputs. Figures that published
        counts lack are None, and so are those of layers if the counts are not given by layer.
        """
        rows = self.rows
        layers = self.spiking_layers()
        ops = rows[rows["op"].isin(OPERATIONS)]
        is_real = ops["input_kind"] == "real"
        result: dict[str, Any] = {
            "spiking_layers": len(layers),
            "t_avg": None,
            "sa": None,
            "mean_layer_rate": None,
            "rate_active": None,
            "dead_layers": [],
            "silent_layers": [],
            "sops_per_sample": _ratio(_total(ops.loc[~is_real, "sops"]), self.samples),
            "real_macs_per_sample": _ratio(_total(ops.loc[is_real, "dense_macs"]), self.samples),
        }
        if len(layers):
            spikes, neurons = _total(layers["spikes"]), layers["neurons"]
            active = _total(neurons * layers["t_l"])
            result |= {
                "t_avg": float(layers["t_l"].astype(float).mean()),
                "sa": _ratio(spikes, _scaled(_total(neurons), self.time_steps * self.samples)),
                "mean_layer_rate": None if layers["rate"].isna().any() else float(layers["rate"].mean()),
                "rate_active": _ratio(spikes, _scaled(active, self.samples)),
                "dead_layers": layers.loc[layers["t_l"] == 0, "layer"].tolist(),
                "silent_layers": layers.loc[(layers["t_l"] > 0) & (layers["spikes"] == 0), "layer"].tolist(),
            }
        if len(layers) and not self.typed_header.by_layer:
            result |= dict.fromkeys(("spiking_layers", "t_avg", "mean_layer_rate", "rate_active"))
        return result

    def sizes(self) -> dict[str, Any]:
        """Sizes of the network, independent of its activity; None for those that the counts lack.

        weights: of all distinct conv and linear layers. parameters: weights and biases of all distinct layers,
        including norms and embeddings; known for published counts only. parameters_unused: those of layers that are
        active in no step. neurons, neurons_by_group, spiking_layers. macs_per_step: dense MACs (M*K*N) of one time
        step, summed over distinct layers; macs_once: those done once per inference.
        """
        rows = self.rows
        first_rows = rows.drop_duplicates("layer")
        # Further calls of a module use the same weights.
        first_calls = first_rows[~first_rows["layer"].str.contains(_FURTHER_CALL)]
        ops, neurons = first_rows[first_rows["op"].isin(OPERATIONS)], first_rows[first_rows["op"] == "neuron"]
        parameters = first_calls["weights"] + first_calls["biases"]
        used = first_calls["layer"].isin(rows.loc[rows["active"], "layer"])
        macs = ops["positions"] * ops["reduction"] * ops["out_channels"]
        once = ops["time_step"] == -1
        header = self.typed_header
        has_layers = header.published and header.by_layer
        weights = first_calls.loc[first_calls["op"].isin(OPERATIONS), "weights"]
        return {
            "weights": _total(weights) if header.by_layer else header.weights,
            "parameters": _total(parameters) if has_layers else None,
            "parameters_unused": _total(parameters[~used]) if has_layers else None,
            "neurons": _total(neurons["neurons"]),
            "neurons_by_group": {
                group: _total(values) for group, values in neurons["neurons"].groupby(neurons["group"], sort=False)
            } if header.by_layer else None,
            "spiking_layers": len(neurons) if header.by_layer or not len(neurons) else None,
            "macs_per_step": _total(macs[~once]) if header.by_layer else None,
            "macs_once": _total(macs[once]) if header.by_layer else None,
        }  # fmt: skip

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path`` (JSON) and, if there are per-sample counts, ``<stem>.samples.npz`` next to it.

        Returns the paths written, ``path`` first. Raises CountsError for published counts, which may be incomplete.
        """
        path = Path(path)
        if self.typed_header.published:
            raise CountsError(
                f"{path}: counts of '{self.model}' are published counts, which are not saved; use their YAML file"
            )
        writers: dict[Path, Writer] = {}
        header = {"convention": CONVENTION_VERSION, **self.header}
        header.pop("file", None)
        if self.per_sample is not None:
            samples_file = samples_path(path)
            header["per_sample"] = samples_file.name
            header["content_sha256"] = content_digest(header, self.rows, self.per_sample)
            arrays = self.per_sample
            writers[samples_file] = lambda temporary: write_samples(temporary, arrays)
        else:
            header.pop("per_sample", None)
            header["content_sha256"] = content_digest(header, self.rows, None)
        lines = [json.dumps(row, allow_nan=False) for row in row_records(self.rows)]
        text = (
            "{\n"
            f'"schema": {SCHEMA_VERSION},\n'
            f'"header": {json.dumps(header, indent=1, allow_nan=False)},\n'
            '"rows": [\n' + ",\n".join(lines) + "\n]\n}\n"
        )

        def write_rows(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")

        write_all_atomically({**writers, path: write_rows})
        return [path, *writers]


def _total(column: pd.Series) -> Any:
    """The sum of a column of numbers; None if one of them is unknown."""
    if column.isna().any():
        return None
    total = column.sum()
    return total.item() if isinstance(total, np.generic) else total


def _scaled(number: Any, factor: int) -> Any:
    return None if number is None else number * factor


def _ratio(number: Any, divisor: Any) -> float | None:
    """A ratio; None if a part of it is unknown or the divisor is 0."""
    return None if number is None or not divisor else float(number) / float(divisor)
