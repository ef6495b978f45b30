"""The real side of a metric, computed once per machine and kept under <data>/statistics by content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cbs.data.packed import Packed
from cbs.metrics.features import Features
from cbs.metrics.frechet import Moments, Statistics, root
from cbs.metrics.rounding import to_bytes
from cbs.record import write_atomic
from cbs.streams import stream

# The metrics that compare means and covariances.
FRECHET = {"fid", "fid_infinity"}
SCHEMA = {"fixed": 1, "per_image": 2}
_CHUNK = 1024
# Values of a chunk, where its images are large.
_CHUNK_VALUES = 2**24
# Real images behind KID, whose subsets are of 1,000.
_SAMPLE = 10_000


class Reference:
    """A data set as its features.

    statistics: of all images. root: L of their Σ = L Lᵀ. sample: (n, d) float32, of up to 10,000 images, the same
    everywhere.
    """

    statistics: Statistics
    root: torch.Tensor
    sample: torch.Tensor

    def __init__(
        self,
        metrics: Collection[str],
        packed: Packed,
        features: Features,
        normalisation: str,
        data: Path,
        device: torch.device,
    ) -> None:
        """Compute what these metrics compare with; the rest is left out."""
        self._packed, self._features, self._normalisation, self._device = packed, features, normalisation, device
        ground = (SCHEMA[normalisation], packed.digest, features.digest, features.size, normalisation)
        name = hashlib.sha256("/".join(map(str, ground)).encode()).hexdigest()[:16]
        if FRECHET.intersection(metrics):
            self.statistics = self._statistics(data / "statistics" / f"{name}.npz")
            self.root = root(self.statistics.cov, self.statistics.count - 1)
        if "kid" in metrics:
            self.sample = self._sample(data / "statistics" / f"{name}-sample.npz")

    def _statistics(self, path: Path) -> Statistics:
        kept = self._load(path, "mean", "cov", "count")
        if kept is not None:
            mean, cov, count = kept
            return Statistics(mean, cov, int(count))
        moments = Moments(self._features.size, self._device)
        for images in self._chunks(np.arange(self._packed.count)):
            moments.add(self._features(images))
        found = moments.statistics()
        _save(path, mean=found.mean, cov=found.cov, count=torch.tensor(found.count))
        return found

    def _sample(self, path: Path) -> torch.Tensor:
        kept = self._load(path, "features")
        if kept is not None:
            return kept[0]
        order = torch.randperm(self._packed.count, generator=stream(0, "real sample"))
        chosen = order[:_SAMPLE].sort().values.numpy()
        found = torch.cat([self._features(images) for images in self._chunks(chosen)])
        _save(path, features=found)
        return found

    def _chunks(self, chosen: np.ndarray) -> Iterable[torch.Tensor]:
        """These images in 0..255, float32, on the device."""
        images = self._packed.images()
        size = max(1, min(_CHUNK, _CHUNK_VALUES // images[0].size))
        for start in range(0, len(chosen), size):
            pixels = torch.from_numpy(images[chosen[start : start + size]]).to(self._device).float()
            # As the authors' loaders read an image: to [0, 1], then to [-1, 1], in float32.
            yield pixels if self._normalisation == "fixed" else to_bytes((pixels / 255 - 0.5) / 0.5, "per_image")

    def _load(self, path: Path, *names: str) -> list[torch.Tensor] | None:
        try:
            with open(path, "rb") as file, np.load(file) as saved:
                return [torch.from_numpy(saved[name]).to(self._device) for name in names]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def _save(path: Path, **tensors: torch.Tensor) -> None:
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
