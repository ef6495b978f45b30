"""Comparing two arms: exact tests and Student's t against scipy, what censoring leaves open, rates by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.compare.contrast import Contrast, Sample, contrast, corrected, power
from analysis.compare.exact import holm, least_p, permutation, ranks_of_median, sign_flip
from analysis.fitting.models import Array


def sample(values: list[float] | Array, missed: list[int] | None = None, first: int = 0) -> Sample:
    taken = np.asarray(values, float)
    n = len(taken)
    unknown = np.zeros(n) if missed is None else np.asarray(missed)
    return Sample(tuple(range(first, first + n)), taken, unknown.astype(bool), np.zeros(n))


NUMBERS = st.integers(-300, 300).map(lambda k: k / 64)  # whose sums are exact


@settings(max_examples=30)
@given(st.lists(NUMBERS, min_size=2, max_size=7))
def test_sign_flips_are_scipys(differences: list[float]) -> None:
    d = np.array(differences)
    known = stats.permutation_test((d,), lambda x: abs(x.sum()), permutation_type="samples", alternative="greater")
    assert sign_flip(d) == pytest.approx(known.pvalue)


@settings(max_examples=30)
@given(st.lists(NUMBERS, min_size=2, max_size=5), st.lists(NUMBERS, min_size=2, max_size=4))
def test_permutations_are_scipys(one: list[float], other: list[float]) -> None:
    def gap(x: Array, y: Array) -> float:
        return abs(np.mean(x) - np.mean(y)).round(9)

    known = stats.permutation_test((one, other), gap, permutation_type="independent", alternative="greater")
    assert permutation(np.array(one), np.array(other)) == pytest.approx(known.pvalue)


def test_of_ranks_sign_flips_are_wilcoxons_exact_test() -> None:
    rng = np.random.default_rng(0)
    for n in (5, 8, 12):
        d = rng.normal(0.4, 1, n)
        ranked = np.sign(d) * stats.rankdata(np.abs(d))
        assert sign_flip(ranked) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


def test_what_few_seeds_can_give_at_least() -> None:
    assert sign_flip(np.array([3.0, 1.0, 2.0, 5.0, 4.0])) == least_p(5) == 2 / 32
    assert permutation(np.arange(5.0), np.arange(9.0, 14.0)) == pytest.approx(least_p(5, 5)) == pytest.approx(2 / 252)
    assert permutation(np.arange(2.0), np.arange(9.0, 12.0)) == least_p(2, 3) == 1 / 10


def test_drawn_arrangements_come_near_to_all_of_them() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.25, 1, 40)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)
    a, b = rng.normal(0, 1, 30), rng.normal(0.4, 1, 30)
    assert permutation(a, b) == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=0.01)


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


@settings(max_examples=20)
@given(st.integers(6, 40))
def test_ranks_of_the_median_are_scipys(n: int) -> None:
    values = np.arange(float(n))
    k, confidence = ranks_of_median(n)
    known = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert confidence >= 0.95
    assert known.low <= values[k] <= values[-1 - k] <= known.high  # scipy's two ends may differ by one
    assert ranks_of_median(n, confidence + 1e-3)[0] <= k


def test_five_seeds_hold_the_median_with_94_percent() -> None:
    assert ranks_of_median(5) == (0, 1 - 2 / 32)
    assert ranks_of_median(6) == (0, 1 - 2 / 64)


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_where_every_run_arrived_it_is_students_t(n: int, random: int) -> None:
    rng = np.random.default_rng(random)
    a, b = np.exp(rng.normal(0, 0.2, n)), np.exp(rng.normal(0.1, 0.3, n))
    paired, apart = contrast(sample(a), sample(b)), contrast(sample(a), sample(b, first=100))
    known = stats.ttest_rel(np.log(a), np.log(b))
    assert paired.paired
    assert paired.p == pytest.approx(known.pvalue, rel=1e-6)
    assert paired.ratio == pytest.approx(math.exp(np.log(a / b).mean()), rel=1e-6)
    assert paired.ratio_ci == pytest.approx(np.exp(known.confidence_interval()), rel=1e-4)
    welch = stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    assert not apart.paired
    assert apart.p == pytest.approx(welch.pvalue, rel=1e-6)
    assert apart.ratio_ci == pytest.approx(np.exp(welch.confidence_interval()), rel=1e-3)


@pytest.mark.parametrize("level", [0.05, 0.001])
@pytest.mark.parametrize(("n", "effect"), [(3, 2.0), (5, 1.0), (10, 1.0), (60, 0.4)])
def test_power_is_that_of_the_noncentral_t(n: int, effect: float, level: float) -> None:
    nc = effect * math.sqrt(n)
    known = stats.nct.sf(stats.t.ppf(1 - level / 2, n - 1), n - 1, nc)
    assert power(nc, n - 1, level) == pytest.approx(known, abs=2e-4)


def test_seeds_needed_are_those_at_which_simulated_trials_decide() -> None:
    pattern = np.array([-1.2, -0.3, 0.0, 0.4, 1.1])
    d = 0.12 + 0.2 * (pattern - pattern.mean()) / pattern.std(ddof=1)
    found = contrast(sample(np.exp(d)), sample(np.ones(5)))
    assert found.needed == 24
    rng = np.random.default_rng(0)
    for n, low, high in ((24, 0.79, 0.83), (12, 0.4, 0.55)):
        drawn = rng.normal(0.12, 0.2, (4000, n))
        decided = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue <= 0.05)
        assert low < decided < high
    assert contrast(sample(np.exp(d)), sample(np.ones(5)), pairs=10).needed > 24  # type: ignore[operator]


def test_a_miss_bounds_the_ratio_from_one_side() -> None:
    quick = [50.0, 40.0, 60.0, 55.0, 45.0]
    all_missed = contrast(sample([100.0] * 5, [1] * 5), sample(quick))
    low, high = all_missed.ratio_ci
    assert low is not None
    assert 1 < low <= 100 / 45
    assert (all_missed.ratio, high) == (None, None)
    assert all_missed.decided
    assert all_missed.sign == 1
    some_missed = contrast(sample(quick), sample([100.0, 100.0, 90.0, 100.0, 80.0], [1, 1, 0, 1, 0]))
    assert some_missed.ratio_ci[0] is None
    assert some_missed.ratio_ci[1] < 1  # type: ignore[operator]
    assert some_missed.sign == -1


def test_where_nothing_arrived_nothing_is_claimed() -> None:
    found = contrast(sample([50.0] * 5, [1] * 5), sample([100.0] * 5, [1] * 5))
    assert (found.p, found.p_exact, found.ratio, found.ratio_ci) == (1.0, 1.0, None, (None, None))
    assert found.needed == math.inf
    assert not found.decided


def test_a_run_given_up_early_says_no_more_than_it_saw() -> None:
    """One arm was given up before the other's runs arrived: no order is known."""
    found = contrast(sample([10.0] * 6, [1] * 6), sample([50.0, 40.0, 60.0, 55.0, 45.0, 52.0]))
    assert found.p == 1.0
    assert not found.decided


def test_a_diverged_run_is_later_than_any_that_arrived() -> None:
    found = contrast(sample([math.inf] * 6, [1] * 6), sample([50.0, 40.0, 60.0, 55.0, 45.0, 52.0]))
    assert found.sign == 1
    assert found.ratio_ci[1] is None


def test_runs_that_agree_to_an_evaluation_are_not_known_to_agree_better() -> None:
    """Three pairs with the same bracket each: spread 0 as seen, and yet no certainty."""
    lows = np.full(3, 100 / 1.3)
    one, other = (Sample((0, 1, 2), np.full(3, v), np.zeros(3, bool), lows * v / 100) for v in (100.0, 120.0))
    found = contrast(one, other)
    assert found.p > 0.05  # type: ignore[operator]
    assert found.ratio_ci[0] < found.ratio < found.ratio_ci[1]  # type: ignore[operator]


def test_one_seed_gives_a_ratio_and_no_test() -> None:
    found = contrast(sample([10.0]), sample([20.0]))
    assert found.ratio == pytest.approx(0.5, rel=1e-3)
    assert (found.p, found.p_exact, found.decided) == (None, None, False)
    assert contrast(sample([]), sample([20.0])).ratio is None


def test_pairs_without_a_test_are_not_counted() -> None:
    known, unknown = contrast(sample([1.0, 1.1]), sample([2.0, 2.3])), contrast(sample([1.0]), sample([2.0]))
    one, other, missing = corrected([known, known, unknown])
    assert one.p_holm == other.p_holm == min(1.0, 2 * known.p)  # type: ignore[operator]
    assert missing.p_holm is None


Draw = Callable[[np.random.Generator, int], Array]
LAWS: dict[str, Draw] = {
    "lognormal": lambda rng, n: np.exp(0.3 * rng.normal(size=n)),
    "skewed": lambda rng, n: 0.3 + rng.exponential(size=n),
    "heavy": lambda rng, n: np.exp(0.2 * rng.standard_t(3, size=n)),
}


def censored(values: Array, at: float, first: int = 0) -> Sample:
    """On evaluations 5 % apart, given up at a budget."""
    grid = 1.05 ** np.ceil(np.log(values) / math.log(1.05))
    missed = grid > at
    lows = np.where(missed, math.nan, grid / 1.05)
    return Sample(tuple(range(first, first + len(values))), np.where(missed, at, grid), missed, lows)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("first", [0, 100], ids=["paired", "apart"])
@pytest.mark.parametrize("budgets", [(9.0, 9.0), (1.0, 1.0), (0.9, 1.6)], ids=["all", "half", "unequal"])
def test_arms_that_are_alike_are_rarely_told_apart(law: str, first: int, budgets: tuple[float, float]) -> None:
    """At most 5 %, and three standard errors for 120 draws; with half of the runs censored, or unequally so."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(120):
        a, b = LAWS[law](rng, 5), LAWS[law](rng, 5)
        found: Contrast = contrast(censored(a, budgets[0]), censored(b, budgets[1], first))
        wrong += found.decided
    assert wrong / 120 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)


@pytest.mark.parametrize("budget", [99.0, 1.3], ids=["all", "censored"])
def test_intervals_hold_the_ratio(budget: float) -> None:
    """95 % intervals over 200 draws, where a third of one arm is censored too."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        seed = 0.2 * rng.normal(size=5)
        a, b = np.exp(seed + 0.2 * rng.normal(size=5)), 0.7 * np.exp(seed + 0.2 * rng.normal(size=5))
        low, high = contrast(censored(a, budget), censored(b, budget)).ratio_ci
        held += (low is None or low <= 1 / 0.7) and (high is None or high >= 1 / 0.7)
    assert held / 200 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 200)
