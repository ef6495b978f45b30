"""Live loggers: the real ones get every evaluation once, and no failure of theirs reaches a record."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cbs import loggers, trial
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.outcome import Censored, Diverged, Evaluation, Outcome, Reached
from cbs.record import Result, RunFolder
from cbs.schema import Config
from tests.conftest import ROOT, TINY, command, config
from tests.test_trial import evaluations

Tiny = Callable[..., Config]
Service = Callable[[str], list[str]]
ASKED = ("batch_size=16", "target.thresholds=[170,1]")
SHORT = "target.budget_steps=60"
STEPS = [20, 30, 45, 67, 100, 150]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No logger speaks to its makers, and none finds a login."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "WANDB_ERROR_REPORTING": "false",
        "NETRC": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MLflow store with nothing in it; making its tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("none")
    return path.read_bytes()


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    """The overrides of a service that keeps its log in the test's folder."""

    def overrides(name: str) -> list[str]:
        if name == "mlflow":
            (tmp_path / "mlflow.db").write_bytes(request.getfixturevalue("tables"))
            return ["logger=mlflow", f"logger.tracking_uri=sqlite:///{tmp_path}/mlflow.db"]
        return [f"logger={name}", *(["logger.mode=offline"] if name == "wandb" else [])]

    return overrides


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple], dict[float, Outcome]]:
    """What the trial of these tests records without a logger."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = config(*TINY, *ASKED, f"paths.results={folder}", f"paths.data={folder}")
    outcomes = trial.run(found, 0).outcomes
    return evaluations(found), outcomes


Log = dict[str, list[tuple[int, float]]]


def tensorboard_log(study: Path) -> Log:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (study / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata or not (study / "finished").exists()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(study: Path) -> Iterator[Any]:
    """Every record of every attempt: LevelDB's log format after seven bytes, protocol buffers inside."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted((study / "wandb").glob("offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # a whole record, or the last part of one
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                yield record
                whole = b""


def wandb_rows(study: Path) -> list[dict[str, Any]]:
    histories = [r.history for r in wandb_records(study) if r.WhichOneof("record_type") == "history"]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in h.item} for h in histories]


def wandb_log(study: Path) -> Log:
    log: Log = {}
    for row in wandb_rows(study):
        for name in row.keys() - {"step"}:
            log.setdefault(name, []).append((row["step"], row[name]))
    return log


def mlflow_run(study: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{study}/../../mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(study.name).experiment_id])
    return client, run


def mlflow_log(study: Path) -> Log:
    client, run = mlflow_run(study)
    return {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in run.data.metrics}


def reached(result: Result) -> int:
    outcome = result.outcomes[170.0]
    assert isinstance(outcome, Reached)
    return outcome.first_below


READ = {"tensorboard": tensorboard_log, "wandb": wandb_log, "mlflow": mlflow_log}


@pytest.mark.parametrize("again", ["resumed", "from the start"])
@pytest.mark.parametrize("name", list(READ))
def test_every_evaluation_is_logged_once(
    name: str, again: str, tiny: Tiny, service: Service, undisturbed: tuple
) -> None:
    """In two attempts. From the start: a run that fell back makes evaluations again that were logged already."""
    where = service(name)
    found = tiny(*ASKED, *where)
    trial.run(tiny(*ASKED, SHORT, *where), 0)
    if again == "from the start":
        for checkpoint in (trial_folder(found) / "seed-0").glob("*checkpoint.pt"):
            checkpoint.unlink()
    trial.run(found, 0)
    rows = RunFolder(trial_folder(found), 0).trajectory()
    log = READ[name](found.study_dir)
    assert [e.step for e in rows] == STEPS
    for metric, values in {
        "fid": [e.value for e in rows],
        "loss_generator": [e.losses["loss_generator"] for e in rows],
        "loss_discriminator": [e.losses["loss_discriminator"] for e in rows],
        "samples": [e.samples for e in rows],
        "sfo": [16 * e.step for e in rows],
    }.items():
        assert [step for step, _ in log[metric]] == STEPS, metric
        assert [value for _, value in log[metric]] == pytest.approx(values), metric
    repeats = [(e.step, pytest.approx(e.repeats[0])) for e in rows if e.repeats]
    assert log["fid_repeat_1"] == repeats != []
    assert not (trial_folder(found) / "seed-0" / "logger.txt").exists()
    assert evaluations(found) == undisturbed[0]


def test_tensorboard_has_settings_and_outcomes(tiny: Tiny, service: Service) -> None:
    found = tiny(*ASKED, *service("tensorboard"))
    steps = reached(trial.run(found, 0))
    (found.study_dir / "finished").touch()
    log = tensorboard_log(found.study_dir)
    assert [value for _, value in log["steps_to_target/170"]] == [steps]
    assert [value for _, value in log["sfo_to_target/170"]] == [16 * steps]
    (folder,) = (found.study_dir / "tensorboard").iterdir()
    assert folder.name == f"b=16 adam seed 0 {trial_folder(found).name}"


def test_wandb_goes_on_with_the_same_run(tiny: Tiny, service: Service) -> None:
    where = service("wandb")
    found = tiny(*ASKED, *where)
    trial.run(tiny(*ASKED, SHORT, *where), 0)
    steps = reached(trial.run(found, 0))
    records = list(wandb_records(found.study_dir))
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert len(runs) == 2
    assert len({r.run_id for r in runs}) == 1
    assert all(r.resume for r in runs)
    assert (runs[0].display_name, runs[0].run_group, runs[0].project) == ("b=16 adam seed 0", "sweep", "cbs")
    settings = {u.key: json.loads(u.value_json) for u in runs[0].config.update}
    assert settings["key"] == trial_folder(found).name
    assert (settings["batch_size"]["initial"], settings["optimizer"]["name"], settings["seed"]) == (16, "adam", 0)
    updates = [u for r in records if r.WhichOneof("record_type") == "summary" for u in r.summary.update]
    summary = {u.key: json.loads(u.value_json) for u in updates}
    assert (summary["outcome/170"], summary["outcome/1"]) == ("reached", "censored")
    assert summary["steps_to_target/170"] == steps
    trial.run(found, 1)  # another run in this process
    runs = [r.run for r in wandb_records(found.study_dir) if r.WhichOneof("record_type") == "run"]
    assert len({r.run_id for r in runs}) == 2


def test_mlflow_has_settings_and_outcomes(tiny: Tiny, service: Service) -> None:
    found = tiny(*ASKED, *service("mlflow"))
    steps = reached(trial.run(found, 0))
    _, run = mlflow_run(found.study_dir)
    assert (run.info.run_name, run.info.status) == ("b=16 adam seed 0", "FINISHED")
    assert run.data.params["optimizer.lr_generator"] == "0.002"
    assert run.data.params["key"] == trial_folder(found).name
    assert run.data.tags["outcome/170"] == "reached"
    assert run.data.metrics["sfo_to_target/170"] == 16 * steps


def test_a_sweep_logs_each_of_its_runs(service: Service, tmp_path: Path) -> None:
    """Its workers are daemons, which may start no processes of multiprocessing's."""
    done = command("-m", *TINY, "batch_size=4,64", *service("wandb"), cwd=tmp_path)
    assert (done.returncode, "logger fails" in done.stderr) == (0, False), done.stderr
    rows = wandb_rows(tmp_path / "results" / "sweep")
    counts = {b: config(*TINY, f"batch_size={b}").cadence.count(0, 150) for b in (4, 64)}
    expected = [b for b, count in counts.items() for _ in range(count)]
    assert sorted(row["sfo"] / row["step"] for row in rows if "sfo" in row) == expected


def test_mlflow_runs_may_make_their_store_at_the_same_time(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    where = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"""
from pathlib import Path
from cbs import options, services
where = options.MLflowConfig("mlflow", {where!r}, "study")
services.MLflow(where, services.About(Path({str(tmp_path)!r}) / "study", "key", "name", {{}})).open("run")
"""
    opening = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [one.wait(120) for one in opening] == [0, 0, 0]
    client = MlflowClient(tracking_uri=where)
    assert len(client.search_runs([client.get_experiment_by_name("study").experiment_id])) == 1


class Broken:
    """A service that fails at one of its calls: the `nth` of this name."""

    destination, appends = "broken", True

    def __init__(self, call: str, nth: int, failure: Callable[[], None]) -> None:
        self._call, self._left, self._failure = call, nth, failure
        self.logged: list[int] = []

    def _maybe(self, call: str) -> None:
        if call == self._call:
            self._left -= 1
            if self._left == 0:
                self._failure()

    def open(self, run: str) -> None:
        self._maybe("open")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._maybe("log")
        self.logged.append(step)

    def finish(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        self._maybe("finish")

    def close(self, settled: bool) -> None:
        self._maybe("close")


def fail(error: BaseException) -> Callable[[], None]:
    def failure() -> None:
        raise error

    return failure


@pytest.mark.parametrize(
    ("call", "nth", "error"),
    [
        ("open", 1, OSError("network\nis down")),
        ("log", 3, ValueError("no")),
        ("log", 3, SystemExit(3)),
        ("finish", 1, KeyboardInterrupt()),
        ("close", 1, OSError()),
    ],
)
def test_a_logger_that_fails_changes_no_record(
    call: str,
    nth: int,
    error: BaseException,
    tiny: Tiny,
    undisturbed: tuple,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    found = tiny(*ASKED, "logger=tensorboard")
    monkeypatch.setattr(loggers, "check_installed", lambda _: None)
    broken = Broken(call, nth, fail(error))
    monkeypatch.setattr(loggers, "service", lambda *_: broken)
    outcomes = trial.run(found, 0).outcomes
    assert (evaluations(found), outcomes) == undisturbed
    told = [line for line in capfd.readouterr().err.splitlines() if "its logger fails" in line]
    assert len(told) == 1
    assert type(error).__name__ in told[0]
    assert "Traceback" in (trial_folder(found) / "seed-0" / "logger.txt").read_text()
    # What failed was tried again, and one step has a repeat.
    assert sorted(broken.logged) == sorted([*STEPS, *(e[0] for e in evaluations(found) if e[3])])


def test_a_logger_that_hangs_changes_no_record(
    tiny: Tiny, undisturbed: tuple, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    found = tiny(*ASKED, "logger=tensorboard")
    free = threading.Event()
    monkeypatch.setattr(loggers, "check_installed", lambda _: None)
    monkeypatch.setattr(loggers, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(loggers, "service", lambda *_: Broken("log", 2, lambda: bool(free.wait(60))))
    outcomes = trial.run(found, 0).outcomes
    free.set()
    assert (evaluations(found), outcomes) == undisturbed
    assert capfd.readouterr().err.count("still busy") == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_out_of_reach_changes_no_record(
    name: str, tiny: Tiny, undisturbed: tuple, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    where = {"wandb": "logger.mode=online", "mlflow": "logger.tracking_uri=http://127.0.0.1:1"}[name]
    found = tiny(*ASKED, f"logger={name}", where)
    outcomes = trial.run(found, 0).outcomes
    assert (evaluations(found), outcomes) == undisturbed
    assert capfd.readouterr().err.count("its logger fails") == 1


@pytest.mark.parametrize("name", list(READ))
def test_a_logger_that_is_not_installed_is_bad_input(name: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = importlib.machinery.ModuleSpec(name, None)  # a folder of that name is no package
    for spec in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, spec=spec: spec)
        with pytest.raises(InputError) as refused:
            trial.preflight(tiny(f"logger={name}"))
        assert str(refused.value) == f"logger is '{name}': it isn't installed; run pip install 'cbs-gan[{name}]'."
    trial.preflight(tiny())


def gradients(each: int) -> dict[str, int]:
    return {"generator": each, "discriminator": each}


def test_outcomes_that_are_not_numbers_are_words() -> None:
    seen = [Evaluation(step, 8 * step, 1.0, 60.0 - step / 5, gradients=gradients(8 * step)) for step in (90, 100, 200)]
    numbers, words = loggers.ended({50.0: Reached(90, 100), 40.0: Censored(200), 12.5: Diverged(7)}, seen)
    assert numbers == {"steps_to_target/50": 100.0, "sfo_to_target/50": 800.0}
    assert words == {"outcome/50": "reached", "outcome/40": "censored", "outcome/12.5": "diverged"}


def snippet(tool: str) -> str:
    """The Python that docs/analysis.md gives for a tool's logs."""
    (code,) = [
        c for c in re.findall(r"```python\n(.*?)```", (ROOT / "docs/analysis.md").read_text(), re.S) if tool in c
    ]
    return code.replace("threshold=50", "threshold=170")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_the_documented_way_back_from_a_log_gives_the_runs(
    name: str, tiny: Tiny, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For W&B the server's side is played by what was kept offline."""
    studies = [tiny(f"batch_size={b}", *ASKED[1:], *service(name), "name=mine") for b in (8, 16)]
    outcomes = {found.batch_size.initial: trial.run(found, 0).outcomes[170.0] for found in studies}
    if name == "wandb":
        import wandb

        served = []
        for path in sorted((studies[0].study_dir / "wandb").glob("offline-run-*")):
            alone = tmp_path / path.name
            (alone / "wandb").mkdir(parents=True)
            os.symlink(path, alone / "wandb" / path.name)
            (run,) = [r.run for r in wandb_records(alone) if r.WhichOneof("record_type") == "run"]
            rows = wandb_rows(alone)
            served.append(
                types.SimpleNamespace(
                    config={u.key: json.loads(u.value_json) for u in run.config.update},
                    scan_history=lambda keys, rows=rows: [r for r in rows if set(keys) <= set(r)],
                )
            )
        monkeypatch.setattr(wandb, "Api", lambda: types.SimpleNamespace(runs=lambda _: served))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(snippet(name), found)
    (curve,) = found["curves"]
    assert curve.optimizer == "adam"
    shown = {int(row.batch_size): (row.outcome, int(row.steps)) for row in curve.frame.itertuples()}
    for b, outcome in outcomes.items():
        now = ("reached", outcome.first_below) if isinstance(outcome, Reached) else ("censored", outcome.step)
        assert shown[b] == now
