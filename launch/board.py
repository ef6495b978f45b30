"""How a study's status looks: a table in a terminal, lines in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from launch.display import clock
from launch.status import STATES, Row, Status

_STYLES = {"running": "green", "failed": "bold red", "left": "yellow", "finished": "dim", "censored": "dim"}
# What someone who watches wants to see first.
_ORDER = ("running", "failed", "left", "queued", "diverged", "censored", "finished")
_LEFT = ("trial", "state", "where", "note")


def board(status: Status, height: int | None = None) -> Group:
    """Every run with its state, and the totals. height: the lines there are; those of least news are left out."""
    rows = status.rows
    hidden = 0
    if height is not None and len(rows) > height - 8:
        rows = sorted(rows, key=lambda row: _ORDER.index(row.state))[: max(1, height - 9)]
        hidden = len(status.rows) - len(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "b", "seed", "state", "where", "step", "FID", "target", "steps/s", "left", "note"):
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=name != "note")
    for row in rows:
        table.add_row(*_cells(row), style=_STYLES.get(row.state, ""))
    parts: list[Table | Text] = [table]
    if hidden:
        parts.append(Text(f"… and {hidden} more runs", style="dim"))
    return Group(*parts, *(Text(line) for line in totals(status)))


def _cells(row: Row) -> Sequence[str]:
    run = row.run
    return (
        run.label,
        run.config.batch_size.label,
        str(run.seed),
        row.state,
        row.where,
        f"{row.step:,}" if row.step else "–",
        "–" if row.value is None else f"{row.value:.1f}",
        f"≤ {row.threshold:g}",
        "–" if row.rate is None else f"{row.rate:,.1f}",
        "–" if row.left_seconds is None else f"≤ {clock(row.left_seconds)}",
        row.note,
    )


def totals(status: Status) -> list[str]:
    """The study in two or three lines."""
    unit = "GPU" if status.on_gpus else "core"
    counts = ", ".join(f"{status.counts[state]} {state}" for state in STATES if status.counts[state])
    lines = [
        f"{status.study}: {len(status.rows)} runs: {counts or 'none'}",
        f"{status.spent_hours:.2f} {unit} hours spent, at most about {status.left_hours:.2f} left",
    ]
    if status.slurm is not None:
        lines.append(f"The queue is unknown, so states are from the records alone: {status.slurm}")
    return lines
