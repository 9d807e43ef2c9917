"""What goes wrong while a network is profiled: counted exactly all the same, or refused in one line and undone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from own_networks import Does, spikes
from torch import Tensor, nn

import snn_energy as se
from snn_energy.core.errors import ProfilingError
from snn_energy.models.neurons import LIF

pytestmark = pytest.mark.usefixtures("one_thread")


def two_layers() -> Any:
    return Does(lambda self, x: self.b(self.a(x).gt(0).float()), a=nn.Linear(6, 5), b=nn.Linear(5, 3))


def refused(model: nn.Module, loader: Any, **options: Any) -> str:
    with pytest.raises(ProfilingError) as caught:
        se.profile(model, loader, **{"time_steps": 1, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sops(counts: se.Counts) -> dict[str, int]:
    """SOPs of every module, all its calls together."""
    frame = counts.to_frame()
    modules = frame["layer"].str.partition("#")[0]
    return {name: int(rows["sops"].sum()) for name, rows in frame.groupby(modules, sort=False) if rows["sops"].any()}


# --- hooks and modules that change ---


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_the_loader_adds_between_batches_is_refused(register: str) -> None:
    model, handles = two_layers(), []

    def batches() -> Iterator[Tensor]:
        yield spikes(3, 6)
        handles.append(getattr(model.a, register)(lambda module, *values: None))
        yield spikes(3, 6)

    assert refused(model, batches()).startswith("a: hooks were added or removed while it was profiled")
    handles[0].remove()
    assert not model.a._forward_hooks
    assert not model.a._forward_pre_hooks


def test_a_hook_for_all_modules_that_the_loader_adds_is_refused() -> None:
    model, handles = two_layers(), []

    def batches() -> Iterator[Tensor]:
        yield spikes(3, 6)
        handles.append(nn.modules.module.register_module_forward_hook(lambda *values: None))
        yield spikes(3, 6)

    try:
        assert refused(model, batches()).startswith("Does: hooks were added or removed while it was profiled")
    finally:
        handles[0].remove()


def test_hooks_that_were_there_before_stay_and_their_work_is_counted() -> None:
    model, x = two_layers(), spikes(4, 6)
    seen: list[int] = []
    model.a.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    model.b.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    found = sops(se.profile(model, [x, x], time_steps=1))
    assert found == {"a": 2 * 5 * int(x.sum())}  # b reads zeros
    assert seen == [4, 4]
    assert len(model.a._forward_hooks) == len(model.b._forward_pre_hooks) == 1


def by_name(model: Any, other: nn.Module) -> None:
    model.a = other


def in_the_table(model: Any, other: nn.Module) -> None:
    model._modules["a"] = other


def for_a_while(model: Any, other: nn.Module) -> None:
    before, model.a = model.a, other
    model.a = before


def in_a_container(model: Any, other: nn.Module) -> None:
    model.inner[0] = other


REPLACED = {by_name: "a", in_the_table: "a", for_a_while: "a", in_a_container: "inner.0"}


def nested() -> Any:
    return Does(
        lambda self, x: self.inner(self.a(x).gt(0).float()), a=nn.Linear(6, 5), inner=nn.Sequential(nn.Linear(5, 3))
    )


@pytest.mark.parametrize("replace", REPLACED)
def test_a_module_that_the_loader_replaces_is_refused(replace: Callable[[Any, nn.Module], None]) -> None:
    model = nested()
    other = copy.deepcopy(model.a if REPLACED[replace] == "a" else model.inner[0])

    def batches() -> Iterator[Tensor]:
        yield spikes(3, 6)
        replace(model, other)
        yield spikes(3, 6)

    assert refused(model, batches()).startswith(
        f"Does: the module '{REPLACED[replace]}' was replaced, added or removed while it was profiled"
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (other, *model.modules()))


@pytest.mark.parametrize("replace", REPLACED)
def test_a_module_that_the_forward_replaces_is_refused_and_put_back(replace: Callable[[Any, nn.Module], None]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if len(x) == 2:
            replace(self, copy.deepcopy(self.a if REPLACED[replace] == "a" else self.inner[0]))
        out: Tensor = self.inner(self.a(x).gt(0).float())
        return out

    model = nested()
    model.does = forward
    before = dict(model.named_modules())
    said = {refused(model, [spikes(3, 6), spikes(2, 6)]) for _ in range(2)}
    assert len(said) == 1
    assert f"the module '{REPLACED[replace]}' was replaced" in said.pop()
    assert dict(model.named_modules()) == before


def test_a_neuron_that_is_replaced_by_another_is_refused() -> None:
    model = Does(lambda self, x: self.b(self.lif(self.a(x)[None])[0]), a=nn.Linear(6, 5), lif=LIF(), b=nn.Linear(5, 3))

    def batches() -> Iterator[Tensor]:
        yield torch.rand(3, 6)
        model.lif = LIF(0.9)
        yield torch.rand(3, 6)

    assert "the module 'lif' was replaced" in refused(model, batches())


# --- a forward that raises in batch 7 ---


class RaisesInBatch7(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif, self.seen = nn.Linear(6, 4), LIF(), [0]
        self.broken = True

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        if self.broken and len(x) == 4:
            raise RuntimeError("a bad image")
        out: Tensor = self.lif(self.fc(x)[None])[0]
        return out


def nine_batches() -> list[Tensor]:
    return [torch.rand(n, 6) for n in (3, 2, 3, 1, 3, 2, 4, 3, 2)]


def test_a_forward_that_raises_in_batch_7_says_so_and_leaves_the_network_as_it_was() -> None:
    model = RaisesInBatch7().train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="a bad image") as caught:
        se.profile(model, nine_batches(), time_steps=1)
    assert caught.value.__notes__ == ["in batch 7, after 14 samples"]
    assert model.seen == [0]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "observer" not in vars(model.lif)
    model.broken = False
    assert se.profile(model, nine_batches(), time_steps=1).samples == 23


NET = """
import os
import torch
from torch import nn

class Net(nn.Module):
    time_steps = 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        if os.environ.get("BROKEN") and "7.0" in str(x.tolist()):
            raise ValueError("a bad image")
        return self.fc(x.flatten(1))
"""


def test_what_was_counted_before_a_bad_batch_is_kept_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    import numpy as np

    (tmp_path / "net.py").write_text(NET)
    images = np.random.default_rng(0).random((22, 2, 2)).astype(np.float32).round(1)
    images[20] = 7  # in batch 7 of 3
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(22, np.int64))
    monkeypatch.chdir(tmp_path)
    command = ["profile", "--model", "net.py:Net", "--data", "npz:images.npz", "--batch-size", "3", "--time-steps", "1"]
    assert cli(*command, "-o", "whole.json")[0] == 0
    monkeypatch.setenv("BROKEN", "1")
    code, out, err = cli(*command, "-o", "counts.json")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "the network raised ValueError on this data: a bad image" in err
    assert err.endswith(
        "; in batch 7, after 18 samples; 18 of 22 samples are counted and kept in counts.json.parts; the same command "
        "goes on from there\n"
    )
    assert not (tmp_path / "counts.json").exists()
    assert [path.name for path in (tmp_path / "counts.json.parts").iterdir()] == ["000000000-000000018.npz"]
    monkeypatch.delenv("BROKEN")
    code, _, err = cli(*command, "-o", "counts.json")
    assert not err.startswith("error"), err
    assert code == 0, err
    assert "18 of 22 samples are counted already" in err
    assert not (tmp_path / "counts.json.parts").exists()
    whole, resumed = se.load_counts("whole.json"), se.load_counts("counts.json")
    assert whole.rows.equals(resumed.rows)


def test_a_loader_that_raises_in_batch_7_says_so_too() -> None:
    def batches() -> Iterator[Tensor]:
        for _ in range(6):
            yield spikes(2, 6)
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image") as caught:
        se.profile(two_layers(), batches(), time_steps=1)
    assert caught.value.__notes__ == ["in batch 7, after 12 samples"]


def test_an_error_in_the_first_batch_says_only_what_it_is() -> None:
    with pytest.raises(RuntimeError) as caught:
        se.profile(two_layers(), [spikes(3, 7)], time_steps=1)
    assert not hasattr(caught.value, "__notes__")


# --- threads ---


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """What each job gives, or raises, run in a thread of its own, all at once."""
    results: list[Any] = [None] * len(jobs)

    def run(nth: int) -> None:
        try:
            results[nth] = jobs[nth]()
        except Exception as error:  # noqa: BLE001 handed to the test
            results[nth] = error

    threads = [threading.Thread(target=run, args=(nth,)) for nth in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_networks_profiled_in_threads_of_their_own_are_counted_exactly() -> None:
    x = torch.rand(4, 3, 2, 6)

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Does(lambda self, x: self.b(self.lif(self.a(x))), a=nn.Linear(6, 20), lif=LIF(), b=nn.Linear(20, 3))

    options: dict[str, Any] = {"time": "axis0", "time_steps": 4}
    expected = [sops(se.profile(network(seed), [x] * 5, **options)) for seed in range(4)]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    models = [network(seed) for seed in range(4)]
    found = in_threads(*(lambda model=model: se.profile(model, [x] * 5, **options) for model in models))
    assert [sops(counts) for counts in found] == expected
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_the_same_network_in_two_threads_is_refused_in_one_line() -> None:
    model, begun, refused_there = two_layers(), threading.Event(), threading.Event()

    def slow() -> Iterator[Tensor]:
        yield spikes(3, 6)
        begun.set()
        assert refused_there.wait(30)
        yield spikes(3, 6)

    def second() -> Any:
        assert begun.wait(30)
        try:
            return se.profile(model, [spikes(3, 6)], time_steps=1)
        finally:
            refused_there.set()

    counts, error = in_threads(lambda: se.profile(model, slow(), time_steps=1), second)
    assert counts.samples == 6
    assert isinstance(error, ProfilingError)
    assert str(error).startswith("Does: is being profiled already")
    assert se.profile(model, [spikes(3, 6)], time_steps=1).samples == 3


def test_a_network_that_its_own_loader_profiles_is_refused_in_one_line() -> None:
    model = two_layers()

    def batches() -> Iterator[Tensor]:
        yield spikes(3, 6)
        se.profile(model, [spikes(3, 6)], time_steps=1)

    assert refused(model, batches()).startswith("Does: is being profiled already")
    assert se.profile(model, [spikes(3, 6)], time_steps=1).samples == 3


def test_a_copy_can_be_profiled_by_the_loader() -> None:
    model, inner, x = two_layers(), [], spikes(5, 6)

    def batches() -> Iterator[Tensor]:
        yield spikes(3, 6)
        inner.append(sops(se.profile(copy.deepcopy(model), [x], time_steps=1)))
        yield x

    found = sops(se.profile(model, batches(), time_steps=1))
    alone = sops(se.profile(model, [x], time_steps=1))
    assert inner == [alone]
    assert alone["a"] == 5 * int(x.sum())
    assert found["a"] > alone["a"]


# --- control flow that depends on the data ---


def expected_sops(model: Any, batches: list[Tensor]) -> dict[str, int]:
    """Non-zeros that every linear layer reads times its outputs, by plain hooks."""
    found: dict[str, int] = {}
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):

            def count(module: Any, args: Any, name: str = name) -> None:
                found[name] = found.get(name, 0) + int(args[0].count_nonzero()) * module.out_features

            handles.append(layer.register_forward_pre_hook(count))
    with torch.no_grad():
        for x in batches:
            model(x)
    for handle in handles:
        handle.remove()
    return found


def skips_a_layer(self: Any, x: Tensor) -> Tensor:
    h = self.a(x).gt(0).float()
    return self.c(self.b(h).gt(0).float() if len(x) % 2 else h)  # type: ignore[no-any-return]


def another_order(self: Any, x: Tensor) -> Tensor:
    first, second = (self.a, self.b) if len(x) % 2 else (self.b, self.a)
    return self.c(second(first(x).gt(0).float()).gt(0).float())  # type: ignore[no-any-return]


def loops_by_the_data(self: Any, x: Tensor) -> Tensor:
    for _ in range(len(x) % 3 + 1):
        x = self.a(x).gt(0).float()
    return self.c(self.b(x).gt(0).float())  # type: ignore[no-any-return]


def branches(self: Any, x: Tensor) -> Tensor:
    return self.c((self.a if len(x) % 2 else self.b)(x).gt(0).float())  # type: ignore[no-any-return]


FLOWS = (skips_a_layer, another_order, loops_by_the_data, branches)


@pytest.mark.parametrize("flow", FLOWS)
def test_control_flow_that_changes_between_batches_is_counted_exactly_or_refused(flow: Any) -> None:
    torch.manual_seed(1)
    model = Does(flow, a=nn.Linear(6, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3))
    batches = [spikes(n, 6) for n in (3, 2, 4, 3, 5, 2, 3)]
    try:
        counts = se.profile(model, batches, time_steps=1)
    except ProfilingError as error:
        assert "changes between batches (at " in str(error)  # noqa: PT017
        for x in batches:  # each by itself is counted
            assert sops(se.profile(model, [x], time_steps=1)) == expected_sops(model, [x])
        return
    assert sops(counts) == expected_sops(model, batches)
