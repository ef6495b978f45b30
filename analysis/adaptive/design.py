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

import pandas as pd

from analysis.adaptive.worth import Prospects
from analysis.fitting.cheapest import Cheapest, cheapest
from analysis.fitting.posterior import Posterior, posterior, runs_of
from analysis.fitting.profile import Interval


@dataclass(frozen=True)
class Options:
    """What is asked of a sweep.

    sizes: candidate batch sizes, rising. most_steps: of a run at each of them. seeds: the most at one batch size.
    width_octaves: how wide the 95 % set of b* may be, log2 of its ends' ratio; within: how much more than the least the
    named batch size may cost, with 95 %, relatively. Either ends the sweep; None: doesn't.
    """

    sizes: tuple[int, ...]
    most_steps: Mapping[int, int]
    seeds: int
    width_octaves: float | None = 1.0
    within: float | None = None


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
    """What is known of b*.

    interval: the 95 % set, None at an end that is open. regret_95: how much more than the least b* may cost, with
    95 %, relatively. why: one clause for people.
    """

    b_star: float | None
    interval: Interval
    width_octaves: float | None
    regret_95: float | None
    decided: bool
    why: str


# Two runs that diverged are enough of a batch size where none arrived; so are two that used up the whole budget at the
# largest one, where nothing arrived anywhere.
ENOUGH = 2
# So many runs have to tell of batch sizes in the set or next to it: one lucky run decides nothing.
SURE = 3
# Next to it: within this factor.
NEXT = math.sqrt(2)
# With others at work, a run starts only if it tells at least this part, per cost, of what the best would tell alone.
PATIENCE = 0.25
# A sweep goes on from where it has been: no batch size is tried that is more than this factor off.
REACH = 8
# What to do where nothing arrives.
_LARGER = "allow larger ones, or a larger budget"
# The first run, of which nothing is known, gets this part of the budget to begin with.
FIRST = 0.25


def state(seen: Sequence[Seen], options: Options) -> State:
    """What is known of b* among the candidates, those without a run included, and whether it is enough."""
    known = _known(_ordered(seen), options.sizes)
    if known is None:
        return State(None, (None, None), None, None, False, _nothing(seen, options))
    _, found = known
    runs = _telling(seen, options, found.least)
    told = sorted({run.batch_size for run in runs})
    open_low = found.low <= told[0] or found.open_low
    open_high = found.high >= told[-1] or found.open_high
    ends = None if open_low else found.low, None if open_high else found.high
    decided, why = False, _words(found, options)
    if not _enough(found, options):
        why += f"; {_asked(options)}"
    elif lacking := _beyond(found, told, options):
        why += f", but no run at b = {_either(lacking)} bears it out yet"
    elif few := _few(found, runs, options):
        why += f", but fewer than {SURE} runs at b = {_either(few)} bear it out yet"
    else:
        decided = True
        if open_low:
            why += f"; {min(told[0], options.sizes[0])} is the smallest batch size allowed"
        if open_high:
            why += f"; {max(told[-1], options.sizes[-1])} is the largest batch size allowed"
    return State(found.b_star, ends, found.octaves, found.regret_95, decided, why)


def _narrow(found: Cheapest, options: Options) -> bool:
    """Whether the set is as narrow as was asked; one that leaves nothing out tells nothing."""
    everything = found.open_low and found.open_high
    return options.width_octaves is not None and not everything and found.octaves <= options.width_octaves + 1e-9


def _enough(found: Cheapest, options: Options) -> bool:
    return _narrow(found, options) or (options.within is not None and found.regret_95 <= options.within)


def _words(found: Cheapest, options: Options) -> str:
    if _narrow(found, options) or options.within is None:
        if found.open_low and found.open_high:
            return "every batch size allowed may be the cheapest"
        one = found.octaves < 0.005
        return "the 95 % set is one batch size" if one else f"the 95 % set is {_octaves(found.octaves)} wide"
    return f"b = {found.b_star:.3g} costs at most {100 * found.regret_95:.0f} % more than the least"


def _asked(options: Options) -> str:
    asked = []
    if options.width_octaves is not None:
        asked.append(_octaves(options.width_octaves))
    if options.within is not None:
        asked.append(f"{100 * options.within:g} %")
    return f"asked for: {' or '.join(asked)}"


def _octaves(width: float) -> str:
    return f"{width:.2g} {'octave' if f'{width:.2g}' == '1' else 'octaves'}"


def _telling(seen: Sequence[Seen], options: Options, least: float) -> list[Seen]:
    """Runs that say what their batch size costs, or that it is more than the least, `least` gradients.

    A run that has neither arrived nor diverged says so only once it has spent as much, or all that it may.
    """

    def tells(run: Seen) -> bool:
        spent = run.steps * run.batch_size >= least
        return spent or run.outcome != "censored" or run.steps >= options.most_steps.get(run.batch_size, math.inf)

    return [run for run in seen if run.steps > 0 and tells(run)]


def _beyond(found: Cheapest, told: Sequence[int], options: Options) -> list[int]:
    """The batch size that has to be tried before the set rests on runs at both its sides; [] where it does."""
    below = [b for b in options.sizes if b < told[0]]
    above = [b for b in options.sizes if b > told[-1]]
    if found.low <= told[0] and below:
        return below[-1:]
    if found.high >= told[-1] and above:
        return above[:1]
    return []


def _few(found: Cheapest, runs: Sequence[Seen], options: Options) -> list[int]:
    """Candidates in the set or next to it where fewer than SURE runs tell of them; [] where more do, or can't."""
    low, high = found.low / NEXT, found.high * NEXT
    near = [b for b in _trains(runs, options) if low <= b <= high]
    count = sum(low <= run.batch_size <= high for run in runs)
    return near if count < min(SURE, options.seeds * len(near)) else []


def _nothing(seen: Sequence[Seen], options: Options) -> str:
    """Why there is no b* where no run has arrived."""
    usable = _trains(seen, options)
    if not usable:
        return "runs diverge at every batch size"
    last = usable[-1]
    spent = [run for run in seen if run.batch_size == last and run.steps >= options.most_steps[last]]
    if len([run for run in spent if run.outcome == "censored"]) >= ENOUGH:
        largest = (
            "the largest batch size" if last == options.sizes[-1] else "the largest batch size that doesn't diverge"
        )
        return f"no run arrived, not even at {largest}, {last}: {_LARGER}"
    return "no run has arrived yet"


def propose(
    seen: Sequence[Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
    count: int,
) -> list[Proposal]:
    """Up to `count` runs to start now, those first that tell most of b* per expected cost; [] where none is left.

    step_cost: of one step at a batch size, in any unit. A proposal's `until` may lie between two evaluations: train to
    the first at or after it. Deterministic in its arguments, whatever the order of runs.
    """
    now = state(seen, options)
    if now.decided or now.why.endswith(_LARGER) or not count:
        return []
    ordered = _ordered(seen)
    prospects = _prospects(ordered, options.sizes, options.within is not None)
    if prospects is None:
        taken = {run.batch_size for run in pending} | {run.batch_size for run in ordered if run.outcome == "diverged"}
        return _blind(taken, options)[:count]
    chosen: list[Proposal] = []
    started = {(run.batch_size, run.seed): run for run in ordered}
    lacking = _lacking(ordered, options)
    alone: float | None = None
    while len(chosen) < count:
        at_work = [*pending, *(Pending(p.batch_size, p.seed, p.until) for p in chosen)]
        if alone is None and at_work:
            free = _candidates(prospects, started, [], options, step_cost, lacking)
            alone = max((rate for rate, _ in free), default=0.0)
        found = _candidates(prospects, started, at_work, options, step_cost, lacking)
        rate, best = max(found, default=(0.0, None), key=lambda each: each[0])
        if best is None or (at_work and alone is not None and rate < PATIENCE * alone):
            break
        alone = rate if alone is None else alone
        chosen.append(best)
    return chosen


def _blind(taken: set[int], options: Options) -> list[Proposal]:
    """First runs, at sizes two candidates apart, from the middle outwards: larger ones first, which arrive sooner."""
    middle = (len(options.sizes) - 1) // 2
    off = [0, *(sign * step for step in range(2, len(options.sizes), 2) for sign in (1, -1))]
    sizes = [options.sizes[middle + each] for each in off if 0 <= middle + each < len(options.sizes)]
    why = "nothing is known yet, and b = {} lies {}"
    return [
        Proposal(
            b, 0, math.ceil(options.most_steps[b] * FIRST), why.format(b, "in the middle" if i == 0 else "beside it")
        )
        for i, b in enumerate(sizes)
        if b not in taken
    ]


def _ordered(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    return tuple(sorted(seen, key=lambda run: (run.batch_size, run.seed)))


def _visited(seen: Sequence[Seen]) -> list[int]:
    return sorted({run.batch_size for run in seen if run.steps > 0})


def _frame(seen: Sequence[Seen]) -> pd.DataFrame:
    """Runs as a curve's frame; those that were not evaluated yet say nothing."""
    rows = [(run.batch_size, run.seed, run.outcome, run.lower, run.steps) for run in seen if run.steps > 0]
    return pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"])


@lru_cache(maxsize=8)
def _known(seen: tuple[Seen, ...], sizes: tuple[int, ...]) -> tuple[Posterior, Cheapest] | None:
    """The curve over all candidates, and the cheapest of them; None where no run arrived."""
    if not any(run.outcome == "reached" for run in seen):
        return None
    drawn = posterior(runs_of(_frame(seen)), sizes)
    return None if drawn is None else (drawn, cheapest(drawn))


@lru_cache(maxsize=4)
def _prospects(seen: tuple[Seen, ...], sizes: tuple[int, ...], by_regret: bool) -> Prospects | None:
    """What more runs would tell; None where no run has been evaluated yet."""
    known = _known(seen, sizes)
    if known is not None:
        return Prospects.of(known[0], by_regret)
    drawn = posterior(runs_of(_frame(seen)), sizes)
    return None if drawn is None else Prospects.of(drawn, by_regret=False)


@dataclass(frozen=True)
class _Lacking:
    """Where a set that is narrow enough still lacks a run, and how many gradients that run has to spend at least."""

    sizes: list[int]
    gradients: float


def _lacking(seen: tuple[Seen, ...], options: Options) -> _Lacking:
    known = _known(seen, options.sizes)
    if known is None or not _enough(known[1], options):
        return _Lacking([], 0.0)
    found = known[1]
    runs = _telling(seen, options, found.least)
    told = sorted({run.batch_size for run in runs})
    # A run that doesn't arrive raises the least. The run therefore goes as far as the least may lie at most.
    return _Lacking(_beyond(found, told, options) or _few(found, runs, options), found.least_ci[1])


def _trains(seen: Sequence[Seen], options: Options) -> list[int]:
    """Candidates but for those where runs only diverge."""
    diverged = Counter(run.batch_size for run in seen if run.outcome == "diverged")
    arrived = {run.batch_size for run in seen if run.outcome == "reached"}
    return [b for b in options.sizes if b in arrived or diverged[b] < ENOUGH]


def _usable(seen: Sequence[Seen], options: Options) -> list[int]:
    """Candidates that a run may be trained at now."""
    visited = _visited(seen)
    return [b for b in _trains(seen, options) if visited[0] <= REACH * b and b <= REACH * visited[-1]]


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))


def _candidates(
    prospects: Prospects,
    started: dict[tuple[int, int], Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
    lacking: _Lacking,
) -> list[tuple[float, Proposal]]:
    """What may be trained now, each as far as it tells most per cost, and how much that is per cost."""
    at_work = {(run.batch_size, run.seed) for run in pending}
    sizes = _usable(list(started.values()), options)
    if lacking.sizes:
        sizes = [] if {b for b, _ in at_work} & set(lacking.sizes) else [b for b in sizes if b in lacking.sizes]
    weights = prospects.imagined([(p.batch_size, _done(started, p.batch_size, p.seed), p.until) for p in pending])
    arrived = any(run.outcome == "reached" for run in started.values())
    low, high = prospects.ends
    found = []
    for b in sizes:
        why = f"b* may lie between {low:.3g} and {high:.3g}: b = {b} tells most for its cost"
        if not arrived:
            why = f"no run has arrived yet: b = {b} is likeliest to, for its cost"
        elif lacking.sizes:
            why = f"b* may lie between {low:.3g} and {high:.3g}, which too few runs bear out yet"
        for seed in _seeds(b, started, at_work, options, arrived):
            done = _done(started, b, seed)
            at_least = min(math.ceil(lacking.gradients / b), options.most_steps[b])
            worth = prospects.worth(weights, b, done, options.most_steps[b], arrived, at_least)
            if worth is not None and (worth.enough or lacking.sizes):
                found.append((worth.rate / step_cost(b), Proposal(b, seed, worth.until, why)))
    return found


def _done(started: dict[tuple[int, int], Seen], b: int, seed: int) -> float:
    return started[b, seed].steps if (b, seed) in started else 0.0


def _seeds(
    b: int, started: dict[tuple[int, int], Seen], at_work: set[tuple[int, int]], options: Options, arrived: bool
) -> list[int]:
    """Runs at b that may be trained now: the first that is new, and those that stopped above the target.

    While nothing has arrived anywhere, one run at a batch size says enough, and two at the largest.
    """
    free = [seed for seed in range(options.seeds) if (b, seed) not in at_work]
    new = [seed for seed in free if (b, seed) not in started][:1]
    runs = [(seed, started[b, seed]) for seed in free if (b, seed) in started]
    short = [seed for seed, run in runs if run.outcome == "censored" and run.steps < options.most_steps[b]]
    if arrived:
        return new + short
    busy = any(size == b for size, _ in at_work)
    enough = ENOUGH if b == max(_trains(list(started.values()), options)) else 1
    return [] if busy else short[:1] or (new if len(runs) < enough else [])
