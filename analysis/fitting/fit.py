"""All that is computed for one curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from joblib import Parallel, delayed

from analysis.curves.curve import Curve
from analysis.fitting.bootstrap import Bootstrap, bootstrap
from analysis.fitting.costs import Costs, costs
from analysis.fitting.forms import Forms, fit_forms
from analysis.fitting.hyperbola import Hyperbola, fit_hyperbola
from analysis.fitting.models import Array
from analysis.fitting.profile import Confidence, Interval

# From so many curves on, starting processes takes less time than the processes save.
MANY = 64


@dataclass
class Fit:
    """A curve and all that is computed for it: each part when it is first asked for, and once.

    growing_spread: let the spread between seeds grow towards b0.
    """

    curve: Curve
    growing_spread: bool = False

    @cached_property
    def hyperbola(self) -> Hyperbola:
        """The paper's form."""
        return fit_hyperbola(self.curve, self.growing_spread)

    @cached_property
    def forms(self) -> Forms:
        """The paper's form beside its rivals."""
        return fit_forms(self.curve)

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """2,000 resamples of the seeds; None where there is no estimate to resample."""
        return bootstrap(self.hyperbola)

    @cached_property
    def costs(self) -> Costs | None:
        """What the target costs in time, device hours and energy; None where no run says what steps took."""
        return costs(self.hyperbola)

    @property
    def b_star(self) -> float | None:
        """The minimiser of N(b)·b; None where the runs don't tell it."""
        return self.hyperbola.b_star

    @property
    def b_star_ci(self) -> Interval:
        """The 95 % interval of b*, with None at an end that the runs leave open."""
        return self.hyperbola.b_star_ci

    @property
    def confidence(self) -> Confidence | None:
        """The confidence curve behind the interval of b*, where b* > 0."""
        return self.hyperbola.confidence

    @property
    def n_inf(self) -> float | None:
        """Steps to the target at infinite batch size."""
        return self.hyperbola.n_inf

    @property
    def n_inf_ci(self) -> Interval:
        return self.hyperbola.n_inf_ci

    @property
    def sfo(self) -> float | None:
        """Gradients that the target costs at b*."""
        return self.hyperbola.sfo

    @property
    def sfo_ci(self) -> Interval:
        return self.hyperbola.sfo_ci

    def predict(self, b: Array) -> Array:
        """N(b) (steps), shape of b. Raises ValueError where there is no estimate."""
        return self.hyperbola.predict(b)

    def band(self, b: Array) -> tuple[Array, Array]:
        """The pointwise 95 % band of N(b). Raises ValueError where there is no estimate."""
        return self.hyperbola.band(b)

    @property
    def measured_b_star(self) -> int | None:
        """The swept batch size with the least median N·b."""
        return self.curve.measured_b_star()

    @property
    def censored(self) -> int:
        return self.curve.censored

    @property
    def diverged(self) -> int:
        return self.curve.diverged


def fit(curve: Curve, growing_spread: bool = False) -> Fit:
    """A curve's fit, whose parts are computed when they are asked for.

    growing_spread: let the spread between seeds grow towards b0, by one parameter κ more:
    σ_b = σ √(1 + (κ (N(b)/N∞ − 1))²).
    """
    return Fit(curve, growing_spread)


def fit_all(curves: Sequence[Curve], growing_spread: bool = False) -> list[Fit]:
    """Fit the paper's form to many curves, on every core where there are enough to be worth starting processes for."""
    workers = -1 if len(curves) >= MANY else 1
    return list(Parallel(n_jobs=workers)(delayed(_fitted)(curve, growing_spread) for curve in curves))


def _fitted(curve: Curve, growing_spread: bool) -> Fit:
    """A fit whose hyperbola is computed already: a worker process is where that shall happen."""
    found = fit(curve, growing_spread)
    _ = found.hyperbola
    return found
