"""Loops over time, inside the network or around it: snnTorch, Norse, sinabs, BrainCog, and neurons written inline."""

from __future__ import annotations

import warnings
from typing import Any

import members
import torch
from members import Size, T, events, network
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

with warnings.catch_warnings():  # of frameworks that are older than this torch
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers
    import snntorch
    import snntorch.utils
    from sinabs.activation import SingleSpike

members.neuron(neuron.BaseNode)
members.neuron(snntorch.SpikingNeuron)
for _kind in (sinabs.layers.IAF, sinabs.layers.LIF, norse.LIFCell):
    members.neuron(_kind)


def louder(model: nn.Module, factor: float) -> nn.Module:
    """Weights under which neurons without BatchNorm fire."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(factor)
    return model


# --- snnTorch -------------------------------------------------------------------------------------------------------


class Tutorial5Net(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(3 * size.pixels**2, 4 * size.width), snntorch.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(4 * size.width, size.classes), snntorch.Leaky(beta=0.95)
        louder(self, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(T):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)


@network("jeshraghian/snntorch (tutorial 5)")
def snntorch_tutorial_5(size: Size) -> nn.Module:
    """A loop over T inside; potentials are arguments and results; spikes and potentials stacked, time first."""
    return Tutorial5Net(size)


def call_each_step(model: nn.Module, x: Tensor) -> list[Any]:
    snntorch.utils.reset(model)
    return [model(x) for _ in range(T)]


@network("jeshraghian/snntorch (tutorial 6)", run=call_each_step, told={"time_steps": T})
def snntorch_tutorial_6(size: Size) -> nn.Module:
    """A sequence of layers with hidden states that is called once per time step, with the same images, from outside."""
    width, leaky = size.width, {"beta": 0.5, "init_hidden": True}
    features = 2 * width * (((size.pixels - 2) // 2 - 2) // 2 if size.pixels > 8 else 1) ** 2
    second = nn.Conv2d(width, 2 * width, 3), nn.MaxPool2d(2 if size.pixels > 8 else 1)
    if size.pixels <= 8:
        features = 2 * width
    layers = [
        nn.Conv2d(3, width, 3), nn.MaxPool2d(2), snntorch.Leaky(**leaky), *second, snntorch.Leaky(**leaky),
        nn.Flatten(), nn.Linear(features, size.classes), snntorch.Leaky(**leaky, output=True),
    ]  # fmt: skip
    return louder(nn.Sequential(*layers), 4)


def call_with_each_step(model: nn.Module, x: Tensor) -> list[Any]:
    snntorch.utils.reset(model)
    return [model(x[step]) for step in range(x.shape[0])]


@network("jeshraghian/snntorch (tutorial 7)", data=events("T", "B"), run=call_with_each_step, told={"time_steps": T})
def snntorch_tutorial_7(size: Size) -> nn.Module:
    """Frames of an event camera, (T, B, ...), and a network of one step that is called with each of them."""
    width, leaky = size.width, {"beta": 0.5, "init_hidden": True}
    layers = [
        nn.Conv2d(2, width, 3, padding=1), snntorch.Leaky(**leaky), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(width * (size.pixels // 2) ** 2, size.classes), snntorch.Leaky(**leaky, output=True),
    ]  # fmt: skip
    return louder(nn.Sequential(*layers), 3)


class SpikingUNetNet(nn.Module):
    """Two scales; spikes of the encoder are concatenated to those of the decoder."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.down1, self.sn1 = layer.Conv2d(3, width, 3, padding=1), neuron.IFNode()
        self.pool, self.down2, self.sn2 = (
            layer.MaxPool2d(2),
            layer.Conv2d(width, 2 * width, 3, padding=1),
            neuron.IFNode(),
        )
        self.up, self.sn3 = layer.ConvTranspose2d(2 * width, width, 2, 2), neuron.IFNode()
        self.join, self.sn4 = layer.Conv2d(2 * width, width, 3, padding=1), neuron.IFNode()
        self.out = layer.Conv2d(width, size.classes, 1)
        louder(self, 3)

    def step(self, x: Tensor) -> Tensor:
        first = self.sn1(self.down1(x))
        second = self.sn2(self.down2(self.pool(first)))
        return self.out(self.sn4(self.join(torch.cat([self.sn3(self.up(second)), first], dim=1))))

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        out = 0
        for _ in range(self.T):
            out = out + self.step(x)
        return out / self.T


@network("SNNresearch/Spiking-UNet")
def spiking_unet(size: Size) -> nn.Module:
    """Encoder and decoder with transposed convolution and concatenation; reset and a loop over T inside, outputs of the
    last convolution averaged: a map of logits."""
    return SpikingUNetNet(size)


class PLIFNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.T = T
        self.static_conv = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.conv = nn.Sequential(
            neuron.ParametricLIFNode(init_tau=2.0), nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width), neuron.ParametricLIFNode(init_tau=2.0), nn.MaxPool2d(2),
        )  # fmt: skip
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Linear(width * (size.pixels // 4) ** 2, 10 * size.classes, bias=False),
            neuron.ParametricLIFNode(init_tau=2.0, v_threshold=0.2),
        )  # fmt: skip
        self.boost = nn.AvgPool1d(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        x = self.static_conv(x)
        out = self.boost(self.fc(self.conv(x)).unsqueeze(1)).squeeze(1)
        for _ in range(1, self.T):
            out += self.boost(self.fc(self.conv(x)).unsqueeze(1)).squeeze(1)
        return out / self.T


@network("fangwei123456/Parametric-Leaky-Integrate-and-Fire-Spiking-Neuron")
def plif(size: Size) -> nn.Module:
    """The first convolution works once, in front of the loop over T inside; votes pooled per step and added in
    place."""
    return PLIFNet(size)


# --- Norse, sinabs --------------------------------------------------------------------------------------------------


class NorseNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        p = norse.LIFParameters(v_th=torch.tensor(0.3), tau_mem_inv=torch.tensor(500.0))
        self.conv1, self.lif1 = nn.Conv2d(2, width, 3, padding=1), norse.LIFCell(p=p)
        self.fc, self.lif2 = nn.Linear(width * (size.pixels // 2) ** 2, 16), norse.LIFCell(p=p)
        self.out = norse.LILinearCell(16, size.classes)
        louder(self, 6)

    def forward(self, x: Tensor) -> Tensor:
        s1 = s2 = s3 = None
        voltages = torch.empty(x.shape[0], x.shape[1], self.out.hidden_size)
        for step in range(x.shape[0]):
            z, s1 = self.lif1(self.conv1(x[step]), s1)
            z = nn.functional.max_pool2d(z, 2).flatten(1)
            z, s2 = self.lif2(self.fc(z), s2)
            v, s3 = self.out(torch.relu(z), s3)
            voltages[step] = v
        return voltages.max(0)[0]


@network("norse/norse", data=events("T", "B"))
def norse_convnet(size: Size) -> nn.Module:
    """LIF cells whose state is argument and result, None at first; a loop over x[t] of (T, B, ...) frames inside;
    voltages written into a tensor, their maximum over T."""
    return NorseNet(size)


@network("synsense/sinabs", data=lambda size, count: events("B", "T")(size, count).flatten(0, 1), order="samples",
         told={"time_steps": T})  # fmt: skip
def sinabs_squeezed(size: Size) -> nn.Module:
    """Layers that squeeze (B*T, ...) to (B, T, ...) and back; the loader gives (B*T, ...), sample major."""
    width = size.width
    squeeze = {"spike_fn": SingleSpike, "min_v_mem": -1.0, "num_timesteps": T}
    layers = [
        nn.Conv2d(2, width, 3, padding=1, bias=False), sinabs.layers.IAFSqueeze(**squeeze), nn.AvgPool2d(2),
        nn.Conv2d(width, width, 3, bias=False), sinabs.layers.IAFSqueeze(**squeeze), nn.Flatten(),
        nn.Linear(width * (size.pixels // 2 - 2) ** 2, size.classes, bias=False), sinabs.layers.IAFSqueeze(**squeeze),
    ]  # fmt: skip
    return louder(nn.Sequential(*layers), 4)


# --- BrainCog, BNTT, Diet-SNN ---------------------------------------------------------------------------------------


class BrainCogNode(nn.Module):
    """A node with its own reset: membrane and spike are attributes, numbers at rest."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold, self.tau = threshold, 2.0
        self.mem: Any = 0.0
        self.spike: Any = 0.0

    def integral(self, x: Tensor) -> None:
        self.mem = self.mem + (x - self.mem) / self.tau

    def forward(self, x: Tensor) -> Tensor:
        self.integral(x)
        self.spike = (self.mem > self.threshold).float()
        self.mem = self.mem * (1 - self.spike.detach())
        return self.spike

    def n_reset(self) -> None:
        self.mem, self.spike = 0.0, 0.0


members.neuron(BrainCogNode)


class BrainCogNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.step = T
        self.feature = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), BrainCogNode(), nn.Conv2d(width, width, 3, 2, 1),
            nn.BatchNorm2d(width), BrainCogNode(),
        )  # fmt: skip
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(width * (size.pixels // 2) ** 2, size.classes))

    def reset(self) -> None:
        for module in self.modules():
            if hasattr(module, "n_reset"):
                module.n_reset()

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.unsqueeze(0).repeat(self.step, 1, 1, 1, 1)
        self.reset()
        outputs = []
        for t in range(self.step):
            outputs.append(self.fc(self.feature(inputs[t])))
        return sum(outputs) / len(outputs)


@network("BrainCog-X/Brain-Cog")
def braincog(size: Size) -> nn.Module:
    """Nodes that keep membrane and spike in attributes, numbers at rest, and reset themselves; the encoder repeats the
    images to (T, B, ...), a loop inside takes x[t]; outputs added with sum() and divided."""
    return BrainCogNet(size)


class BNTTNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.num_steps = T
        self.conv1, self.conv2 = (nn.Conv2d(c, width, 3, padding=1, bias=False) for c in (3, width))
        self.bntt1, self.bntt2 = (nn.ModuleList(nn.BatchNorm2d(width) for _ in range(T)) for _ in range(2))
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(width * (size.pixels // 2) ** 2, size.classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        mem1 = torch.zeros(batch, self.conv1.out_channels, height, width)
        mem2 = torch.zeros(batch, self.conv2.out_channels, height, width)
        mem_fc = torch.zeros(batch, self.fc.out_features)
        for t in range(self.num_steps):
            mem1 = 0.95 * mem1 + self.bntt1[t](self.conv1(x))
            out = (mem1 / 1.0 - 1.0 > 0).float()
            mem1 = mem1 - out
            mem2 = 0.95 * mem2 + self.bntt2[t](self.conv2(out))
            out = (mem2 / 1.0 - 1.0 > 0).float()
            mem2 = mem2 - out
            mem_fc = mem_fc + self.fc(self.pool(out).reshape(batch, -1))
        return mem_fc / self.num_steps


@network("Intelligent-Computing-Lab-Yale/BNTT-Batch-Normalization-Through-Time", neurons=False, told={"time_steps": T})
def bntt(size: Size) -> nn.Module:
    """A BatchNorm per time step; neurons written inline, in a loop over T inside; the last layer adds up potentials."""
    return BNTTNet(size)


class DietSNNNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.timesteps = T
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(width * (size.pixels // 2) ** 2, size.classes, bias=False))
        self.threshold = nn.ParameterDict({f"t{i}": nn.Parameter(torch.tensor(0.3)) for i in (0, 3)})
        self.leak = nn.ParameterDict({f"l{i}": nn.Parameter(torch.tensor(0.9)) for i in (0, 3)})
        self.mem: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.mem = {}
        answer = torch.zeros(len(x), self.classifier[0].out_features)
        for _ in range(self.timesteps):
            out = x
            for index, module in enumerate(self.features):
                if isinstance(module, nn.Conv2d):
                    current = module(out)
                    mem = self.leak[f"l{index}"] * self.mem.get(index, torch.zeros_like(current)) + current
                    out = ((mem / self.threshold[f"t{index}"] - 1.0) > 0).float()
                    self.mem[index] = mem - self.threshold[f"t{index}"] * out
                elif isinstance(module, nn.AvgPool2d):
                    out = module(out)
            answer = answer + self.classifier(out.reshape(len(x), -1))
        return answer


@network("nitin-rathi/hybrid-snn-conversion (Diet-SNN)", neurons=False, told={"time_steps": T})
def diet_snn(size: Size) -> nn.Module:
    """A loop over T and over the layers inside; potentials in a dictionary, learnt leaks and thresholds, ReLUs that are
    skipped: neurons written inline, the last layer adds up potentials."""
    return louder(DietSNNNet(size), 2)
