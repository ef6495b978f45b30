"""The paper's form N(b) = N∞ b/(b − b0), fitted by maximum likelihood, with profile-likelihood intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from analysis.curves.curve import Curve
from analysis.fitting import profile as profiling
from analysis.fitting.likelihood import Observations, Problem, best, maximise
from analysis.fitting.models import (
    HYPERBOLA,
    HYPERBOLA_FROM_SFO,
    V_LIMITS,
    Array,
    b0_of,
    critical_batch_size,
    hyperbola,
    least_sfo,
)
from analysis.fitting.profile import LIMIT, Confidence, Interval, Scale


@dataclass
class Hyperbola:
    """What the paper's form says of a curve; None where the form says nothing.

    n_inf: steps at infinite batch size. b0: the batch size below which the target is never reached.
    b_star = 2 b0. sfo = 4 N∞ b0·Curve.gradients. sigma: spread of ln N over seeds; kappa: how it grows
    towards b0 (None where it was taken as the same everywhere). Intervals (`…_ci`) are 95 %, with None
    for an open end. curves: the confidence curves behind them, of ln N(pivot)/N∞, ln N∞ and ln SFO.
    log_likelihood: at the maximum.
    """

    curve: Curve
    problem: Problem | None = field(default=None, repr=False)
    theta: Array | None = field(default=None, repr=False)
    path: Array | None = field(default=None, repr=False)
    scale: Scale | None = field(default=None, repr=False)
    n_inf: float | None = None
    b0: float | None = None
    sigma: float | None = None
    kappa: float | None = None
    curves: dict[str, Confidence] = field(default_factory=dict, repr=False)
    log_likelihood: float | None = None

    def interval(self, name: str, low: float = -LIMIT, high: float = LIMIT) -> Interval:
        """Where z of b_star, n_inf or sfo lies between two limits, 95 % by default; None at an open end."""
        if name not in self.curves:
            return None, None
        ends = self.curves[name].interval(low, high)
        if name == "b_star":
            assert self.problem is not None
            pivot = float(self.problem.pivot[0])
            left, right = (None if v is None or v <= 0 else float(critical_batch_size(b0_of(v, pivot))) for v in ends)
            return left, right
        unit = self.curve.gradients if name == "sfo" else 1.0
        left, right = (None if end is None else unit * math.exp(end) for end in ends)
        value = getattr(self, name)  # a bound may have moved the estimate out of its interval
        if value is not None:
            left, right = (None if left is None else min(left, value)), (None if right is None else max(right, value))
        return left, right

    @property
    def b_star_ci(self) -> Interval:
        return self.interval("b_star")

    @property
    def n_inf_ci(self) -> Interval:
        return self.interval("n_inf")

    @property
    def sfo_ci(self) -> Interval:
        return self.interval("sfo")

    @property
    def rising(self) -> bool:
        """True where no b0 above 0 is compatible with the runs: N(b) grows with b."""
        end = self.curves["b_star"].interval()[1] if "b_star" in self.curves else None
        return end is not None and end <= 0

    @property
    def b_star(self) -> float | None:
        return None if self.b0 is None else float(critical_batch_size(self.b0))

    @property
    def sfo(self) -> float | None:
        """N(b*)·b* = 4 N∞ b0, times the gradients of a step per image."""
        if self.b0 is None or self.n_inf is None:
            return None
        return self.curve.gradients * float(least_sfo(self.n_inf, self.b0))

    def predict(self, b: Array) -> Array:
        """N(b) of the fit (steps), shape of b. Raises ValueError where there is no fit."""
        if self.n_inf is None:
            raise ValueError(f"{self.curve.label}: there is no fit to predict from.")
        return hyperbola(b, self.n_inf, self.b0 or 0.0)

    def band(self, b: Array) -> tuple[Array, Array]:
        """The pointwise 95 % profile-likelihood band of N(b): its least and greatest value over the region.

        Raises ValueError where there is no fit.
        """
        if self.n_inf is None:
            raise ValueError(f"{self.curve.label}: there is no fit to draw a band around.")
        curves = hyperbola(b, self.region[:, :1], self.region[:, 1:])
        return curves.min(0), curves.max(0)

    @cached_property
    def region(self) -> Array:
        """(k, 2) parameters N∞, b0 on the outline of the region that the 95 % intervals are the shadows of."""
        assert self.path is not None
        assert self.problem is not None
        assert self.theta is not None
        assert self.scale is not None
        own = np.array([[self.n_inf, self.b0 or 0.0]])
        return np.concatenate([own, _region(self.problem, self.theta, self.path, self.scale)])


def fit_hyperbola(curve: Curve, growing_spread: bool = False) -> Hyperbola:
    """Fit a curve by maximum likelihood; a curve that can't be fitted has no problem and no estimates.

    growing_spread: let the spread between seeds grow towards b0, by one parameter κ more:
    σ_b = σ √(1 + (κ (N(b)/N∞ − 1))²).
    """
    seen = Observations.of(curve.frame)
    reached = seen.reached
    sizes = np.unique(seen.b[reached])
    used = min(2, len(sizes))
    if (reached & np.isfinite(seen.low)).sum() - used < 1:  # an N with no lower end informs neither b0 nor σ
        return Hyperbola(curve)
    problem = Problem(seen, HYPERBOLA, np.ones((1, len(seen.b))), sizes[:1], growing_spread)
    theta, top = best(problem)
    found = Hyperbola(curve, problem, theta)
    _intervals(found, problem, theta, top, used)
    if len(sizes) < 3:  # bounds only: no form can be told from two points
        found.b0 = found.n_inf = None
    return found


def _intervals(found: Hyperbola, problem: Problem, theta: Array, top: float, used: int) -> None:
    """Fill in estimates and confidence curves from the profiles of b*, N∞ and the SFO at b*."""
    pivot, v = float(problem.pivot[0]), float(theta[0, 1])
    values = profiling.grid(v, profiling.standard_error(problem, theta, 1), *V_LIMITS)
    coarse = profiling.profile(problem, 1, values, theta)
    top = max(top, float(coarse.likelihoods.max()))
    scale = Scale(top, profiling.information(problem, theta), used)
    found.scale, found.log_likelihood = scale, top
    found.curves["b_star"], fine = profiling.confidence(problem, coarse, v, scale)
    path = fine.path
    found.path = path[np.abs(found.curves["b_star"].z) <= LIMIT * 1.0001]
    found.curves["n_inf"] = _profiled(problem, theta, path, scale)
    positive = path[path[:, 1] > 1e-4]
    if len(positive):
        centre = theta if v > 1e-4 else theta[:0]
        from_sfo = replace(problem, model=HYPERBOLA_FROM_SFO)
        found.curves["sfo"] = _profiled(from_sfo, from_sfo.located(centre), from_sfo.located(positive), scale)
    at = theta if v > 0 else profiling.profile(problem, 1, np.zeros(1), theta).path
    found.sigma = float(math.exp(at[0, 2]))
    found.kappa = float(math.exp(at[0, 3])) if problem.growing else None
    # A flat end: N∞ and b0 run off to 0 and the pivot together. A rising curve has no N∞.
    flat = float(problem.evaluate(path[-1:])[0][0]) > top - 1e-4
    if not flat and not found.rising:
        found.n_inf = float(math.exp(at[0, 0]))
        found.b0 = float(b0_of(v, pivot)) if v > 0 else None


def _profiled(problem: Problem, theta: Array, path: Array, scale: Scale) -> Confidence:
    """The confidence curve of the location, from a path along which the shape was profiled already.

    theta: the maximum (1, p), or (0, p) where it lies below every value that the location can take.
    """
    if len(theta):
        centre = inside = float(theta[0, 0])
        error = profiling.standard_error(problem, theta, 0)
    else:
        centre, inside, error = -math.inf, float(path[:, 0].min()), max(float(np.ptp(path[:, 0])) / 6, 1e-3)
    values = profiling.grid(inside, error, inside - 8.0, inside + 8.0)
    along = profiling.profile(problem, 0, values, np.concatenate([theta, path]))
    return profiling.confidence(problem, along, centre, scale)[0]


def _region(problem: Problem, theta: Array, path: Array, scale: Scale) -> Array:
    """For each b0 in its interval, both ends of N∞ at the likelihood of the interval's ends."""
    path = path[path[:, 1] >= 0]
    path = path[np.unique(np.linspace(0, len(path) - 1, 24).astype(int))]
    shifts = np.linspace(-1, 1, 41) * 4 * profiling.standard_error(problem, theta, 0)
    points = np.repeat(path, len(shifts), 0)
    points[:, 0] += np.tile(shifts, len(path))
    likelihoods = maximise(problem, points, fixed=(0, 1))[1].reshape(len(path), -1)
    outline = []
    for row, found in zip(path, likelihoods, strict=True):
        low, high = Confidence(shifts, scale.z(shifts, 0.0, found)).interval()
        ends = [0.0 if end is None or abs(end) > abs(shifts[0]) else end for end in (low, high)]
        outline += [(math.exp(row[0] + end), float(b0_of(row[1], problem.pivot[0]))) for end in ends]
    return np.array(outline)
