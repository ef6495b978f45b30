"""The questions that a comparison answers: which arm takes less to a threshold, which is better after as much."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.compare.arms import Arm, Field, lineage
from analysis.compare.arrivals import Arrivals, arrivals, primary, thresholds
from analysis.compare.contrast import Contrast, Sample, contrast, corrected, inverse

# So many arms are told apart at every threshold; more, at the one that the verdict is about.
FEW = 8


@dataclass(frozen=True)
class Pair:
    """Two arms in one question. shared: the step up to which they are the same runs, None where they never are."""

    one: str
    other: str
    found: Contrast
    shared: int | None


@dataclass(frozen=True)
class Question:
    """One axis, one threshold; threshold None: the metric itself where every run of a pair has spent as much.

    at: of the metric, the point on the axis, by pair. Pairs are corrected for their number within a question.
    """

    axis: str
    threshold: float | None
    pairs: list[Pair]
    at: dict[tuple[str, str], float]

    def pair(self, one: str, other: str) -> Contrast | None:
        """The contrast of two arms, in this order where it was made in this order."""
        return next((p.found for p in self.pairs if (p.one, p.other) == (one, other)), None)


@dataclass(frozen=True)
class Findings:
    """A whole comparison. taken: by threshold, every arm's arrivals. main: the threshold that the verdict is about."""

    field: Field
    taken: dict[float, list[Arrivals]]
    main: float | None
    questions: list[Question]

    def question(self, axis: str, threshold: float | None) -> Question | None:
        return next((q for q in self.questions if (q.axis, q.threshold) == (axis, threshold)), None)

    @property
    def unconfirmed(self) -> int:
        return sum(a.unconfirmed for arms in self.taken.values() for a in arms)


def findings(field: Field, asked: Sequence[float] | None = None) -> Findings:
    """Compare every pair of arms on every axis. Raises InputError as `thresholds` does."""
    at = thresholds(field, asked)
    taken = {t: [arrivals(field, arm, t) for arm in field.arms] for t in at}
    main = primary(field, taken, asked is not None)
    told = at if len(field.arms) <= FEW else [t for t in at if t == main]
    questions = [_to(field, taken[t], axis) for t in told for axis in field.axes]
    questions += [_after(field, axis) for axis in field.axes if positive(field)]
    return Findings(field, taken, main, questions)


def positive(field: Field) -> bool:
    """Whether the metric has logarithms, wherever it has a value."""
    return all((c.values[np.isfinite(c.values)] > 0).all() for arm in field.arms for c in arm.courses)


def _pairs(field: Field) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(len(field.arms)), 2))


def _to(field: Field, taken: list[Arrivals], axis: str) -> Question:
    """What is taken to a threshold."""
    pairs = _pairs(field)
    found = [contrast(taken[i].taken[axis], taken[j].taken[axis], len(pairs)) for i, j in pairs]
    return Question(axis, taken[0].threshold, _named(field, pairs, found), {})


def _after(field: Field, axis: str) -> Question:
    """The metric after as much: where every run of two arms still went on, whatever it showed."""
    pairs, arms = _pairs(field), field.arms
    where = {(i, j): _common(arms[i], arms[j], axis) for i, j in pairs}
    found = [
        contrast(_metric(field, arms[i], axis, here), _metric(field, arms[j], axis, here), len(pairs))
        for (i, j), here in where.items()
    ]
    at = {(arms[i].label, arms[j].label): here for (i, j), here in where.items()}
    return Question(axis, None, _named(field, pairs, found), at)


def _named(field: Field, pairs: list[tuple[int, int]], found: list[Contrast]) -> list[Pair]:
    arms = field.arms
    return [
        Pair(arms[i].label, arms[j].label, one, lineage(arms[i], arms[j]))
        for (i, j), one in zip(pairs, corrected(found), strict=True)
    ]


def _common(one: Arm, other: Arm, axis: str) -> float:
    """NaN where every run of both diverged too soon for there to be such a point."""
    courses = [c for arm in (one, other) for c in arm.courses if not c.broke or len(c.values) > 1]
    return min((c.undecided_until(axis) for c in courses), default=math.nan)


def _metric(field: Field, arm: Arm, axis: str, where: float) -> Sample:
    """Less is better: of a metric of which more is, its reciprocal. A run that has none yet doesn't enter."""
    values = np.array([float(course.at(axis, np.array([where]))[0]) for course in arm.courses])
    known = ~np.isnan(values)
    names = tuple(c.name for c, k in zip(arm.courses, known, strict=True) if k)
    missed = ~np.isfinite(values[known])
    less = np.where(missed, np.inf, values[known] ** field.sign)
    return Sample(names, less, missed, np.full(known.sum(), math.nan))


def upright(field: Field, question: Question, found: Contrast) -> Contrast:
    """A contrast with the metric's own ratio: of one of which more is better, reciprocals are compared."""
    return inverse(found) if question.threshold is None and field.sign < 0 else found


def to_dict(found: Findings) -> dict[str, Any]:
    """Numbers alone, ready for JSON once what isn't finite is null."""
    field = found.field
    return {
        "metric": field.metric,
        "axes": field.axes,
        "threshold": found.main,
        "arms": [
            {
                "label": arm.label,
                "key": arm.key,
                "seeds": [c.run.folder.seed for c in arm.courses],
                "branched_from": arm.branched_from,
            }
            for arm in field.arms
        ],
        "to_threshold": [
            {
                "threshold": t,
                "arm": one.arm.label,
                **{name: getattr(one, name) for name in ("reached", "censored", "diverged", "unconfirmed")},
                **{axis: _taken(one, axis) for axis in field.axes},
            }
            for t, arms in found.taken.items()
            for one in arms
        ],
        "pairs": [
            {
                "axis": q.axis,
                "threshold": q.threshold,
                "at": q.at.get((p.one, p.other)),
                "one": p.one,
                "other": p.other,
                "shared_until_step": p.shared,
                **{**vars(shown), "ratio_ci": list(shown.ratio_ci)},
                "decided": p.found.decided,
            }
            for q in found.questions
            for p in q.pairs
            for shown in [upright(field, q, p.found)]
        ],
    }


def _taken(one: Arrivals, axis: str) -> dict[str, Any]:
    ends, confidence = one.interval(axis)
    sample = one.taken[axis]
    runs = zip(sample.names, sample.values.tolist(), sample.missed.tolist(), strict=True)
    return {
        "median": one.median(axis),
        "interval": list(ends),
        "confidence": confidence,
        "runs": [{"seed": name, "value": value, "missed": missed} for name, value, missed in runs],
    }
