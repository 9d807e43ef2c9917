"""Images in an .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snn_energy.core.errors import DataError
from snn_energy.datasets.images import ImageSet, Split, error_summary, require_shape, shape_text

_NPZ_CONTENT = "arrays images (N,H,W) or (N,C,H,W) and labels (N,), optionally is_test (N,) of booleans"


def load_npz(path: Path, split: Split, image_size: int, in_channels: int) -> ImageSet:
    """One split of the images of an .npz, values as stored. Raises DataError."""
    arrays = read_npz(path)
    images, labels, note = _as_images(path, arrays["images"]), _as_labels(path, arrays["labels"]), ""
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images but {len(labels)} labels; there must be one label an image")
    require_shape(path, images.shape[1:], image_size, in_channels)
    if "is_test" in arrays:
        is_test = arrays["is_test"]
        if is_test.dtype != np.bool_ or is_test.shape != labels.shape:
            raise DataError(f"{path}: is_test must hold {len(labels)} booleans, one an image")
        in_split = is_test == (split == "test")
        images, labels, note = images[in_split], labels[in_split], f"{split} split by is_test, values as stored"
    else:
        note = "no is_test in the file, so both splits hold every image; values as stored"
    if not len(images):
        raise DataError(f"{path}: no image in the {split} split")
    if not np.isfinite(images).all():
        bad = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
        raise DataError(f"{path}: {bad} of {len(images)} images hold NaN or infinite values; remove or fix them")
    return ImageSet(f"npz:{path.name}", split, images, labels, note)


def npz_shape(path: Path) -> tuple[int, int]:
    """(image size, channels) of the images of an .npz. Raises DataError if they are not square."""
    shape = _as_images(path, read_npz(path)["images"]).shape
    if shape[2] != shape[3]:
        raise DataError(f"{path}: the images are {shape[2]}x{shape[3]}; only square images are supported")
    return shape[2], shape[1]


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays images, labels and, if present, is_test. Raises DataError."""
    return read_arrays(path, ("images", "labels"), ("is_test",), _NPZ_CONTENT)


def read_arrays(
    path: Path, keys: tuple[str, ...], optional: tuple[str, ...], required_content: str
) -> dict[str, NDArray[np.generic]]:
    """The named arrays of an .npz, without pickles. required_content: for messages. Raises DataError."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; it must be an .npz with {required_content}")
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array (.npy); it must be an .npz with {required_content}")
            arrays = {key: file[key] for key in (*keys, *optional) if key in file}
            found = ", ".join(file) or "none"
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib and NumPy raise nearly anything
        raise DataError(
            f"{path}: not a readable .npz ({error_summary(error)}); it must hold {required_content}"
        ) from error
    for key in keys:
        if key not in arrays:
            raise DataError(f"{path}: no array '{key}' (found: {found}); it must hold {required_content}")
    not_array = next((key for key, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if not_array is not None:
        raise DataError(f"{path}: '{not_array}' is not an array; it must hold {required_content}")
    return arrays


def _as_images(path: Path, images: NDArray[np.generic]) -> NDArray[np.float32]:
    """(N, H, W) or (N, C, H, W) of numbers -> (N, C, H, W) float32."""
    if images.dtype.kind not in "buif":
        raise DataError(f"{path}: images must be numbers, not {images.dtype}")
    if images.ndim not in (3, 4):
        raise DataError(f"{path}: images must be (N,H,W) or (N,C,H,W), not of shape {shape_text(images.shape)}")
    with np.errstate(over="ignore"):  # a value too large for float32 becomes infinite and is rejected later
        as_float = images.astype(np.float32)
    return as_float[:, None] if images.ndim == 3 else as_float


def _as_labels(path: Path, labels: NDArray[np.generic]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "ui" or labels.ndim != 1:
        raise DataError(
            f"{path}: labels must be whole numbers of shape (N,), "
            f"not {labels.dtype} of shape ({shape_text(labels.shape)})"
        )
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{path}: label {labels.min()} is negative; classes are counted from 0")
    return labels.astype(np.int64)
