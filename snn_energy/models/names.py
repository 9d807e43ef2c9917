"""One registry of model names: ``{family}-{depth}-{dim}`` for any depth and dim, a few of them listed, and the CNNs.

Does not import torch, so that names can be listed and errors raised without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from snn_energy.core.errors import ModelError, nearest

FAMILIES = {
    "vit": "non-spiking twin: softmax attention, real activations, T = 1",
    "spikformer": "Spikformer, every layer runs all T time steps",
    "dts-spikformer": "Spikformer with dynamic time step (DTSS) layers",
    "public-spikformer": "Spikformer as its authors publish it, for their weights: patch 4 CIFAR, patch 16 ImageNet",
}
LISTED_SIZES = ((2, 64), (2, 128), (4, 256), (4, 384), (6, 512), (8, 384), (8, 512), (10, 512), (8, 768))
_NAME = re.compile(rf"^(?P<family>{'|'.join(FAMILIES)})-(?P<depth>[1-9]\d*)-(?P<dim>[1-9]\d*)$")
Architecture = Literal["vgg16", "resnet19", "preact-resnet18"]


@dataclass(frozen=True)
class CnnDefaults:
    """Defaults of a named convolutional network; neuron, leak and v_th as at the start of its authors' training.

    pools_before_norm: the pool is between convolution and BatchNorm, not after the neurons. spiking: False for the
    twin with ReLUs and one time step. dynamic: its neurons are DTSS layers.
    """

    description: str
    architecture: Architecture
    time_steps: int
    neuron: Literal["paper", "spikformer", "hoyer"] = "paper"
    leak: float = 1.0
    v_th: float = 1.0
    pooling: Literal["avg", "max"] | None = None
    pools_before_norm: bool = False
    spiking: bool = True
    dynamic: bool = False


_PUBLISHED = {
    "vgg16": CnnDefaults("VGG16 of Diet-SNN: soft reset, average pools", "vgg16", 5, pooling="avg"),
    "vgg16-hoyer": CnnDefaults(
        "VGG16 with Hoyer neurons: max-pool before BatchNorm",
        "vgg16",
        1,
        "hoyer",
        pooling="max",
        pools_before_norm=True,
    ),
    "resnet19": CnnDefaults("ResNet-19 of tdBN and TET: hard reset", "resnet19", 4, "spikformer", 0.5, 0.5),
    "preact-resnet18": CnnDefaults("PreAct-ResNet-18 of DSR: soft reset", "preact-resnet18", 20, v_th=0.3),
}
_WITH_VARIANTS = ("vgg16", "resnet19", "preact-resnet18")
CNNS: dict[str, CnnDefaults] = {
    **_PUBLISHED,
    **{
        f"dts-{name}": replace(
            _PUBLISHED[name], description=f"{name} with dynamic time step (DTSS) layers", dynamic=True
        )
        for name in _WITH_VARIANTS
    },
    **{
        f"{name}-ann": CnnDefaults(
            f"non-spiking twin of {name}: ReLU",
            _PUBLISHED[name].architecture,
            1,
            pooling=_PUBLISHED[name].pooling,
            spiking=False,
        )
        for name in _WITH_VARIANTS
    },
}


def list_models() -> list[str]:
    """The CNNs and the published and shipped sizes; any other ``{family}-{depth}-{dim}`` works as well."""
    return [f"{family}-{depth}-{dim}" for family in FAMILIES for depth, dim in LISTED_SIZES] + list(CNNS)


def parse_name(name: str) -> tuple[str, int, int]:
    """``"vit-4-384"`` -> ``("vit", 4, 384)``. Raises ModelError with the nearest known name."""
    match = _NAME.match(name)
    if match is None:
        raise ModelError(
            f"unknown model '{name}'{nearest(name, list_models())} "
            f"(names have the form FAMILY-DEPTH-DIM with FAMILY one of {', '.join(FAMILIES)}, or name a CNN such as "
            f"{', '.join(_PUBLISHED)}; see: snn-energy models)"
        )
    return match["family"], int(match["depth"]), int(match["dim"])


def family_of(name: str) -> str:
    """vit, spikformer or dts-spikformer; a CNN is its own family. Raises ModelError with the nearest known name."""
    return name if name in CNNS else parse_name(name)[0]


def is_spiking(name: str) -> bool:
    """True for a network of spiking neurons, DTSS layers or not. Raises ModelError."""
    return CNNS[name].spiking if name in CNNS else parse_name(name)[0] != "vit"


def has_dtss_layers(name: str) -> bool:
    """True for a network whose layers learn their time steps. Raises ModelError."""
    return CNNS[name].dynamic if name in CNNS else parse_name(name)[0] == "dts-spikformer"


def default_time_steps(name: str) -> int:
    """Default T_max: the published one of a CNN, 4 for a Spikformer, 1 without spikes. Raises ModelError."""
    if name in CNNS:
        return CNNS[name].time_steps
    return 1 if parse_name(name)[0] == "vit" else 4


def default_heads(dim: int) -> int:
    """Heads of the public code: 32 channels each up to D = 384 (12 at 384), 64 each above (8 at 512).

    If these do not divide D, the largest smaller number that does.
    """
    target = max(1, dim // (32 if dim <= 384 else 64))
    return next(heads for heads in range(target, 0, -1) if dim % heads == 0)


def default_patch_size(image_size: int) -> int:
    """4 up to 64-pixel images (two max-pools), 16 above (four); the largest power of two below that divides."""
    target = 4 if image_size <= 64 else 16
    return next(size for size in (16, 8, 4, 2, 1) if size <= target and image_size % size == 0)
