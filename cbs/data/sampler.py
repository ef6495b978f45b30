"""Batches without replacement, from a stream that can be resumed at any sample."""

from __future__ import annotations

import torch

from cbs.streams import stream

_ALL = slice(None)


class Sampler:
    """Endless epochs over n images, each a fresh permutation, cut into batches.

    A batch goes on into the next epoch where b does not divide n: every image is seen exactly once per
    epoch, and no image is left out. The order depends on the seed and the epoch only.
    """

    def __init__(self, images: torch.Tensor, seed: int, device: torch.device) -> None:
        """images: (n, channels, size, size) uint8, on the device or memory-mapped on the host."""
        self.images = images
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

    def draw(self, b: int, part: slice = _ALL) -> torch.Tensor:
        """A part of the next b images, (n, channels, size, size) of torch's default dtype in [-1, 1], on the device."""
        batch = self.images.index_select(0, self.indices(b)[part]).to(self._device, non_blocking=True)
        return batch.to(torch.get_default_dtype()).mul_(1 / 127.5).sub_(1.0)
