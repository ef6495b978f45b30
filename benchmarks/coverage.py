"""How often the 95 % intervals hold the truth, on simulated sweeps: `make coverage`.

Prints Markdown; docs/analysis.md shows a run of it.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from analysis.answer.notes import flags
from analysis.curves.curve import Curve
from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.fit import Fit, fit
from analysis.fitting.models import hyperbola
from analysis.fitting.profile import Interval

N_INF = 1500.0
# A sweep is evaluated on a geometric cadence, each evaluation 5 % after the one before, as digits are.
PRECISION = 0.05
RESAMPLES = 200
# Sweeps of a scenario that are resampled too.
BOOTSTRAPPED = 300


@dataclass(frozen=True)
class Scenario:
    """Sweeps of one truth. noise: σ of ln N. budget: in units of N∞."""

    b0: float
    noise: float
    seeds: int
    smallest: int = 2
    budget: float = 10.0

    @property
    def sizes(self) -> list[int]:
        return [self.smallest * 2**k for k in range(10)]

    @property
    def inside(self) -> bool:
        """Whether b* = 2 b0 lies within the sweep."""
        return self.sizes[0] <= 2 * self.b0 <= self.sizes[-1]


def simulate(scenario: Scenario, rng: np.random.Generator) -> Curve:
    """One sweep: log-normal N around the hyperbola, known between two evaluations, up to the budget."""
    rows: list[tuple[float | str, ...]] = []
    budget = math.floor(N_INF * scenario.budget)
    for b in scenario.sizes:
        for seed in range(scenario.seeds):
            n = float(hyperbola(b, N_INF, scenario.b0)) * math.exp(scenario.noise * rng.normal())
            if n > budget:
                rows.append((b, seed, "censored", budget, budget))
            else:
                k = math.ceil(math.log(n) / math.log1p(PRECISION))
                rows.append((b, seed, "reached", (1 + PRECISION) ** (k - 1), (1 + PRECISION) ** k))
    return Curve("", "simulated", pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"]))


def _holds(interval: Interval, truth: float) -> bool:
    low, high = interval
    return (low is None or low <= truth) and (high is None or truth <= high)


def _one(scenario: Scenario, random: int, resamples: int) -> dict[str, Any]:
    found = fit(simulate(scenario, np.random.default_rng([random, hash(scenario) % 2**32])))
    row: dict[str, Any] = {"censored": found.censored / len(found.curve.frame), "b_star": found.b_star}
    truth = {"b_star": 2 * scenario.b0, "n_inf": N_INF, "sfo": 4 * N_INF * scenario.b0}
    if not scenario.inside:
        return row | _outside(scenario, found)
    for name, value in truth.items():
        row[name + "_held"] = _holds(getattr(found, name + "_ci"), value)
    again = bootstrap(found.hyperbola, resamples) if random < BOOTSTRAPPED and resamples else None
    if again is not None:
        row["bootstrap_held"] = _holds(again.intervals["b_star"], truth["b_star"])
    return row


def _outside(scenario: Scenario, found: Fit) -> dict[str, Any]:
    """Whether the case is flagged, and whether the bound that faces the sweep holds and tells anything."""
    low, high = found.b_star_ci
    first, last = found.curve.batch_sizes[0], found.curve.batch_sizes[-1]
    below = 2 * scenario.b0 < first
    words = ("Every run reached", "may lie below") if below else ("fit needs three", "may lie above", "No run reached")
    flagged = any(word in note for note in flags(found) for word in words)
    if below:  # a two-sided 95 % interval's upper end is a 97.5 % bound
        return {
            "flagged": flagged,
            "bound_held": high is None or 2 * scenario.b0 <= high,
            "informative": high is not None and high < 2 * first,
        }
    return {
        "flagged": flagged,
        "bound_held": low is None or low <= 2 * scenario.b0,
        "informative": low is not None and low > last / 4,
    }


def measure(scenario: Scenario, sweeps: int, resamples: int = RESAMPLES, workers: int = -1) -> dict[str, float]:
    """Shares over simulated sweeps, and the bias of log2 b* (median and mean, in octaves)."""
    rows = Parallel(n_jobs=workers)(delayed(_one)(scenario, random, resamples) for random in range(sweeps))
    frame = pd.DataFrame(rows)
    shares = {name: float(frame[name].mean()) for name in frame.columns if name != "b_star"}
    octaves = np.log2(frame["b_star"].fillna(1e-9).to_numpy(float) / (2 * scenario.b0))
    known = octaves[frame["b_star"].notna()]
    return shares | {
        "median_bias": float(np.median(octaves)),
        "mean_bias": float(known.mean()) if len(known) else math.nan,
    }


INSIDE = [
    Scenario(b0, noise, seeds, smallest, budget)
    for b0, smallest, budget in ((1.5, 2, 10.0), (3.2, 2, 10.0), (12.0, 2, 4.0), (100.0, 8, 10.0))
    for noise, seeds in ((0.05, 1), (0.05, 5), (0.15, 2), (0.4, 1), (0.4, 5))
]
OUTSIDE = [Scenario(b0, noise, seeds) for b0 in (0.2, 0.7, 700.0) for noise in (0.05, 0.4) for seeds in (1, 5)]


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _rows(scenarios: list[Scenario], sweeps: int, resamples: int, heads: list[str]) -> None:
    _row("b*", "swept b", "noise", "seeds", "censored", *heads)
    _row(*["---"] * (5 + len(heads)))
    for scenario in scenarios:
        m = measure(scenario, sweeps, resamples)
        names = {"bound holds": "bound_held", "b*, bootstrap": "bootstrap_held", "SFO at b*": "sfo_held"}
        names |= {"b*": "b_star_held", "N∞": "n_inf_held"}
        shown = [
            f"{m[head.replace(' ', '_')]:+.3f}" if head.endswith("bias") else f"{m[names.get(head, head)]:.1%}"
            for head in heads
        ]
        swept = f"{scenario.sizes[0]} … {scenario.sizes[-1]}"
        _row(f"{2 * scenario.b0:g}", swept, f"{scenario.noise:.0%}", scenario.seeds, f"{m['censored']:.0%}", *shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps per scenario")
    sweeps = parser.parse_args().sweeps
    print(f"b* inside the sweep, {sweeps:,} sweeps per row. Share of 95 % intervals that hold the truth:\n")
    heads = ["b*", "N∞", "SFO at b*", "b*, bootstrap", "median bias", "mean bias"]
    _rows(INSIDE, sweeps, RESAMPLES, heads)
    print("\nb* outside the sweep: how often it is said, and the bound that faces the sweep:\n")
    _rows(OUTSIDE, sweeps, 0, ["flagged", "bound holds", "informative"])


if __name__ == "__main__":
    main()
