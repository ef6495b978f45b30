"""Which run next: the posterior against brute force, information worked out by hand, and sweeps that end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from analysis.adaptive.posterior import SIGMAS, Posterior, imagined, posterior, worth
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from analysis.adaptive.design import Options, Pending, Proposal, Seen, propose, state
from analysis.fitting.fit import fit
from analysis.fitting.likelihood import Observations, terms
from analysis.fitting.models import hyperbola
from benchmarks.adaptive import Scenario, adaptive, drawn, measure
from tests.analysis.simulation import curve

SIZES, WIDE = (2, 4, 8, 16, 32, 64), tuple(2**k for k in range(1, 11))
OPTIONS = Options(SIZES, dict.fromkeys(SIZES, 1000), 4)
Run = Callable[[Proposal], Seen]


def sfo(b: int) -> float:
    return float(b)


def censored(p: Proposal) -> Seen:
    return Seen(p.batch_size, p.seed, p.until, p.until, "censored")


def diverged(p: Proposal) -> Seen:
    return Seen(p.batch_size, p.seed, 10, 10, "diverged")


def arriving(n: Callable[[int], float]) -> Run:
    """Runs that arrive after n(b) steps, where they get so far."""

    def run(p: Proposal) -> Seen:
        steps = n(p.batch_size)
        if steps > p.until:
            return censored(p)
        return Seen(p.batch_size, p.seed, steps / 1.05, steps, "reached")

    return run


def swept(run: Run, options: Options = OPTIONS) -> list[Seen]:
    """One worker's sweep from its start to where nothing is proposed."""
    seen: dict[tuple[int, int], Seen] = {}
    for _ in range(200):
        proposals = propose(list(seen.values()), [], options, sfo, 1)
        if not proposals:
            return list(seen.values())
        (p,) = proposals
        before = seen.get((p.batch_size, p.seed))
        assert before is None or before.outcome == "censored"
        assert (before.steps if before else 0) < p.until <= options.most_steps[p.batch_size]
        assert 0 <= p.seed < options.seeds
        assert p.batch_size in options.sizes
        seen[p.batch_size, p.seed] = run(p)
    raise AssertionError("the sweep doesn't end")


SEEN = [
    Seen(32, 0, 190, 200, "reached"),
    Seen(8, 0, 290, 305, "reached"),
    Seen(4, 0, 600, 600, "censored"),
    Seen(64, 0, 100, 100, "censored"),
    Seen(16, 0, 7, 7, "diverged"),
]
FEW = [Seen(32, 0, 190, 200, "reached"), Seen(64, 0, 100, 100, "censored")]


def observations(seen: list[Seen]) -> Observations:
    return Observations.of(curve([(r.batch_size, r.seed, r.outcome, r.lower, r.steps) for r in seen]).frame)


def test_the_posterior_is_that_of_brute_force() -> None:
    """Against every b0, N∞ and σ on a dense grid, under the same prior and the same likelihood."""
    seen = observations(SEEN)
    found = posterior(seen, 2, 64, 1000)
    b0 = np.geomspace(0.25, 8 * (1 - 1e-3), 800)
    ln_n_inf = np.linspace(math.log(90), math.log(600), 120)
    density = np.zeros(len(b0))
    for sigma in SIGMAS:
        prior = math.exp(-0.5 * ((math.log(sigma) - math.log(0.12)) / 0.7) ** 2)
        for part in np.array_split(np.arange(len(b0)), 40):
            with np.errstate(divide="ignore"):
                eta = ln_n_inf[:, None] + np.log(hyperbola(seen.b, 1.0, b0[part][:, None, None]))
            ln = terms(seen, eta, np.full(eta.shape, sigma)).value.sum(-1)
            density[part] += prior * np.exp(ln).sum(-1)
    below = np.cumsum(density) / density.sum()
    for level, at in zip((0.1, 0.5, 0.9), found.b_star(0.1, 0.5, 0.9), strict=True):
        assert np.interp(at / 2, b0, below) == pytest.approx(level, abs=0.08)


def test_information_is_what_it_is_by_hand() -> None:
    """A run at b = 5 arrives at once if b0 = 1, never if b0 = 10: it tells one bit for half of its steps' cost."""
    two = Posterior(np.array([1.0, 10.0]), np.full((2, 1), math.log(80)), np.array([1e-3]), np.full((2, 1), 0.5))
    rate, nats, until = worth(two, imagined(two, []), 5, 0.0, 1000)
    assert nats == pytest.approx(math.log(2))
    assert 100 <= until <= 120
    assert rate == pytest.approx(math.log(2) / until, rel=0.05)
    # Half of it is told already by a run on its way, which ends on either side in half of its draws.
    weights = imagined(two, [(5, 0.0, 1000)])
    assert worth(two, weights, 5, 0.0, 1000)[1] == pytest.approx(0, abs=1e-6)
    assert weights.sum((1, 2)) == pytest.approx(1)
    assert weights[:, 0, 0].mean() == pytest.approx(0.5)


@given(st.floats(1, 30), st.floats(0.02, 0.6), st.integers(0, 6), st.sampled_from([0.0, 60.0, 400.0]))
@settings(max_examples=30, deadline=None)
def test_information_is_neither_negative_nor_more_than_there_is_to_know(
    b0: float, sigma: float, at: int, done: float
) -> None:
    known = posterior(observations(SEEN), 2, 64, 1000)
    rate, nats, until = worth(known, imagined(known, [(32, 0.0, 300), (4, 600.0, 900)]), 2**at, done, 1000)
    of_b0 = known.weight.sum(1)
    entropy = -(of_b0[of_b0 > 0] * np.log(of_b0[of_b0 > 0])).sum()
    assert -1e-9 <= nats <= entropy + 1e-9
    assert 0 <= rate < math.inf
    assert done < until <= 1000


def test_given_is_the_posterior_of_all_runs() -> None:
    """Two runs more, weighed on the same points: as if they had been there from the start."""
    seen = observations(SEEN)
    known = posterior(seen, 2, 64, 1000)
    more = Observations(np.array([8.0, 4.0]), np.log([300.0, 700.0]), np.array([math.log(315.0), math.inf]))
    weights = known.given(more)
    by_hand = known.weight * np.exp(sum(_ln(known, *run) for run in zip(more.b, more.low, more.high, strict=True)))
    assert weights == pytest.approx(by_hand / by_hand.sum(), abs=1e-12)


def _ln(known: Posterior, b: float, low: float, high: float) -> np.ndarray:
    mean = known.mean(b)
    before_high = 1.0 if math.isinf(high) else ndtr((high - mean) / known.sigma)
    return np.log(np.maximum(before_high - ndtr((low - mean) / known.sigma), 1e-300))


def test_proposals_follow_from_their_arguments_alone() -> None:
    pending = [Pending(2, 0, 300)]
    first = propose(FEW, pending, OPTIONS, sfo, 3)
    assert first
    assert first == propose(FEW[::-1], pending, OPTIONS, sfo, 3)
    taken = {(run.batch_size, run.seed) for run in [*pending, *first]}
    assert len(taken) == len(pending) + len(first)  # nothing twice


def test_nothing_that_decides_knows_a_metric() -> None:
    """What a grant may follow from: where runs stand, not what they measured on the way."""
    assert {f.name for f in dataclasses.fields(Seen)} == {"batch_size", "seed", "lower", "steps", "outcome"}
    assert {f.name for f in dataclasses.fields(Pending)} == {"batch_size", "seed", "until"}


def test_the_first_run_lies_in_the_middle_and_workers_spread_over_sizes() -> None:
    for step_cost in (sfo, lambda b: 1.0):
        found = propose([], [], Options(WIDE, dict.fromkeys(WIDE, 10_000), 8), step_cost, 8)
        assert found[0].batch_size == 32
        sizes = [p.batch_size for p in found]
        assert len(set(sizes)) == len(sizes) >= 3
    assert propose([], [], OPTIONS, sfo, 0) == []


def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    (best,) = propose(FEW, [], OPTIONS, sfo, 1)
    (other,) = propose(FEW, [Pending(best.batch_size, best.seed, best.until)], OPTIONS, sfo, 1)
    assert other.batch_size != best.batch_size
    crowd = [Pending(b, seed, 1000) for b in OPTIONS.sizes for seed in range(OPTIONS.seeds)]
    assert propose(FEW, crowd, OPTIONS, sfo, 4) == []


@pytest.mark.parametrize("number", [1, 6, 14])
def test_decided_is_what_the_fit_says(number: int) -> None:
    truth = drawn(number)
    options = Options(WIDE, dict.fromkeys(WIDE, truth.most_steps), 8)
    *_, (seen, _) = adaptive(truth, options, sfo, 2)
    known = state(seen, options)
    assert known.decided
    assert propose(seen, [], options, sfo, 2) == []
    low, high = fit(curve([(r.batch_size, r.seed, r.outcome, r.lower, r.steps) for r in seen])).b_star_ci
    assert low is not None
    assert high is not None
    assert known.interval == pytest.approx((low, high), rel=1e-6)  # the rows' order rounds the last digits
    assert known.width_octaves == pytest.approx(math.log2(high / low))
    assert known.width_octaves <= 1
    sizes = {run.batch_size for run in seen}
    assert known.b_star is not None
    assert max(sizes) >= 8 * min(sizes)
    assert min(sizes) <= known.b_star <= max(sizes) / 2
    narrower = dataclasses.replace(options, width_octaves=known.width_octaves / 2)
    assert not state(seen, narrower).decided
    assert propose(seen, [], narrower, sfo, 1)


def test_where_nothing_arrives_it_says_so_and_ends() -> None:
    known = state(swept(censored), OPTIONS)
    assert not known.decided
    assert "not even at the largest batch size, 64" in known.why


def test_where_everything_arrives_it_says_that_b_star_lies_below() -> None:
    seen = swept(arriving(lambda b: 200))
    known = state(seen, OPTIONS)
    assert not known.decided
    assert "below the smallest batch size, 2" in known.why
    assert known.interval[1] is not None
    assert known.interval[1] <= 2
    assert len(seen) <= 6


def test_where_n_rises_it_ends_undecided() -> None:
    known = state(swept(arriving(lambda b: 100 * b**0.5)), OPTIONS)
    assert not known.decided


def test_where_only_large_sizes_arrive_it_ends() -> None:
    known = state(swept(arriving(lambda b: 900 if b == 64 else math.inf)), OPTIONS)
    assert not known.decided
    assert known.interval[0] is not None


def test_divergence_is_an_outcome_that_is_not_repeated() -> None:
    seen = swept(diverged)
    assert not state(seen, OPTIONS).decided
    assert all(sum(run.batch_size == b for run in seen) <= 2 for b in OPTIONS.sizes)
    # Where only small sizes train, b* is decided from them.
    mixed = swept(lambda p: diverged(p) if p.batch_size > 16 else arriving(lambda b: 100 * b / (b - 1.8))(p))
    known = state(mixed, OPTIONS)
    assert known.decided
    assert known.b_star == pytest.approx(3.6, rel=0.2)


@pytest.mark.parametrize("run", [censored, arriving(lambda b: 200), diverged])
def test_one_size_alone_decides_nothing_and_ends(run: Run) -> None:
    options = Options((8,), {8: 1000}, 4)
    assert not state(swept(run, options), options).decided


def test_runs_without_an_evaluation_say_nothing() -> None:
    fresh = [Seen(32, 0, 0, 0, "censored")]
    assert state(fresh, OPTIONS) == state([], OPTIONS)
    assert propose(fresh, [], OPTIONS, sfo, 1)


def test_simulated_sweeps_save_compute() -> None:
    rows = [measure(Scenario("sfo", 2), number) for number in range(5)]
    assert all(row["adaptive_decided"] for row in rows)
    assert np.median([row["grid_sfo"] / row["adaptive_sfo"] for row in rows]) > 3
    assert all(row["grid_width"] <= row["adaptive_width"] for row in rows)
