"""Batches without replacement, from a stream that can be resumed at any sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cbs.streams import stream


class Pictures(NamedTuple):
    """Real images: (n, channels, size, size) uint8; where they have classes, labels (n,) int64, and how many."""

    images: torch.Tensor
    labels: torch.Tensor | None = None
    classes: int = 0


class Batch(NamedTuple):
    """Images (n, channels, size, size) of torch's default dtype in [-1, 1] and labels (n,), on the device."""

    images: torch.Tensor
    labels: torch.Tensor | None


class Sampler:
    """Endless epochs over n images, each a fresh permutation, cut into batches.

    A batch goes on into the next epoch where b does not divide n: every image is seen exactly once per
    epoch, and no image is left out. The order depends on the seed and the epoch only.
    """

    def __init__(
        self, images: torch.Tensor, seed: int, device: torch.device, labels: torch.Tensor | None = None
    ) -> None:
        """images: (n, channels, size, size) uint8, on the device or memory-mapped on the host."""
        self.images, self.labels = images, labels
        self.consumed = 0
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def seek(self, consumed: int) -> None:
        """Continue after this many samples."""
        self.consumed = consumed

    def _epoch_order(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            order = torch.randperm(len(self.images), generator=stream(self._seed, "data order", epoch))
            self._epoch, self._order = epoch, order.to(self.images.device)
        return self._order

    def indices(self, b: int) -> torch.Tensor:
        """The next b indices, (b,) int64."""
        parts = []
        while b:
            epoch, position = divmod(self.consumed, len(self.images))
            part = self._epoch_order(epoch)[position : position + b]
            parts.append(part)
            self.consumed += len(part)
            b -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def draw(self, b: int, parts: Sequence[slice]) -> list[Batch]:
        """Parts of the next b images."""
        indices = self.indices(b)
        return [self._gathered(indices[part]) for part in parts]

    def _gathered(self, indices: torch.Tensor) -> Batch:
        batch = self.images.index_select(0, indices).to(self._device, non_blocking=True)
        images = batch.to(torch.get_default_dtype()).mul_(1 / 127.5).sub_(1.0)
        return Batch(images, None if self.labels is None else self.labels.index_select(0, indices).to(self._device))
