"""Training steps against a plain PyTorch loop and against what the device's arithmetic would allow.

`python -m benchmarks.training` on a CPU; `python -m benchmarks.training cuda` on a GPU, at the paper's sizes.
"""

from __future__ import annotations

import itertools
import statistics as stats
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.configs import config
from cbs import models, optim
from cbs.data.sampler import Pictures
from cbs.machine import onednn, settle_numerics, tf32
from cbs.models import dcgan
from cbs.options import BigGANConfig
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks.gan import GAN
from cbs.tasks.losses import discriminator_loss, generator_loss, gradient_penalty
from cbs.tasks.pacing import trains_through_onednn
from cbs.work import work

_SECONDS = 1.0
_PAIRS = 3
_SIZES = (2, 8, 32, 128, 512, 2048)
# Names, how to compose each, and up to which b.
_ON_CPU = (
    ("DCGAN, digits 8×8", ("model=dcgan",), 2048),
    ("WGAN-GP, digits 8×8", ("model=wgan_gp",), 2048),
    ("BigGAN, digits 8×8", ("model=biggan",), 512),
    ("DCGAN, 64×64", ("dataset=celeba", "model=dcgan"), 32),
    ("WGAN-GP, 64×64", ("dataset=celeba", "model=wgan_gp"), 32),
)
_IMAGENET = ("dataset=imagenet", "model=biggan", "target.thresholds=[50]")
_ON_GPU = (
    *((f"{name}, {p}", (*choice, f"precision={p}"), 2048) for name, choice, _ in _ON_CPU[3:] for p in ("fp32", "tf32")),
    *((f"BigGAN, 128×128, {p}", (*_IMAGENET, f"precision={p}"), 512) for p in ("tf32", "bf16")),
)


class Files(Dataset):
    """What a script iterates: one PIL image at a time through a transform, with its class."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels
        normalise = transforms.Normalize((0.5,), (0.5,))
        self.transform = transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].squeeze())), self.labels[index]


def plainly(network: nn.Module) -> nn.Module:
    """A network with the layers that a script has: DCGAN's matrix products as the convolutions that they are."""
    if not isinstance(network, nn.Sequential):
        return network
    layers: list[nn.Module] = []
    for layer in network:
        if isinstance(layer, dcgan.Stem):
            inputs, outputs, side, _ = layer.weight.shape
            layers += [nn.Unflatten(1, (inputs, 1, 1)), nn.ConvTranspose2d(inputs, outputs, side, bias=False)]
        elif isinstance(layer, dcgan.Head):
            layers += [nn.Conv2d(layer.weight.shape[1], 1, layer.weight.shape[2], bias=False), nn.Flatten(0)]
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


class Plain:
    """The loop that GAN scripts have: DataLoader, zero_grad, backward, step, `.item()` of each loss."""

    def __init__(self, found: Config, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> None:
        self.b, self.device, self.model = found.batch_size.initial, device, found.model
        self.conditional = isinstance(found.model, BigGANConfig)
        pair = models.build(found.model, found.dataset, 1000)
        self.g, self.d = (plainly(network).to(device) for network in pair)
        self.og = torch.optim.Adam(self.g.parameters(), found.optimizer.lr_generator, (0.5, 0.999))
        self.od = torch.optim.Adam(self.d.parameters(), found.optimizer.lr_discriminator, (0.5, 0.999))
        files = Files(images, labels)
        if device.type == "cuda":
            loader: DataLoader = DataLoader(
                files, self.b, shuffle=True, drop_last=True, num_workers=8, persistent_workers=True, pin_memory=True
            )
        else:
            loader = DataLoader(files, self.b, shuffle=True, drop_last=True)
        self.batches = self._endless(loader)
        self.log: list[tuple[float, float]] = []

    def _endless(self, loader: DataLoader) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    def step(self) -> None:
        model, device = self.model, self.device
        real, labels = (part.to(device) for part in next(self.batches))
        z = torch.randn(self.b, model.latent, device=device)
        drawn = torch.randint(1000, (self.b,), device=device)
        of_real, of_fake = ((labels,), (drawn,)) if self.conditional else ((), ())
        self.od.zero_grad()
        fake = self.g(z, *of_fake)
        logits = self.d(real, *of_real), self.d(fake.detach(), *of_fake)
        loss_d = discriminator_loss(model.loss, *logits)
        if model.penalty:
            mix = torch.rand(self.b, 1, 1, 1, device=device)
            loss_d = loss_d + model.penalty * gradient_penalty(lambda x: self.d(x, *of_real), real, fake.detach(), mix)
        loss_d.backward()
        self.od.step()
        self.og.zero_grad()
        loss_g = generator_loss(model.loss, self.d(fake, *of_fake))
        loss_g.backward()
        self.og.step()
        self.log.append((loss_d.item(), loss_g.item()))


def rate(step: Callable[[], object], device: torch.device) -> float:
    """Steps a second, over at least `_SECONDS`."""
    done, started = 0, time.perf_counter()
    for n in itertools.count(1):
        for _ in range(n):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += n
        elapsed = time.perf_counter() - started
        if elapsed >= _SECONDS:
            return done / elapsed
    raise AssertionError


def ceiling(device: torch.device, precision: str) -> float:
    """Floating-point operations a second in large matrix products and convolutions, whichever has more."""
    n = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    batch = 256 if device.type == "cuda" else 8
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=kind).to(memory_format=layout)
    w = torch.randn(256, 256, 3, 3, device=device, dtype=kind).to(memory_format=layout)
    products = 2 * n**3 * rate(lambda: a @ b, device)
    convolutions = 2 * 9 * 256**2 * 32**2 * batch * rate(lambda: F.conv2d(x, w, padding=1), device)
    return max(products, convolutions)


def compared(choice: Sequence[str], b: int, device: torch.device) -> tuple[float, float, float]:
    """Our steps a second, a plain loop's, and the median ratio of pairs measured in turn."""
    found = config(*choice, f"batch_size={b}")
    data = found.dataset
    n = max(4 * b, 256)
    images = torch.randint(0, 256, (n, data.channels, data.image_size, data.image_size), dtype=torch.uint8)
    labels = torch.randint(1000, (n,), generator=stream(0, "labels"))
    task = GAN(found, 0, Pictures(images.to(device), labels.to(device), 1000), device)
    plain = Plain(found, images, labels, device)
    losses: list[torch.Tensor] = []

    def ours() -> None:
        losses.extend(task.step())
        if len(losses) == 128:  # as cbs.loop reads them
            torch.stack(losses).tolist()
            losses.clear()

    pairs = []
    with onednn(trains_through_onednn(found, found.batch_size.initial)), tf32(found.precision == "tf32"):
        for _ in range(20):  # a CUDA graph is recorded meanwhile
            ours()
        plain.step()
        for _ in range(_PAIRS):
            mine = rate(ours, device)
            with onednn(True):
                pairs.append((mine, rate(plain.step, device)))
    return (
        stats.median(pair[0] for pair in pairs),
        stats.median(pair[1] for pair in pairs),
        stats.median(pair[0] / pair[1] for pair in pairs),
    )


def report(device: torch.device) -> None:
    settle_numerics(device)
    what = "one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"\n## Training steps, {what}\n")
    print("| networks | b | cbs steps/s | plain loop steps/s | ratio | of the ceiling |")
    print("|---|---|---|---|---|---|")
    ceilings: dict[str, float] = {}
    for name, choice, most in _ON_CPU if device.type == "cpu" else _ON_GPU:
        found = config(*choice)
        with tf32(found.precision == "tf32"):
            if found.precision not in ceilings:
                ceilings[found.precision] = ceiling(device, found.precision)
        for b in (size for size in _SIZES if size <= most):
            try:
                mine, plain, ratio = compared(choice, b, device)
            except torch.OutOfMemoryError:
                print(f"| {name} | {b} | doesn't fit | | | |", flush=True)
                break
            share = mine * b * work(found).image / ceilings[found.precision]
            print(f"| {name} | {b} | {mine:,.1f} | {plain:,.1f} | {ratio:.1f}× | {share:.0%} |", flush=True)
    for precision, most_flops in ceilings.items():
        print(f"\nThe ceiling, {precision}: {most_flops / 1e12:.3g} TFLOP/s in products and convolutions of this run.")


def optimizers() -> None:
    """What an optimizer's own step takes beside Adam's."""
    print("\n## Optimizers, one update of DCGAN's generator, one thread\n")
    print("| | digits | 64×64 |")
    print("|---|---|---|")
    times: dict[str, list[float]] = {}
    for size in ((), ("dataset=celeba",)):
        for name in ("adam", "adabelief", "rmsprop", "sgd"):
            found = config(*size, f"optimizer={name}")
            parameters = list(models.build(found.model, found.dataset, 0)[0].parameters())
            for p in parameters:
                p.grad = torch.randn_like(p)
            built = optim.build(found.optimizer, parameters, 1e-6)
            rate(built.step, torch.device("cpu"))
            times.setdefault(name, []).append(1e3 / rate(built.step, torch.device("cpu")))
    for name, row in times.items():
        cells = (f"{ms:.3f} ms ({ms / adam:.2f}×)" for ms, adam in zip(row, times["adam"], strict=True))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    report(device)
    if device.type == "cpu":
        optimizers()


if __name__ == "__main__":
    main()
