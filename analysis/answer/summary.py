"""What fits say, as tables: curves, arriving, outcomes, theory, costs, differences, the paper's form and its rivals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from scipy.special import betaincinv

from analysis.answer.wording import as_good, in_table, own, p_value, percent
from analysis.curves.curve import Measured
from analysis.fitting.cheapest import Cheapest
from analysis.fitting.difference import Difference, difference
from analysis.fitting.fit import Fit
from analysis.fitting.forms import Form
from analysis.fitting.goodness import Goodness
from analysis.fitting.profile import Interval
from analysis.output.tables import Cell, Table, named, number, share, short, with_interval, words
from analysis.theory.carried import Theory
from cbs.outcome import METRICS

MOST_IN_PAIRS = 12


def _named(one: Fit) -> Cell:
    return Cell(one.curve.name, one.curve.label)


def least(found: Cheapest | None) -> Cell:
    """A batch size of least cost with its 95 % set."""
    return Cell("–") if found is None else Cell(in_table(found), found.b_star, found.interval)


def _measured(measured: Measured, found: Cheapest | None) -> Cell:
    """The argmin over swept sizes, with the power of two that the slides name; or sizes that can't be told apart."""
    if measured.b_star is None:
        return words(" or ".join(f"{b:g}" for b in measured.candidates) or None)
    outside = found is not None and not found.holds(measured.b_star)
    text = f"{measured.b_star:g} ({named(measured.b_star)})" if measured.b_star >= 1 else f"{measured.b_star:g}"
    return Cell(f"{text}, outside the set" if outside else text, measured.b_star)


def _carried(value: float | None, interval: Interval) -> Cell:
    """A value with the set that it was carried with; never the value alone."""
    if value is not None and interval == (None, None):
        return Cell("can't be told", value, interval)
    return number(value, interval)


def _good(found: Cheapest | None) -> Cell:
    if found is None or found.as_good is None:
        return Cell("–" if found is None else "none surely")
    low, high = found.as_good
    return Cell(as_good(found).removeprefix("any b from ").split(" costs")[0], low, (low, high))


def curves(fits: list[Fit]) -> Table:
    """One row per curve: what was run, and the batch size of the fewest gradients."""
    table = Table(
        "curves",
        "b*, the batch size at which the median run reaches the target for the fewest gradients, with its 95 % set; "
        "the sizes that are as good; what choosing b* may cost over the least, at most, with 95 %; the measured b* "
        "(least median N·b of the swept sizes).",
        [
            "curve",
            "target",
            "runs",
            "censored",
            "diverged",
            "measured b*",
            "b* (95 %)",
            "as good",
            "regret (95 %)",
            "SFO at b* (95 %)",
        ],
    )
    for one in fits:
        found = one.cheapest
        table.add(
            _named(one),
            Cell(one.curve.target or "–", one.curve.threshold),
            number(len(one.curve.frame)),
            number(one.censored),
            number(one.diverged),
            _measured(one.measured, found),
            least(found),
            _good(found),
            Cell("–") if found is None else Cell(f"≤ {percent(found.regret_95)}", found.regret_95),
            number(one.sfo, one.sfo_ci),
        )
    return table


def arriving(fits: list[Fit]) -> Table:
    """How b* depends on what counts as arriving; no rows where no trajectory says."""
    table = Table(
        "arriving",
        "b* by what counts as arriving: the first crossing confirmed with fresh noise, as trained; the first crossing "
        "of the running median of three evaluations; only every second evaluation looked at.",
        ["curve", "arriving", "runs", "arrived", "b* (95 %)"],
    )
    for one in fits:
        if one.variants:
            for name, other in {"confirmed crossing": one, **one.variants}.items():
                arrived = int((other.curve.frame["outcome"] == "reached").sum())
                table.add(
                    _named(one), words(name), number(len(other.curve.frame)), number(arrived), least(other.cheapest)
                )
    return table


def papers(fits: list[Fit]) -> Table:
    """The paper's form: its own numbers, its test; rejected ones are marked in every cell."""
    table = Table(
        "hyperbola",
        "The paper's form N∞ b/(b − b0): its own b* = 2 b0 and parameters, with 95 % profile-likelihood intervals, and "
        "the test of fit against a smooth alternative; rejected where p < 0.01.",
        ["curve", "its test", "its b* (95 %)", "N∞ (95 %)", "b0", "SFO at its b* (95 %)", "σ"],
    )
    for one in fits:
        form, test = one.hyperbola, one.goodness
        if form.problem is None:
            continue
        told = (
            (form.b_star, form.b_star_ci),
            (form.n_inf, form.n_inf_ci),
            (form.b0, (None, None)),
            (form.sfo, form.sfo_ci),
            (form.sigma, (None, None)),
        )
        table.add(_named(one), _test(test), *(Cell(own(v, ends, test), v, ends) for v, ends in told))
        table.rows[-1][4] = Cell(table.rows[-1][4].text, form.b0)
        table.rows[-1][6] = Cell(table.rows[-1][6].text, form.sigma)
    return table


def _test(test: Goodness | None) -> Cell:
    if test is None or test.p is None:
        return Cell("can't be told" if test else "–")
    return Cell(f"{'rejected' if test.rejected else 'holds'}, {p_value(test)}", test.p)


def theories(fits: list[Fit], found: Theory | None) -> Table:
    """Measured, posterior and estimated b*, and A, B, C of the paper's form under ε² − C = 1."""
    table = Table(
        "theory",
        "b* and the closed forms' estimates, r from one curve's measured b* and from its b* with the whole set; A, B "
        "of the paper's form N = A b/((ε² − C) b − B) normalised to ε² − C = 1.",
        [
            "curve",
            "measured b*",
            "b* (95 %)",
            "estimated from measured",
            "estimated from b* (95 %)",
            "A, paper's form",
            "B, paper's form",
        ],
    )
    for one in fits:
        label = one.curve.label
        form, test = one.hyperbola, one.goodness
        carried, interval = found.from_b_star(label) if found else (None, (None, None))
        table.add(
            _named(one),
            _measured(one.measured, one.cheapest),
            least(one.cheapest),
            number(found.from_measured(label) if found else None, power=True),
            _carried(carried, interval),
            *(Cell(own(value, (None, None), test) if value else "–", value) for value in (form.n_inf, form.b0)),
        )
    return table


def forms(fits: list[Fit]) -> Table:
    """Every form of N(b) for every curve, the preferred first; what a rejected one says is marked."""
    table = Table(
        "forms",
        "Forms of N(b): AICc above the preferred one's, rms error of ln N at batch sizes left out, the test of fit, "
        "and where N·b is least in each.",
        ["curve", "form", "AICc above best", "left-out error", "its test", "least N·b at", "parameters"],
    )
    for one in fits:
        for form in one.forms.ranked:
            behind = one.forms.behind(form.name)
            error = "–" if form.left_out is None else f"{form.left_out:.2f}"
            test = one.tests.get(form.name)
            where = "none inside" if form.b_star is None else own(form.b_star, (None, None), test)
            table.add(
                _named(one),
                words(form.title),
                Cell(
                    f"{behind:.1f}" if math.isfinite(behind) else "too few runs",
                    behind if math.isfinite(behind) else None,
                ),
                Cell(error, form.left_out),
                _test(test),
                Cell(where, form.b_star),
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


def differences(fits: list[Fit]) -> list[Difference]:
    """Every pair of curves whose b* can be compared; none where there are too many curves to read about pairs."""
    if len(fits) > MOST_IN_PAIRS:
        return []
    pairs = (difference(one, other) for one, other in itertools.combinations(fits, 2))
    return [found for found in pairs if found is not None]


def differences_table(pairs: Sequence[Difference]) -> Table:
    table = Table(
        "differences",
        "Ratios of b*, each with its own 95 % interval (no correction for the number of pairs), open where it rests on "
        "an edge of a sweep; 1 octave is a factor of 2.",
        ["pair", "ratio of b* (95 %)", "octaves (95 %)", "verdict"],
    )
    for found in pairs:
        low, high = found.interval
        ratio: tuple[float | None, float | None] = (None if low is None else 2**low, None if high is None else 2**high)
        table.add(
            words(f"{found.one} / {found.other}"),
            _carried(2**found.octaves, ratio),
            Cell(_signed(found), found.octaves, found.interval),
            words("they differ" if found.decided else "undecided"),
        )
    return table


def _signed(found: Difference) -> str:
    if found.interval == (None, None):
        return "can't be told"
    low, high = ("open" if end is None else f"{end:+.2f}" for end in found.interval)
    return f"{found.octaves:+.2f} ({low} to {high})"


def outcomes(fits: list[Fit]) -> Table:
    """What became of every batch size's runs, and how likely it is to be the cheapest of those swept."""
    table = Table(
        "outcomes",
        "Each swept size: its probability to cost the fewest gradients of all; runs that reached the target, were "
        "censored (budget spent, or abandoned by an adaptive sweep) or diverged; the probability of never arriving, "
        "with Jeffreys' 95 % interval (abandoned runs count neither way); the median steps-to-target, or between which "
        "bounds it lies whatever unfinished runs would do.",
        [
            "curve",
            "b",
            "P(cheapest)",
            "runs",
            "reached",
            "censored",
            "diverged",
            "never arrives (95 %)",
            "median N",
            "SFO",
        ],
    )
    for one in fits:
        bounds = one.curve.median_bounds()
        chance = probability(one)
        for b, row in one.curve.shares().iterrows():
            counts = [number(int(row[k])) for k in ("runs", "reached", "censored", "diverged")]
            low, high = (float(bounds.loc[b, end]) for end in ("low", "high"))
            unit = float(b) * one.curve.gradients
            table.add(
                _named(one),
                number(float(b)),
                share(chance[b]) if b in chance else Cell("–"),
                *counts,
                _never(one, b, row),
                _between(low, high),
                _between(unit * low, unit * high),
            )
    return table


def probability(one: Fit) -> dict[int, float]:
    """P(cheapest) of each swept size of which a run tells anything."""
    found = one.cheapest
    return {} if found is None else {int(b): float(p) for b, p in zip(found.sizes, found.probability, strict=True)}


def _never(one: Fit, b: int, row: dict[str, int]) -> Cell:
    """The probability that a run at b never arrives within its budget."""
    given_up = sum(size == b for size, _ in one.curve.abandoned_runs)
    missed, arrived = row["censored"] - given_up + row["diverged"], row["reached"]
    if missed + arrived == 0:
        return Cell("–")
    low, high = (float(betaincinv(0.5 + missed, 0.5 + arrived, level)) for level in (0.025, 0.975))
    at = missed / (missed + arrived)
    return Cell(f"{100 * at:.0f} % ({100 * low:.0f}–{100 * high:.0f})", at, (low, high))


def _between(low: float, high: float) -> Cell:
    if low == high:
        return number(high)
    text = f"≥ {short(low)}" if math.isinf(high) else f"{short(low)}–{short(high)}"
    return Cell(text, high, (low, None if math.isinf(high) else high))


def costs(fits: list[Fit]) -> Table:
    """Which batch size is cheapest, per curve and cost, and what it costs there."""
    table = Table(
        "costs",
        "The batch size that is cheapest to the target in gradients (SFO), time, device hours and energy, with its 95 "
        "% set, and what the median run costs there; the line a + b·c nearest to what steps took.",
        ["curve", "in", "measured", "least at b (95 %)", "as good", "cost there (95 %)", "a, a step", "c, an image"],
    )
    for one in fits:
        if one.costs is None:
            continue
        table.add(
            _named(one),
            words("SFO, gradients"),
            _measured(one.measured, one.cheapest),
            least(one.cheapest),
            _good(one.cheapest),
            number(one.sfo, one.sfo_ci),
            number(0),
            number(one.curve.gradients),
        )
        names = {"time": f"{one.costs.title_of_time}, s", "hours": one.costs.unit_of_hours, "energy": "energy, Wh"}
        for name, cost in one.costs.known.items():
            found = cost.cheapest
            table.add(
                _named(one),
                words(names[name]),
                number(cost.measured_b_star, power=True),
                least(found),
                _good(found),
                number(found.least, found.least_ci) if found else Cell("–"),
                number(cost.step),
                number(cost.image),
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
            "b* (95 %)",
            "measured, smoothed",
            "b*, smoothed (95 %)",
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
                _measured(one.measured, one.cheapest),
                least(one.cheapest),
                _measured(other.measured, other.cheapest),
                least(other.cheapest),
            )
    made.rows.sort(key=lambda row: row[0].text)
    return made


def tables(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> list[Table]:
    """Every table that has rows."""
    made = [curves(fits), arriving(fits), outcomes(fits), theories(fits, found), costs(fits), differences_table(pairs)]
    made += [papers(fits), forms(fits)]
    return [table for table in made if table.rows]
