"""A Slurm cluster: what is left of a sweep, packed into array tasks and submitted through submitit."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cbs import claim
from cbs.cli import FAILED
from cbs.errors import counted
from cbs.pace import Pace
from cbs.schema import Config, Request
from launch import queue
from launch.calibration import reckoned
from launch.cost import Estimate, as_record, estimates, known_paces
from launch.display import summary
from launch.job import Job
from launch.pack import packed
from launch.plan import Run, Sweep, planned, preflight, runs
from launch.settings import Settings
from launch.submissions import Load, Submission, carried, carriers, create, submissions

_ROOT = Path(__file__).resolve().parent.parent
# Starting Python, and what a job's last run takes longer than expected.
_FILLED = 0.9


@dataclass
class Plan:
    """What would be submitted now: loads of runs (longest first), and where the others are."""

    sweep: Sweep
    queued: list[Run]
    found: list[Estimate]
    loads: list[Load]
    paces: dict[str, Pace]

    def opening(self) -> str:
        queued = f", {len(self.queued)} in the queue" if self.queued else ""
        head, _, where = self.sweep.opening().partition(" → ")
        return f"{head}{queued} → {where}"


def plan(wanted: list[Run], settings: Settings, seen: Sequence[Submission] | None) -> Plan:
    """Sort the runs, and pack what is left. seen: the study's submissions; None asks no Slurm (a dry run)."""
    # The queue first: a run whose task ends in between has its record by the time that is looked at.
    in_queue = {one.id for one in carried(seen)} if seen is not None else set()
    sweep = planned(wanted)
    if seen is not None and _freed_the_dead(sweep):
        sweep = planned(wanted)
    queued = [run for run in sweep.waiting if run.id in in_queue]
    sweep.waiting = [run for run in sweep.waiting if run.id not in in_queue]
    paces = reckoned([run.config for run in sweep.waiting], settings.step_ms, settings.tflops, None)
    found = estimates(sweep.waiting, sweep.done, known_paces(paces))
    hours = _FILLED * (settings.fill_min or settings.timeout_min) / 60
    loads = packed(found, settings.pack, settings.cpus_per_task, settings.gpus_per_task, hours) if found else []
    return Plan(sweep, queued, found, loads, paces)


def _freed_the_dead(sweep: Sweep) -> int:
    """Free the runs whose claim is held by a job that this cluster no longer has; how many there were."""
    held = {run: claim.holder(run.folder.claims_path) for run in sweep.busy}
    # On this machine the owner's process itself was seen; elsewhere its job must do.
    jobs = {run: owner for run, owner in held.items() if owner and owner.get("job") and not claim.is_here(owner)}
    if not jobs:
        return 0
    name, _ = queue.cluster()
    ours = {run: owner for run, owner in jobs.items() if owner["job"]["cluster"] in (name, "")}
    alive = queue.alive([owner["job"]["id"] for owner in ours.values()])
    dead = {run: owner for run, owner in ours.items() if owner["job"]["id"] not in alive}
    for run, owner in dead.items():
        claim.revoke(run.folder.claims_path, owner["number"])
    return len(dead)


def launch(configs: Sequence[Config], settings: Settings) -> None:
    """Submit what is neither finished nor queued nor at work.

    Raises InputError, queue.SlurmError; SystemExit where runs are set aside, or were waited for in vain.
    """
    unsettled = aside = 0
    for study in dict.fromkeys(config.study_dir for config in configs):
        wanted = runs([absolute(config) for config in configs if config.study_dir == study])
        aside += len(submit(wanted, settings.fitted(configs)).sweep.aside)
        if settings.wait:
            from launch.watch import watch

            watch(study)
            sweep = planned(wanted)
            print(summary(sweep.done, sweep.failed, wanted))
            unsettled += len(wanted) - len(sweep.done)
    if unsettled:
        print(f"{counted(unsettled, 'run')} without a result: python -m launch status says why.", file=sys.stderr)
    if unsettled or aside:
        raise SystemExit(FAILED)


def absolute(config: Config) -> Config:
    """A job may start in another folder than its submitter."""
    paths = replace(
        config.paths, results=str(Path(config.paths.results).absolute()), data=str(Path(config.paths.data).absolute())
    )
    return replace(config, paths=paths)


def submit(wanted: list[Run], settings: Settings) -> Plan:
    """One submission for one study, or none where nothing is left to do. Raises queue.SlurmError."""
    study = wanted[0].config.study_dir
    _, array_size = queue.cluster()
    prepared = not settings.prepare
    while True:
        seen = submissions(study)
        now = plan(wanted, settings, seen)
        if not now.loads:
            _say(now, seen)
            return now
        if not prepared:  # it may take long: what is left is then looked at again
            preflight([replace(one.run.config, device="cpu", precision="fp32") for one in now.found])
            prepared = True
            continue
        number = seen[-1].number + 1 if seen else 1
        carrying = [one.run for one in now.found]
        reckoned = as_record(now.paces)
        submission = create(study, number, carrying, now.loads, array_size, asdict(settings), reckoned)
        if submission is not None:
            break
    _say(now, seen)
    with claim.touched(submission.path):
        _hand_over(submission, settings)
    return now


def _say(now: Plan, seen: Sequence[Submission]) -> None:
    """What there is to do, and what of the request has to wait or be asked for otherwise."""
    print(now.opening(), file=sys.stderr)
    last = carriers(seen)
    for run in (*now.queued, *now.sweep.busy):
        before = Request.of(last[run.id].run.config) if run.id in last else None
        asked = Request.of(run.config)
        if before and (
            asked.last_step > before.last_step
            or asked.evaluations_after > before.evaluations_after
            or set(asked.thresholds) - set(before.thresholds)
        ):
            print(
                f"{run.name} and perhaps others are queued or at work with a smaller budget, fewer evaluations after "
                "their crossing or other thresholds: give this command again when they have ended.",
                file=sys.stderr,
            )
            break
    for run in now.sweep.aside:
        print(f"set aside: {run.name}: {run.why()}", file=sys.stderr)
    if now.sweep.aside:
        study = now.sweep.aside[0].config.study_dir
        print(f"To try them again: python -m launch resubmit --failed {study}", file=sys.stderr)


def _hand_over(submission: Submission, settings: Settings) -> None:
    jobs: list[str] = []
    try:
        for first, name in zip(
            range(0, len(submission.loads), submission.content["array_size"]), submission.arrays, strict=True
        ):
            part = range(first, min(first + submission.content["array_size"], len(submission.loads)))
            jobs += _submit_array(submission, name, part, settings)
    except Exception as error:
        submission.close(jobs, str(error))
        raise queue.SlurmError(f"sbatch refused: {_refusal(error)}") from error
    submission.close(jobs)
    what = f"{counted(len(submission.ids), 'run')} in {counted(len(jobs), 'task')}"
    print(f"Submitted {what} of Slurm job {jobs[0].partition('_')[0]}.", file=sys.stderr)
    print(f"How far it is: python -m launch status {submission.study}", file=sys.stderr)


def _refusal(error: Exception) -> str:
    text = " ".join(str(getattr(error, "stderr", None) or error).split())
    return text.rpartition("sbatch: error: ")[2] or type(error).__name__


def _submit_array(submission: Submission, name: str, part: range, settings: Settings) -> list[str]:
    import submitit

    executor = submitit.SlurmExecutor(folder=submission.folder, max_num_timeout=settings.max_requeues)
    executor.update_parameters(job_name=name, **parameters(settings))
    with _outside_of_jobs(), executor.batch():
        jobs = [executor.submit(Job(str(submission.study.absolute()), submission.number, place)) for place in part]
    return [job.job_id for job in jobs]


def parameters(settings: Settings) -> dict[str, Any]:
    """What submitit's Slurm executor is told."""
    path = f"export PYTHONPATH=${{PYTHONPATH:+$PYTHONPATH:}}{shlex.quote(str(_ROOT))}"
    optional = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "mem": None if settings.mem_gb is None else f"{round(settings.mem_gb * 1024)}MB",
        "gpus_per_node": settings.gpus_per_task or None,
    }
    return {
        **{key: value for key, value in optional.items() if value is not None},
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": settings.cpus_per_task,
        "time": settings.timeout_min,
        "array_parallelism": settings.array_parallelism,
        "signal_delay_s": settings.signal_delay_s,
        "stderr_to_stdout": True,
        "setup": [*settings.setup, path],
        # Since Slurm 22.05 srun does not take this over from sbatch.
        "srun_args": [f"--cpus-per-task={settings.cpus_per_task}"],
        "additional_parameters": {"requeue": True, **settings.sbatch},
    }


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """A submission from inside a job must not inherit that job's shape."""
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {k: v for k, v in os.environ.items() if inside and k.startswith("SLURM_") and k != "SLURM_CONF"}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
