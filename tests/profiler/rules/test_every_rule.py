"""Every registered name has a row: a call on small tensors, the operations counted, the roles and bounds that come out.

No network runs here. A row is written "operation count | roles bound": the operations, or multiply-accumulates of a
dense layer, of one time step and sample; of every result which axes hold time T, samples B, both R or something else .
(@1: it is of time step 1); and its values, "=2x1" where they are proven to be 0, 1 or 2 times 1, "-" where nothing is
known, else why they are real. "written": storages written to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest
from rule_calls import BATCH, ELEMENTWISE, ESCAPES, MOVES, Made, Make
from rule_layer_calls import ATTENTION, CELLS, NORMS, POOLS, QUESTIONS, WEIGHTED
from torch import Tensor

from snn_energy.core.errors import ProfilingError
from snn_energy.profiler.axes.roles import Roles
from snn_energy.profiler.rules.records import tensors_in
from snn_energy.profiler.rules.registry import BatchContext, Call, RuleEntry, find, known_names, register, rule
from snn_energy.profiler.tracking.module_scopes import CallSite
from snn_energy.profiler.tracking.operation_log import Outcome
from snn_energy.profiler.values.bounds import ValueBound
from snn_energy.profiler.values.scan_cache import ScanCache

CALLS: Mapping[str, Make] = {
    **MOVES, **ESCAPES, **ELEMENTWISE, **NORMS, **POOLS, **WEIGHTED, **ATTENTION, **CELLS,
}  # fmt: skip
WRITES = ("copy", "setitem", "fill", "zero", "set")
# What comes out -> the functions of which it does.
EXPECTED: Mapping[str, str] = {
    "- | R. =1x1": """
        reshape view flatten unsafe_view reshape_as view_as repeat tile cat concat concatenate vstack row_stack""",
    "- | TB.. =1x1": "unflatten unsqueeze mT mH adjoint rot90 diag_embed tril triu",
    "- | TB. =1x1": """
        squeeze contiguous clone detach double alias lift_fresh to_copy requires_grad data identity dropout
        alpha_dropout feature_dropout feature_alpha_dropout float half bfloat16 bool cpu to type type_as cuda copy_to
        narrow slice getitem index index_select gather take_along_dim roll flip pad constant_pad_nd diagonal as_strided
        broadcast_tensors atleast_1d atleast_2d atleast_3d resolve_conj resolve_neg real expand broadcast_to expand_as
        stack dstack""",
    "- | * =1x1": "ravel",
    "- | R.. =1x1": "dropout1d reflection_pad1d replication_pad1d circular_pad unfold im2col",
    "- | R... =1x1": "dropout2d reflection_pad2d replication_pad2d pixel_shuffle pixel_unshuffle channel_shuffle",
    "- | R.... =1x1": "dropout3d reflection_pad3d replication_pad3d",
    "- | TB. -": "int long short char byte",
    "- | BT. =1x1": "permute transpose swapaxes swapdims movedim moveaxis",
    "- | .B =1x1": "t T H",
    "- | TB. =1x1 | TB. =1x1": "split chunk tensor_split unsafe_chunk split_with_sizes unsafe_split",
    "- | B.@0 =1x1 | B.@1 =1x1": "unbind",
    "- | B.@1 =1x1": "select",
    "- | . =1x1": "take masked_select",
    "- | B -": "meshgrid",
    "- | *. =1x1": "repeat_interleave",
    "- | TB... =1x1": "repeat_heads",
    "- | T*. =1x1": "hstack column_stack",
    "- | TB. =1x1 | written": "copy",
    "- | TB. - | written": "setitem fill zero set",
    "- | written": "numpy tolist data_ptr storage array dlpack item share_memory",
    "add 4 | TB. =2x1": "add",
    "add 4 | TB. -": "sub subtract rsub add_relu",
    "mul 4 | TB. =1x1": "mul multiply",
    "mul 4 | TB. -": "div divide true_divide rdiv rtruediv",
    "scale 4 | TB. =1x0.5": "truediv",
    "mul 8 | TB. -": "addcmul addcdiv lerp",
    "activation 4 | TB. =1x1": "relu abs",
    "activation 4 | TB. -": """
        relu6 gelu silu tanh hardtanh hardswish leaky_relu elu celu selu mish rrelu expm1 log1p sqrt square neg
        negative erf sin hardshrink softshrink tanhshrink softsign bernoulli sigmoid hardsigmoid softplus
        logsigmoid exp log log2 log10 rsqrt reciprocal erfc cos prelu threshold pow clamp clamp_min clamp_max
        clip remainder fmod floor_divide""",
    "activation 2 | TB. -": "glu",
    "activation 4 | TB. - | TB. -": "log_sigmoid_forward",
    "softmax 20 | TB. -": "softmax log_softmax softmin",
    "reduce 4 | TB -": """
        sum nansum amax amin prod std var logsumexp count_nonzero all any argmax argmin norm linalg_vector_norm""",
    "mean 4 | TB average of spikes (mean)": "mean",
    "mean 4 | TB average of spikes (nanmean)": "nanmean",
    "reduce 4 | TB - | TB -": "max min median std_mean var_mean aminmax",
    "reduce 4 | TB. -": "cumsum cumprod",
    "reduce 4 | TB. - | TB. -": "topk sort",
    "compare 4 | TB. -": """
        gt lt ne greater less greater_equal less_equal not_equal ge le eq maximum minimum fmax fmin isclose sign round
        floor ceil trunc isnan isfinite isinf nan_to_num sgn logical_not logical_and logical_or logical_xor bitwise_and
        bitwise_or bitwise_xor bitwise_not invert and or xor where masked_fill heaviside""",
    "norm 64 | R... -": "batch_norm",
    "norm 64 | R... - | R... - | R... -": "native_batch_norm cudnn_batch_norm",
    "norm 20 | TB. -": "layer_norm rms_norm normalize",
    "norm 20 | TB. - | TB. - | TB. -": "native_layer_norm",
    "norm 160 | R... -": "group_norm instance_norm",
    "norm 160 | R... - | R... - | R... -": "native_group_norm",
    "pool 8 | R.. =1x1": "max_pool1d",
    "pool 8 | R.. average of spikes (avg_pool1d)": "avg_pool1d",
    "pool 8 | R.. =1x1 | R.. -": "max_pool1d_with_indices adaptive_max_pool1d adaptive_max_pool1d_with_indices",
    "pool 32 | R... =1x1": "max_pool2d mkldnn_max_pool2d adaptive_max_pool2d",
    "pool 32 | R... average of spikes (avg_pool2d)": "avg_pool2d",
    "pool 32 | R... =1x1 | R... -": "max_pool2d_with_indices adaptive_max_pool2d_with_indices",
    "pool 128 | R.... =1x1": "max_pool3d adaptive_max_pool3d",
    "pool 128 | R.... average of spikes (avg_pool3d)": "avg_pool3d",
    "pool 128 | R.... =1x1 | R.... -": "max_pool3d_with_indices adaptive_max_pool3d_with_indices",
    "pool 8 | R.. average of spikes (lp_pool1d)": "lp_pool1d",
    "pool 32 | R... -": "lp_pool2d",
    "pool 8 | R.. average of spikes (adaptive_avg_pool1d)": "adaptive_avg_pool1d",
    "pool 32 | R... average of spikes (adaptive_avg_pool2d)": "adaptive_avg_pool2d",
    "pool 128 | R.... average of spikes (adaptive_avg_pool3d)": "adaptive_avg_pool3d",
    "pool 128 | R... average of spikes (interpolate)": "interpolate",
    "pool 128 | R... =1x1": "upsample upsample_nearest2d",
    "pool 128 | R... average of spikes (upsample_bilinear2d)": "upsample_bilinear2d",
    "conv 48 | R.. -": "conv1d",
    "conv 288 | R... -": "conv2d convolution convolution_overrideable mkldnn_convolution cudnn_convolution",
    "conv 1728 | R.... -": "conv3d",
    "conv 96 | R.. -": "conv_transpose1d",
    "conv 1152 | R... -": "conv_transpose2d",
    "conv 13824 | R.... -": "conv_transpose3d",
    "linear 8 | TB. -": "linear mkldnn_linear",
    "matmul 40 | TB.. =5x1": "matmul einsum",
    "linear 20 | TB.. -": "rmatmul",
    "linear 8 | B. -": "mm product_with_bias",
    "linear 16 | R.. -": "bmm",
    "linear 4 | B -": "mv",
    "refused": "dot",
    "product_with_bias": "addmm baddbmm",
    "transpose matmul mul add softmax matmul": "scaled_dot_product_attention",
    "transpose matmul mul softmax matmul": """
        scaled_dot_product_flash_attention_for_cpu scaled_dot_product_flash_attention
        scaled_dot_product_efficient_attention scaled_dot_product_cudnn_attention scaled_dot_product_attention_math""",
    "unsupported 0 | B. - | B. -": "lstm_cell",
    "unsupported 0 | B. -": "gru_cell rnn_tanh_cell rnn_relu_cell",
    "unsupported 0 | TB. - | .B. - | .B. -": "lstm",
    "unsupported 0 | TB. - | .B. -": "gru rnn_tanh rnn_relu",
}
OUTCOMES = {name: outcome for outcome, names in EXPECTED.items() for name in names.split()}
_HAS_OFFSET = """add rsub sigmoid hardsigmoid softplus logsigmoid exp log log2 log10 rsqrt reciprocal erfc cos softmax
    log_softmax softmin batch_norm native_batch_norm cudnn_batch_norm layer_norm native_layer_norm group_norm
    native_group_norm instance_norm ge le eq greater_equal less_equal isclose isfinite log_sigmoid_forward logical_not
    bitwise_not invert"""
HAS_OFFSET = _HAS_OFFSET.split()  # f(0) is not 0


def call_of(name: str, made: Made, make: Make) -> Call:
    """The call of a row, run."""
    function, *args = make(made)
    inputs = [(x, made.traces[id(x)]) for x in tensors_in(args) if id(x) in made.traces]
    kwargs = args.pop() if isinstance(args[-1], dict) else {}
    out = function(*args, **kwargs)
    outputs = [out] if isinstance(out, Tensor) else list(tensors_in([out]))
    site = CallSite("layer", "Module", 0, True, {})
    return Call(name, args, kwargs, inputs, outputs, site, name in WRITES)


def outcome_of(call: Call) -> Outcome:
    """What a rule says that a call did."""
    entry = find(call.name)
    assert entry is not None
    assert entry.count is not None
    return entry.count(call, BatchContext(BATCH), ScanCache(4, None))


def as_text(call: Call) -> str:
    """The outcome of a call as a row of the table."""
    entry = find(call.name)
    assert entry is not None
    if entry.parts is not None:
        return " ".join(part.name for part in entry.parts(call))
    try:
        record, traces, written = outcome_of(call)
    except ProfilingError:
        return "refused"
    did = "-" if record is None else f"{record.op} {record.dense_macs or record.elementwise_ops}"
    left = [
        f"{_roles(trace.roles)}{'' if trace.timed or trace.step is None else f'@{trace.step}'} {_bound(trace.bound)}"
        for _, trace in traces
    ]
    return " | ".join([did, *left, *["written" for _ in written]])


def _roles(roles: Roles) -> str:
    return "".join("." if role is None else role if isinstance(role, str) else "*" for role in roles)


def _bound(bound: ValueBound) -> str:
    if bound.unit is not None:
        return f"{'=' if bound.proven else '?'}{bound.max_k}x{bound.unit:g}"
    return bound.reason or "-"


def test_every_registered_name_has_a_row() -> None:
    assert set(known_names()) == set(OUTCOMES) | set(QUESTIONS)
    assert set(CALLS) == set(OUTCOMES)
    assert sum(len(names.split()) for names in EXPECTED.values()) == len(OUTCOMES)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_call_does(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert as_text(call_of(name, Made(), CALLS[name])) == OUTCOMES[name]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_leaves_nothing(name: str) -> None:
    entry = find(name)
    assert entry is not None
    assert entry.is_question


@pytest.mark.parametrize("name", [*ELEMENTWISE, *NORMS])
def test_a_masked_step_stays_masked_unless_the_function_of_zero_is_not_zero(name: str) -> None:
    made = Made()
    for x in made.alive:
        if len(made.traces[id(x)].active) == 2:
            x[: len(x) // 2] = 0  # (T, B, ...) or (T*B, ...): nothing at the first step
    made.whole.copy_(made.x)
    call = call_of(name, made, CALLS[name] if name != "add" else lambda m: (*CALLS[name](m)[:2], 1.0))  # a constant
    for _, trace in call.inputs:
        trace.active[0] = False
    outcome = outcome_of(call)
    assert outcome.record is not None
    assert outcome.record.active.tolist() == [False, True]
    is_driven = name in HAS_OFFSET or bool(call.out[: len(call.out) // 2].any())
    assert outcome.traces[0][1].active.tolist() == [is_driven, True]


def test_a_name_given_twice_or_not_plain_is_refused() -> None:
    with pytest.raises(ValueError, match="two rules for 'relu'"):
        rule("relu")(lambda call, context, scans: Outcome())
    with pytest.raises(ValueError, match="no plain name"):
        register(["add_"], RuleEntry())
