"""VGGs and ResNets whose neurons are written by hand: samples first, time first, or both in one axis."""

from __future__ import annotations

import math

import members
import torch
from members import Size, T, events, network
from torch import Tensor, nn
from torch.nn import functional


class ZIF(torch.autograd.Function):
    """A step, with a surrogate that nobody differentiates here."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return (x > 0).float()


class SeqToANN(nn.Module):
    """Layers of torch on the first two axes joined."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.module = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x.flatten(0, 1).contiguous())
        return y.view(x.shape[0], x.shape[1], *y.shape[1:])


@members.neuron
class LIFSpike(nn.Module):
    """(B, T, ...): the potential starts as the number 0, hard reset, spikes stacked."""

    def forward(self, x: Tensor) -> Tensor:
        mem = 0
        spikes = []
        for t in range(x.shape[1]):
            mem = mem * 0.5 + x[:, t, ...]
            spike = ZIF.apply(mem - 1.0)
            mem = (1 - spike) * mem
            spikes.append(spike)
        return torch.stack(spikes, dim=1)


def conv(inputs: int, outputs: int, kernel: int = 3) -> SeqToANN:
    return SeqToANN(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs))


class SamplesFirstVGG(nn.Module):
    def __init__(self, size: Size, channels: int) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.features = nn.Sequential(
            conv(channels, width), LIFSpike(), conv(width, width), LIFSpike(), SeqToANN(nn.AvgPool2d(2)),
            conv(width, 2 * width), LIFSpike(), SeqToANN(nn.AvgPool2d(2)),
        )  # fmt: skip
        self.classifier = SeqToANN(nn.Linear(2 * width * (size.pixels // 4) ** 2, size.classes))


class TETNet(SamplesFirstVGG):
    def forward(self, x: Tensor) -> Tensor:
        x.unsqueeze_(1)
        x = self.features(x.repeat(1, self.T, 1, 1, 1))
        return self.classifier(torch.flatten(x, 2))


def tet_run(model: nn.Module, x: Tensor) -> Tensor:
    """The forward changes the shape of what it is given."""
    return model(x.clone())


@network("Gus-Lab/temporal_efficient_training", order="samples", run=tet_run)
def tet(size: Size) -> nn.Module:
    """Hand-written LIF on (B, T, ...), stacked; the batch itself is unsqueezed in place and repeated along axis 1;
    logits per time step."""
    return TETNet(size, 3)


class SEENNNet(SamplesFirstVGG):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x] * self.T, dim=1) if x.dim() == 4 else x
        x = self.classifier(torch.flatten(self.features(x), 2))
        return x.cumsum(dim=1) / torch.arange(1, self.T + 1).view(1, -1, 1)


@network("Intelligent-Computing-Lab-Yale/SEENN", order="samples")
def seenn(size: Size) -> nn.Module:
    """Hand-written LIF on (B, T, ...); stack([x] * T, 1) in front; running means of the logits over T, of which an
    early exit takes the first confident one."""
    return SEENNNet(size, 3)


class NDANet(SamplesFirstVGG):
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 2)).mean(1)


@network("Intelligent-Computing-Lab-Yale/NDA_SNN", data=events("B", "T"), order="samples")
def nda(size: Size) -> nn.Module:
    """Hand-written LIF on (B, T, ...) frames of an event camera as the loader gives them; mean over T behind the
    head."""
    return NDANet(size, 2)


class RecurrentLIF(nn.Module):
    """The potential is an attribute, a Python number at first and after a reset."""

    def __init__(self) -> None:
        super().__init__()
        self.mem = 0

    def forward(self, x: Tensor) -> Tensor:
        self.mem = self.mem * 0.5 + x
        spike = ((self.mem - 1.0) > 0).float()
        self.mem = self.mem * (1 - spike)
        return spike


members.neuron(RecurrentLIF)


class SEENNLoopNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.model = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), RecurrentLIF(), nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), RecurrentLIF(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(width, size.classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, RecurrentLIF):
                module.mem = 0
        out = self.model(x)
        for _ in range(self.T - 1):
            out = out + self.model(x)
        return out / self.T


@network("Intelligent-Computing-Lab-Yale/SEENN (recurrent)")
def seenn_recurrent(size: Size) -> nn.Module:
    """The network of one step in a loop inside; potentials are attributes that are the number 0 at rest; logits added
    up and divided."""
    return SEENNLoopNet(size)


# --- time and samples in one axis, time major -----------------------------------------------------------------------


@members.neuron
class IF(nn.Module):
    """QCFS: (T*B, ...) unfolded to (T, B, ...), potential from half the threshold on, spikes as high as the
    threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.T, self.thresh = T, nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        threshold = self.thresh.data
        x = x.view(self.T, x.shape[0] // self.T, *x.shape[1:])
        mem = 0.5 * threshold
        spikes = []
        for t in range(self.T):
            mem = mem + x[t, ...]
            spike = ZIF.apply(mem - threshold) * threshold
            mem = mem - spike
            spikes.append(spike)
        return torch.stack(spikes, dim=0).flatten(0, 1).contiguous()


@members.neuron
class FoldedLIF(nn.Module):
    """SNN-RAT: as above, potential from the number 0 on, hard reset."""

    def __init__(self) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(self.T, x.shape[0] // self.T, *x.shape[1:])
        mem = 0
        spikes = []
        for t in range(self.T):
            mem = mem * 1.0 + x[t, ...]
            spike = ZIF.apply(mem - 1.0)
            mem = (1 - spike) * mem
            spikes.append(spike)
        return torch.stack(spikes, dim=0).flatten(0, 1).contiguous()


class FoldedVGG(nn.Module):
    """Layers of torch on (T*B, ...); a residual block in the middle."""

    def __init__(self, size: Size, make: type[nn.Module]) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), make())
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), make())
        self.conv3 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.act, self.pool = make(), nn.AvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(width * (size.pixels // 2) ** 2, 16), make(), nn.Linear(16, size.classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.repeated(x).flatten(0, 1).contiguous())
        x = self.act(self.conv3(self.conv2(x)) + x)
        out = self.classifier(self.pool(x))
        return out.view(self.T, out.shape[0] // self.T, -1)

    def repeated(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)


@network("putshua/SNN_conversion_QCFS")
def qcfs(size: Size) -> nn.Module:
    """A converted ANN: IF neurons on (T*B, ...), charged to half their threshold at rest, spikes as high as a learnt
    threshold. Images repeated, time major, inside; logits per time step."""
    return FoldedVGG(size, IF)


class SNNRATNet(FoldedVGG):
    def __init__(self, size: Size, make: type[nn.Module]) -> None:
        super().__init__(size, make)
        self.mean, self.std = torch.tensor([0.5, 0.4, 0.5]), torch.tensor([0.2, 0.2, 0.3])

    def repeated(self, x: Tensor) -> Tensor:
        x = (x - self.mean[None, :, None, None]) / self.std[None, :, None, None]
        x.unsqueeze_(1)
        return x.repeat(self.T, 1, 1, 1, 1)


@network("putshua/SNN-RAT")
def snn_rat(size: Size) -> nn.Module:
    """Normalisation inside; (B, 1, ...) repeated T times along axis 0, so that T*B is time major once two axes are
    joined; hand-written LIF on (T*B, ...)."""
    return SNNRATNet(size, FoldedLIF)


@members.neuron
class DSRNeuron(nn.Module):
    """DSR: LIF on (T*B, ...) in an autograd function; writes its clipped threshold back at every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.timesteps, self.Vth = T, nn.Parameter(torch.tensor(0.5))
        self.tau, self.delta_t = torch.tensor(1.0), 0.25

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.Vth.copy_(functional.relu(self.Vth - 0.01) + 0.01)
        x = x.view(self.timesteps, -1, *x.shape[1:])
        beta = torch.exp(-self.delta_t / self.tau)
        mem = torch.zeros(x.size(1), *x.shape[2:])
        spikes = []
        for t in range(x.size(0)):
            mem = beta * mem + (1 - beta) * x[t]
            spike = ((mem >= 0.3 * self.Vth).float() * self.Vth).float()
            mem = mem - spike
            spikes.append(spike / self.delta_t)
        return torch.cat(spikes, 0)


class DSRNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.timesteps = T
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), DSRNeuron(), nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), DSRNeuron(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * width, size.classes), nn.BatchNorm1d(size.classes), DSRNeuron()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.classifier(self.layers(torch.cat([x for _ in range(self.timesteps)], 0)))
        rates = out.view(self.timesteps, -1, *out.shape[1:]).permute(1, 2, 0)
        weight = torch.tensor([math.exp(-0.25 * (self.timesteps - i)) for i in range(1, self.timesteps + 1)])
        return (weight * rates).sum(dim=2) / weight.sum()


@network("qymeng94/DSR")
def dsr(size: Size) -> nn.Module:
    """Differentiation on spike representation: cat([x] * T, 0); LIF on (T*B, ...) with spikes of Vth/dt that writes its
    threshold back; a weighted mean over T of the last layer's spikes."""
    return DSRNet(size)
