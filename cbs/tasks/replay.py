"""A training step as one CUDA graph: at small batch sizes its many kernels take longer to launch than to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cbs.tasks.gan import Draw, Draws

# Optimizers make their state, and AdaBelief its rectification, in the first steps: these are not recorded.
_PLAIN_STEPS = 16
# Runs before a recording, on a stream of their own, so that libraries have chosen their kernels.
_WARM_UP = 3


class Replay:
    """A function of what a step drew, run as it is at first, then recorded and replayed.

    It must be a function of the draws and of tensors that it changes in place, and read nothing back.
    The same kernels run in the same order: a replayed step gives the bits of a plain one.
    """

    MOST_PIXELS = 2**21
    """Up to this many pixels in a batch, launching takes a time that counts."""

    def __init__(
        self, learn: Callable[[Draws], tuple[torch.Tensor, ...]], changed: Callable[[], list[torch.Tensor]]
    ) -> None:
        """changed: every tensor that `learn` changes in place."""
        self._learn, self._changed = learn, changed
        self.forget()

    def forget(self) -> None:
        """Record anew: the tensors are others."""
        self._plain_left = _PLAIN_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[torch.Tensor] = []
        self._losses: tuple[torch.Tensor, ...] = ()

    def __call__(self, draws: Draws) -> tuple[torch.Tensor, ...]:
        if self._plain_left:
            self._plain_left -= 1
            return self._learn(draws)
        if self._graph is None:
            self._record(draws)
        assert self._graph is not None
        for kept, fresh in zip(self._inputs, tensors(draws), strict=True):
            kept.copy_(fresh)
        self._graph.replay()
        return tuple(loss.clone() for loss in self._losses)

    def _record(self, draws: Draws) -> None:
        """Record one step; the training's state is afterwards what it was before."""
        own, self._inputs = kept_apart(draws)
        changed = self._changed()
        before = [tensor.clone() for tensor in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._learn(own)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Of this thread only: another one may be copying the next batch meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._losses = self._learn(own)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)


def tensors(draws: Draws) -> list[torch.Tensor]:
    """The tensors of a step's draws, each once, in a fixed order."""
    found = {id(t): t for update in draws for draw in update for t in draw if t is not None}
    return list(found.values())


def kept_apart(draws: Draws) -> tuple[Draws, list[torch.Tensor]]:
    """Copies of a step's draws that stay in place: with their structure, and as the list that `tensors` gives."""
    copies = {id(t): t.clone() for t in tensors(draws)}

    def copied(draw: Draw) -> Draw:
        return type(draw)(*(t if t is None else copies[id(t)] for t in draw))  # type: ignore[arg-type]

    updates = {id(update): [copied(draw) for draw in update] for update in draws}
    return [updates[id(update)] for update in draws], list(copies.values())
