"""Sweeps through the command line: parallel, killed, failing, stopped, asked for again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cbs.record import RunFolder, run_folders
from tests.conftest import ROOT, TINY, command

SWEEP = ("-m", *TINY, "batch_size=8,16", "optimizer=adam,rmsprop", "seeds=2", "target.budget_steps=500")


def records(results: Path) -> dict[str, Any]:
    """Every run's outcomes and trajectory, without seconds."""
    found = {}
    for folder in run_folders(results / "sweep"):
        result = folder.result()
        assert result is not None
        rows = [(e.step, e.samples, e.value, e.repeats, e.losses) for e in folder.trajectory()]
        found[f"{folder.key}/{folder.seed}"] = (result.outcomes, rows)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = command(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    return records(folder / "results")


def test_a_sweep_trains_every_run_and_prints_what_it_found(tmp_path: Path, undisturbed: dict) -> None:
    done = command("-m", *TINY, "batch_size=8,16,...,64", "target.every_steps=30", "seeds=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "batch_size = 8, 16, 32, 64" in done.stderr
    assert "4 trials, 8 runs: 8 to do" in done.stderr
    assert "[8/8]" in done.stderr
    assert done.stdout.count("> 150") == 8
    assert len(undisturbed) == 8
    assert not list(tmp_path.glob("multirun*")) + list(tmp_path.glob("outputs*"))
    again = command("-m", *TINY, "batch_size=8,16,...,64", "target.every_steps=30", "seeds=3", cwd=tmp_path)
    assert "12 runs: 8 finished already, 4 to do" in again.stderr


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "cbs.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_a_sweep_killed_at_random_moments_ends_with_the_same_records(tmp_path: Path, undisturbed: dict) -> None:
    """SIGKILL to the launcher, to one worker, or to the whole group, at random moments."""
    chance = random.Random(os.environ.get("CBS_TEST_SEED", "7"))
    kills = 0
    for _ in range(40):
        process = start(tmp_path, *SWEEP, "checkpoint_minutes=0.003")
        # Only while training is there something to lose: wait until the workers are up.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            live = [f for f in run_folders(tmp_path / "results" / "sweep") if f.claims_path.exists()]
            if len(live) > min(kills, 5):
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 1.2))
        if kills == 6 or process.poll() is not None:
            process.communicate(timeout=300)
            if process.returncode == 0:
                break
            continue
        victims = descendants(process)
        whom = chance.choice(["launcher", "worker", "all"])
        if whom == "worker" and victims:
            chance.choice(victims).kill()
            process.communicate(timeout=300)  # the others go on to their end
        else:
            for victim in victims if whom == "all" else []:
                victim.kill()
            process.kill()
            process.communicate()
            _wait_for_the_end(victims)
        kills += 1
    assert kills >= 3, f"only {kills} kills"
    print(f"{kills} kills")
    assert records(tmp_path / "results") == undisturbed


def _wait_for_the_end(processes: list[psutil.Process]) -> None:
    """Workers end by themselves once their launcher is gone."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, "a worker outlived its launcher"


@pytest.mark.slow
def test_one_failing_run_does_not_stop_the_others(tmp_path: Path) -> None:
    """A packed set that one trial alone can't read: its folder of images has a broken one."""
    bad = tmp_path / "sitecustomize.py"
    bad.write_text(
        "import cbs.tasks.gan as g\n"
        "step = g.GAN.step\n"
        "def failing(self):\n"
        "    if self.b == 16: raise RuntimeError('the sixteenth is cursed')\n"
        "    return step(self)\n"
        "g.GAN.step = failing\n"
    )
    arguments = ("-m", *TINY, "batch_size=8,16,32")
    done = subprocess.run(
        [sys.executable, "-m", "cbs.run", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "failed: b=16 adam seed 0: RuntimeError: the sixteenth is cursed" in done.stderr
    # 1,066 gradients at 8 and 3,597 at 32 are the last evaluations within 150 steps.
    assert [line.split()[-1] for line in done.stdout.splitlines() if "> " in line] == ["134", "113"]
    (failed,) = [f for f in run_folders(tmp_path / "results" / "sweep") if f.result() is None]
    assert "cursed" in str(failed.last_failure())
    again = command(*arguments, cwd=tmp_path)
    bad.unlink()
    again = command(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "3 runs: 3 finished already" in again.stderr or "[3/3]" in again.stderr


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(tmp_path: Path, undisturbed: dict) -> None:
    process = start(tmp_path, *SWEEP)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "results").glob("sweep/trials/*/seed-*/trajectory.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Give the same command again to go on." in err
    assert "Traceback" not in err
    stopped = list((tmp_path / "results").glob("sweep/trials/*/seed-*/checkpoint.pt"))
    assert stopped
    done = command(*SWEEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "results") == undisturbed


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work(tmp_path: Path, undisturbed: dict) -> None:
    both = [start(tmp_path, *SWEEP) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert records(tmp_path / "results") == undisturbed
    for folder in run_folders(tmp_path / "results" / "sweep"):
        assert not (folder.path / "failures").exists()


def test_a_single_trial_and_a_sweep_give_the_same_record(tmp_path: Path, undisturbed: dict) -> None:
    arguments = [a for a in SWEEP[1:] if not a.startswith(("batch_size", "optimizer"))]
    done = command(*arguments, "batch_size=16", "optimizer=rmsprop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "above 1 at step 338 (censored)" in done.stdout
    alone = records(tmp_path / "results")
    assert len(alone) == 2
    assert all(undisturbed[key] == record for key, record in alone.items())


def test_an_incompatible_record_is_refused(tmp_path: Path) -> None:
    arguments = (*TINY, "batch_size=16", "target.budget_steps=20")
    command(*arguments, cwd=tmp_path)
    (folder,) = run_folders(tmp_path / "results" / "sweep")
    raw = json.loads(folder.result_path.read_text())
    folder.result_path.write_text(json.dumps({**raw, "schema": 99}))
    for more in ((), ("-m",)):
        done = command(*more, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "has schema 99: this version of cbs reads schema 1 only." in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimizer=adan"], "optimizer is 'adan': did you mean adam? (allowed: adabelief, adam, rmsprop, sgd)."),
        (["-m", "optimizer=adan,adam"], "optimizer is 'adan': did you mean adam?"),
        (["modle=dcgan"], "modle is no setting: did you mean model?"),
        (["batch_size=0"], "batch_size is '0': it must be a whole number, 1 or more."),
        (["batch_size=-4"], "batch_size is '-4'"),
        (["batch_size=2.5"], "batch_size is '2.5'"),
        (["batch_size=many"], "batch_size is 'many': it must be a whole number"),
        (["-m", "batch_size=0,2"], "batch_size is '0'"),
        (["-m", "batch_size=2000,64"], "batch_size is 2000: digits has 1797 images"),
        (["batch_size=2,4"], "batch_size=2,4 has several values: add -m to sweep over them."),
        (["-m", "batch_size=2,…,64"], "write three dots"),
        (["-m", "batch_size=2,4,...,1000"], "for more than 50 write three leading terms"),
        (["-m", "batch_size=2,5,...,31"], "lands on 31: write 2,5,...,32."),
        (["-m", "batch_size=range(2,5)", "target.precision=choice(0,1)"], "target.precision is 0"),
        (["-m", "batch_size=interval(1,4)"], "a grid needs discrete choices"),
        (["-m", "batch_size=2", "hydra.launcher.workers=0"], "hydra.launcher.workers is 0"),
        (["batch_size=8", "hydra/launcher=slurm"], "hydra/launcher is 'slurm': add -m, as for a sweep"),
        (["target.budget_steps=31"], "it must be at least 32, to reach the first evaluation, at step 32"),
        (["device=cuda:9"], "device is 'cuda:9'"),
        (["optimizer.lr_generator=fast"], "optimizer.lr_generator: Value 'fast'"),
        (["study=quickstrat"], "study is 'quickstrat': did you mean quickstart?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("cbs: ")]
    assert len(said) == 1
    assert words in said[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("results/*/trials"))


def test_help_and_cfg_say_what_there_is(tmp_path: Path) -> None:
    shown = command("--help", cwd=tmp_path).stdout
    choices = ("optimizer: adabelief, adam, rmsprop, sgd", "paper_wgan_gp_celeba, quickstart")
    for words in (*choices, "batch_size=2,4,...,1024", "seeds:"):
        assert words in shown
    composed = command("batch_size=48", "optimizer=rmsprop", "--cfg", "job", cwd=tmp_path).stdout
    assert "initial: 48" in composed
    assert "name: rmsprop" in composed


def test_a_foreign_launch_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text("raise RuntimeError('not ours')")
    done = command("batch_size=16", cwd=tmp_path)
    assert done.returncode == 2
    assert str(tmp_path / "launch.py") in done.stderr
    (tmp_path / "launch.py").unlink()
    (tmp_path / "launch").mkdir()  # a plain folder of that name is in nobody's way
    (tmp_path / "analysis").mkdir()
    done = command(*TINY, "batch_size=16", "target.budget_steps=20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_failure_and_retried(tmp_path: Path) -> None:
    process = start(tmp_path, "-m", *TINY, "batch_size=8,16", "target.budget_steps=2000")
    folders: list[RunFolder] = []
    deadline = time.monotonic() + 60
    while not folders and time.monotonic() < deadline:
        folders = [f for f in run_folders(tmp_path / "results" / "sweep") if f.trajectory_path.exists()]
        time.sleep(0.05)
    owner = json.loads(next(folders[0].claims_path.glob("0*.json")).read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "its process died (killed by signal 9; out of memory?)" in err
    assert "killed by signal 9" in str(folders[0].last_failure())
    done = command("-m", *TINY, "batch_size=8,16", "target.budget_steps=2000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
