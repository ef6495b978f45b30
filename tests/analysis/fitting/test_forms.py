"""Forms of N(b): which the data prefer, on public measurements and on simulated ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.answer.notes import notes
from analysis.answer.sentences import sentence
from analysis.answer.wording import verdict
from analysis.curves.curve import Curve
from analysis.fitting import models
from analysis.fitting.fit import fit, fit_all
from analysis.fitting.forms import fit_forms
from tests.analysis.simulation import Rows, curve, public


def runs(n: dict[float, float], seeds: int, noise: float, random: int = 0) -> Curve:
    rng = np.random.default_rng(random)
    rows: Rows = [
        (b, s, "reached", math.nan, value * math.exp(noise * rng.normal()))
        for b, value in n.items()
        for s in range(seeds)
    ]
    return curve(rows)


SIZES = 2.0 ** np.arange(2, 11)


def test_public_language_model_data() -> None:
    """Nothing below 64 was tried and N·b is flat to about 512: b* is open below; the hyperbola says 120."""
    fits = fit_all(public())
    assert [one.curve.label for one in fits] == ["85M", "151M", "302M", "604M", "1.2B"]
    b_crit = []
    for one in fits:
        assert one.b_star_ci[0] is None
        assert one.b_star_ci[1] < 640  # type: ignore[operator]
        assert one.cheapest is not None
        assert one.cheapest.probability[one.cheapest.sizes > 600].sum() < 0.025
        assert ": b* = 64, the smallest size tried" in sentence(one) or ": b* ≤ " in sentence(one)
        assert one.hyperbola.b_star == pytest.approx(120, rel=0.03)
        assert any("it can only answer less than 128" in note for note in notes(one))
        assert "Sweep next: batch_size=32,16,8, until N·b rises." in notes(one)
        assert one.forms.behind("hyperbola") > 40
        assert one.forms.behind("two_term") < 5
        hyperbola, two_term = one.forms.form("hyperbola"), one.forms.form("two_term")
        assert hyperbola is not None
        assert two_term is not None
        assert 0.7 < hyperbola.values["sigma"] < 1.1
        assert 0.035 < two_term.values["sigma"] < 0.057
        assert hyperbola.left_out > 10 * two_term.left_out  # type: ignore[operator]
        low, high = two_term.intervals["B_crit"]
        assert low < two_term.values["B_crit"] < high  # type: ignore[operator]
        b_crit.append(two_term.values["B_crit"])
    assert b_crit == sorted(b_crit)
    assert b_crit[0] == pytest.approx(2200, rel=0.02)
    assert b_crit[-1] == pytest.approx(11_100, rel=0.02)


@pytest.mark.parametrize(
    ("n", "preferred", "words"),
    [
        (models.hyperbola(SIZES, 1000, 3.3), "hyperbola", "the paper's form"),
        (models.two_term(SIZES, 1000, 90), "two_term", "no minimum inside"),
        (models.power_law(SIZES, 1000, 40, 2.0), "power_law", "the power law"),
    ],
    ids=["hyperbola", "two_term", "power_law"],
)
def test_the_form_that_made_the_data_is_found(n: models.Array, preferred: str, words: str) -> None:
    one = fit(runs(dict(zip(SIZES, n, strict=True)), 5, 0.05))
    found = one.forms
    assert found.behind(preferred) < 2
    assert words in verdict(one)
    assert not one.tests[preferred].rejected
    if preferred != "hyperbola":
        assert one.tests["hyperbola"].rejected
        assert "the paper's form is rejected (p = 0.005)" in sentence(one)
    best = found.form(preferred)
    assert best is not None
    assert best.left_out is not None
    assert best.left_out < 0.08
    if preferred == "power_law":
        assert best.b_star == pytest.approx(40, rel=0.1)
        assert found.behind("two_term") > 10
        low, high = best.intervals["p"]
        assert low < 2 < high  # type: ignore[operator]


def test_on_a_rising_curve_every_falling_form_is_the_flat_one() -> None:
    """At their limits the forms are all N = constant: equally likely, to the last digits."""
    rng = np.random.default_rng(1)
    rows: Rows = [
        (b, s, "reached", math.nan, 100 * b**0.4 * math.exp(0.05 * rng.normal())) for b in SIZES for s in range(2)
    ]
    found = fit_forms(curve(rows))
    values = [form.log_likelihood for form in found.ranked]
    assert max(values) - min(values) < 1e-2


def test_steps_in_the_data_are_no_formulas() -> None:
    n = {b: 4000.0 if b < 60 else 1000.0 for b in SIZES}
    found = fit_forms(runs(n, 6, 0.03))
    assert found.preferred is not None
    assert found.preferred.name == "monotone"
    assert found.preferred.levels is not None


@pytest.mark.parametrize("random", range(4))
def test_a_noisy_short_sweep_can_not_tell_the_forms_apart_and_says_so(random: int) -> None:
    n = dict(zip(SIZES[3:8], models.power_law(SIZES[3:8], 1000, 16, 1.2), strict=True))
    one = fit(runs(n, 3, 0.3, random))
    assert len(one.forms.close()) > 1
    assert verdict(one).startswith("Forms: this sweep can't tell these apart")


def test_too_few_runs_are_not_compared() -> None:
    assert fit_forms(runs({4: 100, 8: 50}, 3, 0.1)).ranked == []
    few = fit(runs({4: 100, 8: 60, 16: 50, 32: 48}, 1, 0.05))
    assert few.forms.preferred is None
    assert verdict(few) == "Too few runs to compare forms."
    assert "one seed a batch size can't tell the spread between seeds from a misfit" in sentence(few)


def test_b_crit_beyond_the_sweep_is_said() -> None:
    n = dict(zip(SIZES, models.two_term(SIZES, 100, 5000), strict=True))
    one = fit(runs(n, 3, 0.02))
    assert any("lies beyond the largest batch size that reached, 1024" in note for note in notes(one))


def test_left_out_prediction_is_of_batch_sizes_that_were_left_out() -> None:
    """One outlying batch size is not predicted by the rest, though the curve with it would pass near."""
    n = dict(zip(SIZES, models.two_term(SIZES, 1000, 90), strict=True))
    clean, spoilt = fit_forms(runs(n, 2, 0.01)), fit_forms(runs({**n, 32.0: 3 * n[32.0]}, 2, 0.01))
    alone, apart = clean.form("monotone"), spoilt.form("monotone")
    assert alone is not None
    assert apart is not None
    assert apart.left_out > alone.left_out + 0.2  # type: ignore[operator]
    one, other = clean.form("two_term"), spoilt.form("two_term")
    assert one is not None
    assert other is not None
    assert one.left_out < 0.02  # type: ignore[operator]
    assert other.left_out > math.log(3) / math.sqrt(len(SIZES) - 2) * 0.9  # type: ignore[operator]
