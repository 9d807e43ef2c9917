"""Notes: what is written is read back, part by part."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import snn_energy as se
from snn_energy.core.kinds import ValueSet, real_values, within
from snn_energy.counts.columns import INTEGRATES_ONLY_NOTE
from snn_energy.counts.counts import Counts
from snn_energy.counts.notes import (
    NATURES,
    ElementwiseNote,
    averaged_input,
    averaging_name,
    emission_note,
    folded_note,
    integrates_only,
    is_folded,
    is_not_plain_spiking,
    is_unfolded_norm,
    of_other_operand,
    operand_note,
    parse_elementwise,
    unfolded_norm_note,
)

ONE_OR_NONE, TERNARY = ValueSet(0.5, frozenset({1})), ValueSet(0.5, frozenset({-1, 1}))


def up_to(k: int) -> ValueSet:
    """Whole multiples of a half."""
    return ValueSet(0.5, frozenset(range(1, k + 1)))


ROOT = Path(__file__).resolve().parents[2]
NAMES = ("max_pool2d", "avg_pool2d", "adaptive_max_pool2d (average)", "add", "mul", "mean", "cumsum", "gt", "")


@pytest.mark.parametrize(
    ("name", "nature", "weighted"), list(itertools.product(NAMES, (None, *NATURES), (False, True)))
)
def test_what_is_written_is_read_back(name: str, nature: str | None, weighted: bool) -> None:
    note = ElementwiseNote(name, nature, weighted)
    assert parse_elementwise(note.text) == note


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("avg_pool2d of spikes before weights", ElementwiseNote("avg_pool2d", "spikes", True)),
        ("max_pool2d of sums of spikes", ElementwiseNote("max_pool2d", "sums of spikes")),
        ("add of the network's input", ElementwiseNote("add", "the network's input")),
        ("mean before weights", ElementwiseNote("mean", None, True)),
        ("sum of squares", ElementwiseNote("sum of squares")),
        ("", ElementwiseNote("")),
        ("two\nlines", ElementwiseNote("two\nlines")),
    ],
)
def test_the_texts_are_those_of_files(text: str, note: ElementwiseNote) -> None:
    assert parse_elementwise(text) == note
    assert note.text == text


def test_every_note_of_the_shipped_counts_is_read_and_written_alike() -> None:
    notes = {
        note
        for file in sorted(ROOT.glob("reports/*/*-2-*.json"))
        for note in se.load_counts(file).rows["note"].astype(str)
    }
    assert len(notes) > 5
    assert {parse_elementwise(note).text for note in notes} == notes


def test_functions_that_average_say_so() -> None:
    assert [averaging_name(n) for n in ("avg_pool2d", "mean", "interpolate")] == [
        "avg_pool2d",
        "mean",
        "interpolate (average)",
    ]
    is_averaging = ("avg_pool2d", "interpolate (average)", "lp_pool2d", "upsample_bilinear")
    assert all(ElementwiseNote(name).is_averaging for name in is_averaging)
    assert not any(ElementwiseNote(name).is_averaging for name in ("max_pool2d", "interpolate", "upsample_nearest"))


def test_norms_say_why_they_do_not_fold() -> None:
    assert unfolded_norm_note("batch_norm", "behind pool (max_pool2d)") == "batch_norm: behind pool (max_pool2d)"
    assert is_unfolded_norm(unfolded_norm_note("batch_norm", "of the network's input"))
    assert not is_unfolded_norm("batch_norm")


def test_what_folds_says_where() -> None:
    assert folded_note("sps.conv0") == "folds into sps.conv0"
    assert is_folded(folded_note("its readers"))
    assert not is_folded("batch_norm: conv0 has other readers")


def test_a_read_out_is_told_from_a_spiking_neuron(make_counts: Callable[..., Counts]) -> None:
    assert integrates_only(INTEGRATES_ONLY_NOTE)
    assert not any(integrates_only(note) for note in ("", emission_note(TERNARY)))
    neuron = {"op": "neuron", "neurons": 2, "membrane_reads": 2, "membrane_writes": 2, "input_kind": None}
    rows = [neuron | {"layer": "lif"}, neuron | {"layer": "read-out", "note": INTEGRATES_ONLY_NOTE}]
    assert make_counts(rows).spiking_layers()["layer"].tolist() == ["lif"]


def test_neurons_that_give_more_than_single_spikes_say_so() -> None:
    assert emission_note(up_to(3)) == "emits up to 3 spikes per step; spikes counts the neurons that fired"
    assert emission_note(ONE_OR_NONE) == ""
    assert emission_note(TERNARY) == "emits ternary values; spikes counts those that are not zero"
    assert all(
        is_not_plain_spiking(note)
        for note in (INTEGRATES_ONLY_NOTE, emission_note(up_to(2)), emission_note(real_values("real")))
    )
    assert not is_not_plain_spiking("")


def test_values_that_are_real_only_because_of_max_k_say_how_large_they_are_and_what_to_do() -> None:
    text = "whole multiples of one constant up to 12, beyond max_k 10: --max-k 12 makes them integer"
    assert operand_note(within(up_to(12), 10), None) == text
    assert operand_note(ONE_OR_NONE, within(up_to(12), 10)) == f"other operand: {text}"
    assert of_other_operand(f"average of spikes (mean); other operand: {text}") == f"other operand: {text}"
    assert emission_note(within(up_to(12), 10)) == f"emits {text}; spikes counts those that are not zero"
    for limit in (12, 255):
        assert operand_note(within(up_to(12), limit), within(up_to(12), limit)) == ""
        assert of_other_operand("") == ""


def test_what_was_averaged_before_weights() -> None:
    assert averaged_input("average of spikes (avg_pool2d)") == "spikes"
    assert averaged_input("average (mean)") == "unknown values"
    assert averaged_input("declared real") is None
