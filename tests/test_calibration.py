"""What a sweep takes, said before it starts: calibrated, forecast, and how that compares with what it took."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cbs.outcome import Reached
from cbs.pace import Pace
from cbs.record import Result
from cbs.schema import Config
from launch.calibration import NAME, calibrated, keep, reckoned
from launch.cost import Estimate, estimates, exactly, kind, known_paces, pace_of
from launch.forecast import forecast
from launch.plan import Run, runs
from tests.conftest import TINY, command

SWEEP = ("-m", *TINY, "batch_size=4,8,16,2048", "optimizer=adam,rmsprop", "device=cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A sweep of two optimizers, calibrated from the command line; 2,048 is more than there are digits."""
    folder = tmp_path_factory.mktemp("calibrated")
    wanted = [one.replace(",2048", "") for one in SWEEP]
    return folder, command(*wanted, "hydra/launcher=calibrate", cwd=folder)


def test_a_calibration_measures_every_kind_and_trains_nothing(
    measured: tuple[Path, subprocess.CompletedProcess], tiny: Callable[..., Config]
) -> None:
    folder, done = measured
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "results" / NAME).read_text())
    ((device, kinds),) = content["devices"].items()
    assert device.startswith("cpu: ")
    one, other = (tiny(f"optimizer={name}", "device=cpu") for name in ("adam", "rmsprop"))
    assert set(kinds) == {exactly(one), exactly(other)}
    for kept in kinds.values():
        assert sorted(point["b"] for point in kept["points"]) == [4, 8, 16]
        for point in kept["points"]:
            assert 0 < point["step_seconds"] < 5
            assert point["evaluation_seconds"] > 0
            assert point["start_seconds"] > point["step_seconds"]
            assert 0 < point["estimated_bytes"] < point["peak_bytes"]
    assert "at most about" in done.stdout
    assert "paces as calibrated" in done.stdout
    assert not list(folder.rglob("claims"))
    pace = pace_of(one, calibrated(folder / "results"))
    assert pace is not None
    assert pace.evaluation_seconds > 0
    assert calibrated(folder / "results", "another device") == {}
    assert reckoned([replace(one, paths=replace(one.paths, results=str(folder / "results")))], 4.0, None, device) != {}


def test_a_sweep_says_beforehand_what_it_takes(measured: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, _ = measured
    wanted = [one.replace(",8,16,2048", "") for one in SWEEP]
    done = command(*wanted, "hydra.launcher.workers=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "core hours" in line]
    assert line.startswith("at most about ")
    assert "on 1 core," in line
    assert "every run its whole budget; paces as calibrated" in line
    again = command(*wanted, "hydra.launcher.workers=1", "seeds=2", cwd=folder)
    assert "paces from this sweep's records" in again.stderr


def test_nothing_that_fits_is_a_sentence(tmp_path: Path) -> None:
    done = command(
        "-m", *TINY, "batch_size=2048", "device=cpu", "hydra/launcher=calibrate", f"paths.data={tmp_path}", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "batch_size is 2048" in done.stderr


def test_a_damaged_calibration_is_no_calibration(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{")
    assert calibrated(tmp_path) == {}
    keep(tmp_path, "here", {"a": []})
    assert set(json.loads((tmp_path / NAME).read_text())["devices"]) == {"here"}


def one(seconds: float, share: float = 1.0, watts: float | None = None) -> Estimate:
    return Estimate(None, 1.0, seconds, share, False, watts=watts)  # type: ignore[arg-type]


def test_a_forecast_fills_places_in_turn() -> None:
    found = [one(30.0), one(20.0), one(20.0)]
    cpu = forecast(found, [("cpu",), ("cpu",)])
    assert (cpu.seconds, cpu.device_seconds, cpu.joules) == (40.0, 70.0, None)
    gpus = forecast(found, [("cuda:0",), ("cuda:1",)])
    assert (gpus.seconds, gpus.device_seconds) == (40.0, 70.0)
    shared = forecast([one(30.0, 0.2, 300.0)] * 4, [("cuda:0",)] * 4)
    assert (shared.seconds, shared.device_seconds) == (30.0, 30.0)
    assert shared.joules == pytest.approx(30 * 300)
    crowded = forecast([one(30.0, 0.5)] * 4, [("cuda:0",)] * 4)
    assert crowded.seconds == 60.0  # it is busy throughout


def test_records_win_over_a_calibration_and_that_over_another_optimizers(tiny: Callable[..., Config]) -> None:
    adam, rmsprop = tiny("device=cpu"), tiny("device=cpu", "optimizer=rmsprop")
    slow, fast = Pace(1.0, 1.0), Pace(0.1, 0.1)
    assert pace_of(adam, {exactly(rmsprop): slow}) == slow
    assert pace_of(adam, {exactly(rmsprop): slow, kind(adam): fast}) == fast
    assert pace_of(adam, {kind(adam): slow, exactly(adam): fast}) == fast
    assert pace_of(adam, {}) is None
    (mine,) = runs([replace(adam, seeds=1)])
    (other,) = runs([replace(adam, seeds=1, batch_size=replace(adam.batch_size, initial=8))])
    times = {"training": 20.0, "evaluating": 6.0}
    steps, evaluations = 100, adam.cadence.count(0, 100)
    threshold = min(adam.target.thresholds)
    result = Result("", 0, {threshold: Reached(80, 100)}, steps, times, {}, {}, "", energy_joules=1300.0)
    (found,) = estimates([other], {mine: result}, known_paces({kind(adam): replace(fast, start_seconds=2.0)}))
    assert found.known
    assert not found.arrives
    assert found.watts == pytest.approx(50.0)
    scale = 0.2 / fast.seconds(mine.config.batch_size.initial)
    budget = other.config.budget
    count = other.config.cadence.count(0, budget)
    assert found.seconds == pytest.approx(2.0 + budget * scale * fast.seconds(8) + count * 6.0 / evaluations)
    assert estimates([Run(adam, other.folder, "")], {other: result}, known_paces({}))[0].arrives
