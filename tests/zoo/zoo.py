"""All members of the zoo, in the order of the files that build them, and those that the profiler refuses."""

from __future__ import annotations

import importlib

from members import ZOO, Member

FILES = ("spikformers", "attention", "driven", "residual", "folded_time", "loops", "sequences")
# Member -> how the message begins, or the words that matter in it.
REFUSED: dict[str, str] = {}
ONE_WORD = {"spytorch", "spytorch_recurrent"}  # no module of theirs is a neuron or a layer: time= is named by a message
WRONG: dict[str, str] = {}


def members() -> tuple[Member, ...]:
    """Every network, once."""
    for name in FILES:
        importlib.import_module(name)
    return tuple(ZOO)
