"""One run in a process of its own; it reports through a pipe and dies with the process that started it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cbs.schema import Config


def main(config: Config, seed: int, pipe: Connection, log: Path | None, team: dict[str, str]) -> None:
    """Run one seed of a trial and send what happens: ("report", …), then one of
    ("done", result), ("interrupted", text), ("superseded", text), ("busy", text) or ("failed", text).

    log: where this process's output goes; None leaves it where the launcher's goes. team: torchrun's
    environment, where several processes share the trial; only the first of them sends anything.
    """
    os.environ.update(team)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the launcher's to pass on
    tell = _sender(pipe, log)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_listen, args=(pipe, stop), daemon=True).start()

    if team.get("RANK", "0") != "0":
        return _follow(config)
    try:
        pipe.send(_outcome(config, seed, tell, stop.is_set))
    except Exception as error:
        if log is not None:
            _note(traceback.format_exc())
        pipe.send(("failed", "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]))


def _outcome(config: Config, seed: int, tell: Callable[[Any], None], stopped: Callable[[], bool]) -> tuple[str, Any]:
    from cbs import trial
    from cbs.claim import Busy, Superseded
    from cbs.parallel import joined

    try:
        with joined(config) as team:
            return "done", trial.run(config, seed, tell, stopped, team)
    except trial.Interrupted as interrupted:
        return "interrupted", str(interrupted)
    except Superseded as superseded:
        return "superseded", str(superseded)
    except Busy as busy:
        return "busy", str(busy)


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


def _sender(pipe: Connection, log: Path | None) -> Callable[[Any], None]:
    """What a run tells its progress to: the pipe, and its log where it has one."""
    if log is not None:
        _redirect(log)
        _note(f"{time.strftime('%F %T')} {socket.gethostname()} process {os.getpid()}")
    logged: list[float | None] = [None]

    def tell(now: Any) -> None:
        pipe.send(("report", asdict(now)))
        if log is not None and now.value != logged[0]:
            logged[0] = now.value
            _note(f"{time.strftime('%F %T')} step {now.step:,}, FID {now.value:.2f}")

    return tell


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
