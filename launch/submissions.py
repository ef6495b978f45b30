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
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cbs.claim import identity, link_new, lives, numbered
from cbs.config import Config
from cbs.record import SCHEMA, read_json, write_json
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
    def runs(self) -> list[Run]:
        """Every run that it carries."""
        configs = [Config.from_dict(one) for one in self.content["trials"]]
        return [Run.of(configs[row["trial"]], row["seed"], row["label"]) for row in self.content["runs"]]

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

    def job_ids(self) -> list[str]:
        """The Slurm job of each load, as its log files are named; empty where submitting did not get so far."""
        path = self.folder / "jobs.json"
        return list(read_json(path)["jobs"]) if path.exists() else []

    def output(self, place: int) -> Path | None:
        """What a load's task wrote, where it was started."""
        ids = self.job_ids()
        found = sorted(self.folder.glob(f"*/{ids[place]}_0_log.out")) if place < len(ids) else []
        return found[0] if found else None

    def close(self, jobs: list[str], error: str | None = None) -> None:
        """Note what became of it: from now on the queue alone says which of its tasks are alive."""
        write_json(self.folder / "jobs.json", {"schema": SCHEMA, "jobs": jobs, "error": error})

    def being_submitted(self) -> bool:
        """Whether its submitter is still at it."""
        return not (self.folder / "jobs.json").exists() and lives(self.content["submitter"], self.path)


def create(study: Path, number: int, runs: Sequence[Run], loads: Sequence[Load], array_size: int, settings: Any) -> Any:
    """A new manifest, or None where another submitter took this number."""
    trials: dict[str, int] = {}
    configs: list[dict[str, Any]] = []
    for run in runs:
        if run.folder.key not in trials:
            trials[run.folder.key] = len(configs)
            configs.append(run.config.to_dict())
    content = {
        "schema": SCHEMA,
        "name": f"cbs-{study.name}-{number:04d}-{secrets.token_hex(3)}",
        "submitter": identity(),
        "submitted": time.time(),
        "settings": settings,
        "array_size": array_size,
        "trials": configs,
        "runs": [{"trial": trials[run.folder.key], "seed": run.seed, "label": run.label} for run in runs],
        "loads": [asdict(load) for load in loads],
    }
    submission = Submission(study, number)
    submission.path.parent.mkdir(parents=True, exist_ok=True)
    return submission if link_new(submission.path, json.dumps(content).encode()) else None


def submissions(study: Path) -> list[Submission]:
    """Every submission of a study, oldest first."""
    return [Submission(study, number) for number in numbered(study / "submissions")]


@dataclass(frozen=True)
class Carried:
    """A run that a task in the queue carries."""

    run: Run
    submission: Submission
    task: queue.Task | None


def carried(found: Sequence[Submission]) -> Iterator[Carried]:
    """Every run in a live task, or in a submission that is just being made. Raises queue.SlurmError."""
    # Asked before the queue is: a submission that is done in between is then seen in the queue.
    unfinished = {submission.number for submission in found if submission.being_submitted()}
    tasks = queue.tasks(name for submission in found for name in submission.arrays)
    for submission in found:
        if submission.number in unfinished:
            yield from (Carried(run, submission, None) for run in submission.runs)
        for task in (task for name in submission.arrays for task in tasks[name]):
            if submission.number not in unfinished:
                places = submission.loads[submission.place(task)].runs
                yield from (Carried(submission.runs[place], submission, task) for place in places)


def outputs(study: Path) -> dict[Path, Path]:
    """Where the task that carried each run last wrote to, by the run's folder."""
    found = {}
    for submission in submissions(study):
        for place, load in enumerate(submission.loads):
            output = submission.output(place)
            if output is not None:
                found.update({submission.runs[run].place: output for run in load.runs})
    return found
