"""The energy that a device has drawn, where it counts it: NVIDIA's GPUs since Volta, and CPUs by Intel's RAPL.

The count is the whole device's, whoever used it. AMD's CPUs count under the same names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"  # comes with the driver


class Meter:
    """Tells what a device has drawn; ask it more often than its counter begins again (RAPL's: every few minutes)."""

    def __init__(self, device: torch.device) -> None:
        self._counters = _gpu(device) if device.type == "cuda" else _packages()
        self._last = self._read()

    def lap(self) -> float | None:
        """Joules since this was last asked; None where the device doesn't say."""
        before, self._last = self._last, self._read()
        if before is None or self._last is None:
            return None
        pairs = zip(self._counters, before, self._last, strict=True)
        return sum(after - old + (cycle if after < old else 0.0) for (_, cycle), old, after in pairs)

    def added_to(self, known: float | None) -> float | None:
        """Joules known before, and those since this was last asked; None where either isn't known."""
        drawn = self.lap()
        return None if drawn is None or known is None else known + drawn

    def _read(self) -> list[float] | None:
        try:
            return [read() for read, _ in self._counters] or None
        except (OSError, ValueError):  # not for this user, or gone
            return None


Counter = tuple[Callable[[], float], float]
"""Reads joules; after so many it begins again."""


def _packages() -> list[Counter]:
    """One counter per processor package: Linux's power capping framework, in microjoules."""
    found: list[Counter] = []
    for folder in sorted(_POWERCAP.glob("intel-rapl:*")):
        if folder.name.count(":") == 1:  # those with more are parts of a package
            try:
                cycle = int((folder / "max_energy_range_uj").read_text()) / 1e6
            except (OSError, ValueError):
                return []
            found.append((lambda path=folder / "energy_uj": int(path.read_text()) / 1e6, cycle))  # type: ignore[misc]
    return found


def _gpu(device: torch.device) -> list[Counter]:
    """The counter of one GPU, in millijoules (NVML's nvmlDeviceGetTotalEnergyConsumption); a part of one has none."""
    # By its UUID: NVML counts all of a machine's GPUs, a process those that it is shown.
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        nvml = ctypes.CDLL(_NVML)
        handle = ctypes.c_void_p()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
            return []
        ask = nvml.nvmlDeviceGetTotalEnergyConsumption
    except (OSError, AttributeError):  # no driver of NVIDIA's, or one that is older than this counter
        return []

    def read() -> float:
        counted = ctypes.c_ulonglong()
        if ask(handle, ctypes.byref(counted)):
            raise OSError("NVML gives no energy for this device")
        return counted.value / 1000

    return [(read, 0.0)]
