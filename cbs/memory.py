"""What a training step takes of a device's memory, and whether it is there."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.models.sagan import attended
from cbs.options import SAGANConfig
from cbs.schema import Config
from cbs.tasks.gan import GAN

# Estimating takes a second: below this b·size²·width (and where pixels attend to pixels, as many values beside it) a
# step takes less than 2 GiB, and nothing is estimated.
LITTLE = 2**24
# What an estimate leaves to libraries' workspaces, to fragments and to everybody else.
_SHARE = 0.9
_GIB = 2**30


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def step_bytes(config: Config, classes: int) -> int:
    """The most bytes that tensors take in a training step at a config's largest b, weights and moments included.

    Found by taking one with tensors that have shapes and no content. A library's workspaces come on top.
    """
    n = -(-config.batch_size.largest // config.gpus_per_trial)
    share = replace(config.at(n), gpus_per_trial=1)
    data, device = config.dataset, torch.device("cpu")
    with FakeTensorMode(), _Live() as live:
        images = torch.empty(n, data.channels, data.image_size, data.image_size, dtype=torch.uint8)
        labels = torch.zeros(n, dtype=torch.int64) if classes else None
        task = GAN(share, 0, Pictures(images, labels, classes), device)
        for _ in range(2):  # optimizers make their state in the first
            task.step()
    return live.peak


def fitted(config: Config, classes: int, device: torch.device) -> Config:
    """The config with its micro-batch settled: `auto` becomes the largest that fits, by halves of the batch.

    Raises InputError where a step doesn't fit into the memory that the device has free.
    """
    b = config.batch_size.largest
    n = min(config.micro_batch, b) if isinstance(config.micro_batch, int) else b
    free = free_bytes(device)
    while True:
        settled = replace(config, micro_batch=None if n >= b else n)
        if n * _values(config) <= LITTLE:
            return settled
        need = step_bytes(settled, classes)
        if need <= free * _SHARE:
            return settled
        settled = smaller(
            config, settled, device, f"a step takes {need / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free"
        )
        assert isinstance(settled.micro_batch, int)
        n = settled.micro_batch


def _values(config: Config) -> int:
    """The values of an image's widest feature maps, and of attention between pixels where that may take more."""
    size = config.dataset.image_size
    weights = sum(side**4 for side in attended(size)) if isinstance(config.model, SAGANConfig) else 0
    return size**2 * config.model.width + weights


def smaller(config: Config, settled: Config, device: torch.device, why: object) -> Config:
    """Half the micro-batch of a settled config that didn't fit, if `config` leaves that to the device.

    Raises InputError where it doesn't, or where a micro-batch can't be smaller.
    """
    field, n = "batch_size", config.batch_size.largest
    if isinstance(settled.micro_batch, int):
        field, n = "micro_batch", settled.micro_batch
    least = config.gpus_per_trial
    if config.micro_batch == "auto" and n > least:
        return replace(config, micro_batch=max(-(-n // 2), least))
    rest = "give a smaller one, or micro_batch=auto" if n > least else "give a smaller model"
    said = str(why).splitlines()[0]
    raise InputError(f"{field} is {n}, for which {device} has no room ({said}): {rest}.")


def free_bytes(device: torch.device) -> int:
    """What a device has free; on a CPU, within the limit of this process's control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    for limit in _group_limits():
        free = min(free, limit - psutil.Process().memory_info().rss)
    return free


def _group_limits() -> list[int]:
    """The memory limits, in bytes, of this process's control group (version 2) and of those around it."""
    try:
        within = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    except OSError:
        return []
    group = Path("/sys/fs/cgroup") / within
    found = []
    for folder in (group, *group.parents):
        try:
            found.append(int((folder / "memory.max").read_text()))
        except (OSError, ValueError):  # none there, or "max"
            continue
    return found


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has had: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
