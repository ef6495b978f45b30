"""A sweep's configs: composed with shared work, or looked up, they are what Hydra composes one by one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from benchmarks.launcher import finish
from cbs.batch_sizes import quoted
from cbs.config import CONF_DIR, typed
from cbs.errors import InputError
from cbs.options import OPTIMIZERS
from cbs.schedules import BatchSizeConfig
from cbs.schema import Config
from launch import compose, sources
from launch.composer import Composer
from tests.conftest import command, config

MANY = [2, 4, 8, 16, 32]


@pytest.fixture(autouse=True)
def _low_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of trials is worth a cache here."""
    monkeypatch.setattr(compose, "FEW", 3)


def hydra(conf: Path = CONF_DIR, *overrides: str) -> tuple[Any, Any]:
    """A loader and a master config, as a launcher gets them."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader, loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)


def sweep(folder: Path, *overrides: str, sizes: list[Any] = MANY) -> list[list[str]]:
    here = [f"paths.results={folder}/results", *overrides]
    return [[*here, quoted(f"batch_size={b}")] for b in sizes]


def plainly(loader: Any, master: Any, jobs: list[list[str]]) -> list[Config]:
    return [typed(loader.load_sweep_config(master, job)) for job in jobs]


def cache_of(folder: Path) -> Path:
    return folder / "results" / "sweep" / compose.NAME


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of conf/ to write into."""
    return Path(shutil.copytree(CONF_DIR, tmp_path / "conf"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The jobs that were composed, apart from each sweep's first."""
    seen: list[list[str]] = []
    honest = Composer.compose

    def counting(self: Composer, job: list[str]) -> Any:
        seen.append(job)
        return honest(self, job)

    monkeypatch.setattr(Composer, "compose", counting)
    return seen


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_config_comes_back_from_its_plain_form(optimizer: str) -> None:
    found = config(f"optimizer={optimizer}", "target.every_steps=100", "dataset=folder", "dataset.source=/x")
    again = Config.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert type(again.optimizer) is OPTIMIZERS[optimizer]
    assert again.to_dict() == found.to_dict()


def test_cached_is_composed(tmp_path: Path, counted: list) -> None:
    jobs = [job for name in OPTIMIZERS for job in sweep(tmp_path, f"optimizer={name}")]
    loader, master = hydra()
    found = compose.composed(loader, master, jobs)
    assert len(counted) == len(jobs) - 1
    assert compose.composed(loader, master, jobs) == found == plainly(loader, master, jobs)
    assert len(counted) == len(jobs) - 1
    # Part of it, and more than it: only what is new is composed, and added.
    more = [*jobs[5:], *sweep(tmp_path, "model.width=5", sizes=[2, 4])]
    assert compose.composed(loader, master, more)[:-2] == found[5:]
    assert counted[len(jobs) - 1 :] == more[-2:]
    assert len(json.loads(cache_of(tmp_path).read_text())["configs"]) == len(jobs) + 2
    # How runs are launched is no part of a config.
    loader, master = hydra(CONF_DIR, "hydra.launcher.workers=2")
    counted.clear()
    assert compose.composed(loader, master, jobs) == found
    assert not counted


def test_few_trials_leave_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    loader, master = hydra()
    assert compose.composed(loader, master, []) == []
    compose.composed(loader, master, sweep(tmp_path, sizes=MANY[: compose.FEW]))
    assert not cache_of(tmp_path).exists()
    assert capsys.readouterr().err == ""


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _another_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"initial": 16,', '"initial": 17,'))


def _of_another_version(path: Path) -> None:
    path.write_text(json.dumps({"configs": json.loads(path.read_text())["configs"], "check": "0" * 64}))


@pytest.mark.parametrize(
    "harm",
    [
        _truncated,
        _another_number,
        _of_another_version,
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"\xff\0"),
        lambda path: path.write_text('{"check": 1, "configs": 2}'),
    ],
)
def test_a_damaged_or_foreign_cache_is_ignored_and_rewritten(tmp_path: Path, counted: list, harm: Any) -> None:
    jobs = sweep(tmp_path)
    loader, master = hydra()
    found = compose.composed(loader, master, jobs)
    whole = cache_of(tmp_path).read_bytes()
    harm(cache_of(tmp_path))
    counted.clear()
    assert compose.composed(loader, master, jobs) == found
    assert len(counted) == len(jobs) - 1
    assert cache_of(tmp_path).read_bytes() == whole


def test_a_cache_that_contradicts_the_first_trial_is_not_believed(tmp_path: Path, counted: list) -> None:
    """As it would where something enters a config that is not known to."""
    jobs = sweep(tmp_path)
    loader, master = hydra()
    found = compose.composed(loader, master, jobs)
    content = json.loads(cache_of(tmp_path).read_text())
    for plain in content["configs"].values():
        plain["model"]["width"] = 999
    digest = sources.read(loader, master, jobs, [tmp_path / "results", Path("data").resolve()]).digest
    content["check"] = compose._check(digest, content["configs"])
    cache_of(tmp_path).write_text(json.dumps(content))
    counted.clear()
    assert compose.composed(loader, master, jobs) == found
    assert len(counted) == len(jobs) - 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    cache_of(tmp_path).mkdir(parents=True)
    loader, master = hydra()
    assert len(compose.composed(loader, master, sweep(tmp_path))) == len(MANY)
    assert [path.name for path in cache_of(tmp_path).parent.iterdir()] == [compose.NAME]


def test_editing_any_config_file_counts(tmp_path: Path, conf: Path, counted: list) -> None:
    jobs = sweep(tmp_path, "optimizer=adam")

    def betas() -> set[float]:
        counted.clear()
        loader, master = hydra(conf)
        return {found.optimizer.beta1 for found in compose.composed(loader, master, jobs)}  # type: ignore[union-attr]

    assert betas() == {0.5}
    adam = conf / "optimizer" / "adam.yaml"
    adam.write_text(adam.read_text().replace("beta1: ${model.moments.adam.beta1}", "beta1: 0.25"))
    assert betas() == {0.25}
    assert len(counted) == len(jobs) - 1
    assert betas() == {0.25}
    assert not counted
    # A file that wasn't there and that only a default's name calls for.
    (conf / "model_dataset" / "dcgan_digits.yaml").write_text("# @package _global_\noptimizer: {beta1: 0.75}\n")
    assert betas() == {0.75}
    # The study's own records may lie on the search path.
    (tmp_path / "results" / "sweep" / "trial.yaml").write_text("x: 1")
    assert betas() == {0.75}
    assert not counted


REACHING = (
    "${oc.env:CBS_TEST_BETA}",
    "${oc.decode:${oc.env:CBS_TEST_BETA}}",
    "${cbs_test_beta:}",
    "${hydra:runtime.choices.optimizer}",
    "${hydra.job.num}",
    "${..hydra.job.num}",
    "${${oc.env:CBS_TEST_BETA}}",
    "${hy${x}.job}",
    "a${now:%Y}b",
)


@pytest.mark.parametrize("text", REACHING)
def test_what_reaches_out_of_the_files_is_told(text: str) -> None:
    assert sources._reaches_out(text)


@pytest.mark.parametrize(
    "text", ["${model}_${dataset}", "${..rates.adam}", "${model.rates.${optimizer.name}.generator}", "${a[0].b}", "$x"]
)
def test_what_stays_within_is_told_too(text: str) -> None:
    assert not sources._reaches_out(text)


def _in_the_file(conf: Path, text: str) -> list[str]:
    adam = conf / "optimizer" / "adam.yaml"
    adam.write_text(adam.read_text().replace("beta1: ${model.moments.adam.beta1}", f"beta1: {text}"))
    return []


def _in_an_override(conf: Path, text: str) -> list[str]:
    return [f"optimizer.beta1='{text}'"]


@pytest.mark.parametrize("place", [_in_the_file, _in_an_override])
@pytest.mark.parametrize("text", REACHING[:3])
def test_values_from_elsewhere_are_never_cached(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch, place: Any, text: str
) -> None:
    OmegaConf.register_new_resolver("cbs_test_beta", lambda: float(os.environ["CBS_TEST_BETA"]), replace=True)
    jobs = sweep(tmp_path, *place(conf, text))
    for beta in ("0.25", "0.75"):
        monkeypatch.setenv("CBS_TEST_BETA", beta)
        loader, master = hydra(conf)
        found = compose.composed(loader, master, jobs)
        assert {one.optimizer.beta1 for one in found} == {float(beta)}  # type: ignore[union-attr]
    assert not cache_of(tmp_path).exists()
    OmegaConf.clear_resolver("cbs_test_beta")


def test_an_environment_in_the_defaults_list_is_never_cached(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = conf / "config.yaml"
    top.write_text(top.read_text().replace("- optimizer: adam", "- optimizer: ${oc.env:CBS_TEST_OPTIMIZER}"))
    for name in ("adam", "sgd"):
        monkeypatch.setenv("CBS_TEST_OPTIMIZER", name)
        loader, master = hydra(conf)
        assert {one.optimizer.name for one in compose.composed(loader, master, sweep(tmp_path))} == {name}
    assert not cache_of(tmp_path).exists()


def test_hydras_own_settings_may_read_what_they_like(tmp_path: Path, conf: Path) -> None:
    top = conf / "config.yaml"
    top.write_text(top.read_text().replace("    dir: .\n", "    dir: ${now:%Y}\n"))
    (conf / "hydra" / "launcher" / "other.yaml").write_text("partition: ${oc.env:PARTITION}\n")
    loader, master = hydra(conf)
    (conf / "round").symlink_to(conf)
    (conf / "gone.yaml").symlink_to(conf / "nowhere")
    compose.composed(loader, master, sweep(tmp_path))
    assert cache_of(tmp_path).exists()
    (conf / "hydra" / "launcher" / "other.yaml").write_text("# @package model\nwidth: ${oc.env:WIDTH}\n")
    assert not sources.read(loader, master, [], []).closed


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("batch_size='0'", "batch_size is '0': it must be a whole number, 1 or more."),
        ("target.precision=0", "target.precision is 0: it must be a finite number above 0."),
        ("optimizer.lr_generator=fast", "optimizer.lr_generator: Value 'fast'"),
    ],
)
def test_a_bad_trial_is_refused_again_and_again_and_never_cached(tmp_path: Path, bad: str, words: str) -> None:
    good = sweep(tmp_path)
    jobs = [*good[:-1], [line for line in good[-1] if not bad.startswith(line.split("=")[0])] + [bad]]
    loader, master = hydra()
    for _ in range(2):
        with pytest.raises(InputError, match=words):
            compose.composed(loader, master, jobs)
    assert not cache_of(tmp_path).exists()
    compose.composed(loader, master, good)
    kept = cache_of(tmp_path).read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=words):
            compose.composed(loader, master, jobs)
    assert cache_of(tmp_path).read_bytes() == kept


def test_writers_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    path, found = tmp_path / "study" / compose.NAME, config()
    known = [{f"{writer} {k}": found for k in range(40)} for writer in range(4)]
    writers = [threading.Thread(target=compose._write, args=(path, "digest", {}, mine)) for mine in known * 5]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or len(compose._read(path, "digest")) == 40
    assert set(compose._read(path, "digest")) in [set(mine) for mine in known]
    assert list(path.parent.iterdir()) == [path]


def test_a_line_now_and_then_says_how_far_it_is(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "_PLAIN_SECONDS", 0.0)
    items = list(range(compose.FEW + 1))
    assert list(compose._with_progress(items, len(items))) == items
    assert f"composing: 2 of {len(items)} trials\n" in capsys.readouterr().err
    assert list(compose._with_progress(items[1:], len(items) - 1)) == items[1:]
    assert capsys.readouterr().err == ""


def test_a_finished_sweep_is_decided_from_the_cache(tmp_path: Path) -> None:
    """Through the command line, with a folder of one's own configs."""
    own = tmp_path / "mine" / "optimizer"
    own.mkdir(parents=True)
    (own / "slow.yaml").write_text((CONF_DIR / "optimizer" / "adam.yaml").read_text() + "\n")
    base = config(f"paths.results={tmp_path}/results", f"paths.data={tmp_path}/data")
    sizes = range(1, 41)
    for b in sizes:
        finish(replace(base, batch_size=BatchSizeConfig.constant(b)))
    given = f"batch_size={','.join(map(str, sizes))}"
    arguments = ("-m", "--config-dir=mine", "optimizer=slow", given, f"paths.data={tmp_path}/data")
    said = "40 runs: 40 finished already, 0 to do"
    first, second = (command(*arguments, cwd=tmp_path) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert said in first.stderr
    assert said in second.stderr
    assert first.stdout == second.stdout
    kept = cache_of(tmp_path).read_bytes()
    (own / "slow.yaml").write_text(
        (own / "slow.yaml").read_text().replace("beta1: ${model.moments.adam.beta1}", "beta1: 2")
    )
    changed = command(*arguments, cwd=tmp_path)
    assert changed.returncode == 2
    assert "optimizer.beta1 is 2" in changed.stderr
    assert cache_of(tmp_path).read_bytes() == kept
