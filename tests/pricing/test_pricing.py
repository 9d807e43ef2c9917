"""The one pricing loop, and the columns of charged work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from snn_energy.core.errors import HardwareError
from snn_energy.counts.counts import Counts
from snn_energy.hardware.numbers import Prices
from snn_energy.hardware.schema import HardwareProfile
from snn_energy.pricing.actions import COMPUTE, MEMORY, ActionCount
from snn_energy.pricing.charged_work import COLUMNS, ChargedWork, charged_work
from snn_energy.pricing.policies import make_policies
from snn_energy.pricing.pricing import BY_KIND, BY_PART, TOTAL, price_actions, sum_rows, unpriced_actions

PRICES = Prices("a device", {"compute.mac": 10.0, "compute.ac": 3.0, "memory.levels.sram.read": np.array([1.0, 2.0])})
CHARGES = [
    ActionCount("mac_pj", "compute.mac", np.array([1.0, 0.0, 2.0])),
    ActionCount("ac_pj", "compute.ac", np.array([0.0, 5.0, 1.0])),
    ActionCount("neuron_pj", None, np.array([7.0, 7.0, 7.0]), "neuron updates"),
    ActionCount("mac_pj", "compute.ac", np.array([1.0, 1.0, 1.0])),
]


def test_amounts_times_prices_add_up_by_part_and_row() -> None:
    found = price_actions(CHARGES, PRICES, 3)
    assert list(found) == [*COMPUTE, *MEMORY] == list(BY_PART)
    assert found["mac_pj"].tolist() == [13, 3, 23]
    assert found["ac_pj"].tolist() == [0, 15, 3]
    assert not any(found[part].any() for part in found if part not in ("mac_pj", "ac_pj"))


def test_sums_go_into_the_columns_that_are_named() -> None:
    assert {k: v.tolist() for k, v in price_actions(CHARGES, PRICES, 3, BY_KIND).items()} == {
        "compute_pj": [13, 18, 26],
        "memory_pj": [0, 0, 0],
    }
    assert price_actions(CHARGES, PRICES, 3, TOTAL)["total_pj"].tolist() == [13, 18, 26]


def test_amounts_are_reduced_before_they_are_priced_at_many_prices() -> None:
    moved = [ActionCount("weights_pj", "memory.levels.sram.read", np.array([4.0, 6.0]))]
    assert price_actions(moved, PRICES, 2, TOTAL, sum_rows)["total_pj"].tolist() == [10, 20]


def test_samples_stay_apart_where_rows_are_added_up() -> None:
    charges = [ActionCount("mac_pj", "compute.mac", np.array([[1.0, 2.0], [3.0, 4.0]]))]
    assert price_actions(charges, PRICES, 2, BY_KIND, sum_rows)["compute_pj"].tolist() == [30, 70]


def test_what_has_no_price_is_listed_and_not_added() -> None:
    assert [charge.what for charge in unpriced_actions(CHARGES)] == ["neuron updates"]


def test_an_amount_that_is_not_known_stays_so() -> None:
    found = price_actions([ActionCount("mac_pj", "compute.mac", np.array([np.nan, 1.0]))], PRICES, 2)
    assert np.isnan(found["mac_pj"][0])
    assert found["mac_pj"][1] == 10


def test_a_price_that_is_not_there_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(HardwareError, match=r"a device has no number 'compute\.macs'; did you mean 'compute\.mac'\?"):
        price_actions([ActionCount("mac_pj", "compute.macs", np.ones(1))], PRICES, 1)


def test_prices_are_listed_and_looked_up_by_key() -> None:
    assert list(PRICES) == ["compute.mac", "compute.ac", "memory.levels.sram.read"]
    assert len(PRICES) == 3
    assert "compute.ac" in PRICES
    assert "compute.spike" not in PRICES
    assert (PRICES.get("compute.ac"), PRICES.get("compute.spike")) == (3.0, None)
    assert PRICES.scalar("compute.mac") == 10.0


def test_the_fields_of_charged_work_are_its_columns() -> None:
    own = {"op", "network_weights", "network_state_elements"}
    assert {field.name for field in dataclasses.fields(ChargedWork)} - own == set(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_rows_of_equal_geometry_are_put_together(
    make_counts: Callable[..., Counts], device: Callable[..., HardwareProfile]
) -> None:
    rows = [{"time_step": t, "sops": 10 + t, "dense_macs": 100, "input_elements": 8} for t in range(3)]
    other = {"layer": "second", "sops": 1, "dense_macs": 50, "input_elements": 4}
    counts, profile = make_counts([*rows, other], time_steps=3), device()
    work = charged_work(counts, profile, make_policies(profile))
    together = work.deduplicated()
    first, codes = work.group_equal_rows()
    assert first.tolist() == [0, 3]
    assert codes.tolist() == [0, 0, 0, 1]
    assert together.acs.tolist() == [33, 1]
    assert together.input_elements.tolist() == [8, 4]
    changed = work.with_columns([("acs", work.acs * 2)])
    assert changed.acs.tolist() == (2 * work.acs).tolist()
    assert changed.macs is work.macs
