"""Packing: every image decoded once into an array file, by several threads, going on where a killed one stopped.

Decoders and disks work outside Python's lock, so threads keep some ten cores busy, and they share one list of
millions of names. Each block of images has its place in the file and its entry in a journal: what it was made of,
the checksum of its bytes and its corrupt images. A block is made again where either digest isn't its entry's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from cbs.data.array_file import ArrayFile
from cbs.data.decode import Corrupt, decode, load_decoders, unreadable
from cbs.data.progress import about, progress, size
from cbs.data.sources import Source
from cbs.errors import InputError, counted
from cbs.record import write_atomic
from cbs.schema import DatasetConfig

_BLOCK_BYTES = 2**22
_JOURNAL_SECONDS = 5.0
_NAMED = 20  # corrupt images that are printed
_SAMPLE = 16  # images for each thread, decoded beforehand to tell how long all will take


@dataclass(frozen=True)
class Block:
    """A finished block: digests of its originals' names and stamps and of its bytes, corrupt images and why."""

    origin: str
    sha256: str
    corrupt: dict[str, str]


class Journal:
    """The finished blocks of a packing, by number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.blocks: dict[str, Block] = {}
        try:
            self.blocks = {number: Block(*entry) for number, entry in json.loads(path.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # there is none, or it is damaged: all blocks are made again
        self._written = time.monotonic()

    def add(self, number: int, block: Block) -> None:
        self.blocks[str(number)] = block
        if time.monotonic() - self._written >= _JOURNAL_SECONDS:
            self.write()

    def write(self) -> None:
        if self.blocks:
            lines = {number: astuple(block) for number, block in self.blocks.items()}
            write_atomic(self._path, json.dumps(lines).encode())
        self._written = time.monotonic()


class Packing:
    """A data set on its way into folder/images.npy."""

    def __init__(self, dataset: DatasetConfig, source: Source, folder: Path, threads: int) -> None:
        self._dataset, self._source, self._folder, self._threads = dataset, source, folder, threads
        self.shape = (dataset.channels, dataset.image_size, dataset.image_size)
        self.count = len(source.store)
        self._rows = max(1, _BLOCK_BYTES // int(np.prod(self.shape)))  # of a block
        self._journal = Journal(folder / "journal.json")

    def run(self) -> dict[int, str]:
        """Write every image; returns why which are corrupt, their rows closed up.

        Raises InputError where the disk has no room for all, where images are corrupt and dataset.corrupt is
        `refuse`, and where an image can't be read or has another size than is asked for. What is finished by
        then is kept.
        """
        self._announce()
        load_decoders()
        pool = ThreadPoolExecutor(self._threads)
        with ArrayFile(self._folder / "images.npy", self.count, self.shape) as array:
            try:
                self._estimate(pool)
                corrupt = self._blocks(pool, array)
            except OSError:
                pool.shutdown(cancel_futures=True)
                if self._journal.blocks:  # on a full disk, room for the journal and for giving up the claim
                    array.give_back(self._rows * max(map(int, self._journal.blocks)))
                raise
            finally:
                pool.shutdown(cancel_futures=True)
                self._journal.write()
            if corrupt:
                self._judge(corrupt)
                array.leave_out(sorted(corrupt), self.count)
            array.sync()
        return corrupt

    def _announce(self) -> None:
        """Say what will take how much room; raises InputError where there is less."""
        path = self._folder / "images.npy"
        there = path.stat().st_blocks * 512 if path.exists() else 0
        needed, free = self.count * int(np.prod(self.shape)), shutil.disk_usage(self._folder).free + there
        where = self._folder.parent
        if needed > free:
            raise InputError(
                f"paths.data: {counted(self.count, 'image')} of {self._dataset.name} take {size(needed)} in {where}, "
                f"where {size(free)} are free."
            )
        number = self._source.classes
        classes = f" ({number:,} class{'es' if number > 1 else ''})" if number else ""
        _say(f"packing {self._dataset.name} from {self._source.layout}: {counted(self.count, 'image')}{classes}")
        _say(f"{size(needed)} in {where}, where {size(free)} are free")

    def _estimate(self, pool: ThreadPoolExecutor) -> None:
        """Say how long it will take, from images spread over all."""
        done = min(len(self._journal.blocks) * self._rows, self.count)
        sample = np.unique(np.linspace(0, self.count - 1, _SAMPLE * self._threads, dtype=int)).tolist()
        self._try(sample[0])  # what is loaded once
        started = time.monotonic()
        list(pool.map(self._try, sample))
        seconds = (time.monotonic() - started) / len(sample) * (self.count - done)
        going_on = f"{done:,} are there from before; " if done else ""
        _say(f"{going_on}about {about(seconds)} with {counted(self._threads, 'thread')}")

    def _try(self, index: int) -> np.ndarray | str:
        """An image as (channels, size, size) uint8, or why it can't be decoded."""
        try:
            return decode(self._source.store, index, self._dataset)
        except Corrupt as error:
            return str(error)

    def _blocks(self, pool: ThreadPoolExecutor, array: ArrayFile) -> dict[int, str]:
        starts = range(0, self.count, self._rows)
        futures = {pool.submit(self._block, array, number, start): number for number, start in enumerate(starts)}
        corrupt: dict[int, str] = {}
        with progress(f"packing {self._dataset.name}", self.count) as advance:
            for future in as_completed(futures):
                number, block = futures[future], future.result()
                self._journal.add(number, block)
                if block.corrupt and not corrupt:
                    _say("there are corrupt images; looking at the others too, to name all of them")
                corrupt |= {int(index): reason for index, reason in block.corrupt.items()}
                advance(min(self._rows, self.count - number * self._rows))
        return corrupt

    def _block(self, array: ArrayFile, number: int, start: int) -> Block:
        """Make a block, unless it is there."""
        indices = range(start, min(start + self._rows, self.count))
        origin, known = self._origin(indices), self._journal.blocks.get(str(number))
        if known and known.origin == origin and known.sha256 == _sha256(array.read(start, indices.stop)):
            return known
        pixels = np.zeros((len(indices), *self.shape), np.uint8)
        corrupt = {}
        for row, index in zip(pixels, indices, strict=True):
            found = self._try(index)
            if isinstance(found, str):
                corrupt[str(index)] = found
            else:
                row[:] = found
        content = pixels.tobytes()
        array.write(start, content)
        return Block(origin, _sha256(content), corrupt)

    def _origin(self, indices: range) -> str:
        store, lines = self._source.store, []
        for index in indices:
            try:
                lines.append([store.name(index), *store.stamp(index)])
            except OSError as error:
                raise unreadable(store.name(index), error) from error
        return _sha256(json.dumps(lines).encode())

    def _judge(self, corrupt: dict[int, str]) -> None:
        """Name corrupt images; raises InputError unless they are to be skipped, and others are left."""
        named = [f"{self._source.store.name(index)} ({corrupt[index]})" for index in sorted(corrupt)]
        head = f"{len(named):,} of {counted(self.count, 'image')} of {self._dataset.name} can't be decoded"
        if self._dataset.corrupt == "skip" and len(named) < self.count:
            _say(f"{head} and {'is' if len(named) == 1 else 'are'} left out:")
            _say("\n".join(named[:_NAMED]) + ("\n… (meta.json names all)" if len(named) > _NAMED else ""))
            return
        path = self._folder / "corrupt.txt"
        write_atomic(path, ("\n".join(named) + "\n").encode(errors="surrogateescape"))
        raise InputError(
            f"dataset.corrupt is {self._dataset.corrupt!r}, and {head}: {', '.join(named[:3])}"
            f"{f', … (all in {path})' if len(named) > 3 else ''}: replace or remove them and run again, "
            "which goes on from here, or set dataset.corrupt=skip."
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
