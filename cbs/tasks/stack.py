"""Several seeds of one trial as one network, each with its own data order and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cbs.data.sampler import draw_together
from cbs.models.modes import Average
from cbs.models.stacked import stacked
from cbs.parallel import ALONE
from cbs.schema import Config
from cbs.tasks.draws import Draw
from cbs.tasks.gan import GAN
from cbs.tasks.losses import discriminator_loss, gradient_penalty
from cbs.tasks.replay import Replay
from cbs.updates.rule import Alternating

_OPTIMIZERS = ("optimizer_g", "optimizer_d")


class Stack(GAN):
    """The step of R members: tasks of one config, with different seeds, at the same step.

    Each member draws what it would have drawn alone, and nothing of one reaches another: losses are (R,), and their
    gradients for a replica's weights are those of its own. The members' own tensors are as old as the last
    `give_back`.
    """

    def __init__(self, config: Config, members: Sequence[GAN]) -> None:
        """Take over the members' networks and optimizers as they are."""
        # What training a GAN needs, without a seed of its own.
        first = members[0]
        self.members = list(members)
        self.model, self.b, self.device = first.model, first.b, first.device
        self.sampler, self._precision, self._team = first.sampler, config.precision, ALONE
        self._parts, self._classes = [slice(0, self.b)], 0
        self.steps, self._pacing = first.steps, first._pacing
        self.generator = stacked([member.generator for member in members])
        self.discriminator = stacked([member.discriminator for member in members])
        self.average = None
        averages = [member.average.network for member in members if member.average is not None]
        if averages:
            shadow, kept = stacked(averages), stacked(averages)
            self.average = Average(shadow, self.generator, config.target.ema_decay, config.target.ema_start_step)
            shadow.load_state_dict(kept.state_dict())
        self._seat(config.optimizer)
        self._rule = Alternating(self.players)
        self.gradients = first.gradients.copy()
        for name in _OPTIMIZERS:
            _load(getattr(self, name), _joined([getattr(member, name).state_dict() for member in members]))
        small = len(members) * self.b * config.dataset.image_size**2 <= Replay.MOST_PIXELS
        self._replay = None
        if self.device.type == "cuda" and small:
            self._replay = Replay(self._learn, self._tensors, lambda: self.gradients)

    def step(self) -> tuple[torch.Tensor, ...]:
        """Each member's step; the losses are (R,), one per name."""
        return tuple(loss.flatten() for loss in super().step())

    def _draw(self, real: bool) -> list[Draw]:
        b = self.b
        latents = torch.empty(len(self.members), b, self.model.latent, device=self.device)
        for member, of_member in zip(self.members, latents, strict=True):
            of_member.normal_(generator=member._latent)
        mix = images = None
        if self.model.penalty:
            drawn = [torch.rand(b, 1, 1, 1, generator=m._mix, device=self.device) for m in self.members]
            mix = _channels_last(torch.stack(drawn))
        images = _channels_last(draw_together([member.sampler for member in self.members], b))
        return [Draw(latents, None, images, None, mix, b)]

    def _critic_loss(self, draw: Draw, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        of_real, of_fake = self.discriminator(torch.cat([real, fake.to(real.dtype)], 1)).unbind(1)
        loss = discriminator_loss(self.model.loss, of_real, of_fake)
        if draw.mix is not None:
            penalty = gradient_penalty(self.discriminator, real, fake, draw.mix, first=3)
            loss = loss + self.model.penalty * penalty.squeeze(1)
        return loss

    def give_back(self, optimizers: bool = False) -> None:
        """Bring every member's networks and counts up to date, and its optimizers too where they are asked for."""
        for member in self.members:
            member.steps, member.gradients = self.steps, self.gradients.copy()
        for name, network in self._networks().items():
            own = [member._networks()[name].state_dict() for member in self.members]
            for key, values in network.state_dict().items():
                for state, value in zip(own, values, strict=True):
                    state[key].copy_(value)
        if optimizers:
            for name in _OPTIMIZERS:
                together = getattr(self, name).state_dict()
                for at, member in enumerate(self.members):
                    _load(getattr(member, name), _split(together, at))


def _channels_last(batches: torch.Tensor) -> torch.Tensor:
    """(R, b, C, H, W) -> (R, 1, b, H, W, C)"""
    return batches.permute(0, 1, 3, 4, 2).unsqueeze(1).contiguous()


def _joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An optimizer's state from its replicas'. What has a parameter's shape is stacked; counts are the same in all."""
    joined: dict[int, dict[str, Any]] = {}
    for at, entry in states[0]["state"].items():
        each = {key: [state["state"][at][key] for state in states] for key in entry}
        joined[at] = {key: torch.stack(values) if _whole(values[0]) else values[0] for key, values in each.items()}
    return {**states[0], "state": joined}


def _split(state: dict[str, Any], at: int) -> dict[str, Any]:
    """One replica's optimizer's state."""
    entries = {
        number: {key: value[at] if _whole(value) else value for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state as a copy, its moments laid out as their parameters, which fused updates rely on."""
    optimizer.load_state_dict(state)
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                entry[key] = torch.empty_like(parameter).copy_(value) if value.dim() else value.clone()


def _whole(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0
