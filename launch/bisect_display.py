"""What an adaptive sweep shows: each curve as it is known, the answer so far, what is at work and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cbs.errors import counted
from launch.bisect_search import Adaptive, Search
from launch.display import Display, spoken

if TYPE_CHECKING:
    from analysis.adaptive.design import Seen, State
    from launch.plan import Live, Run, Sweep

_MARKS = {"reached": "o", "censored": ">", "diverged": "x"}
_MARKS_A_LINE = 8


class AdaptiveDisplay(Display):
    """The live table with the curves above it; in a pipe, the curves' lines now and then."""

    def __init__(self, sweep: Sweep, adaptive: Adaptive) -> None:
        super().__init__(sweep)
        self._adaptive = adaptive

    def proposed(self, run: Run) -> None:
        """One line per proposal; it stays above the table."""
        self.say(proposal(run, self._adaptive))

    def _count(self, one: Live) -> str:
        return " "

    def _lines(self, now: float) -> list[str]:
        return [self._totals(now).plain, *lines(self._adaptive)]

    def _table(self, now: float) -> Group:
        parts: list[Text | Columns] = []
        for search in self._adaptive.searches:
            parts += [Text(told(search), style="bold"), _curve(search)]
        return Group(*parts, Text(spending(self._adaptive)), self._totals(now), self._at_work())


def proposal(run: Run, adaptive: Adaptive) -> str:
    """What is to be trained next, and why."""
    takes = spoken(adaptive.takes[run])
    return f"→ {run.name}, to step {run.config.asked_steps:,}, about {takes}: {adaptive.why[run]}"


def lines(adaptive: Adaptive) -> list[str]:
    """Every curve in two lines, and what was spent."""
    found = []
    for search in adaptive.searches:
        found += [told(search), *(["  " + ", ".join(points(search))] if search.known.seen else [])]
    return [*found, spending(adaptive)]


def told(search: Search) -> str:
    """A curve's answer so far, and what it lacks."""
    left_out = "".join(f"; b = {b} is left out: {why}" for b, why in search.out.items())
    return f"{search.label}: {answer(search.state)}{left_out}"


def answer(found: State) -> str:
    """b* with its 95 % set, whether that is decided, and why."""
    why = f"{'decided' if found.decided else 'open'}: {found.why}"
    if found.b_star is None:
        return f"no b* yet, {why}"
    low, high = found.interval
    if low is None and high is None:
        return f"any batch size may be b*, {why}" if found.decided else f"b* can't be told yet, {why}"
    if low is None or high is None:
        return f"b* {_set(found)} (95 %), {why}"
    return f"b* = {_short(found.b_star)} (95 %: {_short(low)} to {_short(high)}), {why}"


def _set(found: State) -> str:
    """The 95 % set of b* in a cell."""
    low, high = found.interval
    if low is None or high is None:
        return "–" if low is high else f"≥ {_short(low)}" if high is None else f"≤ {_short(high)}"
    return f"{_short(low)}–{_short(high)}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def points(search: Search) -> list[str]:
    """Each batch size with its median N and one mark per run, in words for a pipe."""
    return [f"N({b}) {n} {marks}" for b, n, marks in _points(search)]


def _points(search: Search) -> list[tuple[int, str, str]]:
    found = []
    for b in sorted({run.batch_size for run in search.known.seen}):
        here = [run for run in search.known.seen if run.batch_size == b]
        found.append((b, _median(here), "".join(sorted(_MARKS[run.outcome] for run in here))))
    return found


def _median(runs: Sequence[Seen]) -> str:
    """The median N as far as the runs tell: those that were stopped arrive later, those that diverged never."""
    least = statistics.median(math.inf if run.outcome == "diverged" else run.steps for run in runs)
    most = statistics.median(run.steps if run.outcome == "reached" else math.inf for run in runs)
    if math.isinf(least):
        return "–"
    if math.isinf(most):
        return f"> {least:,.0f}"
    return f"{least:,.0f}" if least == most else f"{least:,.0f}–{most:,.0f}"


def _curve(search: Search) -> Columns:
    """Each batch size in a cell, as many beside each other as there is room for."""
    heads = ("b", "median N", "o reached\n> censored\nx diverged")
    cells = [Text("\n".join(heads), style="dim")]
    for b, n, marks in _points(search):
        wrapped = "\n".join(marks[at : at + _MARKS_A_LINE] for at in range(0, len(marks), _MARKS_A_LINE))
        cells.append(Text(f"{b}\n{n}\n{wrapped}"))
    return Columns(cells if len(cells) > 1 else [], padding=(0, 3))


def spending(adaptive: Adaptive) -> str:
    """What all curves took, and of which budget."""
    hours, gradients = adaptive.settings.budget_gpu_hours, adaptive.settings.budget_sfo
    time = spoken(adaptive.seconds) + (f" of {spoken(3600 * hours)}" if hours is not None else "")
    sfo = f"{adaptive.sfo:,.0f}" + (f" of {gradients:,.0f}" if gradients is not None else "")
    return f"spent: {time} of device time, {sfo} gradients"


def summary(adaptive: Adaptive, stopped: bool = False) -> str:
    """A row per curve, the answers as sentences, and what to type next."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("curve", "b*", "95 %", "octaves", "runs", "reached", "censored", "diverged", "time", "gradients"):
        table.add_column(name, justify="left" if name == "curve" else "right", no_wrap=True)
    for search in adaptive.searches:
        table.add_row(*_row(search))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    words = [sentence(search, adaptive, stopped) for search in adaptive.searches]
    after = f"Next: python -m analysis plots {adaptive.study}"
    return "\n".join([capture.get().rstrip(), *words, spending(adaptive), after])


def _row(search: Search) -> list[str]:
    found, seen = search.state, search.known.seen
    counts = [sum(run.outcome == outcome for run in seen) for outcome in _MARKS]
    return [
        search.label,
        "–" if found.interval == (None, None) and not found.decided else _short(found.b_star),
        _set(found),
        "–" if found.width_octaves is None else f"{found.width_octaves:.2f}",
        *map(str, (len(seen), *counts)),
        spoken(search.known.seconds),
        f"{search.known.sfo:,.0f}",
    ]


def sentence(search: Search, adaptive: Adaptive, stopped: bool) -> str:
    """What became of one curve."""
    if search.state.decided:
        return f"{told(search)}."
    if stopped:
        over = "stopped"
    elif search.known.pending:
        over = f"{counted(len(search.known.pending), 'run')} at work"
    elif adaptive.spent or adaptive.exhausted:
        over = "the budget is spent"
    elif search.state.b_star is None:
        over = "nothing is left to try"
    else:
        over = "no run that is left to try tells enough"
        if not adaptive.settings.half_octaves:
            over += " (hydra.sweeper.half_octaves=true allows batch sizes between these)"
    return f"{told(search)}; {over}."
