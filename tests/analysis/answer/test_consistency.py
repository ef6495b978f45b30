"""What is said of b* never contradicts the headline: sentence, notes, tables, LaTeX, JSON, figures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from analysis import fit
from analysis.answer import diagnostics, figures, sentences, summary
from analysis.answer.notes import notes
from analysis.answer.numbers import to_dict
from analysis.answer.wording import in_table, least_at
from analysis.curves.curve import Curve
from analysis.fitting.cheapest import Cheapest
from analysis.fitting.fit import Fit
from analysis.fitting.models import hyperbola, power_law, two_term
from analysis.output.canvas import STYLE
from analysis.output.tables import latex
from tests.analysis.simulation import sweep

Truth = Callable[[float], float]
TRUTHS: dict[str, Truth] = {
    "hyperbola": lambda b: float(hyperbola(b, 1500, 6.0)),
    "two_term": lambda b: float(two_term(b, 1500, 90)),
    **{f"power_{p:g}": (lambda b, p=p: float(power_law(b, 1500, 24, p))) for p in (0.5, 1.0, 1.3, 2.0, 3.0)},
    "late": lambda b: float(power_law(b, 1500, 24, 1.5)) * (1 + (b / 768) ** 0.7),
}
EIGHT = tuple(2**k for k in range(1, 9))


def stopped(truth: Truth, share: float) -> Callable[[int], float]:
    """Every run may spend the same number of gradients: so many times what the best size takes."""
    most = share * min(truth(b) * b for b in EIGHT)
    return lambda b: most / b


# Seeds, spread of ln N, and gradients that a run may spend, in those that the best size takes.
DESIGNS = ((1, 0.15, 40.0), (3, 0.15, 400.0), (3, 0.3, 2.0), (2, 0.05, 1.1))


@pytest.mark.parametrize("name", TRUTHS)
def test_nothing_said_of_b_star_is_excluded_by_the_headline(name: str) -> None:
    truth = TRUTHS[name]
    for seeds, noise, share in DESIGNS:
        for random in range(1, 6):
            made = sweep(truth, noise, seeds, np.random.default_rng(random), EIGHT, stopped(truth, share))
            agrees(fit(made))


def agrees(one: Fit) -> None:
    headline, said = sentences.sentence(one), notes(one)
    (row,) = to_dict([one])["curves"]
    assert row["verdict"] == headline
    assert row["notes"] == said
    assert headline.endswith(".")
    assert all(note.endswith(".") and not note.startswith("Don't read") for note in said)
    assert "nan" not in " ".join([headline, *said])
    found = one.cheapest
    if found is None:
        assert "b* is not known" in headline
        assert (row["b_star"], row["b_star_ci"]) == (None, [None, None])
        return
    assert f": {least_at(found)};" in headline
    assert row["b_star_ci"] == [None if found.open_low else found.low, None if found.open_high else found.high]
    tables = {table.name: table for table in summary.tables([one])}
    cell = dict(zip(tables["curves"].columns, tables["curves"].rows[0], strict=True))["b* (95 %)"]
    assert cell.text == in_table(found)
    assert list(cell.interval or ()) == row["b_star_ci"]
    assert latex(in_table(found)) in tables["curves"].latex()
    (read,) = csv.DictReader(io.StringIO(tables["curves"].csv()))
    assert float(read["b* (95 %)"]) == row["b_star"]
    assert [float(v) if v else None for k, v in read.items() if k.startswith("b* (95 %) ")] == row["b_star_ci"]
    for text in (headline, *said):
        for number in told_of_b_star(text):
            assert found.low / 1.06 <= number <= found.high * 1.06, (text, headline)
    assert found.low <= found.b_star <= found.high, headline
    measured(one, said, tables)
    rejected(one, headline, said, tables, row["hyperbola"])


def test_numbers_said_of_b_star_are_found() -> None:
    assert list(told_of_b_star("Adam: b* = 5.2 (95 %: 3.4 to 8); b* ≤ 1,024 (95 %)")) == [5.2, 1024]
    assert list(told_of_b_star("The paper's form holds (p = 0.2); its own b* is 6.")) == []


def told_of_b_star(text: str) -> Iterator[float]:
    """Numbers said to be b*, outside of the paper's form, its rivals, and the measured one."""
    if re.match(r"(?i)(whether )?the paper's form|Forms:|Measured b\*|Sweep next", text):
        return
    for number in re.findall(r"\bb\*(?: is| of| =| ≤| ≥)* ?(?:about )?([\d.,]*\d)", text):
        yield float(number.replace(",", ""))


def measured(one: Fit, said: list[str], tables: dict[str, summary.Table]) -> None:
    """A measured b* outside the set, or one that can't be told, is explained and never stands bare."""
    found = one.cheapest
    assert found is not None
    inside = one.measured_b_star is not None and found.holds(one.measured_b_star)
    explained = [note for note in said if note.startswith("Measured b*")]
    assert len(explained) == (not inside and bool(one.measured.candidates))
    assert all("can't be told apart" in note for note in explained)
    for table in (tables["curves"], tables["theory"]):
        cell = dict(zip(table.columns, table.rows[0], strict=True))["measured b*"]
        assert inside or "outside the set" in cell.text or " or " in cell.text or cell.text == "–"


def rejected(one: Fit, headline: str, said: list[str], tables: dict[str, summary.Table], paper: dict[str, Any]) -> None:
    """Wherever a rejected form is named, it is called rejected."""
    test = one.goodness
    assert ("rejected" in headline) == test.rejected
    told = [note for note in said if note.startswith(("The paper's form", "Whether the paper's form"))]
    assert len(told) == 1
    assert ("rejected" in told[0]) == test.rejected
    assert (paper["p_value"], paper["rejected"]) == (test.p, test.rejected)
    if test.rejected and "hyperbola" in tables:
        cells = [cell.text for cell in tables["hyperbola"].rows[0][1:] if cell.text != "–"]
        assert all("rejected" in text for text in cells), cells
        assert tables["hyperbola"].latex().count("rejected") >= len(cells)
    titles = {form.title: one.tests[form.name].rejected for form in one.forms.ranked if form.name in one.tests}
    for row in tables["forms"].rows if "forms" in tables else ():
        if titles.get(row[1].text):
            assert "rejected" in row[4].text
            assert row[5].text == "none inside" or "rejected" in row[5].text
    for note in (note for note in said if note.startswith("Forms:")):
        for form in one.forms.close() or []:
            if len(one.forms.close()) > 1 and titles.get(form.title):
                assert "rejected" in note


@pytest.mark.parametrize("name", ["hyperbola", "power_0.5", "power_3"])
def test_figures_say_what_the_headline_says(name: str) -> None:
    """The bar of b* spans the set, has an arrow where the set is open, and the paper's form is called rejected."""
    truth = TRUTHS[name]
    one = fit(sweep(truth, 0.15, 3, np.random.default_rng(1), EIGHT, stopped(truth, 40.0)))
    found = one.cheapest
    assert found is not None
    with plt.rc_context(STYLE):
        drawn = {"sfo": figures.sfo([one]), "posterior": diagnostics.density([one])}
    for figure in drawn.values():
        lines = figure.axes[0].lines
        assert any(list(line.get_xdata()) == [found.low, found.high] for line in lines)
        marks = {line.get_marker() for line in lines}
        assert ("<" in marks) == found.open_low
        assert (">" in marks) == found.open_high
    labels = drawn["sfo"].axes[0].get_legend_handles_labels()[1]
    assert ("paper's form (rejected)" in labels) == one.goodness.rejected
    plt.close("all")


def known(**changes: object) -> Cheapest:
    given = {
        "b_star": 5.19,
        "low": 3.36,
        "high": 8.0,
        "open_low": False,
        "open_high": False,
        "sizes": np.array([2.0, 4, 8, 16]),
        "probability": np.full(4, 0.25),
        "as_good": (4.0, 6.7),
        "regret_95": 0.2,
        "least": 1.0,
        "least_ci": (1.0, 1.0),
        "margin": 0.1,
        "log_b": np.zeros(1),
        "weight": np.ones(1),
    }
    return Cheapest(**{**given, **changes})  # type: ignore[arg-type]


OPEN_LOW, OPEN_HIGH = {"open_low": True, "low": 2.0}, {"open_high": True, "high": 16.0}


@pytest.mark.parametrize(
    ("changes", "words", "cell"),
    [
        ({}, "b* = 5.2 (95 %: 3.4 to 8)", "5.2 (3.4–8)"),
        (OPEN_LOW, "b* ≤ 8 (95 %): nothing smaller than 2 was tried", "≤ 8"),
        (OPEN_HIGH, "b* ≥ 3.4 (95 %): nothing larger than 16 was tried", "≥ 3.4"),
        ({**OPEN_LOW, **OPEN_HIGH}, "b* can't be told between 2 and 16", "can't be told"),
        ({**OPEN_LOW, "high": 2.0}, "b* = 2, the smallest size tried (95 %)", "2, smallest tried"),
        ({**OPEN_HIGH, "low": 16.0}, "b* = 16, the largest size tried (95 %)", "16, largest tried"),
        (
            {**OPEN_LOW, "low": 1.0, "sizes": np.array([1.0, 2])},
            "b* ≤ 8 (95 %), 1 being the smallest size",
            "≤ 8",
        ),
        (
            {**OPEN_LOW, **OPEN_HIGH, "sizes": np.array([2.0])},
            "b* can't be told: only b = 2 was tried",
            "can't be told",
        ),
    ],
)
def test_b_star_is_never_told_without_its_set(changes: dict, words: str, cell: str) -> None:
    found = known(**changes)
    assert least_at(found) == words
    assert in_table(found) == cell


def test_a_headline_names_what_was_trained_and_what_became_of_it() -> None:
    made = sweep(TRUTHS["power_1.3"], 0.15, 3, np.random.default_rng(1), EIGHT, stopped(TRUTHS["power_1.3"], 1.2))
    made.about, made.label, made.threshold = "(rates 2e-4, 2e-4), DCGAN on digits", "adam", 4.0
    early = made.frame[made.frame["outcome"] == "censored"].iloc[0]
    made.abandoned_runs = frozenset({(int(early["batch_size"]), int(early["seed"]))})
    made.frame.loc[len(made.frame)] = (8, 9, "diverged", 50.0, 50.0)
    told = sentences.sentence(fit(made))
    assert told.startswith("Adam (rates 2e-4, 2e-4), DCGAN on digits, ≤ 4: b* ")
    assert f"; 25 runs, {made.censored - 1} never arrived, 1 abandoned, 1 diverged; " in told


def test_where_another_definition_of_arriving_disagrees_the_headline_says_so() -> None:
    one = sweep(TRUTHS["power_3"], 0.05, 5, np.random.default_rng(1), EIGHT)
    other: Curve = sweep(TRUTHS["power_0.5"], 0.05, 5, np.random.default_rng(1), EIGHT)
    one.variants = lambda: {"running median of three": other}
    told = sentences.sentence(fit(one))
    assert told.endswith("; but by the running median of three, b* = 2, the smallest size tried (95 %).")
    rows = summary.arriving([fit(one)]).rows
    assert [row[1].text for row in rows] == ["confirmed crossing", "running median of three"]
    assert rows[1][-1].text == "2, smallest tried"
    assert to_dict([fit(one)])["curves"][0]["variants"]["running median of three"]["b_star"] == 2
    one.variants = lambda: {"running median of three": one}
    assert "but by" not in sentences.sentence(fit(one))


def test_a_swept_size_at_the_end_of_the_set_lies_in_it() -> None:
    """Where the set reaches an edge of the sweep, that size is its end to the last digit."""
    for name in ("power_0.5", "power_3"):
        found = fit(sweep(TRUTHS[name], 0.15, 3, np.random.default_rng(1), (3, 7, 11, 24))).cheapest
        assert found is not None
        assert found.holds(3.0) if found.open_low else found.holds(24.0)
        assert {3.0, 24.0} & {found.low, found.high}
