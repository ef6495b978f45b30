"""Where the bytes of images lie: in arrays, in files, in a zip, in tars, in an lmdb. Nothing is unpacked.

Every store is read from several threads at once.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}


class Store(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call an image in a message."""

    def stamp(self, index: int) -> tuple[int, ...]:
        """Numbers that change when the file of an image does. Raises OSError."""

    def content(self, index: int) -> bytes | np.ndarray:
        """An image as a file's bytes or as pixels. Raises OSError with its errno where the disk fails."""


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _stamp(path: str | Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Arrays:
    """Images that are pixels already, (n, height, width[, 3]) uint8."""

    title: str
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def stamp(self, index: int) -> tuple[int, ...]:
        return ()

    def content(self, index: int) -> np.ndarray:
        return self.pixels[index]


@dataclass(frozen=True)
class Files:
    """One file for each image."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def stamp(self, index: int) -> tuple[int, ...]:
        return _stamp(self.paths[index])

    def content(self, index: int) -> bytes:
        with open(self.paths[index], "rb") as file:
            return file.read()


class Zip:
    """Members of a zip archive."""

    def __init__(self, archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> None:
        self._archive, self._members = archive, members
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._members)

    def name(self, index: int) -> str:
        return f"{self._archive.filename}/{self._members[index].filename}"

    def stamp(self, index: int) -> tuple[int, ...]:
        member = self._members[index]
        return member.CRC, member.file_size

    def content(self, index: int) -> bytes:
        with self._lock:
            return self._archive.read(self._members[index])


@dataclass(frozen=True)
class Span:
    """A member of a tar: where its bytes lie in the file."""

    path: Path
    name: str
    offset: int
    size: int


class Tars:
    """Members of tar archives, or of tars within a tar."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._stamps = {path: _stamp(path) for path in {span.path for span in spans}}

    def __len__(self) -> int:
        return len(self._spans)

    def name(self, index: int) -> str:
        span = self._spans[index]
        return f"{span.path}/{span.name}"

    def stamp(self, index: int) -> tuple[int, ...]:
        span = self._spans[index]
        return *self._stamps[span.path], span.offset, span.size

    def content(self, index: int) -> bytes:
        span = self._spans[index]
        with open(span.path, "rb") as file:
            file.seek(span.offset)
            return file.read(span.size)


class Lmdb:
    """The values of an lmdb database in the order of its keys, as LSUN is handed out.

    torchvision's reader is not used: it leaves a list of keys in the working folder and can't say which
    image it failed on. Raises ModuleNotFoundError without lmdb, lmdb.Error where there is no database.
    """

    def __init__(self, path: Path) -> None:
        import lmdb

        self._path, self._stamp = path, _stamp(path / "data.mdb")
        self._environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
        with self._environment.begin() as reading:
            self._keys = list(reading.cursor().iternext(keys=True, values=False))

    def close(self) -> None:
        """Needed: a process can't open a database twice."""
        self._environment.close()

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return f"{self._path}/{self._keys[index].decode(errors='replace')}"

    def stamp(self, index: int) -> tuple[int, ...]:
        return self._stamp

    def content(self, index: int) -> bytes:
        with self._environment.begin() as reading:
            return bytes(reading.get(self._keys[index], b""))
