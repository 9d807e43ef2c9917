"""A network named as file.py:function is built, or refused in one line that says where and what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from snn_energy.core.errors import DataError, ModelError
from snn_energy.jobs.references import build_loader, build_model, is_reference, parse_arguments
from snn_energy.studies.demo import checkpoint_path

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3, names=("a",)):
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.names = names

    def forward(self, x):
        return self.fc(x)

def make(width: int = 3):
    return Net(width)

def pair():
    return Net(), "optimiser"

def number():
    return 7

def fails():
    return torch.zeros(3)[5]

def batches():
    return [torch.zeros(2, 4)]

ready = Net(5)
not_iterable = 3
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "usernet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "usernet.py"


@pytest.mark.parametrize("place", ["usernet.py", "usernet"])
@pytest.mark.parametrize(("name", "arguments", "width"), [("make", {}, 3), ("make", {"width": 6}, 6), ("Net", {}, 3),
                                                          ("ready", {}, 5)])  # fmt: skip
def test_a_function_a_class_and_a_network_can_be_named(
    net: Path, place: str, name: str, arguments: dict[str, Any], width: int
) -> None:
    sys.modules.pop("usernet", None)
    model = build_model(f"{place}:{name}", arguments)
    assert isinstance(model, nn.Module)
    assert model.fc.out_features == width  # type: ignore[union-attr]


def test_a_file_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "layers_of_mine.py").write_text("from torch import nn\n\ndef layer():\n    return nn.Linear(2, 2)\n")
    (tmp_path / "whole.py").write_text("from layers_of_mine import layer\n")
    assert isinstance(build_model(f"{tmp_path / 'whole.py'}:layer"), nn.Linear)
    assert str(tmp_path) not in sys.path


def test_a_dataclass_in_the_file_works(tmp_path: Path) -> None:
    (tmp_path / "withdata.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass C:\n    n: int = 2\n\ndef make():\n    return nn.Linear(C().n, 1)\n"
    )
    assert build_model(f"{tmp_path / 'withdata.py'}:make").in_features == 2


@pytest.mark.parametrize(
    ("reference", "arguments", "said"),
    [
        ("absent.py:make", {}, "no such file"),
        ("no_such_package:make", {}, "cannot be imported: ModuleNotFoundError"),
        ("usernet.py:mak", {}, "has no 'mak'; did you mean 'make'"),
        ("usernet.py:", {}, "write package.module:function"),
        ("usernet.py:make", {"widht": 4}, r"make\(width: int = 3\).*unexpected keyword argument 'widht'"),
        ("usernet.py:number", {}, "returns a int, not a torch.nn.Module"),
        ("usernet.py:pair", {}, "returns 2 objects, the first a module"),
        ("usernet.py:fails", {}, r"raised IndexError \(usernet.py:24\)"),
        ("usernet.py:ready", {"width": 4}, "takes no arguments"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(
    net: Path, reference: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        build_model(reference, arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def make(:\n", r"SyntaxError \(broken.py:1\)"),
        ("import no_such_thing\n", r"ModuleNotFoundError \(broken.py:1\).*no_such_thing"),
        ("\n\n1 / 0\n", r"ZeroDivisionError \(broken.py:3\)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(ModelError, match=said):
        build_model(f"{tmp_path / 'broken.py'}:make")


def test_a_loader_can_be_named(net: Path) -> None:
    (batch,) = build_loader("usernet.py:batches")
    assert batch.shape == (2, 4)
    with pytest.raises(DataError, match="return an iterable"):
        build_loader("usernet.py:not_iterable")


def test_arguments_are_literals_text_or_json() -> None:
    given = parse_arguments(["T=4", "name=atan", "sizes=[3, 5]", "flag=True", '{"depth": 2, "rate": 0.5}'])
    assert given == {"T": 4, "name": "atan", "sizes": [3, 5], "flag": True, "depth": 2, "rate": 0.5}


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["T"], "write name=value"), (["2x=3"], "write name=value"), (['{"a": }'], "not JSON"), (["a=1", "a=2"], "twice")],
)
def test_bad_arguments_are_told_in_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse_arguments(texts)


def test_a_registry_name_is_no_reference() -> None:
    assert is_reference("net.py:make")
    assert not is_reference("spikformer-4-384")


@pytest.mark.parametrize("time", ["repeat-axis0", "repeat-axis1", "flat", "call", "axis0"])
@pytest.mark.parametrize("command", ["profile", "inspect"])
def test_a_time_that_does_not_fit_a_shipped_network_is_one_line(
    tmp_path: Path, cli: Any, command: str, time: str
) -> None:
    options = ["-o", tmp_path / "c.json", "--samples", "4"] if command == "profile" else []
    code, _, said = cli(command, checkpoint_path("dts-spikformer-2-64"), "--data", "digits", "--time", time, *options)
    assert code == 1
    assert said.startswith("error: ")
    assert said.strip().count("\n") == 0
    assert "time" in said
    assert not list(tmp_path.iterdir())
