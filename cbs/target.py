"""When to evaluate, and what the evaluations say: pure functions of a trajectory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cbs.outcome import Evaluation, Reached


@dataclass(frozen=True)
class Cadence:
    """The steps at which a run is evaluated.

    every_steps: a fixed distance; None: geometric from `first_steps`, each evaluation a fraction
    `precision` after the one before, so that N is known to the same relative precision at every b.
    """

    every_steps: int | None
    first_steps: int
    precision: float

    def _geometric(self) -> Iterator[int]:
        """Every evaluation of the geometric cadence, without end."""
        at = self.first_steps
        while True:
            yield at
            at = max(at + 1, math.floor(at * (1 + self.precision)))

    def following(self, step: int) -> int:
        """The first evaluation after `step`."""
        if self.every_steps is not None:
            return (step // self.every_steps + 1) * self.every_steps
        return next(at for at in self._geometric() if at > step)

    def last(self, budget_steps: int) -> int:
        """The last evaluation within a budget; 0 if there is none."""
        if self.every_steps is not None:
            return budget_steps // self.every_steps * self.every_steps
        last = 0
        for at in itertools.takewhile(lambda at: at <= budget_steps, self._geometric()):
            last = at
        return last

    def count(self, step: int, until: int) -> int:
        """How many evaluations there are after `step`, up to `until`."""
        if self.every_steps is not None:
            return max(0, until // self.every_steps - step // self.every_steps)
        return sum(at > step for at in itertools.takewhile(lambda at: at <= until, self._geometric()))


@dataclass(frozen=True)
class Ask:
    """A crossing that needs one more fresh-noise repeat at the evaluation with this index."""

    index: int


def crossing(evaluations: Sequence[Evaluation], threshold: float, confirmations: int) -> Reached | Ask | None:
    """The first confirmed crossing of a threshold; what it still needs; or None.

    An evaluation counts when its value and `confirmations` repeats with fresh noise are all at or
    below the threshold. A NaN is never at or below.
    """
    last_above = 0
    for index, evaluation in enumerate(evaluations):
        measured = (evaluation.value, *evaluation.repeats)[: confirmations + 1]
        if all(value <= threshold for value in measured):
            if len(measured) <= confirmations:
                return Ask(index)
            return Reached(last_above, evaluation.step)
        last_above = evaluation.step
    return None
