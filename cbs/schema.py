"""The types of a composed config: `conf/` holds the values, `cbs.config` makes one of the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cbs.options import (
    LOGGERS,
    MODELS,
    OPTIMIZERS,
    UPDATES,
    BigGANConfig,
    DCGANConfig,
    LoggerConfig,
    OptimizerConfig,
    SAGANConfig,
    UpdateConfig,
)
from cbs.outcome import ABANDONED, BUDGET, METRICS, Metric, Reached
from cbs.record import Result
from cbs.schedules import BatchSizeConfig, Growth, spending
from cbs.target import Cadence, Even, Geometric, first_step


@dataclass(frozen=True)
class TaskConfig:
    name: str


@dataclass(frozen=True)
class DatasetConfig:
    name: str
    image_size: int
    channels: int
    fit: str
    split: str
    source: str | None
    corrupt: str
    images: int | None = None


@dataclass(frozen=True)
class BranchConfig:
    """The run of the same seed that a run shares its first steps with: its parent, trained with one batch size.

    step, epochs: how many; one of them is None. optimizer: the parent's; None: the trial's own.
    """

    step: int | None
    epochs: float | None
    batch_size: int
    optimizer: OptimizerConfig | None

    @property
    def name(self) -> str:
        """What the shared state is called in the parent's folder."""
        return f"step-{self.step}" if self.step is not None else f"epochs-{self.epochs!r}"

    def steps(self, images: int | None, batches: int) -> int:
        """How many steps are shared, with so many images in the data set and batches in a step."""
        if self.step is not None:
            return self.step
        assert self.epochs is not None
        assert images is not None
        return math.ceil(Fraction(str(self.epochs)) * images / (self.batch_size * batches))  # as it is written


@dataclass(frozen=True)
class TargetConfig:
    metric: str
    extra: list[str]
    features: str
    generator: str
    ema_decay: float
    ema_start_step: int
    normalisation: str
    thresholds: list[float]
    samples: int
    every_steps: int | None
    every_epochs: float | None
    first_gradients: int
    precision: float
    confirmations: int
    evaluations_after: int
    budget_gradients: int | None
    budget_steps: int | None
    grant_steps: int | None

    @property
    def direction(self) -> Metric:
        """The target's metric: its title, and which side of a threshold is the better one."""
        return METRICS[self.metric]

    @property
    def hardest(self) -> float:
        """The threshold that is passed last: a run goes on to it."""
        return self.direction.hardest(self.thresholds)


@dataclass(frozen=True)
class PathsConfig:
    results: str
    data: str


@dataclass(frozen=True)
class Config:
    """One trial and how to run it, typed and checked."""

    name: str
    seeds: int
    device: str
    precision: str
    micro_batch: int | str | None
    gpus_per_trial: int
    checkpoint_minutes: float
    max_failures: int
    noise_batches: int
    stack: int | str
    paths: PathsConfig
    task: TaskConfig
    model: DCGANConfig | BigGANConfig | SAGANConfig
    dataset: DatasetConfig
    optimizer: OptimizerConfig
    update: UpdateConfig
    batch_size: BatchSizeConfig
    branch_from: BranchConfig | None
    target: TargetConfig
    logger: LoggerConfig

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Config:
        """The config that `to_dict` was asked for, of this version or an earlier one; nothing is checked again."""
        groups = {group: {**added, **plain[group]} for group, added in ADDED_TO_GROUPS.items()}
        return _rebuilt(cls, {**ADDED, **plain, **groups})

    def granted(self, steps: int | None) -> Config:
        """The same trial, its runs to go so far for now; None: to their budget."""
        return replace(self, target=replace(self.target, grant_steps=steps))

    def at(self, b: int) -> Config:
        """The same trial with one batch size throughout, from its first step on."""
        return replace(self, batch_size=BatchSizeConfig.constant(b), branch_from=None)

    @property
    def parent(self) -> Config | None:
        """The trial that this one shares its first steps with."""
        if self.branch_from is None:
            return None
        optimizer = self.branch_from.optimizer or self.optimizer
        return replace(self.at(self.branch_from.batch_size), optimizer=optimizer)

    @property
    def batches_per_step(self) -> int:
        """How many batches of real images a step draws."""
        return 2 if getattr(self.update, "extrapolation", None) == "fresh" else self.model.critic_steps

    @property
    def counts_epochs(self) -> bool:
        """Whether its evaluations or its budget depend on how many images an epoch has."""
        target, schedule, branch = self.target, self.batch_size.schedule, self.branch_from
        if target.every_epochs is not None:
            return True
        grows = isinstance(schedule, Growth) and schedule.kind == "epochs"
        parts = branch is not None and branch.epochs is not None
        return (grows or parts) and (target.every_steps is None or target.budget_gradients is not None)

    @property
    def gradients(self) -> Callable[[int], int]:
        """step → gradients spent by its end, the sum of the steps' batch sizes: N·b where b is constant."""
        branch, images, batches = self.branch_from, self.dataset.images, self.batches_per_step
        shared = None if branch is None else (branch.steps(images, batches), branch.batch_size)
        return spending(self.batch_size, images, batches, shared)

    @property
    def cadence(self) -> Cadence:
        """When its runs are evaluated."""
        target, images = self.target, self.dataset.images
        if target.every_steps is not None:
            return Cadence(Even(target.every_steps), int)
        if target.every_epochs is not None:
            assert images is not None
            every = Fraction(str(target.every_epochs)) * images  # as it is written: 6.4 epochs of 50,000 are 320,000
            return Cadence(Even(every / self.batches_per_step), self.gradients)
        return Cadence(Geometric(target.first_gradients, target.precision), self.gradients)

    @property
    def budget(self) -> int:
        """The steps that its budget has: target.budget_steps or target.budget_gradients, whichever ends first."""
        target = self.target
        steps = [] if target.budget_steps is None else [target.budget_steps]
        if target.budget_gradients is not None:
            steps.append(first_step(self.gradients, target.budget_gradients + 1) - 1)
        return min(steps)

    @property
    def asked_steps(self) -> int:
        """How far a run may go: to its budget, or so far as it was granted."""
        return self.budget if self.target.grant_steps is None else self.target.grant_steps

    @property
    def study_dir(self) -> Path:
        return Path(self.paths.results) / self.name


# What records of before these fields existed stand for.
ADDED = {
    "max_failures": 3,
    "noise_batches": 0,
    "stack": "auto",
    "gpus_per_trial": 1,
    "branch_from": None,
    "logger": {"name": "none"},
    "update": {"name": "alternating"},
    "precision": "fp32",
    "micro_batch": None,
}
ADDED_TO_GROUPS: dict[str, dict[str, Any]] = {
    "model": {"batch_norm": "global"},
    "dataset": {"corrupt": "refuse", "images": None},
    "target": {
        "extra": [],
        "generator": "eval",
        "ema_decay": 0.9999,
        "ema_start_step": 0,
        "grant_steps": None,
    },
}


@cache
def _field_types(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _rebuilt(schema: Any, plain: Any) -> Any:
    """A value of this type from its plain form: a dataclass from a dict, anything else as it is."""
    options = get_args(schema) if get_origin(schema) in (Union, UnionType) else (schema,)
    options = tuple(option for option in options if is_dataclass(option))
    if not options or not isinstance(plain, dict):
        return plain
    name = str(plain.get("name"))
    tables: tuple[dict[str, Any], ...] = (MODELS, OPTIMIZERS, UPDATES, LOGGERS)
    named = [schemas[name] for schemas in tables if name in schemas and issubclass(schemas[name], options)]
    fitting = [option for option in options if _field_types(option).keys() == plain.keys()]
    chosen: Any = (named or fitting)[0]
    types = _field_types(chosen)
    return chosen(**{name: _rebuilt(types[name], value) for name, value in plain.items()})


@dataclass(frozen=True)
class Request:
    """What a sweep asks of a trial beyond its trajectory: its thresholds, the easiest first, and where it may stop.

    last_step: the last evaluation within the budget, or within the grant. A run that is short of a threshold there
    is censored there, for `reason`: its budget, or "abandoned" where more of the budget may be granted.
    evaluations_after: how many evaluations of `cadence` follow the crossing of the hardest threshold, up to last_step.
    """

    thresholds: tuple[float, ...]
    last_step: int
    reason: str
    evaluations_after: int
    cadence: Cadence = field(compare=False)

    @classmethod
    def of(cls, config: Config) -> Request:
        target, cadence = config.target, config.cadence
        thresholds = tuple(target.direction.ordered(target.thresholds))
        last_step = cadence.last(config.asked_steps)
        whole = last_step == cadence.last(config.budget)
        return cls(thresholds, last_step, BUDGET if whole else ABANDONED, target.evaluations_after, cadence)

    def end(self, reached: int) -> int:
        """The last evaluation of a run that has crossed its hardest threshold at this step."""
        step = reached
        for _ in range(self.evaluations_after):
            step = self.cadence.following(step)
        return max(reached, min(step, self.last_step))

    def settled_by(self, result: Result | None) -> bool:
        """Whether a record answers every threshold, and goes on after the hardest as far as asked."""
        if result is None or not result.settles(self.thresholds, self.last_step):
            return False
        outcome = result.outcomes[self.thresholds[-1]]
        if not isinstance(outcome, Reached) or result.diverged_at is not None:
            return True
        return result.last_step >= self.end(outcome.first_below)
