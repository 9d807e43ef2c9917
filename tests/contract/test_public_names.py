"""What users import: the public names, where the README shows them; old module names lead to the new places."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

import snn_energy as se
from snn_energy._moved import MOVED

PUBLIC = [
    "Audit", "BreakEven", "Comparison", "Counts", "Energy", "HardwareProfile", "Latency", "SnnEnergyError",
    "__version__", "audit", "break_even", "compare", "create_model", "energy_range", "estimate", "estimate_latency",
    "list_hardware", "list_models", "load_checkpoint", "load_counts", "load_hardware", "profile", "ratio_range",
    "save_checkpoint", "sweep", "what_matters",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(se.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(se))
    for name in PUBLIC:
        assert getattr(se, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'snn_energy' has no attribute 'estimat'"):
        se.estimat  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("snn_energy.counts", ["Counts", "load_counts", "COLUMNS", "make_rows"]),
        (
            "snn_energy.hardware",
            ["HardwareProfile", "load_hardware", "list_hardware", "numbers", "quantities", "Source"],
        ),
        ("snn_energy.datasets", ["load_images", "batches", "parse_data", "ImageSet"]),
        ("snn_energy.checkpoints", ["load_checkpoint", "save_checkpoint", "read_metadata", "sha256_of"]),
        ("snn_energy.models.neurons", ["DTSS", "LIF"]),
    ],
)
def test_packages_hand_on_their_public_names(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    for name in names:
        assert getattr(found, name) is not None


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_name_leads_to_the_new_place_with_a_warning(old: str) -> None:
    sys.modules.pop(f"snn_energy.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"snn_energy.{old} is now snn_energy.{MOVED[old][0]}"):
        module = importlib.import_module(f"snn_energy.{old}")
    for place in MOVED[old]:
        new = importlib.import_module(f"snn_energy.{place}")
        public = [name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
        for name in public:
            assert getattr(module, name) is getattr(new, name) or len(MOVED[old]) > 1
    with pytest.raises(AttributeError, match=f"module 'snn_energy.{old}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_an_old_module_of_a_function_s_name_can_still_be_called() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore'); import snn_energy.compare, snn_energy as se; "
        "import inspect; assert callable(se.compare); "
        "from snn_energy.analysis.comparison import compare; assert snn_energy.compare.compare is compare"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_today_s_names_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in PUBLIC:
            getattr(se, name)
