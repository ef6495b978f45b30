"""The command line: `python -m analysis fit | compare | predict | plots | report | targets | estimate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cbs.errors import InputError

if TYPE_CHECKING:
    from analysis.curves import Curve
    from analysis.fit import Fit
    from analysis.studies import Source


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input (one sentence on stderr)."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.run(given)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What a study's trials say.")
    commands = parser.add_subparsers(required=True, metavar="command")

    fit = commands.add_parser("fit", help="fit N(b) and report b* per curve")
    _sources(fit)
    fit.add_argument("--json", action="store_true", help='one object, {"curves": [...], "differences": [...]}')
    fit.add_argument("--tables", type=Path, metavar="FOLDER", help="also write every table as CSV and LaTeX")
    fit.set_defaults(run=_fit)

    compare = commands.add_parser("compare", help="a study's arms: what a target costs each, and which pairs differ")
    compare.add_argument("study", type=Path, help="a study's folder, as in results/quickstart")
    compare.add_argument("--thresholds", help="numbers between commas (default: the study's, and some on the way)")
    compare.add_argument("--metric", help="another than the target's, recorded beside it (target.extra)")
    compare.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="some arms only: 'adam b=16' 'rmsprop *'")
    compare.add_argument("--json", action="store_true", help="one object instead of text, figures and page")
    compare.add_argument("--out", type=Path, help="folder for compare.html and figures/ (default: STUDY)")
    compare.set_defaults(run=_compare)

    predict = commands.add_parser(
        "predict", help="b* measured, fitted, by closed form and by noise scale; what each costs"
    )
    predict.add_argument("study", nargs="+", type=Path, help="studies' folders, as in results/quickstart")
    predict.add_argument("--threshold", type=float, help="which of a study's thresholds (default: the lowest shared)")
    predict.add_argument("--reference", help="the curve or optimizer that r comes from (default: adam)")
    predict.add_argument("--json", action="store_true", help='one object, {"unit": …, "answers": […], "note": …}')
    predict.set_defaults(run=_predict, csv=[], growing_spread=False)

    plots = commands.add_parser("plots", help="draw the figures as PNG and SVG")
    _sources(plots)
    plots.add_argument("--out", type=Path, help="folder for the figures (default: STUDY/figures)")
    plots.set_defaults(run=_plots)

    report = commands.add_parser("report", help="one self-contained HTML page")
    _sources(report)
    report.add_argument("--out", type=Path, help="the page (default: STUDY/report.html)")
    report.set_defaults(run=_report)

    targets = commands.add_parser("targets", help="b* as a function of the threshold, read off the trajectories")
    targets.add_argument("study", type=Path, help="a study's folder, as in results/quickstart")
    targets.add_argument("--thresholds", required=True, help="numbers between commas, as in 40,50,60")
    targets.add_argument("--out", type=Path, help="folder for the figure and the table (default: STUDY/figures)")
    targets.set_defaults(run=_targets)

    estimate = commands.add_parser("estimate", help="the closed forms: r from b*, or b* from r")
    estimate.add_argument("--optimizer", required=True, help="adam, adabelief or rmsprop")
    estimate.add_argument("--lr", type=float, required=True, help="the generator's learning rate")
    estimate.add_argument("--beta1", type=float, default=0.5)
    estimate.add_argument("--beta2", type=float, default=0.999)
    estimate.add_argument("--params", type=int, required=True, help="the generator's parameters")
    estimate.add_argument("--dataset-size", type=int, required=True, help="images in the data set")
    known = estimate.add_mutually_exclusive_group(required=True)
    known.add_argument("--b-star", type=float, help="a measured b*: prints r")
    known.add_argument("--ratio", type=float, help="r = σ²/ε³: prints b*")
    estimate.add_argument("--ci", type=float, nargs=2, metavar=("LOW", "HIGH"), help="its interval, carried through")
    estimate.add_argument("--json", action="store_true")
    estimate.set_defaults(run=_estimate)
    return parser


def _sources(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", nargs="*", type=Path, help="studies' folders, as in results/quickstart")
    command.add_argument(
        "--csv",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a CSV or Parquet file with columns batch_size, steps, outcome (see README)",
    )
    command.add_argument("--threshold", type=float, help="which of a study's thresholds (default: the lowest shared)")
    command.add_argument("--reference", help="the curve or optimizer that r comes from (default: adam)")
    command.add_argument("--growing-spread", action="store_true", help="let the spread between seeds grow towards b0")


def _read(given: argparse.Namespace) -> list[Source]:
    """Every source with its curves fitted; where there are several, labels begin with the source's name."""
    from analysis.curves import from_file
    from analysis.fit import fit_all
    from analysis.studies import Source, from_runs, read_study

    paths = _paths(given)
    sources = []
    several = len(paths) > 1
    stems = [path.stem for path in paths]
    for path in paths:
        runs = read_study(path) if path in given.study else []
        curves = from_runs(runs, path, given.threshold) if runs else _at(from_file(path), path, given.threshold)
        name = path.stem if stems.count(path.stem) == 1 else str(path)
        for curve in curves:
            curve.label = f"{name}: {curve.name}" if several else curve.label
        sources.append(Source(path, fit_all(curves, given.growing_spread), runs))
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
    from analysis import answer, summary
    from analysis.tables import write_tables
    from analysis.theory import theory

    fits = [one for source in _read(given) for one in source.fits]
    found, pairs = theory(fits, given.reference), summary.differences(fits)
    if given.tables:
        write_tables(summary.tables(fits, found, pairs), given.tables)
    if given.json:
        print(json.dumps(answer.to_dict(fits, found, pairs), indent=2))
    else:
        print(answer.text(fits, found, pairs))


def _compare(given: argparse.Namespace) -> None:
    from analysis import compare

    asked = None if given.thresholds is None else _numbers(given.thresholds)
    found = compare.compare(given.study, asked, given.metric, given.arms)
    if given.json:
        print(json.dumps(compare.as_json(found), indent=2))
        return
    written = compare.write(found, given.out or given.study, ["python", "-m", "analysis", *sys.argv[1:]])
    print(f"{compare.text(found)}\n\nfigures in {written.parent / 'figures'}, page: {written}")


def _predict(given: argparse.Namespace) -> None:
    from analysis import predict
    from analysis.theory import theory

    sources = _read(given)
    found = theory([one for source in sources for one in source.fits], given.reference)
    answers, unit = predict.predict(sources, found), predict.unit(sources)
    print(json.dumps(predict.to_dict(answers, unit), indent=2) if given.json else predict.text(answers, unit))


def _plots(given: argparse.Namespace) -> None:
    from analysis import answer, figures, summary
    from analysis.studies import trajectories
    from analysis.theory import theory

    sources = _read(given)
    fits = [one for source in sources for one in source.fits]
    found = theory(fits, given.reference)
    folder = given.out or _beside(given) / "figures"
    evaluations = trajectories([run for source in sources for run in source.runs])
    drawn = figures.draw(fits, evaluations, _at_thresholds(sources, given.growing_spread), found, folder)
    print(answer.text(fits, found, summary.differences(fits)))
    names = [path.stem for path in drawn if path.suffix == ".png"]
    print(f"\nfigures in {folder}, as PNG and SVG: {', '.join(names)}")


def _report(given: argparse.Namespace) -> None:
    from analysis import answer, report

    out = given.out or _beside(given) / "report.html"
    report.refuse_folder(out)
    sources = _read(given)
    command = ["python", "-m", "analysis", *sys.argv[1:]]
    thresholds = _at_thresholds(sources, given.growing_spread)
    report.write(out, sources, thresholds, given.reference, command)
    for source in sources:
        for one in source.fits:
            print(answer.sentence(one))
    print(f"\nreport: {out}")


def _beside(given: argparse.Namespace) -> Path:
    first = _paths(given)[0]
    return first if given.study else first.parent


def _at_thresholds(sources: list[Source], growing_spread: bool) -> dict[float, list[Fit]]:
    """One study's fits at its threshold and at a quarter octave to an octave above, for the figure."""
    if len(sources) != 1 or not sources[0].runs:
        return {}
    source = sources[0]
    from analysis.fit import fit_all
    from analysis.targets import curves_at

    lowest = max(min(run.result.outcomes) for run in source.runs)
    thresholds = [lowest, *(float(f"{lowest * 2**k:.3g}") for k in (0.25, 0.5, 0.75, 1))]
    return {t: fit_all(curves_at(source.runs, source.path, t), growing_spread) for t in thresholds}


def _targets(given: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt

    from analysis import canvas, diagnostics
    from analysis.fit import fit_all
    from analysis.studies import read_study
    from analysis.tables import write_tables
    from analysis.targets import curves_at, table

    thresholds = _numbers(given.thresholds)
    runs = read_study(given.study)
    at, smooth = (
        {t: fit_all(curves_at(runs, given.study, t, smoothed)) for t in thresholds} for smoothed in (False, True)
    )
    made = table(at, smooth)
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
    from analysis.bounds import estimated, factor

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


if __name__ == "__main__":
    sys.exit(main())
