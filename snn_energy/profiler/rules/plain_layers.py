"""Layers of torch whose forward, in eval mode, is one call of a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

PlainCall = tuple[str, tuple[Any, ...], dict[str, Any]]  # function name, arguments, keywords


def _convolution_call(module: Any, x: Tensor) -> PlainCall:
    m = module
    name = f"conv{m.weight.dim() - 2}d"
    return name, (x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups), {}


def _linear_call(module: Any, x: Tensor) -> PlainCall:
    return "linear", (x, module.weight, module.bias), {}


def _batch_norm_call(module: Any, x: Tensor) -> PlainCall:
    m = module
    of_this_batch = m.running_mean is None and m.running_var is None
    return "batch_norm", (x, m.running_mean, m.running_var, m.weight, m.bias, of_this_batch, m.momentum, m.eps), {}


PLAIN_LAYERS: Mapping[type[nn.Module], Callable[[Any, Tensor], PlainCall]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_call),
    nn.Linear: _linear_call,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm_call),
}


def is_plain_layer(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True if a module is one of ``PLAIN_LAYERS`` of torch or SpikingJelly, called with one plain tensor."""
    if plain_base(type(module)) is None or len(args) != 1 or kwargs or type(args[0]) not in (Tensor, nn.Parameter):
        return False
    if "forward" in vars(module) or module.training or getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    if is_over_time(module) and args[0].dim() < 3:
        return False
    return all(type(p) in (nn.Parameter, type(None)) for p in module._parameters.values())


def plain_call(module: nn.Module, x: Tensor) -> PlainCall:
    """The single function call, on (rows, ...), that the forward of a plain layer makes."""
    base = plain_base(type(module))
    assert base is not None  # is_plain_layer was true
    return PLAIN_LAYERS[base](module, x)


def plain_base(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The torch layer that a class is, or that a SpikingJelly class wraps; None for any other class."""
    if kind in PLAIN_LAYERS:
        return kind
    is_wrapped = kind.__module__.startswith("spikingjelly.activation_based.layer.")
    return next((base for base in kind.__mro__ if base in PLAIN_LAYERS), None) if is_wrapped else None


def is_over_time(module: nn.Module) -> bool:
    """True for a layer of SpikingJelly that reads (T, B, ...) and runs on (T*B, ...)."""
    return getattr(module, "step_mode", "s") == "m" and type(module) not in PLAIN_LAYERS


def is_layer_class(kind: type) -> bool:
    """True for the layers of torch and classes derived from them, such as a framework's own Conv2d."""
    layers = (base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules."))
    is_derived = any(base is not nn.Module and not base.__module__.endswith(".container") for base in layers)
    return is_derived or kind.__module__.startswith("torch.nn.")


def is_weight_layer(module: nn.Module) -> bool:
    """True for the layers of torch that hold weights of their own."""
    return type(module).__module__.startswith("torch.nn.modules") and any(
        parameter is not None for parameter in module._parameters.values()
    )
