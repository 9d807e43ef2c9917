"""The recipes that ship: the paper's settings (Datta et al., section IV), listed and printed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snn_energy.training.recipe import list_recipes, load_recipe, parse_recipe

Cli = Callable[..., tuple[int, str, str]]
NETWORKS = ("vit", "spikformer-t1", "spikformer-t2", "spikformer-t4", "spikformer-t6", "dts-t4", "dts-t6")
SETTINGS = {  # image size, classes, network, learning rate, batch
    "cifar10": (32, 10, "4-384", 0.004, 256),
    "cifar100": (32, 100, "4-384", 0.004, 256),
    "imagenet": (224, 1000, "8-512", 0.001, 168),
}
PAPER = Path(__file__).parents[2] / "docs" / "paper.md"


@pytest.mark.parametrize("data", SETTINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_recipe_of_the_paper_has_the_figures_of_its_section_iv(data: str, network: str) -> None:
    recipe = load_recipe(f"paper-{data}-{network}")
    size, classes, shape, rate, batch = SETTINGS[data]
    model = recipe.model
    assert recipe.name == f"paper-{data}-{network}"
    assert (model.image_size, model.num_classes, model.in_channels) == (size, classes, 3)
    family = {"vit": "vit", "spikformer": "spikformer", "dts": "dts-spikformer"}[network.split("-")[0]]
    assert model.name == f"{family}-{shape}"
    assert (recipe.optimiser.learning_rate, recipe.batch_size) == (rate, batch)
    assert model.time_steps == (None if network == "vit" else int(network[-1]))
    if data == "imagenet":
        assert recipe.epochs == 300
    if family == "dts-spikformer":
        assert recipe.mask_loss is not None
        assert set(recipe.mask_loss.groups) == {"qkv", "mlp"}
        # T_init half of T_max with lambda_m 1e-6, and Table IV's last row: 4 of 6 with 1e-4
        assert (model.initial_steps, recipe.mask_loss.weight) == ((2, 1e-6) if network == "dts-t4" else (4, 1e-4))
        assert model.min_steps == 0
    else:
        assert recipe.mask_loss is None


def test_every_recipe_that_ships_is_listed_once_with_what_it_is_for(cli: Cli) -> None:
    code, out, err = cli("train", "--list")
    assert (code, err) == (0, "")
    names = [line.split()[0] for line in out.splitlines()[1:] if not line.startswith(" ")]
    assert names == list_recipes()
    said = [line for line in out.splitlines() if line.startswith("    ")]
    assert len(said) == len(names)
    assert all(len(line.strip()) > 20 for line in said)


@pytest.mark.parametrize("name", list_recipes())
def test_a_printed_recipe_reads_back_as_the_recipe(cli: Cli, name: str) -> None:
    code, out, err = cli("train", name, "--print")
    assert (code, err) == (0, "")
    assert parse_recipe(out, "printed.yaml") == load_recipe(name)


def test_what_is_given_beside_the_recipe_is_printed_in_it(cli: Cli) -> None:
    code, out, _ = cli(
        "train", "paper-cifar10-dts-t4", "--print", "--seed", 5, "--data", "cifar10:x", "--start-from", "y"
    )
    assert code == 0
    wanted = load_recipe("paper-cifar10-dts-t4").with_changes(seed=5, data="cifar10:x", start_from="y")
    assert parse_recipe(out, "printed.yaml") == wanted


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["train", "paper-cifar10-dts", "--print"],
            1,
            "neither a file nor a bundled recipe; did you mean 'paper-cifar10-",
        ),
        (["train", "digits-dts", "--print", "--data", "cifar11:x"], 1, "unknown dataset 'cifar11:x'"),
        (["train"], 2, "missing: RECIPE"),
        (["train", "digits-dts"], 2, "missing: -o"),
    ],
)
def test_a_call_that_asks_for_nothing_that_is_there_says_so(
    cli: Cli, arguments: list[str], code: int, text: str
) -> None:
    status, out, err = cli(*arguments)
    assert (status, out) == (code, "")
    assert text in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["--list"], ["paper-imagenet-dts-t6", "--print"]])
def test_listing_and_printing_do_not_load_torch(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['snn-energy', 'train', *sys.argv[1:]]\n"
        "from snn_energy.cli.main import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


# --- docs/paper.md ---


def test_the_page_on_the_paper_names_every_equation_and_table() -> None:
    text = PAPER.read_text(encoding="utf-8")
    named = {int(number) for first, last in re.findall(r"Eq\. (\d+)(?:[-–](\d+))?", text) for number in
             range(int(first), int(last or first) + 1)}  # fmt: skip
    assert named >= set(range(1, 12))
    assert all(f"Table {numeral}" in text for numeral in ("I", "III", "IV", "V"))


def test_code_that_the_page_on_the_paper_names_exists() -> None:
    text = PAPER.read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)+\w+\.py): ([\w.]+)`", text)
    assert len(named) == len(re.findall(r"\w+\.py\b", text))  # each with its folder and a name in it
    assert len(named) > 15
    for file, name in named:
        module = importlib.import_module("snn_energy." + file.removesuffix(".py").replace("/", "."))
        found: object = module
        for part in name.split("."):
            found = getattr(found, part)
