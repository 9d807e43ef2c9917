"""An error in the terminal names options as the command line has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import snn_energy
from snn_energy.cli.commands import app
from snn_energy.cli.wording import FLAGS, for_terminal

PACKAGE = Path(snn_energy.__file__).parent
FOLDERS = ("profiler", "running", "jobs", "checkpoints", "datasets", "models", "analysis")
OPTION = re.compile(rf"(?<![\w.(-])({'|'.join(FLAGS)})=(?!=)")


@pytest.mark.parametrize(
    ("python", "terminal"),
    [
        ("declare time= (--time), one of x", "declare --time, one of x"),
        ("time='flat' wants (T*B, ...) with T=4", "--time flat wants (T*B, ...) with T=4"),
        ("or profile it with time_steps=1", "or profile it with --time-steps 1"),
        ("use time_steps=300, or drop them", "use --time-steps 300, or drop them"),
        ("name them with neurons= (--neuron)", "name them with --neuron"),
        ("leave input_kind out", "leave --input-kind out"),
        ("choose one: --time flat or --time axis0 (time= in Python)", "choose one: --time flat or --time axis0"),
        ("two are called 'a'; give compare a mapping name -> counts", "two are called 'a'; rename one of the files"),
        ("give --time flat --time-steps 4", "give --time flat --time-steps 4"),
        ("net.py:make(time='x'): missing 'n'", "net.py:make(time='x'): missing 'n'"),
        ("counts.json: 'time_steps' is missing", "counts.json: 'time_steps' is missing"),
        ("uptime=3 and self.time_steps=4", "uptime=3 and self.time_steps=4"),
    ],
)
def test_options_are_written_as_they_are_typed(python: str, terminal: str) -> None:
    assert for_terminal(python) == terminal
    assert for_terminal(terminal) == terminal


def test_every_flag_is_an_option_of_a_command() -> None:
    options = {
        option for command in get_command(app).commands.values() for each in command.params for option in each.opts  # type: ignore[attr-defined]
    }  # fmt: skip
    assert set(FLAGS.values()) <= options


def messages() -> Iterator[tuple[str, str]]:
    """Every text of the package that names an option of Python, its values filled in, and its place."""
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documented = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            inner = {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
            for node in ast.walk(tree):
                if id(node) in inner or id(node) in documented:
                    continue
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "4" for v in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                else:
                    continue
                if OPTION.search(text) or "in Python" in text:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


@pytest.mark.parametrize(("place", "text"), list(messages()))
def test_no_message_shows_an_option_of_python_in_the_terminal(place: str, text: str) -> None:
    shown = for_terminal(text)
    if "num_timesteps=" in text or text.startswith("time: "):
        return
    assert not OPTION.search(shown), (place, shown)
    assert "in Python" not in shown
    assert "in Python" in text or any(flag in shown for flag in (*FLAGS.values(), "--no-cut")), (place, shown)


def test_there_are_messages_that_name_options() -> None:
    assert len(list(messages())) >= 25


def test_a_refusal_in_the_terminal_names_the_option(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))\n"
        "def data():\n    return [torch.rand(2, 4)]\n"
    )
    code, _, err = cli("profile", "--model", f"{tmp_path / 'net.py'}:net", "--data", f"{tmp_path / 'net.py'}:data",
                       "--time", "flatt", "-o", tmp_path / "counts.json")  # fmt: skip
    assert code == 1
    assert err.startswith("error: unknown --time flatt; did you mean 'flat'? (one of inside, ")
