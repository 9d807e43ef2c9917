"""Neurons against plain-Python oracles, networks against the figures of the paper and the public code."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor, nn

from snn_energy.core.errors import ModelError
from snn_energy.core.groups import layer_group
from snn_energy.models.create import create_model
from snn_energy.models.names import CNNS, default_heads, default_patch_size, list_models, parse_name
from snn_energy.models.neurons import DTSS, LIF, TriangularSpike
from snn_energy.models.spikformer import Spikformer, spiking_layers, time_steps_by_layer
from snn_energy.models.transformer_config import TransformerConfig
from snn_energy.models.vit import VisionTransformer

RULES = ("paper", "spikformer")


def scalar_lif(currents: list[float], leak: float, v_th: float, rule: str) -> list[float]:
    """One neuron, step by step, as the two sources write it."""
    u, spikes = 0.0, []
    for current in currents:
        if rule == "paper":
            h = leak * u + current
            spikes.append(v_th if h > v_th else 0.0)
            u = h - spikes[-1]
        else:
            v = u + (current - u) * (1 - leak)
            spikes.append(1.0 if v >= v_th else 0.0)
            u = 0.0 if v >= v_th else v
    return spikes


def dtss(tp: list[float], **options: object) -> DTSS:
    layer = DTSS(len(tp), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.tp.copy_(torch.tensor(tp))
    return layer


def tiny(family: str = "dts-spikformer", **options: object) -> Spikformer | VisionTransformer:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "image_size": 8,
        "num_classes": 3,
        "in_channels": 2,
        "heads": 2,
        "patch_size": 4,
    }
    return create_model(f"{family}-1-16", **(sizes | options))  # type: ignore[arg-type]


def with_lively_norms(model: nn.Module) -> nn.Module:
    """Batch statistics other than 0 and 1, so that layers fire and eval differs from a fresh network."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, 2.0)
            nn.init.uniform_(module.bias, 0.0, 0.6)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.1, 0.5)
    return model.eval()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("leak", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("v_th", [1.0, 0.5, 2.0])
def test_a_layer_of_neurons_fires_as_each_neuron_alone(rule: str, leak: float, v_th: float) -> None:
    rng = random.Random(0)
    currents = [[rng.randrange(-8, 24) / 8 for _ in range(6)] for _ in range(50)]  # exact in binary: ties happen
    expected = [scalar_lif(row, leak, v_th, rule) for row in currents]
    with torch.inference_mode():
        found = LIF(leak, v_th, rule)(torch.tensor(currents).T.contiguous()).T  # type: ignore[arg-type]
    assert found.tolist() == expected
    assert sum(map(sum, expected)) > 0 or (rule, leak) == ("spikformer", 1.0)


def test_a_potential_exactly_at_the_threshold_fires_only_by_the_rule_of_the_public_code() -> None:
    assert LIF(0.0, 1.0, "paper")(torch.ones(1, 1)).item() == 0
    assert LIF(0.0, 1.0, "spikformer")(torch.ones(1, 1)).item() == 1


def test_soft_reset_keeps_what_is_above_the_threshold_and_hard_reset_does_not() -> None:
    currents = torch.tensor([[5.0], [0.0], [0.0]])
    assert LIF(1.0, 1.0, "paper")(currents).flatten().tolist() == [1, 1, 1]
    assert LIF(0.5, 1.0, "spikformer")(currents).flatten().tolist() == [1, 0, 0]


def test_spikes_have_the_amplitude_that_the_rule_gives_them() -> None:
    for rule, amplitude in (("paper", 0.5), ("spikformer", 1.0)):
        layer = LIF(0.5, 0.5, rule)  # type: ignore[arg-type]
        assert layer.amplitude == amplitude
        assert layer(torch.full((2, 3), 9.0)).unique().tolist() == [amplitude]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("v_th", [1.0, 0.5])
def test_inference_and_training_paths_of_a_neuron_give_the_same_bits(rule: str, v_th: float) -> None:
    torch.manual_seed(0)
    currents, layer = torch.randn(4, 7, 5) * 1.5 + 0.5, LIF(0.5, v_th, rule)  # type: ignore[arg-type]
    with torch.inference_mode():
        fast = layer.eval()(currents)
    assert torch.equal(fast, layer.train()(currents))
    assert fast.any()


@pytest.mark.parametrize("rule", RULES)
def test_inference_leaves_its_input_alone(rule: str) -> None:
    currents = torch.full((3, 2), 1.5)
    with torch.inference_mode():
        LIF(0.5, 1.0, rule)(currents)  # type: ignore[arg-type]
    assert (currents == 1.5).all()


def test_the_surrogate_gradient_is_a_triangle_around_the_threshold() -> None:
    x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 0.5, 2.0, 5.0], requires_grad=True)
    TriangularSpike.apply(x, 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [max(0.0, 1 - abs(v) / 2) / 2 for v in [-3.0, -2.0, -1.0, 0.0, 0.5, 2.0, 5.0]]


def test_the_gradient_of_one_step_of_the_paper_rule_is_the_triangle_over_the_threshold() -> None:
    current = torch.tensor([[0.4]], requires_grad=True)
    LIF(0.5, 0.5).train()(current).sum().backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx((1 - 0.1 / 0.5) / 0.5)


def test_more_current_makes_the_public_rule_fire_more_by_its_gradient() -> None:
    current = torch.tensor([[1.5]], requires_grad=True)  # v = 0.75, threshold 1
    LIF(0.5, 1.0, "spikformer").train()(current).sum().backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx((1 - 0.25) * 0.5)


@pytest.mark.parametrize(("leak", "v_th"), [(-0.1, 1.0), (1.1, 1.0), (math.nan, 1.0), (0.5, 0.0), (0.5, math.nan)])
def test_a_neuron_with_an_impossible_leak_or_threshold_is_refused(leak: float, v_th: float) -> None:
    with pytest.raises(ModelError, match=r"leak must lie|v_th must be positive"):
        LIF(leak, v_th)


def test_an_unknown_neuron_rule_is_refused() -> None:
    with pytest.raises(ModelError, match="not 'izhikevich'"):
        LIF(rule="izhikevich")  # type: ignore[arg-type]


def test_scores_are_sums_of_tp_from_their_step_on_and_never_rise() -> None:
    rng = random.Random(0)
    for _ in range(20):
        tp = [rng.randrange(0, 16) / 16 for _ in range(5)]
        scores = dtss(tp).scores().tolist()
        assert scores == [sum(tp[t:]) for t in range(5)]
        assert scores == sorted(scores, reverse=True)


def test_a_step_is_active_where_its_score_reaches_one() -> None:
    layer = dtss([0.0, 0.5, 0.5, 0.25])  # TS = 1.25, 1.25, 0.75, 0.25
    assert layer.time_step_mask(4).tolist() == [1, 1, 0, 0]
    assert layer.active_steps() == 2
    assert dtss([0.0, 1.0]).time_step_mask(2).tolist() == [1, 1]  # exactly one is enough


def test_a_masked_step_puts_out_nothing_and_the_others_are_those_of_a_plain_neuron() -> None:
    torch.manual_seed(0)
    currents = torch.randn(4, 9) + 1
    plain, masked = LIF()(currents), dtss([0.0, 1.0, 0.5, 0.0])(currents)
    assert torch.equal(masked[:2], plain[:2])
    assert plain[2:].any()
    assert not masked[2:].any()


def test_the_mask_passes_its_gradient_to_tp() -> None:
    layer, currents = dtss([0.5, 0.25, 0.125]).train(), torch.tensor([[2.0], [0.0], [3.0]])
    layer(currents).mul(torch.tensor([[1.0], [10.0], [100.0]])).sum().backward()
    spikes = LIF()(currents).flatten()  # what the masked steps would have put out counts too
    by_step = (spikes * torch.tensor([1.0, 10.0, 100.0])).tolist()
    assert layer.tp.grad is not None
    assert layer.tp.grad.tolist() == [by_step[0], by_step[0] + by_step[1], sum(by_step)]


def test_a_charge_on_every_active_step_pulls_late_tp_hardest() -> None:
    layer = dtss([0.0, 0.0, 1.5])
    layer.time_step_mask(3).sum().backward()
    assert layer.tp.grad is not None
    assert layer.tp.grad.tolist() == [1, 2, 3]


def test_a_floor_keeps_the_first_steps_whatever_tp_says() -> None:
    layer = dtss([0.0, 0.0, 0.25], min_steps=2)
    assert layer.time_step_mask(3).tolist() == [1, 1, 0]
    layer.time_step_mask(3).sum().backward()
    assert layer.tp.grad is not None
    assert layer.tp.grad.tolist() == [0, 0, 1]  # a floored step costs nothing, so nothing pulls at it


def test_a_layer_without_active_steps_is_silent_and_its_network_still_answers() -> None:
    layer = dtss([0.0, 0.25])
    assert layer.active_steps() == 0
    with torch.inference_mode():
        assert not layer(torch.full((2, 3), 9.0)).any()
    model = with_lively_norms(tiny())
    for spiking in spiking_layers(model).values():
        assert isinstance(spiking, DTSS)
        nn.init.zeros_(spiking.tp)
    with torch.inference_mode():
        logits = model(torch.randn(2, 2, 8, 8))
    assert torch.allclose(logits, model.get_submodule("head").bias.expand(2, 3))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("initial", [1, 2, 3, 4])
def test_a_fresh_layer_starts_with_the_steps_asked_for_half_a_score_from_the_threshold(initial: int) -> None:
    layer = DTSS(4, initial_steps=initial)
    assert layer.active_steps() == initial
    assert (layer.scores() - 1).abs().tolist() == [0.5] * 4
    assert (layer.tp >= 0).all()


@pytest.mark.parametrize("tp", [[0.5, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]])
@pytest.mark.parametrize("rule", RULES)
def test_inference_and_training_paths_of_a_dtss_layer_give_the_same_bits(tp: list[float], rule: str) -> None:
    torch.manual_seed(0)
    currents, layer = torch.randn(4, 7, 5) * 2 + 1, dtss(tp, rule=rule)
    with torch.inference_mode():
        fast = layer(currents)
    assert torch.equal(fast, layer(currents))


def test_a_dtss_layer_refuses_another_number_of_time_steps() -> None:
    with pytest.raises(ModelError, match="T_max=4 was run with 3"):
        DTSS(4)(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"initial_steps": 0}, "initial_steps must lie in 1..4"),
        ({"initial_steps": 5}, "initial_steps must lie in 1..4"),
        ({"min_steps": 5}, "min_steps must lie in 0..4"),
        ({"min_steps": -1}, "min_steps must lie in 0..4"),
    ],
)
def test_a_dtss_layer_with_impossible_steps_is_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        DTSS(4, **options)  # type: ignore[arg-type]


def test_spikformer_4_384_has_the_layers_neurons_and_parameters_of_the_paper() -> None:
    model = create_model("dts-spikformer-4-384", image_size=32, time_steps=4).eval()
    elements: dict[str, int] = {}
    for name, layer in spiking_layers(model).items():

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            elements[name] = output[0].numel()

        layer.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    groups = [layer_group(name) for name in elements]
    assert {group: groups.count(group) for group in groups} == {"sps": 5, "qkv": 12, "attn": 8, "mlp": 8}
    assert sum(elements.values()) == 1_449_984
    weights = sum(p.numel() for name, p in model.named_parameters() if not name.endswith(".tp"))
    assert weights == 9_310_906
    assert sum(p.numel() for p in model.parameters()) - weights == 33 * 4


def test_the_twin_has_every_weight_of_the_spiking_network_and_no_more() -> None:
    spiking, twin = create_model("spikformer-2-64"), create_model("vit-2-64")
    shapes = {name: p.shape for name, p in spiking.named_parameters()}
    assert {name: p.shape for name, p in twin.named_parameters()} == shapes
    assert not spiking_layers(twin)


@pytest.mark.parametrize("family", ["vit", "spikformer", "dts-spikformer"])
@pytest.mark.parametrize("patch_size", [1, 2, 4, 8, 16])
def test_every_family_maps_images_to_logits_at_every_patch_size(family: str, patch_size: int) -> None:
    model = tiny(family, image_size=16, patch_size=patch_size).eval()
    tokens: list[int] = []
    model.blocks[0].attn.q_conv.register_forward_hook(lambda *call: tokens.append(call[2].shape[-1]))
    with torch.inference_mode():
        assert model(torch.rand(2, 2, 16, 16)).shape == (2, 3)
    assert tokens == [(16 // patch_size) ** 2]


@pytest.mark.parametrize("neuron", RULES)
def test_a_whole_network_gives_the_same_logits_with_and_without_gradients(neuron: str) -> None:
    model = with_lively_norms(tiny(neuron=neuron, initial_steps=2))
    images = torch.rand(3, 2, 8, 8)
    with torch.inference_mode():
        fast = model(images)
    assert torch.allclose(fast, model(images.requires_grad_()), atol=1e-6)
    assert fast.std() > 0


def test_attention_is_q_times_k_times_v_with_the_constant_scale() -> None:
    attention = with_lively_norms(tiny("spikformer")).get_submodule("blocks.0.attn")
    seen: dict[str, Tensor] = {}
    for name in ("q_lif", "k_lif", "v_lif", "lif"):
        attention.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output, f"{name}.in": inputs[0]})
        )
    torch.manual_seed(2)
    with torch.inference_mode():
        attention((torch.rand(4, 2, 16, 4) > 0.5).float())
    q, k, v = (seen[name].unflatten(2, (2, 8)) for name in ("q_lif", "k_lif", "v_lif"))
    expected = torch.einsum("tbhdn,tbhdm,tbhem->tbhen", q, k, v).flatten(2, 3) * 0.125
    assert expected.any()
    assert torch.allclose(seen["lif.in"], expected)


def test_time_steps_by_layer_lists_the_dtss_layers_alone() -> None:
    assert set(time_steps_by_layer(tiny(initial_steps=3)).values()) == {3}
    assert len(time_steps_by_layer(tiny())) == 5 + 7
    assert time_steps_by_layer(tiny("spikformer")) == {}


def test_every_listed_name_is_one_that_can_be_parsed() -> None:
    assert "dts-spikformer-4-384" in list_models()
    for name in list_models():
        assert name in CNNS or "-".join(map(str, parse_name(name))) == name


def test_heads_follow_the_public_code() -> None:
    assert [default_heads(dim) for dim in (16, 64, 384, 512, 768)] == [1, 2, 12, 8, 12]


def test_a_configuration_knows_its_name() -> None:
    config = tiny().config
    assert config.name == "dts-spikformer-1-16"
    assert isinstance(config, TransformerConfig)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("spikformr-4-384", "did you mean 'spikformer-4-384'"),
        ("dts_spikformer-4-384", "did you mean 'dts-spikformer-4-384'"),
        ("vit-4", "did you mean 'vit-2-64'"),
        ("vit-0-64", "did you mean 'vit-2-64'"),
        ("", "FAMILY-DEPTH-DIM"),
    ],
)
def test_an_unknown_model_suggests_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        create_model(name)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"image_size": 0}, "image_size must be a whole number of at least 1, not 0"),
        ({"image_size": 10}, "image_size 10 must be a multiple of patch_size 4"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"in_channels": -1}, "in_channels must be"),
        ({"time_steps": 0}, "time_steps must be"),
        ({"time_steps": 2.0}, "time_steps must be a whole number"),
        ({"heads": 0}, "heads must be"),
        ({"heads": 3}, "dim 16 must be a multiple of heads 3"),
        ({"patch_size": 3}, "patch_size must be 1, 2, 4, 8 or 16, not 3"),
        ({"patch_size": 4.0}, "patch_size must be a whole number"),
        ({"mlp_ratio": 0}, "mlp_ratio must be"),
        ({"leak": 2.0}, "leak must lie in"),
        ({"neuron": "none"}, "neuron rule must be one of"),
        ({"initial_steps": 9}, "initial_steps must lie in 1..4"),
        ({"min_steps": 9}, "min_steps must lie in 0..4"),
        ({"mlp_ration": 4}, "unknown option 'mlp_ration' .*did you mean 'mlp_ratio'"),
        ({"depth": 3}, "unknown option 'depth'"),
    ],
)
def test_a_network_that_cannot_be_built_names_the_size_at_fault(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint) as raised:
        tiny(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("vit-1-16", {"time_steps": 4}, "has one time step, not 4"),
        ("spikformer-1-12", {}, "dim must be a multiple of 8"),
    ],
)
def test_a_name_that_contradicts_its_options_is_refused(name: str, options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        create_model(name, **options)  # type: ignore[arg-type]


def test_a_configuration_of_an_unknown_family_is_refused() -> None:
    sizes = {**tiny().config.__dict__, "family": "spikfomer"}
    with pytest.raises(ModelError, match="not 'spikfomer'; did you mean 'spikformer'"):
        Spikformer(TransformerConfig(**sizes))


@pytest.mark.parametrize(("dim", "heads"), [(384, 12), (512, 8), (200, 5), (104, 2), (8, 1), (416, 4)])
def test_default_heads_divide_any_dim(dim: int, heads: int) -> None:
    assert default_heads(dim) == heads
    assert dim % heads == 0


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (224, 16), (30, 2), (65, 1), (100, 4), (128, 16)])
def test_default_patches_divide_any_image(size: int, patch: int) -> None:
    assert default_patch_size(size) == patch
