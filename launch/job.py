"""What runs inside a Slurm task: the runs of one load, each in a process of its own."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from cbs.claim import STALE_SECONDS, job_restarted
from cbs.record import RecordError
from launch import queue
from launch.crew import Crew, Slot, shared
from launch.plan import Live, Run, Sweep, planned
from launch.submissions import Submission

# Of the time between the warning and the end of a job, what requeueing may take.
_REQUEUE_SECONDS = 15.0


# How often a run is started in one task: a failure may be the moment's, but also the node's.
_TRIES = 2
# Whose claim isn't released in this time is at work elsewhere indeed.
_PATIENCE_SECONDS = STALE_SECONDS + 60
_POLL_SECONDS = 5.0


class Job:
    """One array task (submitit calls it, and asks for a checkpoint when its time runs out)."""

    def __init__(self, study: str, number: int, place: int) -> None:
        self.study, self.number, self.place = study, number, place
        self._crew: Crew | None = None
        self._grace = 0.0

    def __call__(self) -> dict[str, int]:
        """Work off what is unfinished of the load; return how many runs ended how."""
        submission = Submission(Path(self.study), self.number)
        load = submission.loads[self.place]
        sweep = planned([run for run in map(submission.run, load.runs) if _readable(run)])
        # A claim may be a dead process's that nobody could tell yet: asked again when its turn comes.
        sweep.waiting += sweep.busy
        sweep.busy = []
        _say(f"{self}: {sweep.opening()}")
        self._grace = submission.content["settings"]["signal_delay_s"] - _REQUEUE_SECONDS
        if sweep.waiting:
            crew = self._crew = Crew(sweep, logged=True)
            first = sweep.waiting[0].config
            crew.free = devices(first.device, load.lanes, submission.gpus, first.gpus_per_trial)
            _work(sweep, crew)
        return {name: len(getattr(sweep, name)) for name in ("done", "failed", "busy", "interrupted", "waiting")}

    def __repr__(self) -> str:
        return f"submission {self.number}, load {self.place} of {self.study}"

    def checkpoint(self) -> Any:
        """Save every run, within the time that Slurm leaves; submitit then requeues this job."""
        from submitit import JobEnvironment
        from submitit.helpers import DelayedSubmission

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # Slurm may send them twice
        if self._crew is not None:
            self._crew.stop_within(self._grace)
        pickle = JobEnvironment().paths.submitted_pickle
        # What an earlier requeueing, killed on the way, left here would stop submitit from writing.
        pickle.with_suffix(pickle.suffix + ".save_tmp").unlink(missing_ok=True)
        return DelayedSubmission(Job(self.study, self.number, self.place))


def _readable(run: Run) -> bool:
    """Whether its record can be read; a damaged one must not keep its neighbours from training."""
    try:
        run.finished()
    except RecordError as error:
        _say(f"{run.name}: {error}")
        return False
    return True


def devices(device: str, lanes: int, gpus: int, each: int) -> list[Slot]:
    """The devices of each run at once: Slurm shows a task its own GPUs only, numbered from 0."""
    numbered = gpus > 1 and device in ("auto", "cuda")
    return shared([f"cuda:{gpu}" for gpu in range(gpus)] if numbered else [device], lanes, each)


def _work(sweep: Sweep, crew: Crew) -> None:
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda got, _: terminated.append(got))
    tries: Counter[Run] = Counter()
    while crew.working or (not crew.stopping and (sweep.waiting or _released(sweep))):
        crew.fill()
        for one in crew.collect():
            _ended(sweep, crew, one, tries)
        if terminated and not crew.stopping:
            _say("SIGTERM: every run saves its state.")
            crew.stop()
    if terminated:
        _requeue_if_preempted()


def _released(sweep: Sweep) -> bool:
    """Wait for one of the runs that others hold, with nothing else to do; whether one came free."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while sweep.busy and time.monotonic() < deadline:
        free = [run for run in sweep.busy if not run.busy()]
        sweep.waiting += [run for run in free if run.finished() is None]
        sweep.busy = [run for run in sweep.busy if run not in free]
        if sweep.waiting:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _ended(sweep: Sweep, crew: Crew, one: Live, tries: Counter[Run]) -> None:
    run, (kind, content) = one.run, one.ended or ("died", "")
    _say(f"{run.name}: {kind if kind == 'done' else f'{kind}: {content}'} after {time.monotonic() - one.started:.0f} s")
    tries[run] += 1
    if kind == "superseded":
        if job_restarted(run.folder.claims_path):
            crew.stop()  # Slurm started this job again elsewhere: everything here is the new one's
    elif run in sweep.failed and tries[run] < _TRIES and not run.set_aside():
        del sweep.failed[run]
        sweep.waiting.append(run)
    elif kind == "interrupted" and not crew.stopping and tries[run] < _TRIES:
        sweep.interrupted.remove(run)  # somebody stopped this one alone
        sweep.waiting.append(run)


def _requeue_if_preempted() -> None:
    """Put this job back into the queue where Slurm warned it of its preemption, not where it was cancelled."""
    from submitit import JobEnvironment

    # Not SLURM_JOB_ID: an array's last element has its array's number, and would speak for all of them.
    job = JobEnvironment().job_id
    try:
        if queue.state(job) == "RUNNING":
            _say("Preempted: back into the queue.")
            queue.requeue(job)
    except queue.SlurmError as error:
        _say(f"Not requeued: {error}")


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk must not end the job
        print(f"{time.strftime('%F %T')} {text}", flush=True)
