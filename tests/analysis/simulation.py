"""Curves for the tests of analysis, made up or simulated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curves.curve import Curve
from analysis.curves.files import from_frame
from analysis.fitting.models import hyperbola

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
    """A sweep of b = 2 … 1,024 around a hyperbola, evaluated every 5 % of steps; budget in units of N∞ = 1500."""
    rng, n_inf = np.random.default_rng(random), 1500.0
    most, rows = math.floor(n_inf * budget), []
    for b in (2**k for k in range(1, 11)):
        for seed in range(seeds):
            n = float(hyperbola(b, n_inf, b0)) * math.exp(noise * rng.normal())
            k = math.ceil(math.log(min(n, 2 * most)) / math.log(1.05))
            rows.append(
                (b, seed, "censored", most, most) if n > most else (b, seed, "reached", 1.05 ** (k - 1), 1.05**k)
            )
    return curve(rows, "simulated")


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
