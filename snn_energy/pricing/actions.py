"""What is charged: the number of actions per row, and the price of one action (energy = counts . costs).

``compute`` and ``memory`` make them from ``ChargedWork``; ``energy`` multiplies them by prices, ``design_sweep`` by
many prices at once. The exact derivative of the total with respect to a price is the sum of the actions charged at it.
"""

from __future__ import annotations

from dataclasses import dataclass

from snn_energy.pricing.charged_work import FloatArray

COMPUTE = ("mac_pj", "ac_pj", "zero_check_pj", "neuron_pj", "spike_pj", "elementwise_pj")
MEMORY = ("weights_pj", "inputs_pj", "outputs_pj", "membrane_pj", "partial_sums_pj", "accesses_pj")
TOTALS = ("compute_pj", "memory_pj", "total_pj")


@dataclass(frozen=True)
class ActionCount:
    """``amount`` actions per sample and row (..., rows), charged at the price with the dotted key ``price``.

    part: the column of the energy table that they are added to. price None: the profile has no such price; ``what``
    names what stays unpriced.
    """

    part: str
    price: str | None
    amount: FloatArray
    what: str = ""
