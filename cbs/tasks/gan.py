"""Training a GAN with two time scales: one step is the discriminator's updates, then the generator's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbs import models, optim
from cbs.data.sampler import Sampler
from cbs.models.batch_norm import synchronise
from cbs.models.dcgan import count, initialise
from cbs.parallel import ALONE, Team
from cbs.schema import Config
from cbs.streams import stream

# Images generated at once for an evaluation, in pixels: a constant, because it shapes rounding.
_CHUNK_PIXELS = 2**19


def discriminator_loss(kind: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss from its logits on b real and b fake images, (b,) and (b,) -> ()."""
    if kind == "nonsaturating":  # Goodfellow et al. 2014
        return (F.softplus(-real) + F.softplus(fake)).mean()
    if kind == "hinge":  # Lim & Ye 2017; Miyato et al. 2018, eq. 16
        return (F.relu(1 - real) + F.relu(1 + fake)).mean()
    return (fake - real).mean()  # Arjovsky et al. 2017


def generator_loss(kind: str, fake: torch.Tensor) -> torch.Tensor:
    """The generator's loss from the discriminator's logits on b fakes, (b,) -> ()."""
    return F.softplus(-fake).mean() if kind == "nonsaturating" else -fake.mean()


def gradient_penalty(
    discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor, mix: torch.Tensor
) -> torch.Tensor:
    """E (|∇D(x̂)| − 1)², x̂ = mix·real + (1−mix)·fake, mix (b, 1, 1, 1) (Gulrajani et al. 2017, eq. 3)."""
    between = torch.lerp(fake, real, mix).requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


class GAN:
    """A generator, a discriminator, their optimizers and their data (implements cbs.loop.Task)."""

    loss_names = ("loss_discriminator", "loss_generator")

    def __init__(
        self, config: Config, seed: int, images: torch.Tensor, device: torch.device, team: Team = ALONE
    ) -> None:
        """images: (n, channels, size, size) uint8, where the sampler is to gather from."""
        self.model = config.model
        self.b = config.batch_size.initial
        self.device = device
        self._team = team
        # Whatever is random is drawn for the whole batch and then cut, so that every team sees the same numbers.
        self._part = team.part(self.b)
        self.generator, self.discriminator = models.build(self.model, config.dataset)
        if team.size > 1 and self.model.batch_norm == "global":
            synchronise(self.generator, team)
            synchronise(self.discriminator, team)
        initialise(self.generator, stream(seed, "initialise generator"))
        initialise(self.discriminator, stream(seed, "initialise discriminator"))
        self.generator.to(device)
        self.discriminator.to(device)
        self._g = list(self.generator.parameters())
        self._d = list(self.discriminator.parameters())
        self.optimizer_g = optim.build(config.optimizer, self._g, config.optimizer.lr_generator)
        self.optimizer_d = optim.build(config.optimizer, self._d, config.optimizer.lr_discriminator)
        self.sampler = Sampler(images, seed, device)
        self._latent = stream(seed, "latent", device=device)
        self._mix = stream(seed, "gradient penalty", device=device)

    @property
    def samples(self) -> int:
        return self.sampler.consumed

    @property
    def sizes(self) -> dict[str, int]:
        return {"generator": count(self.generator), "discriminator": count(self.discriminator)}

    def step(self) -> tuple[torch.Tensor, ...]:
        """Update the discriminator `critic_steps` times, then the generator once."""
        for _ in range(self.model.critic_steps):
            z = torch.randn(self.b, self.model.latent, generator=self._latent, device=self.device)[self._part]
            fake = self.generator(z)
            loss_d = self._discriminate(self.sampler.draw(self.b, [self._part])[0].images, fake.detach())
            loss_d = self._update(self.optimizer_d, self._d, loss_d)
        if self.model.redraw_fakes:
            fake = self.generator(z)
        loss_g = generator_loss(self.model.loss, self.discriminator(fake))
        loss_g = self._update(self.optimizer_g, self._g, loss_g)
        return loss_d, loss_g

    def _discriminate(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        loss = discriminator_loss(self.model.loss, self.discriminator(real), self.discriminator(fake))
        if self.model.penalty:
            mix = torch.rand(self.b, 1, 1, 1, generator=self._mix, device=self.device)[self._part]
            loss = loss + self.model.penalty * gradient_penalty(self.discriminator, real, fake, mix)
        return loss

    def _update(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: torch.Tensor
    ) -> torch.Tensor:
        """One optimizer step along the gradient for these parameters only: the other network gets none.

        loss: the mean over this process's part of the batch. Returns the whole batch's, detached.
        """
        loss = self._team.weighted(loss, self.b)
        *gradients, loss = self._team.totals([*torch.autograd.grad(loss, parameters), loss.detach()])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # Fused optimizers on a CPU read a gradient as if it lay in memory as its parameter does. What a
            # convolution's second derivative returns doesn't, and only `backward` would have laid it out so.
            parameter.grad = gradient.contiguous()
        optimizer.step()
        return loss

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Iterator[torch.Tensor]:
        """Generate `count` images in chunks of (n, channels, size, size), in [-1, 1].

        The generator is in evaluation mode meanwhile, and nothing that training depends on changes.
        """
        pixels = self.sampler.images.shape[-1] ** 2
        chunk = max(1, _CHUNK_PIXELS // pixels)
        self.generator.eval()
        try:
            for start in range(0, count, chunk):
                z = torch.randn(min(chunk, count - start), self.model.latent, generator=noise)
                yield self.generator(z.to(self.device))
        finally:
            self.generator.train()

    def finite(self) -> bool:
        norms = torch._foreach_norm([p.detach() for p in (*self._g, *self._d)])
        return bool(torch.stack(norms).isfinite().all())

    def state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "latent": self._latent.get_state(),
            "mix": self._mix.get_state(),
            "consumed": self.sampler.consumed,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        self._latent.set_state(state["latent"])
        self._mix.set_state(state["mix"])
        self.sampler.seek(state["consumed"])
