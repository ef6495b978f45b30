"""Stochastic variance-reduced extragradient: gradients corrected by a snapshot whose full gradient is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cbs.streams import stream_seed
from cbs.updates.extragradient import Directions, Extragradient
from cbs.updates.game import D, Game, Player, optimizer_tensors, place, standing_at


class SVRE(Extragradient):
    """SVRE (Chavdarova et al. 2019, algorithm 1): extragradient steps along

        d(θ) = μ + ∇L_B(θ) − ∇L_B(θ^S)        μ = ∇L(θ^S) over the whole set

    both gradients of the same batch B. The snapshot θ^S is taken before the first step, and before each later one
    with probability min(1, factor·|B|/|D|): epochs of a geometric length. Looking ahead has optimizers of its own, as
    in the authors' code; with plain SGD these are the algorithm's steps.

    The snapshot is a point with its own buffers, which its gradients move: the players' stay as they are.
    """

    def __init__(
        self, players: Sequence[Player], past: bool, factor: float, micro_batch: int | None, seed: int
    ) -> None:
        """micro_batch: samples of the set at a time; None: as many as in a step."""
        super().__init__(players, past)
        self._factor, self._micro_batch, self._seed = factor, micro_batch, seed
        self._place = place(players)
        self._snapshot = [tensor.clone() for tensor in self._place]
        self._mean: Directions = [[torch.zeros_like(p) for p in player.parameters] for player in players]
        self._ahead = [player.build() for player in players]
        self._steps = self._snapshots = 0

    def draw(self, game: Game[D]) -> list[D]:
        chance = stream_seed(self._seed, "snapshot", self._steps) / 2**63
        if not self._steps or chance < self._factor * game.b / game.set_size:
            self._take_snapshot(game)
        self._steps += 1
        return super().draw(game)

    def _take_snapshot(self, game: Game[D]) -> None:
        torch._foreach_copy_(self._snapshot, self._place)
        for mean in self._mean:
            torch._foreach_zero_(mean)
        with standing_at(self._snapshot, self._place):
            for share, draws in game.whole(self._micro_batch, self._snapshots):
                for mean, gradient in zip(self._mean, super()._directions(game, draws)[0], strict=True):
                    torch._foreach_add_(mean, gradient, alpha=share)
        self._snapshots += 1

    def _directions(self, game: Game[D], draws: D) -> tuple[Directions, tuple[torch.Tensor, ...]]:
        directions, losses = super()._directions(game, draws)
        with standing_at(self._snapshot, self._place):
            before, _ = super()._directions(game, draws)
        reduced = [list(torch._foreach_sub(now, then)) for now, then in zip(directions, before, strict=True)]
        for direction, mean in zip(reduced, self._mean, strict=True):
            torch._foreach_add_(direction, mean)
        return reduced, losses

    def _extrapolate(self, directions: Directions) -> None:
        for player, optimizer, direction in zip(self.players, self._ahead, directions, strict=True):
            for ours, its in zip(optimizer.param_groups, player.optimizer.param_groups, strict=True):
                ours["lr"] = its["lr"]  # a schedule may have changed it
            player.descend(direction, optimizer)

    def tensors(self) -> list[torch.Tensor]:
        moments = [tensor for optimizer in self._ahead for tensor in optimizer_tensors(optimizer)]
        return [*super().tensors(), *self._snapshot, *moments]

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "snapshot": self._snapshot,
            "mean": self._mean,
            "ahead": [optimizer.state_dict() for optimizer in self._ahead],
            "steps": self._steps,
            "snapshots": self._snapshots,
        }

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._steps, self._snapshots = state.get("steps", 0), state.get("snapshots", 0)
        self._ahead = [player.build() for player in self.players]
        if "snapshot" in state:
            torch._foreach_copy_(self._snapshot, state["snapshot"])
            for mean, values in zip(self._mean, state["mean"], strict=True):
                torch._foreach_copy_(mean, values)
            for optimizer, values in zip(self._ahead, state["ahead"], strict=True):
                optimizer.load_state_dict(values)
