"""The arguments of `python -m analysis`."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.fitting.cheapest import AS_GOOD


def parser() -> argparse.ArgumentParser:
    """What may be typed after `python -m analysis`; `command` says which."""
    whole = argparse.ArgumentParser(prog="python -m analysis", description="What a study's trials say.")
    commands = whole.add_subparsers(required=True, metavar="command", dest="command")

    fit = commands.add_parser("fit", help="b* per curve, with its 95 %% set")
    _sources(fit)
    fit.add_argument("--json", action="store_true", help='one object, {"curves": [...], "differences": [...]}')
    fit.add_argument("--tables", type=Path, metavar="FOLDER", help="also write every table as CSV and LaTeX")

    compare = commands.add_parser("compare", help="a study's arms: what a target costs each, and which pairs differ")
    compare.add_argument("study", type=Path, help="a study's folder, as in results/quickstart")
    compare.add_argument("--thresholds", help="numbers between commas (default: the study's, and some on the way)")
    compare.add_argument("--metric", help="another than the target's, recorded beside it (target.extra)")
    compare.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="some arms only: 'adam b=16' 'rmsprop *'")
    compare.add_argument("--json", action="store_true", help="one object instead of text, figures and page")
    compare.add_argument("--out", type=Path, help="folder for compare.html and figures/ (default: STUDY)")

    predict = commands.add_parser(
        "predict", help="b*, measured, by the paper's and the closed form, by noise scale; what each costs"
    )
    predict.add_argument("study", nargs="+", type=Path, help="studies' folders, as in results/quickstart")
    predict.add_argument("--threshold", type=float, help="which of a study's thresholds (default: the hardest shared)")
    predict.add_argument("--reference", help="the curve or optimizer that r comes from (default: adam)")
    predict.add_argument("--json", action="store_true", help='one object, {"unit": …, "answers": […], "note": …}')
    predict.set_defaults(csv=[], growing_spread=False, within=AS_GOOD)

    plots = commands.add_parser("plots", help="draw the figures as PNG and SVG")
    _sources(plots)
    plots.add_argument("--out", type=Path, help="folder for the figures (default: STUDY/figures)")

    report = commands.add_parser("report", help="one self-contained HTML page")
    _sources(report)
    report.add_argument("--out", type=Path, help="the page (default: STUDY/report.html)")

    targets = commands.add_parser("targets", help="b* as a function of the threshold, read off the trajectories")
    targets.add_argument("study", type=Path, help="a study's folder, as in results/quickstart")
    targets.add_argument("--thresholds", required=True, help="numbers between commas, as in 40,50,60")
    targets.add_argument("--out", type=Path, help="folder for the figure and the table (default: STUDY/figures)")

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
    return whole


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
    command.add_argument("--threshold", type=float, help="which of a study's thresholds (default: the hardest shared)")
    command.add_argument("--reference", help="the curve or optimizer that r comes from (default: adam)")
    command.add_argument(
        "--within", type=float, default=AS_GOOD, help="how much dearer than the least is as good (default: %(default)s)"
    )
    command.add_argument(
        "--growing-spread", action="store_true", help="let the spread between seeds of the paper's form grow towards b0"
    )
