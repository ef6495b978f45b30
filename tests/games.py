"""Games with known answers, played by the same rules as networks are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from cbs.updates.game import Player, Turn

Build = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
DOUBLE = torch.float64


def sgd(rate: float) -> Build:
    return lambda parameters: torch.optim.SGD(parameters, rate)


class Affine:
    """Two players, x and y, each with its part of the field F(z) = mean of A_i z + c_i over a batch, z = (x, y).

    A: (n, d, d), c: (n, d), start: (d,). order: the batches' samples, taken one after the other and again from the
    first; by default 0, 1, 2, …
    """

    def __init__(
        self,
        matrices: np.ndarray,
        offsets: np.ndarray,
        start: Sequence[float],
        build: Build,
        b: int = 1,
        order: Sequence[int] | None = None,
        noise: float = 0.0,
    ) -> None:
        self.matrices, self.offsets = (torch.tensor(values, dtype=DOUBLE) for values in (matrices, offsets))
        self.b, self.set_size = b, len(matrices)
        self.order = list(range(self.set_size)) if order is None else list(order)
        self.at, self.evaluated = 0, 0
        self.noise, self.chance = noise, torch.Generator().manual_seed(0)
        half = len(start) // 2
        parameters = [torch.nn.Parameter(torch.tensor(part, dtype=DOUBLE)) for part in (start[:half], start[half:])]
        self.players = [Player(name, [p], [], partial(build, [p])) for name, p in zip("xy", parameters, strict=True)]

    @property
    def z(self) -> torch.Tensor:
        return torch.cat([player.parameters[0].detach() for player in self.players])

    def put(self, z: np.ndarray) -> None:
        for player, part in zip(self.players, torch.tensor(z).split(len(z) // 2), strict=True):
            player.parameters[0].data.copy_(part)

    def draw(self) -> list[int]:
        batch = [self.order[(self.at + k) % len(self.order)] for k in range(self.b)]
        self.at += self.b
        return batch

    def field(self, batch: Sequence[int]) -> torch.Tensor:
        self.evaluated += len(batch)
        which = list(batch)
        found = (self.matrices[which] @ self.z + self.offsets[which]).mean(0)
        return found + self.noise * torch.randn(found.shape, generator=self.chance, dtype=DOUBLE)

    def turns(self, draws: Sequence[int]) -> Iterator[Turn]:
        half = len(self.z) // 2
        for player, part in zip(self.players, (slice(half), slice(half, None)), strict=True):
            gradient = self.field(draws)[part]
            yield Turn(player, [gradient], gradient.norm())

    def whole(self, micro_batch: int | None, count: int) -> Iterator[tuple[float, list[int]]]:
        size = micro_batch or self.b
        for start in range(0, self.set_size, size):
            part = list(range(start, min(start + size, self.set_size)))
            yield len(part) / self.set_size, part


def bilinear(rate: float, noise: float = 0.0, start: Sequence[float] = (3.0, 4.0)) -> Affine:
    """min_x max_y xy: F(x, y) = (y, −x)."""
    return Affine(np.array([[[0.0, 1.0], [-1.0, 0.0]]]), np.zeros((1, 2)), start, sgd(rate), noise=noise)


def monotone(n: int, build: Build, b: int = 1, seed: int = 0, order: Sequence[int] | None = None) -> Affine:
    """A finite sum of quadratic games, strongly monotone by 1 in each term; its samples disagree at the solution."""
    random = np.random.default_rng(seed)
    matrices = []
    for _ in range(n):
        root, turn = random.normal(size=(2, 4, 4))
        matrices.append(np.eye(4) + 0.1 * root @ root.T + turn - turn.T)
    offsets = random.normal(size=(n, 4))
    return Affine(np.array(matrices), offsets, random.normal(size=4), build, b, order)


def solution(game: Affine) -> np.ndarray:
    return np.linalg.solve(game.matrices.mean(0).numpy(), -game.offsets.mean(0).numpy())
