"""Composed configs for benchmarks."""

from __future__ import annotations

from hydra import compose, initialize_config_dir

from cbs.batch_sizes import quoted
from cbs.config import CONF_DIR, typed
from cbs.schema import Config


def config(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return typed(compose("config", overrides=[quoted(o) for o in overrides]))
