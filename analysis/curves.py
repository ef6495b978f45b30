"""Curves: the steps-to-target of one task and optimizer, from a study's records or from a CSV file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cbs.errors import InputError, nearest
from cbs.labels import labels
from cbs.outcome import Censored, Diverged, Reached
from cbs.record import SCHEMA, RecordError, run_folders

COLUMNS = ("batch_size", "seed", "outcome", "lower", "steps")
OUTCOMES = ("reached", "censored", "diverged")


@dataclass
class Curve:
    """Observations of N(b).

    frame: one row per run, columns batch_size, seed, outcome, lower, steps. A reached run arrived in
    (lower, steps]; lower is NaN where `steps` is exact. A censored or diverged one had not by `steps`.
    group: what its trials have in common, as text; joins them with their trajectories.
    facts: what closed forms need (parameters, dataset_size, lr_generator, beta1, beta2), where known.
    """

    optimizer: str
    label: str
    frame: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    group: str = ""

    @property
    def batch_sizes(self) -> list[int]:
        return sorted(self.frame["batch_size"].unique().tolist())

    def medians(self) -> pd.Series:
        """Median steps-to-target per batch size; a miss counts as infinite, and is never dropped."""
        steps = self.frame["steps"].where(self.frame["outcome"] == "reached", math.inf)
        return steps.groupby(self.frame["batch_size"]).apply(_median)

    def measured_b_star(self) -> int | None:
        """The swept batch size with the least median N·b; None where no median is finite."""
        medians = self.medians()
        sfo = medians * medians.index.to_numpy()
        return int(sfo.idxmin()) if math.isfinite(sfo.min()) else None


def _median(steps: pd.Series) -> float:
    """The median, without a warning for a pair of infinities."""
    ordered = np.sort(steps.to_numpy(float))
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if math.isinf(high) else float((low + high) / 2)


def from_csv(path: Path) -> list[Curve]:
    """Curves from a CSV with columns batch_size, steps, outcome and optionally seed, lower, optimizer.

    lower: the last evaluation above the target; 0 where the first one was below already; empty or
    absent where `steps` is exact. Raises InputError naming the column and row that can't be used.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as CSV ({error}).") from error
    for column in ("batch_size", "steps", "outcome"):
        if column not in frame:
            raise InputError(f"{path} has no column {column!r}: it needs batch_size, steps, outcome.")
    for column in ("batch_size", "steps", *(["lower"] if "lower" in frame else [])):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        empty_allowed = frame[column].isna() if column == "lower" else False
        wrong = frame.index[~((numbers >= (0 if column == "lower" else 1e-12)) & np.isfinite(numbers)) & ~empty_allowed]
        if len(wrong):
            raise InputError(f"{path}, line {wrong[0] + 2}: {column} is {frame[column][wrong[0]]!r}: a number above 0.")
        frame[column] = numbers
    frame["outcome"] = frame["outcome"].astype(str).str.strip().str.lower()
    for row, value in frame["outcome"].items():
        if value not in OUTCOMES:
            raise InputError(f"{path}, line {int(str(row)) + 2}: outcome is {value!r}: {nearest(value, OUTCOMES)}.")
    defaults = {"optimizer": "", "lower": math.nan, "seed": 0}
    for column, default in defaults.items():
        if column not in frame:
            frame[column] = default
    late = frame.index[(frame["lower"] >= frame["steps"]) & (frame["outcome"] == "reached")]
    if len(late):
        raise InputError(f"{path}, line {late[0] + 2}: lower is {frame['lower'][late[0]]:g}: it must be below steps.")
    if frame.empty:
        raise InputError(f"{path} has no rows.")
    frame["optimizer"] = frame["optimizer"].fillna("").astype(str)
    return [
        Curve(name, name or "all", part[list(COLUMNS)].reset_index(drop=True))
        for name, part in frame.groupby("optimizer", sort=False)
    ]


def read_study(study: Path) -> pd.DataFrame:
    """Every settled run of a study, one row per run and threshold.

    Columns: key, config (a dict), batch_size, seed, threshold, outcome, lower, steps, parameters,
    dataset_size, training_seconds, evaluating_seconds. Raises InputError where there is no record.
    """
    rows = []
    configs: dict[str, dict[str, Any]] = {}
    for folder in run_folders(study):
        result = folder.result()
        if result is None:
            continue
        if folder.key not in configs:
            configs[folder.key] = _trial_config(folder.trial / "trial.yaml")
        config = configs[folder.key]
        for threshold, outcome in result.outcomes.items():
            lower, steps = _interval(outcome)
            rows.append(
                {
                    "key": folder.key,
                    "config": config,
                    "batch_size": config["batch_size"]["initial"],
                    "seed": folder.seed,
                    "threshold": threshold,
                    "outcome": type(outcome).__name__.lower(),
                    "lower": lower,
                    "steps": steps,
                    "parameters": result.parameters["generator"],
                    "dataset_size": result.dataset["count"],
                    "training_seconds": result.seconds["training"],
                    "evaluating_seconds": result.seconds["evaluating"],
                }
            )
    if not rows:
        raise InputError(f"{study} holds no finished run: give the folder of a study, as in results/quickstart.")
    return pd.DataFrame(rows)


def _trial_config(path: Path) -> dict[str, Any]:
    raw = yaml.safe_load(path.read_text())
    if raw.get("schema") != SCHEMA:
        raise RecordError(f"{path} has schema {raw.get('schema')!r}: this version of cbs reads schema {SCHEMA} only.")
    config: dict[str, Any] = raw["config"]
    return config


def _interval(outcome: Reached | Censored | Diverged) -> tuple[float, int]:
    if isinstance(outcome, Reached):
        return float(outcome.last_above), outcome.first_below
    return float(outcome.step), outcome.step


def from_study(study: Path, threshold: float | None = None) -> list[Curve]:
    """One curve per task and optimizer of a study, at one threshold (the lowest that all its runs share)."""
    frame = read_study(study)
    frame["group"] = [_group(config) for config in frame["config"]]
    curves = []
    configs = []
    for group, part in frame.groupby("group"):
        chosen = _threshold(part, threshold, study)
        rows = part[part["threshold"] == chosen]
        config = rows.iloc[0]["config"]
        optimizer = config["optimizer"]
        facts = {
            "parameters": int(rows.iloc[0]["parameters"]),
            "dataset_size": int(rows.iloc[0]["dataset_size"]),
            **{k: optimizer[k] for k in ("lr_generator", "beta1", "beta2") if k in optimizer},
        }
        kept = rows.sort_values(["batch_size", "seed"])[list(COLUMNS)].reset_index(drop=True)
        curves.append(Curve(optimizer["name"], "", kept, facts, float(chosen), str(group)))
        configs.append(config)
    for curve, label in zip(curves, labels(configs), strict=True):
        curve.label = label
    return sorted(curves, key=lambda curve: curve.label)


def _group(config: dict[str, Any]) -> str:
    """What two trials of one curve have in common: all but the batch size, the threshold and the budget."""
    target = {k: v for k, v in config["target"].items() if k not in ("thresholds", "budget_steps")}
    parts = {k: config[k] for k in ("task", "model", "dataset", "optimizer")}
    return json.dumps({**parts, "target": target}, sort_keys=True)


def _threshold(part: pd.DataFrame, asked: float | None, study: Path) -> float:
    runs = part.groupby(["key", "seed"]).ngroups
    shared = [t for t, rows in part.groupby("threshold") if rows.groupby(["key", "seed"]).ngroups == runs]
    known = sorted(part["threshold"].unique())
    if asked is not None and asked not in known:
        raise InputError(f"threshold is {asked:g}: {study} was run at {', '.join(f'{t:g}' for t in known)}.")
    return asked if asked is not None else min(shared or known)


def trajectories(study: Path) -> pd.DataFrame:
    """Every evaluation of a study: key, optimizer, batch_size, seed, step, samples, seconds, value."""
    rows = []
    for folder in run_folders(study):
        if folder.result() is None:
            continue
        config = _trial_config(folder.trial / "trial.yaml")
        head = {
            "group": _group(config),
            "optimizer": config["optimizer"]["name"],
            "batch_size": config["batch_size"]["initial"],
            "seed": folder.seed,
        }
        for e in folder.trajectory():
            rows.append({**head, "step": e.step, "samples": e.samples, "seconds": e.seconds, "value": e.value})
    return pd.DataFrame(rows)
