"""What runs inside a Slurm task: the runs of one load, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.crew import Crew, Slot, shared
from launch.plan import Live, Run, Sweep, planned
from launch.submissions import Load, Submission

# Of the time between the warning and the end of a job, what requeueing may take.
_REQUEUE_SECONDS = 15.0


class Job:
    """One array task (submitit calls it, and asks for a checkpoint when its time runs out)."""

    def __init__(self, study: str, number: int, place: int) -> None:
        self.study, self.number, self.place = study, number, place
        self._crew: Crew | None = None

    @property
    def submission(self) -> Submission:
        return Submission(Path(self.study), self.number)

    def __call__(self) -> dict[str, int]:
        """Work off what is unfinished of the load; return how many runs ended how."""
        submission = self.submission
        load = submission.loads[self.place]
        sweep = planned([submission.runs[place] for place in load.runs])
        sweep.waiting += sweep.busy  # asked again when its turn comes: the other process may be gone by then
        sweep.busy = []
        _say(f"{self}: {sweep.opening()}")
        self._work(sweep, load)
        return {name: len(getattr(sweep, name)) for name in ("done", "failed", "busy", "interrupted", "waiting")}

    def __repr__(self) -> str:
        return f"submission {self.number}, load {self.place} of {self.study}"

    def checkpoint(self) -> Any:
        """Save every run, within the time that Slurm leaves; submitit then requeues this job."""
        from submitit.helpers import DelayedSubmission

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # Slurm may send them twice
        if self._crew is not None:
            self._crew.stop_within(self.submission.content["settings"]["signal_delay_s"] - _REQUEUE_SECONDS)
        return DelayedSubmission(Job(self.study, self.number, self.place))

    def _work(self, sweep: Sweep, load: Load) -> None:
        crew = self._crew = Crew(sweep, logged=True)
        if not sweep.waiting:
            return
        terminated: list[int] = []
        signal.signal(signal.SIGTERM, lambda got, _: terminated.append(got))
        first = sweep.waiting[0].config
        crew.free = devices(first.device, load.lanes, self.submission.gpus, first.gpus_per_trial)
        while sweep.live or (sweep.waiting and not crew.stopping):
            crew.fill()
            for one in crew.collect():
                _ended(sweep, crew, one)
            if terminated and not crew.stopping:
                _say("SIGTERM: every run saves its state.")
                crew.stop()
        if terminated:
            _requeue_if_preempted()


def devices(device: str, lanes: int, gpus: int, each: int) -> list[Slot]:
    """The devices of each run at once: Slurm shows a task its own GPUs only, numbered from 0."""
    numbered = gpus > 1 and device in ("auto", "cuda")
    return shared([f"cuda:{gpu}" for gpu in range(gpus)] if numbered else [device], lanes, each)


def _ended(sweep: Sweep, crew: Crew, one: Live) -> None:
    run, (kind, content) = one.run, one.ended or ("died", "")
    _say(f"{run.name}: {kind if kind == 'done' else f'{kind}: {content}'} after {time.monotonic() - one.started:.0f} s")
    if kind == "superseded":
        crew.stop()  # Slurm started this job again elsewhere: everything here is the new one's
    elif run in sweep.failed and not run.set_aside():
        _again(sweep, run)


def _again(sweep: Sweep, run: Run) -> None:
    """A failed run is tried again after the others, until it is set aside."""
    del sweep.failed[run]
    sweep.waiting.append(run)


def _requeue_if_preempted() -> None:
    """Put this job back into the queue where Slurm warned it of its preemption, not where it was cancelled."""
    from submitit import JobEnvironment

    # Not SLURM_JOB_ID: an array's last element has its array's number, and would speak for all of them.
    job = JobEnvironment().job_id
    state = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True).stdout.strip()
    if state == "RUNNING":
        _say("Preempted: back into the queue.")
        subprocess.run(["scontrol", "requeue", job])


def _say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {text}", flush=True, file=sys.stdout)
