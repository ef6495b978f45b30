"""Speed, as ratios against peers measured in turn in one run: `make bench` or `python -m benchmarks.bench`.

Prints Markdown; benchmarks/RESULTS.md keeps runs of it.
"""

from __future__ import annotations

import os
import platform
import statistics as stats
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from analysis.curves.studies import read_study
from benchmarks import data, fid, fitting, launcher, slurm, stack, training, updates
from benchmarks.configs import config
from benchmarks.timing import seconds
from cbs.data import sampler
from cbs.machine import onednn, prefers_onednn
from cbs.tasks.gan import GAN

CPU = torch.device("cpu")


def small_convolutions() -> None:
    print("\n## oneDNN against native convolutions, one training step (the rule of cbs.machine)\n")
    print("| size | width | b | oneDNN ms | native ms | the rule picks |")
    print("|---|---|---|---|---|---|")
    for size, width, b in ((8, 16, 2), (8, 16, 16), (8, 16, 64), (16, 16, 4), (16, 16, 32), (32, 32, 2), (32, 32, 16)):
        images = torch.randint(0, 256, (max(b, 64), 3, size, size), dtype=torch.uint8)
        found = config("dataset=cifar10", f"batch_size={b}", f"dataset.image_size={size}", f"model.width={width}")
        task = GAN(found, 0, sampler.Pictures(images), CPU)
        times: dict[bool, list[float]] = {True: [], False: []}
        for enabled in (True, False) * 6:
            with onednn(enabled):
                times[enabled].append(seconds(lambda task=task: [task.step() for _ in range(10)]) * 100)  # type: ignore[misc]
        mine, native = stats.median(times[True][1:]), stats.median(times[False][1:])
        choice = "oneDNN" if prefers_onednn(width, b) else "native"
        print(f"| {size} | {width} | {b} | {mine:.1f} | {native:.1f} | {choice} |", flush=True)


def quickstart_share() -> None:
    import joblib

    print("\n## Where a quickstart's time goes (its sweep with one seed)\n")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cbs.run", "-m", "study=quickstart", "seeds=1", f"paths.data={folder}/data"]
        root_dir = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": root_dir}
        wall = seconds(
            lambda: subprocess.run(
                [*command, f"paths.results={folder}"], env=environment, check=True, capture_output=True
            )
        )
        results = [run.result for run in read_study(Path(folder) / "quickstart")]
    cores = joblib.cpu_count()
    total = wall * cores
    training, evaluating = (sum(r.seconds[part] for r in results) for part in ("training", "evaluating"))
    print(
        f"{wall:.0f} s on {cores} cores, {len(results)} runs: {training / total:.0%} of core time in training steps, "
    )
    print(f"{evaluating / total:.0%} in evaluations, {1 - (training + evaluating) / total:.0%} in the rest (imports, ")
    print("starting runs, records, idle cores at the end).")
    print(f"Outside training steps: {1 - training / total:.0%}.")


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"# cbs benchmarks\n\ntorch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, ",
        end="",
    )
    print(f"{os.cpu_count()} cores", flush=True)
    training.report(CPU)
    training.optimizers()
    small_convolutions()
    stack.report()
    updates.report(CPU)
    fid.report()
    data.report()
    print("\n## Fitting curves\n")
    fitting.report()
    print("\n## Launching a large sweep\n")
    launcher.report()
    print("\n## A sweep on Slurm\n")
    slurm.report()
    quickstart_share()


if __name__ == "__main__":
    main()
