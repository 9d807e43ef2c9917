"""Moves the rows of a tensor, its axes of time and samples, to the front."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import (
    SOME_SAMPLES,
    BatchShape,
    Roles,
    broadcast_roles,
    front_axes,
    is_complete,
    reshape_roles,
    split_merged,
    view_roles,
)

# Networks repeat the same operations on the same shapes.
cached_reshape_roles = functools.lru_cache(maxsize=4096)(reshape_roles)
cached_view_roles = functools.lru_cache(maxsize=4096)(view_roles)
cached_broadcast_roles = functools.lru_cache(maxsize=4096)(broadcast_roles)
split_merged_cached = functools.lru_cache(maxsize=4096)(split_merged)
_is_complete = functools.lru_cache(maxsize=4096)(is_complete)
_front_axes = functools.lru_cache(maxsize=4096)(front_axes)


def require_complete(shape: Sequence[int], roles: Roles, timed: bool, batch: BatchShape, where: str) -> None:
    """Raise ProfilingError if a tensor lacks its time or sample axis of a size above 1."""
    if SOME_SAMPLES in roles:
        raise ProfilingError(
            f"{where}: reads only the samples that a mask or an index selects, so its work cannot be told apart by "
            "sample; compute it for all samples and select the results with torch.where, or leave samples early in "
            "the caller and profile each exit on its own"
        )
    if not _is_complete(tuple(shape), roles, timed, batch):
        raise ProfilingError(
            f"{where}: cannot tell which axes hold time and samples (T={batch.time_steps}, "
            f"{batch.samples} samples); declare where time is with time=, or keep these axes apart"
        )


def in_front(x: Tensor, roles: Roles, timed: bool, batch: BatchShape) -> tuple[Tensor, int]:
    """A tensor with its axes of time and samples moved to the front, and the number of these axes.

    roles: without merged ones. Time stays where it is in a tensor that is not timed.
    """
    front = _front_axes(tuple(x.shape), roles, timed, batch)
    is_in_place = front == list(range(len(front)))
    return x if is_in_place else x.movedim(front, tuple(range(len(front)))), len(front)


def as_rows_first(x: Tensor, roles: Roles, timed: bool, batch: BatchShape, where: str) -> Tensor:
    """(R, ...) with time and samples in front; raises ProfilingError if they are unknown."""
    require_complete(x.shape, roles, timed, batch, where)
    sizes, split = split_merged_cached(tuple(x.shape), roles, batch)
    moved, count = in_front(x.reshape(sizes), split, timed, batch)
    return moved.reshape(batch.rows(timed), *moved.shape[count:])


def active_in_result(active: StepMask, out: Tensor, roles: Roles, timed: bool, batch: BatchShape) -> StepMask:
    """Steps in which the result of an element-wise operation is active: more than ``active`` where f(0) is not 0.

    ``active``: steps in which a source works; in all others the operation reads zeros.
    """
    if active.all():
        return active
    if not timed or batch.time_steps == 1:
        return active | bool(out.any())
    sizes, split = split_merged_cached(tuple(out.shape), roles, batch)
    if "R" in split:
        sizes = (*sizes[: split.index("R")], batch.time_steps, -1, *sizes[split.index("R") + 1 :])
    axis = next((i for i, role in enumerate(split) if role in ("T", "R")), None)
    if axis is None:  # time is not followed: refused where it is counted
        return active
    of_steps = out.reshape(sizes).movedim(axis, 0).flatten(1).any(1)
    return active | np.asarray(of_steps.tolist(), dtype=np.bool_)
