"""Spikformer-N-D as in the DTSS paper; ``models/vit.py`` has its non-spiking twin of the same shape.

All linear layers are convolutions without bias, each followed by BatchNorm; no softmax and no LayerNorm in
the spiking network; direct encoding (the image is repeated at every time step); spiking patch splitting (SPS)
with a relative position embedding (RPE); residual sums. The twin has real activations instead of the LIFs, a
softmax on the attention, and one time step.

Shapes: B images, T time steps, D channels, N tokens, h heads, d = D/h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snn_energy.models import spikformer_fused as fused
from snn_energy.models.neurons import DTSS, LIF
from snn_energy.models.spikformer_blocks import Block, PatchSplitting
from snn_energy.models.spikformer_skipping import forward_skipping, has_hooks
from snn_energy.models.transformer_config import ATTENTION_SCALE, TransformerConfig


class Spikformer(nn.Module):
    """Spikformer-N-D; with family ``dts-spikformer`` every LIF is a DTSS layer.

    Shape: images (B, C, H, W) -> logits (B, classes). Time is internal: the image is repeated ``time_steps``
    times and the tokens are averaged over space and time before the head. ``fused``: training uses
    ``models/spikformer_fused.py``, where it applies.
    """

    fused = False

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        config.validate()

        def make_lif(v_th: float) -> LIF:
            if config.family == "dts-spikformer":
                return DTSS(
                    config.time_steps,
                    config.initial_steps,
                    config.min_steps,
                    config.leak,
                    v_th,
                    config.neuron,
                    config.surrogate_gamma,
                )
            return LIF(config.leak, v_th, config.neuron, config.surrogate_gamma)

        self.config, self.time_steps = config, config.time_steps
        self.skips_time_steps = config.family == "dts-spikformer"
        self.sps = PatchSplitting(config, make_lif)
        self.blocks = nn.ModuleList(Block(config, make_lif) for _ in range(config.depth))
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits (B, classes).

        At inference a network of DTSS layers computes only the time steps that affect the logits under its masks
        (``models/spikformer_skipping.py``); the logits are the same. It computes all steps if ``skips_time_steps`` is
        False, or if a module has hooks, which observe every layer at every step.
        """
        if self.skips_time_steps and not (self.training or torch.is_grad_enabled() or has_hooks(self)):
            return forward_skipping(self, images, ATTENTION_SCALE)
        logits: Tensor = self.head(self._features(images).mean(0))
        return logits

    def forward_steps(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> logits of every time step (T, B, classes); their mean is what ``forward`` returns."""
        logits: Tensor = self.head(self._features(images))
        return logits

    def _features(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) -> (T, B, D), averaged over the tokens."""
        if self.fused and fused.can_fuse(self, images):
            return fused.features(self, images, ATTENTION_SCALE)
        x = images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)  # direct encoding
        x = self.sps(x)
        for block in self.blocks:
            x = block(x)
        features: Tensor = x.mean(3)
        return features


def spiking_layers(model: nn.Module) -> dict[str, LIF]:
    """Qualified name -> LIF or DTSS layer, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LIF)}


def time_steps_by_layer(model: nn.Module) -> dict[str, int]:
    """T_l of every DTSS layer of a model."""
    return {name: layer.active_steps() for name, layer in spiking_layers(model).items() if isinstance(layer, DTSS)}
