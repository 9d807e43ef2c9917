"""Attention in windows, over chunks of time, of sampled weights, and of potentials with spikes."""

from __future__ import annotations

import torch
from members import Size, T, network
from spikformers import Conv, Dense, SSAConv1d, heads_of, lif
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.nn import functional


class Windows(nn.Module):
    """Attention within windows that are joined to the samples: (T, B*4, C, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = SSAConv1d(width)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, channels, height, width = x.shape
        y = x.reshape(steps, batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 4, 6, 2, 3, 5)
        y = y.reshape(steps, -1, channels, height // 2, width // 2)
        y = self.attn(y.flatten(3)).reshape(steps, -1, 2, 2, channels, height // 2, width // 2)
        return y.permute(0, 1, 4, 5, 2, 6, 3).reshape(steps, -1, channels, height, width)


class SGLFormerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.stem, self.tokenizer = Conv(3, width), Conv(width, width, pool=True)
        self.local, self.local1, self.local2 = (
            Conv(width, width, groups=width),
            Conv(width, width, 1),
            Conv(width, width, 1),
        )
        self.windows, self.globally = Windows(width), SSAConv1d(width)
        tokens = (size.pixels // 2) ** 2
        self.full_size_conv = nn.Conv2d(width, width, (tokens, T), groups=width)
        self.bn, self.head = nn.BatchNorm2d(width), nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        x = self.tokenizer(self.stem(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)))
        x = x + self.local(x)
        x = x + self.local2(self.local1(x))
        x = x + self.windows(x)
        x = x + self.globally(x.flatten(3)).reshape(x.shape)
        x = x.flatten(3).permute(1, 2, 3, 0)
        return self.head(self.bn(self.full_size_conv(x)).reshape(batch, -1))


@network("ZhangHanN1/SGLFormer", mixes_time=("full_size_conv",))
def sglformer(size: Size) -> nn.Module:
    """Local attention in windows that join the batch axis, global attention, and a head that is a depth-wise
    convolution over all tokens and all time steps. Images repeated to (T, B, ...) inside."""
    return SGLFormerNet(size)


class Sampled(nn.Linear):
    """A layer of a supernet: works with a slice of its weights, every third row of each of q, k and v."""

    def __init__(self, inputs: int, outputs: int, used: int) -> None:
        super().__init__(inputs, outputs)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.weight[i : self.used : 3] for i in range(3)])
        return functional.linear(x, weight, self.bias[: self.used])


class AutoSpikformerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, self.width = T, size.width
        self.patches = Conv(3, size.width, pool=True)
        self.qkv, self.bn, self.lif = (
            Sampled(size.width, 6 * size.width, 3 * size.width),
            nn.BatchNorm1d(3 * size.width),
            lif(),
        )
        self.attn_lif, self.proj = lif(0.2), Dense(size.width, size.width)
        self.head = nn.Linear(size.width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)).flatten(-2).transpose(-1, -2)
        steps, batch, tokens, channels = x.shape
        qkv = self.bn(self.qkv(x.flatten(0, 1)).transpose(-1, -2)).transpose(-1, -2)
        q, k, v = self.lif(qkv.reshape(steps, batch, tokens, 3 * channels).contiguous()).chunk(3, dim=-1)
        q, k, v = (heads_of(part, 2) for part in (q, k, v))
        y = (q @ k.transpose(-2, -1)) @ v * 0.125
        y = self.attn_lif(y.transpose(2, 3).reshape(steps, batch, tokens, channels).contiguous())
        x = x + self.proj(y)
        return self.head(x.mean(2)).mean(0)


@network("CheKaiWei/Auto-spikformer")
def auto_spikformer(size: Size) -> nn.Module:
    """A supernet: q, k and v from one layer that uses interleaved slices of its weights. Images repeated to
    (T, B, ...) inside; the head works per time step."""
    return AutoSpikformerNet(size)


class STAttenNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.patches, self.bn, self.pool = (
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2),
        )
        self.shortcut_lif = lif()
        self.q, self.k, self.v = (Conv(width, width, 1) for _ in range(3))
        self.attn_lif, self.proj, self.proj_bn = lif(0.2), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.head_lif, self.head = lif(), nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.bn(self.patches(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1).flatten(0, 1))))
        x = x.unflatten(0, (self.T, -1))
        shape, (steps, batch) = x.shape, x.shape[:2]
        y, heads, chunk = self.shortcut_lif(x), 2, 2
        q, k, v = (heads_of(part(y).flatten(3).transpose(-1, -2), heads) for part in (self.q, self.k, self.v))
        tokens, inner = q.shape[-2:]

        def chunks(z: Tensor) -> Tensor:
            z = z.view(steps // chunk, chunk, batch, heads, tokens, inner).permute(0, 2, 3, 1, 4, 5)
            return z.reshape(steps // chunk, batch, heads, chunk * tokens, inner)

        q, k, v = chunks(q), chunks(k), chunks(v)
        y = q @ (k.transpose(-2, -1) @ v) * 0.25
        y = y.reshape(steps // chunk, batch, heads, chunk, tokens, inner).permute(0, 3, 1, 2, 4, 5)
        y = self.attn_lif(y.reshape(steps, batch, heads, tokens, inner).transpose(3, 4).reshape(shape).contiguous())
        y = self.proj_bn(self.proj(y.flatten(0, 1))).reshape(shape).contiguous()
        x = (x + y).flatten(3).mean(3)
        return self.head(self.head_lif(x)).mean(0)


@network("Intelligent-Computing-Lab-Panda/STAtten", mixes_time=("",))
def statten(size: Size) -> nn.Module:
    """Spatio-temporal attention: the tokens of chunks of two time steps attend to each other. Images repeated to
    (T, B, ...) inside; LIF and head per time step."""
    return STAttenNet(size)


class Matmul(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(left, right)


class Norm(nn.Module):
    """BatchNorm2d over (T, B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.flatten(0, 1)).reshape(x.shape)


class DSSA(nn.Module):
    """Dual spike self-attention: attention = (W x)^T x, scaled by firing rates that were tracked in training."""

    def __init__(self, width: int, heads: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.heads, self.width, self.tokens = heads, width, tokens
        self.register_buffer("rate_x", torch.full((1, 1, heads, 1, 1), 0.3))
        self.register_buffer("rate_attn", torch.full((1, 1, heads, 1, 1), 0.2))
        self.activation_in, self.activation_attn, self.activation_out = lif(), lif(), lif()
        self.weight = layer.Conv2d(width, 2 * width, patch, patch, bias=False, step_mode="m")
        self.norm, self.matmul1, self.matmul2 = Norm(2 * width), Matmul(), Matmul()
        self.proj = layer.Conv2d(width, width, 1, bias=False, step_mode="m")
        self.norm_proj = Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, channels, height, width = x.shape
        shortcut = x.clone()
        x = self.activation_in(x)
        y = self.norm(self.weight(x)).reshape(steps, batch, self.heads, 2 * channels // self.heads, -1)
        y1, y2 = y[:, :, :, : channels // self.heads], y[:, :, :, channels // self.heads :]
        x = x.reshape(steps, batch, self.heads, channels // self.heads, -1)
        scale = 1.0 / torch.sqrt(self.rate_x * (self.width // self.heads))
        attention = self.activation_attn(self.matmul1(y1.transpose(-1, -2), x) * scale)
        scale = 1.0 / torch.sqrt(self.rate_attn * self.tokens)
        out = (self.matmul2(y2, attention) * scale).reshape(steps, batch, channels, height, width)
        return self.norm_proj(self.proj(self.activation_out(out))) + shortcut


class GWFFN(nn.Module):
    """Feed-forward part with a group-wise convolution, each behind a LIF; membrane shortcuts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width

        def part(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
            conv = layer.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False, step_mode="m")
            return nn.Sequential(lif(), conv, Norm(outputs))

        self.up, self.conv, self.down = part(width, inner, 1), part(inner, inner, 3, 4), part(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return self.down(self.conv(y) + y) + x


class SpikingResformerNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.prologue = nn.Sequential(layer.Conv2d(3, width, 3, padding=1, bias=False, step_mode="m"), Norm(width))
        self.layers = nn.Sequential(DSSA(width, 2, 2, (size.pixels // 2) ** 2), GWFFN(width))
        self.avgpool = layer.AdaptiveAvgPool2d((1, 1), step_mode="m")
        self.classifier = layer.Linear(width, size.classes, bias=False, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1) if x.dim() != 5 else x.transpose(0, 1)
        return self.classifier(torch.flatten(self.avgpool(self.layers(self.prologue(x))), 2))


@network("xyshi2000/SpikingResformer")
def spikingresformer(size: Size) -> nn.Module:
    """Dual spike self-attention of potentials with spikes, scaled by buffers; products in modules of their own.
    Multi-step layers on (T, B, ...), repeated inside; logits per time step."""
    return SpikingResformerNet(size)
