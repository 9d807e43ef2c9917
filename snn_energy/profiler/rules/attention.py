"""scaled_dot_product_attention: two products, a scale and a softmax, recomputed as in torch's reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from snn_energy.profiler.rules.registry import Call, PartCall, decomposition


@decomposition(
    """scaled_dot_product_attention scaled_dot_product_flash_attention_for_cpu scaled_dot_product_flash_attention
    scaled_dot_product_efficient_attention scaled_dot_product_cudnn_attention scaled_dot_product_attention_math"""
)
def attention(call: Call) -> Iterator[PartCall]:
    """The calls that an attention is made of; the last one returns its result."""
    given = _arguments(call)
    q, k, v = given["query"], given["key"], given["value"]
    if call.kwargs.get("enable_gqa"):
        repeats = q.shape[-3] // k.shape[-3]
        wide_k, wide_v = (x.repeat_interleave(repeats, dim=-3) for x in (k, v))
        yield PartCall("repeat_heads", (k,), wide_k)
        yield PartCall("repeat_heads", (v,), wide_v)
        k, v = wide_k, wide_v
    keys = k.transpose(-2, -1)
    yield PartCall("transpose", (k, -2, -1), keys)
    scores = q @ keys
    yield PartCall("matmul", (q, keys), scores)
    scale = given.get("scale") or q.shape[-1] ** -0.5
    scaled = scores * scale
    yield PartCall("mul", (scores, scale), scaled)
    mask, masked = _masked(given, scaled)
    if mask is not None and call.trace_of(mask) is not None:
        yield PartCall("add", (scaled, mask), masked)
        scaled = masked
    weights = masked.softmax(-1)
    yield PartCall("softmax", (scaled, -1), weights)
    yield PartCall("matmul", (weights, v), call.out)


def _arguments(call: Call) -> dict[str, Any]:
    """Arguments by name; the variants of aten differ in their order."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    if call.name.endswith(("_for_cpu", "flash_attention")):
        names = ("query", "key", "value", "dropout_p", "is_causal", "")
    elif "efficient" in call.name or "cudnn" in call.name:
        names = ("query", "key", "value", "attn_mask", "", "is_causal")
    return {**call.bound(*names), **call.kwargs}


def _masked(given: dict[str, Any], scaled: Tensor) -> tuple[Tensor | None, Tensor]:
    """The mask, None if there is none, and the masked scores."""
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        mask = torch.ones(scaled.shape[-2:], dtype=torch.bool, device=scaled.device).tril()
    if mask is None:
        return None, scaled
    return mask, scaled.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scaled + mask
