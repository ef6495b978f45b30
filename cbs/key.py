"""A trial's key: the digest of every field that shapes its trajectory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbs.metrics import weights
from cbs.schedules import is_constant, sizes

if TYPE_CHECKING:
    from cbs.schema import Config

# Raised when the same config would train differently than it did before.
RECIPE = 1

# The fields of a target that say how far to go; none of them changes a trajectory before it stops.
REQUEST = ("thresholds", "evaluations_after", "budget_gradients", "budget_steps", "grant_steps")
# Nor do metrics on the side.
REQUEST_OR_EXTRA = (*REQUEST, "extra")


# One cadence is in force; the others' settings don't matter.
OTHER_CADENCES = {
    "every_steps": frozenset(("every_epochs", "first_gradients", "precision")),
    "every_epochs": frozenset(("every_steps", "first_gradients", "precision")),
    "first_gradients": frozenset(("every_steps", "every_epochs")),
}


def identity(config: dict[str, Any], features_digest: str) -> dict[str, Any]:
    """The fields of a typed config (as a dict) that determine its trajectory.

    Seeds, thresholds and the budget are left out, because none of them changes a trajectory before it
    stops; so are paths, the device, the logger, metrics on the side and a label. The processes that share a
    batch enter as `division` says, precision and micro-batches as `arithmetic` does.
    """
    target = {k: v for k, v in config["target"].items() if k not in REQUEST_OR_EXTRA}
    unused = OTHER_CADENCES[cadence(target)]
    mode = target.get("generator", "eval")
    unused |= set() if mode == "ema" else {"ema_decay", "ema_start_step"}
    unused |= {"generator"} if mode == "eval" else set()
    return {
        "recipe": recipe(config),
        "task": config["task"],
        "model": {k: v for k, v in config["model"].items() if k != "batch_norm"},
        "dataset": {k: v for k, v in config["dataset"].items() if k not in ("source", "corrupt", "images")},
        "source": config["dataset"]["source"] if config["dataset"]["name"] == "folder" else None,
        "optimizer": config["optimizer"],
        **update(config),
        "batch_size": {k: v for k, v in config["batch_size"].items() if k != "label"},
        "target": {k: v for k, v in target.items() if k not in unused},
        **({"epoch": config["dataset"]["images"]} if counts_epochs(config) else {}),
        "features_digest": features_digest,
        **division(config),
        **arithmetic(config),
        **branching(config, features_digest),
    }


def cadence(target: Mapping[str, Any]) -> str:
    """The setting of a target (as a dict) that its cadence goes by."""
    return next((name for name in ("every_steps", "every_epochs") if target[name] is not None), "first_gradients")


def counts_epochs(config: Mapping[str, Any]) -> bool:
    """Whether the steps at which a config (as a dict) is evaluated depend on how many images an epoch has."""
    by, branch = cadence(config["target"]), config.get("branch_from")
    in_epochs = config["batch_size"]["schedule"]["kind"] == "epochs" or (branch and branch["epochs"] is not None)
    return by == "every_epochs" or bool(by == "first_gradients" and in_epochs)


def branching(config: dict[str, Any], features_digest: str) -> dict[str, Any]:
    """Nothing, or the key of the trial that a trial shares its first steps with, and where they part."""
    branch = config.get("branch_from")
    if branch is None:
        return {}
    constant = {"label": "", "initial": branch["batch_size"], "schedule": {"kind": "constant"}}
    optimizer = branch["optimizer"] or config["optimizer"]
    parent = {**config, "branch_from": None, "batch_size": constant, "optimizer": optimizer}
    at = {unit: branch[unit] for unit in ("step", "epochs") if branch[unit] is not None}
    return {"branch_from": {"parent": trial_key(parent, features_digest), **at}}


def recipe(config: dict[str, Any]) -> int:
    """RECIPE, and one more where Adam and SGD used to take the entries of a penalty's gradient in the wrong order."""
    misread = config["model"]["penalty"] and config["optimizer"]["name"] in ("adam", "sgd")
    return RECIPE + 1 if misread else RECIPE


def update(config: dict[str, Any]) -> dict[str, Any]:
    """A trial's update rule, where it isn't the one that every record was made with before there was a choice."""
    rule = config.get("update", {"name": "alternating"})
    return {"update": rule} if rule["name"] != "alternating" else {}


def division(config: dict[str, Any]) -> dict[str, Any]:
    """What of a trial's division among processes shapes its trajectory.

    Nothing, within rounding, unless each of several normalises by its own part of the batch. A record that
    knows neither field is one process's.
    """
    n, batch_norm = config.get("gpus_per_trial", 1), config["model"].get("batch_norm", "global")
    return {"gpus_per_trial": n, "batch_norm": batch_norm} if n > 1 and batch_norm != "global" else {}


def arithmetic(config: dict[str, Any]) -> dict[str, Any]:
    """What of a trial's arithmetic differs from what every record was made with before there was a choice."""
    precision, micro_batch = config.get("precision", "fp32"), config.get("micro_batch")
    whole = micro_batch is None or (micro_batch != "auto" and micro_batch >= max(sizes(config["batch_size"])))
    return {
        **({"precision": precision} if precision != "fp32" else {}),
        **({"micro_batch": micro_batch} if not whole else {}),
    }


def curve_identity(config: dict[str, Any]) -> str:
    """What two trials of one curve have in common, as text: all but the batch size, the thresholds and the budget.

    A trial whose batch size changes lies on no curve, and shares this with others of its schedule only.
    """
    shaping = {k: v for k, v in identity(config, "").items() if k != "batch_size" or not on_a_curve(config)}
    # A small batch is whole whatever the micro-batch, and yet a point of the curve with micro-batches.
    asked = {"micro_batch": config["micro_batch"]} if config.get("micro_batch") is not None else {}
    return json.dumps({**shaping, **asked}, sort_keys=True)


def on_a_curve(config: dict[str, Any]) -> bool:
    """Whether a trial has one batch size, from its first step on: a point of N(b)."""
    return is_constant(config["batch_size"]) and config.get("branch_from") is None


def trial_key(config: dict[str, Any], features_digest: str) -> str:
    """Twelve hexadecimal digits that name a trial's folder."""
    text = json.dumps(identity(config, features_digest), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def trial_folder(config: Config) -> Path:
    """Where a trial's records lie: <results>/<study>/trials/<key>."""
    digest = weights.digest(config.target.features, Path(config.paths.data))
    return config.study_dir / "trials" / trial_key(config.to_dict(), digest)
