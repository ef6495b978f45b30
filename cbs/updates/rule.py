"""How a training step moves the players of a game: what every update rule is, and the plain ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from cbs.updates.game import D, Game, Player


class Rule(ABC):
    """How a step moves a game's players, and what it remembers from step to step.

    A step has two halves: `draw` settles all that is random or decided on the host, `learn` is a function of that and
    of tensors that it changes in place, so that it can be recorded as a CUDA graph (cbs.tasks.replay).
    """

    def __init__(self, players: Sequence[Player]) -> None:
        self.players = players

    def draw(self, game: Game[D]) -> list[D]:
        """What the next step is to know of chance: the draws of each point at which it evaluates gradients."""
        return [game.draw()]

    @abstractmethod
    def learn(self, game: Game[D], draws: list[D]) -> tuple[torch.Tensor, ...]:
        """Move the players; return each one's loss, unread, where its last gradient was evaluated."""

    def tensors(self) -> list[torch.Tensor]:
        """What `learn` changes in place besides the players' tensors and those of their optimizers."""
        return []

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides the players."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from a state, or, where it is that of another rule, begin at the players' point.

        The players are to be loaded before.
        """


class Alternating(Rule):
    """Each player steps before the next one's gradient is evaluated (Goodfellow et al. 2014, algorithm 1)."""

    def learn(self, game: Game[D], draws: list[D]) -> tuple[torch.Tensor, ...]:
        losses: dict[str, torch.Tensor] = {}
        for player, gradient, loss in game.turns(draws[0]):
            player.descend(gradient)
            losses[player.name] = loss
        return tuple(losses[player.name] for player in self.players)


class Simultaneous(Rule):
    """All gradients are evaluated at one point, then all players step: θ ← θ − λ ∇L(θ)."""

    def learn(self, game: Game[D], draws: list[D]) -> tuple[torch.Tensor, ...]:
        turns = list(game.turns(draws[0]))
        for player, gradient, _ in turns:
            player.descend(gradient)
        return tuple(turn.loss for turn in turns)


class SRFB(Rule):
    """Stochastic relaxed forward-backward (Franci & Grammatico 2020, algorithm 1), both players at once.

        θ̄_i = (1−δ) θ_i + δ θ̄_{i−1}        θ_{i+1} = θ̄_i − λ_i ∇L(θ_i)        θ̄_{−1} = θ_0

    The optimizer supplies λ_i ∇L(θ_i). δ ∈ [2/(1+√5), 1].
    """

    def __init__(self, players: Sequence[Player], relaxation: float) -> None:
        super().__init__(players)
        self._weight = 1.0 - relaxation
        self._here = [[p.detach() for p in player.parameters] for player in players]
        self._shadows = [[p.clone() for p in here] for here in self._here]

    def learn(self, game: Game[D], draws: list[D]) -> tuple[torch.Tensor, ...]:
        turns = list(game.turns(draws[0]))
        for (player, gradient, _), here, shadow in zip(turns, self._here, self._shadows, strict=True):
            torch._foreach_lerp_(shadow, here, self._weight)
            torch._foreach_copy_(here, shadow)
            player.descend(gradient)
        return tuple(turn.loss for turn in turns)

    def tensors(self) -> list[torch.Tensor]:
        return [tensor for shadow in self._shadows for tensor in shadow]

    def state(self) -> dict[str, Any]:
        return {"shadows": self._shadows}

    def load(self, state: dict[str, Any]) -> None:
        for shadow, values in zip(self._shadows, state.get("shadows", self._here), strict=True):
            torch._foreach_copy_(shadow, values)
