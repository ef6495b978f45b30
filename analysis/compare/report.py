"""Arms of a study compared: as text, as JSON, as figures and one page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.compare import verdicts
from analysis.compare.arms import AXES, Field, field_of
from analysis.compare.questions import Findings, Pair, Question, findings, to_dict, upright
from analysis.curves.studies import read_study
from analysis.fitting.profile import Interval
from analysis.output.plain import finite
from analysis.output.tables import Cell, Table, number, short, words, write_tables
from cbs import __version__
from cbs.record import write_atomic

_CAPTIONS = {
    "compare_metric": "The metric against what was spent. Lines: medians over seeds; bands: the median's interval by "
    "order statistics, with up to eight seeds from the least to the largest; every run faint, a mark where it arrived. "
    "A run that arrived stays at its last value in the median. Dotted: thresholds.",
    "compare_costs": "What each threshold takes: medians over seeds, a miss counting as infinite, with their "
    "intervals; an arrow where misses leave it open upwards.",
    "compare_ratios": "How many times as much the first arm of each pair takes as the second.",
    "compare_after": "The metric of the first arm over the second's, where both have spent as much.",
}


def compare(study: Path, thresholds: Sequence[float] | None, metric: str | None, arms: Sequence[str]) -> Findings:
    """Read a study and compare its arms. Raises InputError as `field_of` and `findings` do."""
    return findings(field_of(read_study(study), study, metric, arms), thresholds)


def text(found: Findings) -> str:
    """The verdict, tables behind it, and what must be said beside it."""
    lines = [*verdicts.sentences(found), ""]
    for table in tables(found, found.main):
        lines += [table.title, table.text(), ""]
    return "\n".join([*lines, *verdicts.notes(found)])


def as_json(found: Findings) -> dict[str, Any]:
    """What --json prints: every number finite or null."""
    told = {"verdict": verdicts.sentences(found), "notes": verdicts.notes(found), **to_dict(found)}
    plain: dict[str, Any] = finite(told)
    return plain


def tables(found: Findings, only: float | None = None) -> list[Table]:
    """Those that have rows; pairs at one threshold only, if it is named."""
    made = [_taken(found), _pairs(found, only), _after(found)]
    return [table for table in made if table.rows]


def _taken(found: Findings) -> Table:
    """Every arm at every threshold."""
    field = found.field
    table = Table(
        "compare_costs",
        "What each threshold took: medians over seeds, a miss counting as infinite, and their intervals, which hold "
        "the median as surely as the last column says.",
        ["arm", field.at, "reached", "censored", "diverged", *(AXES[axis] for axis in field.axes), "interval"],
    )
    for threshold, arms in found.taken.items():
        for one in arms:
            runs = one.reached + one.censored + one.diverged
            table.add(
                words(one.arm.label),
                number(threshold),
                Cell(f"{one.reached} of {runs}", one.reached),
                number(one.censored),
                number(one.diverged),
                *(_median(one.median(axis), one.interval(axis)[0]) for axis in field.axes),
                Cell(verdicts.percent(one.interval("steps")[1]), one.interval("steps")[1]),
            )
    return table


def _median(value: float, ends: Interval) -> Cell:
    low, high = ends
    left, right = ("–" if low is None else short(low)), ("∞" if high is None else short(high))
    return Cell(f"{short(value)} ({left}–{right})", value if math.isfinite(value) else None, ends)


_HEADS = ["ratio (95 %)", "p", "p, Holm", "p, exact", "least p", "seeds", "seeds needed", "verdict"]


def _pairs(found: Findings, only: float | None) -> Table:
    """Every pair at every threshold, or at the main one where there are many arms."""
    table = Table(
        "compare_pairs",
        "How many times as much the first arm of each pair takes as the second. p: Student's t on logarithms, and "
        "corrected (Holm) for the pairs of one axis and threshold; exact: sign flips of paired seeds, or permutations.",
        ["pair", found.field.at, "of", *_HEADS],
    )
    for question in found.questions:
        if question.threshold is not None and only in (None, question.threshold):
            for pair in question.pairs:
                table.add(
                    _both(pair),
                    number(question.threshold),
                    words(AXES[question.axis]),
                    *_cells(found.field, question, pair),
                )
    return table


def _after(found: Findings) -> Table:
    """The metric of every pair after as much."""
    table = Table(
        "compare_after",
        f"{found.field.title} of the first arm over the second's, at the furthest point at which every run of both "
        "went on whatever it showed: before the first of them arrived.",
        ["pair", "after", "of", *_HEADS],
    )
    for question in found.questions:
        if question.threshold is None:
            for pair in question.pairs:
                at = question.at[pair.one, pair.other]
                cells = _cells(found.field, question, pair)
                table.add(_both(pair), number(None if math.isnan(at) else at), words(AXES[question.axis]), *cells)
    return table


def _both(pair: Pair) -> Cell:
    return words(f"{pair.one} / {pair.other}")


def _cells(field: Field, question: Question, pair: Pair) -> list[Cell]:
    found, shown = pair.found, upright(field, question, pair.found)
    ps = (found.p, found.p_holm, found.p_exact, found.p_least)
    less = "better" if question.threshold is None else "less"
    verdict = {-1: f"{pair.one}: {less}", 0: "undecided", 1: f"{pair.other}: {less}"}[found.sign]
    return [
        number(shown.ratio, shown.ratio_ci),
        *(Cell("–" if p is None else verdicts.p_value(p), p) for p in ps),
        Cell(f"{found.seeds}{' pairs' if found.paired else ''}", found.seeds),
        _needed(found.needed),
        words(verdict),
    ]


def _needed(seeds: float | None) -> Cell:
    if seeds is None or seeds == math.inf:
        return Cell("–" if seeds is None else "> 1,000", None)
    return Cell(f"{seeds:g}", seeds)


def write(found: Findings, folder: Path, command: Sequence[str]) -> Path:
    """Figures as PNG and SVG into figures/, tables into tables/, one HTML page, which is returned."""
    import matplotlib.pyplot as plt  # in here: text and JSON start without what draws

    from analysis.compare import figures
    from analysis.output import canvas

    with plt.rc_context(canvas.STYLE):
        for name, figure in figures.everything(found).items():
            canvas.save(figure, folder / "figures" / name)
        drawn = {name: canvas.inline(figure, name) for name, figure in figures.everything(found).items()}
    write_tables(tables(found), folder / "tables")
    page = folder / "compare.html"
    write_atomic(page, _page(found, drawn, command).encode())
    return page


def _page(found: Findings, drawn: dict[str, str], command: Sequence[str]) -> str:
    from analysis.output.pages import environment  # in here: text and JSON start without jinja2

    field = found.field
    return (
        environment("analysis.compare")
        .get_template("compare.html.j2")
        .render(
            title=f"{field.study.resolve().name}: arms compared",
            arms=field.arms,
            metric=field.title,
            runs=sum(len(arm.courses) for arm in field.arms),
            verdict=verdicts.sentences(found),
            notes=verdicts.notes(found),
            figures=[{"name": name, "svg": svg, "caption": _CAPTIONS[name]} for name, svg in drawn.items()],
            tables=tables(found),
            version=__version__,
            command=shlex.join(command),
        )
    )
