"""The parts of a Spikformer: patch splitting (SPS), attention (SSA), MLP, block.

Shapes: B images, T time steps, D channels, N tokens, h heads, d = D/h.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from snn_energy.models.neurons import LIF
from snn_energy.models.transformer_config import (
    ATTENTION_SCALE,
    ATTENTION_V_TH,
    TransformerConfig,
    sps_channels,
    sps_pools,
)

MakeNeuron = Callable[[float], LIF]


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
