"""Our figures: the posterior of b*, the probability of each size, b* against the threshold, crossings, forms."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.answer.wording import p_value
from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.output import canvas
from analysis.output.canvas import COLOURS, DASHES, FAINT, INK, MARKERS, plain_ticks, size_ticks


def everything(
    fits: list[Fit], evaluations: dict[str, pd.DataFrame], thresholds: dict[float, list[Fit]]
) -> dict[str, Figure]:
    """By name, those that the data allow."""
    figures = {}
    if any(one.cheapest is not None and len(one.cheapest.sizes) > 1 for one in fits):
        figures["posterior"] = density(fits)
        figures["probability"] = probability(fits)
    if len(thresholds) > 1:
        figures["targets"] = against_threshold(thresholds)
    for i, one in enumerate(fits):
        name = canvas.stem(one, fits)
        if one.forms.ranked:
            figures[f"forms_{name}"] = forms(one, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        if one.curve.group in evaluations and one.curve.threshold is not None:
            figures[f"crossings_{name}"] = crossings(evaluations[one.curve.group], one)
    return figures


def density(fits: list[Fit]) -> Figure:
    """Where b* lies, by its posterior: probability per octave, a quarter octave a bin; the 95 % set below it."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    several = [(i, one, one.cheapest) for i, one in enumerate(fits)]
    known = [(i, one, found) for i, one, found in several if found is not None and len(found.sizes) > 1]
    first = min(float(found.sizes[0]) for _, _, found in known)
    last = max(float(found.sizes[-1]) for _, _, found in known)
    foot = 0.05 * (len(known) + 0.5)
    highest = 0.0
    for row, (i, one, found) in enumerate(known):
        colour = COLOURS[i % len(COLOURS)]
        start, end = math.log2(found.sizes[0]), math.log2(found.sizes[-1])
        bins = np.linspace(start - 1 / 8, end + 1 / 8, max(2, round((end - start) * 4)) + 2)
        mass, _ = np.histogram(found.log_b / math.log(2), bins, weights=found.weight, density=True)
        axes.stairs(mass, 2**bins, color=colour, ls=DASHES[i % len(DASHES)], lw=1.4, label=canvas.short_name(one))
        axes.stairs(mass, 2**bins, color=colour, fill=True, alpha=0.12)
        highest = max(highest, float(mass.max()))
        canvas.set_bar(axes, found, foot - 0.05 * (row + 0.75), colour)
        if one.measured_b_star is not None:
            axes.plot(one.measured_b_star, 0, marker="*", ms=11, color=colour, mec=INK, mew=0.6, zorder=5)
    top = 1.08 * highest
    axes.set_ylim(-top * foot / (1 - foot), top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.set(xlabel="critical batch size b*", ylabel="probability per octave")
    canvas.power_ticks(axes, first / 1.5, last * 1.5)
    axes.set_title("posterior of b*   (bar: 95 % set, ★ measured)")
    canvas.legend(axes, fits)
    return figure


def probability(fits: list[Fit]) -> Figure:
    """How likely each swept batch size is to cost the fewest gradients of them all."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    sizes = sorted({b for one in fits for b in one.curve.batch_sizes})
    width = 0.8 / len(fits)
    for i, one in enumerate(fits):
        found = one.cheapest
        if found is None or len(found.sizes) < 2:
            continue
        at = np.array([sizes.index(int(b)) for b in found.sizes]) + (i - (len(fits) - 1) / 2) * width
        axes.bar(at, found.probability, width * 0.92, color=COLOURS[i % len(COLOURS)], label=canvas.short_name(one))
    axes.set_xticks(range(len(sizes)), [f"{b:g}" for b in sizes])
    if len(sizes) > 12:
        axes.tick_params(axis="x", labelsize=6)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="batch size b", ylabel="probability to be the cheapest", ylim=(0, 1.02))
    axes.set_title("which of the swept sizes costs the fewest gradients")
    canvas.legend(axes, fits)
    return figure


def against_threshold(thresholds: dict[float, list[Fit]]) -> Figure:
    """b* against the threshold, with its 95 % set (arrows at open ends); measured as stars."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    names = {one.curve.label: canvas.short_name(one) for fits in thresholds.values() for one in fits}
    sides = " or ".join(dict.fromkeys(one.curve.side for fits in thresholds.values() for one in fits))
    at = sorted(thresholds)
    for i, label in enumerate(names):
        known = [next((one for one in thresholds[t] if one.curve.label == label), None) for t in at]
        shown = [(t, one) for t, one in zip(at, known, strict=True) if one is not None]
        nudge = 1 + 0.012 * (i - (len(names) - 1) / 2)
        colour = COLOURS[i % len(COLOURS)]
        found = [(t * nudge, one.cheapest) for t, one in shown if one.cheapest is not None]
        axes.plot(
            [t for t, _ in found],
            [there.b_star for _, there in found],
            color=colour,
            ls=DASHES[i % 7],
            lw=1.2,
            marker=MARKERS[i % 7],
            ms=4,
            label=names[label],
        )
        for t, there in found:
            axes.plot([t, t], [there.low, there.high], color=colour, lw=2.5, alpha=0.4)
            for open_end, end, mark in ((there.open_low, there.low, "v"), (there.open_high, there.high, "^")):
                if open_end:
                    axes.plot(t, end, marker=mark, ms=5, color=colour, alpha=0.7)
        measured = [(t * nudge, one.measured_b_star) for t, one in shown if one.measured_b_star is not None]
        axes.plot(
            [t for t, _ in measured], [b for _, b in measured], ls="", marker="*", ms=9, color=colour, mec=INK, mew=0.5
        )
    axes.set(xlabel=f"threshold ({sides})", ylabel="critical batch size b*", xscale="log")
    if any(one.cheapest is not None for fits in thresholds.values() for one in fits):
        axes.set_yscale("log", base=2)
    else:
        axes.text(0.5, 0.5, "no run reached its target", transform=axes.transAxes, ha="center", color=FAINT)
    axes.set_xticks(at, [f"{t:.3g}" for t in at])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_title("b* against the threshold   (bars: 95 % sets, ★ measured)")
    canvas.legend(axes, next(iter(thresholds.values())))
    return figure


def forms(one: Fit, colour: str, marker: str) -> Figure:
    """N against b with every form fitted, the preferred first."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    frame = one.curve.frame
    reached = frame[frame["outcome"] == "reached"]
    missed = frame[frame["outcome"] == "censored"]
    axes.plot(reached["batch_size"], reached["steps"], ls="", marker=marker, ms=4, color=INK, alpha=0.55, mew=0)
    axes.plot(missed["batch_size"], missed["steps"], ls="", marker=r"$\uparrow$", ms=8, color=INK)
    sizes = one.curve.batch_sizes
    b: Array = np.geomspace(sizes[0] / 1.3, sizes[-1] * 1.3, 400)
    top = 3 * frame["steps"].max()
    for i, form in enumerate(one.forms.ranked):
        n = form.predict(b)
        shown = n <= top
        behind = one.forms.behind(form.name)
        told = (
            "too few runs to compare" if not np.isfinite(behind) else "preferred" if i == 0 else f"AICc +{behind:.1f}"
        )
        test = one.tests.get(form.name)
        if test is not None and test.rejected:
            told = f"{told}, rejected {p_value(test)}"
        axes.plot(b[shown], n[shown], color=COLOURS[i], ls=DASHES[i], lw=1.5, label=f"{form.title} ({told})")
    axes.set(xscale="log", yscale="log", xlabel="batch size b", ylabel="steps to target N(b)")
    size_ticks(axes, [one])
    axes.set_title(f"{canvas.short_name(one)}: forms of N(b)")
    axes.legend(fontsize=7)
    return figure


def crossings(evaluations: pd.DataFrame, one: Fit) -> Figure:
    """A curve's trajectories near the target, and the bracket in which each run crossed it."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    threshold, metric = one.curve.threshold, one.curve.metric
    assert threshold is not None
    assert metric is not None
    # The brackets lie beyond the threshold, where trajectories end.
    away = 1 / 0.955 if metric.rising else 0.955
    edge = threshold * (1 / 0.82 if metric.rising else 0.82)
    sizes = one.curve.batch_sizes
    shades = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.88, len(sizes)))
    reached = one.curve.frame[(one.curve.frame["outcome"] == "reached") & one.curve.frame["lower"].notna()]
    for k, (b, shade) in enumerate(zip(sizes, shades, strict=True)):
        for _, run in evaluations[evaluations["batch_size"] == b].groupby("seed"):
            axes.plot(run["step"], run["value"], color=shade, lw=0.7, alpha=0.6)
        depth = edge * away**k
        for _, run in reached[reached["batch_size"] == b].iterrows():
            axes.plot([max(run["lower"], 1), run["steps"]], [depth, depth], color=shade, lw=3.5, solid_capstyle="butt")
        axes.plot([], [], color=shade, lw=3, label=f"b = {b:g}")
    axes.axhline(threshold, color=INK, lw=0.8, ls=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps",
        ylabel=metric.title,
        ylim=sorted((edge * away ** len(sizes), threshold / 5 if metric.rising else threshold * 5)),
    )
    plain_ticks(axes)
    axes.set_title(f"{canvas.short_name(one)}: crossings (bars: the bracket of each run)")
    axes.legend(fontsize=7, loc="upper left" if metric.rising else "lower left")
    return figure
