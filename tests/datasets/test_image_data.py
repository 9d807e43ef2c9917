"""Images on the user's disk: CIFAR's official batches, class folders, packed JPEG files; and how a split is divided."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from snn_energy.core.errors import DataError
from snn_energy.datasets import cifar
from snn_energy.datasets.image_files import load_folder
from snn_energy.datasets.images import ImageSet, Subset, batches, check_labels, held_out
from snn_energy.datasets.names import DATASETS, parse_data
from snn_energy.datasets.open import has_own_test_split, load_images

Pixels = NDArray[np.uint8]
REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.npz"
PER_FILE = 4  # images in every batch file of the small CIFAR
CIFAR100 = "cifar-100-python"


def refusal(spec: str, split: str = "test", image_size: int = 32, in_channels: int = 3) -> str:
    """What load_images says against it, in one line; the first image is decoded too."""
    with pytest.raises(DataError) as raised:
        load_images(spec, split, image_size, in_channels).batch(np.array([0]))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    return str(raised.value)


@contextlib.contextmanager
def plain_user() -> Iterator[None]:
    """Root may read everything; nobody may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# --- CIFAR: small batches as Python 2 pickled them, and as Python 3 does


class Pickler(pickle._Pickler):
    """With the names that NumPy had before 2.0 and, at protocol 2, with the strings of Python 2."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        if self.proto >= 4:
            self.save(module)
            self.save(obj.__name__)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(f"c{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    def save_text(self, obj: str | bytes) -> None:
        raw = obj.encode("latin1") if isinstance(obj, str) else obj
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, FunctionType: save_global, type: save_global}  # noqa: RUF012


class Python2Pickler(Pickler):
    """Strings as in Python 2, where text and bytes were one."""

    dispatch = {**Pickler.dispatch, str: Pickler.save_text, bytes: Pickler.save_text}  # noqa: RUF012


def pickled(batch: object, pickler: type[pickle._Pickler] = Python2Pickler, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    pickler(stream, protocol).dump(batch)
    return stream.getvalue()


def some_pixels(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)


def batch_of(seed: int, key: str = "labels", classes: int = 10, **changes: object) -> dict[str, object]:
    labels = [(seed + 3 * i) % classes for i in range(PER_FILE)]
    names = [f"image_{seed}_{i}.png" for i in range(PER_FILE)]
    return {"batch_label": f"batch {seed}", key: labels, "data": some_pixels(seed), "filenames": names} | changes


def parsed(batch: object, pickler: type[pickle._Pickler] = Python2Pickler, protocol: int = 2) -> tuple[Any, Any]:
    return cifar.parse_batch(pickled(batch, pickler, protocol), "some_batch", "labels", 10, PER_FILE)


def parse_refusal(content: bytes) -> str:
    with pytest.raises(DataError, match=r"^some_batch: ") as raised:
        cifar.parse_batch(content, "some_batch", "labels", 10, PER_FILE)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both distributions, four images a file; their MD5s count as the official ones."""
    small = {}
    for name, known in cifar.DISTRIBUTIONS.items():
        folder, files = tmp_path / known.folder, {}
        folder.mkdir()
        for split, named in known.files.items():
            files[split] = {}
            for file in named:
                seed = len(list(folder.iterdir()))
                content = pickled(batch_of(seed, known.labels, known.classes, coarse_labels=[0] * PER_FILE))
                (folder / file).write_bytes(content)
                files[split][file] = (PER_FILE, hashlib.md5(content).hexdigest())
        small[name] = cifar.Distribution(known.title, known.folder, known.archive, known.labels, known.classes, files)
    monkeypatch.setattr(cifar, "DISTRIBUTIONS", small)
    return tmp_path


def archived(root: Path, folder: str, prefix: str = "") -> Path:
    path = root / "some.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root / folder, arcname=f"{prefix}{folder}")
    return path


def test_the_fixture_starts_as_the_official_first_batch_does() -> None:
    """So that what is tested is what Python 2 wrote in 2009."""
    start = pickled({"batch_label": "training batch 1 of 5", "labels": [6, 9, 9]})
    for memo in range(6):  # the memo's numbers differ by one between Python's versions
        start = start.replace(b"q" + bytes([memo]), b"")
    assert start == b"\x80\x02}(U\x0bbatch_labelU\x15training batch 1 of 5U\x06labels](K\x06K\tK\teu."
    array = pickled(np.zeros((PER_FILE, 3072), np.uint8))
    assert array.startswith(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n")
    assert b"cnumpy\nndarray\n" in array


def test_five_batches_in_order_are_the_training_images_of_cifar10(official: Path) -> None:
    loaded = load_images(f"cifar10:{official}", "train", 32, 3)
    expected = np.concatenate([some_pixels(seed) for seed in range(5)]).reshape(20, 3, 32, 32)
    assert np.array_equal(loaded.batch(np.arange(20)), expected.astype(np.float32) / np.float32(255))
    assert loaded.labels.tolist() == [(seed + 3 * i) % 10 for seed in range(5) for i in range(PER_FILE)]
    assert (loaded.name, loaded.split) == ("cifar10", "train")
    assert loaded.note == "train split, as officially distributed, pixel / 255"


def test_the_sixth_batch_is_the_test_split_of_cifar10(official: Path) -> None:
    loaded = load_images(f"cifar10:{official}", "test", 32, 3)
    assert loaded.labels.tolist() == batch_of(5)["labels"]
    assert loaded.batch(np.array([3]))[0].max() <= 1


def test_the_bytes_of_an_image_are_its_red_rows_then_green_then_blue(official: Path) -> None:
    flat = some_pixels(5)[2]
    red, green, blue = np.round(load_images(f"cifar10:{official}", "test", 32, 3).batch(np.array([2]))[0] * 255)
    assert (red[0, 1], red[1, 0], green[0, 0], blue[31, 31]) == (flat[1], flat[32], flat[1024], flat[3071])


def test_cifar100_has_its_fine_labels(official: Path) -> None:
    assert load_images(f"cifar100:{official}", "train", 32, 3).labels.tolist() == [0, 3, 6, 9]
    assert load_images(f"cifar100:{official}", "test", 32, 3).labels.tolist() == [1, 4, 7, 10]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_folder_the_folder_around_it_and_the_archive_are_the_same(official: Path, name: str, split: str) -> None:
    folder = cifar.DISTRIBUTIONS[name].folder
    paths = [official, official / folder, archived(official, folder)]
    around, inside, packed = (load_images(f"{name}:{path}", split, 32, 3) for path in paths)  # type: ignore[arg-type]
    whole = np.arange(len(around.labels))
    assert np.array_equal(around.batch(whole), inside.batch(whole))
    assert np.array_equal(around.batch(whole), packed.batch(whole))
    assert around.labels.tolist() == inside.labels.tolist() == packed.labels.tolist()
    assert around.note == packed.note


def test_an_archive_packed_again_with_a_dot_in_front_is_read(official: Path) -> None:
    path = archived(official, CIFAR100, "./")
    assert load_images(f"cifar100:{path}", "test", 32, 3).labels.tolist() == [1, 4, 7, 10]


def test_an_archive_is_known_by_its_bytes_and_not_by_its_name(official: Path) -> None:
    path = archived(official, CIFAR100).rename(official / "download (1)")
    assert len(load_images(f"cifar100:{path}", "test", 32, 3).labels) == PER_FILE


def test_a_file_that_is_not_the_official_one_is_used_after_a_warning(official: Path) -> None:
    (official / CIFAR100 / "test").write_bytes(pickled(batch_of(7, "fine_labels", 100)))
    with pytest.warns(UserWarning, match=r"test: not as officially distributed for CIFAR-100 \(the MD5 differs\)"):
        loaded = load_images(f"cifar100:{official}", "test", 32, 3)
    assert loaded.labels.tolist() == [7, 10, 13, 16]
    assert loaded.note == "test split, files that differ from the official ones, pixel / 255"


def test_the_warning_names_only_the_files_that_differ(official: Path) -> None:
    (official / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickled(batch_of(7)))
    with pytest.warns(UserWarning, match=r": data_batch_3: not as officially"):
        load_images(f"cifar10:{official}", "train", 32, 3)


def test_the_official_md5s_are_those_that_torchvision_checks() -> None:
    """As in torchvision/datasets/cifar.py."""
    md5s = {f: md5 for d in cifar.DISTRIBUTIONS.values() for s in d.files.values() for f, (_, md5) in s.items()}
    assert md5s == {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }
    for known in cifar.DISTRIBUTIONS.values():
        sizes = {split: sum(count for count, _ in files.values()) for split, files in known.files.items()}
        assert sizes == {"train": 50_000, "test": 10_000}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("pickler", [Pickler, pickle._Pickler], ids=["numpy 1", "this numpy"])
def test_a_batch_pickled_by_python_3_is_the_same_batch(pickler: type[pickle._Pickler], protocol: int) -> None:
    pixels, labels = parsed(batch_of(3), pickler, protocol)
    assert np.array_equal(pixels.reshape(PER_FILE, 3072), some_pixels(3))
    assert labels.tolist() == batch_of(3)["labels"]


def test_pixels_and_labels_come_as_bytes_and_64_bit() -> None:
    pixels, labels = parsed(batch_of(3))
    assert (pixels.dtype, pixels.shape, labels.dtype) == (np.uint8, (PER_FILE, 3, 32, 32), np.int64)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_a_pickle_that_would_create_a_file_is_refused_and_creates_none(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was_here"
    content = pickle.dumps(batch_of(0, extra=Touch(marker)), protocol)
    pickle.loads(content)
    assert marker.exists(), "the pickle of this test is not live"
    marker.unlink()
    message = parse_refusal(content)
    assert f"contains '{os.system.__module__}.system', which is not allowed in a batch; it was not executed" in message
    assert not marker.exists()


def test_a_malicious_batch_in_an_archive_is_named_with_the_archive(official: Path) -> None:
    marker = official / "was_here"
    (official / CIFAR100 / "test").write_bytes(pickle.dumps(Touch(marker), 2))
    path = archived(official, CIFAR100)
    assert refusal(f"cifar100:{path}").startswith(f"{path}: {CIFAR100}/test: contains ")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "builtins.getattr", "numpy.load", "numpy.core.multiarray.scalar", "numpy.ndarray.tofile"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_name_that_is_no_part_of_an_array_is_refused(name: str, protocol: int) -> None:
    module, _, member = name.rpartition(".")
    content = f"\x80\x02c{module}\n{member}\n(tR.".encode("latin1")
    if protocol == 4:
        content = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, member)) + b"\x93)R."
    assert f"contains '{name}', which is not allowed in a batch" in parse_refusal(content)


def test_a_dotted_name_does_not_lead_past_an_allowed_one() -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__base__\x93."
    assert "contains 'numpy.ndarray.__base__'" in parse_refusal(content)


def test_a_name_with_control_characters_does_not_reach_the_terminal() -> None:
    said = parse_refusal(b"\x80\x02c\x1b[31mred\nbell\x07\n.")
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_name_as_long_as_a_book_makes_a_short_message() -> None:
    assert len(parse_refusal(b"c" + b"x" * 100_000 + b"\ny\n.")) < 300


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x02",
        b"\x80\x7f.",
        b".",
        b"\xff" * 50,
        b"P1\n.",
        b"\x82\x01.",
        b"\x80\x02]" + b"\x85" * 10_000 + b".",
        b"(" * 10_000,
        b"\x80\x02}]]s.",
        b"\x80\x02cnumpy\nndarray\n(I0\nI0\ntb.",
        b"\x80\x02cnumpy\ndtype\n(tR.",
        b"\x80\x02c_codecs\nencode\n(U\x01aU\x04zliltR.",
        b"\x80\x05\x97.",
        b"\x80\x05\x96" + b"\xff" * 8,
        b"\x80\x02T\xff\xff\xff\x7f",
        b"\x80\x02\x8b\xff\xff\xff\x7f",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_garbage_is_refused_as_such(content: bytes) -> None:
    assert "truncated, damaged or no pickle" in parse_refusal(content) or "no entry 'data'" in parse_refusal(content)


@pytest.mark.parametrize("kept", [0, 1, 100, 5_000, -1])
def test_a_truncated_batch_is_named(official: Path, kept: int) -> None:
    path = official / CIFAR100 / "test"
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(f"cifar100:{official}").startswith(f"{path}: truncated, damaged or no pickle")


def test_a_damaged_memo_index_fills_no_memory() -> None:
    """Python's unpickler in C makes room for all indices below; one flipped bit can ask for many gigabytes."""
    content = pickled(batch_of(1)).replace(b"\x80\x02}", b"\x80\x02}r\x00\x00\x00\x01", 1)
    tracemalloc.start()
    try:
        pixels, _ = cifar.parse_batch(content, "some_batch", "labels", 10, PER_FILE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(pixels.reshape(PER_FILE, 3072), some_pixels(1))
    assert peak < 10e6


@pytest.mark.parametrize(
    ("start", "end"),
    [(b"})", b"K\x01s."), (b"}()", b"K\x01u."), (b"()", b"K\x01d."), (b"()", b"\x91."), (b"\x8f()", b"\x90.")],
    ids=["SETITEM", "SETITEMS", "DICT", "FROZENSET", "ADDITEMS"],
)
def test_a_key_that_is_nested_a_million_times_does_not_crash_python(start: bytes, end: bytes) -> None:
    content = b"\x80\x04" + start + b"\x85" * 1_000_000 + end
    assert "truncated, damaged or no pickle" in parse_refusal(content)


@pytest.mark.parametrize("opcode", [b"T", b"X", b"B", b"\x8b", b"\x96", b"\x8e", b"\x8d"])
def test_a_damaged_length_fills_no_memory(opcode: bytes) -> None:
    tracemalloc.start()
    try:
        parse_refusal(b"\x80\x05" + opcode + b"\0\0\0\x7f" + b"\0" * 4 + b".")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6


def test_a_list_that_doubles_itself_sixty_times_is_refused_at_once() -> None:
    doubled: list[object] = [1, 1]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert "labels must be a list of 4 whole numbers, not a list of 2" in parse_refusal(
        pickled(batch_of(0, labels=doubled))
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": [0, 1, 2]}, "labels must be a list of 4 whole numbers, not a list of 3"),
        ({"labels": np.arange(4)}, "labels must be a list of 4 whole numbers, not an array"),
        ({"labels": None}, "labels must be a list of 4 whole numbers, not of type NoneType"),
        ({"labels": [0, 1, "2", "3"]}, "2 of 4 are not, the first is of type str"),
        ({"labels": [0, 1, 2, True]}, "1 of 4 are not, the first is of type bool"),
        ({"labels": [0, 1, 2, 3.0]}, "1 of 4 are not, the first is of type float"),
        ({"labels": [0, 1, 2, 1 << 20_000]}, "1 of 4 are not, the first is of type int"),
        ({"labels": [0, 10, 2, -1]}, "labels: 2 of 4 are out of 0..9, the first is 10 at image 1"),
        ({"data": some_pixels(0)[:3]}, r"data are of shape (3, 3072), not 4 images of 3072 bytes"),
        ({"data": some_pixels(0).reshape(4, 3, 32, 32)}, "data are of shape (4, 3, 32, 32)"),
        ({"data": some_pixels(0)[:, :3071].copy()}, "data are of shape (4, 3071)"),
        ({"data": some_pixels(0).astype(np.float32)}, "data are of type 'f4', not bytes (u1)"),
        ({"data": some_pixels(0).astype(np.int8)}, "data are of type 'i1', not bytes (u1)"),
        ({"data": np.asfortranarray(some_pixels(0))}, "data are not an array in C order"),
        ({"data": [[0] * 3072] * 4}, "data are not an array, but of type list"),
        ({"data": "text"}, "data are not an array, but of type str"),
        ({"data": np.dtype("u1")}, "data are not an array, but of type _Dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_batch_with_something_else_in_it_says_what(changes: dict[str, object], complaint: str, protocol: int) -> None:
    pickler = Python2Pickler if protocol == 2 else pickle._Pickler
    assert complaint in parse_refusal(pickled(batch_of(0, **changes), pickler, protocol))


@pytest.mark.parametrize("key", ["data", "labels"])
def test_a_batch_without_an_entry_says_which(key: str) -> None:
    batch = batch_of(0)
    del batch[key]
    assert f"no entry '{key}', so it is no batch" in parse_refusal(pickled(batch))


def test_the_batch_of_the_other_cifar_lacks_an_entry(official: Path) -> None:
    path = official / CIFAR100 / "test"
    path.write_bytes(pickled(batch_of(0)))
    assert refusal(f"cifar100:{official}").startswith(f"{path}: no entry 'fine_labels'")


def test_a_pickle_of_no_dictionary_is_no_batch() -> None:
    assert "no entry 'data', so it is no batch" in parse_refusal(pickled(["data", "labels"]))


@pytest.mark.parametrize(
    "state",
    ["(t", "(I1\nt", "(I1\n(I4\nI3072\nt(I1\nI01\nS'b'\nt", "(I1\nNNNNt", "N"],
)
def test_an_array_in_an_odd_state_is_refused(state: str) -> None:
    content = f"}}S'labels'\n(lS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR{state}bss."
    assert "fetch the file again" in parse_refusal(content.encode())


def test_an_array_of_fewer_bytes_than_its_shape_says_is_refused() -> None:
    content = pickled({"labels": [0] * 4, "data": some_pixels(0)}).replace(b"K\x04M\x00\x0c\x86", b"K\x05M\x00\x0c\x86")
    assert "cannot reshape" in parse_refusal(content)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4), st.sampled_from([2, 4, 5])
)
def test_a_batch_with_wrong_bytes_is_a_batch_or_a_data_error(damage: list[tuple[int, int]], protocol: int) -> None:
    tail = bytearray(pickled(batch_of(0), Python2Pickler if protocol == 2 else pickle._Pickler, protocol))
    for place, value in damage:
        tail[place if place < 300 else -(place - 299)] = value
    with contextlib.suppress(DataError):
        pixels, labels = cifar.parse_batch(bytes(tail), "some_batch", "labels", 10, PER_FILE)
        assert pixels.shape == (PER_FILE, 3, 32, 32)
        assert labels.shape == (PER_FILE,)
        assert set(labels.tolist()) <= set(range(10))


@pytest.mark.parametrize("kept", [0, 20, 3_000, -100])
def test_a_truncated_archive_is_named(official: Path, kept: int) -> None:
    path = archived(official, CIFAR100)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(f"cifar100:{path}", "train").startswith(f"{path}: ")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_archive_with_a_flipped_byte_is_refused_by_its_checksum(official: Path, split: str) -> None:
    """Random pixels are stored as they are, so the batch itself still reads well."""
    path = archived(official, CIFAR100)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    path.write_bytes(content)
    assert refusal(f"cifar100:{path}", split).startswith(f"{path}: cannot be read (CRC check failed")


def test_a_file_that_is_no_archive_says_what_it_must_be(official: Path) -> None:
    said = refusal(f"cifar10:{official / 'cifar-10-batches-py' / 'test_batch'}")
    assert "it must be cifar-10-python.tar.gz or the folder cifar-10-batches-py" in said


def test_the_archive_of_the_other_cifar_is_told_apart(official: Path) -> None:
    path = archived(official, CIFAR100)
    assert f"{path}: no cifar-10-batches-py/test_batch in it; fetch cifar-10-python.tar.gz" in refusal(
        f"cifar10:{path}"
    )


def test_a_member_that_is_a_link_to_itself_is_missing(official: Path) -> None:
    path = official / "loop.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(f"{CIFAR100}/test")
        member.type, member.linkname = tarfile.SYMTYPE, "test"
        archive.addfile(member)
    assert f"{path}: no {CIFAR100}/test in it" in refusal(f"cifar100:{path}")


def test_missing_batches_are_all_named(official: Path) -> None:
    for number in (2, 4):
        (official / "cifar-10-batches-py" / f"data_batch_{number}").unlink()
    assert "no cifar-10-batches-py/data_batch_2, data_batch_4 in it" in refusal(f"cifar10:{official}", "train")


def test_a_batch_that_links_in_a_circle_is_missing(official: Path) -> None:
    path = official / CIFAR100 / "test"
    path.unlink()
    path.symlink_to(path)
    assert f"no {CIFAR100}/test in it" in refusal(f"cifar100:{official}")


@pytest.mark.parametrize(
    ("size", "channels", "wanted"), [(16, 3, "3x16x16"), (32, 1, "1x32x32"), (224, 3, "3x224x224")]
)
def test_cifar_does_not_fit_a_model_of_another_shape(official: Path, size: int, channels: int, wanted: str) -> None:
    said = refusal(f"cifar10:{official}", image_size=size, in_channels=channels)
    assert f"the images are 3x32x32 (channels x height x width), the model expects {wanted}" in said


# --- class folders


def saved(path: Path, image: Image.Image | Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, options.pop("format", None), **options)  # type: ignore[arg-type]
    return path


def plain(value: int, height: int = 8, width: int = 8) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def ramp(height: int, width: int) -> Pixels:
    """Red rises from left to right, green from top to bottom, by one a pixel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x], axis=2).astype(np.uint8)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; train: cats of value 10 and 30, a dog of 20; val: a cat of 40, a dog of 50."""
    root = tmp_path / "pets"
    for place, value in (("train/cat/a", 10), ("train/cat/b", 30), ("train/dog/a", 20), ("val/cat/a", 40)):
        saved(root / f"{place}.png", plain(value))
    saved(root / "val/dog/a.png", plain(50))
    return root


def one_image(root: Path, name: str, image: Image.Image | Pixels, **options: object) -> Path:
    """Class folders with a single test image."""
    saved(root / "train" / "class" / "a.png", plain(0))
    saved(root / "val" / "class" / name, image, **options)
    return root


def looked_at(root: Path, image_size: int = 28, in_channels: int = 3, crop: list[float] | None = None) -> NDArray[Any]:
    """The first test image, 0..255."""
    images = load_images(f"folder:{root}", "test", image_size, in_channels)
    return images.batch(np.array([0]), None if crop is None else np.array([crop]))[0] * 255


def test_classes_are_numbered_by_name_and_dealt_out_in_turn(pets: Path) -> None:
    loaded = load_folder(pets, "train", 8, 3)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.labels.tolist() == [0, 1, 0]
    assert np.round(loaded.batch(np.arange(3)).mean((1, 2, 3)) * 255).tolist() == [10, 20, 30]
    assert (loaded.name, loaded.split) == ("folder:pets", "train")


def test_the_test_split_is_in_val(pets: Path) -> None:
    loaded = load_images(f"folder:{pets}", "test", 8, 3)
    assert np.round(loaded.batch(np.arange(2)).mean((1, 2, 3)) * 255).tolist() == [40, 50]
    assert loaded.note.startswith("val split, 2 class folders")


def test_the_test_split_is_in_test_where_there_is_no_val(pets: Path) -> None:
    (pets / "val").rename(pets / "test")
    assert load_images(f"folder:{pets}", "test", 8, 3).note.startswith("test split")


def test_val_comes_before_test_whose_labels_imagenet_keeps_to_itself(pets: Path) -> None:
    (pets / "test").mkdir()
    assert load_images(f"folder:{pets}", "test", 8, 3).note.startswith("val split")


def test_images_come_in_the_order_that_is_asked_for(pets: Path) -> None:
    for number in range(40):
        saved(pets / "train" / "dog" / f"n{number:02}.png", plain(100 + number))
    loaded = load_images(f"folder:{pets}", "train", 8, 3)
    order = np.random.default_rng(0).permutation(len(loaded.labels))
    there = loaded.batch(np.arange(len(order)))
    assert np.array_equal(loaded.batch(order), there[order])
    assert np.array_equal(load_images(f"folder:{pets}", "train", 8, 3).batch(order), there[order])


def test_the_first_samples_of_a_folder_hold_every_class(pets: Path) -> None:
    some = load_images(f"folder:{pets}", "train", 8, 3, samples=2)
    assert some.labels.tolist() == [0, 1]
    assert some.note.startswith("first 2 of 3; train split")
    assert len(some.batch(np.arange(2))) == 2


def test_names_may_be_in_any_script_and_are_ordered_by_code_point(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for value, name in enumerate(["日本", "Zebra", "ä", "a b"]):
            saved(tmp_path / "größe" / split / name / f"Ω {value}.png", plain(value * 40))
    loaded = load_folder(tmp_path / "größe", "test", 8, 3)
    assert loaded.class_names == ("Zebra", "a b", "ä", "日本")
    assert np.round(loaded.batch(np.arange(4)).mean((1, 2, 3)) * 255).tolist() == [40, 120, 80, 0]


def test_the_middle_of_an_image_is_cut_out_exactly_where_no_resizing_is_needed(tmp_path: Path) -> None:
    """For a model of 28 the shorter side becomes 28 * 256 / 224 = 32: an image of 32 rows keeps its pixels."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    found = looked_at(one_image(tmp_path, "a.png", image))
    assert np.array_equal(np.round(found), image[2:30, 10:38].transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(128, 240), (240, 128), (128, 128)])
def test_the_middle_of_a_larger_image_is_shrunk(tmp_path: Path, height: int, width: int) -> None:
    """The shorter side of 128 becomes 32: a factor of 4. 28 pixels of 4 are cut out, the middle 112 of each side.

    Pixel j spans the columns left + 4j .. left + 4j + 4, left = (width - 112) / 2, whose mean on the ramp is
    left + 4j + 1.5.
    """
    red, green, blue = looked_at(one_image(tmp_path, "a.png", ramp(height, width)))
    assert np.abs(red - ((width - 112) / 2 + 4 * np.arange(28) + 1.5)).max() < 1
    assert np.abs(green - ((height - 112) / 2 + 4 * np.arange(28) + 1.5)[:, None]).max() < 1
    assert not blue.any()


def test_a_smaller_image_grows(tmp_path: Path) -> None:
    """16 becomes 32: columns 1..15 are cut out, half a column a pixel; pixel j's centre lies at 1 + (j + 0.5) / 2."""
    red = looked_at(one_image(tmp_path, "a.png", ramp(16, 16) * 10))[0]
    assert np.abs(red - 10 * (1 + (np.arange(28) + 0.5) / 2 - 0.5))[:, 4:-4].max() < 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_an_image_of_any_shape_is_fitted(tmp_path: Path, height: int, width: int) -> None:
    found = looked_at(one_image(tmp_path, "a.png", plain(77, height, width)))
    assert (found.shape, set(np.round(found).ravel())) == ((3, 28, 28), {77})


def test_a_crop_is_the_share_of_the_image_that_is_asked_for(tmp_path: Path) -> None:
    """Left, top, right, bottom = 1/4, 1/8, 3/4, 5/8 of 112 x 224: columns 56..168, rows 14..70; 4 columns a pixel."""
    root = one_image(tmp_path, "a.png", ramp(112, 224))
    red, green, _ = looked_at(root, crop=[0.25, 0.125, 0.75, 0.625])
    assert np.abs(red - (56 + 4 * np.arange(28) + 1.5)).max() < 1.6  # the edges see columns outside, or none
    assert np.abs(green - (14 + 2 * np.arange(28) + 0.5)[:, None]).max() < 1.6


def test_the_whole_image_is_a_crop_without_margin(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    found = looked_at(one_image(tmp_path, "a.png", image), crop=[0, 0, 1, 1])
    assert np.array_equal(np.round(found), image.transpose(2, 0, 1))


def test_every_image_has_its_own_crop(tmp_path: Path) -> None:
    halves = np.concatenate([plain(0, 16, 8), plain(200, 16, 8)], axis=1)
    images = load_images(f"folder:{one_image(tmp_path, 'a.png', halves)}", "test", 8, 3)
    left, right = images.batch(np.array([0, 0]), np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])) * 255
    assert left.mean() < 1
    assert right.mean() == pytest.approx(200)


def test_a_png_that_calls_itself_jpeg_is_read_for_imagenet_has_one(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = looked_at(one_image(tmp_path, "n02105855_2933.JPEG", image, format="PNG"))
    assert np.array_equal(np.round(found), image[2:30, 2:30].transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.bmp", "a.webp", "a.ppm", "a.PNG"])
def test_every_known_suffix_is_read(tmp_path: Path, name: str) -> None:
    assert np.abs(looked_at(one_image(tmp_path, name, plain(90))) - 90).max() <= 2


def test_a_cmyk_jpeg_has_the_colours_that_one_sees(tmp_path: Path) -> None:
    cyan_and_yellow = Image.new("CMYK", (16, 16), (255, 0, 255, 0))
    red, green, blue = looked_at(one_image(tmp_path, "a.jpg", cyan_and_yellow)).mean((1, 2))
    assert red < 5
    assert green > 250
    assert blue < 5


def test_a_grey_image_has_three_equal_channels(tmp_path: Path) -> None:
    red, green, blue = looked_at(one_image(tmp_path, "a.png", ramp(32, 32)[:, :, 0]))
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)
    assert np.round(red[0]).tolist() == list(range(2, 30))


def test_a_grey_model_sees_the_luminance_of_a_colour_image(tmp_path: Path) -> None:
    """ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    colour = np.full((8, 8, 3), [200, 100, 50], np.uint8)
    found = looked_at(one_image(tmp_path, "a.png", colour), in_channels=1)
    assert found.shape == (1, 28, 28)
    assert found.mean() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=0.6)


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert np.round(looked_at(one_image(tmp_path, "a.png", image)).mean((1, 2))).tolist() == [10, 20, 30]


def test_a_palette_with_transparent_colours_gives_them_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    root = one_image(tmp_path, "a.png", image, transparency=bytes([255, 128]))
    assert np.round(looked_at(root).mean((1, 2))).tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"), [("RGBA", (10, 20, 30, 0), [10, 20, 30]), ("LA", (50, 9), [50] * 3)]
)
def test_transparency_is_dropped(tmp_path: Path, mode: str, colour: tuple[int, ...], seen: list[int]) -> None:
    root = one_image(tmp_path, "a.png", Image.new(mode, (8, 8), colour))
    assert np.round(looked_at(root).mean((1, 2))).tolist() == seen


@pytest.mark.parametrize("in_channels", [1, 3])
def test_sixteen_bits_of_grey_keep_their_upper_eight(tmp_path: Path, in_channels: int) -> None:
    deep = np.full((8, 8), 0x5AFF, np.uint16)
    found = looked_at(one_image(tmp_path, "a.png", deep), in_channels=in_channels)
    assert set(np.round(found).ravel()) == {0x5A}


def test_thirty_two_bits_of_grey_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    root = one_image(tmp_path, "a.ppm", np.full((8, 8), 3000, np.int32))
    assert "a.ppm: pixels of mode I; save it with 8 bits a channel" in refusal(f"folder:{root}")


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    image = np.zeros((32, 32), bool)
    image[:, 16:] = True
    found = looked_at(one_image(tmp_path, "a.png", image))
    assert set(np.round(found).ravel()) == {0, 255}


def test_the_orientation_that_exif_tells_is_not_looked_at(tmp_path: Path) -> None:
    """As is the custom for ImageNet, whose published accuracies are of the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = looked_at(one_image(tmp_path / "a", "a.png", ramp(32, 48), exif=exif))
    assert np.array_equal(turned, looked_at(one_image(tmp_path / "b", "a.png", ramp(32, 48))))


def test_the_first_picture_of_an_animation_is_taken(tmp_path: Path) -> None:
    first, second = (Image.fromarray(plain(value)) for value in (60, 200))
    root = one_image(tmp_path, "a.png", first, save_all=True, append_images=[second])
    assert set(np.round(looked_at(root)).ravel()) == {60}


def test_litter_of_systems_is_passed_over_in_all_folders(pets: Path) -> None:
    for place in ("train/cat/.DS_Store", "train/cat/Thumbs.db", "train/.DS_Store", "val/desktop.ini", ".hidden"):
        (pets / place).write_bytes(b"litter")
    saved(pets / "train" / ".ipynb_checkpoints" / "a.png", plain(0))
    saved(pets / "train" / "cat" / "._a.png", plain(0))
    loaded = load_folder(pets, "train", 8, 3)
    assert (len(loaded), loaded.class_names) == (3, ("cat", "dog"))


def test_a_text_file_among_the_images_is_named(pets: Path) -> None:
    (pets / "val" / "dog" / "notes.txt").write_text("woof")
    said = refusal(f"folder:{pets}")
    assert f"{pets / 'val' / 'dog'}: 1 entries are not images: notes.txt; remove them" in said


def test_a_folder_among_the_images_is_named(pets: Path) -> None:
    (pets / "val" / "dog" / "puppies").mkdir()
    assert "1 entries are not images: puppies" in refusal(f"folder:{pets}")


def test_a_folder_that_calls_itself_an_image_is_named(pets: Path) -> None:
    (pets / "val" / "dog" / "puppies.jpg").mkdir()
    assert "1 entries are not images: puppies.jpg" in refusal(f"folder:{pets}")


def test_an_image_that_links_in_a_circle_is_named(pets: Path) -> None:
    path = pets / "val" / "dog" / "loop.jpg"
    path.symlink_to(path)
    assert "1 entries are not images: loop.jpg" in refusal(f"folder:{pets}")


def test_an_image_that_links_nowhere_is_named(pets: Path) -> None:
    (pets / "val" / "dog" / "gone.jpg").symlink_to(pets / "gone.jpg")
    assert "1 entries are not images: gone.jpg" in refusal(f"folder:{pets}")


def test_a_pipe_that_calls_itself_an_image_is_named_and_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "val" / "dog" / "pipe.jpg")
    assert "1 entries are not images: pipe.jpg" in refusal(f"folder:{pets}")


def test_links_to_images_and_classes_are_followed(pets: Path) -> None:
    (pets / "val" / "dog" / "b.png").symlink_to(pets / "val" / "cat" / "a.png")
    (pets / "train" / "dog").rename(pets / "elsewhere")
    (pets / "train" / "dog").symlink_to(pets / "elsewhere")
    loaded = load_images(f"folder:{pets}", "test", 8, 3)
    assert np.round(loaded.batch(np.arange(3)).mean((1, 2, 3)) * 255).tolist() == [40, 50, 40]


def test_a_class_that_links_in_a_circle_is_named(pets: Path) -> None:
    path = pets / "val" / "eel"
    path.symlink_to(path)
    assert f"{pets / 'val'}: 1 entries next to the class folders: eel" in refusal(f"folder:{pets}")


def test_images_that_are_sorted_into_no_class_are_not_dropped(pets: Path) -> None:
    """ImageNet's validation images come so."""
    for number in range(5):
        saved(pets / "val" / f"ILSVRC2012_val_{number}.JPEG", plain(0))
    said = refusal(f"folder:{pets}")
    assert "val: 5 entries next to the class folders: ILSVRC2012_val_0.JPEG, " in said
    assert "and 2 more; sort images into class folders" in said


def test_a_class_that_val_lacks_is_named(pets: Path) -> None:
    saved(pets / "train" / "ape" / "a.png", plain(0))
    assert f"{pets}: class folders differ: ape only in train, none only in val" in refusal(f"folder:{pets}")


def test_classes_that_differ_both_ways_are_named_and_counted(pets: Path) -> None:
    for name in "vwxyz":
        saved(pets / "val" / name / "a.png", plain(0))
    (pets / "val" / "cat").rename(pets / "val" / "Cat")
    assert "cat only in train, Cat, v, w and 3 more only in val" in refusal(f"folder:{pets}", "train")


def test_a_class_without_images_is_named(pets: Path) -> None:
    for split in ("train", "val"):
        (pets / split / "emu").mkdir()
    assert f"{pets / 'val'}: no image in class emu" in refusal(f"folder:{pets}")


def test_a_train_folder_without_classes_shows_the_layout(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    assert "train: no class folders; the layout must be PATH/train/CLASS/" in refusal(f"folder:{tmp_path}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_missing_shows_the_layout(pets: Path, split: str) -> None:
    (pets / split).rename(pets / "other")
    assert f"{pets / split}: no such folder; the layout must be PATH/train/CLASS/" in refusal(f"folder:{pets}")


@pytest.mark.parametrize("kept", [0, 1, 20, 300, 600, -2])
def test_a_truncated_jpeg_is_named_and_counted(tmp_path: Path, kept: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = one_image(tmp_path, "a.jpg", noise) / "val" / "class" / "a.jpg"
    path.write_bytes(path.read_bytes()[:kept])
    said = refusal(f"folder:{tmp_path}")
    assert f"folder:{tmp_path.name}: 1 of 1 images do not decode ({path}: " in said
    assert "fix or replace them" in said


def test_broken_images_are_counted_among_good_ones_and_three_are_named(pets: Path) -> None:
    for number in range(5):
        (pets / "train" / "dog" / f"bad{number}.jpg").write_bytes(b"no image")
    loaded = load_images(f"folder:{pets}", "train", 8, 3)
    with pytest.raises(
        DataError, match=r"5 of 8 images do not decode .*bad0\.jpg: none of JPEG.* and 2 more"
    ) as raised:
        loaded.batch(np.arange(8))
    assert "bad3" not in str(raised.value)


def test_an_image_that_vanished_is_named(pets: Path) -> None:
    loaded = load_images(f"folder:{pets}", "test", 8, 3)
    (pets / "val" / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images do not decode .*cat/a\.png"):
        loaded.batch(np.arange(2))


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a\1\0\1\0\0\0\0;"])
def test_formats_that_run_programs_or_are_not_listed_are_not_decoded(tmp_path: Path, content: bytes) -> None:
    path = one_image(tmp_path, "a.jpg", plain(0)) / "val" / "class" / "a.jpg"
    path.write_bytes(content)
    assert f"{path}: none of JPEG, PNG, BMP, PPM, WEBP" in refusal(f"folder:{tmp_path}")


def test_an_image_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    path = one_image(tmp_path, "a.ppm", plain(0)) / "val" / "class" / "a.ppm"
    path.write_bytes(b"P6 60000 60000 255\n")
    assert "exceeds limit" in refusal(f"folder:{tmp_path}")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".ppm"])
def test_an_image_with_wrong_bytes_is_an_image_or_a_data_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    root = one_image(tmp_path, f"a{suffix}", noise)
    path, generator = root / "val" / "class" / f"a{suffix}", np.random.default_rng(1)
    good = path.read_bytes()
    images = load_images(f"folder:{root}", "test", 8, 3)
    refused = 0
    for _ in range(200):
        bad = bytearray(good)
        for place in generator.integers(0, min(len(bad), 80), 3):
            bad[place] = generator.integers(256)
        path.write_bytes(bad)
        try:
            assert images.batch(np.array([0])).shape == (1, 3, 8, 8)
        except DataError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["folder", "packed-jpeg"])
def test_image_files_have_one_channel_or_three(pets: Path, name: str) -> None:
    said = refusal(f"{name}:{pets}", in_channels=2)
    assert f"{pets}: image files have 1 channel (grey) or 3 (RGB), the model expects 2" in said


# --- packed JPEG files


def jpeg(image: Pixels, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)  # type: ignore[arg-type]
    return stream.getvalue()


def packed_split(split: str, files: list[bytes]) -> dict[str, object]:
    return {
        f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8),
        f"{split}_offsets": np.cumsum([0, *map(len, files)]),
        f"{split}_labels": np.arange(len(files), dtype=np.uint8),
    }


def some_files(count: int = 5, side: int = 8) -> list[bytes]:
    return [jpeg(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)) for i in range(count)]


def packed_npz(path: Path, **changes: object) -> str:
    """Five training images and three test images of 8x8; an array changed to None is left out."""
    arrays = packed_split("train", some_files()) | packed_split("test", some_files(3)) | changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return f"packed-jpeg:{path}"


def test_packed_images_are_those_that_were_packed(tmp_path: Path) -> None:
    loaded = load_images(packed_npz(tmp_path / "a.npz"), "train", 8, 3)
    for found, file in zip(loaded.batch(np.arange(5)), some_files(), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        assert np.array_equal(found, expected)
    assert loaded.labels.tolist() == [0, 1, 2, 3, 4]
    assert loaded.name == "packed-jpeg:a.npz"
    assert "lossy" in loaded.note


def test_both_splits_are_read_apart(tmp_path: Path) -> None:
    spec = packed_npz(tmp_path / "a.npz", test_labels=np.array([7, 8, 9], np.int16))
    assert load_images(spec, "test", 8, 3).labels.tolist() == [7, 8, 9]
    assert len(load_images(spec, "train", 8, 3).labels) == 5


def test_one_split_alone_can_be_read(tmp_path: Path) -> None:
    spec = packed_npz(tmp_path / "a.npz", train_jpeg=None, train_offsets=None, train_labels=None)
    assert len(load_images(spec, "test", 8, 3).labels) == 3
    assert "no array 'train_jpeg' (found: test_jpeg, test_offsets, test_labels)" in refusal(spec, "train", 8)


def test_packed_grey_images_fit_a_grey_model(tmp_path: Path) -> None:
    files = [jpeg(plain(70)[:, :, 0])]
    loaded = load_images(packed_npz(tmp_path / "a.npz", **packed_split("test", files)), "test", 8, 1)
    assert np.round(loaded.batch(np.array([0])) * 255).tolist() == [[[[70] * 8] * 8]]


def three_offsets(*changed: int) -> NDArray[np.int64]:
    offsets = np.cumsum([0, *map(len, some_files(3))])
    for place, value in zip(changed[::2], changed[1::2], strict=True):
        offsets[place] = value
    return offsets


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"test_offsets": three_offsets(1, 0)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": three_offsets(2, 5)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": three_offsets(0, 1)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": three_offsets(3, 10**9)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": three_offsets(0, -1)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": np.full(4, 2**64 - 1, np.uint64)}, "test_offsets must rise from 0 to"),
        ({"test_offsets": three_offsets()[:-1]}, "test_offsets has 3 entries for 3 labels; it must have one more"),
        ({"test_offsets": np.zeros(0, int)}, "test_offsets has 0 entries for 3 labels"),
        (
            {"test_offsets": three_offsets().astype(float)},
            "test_offsets must be one row of whole numbers, not 1 axes of f",
        ),
        ({"test_offsets": np.array(5)}, "test_offsets must be one row of whole numbers, not 0 axes"),
        ({"test_labels": np.arange(4)}, "test_offsets has 4 entries for 4 labels"),
        ({"test_labels": np.zeros(0, int)}, "no image in the test split"),
        ({"test_labels": np.arange(3.0)}, "test_labels must be one row of whole numbers, not 1 axes of float64"),
        ({"test_labels": np.array(["a", "b", "c"])}, "test_labels must be one row of whole numbers, not 1 axes of <U1"),
        ({"test_labels": np.array([None] * 3)}, "not a readable .npz (Object arrays cannot be loaded"),
        ({"test_jpeg": np.zeros(9, np.int8)}, "test_jpeg must be one row of bytes, not 1 axes of int8"),
        ({"test_jpeg": np.zeros((3, 9), np.uint8)}, "test_jpeg must be one row of bytes, not 2 axes of uint8"),
        ({"test_labels": None}, "no array 'test_labels'"),
        (
            packed_split("test", [*some_files(2), b"no image"]),
            "1 of 3 images do not decode (test image 2: none of JPEG",
        ),
        (packed_split("test", [*some_files(2), some_files(1)[0][:500]]), "1 of 3 images do not decode (test image 2: "),
        (packed_split("test", [*some_files(2), *some_files(1, 9)]), "1 of 3 images are not 8x8 (test image 2 9x9)"),
        (packed_split("test", some_files(4, 16)), "4 of 4 images are not 8x8 (test image 0 16x16, "),
        (packed_split("test", [jpeg(plain(0, 8, 16))]), "1 of 1 images are not 8x8 (test image 0 8x16)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_packed_file_that_does_not_fit_says_why(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    said = refusal(packed_npz(tmp_path / "mine.npz", **changes), "test", 8)
    assert complaint in said
    assert "mine.npz" in said


def test_what_the_decoder_says_holds_no_address_in_memory(tmp_path: Path) -> None:
    assert "0x" not in refusal(packed_npz(tmp_path / "a.npz", **packed_split("test", [b"no image"])), "test", 8)


@pytest.mark.parametrize("name", ["packed-jpeg", "npz"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
def test_other_files_are_no_npz(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    assert refusal(f"{name}:{path}").startswith(f"{path}: not a readable .npz (")


@pytest.mark.parametrize("name", ["packed-jpeg", "npz"])
def test_an_npz_with_wrong_bytes_is_one_or_a_data_error(tmp_path: Path, name: str) -> None:
    path, generator = tmp_path / "a.npz", np.random.default_rng(0)
    if name == "npz":
        np.savez_compressed(path, images=np.zeros((2, 8, 8), np.float32), labels=np.arange(2))
    else:
        packed_npz(path)
    good, refused = path.read_bytes(), 0
    places = [i for i in range(len(good)) if i < 200 or i > len(good) - 400]  # headers and directory
    for _ in range(400):
        bad = bytearray(good)
        for place in generator.choice(places, 3):
            bad[place] = generator.integers(256)
        path.write_bytes(bad)
        try:
            found = load_images(f"{name}:{path}", "test", 8, 1).labels
            assert len(found) in (2, 3)
        except DataError:
            refused += 1
    assert refused > 100


def test_an_entry_that_is_no_array_is_named(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "a.npz"
    packed_npz(path, test_labels=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("test_labels", b"text")
    assert "'test_labels' is not an array" in refusal(f"packed-jpeg:{path}", "test", 8)


def test_the_real_packed_cifar10_holds_all_images_in_the_official_order() -> None:
    """First labels as in the official data_batch_1 and test_batch; the means per channel are the published ones."""
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not there")
    train = load_images(f"packed-jpeg:{REAL}", "train", 32, 3)
    test = load_images(f"packed-jpeg:{REAL}", "test", 32, 3)
    assert isinstance(train, ImageSet)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert train.images.dtype == np.uint8
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.mean((0, 2, 3)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)


# --- names, paths, and how a split is divided


def test_a_name_and_a_path_are_told_apart_at_the_first_colon() -> None:
    assert parse_data("digits") == ("digits", None)
    assert parse_data("cifar10:data/a:b") == ("cifar10", Path("data/a:b"))


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_a_name_without_a_path_says_what_the_path_must_be(name: str) -> None:
    for spec in (name, f"{name}:"):
        assert f"{name}: needs a path, {name}:PATH ({DATASETS[name]})" in refusal(spec)


def test_the_bundled_digits_have_no_path() -> None:
    assert "the digits are bundled and have no path" in refusal("digits:somewhere", image_size=16, in_channels=1)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert "unknown dataset 'cifar:x'; did you mean 'cifar10'?" in refusal("cifar:x")


@pytest.mark.parametrize(
    ("name", "fetch"),
    [
        ("cifar10", "fetch cifar-10-python.tar.gz (CIFAR-10 python version) from www.cs.toronto.edu/~kriz/cifar.html"),
        ("cifar100", "fetch cifar-100-python.tar.gz (CIFAR-100 python version) from www.cs.toronto.edu"),
        ("folder", "fetch ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org"),
        ("packed-jpeg", "it must be an .npz with train_jpeg"),
        ("npz", "it must be an .npz with arrays images"),
    ],
)
@pytest.mark.parametrize("path", ["nowhere", "nowhere\n/else", "nul\0byte"])
def test_a_path_that_does_not_exist_says_what_belongs_there(tmp_path: Path, name: str, fetch: str, path: str) -> None:
    said = refusal(f"{name}:{tmp_path}/{path}")
    assert fetch in said
    assert "no such f" in said


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
@pytest.mark.parametrize("trouble", ["circle", "file above", "long", "guarded"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, name: str, trouble: str) -> None:
    path = tmp_path / "here"
    if trouble == "circle":
        path.symlink_to(path)
    elif trouble == "file above":
        path.write_bytes(b"")
        path /= "inside"
    elif trouble == "long":
        path = tmp_path / ("x" * 5000)
    else:
        path.mkdir()
        (path / "inside").mkdir()
        path.chmod(0)
        path /= "inside"
    with plain_user() if trouble == "guarded" else contextlib.nullcontext():
        said = refusal(f"{name}:{path}")
    if trouble == "guarded":
        path.parent.chmod(0o700)
    assert said.startswith(str(path))


def test_a_class_folder_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        one_image(root, "a.png", plain(0))
        (root / "val" / "class").chmod(0)
        with plain_user():
            said = refusal(f"folder:{root}")
        (root / "val" / "class").chmod(0o700)
    assert said == f"{root / 'val' / 'class'}: cannot be read (Permission denied)"


def test_an_image_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        path = one_image(root, "a.png", plain(0)) / "val" / "class" / "a.png"
        path.chmod(0)
        images = load_images(f"folder:{root}", "test", 8, 3)
        with plain_user(), pytest.raises(DataError, match=r"1 of 1 images do not decode \(.*Permission denied"):
            images.batch(np.array([0]))


def test_a_tilde_is_the_home_folder_which_shells_leave_behind_a_colon(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pets.parent))
    assert len(load_images("folder:~/pets", "train", 8, 3).labels) == 3


def test_the_home_of_nobody_known_is_a_path_that_does_not_exist() -> None:
    assert refusal("npz:~no_such_user/a.npz").startswith("~no_such_user/a.npz: no such file")


def test_every_data_set_but_an_npz_has_its_own_test_split() -> None:
    assert all(has_own_test_split(f"{name}:anywhere") for name in ("cifar10", "cifar100", "folder", "packed-jpeg"))


@pytest.mark.parametrize("name", ["folder", "packed-jpeg"])
def test_samples_are_the_first_ones(pets: Path, name: str) -> None:
    spec = f"folder:{pets}" if name == "folder" else packed_npz(pets / "a.npz")
    everything, some = load_images(spec, "test", 8, 3), load_images(spec, "test", 8, 3, samples=1)
    assert np.array_equal(some.batch(np.array([0])), everything.batch(np.array([0])))
    assert some.labels.tolist() == everything.labels[:1].tolist()
    with pytest.raises(DataError, match=f"9 samples requested, but the test split has {len(everything.labels)}"):
        load_images(spec, "test", 8, 3, samples=9)


def labelled(labels: list[int]) -> ImageSet:
    """Every image is its number."""
    images = np.arange(len(labels), dtype=np.float32)[:, None, None, None]
    return ImageSet("numbers", "train", images, np.array(labels, np.int64), "some")


some_labels = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(some_labels, st.data())
def test_held_out_images_and_the_others_are_the_whole_without_overlap(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    rest, chosen = held_out(labelled(labels), count)
    numbers = [part.batch(np.arange(len(part.labels))).ravel().tolist() for part in (rest, chosen)]
    assert (len(numbers[0]), len(numbers[1])) == (len(labels) - count, count)
    assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
    for part, found in zip((rest, chosen), numbers, strict=True):
        assert found == sorted(found)
        assert part.labels.tolist() == [labels[int(number)] for number in found]


@given(some_labels, st.data())
def test_every_class_gives_its_share_to_the_images_held_out(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    given_up = np.bincount(held_out(labelled(labels), count)[1].labels, minlength=5)
    share = np.bincount(labels, minlength=5) * count / len(labels)
    assert (np.abs(given_up - share) < 1).all()


def test_classes_that_take_turns_are_all_held_out() -> None:
    """As the images of class folders do: every tenth of ten classes would be one class alone."""
    assert np.bincount(held_out(labelled(list(range(10)) * 100), 100)[1].labels).tolist() == [10] * 10


def test_the_same_images_are_held_out_every_time() -> None:
    first, again = (held_out(labelled([0, 1, 1] * 20), 7)[1] for _ in range(2))
    assert np.array_equal(first.batch(np.arange(7)), again.batch(np.arange(7)))


@pytest.mark.parametrize("count", [0, -1, 4, 5])
def test_no_images_or_all_cannot_be_held_out(count: int) -> None:
    with pytest.raises(DataError, match=f"numbers: {count} of 4 train images cannot be held out; hold out fewer"):
        held_out(labelled([0, 1, 2, 3]), count)


def test_a_subset_is_its_images_in_its_order_and_says_how_many() -> None:
    subset = Subset(labelled([5, 6, 7, 8]), np.array([3, 0, 2]))
    assert subset.labels.tolist() == [8, 5, 7]
    assert subset.batch(np.array([2, 0])).ravel().tolist() == [2, 3]
    assert (subset.name, subset.split, subset.note) == ("numbers", "train", "3 of 4; some")
    assert subset.first(1).labels.tolist() == [8]
    assert subset.first(1).note == "1 of 4; some"


def test_a_subset_of_images_in_files_can_be_cropped(pets: Path) -> None:
    subset = Subset(load_images(f"folder:{pets}", "train", 8, 3), np.array([1]))
    assert np.round(subset.batch(np.array([0]), np.array([[0, 0, 0.5, 0.5]])).mean() * 255) == 20


def test_images_in_memory_cannot_be_cropped() -> None:
    with pytest.raises(DataError, match=r"numbers: crop_scale needs images in files \(folder:PATH\)"):
        labelled([0, 1]).batch(np.array([0]), np.array([[0.0, 0, 1, 1]]))


@given(some_labels, st.integers(1, 70))
def test_batches_are_all_images_in_order(labels: list[int], size: int) -> None:
    found = list(batches(labelled(labels), size))
    assert np.concatenate([x for x, _ in found]).ravel().tolist() == list(range(len(labels)))
    assert np.concatenate([y for _, y in found]).tolist() == labels
    assert {len(y) for _, y in found[:-1]} <= {size}


def test_labels_that_no_model_has_are_counted() -> None:
    check_labels(labelled([0, 4, 2]), 5)
    with pytest.raises(DataError, match=r"from -1 to 9, but the model has 3 classes \(0..2\); 3 of 5 lie outside"):
        check_labels(labelled([0, 9, 3, -1, 2]), 3)


def test_reading_images_from_files_does_not_load_torch(pets: Path) -> None:
    code = (
        f"import sys, snn_energy.datasets.open as d; d.load_images('folder:{pets}', 'test', 8, 3); print(*sys.modules)"
    )
    code = f"import snn_energy.datasets.cifar; {code}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PIL" in found.stdout.split()
    assert "torch" not in found.stdout.split()
