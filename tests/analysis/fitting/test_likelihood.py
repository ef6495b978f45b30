"""The likelihood: worked out by hand, its derivatives, its maximum against least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import approx_fprime, curve_fit
from scipy.stats import norm

from analysis.fitting import models
from analysis.fitting.hyperbola import fit_hyperbola
from analysis.fitting.likelihood import Observations, Problem, maximise, terms
from analysis.fitting.monotone import monotone
from analysis.fitting.profile import information
from tests.analysis.simulation import curve


@given(st.floats(1, 1e6), st.floats(0.01, 1e4), st.floats(1.001, 1e3))
def test_the_hyperbola_falls_is_convex_and_has_its_least_sfo_at_two_b0(n_inf: float, b0: float, factor: float) -> None:
    """b* = 2B/(ε²−C) and N(b*)b* = 4 N∞ b0 in the paper's three parameters, whatever their common scale."""
    b = b0 * np.array([factor, factor * 1.1, factor * 1.2])
    n = models.hyperbola(b, n_inf, b0)
    assert (np.diff(n) < 0).all()
    sfo = n * b
    for values in (n, sfo):  # convex: the chord lies above, in steps of equal length
        assert values[0] + values[2] >= 2 * values[1] * (1 - 1e-9)
    best = models.critical_batch_size(b0)
    least = models.least_sfo(n_inf, b0)
    assert models.hyperbola(best, n_inf, b0) * best == pytest.approx(least, rel=1e-9)
    assert (sfo >= least * (1 - 1e-9)).all()
    assert math.isinf(models.hyperbola(b0, n_inf, b0))
    for scale in (1.0, factor):
        a, big_b, gap = scale * n_inf, scale * b0, scale
        assert n == pytest.approx(a * b / (gap * b - big_b), rel=1e-9)
        assert best == pytest.approx(2 * big_b / gap)


@given(st.floats(1, 1e5), st.floats(0.1, 1e3), st.floats(1.05, 8))
def test_the_power_law_has_its_least_sfo_where_it_says(n_inf: float, b_c: float, p: float) -> None:
    best = models.power_law_b_star(b_c, p)
    assert best is not None
    b = best * np.array([0.9, 1.0, 1.1])
    sfo = models.power_law(b, n_inf, b_c, p) * b
    assert sfo.argmin() == 1
    assert models.power_law_b_star(b_c, 1.0) is None
    assert models.power_law(b, n_inf, b_c, 1.0) == pytest.approx(models.two_term(b, n_inf, b_c))


ROWS = [(8, 0, "reached", math.nan, 900), (8, 1, "reached", 700, 800), (4, 0, "censored", 5000, 5000)]
ROWS += [(16, 0, "reached", 0, 300), (1, 0, "censored", 100, 100)]


def test_a_likelihood_worked_out_by_hand() -> None:
    n_inf, b0, sigma = 500.0, 2.0, 0.3
    at = {b: math.log(n_inf * b / (b - b0)) for b in (4, 8, 16)}
    normal = {b: norm(loc=m, scale=sigma) for b, m in at.items()}
    by_hand = [
        normal[8].logpdf(math.log(900)),
        math.log(quad(normal[8].pdf, math.log(700), math.log(800))[0]),
        normal[4].logsf(math.log(5000)),
        normal[16].logcdf(math.log(300)),
        0.0,  # below b0 no run arrives: certain
    ]
    seen = Observations.of(curve([*ROWS, (4, 1, "diverged", 60, 60)]).frame)
    eta = np.log(models.hyperbola(seen.b, n_inf, b0))
    assert terms(seen, eta, np.array(sigma)).value == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.HYPERBOLA, [0.9]),
        (models.HYPERBOLA_FROM_SFO, [0.9]),
        (models.TWO_TERM, [1.5]),
        (models.POWER_LAW, [1.5, 0.3]),
    ],
)
def test_derivatives_are_those_of_finite_differences(model: models.Model, shape: list[float], growing: bool) -> None:
    seen = Observations.of(curve(ROWS).frame)
    problem = Problem(seen, model, np.ones((1, len(seen.b))), np.array([8.0]), growing)
    theta = np.array([6.5, *shape, -1.2, *([-0.5] if growing else [])])
    _, gradient, _ = problem.evaluate(theta[None])
    numeric = approx_fprime(theta, lambda t: problem.evaluate(t[None])[0][0], 1e-7)
    assert gradient[0] == pytest.approx(numeric, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("growing", [False, True])
def test_a_censored_run_informs_the_spread_by_its_own_curvature(growing: bool) -> None:
    """Half of −d² ln L/d(ln σ)² by finite differences, with the σ_b that the run has where the spread grows."""
    seen = Observations.of(curve([*ROWS, (16, 1, "censored", 1200, 1200), (32, 0, "censored", 900, 900)]).frame)
    theta = np.array([6.5, 0.9, -1.2, *([0.4] if growing else [])])

    def value(weights: np.ndarray, log_sigma: float) -> float:
        at = theta.copy()
        at[2] = log_sigma
        problem = Problem(seen, models.HYPERBOLA, weights[None], np.array([8.0]), growing)
        return float(problem.evaluate(at[None])[0][0])

    expected = float(seen.reached.sum())
    for weights in np.eye(len(seen.b))[~seen.reached]:
        below, here, above = (value(weights, -1.2 + step) for step in (-1e-4, 0.0, 1e-4))
        expected += min(max((2 * here - below - above) / 2e-8, 0.0), 1.0)
    problem = Problem(seen, models.HYPERBOLA, np.ones((1, len(seen.b))), np.array([8.0]), growing)
    assert seen.reached.sum() + 0.2 < expected
    assert information(problem, theta[None]) == pytest.approx(expected, abs=1e-4)


def test_a_maximum_known_by_symmetry() -> None:
    """Runs in pairs e^±δ around N∞ b/(b−b0), beside runs at b ≤ b0 that never arrive: the truth is the maximum."""
    n_inf, b0, delta = 300.0, 2.0, 0.1
    rows = [
        (b, s, "reached", math.nan, float(models.hyperbola(b, n_inf, b0)) * math.exp(sign * delta))
        for b in (4, 8, 16, 32)
        for s, sign in enumerate((-1, 1))
    ]
    found = fit_hyperbola(curve([*rows, (2, 0, "censored", 9999, 9999), (1, 0, "censored", 9999, 9999)]))
    assert found.n_inf == pytest.approx(n_inf, rel=1e-4)
    assert found.b0 == pytest.approx(b0, rel=1e-4)
    assert found.sigma == pytest.approx(delta, rel=1e-4)
    assert found.b_star == pytest.approx(4.0, rel=1e-4)
    assert found.sfo == pytest.approx(4 * n_inf * b0, rel=1e-4)


def test_an_uncensored_fit_is_scipys_least_squares() -> None:
    rng = np.random.default_rng(1)
    b = np.repeat(2.0 ** np.arange(2, 9), 4)
    n = models.hyperbola(b, 1500, 2.9) * np.exp(0.1 * rng.normal(size=len(b)))
    rows = [(int(x), i % 4, "reached", math.nan, y) for i, (x, y) in enumerate(zip(b, n, strict=True))]
    found = fit_hyperbola(curve(rows))
    best, _ = curve_fit(
        lambda x, log_n, b0: np.log(models.hyperbola(x, np.exp(log_n), b0)),
        b,
        np.log(n),
        p0=(7, 1),
        bounds=([0, 0], [20, 3.999]),
    )
    assert found.n_inf == pytest.approx(math.exp(best[0]), rel=1e-4)
    assert found.b0 == pytest.approx(best[1], rel=1e-3)
    residual = np.log(n) - np.log(models.hyperbola(b, math.exp(best[0]), best[1]))
    assert found.sigma == pytest.approx(residual.std(), rel=1e-3)
    assert found.sfo == pytest.approx(4 * found.n_inf * found.b0)


def test_many_problems_at_once_are_the_same_problems_one_by_one() -> None:
    rows = [
        (b, s, "reached", 900 + 3000 / b + 40 * s, 1000 + 3000 / b + 50 * s) for b in (2, 4, 8, 16) for s in range(3)
    ]
    seen = Observations.of(curve(rows).frame)
    weights = np.random.default_rng(0).integers(0, 3, size=(20, len(seen.b))).astype(float)
    weights[:, 0] = 1
    start = np.tile([7.0, 0.5, -1.0], (20, 1))
    together, value = maximise(Problem(seen, models.HYPERBOLA, weights, np.full(20, 2.0)), start)
    for k in range(20):
        alone, top = maximise(Problem(seen, models.HYPERBOLA, weights[[k]], np.array([2.0])), start[:1])
        assert top[0] == pytest.approx(value[k], abs=1e-6)
        assert alone[0, :1] == pytest.approx(together[k, :1], abs=1e-2)


@given(st.lists(st.floats(0.5, 3), min_size=3, max_size=8), st.integers(0, 2**31))
def test_the_monotone_curve_falls_and_no_falling_curve_is_likelier(levels: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (2**i, s, "reached", math.nan, math.exp(6 + level + 0.2 * rng.normal()))
        for i, level in enumerate(levels)
        for s in range(2)
    ]
    seen = Observations.of(curve(rows).frame)
    found = monotone(seen)
    assert (np.diff(found.log_n) <= 1e-6).all()
    which = np.searchsorted(found.sizes, seen.b)
    for _ in range(20):
        other = np.minimum.accumulate(found.log_n + 0.05 * rng.normal(size=len(found.sizes)))
        value = terms(seen, other[which], np.array(found.sigma)).value.sum()
        assert value <= found.log_likelihood + 1e-4
