"""Spikformer as published: its authors' names of layers and parameters, biases and neurons, so that their weights load.

Two layouts (github.com/ZK-Zhou/spikformer, cifar10/model.py and imagenet/model.py), distinguished by the patch size:

- CIFAR, patch 4: a max-pool after the third and fourth SPS stage; q, k, v, projection and MLP are linear layers with
  bias on (B, N, D) tokens; (q kT) v.
- ImageNet, patch 16: a max-pool after all four; 1x1 convolutions on (B, D, N) tokens, those of q, k, v without bias;
  q (kT v).

Both: LIF with tau = 2, v >= V_th, hard reset to 0 and amplitude 1 (rule "spikformer" with leak 0.5), V_th = 0.5 after
the attention and 1 elsewhere; two LayerNorms per block that hold weights and are never called.

Shapes: B images, T time steps, D channels, N tokens, h heads, d = D/h.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from snn_energy.core.errors import ModelError
from snn_energy.models.neurons import LIF
from snn_energy.models.spikformer_blocks import MakeNeuron
from snn_energy.models.transformer_config import (
    ATTENTION_SCALE,
    ATTENTION_V_TH,
    TransformerConfig,
    sps_channels,
    sps_pools,
)

LAYOUTS = {4: "CIFAR", 16: "ImageNet"}  # by patch size


class PatchEmbedding(nn.Module):
    """SPS: four 3x3 convolutions with BN, LIF and (in the last ones) a max-pool, then the RPE convolution.

    Shape: (T, B, C, H, W) -> (T, B, D, H/patch, W/patch).
    """

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        channels, pools = sps_channels(config), sps_pools(config)
        self.stages = tuple(zip(("", "1", "2", "3"), pools, strict=True))
        for i, (suffix, pool) in enumerate(self.stages):
            self.add_module(f"proj_conv{suffix}", nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False))
            self.add_module(f"proj_bn{suffix}", nn.BatchNorm2d(channels[i + 1]))
            self.add_module(f"proj_lif{suffix}", make_lif(1.0))
            if pool:
                self.add_module(f"maxpool{suffix}", nn.MaxPool2d(3, stride=2, padding=1))
        self.rpe_conv = nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(config.dim)
        self.rpe_lif = make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, C, H, W)."""
        time_batch = x.shape[:2]
        x = x.flatten(0, 1)
        for suffix, pool in self.stages:
            x = self.get_submodule(f"proj_bn{suffix}")(self.get_submodule(f"proj_conv{suffix}")(x))
            x = self.get_submodule(f"proj_lif{suffix}")(x.unflatten(0, time_batch)).flatten(0, 1)
            if pool:
                x = self.get_submodule(f"maxpool{suffix}")(x)
        position = self.rpe_lif(self.rpe_bn(self.rpe_conv(x)).unflatten(0, time_batch))
        embedded: Tensor = position + x.unflatten(0, time_batch)
        return embedded


def _over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm of tokens (B, N, D) over their channels."""
    normalised: Tensor = norm(x.transpose(-1, -2)).transpose(-1, -2)
    return normalised


class LinearAttention(nn.Module):
    """SSA of the CIFAR layout: ((q kT) * scale) v. Shape: (T, B, N, D) -> (T, B, N, D)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        self.heads = config.heads
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_linear", nn.Linear(config.dim, config.dim))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(config.dim))
            self.add_module(f"{name}_lif", make_lif(1.0))
        self.attn_lif = make_lif(ATTENTION_V_TH)

    def _spikes(self, name: str, x: Tensor, time_batch: tuple[int, ...]) -> Tensor:
        """x: (T*B, N, D) -> (T, B, N, D)."""
        linear, norm = self.get_submodule(f"{name}_linear"), self.get_submodule(f"{name}_bn")
        spikes: Tensor = self.get_submodule(f"{name}_lif")(_over_channels(norm, linear(x)).unflatten(0, time_batch))
        return spikes

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, N, D), sums of spikes."""
        time_batch, flat = x.shape[:2], x.flatten(0, 1)
        q, k, v = (
            self._spikes(name, flat, time_batch).unflatten(3, (self.heads, -1)).transpose(2, 3)  # (T, B, h, N, d)
            for name in ("q", "k", "v")
        )
        attention = (q @ k.transpose(-2, -1)) * ATTENTION_SCALE  # (T, B, h, N, N)
        mixed = self.attn_lif((attention @ v).transpose(2, 3).flatten(3))  # (T, B, N, D)
        return self._spikes("proj", mixed.flatten(0, 1), time_batch)


class LinearMLP(nn.Module):
    """Two linear layers with BN and LIF each, of the CIFAR layout. Shape: (T, B, N, D) -> (T, B, N, D)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.fc1_linear, self.fc1_bn, self.fc1_lif = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), make_lif(1.0)
        self.fc2_linear, self.fc2_bn, self.fc2_lif = nn.Linear(hidden, dim), nn.BatchNorm1d(dim), make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, N, D), sums of spikes."""
        time_batch = x.shape[:2]
        hidden = self.fc1_lif(_over_channels(self.fc1_bn, self.fc1_linear(x.flatten(0, 1))).unflatten(0, time_batch))
        out: Tensor = self.fc2_lif(
            _over_channels(self.fc2_bn, self.fc2_linear(hidden.flatten(0, 1))).unflatten(0, time_batch)
        )
        return out


class ConvAttention(nn.Module):
    """SSA of the ImageNet layout: (q (kT v)) * scale. Shape: (T, B, D, H, W) -> (T, B, D, H, W)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        self.heads = config.heads
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Conv1d(config.dim, config.dim, 1, bias=name == "proj"))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(config.dim))
            self.add_module(f"{name}_lif", make_lif(1.0))
        self.attn_lif = make_lif(ATTENTION_V_TH)

    def _spikes(self, name: str, x: Tensor, time_batch: tuple[int, ...]) -> Tensor:
        """x: (T*B, D, N) -> (T, B, D, N)."""
        conv, norm = self.get_submodule(f"{name}_conv"), self.get_submodule(f"{name}_bn")
        spikes: Tensor = self.get_submodule(f"{name}_lif")(norm(conv(x)).unflatten(0, time_batch))
        return spikes

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, D, H, W), sums of spikes."""
        time_batch, image, flat = x.shape[:2], x.shape[3:], x.flatten(0, 1).flatten(2)
        q, k, v = (
            self._spikes(name, flat, time_batch).unflatten(2, (self.heads, -1)).transpose(-2, -1)  # (T, B, h, N, d)
            for name in ("q", "k", "v")
        )
        mixed = (q @ (k.transpose(-2, -1) @ v)) * ATTENTION_SCALE
        spikes = self.attn_lif(mixed.transpose(-2, -1).flatten(2, 3))  # (T, B, D, N)
        projected: Tensor = self._spikes("proj", spikes.flatten(0, 1), time_batch).unflatten(3, image)
        return projected


class ConvMLP(nn.Module):
    """Two 1x1 convolutions with BN and LIF each, of the ImageNet layout. Shape: (T, B, D, H, W) -> (T, B, D, H, W)."""

    def __init__(self, config: TransformerConfig, make_lif: MakeNeuron) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.fc1_conv, self.fc1_bn, self.fc1_lif = nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden), make_lif(1.0)
        self.fc2_conv, self.fc2_bn, self.fc2_lif = nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim), make_lif(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, D, H, W), sums of spikes."""
        time_batch = x.shape[:2]
        hidden = self.fc1_lif(self.fc1_bn(self.fc1_conv(x.flatten(0, 1))).unflatten(0, time_batch))
        out: Tensor = self.fc2_lif(self.fc2_bn(self.fc2_conv(hidden.flatten(0, 1))).unflatten(0, time_batch))
        return out


MakePart = Callable[[TransformerConfig, MakeNeuron], nn.Module]


class PublicBlock(nn.Module):
    """x + SSA(x), then x + MLP(x). The LayerNorms are only in the state dict: the published forward skips them."""

    def __init__(
        self, config: TransformerConfig, make_lif: MakeNeuron, make_attention: MakePart, make_mlp: MakePart
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attn, self.mlp = make_attention(config, make_lif), make_mlp(config, make_lif)

    def forward(self, x: Tensor) -> Tensor:
        """x: tokens of either layout."""
        x = x + self.attn(x)
        x = x + self.mlp(x)
        return x


class PublicSpikformer(nn.Module):
    """The published Spikformer. Shape: images (B, C, H, W) -> logits (B, classes).

    Time is internal: the image is repeated ``time_steps`` times and the tokens are averaged over space and time before
    the head. Raises ModelError for a patch size of neither layout and for another neuron than the published one.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        config.validate()
        if config.patch_size not in LAYOUTS:
            known = ", ".join(f"{size} ({layout})" for size, layout in LAYOUTS.items())
            raise ModelError(f"{config.name}: patch_size must be one of {known}, not {config.patch_size}")
        if config.neuron != "spikformer":
            raise ModelError(f"{config.name}: its neuron is 'spikformer', not '{config.neuron}'")

        def make_lif(v_th: float) -> LIF:
            return LIF(config.leak, v_th, config.neuron, config.surrogate_gamma)

        self.config, self.time_steps, self.layout = config, config.time_steps, LAYOUTS[config.patch_size]
        parts: tuple[MakePart, MakePart] = (
            (LinearAttention, LinearMLP) if self.layout == "CIFAR" else (ConvAttention, ConvMLP)
        )
        self.patch_embed = PatchEmbedding(config, make_lif)
        self.block = nn.ModuleList(PublicBlock(config, make_lif, *parts) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits (B, classes)."""
        logits: Tensor = self.head(self._features(images).mean(0))
        return logits

    def forward_steps(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits of every time step (T, B, classes); their mean is what ``forward`` returns."""
        logits: Tensor = self.head(self._features(images))
        return logits

    def _features(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> (T, B, D), averaged over the tokens."""
        x = self.patch_embed(images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1))
        if self.layout == "CIFAR":
            x = x.flatten(3).transpose(-1, -2)  # (T, B, N, D)
        for block in self.block:
            x = block(x)
        features: Tensor = x.mean(2) if self.layout == "CIFAR" else x.flatten(3).mean(3)
        return features
