"""The likelihood of a curve: log-normal steps-to-target, interval-, left- and right-censored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.models import Array, Mask, Model
from analysis.fitting.noise import log_normal_between

_LOG_2PI = math.log(2 * math.pi)
# ln σ between a twentieth of a percent and a factor of 150: outside, a spread can't be told from 0 or ∞.
LOG_SIGMA = (math.log(0.0005), math.log(5.0))


@dataclass(frozen=True)
class Observations:
    """What the runs of a curve say of ln N, one entry per run that didn't diverge.

    b: batch sizes (n,). low, high: ln N lies in (low, high]; they are equal where N is exact, low is −∞
    where the first evaluation was below already, high is ∞ where the budget ran out first. They are
    (n,), or (B, n) where B sets of runs are fitted at once.
    """

    b: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Observations:
        """From a curve's frame. Diverged runs are an outcome of their own and don't enter."""
        frame = frame[frame["outcome"] != "diverged"]
        reached = (frame["outcome"] == "reached").to_numpy()
        steps, lower = frame["steps"].to_numpy(float), frame["lower"].to_numpy(float)
        with np.errstate(divide="ignore"):
            high = np.where(reached, np.log(steps), np.inf)
            low = np.log(np.where(reached, np.where(np.isnan(lower), steps, lower), steps))
        return cls(frame["batch_size"].to_numpy(float), low, high)

    @property
    def reached(self) -> Mask:
        return np.isfinite(self.high)

    @property
    def exact(self) -> Mask:
        return self.low == self.high

    def middle(self) -> Array:
        """ln N, taken in the middle of its bracket, for the runs that reached their target."""
        low = np.where(np.isfinite(self.low), self.low, self.high - 0.1)
        return (0.5 * (low + self.high))[self.reached]


@dataclass
class Terms:
    """ln L of each run and its derivatives by the mean η of ln N and by t = ln σ, each (..., n)."""

    value: Array
    eta: Array
    t: Array
    eta_eta: Array
    eta_t: Array
    t_t: Array


def terms(seen: Observations, eta: Array, sigma: Array) -> Terms:
    """Each run's contribution under ln N ~ Normal(η, σ²); η = ∞ means that it never arrives."""
    with np.errstate(invalid="ignore", over="ignore"):
        upper = (seen.high - eta) / sigma
        lower = (seen.low - eta) / sigma
    never = np.isinf(eta)
    upper = np.where(never & ~seen.reached, np.inf, upper)
    log_p = log_normal_between(lower, upper)
    up, down = _ratio(upper, log_p), _ratio(lower, log_p)
    up_z, down_z = np.where(np.isfinite(upper), upper, 0.0), np.where(np.isfinite(lower), lower, 0.0)
    a = up - down
    b = up_z * up - down_z * down
    c = up_z**2 * up - down_z**2 * down
    d = up_z**3 * up - down_z**3 * down
    found = Terms(log_p, -a / sigma, -b, -(b + a * a) / sigma**2, (a - c - a * b) / sigma, b - d - b * b)
    if seen.exact.any():
        z = up_z
        exact = seen.exact
        found.value = np.where(exact, -0.5 * (z * z + _LOG_2PI) - np.log(sigma), found.value)
        found.eta = np.where(exact, z / sigma, found.eta)
        found.t = np.where(exact, z * z - 1, found.t)
        found.eta_eta = np.where(exact, -1 / sigma**2, found.eta_eta)
        found.eta_t = np.where(exact, -2 * z / sigma, found.eta_t)
        found.t_t = np.where(exact, -2 * z * z, found.t_t)
    return found


def _ratio(z: Array, log_p: Array) -> Array:
    """φ(z)/P, 0 at infinite z."""
    with np.errstate(invalid="ignore", over="ignore"):
        value = np.exp(-0.5 * (z * z + _LOG_2PI) - log_p)
    return np.where(np.isfinite(z) & np.isfinite(value), value, 0.0)


@dataclass(frozen=True)
class Problem:
    """A model, what was seen, and how much each run counts: B fits at once.

    weights: (B, n) or (1, n); 0 leaves a run out. pivot: (B,) or (1,), the smallest batch size that
    reached its target in each. growing: ln κ is one parameter more, and σ_b = σ √(1 + (κ (N(b)/N∞ − 1))²),
    the spread that a run-to-run spread of b0 brings. scale: (n,) what multiplies σ for each run, known beforehand.
    """

    seen: Observations
    model: Model
    weights: Array
    pivot: Array
    growing: bool = False
    scale: Array | None = None

    @property
    def parameters(self) -> int:
        """Location, shape, ln σ and, where it grows, ln κ."""
        return 2 + len(self.model.names) + self.growing

    def evaluate(self, theta: Array) -> tuple[Array, Array, Array]:
        """ln L (B,), its gradient (B, p) and the curvature (B, p, p) at parameters (B, p).

        The curvature leaves out the second derivative of the shape (Gauss–Newton), which vanishes
        where the residuals do.
        """
        t, by_eta, by_t = self.runs(theta)
        used = self.weights > 0
        w = np.where(used, self.weights, 0.0)
        value = np.where(used, w * t.value, 0.0).sum(-1)
        gradient = _sum(w * t.eta, by_eta) + _sum(w * t.t, by_t)
        cross = _outer(w * t.eta_t, by_eta, by_t)
        curvature = _outer(w * t.eta_eta, by_eta, by_eta) + _outer(w * t.t_t, by_t, by_t)
        curvature += cross + np.swapaxes(cross, -1, -2)
        return np.where(np.isfinite(value), value, -np.inf), np.nan_to_num(gradient), np.nan_to_num(curvature)

    def runs(self, theta: Array) -> tuple[Terms, Array, Array]:
        """Each run's terms at parameters (B, p), and the slopes of its η and of its ln σ_b by them (B, n, p)."""
        k = len(self.model.names)
        g, slope = self.model.shape(self.seen.b, theta[:, 1 : 1 + k], np.broadcast_to(self.pivot, len(theta)))
        sigma = np.exp(theta[:, 1 + k])[:, None] * (1.0 if self.scale is None else self.scale)
        above, lift = self._above(theta)
        by_eta = np.concatenate(
            [np.ones((*g.shape, 1)), slope - lift[:, None, :], np.zeros((*g.shape, 1 + self.growing))], -1
        )
        by_t = np.zeros_like(by_eta)
        by_t[..., 1 + k] = 1.0
        if self.growing:
            sigma, share, rise = grown(sigma, np.exp(theta[:, -1])[:, None], g)
            by_t[..., 1 : 1 + k] = (share * rise)[..., None] * slope
            by_t[..., -1] = share
        return terms(self.seen, theta[:, :1] - above[:, None] + g, sigma), by_eta, by_t

    def located(self, theta: Array) -> Array:
        """Parameters (B, p) that begin with ln N∞, beginning with the model's own location instead."""
        moved = theta.copy()
        moved[:, 0] += self._above(theta)[0]
        return moved

    def _above(self, theta: Array) -> tuple[Array, Array]:
        """How far the location lies above ln N∞ (B,), and its slope by the shape (B, k)."""
        shape = theta[:, 1 : 1 + len(self.model.names)]
        if self.model.location is None:
            return np.zeros(len(theta)), np.zeros_like(shape)
        return self.model.location(shape, np.broadcast_to(self.pivot, len(theta)))

    def limits(self) -> tuple[Array, Array]:
        """The box that parameters stay in."""
        bounds = [(-20.0, 40.0), *self.model.limits, LOG_SIGMA, *([(math.log(1e-3), math.log(30.0))] * self.growing)]
        low, high = np.array(bounds).T
        return low, high


def grown(sigma: Array, kappa: Array, g: Array) -> tuple[Array, Array, Array]:
    """σ_b, d ln σ_b/d ln κ, and d ln(excess)/dg."""
    excess = np.expm1(np.where(np.isfinite(g), np.clip(g, -3, 30), 0.0))
    x = (kappa * excess) ** 2
    steep = np.where(np.abs(excess) > 1e-12, (excess + 1) / np.where(excess == 0, 1, excess), 0.0)
    return sigma * np.sqrt(1 + x), x / (1 + x), steep


def _sum(values: Array, by: Array) -> Array:
    return np.einsum("bn,bnp->bp", values, by)


def _outer(values: Array, left: Array, right: Array) -> Array:
    return np.swapaxes(values[..., None] * left, -1, -2) @ right


def best(problem: Problem) -> tuple[Array, float]:
    """Parameters (1, p) and ln L at the highest of the maxima reached from the model's starts."""
    seen = problem.seen
    shapes = problem.model.starts(seen.b[seen.reached])
    ones = np.ones((len(shapes), 1))
    start = np.hstack([ones * seen.middle().min(), shapes, ones * math.log(0.3)])
    if problem.growing:
        start = np.vstack([np.hstack([start, ones * math.log(kappa)]) for kappa in (0.01, 0.3, 1.0)])
    theta, value = maximise(problem, start)
    top = int(value.argmax())
    return theta[[top]], float(value[top])


def maximise(
    problem: Problem, start: Array, fixed: tuple[int, ...] = (), tolerance: float = 1e-9
) -> tuple[Array, Array]:
    """Parameters (B, p) and ln L (B,) at the maxima reached from `start` (B, p), those in `fixed` held.

    Damped Newton on B problems at once: curvature made definite by the absolute values of its
    eigenvalues, steps shortened until ln L rises.
    """
    free = [i for i in range(problem.parameters) if i not in fixed]
    low, high = problem.limits()
    theta = start.copy()
    theta[:, free] = np.clip(start[:, free], low[free], high[free])
    damping = np.full(len(theta), 1e-3)
    value, gradient, curvature = problem.evaluate(theta)
    live = np.arange(len(theta))
    for _ in range(60):
        part = _rows(problem, live, len(theta))
        slope = gradient[live][:, free]
        at = theta[live][:, free]
        stuck = ((at <= low[free]) & (slope < 0)) | ((at >= high[free]) & (slope > 0))
        step = _step(slope, -curvature[live][:, free][:, :, free], stuck, damping[live])
        trial = theta[live].copy()
        trial[:, free] = np.clip(trial[:, free] + step, low[free], high[free])
        new_value, new_gradient, new_curvature = part.evaluate(trial)
        gain = new_value - value[live]
        better = gain > 0
        rows = live[better]
        theta[rows], value[rows] = trial[better], new_value[better]
        gradient[rows], curvature[rows] = new_gradient[better], new_curvature[better]
        damping[live] = np.where(better, damping[live] * 0.1, np.maximum(damping[live] * 10, 1e-3))
        settled = (np.abs(gain) < tolerance) | (damping[live] > 1e8)
        live = live[~settled]
        if not len(live):
            break
    return theta, value


def _rows(problem: Problem, rows: NDArray[np.intp], size: int) -> Problem:
    def taken(values: Array) -> Array:
        return values[rows] if len(values) == size and size > 1 else values

    seen = problem.seen
    if seen.low.ndim == 2:
        seen = replace(seen, low=taken(seen.low), high=taken(seen.high))
    return replace(problem, seen=seen, weights=taken(problem.weights), pivot=taken(problem.pivot))


def _step(gradient: Array, curvature: Array, stuck: Mask, damping: Array) -> Array:
    """A Newton step (B, q) no longer than 2 in any parameter; those stuck at their limit stay."""
    gradient = np.where(stuck, 0.0, gradient)
    curvature = np.where(stuck[:, :, None] | stuck[:, None, :], np.eye(gradient.shape[1]), curvature)
    scale = np.sqrt(np.maximum(np.abs(np.einsum("bpp->bp", curvature)), 1e-8))
    values, vectors = np.linalg.eigh(curvature / (scale[:, :, None] * scale[:, None, :]))
    values = np.maximum(np.abs(values), 1e-6) + damping[:, None]
    inside = np.einsum("bpq,bp->bq", vectors, gradient / scale) / values
    step = np.einsum("bpq,bq->bp", vectors, inside) / scale
    return step * np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(-1), 1e-12))[:, None]
