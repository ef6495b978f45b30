"""The options of the config group `batch_size`: any integer, answered without a file."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cbs.errors import InputError

SCHEME = "batch-size"
_GROUP = "batch_size"
_LISTED = [str(2**k) for k in range(1, 11)]


def constant(label: str) -> dict[str, Any]:
    """The shape that every option of batch_size composes to: label, initial size, schedule."""
    try:
        size = int(label)
    except ValueError:
        size = 0
    if size < 1:
        raise InputError(f"batch_size is {label!r}: it must be a whole number, 1 or more.")
    return {"label": label, "initial": size, "schedule": {"kind": "constant"}}


def _label(config_path: str) -> str:
    return config_path.removeprefix(f"{_GROUP}/").removesuffix(".yaml")


def is_group(config_path: str) -> bool:
    return config_path.strip("/") == _GROUP


def is_config(config_path: str) -> bool:
    """Numbers of any kind are ours, so that a wrong one gets our sentence; names are left to files."""
    if not config_path.startswith(f"{_GROUP}/"):
        return False
    try:
        float(_label(config_path))
    except ValueError:
        return False
    return True


def load(config_path: str) -> DictConfig:
    return OmegaConf.create(constant(_label(config_path)))


def listed(config_path: str, groups: bool, configs: bool) -> list[str]:
    """What help and completion show: the powers of two, as examples."""
    if config_path.strip("/") == "" and groups:
        return [_GROUP]
    return list(_LISTED) if is_group(config_path) and configs else []


def quoted(override: str) -> str:
    """`batch_size=48` as Hydra needs it: a group's choice must be a string, and 48 parses as a number."""
    name, equals, value = override.partition("=")
    plain = name.lstrip("+") == _GROUP and equals and not set(value) & set("\"'[]{}(),$ ")
    return f"{name}='{value}'" if plain and value else override
