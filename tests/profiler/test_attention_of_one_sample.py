"""Attention of torch counts the same whether the last batch holds one sample or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from own_networks import Does
from torch import Tensor, nn

import snn_energy as se

TOKENS, WIDTH, HEADS, SAMPLES = 5, 8, 2, 5
SPLITS = ([2, 2, 1], [4, 1], [1, 4], [1, 1, 1, 1, 1], [3, 1, 1])


def causal(samples: int) -> dict[str, Any]:
    return {"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)}


def additive(samples: int) -> dict[str, Any]:
    return {"attn_mask": torch.full((TOKENS, TOKENS), -torch.inf).triu(1)}


def padded(samples: int) -> dict[str, Any]:
    return {"key_padding_mask": torch.tensor([[False] * (TOKENS - 2) + [True] * 2] * samples)}


MASKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "no mask": lambda samples: {}, "causal": causal, "additive": additive, "padding": padded,
}  # fmt: skip
TOUCHED = {"no mask": TOKENS * TOKENS, "causal": 15, "additive": 15, "padding": TOKENS * (TOKENS - 2)}


def attention(batch_first: bool, need_weights: bool, mask: str, **options: Any) -> Does:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = x if batch_first else x.transpose(0, 1)
        out = self.attention(h, h, h, need_weights=need_weights, **MASKS[mask](len(x)))[0]
        return self.fc(out.mean(1 if batch_first else 0))

    torch.manual_seed(1)
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options)
    return Does(forward, attention=layer, fc=nn.Linear(WIDTH, 3))


def rows_over(model: nn.Module, x: Tensor, sizes: list[int]) -> pd.DataFrame:
    return se.profile(model, list(x.split(sizes)), time_steps=1).to_frame()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_does_not_depend_on_how_samples_are_dealt(batch_first: bool, need_weights: bool, mask: str) -> None:
    model, x = attention(batch_first, need_weights, mask), torch.rand(SAMPLES, TOKENS, WIDTH)
    whole = rows_over(model, x, [SAMPLES])
    for sizes in SPLITS:
        pd.testing.assert_frame_equal(rows_over(model, x, sizes), whole)
    work = whole[whole["dense_macs"] > 0].set_index("layer")["sops"]
    per_sample = {"in": TOKENS * WIDTH * 3 * WIDTH, "out": TOKENS * WIDTH * WIDTH, "head": WIDTH * 3}
    scores, weighted = TOKENS * TOKENS * WIDTH, TOUCHED[mask] * WIDTH
    assert int(work.sum()) == SAMPLES * (sum(per_sample.values()) + scores + weighted)


OPTIONS: dict[str, dict[str, Any]] = {
    "no bias": {"bias": False},
    "zero attention": {"add_zero_attn": True},
    "bias of keys and values": {"add_bias_kv": True},
    "widths of their own": {"kdim": WIDTH, "vdim": WIDTH},
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_of_attention_is_as_good(options: str, batch_first: bool) -> None:
    model = attention(batch_first, False, "no mask", **OPTIONS[options])
    x = torch.rand(SAMPLES, TOKENS, WIDTH)
    whole = rows_over(model, x, [SAMPLES])
    for sizes in SPLITS:
        pd.testing.assert_frame_equal(rows_over(model, x, sizes), whole)


def encoder(norm_first: bool, batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_encoder_does_not_depend_on_how_samples_are_dealt(batch_first: bool, norm_first: bool, masked: bool) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = x if batch_first else x.transpose(0, 1)
        out = self.encoder(h, **({"mask": causal(1)["attn_mask"]} if masked else {}))
        return self.fc(out.mean(1 if batch_first else 0))

    torch.manual_seed(1)
    model = Does(forward, encoder=encoder(norm_first, batch_first), fc=nn.Linear(WIDTH, 3))
    x = torch.rand(SAMPLES, TOKENS, WIDTH)
    whole = rows_over(model, x, [SAMPLES])
    for sizes in SPLITS:
        pd.testing.assert_frame_equal(rows_over(model, x, sizes), whole)
    weights = whole.drop_duplicates("layer")["weights"].sum()
    assert weights == sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1)
