"""Four answers from records whose b* and costs are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis.__main__ import main
from analysis.answer import predict
from analysis.curves.studies import from_study
from analysis.fitting.fit import fit
from cbs.key import trial_key
from cbs.outcome import Censored, Evaluation, Noise, Outcome, Reached
from cbs.record import SCHEMA, Result, RunFolder, write_json
from cbs.schema import Config

N_INF, SECONDS = 1000.0, {"training": 20.0, "evaluating": 16.0}


def of(norm2: float, error: float = 0.1) -> Noise:
    scale = 60 / norm2 if norm2 > 0 else None
    return Noise(12, 60.0, 1.0, norm2, error, 0.0, scale, scale, {"0": [60.0, norm2]})


def write(study: Path, config: Config, seed: int, b0: float, noise: bool = True, device: str = "cpu: x86") -> None:
    """A run whose N(b) is the hyperbola's, with evaluations at 150, 300 and its end."""
    b = config.batch_size.initial
    plain = config.to_dict()
    folder = RunFolder(study / "trials" / trial_key(plain, "digest"), seed)
    n = round(N_INF * b / (b - b0) * math.exp(0.05 * (seed - 0.5))) if b > b0 else None
    outcome: Outcome = Censored(9000) if n is None else Reached(n - 50, n)
    last = n or 9000
    known = {"generator": of(6.0), "discriminator": of(-1.0, 2.0)}
    late = {"generator": of(1.0), "discriminator": of(2.0)}
    folder.path.mkdir(parents=True)
    (folder.trial / "trial.yaml").write_text(yaml.safe_dump({"schema": SCHEMA, "key": folder.key, "config": plain}))
    sizes, dataset = {"generator": 12_640, "discriminator": 1}, {"name": "digits", "count": 1797, "sha256": "0"}
    result = Result(folder.key, seed, {4.0: outcome}, last, SECONDS, sizes, dataset, "digest")
    write_json(folder.result_path, result.to_dict())
    write_json(folder.path / "environment.json", {"schema": SCHEMA, "device": device})
    folder.write_trajectory(
        [
            Evaluation(150, 150 * b, 1.8, 90.0),
            Evaluation(300, 300 * b, 3.6, 50.0, noise=known if noise else {}),
            Evaluation(last, last * b, 36.0, 5.0, noise=late if noise else {}),
        ]
    )


@pytest.fixture
def study(tiny: Callable[..., Config], tmp_path: Path) -> Path:
    """Adam with b* = 6 and noise on record, RMSProp with b* = 3 and none; ten runs and eight of 36 s."""
    folder = tmp_path / "results" / "sweep"
    for b in (2, 4, 8, 16, 32):
        for seed in (0, 1):
            write(folder, tiny(f"batch_size={b}", "target.budget_steps=500"), seed, 3.0)
            if b > 2:
                write(folder, tiny("optimizer=rmsprop", f"batch_size={b}", "noise_batches=0"), seed, 1.5, noise=False)
    return folder


def test_four_answers_and_what_each_takes(study: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unit"] == "core hours"
    rows = {(row["curve"], row["kind"], row["step"]): row for row in found["answers"]}
    assert rows["Adam", "measured", None]["b_star"] == 8
    assert rows["Adam", "measured", None]["hours"] == pytest.approx(10 * 36 / 3600)
    low, high = rows["Adam", "b*", None]["interval"]
    assert low < 6 < high
    assert low < rows["Adam", "b*", None]["b_star"] < high
    assert rows["Adam", "b*", None]["ratio"] == 1
    assert rows["Adam", "paper's form", None]["b_star"] == pytest.approx(6.0, rel=0.1)
    own, carried = rows["Adam", "closed form", None], rows["RMSProp", "closed form", None]
    assert (own["b_star"], own["hours"]) == (pytest.approx(8), 0)
    # The closed forms at equal rates: Adam's has (1 − β1)³/√(1 − β2) more below the line.
    assert carried["b_star"] == pytest.approx(8 * 0.5**3 / math.sqrt(0.001))
    assert carried["hours"] == pytest.approx(0.1)
    assert rows["RMSProp", "measured", None]["hours"] == pytest.approx(8 * 36 / 3600)
    early, late = (
        rows["Adam", "noise, generator", 300],
        rows["Adam", "noise, generator", round(1600 * math.exp(-0.025))],
    )
    assert early["b_star"] == 10
    assert early["hours"] == pytest.approx(3.6 / 3600)
    assert early["ratio"] == pytest.approx(10 / rows["Adam", "b*", None]["b_star"])
    assert "one run, b = 8, up to step 300" in early["source"]
    assert late["b_star"] == 60
    hidden = rows["Adam", "noise, discriminator", 300]
    assert hidden["b_star"] is None  # |G|² was drowned: the scale has a lower bound only
    assert hidden["interval"] == [pytest.approx(60 / (-1 + 1.96 * 2), rel=0.02), None]
    missing = rows["RMSProp", "noise, generator", None]
    assert (missing["b_star"], missing["hours"]) == (None, None)
    assert "noise_batches is 0" in missing["source"]


def test_it_says_what_a_noise_scale_is_worth_here(study: Path, capsys: pytest.CaptureFixture) -> None:
    (b_star,) = [fit(one).b_star for one in from_study(study) if one.optimizer == "adam"]
    assert b_star is not None
    assert main(["predict", str(study)]) == 0
    told = capsys.readouterr().out
    assert "isn't b*. The generator's is" in told
    low, high = told.split("The generator's is ")[1].split(" times b*")[0].split(" to ")
    assert (float(low), float(high)) == (pytest.approx(10 / b_star, rel=0.01), pytest.approx(60 / b_star, rel=0.01))
    assert "noise, generator, step 300" in told


def test_gpus_count_each(tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "results" / "sweep"
    write(folder, tiny("batch_size=8", "gpus_per_trial=4"), 0, 3.0, noise=False, device="cuda: NVIDIA H200")
    assert main(["predict", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unit"] == "GPU hours"
    assert found["answers"][0]["hours"] == pytest.approx(4 * 36 / 3600)
    assert "several processes" in found["answers"][-1]["source"]
    assert "not known" in found["note"]


@given(st.floats(-5, 100), st.floats(0.01, 10))
def test_an_interval_holds_its_scale_and_is_open_where_the_gradient_may_be_nothing(norm2: float, error: float) -> None:
    value, (low, high) = predict.with_error(of(norm2, error))
    assert (value is None) == (norm2 <= 0)
    if value is not None:
        assert low is not None
        assert low <= value
        assert high is None or value <= high
    assert high is None or norm2 > 1.9 * error
