"""Profiles a described network and compares every row with what must be there."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import expected
import network
import numpy as np
import pandas as pd
import torch
import values
from describe import Description
from torch import Tensor

import snn_energy as se
from snn_energy.core.errors import ProfilingError

LARGEST = 2.0**16
COUNTED = ("conv", "linear", "matmul", "neuron")


class OracleError(AssertionError):
    """The description is not what was built: the test itself is wrong."""


def faults(made: Description) -> list[str]:
    """What the profile of a network says that is not so; none if it is all right, or refused where it may be."""
    batches = network.data(made)
    seen = observed(made, batches)
    wanted = expected.expect(made, seen)
    try:
        counts = profiled(made, batches)
    except ProfilingError as error:
        may_be = not made["tells_time"] or (made["family"].startswith("hand") and not made["name_neurons"])
        return [] if may_be else [f"refused: {error}"]
    return differences(made, counts, wanted)


def observed(made: Description, batches: list[Tensor]) -> list[Tensor]:
    """(T, N, ...) of all nodes over all batches, held against the equations."""
    model, runs = network.Network(made), []
    for x in batches:
        runs.append(network.observe(made, model, x))
        check_values(made, x, runs[-1])
    return [torch.cat(parts, 1) for parts in zip(*runs, strict=True)]


def check_values(made: Description, x: Tensor, seen: list[Tensor]) -> None:
    """Raise OracleError where the network does not compute what its description says (rounding aside)."""
    given = x.to(getattr(torch, made["dtype"])).to(torch.float64)
    truth, margin = values.evaluate(made, given)
    if made["dtype"] == "bfloat16" or margin < 1e-4:
        return
    for i, (a, b) in enumerate(zip(seen, truth, strict=True)):
        if float(b.abs().max()) > LARGEST:
            return  # differences of numbers as large as this are rounding
        allowed = 1e-4 * max(1.0, float(b.abs().max()))
        if a.shape != b.shape or not torch.allclose(a.to(torch.float64), b, rtol=1e-4, atol=allowed):
            raise OracleError(f"node {i - 1} of seed {made['seed']} is not what its description says")


@contextlib.contextmanager
def without_gradients(made: Description) -> Iterator[None]:
    kinds = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "none": contextlib.nullcontext}
    with kinds[made["no_grad"]]():
        yield


def profiled(made: Description, batches: list[Tensor]) -> se.Counts:
    """The counts; warnings are errors but for those of frameworks."""
    model = network.Network(made)
    given = [network.as_given(made, x) for x in batches]
    options: dict[str, Any] = {"max_k": made["max_k"], "time_steps": made["time_steps"]}
    if made["tells_time"] and network.time_mode(made) is not None:
        options["time"] = network.time_mode(made)
    if made["name_neurons"]:
        options["neurons"] = [f"n{i}" for i, node in enumerate(made["nodes"]) if node["op"] == "lif"]
    with warnings.catch_warnings(), without_gradients(made):
        warnings.simplefilter("ignore")
        return se.profile(model, given, **options)


def as_said(made: Description, counts: se.Counts, wanted: expected.Expected) -> None:
    """The head behind the last step alone is work of that step, or done once: the contract allows both."""
    last = ("head", "linear", made["time_steps"] - 1)
    has_step = ((counts.rows["layer"] == "head") & (counts.rows["time_step"] >= 0)).any()
    if made["readout"] == "last" and last in wanted.rows and not has_step:
        wanted.rows["head", "linear", -1] = wanted.rows.pop(last)


def differences(made: Description, counts: se.Counts, wanted: expected.Expected) -> list[str]:
    """One line per value that is not as it must be."""
    found: list[str] = []
    as_said(made, counts, wanted)
    frame, per_sample = counts.rows, counts.per_sample
    assert per_sample is not None
    rows = frame[frame["op"].isin(COUNTED)]
    keys = list(zip(rows["layer"], rows["op"], rows["time_step"].astype(int), strict=True))
    if len(set(keys)) != len(keys):
        found.append(f"rows that occur twice: {sorted({key for key in keys if keys.count(key) > 1})}")
    is_found = all(key in keys for key in wanted.rows if key[1] == "neuron")
    may_miss = made["family"].startswith("hand") and not made["name_neurons"]
    found += [f"missing row {key}" for key in wanted.rows if key not in keys and not (may_miss and key[1] == "neuron")]
    found += [f"row that should not be: {key}" for key in keys if key not in wanted.rows]
    for number, key in zip(rows.index, keys, strict=True):
        if key not in wanted.rows:
            continue
        want, row = wanted.rows[key], rows.loc[number]
        for name, value in want.columns.items():
            got = None if pd.isna(row[name]) else row[name]
            if got != value:
                found.append(f"{key} {name}: {got}, must be {value}")
        for name, of_samples in want.per_sample.items():
            if not np.array_equal(per_sample[name][number], of_samples):
                found.append(
                    f"{key} {name} of samples: {per_sample[name][number].tolist()}, must be {of_samples.tolist()}"
                )
    if not is_found:
        return found  # a neuron that is not found counts as its operations
    rest = frame[~frame["op"].isin(COUNTED)]
    work: dict[tuple[str, int], int] = {}
    for op, step, ops in zip(rest["op"], rest["time_step"], rest["elementwise_ops"], strict=True):
        if pd.isna(ops) or ops:
            work[op, int(step)] = work.get((op, int(step)), 0) + (10**9 if pd.isna(ops) else int(ops))
    for key in sorted({*work, *wanted.elementwise}):
        if work.get(key, 0) != wanted.elementwise.get(key, 0):
            found.append(f"element-wise {key}: {work.get(key, 0)}, must be {wanted.elementwise.get(key, 0)}")
    return found
