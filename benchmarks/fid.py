"""One FID at 64 pixels: in memory, and as clean-fid has it, over a folder of PNG files.

`python -m benchmarks.fid [images] [images]`: how many with Inception's architecture and with a light network
(a minute's worth of each; the paper's figure is 50,000), or as a part of `make bench`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.models import inception_v3
from torchvision.utils import save_image

from benchmarks.timing import seconds
from cbs.metrics.frechet import Moments, Statistics, frechet_distance, root
from cbs.metrics.inception import Inception
from cbs.metrics.rounding import to_bytes
from cbs.metrics.sampling import sampling_error
from cbs.metrics.weights import INCEPTION_NAME

CPU = torch.device("cpu")
_SIZE, _CHUNK = 64, 128


class Layers(nn.Module):
    """What clean-fid's TorchScript file has."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _inception() -> nn.Module:
    """Inception v3 from the image to its 2,048 features, with random weights."""
    network = inception_v3(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    return nn.Sequential(*[child for name, child in network.named_children() if name not in ("dropout", "fc")])


def _light() -> nn.Module:
    """2,048 features at next to no cost."""
    return nn.Sequential(nn.AvgPool2d(37), nn.Flatten(), nn.Linear(192, 2048), nn.ReLU())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _generated(count: int) -> Iterator[torch.Tensor]:
    """Pieces of two photographs in [-1, 1], the same for both; smoother images would make smaller PNG files."""
    photos = [torch.from_numpy(photo).permute(2, 0, 1) / 127.5 - 1 for photo in load_sample_images().images]
    draw = torch.Generator().manual_seed(0)
    for start in range(0, count, _CHUNK):
        chunk = []
        for _ in range(min(_CHUNK, count - start)):
            photo = photos[int(torch.randint(len(photos), (1,), generator=draw))]
            top, left = (int(torch.randint(side - _SIZE + 1, (1,), generator=draw)) for side in photo.shape[1:])
            chunk.append(photo[:, top : top + _SIZE, left : left + _SIZE])
        yield torch.stack(chunk)


def _ours(file: Path, count: int, device: torch.device) -> tuple[torch.Tensor, float]:
    """The features' mean, and the seconds from the generator's images to mean and covariance, as a run takes them."""
    network, moments, kept, spent = Inception(file, device), Moments(2048, device), [], 0.0
    for chunk in _generated(count):
        images = chunk.to(device)
        started = time.perf_counter()
        kept.append(network.features(to_bytes(images, "fixed")))  # the sampling error needs them again
        moments.add(kept[-1])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent += time.perf_counter() - started
    started = time.perf_counter()
    mean = moments.statistics().mean.cpu()
    return mean, spent + time.perf_counter() - started


def _theirs(file: Path, count: int, cores: int, device: torch.device) -> tuple[np.ndarray, float]:
    """The same of clean-fid, by way of the folder."""
    network, spent, at = InceptionV3W(str(file.parent), download=False).to(device), 0.0, 0
    with tempfile.TemporaryDirectory() as folder, _threads(cores):
        for images in _generated(count):
            started = time.perf_counter()
            for image in images:
                save_image(image, f"{folder}/{at:06d}.png", normalize=True, value_range=(-1, 1))
                at += 1
            spent += time.perf_counter() - started
        started = time.perf_counter()
        workers = cores if cores > 1 else 0
        found = cleanfid.get_folder_features(folder, network, num_workers=workers, device=device, verbose=False)
        mean, _ = found.mean(0), np.cov(found, rowvar=False)
        return mean, spent + time.perf_counter() - started


def _distance(device: torch.device) -> tuple[float, float]:
    """Seconds of both for the distance of 2,048 features, ours with its sampling error, the real side's root known."""
    draw = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -3, 2048, dtype=torch.float64)  # falling as Inception's does
    mixing = torch.randn(2048, 2048, dtype=torch.float64, generator=draw) * spectrum / 45
    sides = [torch.randn(5000, 2048, dtype=torch.float64, generator=draw) @ mixing + shift for shift in (0.0, 0.02)]
    sides = [side.to(device) for side in sides]
    a, b = (Statistics.of(side) for side in sides)
    known, arrays = root(b.cov, b.count - 1), [x.cpu().numpy() for x in (a.mean, a.cov, b.mean, b.cov)]
    values: list[float] = []
    mine = seconds(lambda: values.append(frechet_distance(a, b, known)))
    error = seconds(lambda: sampling_error(sides[0].float(), a, b, known))
    theirs = seconds(lambda: values.append(cleanfid.frechet_distance(*arrays)))
    print(f"The distance of 2,048 features: cbs {mine:.1f} s and its sampling error {error:.1f} s, ", end="")
    print(f"clean-fid {theirs:.1f} s: {theirs / (mine + error):.1f}×; ", end="")
    print(f"relative difference {abs(values[0] / values[1] - 1):.0e}.\n", flush=True)
    return mine + error, theirs


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _images(name: str, layers: nn.Module, count: int, distance: tuple[float, float], device: torch.device) -> None:
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / INCEPTION_NAME
        torch.jit.script(Layers(layers).eval()).save(str(file))
        ours, mine = _ours(file, count, device)
        for used in sorted({1, cores}):
            mean, theirs = _theirs(file, count, used, device)
            np.testing.assert_allclose(ours, mean, atol=1e-3)
            each = [f"{1000 * spent / count:.1f}" for spent in (mine, theirs)]
            whole = (theirs + distance[1]) / (mine + distance[0])
            _row(name, f"{count:,}", str(used), *each, f"{theirs / mine:.1f}×", f"{whole:.1f}×")


def report(inception: int = 200, light: int = 2000, *, device: torch.device = CPU) -> None:
    """Print the distance's figures and both networks', as Markdown."""
    torch.manual_seed(0)
    with warnings.catch_warnings(), _threads(1):
        warnings.simplefilter("ignore")  # TorchScript and scipy's sqrtm say that they are old
        distance = _distance(device)
        print("From the generator's floats to mean and covariance, ms per image, cbs on one core as runs are;")
        print("the whole FID is this and the distance.\n")
        _row("network", "images", "clean-fid's cores", "cbs", "clean-fid", "ratio", "ratio of the whole FID")
        _row(*["---"] * 7)
        _images("Inception v3", _inception(), inception, distance, device)
        _images("light", _light(), light, distance, device)


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
