"""What a run records: evaluations, and one outcome per threshold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """The metric of a task as it is, its standard error where that is known, and other metrics by name."""

    value: float
    sampling_error: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One measurement of the metric.

    step: updates of the generator so far. samples: real images consumed so far. seconds: training and
    evaluating time so far, over all attempts. value: the metric with this step's own noise.
    repeats: the metric again with fresh noise, as far as a crossing asked for it.
    losses: means since the evaluation before. sampling_error: the value's standard error at this number of
    generated images; None where it isn't known. extra: the other metrics asked for, by name.
    """

    step: int
    samples: int
    seconds: float
    value: float
    repeats: tuple[float, ...] = ()
    losses: dict[str, float] = field(default_factory=dict)
    sampling_error: float | None = None
    extra: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        # Not asdict: it copies deeply, and a trajectory is written whole at each evaluation.
        return {**vars(self), "repeats": list(self.repeats)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Evaluation:
        return cls(**{**raw, "repeats": tuple(raw["repeats"])})


@dataclass(frozen=True)
class Reached:
    """The target was crossed after `last_above` and at or before `first_below` (steps).

    last_above: the last evaluation that didn't count as below; 0 if the first one already did.
    first_below: the first confirmed evaluation at or below the threshold: steps-to-target N.
    """

    last_above: int
    first_below: int


@dataclass(frozen=True)
class Censored:
    """Still above the target at `step`, the last evaluation before the run was stopped for `reason`."""

    step: int
    reason: str = "budget"


@dataclass(frozen=True)
class Diverged:
    """A loss, a parameter or the metric was not finite at `step`."""

    step: int


Outcome = Reached | Censored | Diverged
_KINDS: dict[str, type[Outcome]] = {"reached": Reached, "censored": Censored, "diverged": Diverged}


def to_dict(threshold: float, outcome: Outcome) -> dict[str, Any]:
    """An outcome as one row of a result file."""
    return {"threshold": threshold, "outcome": type(outcome).__name__.lower(), **asdict(outcome)}


def from_dict(raw: dict[str, Any]) -> tuple[float, Outcome]:
    """The inverse of `to_dict`."""
    values = {k: v for k, v in raw.items() if k not in ("threshold", "outcome")}
    return float(raw["threshold"]), _KINDS[raw["outcome"]](**values)


def settles(outcome: Outcome | None, last_step: int) -> bool:
    """Whether a recorded outcome answers a request whose last evaluation is at this step."""
    if isinstance(outcome, Censored):
        return outcome.step >= last_step
    return outcome is not None


def told(outcomes: dict[float, Outcome]) -> str:
    """Outcomes per threshold, in words."""
    parts = []
    for threshold, outcome in sorted(outcomes.items(), reverse=True):
        if isinstance(outcome, Reached):
            parts.append(f"≤ {threshold:g} at step {outcome.first_below:,}")
        elif isinstance(outcome, Censored):
            parts.append(f"above {threshold:g} at step {outcome.step:,} (censored)")
        else:
            parts.append(f"diverged at step {outcome.step:,}")
    return ", ".join(dict.fromkeys(parts))
