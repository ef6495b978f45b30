"""What measuring gradient noise adds to a training step: python -m benchmarks.noise.

A run measures once for every `STEPS_PER_BATCH · noise_batches` steps; steps and measurements are timed in turn, and a
step with it is one without it and its share of a measurement.
"""

from __future__ import annotations

import statistics as stats
import sys

import torch

from benchmarks.configs import config
from benchmarks.timing import seconds
from cbs.data.sampler import Pictures
from cbs.machine import onednn, settle_numerics
from cbs.tasks import noise
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn

_PAIRS = 3
_CASES = (
    ("DCGAN, digits 8×8", (), (2, 8, 64, 512)),
    ("WGAN-GP, digits 8×8", ("model=wgan_gp",), (8,)),
    ("BigGAN, digits 8×8", ("model=biggan",), (8,)),
    ("DCGAN, 64×64", ("dataset=celeba",), (8,)),
)


def compared(choice: tuple[str, ...], b: int, device: torch.device) -> tuple[float, float, float]:
    """Seconds of a step, of one with its share of a measurement, and the median overhead of pairs in turn."""
    found = config(*choice, f"batch_size={b}")
    data = found.dataset
    images = torch.randint(0, 256, (max(1024, b), data.channels, data.image_size, data.image_size), dtype=torch.uint8)
    labels = torch.randint(10, (len(images),))
    task = GAN(found, 0, Pictures(images.to(device), labels.to(device), 10), device)
    batches = found.noise_batches
    every = noise.STEPS_PER_BATCH * batches

    def steps() -> None:
        # As many as there are batches in a measurement: both then last about as long.
        torch.stack([loss for _ in range(batches) for loss in task.step()]).tolist()

    pairs = []
    with onednn(trains_through_onednn(found, found.batch_size.initial)):
        for k in range(_PAIRS + 2):
            plain = seconds(steps, 2) / batches
            more = seconds(lambda at=k: noise.measure(task, 0, at, batches)) / every  # type: ignore[misc]
            pairs.append((plain, plain + more))
    pairs = pairs[2:]  # a CUDA graph was recorded meanwhile
    return (
        stats.median(pair[0] for pair in pairs),
        stats.median(pair[1] for pair in pairs),
        stats.median(pair[1] / pair[0] - 1 for pair in pairs),
    )


def report(device: torch.device) -> None:
    settle_numerics(device)
    print("| networks | b | step ms | with noise measured | more |")
    print("|---|---|---|---|---|")
    for name, choice, sizes in _CASES:
        for b in sizes:
            plain, measured, more = compared(choice, b, device)
            print(f"| {name} | {b} | {plain * 1e3:.2f} | {measured * 1e3:.2f} | {more:.1%} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    report(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu"))


if __name__ == "__main__":
    main()
