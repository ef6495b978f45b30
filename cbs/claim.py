"""Who works on a run: numbered claims, the highest of which owns it.

A claim is created by hard-linking a finished file to the next free number, which succeeds for one
process only, on NFS too. Nothing is ever removed, so a claim that was taken over can't be taken over
twice. A claim is free when it was released, when its process on this machine is gone, or, on another
machine, when its file has not been touched for STALE_SECONDS. An owner that was superseded while it
was paused sees the higher number before it writes again.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cbs.record import write_atomic

STALE_SECONDS = 600.0
_TOUCH_SECONDS = 60.0


class Busy(Exception):
    """Another live process works on this run."""


class Superseded(Exception):
    """A newer attempt owns this run: this one must write nothing more."""


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(p.stem) for p in folder.glob("[0-9]*.json"))


def _alive(path: Path) -> bool:
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        if owner["released"]:
            return False
        if owner["machine"] != _machine():
            return time.time() - path.stat().st_mtime < STALE_SECONDS
        process = psutil.Process(owner["pid"])
        # A process id is used again; its start time tells the two apart.
        return abs(process.create_time() - owner["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError, ValueError, KeyError):
        return False


def holder(folder: Path) -> dict[str, Any] | None:
    """The live owner of a claims folder, or None."""
    numbers = _numbers(folder)
    if not numbers:
        return None
    path = folder / f"{numbers[-1]:04d}.json"
    return json.loads(path.read_text()) if _alive(path) else None


@dataclass
class Claim:
    """An attempt's right to write a run's records."""

    folder: Path
    number: int
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number:04d}.json"

    @classmethod
    def acquire(cls, folder: Path) -> Claim:
        """Own the run, or raise Busy."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers = _numbers(folder)
        last = numbers[-1] if numbers else 0
        if last and _alive(folder / f"{last:04d}.json"):
            raise Busy(f"{folder.parent} is being worked on by another process")
        claim = cls(folder, last + 1)
        temporary = folder / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
        write_atomic(temporary, claim._content(released=False))
        try:
            os.link(temporary, claim.path)
        except FileExistsError as error:
            raise Busy(f"{folder.parent} was just claimed by another process") from error
        finally:
            temporary.unlink()
        threading.Thread(target=claim._touch, daemon=True).start()
        return claim

    def _touch(self) -> None:
        """Say to other machines that this process lives, however long a step or an evaluation takes."""
        while not self._ended.wait(_TOUCH_SECONDS):
            try:
                os.utime(self.path)
            except OSError:
                pass  # a file system that is away for a moment: the owner's next write will tell

    def _content(self, released: bool) -> bytes:
        started = psutil.Process().create_time()
        owner = {"machine": _machine(), "pid": os.getpid(), "started": started, "released": released}
        return json.dumps(owner).encode()

    def check(self) -> None:
        """Raise Superseded where a newer attempt owns the run."""
        if (self.folder / f"{self.number + 1:04d}.json").exists():
            raise Superseded(f"{self.folder.parent} was taken over by attempt {self.number + 1}")

    def release(self) -> None:
        self._ended.set()
        write_atomic(self.path, self._content(released=True))
