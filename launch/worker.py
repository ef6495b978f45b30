"""One run, or several that train as one, in a process of its own; it dies with the process that started it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cbs.outcome import Metric
from cbs.schema import Config


def main(
    config: Config, seeds: Sequence[int], workers: int, pipe: Connection, logs: Sequence[Path], team: dict[str, str]
) -> None:
    """Run seeds of a trial and send what happens: ("report", (seed, …)) and ("done", (seed, result)) of each; where
    there are several, first ("joined", seeds) of those that train; last ("over", None), or, of all that aren't done,
    ("interrupted", text), ("superseded", text), ("busy", text) or ("failed", text).

    workers: the processes that these seeds have to themselves. logs: where each seed's output goes; empty leaves it
    where the launcher's goes. team: torchrun's environment, where several processes share the trial; only the first
    of them sends anything.
    """
    os.environ.update(team)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the launcher's to pass on
    tell = _sender(pipe, dict(zip(seeds, logs, strict=False)), config.target.direction)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_listen, args=(pipe, stop), daemon=True).start()

    if team.get("RANK", "0") != "0":
        return _follow(config)
    try:
        pipe.send(_outcome(config, seeds, workers, pipe, tell, stop.is_set))
    except Exception as error:
        if logs:
            _note(traceback.format_exc())
        pipe.send(("failed", "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]))


def _outcome(
    config: Config,
    seeds: Sequence[int],
    workers: int,
    pipe: Connection,
    tell: Callable[[int, Any], None],
    stopped: Callable[[], bool],
) -> tuple[str, Any]:
    from cbs import trial
    from cbs.claim import Busy, Superseded
    from cbs.parallel import joined

    def done(seed: int, result: Any) -> None:
        pipe.send(("done", (seed, result)))

    try:
        if len(seeds) > 1:
            trial.run_together(config, seeds, workers, tell, stopped, lambda found: pipe.send(("joined", found)), done)
        else:
            with joined(config) as team:
                done(seeds[0], trial.run(config, seeds[0], lambda now: tell(seeds[0], now), stopped, team))
    except trial.Interrupted as interrupted:
        return "interrupted", str(interrupted)
    except Superseded as superseded:
        return "superseded", str(superseded)
    except Busy as busy:
        return "busy", str(busy)
    return "over", None


def _follow(config: Config) -> None:
    from cbs import trial
    from cbs.parallel import joined

    with joined(config) as team:
        trial.follow(config, team)


def _listen(pipe: Connection, stop: threading.Event) -> None:
    """Stop when told to; die at once, as if killed, when the launcher is gone."""
    try:
        while True:
            pipe.recv()
            stop.set()
    except (EOFError, OSError):
        os._exit(1)


def _sender(pipe: Connection, logs: dict[int, Path], metric: Metric) -> Callable[[int, Any], None]:
    """What runs tell their progress to: the pipe, and the log of the first where there are logs."""
    if logs:
        first, *others = logs.values()
        _redirect(first)
        _note(f"{time.strftime('%F %T')} {socket.gethostname()} process {os.getpid()}")
        for log in others:
            _refer(log, first)
    logged: dict[int, float | None] = {}

    def tell(seed: int, now: Any) -> None:
        pipe.send(("report", (seed, asdict(now))))
        if logs and now.value != logged.get(seed):
            logged[seed] = now.value
            which = f"seed {seed} " if len(logs) > 1 else ""
            _note(f"{time.strftime('%F %T')} {which}step {now.step:,}, {metric.title} {metric.shown(now.value)}")

    return tell


def _refer(log: Path, to: Path) -> None:
    """Say in a run's log that it shares another's process."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            file.write(f"{time.strftime('%F %T')} started together with another seed: see {to}\n")


def _note(text: str) -> None:
    """Write to the log; a full disk must not end the run."""
    with suppress(OSError):
        print(text.rstrip(), flush=True)


def _redirect(log: Path) -> None:
    """Append everything that is written to this process's output to a file."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        print(f"cbs: {log} can't be written ({error.strerror}).", file=sys.stderr)
        return
    os.dup2(file, 1)
    os.dup2(file, 2)
