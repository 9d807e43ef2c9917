"""The shape of the command line's code: short modules and functions, every option declared once, light imports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import snn_energy.cli
from snn_energy.cli.commands import COMMANDS, app
from snn_energy.cli.option_groups import LeaveOut, with_option_groups
from snn_energy.cli.options import NetworkOptions, PolicyOptions, TableOptions

Cli = Callable[..., tuple[int, str, str]]
MODULES = sorted(Path(snn_energy.cli.__file__).parent.glob("*.py"))
# Modules with little to say.
SHORT = ("__init__", "main", "option_groups", "wording", "hardware", "reports", "conventions")
HARDWARE = ("list", "show", "diff", "validate")
POLICIES = ("--memory", "--integer", "--products", "--encoder", "--without")
NETWORK = (
    "--model", "--model-args", "--ema", "--image-size", "--in-channels", "--num-classes", "--time-steps", "--time",
    "--neuron", "--input-kind", "--max-k", "--divide-by", "--step-us", "--frames",
)  # fmt: skip
NORMALISATION = ("--mean", "--std", "--normalize")
TABLES = ("--csv", "--json", "--markdown", "--latex")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_has_100_to_220_lines(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= 220
    assert lines >= 100 or module.stem in SHORT


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_function_has_more_than_60_lines(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


def declared(module: Path) -> Iterator[str]:
    """The flags of every ``typer.Option(...)`` in a module."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


@pytest.mark.parametrize(
    "option", [*POLICIES, *NETWORK, *NORMALISATION, *TABLES, "--hardware", "--samples", "--seed", "--device"]
)
def test_a_shared_option_is_declared_in_one_place(option: str) -> None:
    places = [module.stem for module in MODULES for flag in declared(module) if flag == option]
    assert places == ["options"]


def test_no_choice_is_spelled_in_the_command_line() -> None:
    for module in MODULES:
        assert "Literal[" not in module.read_text(encoding="utf-8")


def command_names() -> Iterator[tuple[str, ...]]:
    yield ()
    for command in app.registered_commands:
        assert command.name is not None
        yield (command.name,)
    yield ("hardware",)
    for name in HARDWARE:
        yield "hardware", name


@pytest.mark.parametrize("command", list(command_names()), ids=lambda command: " ".join(command) or "(none)")
def test_every_command_has_help(command: tuple[str, ...], cli: Cli) -> None:
    code, out, err = cli(*command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: snn-energy {' '.join(command)}".rstrip() in " ".join(out.split())


def parameters_of(name: str) -> list[str]:
    command = next(each for each in COMMANDS if each.__name__ == name)
    return list(inspect.signature(command).parameters)


@pytest.mark.parametrize("name", ["estimate", "latency", "sweep", "break_even", "compare", "early_exit"])
def test_a_command_that_prices_has_every_policy_in_one_order(name: str) -> None:
    found = [each for each in parameters_of(name) if f"--{each}" in POLICIES]
    assert [f"--{each}" for each in found] == list(POLICIES)


def test_options_that_a_command_cannot_use_are_left_out() -> None:
    assert [name for name in parameters_of("audit") if f"--{name}" in POLICIES] == ["products", "encoder", "without"]
    assert "without" not in parameters_of("plot")
    assert "max_k" in parameters_of("profile")
    assert [each for each in parameters_of("profile") if each not in parameters_of("inspect")] == [
        "output", "samples", "batch_size", "max_k", "device",
    ]  # fmt: skip


def test_a_group_reaches_the_command_as_one_object() -> None:
    given: list[object] = []

    @with_option_groups
    def run(
        name: Annotated[str, typer.Argument()],
        *,
        policies: Annotated[PolicyOptions, LeaveOut("memory")],
        tables: TableOptions,
        last: Annotated[int, typer.Option("--last")] = 1,
    ) -> None:
        """Two groups between two parameters of its own."""
        given.extend((name, policies, tables, last))

    assert list(inspect.signature(run).parameters) == [
        "name", "integer", "products", "encoder", "without", "csv", "json", "markdown", "latex", "last",
    ]  # fmt: skip
    single = typer.Typer()
    single.command()(run)
    done = CliRunner().invoke(single, ["a", "--integer", "mac", "--without", "x", "--without", "y", "--csv", "t.csv"])
    assert done.exit_code == 0, done.output
    assert given == ["a", PolicyOptions(integer="mac", without=["x", "y"]), TableOptions(csv=Path("t.csv")), 1]
    assert CliRunner().invoke(single, ["a", "--memory", "ws_once"]).exit_code == 2


def test_a_name_that_a_group_does_not_have_cannot_be_left_out() -> None:
    @dataclass(frozen=True)
    class Group:
        one: Annotated[int, typer.Option("--one")] = 1

    def run(*, group: Group) -> None: ...

    run.__annotations__["group"] = Annotated[Group, LeaveOut("two")]
    with pytest.raises(TypeError, match="two"):
        with_option_groups(run)


def test_groups_change_nothing_unless_given() -> None:
    assert PolicyOptions().arguments() == {
        "memory": None, "integer": "ac", "products": "coincidence", "encoder": "per-step", "without": [],
    }  # fmt: skip
    assert TableOptions().paths() == (None, None, None, None)
    assert NetworkOptions().frames == "count"


def test_the_command_line_starts_without_heavy_packages() -> None:
    code = (
        "import sys, snn_energy.cli.commands\n"
        "loaded = {'torch', 'numpy', 'pandas', 'matplotlib', 'pydantic', 'rich.console'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
