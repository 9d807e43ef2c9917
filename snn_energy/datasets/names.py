"""Names of data sets: ``digits`` or ``NAME:PATH``."""

from __future__ import annotations

import os
from pathlib import Path

from snn_energy.core.errors import DataError, nearest
from snn_energy.datasets.digits import BUNDLED

DATASETS = {  # name -> what it is; all but the digits are on the user's disk and need a path
    "digits": "1,797 optical digits of the UCI repository, 8x8, bundled (360 of them are the test split)",
    "cifar10": "CIFAR-10 as distributed: the folder cifar-10-batches-py or cifar-10-python.tar.gz",
    "cifar100": "CIFAR-100 as distributed: the folder cifar-100-python or cifar-100-python.tar.gz",
    "folder": "ImageNet's layout: PATH/train/CLASS/*.JPEG and PATH/val/CLASS/*.JPEG (or test)",
    "packed-jpeg": "an .npz with train_jpeg, train_offsets, train_labels and the same of test",
    "npz": "an .npz with images, labels and is_test",
}
EVENT_DATASETS = {  # recordings of event sensors, read by snn_energy.datasets.events
    "nmnist": "N-MNIST as distributed: PATH/Test/DIGIT/*.bin, PATH/Train/DIGIT/*.bin; or files PATH/nmnist_DIGIT.bin",
}


def parse_data(spec: str) -> tuple[str, Path | None]:
    """``"cifar10:data"`` -> ``("cifar10", Path("data"))``, ``"digits"`` -> ``("digits", None)``. Raises DataError.

    ``~`` is expanded here: shells do not expand it after a colon.
    """
    name, colon, path = spec.partition(":")
    datasets = DATASETS | EVENT_DATASETS
    if name not in datasets:
        known = ", ".join(name if name == BUNDLED else f"{name}:PATH" for name in datasets)
        raise DataError(f"unknown dataset '{spec}'{nearest(name, datasets)} (known: {known})")
    if name == BUNDLED:
        if colon:
            raise DataError(f"{spec}: the digits are bundled and have no path; write {BUNDLED}")
        return name, None
    if not path:
        raise DataError(f"{name}: needs a path, {name}:PATH ({datasets[name]})")
    return name, Path(os.path.expanduser(path))
