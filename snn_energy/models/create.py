"""Build a network from its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snn_energy.core.errors import ModelError, nearest
from snn_energy.models.names import CNNS, default_heads, default_patch_size, default_time_steps, family_of, parse_name

if TYPE_CHECKING:
    from snn_energy.models.cnn import Cnn
    from snn_energy.models.public_spikformer import PublicSpikformer
    from snn_energy.models.spikformer import Spikformer
    from snn_energy.models.vit import VisionTransformer


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
) -> Spikformer | PublicSpikformer | VisionTransformer | Cnn:
    """Build a network from its name, randomly initialised, in training mode.

    time_steps: T_max, see ``default_time_steps``. heads, patch_size (transformers): see ``default_heads`` and
    ``default_patch_size``. Further options are fields of ``TransformerConfig``: mlp_ratio, leak, neuron ("paper",
    "spikformer" or "hoyer"), initial_steps, min_steps; or of ``CnnConfig``: width (times the published channels),
    leak, v_th, neuron, pooling ("avg" or "max") and batch_norm (VGG16 only), initial_steps, min_steps.
    Raises ModelError.
    """
    sizes: dict[str, Any] = {
        "family": family_of(name),
        "time_steps": default_time_steps(name) if time_steps is None else time_steps,
        "image_size": image_size,
        "in_channels": in_channels,
        "num_classes": num_classes,
    }
    if name in CNNS:
        from snn_energy.models.cnn import CnnConfig, make_cnn

        transformer_options = {
            key: value for key, value in {"heads": heads, "patch_size": patch_size}.items() if value is not None
        }
        _require_known(name, {**transformer_options, **options}, set(CnnConfig.__dataclass_fields__) - set(sizes))
        defaults = CNNS[name]
        name_defaults = {key: getattr(defaults, key) for key in ("neuron", "leak", "v_th", "pooling")}
        return make_cnn(CnnConfig(**sizes, **{**name_defaults, **options}))
    from snn_energy.models.public_spikformer import PublicSpikformer
    from snn_energy.models.spikformer import Spikformer
    from snn_energy.models.transformer_config import TransformerConfig
    from snn_energy.models.vit import VisionTransformer

    family, depth, dim = parse_name(name)
    _require_known(name, options, set(TransformerConfig.__dataclass_fields__) - {"family", "depth", "dim"})
    config = TransformerConfig(
        **sizes,
        depth=depth,
        dim=dim,
        heads=default_heads(dim) if heads is None else heads,
        patch_size=default_patch_size(image_size) if patch_size is None else patch_size,
        **({"neuron": "spikformer"} if family == "public-spikformer" else {}) | options,
    )
    if family == "public-spikformer":
        return PublicSpikformer(config)
    return VisionTransformer(config) if family == "vit" else Spikformer(config)


def _require_known(name: str, options: dict[str, Any], known: set[str]) -> None:
    """Raise ModelError for an option that the network does not have."""
    for key in options:
        if key not in known:
            raise ModelError(f"unknown option '{key}' for model '{name}'{nearest(key, known)}")
