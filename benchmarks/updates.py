"""What each update rule takes beside the gradients that it evaluates: `python -m benchmarks.updates`.

Digits, Adam. Rules and alternating steps are timed in turn in one process; a rule's seconds per gradient evaluated
are divided by those of the alternating steps beside it. 1.0 would be a rule that costs nothing but its gradients.
"""

from __future__ import annotations

import statistics as stats
import sys
import time

import torch

from benchmarks.configs import config
from cbs.data.sampler import Pictures
from cbs.machine import onednn, settle_numerics
from cbs.outcome import Evaluation, sfo
from cbs.schema import Config
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn

_PAIRS = 7
_SECONDS = 0.5
_SIZES = (8, 64, 512)
_IMAGES = 1797  # as many as there are digits
_RULES = (
    ("simultaneous", ("update=simultaneous",)),
    ("srfb", ("update=srfb",)),
    ("extragradient, fresh", ("update=extragradient",)),
    ("extragradient, past", ("update=extragradient", "update.extrapolation=past")),
    ("svre, fresh", ("update=svre",)),
    ("svre, past", ("update=svre", "update.extrapolation=past")),
)


def build(found: Config, device: torch.device) -> GAN:
    size = found.dataset.image_size
    images = torch.randint(0, 256, (_IMAGES, 1, size, size), dtype=torch.uint8)
    return GAN(found, 0, Pictures(images.to(device)), device)


def spent(task: GAN) -> float:
    return sfo(Evaluation(0, task.samples, 0.0, 0.0, gradients=dict(task.gradients)))


def pace(task: GAN) -> tuple[float, float]:
    """Seconds per gradient of one image of both networks, and such gradients per step, over at least `_SECONDS`."""
    before, steps, started = spent(task), 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        torch.stack([loss for _ in range(16) for loss in task.step()]).tolist()
        steps += 16
    gradients = spent(task) - before
    return (time.perf_counter() - started) / gradients, gradients / steps


def compared(choice: tuple[str, ...], b: int, device: torch.device) -> tuple[float, float, float]:
    """A rule's gradients per step over b, its seconds per gradient over alternating ones', and their spread."""
    found = config(f"batch_size={b}", *choice)
    rule, plain = build(found, device), build(config(f"batch_size={b}"), device)
    ratios, gradients = [], []
    with onednn(trains_through_onednn(found, found.batch_size.initial)):
        for task in (rule, plain):
            pace(task)
        for _ in range(_PAIRS):
            seconds, per_step = pace(rule)
            ratios.append(seconds / pace(plain)[0])
            gradients.append(per_step / b)
    low, _, high = stats.quantiles(ratios, n=4)
    return stats.mean(gradients), stats.median(ratios), high - low


def report(device: torch.device) -> None:
    settle_numerics(device)
    print("\n## Update rules: seconds per gradient evaluated, over those of alternating Adam\n")
    print("| rule | b | gradients a step, in b | ratio | between quartiles |")
    print("|---|---|---|---|---|")
    for name, choice in _RULES:
        for b in _SIZES:
            gradients, ratio, spread = compared(choice, b, device)
            print(f"| {name} | {b} | {gradients:.1f} | {ratio:.2f}× | {spread:.2f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    report(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu"))


if __name__ == "__main__":
    main()
