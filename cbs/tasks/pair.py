"""A generator and a discriminator as a game: what each of them descends on, given what was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import nn

from cbs import optim
from cbs.machine import arithmetic
from cbs.models.biggan import orthogonality
from cbs.models.modes import untracked
from cbs.options import BigGANConfig, DCGANConfig, OptimizerConfig, SAGANConfig
from cbs.parallel import Team
from cbs.tasks.draws import Draw, Draws
from cbs.tasks.losses import discriminator_loss, generator_loss, gradient_penalty
from cbs.updates.game import Player, Turn


class Pair:
    """Two networks and their optimizers, the discriminator first in turn (half of a cbs.updates.game.Game)."""

    model: DCGANConfig | BigGANConfig | SAGANConfig
    device: torch.device
    generator: nn.Module
    discriminator: nn.Module
    players: tuple[Player, Player]
    gradients: Counter[str]
    """Per-sample gradients evaluated in turns so far, by network."""
    _precision: str
    _team: Team

    def _seat(self, optimizer: OptimizerConfig) -> None:
        """Make the players, of networks that lie where they will be trained."""
        rates = {"discriminator": optimizer.lr_discriminator, "generator": optimizer.lr_generator}
        discriminator, generator = (
            Player(
                name,
                list(network.parameters()),
                list(network.buffers()),
                partial(optim.build, optimizer, list(network.parameters()), rates[name]),
            )
            for name, network in (("discriminator", self.discriminator), ("generator", self.generator))
        )
        self.players = discriminator, generator
        self.optimizer_g, self.optimizer_d = generator.optimizer, discriminator.optimizer
        self.gradients = Counter(generator=0, discriminator=0)

    def turns(self, draws: Draws) -> Iterator[Turn]:
        """The discriminator's gradients, one per update drawn, then the generator's, as cbs.updates.game has them."""
        discriminator, generator = self.players
        *critic, last = draws
        fakes: list[torch.Tensor] = []
        for update in critic:
            fakes = []
            yield self._turn(discriminator, update, self._critic_losses(update, fakes))
        yield self._turn(generator, last, self._generator_losses(last, fakes))

    def _turn(self, player: Player, update: list[Draw], losses: Iterable[torch.Tensor]) -> Turn:
        self.gradients[player.name] += update[0].of
        return Turn(player, *self._gradient(player.parameters, update, losses))

    def _critic_losses(self, update: list[Draw], fakes: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The discriminator's loss on each part; leaves the fakes, if the generator's update is to go on from them."""
        for draw in update:
            assert draw.images is not None
            with arithmetic(self.device, self._precision):
                fake = self._fake_for_critic(draw, fakes, last=len(update) == 1)
                loss = self._critic_loss(draw, draw.images, fake)
            yield loss

    def _fake_for_critic(self, draw: Draw, fakes: list[torch.Tensor], last: bool) -> torch.Tensor:
        if isinstance(self.model, BigGANConfig) or self.model.redraw_fakes:
            with torch.no_grad():
                return self.generator(*given(draw.latents, draw.fake_labels))
        if last:
            fakes.append(self.generator(draw.latents))
            return fakes[0].detach()
        # The graphs of all parts wouldn't fit: the generator's update makes the same fakes again, and only it
        # may move the running statistics.
        with torch.no_grad(), untracked(self.generator):
            return self.generator(draw.latents)

    def _critic_loss(self, draw: Draw, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, BigGANConfig):  # one pass over both, as the authors': nothing mixes images there
            assert draw.labels is not None
            assert draw.fake_labels is not None
            labels = torch.cat([draw.labels, draw.fake_labels])
            of_real, of_fake = self.discriminator(torch.cat([real, fake]), labels).split(len(real))
        else:
            of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        loss = discriminator_loss(self.model.loss, of_real, of_fake)
        if draw.mix is not None:
            penalty = gradient_penalty(lambda x: self.discriminator(*given(x, draw.labels)), real, fake, draw.mix)
            loss = loss + self.model.penalty * penalty
        return loss

    def _generator_losses(self, update: list[Draw], fakes: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        for draw in update:
            with arithmetic(self.device, self._precision):
                fake = fakes[0] if fakes else self.generator(*given(draw.latents, draw.fake_labels))
                logits = self.discriminator(*given(fake, draw.fake_labels))
                loss = generator_loss(self.model.loss, logits)
            yield loss

    def _gradient(
        self, parameters: list[nn.Parameter], update: list[Draw], losses: Iterable[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The gradient for one network's parameters, one tensor each, and the loss, detached, of the whole batch.

        losses: the mean over each part of this process's share of the batch.
        """
        sums: list[torch.Tensor] = []
        for draw, mean in zip(update, losses, strict=True):
            n = draw.latents.shape[-2]
            loss = mean if n == draw.of else mean * (n / draw.of)
            terms = [*torch.autograd.grad(loss, parameters, torch.ones_like(loss)), loss.detach()]
            if sums:
                torch._foreach_add_(sums, terms)
            else:
                sums = terms
        *gradients, loss = self._team.totals(sums)
        of_generator = parameters is self.players[1].parameters
        if of_generator and isinstance(self.model, BigGANConfig) and self.model.orthogonal_penalty:
            penalty = self.model.orthogonal_penalty * orthogonality(self.generator)
            torch._foreach_add_(gradients, torch.autograd.grad(penalty, parameters, materialize_grads=True))
        return gradients, loss


def given(x: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """What a network is given: labels only where it is conditioned on them."""
    return (x,) if labels is None else (x, labels)
