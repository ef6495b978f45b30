"""Steps-to-target as a function of the batch size: pure formulae.

Every model is ln N(b) = ln N∞ + g(b; shape) with g → 0 as b → ∞, so that N∞ is the location of a
log-normal and the spread between seeds its scale, whatever the shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

Shape = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(b (n,), shape (B, k), pivot (B,)) → g (B, n), dg/dshape (B, n, k)."""


Location = Callable[[Array, Array], tuple[Array, Array]]
"""(shape (B, k), pivot (B,)) → how far the location lies above ln N∞ (B,), and its slope by the shape (B, k)."""


def hyperbola(b: ArrayLike, n_inf: ArrayLike, b0: ArrayLike) -> Array:
    """N(b) = N∞ b/(b − b0) for b > b0, infinite at or below b0 (steps; b and b0 in samples).

    Sato & Iiduka (ICML 2023), N = A b/((ε²−C) b − B), in its two identifiable parameters
    N∞ = A/(ε²−C) and b0 = B/(ε²−C).
    """
    b, b0 = np.asarray(b, float), np.asarray(b0, float)
    gap = np.where(b > b0, b - b0, np.nan)
    return np.where(b > b0, np.asarray(n_inf) * b / gap, np.inf)


def critical_batch_size(b0: ArrayLike) -> Array:
    """b* = 2 b0 = 2B/(ε²−C), the minimiser of N(b)·b (samples)."""
    return 2.0 * np.asarray(b0, float)


def least_sfo(n_inf: ArrayLike, b0: ArrayLike) -> Array:
    """N(b*)·b* = 4 N∞ b0 (gradient evaluations per network)."""
    return 4.0 * np.asarray(n_inf, float) * np.asarray(b0, float)


def cheapest_batch_size(b0: ArrayLike, ratio: ArrayLike) -> Array:
    """The minimiser of N(b)·(c0 + c1 b), a run's cost where a step costs c0 and an image c1 (samples); ratio = c0/c1.

    b0 + √(b0² + b0·ratio). Own derivation: with N = N∞ b/(b − b0), d/db ln N(b)(c0 + c1 b) =
    1/b − 1/(b − b0) + 1/(ratio + b) vanishes where b² − 2 b0 b − ratio·b0 = 0. It is 2 b0, the minimiser of
    N(b)·b, where a step alone costs nothing; grows with both arguments; and tends to √(b0·ratio).
    """
    b0 = np.asarray(b0, float)
    return b0 + np.sqrt(b0**2 + b0 * np.asarray(ratio, float))


def least_cost(n_inf: ArrayLike, b0: ArrayLike, step: ArrayLike, image: ArrayLike) -> Array:
    """N(b)·(step + image·b) at its minimiser `cheapest_batch_size`: N∞ (√(image·b0) + √(image·b0 + step))².

    Own derivation: with x = b − b0 and ρ = step/image, b (ρ + b)/(b − b0) = x + 2 b0 + ρ + b0 (b0 + ρ)/x, least
    at x = √(b0 (b0 + ρ)). Without a step's own cost it is image·4 N∞ b0.
    """
    images = np.asarray(image, float) * np.asarray(b0, float)
    return np.asarray(n_inf, float) * (np.sqrt(images) + np.sqrt(images + np.asarray(step, float))) ** 2


def two_term(b: ArrayLike, n_inf: ArrayLike, b_crit: ArrayLike) -> Array:
    """N(b) = S_min (1 + B_crit/b) (steps): McCandlish et al. (2018), equation 2.11. N·b has no interior minimum."""
    return np.asarray(n_inf) * (1 + np.asarray(b_crit) / np.asarray(b, float))


def power_law(b: ArrayLike, n_inf: ArrayLike, b_c: ArrayLike, p: ArrayLike) -> Array:
    """N(b) = N∞ (1 + (b_c/b)^p) (steps): N·b has its minimum at b_c (p−1)^(1/p) where p > 1, none where p ≤ 1."""
    return np.asarray(n_inf) * (1 + (np.asarray(b_c) / np.asarray(b, float)) ** np.asarray(p))


def power_law_b_star(b_c: float, p: float) -> float | None:
    """The minimiser of N(b)·b under the power law; None where there is none."""
    return b_c * (p - 1) ** (1 / p) if p > 1 else None


@dataclass(frozen=True)
class Model:
    """A form of N(b) as the likelihood sees it: its shape parameters lie on the whole real line.

    names: of the shape parameters as reported. formula: N from b, N∞ and these. starts: shapes to start
    from, given the batch sizes that reached their target. limits: where a shape parameter can no longer
    be told from infinity. location: what is estimated in the place of ln N∞, as its distance from it;
    None for ln N∞ itself.
    """

    name: str
    title: str
    names: tuple[str, ...]
    formula: Callable[..., Array]
    shape: Shape
    starts: Callable[[Array], Array]
    limits: tuple[tuple[float, float], ...]
    location: Location | None = None


# ln N(pivot)/N∞ = v is the coordinate in which the hyperbola is nearly linear; v < 0 is a rising curve.
V_LIMITS = (-4.0, 14.0)


def b0_of(v: ArrayLike, pivot: ArrayLike) -> Array:
    """b0 = pivot (1 − e^−v), the pivot being the smallest batch size that reached its target."""
    return -np.asarray(pivot, float) * np.expm1(-np.asarray(v, float))


def _hyperbola(b: Array, shape: Array, pivot: Array) -> tuple[Array, Array]:
    b0 = b0_of(shape[:, 0], pivot)[:, None]
    above = b > b0
    gap = np.where(above, b - b0, 1.0)
    g = np.where(above, np.log(b / gap), np.inf)
    slope = np.where(above, (pivot[:, None] - b0) / gap, 0.0)
    return g, slope[..., None]


def _sfo_at_b_star(shape: Array, pivot: Array) -> tuple[Array, Array]:
    """ln N(b*)·b* − ln N∞ = ln 4 b0, for b0 > 0."""
    v = np.maximum(shape[:, :1], 1e-9)
    return np.log(least_sfo(1.0, b0_of(v[:, 0], pivot))), 1 / np.expm1(v)


def _two_term(b: Array, shape: Array, pivot: Array) -> tuple[Array, Array]:
    x = shape[:, :1] - np.log(b)
    return np.logaddexp(0, x), _sigmoid(x)[..., None]


def _power_law(b: Array, shape: Array, pivot: Array) -> tuple[Array, Array]:
    p = np.exp(shape[:, 1:2])
    x = p * (shape[:, :1] - np.log(b))
    share = _sigmoid(x)
    return np.logaddexp(0, x), np.stack([p * share, x * share], -1)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _octaves(reached: Array, count: int) -> Array:
    return np.log(np.geomspace(reached.min() / 4, reached.max() * 2, count))


def _power_starts(reached: Array) -> Array:
    c, q = np.meshgrid(_octaves(reached, 6), np.log([0.5, 1.0, 2.0, 4.0]))
    return np.stack([c.ravel(), q.ravel()], -1)


_B_LIMITS = (math.log(1e-4), math.log(1e15))

HYPERBOLA = Model(
    "hyperbola",
    "N∞ b/(b − b0)",
    ("b0",),
    hyperbola,
    _hyperbola,
    lambda reached: np.array([[-0.5], [0.02], [0.2], [0.7], [1.6], [4.0], [8.0]]),
    (V_LIMITS,),
)
HYPERBOLA_FROM_SFO = replace(HYPERBOLA, limits=((1e-6, 14.0),), location=_sfo_at_b_star)
TWO_TERM = Model(
    "two_term",
    "S_min (1 + B_crit/b)",
    ("B_crit",),
    two_term,
    _two_term,
    lambda reached: _octaves(reached, 7)[:, None],
    (_B_LIMITS,),
)
POWER_LAW = Model(
    "power_law",
    "N∞ (1 + (b_c/b)ᵖ)",
    ("b_c", "p"),
    power_law,
    _power_law,
    _power_starts,
    (_B_LIMITS, (math.log(0.1), math.log(12.0))),
)
