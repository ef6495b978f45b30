"""Feature extractors: images in 0..255 to feature vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbs.errors import InputError
from cbs.machine import onednn, tf32, whole_floats
from cbs.metrics import weights
from cbs.metrics.inception import SIZE, Inception
from cbs.schema import TargetConfig

Function = Callable[[torch.Tensor], torch.Tensor]
_MOST_PIXELS = 4096


class DigitNet(nn.Module):
    """A small classifier of 8x8 grey digits; its 64 features are what the last layer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 16, 64)
        self.classes = nn.Linear(64, 10)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) in 0..255 -> (n, 64)"""
        x = F.relu(self.conv1(images / 127.5 - 1))
        x = F.relu(self.conv2(x))
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(images))


class Features:
    """A feature extractor: (n, c, h, w) float images in 0..255 -> (n, size) features, in whole float32 in any case.

    digest: the SHA-256 of its weights. logits: (n, size) features -> (n, classes), where it is a classifier's.
    """

    def __init__(self, size: int, digest: str, extract: Function, logits: Function | None = None) -> None:
        self.size, self.digest, self.logits, self._extract = size, digest, logits, extract

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        # By default a GPU convolves in TF32.
        with onednn(True), tf32(False), whole_floats(images.device.type):
            return self._extract(images)


def size_of(name: str, image_size: int, channels: int) -> int:
    """How many features an image has."""
    return {"digits": 64, "inception": SIZE}.get(name, channels * image_size**2)


def check_images(target: TargetConfig, image_size: int, channels: int) -> None:
    """Raise InputError where these features can't see images of this shape."""
    if target.features == "digits" and (image_size, channels) != (8, 1):
        raise InputError(
            f"target.features is 'digits', which sees 8x8 grey images only, not {image_size}x{image_size}x{channels}: "
            "use target.features=inception or pixels."
        )
    size = size_of(target.features, image_size, channels)
    if target.features == "pixels" and size > _MOST_PIXELS:
        raise InputError(f"target.features is 'pixels' with {size} values per image: at most {_MOST_PIXELS}.")


def build(name: str, data: Path, image_size: int, channels: int, device: torch.device) -> Features:
    """The feature extractor of this name for images of this shape."""
    digest, size = weights.digest(name, data), size_of(name, image_size, channels)
    if name == "digits":
        network = DigitNet()
        with np.load(weights.DIGITS) as saved:
            network.load_state_dict({key: torch.from_numpy(saved[key]) for key in saved.files})
        network.to(device).eval().requires_grad_(False)
        return Features(size, digest, network.features, network.classes)
    if name == "inception":
        inception = Inception(weights.inception_path(data), device)
        classes = inception.classes
        return Features(size, digest, inception.features, None if classes is None else lambda f: f @ classes.T)
    return Features(size, digest, lambda images: images.flatten(1))
