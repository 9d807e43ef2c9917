"""Which part of a vision transformer an operation belongs to, derived from its qualified module name."""

from __future__ import annotations

import re
from typing import Literal

Group = Literal["sps", "qkv", "attn", "mlp", "head", "other"]
GROUPS: tuple[Group, ...] = ("sps", "qkv", "attn", "mlp", "head", "other")

# The first match wins; names are split at dots, and a "#matmul0" suffix is ignored.
_PATTERNS: tuple[tuple[Group, re.Pattern[str]], ...] = (
    ("head", re.compile(r"^(head|classifier|fc)(\.|$)")),
    ("sps", re.compile(r"(^|\.)(sps|patch_embed)(\.|$)")),
    ("qkv", re.compile(r"(^|\.)(attn|attention|self_attn)\.(q|k|v|qkv)(_|\.|$)")),
    ("attn", re.compile(r"(^|\.)(attn|attention|self_attn)(\.|$)")),
    ("mlp", re.compile(r"(^|\.)mlp(\.|$)")),
)


def layer_group(layer: str) -> Group:
    """Group of a layer name: sps (patch splitting with RPE), qkv, attn, mlp, head or other.

    >>> layer_group("blocks.0.attn.q_lif"), layer_group("blocks.0.attn#matmul1"), layer_group("sps.conv1")
    ('qkv', 'attn', 'sps')
    """
    name = layer.split("#", 1)[0]
    return next((group for group, pattern in _PATTERNS if pattern.search(name)), "other")


MaskGroup = Literal["sps", "qkv", "attn", "mlp", "other"]  # the layers of a CNN are "other"
MASK_GROUPS: tuple[MaskGroup, ...] = ("sps", "qkv", "attn", "mlp")
