"""What an adaptive sweep costs against a grid, and whether its intervals hold the truth, on simulated curves.

Prints Markdown; docs/sweeps.md shows a run of it.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from analysis.adaptive.design import Options, Pending, Seen, propose, state
from analysis.fitting.models import hyperbola

# Evaluations lie 5 % apart, as those of digits do.
PRECISION = 0.05
SIZES = tuple(2**k for k in range(1, 11))
# Seeds at one batch size: of the adaptive sweep, and of the largest grid tried.
SEEDS, MOST_SEEDS = 8, 16
RANGES = {
    "b*": (3.0, 100.0),
    "N∞": (1e3, 1e5),
    "σ": (0.03, 0.3),
    "budget/N∞": (5.0, 30.0),
    "b at which a step takes twice its least time": (8.0, 2048.0),
}


@dataclass(frozen=True)
class Scenario:
    """unit: what the sweep spends sparingly, "sfo" or "device". width: octaves asked for."""

    unit: str
    workers: int
    width: float = 1.0


SCENARIOS = [
    *(Scenario(unit, workers) for unit in ("sfo", "device") for workers in (2, 8)),
    *(Scenario(unit, 2, 0.25) for unit in ("sfo", "device")),
]


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
    ends = np.log(list(RANGES.values()))
    b_star, n_inf, noise, budget, even = np.exp(rng.uniform(ends[:, 0], ends[:, 1])).tolist()
    return Truth(b_star, n_inf, noise, budget, even, number)


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


def measure(scenario: Scenario, number: int) -> dict[str, Any]:
    """One truth: the adaptive sweep, where it would have stopped on width alone, and the grid of equal width."""
    truth = drawn(number)
    options = Options(SIZES, dict.fromkeys(SIZES, truth.most_steps), SEEDS, scenario.width)
    step_cost = truth.step_time if scenario.unit == "device" else float

    def told(seen: Sequence[Seen], spent: Spent) -> dict[str, Any]:
        known = state(seen, options)
        low, high = known.interval
        held = (low is None or low <= truth.b_star) and (high is None or truth.b_star <= high)
        width = math.inf if known.b_star is None or known.width_octaves is None else known.width_octaves
        return {"width": width, "held": held, "decided": known.decided, "runs": len(seen), **vars(spent)}

    found: dict[str, dict[str, Any]] = {}
    for seen, spent in adaptive(truth, options, step_cost, scenario.workers):
        found["adaptive"] = told(seen, spent)
        if found["adaptive"]["width"] <= scenario.width:
            found.setdefault("early", found["adaptive"])
    found.setdefault("early", found["adaptive"])
    for seeds in range(1, MOST_SEEDS + 1):
        found["grid"] = told(*grid(truth, seeds, scenario.workers)) | {"seeds": seeds}
        if found["grid"]["width"] <= found["adaptive"]["width"]:
            break
    row = {f"{name}_{key}": value for name, values in found.items() for key, value in values.items()}
    return row | {"b*": truth.b_star, "σ": truth.noise}


def _saving(frame: pd.DataFrame, unit: str) -> str:
    low, middle, high = (frame[f"grid_{unit}"] / frame[f"adaptive_{unit}"]).quantile([0.25, 0.5, 0.75])
    return f"**{middle:.1f}×** ({low:.1f} … {high:.1f})"


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def savings(scenario: Scenario, frame: pd.DataFrame) -> None:
    """One row: what the sweep took, and the grid of equal width in units of it."""
    least = (frame["grid_sfo"] / frame["adaptive_sfo"] >= 5).mean()
    _row(
        "SFO" if scenario.unit == "sfo" else "device time",
        scenario.workers,
        f"{scenario.width:g}",
        f"{frame['adaptive_decided'].mean():.1%}",
        f"{frame['adaptive_width'].median():.2f}",
        f"{frame['adaptive_runs'].median():.0f}",
        f"{10 * frame['grid_seeds'].mean():.0f}",
        *(_saving(frame, unit) for unit in ("sfo", "device", "wall")),
        f"{least:.0%}",
        *(f"{frame[f'{sweep}_held'].mean():.1%}" for sweep in ("adaptive", "grid")),
    )


def coverage(frame: pd.DataFrame) -> None:
    """Shares of intervals that hold the truth, all and by parts of the ranges."""
    _row("", "curves", "adaptive", "stopped on width alone", "grid of equal width")
    _row(*["---"] * 5)
    parts = {"all": frame}
    for name in ("σ", "b*"):
        low, high = RANGES[name]
        ends = np.geomspace(low, high, 4)
        for left, right in itertools.pairwise(ends):
            parts[f"{name} {left:.2g} … {right:.2g}"] = frame[frame[name].between(left, right)]
    for name, part in parts.items():
        shares = [part[f"{sweep}_held"].mean() for sweep in ("adaptive", "early", "grid")]
        _row(name, len(part), *(f"{share:.1%}" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=int, nargs="?", default=500, help="synthetic curves per row")
    curves = parser.parse_args().curves
    drawn_from = "; ".join(f"{name} {low:g} … {high:g}" for name, (low, high) in RANGES.items())
    print(f"{curves:,} curves, log-uniform in {drawn_from}. Saving: the grid's cost over the adaptive sweep's.\n")
    heads = ("asked, octaves", "decided", "median width", "runs", "grid's runs", "SFO", "device time", "wall time")
    _row("cost counted in", "workers", *heads, "SFO saved ≥ 5×", "95 % intervals hold b*", "the grid's")
    _row(*["---"] * 13)
    frames = []
    for scenario in SCENARIOS:
        rows = Parallel(n_jobs=-1)(delayed(measure)(scenario, number) for number in range(curves))
        frames.append(pd.DataFrame(rows))
        savings(scenario, frames[-1])
    print("\nShare of 95 % intervals of b* that hold the truth, over all rows above:\n")
    coverage(pd.concat(frames))


if __name__ == "__main__":
    main()
