"""Which time steps of an operation an active and needed reader reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

StepMask = npt.NDArray[np.bool_]  # (T,) one flag per time step


@dataclass(frozen=True)
class Node:
    """The properties of one recorded operation that determine its needed steps.

    ``when`` is None (timed: all T steps at once), a step number, or -1 (once per inference). ``active`` has one flag
    per covered step: (T,) if timed, else (1,). ``inputs`` are indices of earlier nodes.
    """

    name: str
    is_neuron: bool
    when: int | None  # None: timed
    active: StepMask
    inputs: frozenset[int]


def needed_steps(nodes: Sequence[Node], outputs: frozenset[int], time_steps: int) -> list[StepMask]:
    """For every node the steps whose result an active and needed reader reads (design, section 4).

    The network's own outputs are needed. A neuron at t is needed if its output is needed at any t' >= t, because
    its state carries over; this also holds across several nodes of one name, one per step.
    """
    wanted = [np.zeros(time_steps if node.when is None else 1, dtype=np.bool_) for node in nodes]
    for index in outputs:
        wanted[index][:] = True
    later: dict[str, bool] = {}
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        if node.is_neuron:
            wanted[index] = np.logical_or.accumulate(wanted[index][::-1])[::-1] | later.get(node.name, False)
            later[node.name] = later.get(node.name, False) or bool(wanted[index].any())
        working = node.active & wanted[index]
        for source in node.inputs:
            wanted[source] = wanted[source] | _read_steps(nodes[source].when, node.when, working, time_steps)
    return wanted


def _read_steps(source_when: int | None, reader_when: int | None, working: StepMask, time_steps: int) -> StepMask:
    """Which steps of a source a reader reads, given the steps in which the reader is active and needed."""
    if source_when is None and reader_when is not None and reader_when >= 0:
        read = np.zeros(time_steps, dtype=np.bool_)
        read[reader_when] = working.any()
        return read
    if source_when is None and reader_when is None:
        return working
    return np.array([bool(working.any())])
