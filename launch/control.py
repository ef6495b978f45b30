"""Taking a study's tasks out of the queue, and putting what is left into it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cbs.errors import InputError, counted
from launch import queue
from launch.plan import Run
from launch.settings import Settings
from launch.slurm import submit
from launch.submissions import Submission, carried, carriers, submissions


def cancel(study: Path, chosen: set[tuple[str, int]]) -> str:
    """Cancel every task whose unfinished runs are all chosen, by their ids; say what was done.

    Raises InputError where a task carries others too, queue.SlurmError.
    """
    found = submissions(study)
    _check_home(study, found)
    last = carriers(found)
    by_task: dict[str, list[Run]] = {}
    for one in carried(found):
        run = last[one.id].run
        if one.task is not None and run.finished() is None:
            by_task.setdefault(one.task.id, []).append(run)
    ids = [task for task, runs in by_task.items() if any(run.id in chosen for run in runs)]
    for task in ids:
        others = [run.name for run in by_task[task] if run.id not in chosen]
        if others:
            raise InputError(
                f"task {task} also carries {', '.join(others)}: name these too, or cancel the whole study."
            )
    queue.cancel(ids)
    return f"Cancelled {counted(len(ids), 'task')}{': ' + ', '.join(ids) if ids else ''}."


def resubmit(study: Path, chosen: set[tuple[str, int]]) -> None:
    """Submit the chosen runs, each with the settings of its own last submission.

    Raises InputError, queue.SlurmError.
    """
    found = submissions(study)
    if not found:
        raise InputError(f"{study} was never submitted to Slurm: give the sweep's own command again.")
    _check_home(study, found)
    groups: dict[int, list[Run]] = {}
    for id, carrier in carriers(found).items():
        if id in chosen:
            groups.setdefault(carrier.submission.number, []).append(carrier.run)
    if not groups:
        print(f"Nothing of {study} is left to submit.")
    for number, wanted in groups.items():
        settings = next(one.content["settings"] for one in found if one.number == number)
        submit(wanted, Settings.recorded(settings))


def _check_home(study: Path, found: Sequence[Submission]) -> None:
    """Raise InputError where a study was submitted from another folder: its jobs work there."""
    for submission in found:
        home = Path(submission.content["study"])
        if home.resolve() != study.resolve():
            raise InputError(f"{study} is a copy: its jobs belong to {home}; give that folder.")
