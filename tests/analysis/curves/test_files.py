"""Curves from frames, CSV and Parquet files, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import describe, fit, from_file, from_frame
from cbs.errors import InputError
from tests.analysis.simulation import Scenario, curve, simulate
from tests.conftest import command


def frame() -> pd.DataFrame:
    return simulate(Scenario(3.0, 0.2, 3, budget=8.0), np.random.default_rng(2)).frame


def test_a_miss_counts_as_infinite_in_the_median() -> None:
    rows = [(2, s, "censored", 100, 100) for s in range(2)] + [(2, 2, "reached", 10, 20)]
    rows += [(4, s, "reached", 20, 30) for s in range(3)]
    found = curve(rows)
    assert math.isinf(found.medians()[2])
    assert found.measured().b_star == 4


def test_shares_per_batch_size() -> None:
    found = curve([(2, 0, "censored", 9, 9), (2, 1, "diverged", 3, 3), (4, 0, "reached", 1, 2)]).shares()
    assert found.loc[2].to_dict() == {"reached": 0, "censored": 1, "diverged": 1, "runs": 2}
    assert found.loc[4].to_dict() == {"reached": 1, "censored": 0, "diverged": 0, "runs": 1}


def test_three_lines_of_python() -> None:
    (one,) = from_frame(frame())
    result = fit(one)
    assert result.b_star_ci[0] < result.b_star < result.b_star_ci[1]
    assert result.predict(np.array([8.0, 16.0])).shape == (2,)
    assert "b* =" in describe(result)


def test_curves_are_kept_apart_by_curve_optimizer_and_threshold() -> None:
    """Mixed targets in one file are no mixed curve."""
    parts = [
        frame().assign(curve=name, optimizer=optimizer, threshold=threshold)
        for name in ("width 16", "width 32")
        for optimizer in ("adam", "rmsprop")
        for threshold in (40.0, 60.0)
    ]
    found = from_frame(pd.concat(parts))
    assert len(found) == 8
    assert found[0].label == "width 16 adam ≤ 40"
    assert found[0].threshold == 40.0
    assert {len(c.frame) for c in found} == {len(frame())}
    known = frame().assign(optimizer="adam", lr_generator=1e-4, parameters=10, dataset_size=100)
    assert from_frame(known)[0].facts == {"lr_generator": 1e-4, "parameters": 10, "dataset_size": 100}


def test_csv_and_parquet_hold_the_same_curves(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "curve.csv", index=False)
    frame().to_parquet(tmp_path / "curve.parquet")
    nullable = frame().convert_dtypes()
    assert str(nullable["batch_size"].dtype) == "Int64"
    nullable.to_parquet(tmp_path / "nullable.parquet")
    (one,), (other,) = from_file(str(tmp_path / "curve.csv")), from_file(tmp_path / "curve.parquet")
    (third,) = from_file(tmp_path / "nullable.parquet")
    assert fit(one).b_star == fit(other).b_star == fit(third).b_star


def test_fit_from_csv(tmp_path: Path) -> None:
    """The interface that scripts rely on."""
    file = tmp_path / "curve.csv"
    pd.concat([frame().assign(optimizer="adam"), frame().assign(optimizer="mine")]).to_csv(file, index=False)
    done = command("fit", "--csv", str(file), "--json", "--tables", "tables", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["curves"]
    assert [c["optimizer"] for c in found] == ["adam", "mine"]
    needed = {"label", "optimizer", "b_star", "b_star_ci", "measured_b_star", "censored", "verdict", "notes", "forms"}
    assert needed | {"probability", "as_good", "regret_95", "hyperbola", "costs", "variants"} <= set(found[0])
    assert not {"n_inf", "b0", "sigma"} & set(found[0])
    assert set(found[0]["probability"]) == {str(2**k) for k in range(1, 11)}
    assert sum(found[0]["probability"].values()) == pytest.approx(1)
    paper = found[0]["hyperbola"]
    assert {"n_inf", "b0", "b_star", "b_star_ci", "p_value", "rejected"} <= set(paper)
    assert paper["b_star"] == pytest.approx(2 * paper["b0"])
    low, high = found[0]["b_star_ci"]
    assert low < found[0]["b_star"] < high
    assert {form["name"] for form in found[0]["forms"]} == {"hyperbola", "two_term", "power_law", "monotone"}
    assert all({"p_value", "rejected"} <= set(form) for form in found[0]["forms"])
    wide = command("fit", "--csv", str(file), "--json", "--within", "0.5", cwd=tmp_path, module="analysis")
    other = json.loads(wide.stdout)["curves"][0]
    assert (other["b_star"], other["margin"]) == (found[0]["b_star"], 0.5)
    assert other["as_good"][0] < found[0]["b_star"] < other["as_good"][1]
    assert json.loads(done.stdout)["differences"][0]["octaves"] == pytest.approx(0)
    table = pd.read_csv(tmp_path / "tables" / "curves.csv")
    assert table["b* (95 %) low"][0] == pytest.approx(low)
    latex = (tmp_path / "tables" / "curves.tex").read_text()
    assert latex.count("\\toprule") == latex.count("\\bottomrule") == 1
    assert "$b^\\ast$" in latex
    minimal = tmp_path / "minimal.csv"
    minimal.write_text(
        "batch_size,steps,outcome\n2,100,censored\n4,90,reached\n8,60,reached\n16,50,reached\n32,48,reached\n"
    )
    (only,) = from_file(minimal)
    assert only.frame["lower"].isna().all()
    both = command("fit", "--csv", str(minimal), "--csv", str(file), cwd=tmp_path, module="analysis")
    assert both.returncode == 0, both.stderr
    assert "minimal: all" in both.stdout
    assert "curve: Adam" in both.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size,steps\n1,2\n", "no column 'outcome'"),
        ("batch_size,steps,outcome\n0,2,reached\n", "line 2: batch_size is"),
        ("batch_size,steps,outcome\n2,x,reached\n", "line 2: steps is x: it must be a number above 0"),
        ("batch_size,steps,outcome\n2,5,reached\n2,5,reechd\n", "line 3: outcome is 'reechd': did you mean reached?"),
        ("batch_size,steps,outcome,lower\n2,5,reached,6\n", "line 2: lower is 6: it must be below steps"),
        ("batch_size,steps,outcome,threshold\n2,5,reached,-1\n", "line 2: threshold is"),
        ("batch_size,steps,outcome\n", "has no rows"),
        ("batch_size,steps,outcome\n2,5,\n", "line 2: outcome is ''"),
        ("batch_size,steps,outcome\n2,inf,reached\n", "line 2: steps is inf"),
        ("batch_size,steps,outcome\n,5,reached\n", "line 2: batch_size is empty"),
        ("batch_size,steps,outcome,lower\n2,5,reached,abc\n", "line 2: lower is abc: it must be a number, 0 or above"),
        ("batch_size,steps,outcome,beta1\n2,5,reached,half\n", "line 2: beta1 is half"),
        (
            "batch_size,steps,outcome,seed\n2,5,reached,0\n2,6,reached,0\n",
            "line 3: batch_size 2, seed 0 stands a second",
        ),
    ],
)
def test_a_bad_csv_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    done = command("fit", "--csv", "bad.csv", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_given_is_one_sentence(tmp_path: Path) -> None:
    done = command("report", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "give a study's folder" in done.stderr


def test_files_with_one_name_are_told_apart_and_thresholds_chosen(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        parts = [frame().assign(threshold=t) for t in (40.0, 60.0)]
        pd.concat(parts).to_csv(tmp_path / folder / "curve.csv", index=False)
    both = ("fit", "--csv", "x/curve.csv", "--csv", "y/curve.csv", "--threshold", "40")
    done = command(*both, "--json", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    labels = [c["label"] for c in json.loads(done.stdout)["curves"]]
    assert labels == ["x/curve.csv: ≤ 40", "y/curve.csv: ≤ 40"]
    wrong = command("fit", "--csv", "x/curve.csv", "--threshold", "50", cwd=tmp_path, module="analysis")
    assert wrong.returncode == 2
    assert "threshold is 50: x/curve.csv has 40, 60" in wrong.stderr


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> pd.DataFrame:
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(InputError, match=r"pip install 'cbs-gan\[parquet\]'"):
        from_file(tmp_path / "curve.parquet")
