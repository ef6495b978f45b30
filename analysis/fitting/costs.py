"""What reaching a target costs as a function of the batch size: in time, in device hours, in energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.curves.curve import Curve
from analysis.fitting.cheapest import Cheapest, cheapest
from analysis.fitting.models import Array
from analysis.fitting.posterior import Posterior
from cbs.pace import line

# A cost by name: which column of Curve.spent, and how many of its units make one of the cost's.
_COLUMNS = {"time": ("seconds", 1.0), "hours": ("device_seconds", 3600.0), "energy": ("joules", 3600.0)}


@dataclass(frozen=True)
class Cost:
    """N(b)·c(b), where c(b) is what a step costs, as measured.

    name: time, in seconds to the target; hours, of devices; energy, in watt hours. sizes, steps: (k,) batch sizes
    where c was measured, and its median there; between them ln c is a line in ln b. step, image: the line step +
    b·image that is nearest to them. points: per batch size with a finite median N, what the median run cost; runs:
    batch_size, seed, cost of every run that arrived. cheapest: the batch size of least cost, None where no run arrived.
    """

    name: str
    sizes: Array
    steps: Array
    step: float
    image: float
    points: pd.Series
    runs: pd.DataFrame
    cheapest: Cheapest | None

    @property
    def measured_b_star(self) -> int | None:
        """The swept batch size whose median run costs least."""
        return int(self.points.idxmin()) if len(self.points) else None

    def of_a_step(self, b: Array) -> Array:
        """What a step costs at batch sizes b (n,)."""
        return np.exp(np.interp(np.log(b), np.log(self.sizes), np.log(self.steps)))


@dataclass(frozen=True)
class Costs:
    """The costs of one curve, by name. hours is absent where it is time: each run had one device for itself.

    device: that most runs had, as recorded; others: runs on other devices, which tell nothing here.
    """

    known: dict[str, Cost]
    device: str
    others: int

    @property
    def unit_of_hours(self) -> str:
        """What an hour of a device is called."""
        kind = self.device.partition(":")[0]
        return {"cuda": "GPU hours", "cpu": "core hours"}.get(kind, "device hours")

    @property
    def title_of_time(self) -> str:
        return "time" if "hours" in self.known else f"time = {self.unit_of_hours}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; hours is null where it is time."""
        plain: dict[str, Any] = {"device": self.device, "hours": None, "energy": None}
        for name, cost in self.known.items():
            found = cost.cheapest
            plain[name] = {
                "step": cost.step,
                "image": cost.image,
                "measured_b_star": cost.measured_b_star,
                "b_star": found.b_star if found else None,
                "b_star_ci": list(found.interval) if found else [None, None],
                "least": found.least if found else None,
                "least_ci": list(found.least_ci) if found else [None, None],
                "points": {f"{b:g}": float(value) for b, value in cost.points.items()},
            }
        return plain


def costs(curve: Curve, known: Posterior | None, margin: float) -> Costs | None:
    """What a curve's target costs; None where no run says what its steps took, or all have one batch size."""
    spent = curve.spent
    if spent is None or spent.empty:
        return None
    device = spent["device"].mode()[0]
    here = spent[spent["device"] == device]
    if here["batch_size"].nunique() < 2:
        return None
    found = {}
    for name, (column, units) in _COLUMNS.items():
        taken = here.set_index(["batch_size", "seed"])[column].dropna() / units
        apart = name != "hours" or not np.allclose(here["device_seconds"], here["seconds"])
        if apart and taken.index.get_level_values("batch_size").nunique() >= 2:
            found[name] = _cost(curve, known, margin, name, taken)
    return Costs(found, str(device), len(spent) - len(here))


def _cost(curve: Curve, known: Posterior | None, margin: float, name: str, taken: pd.Series) -> Cost:
    """taken: of one step, by batch_size and seed."""
    a_step = taken.groupby("batch_size").median()
    sizes, seen = a_step.index.to_numpy(float), a_step.to_numpy(float)
    step, image = line(dict(zip(a_step.index, seen.tolist(), strict=True)))
    points = (curve.medians() * a_step).dropna()
    arrived = curve.frame[curve.frame["outcome"] == "reached"]
    runs = arrived.join(taken.rename("taken"), on=["batch_size", "seed"]).dropna(subset="taken")
    runs = runs.assign(cost=runs["steps"] * runs["taken"])[["batch_size", "seed", "steps", "cost"]]
    least = None if known is None else cheapest(known, _log_step_cost(known, taken, sizes, seen), margin)
    return Cost(name, sizes, seen, step, image, points[np.isfinite(points)], runs, least)


def _log_step_cost(known: Posterior, taken: pd.Series, sizes: Array, seen: Array) -> Array:
    """Draws (S, G) of ln of what a step costs: the medians, off by as much as runs of one batch size differ."""
    logs = np.log(taken)
    groups = logs.groupby("batch_size")
    counts = groups.size().to_numpy(float)
    spare = counts.sum() - len(counts)
    spread = float(np.sqrt(((logs - groups.transform("mean")) ** 2).sum() / spare)) if spare > 0 else 0.0
    off = np.random.default_rng(0).standard_normal((len(known.weight), len(sizes))) * spread / np.sqrt(counts)
    x = np.log(sizes)
    right = np.clip(np.searchsorted(x, known.x), 1, len(x) - 1)
    share = np.clip((known.x - x[right - 1]) / (x[right] - x[right - 1]), 0.0, 1.0)
    at = np.log(seen) + off
    return at[:, right - 1] * (1 - share) + at[:, right] * share


def front(first: Array, second: Array) -> NDArray[np.intp]:
    """Indices of the points (n,) that no other is at most as large in both costs, by rising first."""
    order = np.lexsort((second, first))
    best = np.minimum.accumulate(second[order])
    before = np.concatenate([[np.inf], best[:-1]])
    return order[second[order] < before]
