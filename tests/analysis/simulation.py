"""Curves for the tests of analysis, made up or simulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curves.curve import Curve
from analysis.curves.files import from_frame
from analysis.fitting.models import hyperbola

DATA = Path(__file__).parent / "data"
Rows = list[tuple]
FOUR = (4, 8, 16, 32)
N_INF = 1500.0
TEN = tuple(2**k for k in range(1, 11))


@dataclass(frozen=True)
class Scenario:
    """Sweeps around a hyperbola. noise: σ of ln N. budget: in units of N∞, steps."""

    b0: float
    noise: float
    seeds: int
    budget: float = 10.0


def simulate(scenario: Scenario, rng: np.random.Generator) -> Curve:
    """One sweep of ten sizes: log-normal N around the hyperbola, known between two evaluations, up to the budget."""

    def truth(b: float) -> float:
        return float(hyperbola(b, N_INF, scenario.b0))

    budget = math.floor(N_INF * scenario.budget)
    return sweep(truth, scenario.noise, scenario.seeds, rng, budget=lambda b: budget)


def sweep(
    truth: Callable[[float], float],
    noise: float,
    seeds: int,
    rng: np.random.Generator,
    sizes: Sequence[int] = TEN,
    budget: Callable[[int], float] = lambda b: math.inf,
) -> Curve:
    """One sweep: log-normal N around a truth, evaluated at every 5 % of steps, each run up to its size's budget."""
    rows: list[tuple[float | str, ...]] = []
    for b in sizes:
        for seed in range(seeds):
            n, most = truth(b) * math.exp(noise * rng.normal()), budget(b)
            if n > most:
                rows.append((b, seed, "censored", most, most))
            else:
                k = math.ceil(math.log(n) / math.log1p(0.05))
                rows.append((b, seed, "reached", 1.05 ** (k - 1), 1.05**k))
    return Curve("", "simulated", pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"]))


def curve(rows: Rows, optimizer: str = "adam") -> Curve:
    """A curve from rows of (batch_size, seed, outcome, lower, steps)."""
    return Curve(optimizer, optimizer, pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"]))


def runs(*curve_points: tuple[int, float], seeds: int = 1, spread: float = 0.0) -> Rows:
    """Exact runs at (b, N), each seed later by a share `spread`."""
    return [(b, s, "reached", math.nan, n * (1 + spread * s)) for b, n in curve_points for s in range(seeds)]


def simulated(b0: float, noise: float, seeds: int, budget: float = 8.0, random: int = 1) -> Curve:
    """One sweep around a hyperbola, as `simulate` makes it."""
    return simulate(Scenario(b0, noise, seeds, budget=budget), np.random.default_rng(random))


def public() -> list[Curve]:
    """Steps-to-target of five language models at nine batch sizes (github.com/hlzhang109/critical-batch-size, MIT)."""
    raw = pd.read_csv(DATA / "hlzhang109_cbs_chinchilla_steps_to_target.csv")
    frame = pd.DataFrame(
        {
            "curve": raw["model_size"],
            "batch_size": raw["batch_size_sequences_of_512_tokens"],
            "steps": raw["min_steps_used_in_fit(cell5)"],
            "outcome": "reached",
        }
    )
    return from_frame(frame)
