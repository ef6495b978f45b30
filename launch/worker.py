"""One run in a process of its own; it reports through a pipe and dies with the process that started it."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection

from cbs.config import Config


def main(config: Config, seed: int, pipe: Connection) -> None:
    """Run one seed of a trial and send what happens: ("report", …), then one of
    ("done", result), ("interrupted", text), ("busy", text) or ("failed", text)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the launcher's to pass on
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_listen, args=(pipe, stop), daemon=True).start()

    from cbs import trial
    from cbs.claim import Busy

    try:
        result = trial.run(config, seed, lambda now: pipe.send(("report", asdict(now))), stop.is_set)
        pipe.send(("done", result))
    except trial.Interrupted as interrupted:
        pipe.send(("interrupted", str(interrupted)))
    except Busy as busy:
        pipe.send(("busy", str(busy)))
    except Exception as error:
        pipe.send(("failed", "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]))


def _listen(pipe: Connection, stop: threading.Event) -> None:
    """Stop when told to; die at once, as if killed, when the launcher is gone."""
    try:
        pipe.recv()
        stop.set()
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
