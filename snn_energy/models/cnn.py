"""The convolutional networks that the DTSS paper compares with: VGG16, ResNet-19 and PreAct-ResNet-18, spiking.

- VGG16: 13 convolutions and three linear layers, all without bias. Diet-SNN (Rathi and Roy, 2020; T = 5): average pools
  after the neurons. Hoyer (Datta, Liu, Beerel, 2022; T = 1): max-pool, BatchNorm, neurons.
- ResNet-19 (tdBN: Zheng et al. 2021; TET: Deng et al. 2022; T = 4 or 6): stages of 3, 3 and 2 blocks, shortcuts added
  before the neurons, a hidden linear layer of 256.
- PreAct-ResNet-18 (DSR: Meng et al. 2022; T = 20): BatchNorm and neurons before every convolution; biases.

Direct encoding (the image is repeated at every time step) and a head that runs at every step; the logits are the mean
over the steps. The docstring of each class states how the published network differs from the one built here.

Shapes: B images, T time steps, C channels, H and W pixels; inside, time and samples share the first axis, time major.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor, nn

from snn_energy.core.errors import ModelError, nearest
from snn_energy.models.names import CNNS, CnnDefaults
from snn_energy.models.neurons import DTSS, LIF, NeuronRule

LARGEST_WIDTH = 16
VGG16_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG16_POOLS = frozenset((1, 3, 6, 9))  # convolutions followed by a pool; the last three have none
VGG16_HIDDEN = 4096
RESNET19_STAGES = ((128, 3, 1), (256, 3, 2), (512, 2, 2))  # channels, blocks, stride of the first
RESNET19_HIDDEN = 256
PREACT_STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
STEM_CHANNELS = 64


@dataclass(frozen=True)
class CnnConfig:
    """Everything that determines the shape and the dynamics of a network; stored in a checkpoint's metadata.

    ``family`` is a name of the registry. ``width`` multiplies every number of channels except those of the image and
    of the classes. ``pooling`` ("avg" or "max") and ``batch_norm`` apply only to VGG16, ``initial_steps`` and
    ``min_steps`` to networks with DTSS layers, ``neuron``, ``leak`` and ``v_th`` to spiking ones (see ``LIF``).
    """

    family: str
    time_steps: int
    image_size: int
    in_channels: int
    num_classes: int
    width: float = 1.0
    neuron: NeuronRule = "paper"
    leak: float = 1.0
    v_th: float = 1.0
    pooling: Literal["avg", "max"] | None = None
    batch_norm: bool = True
    initial_steps: int | None = None
    min_steps: int = 0
    surrogate_gamma: float = 1.0

    @property
    def name(self) -> str:
        """The registry name, such as ``resnet19``."""
        return self.family

    @property
    def defaults(self) -> CnnDefaults:
        """The defaults that the name stands for."""
        return CNNS[self.family]

    def channels(self, published: int) -> int:
        """Channels of a layer that has ``published`` channels in the published network."""
        return max(1, round(published * self.width))

    def validate(self) -> None:
        """Raise ModelError if the sizes are inconsistent."""
        if self.family not in CNNS:
            raise ModelError(
                f"family must be one of {', '.join(CNNS)}, not '{self.family}'{nearest(self.family, CNNS)}"
            )
        sizes = asdict(self)
        for key in ("time_steps", "image_size", "in_channels", "num_classes"):
            if isinstance(sizes[key], bool) or not isinstance(sizes[key], int) or sizes[key] < 1:
                raise ModelError(f"{key} must be a whole number of at least 1, not {sizes[key]!r}")
        if isinstance(self.width, bool) or not 0 < self.width <= LARGEST_WIDTH:
            raise ModelError(f"width must lie above 0 and be at most {LARGEST_WIDTH}, not {self.width!r}")
        if not self.defaults.spiking and self.time_steps != 1:
            raise ModelError(f"a non-spiking {self.name} has one time step, not {self.time_steps}")
        if not self.defaults.dynamic and (self.initial_steps is not None or self.min_steps):
            raise ModelError(f"initial_steps and min_steps: {self.name} has no DTSS layers; leave them out")
        if self.defaults.architecture == "vgg16":
            if self.pooling not in ("avg", "max"):
                raise ModelError(f"pooling must be avg or max, not {self.pooling!r}")
            if self.image_size % 16:
                raise ModelError(f"image_size {self.image_size} must be a multiple of 16 (VGG16 halves it four times)")
        elif self.pooling is not None or not self.batch_norm:
            raise ModelError(f"pooling and batch_norm: {self.name} has no such choice; leave them out")


def make_neuron(config: CnnConfig) -> nn.Module:
    """A layer of neurons of the network: LIF, DTSS, or the ReLU of the non-spiking twin."""
    if not config.defaults.spiking:
        return nn.ReLU()
    if config.defaults.dynamic:
        return DTSS(
            config.time_steps,
            config.initial_steps,
            config.min_steps,
            config.leak,
            config.v_th,
            config.neuron,
            config.surrogate_gamma,
        )
    return LIF(config.leak, config.v_th, config.neuron, config.surrogate_gamma)


def apply_neuron(neuron: nn.Module, current: Tensor, steps: int) -> Tensor:
    """The output of a layer of neurons. current: (T*B, ...) -> (T*B, ...)."""
    if not isinstance(neuron, LIF):
        out: Tensor = neuron(current)
        return out
    spikes: Tensor = neuron(current.unflatten(0, (steps, len(current) // steps)))
    return spikes.flatten(0, 1)


class Cnn(nn.Module, abc.ABC):
    """Base class of the three networks. Shape: images (B, C, H, W) -> logits (B, classes)."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        config.validate()
        self.config, self.time_steps = config, config.time_steps

    @abc.abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """x: (T*B, C, H, W) -> logits (T*B, classes)."""

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits (B, classes), the mean over the time steps."""
        if self.time_steps == 1:
            return self.logits(images)
        return self.forward_steps(images).mean(0)

    def forward_steps(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits of every time step (T, B, classes); their mean is what ``forward`` returns."""
        repeated = images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)  # direct encoding
        logits: Tensor = self.logits(repeated.flatten(0, 1)).unflatten(0, repeated.shape[:2])
        return logits


class VGG16(Cnn):
    """VGG16 for small images: 13 convolutions, four pools, linear layers of 4096, 4096 and the classes.

    Diet-SNN trains leak and threshold of every layer from a converted network without BatchNorm: here both are fixed,
    and a BatchNorm after every layer except the head, which folds at inference, allows training from scratch
    (``batch_norm=False`` omits it). Averages of spikes are real numbers: the layers after them multiply, unless
    ``pooling="max"``. In ``vgg16-hoyer``, as published, only convolutions have a BatchNorm, and those after a
    pool do not fold.
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        self.pools_before_norm = config.defaults.pools_before_norm
        in_channels = config.in_channels
        for i, published in enumerate(VGG16_CHANNELS):
            out_channels = config.channels(published)
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False))
            if config.batch_norm:
                self.add_module(f"bn{i}", nn.BatchNorm2d(out_channels))
            self.add_module(f"lif{i}", make_neuron(config))
            if i in VGG16_POOLS:
                self.add_module(f"pool{i}", nn.MaxPool2d(2) if config.pooling == "max" else nn.AvgPool2d(2))
            in_channels = out_channels
        hidden = config.channels(VGG16_HIDDEN)
        self.fc0 = nn.Linear(in_channels * (config.image_size // 16) ** 2, hidden, bias=False)
        self.fc0_lif = make_neuron(config)
        self.fc1 = nn.Linear(hidden, hidden, bias=False)
        if config.batch_norm and not self.pools_before_norm:
            self.fc0_bn, self.fc1_bn = nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden)
        self.fc1_lif = make_neuron(config)
        self.head = nn.Linear(hidden, config.num_classes, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        """x: (T*B, C, H, W) -> logits (T*B, classes)."""
        steps = self.time_steps
        for i in range(len(VGG16_CHANNELS)):
            x = self.get_submodule(f"conv{i}")(x)
            if self.pools_before_norm and i in VGG16_POOLS:
                x = self.get_submodule(f"pool{i}")(x)
            if self.config.batch_norm:
                x = self.get_submodule(f"bn{i}")(x)
            x = apply_neuron(self.get_submodule(f"lif{i}"), x, steps)
            if not self.pools_before_norm and i in VGG16_POOLS:
                x = self.get_submodule(f"pool{i}")(x)
        x = x.flatten(1)
        for name in ("fc0", "fc1"):
            x = self.get_submodule(name)(x)
            if self.config.batch_norm and not self.pools_before_norm:
                x = self.get_submodule(f"{name}_bn")(x)
            x = apply_neuron(self.get_submodule(f"{name}_lif"), x, steps)
        logits: Tensor = self.head(x)
        return logits


def make_stages(
    config: CnnConfig, block: type[nn.Module], in_channels: int, stage_specs: Sequence[tuple[int, int, int]]
) -> nn.ModuleList:
    """Stages of residual blocks. stage_specs: (published channels, blocks, stride of the first block) of each."""
    stages = nn.ModuleList()
    for published, blocks, stride in stage_specs:
        out_channels = config.channels(published)
        stage = nn.ModuleList()
        for i in range(blocks):
            stage.append(block(config, in_channels, out_channels, stride if i == 0 else 1))
            in_channels = out_channels
        stages.append(stage)
    return stages


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut (spikes, or a 1x1 convolution of them) is added before the second neurons.

    The sum is a current, not an input of weights: every convolution reads binary spikes.
    """

    def __init__(self, config: CnnConfig, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.lif1 = make_neuron(config)
        self.conv2, self.bn2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False), nn.BatchNorm2d(out_channels)
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(out_channels)
        self.lif2 = make_neuron(config)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """x: (T*B, C, H, W) spikes -> (T*B, C', H', W') spikes."""
        shortcut = self.shortcut_bn(self.shortcut_conv(x)) if self.projects else x
        hidden = apply_neuron(self.lif1, self.bn1(self.conv1(x)), steps)
        return apply_neuron(self.lif2, self.bn2(self.conv2(hidden)) + shortcut, steps)


class ResNet19(Cnn):
    """ResNet-19 as the public code of tdBN and TET builds it: a stem of 64 channels, 8 blocks, a hidden layer of 256.

    With ``neuron="spikformer"``, leak 0.5 and v_th 0.5 the neurons are TET's (u = u/2 + I, threshold 1, hard reset):
    the factor 1 - leak before the current scales both sides. tdBN's (u = u/4 + I, threshold 0.5): leak 0.25, v_th 3/8.
    tdBN initialises the BatchNorm's weights with alpha * V_th; here they start at 1. In tdBN the last layer spikes as
    well; here its currents are the logits, as in TET.
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        channels = config.channels(STEM_CHANNELS)
        self.conv0 = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        self.bn0, self.lif0 = nn.BatchNorm2d(channels), make_neuron(config)
        self.stages = make_stages(config, ResidualBlock, channels, RESNET19_STAGES)
        channels = config.channels(RESNET19_STAGES[-1][0])
        hidden = config.channels(RESNET19_HIDDEN)
        self.fc0, self.fc0_lif = nn.Linear(channels, hidden), make_neuron(config)
        self.head = nn.Linear(hidden, config.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """x: (T*B, C, H, W) -> logits (T*B, classes)."""
        x = apply_neuron(self.lif0, self.bn0(self.conv0(x)), self.time_steps)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, self.time_steps)
        x = apply_neuron(self.fc0_lif, self.fc0(x.mean((2, 3))), self.time_steps)
        logits: Tensor = self.head(x)
        return logits


class PreActBlock(nn.Module):
    """BatchNorm, neurons, 3x3 convolution, twice; the spikes of the first neurons are the shortcut.

    BatchNorm follows a sum, so the first one does not fold; every convolution reads binary spikes.
    """

    def __init__(self, config: CnnConfig, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.lif1 = nn.BatchNorm2d(in_channels), make_neuron(config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.bn2, self.lif2 = nn.BatchNorm2d(out_channels), make_neuron(config)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.shortcut_conv = nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """x: (T*B, C, H, W) currents -> (T*B, C', H', W') currents."""
        spikes = apply_neuron(self.lif1, self.bn1(x), steps)
        hidden = apply_neuron(self.lif2, self.bn2(self.conv1(spikes)), steps)
        out: Tensor = self.conv2(hidden) + (self.shortcut_conv(spikes) if self.projects else spikes)
        return out


class PreActResNet18(Cnn):
    """PreAct-ResNet-18 as DSR builds it, including the neurons after the pool, so that the head reads spikes.

    DSR's neurons fire at a fraction alpha of the trained threshold and then subtract the whole of it; here both values
    are equal and fixed (integrate and fire, soft reset). In DSR the logits spike too; here they are the currents after
    their BatchNorm.
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        channels = config.channels(STEM_CHANNELS)
        self.conv0 = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        self.stages = make_stages(config, PreActBlock, channels, PREACT_STAGES)
        channels = config.channels(PREACT_STAGES[-1][0])
        self.bn, self.lif, self.pool_lif = nn.BatchNorm2d(channels), make_neuron(config), make_neuron(config)
        self.head = nn.Sequential(nn.Linear(channels, config.num_classes), nn.BatchNorm1d(config.num_classes))

    def logits(self, x: Tensor) -> Tensor:
        """x: (T*B, C, H, W) -> logits (T*B, classes)."""
        x = self.conv0(x)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, self.time_steps)
        x = apply_neuron(self.lif, self.bn(x), self.time_steps)
        logits: Tensor = self.head(apply_neuron(self.pool_lif, x.mean((2, 3)), self.time_steps))
        return logits


_ARCHITECTURES: dict[str, type[Cnn]] = {"vgg16": VGG16, "resnet19": ResNet19, "preact-resnet18": PreActResNet18}


def make_cnn(config: CnnConfig) -> Cnn:
    """The network of a configuration. Raises ModelError."""
    config.validate()
    return _ARCHITECTURES[config.defaults.architecture](config)
