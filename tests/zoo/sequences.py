"""Sequences: recurrence, scans, delays, convolutions and attention over time."""

from __future__ import annotations

import members
import torch
from members import Size, T, events, network
from spikingjelly.activation_based import neuron
from torch import Tensor, nn
from torch.nn import functional

members.neuron(neuron.BaseNode)


def fires(x: Tensor) -> Tensor:
    return (x > 0).float()


def rasters(size: Size, count: int) -> Tensor:
    """(B, T, F) of spikes."""
    shape = count, T, 2 * size.width
    return (torch.rand(shape, generator=torch.Generator().manual_seed(count)) < 0.4).float()


def features(size: Size, count: int) -> Tensor:
    """(B, T, F) of real values: embedded tokens."""
    return torch.randn(count, T, size.width, generator=torch.Generator().manual_seed(count))


# --- SpyTorch -------------------------------------------------------------------------------------------------------


class SpyTorchNet(nn.Module):
    """Weights as parameters, einsum in place of layers; synaptic current and membrane written inline."""

    def __init__(self, size: Size, recurrent: bool) -> None:
        super().__init__()
        hidden = 2 * size.width
        self.w1 = nn.Parameter(torch.randn(2 * size.width, hidden))
        self.v1 = nn.Parameter(0.3 * torch.randn(hidden, hidden)) if recurrent else None
        self.w2 = nn.Parameter(torch.randn(hidden, size.classes))

    def forward(self, x: Tensor) -> Tensor:
        batch, steps = x.shape[:2]
        h1 = torch.einsum("abc,cd->abd", (x, self.w1))
        syn = torch.zeros(batch, self.w1.shape[1])
        mem, out = torch.zeros_like(syn), torch.zeros_like(syn)
        record = []
        for t in range(steps):
            current = h1[:, t]
            if self.v1 is not None:
                current = current + torch.einsum("ab,bc->ac", (out, self.v1))
            out = fires(mem - 1.0)
            syn, mem = 0.8 * syn + current, (0.9 * mem + syn) * (1.0 - out.detach())
            record.append(out)
        h2 = torch.einsum("abc,cd->abd", (torch.stack(record, dim=1), self.w2))
        flt, out = torch.zeros(batch, h2.shape[2]), torch.zeros(batch, h2.shape[2])
        voltages = [out]
        for t in range(steps):
            flt, out = 0.8 * flt + h2[:, t], 0.9 * out + flt
            voltages.append(out)
        return torch.stack(voltages, dim=1).max(1)[0]


@network("fzenke/spytorch (tutorial 2)", data=rasters, order="samples", neurons=False, told={"time": "axis1"})
def spytorch(size: Size) -> nn.Module:
    """(B, T, F) spikes; einsum with parameters over all steps at once, membrane in a loop inline, spikes stacked along
    axis 1; maximum over T of the filtered output."""
    return SpyTorchNet(size, recurrent=False)


@network(
    "fzenke/spytorch (tutorial 4)", data=rasters, order="samples", neurons=False, told={"time": "axis1"},
    mixes_time=("",),
)  # fmt: skip
def spytorch_recurrent(size: Size) -> nn.Module:
    """As spytorch, with recurrent weights that read the last step's spikes, zeros at first."""
    return SpyTorchNet(size, recurrent=True)


# --- SpikeGPT, scans ------------------------------------------------------------------------------------------------


class TimeMix(nn.Module):
    """RWKV: a token and the one before it mixed, keys, values and receptance, a scan over the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(1, 1, width))
        self.decay, self.first = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.time_shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.key, self.value, self.receptance, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        before = self.time_shift(x)
        x = x * self.mix + before * (1 - self.mix)
        k, v, r = self.key(x), self.value(x), torch.sigmoid(self.receptance(x))
        above, below, mixed = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            now = torch.exp(self.first + k[:, t])
            mixed.append((above + now * v[:, t]) / (below + now))
            kept = torch.exp(-torch.exp(self.decay))
            above, below = kept * above + torch.exp(k[:, t]) * v[:, t], kept * below + torch.exp(k[:, t])
        return self.output(r * torch.stack(mixed, dim=1))


class ChannelMix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.time_shift = nn.Parameter(torch.rand(1, 1, width)), nn.ZeroPad2d((0, 0, 1, -1))
        self.key, self.value = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.mix + self.time_shift(x) * (1 - self.mix)
        return torch.sigmoid(self.receptance(x)) * self.value(torch.square(torch.relu(self.key(x))))


class SpikeGPTNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.ln1, self.ln2, self.ln_out = (nn.LayerNorm(width) for _ in range(3))
        self.att, self.ffn = TimeMix(width), ChannelMix(width)
        self.lif1, self.lif2 = (neuron.LIFNode(tau=2.0, v_threshold=0.1, step_mode="m") for _ in range(2))
        self.head = nn.Linear(width, size.classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.lif1(self.att(self.ln1(x)).permute(1, 0, 2)).permute(1, 0, 2)
        x = x + self.lif2(self.ffn(self.ln2(x)).permute(1, 0, 2)).permute(1, 0, 2)
        return self.head(self.ln_out(x))


@network("ridgerchu/SpikeGPT", data=features, order="samples", told={"time_steps": T})
def spikegpt(size: Size) -> nn.Module:
    """The sequence is time: (B, T, C) of embedded tokens, token shift by padding, a scan, multi-step LIFs on the
    permuted (T, B, C); logits per token."""
    return SpikeGPTNet(size)


class SpikingSSMNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.T, self.states = T, 4
        self.inp, self.bn = nn.Linear(2 * width, width), nn.BatchNorm1d(width)
        self.lif_in, self.lif_out = (neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2))
        self.a = nn.Parameter(torch.rand(width, self.states))
        self.to_b, self.to_c, self.skip = (
            nn.Linear(width, self.states),
            nn.Linear(width, self.states),
            nn.Parameter(torch.ones(width)),
        )
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        u = self.lif_in(self.bn(self.inp(x).flatten(0, 1)).unflatten(0, x.shape[:2]))
        b, c = self.to_b(u), self.to_c(u)
        h, ys = torch.zeros(u.shape[1], u.shape[2], self.states), []
        for t in range(u.shape[0]):
            h = torch.exp(-self.a) * h + u[t].unsqueeze(-1) * b[t].unsqueeze(1)
            ys.append((h * c[t].unsqueeze(1)).sum(-1) + self.skip * u[t])
        return self.head(self.lif_out(self.out(torch.stack(ys)) + 1.0)).mean(0)


@network("Tyx22/SpikingSSMs (Mamba-like)", data=rasters)
def spiking_ssm(size: Size) -> nn.Module:
    """A selective scan: state matrices from the spikes of the step, a loop over T with a state per channel; (B, T, F)
    transposed to (T, B, F) inside, mean over T behind the head."""
    return SpikingSSMNet(size)


# --- lava-dl: time last, two states, delays -------------------------------------------------------------------------


@members.neuron
class Cuba(nn.Module):
    """Current and voltage over the last axis, hard reset."""

    def forward(self, x: Tensor) -> Tensor:
        current = torch.zeros_like(x[..., 0])
        voltage = torch.zeros_like(x[..., 0])
        spikes = []
        for t in range(x.shape[-1]):
            current = 0.75 * current + x[..., t]
            voltage = 0.9 * voltage + current
            spike = (voltage >= 1.0).to(x.dtype)
            voltage = voltage * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes, dim=-1)


class Delay(nn.Module):
    """Every channel's spikes one or no step later."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("delay", torch.arange(channels) % 2)

    def forward(self, x: Tensor) -> Tensor:
        later = functional.pad(x, (1, 0))[..., :-1]
        late = self.delay.view(1, -1, *[1] * (x.dim() - 2)).bool()
        return torch.where(late, later, x)


class CubaConv(nn.Module):
    """Synapse: Conv3d with a kernel of one step; neuron; delay."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.synapse = nn.Conv3d(
            inputs, outputs, (kernel, kernel, 1), (stride, stride, 1), (kernel // 2, kernel // 2, 0), bias=False
        )
        self.neuron, self.delay = Cuba(), Delay(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.delay(self.neuron(self.synapse(x)))


class LavaNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.blocks = nn.ModuleList([CubaConv(2, width, 3, 2), CubaConv(width, width, 3, 2), nn.Flatten(1, 3)])
        features = width * (size.pixels // 4) ** 2
        self.dense = nn.Conv3d(features, size.classes, 1, bias=False)
        self.neuron = Cuba()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        x = self.dense(x.reshape(x.shape[0], -1, 1, 1, x.shape[-1]))
        return self.neuron(x.reshape(x.shape[0], -1, x.shape[-1]))


def frames_last(size: Size, count: int) -> Tensor:
    """(N, C, H, W, T)."""
    return events("B", "T")(size, count).permute(0, 2, 3, 4, 1).contiguous()


@network("lava-nc/lava-dl", data=frames_last, order="last", told={"time_steps": T})
def lava_dl(size: Size) -> nn.Module:
    """(N, C, H, W, T): synapses are Conv3d with a kernel of one step, dense layers too; neurons with current and
    voltage over the last axis; axonal delays of whole steps."""
    model = LavaNet(size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


# --- learned delays, attention over time ----------------------------------------------------------------------------


class DelayNet(nn.Module):
    """Dilated kernels over time in place of weights: every connection has its delay."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.conv1, self.bn, self.lif = (
            nn.Conv1d(2 * width, width, 3, bias=False),
            nn.BatchNorm1d(width),
            neuron.LIFNode(step_mode="m"),
        )
        self.conv2 = nn.Conv1d(width, size.classes, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(1, 2, 0)
        x = self.bn(self.conv1(functional.pad(x, (2, 0)))).permute(2, 0, 1)
        x = self.lif(x).permute(1, 2, 0)
        return self.conv2(functional.pad(x, (2, 0))).permute(2, 0, 1).mean(0)


def rasters_first(size: Size, count: int) -> Tensor:
    """(T, B, F) of spikes."""
    return rasters(size, count).transpose(0, 1).contiguous()


@network("Thvnvtos/SNN-delays", data=rasters_first, mixes_time=("conv1", "conv2"))
def snn_delays(size: Size) -> nn.Module:
    """Delays learnt as convolutions over time: (T, B, F) frames from the loader, permuted to (B, F, T), padded in
    front, Conv1d over T."""
    return DelayNet(size)


class TCJA(nn.Module):
    """Attention over time and channels: convolutions over (T, C) of the spatial mean, their outer product, a
    sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(T, T, 3, padding=1, bias=False)
        self.over_channels = nn.Conv1d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((3, 4)).transpose(0, 1)
        weight = self.over_time(pooled) * self.over_channels(pooled.transpose(1, 2)).transpose(1, 2)
        return x * torch.sigmoid(weight).transpose(0, 1)[..., None, None]


class TCJANet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.conv1, self.bn1, self.lif1 = (
            nn.Conv2d(2, width, 3, padding=1),
            nn.BatchNorm2d(width),
            neuron.LIFNode(step_mode="m"),
        )
        self.tcja, self.pool = TCJA(width), nn.MaxPool2d(2)
        self.fc = nn.Linear(width * (size.pixels // 2) ** 2, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        x = self.lif1(self.bn1(self.conv1(x.flatten(0, 1))).unflatten(0, (steps, batch)))
        x = self.pool(self.tcja(x).flatten(0, 1)).flatten(1)
        return self.fc(x).unflatten(0, (steps, batch)).mean(0)


@network("ridgerchu/TCJA", data=events("T", "B"), mixes_time=("tcja.over_time", "tcja.over_channels"))
def tcja(size: Size) -> nn.Module:
    """Temporal-channel joint attention: convolutions along time and along channels weigh the spikes; (T, B, ...) frames
    from the loader."""
    return TCJANet(size)
