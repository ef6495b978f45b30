"""Which run to train next, and whether b* is decided: the statistics of an adaptive sweep.

A run is trained in grants: each proposal says how far. How far depends on the other runs, on cost, and on the fact that
the run itself had not arrived where it stands, never on the values of its metric. Given all that is known when a grant
is made, whether it ends a run is then no further evidence on when the run would have arrived: the chance of everything
seen factorises into the runs' own terms, a run that used up its grant enters as P(N > steps), and what chose the grants
cancels (independent censoring: Andersen, Borgan, Gill & Keiding, Statistical Models Based on Counting Processes, 1993,
section III.2). Stopping a run because its metric looks late would break this: among runs still training, those left
would arrive earlier than the model believes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import pandas as pd

from analysis.curves import Curve
from analysis.fit import Fit, fit
from analysis.likelihood import Observations
from analysis.posterior import Posterior, imagined, posterior, worth


@dataclass(frozen=True)
class Options:
    """What is asked of a sweep.

    sizes: candidate batch sizes, rising. most_steps: of a run at each of them. seeds: the most at one batch size.
    width_octaves: how wide the 95 % interval of b* may be, log2 of its ends' ratio.
    """

    sizes: tuple[int, ...]
    most_steps: Mapping[int, int]
    seeds: int
    width_octaves: float = 1.0


@dataclass(frozen=True)
class Seen:
    """One run as it stands: reached in (lower, steps], not yet by `steps` ("censored"), or diverged there."""

    batch_size: int
    seed: int
    lower: float
    steps: float
    outcome: str


@dataclass(frozen=True)
class Pending:
    """A run at work, allowed to go to step `until`."""

    batch_size: int
    seed: int
    until: int


@dataclass(frozen=True)
class Proposal:
    """Train this run, new or censored before, up to step `until`; why: one clause for people."""

    batch_size: int
    seed: int
    until: int
    why: str


@dataclass(frozen=True)
class State:
    """What is known of b*. interval: 95 %, None at an open end. why: one clause for people."""

    b_star: float | None
    interval: tuple[float | None, float | None]
    width_octaves: float | None
    decided: bool
    why: str


# An answer rests on batch sizes at least three octaves apart, one of them at or below b*, one at twice b* or above.
SPAN, ABOVE = 8.0, 2.0
# Two runs that diverged are enough of a batch size where none arrived; so are two that used up the whole budget at the
# largest one, where nothing arrived anywhere. A run that tells less than this many nats is not worth starting.
ENOUGH, LEAST = 2, 0.01
# With others at work, a run starts only if it tells at least this part, per cost, of what the best would tell alone.
PATIENCE = 0.25
# The first run, of which nothing is known, gets this part of the budget to begin with.
FIRST = 0.25


def state(seen: Sequence[Seen], options: Options) -> State:
    """What a grid of these runs would be told, by analysis.fit, and whether it is enough."""
    found = _fit(_ordered(seen))
    low, high = found.b_star_ci
    ends = low, high
    outside = _outside(seen, options)
    if outside:
        return State(found.b_star, ends, None, False, outside)
    if found.b_star is None:
        return State(None, ends, None, False, "the target was reached at fewer than three batch sizes")
    if low is None or high is None:
        return State(found.b_star, ends, None, False, f"the interval is open {'below' if low is None else 'above'}")
    width = math.log2(high / low)
    missing = _missing(found.b_star, seen, options)
    if width > options.width_octaves:
        why = f"the interval is {width:.2f} octaves wide, {options.width_octaves:g} were asked for"
    elif missing:
        why = f"the interval is {width:.2f} octaves wide, but rests on no run at b = {_either(missing)}"
    else:
        return State(found.b_star, ends, width, True, f"the interval is {width:.2f} octaves wide")
    return State(found.b_star, ends, width, False, why)


def propose(
    seen: Sequence[Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
    count: int,
) -> list[Proposal]:
    """Up to `count` runs to start now, the most information on b* per expected cost first; [] where none is left.

    step_cost: of one step at a batch size, in any unit. A proposal's `until` may lie between two evaluations: train to
    the first at or after it. Deterministic in its arguments, whatever the order of runs.
    """
    if state(seen, options).decided or _outside(seen, options):
        return []
    chosen = [] if seen or pending or not count else [_first(options)]
    known = posterior(_observations(seen), options.sizes[0], options.sizes[-1], max(options.most_steps.values()))
    alone: float | None = None
    while len(chosen) < count:
        at_work = [*pending, *(Pending(p.batch_size, p.seed, p.until) for p in chosen)]
        if alone is None:
            alone = max((rate for rate, _ in _candidates(known, seen, [], options, step_cost)), default=0.0)
        rate, best = max(_candidates(known, seen, at_work, options, step_cost), default=(0.0, None), key=itemgetter(0))
        if best is None or (at_work and rate < PATIENCE * alone):
            break
        chosen.append(best)
    return chosen


def _first(options: Options) -> Proposal:
    middle = options.sizes[(len(options.sizes) - 1) // 2]
    until = math.ceil(options.most_steps[middle] * FIRST)
    return Proposal(middle, 0, until, f"nothing is known yet, and b = {middle} lies in the middle")


def _ordered(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    return tuple(sorted(seen, key=lambda run: (run.batch_size, run.seed)))


@lru_cache(maxsize=4)
def _fit(seen: tuple[Seen, ...]) -> Fit:
    return fit(Curve("", "", _frame(seen)))


def _frame(seen: Sequence[Seen]) -> pd.DataFrame:
    """Runs as a curve's frame; those that were not evaluated yet say nothing."""
    rows = [(run.batch_size, run.seed, run.outcome, run.lower, run.steps) for run in seen if run.steps > 0]
    return pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"])


def _observations(seen: Sequence[Seen]) -> Observations:
    return Observations.of(_frame(_ordered(seen)))


def _outside(seen: Sequence[Seen], options: Options) -> str:
    """In words, that b* lies outside the candidates; empty where it may lie inside."""
    first, last = options.sizes[0], options.sizes[-1]
    found = _fit(_ordered(seen))
    low, high = found.b_star_ci
    narrow = low is not None and high is not None and high <= low * 2**options.width_octaves
    centre = found.b_star if narrow else None
    if (high is not None and high <= first) or (centre is not None and centre < first):
        return f"b* lies below the smallest batch size, {first}: allow smaller ones"
    if (low is not None and low >= last) or (centre is not None and centre > last):
        return f"b* lies above the largest batch size, {last}: allow larger ones"
    spent = [run for run in seen if run.batch_size == last and run.steps >= options.most_steps[last]]
    if len(spent) >= ENOUGH and not any(run.outcome == "reached" for run in seen):
        return f"no run arrived, not even at the largest batch size, {last}: allow larger ones, or more steps"
    return ""


def _usable(seen: Sequence[Seen], options: Options) -> list[int]:
    """Candidate sizes but for those where runs only diverge."""
    diverged = Counter(run.batch_size for run in seen if run.outcome == "diverged")
    arrived = {run.batch_size for run in seen if run.outcome == "reached"}
    return [b for b in options.sizes if b in arrived or diverged[b] < ENOUGH]


def _missing(b_star: float, seen: Sequence[Seen], options: Options) -> list[int]:
    """Batch sizes of which one must be visited before b* rests on enough of the curve; [] where it does."""
    sizes = _usable(seen, options)
    visited = {run.batch_size for run in seen if run.outcome != "diverged" and run.steps > 0}
    arrived = {run.batch_size for run in seen if run.outcome == "reached"}
    below, above = [b for b in sizes if b <= b_star], [b for b in sizes if b >= ABOVE * b_star]
    if below and not visited & set(below):
        return below[-1:]
    if above and not arrived & set(above):
        return above
    more = [b for b in sizes if b > b_star and b not in arrived]
    if len(arrived) < 3 and more:
        return more
    if visited and max(visited) < SPAN * min(visited):
        return [b for b in sizes if b >= SPAN * min(visited) or b * SPAN <= max(visited)] or sorted(
            {sizes[0], sizes[-1]} - visited
        )
    return []


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))


def _candidates(
    known: Posterior,
    seen: Sequence[Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
) -> list[tuple[float, Proposal]]:
    """What may be trained now, each as far as it tells most per cost, and how much that is (nats per cost)."""
    started = {(run.batch_size, run.seed): run for run in seen}
    at_work = {(run.batch_size, run.seed) for run in pending}
    low, centre, high = known.b_star(0.025, 0.5, 0.975)
    sizes = _usable(seen, options)
    lacking = _missing(centre, seen, options) if high <= low * 2**options.width_octaves else []
    if lacking:
        sizes = [] if {b for b, _ in at_work} & set(lacking) else lacking
    weights = imagined(
        known, [(run.batch_size, _done(started, run.batch_size, run.seed), run.until) for run in pending]
    )
    found = []
    for b in sizes:
        why = f"b* may lie between {low:.3g} and {high:.3g}: b = {b} tells most for its cost"
        if lacking:
            why = f"b* may lie between {low:.3g} and {high:.3g}, which no run at b = {_either(lacking)} bears out yet"
        for seed in _seeds(b, started, at_work, options):
            rate, nats, until = worth(known, weights, b, _done(started, b, seed), options.most_steps[b])
            if lacking or nats >= LEAST:
                found.append((rate / step_cost(b), Proposal(b, seed, until, why)))
    return found


def _done(started: dict[tuple[int, int], Seen], b: int, seed: int) -> float:
    return started[b, seed].steps if (b, seed) in started else 0.0


def _seeds(b: int, started: dict[tuple[int, int], Seen], at_work: set[tuple[int, int]], options: Options) -> list[int]:
    """Runs at b that may be trained now: the first that is new, and those that stopped above the target."""
    free = [seed for seed in range(options.seeds) if (b, seed) not in at_work]
    new = [seed for seed in free if (b, seed) not in started][:1]
    if not any(run.outcome == "reached" for run in started.values()) and any(size == b for size, _ in at_work):
        return []  # one run at a batch size says enough while it isn't known where any arrives
    runs = [(seed, started[b, seed]) for seed in free if (b, seed) in started]
    return new + [s for s, run in runs if run.outcome == "censored" and run.steps < options.most_steps[b]]
