"""What an adaptive sweep saves, and how often its 95 % set of b* holds the truth.

`python -m benchmarks.adaptive [SWEEPS]` simulates tasks whose truth is known; `--pool` replays sweeps from real runs
(benchmarks.pool). Prints Markdown; docs/sweeps.md shows a run of both.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from analysis.adaptive.design import Options, Seen, propose, state
from analysis.curves.curve import COLUMNS
from analysis.fitting.cheapest import Cheapest, cheapest
from analysis.fitting.posterior import Posterior, posterior, runs_of
from benchmarks import pool
from benchmarks.simulated import Row, Task, drawn

SIZES = tuple(2**k for k in range(11))
SEEDS = 16
OCTAVE, WITHIN = 1.0, 0.25
# A run has so many times the least SFO, in gradients, at every batch size.
BUDGET = 12.0
_TASK = Row("hyperbola", budget=BUDGET, sizes=SIZES)
TRUTHS = [
    _TASK,
    replace(_TASK, truth="two-term"),
    *(replace(_TASK, truth="power", p=p) for p in (0.5, 1.3, 1.5, 2.0, 3.0)),
    replace(_TASK, truth="late", p=1.5),
    replace(_TASK, truth="piecewise"),
]
# The batch size at which a step takes twice its least time, log-uniform.
EVEN = (8.0, 2048.0)

Train = Callable[[int, int, float], Seen]
"""A run (batch size, seed) trained up to a step."""
Cost = Callable[[int], float]


@dataclass(frozen=True)
class Swept:
    """The runs of a sweep as they stand, and what it took."""

    seen: tuple[Seen, ...]
    sfo: float
    device: float


def adaptive(train: Train, options: Options, step_cost: Cost, step_time: Cost) -> Swept:
    """One worker's sweep until nothing is proposed."""
    seen: dict[tuple[int, int], Seen] = {}
    sfo = device = 0.0
    while proposals := propose(list(seen.values()), [], options, step_cost, 1):
        (p,) = proposals
        before = seen.get((p.batch_size, p.seed))
        after = train(p.batch_size, p.seed, p.until)
        steps = after.steps - (before.steps if before else 0.0)
        assert steps > 0, f"{p} went no further"
        sfo, device = sfo + steps * p.batch_size, device + steps * step_time(p.batch_size)
        seen[p.batch_size, p.seed] = after
    return Swept(tuple(seen.values()), sfo, device)


def said(seen: Iterable[Seen], sizes: Sequence[int]) -> tuple[Posterior, Cheapest] | None:
    """The posterior over all sizes, and the cheapest of them."""
    rows = [(run.batch_size, run.seed, run.outcome, run.lower, run.steps) for run in seen if run.steps > 0]
    known = posterior(runs_of(pd.DataFrame(rows, columns=list(COLUMNS))), sizes)
    return None if known is None else (known, cheapest(known))


# Simulated tasks


def measure(row: Row, number: int) -> list[dict[str, Any]]:
    """One task: adaptive sweeps that save SFO, device time, or are content within 25 %, each with its equal grid."""
    task = drawn(row, number)
    even = math.exp(np.random.default_rng([number, 5]).uniform(*np.log(EVEN)))

    def step_time(b: int) -> float:
        return 1 + b / even

    def train(b: int, seed: int, until: float) -> Seen:
        _, _, outcome, lower, steps = task.run(b, seed, min(task.after(b, until) * (1 + 1e-6), task.most(b)))
        return Seen(b, seed, lower, steps, outcome)

    most = {b: math.floor(task.before(b, task.most(b))) for b in SIZES}
    asked = Options(SIZES, most, SEEDS, OCTAVE)
    ways: dict[str, tuple[Options, Cost]] = {
        "octave, SFO": (asked, float),
        "octave, device time": (asked, step_time),
        "within 25 %, SFO": (replace(asked, width_octaves=None, within=WITHIN), float),
    }
    grids = [_grid(task, 1, step_time)]
    rows = []
    for name, (options, cost) in ways.items():
        swept = adaptive(train, options, cost, step_time)
        facts = _facts(task, swept, options)
        while grids[-1]["octaves"] > facts["octaves"] and len(grids) < SEEDS:
            grids.append(_grid(task, len(grids) + 1, step_time))
        equal = next((grid for grid in grids if grid["octaves"] <= facts["octaves"]), grids[-1])
        rows.append(facts | {"way": name, **{f"grid {key}": value for key, value in equal.items()}})
    return rows


def _grid(task: Task, seeds: int, step_time: Cost) -> dict[str, float]:
    """Every batch size with so many seeds, each run to its target or its budget."""
    runs = [task.run(b, seed, task.most(b)) for b in SIZES for seed in range(seeds)]
    seen = tuple(Seen(b, seed, lower, steps, outcome) for b, seed, outcome, lower, steps in runs)
    sfo = sum(run.steps * run.batch_size for run in seen)
    swept = Swept(seen, sfo, sum(run.steps * step_time(run.batch_size) for run in seen))
    return _facts(task, swept, None) | {"seeds": float(seeds)}


def _facts(task: Task, swept: Swept, options: Options | None) -> dict[str, Any]:
    found = said(swept.seen, SIZES)
    nothing = found is None or all(run.outcome != "reached" for run in swept.seen)
    facts: dict[str, Any] = {"runs": len(swept.seen), "sfo": swept.sfo, "device": swept.device}
    facts |= {"decided": options is not None and state(swept.seen, options).decided}
    if found is None or nothing:
        return facts | {"octaves": math.log2(SIZES[-1] / SIZES[0]), "holds": True, "regret": math.inf}
    _, best = found
    regret = math.expm1(min(float(task.regret(np.array(best.b_star))), 700.0))
    return facts | {"octaves": best.octaves, "holds": task.holds(best.low, best.high), "regret": regret}


HEADS = ("truth", "asked, saving", "decided", "**holds**", "octaves", "runs", "**SFO saved**", "device time saved")


def show(row: Row, found: pd.DataFrame) -> None:
    """A line for each way to sweep."""
    for way, part in found.groupby("way", sort=False):
        _row(
            *(row.title, way, f"{part['decided'].mean():.0%}", f"{part['holds'].mean():.1%}"),
            *(f"{part['octaves'].median():.2f}", f"{part['runs'].median():.0f}", _saved(part, "sfo")),
            *(_saved(part, "device"), f"{part['regret'].quantile(0.95, 'higher'):.1%}"),
            *(f"{part['grid seeds'].median():.0f}", f"{(part['grid octaves'] <= part['octaves']).mean():.0%}"),
            f"{part['grid holds'].mean():.1%}",
        )


def _saved(found: pd.DataFrame, unit: str) -> str:
    low, middle, high = (found[f"grid {unit}"] / found[unit]).quantile([0.25, 0.5, 0.75])
    return f"{middle:.1f}× ({low:.1f} … {high:.1f})"


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


# Real runs


@dataclass(frozen=True)
class Pool:
    """Real runs of one curve, (batch size, seed), of seeds that have one at every batch size.

    most: steps that a run may make, by batch size. known, best: what all runs together say.
    """

    runs: dict[tuple[int, int], Seen]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    most: dict[int, int]
    known: Posterior
    best: Cheapest

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Pool | None:
        """None where too little is finished. Batch sizes at which fewer than half of the runs are wait for more."""
        each = frame.drop_duplicates(["b", "seed"])
        count = each.groupby("b")["seed"].nunique()
        each = each[each["b"].isin(count.index[count >= count.max() / 2])]
        sizes = tuple(int(b) for b in sorted(each["b"].unique()))
        has = each.groupby("seed")["b"].nunique()
        seeds = tuple(int(seed) for seed in has.index[has == len(sizes)])
        runs: dict[tuple[int, int], Seen] = {}
        most: dict[int, int] = {}
        for b, seed, outcome, lower, steps, budget in each[
            ["b", "seed", "outcome", "lower", "steps", "budget"]
        ].itertuples(index=False):
            runs[int(b), int(seed)] = Seen(int(b), int(seed), float(lower), float(steps), str(outcome))
            # The last evaluation within the budget, where a run got there.
            most[int(b)] = min(most.get(int(b), int(budget / b)), int(steps if outcome == "censored" else budget / b))
        found = said(runs.values(), sizes)
        return None if found is None or len(seeds) < 2 or len(sizes) < 2 else cls(runs, sizes, seeds, most, *found)

    def regret(self, b: float) -> float:
        """What a batch size costs over the least, by the pool's posterior mean of ln N·b, relatively."""
        mean = self.known.weight @ self.known.log_sfo
        return math.expm1(float(np.interp(math.log(b), self.known.x, mean) - mean.min()))

    def drawn(self, seeds: Sequence[int]) -> list[Seen]:
        """All runs of these seeds."""
        return [replace(self.runs[b, seed], seed=at) for at, seed in enumerate(seeds) for b in self.sizes]

    def train(self, seeds: Sequence[int]) -> Train:
        """Runs trained up to the first evaluation at or after a step; before its last two, any step has one."""

        def run(b: int, seed: int, until: float) -> Seen:
            whole = replace(self.runs[b, seeds[seed]], seed=seed)
            return whole if until > whole.lower or until >= whole.steps else Seen(b, seed, until, until, "censored")

        return run


def replayed(one: Pool, number: int) -> list[dict[str, Any]]:
    """Sweeps of 1, 3 and 5 seeds, and adaptive ones that are then gone on with at two smaller batch sizes."""
    rng = np.random.default_rng([number, 11])
    rows: list[dict[str, Any]] = []
    for count in (1, 3, 5):
        if count < len(one.seeds):
            some = rng.choice(one.seeds, count, replace=False).tolist()
            rows.append({"sweep": f"{count} seed{'s' * (count > 1)}"} | _against(one, one.drawn(some)))
    seeds = rng.permutation(one.seeds)[:SEEDS].tolist()
    octaves = tuple(b for b in one.sizes if b & (b - 1) == 0)
    for name, allowed in (("adaptive", octaves), ("adaptive, smallest two not allowed", octaves[2:])):
        if len(allowed) > 1:
            options = Options(allowed, one.most, len(seeds), OCTAVE)
            swept = adaptive(one.train(seeds), options, float, float)
            facts = {"sweep": name, "decided": state(swept.seen, options).decided, "runs": len(swept.seen)}
            facts |= {"sfo": swept.sfo / one.best.least} | _against(one, swept.seen, allowed)
            rows.append(facts | _moved(one, swept.seen, options, seeds))
    return rows


def _against(one: Pool, seen: Sequence[Seen], sizes: Sequence[int] | None = None) -> dict[str, Any]:
    """What a sweep says beside what the whole pool says; its set reaches on at an end that is open."""
    found = said(seen, sizes or one.sizes)
    if found is None or all(run.outcome != "reached" for run in seen):
        return {}
    best = found[1]
    low, high = (0.0 if best.open_low else best.low), (math.inf if best.open_high else best.high)
    return {
        "octaves": best.octaves,
        "overlaps": float(low <= one.best.high and one.best.low <= high),
        "holds": float(low <= one.best.b_star <= high),
        "regret": one.regret(best.b_star),
    }


def _moved(one: Pool, seen: Sequence[Seen], options: Options, seeds: Sequence[int]) -> dict[str, float]:
    """Whether b* leaves a decided set once two smaller sizes are tried, each with two seeds."""
    before = state(seen, options)
    smaller = [b for b in one.sizes if b < min(run.batch_size for run in seen)][-2:]
    if not before.decided or len(smaller) < 2:
        return {}
    more = [one.train(seeds)(b, seed, options.most_steps[b]) for b in smaller for seed in range(2)]
    after = said([*seen, *more], sorted({*options.sizes, *smaller}))
    assert after is not None
    low, high = before.interval
    inside = (low is None or low <= after[1].b_star) and (high is None or after[1].b_star <= high)
    return {"moves": float(not inside)}


def show_pool(path: Path, sweeps: int, workers: int) -> None:
    """A table for each curve of the pool."""
    for name, frame in pool.load(path).groupby("curve", sort=False):
        one = Pool.of(frame)
        if one is None:
            print(f"\n{name}: too few finished runs.")
            continue
        best = one.best
        print(
            f"\n{name}: {len(one.runs):,} runs, b = {', '.join(map(str, one.sizes))}, {len(one.seeds)} seeds at each;"
        )
        print(f"all together: b\\* {best.b_star:.3g} (95 % {best.low:.3g} to {best.high:.3g}).\n")
        heads = (
            "sweep",
            "decided",
            "overlaps",
            "holds",
            "octaves",
            "regret, median",
            "its 95 %",
            "runs",
            "SFO",
            "moves",
        )
        _row(*heads)
        _row(*["---"] * len(heads))
        rows = Parallel(n_jobs=workers)(delayed(replayed)(one, number) for number in range(sweeps))
        found = pd.DataFrame([row for some in rows for row in some])
        for sweep, part in found.groupby("sweep", sort=False):
            _row(
                *(sweep, _mean(part, "decided"), _mean(part, "overlaps"), _mean(part, "holds")),
                *(_at(part, "octaves", 0.5, ".2f"), _at(part, "regret", 0.5, ".1%"), _at(part, "regret", 0.95, ".1%")),
                *(_at(part, "runs", 0.5, ".0f"), _at(part, "sfo", 0.5, ".1f"), _mean(part, "moves")),
            )


def _mean(found: pd.DataFrame, name: str) -> str:
    known = found[name].dropna() if name in found else pd.Series(dtype=float)
    return f"{known.astype(float).mean():.1%} of {len(known)}" if len(known) else "–"


def _at(found: pd.DataFrame, name: str, level: float, how: str) -> str:
    known = found[name].dropna() if name in found else pd.Series(dtype=float)
    return format(float(known.quantile(level)), how) if len(known) else "–"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__)
    parser.add_argument(
        "sweeps", type=int, nargs="?", default=200, help="tasks of each truth, or replays of each curve"
    )
    parser.add_argument("--truths", nargs="*", default=[], help="only these: hyperbola, power, …")
    parser.add_argument("--pool", type=Path, nargs="?", const=pool.FILE, help="replay real runs, from this file")
    parser.add_argument("--workers", type=int, default=-1, help="processes; -1: one a core")
    given = parser.parse_args()
    if given.pool is not None and not given.pool.exists():
        parser.error(f"{given.pool} isn't there: python -m benchmarks.pool makes it")
    if given.pool is not None:
        show_pool(given.pool, given.sweeps, given.workers)
        return
    print(
        f"{given.sweeps:,} tasks of each truth, b = 1 … 1,024, runs scatter by 15 %. Saved: the equal grid's cost over"
    )
    print(
        "the adaptive sweep's, median and quartiles. Equal grid: the fewest seeds whose set is as narrow, 16 at most.\n"
    )
    heads = (*HEADS, "regret, 95 %", "grid's seeds", "as narrow", "grid holds")
    _row(*heads)
    _row(*["---"] * len(heads))
    for row in [row for row in TRUTHS if not given.truths or row.truth in given.truths]:
        rows = Parallel(n_jobs=given.workers)(delayed(measure)(row, number) for number in range(given.sweeps))
        show(row, pd.DataFrame([one for some in rows for one in some]))


if __name__ == "__main__":
    main()
