"""Seeds as one network against one after the other, as the product trains them: `python -m benchmarks.stack`."""

from __future__ import annotations

import statistics as stats
import tempfile
import time

import torch

from benchmarks.configs import config
from cbs import trial
from cbs.machine import settle_numerics

_SIZES = (2, 4, 8, 16, 32)
_WIDTHS = (4, 8, 16)
_PAIRS = 2
# With an evaluation every 50 steps: 40 in so many.
_STEPS = 2000


def seconds(b: int, data: str, seeds: int, together: bool) -> float:
    """Wall-clock seconds of these runs from nothing to their records, evaluations and checkpoints included."""
    with tempfile.TemporaryDirectory() as folder:
        asked = (
            f"target.budget_steps={_STEPS}",
            "target.budget_gradients=null",
            "target.every_steps=50",
            "target.thresholds=[0.001]",
            "device=cpu",
            f"stack={seeds}",
        )
        here = config(f"batch_size={b}", *asked, f"paths.data={data}", f"paths.results={folder}")
        started = time.perf_counter()
        if together:
            trial.run_together(here, range(seeds), 1, lambda *_: None, lambda: False)
        else:
            for seed in range(seeds):
                trial.run(here, seed)
        return time.perf_counter() - started


def report() -> None:
    settle_numerics(torch.device("cpu"))
    print("\n## Seeds as one network, DCGAN on digits, one thread\n")
    print(f"{_STEPS} steps of each seed with their evaluations, from nothing to the records; replica-steps a second.\n")
    print("| b | seeds | one at a time | stacked | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as data:
        for b in _SIZES:
            seconds(b, data, 1, together=False)  # what is made once, is made
            for width in _WIDTHS:
                pairs = [
                    # One run tells what one at a time costs.
                    (seconds(b, data, 1, together=False) * width, seconds(b, data, width, together=True))
                    for _ in range(_PAIRS)
                ]
                done = width * _STEPS
                apart, joint = (done / stats.median(pair[k] for pair in pairs) for k in (0, 1))
                ratio = stats.median(alone / stacked for alone, stacked in pairs)
                print(f"| {b} | {width} | {apart:,.0f} | {joint:,.0f} | {ratio:.1f}× |", flush=True)


if __name__ == "__main__":
    report()
