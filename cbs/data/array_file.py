"""An array file that is written row by row."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Self

import numpy as np

_CHUNK_BYTES = 2**22


class ArrayFile:
    """A .npy file of (count, channels, size, size) uint8, of which several threads read and write rows.

    Not through a memory map, where a full disk would end the process by a signal.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...]) -> None:
        """Open or create the file with this many rows; those that were there keep their bytes."""
        self.row_bytes = int(np.prod(shape))
        self._shape = shape
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._resize(count)

    def _resize(self, count: int) -> None:
        text = io.BytesIO()
        fields = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._shape)}
        np.lib.format.write_array_header_1_0(text, fields)  # as long for any count: numpy leaves room for its digits
        self._head = len(text.getvalue())
        os.ftruncate(self._descriptor, self._head + count * self.row_bytes)
        os.pwrite(self._descriptor, text.getvalue(), 0)

    def read(self, start: int, stop: int) -> bytes:
        """Rows start..stop−1."""
        return os.pread(self._descriptor, (stop - start) * self.row_bytes, self._head + start * self.row_bytes)

    def write(self, start: int, rows: bytes) -> None:
        """Rows from `start` on. Raises OSError where the disk is full."""
        left, at = memoryview(rows), self._head + start * self.row_bytes
        while left:
            written = os.pwrite(self._descriptor, left, at)
            left, at = left[written:], at + written

    def leave_out(self, gone: list[int], count: int) -> None:
        """Close the gaps that these of `count` rows leave, ascending."""
        step = max(1, _CHUNK_BYTES // self.row_bytes)
        to = gone[0]
        for gap, following in zip(gone, [*gone[1:], count], strict=True):
            for start in range(gap + 1, following, step):
                stop = min(start + step, following)
                self.write(to, self.read(start, stop))
                to += stop - start
        self._resize(to)

    def give_back(self, start: int) -> None:
        """Free the room of the rows from `start` on."""
        os.ftruncate(self._descriptor, self._head + start * self.row_bytes)

    def sync(self) -> None:
        """Return once the rows are on the disk."""
        os.fsync(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
