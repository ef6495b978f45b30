"""What a GPU has to show: `make bench-gpu` or `python -m benchmarks.gpu`. Prints Markdown for benchmarks/RESULTS.md."""

from __future__ import annotations

import platform
import sys

import torch

from benchmarks import data, fid, training


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no GPU here; `make bench` has what a CPU can show.")
    device = torch.device("cuda")
    print(f"# cbs benchmarks on a GPU\n\n{torch.cuda.get_device_name(device)}, torch {torch.__version__}, ", end="")
    print(f"CUDA {torch.version.cuda}, Python {platform.python_version()}", flush=True)
    training.report(device)
    fid.report(50_000, 50_000, device=device)
    data.report()


if __name__ == "__main__":
    main()
