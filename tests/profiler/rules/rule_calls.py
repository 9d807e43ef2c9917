"""One call of every registered function, on small tensors: two time steps, three samples."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snn_energy.profiler.axes.roles import BatchShape, Roles
from snn_energy.profiler.values.bounds import NOTHING, ValueBound, spikes
from snn_energy.profiler.values.traces import TensorFacts, TensorTrace

BATCH = BatchShape(2, 3)
TIMED: Roles = ("T", "B", None)


@dataclass
class Made:
    """Tensors of one test, by what they hold, and what is known of those that stem from the loader."""

    traces: dict[int, TensorTrace] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)  # no other tensor gets the id of one of these

    def traced(
        self, shape: tuple[int, ...], roles: Roles, bound: ValueBound = NOTHING, step: int | None = None
    ) -> Tensor:
        """A tensor of zeros and ones that stems from the loader."""
        x = (torch.arange(math.prod(shape)) % 3 == 0).float().reshape(shape)
        timed = bool({"T", "R"} & set(roles))
        active = torch.ones(2 if timed else 1, dtype=torch.bool).numpy()
        facts = TensorFacts(roles, timed, step, active, False, frozenset({0}), bound)
        self.traces[id(x)] = TensorTrace(facts)
        self.alive.append(x)
        return x

    def __post_init__(self) -> None:
        one = spikes(1.0)
        self.x = self.traced((2, 3, 4), TIMED, one)  # (T, B, features)
        self.y = self.traced((2, 3, 4), TIMED, one)
        self.real = self.traced((2, 3, 4), TIMED)
        self.whole = self.x.to(torch.int32)
        self.traces[id(self.whole)] = self.traces[id(self.x)]
        self.signal = self.traced((6, 2, 4), ("R", None, None), one)  # (T*B, channels, positions)
        self.image = self.traced((6, 2, 4, 4), ("R", None, None, None), one)
        self.volume = self.traced((6, 2, 4, 4, 4), ("R", None, None, None, None), one)
        self.left = self.traced((2, 3, 4, 5), (*TIMED, None), one)  # (T, B, M, K)
        self.right = self.traced((2, 3, 5, 2), (*TIMED, None), one)
        self.query, self.keys, self.values = (self.traced((2, 3, 2, 4, 8), (*TIMED, None, None), one) for _ in range(3))
        self.steps = [self.traced((3, 4), ("B", None), one, step) for step in range(2)]
        self.still = self.traced((3, 4), ("B", None), one)  # without time
        self.c = torch.full((4,), 0.5)  # a constant


Make = Callable[[Made], tuple[Any, ...]]  # function, then its arguments; a last dict holds keywords


def each(names: str, arguments: Callable[[Made], tuple[Any, ...]], *places: Any) -> dict[str, Make]:
    """The same call for several names, found in torch, torch.nn.functional or the methods of a tensor."""

    homes = [*places, torch, F, Tensor]
    found = {n: next(f for home in homes if callable(f := getattr(home, n, None))) for n in names.split()}
    return {name: functools.partial(_made, function, arguments) for name, function in found.items()}


def _made(function: Callable[..., Any], arguments: Callable[[Made], tuple[Any, ...]], m: Made) -> tuple[Any, ...]:
    return function, *arguments(m)


ATEN = torch.ops.aten
MOVES: Mapping[str, Make] = {
    **each("reshape view", lambda m: (m.x, (6, 4)), Tensor),
    **each("flatten", lambda m: (m.x, 0, 1)),
    **each("unflatten", lambda m: (m.signal, 0, (2, 3))),
    **each("unsqueeze", lambda m: (m.x, -1)),
    **each("squeeze contiguous clone detach ravel double", lambda m: (m.x,), Tensor),
    **each("alias lift_fresh", lambda m: (m.x,), ATEN),
    **each("to_copy", lambda m: (m.x,), type("aten", (), {"to_copy": ATEN._to_copy})),
    "unsafe_view": lambda m: (ATEN._unsafe_view, m.x, (6, 4)),
    **each("reshape_as view_as", lambda m: (m.x, torch.zeros(6, 4)), Tensor),
    "requires_grad": lambda m: (Tensor.requires_grad_, m.x, False),
    "data": lambda m: (lambda x: x.data, m.x),
    "identity": lambda m: (torch.nn.Identity(), m.x),
    **each("dropout alpha_dropout feature_dropout feature_alpha_dropout", lambda m: (m.x, 0.5, False)),
    "dropout1d": lambda m: (F.dropout1d, m.signal, 0.5, False),
    "dropout2d": lambda m: (F.dropout2d, m.image, 0.5, False),
    "dropout3d": lambda m: (F.dropout3d, m.volume, 0.5, False),
    **each("float half bfloat16 int long short char byte bool cpu", lambda m: (m.x,), Tensor),
    **each("to type", lambda m: (m.x, torch.float64), Tensor),
    "type_as": lambda m: (Tensor.type_as, m.x, torch.zeros(1)),
    "cuda": lambda m: (Tensor.clone, m.x),  # what a copy to a device gives, without one
    "copy_to": lambda m: (Tensor.clone, m.x),
    "permute": lambda m: (torch.permute, m.x, (1, 0, 2)),
    **each("transpose swapaxes swapdims movedim moveaxis", lambda m: (m.x, 0, 1)),
    "t": lambda m: (torch.t, m.still),
    "T": lambda m: (lambda x: x.T, m.still),
    **each(
        "mT mH adjoint", lambda m: (m.left,), type("views", (), {n: lambda x: x.mT for n in ("mT", "mH", "adjoint")})
    ),
    "H": lambda m: (lambda x: x.H, m.still),
    **each("split chunk tensor_split unsafe_chunk", lambda m: (m.x, 2, -1)),
    **each("split_with_sizes", lambda m: (m.x, [1, 3], -1)),
    "unsafe_split": lambda m: (torch.unsafe_split, m.x, 2, -1),
    "unbind": lambda m: (torch.unbind, m.x),
    "select": lambda m: (torch.select, m.x, 0, 1),
    **each("narrow", lambda m: (m.x, 2, 1, 2)),
    "slice": lambda m: (ATEN.slice, m.x, 2, 1, 3),
    "getitem": lambda m: (operator.getitem, m.x, (..., [0, 2])),
    "index": lambda m: (ATEN.index, m.x, [None, None, torch.tensor([0, 2])]),
    "index_select": lambda m: (torch.index_select, m.x, 2, torch.tensor([0, 2])),
    "gather": lambda m: (torch.gather, m.x, 2, torch.zeros(2, 3, 2, dtype=torch.int64)),
    "take": lambda m: (torch.take, m.x, torch.tensor([0, 2])),
    "take_along_dim": lambda m: (torch.take_along_dim, m.x, torch.zeros(2, 3, 2, dtype=torch.int64), 2),
    "masked_select": lambda m: (torch.masked_select, m.x, torch.ones(4, dtype=torch.bool)),
    "roll": lambda m: (torch.roll, m.x, 1, 2),
    "flip": lambda m: (torch.flip, m.x, (2,)),
    "rot90": lambda m: (torch.rot90, m.left, 1, (2, 3)),
    "pad": lambda m: (F.pad, m.x, (1, 1)),
    "constant_pad_nd": lambda m: (torch.constant_pad_nd, m.x, (1, 1), 1.0),
    **each("reflection_pad1d replication_pad1d", lambda m: (m.signal, (1, 1)), ATEN),
    **each("reflection_pad2d replication_pad2d", lambda m: (m.image, (1, 1, 1, 1)), ATEN),
    **each("reflection_pad3d replication_pad3d", lambda m: (m.volume, (1,) * 6), ATEN),
    "circular_pad": lambda m: (F.pad, m.signal, (1, 1), "circular"),
    "pixel_shuffle": lambda m: (F.pixel_shuffle, m.traced((6, 4, 2, 2), ("R", None, None, None), spikes(1.0)), 2),
    "pixel_unshuffle": lambda m: (F.pixel_unshuffle, m.image, 2),
    "channel_shuffle": lambda m: (F.channel_shuffle, m.image, 2),
    "unfold": lambda m: (F.unfold, m.image, 3),
    "im2col": lambda m: (ATEN.im2col, m.image, (3, 3), (1, 1), (0, 0), (1, 1)),
    "diagonal": lambda m: (torch.diagonal, m.left, 0, 2, 3),
    "diag_embed": lambda m: (torch.diag_embed, m.x),
    **each("tril triu", lambda m: (m.left,)),
    "meshgrid": lambda m: (lambda x: torch.meshgrid(x, indexing="ij"), m.traced((3,), ("B",))),
    "as_strided": lambda m: (torch.as_strided, m.x, (2, 3, 2), (12, 4, 1)),
    "broadcast_tensors": lambda m: (torch.broadcast_tensors, m.x),
    **each("atleast_1d atleast_2d atleast_3d resolve_conj resolve_neg real", lambda m: (m.x,)),
    "expand": lambda m: (Tensor.expand, m.still, (2, 3, 4)),
    "broadcast_to": lambda m: (torch.broadcast_to, m.still, (2, 3, 4)),
    "expand_as": lambda m: (Tensor.expand_as, m.still, torch.zeros(2, 3, 4)),
    "repeat": lambda m: (Tensor.repeat, m.still, (2, 1)),
    "tile": lambda m: (torch.tile, m.still, (2, 1)),
    "repeat_interleave": lambda m: (torch.repeat_interleave, m.still, 2, 0),
    "repeat_heads": lambda m: (torch.repeat_interleave, m.keys, 2, -3),
    "stack": lambda m: (torch.stack, m.steps),
    **each("cat concat concatenate vstack row_stack", lambda m: (m.steps,)),
    "hstack": lambda m: (torch.hstack, [m.x, m.y]),
    "column_stack": lambda m: (torch.column_stack, [m.x, m.y]),
    "dstack": lambda m: (torch.dstack, [m.x, m.y]),
    "copy": lambda m: (Tensor.copy_, torch.zeros(2, 3, 4), m.x),
    "setitem": lambda m: (operator.setitem, torch.zeros(2, 3, 4), 1, m.steps[1]),
    "fill": lambda m: (Tensor.fill_, m.x, 1.0),
    "zero": lambda m: (Tensor.zero_, m.x),
    "set": lambda m: (Tensor.set_, m.x, m.y),
}
ESCAPES: Mapping[str, Make] = {
    **each("numpy tolist data_ptr", lambda m: (m.x,), Tensor),
    "storage": lambda m: (Tensor.untyped_storage, m.x),
    "array": lambda m: (Tensor.__array__, m.x),
    "dlpack": lambda m: (Tensor.__dlpack__, m.x),
    "item": lambda m: (Tensor.item, m.traced((1,), ("B",))),
    "share_memory": lambda m: (Tensor.share_memory_, m.x),
}
ELEMENTWISE: Mapping[str, Make] = {
    **each("add sub subtract mul multiply div divide true_divide", lambda m: (m.x, m.y)),
    "rsub": lambda m: (torch.rsub, m.x, 1.0),
    "add_relu": lambda m: (ATEN._add_relu, m.x, m.y),
    **{name: lambda m: (lambda x, c: c / x, m.real, 2.0) for name in ("rdiv", "rtruediv")},
    "truediv": lambda m: (operator.truediv, m.x, 2.0),
    **each("addcmul addcdiv", lambda m: (m.x, m.c, m.c)),
    "lerp": lambda m: (torch.lerp, m.x, m.c, 0.5),
    **each(
        """relu relu6 gelu silu tanh hardtanh hardswish leaky_relu elu celu selu mish rrelu expm1 log1p sqrt square abs
        neg negative erf sin hardshrink softshrink tanhshrink softsign glu bernoulli sigmoid hardsigmoid softplus
        logsigmoid exp log log2 log10 rsqrt reciprocal erfc cos""",
        lambda m: (m.x,),
    ),
    "log_sigmoid_forward": lambda m: (ATEN.log_sigmoid_forward, m.x),
    "prelu": lambda m: (F.prelu, m.x, torch.tensor([0.1])),
    "threshold": lambda m: (F.threshold, m.x, 0.5, 0.0),
    **each("pow clamp clamp_min clamp_max clip remainder fmod floor_divide", lambda m: (m.x, 2.0)),
    **each("softmax log_softmax softmin", lambda m: (m.x, -1), F),
    **each("sum nansum amax amin prod std var logsumexp count_nonzero all any mean nanmean", lambda m: (m.x, 2)),
    **each("max min argmax argmin median std_mean var_mean", lambda m: (m.x, 2)),
    **each("cumsum cumprod", lambda m: (m.x, 2)),
    **each(
        "norm linalg_vector_norm",
        lambda m: (m.x, 2, 2),
        torch,
        type("linalg", (), {"linalg_vector_norm": torch.linalg.vector_norm}),
    ),
    "topk": lambda m: (torch.topk, m.x, 4),
    "sort": lambda m: (torch.sort, m.x),
    "aminmax": lambda m: (torch.aminmax, m.x, {"dim": 2}),
    **each(
        "gt lt ne greater less greater_equal less_equal not_equal ge le eq maximum minimum fmax fmin isclose",
        lambda m: (m.x, m.y),
    ),
    **each("sign round floor ceil trunc isnan isfinite isinf nan_to_num sgn logical_not", lambda m: (m.x,)),
    **each("logical_and logical_or logical_xor", lambda m: (m.x, m.y)),
    **each("bitwise_and bitwise_or bitwise_xor", lambda m: (m.whole, m.whole)),
    "bitwise_not": lambda m: (torch.bitwise_not, m.whole),
    "invert": lambda m: (operator.invert, m.whole),
    "and": lambda m: (operator.and_, m.whole, m.whole),
    "or": lambda m: (operator.or_, m.whole, m.whole),
    "xor": lambda m: (operator.xor, m.whole, m.whole),
    "where": lambda m: (torch.where, m.x > 0, m.x, m.y),
    "masked_fill": lambda m: (torch.masked_fill, m.x, torch.ones(4, dtype=torch.bool), 0.0),
    "heaviside": lambda m: (torch.heaviside, m.x, m.c),
}
