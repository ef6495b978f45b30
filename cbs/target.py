"""When to evaluate, and what the evaluations say: pure functions of a trajectory."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cbs.outcome import METRICS, Evaluation, Metric, Reached


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
class ImageCadence:
    """The steps at which a run is evaluated, where the distance is counted in real images.

    An evaluation follows the first step by which another `every` images (a fraction of one counts too) have been
    consumed. consumed: real images by the end of a step, rising with it: b·critic_steps·step, or what a schedule of
    batch sizes makes of it.
    """

    every: Fraction
    consumed: Callable[[int], int]

    @classmethod
    def of(cls, epochs: float, images: int, consumed: Callable[[int], int]) -> ImageCadence:
        """An evaluation every so many epochs of so many images each."""
        return cls(Fraction(str(epochs)) * images, consumed)  # as it is written: 6.4 epochs of 50,000 are 320,000

    def following(self, step: int) -> int:
        """The first evaluation after `step`."""
        return self._first(step, (self.consumed(step) // self.every + 1) * self.every)

    def last(self, budget_steps: int) -> int:
        """The last evaluation within a budget; 0 if there is none."""
        times = self.consumed(budget_steps) // self.every
        return self._first(0, times * self.every) if times else 0

    def count(self, step: int, until: int) -> int:
        """How many evaluations there are after `step`, up to `until`."""
        found = 0
        while (step := self.following(step)) <= until:
            found += 1
        return found

    def _first(self, after: int, wanted: Fraction) -> int:
        """The first step after this one by whose end so many images have been consumed."""
        images = math.ceil(wanted)
        reach = 1
        while self.consumed(after + reach) < images:
            reach *= 2
        return after + 1 + bisect_left(range(after + 1, after + reach), images, key=self.consumed)


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
