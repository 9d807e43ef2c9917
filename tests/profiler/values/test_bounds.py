"""The algebra of bounds: what is proven of sums, scales and products of spikes, against all values they can take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from snn_energy.profiler.values.bounds import (
    NOTHING,
    ValueBound,
    bound_of_product,
    bound_of_scale,
    bound_of_sum,
    spikes,
)


def values(bound: ValueBound) -> set[np.float32]:
    """All that a bound allows, as float32."""
    assert bound.unit is not None
    return {np.float32(k) * np.float32(bound.unit) for k in range(bound.max_k + 1)}


@pytest.mark.parametrize("amplitude", [1.0, 0.5, 2.0, 0.3])
def test_two_spikes_add_up_to_multiples_where_float32_is_exact(amplitude: float) -> None:
    one = spikes(amplitude)
    two = bound_of_sum(one, one)
    assert two.unit is not None
    assert (two.unit, two.max_k) == (one.unit, 2)
    three = bound_of_sum(two, one)
    is_power_of_two = np.log2(amplitude) % 1 == 0
    assert three.proven == is_power_of_two
    if three.proven:
        sums = {np.float32(sum(parts)) for parts in itertools.product(values(one), repeat=3)}
        assert sums <= values(three)


def test_amplitudes_that_differ_make_a_sum_real() -> None:
    found = bound_of_sum(spikes(1.0), spikes(0.5))
    assert found.unit is None
    assert found.reason == "residual sum of unequal spike amplitudes 1 and 0.5"
    assert bound_of_sum(found, spikes(1.0)).reason == found.reason


def test_a_sum_with_something_unknown_is_unknown() -> None:
    assert bound_of_sum(spikes(1.0), NOTHING) == NOTHING


@pytest.mark.parametrize(("factor", "unit"), [(0.5, 0.5), (2.0, 2.0), (0.125, 0.125)])
def test_a_scale_scales_the_unit(factor: float, unit: float) -> None:
    assert bound_of_scale(spikes(1.0), factor) == ValueBound(unit, 1, True)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_keeps_no_multiples_leaves_nothing(factor: float) -> None:
    assert bound_of_scale(spikes(1.0), factor).unit is None


def test_a_product_of_spikes_is_at_most_its_length() -> None:
    assert bound_of_product(spikes(1.0), spikes(0.5), 7) == ValueBound(0.5, 7, True)
    assert bound_of_product(spikes(1.0), NOTHING, 7) == NOTHING
