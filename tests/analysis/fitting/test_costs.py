"""What a target costs over b: closed forms against scipy, intervals by simulation, and what a curve's records say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from analysis import fit, from_frame
from analysis.answer import pareto, sentences
from analysis.answer.numbers import to_dict
from analysis.answer.wording import least_at
from analysis.curves.curve import SPENT, Curve
from analysis.fitting.costs import front
from analysis.fitting.models import cheapest_batch_size, critical_batch_size, hyperbola, least_cost, least_sfo
from analysis.output import canvas
from cbs.pace import Pace, line
from tests.conftest import command

POSITIVE = st.floats(1e-6, 1e3)


@given(st.floats(0.1, 1e4), st.floats(1, 1e6), POSITIVE, POSITIVE)
def test_the_cheapest_batch_size_is_scipys(b0: float, n_inf: float, step: float, image: float) -> None:
    def log_cost(x: float) -> float:  # of ln(b − b0), on which it is convex
        b = b0 + math.exp(x)
        return float(np.log(hyperbola(b, n_inf, b0) * (step + image * b)))

    assume(b0 + math.exp(-6) > b0)
    found = minimize_scalar(log_cost, bounds=(-6, 25), method="bounded", options={"xatol": 1e-10})
    b = float(cheapest_batch_size(b0, step / image))
    assert b == pytest.approx(b0 + math.exp(found.x), rel=1e-4)
    assert float(least_cost(n_inf, b0, step, image)) == pytest.approx(math.exp(found.fun), rel=1e-9)
    assert b >= critical_batch_size(b0)


def test_where_a_step_alone_costs_nothing_it_is_b_star() -> None:
    assert cheapest_batch_size(7.0, 0.0) == critical_batch_size(7.0)
    assert least_cost(100.0, 7.0, 0.0, 1.0) == pytest.approx(least_sfo(100.0, 7.0))


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_is_better_than(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    found = front(x, y)
    for i in range(len(x)):
        beaten = any((x[j] <= x[i] and y[j] <= y[i]) and (x[j] < x[i] or y[j] < y[i]) for j in range(len(x)))
        there = any((x[j], y[j]) == (x[i], y[i]) for j in found)
        assert beaten != there
    assert (np.diff(x[found]) > 0).all()
    assert (np.diff(y[found]) < 0).all()


def test_a_line_through_measurements() -> None:
    assert line({b: 3.0 + 0.5 * b for b in (1, 8, 100)}) == pytest.approx((3.0, 0.5))
    assert line({8: 2.0}) == (2.0, 0.0)
    assert Pace(1.0, 1.0, 7.0, watts=50.0).through({2: 3.0 + 2, 4: 3.0 + 4}) == Pace(
        pytest.approx(3.0), pytest.approx(1.0), 7.0, watts=50.0
    )


SIZES = (2, 4, 8, 16, 32, 64, 128)


def curve(
    noise: float = 0.1, off: float = 0.05, step: float = 2e-3, image: float = 1e-4, seeds: int = 3, random: int = 0
) -> Curve:
    """N∞ = 1,000, b0 = 4, and steps that take step + image·b on a device of their own."""
    rng = np.random.default_rng(random)
    rows, spent = [], []
    for b in SIZES:
        for seed in range(seeds):
            n = float(hyperbola(b, 1000, 4.0)) * math.exp(noise * rng.normal())
            outcome = "reached" if n < 20_000 else "censored"
            rows.append((b, seed, outcome, min(n, 20_000)))
            taken = (step + image * b) * math.exp(off * rng.normal())
            spent.append((b, seed, "cuda: H", taken, taken, math.nan))
    (found,) = from_frame(pd.DataFrame(rows, columns=["batch_size", "seed", "outcome", "steps"]))
    found.spent = pd.DataFrame(spent, columns=list(SPENT))
    return found


def test_a_curves_costs_are_what_they_were_made_with() -> None:
    found = fit(curve(noise=0.01, off=0.0))
    assert found.costs is not None
    assert set(found.costs.known) == {"time"}
    cost = found.costs.known["time"]
    truth = float(cheapest_batch_size(4.0, 20.0))
    assert cost.cheapest is not None
    assert cost.cheapest.low <= truth <= cost.cheapest.high
    assert cost.cheapest.octaves <= 2  # swept by octaves
    assert cost.cheapest.least == pytest.approx(float(least_cost(1000, 4.0, 2e-3, 1e-4)), rel=0.05)
    assert cost.measured_b_star == 16
    assert (cost.step, cost.image) == pytest.approx((2e-3, 1e-4))
    assert cost.of_a_step(np.array([2.0, 8.0, 128.0])) == pytest.approx([2.2e-3, 2.8e-3, 14.8e-3])
    assert found.costs.title_of_time == "time = GPU hours"
    assert len(cost.runs) == int((found.curve.frame["outcome"] == "reached").sum())


def test_intervals_hold_the_truth() -> None:
    """Of 60 sweeps with 20 % noise between seeds and 15 % between runs' paces; 95 % ± 3 standard errors."""
    truth = float(cheapest_batch_size(4.0, 20.0)), float(least_cost(1000, 4.0, 2e-3, 1e-4))
    held = np.zeros(2)
    for random in range(60):
        found = fit(curve(0.2, 0.15, random=random))
        assert found.costs is not None
        cost = found.costs.known["time"]
        assert cost.cheapest is not None
        for i, (low, high) in enumerate((cost.cheapest.interval, cost.cheapest.least_ci)):
            held[i] += (low or 0.0) <= truth[i] <= (high or math.inf)
    assert (held >= 60 * 0.95 - 3 * math.sqrt(60 * 0.95 * 0.05)).all(), held


def test_runs_that_share_a_device_make_hours_another_cost() -> None:
    """Four to a device at b = 2 … 8: device hours fall there, and the least moves to smaller b."""
    shared = curve(noise=0.01, off=0.0)
    assert shared.spent is not None
    lanes = np.where(shared.spent["batch_size"] <= 8, 4, 1)
    shared.spent["device_seconds"] /= lanes
    found = fit(shared)
    assert found.costs is not None
    assert set(found.costs.known) == {"time", "hours"}
    time, hours = found.costs.known["time"], found.costs.known["hours"]
    assert hours.points[8] == pytest.approx(time.points[8] / 4 / 3600)
    assert hours.cheapest is not None
    assert time.cheapest is not None
    assert hours.cheapest.b_star < time.cheapest.b_star
    assert found.costs.title_of_time == "time"
    plain = json.loads(json.dumps(to_dict([found])))["curves"][0]["costs"]
    assert plain["hours"]["b_star"] == pytest.approx(hours.cheapest.b_star)
    assert plain["energy"] is None
    assert plain["device"] == "cuda: H"


def test_a_figure_for_each_cost(tmp_path: Path) -> None:
    one, other = curve(), curve(random=1)
    assert one.spent is not None
    one.spent["device_seconds"] /= np.where(one.spent["batch_size"] <= 16, 2, 1)
    one.spent["joules"] = 300 * one.spent["device_seconds"]
    drawn = pareto.everything([fit(one), fit(other)])
    assert list(drawn) == ["pareto", "pareto_hours", "pareto_energy"]
    panels = [sum(axes.has_data() for axes in figure.axes) for figure in drawn.values()]
    assert panels == [2, 1, 1]
    for name, figure in drawn.items():
        assert all(path.stat().st_size > 5000 for path in canvas.save(figure, tmp_path / name))
    one.spent = None
    assert list(pareto.everything([fit(one)])) == []


def test_other_devices_are_left_out_and_said() -> None:
    mixed = curve()
    assert mixed.spent is not None
    mixed.spent.loc[mixed.spent["seed"] == 2, ["device", "seconds"]] = ["cuda: slow", 1.0]
    found = fit(mixed)
    assert found.costs is not None
    assert found.costs.others == len(SIZES)
    assert found.costs.known["time"].step < 0.01
    assert "7 runs elsewhere are left out" in sentences.text([found])


def test_what_a_step_takes_need_be_no_line() -> None:
    """b = 16 takes three times as long a step: the cheapest in time lies elsewhere, and the sentence says where."""
    crooked = curve(noise=0.02, off=0.0)
    assert crooked.spent is not None
    crooked.spent.loc[crooked.spent["batch_size"] == 16, "seconds"] *= 3
    crooked.spent.loc[crooked.spent["batch_size"] == 16, "device_seconds"] *= 3
    found = fit(crooked)
    assert found.costs is not None
    cost = found.costs.known["time"]
    assert float(cost.of_a_step(np.array([16.0]))[0]) == pytest.approx(3 * 3.6e-3)
    assert cost.cheapest is not None
    straight = fit(curve(noise=0.02, off=0.0)).costs
    assert straight is not None
    before = straight.known["time"].cheapest
    assert before is not None
    at = list(before.sizes).index(16.0)
    assert cost.cheapest.probability[at] < 0.01 < 0.9 < before.probability[at]
    (told,) = sentences.prices(found)
    assert f"for the least time = GPU hours, {least_at(cost.cheapest, 'b')}; " in told


def test_a_file_may_say_seconds(tmp_path: Path) -> None:
    frame = curve().frame.drop(columns="lower")
    frame["seconds"] = frame["steps"] * (2e-3 + 1e-4 * frame["batch_size"])
    frame.to_csv(tmp_path / "curve.csv", index=False)
    (one,) = from_frame(pd.read_csv(tmp_path / "curve.csv"))
    found = fit(one)
    assert found.costs is not None
    assert found.costs.known["time"].step == pytest.approx(2e-3)
    assert found.costs.title_of_time == "time = device hours"
    assert found.b_star is not None


def test_a_studys_records_say_what_it_cost(swept: Path) -> None:
    done = command("fit", "results/sweep", "--threshold", "175", "--json", cwd=swept, module="analysis")
    assert done.returncode == 0, done.stderr
    for one in json.loads(done.stdout)["curves"]:
        assert one["costs"]["device"].startswith("cpu")
        assert one["costs"]["hours"] is None
        assert one["costs"]["time"]["step"] > 0
        assert all(value > 0 for value in one["costs"]["time"]["points"].values())
