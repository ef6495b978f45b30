"""The bootstrap: how runs are drawn and simulated, its intervals, the share of each batch size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from analysis.answer.notes import notes
from analysis.curves.curve import Curve
from analysis.fitting.bootstrap import _drawn, _simulated, _stretch
from analysis.fitting.fit import fit
from analysis.fitting.hyperbola import fit_hyperbola
from analysis.fitting.likelihood import Observations, Problem
from analysis.fitting.models import HYPERBOLA, hyperbola, v_of
from tests.analysis.simulation import Rows, curve, simulated


def test_a_batch_size_at_which_every_run_diverged_is_never_the_minimiser() -> None:
    frame = simulated(3.2, 0.2, 1).frame
    frame.loc[frame["batch_size"] == 1024, "outcome"] = "diverged"
    again = fit(Curve("adam", "adam", frame)).bootstrap
    assert again is not None
    assert again.measured[-1] == 0


def test_seeds_are_drawn_as_rao_and_wu_draw_them() -> None:
    """m − 1 draws of m, each weighing m/(m − 1): a mean's variance over resamples is s²/m, not (m − 1)/m of it."""
    found = fit_hyperbola(simulated(3.2, 0.2, 5))
    assert found.problem is not None
    drawn = _drawn(found.problem, 4000, np.random.default_rng(0)).weights
    here = found.problem.seen.b == 64
    assert set(np.round(drawn[:, here] * 4 / 5, 9).ravel()) <= {0, 1, 2, 3, 4}
    assert (drawn[:, here].sum(1) == pytest.approx(5)) is True
    values = np.arange(5.0)
    assert (drawn[:, here] @ values / 5).var() == pytest.approx(values.var(ddof=1) / 5, rel=0.1)


def test_runs_are_simulated_with_the_spread_of_the_fit() -> None:
    """σ corrected for the two fitted parameters, and grown where the fit's grows."""
    found = fit_hyperbola(simulated(3.2, 0.2, 3), growing_spread=True)
    assert found.problem is not None
    assert found.kappa is not None
    assert found.sigma is not None
    found.kappa = 1.0
    seen = found.problem.seen
    drawn = _simulated(found, 4000, np.random.default_rng(0)).seen
    count = seen.reached.sum()
    for b in (8, 512):
        middle = 0.5 * (drawn.low + drawn.high)[:, seen.b == b][:, 0]
        expected = found.sigma * math.sqrt(count / (count - 2) * (1 + (b / (b - found.b0) - 1) ** 2))
        assert middle.std() == pytest.approx(expected, rel=0.06)


def test_the_bootstrap_agrees_with_the_profile_where_both_have_enough() -> None:
    found = fit(simulated(3.2, 0.2, 8, random=2))
    again = found.bootstrap
    assert again is not None
    assert again.kind == "seeds"
    for name in ("b_star", "n_inf", "sfo"):
        for ours, theirs in zip(again.intervals[name], getattr(found, name + "_ci"), strict=True):
            assert ours == pytest.approx(theirs, rel=0.06), name
    assert again.draws["b_star"].shape == (2000,)
    assert again.measured.sum() == pytest.approx(1)
    assert again.fitted[list(again.sizes).index(8)] > 0.9


def test_with_one_seed_the_bootstrap_is_parametric_and_says_so() -> None:
    found = fit(simulated(3.2, 0.2, 1, random=2))
    again = found.bootstrap
    assert again is not None
    assert again.kind == "parametric"
    assert any("bootstrap is parametric" in note for note in notes(found))
    low, high = again.intervals["b_star"]
    assert low == pytest.approx(found.b_star_ci[0], rel=0.25)
    assert high == pytest.approx(found.b_star_ci[1], rel=0.25)
    assert 0 < again.measured.max() < 1


def test_a_bootstrap_is_repeatable() -> None:
    one, other = (fit(simulated(3.2, 0.2, 5)).bootstrap for _ in range(2))
    assert one is not None
    assert other is not None
    assert (one.draws["b_star"] == other.draws["b_star"]).all()


@pytest.mark.parametrize("kappa", [None, 1.5])
def test_percentiles_are_widened_for_the_seeds_that_inform_b0(kappa: float | None) -> None:
    """Satterthwaite's degrees of freedom, by hand, each batch size with its own σ_b where the spread grows."""
    n_inf, b0, sigma, counts = 1000.0, 3.0, 0.05, {4: 6, 8: 5, 16: 5, 64: 8}
    rows: Rows = [(b, s, "reached", math.nan, float(hyperbola(b, n_inf, b0))) for b in counts for s in range(counts[b])]
    seen = Observations.of(curve(rows).frame)
    problem = Problem(seen, HYPERBOLA, np.ones((1, len(seen.b))), np.array([4.0]), kappa is not None)
    theta = [math.log(n_inf), float(v_of(b0, 4.0)), math.log(sigma), *([math.log(kappa)] if kappa else [])]
    b, m = (np.array(values, float) for values in zip(*counts.items(), strict=True))
    weights = m / (1 + ((kappa or 0.0) * (b / (b - b0) - 1)) ** 2)
    slope = 1 / (b - b0)
    told = weights * (slope - np.average(slope, weights=weights)) ** 2
    spare = 1 / ((told / told.sum()) ** 2 / (m - 1)).sum()
    expected = student.ppf(0.975, spare) / norm.ppf(0.975)
    assert _stretch(problem, np.array([theta])) == pytest.approx(expected)
