"""What was handed to Slurm: numbered manifests in `<study>/submissions/`, one per submission.

A manifest is created by hard-linking a finished file to the next free number, as claims are (cbs.claim).
A submitter reads every manifest before it makes its own, and reads again where another was faster: so two
submitters, on any two hosts, never submit one run twice.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cbs.claim import identity, link_new, lives, numbered
from cbs.record import SCHEMA, RunFolder, read_json, write_json
from cbs.schema import Config
from launch import queue
from launch.plan import Run


@dataclass(frozen=True)
class Load:
    """What one array task carries: places in the manifest's list of runs, and how many of them run at once.

    hours: the wall time that it was expected to take.
    """

    runs: list[int]
    lanes: int
    hours: float


@dataclass(frozen=True)
class Submission:
    """One manifest on disk."""

    study: Path
    number: int

    @property
    def path(self) -> Path:
        return self.study / "submissions" / f"{self.number:04d}.json"

    @property
    def folder(self) -> Path:
        """Where Slurm's output and submitit's files go."""
        return self.study / "submissions" / f"{self.number:04d}"

    @cached_property
    def content(self) -> dict[str, Any]:
        return read_json(self.path)

    @cached_property
    def ids(self) -> list[tuple[str, int]]:
        """Which runs it carries, by trial key and seed, in the order of its places."""
        keys = [trial["key"] for trial in self.content["trials"]]
        return [(keys[row["trial"]], row["seed"]) for row in self.content["runs"]]

    def run(self, place: int) -> Run:
        """One of its runs, in the study's folder as it lies now: it may have moved since."""
        row = self.content["runs"][place]
        trial = self.content["trials"][row["trial"]]
        config = Config.from_dict(trial["config"])
        here = replace(config.paths, results=str(self.study.absolute().parent))
        folder = RunFolder(self.study.absolute() / "trials" / trial["key"], row["seed"])
        return Run(replace(config, name=self.study.name, paths=here), folder, row["label"])

    @cached_property
    def loads(self) -> list[Load]:
        return [Load(**row) for row in self.content["loads"]]

    @property
    def gpus(self) -> int:
        """GPUs of each task; 0 where its runs train on a CPU."""
        return int(self.content["settings"]["gpus_per_task"])

    @property
    def arrays(self) -> list[str]:
        """The job names of its arrays, in the order of its loads."""
        return [f"{self.content['name']}.{part}" for part in range(-(-len(self.loads) // self.content["array_size"]))]

    def place(self, task: queue.Task) -> int:
        """Which of its loads a task carries."""
        return self.arrays.index(task.name) * int(self.content["array_size"]) + task.index

    @cached_property
    def job_ids(self) -> list[str]:
        """The Slurm job of each load, as its log files are named; empty where submitting did not get so far."""
        path = self.folder / "jobs.json"
        return list(read_json(path)["jobs"]) if path.exists() else []

    def close(self, jobs: list[str], error: str | None = None) -> None:
        """Note what became of it: from now on the queue alone says which of its tasks are alive."""
        write_json(self.folder / "jobs.json", {"schema": SCHEMA, "jobs": jobs, "error": error})

    def being_submitted(self) -> bool:
        """Whether its submitter is still at it."""
        return not (self.folder / "jobs.json").exists() and lives(self.content["submitter"], self.path)


def create(
    study: Path,
    number: int,
    runs: Sequence[Run],
    loads: Sequence[Load],
    array_size: int,
    settings: dict[str, Any],
    paces: dict[str, list[float | None]],
) -> Submission | None:
    """A new manifest, or None where another submitter took this number.

    paces: what the loads were reckoned with (`launch.cost.as_record`).
    """
    trials: dict[tuple[str, int | None], int] = {}  # of one trial, runs may be granted different parts
    configs: list[dict[str, Any]] = []
    for run in runs:
        if _asked(run) not in trials:
            trials[_asked(run)] = len(configs)
            configs.append({"key": run.folder.key, "config": run.config.to_dict()})
    content = {
        "schema": SCHEMA,
        "study": str(study.absolute()),
        "name": f"cbs-{study.name}-{number:04d}-{secrets.token_hex(3)}",
        "submitter": identity(),
        "submitted": time.time(),
        "settings": settings,
        "paces": paces,
        "array_size": array_size,
        "trials": configs,
        "runs": [{"trial": trials[_asked(run)], "seed": run.seed, "label": run.label} for run in runs],
        "loads": [asdict(load) for load in loads],
    }
    submission = Submission(study, number)
    submission.path.parent.mkdir(parents=True, exist_ok=True)
    return submission if link_new(submission.path, json.dumps(content).encode()) else None


def _asked(run: Run) -> tuple[str, int | None]:
    return run.folder.key, run.config.target.grant_steps


def submissions(study: Path) -> list[Submission]:
    """Every submission of a study, oldest first."""
    return [Submission(study, number) for number in numbered(study / "submissions")]


@dataclass(frozen=True)
class Carried:
    """A run that is being submitted, or that a task in the queue carries."""

    id: tuple[str, int]
    submission: Submission
    task: queue.Task | None


def carried(found: Sequence[Submission]) -> Iterator[Carried]:
    """Every run in a live task, or in a submission that is just being made. Raises queue.SlurmError."""
    # Asked before the queue is: a submission that is done in between is then seen in the queue.
    unfinished = {submission.number for submission in found if submission.being_submitted()}
    tasks = queue.tasks(name for submission in found for name in submission.arrays)
    for submission in found:
        if submission.number in unfinished:
            yield from (Carried(id, submission, None) for id in submission.ids)
        for task in (task for name in submission.arrays for task in tasks[name]):
            if submission.number not in unfinished:
                places = submission.loads[submission.place(task)].runs
                yield from (Carried(submission.ids[place], submission, task) for place in places)


@dataclass(frozen=True)
class Carrier:
    """The last submission that carries a run, and where: its place and its load."""

    submission: Submission
    place: int
    load: int

    @property
    def run(self) -> Run:
        return self.submission.run(self.place)

    @property
    def share(self) -> float:
        """Which part of the task's GPUs the run has; 1 where it trains on cores of its own."""
        return (self.submission.gpus / self.submission.loads[self.load].lanes) if self.submission.gpus else 1.0

    def output(self) -> Path | None:
        """What the task wrote, where it was started."""
        jobs = self.submission.job_ids
        path = self.submission.folder / f"{jobs[self.load]}_0_log.out" if self.load < len(jobs) else None
        return path if path is not None and path.exists() else None


def carriers(found: Sequence[Submission]) -> dict[tuple[str, int], Carrier]:
    """Each run's last submission."""
    return {
        submission.ids[place]: Carrier(submission, place, number)
        for submission in found
        for number, load in enumerate(submission.loads)
        for place in load.runs
    }
