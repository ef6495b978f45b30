"""Curves at any threshold: crossings read off the recorded trajectories afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curves.arriving import running_median
from analysis.curves.curve import Curve
from analysis.curves.files import from_frame
from analysis.curves.studies import Run, curve_of, grouped, named, row_of
from cbs.errors import InputError
from cbs.outcome import METRICS, Censored, Diverged, Evaluation, Outcome, Reached
from cbs.target import crossing


def curves_at(runs: list[Run], study: Path, threshold: float, smoothed: bool = False) -> list[Curve]:
    """The study's curves at a threshold no harder than the hardest that each was trained for.

    A run that was asked for this threshold keeps its confirmed outcome; the others' crossings are the first
    evaluation at or beyond it, smoothed by a running median of three where asked. Curve.unconfirmed counts
    crossings without the fresh-noise repeats that the target asks for. Raises InputError past the hardest
    threshold, where the stop depended on the metric itself and the censoring would be informative.
    """
    found = []
    for members in grouped(runs).values():
        metric = members[0].metric
        furthest = metric.ordered(run.hardest for run in members)[0]
        if not metric.arrived(furthest, threshold):
            raise InputError(
                f"threshold is {threshold:g}: runs of {study} stopped at {furthest:g}, so what they would have "
                f"done {'above' if metric.rising else 'below'} is unknown. "
                f"To continue them: {members[0].command(threshold)}"
            )
        rows, unconfirmed, missing = [], 0, 0
        for run in members:
            if run.incomplete:
                missing += 1
                continue
            outcome, confirmed = outcome_at(run, threshold, smoothed)
            unconfirmed += isinstance(outcome, Reached) and not confirmed
            rows.append((run.batch_size, run.folder.seed, *row_of(outcome)))
        if rows:
            curve = curve_of(members, rows, threshold, missing)
            curve.unconfirmed = unconfirmed
            found.append(curve)
    return named(found, runs)


def from_evaluations(frame: pd.DataFrame, threshold: float, metric: str | None = None) -> list[Curve]:
    """Curves from any tool's log of the metric: one row per evaluation.

    Columns batch_size, step, value, and optionally seed, optimizer, curve (as analysis.curves.files.from_frame has
    them). metric: a name of cbs.outcome.METRICS; without one, less is better. A run reaches its target at the first
    evaluation at or beyond the threshold, is censored at its last one, and diverged where a value is not finite
    before that. Raises InputError naming a missing column.
    """
    for column in ("batch_size", "step", "value"):
        if column not in frame:
            raise InputError(f"the evaluations have no column {column!r}: they need batch_size, step, value.")
    if frame.empty:
        raise InputError("the evaluations have no rows.")
    frame = frame.assign(**{c: pd.to_numeric(frame[c], errors="coerce") for c in ("step", "value")})
    if not np.isfinite(frame["step"]).all():
        raise InputError("the evaluations have a step that is not a number.")
    apart = [c for c in ("curve", "optimizer", "batch_size", "seed") if c in frame]
    rows = []
    for values, run in frame.groupby(apart, sort=False, dropna=False):
        run = run.sort_values("step")
        broken = run.loc[~np.isfinite(run["value"]), "step"]
        until = broken.iloc[0] if len(broken) else np.inf
        seen = [Evaluation(s, 0, 0.0, v) for s, v in zip(run["step"], run["value"], strict=True) if s < until]
        found = crossing(seen, threshold, 0, METRICS[metric or "fid"])
        missed = Diverged(int(until)) if len(broken) else Censored(int(run["step"].iloc[-1]))
        outcome, lower, steps = row_of(found if isinstance(found, Reached) else missed)
        rows.append({**dict(zip(apart, values, strict=True)), "outcome": outcome, "lower": lower, "steps": steps})
    curves = from_frame(pd.DataFrame(rows).assign(threshold=threshold), "the evaluations")
    for curve in curves:
        curve.metric = None if metric is None else METRICS[metric]
    return curves


def outcome_at(run: Run, threshold: float, smoothed: bool = False) -> tuple[Outcome, bool]:
    """The outcome at a threshold, and whether a crossing was confirmed."""
    if threshold in run.result.outcomes and not smoothed:
        return run.result.outcomes[threshold], True
    evaluations = run.trajectory
    seen = running_median(evaluations, run.metric) if smoothed else evaluations
    found = crossing(seen, threshold, 0, run.metric)
    if isinstance(found, Reached):
        here = next(e for e in evaluations if e.step == found.first_below)
        needed = int(run.config["target"]["confirmations"])
        confirmed = isinstance(crossing([here], threshold, needed, run.metric), Reached)
        return found, confirmed and not smoothed
    last = run.result.outcomes[run.hardest]
    if isinstance(last, Diverged):
        return last, False
    return Censored(evaluations[-1].step), False
