"""A stack on disk: runs of one trial that train as one network, in trials/<key>/stacks/<id>/.

journal.jsonl   what was asked of the runs, which they are, and each departure, before a network of that width steps
checkpoint.pt   the state of all that are in it

A run's stack.json names its stack from before the first step until the run has left with a checkpoint of its own. As
long as it is there, the stack's checkpoint is the run's, and the run goes on with the others or not at all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbs.options import DCGANConfig
from cbs.record import SCHEMA, RecordError, RunFolder, write_atomic, write_json
from cbs.schema import Config, Request
from cbs.target import Cadence


def stackable(config: Config) -> bool:
    """Whether seeds of a trial may train as one network: DCGAN's in turn, whole batches of one size, one process."""
    possible = isinstance(config.model, DCGANConfig) and config.micro_batch is None and config.gpus_per_trial == 1
    plain = config.update.name == "alternating" and config.batch_size.is_constant and config.branch_from is None
    return possible and plain and config.stack != 1


def entry_step(folder: RunFolder, request: Request) -> int | None:
    """The step at which a run that is in no stack could enter one; None where it must go on alone.

    One that begins enters at 0; one that has an outcome for all that is asked, but must go on, where it stopped.
    """
    if folder.stack_path.exists():
        return None
    result = folder.result()
    if result is not None:
        open_ended = not request.settled_by(result)
        return result.last_step if open_ended and set(request.thresholds) <= set(result.outcomes) else None
    return 0 if not folder.checkpoint_path.exists() else None


def mates(config: Config, runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The first of some runs of a trial that are to be trained, and those of them that could train with it as one."""
    first = runs[0]
    stack = first.stack()
    if stack is not None:
        return [run for run in runs if run.stack() == stack]
    request = Request.of(config)
    step = entry_step(first, request) if stackable(config) else None
    return [first] if step is None else [run for run in runs if entry_step(run, request) == step]


@dataclass(frozen=True)
class StackFolder:
    """The files of one stack."""

    trial: Path
    id: str

    @classmethod
    def new(cls, trial: Path) -> StackFolder:
        return cls(trial, secrets.token_hex(4))

    @property
    def path(self) -> Path:
        return self.trial / "stacks" / self.id

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    def journal(self) -> list[dict[str, Any]]:
        """Every entry: step, members, width; the first with the request, each other with who left."""
        try:
            entries = [json.loads(line) for line in self.journal_path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.journal_path} can't be read ({error}).") from error
        if not entries or any(entry.get("schema") != SCHEMA for entry in entries):
            raise RecordError(f"{self.journal_path} is not of schema {SCHEMA}.")
        return entries

    def form(self, step: int, members: Sequence[int], request: Request, alone_seconds: float | None) -> None:
        """Begin the journal. alone_seconds: a step's of one run by itself here, where that was measured."""
        asked = {
            "thresholds": list(request.thresholds),
            "last_step": request.last_step,
            "reason": request.reason,
            "evaluations_after": request.evaluations_after,
        }
        self._write(
            [{"step": step, "members": list(members), "width": len(members), **asked, "alone_seconds": alone_seconds}]
        )

    def part(self, step: int, left: Sequence[int], members: Sequence[int]) -> None:
        """Note who leaves at a step, and who goes on."""
        entry = {"step": step, "left": list(left), "members": list(members), "width": len(members)}
        self._write([*self.journal(), entry])

    def _write(self, entries: Sequence[dict[str, Any]]) -> None:
        lines = "".join(json.dumps({"schema": SCHEMA, **entry}) + "\n" for entry in entries)
        write_atomic(self.journal_path, lines.encode())

    def request(self, cadence: Cadence) -> Request:
        """What was asked of its runs when it was formed. cadence: theirs."""
        first = self.journal()[0]
        thresholds, after = tuple(first["thresholds"]), first["evaluations_after"]
        return Request(thresholds, first["last_step"], first["reason"], after, cadence)

    def left(self, step: int) -> set[int]:
        """Who left at this step, by the journal."""
        return {seed for entry in self.journal()[1:] if entry["step"] == step for seed in entry["left"]}

    def history(self, seed: int, until: int) -> list[dict[str, Any]]:
        """The widths with which a run trained up to a step, as its result has them."""
        entries = [entry for entry in self.journal() if seed in entry["members"] and entry["step"] < until]
        same = {"id": self.id, "alone_seconds": self.journal()[0]["alone_seconds"]}
        return [{**same, "step": entry["step"], "width": entry["width"]} for entry in entries]

    def point(self, folder: RunFolder) -> None:
        """Say in a run's folder that it trains here."""
        write_json(folder.stack_path, {"schema": SCHEMA, "id": self.id})

    def bound(self) -> list[RunFolder]:
        """The runs that say so, by seed."""
        runs = [RunFolder(self.trial, seed) for seed in sorted(self.journal()[0]["members"])]
        return [run for run in runs if run.stack() == self.id]
