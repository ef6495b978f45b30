"""How far a study is: its records, and what Slurm says of its tasks, from whichever machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from cbs.claim import holder
from cbs.errors import InputError
from cbs.outcome import ABANDONED, Censored, Diverged, Reached
from cbs.pace import Pace
from cbs.record import SCHEMA, RecordError, Result, run_folders
from cbs.schema import Config
from launch.calibration import calibrated
from launch.cost import Estimate, estimates, from_record, known_paces
from launch.plan import Run
from launch.queue import SlurmError
from launch.submissions import Carried, Carrier, Submission, carried, carriers, submissions

STATES = ("queued", "running", "finished", "censored", "diverged", "failed", "open")


@dataclass(frozen=True)
class Row:
    """One run: its state, and what is known of it.

    state: one of STATES; "failed": the last attempt failed (the note says if it was set aside); "open": neither
    settled, nor at work, nor in the queue. rate: steps a second. left_seconds: until its expected end. seconds:
    spent so far. share: of a GPU (or of the cores it has to itself), that it takes meanwhile.
    """

    run: Run
    state: str
    where: str = ""
    step: int = 0
    value: float | None = None
    rate: float | None = None
    left_seconds: float | None = None
    seconds: float = 0.0
    share: float = 1.0
    note: str = ""

    @property
    def threshold(self) -> float:
        return self.run.config.target.hardest

    @property
    def device_seconds(self) -> float:
        return self.seconds * self.share


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
    def abandoned(self) -> int:
        """How many of the censored runs may be granted more of their budget."""
        return sum(row.state == "censored" and row.note == ABANDONED for row in self.rows)

    @property
    def spent_hours(self) -> float:
        return sum(row.device_seconds for row in self.rows) / 3600

    @property
    def left_hours(self) -> float:
        return sum((row.left_seconds or 0.0) * row.share for row in self.rows if row.state != "failed") / 3600

    @property
    def active(self) -> int:
        return self.counts["queued"] + self.counts["running"]


def status(study: Path) -> Status:
    """Look at a study. Raises InputError where there is none, RecordError where a record can't be read."""
    found = submissions(study)
    last = carriers(found)
    in_queue, why = _in_queue(found)
    wanted = _wanted(study, last)
    if not wanted:
        raise InputError(f"{study} is no study with trials: give a folder such as results/quickstart.")
    results: dict[Run, Result] = {}
    damaged: dict[Run, str] = {}
    for run in wanted:
        try:
            result = run.folder.result()
            results.update({run: result} if result is not None else {})
        except RecordError as error:
            damaged[run] = str(error)
    settled = {run for run in wanted if run.settled(results.get(run))}
    # What was handed to Slurm says how far it was to go; of other runs only their records tell.
    resting = {run for run in wanted if run.id not in last and _rests(run, results.get(run))}
    expected = {
        one.run: one for one in estimates([r for r in wanted if r not in settled], results, _paces(study, found))
    }
    rows = []
    for run in wanted:
        share = last[run.id].share if run.id in last else float(run.config.gpus_per_trial)
        if run in damaged:
            rows.append(Row(run, "failed", share=share, note=damaged[run]))
        elif run in settled:
            rows.append(_settled(run, results[run], share))
        else:
            row = _open(run, in_queue.get(run.id), expected[run], share)
            if row.state == "open" and run in resting:
                row = _settled(run, results[run], share)
            ended = row.state == "open" and not row.note and why is None and run.id in last
            rows.append(replace(row, note=_last_words(last[run.id])) if ended else row)
    return Status(study, rows, why, any(one.gpus for one in found) or _trained_on_gpus(wanted))


def _in_queue(found: Sequence[Submission]) -> tuple[dict[tuple[str, int], Carried], str | None]:
    try:
        return {one.id: one for one in carried(found)}, None
    except SlurmError as error:
        return {}, str(error)


def _wanted(study: Path, last: Mapping[tuple[str, int], Carrier]) -> list[Run]:
    """Every run that was submitted, as it was last asked for, and every other that has begun here."""
    runs = [carrier.run for carrier in last.values()]
    configs: dict[Path, Config] = {}
    for folder in run_folders(study):
        path = folder.trial / "trial.yaml"
        if (folder.key, folder.seed) in last or not path.exists():  # no trial.yaml: its first process still starts
            continue
        if folder.progress().get("rests") and folder.result() is None:  # trained only as far as others branch from it
            continue
        config = configs[path] if path in configs else configs.setdefault(path, recorded(path))
        runs.append(Run(config, folder, config.optimizer.name))
    return sorted(runs, key=lambda run: (run.label, run.config.batch_size.initial, run.seed))


def recorded(path: Path) -> Config:
    raw: dict[str, Any] = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if raw["schema"] != SCHEMA:
        raise RecordError(f"{path} has schema {raw['schema']!r}: this version of cbs reads schema {SCHEMA} only.")
    return Config.from_dict(raw["config"])


def _trained_on_gpus(runs: Sequence[Run]) -> bool:
    """By what the first run that says it says."""
    for run in runs:
        with suppress(OSError, ValueError):
            environment = json.loads((run.folder.path / "environment.json").read_text())
            return str(environment.get("device")).startswith("cuda")
    return False


def _paces(study: Path, found: Sequence[Submission]) -> Callable[[Config], Pace]:
    """What a step takes until records say it: as the submissions have it, as calibrated, or a guess."""
    paces = calibrated(study.parent)
    for submission in found:
        paces |= from_record(submission.content.get("paces", {}))  # older manifests have none
    return known_paces(paces)


def _abandoned(run: Run, result: Result | None) -> bool:
    outcome = result and result.outcomes.get(run.config.target.hardest)
    return isinstance(outcome, Censored) and outcome.reason == ABANDONED


def _rests(run: Run, result: Result | None) -> bool:
    """Whether a record ends with an adaptive sweep's grant: short of the target, or of evaluations after it."""
    outcome = result and result.outcomes.get(run.config.target.hardest)
    return _abandoned(run, result) or isinstance(outcome, Reached)


def _settled(run: Run, result: Result, share: float) -> Row:
    target = run.config.target
    outcome = result.outcomes[target.hardest]
    kinds = {Reached: "finished", Censored: "censored", Diverged: "diverged"}
    step = outcome.first_below if isinstance(outcome, Reached) else outcome.step
    value = next((e.value for e in reversed(run.folder.trajectory()) if e.step <= step), None)
    there = value is not None and target.direction.arrived(value, target.hardest)
    unconfirmed = isinstance(outcome, Censored) and there
    note = ABANDONED if _abandoned(run, result) else ""
    note = "the last crossing was not confirmed by fresh noise" if unconfirmed else note
    spent = sum(result.seconds.values())
    return Row(run, kinds[type(outcome)], step=step, value=value, share=share, seconds=spent, note=note)


def _last_words(carrier: Carrier) -> str:
    """Of a task that is over while its run isn't: what it wrote last."""
    output = carrier.output()
    if output is None:
        return "its task is over and wrote nothing"
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"its task ended: {words}"


def _open(run: Run, queued: Carried | None, expected: Estimate, share: float) -> Row:
    """A run that isn't settled."""
    progress = run.folder.progress()
    spent = sum(progress.get("seconds", {}).values())
    passed = spent + progress.get("waited", 0.0)  # in a stack, with the steps of the others
    rate = progress["step"] / passed if passed else None
    evaluations = run.folder.trajectory()
    last = evaluations[-1] if evaluations else None
    step = max(progress.get("step", 0), last.step if last else 0)
    # Past the steps that its other seeds took, only the budget is left to go by.
    steps = expected.steps if step < expected.steps else run.config.asked_steps
    facts: dict[str, Any] = {
        "step": step,
        "value": last.value if last else None,
        "left_seconds": max(0.0, steps - step) / rate if rate else expected.seconds,
        "seconds": spent,
        "share": share,
    }
    owner = holder(run.folder.claims_path)
    if owner is not None:
        where = (owner.get("job") or {}).get("node") or owner["machine"].partition("/")[0]
        return Row(run, "running", where, rate=rate, **facts)
    if run.set_aside():
        return Row(run, "failed", note=f"set aside: {run.why()}", **facts)
    if queued is not None:
        task = queued.task
        note = "" if task is None else f"its turn comes, on {task.node}" if task.running else task.reason
        return Row(run, "queued", task.id if task else "being submitted", note=note, **facts)
    return Row(run, "failed" if run.folder.failures() else "open", note=run.why(), **facts)
