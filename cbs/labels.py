"""What to call trials among others: by their optimizer, and by what else tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cbs.key import REQUEST_OR_EXTRA
from cbs.schema import ADDED, ADDED_TO_GROUPS

_GROUPS = ("task", "model", "dataset", "optimizer", "update", "target")
# Asked for, or said elsewhere: none of these makes another curve.
_APART = {
    *(f"target.{name}" for name in REQUEST_OR_EXTRA),
    "optimizer.name",
    "dataset.source",
    "dataset.corrupt",
    "dataset.images",
}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    groups = {group: {**ADDED_TO_GROUPS.get(group, {}), **_group(config, group)} for group in _GROUPS}
    fields = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    fields |= {f"arithmetic.{name}": config.get(name, ADDED[name]) for name in ("precision", "micro_batch")}
    fields |= {f"batch_size.{name}": value for name, value in _schedule(config["batch_size"]).items()}
    branch = config.get("branch_from") or {}
    fields["branch.from"] = next((f"{k}-{branch[k]:g}" for k in ("step", "epochs") if branch.get(k)), "start")
    return {name: value for name, value in fields.items() if name not in _APART}


def _group(config: dict[str, Any], group: str) -> dict[str, Any]:
    """A group's settings; of a record of before it existed, what that stands for."""
    found: Any = config.get(group) or ADDED[group]
    return dict(found)


def _schedule(batch_size: dict[str, Any]) -> dict[str, Any]:
    """What tells schedules of one name apart; nothing of a constant size, which a label doesn't say."""
    schedule = batch_size["schedule"]
    if schedule["kind"] == "constant":
        return {}
    return {"initial": batch_size["initial"], **schedule}


def labels(configs: Sequence[dict[str, Any]]) -> list[str]:
    """One label per config (as a dict): "adam", or "adam width=16" where an Adam of another width is there too.

    Batch sizes, seeds, thresholds and budgets don't enter; of schedules, what tells two of one name apart does.
    """
    flat = [_flat(config) for config in configs]
    values: dict[tuple[str, ...], set[str]] = {}
    for config, fields in zip(configs, flat, strict=True):
        for name, value in fields.items():
            values.setdefault(_peers(config, name), set()).add(str(value))
    found = []
    for config, fields in zip(configs, flat, strict=True):
        telling = [(name, value) for name, value in fields.items() if len(values[_peers(config, name)]) > 1]
        parts = [str(value) if _is_name(name) else f"{name.split('.')[1]}={value}" for name, value in telling]
        found.append(" ".join([config["optimizer"]["name"], *parts]))
    return found


def _is_name(field: str) -> bool:
    return field.endswith(".name")


def _peers(config: dict[str, Any], field: str) -> tuple[str, ...]:
    """Among whom a field is compared: one optimizer's configs, and those of the same model, data set or task.

    So two models that differ in ten settings are told apart by their names alone.
    """
    group = field.split(".")[0]
    if group == "branch":
        return (field,)
    if group == "batch_size":
        return (field, str(config[group]["label"]))
    same = () if _is_name(field) or group in ("target", "arithmetic") else (str(_group(config, group)["name"]),)
    return (config["optimizer"]["name"], field, *same)
