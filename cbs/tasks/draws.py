"""What one evaluation of both networks' gradients needs of chance."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Draw(NamedTuple):
    """All that is random of one network's update on one part of the batch: n latents (and real images).

    fake_labels, labels: (n,) int64, of a conditional pair only. mix: (n, 1, 1, 1), of a gradient penalty only.
    of: images in the whole batch, of all parts and processes.
    """

    latents: torch.Tensor
    fake_labels: torch.Tensor | None
    images: torch.Tensor | None
    labels: torch.Tensor | None
    mix: torch.Tensor | None
    of: int


Draws = list[list[Draw]]
"""For each of the discriminator's updates, then for the generator's, one draw per part of the batch."""
