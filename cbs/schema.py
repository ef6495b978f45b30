"""The types of a composed config: `conf/` holds the values, `cbs.config` makes one of the other."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, is_dataclass, replace
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
from cbs.outcome import ABANDONED, BUDGET, METRICS, Metric
from cbs.schedules import BatchSizeConfig, consumption
from cbs.target import Cadence, ImageCadence


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

    def steps(self, images: int, batches: int) -> int:
        """How many steps are shared, with so many images in the data set and batches in a step."""
        if self.step is not None:
            return self.step
        assert self.epochs is not None
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
    first_steps: int
    precision: float
    confirmations: int
    budget_steps: int
    grant_steps: int | None
    every_epochs: float | None = None

    @property
    def direction(self) -> Metric:
        """The target's metric: its title, and which side of a threshold is the better one."""
        return METRICS[self.metric]

    @property
    def hardest(self) -> float:
        """The threshold that is passed last: a run goes on to it."""
        return self.direction.hardest(self.thresholds)

    @property
    def asked_steps(self) -> int:
        """How far a run may go: to its budget, or so far as it was granted."""
        return self.budget_steps if self.grant_steps is None else self.grant_steps


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
    def cadence(self) -> Cadence | ImageCadence:
        """When its runs are evaluated."""
        target, images = self.target, self.dataset.images
        if target.every_epochs is None or images is None:
            return Cadence(target.every_steps, target.first_steps, target.precision)
        branch, batches = self.branch_from, self.batches_per_step
        shared = None if branch is None else (branch.steps(images, batches), branch.batch_size)
        return ImageCadence.of(target.every_epochs, images, consumption(self.batch_size, images, batches, shared))

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
        "every_epochs": None,
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
    """

    thresholds: tuple[float, ...]
    last_step: int
    reason: str = BUDGET

    @classmethod
    def of(cls, config: Config) -> Request:
        target, cadence = config.target, config.cadence
        thresholds = tuple(target.direction.ordered(target.thresholds))
        last_step = cadence.last(target.asked_steps)
        whole = last_step == cadence.last(target.budget_steps)
        return cls(thresholds, last_step, BUDGET if whole else ABANDONED)
