"""Feature extractors: images in 0..255 to feature vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbs.errors import InputError
from cbs.machine import onednn
from cbs.metrics import weights
from cbs.metrics.resize import clean_resize
from cbs.schema import TargetConfig

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
    """A feature extractor: (n, c, h, w) float images in 0..255 -> (n, size) features."""

    def __init__(self, size: int, digest: str, extract: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.size, self.digest, self._extract = size, digest, extract

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with onednn(True):
            return self._extract(images)


def check_images(target: TargetConfig, image_size: int, channels: int) -> None:
    """Raise InputError where these features can't see images of this shape."""
    if target.features == "digits" and (image_size, channels) != (8, 1):
        raise InputError(
            f"target.features is 'digits', which sees 8x8 grey images only, not {image_size}x{image_size}x{channels}: "
            "use target.features=inception or pixels."
        )
    pixels = channels * image_size**2
    if target.features == "pixels" and pixels > _MOST_PIXELS:
        raise InputError(f"target.features is 'pixels' with {pixels} values per image: at most {_MOST_PIXELS}.")


def build(name: str, data: Path, image_size: int, channels: int, device: torch.device) -> Features:
    """The feature extractor of this name for images of this shape."""
    digest = weights.digest(name, data)
    if name == "digits":
        network = DigitNet()
        with np.load(weights.DIGITS) as saved:
            network.load_state_dict({key: torch.from_numpy(saved[key]) for key in saved.files})
        network.to(device).eval()
        return Features(64, digest, network.features)
    if name == "inception":
        return Features(2048, digest, _inception(weights.inception_path(data), device))
    return Features(channels * image_size**2, digest, lambda images: images.flatten(1))


def _inception(path: Path, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """clean-fid's TorchScript Inception behind its "clean" resizing."""
    layers = torch.jit.load(str(path), map_location=device).eval().layers

    def extract(images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        parts = [layers((clean_resize(part) - 128) / 128).flatten(1) for part in images.split(64)]
        return torch.cat(parts)

    return extract
