"""The next batch, gathered on the host by a thread while the device computes."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Rows = Callable[[int, int, Sequence[slice]], torch.Tensor]


class Gathered(NamedTuple):
    """pixels: (n, channels, size, size) uint8; labels: (n,) int64 or None; copied: when both are on the GPU."""

    pixels: torch.Tensor
    labels: torch.Tensor | None
    copied: torch.cuda.Event | None = None


class Ahead:
    """Gathers a batch, and then at once the one that is most likely asked for next: as many images, one batch on.

    What was gathered and isn't asked for is dropped. One thread does everything, in the order asked for.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor | None, device: torch.device, rows: Rows) -> None:
        """images, labels: on the host. rows: the indices (n,) of parts of b images from a sample on."""
        self._images, self._labels, self._rows, self._device = images, labels, rows, device
        self._upload = Upload(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "cbs-data")
        self._next: tuple[object, Future[Gathered]] | None = None

    def forget(self) -> None:
        """Drop what was gathered."""
        self._next = None

    def take(self, start: int, b: int, parts: Sequence[slice]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images (n, channels, size, size) uint8 and labels (n,) int64 of parts of the b images from `start` on.

        On the device. Raises what the thread raised.
        """
        request, expected = (start, b, tuple(parts)), self._next
        self._next = None
        asked = expected[1] if expected and expected[0] == request else self._thread.submit(self._gather, *request)
        gathered = asked.result()
        following = (start + b, b, tuple(parts))
        self._next = following, self._thread.submit(self._gather, *following)
        if gathered.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(gathered.copied)
            gathered.pixels.record_stream(stream)  # else its memory may be given away while this stream still reads
        return gathered.pixels, gathered.labels

    def _gather(self, start: int, b: int, parts: Sequence[slice]) -> Gathered:
        rows = self._rows(start, b, parts)
        expect(self._images, rows)
        if self._upload is not None:
            return self._upload(self._images, self._labels, rows)
        labels = None if self._labels is None else self._labels.index_select(0, rows)
        return Gathered(self._images.index_select(0, rows), labels)


def expect(images: torch.Tensor, rows: torch.Tensor) -> None:
    """Have the disk read all these rows at once: left to page faults, it would be asked for one page at a time."""
    size, base = images[0].nbytes, images.data_ptr()
    for row in rows.tolist():
        first = base + row * size
        page = first - first % mmap.PAGESIZE
        _madvise(page, first + size - page, mmap.MADV_WILLNEED)


class Upload:
    """Rows to a GPU by one asynchronous copy on a stream of its own, through two page-locked buffers in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * 2
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]
        self._turn = 0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor | None, rows: torch.Tensor) -> Gathered:
        """images, labels: on the host, those at `rows` (n,) are sent."""
        self._turn = 1 - self._turn
        n, shape = len(rows), images.shape[1:]
        head = 0 if labels is None else 8 * n
        size = head + n * images[0].nbytes
        with torch.cuda.stream(self._stream):
            self._copied[self._turn].synchronize()  # what was in this buffer has left it
            if self._buffers[self._turn].numel() < size:
                self._buffers[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            buffer = self._buffers[self._turn][:size]
            if labels is not None:
                torch.index_select(labels, 0, rows, out=buffer[:head].view(torch.int64))
            torch.index_select(images, 0, rows, out=buffer[head:].view(n, *shape))
            sent = buffer.to(self._device, non_blocking=True)
            copied = self._copied[self._turn] = torch.cuda.Event()
            copied.record(self._stream)
        pixels = sent[head:].view(n, *shape)
        return Gathered(pixels, None if labels is None else sent[:head].view(torch.int64), copied)
