"""Tables of a hardware profile: its numbers with their sources, what it cannot price, how two profiles differ."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from snn_energy.core.yaml_file import Keys
from snn_energy.hardware.numbers import static_keys
from snn_energy.hardware.quantities import CYCLE_BANDWIDTH_UNITS, RELATIVE, Quantity, quantities
from snn_energy.hardware.schema import TENSORS, Elementwise, HardwareProfile

DESCRIBE_COLUMNS = ["component", "action", "value", "unit", "low", "high", "width_bits", "kind", "source", "citation"]
DIFFERENCE_COLUMNS = ["component", "action", "a", "b", "differs"]


def _component(path: Keys) -> tuple[str, str]:
    return ".".join(path[:-1]) or "profile", path[-1]


def describe(profile: HardwareProfile) -> pd.DataFrame:
    """One row per number of the profile, in the units of its file (columns: ``DESCRIBE_COLUMNS``).

    ``component`` and ``action`` are the keys in the file; ``low``, ``high`` (its range) and ``width_bits`` are missing
    if a number has none.
    """
    rows = [
        (
            *_component(path),
            float(number.value),
            number.unit,
            *(getattr(number, "range", None) or (None, None)),
            getattr(number, "width_bits", None),
            number.kind,
            number.source,
            profile.sources[number.source].citation,
        )
        for path, number in quantities(profile)
    ]
    return pd.DataFrame(rows, columns=DESCRIBE_COLUMNS).astype({"width_bits": "Int64", "low": float, "high": float})


def profile_notes(profile: HardwareProfile) -> list[str]:
    """The notes of the file on its sources, numbers and placement: "key: note", one each."""
    notes: list[tuple[str, str | None]] = [
        *((f"sources.{name}", source.note) for name, source in profile.sources.items()),
        *((".".join(path), number.note) for path, number in quantities(profile)),
        *_placement_note(profile),
    ]
    return [f"{key}: {' '.join(note.split())}" for key, note in notes if note is not None]


def missing_prices(profile: HardwareProfile) -> list[str]:
    """What the profile has no price for, one sentence each. Such work is listed as unpriced, never as zero."""
    compute, static = profile.compute, profile.static_power
    reasons = profile.not_priced
    sentences = [
        f"{what} have no price: {reason}."
        for what, reason in (("MACs", reasons.mac), ("Accumulates", reasons.ac), ("Memory accesses", reasons.memory))
        if reason is not None
    ]
    if compute.neuron_prices is None:
        keys = "compute.neuron_update, or compute.neuron_spiking and compute.neuron_silent"
        sentences.append(f"Neuron updates have no price ({keys}).")
    if compute.zero_check is None:
        sentences.append("Zero checks have no price (compute.zero_check).")
    for op in Elementwise.model_fields:
        if compute.elementwise.price(op) is None:
            sentences.append(f"Elementwise operations of kind '{op}' have no price (compute.elementwise.{op}).")
    if profile.memory is not None and profile.array is None:
        sentences.append("Spilled partial sums and array dataflows require the array's rows and columns (array).")
    if profile.latency is None:
        sentences.append("Latency is unknown: there is no clock (latency).")
    elif profile.memory is not None and all(level.bandwidth is None for level in profile.memory.levels.values()):
        sentences.append("No store has a bandwidth (memory.levels.*.bandwidth): time is bound by compute alone.")
    if static is None and not static_keys(profile):
        sentences.append("Static power has no value (static_power).")
    elif profile.latency is None:
        sentences.append("Static power is not priced: that requires a clock (latency).")
    return sentences


def differences(a: HardwareProfile, b: HardwareProfile) -> pd.DataFrame:
    """The numbers and settings in which two profiles differ (columns: ``DIFFERENCE_COLUMNS``).

    ``a`` and ``b`` hold each profile's own text, "-" if it has none; ``differs`` names what differs: value
    (compared in SI, so 0.9 pJ equals 0.0009 nJ), width_bits, kind, citation. Two equal profiles give no row.
    """
    values_a, values_b = _comparable_values(a), _comparable_values(b)
    rows = []
    for path in dict.fromkeys([*values_a, *values_b]):
        differs = _what_differs(values_a.get(path), values_b.get(path))
        if differs:
            texts = (values[path]["text"] if path in values else "-" for values in (values_a, values_b))
            rows.append((*_component(path), *texts, differs))
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def _comparable_values(profile: HardwareProfile) -> dict[Keys, dict[str, object]]:
    """Each number and setting by its keys: its text for display ("text") and the compared values (the rest)."""
    values: dict[Keys, dict[str, object]] = {}
    for path, number in quantities(profile):
        width = getattr(number, "width_bits", None)
        values[path] = {
            "text": f"{number.value:.12g} {number.unit}" + (f" / {width} bit" if width else "") + _range_text(number),
            "value": (number.unit in (RELATIVE, *CYCLE_BANDWIDTH_UNITS), number.si_value),
            "width_bits": width,
            "range": getattr(number, "range", None),
            "kind": number.kind,
            "citation": profile.sources[number.source].citation,
        }
    return values | {path: {"text": text, "value": text} for path, text in _settings(profile).items()}


def _range_text(number: Quantity) -> str:
    found = getattr(number, "range", None)
    return "" if found is None else f" ({found[0]:.12g} to {found[1]:.12g})"


def _settings(profile: HardwareProfile) -> dict[Keys, str]:
    """The settings of a profile other than numbers."""
    settings: dict[Keys, str] = {}
    memory, latency = profile.memory, profile.latency
    if memory is not None:
        if memory.placement is not None:
            settings |= {("memory", "placement", t): memory.placement.level_of(t) for t in TENSORS}
        if memory.keep is not None:
            settings["memory", "levels"] = " > ".join(memory.levels)
            settings["memory", "keep"] = ", ".join(memory.keep)
        for name, level in memory.levels.items():
            if level.holds is not None:
                settings["memory", "levels", name, "holds"] = ", ".join(level.holds)
        settings["memory", "spike_coding"] = memory.spike_coding
        settings["memory", "variant"] = memory.variant
        settings["memory", "drop_first_last"] = str(memory.drop_first_last).lower()
    if latency is not None:
        for key in ("timing", "schedule", "zeros", "lanes_over"):
            settings["latency", key] = str(getattr(latency, key))
    if profile.compute.zero_check is not None:
        settings["compute", "zero_check", "per"] = profile.compute.zero_check.per
    return settings


def _placement_note(profile: HardwareProfile) -> list[tuple[str, str | None]]:
    if profile.memory is None:
        return []
    placement = profile.memory.placement
    texts = [("memory", profile.memory.note)]
    return texts if placement is None else [*texts, ("memory.placement", placement.note)]


def _what_differs(a: Mapping[str, object] | None, b: Mapping[str, object] | None) -> str:
    if a is None or b is None:
        return "only in a" if b is None else "only in b"
    return ", ".join(key for key in a if key != "text" and a[key] != b[key])
