"""The training loop of several tasks that step as one, each with its own goal, progress and surroundings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cbs.loop import BLOCK, Goal, Hooks, Measure, Progress, Task, evaluate, settled, take
from cbs.outcome import Outcome


class Joint(Protocol):
    """Tasks that step as one."""

    def step(self) -> tuple[torch.Tensor, ...]:
        """Train one step of each; return the losses, (R,) per name, unread."""
        ...

    def give_back(self) -> None:
        """Bring every task's parameters up to date."""
        ...


@dataclass
class Course:
    """One task's way to its goal."""

    task: Task
    progress: Progress
    goal: Goal
    measure: Measure
    hooks: Hooks
    waited: float = 0.0  # seconds of steps that were the others'

    def settled(self) -> dict[float, Outcome] | None:
        """As cbs.loop.settled."""
        return settled(self.measure, self.goal, self.progress, self.hooks)


def advance(joint: Joint, courses: Sequence[Course], looked_up: Callable[[], None], every_seconds: float) -> None:
    """Step to the next evaluation, which is the same for all, and evaluate each that hasn't diverged.

    Time in steps is shared evenly. looked_up: as in cbs.loop.Hooks, every so many seconds.
    """
    first = courses[0]
    until = first.goal.cadence.following(max(course.progress.evaluated_step for course in courses))
    pending: list[tuple[torch.Tensor, ...]] = []
    started = time.perf_counter()
    while first.progress.step < until and any(course.progress.diverged_at is None for course in courses):
        pending.append(joint.step())
        for course in courses:
            course.progress.step += 1
        now = time.perf_counter()
        late = now - started >= every_seconds
        if late or len(pending) == BLOCK or first.progress.step == until:
            _read(courses, pending)
        if late:
            _spend(courses, time.perf_counter() - started)
            looked_up()
            started = time.perf_counter()
    _spend(courses, time.perf_counter() - started)
    joint.give_back()
    for course in courses:
        if course.progress.diverged_at is None:
            evaluate(course.task, course.measure, course.progress, course.hooks)


def _spend(courses: Sequence[Course], seconds: float) -> None:
    for course in courses:
        own = seconds / len(courses)
        course.progress.training_seconds += own
        course.waited += seconds - own


def _read(courses: Sequence[Course], pending: list[tuple[torch.Tensor, ...]]) -> None:
    """Read the losses of the last steps back, (steps, names, R)."""
    names = len(pending[0])
    values = torch.stack([loss for row in pending for loss in row]).unflatten(0, (-1, names)).permute(2, 0, 1).tolist()
    for course, rows in zip(courses, values, strict=True):
        take(course.progress, rows)
    pending.clear()
