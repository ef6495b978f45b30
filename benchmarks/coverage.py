"""How often the 95 % set of b* holds the truth, on simulated sweeps: `make coverage`.

Prints Markdown; docs/analysis.md shows a run of it.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from analysis.curves.curve import Curve
from analysis.fitting.cheapest import AS_GOOD, Cheapest, cheapest
from analysis.fitting.goodness import goodness
from analysis.fitting.hyperbola import fit_hyperbola
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import HYPERBOLA, Array
from analysis.fitting.posterior import posterior, runs_of
from benchmarks.simulated import TOLERANCE, Row, Task, drawn

# Sweeps of a row to which the paper's form is fitted, too.
FORMS = 100

# Chosen to span, not to cross. The first of each truth is the plain one: three seeds that scatter by 15 %.
ROWS = [
    Row("hyperbola", budget=20.0),
    Row("hyperbola", sigma=0.03, seeds=5),
    Row("hyperbola", sigma=0.40, seeds=5, budget=40.0),
    Row("hyperbola", seeds=1, budget=40.0),
    Row("hyperbola", seeds=2, budget=4.0, degrees=3.0),
    Row("hyperbola", growth=0.3, diverging=0.03, budget=20.0),
    Row("hyperbola", coarse=True),
    Row("hyperbola", shift=0.15, budget=40.0),
    Row("two-term"),
    Row("two-term", seeds=1),
    Row("two-term", sigma=0.05, seeds=5, coarse=True),
    Row("two-term", growth=0.3, seeds=2, budget=4.0),
    Row("two-term", degrees=3.0, shift=0.1),
    Row("power", 0.5),
    Row("power", 0.5, sigma=0.40),
    Row("power", 0.5, seeds=1, coarse=True),
    Row("power", 1.3),
    Row("power", 1.3, sigma=0.03, seeds=5),
    Row("power", 1.3, sigma=0.30, seeds=1),
    Row("power", 1.3, degrees=3.0, seeds=2, budget=4.0),
    Row("power", 1.5),
    Row("power", 1.5, sigma=0.05, seeds=5, budget=40.0),
    Row("power", 1.5, coarse=True),
    Row("power", 1.5, sigma=0.10, shift=0.2),
    Row("power", 2.0),
    Row("power", 2.0, seeds=1),
    Row("power", 2.0, sigma=0.40, seeds=5),
    Row("power", 2.0, growth=0.4, budget=40.0),
    Row("power", 3.0),
    Row("power", 3.0, sigma=0.03, seeds=5),
    Row("power", 3.0, sigma=0.30, seeds=1),
    Row("power", 3.0, degrees=3.0, diverging=0.05),
    Row("late", 1.3),
    Row("late", 1.5, sigma=0.05, seeds=5, budget=40.0),
    Row("late", 2.0, seeds=2, budget=4.0),
    Row("late", 3.0, growth=0.3),
    Row("piecewise"),
    Row("piecewise", seeds=1),
    Row("piecewise", sigma=0.05, seeds=5, coarse=True),
    Row("piecewise", degrees=3.0, budget=40.0),
]
# Not smooth on the scale of an octave: N·b falls as b^−½ up to b1 and rises as b^0.4 at once. Shown, and not promised.
KINKED = [Row("kink"), Row("kink", sigma=0.05, seeds=5), Row("kink", sigma=0.30, seeds=1)]
SEEDS = (1, 2, 3, 5)
POWER = [Row("hyperbola"), Row("two-term"), Row("power", 1.5), Row("power", 3.0)]


@dataclass(frozen=True)
class Sweep:
    """What one sweep said.

    facts: by column of the table. promised, happened: (K,) of each swept size to be the cheapest, and whether it is.
    """

    facts: dict[str, float]
    promised: Array
    happened: Array


def one(row: Row, number: int, forms: bool) -> Sweep:
    """Sweep one task and compare with its truth. forms: fit and test the paper's form, too."""
    task = drawn(row, number)
    curve = task.sweep()
    known = posterior(runs_of(curve.frame))
    assert known is not None
    said = cheapest(known)
    facts = _set(task, said) | {"missed": float((curve.frame["outcome"] != "reached").mean())}
    if forms:
        facts |= _hyperbola(task, curve)
    swept = task.log_sfo(known.sizes)
    return Sweep(facts, said.probability, np.arange(len(swept)) == swept.argmin())


def _set(task: Task, said: Cheapest) -> dict[str, float]:
    regret = float(task.regret(np.array(said.b_star)))
    facts = {
        "holds": task.holds(said.low, said.high),
        "open below": said.open_low,
        "open above": said.open_high,
        "octaves": said.octaves,
        "regret": math.expm1(regret),
        "bounded": regret <= math.log1p(said.regret_95) + TOLERANCE,
        "given": said.as_good is not None,
    }
    if said.as_good is not None:
        first, last = said.as_good
        inside = task.regret(np.geomspace(first, last, 200))
        facts["good"] = float(inside.max()) <= math.log1p(AS_GOOD) + TOLERANCE
        facts["good octaves"] = math.log2(last / first)
    return {name: float(value) for name, value in facts.items()}


def _hyperbola(task: Task, curve: Curve) -> dict[str, float]:
    """What the paper's form says within the sweep, and whether it is rejected."""
    first, last = float(task.row.sizes[0]), float(task.row.sizes[-1])
    low, high = fit_hyperbola(curve).b_star_ci
    low, high = (
        float(np.clip(end, first, last)) for end in (first if low is None else low, last if high is None else high)
    )
    p = goodness(Observations.of(curve.frame), HYPERBOLA)
    rejected = math.nan if p.p is None else float(p.rejected)
    return {"form holds": float(task.holds(low, high)), "form octaves": math.log2(high / low), "rejected": rejected}


def measure(row: Row, sweeps: int, forms: int = FORMS, workers: int = -1) -> list[Sweep]:
    """The first sweeps of a row."""
    return list(Parallel(n_jobs=workers)(delayed(one)(row, number, number < forms) for number in range(sweeps)))


def facts(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    return pd.DataFrame([sweep.facts for sweep in sweeps])


def calibration(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """P(cheapest) in ten bins: how many sizes, promised, observed, and the observed share's standard error."""
    promised = np.concatenate([sweep.promised for sweep in sweeps])
    happened = np.concatenate([sweep.happened for sweep in sweeps])
    rows: list[dict[str, Any]] = []
    bins = np.minimum((promised * 10).astype(int), 9)
    for k in range(10):
        p, was = promised[bins == k], happened[bins == k]
        if len(p):
            error = math.sqrt(float((p * (1 - p)).sum())) / len(p)
            rows.append({"bin": k, "count": len(p), "promised": p.mean(), "observed": was.mean(), "error": error})
    return pd.DataFrame(rows)


HEADS = (
    *("truth", "spread", "seeds", "budget", "not arrived", "**holds**", "open below", "open above", "**octaves**"),
    *("regret", "its 95 %", "≤ its bound", "as good", "really", "octaves", "paper's form holds", "octaves", "rejected"),
)


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _share(found: pd.DataFrame, name: str) -> str:
    known = found[name].dropna() if name in found else pd.Series(dtype=float)
    return f"{known.mean():.1%}" if len(known) else "–"


def _median(found: pd.DataFrame, name: str) -> str:
    known = found[name].dropna() if name in found else pd.Series(dtype=float)
    return f"{known.median():.2f}" if len(known) else "–"


def _show(row: Row, found: pd.DataFrame) -> None:
    regret = f"{found['regret'].median():.1%}", f"{found['regret'].quantile(0.95):.1%}"
    _row(
        *(row.title, row.spread, row.seeds, row.stopped, _share(found, "missed"), _share(found, "holds")),
        *(_share(found, "open below"), _share(found, "open above"), _median(found, "octaves"), *regret),
        *(_share(found, "bounded"), _share(found, "given"), _share(found, "good"), _median(found, "good octaves")),
        *(_share(found, "form holds"), _median(found, "form octaves"), _share(found, "rejected")),
    )


def _show_calibration(sweeps: Sequence[Sweep]) -> None:
    _row("P(cheapest) promised", "observed", "standard error", "batch sizes")
    _row(*["---"] * 4)
    for _, found in calibration(sweeps).iterrows():
        _row(
            f"{found['promised']:.3f}", f"{found['observed']:.3f}", f"{found['error']:.3f}", f"{int(found['count']):,}"
        )


def _show_power(sweeps: int, workers: int) -> None:
    """How often the test of fit rejects the paper's form."""
    _row("truth", *(f"{seeds} seed{'s' * (seeds > 1)}" for seeds in SEEDS))
    _row(*["---"] * (1 + len(SEEDS)))
    for row in POWER:
        shares = []
        for seeds in SEEDS:
            numbers = Parallel(n_jobs=workers)(
                delayed(_rejected)(replace(row, seeds=seeds), number) for number in range(sweeps)
            )
            told = [number for number in numbers if number is not None]
            shares.append(f"{np.mean(told):.1%}" if told else "can't be told")
        _row(row.title, *shares)


def _rejected(row: Row, number: int) -> bool | None:
    found = goodness(Observations.of(drawn(row, number).sweep().frame), HYPERBOLA)
    return None if found.p is None else found.rejected


def _table(rows: Sequence[Row], options: argparse.Namespace) -> dict[bool, list[Sweep]]:
    """Measure the rows that were asked for, showing each as soon as it is done.

    The sweeps are returned by whether b* lies inside the swept sizes.
    """
    found: dict[bool, list[Sweep]] = {True: [], False: []}
    _row(*HEADS)
    _row(*["---"] * len(HEADS))
    for row in rows:
        if fnmatch.fnmatch(f"{row.title}, {row.spread}", options.rows):
            sweeps = measure(row, options.sweeps, options.forms, options.workers)
            _show(row, facts(sweeps))
            found[row.inside] += sweeps
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps per row")
    parser.add_argument("--forms", type=int, default=FORMS, help="of which the paper's form is fitted to so many")
    parser.add_argument(
        "--power", type=int, default=200, help="sweeps per cell of the table of the test's power; 0: no table"
    )
    parser.add_argument("--rows", default="*", help='only rows whose "truth, spread" match, as in "power 3*" or "*t3*"')
    parser.add_argument("--workers", type=int, default=-1, help="processes; -1: one a core")
    options = parser.parse_args()
    print(f"{options.sweeps:,} simulated sweeps a row, ten batch sizes 2 … 1,024:\n")
    where = {True: "b\\* inside the sweep", False: "b\\* is the smallest size"}
    for inside, sweeps in _table(ROWS, options).items():
        if sweeps:
            print(f"\nIs the probability of a swept batch size to be the cheapest a probability? {where[inside]}:\n")
            _show_calibration(sweeps)
    print("\nWhere N has a kink, which is not what is taken for likely:\n")
    _table(KINKED, options)
    if options.power:
        print(f"\nHow often the paper's form is rejected (p < 0.01), of {options.power:,} sweeps:\n")
        _show_power(options.power, options.workers)


if __name__ == "__main__":
    main()
