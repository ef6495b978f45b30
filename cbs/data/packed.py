"""The packed form of a data set: one uint8 array on disk, decoded once, memory-mapped, checksummed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import mmap
import os
import shutil
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from cbs.claim import alone
from cbs.data.packing import Packing
from cbs.data.sources import Source, open_source
from cbs.errors import InputError, counted
from cbs.record import write_atomic, write_json
from cbs.schema import DatasetConfig

SCHEMA = 2
_MOST_THREADS = 32  # more would wait for Python's lock
# Up to this size the whole array is verified at every opening; above, when the file has changed since.
_ALWAYS_VERIFY_BYTES = 2**30
# A private mapping counts as memory that might be needed: without this flag, one larger than the machine's is refused.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Packed:
    """A data set on disk: `count` images of `shape` (channels, size, size), sha256 of the array file.

    classes: how many, 0 where the images have none. skipped: corrupt images that were left out.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    digest: str
    classes: int
    skipped: int

    def images(self) -> np.ndarray:
        """(count, channels, size, size) uint8, memory-mapped; writing to it changes no file."""
        with open(self.path / "images.npy", "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
            return np.frombuffer(mapped, np.uint8, offset=file.tell()).reshape(self.count, *self.shape)

    def labels(self) -> np.ndarray | None:
        """The images' classes, (count,) int64 in 0..classes−1; None where they have none."""
        return np.load(self.path / "labels.npy") if self.classes else None


def _folder(dataset: DatasetConfig, data: Path) -> Path:
    fields = asdict(dataset)
    del fields["corrupt"]  # what it decides is in meta.json
    if dataset.name == "folder":
        fields["source"] = str(Path(str(dataset.source)).expanduser().resolve())
    else:
        del fields["source"]
    digest = hashlib.sha256(json.dumps([SCHEMA, fields], sort_keys=True).encode()).hexdigest()[:8]
    return data / "packed" / f"{dataset.name}-{dataset.image_size}x{dataset.image_size}-{digest}"


def prepare(dataset: DatasetConfig, data: Path) -> Packed:
    """Open the packed form of a data set, making it first where it is missing or damaged.

    Safe against other processes doing the same. Raises InputError where the original is missing, where the disk has
    too little room, and where images are corrupt or were left out and dataset.corrupt is `refuse`.
    """
    folder = _folder(dataset, data)
    packed = _opened(folder)
    if packed is None:
        with alone(folder.parent / ".claims" / folder.name):
            packed = _opened(folder) or _made(dataset, data, folder)
    if packed.skipped and dataset.corrupt == "refuse":
        raise InputError(
            f"dataset.corrupt is 'refuse', but {folder} was packed without {counted(packed.skipped, 'corrupt image')}, "
            "which its meta.json names: set dataset.corrupt=skip, or replace them, remove that folder and run again."
        )
    return packed


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _opened(folder: Path) -> Packed | None:
    """The packed data set in this folder, verified; None where it is missing, partial or damaged."""
    array, labels, verified = folder / "images.npy", folder / "labels.npy", folder / "verified.json"
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        known = verified.exists() and json.loads(verified.read_text())["stamp"] == _stamp(array)
        if array.stat().st_size <= _ALWAYS_VERIFY_BYTES or not known:
            if _sha256(array) != meta["sha256"]:
                return None
            if not known:
                write_json(verified, {"stamp": _stamp(array)})
        if meta["classes"] and _sha256(labels) != meta["labels_sha256"]:
            return None
        return _packed(folder, meta)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _packed(folder: Path, meta: dict[str, Any]) -> Packed:
    shape, skipped = tuple(meta["shape"]), len(meta["skipped"])
    return Packed(folder, meta["count"], shape, meta["sha256"], meta["classes"], skipped)


def _made(dataset: DatasetConfig, data: Path, folder: Path) -> Packed:
    """Pack a data set into this folder, which is there once all of it is; the caller is the only one to do so."""
    if folder.exists():
        aside = folder.with_name(f"damaged-{time.time_ns()}-{folder.name}")
        os.replace(folder, aside)
        print(f"{folder} is damaged: set aside as {aside.name} and made anew.", file=sys.stderr)
    building = folder.with_name(f".{folder.name}.unfinished")
    building.mkdir(exist_ok=True)
    try:
        with closing(open_source(dataset, data)) as source:
            packing = Packing(dataset, source, building, min(joblib.cpu_count(), _MOST_THREADS))
            meta = _describe(dataset, source, packing.run(), building)
        os.replace(building, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"paths.data: there is no room left for {dataset.name} in {folder.parent} ({error.strerror}): "
            "make some and run again, which goes on from here."
        ) from error
    finally:
        if building.exists() and not (building / "journal.json").exists():  # nothing to go on from
            shutil.rmtree(building)
    for used in ("journal.json", "corrupt.txt"):
        (folder / used).unlink(missing_ok=True)
    print(f"packed {dataset.name}: {folder}", file=sys.stderr)
    return _packed(folder, meta)


def _describe(dataset: DatasetConfig, source: Source, corrupt: dict[int, str], building: Path) -> dict[str, Any]:
    """Write beside a finished array what belongs to it: labels, meta.json, which is returned, and its stamp."""
    array, gone = building / "images.npy", sorted(corrupt)
    meta = {
        "schema": SCHEMA,
        "count": len(source.store) - len(gone),
        "shape": [dataset.channels, dataset.image_size, dataset.image_size],
        "sha256": _sha256(array),
        "classes": source.classes,
        "skipped": [[source.store.name(index), corrupt[index]] for index in gone],
        "layout": source.layout,
        "dataset": asdict(dataset),
    }
    if source.labels is not None:
        buffer = io.BytesIO()
        np.save(buffer, np.delete(source.labels, gone))
        write_atomic(building / "labels.npy", buffer.getvalue())
        meta["labels_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    write_json(building / "meta.json", meta)
    write_json(building / "verified.json", {"stamp": _stamp(array)})
    return meta
