"""Many designs at once: any number of a profile over a list or a range, on any number of networks.

The formulas are those of ``estimate``: charges are actions times prices. Prices and powers enter linearly, so the
actions are summed over rows once and multiplied by all requested prices. All other numbers (widths, word widths, rows,
columns, sizes, lanes, bandwidths, clock) change the actions, which are computed for every distinct combination of them,
in blocks of arrays. There is no loop over points. No torch here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from snn_energy.analysis.comparison import labels_of
from snn_energy.core.errors import OutputError, SnnEnergyError, nearest
from snn_energy.core.files import write_atomically
from snn_energy.counts.counts import Counts
from snn_energy.hardware.files import load_hardware
from snn_energy.hardware.numbers import Prices, numbers, static_keys
from snn_energy.hardware.quantities import (
    CYCLE_BANDWIDTH_UNITS,
    RELATIVE,
    Power,
    Price,
    Quantity,
    nearest_unit,
    quantities,
    to_formula_unit,
)
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.actions import ActionCount
from snn_energy.pricing.charged_work import LAYER_EVENTS, ChargedWork, Column, FloatArray, charged_work
from snn_energy.pricing.compute import compute_actions, has_arithmetic_prices, require_arithmetic_prices
from snn_energy.pricing.cycles import LayerRows, drop_design_axis, layer_rows_of, total_cycles
from snn_energy.pricing.left_out import layers_left_out
from snn_energy.pricing.memory import accesses, published_accesses
from snn_energy.pricing.policies import Policies, PolicyOptions, make_policies
from snn_energy.pricing.pricing import BY_SUM, price_actions, sum_rows

MAX_POINTS = 20_000_000
BLOCK_ELEMENTS = 2**18  # elements of an array processed at a time: it stays in the processor's cache
INTEGER_KEYS = ("rows", "columns", "lanes")


@dataclass(frozen=True)
class Field:
    """A number of a profile and its values, in ``unit`` (by default the unit in the profile's file)."""

    key: str
    unit: str
    values: FloatArray

    @property
    def column(self) -> str:
        """Heading in a table: the key with its unit."""
        return f"{self.key} ({self.unit})" if self.unit else self.key


def sweepable(hardware: HardwareProfile) -> dict[str, Quantity | None]:
    """Dotted keys of all numbers of a profile; word widths (``KEY.width_bits``) with None."""
    found: dict[str, Quantity | None] = {}
    for path, number in quantities(hardware):
        key = ".".join(path)
        found[key] = number
        if getattr(number, "width_bits", None) is not None and path[0] != "compute":  # not used in arithmetic
            found[f"{key}.width_bits"] = None
    return found


def parse_field(text: str, hardware: HardwareProfile) -> Field:
    """``KEY=A,B,C`` or ``KEY=A..B:COUNT`` (``:log`` after it for equal ratios); values may carry a unit, ``0.9pJ``.

    Raises SnnEnergyError for an unknown key (with the nearest), unit, range or value.
    """
    key, _, spec = text.partition("=")
    key = key.strip()
    known = sweepable(hardware)
    if key not in known:
        raise SnnEnergyError(
            f"--set {text}: {hardware.name} has no number '{key}'{nearest(key, known)}; see `snn-energy hardware show`"
        )
    number = known[key]
    unit = "" if number is None else number.unit
    if ".." in spec:
        ends, _, rest = spec.partition(":")
        count, _, form = rest.partition(":")
        low, high = (_value(part, number, unit, text) for part in ends.split("..", 1))
        if not count.isdigit() or int(count) < 2 or form not in ("", "log", "linear"):
            raise SnnEnergyError(f"--set {text}: a range is written LOW..HIGH:COUNT or LOW..HIGH:COUNT:log, COUNT >= 2")
        if int(count) > MAX_POINTS:
            raise SnnEnergyError(f"--set {text}: {int(count):,} values are more than {MAX_POINTS:,} points")
        if low >= high:
            raise SnnEnergyError(f"--set {text}: the range is reversed; write {high:g}..{low:g}")
        if form == "log" and low <= 0:
            raise SnnEnergyError(f"--set {text}: a range of equal ratios starts above 0")
        spread = np.geomspace if form == "log" else np.linspace
        values = spread(low, high, int(count))
    else:
        values = np.array([_value(part, number, unit, text) for part in spec.split(",")])
    field = Field(key, unit, values)
    check_field(field, hardware)
    return field


def _value(text: str, number: Quantity | None, unit: str, where: str) -> float:
    """A number with or without a unit, in ``unit``."""
    plain = text.strip()
    found = re.match(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|inf\b|nan\b)", plain)
    digits = "" if found is None else found[0]
    written_unit = plain[len(digits) :].strip()
    try:
        value = float(digits)
    except ValueError:
        raise SnnEnergyError(f"--set {where}: cannot read '{plain}' as a number") from None
    if not written_unit or written_unit == unit:
        return value
    units = {} if number is None else type(number).UNITS
    relative = (RELATIVE, *CYCLE_BANDWIDTH_UNITS)  # multiples of another number of the profile, which may be swept too
    if number is None or written_unit not in units or (written_unit in relative) != (unit in relative):
        hint = nearest_unit(written_unit, units)
        listed = ", ".join(u for u in units if (u in relative) == (unit in relative))
        listed = f" (known: {listed})" if listed else ""
        raise SnnEnergyError(
            f"--set {where}: '{written_unit}' does not convert to {unit or 'a plain number'}{listed}{hint}"
        )
    return to_formula_unit(number, value, written_unit) / to_formula_unit(number, 1.0, unit)


def check_field(field: Field, hardware: HardwareProfile) -> None:
    """Raise SnnEnergyError for values that a profile could not hold: negative, zero (e.g. clock), not whole."""
    number, values = sweepable(hardware)[field.key], field.values
    last_key = field.key.rsplit(".", 1)[-1]
    whole = last_key in (*INTEGER_KEYS, "width_bits") or field.key.startswith("widths.")
    if values.size == 0 or not np.isfinite(values).all():
        raise SnnEnergyError(f"{field.key}: values must be finite numbers, at least one")
    not_whole = values[(values < 1) | (values != np.round(values))] if whole else values[:0]
    if not_whole.size:
        raise SnnEnergyError(f"{field.key}: must be whole numbers, at least 1, not {not_whole[0]:g}")
    if (values < 0).any() or (last_key in ("bandwidth", "clock", "utilisation") and (values == 0).any()):
        raise SnnEnergyError(
            f"{field.key}: must be {'0 or more' if values.min() < 0 else 'more than 0'}, not {values.min():g}"
        )
    if (
        number is not None
        and last_key == "utilisation"
        and to_formula_unit(number, float(values.max()), field.unit) > 1
    ):
        raise SnnEnergyError(f"{field.key}: is a share of the lanes, at most 1, not {values.max():g} {field.unit}")


def is_linear(hardware: HardwareProfile, key: str) -> bool:
    """True for prices and powers: the total is linear in them."""
    return isinstance(sweepable(hardware)[key], Price | Power)


@dataclass(frozen=True)
class Totals:
    """Per point and sample: energies in pJ, cycles and seconds (None where the profile has no latency section)."""

    compute_pj: FloatArray
    memory_pj: FloatArray
    static_pj: FloatArray
    cycles: FloatArray | None
    seconds: FloatArray | None

    @property
    def total_pj(self) -> FloatArray:
        """The sum of all priced parts, including static energy."""
        return self.compute_pj + self.memory_pj + self.static_pj


def totals(
    counts: Counts,
    hardware: HardwareProfile,
    policies: Policies,
    fields: Sequence[Field],
    without: Iterable[str] = (),
) -> Totals:
    """The totals of one network at many points; every field has one value per point (all of one length).

    NaN where a tensor fits on no level.
    """
    points = len(fields[0].values) if fields else 1
    work = charged_work(counts, hardware, policies, without)
    require_arithmetic_prices(work, counts, hardware)
    known = sweepable(hardware)
    base = {f.key: _base_values(known[f.key], f) for f in fields}
    nonlinear_fields = [f for f in fields if not is_linear(hardware, f.key)]
    codes, changes, combinations = _combinations(
        [f for f in nonlinear_fields if not _affects_only_latency(f.key)], base, points
    )
    actions = _actions(counts, hardware, policies, work, changes, combinations)
    priced = numbers(hardware, {k: v for k, v in base.items() if is_linear(hardware, k)})
    swept = {key for key in priced if isinstance(priced[key], np.ndarray)}
    fixed = price_actions((a for a in actions if a.price not in swept), priced, combinations, BY_SUM)
    varied = (a for a in actions if a.price in swept)
    sums = price_actions(varied, priced, points, BY_SUM, lambda amount: amount[codes])
    for kind in sums:
        sums[kind] += fixed[kind][codes]
    static, cycles, seconds = np.zeros(points), None, None
    if hardware.latency is not None:
        codes, changes, combinations = _combinations(nonlinear_fields, base, points)
        cycles = _cycles(counts, hardware, policies, work, changes, combinations)[codes]
        clock = base["latency.clock"][0] if "latency.clock" in base else numbers(hardware)["latency.clock"]
        seconds = cycles / clock
        for key in static_keys(hardware):
            static = static + priced[key] * seconds * 1e12
    return Totals(sums["compute_pj"], sums["memory_pj"], static, cycles, seconds)


def _affects_only_latency(key: str) -> bool:
    """True for numbers that change the latency but no action."""
    return key.startswith("latency.") or key.endswith(".bandwidth")


def _base_values(number: Quantity | None, field: Field) -> tuple[FloatArray, str]:
    """Values in the units of the formulas, and the unit, which indicates whether they are multiples."""
    if number is None:
        return field.values, ""
    return field.values * to_formula_unit(number, 1.0, field.unit), field.unit


def _combinations(
    fields: Sequence[Field], base: Mapping[str, tuple[FloatArray, str]], points: int
) -> tuple[npt.NDArray[np.intp], dict[str, tuple[FloatArray, str]], int]:
    """The index of every point's combination of values; the distinct combinations, field by field; their number."""
    if not fields:
        return np.zeros(points, dtype=np.intp), {}, 1
    uniques, inverses = zip(*(np.unique(base[f.key][0], return_inverse=True) for f in fields), strict=True)
    sizes = [len(u) for u in uniques]
    if np.prod(sizes, dtype=np.float64) < 2**62:
        flat_index = np.ravel_multi_index([i.reshape(-1) for i in inverses], sizes)
        used, codes = np.unique(flat_index, return_inverse=True)
        unique_indices = np.unravel_index(used, sizes)
    else:
        table, codes = np.unique(np.stack([i.reshape(-1) for i in inverses], 1), axis=0, return_inverse=True)
        unique_indices = tuple(table.T)
    changes = {f.key: (u[p], base[f.key][1]) for f, u, p in zip(fields, uniques, unique_indices, strict=True)}
    return codes.reshape(-1), changes, len(unique_indices[0])


Changes = Mapping[str, tuple[FloatArray, str]]


def _in_blocks(
    hardware: HardwareProfile, changes: Changes, combinations: int, rows: int, run: Callable[[slice, Prices], None]
) -> None:
    """Call ``run`` on slices of the combinations and their numbers, in as many threads as the machine has cores."""
    block_size = max(1, BLOCK_ELEMENTS // max(rows, 1))

    def run_block(start: int) -> None:
        block = slice(start, min(start + block_size, combinations))
        run(block, numbers(hardware, {key: (values[block, None], unit) for key, (values, unit) in changes.items()}))

    starts = range(0, combinations, block_size)
    if len(starts) == 1:
        run_block(0)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy releases the interpreter's lock
        for _ in pool.map(run_block, starts):
            pass


def _actions(
    counts: Counts,
    hardware: HardwareProfile,
    policies: Policies,
    work: ChargedWork,
    changes: Changes,
    combinations: int,
) -> list[ActionCount]:
    """Actions by sum (compute_pj or memory_pj) and price, summed over rows: amounts (combinations,)."""
    memory = hardware.memory
    by_events = memory is not None and memory.keep is not None and memory.spike_coding == "address-event"
    merged_work = work if by_events else work.deduplicated()  # with address-event coding, sizes differ between steps
    found: dict[tuple[str, str], FloatArray] = {}

    def add(kind: str, actions: Iterable[ActionCount], block: slice) -> None:
        for action in actions:
            if action.price is not None:
                table = found.setdefault((kind, action.price), np.zeros(combinations))
                table[block] += sum_rows(action.amount)

    add("compute_pj", compute_actions(merged_work, hardware), slice(None))
    if published := published_accesses(counts, hardware):
        add("memory_pj", [charge for _, charge in published], slice(None))
    elif memory is not None:
        moving = merged_work.select_rows(np.flatnonzero(merged_work.is_operation | merged_work.is_neuron))

        def run(block: slice, prices: Prices) -> None:
            for access in accesses(moving, hardware, prices, policies.memory):
                # As memory_actions, but summed first.
                words = sum_rows(access.bits) / drop_design_axis(prices[f"{access.key}.width_bits"])
                found.setdefault(("memory_pj", access.key), np.zeros(combinations))[block] += words

        _in_blocks(hardware, changes, combinations, moving.steps.size, run)
    return [ActionCount(kind, price, amount) for (kind, price), amount in found.items()]


def _cycles(
    counts: Counts,
    hardware: HardwareProfile,
    policies: Policies,
    work: ChargedWork,
    changes: Changes,
    combinations: int,
) -> FloatArray:
    """Cycles per sample for every combination of the numbers that change them."""
    cycles = np.zeros(combinations)
    if (published := counts.typed_header.cycles) is not None:
        return cycles + published
    assert hardware.latency is not None
    by_layer = layer_rows_of(counts, hardware.latency.timing == "array")
    operation_work = work.select_rows(by_layer.rows)
    compares_work = policies.memory == "no_local_reuse" or (
        hardware.memory is not None and hardware.memory.spike_coding == "address-event"
    )
    more: list[Column] = ["steps", "first_charged", "external_inputs"]
    if compares_work:
        more += ["macs", "acs", "input_events", "other_events", *LAYER_EVENTS]
    distinct = operation_work.group_equal_rows(more)
    by_layer = LayerRows(np.arange(len(by_layer.rows)), by_layer.starts, by_layer.names, distinct)

    def run(block: slice, prices: Prices) -> None:
        cycles[block] = total_cycles(operation_work, hardware, prices, policies.memory, by_layer, counts.time_steps)

    _in_blocks(hardware, changes, combinations, operation_work.steps.size, run)
    return cycles


def grid(fields: Sequence[Field]) -> list[Field]:
    """Every combination of the fields' values, the last field changing fastest. Raises SnnEnergyError for too many."""
    size = int(np.prod([len(f.values) for f in fields], dtype=np.float64)) if fields else 1
    if size > MAX_POINTS:
        raise SnnEnergyError(f"{size:,} points are more than {MAX_POINTS:,}; give fewer values")
    meshes = np.meshgrid(*(f.values for f in fields), indexing="ij")
    return [dataclasses.replace(f, values=m.reshape(-1)) for f, m in zip(fields, meshes, strict=True)]


def sweep(
    counts: Counts | Sequence[Counts] | Mapping[str, Counts],
    hardware: str | Path | HardwareProfile,
    fields: Mapping[str, Any] | Sequence[str] | Sequence[Field],
    *,
    combine: bool = True,
    without: Iterable[str] = (),
    **policies: Unpack[PolicyOptions],
) -> pd.DataFrame:
    """Energy and time of every network at every point: one row each, not rounded.

    fields: texts as on the command line (``"array.rows=8,16"``), or a mapping key -> values in the unit of the
    profile's file. combine: all combinations of the values; False: the n-th values form the n-th point. Columns:
    model, one per field (unit in its name), compute_pj, memory_pj, static_pj, total_pj and, with a latency section,
    cycles, latency_s, edp_js. Points where a tensor fits on no level are NaN. Raises SnnEnergyError for unknown fields
    and impossible values.
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else load_hardware(hardware)
    chosen = make_policies(profile, **policies)
    named = _as_mapping(counts)
    if not named:
        raise SnnEnergyError("nothing to sweep: give at least one network")
    swept = _parsed_fields(fields, profile)
    duplicate = next((f.key for i, f in enumerate(swept) if f.key in [g.key for g in swept[:i]]), None)
    if duplicate is not None:
        raise SnnEnergyError(f"{duplicate}: is swept twice; give all its values at once")
    if not combine and len({len(f.values) for f in swept}) > 1:
        raise SnnEnergyError("without combining them, all fields need the same number of values")
    points = grid(swept) if combine else list(swept)
    for c in named.values():
        _check_swept_accesses(c, swept)
    tables = []
    for (label, c), left_out_layers in zip(named.items(), layers_left_out(list(named.values()), without), strict=True):
        found = totals(c, profile, chosen, points, left_out_layers)
        columns: dict[str, Any] = {f.column: f.values for f in points}
        columns["compute_pj"] = found.compute_pj if has_arithmetic_prices(profile) else np.nan
        columns["memory_pj"] = found.memory_pj if profile.memory is not None else np.nan
        columns["static_pj"], columns["total_pj"] = found.static_pj, found.total_pj
        if found.seconds is not None:
            columns["cycles"], columns["latency_s"] = found.cycles, found.seconds
            columns["edp_js"] = found.total_pj * 1e-12 * found.seconds
        frame = pd.DataFrame(columns, index=range(len(found.compute_pj)))
        names = pd.Categorical([label], categories=list(named)).repeat(len(frame))
        frame.insert(0, "model", pd.Series(names))
        tables.append(frame)
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _check_swept_accesses(counts: Counts, fields: Sequence[Field]) -> None:
    """Raise SnnEnergyError if the write price of accesses of unknown direction is swept: they cost the read price."""
    unresolved = {
        f"memory.levels.{e['level']}.write" for e in counts.typed_header.accesses if e["action"] == "accesses"
    }
    for field in fields:
        if field.key in unresolved:
            raise SnnEnergyError(
                f"{field.key}: {counts.model} does not distinguish reads from writes; sweep "
                f"{field.key.removesuffix('write')}read, whose price applies to both"
            )


def _as_mapping(counts: Counts | Sequence[Counts] | Mapping[str, Counts]) -> dict[str, Counts]:
    if isinstance(counts, Counts):
        return {counts.model: counts}
    if isinstance(counts, Mapping):
        return dict(counts)
    return dict(zip(labels_of(counts), counts, strict=True))


def _parsed_fields(fields: Any, hardware: HardwareProfile) -> list[Field]:
    if isinstance(fields, Mapping):
        known = sweepable(hardware)
        parsed = []
        for key, values in fields.items():
            if key not in known:
                raise SnnEnergyError(f"{hardware.name} has no number '{key}'{nearest(key, known)}")
            number = known[key]
            try:
                values = np.atleast_1d(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError):
                raise SnnEnergyError(f"{key}: its values must be numbers, not {values!r}") from None
            parsed.append(Field(key, "" if number is None else number.unit, values))
            check_field(parsed[-1], hardware)
        return parsed
    return [f if isinstance(f, Field) else parse_field(f, hardware) for f in fields]


def write_points(table: pd.DataFrame, path: Path) -> None:
    """Write the points as CSV or Parquet, by the suffix, whole or not at all. Raises OutputError."""
    if path.suffix == ".csv":
        write_atomically(path, lambda temporary: table.to_csv(temporary, index=False, lineterminator="\n"))
    elif path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise OutputError(f"{path}: Parquet needs pyarrow; install 'snn_energy[parquet]', or write .csv") from None
        write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    else:
        raise OutputError(f"{path}: points are written as .csv or .parquet; give one of these suffixes")
