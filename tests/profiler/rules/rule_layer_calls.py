"""One call of every registered layer function: pooling, norms, convolutions, products, attention, cells; questions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from rule_calls import ATEN, Made, Make, each
from torch import Tensor, nn

from snn_energy.profiler.values.bounds import spikes

SCALE = torch.full((2,), 0.5)
NORMS: Mapping[str, Make] = {
    "batch_norm": lambda m: (F.batch_norm, m.image, SCALE, SCALE, SCALE, SCALE, False),
    "native_batch_norm": lambda m: (
        torch.native_batch_norm, m.image, SCALE, SCALE, SCALE, SCALE, False, 0.1, 1e-5),
    "cudnn_batch_norm": lambda m: (  # the same call, which only a GPU has
        torch.native_batch_norm, m.image, SCALE, SCALE, SCALE, SCALE, False, 0.1, 1e-5),
    "layer_norm": lambda m: (F.layer_norm, m.x, (4,)),
    "native_layer_norm": lambda m: (torch.native_layer_norm, m.x, (4,), None, None, 1e-5),
    "group_norm": lambda m: (F.group_norm, m.image, 2),
    "native_group_norm": lambda m: (torch.native_group_norm, m.image, None, None, 6, 2, 16, 2, 1e-5),
    "instance_norm": lambda m: (F.instance_norm, m.image),
    "rms_norm": lambda m: (F.rms_norm, m.x, (4,)),
    "normalize": lambda m: (F.normalize, m.x, 2, -1),
}  # fmt: skip
POOLS: Mapping[str, Make] = {
    **each("max_pool1d avg_pool1d max_pool1d_with_indices", lambda m: (m.signal, 2)),
    **each("max_pool2d avg_pool2d max_pool2d_with_indices", lambda m: (m.image, 2)),
    **each("max_pool3d avg_pool3d max_pool3d_with_indices", lambda m: (m.volume, 2)),
    "mkldnn_max_pool2d": lambda m: (F.max_pool2d, m.image, 2),
    "lp_pool1d": lambda m: (F.lp_pool1d, m.signal, 2, 2),
    "lp_pool2d": lambda m: (F.lp_pool2d, m.image, 1, 2),
    **each("adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool1d_with_indices", lambda m: (m.signal, 2)),
    **each("adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool2d_with_indices", lambda m: (m.image, 2)),
    **each("adaptive_avg_pool3d adaptive_max_pool3d adaptive_max_pool3d_with_indices", lambda m: (m.volume, 2)),
    "interpolate": lambda m: (F.interpolate, m.image, None, 2.0, "bilinear"),
    "upsample": lambda m: (F.interpolate, m.image, None, 2.0),
    "upsample_nearest2d": lambda m: (ATEN.upsample_nearest2d, m.image, (8, 8)),
    "upsample_bilinear2d": lambda m: (ATEN.upsample_bilinear2d, m.image, (8, 8), False),
}
KERNEL = torch.ones(4, 2, 3, 3)
WHOLE = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # stride, padding, dilation, transposed, output padding, groups
WEIGHTED: Mapping[str, Make] = {
    "conv1d": lambda m: (F.conv1d, m.signal, torch.ones(4, 2, 3)),
    "conv2d": lambda m: (F.conv2d, m.image, KERNEL, torch.ones(4)),
    "conv3d": lambda m: (F.conv3d, m.volume, torch.ones(4, 2, 3, 3, 3)),
    "conv_transpose1d": lambda m: (F.conv_transpose1d, m.signal, torch.ones(2, 4, 3)),
    "conv_transpose2d": lambda m: (F.conv_transpose2d, m.image, torch.ones(2, 4, 3, 3)),
    "conv_transpose3d": lambda m: (F.conv_transpose3d, m.volume, torch.ones(2, 4, 3, 3, 3)),
    **each("convolution", lambda m: (m.image, KERNEL, None, *WHOLE), ATEN),
    **each("convolution_overrideable mkldnn_convolution cudnn_convolution", lambda m: (m.image, KERNEL, None, *WHOLE),
           type("devices", (), dict.fromkeys(
               ("convolution_overrideable", "mkldnn_convolution", "cudnn_convolution"), ATEN.convolution))),
    **{name: lambda m: (F.linear, m.x, torch.ones(2, 4), torch.ones(2)) for name in ("linear", "mkldnn_linear")},
    "matmul": lambda m: (torch.matmul, m.left, m.right),
    "rmatmul": lambda m: (Tensor.__rmatmul__, m.right, torch.ones(2, 5)),
    "mm": lambda m: (torch.mm, m.still, torch.ones(4, 2)),
    "bmm": lambda m: (torch.bmm, m.signal, torch.ones(6, 4, 2)),
    "mv": lambda m: (torch.mv, m.still, torch.ones(4)),
    "dot": lambda m: (torch.dot, m.traced((4,), (None,), spikes(1.0)), torch.ones(4)),
    "product_with_bias": lambda m: (torch.addmm, torch.ones(2), m.still, torch.ones(4, 2)),
    "addmm": lambda m: (torch.addmm, torch.ones(2), m.still, torch.ones(4, 2)),
    "baddbmm": lambda m: (torch.baddbmm, torch.ones(1), m.signal, torch.ones(6, 4, 2)),
    "einsum": lambda m: (torch.einsum, "tbmk,tbkn->tbmn", m.left, m.right),
}  # fmt: skip
ATTENTION: Mapping[str, Make] = {
    "scaled_dot_product_attention": lambda m: (
        F.scaled_dot_product_attention, m.query, m.keys, m.values, m.traced((2, 3, 1, 4, 4), ("T", "B", *[None] * 3))),
    "scaled_dot_product_flash_attention_for_cpu": lambda m: (
        F.scaled_dot_product_attention, m.query, m.keys, m.values),
    "scaled_dot_product_flash_attention": lambda m: (F.scaled_dot_product_attention, m.query, m.keys, m.values),
    "scaled_dot_product_efficient_attention": lambda m: (F.scaled_dot_product_attention, m.query, m.keys, m.values),
    "scaled_dot_product_cudnn_attention": lambda m: (F.scaled_dot_product_attention, m.query, m.keys, m.values),
    "scaled_dot_product_attention_math": lambda m: (F.scaled_dot_product_attention, m.query, m.keys, m.values),
}  # fmt: skip


def _cell(kind: str, gates: int) -> Make:
    def make(m: Made) -> tuple[object, ...]:
        function = getattr(torch, kind)
        state = torch.zeros(3, 2)
        hidden = (state, state) if kind == "lstm_cell" else state
        return function, m.still, hidden, torch.ones(2 * gates, 4), torch.ones(2 * gates, 2)

    return make


def _layer(kind: type[nn.RNNBase], **options: str) -> Make:
    return lambda m: (kind(4, 2, **options), m.x)  # type: ignore[arg-type]


CELLS: Mapping[str, Make] = {
    "lstm_cell": _cell("lstm_cell", 4),
    "gru_cell": _cell("gru_cell", 3),
    "rnn_tanh_cell": _cell("rnn_tanh_cell", 1),
    "rnn_relu_cell": _cell("rnn_relu_cell", 1),
    "lstm": _layer(nn.LSTM),
    "gru": _layer(nn.GRU),
    "rnn_tanh": _layer(nn.RNN),
    "rnn_relu": _layer(nn.RNN, nonlinearity="relu"),
}
# Answers about a tensor, and tensors made beside it, that carry none of its values: no rule, no row, nothing known.
_QUESTIONS = """
    size dim ndimension numel nelement stride storage_offset is_contiguous is_floating_point is_complex shape dtype
    device layout ndim grad grad_fn is_leaf is_cuda is_sparse is_quantized is_inference is_signed element_size
    get_device is_same_size zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros
    new_ones new_empty new_full new_tensor result_type len format repr str hash is_nonzero is_pinned is_shared names
    version sym_size itemsize nbytes untyped_storage retains_grad output_nr can_cast get_buffer is_conj is_neg
    is_tensor is_storage"""
QUESTIONS = _QUESTIONS.split()
