"""This machine: as many runs at once as it carries."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence

from cbs.cli import FAILED, STOPPED
from cbs.schema import Config
from launch.crew import Crew, slots
from launch.display import Display, summary
from launch.forecast import opening
from launch.plan import Sweep, planned, preflight, runs

# What a run may take to reach its next step and save its checkpoint before it is killed.
_GRACE_SECONDS = 60.0


def launch(configs: Sequence[Config], workers: int | str) -> None:
    """Run every trial that isn't finished; raise SystemExit where one failed or the sweep was stopped."""
    sweep = planned(runs(configs))
    print(sweep.opening(), file=sys.stderr)
    stopped = False
    if sweep.waiting:
        crew = Crew(sweep)
        preflight([run.config for run in sweep.waiting])
        crew.free = slots(configs[0].device, workers, configs[0].gpus_per_trial)
        print(opening(sweep, crew.free), file=sys.stderr)
        stopped = work(sweep, crew, Display(sweep))
    print(summary(sweep.done, sweep.failed, sweep.wanted))
    close(sweep, stopped)


def work(sweep: Sweep, crew: Crew, display: Display, refill: Callable[[], None] = lambda: None) -> bool:
    """Run what is waiting; return whether a signal stopped it. refill: is asked often; may add to what is waiting."""
    signals: list[int] = []
    before = {n: signal.signal(n, lambda got, _: signals.append(got)) for n in (signal.SIGINT, signal.SIGTERM)}
    told, deadline = 0, float("inf")
    try:
        with display:
            refill()
            while crew.working or (sweep.waiting and not signals):
                if not signals:
                    crew.fill()
                if len(signals) > told:
                    told = len(signals)
                    deadline = 0.0 if told > 1 else time.monotonic() + _GRACE_SECONDS
                    display.say("Stopping: each run saves a checkpoint. Press Ctrl-C again to stop at once.")
                    crew.stop()
                if time.monotonic() > deadline:
                    crew.kill()
                for one in crew.collect():
                    display.ended(one)
                if not signals:
                    refill()
                display.refresh()
    finally:
        crew.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(signals)


def close(sweep: Sweep, stopped: bool) -> None:
    """Say what is left, failed or at work elsewhere; raise SystemExit where there is any reason to."""
    if stopped:
        left = len(sweep.waiting) + len(sweep.interrupted)
        print(f"Stopped with {left} runs left. Give the same command again to go on.", file=sys.stderr)
        raise SystemExit(STOPPED)
    for run, why in sweep.failed.items():
        print(f"failed: {run.name}: {why}  [{run.folder.path / 'failures'}]", file=sys.stderr)
    if set(sweep.failed) - set(sweep.aside):
        print("Give the same command again to retry what failed.", file=sys.stderr)
    if sweep.aside:
        study = sweep.aside[0].config.study_dir
        print(f"Set aside: not tried again until `python -m launch resubmit --failed {study}`.", file=sys.stderr)
    if sweep.failed:
        raise SystemExit(FAILED)
    if sweep.busy:
        print(f"{len(sweep.busy)} runs are at work in another process: not waited for.", file=sys.stderr)
