"""Which form of N(b) the data prefer, and what b* each implies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.curves.curve import Curve
from analysis.fitting import profile as profiling
from analysis.fitting.likelihood import Observations, Problem, best, maximise
from analysis.fitting.models import (
    HYPERBOLA,
    POWER_LAW,
    TWO_TERM,
    Array,
    Model,
    b0_of,
    critical_batch_size,
    power_law_b_star,
)
from analysis.fitting.monotone import Monotone, monotone
from analysis.fitting.profile import Interval

# Akaike weights of e^-1: a form this close to the best can't be told from it (Burnham & Anderson, 2002).
TELLING = 2.0
FORMULAE = {model.name: model for model in (HYPERBOLA, TWO_TERM, POWER_LAW)}


@dataclass(frozen=True)
class Form:
    """One form of N(b), fitted.

    aicc: Akaike's criterion corrected for few runs (∞ where there are too few). left_out: rms error of
    ln N at inner batch sizes left out of the fit, None below five that reached. b_star: the minimiser of
    N·b it implies, None where it has none inside. values: its parameters; intervals of those told, 95 %.
    levels: (b, ln N) of the curve that has no formula.
    """

    name: str
    title: str
    parameters: int
    log_likelihood: float
    aicc: float
    left_out: float | None
    b_star: float | None
    values: dict[str, float]
    intervals: dict[str, Interval]
    levels: list[tuple[float, float]] | None = None

    def predict(self, b: Array) -> Array:
        """N(b) (steps); without a formula, lines in ln b: ∞ below the least b that arrived, NaN beyond the largest."""
        if self.levels is None:
            model = FORMULAE[self.name]
            return model.formula(b, self.values["n_inf"], *(self.values[name] for name in model.names))
        sizes, log_n = np.array(self.levels).T
        known = np.isfinite(log_n)
        return np.exp(np.interp(np.log(b), np.log(sizes[known]), log_n[known], left=np.inf, right=np.nan))


@dataclass(frozen=True)
class Forms:
    """The four forms of one curve. ranked: the preferred first; empty where the curve can't be fitted."""

    ranked: list[Form]

    @property
    def preferred(self) -> Form | None:
        return self.ranked[0] if self.ranked and math.isfinite(self.ranked[0].aicc) else None

    def form(self, name: str) -> Form | None:
        return next((form for form in self.ranked if form.name == name), None)

    def behind(self, name: str) -> float:
        """How far a form's AICc lies above the preferred one's; ∞ where it isn't known."""
        form = self.form(name)
        if form is None or self.preferred is None or not math.isfinite(form.aicc):
            return math.inf
        return form.aicc - self.preferred.aicc

    def close(self) -> list[Form]:
        """The forms that the data can't tell from the preferred one, itself included."""
        return [form for form in self.ranked if self.behind(form.name) < TELLING]

    def to_dict(self) -> list[dict[str, Any]]:
        return [
            {**vars(f), "intervals": {k: list(v) for k, v in f.intervals.items()}, "behind": self.behind(f.name)}
            for f in self.ranked
        ]


def fit_forms(curve: Curve) -> Forms:
    """Fit the hyperbola, S_min(1 + B_crit/b), the power law and a monotone curve to one curve's runs."""
    seen = Observations.of(curve.frame)
    sizes = np.unique(seen.b[seen.reached])
    if len(sizes) < 3 or seen.reached.sum() < 4:
        return Forms([])
    inner = sizes[1:-1] if len(sizes) >= 5 else sizes[:0]
    forms = [_parametric(seen, model, inner) for model in FORMULAE.values()]
    forms.append(_formless(seen, inner))
    return Forms(sorted(forms, key=lambda form: (form.aicc, form.parameters)))


def _aicc(value: float, parameters: int, runs: int) -> float:
    if runs - parameters - 1 <= 0:
        return math.inf
    return 2 * parameters - 2 * value + 2 * parameters * (parameters + 1) / (runs - parameters - 1)


def _parametric(seen: Observations, model: Model, inner: Array) -> Form:
    reached = seen.b[seen.reached]
    pivot = np.array([reached.min()])
    if model is HYPERBOLA:  # as a form of N(b) it falls: b0 ≥ 0
        model = replace(model, limits=((0.0, model.limits[0][1]),))
    problem = Problem(seen, model, np.ones((1, len(seen.b))), pivot)
    theta, top = best(problem)
    values, intervals, b_star = _told(problem, theta, top)
    return Form(
        model.name,
        model.title,
        problem.parameters,
        top,
        _aicc(top, problem.parameters, int(seen.reached.sum())),
        _left_out(problem, theta, inner),
        b_star,
        {"n_inf": math.exp(theta[0, 0]), **values, "sigma": math.exp(theta[0, -1])},
        intervals,
    )


def _told(problem: Problem, theta: Array, top: float) -> tuple[dict[str, float], dict[str, Interval], float | None]:
    """The shape in the field's terms, the interval that matters, and b*."""
    name = problem.model.name
    if name == "hyperbola":
        b0 = float(b0_of(theta[0, 1], problem.pivot[0]))
        return {"b0": b0}, {}, float(critical_batch_size(b0)) if b0 > 0 else None
    b_c = math.exp(theta[0, 1])
    if name == "two_term":
        return {"B_crit": b_c}, {"B_crit": _interval(problem, theta, top, 1)}, None
    p = math.exp(theta[0, 2])
    return {"b_c": b_c, "p": p}, {"p": _interval(problem, theta, top, 2)}, power_law_b_star(b_c, p)


def _interval(problem: Problem, theta: Array, top: float, index: int) -> Interval:
    """The 95 % profile interval of exp(parameter)."""
    limits = problem.model.limits[index - 1]
    error = profiling.standard_error(problem, theta, index)
    centre = float(theta[0, index])
    scale = profiling.Scale(top, float(problem.seen.reached.sum()), problem.parameters - 1)
    along = profiling.profile(problem, index, profiling.grid(centre, error, *limits), theta)
    low, high = profiling.confidence(problem, along, centre, scale)[0].interval()
    return None if low is None else math.exp(low), None if high is None else math.exp(high)


def _left_out(problem: Problem, theta: Array, inner: Array) -> float | None:
    if not len(inner):
        return None
    seen = problem.seen
    weights = (seen.b[None, :] != inner[:, None]).astype(float)
    without = replace(problem, weights=weights, pivot=np.repeat(problem.pivot, len(inner)))
    refitted, _ = maximise(without, np.repeat(theta, len(inner), 0))
    g, _ = problem.model.shape(inner, refitted[:, 1:-1], without.pivot)
    predicted = refitted[:, 0] + np.diagonal(g)
    return _rms(seen, inner, predicted)


def _formless(seen: Observations, inner: Array) -> Form:
    found = monotone(seen)
    parameters = found.levels + 1
    left_out = _rms(seen, inner, np.array([_without(seen, b).predict(b) for b in inner])) if len(inner) else None
    aicc = _aicc(found.log_likelihood, parameters, int(seen.reached.sum()))
    values = {"n_inf": math.exp(found.log_n[-1]), "sigma": found.sigma}
    b_star = found.b_star if len(inner) or found.levels > 1 else None
    return Form(
        "monotone",
        "monotone, no formula",
        parameters,
        found.log_likelihood,
        aicc,
        left_out,
        b_star,
        values,
        {},
        list(zip(found.sizes.tolist(), found.log_n.tolist(), strict=True)),
    )


def _without(seen: Observations, b: float) -> Monotone:
    kept = seen.b != b
    return monotone(Observations(seen.b[kept], seen.low[kept], seen.high[kept]))


def _rms(seen: Observations, sizes: Array, predicted: Array) -> float:
    """Root mean square of (mean ln N of the runs that reached − predicted), over batch sizes."""
    where, middle = seen.b[seen.reached], seen.middle()
    observed = np.array([middle[where == b].mean() for b in sizes])
    return float(np.sqrt(np.mean((observed - predicted) ** 2)))
