"""The Fréchet distance of generated images to a packed data set, with the real side cached by content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from cbs.data.packed import Packed
from cbs.metrics.features import Features
from cbs.metrics.frechet import Moments, Statistics, frechet_distance, root
from cbs.record import write_atomic

SCHEMA = 1
_CHUNK = 1024


def to_bytes(images: torch.Tensor, normalisation: str) -> torch.Tensor:
    """Images in [-1, 1] as the whole numbers 0..255 that a PNG file would hold, still float32.

    "fixed": [-1, 1] is the range. "per_image": each image is stretched to its own minimum and maximum,
    which is what torchvision's save_image(normalize=True) does.
    """
    low, high = -1.0, 1.0
    if normalisation == "per_image":
        flat = images.flatten(1)
        low = flat.amin(1).view(-1, 1, 1, 1)  # type: ignore[assignment]
        high = flat.amax(1).view(-1, 1, 1, 1).clamp_min(low + 1e-5)  # type: ignore[assignment]
    return ((images - low) * (255.0 / (high - low)) + 0.5).clamp_(0, 255).floor_()


def statistics(chunks: Iterable[torch.Tensor], features: Features, device: torch.device) -> Statistics:
    """Mean and covariance of the features of (n, c, h, w) chunks in 0..255."""
    moments = Moments(features.size, device)
    for images in chunks:
        moments.add(features(images))
    return moments.statistics()


def _real_chunks(packed: Packed, normalisation: str, device: torch.device) -> Iterable[torch.Tensor]:
    images = torch.from_numpy(packed.images())
    for chunk in images.split(_CHUNK):
        pixels = chunk.to(device).float()
        yield pixels if normalisation == "fixed" else to_bytes(pixels / 127.5 - 1, normalisation)


class Distance:
    """FID to one data set: the real side is computed once per machine and kept under <data>/statistics."""

    def __init__(
        self, packed: Packed, features: Features, normalisation: str, data: Path, device: torch.device
    ) -> None:
        self._features, self._normalisation, self._device = features, normalisation, device
        name = hashlib.sha256(f"{SCHEMA}/{packed.digest}/{features.digest}/{features.size}/{normalisation}".encode())
        self._path = data / "statistics" / f"{name.hexdigest()[:16]}.npz"
        self._real = self._load() or self._compute(packed)
        self._root = root(self._real.cov, self._real.count - 1)

    def _load(self) -> Statistics | None:
        try:
            with open(self._path, "rb") as file, np.load(file) as saved:
                mean, cov = (torch.from_numpy(saved[k]).to(self._device) for k in ("mean", "cov"))
                return Statistics(mean, cov, int(saved["count"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _compute(self, packed: Packed) -> Statistics:
        found = statistics(_real_chunks(packed, self._normalisation, self._device), self._features, self._device)
        buffer = io.BytesIO()
        np.savez(buffer, mean=found.mean.cpu().numpy(), cov=found.cov.cpu().numpy(), count=found.count)
        write_atomic(self._path, buffer.getvalue())
        return found

    def rehearse(self, images: torch.Tensor) -> None:
        """What a chunk of generated images takes of the device's memory is taken once."""
        self._features(to_bytes(images, self._normalisation))

    def __call__(self, generated: Iterable[torch.Tensor]) -> float:
        """generated: chunks of (n, c, h, w) in [-1, 1]"""
        chunks = (to_bytes(images, self._normalisation) for images in generated)
        return frechet_distance(statistics(chunks, self._features, self._device), self._real, self._root)
