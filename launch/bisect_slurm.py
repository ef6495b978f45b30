"""An adaptive sweep on a Slurm cluster: rounds of runs, submitted like a grid's, from what records and queue say."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cbs.cli import FAILED
from cbs.errors import InputError
from cbs.record import RunFolder
from launch import dry
from launch.bisect_display import lines, proposal, summary
from launch.bisect_records import Id
from launch.bisect_search import Adaptive
from launch.control import cancel
from launch.plan import Run
from launch.settings import Settings
from launch.slurm import absolute, submit
from launch.submissions import carried, carriers, submissions

_EVERY_SECONDS = 5.0
_STAY = (
    "What is proposed next depends on how these runs end. Give the same command again to go on, or add "
    "hydra.launcher.wait=true: it stays, and submits the next ones as soon as others end."
)


def launch(adaptive: Adaptive, settings: Settings) -> None:
    """Submit the next runs; with settings.wait, stay and go on until every b* is decided or the budget is spent.

    Raises InputError, queue.SlurmError; SystemExit where runs failed.
    """
    fitted = settings.fitted(adaptive.configs)
    adaptive.reckon(adaptive.configs[0].device, settings.step_ms, settings.tflops)
    said: list[str] = []
    while True:
        queued = _queued(adaptive.study)  # before the records: what ends in between has its record by then
        adaptive.look(queued)
        if lines(adaptive) != said:
            said = lines(adaptive)
            print("\n".join(said), file=sys.stderr, flush=True)
        over = adaptive.decided or adaptive.spent
        at_work = sum(len(search.known.pending) for search in adaptive.searches)
        room = 0 if over else max(0, adaptive.settings.at_once - at_work)
        submitted = _submit(adaptive, adaptive.next(room), fitted)
        if over or not settings.wait or not (submitted or at_work):
            break
        time.sleep(_EVERY_SECONDS)
    if over:
        _cancel(adaptive.study)
    print(summary(adaptive))
    if submitted or (at_work and not over):
        print(_STAY, file=sys.stderr)
    _close(adaptive)


def _queued(study: Path) -> dict[Id, int]:
    """How far the runs may go that are in the queue or in a task at work. Raises queue.SlurmError."""
    found = submissions(study)
    last = carriers(found)
    return {one.id: last[one.id].run.config.asked_steps for one in carried(found)}


def _submit(adaptive: Adaptive, runs: Sequence[Run], settings: Settings) -> int:
    """Hand these runs to Slurm; how many were: those whose last task isn't over yet have to wait for that."""
    if not runs:
        return 0
    by_id = {run.id: run for run in runs}
    now = submit([_absolute(run) for run in runs], settings)
    for one in now.found:
        run = by_id[one.run.id]
        adaptive.started(run)
        print(proposal(run, adaptive), file=sys.stderr)
    return len(now.found)


def _absolute(run: Run) -> Run:
    return Run(absolute(run.config), RunFolder(run.folder.trial.absolute(), run.seed), run.label)


def _cancel(study: Path) -> None:
    """Take out of the queue what nothing depends on any more; what a grid asked for stays."""
    last = carriers(submissions(study))
    ours = {id for id in _queued(study) if last[id].run.config.target.grant_steps is not None}
    try:
        if ours:
            print(cancel(study, ours), file=sys.stderr)
    except InputError as error:  # tasks that carry others' runs too
        print(f"Not cancelled: {error}", file=sys.stderr)


def _close(adaptive: Adaptive) -> None:
    for run in adaptive.aside:
        print(f"failed: {run.name}: {run.why()}  [{run.folder.path / 'failures'}]", file=sys.stderr)
    if any(search.out for search in adaptive.searches):
        raise SystemExit(FAILED)


def show(adaptive: Adaptive, settings: Settings) -> None:
    """Print the first proposals with what they are expected to take, and how they would be submitted."""
    fitted = settings.fitted(adaptive.configs)
    adaptive.reckon(adaptive.configs[0].device, settings.step_ms, settings.tflops)
    adaptive.look({})
    print("\n".join(lines(adaptive)))
    runs = adaptive.next(adaptive.settings.at_once)
    print("\n".join(proposal(run, adaptive) for run in runs))
    if runs:
        dry.show_runs([_absolute(run) for run in runs], fitted)
