"""Which batch size reaches the target for the least cost, N(b)·b or another, from a posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from analysis.fitting.models import Array
from analysis.fitting.posterior import Posterior
from analysis.fitting.profile import Interval

CONFIDENCE = 0.95
AS_GOOD = 0.10
# A regret beyond e² is as bad as any: it can't move the estimate.
_MOST_REGRET = 2.0


@dataclass(frozen=True)
class Cheapest:
    """The batch size of least cost.

    b_star: the batch size of least expected regret, regret being ln of its cost over the least cost. low, high: the
    shortest set of neighbouring batch sizes that holds the minimiser with 95 %. open_low, open_high: whether the
    set contains that edge of the sweep. sizes, probability: (K,) of each swept size to cost less than the others.
    as_good: the widest range of batch sizes all of which cost within `margin` of the least, with 95 %; None where there
    is none. regret_95: how much more, relatively, b_star costs than the least, at most, with 95 %. least: the least
    cost, the posterior's median, and least_ci its 95 %. log_b: (S,) draws of ln of the minimiser, weight: (S,) theirs.
    """

    b_star: float
    low: float
    high: float
    open_low: bool
    open_high: bool
    sizes: Array
    probability: Array
    as_good: tuple[float, float] | None
    regret_95: float
    least: float
    least_ci: tuple[float, float]
    margin: float
    log_b: Array = field(repr=False)
    weight: Array = field(repr=False)

    @property
    def interval(self) -> Interval:
        """The 95 % set, with None at an open end."""
        return (None if self.open_low else self.low), (None if self.open_high else self.high)

    def holds(self, b: float) -> bool:
        """Whether a batch size lies within the set."""
        return self.low <= b <= self.high

    @property
    def octaves(self) -> float:
        """How wide the set is, open ends counted to the edge."""
        return math.log2(self.high / self.low)


def cheapest(known: Posterior, log_step_cost: Array | None = None, margin: float = AS_GOOD) -> Cheapest:
    """The batch size of least N(b)·c(b).

    log_step_cost: ln c at the posterior's points x, (G,) or draws of it (S, G); None for c(b) = b, gradients.
    """
    cost = known.log_n + (known.x if log_step_cost is None else log_step_cost)
    draws = np.arange(len(cost))
    at = cost.argmin(1)
    regret = cost - cost[draws, at][:, None]
    mass = np.bincount(at, known.weight, cost.shape[1]).astype(float)
    first, last = _shortest(mass, known.x)
    best = int((known.weight @ np.minimum(regret, _MOST_REGRET)).argmin())
    swept = np.bincount(cost[:, known.at].argmin(1), known.weight, len(known.sizes)).astype(float)
    least = weighted_quantile(cost[draws, at], known.weight, (0.025, 0.5, 0.975))
    b = known.b
    low, high = _ends(b, first, last)
    return Cheapest(
        float(b[best]),
        low,
        high,
        first == 0,
        last == len(b) - 1,
        known.sizes,
        swept,
        _as_good(regret, known, margin),
        math.expm1(float(weighted_quantile(regret[:, best], known.weight, (CONFIDENCE,))[0])),
        math.exp(least[1]),
        (math.exp(least[0]), math.exp(least[2])),
        margin,
        known.x[at],
        known.weight,
    )


def weighted_quantile(values: Array, weight: Array, levels: tuple[float, ...]) -> Array:
    """Quantiles of weighted values (S,)."""
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return values[order][np.minimum(np.searchsorted(below, levels), len(order) - 1)]


def _shortest(mass: Array, x: Array) -> tuple[int, int]:
    """First and last of the shortest run of points that hold 95 % of the mass; of equally short ones the likeliest."""
    below = np.concatenate([[0.0], np.cumsum(mass)])
    ends = np.searchsorted(below, below[:-1] + CONFIDENCE * below[-1] - 1e-12)
    starts = np.flatnonzero(ends < len(below))
    last = ends[starts] - 1
    length = x[last] - x[starts]
    inside = below[last + 1] - below[starts]
    best = int(np.lexsort((-inside, np.round(length, 9)))[0])
    return int(starts[best]), int(last[best])


def _ends(b: Array, first: int, last: int) -> tuple[float, float]:
    """A set of points as batch sizes: half way to the next point on either side, but for the edges of the sweep."""
    if first == last and first in (0, len(b) - 1):
        return float(b[first]), float(b[first])
    low = b[0] if first == 0 else math.sqrt(b[first - 1] * b[first])
    high = b[-1] if last == len(b) - 1 else math.sqrt(b[last] * b[last + 1])
    return float(low), float(high)


def _as_good(regret: Array, known: Posterior, margin: float) -> tuple[float, float] | None:
    """The longest run of points whose regrets all stay within the margin with 95 %."""
    good = regret <= math.log1p(margin)
    weight, count = known.weight, good.shape[1]
    alone = weight @ good >= CONFIDENCE
    best: tuple[int, int] | None = None
    for first in np.flatnonzero(alone):
        alive = good[:, first]
        last = first
        while last + 1 < count and alone[last + 1]:
            both = alive & good[:, last + 1]
            if weight[both].sum() < CONFIDENCE:
                break
            alive, last = both, last + 1
        if best is None or known.x[last] - known.x[first] > known.x[best[1]] - known.x[best[0]]:
            best = int(first), int(last)
    return None if best is None else (float(known.b[best[0]]), float(known.b[best[1]]))
