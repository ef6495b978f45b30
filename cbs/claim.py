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
import os
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


def identity() -> dict[str, Any]:
    """This process, as others can recognise it: machine, process and its start, Slurm job."""
    started = psutil.Process().create_time()
    return {"machine": _machine(), "pid": os.getpid(), "started": started, "job": _job()}


def file_time(folder: Path) -> float:
    """The time by the clock that stamps the files of this folder, which may be a server's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            return os.fstat(file.fileno()).st_mtime
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
        process = psutil.Process(owner["pid"])
        # A process id is used again; its start time tells the two apart.
        return abs(process.create_time() - owner["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def link_new(path: Path, content: bytes) -> bool:
    """Create a whole file where there is none; False where another process was first."""
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    write_atomic(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
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
    except (FileNotFoundError, ValueError, KeyError):
        return None


def holder(folder: Path) -> dict[str, Any] | None:
    """The live owner of a claims folder, or None."""
    numbers = numbered(folder)
    return _owner(folder / f"{numbers[-1]:04d}.json") if numbers else None


def revoke(folder: Path) -> None:
    """Free a claim whose owner is known to be gone; should it live after all, it sees that it was superseded."""
    last = max(numbered(folder), default=0)
    link_new(folder / f"{last + 1:04d}.json", json.dumps({**identity(), "released": True}).encode())


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
        last = max(numbered(folder), default=0)
        if last and _owner(folder / f"{last:04d}.json"):
            raise Busy(f"{folder.parent} is being worked on by another process")
        claim = cls(folder, last + 1)
        if not link_new(claim.path, claim._content(released=False)):
            raise Busy(f"{folder.parent} was just claimed by another process")
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
        return json.dumps({**identity(), "released": released}).encode()

    def check(self) -> None:
        """Raise Superseded where a newer attempt owns the run."""
        if (self.folder / f"{self.number + 1:04d}.json").exists():
            raise Superseded(f"{self.folder.parent} was taken over by attempt {self.number + 1}")

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):  # on a full disk the claim goes stale by itself
            write_atomic(self.path, self._content(released=True))


@contextlib.contextmanager
def alone(folder: Path, poll_seconds: float = 0.2) -> Iterator[None]:
    """Hold a claim on this folder, waiting for another process to finish where one holds it."""
    while True:
        try:
            claim = Claim.acquire(folder)
            break
        except Busy:
            time.sleep(poll_seconds)
    try:
        yield
    finally:
        claim.release()
