"""What is charged: so many actions of a row, at the price of one (energy = counts . costs).

``compute`` and ``memory`` make them from ``ChargedWork``; ``energy`` multiplies them by prices, ``design_sweep`` by
many prices at once, and the exact derivative of the total by a price is the sum of the actions that it is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

from snn_energy.pricing.charged_work import FloatArray

COMPUTE = ("mac_pj", "ac_pj", "zero_check_pj", "neuron_pj", "spike_pj", "elementwise_pj")
MEMORY = ("weights_pj", "inputs_pj", "outputs_pj", "membrane_pj", "partial_sums_pj", "accesses_pj")
TOTALS = ("compute_pj", "memory_pj", "total_pj")


@dataclass(frozen=True)
class ActionCount:
    """``amount`` actions per row (..., rows) and sample of the price with the dotted key ``price``.

    part: the column of the energy table that it belongs to. price None: the profile has no such price; ``what`` says
    what stays unpriced.
    """

    part: str
    price: str | None
    amount: FloatArray
    what: str = ""
