"""Spike-driven transformers and what is built of their parts: masks instead of products, re-parameterised
convolutions."""

from __future__ import annotations

import members
import torch
from members import Size, T, network
from spikformers import heads_of, lif
from torch import Tensor, nn
from torch.nn import functional


def folded(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer on (T*B, C, H, W) of (T, B, C, H, W)."""
    y = layer(x.flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:]).contiguous()


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


# --- V1 -------------------------------------------------------------------------------------------------------------


class SDSA(nn.Module):
    """Keys times values, summed over tokens, LIF, times queries: masks and additions, no product of matrices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shortcut_lif, self.talking_heads_lif = lif(), lif(0.2)
        self.q, self.k, self.v, self.proj = (conv_norm(width, width) for _ in range(4))
        self.q_lif, self.k_lif, self.v_lif = lif(), lif(), lif()

    def forward(self, x: Tensor) -> Tensor:
        identity, shape = x, x.shape
        x = self.shortcut_lif(x)
        q = heads_of(self.q_lif(folded(self.q, x)).flatten(3).transpose(-1, -2), 2)
        k = heads_of(self.k_lif(folded(self.k, x)).flatten(3).transpose(-1, -2), 2)
        v = heads_of(self.v_lif(folded(self.v, x)).flatten(3).transpose(-1, -2), 2)
        kv = self.talking_heads_lif(k.mul(v).sum(dim=-2, keepdim=True))
        x = q.mul(kv).transpose(3, 4).reshape(shape).contiguous()
        return folded(self.proj, x) + identity


class SDTV1Net(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.proj, self.proj_lif, self.pool = conv_norm(3, width, 3), lif(), nn.MaxPool2d(3, 2, 1)
        self.rpe, self.attn = conv_norm(width, width, 3), SDSA(width)
        self.fc1_lif, self.fc1, self.fc2_lif, self.fc2 = (
            lif(),
            conv_norm(width, 2 * width),
            lif(),
            conv_norm(2 * width, width),
        )
        self.head_lif, self.head = lif(), nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 5:
            x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = folded(self.pool, folded(self.proj, x))
        x = folded(self.rpe, self.proj_lif(x)) + x
        x = self.attn(x)
        x = folded(self.fc2, self.fc2_lif(folded(self.fc1, self.fc1_lif(x)))) + x
        return self.head(self.head_lif(x.flatten(3).mean(3))).mean(0)


@network("BICLab/Spike-Driven-Transformer")
def spike_driven_transformer(size: Size) -> nn.Module:
    """V1: SDSA of masks and sums, membrane shortcuts. Images repeated to (T, B, ...) inside where they have no time
    axis yet; LIF and head per time step, mean over T behind the head."""
    return SDTV1Net(size)


# --- V2 -------------------------------------------------------------------------------------------------------------


class NormThenPad(nn.Module):
    """BatchNorm, then a border of what a zero becomes under that BatchNorm, made from its statistics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        border = self.bn.bias - self.bn.running_mean * self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        x = functional.pad(x, [1, 1, 1, 1])
        border = border.detach().view(1, -1, 1, 1)
        x[:, :, :1] = border
        x[:, :, -1:] = border
        x[:, :, :, :1] = border
        x[:, :, :, -1:] = border
        return x


def rep_conv(width: int) -> nn.Sequential:
    """A re-parameterisable chain: 1x1, BatchNorm with padding, depth-wise 3x3, 1x1, BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(width, width, 1, bias=False),
        NormThenPad(width),
        nn.Sequential(
            nn.Conv2d(width, width, 3, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        ),
    )


class SepConv(nn.Module):
    """Inverted separable convolution of MobileNetV2 behind LIFs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lif1, self.pwconv1, self.bn1 = lif(), nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.lif2 = lif()
        self.dwconv = nn.Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width, bias=False)
        self.pwconv2, self.bn2 = nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch, channels, height, width = x.shape
        x = self.bn1(self.pwconv1(self.lif1(x).flatten(0, 1))).reshape(steps, batch, -1, height, width)
        x = self.dwconv(self.lif2(x).flatten(0, 1))
        return self.bn2(self.pwconv2(x)).reshape(steps, batch, channels, height, width)


class RepAttention(nn.Module):
    """Queries, keys and values from re-parameterised convolutions; q (k^T v), scaled."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale, self.head_lif, self.attn_lif = heads, (width // heads) ** -0.5, lif(), lif(0.2)
        self.q, self.k, self.v = (nn.Sequential(rep_conv(width), nn.BatchNorm2d(width)) for _ in range(3))
        self.q_lif, self.k_lif, self.v_lif = lif(), lif(), lif()
        self.proj = nn.Sequential(rep_conv(width), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = self.head_lif(x)
        q, k, v = (folded(part, x) for part in (self.q, self.k, self.v))
        q, k, v = self.q_lif(q), self.k_lif(k), self.v_lif(v)
        q, k, v = (heads_of(part.flatten(3).transpose(-1, -2), self.heads) for part in (q, k, v))
        y = q @ (k.transpose(-2, -1) @ v) * self.scale
        y = self.attn_lif(y.transpose(3, 4).reshape(shape).contiguous())
        return folded(self.proj, y)


class SDTV2Net(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.down1, self.sep = conv_norm(3, width, 3), SepConv(width)
        self.conv1_lif, self.conv1, self.conv2_lif, self.conv2 = (
            lif(), conv_norm(width, 2 * width, 3), lif(), conv_norm(2 * width, width, 3),
        )  # fmt: skip
        self.down_lif, self.down2 = lif(), conv_norm(width, width, 3, 2)
        self.attn = RepAttention(width)
        self.fc1_lif, self.fc1, self.fc1_bn = lif(), nn.Conv1d(width, 2 * width, 1), nn.BatchNorm1d(2 * width)
        self.fc2_lif, self.fc2, self.fc2_bn = lif(), nn.Conv1d(2 * width, width, 1), nn.BatchNorm1d(width)
        self.lif, self.head = lif(), nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = folded(self.down1, x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        x = self.sep(x) + x
        x = folded(self.conv2, self.conv2_lif(folded(self.conv1, self.conv1_lif(x)))) + x
        x = folded(self.down2, self.down_lif(x))
        x = x + self.attn(x)
        steps, batch, channels, height, width = x.shape
        y = self.fc1_bn(self.fc1(self.fc1_lif(x.flatten(3)).flatten(0, 1))).reshape(steps, batch, -1, height * width)
        y = self.fc2_bn(self.fc2(self.fc2_lif(y).flatten(0, 1))).reshape(steps, batch, channels, height, width)
        x = (x + y).flatten(3).mean(3)
        return self.head(self.lif(x)).mean(0)


@network("BICLab/Spike-Driven-Transformer-V2")
def spike_driven_transformer_v2(size: Size) -> nn.Module:
    """Meta-SpikeFormer: separable convolutions, re-parameterised convolutions whose BatchNorm pads with a border of its
    own, q (k^T v). Images repeated to (T, B, ...) inside; head per time step."""
    return SDTV2Net(size)


# --- V3, SpikeYOLO: whole-number activations that unfold into spikes ------------------------------------------------


class MultiSpike(nn.Module):
    """A potential rounded to 0..4, divided by 4: no state; on hardware as many spikes in virtual time steps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(torch.clamp(x, 0, 4)) / 4


class SDTV3Net(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.down1, self.spike1, self.conv = conv_norm(3, width, 3, 2), MultiSpike(), conv_norm(width, width, 3)
        self.head_spike = MultiSpike()
        self.q, self.k, self.v = (nn.Sequential(conv_norm(width, width), MultiSpike()) for _ in range(3))
        self.attn_spike, self.proj = MultiSpike(), conv_norm(width, width)
        self.head = nn.Sequential(MultiSpike(), nn.Linear(width, size.classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down1(x)
        x = self.conv(self.spike1(x)) + x
        y = self.head_spike(x)
        q, k, v = (
            heads_of(part(y).flatten(2).transpose(-1, -2).unsqueeze(0), 2)[0] for part in (self.q, self.k, self.v)
        )
        y = (q @ k.transpose(-2, -1)) @ v * 0.5
        x = self.proj(self.attn_spike(y.transpose(2, 3).reshape(x.shape))) + x
        return self.head(x.flatten(2).mean(2))


@network("BICLab/Spike-Driven-Transformer-V3", steps=1, told={"time_steps": 1})
def spike_driven_transformer_v3(size: Size) -> nn.Module:
    """E-SpikeFormer: activations rounded to quarters stand for spikes of later, virtual time steps; no time axis, no
    state, so an activation function and no neuron."""
    return SDTV3Net(size)


@members.neuron
class ILIF(nn.Module):
    """mem_update of SpikeYOLO: a loop over axis 0, integer spikes, soft reset through what is left."""

    def forward(self, x: Tensor) -> Tensor:
        spike = torch.zeros_like(x[0])
        output = torch.zeros_like(x)
        mem_old = 0
        for i in range(x.shape[0]):
            mem = (mem_old - spike.detach()) * 0.25 + x[i] if i >= 1 else x[i]
            spike = torch.round(torch.clamp(mem, min=0, max=4))
            mem_old = mem.clone()
            output[i] = spike
        return output


class RepBlock(nn.Module):
    """I-LIF, re-parameterised convolution, membrane shortcut; then a channel convolution alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lif1, self.rep, self.lif2, self.conv = ILIF(), rep_conv(width), ILIF(), conv_norm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = folded(self.rep, self.lif1(x)) + x
        return folded(self.conv, self.lif2(x)) + x


class SpikeYOLONet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = 2, size.width
        self.stem, self.block1 = conv_norm(3, width, 3), RepBlock(width)
        self.down_lif, self.down = ILIF(), conv_norm(width, width, 3, 2)
        self.block2, self.lateral_lif, self.lateral = RepBlock(width), ILIF(), conv_norm(width, width)
        self.up, self.fuse_lif, self.fuse = (
            nn.Upsample(scale_factor=2, mode="nearest"),
            ILIF(),
            conv_norm(2 * width, width),
        )
        self.detect_lif = nn.ModuleList(ILIF() for _ in range(2))
        self.detect = nn.ModuleList(nn.Conv2d(width, size.classes, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        fine = self.block1(folded(self.stem, x))
        coarse = self.block2(folded(self.down, self.down_lif(fine)))
        top = folded(self.up, folded(self.lateral, self.lateral_lif(coarse)))
        fused = folded(self.fuse, self.fuse_lif(torch.cat([top, fine], 2)))
        return [
            folded(head, spike(scale)).mean(0)
            for head, spike, scale in zip(self.detect, self.detect_lif, (fused, coarse), strict=True)
        ]


@network("BICLab/SpikeYOLO", steps=2)
def spikeyolo(size: Size) -> nn.Module:
    """Integer LIF in a loop over (T, B, ...), up-sampling, concatenation of scales, a detection head per scale whose
    outputs are averaged over T. T = 2, images repeated inside."""
    return SpikeYOLONet(size)
