"""As many runs at once as a machine carries, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cbs.errors import InputError
from cbs.schema import Config
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


class Crew:
    """Works off a sweep's waiting runs; what happens to each goes into the sweep's lists."""

    def __init__(self, sweep: Sweep, logged: bool = False) -> None:
        """logged: each run's output goes to a file in its folder."""
        self.sweep, self._logged = sweep, logged
        self._context = nursery()
        self.free: list[Slot] = []  # the devices of each run that could start now
        self.stopping = False

    def fill(self) -> None:
        """Start waiting runs where there is a slot."""
        while self.free and self.sweep.waiting and not self.stopping:
            self.sweep.live.append(self._start(self.sweep.waiting.pop(0), self.free.pop(0)))

    def collect(self) -> list[Live]:
        """Wait a moment; take in what the runs say, and return those that came to an end."""
        live = self.sweep.live
        waiting_for: list[Any] = [one.pipe for one in live] + [one.process.sentinel for one in live]
        ready = set(wait(waiting_for, timeout=_POLL_SECONDS))
        ended = []
        for one in [o for o in live if o.pipe in ready or o.process.sentinel in ready]:
            gone = one.process.sentinel in ready  # asked before reading: what it said last is in the pipe by now
            _listen(one)
            if gone:
                one.process.join()
                _dismiss(one)
                live.remove(one)
                self.free.append(one.slot)
                self._settle(one)
                one.pipe.close()
                ended.append(one)
        return ended

    def stop(self) -> None:
        """Ask every run to save its state and end."""
        self.stopping = True
        for one in self.sweep.live:
            self.end(one)

    def end(self, one: Live) -> None:
        """Ask one run to save its state and end."""
        with suppress(OSError):  # it ended in this moment: its last words are in the pipe
            one.pipe.send("stop")

    def kill(self) -> None:
        for one in self.sweep.live:
            for process in (one.process, *(other for other, _ in one.others)):
                process.kill()

    def stop_within(self, seconds: float) -> None:
        """Stop every run and wait for its end; kill those that take longer. Safe inside a signal handler."""
        deadline = time.monotonic() + seconds
        self.stop()
        for one in list(self.sweep.live):
            one.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def _start(self, run: Run, slot: Slot) -> Live:
        log = run.folder.path / "log.txt" if self._logged else None
        teams = _torchrun(len(slot))
        others = (*self.free, *(one.slot for one in self.sweep.live))
        sharing = {"CBS_SHARING": str(1 + sum(slot[0] in other for other in others))}
        started = [
            self._process((replace(run.config, device=device), run.seed), log, {**team, **sharing})
            for device, team in zip(slot, teams, strict=True)
        ]
        (process, pipe), *rest = started
        return Live(run, slot, process, pipe, rest, failures=run.folder.failures())

    def _process(self, what: tuple[Config, int], log: Path | None, team: dict[str, str]) -> tuple[Any, Connection]:
        from launch import worker

        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=worker.main, args=(*what, theirs, log, team), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _settle(self, one: Live) -> None:
        sweep = self.sweep
        kind: str
        content: Any
        kind, content = one.ended or ("died", None)
        if kind == "done":
            sweep.done[one.run] = content
        elif kind in ("interrupted", "superseded") or (kind == "died" and self.stopping):
            sweep.interrupted.append(one.run)
        elif kind == "busy":
            sweep.busy.append(one.run)
        else:
            code = one.process.exitcode
            how = f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"
            sweep.failed[one.run] = content or f"its process died ({how}; out of memory?)"
            if one.run.folder.failures() == one.failures:  # it had no chance to write it down
                with suppress(OSError):  # a full disk
                    one.run.folder.write_failure(sweep.failed[one.run] + "\n")


def _dismiss(one: Live) -> None:
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


def _listen(one: Live) -> None:
    try:
        while one.pipe.poll():
            kind, content = one.pipe.recv()
            if kind == "report":
                one.step, one.value = content["step"], content["value"]
                one.training_seconds = content["training_seconds"]
            else:
                one.ended = (kind, content)
    except (EOFError, OSError):
        pass
