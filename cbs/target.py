"""When to evaluate, and what the evaluations say: pure functions of a trajectory."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Protocol

from cbs.outcome import METRICS, Evaluation, Metric, Reached


class Marks(Protocol):
    """Rising amounts at which evaluations are due."""

    def after(self, amount: int) -> Fraction | int:
        """The first mark above an amount."""
        ...

    def upto(self, amount: int) -> Fraction | int:
        """The last mark at or below an amount; 0 if there is none."""
        ...


@dataclass(frozen=True)
class Even:
    """A mark at every multiple of a distance."""

    every: Fraction | int

    def after(self, amount: int) -> Fraction | int:
        return (amount // self.every + 1) * self.every

    def upto(self, amount: int) -> Fraction | int:
        return amount // self.every * self.every


@dataclass(frozen=True)
class Geometric:
    """From `first` on, each mark a fraction `precision` after the one before (and at least 1)."""

    first: int
    precision: float

    def after(self, amount: int) -> int:
        marks = self._beyond(amount)
        return marks[bisect_right(marks, amount)]

    def upto(self, amount: int) -> int:
        marks = self._beyond(amount)
        below = bisect_right(marks, amount)
        return marks[below - 1] if below else 0

    def _beyond(self, amount: int) -> list[int]:
        """The marks, up to one above an amount at least."""
        marks = _marks(self.first, self.precision)
        while marks[-1] <= amount:
            marks.append(max(marks[-1] + 1, math.floor(marks[-1] * (1 + self.precision))))
        return marks


@cache
def _marks(first: int, precision: float) -> list[int]:
    """The marks of a geometric cadence as far as anybody asked for them."""
    return [first]


@dataclass(frozen=True)
class Cadence:
    """The steps at which a run is evaluated: each evaluation follows the first step by which a mark has been passed.

    consumed: step → the amount, in the unit of the marks, by the step's end: steps, or gradients. It rises with each
    step. Several marks that one step passes are one evaluation.
    """

    marks: Marks
    consumed: Callable[[int], int]

    def following(self, step: int) -> int:
        """The first evaluation after `step`."""
        return first_step(self.consumed, self.marks.after(self.consumed(step)), step)

    def last(self, budget: int) -> int:
        """The last evaluation within so many steps; 0 if there is none."""
        mark = self.marks.upto(self.consumed(budget))
        return first_step(self.consumed, mark) if mark else 0

    def count(self, step: int, until: int) -> int:
        """How many evaluations there are after `step`, up to `until`."""
        found = 0
        while (step := self.following(step)) <= until:
            found += 1
        return found


def first_step(consumed: Callable[[int], int], wanted: Fraction | int, after: int = 0) -> int:
    """The first step after `after` by whose end so much has been consumed."""
    amount = math.ceil(wanted)
    reach = 1
    while consumed(after + reach) < amount:
        reach *= 2
    return after + 1 + bisect_left(range(after + 1, after + reach), amount, key=consumed)


@dataclass(frozen=True)
class Ask:
    """A crossing that needs one more fresh-noise repeat at the evaluation with this index."""

    index: int


def crossing(
    evaluations: Sequence[Evaluation], threshold: float, confirmations: int, metric: Metric = METRICS["fid"]
) -> Reached | Ask | None:
    """The first confirmed crossing of a threshold; what it still needs; or None.

    An evaluation counts when its value and `confirmations` repeats with fresh noise are all at or below the
    threshold (at or above, where more of the metric is better). A NaN never is.
    """
    last_above = 0
    for index, evaluation in enumerate(evaluations):
        measured = (evaluation.value, *evaluation.repeats)[: confirmations + 1]
        if all(metric.arrived(value, threshold) for value in measured):
            if len(measured) <= confirmations:
                return Ask(index)
            return Reached(last_above, evaluation.step)
        last_above = evaluation.step
    return None
