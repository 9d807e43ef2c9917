"""One registry of model names: ``{family}-{depth}-{dim}`` for any depth and dim, a few of them listed.

Knows no torch, so that names can be listed and errors told without loading it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from snn_energy.errors import ModelError, nearest

if TYPE_CHECKING:
    from snn_energy.models.spikformer import Spikformer
    from snn_energy.models.vit import VisionTransformer

FAMILIES = {
    "vit": "non-spiking twin: softmax attention, real activations, T = 1",
    "spikformer": "Spikformer, every layer runs all T time steps",
    "dts-spikformer": "Spikformer with dynamic time step (DTSS) layers",
}
LISTED_SIZES = ((2, 64), (2, 128), (4, 256), (4, 384), (6, 512), (8, 384), (8, 512), (10, 512), (8, 768))
_NAME = re.compile(r"^(?P<family>vit|spikformer|dts-spikformer)-(?P<depth>[1-9]\d*)-(?P<dim>[1-9]\d*)$")


def list_models() -> list[str]:
    """The names of published and shipped sizes; any other ``{family}-{depth}-{dim}`` works as well."""
    return [f"{family}-{depth}-{dim}" for family in FAMILIES for depth, dim in LISTED_SIZES]


def parse_name(name: str) -> tuple[str, int, int]:
    """``"vit-4-384"`` -> ``("vit", 4, 384)``. Raises ModelError with the nearest known name."""
    match = _NAME.match(name)
    if match is None:
        raise ModelError(
            f"unknown model '{name}'{nearest(name, list_models())} "
            f"(names read FAMILY-DEPTH-DIM with FAMILY one of {', '.join(FAMILIES)}; see: snn-energy models)"
        )
    return match["family"], int(match["depth"]), int(match["dim"])


def default_heads(dim: int) -> int:
    """Heads of the public code: 32 channels each up to D = 384 (12 at 384), 64 each above (8 at 512).

    Where these do not divide D, the largest smaller number that does.
    """
    wanted = max(1, dim // (32 if dim <= 384 else 64))
    return next(heads for heads in range(wanted, 0, -1) if dim % heads == 0)


def default_patch_size(image_size: int) -> int:
    """4 up to 64-pixel images (two max-pools), 16 above (four); the largest power of two below that divides."""
    wanted = 4 if image_size <= 64 else 16
    return next(size for size in (16, 8, 4, 2, 1) if size <= wanted and image_size % size == 0)


def create_model(
    name: str,
    *,
    image_size: int = 32,
    num_classes: int = 10,
    in_channels: int = 3,
    time_steps: int | None = None,
    heads: int | None = None,
    patch_size: int | None = None,
    **options: Any,
) -> Spikformer | VisionTransformer:
    """Build a network from its name, randomly initialised, in training mode.

    time_steps: T_max, 4 unless given; a ``vit`` has 1. heads, patch_size: see ``default_heads`` and
    ``default_patch_size``. Further options are fields of ``TransformerConfig``:
    mlp_ratio, leak, neuron ("paper" or "spikformer"), initial_steps, min_steps. Raises ModelError.
    """
    from snn_energy.models.spikformer import Spikformer, TransformerConfig
    from snn_energy.models.vit import VisionTransformer

    family, depth, dim = parse_name(name)
    known = set(TransformerConfig.__dataclass_fields__) - {"family", "depth", "dim"}  # the name says these
    for key in options:
        if key not in known:
            raise ModelError(f"unknown option '{key}' for model '{name}'{nearest(key, known)}")
    config = TransformerConfig(
        family=family,
        depth=depth,
        dim=dim,
        heads=default_heads(dim) if heads is None else heads,
        time_steps=(1 if family == "vit" else 4) if time_steps is None else time_steps,
        image_size=image_size,
        in_channels=in_channels,
        num_classes=num_classes,
        patch_size=default_patch_size(image_size) if patch_size is None else patch_size,
        **options,
    )
    return VisionTransformer(config) if family == "vit" else Spikformer(config)
