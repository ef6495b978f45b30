"""An adaptive sweep: b* from as few runs as decide it (hydra/sweeper=bisect).

Nothing is kept but the runs' own records: what to do next follows from them, so the same command goes on after
any interruption, and a study that a grid has begun is a start like any other.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from cbs.batch_sizes import quoted
from cbs.errors import InputError, counted
from launch import compose, sweep
from launch.bisect_display import AdaptiveDisplay, summary, told
from launch.bisect_search import Adaptive, searches
from launch.bisect_settings import RANGE, Settings
from launch.crew import Crew, slots
from launch.local import close, work
from launch.plan import Run, Sweep, preflight

# What a step is taken to last on this machine before there are records: conf/hydra/launcher/slurm.yaml says the same.
_STEP_MS = 4.0
# How often other processes' work on the study is looked at while nothing ends here.
_LOOK_SECONDS = 30.0


def check_launcher(launcher: Any) -> None:
    """Raise InputError where it isn't one of ours."""
    if not hasattr(launcher, "search"):
        raise InputError(f"hydra/launcher is {type(launcher).__name__}: an adaptive sweep needs local, slurm or dry.")


def prepared(arguments: list[str], loader: Any, master: Any, given: dict[str, Any]) -> Adaptive:
    """Every trial that may be tried, composed and checked, by curve.

    Raises InputError, and what `compose.composed` raises.
    """
    settings = Settings.of(given)
    choices = sweep.choices(arguments, loader)
    ends = [value.strip("'\"") for value in choices.pop("batch_size", RANGE)]
    sizes = settings.sizes(ends)
    jobs = [[*job, quoted(f"batch_size={b}")] for job in sweep.combined(choices) for b in sizes]
    return Adaptive(settings, searches(compose.composed(loader, master, jobs), settings))


def here(adaptive: Adaptive, workers: int | str) -> None:
    """Work on this machine until every b* is decided or the budget is spent.

    Raises SystemExit where a run failed or the sweep was stopped.
    """
    lot = Sweep([])
    adaptive.look({})
    print(opening(adaptive), file=sys.stderr)
    stopped = False
    if not adaptive.decided and not adaptive.spent:
        crew = Crew(lot)
        preflight(adaptive.configs)
        first = adaptive.configs[0]
        crew.free = slots(first.device, workers, first.gpus_per_trial)
        adaptive.reckon(crew.free[0][0], _STEP_MS, None)
        display = AdaptiveDisplay(lot, adaptive)
        stopped = work(lot, crew, display, _Refill(adaptive, crew, display))
        adaptive.look({})
    print(summary(adaptive, stopped))
    lot.aside = adaptive.aside
    lot.failed |= {run: run.why() for run in adaptive.aside}
    close(lot, stopped)


def opening(adaptive: Adaptive) -> str:
    """What there is, in one line."""
    seen = sum(len(search.known.seen) for search in adaptive.searches)
    sizes = sorted({b for search in adaptive.searches for b in search.options.sizes})
    several = f"{counted(len(adaptive.searches), 'curve')}, b from {sizes[0]} to {sizes[-1]}"
    until = adaptive.settings.until
    return f"{several}, looking for b* until {until}: {counted(seen, 'run')} on record → {adaptive.study}"


class _Refill:
    """Hands out runs as slots become free, and ends those that nothing depends on any more."""

    def __init__(self, adaptive: Adaptive, crew: Crew, display: AdaptiveDisplay) -> None:
        self._adaptive, self._crew, self._display = adaptive, crew, display
        self._known: tuple[set[Run], int] | None = None
        self._looked = 0.0
        self._said: dict[str, str] = {}

    def __call__(self) -> None:
        lot, adaptive = self._crew.sweep, self._adaptive
        now = {one.run for one in lot.live}, len(self._crew.free)
        if now == self._known and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._known, self._looked = now, time.monotonic()
        lot.interrupted.clear()  # what was stopped alone, or is another's now, may be proposed again
        lot.busy.clear()
        adaptive.look({one.run.id: one.run.config.asked_steps for one in lot.live})
        self._end_what_is_decided()
        if not adaptive.spent:
            for run in adaptive.next(len(self._crew.free)):
                lot.failed.pop(run, None)
                lot.waiting.append(run)
                adaptive.started(run)
                self._display.proposed(run)
                self._known = None  # it is live when this is asked again
        self._tell()

    def _end_what_is_decided(self) -> None:
        over = {search.label for search in self._adaptive.searches if search.state.decided or self._adaptive.spent}
        for one in self._crew.sweep.live:
            if one.run.label in over:
                self._crew.end(one)

    def _tell(self) -> None:
        """Each answer that is another than before."""
        for search in self._adaptive.searches:
            words = told(search)
            if search.known.seen and self._said.get(search.label) != words:
                self._said[search.label] = words
                self._display.say(words)
