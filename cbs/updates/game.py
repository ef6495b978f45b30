"""What an update rule moves: players who each descend on a loss of their own, wherever the others stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import torch

D = TypeVar("D")
"""All that is random of one evaluation of every player's gradient."""


@dataclass(eq=False)
class Player:
    """One player's parameters, the buffers that evaluating a gradient moves, and the optimizer that supplies steps."""

    name: str
    parameters: list[torch.nn.Parameter]
    buffers: list[torch.Tensor]
    build: Callable[[], torch.optim.Optimizer]
    """Makes an optimizer of these parameters, without a past."""
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = self.build()

    def descend(self, gradient: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """One step of an optimizer, the player's own if none is given, along a gradient: one tensor per parameter."""
        for parameter, its in zip(self.parameters, gradient, strict=True):
            parameter.grad = laid_out_as(parameter, its)
        (optimizer or self.optimizer).step()


class Turn(NamedTuple):
    """One player's gradient, one tensor per parameter, and its loss, detached."""

    player: Player
    gradient: list[torch.Tensor]
    loss: torch.Tensor


class Game(Protocol[D]):
    """Players, and the losses that they descend on: means over a finite set of samples."""

    @property
    def players(self) -> Sequence[Player]:
        """In the order of their turns."""
        ...

    @property
    def b(self) -> int:
        """Samples in a batch."""
        ...

    @property
    def set_size(self) -> int:
        """Samples in the set."""
        ...

    def draw(self) -> D:
        """The next batch, with everything random that one evaluation of every player's gradient needs."""
        ...

    def turns(self, draws: D) -> Iterator[Turn]:
        """Each player's gradient in turn, at the point where all of them stand when it is asked for.

        Where players step in between, their turns alternate; where all turns are taken first, they are simultaneous.
        """
        ...

    def whole(self, micro_batch: int | None, count: int) -> Iterator[tuple[float, D]]:
        """Batches that hold each sample of the set once, and their shares of it, which add up to 1.

        micro_batch: their most samples; None: as many as in a step. count: how often this was asked for before, on
        which their noise depends.
        """
        ...


def place(players: Sequence[Player]) -> list[torch.Tensor]:
    """The tensors that say where the players stand, parameters and buffers: themselves, not copies."""
    return [t.detach() for player in players for t in (*player.parameters, *player.buffers)]


@contextmanager
def standing_at(point: list[torch.Tensor], here: list[torch.Tensor]) -> Iterator[None]:
    """Players at another point; afterwards they are where they were, and the point has its buffers as moved there.

    here: their `place`. point: values of its tensors.
    """
    kept = [tensor.clone() for tensor in here]
    torch._foreach_copy_(here, point)
    try:
        yield
    finally:
        torch._foreach_copy_(point, here)
        torch._foreach_copy_(here, kept)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors that an optimizer's steps change, besides the parameters."""
    values = [value for held in (*optimizer.state.values(), *optimizer.param_groups) for value in held.values()]
    return [value for value in values if isinstance(value, torch.Tensor)]


def laid_out_as(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient that lies in memory as its parameter does.

    Fused optimizers read it so. What a convolution's second derivative returns doesn't lie like that, and only
    `backward` would have laid it out.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
