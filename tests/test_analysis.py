"""Closed forms, the fit with censored runs, and the command line of analysis."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import curve_fit
from scipy.stats import norm

from analysis import bounds, models, report
from analysis.curves import Curve, from_csv, from_study
from analysis.fit import fit
from analysis.likelihood import Likelihood
from cbs.errors import InputError
from tests.conftest import TINY, command

LSUN, CELEBA = 3_033_042, 162_770
GAN = {"parameters": 3_576_704, "beta1": 0.5, "beta2": 0.999}


def test_the_slides_figures() -> None:
    """Sato & Iiduka (ICML 2023): r = 788.7 from Adam's 2^5 on LSUN, carried over."""
    ratio = 32 / bounds.factor("adam", 1e-4, dataset_size=LSUN, **GAN)
    assert ratio == pytest.approx(788.7, abs=0.05)

    def estimated(optimizer: str, lr: float, size: int) -> float:
        return 788.7 * bounds.factor(optimizer, lr, dataset_size=size, **GAN)

    found = [
        estimated("adabelief", 3e-4, LSUN),
        estimated("rmsprop", 1e-4, LSUN),
        estimated("adam", 1e-4, CELEBA),
        estimated("adabelief", 5e-4, CELEBA),
        estimated("rmsprop", 3e-4, CELEBA),
    ]
    assert found == pytest.approx([48.0, 126.5, 1.7, 4.3, 20.4], abs=0.05)
    assert [bounds.power_of_two(b) for b in found] == [5, 7, 1, 2, 4]


@pytest.mark.parametrize(
    ("b", "exponent"), [(1, 0), (1.5, 0), (1.51, 1), (3, 1), (3.1, 2), (48, 5), (48.1, 6), (0.3, 0)]
)
def test_powers_of_two_are_nearest_in_plain_distance_ties_down(b: float, exponent: int) -> None:
    assert bounds.power_of_two(b) == exponent


def test_closed_forms_refuse_what_has_none() -> None:
    with pytest.raises(InputError, match="optimizer is 'sgd'"):
        bounds.factor("sgd", 1e-4, 1, 1)
    with pytest.raises(InputError, match="beta1 is 1"):
        bounds.factor("adam", 1e-4, 1, 1, beta1=1)
    with pytest.raises(InputError, match="lr is 0"):
        bounds.factor("adam", 0, 1, 1)


@given(st.floats(1, 1e6), st.floats(0.01, 1e4), st.floats(1.001, 1e3))
def test_the_hyperbola_falls_is_convex_and_has_its_least_sfo_at_two_b0(n_inf: float, b0: float, factor: float) -> None:
    b = b0 * np.array([factor, factor * 1.1, factor * 1.2])
    n = models.hyperbola(b, n_inf, b0)
    assert (np.diff(n) < 0).all()
    sfo = n * b
    for values in (n, sfo):  # convex: the chord lies above, in steps of equal length
        assert values[0] + values[2] >= 2 * values[1] * (1 - 1e-9)
    best = models.critical_batch_size(b0)
    least = models.least_sfo(n_inf, b0)
    assert models.hyperbola(best, n_inf, b0) * best == pytest.approx(least, rel=1e-9)
    assert (sfo >= least * (1 - 1e-9)).all()
    assert math.isinf(models.hyperbola(b0, n_inf, b0))


def curve(rows: list[tuple], optimizer: str = "adam") -> Curve:
    return Curve(optimizer, optimizer, pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "lower", "steps"]))


def simulated(
    n_inf: float, b0: float, sigma: float, seeds: int, budget: float, random: int, precision: float = 0.05
) -> Curve:
    """Runs whose N is log-normal around the hyperbola, seen on a geometric cadence up to a budget."""
    rng = np.random.default_rng(random)
    rows = []
    for b in 2.0 ** np.arange(1, 9):
        for seed in range(seeds):
            n = models.hyperbola(b, n_inf, b0) * math.exp(sigma * rng.normal())
            if n > budget:
                rows.append((int(b), seed, "censored", budget, budget))
            else:
                upper = (1 + precision) ** math.ceil(math.log(n) / math.log(1 + precision))
                rows.append((int(b), seed, "reached", upper / (1 + precision), upper))
    return curve(rows)


def test_an_uncensored_fit_is_scipys_least_squares() -> None:
    rng = np.random.default_rng(1)
    b = np.repeat(2.0 ** np.arange(2, 9), 4)
    n = models.hyperbola(b, 1500, 2.9) * np.exp(0.1 * rng.normal(size=len(b)))
    rows = [(int(x), i % 4, "reached", math.nan, y) for i, (x, y) in enumerate(zip(b, n, strict=True))]
    found = fit(curve(rows))
    best, _ = curve_fit(
        lambda x, log_n, b0: np.log(models.hyperbola(x, np.exp(log_n), b0)),
        b,
        np.log(n),
        p0=(7, 1),
        bounds=([0, 0], [20, 3.999]),
    )
    assert found.n_inf == pytest.approx(math.exp(best[0]), rel=1e-4)
    assert found.b0 == pytest.approx(best[1], rel=1e-3)
    residual = np.log(n) - np.log(models.hyperbola(b, math.exp(best[0]), best[1]))
    assert found.sigma == pytest.approx(residual.std(), rel=1e-3)
    assert found.sfo == pytest.approx(4 * found.n_inf * found.b0)


def test_a_likelihood_worked_out_by_hand() -> None:
    rows = [(8, 0, "reached", math.nan, 900), (8, 1, "reached", 700, 800), (4, 0, "censored", 5000, 5000)]
    rows += [(16, 0, "reached", 0, 300), (4, 1, "diverged", 60, 60), (1, 0, "censored", 100, 100)]
    n_inf, b0, sigma = 500.0, 2.0, 0.3
    at = {b: math.log(n_inf * b / (b - b0)) for b in (4, 8, 16)}
    normal = {b: norm(loc=m, scale=sigma) for b, m in at.items()}
    by_hand = [
        math.log(quad(normal[8].pdf, math.log(700), math.log(800))[0]),
        normal[8].logpdf(math.log(900)),
        normal[4].logsf(math.log(5000)),
        normal[16].logcdf(math.log(300)),
        normal[4].logsf(math.log(60)),
        0.0,  # below b0 no run arrives: certain
    ]
    found = Likelihood(curve(rows))(np.array(math.log(n_inf)), np.array(b0), np.array(math.log(sigma)))
    assert float(found) == pytest.approx(sum(by_hand), rel=1e-9)


def test_intervals_cover_the_truth() -> None:
    """Of 50 simulated sweeps with censored runs, a 95 % interval misses more than 8 with probability 0.0009."""
    hits = {"b_star": 0, "n_inf": 0}
    for random in range(50):
        found = fit(simulated(1800, 3.0, 0.25, seeds=3, budget=12_000, random=random))
        assert found.censored >= 3
        low, high = found.b_star_ci
        hits["b_star"] += (low or 0.0) <= 6.0 <= (high or math.inf)
        low, high = found.n_inf_ci
        hits["n_inf"] += (low or 0.0) <= 1800 <= (high or math.inf)
    assert min(hits.values()) >= 42, hits


def test_censored_runs_are_evidence() -> None:
    """Dropping them, or counting them as arrived, would move b0 down."""
    with_them = simulated(1800, 5.0, 0.2, seeds=4, budget=9000, random=5)
    frame = with_them.frame
    without = Curve("adam", "adam", frame[frame["outcome"] == "reached"].reset_index(drop=True))
    assert (frame["outcome"] == "censored").sum() >= 8
    assert fit(with_them).b_star_ci[0] is not None
    assert fit(with_them).b0 >= fit(without).b0 - 1e-6  # type: ignore[operator]


def test_the_band_holds_the_fit_and_widens_where_there_is_no_data() -> None:
    found = fit(simulated(1800, 3.0, 0.25, seeds=3, budget=12_000, random=3))
    b = np.array([4.0, 64.0])
    low, high = found.band(b)
    assert (low < found.predict(b)).all()
    assert (found.predict(b) < high).all()
    assert high[0] / low[0] > high[1] / low[1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(b, s, "censored", 100, 100) for b in (2, 4, 8) for s in range(2)], "No run reached its target"),
        ([(2, 0, "censored", 100, 100), (4, 0, "reached", 50, 60), (8, 0, "reached", 40, 50)], "at 2 batch sizes only"),
        ([(4, 0, "reached", 50, 60)], "at 1 batch size only"),
        ([(b, 0, "reached", math.nan, 1000 + 2000 / b) for b in (4, 8, 16, 32)], "Every run reached its target"),
        ([(b, 0, "reached", math.nan, 1000) for b in (4, 8, 16, 32)], "The least N·b is at the smallest"),
        ([(b, 0, "reached", math.nan, 40000 / b**1.5) for b in (4, 8, 16, 32)], "at the largest batch size swept, 32"),
        ([(b, 0, "diverged", 9, 9) for b in (4, 8)], "2 of 2 runs diverged"),
    ],
)
def test_what_can_not_be_told_is_said(rows: list[tuple], words: str) -> None:
    found = fit(curve(rows))
    assert any(words in note for note in found.notes), found.notes
    assert all(note.endswith(".") for note in found.notes)
    json.dumps(report.to_dict([found]), allow_nan=False)
    assert words.split()[0] in report.text([found])


def test_a_miss_counts_as_infinite_in_the_median() -> None:
    rows = [(2, s, "censored", 100, 100) for s in range(2)] + [(2, 2, "reached", 10, 20)]
    rows += [(4, s, "reached", 20, 30) for s in range(3)]
    found = curve(rows)
    assert math.isinf(found.medians()[2])
    assert found.measured_b_star() == 4


def test_fit_from_csv(tmp_path: Path) -> None:
    """The interface that scripts rely on."""
    file = tmp_path / "curve.csv"
    frame = simulated(1800, 3.0, 0.2, seeds=3, budget=12_000, random=2).frame
    pd.concat([frame.assign(optimizer="adam"), frame.assign(optimizer="mine")]).to_csv(file, index=False)
    done = command("fit", "--csv", str(file), "--json", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["curves"]
    assert [c["optimizer"] for c in found] == ["adam", "mine"]
    needed = {"optimizer", "n_inf", "b0", "b_star", "b_star_ci", "measured_b_star", "censored", "notes"}
    assert needed <= set(found[0])
    assert found[0]["b_star"] == pytest.approx(2 * found[0]["b0"])
    low, high = found[0]["b_star_ci"]
    assert low < found[0]["b_star"] < high
    minimal = tmp_path / "minimal.csv"
    minimal.write_text(
        "batch_size,steps,outcome\n2,100,censored\n4,90,reached\n8,60,reached\n16,50,reached\n32,48,reached\n"
    )
    (only,) = from_csv(minimal)
    assert only.frame["lower"].isna().all()
    assert command("fit", "--csv", str(minimal), cwd=tmp_path, module="analysis").returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size,steps\n1,2\n", "no column 'outcome'"),
        ("batch_size,steps,outcome\n0,2,reached\n", "line 2: batch_size is"),
        ("batch_size,steps,outcome\n2,x,reached\n", "line 2: steps is 'x'"),
        ("batch_size,steps,outcome\n2,5,reached\n2,5,reechd\n", "line 3: outcome is 'reechd': did you mean reached?"),
        ("batch_size,steps,outcome,lower\n2,5,reached,6\n", "line 2: lower is 6: it must be below steps"),
        ("batch_size,steps,outcome\n", "has no rows"),
    ],
)
def test_a_bad_csv_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    done = command("fit", "--csv", "bad.csv", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_estimate_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["estimate", "--lr", "1e-4", "--params", "3576704", "--dataset-size", "3033042", "--json"]
    adam = ["--optimizer", "adam", "--beta1", "0.5", "--beta2", "0.999", "--b-star", "32"]
    done = command(*arguments, *adam, cwd=tmp_path, module="analysis")
    assert json.loads(done.stdout)["ratio"] == pytest.approx(788.7, abs=0.05)
    done = command(*arguments, "--optimizer", "rmsprop", "--ratio", "788.7", cwd=tmp_path, module="analysis")
    assert json.loads(done.stdout)["b_star"] == pytest.approx(126.5, abs=0.05)
    done = command(*arguments, "--optimizer", "adan", "--ratio", "788.7", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "did you mean adam?" in done.stderr


def test_a_study_is_fitted_and_drawn(tmp_path: Path) -> None:
    sweep = ("-m", *TINY, "batch_size=4,16,64", "optimizer=adam,rmsprop", "seeds=2", "target.thresholds=[175,165]")
    assert command(*sweep, cwd=tmp_path).returncode == 0
    study = tmp_path / "results" / "sweep"
    curves = from_study(study, threshold=175.0)
    assert [c.label for c in curves] == ["adam", "rmsprop"]
    assert [c.threshold for c in from_study(study)] == [165.0, 165.0]
    assert len(curves[0].frame) == 6
    assert curves[0].facts["dataset_size"] == 1797
    with pytest.raises(InputError, match=r"threshold is 7: .* was run at 165, 175"):
        from_study(study, threshold=7.0)
    done = command("plots", "results/sweep", "--threshold", "175", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    for name in ("overview", "steps_to_target", "sfo", "metric_vs_steps"):
        for suffix in ("png", "svg"):
            assert (study / "figures" / f"{name}.{suffix}").stat().st_size > 5000
    shown = json.loads(command("fit", "results/sweep", "--json", cwd=tmp_path, module="analysis").stdout)
    assert {c["optimizer"] for c in shown["curves"]} == {"adam", "rmsprop"}
    more = ("-m", *TINY, "batch_size=4,16,64", "model.width=5", "seeds=2", "target.thresholds=[175,165]")
    assert command(*more, cwd=tmp_path).returncode == 0
    assert [c.label for c in from_study(study)] == ["adam width=4", "adam width=5", "rmsprop"]


def test_a_study_in_which_nothing_arrived_is_drawn_and_says_so(tmp_path: Path) -> None:
    assert command("-m", *TINY, "batch_size=16,64", "target.budget_steps=30", cwd=tmp_path).returncode == 0
    done = command("plots", "results/sweep", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    assert "No run reached its target" in done.stdout


def test_a_folder_without_records_is_one_sentence(tmp_path: Path) -> None:
    done = command("fit", "results/none", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "holds no finished run" in done.stderr
