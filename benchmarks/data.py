"""Images per second: packing and reading, against what GAN scripts do. `python -m benchmarks.data`."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import statistics as stats
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from benchmarks.timing import seconds
from cbs.data import sampler
from cbs.data.ahead import expect
from cbs.data.array_file import ArrayFile
from cbs.data.packed import Packed, prepare
from cbs.data.sampler import Sampler
from cbs.schema import DatasetConfig

_COUNT = 3000
_SIDES = (64, 96, 128, 192, 256)
_SIZE = 64
_COLD_BYTES = 10**9
_SECONDS = 2.0  # of each measurement
_PAIRS = 3
_NORMALISED = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]


def _pictures(folder: Path) -> None:
    """JPEGs of 64 to 256 pixels in ten classes, with the detail that a photograph has at quality 90."""
    rng = np.random.default_rng(0)
    for i in range(_COUNT):
        side = _SIDES[i % len(_SIDES)]
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        fine = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(fine + rng.normal(0, 6, fine.shape), 0, 255).astype(np.uint8)
        (folder / str(i % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 10) / f"{i}.jpg", quality=90)


def _serial(folder: Path) -> np.ndarray:
    """What a script does to keep its images in an array."""
    fit = transforms.Compose([transforms.Resize(_SIZE), transforms.CenterCrop(_SIZE)])
    pictures = datasets.ImageFolder(str(folder), fit)
    return np.stack([np.asarray(image) for image, _ in pictures])


def _packing(pictures: Path, data: Path) -> Packed:
    dataset = DatasetConfig("folder", _SIZE, 3, "crop", "all", str(pictures), "refuse")
    found: list[Packed] = []

    def ours() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            found.append(prepare(dataset, data / str(len(found))))

    pairs = [(seconds(ours), seconds(lambda: _serial(pictures))) for _ in range(_PAIRS)]
    mine, other = (_COUNT / stats.median(pair[i] for pair in pairs) for i in (0, 1))
    ratio = stats.median(theirs / one for one, theirs in pairs)
    print(f"Packing {_COUNT:,} JPEGs of {_SIDES[0]} to {_SIDES[-1]} pixels, checksums and files included: {mine:,.0f} ")
    print(f"images/s, a serial loop into an array {other:,.0f} images/s: {ratio:.1f}×.\n")
    return found[-1]


class InMemory(Dataset):
    """The packed images as a plain script would hold them: one at a time through a torchvision transform."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.transform = images.transpose(0, 2, 3, 1), transforms.Compose(_NORMALISED)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def _loaded(dataset: Dataset[Any], b: int, workers: int, device: torch.device) -> Iterator[torch.Tensor]:
    loader = DataLoader(
        dataset,
        b,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    for _ in itertools.count():
        for images, _labels in loader:
            yield images.to(device, non_blocking=True)


def _drawn(images: torch.Tensor, b: int, device: torch.device, ahead: bool) -> Iterator[torch.Tensor]:
    with mock.patch.object(sampler, "_LARGE_BYTES", 0 if ahead else 2**60):
        source = Sampler(images, 0, device)
    while True:
        yield source.draw(b, [slice(b)])[0].images


def _rate(batches: Iterator[torch.Tensor], b: int, device: torch.device) -> float:
    """Images per second once workers have started."""
    for _ in range(3):
        next(batches)
    _wait(device)
    started, drawn = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        next(batches)
        drawn += b
    _wait(device)
    return drawn / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reading(packed: Packed, pictures: Path, device: torch.device) -> None:
    images = packed.images()
    mapped = torch.from_numpy(images)
    fit = [transforms.Resize(_SIZE), transforms.CenterCrop(_SIZE)]
    files = datasets.ImageFolder(str(pictures), transforms.Compose([*fit, *_NORMALISED]))
    ways: dict[str, Callable[[int], Iterator[torch.Tensor]]] = {
        "cbs, from the device's memory": lambda b: _drawn(mapped.to(device), b, device, False),
        "cbs, memory-mapped, gathered ahead": lambda b: _drawn(mapped, b, device, True),
        "DataLoader, images in memory": lambda b: _loaded(InMemory(images), b, 0, device),
        "DataLoader, images in memory, 8 workers": lambda b: _loaded(InMemory(images), b, 8, device),
        "DataLoader, JPEGs, 8 workers": lambda b: _loaded(files, b, 8, device),
    }
    sizes = (8, 64, 512)
    print(f"Batches of {_SIZE}x{_SIZE}x3 on the device ({device.type}), images/s:\n")
    print("| | " + " | ".join(f"b = {b}" for b in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    for name, batches in ways.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than cores
            rates = [_rate(batches(b), b, device) for b in sizes]
        print(f"| {name} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |", flush=True)


def _cold(folder: Path) -> None:
    """Rows that are not in memory yet: page faults one by one, or all announced to the disk before (cbs.data.ahead)."""
    shape, b = (3, _SIZE, _SIZE), 512
    count = _COLD_BYTES // int(np.prod(shape))
    with ArrayFile(folder / "images.npy", count, shape) as array:
        for start in range(0, count, 1000):
            array.write(start, os.urandom(min(1000, count - start) * array.row_bytes))
        array.sync()
    packed = Packed(folder, count, shape, "", 0, 0)
    times: dict[bool, list[float]] = {False: [], True: []}
    with open(folder / "images.npy", "rb") as file:
        for announced in (False, True) * _PAIRS:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            images, rows = torch.from_numpy(packed.images()), torch.randperm(count)[:b]
            started = time.perf_counter()
            if announced:
                expect(images, rows)
            images.index_select(0, rows)
            times[announced].append(time.perf_counter() - started)
            del images
    faults, expected = (1000 * stats.median(times[announced]) for announced in (False, True))
    print(f"\n{b} rows of {count:,} that are on the disk only: {faults:,.0f} ms left to page faults, ")
    print(f"{expected:,.0f} ms announced beforehand: {faults / expected:.0f}×.")


def report() -> None:
    print(f"\n## Data: packing and reading, {os.cpu_count()} cores\n")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        _pictures(pictures)
        _reading(_packing(pictures, Path(folder)), pictures, device)
        _cold(Path(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    report()
