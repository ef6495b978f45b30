"""Fit N(b) = N∞ b/(b − b0) to a curve by maximum likelihood, with profile intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.stats import t as student

from analysis.curves import Curve
from analysis.likelihood import Likelihood
from analysis.models import Array, critical_batch_size, hyperbola, least_sfo

_SIGMA = (math.log(0.005), math.log(5.0))
_STARTS = (0.02, 0.2, 0.5, 0.8, 0.98)

Interval = tuple[float | None, float | None]


@dataclass
class Fit:
    """What a curve says of its critical batch size; None where it says nothing.

    n_inf: steps at infinite batch size. b0: the batch size below which the target is never reached.
    b_star = 2 b0. Intervals are 95 %, with None for an open end. sigma: spread of ln N over seeds.
    region: (k, 3) parameters (N∞, b0, σ) within the 95 % likelihood region, for bands.
    """

    curve: Curve
    measured_b_star: int | None
    censored: int
    n_inf: float | None = None
    b0: float | None = None
    sigma: float | None = None
    b_star_ci: Interval = (None, None)
    n_inf_ci: Interval = (None, None)
    notes: list[str] = field(default_factory=list)
    region: Array = field(default_factory=lambda: np.empty((0, 3)), repr=False)

    @property
    def b_star(self) -> float | None:
        return None if self.b0 is None else float(critical_batch_size(self.b0))

    @property
    def sfo(self) -> float | None:
        """N(b*)·b* = 4 N∞ b0."""
        return None if self.b0 is None or self.n_inf is None else float(least_sfo(self.n_inf, self.b0))

    def predict(self, b: Array) -> Array:
        """N(b) of the fit (steps)."""
        assert self.n_inf is not None
        assert self.b0 is not None
        return hyperbola(b, self.n_inf, self.b0)

    def band(self, b: Array) -> tuple[Array, Array]:
        """The 95 % profile-likelihood band of N(b): its least and greatest value over the region."""
        curves = hyperbola(b, self.region[:, :1], self.region[:, 1:2])
        return curves.min(0), curves.max(0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.curve.optimizer,
            "label": self.curve.label,
            "threshold": self.curve.threshold,
            "runs": len(self.curve.frame),
            "censored": self.censored,
            "n_inf": self.n_inf,
            "n_inf_ci": list(self.n_inf_ci),
            "b0": self.b0,
            "b_star": self.b_star,
            "b_star_ci": list(self.b_star_ci),
            "sfo_at_b_star": self.sfo,
            "sigma": self.sigma,
            "measured_b_star": self.measured_b_star,
            "notes": self.notes,
        }


def fit(curve: Curve) -> Fit:
    """Fit one curve; a curve that can't be fitted says why in its notes, and what is still known."""
    likelihood = Likelihood(curve)
    measured = curve.measured_b_star()
    found = Fit(curve, measured, censored=int((~likelihood.reached).sum()))
    diverged = int((curve.frame["outcome"] == "diverged").sum())
    if diverged:
        found.notes.append(f"{diverged} of {len(curve.frame)} runs diverged; they count as censored at that step.")
    if likelihood.count == 0:
        found.notes.append("No run reached its target: raise the budget or the threshold, or sweep larger batch sizes.")
        return found
    sizes = np.unique(likelihood.b[likelihood.reached])
    if len(sizes) < 3:
        found.notes.append(
            f"The target was reached at {len(sizes)} batch size{'s' * (len(sizes) > 1)} only: "
            "a fit needs three; b0 is below the smallest of them."
        )
        return found
    _maximise(found, likelihood)
    _describe(found, likelihood)
    return found


def _maximise(found: Fit, likelihood: Likelihood) -> None:
    """Fill in the estimates, the intervals and the region."""
    most = float(likelihood.b[likelihood.reached].min())
    best, top = _best(likelihood, most)
    log_n, b0, log_sigma = best
    spare = max(likelihood.count - 3, 1)
    # The exact cut for normal regression whose variance is estimated too; tends to χ²/2 for many runs.
    quantile = student.ppf(0.975, spare)
    cut = 0.5 * likelihood.count * math.log1p(quantile**2 / spare)

    def lacking(value: float) -> float:
        return top - cut - _best_given(likelihood, value)[1]

    low_end, high_end = most * 1e-6, most * (1 - 1e-9)
    low = brentq(lacking, low_end, b0, xtol=1e-4 * b0) if lacking(low_end) > 0 and b0 > low_end else None
    high = brentq(lacking, b0, high_end, xtol=1e-4 * b0) if lacking(high_end) > 0 else high_end
    found.n_inf, found.b0, found.sigma = math.exp(log_n), b0, math.exp(log_sigma)
    found.b_star_ci = (None if low is None else 2 * low, 2 * high)
    reach = 1.6 * quantile / math.sqrt(likelihood.count)
    found.region = _region(likelihood, best, (low or low_end, high), top - cut, reach)
    found.n_inf_ci = (float(found.region[:, 0].min()), float(found.region[:, 0].max()))


def _best(likelihood: Likelihood, most: float) -> tuple[Array, float]:
    """The maximum over (ln N∞, b0, ln σ), b0 in (0, most), from several starts."""
    best, top = np.zeros(3), -math.inf
    for share in _STARTS:
        b0 = share * most

        def loss(p: Array) -> float:
            inside = most / (1 + math.exp(-float(np.clip(p[1], -30, 30))))
            return _loss(likelihood, p[0], inside, p[2])

        start = np.array([*_start(likelihood, b0), 0.0])[[0, 2, 1]]
        start[1] = math.log(share / (1 - share))
        options = {"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000, "maxfev": 4000}
        end = minimize(loss, start, method="Nelder-Mead", options=options)
        if -end.fun > top:
            top = -end.fun
            best = np.array([end.x[0], most / (1 + math.exp(-float(np.clip(end.x[1], -30, 30)))), end.x[2]])
    best[2] = np.clip(best[2], *_SIGMA)
    return best, top


def _loss(likelihood: Likelihood, log_n: float, b0: float, log_sigma: float) -> float:
    value = float(likelihood(np.array(log_n), np.array(b0), np.array(np.clip(log_sigma, *_SIGMA))))
    return -value if math.isfinite(value) else 1e12


def _start(likelihood: Likelihood, b0: float) -> tuple[float, float]:
    """ln N∞ and ln σ of the reached runs at this b0, taking each bracket's upper end as exact."""
    reached = likelihood.reached
    residual = likelihood._upper[reached] - np.log(hyperbola(likelihood.b[reached], 1.0, b0))
    return float(residual.mean()), math.log(max(float(residual.std()), 0.02))


def _best_given(likelihood: Likelihood, b0: float) -> tuple[Array, float]:
    """The maximum over (ln N∞, ln σ) at one b0."""
    options = {"xatol": 1e-4, "fatol": 1e-6, "maxiter": 500}
    end = minimize(
        lambda p: _loss(likelihood, p[0], b0, p[1]),
        np.array(_start(likelihood, b0)),
        method="Nelder-Mead",
        options=options,
    )
    return np.array([end.x[0], b0, np.clip(end.x[1], *_SIGMA)]), -end.fun


def _region(likelihood: Likelihood, best: Array, b0_ends: tuple[float, float], floor: float, reach: float) -> Array:
    """Parameters whose likelihood reaches `floor`: N∞ at its ends for each b0 between the interval's ends.

    reach: how far to look for those ends around each b0's best ln N∞, in units of σ.
    """
    rows = []
    for b0 in np.concatenate([np.linspace(*b0_ends, 20), [best[1]]]):
        centre, top = _best_given(likelihood, float(b0))
        sigmas = centre[2] + np.linspace(-0.2, 0.6, 7)
        shifts = np.linspace(-1.0, 1.0, 81) * max(reach * math.exp(centre[2]), 0.01)
        values = likelihood(centre[0] + shifts[:, None], np.full((1, 1), b0), sigmas[None, :])
        inside = values.max(1) >= min(floor, top)
        for shift in (shifts[inside].min(initial=0.0), shifts[inside].max(initial=0.0)):
            rows.append((math.exp(centre[0] + shift), b0, math.exp(centre[2])))
    return np.array(rows)


def _describe(found: Fit, likelihood: Likelihood) -> None:
    """Say where the answer rests on the sweep's edges instead of on its trials."""
    sizes = found.curve.batch_sizes
    if likelihood.reached.all():
        found.notes.append(
            f"Every run reached its target, so this form can only answer b* < {2 * sizes[0]} "
            f"(twice the smallest batch size): sweep downwards until a trial is censored."
        )
    else:
        least = int(likelihood.b[likelihood.reached].min())
        here = found.curve.frame["batch_size"] == least
        arrived = int((found.curve.frame["outcome"] == "reached")[here].sum())
        if found.b_star_ci[1] is not None and found.b_star_ci[1] > 1.8 * least:
            found.notes.append(
                f"{arrived} of {int(here.sum())} runs reached the target at b = {least}, "
                f"which holds b* below {2 * least} in this form."
            )
    low, high = (end if end is not None else found.b_star for end in found.b_star_ci)
    if found.measured_b_star is not None and low and high and not low / 2 <= found.measured_b_star <= high * 2:
        found.notes.append(
            f"The measured b* of {found.measured_b_star} is more than an octave outside the fitted interval: "
            "the curve doesn't follow this form, or the seeds are too few for the measured one."
        )
    if found.measured_b_star == sizes[0]:
        found.notes.append(f"The least N·b is at the smallest batch size swept, {sizes[0]}: b* may lie below it.")
    if found.measured_b_star == sizes[-1]:
        found.notes.append(f"The least N·b is at the largest batch size swept, {sizes[-1]}: b* may lie above it.")
    if found.b_star_ci[0] is None and found.b_star_ci[1] is not None:
        found.notes.append(f"b0 can't be told from 0: only b* ≤ {found.b_star_ci[1]:.3g} is known.")
    if found.curve.frame.groupby("batch_size")["seed"].nunique().max() < 2:
        found.notes.append(
            "One seed per batch size: the spread between seeds is inferred from the curve's shape alone."
        )
