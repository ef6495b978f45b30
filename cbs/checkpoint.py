"""A run's state on disk: checksummed, atomic, with the one before kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import time
from pathlib import Path
from typing import Any

import torch

from cbs.claim import STALE_SECONDS, file_time
from cbs.record import write_atomic

_MAGIC = b"cbs-checkpoint-1"


def _previous(path: Path) -> Path:
    return path.with_name(f"previous-{path.name}")


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint; the one before stays as a fallback. A superseded attempt may do so too."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    fresh = path.with_name(f"next-{secrets.token_hex(4)}-{path.name}")
    write_atomic(fresh, _MAGIC + hashlib.sha256(body).digest() + body)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, _previous(path))
    os.replace(fresh, path)


def load(path: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, or None; a damaged one is set aside as `damaged-<time>-<name>`."""
    _sweep(path)
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        raw = candidate.read_bytes()
        head = len(_MAGIC) + 32
        body = raw[head:]
        if raw[: len(_MAGIC)] == _MAGIC and hashlib.sha256(body).digest() == raw[len(_MAGIC) : head]:
            state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            return state
        os.replace(candidate, candidate.with_name(f"damaged-{time.time_ns()}-{candidate.name}"))
    return None


def remove(path: Path) -> None:
    """Start the run anew: the next `load` finds nothing."""
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what attempts that were killed while saving left half-done; a superseded one may be saving yet."""
    for pattern in (f"next-*-{path.name}", f".*{path.name}.*.tmp"):
        for rest in path.parent.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if file_time(path.parent) - rest.stat().st_mtime > STALE_SECONDS:
                    rest.unlink()
