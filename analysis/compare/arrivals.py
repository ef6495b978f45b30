"""What each arm took to each of several thresholds: read off trajectories, misses kept as misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from analysis.compare.arms import Arm, Course, Field
from analysis.compare.contrast import Sample
from analysis.compare.exact import ranks_of_median
from analysis.curves.targets import outcome_at
from analysis.fitting.models import Array
from analysis.fitting.profile import Interval
from cbs.errors import InputError
from cbs.outcome import Censored, Diverged, Outcome, Reached
from cbs.target import crossing

# Where thresholds are put between where arms start and the best that every arm's median run came to.
_PARTS = (0.25, 0.5, 0.75, 1.0)
# Chosen ones nearer than this to one that was asked for tell nothing new.
_APART = 0.15


@dataclass(frozen=True)
class Arrivals:
    """One arm's runs at one threshold.

    taken: by axis, what each run took. reached, censored, diverged: how many did. unconfirmed: crossings without the
    fresh-noise repeats that the target asks for.
    """

    arm: Arm
    threshold: float
    taken: dict[str, Sample]
    reached: int
    censored: int
    diverged: int
    unconfirmed: int

    def median(self, axis: str) -> float:
        """A miss counts as infinite and is never dropped (Dahl et al., 2023, AlgoPerf)."""
        return float(np.median(_missing_infinite(self.taken[axis])))

    def interval(self, axis: str) -> tuple[Interval, float]:
        """Of the median, by order statistics, and its confidence; None above where a miss is what bounds it."""
        sample = self.taken[axis]
        k, confidence = ranks_of_median(len(sample.values))
        low, high = np.sort(sample.values)[k], np.sort(_missing_infinite(sample))[-1 - k]
        ends = (float(end) if math.isfinite(end) else None for end in (low, high))
        return (next(ends), next(ends)), confidence


def _missing_infinite(sample: Sample) -> Array:
    return np.where(sample.missed, np.inf, sample.values)


def arrivals(field: Field, arm: Arm, threshold: float) -> Arrivals:
    """When an arm's runs arrived, on every axis of the field."""
    found = [_outcome(field, course, threshold) for course in arm.courses]
    taken = {axis: _sample(arm, [outcome for outcome, _ in found], axis) for axis in field.axes}
    kinds = [type(outcome) for outcome, _ in found]
    unconfirmed = sum(isinstance(outcome, Reached) and not confirmed for outcome, confirmed in found)
    reached, censored, diverged = (kinds.count(kind) for kind in (Reached, Censored, Diverged))
    return Arrivals(arm, threshold, taken, reached, censored, diverged, unconfirmed)


def _outcome(field: Field, course: Course, threshold: float) -> tuple[Outcome, bool]:
    seen = course.run.trajectory
    if not seen:
        return next(o for o in course.run.result.outcomes.values() if isinstance(o, Diverged)), True
    if field.own:
        return outcome_at(course.run, threshold)
    measured = [replace(e, value=field.sign * v, repeats=()) for e, v in zip(seen, course.values, strict=True)]
    crossed = crossing(measured, field.sign * threshold, confirmations=0)
    if isinstance(crossed, Reached):
        return crossed, False
    return (Diverged if course.broke else Censored)(seen[-1].step), False


def _sample(arm: Arm, outcomes: Sequence[Outcome], axis: str) -> Sample:
    values, lows = [], []
    for course, outcome in zip(arm.courses, outcomes, strict=True):
        steps, x = course.x["steps"], course.x[axis]

        def until(step: int, steps: Array = steps, x: Array = x) -> float:
            at = int(np.searchsorted(steps, step, side="right")) - 1
            return float(x[at]) if at >= 0 else 0.0

        reached = isinstance(outcome, Reached)
        values.append(math.inf if isinstance(outcome, Diverged) else until(_last(outcome)))
        lows.append(until(outcome.last_above) if isinstance(outcome, Reached) else math.nan if not reached else 0.0)
    missed = np.array([not isinstance(outcome, Reached) for outcome in outcomes])
    return Sample(tuple(course.name for course in arm.courses), np.array(values), missed, np.array(lows))


def _last(outcome: Outcome) -> int:
    return outcome.first_below if isinstance(outcome, Reached) else outcome.step


def thresholds(field: Field, asked: Sequence[float] | None) -> list[float]:
    """Those to be looked at, the hardest last.

    asked: as given; else those that every run was trained for, and four between where arms start and the best that
    every arm's median run came to. Raises InputError for one harder than runs stopped at: what follows is unknown.
    """
    limit = _limit(field)
    if asked is not None:
        for threshold in asked:
            if limit is not None and field.sign * threshold < field.sign * limit:
                run = field.arms[0].courses[0].run
                raise InputError(
                    f"thresholds has {threshold:g}: runs of {field.study} stopped at {limit:g}, so what they would "
                    f"have done beyond is unknown. To continue them: {run.command(threshold)}"
                )
        return sorted(asked, key=lambda t: -field.sign * t)
    trained = _trained(field)
    chosen = [t for t in _between(field) if limit is None or field.sign * t >= field.sign * limit]
    kept: list[float] = list(trained)
    for threshold in chosen:
        if all(abs(threshold / other - 1) > _APART for other in kept):
            kept.append(threshold)
    return sorted(kept, key=lambda t: -field.sign * t)


def _limit(field: Field) -> float | None:
    """The hardest threshold of which trajectories tell: below it, what runs stopped by would be informative."""
    if not field.own:
        return None
    lowest = [_hardest(field, course) for arm in field.arms for course in arm.courses if course.met]
    return max(lowest, key=lambda t: field.sign * t) if lowest else None


def _hardest(field: Field, course: Course) -> float:
    return min(course.run.result.outcomes, key=lambda t: field.sign * t)


def _trained(field: Field) -> list[float]:
    if not field.own:
        return []
    return sorted(set.intersection(*(set(c.run.result.outcomes) for arm in field.arms for c in arm.courses)))


def _between(field: Field) -> list[float]:
    """Rounded to two figures, to the easier side."""
    sign = field.sign
    starts = [sign * float(np.median([sign * c.values[0] for c in arm.courses])) for arm in field.arms]
    bests = [sign * float(np.median([(sign * c.values).min() for c in arm.courses])) for arm in field.arms]
    start, best = min(starts, key=lambda v: sign * v), max(bests, key=lambda v: sign * v)
    if not sign * best < sign * start:
        return []
    if min(start, best) > 0:
        levels = [start ** (1 - part) * best**part for part in _PARTS]
    else:
        levels = [start + part * (best - start) for part in _PARTS]
    return list(dict.fromkeys(_rounded(level, sign) for level in levels))


@cache
def _rounded(value: float, sign: int) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounded = (math.ceil if sign > 0 else math.floor)(value / unit - sign * 1e-9) * unit
    return float(f"{rounded:.6g}")


def primary(field: Field, found: dict[float, list[Arrivals]], asked: bool) -> float | None:
    """The threshold that the verdict is about: the hardest that some arm's median run came to.

    Among those asked for or trained for, as long as there is one; else among those that were chosen.
    """
    arrived = [t for t, arms in found.items() if any(math.isfinite(a.median("steps")) for a in arms)]
    if not arrived:
        return None
    meant = [t for t in arrived if asked or t in _trained(field)]
    return min(meant or arrived, key=lambda t: field.sign * t)
