"""The machine a run is on: its device, the settings that shape rounding, and what to note of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cbs import __version__
from cbs.errors import InputError

# Up to this b·width² a convolution without oneDNN's set-up is faster (`make bench` shows it).
# A rule and not a measurement, because the choice shapes rounding.
_LITTLE_WORK = 4096


def resolve_device(name: str) -> torch.device:
    """The torch device of a config's `device`; InputError where it isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu.")
    return device


def settle_numerics(device: torch.device) -> None:
    """One thread and deterministic kernels, so that a rerun gives the same record."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def prefers_onednn(width: int, b: int) -> bool:
    """Whether a CPU should train networks of this width on b images through oneDNN."""
    return b * width**2 > _LITTLE_WORK


@contextmanager
def onednn(enabled: bool) -> Iterator[None]:
    """Convolve with or without oneDNN on a CPU."""
    before = torch.backends.mkldnn.set_flags(enabled)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before[0])


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Multiply 32-bit floats on a GPU with 10 bits of mantissa, or with all 23."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Where a network's products are bfloat16's, if `precision` says so; what must not be rounded stays float32.

    Casts of weights are not kept from one use to the next: a CUDA graph would keep them for ever.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def whole_floats(kind: str) -> AbstractContextManager[Any]:
    """On devices of this type: what is computed here isn't rounded to bfloat16, inside `arithmetic` neither."""
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def device_name(device: torch.device) -> str:
    """A device's type and model."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"


def sharing() -> int:
    """How many runs have this process's device at once, itself included, as whoever started it says."""
    return int(os.environ.get("CBS_SHARING", "1"))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, revision, device and command of this process."""
    import numpy
    import torchvision

    where = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", where, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "cbs": __version__,
        "revision": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "device": device_name(device),
        "host": platform.node(),
        "platform": platform.platform(),
        "command": sys.argv,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
