"""The paper's figures: metric against steps, N against b, N·b against b, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from analysis.fit import Fit
from analysis.models import Array, hyperbola

# Okabe & Ito: told apart by the colour-blind, and in grey with the markers and dashes beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
NAMES = {"adam": "Adam", "adabelief": "AdaBelief", "rmsprop": "RMSProp", "sgd": "SGD"}

STYLE: Any = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "cbs",
}


def draw(fits: list[Fit], evaluations: pd.DataFrame | None, folder: Path) -> list[Path]:
    """Write every figure that the data allow and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with plt.rc_context(STYLE):
        drawn += _save(steps_to_target(fits), folder / "steps_to_target")
        drawn += _save(sfo(fits), folder / "sfo")
        drawn += _save(overview(fits), folder / "overview")
        if evaluations is not None and len(evaluations):
            drawn += _save(metric_against_steps(evaluations, fits), folder / "metric_vs_steps")
    return drawn


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def steps_to_target(fits: list[Fit]) -> Figure:
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    _steps(axes, fits)
    axes.legend()
    return figure


def sfo(fits: list[Fit]) -> Figure:
    figure, axes = plt.subplots(figsize=(4.6, 3.6))
    _sfo(axes, fits)
    axes.legend()
    return figure


def overview(fits: list[Fit]) -> Figure:
    """Both of the above side by side, with one legend."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
    _steps(left, fits)
    _sfo(right, fits)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    return figure


def _name(one: Fit) -> str:
    first, _, rest = one.curve.label.partition(" ")
    return f"{NAMES.get(first, first)} {rest}".strip()


def _steps(axes: Axes, fits: list[Fit]) -> None:
    """N against b, log–log: runs, medians, the fit with its band, censored runs as arrows."""
    for i, one in enumerate(fits):
        colour, frame = COLOURS[i % len(COLOURS)], one.curve.frame
        nudge = 2.0 ** (0.09 * (i - (len(fits) - 1) / 2))  # so that curves don't cover each other's runs
        reached = frame["outcome"] == "reached"
        b, n = frame["batch_size"] * nudge, frame["steps"]
        axes.plot(b[reached], n[reached], ls="", marker=MARKERS[i % 7], ms=2.5, color=colour, alpha=0.45, mew=0)
        axes.plot(b[~reached], n[~reached], ls="", marker=r"$\uparrow$", ms=8, color=colour)
        _line(axes, one, colour, DASHES[i % 7], lambda size, steps: steps)
        _medians(axes, one, i, colour, 1.0)
    axes.set(xscale="log", yscale="log", xlabel="batch size b", ylabel="steps to target N(b)")
    _sizes(axes, fits)
    axes.set_title(_target(fits) + ("   (↑ not reached)" if any(one.censored for one in fits) else ""), fontsize=9)


def _sfo(axes: Axes, fits: list[Fit]) -> None:
    """N·b against b: medians, the fit, and b* as measured (star) and fitted (line with its interval)."""
    for i, one in enumerate(fits):
        colour = COLOURS[i % len(COLOURS)]
        _line(axes, one, colour, DASHES[i % 7], lambda size, steps: size * steps)
        _medians(axes, one, i, colour, None)
        if one.measured_b_star is not None:
            least = one.curve.medians()[one.measured_b_star] * one.measured_b_star
            axes.plot(one.measured_b_star, least, marker="*", ms=15, color=colour, mec="black", mew=0.7, zorder=5)
        if one.b_star is not None and one.sfo is not None:
            low, high = one.b_star_ci
            first = one.curve.batch_sizes[0] / 1.6
            axes.plot(
                [max(low or first, first), high or one.b_star], [one.sfo] * 2, color=colour, lw=3, alpha=0.5, zorder=4
            )
            axes.plot(one.b_star, one.sfo, marker="|", ms=12, mew=2, color=colour, zorder=5)
    axes.plot([], [], ls="", marker="*", ms=11, color="0.7", mec="black", mew=0.7, label="measured b*")
    axes.plot([], [], ls="-", lw=3, marker="|", ms=12, mew=2, color="0.6", label="fitted b*, 95 %")
    axes.set(xscale="log", yscale="log", xlabel="batch size b", ylabel="SFO complexity N(b)·b")
    _sizes(axes, fits)
    axes.set_title(_target(fits), fontsize=9)


def _medians(axes: Axes, one: Fit, index: int, colour: str, scale: float | None) -> None:
    medians = one.curve.medians()
    medians = medians[np.isfinite(medians)]
    b = medians.index.to_numpy(float)
    values = medians.to_numpy() * (b if scale is None else scale)
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(b, values, ls="", marker=marker, ms=5.5, color=colour, mec="white", mew=0.6, label=_name(one), zorder=3)


def _line(axes: Axes, one: Fit, colour: str, dashes: Any, of: Any) -> None:
    """The fitted curve and its band, drawn where it is above b0 and not far off the data."""
    if one.n_inf is None or one.b0 is None:
        return
    sizes = one.curve.batch_sizes
    b: Array = np.geomspace(sizes[0] / 1.5, sizes[-1] * 1.3, 400)
    top = 4 * one.curve.frame["steps"].max()
    centre = hyperbola(b, one.n_inf, one.b0)
    low, high = one.band(b)
    shown = centre <= top
    axes.plot(b[shown], of(b, centre)[shown], ls=dashes, lw=1.4, color=colour)
    shown = low <= top
    axes.fill_between(b[shown], of(b, low)[shown], of(b, np.minimum(high, top))[shown], color=colour, alpha=0.15, lw=0)


def _sizes(axes: Axes, fits: list[Fit]) -> None:
    """Ticks at the batch sizes that were swept, thinned to ten, and plain numbers on both axes."""
    sizes = sorted({b for one in fits for b in one.curve.batch_sizes})
    axes.set_xticks(sizes[:: -(-len(sizes) // 10)])
    axes.xaxis.set_minor_locator(NullLocator())
    _plain_ticks(axes)
    if not np.isfinite(axes.dataLim.intervaly).all() or axes.dataLim.intervaly[1] <= 0:
        axes.set(ylim=(1, 10), xlim=(sizes[0] / 1.6, sizes[-1] * 1.6))
        axes.text(0.5, 0.5, "no run reached its target", transform=axes.transAxes, ha="center", color="0.4")


def _plain_ticks(axes: Axes) -> None:
    """Numbers as people write them: whole decades on x, also twos and fives on y."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: _plain(v, _) if f"{v:e}"[0] in "25" else ""))


def _plain(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _target(fits: list[Fit]) -> str:
    thresholds = sorted({one.curve.threshold for one in fits if one.curve.threshold is not None})
    return f"target: FID ≤ {', '.join(f'{t:g}' for t in thresholds)}" if thresholds else ""


def metric_against_steps(evaluations: pd.DataFrame, fits: list[Fit]) -> Figure:
    """FID against steps, one panel per curve, one shade per batch size: median over seeds, and every seed faint."""
    columns = min(len(fits), 3)
    rows = -(-len(fits) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.2 * columns, 2.8 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    sizes = sorted(evaluations["batch_size"].unique())
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, len(sizes)))
    for axes, one in zip(grid.flat, fits, strict=False):
        part = evaluations[evaluations["group"] == one.curve.group]
        for b, shade in zip(sizes, shades, strict=True):
            rows_of_b = part[part["batch_size"] == b]
            for _, run in rows_of_b.groupby("seed"):
                axes.plot(run["step"], run["value"], color=shade, lw=0.5, alpha=0.35)
            runs = rows_of_b["seed"].nunique()
            median = rows_of_b.groupby("step")["value"].agg(["median", "count"])
            median = median[median["count"] > runs / 2]
            axes.plot(median.index, median["median"], color=shade, lw=1.5, label=f"b = {b}")
        if one.curve.threshold is not None:
            axes.axhline(one.curve.threshold, color="black", lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", title=_name(one))
        _plain_ticks(axes)
    for axes in list(grid.flat)[len(fits) :]:
        axes.remove()
    figure.supxlabel("steps", fontsize=9)
    figure.supylabel("FID", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure
