"""How a study's status looks: a table in a terminal, lines in a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cbs.errors import counted
from launch.display import clock, measured, spoken
from launch.status import STATES, Row, Status

_STYLES = {"running": "green", "failed": "bold red", "open": "yellow", "finished": "dim", "censored": "dim"}
# What someone who watches wants to see first.
_ORDER = ("running", "failed", "open", "queued", "diverged", "censored", "finished")
_COLUMNS = ("trial", "b", "seed", "state", "where", "step", "value", "target", "steps/s", "time left", "note")
_WIDE, _FOR_WIDE = 110, ("where", "target", "steps/s")
_LEFT = ("trial", "state", "where", "note")


def board(status: Status, width: int = 160, height: int | None = None) -> Group:
    """Every run with its state, and the totals.

    width: of the terminal, where a narrow one gets fewer columns. height: the lines there are; the runs of
    least news are left out.
    """
    rows = status.rows
    hidden = 0
    if height is not None and len(rows) > height - 8:
        rows = sorted(rows, key=lambda row: _ORDER.index(row.state))[: max(1, height - 9)]
        hidden = len(status.rows) - len(rows)
    names = _COLUMNS if width >= _WIDE else tuple(name for name in _COLUMNS if name not in _FOR_WIDE)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        title = measured([row.run for row in status.rows]) if name == "value" else name
        table.add_column(title, justify="left" if name in _LEFT else "right", no_wrap=name != "note")
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[name] for name in names), style=_STYLES.get(row.state, ""))
    parts: list[Table | Text] = [table]
    if hidden:
        parts.append(Text(f"… and {counted(hidden, 'more run')}", style="dim"))
    return Group(*parts, *(Text(line) for line in totals(status)))


def _cells(row: Row) -> dict[str, str]:
    run, metric = row.run, row.run.config.target.direction
    cells = (
        run.label,
        run.config.batch_size.label,
        str(run.seed),
        row.state,
        row.where,
        f"{row.step:,}" if row.step else "–",
        "–" if row.value is None else metric.shown(row.value),
        metric.sided(row.threshold),
        "–" if row.rate is None else f"{row.rate:,.1f}",
        "–" if row.left_seconds is None else f"≤ {clock(row.left_seconds)}",
        row.note,
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def totals(status: Status) -> list[str]:
    """The study in two or three lines."""
    unit = "GPU time" if status.on_gpus else "core time"
    kinds = {state: state for state in STATES}
    if status.abandoned:
        kinds["censored"] += f" ({status.abandoned} of them abandoned)"
    counts = ", ".join(f"{status.counts[state]} {kinds[state]}" for state in STATES if status.counts[state])
    lines = [
        f"{status.study}: {counted(len(status.rows), 'run')}: {counts or 'none'}",
        f"{spoken(3600 * status.spent_hours)} of {unit} spent, at most about {spoken(3600 * status.left_hours)} to go",
    ]
    if status.slurm is not None:
        lines.append(f"The queue is unknown, so states are from the records alone: {status.slurm}")
    return lines
