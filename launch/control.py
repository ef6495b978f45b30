"""Taking a study's tasks out of the queue, and putting what is left into it again."""

from __future__ import annotations

from pathlib import Path

from cbs.errors import InputError
from launch import queue
from launch.slurm import Settings, submit
from launch.submissions import carried, submissions


def cancel(study: Path, chosen: set[Path]) -> str:
    """Cancel every task whose unfinished runs are all among the chosen folders; say what was done.

    Raises InputError where a task carries others too, queue.SlurmError.
    """
    by_task: dict[str, list[tuple[Path, str]]] = {}
    for one in carried(submissions(study)):
        if one.task is not None and one.run.finished() is None:
            by_task.setdefault(one.task.id, []).append((one.run.place, one.run.name))
    ids = []
    for task, runs in by_task.items():
        if any(folder in chosen for folder, _ in runs):
            others = [name for folder, name in runs if folder not in chosen]
            if others:
                raise InputError(
                    f"task {task} also carries {', '.join(others)}: name these too, or cancel the whole study."
                )
            ids.append(task)
    queue.cancel(ids)
    return f"Cancelled {len(ids)} task{'' if len(ids) == 1 else 's'}{': ' + ', '.join(ids) if ids else ''}."


def resubmit(study: Path, chosen: set[Path]) -> None:
    """Submit the chosen runs with the settings of the last submission. Raises InputError, queue.SlurmError."""
    seen = submissions(study)
    if not seen:
        raise InputError(f"{study} was never submitted to Slurm: give the sweep's own command again.")
    runs = {run.place: run for one in seen for run in one.runs}
    wanted = [run for path, run in runs.items() if path in chosen]
    if not wanted:
        print(f"Nothing of {study} is left to submit.")
        return
    submit(wanted, Settings(**seen[-1].content["settings"]))
