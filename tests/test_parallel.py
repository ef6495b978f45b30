"""One trial on two processes against the same trial on one: trajectories, records, ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbs import cli, parallel, trial
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.models.dcgan import Generator
from cbs.parallel import ALONE, Team
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.tasks.gan import GAN
from tests.conftest import ROOT, TINY, command, config

STEPS = 50
IMAGES = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
# Batches of 7 are cut into 3 and 4 images.
CASES = {
    "dcgan": ("model=dcgan", "batch_size=7"),
    "dcgan, no norm": ("model=dcgan", "batch_size=7", "model.discriminator_norm=none"),
    "wgan_gp": ("model=wgan_gp", "batch_size=7"),
    "wgan_gp, instance norm": ("model=wgan_gp", "batch_size=7", "model.discriminator_norm=instance"),
    "wgan_gp, no norm": ("model=wgan_gp", "batch_size=7", "model.discriminator_norm=none"),
    "biggan": ("model=biggan", "model.latent=6", "batch_size=7", "target.generator=ema"),
    "sagan": ("model=sagan", "model.width=4", "model.latent=6", "batch_size=7"),
    "wgan_gp, micro-batches": ("model=wgan_gp", "batch_size=7", "micro_batch=4"),
    "srfb": ("model=dcgan", "batch_size=7", "update=srfb"),
    "extragradient": ("model=wgan_gp", "batch_size=7", "model.critic_steps=1", "update=extragradient"),
    "svre": ("model=dcgan", "batch_size=7", "update=svre"),
    "dcgan, replica": ("model=dcgan", "batch_size=7", "model.batch_norm=replica"),
}
SYNCHRONISED = [name for name in CASES if "replica" not in name]


class Bare(Generator):
    """A generator without BatchNorm."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        nn.Sequential.__init__(self, *(layer for layer in self if not isinstance(layer, nn.BatchNorm2d)))


def gan(name: str, found: Config, team: Team) -> GAN:
    with mock.patch("cbs.models.dcgan.Generator", Bare if "no norm" in name else Generator):
        return GAN(found, 0, Pictures(IMAGES, torch.arange(50) % 10, 10), torch.device("cpu"), team)


def train(task: GAN, steps: int = STEPS) -> dict[str, Any]:
    losses = torch.stack([torch.stack(task.step()) for _ in range(steps)])
    return {"losses": losses, "state": task.state()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells the process of a rank."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in here.items()}}


@contextmanager
def double() -> Iterator[None]:
    """Double precision, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(before)


def one_of_two(rank: int, port: int, configs: dict[str, Config], folder: Path) -> None:
    """Train every case as this rank and keep what came out."""
    os.environ.update(place(rank, port))
    with double(), parallel.joined(configs["dcgan"]) as team:
        found = {name: train(gan(name, one, team)) for name, one in configs.items()}
        resumed = gan("wgan_gp", configs["wgan_gp"], team)
        resumed.load(torch.load(folder / "halfway.pt"))
        found["wgan_gp, resumed"] = train(resumed, STEPS // 2)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, per case."""
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    configs = {n: config("gpus_per_trial=2", "device=cpu", "model.width=4", *c) for n, c in CASES.items()}
    with double():
        torch.save(train(gan("wgan_gp", configs["wgan_gp"], ALONE), STEPS // 2)["state"], folder / "halfway.pt")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, port, configs, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def alone(name: str) -> GAN:
    """A case as one process has it."""
    return gan(name, config("device=cpu", "model.width=4", *CASES[name]), ALONE)


def flat(found: Any, at: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of nested dicts and lists, by its path."""
    if isinstance(found, torch.Tensor):
        return {at: found}
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {path: tensor for key, value in items for path, tensor in flat(value, f"{at}/{key}").items()}


def assert_close(found: Any, expected: Any) -> None:
    """To 1e-9: losses, parameters, running statistics, the optimizers' moments."""
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for path, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[path], rtol=0, atol=1e-9, msg=lambda m, path=path: f"{path}: {m}")


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_two_processes_train_as_one(name: str, by_two: list[dict[str, Any]]) -> None:
    with double():
        expected, start = train(alone(name)), alone(name).state()
    assert expected["losses"].dtype == torch.float64
    assert_close(by_two[0][name], expected)
    for network in ("generator", "discriminator"):
        before, after = (flat(s[network]) for s in (start, expected["state"]))
        for each in before:
            # BatchNorm takes most of BigGAN's out again, and the hinge loss gives the head's of SAGAN nothing near 0.
            if name not in ("biggan", "sagan") or not each.endswith("bias"):
                assert (after[each] - before[each]).abs().max() > 1e-5  # it moved by far more than the tolerance


@pytest.mark.parametrize("name", CASES)
def test_every_process_holds_the_same_networks(name: str, by_two: list[dict[str, Any]]) -> None:
    first, second = (flat(found[name]) for found in by_two)
    assert first.keys() == second.keys()
    same = {path for path in first if torch.equal(first[path], second[path])}
    assert {path for path in first if "running" not in path or "replica" not in name} <= same


def test_two_processes_go_on_where_one_stopped(by_two: list[dict[str, Any]]) -> None:
    with double():
        expected = train(alone("wgan_gp"))
    assert_close(by_two[0]["wgan_gp, resumed"]["state"], expected["state"])


class Halves(nn.Module):
    """BatchNorm over the first 3 images and over the other 4."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = (x[:3], x[3:])
        return torch.cat([F.batch_norm(h, None, None, self.norm.weight, self.norm.bias, True) for h in halves])


def test_replicas_normalise_each_its_own_part(by_two: list[dict[str, Any]]) -> None:
    with double():
        task = alone("dcgan, replica")
        for network in (task.generator, task.discriminator):
            for name, layer in list(network.named_children()):
                if isinstance(layer, nn.BatchNorm2d):
                    setattr(network, name, Halves(layer))
        losses = train(task)["losses"]
    found = by_two[0]["dcgan, replica"]
    torch.testing.assert_close(found["losses"], losses, rtol=0, atol=1e-9)
    for name, parameter in task.generator.named_parameters():
        kept = found["state"]["generator"][name.replace("norm.", "")]
        torch.testing.assert_close(kept, parameter.detach(), rtol=0, atol=1e-9)
    assert (losses - by_two[0]["dcgan"]["losses"]).abs().max() > 1e-3


@pytest.mark.parametrize(("b", "size"), [(7, 2), (8, 4), (5, 5), (1000, 7)])
def test_parts_cover_a_batch_and_differ_by_at_most_one(b: int, size: int) -> None:
    parts = [range(b)[part] for rank in range(size) for part in Team(rank, size).parts(b, b)]
    assert [i for part in parts for i in part] == list(range(b))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 1


@pytest.mark.parametrize(
    ("wanted", "started", "words"),
    [
        (2, 1, "gpus_per_trial is 2, but 1 process was started for the trial: start it with `torchrun"),
        (2, 3, "gpus_per_trial is 2, but 3 processes were started for the trial"),
        (1, 3, "start it with `python -m cbs.run"),
    ],
)
def test_another_number_of_processes_is_refused(
    wanted: int, started: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if started > 1:
        for name, value in {**place(0, 1), "WORLD_SIZE": str(started)}.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused, parallel.joined(config(f"gpus_per_trial={wanted}")):
        pass
    assert words in str(refused.value)
    with pytest.raises(InputError):
        trial.run(config(f"gpus_per_trial={wanted}"), 0, team=Team(0, started))


# Look-ups, and with them checkpoints, come twice a second: long enough between two evaluations to have some.
LONGER = (
    *TINY,
    "device=cpu",
    "batch_size=31",
    "model=wgan_gp",
    "optimizer.lr_generator=2e-4",
    "optimizer.lr_discriminator=2e-4",
    "target.every_steps=100",
    "target.budget_steps=200",
)


def here(folder: Path, *overrides: str) -> tuple[str, ...]:
    return (*LONGER, f"paths.results={folder}/results", f"paths.data={folder}/data", *overrides)


def trajectory(folder: Path, seed: int) -> list[tuple]:
    run = RunFolder(trial_folder(config(*here(folder))), seed)
    return [(e.step, e.samples, e.value, e.repeats, tuple(sorted(e.losses.items()))) for e in run.trajectory()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A trial whose seed 0 was trained by one process and whose seed 1 then by torchrun with two."""
    folder = tmp_path_factory.mktemp("shared")
    trial.run(config(*here(folder)), 0)
    overrides = here(folder, "gpus_per_trial=2", "seeds=2")
    launch = ("--standalone", "--nproc-per-node=2", "-m", "cbs.run")
    return folder, command(*launch, *overrides, cwd=folder, module="torch.distributed.run")


@pytest.mark.slow
def test_torchrun_leaves_the_record_of_one_process(
    shared: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    folder, done = shared
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "seed 0" in line]) == 1  # finished already, by another number of processes
    assert len([line for line in lines if "seed 1" in line]) == 2 + 1
    found = config(*here(folder))
    record = RunFolder(trial_folder(found), 1)
    shutil.copytree(folder / "data", tmp_path / "data")
    expected = trial.run(config(*here(tmp_path)), 1)
    result = record.result()
    assert result is not None
    assert (result.outcomes, result.parameters) == (expected.outcomes, expected.parameters)
    for ours, theirs in zip(trajectory(folder, 1), trajectory(tmp_path, 1), strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2] == pytest.approx(theirs[2], rel=1e-3)  # single precision
    assert json.loads((record.path / "environment.json").read_text())["processes"] == 2
    assert os.listdir(record.claims_path) == ["0001.json"]


class Pair:
    """Two processes that share a trial, started by no launcher that would end one for the other."""

    def __init__(self, folder: Path, *more: str) -> None:
        port = free_port()
        overrides = here(folder, "gpus_per_trial=2", "seeds=2", "checkpoint_minutes=0", *more)
        self.folder = folder
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "cbs.run", *overrides],
                cwd=folder,
                env={**os.environ, **place(rank, port), "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]

    def send_when_a_checkpoint_is_new(self, number: int, ranks: list[int]) -> None:
        path = RunFolder(trial_folder(config(*here(self.folder))), 1).checkpoint_path
        before = path.stat().st_mtime_ns if path.exists() else 0
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "no checkpoint"
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.01)
        for rank in ranks:
            self.processes[rank].send_signal(number)

    def ended(self) -> list[tuple[int, str]]:
        """Exit code and stderr of each."""
        said = [process.communicate(timeout=60)[1] for process in self.processes]
        return [(process.returncode, text) for process, text in zip(self.processes, said, strict=True)]


@pytest.mark.slow
def test_stopped_killed_and_gone_on_it_ends_with_the_same_record(
    shared: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    folder, _ = shared
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seed-1"))

    stopped = Pair(tmp_path)
    stopped.send_when_a_checkpoint_is_new(signal.SIGTERM, [0, 1])
    (leader, said), (follower, _) = stopped.ended()
    assert (leader, follower) == (cli.STOPPED, cli.OK)
    assert "Give the same command again" in said

    killed = Pair(tmp_path)
    killed.send_when_a_checkpoint_is_new(signal.SIGKILL, [0])
    (leader, _), (follower, said) = killed.ended()
    assert leader == -signal.SIGKILL
    assert follower == cli.FAILED
    assert "onnection" in said

    assert [code for code, _ in Pair(tmp_path).ended()] == [cli.OK, cli.OK]
    assert trajectory(tmp_path, 1) == trajectory(folder, 1)
    assert os.listdir(tmp_path / "data") == os.listdir(folder / "data")


@pytest.mark.parametrize("wrong", ["batch_size=1", "batch_size=1900"])  # seen by every rank; by rank 0, from the data
def test_bad_input_is_said_once(wrong: str, tmp_path: Path) -> None:
    (leader, said), (follower, unsaid) = Pair(tmp_path, wrong).ended()
    assert (leader, follower) == (cli.BAD_INPUT, cli.OK)
    assert said.splitlines()[-1].startswith(f"cbs: batch_size is {wrong.split('=')[1]}: ")
    assert said.count("cbs: ") == 1
    assert unsaid == ""
