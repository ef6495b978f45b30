"""When evaluations fall, and what counts as a crossing."""

from hypothesis import given
from hypothesis import strategies as st

from cbs.outcome import Censored, Diverged, Evaluation, Reached, from_dict, settles, to_dict
from cbs.target import Ask, Cadence, crossing


def trajectory(*values: float | tuple[float, ...]) -> list[Evaluation]:
    rows = []
    for i, value in enumerate(values):
        first, *repeats = value if isinstance(value, tuple) else (value,)
        rows.append(Evaluation(10 * (i + 1), 0, 0.0, first, tuple(repeats)))
    return rows


def test_fixed_cadence() -> None:
    cadence = Cadence(every_steps=500, first_steps=1, precision=0.1)
    assert [cadence.following(s) for s in (0, 499, 500, 501)] == [500, 500, 1000, 1000]
    assert cadence.last(1999) == 1500
    assert cadence.last(499) == 0


@given(st.integers(1, 1000), st.floats(0.001, 1.0), st.integers(0, 50_000))
def test_geometric_cadence_has_its_precision(first: int, precision: float, step: int) -> None:
    cadence = Cadence(None, first, precision)
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


def test_outcomes_survive_a_round_trip_and_settle_requests() -> None:
    for outcome in (Reached(1, 2), Censored(100), Diverged(7)):
        assert from_dict(to_dict(4.5, outcome)) == (4.5, outcome)
    assert settles(Reached(1, 2), 10**9)
    assert settles(Diverged(7), 10**9)
    assert settles(Censored(100), 100)
    assert not settles(Censored(100), 101)
    assert not settles(None, 1)


@given(
    st.builds(Cadence, st.none() | st.integers(1, 900), st.integers(1, 500), st.floats(0.02, 1)),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_evaluations_are_counted_as_they_come(cadence: Cadence, step: int, until: int) -> None:
    at, count = cadence.following(step), 0
    while at <= until:
        at, count = cadence.following(at), count + 1
    assert cadence.count(step, until) == count
