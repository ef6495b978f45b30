"""Images as the whole numbers that a PNG file would hold, without the file."""

from __future__ import annotations

import torch


def to_bytes(images: torch.Tensor, normalisation: str) -> torch.Tensor:
    """Images in [-1, 1] as the whole numbers 0..255 of torchvision's save_image(normalize=True), still float32.

    "fixed": value_range=(-1, 1). "per_image": no value_range and an image at a time, so that each is stretched
    to its own minimum and maximum. The same float32 operations in the same order, so the same bytes.
    """
    images = images.float()
    if normalisation == "fixed":
        return ((images + 1.0) * 127.5 + 0.5).clamp_(0, 255).floor_()
    each = images.flatten(1)
    low, high = each.amin(1).view(-1, 1, 1, 1), each.amax(1).view(-1, 1, 1, 1)
    # save_image takes both out of the tensor, so their difference is of Python's floats.
    span = (high.double() - low.double()).clamp_min(1e-5).float()
    return ((images - low) / span).mul_(255).add_(0.5).clamp_(0, 255).floor_()
