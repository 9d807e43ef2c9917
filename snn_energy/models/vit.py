"""The non-spiking twin of Spikformer-N-D: same shape, softmax attention, real activations, one time step.

Where the spiking network has a LIF after an SPS convolution, the twin has a ReLU; q, k, v and the projection
are linear, as in any ViT; the MLP has a GELU. Every convolution, product and the head have the same dense
MACs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from snn_energy.models.transformer_config import ATTENTION_SCALE, TransformerConfig, sps_channels, sps_pools


class PatchEmbedding(nn.Module):
    """Four 3x3 convolutions with BN, ReLU and max-pools, then the RPE one. (B, C, H, W) -> (B, D, N)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        channels = sps_channels(config)
        self.pools = sps_pools(config)
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels[i + 1]))
            self.add_module(f"act{i}", nn.ReLU())
            if self.pools[i]:
                self.add_module(f"pool{i}", nn.MaxPool2d(3, stride=2, padding=1))
        self.rpe_conv = nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(config.dim)
        self.rpe_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, D, N)."""
        for i, pool in enumerate(self.pools):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            x = self.get_submodule(f"act{i}")(x)
            if pool:
                x = self.get_submodule(f"pool{i}")(x)
        x = x + self.rpe_act(self.rpe_bn(self.rpe_conv(x)))
        return x.flatten(2)


class SoftmaxAttention(nn.Module):
    """softmax(q kT * scale) v and a projection. (B, D, N) -> (B, D, N)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.q_conv, self.q_bn = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim)
        self.k_conv, self.k_bn = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim)
        self.v_conv, self.v_bn = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim)
        self.proj_conv, self.proj_bn = nn.Conv1d(dim, dim, 1, bias=False), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N)."""
        q = self.q_bn(self.q_conv(x)).unflatten(1, (self.heads, -1))  # (B, h, d, N)
        k = self.k_bn(self.k_conv(x)).unflatten(1, (self.heads, -1))
        v = self.v_bn(self.v_conv(x)).unflatten(1, (self.heads, -1))
        attention = ((q.transpose(-2, -1) @ k) * ATTENTION_SCALE).softmax(-1)  # (B, h, N, N)
        mixed = (attention @ v.transpose(-2, -1)).transpose(-2, -1).flatten(1, 2)  # (B, D, N)
        projected: Tensor = self.proj_bn(self.proj_conv(mixed))
        return projected


class MLP(nn.Module):
    """Two 1x1 convolutions with BN and a GELU between them. (B, D, N) -> (B, D, N)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.fc1_conv, self.fc1_bn = nn.Conv1d(dim, hidden, 1, bias=False), nn.BatchNorm1d(hidden)
        self.fc2_conv, self.fc2_bn = nn.Conv1d(hidden, dim, 1, bias=False), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N)."""
        hidden = functional.gelu(self.fc1_bn(self.fc1_conv(x)))
        out: Tensor = self.fc2_bn(self.fc2_conv(hidden))
        return out


class Block(nn.Module):
    """x + attention(x), then x + MLP(x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn = SoftmaxAttention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N)."""
        x = x + self.attn(x)
        x = x + self.mlp(x)
        return x


class VisionTransformer(nn.Module):
    """ViT-N-D, the non-spiking twin. Shape: images (B, C, H, W) -> logits (B, classes)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        config.validate()
        self.config, self.time_steps = config, 1
        self.sps = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits (B, classes)."""
        x = self.sps(images)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(2))
        return logits
