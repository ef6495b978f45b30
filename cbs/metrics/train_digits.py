"""Train the digit classifier whose weights ship as digits.npz: `python -m cbs.metrics.train_digits FILE`.

Thresholds on the `digits` features mean the same everywhere because everyone uses the committed file;
every record carries its digest. This script documents where the file comes from.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from cbs.metrics.features import DigitNet
from cbs.streams import stream

EPOCHS = 60
BATCH = 64


def train(seed: int = 0) -> tuple[DigitNet, float]:
    """The classifier, and its accuracy on the fifth of the images that it wasn't trained on."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16))).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(images), generator=stream(seed, "split"))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    network = DigitNet()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    shuffle = stream(seed, "order")
    for _ in range(EPOCHS):
        for batch in kept[torch.randperm(len(kept), generator=shuffle)].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch], label_smoothing=0.05).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (network(images[held]).argmax(1) == labels[held]).float().mean().item()
    return network, accuracy


def main() -> None:
    network, accuracy = train()
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in network.state_dict().items()})
    print(f"accuracy on held-out digits: {accuracy:.3f}")


if __name__ == "__main__":
    main()
