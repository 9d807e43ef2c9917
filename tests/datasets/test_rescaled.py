"""Values of images divided and normalised, as a network was trained on them: from the options to the counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snn_energy as se
from snn_energy.core.errors import DataError
from snn_energy.core.vocabulary import NormalisationName
from snn_energy.datasets.images import ImageSet
from snn_energy.datasets.open import load_images
from snn_energy.datasets.rescaled import PUBLISHED_NORMALISATIONS, Normalisation, make_normalisation, rescaled
from snn_energy.studies.demo import checkpoint_path

Cli = Callable[..., tuple[int, str, str]]
DTS = checkpoint_path("dts-spikformer-2-64")
DIGITS = ("--data", "digits", "--samples", "3")


def images(*values: float, channels: int = 1) -> ImageSet:
    """One image per value, all its pixels equal to it."""
    pixels = np.array(values, np.float32)[:, None, None, None] * np.ones((1, channels, 2, 2), np.float32)
    return ImageSet("made", "test", pixels, np.zeros(len(values), np.int64), "as made")


def test_a_value_is_divided_before_it_is_normalised() -> None:
    found = rescaled(images(0.0, 255.0), 1, 255.0, Normalisation((0.5,), (0.25,)))
    assert found.batch(np.array([0, 1]))[:, 0, 0, 0].tolist() == [-2.0, 2.0]
    assert found.batch(np.array([0])).dtype == np.float32


def test_every_channel_has_its_own_numbers() -> None:
    found = rescaled(images(1.0, channels=3), 3, None, Normalisation((0.0, 1.0, 3.0), (1.0, 2.0, 4.0)))
    assert found.batch(np.array([0]))[0, :, 0, 0].tolist() == [1.0, 0.0, -0.5]


def test_an_image_of_mean_colour_is_zero_under_the_published_numbers() -> None:
    for name, known in PUBLISHED_NORMALISATIONS.items():
        channels = len(known.mean)
        assert channels == (1 if name == "mnist" else 3)
        pixels = np.broadcast_to(np.array(known.mean, np.float32)[None, :, None, None], (1, channels, 2, 2))
        found = rescaled(ImageSet(name, "test", pixels, np.zeros(1, np.int64), ""), channels, None, known)
        assert not found.batch(np.array([0])).any()


def test_the_published_numbers_are_those_that_circulate() -> None:
    known = {name: (each.mean, each.std) for name, each in PUBLISHED_NORMALISATIONS.items()}
    assert known == {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "mnist": ((0.1307,), (0.3081,)),
    }
    assert all(each.source for each in PUBLISHED_NORMALISATIONS.values())
    assert set(NormalisationName.__args__) == set(known)  # type: ignore[attr-defined]


def test_images_that_are_not_rescaled_are_the_same_object() -> None:
    plain = images(1.0)
    assert rescaled(plain, 1) is plain


def test_what_is_done_is_in_the_note_and_in_the_fingerprint() -> None:
    plain, known = images(1.0, 2.0), Normalisation((0.5,), (0.25,))
    found = rescaled(plain, 1, 2.0, known)
    assert found.note == "as made; values / 2; (x - mean) / std, mean 0.5, std 0.25 (given)"
    assert found.first(1).note == "first 1 of 2; as made; values / 2; (x - mean) / std, mean 0.5, std 0.25 (given)"
    other = rescaled(plain, 1, 2.0, Normalisation((0.5,), (0.5,)))
    assert len({each.fingerprint() for each in (plain, found, other, rescaled(plain, 1, 2.0))}) == 4


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ("0.5", None, "--mean without --std; give both, or a name with --normalize"),
        (None, "0.5", "--std without --mean; give both, or a name with --normalize"),
        ("0.5,x", "1,1", "--mean 0.5,x: 'x' is not a number; write one per channel, such as 0.485,0.456,0.406"),
        ("0.5,", "1,1", "--mean 0.5,: '' is not a number; write one per channel, such as 0.485,0.456,0.406"),
        ("nan", "1", "--mean nan: 'nan' is not a number; write one per channel, such as 0.485,0.456,0.406"),
        ("0.5", "inf", "--std inf: 'inf' is not a number; write one per channel, such as 0.485,0.456,0.406"),
        ("0.5,0.5", "1", "--mean has 2 numbers and --std 1; give one per channel to both"),
        ("0,0", "1,0", "--std 1,0: 0 is not above 0; give the standard deviation of every channel"),
    ],
)
def test_options_that_say_no_normalisation_are_refused(mean: str | None, std: str | None, says: str) -> None:
    with pytest.raises(DataError) as caught:
        make_normalisation(mean, std)
    assert str(caught.value) == says


def test_nothing_given_is_no_normalisation() -> None:
    assert make_normalisation(None, None) is None
    assert make_normalisation("-0.5, 1e-1", "1,2") == Normalisation((-0.5, 0.1), (1.0, 2.0))
    assert make_normalisation(None, None, "mnist") == PUBLISHED_NORMALISATIONS["mnist"]


def test_a_profile_counts_the_normalised_images_and_says_so(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "counts.json"
    code, _, err = cli("profile", DTS, *DIGITS, "--mean", "0.25", "--std", "0.5", "-o", out)
    assert code == 0, err
    found = se.load_counts(out)
    digits = load_images("digits", "test", 16, 1, 3)
    x = (torch.from_numpy(digits.batch(np.arange(3))) - 0.25) / 0.5
    expected = se.profile(se.load_checkpoint(DTS), [x])
    assert found.rows["sops"].tolist() == expected.rows["sops"].tolist()
    assert found.rows["spikes"].tolist() == expected.rows["spikes"].tolist()
    plain = se.profile(se.load_checkpoint(DTS), [torch.from_numpy(digits.batch(np.arange(3)))])
    assert found.rows["spikes"].tolist() != plain.rows["spikes"].tolist()
    assert found.header["normalisation"] == {"mean": [0.25], "std": [0.5], "source": "given"}
    assert found.header["data_note"].endswith("; (x - mean) / std, mean 0.25, std 0.5 (given)")


def test_a_name_is_recorded_with_its_numbers_and_source(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "counts.json"
    assert cli("profile", DTS, *DIGITS, "--normalize", "mnist", "-o", out)[0] == 0
    found = json.loads(out.read_text(encoding="utf-8"))["header"]["normalisation"]
    assert found == {"mean": [0.1307], "std": [0.3081], "source": PUBLISHED_NORMALISATIONS["mnist"].source}


def commands(tmp_path: Path) -> list[list[Any]]:
    """Every command that runs a network on images, up to its options of normalisation."""
    spik = checkpoint_path("spikformer-2-64")
    return [
        ["profile", spik, *DIGITS, "-o", tmp_path / "counts.json"],
        ["inspect", spik, *DIGITS[:2]],
        ["early-exit", spik, *DIGITS, "--hardware", "dts-paper-fpga"],
        ["sensitivity", spik, *DIGITS, "--no-cut", "-o", tmp_path / "sensitivity"],
    ]


@pytest.mark.parametrize("nth", range(4), ids=["profile", "inspect", "early-exit", "sensitivity"])
def test_another_number_of_channels_is_one_line_that_says_what_to_give(nth: int, cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(*commands(tmp_path)[nth], "--normalize", "cifar10")
    assert code == 1
    assert err == (
        "error: digits: the images have 1 channel, the normalisation has 3; give as many: --mean M --std S, "
        "or --normalize mnist\n"
    )


@pytest.mark.parametrize("nth", range(4), ids=["profile", "inspect", "early-exit", "sensitivity"])
def test_numbers_and_a_name_exclude_one_another(nth: int, cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(*commands(tmp_path)[nth], "--normalize", "mnist", "--mean", "0.1")
    assert code == 2
    assert "--mean or --normalize mnist, not both" in " ".join(err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("nth", range(1, 4), ids=["inspect", "early-exit", "sensitivity"])
def test_what_a_command_finds_is_about_the_normalised_images(nth: int, cli: Cli, tmp_path: Path) -> None:
    command = commands(tmp_path)[nth]
    code, out, err = cli(*command, "--mean", "0.25", "--std", "0.5")
    assert code == 0, err
    assert out != cli(*command)[1]
    assert out == cli(*command, "--mean", "0.25", "--std", "0.5")[1]


def test_recordings_and_loaders_of_ones_own_are_not_normalised_in_silence(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("profile", DTS, "--data", "nmnist:.", "--time-steps", "4", "--normalize", "mnist",
                       "-o", tmp_path / "a.json")  # fmt: skip
    assert code == 1
    assert err.startswith(
        "error: nmnist:.: events are counted, not normalised; leave --mean, --std and --normalize out"
    )
    (tmp_path / "mine.py").write_text("import torch\ndef batches():\n    return [torch.zeros(2, 1, 16, 16)]\n")
    data = f"{tmp_path / 'mine.py'}:batches"
    for options, name in (
        (["--normalize", "mnist"], "--mean, --std or --normalize"),
        (["--divide-by", "255"], "--divide-by"),
        (["--step-us", "5"], "--step-us, --frames or --cut"),
    ):
        for command in (["profile", DTS, "--data", data, "-o", tmp_path / "a.json"], ["inspect", DTS, "--data", data]):
            code, _, err = cli(*command, *options)
            assert (code, err) == (
                1,
                f"error: {data}: your own loader gives the batches as the network reads them; leave {name} out and "
                "do it there\n",
            )


def test_the_page_lists_the_published_numbers() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "your-network.md").read_text(encoding="utf-8")
    for name, known in PUBLISHED_NORMALISATIONS.items():
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (known.mean, known.std))
        assert f"| `{name}` | {mean} | {std} | {known.source} |" in page
