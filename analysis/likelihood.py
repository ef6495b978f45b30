"""The likelihood of a curve: log-normal steps-to-target, interval-, left- and right-censored."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

from analysis.curves import Curve
from analysis.models import Array, hyperbola

_LOG_2PI = math.log(2 * math.pi)


class Likelihood:
    """log L(N∞, b0, σ) of one curve under ln N ~ Normal(ln N∞ b/(b−b0), σ²).

    A run that reached its target contributes the probability of its bracket (or the density of an
    exact N); one that didn't, the probability of a larger N. Runs that diverged count as censored.
    """

    def __init__(self, curve: Curve) -> None:
        frame = curve.frame
        self.b = frame["batch_size"].to_numpy(float)
        reached = (frame["outcome"] == "reached").to_numpy()
        lower = frame["lower"].to_numpy(float)
        with np.errstate(divide="ignore"):
            self._upper = np.log(frame["steps"].to_numpy(float))
            self._lower = np.log(np.where(np.isnan(lower), 1.0, lower))
        self._exact = reached & np.isnan(lower)
        self._bracket = reached & ~np.isnan(lower)
        self._censored = ~reached
        self.reached = reached
        self.count = int(reached.sum())

    def __call__(self, log_n_inf: Array, b0: Array, log_sigma: Array) -> Array:
        """Log-likelihood at parameters that broadcast together, shape (...)."""
        log_n_inf, b0, log_sigma = np.broadcast_arrays(log_n_inf, b0, log_sigma)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = np.log(hyperbola(self.b, np.exp(log_n_inf)[..., None], b0[..., None]))
            sigma = np.exp(log_sigma)[..., None]
            upper = (self._upper - mean) / sigma
            lower = (self._lower - mean) / sigma
            terms = np.where(self._censored, log_ndtr(-upper), 0.0)
            exact = -0.5 * (upper**2 + _LOG_2PI) - log_sigma[..., None]
            terms = np.where(self._exact, exact, terms)
            terms = np.where(self._bracket, _log_between(lower, upper), terms)
            total = terms.sum(-1)
        return np.where(np.isnan(total), -np.inf, total)


def _log_between(low: Array, high: Array) -> Array:
    """ln(Φ(high) − Φ(low)), from the tail in which the two are small."""
    a, b = np.where(low > 0, -low, high), np.where(low > 0, -high, low)
    larger, smaller = log_ndtr(a), log_ndtr(b)
    return larger + np.log1p(-np.exp(np.minimum(smaller - larger, 0.0)))
