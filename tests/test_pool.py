"""The pool of real runs: its file holds what runs did, and grows by what it doesn't hold yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import pool

RUNS = ["curve", "b", "seed", "outcome", "lower", "steps", "last_step", "threshold", "budget"]


def tables(*runs: tuple[str, int, int, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs (curve, b, seed, steps) that arrived, with two evaluations each: before their crossing and at it."""
    rows = []
    for i, (_, _, _, steps) in enumerate(runs):
        rows += [(i, steps - 10, 5.0, np.nan), (i, steps, 3.9, 3.8)]
    found = [(curve, b, seed, "reached", steps - 10, steps, steps, 4.0, 60_000) for curve, b, seed, steps in runs]
    return pd.DataFrame(found, columns=RUNS), pd.DataFrame(rows, columns=["run", "step", "value", "repeat"])


def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    pool.write(*tables(("dcgan-adam", 8, 0, 100), ("dcgan-adam", 8, 1, 200)), path)
    found = pool.load(path)
    assert list(found["step"]) == [90, 100, 190, 200]
    assert list(found["seed"]) == [0, 0, 1, 1]
    assert found["value"].to_numpy() == pytest.approx([5.0, 3.9, 5.0, 3.9])
    assert found["repeat"].isna().tolist() == [True, False, True, False]
    assert set(found["outcome"]) == {"reached"}


def test_a_pool_grows_by_what_it_does_not_hold(tmp_path: Path) -> None:
    """A run that the file holds stays what it was; others find their place, with their own evaluations."""
    path = tmp_path / "pool.npz"
    assert pool.read(path)[0].empty
    pool.write(*pool.joined(pool.read(path), tables(("dcgan-rmsprop", 2, 0, 300), ("dcgan-adam", 8, 1, 200))), path)
    pool.write(*pool.joined(pool.read(path), tables(("dcgan-adam", 8, 1, 999), ("dcgan-adam", 4, 0, 100))), path)
    found = pool.load(path).drop_duplicates(["curve", "b", "seed"])
    assert found[["curve", "b", "seed", "steps"]].to_numpy().tolist() == [
        ["dcgan-adam", 4, 0, 100],
        ["dcgan-adam", 8, 1, 200],
        ["dcgan-rmsprop", 2, 0, 300],
    ]
    last = pool.load(path).groupby(["curve", "b", "seed"])["step"].max()
    assert last.tolist() == [100, 200, 300]
