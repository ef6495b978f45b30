"""The package as users get it: a wheel, an empty folder, and the quickstart study."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from analysis.curves.studies import from_study
from tests.conftest import ROOT, TINY, command


def test_the_version_is_one(tmp_path: Path) -> None:
    import cbs

    assert f"version: {cbs.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {cbs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_range_and_a_tested_version() -> None:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=!~\[ ]", d)[0].lower() for d in asked}
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert names == pinned


@pytest.mark.slow
def test_an_installed_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    """Built, installed into a fresh environment whose other packages are this one's, run elsewhere."""
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "-w", str(tmp_path)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(where.stdout.strip())
    # With it pip would find the tree's own cbs, already installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", str(wheel)], check=True, env=environment)
    # A .pth line adds the folder without reading its .pth files: an editable cbs there stays invisible.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [python, "-m", *arguments], cwd=empty, env=environment, capture_output=True, text=True, timeout=300
        )

    found = subprocess.run(
        [python, "-c", "import cbs; print(cbs.__file__)"], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert str(site) in found.stdout
    done = run("cbs.run", "-m", *TINY, "batch_size=8,16,32", "seeds=2", "target.thresholds=[170]")
    assert done.returncode == 0, done.stderr
    assert "6 to do" in done.stderr
    done = run("cbs.run", *TINY, "batch_size=48")
    assert done.returncode == 0, done.stderr
    (studies,) = [line for line in run("cbs.run", "--help").stdout.splitlines() if line.startswith("study: ")]
    assert studies.split(": ")[1].split(", ") == sorted(p.stem for p in (ROOT / "conf" / "study").glob("*.yaml"))
    done = run("analysis", "plots", "results/sweep")
    assert done.returncode == 0, done.stderr
    assert run("analysis", "fit", "results/sweep").returncode == 0


@pytest.mark.slow
def test_the_quickstart_study_shows_the_theorys_shape(tmp_path: Path) -> None:
    """N(b) falls and flattens on real digits, for each optimizer, and the figures are drawn."""
    # At b = 2, where most never arrive, 15,000 steps are half as many gradients again as the best size takes.
    done = command("-m", "study=quickstart", "seeds=3", "target.budget_steps=15000", cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "results" / "quickstart"
    curves = from_study(study)
    assert [c.optimizer for c in curves] == ["adabelief", "adam", "rmsprop"]
    for curve in curves:
        medians = curve.medians()
        assert curve.batch_sizes == [2, 4, 8, 16, 32, 64, 128]
        large = medians[[32, 64, 128]].median()
        assert math.isfinite(large)
        assert medians[2] > 2 * large, medians
        assert medians[4] > 1.3 * large, medians
        assert 0.5 < medians[64] / medians[128] < 2, medians
    done = command("plots", "results/quickstart", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    shown = json.loads(command("fit", "results/quickstart", "--json", cwd=tmp_path, module="analysis").stdout)
    for row in shown["curves"]:
        assert row["b_star"] is not None
        assert 0 < row["b_star"] < 64
        assert row["estimated_b_star"] is not None
