"""Each data set's original files, in every layout that they are found in."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbs.data.stores import SUFFIXES, Arrays, Files, Lmdb, Store, Zip, is_image
from cbs.data.tars import class_tars, shards
from cbs.errors import InputError, counted, nearest
from cbs.schema import DatasetConfig


@dataclass(frozen=True)
class Source:
    """The images of one data set: in which layout they were found, and their classes, where they have any.

    labels: (n,) int64 in 0..classes−1.
    """

    layout: str
    store: Store
    labels: np.ndarray | None = None
    classes: int = 0
    close: Callable[[], object] = lambda: None


def _digits() -> Source:
    from sklearn.datasets import load_digits

    found = load_digits()
    levels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return Source("scikit-learn", Arrays("digits", levels), found.target.astype(np.int64), 10)


@contextmanager
def _there(name: str, steps: str) -> Iterator[None]:
    """Say what to put where, whatever it is that a library finds missing."""
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError as error:
        more = "" if error.name == "lmdb" else f" {steps}"
        package = f"dataset {name} needs the Python package {error.name}: pip install {error.name}."
        raise InputError(f"{package}{more}") from error
    except Exception as error:  # torchvision raises RuntimeError, OSError, lmdb's own…
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"dataset {name} is not there ({reason}). {steps}") from error


def _cifar10(root: Path, split: str) -> Source:
    from torchvision.datasets import CIFAR10

    steps = f"Put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {root} and run again."
    with _there("cifar10", steps):
        found = CIFAR10(root, train=split == "train", download=True)
    labels = np.array(found.targets, np.int64)
    return Source(f"torchvision's files in {root}", Arrays("cifar10", found.data), labels, len(found.classes))


_CELEBA_SPLITS = {"train": "0", "valid": "1", "test": "2"}


def _celeba(root: Path, split: str) -> Source:
    from torchvision.datasets import CelebA

    steps = (
        "Put list_eval_partition.txt and img_align_celeba.zip (or its folder img_align_celeba, unzipped) from "
        f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into {root / 'celeba'} and run again."
    )
    places = [root / "celeba", root, *([root.parent] if root.name == "img_align_celeba" else [])]
    place = next((p for p in places if any((p / f"img_align_celeba{s}").exists() for s in ("", ".zip"))), None)
    if place is None:
        place = root / "celeba"
        with _there("celeba", steps):
            CelebA(root, download=True)
    folder, archive = place / "img_align_celeba", place / "img_align_celeba.zip"
    if folder.is_dir():
        paths = {name: str(folder / name) for name in os.listdir(folder) if is_image(name)}
        names = _celeba_names(place, split, folder, paths)
        return Source(f"the folder {folder}", Files([paths[name] for name in names]))
    with _there("celeba", f"Fetch {archive} again."):
        opened = zipfile.ZipFile(archive)
    members = {Path(m.filename).name: m for m in opened.infolist() if is_image(m.filename)}
    names = _celeba_names(place, split, archive, members)
    return Source(f"{archive}, read in place", Zip(opened, [members[name] for name in names]), close=opened.close)


def _celeba_names(place: Path, split: str, where: Path, there: dict[str, Any]) -> list[str]:
    """The names of a split's images, all of which must be there."""
    if split == "all":
        return sorted(there)
    partition = place / "list_eval_partition.txt"
    if not partition.is_file():
        raise InputError(
            f"dataset celeba has no {partition}, which says what belongs to dataset.split={split}: "
            "put it there, or set dataset.split=all."
        )
    rows = [line.split() for line in partition.read_text().splitlines()]
    names = [row[0] for row in rows if row[1:] == [_CELEBA_SPLITS[split]]]
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{where} has no {missing[0]}, nor {len(missing) - 1:,} others of the {len(names):,} images that "
            f"{partition.name} names for dataset.split={split}: unzip or fetch it again."
        )
    return names


def _lsun_bedroom(root: Path, split: str) -> Source:
    path = root / f"bedroom_{split}_lmdb"
    steps = (
        f"Fetch http://dl.yf.io/lsun/scenes/bedroom_{split}_lmdb.zip, unzip it so that {path} exists, and run again."
    )
    with _there("lsun_bedroom", steps):
        store = Lmdb(path)
    return Source(f"the lmdb {path}", store, close=store.close)


def _imagenet(root: Path, split: str) -> Source:
    folder, archive = root / split, root / f"ILSVRC2012_img_{split}.tar"
    if _has_folders(folder):
        return _class_folders(folder)
    found = sorted(
        path
        for path in {*folder.glob("*.tar"), *root.glob(f"*{split}*.tar")}
        if not path.name.startswith("ILSVRC2012_img")  # image-net.org's own, for other tasks too
    )
    if found:
        where = f"{counted(len(found), 'tar shard')} in {found[0].parent}"
        print(f"reading the index of {where}", file=sys.stderr)
        store, labels = shards(found)
        return Source(f"{where}, read in place", store, labels, _classes(labels))
    if split == "train" and archive.exists():
        print(f"reading the index of {archive}", file=sys.stderr)
        store, labels = class_tars(archive)
        return Source(f"{archive}, read in place", store, labels, _classes(labels))
    steps = (
        f"Put one of these into {root} and run again: class folders {split}/n01440764/*.JPEG; "
        + ("ILSVRC2012_img_train.tar from https://image-net.org; " if split == "train" else "")
        + f"webdataset's shards *{split}*.tar of <key>.jpg and <key>.cls; or ILSVRC2012_devkit_t12.tar.gz and "
        f"{archive.name} from https://image-net.org, which torchvision unpacks."
    )
    from torchvision.datasets import ImageNet

    with _there("imagenet", steps):
        ImageNet(root, split)
    return _class_folders(folder)


def _classes(labels: np.ndarray) -> int:
    return int(labels.max(initial=-1)) + 1


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in os.scandir(folder))


def _class_folders(folder: Path) -> Source:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(folder)
    except FileNotFoundError as error:  # a class without images
        raise InputError(f"{folder} is not a folder of classes ({str(error).split('. ')[0]}).") from error
    layout = f"class folders in {folder}"
    return Source(layout, Files([path for path, _ in found.samples]), np.array(found.targets), len(found.classes))


def _folder(root: Path) -> Source:
    if not root.is_dir():
        raise InputError(f"dataset.source is {str(root)!r}: it must be a folder of images.")
    found = []
    for folder, _, names in os.walk(root, onerror=_not_readable):
        parts = Path(folder).relative_to(root).parts
        found += [(*parts, name) for name in names if is_image(name)]
    found.sort()
    if not found:
        raise InputError(f"dataset.source is {str(root)!r}: there is no image in it ({', '.join(sorted(SUFFIXES))}).")
    files = Files([os.path.join(root, *parts) for parts in found])
    if any(len(parts) == 1 for parts in found):
        return Source(str(root), files)
    numbers = {name: number for number, name in enumerate(sorted({parts[0] for parts in found}))}
    labels = np.array([numbers[parts[0]] for parts in found], np.int64)
    return Source(f"{root}, its folders as classes", files, labels, len(numbers))


def _not_readable(error: OSError) -> None:
    raise InputError(f"the folder {error.filename} can't be read ({error.strerror}).") from error


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

    Raises InputError with the exact steps where the files are not there, or no image is among them.
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
    openers: dict[str, Callable[[Path, str], Source]] = {
        "cifar10": _cifar10,
        "celeba": _celeba,
        "lsun_bedroom": _lsun_bedroom,
        "imagenet": _imagenet,
    }
    source = openers[dataset.name](root, dataset.split)
    if not len(source.store):
        raise InputError(f"dataset {dataset.name} has no image with dataset.split={dataset.split} in {source.layout}.")
    return source
