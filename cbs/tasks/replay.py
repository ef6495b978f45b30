"""A training step as one CUDA graph: at small batch sizes its many kernels take longer to launch than to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from cbs.tasks.draws import Draws

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
        self,
        learn: Callable[[list[Draws]], tuple[torch.Tensor, ...]],
        changed: Callable[[], list[torch.Tensor]],
        counted: Callable[[], Counter[str]],
    ) -> None:
        """changed: every tensor that `learn` changes in place. counted: what it adds to on the host, always as much."""
        self._learn, self._changed, self._counted = learn, changed, counted
        self.forget()

    def forget(self) -> None:
        """Record anew: the tensors are others."""
        self._plain_left = _PLAIN_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[torch.Tensor] = []
        self._losses: tuple[torch.Tensor, ...] = ()
        self._adds: Counter[str] = Counter()

    def __call__(self, draws: list[Draws]) -> tuple[torch.Tensor, ...]:
        if self._plain_left:
            self._plain_left -= 1
            return self._learn(draws)
        if self._graph is None:
            self._record(draws)
        assert self._graph is not None
        for kept, fresh in zip(self._inputs, tensors(draws), strict=True):
            kept.copy_(fresh)
        self._graph.replay()
        self._counted().update(self._adds)
        return tuple(loss.clone() for loss in self._losses)

    def _record(self, draws: list[Draws]) -> None:
        """Record one step; the training's state is afterwards what it was before."""
        own, self._inputs = kept_apart(draws)
        changed = self._changed()
        before = [tensor.clone() for tensor in changed]
        counted = self._counted().copy()
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
        added = self._counted() - counted
        self._counted().subtract(added)
        self._adds = Counter({name: n // (_WARM_UP + 1) for name, n in added.items()})
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)


def tensors(draws: Any) -> list[torch.Tensor]:
    """The tensors of a step's draws, each once, in a fixed order."""
    found = {id(t): t for t in tree_leaves(draws) if isinstance(t, torch.Tensor)}
    return list(found.values())


def kept_apart(draws: list[Draws]) -> tuple[list[Draws], list[torch.Tensor]]:
    """Copies of a step's draws that stay in place: with their structure, and as the list that `tensors` gives."""
    copies = {id(t): t.clone() for t in tensors(draws)}
    return tree_map(lambda leaf: copies.get(id(leaf), leaf), draws), list(copies.values())
