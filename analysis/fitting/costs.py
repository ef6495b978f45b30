"""What reaching a target costs as a function of the batch size: in time, in device hours, in energy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from analysis.fitting.forms import Form
from analysis.fitting.hyperbola import Hyperbola
from analysis.fitting.models import Array, cheapest_batch_size, least_cost
from analysis.fitting.profile import Interval
from cbs.pace import line

# A cost by name: which column of Curve.spent, and how many of its units make one of the cost's.
_COLUMNS = {"time": ("seconds", 1.0), "hours": ("device_seconds", 3600.0), "energy": ("joules", 3600.0)}
# From this relative distance on, a line is a poor picture of what steps took.
POOR = 0.25


@dataclass(frozen=True)
class Cost:
    """N(b)·c(b), where c(b) = step + b·image is what a step costs.

    name: time, in seconds to the target; hours, of devices; energy, in watt hours. step, image: of one step
    and one image of its batch. misfit: the largest relative distance of a batch size's median from that line.
    points: per batch size with a finite median N, what the median run cost; runs: batch_size, seed, cost of every
    run that arrived. b_star: where the fit costs least (None where nothing is fitted, or the cost only falls); least:
    the cost there. Intervals are 95 %: the fit's carried over, and the line's own error added in quadrature.
    """

    name: str
    step: float
    image: float
    misfit: float
    points: pd.Series
    runs: pd.DataFrame
    b_star: float | None
    b_star_ci: Interval
    least: float | None
    least_ci: Interval

    @property
    def measured_b_star(self) -> int | None:
        """The swept batch size whose median run costs least."""
        return int(self.points.idxmin()) if len(self.points) else None

    def at(self, b: Array, steps: Array) -> Array:
        """The cost of so many steps at batch sizes b, each (n,)."""
        return steps * (self.step + self.image * b)

    def under(self, form: Form, smallest: float, largest: float) -> float | None:
        """The cost's minimiser with another form of N(b), between two batch sizes; None where it lies at an end."""
        ends = math.log(smallest), math.log(largest)

        def log_cost(x: float) -> float:
            b = np.array([math.exp(x)])
            return float(np.log(self.at(b, form.predict(b)))[0])

        found = minimize_scalar(log_cost, bounds=ends, method="bounded", options={"xatol": 1e-6})
        inside = ends[0] + 1e-3 < found.x < ends[1] - 1e-3
        return math.exp(found.x) if inside and math.isfinite(found.fun) else None


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
            told = ("step", "image", "misfit", "measured_b_star", "b_star", "least")
            plain[name] = {key: getattr(cost, key) for key in told}
            plain[name] |= {"b_star_ci": list(cost.b_star_ci), "least_ci": list(cost.least_ci)}
            plain[name]["points"] = {f"{b:g}": float(value) for b, value in cost.points.items()}
        return plain


def costs(fitted: Hyperbola) -> Costs | None:
    """What a curve's target costs; None where no run says what its steps took, or all have one batch size."""
    spent = fitted.curve.spent
    if spent is None or spent.empty:
        return None
    device = spent["device"].mode()[0]
    here = spent[spent["device"] == device]
    if here["batch_size"].nunique() < 2:
        return None
    known = {}
    for name, (column, units) in _COLUMNS.items():
        taken = here.set_index(["batch_size", "seed"])[column].dropna() / units
        apart = name != "hours" or not np.allclose(here["device_seconds"], here["seconds"])
        if apart and taken.index.get_level_values("batch_size").nunique() >= 2:
            known[name] = _cost(fitted, name, taken)
    return Costs(known, str(device), len(spent) - len(here))


def _cost(fitted: Hyperbola, name: str, taken: pd.Series) -> Cost:
    """taken: of one step, by batch_size and seed."""
    a_step = taken.groupby("batch_size").median()
    sizes, seen = a_step.index.to_numpy(float), a_step.to_numpy()
    step, image = line(dict(zip(a_step.index, seen.tolist(), strict=True)))
    misfit = float(np.abs(np.log(seen / (step + image * sizes))).max())
    points = (fitted.curve.medians() * a_step).dropna()
    arrived = fitted.curve.frame[fitted.curve.frame["outcome"] == "reached"]
    runs = arrived.join(taken.rename("taken"), on=["batch_size", "seed"]).dropna(subset="taken")
    runs = runs.assign(cost=runs["steps"] * runs["taken"])[["batch_size", "seed", "steps", "cost"]]
    ratio = step / image if image > 0 else math.inf

    def cheapest(b_star: float | None) -> float | None:
        found = None if b_star is None else float(cheapest_batch_size(b_star / 2, ratio))
        return found if found is not None and math.isfinite(found) else None

    b_star, ends = cheapest(fitted.b_star), (cheapest(fitted.b_star_ci[0]), cheapest(fitted.b_star_ci[1]))
    least: float | None = None
    least_ends: Interval = (None, None)
    if fitted.n_inf is not None and fitted.b0 is not None:
        over = least_cost(fitted.region[:, 0], fitted.region[:, 1], step, image)
        below, above = fitted.n_inf_ci
        least, open_end = float(over[0]), fitted.b_star_ci[1] is None or above is None
        least_ends = (None if below is None else float(over.min()), None if open_end else float(over.max()))
    if b_star is not None and least is not None and fitted.b0 is not None and step > 0 and len(sizes) > 2:
        # What changes ln b by the line's two parts, and ln of the cost: at the least, b itself doesn't.
        bend = ratio * fitted.b0 / (2 * math.sqrt(fitted.b0**2 + ratio * fitted.b0) * b_star)
        moved = _errors(sizes, seen, step, image, np.array([[bend / step, -bend / image], _parts(step, image, b_star)]))
        ends, least_ends = _widened(b_star, ends, moved[0]), _widened(least, least_ends, moved[1])
    finite = points[np.isfinite(points)]
    return Cost(name, step, image, misfit, finite, runs, b_star, ends, least, least_ends)


def _parts(step: float, image: float, b: float) -> tuple[float, float]:
    """How much more a step costs, relatively, for each unit more of its two parts."""
    return 1 / (step + image * b), b / (step + image * b)


def _errors(sizes: Array, seen: Array, step: float, image: float, slopes: Array) -> Array:
    """Half the 95 % interval of quantities that depend on a line's two parts by these slopes (q, 2): Student's t.

    The line is a regression of ones on (1, b)/seen: its residuals are relative distances.
    """
    rows = np.stack([1 / seen, sizes / seen], 1)
    spare = len(sizes) - 2
    variance = ((1 - rows @ np.array([step, image])) ** 2).sum() / spare
    covariance = variance * np.linalg.inv(rows.T @ rows)
    return stdtrit(spare, 0.975) * np.sqrt(np.einsum("qi,ij,qj->q", slopes, covariance, slopes))


def _widened(value: float, ends: Interval, half: float) -> Interval:
    """Ends moved out so that their distances from the value, in the logarithm, add in quadrature to `half`."""
    low, high = ends
    return (
        None if low is None else value * math.exp(-math.hypot(math.log(value / low), half)),
        None if high is None else value * math.exp(math.hypot(math.log(high / value), half)),
    )


def front(first: Array, second: Array) -> NDArray[np.intp]:
    """Indices of the points (n,) that no other is at most as large in both costs, by rising first."""
    order = np.lexsort((second, first))
    best = np.minimum.accumulate(second[order])
    before = np.concatenate([[np.inf], best[:-1]])
    return order[second[order] < before]
