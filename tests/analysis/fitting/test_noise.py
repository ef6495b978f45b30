"""How runs scatter: against scipy's distributions, far into their tails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from analysis.fitting.noise import HEAVY, NEVER, NORMAL, heavy_cdf, log_likelihood, log_normal_between

INF = np.inf
ENDS = [(-1.0, 0.5), (0.2, 0.21), (-6.0, -5.9), (5.9, 6.0), (-INF, 0.3), (-0.3, INF), (3.0, 3.0 + 2e-3), (-INF, -7.0)]


def test_the_heavy_tail_is_students_t_with_four_degrees_of_freedom() -> None:
    z = np.concatenate([-np.geomspace(1e-6, 49, 200), [0.0], np.geomspace(1e-6, 49, 200)])
    assert heavy_cdf(z) == pytest.approx(student(4).cdf(z), rel=1e-8)
    assert heavy_cdf(np.array([-INF, INF])).tolist() == [0.0, 1.0]


def test_the_heavy_tail_goes_on_beyond_fifty_sigma() -> None:
    z = -np.geomspace(45, 1e6, 200)
    assert heavy_cdf(z) == pytest.approx(student(4).cdf(z), rel=1e-4)
    assert (np.diff(heavy_cdf(z)) < 0).all()


@pytest.mark.parametrize(("kind", "law"), [(NORMAL, norm), (HEAVY, student(4))])
def test_a_run_is_as_likely_as_scipy_says(kind: int, law: object) -> None:
    """A bracket's probability, times 0.98; and 2 % more where it has no upper end: those that never arrive."""
    median, sigma = 7.0, 0.2
    low, high = np.array(ENDS).T
    between = np.where(low > 0, law.sf(low) - law.sf(high), law.cdf(high) - law.cdf(low))  # type: ignore[attr-defined]
    expected = (1 - NEVER) * between + np.where(np.isinf(high), NEVER, 0.0)
    found = log_likelihood(np.array(median), np.array(sigma), median + sigma * low, median + sigma * high, kind)
    assert np.exp(found) == pytest.approx(expected, rel=1e-6)


def test_a_run_without_an_upper_end_is_never_rarer_than_a_run_that_never_arrives() -> None:
    """However early the median run arrives: one seed that got stuck can't rule a batch size out."""
    for kind in (NORMAL, HEAVY):
        late = log_likelihood(np.array([0.0, -50.0]), np.array(0.1), np.array(9.0), np.array(INF), kind)
        assert late == pytest.approx(np.log(NEVER), abs=1e-3)


def test_normal_tails_are_exact_where_their_difference_is_not() -> None:
    low, high = np.array([30.0, -31.0, 8.0]), np.array([31.0, -30.0, 8.1])
    expected = norm.logsf([30.0, 30.0, 8.0]) + np.log1p(
        -np.exp(norm.logsf([31.0, 31.0, 8.1]) - norm.logsf([30.0, 30.0, 8.0]))
    )
    assert log_normal_between(low, high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [NORMAL, HEAVY])
def test_far_from_a_narrow_bracket_a_run_is_unlikely_and_not_impossible(kind: int) -> None:
    """Brackets of a hundredth of sigma, up to forty sigma off: finite, and falling with the distance."""
    off = np.geomspace(1, 40, 40)
    for sign in (-1, 1):
        told = log_likelihood(sign * off, np.array(1.0), np.array(-0.005), np.array(0.005), kind)
        assert np.isfinite(told).all()
        assert (np.diff(told) < 0).all()
    density = log_likelihood(off[:20], np.array(1.0), np.array(-0.005), np.array(0.005), kind)
    law = norm if kind == NORMAL else student(4)
    assert density == pytest.approx(np.log((1 - NEVER) * 0.01) + law.logpdf(off[:20]), abs=1e-2)
