"""How much arithmetic a trial's training and evaluations are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cbs.data.sampler import Pictures
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks.gan import GAN

# Of the feature networks on one image: Inception v3 at 299x299, as torchvision's; the others take next to nothing.
_FEATURES = {"inception": 11.4e9}
_SOME = 8


@dataclass(frozen=True)
class Work:
    """Floating-point operations (a multiplication and an addition are two).

    image: of a training step, per image of its batch. evaluation: of generating and describing the samples of one.
    """

    image: float
    evaluation: float


class _Count(TorchDispatchMode):
    """Adds up what products and convolutions take; torch's own counter can't follow torch.autograd.grad."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def work(config: Config) -> Work:
    """The arithmetic of a config's products and convolutions, counted in a step without content."""
    data = config.dataset
    few = replace(config.at(_SOME), gpus_per_trial=1, micro_batch=None, precision="fp32")
    with FakeTensorMode():
        images = torch.empty(_SOME, data.channels, data.image_size, data.image_size, dtype=torch.uint8)
        task = GAN(few, 0, Pictures(images, torch.zeros(_SOME, dtype=torch.int64), 1000), torch.device("cpu"))
        with _Count() as training:
            task.step()
        with _Count() as sampling:
            next(iter(task.sample(_SOME, stream(0, "evaluation"))))
    sample = sampling.total / _SOME + _FEATURES.get(config.target.features, 0.0)
    return Work(training.total / _SOME, sample * config.target.samples)
