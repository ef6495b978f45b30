"""The posterior of a curve: against quadrature, and what may not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from analysis.fitting import prior
from analysis.fitting.cheapest import Cheapest, cheapest
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import Array
from analysis.fitting.noise import NEVER, NORMAL
from analysis.fitting.posterior import ENOUGH, Posterior, posterior, runs_of
from benchmarks.simulated import Row, drawn
from tests.analysis.simulation import Rows, curve, runs

NAN = math.nan


def known(rows: Rows) -> Posterior:
    found = posterior(runs_of(curve(rows).frame))
    assert found is not None
    return found


def said(rows: Rows) -> Cheapest:
    return cheapest(known(rows))


def by_quadrature(seen: Observations, at: tuple[Array, Array]) -> dict[str, float]:
    """Two batch sizes: the medians' posterior on a dense grid, summed over every combination that the prior knows.

    No site, no draw and no weight: the prior's normal densities times scipy's likelihood.
    """
    sizes = np.unique(seen.b)
    x = np.log(sizes)
    known = prior.spreads(0.5 * float(x[0] + x[-1]), float(np.log(seen.b[seen.reached].min())))
    sigma = known.at(x)
    told = []
    for k, grid in enumerate(at):
        here = seen.b == sizes[k]
        rows = np.empty((len(known.sigma), len(grid)))
        for m in range(len(rows)):
            law = norm if known.tails[m] == NORMAL else student(4)
            high = law.cdf((seen.high[here, None] - grid) / sigma[m, k])
            low = law.cdf((seen.low[here, None] - grid) / sigma[m, k])
            never = np.where(np.isinf(seen.high[here, None]), NEVER, 0.0)
            rows[m] = np.log(np.maximum((1 - NEVER) * (high - low) + never, 1e-300)).sum(0)
        told.append(rows)
    runs = np.einsum(
        "m,ma,mb->ab", np.exp(known.log_weight), np.exp(told[0] - told[0].max()), np.exp(told[1] - told[1].max())
    )
    arrived = seen.b[seen.reached]
    tiles = prior.tiles(x, float(np.log(arrived.min())))
    centre = float(np.median(seen.high[seen.reached]))
    before = np.zeros_like(runs)
    correlation = prior.departure(x, x)
    for form, moves, weight in zip(tiles.form, tiles.moves, tiles.log_weight, strict=True):
        for size, share in zip(prior.DEPARTURES, prior.DEPARTURE_WEIGHTS, strict=True):
            covariance = prior.LOCATION**2 * np.ones((2, 2)) + moves @ moves.T + size**2 * correlation
            inverse = np.linalg.inv(covariance)
            u, v = at[0][:, None] - centre - form[0], at[1][None] - centre - form[1]
            square = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
            before += math.exp(weight) * share * np.exp(-0.5 * square) / math.sqrt(np.linalg.det(covariance))
    mass = before * runs * np.gradient(at[0])[:, None] * np.gradient(at[1])[None]
    mass /= mass.sum()
    one, other = mass.sum(1), mass.sum(0)
    means = (one @ at[0], other @ at[1])
    return {
        "first": means[0],
        "first spread": math.sqrt(one @ (at[0] - means[0]) ** 2),
        "second": means[1],
        "second spread": math.sqrt(other @ (at[1] - means[1]) ** 2),
        "first is dearer": mass[at[0][:, None] + x[0] > at[1][None] + x[1]].sum(),
    }


def grid(steps: float, reach: float, near: float = 0.03) -> Array:
    """ln N densely around a number of steps and up to `reach` on both sides."""
    return math.log(steps) + near * np.sinh(np.linspace(-1, 1, 301) * math.asinh(reach / near))


INTERVALS = [(8, 0, "reached", 500, 600), (8, 1, "reached", 450, 540)]
TWO_SIZES: dict[str, tuple[Rows, tuple[Array, Array]]] = {
    "intervals": (
        [(4, 0, "reached", 900, 1000), (4, 1, "reached", 1100, 1200), *INTERVALS, (8, 2, "reached", 620, 700)],
        (grid(1050, 4), grid(560, 4)),
    ),
    "exact and stopped": (
        [(4, 0, "reached", NAN, 1000), (4, 1, "censored", 1300, 1300), *runs((16, 400), seeds=3, spread=0.06)],
        (grid(1150, 20), grid(410, 4)),
    ),
    "below at once": (
        [(4, 0, "reached", 0, 1000), (4, 1, "reached", 900, 1100), *INTERVALS],
        (grid(1000, 6), grid(520, 4)),
    ),
    "one size never": (
        [(4, 0, "censored", 900, 900), (4, 1, "censored", 900, 900), *INTERVALS],
        (grid(900, 45, 0.1), grid(520, 4)),
    ),
}


@pytest.mark.parametrize("case", TWO_SIZES)
def test_two_sizes_are_what_quadrature_says(case: str) -> None:
    rows, at = TWO_SIZES[case]
    expected = by_quadrature(_bracketed(runs_of(curve(rows).frame)), at)
    found = known(rows)
    median = found.log_n[:, found.at]
    mean = found.weight @ median
    spread = np.sqrt(found.weight @ (median - mean) ** 2)
    error = 4 / math.sqrt(found.effective)
    for k, name in enumerate(("first", "second")):
        assert mean[k] == pytest.approx(expected[name], abs=error * expected[f"{name} spread"]), name
        assert spread[k] == pytest.approx(expected[f"{name} spread"], rel=2 * error), name
    dearer = found.weight @ (found.log_sfo[:, found.at[0]] > found.log_sfo[:, found.at[1]])
    p = expected["first is dearer"]
    assert dearer == pytest.approx(p, abs=error * math.sqrt(p * (1 - p)) + 0.005)


def _bracketed(seen: Observations) -> Observations:
    """An exact N is a bracket of a fifth of a per cent."""
    return Observations(seen.b, np.where(seen.exact, seen.high - 2e-3, seen.low), seen.high)


CURVE = runs((2, 4000), (4, 1500), (8, 900), (16, 620), (32, 500), seeds=3, spread=0.1)


def test_nothing_is_random() -> None:
    one, other = known(CURVE), known(CURVE)
    assert (one.log_n == other.log_n).all()
    assert (one.weight == other.weight).all()
    assert one.weight.sum() == pytest.approx(1)
    assert one.effective >= ENOUGH


def test_slower_steps_move_n_and_not_b_star() -> None:
    one = known(CURVE)
    other = known([(b, s, outcome, lower, 7.5 * steps) for b, s, outcome, lower, steps in CURVE])
    assert other.log_n == pytest.approx(one.log_n + math.log(7.5), abs=1e-6)
    assert other.weight == pytest.approx(one.weight, abs=1e-6)
    first, second = cheapest(one), cheapest(other)
    assert (first.b_star, first.low, first.high) == (second.b_star, second.low, second.high)
    assert second.least == pytest.approx(7.5 * first.least, rel=1e-6)


def test_twice_the_batch_sizes_are_twice_the_b_star() -> None:
    """What a sample is must not matter: images or pairs of images."""
    one, other = said(CURVE), said([(2 * b, *rest) for b, *rest in CURVE])
    assert other.b_star == pytest.approx(2 * one.b_star, rel=1e-6)
    assert (other.low, other.high) == pytest.approx((2 * one.low, 2 * one.high), rel=1e-6)
    assert other.probability == pytest.approx(one.probability, abs=1e-6)


def test_the_order_of_runs_does_not_matter() -> None:
    one = said(CURVE)
    order = np.random.default_rng(0).permutation(len(CURVE))
    other = said([CURVE[k] for k in order])
    assert other.probability == pytest.approx(one.probability, abs=1e-6)
    assert (other.b_star, other.low, other.high) == (one.b_star, one.low, one.high)


def test_a_size_that_was_stopped_early_may_be_the_best_until_it_has_spent_more_gradients_than_the_best() -> None:
    """b = 4 takes 6,000 gradients: runs at b = 2 that stopped before 3,000 steps tell nothing against b = 2."""
    rest = runs((4, 1500), (8, 1100), (16, 900), (32, 820), seeds=4, spread=0.03)

    def stopped(gradients: float) -> Cheapest:
        return said([*rest, *[(2, s, "censored", gradients / 2, gradients / 2) for s in range(4)]])

    early, late = stopped(3000), stopped(9000)
    assert early.open_low
    assert early.interval[0] is None
    assert early.probability[0] > 0.2
    assert not late.open_low
    assert late.low > 2
    assert late.probability[0] < 0.02


def test_runs_that_diverged_push_a_size_out() -> None:
    rest = runs((4, 1500), (8, 1100), (16, 900), (32, 820), seeds=4, spread=0.03)
    best = runs((2, 2000), seeds=4, spread=0.03)
    assert said([*best, *rest]).probability[0] > 0.9
    diverged = said([*[(2, s, "diverged", 60, 60) for s in range(4)], *rest])
    assert diverged.probability[0] < 0.05
    one = said([*best[:3], (2, 3, "diverged", 60, 60), *rest])
    assert one.probability[0] > 0.5  # the median of four runs still arrives


def test_a_spread_in_the_data_is_found() -> None:
    rng = np.random.default_rng(3)
    for sigma in (0.03, 0.3):
        rows = [
            (b, s, "reached", NAN, 1000 * (1 + 20 / b) * math.exp(sigma * rng.normal()))
            for b in (2, 4, 8, 16, 32, 64)
            for s in range(8)
        ]
        found = known(rows)
        middle = np.exp(found.weight @ np.log(found.spreads.at(np.log([8.0, 16.0]))).mean(1))
        assert middle == pytest.approx(sigma, rel=0.25)


def test_one_batch_size_is_the_best_of_those_tried_and_open_at_both_ends() -> None:
    found = known(runs((8, 1000), seeds=3, spread=0.1))
    assert found.log_n.shape[1] == 1
    one = cheapest(found)
    assert (one.b_star, one.low, one.high) == (pytest.approx(8), pytest.approx(8), pytest.approx(8))
    assert one.interval == (None, None)
    assert one.probability == pytest.approx([1.0])
    assert one.least == pytest.approx(8 * 1100, rel=0.1)


def test_where_nothing_arrived_anything_may_be_cheapest() -> None:
    """Stopped at equal gradients: open at both ends, and N is later than where runs were stopped."""
    found = known([(b, s, "censored", 4000 / b, 4000 / b) for b in (2, 4, 8, 16) for s in range(3)])
    assert np.isfinite(found.log_n).all()
    assert cheapest(found).interval == (None, None)
    assert (found.quantiles((0.5,))[0] > np.log(4000) - found.x).all()


def test_runs_that_say_nothing_are_no_posterior() -> None:
    nothing = np.array([2.0, 4.0])
    assert posterior(Observations(nothing, np.full(2, -np.inf), np.full(2, np.inf))) is None


def test_a_single_run_has_a_posterior() -> None:
    found = known([(8, 0, "reached", 900, 1000)])
    middle = found.quantiles((0.025, 0.5, 0.975))[:, 0]
    assert middle[0] < math.log(950) < middle[2]
    assert middle[1] == pytest.approx(math.log(950), abs=0.1)


def test_even_draws_tell_the_same() -> None:
    found = known(CURVE)
    even = found.even(500)
    assert even.weight == pytest.approx(np.full(500, 1 / 500))
    assert even.log_n.mean(0) == pytest.approx(found.weight @ found.log_n, abs=0.03)


def test_odd_sizes_stand_among_the_points() -> None:
    found = known(runs((3, 900), (5, 700), (24, 400), (25, 398), seeds=2, spread=0.1))
    assert np.exp(found.x[found.at]) == pytest.approx([3, 5, 24, 25])
    assert (np.diff(found.x) > 0).all()
    assert np.diff(found.x).max() <= math.log(2) / 4


@pytest.mark.parametrize(
    "row", [Row("hyperbola"), Row("power", 3.0, sigma=0.03, seeds=5), Row("late", 2.0, growth=0.3)]
)
def test_enough_draws_count(row: Row) -> None:
    for number in range(2):
        found = posterior(runs_of(drawn(row, number).sweep().frame))
        assert found is not None
        assert found.effective >= ENOUGH
