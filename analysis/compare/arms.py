"""Arms: the trials of one study, each with its seeds, the metric of each run along three axes."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.curves.studies import Run
from analysis.fitting.models import Array
from cbs.errors import InputError
from cbs.key import identity
from cbs.labels import labels
from cbs.outcome import METRICS, Diverged, Evaluation, Reached, sfo

AXES = {"steps": "steps", "sfo": "SFO (gradients)", "seconds": "seconds of training"}
# Arms that measure their metric otherwise have nothing to compare.
_MEASURED = ("metric", "features", "normalisation", "samples")


@dataclass(frozen=True)
class Course:
    """One run of an arm: the metric as it went, on every axis.

    x: by name of the axis, (n,) of each evaluation; NaN where the records don't tell. values (n,). met: true where the
    metric ended the run, at the hardest threshold that was asked of it. broke: true where the run diverged; a run that
    diverged before its first evaluation has one at 0. worst: the metric's value after a divergence, infinite.
    """

    run: Run
    x: dict[str, Array]
    values: Array
    met: bool
    broke: bool
    worst: float = math.inf

    @property
    def name(self) -> int:
        """The seed that pairs this run with other arms' runs: its own, or that of the run it branched from."""
        branch = self.run.result.branched_from
        return int(branch["seed"]) if branch else self.run.folder.seed

    def undecided_until(self, axis: str) -> float:
        """How far it went without its own metric having a say in that: not to the evaluation at which it arrived."""
        x = self.x[axis]
        return float(x[-2] if self.met and len(x) > 1 else x[-1])

    def at(self, axis: str, where: Array) -> Array:
        """The metric at points (k,) of an axis, on lines between evaluations; held from where it ended.

        NaN before its first evaluation; `worst` after the last of a run that diverged.
        """
        found = np.interp(where, self.x[axis], self.values, left=math.nan)
        return np.where(where > self.x[axis][-1], self.worst, found) if self.broke else found


@dataclass(frozen=True)
class Arm:
    """A trial with its seeds; label: what tells it from the others, None of whose settings it shares."""

    label: str
    key: str
    config: dict[str, Any]
    courses: list[Course]

    @property
    def branched_from(self) -> dict[str, Any] | None:
        """The trial and step that it shares its beginning with."""
        return self.courses[0].run.result.branched_from

    def has(self, axis: str) -> bool:
        return all(np.isfinite(course.x[axis]).all() for course in self.courses)


@dataclass(frozen=True)
class Field:
    """What is compared: the arms of a study, and their metric.

    sign: 1 where less of the metric is better, −1 where more is. own: whether it is what runs were stopped by.
    """

    study: Path
    metric: str
    arms: list[Arm]
    own: bool
    left_out: int

    @property
    def sign(self) -> int:
        return -1 if METRICS[self.metric].rising else 1

    @property
    def at(self) -> str:
        """What stands before a threshold: "FID ≤"."""
        return f"{self.title} {METRICS[self.metric].sign}"

    @property
    def title(self) -> str:
        return METRICS[self.metric].title

    @cached_property
    def axes(self) -> list[str]:
        """Those that every run tells, seconds only where all were trained on one kind of device."""
        return [axis for axis in AXES if all(arm.has(axis) for arm in self.arms) and (axis != "seconds" or self.alike)]

    @property
    def devices(self) -> list[str]:
        return sorted({str(c.run.environment.get("device", "")) for arm in self.arms for c in arm.courses})

    @property
    def alike(self) -> bool:
        return len(self.devices) == 1


def field_of(runs: list[Run], study: Path, metric: str | None = None, chosen: Sequence[str] = ()) -> Field:
    """The arms of these runs, in the order of their labels.

    metric: the target's own unless named, as `target.extra` names it. chosen: patterns (as a shell's) of labels. A run
    whose trajectory is shorter than its record, or empty though it didn't diverge, is left out and counted. Raises
    InputError where fewer than two arms are left, where they measure different things, or where a run has not measured
    the metric or none has a value of it.
    """
    trials: dict[str, list[Run]] = {}
    for run in runs:
        trials.setdefault(run.folder.key, []).append(run)
    names = _labelled([members[0] for members in trials.values()])
    if chosen:
        unknown = [p for p in chosen if not any(_fits(name, p) for name in names)]
        if unknown:
            raise InputError(f"arms is {unknown[0]!r}: {study} has {', '.join(map(repr, sorted(names)))}.")
    kept = {
        name: members
        for name, members in zip(names, trials.values(), strict=True)
        if not chosen or any(_fits(name, p) for p in chosen)
    }
    metric, own = _metric([members[0].config for members in kept.values()], study, metric)
    arms, left_out = [], 0
    for name, members in sorted(kept.items(), key=lambda item: _natural(item[0])):
        courses = [
            _course(run, metric, own) for run in sorted(members, key=lambda run: run.folder.seed) if not run.incomplete
        ]
        left_out += len(members) - len(courses)
        if courses:
            arms.append(Arm(name, members[0].folder.key, members[0].config, courses))
    if len(arms) < 2:
        raise InputError(f"{study} has {len(arms)} arm with runs to compare: two trials at least are needed.")
    if not any(np.isfinite(course.values).any() for one in arms for course in one.courses):
        raise InputError(f"{study} has no evaluation to compare: every run diverged before its first.")
    return Field(study, metric, arms, own, left_out)


def _fits(label: str, pattern: str) -> bool:
    """A label as it is printed fits itself, brackets and all."""
    return label == pattern or fnmatch.fnmatchcase(label, pattern)


def _metric(configs: list[dict[str, Any]], study: Path, asked: str | None) -> tuple[str, bool]:
    for name in _MEASURED:
        found = {str(config["target"][name]) for config in configs}
        if len(found) > 1:
            raise InputError(
                f"target.{name} is {' and '.join(sorted(found))}: arms of {study} measure different things; "
                "choose some that don't by --arms."
            )
    data = {str(config["dataset"]["name"]) for config in configs}
    if len(data) > 1:
        raise InputError(f"dataset is {' and '.join(sorted(data))}: choose arms of one data set by --arms.")
    own = str(configs[0]["target"]["metric"])
    return asked or own, asked in (None, own)


def _course(run: Run, metric: str, own: bool) -> Course:
    seen = run.trajectory
    if not own and any(metric not in e.extra for e in seen):
        known = ", ".join(
            [str(run.config["target"]["metric"]), *sorted(set.intersection(*(set(e.extra) for e in seen)))]
        )
        raise InputError(f"metric is {metric!r}: {run.folder.path} has {known}.")
    values = np.array([e.value if own else e.extra[metric] for e in seen])
    worst = -math.inf if METRICS[metric].rising else math.inf
    if not seen:
        return Course(run, {axis: np.zeros(1) for axis in AXES}, np.array([worst]), False, True, worst)
    outcomes = run.result.outcomes
    x = {
        "steps": np.array([e.step for e in seen], float),
        "sfo": np.array([sfo(e) for e in seen]),
        "seconds": seconds(run),
    }
    met = all(isinstance(o, Reached) for o in outcomes.values())
    return Course(run, x, values, met, any(isinstance(o, Diverged) for o in outcomes.values()), worst)


def seconds(run: Run) -> Array:
    """Seconds of training, evaluations apart, until each evaluation of a run, as on a device of its own; (n,).

    Records hold what both took so far: evaluations are taken to have cost alike, repeats included. A run of a stack
    counts what its steps take alone, as measured before; NaN where that or anything else isn't on record.
    """
    seen, result = run.trajectory, run.result
    steps = np.array([e.step for e in seen], float)
    training, evaluating = result.seconds.get("training", 0.0), result.seconds.get("evaluating", 0.0)
    if training <= 0:
        return np.full(len(seen), math.nan)
    if result.stack:
        alone = result.stack[0]["alone_seconds"]
        return steps * (math.nan if alone is None else alone)
    return _without_evaluating(seen, training, evaluating)


def _without_evaluating(seen: Sequence[Evaluation], training: float, evaluating: float) -> Array:
    measured = np.cumsum([1 + len(e.repeats) for e in seen])
    before = measured - np.array([len(e.repeats) for e in seen])  # its repeats came after its seconds were written
    spent = np.array([e.seconds for e in seen]) - evaluating * before / measured[-1]
    # At least what an even pace from the start would have taken of the whole, so that it rises whatever was held up.
    floor = training * 1e-6 * np.arange(1, len(seen) + 1) / len(seen)
    return np.maximum.accumulate(np.maximum(spent, floor))


def _labelled(firsts: list[Run]) -> list[str]:
    """One label per trial: what tells it from the others, its key where nothing else does."""
    configs = [run.config for run in firsts]
    # A shared beginning is said where nothing else tells two arms apart.
    found = _named([{**config, "branch_from": None} for config in configs])
    if len(set(found)) < len(found):
        found = _named(configs)
    for label in sorted({label for label in found if found.count(label) > 1}):
        alike = [i for i, other in enumerate(found) if other == label]
        for i, more in zip(alike, _rest([firsts[i] for i in alike]), strict=True):
            found[i] = f"{label} {more}".strip()
    return [label or run.config["optimizer"]["name"] for label, run in zip(found, firsts, strict=True)]


def _named(configs: list[dict[str, Any]]) -> list[str]:
    """By optimizer, if there are several, what else `labels` finds, and batch size, if there are several."""
    found = labels(configs)
    if len({config["optimizer"]["name"] for config in configs}) == 1:
        found = [label.partition(" ")[2] for label in found]
    sizes = [_size(config) for config in configs]
    if len(set(sizes)) > 1:
        found = [f"{label} {size}".strip() for label, size in zip(found, sizes, strict=True)]
    return found


def _size(config: dict[str, Any]) -> str:
    size = config["batch_size"]
    return f"b={size['initial']}" if size["schedule"]["kind"] == "constant" else str(size["label"])


def _rest(runs: list[Run]) -> list[str]:
    """What else tells trials with one label apart; their keys where their configs don't."""
    flat = [dict(_flat("", identity(run.config, run.result.features_digest))) for run in runs]
    names = sorted({name for one in flat for name in one})
    telling = [name for name in names if len({json.dumps(one.get(name)) for one in flat}) > 1]
    words = [" ".join(_told(name, one.get(name)) for name in telling if one.get(name) is not None) for one in flat]
    return words if len(set(words)) == len(words) else [run.folder.key for run in runs]


def _told(name: str, value: Any) -> str:
    *_, parent, last = ["", *name.split(".")]
    return str(value) if last == "name" else f"{parent if last == 'kind' else last}={value}"


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [pair for k, v in value.items() for pair in _flat(f"{prefix}.{k}" if prefix else k, v)]


def _natural(label: str) -> list[tuple[int, float, str]]:
    """So that b=8 stands before b=16."""
    digits = "".join(c if c.isdigit() else " " for c in label).split()
    parts: list[tuple[int, float, str]] = []
    for number in digits:
        word, _, label = label.partition(number)
        parts += [(1, 0.0, word), (0, float(number), "")]
    return [*parts, (1, 0.0, label)]


def lineage(one: Arm, other: Arm) -> int | None:
    """The step up to which two arms are the same runs, branched from one checkpoint or one from the other; or None."""
    for parent, child in ((one, other), (other, one)):
        branch = child.branched_from
        if branch and branch["key"] == parent.key:
            return int(branch["step"])
    ours, theirs = one.branched_from, other.branched_from
    if ours and theirs and ours["key"] == theirs["key"]:
        return min(int(ours["step"]), int(theirs["step"]))
    return None
