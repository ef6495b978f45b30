"""What is taken for likely of a curve before any run is seen.

ln N(b) = location + form(b) + departure(b): one of the known forms of N(b), whose parameters are nearly free, and a
smooth departure from it on the scale of octaves. No form is ever taken to be true: the departure's size is a parameter
too.
Every number here was chosen by simulation under truths that are none of the forms (docs/analysis.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fitting.models import Array, Index
from analysis.fitting.noise import HEAVY, NORMAL

OCTAVE = math.log(2)
# ln N's spread between seeds; and the ways in which it may grow towards small b, with their weights: by 2^growth per
# octave, or by 1 + rise·(b1/b)^1.5, b1 the smallest size that arrived, as it does where N(b) is about to leave for ∞.
SIGMAS = np.geomspace(0.01, 1.0, 15)
_GROWTHS = ((0.0, 0.0, 0.3), (0.12, 0.0, 0.1), (0.25, 0.0, 0.1), (0.0, 2.0, 0.25), (0.0, 6.0, 0.25))
_RISES = 1.5
_LOG_SIGMA, _LOG_SIGMA_SPREAD = math.log(0.2), 1.0
_TAILS = ((NORMAL, 0.7), (HEAVY, 0.3))
# The departure from a form: a Matérn process of smoothness 3/2 in ln b, of these sizes and of this length.
DEPARTURES = np.array([0.03, 0.1, 0.3])
DEPARTURE_WEIGHTS = np.array([0.4, 0.35, 0.25])
_LENGTH = 3 * OCTAVE
# ln N∞ is free: its prior is normal around the data with this spread.
LOCATION = 10.0
# The hyperbola's wall begins where a run takes e^4 times N∞. Behind it N rises steeply, to e^12 times N∞ at most: ln N
# stays finite, and no run arrives there.
_WALL, _BEHIND, _WALL_SLOPE = 4.0, 8.0, 30.0
# Near the wall the form is no line in its parameter: no tile moves further than this there.
_MOST_MOVED = 0.4
_EXPONENTS = np.geomspace(0.45, 3.0, 6)
_FORMS = {"hyperbola": 0.32, "two_term": 0.2, "power_law": 0.48}


@dataclass(frozen=True)
class Spreads:
    """Combinations (M,) of how runs scatter: sigma, its growth and its rise towards small b, tails.

    middle, pivot: ln b where sigma itself holds under growth, and of the smallest size that arrived.
    """

    middle: float
    pivot: float
    sigma: Array
    growth: Array
    rise: Array
    tails: Array
    log_weight: Array

    def at(self, x: Array) -> Array:
        """The spread of ln N (M, K) at x = ln b (K,)."""
        octaves = (self.middle - x) / OCTAVE
        near = np.exp(-_RISES * np.maximum(x - self.pivot, -OCTAVE))
        grown = 2.0 ** (self.growth[:, None] * octaves) * (1 + self.rise[:, None] * near)
        return np.asarray(self.sigma[:, None] * grown)

    def kept(self, rows: Index) -> Spreads:
        each = (self.sigma, self.growth, self.rise, self.tails, self.log_weight)
        return Spreads(self.middle, self.pivot, *(values[rows] for values in each))


def spreads(middle: float, pivot: float) -> Spreads:
    """Every combination with its prior weight."""
    size, way, kind = np.indices((len(SIGMAS), len(_GROWTHS), len(_TAILS))).reshape(3, -1)
    sigma = SIGMAS[size]
    growth, rise, growth_weight = np.array(_GROWTHS).T
    tails, tails_weight = np.array(_TAILS).T
    weight = -0.5 * ((np.log(sigma) - _LOG_SIGMA) / _LOG_SIGMA_SPREAD) ** 2
    weight = weight + np.log(growth_weight)[way] + np.log(tails_weight)[kind]
    return Spreads(middle, pivot, sigma, growth[way], rise[way], tails[kind].astype(int), weight)


def departure(x: Array, y: Array) -> Array:
    """The correlation of the departure between points x (K,) and y (L,), both ln b."""
    r = math.sqrt(3) * np.abs(x[:, None] - y[None]) / _LENGTH
    return (1 + r) * np.exp(-r)


@dataclass(frozen=True)
class Tiles:
    """The forms cut into tiles (Q,): the form in a tile's middle (Q, G), and two directions in which it may move.

    moves: (Q, G, 2), one standard deviation along each of the form's parameters, half a tile, so that neighbours
    overlap and the tiles together are the form with all its parameters. log_weight: (Q,).
    """

    form: Array
    moves: Array
    log_weight: Array


def tiles(x: Array, pivot: float) -> Tiles:
    """The tiles at points x (G,), ln b rising. pivot: ln b of the smallest batch size that reached its target."""
    parts = [_hyperbola(x, pivot), _two_term(x), _power_law(x)]
    form, moves, weight = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Tiles(form, moves, weight)


def _hyperbola(x: Array, pivot: float) -> tuple[Array, Array, Array]:
    """−ln(1 − b0/b), ln b0 flat below the pivot; tiles in v = ln N(pivot)/N∞."""
    v = np.geomspace(0.03, 6.0, 24)
    small = 0.05

    def form(v: Array) -> Array:
        gap = x[None] - (pivot + np.log(-np.expm1(-v)))[:, None]
        edge = -math.log1p(-math.exp(-_WALL))
        inside = -np.log(-np.expm1(-np.maximum(gap, edge)))
        behind = -_BEHIND * np.expm1(-_WALL_SLOPE / _BEHIND * np.maximum(edge - gap, 0.0))
        return np.where(gap > edge, inside, _WALL + behind)

    here = form(v)
    along = (form(v * math.exp(small)) - here) / small * (0.5 * math.log(v[1] / v[0]))
    along = np.clip(along, -_MOST_MOVED, _MOST_MOVED)
    weight = np.log(v / np.expm1(v))
    return here, np.stack([along, np.zeros_like(along)], -1), _shared("hyperbola", weight)


def _two_term(x: Array) -> tuple[Array, Array, Array]:
    """ln(1 + B_crit/b)."""
    here, by_size, _ = _power(x, 1.0)
    return here, np.stack([by_size, np.zeros_like(here)], -1), _shared("two_term", np.zeros(len(here)))


def _power_law(x: Array) -> tuple[Array, Array, Array]:
    """ln(1 + (b_c/b)^p)."""
    half = 0.5 * math.log(_EXPONENTS[1] / _EXPONENTS[0])
    parts = [_power(x, p) for p in _EXPONENTS]
    here = np.concatenate([form for form, _, _ in parts])
    moves = np.concatenate([np.stack([by_size, half * by_exponent], -1) for _, by_size, by_exponent in parts])
    return here, moves, _shared("power_law", np.zeros(len(here)))


def _power(x: Array, p: float) -> tuple[Array, Array, Array]:
    """The form for b_c an octave apart; half an octave's move along ln b_c, and the slope by ln p."""
    count = math.ceil((x[-1] - x[0]) / OCTAVE) + 4
    b_c, step = np.linspace(x[0] - 2 * OCTAVE, x[-1] + 3 * OCTAVE, count, retstep=True)
    z = p * (b_c[:, None] - x[None])
    share = 0.5 * (1 + np.tanh(0.5 * z))
    return np.logaddexp(0, z), p * share * 0.5 * step, z * share


def _shared(name: str, weight: Array) -> Array:
    return weight - np.logaddexp.reduce(weight) + math.log(_FORMS[name])
