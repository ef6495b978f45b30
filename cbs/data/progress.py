"""How far something long is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_SAY_SECONDS = 30.0


def about(seconds: float) -> str:
    """A duration as far as an estimate is worth: 12 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """A number of bytes: 12.3 GB, 4.5 MB, 0.1 kB."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def progress(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Gives what is to be called with the number of images done since the last call."""
    return _bar(title, total) if sys.stderr.isatty() else _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=total)
        yield lambda more: shown.advance(task, more)


@contextmanager
def _lines(title: str, total: int) -> Iterator[Callable[[int], None]]:
    done, started = 0, time.monotonic()
    said = started

    def advance(more: int) -> None:
        nonlocal done, said
        done, now = done + more, time.monotonic()
        if now - said >= _SAY_SECONDS and done < total:
            said = now
            left = about((total - done) * (now - started) / done)
            print(f"{title}: {done:,} of {total:,} images, {left} left", file=sys.stderr, flush=True)

    yield advance
