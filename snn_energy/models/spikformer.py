"""Spikformer-N-D as the DTSS paper builds it, and its non-spiking twin of the same shape.

All linear layers are convolutions without bias, each followed by BatchNorm; no softmax and no LayerNorm in
the spiking network; direct encoding (the image is repeated at every time step); spiking patch splitting (SPS)
with a relative position embedding (RPE); residual sums. The twin puts real activations where the LIFs are, a
softmax on the attention, and has one time step.

Shapes: B images, T time steps, D channels, N tokens, h heads, d = D/h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from snn_energy.errors import ModelError, nearest
from snn_energy.models import fused
from snn_energy.models.neurons import DTSS, LIF, NeuronRule
from snn_energy.models.registry import FAMILIES
from snn_energy.models.skipping import forward_skipping, has_hooks

LARGEST_DEPTH, LARGEST_DIM = 1000, 2**15  # nobody's network; a slip of the pen would fill the memory
ATTENTION_SCALE = 0.125  # a constant in paper and public code, whatever the head size
ATTENTION_V_TH = 0.5  # threshold of the LIF behind the attention product (public code)


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes the shape and the dynamics of a network; what a checkpoint's metadata holds.

    ``family`` is spikformer, dts-spikformer or vit. ``patch_size`` 2**n puts n max-pools behind the last n of
    the four SPS stages. ``initial_steps`` and ``min_steps`` concern dts-spikformer alone, ``surrogate_gamma`` (the
    paper's gamma) training alone.
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
        """Raise ModelError where sizes do not fit together."""
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


MakeNeuron = Callable[[float], LIF]


def sps_channels(config: TransformerConfig) -> list[int]:
    """Channels before and after each of the four SPS convolutions: C, D/8, D/4, D/2, D."""
    return [config.in_channels, config.dim // 8, config.dim // 4, config.dim // 2, config.dim]


def sps_pools(config: TransformerConfig) -> list[bool]:
    """Which of the four SPS stages end in a max-pool: the last log2(patch_size)."""
    return [i >= 5 - config.patch_size.bit_length() for i in range(4)]


class PatchSplitting(nn.Module):
    """SPS: four 3x3 convolutions with BN, LIF and (in the last ones) a max-pool, then the RPE convolution.

    Shape: (T, B, C, H, W) -> (T, B, D, N) with N = (H/patch) * (W/patch).
    """

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        channels = sps_channels(config)
        self.pools = sps_pools(config)
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels[i + 1]))
            self.add_module(f"lif{i}", make_lif(1.0))
            if self.pools[i]:
                self.add_module(f"pool{i}", nn.MaxPool2d(3, stride=2, padding=1))
        self.rpe_conv = nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(config.dim)
        self.rpe_lif = make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, C, H, W) -> (T, B, D, N)."""
        time_batch = x.shape[:2]
        x = x.flatten(0, 1)
        for i, pool in enumerate(self.pools):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            x = self.get_submodule(f"lif{i}")(x.unflatten(0, time_batch)).flatten(0, 1)
            if pool:
                x = self.get_submodule(f"pool{i}")(x)
        position = self.rpe_lif(self.rpe_bn(self.rpe_conv(x)).unflatten(0, time_batch))
        tokens: Tensor = (x.unflatten(0, time_batch) + position).flatten(3)
        return tokens


class SpikingSelfAttention(nn.Module):
    """SSA: q, k, v spikes; (q kT) * scale; times v; LIF; projection. Shape: (T, B, D, N) -> (T, B, D, N)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.q_conv, self.q_bn, self.q_lif = (
            nn.Conv1d(dim, dim, 1, bias=False),
            nn.BatchNorm1d(dim),
            make_lif(1.0),
        )
        self.k_conv, self.k_bn, self.k_lif = (
            nn.Conv1d(dim, dim, 1, bias=False),
            nn.BatchNorm1d(dim),
            make_lif(1.0),
        )
        self.v_conv, self.v_bn, self.v_lif = (
            nn.Conv1d(dim, dim, 1, bias=False),
            nn.BatchNorm1d(dim),
            make_lif(1.0),
        )
        self.lif = make_lif(ATTENTION_V_TH)
        self.proj_conv, self.proj_bn = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim)
        self.proj_lif = make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, D, N), spikes or sums of spikes."""
        time_batch = x.shape[:2]
        flat = x.flatten(0, 1)  # (T*B, D, N)
        q = self.q_lif(self.q_bn(self.q_conv(flat)).unflatten(0, time_batch)).unflatten(2, (self.heads, -1))
        k = self.k_lif(self.k_bn(self.k_conv(flat)).unflatten(0, time_batch)).unflatten(2, (self.heads, -1))
        v = self.v_lif(self.v_bn(self.v_conv(flat)).unflatten(0, time_batch)).unflatten(2, (self.heads, -1))
        attention = (q.transpose(-2, -1) @ k) * ATTENTION_SCALE  # (T, B, h, N, N)
        mixed = (attention @ v.transpose(-2, -1)).transpose(-2, -1).flatten(2, 3)  # (T, B, D, N)
        spikes = self.lif(mixed).flatten(0, 1)
        projected: Tensor = self.proj_lif(self.proj_bn(self.proj_conv(spikes)).unflatten(0, time_batch))
        return projected


class SpikingMLP(nn.Module):
    """Two 1x1 convolutions with BN and LIF each. Shape: (T, B, D, N) -> (T, B, D, N)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.fc1_conv, self.fc1_bn = nn.Conv1d(dim, hidden, 1, bias=False), nn.BatchNorm1d(hidden)
        self.fc1_lif = make_lif(1.0)
        self.fc2_conv, self.fc2_bn = nn.Conv1d(hidden, dim, 1, bias=False), nn.BatchNorm1d(dim)
        self.fc2_lif = make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, D, N), sums of spikes."""
        time_batch = x.shape[:2]
        hidden = self.fc1_lif(self.fc1_bn(self.fc1_conv(x.flatten(0, 1))).unflatten(0, time_batch))
        out: Tensor = self.fc2_lif(self.fc2_bn(self.fc2_conv(hidden.flatten(0, 1))).unflatten(0, time_batch))
        return out


class Block(nn.Module):
    """x + SSA(x), then x + MLP(x)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        self.attn = SpikingSelfAttention(config, make_lif)
        self.mlp = SpikingMLP(config, make_lif)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, D, N)."""
        x = x + self.attn(x)
        x = x + self.mlp(x)
        return x


class Spikformer(nn.Module):
    """Spikformer-N-D; with family ``dts-spikformer`` every LIF is a DTSS layer.

    Shape: images (B, C, H, W) -> logits (B, classes). Time is inside: the image is repeated ``time_steps``
    times and the tokens are averaged over space and time before the head. ``fused``: training goes the way of
    ``models/fused.py``, where it applies.
    """

    fused = False

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        config.validate()

        def make_lif(v_th: float) -> LIF:
            if config.family == "dts-spikformer":
                return DTSS(
                    config.time_steps,
                    config.initial_steps,
                    config.min_steps,
                    config.leak,
                    v_th,
                    config.neuron,
                    config.surrogate_gamma,
                )
            return LIF(config.leak, v_th, config.neuron, config.surrogate_gamma)

        self.config, self.time_steps = config, config.time_steps
        self.skips_time_steps = config.family == "dts-spikformer"
        self.sps = PatchSplitting(config, make_lif)
        self.blocks = nn.ModuleList(Block(config, make_lif) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits (B, classes).

        At inference a network of DTSS layers computes only the time steps that its masks let matter
        (``models/skipping.py``): the logits are the same. Not so where ``skips_time_steps`` is False, or where hooks
        wait for what every layer gives at every step.
        """
        if self.skips_time_steps and not (self.training or torch.is_grad_enabled() or has_hooks(self)):
            return forward_skipping(self, images, ATTENTION_SCALE)
        logits: Tensor = self.head(self._features(images).mean(0))
        return logits

    def forward_steps(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits of every time step (T, B, classes); their mean is what ``forward`` gives."""
        logits: Tensor = self.head(self._features(images))
        return logits

    def _features(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> (T, B, D), averaged over the tokens."""
        if self.fused and fused.applies(self, images):
            return fused.features(self, images, ATTENTION_SCALE)
        x = images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)  # direct encoding
        x = self.sps(x)
        for block in self.blocks:
            x = block(x)
        features: Tensor = x.mean(3)
        return features


def spiking_layers(model: nn.Module) -> dict[str, LIF]:
    """Qualified name -> LIF or DTSS layer, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LIF)}


def time_steps_by_layer(model: nn.Module) -> dict[str, int]:
    """T_l of every DTSS layer of a model."""
    return {name: layer.active_steps() for name, layer in spiking_layers(model).items() if isinstance(layer, DTSS)}
