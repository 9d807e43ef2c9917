"""NIR graphs: every node against its equation, frameworks that run the same files, counts, and files that are wrong.

Files are written with h5py in the layout of the nir package, so that those of every version can be made; some are
written by the package itself, where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import snn_energy as se
from snn_energy.checkpoints.nir.graph import load_nir
from snn_energy.checkpoints.nir.network import NIRNetwork
from snn_energy.core.errors import CheckpointError, DataError
from snn_energy.datasets.events import load_events
from snn_energy.datasets.images import batches

h5py = pytest.importorskip("h5py", reason="h5py (extra nir) is not installed")

SHARED = Path(__file__).parents[3] / "shared"
REAL, RECORDINGS = SHARED / "checkpoints" / "nmnist_cnn_sinabs.nir", SHARED / "data" / "nmnist"
needs_real = pytest.mark.skipif(
    not (REAL.is_file() and RECORDINGS.is_dir()), reason="no shared/checkpoints and shared/data beside the checkout"
)
Floats = npt.NDArray[np.float64]
Node = dict[str, Any]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


# --- graphs


def node(kind: str, **fields: Any) -> Node:
    return {"type": kind, **fields}


def shaped(kind: str, *shape: int) -> Node:
    return node(kind, shape=np.array(shape))


def chain(input_shape: tuple[int, ...], output_shape: tuple[int, ...], **nodes: Node) -> Node:
    """Input -> nodes in this order -> Output."""
    names = ["input", *nodes, "output"]
    return node(
        "NIRGraph",
        nodes={"input": shaped("Input", *input_shape), **nodes, "output": shaped("Output", *output_shape)},
        edges=list(itertools.pairwise(names)),
    )


def write(path: Path, graph: Node) -> Path:
    def fill(group: Any, fields: Node) -> None:
        for key, value in fields.items():
            if key == "nodes":
                nodes = group.create_group("nodes")
                for name, inner in value.items():
                    fill(nodes.create_group(name), inner)
            elif key == "edges":
                group.create_dataset(key, data=np.array(value, object).reshape(-1, 2), dtype=h5py.string_dtype())
            elif isinstance(value, str):
                group.create_dataset(key, data=value, dtype=h5py.string_dtype())
            else:
                group.create_dataset(key, data=value)

    with h5py.File(path, "w") as file:
        file.create_dataset("version", data="1.0.4")
        fill(file.create_group("node"), graph)
    return path


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def loaded(graph: Node, **options: Any) -> NIRNetwork:
        return load_nir(write(tmp_path / "net.nir", graph), **options)

    return loaded


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    def said(graph: Node, **options: Any) -> str:
        path = write(tmp_path / "net.nir", graph)
        with pytest.raises(CheckpointError) as raised:
            load_nir(path, **options)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(f"{path}: ")
        return str(raised.value).removeprefix(f"{path}: ")

    return said


def run(network: NIRNetwork, x: Tensor) -> Tensor:
    """(T, B, ...) -> (T, B, ...) from rest."""
    network.reset_state()
    with torch.no_grad():
        return torch.stack([network(x_t) for x_t in x])


def one(network: NIRNetwork, x: Tensor) -> Tensor:
    return run(network, x[None])[0]


def currents(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0.3, 1.0, shape)).float()


# --- neurons against their equations


def euler(x: Floats, p: dict[str, Floats], dt: float) -> tuple[Floats, Floats]:
    """Spikes and potentials of the equations of NIR, step by step in float64: (T, B, N) each."""
    i, v = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    spikes, potentials = [], []
    for current in x:
        if "tau_syn" in p:
            i = i + dt / p["tau_syn"] * (-i + p.get("w_in", 1.0) * current)
            current = i
        tau = p.get("tau", p.get("tau_mem"))
        v = v + dt * p["r"] * current if tau is None else v + dt / tau * (p["v_leak"] - v + p["r"] * current)
        z = v > p["v_threshold"] if "v_threshold" in p else np.zeros(v.shape, bool)
        if "v_reset" in p:
            v = np.where(z, p["v_reset"], v)
        elif "v_threshold" in p:
            v = v - z * p["v_threshold"]
        spikes.append(z)
        potentials.append(v)
    return np.stack(spikes), np.stack(potentials)


N = 6
DRAWN = np.random.default_rng(7)
FIELDS = {
    key: DRAWN.uniform(low, high, N)
    for key, low, high in (
        ("r", 0.5, 2.0), ("tau", 0.02, 0.1), ("tau_mem", 0.02, 0.1), ("tau_syn", 0.01, 0.05), ("v_leak", -0.2, 0.2),
        ("v_threshold", 0.2, 0.6), ("v_reset", -0.3, 0.1), ("w_in", 0.5, 2.0),
    )
}  # fmt: skip
NEURONS = {
    "IF": "r v_threshold",
    "LIF": "tau r v_leak v_threshold",
    "CubaLIF": "tau_syn tau_mem r v_leak v_threshold w_in",
}
INTEGRATORS = {"I": "r", "LI": "tau r v_leak", "CubaLI": "tau_syn tau_mem r v_leak w_in"}


@pytest.mark.parametrize("resets", ["by subtraction", "to v_reset"])
@pytest.mark.parametrize("kind", NEURONS)
def test_a_neuron_follows_its_equation(load: Any, kind: str, resets: str) -> None:
    params = {key: FIELDS[key] for key in NEURONS[kind].split()}
    params |= {"v_reset": FIELDS["v_reset"]} if resets == "to v_reset" else {}
    dt = 0.01 if kind != "IF" else 0.25
    x = currents(200, 3, N)
    network = load(chain((N,), (N,), neuron=node(kind, **params)), dt=dt)
    spikes, potentials = euler(x.double().numpy(), params, dt)
    assert 0.02 < spikes.mean() < 0.9
    assert (run(network, x).numpy() == spikes).all()
    assert np.allclose(network.neuron.v, potentials[-1], atol=1e-4)


@pytest.mark.parametrize("kind", INTEGRATORS)
def test_an_integrator_gives_its_potential(load: Any, kind: str) -> None:
    params = {key: FIELDS[key] for key in INTEGRATORS[kind].split()}
    x = currents(50, 3, N)
    potentials = euler(x.double().numpy(), params, 0.01)[1]
    assert np.allclose(run(load(chain((N,), (N,), neuron=node(kind, **params)), dt=0.01), x), potentials, atol=1e-4)


def test_a_neuron_fires_above_its_threshold_and_not_at_it(load: Any) -> None:
    network = load(chain((2,), (2,), n=node("IF", r=np.ones(2), v_threshold=np.ones(2))))
    assert one(network, torch.tensor([[1.0, 1.25]])).tolist() == [[0, 1]]
    assert network.n.v.tolist() == [[1.0, 0.25]]


def test_v_reset_is_followed_where_the_file_has_it_unless_told_otherwise(load: Any) -> None:
    """v = 1.75 after a first spike: 0.75 by subtraction, 0.5 to v_reset; the next 0.5 then fires one of them."""
    plain = {"r": np.ones(1), "v_threshold": np.ones(1)}
    x = torch.tensor([[[1.75]], [[0.5]]])

    def fires(fields: Node, reset: str) -> bool:
        return bool(run(load(chain((1,), (1,), n=node("IF", **fields)), reset=reset), x)[1])

    with_reset = plain | {"v_reset": np.full(1, 0.5)}
    assert [fires(plain, reset) for reset in ("file", "subtract", "v_reset")] == [True, True, False]
    assert [fires(with_reset, reset) for reset in ("file", "subtract", "v_reset")] == [False, True, False]


def test_the_rule_of_sinabs_fires_several_times_a_step_and_bounds_the_potential(load: Any) -> None:
    graph = chain((3,), (3,), n=node("IF", r=np.ones(3), v_threshold=np.full(3, 0.5)))
    network = load(graph, rule="sinabs")
    assert one(network, torch.tensor([[1.75, 0.5, -3.0]])).tolist() == [[3, 1, 0]]
    assert network.n.v.tolist() == [[0.25, 0.0, -0.5]]


def test_a_threshold_keeps_no_state(load: Any) -> None:
    network = load(chain((2,), (2,), n=node("Threshold", threshold=np.array([0.5, 1.0]))))
    x = torch.tensor([[[0.5, 1.5]], [[0.75, 1.0]]])
    assert run(network, x).tolist() == [[[0, 1]], [[1, 0]]]


@pytest.mark.parametrize("delay", [np.array([2.0, 2.0, 2.0]), np.array([0.0, 1.0, 3.0]), np.array(1.0), np.zeros(3)])
def test_a_delay_gives_what_came_so_many_steps_before(load: Any, delay: Floats) -> None:
    x = currents(6, 2, 3)
    out = run(load(chain((3,), (3,), d=node("Delay", delay=delay * 0.5)), dt=0.5), x)
    for t, n in itertools.product(range(6), range(3)):
        back = int(np.broadcast_to(delay, 3)[n])
        expected = x[t - back, :, n] if t >= back else torch.zeros(2)
        assert torch.equal(out[t, :, n], expected)


# --- nodes without neurons


def test_affine_and_linear_are_matrices(load: Any) -> None:
    weight, bias = DRAWN.normal(size=(4, 3)), DRAWN.normal(size=4)
    x = currents(5, 3)
    expected = x.double() @ torch.from_numpy(weight.T)
    out = one(load(chain((3,), (4,), a=node("Affine", weight=weight, bias=bias))), x)
    assert torch.allclose(out.double(), expected + torch.from_numpy(bias), atol=1e-5)
    assert torch.allclose(
        one(load(chain((3,), (4,), a=node("Linear", weight=weight))), x).double(), expected, atol=1e-5
    )


def test_scale_multiplies_element_by_element(load: Any) -> None:
    out = one(load(chain((3,), (3,), s=node("Scale", scale=np.array([1.0, 2.0, -0.5])))), torch.ones(2, 3))
    assert out.tolist() == [[1, 2, -0.5]] * 2


@pytest.mark.parametrize("padding", [np.array([2, 1]), "same", "valid", 1])
def test_conv2d_with_stride_dilation_and_groups(load: Any, padding: Any) -> None:
    weight, bias = DRAWN.normal(size=(6, 2, 3, 3)), DRAWN.normal(size=6)
    stride = np.array([1, 1]) if isinstance(padding, str) else np.array([2, 1])
    fields = {"stride": stride, "padding": padding, "dilation": np.array([1, 2]), "groups": 2}
    x = currents(2, 4, 9, 8)
    pad = padding.tolist() if isinstance(padding, np.ndarray) else padding
    kernel, offset = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    expected = functional.conv2d(x, kernel, offset, tuple(stride.tolist()), pad, (1, 2), 2)
    conv = node("Conv2d", input_shape=np.array([9, 8]), weight=weight, bias=bias, **fields)
    assert torch.equal(one(load(chain((4, 9, 8), tuple(expected.shape[1:]), c=conv)), x), expected)


def test_conv1d(load: Any) -> None:
    weight, bias = DRAWN.normal(size=(6, 4, 3)), DRAWN.normal(size=6)
    conv = node("Conv1d", input_shape=9, weight=weight, bias=bias, stride=2, padding=1, dilation=1, groups=1)
    x = currents(2, 4, 9)
    expected = functional.conv1d(x, torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), 2, 1)
    assert torch.equal(one(load(chain((4, 9), (6, 5), c=conv)), x), expected)


@pytest.mark.parametrize("kind", ["SumPool2d", "AvgPool2d"])
def test_a_pool_adds_up_or_averages_windows(load: Any, kind: str) -> None:
    fields = {"kernel_size": np.array([3, 2]), "stride": np.array([2, 1]), "padding": np.array([1, 0])}
    x = currents(2, 3, 7, 5)
    out = one(load(chain((3, 7, 5), (3, 4, 4), p=node(kind, **fields))), x)
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (0, 0)))
    for row, column in itertools.product(range(4), range(4)):
        window = padded[:, :, 2 * row : 2 * row + 3, column : column + 2].sum((2, 3))
        assert np.allclose(out[:, :, row, column], window if kind == "SumPool2d" else window / 6, atol=1e-5)


@pytest.mark.parametrize(("dims", "shape"), [((0, -1), (24,)), ((1, -1), (2, 12)), ((0, 1), (6, 4))])
def test_flatten_counts_axes_without_the_samples(load: Any, dims: tuple[int, int], shape: tuple[int, ...]) -> None:
    flat = node("Flatten", start_dim=dims[0], end_dim=dims[1], input_type=np.array([2, 3, 4]))
    x = currents(5, 2, 3, 4)
    assert torch.equal(one(load(chain((2, 3, 4), shape, f=flat)), x), x.reshape(5, *shape))


# --- edges


def identity(n: int, factor: float = 1.0) -> Node:
    return node("Linear", weight=np.eye(n) * factor)


def test_edges_into_one_node_add_up_and_one_named_twice_counts_once(load: Any) -> None:
    graph = chain((2,), (2,), a=identity(2, 2), b=identity(2, 3))
    graph["edges"] = [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output"), ("a", "output")]
    assert one(load(graph), torch.ones(1, 2)).tolist() == [[5, 5]]


def test_a_cycle_brings_the_output_of_the_step_before(load: Any) -> None:
    """A spike at step 0 comes back with 0.75 at step 1: 0.75 + 0.5 fires, and so on; alone 0.5 fires every third."""
    neuron = node("IF", r=np.ones(1), v_threshold=np.ones(1))
    graph = chain((1,), (1,), n=neuron)
    x = torch.tensor([1.25, 0.5, 0.5, 0.0, 0.0]).reshape(5, 1, 1)
    assert run(load(graph), x).flatten().tolist() == [1, 0, 1, 0, 0]
    graph["nodes"]["back"] = identity(1, 0.75)
    graph["edges"] += [("n", "back"), ("back", "n")]
    # v before firing: 1.25, 0.25+0.5+0.75=1.5, 0.5+0.5+0.75=1.75, 0.75+0.75=1.5, 0.5+0.75=1.25
    assert run(load(graph), x).flatten().tolist() == [1, 1, 1, 1, 1]


def test_a_graph_within_a_graph_is_the_same_as_its_nodes(load: Any) -> None:
    n = node("LIF", **{key: FIELDS[key] for key in NEURONS["LIF"].split()})
    weight = DRAWN.normal(size=(N, N))
    inner = chain((N,), (N,), neuron=n)
    inner["nodes"]["back"] = node("Linear", weight=weight)
    inner["edges"] += [("neuron", "back"), ("back", "neuron")]
    nested = chain((N,), (N,), pre=identity(N, 1.5), hidden=inner, post=identity(N, 2.0))
    flat = chain((N,), (N,), pre=identity(N, 1.5), neuron=n, post=identity(N, 2.0))
    flat["nodes"]["back"] = node("Linear", weight=weight)
    flat["edges"] += [("neuron", "back"), ("back", "neuron")]
    x = currents(60, 2, N)
    out = run(load(flat, dt=0.01), x)
    assert 0.02 < (out != 0).float().mean() < 0.9
    network = load(nested, dt=0.01)
    assert torch.equal(run(network, x), out)
    assert {name for name, _ in network.named_children()} == {"pre", "hidden_neuron", "hidden_back", "post"}


def test_several_outputs_come_as_a_tuple_in_the_order_of_their_names(load: Any) -> None:
    graph = chain((1,), (1,), a=identity(1, 2))
    graph["nodes"]["early"] = shaped("Output", 1)
    graph["edges"].append(("input", "early"))
    with torch.no_grad():
        assert [out.item() for out in load(graph)(torch.ones(1, 1))] == [1, 2]


def test_names_that_a_module_may_not_have_are_made_legal_and_stay_apart(load: Any) -> None:
    network = load(chain((1,), (1,), **{name: identity(1, 2) for name in ("a.b", "a_b", "forward", "steps", "0")}))
    assert [name for name, _ in network.named_children()] == ["a_b", "a_b_", "forward_", "steps_", "0"]
    assert one(network, torch.ones(1, 1)).item() == 32


def test_the_state_is_forgotten_on_request(load: Any) -> None:
    graph = chain((1,), (1,), d=node("Delay", delay=np.ones(1)), n=node("I", r=np.ones(1)))
    graph["nodes"]["back"] = identity(1, 2)
    graph["edges"] += [("n", "back"), ("back", "n")]
    network = load(graph)
    first = run(network, torch.ones(4, 1, 1))
    assert first.flatten().tolist() == [0, 1, 4, 13]
    assert torch.equal(run(network, torch.ones(4, 1, 1)), first)


def test_frames_of_another_shape_are_refused(load: Any) -> None:
    with pytest.raises(DataError, match=r"reads \(B, 2x3\) in every step, not \(4, 3, 2\)"):
        load(chain((2, 3), (6,), f=node("Flatten", start_dim=0, end_dim=-1)))(torch.zeros(4, 3, 2))


# --- the package and the frameworks


@needs("nir")
def test_a_graph_of_the_nir_package_is_read_from_memory_and_from_its_file(tmp_path: Path) -> None:
    nir = importlib.import_module("nir")
    weight = DRAWN.normal(size=(2, 6)).astype(np.float32)
    neuron = nir.LIF(*[FIELDS[key][:2] for key in ("tau", "r", "v_leak", "v_threshold")])
    graph = nir.NIRGraph.from_list(
        nir.Input(np.array([1, 2, 3])), nir.Flatten(np.array([1, 2, 3]), 0), nir.Affine(weight, np.zeros(2)), neuron
    )
    nir.write(tmp_path / "net.nir", graph)
    x = currents(50, 2, 1, 2, 3)
    out = run(load_nir(tmp_path / "net.nir", dt=0.01), x)
    assert 0.02 < out.mean() < 0.9
    assert torch.equal(run(load_nir(graph, dt=0.01), x), out)


@needs_real
@needs("sinabs")
def test_sinabs_runs_the_real_network_to_the_same_spikes() -> None:
    nir, sinabs_nir = importlib.import_module("nir"), importlib.import_module("sinabs.nir")
    frames = real_frames(310)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = sinabs_nir.from_nir(nir.read(REAL), batch_size=9)
        out = theirs(frames.transpose(0, 1).reshape(-1, 2, 34, 34))[0].reshape(9, 310, 10).transpose(0, 1)
    assert torch.equal(run(load_nir(REAL, rule="sinabs"), frames), out)
    assert out.sum() == 16_159


@needs("norse")
@pytest.mark.parametrize(("theirs", "ours"), [("reset_value", "v_reset"), ("reset_subtract", "file")])
def test_norse_runs_its_recurrent_braille_network_to_the_same_spikes(theirs: str, ours: Any) -> None:
    """A trained CubaLIF network with a cycle, of the NIR paper, which Norse ships with its tests."""
    spec = importlib.util.find_spec("norse")
    assert spec is not None
    path = Path(str(spec.origin)).parent / "torch" / "utils" / "test" / "braille.nir"
    if not path.is_file():
        pytest.skip("this Norse does not ship braille.nir")
    nir = importlib.import_module("nir")
    x = (torch.rand(200, 3, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        norse = importlib.import_module("norse.torch")
        reset = importlib.import_module("norse.torch.functional.reset")
        network = norse.from_nir(nir.read(path), reset_method=getattr(reset, theirs), dt=1e-4)
        state, out = None, []
        for x_t in x:
            spikes, state = network(x_t, state)
            out.append(spikes)
    assert torch.stack(out).sum() > 1000
    assert torch.equal(run(load_nir(path, dt=1e-4, reset=ours), x), torch.stack(out))


# --- the real network on the real recordings


def real_frames(time_steps: int) -> Tensor:
    events = load_events(f"nmnist:{RECORDINGS}", "test", time_steps, step_us=1000 * 310 // time_steps)
    return torch.from_numpy(next(batches(events, 9))[0])


def counted(network: nn.Module, frames: Tensor, **options: Any) -> Any:
    labels = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])[: frames.shape[1]]
    options = {"time": "call-axis0", "input_kind": "integer", "strict": True, **options}
    return se.profile(network, [(frames, labels)], time_steps=len(frames), **options)


@needs_real
@pytest.mark.parametrize(("rule", "correct"), [("sinabs", 8), ("nir", 9)])
def test_the_real_network_knows_its_digits(rule: Any, correct: int) -> None:
    """sinabs reads the 2 as a 1; one spike a step, as NIR has it, gets all nine right."""
    counts = counted(load_nir(REAL, rule=rule), real_frames(310), max_k=255)
    assert counts.header["accuracy"] == pytest.approx(correct / 9)
    assert counts.header["checkpoint"] == REAL.name


@needs_real
def test_the_real_network_accumulates_in_every_layer_with_counts_as_by_brute_force() -> None:
    network, frames = load_nir(REAL), real_frames(31)
    rows = counted(network, frames).to_frame()
    layers = rows[rows["op"].isin(["conv", "linear"])]
    kinds = layers.groupby("layer")["input_kind"].unique().map(list).to_dict()
    assert kinds == {"0": ["integer"], "2": ["binary"], "5": ["integer"], "9": ["integer"], "11": ["binary"]}
    assert layers[layers["layer"].isin(["5", "9"])]["max_k"].max() == 4  # sums over 2x2 windows of spikes
    read: dict[str, list[Tensor]] = {name: [] for name in kinds}
    fired: dict[str, list[Tensor]] = {name: [] for name in ("1", "3", "6", "10", "12")}
    for name in read:
        getattr(network, name).register_forward_pre_hook(lambda _, args, name=name: read[name].append(args[0]))
    for name in fired:
        getattr(network, name).register_forward_hook(lambda _, args, out, name=name: fired[name].append(out))
    run(network, frames)
    for name, inputs in read.items():
        layer = getattr(network, name)
        expected = []
        for x in inputs:  # one for every non-zero input and weight that meet
            hits = (x != 0).double()
            if isinstance(layer, nn.Conv2d):
                ones = torch.ones_like(layer.weight, dtype=torch.float64)
                expected.append(int(functional.conv2d(hits, ones, None, layer.stride, layer.padding).sum()))
            else:
                expected.append(int(hits.sum()) * layer.out_features)
        assert rows[rows["layer"] == name].sort_values("time_step")["sops"].tolist() == expected
        assert sum(expected) > 0
    neurons = rows[rows["op"] == "neuron"]
    assert neurons.groupby("layer")["neurons"].first().to_dict() == {
        "1": 4096,
        "3": 4096,
        "6": 512,
        "10": 256,
        "12": 10,
    }
    for name, spikes in fired.items():
        assert neurons[neurons["layer"] == name]["spikes"].sum() == int(torch.stack(spikes).sum())


@needs_real
def test_the_counts_of_the_real_network_do_not_depend_on_the_batches() -> None:
    frames = real_frames(10)
    whole = counted(load_nir(REAL), frames)
    labels = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])
    parts = [(frames[:, :4], labels[:4]), (frames[:, 4:8], labels[4:8]), (frames[:, 8:], labels[8:])]
    network = load_nir(REAL)
    split = se.profile(network, parts, time_steps=10, time="call-axis0", input_kind="integer", strict=True)
    assert whole.to_frame().equals(split.to_frame())
    assert getattr(network, "1").v is None  # handed back at rest


# --- counts of small graphs


def test_an_average_in_front_of_weights_makes_them_real(load: Any) -> None:
    pool = {"kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}
    weight = np.ones((1, 1, 1, 1))
    conv = node("Conv2d", weight=weight, bias=np.zeros(1), stride=1, padding=0, dilation=1, groups=1)
    frames = (torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    for kind, expected in (("SumPool2d", "integer"), ("AvgPool2d", "real")):
        rows = counted(load(chain((1, 4, 4), (1, 2, 2), p=node(kind, **pool), c=conv)), frames).to_frame()
        assert set(rows[rows["layer"] == "c"]["input_kind"]) == {expected}


def test_recurrent_weights_and_delays_are_counted_from_the_first_step_on(load: Any) -> None:
    """Two neurons, fired at steps 0 and 2; the delay hands on zeros at step 0, the spikes of step 0 at step 1."""
    graph = chain(
        (2,), (3,), n=node("Threshold", threshold=np.full(2, 0.5)), d=node("Delay", delay=np.ones(2)),
        out=node("Linear", weight=np.ones((3, 2))),
    )  # fmt: skip
    graph["nodes"]["back"] = node("Linear", weight=np.zeros((2, 2)))
    graph["edges"] += [("d", "back"), ("back", "n")]
    x = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    rows = counted(load(graph), x, input_kind=None).to_frame().set_index(["layer", "time_step"])
    assert rows.loc["out"]["sops"].tolist() == [0, 6, 0]
    assert rows.loc["back"]["sops"].tolist() == [0, 4, 0]
    assert set(rows.loc["out"]["input_kind"]) == {"binary"}


# --- files that are wrong


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; give a .nir file"),
        (b"", "not an HDF5 file"),
        (b"PK\x03\x04 something else", "not an HDF5 file, which a .nir file is; save the graph with nir.write"),
    ],
)
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "net.nir"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_nir(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, not a file"):
        load_nir(tmp_path)


def test_something_else_than_a_path_or_a_graph_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expects the path of a \.nir file or a nir\.NIRGraph, not Linear"):
        load_nir(nn.Linear(1, 1))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "net.nir", chain((N,), (N,), a=identity(N)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"truncated or damaged .*; copy or save it again") as raised:
        load_nir(path)
    assert "\n" not in str(raised.value)


def test_an_hdf5_file_without_a_graph_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "net.nir", "w") as file:
        file.create_dataset("weights", data=np.ones(3))
    with pytest.raises(CheckpointError, match="an HDF5 file without a NIR graph"):
        load_nir(tmp_path / "net.nir")


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other.nir", chain((1,), (1,), a=identity(1)))
    with h5py.File(tmp_path / "net.nir", "w") as file:
        file.create_group("node")["nodes"] = h5py.ExternalLink("other.nir", "node/nodes")
    with pytest.raises(CheckpointError, match="/node/nodes links elsewhere"):
        load_nir(tmp_path / "net.nir")


def test_a_size_that_the_file_cannot_hold_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "net.nir", chain((1,), (1,), a=identity(1)))
    with h5py.File(path, "a") as file:
        del file["node/nodes/a/weight"]
        file["node/nodes/a"].create_dataset("weight", shape=(10**6, 10**6), dtype="f4")
    with pytest.raises(CheckpointError, match=r"/node/nodes/a/weight says \(1000000, 1000000\), more than the file"):
        load_nir(path)


def test_without_h5py_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.nir", chain((1,), (1,), a=identity(1)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CheckpointError, match=r"need h5py, which is not installed; pip install 'snn_energy\[nir\]'"):
        load_nir(path)


def test_a_type_of_node_that_is_not_supported_is_named_with_those_that_are(refusal: Any) -> None:
    said = refusal(chain((1,), (1,), strange=node("Izhikevich", a=np.ones(1))))
    assert said.startswith("node 'strange' is of type Izhikevich, which is not supported (supported: Affine, AvgPool2d")
    assert "CubaLIF" in said


def test_a_missing_field_is_named(refusal: Any) -> None:
    assert refusal(chain((1,), (1,), n=node("IF", r=np.ones(1)))).startswith("node 'n' (IF) has no v_threshold")


def test_an_edge_to_nowhere_is_named(refusal: Any) -> None:
    graph = chain((1,), (1,), fc1=identity(1))
    graph["edges"].append(("fc1", "fc2"))
    assert refusal(graph) == "the edge from 'fc1' to 'fc2' names a node that does not exist; did you mean 'fc1'?"


def test_a_node_that_nothing_feeds_is_named(refusal: Any) -> None:
    graph = chain((1,), (1,), a=identity(1))
    graph["nodes"]["lone"] = identity(1)
    graph["edges"].append(("lone", "output"))
    assert refusal(graph).startswith("no edge leads from the Input to node 'lone' (Linear)")


def test_an_edge_into_the_input_is_refused(refusal: Any) -> None:
    graph = chain((1,), (1,), a=node("I", r=np.ones(1)))
    graph["edges"].append(("a", "input"))
    assert "an edge leads from 'a' into the Input node 'input'" in refusal(graph)


@pytest.mark.parametrize(
    ("kind", "said"), [("input", "0 Input nodes; the graph must have one"), ("output", "no Output node")]
)
def test_a_graph_without_input_or_output_is_refused(refusal: Any, kind: str, said: str) -> None:
    graph = chain((1,), (1,), a=identity(1))
    del graph["nodes"][kind]
    graph["edges"] = [edge for edge in graph["edges"] if kind not in edge]
    assert refusal(graph).startswith(said)


def test_two_inputs_are_refused(refusal: Any) -> None:
    graph = chain((1,), (1,), a=identity(1))
    graph["nodes"]["second"] = shaped("Input", 1)
    assert refusal(graph).startswith("2 Input nodes")


def test_a_graph_within_a_graph_needs_one_way_in_and_one_out(refusal: Any) -> None:
    inner = chain((1,), (1,), a=identity(1))
    inner["nodes"]["more"] = shaped("Output", 1)
    inner["edges"].append(("a", "more"))
    assert refusal(chain((1,), (1,), sub=inner)).startswith("graph 'sub' has 1 Input and 2 Output nodes")


def test_a_single_node_is_no_graph(refusal: Any) -> None:
    assert refusal(identity(1)).startswith("holds a Linear node, not a NIRGraph")


def test_a_cycle_without_a_neuron_is_refused(refusal: Any) -> None:
    graph = chain((1,), (1,), a=identity(1), b=identity(1))
    graph["edges"].append(("b", "a"))
    assert refusal(graph).startswith("the cycle through a, b holds no neuron and no delay")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (chain((3,), (2,), a=identity(2)), "node 'a' (Linear) reads 2, but 'input' gives 3"),
        (chain((2,), (3,), a=identity(2)), "node 'output' (Output) reads 3, but 'a' gives 2"),
        (
            chain((2,), (2,), n=node("IF", r=np.ones(3), v_threshold=np.ones(3))),
            "node 'n' (IF) reads 3, but 'input' gives 2",
        ),
        (
            chain((2,), (2,), n=node("IF", r=np.ones(2), v_threshold=np.ones(3))),
            "node 'n' (IF) reads 3, but 'input' gives 2",
        ),
        (
            chain(
                (2, 4, 4), (1, 4, 4),
                c=node("Conv2d", weight=np.ones((1, 3, 1, 1)), bias=np.zeros(1), stride=1, padding=0, dilation=1,
                       groups=1),
            ),
            "node 'c' (Conv2d) does not accept 2x4x4: Given groups=1",
        ),
        (
            chain((4,), (4,), f=node("Flatten", start_dim=0, end_dim=-1, input_type=np.array([2, 2]))),
            "node 'f' (Flatten) reads 2x2, but 'input' gives 4",
        ),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(refusal: Any, graph: Node, said: str) -> None:
    assert refusal(graph).startswith(said)


def test_edges_that_add_up_different_shapes_are_named(refusal: Any) -> None:
    graph = chain((2,), (2,), a=node("Linear", weight=np.ones((3, 2))), b=node("Linear", weight=np.ones((2, 3))))
    graph["edges"].append(("input", "b"))
    assert refusal(graph) == "node 'b' (Linear) sums inputs of different shapes: 2 and 3; fix the edges"


def test_a_cycle_that_brings_another_shape_is_named(refusal: Any) -> None:
    graph = chain((2,), (2,), n=node("I", r=np.ones(2)))
    graph["nodes"]["back"] = node("Linear", weight=np.ones((3, 2)))
    graph["edges"] += [("n", "back"), ("back", "n")]
    assert refusal(graph) == "node 'n' reads 2, but 'back' gives 3"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (node("Linear", weight=np.array([[np.nan]])), "node 'a' (Linear): weight holds NaN or infinite values"),
        (node("Linear", weight="none"), "node 'a' (Linear): weight holds no numbers"),
        (node("Linear", weight=np.ones((1, 1, 1))), "node 'a' (Linear): its weight has 3 axes; a matrix is supported"),
        (node("Affine", weight=np.ones((1, 1)), bias=np.ones(2)), "node 'a' (Affine): its bias is 2, not 1"),
        (
            node("Delay", delay=np.array([0.5])),
            "node 'a' (Delay): its delays are no whole numbers of time steps dt = 1",
        ),
        (node("Delay", delay=np.array([-1.0])), "node 'a' (Delay): its delays are no whole numbers"),
        (
            node("LIF", tau=np.array([0.02]), r=np.ones(1), v_leak=np.zeros(1), v_threshold=np.ones(1)),
            "node 'a' (LIF): tau = 0.02 is shorter than the time step dt = 1; give dt in the unit of the file",
        ),
    ],
)
def test_values_that_make_no_sense_are_named(refusal: Any, broken: Node, said: str) -> None:
    assert refusal(chain((1,), (1,), a=broken)).startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": 2}, "its 1 output channels do not divide into 2 groups"),
        ({"stride": np.array([1, 1, 1])}, "(1, 1, 1) must be 2 whole numbers"),
        ({"padding": "reflect"}, "Invalid padding string"),
        ({"weight": np.ones((1, 1, 1))}, "its weight has 3 axes, not 4"),
    ],
)
def test_a_convolution_that_cannot_be_is_named(refusal: Any, change: Node, said: str) -> None:
    fields = {
        "weight": np.ones((1, 1, 1, 1)),
        "bias": np.zeros(1),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    }
    assert refusal(chain((1, 2, 2), (1, 2, 2), c=node("Conv2d", **(fields | change)))).startswith(
        f"node 'c' (Conv2d): {said}"
    )


def test_the_rule_of_sinabs_is_for_if_nodes(refusal: Any) -> None:
    lif = node("LIF", tau=np.full(1, 2.0), r=np.ones(1), v_leak=np.zeros(1), v_threshold=np.ones(1))
    assert "rule 'sinabs' is for IF nodes" in refusal(chain((1,), (1,), n=lif), rule="sinabs")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "norse"}, r"rule='norse' is unknown \(known: nir, sinabs\)"),
        ({"reset": "hard"}, r"reset='hard' is unknown \(known: file, subtract, v_reset\)"),
        ({"dt": 0}, "dt=0 must be a number above 0"),
        ({"dt": float("nan")}, "dt=nan must be a number above 0"),
    ],
)
def test_an_option_that_is_unknown_is_refused(tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_nir(write(tmp_path / "net.nir", chain((1,), (1,), a=identity(1))), **options)
