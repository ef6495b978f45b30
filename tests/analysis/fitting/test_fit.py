"""Fits: intervals, censoring, what can't be told, differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

from analysis.answer.notes import notes
from analysis.curves.curve import Curve
from analysis.fitting.difference import difference
from analysis.fitting.fit import fit, fit_all
from analysis.fitting.likelihood import Observations, terms
from analysis.fitting.models import HYPERBOLA_FROM_SFO, hyperbola
from tests.analysis.simulation import FOUR, N_INF, Scenario, curve, runs, simulate, simulated


@pytest.mark.parametrize(
    "scenario", [Scenario(1.5, 0.4, 1), Scenario(3.2, 0.15, 3), Scenario(12.0, 0.15, 2, budget=4.0)], ids=str
)
def test_the_papers_intervals_cover_the_truth_where_the_form_holds(scenario: Scenario) -> None:
    """Of 60 intervals of 95 %, fewer than 51 hold the truth with probability 0.0009."""
    truth = {"b_star": 2 * scenario.b0, "n_inf": N_INF, "sfo": 4 * N_INF * scenario.b0}
    held = dict.fromkeys(truth, 0)
    for random in range(60):
        found = fit(simulate(scenario, np.random.default_rng(random))).hyperbola
        for name, value in truth.items():
            low, high = found.interval(name)
            held[name] += (low or 0.0) <= value <= (high or math.inf)
    assert min(held.values()) >= 51, held


@pytest.mark.parametrize("scenario", [Scenario(0.3, 0.15, 3), Scenario(700.0, 0.15, 3)], ids=["below", "above"])
def test_a_b_star_outside_the_sweep_leaves_the_set_open_there(scenario: Scenario) -> None:
    for random in range(20):
        found = fit(simulate(scenario, np.random.default_rng(random))).cheapest
        assert found is not None
        assert found.open_low if scenario.b0 < 1 else found.open_high
        assert not (found.open_high if scenario.b0 < 1 else found.open_low)


def test_censored_runs_are_evidence() -> None:
    """Where runs above b0 were cut by their budget, dropping them moves b0 down; so does calling them arrived."""
    with_them = simulated(5.0, 0.3, 4, budget=2.4, random=5)
    frame = with_them.frame
    cut = (frame["outcome"] == "censored") & (frame["batch_size"] > 5)
    assert 0 < cut.sum() < (frame["batch_size"] == 8).sum()
    without = Curve("adam", "adam", frame[~cut].reset_index(drop=True))
    arrived = frame.assign(outcome=frame["outcome"].where(~cut, "reached"), lower=frame["lower"].where(~cut, math.nan))
    b0 = fit(with_them).hyperbola.b0
    assert b0 is not None
    assert b0 > fit(without).hyperbola.b0 * 1.02  # type: ignore[operator]
    assert b0 > fit(Curve("adam", "adam", arrived)).hyperbola.b0 * 1.005  # type: ignore[operator]


@pytest.mark.parametrize("name", ["b_star", "n_inf", "sfo"])
def test_an_intervals_ends_are_where_scipy_finds_the_likelihood_at_its_limit(name: str) -> None:
    """Each end, by an independent profile: 2(ln L̂ − ln L) = n ln(1 + t²/(n−2)), t Student's 97.5 % with n − 2."""
    found = fit(simulated(3.2, 0.2, 2, random=6))
    seen = Observations.of(found.curve.frame)

    def loss(n_inf: float, b0: float, log_sigma: float) -> float:
        if not 0 < b0 < 4 or abs(log_sigma) > 6:
            return 1e6
        with np.errstate(all="ignore"):
            eta = np.log(hyperbola(seen.b, n_inf, b0))
        return -float(terms(seen, eta, np.array(math.exp(log_sigma))).value.sum())

    def given(end: float, x: np.ndarray) -> float:
        if name == "b_star":
            return loss(math.exp(x[0]), end / 2, x[1])
        if name == "n_inf":
            return loss(end, x[0], x[1])
        return loss(end / (4 * x[0]), x[0], x[1]) if x[0] > 0 else 1e6

    start = [7.3, -1.5] if name == "b_star" else [3.0, -1.5]
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}
    n = float(seen.reached.sum())
    cut = n * math.log1p(student.ppf(0.975, n - 2) ** 2 / (n - 2))
    assert found.hyperbola.log_likelihood is not None
    for end in found.hyperbola.interval(name):
        assert end is not None
        best = minimize(lambda x, end=end: given(end, x), start, method="Nelder-Mead", options=options)
        assert 2 * (found.hyperbola.log_likelihood + best.fun) == pytest.approx(cut, rel=0.01)


def test_diverged_runs_are_an_outcome_of_their_own() -> None:
    with_them = simulated(3.2, 0.2, 3)
    frame = with_them.frame
    more = pd.DataFrame([(4, seed, "diverged", 60.0, 60.0) for seed in range(7, 16)], columns=frame.columns)
    found = fit(Curve("adam", "adam", pd.concat([frame, more], ignore_index=True)))
    alone = fit(with_them)
    assert found.hyperbola.b0 == alone.hyperbola.b0
    assert found.predict(np.array([4.0]))[0] > alone.predict(np.array([4.0]))[0]  # most runs missed
    assert found.diverged == 9
    assert found.censored == alone.censored
    assert any("Diverged: 9 of 12 at b = 4" in note for note in notes(found))


def test_the_band_holds_the_fit_and_widens_where_there_is_no_data() -> None:
    found = fit(simulated(3.0, 0.25, 3, random=3))
    b = np.array([4.0, 64.0])
    for low, high, centre in (
        (*found.hyperbola.band(b), found.hyperbola.predict(b)),
        (found.band(b)[0], found.band(b)[2], found.predict(b)),
    ):
        assert (low < centre).all()
        assert (centre < high).all()
        assert high[0] / low[0] > high[1] / low[1]


def test_the_papers_band_far_out_is_the_interval_of_n_inf() -> None:
    found = fit(simulated(3.0, 0.25, 3, random=3)).hyperbola
    low, high = found.band(np.array([1e12]))
    assert (low[0], high[0]) == pytest.approx(found.n_inf_ci, rel=0.02)


def test_a_spread_that_grows_towards_b0_is_found() -> None:
    """Runs whose b0 differs by a tenth: wild at small b, calm at large b; the constant spread denies it."""
    rng = np.random.default_rng(4)
    rows = [
        (b, s, "reached", math.nan, 1000 * b / (b - 3.0 * math.exp(0.1 * rng.normal())) * math.exp(0.02 * rng.normal()))
        for b in (4, 8, 16, 32, 64, 128)
        for s in range(6)
    ]
    one, other = fit(curve(rows)), fit(curve(rows), growing_spread=True)
    assert one.hyperbola.log_likelihood is not None
    assert other.hyperbola.log_likelihood is not None
    assert other.hyperbola.log_likelihood > one.hyperbola.log_likelihood + 5
    assert other.hyperbola.kappa is not None
    assert other.hyperbola.kappa > 0.5
    assert other.hyperbola.b0 == pytest.approx(3.0, rel=0.05)
    assert other.hyperbola.problem is not None
    assert other.hyperbola.theta is not None
    shifted = other.hyperbola.theta + np.array([[math.log(4 * other.hyperbola.b0), 0, 0, 0]])
    from_sfo = replace(other.hyperbola.problem, model=HYPERBOLA_FROM_SFO)
    assert from_sfo.evaluate(shifted)[0] == pytest.approx(other.hyperbola.problem.evaluate(other.hyperbola.theta)[0])
    assert any("--growing-spread" in note for note in notes(one))


def test_a_growing_spread_is_never_less_likely_than_a_constant_one() -> None:
    """κ → 0 is the constant spread: nested, and at κ's limit the other parameters still reach their maximum."""
    for random in range(6):
        curve = simulated(5.0, 0.1, 3, random=random)
        one, other = fit(curve), fit(curve, growing_spread=True)
        assert other.hyperbola.log_likelihood > one.hyperbola.log_likelihood - 1e-3  # type: ignore[operator]
        low, high = other.hyperbola.n_inf_ci
        assert low < one.hyperbola.n_inf < high  # type: ignore[operator]


def test_the_band_is_around_the_fit_even_where_b0_is_at_its_bound() -> None:
    found = fit(curve(runs((4, 1000), (8, 996), (16, 1003), (32, 1001), seeds=2, spread=0.01)))
    assert found.hyperbola.b0 is None or found.hyperbola.b0 < 0.2
    low, high = found.hyperbola.band(np.array([8.0]))
    assert low[0] < found.hyperbola.predict(np.array([8.0]))[0] < high[0]
    with pytest.raises(ValueError, match="no fit to draw a band around"):
        fit(curve(runs((4, 50)))).hyperbola.band(np.array([8.0]))
    with pytest.raises(ValueError, match="no run arrived"):
        fit(curve([(4, 0, "censored", 50, 50)])).band(np.array([4.0]))


def test_runs_that_have_no_lower_end_bound_nothing() -> None:
    """All below the target at their first evaluation: N∞, b0 and σ are open, and no number is claimed."""
    found = fit(curve([(b, s, "reached", 0, 1000) for b in FOUR for s in range(3)]))
    paper = found.hyperbola
    assert paper.n_inf is None
    assert paper.n_inf_ci == paper.sfo_ci == paper.b_star_ci == (None, None)
    assert found.b_star_ci[0] is None
    assert any("only an upper end of their N is known" in note for note in notes(found))


def test_seeds_that_disagree_wildly_at_small_b_still_give_an_answer() -> None:
    """One seed of five arrives at b = 4, ten times later than the theory's curve; nothing fails, nothing is dropped."""
    rows = [(4, 0, "reached", 9000, 9500)] + [(4, s, "censored", 10_000, 10_000) for s in range(1, 5)]
    rows += [
        (b, s, "reached", n * 0.95**s, n * 0.96**s) for b, n in ((8, 1500), (16, 1200), (64, 1000)) for s in range(5)
    ]
    found = fit(curve(rows))
    low, high = found.b_star_ci
    assert low is not None
    assert high is not None
    assert 4 < low <= found.b_star <= high < 16  # type: ignore[operator]
    assert math.isinf(found.curve.medians()[4])


def test_the_difference_of_two_curves() -> None:
    """Against every pair of draws of the two posteriors, weighted."""
    one, other = fit(simulated(3.0, 0.15, 5)), fit(simulated(12.0, 0.15, 5, random=9))
    found = difference(one, other)
    assert found is not None
    low, high = found.interval
    assert low is not None
    assert high is not None
    assert low < -2 < high
    assert found.decided
    here, there = one.cheapest, other.cheapest
    assert here is not None
    assert there is not None
    apart = ((here.log_b[:, None] - there.log_b[None]) / math.log(2)).ravel()
    order = np.argsort(apart)
    below = np.cumsum(np.outer(here.weight, there.weight).ravel()[order])
    ends = apart[order][np.searchsorted(below, (0.025, 0.975))]
    assert (low, high) == pytest.approx(tuple(ends), abs=0.13)  # a step of the grid
    same = difference(one, fit(simulated(3.0, 0.15, 5, random=77)))
    assert same is not None
    assert not same.decided
    back = difference(other, one)
    assert back is not None
    assert back.interval[0] == pytest.approx(-high, abs=0.02)


def test_many_curves_are_fitted_as_one_by_one() -> None:
    curves = [simulated(3.2, 0.2, 1, random=k) for k in range(64)]
    together = fit_all(curves)
    for k in (0, 17, 63):
        assert together[k].b_star_ci == fit(curves[k]).b_star_ci
