"""What Slurm knows of our jobs, asked with its own commands; no accounting database is needed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cbs.errors import InputError

_TIMEOUT_SECONDS = 60


class SlurmError(InputError):
    """Slurm isn't there, doesn't answer, or refused: one sentence."""


@dataclass(frozen=True)
class Task:
    """An array element, or a job without array, that is in the queue or running.

    id: as Slurm writes it, 123_4. raw_id: the number of this element alone.
    """

    id: str
    raw_id: str
    name: str
    state: str
    node: str
    reason: str

    @property
    def running(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED")

    @property
    def index(self) -> int:
        """Its place in its array; 0 for a job without one."""
        return int(self.id.partition("_")[2] or 0)


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on the PATH: is this a Slurm cluster's login node?") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} gave no answer within {_TIMEOUT_SECONDS} s.") from error
    if done.returncode:
        # Its last words say most: "error: a error: b fatal: c" is c.
        words = re.split(r"(?:error|fatal): ", " ".join((done.stderr or done.stdout).split()))
        raise SlurmError(f"{command[0]} says: {words[-1]}")
    return done.stdout


_FIELDS = ("%i", "%A", "%j", "%T", "%N", "%r")


def tasks(names: Iterable[str]) -> dict[str, list[Task]]:
    """Every task in the queue whose job has one of these names. Raises SlurmError."""
    names = list(names)
    found: dict[str, list[Task]] = {name: [] for name in names}
    for start in range(0, len(names), 100):  # a command line has an end
        wanted = ",".join(names[start : start + 100])
        for task in _rows(_ask("squeue", "-h", "-r", "-n", wanted, "-o", "|".join(_FIELDS))):
            if task.name in found:
                found[task.name].append(task)
    return found


def _rows(text: str) -> list[Task]:
    return [Task(*line.split("|", len(_FIELDS) - 1)) for line in text.splitlines() if line.count("|") >= 5]


def alive(raw_ids: Sequence[str]) -> set[str]:
    """Those of these job ids that are in the queue or running. Raises SlurmError."""
    if not raw_ids:
        return set()
    try:
        # A single unknown id is an error to squeue; among several, unknown ones are passed over.
        return set(_ask("squeue", "-h", "-r", "-j", ",".join({*raw_ids, "1"}), "-o", "%A").split()) & set(raw_ids)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return set()
        raise


def state(task: str) -> str:
    """What Slurm says of one task, e.g. RUNNING. Raises SlurmError."""
    return _ask("squeue", "-h", "-j", task, "-o", "%T").strip()


def requeue(task: str) -> None:
    """End a task and put it back into the queue. Raises SlurmError."""
    _ask("scontrol", "requeue", task)


def cancel(ids: Sequence[str]) -> None:
    """Take these tasks out of the queue, ending those that run. Raises SlurmError."""
    if ids:
        _ask("scancel", *ids)


def cluster() -> tuple[str, int]:
    """The cluster's name, and how many tasks an array may have. Raises SlurmError."""
    text = _ask("scontrol", "show", "config")
    name, most = (re.search(rf"^{key}\s*=\s*(\S+)", text, re.MULTILINE) for key in ("ClusterName", "MaxArraySize"))
    return name.group(1) if name else "", max(1, int(most.group(1)) - 1) if most else 1000
