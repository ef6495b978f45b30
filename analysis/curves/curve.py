"""A curve: the steps-to-target of one task and optimizer over batch sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cbs.outcome import Metric

COLUMNS = ("batch_size", "seed", "outcome", "lower", "steps")
SPENT = ("batch_size", "seed", "device", "seconds", "device_seconds", "joules")
OUTCOMES = ("reached", "censored", "diverged")
NAMES = {"adam": "Adam", "adabelief": "AdaBelief", "rmsprop": "RMSProp", "sgd": "SGD"}
# What closed forms need to know of a curve.
FACTS = ("lr_generator", "beta1", "beta2", "parameters", "dataset_size")


@dataclass
class Curve:
    """Observations of N(b).

    frame: one row per run, columns batch_size, seed, outcome, lower, steps. A reached run arrived in
    (lower, steps]; lower is NaN where `steps` is exact. A censored or diverged one had not by `steps`.
    group: what its trials have in common, as text; joins them with their trajectories.
    facts: what closed forms need (parameters, dataset_size, lr_generator, beta1, beta2), where known.
    left_out: runs of the study that have no outcome at this threshold. unconfirmed: crossings that were
    read off trajectories afterwards, without the fresh-noise repeats that the target asks for. abandoned_runs: (batch
    size, seed) of censored runs that an adaptive sweep had no more use for, before their budget was spent. changing:
    runs of the study whose batch size changes, or that branch from another run; they are on no curve.
    metric: what crosses the threshold; None where a file doesn't say, and less is taken to be better.
    spent: one row per run that says what a step took of it, columns batch_size, seed, device (as recorded),
    seconds, device_seconds, joules (each of one training step; NaN where not known); None where none does.
    gradients: that a step takes per image of its batch, as cbs.outcome.sfo counts them: 1 of a plain step, 2 of
    extragradient; SFO is N·b times as many. One number, for it doesn't depend on b in any update rule here.
    variants: the same runs under other definitions of arriving, by name, read when they are asked for.
    about: what was trained, where that is known: rates, network and data set, as they follow the name in a headline.
    """

    optimizer: str
    label: str
    frame: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    group: str = ""
    left_out: int = 0
    unconfirmed: int = 0
    spent: pd.DataFrame | None = field(default=None, repr=False)
    abandoned_runs: frozenset[tuple[int, int]] = frozenset()
    metric: Metric | None = None
    changing: int = 0
    gradients: float = 1.0
    variants: Callable[[], dict[str, Curve]] = field(default=dict, repr=False)
    about: str = ""

    @property
    def name(self) -> str:
        """The label as people write it."""
        first, _, rest = self.label.partition(" ")
        return f"{NAMES.get(first, first)} {rest}".strip()

    @property
    def side(self) -> str:
        """What stands before a threshold: "FID ≤", or "≤" where the metric isn't known."""
        return "≤" if self.metric is None else f"{self.metric.title} {self.metric.sign}"

    @property
    def target(self) -> str:
        """As in "FID ≤ 4"; "" where there is no threshold."""
        return "" if self.threshold is None else f"{self.side} {self.threshold:g}"

    @property
    def batch_sizes(self) -> list[int]:
        return sorted(self.frame["batch_size"].unique().tolist())

    def medians(self) -> pd.Series:
        """Median steps-to-target per batch size; a miss counts as infinite, and is never dropped."""
        steps = self.frame["steps"].where(self.frame["outcome"] == "reached", math.inf)
        return steps.groupby(self.frame["batch_size"]).apply(lambda runs: float(median(runs.to_numpy(float))))

    def shares(self) -> pd.DataFrame:
        """Per batch size: how many runs there are, and how many reached, were censored, diverged."""
        counts = pd.crosstab(self.frame["batch_size"], self.frame["outcome"])
        return counts.reindex(columns=list(OUTCOMES), fill_value=0).assign(runs=counts.sum(axis=1))

    @property
    def censored(self) -> int:
        """How many runs had not arrived when their budget was spent."""
        return int((self.frame["outcome"] == "censored").sum())

    @property
    def abandoned(self) -> int:
        """How many of the censored runs an adaptive sweep stopped before their budget was spent."""
        return len(self.abandoned_runs)

    @property
    def diverged(self) -> int:
        return int((self.frame["outcome"] == "diverged").sum())

    def median_bounds(self) -> pd.DataFrame:
        """Per batch size, the `low` and `high` between which the median N lies, whatever unfinished runs would do.

        An unfinished run, abandoned or not, arrives after the step where it stopped; a diverged one never.
        """
        arrived, diverged = (self.frame["outcome"] == kind for kind in ("reached", "diverged"))
        ends = {
            "low": self.frame["steps"].mask(diverged, math.inf),
            "high": self.frame["steps"].where(arrived, math.inf),
        }
        by = self.frame["batch_size"]
        return pd.DataFrame(
            {
                name: steps.groupby(by).apply(lambda runs: float(median(runs.to_numpy(float))))
                for name, steps in ends.items()
            }
        )

    def measured(self) -> Measured:
        """The swept batch size with the least median N·b, as the paper reads it off."""
        bounds = self.median_bounds()
        low, high = (bounds[end] * bounds.index.to_numpy(float) for end in ("low", "high"))
        if not math.isfinite(high.min()):
            return Measured(None, ())
        best = int(high.idxmin())
        rivals = [int(b) for b in bounds.index[(low < high.min()) & (low < high)] if b != best]
        return Measured(None if rivals else best, tuple(sorted((best, *rivals))))


@dataclass(frozen=True)
class Measured:
    """The paper's b*: the swept batch size with the least median N·b.

    b_star: None where no median is known, or where unfinished runs may change which is least. candidates: the batch
    sizes that may be it; empty where no median is known.
    """

    b_star: int | None
    candidates: tuple[int, ...]


def median(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median along the last axis, a miss counting as infinite; of no runs at all, ∞."""
    return np.asarray(np.median(steps, -1)) if steps.shape[-1] else np.full(steps.shape[:-1], math.inf)
