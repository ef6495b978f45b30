"""Runs that share their first steps: a branched run begins with the state that its parent has after them.

trials/<parent's key>/seed-<k>/branches/<name>.pt   that state, kept for every run that branches there
                                       /<name>/     where those steps are trained again, if the parent is past them

The parent is an ordinary run of one batch size, and is trained in its own folder as long as it has not passed the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cbs.claim import holder
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.record import RunFolder
from cbs.schedules import Growth
from cbs.schema import Config


@dataclass(frozen=True)
class Again(RunFolder):
    """Where a parent's first steps are trained a second time."""

    name: str

    @property
    def path(self) -> Path:
        return super().path / "branches" / self.name


@dataclass(frozen=True)
class Branch:
    """Where runs of one seed part from their parent. folder: the parent's."""

    parent: Config
    folder: RunFolder
    name: str

    @classmethod
    def of(cls, config: Config, seed: int) -> Branch | None:
        """None where a trial shares nothing."""
        if config.branch_from is None or config.parent is None:
            return None
        return cls(config.parent, RunFolder(trial_folder(config.parent), seed), config.branch_from.name)

    @property
    def path(self) -> Path:
        """The shared state."""
        return self.folder.path / "branches" / f"{self.name}.pt"

    @property
    def again(self) -> RunFolder:
        return Again(self.folder.trial, self.folder.seed, self.name)

    def held_up(self) -> bool:
        """Whether a run that begins here would have to wait for another process."""
        places = (self.folder, self.again)
        return not self.path.exists() and any(holder(place.claims_path) for place in places)


def check_branch(config: Config, images: int) -> None:
    """Raise InputError where a trial's schedule begins before it parts from its parent, or its budget ends before."""
    branch, schedule = config.branch_from, config.batch_size.schedule
    if branch is None:
        return
    step = branch.steps(images, config.batches_per_step)
    if branch.batch_size > images:
        raise InputError(
            f"branch_from.batch_size is {branch.batch_size}: {config.dataset.name} has {images} images, and a batch "
            "takes each at most once."
        )
    last = config.cadence.last(config.budget)
    if step >= last:
        raise InputError(
            f"branch_from shares {step} steps: the last evaluation within the budget of {config.budget} steps is at "
            f"step {last} and must come after them."
        )
    if isinstance(schedule, Growth):
        # The first step that begins at or after a change's time is the first with the new size.
        count, unit = (1, 1) if schedule.kind == "steps" else (branch.batch_size * config.batches_per_step, images)
        before, shared = (step - 1) * count / unit, step * count / unit
        if schedule.at[0] <= before:
            raise InputError(
                f"batch_size.schedule.at begins with {schedule.at[0]:g}: it must not be before the {shared:g} "
                f"{schedule.kind} that branch_from shares."
            )
