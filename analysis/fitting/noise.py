"""How a run's steps-to-target scatter around the median: normal or heavy-tailed in ln N, and sometimes never."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, ndtr

from analysis.fitting.models import Array

# A run may fail to arrive for a reason that has nothing to do with how late the median run arrives.
NEVER = 0.02
NORMAL, HEAVY = 0, 1
_LOG_NEVER, _LOG_SOMETIME = math.log(NEVER), math.log1p(-NEVER)


def log_likelihood(median: Array, sigma: Array, low: Array, high: Array, tails: int) -> Array:
    """ln P(a run is seen as (low, high]), where ln N scatters around `median` with scale `sigma`; all broadcast.

    low, high: the bracket of ln N; high is ∞ where the run had not arrived, low is −∞ where the first evaluation was
    below the target already. tails: NORMAL, or HEAVY for Student's t with four degrees of freedom. NEVER of all runs
    never arrive, whatever the median.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = (low - median) / sigma, (high - median) / sigma
    between = log_normal_between(left, right) if tails == NORMAL else _log_heavy_between(left, right)
    arrived = _LOG_SOMETIME + between
    return np.where(np.isposinf(high), np.logaddexp(_LOG_NEVER, arrived), arrived)


def arrived(z: Array, tails: int) -> Array:
    """P(a run has arrived) where ln steps lies z spreads above the median."""
    return (1 - NEVER) * (ndtr(z) if tails == NORMAL else heavy_cdf(z))


def log_normal_between(low: Array, high: Array) -> Array:
    """ln(Φ(high) − Φ(low)), from the tail in which the two are small."""
    flip = low > 0
    a, b = np.where(flip, -low, high), np.where(flip, -high, low)
    larger = log_ndtr(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        return larger + np.log1p(-np.exp(np.minimum(log_ndtr(b) - larger, 0.0)))


def _log_heavy_between(low: Array, high: Array) -> Array:
    flip = low > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.log(np.maximum(heavy_cdf(b) - heavy_cdf(a), 1e-300))


def heavy_cdf(z: Array) -> Array:
    """P(T ≤ z) of Student's t with four degrees of freedom, exact in the left tail too."""
    z = np.asarray(z, float)
    far = np.abs(z) > 50
    w = np.where(far, 0.0, z)
    share = w / np.sqrt(1 + w * w / 4)
    left = 0.5 - 0.375 * np.abs(share) * (1 - share * share / 12)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.where(np.isinf(z), 0.0, 3.0 / z**4 * (1 - 20.0 / (3.0 * z**2)))
    left = np.where(far, tail, left)
    return np.where(z < 0, left, 1 - left)
