"""The types of a composed config: `conf/` holds the values, `cbs.config` makes one of the other."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cbs.outcome import ABANDONED, BUDGET
from cbs.schedules import BatchSizeConfig
from cbs.target import Cadence


@dataclass(frozen=True)
class TaskConfig:
    name: str


@dataclass(frozen=True)
class ModelConfig:
    name: str
    width: int
    latent: int
    loss: str
    penalty: float
    critic_steps: int
    batch_norm: str


@dataclass(frozen=True)
class DCGANConfig(ModelConfig):
    redraw_fakes: bool
    discriminator_norm: str


@dataclass(frozen=True)
class BigGANConfig(ModelConfig):
    shared_embedding: int
    attention: int | None
    orthogonal_penalty: float


MODELS: dict[str, type[ModelConfig]] = {"dcgan": DCGANConfig, "wgan_gp": DCGANConfig, "biggan": BigGANConfig}


@dataclass(frozen=True)
class DatasetConfig:
    name: str
    image_size: int
    channels: int
    fit: str
    split: str
    source: str | None
    corrupt: str


@dataclass(frozen=True)
class AdamConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class AdaBeliefConfig(AdamConfig):
    weight_decay: float


@dataclass(frozen=True)
class RMSPropConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    alpha: float
    eps: float


@dataclass(frozen=True)
class SGDConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    momentum: float
    nesterov: bool


OptimizerConfig = AdamConfig | AdaBeliefConfig | RMSPropConfig | SGDConfig
OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adam": AdamConfig,
    "adabelief": AdaBeliefConfig,
    "rmsprop": RMSPropConfig,
    "sgd": SGDConfig,
}


@dataclass(frozen=True)
class LoggerConfig:
    name: str


@dataclass(frozen=True)
class WandbConfig(LoggerConfig):
    project: str
    entity: str | None
    mode: str | None


@dataclass(frozen=True)
class MLflowConfig(LoggerConfig):
    tracking_uri: str | None
    experiment: str


LOGGERS: dict[str, type[LoggerConfig]] = {
    "none": LoggerConfig,
    "tensorboard": LoggerConfig,
    "wandb": WandbConfig,
    "mlflow": MLflowConfig,
}


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

    def steps(self, images: int, critic_steps: int) -> int:
        """How many steps are shared, with so many images in the data set."""
        if self.step is not None:
            return self.step
        assert self.epochs is not None
        return math.ceil(self.epochs * images / (self.batch_size * critic_steps))


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

    @property
    def asked_steps(self) -> int:
        """How far a run may go: to its budget, or so far as it was granted."""
        return self.budget_steps if self.grant_steps is None else self.grant_steps

    @property
    def cadence(self) -> Cadence:
        return Cadence(self.every_steps, self.first_steps, self.precision)


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
    model: DCGANConfig | BigGANConfig
    dataset: DatasetConfig
    optimizer: OptimizerConfig
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
    "precision": "fp32",
    "micro_batch": None,
}
ADDED_TO_GROUPS: dict[str, dict[str, Any]] = {
    "model": {"batch_norm": "global"},
    "dataset": {"corrupt": "refuse"},
    "target": {"extra": [], "generator": "eval", "ema_decay": 0.9999, "ema_start_step": 0, "grant_steps": None},
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
    named = [schemas[name] for schemas in (MODELS, OPTIMIZERS) if schemas.get(name) in options]
    fitting = [option for option in options if _field_types(option).keys() == plain.keys()]
    chosen: Any = (named or fitting)[0]
    types = _field_types(chosen)
    return chosen(**{name: _rebuilt(types[name], value) for name, value in plain.items()})


@dataclass(frozen=True)
class Request:
    """What a sweep asks of a trial beyond its trajectory: its thresholds, and where it may stop.

    last_step: the last evaluation within the budget, or within the grant. A run that is above a threshold there
    is censored there, for `reason`: its budget, or "abandoned" where more of the budget may be granted.
    """

    thresholds: tuple[float, ...]
    last_step: int
    reason: str = BUDGET

    @classmethod
    def of(cls, target: TargetConfig) -> Request:
        thresholds = tuple(sorted(set(target.thresholds), reverse=True))
        last_step = target.cadence.last(target.asked_steps)
        whole = last_step == target.cadence.last(target.budget_steps)
        return cls(thresholds, last_step, BUDGET if whole else ABANDONED)
