"""Work shared among a sweep's trials gives what Hydra gives one by one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbs.batch_sizes import quoted
from cbs.cli import sentence
from cbs.config import CONF_DIR, typed
from cbs.errors import InputError
from launch import compose
from launch.composer import Composer
from tests.test_compose import hydra, plainly, sweep

CHOICES = {
    "dataset": ["digits", "celeba", "folder"],
    "optimizer": ["adam", "adabelief", "rmsprop", "sgd", "{name: sgd}", "adan"],
    "batch_size": ["2", "48", "064", "+7", "1_000", "0", "2.5", "1e3", "many", "null", "{initial: 5}"],
    "target": ["celeba", "folder", "${dataset}"],
    "model.width": ["4", "8.0", "wide", "${batch_size.initial}"],
    "model": ["dcgan", "wgan_gp", "{width: 4}"],
    "optimizer.lr_generator": ["1e-4", "3", "-1", "${model.rates.sgd.generator}", "null"],
    "optimizer.name": ["rmsprop"],
    "+optimizer.weight_decay": ["0.1"],
    "~model.rates": ["", "null"],
    "~study": [""],
    "batch_size.label": ["x", "${batch_size.initial}"],
    "batch_size.schedule.kind": ["constant", "cosine"],
    "target.thresholds": ["[5,4]", "[]"],
    "dataset.source": ["/images", "'${paths.data}/x'"],
    "study": ["quickstart", "null"],
    "hydra.job.name": ["other"],
    "modle": ["dcgan"],
}


def outcome(compose_job: Any, job: list[str]) -> Any:
    try:
        return typed(compose_job(job))
    except InputError as error:
        return str(error)
    except Exception as error:
        return type(error), sentence(error), str(error)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any, Composer]:
    """One composer for many examples, so that what they share is put to the test too."""
    loader, master = hydra()
    return loader, master, Composer(loader, master, share=True, swap=True)


@settings(max_examples=36, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_shared_work_gives_exactly_what_hydra_gives(loaded: tuple[Any, Any, Composer], data: st.DataObject) -> None:
    loader, master, composer = loaded
    names = data.draw(st.lists(st.sampled_from(sorted(CHOICES)), max_size=4, unique=True))
    job = [f"{name}={data.draw(st.sampled_from(CHOICES[name]))}".removesuffix("=") for name in names]
    job = [quoted(line) for line in job]
    assert outcome(composer.compose, job) == outcome(lambda j: loader.load_sweep_config(master, j), job)


def test_most_work_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job for name in ("adam", "sgd") for job in sweep(tmp_path, f"optimizer={name}", "model.width=4")]
    loader, master = hydra()
    composing = []
    honest = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: composing.append(a) or honest(*a))
    found = compose.composed(loader, master, jobs)
    assert len(composing) == 3  # the first job, and the two choices of an optimizer
    assert found == plainly(loader, master, jobs)


def _named_by_it(conf: Path) -> None:
    (conf / "config.yaml").write_text(
        (conf / "config.yaml")
        .read_text()
        .replace("  - study: null", "  - optional sizes: of_${batch_size}\n  - study: null")
    )
    (conf / "sizes").mkdir()
    (conf / "sizes" / "of_8.yaml").write_text("# @package _global_\nmodel: {width: 5}\n")


def _answered_by_a_file(conf: Path) -> None:
    (conf / "batch_size").mkdir(exist_ok=True)
    (conf / "batch_size" / "8.yaml").write_text("label: eight\ninitial: 9\nschedule: {kind: constant}\n")
    (conf / "batch_size" / "ramp.yaml").write_text("label: ramp\ninitial: 2\nschedule: {kind: constant}\n")


def _written_over_afterwards(conf: Path) -> None:
    (conf / "study" / "quickstart.yaml").write_text("# @package _global_\nbatch_size: {initial: 64}\n")


def _written_before(conf: Path) -> None:
    top = conf / "config.yaml"
    top.write_text(top.read_text() + "batch_size: {label: before, initial: 1}\n")


def _in_another_package(conf: Path) -> None:
    top = conf / "config.yaml"
    top.write_text(
        top.read_text().replace('  - batch_size: "64"', '  - batch_size@model.rates: "64"\n  - batch_size: "64"')
    )


@pytest.mark.parametrize(
    "change", [_named_by_it, _answered_by_a_file, _written_over_afterwards, _written_before, _in_another_package]
)
def test_batch_sizes_that_anything_depends_on_are_composed(tmp_path: Path, change: Any) -> None:
    conf = Path(shutil.copytree(CONF_DIR, tmp_path / "conf"))
    change(conf)
    study = ["study=quickstart"] if change is _written_over_afterwards else []
    sizes = [2, 8, 16, 64] + (["ramp"] if change is _answered_by_a_file else [])
    jobs = sweep(tmp_path, *study, sizes=sizes)
    loader, master = hydra(conf)
    assert compose.composed(loader, master, jobs) == plainly(loader, master, jobs)
