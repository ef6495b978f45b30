"""Where each data set's images come from, as PIL images or arrays in a fixed order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbs.errors import InputError, nearest
from cbs.schema import DatasetConfig

_FEW = 5000  # up to here, starting workers takes longer than decoding
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Source:
    """Images of one data set: how many, image i as a PIL image, and what to call it."""

    count: int
    read: Callable[[int], Any]
    name: Callable[[int], str]


def _digits() -> Source:
    from PIL import Image
    from sklearn.datasets import load_digits

    levels = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    return Source(len(levels), lambda i: Image.fromarray(levels[i]), lambda i: f"digits[{i}]")


def _torchvision(build: Callable[[], Any], name: str, steps: str) -> Source:
    try:
        found = build()
    except ModuleNotFoundError as error:
        raise InputError(f"dataset {name} needs the Python package {error.name}: pip install {error.name}.") from error
    except Exception as error:  # torchvision raises RuntimeError, OSError, lmdb's own…: all mean that it isn't there
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"dataset {name} is not there ({reason}). {steps}") from error
    return Source(len(found), lambda i: found[i][0], lambda i: f"{name}[{i}]")


def _cifar10(root: Path, split: str) -> Source:
    from torchvision.datasets import CIFAR10

    steps = f"Put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {root} and run again."
    return _torchvision(lambda: CIFAR10(root, train=split == "train", download=True), "cifar10", steps)


def _celeba(root: Path, split: str) -> Source:
    from torchvision.datasets import CelebA

    steps = (
        f"Put img_align_celeba.zip and the five .txt files from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html "
        f"into {root / 'celeba'}, unzip the archive there, and run again."
    )
    return _torchvision(lambda: CelebA(root, split=split, download=True), "celeba", steps)


def _lsun_bedroom(root: Path, split: str) -> Source:
    from torchvision.datasets import LSUN

    steps = (
        f"Fetch http://dl.yf.io/lsun/scenes/bedroom_{split}_lmdb.zip, unzip it so that "
        f"{root / f'bedroom_{split}_lmdb'} exists, and run again."
    )

    def build() -> LSUN:
        where = root.resolve()
        with contextlib.chdir(where):  # torchvision leaves a cache file in the working folder
            return LSUN(str(where), classes=[f"bedroom_{split}"])

    return _torchvision(build, "lsun_bedroom", steps)


def _imagenet(root: Path, split: str) -> Source:
    from torchvision.datasets import ImageNet

    steps = (
        f"Put ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_{split}.tar from https://image-net.org "
        f"into {root} and run again."
    )
    return _torchvision(lambda: ImageNet(str(root), split=split), "imagenet", steps)


def _folder(root: Path) -> Source:
    from PIL import Image

    if not root.is_dir():
        raise InputError(f"dataset.source is {str(root)!r}: it must be a folder of images.")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise InputError(f"dataset.source is {str(root)!r}: there is no image in it ({', '.join(sorted(_SUFFIXES))}).")

    def read(index: int) -> Image.Image:
        with Image.open(files[index]) as image:
            image.load()
            return image

    return Source(len(files), read, lambda i: str(files[i]))


_SPLITS = {
    "digits": ("all",),
    "cifar10": ("train", "test"),
    "celeba": ("train", "valid", "test", "all"),
    "lsun_bedroom": ("train", "val"),
    "imagenet": ("train", "val"),
    "folder": ("all",),
}


def original_root(dataset: DatasetConfig, data: Path) -> Path:
    """Where the original files are looked for."""
    if dataset.source is not None:
        return Path(dataset.source).expanduser()
    return data if dataset.name == "celeba" else data / dataset.name  # torchvision adds celeba/ itself


def open_source(dataset: DatasetConfig, data: Path) -> Source:
    """Open a data set's original files, downloading what torchvision can.

    Raises InputError with the exact steps where the files are not there.
    """
    if dataset.name not in _SPLITS:
        raise InputError(f"dataset.name is {dataset.name!r}: {nearest(dataset.name, _SPLITS)}.")
    if dataset.split not in _SPLITS[dataset.name]:
        raise InputError(f"dataset.split is {dataset.split!r}: {nearest(dataset.split, _SPLITS[dataset.name])}.")
    root = original_root(dataset, data)
    if dataset.name == "digits":
        return _digits()
    if dataset.name == "folder":
        return _folder(root)
    builders = {"cifar10": _cifar10, "celeba": _celeba, "lsun_bedroom": _lsun_bedroom, "imagenet": _imagenet}
    return builders[dataset.name](root, dataset.split)


class Decoder:
    """Image i of a source as a (channels, size, size) uint8 array."""

    def __init__(self, source: Source, dataset: DatasetConfig) -> None:
        self.source, self.dataset = source, dataset

    def __len__(self) -> int:
        return self.source.count

    def __getitem__(self, index: int) -> np.ndarray:
        size, mode = self.dataset.image_size, "L" if self.dataset.channels == 1 else "RGB"
        try:
            image = self.source.read(index).convert(mode)
        except (OSError, SyntaxError, ValueError) as error:
            name = self.source.name(index)
            raise InputError(f"image {name} can't be decoded ({error}): replace or remove it.") from error
        if self.dataset.fit == "exact" and image.size != (size, size):
            found = f"{image.size[0]}x{image.size[1]}"
            raise InputError(
                f"dataset.image_size is {size}, but {self.dataset.name}'s images are {found}: "
                "set it to their size, or dataset.fit to stretch or crop."
            )
        pixels = np.asarray(_fitted(image, self.dataset.fit, size))
        return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _fitted(image: Any, fit: str, size: int) -> Any:
    from torchvision.transforms import functional as T

    if fit == "stretch":
        return T.resize(image, [size, size])
    if fit == "crop":
        return T.center_crop(T.resize(image, [size]), [size])
    return image


def decoded(dataset: DatasetConfig, source: Source, workers: int) -> Iterator[np.ndarray]:
    """Every image in order, in blocks of (n, channels, size, size) uint8."""
    from torch.utils.data import DataLoader

    few = source.count < _FEW
    loader: DataLoader[np.ndarray] = DataLoader(
        Decoder(source, dataset),  # type: ignore[arg-type]
        batch_size=256,
        num_workers=0 if few else workers,
        collate_fn=np.stack,
    )
    try:
        yield from loader
    except InputError as error:  # a worker's comes wrapped in its traceback
        raise InputError(str(error).strip().splitlines()[-1].removeprefix("cbs.errors.InputError: ")) from error
