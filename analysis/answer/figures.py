"""The paper's figures: metric against steps, N against b, N·b against b, estimated against measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import diagnostics, pareto
from analysis.answer.wording import percent
from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.output import canvas
from analysis.output.canvas import COLOURS, DASHES, FAINT, INK, MARKERS, plain_ticks, size_ticks
from analysis.theory.carried import Theory


def draw(
    fits: list[Fit],
    evaluations: dict[str, pd.DataFrame],
    thresholds: dict[float, list[Fit]],
    found: Theory | None,
    folder: Path,
) -> list[Path]:
    """Write every figure that the data allow, as PNG and SVG, and return the files.

    evaluations: by group, as analysis.curves.studies.trajectories returns them. thresholds: fits by threshold.
    """
    with plt.rc_context(canvas.STYLE):
        figures = everything(fits, evaluations, thresholds, found)
        figures["overview"] = overview(fits)
        if evaluations:
            trained = [one for one in fits if one.curve.group in evaluations]
            figures["metric_vs_steps"] = metric_against_steps(evaluations, trained)
        return [path for name, figure in figures.items() for path in canvas.save(figure, folder / name)]


def everything(
    fits: list[Fit],
    evaluations: dict[str, pd.DataFrame],
    thresholds: dict[float, list[Fit]],
    found: Theory | None,
) -> dict[str, Figure]:
    """Single-panel figures by name: the paper's, then ours."""
    figures = {"steps_to_target": steps_to_target(fits), "sfo": sfo(fits)}
    for one in fits:
        if one.curve.group in evaluations:
            figures[f"metric_{canvas.stem(one, fits)}"] = metric_against_steps(evaluations, [one])
    if found is not None:
        figures["estimated"] = estimated(fits, found)
    return figures | pareto.everything(fits) | diagnostics.everything(fits, evaluations, thresholds)


def steps_to_target(fits: list[Fit]) -> Figure:
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    _steps(axes, fits)
    canvas.legend(axes, fits)
    return figure


def sfo(fits: list[Fit]) -> Figure:
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    _sfo(axes, fits)
    canvas.legend(axes, fits)
    return figure


def overview(fits: list[Fit]) -> Figure:
    """Both of the above side by side, with one legend."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
    _steps(left, fits)
    _sfo(right, fits)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    return figure


def estimated(fits: list[Fit], found: Theory) -> Figure:
    """Measured, posterior and estimated b*, a row per curve; arrows at open ends."""
    figure, axes = plt.subplots(figsize=(4.6, 1.5 + 0.6 * len(fits)), layout="constrained")
    at: list[float] = []
    for i, one in enumerate(fits):
        colour = COLOURS[i % len(COLOURS)]
        guess, ends = found.from_b_star(one.curve.label)
        for value, (low, high), row, marker in (
            (one.b_star, one.b_star_ci, i - 0.16, "|"),
            (guess, ends, i + 0.16, "D"),
        ):
            if value is not None:
                span = [min(low or value / 1.5, value), max(high or value * 1.5, value)]
                axes.plot(span, [row, row], color=colour, lw=2.5, alpha=0.55)
                axes.plot(value, row, marker=marker, ms=10 if marker == "|" else 4.5, mew=2, color=colour)
                for end, where, arrow in ((low, span[0], "<"), (high, span[1], ">")):
                    if end is None:
                        axes.plot(where, row, marker=arrow, ms=5.5, color=colour)
                at += span
        carried = found.from_measured(one.curve.label)
        if carried is not None:
            axes.plot(carried, i + 0.16, marker="D", ms=6, mfc="none", mec=colour, mew=1.2)
            at.append(carried)
        if one.measured_b_star is not None:
            axes.plot(one.measured_b_star, i - 0.16, marker="*", ms=12, color=colour, mec=INK, mew=0.6, zorder=4)
            at.append(one.measured_b_star)
    keys = {"*": "measured", "|": "b*, 95 %", "D": "estimated from b*"}
    for marker, text in keys.items():
        axes.plot([], [], ls="", marker=marker, ms=6, color=FAINT, mew=1.5, label=text)
    axes.plot([], [], ls="", marker="D", ms=6, mfc="none", mec=FAINT, mew=1.2, label="from the measured b*")
    axes.set_yticks(range(len(fits)), [canvas.short_name(one) for one in fits])
    axes.set(ylim=(len(fits) - 0.5, -0.5), xlabel="critical batch size b*")
    canvas.power_ticks(axes, min(at) / 1.6, max(at) * 1.6)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handletextpad=0.3)
    axes.set_title(f"estimates with r from {found.source}")
    return figure


def _steps(axes: Axes, fits: list[Fit]) -> None:
    """N against b, log–log: runs, medians, the posterior's median and band, the paper's form, misses as arrows."""
    for i, one in enumerate(fits):
        colour, frame = COLOURS[i % len(COLOURS)], one.curve.frame
        nudge = 2.0 ** (0.09 * (i - (len(fits) - 1) / 2))  # so that curves don't cover each other's runs
        reached = frame["outcome"] == "reached"
        b, n = frame["batch_size"] * nudge, frame["steps"]
        axes.plot(b[reached], n[reached], ls="", marker=MARKERS[i % 7], ms=2.5, color=colour, alpha=0.45, mew=0)
        for outcome, mark in (("censored", r"$\uparrow$"), ("diverged", "x")):
            missed = frame["outcome"] == outcome
            axes.plot(b[missed], n[missed], ls="", marker=mark, ms=8 if outcome == "censored" else 5, color=colour)
        _line(axes, one, colour, DASHES[i % 7], lambda size, steps: steps)
        _medians(axes, one, i, colour, 1.0)
    _paper_key(axes, fits)
    axes.set(xscale="log", yscale="log", xlabel="batch size b", ylabel="steps to target N(b)")
    size_ticks(axes, fits)
    axes.set_title(canvas.target(fits) + _missed(fits))


def _missed(fits: list[Fit]) -> str:
    marks = ["↑ not reached"] * any(one.censored for one in fits) + ["× diverged"] * any(one.diverged for one in fits)
    return f"   ({', '.join(marks)})" if marks else ""


def _sfo(axes: Axes, fits: list[Fit]) -> None:
    """N·b against b: medians, the posterior, sizes as good (shaded), b* with its set (bar), as measured (star)."""
    for i, one in enumerate(fits):
        colour = COLOURS[i % len(COLOURS)]
        unit = one.curve.gradients
        _line(axes, one, colour, DASHES[i % 7], lambda size, steps, unit=unit: unit * size * steps)
        _medians(axes, one, i, colour, None)
        if one.measured_b_star is not None:
            least = one.curve.medians()[one.measured_b_star] * one.measured_b_star * unit
            axes.plot(one.measured_b_star, least, marker="*", ms=15, color=colour, mec=INK, mew=0.7, zorder=5)
    known = [(i, one.cheapest) for i, one in enumerate(fits) if one.cheapest is not None]
    for row, (i, found) in enumerate(known):
        colour = COLOURS[i % len(COLOURS)]
        if found.as_good is not None and len(found.sizes) > 1:
            low, high = found.as_good
            axes.axvspan(low * 0.98, high * 1.02, color=colour, alpha=0.13, lw=0, zorder=0)
        canvas.set_bar(axes, found, 0.04 * (len(known) - row), colour)
    if any(one.measured_b_star is not None for one in fits):
        axes.plot([], [], ls="", marker="*", ms=11, color=FAINT, mec=INK, mew=0.7, label="measured b*")
    if known:
        axes.plot([], [], ls="-", lw=3, marker="|", ms=10, mew=2, color=FAINT, label="b*, 95 % set")
    if any(one.cheapest is not None and one.cheapest.as_good is not None for one in fits):
        axes.fill_between([], [], color=FAINT, alpha=0.25, lw=0, label=f"all within {percent(fits[0].margin)}")
    _paper_key(axes, fits)
    axes.set(xscale="log", yscale="log", xlabel="batch size b", ylabel=f"SFO complexity {canvas.sfo(fits)}")
    if known:  # room for the bars below the curves
        low, high = np.log(axes.get_ylim())
        foot = 0.04 * (len(known) + 1)
        axes.set_ylim(math.exp(low - (high - low) * foot / (1 - foot)), math.exp(high))
    size_ticks(axes, fits)
    axes.set_title(canvas.target(fits))


def _medians(axes: Axes, one: Fit, index: int, colour: str, scale: float | None) -> None:
    medians = one.curve.medians()
    medians = medians[np.isfinite(medians)]
    b = medians.index.to_numpy(float)
    values = medians.to_numpy() * (b * one.curve.gradients if scale is None else scale)
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(
        b,
        values,
        ls="",
        marker=marker,
        ms=5.5,
        color=colour,
        mec="white",
        mew=0.6,
        label=canvas.short_name(one),
        zorder=3,
    )


def _line(axes: Axes, one: Fit, colour: str, dashes: Any, of: Any) -> None:
    """The posterior's median curve and its 95 % band over the swept sizes; the paper's form, thin."""
    if one.levels is None or len(one.levels[0]) < 2:
        return
    b, (low, centre, high) = one.levels
    top = 4 * one.curve.frame["steps"].max()
    shown = centre <= top
    axes.plot(b[shown], of(b, centre)[shown], ls=dashes, lw=1.4, color=colour)
    shown = low <= top
    axes.fill_between(b[shown], of(b, low)[shown], of(b, np.minimum(high, top))[shown], color=colour, alpha=0.15, lw=0)
    if one.hyperbola.n_inf is not None:
        sizes: Array = np.geomspace(b[0], b[-1], 400)
        steps = one.hyperbola.predict(sizes)
        near = steps <= top
        axes.plot(sizes[near], of(sizes, steps)[near], ls=(0, (4, 3)), lw=0.8, color=FAINT, zorder=1.5)


def _paper_key(axes: Axes, fits: list[Fit]) -> None:
    """What the thin grey line is, and that it is rejected where it is."""
    drawn = [one for one in fits if one.hyperbola.n_inf is not None]
    if not drawn:
        return
    rejected = [one for one in drawn if one.goodness.rejected]
    named = "" if len(rejected) == len(drawn) else f": {', '.join(canvas.short_name(one) for one in rejected)}"
    label = "paper's form" + (f" (rejected{named})" if rejected else "")
    axes.plot([], [], ls=(0, (4, 3)), lw=0.8, color=FAINT, label=label)


def metric_against_steps(evaluations: dict[str, pd.DataFrame], fits: list[Fit]) -> Figure:
    """The metric against steps, a panel per curve, a shade per batch size: median over seeds, and every seed faint."""
    columns = min(len(fits), 3)
    rows = -(-len(fits) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.2 * columns, 2.8 * rows) if len(fits) > 1 else (4.6, 3.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    sizes = sorted({b for part in evaluations.values() for b in part["batch_size"]})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.88, len(sizes)))
    for axes, one in zip(grid.flat, fits, strict=False):
        part = evaluations[one.curve.group]
        for b, shade in zip(sizes, shades, strict=True):
            rows_of_b = part[part["batch_size"] == b]
            for _, run in rows_of_b.groupby("seed"):
                axes.plot(run["step"], run["value"], color=shade, lw=0.5, alpha=0.35)
            runs = rows_of_b["seed"].nunique()
            median = rows_of_b.groupby("step")["value"].agg(["median", "count"])
            median = median[median["count"] > runs / 2]
            axes.plot(median.index, median["median"], color=shade, lw=1.5, label=f"b = {b}")
        if one.curve.threshold is not None:
            axes.axhline(one.curve.threshold, color=INK, lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", title=canvas.short_name(one))
        plain_ticks(axes)
    for axes in list(grid.flat)[len(fits) :]:
        axes.remove()
    figure.supxlabel("steps", fontsize=9)
    figure.supylabel(canvas.titles(fits), fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure
