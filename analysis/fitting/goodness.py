"""Does a form of N(b) hold? A likelihood-ratio test against the form bent smoothly, p simulated from the form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.likelihood import Observations, Problem, best, maximise
from analysis.fitting.models import Array, Mask, Model
from cbs.errors import counted

# Below this p a form is rejected.
REJECTED = 0.01
# How a form may be bent: polynomials in ln b up to this degree.
DEGREE = 3
# Simulated sweeps, and how many where the first lie close to the data.
FEW, MANY = 199, 999


@dataclass(frozen=True)
class Goodness:
    """A test of fit.

    p: how often sweeps simulated from the fitted form gain as much from being bent as the runs do; None where it
    can't be told, and `why` says why, in one clause. gain: 2 ln of the likelihood ratio. bends: how many terms.
    """

    p: float | None
    why: str = ""
    gain: float = math.nan
    bends: int = 0

    @property
    def rejected(self) -> bool:
        return self.p is not None and self.p < REJECTED


def goodness(seen: Observations, model: Model, random: int = 0) -> Goodness:
    """Test one form on a curve's runs.

    Runs with two ends at fewer than two seeds a size can't tell a spread from a misfit; nor can as few sizes as the
    form has parameters. How the spread changes with b is taken from the runs of each size, so that no misfit enters it.
    """
    reached = seen.reached
    sizes, runs = np.unique(seen.b[reached], return_counts=True)
    bends = min(DEGREE, len(sizes) - 1 - len(model.names))
    if bends < 1:
        return Goodness(None, f"the target was reached at {counted(len(sizes), 'batch size')} only")
    if np.median(runs) < 2:
        return Goodness(None, "one seed a batch size can't tell the spread between seeds from a misfit")
    straight = Problem(seen, model, np.ones((1, len(seen.b))), sizes[:1], scale=_spread_by_size(seen))
    bent = replace(straight, model=_bent(model, sizes, bends))
    theta, _ = best(straight)
    _, gain = _gain(straight, bent, theta, bends)
    rng = np.random.default_rng(random)
    for count in (FEW, MANY):
        again = simulated(straight, theta, count, rng)
        start = np.repeat(theta, len(again.pivot), 0)
        kept, more = _gain(again, replace(again, model=bent.model), start, bends)
        beyond = int((more[kept] >= gain[0]).sum())
        p = (beyond + 1) / (int(kept.sum()) + 1)
        if beyond == 0 or p > 5 * REJECTED:
            break
    return Goodness(p, "", float(gain[0]), bends)


def _gain(straight: Problem, bent: Problem, theta: Array, bends: int) -> tuple[Mask, Array]:
    """Which problems could be fitted, and what bending adds to twice their ln likelihood."""
    fitted, before = maximise(straight, theta, tolerance=1e-5)
    shape = 1 + len(straight.model.names)
    start = np.concatenate([fitted[:, :shape], np.zeros((len(fitted), bends)), fitted[:, shape:]], 1)
    _, after = maximise(bent, start, tolerance=1e-5)
    known = np.isfinite(before) & np.isfinite(after)
    gain = np.where(known, 2 * np.maximum(after - np.where(known, before, 0.0), 0.0), 0.0)
    return known, gain


def _bent(model: Model, sizes: Array, bends: int) -> Model:
    """The form plus polynomials in ln b of degree 1 to `bends`, of unit size over the batch sizes that arrived."""
    x = np.log(sizes)
    middle, half = 0.5 * (x[0] + x[-1]), 0.5 * (x[-1] - x[0])

    def terms(b: Array) -> Array:
        u = (np.log(b) - middle) / half
        return np.polynomial.legendre.legvander(np.clip(u, -2, 2), bends)[:, 1:]

    def shape(b: Array, parameters: Array, pivot: Array) -> tuple[Array, Array]:
        own = len(model.names)
        g, slope = model.shape(b, parameters[:, :own], pivot)
        extra = terms(b)
        return g + parameters[:, own:] @ extra.T, np.concatenate([slope, np.broadcast_to(extra, (*g.shape, bends))], -1)

    names = (*model.names, *(f"bend_{k}" for k in range(1, bends + 1)))
    return replace(model, names=names, shape=shape, limits=(*model.limits, *[(-10.0, 10.0)] * bends))


# How ln σ changes by an octave is normal around 0 with this spread, before the runs are seen.
_SLOPE = 0.12


def _spread_by_size(seen: Observations) -> Array:
    """How the spread at each run's batch size compares with that in the middle of the sweep: 2 to a line in octaves.

    By regression of the variances within batch sizes, whose logarithms are known to about 2/(runs − 1). A size whose
    runs lie as close as their brackets are wide doesn't tell.
    """
    octaves, logs, weights = [], [], []
    middle = seen.middle()
    arrived, widths = seen.b[seen.reached], (seen.high - seen.low)[seen.reached]
    for b in np.unique(arrived):
        here, inside = middle[arrived == b], widths[arrived == b]
        rounding = np.mean(inside[np.isfinite(inside)] ** 2) / 12 if np.isfinite(inside).any() else math.inf
        if len(here) > 1 and here.var() > rounding:
            octaves.append(math.log2(b))
            logs.append(0.5 * math.log(here.var(ddof=1)))
            weights.append(2.0 * (len(here) - 1))
    if len(octaves) < 3:
        return np.ones(len(seen.b))
    x, y, w = np.array(octaves), np.array(logs), np.array(weights)
    centre = np.average(x, weights=w)
    slope = (w * (x - centre) * y).sum() / ((w * (x - centre) ** 2).sum() + _SLOPE**-2)
    return 2.0 ** (slope / math.log(2) * (np.log2(seen.b) - centre))


def simulated(problem: Problem, theta: Array, count: int, rng: np.random.Generator) -> Problem:
    """Sweeps drawn from a fitted form (1, p) and seen as the real runs were: the same brackets, the same budgets."""
    seen, model = problem.seen, problem.model
    k = len(model.names)
    g, _ = model.shape(seen.b, theta[:, 1 : 1 + k], problem.pivot)
    used = 2.0 + (k - 1)
    informed = float(seen.reached.sum())
    sigma: Array | float = math.exp(theta[0, 1 + k]) * math.sqrt(informed / max(informed - used, 1))
    if problem.scale is not None:
        sigma = sigma * problem.scale
    y = theta[:, :1] + g + sigma * rng.standard_normal((count, len(seen.b)))
    low, high = _seen_as(seen, y)
    kept = np.isfinite(high).sum(1) >= 3  # a sweep in which less arrived would not have been fitted
    rows = np.flatnonzero(kept) if kept.any() else np.arange(count)
    low, high = low[rows], high[rows]
    pivot = np.where(np.isfinite(high), seen.b, np.inf).min(1)
    return replace(problem, seen=Observations(seen.b, low, high), weights=np.ones((1, 1)), pivot=pivot)


def _seen_as(seen: Observations, y: Array) -> tuple[Array, Array]:
    """The bracket in which each simulated ln N falls, between evaluations like those of the real runs.

    Evaluations lie a fixed number of steps apart, or a fixed ratio, whichever the runs' own brackets agree in.
    """
    apart = _steps_apart(seen)
    low, high = _between_multiples(y, apart) if apart is not None else _between_ratios(seen, y)
    budget = _budgets(seen)
    late = high > budget
    return np.where(late, budget, low), np.where(late, np.inf, high)


def _steps_apart(seen: Observations) -> float | None:
    """The distance of evaluations in steps, where it is the same for all runs rather than their ratio."""
    known = seen.reached & ~seen.exact
    if not known.any():
        return None
    steps = np.exp(seen.high[known]) - np.exp(seen.low[known])
    ratios = (seen.high - seen.low)[known & np.isfinite(seen.low)]
    if len(ratios) and np.ptp(np.log(ratios)) <= np.ptp(np.log(steps)):
        return None
    return float(np.median(steps))


def _between_multiples(y: Array, apart: float) -> tuple[Array, Array]:
    last = np.ceil(np.exp(np.minimum(y, 40.0)) / apart)
    with np.errstate(divide="ignore"):
        return np.log((last - 1) * apart), np.log(last * apart)


def _between_ratios(seen: Observations, y: Array) -> tuple[Array, Array]:
    """On the grid of ln N that each run's own bracket belongs to."""
    width = seen.high - seen.low
    usual = np.isfinite(width)
    width = np.where(usual, width, float(np.median(width[usual])) if usual.any() else 0.0)
    phase = np.where(seen.reached, seen.high, seen.low)
    safe = np.where(width > 0, width, 1.0)
    high = np.where(width > 0, phase + safe * np.ceil((y - phase) / safe), y)
    first = seen.reached & np.isinf(seen.low) & (y <= seen.high)  # the first evaluation was below already
    return np.where(first, -np.inf, high - width), np.where(first, seen.high, high)


def _budgets(seen: Observations) -> Array:
    """Where each run would have been stopped, ln steps: as runs of its batch size were, else as runs of others.

    Others tell by steps or by gradients, whichever they agree in; no run is stopped before one of its size arrived.
    """
    missed = ~seen.reached
    budget = np.full(len(seen.b), np.inf)
    if not missed.any():
        return budget
    sizes = np.unique(seen.b[missed])
    stops = np.array([seen.low[missed & (seen.b == b)].max() for b in sizes])
    gradients = stops + np.log(sizes)
    by_gradients = gradients.max() - np.log(seen.b)
    elsewhere = by_gradients if np.ptp(gradients) < np.ptp(stops) else np.full(len(seen.b), stops.max())
    if len(sizes) == 1:
        elsewhere = np.maximum(by_gradients, stops.max())
    for b in np.unique(seen.b):
        here = seen.b == b
        own = stops[sizes == b]
        arrived = seen.high[here & seen.reached]
        latest = max([*own, *arrived, -np.inf] if len(own) else [*arrived, elsewhere[here][0]])
        budget[here] = latest
    return budget
