"""What is said beside a headline: what can't be told, what rests on the sweep's edges, what to sweep next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.answer.wording import PAPER, holds, verdict
from analysis.fitting.fit import Fit
from analysis.output.tables import short, with_interval


def notes(fit: Fit) -> list[str]:
    """Sentences, the most important first; none says of b* what the headline excludes."""
    found = [*_missing(fit), *_edges(fit), *_stopped(fit), *_measured(fit), *_data(fit), *_paper(fit), *_forms(fit)]
    following = next_batch_sizes(fit)
    if following:
        found.append(f"Sweep next: batch_size={','.join(map(str, following))}{_until(fit, following)}.")
    return found


def _until(fit: Fit, following: list[int]) -> str:
    return ", until N·b rises" if following[-1] < fit.curve.batch_sizes[0] else ""


def _reached_sizes(fit: Fit) -> list[int]:
    frame = fit.curve.frame
    return sorted(frame.loc[frame["outcome"] == "reached", "batch_size"].unique().tolist())


def _sizes(sizes: Sequence[float]) -> str:
    return ", ".join(f"{b:g}" for b in sizes)


def _missing(fit: Fit) -> list[str]:
    """Runs that diverged, and why there is nothing to tell where no run arrived."""
    found = []
    if fit.diverged:
        counts = fit.curve.shares()
        where = ", ".join(
            f"{d} of {n} at b = {b}"
            for b, d, n in zip(counts.index, counts["diverged"], counts["runs"], strict=True)
            if d
        )
        found.append(f"Diverged: {where}; a diverged run counts as one that never arrives.")
    if fit.diverged == len(fit.curve.frame):
        found.append("Every run diverged: nothing can be told.")
    elif fit.cheapest is None:
        most = fit.curve.frame["steps"].max()
        found.append(
            f"No run reached its target within {most:,.0f} steps: raise the budget or the threshold, "
            "or sweep larger batch sizes."
        )
    return found


def _edges(fit: Fit) -> list[str]:
    """Where the set of b* rests on an edge of the sweep."""
    one = fit.cheapest
    if one is None or len(one.sizes) < 2:
        return []
    found = []
    first, last = one.sizes[0], one.sizes[-1]
    if one.open_low and first > 1 and first not in dict(stopped_early(fit)):
        found.append(f"The 95 % set reaches the smallest size tried, {first:g}: a smaller one may be cheaper.")
    if one.open_high and last not in dict(stopped_early(fit)):
        found.append(f"The 95 % set reaches the largest size tried, {last:g}: a larger one may be cheaper.")
    return found


def stopped_early(fit: Fit) -> list[tuple[float, float]]:
    """Batch sizes in the set at which too few runs arrived for a median, and the most gradients that they spent.

    Only those whose runs spent fewer gradients than the best size may take: they can't show that their size is dearer.
    """
    one = fit.cheapest
    if one is None:
        return []
    frame = fit.curve.frame
    bounds = fit.curve.median_bounds()
    found = []
    for b in one.sizes[(one.sizes >= one.low) & (one.sizes <= one.high)]:
        waiting = frame[(frame["batch_size"] == b) & (frame["outcome"] == "censored")]
        spent = float((waiting["steps"] * b).max()) if len(waiting) else math.inf
        if math.isinf(bounds.loc[b, "high"]) and spent < _needed(fit):
            found.append((float(b), spent))
    return found


def _needed(fit: Fit) -> float:
    """N·b that a run must spend without arriving to show that its size is dearer: what the best size may take."""
    if fit.cheapest is None:
        return math.inf
    known = fit.curve.median_bounds()["high"]
    least = float((known * known.index.to_numpy(float)).min())
    return max(fit.cheapest.least_ci[1], least if math.isfinite(least) else 0.0)


def _stopped(fit: Fit) -> list[str]:
    early = stopped_early(fit)
    if not early:
        return []
    unit, needed = fit.curve.gradients, _needed(fit)
    told = ", ".join(f"b = {b:g} after {short(unit * spent)}" for b, spent in early)
    steps = ", ".join(f"{short(math.ceil(needed / b))} steps at b = {b:g}" for b, _ in early)
    return [
        f"Stopped before they could show that their size is dearer (in gradients): {told}; the best size takes up to "
        f"{short(unit * needed)}. Let them go on to {steps}."
    ]


def _measured(fit: Fit) -> list[str]:
    """The paper's argmin over swept sizes, where it isn't one size inside the set."""
    one, measured = fit.cheapest, fit.measured
    if one is None or not measured.candidates:
        return []
    if measured.b_star is None:
        bounds = fit.curve.median_bounds()
        best = int((bounds["high"] * bounds.index).idxmin())
        rivals = [b for b in measured.candidates if b != best]
        told = " or ".join(f"{b:g}" for b in measured.candidates)
        return [
            f"Measured b*: {told}, which can't be told apart, because runs at b = {_sizes(rivals)} stopped before they "
            f"had spent as many gradients as the median run at {best:g} takes."
        ]
    if one.holds(measured.b_star):
        return []
    runs = int((fit.curve.frame["batch_size"] == measured.b_star).sum())
    return [
        f"Measured b*: {measured.b_star:g}, which lies outside the 95 % set; a median of {runs} run{'s' * (runs != 1)} "
        "can't be told apart from its neighbours' by itself, and the set is what all sizes say together."
    ]


def _paper(fit: Fit) -> list[str]:
    """What the paper's form says, under its name."""
    form, test, sizes = fit.hyperbola, fit.goodness, _reached_sizes(fit)
    if not sizes:
        return []
    lead = holds(test)
    found = [f"{lead[0].upper()}{lead[1:]}"]
    low, high = form.b_star_ci
    if len(sizes) < 3:
        found = [f"The paper's form needs three batch sizes that arrived, and there are {len(sizes)}"]
    elif form.rising:
        found.append("N(b) rises with b beyond its spread, which it can't in this form")
    elif form.b_star is not None or low is not None or high is not None:
        found.append(
            f"its own b* is {with_interval(form.b_star, form.b_star_ci)}{', rejected with it' * test.rejected}"
        )
    if len(sizes) >= 3 and fit.censored == 0 and not form.rising:
        found.append(
            f"every run arrived, so that it can only answer less than {2 * sizes[0]:g}, twice the smallest size"
        )
    if form.sigma is not None and form.sigma < 0.002:
        found.append("its spread between runs can't be told from 0")
    return [f"{'; '.join(found)}."]


def _forms(fit: Fit) -> list[str]:
    """What the rivals say."""
    forms = fit.forms
    if forms.preferred is None:
        return []
    found = [verdict(fit)]
    two_term, sizes = forms.form("two_term"), _reached_sizes(fit)
    if two_term is not None and forms.behind("two_term") < 10 and not fit.tests["two_term"].rejected:
        b_crit = two_term.values["B_crit"]
        if b_crit > sizes[-1]:
            found.append(f"B_crit = {b_crit:,.0f} lies beyond the largest batch size that reached, {sizes[-1]:g}.")
        elif b_crit < sizes[0] / 4 and not fit.hyperbola.rising:
            found.append("N(b) is flat over the sweep: B_crit lies far below it.")
    return found


def _data(fit: Fit) -> list[str]:
    """Seeds, brackets and runs left out."""
    found = []
    frame = fit.curve.frame
    runs = frame.groupby("batch_size").size()
    if fit.cheapest is not None and runs.max() < 2:
        found.append(
            "One seed per batch size: how far seeds differ is inferred from the smoothness of the curve alone."
        )
    uneven = runs[runs < runs.max()]
    if len(uneven):
        found.append(f"Fewer runs than the {runs.max()} elsewhere at b = {_sizes(uneven.index.tolist())}.")
    if fit.curve.changing:
        found.append(
            f"{fit.curve.changing} runs of the study change their batch size, or branch from another run: they are "
            "points of no curve N(b), and left out."
        )
    if fit.curve.left_out:
        found.append(f"{fit.curve.left_out} runs have no outcome at this threshold and are left out.")
    if fit.curve.unconfirmed:
        found.append(
            f"{fit.curve.unconfirmed} crossings were read off the trajectories afterwards, without confirmation "
            "by fresh noise: they come early by chance more often than confirmed ones."
        )
    reached = frame[frame["outcome"] == "reached"]
    first = reached[reached["lower"] == 0]
    if len(first):
        found.append(
            f"{len(first)} of {len(frame)} runs had passed the target at their first evaluation: "
            "only an upper end of their N is known; evaluate earlier."
        )
    wild = _wild(reached)
    if len(wild):
        found.append(
            f"Seeds disagree more than elsewhere at b = {_sizes(wild)}: b* allows for that; {PAPER} does "
            "with --growing-spread."
        )
    return found


def _wild(reached: pd.DataFrame) -> list[float]:
    """Batch sizes whose seeds spread over three times as far in ln N as elsewhere, and over a tenth."""
    spread = np.log(reached["steps"].astype(float)).groupby(reached["batch_size"]).agg(["var", "count"])
    spread = spread[spread["count"] > 1]
    found = []
    for b, row in spread.iterrows():
        others = spread.drop(index=b)
        usual = np.average(others["var"], weights=others["count"] - 1) if len(others) else np.inf
        if row["var"] > max(9 * usual, 0.01):
            found.append(float(b))
    return found


# A size closer than this to one that was swept, in octaves, tells nothing new.
_APART = 0.3


def next_batch_sizes(fit: Fit) -> list[int]:
    """Batch sizes that would tell most about b*, beyond those swept; empty where other runs are what is missing."""
    swept, one = fit.curve.batch_sizes, fit.cheapest
    larger = [int(swept[-1] * 2), int(swept[-1] * 4)]
    if fit.diverged == len(fit.curve.frame):
        return []
    if one is None:
        return larger
    early = dict(stopped_early(fit))
    found = []
    if one.open_low and swept[0] not in early:
        found += [int(swept[0] // k) for k in (2, 4, 8) if swept[0] / k >= 1]
    if one.open_high and swept[-1] not in early:
        found += larger
    if found or one.open_low or one.open_high or one.octaves <= 1:
        return found
    gaps = [(high / low, round(math.sqrt(low * high))) for low, high in pairwise(swept)]
    inside = [
        (ratio, b)
        for ratio, b in gaps
        if one.low < b < one.high and min(abs(math.log2(b / other)) for other in swept) > _APART
    ]
    return [max(inside)[1]] if inside else []
