"""Residual networks: where the shortcut is added, how convolution and BatchNorm are wrapped over time."""

from __future__ import annotations

import members
import torch
from members import Size, T, events, network
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn
from torch.nn import functional


def fires(x: Tensor) -> Tensor:
    return (x >= 0).float()


# --- SEW-ResNet -----------------------------------------------------------------------------------------------------


def node() -> nn.Module:
    return neuron.IFNode(detach_reset=True, step_mode="m")


def multi_conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer.SeqToANNContainer(conv, nn.BatchNorm2d(outputs)), node())


class SEWBlock(nn.Module):
    """Spikes are added to spikes behind the second neuron."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = multi_conv(inputs, outputs, stride), multi_conv(outputs, outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(layer.SeqToANNContainer(conv, nn.BatchNorm2d(outputs)), node())

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        out += x if self.downsample is None else self.downsample(x)
        return out


class SEWResNetNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.T, width = T, size.width
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.sn1, self.maxpool = node(), layer.SeqToANNContainer(nn.MaxPool2d(3, 2, 1))
        self.layer1, self.layer2 = SEWBlock(width, width), SEWBlock(width, 2 * width, 2)
        self.avgpool = layer.SeqToANNContainer(nn.AdaptiveAvgPool2d((1, 1)))
        self.fc = nn.Linear(2 * width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x.unsqueeze_(0)
        x = self.sn1(x.repeat(self.T, 1, 1, 1, 1))
        x = self.avgpool(self.layer2(self.layer1(self.maxpool(x))))
        return self.fc(torch.flatten(x, 2).mean(dim=0))


@network("fangwei123456/Spike-Element-Wise-ResNet")
def sew_resnet(size: Size) -> nn.Module:
    """Spikes added to spikes. The first convolution and its BatchNorm work once; an unsqueeze in place and a repeat
    make (T, B, ...) of them; mean over T before the head."""
    return SEWResNetNet(size)


# --- MS-ResNet ------------------------------------------------------------------------------------------------------


@members.neuron
class MemUpdate(nn.Module):
    """LIF in a loop over axis 0, hard reset by a factor; writes spikes into a tensor of zeros."""

    def __init__(self, steps: int = T) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        mem = torch.zeros_like(x[0])
        spike = torch.zeros_like(x[0])
        output = torch.zeros_like(x)
        mem_old = 0
        for i in range(self.steps):
            mem = mem_old * 0.25 * (1 - spike.detach()) + x[i] if i >= 1 else x[i]
            spike = (mem > 0.5).float()
            mem_old = mem.clone()
            output[i] = spike
        return output


class SnnConv2d(nn.Conv2d):
    """A convolution that takes (T, B, C, H, W) and loops over T."""

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        height = (x.shape[3] + 2 * self.padding[0] - self.kernel_size[0]) // self.stride[0] + 1
        width = (x.shape[4] + 2 * self.padding[1] - self.kernel_size[1]) // self.stride[1] + 1
        out = torch.zeros(steps, x.shape[1], self.out_channels, height, width, device=x.device)
        for i in range(steps):
            out[i] = functional.conv2d(
                x[i], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
        return out


class NormOverTime(nn.BatchNorm3d):
    """BatchNorm3d of (B, C, T, H, W), from and to (T, B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 2).contiguous().transpose(0, 1).contiguous()
        y = super().forward(y)
        return y.contiguous().transpose(0, 1).contiguous().transpose(0, 2)


class MSBlock(nn.Module):
    """Neuron, convolution, BatchNorm, twice; the shortcut carries potentials."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            MemUpdate(),
            SnnConv2d(inputs, outputs, 3, stride, 1, bias=False),
            NormOverTime(outputs),
            MemUpdate(),
            SnnConv2d(outputs, outputs, 3, 1, 1, bias=False),
            NormOverTime(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1:
            pool = nn.AvgPool3d((1, 2, 2), stride=(1, 2, 2))
            self.shortcut = nn.Sequential(pool, SnnConv2d(inputs, outputs, 1, bias=False), NormOverTime(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class MSResNetNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.conv1 = nn.Sequential(SnnConv2d(3, width, 3, padding=1, bias=False), NormOverTime(width))
        self.conv2, self.conv3, self.mem = MSBlock(width, width), MSBlock(width, 2 * width, 2), MemUpdate()
        self.fc = nn.Linear(2 * width, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        given = torch.zeros(T, *x.shape, device=x.device)
        for i in range(T):
            given[i] = x
        x = self.mem(self.conv3(self.conv2(self.conv1(given))))
        x = functional.adaptive_avg_pool3d(x, (None, 1, 1)).view(x.shape[0], x.shape[1], -1)
        return self.fc(x.sum(dim=0) / x.shape[0])


@network("Ariande1/MS-ResNet")
def ms_resnet(size: Size) -> nn.Module:
    """Membrane shortcuts; convolutions that loop over T within the layer, BatchNorm3d over time, hand-written LIF that
    writes into zeros. Images copied T times into a (T, B, ...) of zeros; sum over T, divided, before the head."""
    return MSResNetNet(size)


# --- EMS-YOLO -------------------------------------------------------------------------------------------------------


class EMSBlock(nn.Module):
    """Both branches pass neurons: a max-pooled, concatenated shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            MemUpdate(), SnnConv2d(inputs, outputs, 3, 2, 1, bias=False), NormOverTime(outputs),
            MemUpdate(), SnnConv2d(outputs, outputs, 3, 1, 1, bias=False), NormOverTime(outputs),
        )  # fmt: skip
        self.pool, self.mem = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), MemUpdate()
        self.widen = nn.Sequential(SnnConv2d(inputs, outputs - inputs, 1, bias=False), NormOverTime(outputs - inputs))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        return self.residual(x) + torch.cat([self.widen(self.mem(pooled)), pooled], dim=2)


class EMSYOLONet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.conv1 = nn.Sequential(SnnConv2d(3, width, 3, padding=1, bias=False), NormOverTime(width))
        self.block = EMSBlock(width, 2 * width)
        self.lateral = nn.Sequential(MemUpdate(), SnnConv2d(2 * width, width, 1, bias=False), NormOverTime(width))
        self.up = nn.Upsample(scale_factor=(1, 2, 2), mode="nearest")
        self.detect = nn.ModuleList(
            nn.Sequential(MemUpdate(), SnnConv2d(channels, size.classes, 1)) for channels in (width, 2 * width)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.conv1(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))
        coarse = self.block(fine)
        top = self.up(self.lateral(coarse).permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4)
        return [head(scale).sum(dim=0) / T for head, scale in zip(self.detect, (fine + top, coarse), strict=True)]


@network("BICLab/EMS-YOLO")
def ems_yolo(size: Size) -> nn.Module:
    """Full-spike residual blocks with a max-pooled, concatenated shortcut, two detection heads averaged over T; layers
    loop over T inside. Images repeated to (T, B, ...)."""
    return EMSYOLONet(size)


# --- STBP, tdBN: time last ------------------------------------------------------------------------------------------


class TdLayer(nn.Module):
    """A layer of torch, applied step by step to (N, C, H, W, T)."""

    def __init__(self, inner: nn.Module, bn: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.bn = inner, bn

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[-1]
        out = torch.zeros((*self.layer(x[..., 0]).shape, steps), device=x.device)
        for step in range(steps):
            out[..., step] = self.layer(x[..., step])
        return out if self.bn is None else self.bn(out)


class TdBatchNorm(nn.BatchNorm2d):
    """Threshold-dependent BatchNorm: statistics over samples, space and time; scaled by the threshold."""

    def _check_input_dim(self, x: Tensor) -> None:
        assert x.dim() == 5

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, var = x.mean([0, 2, 3, 4]), x.var([0, 2, 3, 4], unbiased=False)
            with torch.no_grad():
                self.running_mean.copy_(mean)
                self.running_var.copy_(var)
        else:
            mean, var = self.running_mean, self.running_var
        shape = (None, slice(None), None, None, None)
        x = 0.5 * (x - mean[shape]) / torch.sqrt(var[shape] + self.eps)
        return x * self.weight[shape] + self.bias[shape]


@members.neuron
class LIFSpikeLast(nn.Module):
    """LIF over the last axis: the next potential needs the last spike."""

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[-1]
        u = torch.zeros(x.shape[:-1], device=x.device)
        out = torch.zeros(x.shape, device=x.device)
        for step in range(steps):
            u = 0.25 * u * (1 - out[..., max(step - 1, 0)]) + x[..., step]
            out[..., step] = (u > 0.5).float()
        return out


class TdBNNet(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.conv1 = TdLayer(nn.Conv2d(2, width, 3, padding=1, bias=False), TdBatchNorm(width))
        self.conv2 = TdLayer(nn.Conv2d(width, width, 3, padding=1, bias=False), TdBatchNorm(width))
        self.pool, self.spike1, self.spike2 = TdLayer(nn.AvgPool2d(2)), LIFSpikeLast(), LIFSpikeLast()
        self.fc1, self.spike3 = TdLayer(nn.Linear(width * (size.pixels // 2) ** 2, 16)), LIFSpikeLast()
        self.fc2, self.spike4 = TdLayer(nn.Linear(16, size.classes)), LIFSpikeLast()

    def forward(self, x: Tensor) -> Tensor:
        x = self.spike1(self.conv1(x))
        x = self.pool(self.spike2(self.conv2(x)))
        x = x.view(x.shape[0], -1, x.shape[4])
        x = self.spike4(self.fc2(self.spike3(self.fc1(x))))
        return torch.sum(x, dim=2) / x.shape[-1]


def events_last(size: Size, count: int) -> Tensor:
    """(N, C, H, W, T) of an event camera."""
    return events("B", "T")(size, count).permute(0, 2, 3, 4, 1).contiguous()


LAYERS = ("conv1.layer", "conv2.layer", "fc1.layer", "fc2.layer")  # called once more at step 0, for the shape alone


@network("thiswinex/STBP-simple", data=events_last, order="last", mixes_time=LAYERS)
def tdbn(size: Size) -> nn.Module:
    """Threshold-dependent BatchNorm; time is the last axis, (N, C, H, W, T), and every layer loops over it into a
    tensor of zeros; the sum over T, divided, is the answer."""
    return TdBNNet(size)


class TdBNImagesNet(TdBNNet):
    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.conv1 = TdLayer(nn.Conv2d(3, size.width, 3, padding=1, bias=False), TdBatchNorm(size.width))

    def forward(self, x: Tensor) -> Tensor:
        x, _ = torch.broadcast_tensors(x, torch.zeros((T, *x.shape)))
        return super().forward(x.permute(1, 2, 3, 4, 0))


@network("thiswinex/STBP-simple (images)", order="last", mixes_time=LAYERS)
def tdbn_images(size: Size) -> nn.Module:
    """As tdbn, of images that the network broadcasts to T steps and permutes to (N, C, H, W, T)."""
    return TdBNImagesNet(size)
