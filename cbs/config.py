"""A composed config, checked: `conf/` holds the values, `cbs.schema` their types, `cbs.rules` what they must obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cbs import rules
from cbs.errors import InputError, nearest
from cbs.rules import one_of
from cbs.schema import (
    LOGGERS,
    MODELS,
    OPTIMIZERS,
    UPDATES,
    BatchSizeConfig,
    Config,
    DatasetConfig,
    PathsConfig,
    TargetConfig,
    TaskConfig,
)

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
    for table in ("rates", "moments"):  # to choose from; the chosen ones are the optimizer's
        plain.get("model", {}).pop(table, None)
    groups: dict[str, Any] = {group: _parse(schema, plain, group) for group, schema in _GROUPS.items()}
    groups["model"] = _parse(_named(MODELS, plain, "model"), plain, "model")
    groups["optimizer"] = _parse(_named(OPTIMIZERS, plain, "optimizer"), plain, "optimizer")
    groups["update"] = _parse(_named(UPDATES, plain, "update"), plain, "update")
    groups["logger"] = _parse(_named(LOGGERS, plain, "logger"), plain, "logger")
    top = {key: value for key, value in plain.items() if key not in groups}
    config = Config(**vars(_parse(_Top, {"": top}, "")), **groups)
    rules.check(config)
    return config


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
