"""The table of frameworks in docs/your-network.md: what works, written by the tests that ran: a pytest plugin.

``make frameworks`` runs the tests that the rows name and writes reports/frameworks/table.md. A row is answered by its
tests alone: its answer where every one of them passed, "not run" or "fails" otherwise.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).resolve().parents[2] / "reports" / "frameworks" / "table.md"
FILES = (
    "profiler/test_frameworks.py",
    "profiler/test_inspection.py",
    "checkpoints/test_nir.py",
    "models/test_public_spikformer.py",
    "checkpoints/test_real_checkpoints.py",
)
COUNTS = "test_its_counts_are_those_of_plain_hooks"
SHIPPED = "test_networks_that_spikingjelly_ships"
RECURRENT = "test_recurrent_weights_within_a_neuron_are_counted"


class Row(NamedTuple):
    """framework, what is asked, the answer, and the beginnings of the names of the tests that give it."""

    framework: str
    what: str
    answer: str
    tests: tuple[str, ...]


REFUSED = "refused, in one line"
OVER_TIME = "its product over time, and what reads its result, at step -1; no neuron row"
YES, AS_OPERATIONS = "yes", "weights counted; the neuron as its operations"
ROWS = (
    Row("SpikingJelly", "single-step (IF, LIF, PLIF; hard and soft reset)", YES,
        (f"{COUNTS}[sj if conv, call", f"{COUNTS}[sj lif", f"{COUNTS}[sj plif", f"{COUNTS}[sj loop")),
    Row("SpikingJelly", "multi-step, containers, `repeat` inside", YES,
        (f"{COUNTS}[sj if conv, multi-step", f"{COUNTS}[sj containers", f"{COUNTS}[sj inside")),
    Row("SpikingJelly", "ternary, integer and real outputs told apart", YES,
        (f"{COUNTS}[sj ternary", f"{COUNTS}[sj integer", f"{COUNTS}[sj surrogate")),
    Row("SpikingJelly", "its ResNet, SEW-ResNet, VGG, Spikformer, spike-driven transformer", YES,
        (SHIPPED, "test_the_products_of_a_spikformer")),
    Row("SpikingJelly", "potential read-outs (NonSpiking nodes)", YES, ("test_a_read_out_",)),
    Row("SpikingJelly", "PSN (weights over time steps)", OVER_TIME, ("test_a_node_that_mixes_time_steps",)),
    Row("SpikingJelly 0.0.0.0.14", "`clock_driven` and `activation_based`, single- and multi-step", YES,
        ("test_spikingjelly_0_0_0_0_14", "test_the_same_spikes_as_the_clock_driven")),
    Row("snnTorch", "Leaky, Synaptic, Alpha, Lapicque; hidden state or in a loop; every reset", YES,
        (f"{COUNTS}[snntorch leaky", f"{COUNTS}[snntorch synaptic", f"{COUNTS}[snntorch alpha",
         f"{COUNTS}[snntorch lapicque", f"{COUNTS}[snntorch conv")),
    Row("snnTorch", "graded spikes, soft spikes by their values", YES,
        (f"{COUNTS}[snntorch graded", f"{COUNTS}[snntorch sigmoid")),
    Row("snnTorch", "RLeaky, RSynaptic with recurrent layers", AS_OPERATIONS, (f"{RECURRENT}[R",)),
    Row("sinabs", "IAF, LIF, ALIF, squeezed or (B, T, ...); several spikes a step", YES,
        (f"{COUNTS}[sinabs iaf", f"{COUNTS}[sinabs lif", f"{COUNTS}[sinabs alif", f"{COUNTS}[sinabs squeezed")),
    Row("sinabs", "`from_model` conversion, ExpLeak", YES, (f"{COUNTS}[sinabs converted", f"{COUNTS}[sinabs leak")),
    Row("sinabs", "recurrent layers", AS_OPERATIONS, (f"{RECURRENT}[L",)),
    Row("Norse", "cells, sequences, Lift, SequentialState, LI", YES, (f"{COUNTS}[norse",)),
    Row("Norse", "a state that is not handed on", REFUSED, ("test_a_norse_network_that_forgets",)),
    Row("Norse", "recurrent cells", AS_OPERATIONS, ("test_the_recurrent_weights_of_norse",)),
    Row("NIR", "all primitives, nested and recurrent graphs; sinabs's spikes on the real file", YES,
        ("test_a_neuron_follows_its_equation", "test_a_graph_within_a_graph_is", "test_a_cycle_brings",
         "test_sinabs_runs_the_real_network", "test_the_real_network_accumulates")),
    Row("written by hand", "state in an attribute, buffer or argument; step by step or over all steps", YES,
        ("test_a_neuron_nobody_knows", "test_a_neuron_that_runs", "test_a_cell_that_is_handed",
         "test_a_neuron_that_is_silent")),
    Row("written by hand", "named by class, dotted name or layer", YES, ("test_a_neuron_is_named_by",)),
    Row("all", "no counts depend on batches or on a state left over", YES,
        ("test_it_does_not_depend_on_how_samples", "test_a_state_left_over_does_not_leak")),
    Row("all", "time declared where it is not", REFUSED, ("test_time_declared_where_it_is_not",)),
)  # fmt: skip
PACKAGES = {"SpikingJelly": "spikingjelly", "snnTorch": "snntorch", "sinabs": "sinabs", "Norse": "norse"}

outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Remember how every test ended."""
    name = report.nodeid.rpartition("::")[2]
    if report.when == "call" or report.outcome != "passed":
        outcomes[name] = report.outcome


def answer(row: Row) -> tuple[str, int]:
    """What the tests of a row say, and how many of them passed."""
    found = [outcomes[name] for test in row.tests for name in outcomes if name.startswith(test)]
    empty = any(not any(name.startswith(test) for name in outcomes) for test in row.tests)
    if empty or "skipped" in found:
        return "not run", found.count("passed")
    return row.answer if set(found) == {"passed"} else "fails", found.count("passed")


def table() -> str:
    """The table as Markdown."""
    lines = ["| framework | what | works | tests |", "| --- | --- | --- | ---: |"]
    for row in ROWS:
        package = PACKAGES.get(row.framework)
        version = f" {importlib.metadata.version(package)}" if package else ""
        said, count = answer(row)
        lines.append(f"| {row.framework}{version} | {row.what} | {said} | {count} |")
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session: Any) -> None:
    """Write the table."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(table(), encoding="utf-8")
