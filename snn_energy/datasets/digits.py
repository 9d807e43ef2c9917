"""The bundled 8x8 digits."""

from __future__ import annotations

import numpy as np

from snn_energy.core import bundled
from snn_energy.core.errors import DataError
from snn_energy.datasets.images import ImageSet, Split

BUNDLED = "digits"
DIGITS_PIXELS = 8
DIGITS_MAX = 16


def load_digits(split: Split, image_size: int, in_channels: int) -> ImageSet:
    """One split of the bundled digits, each pixel repeated up to the size. Raises DataError."""
    if in_channels != 1:
        raise DataError(f"digits: the images have 1 channel, the model expects {in_channels}")
    if image_size < DIGITS_PIXELS or image_size % DIGITS_PIXELS:
        raise DataError(
            f"digits: the images are 8x8 and can be repeated to any multiple of 8 pixels, "
            f"the model expects {image_size}x{image_size}"
        )
    factor = image_size // DIGITS_PIXELS
    with bundled.digits().open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        in_split = arrays["is_test"] == (split == "test")
        pixels, labels = arrays["images"][in_split], arrays["labels"][in_split]
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)[:, None]
    note = f"{split} split, 8x8 pixels repeated {factor}x{factor}, grey level / {DIGITS_MAX}"
    images = pixels.astype(np.float32) / np.float32(DIGITS_MAX)
    return ImageSet("digits", split, images, labels.astype(np.int64), note)
