"""ImageNet in tar archives, read where they lie: a tar that holds one tar per class, or webdataset's shards."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from cbs.data.stores import SUFFIXES, Span, Tars, is_image
from cbs.errors import InputError

_BLOCK = 512  # of every tar; one of zeros marks its end
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset: all that follows the first dot is the extension


def class_tars(archive: Path) -> tuple[Tars, np.ndarray]:
    """The images of a tar that holds <class>.tar for each class, and their classes, (n,) int64, numbered by name.

    In the order that torchvision gives the same files once they are unpacked. Raises InputError where the
    archive is cut off or damaged.
    """
    spans, labels = [], []
    with open(archive, "rb") as file:
        inner = [member for member in _files(file, str(archive)) if member.name.endswith(".tar")]
        for label, tar in enumerate(sorted(inner, key=lambda tar: Path(tar.name).stem)):
            file.seek(tar.offset_data)
            images = _files(file, f"{archive}/{tar.name}", tar.offset_data + tar.size)
            for image in sorted(images, key=lambda image: Path(image.name).name):
                if is_image(image.name):
                    spans.append(Span(archive, f"{tar.name}/{image.name}", image.offset_data, image.size))
                    labels.append(label)
    return Tars(spans), np.array(labels, np.int64)


def shards(archives: Sequence[Path]) -> tuple[Tars, np.ndarray]:
    """The images of webdataset's tars, key.jpg with its class number in key.cls, and these, (n,) int64.

    Raises InputError where an image has no class number, or an archive is cut off or damaged.
    """
    spans, labels = [], []
    for archive in archives:
        images: dict[str, Span] = {}
        numbers: dict[str, int] = {}
        with open(archive, "rb") as file:
            for member in _files(file, str(archive)):
                parts = _KEY.fullmatch(member.name)
                if parts and parts[2] == "cls":
                    numbers[parts[1]] = _number(file, member, archive)
                elif parts and f".{parts[2].lower()}" in SUFFIXES:
                    images[parts[1]] = Span(archive, member.name, member.offset_data, member.size)
        for key, span in images.items():
            if key not in numbers:
                raise InputError(f"image {archive}/{span.name} has no class: its shard must hold {key}.cls too.")
            spans.append(span)
            labels.append(numbers[key])
    return Tars(spans), np.array(labels, np.int64)


def _files(file: IO[bytes], name: str, end: int | None = None) -> list[tarfile.TarInfo]:
    """The files of the tar that begins here and is over at byte `end`, with offsets from the start of `file`.

    Raises InputError where it has no end mark: tarfile itself takes every cut and damaged header for an end.
    """
    end = os.fstat(file.fileno()).st_size if end is None else end
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found = [member for member in tar if member.isfile()]
            file.seek(tar.offset)
        if tar.offset + _BLOCK > end or file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"cut off or damaged after {len(found)} files")
    except tarfile.TarError as error:
        raise InputError(f"{name} is not a whole tar archive ({error}): fetch it again.") from error
    return found


def _number(file: IO[bytes], member: tarfile.TarInfo, archive: Path) -> int:
    file.seek(member.offset_data)
    text = file.read(member.size)
    if not re.fullmatch(rb"\s*\d+\s*", text):
        raise InputError(f"{archive}/{member.name} is {text[:20]!r}: it must hold a class number, 0 or above.")
    return int(text)
