"""Curves for the tests of analysis, made up or simulated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curves.curve import Curve
from analysis.curves.files import from_frame
from benchmarks.coverage import Scenario, simulate

DATA = Path(__file__).parent / "data"
Rows = list[tuple]
FOUR = (4, 8, 16, 32)


def curve(rows: Rows, optimizer: str = "adam") -> Curve:
    """A curve from rows of (batch_size, seed, outcome, lower, steps)."""
    return Curve(optimizer, optimizer, pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"]))


def runs(*curve_points: tuple[int, float], seeds: int = 1, spread: float = 0.0) -> Rows:
    """Exact runs at (b, N), each seed later by a share `spread`."""
    return [(b, s, "reached", math.nan, n * (1 + spread * s)) for b, n in curve_points for s in range(seeds)]


def simulated(b0: float, noise: float, seeds: int, budget: float = 8.0, random: int = 1) -> Curve:
    """One sweep around a hyperbola, as the coverage benchmark simulates it."""
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
