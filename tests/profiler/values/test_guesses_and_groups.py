"""A guess changes nothing that a scan finds, and tensors that are scanned together have the sums of each alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from changing import MODES, Changing, followed_as_fresh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn_energy.core.errors import ProfilingError
from snn_energy.core.kinds import ZERO, ValueSet, normalised_set
from snn_energy.profiler.tracking import deferred_scans
from snn_energy.profiler.tracking.script import Script
from snn_energy.profiler.values import scan_group
from snn_energy.profiler.values.bounds import NOTHING, ValueBound
from snn_energy.profiler.values.scan import NonzeroSums, scan
from snn_energy.profiler.values.scan_cache import ScanCache, ScanRequest
from snn_energy.profiler.values.scan_group import Form, ScanGroup
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = (1.0, 0.5, 0.1, 0.3, 1 / 3, 2.0, 0.7, 1e-3, 3.0)
LEVELS = ([0, 1], [0, 2], [0, 1, 2], [0, -1, 1], [0, 2, 4, 6], [3, 5], [0, 1, 7], [0], [-2, 0], [0, 3], [-3, -1], [1])
SHAPE = (2, 3, 4)


def found_in(x: Tensor, guess: ValueSet, max_k: int) -> NonzeroSums | str:
    try:
        return scan(x, SHAPE if x.numel() else (2, 0, 4), NOTHING, max_k, "layer", False, guess=guess)[0]
    except ProfilingError as error:
        return str(error)


@st.composite
def tensors(draw: Any) -> Tensor:
    """Multiples of a unit, exact ones or nearly so; real values; some with one odd value, or none at all."""
    unit, levels = draw(st.sampled_from(UNITS)), draw(st.sampled_from(LEVELS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    k = torch.tensor(levels, dtype=torch.float32)[torch.randint(len(levels), (math.prod(SHAPE),), generator=generator)]
    x = k * unit
    form = draw(
        st.sampled_from(("exact", "exact", "exact", "ulp", "real", "odd", "nan", "inf", "-inf", "double", "empty"))
    )
    if form == "ulp":
        x[5] = torch.nextafter(x[5], torch.tensor(10.0))
    elif form == "real":
        x = torch.randn(x.shape, generator=generator)
    elif form == "odd":
        x[3] = draw(st.sampled_from((0.77, -1.0, 1e-9, 1e9, 0.2, 40.0, -0.0)))
    elif form in ("nan", "inf", "-inf"):
        x[7] = float(form)
    elif form == "double":
        return x.double()
    return x[:0] if form == "empty" else x


@settings(max_examples=400, deadline=None)
@given(x=tensors(), earlier=tensors(), max_k=st.sampled_from((4, 10, 100)))
def test_a_guess_finds_what_a_search_finds(x: Tensor, earlier: Tensor, max_k: int) -> None:
    before = found_in(earlier, ZERO, max_k)
    guesses = [before.values] if isinstance(before, NonzeroSums) and before.values is not None else []
    exact = [normalised_set(float(np.float32(unit)), levels) for unit in UNITS for levels in ([1], [1, 2], [2, 3])]
    expected = found_in(x, ZERO, max_k)
    for guess in [*guesses, *exact]:
        found = found_in(x, guess, max_k)
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected
            continue
        assert found.values == expected.values, guess
        assert torch.equal(found.nonzeros, expected.nonzeros)
        assert (found.levels is None) == (expected.levels is None), guess
        assert found.levels is None or expected.levels is None or torch.equal(found.levels, expected.levels)


def test_a_guess_is_used_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would show nothing."""
    from snn_energy.profiler.values import scan as module

    def never(*_: Any) -> Any:
        raise AssertionError("searched")

    monkeypatch.setattr(module, "observed_values", never)
    x = torch.tensor([0.0, 1.0, 2.0, -1.0] * 6) * 0.5
    found = found_in(x, ValueSet(0.5, frozenset({1, 3})), 4)
    assert isinstance(found, NonzeroSums)
    assert found.values == ValueSet(0.5, frozenset({-1, 1, 2}))
    binary = found_in(x.clamp(0, 0.5), ValueSet(0.5, frozenset({1})), 4)
    assert isinstance(binary, NonzeroSums)
    assert binary.values == ValueSet(0.5, frozenset({1}))
    for wrong in (ZERO, ValueSet(0.3, frozenset({1})), ValueSet(0.5, frozenset({1}), exact=False)):
        with pytest.raises(AssertionError, match="searched"):
            found_in(x, wrong, 4)


# ---- groups ----------------------------------------------------------------------------------------------------

BOUNDS = {
    "unknown": NOTHING,
    "spikes": ValueBound(1.0, 1, True),
    "sums": ValueBound(1.0, 3, True),
    "third": ValueBound(float(np.float32(1 / 3)), 1, True),
    "real": ValueBound(reason="an average"),
}  # fmt: skip


def member(bound: str, kind: int, generator: torch.Generator) -> Tensor:
    spikes = (torch.rand(SHAPE, generator=generator) < 0.4).float()
    if bound == "sums":
        return spikes * torch.randint(1, 4, SHAPE, generator=generator)
    if bound == "third":
        return spikes * float(np.float32(1 / 3))
    if bound == "real":
        return spikes * torch.rand(SHAPE, generator=generator)
    if bound == "spikes":
        return spikes
    return [spikes, spikes * 0, spikes * torch.randint(-2, 3, SHAPE, generator=generator), spikes * 2][kind]


def of_levels(sums: NonzeroSums) -> Tensor:
    unit = sums.values.unit if sums.values is not None else None
    return (sums.nonzeros if sums.levels is None else sums.levels) * (unit or 1.0)


@settings(max_examples=150, deadline=None)
@given(
    bound=st.sampled_from(list(BOUNDS)),
    kinds=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    kept=st.sampled_from((1, 24, 48, 100, 65536)),
    dim=st.integers(1, 2),
    turned=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.int32)),
    seed=st.integers(0, 10**6),
)
def test_tensors_scanned_together_have_the_sums_of_each_alone(
    bound: str, kinds: list[int], kept: int, dim: int, turned: bool, dtype: torch.dtype, seed: int
) -> None:
    if dtype == torch.int32 and bound in ("third", "real"):
        return
    generator = torch.Generator().manual_seed(seed)
    xs = [member(bound, kind, generator).to(dtype) for kind in kinds]
    if turned:
        xs = [x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in xs]
    trace = TensorTrace(TensorFacts((None, "B"), False, 0, np.ones(1, np.bool_), False, frozenset(), BOUNDS[bound]))
    request = ScanRequest((SHAPE, dim), True, "layer", "left", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_group, "MOST_KEPT", kept)
        scans, records = ScanCache(8, None), [Record() for _ in range(2 * len(xs))]
        group = ScanGroup.of(request, trace, Form(xs[0].shape, dtype, xs[0].device), len(xs))
        for index, x in enumerate(xs):
            group.add(x, [(2 * index, "left"), (2 * index + 1, "right")], records, scans)
            x.zero_()  # it has been copied
        group.flush(records, scans)
        assert not group.targets
    generator.manual_seed(seed)
    for index, kind in enumerate(kinds):
        alone = ScanCache(8, None).scan_uncached(member(bound, kind, generator).to(dtype), trace, request)
        together = records[2 * index].left
        assert together is not None
        assert records[2 * index + 1].right is together
        assert torch.equal(together.nonzeros, alone.nonzeros)
        assert torch.equal(of_levels(together), of_levels(alone))


def test_copies_of_a_pass_that_was_left_are_forgotten() -> None:
    x = torch.ones(SHAPE)
    trace = TensorTrace(TensorFacts((None, "B"), False, 0, np.ones(1, np.bool_), False, frozenset(), NOTHING))
    group = ScanGroup.of(ScanRequest((SHAPE, 1), True, "layer", "left", 0), trace, Form(x.shape, x.dtype, x.device), 2)
    group.add(x, [(0, "left")], [], ScanCache(8, None))
    Script([], [], [], [group]).begin_batch()
    records = [Record(), Record()]
    group.add(x * 0, [(1, "left")], records, ScanCache(8, None))
    group.flush(records, ScanCache(8, None))
    assert records[0].left is None
    assert records[1].left is not None
    assert not records[1].left.nonzeros.any()


class Record:
    left: NonzeroSums | None = None
    right: NonzeroSums | None = None


def looping(self: Any, x: Tensor) -> Tensor:
    """Spikes, sums of spikes, real values, integers and turned tensors in every step."""
    made = []
    for step in range(6):
        fired = (x[step] > 0.3).float()
        several = fired + (x[step] > 0.8).float() + (0 if step % 2 else fired)
        whole = (x[step] > 0.5).to(torch.int32).float()
        turned = fired.view(2, 2, 4).transpose(1, 2).reshape(2, 8)
        made.append(
            self.a(fired) + self.b(several * 0.5) + self.c(x[step]) + self.d(turned) + self.a2(fired) + whole[:, :3]
        )
    return torch.stack(made)


@pytest.mark.parametrize("mode", MODES, ids=MODES.values())
@pytest.mark.parametrize(
    "patched", [{}, {"MOST_KEPT": 40}, {"SMALL": 0}, {"FEWEST": 10**9}, {"FEWEST": 1, "MOST_KEPT": 16}]
)
def test_a_loop_over_time_counts_the_same_whatever_waits(
    patched: dict[str, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    defer = deferred_scans.ScanGroup.of
    monkeypatch.setattr(deferred_scans.ScanGroup, "of", lambda *given: groups.append(1) or defer(*given))
    for name, value in patched.items():
        for module in (scan_group, deferred_scans):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    def make() -> Changing:
        torch.manual_seed(0)
        return Changing(looping, **{name: nn.Linear(8, 3) for name in ("a", "b", "c", "d", "a2")})

    torch.manual_seed(1)
    batches = [(0, torch.randn(6, 2, 8)) for _ in range(4)]
    found = followed_as_fresh(monkeypatch, make, batches, mode, time_steps=6, time="axis0", max_k=8)
    assert found == 3
    assert bool(groups) == (patched.get("SMALL") != 0 and patched.get("FEWEST") != 10**9)
