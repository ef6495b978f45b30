"""The command line: `python -m analysis fit | estimate | plots`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cbs.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input (one sentence on stderr)."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except InputError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"analysis: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What a study's trials say.")
    commands = parser.add_subparsers(required=True, metavar="command")

    fit = commands.add_parser("fit", help="fit N(b) and report b* per curve")
    _source(fit)
    fit.add_argument("--json", action="store_true", help='one object, {"curves": [...]}')
    fit.set_defaults(run=_fit)

    plots = commands.add_parser("plots", help="draw the figures as PNG and SVG")
    _source(plots)
    plots.add_argument("--out", type=Path, help="folder for the figures (default: STUDY/figures)")
    plots.set_defaults(run=_plots)

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
    estimate.add_argument("--json", action="store_true")
    estimate.set_defaults(run=_estimate)
    return parser


def _source(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("study", nargs="?", type=Path, help="a study's folder, as in results/quickstart")
    source.add_argument(
        "--csv", type=Path, help="columns batch_size, steps, outcome and optionally seed, lower, optimizer"
    )
    command.add_argument("--threshold", type=float, help="which of a study's thresholds (default: the lowest)")


def _fits(given: argparse.Namespace) -> list:
    from analysis.curves import from_csv, from_study
    from analysis.fit import fit

    curves = from_csv(given.csv) if given.csv else from_study(given.study, given.threshold)
    return [fit(curve) for curve in curves]


def _fit(given: argparse.Namespace) -> None:
    from analysis import report

    fits = _fits(given)
    print(json.dumps(report.to_dict(fits), indent=2) if given.json else report.text(fits))


def _plots(given: argparse.Namespace) -> None:
    from analysis import figures, report
    from analysis.curves import trajectories

    fits = _fits(given)
    folder = given.out or (given.csv.parent if given.csv else given.study) / "figures"
    evaluations = None if given.csv else trajectories(given.study)
    drawn = figures.draw(fits, evaluations, folder)
    print(report.text(fits))
    print("\nfigures:")
    for path in drawn:
        print(f"  {path}")


def _estimate(given: argparse.Namespace) -> None:
    from analysis.bounds import factor, power_of_two

    known = factor(given.optimizer, given.lr, given.params, given.dataset_size, given.beta1, given.beta2)
    for name in ("b_star", "ratio"):
        value = getattr(given, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name.replace('_', '-')} is {value!r}: it must be a finite number above 0.")
    if given.b_star is not None:
        answer = {"ratio": given.b_star / known}
    else:
        answer = {"b_star": given.ratio * known, "power_of_two": power_of_two(max(given.ratio * known, 1.0))}
    print(json.dumps(answer) if given.json else "  ".join(f"{k} = {v:.4g}" for k, v in answer.items()))


if __name__ == "__main__":
    sys.exit(main())
