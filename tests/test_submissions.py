"""Manifests: made once, read back whole, by however many submitters; and the commands on them without a Slurm."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from cbs.claim import STALE_SECONDS
from cbs.config import CONF_DIR
from cbs.key import trial_folder
from cbs.record import RunFolder
from cbs.schema import Config
from launch import queue
from launch.plan import runs
from launch.settings import Settings
from launch.status import status
from launch.submissions import Load, Submission, carried, create, submissions
from tests.conftest import ROOT, TINY, command

SETTINGS = {"gpus_per_task": 0}
SUBMITTED = {**SETTINGS, "step_ms": 4.0}


def make(study: Path, configs: list[Config], number: int = 1, array_size: int = 1000) -> Submission | None:
    wanted = runs(configs)
    loads = [Load([place], 1, 0.1) for place in range(len(wanted))]
    return create(study, number, wanted, loads, array_size, SETTINGS, {})


def test_a_manifest_reads_back_as_it_was_made(tiny: Callable[..., Config], tmp_path: Path) -> None:
    configs = [tiny(f"batch_size={b}", f"optimizer={name}", "seeds=2") for b in (8, 16) for name in ("adam", "sgd")]
    made = make(tmp_path, configs)
    assert made is not None
    (read,) = submissions(tmp_path)
    for place, run in enumerate(runs(configs)):
        found = read.run(place)
        assert (found.id, found.label) == (run.id, run.label) == (read.ids[place], run.label)
        assert replace(found.config, paths=run.config.paths, name=run.config.name) == run.config
        assert found.folder.trial == tmp_path / "trials" / run.folder.key  # where the study lies now
        assert trial_folder(found.config) == found.folder.trial
    assert [load.runs for load in read.loads] == [[place] for place in range(8)]
    assert make(tmp_path, configs) is None  # the number is taken


def test_a_large_sweep_is_several_arrays(tiny: Callable[..., Config], tmp_path: Path) -> None:
    made = make(tmp_path, [tiny("seeds=5")], array_size=2)
    assert made is not None
    assert [name.rpartition(".")[2] for name in made.arrays] == ["0", "1", "2"]
    task = queue.Task("77_1", "79", made.arrays[2], "RUNNING", "n1", "None")
    assert made.place(task) == 5


def _race(arguments: tuple[str, list[Config], float]) -> bool:
    study, configs, start = arguments
    time.sleep(max(0.0, start - time.time()))
    return make(Path(study), configs) is not None


def test_one_of_many_submitters_gets_a_number(tiny: Callable[..., Config], tmp_path: Path) -> None:
    configs, start = [tiny("seeds=2")], time.time() + 2
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert sum(pool.map(_race, [(str(tmp_path), configs, start)] * 8, chunksize=1)) == 1


def test_a_submitter_holds_its_runs_until_it_is_gone(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, [tiny("seeds=2")])
    assert made is not None
    monkeypatch.setattr(queue, "tasks", lambda names: {name: [] for name in names})
    assert len(list(carried([made]))) == 2  # this process is alive, and has not said that it is done
    owner = made.content["submitter"]
    made.path.write_text(json.dumps({**made.content, "submitter": {**owner, "pid": 2**22 + 1}}))
    assert list(carried(submissions(tmp_path))) == []  # it died before sbatch: nothing is in the queue
    made.path.write_text(json.dumps({**made.content, "submitter": {**owner, "machine": "elsewhere/1"}}))
    assert len(list(carried(submissions(tmp_path)))) == 2
    old = time.time() - STALE_SECONDS - 5
    os.utime(made.path, (old, old))
    assert list(carried(submissions(tmp_path))) == []


def test_a_dead_submitter_whose_job_is_in_the_queue_holds_its_runs(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, [tiny("seeds=2")])
    assert made is not None
    owner = {**made.content["submitter"], "pid": 2**22 + 1}
    made.path.write_text(json.dumps({**made.content, "submitter": owner}))
    pending = queue.Task("9_1", "11", made.arrays[0], "PENDING", "", "Priority")
    monkeypatch.setattr(queue, "tasks", lambda names: {name: [pending] for name in names})
    (one,) = carried(submissions(tmp_path))
    assert (one.id[1], one.task) == (1, pending)


def test_a_dry_run_needs_no_slurm_and_writes_nothing(tmp_path: Path) -> None:
    sweep = ("-m", *TINY, "batch_size=8,16", "seeds=2", "hydra/launcher=dry")
    done = command(*sweep, "hydra.launcher.partition=gpu", "hydra.launcher.setup=[module load cuda]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "module load cuda",
        "b=16 adam seed 1",
        "4 runs",
    ):
        assert words in done.stdout
    assert "Nothing was submitted." in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("hydra.launcher.timeout_min=0", "hydra.launcher.timeout_min is 0: it must be a whole number, 1 or more."),
        ("hydra.launcher.pack=some", "hydra.launcher.pack is 'some': it must be auto or a whole number, 1 or more."),
        ("hydra.launcher.signal_delay_s=20000", "must be below the time limit, 14400 s"),
        ("hydra.launcher.partitoin=gpu", "hydra.launcher.partitoin is no setting: did you mean partition"),
        ("hydra.launcher.setup=module", "hydra.launcher.setup is 'module': it must be a list of shell lines"),
        ("hydra.launcher.mem_gb=lots", "hydra.launcher.mem_gb is 'lots': it must be a number above 0."),
        (
            "+hydra.launcher.sbatch.job_name=mine",
            "hydra.launcher.sbatch has 'job_name': that option is the launcher's own",
        ),
        ("+hydra.launcher.exclude=node7", "hydra.launcher.exclude is no setting"),
        ("gpus_per_trial=1,2", "gpus_per_trial is 1, 2: it must be one number in a sweep"),
        ("gpus_per_trial=8", "hydra.launcher.cpus_per_task is 4: with gpus_per_trial=8 it must be at least 8"),
        ("hydra.launcher.step_ms=0", "hydra.launcher.step_ms is 0: it must be a number above 0."),
    ],
)
def test_bad_settings_are_one_sentence(setting: str, words: str, tmp_path: Path) -> None:
    done = command("-m", *TINY, "batch_size=8,16", "hydra/launcher=dry", setting, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_is_read_wherever_it_lies_and_whatever_lies_in_it(swept: Path, tmp_path: Path) -> None:
    study = tmp_path / "elsewhere" / "moved"
    shutil.copytree(swept / "results" / "sweep", study)
    (trial, *_) = sorted((study / "trials").iterdir())
    (study / "trials" / "0123456789ab" / "seed-0" / "claims").mkdir(parents=True)  # a run that has just begun
    shutil.copytree(trial / "seed-0", trial / "seed-0.bak")
    raw = yaml.safe_load((trial / "trial.yaml").read_text())
    for name in ("max_failures", "gpus_per_trial", "logger"):  # as records were before there were these
        del raw["config"][name]
    del raw["config"]["model"]["batch_norm"]
    (trial / "trial.yaml").write_text(yaml.safe_dump(raw))
    shown = command("status", str(study), cwd=tmp_path, module="launch")
    assert shown.returncode == 0, shown.stderr
    assert "12 runs" in shown.stdout
    (trial / "trial.yaml").write_text(yaml.safe_dump({**raw, "schema": 99}))
    refused = command("status", str(study), cwd=tmp_path, module="launch")
    assert refused.returncode == 2
    assert "has schema 99" in refused.stderr


def test_a_moved_study_is_not_shown_twice(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("seeds=2", "device=cpu")
    made = create(config.study_dir, 1, runs([config]), [Load([0, 1], 1, 0.1)], 1000, SUBMITTED, {})
    assert made is not None
    for run in runs([config]):
        RunFolder(run.folder.trial, run.seed).write_failure("…\nRuntimeError: no\n")
    shutil.copytree(config.study_dir, tmp_path / "copy")
    now = status(tmp_path / "copy")
    assert [(row.run.seed, row.state, row.note) for row in now.rows] == [
        (0, "failed", "RuntimeError: no"),
        (1, "failed", "RuntimeError: no"),
    ]
    assert all(tmp_path / "copy" in row.run.folder.path.parents for row in now.rows)


def test_where_there_is_no_slurm_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cbs.run", "-m", *TINY, "batch_size=8,16", "hydra/launcher=slurm"],
        cwd=tmp_path,
        env={**os.environ, "PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "is this a Slurm cluster's login node?" in done.stderr


def test_the_commands_on_a_study_of_this_machine(swept: Path) -> None:
    study = "results/sweep"
    shown = command("status", study, cwd=swept, module="launch")
    assert shown.returncode == 0, shown.stderr
    assert "12 runs" in shown.stdout
    plain = json.loads(command("status", "--json", study, "b=16", "adam", cwd=swept, module="launch").stdout)
    assert len(plain["runs"]) == 2
    assert {run["state"] for run in plain["runs"]} <= {"finished", "censored"}
    again = command("resubmit", study, cwd=swept, module="launch")
    assert "was never submitted to Slurm: give the sweep's own command again" in again.stderr
    assert again.returncode == 2
    assert command("status", "results/none", cwd=swept, module="launch").returncode == 2
    nobody = command("logs", study, "b=9", cwd=swept, module="launch")
    assert "no run of results/sweep is 'b=9'" in nobody.stderr


def test_settings_come_back_from_a_manifest_of_any_version() -> None:
    raw = yaml.safe_load((CONF_DIR / "hydra" / "launcher" / "slurm.yaml").read_text())
    settings = Settings.of({name: value for name, value in raw.items() if name != "_target_"})
    kept = json.loads(json.dumps(asdict(settings)))
    assert Settings.recorded(kept) == settings
    del kept["tflops"]
    assert Settings.recorded({**kept, "image_ms": 0.05}) == settings
