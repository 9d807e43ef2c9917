"""A grid of training runs: a base recipe, and the keys that each variant changes. Does not import torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snn_energy.core.errors import RecipeError, nearest
from snn_energy.training.recipe import Recipe, bundled, load_recipe, parse_yaml, read_yaml, validation_message


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Published(_Section):
    """Published figures for the same setting: percent, time steps, percent, million SOPs per image."""

    accuracy: float | None = None
    t_avg: float | None = None
    sa: float | None = None
    sops_m: float | None = None


class Variant(_Section):
    """One setting. changes: dotted keys of the recipe -> values; null leaves a key out."""

    name: str = Field(min_length=1)
    changes: dict[str, Any]
    published: Published = Published()


class Grid(_Section):
    """Runs to compare: every variant with every seed. changes: for all variants; paper: source of published figures."""

    name: str
    base: str
    changes: dict[str, Any] = {}
    paper: str = ""
    seeds: list[int] = Field(default=[0], min_length=1)
    variants: list[Variant] = Field(min_length=1)


def load_grid(source: str | Path) -> tuple[Grid, dict[str, Recipe]]:
    """A bundled grid by name or a YAML file, and the recipe of every variant. Raises RecipeError."""
    text, file_name = read_yaml(source, "grid")
    grid = parse_yaml(text, file_name, Grid, "grid")
    for kind, values in (("variant", [slug(v.name) for v in grid.variants]), ("seed", list(map(str, grid.seeds)))):
        duplicate = next((value for value in values if values.count(value) > 1), None)
        if duplicate is not None:
            raise RecipeError(f"{file_name}: {kind} {duplicate} appears twice; give each its own")
    base = load_recipe(grid.base)
    recipes = {}
    for variant in grid.variants:
        where = f"{file_name}: variant '{variant.name}'"
        recipes[variant.name] = recipe_with(base, variant.name, {**grid.changes, **variant.changes}, where)
    return grid, recipes


def recipe_with(base: Recipe, name: str, changes: dict[str, Any], where: str) -> Recipe:
    """The base under another name, with dotted keys changed. where: prefix of errors. Raises RecipeError."""
    tree = base.model_dump() | {"name": name}
    for key, value in changes.items():
        _set_key(tree, key, value, where)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(validation_message(error, where, Recipe)) from error


def list_grids() -> list[str]:
    """Names of the bundled grids."""
    return bundled("grid")


def slug(name: str) -> str:
    """A variant's name as part of a file name."""
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-")


def _set_key(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key. Raises RecipeError for an unknown key."""
    *path, last = key.split(".")
    for part in path:
        inner = tree.get(part)
        if part in tree and inner is None:
            raise RecipeError(f"{where}: '{part}' is null, so '{key}' cannot be set alone; give the whole section")
        if not isinstance(inner, dict):
            raise RecipeError(f"{where}: no section '{part}' for the key '{key}'{nearest(part, tree)}")
        tree = inner
    if last not in tree:
        raise RecipeError(f"{where}: unknown key '{key}'{nearest(last, tree)}")
    if key in ("seed", "name"):
        raise RecipeError(f"{where}: '{key}' is set by the grid ({'seeds' if key == 'seed' else 'the variant'})")
    tree[last] = value
