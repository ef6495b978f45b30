"""Confidence curves: how far a parameter may lie from its estimate, by profile likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr

from analysis.fitting.likelihood import Problem, maximise
from analysis.fitting.models import Array

# Two-sided 95 %.
LIMIT = float(ndtri(0.975))

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Confidence:
    """Signed distance z from the estimate, in standard normal units, at values of a parameter.

    values: (K,) rising. z: (K,), below 0 left of the estimate. The 95 % interval is where |z| ≤ 1.96.
    """

    values: Array
    z: Array

    def interval(self, low: float = -LIMIT, high: float = LIMIT) -> Interval:
        """Where low ≤ z ≤ high; None at an end that the data leave open."""
        return self._crossing(low), self._crossing(high)

    def _crossing(self, at: float) -> float | None:
        """The value at which z passes `at` going up, between grid points linearly."""
        if at < 0:
            below = np.flatnonzero(self.z <= at)
            if not len(below) or below[-1] + 1 == len(self.z):
                return None
            i = int(below[-1])
        else:
            above = np.flatnonzero(self.z >= at)
            if not len(above) or above[0] == 0:
                return None
            i = int(above[0]) - 1
        left, right = self.z[i], self.z[i + 1]
        share = (at - left) / (right - left)
        return float(self.values[i] + share * (self.values[i + 1] - self.values[i]))


def calibrated(deviance: Array, information: Array | float, used: int) -> Array:
    """|z| of a profile deviance 2(ln L̂ − ln L), as Student's t has it.

    In normal linear regression with n runs and `used` mean parameters the deviance is
    n ln(1 + t²/(n − used)) exactly; n here is how many runs inform the spread: see `information`.
    """
    n = np.maximum(information, used + 1.0)
    spare = n - used
    with np.errstate(over="ignore"):
        t = np.sqrt(spare * np.expm1(np.minimum(np.maximum(deviance, 0.0) / n, 500.0)))
    # Beyond z = 8 the tail underflows; what lies there is outside any interval.
    return -ndtri(np.clip(stdtr(spare, -np.minimum(t, 1e12)), 1e-15, 0.5))


def information(problem: Problem, theta: Array) -> float:
    """How many runs inform the spread at parameters (1, p): those that reached, and the censored for what they say.

    A censored run counts by its information on ln σ, of which an exactly known run has 2.
    """
    said = -problem.runs(theta)[0].t_t[0]
    censored = ~problem.seen.reached
    return float(problem.seen.reached.sum() + np.clip(said[censored] / 2, 0.0, 1.0).sum())


def grid(centre: float, error: float, low: float, high: float) -> Array:
    """Values around an estimate: dense within six standard errors, sparse out to the limits."""
    near = centre + error * np.linspace(-6, 6, 31)
    far = np.concatenate([np.linspace(low, centre, 8), np.linspace(centre, high, 12)])
    values = np.concatenate([near, far])
    return np.unique(values[(values >= low) & (values <= high)])


def standard_error(problem: Problem, theta: Array, index: int) -> float:
    """From the curvature at parameters (1, p), within a thousandth and 3."""
    curvature = -problem.evaluate(theta)[2][0]
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-8))
    inverse = np.linalg.pinv(curvature / np.outer(scale, scale), rcond=1e-10) / np.outer(scale, scale)
    return float(np.clip(math.sqrt(max(inverse[index, index], 0.0)), 1e-3, 3.0))


@dataclass(frozen=True)
class Scale:
    """What turns likelihoods into z: the most of ln L, runs that inform the spread, mean parameters fitted."""

    top: float
    count: float
    used: int

    def z(self, values: Array, centre: float, likelihoods: Array) -> Array:
        return np.sign(values - centre) * calibrated(2 * (self.top - likelihoods), self.count, self.used)


@dataclass(frozen=True)
class Profile:
    """Maxima with the parameter `index` held at values (K,): ln L (K,), and the parameters (K, p) there."""

    index: int
    values: Array
    likelihoods: Array
    path: Array

    def joined(self, other: Profile) -> Profile:
        """Both, in the order of the values."""
        values = np.concatenate([self.values, other.values])
        order = np.argsort(values, kind="stable")
        likelihoods = np.concatenate([self.likelihoods, other.likelihoods])
        return Profile(self.index, values[order], likelihoods[order], np.concatenate([self.path, other.path])[order])


def profile(problem: Problem, index: int, values: Array, starts: Array) -> Profile:
    """The likelihood's profile over one parameter.

    starts: (S, p); each value starts from the one whose own value of the parameter is nearest.
    """
    start = starts[np.abs(starts[:, index][None, :] - values[:, None]).argmin(1)]
    start[:, index] = values
    theta, likelihoods = maximise(problem, start, fixed=(index,), tolerance=1e-6)
    return Profile(index, values, likelihoods, theta)


def confidence(problem: Problem, along: Profile, centre: float, scale: Scale) -> tuple[Confidence, Profile]:
    """The confidence curve of a profiled parameter, and the profile made finer.

    The grid is made finer twice where z passes its limits, so that interpolation decides no digit.
    """
    for _ in range(2):
        values, z = along.values, scale.z(along.values, centre, along.likelihoods)
        cells = [i for limit in (-LIMIT, LIMIT) for i in np.flatnonzero((z[:-1] < limit) != (z[1:] < limit))]
        between = np.concatenate([np.linspace(values[i], values[i + 1], 6)[1:-1] for i in cells] or [np.empty(0)])
        if not len(between):
            break
        along = along.joined(profile(problem, along.index, between, along.path))
    return Confidence(along.values, scale.z(along.values, centre, along.likelihoods)), along
