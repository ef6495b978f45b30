"""Who works on a run: numbered claims, the highest of which owns it.

A claim is created by hard-linking a finished file to the next free number, which succeeds for one
process only, on NFS too; no lock is held and nothing is ever removed, so a claim that was taken over
can't be taken over twice. A claim is free when it was released; when its process on this machine is
gone; on another machine, when its file has not been touched for STALE_SECONDS; and when it is held by
an earlier start of the Slurm job that asks. An owner that was superseded sees the higher number before
it writes again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cbs.record import write_atomic

STALE_SECONDS = 300.0
_TOUCH_SECONDS = 30.0


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


def _job() -> dict[str, Any] | None:
    """The Slurm job that this process belongs to, and how often it was started before."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return None
    cluster, node = (os.environ.get(f"SLURM{name}", "") for name in ("_CLUSTER_NAME", "D_NODENAME"))
    return {
        "id": number,
        "cluster": cluster,
        "node": node,
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _started(pid: int) -> float:
    """When a process began, on a clock that nobody sets. Raises psutil.NoSuchProcess."""
    try:
        # Field 22, counted after the name, which may hold blanks: clock ticks since boot.
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return psutil.Process(pid).create_time()


def identity() -> dict[str, Any]:
    """This process, as others can recognise it: machine, process and its start, Slurm job."""
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid()), "job": _job()}


_offsets: dict[int, tuple[float, float]] = {}


def file_time(folder: Path) -> float:
    """The time by the clock that stamps the files of this folder, which may be a server's."""
    try:
        device, now = folder.stat().st_dev, time.monotonic()
        measured, offset = _offsets.get(device, (-math.inf, 0.0))
        if now - measured > _TOUCH_SECONDS:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
                offset = os.fstat(file.fileno()).st_mtime - now
            _offsets[device] = (now, offset)
        return time.monotonic() + offset
    except OSError:
        return time.time()


def lives(owner: dict[str, Any], path: Path) -> bool:
    """Whether the process that wrote its `identity` to this file still works, as far as can be told from here."""
    job, mine = owner.get("job"), _job()
    if (
        job
        and mine
        and [job["id"], job["cluster"]] == [mine["id"], mine["cluster"]]
        and job["restarts"] < mine["restarts"]
    ):
        return False  # Slurm started the job again: its earlier start, should it still run, has lost the run
    if owner["machine"] != _machine():
        return file_time(path.parent) - path.stat().st_mtime < STALE_SECONDS
    try:
        # A process id is used again; its start tells the two apart.
        same = abs(_started(owner["pid"]) - owner["started"]) < 1.0
        return same and psutil.Process(owner["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def link_new(path: Path, content: bytes) -> bool:
    """Create a whole file where there is none; False where another process was first."""
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    write_atomic(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A server's answer may be lost, and the second try then finds the first one's link: open(2).
        return temporary.stat().st_nlink == 2
    finally:
        temporary.unlink()
    return True


def numbered(folder: Path) -> list[int]:
    """The numbers of the files NNNN.json in a folder, ascending."""
    return sorted(int(p.stem) for p in folder.glob("[0-9]*.json") if p.stem.isdigit())


def _owner(path: Path) -> dict[str, Any] | None:
    """Who holds a claim; None where it is free."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        return owner if not owner["released"] and lives(owner, path) else None
    except (OSError, ValueError, KeyError):
        return None


def holder(folder: Path) -> dict[str, Any] | None:
    """The live owner of a claims folder and its claim's number, or None."""
    number = max(numbered(folder), default=0)
    owner = _owner(folder / f"{number:04d}.json") if number else None
    return owner and {**owner, "number": number}


def is_here(owner: dict[str, Any]) -> bool:
    """Whether a claim's owner is on this machine, where its process tells whether it lives."""
    return bool(owner["machine"] == _machine())


def revoke(folder: Path, number: int) -> None:
    """Free the claim of this number, whose owner is known to be gone; should it live, it sees that it was superseded.

    Where the run has a newer claim by now, nothing happens.
    """
    link_new(folder / f"{number + 1:04d}.json", json.dumps({**identity(), "released": True}).encode())


def job_restarted(folder: Path) -> bool:
    """Whether the newest claim is a later start's of the Slurm job that this process belongs to."""
    number, mine = max(numbered(folder), default=0), _job()
    try:
        job = json.loads((folder / f"{number:04d}.json").read_text())["job"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(job and mine and job["id"] == mine["id"] and job["restarts"] > mine["restarts"])


@contextlib.contextmanager
def touched(path: Path) -> Iterator[None]:
    """Say to other machines that this process lives, by a file's time, however long what it does takes."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_TOUCH_SECONDS):
            with contextlib.suppress(OSError):  # a file system that is away for a moment
                os.utime(path)

    threading.Thread(target=touch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@dataclass
class Claim:
    """An attempt's right to write a run's records."""

    folder: Path
    number: int
    _life: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number:04d}.json"

    @classmethod
    def acquire(cls, folder: Path) -> Claim:
        """Own the run, or raise Busy."""
        folder.mkdir(parents=True, exist_ok=True)
        last = max(numbered(folder), default=0)
        if last and _owner(folder / f"{last:04d}.json"):
            raise Busy(f"{folder.parent} is being worked on by another process")
        claim = cls(folder, last + 1)
        if not link_new(claim.path, claim._content(released=False)):
            raise Busy(f"{folder.parent} was just claimed by another process")
        claim._life.enter_context(touched(claim.path))
        return claim

    def _content(self, released: bool) -> bytes:
        return json.dumps({**identity(), "released": released}).encode()

    def check(self) -> None:
        """Raise Superseded where a newer attempt owns the run."""
        if (self.folder / f"{self.number + 1:04d}.json").exists():
            raise Superseded(f"{self.folder.parent} was taken over by attempt {self.number + 1}")

    def release(self) -> None:
        self._life.close()
        with contextlib.suppress(OSError):  # on a full disk the claim goes stale by itself
            write_atomic(self.path, self._content(released=True))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a claim on this folder, waiting for another process to finish where one holds it."""
    wait = 0.1
    while True:
        try:
            claim = Claim.acquire(folder)
            break
        except Busy:
            time.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, 5.0)
    try:
        yield
    finally:
        claim.release()
