"""The thesis's studies: as they are on CIFAR-10, and in miniature on digits, from the sweep to the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cbs.record import run_folders
from tests.conftest import command, config

SCHEDULES = {
    "grow_16_at_16_40_80_128": (16, [16, 40, 80, 128], [32, 64, 128, 256]),
    "grow_32_at_32_80_160_256": (32, [32, 80, 160, 256], [64, 128, 256, 512]),
    "grow_64_at_32_96": (64, [32, 96], [128, 256]),
    "grow_64_at_64_160_320_512": (64, [64, 160, 320, 512], [128, 256, 512, 1024]),
}
MINIATURE = (
    *("seeds=2", "model.width=4", "model.latent=4", "target.samples=128", "target.first_gradients=320"),
    *("target.precision=0.5", "target.budget_steps=120", "target.thresholds=[1.0]", "name=mini"),
)
# What of MINIATURE has to be otherwise, how many arms there are, and up to which step they are one run.
DIGITS = {
    "thesis_srfb_svre_digits": (("batch_size=16",), 4, None),
    "thesis_full_batch_interval_digits": (("batch_size=16",), 3, None),
    "thesis_growing_batch_digits": (("target.budget_steps=1200", "target.precision=0.1"), 3, 899),
}


@pytest.mark.parametrize("study", ["thesis_srfb_svre", "thesis_full_batch_interval", "thesis_growing_batch"])
def test_its_networks_and_settings(study: str) -> None:
    found = config(f"study={study}")
    optimizer, data = found.optimizer, found.dataset
    assert (found.name, found.model.name, data.name, data.image_size) == (study, "sagan", "cifar10", 32)
    assert (optimizer.name, optimizer.lr_generator, optimizer.lr_discriminator) == ("adam", 2e-4, 2e-4)
    assert (optimizer.beta1, optimizer.beta2) == (0.5, 0.9)
    assert found.target.extra == ["inception_score"]
    assert found.seeds >= 5


@pytest.mark.parametrize("name", SCHEDULES)
def test_its_schedules(name: str) -> None:
    found = config(f"batch_size={name}").batch_size
    initial, at, sizes = SCHEDULES[name]
    assert (found.initial, found.schedule.kind) == (initial, "epochs")
    assert (found.schedule.at, found.schedule.sizes) == (at, sizes)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("study", "arms"), [("thesis_srfb_svre", 2), ("thesis_full_batch_interval", 3), ("thesis_growing_batch", 7)]
)
def test_they_compose_without_data_or_weights(study: str, arms: int, tmp_path: Path) -> None:
    done = command("-m", f"study={study}", "hydra/launcher=dry", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{arms} trials, {5 * arms} runs" in done.stderr + done.stdout
    assert not list((tmp_path / "results").rglob("claims"))


@pytest.mark.slow
@pytest.mark.parametrize("study", DIGITS)
def test_a_study_on_digits_from_the_sweep_to_the_verdict(study: str, tmp_path: Path) -> None:
    change, arms, shared = DIGITS[study]
    done = command("-m", f"study={study}", *MINIATURE, *change, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = tmp_path / "results" / "mini"
    assert len(list(run_folders(records))) == 2 * arms
    compared = command("compare", str(records), "--json", cwd=tmp_path, module="analysis")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert len(found["arms"]) == arms
    assert found["verdict"]
    told = " ".join(found["notes"])
    assert (f"the same runs up to step {shared}" in told) == (shared is not None)
    drawn = command("compare", str(records), cwd=tmp_path, module="analysis")
    assert drawn.returncode == 0, drawn.stderr
    assert "…" not in drawn.stdout
    assert "<svg" in (records / "compare.html").read_text()
    if shared is not None:
        fitted = command("fit", str(records), cwd=tmp_path, module="analysis")
        assert "4 runs of the study change their batch size, or branch from another run" in fitted.stdout


def test_an_adaptive_sweep_refuses_a_growing_batch(tmp_path: Path) -> None:
    refused = command("-m", "hydra/sweeper=bisect", "batch_size=16,grow_64_at_32_96", cwd=tmp_path)
    assert refused.returncode == 2
    assert "batch_size" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
