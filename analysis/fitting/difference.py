"""How far two curves' b* lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fitting.cheapest import Cheapest, weighted_quantile
from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.fitting.profile import Interval

# Draws of each curve's b*; every one of one curve is set against every one of the other.
DRAWS = 400


@dataclass(frozen=True)
class Difference:
    """log2 of one curve's b* over another's: octaves, its 95 % interval with None at an open end.

    decided: true where the interval leaves out 0: the two differ.
    """

    one: str
    other: str
    octaves: float
    interval: Interval

    @property
    def decided(self) -> bool:
        low, high = self.interval
        return (low is not None and low > 0) or (high is not None and high < 0)


def difference(one: Fit, other: Fit) -> Difference | None:
    """The ratio of two b*, whose posteriors are independent; None where either has no estimate.

    An end is open where it rests on a batch size at an edge of either sweep.
    """
    here, there = one.cheapest, other.cheapest
    if here is None or there is None:
        return None
    apart = (_draws(here)[:, None] - _draws(there)[None]).ravel() / math.log(2)
    low, high = np.quantile(apart, (0.025, 0.975))
    centre = math.log2(here.b_star / there.b_star)
    ends = (
        None if here.open_low or there.open_high else min(float(low), centre),
        None if here.open_high or there.open_low else max(float(high), centre),
    )
    return Difference(one.curve.name, other.curve.name, centre, ends)


def _draws(found: Cheapest) -> Array:
    """Evenly spaced quantiles of ln b*."""
    return weighted_quantile(found.log_b, found.weight, tuple((np.arange(DRAWS) + 0.5) / DRAWS))
