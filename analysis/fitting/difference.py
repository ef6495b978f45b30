"""How far two curves' b* lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.fitting.profile import Confidence, Interval


@dataclass(frozen=True)
class Difference:
    """ln2 of one curve's b* over another's: octaves, its 95 % interval with None at an open end.

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
    """The ratio of two b* by the joint profile likelihood; None where either has no estimate.

    The deviance of a difference d is the least sum of both curves' squared z over pairs of ln b* that lie
    d apart: the runs of two curves are independent.
    """
    if one.b_star is None or other.b_star is None or one.confidence is None or other.confidence is None:
        return None
    centre = math.log(one.b_star / other.b_star)
    here, there = _sampled(one.confidence), _sampled(other.confidence)
    width = max(np.ptp(here[0]), np.ptp(there[0]))
    steps = np.concatenate([-np.geomspace(width, 1e-3, 200), [0.0], np.geomspace(1e-3, width, 200)])
    shifts = centre + steps
    # Either curve's own values serve as the inner grid: the least sum lies near one of the two estimates.
    least = np.minimum(_least(here, there, shifts), _least(there, here, -shifts))
    z = np.sign(steps) * np.sqrt(least)
    low, high = Confidence(shifts / math.log(2), z).interval()
    return Difference(one.curve.name, other.curve.name, centre / math.log(2), (low, high))


def _sampled(confidence: Confidence) -> tuple[Array, Array]:
    """ln b* and z, dense enough for sums of two."""
    x = np.log(confidence.values)
    z = np.clip(confidence.z, -8, 8)
    fine = np.unique(np.concatenate([x, np.interp(np.linspace(z[0], z[-1], 400), z, x)]))
    return fine, np.interp(fine, x, z)


def _least(inner: tuple[Array, Array], outer: tuple[Array, Array], shifts: Array) -> Array:
    x, z = inner
    at = x[None, :] - shifts[:, None]
    beyond = np.interp(at, *outer, right=8.0)  # above 2 b_min no likelihood is left; below, z levels off
    return (z[None, :] ** 2 + beyond**2).min(1)
