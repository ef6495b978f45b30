"""What a run would tell: information and regret worked out by hand on two draws of a curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.adaptive.worth import Prospects
from analysis.fitting.noise import NEVER, NORMAL
from analysis.fitting.posterior import Posterior, posterior, runs_of
from analysis.fitting.prior import Spreads
from tests.analysis.simulation import curve

B = (1, 2, 4)
# N(b) on two draws: b* is 1 on the first, 4 on the second; a run at 2 arrives at 100 or at 10,000.
DRAWN = np.log([[200.0, 100.0, 100.0], [20_000.0, 10_000.0, 50.0]])
SEEN = [
    (32, 0, "reached", 190, 200),
    (8, 0, "reached", 290, 305),
    (4, 0, "censored", 600, 600),
    (64, 0, "censored", 100, 100),
    (16, 0, "diverged", 7, 7),
]


def known(log_n: np.ndarray, sigma: float = 1e-3) -> Posterior:
    count = len(log_n)
    flat = np.zeros(count)
    spreads = Spreads(0.0, 0.0, np.full(count, sigma), flat, flat, np.full(count, NORMAL), flat)
    sizes = np.array(B, float)
    return Posterior(sizes, np.log(sizes), np.arange(len(B)), log_n, spreads, np.full(count, 1 / count))


def two(regret: np.ndarray | None = None) -> Prospects:
    return Prospects(known(DRAWN), np.array([0, 1]), 2, regret, math.log(200), (1.0, 4.0))


def entropy(*chance: float) -> float:
    return -sum(p * math.log(p) for p in chance if p > 0)


def test_a_run_that_tells_two_curves_apart_tells_one_bit() -> None:
    """But for the runs that never arrive on either curve."""
    one = two()
    found = one.worth(one.imagined([]), 2, 0.0, 1000, any_arrived=True)
    assert found is not None
    not_yet = 0.5 * NEVER + 0.5
    left = not_yet * entropy(0.5 * NEVER / not_yet, 0.5 / not_yet)
    assert 100 <= found.until <= 110
    steps = 0.5 * (1 - NEVER) * 100 + not_yet * found.until
    assert found.rate == pytest.approx((math.log(2) - left) / steps, rel=0.05)
    assert found.enough


def test_what_a_run_at_work_will_tell_is_not_told_twice() -> None:
    one = two()
    weights = one.imagined([(2, 0.0, 1000.0)])
    assert weights.sum(1) == pytest.approx(1)
    assert weights[:, 0].mean() == pytest.approx(0.5, abs=0.02)  # it ends either way in half of the draws
    alone = one.worth(one.imagined([]), 2, 0.0, 1000, any_arrived=True)
    beside = one.worth(weights, 2, 0.0, 1000, any_arrived=True)
    assert alone is not None
    assert beside is not None
    assert beside.rate < 0.1 * alone.rate


def test_a_run_that_cannot_tell_tells_nothing() -> None:
    """Both curves agree at the largest size once they are equal there."""
    same = known(np.log([[200.0, 100.0, 50.0], [20_000.0, 10_000.0, 50.0]]))
    one = Prospects(same, np.array([0, 1]), 2, None, math.log(200), (1.0, 4.0))
    found = one.worth(one.imagined([]), 4, 0.0, 1000, any_arrived=True)
    assert found is not None
    assert found.rate == pytest.approx(0, abs=1e-9)
    assert not found.enough


def test_the_fall_of_the_regret_is_what_it_is_by_hand() -> None:
    """Without a run, the third size costs 0.3 half the time; after it, only where a run that should arrive doesn't."""
    one = two(np.array([[0.0, 0.5, 0.3], [0.4, 0.5, 0.0]]))
    found = one.worth(one.imagined([]), 2, 0.0, 1000, any_arrived=True)
    assert found is not None
    fall = 0.5 * 0.3 - 0.5 * NEVER * 0.3
    steps = 0.5 * (1 - NEVER) * 100 + (0.5 + 0.5 * NEVER) * found.until
    assert found.rate == pytest.approx(fall / steps, rel=0.05)
    assert found.enough


def test_while_nothing_arrived_the_chance_to_arrive_counts() -> None:
    one = two()
    found = one.worth(one.imagined([]), 2, 0.0, 1000, any_arrived=False)
    assert found is not None
    assert found.rate * found.until == pytest.approx(0.5, rel=0.1)
    assert one.worth(one.imagined([]), 2, 1000.0, 1000, any_arrived=False) is None


def test_a_run_that_is_dearer_for_certain_goes_no_further() -> None:
    one = two()
    dear = one.dear(2)
    assert dear == pytest.approx(100, rel=0.01)
    assert one.worth(one.imagined([]), 2, dear, 1000, any_arrived=True) is None
    far = one.worth(one.imagined([]), 1, 0.0, 10_000, any_arrived=True, at_least=199.0)
    assert far is not None
    assert 199 <= far.until <= 202


@pytest.fixture(scope="module")
def drawn() -> Posterior:
    found = posterior(runs_of(curve(SEEN).frame), (2, 4, 8, 16, 32, 64))
    assert found is not None
    return found


@given(
    b=st.sampled_from([2, 4, 8, 16, 32, 64]),
    done=st.floats(0, 2000),
    most=st.integers(1, 2000),
    arrived=st.booleans(),
    by_regret=st.booleans(),
    at_least=st.sampled_from([0.0, 100.0, 5000.0]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_told_is_bounded_and_a_grant_always_goes_on(
    drawn: Posterior, b: int, done: float, most: int, arrived: bool, by_regret: bool, at_least: float
) -> None:
    one = Prospects.of(drawn, by_regret)
    weights = one.imagined([(32, 0.0, 300.0), (4, 600.0, 900.0)])
    found = one.worth(weights, b, done, most, arrived, at_least)
    if found is None:
        assert done >= most or (arrived and done >= one.dear(b))
        return
    assert done < found.until <= most
    if arrived:
        assert found.until <= math.ceil(max(one.dear(b), 1.4 * done, min(at_least, most)))
    cells = np.bincount(one.cell, minlength=one.cells) / len(one.cell)
    most_told = 1.0 if not arrived else 2.0 if by_regret else entropy(*cells)
    assert 0 <= found.rate <= most_told
