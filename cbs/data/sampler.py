"""Batches without replacement, from a stream that can be resumed at any sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cbs.data.ahead import Ahead
from cbs.streams import stream

# From this size on a CPU's images, which may come from the disk, are gathered ahead in a thread: it costs some 50 µs
# a batch. A rule and not a measurement, so that a run does the same on every machine.
_LARGE_BYTES = 2**30


class Pictures(NamedTuple):
    """Real images: (n, channels, size, size) uint8; where they have classes, labels (n,) int64, and how many."""

    images: torch.Tensor
    labels: torch.Tensor | None = None
    classes: int = 0


class Batch(NamedTuple):
    """images: (n, channels, size, size) of torch's default dtype in [-1, 1]; labels: (n,) int64, or None."""

    images: torch.Tensor
    labels: torch.Tensor | None


class Order:
    """Endless epochs over n images, each a fresh permutation, which depends on the seed and the epoch only."""

    def __init__(self, n: int, seed: int, device: torch.device) -> None:
        """device: where indices are wanted."""
        self._n, self._seed, self._device = n, seed, device
        self._latest = (-1, torch.empty(0, dtype=torch.int64))

    def _epoch(self, epoch: int) -> torch.Tensor:
        known, order = self._latest
        if epoch != known:
            drawn = torch.randperm(self._n, generator=stream(self._seed, "data order", epoch))
            order = drawn.to(self._device)
            self._latest = epoch, order
        return order

    def indices(self, start: int, b: int) -> torch.Tensor:
        """The images of samples start..start+b−1, (b,) int64."""
        parts = []
        while b:
            epoch, position = divmod(start, self._n)
            part = self._epoch(epoch)[position : position + b]
            parts.append(part)
            start += len(part)
            b -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, start: int, b: int, parts: Sequence[slice]) -> torch.Tensor:
        """The images of parts of those samples, one after the other, (n,) int64."""
        indices = self.indices(start, b)
        return indices[parts[0]] if len(parts) == 1 else torch.cat([indices[part] for part in parts])


class Sampler:
    """Batches of n images.

    A batch goes on into the next epoch where b does not divide n: every image is seen exactly once per
    epoch, and no image is left out.
    """

    def __init__(
        self, images: torch.Tensor, seed: int, device: torch.device, labels: torch.Tensor | None = None
    ) -> None:
        """images: (n, channels, size, size) uint8, on the device or memory-mapped on the host. labels: (n,) int64."""
        self.images = images
        self.labels = None if labels is None else labels.to(images.device)
        self.consumed = 0
        self._order = Order(len(images), seed, images.device)
        on_host = images.device.type == "cpu"
        ahead = on_host and (device.type != "cpu" or images.nbytes >= _LARGE_BYTES)
        self._ahead = Ahead(self.images, self.labels, device, self._order.rows) if ahead else None

    def seek(self, consumed: int) -> None:
        """Continue after this many samples."""
        self.consumed = consumed
        if self._ahead is not None:
            self._ahead.forget()

    def indices(self, b: int) -> torch.Tensor:
        """The next b indices, (b,) int64."""
        found = self._order.indices(self.consumed, b)
        self.consumed += b
        return found

    def draw(self, b: int, parts: Sequence[slice]) -> list[Batch]:
        """Parts of the same next b images, on the device.

        Raises what went wrong while they were gathered ahead, as if it had gone wrong now.
        """
        if self._ahead is None:
            rows = self._order.rows(self.consumed, b, parts)
            pixels = self.images.index_select(0, rows)
            labels = None if self.labels is None else self.labels.index_select(0, rows)
        else:
            pixels, labels = self._ahead.take(self.consumed, b, parts)
        self.consumed += b
        return _cut(pixels, labels, b, parts)

    def pick(self, indices: torch.Tensor, parts: Sequence[slice]) -> list[Batch]:
        """Parts of a batch of these images, indices (b,) int64, on their device. What is drawn next stays the same."""
        rows = torch.cat([indices[part] for part in parts]).to(self.images.device)
        pixels = self.images.index_select(0, rows).to(indices.device)
        labels = None if self.labels is None else self.labels.index_select(0, rows).to(indices.device)
        return _cut(pixels, labels, len(indices), parts)


def _cut(pixels: torch.Tensor, labels: torch.Tensor | None, b: int, parts: Sequence[slice]) -> list[Batch]:
    """Pixels, one part of a batch of b after the other, as what networks are given."""
    images = pixels.mul(1 / 127.5).sub_(1.0)
    if len(parts) == 1:
        return [Batch(images, labels)]
    sizes = [len(range(b)[part]) for part in parts]
    apart = [None] * len(parts) if labels is None else labels.split(sizes)
    return [Batch(*part) for part in zip(images.split(sizes), apart, strict=True)]


def draw_together(samplers: Sequence[Sampler], b: int) -> torch.Tensor:
    """The next b images of several samplers of the same data, by one gathering where it lies at hand.

    (R, b, channels, size, size), on the device.
    """
    if any(sampler._ahead is not None for sampler in samplers):
        return torch.stack([sampler.draw(b, [slice(b)])[0].images for sampler in samplers])
    pixels = samplers[0].images.index_select(0, torch.cat([sampler.indices(b) for sampler in samplers]))
    return pixels.mul(1 / 127.5).sub_(1.0).unflatten(0, (len(samplers), b))
