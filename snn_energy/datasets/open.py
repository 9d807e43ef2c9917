"""Images and labels by name, ``digits`` or ``NAME:PATH``, for training and profiling. No torch, no downloads.

``digits.py`` reads the bundled digits, ``npz.py`` the user's own .npz files, ``image_files.py`` packed JPEG files and
class folders, ``cifar.py`` the official batches of CIFAR-10 and CIFAR-100.

The bundled set is the 1,797 optical digits of the UCI repository (the copy that scikit-learn ships): 8x8
pixels, grey levels 0..16, with a fixed stratified test split of 360 images drawn by
``numpy.random.default_rng(0)``. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998, CC BY 4.0.
"""

from __future__ import annotations

from snn_energy.core.errors import DataError
from snn_energy.datasets.digits import load_digits
from snn_energy.datasets.images import Images, Split
from snn_energy.datasets.names import DATASETS, EVENT_DATASETS, parse_data
from snn_energy.datasets.npz import load_npz, read_npz


def load_images(spec: str, split: Split, image_size: int, in_channels: int, samples: int | None = None) -> Images:
    """The first ``samples`` images of one split (None: all), in the shape that a model expects.

    spec: ``digits`` (repeated to image_size, any multiple of 8; grey level / 16, so 0..1), or ``NAME:PATH`` with a
    name of ``DATASETS``. Images of cifar10, cifar100, packed-jpeg and folder are pixel / 255, so 0..1. Those of npz
    are used as stored; without ``is_test`` both splits contain every image, and the note says so.
    Raises DataError.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', not '{split}'")
    name, path = parse_data(spec)
    if name in EVENT_DATASETS:
        raise DataError(f"{spec}: event recordings, not images; name images here ({', '.join(DATASETS)})")
    loaded: Images
    if path is None:
        loaded = load_digits(split, image_size, in_channels)
    elif name == "npz":
        loaded = load_npz(path, split, image_size, in_channels)
    elif name in ("cifar10", "cifar100"):
        from snn_energy.datasets.cifar import load_cifar

        loaded = load_cifar(name, path, split, image_size, in_channels)
    elif name == "packed-jpeg":
        from snn_energy.datasets.image_files import load_packed_jpeg

        loaded = load_packed_jpeg(path, split, image_size, in_channels)
    else:
        from snn_energy.datasets.image_files import load_folder

        loaded = load_folder(path, split, image_size, in_channels)
    if samples is None:
        return loaded
    if samples < 1:
        raise DataError(f"samples must be at least 1, not {samples}")
    if samples > len(loaded.labels):
        raise DataError(f"{loaded.name}: {samples} samples requested, but the {split} split has {len(loaded.labels)}")
    return loaded.first(samples)


def has_own_test_split(spec: str) -> bool:
    """Whether train and test images of a dataset are known to be disjoint. Raises DataError."""
    name, path = parse_data(spec)
    return name != "npz" or path is None or "is_test" in read_npz(path)
