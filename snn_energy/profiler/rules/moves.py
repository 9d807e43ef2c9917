"""Functions that move or relabel data without computing: they cost nothing, and traces are carried along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_energy.profiler.axes.roles import (
    PART_OF_TIME,
    SOME_SAMPLES,
    BatchShape,
    CompositeAxis,
    Role,
    Roles,
    has_atom,
    input_roles,
    joined_role,
    merge,
    role_positions,
    split_axis,
    stacked_role,
)
from snn_energy.profiler.axes.rows import cached_reshape_roles, cached_view_roles
from snn_energy.profiler.rules.records import any_active
from snn_energy.profiler.rules.registry import BatchContext, Call, RuleEntry, register, rule
from snn_energy.profiler.rules.unknown import unsupported
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import NOTHING, ValueBound, bound_of_choice, bound_of_union
from snn_energy.profiler.values.scan_cache import ScanCache
from snn_energy.profiler.values.traces import ScanResults, TensorFacts, TensorTrace

# Queries about a tensor, and functions that create tensors without its values.
QUESTIONS = """size dim ndimension numel nelement stride storage_offset is_contiguous is_floating_point is_complex shape
    dtype device layout ndim grad grad_fn is_leaf is_cuda is_sparse is_quantized is_inference
    is_signed element_size get_device is_same_size zeros_like ones_like empty_like full_like rand_like randn_like
    randint_like new_zeros new_ones new_empty new_full new_tensor result_type len format repr str hash is_nonzero
    is_pinned is_shared names version sym_size itemsize nbytes untyped_storage retains_grad output_nr
    can_cast get_buffer is_conj is_neg is_tensor is_storage"""
register(str.split(QUESTIONS), RuleEntry())


@rule("numpy array dlpack data_ptr item tolist storage share_memory", writes=True)
def escape(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Code outside torch may change the values: what is known of the tensor's storage is discarded."""
    return Outcome(written=[(x, None) for x, _ in call.inputs])


@rule(
    """reshape view flatten unflatten unsqueeze squeeze contiguous clone detach reshape_as view_as ravel alias
    lift_fresh unsafe_view requires_grad data identity""",
    "to float half bfloat16 double int long short char byte bool type type_as cpu cuda copy_to",
)
def reshape(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Row-major order is kept; a change of dtype keeps the bound if it is still proven."""
    x, trace = call.inputs[0]
    return Outcome(traces=[(call.out, reshaped(x, trace, call.out, context.shape))])


@rule("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout")
def dropout(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """No operation in eval mode; an active dropout is unsupported: what it leaves differs from run to run."""
    given = {**call.bound("input", "p", "training"), **call.kwargs}
    is_active = given.get("training", given.get("train", call.name in _ACTIVE_BY_DEFAULT))
    if not is_active or given.get("p", 0.5) == 0:
        return reshape(call, context, scans)
    outcome = unsupported(call, context)
    assert outcome.record is not None
    outcome.record.note = f"{call.name} with training=True, which is random"
    return outcome._replace(written=outcome.traces) if call.out is call.inputs[0][0] else outcome


_ACTIVE_BY_DEFAULT = frozenset(("dropout", "dropout1d", "dropout2d", "dropout3d"))  # where ``training`` is left out


def reshaped(x: Tensor, trace: TensorTrace, out: Tensor, batch: BatchShape) -> TensorTrace:
    """The trace of ``out``, which holds the values of ``x`` in the same row-major order."""
    roles = trace.roles
    if out.shape != x.shape:
        roles = cached_reshape_roles(x.shape, trace.roles, out.shape, batch)
    bound, scans = trace.bound, trace.scans
    if out.data_ptr() != x.data_ptr() and not (x.is_contiguous() and out.is_contiguous()):
        scans = ScanResults()
    if out.dtype != x.dtype:
        scans = ScanResults()
        if out.dtype == torch.bool:
            bound = ValueBound(1.0, 1, True)
        elif not (bound.unit == 1 and out.dtype.is_floating_point):
            bound = replace(bound, unit=None, proven=False)
    return trace.replace(roles=roles, bound=bound, scans=scans)


@rule(
    """permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint split split_with_sizes chunk
    unbind slice index index_select gather take take_along_dim masked_select
    roll flip rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d circular_pad pixel_shuffle pixel_unshuffle channel_shuffle unfold im2col
    diagonal diag_embed tril triu meshgrid as_strided unsafe_split unsafe_chunk broadcast_tensors atleast_1d
    atleast_2d atleast_3d to_copy resolve_conj resolve_neg real"""
)
def move(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Other views and copies: values are moved, repeated or left out, none is computed."""
    x, trace = call.inputs[0]
    storage = x.untyped_storage()._cdata
    padded_with = call.bound("input", "pad", "mode", "value").get("value")
    is_joined = call.name in ("pad", "constant_pad_nd") and padded_with
    bound = ValueBound(is_computed=trace.bound.is_computed) if is_joined else trace.bound
    moved = []
    for out in call.outputs:
        if out.untyped_storage()._cdata == storage:
            kept = trace.scans if out.data_ptr() == x.data_ptr() else ScanResults()
            moved.append((out, viewed(x, trace, out, context.shape).replace(bound=bound, scans=kept)))
        else:
            roles = _copied_roles(call, x, trace, out, context.shape)
            moves_steps = call.name in ("roll", "flip") and trace.timed
            active = np.full_like(trace.active, trace.active.any()) if moves_steps else trace.active
            is_padded = trace.is_padded or call.name in _WITH_CONSTANTS
            copied = trace.replace(roles=roles, bound=bound, is_padded=is_padded, active=active)
            copied = copied.replace(active=np.ones_like(trace.active)) if padded_with else copied
            moved.append((out, copied.replace(scans=ScanResults())))
    return Outcome(traces=moved)


@rule("getitem select narrow tensor_split", constants_matter=True)
def part(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """A part of a tensor, at a place that a tensor of one element may give."""
    return move(call, context, scans)


_WITH_CONSTANTS = frozenset(("pad", "constant_pad_nd", "diag_embed", "tril", "triu", "unfold", "im2col"))


@rule("copy setitem fill zero set", writes=True)
def move_or_write(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """x.copy_(y) and similar functions write in place; without the underscore they return a copy."""
    return _written(call, context) if call.in_place else move(call, context, scans)


@rule("repeat_heads")
def repeat_heads(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """Grouped-query attention: every key and value head serves several query heads."""
    _, trace = call.inputs[0]
    return Outcome(traces=[(call.out, trace.replace(scans=ScanResults()))])


def viewed(x: Tensor, trace: TensorTrace, out: Tensor, batch: BatchShape) -> TensorTrace:
    """The trace of a view of the same memory, with its time step if it holds a single one."""
    roles = cached_view_roles(x.shape, x.stride(), trace.roles, out.shape, out.stride(), batch)
    axis = role_positions(trace.roles).get("T")
    part = role_positions(trace.roles).get(PART_OF_TIME)
    if part is not None and out.dim() == x.dim() and out.stride(part) == x.stride(part):  # T steps again
        role = "T" if out.shape[part] == batch.time_steps else PART_OF_TIME
        return trace.replace(roles=(*roles[:part], role, *roles[part + 1 :]))
    if axis is None and trace.timed and (found := _step_of_rows(x, trace, out, roles, batch)) is not None:
        return found
    if axis is None or {"T", "R"} & set(roles) or not trace.timed:
        return trace.replace(roles=roles)
    if out.dim() == x.dim() and out.shape[axis] != 1:  # some of the steps: counted once per inference
        if out.stride(axis) == x.stride(axis) and out.shape[axis] != x.shape[axis]:
            roles = (*roles[:axis], PART_OF_TIME, *roles[axis + 1 :])
        return trace.replace(roles=roles, active=np.full_like(trace.active, trace.active.any()))
    stride = x.stride(axis)
    if stride == 0:  # the same values at every step
        return trace.replace(roles=roles, timed=False, step=None, active=trace.active[:1])
    step = (out.storage_offset() - x.storage_offset()) // stride % batch.time_steps
    return trace.replace(roles=roles, timed=False, step=step, active=trace.active[step : step + 1])


def _step_of_rows(x: Tensor, trace: TensorTrace, out: Tensor, roles: Roles, batch: BatchShape) -> TensorTrace | None:
    """The trace of the rows of one step among those of (T*B, ...) or (B*T, ...), as by chunk(T) or x[t::T]."""
    if out.dim() != x.dim():
        return None
    for axis, role in enumerate(trace.roles):
        sizes, parts = split_axis(x.shape[axis], CompositeAxis((("T", batch.time_steps), ("B", batch.samples)))
                                  if role == "R" else role, batch)  # fmt: skip
        if "T" not in parts or len(parts) < 2 or out.shape[axis] * batch.time_steps != x.shape[axis]:
            continue
        at, stride = parts.index("T"), x.stride(axis)
        inner, outer = math.prod(sizes[at + 1 :]), math.prod(sizes[:at])
        is_regular = out.stride(axis) == (stride if outer == 1 else stride * batch.time_steps)
        moved = out.storage_offset() - x.storage_offset()
        if (
            not is_regular
            or 1 not in (inner, outer)
            or moved % (stride * inner)
            or moved >= stride * inner * batch.time_steps
        ):
            continue
        rest = joined_role([(r, n) for i, (r, n) in enumerate(zip(parts, sizes, strict=True)) if i != at], batch)
        step = moved // (stride * inner)
        kept = (*roles[:axis], rest, *roles[axis + 1 :])
        return trace.replace(roles=kept, timed=False, step=step, active=trace.active[step : step + 1])
    return None


def _copied_roles(call: Call, x: Tensor, trace: TensorTrace, out: Tensor, batch: BatchShape) -> Roles:
    """Roles of a copy; axes that it reorders, selects from or resizes lose theirs."""
    name, args = call.name, call.args
    if "pad" in name and out.dim() == x.dim():  # steps before the first or behind the last one
        longer = [i for i, role in enumerate(trace.roles) if role == "T" and out.shape[i] != x.shape[i]]
        if longer:
            return tuple(PART_OF_TIME if i in longer else role for i, role in enumerate(trace.roles))
    last = max(role_positions(trace.roles).values(), default=-1)
    dims: set[int] = set()
    selected = _selected_samples(call, trace, out, batch)
    if selected is not None:
        return selected
    if name in ("flip", "roll", "index_select", "gather", "take_along_dim", "rot90"):
        position = 2 if name in ("roll", "take_along_dim", "rot90") else 1
        given = call.kwargs.get("dim", call.kwargs.get("dims", args[position] if len(args) > position else None))
        values = [given] if isinstance(given, int) else list(given or range(x.dim()))
        dims = {d % x.dim() for d in values}
        if name in ("roll", "flip"):  # a delay, or steps in the other order: a step is a position on the axis
            dims = {d for d in dims if trace.roles[d] != "T"}
    elif name == "getitem":
        index = _spelled_out(args[1] if isinstance(args[1], tuple) else (args[1],), x.dim())
        whole = [i for i, item in enumerate(index) if isinstance(item, slice) and item == slice(None)]
        dims = set(range(last + 1)) - set(whole)
    elif name in ("take", "masked_select", "meshgrid"):
        dims = set(range(x.dim()))
    kept = [
        role if i < out.dim() and out.shape[i] == x.shape[i] and i not in dims else None
        for i, role in enumerate(trace.roles)
    ]
    return tuple((kept + [None] * out.dim())[: out.dim()])


def _selected_samples(call: Call, trace: TensorTrace, out: Tensor, batch: BatchShape) -> Roles | None:
    """Roles of x[mask] that holds some of the samples; None for anything else."""
    index = call.args[1] if call.name == "getitem" else None
    parts = _spelled_out(index if isinstance(index, tuple) else (index,), len(trace.roles))
    if batch.samples == 1 or any(not isinstance(p, (slice, Tensor)) for p in parts):
        return None
    chosen = [axis for axis, part in enumerate(parts) if isinstance(part, Tensor) and part.dim() == 1]
    if len(chosen) != 1 or sum(isinstance(part, Tensor) for part in parts) != 1 or trace.roles[chosen[0]] != "B":
        return None
    kept = [
        role if out.shape[i] == n else None
        for i, (role, n) in enumerate(zip(trace.roles, call.args[0].shape, strict=True))
    ]
    return tuple(SOME_SAMPLES if i == chosen[0] else role for i, role in enumerate(kept))


def _spelled_out(index: Sequence[Any], dims: int) -> list[Any]:
    """An index with its ellipsis replaced by full slices."""
    at = next((i for i, item in enumerate(index) if item is Ellipsis), None)
    if at is None:
        return list(index)
    used = sum(1 for item in index if item is not Ellipsis and item is not None)
    return [*index[:at], *[slice(None)] * (dims - used), *index[at + 1 :]]


@rule("stack cat concat concatenate hstack vstack dstack row_stack column_stack")
def join(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """stack and cat; T tensors of one step each become the time axis, parts of a time axis a time axis again."""
    out, batch = call.out, context.shape
    parts = list(call.args[0] if call.args else call.kwargs.get("tensors", ()))
    is_stack, dim = _joined_along(call, parts[0].dim())
    known = {id(x): trace for x, trace in call.inputs}
    traced = [(part, known[id(part)]) for part in parts if id(part) in known]
    steps, (first, trace) = [t for _, t in traced], traced[0]
    is_whole = len(traced) == len(parts)
    active, timed = any_active([t.active for t in steps]), any(t.timed for t in steps)
    facts = TensorFacts(
        roles=trace.roles,
        timed=timed,
        step=max((t.step for t in steps if t.step is not None), default=None),
        active=active if is_whole else np.ones_like(active),
        constant=all(t.constant for t in steps),
        sources=frozenset().union(*(t.sources for t in steps)),
        bound=bound_of_union([t.bound for t in steps], len(parts)),
        is_padded=not is_whole or any(t.is_padded for t in steps),
    )
    if dim is None:
        facts = facts._replace(roles=(None,) * out.dim())
    elif not timed and is_over_time(parts, known, context) and (is_stack or _may_be_steps(parts, dim, trace, batch)):
        role = "T" if is_stack else stacked_role(first.shape[dim], trace.roles[dim], batch)
        flags = [known[id(part)].active if id(part) in known else np.ones(1, np.bool_) for part in parts]
        facts = facts._replace(
            roles=(*trace.roles[:dim], role, *trace.roles[dim if is_stack else dim + 1 :]),
            timed=True,
            step=None,
            active=np.concatenate(flags),
            constant=all(part is parts[0] for part in parts),
        )
    elif is_stack:
        of_time = not timed and batch.time_steps > 1 and len(parts) == batch.time_steps and dim > 0
        roles = (None,) * first.dim() if of_time else trace.roles  # T copies that may be time: not followed
        facts = facts._replace(roles=(*roles[:dim], None, *roles[dim:]))
    else:
        roles = tuple(r if out.shape[i] == first.shape[i] else None for i, r in enumerate(trace.roles))
        facts = facts._replace(roles=_joined_in_time(roles, dim, out, traced, len(parts), batch))
    return Outcome(traces=[(out, TensorTrace(facts))])


def _joined_along(call: Call, dims: int) -> tuple[bool, int | None]:
    """Whether tensors of so many axes are stacked, and along which axis of the result; None if that is not followed."""
    name = call.name
    if name in ("vstack", "row_stack"):
        return dims < 2, 0
    if name == "hstack":
        return False, min(dims - 1, 1)
    if name == "column_stack":
        return dims < 2, 1
    if name == "dstack":
        return dims < 3, 2 if dims > 1 else None
    given = call.kwargs.get("dim", call.kwargs.get("axis", call.args[1] if len(call.args) > 1 else 0))
    return name == "stack", given % call.out.dim() if isinstance(given, int) else 0


def is_over_time(parts: Sequence[Tensor], known: Mapping[int, TensorTrace], context: BatchContext) -> bool:
    """True where T tensors that are joined are the T time steps, and not so many branches of one step.

    Steps that are known do not fall and do not stay the same; where none is known, the tensors come from the same
    operations, called several times. A tensor that stems from nothing (a zero state) may stand at any place; a
    parameter (a class token) is none.
    """
    if not 1 < context.shape.time_steps == len(parts):
        return False
    if any(id(part) not in known and part.untyped_storage()._cdata in context.parameters for part in parts):
        return False
    traces = [known[id(part)] for part in parts if id(part) in known]
    if all(part is parts[0] for part in parts):
        return traces[0].step is None
    steps = [trace.step for trace in traces if trace.step is not None]
    if len(steps) == len(traces):
        return steps == sorted(steps) and (len(set(steps)) > 1 or len(traces) == 1) and steps[0] >= 0
    if steps:
        return False
    makers = {frozenset((r.scope, r.label) for r in (context.records[i] for i in t.sources)) for t in traces}
    return len(makers) < len(parts)


def _may_be_steps(parts: Sequence[Tensor], dim: int, trace: TensorTrace, batch: BatchShape) -> bool:
    """False for copies of one tensor that are joined along an axis of features: they are no time steps."""
    is_of_samples = has_atom("B", trace.roles[dim], batch) or (batch.samples == 1 and dim == 0)
    return is_of_samples or not all(part is parts[0] for part in parts)


def _joined_in_time(
    roles: Roles, dim: int, out: Tensor, traced: Sequence[tuple[Tensor, TensorTrace]], parts: int, batch: BatchShape
) -> Roles:
    """Roles of parts joined along an axis: parts of a time axis that have T steps together are a time axis."""
    own = {(part.shape[dim], trace.roles[dim]) for part, trace in traced}
    if len(own) == 1 and len(traced) == parts > 1 and has_atom("B", traced[0][1].roles[dim], batch):
        ((size, role),) = own  # so many times the same samples
        return (*roles[:dim], joined_role([(None, parts), (role, size)], batch), *roles[dim + 1 :])
    if not any(trace.roles[dim] in ("T", PART_OF_TIME) for _, trace in traced):
        return roles
    is_again = out.shape[dim] == batch.time_steps and any(trace.roles[dim] == PART_OF_TIME for _, trace in traced)
    return (*roles[:dim], "T" if is_again else PART_OF_TIME, *roles[dim + 1 :])


@rule("repeat tile expand expand_as broadcast_to repeat_interleave")
def repeat(call: Call, context: BatchContext, scans: ScanCache) -> Outcome:
    """repeat and expand; T copies of a tensor without time form its time axis (direct encoding)."""
    (x, trace), out, name, batch = call.inputs[0], call.out, call.name, context.shape
    aligned = [None] * (out.dim() - x.dim()) + list(trace.roles)
    shape = [1] * (out.dim() - x.dim()) + list(x.shape)
    roles: list[Role | None] = [r if out.shape[i] == shape[i] else None for i, r in enumerate(aligned)]
    has_no_time = not trace.timed and trace.step is None
    moved = trace.replace(scans=ScanResults())
    if has_no_time and batch.time_steps > 1 and out.numel() == batch.time_steps * x.numel():
        is_of_rows = out.shape[0] == batch.rows(True) and shape[0] == batch.samples
        if out.shape[0] == batch.time_steps and shape[0] == 1:
            roles[0] = "T"
        elif out.dim() > 1 and out.shape[1] == batch.time_steps and shape[1] == 1 and name != "repeat_interleave":
            roles[1] = "T"
        elif name == "repeat_interleave" and is_of_rows:
            roles[0] = input_roles(1, "flat-batch", batch)[0]
        elif name in ("repeat", "tile") and is_of_rows:
            roles[0] = merge(True, True, batch)
        else:  # T copies, but not in front: a time axis that is not tracked
            return Outcome(traces=[(out, moved.replace(roles=(None,) * out.dim()))])
        moved = moved.replace(timed=True, active=np.repeat(trace.active, batch.time_steps), constant=True)
    return Outcome(traces=[(out, moved.replace(roles=tuple(roles)))])


def _written(call: Call, context: BatchContext) -> Outcome:
    """x[...] = y, x.copy_(y), x.fill_(c): the target's values change; a buffer may gain its time axis here."""
    name, args, target = call.name, call.args, call.args[0]
    before = call.trace_of(target)
    sources = [trace for x, trace in call.inputs if x is not target]
    joined = before or sources[0].replace(bound=NOTHING, scans=ScanResults(), roles=(None,) * target.dim())
    is_kept = before is not None and name not in ("zero", "fill")  # some of the old values stay
    bounds = [*([joined.bound] if is_kept else []), *(source.bound for source in sources)]
    loader = not sources and joined.bound.loader
    bound = replace(bound_of_choice(bounds), loader=loader)
    joined = joined.replace(bound=bound, is_padded=True, scans=ScanResults())
    if sources:
        joined = joined.replace(sources=joined.sources | sources[0].sources)
    elif name != "zero":  # a constant that may not be zero
        joined = joined.replace(active=np.ones_like(joined.active))
    if name == "setitem" and sources:
        written = next(x for x, _ in call.inputs if x is not target)
        joined = _written_part(target, args[1], joined, (written, sources[0]), before, context.shape)
    elif name == "copy" and sources and target.shape == args[1].shape:
        joined = sources[0].replace(scans=ScanResults())
    is_whole = len(joined.roles) == target.dim()
    return Outcome(traces=[(target, joined)], written=[(target, joined if is_whole else None)])


def _written_part(
    target: Tensor,
    index: Any,
    joined: TensorTrace,
    written: tuple[Tensor, TensorTrace],
    before: TensorTrace | None,
    batch: BatchShape,
) -> TensorTrace:
    """buffer[t] = y, buffer[:, t] = y: axes written as a whole have the roles of y, one of T steps is time."""
    value, source = written
    parts = _spelled_out(index if isinstance(index, tuple) else (index,), target.dim())
    if any(not isinstance(part, (int, slice)) or isinstance(part, bool) for part in parts):
        return joined
    parts += [slice(None)] * (target.dim() - len(parts))
    left = [axis for axis, part in enumerate(parts) if isinstance(part, slice)]  # axes of what is written
    roles: list[Role | None] = list(before.roles) if before is not None else [None] * target.dim()
    for back in range(1, min(len(left), value.dim()) + 1):
        axis = left[-back]
        if value.shape[-back] == target.shape[axis] and source.roles[-back] is not None:
            roles[axis] = source.roles[-back]
    steps = batch.time_steps
    of_time = [a for a, part in enumerate(parts) if isinstance(part, int) and target.shape[a] == steps > 1]
    if source.timed or len(of_time) != 1:
        return joined.replace(roles=tuple(roles), timed=joined.timed or source.timed)
    (axis,), active = of_time, np.zeros(steps, np.bool_)
    if before is not None and before.timed:
        active = before.active.copy()
    active[parts[axis]] = bool(source.active.any())
    roles[axis] = "T"
    return joined.replace(roles=tuple(roles), timed=True, step=None, active=active, constant=False)
