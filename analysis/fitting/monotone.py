"""A curve with no formula: N(b) that only never rises with b."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fitting.likelihood import LOG_SIGMA, Observations, terms
from analysis.fitting.models import Array, Mask


@dataclass(frozen=True)
class Monotone:
    """The most likely falling curve. sizes: (k,) batch sizes. log_n: (k,), ∞ where nothing arrived. sigma: spread."""

    sizes: Array
    log_n: Array
    sigma: float
    log_likelihood: float

    @property
    def levels(self) -> int:
        """How many different finite levels the curve has: its parameters, beside the spread."""
        return len(np.unique(np.round(self.log_n[np.isfinite(self.log_n)], 6)))

    @property
    def b_star(self) -> float:
        """The swept batch size with the least N·b."""
        return float(self.sizes[np.argmin(self.log_n + np.log(self.sizes))])

    def predict(self, b: float) -> float:
        """ln N(b) between two of its batch sizes, on a line in ln b."""
        known = np.isfinite(self.log_n)
        return float(np.interp(math.log(b), np.log(self.sizes[known]), self.log_n[known]))


def monotone(seen: Observations) -> Monotone:
    """Maximum likelihood under ln N(b) falling, one spread for all b, by alternating between the two."""
    sizes = np.unique(seen.b)
    spread = math.log(0.2)
    for _ in range(30):
        log_n = _levels(seen, sizes, math.exp(spread))
        before, spread = spread, _spread(seen, _at(log_n, sizes, seen.b), spread)
        if abs(before - spread) < 1e-4:
            break
    log_n = _levels(seen, sizes, math.exp(spread))
    value = terms(seen, _at(log_n, sizes, seen.b), np.array(math.exp(spread))).value.sum()
    return Monotone(sizes, log_n, math.exp(spread), float(value))


def _at(log_n: Array, sizes: Array, b: Array) -> Array:
    return log_n[np.searchsorted(sizes, b)]


def _levels(seen: Observations, sizes: Array, sigma: float) -> Array:
    """The falling curve at one spread: min over l ≤ i of max over u ≥ i of the level that l … u would share.

    Robertson, Wright & Dykstra (1988), the min–max formula, which holds for any log-concave likelihood.
    """
    k = len(sizes)
    first, last = np.triu_indices(k)
    inside = (seen.b >= sizes[first][:, None]) & (seen.b <= sizes[last][:, None])
    shared = np.full((k, k), -np.inf)
    shared[first, last] = _pooled(seen, inside, sigma)
    return np.array([min(shared[low, i:].max() for low in range(i + 1)) for i in range(k)])


def _pooled(seen: Observations, inside: Mask, sigma: float) -> Array:
    """The most likely common ln N of the runs in each row of `inside` (B, n); ∞ where none arrived.

    Newton's method on a concave function of one number, its steps held below a spread and a half.
    """
    reached = inside & seen.reached
    arrived = reached.any(1)
    middle = np.zeros(len(seen.b))
    middle[seen.reached] = seen.middle()
    eta = (reached * middle).sum(1) / np.maximum(reached.sum(1), 1)
    for _ in range(40):
        t = terms(seen, eta[:, None], np.array(sigma))
        slope, bend = (np.where(inside, values, 0.0).sum(1) for values in (t.eta, t.eta_eta))
        step = np.clip(slope / np.maximum(-bend, 1e-9), -1.5 * sigma, 1.5 * sigma) * arrived
        eta += step
        if np.abs(step).max() < 1e-7 * sigma:
            break
    return np.where(arrived, eta, np.inf)


def _spread(seen: Observations, eta: Array, start: float) -> float:
    """ln σ at given means, by Newton's method on a grid's best start."""
    tried = np.linspace(*LOG_SIGMA, 60)
    values = terms(seen, eta, np.exp(tried)[:, None]).value.sum(1)
    best = float(tried[int(np.nanargmax(values))])
    for _ in range(12):
        t = terms(seen, eta, np.array(math.exp(best)))
        curvature = float(t.t_t.sum())
        if curvature >= 0:
            break
        best = float(np.clip(best - np.clip(t.t.sum() / curvature, -0.3, 0.3), *LOG_SIGMA))
    return best
