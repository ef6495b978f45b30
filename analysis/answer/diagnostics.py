"""Our figures: the profile of b*, the probability of each b, b* against the threshold, crossings, forms."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import ndtr

from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.output import canvas
from analysis.output.canvas import COLOURS, DASHES, FAINT, INK, MARKERS, plain_ticks, size_ticks


def everything(
    fits: list[Fit], evaluations: dict[str, pd.DataFrame], thresholds: dict[float, list[Fit]]
) -> dict[str, Figure]:
    """By name, those that the data allow."""
    figures = {}
    if any(one.confidence is not None for one in fits):
        figures["profile"] = profile(fits)
    if any(one.bootstrap is not None for one in fits):
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


def profile(fits: list[Fit]) -> Figure:
    """How compatible each b* is with the trials: the two-sided p of the profile likelihood."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    ends: list[float] = []
    for i, one in enumerate(fits):
        confidence = one.confidence
        if confidence is None:
            continue
        b = np.unique(np.interp(np.linspace(-4, 4, 400), confidence.z, confidence.values))
        p = 2 * ndtr(-np.abs(np.interp(b, confidence.values, confidence.z)))
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(b, p, color=colour, ls=DASHES[i % len(DASHES)], label=canvas.short_name(one))
        if one.measured_b_star is not None:
            axes.plot(one.measured_b_star, 1.05, marker="*", ms=11, color=colour, mec=INK, mew=0.6, clip_on=False)
            ends.append(one.measured_b_star)
        ends += list(b[p > 0.002])
    axes.axhline(0.05, color=FAINT, lw=0.8, ls=":")
    axes.text(
        0.01,
        0.06,
        "95 % interval: above",
        transform=axes.get_yaxis_transform(),
        ha="left",
        va="bottom",
        fontsize=7,
        color=FAINT,
    )
    axes.set(xlabel="critical batch size b*", ylabel="compatibility with the runs (p)", ylim=(0, 1.12))
    if ends:
        canvas.power_ticks(axes, max(min(ends), max(ends) / 200) / 1.3, max(ends) * 1.3)
    axes.set_title("profile likelihood of b*   (★ measured)")
    canvas.legend(axes, fits)
    return figure


def probability(fits: list[Fit]) -> Figure:
    """How often each swept batch size is the minimiser of N·b when the runs are drawn again."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    sizes = sorted({b for one in fits for b in one.curve.batch_sizes})
    width = 0.8 / len(fits)
    for i, one in enumerate(fits):
        again = one.bootstrap
        if again is None:
            continue
        at = np.array([sizes.index(b) for b in again.sizes]) + (i - (len(fits) - 1) / 2) * width
        colour = COLOURS[i % len(COLOURS)]
        axes.bar(at, again.measured, width * 0.92, color=colour, label=canvas.short_name(one))
        shown = again.fitted > 0.004
        axes.plot(
            at[shown], again.fitted[shown], ls="", marker="_", ms=max(4.0, 60 * width / len(sizes)), mew=1.8, color=INK
        )
    axes.plot([], [], ls="", marker="_", ms=9, mew=1.8, color=INK, label="by the fit")
    axes.set_xticks(range(len(sizes)), [f"{b:g}" for b in sizes])
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="batch size b", ylabel="probability of the least N·b", ylim=(0, 1.02))
    axes.set_title("minimiser over 2,000 resamples of the runs")
    canvas.legend(axes, fits)
    return figure


def against_threshold(thresholds: dict[float, list[Fit]]) -> Figure:
    """b* against the threshold: fitted with its interval, measured as stars."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    names = {one.curve.label: canvas.short_name(one) for fits in thresholds.values() for one in fits}
    sides = " or ".join(dict.fromkeys(one.curve.side for fits in thresholds.values() for one in fits))
    at = sorted(thresholds)
    for i, label in enumerate(names):
        found = [next((one for one in thresholds[t] if one.curve.label == label), None) for t in at]
        shown = [(t, one) for t, one in zip(at, found, strict=True) if one is not None]
        nudge = 1 + 0.012 * (i - (len(names) - 1) / 2)
        colour = COLOURS[i % len(COLOURS)]
        fitted = [(t * nudge, one.b_star, one.b_star_ci) for t, one in shown if one.b_star is not None]
        axes.plot(
            [t for t, *_ in fitted],
            [b for _, b, _ in fitted],
            color=colour,
            ls=DASHES[i % 7],
            lw=1.2,
            marker=MARKERS[i % 7],
            ms=4,
            label=names[label],
        )
        for t, b, (low, high) in fitted:
            axes.plot([t, t], [low or b / 2, high or b * 2], color=colour, lw=2.5, alpha=0.4)
        measured = [(t * nudge, one.measured_b_star) for t, one in shown if one.measured_b_star is not None]
        axes.plot(
            [t for t, _ in measured], [b for _, b in measured], ls="", marker="*", ms=9, color=colour, mec=INK, mew=0.5
        )
    axes.set(xlabel=f"threshold ({sides})", ylabel="critical batch size b*", xscale="log")
    if any(one.measured_b_star is not None for fits in thresholds.values() for one in fits):
        axes.set_yscale("log", base=2)
    else:
        axes.text(0.5, 0.5, "no run reached its target", transform=axes.transAxes, ha="center", color=FAINT)
    axes.set_xticks(at, [f"{t:.3g}" for t in at])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_title("b* against the threshold   (★ measured, bars 95 %)")
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
