"""A study's folders and files: where each thing lies, and writes that are whole or absent.

<results>/<study>/composed.json                         a cache: the configs of large sweeps
<results>/<study>/trials/<key>/trial.yaml               the composed config
<results>/<study>/trials/<key>/seed-<k>/result.json     outcomes, written when a run settles
                                       /trajectory.jsonl every evaluation so far
                                       /environment.json versions, device, command
                                       /samples.png      a grid of generated images, the last
                                       /samples/         grids along training, at doubling steps
                                       /checkpoint.pt    where the run goes on
                                       /logger.json      what a live logger has (cbs.loggers)
                                       /claims/          who works on it (cbs.claim)
                                       /stack.json       the stack that it trains in (cbs.stack)
                                       /progress.json    how far it is, every few seconds
                                       /failures/        tracebacks of attempts that crashed
                                       /branches/        its state where other runs branch from it (cbs.branch)
                           /stacks/<id>/                 runs that train as one network (cbs.stack)
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbs import outcome
from cbs.errors import InputError
from cbs.outcome import Evaluation, Outcome

SCHEMA = 1


class RecordError(InputError):
    """A record on disk can't be read by this version, or is damaged."""


def write_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a file that is either whole or absent: temporary file beside it, fsync, rename.

    sync=False leaves out the fsync: safe against a killed process, not against a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), sync)


def read_json(path: Path) -> dict[str, Any]:
    """Read a record file and check its schema version.

    Raises RecordError where the file is damaged or of another schema.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}): move it away and run the same command again.") from error
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA:
        raise RecordError(f"{path} has schema {found!r}: this version of cbs reads schema {SCHEMA} only.")
    return value


@dataclass
class Result:
    """What a run has shown so far: an outcome for every threshold that was ever asked for.

    branched_from: key, seed and step of the run that it shares its first steps with. Its trajectory, its seconds and
    its joules begin with that run's. diverged_at: the step at which it diverged, if it did, be it after a crossing.
    """

    key: str
    seed: int
    outcomes: dict[float, Outcome]
    last_step: int
    seconds: dict[str, float]
    parameters: dict[str, int]
    dataset: dict[str, Any]
    features_digest: str
    micro_batch: int | None = None
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None
    stack: list[dict[str, Any]] = field(default_factory=list)
    branched_from: dict[str, Any] | None = None
    diverged_at: int | None = None
    schema: int = field(default=SCHEMA)

    def to_dict(self) -> dict[str, Any]:
        rows = [outcome.to_dict(t, o) for t, o in sorted(self.outcomes.items(), reverse=True)]
        optional = ("stack", "branched_from", "diverged_at")
        kept = {name: value for name, value in vars(self).items() if name not in optional or value}
        return {**kept, "outcomes": rows}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Result:
        result = cls(**{**raw, "outcomes": dict(outcome.from_dict(row) for row in raw["outcomes"])})
        if any(set(part) != {"id", "step", "width", "alone_seconds"} for part in result.stack):
            raise RecordError(
                f"the result of {result.key}, seed {result.seed}: 'stack' is no list of id, step, width, alone_seconds."
            )
        return result

    def settles(self, thresholds: tuple[float, ...], last_step: int) -> bool:
        """Whether every threshold has an outcome that answers a request whose last evaluation is at this step."""
        return all(outcome.settles(self.outcomes.get(t), last_step) for t in thresholds)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run: one seed of one trial."""

    trial: Path
    seed: int

    @property
    def path(self) -> Path:
        return self.trial / f"seed-{self.seed}"

    @property
    def key(self) -> str:
        return self.trial.name

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def trajectory_path(self) -> Path:
        return self.path / "trajectory.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def claims_path(self) -> Path:
        return self.path / "claims"

    @property
    def stack_path(self) -> Path:
        return self.path / "stack.json"

    def stack(self) -> str | None:
        """The stack in which it trains, until it leaves."""
        return str(read_json(self.stack_path)["id"]) if self.stack_path.exists() else None

    def result(self) -> Result | None:
        if not self.result_path.exists():
            return None
        return Result.from_dict(read_json(self.result_path))

    def write_trajectory(self, evaluations: list[Evaluation]) -> None:
        """Replace the trajectory by these evaluations; what a power cut takes, the checkpoint brings back."""
        lines = "".join(json.dumps({"schema": SCHEMA, **e.to_dict()}) + "\n" for e in evaluations)
        write_atomic(self.trajectory_path, lines.encode(), sync=False)

    def trajectory(self) -> list[Evaluation]:
        """Every evaluation on record; empty where there is none."""
        if not self.trajectory_path.exists():
            return []
        rows = []
        for line in self.trajectory_path.read_text().splitlines():
            try:
                raw = json.loads(line)
            except ValueError as error:
                raise RecordError(f"{self.trajectory_path} is damaged ({error}): move it away.") from error
            if raw.pop("schema", None) != SCHEMA:
                raise RecordError(f"{self.trajectory_path} is not of schema {SCHEMA}.")
            rows.append(Evaluation.from_dict(raw))
        return rows

    @property
    def progress_path(self) -> Path:
        return self.path / "progress.json"

    def progress(self) -> dict[str, Any]:
        """What the last attempt said of itself; empty where it said nothing yet."""
        try:
            return read_json(self.progress_path)
        except (FileNotFoundError, RecordError):
            return {}

    def _failures(self) -> list[Path]:
        return sorted(p for p in (self.path / "failures").glob("*.txt") if p.stem.isdigit())

    def write_failure(self, text: str) -> Path:
        """Keep the traceback of an attempt under the next number."""
        before = [int(p.name[:4]) for p in (self.path / "failures").glob("[0-9]*.txt")]
        number = max(before, default=0) + 1
        path = self.path / "failures" / f"{number:04d}.txt"
        write_atomic(path, text.encode())
        return path

    def failures(self) -> int:
        """How many failures are on record, forgiven ones apart."""
        return len(self._failures())

    def last_failure(self) -> str | None:
        found = self._failures()
        return found[-1].read_text() if found else None

    def failed_alike(self) -> int:
        """How many of the last failures in a row ended in the same words, numbers apart."""
        words = [_last_words(path.read_text()) for path in reversed(self._failures())]
        return next((at for at, said in enumerate(words) if said != words[0]), len(words))

    def forgive(self) -> None:
        """Let a run that was set aside be tried again; its tracebacks stay as NNNN.forgiven.txt."""
        for path in self._failures():
            os.replace(path, path.with_suffix(".forgiven.txt"))


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"0x[0-9a-f]+|\d+", "#", lines[-1]) if lines else ""


def run_folders(study: Path) -> Iterator[RunFolder]:
    """Every run of a study that has left anything on disk."""
    for path in sorted((study / "trials").glob("*/seed-*")):
        seed = path.name.removeprefix("seed-")
        if seed.isdigit():  # no copy that somebody made
            yield RunFolder(path.parent, int(seed))
