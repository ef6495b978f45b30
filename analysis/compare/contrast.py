"""Two arms, one quantity: how many times more one takes than the other, how sure that is, how many seeds would decide.

Logarithms of what runs took are compared. A run that never arrived is censored: it took more than was seen of it.
Both arms are therefore compared up to a common horizon, the least at which a run of either was given up: what lies
beyond it counts as the horizon (restricted times; Royston & Parmar, 2013, doi 10.1186/1471-2288-13-152). The interval
is the set of ratios that the test doesn't refuse when one arm's runs and its horizon are divided by them. So it is
Student's t where every run arrived, and open where no run of an arm says how much longer it would have taken.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit

from analysis.compare.exact import holm, least_p, permutation, sign_flip
from analysis.fitting.models import Array
from analysis.fitting.profile import Interval

LEVEL, POWER = 0.05, 0.8
# A number of seeds beyond this isn't named: nobody would run them, and the spread isn't known so well.
MOST_SEEDS = 1000
_GRID = 601


@dataclass(frozen=True)
class Sample:
    """What the runs of one arm took, of one quantity of which less is better.

    names: whom each run is paired with: runs of two arms with one name are a pair. values (n,): above 0; where a run
    missed, how far it was seen, ∞ where it can never arrive (it diverged). missed (n,). lows (n,): the last value at
    which each had certainly not arrived, 0 or NaN where it isn't known.
    """

    names: tuple[int, ...]
    values: Array
    missed: np.ndarray
    lows: Array

    def only(self, names: Sequence[int]) -> Sample:
        at = [self.names.index(name) for name in names]
        return Sample(tuple(names), self.values[at], self.missed[at], self.lows[at])

    def horizon(self, other: Sample) -> float:
        """Logarithm of how far every run that missed was seen; ∞ where none missed."""
        seen = self.missed & np.isfinite(self.values)
        if seen.any():
            return float(np.log(self.values[seen].min()))
        if not self.missed.any():
            return math.inf
        ends = np.concatenate([self.values, other.values])
        # Runs that diverged never arrive: just beyond whatever was seen, so that the order alone counts.
        return float(np.log(ends[np.isfinite(ends)].max())) + 0.05 if np.isfinite(ends).any() else 0.0

    def rounding(self) -> float:
        """Variance of ln values from what lies between two evaluations: a uniform one's, w²/12, on average."""
        known = ~self.missed & (self.lows > 0)
        return float(np.mean(np.log(self.values[known] / self.lows[known]) ** 2)) / 12 if known.any() else 0.0


@dataclass(frozen=True)
class Contrast:
    """One arm's values over another's.

    seeds: pairs, or the smaller arm's runs. ratio: of typical values, None where censoring leaves it open; ratio_ci:
    95 %, None at an open end. p: Student's t on logarithms (Welch's where unpaired), None below two seeds; p_holm:
    corrected for the pairs of arms in the same question. p_exact: by sign flips (paired) or permutations; p_least: the
    least that so few can give. needed: seeds per arm that would decide at 5 %, corrected alike, with 80 % power, were
    difference and spread as seen; ∞ beyond 1,000.
    """

    paired: bool
    seeds: int
    ratio: float | None
    ratio_ci: Interval
    p: float | None
    p_holm: float | None
    p_exact: float | None
    p_least: float | None
    needed: float | None

    @property
    def decided(self) -> bool:
        """Whether t decides after Holm's correction, and the exact test agrees as far as so few seeds let it."""
        if self.p_holm is None or self.p_exact is None or self.p_least is None:
            return False
        return self.p_holm <= LEVEL and self.p_exact <= max(LEVEL, self.p_least * 1.001)

    @property
    def sign(self) -> int:
        """−1 where the first certainly takes less, 1 where it takes more, 0 where that is undecided."""
        if not self.decided:
            return 0
        low, _ = self.ratio_ci
        return 1 if low is not None and low >= 1 else -1


def contrast(one: Sample, other: Sample, pairs: int = 1) -> Contrast:
    """Compare two arms, paired where each run of one has its pair in the other, else as independent groups.

    pairs: how many pairs of arms the same question has; `needed` is for Holm's strictest step among them.
    """
    shared = sorted(set(one.names) & set(other.names))
    paired = len(shared) == min(len(one.names), len(other.names))
    if paired:
        one, other = one.only(shared), other.only(shared)
    sizes = len(one.names), len(other.names)
    found = Contrast(paired, min(sizes), None, (None, None), None, None, None, None, None)
    if min(sizes) == 0:
        return found
    test = _Test(one, other, paired)
    if min(sizes) < 2:
        return replace(found, ratio=test.estimate())
    a, b = (part[0] for part in test.restricted(np.zeros(1)))
    exact = sign_flip(a - b) if paired else permutation(a, b)
    t, freedom = (float(part[0]) for part in test.t(np.zeros(1)))
    p = _two_sided(t, freedom)
    needed = _needed(test, a, b, pairs)
    return replace(
        found,
        ratio=test.estimate(),
        ratio_ci=test.interval(),
        p=p,
        p_holm=p,
        p_exact=exact,
        p_least=least_p(sizes[0]) if paired else least_p(*sizes),
        needed=needed,
    )


def corrected(found: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts of one question with `p_holm` set among those that have a p."""
    known = [i for i, one in enumerate(found) if one.p is not None]
    adjusted = dict(zip(known, holm([found[i].p or 0.0 for i in known]), strict=True))
    return [replace(one, p_holm=adjusted.get(i)) for i, one in enumerate(found)]


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * stdtr(freedom, -abs(t)))


class _Test:
    """Student's t on restricted logarithms, as a function of ln of the ratio that is supposed."""

    def __init__(self, one: Sample, other: Sample, paired: bool) -> None:
        self.paired = paired
        self._logs = [np.log(np.where(sample.missed, np.inf, sample.values)) for sample in (one, other)]
        self._horizons = one.horizon(other), other.horizon(one)
        # Evaluations are a grid: values can't be known to agree better than it is fine.
        self._rounding = one.rounding(), other.rounding()
        self.floor = sum(self._rounding)

    def restricted(self, shifts: Array) -> tuple[Array, Array]:
        """(k, n) and (k, m): the first arm's logarithms less each shift, the second's, both cut at their horizon."""
        at = shifts[:, None]
        horizon = np.minimum(self._horizons[0] - at, self._horizons[1])
        return np.minimum(self._logs[0] - at, horizon), np.minimum(self._logs[1] + 0 * at, horizon)

    def t(self, shifts: Array) -> tuple[Array, Array]:
        """The statistic (k,), 0 where nothing is left to compare, and its degrees of freedom, (k,) or (1,)."""
        a, b = self.restricted(shifts)
        if self.paired:
            d, freedom = a - b, np.array([a.shape[1] - 1.0])
            error = np.maximum(d.var(1, ddof=1), self.floor) / d.shape[1]
        else:
            parts = [
                np.maximum(x.var(1, ddof=1), floor) / x.shape[1]
                for x, floor in zip((a, b), self._rounding, strict=True)
            ]
            error = parts[0] + parts[1]
            spent = parts[0] ** 2 / (a.shape[1] - 1) + parts[1] ** 2 / (b.shape[1] - 1)
            freedom = np.divide(error**2, spent, out=np.ones_like(error), where=spent > 0)
        gap = a.mean(1) - b.mean(1)
        gap[np.abs(gap) < 1e-12] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap == 0, 0.0, gap / np.sqrt(error)), freedom

    def _shifts(self) -> Array:
        """ln ratios that may be in question: all at which the two arms overlap, and far around."""
        ends = [x[np.isfinite(x)] for x in (*self._logs, np.array(self._horizons))]
        known = np.concatenate(ends)
        if not len(known):
            return np.zeros(1)
        width = np.ptp(known) + self.floor**0.5 + 1e-9
        centre = _middle(self._logs[0], self._horizons[0]) - _middle(self._logs[1], self._horizons[1])
        freedom = min(len(x) for x in self._logs) - 1
        reach = width * (1 + max(stdtrit(max(freedom, 1), 1 - LEVEL / 4), 1.0))
        return np.linspace(centre - reach, centre + reach, _GRID)

    def estimate(self) -> float | None:
        """The ratio at which the restricted means agree; None where none is."""
        if not all(np.isfinite(x).any() for x in self._logs):
            return None
        shifts = self._shifts()
        a, b = self.restricted(shifts)
        return _crossed(shifts, a.mean(1) - b.mean(1))

    def interval(self) -> Interval:
        """Every ratio that isn't refused at 5 %; an end that nothing bounds is None."""
        shifts = self._shifts()
        t, freedom = self.t(shifts)
        limit = stdtrit(freedom, 1 - LEVEL / 2)
        low, high = _crossed(shifts, t - limit), _crossed(-shifts[::-1], -(t + limit)[::-1])
        return low, None if high is None else 1 / high


def _middle(logs: Array, horizon: float) -> float:
    known = np.minimum(logs, horizon)
    return float(known[np.isfinite(known)].mean()) if np.isfinite(known).any() else 0.0


def _crossed(shifts: Array, values: Array) -> float | None:
    """exp of the first shift at which falling values are 0 or less, between two of the grid's."""
    below = np.flatnonzero(values <= 0)
    if not len(below) or below[0] == 0:
        return None
    i = below[0]
    before, after = values[i - 1], values[i]
    part = before / (before - after) if math.isfinite(before) and math.isfinite(after) else 0.5
    return float(np.exp(shifts[i - 1] + part * (shifts[i] - shifts[i - 1])))


def power(effect: float, freedom: float, level: float) -> float:
    """The probability that Student's t refuses at a two-sided level, where its numerator is normal with this mean.

    P(Z + effect > c s), s² of χ²/freedom, averaged over 500 quantiles of s: the non-central t's tail beyond c, without
    the other, which doesn't matter where power does.
    """
    return float(ndtr(effect - stdtrit(freedom, 1 - level / 2) * _chi(freedom)).mean())


@cache
def _chi(freedom: float) -> Array:
    return np.sqrt(2 * gammaincinv(freedom / 2, (np.arange(500) + 0.5) / 500) / freedom)


def _needed(test: _Test, a: Array, b: Array, pairs: int) -> float:
    """Seeds per arm that decide with 80 % power: Student's t, non-central by the difference over its spread."""
    gap = abs(a.mean() - b.mean())
    spread = float((a - b).var(ddof=1)) if test.paired else float(a.var(ddof=1) + b.var(ddof=1))
    variance = max(spread, test.floor)
    if gap < 1e-12:
        return math.inf
    if variance == 0:
        return 2.0

    def enough(n: int) -> bool:
        freedom = n - 1 if test.paired else 2 * (n - 1)
        return power(gap * math.sqrt(n / variance), freedom, LEVEL / pairs) >= POWER

    found = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
    return float(found) if found <= MOST_SEEDS else math.inf


def inverse(found: Contrast) -> Contrast:
    """The same two arms the other way round."""
    low, high = found.ratio_ci
    ends = (None if high is None else 1 / high, None if low is None else 1 / low)
    return Contrast(**{**vars(found), "ratio": None if found.ratio is None else 1 / found.ratio, "ratio_ci": ends})
