"""A pool of real runs, from which sweeps for b* are replayed: `python -m benchmarks.pool [CURVE ...] [--seeds 32]`.

Trains every seed of every batch size of the curves on digits, into <paths.results>/pool, and then writes one compact
file, which `load` reads. The same command goes on after any interruption. Runs that the file holds already are kept and
not trained again, so a pool may be made piece by piece, on several machines. `--write` adds the runs that are finished,
and trains nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.configs import config
from cbs import trial
from cbs.key import trial_folder
from cbs.machine import settle_numerics
from cbs.outcome import Diverged, Evaluation, Outcome, Reached
from cbs.record import RunFolder
from cbs.schema import Config

FILE = Path(__file__).parent / "pool" / "digits.npz"
# Each curve's choices, and the gradients that a small batch and a larger one may take: about 2.5 times the cheapest
# batch size's median, so that small ones show that they are dearer, and enough that nearly all large ones arrive.
CURVES = {
    "dcgan-adam": (("model=dcgan", "optimizer=adam"), 60_000, 250_000),
    "dcgan-rmsprop": (("model=dcgan", "optimizer=rmsprop"), 40_000, 250_000),
    "dcgan-adabelief": (("model=dcgan", "optimizer=adabelief"), 70_000, 250_000),
    "wgan_gp-adam": (("model=wgan_gp", "optimizer=adam"), 90_000, 250_000),
}
# In an order in which a part of them tells most of the curve.
SIZES = (8, 2, 32, 4, 128, 16, 64, 1, 6, 12, 3, 24)
SMALL = 8
_ASKED = (
    *("name=pool", "device=cpu", "stack=32", "noise_batches=0", "logger=none"),
    *("target.first_gradients=1500", "target.precision=0.04", "target.evaluations_after=6"),
)
# Of a run that never crossed, every so many evaluations are kept; of the others, all from this part of N on.
_THINNED, _FROM = 2, 0.5


def trials(curves: Sequence[str], *paths: str) -> Iterator[tuple[str, Config]]:
    """Every trial with its curve's name, curve by curve."""
    for name in curves:
        choice, small, large = CURVES[name]
        for b in SIZES:
            budget = small if b <= SMALL else large
            yield name, config(*choice, *_ASKED, f"batch_size={b}", f"target.budget_gradients={budget}", *paths)


def train(found: Config, seeds: Sequence[int], stopped: list[int]) -> None:
    """Train the seeds that have no result yet. Raises trial.Interrupted after saving once there is a signal."""
    folder = trial_folder(found)
    while left := [seed for seed in seeds if RunFolder(folder, seed).result() is None]:
        stacked = [seed for seed in left if RunFolder(folder, seed).stack()]
        fresh = [seed for seed in left if not RunFolder(folder, seed).checkpoint_path.exists()]
        together = stacked or fresh
        if together:
            trial.run_together(found, together, 1, lambda *_: None, lambda: bool(stopped))
        else:
            trial.run(found, left[0], stopped=lambda: bool(stopped))


def pool(curves: Sequence[str], seeds: int, *paths: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs, and those of their evaluations that are kept; column `run` of these says whose."""
    runs: list[tuple[object, ...]] = []
    rows: list[tuple[object, ...]] = []
    for name, found in trials(curves, *paths):
        for seed in range(seeds):
            folder = RunFolder(trial_folder(found), seed)
            result = folder.result()
            if result is None:
                continue
            outcome = result.outcomes[found.target.hardest]
            b, last = found.batch_size.initial, result.last_step
            rows += [(len(runs), e.step, e.value, (*e.repeats, np.nan)[0]) for e in _kept(folder.trajectory(), outcome)]
            runs.append((name, b, seed, *_row(outcome), last, found.target.hardest, found.target.budget_gradients))
    columns = ["curve", "b", "seed", "outcome", "lower", "steps", "last_step", "threshold", "budget"]
    return pd.DataFrame(runs, columns=columns), pd.DataFrame(rows, columns=["run", "step", "value", "repeat"])


def _row(outcome: Outcome) -> tuple[str, int, int]:
    if isinstance(outcome, Reached):
        return "reached", outcome.last_above, outcome.first_below
    return "diverged" if isinstance(outcome, Diverged) else "censored", outcome.step, outcome.step


def _kept(trajectory: list[Evaluation], outcome: Outcome) -> list[Evaluation]:
    if isinstance(outcome, Reached):
        return [e for e in trajectory if e.step >= _FROM * outcome.first_below]
    return trajectory[::-1][::_THINNED][::-1]  # the last one among them


def write(runs: pd.DataFrame, rows: pd.DataFrame, path: Path) -> None:
    """One compressed file: a column of either table each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = {"b": "int16", "seed": "int16", "run": "int16", "value": "float32", "repeat": "float32"}
    columns = {f"{table}.{name}": frame[name] for table, frame in (("runs", runs), ("rows", rows)) for name in frame}
    kept = {}
    for name, column in columns.items():
        text = column.dtype == object or str(column.dtype) in ("str", "string")
        kind = "U" if text else small.get(name.split(".")[1], "int32" if column.dtype.kind in "iu" else "float32")
        kept[name] = column.to_numpy().astype(kind)
    np.savez_compressed(path, **kept)


def read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a file as `pool` gives them; two without rows where there is no file."""
    if not path.exists():
        return pool([], 0)
    with np.load(path) as found:
        runs, rows = (
            pd.DataFrame({name.split(".")[1]: found[name] for name in found.files if name.startswith(f"{table}.")})
            for table in ("runs", "rows")
        )
    return runs, rows


def joined(
    known: tuple[pd.DataFrame, pd.DataFrame], more: tuple[pd.DataFrame, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of both, those of the first where both have one, in the order of CURVES and SIZES."""
    keys = ["curve", "b", "seed"]
    runs = pd.concat([known[0], more[0]], ignore_index=True) if len(known[0]) else more[0]
    rows = pd.concat([known[1], more[1].assign(run=more[1]["run"] + len(known[0]))]) if len(known[0]) else more[1]
    kept = runs[~runs.duplicated(keys)].copy()
    kept["at"] = kept["curve"].map({name: i for i, name in enumerate(CURVES)})
    kept = kept.sort_values(["at", "b", "seed"]).drop(columns="at")
    place = pd.Series(range(len(kept)), index=kept.index)
    rows = rows[rows["run"].isin(kept.index)]
    rows = rows.assign(run=rows["run"].map(place)).sort_values(["run", "step"], kind="stable")
    return kept.reset_index(drop=True), rows.reset_index(drop=True)


def load(path: Path = FILE) -> pd.DataFrame:
    """Every evaluation that was kept: curve, b, seed, step, value, repeat, and of its run the other columns.

    repeat: the metric with fresh noise, NaN where no crossing asked for it. outcome, lower, steps: at `threshold`, as a
    curve's frame has them (lower: the last evaluation short of it; steps: N). last_step: where the run ended.
    budget: gradients that it had. From half of N on every evaluation is there, until six after it; of runs that never
    arrived every second one.
    """
    runs, rows = read(path)
    return runs.join(rows.set_index("run"), how="right").reset_index(drop=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool", description=__doc__)
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"of {', '.join(CURVES)}; all if none is given")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--write", action="store_true", help="write the file from what there is, and train nothing")
    given = parser.parse_args()
    curves = given.curves or list(CURVES)
    if unknown := [name for name in curves if name not in CURVES]:
        parser.error(f"CURVE is {unknown[0]!r}: it must be one of {', '.join(CURVES)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    settle_numerics(torch.device("cpu"))
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    known = read(given.out)
    done = set(zip(known[0]["curve"], known[0]["b"], known[0]["seed"], strict=True))
    for name, found in [] if given.write else trials(curves):
        seeds = [seed for seed in range(given.seeds) if (name, found.batch_size.initial, seed) not in done]
        if not seeds:
            continue
        began = time.monotonic()
        trial.preflight(found)
        try:
            train(found, seeds, stopped)
        except trial.Interrupted as interrupted:
            print(f"{interrupted}. Give the same command again to go on.", file=sys.stderr)
            return 130
        print(f"{name} b={found.batch_size.label}: {time.monotonic() - began:,.0f} s", flush=True)
    runs, rows = joined(known, pool(curves, given.seeds))
    write(runs, rows, given.out)
    size = given.out.stat().st_size
    print(f"{len(runs):,} runs, {len(rows):,} evaluations, {size / 1e6:.2f} MB → {given.out}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
