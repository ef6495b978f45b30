"""The paper's three studies on miniature data in each set's own format: from the original files to figures."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cbs.outcome import Reached
from cbs.record import RunFolder, run_folders
from tests.conftest import command
from tests.pictures import WNIDS, encoded, put_files, put_lmdb

MINIATURE = (
    "dataset.image_size=16",
    "target.features=pixels",
    "target.samples=64",
    "target.every_steps=4",
    "target.budget_steps=16",
    "target.thresholds=[1e6,1e-3]",
    "target.confirmations=0",
    "optimizer=adam,adabelief",
    "seeds=1",
    "device=cpu",
)
SIZES = {"model.width": 4, "model.latent": 6}


def lsun(data: Path) -> None:
    put_lmdb(data / "lsun_bedroom" / "bedroom_train_lmdb", {f"{i:040x}": encoded(i, "WEBP") for i in range(24)})


def celeba(data: Path) -> None:
    names = [f"{i:06d}.jpg" for i in range(1, 25)]
    text = "".join(f"{name} 0\n" for name in names)
    put_files(data / "celeba", {"list_eval_partition.txt": text.encode()})
    with zipfile.ZipFile(data / "celeba" / "img_align_celeba.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(f"img_align_celeba/{name}", encoded(i, size=(44, 54)))


def imagenet(data: Path) -> None:
    files = {f"{wnid}/{wnid}_{i}.JPEG": encoded(i) for wnid in WNIDS for i in range(8)}
    put_files(data / "imagenet" / "train", files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "make", "choice"),
    [
        ("paper_dcgan_lsun", lsun, ()),
        ("paper_wgan_gp_celeba", celeba, ()),
        ("paper_biggan_imagenet", imagenet, ("model.attention=8", "model.shared_embedding=4")),
    ],
)
def test_a_study_of_the_paper_from_original_files_to_figures(study: str, make, choice: tuple, tmp_path: Path) -> None:
    make(tmp_path / "data")
    sizes = [f"{name}={value}" for name, value in SIZES.items()]
    done = command("-m", f"study={study}", *MINIATURE, *sizes, "batch_size=2,8", *choice, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "packing" in done.stderr
    records = tmp_path / "results" / study
    runs = list(run_folders(records))
    assert len(runs) == 4
    for run in runs:
        assert [e.step for e in run.trajectory()] == [4, 8, 12, 16]
        assert {e.samples for e in run.trajectory()} == {s * batch(run) for s in (4, 8, 12, 16)}
        result = run.result()
        assert result is not None
        assert result.dataset["count"] == 24
        assert result.peak_memory_bytes is not None
    drawn = command("plots", str(records), cwd=tmp_path, module="analysis")
    assert drawn.returncode == 0, drawn.stderr
    assert list((records / "figures").glob("*.png"))


def batch(run: RunFolder) -> int:
    import yaml

    return int(yaml.safe_load((run.trial / "trial.yaml").read_text())["config"]["batch_size"]["initial"])


@pytest.mark.parametrize("study", ["paper_dcgan_lsun", "paper_wgan_gp_celeba", "paper_biggan_imagenet"])
def test_a_dry_run_says_what_a_study_may_cost(study: str, tmp_path: Path) -> None:
    """Without data, without Inception's weights, without a GPU, without Slurm."""
    given = ["target.thresholds=[50]"] if "biggan" in study else []
    done = command("-m", f"study={study}", "hydra/launcher=dry", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of GPU time" in done.stdout
    assert "the networks' arithmetic" in " ".join(done.stdout.split())
    assert not list((tmp_path / "results").rglob("claims"))


def test_biggans_threshold_is_asked_for(tmp_path: Path) -> None:
    refused = command("-m", "study=paper_biggan_imagenet", cwd=tmp_path)
    assert refused.returncode == 2
    assert "target.thresholds has no value here: give one." in refused.stderr


@pytest.mark.slow
def test_a_tiny_biggan_reaches_its_target_on_digits(tmp_path: Path) -> None:
    choice = ("model=biggan", "batch_size=64", "target.generator=ema", "target.ema_decay=0.99")
    done = command(*choice, "target.budget_steps=3000", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    (run,) = run_folders(tmp_path / "results" / "sweep")
    result = run.result()
    assert result is not None
    assert isinstance(result.outcomes[4.0], Reached)
    first, last = run.trajectory()[0], run.trajectory()[-1]
    assert first.value > 8
    assert last.value <= 4
