"""clean-fid's Inception: a TorchScript file behind "clean" resizing."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cbs.errors import InputError
from cbs.metrics.resize import clean_resize
from cbs.metrics.weights import INCEPTION_BYTES, INCEPTION_NAME, INCEPTION_SHA256

SIZE = 2048
# Images that pass the network at once: constants, because they shape rounding. A CPU keeps few of them in its caches.
_BATCH_CPU, _BATCH_GPU = 16, 64


class Inception:
    """The network of a TorchScript file, `.layers` from (n, 3, 299, 299) to 2,048 features, `.output` to classes.

    Batch normalisations are folded into their convolutions and a CPU convolves with channels last, which shapes
    the last digits of the features only. Raises InputError where the file is no such network.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
                network = torch.jit.load(str(path), map_location=device).eval()
                self._layers = torch.jit.freeze(network.layers)
            found = self.features(torch.zeros(1, 1, 8, 8, device=device))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AttributeError) as error:
            raise _no_network(path, str(error).strip().splitlines()[0]) from error
        if found.shape != (1, SIZE):
            raise _no_network(path, f"an image has {found.numel():,} features")
        # (1008, 2048). Inception Score's first implementation left the bias out, and so has everybody since.
        self.classes = network.output.weight.detach() if hasattr(network, "output") else None

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 1 or 3, h, w) in 0..255 -> (n, 2048)"""
        parts = images.split(_BATCH_CPU if self._on_cpu else _BATCH_GPU)
        # TorchScript would profile its first calls and compile later ones anew, which may not give the same bits.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return torch.cat([self._layers(self._seen(part)).flatten(1) for part in parts])

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        """(clean_resize(images) − 128) / 128 to the bit, but divided first, where there is less to divide."""
        layout = torch.channels_last if self._on_cpu else torch.contiguous_format
        scaled = clean_resize(images / 128, layout=layout, white=255 / 128).sub_(1)
        return scaled.expand(-1, 3, -1, -1).contiguous(memory_format=layout)


def _no_network(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is not Inception as clean-fid has it ({why}): {INCEPTION_NAME} has {INCEPTION_BYTES:,} bytes "
        f"and SHA-256 {INCEPTION_SHA256}."
    )
