"""Smaller descriptions that still fail: nodes, steps, batches and options are taken away, until nothing more can be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator

from describe import Description

PLAINER = {
    "dtype": "float32", "channels_last": False, "no_grad": "no_grad", "readout": "steps", "weights": "few bits",
    "name_neurons": True, "tells_time": True,
}  # fmt: skip


def shrunk(made: Description, fails: Callable[[Description], bool], most: int = 300) -> Description:
    """The smallest description found in so many trials for which ``fails`` is still true."""
    trials = 0
    while trials < most:
        for smaller in candidates(made):
            trials += 1
            if fails(smaller):
                made = smaller
                break
            if trials >= most:
                break
        else:
            break
    return made


def candidates(made: Description) -> Iterator[Description]:
    """Descriptions with one thing less, the largest steps first."""
    for end in range(1, len(made["nodes"])):
        yield from _checked(cut(made, end))
    for number in reversed(range(len(made["nodes"]))):
        yield from _checked(without(made, number))
    if len(made["batches"]) > 1:
        yield {**made, "batches": made["batches"][:1]}
        yield {**made, "batches": made["batches"][1:]}
    if max(made["batches"]) > 1:
        yield {**made, "batches": [1] * len(made["batches"])}
    if made["time_steps"] > 1:
        yield with_steps(made, made["time_steps"] - 1)
    if "head" in made:
        yield {key: value for key, value in made.items() if key != "head"}
    for key, plain in PLAINER.items():
        if made[key] != plain and not (key == "readout" and "head" in made):
            yield {**made, key: plain}


def _checked(made: Description | None) -> Iterator[Description]:
    if made is not None and made["nodes"]:
        yield made


def shape_of(made: Description, number: int) -> list[int]:
    shape: list[int] = made["shape"] if number < 0 else made["nodes"][number]["out"]
    return shape


def cut(made: Description, end: int) -> Description | None:
    """The first nodes alone."""
    smaller = copy.deepcopy(made)
    smaller["nodes"] = smaller["nodes"][:end]
    if "head" in smaller and len(shape_of(smaller, end - 1)) > 2:
        del smaller["head"]
    return smaller


def without(made: Description, number: int) -> Description | None:
    """A node skipped: its readers read what it read, if that has the same shape; None if it has not."""
    node = made["nodes"][number]
    if any(other.get("of") == number for other in made["nodes"]):
        return None
    source = next((j for j in node["in"] if shape_of(made, j) == node["out"]), None)
    is_read = any(number in other["in"] for other in made["nodes"][number + 1 :]) or number == len(made["nodes"]) - 1
    if source is None and is_read:
        return None
    smaller = copy.deepcopy(made)
    del smaller["nodes"][number]

    def moved(j: int) -> int:
        if j == number:
            assert source is not None
            return source
        return j - 1 if j > number else j

    for other in smaller["nodes"]:
        other["in"] = [moved(j) for j in other["in"]]
        if "of" in other:
            other["of"] = moved(other["of"])
    return smaller


def with_steps(made: Description, steps: int) -> Description:
    """Fewer time steps."""
    smaller = copy.deepcopy(made)
    smaller["time_steps"] = steps
    for node in smaller["nodes"]:
        if "mask" in node:
            node["mask"] = min(node["mask"], steps)
    return smaller


def as_text(made: Description) -> str:
    """A description in a few lines."""
    rest = {key: value for key, value in made.items() if key != "nodes"}
    nodes = [f"    {number}: {json.dumps(node)}" for number, node in enumerate(made["nodes"])]
    return "\n".join([f"  {json.dumps(rest)}", *nodes])
