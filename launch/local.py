"""This machine: as many runs at once as it carries, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from cbs.cli import FAILED, STOPPED
from cbs.config import Config
from cbs.errors import InputError
from launch.display import Display, summary
from launch.plan import Live, Run, Sweep, runs

_POLL_SECONDS = 0.25
# What a run may take to reach its next step and save its checkpoint before it is killed.
_GRACE_SECONDS = 60.0


def launch(configs: Sequence[Config], workers: int | str) -> list[Any]:
    """Run every trial that isn't finished; raise SystemExit where one failed or the sweep was stopped."""
    wanted = runs(configs)
    sweep = Sweep(waiting=[])
    for run in wanted:
        result = run.finished()
        if result is not None:
            sweep.done[run] = result
        elif run.busy():
            sweep.busy.append(run)
        else:
            sweep.waiting.append(run)
    print(_opening(sweep, len(configs), wanted), file=sys.stderr)
    stopped = False
    if sweep.waiting:
        context = _nursery()
        _preflight([run.config for run in sweep.waiting])
        stopped = _work(sweep, context, slots(configs[0].device, workers))
    print(summary(sweep.done, sweep.failed, wanted))
    _close(sweep, stopped, wanted)
    return []


def _opening(sweep: Sweep, trials: int, wanted: list[Run]) -> str:
    text = f"{trials} trials, {len(wanted)} runs"
    parts = [f"{len(sweep.done)} finished already" if sweep.done else "", f"{len(sweep.waiting)} to do"]
    if sweep.busy:
        parts.append(f"{len(sweep.busy)} at work in another process")
    where = f" → {wanted[0].config.study_dir}" if wanted else ""
    return f"{text}: {', '.join(p for p in parts if p)}{where}"


def _close(sweep: Sweep, stopped: bool, wanted: list[Run]) -> None:
    if stopped:
        left = len(sweep.waiting) + len(sweep.interrupted)
        print(f"Stopped with {left} runs left. Give the same command again to go on.", file=sys.stderr)
        raise SystemExit(STOPPED)
    if sweep.failed:
        for run, why in sweep.failed.items():
            print(f"failed: {run.name}: {why}  [{run.folder.path / 'failures'}]", file=sys.stderr)
        print("Give the same command again to retry what failed.", file=sys.stderr)
        raise SystemExit(FAILED)
    if sweep.busy:
        print(f"{len(sweep.busy)} runs are at work in another process: not waited for.", file=sys.stderr)


def _preflight(configs: list[Config]) -> None:
    """Check the machine once per distinct need, at the largest batch size that has it."""
    from cbs.trial import preflight

    largest: dict[str, Config] = {}
    for config in configs:
        need = repr((config.dataset, config.device, config.paths, config.name, config.target.features))
        if need not in largest or config.batch_size.initial > largest[need].batch_size.initial:
            largest[need] = config
    for config in largest.values():
        preflight(config)


def slots(device: str, workers: int | str) -> list[str]:
    """The device of each run at once: every GPU, or the CPU once per core."""
    import joblib
    import torch

    if workers != "auto" and (not isinstance(workers, int) or workers < 1):
        raise InputError(f"hydra.launcher.workers is {workers!r}: it must be auto or a whole number, 1 or more.")
    cuda = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    devices = [f"cuda:{i}" for i in range(cuda)] or [device if device.startswith("cuda") else "cpu"]
    count = workers if isinstance(workers, int) else (joblib.cpu_count() if devices == ["cpu"] else len(devices))
    return [devices[i % len(devices)] for i in range(count)]


def _nursery() -> Any:
    """Where runs are born: a server that has imported everything and forks a clean process per run.

    It starts importing at once, beside whatever this process does meanwhile.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launch.worker", "cbs.trial", "torchvision.utils", "sklearn.datasets"])
    forkserver.ensure_running()
    return context


def _work(sweep: Sweep, context: Any, free: list[str]) -> bool:
    """Run what is waiting; return whether a signal stopped it."""
    signals: list[int] = []
    before = {n: signal.signal(n, lambda got, _: signals.append(got)) for n in (signal.SIGINT, signal.SIGTERM)}
    told, deadline = 0, float("inf")
    try:
        with Display(sweep) as display:
            while sweep.live or (sweep.waiting and not signals):
                while free and sweep.waiting and not signals:
                    sweep.live.append(_start(context, sweep.waiting.pop(0), free.pop(0)))
                if len(signals) > told:
                    told = len(signals)
                    deadline = 0.0 if told > 1 else time.monotonic() + _GRACE_SECONDS
                    display.say("Stopping: each run saves a checkpoint. Press Ctrl-C again to stop at once.")
                    _tell_to_stop(sweep.live)
                if time.monotonic() > deadline:
                    for live in sweep.live:
                        live.process.kill()
                free += _collect(sweep, display, bool(signals))
                display.refresh()
    finally:
        for live in sweep.live:
            live.process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(signals)


def _start(context: Any, run: Run, slot: str) -> Live:
    from launch import worker

    ours, theirs = context.Pipe()
    arguments = (replace(run.config, device=slot), run.seed, theirs)
    process = context.Process(target=worker.main, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return Live(run, slot, process, ours)


def _tell_to_stop(live: list[Live]) -> None:
    for one in live:
        try:
            one.pipe.send("stop")
        except OSError:
            pass  # it ended in this moment: its last words are in the pipe


def _collect(sweep: Sweep, display: Display, stopping: bool) -> list[str]:
    """Take in what the runs say; return the slots that came free."""
    waiting_for: list[Any] = [one.pipe for one in sweep.live] + [one.process.sentinel for one in sweep.live]
    ready = set(wait(waiting_for, timeout=_POLL_SECONDS))
    freed = []
    for one in [o for o in sweep.live if o.pipe in ready or o.process.sentinel in ready]:
        gone = one.process.sentinel in ready  # asked before reading: what it said last is in the pipe by now
        _listen(one)
        if gone:
            one.process.join()
            sweep.live.remove(one)
            freed.append(one.slot)
            _settle(sweep, one, display, stopping)
            one.pipe.close()
    return freed


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


def _settle(sweep: Sweep, one: Live, display: Display, stopping: bool) -> None:
    kind: str
    content: Any
    kind, content = one.ended or ("died", None)
    if kind == "done":
        sweep.done[one.run] = content
    elif kind == "interrupted" or (kind == "died" and stopping):
        sweep.interrupted.append(one.run)
    elif kind == "busy":
        sweep.busy.append(one.run)
    else:
        code = one.process.exitcode
        how = f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"
        sweep.failed[one.run] = content or f"its process died ({how}; out of memory?)"
        if content is None:
            number = len(list(one.run.folder.claims_path.glob("[0-9]*.json")))
            one.run.folder.write_failure(number, sweep.failed[one.run] + "\n")
    display.ended(one)
