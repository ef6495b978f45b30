"""Steps-to-target as a function of the batch size: pure formulae."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


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
