"""All that is computed for one curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from joblib import Parallel, delayed

from analysis.curves.curve import Curve, Measured
from analysis.fitting.cheapest import AS_GOOD, Cheapest, cheapest
from analysis.fitting.costs import Costs, costs
from analysis.fitting.forms import Forms, fit_forms
from analysis.fitting.goodness import Goodness, goodness
from analysis.fitting.hyperbola import Hyperbola, fit_hyperbola
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import HYPERBOLA, POWER_LAW, TWO_TERM, Array
from analysis.fitting.posterior import Posterior, posterior, runs_of
from analysis.fitting.profile import Interval

# From so many curves on, starting processes takes less time than the processes save.
MANY = 8
_LEVELS = (0.025, 0.5, 0.975)


@dataclass
class Fit:
    """A curve and all that is computed for it: each part when it is first asked for, and once.

    b_star, everywhere: the batch size at which the median run reaches the target for the fewest gradients, the
    minimiser of N(b)·b between the smallest and the largest batch size with a run; no formula stands in it. margin: how
    much more than the least a batch size may cost to be as good, relatively. growing_spread: let the spread between
    seeds of the paper's form grow towards b0.
    """

    curve: Curve
    margin: float = AS_GOOD
    growing_spread: bool = False

    @cached_property
    def posterior(self) -> Posterior | None:
        """Draws of ln N(b); None where no run arrived."""
        arrived = (self.curve.frame["outcome"] == "reached").any()
        return posterior(runs_of(self.curve.frame)) if arrived else None

    @cached_property
    def cheapest(self) -> Cheapest | None:
        """The batch size of the fewest gradients; None where no run arrived."""
        return None if self.posterior is None else cheapest(self.posterior, margin=self.margin)

    @cached_property
    def levels(self) -> tuple[Array, Array] | None:
        """Batch sizes (G,), and N(b) there: 2.5 %, 50 % and 97.5 % of the posterior (3, G) (steps)."""
        if self.posterior is None:
            return None
        return np.exp(self.posterior.x), np.exp(self.posterior.quantiles(_LEVELS))

    @cached_property
    def costs(self) -> Costs | None:
        """What the target costs in time, device hours and energy; None where no run says what steps took."""
        return costs(self.curve, self.posterior, self.margin)

    @cached_property
    def hyperbola(self) -> Hyperbola:
        """The paper's form."""
        return fit_hyperbola(self.curve, self.growing_spread)

    @cached_property
    def goodness(self) -> Goodness:
        """Whether the paper's form holds."""
        return goodness(Observations.of(self.curve.frame), HYPERBOLA)

    @cached_property
    def tests(self) -> dict[str, Goodness]:
        """The same test of each form that has a formula, by name."""
        seen = Observations.of(self.curve.frame)
        rivals = {model.name: goodness(seen, model) for model in (TWO_TERM, POWER_LAW)}
        return {HYPERBOLA.name: self.goodness, **rivals}

    @cached_property
    def forms(self) -> Forms:
        """The paper's form beside its rivals."""
        return fit_forms(self.curve)

    @cached_property
    def variants(self) -> dict[str, Fit]:
        """The same runs under other definitions of arriving, by name; empty where there are no trajectories to read."""
        return {name: Fit(curve, self.margin, self.growing_spread) for name, curve in self.curve.variants().items()}

    @property
    def b_star(self) -> float | None:
        """The minimiser of N(b)·b; None where no run arrived."""
        return None if self.cheapest is None else self.cheapest.b_star

    @property
    def b_star_ci(self) -> Interval:
        """The 95 % set of b*, with None at an end that is an edge of the sweep."""
        return (None, None) if self.cheapest is None else self.cheapest.interval

    @property
    def sfo(self) -> float | None:
        """Gradients that the median run takes to the target at the best batch size."""
        return None if self.cheapest is None else self.curve.gradients * self.cheapest.least

    @property
    def sfo_ci(self) -> Interval:
        if self.cheapest is None:
            return None, None
        low, high = self.cheapest.least_ci
        return self.curve.gradients * low, self.curve.gradients * high

    def predict(self, b: Array) -> Array:
        """N(b) (steps), the posterior's median, of b's shape, in the sweep. Raises ValueError where nothing arrived."""
        return self.band(b)[1]

    def band(self, b: Array) -> tuple[Array, Array, Array]:
        """N(b) (steps) at 2.5 %, 50 % and 97.5 % of the posterior, each of b's shape.

        Raises ValueError where nothing arrived.
        """
        if self.levels is None:
            raise ValueError(f"{self.curve.label}: no run arrived, so there is nothing to predict from.")
        sizes, steps = self.levels
        low, centre, high = (np.exp(np.interp(np.log(b), np.log(sizes), np.log(each))) for each in steps)
        return low, centre, high

    @cached_property
    def measured(self) -> Measured:
        """The swept batch size with the least median N·b, as the paper reads it off."""
        return self.curve.measured()

    @property
    def measured_b_star(self) -> int | None:
        return self.measured.b_star

    @property
    def censored(self) -> int:
        return self.curve.censored

    @property
    def diverged(self) -> int:
        return self.curve.diverged


def fit(curve: Curve, margin: float = AS_GOOD, growing_spread: bool = False) -> Fit:
    """A curve's fit, whose parts are computed when they are asked for: see Fit."""
    return Fit(curve, margin, growing_spread)


def fit_all(curves: Sequence[Curve], margin: float = AS_GOOD, growing_spread: bool = False) -> list[Fit]:
    """Fit many curves, on every core where there are enough to be worth starting processes for."""
    workers = -1 if len(curves) >= MANY else 1
    fits = [Fit(curve, margin, growing_spread) for curve in curves]
    if workers == 1:
        return fits
    told = Parallel(n_jobs=workers, batch_size=max(1, min(16, math.ceil(len(fits) / 8))))(
        delayed(_told)(replace(one, curve=replace(one.curve, variants=dict))) for one in fits
    )
    for one, found in zip(fits, told, strict=True):
        vars(one).update(found)
    return fits


# What a headline needs; the posterior's draws are made anew where a figure wants them.
_HEADLINE = ("cheapest", "levels", "costs", "hyperbola", "goodness")


def _told(one: Fit) -> dict[str, object]:
    """The parts of a fit that take time, computed in a worker process."""
    return {name: getattr(one, name) for name in _HEADLINE}
