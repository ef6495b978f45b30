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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.curves import Curve
from analysis.fit import Fit, fit
from analysis.likelihood import Observations
from analysis.models import Array
from analysis.posterior import Posterior, posterior


@dataclass(frozen=True)
class Options:
    """What is asked of a sweep.

    sizes: candidate batch sizes, rising. most_steps: of any run. seeds: the most at one batch size.
    width_octaves: how wide the 95 % interval of b* may be, log2 of its ends' ratio.
    """

    sizes: tuple[int, ...]
    most_steps: int
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


# Outcomes of a candidate run are told apart at this many steps; the joint outcome of pending runs is drawn this often.
EDGES, DRAWS = 24, 16


def state(seen: Sequence[Seen], options: Options) -> State:
    """The fit of the runs seen, as a grid of them would get it, and whether that is enough."""
    found = _fit(seen)
    low, high = found.b_star_ci
    if low is None or high is None:
        return State(found.b_star, (low, high), None, False, "the interval of b* is open")
    width = math.log2(high / low)
    decided = found.b_star is not None and width <= options.width_octaves
    return State(found.b_star, (low, high), width, decided, f"the interval is {width:.2f} octaves wide")


def _fit(seen: Sequence[Seen]) -> Fit:
    rows = [(run.batch_size, run.seed, run.outcome, run.lower, run.steps) for run in seen]
    frame = pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"])
    return fit(Curve("", "", frame))


def propose(
    seen: Sequence[Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
    count: int,
) -> list[Proposal]:
    """Up to `count` runs to start now, the most information on ln b* per expected cost first; [] where none is left.

    step_cost: of one step at a batch size, in any unit. Deterministic in its arguments.
    """
    if state(seen, options).decided:
        return []
    chosen: list[Proposal] = []
    known = posterior(_observations(seen), options.sizes[0], options.sizes[-1], options.most_steps)
    for _ in range(count):
        at_work = [*pending, *(Pending(p.batch_size, p.seed, p.until) for p in chosen)]
        best = _best(known, seen, at_work, options, step_cost)
        if best is None:
            break
        chosen.append(best)
    return chosen


def _observations(seen: Sequence[Seen]) -> Observations:
    runs = [run for run in seen if run.outcome != "diverged" and run.steps > 0]
    reached = np.array([run.outcome == "reached" for run in runs], bool)
    steps = np.array([run.steps for run in runs], float)
    lower = np.array([run.lower for run in runs], float)
    with np.errstate(divide="ignore"):
        low = np.log(np.where(reached, np.where(np.isnan(lower), steps, lower), steps))
        high = np.where(reached, np.log(steps), np.inf)
    return Observations(np.array([run.batch_size for run in runs], float), low, high)


def _best(
    known: Posterior,
    seen: Sequence[Seen],
    pending: Sequence[Pending],
    options: Options,
    step_cost: Callable[[int], float],
) -> Proposal | None:
    started = {(run.batch_size, run.seed): run for run in seen}
    at_work = {(run.batch_size, run.seed) for run in pending}
    if not started and not at_work:
        middle = options.sizes[(len(options.sizes) - 1) // 2]
        return Proposal(middle, 0, options.most_steps, f"nothing is known yet: b = {middle} lies in the middle")
    weights = _fantasies(known, started, pending)
    best: tuple[float, Proposal] | None = None
    diverged = Counter(run.batch_size for run in seen if run.outcome == "diverged")
    runs = Counter(b for b, _ in {*started, *at_work})
    for b in options.sizes:
        for seed, done in _candidates(b, started, at_work, options):
            worth, until = _worth(known, weights, b, done, options.most_steps)
            worth *= (1 - diverged[b] / (runs[b] + 1)) / step_cost(b)
            if until > done and (best is None or worth > best[0]):
                best = worth, Proposal(b, seed, until, f"b = {b} tells most per cost")
    return None if best is None else best[1]


def _candidates(
    b: int, started: dict[tuple[int, int], Seen], at_work: set[tuple[int, int]], options: Options
) -> list[tuple[int, float]]:
    """Runs at b that may be trained now, as (seed, steps done): the first new one, and the censored."""
    free = [seed for seed in range(options.seeds) if (b, seed) not in at_work]
    new = [(seed, 0.0) for seed in free if (b, seed) not in started][:1]
    old = [(seed, started[b, seed]) for seed in free if (b, seed) in started]
    return new + [
        (seed, run.steps) for seed, run in old if run.outcome == "censored" and run.steps < options.most_steps
    ]


def _fantasies(known: Posterior, started: dict[tuple[int, int], Seen], pending: Sequence[Pending]) -> Array:
    """Posterior weights (J, K, Q) after each of J draws of what the pending runs will say; J = 1 with none pending."""
    if not pending:
        return known.weight[None]
    flat = known.weight.ravel()
    points = np.searchsorted(flat.cumsum(), (np.arange(DRAWS) + 0.5) / DRAWS * flat.sum())
    weights = np.empty((DRAWS, *known.weight.shape))
    b = np.array([run.batch_size for run in pending], float)
    for j, point in enumerate(np.minimum(points, flat.size - 1)):
        k, q = np.unravel_index(point, known.weight.shape)
        low, high = np.empty(len(b)), np.empty(len(b))
        for i, run in enumerate(pending):
            # Evenly spread quantiles, other ones for each run: Kronecker's sequence of the golden ratio.
            share = ((j + 0.5) / DRAWS + (i + 1) * 0.6180339887498949) % 1.0
            done = started[run.batch_size, run.seed].steps if (run.batch_size, run.seed) in started else 0.0
            edges = np.log(np.linspace(max(done, run.until / 50), run.until, 64))
            chance = known.arrived(run.batch_size, edges)[k, q]
            before = chance[0] if done > 0 else 0.0
            at = int(np.searchsorted(chance, before + share * (1 - before)))
            low[i], high[i] = (edges[-1], np.inf) if at == len(edges) else (edges[max(at - 1, 0)], edges[at])
            if at == 0:
                low[i] = -np.inf
        weights[j] = known.given(Observations(b, low, high))
    return weights


def _worth(known: Posterior, weights: Array, b: int, done: float, most: float) -> tuple[float, int]:
    """The most information on b* (nats) per step that a run at b can give, and how far to train it for that."""
    mean = known.mean(b)
    finite = np.isfinite(mean) & (known.weight > 1e-4 * known.weight.max())
    first = max(done, 1.0)
    if finite.any():
        lowest = float((mean - 3 * known.sigma)[finite].min())
        first = max(first, math.exp(min(lowest, math.log(most))))
    if first >= most:
        first = max(done, most / 2, 1.0)
    edges = np.geomspace(first, most, EDGES)
    arrived = known.arrived(b, np.log(edges))
    if done > 0:  # given that it had not arrived where it stands
        by = known.arrived(b, np.log([done]))
        arrived = np.clip((arrived - by) / np.maximum(1 - by, 1e-12), 0.0, 1.0)
    inside = np.diff(arrived, axis=-1, prepend=0.0)
    told, p_in = _information(weights, inside)
    left, p_left = _information(weights, 1 - arrived)
    information = told.cumsum(-1) + left
    middle = 0.5 * (np.concatenate([[done], edges[:-1]]) + edges)
    steps = (p_in * middle).cumsum(-1) + p_left * edges - done
    rate = (information / np.maximum(steps, 1.0)).mean(0)[1:]
    at = int(rate.argmax()) + 1
    return float(rate[at - 1]), math.ceil(edges[at])


def _information(weights: Array, chance: Array) -> tuple[Array, Array]:
    """What each outcome (T,) adds to the mutual information with b0, and its probability, under weights (J, K, Q)."""
    joint = np.matmul(weights.transpose(1, 0, 2), chance)  # (K, J, T)
    of_b0 = weights.sum(-1).T[..., None]
    total = joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log(joint / (of_b0 * total))
    return np.nan_to_num(terms, nan=0.0, posinf=0.0, neginf=0.0).sum(0), total
