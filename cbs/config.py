"""The typed shape of a composed config: `conf/` holds the values, here stand their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cbs import rules
from cbs.errors import InputError, nearest
from cbs.rules import one_of
from cbs.target import Cadence

_HERE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; a checkout has it beside the package.
CONF_DIR = _HERE / "conf" if (_HERE / "conf" / "config.yaml").is_file() else _HERE.parent / "conf"


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
    redraw_fakes: bool
    discriminator_norm: str
    batch_norm: str


@dataclass(frozen=True)
class DatasetConfig:
    name: str
    image_size: int
    channels: int
    fit: str
    split: str
    source: str | None


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


@dataclass  # OmegaConf can't merge into a frozen dataclass inside another
class ScheduleConfig:
    kind: str


@dataclass(frozen=True)
class BatchSizeConfig:
    label: str
    initial: int
    schedule: ScheduleConfig


@dataclass(frozen=True)
class TargetConfig:
    metric: str
    features: str
    normalisation: str
    thresholds: list[float]
    samples: int
    every_steps: int | None
    first_steps: int
    precision: float
    confirmations: int
    budget_steps: int

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
    gpus_per_trial: int
    checkpoint_minutes: float
    paths: PathsConfig
    task: TaskConfig
    model: ModelConfig
    dataset: DatasetConfig
    optimizer: OptimizerConfig
    batch_size: BatchSizeConfig
    target: TargetConfig

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def study_dir(self) -> Path:
        return Path(self.paths.results) / self.name


@dataclass
class _Top:
    name: str
    seeds: int
    device: str
    gpus_per_trial: int
    checkpoint_minutes: float


_GROUPS: dict[str, Any] = {
    "paths": PathsConfig,
    "task": TaskConfig,
    "model": ModelConfig,
    "dataset": DatasetConfig,
    "batch_size": BatchSizeConfig,
    "target": TargetConfig,
}


def typed(composed: DictConfig | Mapping[str, Any]) -> Config:
    """Check a composed config's types and rules and return it as dataclasses.

    Raises InputError, one sentence naming the field, on a missing or unknown field, a value of the
    wrong type, or a value that breaks a rule.
    """
    node = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    node = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(_spoken(error, "")) from error
    assert isinstance(plain, dict)
    return _checked({str(key): value for key, value in plain.items()})


def _checked(plain: dict[str, Any]) -> Config:
    plain.get("model", {}).pop("rates", None)  # a table to choose rates from; the chosen ones are the optimizer's
    groups: dict[str, Any] = {group: _parse(schema, plain, group) for group, schema in _GROUPS.items()}
    optimizer_name = str((plain.get("optimizer") or {}).get("name"))
    one_of("optimizer.name", optimizer_name, OPTIMIZERS)
    groups["optimizer"] = _parse(OPTIMIZERS[optimizer_name], plain, "optimizer")
    top = {key: value for key, value in plain.items() if key not in groups}
    config = Config(**vars(_parse(_Top, {"": top}, "")), **groups)
    rules.check(config)
    return config


def _parse(schema: Any, plain: dict[str, Any], group: str) -> Any:
    prefix = f"{group}." if group else ""
    values = plain.get(group) or {}
    unknown = [key for key in values if key not in {f.name for f in fields(schema)}]
    if unknown:
        raise InputError(
            f"{prefix}{unknown[0]} is no setting: {nearest(unknown[0], (f.name for f in fields(schema)))}."
        )
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise InputError(_spoken(error, prefix)) from error


def _spoken(error: OmegaConfBaseException, prefix: str) -> str:
    first = str(error).splitlines()[0].rstrip(".")
    return f"{prefix}{error.full_key or ''}: {first}."


@dataclass(frozen=True)
class Request:
    """What a sweep asks of a trial beyond its trajectory: its thresholds, and where it may stop.

    last_step: the last evaluation within the budget. A run that is above a threshold there is censored there.
    """

    thresholds: tuple[float, ...]
    last_step: int

    @classmethod
    def of(cls, target: TargetConfig) -> Request:
        thresholds = tuple(sorted(set(target.thresholds), reverse=True))
        return cls(thresholds, target.cadence.last(target.budget_steps))
