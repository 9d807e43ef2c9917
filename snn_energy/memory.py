"""Memory traffic in bits per sample, from counts and widths (design, section 6).

Each function is one line of the contract: w, a, u are the widths of weights, activations and membrane, s the bits per
element of a row's kind, A the number of charged rows of an operation. Weight-stationary variants:

    ws_once     weights are read once per inference
    ws_reload   weights are read again in every active time step
    state_only  the membrane alone

Partial sums spilled from an array of given rows (``psum_spill``) and buffers with sizes belong here too; they need
array geometry, which a profile does not have yet.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from snn_energy.counts import OPERATIONS, Counts
from snn_energy.hardware import HardwareProfile, Widths
from snn_energy.profiler.kinds import bits_per_element

MemoryVariant = Literal["ws_once", "ws_reload", "state_only"]
MEMORY_VARIANTS: tuple[MemoryVariant, ...] = ("ws_once", "ws_reload", "state_only")


def is_operation(rows: pd.DataFrame) -> pd.Series:
    """Rows that read weights or multiply two operands: conv, linear, matmul."""
    return rows["op"].isin(OPERATIONS)


def first_of_layer(rows: pd.DataFrame, charged: pd.Series) -> pd.Series:
    """True at the first charged row of each layer."""
    return charged & ~rows["layer"].where(charged).duplicated().where(charged, True)


def last_of_layer(rows: pd.DataFrame, charged: pd.Series) -> pd.Series:
    """True at the last charged row of each layer."""
    return charged & ~rows["layer"].where(charged).duplicated(keep="last").where(charged, True)


def weight_bits(rows: pd.DataFrame, charged: pd.Series, variant: MemoryVariant, widths: Widths) -> pd.Series:
    """ws_once: weights*w if A > 0, at the first charged row. ws_reload: weights*w*A. Products read no weights."""
    reads = first_of_layer(rows, charged) if variant == "ws_once" else charged
    return rows["weights"].astype(float) * widths.weights_bits * (reads & is_operation(rows))


def _stored_bits(kinds: pd.Series, max_k: pd.Series, real_bits: int) -> pd.Series:
    """Bits per element of each row's kind; 0 where a row has no such operand."""
    bits = [
        0 if kind is None else bits_per_element(kind, None if k is pd.NA else int(k), real_bits)
        for kind, k in zip(kinds, max_k, strict=True)
    ]
    return pd.Series(bits, index=kinds.index, dtype=float)


def input_bits(rows: pd.DataFrame, charged: pd.Series, widths: Widths) -> pd.Series:
    """input_elements*s, each element once per step; a product's other operand likewise."""
    streamed = _stored_bits(rows["input_kind"], rows["max_k"], widths.activations_bits)
    other = _stored_bits(rows["other_kind"], rows["other_max_k"], widths.activations_bits)
    bits = rows["input_elements"].fillna(0).astype(float) * streamed
    bits += rows["other_elements"].fillna(0).astype(float) * other
    return bits * (charged & is_operation(rows))


def output_bits(rows: pd.DataFrame, charged: pd.Series, widths: Widths) -> pd.Series:
    """LIF rows neurons*1; operations that no LIF follows output_elements*a."""
    neurons = rows["neurons"].astype(float) * (rows["op"] == "neuron")
    real = rows["output_elements"].astype(float) * widths.activations_bits
    return (neurons + real * (is_operation(rows) & ~rows["feeds_neuron"])) * charged


def membrane_read_bits(counts: Counts, widths: Widths, drop_first: bool) -> pd.Series:
    """u*reads; the read of the first active step is dropped where the profile says so."""
    return _membrane_bits(counts, "membrane_reads", widths, first_of_layer, drop_first)


def membrane_write_bits(counts: Counts, widths: Widths, drop_last: bool) -> pd.Series:
    """u*writes; the write of the last active step is dropped where the profile says so."""
    return _membrane_bits(counts, "membrane_writes", widths, last_of_layer, drop_last)


def _membrane_bits(counts: Counts, column: str, widths: Widths, edge: object, drop: bool) -> pd.Series:
    rows = counts.rows
    bits = rows[column].astype(float) / counts.samples * widths.membrane_bits
    if drop:
        is_edge = edge(rows, rows["active"] & (rows["op"] == "neuron"))  # type: ignore[operator]
        bits = bits.where(~is_edge, 0.0)
    return bits


def memory_charges(
    counts: Counts, hardware: HardwareProfile, variant: MemoryVariant, charged: pd.Series
) -> pd.DataFrame:
    """Energy of memory traffic in pJ per sample and row: weights, inputs, outputs, membrane."""
    rows, memory, widths = counts.rows, hardware.memory, hardware.widths
    reads = membrane_read_bits(counts, widths, memory.drop_first_last) * memory.read_j_per_bit("membrane")
    writes = membrane_write_bits(counts, widths, memory.drop_first_last) * memory.write_j_per_bit("membrane")
    charges = pd.DataFrame({"membrane_pj": (reads + writes) * 1e12})
    if variant == "state_only":
        for name in ("weights_pj", "inputs_pj", "outputs_pj"):
            charges[name] = np.zeros(len(rows))
        return charges
    weights = weight_bits(rows, charged, variant, widths) * memory.read_j_per_bit("weights")
    inputs = input_bits(rows, charged, widths) * memory.read_j_per_bit("inputs")
    outputs = output_bits(rows, charged, widths) * memory.write_j_per_bit("outputs")
    return charges.assign(weights_pj=weights * 1e12, inputs_pj=inputs * 1e12, outputs_pj=outputs * 1e12)
