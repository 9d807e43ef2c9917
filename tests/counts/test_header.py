"""The typed view of a header."""

from __future__ import annotations

from snn_energy.counts.header import Header
from snn_energy.counts.load import load_counts


def test_a_key_that_is_not_there_has_its_default() -> None:
    head = Header({"model": "net", "samples": 3, "time_steps": 4})
    assert (head.model, head.samples, head.time_steps) == ("net", 3, 4)
    assert (head.accuracy, head.file, head.weights, head.cycles, list(head.accesses)) == (None, None, None, None, [])
    assert head.by_layer
    assert not head.published


def test_published_totals_say_what_they_are() -> None:
    counts = load_counts("published:energy-arithmetic:spikformer-8-384")
    assert counts.typed_header.published
    assert not counts.typed_header.by_layer
    assert counts.typed_header.entries is counts.header


def test_accesses_and_cycles_of_a_source_are_read_as_it_gives_them() -> None:
    accesses = [{"level": "dram", "name": "weights", "action": "reads", "count": 5.0}]
    head = Header({"model": "net", "samples": 1, "time_steps": 1, "accesses": accesses, "cycles": 7})
    assert [(a["level"], a["action"], a["count"]) for a in head.accesses] == [("dram", "reads", 5.0)]
    assert head.cycles == 7.0
