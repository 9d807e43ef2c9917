"""Energy = actions x prices, summed: the one loop behind ``estimate``, samples, sweeps, break-even and the audit.

They differ in what is summed over (``Reduction``) and in the column that an action is added to (``ColumnOf``). Actions
without a price are skipped here; ``unpriced_actions`` returns them. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from snn_energy.hardware.numbers import Prices
from snn_energy.pricing.actions import COMPUTE, MEMORY, ActionCount
from snn_energy.pricing.charged_work import FloatArray

Reduction = Callable[[FloatArray], FloatArray]
ColumnOf = Mapping[str, str]  # part of an action -> column of the sums

BY_PART: ColumnOf = {part: part for part in (*COMPUTE, *MEMORY)}
BY_KIND: ColumnOf = dict.fromkeys(COMPUTE, "compute_pj") | dict.fromkeys(MEMORY, "memory_pj")
BY_SUM: ColumnOf = {name: name for name in ("compute_pj", "memory_pj")}  # for actions that are summed already
TOTAL: ColumnOf = dict.fromkeys((*COMPUTE, *MEMORY), "total_pj")


def keep_rows(amount: FloatArray) -> FloatArray:
    """(..., rows) -> the same: one sum per row."""
    return amount


def sum_rows(amount: FloatArray) -> FloatArray:
    """(..., rows) -> (...): one sum over all rows."""
    return np.asarray(amount.sum(axis=-1))


def price_actions(
    actions: Iterable[ActionCount],
    prices: Prices,
    shape: int | tuple[int, ...],
    column_of: ColumnOf = BY_PART,
    reduction: Reduction = keep_rows,
) -> dict[str, FloatArray]:
    """Sums of amount x price in pJ by column, each an array of ``shape``; 0 where nothing is charged.

    An amount is reduced before it is multiplied. Sums are taken in the order of the actions.
    """
    sums = {column: np.zeros(shape) for column in column_of.values()}
    for action in actions:
        if action.price is not None:
            sums[column_of[action.part]] += reduction(action.amount) * prices[action.price]
    return sums


def unpriced_actions(actions: Iterable[ActionCount]) -> Iterator[ActionCount]:
    """The actions that the device has no price for."""
    return (action for action in actions if action.price is None)
