"""What a run records: evaluations, and one outcome per threshold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Noise:
    """Gradient noise of one network at one point of its training, from `batches` independent batches of b images.

    norm2: |G|², squared norm of the expected gradient; an unbiased estimate, which may be below 0. sigma2: tr Σ, b
    times the variance of a batch's gradient. Errors are standard errors; covariance: of the two estimates.
    scale: tr Σ/|G|² in images, None where norm2 isn't above 0. layers: [sigma2, norm2] of each layer's parameters.
    cbs.tasks.noise has the estimators.
    """

    batches: int
    sigma2: float
    sigma2_error: float
    norm2: float
    norm2_error: float
    covariance: float
    scale: float | None
    scale_error: float | None
    layers: dict[str, list[float]]


@dataclass(frozen=True)
class Measurement:
    """The metric of a task as it is, its standard error where that is known, and other metrics by name.

    noise: of each network's gradient, where that was measured too.
    """

    value: float
    sampling_error: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One measurement of the metric.

    step: updates of the generator so far. samples: real images consumed so far. seconds: training and
    evaluating time so far, over all attempts. value: the metric with this step's own noise.
    repeats: the metric again with fresh noise, as far as a crossing asked for it.
    losses: means since the evaluation before. sampling_error: the value's standard error at this number of
    generated images; None where it isn't known. extra: the other metrics asked for, by name.
    noise: of the gradients of `generator` and `discriminator`; empty where it wasn't measured.
    gradients: per-sample gradients evaluated so far of `generator` and of `discriminator`, whatever for: critic
    steps, extrapolations, snapshots; empty in records of before they were counted.
    """

    step: int
    samples: int
    seconds: float
    value: float
    repeats: tuple[float, ...] = ()
    losses: dict[str, float] = field(default_factory=dict)
    sampling_error: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)
    gradients: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        # Not asdict: it copies deeply, and a trajectory is written whole at each evaluation.
        noise = {name: vars(found) for name, found in self.noise.items()}
        return {**vars(self), "repeats": list(self.repeats), "noise": noise}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Evaluation:
        noise = {name: Noise(**found) for name, found in raw.get("noise", {}).items()}
        return cls(**{**raw, "repeats": tuple(raw["repeats"]), "noise": noise})


def sfo(evaluation: Evaluation) -> float:
    """What a training had spent by an evaluation, in calls of a stochastic first-order oracle of both networks.

    (generator + discriminator)/2 of the gradients evaluated, so that N steps of both at batch size b are the N·b of
    Sato & Iiduka (2023), where each has one. Where a record doesn't count them: the real images consumed.
    """
    counted = evaluation.gradients
    return (counted["generator"] + counted["discriminator"]) / 2 if counted else float(evaluation.samples)


@dataclass(frozen=True)
class Reached:
    """The target was crossed after `last_above` and at or before `first_below` (steps).

    last_above: the last evaluation that didn't count as below; 0 if the first one already did.
    first_below: the first confirmed evaluation at or below the threshold: steps-to-target N.
    """

    last_above: int
    first_below: int


# Why a run was stopped above its target: its budget was spent, or an adaptive sweep had no more use for it. Neither
# looks at the run's own metric, so both are ordinary right-censored observations.
BUDGET, ABANDONED = "budget", "abandoned"


@dataclass(frozen=True)
class Censored:
    """Still above the target at `step`, the last evaluation before the run was stopped for `reason`."""

    step: int
    reason: str = BUDGET


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


_CENSORED = {BUDGET: "censored", ABANDONED: "abandoned"}


def told(outcomes: dict[float, Outcome]) -> str:
    """Outcomes per threshold, in words."""
    parts = []
    for threshold, outcome in sorted(outcomes.items(), reverse=True):
        if isinstance(outcome, Reached):
            parts.append(f"≤ {threshold:g} at step {outcome.first_below:,}")
        elif isinstance(outcome, Censored):
            parts.append(f"above {threshold:g} at step {outcome.step:,} ({_CENSORED[outcome.reason]})")
        else:
            parts.append(f"diverged at step {outcome.step:,}")
    return ", ".join(dict.fromkeys(parts))
