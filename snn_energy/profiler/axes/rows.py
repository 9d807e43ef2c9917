"""Moves the rows of a tensor, its axes of time and samples, to the front."""

from __future__ import annotations

import functools

import numpy as np
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.needed_steps import StepMask
from snn_energy.profiler.axes.roles import (
    BatchShape,
    Roles,
    broadcast_roles,
    is_complete,
    reshape_roles,
    role_positions,
    split_merged,
    view_roles,
)

# Networks repeat the same operations on the same shapes.
cached_reshape_roles = functools.lru_cache(maxsize=4096)(reshape_roles)
cached_view_roles = functools.lru_cache(maxsize=4096)(view_roles)
cached_broadcast_roles = functools.lru_cache(maxsize=4096)(broadcast_roles)
_split_merged = functools.lru_cache(maxsize=4096)(split_merged)
_is_complete = functools.lru_cache(maxsize=4096)(is_complete)


def require_complete(roles: Roles, timed: bool, batch: BatchShape, where: str) -> None:
    """Raise ProfilingError if a tensor lacks its time or sample axis of a size above 1."""
    if not _is_complete(roles, timed, batch):
        raise ProfilingError(
            f"{where}: cannot tell which axes hold time and samples (T={batch.time_steps}, "
            f"{batch.samples} samples); declare where time is with time=, or keep these axes apart"
        )


def in_front(x: Tensor, roles: Roles) -> tuple[Tensor, int]:
    """A tensor with its axes of time and samples moved to the front, and the number of these axes."""
    positions = role_positions(roles)
    front = [positions[r] for r in ("R", "T", "B") if r in positions]
    in_place = front == list(range(len(front)))
    return x if in_place else x.movedim(front, tuple(range(len(front)))), len(front)


def batch_in_front(x: Tensor, roles: Roles, batch: BatchShape) -> Tensor:
    """A stack of matrices (..., P, Q) with time and samples first among its batch axes; merged axes are split.

    roles: of the batch axes.
    """
    sizes, split = _split_merged(x.shape[:-2], roles, batch)
    return in_front(x.reshape(*sizes, *x.shape[-2:]), split)[0]


def as_rows_first(x: Tensor, roles: Roles, timed: bool, batch: BatchShape, where: str) -> Tensor:
    """(R, ...) with time and samples in front; raises ProfilingError if they are unknown."""
    require_complete(roles, timed, batch, where)
    sizes, split = _split_merged(x.shape, roles, batch)
    moved, count = in_front(x.reshape(sizes), split)
    return moved.reshape(batch.rows(timed), *moved.shape[count:])


def active_in_result(active: StepMask, out: Tensor, roles: Roles, timed: bool, batch: BatchShape) -> StepMask:
    """Steps in which the result of an element-wise operation is active: more than ``active`` where f(0) is not 0.

    ``active``: steps in which a source works; in all others the operation reads zeros.
    """
    if active.all():
        return active
    if not timed or batch.time_steps == 1:
        return active | bool(out.any())
    sizes, split = _split_merged(out.shape, roles, batch)
    if "R" in split:
        sizes = (*sizes[: split.index("R")], batch.time_steps, -1, *sizes[split.index("R") + 1 :])
    axis = next((i for i, role in enumerate(split) if role in ("T", "R")), None)
    if axis is None:  # time is not followed: refused where it is counted
        return active
    of_steps = out.reshape(sizes).movedim(axis, 0).flatten(1).any(1)
    return active | np.asarray(of_steps.tolist(), dtype=np.bool_)
