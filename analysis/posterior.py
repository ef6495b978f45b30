"""The posterior of (b0, N∞, σ) on a grid: what runs are likely to do next, given those seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtr

from analysis.likelihood import Observations, log_between
from analysis.models import Array

# The prior is weak and only chooses runs; no interval that is reported rests on it. σ: log-normal, 95 % between 0.03
# and 0.5. ln b0: flat, from an eighth of the smallest batch size to the largest. ln N∞: flat below the budget.
SIGMAS = np.geomspace(0.02, 0.7, 9)
_LN_SIGMA, _LN_SIGMA_SPREAD = math.log(0.12), 0.7
_BELOW, _SHALLOW = 8.0, 1000.0
_FINE, _COARSE = 41, 25


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

    def arrived(self, b: float, ln_steps: Array) -> Array:
        """The probability that a run at b arrives within steps (T,), at each point (K, Q, T)."""
        return ndtr((ln_steps - self.mean(b)[..., None]) / self.sigma[:, None])

    @property
    def of_b0(self) -> Array:
        """The probability of each b0 (K,)."""
        return self.weight.sum(1)

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
    ends = math.log(smallest / _BELOW / pivot), math.log(_SHALLOW)
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
        z = np.linspace(-3.5, 3.5, 9)
        error = np.sqrt((SIGMAS**2 + np.mean((high - low) ** 2) / 12) / count)
        ln_n_inf = centre[:, None, None] + error[:, None] * z
        volume = error
    else:
        at = np.linspace(math.log(most_steps / _SHALLOW), math.log(most_steps), 25)
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
