"""One trial on several processes: each takes its part of every batch, and rank 0 leads.

Rank 0 alone evaluates, writes and decides. The others hold the same networks and do what it tells them:
build, load, step, end. Every sum over the processes is the same, bit for bit, on each of them, and so the
networks stay the same without ever being sent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from cbs.errors import InputError
from cbs.loop import Task
from cbs.machine import resolve_device
from cbs.outcome import Evaluation
from cbs.schema import Config

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
# A sum takes milliseconds; one that takes this long is waiting for a process that is gone.
_STUCK = timedelta(minutes=10)
# Followers wait while rank 0 packs a data set or evaluates. Where it dies, its connections tell them at once.
_PATIENCE = timedelta(hours=24)
_COMMANDS = ("step", "build", "load", "saw", "end")
_WITH_CONTENT = ("build", "load", "saw")


@dataclass(frozen=True)
class Team:
    """The processes that share a trial's batches, as the one of this rank sees them."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None  # over it come commands: gloo's, on whatever device the sums are

    def parts(self, b: int, micro_batch: int) -> list[slice]:
        """This rank's part of each micro-batch of a batch of b.

        Micro-batches are as even as can be, none larger than `micro_batch`, and so are their parts.
        """
        k = -(-b // micro_batch)
        ends = [m * b // k for m in range(k + 1)]
        return [_share(low, high, self.rank, self.size) for low, high in itertools.pairwise(ends)]

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of x over the ranks, in the shape of x; differentiable any number of times."""
        return _Total.apply(x)

    def totals(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Each tensor's sum over the ranks, by one exchange for all; not differentiable."""
        if self.size == 1:
            return tensors
        bucket = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(bucket)
        sums = bucket.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(sums, tensors, strict=True)]

    def tell(self, command: str, content: Any = None) -> None:
        """Rank 0: have the others carry out a command."""
        if self.size > 1:
            dist.broadcast(torch.tensor([_COMMANDS.index(command)]), 0, self.control)
            if command in _WITH_CONTENT:
                dist.broadcast_object_list([content], 0, self.control)

    def hear(self) -> tuple[str, Any]:
        """The others: wait for rank 0's next command and its content. Raises RuntimeError where rank 0 died."""
        number, content = torch.zeros(1, dtype=torch.int64), [None]
        dist.broadcast(number, 0, self.control)
        command = _COMMANDS[int(number)]
        if command in _WITH_CONTENT:
            dist.broadcast_object_list(content, 0, self.control)
        return command, content[0]

    def meet(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(self.control)


def _share(low: int, high: int, rank: int, size: int) -> slice:
    n = high - low
    return slice(low + rank * n // size, low + (rank + 1) * n // size)


ALONE = Team()


class _Total(torch.autograd.Function):
    """y = Σ x over the ranks. Every rank's loss depends on y, so the gradient for x is the sum of theirs for y.

    That sum is this function again, and so it has a gradient itself.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Total.apply(gradient)


class Led:
    """A task as rank 0 trains it: the others, told to build theirs before, load and step with it.

    Implements cbs.loop.Task.
    """

    def __init__(self, task: Task, team: Team) -> None:
        self._task, self._team = task, team

    @property
    def loss_names(self) -> tuple[str, ...]:
        return self._task.loss_names

    @property
    def samples(self) -> int:
        return self._task.samples

    @property
    def gradients(self) -> Mapping[str, int]:
        return self._task.gradients

    def step(self) -> tuple[torch.Tensor, ...]:
        self._team.tell("step")
        return self._task.step()

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        self._team.tell("saw", evaluations)
        self._task.saw(evaluations)

    def finite(self) -> bool:
        return self._task.finite()

    def state(self) -> dict[str, Any]:
        return self._task.state()

    def load(self, state: dict[str, Any]) -> None:
        self._team.tell("load", state)
        self._task.load(state)


def follow(team: Team, build: Callable[[Any], Task]) -> None:
    """Do what rank 0 tells until it ends; `build` makes a task of what came with the command to.

    Raises RuntimeError where rank 0 died.
    """
    task: Task | None = None
    while True:
        command, content = team.hear()
        if command == "end":
            return
        if command == "build":
            task = build(content)
            team.meet()  # a first sum would lose patience with one that still reads its data
            continue
        assert task is not None
        if command == "load":
            task.load(content)
        elif command == "saw":
            task.saw(content)
        else:
            task.step()


def check_size(config: Config, started: int) -> None:
    """Raise InputError where other than the config's number of processes were started for a trial."""
    n = config.gpus_per_trial
    if started != n:
        start = f"torchrun --nproc-per-node={n} -m cbs.run gpus_per_trial={n} …" if n > 1 else "python -m cbs.run …"
        were = "1 process was" if started == 1 else f"{started} processes were"
        raise InputError(f"gpus_per_trial is {n}, but {were} started for the trial: start it with `{start}`.")


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Team]:
    """This process's place in the team that trains a trial, from torchrun's environment.

    The others are told to end where rank 0 leaves, by whichever way. Raises InputError where the number of
    processes isn't config.gpus_per_trial.
    """
    started = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _ENVIRONMENT) else 1
    check_size(config, started)
    if started == 1:
        yield ALONE
        return
    device = resolve_device(config.device)
    if device.type == "cuda":
        # Modulo, because srun may show each process one GPU only.
        torch.cuda.set_device(
            int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count() if device.index is None else device.index
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_STUCK)
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(control, dist.ProcessGroup)  # not so in processes that a group leaves out
    team = Team(dist.get_rank(), started, control)
    try:
        yield team
    finally:
        if team.rank == 0:
            with contextlib.suppress(RuntimeError):  # they may be gone
                team.tell("end")
        dist.destroy_process_group()  # else gloo's threads turn an exit into an abort
