"""Training a Spikformer in fewer passes over memory: BatchNorm and the paper's neuron as one operation over all steps.

The plain forward writes and reads every layer's activations about twenty times: normalised values, potentials, spikes
and their gradients, step by step. Here a layer is a matrix product or a convolution, one pass for the mean and
variance, and one compiled pass that normalises and fires all T steps; its backward recomputes the potentials
instead of storing them. The image, the same at every step, goes through the first convolution once.

The values and gradients equal those of the plain forward up to rounding (the order of operations differs); the plain
forward is the tests' oracle. ``torch.compile`` generates C++ for CPUs (needs a C++ compiler) and Triton for CUDA.

Layout: activations are channels-last everywhere, so that tokens and pixels are rows: (T, R, C) with R = B * positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer_skipping import has_hooks

if TYPE_CHECKING:
    from snn_energy.models.spikformer import Spikformer
    from snn_energy.models.spikformer_blocks import Block, PatchSplitting, SpikingMLP, SpikingSelfAttention

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Kernel = Callable[..., Tensor]
RECOMPILE_LIMIT = 64  # compiled variants of an operation: a few per number of steps and dtype; torch's default is 8


def _full_precision(x: Tensor) -> Tensor:
    """bfloat16 and float16 as float32, the dtype of potentials and statistics."""
    return x if x.dtype == torch.float64 else x.float()


def _potentials(x: Tensor, scale: Tensor, shift: Tensor, leak: float) -> list[tuple[Tensor, Tensor]]:
    """(H, [H > 1]) of every step, (R, C) each, in units of V_th: H = leak*U + scale*x + shift; U = H - [H > 1]."""
    found: list[tuple[Tensor, Tensor]] = []
    u: Tensor | None = None
    for x_t in x.unbind():
        current = _full_precision(x_t) * scale + shift
        h = current if u is None else current + leak * u
        fired = (h > 1).to(h.dtype)
        u = h - fired
        found.append((h, fired))
    return found


def fire_all_steps(x: Tensor, scale: Tensor, shift: Tensor, amplitude: Tensor, leak: float) -> Tensor:
    """Paper, Eq. 1, 2 and 7 over all steps.

    x: (T, R, C); scale, shift: (C,), of the BatchNorm, over V_th; amplitude: (T,), V_th * TM. -> (T, R, C) spikes.
    """
    found = _potentials(x, scale, shift, leak)
    return torch.stack([(fired * amplitude[t]).to(x.dtype) for t, (_, fired) in enumerate(found)])


def _current_gradients(
    x: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, peak: Tensor, leak: float
) -> list[Tensor]:
    """dL/dI^t of every step, (R, C) each; the surrogate is peak * max(0, 1 - |H - 1|) with peak = gamma / V_th."""
    found = _potentials(x, scale, shift, leak)
    out: list[Tensor] = []
    later: Tensor | None = None  # dL/dU^t, carried to the preceding step
    for t in range(len(found) - 1, -1, -1):
        surrogate = peak * (1 - (found[t][0] - 1).abs()).clamp_min(0)
        own = _full_precision(grad[t]) * mask[t]
        gradient = surrogate * own if later is None else surrogate * (own - later) + later
        later = leak * gradient
        out.append(gradient)
    return out[::-1]


def current_gradient(
    x: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, peak: Tensor, leak: float
) -> Tensor:
    """dL/dI of ``fire_all_steps``: (T, R, C), in the dtype of ``grad``. mask: (T,) TM."""
    gradients = _current_gradients(x, grad, scale, shift, mask, peak, leak)
    return torch.stack([gradient.to(grad.dtype) for gradient in gradients])


def summed_current_gradient(
    x: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, peak: Tensor, leak: float
) -> Tensor:
    """Sum over the steps of ``current_gradient``, for an input that is the same at every step: (1, R, C)."""
    gradients = _current_gradients(x, grad, scale, shift, mask, peak, leak)
    return torch.stack(gradients).sum(0, keepdim=True).to(grad.dtype)


def mask_gradient(x: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, leak: float) -> Tensor:
    """dL/dTM^t = sum of Y^t * dL/dO^t over rows and channels, over V_th (paper, Eq. 10): (T,)."""
    found = _potentials(x, scale, shift, leak)
    return torch.stack([(fired * _full_precision(grad[t])).sum() for t, (_, fired) in enumerate(found)])


@cache
def _compiled(kernel: Kernel) -> Kernel:
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    return cast(Kernel, torch.compile(kernel, dynamic=True))


def run_compiled(kernel: Kernel, *arguments: Tensor | float) -> Tensor:
    """The kernel, compiled on its first call for each number of steps; any number of rows and channels.

    Tensors are passed as ``data``, not as views, because torch.compile also specialises on the base of a view.
    """
    plain = [argument.data if isinstance(argument, Tensor) else argument for argument in arguments]
    first = plain[0]
    assert isinstance(first, Tensor)
    with torch.autocast(first.device.type, enabled=False):  # autocast would need further compiled variants
        return _compiled(kernel)(*plain)


class NormAndFire(torch.autograd.Function):
    """BatchNorm in training mode and the paper's neurons, DTSS mask included. x: (T, R, C), or (1, R, C) for T steps.

    scale and shift are the BatchNorm as one multiplication and one addition, over V_th; ``mean`` and ``inverse``
    (1 / standard deviation) are of x, and the gradient flows through them. mask: (T,) TM.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, mean: Tensor, variance: Tensor, lif: LIF,
        eps: float,
    ) -> Tensor:  # fmt: skip
        """-> (T, R, C) spikes of amplitude V_th."""
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse / lif.v_th
        shift = bias / lif.v_th - mean * scale
        steps = len(mask)
        repeated = x.expand(steps, *x.shape[1:])
        ctx.save_for_backward(x, weight, mask, mean, inverse, scale, shift)
        ctx.lif, ctx.eps = lif, eps
        return run_compiled(fire_all_steps, repeated, scale, shift, mask * lif.v_th, lif.leak)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias and mask."""
        x, weight, mask, mean, inverse, scale, shift = ctx.saved_tensors
        lif, grad = ctx.lif, grads[0].contiguous()
        repeated = x.expand(len(mask), *x.shape[1:])
        kernel = current_gradient if len(x) == len(mask) else summed_current_gradient
        peak = torch.full((), lif.gamma / lif.v_th, device=x.device, dtype=scale.dtype)
        grad_current = run_compiled(kernel, repeated, grad, scale, shift, mask, peak, lif.leak)
        rows, channels = x.shape[0] * x.shape[1], x.shape[2]
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_current.view(rows, channels), x.view(rows, channels), weight, None, None, mean, inverse, True, ctx.eps,
            [True, True, True],
        )  # fmt: skip
        grad_mask = None
        if ctx.needs_input_grad[3]:
            grad_mask = run_compiled(mask_gradient, repeated, grad, scale, shift, lif.leak) * lif.v_th
        return grad_x.view_as(x), grad_weight, grad_bias, grad_mask, None, None, None, None


class Fire(torch.autograd.Function):
    """The paper's neurons on ``scale`` * x without a BatchNorm, DTSS mask included. x: (T, R, C); mask: (T,) TM."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, mask: Tensor, lif: LIF) -> Tensor:
        """-> (T, R, C) spikes of amplitude V_th."""
        factor = torch.full((x.shape[2],), scale / lif.v_th, device=x.device, dtype=mask.dtype)
        ctx.save_for_backward(x, factor, mask)
        ctx.scale, ctx.lif = scale, lif
        return run_compiled(fire_all_steps, x, factor, torch.zeros_like(factor), mask * lif.v_th, lif.leak)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and mask."""
        (x, factor, mask), lif, grad = ctx.saved_tensors, ctx.lif, grads[0].contiguous()
        shift = torch.zeros_like(factor)
        peak = torch.full((), lif.gamma / lif.v_th, device=x.device, dtype=factor.dtype)
        grad_x = run_compiled(current_gradient, x, grad, factor, shift, mask, peak, lif.leak) * ctx.scale
        grad_mask = None
        if ctx.needs_input_grad[2]:
            grad_mask = run_compiled(mask_gradient, x, grad, factor, shift, lif.leak) * lif.v_th
        return grad_x, None, grad_mask, None


def time_step_mask(lif: LIF, steps: int, like: Tensor) -> Tensor:
    """(T,) TM on the device of ``like``; ones for a plain LIF."""
    return lif.time_step_mask(steps) if isinstance(lif, DTSS) else _full_precision(like.new_ones(steps))


def norm_and_fire(x: Tensor, norm: Norm, lif: LIF, steps: int) -> Tensor:
    """BatchNorm and neurons. x: (T, R, C), or (1, R, C) for an input that is the same at every step -> (T, R, C).

    Updates the BatchNorm's running mean and variance, as the module does over T * R rows. Raises ValueError, as the
    module does, for a single row.
    """
    count = steps * x.shape[1]
    if count < 2:
        raise ValueError("Expected more than 1 value per channel when training")
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        mean, variance = torch.ops.aten.batch_norm_update_stats(  # of x; with momentum 0 the running ones do not change
            x.view(-1, x.shape[2]), norm.running_mean, norm.running_var, 0.0
        )
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # None: plain average
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * (count / (count - 1)), share)
    return NormAndFire.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, norm.weight, norm.bias, time_step_mask(lif, steps, x), mean, variance, lif, norm.eps
    )


def linear_norm_and_fire(x: Tensor, conv: nn.Conv1d, norm: Norm, lif: LIF) -> Tensor:
    """A 1x1 convolution as a matrix product, BatchNorm, neurons. x: (T, R, C) -> (T, R, C')."""
    return norm_and_fire(functional.linear(x, conv.weight[:, :, 0]), norm, lif, len(x))


def conv_norm_and_fire(x: Tensor, conv: nn.Module, norm: Norm, lif: LIF, steps: int) -> Tensor:
    """A 3x3 convolution, BatchNorm, neurons. x: (T or 1, B, H, W, C), 1 if equal at all steps -> (T, B, H, W, C')."""
    current = conv(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
    spikes = norm_and_fire(current.view(len(x), -1, current.shape[3]), norm, lif, steps)
    return spikes.view(steps, *x.shape[1:4], -1)


def apply_pool(x: Tensor, pool: nn.Module) -> Tensor:
    """x: (T, B, H, W, C) -> (T, B, H', W', C)."""
    out: Tensor = pool(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
    return out


def patch_splitting(sps: PatchSplitting, images: Tensor, steps: int) -> Tensor:
    """SPS and RPE. images: (B, C, H, W) -> (T, B, N, D)."""
    x = images.permute(0, 2, 3, 1).unsqueeze(0)
    for i, pool in enumerate(sps.pools):
        conv, norm, lif = (sps.get_submodule(f"{kind}{i}") for kind in ("conv", "bn", "lif"))
        x = conv_norm_and_fire(x, conv, cast("Norm", norm), cast("LIF", lif), steps)
        if pool:
            x = apply_pool(x, sps.get_submodule(f"pool{i}"))
    position = conv_norm_and_fire(x, sps.rpe_conv, sps.rpe_bn, sps.rpe_lif, steps)
    return (x + position).flatten(2, 3)


def self_attention(attn: SpikingSelfAttention, x: Tensor, scale: float) -> Tensor:
    """SSA. x: (T, B, N, D) -> (T, B, N, D)."""
    steps, samples, tokens, dim = x.shape
    rows = x.reshape(steps, samples * tokens, dim)
    q, k, v = (
        linear_norm_and_fire(rows, conv, norm, lif)
        .view(steps * samples, tokens, attn.heads, -1)
        .transpose(1, 2)  # (T*B, h, N, d)
        for conv, norm, lif in (
            (attn.q_conv, attn.q_bn, attn.q_lif),
            (attn.k_conv, attn.k_bn, attn.k_lif),
            (attn.v_conv, attn.v_bn, attn.v_lif),
        )
    )
    mixed = (q @ k.transpose(-2, -1)) @ v  # (T*B, h, N, d), before the scale
    per_head = mixed.reshape(steps, -1, mixed.shape[3])
    mask = time_step_mask(attn.lif, steps, x)
    spikes = Fire.apply(per_head, scale, mask, attn.lif)  # type: ignore[no-untyped-call]
    merged = spikes.view(mixed.shape).transpose(1, 2).reshape(steps, samples * tokens, dim)
    return linear_norm_and_fire(merged, attn.proj_conv, attn.proj_bn, attn.proj_lif).view(x.shape)


def mlp(block: SpikingMLP, x: Tensor) -> Tensor:
    """x: (T, B, N, D) -> (T, B, N, D)."""
    hidden = linear_norm_and_fire(x.reshape(len(x), -1, x.shape[3]), block.fc1_conv, block.fc1_bn, block.fc1_lif)
    return linear_norm_and_fire(hidden, block.fc2_conv, block.fc2_bn, block.fc2_lif).view(x.shape)


def can_fuse(model: Spikformer, images: Tensor) -> bool:
    """Whether a forward can use this module: gradients are enabled, the neuron is the paper's, every BatchNorm is in
    training mode and has weights and running statistics, no module has hooks, and there are images.
    """
    if not (model.training and torch.is_grad_enabled() and len(images) and model.config.neuron == "paper"):
        return False
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    is_standard = all(norm.training and norm.affine and norm.track_running_stats for norm in norms)
    return is_standard and not has_hooks(model)


def features(model: Spikformer, images: Tensor, scale: float) -> Tensor:
    """The input of the head: images (B, C, H, W) -> (T, B, D), averaged over the tokens."""
    x = patch_splitting(model.sps, images, model.time_steps)
    for block in cast("list[Block]", model.blocks):
        x = x + self_attention(block.attn, x, scale)
        x = x + mlp(block.mlp, x)
    return x.mean(2)


@cache
def compile_error(device_type: str) -> str | None:
    """Why nothing can be compiled for ``cpu`` or ``cuda`` on this machine, in one line; None if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of torch's own modules, which are imported here
            run_compiled(fire_all_steps, *(torch.ones(size, device=device_type) for size in ((1, 2, 8), 8, 8, 1)), 0.5)
    except Exception as error:  # noqa: BLE001 - without a compiler, torch raises errors of many types
        return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
