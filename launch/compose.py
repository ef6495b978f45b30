"""A sweep's typed configs: those composed before are looked up, the rest are composed.

Composing and checking a trial takes Hydra and OmegaConf 0.1 s; a sweep of a thousand that is given again
should say in seconds what is left.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from cbs.config import typed
from cbs.record import write_atomic
from cbs.schema import Config
from launch import sources
from launch.composer import Composer

NAME = "composed.json"
# So many are composed in a second or two: not worth a file, nor a word.
FEW = 20
_PLAIN_SECONDS = 10.0


def composed(loader: Any, master: Any, jobs: Sequence[list[str]]) -> list[Config]:
    """One config per job, in their order.

    Raises what Hydra or `typed` raises at the first job that can't be composed or breaks a rule.
    """
    if not jobs:
        return []
    # Composed in any case: it says where the study is, and a cache that knows it otherwise is not believed.
    first = typed(loader.load_sweep_config(master, jobs[0]))
    apart = [Path(first.paths.results).resolve(), Path(first.paths.data).resolve()]
    # hydra.launcher.workers=2 and its like can't enter a trial's config; hydra/launcher=other might.
    common = [line for line in master.hydra.overrides.hydra if not line.startswith("hydra.")]
    keys = [json.dumps([*common, *job]) for job in jobs]
    made_of = sources.read(loader, master, [common, *jobs], apart)
    cache = first.study_dir / NAME if made_of.closed and len(jobs) > FEW else None
    kept = _read(cache, made_of.digest) if cache else {}
    if kept.get(keys[0], first.to_dict()) != first.to_dict():
        kept = {}
    known = {key: Config.from_dict(kept[key]) for key in keys if key in kept} | {keys[0]: first}
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
    composer = Composer(loader, master, share=made_of.steady, swap=not made_of.read_batch_size)
    for key, job in _with_progress(missing.items(), len(missing)):
        known[key] = typed(composer.compose(job))
    if cache and missing:
        _write(cache, made_of.digest, kept, known)
    return [known[key] for key in keys]


def _check(digest: str, kept: dict[str, Any]) -> str:
    return hashlib.sha256((digest + json.dumps(kept)).encode()).hexdigest()


def _read(path: Path, digest: str) -> dict[str, Any]:
    """What was composed from the same sources; empty where the file is missing, damaged, or of other sources."""
    try:
        content = json.loads(path.read_bytes())
        kept = content["configs"]
        return kept if content["check"] == _check(digest, kept) else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write(path: Path, digest: str, kept: dict[str, Any], known: dict[str, Config]) -> None:
    made = {key: json.loads(json.dumps(config.to_dict())) for key, config in known.items()}
    kept = kept | {key: plain for key, plain in made.items() if Config.from_dict(plain) == known[key]}
    content = {"check": _check(digest, kept), "configs": kept}
    with suppress(OSError):  # a folder that can't be written to: composed again next time
        write_atomic(path, json.dumps(content).encode(), sync=False)


def _with_progress(items: Any, total: int) -> Iterator[Any]:
    """Pass them on, saying on stderr how far it is: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if total <= FEW:
        yield from items
    elif console.is_terminal:
        yield from track(items, "Composing", total, console=console, transient=True)
    else:
        spoke = time.monotonic()
        for count, item in enumerate(items):
            if time.monotonic() - spoke > _PLAIN_SECONDS:
                spoke = time.monotonic()
                console.print(f"composing: {count} of {total} trials", highlight=False)
            yield item
