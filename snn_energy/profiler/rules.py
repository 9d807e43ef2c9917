"""The table of counting rules: which functions do arithmetic, and the geometry of those that read weights.

A function of torch is known by its plain name, the same for ``torch.conv2d``, ``F.conv2d``, ``Tensor.add_`` and
``aten.convolution``. FREE moves or relabels data and costs nothing; ELEMENTWISE gives an operation and how many
operations it does per element; WEIGHTED and PRODUCTS are counted tap by tap; what is in no table is unsupported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from snn_energy.profiler.values.exact_sums import fan_out_map, fed_outputs
from snn_energy.profiler.values.geometry import Geometry


@dataclass(frozen=True)
class Elementwise:
    """op: the row's operation; ops: operations per element; of: whether of the output's or the input's elements."""

    op: str
    ops: int = 1
    of: str = "output"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Reshapes that keep the row-major order of the values.
RESHAPES = _names(
    """reshape view flatten unflatten unsqueeze squeeze contiguous clone detach reshape_as view_as ravel alias
    lift_fresh unsafe_view requires_grad data dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    feature_alpha_dropout identity"""
)
# Other views and copies: values move, are repeated or are left out, none is computed.
MOVES = _names(
    """permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint expand expand_as broadcast_to repeat
    repeat_interleave tile stack cat concat concatenate hstack vstack dstack split split_with_sizes chunk
    tensor_split unbind select narrow slice getitem index index_select gather take take_along_dim masked_select
    roll flip rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d circular_pad pixel_shuffle pixel_unshuffle channel_shuffle unfold im2col
    diagonal diag_embed tril triu meshgrid as_strided unsafe_split unsafe_chunk broadcast_tensors atleast_1d
    atleast_2d atleast_3d copy setitem to_copy fill zero set resolve_conj resolve_neg real"""
)
# Change of number format only.
CASTS = _names("to float half bfloat16 double int long short char byte bool type type_as cpu cuda copy_to")
# Answers about a tensor, and tensors made beside it, that carry none of its values.
QUERIES = _names(
    """size dim ndimension numel nelement stride storage_offset is_contiguous is_floating_point is_complex shape
    dtype device layout ndim requires_grad grad grad_fn is_leaf is_cuda is_sparse is_quantized is_inference
    is_signed element_size get_device is_same_size zeros_like ones_like empty_like full_like rand_like randn_like
    randint_like new_zeros new_ones new_empty new_full new_tensor result_type len format repr str hash eq_ is_nonzero
    is_pinned is_shared names version sym_size itemsize nbytes untyped_storage retains_grad output_nr
    can_cast get_buffer is_conj is_neg is_tensor is_storage"""
)
# Values leave the sight of the profiler; the tensor's storage is never trusted again.
ESCAPES = _names("numpy array dlpack data_ptr item tolist storage share_memory")
ELEMENTWISE: Mapping[str, Elementwise] = {
    **dict.fromkeys(_names("add sub rsub subtract add_relu"), Elementwise("add")),
    **dict.fromkeys(_names("mul multiply div divide true_divide rdiv rtruediv truediv"), Elementwise("mul")),
    **dict.fromkeys(_names("addcmul addcdiv lerp"), Elementwise("mul", 2)),
    **dict.fromkeys(
        _names(
            """relu relu6 gelu silu sigmoid tanh hardtanh hardswish hardsigmoid leaky_relu elu celu selu softplus mish
            logsigmoid log_sigmoid_forward prelu rrelu threshold exp expm1 log log1p log2 log10 sqrt rsqrt pow square
            reciprocal abs neg negative erf erfc sin cos clamp clamp_min clamp_max clip hardshrink softshrink tanhshrink
            softsign glu remainder fmod floor_divide bernoulli"""
        ),
        Elementwise("activation"),
    ),
    # max, subtract, exponential, sum, divide
    **dict.fromkeys(_names("softmax log_softmax softmin"), Elementwise("softmax", 5)),
    # scale and shift with running statistics
    **dict.fromkeys(_names("batch_norm native_batch_norm cudnn_batch_norm"), Elementwise("norm", 2)),
    # mean, variance (2), normalise, scale and shift in one multiply-add each
    **dict.fromkeys(
        _names("layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm normalize"),
        Elementwise("norm", 5),
    ),
    **dict.fromkeys(
        _names(
            """mean sum nansum nanmean amax amin max min prod cumsum cumprod std var var_mean std_mean norm
            linalg_vector_norm logsumexp argmax argmin all any count_nonzero topk sort median aminmax"""
        ),
        Elementwise("reduce", 1, "input"),
    ),
    **dict.fromkeys(
        _names(
            """gt ge lt le eq ne greater less greater_equal less_equal not_equal where masked_fill masked_fill_ sign
            round floor ceil trunc logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or
            bitwise_xor invert and or xor isnan isfinite isinf heaviside maximum minimum fmax fmin nan_to_num sgn
            isclose"""
        ),
        Elementwise("compare"),
    ),
}
# op "pool": one operation per tap of the window and output
POOLS = _names(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices mkldnn_max_pool2d lp_pool1d lp_pool2d
    interpolate upsample upsample_nearest2d upsample_bilinear2d"""
)
CONVOLUTIONS: Mapping[str, bool] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), False),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), True),
    **dict.fromkeys(("convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution"), False),
}
LINEARS = _names("linear addmm mkldnn_linear")
PRODUCTS = _names("matmul rmatmul mm bmm baddbmm mv dot einsum")
# Several layers in one call, of which the parts would get other names step by step: listed as unsupported.
CELLS = _names("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell lstm gru rnn_tanh rnn_relu")
ATTENTIONS = _names(
    """scaled_dot_product_attention scaled_dot_product_flash_attention_for_cpu scaled_dot_product_flash_attention
    scaled_dot_product_efficient_attention scaled_dot_product_cudnn_attention scaled_dot_product_attention_math"""
)
# f(0) != 0: a step without input still gives a non-zero result.
NONZERO_AT_ZERO = _names(
    """sigmoid hardsigmoid exp softmax log_softmax softmin softplus logsigmoid cos erfc batch_norm native_batch_norm
    cudnn_batch_norm layer_norm native_layer_norm group_norm native_group_norm instance_norm reciprocal rsqrt log
    log2 log10 logical_not bitwise_not invert ge le eq"""
)


def plain_name(name: str) -> str:
    """``__iadd__`` -> add, ``add_`` -> add, ``_softmax`` -> softmax, ``__matmul__`` -> matmul."""
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core in _INPLACE_DUNDERS:
            return core[1:]
        return core[1:] if core in ("radd", "rmul", "rand", "ror", "rxor") else core
    return name.strip("_")


_INPLACE_DUNDERS = _names("iadd isub imul idiv itruediv imatmul iand ior ixor ipow ifloordiv imod")


def is_in_place(name: str) -> bool:
    """True for ``add_``, ``__iadd__``, ``__setitem__``."""
    if name.startswith("__") and name.endswith("__"):
        return name[2:-2] in _INPLACE_DUNDERS or name == "__setitem__"
    return name.endswith("_") and not name.endswith("__")


def bind(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments by name; what is not given is absent."""
    bound = dict(zip(names, args, strict=False))
    bound.update({key: value for key, value in kwargs.items() if key in names})
    return bound


def _per_axis(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else [int(v) for v in value]
    return values * axes if len(values) == 1 else values


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each axis; "same" puts the odd one behind, as torch does."""
    if value == "valid":
        return [(0, 0)] * len(kernel)
    if value == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(w // 2, w - w // 2) for w in whole]
    return [(p, p) for p in _per_axis(value, len(kernel))]


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_CONVOLUTION = (
    "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups",
)  # fmt: skip


def convolution_operands(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of any convolution function by name, ``transposed`` among them."""
    if name.startswith("conv_transpose"):
        return {"transposed": True, **bind(_CONV_TRANSPOSE, args, kwargs)}
    if name.endswith("convolution") or name.endswith("overrideable"):
        return bind(_CONVOLUTION, args, kwargs)
    return {"transposed": False, **bind(_CONV, args, kwargs)}


def convolution_geometry(operands: Mapping[str, Any], output_shape: Sequence[int]) -> Geometry:
    """Geometry of one convolution call. Input (N, C_in, *S), weight (C_out, C_in/g, *k), transposed swaps the two."""
    x, weight, bias = operands["input"], operands["weight"], operands.get("bias")
    transposed, groups = bool(operands.get("transposed")), int(operands.get("groups", 1))
    kernel = [int(k) for k in weight.shape[2:]]
    axes = len(kernel)
    stride, dilation = (
        _per_axis(operands.get("stride", 1), axes),
        _per_axis(operands.get("dilation", 1), axes),
    )
    padding = _padding(operands.get("padding", 0), kernel, dilation)
    spatial_in, spatial_out = [int(s) for s in x.shape[2:]], [int(s) for s in output_shape[2:]]
    c_in, c_out = int(x.shape[1]), int(output_shape[1])
    fed = [
        fed_outputs(spatial_in[i], kernel[i], stride[i], padding[i], dilation[i], transposed, spatial_out[i])
        for i in range(axes)
    ]
    return Geometry(
        positions=math.prod(spatial_in if transposed else spatial_out),
        reduction=c_in // groups * math.prod(kernel),
        out_channels=c_out,
        groups=groups,
        weights=weight.numel(),
        biases=0 if bias is None else bias.numel(),
        fan_out=fan_out_map(fed, c_out // groups),
    )


def pool_ops(name: str, x: Tensor, out: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Operations of one pooling call over the whole output: taps of the window times outputs."""
    spatial = 1 if name.split("_with")[0].endswith("1d") else 3 if name.split("_with")[0].endswith("3d") else 2
    if name.startswith(("adaptive", "interpolate", "upsample")):
        return max(x.numel(), out.numel())
    kernel = bind(("input", "kernel_size"), args, kwargs).get("kernel_size", 1)
    if name.startswith("lp_pool"):
        kernel = bind(_LP_POOL, args, kwargs).get("kernel_size", 1)
    return out.numel() * math.prod(_per_axis(kernel, spatial))


_LP_POOL = ("input", "norm_type", "kernel_size")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def is_sum(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True where a pooling adds its window up: spikes stay whole multiples, as in the sum-pools of sinabs."""
    if name.startswith("lp_pool"):
        return bool(bind(_LP_POOL, args, kwargs).get("norm_type") == 1)
    return name.startswith("avg_pool") and bind(_AVG_POOL, args, kwargs).get("divisor_override") == 1


def is_average(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True where a pooling or an interpolation mixes values instead of choosing one of them."""
    if name in ("interpolate", "upsample"):
        mode = bind(("input", "size", "scale_factor", "mode"), args, kwargs).get("mode", "nearest")
        return not str(mode).startswith("nearest")
    return not name.startswith(("max_pool", "adaptive_max", "mkldnn_max", "upsample_nearest"))


def _convolution_call(module: Any, x: Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    m = module
    name = f"conv{m.weight.dim() - 2}d"
    return name, (x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups), {}


def _linear_call(module: Any, x: Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return "linear", (x, module.weight, module.bias), {}


def _batch_norm_call(module: Any, x: Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    m = module
    of_this_batch = m.running_mean is None and m.running_var is None
    return "batch_norm", (x, m.running_mean, m.running_var, m.weight, m.bias, of_this_batch, m.momentum, m.eps), {}


# Layers of torch whose forward, in eval mode, is one call of a function.
PLAIN_LAYERS: Mapping[type[nn.Module], Callable[[Any, Tensor], tuple[str, tuple[Any, ...], dict[str, Any]]]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_call),
    nn.Linear: _linear_call,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm_call),
}


def is_plain_layer(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True where a module is one of ``PLAIN_LAYERS`` of torch or SpikingJelly, called with one plain tensor."""
    if plain_base(type(module)) is None or len(args) != 1 or kwargs or type(args[0]) is not Tensor:
        return False
    if "forward" in vars(module) or module.training or getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    if is_over_time(module) and args[0].dim() < 3:
        return False
    return all(type(p) in (nn.Parameter, type(None)) for p in module._parameters.values())


def plain_call(module: nn.Module, x: Tensor) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The one function call, on (rows, ...), that a plain layer's forward is."""
    base = plain_base(type(module))
    assert base is not None  # asked before by is_plain_layer
    return PLAIN_LAYERS[base](module, x)


_PLAIN_BASES: dict[type, type[nn.Module] | None] = {}


def plain_base(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The layer of torch that a class is, or that SpikingJelly wraps in a class of its own; None for any other."""
    if kind not in _PLAIN_BASES:
        is_wrapped = kind.__module__.startswith("spikingjelly.activation_based.layer.")
        bases = [base for base in kind.__mro__ if base in PLAIN_LAYERS] if is_wrapped else [kind]
        _PLAIN_BASES[kind] = next((base for base in bases if base in PLAIN_LAYERS), None)
    return _PLAIN_BASES[kind]


def is_over_time(module: nn.Module) -> bool:
    """True for a layer of SpikingJelly that reads (T, B, ...) and runs on (T*B, ...)."""
    return getattr(module, "step_mode", "s") == "m" and type(module) not in PLAIN_LAYERS


_LAYER_CLASSES: dict[type, bool] = {}


def is_layer_class(kind: type) -> bool:
    """True for the layers of torch and what is derived from them, such as a framework's own Conv2d."""
    if kind not in _LAYER_CLASSES:
        layers = (base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules."))
        is_derived = any(base is not nn.Module and not base.__module__.endswith(".container") for base in layers)
        _LAYER_CLASSES[kind] = is_derived or kind.__module__.startswith("torch.nn.")
    return _LAYER_CLASSES[kind]


def is_weight_layer(module: nn.Module) -> bool:
    """True for the layers of torch that hold weights of their own."""
    return type(module).__module__.startswith("torch.nn.modules") and any(
        parameter is not None for parameter in module._parameters.values()
    )
