"""Tests that hold at any number of seeds: sign flips, permutations, order statistics, Holm's correction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from analysis.fitting.models import Array

# Up to so many arrangements all are gone through; beyond, as many are drawn.
MOST = 40_000
# Sums that differ by rounding alone are equal.
_ROUNDING = 1e-9


def sign_flip(differences: Array) -> float:
    """Two-sided p of the mean of paired differences (n,): under the null each sign is as likely as the other.

    Exact up to 15 pairs: the share of the 2^n sign patterns whose sum is at least as far from 0 (Fisher, 1935;
    scipy's permutation_test with permutation_type="samples"). Of five pairs the least possible is 2/32.
    """
    n = len(differences)
    if 2**n <= MOST:
        signs = 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return _share(signs @ differences, float(np.sum(differences)))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(MOST, n))
    return _share(np.append(signs @ differences, np.sum(differences)), float(np.sum(differences)))


def permutation(one: Array, other: Array) -> float:
    """Two-sided p of the difference of two means: under the null each value is as likely on either side.

    Exact while the groups can be chosen in at most 40,000 ways; beyond, as many are drawn, and the one seen
    counts among them (Phipson & Smyth, 2010).
    """
    both, n = np.concatenate([one, other]), len(one)
    centred = both - both.mean()
    if math.comb(len(both), n) <= MOST:
        chosen = np.array(list(itertools.combinations(range(len(both)), n)))
        sums = centred[chosen].sum(1)
    else:
        rng = np.random.default_rng(0)
        sums = np.append(rng.permuted(np.tile(centred, (MOST, 1)), axis=1)[:, :n].sum(1), centred[:n].sum())
    return _share(sums, float(centred[:n].sum()))


def _share(sums: Array, seen: float) -> float:
    slack = _ROUNDING * (np.abs(sums).max() + abs(seen))
    return float(np.mean(np.abs(sums) >= abs(seen) - slack))


def least_p(one: int, other: int | None = None) -> float:
    """The least p that so many pairs can give; of two groups, if two numbers are given."""
    return 2 / 2**one if other is None else min(1.0, (2 if one == other else 1) / math.comb(one + other, one))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm, 1979)."""
    order = np.argsort(ps, kind="stable")
    found, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, ps[i] * (len(ps) - rank)))
        found[i] = least
    return found


def ranks_of_median(n: int, confidence: float = 0.95) -> tuple[int, float]:
    """Which order statistics hold the median of n values: the k-th least and k-th largest, and how surely.

    k, counted from 0, is the largest whose interval has at least the confidence asked for; 0, from the least value
    to the largest, where none has: of five values that is 1 − 2/32 = 94 %. Holds for any distribution.
    """
    beyond, k = 2 / 2**n, 0
    while k + 1 < (n + 1) // 2:
        wider = beyond + 2 * math.comb(n, k + 1) / 2**n
        if wider > 1 - confidence + 1e-12:
            break
        beyond, k = wider, k + 1
    return k, max(0.0, 1 - beyond)
