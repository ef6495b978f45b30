"""What a sweep shows while it runs: one live table, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cbs.outcome import Metric, Reached, told

if TYPE_CHECKING:
    from cbs.record import Result
    from launch.plan import Live, Run, Sweep

_PLAIN_SECONDS = 30.0


def clock(seconds: float) -> str:
    """Seconds as 1:02 or 3:04:05."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def spoken(seconds: float) -> str:
    """Seconds in the unit that fits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


class Display:
    """Use as a context: `refresh` often, `ended` per run, `say` for words."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._console = Console(stderr=True)
        self._started = self._spoke = time.monotonic()
        self._live = RichLive(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def ended(self, one: Live) -> None:
        """One line per run that came to an end; it stays above the table."""
        sweep = self._sweep
        if one.run in sweep.done:
            metric = one.run.config.target.direction
            words = f"{metric.title} {told(sweep.done[one.run].outcomes, metric)}"
        else:
            words = sweep.failed.get(one.run, one.ended[0] if one.ended else "died")
        took = time.monotonic() - one.started
        self.say(f"{self._count(one)} {one.run.name}: {words}  ({took:.1f} s)")

    def _count(self, one: Live) -> str:
        sweep = self._sweep
        over = len(sweep.done) + len(sweep.failed)
        total = over + len(sweep.live) + len(sweep.waiting) + len(sweep.busy) + len(sweep.interrupted)
        width = len(str(total))
        counted = one.run in sweep.done or one.run in sweep.failed
        return f"[{over:{width}}/{total}]" if counted else " " * (2 * width + 3)

    def refresh(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            self._live.update(self._table(now))
        elif now - self._spoke > _PLAIN_SECONDS:
            self._spoke = now
            for line in self._lines(now):
                self.say(line)
            for one in self._sweep.live:
                metric = one.run.config.target.direction
                self.say(f"  {one.run.name}: step {one.step:,}, {metric.title} {_shown(metric, one.value)}")

    def _lines(self, now: float) -> list[str]:
        """What is said before the runs at work, where the output is no terminal."""
        return [self._totals(now).plain]

    def _totals(self, now: float) -> Text:
        sweep = self._sweep
        text = f"{len(sweep.done)} done, {len(sweep.live)} running, {len(sweep.waiting)} waiting"
        if sweep.failed:
            text += f", {len(sweep.failed)} failed"
        return Text(f"{text}   {clock(now - self._started)} elapsed", style="bold")

    def _table(self, now: float) -> Group:
        return Group(self._totals(now), self._at_work())

    def _at_work(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        metrics = measured([one.run for one in self._sweep.live])
        for name in ("optimizer", "b", "seed", "step", "", metrics, "target", "steps/s", "left"):
            table.add_column(name, justify="left" if name in ("optimizer", "") else "right", no_wrap=True)
        for one in self._sweep.live:
            table.add_row(*self._row(one))
        return table

    def _row(self, one: Live) -> list[Any]:
        target, asked = one.run.config.target, one.run.config.asked_steps
        rate = one.step / one.training_seconds if one.training_seconds else 0.0
        left = f"≤ {clock((asked - one.step) / rate)}" if rate else "–"
        return [
            one.run.label,
            one.run.config.batch_size.label,
            str(one.run.seed),
            f"{one.step:,}",
            ProgressBar(total=asked, completed=one.step, width=20),
            _shown(target.direction, one.value),
            target.direction.sided(target.hardest),
            f"{rate:,.0f}" if rate else "–",
            left,
        ]


def measured(runs: Sequence[Run]) -> str:
    """What the values of these runs are of."""
    return "/".join(dict.fromkeys(run.config.target.direction.title for run in runs)) or "value"


def _shown(metric: Metric, value: float | None) -> str:
    return "–" if value is None else metric.shown(value)


def summary(done: dict[Run, Result], failed: dict[Run, str], wanted: list[Run]) -> str:
    """Steps-to-target at the hardest threshold, one row per trial and one column per seed, as text."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    seeds = sorted({run.seed for run in wanted})
    for name in ("trial", "model", "dataset", "optimizer", "b", "target", *(f"N, seed {k}" for k in seeds)):
        left = name in ("trial", "model", "dataset", "optimizer")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    trials: dict[str, dict[int, Run]] = {}
    for run in wanted:
        trials.setdefault(run.folder.key, {})[run.seed] = run
    for key, by_seed in trials.items():
        run = next(iter(by_seed.values()))
        config = run.config
        threshold = config.target.hardest
        cells = [_cell(by_seed.get(k), threshold, done, failed) for k in seeds]
        names = (key, config.model.name, config.dataset.name, run.label, config.batch_size.label)
        table.add_row(*names, config.target.direction.sided(threshold), *cells)
    console = Console(width=max(120, 100 + 14 * len(seeds)))
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _cell(run: Run | None, threshold: float, done: dict[Run, Result], failed: dict[Run, str]) -> str:
    if run is None:
        return ""
    if run not in done:
        return "failed" if run in failed else "–"
    outcome = done[run].outcomes[threshold]
    if isinstance(outcome, Reached):
        return f"{outcome.first_below:,}"
    words = {"Censored": "> {:,}", "Diverged": "diverged {:,}"}[type(outcome).__name__]
    return words.format(outcome.step)
