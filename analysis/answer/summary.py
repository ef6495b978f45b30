"""What fits say, as tables: curves, theory, forms, differences, costs, thresholds, outcomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from analysis.fitting.difference import Difference, difference
from analysis.fitting.fit import Fit
from analysis.fitting.forms import Form
from analysis.output.tables import Cell, Table, number, share, short, with_interval, words
from analysis.theory.carried import Theory
from cbs.outcome import METRICS

MOST_IN_PAIRS = 12


def _named(one: Fit) -> Cell:
    return Cell(one.curve.name, one.curve.label)


def curves(fits: list[Fit]) -> Table:
    """One row per curve: what was run and what the fit says."""
    table = Table(
        "curves",
        "b* measured (least median N·b) and fitted (N∞ b/(b − b0)), with 95 % profile-likelihood intervals.",
        [
            "curve",
            "target",
            "runs",
            "censored",
            "diverged",
            "measured b*",
            "fitted b* (95 %)",
            "N∞ (95 %)",
            "SFO at b* (95 %)",
            "σ",
        ],
    )
    for one in fits:
        table.add(
            _named(one),
            Cell(one.curve.target or "–", one.curve.threshold),
            number(len(one.curve.frame)),
            number(one.censored),
            number(one.diverged),
            number(one.measured_b_star, power=True),
            number(one.b_star, one.b_star_ci, power=True),
            number(one.n_inf, one.n_inf_ci),
            number(one.sfo, one.sfo_ci),
            number(one.hyperbola.sigma),
        )
    return table


def theories(fits: list[Fit], found: Theory | None) -> Table:
    """Measured, fitted and estimated b*, and A, B, C under ε² − C = 1."""
    table = Table(
        "theory",
        "Measured, fitted and estimated b*, and A, B of N = A b/((ε² − C) b − B) normalised to ε² − C = 1.",
        ["curve", "measured b*", "fitted b* (95 %)", "estimated b*", "estimated from fitted (95 %)", "A", "B"],
    )
    for one in fits:
        label = one.curve.label
        estimated = found.estimate(label) if found else None
        fitted, interval = found.fitted_estimate(label) if found else (None, (None, None))
        table.add(
            _named(one),
            number(one.measured_b_star, power=True),
            number(one.b_star, one.b_star_ci, power=True),
            number(estimated, power=True),
            number(fitted, interval, power=True),
            number(one.n_inf),
            number(one.hyperbola.b0),
        )
    return table


def forms(fits: list[Fit]) -> Table:
    """Every form of N(b) for every curve, the preferred first."""
    table = Table(
        "forms",
        "Forms of N(b): AICc above the preferred one's, rms error of ln N at batch sizes left out, and the b* implied.",
        ["curve", "form", "AICc above best", "left-out error", "b*", "parameters"],
    )
    for one in fits:
        for form in one.forms.ranked:
            behind = one.forms.behind(form.name)
            error = "–" if form.left_out is None else f"{form.left_out:.2f}"
            table.add(
                _named(one),
                words(form.title),
                Cell(
                    f"{behind:.1f}" if math.isfinite(behind) else "too few runs",
                    behind if math.isfinite(behind) else None,
                ),
                Cell(error, form.left_out),
                Cell("none inside", None) if form.b_star is None else number(form.b_star),
                words(_parameters(form)),
            )
    return table


def _parameters(form: Form) -> str:
    names = {"n_inf": "S_min" if form.name == "two_term" else "N∞", "sigma": "σ"}
    told = []
    for name, value in form.values.items():
        low, high = form.intervals.get(name, (None, None))
        ends = "" if low is None and high is None else f" ({with_interval(None, (low, high))})"
        told.append(f"{names.get(name, name)} = {short(value)}{ends}")
    return ", ".join(told)


def probabilities(fits: list[Fit]) -> Table:
    """How often each swept batch size has the least N·b when the runs are drawn again."""
    table = Table(
        "probabilities",
        "Probability that each swept b is the minimiser of N·b: its share of 2,000 resamples, by medians of runs drawn "
        "(simulated where a batch size has one run), and by the refitted form.",
        ["curve", "b", "by medians", "by the fit", "refits"],
    )
    for one in fits:
        again = one.bootstrap
        if again is None:
            continue
        for b, measured, fitted in zip(again.sizes, again.measured, again.fitted, strict=True):
            table.add(_named(one), number(b), share(measured), share(fitted), words(again.kind))
    return table


def bootstraps(fits: list[Fit]) -> Table:
    """The bootstrap's intervals beside the profile's."""
    table = Table(
        "bootstrap",
        "95 % intervals by profile likelihood and by the bootstrap (over seeds; parametric below four).",
        [
            "curve",
            "b*, profile",
            "b*, bootstrap",
            "N∞, profile",
            "N∞, bootstrap",
            "SFO, profile",
            "SFO, bootstrap",
            "bootstrap",
        ],
    )
    for one in fits:
        again = one.bootstrap
        if again is None:
            continue
        cells = []
        for name in ("b_star", "n_inf", "sfo"):
            cells += [number(None, getattr(one, name + "_ci")), number(None, again.intervals[name])]
        table.add(_named(one), *cells, words(again.kind))
    return table


def differences(fits: list[Fit]) -> list[Difference]:
    """Every pair of curves whose b* can be compared; none where there are too many curves to read about pairs."""
    if len(fits) > MOST_IN_PAIRS:
        return []
    pairs = (difference(one, other) for one, other in itertools.combinations(fits, 2))
    return [found for found in pairs if found is not None]


def differences_table(pairs: Sequence[Difference]) -> Table:
    table = Table(
        "differences",
        "Ratios of b* under the paper's form, each with its own 95 % interval (joint profile likelihood, no correction "
        "for the number of pairs); 1 octave is a factor of 2.",
        ["pair", "ratio of b* (95 %)", "octaves (95 %)", "verdict"],
    )
    for found in pairs:
        low, high = found.interval
        ratio: tuple[float | None, float | None] = (None if low is None else 2**low, None if high is None else 2**high)
        table.add(
            words(f"{found.one} / {found.other}"),
            number(2**found.octaves, ratio),
            Cell(_signed(found), found.octaves, found.interval),
            words("they differ" if found.decided else "undecided"),
        )
    return table


def _signed(found: Difference) -> str:
    low, high = ("open" if end is None else f"{end:+.2f}" for end in found.interval)
    return f"{found.octaves:+.2f} ({low} to {high})"


def outcomes(fits: list[Fit]) -> Table:
    """What became of every batch size's runs."""
    table = Table(
        "outcomes",
        "Runs that reached the target, were censored (budget spent, or abandoned by an adaptive sweep) or diverged; "
        "median steps-to-target.",
        ["curve", "b", "runs", "reached", "censored", "diverged", "median N", "SFO"],
    )
    for one in fits:
        medians = one.curve.medians()
        for b, row in one.curve.shares().iterrows():
            counts = [number(int(row[k])) for k in ("runs", "reached", "censored", "diverged")]
            table.add(
                _named(one),
                number(float(b)),
                *counts,
                number(float(medians[b])),
                number(float(medians[b] * b * one.curve.gradients)),
            )
    return table


def costs(fits: list[Fit]) -> Table:
    """Which batch size is cheapest, per curve and cost, and what it costs there."""
    table = Table(
        "costs",
        "The batch size that is cheapest to the target in gradients (SFO), time, device hours and energy: measured, "
        "and from the fit with a step of a + b·c; intervals add its error to the fit's.",
        ["curve", "in", "measured", "fitted (95 %)", "cost there (95 %)", "a, a step", "c, an image", "off by"],
    )
    for one in fits:
        if one.costs is None:
            continue
        gradients = "SFO, gradients"
        measured = number(one.measured_b_star, power=True)
        fitted, least = number(one.b_star, one.b_star_ci, power=True), number(one.sfo, one.sfo_ci)
        table.add(
            _named(one), words(gradients), measured, fitted, least, number(0), number(one.curve.gradients), share(0)
        )
        names = {"time": f"{one.costs.title_of_time}, s", "hours": one.costs.unit_of_hours, "energy": "energy, Wh"}
        for name, cost in one.costs.known.items():
            table.add(
                _named(one),
                words(names[name]),
                number(cost.measured_b_star, power=True),
                number(cost.b_star, cost.b_star_ci, power=True),
                number(cost.least, cost.least_ci),
                number(cost.step),
                number(cost.image),
                share(cost.misfit),
            )
    return table


def thresholds(at: dict[float, list[Fit]], smooth: dict[float, list[Fit]]) -> Table:
    """b* at each threshold, as crossed and as crossed by the running median."""
    fits = [one for found in at.values() for one in found]
    metric = fits[0].curve.metric
    made = Table(
        "targets",
        "b* as a function of the threshold; crossings read afterwards have no confirmation with fresh noise.",
        [
            "curve",
            " or ".join(dict.fromkeys(one.curve.side for one in fits)),
            "runs",
            "censored",
            "unconfirmed",
            "measured b*",
            "fitted b* (95 %)",
            "measured, smoothed",
            "fitted, smoothed (95 %)",
        ],
    )
    for threshold in (metric or METRICS["fid"]).ordered(at):
        for one, other in zip(at[threshold], smooth[threshold], strict=True):
            made.add(
                _named(one),
                number(threshold),
                number(len(one.curve.frame)),
                number(one.censored),
                number(one.curve.unconfirmed),
                number(one.measured_b_star),
                number(one.b_star, one.b_star_ci),
                number(other.measured_b_star),
                number(other.b_star, other.b_star_ci),
            )
    made.rows.sort(key=lambda row: row[0].text)
    return made


def tables(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> list[Table]:
    """Every table that has rows."""
    made = [curves(fits), theories(fits, found), forms(fits), differences_table(pairs), costs(fits), bootstraps(fits)]
    made += [probabilities(fits), outcomes(fits)]
    return [table for table in made if table.rows]
