"""Energy as devices count it: RAPL's files as Linux lays them out, and NVML by a library with its functions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cbs import energy, loop
from cbs.energy import Meter
from cbs.schema import Config
from cbs.trial import Interrupted, run

CPU = torch.device("cpu")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, one with a part of its own, as in /sys/class/powercap."""
    for name, cycle in {"intel-rapl": None, "intel-rapl:0": 1000, "intel-rapl:0:0": 1000, "intel-rapl:1": 1000}.items():
        folder = tmp_path / name
        folder.mkdir()
        if cycle is not None:
            (folder / "max_energy_range_uj").write_text(f"{cycle * 10**6}\n")
            (folder / "energy_uj").write_text(f"{500 * 10**6}\n")
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    return tmp_path


def count(package: Path, joules: float) -> None:
    (package / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_packages_add_up_and_their_counters_begin_again(packages: Path) -> None:
    meter = Meter(CPU)
    assert meter.lap() == 0
    count(packages / "intel-rapl:0", 600)
    count(packages / "intel-rapl:0:0", 900)  # counted in its package already
    assert meter.lap() == pytest.approx(100)
    count(packages / "intel-rapl:1", 20)  # from 500 over 1,000
    assert meter.lap() == pytest.approx(520)
    assert meter.lap() == 0


def test_a_counter_that_is_not_for_us_is_none(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(CPU)
    (packages / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.lap() is None
    assert Meter(CPU).lap() is None
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path / "none")
    assert Meter(CPU).lap() is None


NVML = r"""
#include <string.h>
static unsigned long long drawn = 5000000000ULL;  /* more than 32 bits hold */
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  if (strcmp(uuid, "GPU-1b2c")) return 6;  /* NVML_ERROR_NOT_FOUND */
  *device = (void *)0x7f0012345678ULL;
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
  if (device != (void *)0x7f0012345678ULL) return 2;  /* NVML_ERROR_INVALID_ARGUMENT */
  *energy = drawn;
  drawn += 2500;
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler on this machine")
def test_a_gpu_is_found_by_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    monkeypatch.setattr(energy, "_NVML", str(library))
    shown = SimpleNamespace(uuid="1b2c")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: shown)
    meter = Meter(torch.device("cuda"))
    assert [meter.lap(), meter.lap()] == pytest.approx([2.5, 2.5])
    shown.uuid = "of-a-part"
    assert Meter(torch.device("cuda")).lap() is None
    monkeypatch.setattr(energy, "_NVML", "libnvidia-ml-that-is-not-here.so")
    assert Meter(torch.device("cuda")).lap() is None


def test_a_run_keeps_what_was_drawn_over_its_attempts(
    packages: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that moves by 10 J whenever it is read; a run that is stopped once."""
    read = Meter._read
    ticks = iter(range(10**6))

    def moving(meter: Meter) -> list[float] | None:
        count(packages / "intel-rapl:0", (500 + 10 * next(ticks)) % 1000)
        return read(meter)

    monkeypatch.setattr(Meter, "_read", moving)
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    config = tiny("batch_size=8", "target.every_steps=30", "target.budget_steps=30")
    calls = iter(range(10**6))
    with pytest.raises(Interrupted):
        run(config, 0, stopped=lambda: next(calls) == 20)
    result = run(config, 0)
    assert result.energy_joules == pytest.approx(10 * (30 + 1))  # after each step, and in the end
