"""A study's status, live, until nothing of it is queued or running."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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
    if not console.is_terminal:
        now = _until_nothing_is_active(study, _Lines().show)
        print("\n".join(totals(now)), file=sys.stderr, flush=True)
        return now
    with Live(console=console, transient=True, auto_refresh=False) as live:
        return _until_nothing_is_active(
            study, lambda now: live.update(board(now, console.width, console.height), refresh=True)
        )


class _Lines:
    """The totals, now and then."""

    def __init__(self) -> None:
        self._spoken = float("-inf")

    def show(self, now: Status) -> None:
        if time.monotonic() - self._spoken >= _PLAIN_SECONDS:
            self._spoken = time.monotonic()
            reasons = {row.note for row in now.rows if row.state == "queued" and row.note}
            print("\n".join([*totals(now), *sorted(reasons)]), file=sys.stderr, flush=True)


def _until_nothing_is_active(study: Path, show: Callable[[Status], None]) -> Status:
    """Show the status every few seconds. A Slurm that answered once is waited for when it doesn't."""
    answered = False
    while True:
        now = status(study)
        answered = answered or now.slurm is None
        show(now)
        if not now.active and (now.slurm is None or not answered):
            return now
        time.sleep(_EVERY_SECONDS)
