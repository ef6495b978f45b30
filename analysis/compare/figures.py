"""Figures of a comparison: the metric along three axes, what thresholds take, and how pairs of arms relate."""

from __future__ import annotations

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.compare.arms import AXES, Arm, Field
from analysis.compare.exact import ranks_of_median
from analysis.compare.questions import FEW, Findings, Question, positive, upright
from analysis.fitting.models import Array
from analysis.output.canvas import COLOURS, DASHES, FAINT, INK, MARKERS, plain_ticks

# How many points a line has.
_POINTS = 400


def everything(found: Findings) -> dict[str, Figure]:
    """By name, those that the records allow."""
    figures = {"compare_metric": metric(found), "compare_costs": costs(found)}
    if len(found.field.arms) <= FEW:
        if found.main is not None:
            figures["compare_ratios"] = ratios(found, found.main)
        if found.question("steps", None) is not None:
            figures["compare_after"] = ratios(found, None)
    return figures


def _style(index: int) -> tuple[str, str, object]:
    """Colour, marker and dashes of an arm; beyond seven arms, colours come again with other dashes."""
    n = len(COLOURS)
    return COLOURS[index % n], MARKERS[(index + index // n) % n], DASHES[(index // n) % len(DASHES)]


def _panels(axes: list[str], height: float, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    size = (3.7 * len(axes) + 0.4, height)
    figure, grid = plt.subplots(1, len(axes), figsize=size, sharey=sharey, squeeze=False, layout="constrained")
    return figure, list(grid[0])


def band(arm: Arm, axis: str) -> tuple[Array, Array, Array, Array]:
    """Where, and the median, lower and upper end of its interval over the runs of an arm; each (k,).

    At each point the interval of the median by order statistics, `ranks_of_median`: with five seeds from the least to
    the largest. A run that arrived at its target and was stopped stays at its last value, so that the quick ones don't
    leave the median to the slow; a run that diverged counts as infinitely bad. It ends where the first run of
    another kind ended, or where the last one arrived.
    """
    begin = max(float(c.x[axis][0]) for c in arm.courses)
    given_up = [float(c.x[axis][-1]) for c in arm.courses if not c.met and not c.broke]
    end = min(given_up, default=max(float(c.x[axis][-1]) for c in arm.courses))
    points = np.unique(np.concatenate([c.x[axis] for c in arm.courses]))
    at = np.unique(np.concatenate([points[(points >= begin) & (points <= end)], [begin, max(begin, end)]]))
    if len(at) > _POINTS:
        at = at[np.linspace(0, len(at) - 1, _POINTS).astype(int)]
    values = np.sort([c.at(axis, at) for c in arm.courses], axis=0)
    k, _ = ranks_of_median(len(values))
    return at, np.median(values, axis=0), values[k], values[-1 - k]


def metric(found: Findings) -> Figure:
    """The metric against each axis: medians with their bands, every run faint, dots where runs arrived."""
    field = found.field
    figure, panels = _panels(field.axes, 3.9)
    few = len(field.arms) <= len(COLOURS)
    for panel, axis in zip(panels, field.axes, strict=True):
        for i, arm in enumerate(field.arms):
            colour, marker, dashes = _style(i)
            for course in arm.courses if few else []:
                panel.plot(course.x[axis], course.values, color=colour, lw=0.5, alpha=0.3)
                if course.met:
                    panel.plot(course.x[axis][-1], course.values[-1], marker=marker, ms=3.5, color=colour, mew=0)
            at, middle, low, high = band(arm, axis)
            if few and len(arm.courses) > 1:
                panel.fill_between(at, *_within(arm, low, high), color=colour, alpha=0.16, lw=0)
            panel.plot(at, middle, color=colour, ls=dashes, lw=1.6, label=arm.label)
        for threshold in found.taken:
            main = threshold == found.main
            panel.axhline(threshold, color=INK if main else FAINT, lw=0.9 if main else 0.5, ls=":", zorder=0)
        panel.set(xscale="log", xlabel=AXES[axis])
        if positive(field):
            panel.set_yscale("log")
        plain_ticks(panel)
    panels[0].set_ylabel(_ylabel(field))
    _legend(figure, panels[0])
    return figure


def _within(arm: Arm, low: Array, high: Array) -> tuple[Array, Array]:
    """A band's ends; where one is infinite, as far as any run of the arm was seen."""
    seen = np.concatenate([c.values for c in arm.courses])
    seen = seen[np.isfinite(seen)]
    least, most = (seen.min(), seen.max()) if len(seen) else (math.nan, math.nan)
    return np.where(np.isfinite(low), low, least), np.where(np.isfinite(high), high, most)


def _ylabel(field: Field) -> str:
    return f"{field.title} ({'less' if field.sign > 0 else 'more'} is better)"


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), 130 // (longest + 6)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def costs(found: Findings) -> Figure:
    """What each threshold takes, per axis: medians with their intervals, arrows where a miss leaves them open."""
    field = found.field
    figure, panels = _panels(field.axes, 3.9, sharey=False)
    at = list(found.taken)
    for panel, axis in zip(panels, field.axes, strict=True):
        for i, arm in enumerate(field.arms):
            colour, marker, dashes = _style(i)
            offset = 0.5 * ((i + 0.5) / len(field.arms) - 0.5)
            x = np.arange(len(at)) + offset
            ours = [next(a for a in found.taken[t] if a.arm is arm) for t in at]
            medians = np.array([a.median(axis) for a in ours])
            shown = np.isfinite(medians)
            panel.plot(x[shown], medians[shown], color=colour, ls=dashes, lw=1.0, alpha=0.7)
            panel.plot(x[shown], medians[shown], ls="", marker=marker, ms=5, color=colour, mec="white", mew=0.5)
            for where, one, seen in zip(x, ours, shown, strict=True):
                (low, high), _ = one.interval(axis)
                if seen and low is not None and high is not None:
                    panel.plot([where, where], [low, high], color=colour, lw=2.2, alpha=0.45)
                elif low is not None:
                    panel.plot(where, low, ls="", marker=r"$\uparrow$", ms=8, color=colour)
            panel.plot([], [], color=colour, ls=dashes, marker=marker, ms=5, label=arm.label)
        panel.set_yscale("log")
        panel.set_xticks(range(len(at)), [f"{t:g}" for t in at])
        panel.grid(axis="x", visible=False)
        for left, _ in pairwise(range(len(at))):
            panel.axvline(left + 0.5, color=FAINT, lw=0.4, ls=":", zorder=0)
        panel.set(xlabel=f"{field.at}", title=AXES[axis])
        plain_ticks(panel)
        panel.set_xticks(range(len(at)), [f"{t:g}" for t in at])
    panels[0].set_ylabel("median to the threshold")
    _legend(figure, panels[0])
    return figure


def ratios(found: Findings, threshold: float | None) -> Figure:
    """How many times more the first arm of each pair takes (or its metric is), with 95 % intervals, per axis."""
    field = found.field
    questions = [q for axis in field.axes if (q := found.question(axis, threshold)) is not None]
    rows = len(questions[0].pairs)
    figure, panels = _panels([q.axis for q in questions], 1.3 + 0.32 * rows)
    for panel, question in zip(panels, questions, strict=True):
        _forest(panel, field, question)
        panel.set_title(AXES[question.axis])
    names = [f"{p.one} / {p.other}" for p in questions[0].pairs]
    panels[0].set_yticks(range(rows), names)
    panels[0].set_ylim(rows - 0.5, -0.5)
    after = f"{field.title}, ratio after as much"
    what = after if threshold is None else f"times as much to {field.at} {threshold:g}"
    figure.supxlabel(f"{what}   (bars 95 %, filled: decided)", fontsize=9)
    return figure


def _forest(panel: Axes, field: Field, question: Question) -> None:
    told = [(pair.found.sign, upright(field, question, pair.found)) for pair in question.pairs]
    ends = [1.0, *(v for _, found in told for v in (found.ratio, *found.ratio_ci) if v is not None)]
    near = [v for v in ends if 1 / 30 < v < 30]
    low, high = min([*near, 1 / 1.3]) / 1.15, max([*near, 1.3]) * 1.15
    for row, (sign, found) in enumerate(told):
        colour = {-1: COLOURS[0], 0: FAINT, 1: COLOURS[1]}[sign]
        left, right = found.ratio_ci
        if left is not None or right is not None:
            panel.plot([left or low, right or high], [row, row], color=colour, lw=2.2, alpha=0.5)
            if left is None:
                panel.plot(low, row, marker="<", ms=5, color=colour, clip_on=False)
            if right is None:
                panel.plot(high, row, marker=">", ms=5, color=colour, clip_on=False)
        if found.ratio is not None and math.isfinite(found.ratio):
            face = colour if sign else "white"
            panel.plot(found.ratio, row, marker="o", ms=5.5, color=colour, mfc=face, mew=1.2)
    panel.axvline(1, color=INK, lw=0.8)
    panel.set(xscale="log", xlim=(low, high))
    panel.grid(axis="y", visible=False)
    ticks = [d * 10.0**k for k in range(-9, 10) for d in (1, 2, 5)]
    panel.set_xticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    panel.xaxis.set_minor_locator(NullLocator())
