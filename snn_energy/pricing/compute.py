"""Arithmetic: how often a device multiplies, accumulates, checks for zeros and updates neurons (design, section 6).

Each rule is one line of the design's contract. A charge whose price the profile does not have stays unpriced.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from snn_energy.core.errors import HardwareError
from snn_energy.counts.columns import OPERATIONS
from snn_energy.counts.counts import Counts
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.actions import ActionCount
from snn_energy.pricing.charged_work import ChargedWork


def compute_actions(work: ChargedWork, hardware: HardwareProfile) -> list[ActionCount]:
    """All actions of arithmetic, per sample."""
    return [*_multiplies(work, hardware), *_zero_checks(work, hardware), *_neurons(work, hardware),
            *_elementwise(work, hardware)]  # fmt: skip


def _multiplies(work: ChargedWork, hardware: HardwareProfile) -> Iterator[ActionCount]:
    """e_mac * MACs and e_ac * accumulates; an operation's accumulates at its own price if the device has one."""
    mac = None if hardware.compute.mac is None else "compute.mac"
    yield ActionCount("mac_pj", mac, work.macs, "multiply-accumulates")
    remaining = work.acs
    for op in OPERATIONS:
        if getattr(hardware.compute, f"ac_{op}") is not None:
            of_op = work.op == op
            yield ActionCount("ac_pj", f"compute.ac_{op}", np.where(of_op, work.acs, 0.0))
            remaining = np.where(of_op, 0.0, remaining)
    yield ActionCount("ac_pj", None if hardware.compute.ac is None else "compute.ac", remaining, "accumulates")


def _zero_checks(work: ChargedWork, hardware: HardwareProfile) -> Iterator[ActionCount]:
    """e_zc * dense_macs of rows that are not real, or e_zc * input_elements."""
    check = hardware.compute.zero_check
    if check is not None:
        elements = work.input_elements * work.steps * (1 - work.real_input)
        yield ActionCount(
            "zero_check_pj", "compute.zero_check", work.zero_checked if check.per == "operation" else elements
        )


def _neurons(work: ChargedWork, hardware: HardwareProfile) -> Iterator[ActionCount]:
    """Neuron updates in active steps, of spiking and silent neurons separately if priced so; spikes sent."""
    compute = hardware.compute
    if compute.neuron_update is not None:
        yield ActionCount("neuron_pj", "compute.neuron_update", work.updates)
    elif compute.neuron_spiking is not None:
        yield ActionCount("neuron_pj", "compute.neuron_spiking", work.spikes)
        yield ActionCount("neuron_pj", "compute.neuron_silent", work.updates - work.spikes)
    else:
        yield ActionCount("neuron_pj", None, work.updates, "neuron updates")
    if compute.spike is not None:
        yield ActionCount("spike_pj", "compute.spike", work.spikes)


def _elementwise(work: ChargedWork, hardware: HardwareProfile) -> Iterator[ActionCount]:
    """Additions, pooling, norms and similar operations, each kind at its own price."""
    for op in dict.fromkeys(work.op.tolist()):
        if op not in (*OPERATIONS, "neuron"):
            priced = hardware.compute.elementwise.price(op) is not None
            key = f"compute.elementwise.{op}" if priced else None
            yield ActionCount(
                "elementwise_pj", key, np.where(work.op == op, work.elementwise, 0.0), "element-wise operations"
            )


def has_arithmetic_prices(hardware: HardwareProfile) -> bool:
    """False for a device without a price for MACs and accumulates: only its memory is priced."""
    compute = hardware.compute
    return any(p is not None for p in (compute.mac, compute.ac, compute.ac_conv, compute.ac_linear, compute.ac_matmul))


def require_arithmetic_prices(work: ChargedWork, counts: Counts, hardware: HardwareProfile) -> None:
    """Raise HardwareError if the device has no price for MACs or accumulates that the network performs."""
    for charge in compute_actions(work, hardware):
        if charge.price is None and charge.part in ("mac_pj", "ac_pj") and float(np.nansum(charge.amount)) > 0:
            layers = list(dict.fromkeys(counts.rows["layer"][charge.amount > 0]))
            missing = "compute.mac" if charge.part == "mac_pj" else "compute.ac"
            raise HardwareError(
                f"{hardware.where('compute')}: {hardware.name} has no price for {charge.what} ({missing}), which "
                f"{', '.join(layers[:3])}{' and others' if len(layers) > 3 else ''} need; leave out layers that run "
                f"elsewhere: {' '.join(f'--without {name}' for name in layers[:3])}"
            )
