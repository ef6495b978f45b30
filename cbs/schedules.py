"""Batch sizes that change during a run, and the learning rates beside them: pure functions of how far the run is.

A run that goes on from a checkpoint needs nothing but its config and its trajectory to have the batch size again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from cbs.outcome import Evaluation

# What a change of the batch size by a factor r does to both learning rates: nothing, ·r (Goyal et al. 2017), ·√r
# (Krizhevsky 2014; for Adam, Malladi et al. 2022).
POWERS = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5}


@dataclass(frozen=True)
class Constant:
    """One batch size throughout."""

    kind: str


@dataclass(frozen=True)
class Growth:
    """Changes at given times.

    kind: what `at` counts: `epochs`, real samples consumed over the size of the data set, or `steps`. at: when, rising;
    a step that begins there is the first with the new size. sizes: from each of them on. lr: what each of them
    multiplies both learning rates by.
    """

    kind: str
    at: list[float]
    sizes: list[int]
    lr: list[float]


@dataclass(frozen=True)
class Stall:
    """A change whenever the metric has not improved for so many evaluations in a row.

    factor: what the batch size is multiplied by (rounded down), up to at_most, where changes end. improvement: of the
    best value so far, that an evaluation must be better by to count as one, as a part of it. lr: what each change does
    to both learning rates: one of POWERS, or a factor.
    """

    kind: str
    factor: float
    at_most: int
    evaluations: int
    improvement: float
    lr: str | float


Schedule = Constant | Growth | Stall
SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "epochs": Growth, "steps": Growth, "stall": Stall}


@dataclass(frozen=True)
class BatchSizeConfig:
    """label: what it is called. schedule: what becomes of `initial`."""

    label: str
    initial: int
    schedule: Schedule

    @classmethod
    def constant(cls, b: int) -> BatchSizeConfig:
        return cls(str(b), b, Constant("constant"))

    @property
    def is_constant(self) -> bool:
        return isinstance(self.schedule, Constant)

    @property
    def smallest(self) -> int:
        return min(sizes(asdict(self)))

    @property
    def largest(self) -> int:
        return max(sizes(asdict(self)))


@dataclass(frozen=True)
class Phase:
    """A batch size, and what both learning rates are then multiplied by."""

    b: int
    lr: float = 1.0


def sizes(batch_size: Mapping[str, Any]) -> tuple[int, ...]:
    """The batch sizes that a config's `batch_size` (as a dict) names, the smallest and the largest among them."""
    schedule = batch_size["schedule"]
    limit = [schedule["at_most"]] if schedule["kind"] == "stall" else []
    return (int(batch_size["initial"]), *schedule.get("sizes", []), *limit)


def is_constant(batch_size: Mapping[str, Any]) -> bool:
    return bool(batch_size["schedule"]["kind"] == "constant")


def phases(initial: int, schedule: Growth) -> list[Phase]:
    """Every phase of a schedule, the first before its first change."""
    factors = [math.prod(schedule.lr[:count]) for count in range(len(schedule.lr) + 1)]
    return [Phase(b, lr) for b, lr in zip((initial, *schedule.sizes), factors, strict=True)]


def stalls(values: Sequence[float], evaluations: int, improvement: float, first: int = 0) -> int:
    """How often a metric, of which less is better, has not improved for so many values in a row.

    As torch's ReduceLROnPlateau counts: an improvement is better than the best so far by more than a part of it, and
    each stall starts the count again. Values before `first` are there to be improved upon only.
    """
    best, waited, count = math.inf, 0, 0
    for index, value in enumerate(values):
        if value < best * (1 - math.copysign(improvement, best)):
            best, waited = value, 0
        elif index >= first:
            waited += 1
            if waited == evaluations:
                waited, count = 0, count + 1
    return count


def after_stalls(initial: int, schedule: Stall, count: int) -> Phase:
    """The phase after so many stalls."""
    found = Phase(initial)
    for _ in range(count):
        b = min(math.floor(found.b * schedule.factor), schedule.at_most)
        if b == found.b:
            break
        found = Phase(b, found.lr * rate_factor(schedule.lr, b / found.b))
    return found


def rate_factor(rule: str | float, ratio: float) -> float:
    """What the learning rates are multiplied by where the batch size is multiplied by `ratio`."""
    return float(ratio ** POWERS[rule]) if isinstance(rule, str) else float(rule)


class Pace:
    """The phase of a run's next step."""

    def __init__(self, initial: int, schedule: Growth | Stall, images: int, rising: bool, since: int) -> None:
        """images: of the data set. rising: whether more of the metric is better. since: the step it is in force from.

        Of evaluations up to `since`, a stall asks only which was the best.
        """
        self._initial, self._schedule = initial, schedule
        self._images, self._rising, self._since = images, rising, since
        self._phases = phases(initial, schedule) if isinstance(schedule, Growth) else [Phase(initial)]

    def saw(self, trajectory: Sequence[Evaluation]) -> None:
        """Take in every evaluation so far."""
        if isinstance(self._schedule, Stall):
            first = sum(e.step <= self._since for e in trajectory)
            values = [-e.value if self._rising else e.value for e in trajectory]
            count = stalls(values, self._schedule.evaluations, self._schedule.improvement, first)
            self._phases = [after_stalls(self._initial, self._schedule, count)]

    def phase(self, step: int, samples: int) -> Phase:
        """After so many steps and real samples."""
        if isinstance(self._schedule, Stall):
            return self._phases[0]
        passed = step if self._schedule.kind == "steps" else samples / self._images
        return self._phases[bisect_right(self._schedule.at, passed)]


def spending(
    size: BatchSizeConfig, images: int | None, batches: int, shared: tuple[int, int] | None = None
) -> Callable[[int], int]:
    """step → gradients spent by its end, where batch sizes don't wait for a metric: the sum of the steps' batch sizes.

    At a constant batch size that is b·step, the N·b of the paper. Times `batches` it is the real images consumed.
    images: in the data set; epochs are counted in them. batches: drawn in a step. shared: how many steps are another
    run's, and its batch size.
    """
    phases = [(0, 0, size.initial if shared is None else shared[1])]

    def change(step: int, b: int) -> None:
        phases.append((step, _spent(phases, step), b))

    if isinstance(size.schedule, Growth):
        for at, b in zip(size.schedule.at, size.schedule.sizes, strict=True):
            if size.schedule.kind == "steps":
                change(int(at), b)
            else:
                assert images is not None
                change(_first(phases, at, images, batches), b)
    elif shared is not None:
        change(shared[0], size.initial)
    return partial(_spent, phases)


def _spent(phases: Sequence[tuple[int, int, int]], step: int) -> int:
    start, before, b = phases[bisect_right(phases, step, key=lambda phase: phase[0]) - 1]
    return before + (step - start) * b


def _first(phases: Sequence[tuple[int, int, int]], at: float, images: int, batches: int) -> int:
    """The first step of the last phase that begins at or after so many epochs, compared as `Pace` does."""
    start, before, b = phases[-1]
    step = start + max(0, math.ceil((at * images / batches - before) / b))
    while _spent(phases, step) * batches / images < at:
        step += 1
    while step > start and _spent(phases, step - 1) * batches / images >= at:
        step -= 1
    return step
