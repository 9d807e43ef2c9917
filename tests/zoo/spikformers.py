"""Spiking transformers that multiply queries, keys and values: time first, inside the network."""

from __future__ import annotations

import members
import torch
from members import Size, T, network
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

members.neuron(neuron.BaseNode)


def lif(threshold: float = 1.0) -> nn.Module:
    return neuron.LIFNode(tau=2.0, v_threshold=threshold, detach_reset=True, step_mode="m")


class Conv(nn.Module):
    """Convolution and BatchNorm over (T*B, C, H, W), a pooling perhaps, LIF over (T, B, C, H, W)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, pool: bool = False, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.lif = lif()

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        x = self.pool(self.bn(self.conv(x.flatten(0, 1))))
        return self.lif(x.reshape(steps, batch, *x.shape[1:]).contiguous())


class Dense(nn.Module):
    """Linear over (T*B, N, C), BatchNorm1d over transposed tokens, LIF."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.bn, self.lif = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), lif()

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, tokens, _ = x.shape
        y = self.bn(self.linear(x.flatten(0, 1)).transpose(-1, -2)).transpose(-1, -2)
        return self.lif(y.reshape(steps, batch, tokens, -1).contiguous())


class Tokens(nn.Module):
    """Conv1d over (T*B, C, N), BatchNorm1d, LIF over (T, B, C, N)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn, self.lif = nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs), lif()

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, _, tokens = x.shape
        return self.lif(self.bn(self.conv(x.flatten(0, 1))).reshape(steps, batch, -1, tokens).contiguous())


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(T, B, N, C) -> (T, B, heads, N, C / heads)."""
    steps, batch, tokens, channels = x.shape
    return x.reshape(steps, batch, tokens, heads, channels // heads).permute(0, 1, 3, 2, 4).contiguous()


class SSALinear(nn.Module):
    """Spiking self-attention of linear layers: (q k^T) v, scaled, LIF."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (Dense(width, width) for _ in range(4))
        self.attn_lif = lif(0.2)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, tokens, channels = x.shape
        q, k, v = (heads_of(part(x), self.heads) for part in (self.q, self.k, self.v))
        y = (q @ k.transpose(-2, -1)) @ v * 0.125
        y = self.attn_lif(y.transpose(2, 3).reshape(steps, batch, tokens, channels).contiguous())
        return self.proj(y)


class SSAConv1d(nn.Module):
    """Spiking self-attention of Conv1d over (T*B, C, N): q (k^T v), or (q k^T) v."""

    def __init__(self, width: int, heads: int = 2, keys_first: bool = False) -> None:
        super().__init__()
        self.heads, self.keys_first = heads, keys_first
        self.q, self.k, self.v, self.proj = (Tokens(width, width) for _ in range(4))
        self.attn_lif = lif(0.2)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, channels, tokens = x.shape
        q, k, v = (heads_of(part(x).transpose(-1, -2), self.heads) for part in (self.q, self.k, self.v))
        y = q @ (k.transpose(-2, -1) @ v) if self.keys_first else (q @ k.transpose(-2, -1)) @ v
        y = (y * 0.125).transpose(3, 4).reshape(steps, batch, channels, tokens).contiguous()
        return self.proj(self.attn_lif(y))


class SpikformerNet(nn.Module):
    """Patch splitting with a position convolution, blocks with residual adds of spikes, mean over tokens and time."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.conv0, self.conv1 = Conv(3, width // 2), Conv(width // 2, width, pool=True)
        self.rpe = Conv(width, width)
        self.attn, self.fc1, self.fc2 = SSALinear(width), Dense(width, 2 * width), Dense(2 * width, width)
        self.head = nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)))
        x = (x + self.rpe(x)).flatten(-2).transpose(-1, -2)
        x = x + self.attn(x)
        x = x + self.fc2(self.fc1(x))
        return self.head(x.mean(2).mean(0))


@network("ZK-Zhou/spikformer (cifar10)")
def spikformer(size: Size) -> nn.Module:
    """SSA of Linear and BatchNorm1d on (T*B, N, C), spikes added to spikes. Images repeated to (T, B, ...) inside;
    mean over T before the head."""
    return SpikformerNet(size)


class SpikformerConv1dNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.conv0, self.conv1 = Conv(3, width, pool=True), Conv(width, width)
        self.attn, self.fc1, self.fc2 = SSAConv1d(width), Tokens(width, 2 * width), Tokens(2 * width, width)
        self.head = nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))).flatten(3)
        x = x + self.attn(x)
        x = x + self.fc2(self.fc1(x))
        return self.head(x.mean(3)).mean(0)


@network("ZK-Zhou/spikformer (imagenet)")
def spikformer_conv1d(size: Size) -> nn.Module:
    """SSA of Conv1d and BatchNorm1d on (T*B, C, N). Images repeated to (T, B, ...) inside; the head works per time
    step, mean over T behind it."""
    return SpikformerConv1dNet(size)


class PreActivation(nn.Module):
    """LIF, Conv2d 1x1, BatchNorm: what is added to the stream is a potential."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lif, self.conv, self.bn = lif(), nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, _, height, width = x.shape
        y = self.bn(self.conv(self.lif(x).flatten(0, 1)))
        return y.reshape(steps, batch, -1, height, width).contiguous()


class PreActivationAttention(nn.Module):
    """LIF in front of Conv1d; projection without a neuron behind it."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.lif, self.attn_lif = heads, lif(), lif(0.05)
        self.q, self.k, self.v = (Tokens(width, width) for _ in range(3))
        self.proj, self.proj_bn = nn.Conv1d(width, width, 1), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        shape, (steps, batch, channels) = x.shape, x.shape[:3]
        x = self.lif(x).flatten(3)
        q, k, v = (heads_of(part(x).transpose(-1, -2), self.heads) for part in (self.q, self.k, self.v))
        y = (q @ k.transpose(-2, -1) @ v) * 0.125
        y = self.attn_lif(y.transpose(3, 4).reshape(steps, batch, channels, -1).contiguous())
        return self.proj_bn(self.proj(y.flatten(0, 1))).reshape(shape).contiguous()


class SpikingformerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.stem, self.bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.down_lif, self.pool = lif(), nn.MaxPool2d(2)
        self.down, self.down_bn = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.attn = PreActivationAttention(width)
        self.fc1, self.fc2 = PreActivation(width, 2 * width), PreActivation(2 * width, width)
        self.head = nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        steps, batch, _, height, width = x.shape
        x = self.bn(self.stem(x.flatten(0, 1))).reshape(steps, batch, -1, height, width)
        x = self.down_bn(self.down(self.pool(self.down_lif(x).flatten(0, 1))))
        x = x.reshape(steps, batch, -1, height // 2, width // 2).contiguous()
        x = x + self.attn(x)
        x = x + self.fc2(self.fc1(x))
        return self.head(x.flatten(3).mean(3).mean(0))


@network("zhouchenlin2096/Spikingformer")
def spikingformer(size: Size) -> nn.Module:
    """Membrane shortcuts: LIF in front of every convolution, potentials added. Images repeated to (T, B, ...) inside;
    the head reads the mean over T of the potentials."""
    return SpikingformerNet(size)


class TokenQK(nn.Module):
    """Queries summed over a head's channels, LIF, times keys: no product of matrices."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.q, self.k, self.proj, self.attn_lif = (
            heads,
            *(Tokens(width, width) for _ in range(3)),
            lif(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.flatten(3)
        steps, batch, channels, tokens = x.shape
        q, k = (
            part(x).unsqueeze(2).reshape(steps, batch, self.heads, channels // self.heads, tokens)
            for part in (self.q, self.k)
        )
        mask = self.attn_lif(torch.sum(q, dim=3, keepdim=True))
        return self.proj(torch.mul(mask, k).flatten(2, 3)).reshape(shape).contiguous()


class QKFormerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.conv, self.conv1, self.shortcut = Conv(3, width), Conv(width, width), Conv(width, width, 1)
        self.token, self.fc1, self.fc2 = TokenQK(width), Conv(width, 2 * width, 1), Conv(2 * width, width, 1)
        self.down, self.attn = Conv(width, 2 * width, pool=True), SSAConv1d(2 * width, keys_first=True)
        self.head = nn.Linear(2 * width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        x = self.conv1(x) + self.shortcut(x)
        x = x + self.token(x)
        x = x + self.fc2(self.fc1(x))
        x = self.down(x)
        x = x + self.attn(x.flatten(3)).reshape(x.shape)
        return self.head(x.flatten(3).mean(3).mean(0))


@network("zhouchenlin2096/QKFormer")
def qkformer(size: Size) -> nn.Module:
    """Q-K token attention (a sum over channels, LIF, an element-wise product), then q (k^T v); shortcuts around the
    patch embedding. Images repeated to (T, B, ...) inside, Conv1d on (T*B, C, N); mean over T before the head."""
    return QKFormerNet(size)


class Depthwise(nn.Module):
    """Token mixer of early stages: LIF, depth-wise convolution, BatchNorm, membrane shortcut."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.lif, self.bn = lif(), nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, _, height, width = x.shape
        y = self.conv(self.lif(x).reshape(steps * batch, -1, height, width).contiguous())
        return self.bn(y).reshape(x.shape).contiguous() + x


class MaxFormerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.stem, self.stem_bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.mixer, self.fc1, self.fc2 = Depthwise(width, 5), PreActivation(width, width), PreActivation(width, width)
        self.pool, self.attn = nn.MaxPool2d(3, 2, 1), PreActivationAttention(width)
        self.head = nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        steps, batch, _, height, width = x.shape
        x = self.stem_bn(self.stem(x.flatten(0, 1))).reshape(steps, batch, -1, height, width).contiguous()
        x = self.mixer(x)
        x = self.fc1(x) + x
        x = self.fc2(x) + x
        x = self.pool(x.flatten(0, 1).contiguous()).reshape(steps, batch, -1, height // 2, width // 2).contiguous()
        x = self.attn(x) + x
        return self.head(x.flatten(3).mean(3).mean(0))


@network("bic-L/MaxFormer")
def maxformer(size: Size) -> nn.Module:
    """Depth-wise convolutions and max-pooling of potentials in early stages, SSA in the last; membrane shortcuts.
    Images repeated to (T, B, ...) inside, reshaped to (T*B, ...)."""
    return MaxFormerNet(size)
