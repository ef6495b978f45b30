"""What the two networks of a GAN descend on, from the discriminator's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def discriminator_loss(kind: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss from its logits on b real and b fake images, (…, b) and (…, b) -> (…)."""
    if kind == "nonsaturating":  # Goodfellow et al. 2014
        return (F.softplus(-real) + F.softplus(fake)).mean(-1)
    if kind == "hinge":  # Lim & Ye 2017; Miyato et al. 2018, eq. 16
        return (F.relu(1 - real) + F.relu(1 + fake)).mean(-1)
    return (fake - real).mean(-1)  # Arjovsky et al. 2017


def generator_loss(kind: str, fake: torch.Tensor) -> torch.Tensor:
    """The generator's loss from the discriminator's logits on b fakes, (…, b) -> (…)."""
    return F.softplus(-fake).mean(-1) if kind == "nonsaturating" else -fake.mean(-1)


def gradient_penalty(
    discriminator: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    mix: torch.Tensor,
    first: int = 1,
) -> torch.Tensor:
    """E (|∇D(x̂)| − 1)², x̂ = mix·real + (1−mix)·fake, mix (b, 1, 1, 1) (Gulrajani et al. 2017, eq. 3).

    first: an image's pixels lie along this dimension and those after it.
    """
    between = torch.lerp(fake.to(real.dtype), real, mix).requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slope.flatten(first), dim=-1) - 1).square().mean(-1)
