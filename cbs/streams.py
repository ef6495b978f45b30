"""Named random streams: every draw of a run comes from its one seed."""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, name: str, *counters: int) -> int:
    """A 63-bit seed that depends on the run's seed, the stream's name and its counters only."""
    text = "/".join(map(str, (seed, name, *counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, name: str, *counters: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator at the start of a named stream."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, name, *counters))
    return generator
