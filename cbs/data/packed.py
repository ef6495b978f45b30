"""The packed form of a data set: one uint8 array on disk, decoded once, memory-mapped, checksummed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbs.claim import alone
from cbs.record import write_json
from cbs.schema import DatasetConfig

SCHEMA = 1
# Up to this size the whole array is verified at every opening; above, when the file has changed since.
_ALWAYS_VERIFY_BYTES = 2**30


@dataclass(frozen=True)
class Packed:
    """A data set on disk: `count` images of `shape` (channels, size, size), sha256 of the array file."""

    path: Path
    count: int
    shape: tuple[int, int, int]
    digest: str
    classes: int = 0

    def labels(self) -> np.ndarray | None:
        return None

    def images(self) -> np.ndarray:
        """(count, channels, size, size) uint8, memory-mapped; writing to it changes no file."""
        return np.load(self.path / "images.npy", mmap_mode="c")


def _folder(dataset: DatasetConfig, data: Path) -> Path:
    fields = asdict(dataset)
    if dataset.name == "folder":
        fields["source"] = str(Path(str(dataset.source)).expanduser().resolve())
    else:
        del fields["source"]
    digest = hashlib.sha256(json.dumps([SCHEMA, fields], sort_keys=True).encode()).hexdigest()[:8]
    return data / "packed" / f"{dataset.name}-{dataset.image_size}x{dataset.image_size}-{digest}"


def prepare(dataset: DatasetConfig, data: Path) -> Packed:
    """Open the packed form of a data set, making it first where it is missing or damaged.

    Safe against other processes doing the same. Raises InputError where the original is missing.
    """
    folder = _folder(dataset, data)
    packed = _opened(folder)
    if packed is not None:
        return packed
    with alone(folder.parent / ".claims" / folder.name):
        packed = _opened(folder)
        if packed is None:
            if folder.exists():
                aside = folder.with_name(f"damaged-{time.time_ns()}-{folder.name}")
                os.replace(folder, aside)
                print(f"{folder} is damaged: set aside as {aside.name} and made anew.", file=sys.stderr)
            packed = _pack(dataset, data, folder)
    return packed


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _opened(folder: Path) -> Packed | None:
    """The packed data set in this folder, verified; None where it is missing, partial or damaged."""
    array, meta_path, verified = folder / "images.npy", folder / "meta.json", folder / "verified.json"
    try:
        meta: dict[str, Any] = json.loads(meta_path.read_text())
        known = verified.exists() and json.loads(verified.read_text())["stamp"] == _stamp(array)
        if array.stat().st_size <= _ALWAYS_VERIFY_BYTES or not known:
            if _sha256(array) != meta["sha256"]:
                return None
            if not known:
                write_json(verified, {"stamp": _stamp(array)})
        return Packed(folder, meta["count"], tuple(meta["shape"]), meta["sha256"])
    except (OSError, ValueError, KeyError):
        return None


def _pack(dataset: DatasetConfig, data: Path, folder: Path) -> Packed:
    from rich.progress import track

    from cbs.data.sources import decoded, open_source

    source = open_source(dataset, data)
    shape = (dataset.channels, dataset.image_size, dataset.image_size)
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    for rest in folder.parent.glob(f".{folder.name}.*"):  # nobody else is at it now: it was killed there
        shutil.rmtree(rest, ignore_errors=True)
    building.mkdir()
    try:
        array_path = building / "images.npy"
        array = np.lib.format.open_memmap(array_path, mode="w+", dtype=np.uint8, shape=(source.count, *shape))
        blocks = decoded(dataset, source, workers=os.cpu_count() or 1)
        if sys.stderr.isatty():
            total = -(-source.count // 256)
            blocks = iter(track(blocks, total=total, description=f"packing {dataset.name}", transient=True))
        at = 0
        for block in blocks:
            array[at : at + len(block)] = block
            at += len(block)
        array.flush()
        digest = _sha256(array_path)
        write_json(
            building / "meta.json",
            {"schema": SCHEMA, "count": source.count, "shape": shape, "sha256": digest, "dataset": asdict(dataset)},
        )
        write_json(building / "verified.json", {"stamp": _stamp(array_path)})
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Packed(folder, source.count, shape, digest)
