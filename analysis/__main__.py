"""The command line: `python -m analysis fit | compare | predict | plots | report | targets | estimate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from analysis.answer import numbers, predict, sentences, summary
from analysis.answer.source import Source
from analysis.arguments import parser
from analysis.compare import report as comparison
from analysis.curves.curve import Curve
from analysis.curves.files import from_file
from analysis.curves.studies import from_runs, read_study, trajectories
from analysis.curves.targets import curves_at
from analysis.fitting.fit import Fit, fit_all
from analysis.output.tables import write_tables
from analysis.theory.carried import theory
from analysis.theory.closed_forms import estimated, factor
from cbs.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input (one sentence on stderr)."""
    given = parser().parse_args(arguments)
    try:
        _COMMANDS[given.command](given)
    except InputError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, as `| head` has
        sys.stdout = None
        return 0
    except OSError as error:
        print(f"analysis: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _read(given: argparse.Namespace) -> list[Source]:
    """Every source with its curves fitted; where there are several, labels begin with the source's name."""
    paths = _paths(given)
    if not 0 < given.within < float("inf"):
        raise InputError(f"within is {given.within!r}: it must be a finite number above 0, as in 0.10.")
    sources = []
    several = len(paths) > 1
    stems = [path.stem for path in paths]
    for path in paths:
        runs = read_study(path) if path in given.study else []
        curves = from_runs(runs, path, given.threshold) if runs else _at(from_file(path), path, given.threshold)
        name = path.stem if stems.count(path.stem) == 1 else str(path)
        for curve in curves:
            curve.label = f"{name}: {curve.name}" if several else curve.label
        on_curves = [run for run in runs if run.on_a_curve]
        sources.append(Source(path, fit_all(curves, given.within, given.growing_spread), on_curves))
    return sources


def _at(curves: list[Curve], path: Path, threshold: float | None) -> list[Curve]:
    """A file's curves at one threshold, where one is asked for."""
    if threshold is None:
        return curves
    found = [curve for curve in curves if curve.threshold == threshold]
    if not found:
        known = sorted({curve.threshold for curve in curves if curve.threshold is not None})
        allowed = ", ".join(f"{t:g}" for t in known) or "none, for lack of a column `threshold`"
        raise InputError(f"threshold is {threshold:g}: {path} has {allowed}.")
    return found


def _paths(given: argparse.Namespace) -> list[Path]:
    paths = [*given.study, *given.csv]
    if not paths:
        raise InputError("nothing to analyse: give a study's folder, as in results/quickstart, or --csv FILE.")
    return paths


def _fit(given: argparse.Namespace) -> None:
    fits = [one for source in _read(given) for one in source.fits]
    found, pairs = theory(fits, given.reference), summary.differences(fits)
    if given.tables:
        write_tables(summary.tables(fits, found, pairs), given.tables)
    if given.json:
        print(json.dumps(numbers.to_dict(fits, found, pairs), indent=2))
    else:
        print(sentences.text(fits, found, pairs))


def _compare(given: argparse.Namespace) -> None:
    asked = None if given.thresholds is None else _numbers(given.thresholds)
    found = comparison.compare(given.study, asked, given.metric, given.arms)
    if given.json:
        print(json.dumps(comparison.as_json(found), indent=2))
        return
    written = comparison.write(found, given.out or given.study, ["python", "-m", "analysis", *sys.argv[1:]])
    print(f"{comparison.text(found)}\n\nfigures in {written.parent / 'figures'}, page: {written}")


def _predict(given: argparse.Namespace) -> None:
    sources = _read(given)
    found = theory([one for source in sources for one in source.fits], given.reference)
    answers, unit = predict.predict(sources, found), predict.unit(sources)
    print(json.dumps(predict.to_dict(answers, unit), indent=2) if given.json else predict.text(answers, unit))


def _plots(given: argparse.Namespace) -> None:
    from analysis.answer import figures  # in here: the other commands start without matplotlib

    sources = _read(given)
    fits = [one for source in sources for one in source.fits]
    found = theory(fits, given.reference)
    folder = given.out or _beside(given) / "figures"
    evaluations = trajectories([run for source in sources for run in source.runs])
    drawn = figures.draw(fits, evaluations, _at_thresholds(sources), found, folder)
    print(sentences.text(fits, found, summary.differences(fits)))
    names = [path.stem for path in drawn if path.suffix == ".png"]
    print(f"\nfigures in {folder}, as PNG and SVG: {', '.join(names)}")


def _report(given: argparse.Namespace) -> None:
    from analysis.answer import report  # in here: the other commands start without matplotlib and jinja2

    out = given.out or _beside(given) / "report.html"
    report.refuse_folder(out)
    sources = _read(given)
    command = ["python", "-m", "analysis", *sys.argv[1:]]
    thresholds = _at_thresholds(sources)
    report.write(out, sources, thresholds, given.reference, command)
    for source in sources:
        for one in source.fits:
            print(sentences.sentence(one))
    print(f"\nreport: {out}")


def _beside(given: argparse.Namespace) -> Path:
    first = _paths(given)[0]
    return first if given.study else first.parent


def _at_thresholds(sources: list[Source]) -> dict[float, list[Fit]]:
    """One study's fits at its threshold and at a quarter octave to an octave easier, for the figure.

    No thresholds where its curves have targets of several metrics.
    """
    if len(sources) != 1 or len({run.metric for run in sources[0].runs}) != 1:
        return {}
    source = sources[0]
    metric = source.runs[0].metric
    hardest = metric.ordered(run.hardest for run in source.runs)[0]
    octaves = [-k if metric.rising else k for k in (0.25, 0.5, 0.75, 1)]
    thresholds = [hardest, *(float(f"{hardest * 2**k:.3g}") for k in octaves)]
    asked = source.fits[0]
    return {t: fit_all(curves_at(source.runs, source.path, t), asked.margin, asked.growing_spread) for t in thresholds}


def _targets(given: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt  # in here: the other commands start without matplotlib

    from analysis.answer import diagnostics
    from analysis.output import canvas

    thresholds = _numbers(given.thresholds)
    runs = read_study(given.study)
    at, smooth = (
        {t: fit_all(curves_at(runs, given.study, t, smoothed)) for t in thresholds} for smoothed in (False, True)
    )
    made = summary.thresholds(at, smooth)
    folder = given.out or given.study / "figures"
    with plt.rc_context(canvas.STYLE):
        drawn = canvas.save(diagnostics.against_threshold(at), folder / "targets")
    print(made.title)
    print(made.text())
    print()
    for path in (*drawn, *write_tables([made], folder)):
        print(f"  {path}")


def _numbers(text: str) -> list[float]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < value < float("inf") for value in found):
        raise InputError(f"thresholds is {text!r}: numbers above 0 between commas, as in 40,50,60.")
    return found


def _estimate(given: argparse.Namespace) -> None:
    answer = estimated(
        factor(given.optimizer, given.lr, given.params, given.dataset_size, given.beta1, given.beta2),
        given.b_star,
        given.ratio,
        given.ci,
    )
    told = (
        f"{k} = {v:.4g}" if isinstance(v, int | float) else f"{k} = {v[0]:.4g}–{v[1]:.4g}" for k, v in answer.items()
    )
    print(json.dumps(answer) if given.json else "  ".join(told))


_COMMANDS = {
    "fit": _fit,
    "compare": _compare,
    "predict": _predict,
    "plots": _plots,
    "report": _report,
    "targets": _targets,
    "estimate": _estimate,
}


if __name__ == "__main__":
    sys.exit(main())
