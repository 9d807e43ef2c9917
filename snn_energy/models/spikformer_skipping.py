"""A forward pass that skips the time steps that the masks of DTSS layers disable.

TS is non-increasing in t, so a layer that is active for T_l steps is active in the first T_l. Every tensor here
holds its first steps only, (A, B, ...) with A <= T_max; all later steps are zero. An operation computes a step if

- input side: some source is active in it. If a BatchNorm follows, its output at a step without input is only its
  bias, which a neuron that is still active gets without a convolution;
- output side: some neuron or product that is active and needed reads it. A neuron needs all steps before the last
  one whose output is read, because its state carries over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from snn_energy.models.neurons import DTSS, LIF

if TYPE_CHECKING:
    from snn_energy.models.spikformer import Spikformer
    from snn_energy.models.spikformer_blocks import Block, PatchSplitting, SpikingMLP, SpikingSelfAttention

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def has_hooks(model: nn.Module) -> bool:
    """True if some module has forward hooks."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


Masks = dict[nn.Module, list[bool]]  # of every DTSS layer, read once per forward


def last_step(mask: list[bool]) -> int:
    """Time steps up to the last active one: T_l."""
    return max((t + 1 for t, active in enumerate(mask) if active), default=0)


def idle_current(norm: Norm) -> Tensor:
    """(C,) output of a BatchNorm in eval mode for zeros: beta - gamma * mean / sqrt(var + eps)."""
    size = norm.num_features
    zeros = torch.zeros(1, size, *[1] * (2 if isinstance(norm, nn.BatchNorm2d) else 1), device=norm.weight.device)
    return norm(zeros.to(norm.weight.dtype)).view(size)  # type: ignore[no-any-return]


def conv_norm_fire(x: Tensor, conv: nn.Module, norm: Norm, lif: LIF, masks: Masks, steps: int) -> Tensor:
    """conv, BatchNorm, DTSS over ``steps`` steps. x: (A, B, C, ...) -> (steps, B, C', ...)."""
    used = x[: min(len(x), steps)]
    current = _empty_steps(conv, x) if len(used) == 0 else norm(conv(used.flatten(0, 1))).unflatten(0, used.shape[:2])
    idle = None
    if len(used) < steps:
        idle = idle_current(norm).view(1, -1, *[1] * (current.dim() - 3))
    return lif.fire(current, masks[lif][:steps], idle)


def _empty_steps(conv: nn.Module, x: Tensor) -> Tensor:
    """The convolution's output for zero steps; the convolution keeps height, width and tokens."""
    channels = conv.out_channels
    assert isinstance(channels, int)
    return x.new_empty(0, x.shape[1], channels, *x.shape[3:])


def add_steps(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two tensors, either of which may hold more steps."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    if len(shorter) == len(longer):
        return a + b
    out = longer.clone()
    out[: len(shorter)] += shorter
    return out


def patch_splitting(sps: PatchSplitting, images: Tensor, masks: Masks) -> Tensor:
    """SPS and RPE. images: (B, C, H, W), the same at every step -> (A, B, D, N)."""
    lifs = [sps.get_submodule(f"lif{i}") for i in range(4)] + [sps.rpe_lif]
    active_steps = [last_step(masks[lif]) for lif in lifs]
    # step t of stage i is read if every later stage is still active at t
    needed_steps = [min(active_steps[i:4]) for i in range(4)]
    x = images.unsqueeze(0)
    for i, pool in enumerate(sps.pools):
        conv, norm, lif = (sps.get_submodule(f"{kind}{i}") for kind in ("conv", "bn", "lif"))
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(lif, LIF)
        if i == 0:  # one image for all steps
            current = norm(conv(images)).unsqueeze(0)
            x = lif.fire(current.expand(needed_steps[0], *current.shape[1:]), masks[lif][: needed_steps[0]])
        else:
            x = conv_norm_fire(x, conv, norm, lif, masks, needed_steps[i])
        if pool and len(x):
            x = sps.get_submodule(f"pool{i}")(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        elif pool:
            x = x.new_empty(0, *sps.get_submodule(f"pool{i}")(x.new_empty(x.shape[1:])).shape)
    return add_steps(x, conv_norm_fire(x, sps.rpe_conv, sps.rpe_bn, sps.rpe_lif, masks, active_steps[4])).flatten(3)


def self_attention(attn: SpikingSelfAttention, x: Tensor, masks: Masks, scale: float) -> Tensor:
    """SSA. x: (A, B, D, N) -> (T_proj, B, D, N)."""
    out_steps = last_step(masks[attn.proj_lif])
    lif_steps = min(last_step(masks[attn.lif]), out_steps)
    steps = min(*(last_step(masks[lif]) for lif in (attn.q_lif, attn.k_lif, attn.v_lif)), lif_steps)
    q, k, v = (
        conv_norm_fire(x, conv, norm, lif, masks, steps).unflatten(2, (attn.heads, -1))  # (steps, B, h, d, N)
        for conv, norm, lif in (
            (attn.q_conv, attn.q_bn, attn.q_lif),
            (attn.k_conv, attn.k_bn, attn.k_lif),
            (attn.v_conv, attn.v_bn, attn.v_lif),
        )
    )
    mixed = (((q.transpose(-2, -1) @ k) * scale) @ v.transpose(-2, -1)).transpose(-2, -1).flatten(2, 3)
    spikes = attn.lif.fire(mixed, masks[attn.lif][:lif_steps])
    return conv_norm_fire(spikes, attn.proj_conv, attn.proj_bn, attn.proj_lif, masks, out_steps)


def mlp(block: SpikingMLP, x: Tensor, masks: Masks) -> Tensor:
    """x: (A, B, D, N) -> (T_fc2, B, D, N)."""
    out_steps = last_step(masks[block.fc2_lif])
    hidden_steps = min(last_step(masks[block.fc1_lif]), out_steps)
    hidden = conv_norm_fire(x, block.fc1_conv, block.fc1_bn, block.fc1_lif, masks, hidden_steps)
    return conv_norm_fire(hidden, block.fc2_conv, block.fc2_bn, block.fc2_lif, masks, out_steps)


def forward_skipping(model: Spikformer, images: Tensor, scale: float) -> Tensor:
    """images: (B, C, H, W) -> logits (B, classes), equal to those of the masked full forward."""
    masks: Masks = {layer: layer.active_flags() for layer in model.modules() if isinstance(layer, DTSS)}
    x = patch_splitting(model.sps, images, masks)
    for block in cast("list[Block]", model.blocks):
        x = add_steps(x, self_attention(block.attn, x, masks, scale))
        x = add_steps(x, mlp(block.mlp, x, masks))
    tokens = x.mean(3).sum(0) / model.time_steps
    logits: Tensor = model.head(tokens)
    return logits
