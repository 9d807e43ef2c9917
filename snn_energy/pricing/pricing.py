"""Energy = charges x prices, summed: the one loop behind ``estimate``, samples, sweeps, break-even and the audit.

They differ in what is summed over (``Reduction``) and in the column that a charge is added to (``ColumnOf``). Charges
without a price are skipped here; ``unpriced_charges`` returns them. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from snn_energy.hardware.numbers import Prices
from snn_energy.pricing.actions import COMPUTE, MEMORY, ActionCount
from snn_energy.pricing.charged_work import FloatArray

Reduction = Callable[[FloatArray], FloatArray]
ColumnOf = Mapping[str, str]  # part of a charge -> column of the sums

BY_PART: ColumnOf = {part: part for part in (*COMPUTE, *MEMORY)}
BY_KIND: ColumnOf = dict.fromkeys(COMPUTE, "compute_pj") | dict.fromkeys(MEMORY, "memory_pj")
BY_SUM: ColumnOf = {name: name for name in ("compute_pj", "memory_pj")}  # for charges that are summed already
TOTAL: ColumnOf = dict.fromkeys((*COMPUTE, *MEMORY), "total_pj")


def by_row(amount: FloatArray) -> FloatArray:
    """(..., rows) -> the same: one sum per row."""
    return amount


def over_rows(amount: FloatArray) -> FloatArray:
    """(..., rows) -> (...): one sum over all rows."""
    return np.asarray(amount.sum(axis=-1))


def price_charges(
    charges: Iterable[ActionCount],
    prices: Prices,
    shape: int | tuple[int, ...],
    column_of: ColumnOf = BY_PART,
    reduction: Reduction = by_row,
) -> dict[str, FloatArray]:
    """Sums of amount x price in pJ by column, each an array of ``shape``; 0 where nothing is charged.

    An amount is reduced before it is multiplied. Sums are taken in the order of the charges.
    """
    sums = {column: np.zeros(shape) for column in column_of.values()}
    for charge in charges:
        if charge.price is not None:
            sums[column_of[charge.part]] += reduction(charge.amount) * prices[charge.price]
    return sums


def unpriced_charges(charges: Iterable[ActionCount]) -> Iterator[ActionCount]:
    """The charges that the device has no price for."""
    return (charge for charge in charges if charge.price is None)
