"""How far a study is: its records, and what Slurm says of its tasks, from whichever machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cbs.claim import holder
from cbs.config import Config
from cbs.errors import InputError
from cbs.outcome import Censored, Diverged, Reached
from cbs.record import SCHEMA, Result, RunFolder, run_folders
from launch.cost import Estimate, Pace, estimates
from launch.plan import Run
from launch.queue import SlurmError
from launch.submissions import Carried, Submission, carried, submissions

STATES = ("queued", "running", "finished", "censored", "diverged", "failed", "left")


@dataclass(frozen=True)
class Row:
    """One run: its state, and what is known of it.

    state: one of STATES; "failed": set aside after failing alike; "left": neither settled, nor at work, nor in the
    queue. rate: steps a second. left_seconds: until its expected end. device_seconds: spent so far, of a GPU
    where it shares one with others its part of it.
    """

    run: Run
    state: str
    where: str = ""
    step: int = 0
    value: float | None = None
    rate: float | None = None
    left_seconds: float | None = None
    device_seconds: float = 0.0
    note: str = ""

    @property
    def threshold(self) -> float:
        return min(self.run.config.target.thresholds)


@dataclass
class Status:
    """A study at one moment."""

    study: Path
    rows: list[Row]
    slurm: str | None = None  # why the queue is unknown
    on_gpus: bool = False
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {state: sum(row.state == state for row in self.rows) for state in STATES}

    @property
    def spent_hours(self) -> float:
        return sum(row.device_seconds for row in self.rows) / 3600

    @property
    def left_hours(self) -> float:
        return sum(row.left_seconds or 0.0 for row in self.rows) / 3600

    @property
    def active(self) -> int:
        return self.counts["queued"] + self.counts["running"]


def status(study: Path) -> Status:
    """Look at a study. Raises InputError where there is none."""
    if not study.is_dir():
        raise InputError(f"{study} is no study: give a folder such as results/quickstart.")
    found = submissions(study)
    in_queue, why = _in_queue(found)
    wanted = _wanted(study, found)
    shares = _shares(found)
    done = {run: result for run in wanted if (result := run.folder.result()) is not None}
    finished = {run: one for run, one in done.items() if run.finished() is not None}
    open_runs = [run for run in wanted if run not in finished]
    expected = {one.run: one for one in estimates(open_runs, done, _pace(found))}
    rows = []
    for run in wanted:
        share = shares.get(run, 1.0)
        if run in finished:
            rows.append(_settled(run, finished[run], share))
        else:
            rows.append(_open(run, in_queue.get(run), expected[run], share))
    return Status(study, rows, why, any(one.gpus for one in found))


def _in_queue(found: Sequence[Submission]) -> tuple[dict[Run, Carried], str | None]:
    try:
        return {one.run: one for one in carried(found)}, None
    except SlurmError as error:
        return {}, str(error)


def _wanted(study: Path, found: Sequence[Submission]) -> list[Run]:
    """Every run that was submitted, as it was last asked for, and every other that has a folder here."""
    runs: dict[Path, Run] = {}
    for submission in found:
        runs.update({run.place: run for run in submission.runs})
    for folder in run_folders(study):
        if folder.path.resolve() not in runs:
            runs[folder.path.resolve()] = _from_record(folder)
    return sorted(runs.values(), key=lambda run: (run.label, run.config.batch_size.initial, run.seed))


def _from_record(folder: RunFolder) -> Run:
    raw: dict[str, Any] = yaml.load(
        (folder.trial / "trial.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    assert raw["schema"] == SCHEMA
    config = Config.from_dict(raw["config"])
    return Run(config, folder, config.optimizer.name)


def _pace(found: Sequence[Submission]) -> Pace:
    """What a step takes until records say it: as the last submission has it, or a guess."""
    settings = found[-1].content["settings"] if found else {"step_ms": 4.0, "image_ms": 0.05}
    return Pace(settings["step_ms"] / 1000, settings["image_ms"] / 1000)


def _shares(found: Sequence[Submission]) -> dict[Run, float]:
    """Which part of its task's GPUs each run had last."""
    return {
        submission.runs[place]: (submission.gpus or 1) / load.lanes
        for submission in found
        for load in submission.loads
        for place in load.runs
    }


def _settled(run: Run, result: Result, share: float) -> Row:
    outcome = result.outcomes[min(run.config.target.thresholds)]
    kinds = {Reached: "finished", Censored: "censored", Diverged: "diverged"}
    step = outcome.first_below if isinstance(outcome, Reached) else outcome.step
    value = next((e.value for e in reversed(run.folder.trajectory()) if e.step <= step), None)
    spent = sum(result.seconds.values()) * share
    return Row(run, kinds[type(outcome)], step=step, value=value, device_seconds=spent)


def _open(run: Run, queued: Carried | None, expected: Estimate, share: float) -> Row:
    """A run that isn't finished."""
    progress = run.folder.progress()
    spent = sum(progress.get("seconds", {}).values())
    rate = progress["step"] / spent if spent else None
    evaluations = run.folder.trajectory()
    last = evaluations[-1] if evaluations else None
    step = max(progress.get("step", 0), last.step if last else 0)
    # Past the steps that its other seeds took, only the budget is left to go by.
    steps = expected.steps if step < expected.steps else run.config.target.budget_steps
    facts: dict[str, Any] = {
        "step": step,
        "value": last.value if last else None,
        "left_seconds": max(0.0, steps - step) / rate if rate else expected.seconds,
        "device_seconds": spent * share,
    }
    owner = holder(run.folder.claims_path)
    if owner is not None:
        where = (owner.get("job") or {}).get("node") or owner["machine"].partition("/")[0]
        return Row(run, "running", where, rate=rate, **facts)
    if run.set_aside():
        return Row(run, "failed", note=run.why(), **facts)
    if queued is not None:
        task = queued.task
        note = "" if task is None or task.running else task.reason
        return Row(run, "queued", task.id if task else "being submitted", note=note, **facts)
    return Row(run, "left", note=run.why(), **facts)
