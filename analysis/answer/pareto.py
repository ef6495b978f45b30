"""Time to the target against what it costs: which batch sizes nobody would leave for another."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.fitting.costs import Cost, Costs, front
from analysis.fitting.fit import Fit
from analysis.fitting.models import Array
from analysis.output import canvas
from analysis.output.canvas import COLOURS, FAINT, INK, MARKERS


def everything(fits: list[Fit]) -> dict[str, Figure]:
    """By name: against gradients, and against device hours and energy where these are other costs and are known."""
    figures = {}
    for name in ("gradients", "hours", "energy"):
        able = [one for one in fits if one.costs and "time" in one.costs.known and _able(one, one.costs, name)]
        if able:
            figures["pareto" if name == "gradients" else f"pareto_{name}"] = against(able, name)
    return figures


def _able(one: Fit, costs: Costs, name: str) -> bool:
    """Whether there are two batch sizes to choose from."""
    return len(costs.known["time"].points) > 1 and (name == "gradients" or name in costs.known)


def against(fits: list[Fit], name: str) -> Figure:
    """One panel per curve: each size's median run and its seeds, the front, the median curve, and where each is least.

    name: gradients, hours or energy. Every fit has costs of that name.
    """
    columns = min(len(fits), 3)
    rows = -(-len(fits) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.3 * columns, 3.0 * rows + 0.4) if len(fits) > 1 else (4.8, 4.0),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    titles = {"gradients": "gradients (SFO)", "energy": "energy, Wh"}
    for i, (axes, one) in enumerate(zip(grid.flat, fits, strict=False)):
        assert one.costs is not None
        _panel(axes, one, one.costs, name, i)
        title = titles.setdefault(name, one.costs.unit_of_hours)
        likewise = "" if "hours" in one.costs.known else f" ({one.costs.unit_of_hours} likewise)"
        axes.set_xlabel(title if i + columns >= len(fits) else "")
        axes.set_ylabel(f"time to target, s{likewise}" if i % columns == 0 else "")
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(fits) :]:
        axes.remove()
    lines = (("", "-", 2.2, "front"), ("", "--", 0.9, "median curve"))
    keys = (*lines, ("*", "", 0, f"least {titles[name]}"), ("D", "", 0, "least time"))
    for marker, dashes, width, text in keys:
        face = "white" if marker == "D" else FAINT
        grid[0, 0].plot([], [], marker=marker, ls=dashes, lw=width, ms=7, color=FAINT, mec=INK, mfc=face, label=text)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4 if len(fits) > 1 else 2,
        handlelength=1.6,
    )
    return figure


def _panel(axes: Axes, one: Fit, costs: Costs, name: str, index: int) -> None:
    colour, marker, time = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], costs.known["time"]
    price = costs.known.get(name)
    points = pd.DataFrame({"y": time.points, "x": _points(one) if price is None else price.points}).dropna()
    runs = time.runs.assign(x=_gradients(one, time.runs) if price is None else price.runs["cost"])
    axes.plot(runs["x"], runs["cost"], ls="", marker=marker, ms=2.5, mew=0, color=colour, alpha=0.45)
    x, y = points["x"].to_numpy(float), points["y"].to_numpy(float)
    best = front(x, y)
    axes.plot(x[best], y[best], color=colour, lw=2.2, alpha=0.8, zorder=2)
    faces = [colour if i in best else "white" for i in range(len(x))]
    axes.scatter(x, y, marker=marker, s=30, c=faces, edgecolors=colour, linewidths=1.1, zorder=3)
    for b, at_x, at_y in zip(points.index, x, y, strict=True):
        axes.annotate(
            f"{b:g}", (at_x, at_y), xytext=(6, 4), textcoords="offset points", fontsize=7, color=INK, zorder=6
        )
    _curve(axes, one, price, time, colour)
    axes.set(xscale="log", yscale="log")
    axes.set_title(canvas.short_name(one))
    axes.margins(0.12)
    canvas.plain_ticks(axes)


def _points(one: Fit) -> pd.Series:
    medians = one.curve.medians()
    return medians * medians.index.to_numpy(float) * one.curve.gradients


def _gradients(one: Fit, runs: pd.DataFrame) -> pd.Series:
    return runs["steps"] * runs["batch_size"] * one.curve.gradients


def _curve(axes: Axes, one: Fit, price: Cost | None, time: Cost, colour: str) -> None:
    """The posterior's median curve over the sizes that arrived, and where each of the two costs is least on it."""
    dearest = one.cheapest if price is None else price.cheapest
    if dearest is None or time.cheapest is None:
        return
    sizes = time.points.index.to_numpy(float)

    def costs(b: Array) -> tuple[Array, Array]:
        steps = one.predict(b)
        return steps * (one.curve.gradients * b if price is None else price.of_a_step(b)), steps * time.of_a_step(b)

    ends = [sizes[0], sizes[-1], dearest.b_star, time.cheapest.b_star]
    axes.plot(*costs(np.geomspace(min(ends), max(ends), 300)), ls="--", lw=0.9, color=colour)
    for at, marker, size, face in ((dearest.b_star, "*", 11, colour), (time.cheapest.b_star, "D", 6, "white")):
        axes.plot(*costs(np.array([at])), marker=marker, ms=size, mfc=face, mec=INK, mew=0.9, ls="", zorder=5)
