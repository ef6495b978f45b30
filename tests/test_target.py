"""When evaluations fall, and what counts as a crossing."""

import math
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from operator import mul

from hypothesis import given
from hypothesis import strategies as st

from cbs.outcome import METRICS, Censored, Diverged, Evaluation, Metric, Reached, from_dict, settles, to_dict, told
from cbs.target import Ask, Cadence, Even, Geometric, crossing

FALLING, RISING = Metric("less"), Metric("more", rising=True)


def trajectory(*values: float | tuple[float, ...]) -> list[Evaluation]:
    rows = []
    for i, value in enumerate(values):
        first, *repeats = value if isinstance(value, tuple) else (value,)
        rows.append(Evaluation(10 * (i + 1), 0, 0.0, first, tuple(repeats)))
    return rows


def test_fixed_cadence() -> None:
    cadence = Cadence(Even(500), int)
    assert [cadence.following(s) for s in (0, 499, 500, 501)] == [500, 500, 1000, 1000]
    assert cadence.last(1999) == 1500
    assert cadence.last(499) == 0


def marks(first: int, precision: float, count: int) -> list[int]:
    """G_0 = first, G_{k+1} = max(G_k + 1, ⌊G_k (1 + precision)⌋)."""
    found = [first]
    while len(found) < count:
        found.append(max(found[-1] + 1, math.floor(found[-1] * (1 + precision))))
    return found


@given(st.integers(1, 1000), st.floats(0.001, 1.0), st.integers(1, 2000), st.integers(1, 120))
def test_the_geometric_cadence_is_due_at_the_same_gradients_at_every_batch_size(
    first: int, precision: float, b: int, count: int
) -> None:
    """An evaluation follows the first step by which its gradients are spent; those of one step are one."""
    cadence = Cadence(Geometric(first, precision), partial(mul, b))
    due = list(dict.fromkeys(-(-g // b) for g in marks(first, precision, count) if g < 2**53))
    step, found = 0, []
    for _ in due:
        found.append(step := cadence.following(step))
    assert found == due
    assert cadence.last(due[-1]) == due[-1]
    assert cadence.last(due[0] - 1) == 0
    assert all(cadence.last(later - 1) == earlier for earlier, later in pairwise(due))
    assert cadence.count(0, due[-1]) == len(due)


def test_the_geometric_cadence_in_numbers() -> None:
    def evaluations(b: int) -> list[int]:
        cadence = Cadence(Geometric(2000, 0.05), partial(mul, b))
        return [step := 0, *(step := cadence.following(step) for _ in range(5))][1:]

    assert evaluations(1) == [2000, 2100, 2205, 2315, 2430]
    assert evaluations(64) == [32, 33, 35, 37, 38]
    assert evaluations(1024) == [2, 3, 4, 5, 6]


@given(st.integers(1, 1000), st.floats(0.001, 1.0), st.integers(0, 50_000))
def test_geometric_cadence_has_its_precision(first: int, precision: float, step: int) -> None:
    cadence = Cadence(Geometric(first, precision), int)
    following = cadence.following(step)
    assert following > step
    assert following == max(first, following)
    after = cadence.following(following)
    assert after - following <= max(1, precision * following * (1 + 1e-12))
    assert cadence.last(following) == following
    assert cadence.last(after - 1) == following


def test_a_crossing_needs_its_confirmation() -> None:
    assert crossing(trajectory(9, 7), 5, 1) is None
    assert crossing(trajectory(9, 4), 5, 1) == Ask(1)
    assert crossing(trajectory(9, (4, 6)), 5, 1) is None
    assert crossing(trajectory(9, (4, 5)), 5, 1) == Reached(10, 20)
    assert crossing(trajectory(9, 4), 5, 0) == Reached(10, 20)
    assert crossing(trajectory(9, (4, 5)), 5, 2) == Ask(1)


def test_the_bracket_starts_at_the_last_evaluation_that_did_not_count() -> None:
    assert crossing(trajectory(9, (4, 6), (4, 4)), 5, 1) == Reached(20, 30)
    assert crossing(trajectory((4, 4)), 5, 1) == Reached(0, 10)


def test_nan_is_never_below() -> None:
    assert crossing(trajectory(float("nan")), 5, 0) is None
    assert crossing(trajectory((4, float("nan"))), 5, 1) is None


@given(st.lists(st.floats(0, 10), max_size=30), st.floats(1, 9), st.floats(0, 1))
def test_a_lower_threshold_is_never_reached_earlier(values: list[float], threshold: float, share: float) -> None:
    high = crossing(trajectory(*values), threshold, 0)
    low = crossing(trajectory(*values), threshold * share, 0)
    if isinstance(low, Reached):
        assert isinstance(high, Reached)
        assert high.first_below <= low.first_below


values_and_repeats = st.lists(
    st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)) | st.tuples(st.floats(0, 10)), max_size=12
)


@given(values_and_repeats, st.floats(0.1, 9), st.integers(0, 2))
def test_a_rising_metric_is_a_falling_one_in_the_mirror(
    values: list[tuple[float, ...]], threshold: float, confirmations: int
) -> None:
    """What crosses from below is what −values cross from above, its brackets, asks and NaNs included."""
    mirrored = [tuple(-v for v in one) for one in values]
    found = crossing(trajectory(*values), threshold, confirmations, RISING)
    assert found == crossing(trajectory(*mirrored), -threshold, confirmations, FALLING)


@given(st.lists(st.floats(0, 10), max_size=30), st.lists(st.floats(0.1, 9), min_size=1, max_size=4))
def test_thresholds_are_ordered_from_the_easiest(values: list[float], thresholds: list[float]) -> None:
    """A run that has passed one has passed all before it, whichever side is the better one."""
    for metric in (FALLING, RISING):
        ordered = metric.ordered(thresholds)
        assert ordered[-1] == metric.hardest(thresholds)
        passed = [isinstance(crossing(trajectory(*values), t, 0, metric), Reached) for t in ordered]
        assert passed == sorted(passed, reverse=True)
        assert all(metric.arrived(harder, easier) for easier, harder in pairwise(ordered))


def test_more_is_better_of_one_metric_only() -> None:
    assert {name for name, metric in METRICS.items() if metric.rising} == {"inception_score"}


def test_a_crossing_from_below_needs_its_confirmation() -> None:
    score = METRICS["inception_score"]
    assert crossing(trajectory(1, 2), 2.5, 1, score) is None
    assert crossing(trajectory(1, 2.5), 2.5, 1, score) == Ask(1)
    assert crossing(trajectory(1, (2.6, 2.4), (2.6, 2.5)), 2.5, 1, score) == Reached(20, 30)
    assert crossing(trajectory((2.6, math.nan), math.nan), 2.5, 1, score) is None


def test_outcomes_in_words() -> None:
    known = {4.0: Reached(10, 1725), 2.0: Censored(9000), 3.0: Censored(8000, "abandoned"), 1.0: Diverged(7)}
    fid, score = METRICS["fid"], METRICS["inception_score"]
    assert told(known, fid) == (
        "≤ 4 at step 1,725, above 3 at step 8,000 (abandoned), above 2 at step 9,000 (censored), diverged at step 7"
    )
    assert told({2.5: Reached(10, 1725), 3.0: Censored(9000)}, score) == (
        "≥ 2.5 at step 1,725, below 3 at step 9,000 (censored)"
    )


@given(st.floats(0.01, 20), st.integers(1, 5000), st.integers(1, 64), st.integers(1, 3), st.integers(1, 40))
def test_epochs_fall_at_the_first_step_that_has_seen_them(
    epochs: float, images: int, b: int, critic_steps: int, k: int
) -> None:
    every = Fraction(str(epochs)) * images
    cadence = Cadence(Even(every), partial(mul, b * critic_steps))
    at = math.ceil(k * every / (b * critic_steps))
    assert cadence.following(at - 1) == at
    assert cadence.last(at) == at
    assert cadence.last(at - 1) < at


def test_the_thesiss_epochs() -> None:
    """5,000 iterations at b = 64 are 6.4 epochs of 50,000 images."""
    cadence = Cadence(Even(Fraction("6.4") * 50_000), partial(mul, 64))
    assert [cadence.following(at) for at in (0, 4999, 5000, 7500)] == [5000, 5000, 10_000, 10_000]
    assert cadence.last(500_000) == 500_000
    assert cadence.count(0, 500_000) == 100


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.fractions(1, 500), st.integers(0, 80))
def test_epochs_are_counted_whatever_the_batch_sizes(sizes: list[int], every: Fraction, step: int) -> None:
    """Against a walk step by step: an evaluation wherever another multiple has been passed."""
    seen = [0, *accumulate(sizes[min(i, len(sizes) - 1)] for i in range(700))]
    steps = [s for s in range(1, len(seen)) if seen[s] // every > seen[s - 1] // every]
    cadence = Cadence(Even(every), lambda step: seen[min(step, 700)] + max(0, step - 700) * sizes[-1])
    after = [at for at in steps if at > step]
    if after:
        assert cadence.following(step) == after[0]
    assert cadence.last(step) == max((at for at in steps if at <= step), default=0)
    assert cadence.count(step, 150) == sum(step < at <= 150 for at in steps)


def test_outcomes_survive_a_round_trip_and_settle_requests() -> None:
    for outcome in (Reached(1, 2), Censored(100), Diverged(7)):
        assert from_dict(to_dict(4.5, outcome)) == (4.5, outcome)
    assert settles(Reached(1, 2), 10**9)
    assert settles(Diverged(7), 10**9)
    assert settles(Censored(100), 100)
    assert not settles(Censored(100), 101)
    assert not settles(None, 1)


@given(
    st.builds(
        Cadence,
        st.builds(Even, st.integers(1, 900)) | st.builds(Geometric, st.integers(1, 500), st.floats(0.02, 1)),
        st.builds(partial, st.just(mul), st.integers(1, 50)),
    ),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_evaluations_are_counted_as_they_come(cadence: Cadence, step: int, until: int) -> None:
    at, count = cadence.following(step), 0
    while at <= until:
        at, count = cadence.following(at), count + 1
    assert cadence.count(step, until) == count
