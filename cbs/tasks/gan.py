"""Training a GAN with two time scales: one step is the discriminator's updates, then the generator's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from cbs import models, optim
from cbs.data.sampler import Batch, Pictures, Sampler
from cbs.machine import arithmetic
from cbs.models.batch_norm import synchronise
from cbs.models.biggan import orthogonality
from cbs.models.modes import Average, evaluating, untracked
from cbs.outcome import Evaluation
from cbs.parallel import ALONE, Team
from cbs.schema import BigGANConfig, Config
from cbs.streams import stream
from cbs.tasks.losses import discriminator_loss, generator_loss, gradient_penalty
from cbs.tasks.pacing import Pacing
from cbs.tasks.replay import Replay

# Images generated at once for an evaluation, in pixels: a constant, because it shapes rounding.
_CHUNK_PIXELS = 2**19


class Draw(NamedTuple):
    """All that is random of one network's update on one part of the batch: n latents (and real images).

    fake_labels, labels: (n,) int64, of a conditional pair only. mix: (n, 1, 1, 1), of a gradient penalty only.
    """

    latents: torch.Tensor
    fake_labels: torch.Tensor | None
    images: torch.Tensor | None
    labels: torch.Tensor | None
    mix: torch.Tensor | None


Draws = list[list[Draw]]
"""A step's: for each of the discriminator's updates, then for the generator's, one draw per part of the batch."""


class GAN:
    """A generator, a discriminator, their optimizers and their data (implements cbs.loop.Task)."""

    loss_names = ("loss_discriminator", "loss_generator")

    def __init__(self, config: Config, seed: int, data: Pictures, device: torch.device, team: Team = ALONE) -> None:
        """data: where the sampler is to gather from. config.micro_batch: settled, no longer "auto"."""
        assert not isinstance(config.micro_batch, str)
        self.model = config.model
        self.device = device
        self._team = team
        self._mode = config.target.generator
        self._precision = config.precision
        # Whatever is random is drawn for the whole batch and then cut, so that every team sees the same numbers.
        self.micro_batch = config.micro_batch
        self._classes = data.classes if isinstance(self.model, BigGANConfig) else 0
        self.generator, self.discriminator = models.build(self.model, config.dataset, self._classes)
        shadow = models.build(self.model, config.dataset, self._classes)[0] if self._mode == "ema" else None
        if team.size > 1 and self.model.batch_norm == "global":
            synchronise(self.generator, team)
            synchronise(self.discriminator, team)
        models.initialise(self.generator, stream(seed, "initialise generator"))
        models.initialise(self.discriminator, stream(seed, "initialise discriminator"))
        if device.type == "cuda":
            for network in filter(None, (self.generator, self.discriminator, shadow)):
                # Tensor cores want an image's channels side by side.
                network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay, start = config.target.ema_decay, config.target.ema_start_step
        self.average = None if shadow is None else Average(shadow, self.generator, decay, start)
        self._g = list(self.generator.parameters())
        self._d = list(self.discriminator.parameters())
        self.optimizer_g = optim.build(config.optimizer, self._g, config.optimizer.lr_generator)
        self.optimizer_d = optim.build(config.optimizer, self._d, config.optimizer.lr_discriminator)
        self.sampler = Sampler(data.images, seed, device, data.labels if self._classes else None)
        self._latent = stream(seed, "latent", device=device)
        self._label = stream(seed, "fake labels", device=device)
        self._mix = stream(seed, "gradient penalty", device=device)
        self.steps = 0
        self._pacing = Pacing(config, len(data.images))
        self.resize(config.batch_size.initial)

    def resize(self, b: int) -> None:
        """Take batches of b from the next step on."""
        self.b, self._parts = b, self._team.parts(b, self.micro_batch or b)
        small = b * self.sampler.images.shape[-1] ** 2 <= Replay.MOST_PIXELS
        alone = self.device.type == "cuda" and self._team.size == 1 and len(self._parts) == 1
        self._replay = Replay(self._learn, self._tensors) if small and alone else None

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        self._pacing.saw(evaluations)
        self._pacing.keep(self)

    @property
    def samples(self) -> int:
        return self.sampler.consumed

    @property
    def sizes(self) -> dict[str, int]:
        return {"generator": models.count(self.generator), "discriminator": models.count(self.discriminator)}

    def step(self) -> tuple[torch.Tensor, ...]:
        """Update the discriminator `critic_steps` times, then the generator once."""
        draws = [self._draw(real=True) for _ in range(self.model.critic_steps)]
        draws.append(self._draw(real=False) if isinstance(self.model, BigGANConfig) else draws[-1])
        losses = self._learn(draws) if self._replay is None else self._replay(draws)
        self.steps += 1
        if self.average is not None:
            self.average.follow(self.steps)
        self._pacing.keep(self)
        return losses

    def _draw(self, real: bool) -> list[Draw]:
        """What one update needs, part by part; `real` images for the discriminator's."""
        batches = self.sampler.draw(self.b, self._parts) if real else None
        return self._cut(batches, self._latent, self._label, self._mix)

    def _cut(
        self, batches: list[Batch] | None, latent: torch.Generator, label: torch.Generator, mixing: torch.Generator
    ) -> list[Draw]:
        """Real images, if there are any, and what is drawn beside them for the whole batch, part by part."""
        z = torch.randn(self.b, self.model.latent, generator=latent, device=self.device)
        y = mix = None
        if self._classes:
            y = torch.randint(self._classes, (self.b,), generator=label, device=self.device)
        if batches and self.model.penalty:
            mix = torch.rand(self.b, 1, 1, 1, generator=mixing, device=self.device)
        pictures: Sequence[Batch | tuple[None, None]] = batches or [(None, None)] * len(self._parts)
        return [
            Draw(z[part], y if y is None else y[part], images, labels, mix if mix is None else mix[part])
            for part, (images, labels) in zip(self._parts, pictures, strict=True)
        ]

    def gradients(self, chance: torch.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The generator's and the discriminator's gradient, each one tensor per parameter, of one fresh batch.

        Both at the networks as they are. chance: all that is random comes from it, images drawn with replacement; on
        the device. Only the networks' buffers move, as in a step. Of one process's trials only.
        """
        indices = torch.randint(len(self.sampler.images), (self.b,), generator=chance, device=self.device)
        update = self._cut(self.sampler.pick(indices, self._parts), chance, chance, chance)
        last = self._cut(None, chance, chance, chance) if isinstance(self.model, BigGANConfig) else update
        fakes: list[torch.Tensor] = []
        of_d, _ = self._gradient(self._d, self._critic_losses(update, fakes))
        of_g, _ = self._gradient(self._g, self._generator_losses(last, fakes))
        return of_g, of_d

    def _learn(self, draws: Draws) -> tuple[torch.Tensor, ...]:
        """The step itself: a function of what was drawn and of the networks' and optimizers' tensors."""
        *critic, last = draws
        fakes: list[torch.Tensor] = []
        for update in critic:
            fakes = []
            loss_d = self._descend(self.optimizer_d, self._d, self._critic_losses(update, fakes))
        loss_g = self._descend(self.optimizer_g, self._g, self._generator_losses(last, fakes))
        return loss_d, loss_g

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
                return self.generator(*_of(draw.latents, draw.fake_labels))
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
            penalty = gradient_penalty(lambda x: self.discriminator(*_of(x, draw.labels)), real, fake, draw.mix)
            loss = loss + self.model.penalty * penalty
        return loss

    def _generator_losses(self, update: list[Draw], fakes: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        for draw in update:
            with arithmetic(self.device, self._precision):
                fake = fakes[0] if fakes else self.generator(*_of(draw.latents, draw.fake_labels))
                logits = self.discriminator(*_of(fake, draw.fake_labels))
                loss = generator_loss(self.model.loss, logits)
            yield loss

    def _descend(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], losses: Iterable[torch.Tensor]
    ) -> torch.Tensor:
        """One optimizer step along the gradient for these parameters only: the other network gets none."""
        gradients, loss = self._gradient(parameters, losses)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = optim.laid_out_as(parameter, gradient)
        optimizer.step()
        return loss

    def _gradient(
        self, parameters: list[nn.Parameter], losses: Iterable[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The gradient for one network's parameters, one tensor each, and the loss, detached, of the whole batch.

        losses: the mean over each part of this process's share of the batch.
        """
        sums: list[torch.Tensor] = []
        for part, mean in zip(self._parts, losses, strict=True):
            loss = mean if part == slice(0, self.b) else mean * ((part.stop - part.start) / self.b)
            terms = [*torch.autograd.grad(loss, parameters, torch.ones_like(loss)), loss.detach()]
            if sums:
                torch._foreach_add_(sums, terms)
            else:
                sums = terms
        *gradients, loss = self._team.totals(sums)
        if parameters is self._g and isinstance(self.model, BigGANConfig) and self.model.orthogonal_penalty:
            penalty = self.model.orthogonal_penalty * orthogonality(self.generator)
            torch._foreach_add_(gradients, torch.autograd.grad(penalty, parameters, materialize_grads=True))
        return gradients, loss

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Iterator[torch.Tensor]:
        """Generate `count` images in chunks of (n, channels, size, size), in [-1, 1].

        The generator is used as config.target.generator says, its classes drawn evenly, and nothing that
        training depends on changes.
        """
        network = self.generator if self.average is None else self.average.network
        chunk = max(1, _CHUNK_PIXELS // self.sampler.images.shape[-1] ** 2)
        with evaluating(network, batch_statistics=self._mode == "batch"):
            for start in range(0, count, chunk):
                n = min(chunk, count - start)
                z = torch.randn(n, self.model.latent, generator=noise).to(self.device)
                y = torch.randint(self._classes, (n,), generator=noise).to(self.device) if self._classes else None
                yield network(*_of(z, y))

    def finite(self) -> bool:
        norms = torch._foreach_norm([p.detach() for p in (*self._g, *self._d)])
        return bool(torch.stack(norms).isfinite().all())

    def _networks(self) -> dict[str, nn.Module]:
        average = {} if self.average is None else {"average": self.average.network}
        return {"generator": self.generator, "discriminator": self.discriminator, **average}

    def _tensors(self) -> list[torch.Tensor]:
        """Every tensor that a step changes in place."""
        networks = [self.generator, self.discriminator]
        tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
        for optimizer in (self.optimizer_g, self.optimizer_d):
            values = [v for held in (*optimizer.state.values(), *optimizer.param_groups) for v in held.values()]
            tensors += [value for value in values if isinstance(value, torch.Tensor)]
        return [t.detach() for t in tensors]

    def state(self) -> dict[str, Any]:
        return {
            **{name: network.state_dict() for name, network in self._networks().items()},
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "latent": self._latent.get_state(),
            "label": self._label.get_state(),
            "mix": self._mix.get_state(),
            "consumed": self.sampler.consumed,
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        for name, network in self._networks().items():
            network.load_state_dict(state[name])
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        self._latent.set_state(state["latent"])
        if "label" in state:  # checkpoints of before there were classes have none
            self._label.set_state(state["label"])
        self._mix.set_state(state["mix"])
        self.sampler.seek(state["consumed"])
        self.steps = state.get("steps", state["consumed"] // (self.b * self.model.critic_steps))  # old ones have none
        if self._replay is not None:
            self._replay.forget()
        self._pacing.keep(self)


def _of(x: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """What a network is given: labels only where it is conditioned on them."""
    return (x,) if labels is None else (x, labels)
