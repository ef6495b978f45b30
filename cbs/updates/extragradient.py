"""Extragradient steps: look ahead, evaluate gradients there, and step from where one stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cbs.updates.game import D, Game, Player
from cbs.updates.rule import Rule

Directions = list[list[torch.Tensor]]
"""What each player descends along, one tensor per parameter."""


class Extragradient(Rule):
    """Extragradient (Korpelevich 1976), as Gidel et al. (2019, algorithms 2 to 4) carry it over to optimizers.

        θ̃ = θ − λ g        θ ← θ − λ ∇L(θ̃)

    g: the gradient at θ of a batch of its own, or, `past`, that of the update before (Popov 1980), so that a step
    evaluates one gradient; the first step of all then looks nowhere. Both steps are the player's optimizer's, and so
    both gradients enter its moments, as in algorithm 4 (Extra-Adam) and in the authors' code.
    """

    def __init__(self, players: Sequence[Player], past: bool) -> None:
        super().__init__(players)
        self._from_past = past
        self._past: Directions = []
        self._here = [p.detach() for player in players for p in player.parameters]

    def draw(self, game: Game[D]) -> list[D]:
        return [game.draw()] if self._from_past else [game.draw(), game.draw()]

    def learn(self, game: Game[D], draws: list[D]) -> tuple[torch.Tensor, ...]:
        ahead = self._past if self._from_past else self._directions(game, draws[0])[0]
        start = [p.clone() for p in self._here]
        if ahead:
            self._extrapolate(ahead)
        directions, losses = self._directions(game, draws[-1])
        torch._foreach_copy_(self._here, start)
        for player, direction in zip(self.players, directions, strict=True):
            player.descend(direction)
        if self._from_past:
            self._remember(directions)
        return losses

    def _directions(self, game: Game[D], draws: D) -> tuple[Directions, tuple[torch.Tensor, ...]]:
        """Along which the players descend from where they stand, and their losses there."""
        turns = list(game.turns(draws))
        assert [turn.player for turn in turns] == list(self.players)
        return [turn.gradient for turn in turns], tuple(turn.loss for turn in turns)

    def _extrapolate(self, directions: Directions) -> None:
        for player, direction in zip(self.players, directions, strict=True):
            player.descend(direction)

    def _remember(self, directions: Directions) -> None:
        """In the same tensors at each step, for a CUDA graph."""
        if not self._past:
            self._past = [[torch.empty_like(p) for p in player.parameters] for player in self.players]
        for past, direction in zip(self._past, directions, strict=True):
            torch._foreach_copy_(past, direction)

    def tensors(self) -> list[torch.Tensor]:
        return [tensor for past in self._past for tensor in past]

    def state(self) -> dict[str, Any]:
        return {"past": self._past}

    def load(self, state: dict[str, Any]) -> None:
        self._past = []
        if self._from_past and state.get("past"):
            self._remember(state["past"])
