"""The test of a form: how often it rejects what is true, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.fitting.goodness import FEW, REJECTED, Goodness, goodness
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import HYPERBOLA, POWER_LAW, TWO_TERM, Model
from benchmarks.simulated import Row, drawn
from tests.analysis.simulation import curve, runs


def p_values(row: Row, model: Model = HYPERBOLA, sweeps: int = 16) -> list[float]:
    """p of the first sweeps of a row; those that can't be told are left out."""
    found = [goodness(Observations.of(drawn(row, number).sweep().frame), model) for number in range(sweeps)]
    return [one.p for one in found if one.p is not None]


@pytest.mark.parametrize(
    ("row", "model"),
    [
        (Row("hyperbola"), HYPERBOLA),
        (Row("hyperbola", seeds=2, growth=0.3), HYPERBOLA),
        (Row("two-term"), TWO_TERM),
        (Row("power", 1.5), POWER_LAW),
        (Row("hyperbola", coarse=True), HYPERBOLA),
    ],
    ids=["hyperbola", "growing spread", "two-term", "power law", "coarse cadence"],
)
def test_a_form_that_holds_is_rarely_rejected(row: Row, model: Model) -> None:
    """Of 16 p-values, four below 0.05 have 0.7 %, two below 0.01 have 1.1 %."""
    p = np.array(p_values(row, model))
    assert len(p) >= 14
    assert (p < 0.01).sum() < 2, p
    assert (p < 0.05).sum() < 4, p
    assert p.max() > 0.5


@pytest.mark.parametrize(
    "row", [Row("two-term"), Row("power", 1.5, seeds=5), Row("power", 3.0), Row("piecewise", seeds=5)]
)
def test_a_form_that_does_not_hold_is_found(row: Row) -> None:
    p = np.array(p_values(row, sweeps=8))
    assert (p < REJECTED).mean() >= 0.6, p


def test_one_seed_a_size_cant_tell_spread_from_misfit() -> None:
    found = goodness(Observations.of(drawn(Row("power", 3.0, seeds=1), 0).sweep().frame), HYPERBOLA)
    assert found.p is None
    assert not found.rejected
    assert "one seed" in found.why


def test_as_few_sizes_as_parameters_cant_be_tested() -> None:
    seen = Observations.of(curve(runs((4, 900), (8, 500), seeds=3, spread=0.1)).frame)
    found = goodness(seen, HYPERBOLA)
    assert (found.p, found.rejected) == (None, False)
    assert "2 batch sizes only" in found.why
    three = Observations.of(curve(runs((4, 900), (8, 500), (16, 420), seeds=3, spread=0.1)).frame)
    assert goodness(three, HYPERBOLA).bends == 1
    assert goodness(three, POWER_LAW).p is None


def test_a_form_is_rejected_below_one_per_cent() -> None:
    assert Goodness(0.0099).rejected
    assert not Goodness(0.01).rejected


def test_p_is_a_share_of_simulated_sweeps_and_never_zero() -> None:
    """An exact misfit by a factor: no simulated sweep gains as much, so p = 1/(sweeps + 1)."""
    rows = runs((2, 4000), (4, 500), (8, 900), (16, 100), (32, 300), seeds=4, spread=0.01)
    found = goodness(Observations.of(curve(rows).frame), HYPERBOLA)
    assert found.p == pytest.approx(1 / (FEW + 1), rel=0.2)
    assert found.rejected
    assert found.gain > 20


def test_it_is_the_same_every_time_and_unmoved_by_units() -> None:
    rows = runs((2, 4000), (4, 1500), (8, 900), (16, 620), (32, 500), seeds=3, spread=0.2)
    one = goodness(Observations.of(curve(rows).frame), HYPERBOLA)
    again = goodness(Observations.of(curve(rows).frame), HYPERBOLA)
    assert one == again
    scaled = [(4 * b, s, outcome, math.nan, 10 * steps) for b, s, outcome, _, steps in rows]
    other = goodness(Observations.of(curve(scaled).frame), HYPERBOLA)
    assert other.gain == pytest.approx(one.gain, abs=1e-3)
    assert other.p == pytest.approx(one.p, abs=0.02)
