"""Simulated tasks whose critical batch size is known, and sweeps of them.

A task answers at which step the run of any seed at any batch size arrives, the same whoever asks, so that grids and
adaptive sweeps can be tried on the same task.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.curves.curve import COLUMNS, Curve
from analysis.fitting.models import Array

SIZES = tuple(2**k for k in range(1, 11))
# The spread between seeds is that of a row at this batch size, the middle of SIZES.
MIDDLE = math.sqrt(SIZES[0] * SIZES[-1])
# Where a least N·b lies, and where the knee of a truth lies that has none: log-uniform.
B_STAR, KNEE = (4.0, 64.0), (8.0, 512.0)
N_INF = (1000.0, 2000.0)
# Evaluations are 5 % more gradients apart, as those of digits are.
PRECISION = 0.05
# A fixed cadence so coarse that N is known to a factor of two at large b, and a budget of so many evaluations.
COARSE, EVALUATIONS = 700, 24
# A batch size is a right answer where N·b is within half a per cent of the least.
TOLERANCE = math.log(1.005)


def _hyperbola(b: Array, at: float, p: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > at, -np.log1p(-at / b), np.inf)


def _power(b: Array, at: float, p: float) -> Array:
    return np.log1p((at / b) ** p)


def _late(b: Array, at: float, p: float) -> Array:
    return _power(b, at, p) + np.log1p((b / (32 * at)) ** 0.7)


def _pieces(b: Array, at: float, first: float, second: float) -> Array:
    octave = np.log(b / at)
    return first * np.maximum(-octave, 0) + second * np.maximum(math.log(8) - np.maximum(octave, 0), 0)


# ln N(b)/N∞ of each truth, from b, where its knee lies, and its exponent.
TRUTHS: dict[str, Callable[[Array, float, float], Array]] = {
    "hyperbola": _hyperbola,
    "two-term": lambda b, at, p: np.log1p(at / b),
    "power": _power,
    "late": _late,
    "piecewise": lambda b, at, p: _pieces(b, at, 0.9, 0.5),
    "kink": lambda b, at, p: _pieces(b, at, 1.5, 0.6),
}


@dataclass(frozen=True)
class Row:
    """Tasks of one kind, and how they are swept.

    truth: one of TRUTHS. p: its exponent. "late" is the power law times 1 + (b/32 b_c)^0.7, which rises at large b.
    "piecewise" falls with slope −0.9, from b1 on with −0.5, from 8 b1 on not at all. "kink" falls with −1.5 and −0.6.
    sigma: the spread of ln N between seeds at MIDDLE. growth: by which power of b it falls with b. degrees: of freedom,
    where the scatter is Student's t and not normal. shift: the spread of what a seed adds to ln N at every batch size
    alike. diverging: the share of runs that diverge before they arrive. budget: of a run, as a multiple of the least
    SFO. coarse: evaluated every COARSE steps, EVALUATIONS times, whatever the batch size.
    """

    truth: str
    p: float = 1.0
    seeds: int = 3
    sigma: float = 0.15
    growth: float = 0.0
    degrees: float = math.inf
    shift: float = 0.0
    diverging: float = 0.0
    budget: float = 8.0
    coarse: bool = False
    sizes: tuple[int, ...] = SIZES

    @property
    def title(self) -> str:
        return f"{self.truth} {self.p:g}" if self.truth in ("power", "late") else self.truth

    @property
    def inside(self) -> bool:
        """Whether N·b is least between the smallest and the largest size, and not at the smallest."""
        return self.truth in ("hyperbola", "kink") or (self.truth in ("power", "late") and self.p > 1)

    @property
    def spread(self) -> str:
        """The scatter in a few words."""
        parts = [f"{self.sigma:.0%}"]
        parts += ["growing"] * (self.growth > 0) + [f"t{self.degrees:g}"] * math.isfinite(self.degrees)
        parts += [f"shared {self.shift:.0%}"] * (self.shift > 0) + [f"{self.diverging:.0%} diverge"] * (
            self.diverging > 0
        )
        return ", ".join(parts)

    @property
    def stopped(self) -> str:
        """When runs are stopped, in a few words."""
        return "coarse, by steps" if self.coarse else f"{self.budget:g}×"


@dataclass(frozen=True)
class Task:
    """One truth with one stream of noise. at: where its knee lies (b0, B_crit, b_c or b1)."""

    row: Row
    at: float
    n_inf: float
    number: int

    def log_n(self, b: Array) -> Array:
        """ln of the median run's steps-to-target."""
        return math.log(self.n_inf) + TRUTHS[self.row.truth](np.asarray(b, float), self.at, self.row.p)

    def log_sfo(self, b: Array) -> Array:
        return self.log_n(b) + np.log(b)

    @cached_property
    def fine(self) -> Array:
        """Batch sizes (G,) from the smallest to the largest of the sweep, a hundred to an octave."""
        first, last = self.row.sizes[0], self.row.sizes[-1]
        return np.geomspace(first, last, 1 + round(100 * math.log2(last / first)))

    @cached_property
    def least(self) -> float:
        """ln of the least N·b within the sweep."""
        return float(self.log_sfo(self.fine).min())

    def regret(self, b: Array) -> Array:
        """ln of N(b)·b over the least."""
        return self.log_sfo(np.asarray(b, float)) - self.least

    def holds(self, low: float, high: float) -> bool:
        """Whether some batch size from low to high is a right answer, within half a per cent of the least."""
        inside = self.fine[(self.fine > low) & (self.fine < high)]
        return bool(self.regret(np.array([low, *inside, high])).min() <= TOLERANCE)

    def steps(self, b: int, seed: int) -> tuple[float, bool]:
        """The step at which a run arrives, or diverges, and whether it arrives; ∞ where it does neither."""
        row = self.row
        rng = np.random.default_rng([self.number, b, seed])
        dies, when = rng.uniform(size=2)
        z = rng.standard_t(row.degrees) if math.isfinite(row.degrees) else rng.standard_normal()
        shift = row.shift * np.random.default_rng([self.number, 0, seed]).standard_normal() if row.shift else 0.0
        spread = row.sigma * (b / MIDDLE) ** -row.growth
        log_n = float(self.log_n(np.array(float(b)))) + spread * z + shift
        n = math.exp(min(log_n, 700.0)) if math.isfinite(log_n) else math.inf
        if dies < row.diverging:
            return (n if math.isfinite(n) else self.n_inf) * when, False
        return n, True

    def before(self, b: int, step: float) -> float:
        """The last evaluation at or before a step; 0 where there is none."""
        if self.row.coarse:
            return math.floor(step / COARSE + 1e-9) * float(COARSE)
        return math.exp(math.floor(math.log(step * b) / math.log1p(PRECISION) + 1e-9) * math.log1p(PRECISION)) / b

    def after(self, b: int, step: float) -> float:
        """The first evaluation at or after a step."""
        if self.row.coarse:
            return math.ceil(step / COARSE - 1e-9) * float(COARSE)
        return math.exp(math.ceil(math.log(step * b) / math.log1p(PRECISION) - 1e-9) * math.log1p(PRECISION)) / b

    def most(self, b: int) -> float:
        """The step at which the sweep stops a run."""
        return float(COARSE * EVALUATIONS) if self.row.coarse else math.exp(self.least) * self.row.budget / b

    def run(self, b: int, seed: int, until: float) -> tuple[int, int, str, float, float]:
        """A run trained until it arrives, diverges, or has made `until` steps: a row of a curve's frame."""
        n, arrives = self.steps(b, seed)
        last = self.before(b, until)
        if not arrives and n <= last:
            return b, seed, "diverged", n, n
        if not arrives or n > last:
            return b, seed, "censored", last, last
        high = self.after(b, n)
        low = high - COARSE if self.row.coarse else high / (1 + PRECISION)
        return b, seed, "reached", low, high

    def sweep(self) -> Curve:
        """Every batch size with every seed, each run to its target or its budget."""
        return self.swept((b, seed) for b in self.row.sizes for seed in range(self.row.seeds))

    def swept(self, runs: Iterable[tuple[int, int]]) -> Curve:
        """The curve of these runs (batch size, seed), each to its target or its budget."""
        rows = [self.run(b, seed, self.most(b)) for b, seed in runs]
        return Curve("simulated", "simulated", pd.DataFrame(rows, columns=list(COLUMNS)))


def drawn(row: Row, number: int) -> Task:
    """The task of a row with this number: where its knee lies and its N∞ are log-uniform."""
    stream = zlib.crc32(repr(replace(row, seeds=0)).encode())
    rng = np.random.default_rng([number, stream])
    near = row.inside or row.truth == "piecewise"
    at, n_inf = (math.exp(rng.uniform(*np.log(ends))) for ends in (B_STAR if near else KNEE, N_INF))
    if row.truth == "hyperbola":
        at = at / 2
    elif row.truth in ("power", "late") and row.inside:
        at = at / (row.p - 1) ** (1 / row.p)
    return Task(row, at, n_inf, int(rng.integers(2**31)))


def around(truth: str, at: float, row: Row | None = None, n_inf: float = 1500.0, number: int = 0) -> Task:
    """A task whose knee lies at a known batch size."""
    return Task(replace(row or Row(truth), truth=truth), at, n_inf, number)
