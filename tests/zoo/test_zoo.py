"""Every network of the zoo, as it stands: found without declaration, and counted as brute force counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zoo
from members import Member, Size
from truth import ONCE, Truth, truth

import snn_energy as se
from snn_energy.core.errors import ProfilingError

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Size()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"


def counted_work(counts: se.Counts) -> dict[str, dict[int, tuple[int, int]]]:
    """SOPs and dense MACs per layer (products: per module that they are in) and time step."""
    frame = counts.to_frame()
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for row in frame[frame["op"].isin(("conv", "linear", "matmul"))].itertuples():
        of_layer = found.setdefault(str(row.layer).partition("#")[0], {})
        sops, dense = of_layer.get(row.time_step, (0, 0))
        of_layer[row.time_step] = (sops + row.sops, dense + row.dense_macs)
    return found


def in_total(of_steps: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    sops, dense = map(sum, zip(*of_steps.values(), strict=True))
    return {ONCE: (sops, dense)}


def differences(member: Member, counts: se.Counts, found: Truth) -> list[str]:
    """Where the counts and the oracle disagree, one line each."""
    work = counted_work(counts)
    said = [f"layers: {sorted(set(work) ^ set(found.work))}"] if set(work) != set(found.work) else []
    for name in set(work) & set(found.work):
        got = in_total(work[name]) if name in member.mixes_time else work[name]
        if got != found.work[name]:
            said.append(f"{name}: {got} for {dict(found.work[name])}")
    rows = counts.to_frame().query("op == 'neuron'")
    spikes: dict[str, Any] = {
        name: dict(zip(of_layer["time_step"], of_layer["spikes"], strict=True))
        for name, of_layer in rows.groupby("layer")
    }
    if spikes != found.fired:
        said.append(f"spikes: {spikes} for {dict(found.fired)}")
    neurons = dict(zip(rows["layer"], rows["neurons"], strict=True))
    if neurons != found.neurons:
        said.append(f"neurons: {neurons} for {found.neurons}")
    return said


def case(member: Member) -> Any:
    """A member; one that is refused or counted wrongly must go on to be, or its mark goes."""
    marks = []
    if member.name in zoo.REFUSED:
        marks = [pytest.mark.xfail(strict=True, raises=ProfilingError, reason=zoo.REFUSED[member.name])]
    if member.name in zoo.WRONG:
        marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=zoo.WRONG[member.name])]
    return pytest.param(member, marks=marks, id=member.name)


@pytest.mark.parametrize("member", [case(member) for member in zoo.members()])
def test_it_is_found_without_declaration_and_counted_as_by_brute_force(member: Member) -> None:
    model = member.at_rest(SMALL)
    found = truth(member, model, SMALL)
    if any(not sum(sops for sops, _ in steps.values()) for steps in found.work.values()):
        pytest.fail("a layer reads no spike: the network shows nothing")
    if any(not sum(steps.values()) for steps in found.fired.values()):
        pytest.fail("a neuron is silent: the network shows nothing")
    counts = se.profile(model, member.batches(SMALL), **member.told)
    assert counts.samples == 4
    assert differences(member, counts, found) == []


@pytest.mark.parametrize("member", [m for m in zoo.members() if m.name in zoo.ONE_WORD], ids=lambda m: m.name)
def test_one_word_that_the_message_gives_is_enough(member: Member) -> None:
    with pytest.raises(ProfilingError, match=f"--time {member.told['time']}$"):
        se.profile(member.at_rest(SMALL), member.batches(SMALL), time_steps=member.steps)


def test_a_network_of_every_repository_is_there_once() -> None:
    names = [member.name for member in zoo.members()]
    assert len(set(names)) == len(names)
    assert len({member.repository.partition(" ")[0] for member in zoo.members()}) >= 35
    assert set(zoo.REFUSED) | set(zoo.WRONG) <= set(names)
    assert all(set(member.told) <= {"time_steps"} or member.name in zoo.ONE_WORD for member in zoo.members())
    assert all(member.pattern for member in zoo.members())


def test_the_page_shows_every_network_and_no_other() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| --- ", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    shown = {name.strip(): (found, equal) for _, name, _, found, equal, *_ in (line.split("|") for line in table)}
    assert list(shown) == [member.name for member in zoo.members()]
    for name, (found, equal) in shown.items():
        assert found.strip().startswith("refused") == (name in zoo.REFUSED), name
        assert (equal.strip() == "no") == (name in zoo.WRONG), name
