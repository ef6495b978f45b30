"""The posterior of (b0, N∞, σ) on a grid: what runs are likely to do next, and what that would tell of b*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from analysis.fitting.likelihood import Observations, log_between
from analysis.fitting.models import Array

# The prior is weak and only chooses runs; no interval that is reported rests on it. σ: log-normal, 95 % between 0.03
# and 0.5. ln b0: flat, from an eighth of the smallest batch size to the largest. ln N∞: flat below the budget.
# The information is reckoned from EDGES steps at which outcomes are told apart, and DRAWS outcomes of pending runs.
EDGES, DRAWS = 20, 8
SIGMAS = np.geomspace(0.02, 0.6, 7)
_LN_SIGMA, _LN_SIGMA_SPREAD = math.log(0.12), 0.7
_BELOW, _BUDGETS, _STEEPEST = 8.0, 100.0, 1000.0
_FINE, _COARSE = 33, 21


@dataclass(frozen=True)
class Posterior:
    """Probability on K values of b0 times Q points of (N∞, σ).

    b0: (K,) rising. ln_n_inf: (K, Q). sigma: (Q,). weight: (K, Q), its sum is 1.
    """

    b0: Array
    ln_n_inf: Array
    sigma: Array
    weight: Array

    def mean(self, b: float) -> Array:
        """The mean of ln N(b) at each point (K, Q); ∞ where b ≤ b0."""
        return self.ln_n_inf + rise(np.array([b]), self.b0)

    def mean_at(self, b: float, k: int, q: int) -> float:
        """The mean of ln N(b) at one point."""
        return float(self.ln_n_inf[k, q] + rise(np.array([b]), self.b0[k : k + 1])[0, 0])

    def b_star(self, *levels: float) -> list[float]:
        """Quantiles of b*."""
        below = np.cumsum(self.weight.sum(1))
        return [float(2 * self.b0[min(int(np.searchsorted(below, level)), len(below) - 1)]) for level in levels]

    def given(self, seen: Observations) -> Array:
        """Weights (K, Q) after more runs, whose sum is 1."""
        ln = np.log(np.maximum(self.weight, 1e-300))
        for b, low, high in zip(seen.b, seen.low, seen.high, strict=True):
            ln = ln + _likelihood(self.mean(b), self.sigma, low, high)
        return _normalised(ln)


def rise(b: Array, b0: Array) -> Array:
    """ln N(b)/N∞ (K, n) under the hyperbola, ∞ where b ≤ b0."""
    b0 = b0[:, None]
    return np.where(b > b0, -np.log1p(-np.minimum(b0 / b, 1 - 1e-12)), np.inf)


def posterior(seen: Observations, smallest: float, largest: float, most_steps: float) -> Posterior:
    """The posterior after the runs seen, its grid laid where the probability is.

    The hyperbola needs b0 below every batch size that reached its target: below the smallest of them, the pivot, b0
    is laid out evenly in ln b0/(pivot − b0), which is ln b0 where that is small and ln N(pivot)/N∞ where it is large.
    """
    reached = seen.b[seen.reached]
    pivot = float(reached.min()) if len(reached) else 2 * largest
    ends = math.log(smallest / _BELOW / pivot), math.log(_STEEPEST)
    for count in (_COARSE, _FINE):
        x = np.linspace(*ends, count)
        found, marginal = _laid(seen, pivot / (1 + np.exp(-x)), largest, most_steps)
        kept = np.flatnonzero(marginal > 1e-5 * marginal.max())
        ends = x[max(kept[0] - 1, 0)], x[min(kept[-1] + 1, count - 1)]
    return found


def _laid(seen: Observations, b0: Array, largest: float, most_steps: float) -> tuple[Posterior, Array]:
    """The posterior on these values of b0, evenly spaced in the logit of b0/pivot, and their probability."""
    reached = seen.reached
    count = int(reached.sum())
    if count:
        low = np.where(np.isfinite(seen.low), seen.low, seen.high - 0.1)[reached]
        high = seen.high[reached]
        centre = (0.5 * (low + high) - rise(seen.b[reached], b0)).mean(1)
        z = np.linspace(-3, 3, 7)
        error = np.sqrt((SIGMAS**2 + np.mean((high - low) ** 2) / 12) / count)
        ln_n_inf = centre[:, None, None] + error[:, None] * z
        volume = error
    else:
        at = np.linspace(math.log(most_steps / _BUDGETS), math.log(most_steps), 15)
        ln_n_inf = np.broadcast_to(at, (len(b0), len(SIGMAS), len(at)))
        volume = np.ones(len(SIGMAS))
    sigma = np.repeat(SIGMAS, ln_n_inf.shape[-1])
    prior = np.log(volume) - 0.5 * ((np.log(SIGMAS) - _LN_SIGMA) / _LN_SIGMA_SPREAD) ** 2
    pivot = float(seen.b[reached].min()) if count else 2 * largest
    with np.errstate(divide="ignore"):
        ln = np.where(b0 <= largest, np.log1p(-b0 / pivot), -np.inf)[:, None] + np.repeat(prior, ln_n_inf.shape[-1])
    ln_n_inf = ln_n_inf.reshape(len(b0), -1)
    g = rise(seen.b, b0)
    for i in range(len(seen.b)):
        ln = ln + _likelihood(ln_n_inf + g[:, i : i + 1], sigma, seen.low[i], seen.high[i])
    weight = _normalised(ln)
    return Posterior(b0, ln_n_inf, sigma, weight), weight.sum(1)


def _likelihood(mean: Array, sigma: Array, low: float, high: float) -> Array:
    """ln P(low < ln N ≤ high) at each point (K, Q); an exact N is a bracket of a thousandth."""
    with np.errstate(invalid="ignore"):
        lower = (min(low, high - 1e-3) - mean) / sigma
        if math.isinf(high):
            return log_ndtr(-lower)
        return np.where(np.isinf(mean), -np.inf, log_between(lower, (high - mean) / sigma))


def _normalised(ln: Array) -> Array:
    weight = np.exp(ln - ln.max())
    return weight / weight.sum()


def imagined(known: Posterior, runs: Sequence[tuple[int, float, float]]) -> Array:
    """Weights (J, K, Q) after J draws of what pending runs (b, steps done, until) will say; J = 1 with none pending.

    The draws are spread evenly, not random: quantiles of the posterior, and of each run Kronecker's sequence of the
    golden ratio.
    """
    if not runs:
        return known.weight[None]
    flat = known.weight.ravel().cumsum()
    points = np.minimum(np.searchsorted(flat, (np.arange(DRAWS) + 0.5) / DRAWS), len(flat) - 1)
    weights = []
    for j, (k, q) in enumerate(zip(*np.unravel_index(points, known.weight.shape), strict=True)):
        shares = ((j + 0.5) / DRAWS + (np.arange(len(runs)) + 1) * 0.6180339887498949) % 1.0
        ends = [
            _drawn(known.mean_at(b, k, q), float(known.sigma[q]), done, until, share)
            for (b, done, until), share in zip(runs, shares, strict=True)
        ]
        low, high = np.array(ends).T
        weights.append(known.given(Observations(np.array([b for b, _, _ in runs], float), low, high)))
    return np.stack(weights)


def _drawn(mean: float, sigma: float, done: float, until: float, share: float) -> tuple[float, float]:
    """The bracket of ln N at a quantile of a run that had not arrived at `done` and goes on to `until`."""
    before = float(ndtr((math.log(done) - mean) / sigma)) if done > 0 else 0.0
    z = float(ndtri(before + share * (1 - before)))
    ln = mean + sigma * z
    return (ln - 0.05, ln) if ln < math.log(until) else (math.log(until), math.inf)


def worth(known: Posterior, weights: Array, b: int, done: float, most: float) -> tuple[float, float, int]:
    """How a run at b, trained for `done` steps already, best tells of b*: nats per step, nats, and until which step.

    The information is the mutual information of b0 and of when the run arrives, if it does, averaged over weights
    (J, K, Q). A grant is at least a twentieth of the budget and half as much again as there was, so that runs aren't
    taken up again and again.
    """
    mean = known.mean(b)
    likely = np.isfinite(mean) & (known.weight > 1e-4 * known.weight.max())
    soonest = float((mean - 3 * known.sigma)[likely].min()) if likely.any() else 0.0
    first = max(1.5 * done, most / 20, math.exp(min(soonest, math.log(most))))
    edges = np.geomspace(min(first, most), most, EDGES)
    arrived = ndtr((np.log(edges) - mean[..., None]) / known.sigma[:, None])
    if done > 0:
        before = ndtr((math.log(done) - mean) / known.sigma)[..., None]
        arrived = np.clip((arrived - before) / np.maximum(1 - before, 1e-12), 0.0, 1.0)
    told, inside = _information(weights, np.diff(arrived, axis=-1, prepend=0.0))
    silence, outside = _information(weights, 1 - arrived)
    nats = (told.cumsum(-1) + silence).mean(0)
    middle = 0.5 * (np.concatenate([[done], edges[:-1]]) + edges)
    steps = ((inside * middle).cumsum(-1) + outside * edges - done).mean(0)
    rate = nats / np.maximum(steps, 1.0)
    at = int(rate.argmax())
    return float(rate[at]), float(nats[at]), math.ceil(edges[at])


def _information(weights: Array, chance: Array) -> tuple[Array, Array]:
    """What each outcome adds to the mutual information with b0, and its probability, (J, T).

    weights: (J, K, Q). chance: of the outcomes at each point, (K, Q, T).
    """
    joint = np.matmul(weights.transpose(1, 0, 2), chance)
    of_b0 = weights.sum(-1).T[..., None]
    total = joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 1e-300, joint * np.log(joint / (of_b0 * total)), 0.0)
    return terms.sum(0), total
