"""One image of a store as the pixels that are packed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from cbs.data.stores import Store
from cbs.errors import InputError
from cbs.schema import DatasetConfig

if TYPE_CHECKING:
    from PIL.Image import Image


class Corrupt(Exception):
    """The bytes are there, but they are no whole image."""


def load_decoders() -> None:
    """Load all of PIL's decoders: done by several threads at once, one may be told that a format is unknown."""
    from PIL import Image

    Image.preinit()
    Image.init()


def decode(store: Store, index: int, dataset: DatasetConfig) -> np.ndarray:
    """An image as (channels, size, size) uint8.

    Raises Corrupt, and InputError where the disk fails or where dataset.fit is exact and the size another.
    """
    size, mode = dataset.image_size, "L" if dataset.channels == 1 else "RGB"
    try:
        image = _image(store.content(index)).convert(mode)
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is not None:  # the disk's own, and not what PIL says of an image
            raise unreadable(store.name(index), error) from error
        raise Corrupt(_reason(error)) from error
    except Exception as error:  # on damaged bytes decoders raise whatever their code stumbles over
        raise Corrupt(_reason(error)) from error
    if dataset.fit == "exact" and image.size != (size, size):
        found = f"{image.size[0]}x{image.size[1]}"
        raise InputError(
            f"dataset.image_size is {size}, but {dataset.name}'s images are {found}: "
            "set it to their size, or dataset.fit to stretch or crop."
        )
    pixels = np.asarray(_fitted(image, dataset.fit, size))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def unreadable(name: str, error: OSError) -> InputError:
    """The disk's failure, which says nothing about the image."""
    return InputError(f"image {name} can't be read ({error.strerror}): run again once it can.")


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def _image(content: bytes | np.ndarray) -> Image:
    from PIL import Image

    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    if not content:
        raise ValueError("empty file")
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def _fitted(image: Image, fit: str, size: int) -> Image:
    from torchvision.transforms import functional as T

    if fit == "stretch":
        return T.resize(image, [size, size])
    if fit == "crop":
        return T.center_crop(T.resize(image, [size]), [size])
    return image
