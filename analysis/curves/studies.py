"""Curves and trajectories from a study's records."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml

from analysis.curves.arriving import DEFINITIONS
from analysis.curves.curve import COLUMNS, FACTS, SPENT, Curve
from cbs.errors import InputError
from cbs.key import curve_identity, on_a_curve
from cbs.labels import labels
from cbs.outcome import ABANDONED, METRICS, Censored, Diverged, Evaluation, Metric, Outcome, Reached, sfo
from cbs.record import SCHEMA, RecordError, Result, RunFolder, read_json, run_folders


@dataclass(frozen=True)
class Run:
    """One settled run of a study: its folder, its trial's config (a dict) and its result."""

    folder: RunFolder
    config: dict[str, Any]
    result: Result

    @property
    def batch_size(self) -> int:
        return int(self.config["batch_size"]["initial"])

    @property
    def on_a_curve(self) -> bool:
        """True of a run that keeps one batch size from its first step on: a point of a curve N(b)."""
        return on_a_curve(self.config)

    @property
    def group(self) -> str:
        """The curve that this run is a point of."""
        return curve_identity(self.config)

    @property
    def metric(self) -> Metric:
        """The metric that crosses this run's thresholds."""
        return METRICS[self.config["target"]["metric"]]

    @property
    def hardest(self) -> float:
        """Of all thresholds that were ever asked of this run, the one that is passed last."""
        return self.metric.hardest(self.result.outcomes)

    @cached_property
    def trajectory(self) -> list[Evaluation]:
        """Every evaluation on record, read once however many thresholds are asked of it."""
        return self.folder.trajectory()

    @property
    def incomplete(self) -> bool:
        """Whether the trajectory is shorter than the record: the run is being trained again from its start."""
        result = self.result
        diverged = result.diverged_at is not None or any(isinstance(o, Diverged) for o in result.outcomes.values())
        return not diverged and (not self.trajectory or self.trajectory[-1].step < self.result.last_step)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device and command of the last attempt; empty where the file was removed."""
        path = self.folder.path / "environment.json"
        return read_json(path) if path.exists() else {}

    def spent(self) -> tuple[Any, ...]:
        """batch_size, seed, device, and seconds, device seconds and joules of one training step (Curve.spent).

        In a stack the device's seconds are a run's part of them; seconds are a step's by itself, measured before.
        Runs that share a GPU share its seconds evenly, and those that share any device its energy; a run on a CPU
        has a core to itself. Evaluations, which measure and don't train, are left out by their part of the time.
        """
        result, place = self.result, self.environment
        device, processes, sharing = (place.get(k, d) for k, d in (("device", ""), ("processes", 1), ("sharing", 1)))
        seconds = result.seconds["training"] / max(result.last_step, 1)
        alone = seconds
        if result.stack:
            alone = math.nan if (known := result.stack[0]["alone_seconds"]) is None else known
        lanes = sharing if str(device).startswith("cuda") else 1
        joules = math.nan
        if result.energy_joules is not None and sum(result.seconds.values()) > 0:
            joules = seconds * result.energy_joules / sum(result.seconds.values()) * processes / sharing
        return (self.batch_size, self.folder.seed, device, alone, seconds * processes / lanes, joules)

    @cached_property
    def gradients(self) -> float | None:
        """Gradients that a step took per image of a batch of the first size; None where the run didn't count them."""
        if not self.folder.trajectory_path.exists():
            return None
        *_, last = self.folder.trajectory_path.read_text().splitlines() or [""]
        counted = '"gradients": {"' in last  # most records needn't be read any further
        seen = self.trajectory[-1] if counted else None
        return sfo(seen) / (seen.step * self.batch_size) if seen and seen.gradients else None

    def command(self, threshold: float | None = None) -> str:
        """The command that made this run, as it can be given again, asked for one threshold more where one is given."""
        if not self.environment:
            return "(no environment.json)"
        arguments = self.environment["command"][1:]
        if threshold is not None:
            asked = self.metric.ordered([*self.result.outcomes, threshold])
            arguments = [a for a in arguments if not a.startswith("target.thresholds=")]
            arguments.append(f"target.thresholds=[{','.join(f'{t:g}' for t in asked)}]")
        return shlex.join(["python", "-m", "cbs.run", *arguments])


def read_study(study: Path) -> list[Run]:
    """Every settled run of a study. Raises InputError where there is none."""
    configs: dict[str, dict[str, Any]] = {}
    runs = []
    for folder in run_folders(study):
        result = folder.result()
        if result is None:
            continue
        if folder.key not in configs:
            configs[folder.key] = trial_config(folder.trial / "trial.yaml")
        runs.append(Run(folder, configs[folder.key], result))
    if not runs:
        raise InputError(f"{study} holds no finished run: give the folder of a study, as in results/quickstart.")
    return runs


def trial_config(path: Path) -> dict[str, Any]:
    """A trial's composed config. Raises RecordError at another schema."""
    raw = yaml.safe_load(path.read_text())
    if raw.get("schema") != SCHEMA:
        raise RecordError(f"{path} has schema {raw.get('schema')!r}: this version of cbs reads schema {SCHEMA} only.")
    config: dict[str, Any] = raw["config"]
    return config


def from_study(study: Path | str, threshold: float | None = None) -> list[Curve]:
    """One curve per task and optimizer of a study, at one threshold (the hardest that all its runs share)."""
    study = Path(study)
    return from_runs(read_study(study), study, threshold)


def from_runs(runs: list[Run], study: Path, threshold: float | None = None) -> list[Curve]:
    """The curves of runs that were read already; those whose batch size changes are left out, and counted.

    Raises InputError where none is left.
    """
    curves = []
    groups = grouped(runs)
    if not groups:
        raise InputError(f"{study} holds no run that keeps one batch size from its first step on: a curve needs those.")
    known = sorted({t for run in runs for t in run.result.outcomes})
    if threshold is not None and threshold not in known:
        raise InputError(f"threshold is {threshold:g}: {study} was run at {', '.join(f'{t:g}' for t in known)}.")
    for members in groups.values():
        shared = set.intersection(*(set(run.result.outcomes) for run in members))
        known_here = shared or {t for run in members for t in run.result.outcomes}
        chosen = threshold if threshold is not None else members[0].metric.hardest(known_here)
        asked = [run for run in members if chosen in run.result.outcomes]
        if asked:
            rows = [(run.batch_size, run.folder.seed, *row_of(run.result.outcomes[chosen])) for run in asked]
            one = curve_of(asked, rows, chosen, len(members) - len(asked))
            one.abandoned_runs = frozenset(
                (run.batch_size, run.folder.seed) for run in asked if _abandoned(run.result.outcomes[chosen])
            )
            one.variants = _variants(asked, chosen)
            curves.append(one)
    return named(curves, runs)


def _abandoned(outcome: Outcome) -> bool:
    return isinstance(outcome, Censored) and outcome.reason == ABANDONED


# A definition is left out where fewer than this part of the runs that arrived are seen to arrive by it, as where every
# run stopped at its crossing.
_ENOUGH = 0.5


def _variants(runs: list[Run], threshold: float) -> Callable[[], dict[str, Curve]]:
    """The same runs under the other definitions of arriving that their trajectories allow."""

    def read() -> dict[str, Curve]:
        whole = [run for run in runs if run.trajectory and not run.incomplete]
        arrived = sum(isinstance(run.result.outcomes[threshold], Reached) for run in runs)
        found = {}
        for name, definition in DEFINITIONS.items():
            seen = [definition(r.trajectory, threshold, r.metric, r.result.outcomes[threshold]) for r in whole]
            if not arrived or sum(isinstance(outcome, Reached) for outcome in seen) < _ENOUGH * arrived:
                continue
            rows = [(r.batch_size, r.folder.seed, *row_of(o)) for r, o in zip(whole, seen, strict=True)]
            found[name] = curve_of(whole, rows, threshold, len(runs) - len(whole))
            found[name].label = name
        return found

    return read


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by the curve they belong to; those on no curve are left out."""
    groups: dict[str, list[Run]] = {}
    for run in (one for one in runs if one.on_a_curve):
        groups.setdefault(run.group, []).append(run)
    return groups


def curve_of(runs: list[Run], rows: list[tuple[Any, ...]], threshold: float, left_out: int = 0) -> Curve:
    """A curve without its label, from runs of one group and one row of COLUMNS per run."""
    first = runs[0]
    optimizer = first.config["optimizer"]
    known = {
        **optimizer,
        "parameters": int(first.result.parameters["generator"]),
        "dataset_size": int(first.result.dataset["count"]),
    }
    facts = {k: known[k] for k in FACTS if k in known}
    order = ["batch_size", "seed", "outcome", "lower", "steps"]
    frame = pd.DataFrame(rows, columns=order).sort_values(["batch_size", "seed"])[list(COLUMNS)]
    spent = pd.DataFrame([run.spent() for run in runs if run.result.seconds["training"] > 0], columns=SPENT)
    frame = frame.reset_index(drop=True)
    counted = [run.gradients for run in runs if run.gradients is not None]
    gradients = median(counted) if counted else 1.0
    return Curve(
        optimizer["name"],
        "",
        frame,
        facts,
        threshold,
        first.group,
        left_out,
        spent=spent,
        metric=first.metric,
        gradients=gradients,
        about=_about(first.config),
    )


_NETWORKS = {"dcgan": "DCGAN", "wgan_gp": "WGAN-GP", "biggan": "BigGAN", "sagan": "SAGAN"}


def _about(config: dict[str, Any]) -> str:
    """As in "(rates 2e-4, 2e-4), DCGAN on digits"."""
    known = config["optimizer"]
    rates = [_rate(known[name]) for name in ("lr_generator", "lr_discriminator") if name in known]
    network, data = config["model"]["name"], config["dataset"]["name"]
    return f"(rates {', '.join(rates)}), {_NETWORKS.get(network, network)} on {data}"


def _rate(value: float) -> str:
    digits, _, exponent = f"{float(value):.3e}".partition("e")
    return f"{value:g}" if value >= 0.01 else f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def named(curves: list[Curve], runs: list[Run]) -> list[Curve]:
    """The same curves, labelled by what tells them apart, in the labels' order. runs: all of the study."""
    configs = {run.group: run.config for run in runs}
    changing = sum(not run.on_a_curve for run in runs)
    for curve, label in zip(curves, labels([configs[curve.group] for curve in curves]), strict=True):
        curve.label, curve.changing = label, changing
    return sorted(curves, key=lambda curve: curve.label)


def row_of(outcome: Outcome) -> tuple[str, float, float]:
    """outcome, lower and steps of a curve's frame."""
    kind = type(outcome).__name__.lower()
    if isinstance(outcome, Reached):
        return kind, float(outcome.last_above), float(outcome.first_below)
    return kind, float(outcome.step), float(outcome.step)


def trajectories(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Every evaluation of these runs, by group where there are any: batch_size, seed, step, samples, seconds, value."""
    columns = ["batch_size", "seed", "step", "samples", "seconds", "value"]
    rows: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        here = [(run.batch_size, run.folder.seed, e.step, e.samples, e.seconds, e.value) for e in run.trajectory]
        if here:
            rows.setdefault(run.group, []).extend(here)
    return {group: pd.DataFrame(known, columns=columns) for group, known in rows.items()}
