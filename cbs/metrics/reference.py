"""The real side of a metric, computed once per machine and kept under <data>/statistics by content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cbs.claim import alone
from cbs.data.packed import Packed
from cbs.data.progress import progress
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
            mean, cov, count = self._kept(data / "statistics" / f"{name}.npz", self._statistics)
            self.statistics = Statistics(mean, cov, int(count))
            self.root = root(cov, self.statistics.count - 1)
        if "kid" in metrics:
            (self.sample,) = self._kept(data / "statistics" / f"{name}-sample.npz", self._sample)

    def _kept(self, path: Path, compute: Callable[[], dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        """What is in a file, computed first where it is missing or damaged; other processes wait for it meanwhile."""
        found = self._load(path)
        if found is None:
            with alone(path.parent / ".claims" / path.stem):
                found = self._load(path) or self._save(path, compute())
        return found

    def _load(self, path: Path) -> list[torch.Tensor] | None:
        try:
            with open(path, "rb") as file, np.load(file) as saved:
                return [torch.from_numpy(saved[name]).to(self._device) for name in saved.files]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _save(self, path: Path, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomic(path, buffer.getvalue())
        return list(tensors.values())

    def _statistics(self) -> dict[str, torch.Tensor]:
        moments = Moments(self._features.size, self._device)
        for features in self._seen(np.arange(self._packed.count)):
            moments.add(features)
        found = moments.statistics()
        return {"mean": found.mean, "cov": found.cov, "count": torch.tensor(found.count)}

    def _sample(self) -> dict[str, torch.Tensor]:
        order = torch.randperm(self._packed.count, generator=stream(0, "real sample"))
        return {"features": torch.cat(list(self._seen(order[:_SAMPLE].sort().values.numpy())))}

    def _seen(self, chosen: np.ndarray) -> Iterator[torch.Tensor]:
        """The features of these images, a chunk after the other."""
        images = self._packed.images()
        size = max(1, min(_CHUNK, _CHUNK_VALUES // images[0].size))
        with progress("features of real images", len(chosen)) as advance:
            for start in range(0, len(chosen), size):
                pixels = torch.from_numpy(images[chosen[start : start + size]]).to(self._device).float()
                if self._normalisation == "per_image":
                    # As the authors' loaders read an image: to [0, 1], then to [-1, 1], in float32.
                    pixels = to_bytes((pixels / 255 - 0.5) / 0.5, "per_image")
                yield self._features(pixels)
                advance(len(pixels))
