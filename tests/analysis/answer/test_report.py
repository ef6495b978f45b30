"""The report as a reader has it: one file, opened in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.output.tables import Cell, Table, latex
from tests.conftest import TINY, command

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def report(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    study = Path(shutil.copytree(swept / "results" / "sweep", folder / "results" / "sweep"))
    done = command("report", "results/sweep", "--threshold", "175", cwd=folder, module="analysis")
    assert done.returncode == 0, done.stderr
    assert "Adam (rates 2e-3, 2e-3), DCGAN on digits, FID ≤ 175: b* " in done.stdout
    assert "6 runs, " in done.stdout
    return study / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk", "phone"])
def page(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report without a network, at two widths; a message on the console fails the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    shown = context.new_page()
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda asked: said.append(asked.url) if asked.url.startswith("http") else None)
    shown.goto(report.as_uri())
    yield shown
    context.close()
    assert said == []


def test_the_page_fits_and_its_figures_are_drawn(page: Page) -> None:
    width = page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".verdict p").first.inner_text().startswith("Adam (rates 2e-3, 2e-3), DCGAN on digits")
    names = page.locator("figure[role=img]").evaluate_all("all => all.map(f => f.id)")
    assert {"steps_to_target", "sfo", "estimated", "targets", "metric_adam", "crossings_rmsprop"} <= set(names)
    for name in names:
        box = page.locator(f"#{name} > svg").bounding_box()
        assert box is not None
        assert 200 < box["width"] <= width
        assert box["height"] > 80
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
    assert page.locator(".grids img").count() >= 2
    assert broken == 0


def test_text_is_legible_on_its_ground(page: Page) -> None:
    """WCAG's contrast of ink, faint text and links on the page's ground, at least 4.5."""
    for variable in ("--ink", "--faint", "--link"):
        colours = page.evaluate(
            "v => [v, '--paper'].map(n => getComputedStyle(document.documentElement).getPropertyValue(n).trim())",
            variable,
        )
        assert _contrast(*colours) >= 4.5, (variable, colours)


def _contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_tables_sort_by_value_not_by_text(page: Page) -> None:
    cells = "#table-outcomes tbody tr td:nth-child(2)"

    def column() -> list[float]:
        return [float(text) for text in page.locator(cells).all_inner_texts()]

    head = page.locator("#table-outcomes th").nth(1)
    head.locator("button").click()
    assert column() == sorted(column()) == [4, 4, 16, 16, 64, 64]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert column() == sorted(column(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#table-outcomes th").first.locator("button").click()
    assert page.locator("#table-outcomes tbody tr td:first-child").first.inner_text() == "Adam"
    assert head.get_attribute("aria-sort") is None


def test_every_trial_has_its_command_its_config_and_its_records(report: Path) -> None:
    html = report.read_text()
    assert html.count(f"python -m cbs.run -m {TINY[0]}") >= 6
    assert html.count("lr_generator: 0.002") == 6
    links = re.findall(r'href="([^":]+\.jsonl?)"', html)
    assert len(links) == 12 * 3
    for link in links:
        assert (report.parent / link).is_file(), link


def test_the_page_stands_alone(report: Path) -> None:
    html = report.read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert "<script src" not in html
    assert "@import" not in html
    for suffix in ("csv", "tex"):
        assert (report.parent / "tables" / f"curves.{suffix}").read_text()


def test_a_page_can_be_printed(browser: Browser, report: Path, tmp_path: Path) -> None:
    shown = browser.new_page()
    shown.goto(report.as_uri())
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(shown.pdf(format="A4")) > 20_000
    shown.close()


def test_a_report_from_a_csv_has_no_trials(tmp_path: Path) -> None:
    rows = "\n".join(f"{b},{s},reached,{1000 + 3000 // b + 10 * s}" for b in (4, 8, 16, 32) for s in range(3))
    (tmp_path / "curve.csv").write_text(f"batch_size,seed,outcome,steps\n{rows}\n")
    done = command("report", "--csv", "curve.csv", "--out", "page.html", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert "Trials and records" not in html
    assert "Sweep next: batch_size=2,1" in html
    refused = command("report", "--csv", "curve.csv", "--out", ".", cwd=tmp_path, module="analysis")
    assert refused.returncode == 2
    assert "name the page's file" in refused.stderr


def test_latex_is_escaped() -> None:
    table = Table("t", "A title.", ["curve", "b*"], [[Cell("a_b & 50 %"), Cell("≤ 8 (2³)", 8)]])
    lines = table.latex().splitlines()
    assert lines[1] == "\\begin{tabular}{lr}"
    assert lines[5] == r"a\_b \& 50 \% & $\leq$ 8 ($2^{3}$) \\"
    assert latex("N∞ (1 + (b_c/b)ᵖ)") == r"$N_\infty$ (1 + ($b_c$/b)$^p$)"
