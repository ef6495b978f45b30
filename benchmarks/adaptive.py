"""What an adaptive sweep costs against a grid, and whether its intervals hold the truth, on simulated curves.

Prints Markdown; docs/sweeps.md shows a run of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.design import Options, Pending, Seen, propose, state
from analysis.models import hyperbola

# Evaluations lie 5 % apart, as those of digits do.
PRECISION = 0.05
SIZES = tuple(2**k for k in range(1, 11))
# Seeds at one batch size: of the adaptive sweep, and of the largest grid tried.
SEEDS, MOST_SEEDS = 8, 16
WIDTH = 1.0
RANGES = {
    "b*": (3.0, 100.0),
    "N∞": (1e3, 1e5),
    "σ": (0.03, 0.3),
    "budget/N∞": (5.0, 30.0),
    "b at which a step takes twice its least time": (8.0, 2048.0),
}


@dataclass(frozen=True)
class Truth:
    """One task on one device.

    noise: σ of ln N. budget: most steps of a run, in units of N∞. even: the batch size at which a step takes
    twice what it takes at b → 0; t(b) = 1 + b/even, from arithmetic-bound to dispatch-bound. number: seeds the noise.
    """

    b_star: float
    n_inf: float
    noise: float
    budget: float
    even: float
    number: int

    @property
    def most_steps(self) -> int:
        return grid_step(self.n_inf * self.budget)

    def steps(self, b: int, seed: int) -> float:
        """Steps-to-target of a run, the same whoever asks."""
        z = np.random.default_rng([self.number, b, seed]).normal()
        return float(hyperbola(b, self.n_inf, self.b_star / 2)) * math.exp(self.noise * z)

    def step_time(self, b: int) -> float:
        return 1 + b / self.even

    def trained(self, b: int, seed: int, until: int) -> Seen:
        """A run trained to the first evaluation at or after `until`, or to its target."""
        n, until = self.steps(b, seed), min(grid_step(until), self.most_steps)
        if n > until:
            return Seen(b, seed, until, until, "censored")
        return Seen(b, seed, grid_step(n / (1 + PRECISION)), grid_step(n), "reached")


def grid_step(n: float) -> int:
    """The first evaluation at or after step n."""
    return round((1 + PRECISION) ** math.ceil(math.log(n) / math.log1p(PRECISION) - 1e-9))


def drawn(number: int) -> Truth:
    """A truth, each of its values log-uniform in its range."""
    rng = np.random.default_rng([7, number])
    return Truth(*(math.exp(rng.uniform(math.log(low), math.log(high))) for low, high in RANGES.values()), number)


@dataclass(frozen=True)
class Spent:
    """What a sweep took so far: samples through each network, device time, and time with its workers side by side."""

    sfo: float
    device: float
    wall: float


def adaptive(
    truth: Truth, options: Options, step_cost: Callable[[int], float], workers: int
) -> Iterator[tuple[list[Seen], Spent]]:
    """Runs seen and compute spent each time that a worker comes back, until nothing is proposed."""
    known: dict[tuple[int, int], Seen] = {}
    busy: list[tuple[float, int, float, Pending, Seen]] = []
    handed_out = 0
    now = 0.0
    sfo = device = 0.0
    while True:
        seen = sorted(known.values(), key=lambda run: (run.batch_size, run.seed))
        for p in propose(seen, [run for *_, run, _ in busy], options, step_cost, workers - len(busy)):
            done = known[p.batch_size, p.seed].steps if (p.batch_size, p.seed) in known else 0.0
            after = truth.trained(p.batch_size, p.seed, p.until)
            took = (after.steps - done) * truth.step_time(p.batch_size)
            handed_out += 1
            heapq.heappush(busy, (now + took, handed_out, now, Pending(p.batch_size, p.seed, p.until), after))
        if not busy or state(seen, options).decided:
            return
        now, _, start, run, after = heapq.heappop(busy)
        device += now - start
        sfo += (now - start) / truth.step_time(run.batch_size) * run.batch_size
        known[run.batch_size, run.seed] = after
        # What the others have used by now, if the sweep ends here.
        on_the_way = [(now - start, run.batch_size) for _, _, start, run, _ in busy]
        more = sum(took / truth.step_time(b) * b for took, b in on_the_way)
        yield list(known.values()), Spent(sfo + more, device + sum(took for took, _ in on_the_way), now)


def grid(truth: Truth, seeds: int, workers: int) -> tuple[list[Seen], Spent]:
    """Every batch size with so many seeds, each run to its target or its budget."""
    seen = [truth.trained(b, seed, truth.most_steps) for seed in range(seeds) for b in SIZES]
    free = [0.0] * workers
    for run in seen:
        heapq.heapreplace(free, free[0] + run.steps * truth.step_time(run.batch_size))
    device = sum(run.steps * truth.step_time(run.batch_size) for run in seen)
    return seen, Spent(sum(run.steps * run.batch_size for run in seen), device, max(free))


def known_of(seen: Sequence[Seen], truth: Truth) -> dict[str, Any]:
    """What a sweep knows of b*, and whether its interval holds the truth."""
    told = state(seen, Options(SIZES, truth.most_steps, SEEDS, WIDTH))
    low, high = told.interval
    held = (low is None or low <= truth.b_star) and (high is None or truth.b_star <= high)
    width = math.inf if told.width_octaves is None or told.b_star is None else told.width_octaves
    return {"width": width, "held": held, "decided": told.decided, "runs": len(seen)}


def measure(number: int, unit: str, workers: int) -> dict[str, Any]:
    """One truth: the adaptive sweep, where it would have stopped on width alone, and the grid of equal width."""
    truth = drawn(number)
    options = Options(SIZES, truth.most_steps, SEEDS, WIDTH)
    row: dict[str, Any] = {"b_star": truth.b_star, "noise": truth.noise, "least": 2 * truth.n_inf * truth.b_star}
    early: dict[str, Any] = {}
    for seen, spent in adaptive(truth, options, (lambda b: b) if unit == "sfo" else truth.step_time, workers):
        now = known_of(seen, truth) | vars(spent)
        if now["width"] <= WIDTH and not early:
            early = now
    for seeds in range(1, MOST_SEEDS + 1):
        seen, spent = grid(truth, seeds, workers)
        same = known_of(seen, truth) | vars(spent) | {"seeds": seeds}
        if same["width"] <= now["width"]:
            break
    for name, found in (("adaptive", now), ("early", early or now), ("grid", same)):
        row |= {f"{name}_{key}": value for key, value in found.items()}
    return row
