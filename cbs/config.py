"""A composed config, checked: `conf/` holds the values, `cbs.schema` their types, `cbs.rules` what they must obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cbs import rules
from cbs.errors import InputError, nearest
from cbs.key import trial_key
from cbs.options import LOGGERS, MODELS, OPTIMIZERS, UPDATES
from cbs.rules import one_of
from cbs.schedule_rules import schedule_of
from cbs.schedules import BatchSizeConfig
from cbs.schema import BranchConfig, Config, DatasetConfig, PathsConfig, TargetConfig, TaskConfig

_HERE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; a checkout has it beside the package.
CONF_DIR = _HERE / "conf" if (_HERE / "conf" / "config.yaml").is_file() else _HERE.parent / "conf"


@dataclass
class _Top:
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


_GROUPS: dict[str, Any] = {
    "paths": PathsConfig,
    "task": TaskConfig,
    "dataset": DatasetConfig,
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
    for table in ("rates", "moments"):  # to choose from; the chosen ones are the optimizer's
        plain.get("model", {}).pop(table, None)
    groups: dict[str, Any] = {group: _parse(schema, plain, group) for group, schema in _GROUPS.items()}
    groups["model"] = _parse(_named(MODELS, plain, "model"), plain, "model")
    groups["optimizer"] = _parse(_named(OPTIMIZERS, plain, "optimizer"), plain, "optimizer")
    groups["update"] = _parse(_named(UPDATES, plain, "update"), plain, "update")
    groups["batch_size"] = _batch_size(plain)
    groups["branch_from"] = _branch(plain)
    groups["logger"] = _parse(_named(LOGGERS, plain, "logger"), plain, "logger")
    top = {key: value for key, value in plain.items() if key not in groups}
    config = Config(**vars(_parse(_Top, {"": top}, "")), **groups)
    rules.check(config)
    return _unbranched_from_itself(config)


@dataclass
class _BatchSize:
    label: str
    initial: int
    schedule: Any


@dataclass
class _Branch:
    step: int | None
    epochs: float | None
    batch_size: int | None
    optimizer: Any = None


def _batch_size(plain: dict[str, Any]) -> BatchSizeConfig:
    found = _parse(_BatchSize, plain, "batch_size")
    rules.at_least("batch_size", found.initial, 1)
    return BatchSizeConfig(found.label, found.initial, schedule_of(found.schedule or {}, found.initial))


def _branch(plain: dict[str, Any]) -> BranchConfig | None:
    if not any(value is not None for value in (plain.get("branch_from") or {}).values()):
        return None
    found = _parse(_Branch, plain, "branch_from")
    if found.batch_size is None:
        raise InputError("branch_from.batch_size has no value here: give the one that the shared steps have.")
    if found.optimizer is not None:
        among = {"branch_from.optimizer": found.optimizer}
        found.optimizer = _parse(_named(OPTIMIZERS, among, "branch_from.optimizer"), among, "branch_from.optimizer")
    return BranchConfig(**vars(found))


def _unbranched_from_itself(config: Config) -> Config:
    """The trial that others branch from, where a sweep over arms has it among them, is that trial and no branch."""
    parent, plain = config.parent, replace(config, branch_from=None)
    same = parent is not None and trial_key(parent.to_dict(), "") == trial_key(plain.to_dict(), "")
    return plain if same else config


def _named(schemas: Mapping[str, Any], plain: dict[str, Any], group: str) -> Any:
    name = str((plain.get(group) or {}).get("name"))
    one_of(f"{group}.name", name, schemas)
    return schemas[name]


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
    if isinstance(error, MissingMandatoryValue):
        return f"{prefix}{error.full_key} has no value here: give one."
    first = str(error).splitlines()[0].rstrip(".")
    return f"{prefix}{error.full_key or ''}: {first}."
