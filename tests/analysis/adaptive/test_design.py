"""Which run next, and when b* is decided: what follows from runs, and sweeps that end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import pytest

from analysis.adaptive.design import Options, Pending, Proposal, Seen, propose, state

SIZES, WIDE = (2, 4, 8, 16, 32, 64), tuple(2**k for k in range(11))
OPTIONS = Options(SIZES, dict.fromkeys(SIZES, 1000), 4)
# Gradients are what is limited: 60,000, 25 times what the best batch size takes.
BY_SIZE = Options(WIDE, {b: 60_000 // b for b in WIDE}, 8)
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


def swept(run: Run, options: Options = OPTIONS, step_cost: Callable[[int], float] = sfo) -> list[Seen]:
    """One worker's sweep from its start to where nothing is proposed."""
    seen: dict[tuple[int, int], Seen] = {}
    for _ in range(200):
        proposals = propose(list(seen.values()), [], options, step_cost, 1)
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


def falling(b: int) -> float:
    """A power law, b* = 12."""
    return 100 * (1 + (12 / b) ** 2)


def scattered(n: Callable[[int], float], spread: float = 0.15) -> Run:
    """Runs that arrive around n(b) steps, each seed a little off."""
    quantiles = (0.0, 0.67, -0.67, 1.15, -1.15, 0.32, -0.32, 0.0)

    def run(p: Proposal) -> Seen:
        return arriving(lambda b: n(b) * math.exp(spread * quantiles[(p.seed + b) % 8]))(p)

    return run


def test_proposals_follow_from_their_arguments_alone() -> None:
    pending = [Pending(2, 0, 300)]
    first = propose(FEW, pending, OPTIONS, sfo, 3)
    assert first
    assert first == propose(FEW[::-1], pending, OPTIONS, sfo, 3)
    taken = {(run.batch_size, run.seed) for run in [*pending, *first]}
    assert len(taken) == len(pending) + len(first)  # nothing twice
    assert state(SEEN, OPTIONS) == state(SEEN[::-1], OPTIONS)


def test_nothing_that_decides_knows_a_metric() -> None:
    """What a grant may follow from: where runs stand, not what they measured on the way."""
    assert {f.name for f in dataclasses.fields(Seen)} == {"batch_size", "seed", "lower", "steps", "outcome"}
    assert {f.name for f in dataclasses.fields(Pending)} == {"batch_size", "seed", "until"}


def test_the_first_run_lies_in_the_middle_and_workers_spread_over_sizes() -> None:
    for step_cost in (sfo, lambda b: 1.0):
        found = propose([], [], BY_SIZE, step_cost, 8)
        assert found[0].batch_size == 32
        assert all(p.until == BY_SIZE.most_steps[p.batch_size] // 4 for p in found if 60_000 % (4 * p.batch_size) == 0)
        sizes = [p.batch_size for p in found]
        assert len(set(sizes)) == len(sizes) >= 3
    assert propose([], [], OPTIONS, sfo, 0) == []


def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    (best,) = propose(FEW, [], OPTIONS, sfo, 1)
    other = propose(FEW, [Pending(best.batch_size, best.seed, best.until)], OPTIONS, sfo, 1)
    assert (best.batch_size, best.seed) not in [(p.batch_size, p.seed) for p in other]
    crowd = [Pending(b, seed, 1000) for b in OPTIONS.sizes for seed in range(OPTIONS.seeds)]
    assert propose(FEW, crowd, OPTIONS, sfo, 4) == []


@pytest.mark.parametrize("step_cost", [sfo, lambda b: 1 + b / 64])
def test_it_decides_and_grants_no_more_than_tells(step_cost: Callable[[int], float]) -> None:
    seen, grants = swept_with_grants(scattered(falling), BY_SIZE, step_cost)
    known = state(seen, BY_SIZE)
    assert known.decided
    assert known.interval[0] is not None
    assert known.interval[1] is not None
    assert known.interval[0] <= 12 <= known.interval[1]
    assert known.width_octaves == pytest.approx(math.log2(known.interval[1] / known.interval[0]))
    assert known.width_octaves <= 1
    sizes = {run.batch_size for run in seen}
    assert min(sizes) < known.interval[0]
    assert known.interval[1] < max(sizes)
    assert propose(seen, [], BY_SIZE, step_cost, 2) == []
    # Once it is known what the best takes, no run goes far beyond that: here 2,400 gradients, of 60,000 allowed.
    assert all(b * until <= 3 * 2400 for b, until in grants[8:])
    narrower = dataclasses.replace(BY_SIZE, width_octaves=known.width_octaves / 2)
    assert not state(seen, narrower).decided
    assert propose(seen, [], narrower, step_cost, 1)


def swept_with_grants(
    run: Run, options: Options, step_cost: Callable[[int], float]
) -> tuple[list[Seen], list[tuple[int, int]]]:
    grants = []

    def noting(p: Proposal) -> Seen:
        grants.append((p.batch_size, p.until))
        return run(p)

    return swept(noting, options, step_cost), grants


def test_within_may_end_it_earlier_than_the_width() -> None:
    """N·b is flat from 4 to 16: any of them costs within a quarter of the least, long before b* is known."""

    def flat(b: int) -> float:
        return 1000 / b * (1 + max(0.0, 4 / b - 1) + max(0.0, b / 16 - 1))

    narrow = dataclasses.replace(BY_SIZE, width_octaves=0.5)
    cheap = dataclasses.replace(narrow, within=0.25)
    sure = swept(scattered(flat), cheap)
    known = state(sure, cheap)
    assert known.decided
    assert known.regret_95 is not None
    assert known.regret_95 <= 0.25
    assert known.width_octaves is not None
    assert known.width_octaves > 1
    assert "costs at most" in known.why
    assert not state(sure, narrow).decided
    assert len(sure) < len(swept(scattered(flat), narrow))
    only = dataclasses.replace(BY_SIZE, width_octaves=None, within=0.25)
    assert state(swept(scattered(flat), only), only).decided


def test_a_size_is_tried_only_once_a_run_spent_as_much_as_the_best_takes() -> None:
    """A run at 2 that has made too few steps bears nothing out."""
    runs = [
        *(Seen(4, seed, 190, 200 + 5 * seed, "reached") for seed in range(4)),
        *(Seen(b, seed, 190, 200 + 5 * seed, "reached") for b in (8, 16) for seed in range(4)),
    ]
    short = [*runs, Seen(2, 0, 100, 100, "censored")]
    far = [*runs, Seen(2, 0, 900, 900, "censored")]
    found = state(short, OPTIONS)
    assert not found.decided
    assert "no run at b = 2 bears it out yet" in found.why
    (next_,) = propose(short, [], OPTIONS, sfo, 4)
    assert next_.batch_size == 2
    assert next_.until >= 200  # at once as far as it takes, not a little further
    assert "no run at" not in state([*runs, censored(next_)], OPTIONS).why
    assert "no run at" not in state(far, OPTIONS).why


def test_one_lucky_run_decides_nothing() -> None:
    """As in real runs: seed 0 at b = 2 arrives in a third of what the median takes, most others never do."""
    seen = [
        *(Seen(8, seed, 3600, 3750, "censored") for seed in range(1)),
        Seen(4, 0, 4400, 4582, "reached"),
        Seen(2, 0, 5500, 5725, "reached"),
    ]
    options = Options(SIZES, {b: 60_000 // b for b in SIZES}, 16)
    found = state(seen, options)
    assert not found.decided
    assert "fewer than 3 runs at b = 2 bear it out" in found.why
    assert {p.batch_size for p in propose(seen, [], options, sfo, 1)} == {2}
    late = [*seen, *(Seen(2, seed, 25_000, 25_000, "censored") for seed in (1, 2, 3))]
    known = state(late, options)
    assert not known.decided
    assert known.width_octaves is not None
    assert known.width_octaves > 2  # b = 2 may still be named, but is not believed
    # Where no more seeds are allowed, what there is has to do.
    alone = dataclasses.replace(options, seeds=1)
    assert state(seen, alone).decided


def test_where_nothing_arrives_it_says_so_and_ends() -> None:
    seen = swept(censored)
    known = state(seen, OPTIONS)
    assert not known.decided
    assert known.b_star is None
    assert "not even at the largest batch size, 64: allow larger ones" in known.why
    assert len(seen) <= 16


def test_where_all_arrive_at_the_same_step_the_smallest_is_the_best() -> None:
    seen = swept(arriving(lambda b: 200))
    known = state(seen, OPTIONS)
    assert known.decided
    assert "2 is the smallest batch size allowed" in known.why
    assert known.interval[0] is None
    assert known.interval[1] is not None
    assert known.interval[1] < 4
    assert len(seen) <= 8


def test_where_n_rises_the_smallest_is_the_best() -> None:
    known = state(swept(arriving(lambda b: 100 * b**0.5)), OPTIONS)
    assert known.decided
    assert known.interval[0] is None
    assert "2 is the smallest batch size allowed" in known.why


def test_where_only_the_largest_arrives_it_is_the_best() -> None:
    known = state(swept(arriving(lambda b: 900 if b == 64 else math.inf)), OPTIONS)
    assert known.interval[1] is None
    assert known.interval[0] is None or known.interval[0] > 8
    if known.decided:
        assert "64 is the largest batch size allowed" in known.why


def test_divergence_is_an_outcome_that_is_not_repeated() -> None:
    seen = swept(diverged)
    known = state(seen, OPTIONS)
    assert not known.decided
    assert known.why == "runs diverge at every batch size"
    assert all(sum(run.batch_size == b for run in seen) <= 2 for b in OPTIONS.sizes)


def test_where_only_small_sizes_train_b_star_is_decided_from_them() -> None:
    small = scattered(lambda b: 100 * b / (b - 1.8))
    options = dataclasses.replace(BY_SIZE, sizes=SIZES)
    mixed = swept(lambda p: diverged(p) if p.batch_size > 16 else small(p), options)
    known = state(mixed, options)
    assert known.b_star == pytest.approx(3.6, rel=0.6)
    assert all(sum(run.batch_size == b for run in mixed) <= 2 for b in (32, 64))


def test_where_large_sizes_diverge_and_no_other_arrives_it_says_so() -> None:
    known = state(swept(lambda p: diverged(p) if p.batch_size > 16 else censored(p)), OPTIONS)
    assert "not even at the largest batch size that doesn't diverge, 16" in known.why


def test_a_run_that_diverged_at_once_is_not_repeated() -> None:
    """Before any evaluation, at the size that comes first."""
    (first,) = propose([], [], OPTIONS, sfo, 1)
    seen = [Seen(first.batch_size, 0, 0, 0, "diverged")]
    assert propose(seen, [], OPTIONS, sfo, 1)[0].batch_size != first.batch_size


@pytest.mark.parametrize("run", [censored, arriving(lambda b: 200), diverged])
def test_one_size_alone_decides_nothing_and_ends(run: Run) -> None:
    options = Options((8,), {8: 1000}, 4)
    seen = swept(run, options)
    assert not state(seen, options).decided
    assert len(seen) <= 4


def test_runs_at_one_size_only_leave_the_rest_open() -> None:
    known = state([Seen(16, seed, 190, 200, "reached") for seed in range(8)], OPTIONS)
    assert not known.decided
    assert known.b_star is not None
    assert known.interval == (None, None)


def test_runs_at_sizes_that_are_no_candidates_count() -> None:
    """A grid had tried smaller ones, and one between."""
    grid = [Seen(b, seed, 190, 200, "reached") for b in (1, 3, 12) for seed in range(4)]
    known = state(grid, OPTIONS)
    assert known.b_star is not None
    assert known.b_star <= 2
    assert "1 is the smallest batch size" in known.why or not known.decided


def test_runs_without_an_evaluation_say_nothing() -> None:
    fresh = [Seen(32, 0, 0, 0, "censored")]
    assert state(fresh, OPTIONS) == state([], OPTIONS)
    assert propose(fresh, [], OPTIONS, sfo, 1)
    assert state([*SEEN, Seen(2, 0, 0, 0, "censored")], OPTIONS) == state(SEEN, OPTIONS)


def test_proposing_never_keeps_a_sweep_waiting() -> None:
    """Ten sizes, many abandoned runs, others at work; processor time, since the machine may be busy."""
    runs = [Seen(b, seed, 0.95 * falling(b), falling(b), "reached") for b in (8, 16, 64) for seed in range(3)]
    runs += [Seen(b, seed, 600 / b, 600 / b, "censored") for b in (2, 4, 32, 128) for seed in range(4)]
    propose(FEW, [], OPTIONS, sfo, 1)  # what is read once
    began = time.process_time()
    propose(runs, [Pending(256, 0, 20), Pending(1, 0, 900)], dataclasses.replace(BY_SIZE, width_octaves=0.1), sfo, 1)
    assert time.process_time() - began < 1.0
