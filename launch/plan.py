"""A sweep as runs: which are finished, which are at work, here or elsewhere, which are left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cbs.branch import Branch
from cbs.claim import holder
from cbs.errors import InputError, counted
from cbs.key import trial_folder
from cbs.labels import labels
from cbs.record import Result, RunFolder
from cbs.schema import Config, Request


@dataclass(frozen=True)
class Run:
    """One seed of one trial: the unit of work."""

    config: Config = field(compare=False)
    folder: RunFolder
    label: str = field(compare=False)

    @property
    def seed(self) -> int:
        return self.folder.seed

    @property
    def name(self) -> str:
        return f"b={self.config.batch_size.label} {self.label} seed {self.seed}"

    @property
    def id(self) -> tuple[str, int]:
        """Which run of its study it is, wherever the study lies: trial key and seed."""
        return self.folder.key, self.folder.seed

    def settled(self, result: Result | None) -> bool:
        """Whether a record answers what is asked."""
        return Request.of(self.config).settled_by(result)

    def finished(self) -> Result | None:
        """The record, where it answers what is asked."""
        result = self.folder.result()
        return result if self.settled(result) else None

    def set_aside(self) -> bool:
        """Whether it failed so often in the same way that it isn't tried again."""
        return self.folder.failed_alike() >= self.config.max_failures

    def why(self) -> str:
        """The last line of its last failure."""
        return (self.folder.last_failure() or "").strip().rpartition("\n")[2]

    def busy(self) -> bool:
        """Whether a live process works on it."""
        return holder(self.folder.claims_path) is not None

    @cached_property
    def branch(self) -> Branch | None:
        """Where it parts from the run that it shares its first steps with."""
        return Branch.of(self.config, self.seed)


@dataclass
class Live:
    """A run at work."""

    run: Run
    started: float = field(default_factory=time.monotonic)
    step: int = 0
    value: float | None = None
    training_seconds: float = 0.0
    failures: int = 0  # on record when it started
    ended: tuple[str, Any] | None = None


@dataclass
class Sweep:
    """Where each run of a sweep is."""

    wanted: list[Run]
    waiting: list[Run] = field(default_factory=list)
    live: list[Live] = field(default_factory=list)
    done: dict[Run, Result] = field(default_factory=dict)
    failed: dict[Run, str] = field(default_factory=dict)
    aside: list[Run] = field(default_factory=list)
    busy: list[Run] = field(default_factory=list)
    interrupted: list[Run] = field(default_factory=list)

    def opening(self) -> str:
        """What there is and what is to do, in one line."""
        trials = len({run.folder.key for run in self.wanted})
        counts = (
            (self.done, "finished already"),
            (self.busy, "at work in another process"),
            (self.aside, "set aside after failing alike again and again"),
        )
        parts = [f"{len(some):,} {words}" for some, words in counts if some]
        parts.insert(1 if self.done else 0, f"{len(self.waiting):,} to do")
        where = f" → {self.wanted[0].config.study_dir}" if self.wanted else ""
        return f"{counted(trials, 'trial')}, {counted(len(self.wanted), 'run')}: {', '.join(parts)}{where}"


def planned(wanted: list[Run]) -> Sweep:
    """These runs, sorted by what is to do with each."""
    sweep = Sweep(wanted)
    for run in sweep.wanted:
        result = run.finished()
        if result is not None:
            sweep.done[run] = result
        elif run.busy():
            sweep.busy.append(run)
        elif run.set_aside():
            sweep.aside.append(run)
            sweep.failed[run] = run.why()
        else:
            sweep.waiting.append(run)
    return sweep


def runs(configs: Sequence[Config]) -> list[Run]:
    """Every run that these trials ask for, each once, in the order of the trials.

    Those that others branch from come last, to go on from where the first branch left them, and each on its own: a
    stack would pass there. Raises InputError where the trials differ in how many processes share one: a machine is cut
    up in one way at a time.
    """
    sizes = sorted({config.gpus_per_trial for config in configs})
    if len(sizes) > 1:
        several = ", ".join(map(str, sizes))
        raise InputError(f"gpus_per_trial is {several}: it must be one number in a sweep; start a sweep for each.")
    found: dict[tuple[Path, int], Run] = {}
    parents = {trial_folder(config.parent) for config in configs if config.parent is not None}
    for config, label in zip(configs, labels([c.to_dict() for c in configs]), strict=True):
        folder = trial_folder(config)
        one = replace(config, stack=1) if folder in parents else config
        for seed in range(config.seeds):
            found.setdefault((folder, seed), Run(one, RunFolder(folder, seed), label))
    return sorted(found.values(), key=lambda run: run.folder.trial in parents)


def preflight(configs: list[Config]) -> None:
    """Check the machine once per distinct need, at the largest batch size that has it."""
    from cbs.trial import preflight

    largest: dict[str, Config] = {}
    for config in configs:
        shares = config.branch_from and (config.branch_from, config.batch_size)
        need = repr((config.dataset, config.device, config.paths, config.name, config.target.features, shares))
        if need not in largest or config.batch_size.largest > largest[need].batch_size.largest:
            largest[need] = config
    for config in largest.values():
        preflight(config)
