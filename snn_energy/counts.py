"""Counts: what a network did, hardware-free, measured once and reused for any number of hardware profiles.

A counts file is JSON (header and one row per operation and time step) with the per-sample counts beside it in a
compressed ``.samples.npz``; counts that a paper gives are a small YAML file (snn_energy.published). No torch here.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.errors import CountsError, OutputError
from snn_energy.files import Writer, write_all_whole
from snn_energy.groups import GROUPS

SCHEMA_VERSION = 1
CONVENTION_VERSION = 1  # of the counting rules; a change of a rule changes it
INTEGRATES = "integrates only: no spikes"  # note of a neuron row that keeps a potential alone

OPERATIONS = ("conv", "linear", "matmul")
OPS = (
    *OPERATIONS, "neuron", "add", "mul", "scale", "activation", "softmax", "norm", "pool", "mean", "reduce", "compare",
    "unsupported",
)  # fmt: skip
KINDS = ("binary", "ternary", "integer", "real")
TEXT = ("layer", "group", "op", "input_kind", "other_kind", "note")
FLAGS = ("active", "needed", "input_repeated", "feeds_neuron")
WORK = (
    "input_nonzeros", "other_nonzeros", "dense_macs", "sops", "sops_gated", "sops_multi", "elementwise_ops",
    "spikes", "membrane_reads", "membrane_writes",
)  # fmt: skip
SIZES = (
    "input_elements", "other_elements", "output_elements", "weights", "biases", "neurons", "reduction",
    "out_channels", "positions", "groups",
)  # fmt: skip
COLUMNS = (
    "layer", "order", "group", "op", "time_step", "active", "needed", "input_repeated",
    "input_kind", "max_k", "input_elements", "input_nonzeros",
    "other_kind", "other_max_k", "other_elements", "other_nonzeros",
    "dense_macs", "sops", "sops_gated", "sops_multi", "elementwise_ops",
    "output_elements", "weights", "biases", "neurons", "spikes", "membrane_reads", "membrane_writes",
    "reduction", "out_channels", "positions", "groups", "feeds_neuron", "note",
)  # fmt: skip
PER_SAMPLE = ("input_nonzeros", "other_nonzeros", "sops", "sops_gated", "sops_multi", "spikes")
NULLABLE = frozenset(
    ("input_kind", "max_k", "input_elements", "input_nonzeros", "other_kind", "other_max_k", "other_elements",
     "other_nonzeros", "sops_multi")
)  # fmt: skip
# What an operation without a rule does is not known: null, never zero.
UNKNOWN_IF_UNSUPPORTED = frozenset(("dense_macs", "sops", "sops_gated", "elementwise_ops"))
_FURTHER_CALL = re.compile(r"#call\d+$")


@dataclass(frozen=True)
class Counts:
    """Header, rows (one per operation and time step, the columns of ``COLUMNS``) and per-sample work.

    Work columns are totals over the profiled samples, 0 where inactive; sizes are per sample and step.
    ``per_sample[column]`` is (rows, samples); None where the side file is missing.
    """

    header: Mapping[str, Any]
    rows: pd.DataFrame
    per_sample: Mapping[str, npt.NDArray[np.int64]] | None = field(default=None, repr=False)

    @property
    def samples(self) -> int:
        """Number of profiled samples."""
        return int(self.header["samples"])

    @property
    def time_steps(self) -> int:
        """T_max."""
        return int(self.header["time_steps"])

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.header["model"])

    def to_frame(self) -> pd.DataFrame:
        """A copy of the rows, with the rate-based SOPs (rule 2) beside the exact ones.

        ``sops_rate_based`` = input non-zeros / input elements * dense MACs, the formula of the paper.
        """
        frame = self.rows.copy()
        elements = frame["input_elements"].astype("Float64") * self.samples
        rate = frame["input_nonzeros"].astype("Float64") / elements.where(elements > 0)
        frame["sops_rate_based"] = rate * frame["dense_macs"].astype("Float64")
        return frame

    def spiking_layers(self) -> pd.DataFrame:
        """One row per spiking layer: layer, group, neurons, T_l (active steps), spikes per sample, rate, S_l.

        rate = spikes / (neurons * T_max), rate_active = spikes / (neurons * T_l), spikes_per_neuron = S_l. Layers that
        integrate and never spike (a read-out) are not among them.
        """
        neurons = self.rows[(self.rows["op"] == "neuron") & (self.rows["note"] != INTEGRATES)]
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
        """T_avg, SA and their neighbours (design, section 2); the spiking ones are None without spiking layers.

        sa is a ratio of sums: spikes / (neurons * T_max * samples). sops: all exact SOPs per sample of operations
        that do not read real inputs, and of those that do (``real_macs``, dense). None where published counts do not
        tell; of counts that are not told by layer nothing about layers is known.
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
            "sops_per_sample": _over(_total(ops.loc[~is_real, "sops"]), self.samples),
            "real_macs_per_sample": _over(_total(ops.loc[is_real, "dense_macs"]), self.samples),
        }
        if len(layers):
            spikes, neurons = _total(layers["spikes"]), layers["neurons"]
            active = _total(neurons * layers["t_l"])
            result |= {
                "t_avg": float(layers["t_l"].astype(float).mean()),
                "sa": _over(spikes, _times(_total(neurons), self.time_steps * self.samples)),
                "mean_layer_rate": None if layers["rate"].isna().any() else float(layers["rate"].mean()),
                "rate_active": _over(spikes, _times(active, self.samples)),
                "dead_layers": layers.loc[layers["t_l"] == 0, "layer"].tolist(),
                "silent_layers": layers.loc[(layers["t_l"] > 0) & (layers["spikes"] == 0), "layer"].tolist(),
            }
        if len(layers) and not self._by_layer:
            result |= dict.fromkeys(("spiking_layers", "t_avg", "mean_layer_rate", "rate_active"))
        return result

    def sizes(self) -> dict[str, Any]:
        """Sizes of the network, whatever it did; None for what the counts do not tell.

        weights: of all distinct conv and linear layers. parameters: weights and biases of all distinct layers, those
        of norms and embeddings too; only published counts tell them. parameters_unused: of them, those of layers that
        are active in no step. neurons, neurons_by_group, spiking_layers. macs_per_step: dense MACs (M*K*N) of one time
        step, summed over distinct layers; macs_once: of what is done once per inference.
        """
        rows = self.rows
        first = rows.drop_duplicates("layer")
        own = first[~first["layer"].str.contains(_FURTHER_CALL)]  # further calls of a module use the same weights
        ops, neurons = first[first["op"].isin(OPERATIONS)], first[first["op"] == "neuron"]
        parameters = own["weights"] + own["biases"]
        used = own["layer"].isin(rows.loc[rows["active"], "layer"])
        macs = ops["positions"] * ops["reduction"] * ops["out_channels"]
        once = ops["time_step"] == -1
        told = bool(self.header.get("published")) and self._by_layer
        weights = own.loc[own["op"].isin(OPERATIONS), "weights"]
        return {
            "weights": _total(weights) if self._by_layer else self.header.get("weights"),
            "parameters": _total(parameters) if told else None,
            "parameters_unused": _total(parameters[~used]) if told else None,
            "neurons": _total(neurons["neurons"]),
            "neurons_by_group": {
                group: _total(values) for group, values in neurons["neurons"].groupby(neurons["group"], sort=False)
            } if self._by_layer else None,
            "spiking_layers": len(neurons) if self._by_layer or not len(neurons) else None,
            "macs_per_step": _total(macs[~once]) if self._by_layer else None,
            "macs_once": _total(macs[once]) if self._by_layer else None,
        }  # fmt: skip

    @property
    def _by_layer(self) -> bool:
        """False for published counts that are totals of a whole network."""
        return bool(self.header.get("by_layer", True))

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path`` (JSON) and, where per-sample counts are kept, ``<stem>.samples.npz`` beside it.

        Returns the paths written, ``path`` first. Raises CountsError for published counts, which need not be whole.
        """
        path = Path(path)
        if self.header.get("published"):
            raise CountsError(f"{path}: counts of '{self.model}' are published ones, and stay in their YAML file")
        writers: dict[Path, Writer] = {}
        header = {"convention": CONVENTION_VERSION, **self.header}
        header.pop("file", None)
        if self.per_sample is not None:
            side = samples_path(path)
            header["per_sample"] = side.name
            header["content_sha256"] = _digest(header, self.rows, self.per_sample)
            arrays = self.per_sample
            writers[side] = lambda temporary: _write_samples(temporary, arrays)
        else:
            header.pop("per_sample", None)
            header["content_sha256"] = _digest(header, self.rows, None)
        lines = [json.dumps(row, allow_nan=False) for row in _records(self.rows)]
        text = (
            "{\n"
            f'"schema": {SCHEMA_VERSION},\n'
            f'"header": {json.dumps(header, indent=1, allow_nan=False)},\n'
            '"rows": [\n' + ",\n".join(lines) + "\n]\n}\n"
        )

        def write_rows(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")

        write_all_whole({**writers, path: write_rows})
        return [path, *writers]


def _total(column: pd.Series) -> Any:
    """The sum of a column of numbers; None where one of them is not known."""
    if column.isna().any():
        return None
    total = column.sum()
    return total.item() if isinstance(total, np.generic) else total


def _times(number: Any, factor: int) -> Any:
    return None if number is None else number * factor


def _over(number: Any, divisor: Any) -> float | None:
    """A ratio; None where a part of it is not known, or nothing is to be divided by."""
    return None if number is None or not divisor else float(number) / float(divisor)


def samples_path(path: Path) -> Path:
    """The side file of a counts file: ``dtss.json`` -> ``dtss.samples.npz``."""
    return path.with_name(path.name.removesuffix(".json") + ".samples.npz")


def make_rows(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """Rows with the dtypes of a counts frame: nullable numbers (whole unless one is a float), flags, text."""
    made: dict[str, Any] = {}
    for name in COLUMNS:
        values = columns[name]
        if name in FLAGS:
            made[name] = np.array(values, dtype=np.bool_)
        elif name in TEXT:
            made[name] = pd.Series(values, dtype=object)
        else:
            unknown = np.array([value is None for value in values], dtype=np.bool_)
            known = [0 if value is None else value for value in values]
            if any(isinstance(value, float) for value in known):
                made[name] = pd.arrays.FloatingArray(np.array(known, dtype=np.float64), unknown)
            else:
                made[name] = pd.arrays.IntegerArray(np.array(known, dtype=np.int64), unknown)
    return pd.DataFrame(made)


def load_counts(path: str | Path) -> Counts:
    """Read a counts file and check that it balances. Raises CountsError (file, row and what does not add up).

    A file of published counts is named FILE.yaml, or FILE.yaml:NETWORK where it holds several; one that comes with
    snn_energy published:FILE or published:FILE:NETWORK (snn_energy.published).
    """
    from snn_energy.published import is_published, load_published

    if is_published(path):
        return load_published(path)
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CountsError(f"{path}: no such counts file; write one with: snn-energy profile ... -o {path}") from None
    except UnicodeDecodeError:
        raise CountsError(
            f"{path}: no text, so no counts file; a checkpoint is counted first: snn-energy profile {path} --data ..."
        ) from None
    except OSError as error:
        raise CountsError(f"{path}: cannot be read as a counts file ({error.strerror})") from None
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise CountsError(
            f"{path}:{error.lineno}: not a whole JSON file ({error.msg}); it was cut off or edited: profile again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CountsError(f"{path}: not a counts file ({error}); it was edited: profile again") from None
    if not isinstance(data, dict) or not {"schema", "header", "rows"} <= set(data):
        raise CountsError(f"{path}: not a counts file (it needs the keys schema, header and rows)")
    if data["schema"] != SCHEMA_VERSION:
        raise CountsError(
            f"{path}: counts schema {data['schema']!r}, this version reads {SCHEMA_VERSION}: profile the network again"
        )
    header, records = data["header"], data["rows"]
    _check_header(path, header)
    _check_records(path, records)
    rows = make_rows({name: [row[name] for row in records] for name in COLUMNS})
    per_sample = None
    if header.get("per_sample"):
        if header["per_sample"] != Path(str(header["per_sample"])).name:
            raise CountsError(f"{path}: header 'per_sample' must be the name of a file beside it: profile again")
        per_sample = _load_samples(path, path.with_name(header["per_sample"]))
    counts = Counts({**header, "file": path.stem}, rows, per_sample)
    problem = imbalance(counts)
    if problem is not None:
        raise CountsError(f"{path}: {problem}; the file was edited or damaged: profile again")
    if header.get("content_sha256") != _digest(header, rows, per_sample):
        raise CountsError(
            f"{path}: header 'content_sha256' is not that of its content; the file or {samples_path(path).name} was "
            "edited or damaged: profile again"
        )
    return counts


def _digest(header: Mapping[str, Any], rows: pd.DataFrame, per_sample: Mapping[str, Any] | None) -> str:
    """SHA-256 over header, rows and per-sample counts, as hexadecimal."""
    told = {key: value for key, value in header.items() if key not in ("content_sha256", "file")}
    digest = hashlib.sha256(json.dumps([told, _records(rows)], sort_keys=True, allow_nan=False).encode())
    for name in PER_SAMPLE if per_sample is not None else ():
        values = per_sample[name]  # type: ignore[index]
        digest.update(f"{name}{values.shape}".encode())
        for block in blocks(values):
            digest.update(np.ascontiguousarray(block, dtype="<i8").data)
    return digest.hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without a key given twice. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return found


def _check_header(path: Path, header: Any) -> None:
    if not isinstance(header, dict):
        raise CountsError(f"{path}: header must be a mapping")
    for key in ("model", "samples", "time_steps"):
        if key not in header:
            raise CountsError(f"{path}: header lacks '{key}': profile again")
    if header.get("convention") != CONVENTION_VERSION:
        raise CountsError(
            f"{path}: counted by convention {header.get('convention')!r}, this version prices {CONVENTION_VERSION}: "
            "profile again"
        )
    if not isinstance(header["model"], str):
        raise CountsError(f"{path}: header 'model' must be text, not {header['model']!r}")
    accuracy = header.get("accuracy")
    if accuracy is not None and not (isinstance(accuracy, (int, float)) and 0 <= accuracy <= 1):
        raise CountsError(f"{path}: header 'accuracy' must be null or lie in 0..1, not {accuracy!r}")
    for key in ("samples", "time_steps"):
        if not isinstance(header[key], int) or isinstance(header[key], bool) or header[key] < 1:
            raise CountsError(f"{path}: header '{key}' must be a whole number of at least 1, not {header[key]!r}")


def _check_records(path: Path, records: Any) -> None:
    if not isinstance(records, list) or not records:
        raise CountsError(f"{path}: rows must be a list of at least one row: profile again")
    for number, row in enumerate(records):
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            odd = sorted(set(COLUMNS) ^ set(row)) if isinstance(row, dict) else ["not a mapping"]
            raise CountsError(f"{path}: row {number} has missing or unknown columns: {', '.join(odd[:4])}")
        where = f"{path}: row {number} ({row['layer']}, time step {row['time_step']})"
        for column in COLUMNS:
            _check_cell(where, column, row[column], row["op"] == "unsupported")


def _check_cell(where: str, column: str, value: Any, unsupported: bool) -> None:
    if value is None and (column in NULLABLE or (unsupported and column in UNKNOWN_IF_UNSUPPORTED)):
        return
    if column in FLAGS:
        valid = isinstance(value, bool)
    elif column in TEXT:
        valid = isinstance(value, str)
    else:
        lowest = -1 if column == "time_step" else 0
        valid = isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**63
    if not valid:
        wanted = "true or false" if column in FLAGS else "text" if column in TEXT else "a whole number >= 0"
        raise CountsError(f"{where}: {column} must be {wanted}, not {value!r}: profile again")
    allowed = _ALLOWED.get(column)
    if allowed is not None and value not in allowed:
        raise CountsError(f"{where}: {column} must be one of {', '.join(allowed)}, not {value!r}: profile again")


_ALLOWED = {"group": GROUPS, "op": OPS, "input_kind": KINDS, "other_kind": KINDS}


def _load_samples(path: Path, side: Path) -> dict[str, npt.NDArray[np.int64]]:
    try:
        with side.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one bare array")
            large = None if archive.zip is None else _read_large(archive.zip)
            if large is not None:
                return large
            arrays = {name: archive[name] for name in PER_SAMPLE}
            odd = next(
                (n for n, a in arrays.items() if not isinstance(a, np.ndarray) or a.dtype.kind not in "ui"), None
            )
            if odd is not None:
                raise ValueError(f"{odd} does not hold whole numbers")
            return {name: values.astype(np.int64) for name, values in arrays.items()}
    except FileNotFoundError:
        raise CountsError(
            f"{side}: the per-sample counts of {path.name} are missing; keep both files together or profile again"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CountsError(f"{side}: not the per-sample counts of {path.name} ({error}): profile again") from None


def imbalance(counts: Counts) -> str | None:
    """The first thing in a counts frame that does not add up (design, section 5), or None."""
    rows, samples = counts.rows, counts.samples

    def first(bad: Any, text: str) -> str | None:
        flags = pd.Series(bad).fillna(False).to_numpy(dtype=bool)
        if not flags.any():
            return None
        row = rows.iloc[int(np.flatnonzero(flags)[0])]
        return f"row {int(np.flatnonzero(flags)[0])} ({row['layer']}, time step {row['time_step']}): {text}"

    product, neuron = rows["op"] == "matmul", rows["op"] == "neuron"
    work = rows[list(WORK)].fillna(0).sum(axis=1)
    steps = rows["time_step"]
    dense = rows["positions"] * rows["reduction"] * rows["out_channels"] * samples
    operation = rows["op"].isin(OPERATIONS)
    checks = [
        (rows["sops"] > rows["dense_macs"], "sops exceed dense_macs"),
        (product & (rows["sops"] > rows["sops_gated"]), "sops exceed sops_gated"),
        (product & (rows["sops_gated"] > rows["dense_macs"]), "sops_gated exceed dense_macs"),
        (operation & ~product & (rows["sops_gated"] != rows["sops"]), "sops_gated differ from sops"),
        (operation & rows["active"] & (rows["dense_macs"] != dense), "dense_macs are not M*K*N times samples"),
        (rows["input_nonzeros"] > rows["input_elements"] * samples, "more non-zeros than input elements"),
        (rows["other_nonzeros"] > rows["other_elements"] * samples, "more non-zeros than other elements"),
        (rows["spikes"] > rows["neurons"] * samples, "more spikes than neurons"),
        (~rows["active"] & (work > 0), "work in a time step that is not active"),
        (neuron & (rows["membrane_writes"] != rows["neurons"] * samples * rows["active"]), "membrane_writes"),
        (neuron & (rows["membrane_reads"] != rows["neurons"] * samples * rows["active"]), "membrane_reads"),
        ((steps < -1) | (steps >= counts.time_steps), "time_step outside the time steps of the header"),
        (operation & ~rows["input_kind"].isin(KINDS), "input_kind is unknown"),
        (_countable(rows, counts.header) & rows["sops_multi"].isna(), "sops_multi is missing"),
        ((rows["input_kind"] == "integer") & rows["max_k"].isna(), "an integer input without its max_k"),
        ((rows["other_kind"] == "integer") & rows["other_max_k"].isna(), "an integer operand without its max_k"),
        (rows.duplicated(["layer", "time_step"]), "appears twice"),
    ]  # fmt: skip
    for bad, text in checks:
        problem = first(bad, text)
        if problem is not None:
            return problem
    return _sample_imbalance(counts, first)


def _countable(rows: pd.DataFrame, header: Mapping[str, Any]) -> pd.Series:
    """Operations whose sum of |k| * fan-out is known; a publication gives none for integers."""
    kinds = ("binary", "ternary") if header.get("published") else ("binary", "ternary", "integer")
    return rows["op"].isin(OPERATIONS) & rows["input_kind"].isin(kinds) & rows["sops"].notna()


def _sample_imbalance(counts: Counts, first: Any) -> str | None:
    if counts.per_sample is None:
        return None
    for name in PER_SAMPLE:
        values = counts.per_sample[name]
        if values.shape != (len(counts.rows), counts.samples):
            return f"per-sample {name} has shape {values.shape}, not (rows, samples)"
        sums = [block.sum(1) for block in blocks(values)]
        totals = pd.Series(np.concatenate(sums) if sums else [], index=counts.rows.index)
        problem: str | None = first(totals != counts.rows[name].fillna(0), f"per-sample {name} do not add up to it")
        if problem is not None:
            return problem
    return None


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain JSON values."""
    columns: dict[str, list[Any]] = {}
    for name in COLUMNS:
        values = rows[name].tolist()
        if name in FLAGS:
            columns[name] = [bool(v) for v in values]
        else:
            columns[name] = [None if v is None or v is pd.NA else v for v in values]
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def smallest(values: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    """The same whole numbers in the smallest unsigned type."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


# ---- per-sample counts that need not fit into memory ---------------------------------------------------------------

BLOCK_BYTES = 4 * 2**20
IN_MEMORY_BYTES = 32 * 2**20  # of per-sample counts of a network; larger ones lie in a file


def blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Some rows of (rows, samples) after another, a few megabytes each; of a mapped file no more stays in memory."""
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
        _forget(values)


def _forget(values: npt.NDArray[Any]) -> None:
    """Give back the memory into which a file was mapped; it is read again where it is looked at again."""
    base: Any = values
    if not isinstance(values, np.memmap) or values.mode != "r":
        return
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


class SampleRows:
    """Per-sample counts under construction, (rows, samples) int64 by the columns of ``PER_SAMPLE``, zero at first.

    In memory up to ``IN_MEMORY_BYTES``, else in a file in ``folder`` that has no name and is gone with the arrays.
    """

    def __init__(self, rows: int, samples: int, folder: Path | None) -> None:
        self.shape, self._folder = (rows, samples), folder or tempfile.gettempdir()
        self._size = rows * samples * 8
        is_large = self._size * len(PER_SAMPLE) > IN_MEMORY_BYTES
        self._arrays = {} if is_large else {name: np.zeros(self.shape, np.int64) for name in PER_SAMPLE}
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".samples-") if is_large else None  # noqa: SIM115

    def __enter__(self) -> SampleRows:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, column: str, row: int, sample: int, values: npt.NDArray[np.int64]) -> None:
        """Write (n, m) values from this row and sample on. Raises OutputError where the disk is full."""
        if self._file is None:
            self._arrays[column][row : row + len(values), sample : sample + values.shape[1]] = values
            return
        for at, line in enumerate(values, start=row):
            if line.any():  # what is never written is zero, and takes no place
                self._file.seek(PER_SAMPLE.index(column) * self._size + (at * self.shape[1] + sample) * 8)
                self._write(line.tobytes())

    def arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """The finished arrays; mapped ones cannot be written to."""
        if self._file is None:
            return self._arrays
        self._write(b"")
        self._file.truncate(len(PER_SAMPLE) * self._size)
        return {
            name: np.memmap(self._file, np.int64, "r", index * self._size, self.shape)
            for index, name in enumerate(PER_SAMPLE)
        }

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(content)
            if not content:
                self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self._folder}: the per-sample counts cannot be written ({error.strerror}); make room, or set TMPDIR "
                "to a folder with room"
            ) from error


def _write_samples(path: Path, arrays: Mapping[str, npt.NDArray[np.int64]]) -> None:
    """What ``numpy.savez_compressed`` writes of the arrays in their smallest types, block by block."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            largest = max((int(block.max(initial=0)) for block in blocks(values)), default=0)
            kind = np.min_scalar_type(largest)
            told = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": values.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, told)
                for block in blocks(values):
                    member.write(block.astype(kind).tobytes())


def _read_large(archive: zipfile.ZipFile) -> dict[str, npt.NDArray[np.int64]] | None:
    """The arrays of a side file that are too large for memory, read block by block; None for others, and odd ones."""
    members = {name: f"{name}.npy" for name in PER_SAMPLE}
    told = {}
    for name, member in members.items():
        with archive.open(member) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                return None
            told[name] = np.lib.format.read_array_header_1_0(stream)
    shapes = {shape for shape, _, _ in told.values()}
    shape = next(iter(shapes))
    is_plain = len(shapes) == 1 and len(shape) == 2 and all(not f and t.kind in "ui" for _, f, t in told.values())
    if not is_plain or shape[0] * shape[1] * 8 * len(PER_SAMPLE) <= IN_MEMORY_BYTES:
        return None
    with SampleRows(shape[0], shape[1], None) as rows:
        for name, member in members.items():
            kind = told[name][2]
            with archive.open(member) as stream:
                np.lib.format.read_magic(stream)
                np.lib.format.read_array_header_1_0(stream)
                for row in range(shape[0]):
                    content = stream.read(shape[1] * kind.itemsize)
                    if len(content) != shape[1] * kind.itemsize:
                        raise ValueError(f"{name} ends too early")
                    rows.put(name, row, 0, np.frombuffer(content, kind).astype(np.int64)[None])
                if stream.read(1):
                    raise ValueError(f"{name} is too long")
        return rows.arrays()
