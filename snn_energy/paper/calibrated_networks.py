"""Networks with a given T_avg and spiking activity, without data and training: all that a paper's averages determine.

The active steps of every DTSS layer are set through TP; the firing rates through the biases of the BatchNorms, layer by
layer in forward order, on the images that are then profiled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snn_energy.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from snn_energy.counts.counts import Counts
    from snn_energy.models.spikformer import Spikformer

BISECTION_STEPS = 30  # bisection steps for a bias
MAX_BIAS = 12.0  # standard deviations of a BatchNorm's output; no current is larger
SEED = 0


def steps_with_mean(mean: float, layers: int, highest: int) -> list[int]:
    """Integer T_l whose mean is as near to ``mean`` as possible, as equal as possible, in a fixed random order.

    >>> sorted(steps_with_mean(1.15, 33, 4))[-6:], sum(steps_with_mean(1.15, 33, 4)) / 33
    ([1, 2, 2, 2, 2, 2], 1.1515151515151516)
    """
    total = min(round(mean * layers), highest * layers)
    base_steps, more = divmod(total, layers)
    return random.Random(SEED).sample([base_steps + 1] * more + [base_steps] * (layers - more), layers)


def set_active_steps(model: nn.Module, steps: Mapping[str, int]) -> None:
    """Set TP so that every DTSS layer has this T_l: TS^t = 1.5 for t <= T_l, 0 for later t. Raises ModelError."""
    import torch

    from snn_energy.models.neurons import DTSS
    from snn_energy.models.spikformer import spiking_layers

    for name, layer in spiking_layers(model).items():
        if not isinstance(layer, DTSS):
            raise ModelError(f"{name} is no DTSS layer: its steps are those of the network")
        wanted = steps[name]
        if not layer.min_steps <= wanted <= layer.max_steps:
            raise ModelError(f"{name}: T_l must lie in {layer.min_steps}..{layer.max_steps}, not {wanted}")
        with torch.no_grad():
            layer.tp.zero_()
            if wanted:
                layer.tp[wanted - 1] = 1.5


def active_rate(sa: float, time_steps: int, neurons: Sequence[int], steps: Sequence[int]) -> float:
    """Spikes per neuron and active step, the same in all layers, that give a spiking activity SA (a share, over T_max).

    SA = sum_l rate . neurons_l . T_l / (T_max . sum_l neurons_l)
    """
    active = sum(n * t for n, t in zip(neurons, steps, strict=True))
    return sa * time_steps * sum(neurons) / active


def _normalise_hook(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """Hook of a BatchNorm: mean and variance become those of its input, weight 1, bias 0."""
    x = inputs[0].double()
    dims = [d for d in range(x.dim()) if d != 1]
    norm.running_mean.copy_(x.mean(dims))
    norm.running_var.copy_(x.var(dims, correction=0))
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def calibrate_rates(model: Any, images: Tensor, rate: float) -> None:
    """Make every spiking layer of a Spikformer fire at this rate per neuron and active step on these images.

    BatchNorms get the mean and variance of their inputs and, equal for all channels, the bias at which the layer after
    them has the rate. No BatchNorm follows the products of the attention: there the threshold is set, as near as their
    integers allow, and the following layers compensate the difference.
    """
    import torch

    from snn_energy.models.neurons import DTSS
    from snn_energy.models.spikformer import spiking_layers

    modules = dict(model.named_modules())
    spike_deficit = [0.0]  # spikes that the layers so far lack

    def calibrating_hook(name: str) -> Callable[[Any, tuple[Tensor, ...]], tuple[Tensor]]:
        norm = modules.get(name.replace("lif", "bn"))

        def calibrate_layer(lif: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            current = inputs[0]
            flags = lif.active_flags() if isinstance(lif, DTSS) else [True] * len(current)
            neuron_steps = current[0].numel() * sum(flags)
            wanted = rate * neuron_steps
            target_spikes = min(max(wanted + spike_deficit[0], 0.0), 2 * wanted)

            def spikes_of(shifted: Tensor) -> int:
                return int(torch.count_nonzero(lif.fire(shifted, flags)))

            if norm is not None:
                bias, spikes = _bisect(lambda b: spikes_of(current + b), -MAX_BIAS, MAX_BIAS, target_spikes)
                norm.bias.fill_(bias)
                current = current + bias
            else:

                def of_threshold(minus: float) -> int:
                    lif.v_th = -minus
                    return spikes_of(current)

                most = 2.0 * len(current) * max(float(current.max()), 1.0)
                minus, spikes = _bisect(of_threshold, -most, -1e-3, target_spikes)
                lif.v_th = -minus
            spike_deficit[0] += wanted - spikes
            return (current,)

        return calibrate_layer

    hooks = [
        m.register_forward_pre_hook(_normalise_hook)
        for n, m in modules.items()
        if n.endswith(("bn", *_numbered_names("bn")))
    ]
    hooks += [lif.register_forward_pre_hook(calibrating_hook(name)) for name, lif in spiking_layers(model).items()]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


def _numbered_names(name: str) -> tuple[str, ...]:
    """bn0 to bn3, as in the patch splitting."""
    return tuple(f"{name}{i}" for i in range(4))


def _bisect(spikes: Callable[[float], int], low: float, high: float, target_spikes: float) -> tuple[float, int]:
    """Bisection: where a count that rises from ``low`` to ``high`` is nearest to ``target_spikes``: (place, count)."""
    ends = {high: spikes(high), low: spikes(low)}
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        ends[middle] = spikes(middle)
        low, high = (middle, high) if ends[middle] < target_spikes else (low, middle)
    at = min(ends, key=lambda place: (abs(ends[place] - target_spikes), place))
    return at, ends[at]


@dataclass(frozen=True)
class Setting:
    """A network to be made: registry name, classes, T_max, mean T_l, and SA or the rate per active step (shares)."""

    name: str
    model: str
    classes: int
    time_steps: int
    t_avg: float | None = None
    sa: float | None = None
    rate: float | None = None


def random_images(samples: int, size: int = 32) -> Tensor:
    """(samples, 3, size, size) of independent uniform grey levels, the same in every run, in double precision."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    return torch.rand(samples, 3, size, size, generator=generator, dtype=torch.float64)


def calibrated_network(setting: Setting, images: Tensor) -> Spikformer:
    """A network of random weights with the mean T_l and the activity of a setting on these images.

    In double precision, so that rounding does not change spikes and every machine counts the same.
    """
    import torch

    from snn_energy.models.create import create_model
    from snn_energy.models.spikformer import Spikformer, spiking_layers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        size = images.shape[-1]
        model = create_model(
            setting.model, image_size=size, num_classes=setting.classes, time_steps=setting.time_steps
        ).double()
    assert isinstance(model, Spikformer)
    lifs = list(spiking_layers(model))
    steps = [setting.time_steps] * len(lifs)
    if setting.t_avg is not None:
        steps = steps_with_mean(setting.t_avg, len(lifs), setting.time_steps)
        set_active_steps(model, dict(zip(lifs, steps, strict=True)))
    rate = setting.rate
    if rate is None and setting.sa is not None:
        rate = active_rate(setting.sa, setting.time_steps, neurons_of(model, images[:1]), steps)
    if rate is None:
        raise ModelError(f"{setting.name}: give a spiking activity or a rate")
    calibrate_rates(model, images, rate)
    return model


def neurons_of(model: Spikformer, image: Tensor) -> list[int]:
    """Neurons of every spiking layer."""
    import torch

    from snn_energy.models.spikformer import spiking_layers

    found: list[int] = []
    hooks = [
        lif.register_forward_hook(lambda _, inputs, out: found.append(out[0].numel()))
        for lif in spiking_layers(model).values()
    ]
    with torch.inference_mode():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return found


def calibrated_counts(setting: Setting, samples: int) -> Counts:
    """Counts of a network made for a setting, over the images of its calibration; a ``vit`` is not calibrated."""
    import torch

    from snn_energy.models.create import create_model
    from snn_energy.profiler.run import profile

    images, threads = random_images(samples), torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small: several threads would mostly wait for each other
    try:
        if setting.model.startswith("vit"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                size = images.shape[-1]
                model: Any = create_model(setting.model, image_size=size, num_classes=setting.classes).double()
        else:
            model = calibrated_network(setting, images)
        with torch.inference_mode():
            return profile(model.eval(), [images], header={"dataset": "random images", "network": setting.name})
    finally:
        torch.set_num_threads(threads)
