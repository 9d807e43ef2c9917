"""The shape and the dynamics of a vision transformer, spiking or not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from snn_energy.core.errors import ModelError, nearest
from snn_energy.models.names import FAMILIES
from snn_energy.models.neurons import NeuronRule

LARGEST_DEPTH, LARGEST_DIM = 1000, 2**15  # beyond any real network; a typo would exhaust memory
ATTENTION_SCALE = 0.125  # a constant in paper and public code, independent of the head size
ATTENTION_V_TH = 0.5  # threshold of the LIF after the attention product (public code)


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that determines the shape and the dynamics of a network; stored in a checkpoint's metadata.

    ``family`` is spikformer, dts-spikformer, public-spikformer or vit. ``patch_size`` 2**n puts max-pools after the
    last n of the four SPS stages. ``initial_steps`` and ``min_steps`` apply only to dts-spikformer,
    ``surrogate_gamma`` (the paper's gamma) only to training.
    """

    family: str
    depth: int
    dim: int
    heads: int
    time_steps: int
    image_size: int
    in_channels: int
    num_classes: int
    patch_size: int
    mlp_ratio: int = 4
    leak: float = 0.5
    neuron: NeuronRule = "paper"
    initial_steps: int | None = None
    min_steps: int = 0
    surrogate_gamma: float = 1.0

    @property
    def name(self) -> str:
        """The registry name, such as ``dts-spikformer-4-384``."""
        return f"{self.family}-{self.depth}-{self.dim}"

    def validate(self) -> None:
        """Raise ModelError if the sizes are inconsistent."""
        if self.family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ModelError(f"family must be one of {known}, not '{self.family}'{nearest(self.family, FAMILIES)}")
        sizes = asdict(self)
        for key in (
            "depth",
            "dim",
            "heads",
            "time_steps",
            "image_size",
            "in_channels",
            "num_classes",
            "patch_size",
            "mlp_ratio",
        ):
            if not isinstance(sizes[key], int) or sizes[key] < 1:
                raise ModelError(f"{key} must be a whole number of at least 1, not {sizes[key]!r}")
        if self.depth > LARGEST_DEPTH or self.dim > LARGEST_DIM:
            raise ModelError(
                f"depth up to {LARGEST_DEPTH} and dim up to {LARGEST_DIM}, not {self.depth} and {self.dim}"
            )
        if self.dim % 8:
            raise ModelError(f"dim must be a multiple of 8 (SPS starts with dim/8 channels), not {self.dim}")
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.patch_size not in (1, 2, 4, 8, 16):
            raise ModelError(f"patch_size must be 1, 2, 4, 8 or 16, not {self.patch_size}")
        if self.image_size % self.patch_size:
            raise ModelError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.family == "vit" and self.time_steps != 1:
            raise ModelError(f"a non-spiking {self.name} has one time step, not {self.time_steps}")


def sps_channels(config: TransformerConfig) -> list[int]:
    """Channels before and after each of the four SPS convolutions: C, D/8, D/4, D/2, D."""
    return [config.in_channels, config.dim // 8, config.dim // 4, config.dim // 2, config.dim]


def sps_pools(config: TransformerConfig) -> list[bool]:
    """Which of the four SPS stages end in a max-pool: the last log2(patch_size)."""
    return [i >= 5 - config.patch_size.bit_length() for i in range(4)]
