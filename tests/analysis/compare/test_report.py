"""Arms of a study compared, from records whose answers are known."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from analysis import fit
from analysis.__main__ import main
from analysis.compare import report, verdicts
from analysis.compare.arms import Arm, Course, lineage, seconds
from analysis.compare.figures import band
from analysis.compare.questions import Findings, to_dict
from analysis.curves.studies import from_study, read_study
from cbs.errors import InputError
from cbs.key import trial_key
from cbs.outcome import Censored, Diverged, Evaluation, Outcome, Reached
from cbs.record import SCHEMA, Result, RunFolder, write_json
from cbs.recording import write_trial
from cbs.schema import Config
from tests.conftest import ROOT

STEPS = [round(100 * 1.1**k) for k in range(40)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Tiny = Callable[..., Config]


def write(
    study: Path,
    config: Config,
    seed: int,
    n: float,
    threshold: float = 4.0,
    budget: int = 3000,
    gradients: float = 0.0,
    branched_from: dict[str, Any] | None = None,
    diverged: bool = False,
) -> RunFolder:
    """A run whose metric falls as 400/step and reaches 4 at step n, evaluated 10 % apart, a tenth of a second a step.

    gradients: of each network in a step, times b; 0: not counted in its records.
    """
    b = config.batch_size.initial
    seen = []
    for step in (s for s in STEPS if s <= budget):
        value, each = 4.0 * n / step, round(gradients * b * step)
        counted = {"generator": each, "discriminator": each} if gradients else {}
        extra = {"inception_score": 1 + 8 * step / (step + n)}
        seen.append(Evaluation(step, step * b, 0.1 * step, value, extra=extra, gradients=counted))
        if value <= threshold:
            break
    last = seen[-1].step
    outcome: Outcome = Censored(last)
    if seen[-1].value <= threshold:
        outcome = Reached(seen[-2].step, last)
    if diverged:
        outcome = Diverged(last + 5)
    plain = config.to_dict()
    folder = RunFolder(study / "trials" / trial_key(plain, "digest"), seed)
    write_trial(config, folder.trial)
    sizes, dataset = {"generator": 10, "discriminator": 9}, {"name": "digits", "count": 1797, "sha256": "0"}
    times = {"training": 0.1 * last, "evaluating": 0.0}
    result = Result(folder.key, seed, {threshold: outcome}, last, times, sizes, dataset, "digest")
    result.branched_from = branched_from
    write_json(folder.result_path, result.to_dict())
    write_json(folder.path / "environment.json", {"schema": SCHEMA, "device": "cpu: x86", "command": ["cbs", "-m"]})
    folder.write_trajectory(seen)
    return folder


def arm(study: Path, config: Config, steps: Sequence[float], **how: Any) -> RunFolder:
    return [write(study, config, seed, n, **how) for seed, n in enumerate(steps)][-1]


def answered(study: Path, *arms: str, thresholds: list[float] | None = None, metric: str | None = None) -> Findings:
    return report.compare(study, thresholds, metric, arms)


SPREAD = np.exp(0.08 * np.array([-1.1, 0.6, 0.1, 1.3, -0.7, -0.4]))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "results" / "arms"


@pytest.fixture
def dearer(tiny: Tiny, study: Path) -> Path:
    """RMSProp takes half the steps of Adam, and three gradients for each of Adam's."""
    arm(study, tiny("batch_size=16"), 1200 * SPREAD, gradients=1.0)
    arm(study, tiny("batch_size=16", "optimizer=rmsprop"), 600 * SPREAD[::-1], gradients=3.0)
    return study


def test_fewer_steps_and_more_compute_are_told_apart(dearer: Path) -> None:
    found = answered(dearer)
    assert [a.label for a in found.field.arms] == ["adam", "rmsprop"]
    assert found.main == 4.0
    ratios = {q.axis: q.pairs[0].found for q in found.questions if q.threshold == 4.0}
    assert ratios["steps"].ratio == pytest.approx(2, rel=0.1)
    assert ratios["sfo"].ratio == pytest.approx(ratios["steps"].ratio / 3, rel=1e-3)
    assert ratios["seconds"].ratio == pytest.approx(ratios["steps"].ratio, rel=1e-3)
    assert (ratios["steps"].sign, ratios["sfo"].sign) == (1, -1)
    told = verdicts.sentences(found)
    assert told[0].startswith("Steps to FID ≤ 4: rmsprop has the least median")
    assert "adam takes 1.9" in told[0] or "adam takes 2" in told[0]
    assert told[-1] == "The axes disagree: adam takes fewer gradients than rmsprop, but more steps and seconds."


def test_every_median_is_that_of_the_runs(dearer: Path) -> None:
    found = answered(dearer)
    adam = found.taken[4.0][0]
    taken = sorted(next(s for s in STEPS if s >= n) for n in 1200 * SPREAD)
    assert adam.median("steps") == np.median(taken)
    assert adam.interval("steps") == ((taken[0], taken[-1]), 1 - 2 / 64)
    assert adam.median("sfo") == 16 * np.median(taken)


def test_what_is_the_same_is_undecided_and_says_how_many_seeds_would_tell(tiny: Tiny, study: Path) -> None:
    arm(study, tiny("batch_size=16"), 1000 * SPREAD)
    arm(study, tiny("batch_size=64"), 1060 * SPREAD[::-1])
    found = answered(study)
    assert [a.label for a in found.field.arms] == ["b=16", "b=64"]
    steps = found.question("steps", 4.0)
    assert steps is not None
    assert not steps.pairs[0].found.decided
    assert verdicts.sentences(found)[0].startswith("Steps to FID ≤ 4: b=16 has the least median")
    assert "Undecided: b=64" in verdicts.sentences(found)[0]
    assert "seeds would decide it" in verdicts.sentences(found)[0]
    gradients = found.question("sfo", 4.0)
    assert gradients is not None
    assert gradients.pairs[0].found.sign == -1  # records without a count: images consumed
    assert gradients.pairs[0].found.ratio == pytest.approx(steps.pairs[0].found.ratio / 4, rel=1e-3)  # type: ignore[operator]


def test_arms_that_never_arrive_are_bounds_and_not_numbers(tiny: Tiny, study: Path) -> None:
    arm(study, tiny("batch_size=16"), 900 * SPREAD)
    arm(study, tiny("batch_size=2", "target.budget_steps=500"), 9000 * SPREAD)
    found = answered(study, thresholds=[4.0])
    never = next(a for a in found.taken[4.0] if a.arm.label == "b=2")
    assert (never.reached, never.censored) == (0, 6)
    assert never.median("steps") == math.inf
    assert never.interval("steps")[0] == (STEPS[35], None)
    pair = next(q for q in found.questions if (q.axis, q.threshold) == ("steps", 4.0)).pairs[0].found
    assert (pair.ratio, pair.ratio_ci[1]) == (None, None)
    assert 2 < pair.ratio_ci[0] < 3000 / 850  # type: ignore[operator]
    assert "b=2 takes at least" in verdicts.sentences(found)[0]
    assert "∞" in report.text(found)
    shown = json.loads(json.dumps(report.as_json(found), allow_nan=False))
    assert [row["steps"]["median"] for row in shown["to_threshold"] if row["arm"] == "b=2"] == [None]


def test_where_nobody_arrives_the_verdict_is_about_what_all_came_to(tiny: Tiny, study: Path) -> None:
    """As with a target out of reach, which lets every run spend its whole budget."""
    arm(study, tiny("batch_size=16"), 20_000 * SPREAD)
    arm(study, tiny("batch_size=64"), 40_000 * SPREAD)
    found = answered(study)
    best = 4 * 40_000 * np.median(SPREAD) / STEPS[35]
    assert best <= found.main <= 1.1 * best  # type: ignore[operator]
    after = found.question("steps", None)
    assert after is not None
    assert after.at == {("b=16", "b=64"): STEPS[35]}
    assert after.pairs[0].found.ratio == pytest.approx(0.5, rel=1e-3)


def test_a_diverged_run_counts_as_one_that_never_arrived(tiny: Tiny, study: Path) -> None:
    arm(study, tiny("batch_size=16"), 900 * SPREAD)
    arm(study, tiny("batch_size=2", "target.budget_steps=500"), 9000 * SPREAD, diverged=True, budget=500)
    found = answered(study, thresholds=[4.0])
    question = found.question("steps", 4.0)
    assert question is not None
    (pair,) = question.pairs
    assert (pair.one, pair.found.sign, pair.found.ratio_ci[1]) == ("b=2", 1, None)
    assert "b=2: 6 runs diverged, and arrived nowhere beyond." in verdicts.notes(found)


def test_a_run_that_diverged_before_it_was_evaluated_is_a_miss(tiny: Tiny, study: Path) -> None:
    arm(study, tiny("batch_size=16"), 1000 * SPREAD)
    arm(study, tiny("batch_size=64"), 700 * SPREAD)
    for seed in range(4):
        broken = write(study, tiny("batch_size=64"), seed, 700, diverged=True)
        broken.write_trajectory([])
    found = answered(study)
    taken = {a.arm.label: a for a in found.taken[4.0]}
    assert (taken["b=64"].reached, taken["b=64"].diverged) == (2, 4)
    assert taken["b=64"].median("steps") == math.inf
    assert found.field.left_out == 0
    assert "b=64: 4 runs diverged, and arrived nowhere beyond." in verdicts.notes(found)
    assert report.write(found, study, ["cbs"]).exists()
    for seed in range(6):
        write(study, tiny("batch_size=64"), seed, 700, diverged=True).write_trajectory([])
    lost = answered(study)
    assert lost.main == 4.0
    assert " nan" not in report.text(lost)
    assert report.write(lost, study, ["cbs"]).exists()
    for seed in range(6):
        write(study, tiny("batch_size=16"), seed, 700, diverged=True).write_trajectory([])
    with pytest.raises(InputError, match="every run diverged before its first"):
        answered(study)


def test_a_label_with_brackets_names_its_arm(tiny: Tiny, study: Path) -> None:
    for at in ("[100]", "[300]"):
        schedule = ("batch_size.initial=8", f"batch_size.schedule.at={at}", "batch_size.schedule.factor=2")
        arm(study, tiny("batch_size=at_steps", *schedule), 1000 * SPREAD)
    labels = [a.label for a in answered(study).field.arms]
    assert all("[" in label for label in labels)
    assert [a.label for a in answered(study, *labels).field.arms] == labels


def test_branches_are_pairs_and_alike_until_they_part(tiny: Tiny, study: Path) -> None:
    parent = arm(study, tiny("batch_size=16"), 1000 * SPREAD)
    for b, speed in (("32", 0.8), ("64", 0.7)):
        for seed, n in enumerate(1000 * speed * SPREAD):
            origin = {"key": parent.key, "seed": seed, "step": 300}
            write(study, tiny(f"batch_size={b}"), 10 + seed, n, branched_from=origin)
    found = answered(study)
    arms = {a.label: a for a in found.field.arms}
    assert set(arms) == {"b=16", "b=32", "b=64"}
    assert lineage(arms["b=16"], arms["b=32"]) == lineage(arms["b=32"], arms["b=64"]) == 300
    question = found.question("steps", 4.0)
    assert question is not None
    assert all(p.found.paired and p.found.seeds == 6 and p.shared == 300 for p in question.pairs)
    assert any("the same runs up to step 300" in note for note in verdicts.notes(found))


def test_of_a_score_more_is_better(dearer: Path) -> None:
    found = answered(dearer, metric="inception_score")
    assert found.field.at == "IS ≥"
    levels = list(found.taken)
    assert levels == sorted(levels)
    question = found.question("steps", found.main)
    assert question is not None
    assert question.pairs[0].found.sign == 1
    after = found.question("steps", None)
    assert after is not None
    assert after.pairs[0].found.sign == 1  # after as many steps RMSProp's score is higher
    assert "rmsprop: better" in next(row for row in report.tables(found)[-1].text().splitlines() if "steps" in row)
    told = next(p for p in to_dict(found)["pairs"] if p["threshold"] is None and p["axis"] == "steps")
    assert told["ratio"] < 1
    assert told["ratio_ci"][0] < told["ratio"] < told["ratio_ci"][1] < 1
    assert "adam has 0." in next(s for s in verdicts.sentences(found) if "after" in s)
    assert any("stopped by another metric" in note for note in verdicts.notes(found))


def test_what_cannot_be_compared_is_one_sentence(dearer: Path, tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"thresholds has 3: runs of .* stopped at 4, .*target.thresholds"):
        answered(dearer, thresholds=[3.0])
    with pytest.raises(InputError, match=r"arms is 'sgd': .* has 'adam', 'rmsprop'"):
        answered(dearer, "sgd")
    with pytest.raises(InputError, match="has 1 arm"):
        answered(dearer, "ad*")
    with pytest.raises(InputError, match=r"metric is 'kid': .* has fid, inception_score"):
        answered(dearer, metric="kid")
    arm(dearer, tiny("batch_size=16", "target.samples=64"), 900 * SPREAD)
    with pytest.raises(InputError, match=r"target.samples is 128 and 64: .* choose some that don't by --arms"):
        answered(dearer)


def test_seconds_leave_evaluations_out(dearer: Path) -> None:
    run = read_study(dearer)[0]
    seen = [
        Evaluation(s, s, 0.1 * s + 3 * i, 9.0, repeats=(9.0,) * (s == 300)) for i, s in ((1, 100), (2, 300), (4, 400))
    ]
    run.__dict__["trajectory"] = seen
    run.result.seconds.update(training=40.0, evaluating=12.0)
    assert seconds(run) == pytest.approx([10.0, 30.0, 40.0])
    run.result.stack.append({"id": "s", "step": 0, "width": 2, "alone_seconds": 0.5})
    assert seconds(run) == pytest.approx([50.0, 150.0, 200.0])


def course(values: Sequence[float], met: bool) -> Course:
    x = np.arange(1.0, 1 + len(values))
    return Course(None, dict.fromkeys(("steps", "sfo", "seconds"), x), np.array(values), met, False)  # type: ignore[arg-type]


def test_a_run_that_arrived_does_not_leave_the_median_to_the_slow() -> None:
    runs = [course([9, 4], True), course([9, 6, 5, 4], True), course([9, 8, 7, 6, 5, 4], True)]
    at, middle, low, high = band(Arm("a", "k", {}, runs), "steps")
    assert at.tolist() == [1, 2, 3, 4, 5, 6]
    assert middle.tolist() == [9, 6, 5, 4, 4, 4]
    assert (low.tolist(), high.tolist()) == ([9, 4, 4, 4, 4, 4], [9, 8, 7, 6, 5, 4])
    given_up = [*runs[:2], course([9, 8, 7], False)]
    assert band(Arm("a", "k", {}, given_up), "steps")[0].tolist() == [1, 2, 3]


def test_a_metric_is_compared_where_no_run_was_stopped_by_it(dearer: Path) -> None:
    found = answered(dearer)
    question = found.question("steps", None)
    assert question is not None
    first = min(c.x["steps"][-2] for a in found.field.arms for c in a.courses)
    assert question.at == {("adam", "rmsprop"): first}
    assert question.pairs[0].found.ratio == pytest.approx(2, rel=1e-3)


def test_the_command_writes_a_page_and_figures(dearer: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(dearer)]) == 0
    assert "The axes disagree" in capsys.readouterr().out
    for name in ("metric", "costs", "ratios", "after"):
        assert (dearer / "figures" / f"compare_{name}.png").stat().st_size > 5000
    assert "rmsprop" in (dearer / "tables" / "compare_pairs.csv").read_text()
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1280, 390):
            page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto((dearer / "compare.html").resolve().as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("figure svg").count() == 4
            assert "The axes disagree" in page.locator(".verdict").inner_text()
            assert page.locator("#table-compare_pairs tbody tr").count() >= 3
            assert said == []
        browser.close()


def test_json_needs_nothing_that_draws(dearer: Path) -> None:
    unwanted = {"matplotlib", "jinja2", "torch"}
    code = f"""import sys, analysis.__main__ as a
done = a.main(["compare", {str(dearer)!r}, "--json"])
sys.exit(done or bool({unwanted} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["threshold"] == 4.0
    assert {p["axis"] for p in shown["pairs"]} == {"steps", "sfo", "seconds"}
    assert all(p["p_exact"] >= 2 / 64 for p in shown["pairs"])


def test_the_sfo_of_a_curve_is_what_its_records_count(tiny: Tiny, study: Path, tmp_path: Path) -> None:
    """Two gradients a step and image: twice the SFO, the same b*; records without a count are as before."""
    sizes, other = (4, 8, 16, 64), tmp_path / "results" / "plain"
    for b in sizes:
        for seed, noise in enumerate(SPREAD[:3]):
            n = 600 * b / (b - 2.5) * noise
            write(study, tiny(f"batch_size={b}"), seed, n, gradients=2.0)
            write(other, tiny(f"batch_size={b}"), seed, n)
    (twice,), (once,) = from_study(study), from_study(other)
    assert (twice.gradients, once.gradients) == (2.0, 1.0)
    one, two = fit(once), fit(twice)
    assert two.b_star == one.b_star
    assert two.sfo == 2 * one.sfo  # type: ignore[operator]
    assert two.sfo_ci == pytest.approx([2 * end for end in one.sfo_ci])  # type: ignore[operator]
    papers = [f.hyperbola.sfo_ci for f in (one, two)]
    assert papers[1] == pytest.approx([2 * end for end in papers[0]])  # type: ignore[operator]
