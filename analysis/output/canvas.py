"""How figures look: colours, type, ticks, files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.fitting.cheapest import Cheapest
from analysis.fitting.fit import Fit

# Okabe & Ito: told apart by the colour-blind, and in grey with the markers and dashes beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, GRID = "#16181D", "#6B7280", "#E4E6EA"

STYLE: Any = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "cbs",
    "figure.max_open_warning": 0,
}

# What a page's style sheet decides: colours as matplotlib writes them, and the page's variables.
_VARIABLES = {INK.lower(): "var(--ink)", FAINT.lower(): "var(--faint)", GRID.lower(): "var(--grid)"}
_VARIABLES |= {"#ffffff": "var(--paper)", **{c.lower(): f"var(--c{i})" for i, c in enumerate(COLOURS)}}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG and close it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def inline(figure: Figure, name: str) -> str:
    """A figure as SVG to stand in a page: the page's colours and type, ids that no other figure has."""
    out = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", svg, count=2)  # the first two are those of <svg>: the page sizes it
    svg = re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], svg)
    return re.sub(r'(\bid="|\bhref="#|\burl\(#)', rf"\1{name}-", svg)


def stem(one: Fit, among: list[Fit]) -> str:
    """A curve's label as a part of a file's name, numbered where another's would be the same."""
    plain = ["".join(c if c.isalnum() else "_" for c in fit.curve.label) for fit in among]
    at = next(i for i, fit in enumerate(among) if fit is one)
    return plain[at] + (f"_{plain[:at].count(plain[at]) + 1}" if plain.count(plain[at]) > 1 else "")


def short_name(one: Fit) -> str:
    """A curve's name, cut to what a legend holds."""
    name = one.curve.name
    return name if len(name) <= 32 else f"{name[:31]}…"


def legend(axes: Axes, fits: list[Fit]) -> None:
    """A legend inside the axes, or below them where there are many curves."""
    if len(fits) <= 6:
        axes.legend()
    else:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, fontsize=6)


def set_bar(axes: Axes, found: Cheapest, height: float, colour: str) -> None:
    """The 95 % set of a batch size as a bar with its estimate, an arrow at an open end. height: a part of the axes'."""
    across = axes.get_xaxis_transform()
    axes.plot([found.low, found.high], [height] * 2, color=colour, lw=3, alpha=0.6, transform=across, zorder=4)
    axes.plot(found.b_star, height, marker="|", ms=9, mew=2, color=colour, transform=across, zorder=5)
    for is_open, end, mark in ((found.open_low, found.low / 1.05, "<"), (found.open_high, found.high * 1.05, ">")):
        if is_open:
            axes.plot(end, height, marker=mark, ms=6, color=colour, transform=across, zorder=5)


def target(fits: list[Fit]) -> str:
    """What these curves' steps lead to, as in "target: FID ≤ 4, 5"."""
    found: dict[str, list[float]] = {}
    for one in fits:
        if one.curve.threshold is not None:
            found.setdefault(one.curve.side, []).append(one.curve.threshold)
    told = (f"{side} {', '.join(f'{t:g}' for t in sorted(set(known)))}" for side, known in found.items())
    return f"target: {'; '.join(told)}" if found else ""


def titles(fits: list[Fit]) -> str:
    """What the values of these curves are of, as in "FID"."""
    return ", ".join(dict.fromkeys(one.curve.metric.title for one in fits if one.curve.metric)) or "value"


def sfo(fits: list[Fit]) -> str:
    """What gradients are: N·b, or so many times that where a step takes more than one per image of its batch."""
    return "N(b)·b" if all(one.curve.gradients == 1 for one in fits) else "(gradients)"


def size_ticks(axes: Axes, fits: list[Fit]) -> None:
    """Ticks at the batch sizes that were swept, thinned to ten, and plain numbers on both axes."""
    sizes = sorted({b for one in fits for b in one.curve.batch_sizes})
    axes.set_xticks(sizes[:: -(-len(sizes) // 10)])
    axes.xaxis.set_minor_locator(NullLocator())
    plain_ticks(axes)
    if not np.isfinite(axes.dataLim.intervaly).all() or axes.dataLim.intervaly[1] <= 0:
        axes.set(ylim=(1, 10), xlim=(sizes[0] / 1.6, sizes[-1] * 1.6))
        axes.text(0.5, 0.5, "no run reached its target", transform=axes.transAxes, ha="center", color=FAINT)


def power_ticks(axes: Axes, low: float, high: float) -> None:
    """Powers of two on x, between two batch sizes."""
    first, last = int(np.floor(np.log2(low))), int(np.ceil(np.log2(high)))
    step = -(-(last - first + 1) // 8)
    axes.set(xscale="log", xlim=(low, high))
    ticks = [2.0**k for k in range(first, last + 1, step) if low <= 2.0**k <= high]
    if len(ticks) < 3:  # hardly more than an octave: numbers in between
        ticks = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))


def plain_ticks(axes: Axes) -> None:
    """Numbers as people write them: whole decades on x, also twos and fives on y; more where a decade isn't shown."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: _between(v, *axes.get_xlim(), "", "25")))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: _between(v, *axes.get_ylim(), "25", "12345678")))


def _between(value: float, low: float, high: float, usual: str, narrow: str) -> str:
    """A minor tick's number, if it begins with a usual digit; `narrow` ones where less than a decade is shown."""
    return _plain(value, None) if f"{value:e}"[0] in (usual if high > 10 * low else narrow) else ""


def _plain(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
