"""Training a GAN with two time scales, by whichever update rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from cbs import models, updates
from cbs.data.sampler import Batch, Pictures, Sampler
from cbs.models.batch_norm import synchronise
from cbs.models.modes import Average, evaluating
from cbs.options import BigGANConfig
from cbs.outcome import Evaluation
from cbs.parallel import ALONE, Team
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks.draws import Draw, Draws
from cbs.tasks.pacing import Pacing
from cbs.tasks.pair import Pair, given
from cbs.tasks.replay import Replay
from cbs.updates.game import optimizer_tensors, place

# Images generated at once for an evaluation, in pixels: a constant, because it shapes rounding.
_CHUNK_PIXELS = 2**19


class GAN(Pair):
    """Two networks, their optimizers, their data and the rule that moves them.

    Implements cbs.loop.Task, and for the rule cbs.updates.game.Game.
    """

    loss_names = ("loss_discriminator", "loss_generator")

    def __init__(self, config: Config, seed: int, data: Pictures, device: torch.device, team: Team = ALONE) -> None:
        """data: where the sampler is to gather from. config.micro_batch: settled, no longer "auto"."""
        assert not isinstance(config.micro_batch, str)
        self.model = config.model
        self.device = device
        self._seed = seed
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
        self._seat(config.optimizer)
        self._rule = updates.build(config.update, self.players, seed)
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
        self._replay = Replay(self._learn, self._tensors, lambda: self.gradients) if small and alone else None

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        self._pacing.saw(evaluations)
        self._pacing.keep(self)

    @property
    def samples(self) -> int:
        return self.sampler.consumed

    @property
    def sizes(self) -> dict[str, int]:
        return {"generator": models.count(self.generator), "discriminator": models.count(self.discriminator)}

    @property
    def set_size(self) -> int:
        return len(self.sampler.images)

    def step(self) -> tuple[torch.Tensor, ...]:
        """Move both networks by the update rule."""
        draws = self._rule.draw(self)
        losses = self._learn(draws) if self._replay is None else self._replay(draws)
        self.steps += 1
        if self.average is not None:
            self.average.follow(self.steps)
        self._pacing.keep(self)
        return losses

    def _learn(self, draws: list[Draws]) -> tuple[torch.Tensor, ...]:
        """The step itself: a function of what was drawn and of the tensors that `_tensors` lists."""
        return self._rule.learn(self, draws)

    def draw(self) -> Draws:
        """`critic_steps` batches for the discriminator, and what the generator's update needs beside them."""
        draws = [self._draw(real=True) for _ in range(self.model.critic_steps)]
        return [*draws, self._draw(real=False) if isinstance(self.model, BigGANConfig) else draws[-1]]

    def _draw(self, real: bool) -> list[Draw]:
        """What one update needs, part by part; `real` images for the discriminator's."""
        batches = self.sampler.draw(self.b, self._parts) if real else None
        return self._cut(self.b, self._parts, batches, self._latent, self._label, self._mix)

    def _cut(
        self,
        b: int,
        parts: Sequence[slice],
        batches: list[Batch] | None,
        latent: torch.Generator,
        label: torch.Generator,
        mixing: torch.Generator,
    ) -> list[Draw]:
        """Real images, if there are any, and what is drawn beside them for the whole batch of b, part by part."""
        z = torch.randn(b, self.model.latent, generator=latent, device=self.device)
        y = mix = None
        if self._classes:
            y = torch.randint(self._classes, (b,), generator=label, device=self.device)
        if batches and self.model.penalty:
            mix = torch.rand(b, 1, 1, 1, generator=mixing, device=self.device)
        pictures: Sequence[Batch | tuple[None, None]] = batches or [(None, None)] * len(parts)
        return [
            Draw(z[part], y if y is None else y[part], images, labels, mix if mix is None else mix[part], b)
            for part, (images, labels) in zip(parts, pictures, strict=True)
        ]

    def _pick(self, indices: torch.Tensor, parts: Sequence[slice], chance: torch.Generator) -> Draws:
        """One batch, of these images, for each network; all else that is random comes from `chance`, on the device."""
        b, pictures = len(indices), self.sampler.pick(indices, parts)
        update = self._cut(b, parts, pictures, chance, chance, chance)
        last = self._cut(b, parts, None, chance, chance, chance) if isinstance(self.model, BigGANConfig) else update
        return [update, last]

    def whole(self, micro_batch: int | None, count: int) -> Iterator[tuple[float, Draws]]:
        """The data set in even parts, as cbs.updates.game has it, each image with noise of its own."""
        chance = stream(self._seed, "snapshot noise", count, device=self.device)
        for part in ALONE.parts(self.set_size, micro_batch or self.micro_batch or self.b):
            indices = torch.arange(part.start, part.stop, device=self.device)
            n = len(indices)
            yield n / self.set_size, self._pick(indices, self._team.parts(n, n), chance)

    def fresh_gradients(self, chance: torch.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The generator's and the discriminator's gradient, each one tensor per parameter, of one fresh batch.

        Both at the networks as they are. chance: all that is random comes from it, images drawn with replacement; on
        the device. Only the networks' buffers move, as in a step; nothing is counted. Of one process's trials only.
        """
        indices = torch.randint(self.set_size, (self.b,), generator=chance, device=self.device)
        counted = self.gradients.copy()
        of_d, of_g = (turn.gradient for turn in self.turns(self._pick(indices, self._parts, chance)))
        self.gradients = counted
        return of_g, of_d

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
                yield network(*given(z, y))

    def finite(self) -> bool:
        norms = torch._foreach_norm([p.detach() for player in self.players for p in player.parameters])
        return bool(torch.stack(norms).isfinite().all())

    def _networks(self) -> dict[str, nn.Module]:
        average = {} if self.average is None else {"average": self.average.network}
        return {"generator": self.generator, "discriminator": self.discriminator, **average}

    def _tensors(self) -> list[torch.Tensor]:
        """Every tensor that a step changes in place."""
        moments = [tensor for player in self.players for tensor in optimizer_tensors(player.optimizer)]
        return [t.detach() for t in (*place(self.players), *moments, *self._rule.tensors())]

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
            "gradients": dict(self.gradients),
            "rule": self._rule.state(),
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
        # Checkpoints of before there were other rules: of alternating steps.
        self.steps = state.get("steps", state["consumed"] // (self.b * self.model.critic_steps))
        counted = {"generator": self.steps * self.b, "discriminator": state["consumed"]}
        self.gradients = Counter(state.get("gradients", counted))
        self._rule.load(state.get("rule", {}))
        if self._replay is not None:
            self._replay.forget()
        self._pacing.keep(self)
