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

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from analysis.studies import read_study
from benchmarks import fid, fitting, launcher, slurm
from benchmarks.timing import seconds
from cbs.batch_sizes import quoted
from cbs.config import CONF_DIR, typed
from cbs.data import sampler
from cbs.data.packed import prepare
from cbs.machine import onednn, prefers_onednn
from cbs.schema import Config
from cbs.tasks.gan import GAN

CPU = torch.device("cpu")


def config(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return typed(compose("config", overrides=[quoted(o) for o in overrides]))


class Pictures(Dataset):
    """What a plain script would iterate: one PIL image at a time through a torchvision transform."""

    def __init__(self, images: np.ndarray) -> None:
        normalise = transforms.Normalize((0.5,), (0.5,))
        self.images, self.transform = images, transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index, 0]))


class PlainLoop:
    """The same networks as a plain PyTorch script writes them: layers by name, DataLoader, .item() per step."""

    def __init__(self, images: np.ndarray, b: int, width: int = 16, latent: int = 32) -> None:
        self.b, self.latent = b, latent
        self.g = nn.Sequential(
            nn.ConvTranspose2d(latent, 2 * width, 2, 1, 0, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        self.d = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(2 * width, 1, 2, 1, 0, bias=False),
        )
        self.og = torch.optim.Adam(self.g.parameters(), 2e-4, (0.5, 0.999))
        self.od = torch.optim.Adam(self.d.parameters(), 2e-4, (0.5, 0.999))
        self.criterion = nn.BCEWithLogitsLoss()
        self.loader = DataLoader(Pictures(images), batch_size=b, shuffle=True, drop_last=True)
        self.batches = iter(self.loader)
        self.log: list[tuple[float, float]] = []

    def step(self) -> None:
        try:
            real = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real = next(self.batches)
        self.od.zero_grad()
        fake = self.g(torch.randn(self.b, self.latent, 1, 1))
        loss_d = self.criterion(self.d(real).view(-1), torch.ones(self.b))
        loss_d = loss_d + self.criterion(self.d(fake.detach()).view(-1), torch.zeros(self.b))
        loss_d.backward()
        self.od.step()
        self.og.zero_grad()
        loss_g = self.criterion(self.d(fake).view(-1), torch.ones(self.b))
        loss_g.backward()
        self.og.step()
        self.log.append((loss_d.item(), loss_g.item()))


def training_loop(data: Path) -> None:
    print("\n## Training loop, digits, one thread\n")
    print("| b | cbs steps/s | plain PyTorch loop steps/s | ratio (median of 5 pairs) |")
    print("|---|---|---|---|")
    packed = prepare(config().dataset, data)
    for b, steps in ((4, 300), (64, 200), (512, 40)):
        task = GAN(config(f"batch_size={b}"), 0, sampler.Pictures(torch.from_numpy(packed.images())), CPU)
        plain = PlainLoop(packed.images(), b)

        def ours(task: GAN = task, steps: int = steps, b: int = b) -> None:
            with onednn(prefers_onednn(16, b)):
                for _ in range(steps):
                    task.step()

        def theirs(plain: PlainLoop = plain, steps: int = steps) -> None:
            for _ in range(steps):
                plain.step()

        ours()
        theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(5)]
        mine, other = (stats.median(p[i] for p in pairs) for i in (0, 1))
        ratio = stats.median(p[1] / p[0] for p in pairs)
        print(f"| {b} | {steps / mine:,.0f} | {steps / other:,.0f} | {ratio:.1f}× |", flush=True)


def small_convolutions(data: Path) -> None:
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


def quickstart_share(data: Path) -> None:
    import joblib

    print("\n## Where a quickstart's time goes (its sweep with one seed)\n")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cbs.run", "-m", "study=quickstart", "seeds=1", f"paths.data={data}"]
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
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        training_loop(data)
        small_convolutions(data)
        print("\n## One FID at 64 pixels, in memory and over a folder of PNG files\n")
        fid.report()
        print("\n## Fitting curves\n")
        fitting.report()
        print("\n## Launching a large sweep\n")
        launcher.report()
        print("\n## A sweep on Slurm\n")
        slurm.report()
        quickstart_share(data)


if __name__ == "__main__":
    main()
