"""As many processes at once as a machine carries, each with a run, or with several that train as one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cbs.errors import InputError
from cbs.schema import Config
from cbs.stack import mates
from launch.plan import Live, Run, Sweep

_POLL_SECONDS = 0.25
_FAREWELL_SECONDS = 10.0


Slot = tuple[str, ...]
"""The devices of one run: one per process that shares its batches."""


def slots(device: str, workers: int | str, each: int = 1) -> list[Slot]:
    """The devices of each run at once: every GPU, or the CPU once per core; `each` of them to a run."""
    import joblib

    if workers != "auto" and (not isinstance(workers, int) or workers < 1):
        raise InputError(f"hydra.launcher.workers is {workers!r}: it must be auto or a whole number, 1 or more.")
    cuda = _gpus() if device in ("auto", "cuda") else 0
    devices = [f"cuda:{i}" for i in range(cuda)] or [device if device.startswith("cuda") else "cpu"]
    if cuda and cuda < each:
        raise InputError(f"gpus_per_trial is {each}: this machine has {cuda} GPUs.")
    there = max(1, (joblib.cpu_count() if devices == ["cpu"] else len(devices)) // each)
    return shared(devices, workers if isinstance(workers, int) else there, each)


def shared(devices: list[str], count: int, each: int) -> list[Slot]:
    """As many slots as asked for, of so many devices each, taken in turn."""
    return [tuple(devices[(at * each + k) % len(devices)] for k in range(each)) for at in range(count)]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def _ignoring(*numbers: int) -> Iterator[None]:
    """Processes that are started meanwhile ignore these signals for good."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def nursery() -> Any:
    """Where runs are born: a server that has imported everything and forks a clean process per run.

    It starts importing at once, beside whatever this process does meanwhile. Slurm sends its signals to
    every process of a job: the server must outlive them for the runs to save their state.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launch.worker", "cbs.trial", "torchvision.utils", "sklearn.datasets"])
    with _ignoring(signal.SIGTERM, signal.SIGUSR2):
        forkserver.ensure_running()
    return context


@dataclass
class Work:
    """A process at work: its runs, and the processes that share their batches."""

    live: list[Live]
    slot: Slot
    process: Any
    pipe: Connection
    others: list[tuple[Any, Connection]] = field(default_factory=list)
    ended: tuple[str, Any] = ("died", None)


class Crew:
    """Works off a sweep's waiting runs; what happens to each goes into the sweep's lists."""

    def __init__(self, sweep: Sweep, logged: bool = False) -> None:
        """logged: each run's output goes to a file in its folder."""
        self.sweep, self._logged = sweep, logged
        self._context = nursery()
        self._works: list[Work] = []
        branches = [run.branch for run in sweep.wanted]
        self._shared = {(one.folder.key, one.folder.seed) for one in branches if one is not None}
        self.free: list[Slot] = []  # the devices of each process that could start now
        self.stopping = False

    @property
    def working(self) -> bool:
        """Whether a process is there yet: its last run may be done some moments before it is gone."""
        return bool(self._works)

    def fill(self) -> None:
        """Start waiting runs where there is a slot."""
        while self.free and not self.stopping:
            ready = self._ready()
            if not ready:
                return
            runs = together(ready)
            self.sweep.waiting = [run for run in self.sweep.waiting if run not in runs]
            trials = {run.folder.trial for run in self.sweep.waiting}
            self._start(runs, max(1, len(self.free) - len(trials)), self.free.pop(0))

    def _ready(self) -> list[Run]:
        """The waiting runs from the first that has to wait for no other process's steps."""
        waiting = self.sweep.waiting
        first = next((at for at, run in enumerate(waiting) if not self._held_up(run)), len(waiting))
        return waiting[first:]

    def _held_up(self, run: Run) -> bool:
        branch = run.branch
        if branch is not None:
            return branch.held_up()
        return run.id in self._shared and run.busy()

    def collect(self) -> list[Live]:
        """Wait a moment; take in what the runs say, and return those that came to an end."""
        waiting_for: list[Any] = [o.pipe for o in self._works] + [o.process.sentinel for o in self._works]
        ready = set(wait(waiting_for, timeout=_POLL_SECONDS))
        ended = []
        for work in [o for o in self._works if o.pipe in ready or o.process.sentinel in ready]:
            gone = work.process.sentinel in ready  # asked before reading: what it said last is in the pipe by now
            ended += self._listen(work)
            if gone:
                work.process.join()
                _dismiss(work)
                self._works.remove(work)
                self.free.append(work.slot)
                ended += [one for one in list(work.live) if self._settle(work, one)]
                work.pipe.close()
        return ended

    def stop(self) -> None:
        """Ask every run to save its state and end."""
        self.stopping = True
        for work in self._works:
            _say_stop(work)

    def end(self, one: Live) -> None:
        """Ask one run, and those that train with it, to save their state and end."""
        for work in self._works:
            if one in work.live:
                _say_stop(work)

    def kill(self) -> None:
        for work in self._works:
            for process in (work.process, *(other for other, _ in work.others)):
                process.kill()

    def stop_within(self, seconds: float) -> None:
        """Stop every run and wait for its end; kill those that take longer. Safe inside a signal handler."""
        deadline = time.monotonic() + seconds
        self.stop()
        for work in list(self._works):
            work.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def _start(self, runs: list[Run], workers: int, slot: Slot) -> None:
        logs = [run.folder.path / "log.txt" for run in runs] if self._logged else []
        seeds = [run.seed for run in runs]
        teams = _torchrun(len(slot))
        others = (*self.free, *(work.slot for work in self._works))
        sharing = {"CBS_SHARING": str(1 + sum(slot[0] in other for other in others))}
        started = [
            self._process((replace(runs[0].config, device=device), seeds, workers), logs, {**team, **sharing})
            for device, team in zip(slot, teams, strict=True)
        ]
        (process, pipe), *rest = started
        live = [Live(run, failures=run.folder.failures()) for run in runs]
        self.sweep.live += live
        self._works.append(Work(live, slot, process, pipe, rest))

    def _process(
        self, what: tuple[Config, list[int], int], logs: list[Path], team: dict[str, str]
    ) -> tuple[Any, Connection]:
        from launch import worker

        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=worker.main, args=(*what, theirs, logs, team), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _listen(self, work: Work) -> list[Live]:
        """Take in what a process says; return the runs that are done."""
        done = []
        try:
            while work.pipe.poll():
                kind, content = work.pipe.recv()
                if kind == "joined":
                    for one in [o for o in work.live if o.run.seed not in content]:
                        self._remove(work, one)
                        self.sweep.waiting.insert(0, one.run)
                elif kind in ("report", "done"):
                    seed, what = content
                    for one in [o for o in work.live if o.run.seed == seed]:  # none: a stack may have other members
                        if kind == "done":
                            done.append(self._done(work, one, what))
                        else:
                            one.step, one.value = what["step"], what["value"]
                            one.training_seconds = what["training_seconds"]
                else:
                    work.ended = (kind, content)
        except (EOFError, OSError):
            pass
        return [one for one in done if one.run in self.sweep.done]

    def _done(self, work: Work, one: Live, result: Any) -> Live:
        self._remove(work, one)
        one.ended = ("done", result)
        if one.run.settled(result):
            self.sweep.done[one.run] = result
        else:  # its stack was asked for less than the run is
            self.sweep.waiting.insert(0, one.run)
        return one

    def _remove(self, work: Work, one: Live) -> None:
        work.live.remove(one)
        self.sweep.live.remove(one)

    def _shares(self, run: Run) -> bool:
        """Whether other runs of this sweep may train its first steps, or it theirs."""
        return run.branch is not None or run.id in self._shared

    def _settle(self, work: Work, one: Live) -> bool:
        """What became of a run whose process is gone before it was done; False where it waits again."""
        sweep = self.sweep
        together = len(work.live) > 1
        sweep.live.remove(one)
        one.ended = kind, content = work.ended
        if kind in ("interrupted", "superseded") or (kind == "died" and self.stopping):
            sweep.interrupted.append(one.run)
        elif kind == "over" or (kind == "busy" and (self._shares(one.run) or (together and not one.run.busy()))):
            sweep.waiting.append(one.run)
            return False
        elif kind == "busy":
            sweep.busy.append(one.run)
        else:
            code = work.process.exitcode
            how = f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"
            sweep.failed[one.run] = content or f"its process died ({how}; out of memory?)"
            if one.run.folder.failures() == one.failures:  # it had no chance to write it down
                with suppress(OSError):  # a full disk
                    one.run.folder.write_failure(sweep.failed[one.run] + "\n")
        return True


def together(waiting: list[Run]) -> list[Run]:
    """The first of the waiting runs, and those that could train with it as one network."""
    first = waiting[0]
    folders = mates(first.config, [run.folder for run in waiting if run.folder.trial == first.folder.trial])
    return [run for run in waiting if run.folder in folders]


def _say_stop(work: Work) -> None:
    with suppress(OSError):  # it ended in this moment: its last words are in the pipe
        work.pipe.send("stop")


def _dismiss(one: Work) -> None:
    """The processes that shared a run's batches end with the one that led them."""
    for process, pipe in one.others:
        process.join(_FAREWELL_SECONDS)
        process.kill()
        pipe.close()


def _torchrun(size: int) -> list[dict[str, str]]:
    """The environment that torchrun gives each process of a trial; nothing for one that is alone."""
    if size == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
