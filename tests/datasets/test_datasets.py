"""Images and labels, as the files hold them and as the models want them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn_energy.core.bundled import digits as digits_file
from snn_energy.core.errors import DataError
from snn_energy.datasets.images import ImageSet, check_labels
from snn_energy.datasets.open import has_own_test_split, load_images


def write_npz(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def five(**changes: object) -> dict[str, object]:
    arrays: dict[str, object] = {"images": np.zeros((5, 4, 4), np.float32), "labels": np.arange(5)}
    return arrays | changes


def bundled() -> dict[str, np.ndarray]:
    with np.load(digits_file(), allow_pickle=False) as file:
        return dict(file)


def digits_of_scikit_learn() -> Any:
    """Imported here, which takes seconds, and not by every process that collects tests."""
    from sklearn.datasets import load_digits

    return load_digits()


def test_bundled_digits_are_those_of_scikit_learn() -> None:
    theirs, ours = digits_of_scikit_learn(), bundled()
    assert np.array_equal(ours["images"], theirs.images)
    assert np.array_equal(ours["labels"], theirs.target)
    assert ours["images"].dtype == np.uint8


def test_360_digits_are_for_testing_and_every_class_gives_a_fifth_of_its_images() -> None:
    ours = bundled()
    per_class = np.bincount(ours["labels"])
    tested = np.bincount(ours["labels"][ours["is_test"]])
    assert tested.sum() == 360
    assert (np.abs(tested - per_class * 360 / 1797) < 1).all()


def test_train_and_test_digits_make_up_the_whole_set() -> None:
    train, test = load_images("digits", "train", 8, 1), load_images("digits", "test", 8, 1)
    assert (len(train), len(test)) == (1437, 360)
    together = np.sort(np.concatenate([train.images, test.images]).sum((1, 2, 3)))
    assert np.allclose(together, np.sort(digits_of_scikit_learn().images.sum((1, 2)) / 16))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_digits_grow_by_repeating_every_pixel(factor: int) -> None:
    grown = load_images("digits", "test", 8 * factor, 1, samples=3)
    small = load_images("digits", "test", 8, 1, samples=3)
    assert grown.images.dtype == np.float32
    for big, little in zip(grown.images[:, 0], small.images[:, 0], strict=True):
        assert np.array_equal(big, np.kron(little, np.ones((factor, factor))))


def test_digits_run_from_0_to_1_in_sixteenths() -> None:
    images = load_images("digits", "train", 16, 1).images
    assert images.min() == 0
    assert images.max() == 1
    assert np.array_equal(images * 16, np.round(images * 16))


def test_samples_are_the_first_ones_and_the_note_says_so() -> None:
    everything, some = load_images("digits", "test", 8, 1), load_images("digits", "test", 8, 1, samples=7)
    assert np.array_equal(some.images, everything.images[:7])
    assert np.array_equal(some.labels, everything.labels[:7])
    assert some.note.startswith("first 7 of 360")


def test_npz_images_are_taken_as_they_are(tmp_path: Path) -> None:
    images = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
    loaded = load_images(write_npz(tmp_path / "a.npz", **five(images=images)), "test", 4, 3)
    assert np.array_equal(loaded.images, images)
    assert loaded.labels.dtype == np.int64
    assert "both splits hold every image" in loaded.note


def test_npz_images_without_channels_have_one(tmp_path: Path) -> None:
    assert load_images(write_npz(tmp_path / "a.npz", **five()), "test", 4, 1).images.shape == (5, 1, 4, 4)


def test_npz_is_test_separates_the_splits(tmp_path: Path) -> None:
    spec = write_npz(tmp_path / "a.npz", **five(is_test=np.array([0, 1, 0, 0, 1], bool)))
    assert load_images(spec, "test", 4, 1).labels.tolist() == [1, 4]
    assert load_images(spec, "train", 4, 1).labels.tolist() == [0, 2, 3]


def test_only_a_file_with_is_test_has_its_own_test_split(tmp_path: Path) -> None:
    assert has_own_test_split("digits")
    assert not has_own_test_split(write_npz(tmp_path / "a.npz", **five()))
    assert has_own_test_split(write_npz(tmp_path / "b.npz", **five(is_test=np.ones(5, bool))))


def test_reading_data_does_not_load_torch() -> None:
    code = "import sys, snn_energy.datasets.open as d; d.load_images('digits', 'test', 8, 1); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" in found.stdout.split()
    assert "torch" not in found.stdout.split()


@pytest.mark.parametrize(
    ("spec", "split", "image_size", "in_channels", "samples", "complaint"),
    [
        ("digit", "test", 16, 1, None, "unknown dataset 'digit'; did you mean 'digits'?"),
        ("npz:", "test", 16, 1, None, "npz: needs a path, npz:PATH"),
        ("npz:/nowhere/a.npz", "test", 16, 1, None, r"must be an .npz with arrays images \(N,H,W\)"),
        ("digits", "validation", 16, 1, None, "split must be 'train' or 'test'"),
        ("digits", "test", 12, 1, None, "multiple of 8 pixels, the model expects 12x12"),
        ("digits", "test", 0, 1, None, "the model expects 0x0"),
        ("digits", "test", 16, 3, None, "have 1 channel, the model expects 3"),
        ("digits", "test", 16, 1, 0, "samples must be at least 1, not 0"),
        ("digits", "test", 16, 1, -2, "samples must be at least 1, not -2"),
        ("digits", "test", 16, 1, 361, "361 samples requested, but the test split has 360"),
    ],
)
def test_a_request_that_cannot_be_met_is_told_in_one_line(
    spec: str, split: str, image_size: int, in_channels: int, samples: int | None, complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as raised:
        load_images(spec, split, image_size, in_channels, samples)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": np.zeros((5, 4, 4))}, "no array 'labels'"),
        ({"labels": np.arange(5), "pictures": np.zeros(1)}, r"no array 'images' \(found: labels, pictures\)"),
        (five(images=np.zeros((5, 8, 8))), "1x8x8 .* expects 1x4x4"),
        (five(images=np.zeros((5, 2, 4, 4))), "2x4x4 .* expects 1x4x4"),
        (five(images=np.zeros((5, 16))), "not of shape 5x16"),
        (five(images=np.full((5, 4, 4), "a")), "images must be numbers, not <U1"),
        (five(images=np.full((5, 4, 4), np.nan)), "5 of 5 images hold NaN or infinite"),
        (five(images=np.full((5, 4, 4), -np.inf)), "NaN or infinite"),
        (five(images=np.full((5, 4, 4), 1e300)), "NaN or infinite"),
        (five(images=np.full((5, 4, 4), object(), dtype=object)), "not a readable .npz"),
        (five(images=np.zeros((0, 4, 4)), labels=np.zeros(0, int)), "no image in the test split"),
        (five(is_test=np.zeros(5, bool)), "no image in the test split"),
        (five(is_test=np.zeros(4, bool)), "is_test must hold 5 booleans"),
        (five(is_test=np.zeros(5)), "is_test must hold 5 booleans"),
        (five(labels=np.arange(4)), "5 images but 4 labels"),
        (five(labels=np.eye(5, dtype=int)), r"labels must be whole numbers of shape \(N,\)"),
        (five(labels=np.arange(5.0)), "labels must be whole numbers"),
        (five(labels=np.arange(5) - 1), "label -1 is negative"),
    ],
)
def test_an_npz_that_does_not_fit_names_itself_and_the_reason(
    tmp_path: Path, arrays: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as raised:
        load_images(write_npz(tmp_path / "mine.npz", **arrays), "test", 4, 1)
    assert "mine.npz" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "npy", "folder"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "mine.npz"
    write_npz(path, **five())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"hello" if damage == "text" else b"")
    with pytest.raises(DataError, match=r"mine\.npz"):
        load_images(f"npz:{path}", "test", 4, 1)


def test_labels_beyond_the_classes_of_the_model_are_refused() -> None:
    images = ImageSet("mine", "test", np.zeros((2, 1, 4, 4), np.float32), np.array([0, 9]), "")
    check_labels(images, 10)
    with pytest.raises(DataError, match="labels run from 0 to 9, but the model has 9 classes"):
        check_labels(images, 9)
