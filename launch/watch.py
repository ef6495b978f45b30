"""A study's status, live, until nothing of it is queued or running."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from launch.board import board, totals
from launch.status import Status, status

_EVERY_SECONDS = 5.0
_PLAIN_SECONDS = 60.0


def watch(study: Path) -> Status:
    """Show it; return how it ended. In a pipe: two lines a minute."""
    console = Console(stderr=True)
    now = status(study)
    if not console.is_terminal:
        return _in_lines(now)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while now.active:
            live.update(board(now, console.height), refresh=True)
            time.sleep(_EVERY_SECONDS)
            now = status(study)
    return now


def _in_lines(now: Status) -> Status:
    spoken = -_PLAIN_SECONDS
    while now.active:
        if time.monotonic() - spoken >= _PLAIN_SECONDS:
            spoken = time.monotonic()
            print("\n".join(totals(now)), file=sys.stderr, flush=True)
        time.sleep(_EVERY_SECONDS)
        now = status(now.study)
    return now
