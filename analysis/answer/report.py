"""One page that says it all: python -m analysis report STUDY."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import yaml

from analysis.answer import figures, predict, summary
from analysis.answer.notes import notes
from analysis.answer.sentences import apart, explained, prices, sentence
from analysis.answer.source import Source
from analysis.curves.studies import Run, trajectories
from analysis.fitting.fit import Fit
from analysis.output import canvas
from analysis.output.pages import environment
from analysis.output.tables import write_tables
from analysis.theory.carried import Theory, theory
from cbs import __version__
from cbs.errors import InputError
from cbs.outcome import told
from cbs.record import write_atomic

_CAPTIONS = {
    "steps_to_target": "Steps-to-target: every run (small), medians (large), the posterior's median curve with its "
    "95 % band; the paper's form as a thin line.",
    "sfo": "SFO complexity against batch size: medians, the posterior's median curve, b* with its 95 % set (bar, with "
    "an arrow where it reaches an edge of the sweep), the sizes that are as good (shaded), the measured b* (star).",
    "estimated": "b*, measured and with its 95 % set, and what the closed forms estimate with one r carried over.",
    "pareto": "Time to the target against its gradients: runs (small), medians (large, named by b), the front of those "
    "that no other batch size beats in both, and where the median curve has the least of each.",
    "pareto_hours": "The same against hours of devices, which runs that share one divide among them.",
    "pareto_energy": "The same against the energy that the device drew.",
    "posterior": "Where b* lies, by its posterior; the bar is its 95 % set.",
    "probability": "How likely each swept size is to cost the fewest gradients of them all.",
    "targets": "b* against the threshold; crossings of easier ones are read off trajectories, unconfirmed.",
    "forms": "Forms of N(b), the preferred first.",
    "crossings": "Trajectories near the target and the bracket in which each run crossed it.",
    "metric": "The metric against steps: medians over seeds, every run faint.",
}
_GROUPS = {
    "The paper's figures": ("metric", "steps_to_target", "sfo", "estimated"),
    "What it costs": ("pareto",),
    "How sure": ("posterior", "probability", "targets", "forms", "crossings"),
}


def write(
    out: Path,
    sources: Sequence[Source],
    thresholds: dict[float, list[Fit]],
    reference: str | None,
    command: Sequence[str],
) -> list[Path]:
    """Write the page, and its tables as CSV and LaTeX into tables/ beside it; return the files."""
    fits = [one for source in sources for one in source.fits]
    evaluations = trajectories([run for source in sources for run in source.runs])
    found, pairs = theory(fits, reference), summary.differences(fits)
    tables = summary.tables(fits, found, pairs)
    if any(source.runs for source in sources):
        tables.append(predict.table(predict.predict(sources, found), predict.unit(sources)))
    page = (
        environment("analysis.answer")
        .get_template("report.html.j2")
        .render(
            title=" and ".join(source.path.stem for source in sources),
            runs=sum(len(one.curve.frame) for one in fits),
            curves=[{"name": one.curve.name, "verdict": _rest(one), "notes": _notes(one)} for one in fits],
            differences=[f"{apart(pair)}." for pair in pairs],
            arriving=[table for table in [summary.arriving(fits)] if table.rows],
            figures=_figures(fits, evaluations, thresholds, found),
            tables=[table for table in tables if table.name != "arriving"],
            theory=explained(found) if found else "",
            grids=[grid for source in sources for grid in _grids(source)],
            trials=[trial for source in sources for trial in _trials(source, out.parent)],
            version=__version__,
            command=shlex.join(command),
        )
    )
    write_atomic(out, page.encode())
    return [out, *write_tables(tables, out.parent / "tables")]


def _notes(one: Fit) -> list[str]:
    return [*notes(one), *(price.removeprefix(f"{one.curve.name}: ") for price in prices(one))]


def _rest(one: Fit) -> str:
    """The verdict's sentence after the curve's name."""
    return sentence(one).removeprefix(one.curve.name)


def _figures(
    fits: list[Fit], evaluations: dict[str, pd.DataFrame], thresholds: dict[float, list[Fit]], found: Theory | None
) -> list[dict[str, Any]]:
    with plt.rc_context(canvas.STYLE):
        made = figures.everything(fits, evaluations, thresholds, found)
        drawn = {name: canvas.inline(figure, name) for name, figure in made.items()}
    groups = []
    for title, kinds in _GROUPS.items():
        chosen = [(name, kind) for kind in kinds for name in drawn if name == kind or name.startswith(f"{kind}_")]
        if chosen:
            shown = [{"name": n, "svg": drawn[n], "caption": _CAPTIONS.get(n, _CAPTIONS[kind])} for n, kind in chosen]
            groups.append({"title": title, "figures": shown})
    return groups


def _grids(source: Source) -> list[dict[str, Any]]:
    """For each curve, what its generator drew along the first seed's training at the size likeliest to be cheapest."""
    found = []
    for one in source.fits:
        if one.cheapest is None:
            continue
        likeliest = int(one.cheapest.sizes[one.cheapest.probability.argmax()])
        here = [r for r in source.runs if r.group == one.curve.group and r.batch_size == likeliest]
        if not here:
            continue
        run = min(here, key=lambda r: r.folder.seed)
        kept = [(int(p.stem), p) for p in sorted((run.folder.path / "samples").glob("*.png"))]
        last = run.folder.path / "samples.png"
        if last.exists():
            kept = [*(k for k in kept if k[0] < run.result.last_step), (run.result.last_step, last)]
        images = [{"step": step, "png": path.read_bytes()} for step, path in kept]
        if images:
            found.append(
                {"name": one.curve.name, "batch_size": run.batch_size, "seed": run.folder.seed, "images": images}
            )
    return found


def _trials(source: Source, beside: Path) -> list[dict[str, Any]]:
    names = {one.curve.group: one.curve.name for one in source.fits}
    trials: dict[str, dict[str, Any]] = {}
    for run in sorted(source.runs, key=lambda r: (names.get(r.group, ""), r.batch_size, r.folder.seed)):
        trial = trials.setdefault(
            run.folder.key,
            {
                "name": names.get(run.group, run.config["optimizer"]["name"]),
                "batch_size": run.batch_size,
                "key": run.folder.key,
                "command": run.command(),
                "config": yaml.safe_dump(run.config, sort_keys=False),
                "runs": [],
            },
        )
        link = Path(os.path.relpath(run.folder.path, beside)).as_posix()
        trial["runs"].append({"seed": run.folder.seed, "told": _told(run), "link": link})
    return list(trials.values())


def _told(run: Run) -> str:
    return f"{run.metric.title} {told(run.result.outcomes, run.metric)}"


def refuse_folder(out: Path) -> None:
    """Raises InputError where the page would have to replace a folder."""
    if out.is_dir():
        raise InputError(f"out is {out}: name the page's file, as in {out / 'report.html'}.")
