"""Locations of the bundled files: next to the package in a checkout, inside the package once it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent


def hardware_profiles() -> Path | None:
    """The folder of the bundled hardware profiles; None if it is missing."""
    return _first_folder(PACKAGE / "hardware_profiles", CHECKOUT / "hardware_profiles")


def published_counts() -> Path | None:
    """The folder of the published counts; None if it is missing."""
    return _first_folder(PACKAGE / "published_counts", CHECKOUT / "published")


def reports() -> Path | None:
    """The committed reports of a checkout; None if the package is installed without them."""
    return _first_folder(CHECKOUT / "reports")


def demo_checkpoints() -> Path:
    """The folder of the trained digit networks."""
    return PACKAGE / "demo_checkpoints"


def digits() -> Path:
    """The file of the bundled digits."""
    return PACKAGE / "data" / "digits.npz"


def yaml_folder(kind: str) -> Path:
    """The folder of the bundled files of a kind: ``recipe``, ``grid`` or ``trio``."""
    return PACKAGE / ("training" if kind == "recipe" else "studies") / f"{kind}s"


def _first_folder(*candidates: Path) -> Path | None:
    return next((folder for folder in candidates if folder.is_dir()), None)
