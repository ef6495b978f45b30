"""The bootstrap over seeds: resampled runs, refitted all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from analysis.curves.curve import Curve, median
from analysis.fitting.hyperbola import Hyperbola
from analysis.fitting.likelihood import Observations, Problem, grown, maximise
from analysis.fitting.models import HYPERBOLA_FROM_SFO, Array, b0_of, critical_batch_size, hyperbola, least_sfo, v_of
from analysis.fitting.profile import LIMIT, Interval, calibrated

RESAMPLES = 2000
# Runs per batch size from which drawing them again shows their spread.
ENOUGH = 4


@dataclass(frozen=True)
class Bootstrap:
    """Refits of a curve's resampled runs.

    kind: "seeds" where runs were drawn again within each batch size, "parametric" where they were simulated
    from the fit. draws: b_star, n_inf and sfo (R,) refitted, b_star and sfo 0 where a resample has no minimum.
    intervals: theirs, 95 %. sizes: the swept batch sizes (k,). fitted, measured: (k,), how often each was
    the minimiser of N·b by the refitted form, and by the medians of its runs.
    """

    kind: str
    draws: dict[str, Array]
    intervals: dict[str, Interval]
    sizes: Array
    fitted: Array
    measured: Array


def bootstrap(fitted: Hyperbola, resamples: int = RESAMPLES, random: int = 0) -> Bootstrap | None:
    """Resample a fitted curve; None where there is no estimate.

    With four runs or more at every batch size that reached its target, runs are drawn within each batch
    size, m − 1 of m with weight m/(m − 1), so that the variance is not too small by that factor (Rao & Wu,
    1988); intervals are percentiles, widened as Student's t for the seeds that inform b0. With fewer, every
    run is simulated from the fit; intervals are the profile's, widened where the resamples' own profiles
    put the estimate that they were simulated from further off, in z, than Student's t allows for
    (prepivoting, Beran 1988).
    """
    if fitted.problem is None or fitted.theta is None or fitted.n_inf is None or fitted.b0 is None:
        return None
    rng = np.random.default_rng(random)
    seen = fitted.problem.seen
    drawn = min((seen.b == b).sum() for b in np.unique(seen.b[seen.reached])) >= ENOUGH
    problem = _drawn(fitted.problem, resamples, rng) if drawn else _simulated(fitted, resamples, rng)
    theta, top = maximise(problem, np.repeat(fitted.theta, resamples, 0), tolerance=1e-6)
    b0, n_inf = np.maximum(b0_of(theta[:, 1], problem.pivot), 0.0), np.exp(theta[:, 0])
    draws = {"b_star": critical_batch_size(b0), "n_inf": n_inf, "sfo": fitted.curve.gradients * least_sfo(n_inf, b0)}
    if drawn:
        stretch = _stretch(fitted.problem, fitted.theta)
        intervals = {name: _percentiles(values, getattr(fitted, name), stretch) for name, values in draws.items()}
    else:
        limits = {name: np.quantile(z, [0.025, 0.975]) for name, z in _distances(fitted, problem, theta, top).items()}
        intervals = {
            name: fitted.interval(name, min(low, -LIMIT), max(high, LIMIT)) for name, (low, high) in limits.items()
        }
    sizes = np.array(fitted.curve.batch_sizes, float)
    steps = _redrawn(fitted.curve, resamples, rng)
    if steps is None:  # some batch size has one run: nothing to draw from
        simulated = _simulated(fitted, resamples, rng) if drawn else problem
        steps = [np.exp(simulated.seen.high[:, seen.b == b]) for b in sizes]
    medians = np.stack([median(values) for values in steps], 1)
    return Bootstrap(
        "seeds" if drawn else "parametric",
        draws,
        intervals,
        sizes,
        _shares(hyperbola(sizes, 1.0, b0[:, None]) * sizes),
        _shares(medians * sizes),
    )


def _percentiles(draws: Array, centre: float, stretch: float) -> Interval:
    """The middle 95 % of draws, stretched around the estimate in the logarithm; None where draws have no minimum."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return (centre * (low / centre) ** stretch if low > 0 else None), float(centre * (high / centre) ** stretch)


def _stretch(problem: Problem, theta: Array) -> float:
    """t/z for the seeds that inform b0: Satterthwaite's degrees of freedom over the batch sizes that do."""
    found, by_eta, _ = problem.runs(theta)
    bend, slope = -found.eta_eta[0], by_eta[0, :, 1]
    centred = slope - np.average(slope, weights=bend)
    sizes, which, runs = np.unique(problem.seen.b, return_inverse=True, return_counts=True)
    information = np.bincount(which, bend * centred**2, len(sizes)) / (bend * centred**2).sum()
    spare = 1 / (information**2 / np.maximum(runs - 1, 1)).sum()
    return float(stdtrit(spare, 0.975) / LIMIT)


def _distances(fitted: Hyperbola, problem: Problem, theta: Array, top: Array) -> dict[str, Array]:
    """z of the original estimate in each resample's own profile, by name."""
    assert fitted.b0 is not None
    assert fitted.n_inf is not None
    counts = np.where(np.isfinite(problem.seen.high), problem.weights, 0.0).sum(-1)

    def distance(of: Problem, start: Array, index: int, at: Array) -> Array:
        held = start.copy()
        held[:, index] = at
        less = maximise(of, held, fixed=(index,), tolerance=1e-6)[1]
        return np.sign(at - start[:, index]) * calibrated(2 * (top - less), counts, 2)

    size = len(theta)
    found = {
        "b_star": distance(problem, theta, 1, v_of(fitted.b0, problem.pivot)),
        "n_inf": distance(problem, theta, 0, np.full(size, math.log(fitted.n_inf))),
    }
    from_sfo = replace(problem, model=HYPERBOLA_FROM_SFO)
    start = theta.copy()
    start[:, 1] = np.maximum(theta[:, 1], 1e-3)
    at = np.full(size, np.log(least_sfo(fitted.n_inf, fitted.b0)))
    z = distance(from_sfo, from_sfo.located(start), 0, at)
    return found | {"sfo": np.where(theta[:, 1] > 1e-3, z, np.abs(z))}


def _shares(cost: Array) -> Array:
    """How often each column of (R, k) holds the least cost; rows without a finite one don't count."""
    known = cost[np.isfinite(cost).any(1)]
    return np.bincount(known.argmin(1), minlength=cost.shape[1]) / max(len(known), 1)


def _drawn(problem: Problem, resamples: int, rng: np.random.Generator) -> Problem:
    """Weights of runs drawn within each batch size."""
    seen = problem.seen
    weights = np.ones((resamples, len(seen.b)))
    for b in np.unique(seen.b):
        (here,) = np.nonzero(seen.b == b)
        m = len(here)
        if m > 1:
            weights[:, here] = rng.multinomial(m - 1, np.full(m, 1 / m), size=resamples) * (m / (m - 1))
    arrived = np.where((weights > 0) & seen.reached, seen.b, np.inf)
    return replace(problem, weights=weights, pivot=arrived.min(1))


def _redrawn(curve: Curve, resamples: int, rng: np.random.Generator) -> list[Array] | None:
    """Steps-to-target per batch size of as many runs drawn again, a miss infinite; None where one has one run."""
    steps = curve.frame["steps"].where(curve.frame["outcome"] == "reached", np.inf)
    found = []
    for _, values in steps.groupby(curve.frame["batch_size"]):
        known = values.to_numpy(float)
        if len(known) < 2:
            return None
        found.append(known[rng.integers(len(known), size=(resamples, len(known)))])
    return found


def _simulated(fitted: Hyperbola, resamples: int, rng: np.random.Generator) -> Problem:
    """Runs drawn from the fit and seen as the real ones were: the same brackets, the same budget."""
    assert fitted.problem is not None
    assert fitted.n_inf is not None
    assert fitted.sigma is not None
    seen = fitted.problem.seen
    count = float(seen.reached.sum())
    sigma: float | Array = fitted.sigma * math.sqrt(count / max(count - 2, 1))
    with np.errstate(divide="ignore"):
        centre = np.log(hyperbola(seen.b, fitted.n_inf, fitted.b0 or 0.0))
    if fitted.kappa is not None:
        sigma = grown(np.array(sigma), np.array(fitted.kappa), centre - math.log(fitted.n_inf))[0]
    y = centre + sigma * rng.normal(size=(resamples, len(seen.b)))
    low, high = _seen_as(seen, y)
    arrived = np.where(np.isfinite(high), seen.b, np.inf)
    pivot = arrived.min(1)
    kept = np.isfinite(high).sum(1) >= 3  # a sweep in which less arrived would not have been fitted
    taken = np.flatnonzero(kept)[rng.integers(max(kept.sum(), 1), size=resamples)] if not kept.all() else slice(None)
    return replace(
        fitted.problem, seen=Observations(seen.b, low[taken], high[taken]), weights=np.ones((1, 1)), pivot=pivot[taken]
    )


def _seen_as(seen: Observations, y: Array) -> tuple[Array, Array]:
    """The bracket in which each simulated ln N falls, on the grid that its run's own bracket belongs to."""
    width = seen.high - seen.low
    usual = np.isfinite(width)
    typical = float(np.median(width[usual])) if usual.any() else 0.0
    width = np.where(usual, width, typical)
    phase = np.where(seen.reached, seen.high, seen.low)
    safe = np.where(width > 0, width, 1.0)
    high = np.where(width > 0, phase + safe * np.ceil((y - phase) / safe), y)
    low = high - width
    first = seen.reached & np.isinf(seen.low)  # the first evaluation was below already
    before = first & (y <= seen.high)
    high, low = np.where(before, seen.high, high), np.where(before, -np.inf, low)
    budget = np.full(len(seen.b), float(seen.low[~seen.reached].max()) if (~seen.reached).any() else np.inf)
    for b in np.unique(seen.b[~seen.reached]):
        budget[seen.b == b] = seen.low[~seen.reached & (seen.b == b)].max()
    late = y > budget
    return np.where(late, budget, low), np.where(late, np.inf, high)
